"""Floors: the least that must be done for a reserve and a reconcile, without deciding, recording why, or any digest.

Memory: look up every bucket, compare, replace it, and keep the reservation; under a lock, as the store does.
SQLite: the very rows that the store writes (they are taken from a store's file), through a bare connection with the
same pragmas: `begin immediate`, the rows, `commit`. One verb per transaction, or a hundred, in which a bucket that
several verbs change is written once, as the store does it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Any

from budget.commands import Bucket, Draw
from budget.stores.sqlitefile import connect

__all__ = ["memory_floor", "sqlite_floor"]

Rows = tuple[list[Any], tuple[Any, ...], tuple[Any, ...]]
"""What one verb writes: buckets, a reservation, an entry."""
_WRITES = {
    "buckets": "on conflict do update set spent = excluded.spent, reserved = excluded.reserved",
    "reservations": "on conflict do update set state = excluded.state, due = excluded.due, body = excluded.body",
    "entries": "",
}
_ACCOUNT = "update accounts set seq = ?, clock = ? where id = 1"


def memory_floor(draws_of: Sequence[Sequence[Draw]], seconds: float) -> float:
    """Return pairs per second of bare dictionary updates."""
    buckets = {draw.pool: Bucket(draw.start, draw.end, 0, 0, 0) for draws in draws_of for draw in draws}
    reservations: dict[int, tuple[Any, ...]] = {}
    lock, ids, pairs = Lock(), count(), 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        draws = draws_of[pairs % len(draws_of)]
        id = next(ids)
        with lock:
            for draw in draws:
                bucket = buckets[draw.pool]
                assert draw.amount <= draw.limit - bucket.spent - bucket.reserved
                buckets[draw.pool] = bucket.at(bucket.spent, bucket.reserved + draw.amount)
            reservations[id] = (id, "open", draws)
        with lock:
            for draw in reservations[id][2]:
                bucket = buckets[draw.pool]
                buckets[draw.pool] = bucket.at(bucket.spent + draw.amount, bucket.reserved - draw.amount)
            reservations[id] = (id, "reconciled", draws)
        pairs += 1
    return pairs / (time.perf_counter() - begun)


def sqlite_floor(source: Path, target: Path, group: int, seconds: float) -> float:
    """Return pairs per second of bare transactions of `group` verbs, with the rows found in a store's file."""
    verbs = _verbs(source)
    db = connect(target)
    db.execute("insert or ignore into accounts values (1, 'bench', 0, 0, zeroblob(32), 0)")
    writes = [_write(db, table) for table in _WRITES]
    seq, done, seen = count(1 + (db.execute("select max(seq) from entries").fetchone()[0] or 0)), 0, len(verbs)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        buckets: dict[Any, Any] = {}
        reservations, entries = [], []
        for _ in range(group):
            changed, reservation, entry = verbs[done % seen]
            done += 1
            buckets.update(((row[1], row[2]), row) for row in changed)
            number = next(seq)
            reservations.append((1, f"{(number - 1) // 2:032x}", *reservation[2:]))
            entries.append((1, number, *entry[2:]))
        db.execute("begin immediate")
        for write, rows in zip(writes, (list(buckets.values()), reservations, entries), strict=True):
            db.executemany(write, rows)
        db.execute(_ACCOUNT, (number, number))
        db.execute("commit")
    rate = done / 2 / (time.perf_counter() - begun)
    db.close()
    return rate


def _write(db: sqlite3.Connection, table: str) -> str:
    columns = len(db.execute(f"pragma table_info({table})").fetchall())
    return f"insert into {table} values ({', '.join('?' * columns)}) {_WRITES[table]}"  # noqa: S608


def _verbs(source: Path) -> list[Rows]:
    """Read from a store's file what each reserve and each reconcile wrote, in the order of the ledger."""
    import json

    db = connect(source)
    buckets = {(row[1], row[2]): row for row in db.execute("select * from buckets")}
    reservations = {row[1]: row for row in db.execute("select * from reservations")}
    found = []
    for entry in db.execute("select * from entries order by seq"):
        changed = [buckets[posting[0], posting[1]] for posting in json.loads(entry[12])]
        found.append((changed, reservations[entry[4]], entry))
    db.close()
    return found
