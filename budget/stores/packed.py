"""How values look that the scripts of a Redis store keep: figures, buckets, markers. Reservations are in `kept.py`.

The other side of `lua/prelude.lua`. Numbers are doubles, exact up to 2^53 - 1; the five figures
of a request or an end are 8-byte integers, for those of an end may be larger. A text that the ledger's chain must cover
travels behind its own digest ("sealed"), so that a script hashes 16 bytes and not all of it.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

from budget.commands import Amounts, Bucket, Draw, Share, new
from budget.ledger import GENESIS

__all__ = [
    "BUCKET", "CHARGED", "KINDS", "NUMBERS", "Buckets", "Marker", "Shares", "pack_amounts", "pack_counts",
    "read_amounts", "read_bucket", "read_buckets", "read_counts", "read_marker", "read_place", "seal",
]  # fmt: skip

KINDS = {
    b"v": "reserved", b"r": "reconciled", b"f": "refunded", b"x": "expired", b"b": "recorded", b"l": "limit_set",
    b"m": "limit_unset", b"z": "frozen", b"u": "unfrozen", b"a": "adjusted", b"d": "adjust_ended", b"c": "fenced",
    b"g": "unfenced", b"k": "backfilled", b"w": "recovered", b"t": "returned", b"q": "rebuilt",
}  # fmt: skip
"""What the scripts call an entry."""


class _Numbers(dict[int, Struct]):
    def __init__(self, each: str):
        self._each = each

    def __missing__(self, count: int) -> Struct:
        made = self[count] = Struct("<" + self._each * count)
        return made


NUMBERS = _Numbers("d")
"""So many numbers in a row."""
BUCKET = NUMBERS[6]
_STARTS = _Numbers("d40x")
"""The starts of so many buckets in a row."""
_FIVE = Struct("<5q")
_COUNT = Struct("<HI")  # bucket, how many values
CHARGED = _FIVE.size
"""Bytes of five figures."""
_MARKER = Struct("<3d40s")  # of a marker: version, sequence, epoch, digest; before them guards, times and format
_PLACE = Struct("<3d")
_BEFORE_VERSION = 40
_FIRST_MARKER = Struct("<2d16x40s")  # of the first format: version, sequence, digest
def pack_counts(counts: Mapping[int, int]) -> bytes:
    """Write a sketch of `budget.expect`."""
    return b"".join([_COUNT.pack(bucket, counts[bucket]) for bucket in sorted(counts)])


def read_counts(value: bytes) -> dict[int, int]:
    """Read a sketch."""
    return dict(_COUNT.iter_unpack(value))


def seal(content: bytes) -> bytes:
    """Put a content behind its digest."""
    return hashlib.blake2b(content, digest_size=16).digest() + content


def pack_amounts(amounts: Amounts) -> bytes:
    """Write five figures."""
    if None in amounts:
        amounts = tuple([-1 if amount is None else amount for amount in amounts])  # type: ignore[assignment]
    return _FIVE.pack(*amounts)


def read_amounts(packed: bytes) -> Amounts:
    """Read five figures; what was not said is None."""
    figures = _FIVE.unpack(packed)
    return tuple([None if figure < 0 else figure for figure in figures]) if min(figures) < 0 else figures  # type: ignore[return-value]


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


class _Later(Sequence[Any]):
    """What a reply tells in a packed form, read when somebody looks at it, which few callers do."""

    __slots__ = ("_read",)
    _read: tuple[Any, ...] | None

    @abstractmethod
    def _items(self) -> tuple[Any, ...]: ...

    def _all(self) -> tuple[Any, ...]:
        if self._read is None:
            self._read = self._items()
        return self._read

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[Any]:
        yield from self._all()  # not before the first is asked for

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, _Later) else other)

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (self._all(),)


class Buckets(_Later):
    """The buckets of a reply; None where a pool has none now."""

    __slots__ = ("_packed",)

    def __init__(self, packed: bytes):
        self._packed, self._read = packed, None

    def _items(self) -> tuple[Bucket | None, ...]:
        return tuple([Bucket(*map(int, six)) if six[1] else None for six in BUCKET.iter_unpack(self._packed)])

    def __len__(self) -> int:
        return len(self._packed) // BUCKET.size


class Shares(_Later):
    """What a reserve took.

    Args:
        pools: The ids of the pools.
        draws: What was asked of each.
        starts: Where their windows start, one number of each, or their buckets.
    """

    __slots__ = ("_draws", "_starts", "pools")

    def __init__(self, pools: tuple[str, ...], draws: Sequence[Draw], starts: bytes):
        self.pools, self._draws, self._starts, self._read = pools, draws, starts, None

    def _items(self) -> tuple[Share, ...]:
        count = len(self.pools)
        numbers = NUMBERS if len(self._starts) == 8 * count else _STARTS
        starts = map(int, numbers[count].unpack_from(self._starts))
        rows = zip(self.pools, self._draws, starts, strict=True)
        return tuple([new(Share, (pool, draw.unit, start, draw.amount)) for pool, draw, start in rows])

    def __len__(self) -> int:
        return len(self.pools)
