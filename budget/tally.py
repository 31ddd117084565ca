"""What a process has seen of one run's money and calls: in the latest answers about the run's own pools, else by adding
up its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from budget.commands import Amounts, Bucket, Reservation
from budget.limits import UNITS, Limit
from budget.money import MAX
from budget.policy import match

__all__ = ["Tally"]


class Tally:
    """The figures of one run.

    Args:
        limits: The run's own limits.
        scope: Its attributes.

    Attributes:
        limits: Those of its limits that say how much it may use in all, by unit. One of the largest amount there is
            only counts, across processes, and is none of them.
    """

    def __init__(self, limits: Sequence[Limit], scope: Mapping[str, str]):
        whole = {limit.unit: limit for limit in limits if limit.window.kind == "run"}
        self.limits = {unit: limit for unit, limit in whole.items() if limit.quantity < MAX}
        found = {unit: match(limit, scope).pool for unit, limit in whole.items()}
        self._pools = {unit: pool for unit, pool in found.items() if pool is not None}
        self._seen: dict[str, Bucket] = {}
        self._ended = [0, 0, 0, 0, 0]
        self._open: dict[str, Amounts] = {}

    @property
    def pools(self) -> list[str]:
        """The ids of the pools of its limits."""
        return list(self._pools.values())

    def saw(self, reservation: Reservation, buckets: Sequence[Bucket | None]) -> None:
        """Take note of an answer of the store about one of the run's calls."""
        if reservation.state == "open":
            self._open[reservation.id] = reservation.amounts
        else:
            known = self._open.pop(reservation.id, None)
            if known is not None and reservation.charged is not None:
                self._ended = [t + (c or 0) for t, c in zip(self._ended, reservation.charged, strict=True)]
        if self._pools:  # most runs have no limit of their own
            for share, bucket in zip(reservation.shares, buckets, strict=False):
                self.took(share.pool, bucket)

    def took(self, pool: str, bucket: Bucket | None) -> None:
        """Take note of a pool, if it is one of its own."""
        if bucket is not None and pool in self._pools.values():
            self._seen[pool] = bucket

    def spent(self, unit: str) -> int:
        """What is spent in a unit."""
        bucket = self._bucket(unit)
        return self._ended[UNITS.index(unit)] if bucket is None else bucket.spent

    def reserved(self, unit: str) -> int:
        """What is reserved in a unit."""
        bucket = self._bucket(unit)
        if bucket is not None:
            return bucket.reserved
        index = UNITS.index(unit)
        return sum(amounts[index] or 0 for amounts in list(self._open.values()))

    def left(self, unit: str) -> int | None:
        """What may still be used in a unit; None if that is not limited."""
        limit = self.limits.get(unit)
        return None if limit is None else limit.quantity - self.spent(unit) - self.reserved(unit)

    def _bucket(self, unit: str) -> Bucket | None:
        return self._seen.get(self._pools.get(unit, ""))
