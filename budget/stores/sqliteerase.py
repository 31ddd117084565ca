"""Erasing a value from an SQLite file: one transaction, and then no page of the file or its log has it any more."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from budget.audit import Vouch
from budget.errors import ReservationConflict, StoreUnavailable
from budget.ledger import Entry, dumps, make_entry
from budget.pseudonym import Swap
from budget.stores.sqliteadmin import account_id, file_lock, transaction
from budget.stores.sqlitefile import connect
from budget.stores.sqlitestate import read_entry, read_reservation

__all__ = ["erase", "scrub"]

_ROWS = """select seq, at, kind, reservation, usd, tokens, input_tokens, output_tokens, requests, scope, detail,
    postings, digest, sealed from entries where account = ? and seq > ? order by seq limit 1000"""
_PUT = "insert into entries values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, null, null)"
_SEAL = "update entries set scope = ?, detail = ?, postings = ?, sealed = ? where account = ? and seq = ?"
_MERGE = """insert into buckets (account, pool, start, "end", since, spent, reserved, carry, span)
    select account, ?3, start, "end", since, spent, reserved, carry, span from buckets where account = ?1 and pool = ?2
    on conflict do update set spent = spent + excluded.spent, reserved = reserved + excluded.reserved,
    since = min(since, excluded.since)"""


def erase(path: Path, account: str, swap_of: Callable[[Mapping[str, str]], Swap], detail: Mapping[str, Any]) -> int:
    """Swap a value in all that an account has; return how many entries have changed.

    Args:
        path: The file.
        account: Its name.
        swap_of: Makes the swap, of the account's pools.
        detail: Who and why, for the ledger.

    Raises:
        ReservationConflict: The subject has an open reservation; nothing was changed.
        StoreUnavailable: The file cannot be written; nothing was changed.
    """
    with transaction(path) as db:
        id = account_id(db, account)
        swap = swap_of(dict(db.execute("select pool, name from pools where account = ?", (id,))))
        _reservations(db, id, swap)
        for pool, (other, name) in swap.pools.items():
            db.execute(_MERGE, (id, pool, other))
            db.execute("delete from buckets where account = ? and pool = ?", (id, pool))
            db.execute("delete from pools where account = ? and pool = ?", (id, pool))
            db.execute("insert or ignore into pools values (?, ?, ?)", (id, other, name))
        _policy(db, id, swap)
        for (name,) in db.execute("select name from learned where account = ?", (id,)).fetchall():
            if (other := swap.sketch(name)) != name:
                db.execute("update or replace learned set name = ? where account = ? and name = ?", (other, id, name))
        return _entries(db, id, swap, detail)


def _reservations(db: sqlite3.Connection, account: int, swap: Swap) -> None:
    rows = db.execute("select body, state, made, id from reservations where account = ?", (account,)).fetchall()
    for row in rows:
        known = read_reservation(*row) if swap.holds(row[:1]) else None
        if known is None or not swap.concerns(known):
            continue
        if known.state == "open":
            raise ReservationConflict(f"{known.id} is open: end it, or wait until its lease ends; nothing was erased")
        parts = json.loads(row[0])
        changed = swap.reservation(known)
        parts[2], parts[7], parts[8] = changed.shares, changed.scope, changed.detail
        db.execute("update reservations set body = ? where account = ? and id = ?", (dumps(parts), account, known.id))


def _policy(db: sqlite3.Connection, account: int, swap: Swap) -> None:
    for kind, identity, body in db.execute(
        "select kind, identity, body from policy where account = ?", (account,)
    ).fetchall():
        other = swap.text(identity), swap.text(body)
        if other != (identity, body):
            key = (account, kind, identity)
            db.execute("delete from policy where account = ? and kind = ? and identity = ?", key)
            db.execute("insert or replace into policy values (?, ?, ?, ?)", (account, kind, *other))
            db.execute("update accounts set version = version + 1 where id = ?", (account,))


def _entries(db: sqlite3.Connection, account: int, swap: Swap, detail: Mapping[str, Any]) -> int:
    """Swap in entries, and append the one that vouches for what they say now."""
    vouch, count = Vouch(), 0
    for entry in _read(db, account):
        changed = swap.entry(entry)
        if changed is not entry:
            count += 1
            db.execute(_SEAL, (*changed.texts, changed.sealed, account, entry.seq))
        vouch.add(changed)
    told = {**detail, "entries": count, **({"sealed": str(vouch)} if vouch.any else {})}
    seq, head, clock = db.execute("select seq, head, clock from accounts where id = ?", (account,)).fetchone()
    made = make_entry(head, seq + 1, clock, "erased", None, (0, 0, 0, 0, 0), {}, told, ())
    row = (account, made.seq, made.at_us, made.kind, None, *made.amounts, *made.texts, made.digest)
    db.execute(_PUT, row)
    db.execute("update accounts set seq = ?, head = ? where id = ?", (made.seq, made.digest, account))
    return count


def _read(db: sqlite3.Connection, account: int) -> Iterator[Entry]:
    found = db.execute(
        "select detail from entries where account = ? and kind = 'pruned' order by seq desc limit 1", (account,)
    ).fetchone()
    after = json.loads(found[0])["upto"] if found else 0
    while page := db.execute(_ROWS, (account, after)).fetchall():
        yield from map(read_entry, page)
        after = page[-1][0]


def scrub(path: Path) -> bool:
    """Rewrite the file, so that no free page has what was there, and empty its log; whether nobody kept that.

    Raises:
        StoreUnavailable: There is no room to rewrite it, say.
    """
    try:
        with file_lock(path) as _, closing(connect(path)) as db:
            db.execute("pragma secure_delete = on")
            db.execute("vacuum")
            busy: int = db.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"it is erased, but the file cannot be rewritten: erase it again ({error})") from error
    return not busy
