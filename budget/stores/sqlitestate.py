"""One account of the SQLite store, as the verbs see it inside a transaction.

Rows are read when first asked for and written once, when the transaction ends: a group of operations on one pool costs
one row. Nothing here decides anything; `pool.apply` does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from budget.commands import Account, Bucket, Reservation, Share
from budget.ledger import Entry, Posting, dumps
from budget.pool import keep_until
from budget.window import FOREVER

__all__ = ["SqliteState", "read_entry", "read_reservation"]

_NEWEST = """select start, "end", since, spent, reserved, carry from buckets
    where account = ? and pool = ? order by start desc limit 1"""
_BUCKET = """select start, "end", since, spent, reserved, carry from buckets
    where account = ? and pool = ? and start = ?"""
_PUT_BUCKET = """insert into buckets values (?, ?, ?, ?, ?, ?, ?, ?)
    on conflict do update set spent = excluded.spent, reserved = excluded.reserved"""
_PUT_RESERVATION = """insert into reservations values (?, ?, ?, ?, ?, ?)
    on conflict do update set state = excluded.state, due = excluded.due, body = excluded.body"""
_OPEN = "select id, due from reservations where account = ? and (state = 'open') = 1 order by due limit ?"
_FORGET = """delete from reservations where account = ?1 and id in (
    select id from reservations where account = ?1 and (state = 'open') = 0 and due <= ?2 order by due limit ?3)"""
_PUT_ENTRY = "insert into entries values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_ACCOUNT = "update accounts set version = ?, seq = ?, head = ?, clock = ? where id = ?"


class SqliteState:
    """Reads through to the tables, keeps what is put, and writes it all in `flush`."""

    def __init__(self, connection: sqlite3.Connection, name: str):
        self._db = connection
        row = connection.execute(
            "select id, version, seq, head, clock from accounts where name = ?", (name,)
        ).fetchone()
        if row is None:
            marker = Account()
            values = (name, marker.version, marker.seq, marker.head, marker.clock)
            added = connection.execute(
                "insert into accounts (name, version, seq, head, clock) values (?,?,?,?,?)", values
            )
            row = (added.lastrowid, *values[1:])
        self._id: int = row[0]
        self.account = Account(*row[1:])
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._newest: dict[str, Bucket | None] = {}
        self._names: dict[str, str] = {}
        self._reservations: dict[str, Reservation | None] = {}
        self._put: dict[str, Reservation] = {}
        self._entries: list[Entry] = []
        self._next_due = 0

    def reservation(self, id: str) -> Reservation | None:
        if id not in self._reservations:
            row = self._db.execute(
                "select body, state, made, id from reservations where account = ? and id = ?", (self._id, id)
            ).fetchone()
            self._reservations[id] = None if row is None else read_reservation(*row)
        return self._reservations[id]

    def put_reservation(self, reservation: Reservation) -> None:
        self._reservations[reservation.id] = self._put[reservation.id] = reservation

    def newest(self, pool: str) -> Bucket | None:
        if pool not in self._newest:
            row = self._db.execute(_NEWEST, (self._id, pool)).fetchone()
            self._newest[pool] = None if row is None else Bucket(*row)
        return self._newest[pool]

    def bucket(self, pool: str, start: int) -> Bucket | None:
        newest = self.newest(pool)
        if newest is not None and newest.start == start:
            return newest
        if (pool, start) in self._buckets:
            return self._buckets[pool, start]
        row = self._db.execute(_BUCKET, (self._id, pool, start)).fetchone()
        return None if row is None else Bucket(*row)

    def put_bucket(self, pool: str, bucket: Bucket, name: str | None = None) -> None:
        newest = self.newest(pool)
        if newest is None and name is not None:
            self._names[pool] = name
        if newest is None or bucket.start >= newest.start:
            self._newest[pool] = bucket
        self._buckets[pool, bucket.start] = bucket

    def due(self, now: int, most: int) -> Sequence[str]:
        # Asked once per transaction unless something is due: `_next_due` is when that can be. A reservation made in
        # this same transaction is not in the table yet; if its lease is that short, the next transaction expires it.
        if now < self._next_due:
            return ()
        rows = self._db.execute(_OPEN, (self._id, most + 1)).fetchall()
        ids = [id for id, due in rows[:most] if due <= now]
        found = [
            id for id in ids if (known := self.reservation(id)) and known.state == "open" and known.lease_end <= now
        ]
        # Whoever asks may only look: what was found stays due until it has ended.
        waits = found or len(rows) > most
        self._next_due = now if waits else next((due for _, due in rows if due > now), FOREVER)
        return found

    def append(self, entry: Entry) -> None:
        self._entries.append(entry)

    def policy(self) -> Sequence[tuple[str, str, str]]:
        return self._db.execute("select kind, identity, body from policy where account = ?", (self._id,)).fetchall()

    def put_policy(self, kind: str, identity: str, body: str | None) -> bool:
        key = (self._id, kind, identity)
        row = self._db.execute(
            "select body from policy where account = ? and kind = ? and identity = ?", key
        ).fetchone()
        if body == (None if row is None else row[0]):
            return False
        if body is None:
            self._db.execute("delete from policy where account = ? and kind = ? and identity = ?", key)
        else:
            self._db.execute("insert or replace into policy values (?, ?, ?, ?)", (*key, body))
        return True

    def learned(self, name: str) -> Mapping[int, int] | None:
        row = self._db.execute("select counts from learned where account = ? and name = ?", (self._id, name)).fetchone()
        return None if row is None else {int(bucket): count for bucket, count in json.loads(row[0]).items()}

    def put_learned(self, name: str, counts: Mapping[int, int] | None) -> None:
        if counts is None:
            self._db.execute("delete from learned where account = ? and name = ?", (self._id, name))
        else:
            self._db.execute("insert or replace into learned values (?, ?, ?)", (self._id, name, json.dumps(counts)))

    def learned_names(self) -> Sequence[str]:
        return [name for (name,) in self._db.execute("select name from learned where account = ?", (self._id,))]

    def forget(self, now: int, most: int) -> None:
        """Drop ended reservations whose time is over."""
        self._db.execute(_FORGET, (self._id, now, most))

    def flush(self) -> None:
        """Write what was put."""
        id, write = self._id, self._db.executemany
        if self._names:
            write("insert or ignore into pools values (?, ?, ?)", [(id, p, name) for p, name in self._names.items()])
        if self._buckets:
            write(_PUT_BUCKET, [(id, pool, *bucket) for (pool, _), bucket in self._buckets.items()])
        if self._put:
            write(_PUT_RESERVATION, [(id, *_reservation_row(r)) for r in self._put.values()])
        if self._entries:
            write(_PUT_ENTRY, [(id, *_entry_row(entry)) for entry in self._entries])
        marker = self.account
        self._db.execute(_PUT_ACCOUNT, (marker.version, marker.seq, marker.head, marker.clock, id))


def _reservation_row(r: Reservation) -> tuple[Any, ...]:
    due = r.lease_end if r.state == "open" else keep_until(r)
    body = dumps(
        [r.digest, r.amounts, r.shares, r.lease_us, r.lease_end, r.ended, r.charged, r.scope, r.detail, r.parent]
    )
    return r.id, r.state, due, r.made, body


def read_reservation(body: str, state: str, made: int, id: str) -> Reservation:
    """Read a reservation's row."""
    digest, amounts, shares, lease_us, lease_end, ended, charged, scope, detail, parent = json.loads(body)
    taken = tuple(Share(*share) for share in shares)
    charged = None if charged is None else tuple(charged)
    return Reservation(
        id, digest, state, tuple(amounts), taken, lease_us, lease_end, made, ended, charged, scope, detail, parent
    )


def _entry_row(entry: Entry) -> tuple[Any, ...]:
    return entry.seq, entry.at_us, entry.kind, entry.reservation, *entry.amounts, *entry.texts, entry.digest


def read_entry(row: Sequence[Any]) -> Entry:
    """Read an entry's row (without its account)."""
    seq, at_us, kind, reservation, *amounts, scope, detail, postings, digest = row
    read = tuple(Posting(*posting) for posting in json.loads(postings))
    texts = (scope, detail, postings)
    return Entry(
        seq, at_us, kind, reservation, tuple(amounts), json.loads(scope), json.loads(detail), read, texts, digest
    )
