"""JSON Lines: `jsonl:/var/log/calls.jsonl?rotate=100MB&keep=10`, a line per call, correction, withdrawal and refusal.

The file is only ever appended to, and flushed to the disk before a batch counts as written. On opening it the last
whole line says what it has (`seq`), so that each entry stands in it exactly once whatever was killed when; a line that
was torn is cut off. A file that has grown to `rotate` is renamed to `calls.jsonl.1`, the one before to `.2`, and of
those `keep` are kept. Each account needs a file of its own.
"""

from __future__ import annotations

import errno
import json
import os
import re
from io import FileIO
from pathlib import Path

from budget.errors import ConfigError
from budget.sinks.base import Batch, SinkFailed, Spec
from budget.sinks.rows import lines_of

__all__ = ["JsonLines"]

_SIZE = re.compile(r"(\d{1,9})(KB|MB|GB)?", re.ASCII)
_UNITS = {None: 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TAIL = 1 << 16  # bytes that are read from the end at a time


class JsonLines:
    """A file that is appended to.

    Args:
        path: The file; its folder exists.
        rotate: Bytes after which a new one is begun; 0: never.
        keep: How many older ones are kept.
        name: Of the sink.
    """

    def __init__(self, path: str, rotate: int = 0, keep: int = 10, name: str = "jsonl"):
        if not path:
            raise ConfigError("sinks: jsonl needs a file: 'jsonl:/var/log/calls.jsonl'")
        self.name, self.path, self._rotate, self._keep = name, Path(path), rotate, keep
        self._file: FileIO | None = None

    @classmethod
    def of(cls, spec: Spec) -> JsonLines:
        """Make one from text."""
        rotate, keep = spec.take("rotate", "0"), spec.take("keep", "10")
        match = _SIZE.fullmatch(rotate)
        if match is None:
            raise ConfigError(f"sinks: rotate={rotate[:20]!r} is not a size such as 100MB")
        if not re.fullmatch(r"[1-9]\d{0,3}", keep, re.ASCII):
            raise ConfigError(f"sinks: keep={keep[:20]!r} is not a number of files from 1 to 9999")
        made = cls(spec.target, int(match[1]) * _UNITS[match[2]], int(keep), spec.name())
        spec.done()
        return made

    def resume(self, account: str, kept: int) -> int:
        """Cut off a torn line, and return the number that the last whole one has."""
        try:
            self.close()
            line = _last_line(self._open())
            older = self._older(1)
            if not line and older.exists():
                line = older.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2]
        except OSError as error:
            raise _failed(self.path, error) from error
        return max(kept, _seq(line, account, self.path) if line else 0)

    def write(self, batch: Batch) -> None:
        """Append the lines of a batch, and have them on the disk."""
        lines = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines_of(batch))
        try:
            file = self._open()
            if self._rotate and file.tell() and file.tell() + len(lines) > self._rotate:
                file = self._turn_over()
            if file.write(lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError as error:
            self.close()
            raise _failed(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _open(self) -> FileIO:
        if self._file is None:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            self._file = FileIO(fd, "r+")
            self._file.seek(0, os.SEEK_END)
        return self._file

    def _turn_over(self) -> FileIO:
        self.close()
        for number in range(self._keep, 1, -1):
            if (before := self._older(number - 1)).exists():
                before.replace(self._older(number))
        self.path.replace(self._older(1))
        return self._open()

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def _failed(path: Path, error: OSError) -> SinkFailed:
    return SinkFailed(f"{path} cannot be written: {error.strerror or type(error).__name__}")


def _last_line(file: FileIO) -> bytes:
    """Return the last whole line, empty if there is none, and cut off what follows it."""
    start, tail = file.seek(0, os.SEEK_END), b""
    while start and tail.count(b"\n") < 2:
        step = min(start, _TAIL)
        file.seek(start := start - step)
        tail = (file.read(step) or b"") + tail
    whole = tail.rfind(b"\n") + 1
    if whole < len(tail):
        file.truncate(start + whole)
    file.seek(0, os.SEEK_END)
    return tail[: max(0, whole - 1)].rpartition(b"\n")[2]


def _seq(line: bytes, account: str, path: Path) -> int:
    try:
        read = json.loads(line)
        seq, whose = int(read["seq"]), read["account"]
    except (ValueError, TypeError, KeyError):
        raise SinkFailed(f"{path}: its last line is none of this package's", permanent=True) from None
    if whose != account:
        raise SinkFailed(f"{path} has lines of another account: give each a file of its own", permanent=True)
    return seq
