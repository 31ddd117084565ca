"""Sketches: distributions in constant space, as integers, that processes add to one another.

A sketch counts values in buckets whose width grows with the value: below 32 each value has a bucket of its own, above
it each doubling has 32, so that a quantile is at most 3.2 % above the value it stands for, and never below it (a
log-linear histogram, as of HdrHistogram). All that happens to a sketch is addition, so increments of many processes
arrive in any order and none is lost, and one rule of ageing: a sketch of more than `WINDOW` values is halved, and so
forgets slowly what no longer holds. Halving keeps the cumulative counts, not each bucket's, so that the tail neither
grows nor vanishes by rounding.

Lua has the same in `stores/lua/learn.lua`, with the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

__all__ = [
    "LEVELS", "MILLION", "SKETCHES", "WINDOW", "Counts", "Learned", "bucket_of", "halved", "learn", "mean",
    "most_common", "plus", "quantile", "top_of",
]  # fmt: skip

Counts = Mapping[int, int]
"""How many values fell into each bucket."""
WINDOW = 4096
"""Values from which a sketch is halved: what is older than that many calls counts at most half."""
SKETCHES = 2048
"""Sketches that an account keeps; when it is full all are halved, and those of a single value go."""
MILLION = 1_000_000
LEVELS = {"max": 0, "p99": 7_000, "p95": 30_000, "expected": MILLION}
"""What `reserve_at` may be, and of how many of a million calls it lets the cost exceed what is set aside (a million:
take the mean). The names allow 10,000 and 50,000; the rest is room for what a forecast does not know (see
bench_reserve_at)."""
_FINE = 32
_BITS = 5
_VALUE_MAX = 2**53 - 1


class Learned(Protocol):
    """The sketches of one account, by name, as a store keeps them."""

    def learned(self, name: str) -> Counts | None: ...
    def put_learned(self, name: str, counts: Counts | None) -> None: ...
    def learned_names(self) -> Sequence[str]: ...


def bucket_of(value: int) -> int:
    """Return the bucket of a value; what is negative counts as 0, what is beyond 2^53 - 1 as that."""
    if value < _FINE:
        return max(0, value)
    value = min(value, _VALUE_MAX)
    shift = value.bit_length() - _BITS - 1
    return (shift + 1) * _FINE + (value >> shift) - _FINE


def top_of(bucket: int) -> int:
    """Return the largest value of a bucket."""
    if bucket < _FINE:
        return bucket
    shift = bucket // _FINE - 1
    return ((bucket % _FINE + _FINE + 1) << shift) - 1


def quantile(counts: Counts, miss: int) -> int:
    """Return what the next value exceeds with a chance of at most `miss` millionths, if it is of the same kind.

    By the ranks of exchangeable values: of n known ones, the r-th smallest is exceeded by the next one with chance
    1 - r / (n + 1). Where n is too small for that, the largest is taken times the factor by which a tail of index 1
    (chance inverse to size) goes on: heavier than the tails of answers' lengths, so the error is on the safe side.
    """
    total = sum(counts.values())
    rank = -(-(total + 1) * (MILLION - miss) // MILLION)
    if rank > total:
        return top_of(max(counts)) * MILLION // (miss * (total + 1))
    seen = 0
    for bucket in sorted(counts):
        seen += counts[bucket]
        if seen >= rank:
            return top_of(bucket)
    raise AssertionError("a rank is at most the total")


def mean(counts: Counts) -> int:
    """Return the mean, each value taken for the middle of its bucket."""
    total = sum(counts.values())
    return sum((top_of(b - 1) + 1 + top_of(b)) * n for b, n in counts.items()) // (2 * total)


def most_common(counts: Counts) -> int:
    """Return the bucket with the most values, the smaller of two."""
    return max(counts, key=lambda bucket: (counts[bucket], -bucket))


def plus(known: Counts, more: Counts) -> dict[int, int]:
    """Return the sum of two sketches, halved while it is too large."""
    found = dict(known)
    for bucket, count in more.items():
        found[bucket] = found.get(bucket, 0) + count
    while sum(found.values()) > WINDOW:
        found = halved(found)
    return found


def halved(counts: Counts) -> dict[int, int]:
    """Return a sketch of half as many values; its cumulative counts are half of what they were, rounded down."""
    found, seen = {}, 0
    for bucket in sorted(counts):
        before, seen = seen, seen + counts[bucket]
        if kept := seen // 2 - before // 2:
            found[bucket] = kept
    return found


def learn(state: Learned, more: Mapping[str, Counts]) -> dict[str, Counts]:
    """Add increments to an account's sketches, and return what these are now; without any, return all sketches.

    A new sketch that finds no room, even after the others were halved, is not kept.
    """
    names = set(state.learned_names())
    for name in sorted(more.keys() - names):
        if len(names) >= SKETCHES:
            names = _age(state, names)
        if len(names) < SKETCHES:
            names.add(name)
    for name in more.keys() & names:
        state.put_learned(name, plus(state.learned(name) or {}, more[name]))
    return {name: state.learned(name) or {} for name in (more if more else names)}


def _age(state: Learned, names: set[str]) -> set[str]:
    kept = set()
    for name in names:
        counts = halved(state.learned(name) or {})
        state.put_learned(name, counts or None)
        kept |= {name} if counts else set()
    return kept
