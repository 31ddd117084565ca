"""Reading a Redis store: ledger entries, open reservations, all counters.

The ledger is a stream whose ids are its sequence numbers, so that a page is a range, and the place of an instant is
found by halving. Refusals move nothing: they are in a stream of their own, of bounded length, outside of the chain. The
id of each begins with the number of the entry that comes next, and it is read as if it had that of the one before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import Any

from budget.commands import Amounts, Bucket, Reservation
from budget.ledger import GENESIS, Entry, Posting
from budget.limits import CONCURRENT
from budget.stores.base import PAGE, Snapshot
from budget.stores.scripts import Keys, read_amounts, read_record, read_shares

__all__ = ["entries", "last", "names", "remove", "reservations", "snapshot"]

Ask = Callable[..., Any]
_BUCKET = Struct("<5q")
_MARKER = Struct("<4q40s")
_ANY = 2**63 - 1
_NO_TEXTS = ("", "", "")
_NOTHING: Amounts = (0, 0, 0, 0, 0)


def entries(ask: Ask, keys: Keys, after: int, since_us: int) -> Sequence[Entry]:
    """Read up to `PAGE` entries of the chain above `after`, and the refusals that follow each of them."""
    if since_us:
        after = max(after, _last_before(ask, keys, since_us))
    page = ask("XRANGE", keys.ledger, f"{after + 1}-0", "+", "COUNT", PAGE)
    last = _seq(page[-1][0]) if page else after
    # The number of the entry that comes next is where a refusal stands; those before any entry go with the first page.
    first = after + 2 if after else 1
    refusals = ask("XRANGE", keys.refusals, f"{first}-0", f"{last + 1}-{_ANY}") if first <= last + 1 else []
    found = [_entry(_seq(id), fields) for id, fields in page] + [_refusal(_seq(id) - 1, f) for id, f in refusals]
    found.sort(key=lambda entry: (entry.seq, not entry.digest))  # stable: refusals keep their order
    return [entry for entry in found if entry.at_us >= since_us]


def _seq(id: bytes) -> int:
    return int(id.partition(b"-")[0])


def _last_before(ask: Ask, keys: Keys, since_us: int) -> int:
    """Return the number of the last entry before an instant; their times never go back."""
    low, high = 0, _marker(ask("GET", keys.marker))[1]
    while low < high:
        middle = (low + high + 1) // 2
        ((_, fields),) = ask("XRANGE", keys.ledger, f"{middle}-0", f"{middle}-0")
        low, high = (middle, high) if int(_fields(fields)["t"]) < since_us else (low, middle - 1)
    return low


def _fields(pairs: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


def _body(blob: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    scope, detail, _ = json.loads(blob[16:])
    return scope, detail


def _entry(seq: int, pairs: Sequence[bytes]) -> Entry:
    """Read an entry as `append` in the prelude of the scripts wrote it."""
    row = _fields(pairs)
    kind, at, id = row["k"].decode(), row["t"], row["r"]
    scope, detail = _body(row["b"])
    moved = row["m"]
    figures, place = moved[2:], moved[0]
    late = moved[1] > 0
    if row["d"]:
        detail = {**detail, **json.loads(row["d"][16:]), **({"late": True} if late else {})}
    after = read_amounts(figures[:place]) if place else _NOTHING
    before = read_amounts(figures[place : 2 * place]) if late else _NOTHING
    change: Any = tuple((a or 0) - (b or 0) for a, b in zip(after, before, strict=True))
    packed = figures[place + moved[1] :]
    shares = read_shares(packed) if packed else ()
    sign = 1 if kind == "reserved" else 0 if late else -1
    postings = tuple(
        Posting(pool, start, 0 if unit == CONCURRENT else change[unit], sign * amount)
        for pool, unit, start, amount in shares
    )
    content = b"\n".join([b"%d" % seq, at, row["k"], id, b"%d" % len(moved), moved + row["b"][:16] + row["d"][:16]])
    digest = bytes.fromhex(row["h"].decode())
    made = (seq, int(at), kind, id.decode() or None, change, scope, detail, postings, _NO_TEXTS, digest, content)
    return Entry(*made)


def _refusal(seq: int, pairs: Sequence[bytes]) -> Entry:
    row = _fields(pairs)
    scope, detail = _body(row["b"])
    pools, (frozen, *texts) = row["i"].decode().split("\n"), row["l"].decode().split("\n")
    refused = [{"limit": texts[i - 1], "pool": pools[i - 1] if i <= len(pools) and pools[0] else None} for i in row["w"]]
    detail = {**detail, "refused": refused, **({"frozen": frozen} if frozen else {})}
    id = row["r"].decode()
    return Entry(seq, int(row["t"]), "refused", id, (0, 0, 0, 0, 0), scope, detail, (), _NO_TEXTS, b"")


def reservations(ask: Ask, keys: Keys) -> Sequence[Reservation]:
    """Read the open reservations, oldest first."""
    ids = [id.decode() for id in ask("ZRANGE", keys.leases, 0, -1)]
    found = []
    for some in _chunks(ids):
        records = ask("MGET", *[keys.reservation + id for id in some])
        found += [read_record(id, record) for id, record in zip(some, records, strict=True) if record]
    return sorted((known for known in found if known.state == "open"), key=lambda known: known.made)


def names(ask: Ask, keys: Keys) -> dict[str, str]:
    """Read what the ids of the pools stand for."""
    return {id.decode(): name.decode() for id, name in _scan(ask, keys.names)}


def last(ask: Ask, keys: Keys) -> int:
    """Read the number of the last entry."""
    return _marker(ask("GET", keys.marker))[1]


def snapshot(ask: Ask, run: Callable[..., Any], keys: Keys) -> Snapshot:
    """Read all counters at one instant, by a script; a pool that is made meanwhile is met at the next try."""
    while True:
        known = names(ask, keys)
        pools = [keys.pool + pool for pool in known]
        marker, count, closed, *newest = run("snapshot", [keys.marker, keys.closed, keys.names, *pools], [])
        if count == len(known):
            break
    buckets = {(pool, bucket.start): bucket for pool, bucket in zip(known, map(_bucket, newest), strict=True)}
    for place, value in zip(closed[::2], closed[1::2], strict=True):
        bucket = _bucket(value)
        buckets[place.rpartition(b":")[0].decode(), bucket.start] = bucket
    _, seq, head = _marker(marker)
    return Snapshot(buckets, known, seq, head)


def _bucket(value: bytes) -> Bucket:
    return Bucket._make(_BUCKET.unpack(value))


def remove(ask: Ask, keys: Keys) -> None:
    """Remove an account."""
    cursor = b"0"
    while True:
        cursor, found = ask("SCAN", cursor, "MATCH", f"{keys.prefix}*", "COUNT", PAGE)
        if found:
            ask("UNLINK", *found)
        if cursor == b"0":
            return


def _marker(value: bytes | None) -> tuple[int, int, bytes]:
    """Return policy version, sequence number and digest of an account."""
    if value is None:
        return 0, 0, GENESIS
    version, seq, _, _, head = _MARKER.unpack(value)
    return version, seq, bytes.fromhex(head.decode()) if seq else GENESIS


def _scan(ask: Ask, key: str) -> Iterator[tuple[bytes, bytes]]:
    cursor = b"0"
    while True:
        cursor, pairs = ask("HSCAN", key, cursor, "COUNT", PAGE)
        yield from zip(pairs[::2], pairs[1::2], strict=True)
        if cursor == b"0":
            return


def _chunks(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[i : i + PAGE] for i in range(0, len(items), PAGE)]
