"""The records store: an SQLite file into which the ledger of a server is drained.

It is a file like that of the SQLite store: its accounts have entries, and no pools in use. The entries come from a
server's stream, each exactly once, and are chained anew by SHA-256 as they come, under numbers of this file; `origin`
is the number that an entry had on the server. How far a server was read stands in the same transaction as the entries,
so a drain may be killed at any point and two may run at once: whoever finds that the place has moved writes nothing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from budget.errors import ConfigError, StoreUnavailable
from budget.ledger import Entry, Posting, make_entry
from budget.stores.base import Cursor
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteadmin import account_id, transaction

__all__ = ["Records", "put_entries"]

_PUT = "insert into entries values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PLACE = "select mark, epoch, since, seq, digest, refusal from drained where account = ?"
_CURSOR = """select mark, epoch, since, seq, digest, refusal from drained
    where account = (select id from accounts where name = ?)"""
# The server numbers anew what comes after the place to which it was thrown back: the last entry of a number counts.
_NUMBER = """select max(seq) from entries
    where account = (select id from accounts where name = ?) and origin = ?"""
_ANY = "select 1 from entries where account = ? limit 1"
_BEYOND = """select max(seq) as here from entries where account = (select id from accounts where name = ?)
    and origin > ? and origin <= ? group by origin order by here"""


class Records:
    """The records store of an engine. Nothing is opened before it is used.

    Args:
        url: "sqlite:///relative.db" or "sqlite:////absolute.db".

    Raises:
        ConfigError: It is no SQLite file.
    """

    def __init__(self, url: str):
        if not url.startswith("sqlite:///") or url == "sqlite:///":
            raise ConfigError("records: not the URL of an SQLite file; use 'sqlite:////var/lib/budget-records.db'")
        self.store = SqliteStore(url.removeprefix("sqlite:///"))

    @property
    def path(self) -> Path:
        """The file."""
        return self.store.path

    def cursor(self, account: str) -> Cursor | None:
        """Read how far the account's ledger was drained; None if it never was."""
        if not self.path.exists():
            return None
        rows = self.store.rows(_CURSOR, account)
        return Cursor(*rows[0]) if rows else None

    def write(
        self, account: str, was: Cursor | None, now: Cursor, entries: Sequence[Entry], names: Mapping[str, str]
    ) -> bool:
        """Add what was read of a server's ledger, if nobody else did meanwhile; whether it was added.

        Raises:
            ConfigError: The file has entries of the account that were not drained: those of a store that is in use.
        """
        with transaction(self.path) as db:
            id = account_id(db, account)
            row = db.execute(_PLACE, (id,)).fetchone()
            if (Cursor(*row) if row else None) != was:
                return False
            if row is None and db.execute(_ANY, (id,)).fetchone():
                raise ConfigError(f"records: {self.path} has a ledger of its own for {account!r}; name another file")
            put_entries(db, id, entries)
            db.executemany("insert or ignore into pools values (?, ?, ?)", [(id, *pair) for pair in names.items()])
            _put_cursor(db, id, now)
        return True

    def number_of(self, account: str, seq: int) -> int:
        """Return the number, here, of the server's entry `seq`; or of the last before the server's first."""
        found: int | None = self.store.rows(_NUMBER, account, seq)[0][0]
        if found is None:
            cursor = self.cursor(account)
            return cursor.since if cursor is not None else 0
        return found

    def entry_of(self, account: str, seq: int) -> Entry | None:
        """Return the entry that the server had as `seq`."""
        here = self.store.rows(_NUMBER, account, seq)[0][0]
        return None if here is None else self.store.entries(account, here - 1)[0]

    def go_back(
        self, account: str, was: Cursor, place: Cursor, amounts: Sequence[int], postings: Sequence[Posting],
        detail: Mapping[str, Any],
    ) -> None:  # fmt: skip
        """Read on from a place that the server had before: what was read beyond it is lost there.

        Raises:
            StoreUnavailable: Somebody else reads this account at the same time.
        """
        with transaction(self.path) as db:
            id = account_id(db, account)
            row = db.execute(_PLACE, (id,)).fetchone()
            if Cursor(*row) != was:
                raise StoreUnavailable("somebody else restores this account at the same time; try again")
            if detail["entries"]:
                put_entries(db, id, [_own_entry("lost", amounts, postings, detail)])
            last = db.execute("select seq from accounts where id = ?", (id,)).fetchone()[0]
            _put_cursor(db, id, replace(place, since=last))

    def begin(self, account: str, place: Cursor) -> None:
        """Read a server's ledger from its beginning, after what this store has."""
        with transaction(self.path) as db:
            _put_cursor(db, account_id(db, account), place)

    def beyond(self, account: str, cursor: Cursor, seq: int) -> list[int]:
        """Return the numbers, here, of what was drained up to a place and that the server had after `seq`."""
        return [here for (here,) in self.store.rows(_BEYOND, account, seq, cursor.seq)]

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()


def _put_cursor(db: sqlite3.Connection, account: int, place: Cursor) -> None:
    row = (account, place.mark, place.epoch, place.since, place.seq, place.digest, place.refusal)
    db.execute("insert or replace into drained values (?, ?, ?, ?, ?, ?, ?)", row)


def _own_entry(kind: str, amounts: Sequence[int], postings: Sequence[Posting], detail: Mapping[str, Any]) -> Entry:
    """An entry of this store's own, to be chained."""
    at, exact = time.time_ns() // 1000, tuple(amounts)
    return Entry(0, at, kind, None, exact, {}, detail, tuple(postings), ("", "", ""), b"")  # type: ignore[arg-type]


def put_entries(db: sqlite3.Connection, account: int, entries: Iterable[Entry]) -> None:
    """Chain entries to those that an account has, whatever their numbers were."""
    seq, head, clock = db.execute("select seq, head, clock from accounts where id = ?", (account,)).fetchone()
    rows = []
    for entry in entries:
        made = make_entry(
            head, seq + 1, entry.at_us, entry.kind, entry.reservation, entry.amounts, entry.scope, entry.detail,
            entry.postings,
        )  # fmt: skip
        seq, head, clock = made.seq, made.digest, max(clock, made.at_us)
        rows.append((account, seq, made.at_us, made.kind, made.reservation, *made.amounts, *made.texts, head, None,
                     entry.seq if entry.digest else None))  # fmt: skip
    db.executemany(_PUT, rows)
    db.execute("update accounts set seq = ?, head = ?, clock = ? where id = ?", (seq, head, clock, account))
