"""What was pulled from the providers: an SQLite file beside the store, `<store>-bill`, apart from the ledger.

A report is kept by day (UTC): a day that is pulled again takes the place of what was there, whatever the width of its
buckets, so that nothing is ever counted twice. Which days were pulled, and when, stands in a table of its own: a day
without a line is a day without usage, and a day that is not there is not known.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from budget.bill.lines import Charged, Used
from budget.bill.reports import COSTS
from budget.errors import StoreUnavailable

__all__ = ["BillFile"]

_VERSION = 1
_SCHEMA = """
create table days (
    provider text not null,
    report text not null,
    day integer not null,                               -- days since the epoch (UTC)
    pulled integer not null,                            -- when, microseconds since the epoch
    primary key (provider, report, day)
) strict, without rowid;

create table used (
    provider text not null, report text not null, day integer not null,
    start integer not null, "end" integer not null,     -- of the bucket, microseconds since the epoch
    model text, key text, project text, tier text, geo text,
    input integer not null,                             -- neither read from nor written to a cache
    cache_read integer not null,
    cache_write text not null,                          -- JSON: by time to live
    output integer not null,
    units text not null,                                -- JSON
    requests integer                                    -- null: the report does not say
) strict;

create index used_day on used (provider, report, day);

create table charged (
    provider text not null, report text not null, day integer not null,
    start integer not null, "end" integer not null,
    model text, key text, project text, tier text, geo text,
    item text not null,
    usd integer not null,                               -- nano-dollars
    long integer not null,                              -- whether for a long context
    off integer not null                                -- how far that may be off by rounding
) strict;

create index charged_day on charged (provider, report, day)
"""
_DROP = {
    True: "delete from charged where provider = ? and report = ? and day = ?",
    False: "delete from used where provider = ? and report = ? and day = ?",
}
_PUT = {
    True: "insert into charged values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    False: "insert into used values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
}


class BillFile:
    """The bill of an organization, as far as it was pulled.

    Args:
        path: The file; None keeps it in memory.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._db: sqlite3.Connection | None = None

    @property
    def db(self) -> sqlite3.Connection:
        """The connection.

        Raises:
            StoreUnavailable: The file cannot be opened.
        """
        if self._db is None:
            self._db = _connect(self.path)
        return self._db

    def replace(
        self, provider: str, report: str, days: Collection[int], lines: Iterable[Used | Charged], pulled_us: int
    ) -> int:
        """Put lines in the place of what these days have; return how many they are.

        Args:
            provider, report: Whose they are.
            days: The days (since the epoch, UTC) that they cover, those without a line too.
            lines: Of those days.
            pulled_us: When the provider said so.
        """
        rows = [_row(line, report) for line in lines]
        with self._transaction() as db:
            keys = [(provider, report, day) for day in days]
            db.executemany(_DROP[report == COSTS], keys)
            db.executemany("insert or replace into days values (?, ?, ?, ?)", [(*key, pulled_us) for key in keys])
            db.executemany(_PUT[report == COSTS], rows)
        return len(rows)

    def days(self, provider: str, report: str) -> dict[int, int]:
        """Return the days that were pulled, and when."""
        query = "select day, pulled from days where provider = ? and report = ?"
        return dict(self.db.execute(query, (provider, report)))

    def used(self, provider: str, first: int, last: int) -> Iterator[Used]:
        """Iterate what was used in the days from `first` to `last`, both included."""
        query = """select provider, start, "end", model, key, project, tier, geo, report, input, cache_read,
            cache_write, output, units, requests from used where provider = ? and day between ? and ? order by start"""
        for row in self.db.execute(query, (provider, first, last)):
            values = [json.loads(value) if place in (11, 13) else value for place, value in enumerate(row)]
            yield Used(*values)

    def charged(self, provider: str, first: int, last: int) -> Iterator[Charged]:
        """Iterate what was charged in the days from `first` to `last`, both included."""
        query = """select provider, start, "end", model, key, project, tier, geo, item, usd, long, off
            from charged where provider = ? and day between ? and ? order by start"""
        for row in self.db.execute(query, (provider, first, last)):
            yield Charged(*row)

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self.db
        try:
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                db.execute("rollback")
                raise
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the file of the bill cannot be written: {error}") from error


def _row(line: Used | Charged, report: str) -> tuple[object, ...]:
    common = (
        line.provider, report, line.day, line.start_us, line.end_us, line.model, line.key, line.project, line.tier,
        line.geo,
    )  # fmt: skip
    if isinstance(line, Charged):
        return (*common, line.item, line.nanos, line.long, line.off)
    write, units = json.dumps(dict(line.cache_write)), json.dumps(dict(line.units))
    return (*common, line.input, line.cache_read, write, line.output, units, line.requests)


def _connect(path: Path | None) -> sqlite3.Connection:
    try:
        if path is not None and not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path or ":memory:", timeout=30.0, isolation_level=None, check_same_thread=False)
        db.execute("pragma journal_mode = wal")
        db.execute("pragma trusted_schema = off")
        db.execute("begin immediate")
        if db.execute("pragma user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";\n"):
                db.execute(statement)
            db.execute(f"pragma user_version = {_VERSION}")
        db.execute("commit")
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the file of the bill {path} cannot be opened: {error}") from error
    return db
