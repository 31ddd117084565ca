"""The outbox: what must reach the store and could not yet, in a file of this process that is on the disk (fsync).

An end of a reservation, or a record, that the store cannot take is written down here and its caller goes on. It is
carried out later with the same id, by which the store knows it: once, however often it is sent.

One append-only file per process, of JSON lines, in a folder per store and account. A process keeps its file locked
(`flock`) for as long as it lives; a file that nobody locks belonged to a process that is gone, and whoever finds it
carries it out. A line is whole or it is none: what a crash left torn was promised to nobody. A file is removed when all
of it is carried out.

`leave` takes no lock, because finalizers call it, and writes nothing; `flush` writes what all threads have left, with
one fsync. Where the file cannot be written (a full disk, no home), what waits is kept in memory, and is written as soon
as it can be.
"""

from __future__ import annotations

import json
import logging
import os
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from hashlib import blake2b
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from budget.commands import Draw, Reconcile, Record, Refund, Reservation, Share
from budget.ledger import dumps

__all__ = ["MOST", "Item", "Kept", "Orphan", "Outbox", "decode", "encode", "folder_of", "waiting"]

MOST = 20_000
"""Commands that may wait before nothing new is admitted: some 30 MB."""
Kept = Reconcile | Refund | Record
_SUFFIX = ".jsonl"
_KINDS: dict[str, type[Kept]] = {"reconcile": Reconcile, "refund": Refund, "record": Record}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_log = logging.getLogger("budget")


class Item(NamedTuple):
    """A command that waits, and since when (microseconds since the epoch)."""

    at: int
    command: Kept


class Orphan(NamedTuple):
    """What a process left that is gone: its file, the commands in it, and how many lines of it cannot be read."""

    path: Path
    items: Sequence[Item]
    unread: int

    def remove(self) -> None:
        """Remove the file: all that can be read of it was carried out. What cannot be is kept for a person."""
        if self.unread:
            kept = self.path.with_suffix(".unread")
            _log.error("%d lines of an outbox are of another version, or damaged; they are kept in %s",
                       self.unread, kept)  # fmt: skip
            self.path.rename(kept)
        else:
            self.path.unlink()


def encode(item: Item) -> str:
    """Write a command as one line of JSON."""
    command = item.command
    found = {each.name: getattr(command, each.name) for each in fields(command)}
    if (known := found.get("known")) is not None:
        found["known"] = {**known._asdict(), "shares": [*known.shares]}
    return dumps({"at": item.at, "command": _NAMES[type(command)], **found}) + "\n"


def decode(line: str | bytes) -> Item:
    """Read what `encode` wrote.

    Raises:
        ValueError, TypeError, KeyError: It is torn, or of another version.
    """
    found = json.loads(line)
    at, kind = found.pop("at"), _KINDS[found.pop("command")]
    for name in ("actual", "frees"):
        if found.get(name) is not None:
            found[name] = tuple(found[name])
    if found.get("draws") is not None:
        found["draws"] = [Draw(*draw) for draw in found["draws"]]
    if found.get("known") is not None:
        found["known"] = _reservation(found["known"])
    return Item(at, kind(**found))


def _reservation(found: Mapping[str, Any]) -> Reservation:
    charged = found["charged"]
    parts = {
        "amounts": tuple(found["amounts"]),
        "charged": None if charged is None else tuple(charged),
        "shares": tuple(Share(*share) for share in found["shares"]),
    }
    return Reservation(**{**found, **parts})


def folder_of(url: str, account: str) -> Path:
    """Return where the outboxes of a store and account are: below `$XDG_STATE_HOME/budget/outbox`.

    Args:
        url: The store's, without user and password.
    """
    try:
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError:
        base = os.devnull  # no home: nothing can be written below it, so what waits stays in memory
    name = blake2b(f"{url}\n{account}".encode(), digest_size=12).hexdigest()
    return Path(base) / "budget" / "outbox" / name


def waiting(folder: Path) -> tuple[int, int]:
    """Return how many commands wait in the files of a folder, and since when (microseconds since the epoch)."""
    found = [item.at for path in _files(folder) for item in _read(path).items]
    return len(found), min(found, default=0)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_SUFFIX}"))


def _read(path: Path) -> Orphan:
    found, unread = [], 0
    try:
        *lines, _ = path.read_bytes().split(b"\n")  # the last one is empty, or torn
    except OSError:  # carried out meanwhile
        lines = []
    for line in lines:
        try:
            found.append(decode(line))
        except (ValueError, TypeError, KeyError, AttributeError):
            unread += 1
    return Orphan(path, found, unread)


class Outbox:
    """What one process has left for a store, and what processes that are gone have left.

    Args:
        folder: See `folder_of`. It is made when something is left.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._reset()
        _OUTBOXES.add(self)

    def _reset(self) -> None:
        self._lock = RLock()  # a finalizer may leave something in the middle of the last flush
        self._items: deque[Item] = deque()  # all that wait, oldest first
        self._fresh: deque[Item] = deque()  # those of them that are in no file yet
        self._path: Path | None = None
        self._fd = -1
        self._told = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether so much waits that nothing new may be begun."""
        return len(self._items) >= MOST

    def leave(self, item: Item) -> None:
        """Leave a command. A finalizer may call this anywhere: it waits for no lock, and writes nothing yet."""
        self._items.append(item)
        self._fresh.append(item)
        if _ended:
            self.flush()

    def flush(self) -> None:
        """Have what was left by anybody on the disk. Where that fails it stays in memory, and is said."""
        with self._lock:
            group: list[Item] = []
            while self._fresh:
                group.append(self._fresh.popleft())
            try:
                if group:
                    self._write(group)
            except OSError as error:
                self._fresh.extendleft(reversed(group))
                self._say(error)
            self._tidy()

    def first(self) -> Item | None:
        """Return what has waited longest."""
        try:
            return self._items[0]
        except IndexError:
            return None

    def done(self, item: Item) -> None:
        """Forget what has waited longest: it was carried out."""
        if self._items and self._items[0] is item:  # else it was closed meanwhile, and the file is whoever's comes next
            self._items.popleft()
        if not self._items:
            with self._lock:
                self._tidy()

    def items(self) -> Sequence[Item]:
        """Return all that wait, oldest first."""
        return list(self._items.copy())

    def orphaned(self) -> bool:
        """Whether there are files that are not this process's own."""
        return any(path != self._path for path in _files(self.folder))

    def orphans(self) -> Iterator[Orphan]:
        """Take over, one by one, the files of processes that are gone. Each is locked until the next is asked for."""
        for path in _files(self.folder):
            if path != self._path:
                with _locked(path) as taken:
                    if taken:
                        yield _read(path)

    def close(self) -> None:
        """Let go of the file: what is in it is for whoever comes next. What could be written nowhere stays here."""
        self.flush()
        with self._lock:
            if not self._fresh:
                self._items.clear()
            self._let_go()

    def _write(self, group: Sequence[Item]) -> None:
        if self._fd < 0:
            self._path, self._fd = _create(self.folder)
        data = "".join(map(encode, group)).encode()
        size = os.fstat(self._fd).st_size
        try:
            if os.write(self._fd, data) < len(data):
                raise OSError("the disk is full")
            os.fsync(self._fd)
        except OSError:
            # Half a line would spoil the next; and after a failed fsync nobody knows what the disk has.
            os.ftruncate(self._fd, size)
            raise
        self._told = False

    def _tidy(self) -> None:
        """Remove the file once nothing waits."""
        if self._path is not None and not self._items:
            with suppress(OSError):
                self._path.unlink()
            self._let_go()

    def _let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._path, self._fd = None, -1

    def _say(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            why = error.strerror or str(error)
            _log.error("what waits for the store is in memory only, and is lost with this process: %s (%s)",
                       self.folder, why)  # fmt: skip

    def _forked(self) -> None:
        """Start anew in a forked child: file and commands are the parent's. Its lock is not let go by this."""
        self._let_go()
        self._reset()


def _create(folder: Path) -> tuple[Path, int]:
    """Make a file of our own, and lock it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        path = folder / f"{os.getpid()}-{os.urandom(6).hex()}{_SUFFIX}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        if _lock(fd):  # else somebody took it for an orphan between these two steps
            break
        os.close(fd)
    if os.name != "nt":
        above = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(above)  # the name of the file, too
        finally:
            os.close(above)
    return path, fd


def _lock(fd: int) -> bool:
    """Lock an open file, unless somebody else has, or has removed it."""
    try:
        import fcntl
    except ImportError:  # Windows: a file that is open there cannot be removed, and what is sent twice counts once
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(fd).st_nlink > 0


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Keep a file locked, if its owner is gone."""
    try:
        fd = os.open(path, os.O_RDWR)
    except OSError:
        yield False
        return
    try:
        yield _lock(fd)
    finally:
        os.close(fd)


_ended = False  # the interpreter is ending: what a store still could not carry out is written when it is left
_OUTBOXES: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _forked() -> None:
    for outbox in list(_OUTBOXES):
        outbox._forked()


def _exit() -> None:
    global _ended
    _ended = True
    for outbox in list(_OUTBOXES):
        outbox.close()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forked)
weakref.finalize(Outbox, _exit)
