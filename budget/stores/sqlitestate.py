"""One account of the SQLite store, as the verbs see it inside a transaction.

Rows are read when first asked for and written once, when the transaction ends: a group of operations on one pool costs
one row. What was read or written stays known to the next transaction: the marker, newest buckets, open reservations and
when the first lease ends. The writer throws a state away as soon as its rows may be others: after another connection's
commit, after a transaction that failed, and with its account. Nothing here decides anything; `pool.apply` does.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from budget.commands import Account, Amounts, Bucket, Reservation, Share
from budget.ledger import Entry, dumps, dumps_scope, dumps_shares, dumps_text
from budget.pool import keep_until
from budget.window import FOREVER

__all__ = ["SqliteState", "read_entry", "read_reservation"]

_NEWEST = """select start, "end", since, spent, reserved, carry, span from buckets
    where account = ? and pool = ? order by start desc limit 1"""
_PARTS = """select start, "end", since, spent, reserved, carry, span from buckets
    where account = ? and pool = ? order by start"""
_BUCKET = """select start, "end", since, spent, reserved, carry, span from buckets
    where account = ? and pool = ? and start = ?"""
_DROP_BUCKET = "delete from buckets where account = ? and pool = ? and start = ?"
_OPEN = "select id, due from reservations where account = ? and (state = 'open') = 1 order by due limit ?"
_FORGET = """delete from reservations where account = ?1 and id in (
    select id from reservations where account = ?1 and (state = 'open') = 0 and due <= ?2 order by due limit ?3)"""
_THERE = "select id from reservations where account = ? and id in (select value from json_each(?))"
_NAMELESS = """delete from pools where account = ?1 and pool = ?2
    and not exists (select 1 from buckets where account = ?1 and pool = ?2)"""
_VOUCHED = "select max(seq) from entries where account = ? and kind in ('pruned', 'erased')"
_PUT_ACCOUNT = "update accounts set version = ?, seq = ?, head = ?, clock = ? where id = ?"
_MANY = (50, 10, 1)  # rows that one statement writes: the most take three fifths of the time of one by one
_KNOWN = 65536  # pools, and open reservations, that are known from one transaction to the next


def _puts(insert: str, columns: int) -> dict[int, str]:
    """Return the statements that write so many rows."""
    row = f"({', '.join('?' * columns)})"
    return {count: f"{insert} values {', '.join([row] * count)}" for count in _MANY}


_PUT_BUCKET = _puts("insert or replace into buckets", 9)
_PUT_RESERVATION = _puts("insert or replace into reservations", 6)
_PUT_ENTRY = _puts("insert into entries", 16)


class SqliteState:
    """Reads through to the tables, keeps what is put, and writes it all in `flush`.

    What a transaction has put is in `_moved` (newest buckets), `_buckets` (others), `_dropped`, `_names`, `_put` and
    `_entries`; the rest outlives it.
    """

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
        self._written = row[1:]
        self._moved: dict[str, Bucket] = {}
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._newest: dict[str, Bucket | None] = {}
        self._parts: dict[str, dict[int, Bucket]] = {}
        self._dropped: list[tuple[str, int]] = []
        self._names: dict[str, str] = {}
        self._open: dict[str, Reservation] = {}
        self._absent: set[str] = set()
        self._bodies: dict[str, _Body] = {}
        self._put: dict[str, Reservation] = {}
        self._entries: list[tuple[Any, ...]] = []  # as rows: an entry's parts need not live until it is written
        self._next_due = 0

    def expect(self, ids: Sequence[str]) -> None:
        """See in one query which of the reservations that will be asked for are not there: of new ones, all."""
        unknown = [id for id in ids if id not in self._open]
        if not unknown:
            return
        found = self._db.execute(_THERE, (self._id, json.dumps(unknown)))
        self._absent = {*unknown}.difference([id for (id,) in found])

    def reservation(self, id: str) -> Reservation | None:
        found = self._put.get(id) or self._open.get(id)
        if found is None and id not in self._absent:
            row = self._db.execute(
                "select body, state, made, id from reservations where account = ? and id = ?", (self._id, id)
            ).fetchone()
            found = None if row is None else read_reservation(*row)
            if found is not None and found.state == "open":
                self._open[id] = found
        return found

    def put_reservation(self, reservation: Reservation) -> None:
        self._put[reservation.id] = reservation

    def newest(self, pool: str) -> Bucket | None:
        try:
            return self._newest[pool]
        except KeyError:
            row = self._db.execute(_NEWEST, (self._id, pool)).fetchone()
            found = self._newest[pool] = None if row is None else Bucket(*row)
            return found

    def bucket(self, pool: str, start: int) -> Bucket | None:
        newest = self._newest.get(pool) or self.newest(pool)
        if newest is not None and newest.start == start:
            return newest
        if (pool, start) in self._buckets:
            return self._buckets[pool, start]
        if newest is not None and newest.span:
            return self._all_parts(pool).get(start)
        row = self._db.execute(_BUCKET, (self._id, pool, start)).fetchone()
        return None if row is None else Bucket(*row)

    def put_bucket(self, pool: str, bucket: Bucket, name: str | None = None) -> None:
        newest, start = self._newest.get(pool) or self.newest(pool), bucket.start
        if newest is not None and newest.start == start and not bucket.span:  # most often
            self._newest[pool] = self._moved[pool] = bucket
            return
        if newest is None:
            self._newest[pool] = bucket
            if name is not None:
                self._names[pool] = name
        elif start >= newest.start:
            self._newest[pool] = bucket
            if (before := self._moved.pop(pool, None)) is not None:
                self._buckets[pool, before.start] = before
        if bucket.span:
            self._all_parts(pool)[start] = bucket
        self._buckets[pool, start] = bucket

    def parts(self, pool: str) -> Sequence[Bucket]:
        return sorted(self._all_parts(pool).values())

    def _all_parts(self, pool: str) -> dict[int, Bucket]:
        if pool not in self._parts:
            rows = self._db.execute(_PARTS, (self._id, pool))
            self._parts[pool] = {row[0]: Bucket(*row) for row in rows}
        return self._parts[pool]

    def drop_bucket(self, pool: str, start: int) -> None:
        del self._all_parts(pool)[start]
        self._buckets.pop((pool, start), None)
        self._dropped.append((pool, start))

    def forget_window(self, pool: str, start: int) -> None:
        self._flush_buckets()  # of what is left, the tables must say the latest
        self._db.execute("delete from buckets where account = ? and pool = ? and start = ?", (self._id, pool, start))
        self._newest.pop(pool, None)
        self._parts.pop(pool, None)
        self._db.execute(_NAMELESS, (self._id, pool))

    def vouched(self) -> int:
        found: int | None = self._db.execute(_VOUCHED, (self._id,)).fetchone()[0]
        mine = (row[1] for row in reversed(self._entries) if row[3] in ("pruned", "erased"))
        return next(mine, found or 0)

    def due(self, now: int, most: int) -> Sequence[str]:
        # Asked only when something can be due: `_next_due` is no later than that. A reservation made in this same
        # transaction is not in the table yet; if its lease is that short, the next transaction expires it.
        if now < self._next_due:
            return ()
        rows = self._db.execute(_OPEN, (self._id, most + 1)).fetchall()
        ids = [id for id, due in rows[:most] if due <= now]
        found = [
            id for id in ids if (known := self.reservation(id)) and known.state == "open" and known.lease_end <= now
        ]
        # Whoever asks may only look: what was found stays due until it has ended.
        later = now if len(rows) > most else FOREVER
        self._next_due = now if found else next((due for _, due in rows if due > now), later)
        return found

    def append(self, entry: Entry) -> None:
        figures = (self._id, entry.seq, entry.at_us, entry.kind, entry.reservation, *entry.amounts, *entry.texts)
        self._entries.append((*figures, entry.digest, entry.sealed or None, None))

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
        self._flush_buckets()
        if self._put:
            self._write(_PUT_RESERVATION, list(map(self._reservation_row, self._put.values())))
        if self._entries:
            self._write(_PUT_ENTRY, self._entries)
        marker = (self.account.version, self.account.seq, self.account.head, self.account.clock)
        if marker != self._written:
            self._db.execute(_PUT_ACCOUNT, (*marker, self._id))
            self._written = marker
        self._settle()

    def _flush_buckets(self) -> None:
        id, write = self._id, self._db.executemany
        if self._names:
            write("insert or ignore into pools values (?, ?, ?)", [(id, p, name) for p, name in self._names.items()])
        if self._dropped:
            write(_DROP_BUCKET, [(id, *place) for place in self._dropped])
        if self._buckets:
            self._write(_PUT_BUCKET, [(id, pool, *bucket) for (pool, _), bucket in self._buckets.items()])
        if self._moved:  # after the others: what opened in this transaction may be in both
            self._write(_PUT_BUCKET, [(id, pool, *bucket) for pool, bucket in self._moved.items()])
        for put in (self._names, self._dropped, self._buckets, self._moved):
            put.clear()

    def _write(self, statements: Mapping[int, str], rows: Sequence[tuple[Any, ...]]) -> None:
        done = 0
        for count, statement in statements.items():
            while len(rows) - done >= count:
                self._db.execute(statement, [*chain.from_iterable(rows[done : done + count])])
                done += count

    def _settle(self) -> None:
        """Have what was written known, and nothing put."""
        for id, reservation in self._put.items():
            if reservation.state == "open":
                self._open[id] = reservation
                self._next_due = min(self._next_due, reservation.lease_end)
            else:
                self._open.pop(id, None)
                self._bodies.pop(id, None)
        self._absent = set()
        self._put.clear()
        self._entries.clear()
        if len(self._newest) > _KNOWN:
            self._newest.clear()
            self._parts.clear()
        if len(self._open) > _KNOWN:
            self._open.clear()
            self._bodies.clear()

    def _reservation_row(self, r: Reservation) -> tuple[Any, ...]:
        due = r.lease_end if r.state == "open" else keep_until(r)
        known = self._bodies.get(r.id)
        if known is None or not known.holds(r):
            known = self._bodies[r.id] = _Body(r)
        return self._id, r.id, r.state, due, r.made, known.text(r)


class _Body:
    """A reservation's body as JSON; what its verbs do not change is written once."""

    __slots__ = ("_first", "_head", "_tail")

    def __init__(self, r: Reservation):
        self._first = r
        self._head = f"[{dumps_text(r.digest)},{_dumps_amounts(r.amounts)},{dumps_shares(r.shares)},{r.lease_us}"
        parent = "null" if r.parent is None else dumps_text(r.parent)
        self._tail = f"{dumps_scope(r.scope)},{dumps(r.detail) if r.detail else '{}'},{parent}]"

    def holds(self, r: Reservation) -> bool:
        first = self._first
        same = r.shares is first.shares and r.amounts is first.amounts and r.scope is first.scope
        return same and r.detail is first.detail and r.digest == first.digest and r.lease_us == first.lease_us

    def text(self, r: Reservation) -> str:
        charged = _dumps_amounts(r.charged) if r.charged else "null"
        return f"{self._head},{r.lease_end},{r.ended},{charged},{self._tail}"


def _dumps_amounts(amounts: Amounts) -> str:
    """Return what `dumps` makes of amounts, in a fifth of its time."""
    usd, tokens, input_tokens, output_tokens, requests = amounts
    text = f"[{usd},{tokens},{input_tokens},{output_tokens},{requests}]"
    return text.replace("None", "null") if None in amounts else text


def read_reservation(body: str, state: str, made: int, id: str) -> Reservation:
    """Read a reservation's row."""
    digest, amounts, shares, lease_us, lease_end, ended, charged, scope, detail, parent = json.loads(body)
    taken = tuple(Share(*share) for share in shares)
    charged = None if charged is None else tuple(charged)
    return Reservation(
        id, digest, state, tuple(amounts), taken, lease_us, lease_end, made, ended, charged, scope, detail, parent
    )


def read_entry(row: Sequence[Any]) -> Entry:
    """Read an entry's row (without its account)."""
    seq, at_us, kind, reservation, *amounts, scope, detail, postings, digest, sealed = row
    moves = tuple(map(tuple, json.loads(postings)))
    texts = (scope, detail, postings)
    return Entry(
        seq, at_us, kind, reservation, tuple(amounts), json.loads(scope), json.loads(detail), moves, texts, digest,
        sealed=sealed or b"",
    )  # fmt: skip
