"""Reading a Redis store: ledger entries, open reservations, all counters.

The ledger is a stream whose ids are its sequence numbers, so that a page is a range, and the place of an instant is
found by halving. Refusals move nothing: they are in a stream of their own, of bounded length, outside of the chain. The
id of each begins with the number of the entry that comes next, and it is read as if it had that of the one before.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct
from typing import Any

from budget.commands import Reservation
from budget.ends import MOVES_ALONE
from budget.errors import StoreUnavailable
from budget.ledger import Entry, Posting
from budget.limits import CONCURRENT
from budget.stores.base import PAGE, Snapshot
from budget.stores.kept import read_id, read_kept, read_record, read_shares, read_starts
from budget.stores.keys import Keys, Seen
from budget.stores.packed import KINDS, Marker, read_amounts, read_buckets, read_marker, seal

__all__ = [
    "digest_at", "ended", "entries", "epoch", "last", "marker", "names", "remove", "reservations", "snapshot",
    "stream_entries", "stream_refusals",
]  # fmt: skip

Ask = Callable[..., Any]
_HEADS = {"E": Struct("<cdBHBHI"), "e": Struct("<cdBBBHI")}
"""Kind, time, widths of id, figures, figures replaced, starts of windows, detail; by the name of an entry's field.

The second is of the format before shadow draws.
"""
_ANY = 2**63 - 1
_NO_TEXTS = ("", "", "")
_NOTHING: Any = (0, 0, 0, 0, 0)


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


def stream_entries(page: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
    """Read entries of the chain as they stand in the stream."""
    return [_entry(_seq(id), fields) for id, fields in page]


def stream_refusals(page: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Entry]:
    """Read refusals as they stand in their stream."""
    return [_refusal(_seq(id) - 1, fields) for id, fields in page]


def epoch(ask: Ask, keys: Keys) -> str:
    """Read the account's epoch, made with it; "" if there is no account."""
    return str(marker(ask, keys).epoch or "")


def marker(ask: Ask, keys: Keys) -> Marker:
    """Read an account's marker."""
    return read_marker(ask("GET", keys.marker))


def digest_at(ask: Ask, keys: Keys, seq: int) -> bytes | None:
    """Read the digest of an entry; None if it is not there (any more)."""
    found = ask("XRANGE", keys.ledger, f"{seq}-0", f"{seq}-0")
    return bytes.fromhex(_fields(found[0][1])["h"].decode()) if found else None


def _seq(id: bytes) -> int:
    return int(id.partition(b"-")[0])


def _last_before(ask: Ask, keys: Keys, since_us: int) -> int:
    """Return the number of the last entry before an instant; their times never go back."""
    first = ask("XRANGE", keys.ledger, "-", "+", "COUNT", 1)  # what was drained is not there any more
    low = _seq(first[0][0]) - 1 if first else 0
    high = max(low, marker(ask, keys).seq)
    while low < high:
        middle = (low + high + 1) // 2
        ((_, pairs),) = ask("XRANGE", keys.ledger, f"{middle}-0", f"{middle}-0")
        at_us = _time(_fields(pairs))
        low, high = (middle, high) if at_us < since_us else (low, middle - 1)
    return low


def _time(row: Mapping[str, bytes]) -> float:
    """When an entry was made: its head begins the same in both formats."""
    found: float = _HEADS["E"].unpack_from(row.get("E") or row["e"])[1]
    return found


def _fields(pairs: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in zip(pairs[::2], pairs[1::2], strict=True)}


def _entry(seq: int, pairs: Sequence[bytes]) -> Entry:
    """Read an entry of the chain.

    Raises:
        StoreUnavailable: It is not one.
    """
    try:
        return _read_entry(seq, pairs)
    except (zlib.error, ValueError, KeyError, IndexError, struct.error):
        raise StoreUnavailable(f"the server's entry {seq} was changed: it cannot be read") from None


def _read_entry(seq: int, pairs: Sequence[bytes]) -> Entry:
    """Read an entry as `append` in the prelude of the scripts wrote it."""
    row = _fields(pairs)
    name = "E" if "E" in row else "e"
    packed, head_format = row[name], _HEADS[name]
    code, at_us, *widths = head_format.unpack_from(packed)
    parts, start = [], head_format.size
    for width in widths:
        parts.append(packed[start : start + width])
        start += width
    (id, after, before, places, detail), kept = parts, packed[start:]
    kind, late, more = KINDS[code], bool(before), json.loads(detail[16:] or "{}")
    figures = _NOTHING if kind == "reserved" or not after else read_amounts(after)
    replaced = read_amounts(before) if late else _NOTHING
    change: Any = tuple((a or 0) - (b or 0) for a, b in zip(figures, replaced, strict=True))
    scope, asked = read_kept(kept)[2:4] if kept else ({}, {})
    postings = _postings(kind, places, kept, change, late) if kept else ()
    if kind == "reserved" and after:
        more["shadow"] = _shadows(after, postings)
    head = packed[: len(packed) - len(detail) - len(kept)]
    content = b"%d\n" % seq + head + _digest(kept) + _digest(detail)
    return Entry(
        seq, int(at_us), kind, read_id(id) or None, _NOTHING if kind in MOVES_ALONE else change, scope,
        {**asked, **more, **({"late": True} if late else {})}, postings, _NO_TEXTS, bytes.fromhex(row["h"].decode()),
        content,
    )  # fmt: skip


def _postings(kind: str, places: bytes, kept: bytes, change: Sequence[int], late: bool) -> tuple[Posting, ...]:
    """Return what an entry changed. Beside the starts of the windows may stand what was given back there.

    An entry of a rebuild has what it changed in `places` alone.
    """
    shares = read_shares(b"", kept)
    starts, columns = read_starts(places, len(shares))
    if kind == "rebuilt":
        spent, reserved = columns[: len(shares)], columns[len(shares) :]
    else:
        spent = [0 if share.unit == CONCURRENT else change[share.unit] for share in shares]
        sign = 1 if kind == "reserved" else 0 if late else -1
        reserved = [-freed for freed in columns] if columns else [sign * share.amount for share in shares]
    pools = [share.pool for share in shares]
    return tuple(map(Posting, pools, starts, spent, reserved))


def _shadows(told: bytes, postings: Sequence[Posting]) -> list[dict[str, str | None]]:
    """Read which shadow draws would have refused: number and text of each, in a line."""
    found = []
    while told:
        number, (text, _, told) = told[0], told[1:].partition(b"\n")
        found.append({"limit": text.decode(), "pool": postings[number - 1].pool if number <= len(postings) else None})
    return found


def _digest(sealed: bytes) -> bytes:
    """The digest of what stands in the chain by it, made anew: an edited text no longer has the one it came with."""
    return seal(sealed[16:])[:16] if sealed else b""


def _refusal(seq: int, pairs: Sequence[bytes]) -> Entry:
    row = _fields(pairs)
    _, _, scope, detail, _ = read_kept(row["b"])
    frozen, *texts = row["l"].decode().split("\n")
    pools = [share.pool for share in read_shares(b"", row["b"])]
    refused = [{"limit": texts[i - 1], "pool": pools[i - 1] if i <= len(pools) else None} for i in row["w"]]
    detail = {**detail, "refused": refused, **({"frozen": frozen} if frozen else {})}
    id = read_id(row["r"])
    return Entry(seq, int(row["t"]), "refused", id, (0, 0, 0, 0, 0), scope, detail, (), _NO_TEXTS, b"")


def reservations(ask: Ask, keys: Keys) -> Sequence[Reservation]:
    """Read the open reservations, oldest first."""
    ids = list(dict.fromkeys([read_id(id) for id in ask("ZRANGE", keys.leases, 0, -1)]))
    found = []
    for some in _chunks(ids):
        records = ask("MGET", *[keys.reservation + id for id in some])
        found += [read_record(id, record) for id, record in zip(some, records, strict=True) if record]
    return sorted((known for known in found if known.state == "open"), key=lambda known: known.made)


def ended(ask: Ask, keys: Keys) -> Sequence[Reservation]:
    """Read the ended reservations that are still known."""
    found: dict[str, Reservation] = {}
    cursor = b"0"
    while True:
        cursor, page = ask("SCAN", cursor, "MATCH", f"{keys.reservation}*", "COUNT", PAGE)
        ids = [key.decode().removeprefix(keys.reservation) for key in page]
        records = ask("MGET", *page) if page else ()
        found |= {id: read_record(id, record) for id, record in zip(ids, records, strict=True) if record}
        if cursor == b"0":
            return [known for known in found.values() if known.state != "open"]


def names(ask: Ask, keys: Keys) -> dict[str, str]:
    """Read what the ids of the pools stand for."""
    return {id.decode(): name.decode() for id, name in _scan(ask, keys.names)}


def last(ask: Ask, keys: Keys) -> int:
    """Read the number of the last entry."""
    return marker(ask, keys).seq


def snapshot(ask: Ask, run: Callable[..., Any], keys: Keys) -> Snapshot:
    """Read all counters at one instant, by a script; a pool that is made meanwhile is met at the next try."""
    while True:
        known = names(ask, keys)
        pools = [keys.pool + pool for pool in known]
        told, count, closed, *newest = run("snapshot", [keys.marker, keys.closed, keys.names, *pools], [])
        if count == len(known):
            break
    values = list(zip(known, newest, strict=True))
    values += [(p.rpartition(b":")[0].decode(), value) for p, value in zip(closed[::2], closed[1::2], strict=True)]
    buckets = {(pool, bucket.start): bucket for pool, value in values if value for bucket in read_buckets(value)}
    found = read_marker(told)
    return Snapshot(buckets, known, found.seq, found.head)


def remove(ask: Ask, keys: Keys) -> None:
    """Remove an account."""
    keys.seen = Seen()
    cursor = b"0"
    while True:
        cursor, found = ask("SCAN", cursor, "MATCH", f"{keys.prefix}*", "COUNT", PAGE)
        if found:
            ask("UNLINK", *found)
        if cursor == b"0":
            return


def _scan(ask: Ask, key: str) -> Iterator[tuple[bytes, bytes]]:
    cursor = b"0"
    while True:
        cursor, pairs = ask("HSCAN", key, cursor, "COUNT", PAGE)
        yield from zip(pairs[::2], pairs[1::2], strict=True)
        if cursor == b"0":
            return


def _chunks(items: Sequence[str]) -> list[Sequence[str]]:
    return [items[i : i + PAGE] for i in range(0, len(items), PAGE)]
