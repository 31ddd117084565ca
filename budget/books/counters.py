"""What the counters of an account should be: which are wrong, which are gone, and which hold what no reservation holds.

A bucket that is gone is made again from the sums of its entries and the name of its pool. When its window ends is no
part of the ledger: the limit says it, if it is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from budget.audit import Auditor, Key
from budget.buckets import part_length
from budget.commands import Bucket, Reservation
from budget.ends import kept
from budget.limits import Limit
from budget.money import MAX
from budget.policy import read_name
from budget.stores.base import Snapshot
from budget.window import FOREVER, Window, at_zone, bounds

__all__ = ["lost_buckets", "unheld", "wrong_buckets"]


def wrong_buckets(auditor: Auditor, found: Snapshot) -> dict[Key, Bucket]:
    """Return the buckets whose counters are not what the ledger says, as they should be."""
    wrong = {}
    for key, bucket in found.buckets.items():
        spent, reserved = auditor.sums.get(key, (0, 0))
        right = bucket.at(min(spent, MAX), min(reserved, MAX))
        # A counter that stood at its ceiling stays there: what came after was not added to it.
        if right != bucket and (bucket.spent != MAX or reserved != bucket.reserved):
            wrong[key] = right
    return wrong


def lost_buckets(auditor: Auditor, found: Snapshot, gone: Sequence[Key], limits: Iterable[Limit]) -> dict[Key, Bucket]:
    """Return buckets that are gone, as they should be; none of a pool whose name is gone, too."""
    known = {limit.identity: limit for limit in limits}
    starts: dict[str, list[int]] = {}
    for pool, start in (*found.buckets, *gone):
        starts.setdefault(pool, []).append(start)
    made = {}
    for pool, start in gone:
        if pool in found.names:
            end, span = _end(found.names[pool], start, known)
            end = min([end, *(later for later in starts[pool] if later > start)])
            spent, reserved = auditor.sums[pool, start]
            made[pool, start] = Bucket(start, end, start, min(spent, MAX), min(reserved, MAX), 0, span)
    return made


def _end(name: str, start: int, known: Mapping[tuple[Any, ...], Limit]) -> tuple[int, int]:
    """Return when a bucket of a pool ends that begins at an instant, and the length of a rolling window."""
    identity, _ = read_name(name)
    window, limit = Window.parse(identity[3]), known.get(identity)
    if not window.calendar:
        return start + part_length(window.span) if window.span else FOREVER, window.span
    if limit is not None:
        return bounds(window, start, limit.tz, limit.starts)[1], 0
    first, end = bounds(window, start)  # nobody knows its zone: it is as long as the one in UTC
    return start + end - first, 0


def unheld(found: Snapshot, held: Iterable[Reservation]) -> list[str]:
    """Say which pools have more or less reserved than the open reservations hold of them."""
    sums: dict[Key, int] = {}
    for known in held:
        for share in known.shares:
            key = (share.pool, share.start)
            sums[key] = sums.get(key, 0) + kept(known, share)
    return [
        f"pool {key[0]} from {at_zone(key[1]).isoformat()}: open reservations hold {sums.get(key, 0)}, "
        f"the pool says {bucket.reserved} reserved"
        for key, bucket in found.buckets.items() if bucket.reserved != sums.get(key, 0)
    ]  # fmt: skip
