"""Parquet: `parquet:/var/lib/calls?rows=10000&seconds=300`, files in a folder per day that are queried as one table.

    date=2026-01-31/ACCOUNT-000000000001-000000010000.parquet

A file is closed when it has `rows` rows, or when its first has waited for `seconds`. It is written under another name,
brought to the disk and renamed, so that whoever reads sees whole files only. Its name says which entries of the ledger
it has, and so the names say how far the ledger was written: nothing is written twice. Rows can be added up (`rows.py`);
refusals are rows with a `limit`, that count for no call and no money.

    select user_id, sum(calls), sum(usd) from read_parquet('/var/lib/calls/*/*.parquet') group by all
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from budget.errors import ConfigError
from budget.sinks.base import Batch, SinkFailed, Spec, need
from budget.sinks.rows import COLUMNS, table_rows
from budget.window import at_zone

__all__ = ["Parquet"]

_FILE = re.compile(r"(?P<account>[A-Za-z0-9_-]+)-\d{12}-(?P<last>\d{12})\.parquet", re.ASCII)
_COUNT = re.compile(r"[1-9]\d{0,6}", re.ASCII)


class Parquet:
    """A folder of files.

    Args:
        folder: The folder; made if it is missing.
        rows: How many rows a file has at most.
        seconds: How long a row waits at most until its file is closed.
        name: Of the sink.
    """

    def __init__(self, folder: str, rows: int = 10_000, seconds: float = 300.0, name: str = "parquet"):
        need("duckdb", "analytics")
        if not folder:
            raise ConfigError("sinks: parquet needs a folder: 'parquet:/var/lib/calls'")
        self.name, self.size, self.age, self._folder = name, rows, seconds, Path(folder)

    @classmethod
    def of(cls, spec: Spec) -> Parquet:
        """Make one from text."""
        rows, seconds = spec.take("rows", "10000"), spec.take("seconds", "300")
        for option, value in (("rows", rows), ("seconds", seconds)):
            if not _COUNT.fullmatch(value):
                raise ConfigError(f"sinks: {option}={value[:20]!r} is not a number from 1 to 9999999")
        made = cls(spec.target, int(rows), float(seconds), spec.name())
        spec.done()
        return made

    def resume(self, account: str, kept: int) -> int:
        """Return the last entry that the names of the files tell of."""
        matches = (_FILE.fullmatch(path.name) for path in self._folder.glob("date=*/*.parquet"))
        return max((int(match["last"]) for match in matches if match and match["account"] == account), default=kept)

    def write(self, batch: Batch) -> None:
        """Write the files of a batch, one per day; the time of a ledger never goes back."""
        try:
            for day, part in _by_day(batch):
                self._put(day, part)
        except OSError as error:
            raise SinkFailed(f"{self._folder} cannot be written: {error.strerror or type(error).__name__}") from error

    def close(self) -> None:
        """Nothing stays open."""

    def _put(self, day: str, part: Batch) -> None:
        import duckdb

        folder = self._folder / f"date={day}"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # what is ours is nobody else's to read
        folder.mkdir(exist_ok=True)
        path = folder / f"{part.account}-{part.first:012}-{part.last:012}.parquet"
        lines, made = path.with_suffix(".ndjson.tmp"), path.with_suffix(".parquet.tmp")
        with lines.open("w", encoding="ascii") as file:
            file.writelines(json.dumps(row) + "\n" for row in table_rows(part))
        types = ", ".join(f"\"{name}\": '{kind}'" for name, kind in COLUMNS.items())
        query = f"""copy (select * replace (make_timestamp("time") as "time")
            from read_json({_quoted(lines)}, format = 'newline_delimited', columns = {{{types}}}))
            to {_quoted(made)} (format parquet, compression zstd)"""  # noqa: S608 - of this module's own names
        try:
            with duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": "false"}) as db:
                db.execute(query)
        except duckdb.Error as error:
            raise SinkFailed(f"{folder} cannot be written: {type(error).__name__}") from error
        finally:
            lines.unlink(missing_ok=True)
        _sync(made)
        made.replace(path)
        _sync(folder)


def _by_day(batch: Batch) -> Iterator[tuple[str, Batch]]:
    """Cut a batch at the midnights (UTC) in it."""
    parts = groupby(batch.changes, lambda pair: at_zone(pair[0].at_us).date().isoformat())
    days = [(str(day), tuple(part)) for day, part in parts]
    first = batch.first
    for number, (day, changes) in enumerate(days, 1):
        last = batch.last if number == len(days) else changes[-1][0].seq
        yield day, Batch(batch.account, first, last, changes)
        first = last + 1


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
