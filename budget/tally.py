"""What a process has seen of one run's money and calls: in the latest answers about the run's own pools, else by adding
up its calls and records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import get_ident

from budget.commands import Amounts, Bucket, Draw, Reservation
from budget.limits import UNITS, Limit
from budget.money import MAX
from budget.policy import match

__all__ = ["Tally"]

_NOTHING: Amounts = (0, 0, 0, 0, 0)
_MOST = 8192  # records that are known at once


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
        self._allowed: dict[str, int] = {}  # by pool, with what the limit was raised by
        self._ended: dict[int, list[int]] = {}  # each thread adds up its own
        self._open: dict[str, Amounts] = {}
        self._recorded: dict[str, object] = {}  # the latest, by id

    @property
    def pools(self) -> list[str]:
        """The ids of the pools of its limits."""
        return list(self._pools.values())

    def saw(self, reservation: Reservation, buckets: Sequence[Bucket | None], draws: Sequence[Draw] = ()) -> None:
        """Take note of an answer of the store about one of the run's calls, and of what that drew on."""
        if reservation.state == "open":
            self._open[reservation.id] = reservation.amounts
        else:
            known = self._open.pop(reservation.id, None)
            if known is not None:
                self._add(reservation.charged or _NOTHING)
        self._look(reservation, buckets)
        if self._pools:
            own = self._pools.values()
            self._allowed |= {draw.pool: draw.limit for draw in draws if draw.pool is not None and draw.pool in own}

    def recorded(self, made: Reservation, buckets: Sequence[Bucket | None]) -> None:
        """Take note of an answer of the store about a record; one that is made again counts once."""
        mark = object()
        if self._recorded.setdefault(made.id, mark) is mark:
            self._add(made.charged or _NOTHING)
        if len(self._recorded) > _MOST:
            for id in list(self._recorded)[: _MOST // 2]:
                self._recorded.pop(id, None)
        self._look(made, buckets)

    def _add(self, charged: Amounts) -> None:
        """Add to what calls have cost. It takes no lock: a finalizer may do this in the midst of anything."""
        mine = self._ended.setdefault(get_ident(), [0, 0, 0, 0, 0])
        for unit, cost in enumerate(charged):
            if cost:
                mine[unit] += cost  # one step for Python, so that such a finalizer's addition is not lost

    def _look(self, reservation: Reservation, buckets: Sequence[Bucket | None]) -> None:
        if self._pools:  # most runs have no limit of their own
            for share, bucket in zip(reservation.shares, buckets, strict=False):
                self.took(share.pool, bucket)

    def took(self, pool: str, bucket: Bucket | None, more: int | None = None) -> None:
        """Take note of a pool, if it is one of its own, and by how much its limit is raised, if one knows."""
        if more is not None:
            for unit, limit in self.limits.items():
                if self._pools[unit] == pool:
                    self._allowed[pool] = limit.quantity + more
        if bucket is not None and pool in self._pools.values():
            self._seen[pool] = bucket

    def spent(self, unit: str) -> int:
        """What is spent in a unit."""
        bucket = self._bucket(unit)
        if bucket is not None:
            return bucket.spent
        index = UNITS.index(unit)
        return sum(ended[index] for ended in list(self._ended.values()))

    def reserved(self, unit: str) -> int:
        """What is reserved in a unit."""
        bucket = self._bucket(unit)
        if bucket is not None:
            return bucket.reserved
        index = UNITS.index(unit)
        return sum(amounts[index] or 0 for amounts in list(self._open.values()))

    def most(self, unit: str) -> int | None:
        """What may be used in a unit in all; None if that is not limited."""
        limit = self.limits.get(unit)
        return None if limit is None else self._allowed.get(self._pools[unit], limit.quantity)

    def left(self, unit: str) -> int | None:
        """What may still be used in a unit; None if that is not limited."""
        most = self.most(unit)
        return None if most is None else most - self.spent(unit) - self.reserved(unit)

    def _bucket(self, unit: str) -> Bucket | None:
        return self._seen.get(self._pools.get(unit, ""))
