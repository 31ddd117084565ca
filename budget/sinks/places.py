"""How far each sink has come in the ledger: an SQLite file beside the store, written once per batch and durably.

A place moves only from where it was known to be, so that a reset by hand is never undone by somebody who was just
writing. Each step opens the file for itself: there is about one a second, and nothing has to be mended after a fork.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from budget.errors import StoreUnavailable
from budget.window import at_zone

if TYPE_CHECKING:
    from budget.books.books import Books

__all__ = ["Place", "Places", "beside"]

_SCHEMA = """create table if not exists places (
    sink text not null,
    account text not null,
    seq integer not null default 0,            -- of the last entry that the sink was told of
    resets integer not null default 0,
    forced integer not null default 0,         -- set by hand, and nothing was delivered since
    missed integer not null default 0,         -- entries that were pruned before it was told of them
    at integer,                                -- when the last batch was taken, microseconds
    error text,                                -- of the outage that lasts
    primary key (sink, account)
) strict"""
_GET = "select seq, resets, forced, missed, at, error from places where sink = ? and account = ?"
_MOVE = """update places set seq = ?, missed = missed + ?, at = ?, forced = 0
    where sink = ? and account = ? and seq = ? and resets = ?"""
_RESET = """insert into places (sink, account, seq, resets, forced) values (?, ?, ?, 1, 1)
    on conflict do update set seq = excluded.seq, resets = resets + 1, forced = 1, error = null"""
_ERROR = """insert into places (sink, account, error) values (?, ?, ?)
    on conflict do update set error = excluded.error"""
_PATIENCE = 30.0  # seconds that a step waits for another process's


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sink is in an account's ledger.

    Attributes:
        seq: The last entry that it was told of.
        resets: How often it was set by hand.
        forced: It was set by hand, and nothing was delivered since: what the sink itself has does not count.
        missed: Entries that were pruned before it was told of them.
        at_us: When the last batch was taken, microseconds since the epoch, or None.
        error: What keeps it from going on, or None.
    """

    seq: int = 0
    resets: int = 0
    forced: bool = False
    missed: int = 0
    at_us: int | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        at = None if self.at_us is None else at_zone(self.at_us).isoformat()
        return {"place": self.seq, "missed": self.missed, "delivered_at": at, "error": self.error}


class Places:
    """The places of all sinks of a store.

    Args:
        path: The file; None keeps them in memory.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._lock = Lock()
        self._memory = None if path is not None else _connect(":memory:")

    def get(self, sink: str, account: str) -> Place:
        """Return a sink's place, the beginning if it has none yet.

        Raises:
            StoreUnavailable: The file cannot be read; so of all others here.
        """
        if self.path is not None and not self.path.exists():
            return Place()
        with self._open(write=False) as db:
            row = db.execute(_GET, (sink, account)).fetchone()
        return Place(row[0], row[1], bool(row[2]), *row[3:]) if row else Place()

    def move(self, sink: str, account: str, was: Place, seq: int, missed: int = 0) -> bool:
        """Move a place on, unless somebody else has moved it meanwhile; whether it was moved."""
        with self._open() as db:
            db.execute("insert or ignore into places (sink, account) values (?, ?)", (sink, account))
            values = (seq, missed, time.time_ns() // 1000, sink, account, was.seq, was.resets)
            return bool(db.execute(_MOVE, values).rowcount)

    def reset(self, sink: str, account: str, seq: int) -> Place:
        """Set a place by hand; return where it was."""
        was = self.get(sink, account)
        with self._open() as db:
            db.execute(_RESET, (sink, account, seq))
        return was

    def trouble(self, sink: str, account: str, error: str | None) -> None:
        """Keep what holds a sink up; None: nothing does."""
        with self._open() as db:
            db.execute(_ERROR, (sink, account, error))

    def known(self, account: str) -> dict[str, Place]:
        """Return the places of all sinks that ever were, by name."""
        if self.path is not None and not self.path.exists():
            return {}
        with self._open(write=False) as db:
            names = [name for (name,) in db.execute("select sink from places where account = ?", (account,))]
        return {name: self.get(name, account) for name in names}

    @contextmanager
    def _open(self, write: bool = True) -> Iterator[sqlite3.Connection]:
        try:
            if self._memory is not None:
                with self._lock:
                    yield self._memory
                return
            assert self.path is not None
            if not self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            with closing(_connect(self.path)) as db:
                db.execute("begin immediate" if write else "begin")
                yield db
                db.execute("commit")
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"the places of the sinks cannot be read or written: {error}") from error


def beside(books: Books, suffix: str) -> Path | None:
    """Return a file beside the store, or beside the file that a server is drained into; None for a store in memory."""
    path = books.records.path if books.records is not None else getattr(books.store, "path", None)
    return None if path is None else path.with_name(path.name + suffix)


def _connect(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    db.execute("pragma synchronous = full")
    db.execute(_SCHEMA)
    return db
