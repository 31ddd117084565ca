"""Reading a server's ledger to its end, to be kept elsewhere: pages in order, each proved; and trimming behind that.

A page begins at the last entry that was read, which must still be the same: a server that lost writes in a failover has
another one there, or none. The last entries stay in the stream for this and for the processes that look at theirs when
they connect anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from budget.commands import Bucket, Reservation
from budget.errors import StoreUnavailable
from budget.ledger import Entry
from budget.pool import keep_until
from budget.stores import redisreads
from budget.stores.base import PAGE, Cursor
from budget.stores.kept import pack_id, pack_record
from budget.stores.keys import Keys
from budget.stores.packed import read_buckets

__all__ = ["KEPT", "names_of", "put_reservations", "read_page", "retire", "trim"]

Ask = Callable[..., Any]
KEPT = 128
"""Entries that stay in the stream, though they were drained."""
_TRIMMED = 10_000  # entries that one command may drop: milliseconds of the server's time


def read_page(ask: Ask, keys: Keys, cursor: Cursor) -> tuple[list[Entry], Cursor]:
    """Read up to `PAGE` entries after a place, and as many refusals that follow them; and the place after those.

    Raises:
        StoreUnavailable: The server does not have what it had when it was last read, or an entry was changed there.
    """
    page = redisreads.stream_entries(ask("XRANGE", keys.ledger, f"{max(1, cursor.seq)}-0", "+", "COUNT", PAGE + 1))
    if cursor.seq and page and page[0].seq == cursor.seq:
        if page[0].digest != cursor.digest:
            raise _lost(f"entry {cursor.seq} is another one than was read")
        del page[0]
    elif cursor.seq and not page and (last := redisreads.last(ask, keys)) < cursor.seq:
        raise _lost(f"the last entry is {last}, and {cursor.seq} was read")
    seq, digest = cursor.seq, cursor.digest
    for entry in page:
        if entry.seq != seq + 1:
            raise StoreUnavailable(f"the server's ledger lacks entry {seq + 1}: somebody else has trimmed it")
        if not entry.follows(digest):
            raise StoreUnavailable(f"the server's entry {entry.seq} was changed: its digest does not follow")
        seq, digest = entry.seq, entry.digest
    after = f"({cursor.refusal}" if cursor.refusal != "0-0" else "-"
    found = ask("XRANGE", keys.refusals, after, f"{seq + 1}-{2**63 - 1}", "COUNT", PAGE)
    refusals = redisreads.stream_refusals(found)
    place = replace(cursor, seq=seq, digest=digest, refusal=found[-1][0].decode() if found else cursor.refusal)
    return sorted([*page, *refusals], key=lambda entry: (entry.seq, not entry.digest)), place


def _lost(what: str) -> StoreUnavailable:
    return StoreUnavailable(f"the server has lost entries of the ledger ({what}); run 'budget ledger rebuild'")


def trim(ask: Ask, keys: Keys, cursor: Cursor) -> None:
    """Drop what was read, and is kept elsewhere, from the server, but for the last entries.

    Raises:
        StoreUnavailable: Another records store reads this account, and would find a gap.
    """
    ask("SET", keys.drain, cursor.mark, "NX")
    if (found := ask("GET", keys.drain)) != cursor.mark.encode():
        raise StoreUnavailable(f"another records store ({found.decode()[:16]}) drains this account; use that one")
    if cursor.seq > KEPT:
        ask("XTRIM", keys.ledger, "MINID", "~", f"{cursor.seq - KEPT}-0", "LIMIT", _TRIMMED)
    if cursor.refusal != "0-0":
        ask("XTRIM", keys.refusals, "MINID", "~", cursor.refusal, "LIMIT", _TRIMMED)


def names_of(ask: Ask, keys: Keys, pools: Sequence[str]) -> dict[str, str]:
    """Read what some ids of pools stand for."""
    found = ask("HMGET", keys.names, *pools) if pools else []
    return {pool: name.decode() for pool, name in zip(pools, found, strict=True) if name is not None}


def retire(ask: Ask, run: Callable[..., Any], keys: Keys, pool: str, windows: Sequence[Bucket], whole: bool) -> None:
    """Drop windows of a pool that are kept elsewhere, if they are still the same; the pool, if those are all it has."""
    fields = [f"{pool}:{bucket.start}" for bucket in windows]
    values = ask("HMGET", keys.closed, *fields)
    newest = ask("GET", keys.pool + pool) if whole else None
    pairs = zip(fields, values, windows, strict=True)
    same = [
        part for field, value, bucket in pairs if value and read_buckets(value) == [bucket] for part in (field, value)
    ]
    gone = newest if newest and set(read_buckets(newest)) <= set(windows) else b""
    run("retire", [keys.closed, keys.names, keys.pool + pool], [pool, gone, *same])


def put_reservations(ask: Ask, keys: Keys, reservations: Sequence[Reservation]) -> None:
    """Write reservations as scripts do: open ones with their lease, ended ones for as long as they are remembered."""
    for known in reservations:
        key, record = keys.reservation + known.id, pack_record(known)
        if known.state == "open":
            ask("SET", key, record)
            ask("ZADD", keys.leases, known.lease_end, pack_id(known.id))
        else:
            ask("SET", key, record, "PXAT", keep_until(known) // 1000 + 1)
