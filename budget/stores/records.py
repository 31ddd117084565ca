"""The records store: an SQLite file into which the ledger of a server is drained.

It is a file like that of the SQLite store: its accounts have entries, and no pools in use. The entries come from a
server's stream, each exactly once, and are chained anew by SHA-256 as they come, under numbers of this file; `origin` is
the number that an entry had on the server. How far a server was read stands in the same transaction as the entries, so
a drain may be killed at any point and two may run at once: whoever finds that the place has moved writes nothing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from budget.errors import ConfigError
from budget.ledger import Entry, make_entry
from budget.stores.base import Cursor
from budget.stores.sqlite import SqliteStore
from budget.stores.sqliteadmin import account_id, transaction

__all__ = ["Records", "put_entries"]

_PUT = "insert into entries values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_CURSOR = """select mark, epoch, since, seq, digest, refusal from drained
    where account = (select id from accounts where name = ?)"""
_NUMBER = """select seq from entries where account = (select id from accounts where name = ?1) and origin <= ?2
    and seq > (select since from drained where account = entries.account) order by seq desc limit 1"""
_BEYOND = """select seq, origin from entries where account = (select id from accounts where name = ?)
    and seq > ? and origin > ? order by seq"""


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
        """Add what was read of a server's ledger, if nobody else did meanwhile; whether it was added."""
        with transaction(self.path) as db:
            id = account_id(db, account)
            row = db.execute("select mark, epoch, since, seq, digest, refusal from drained where account = ?", (id,)).fetchone()
            if (Cursor(*row) if row else None) != was:
                return False
            put_entries(db, id, entries)
            db.executemany("insert or ignore into pools values (?, ?, ?)", [(id, *pair) for pair in names.items()])
            db.execute(
                "insert or replace into drained values (?, ?, ?, ?, ?, ?, ?)",
                (id, now.mark, now.epoch, now.since, now.seq, now.digest, now.refusal),
            )
        return True

    def number_of(self, account: str, seq: int) -> int:
        """Return the number, here, of the entry that the server has as `seq`, or of the last one before it."""
        rows = self.store.rows(_NUMBER, account, seq)
        return rows[0][0] if rows else 0

    def beyond(self, account: str, cursor: Cursor, seq: int) -> list[int]:
        """Return the numbers, here, of the entries that were drained in this epoch and that the server had after `seq`."""
        return [here for here, _ in self.store.rows(_BEYOND, account, cursor.since, seq)]

    def close(self) -> None:
        """Let go of the file."""
        self.store.close()


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
