"""What the store has answered: what of it a verb returns, and who else is told of it.

The runs of a call keep figures of their own, those who wait know how much room there is, and somebody is to be warned
before a limit refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

from budget.asks import filled
from budget.commands import Amounts, Bucket, Draw, Outcome, Reservation
from budget.config import Settings
from budget.errors import ReservationConflict, StoreUnavailable
from budget.policy import Match
from budget.run import Run
from budget.stores.base import Store
from budget.thresholds import Thresholds
from budget.verbs.applies import Applies, Flow
from budget.waiting.line import Line

__all__ = ["Answers"]

_pool_of = attrgetter("pool")


class Answers(Applies):
    """Takes the store's answers about reservations.

    Attributes:
        line: Who waits for room.
    """

    def __init__(self, settings: Settings, drive: Callable[[Flow], Any], store: Store):
        super().__init__(settings, drive)
        self.line = Line(store, settings.account, self.clock)
        self._thresholds = Thresholds(settings.on_warning)
        self._run_of: WeakValueDictionary[str, Run] = WeakValueDictionary()

    def _admitted(
        self, run: Run | None, matches: Sequence[Match], draws: Sequence[Draw], outcome: Outcome
    ) -> Reservation:
        """Take note of a reserve that was not refused."""
        if outcome.status == "reserved":
            self.line.told(zip(map(_pool_of, draws), outcome.buckets, strict=False), outcome.seq)
            if self._policy is not None and self._policy.warns:
                self._thresholds.look(matches, draws, outcome.buckets)
        reservation = _kept(outcome)
        if run is not None:
            pairs = zip(draws, outcome.buckets, strict=False)
            buckets = [bucket for draw, bucket in pairs if draw.pool is not None]  # of a cap there is no share either
            self._run_of[reservation.id] = run
            for each in run.chain():
                each.saw(reservation, buckets, draws)
        return reservation

    @staticmethod
    def _stored(run: Run | None, outcome: Outcome, buckets: Sequence[Bucket | None]) -> Reservation:
        """Return what the store keeps of a record; `buckets` are those of its shares."""
        made = _kept(outcome)
        for each in () if run is None else run.chain():
            each.recorded(made, buckets)
        return made

    def _ended(self, id: str, outcome: Outcome) -> Reservation:
        """Return the reservation as it has ended."""
        assert outcome.reservation is not None
        if outcome.status == "conflict":
            state = outcome.reservation.state
            raise ReservationConflict(f"reservation {id} is already {state}, with other figures")
        self.note(id, outcome)
        self.line.told(zip(map(_pool_of, outcome.reservation.shares), outcome.buckets, strict=False), outcome.seq)
        return outcome.reservation

    def note(self, id: str, outcome: Outcome) -> None:
        """Let the runs of a call know what the store answered about its end."""
        run = self._run_of.pop(id, None) if self._run_of else None
        if run is not None and outcome.reservation is not None:
            for each in run.chain():
                each.saw(outcome.reservation, outcome.buckets)

    def presume(self, known: Reservation, amounts: Amounts, refund: bool) -> None:
        """Let the runs of a call know of an end whose answer nobody waits for."""
        charged = (0, 0, 0, 0, 0) if refund else filled(amounts, known.amounts)
        ended = known.ended_as("refunded" if refund else "reconciled", 0, charged)
        self.note(known.id, Outcome(ended.state, 0, 0, reservation=ended))


def _kept(outcome: Outcome) -> Reservation:
    """Return the reservation that the store keeps, or raise if it took nothing."""
    if outcome.status == "clock":
        raise StoreUnavailable("the clock went back by more than 5 s; nothing is admitted until it catches up")
    reservation = outcome.reservation
    assert reservation is not None
    if outcome.status == "conflict":
        raise ReservationConflict(f"id {reservation.id}: it was used with other arguments")
    return reservation
