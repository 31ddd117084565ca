"""How values look that the scripts of a Redis store keep: figures, buckets, reservations, what was kept of a request.

The other side of `lua/prelude.lua` and `lua/records.lua`. Numbers are doubles, exact up to 2^53 - 1; the five figures
of a request or an end are 8-byte integers, for those of an end may be larger. A text that the ledger's chain must cover
travels behind its own digest ("sealed"), so that a script hashes 16 bytes and not all of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

from budget.commands import Amounts, Bucket, Reservation, Share
from budget.ledger import GENESIS, dumps

__all__ = [
    "BUCKET", "CHARGED", "KINDS", "NOTHING_KEPT", "NUMBERS", "RECORD", "Buckets", "Marker", "Named", "keep",
    "named_in", "pack_amounts", "pack_counts", "pack_ids", "pack_record", "read_amounts", "read_bucket",
    "read_buckets", "read_counts", "read_kept", "read_marker", "read_place", "read_record", "read_shares", "seal",
]  # fmt: skip

KINDS = {
    b"v": "reserved", b"r": "reconciled", b"f": "refunded", b"x": "expired", b"b": "recorded", b"l": "limit_set",
    b"m": "limit_unset", b"z": "frozen", b"u": "unfrozen", b"a": "adjusted", b"d": "adjust_ended", b"c": "fenced",
    b"g": "unfenced", b"k": "backfilled", b"w": "recovered", b"t": "returned", b"q": "rebuilt",
}  # fmt: skip
"""What the scripts call an entry."""


class _Numbers(dict[int, Struct]):
    def __missing__(self, count: int) -> Struct:
        made = self[count] = Struct(f"<{count}d")
        return made


NUMBERS = _Numbers()
"""So many numbers in a row."""
BUCKET = NUMBERS[6]
RECORD = Struct("<cddddH40s")
"""The head of a reservation: state, lease, its end, made, ended, bytes of the starts that follow, what was charged."""
_FIVE = Struct("<5q")
_COUNT = Struct("<HI")  # bucket, how many values
CHARGED = _FIVE.size
"""Bytes of five figures."""
_WIDTHS = Struct("<3H")  # pools, bytes of their ids, bytes of the digest
_KEPT = 16 + _FIVE.size  # where the pools of a request begin
_MARKER = Struct("<3d40s")  # of a marker: version, sequence, epoch, digest; before them guards, times and format
_PLACE = Struct("<3d")
_BEFORE_VERSION = 40
_FIRST_MARKER = Struct("<2d16x40s")  # of the first format: version, sequence, digest
_COMPACT, _ALL_TAKEN, _NONE_TAKEN = 2**15, 2**14, 2**13  # added to the number of pools
_OPEN = b"p"
_FRESH = Struct("<cdddH")  # the head of a reservation that is open and has given nothing back: RECORD's, but for that
_HEX = re.compile("[0-9a-f]{32}")
_STATES = {b"o": "open", _OPEN: "open", b"r": "reconciled", b"f": "refunded", b"x": "expired"}


def pack_counts(counts: Mapping[int, int]) -> bytes:
    """Write a sketch of `budget.expect`."""
    return b"".join([_COUNT.pack(bucket, counts[bucket]) for bucket in sorted(counts)])


def read_counts(value: bytes) -> dict[int, int]:
    """Read a sketch."""
    return dict(_COUNT.iter_unpack(value))


def seal(content: bytes) -> bytes:
    """Put a content behind its digest."""
    return hashlib.blake2b(content, digest_size=16).digest() + content


def keep(
    amounts: Amounts, pools: tuple[int, bytes, bytes], taken: bytes, digest: str, scope: Mapping[str, str],
    detail: Mapping[str, Any], parent: str | None = None,
) -> bytes:  # fmt: skip
    """Write what a store keeps of a request, sealed; scripts copy it as it is.

    Args:
        amounts: What was asked for.
        pools: How many, their ids (`pack_ids`), their units, a byte each.
        taken: What was taken from each, packed. It is left out where that is the amount of its unit, or nothing.
        digest: Of what the caller asked.
        scope, detail, parent: Of the reservation.
    """
    count, ids, units = pools
    asked = _pack_digest(digest)
    body = dumps((scope, detail, parent)).encode()
    shape = _COMPACT + count
    if not any(taken):
        shape, taken = shape + _NONE_TAKEN, b""
    elif None not in amounts:
        usual = (*amounts, 1)
        if taken == NUMBERS[count].pack(*[usual[unit] for unit in units]):
            shape, taken = shape + _ALL_TAKEN, b""
    widths = _WIDTHS.pack(shape, len(ids), len(asked))
    return seal(b"".join((pack_amounts(amounts), widths, units, taken, ids, asked, body)))


def pack_ids(ids: Sequence[str]) -> bytes:
    """Write the ids of pools. Those that are made of 96 bits (all but those of tests) are written as such."""
    if ids and all(len(id) == 16 for id in ids):
        raw = urlsafe_b64decode("".join(ids))
        if urlsafe_b64encode(raw).decode() == "".join(ids):
            return b"\0" + raw
    return "\n".join(ids).encode()


def _read_ids(packed: bytes) -> list[str]:
    if not packed.startswith(b"\0"):
        return packed.decode().split("\n")
    text = urlsafe_b64encode(packed[1:]).decode()
    return [text[i : i + 16] for i in range(0, len(text), 16)]


def _pack_digest(digest: str) -> bytes:
    return b"\0" + bytes.fromhex(digest) if _HEX.fullmatch(digest) else digest.encode()


def _read_digest(packed: bytes) -> str:
    return packed[1:].hex() if packed.startswith(b"\0") else packed.decode()


def _layout(kept: bytes) -> tuple[int, int, int, int]:
    """Return how many pools a request has, where their ids begin, and the bytes of these and of the digest."""
    shape, width, length = _WIDTHS.unpack_from(kept, _KEPT)
    start = _KEPT + _WIDTHS.size
    if shape < _COMPACT:
        return shape, start + 16 * shape, width, length
    count = shape % _NONE_TAKEN
    return count, start + count + (8 * count if shape - count == _COMPACT else 0), width, length


def read_kept(kept: bytes) -> tuple[Amounts, str, dict[str, str], dict[str, Any], str | None]:
    """Read what was kept of a request: amounts, digest, scope, detail, parent."""
    _, ids, width, length = _layout(kept)
    digest = ids + width
    scope, detail, parent = json.loads(kept[digest + length :])
    return read_amounts(kept[16:_KEPT]), _read_digest(kept[digest : digest + length]), scope, detail, parent


def read_shares(starts: bytes, kept: bytes) -> tuple[Share, ...]:
    """Read what a request took from which buckets (at 0 if it took nothing)."""
    count, ids, width, _ = _layout(kept)
    start = _KEPT + _WIDTHS.size
    units: Sequence[int] = kept[start : start + count]
    shape = _WIDTHS.unpack_from(kept, _KEPT)[0] - count
    if shape == 0:  # the first format
        numbers = list(map(int, NUMBERS[2 * count].unpack_from(kept, start)))
        units, taken = numbers[:count], numbers[count:]
    elif shape == _COMPACT:
        taken = list(map(int, NUMBERS[count].unpack_from(kept, start + count)))
    elif shape == _COMPACT + _ALL_TAKEN:
        usual: Any = (*read_amounts(kept[16:_KEPT]), 1)
        taken = [usual[unit] for unit in units]
    else:
        taken = [0] * count
    places = map(int, NUMBERS[count].unpack(starts)) if starts else (0,) * count
    return tuple(map(Share, _read_ids(kept[ids : ids + width]), units, places, taken))


def pack_amounts(amounts: Amounts) -> bytes:
    """Write five figures."""
    if None in amounts:
        amounts = tuple([-1 if amount is None else amount for amount in amounts])  # type: ignore[assignment]
    return _FIVE.pack(*amounts)


def read_amounts(packed: bytes) -> Amounts:
    """Read five figures; what was not said is None."""
    figures = _FIVE.unpack(packed)
    return tuple([None if figure < 0 else figure for figure in figures]) if min(figures) < 0 else figures  # type: ignore[return-value]


def _parts(record: bytes) -> tuple[bytes, list[int], bytes, bytes, bytes]:
    """Return state, times, what was charged, starts and kept of a reservation."""
    if record[:1] == _OPEN:
        code, *times, width = _FRESH.unpack_from(record)
        charged, start = bytes(_FIVE.size), _FRESH.size
    else:
        code, *times, width, charged = RECORD.unpack_from(record)
        start = RECORD.size
    moments = [*map(int, times), 0][:4]
    return code, moments, charged, record[start : start + width], record[start + width :]


def read_record(id: str, record: bytes) -> Reservation:
    """Read a reservation as a script stored it."""
    state, (lease, lease_end, made, ended), charged, starts, kept = _parts(record)
    amounts, digest, scope, detail, parent = read_kept(kept)
    return Reservation(
        id, digest, _STATES[state], amounts, read_shares(starts, kept), lease, lease_end, made, ended,
        None if _STATES[state] == "open" and not any(charged) else read_amounts(charged), scope, detail, parent,
    )  # fmt: skip


def pack_record(known: Reservation) -> bytes:
    """Write a reservation that has ended as a script stores it."""
    shares = known.shares
    taken, starts = (NUMBERS[len(shares)].pack(*[share[i] for share in shares]) for i in (3, 2))
    pools = (len(shares), pack_ids([share.pool for share in shares]), bytes(share.unit for share in shares))
    kept = keep(known.amounts, pools, taken, known.digest, known.scope, known.detail, known.parent)
    times = (known.lease_us, known.lease_end, known.made, known.ended)
    code = next(code for code, state in _STATES.items() if state == known.state)
    return RECORD.pack(code, *times, len(starts), pack_amounts(known.charged or (0, 0, 0, 0, 0))) + starts + kept


class Named(NamedTuple):
    """The shares of a stored reservation, and the ids of their pools as they stand there."""

    shares: tuple[Share, ...]
    ids: bytes


def named_in(record: bytes) -> Named:
    """Read the shares of a reservation alone."""
    *_, starts, kept = _parts(record)
    _, ids, width, _ = _layout(kept)
    return Named(read_shares(starts, kept), kept[ids : ids + width])


def read_bucket(value: bytes) -> Bucket | None:
    """Read a bucket as an answer shows it; None where a pool has none now."""
    start, end, *rest = map(int, NUMBERS[len(value) // 8].unpack(value))
    return Bucket(start, end, *rest) if end else None


def read_buckets(value: bytes) -> list[Bucket]:
    """Read a pool's value: its newest bucket, and of a rolling pool the older parts, too."""
    numbers = list(map(int, NUMBERS[len(value) // 8].unpack(value)))
    found = [Bucket(*numbers[:7])]
    size = found[0].end - found[0].start
    for start, spent, reserved in zip(numbers[7::3], numbers[8::3], numbers[9::3], strict=True):
        found.append(found[0]._replace(start=start, end=start + size, spent=spent, reserved=reserved))
    return found


class Marker(NamedTuple):
    """An account's marker: policy version, number and digest of the last entry, and the epoch (0: it has none yet)."""

    version: int = 0
    seq: int = 0
    head: bytes = GENESIS
    epoch: int = 0


def read_place(value: bytes) -> tuple[int, int, int]:
    """Read policy version, sequence number and epoch of a marker alone, which every answer carries."""
    if len(value) <= _FIRST_MARKER.size:
        return (*read_marker(value)[:2], 0)
    version, seq, epoch = _PLACE.unpack_from(value, _BEFORE_VERSION)
    return int(version), int(seq), int(epoch)


def read_marker(value: bytes | None) -> Marker:
    """Read a marker, also one of the format before epochs."""
    if not value:
        return Marker()
    if len(value) == _FIRST_MARKER.size:
        version, seq, head = _FIRST_MARKER.unpack(value)
        epoch = 0
    else:
        version, seq, epoch, head = _MARKER.unpack_from(value, _BEFORE_VERSION)
    return Marker(int(version), int(seq), bytes.fromhex(head.decode()) if seq else GENESIS, int(epoch))


class Buckets(Sequence["Bucket | None"]):
    """The buckets of a reply, read when somebody looks at them, which few callers do."""

    def __init__(self, packed: bytes):
        self._packed = packed
        self._read: list[Bucket | None] | None = None

    def _all(self) -> list[Bucket | None]:
        if self._read is None:
            self._read = [Bucket(*map(int, six)) if six[1] else None for six in BUCKET.iter_unpack(self._packed)]
        return self._read

    def __len__(self) -> int:
        return len(self._packed) // BUCKET.size

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]


NOTHING_KEPT = keep((0, 0, 0, 0, 0), (0, b"", b""), b"", "", {}, {})
