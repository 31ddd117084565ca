"""The scratch store: the memory store without what a replay never asks for, so that a trace of any length needs no more
memory than its pools do.

The decision is the same (`budget.pool`). There is no ledger, a reservation is forgotten when it has ended, nothing ever
expires, and of a pool's windows those stay that are open: the newest, and any that a call still under way began in.
"""

from __future__ import annotations

from collections.abc import Sequence

from budget.commands import Bucket, Command, Outcome, Reservation
from budget.ledger import Entry
from budget.pool import apply
from budget.stores.memory import MemoryStore, _MemoryState

__all__ = ["Scratch"]


class _State(_MemoryState):
    def put_reservation(self, reservation: Reservation) -> None:
        if reservation.state == "open":
            self.reservations[reservation.id] = reservation
        else:
            self.reservations.pop(reservation.id, None)

    def put_bucket(self, pool: str, bucket: Bucket, name: str | None = None) -> None:
        super().put_bucket(pool, bucket, name)
        buckets = self.pools[pool]
        if len(buckets) > 1 and not bucket.span:
            newest = self.last[pool].start
            for start in [start for start, old in buckets.items() if start != newest and not old.reserved]:
                del buckets[start]

    def due(self, now: int, most: int) -> Sequence[str]:
        return ()

    def append(self, entry: Entry) -> None:
        pass


class Scratch(MemoryStore):
    """A store for replays, private to its object."""

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Carry out a command; one thread uses the store, and nothing is posted."""
        state = self._states.get(account)
        if state is None:
            state = self._states[account] = _State()
        return apply(state, command, self._clock() if now is None else now)
