"""What is read of an SQLite store, on a connection of its own: what was committed, as it was at one instant."""

from __future__ import annotations

import json
import sqlite3
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from budget.audit import Checkpoint, Line, read_checkpoint
from budget.commands import Bucket, Reservation
from budget.ledger import Entry
from budget.stores.base import PAGE, Snapshot
from budget.stores.sqlitelines import CHECKPOINT, LINES
from budget.stores.sqlitestate import read_entry, read_reservation

__all__ = ["SqliteReads"]

_ENTRIES = """select seq, at, kind, reservation, usd, tokens, input_tokens, output_tokens, requests, scope, detail,
    postings, digest, sealed from entries
    where account = (select id from accounts where name = ?) and seq > ? and at >= ? order by seq limit ?"""
_OPEN_ONES = """select body, state, made, id from reservations
    where account = (select id from accounts where name = ?) and (state = 'open') = 1 order by made"""
_ENDED_ONES = """select body, state, made, id from reservations
    where account = (select id from accounts where name = ?) and (state = 'open') = 0"""
_NAMES = "select pool, name from pools where account = (select id from accounts where name = ?)"


class SqliteReads:
    """The questions of `stores.base.Store` that no writer is needed for."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[sqlite3.Connection]:
        """Have a connection that reads to oneself."""

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Read a page of the ledger."""
        return [read_entry(row) for row in self._read(_ENTRIES, account, after, since_us, PAGE)]

    def lines(self, account: str, after: int) -> Iterator[Line]:
        """Iterate the entries as an audit needs them."""
        while page := self._read(LINES, account, after, PAGE):
            yield from map(Line._make, page)
            after = page[-1][0]

    def checkpoint(self, account: str) -> Checkpoint | None:
        """Read the last checkpoint."""
        rows = self._read(CHECKPOINT, account)
        return read_checkpoint(rows[0][0], json.loads(rows[0][1])) if rows else None

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Read the open reservations, oldest first."""
        return [read_reservation(*row) for row in self._read(_OPEN_ONES, account)]

    def ended(self, account: str) -> Sequence[Reservation]:
        """Read the ended reservations that are still known."""
        return [read_reservation(*row) for row in self._read(_ENDED_ONES, account)]

    def names(self, account: str) -> Mapping[str, str]:
        """Read what the ids of the pools stand for."""
        return dict(self._read(_NAMES, account))

    def last(self, account: str) -> int:
        """Read the number of the last entry."""
        rows = self._read("select seq from accounts where name = ?", account)
        return rows[0][0] if rows else 0

    def snapshot(self, account: str) -> Snapshot:
        """Read all counters at one instant."""
        with self._reading() as db:
            db.execute("begin")
            try:
                row = db.execute("select id, seq, head from accounts where name = ?", (account,)).fetchone()
                id, seq, head = row or (None, 0, bytes(32))
                newest = db.execute("select max(seq) from entries where account = ?", (id,)).fetchone()[0]
                query = 'select pool, start, "end", since, spent, reserved, carry, span from buckets where account = ?'
                buckets = {(pool, rest[0]): Bucket(*rest) for pool, *rest in db.execute(query, (id,))}
                names = dict(db.execute("select pool, name from pools where account = ?", (id,)))
            finally:
                db.execute("commit")
        # An entry above the account's last was put in by somebody else: an audit must come to it.
        return Snapshot(buckets, names, max(seq, newest or 0), head)

    def rows(self, query: str, *values: Any) -> list[Any]:
        """Read rows, as the records store asks for them."""
        return self._read(query, *values)

    def _read(self, query: str, *values: Any) -> list[Any]:
        with self._reading() as db:
            return db.execute(query, values).fetchall()
