"""Reserve: from what is asked for to what is set aside, here and in the account above, or to a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Self

from budget.above import Also
from budget.asks import Ask, digest
from budget.commands import Draw, Outcome, Refund, Reserve
from budget.errors import BudgetError, BudgetExceeded, Frozen, ReservationConflict, RunStopped, StoreUnavailable
from budget.ledger import dumps
from budget.limits import CONCURRENT
from budget.policy import Match
from budget.refusals import exceeded, frozen_error
from budget.verbs.applies import TRIES, Flow, not_too_many
from budget.verbs.checks import Checks
from budget.waiting.line import Line, Place

__all__ = ["Patience", "Reserves"]

Patience = Callable[[BudgetExceeded], float]
"""Says for how many seconds to wait after a refusal, 0 for not at all."""


class Reserves(Checks):
    """Sets aside what a call may cost."""

    def reserve(
        self, ask: Ask, id: str, lease_us: int, parent: str | None = None, place: Place | None = None,
        patience: Patience | None = None,
    ) -> Flow:  # fmt: skip
        """Set aside what was asked for in every pool, or raise; return the stored `Reservation`.

        Every attempt of a call that waits (it has a `place`) has the same id: one that arrives late is still its own.
        One that has none waits if it is refused and `patience` says for how long.
        """
        forecast = None
        if ask.estimate is not None:
            self._watch(ask)
            forecast = yield from self._expect(ask, ask.estimate)
        held_us = lease_us
        if self.above is not None and place is not None:  # it may wait there while it is set aside here
            held_us += place.left_us
        words = (id, digest(ask, lease_us, parent), held_us, parent)
        matches, draws, outcome = yield from _or_wait(partial(self._here, ask, words), self.line, place, patience)
        known = outcome.reservation
        if self.above is not None and known is not None and known.state == "refunded":
            raise ReservationConflict(f"id {id}: it was given back, so it is used up; use another one")
        if forecast is not None:
            self.learner.opened(id, forecast)
        if self.above is not None:
            yield from self._also_above(self.above, ask, id, lease_us, place, patience)
        return self._admitted(ask.run, matches, draws, outcome)

    def _here(self, ask: Ask, words: tuple[str, str, int, str | None], place: Place | None) -> Flow:
        """Set it aside in this account, waiting where there is a place; return matches, draws and the outcome."""
        try:
            while True:
                matches, draws, outcome = yield from self._attempt(ask, words, place)
                if outcome.status != "refused":
                    return matches, draws, outcome
                if place is None or not place.stays(draws, outcome) or not (yield place):
                    raise (yield from self._exceeded(ask, matches, draws, outcome))
        finally:
            if place is not None:
                place.leave()

    def _exceeded(self, ask: Ask, matches: Sequence[Match], draws: Sequence[Draw], outcome: Outcome) -> Flow:
        """Return the error of a refusal; what it advises is to fit in the account above, too, which is looked at."""
        rules, drawn, buckets, known = tuple(matches), tuple(draws), tuple(outcome.buckets), ask
        if self.above is not None and ask.estimate is not None and ask.estimate.closed:
            try:
                more = yield Also(self.above.look(ask.above(None)))
            except BudgetError:
                known = replace(ask, estimate=None)  # no shorter answer fits, or nobody knows
            else:
                rules, drawn, buckets = (*rules, *more[0]), (*drawn, *more[1]), (*buckets, *more[2])
        return exceeded(known, rules, drawn, buckets, outcome.refused, *self._advice(ask))

    def _also_above(
        self, above: Self, ask: Ask, id: str, lease_us: int, place: Place | None, patience: Patience | None
    ) -> Flow:
        """Have the account above set it aside too; if it does not, nothing is set aside here either."""
        room = None if place is None else above.line.place(place.left_us / 1e6)
        try:
            yield Also(above.reserve_too(ask.above(self._fits(ask)), id, lease_us, room, patience), held=id)
        except BudgetError as error:
            if isinstance(error, BudgetExceeded):
                error.name_account(above.settings.account)
            self.learner.ended(id)
            yield Refund(id, {"outcome": "not admitted above"})
            raise

    def reserve_too(self, ask: Ask, id: str, lease_us: int, place: Place | None, patience: Patience | None) -> Flow:
        """Set aside what a call takes that an account below has admitted; what is learned of it is learned there."""
        words = (id, digest(ask, lease_us, None), lease_us, None)
        return self._admitted(None, *(yield from _or_wait(partial(self._here, ask, words), self.line, place, patience)))

    def _attempt(self, ask: Ask, words: tuple[str, str, int, str | None], place: Place | None) -> Flow:
        """Ask the store once, with the policy and the windows that hold now; return matches, draws and the outcome."""
        id, asked, lease_us, parent = words
        for _ in range(TRIES):
            now, policy = self.clock.now(), self._policy
            if policy is None or now >= policy.changes_at:
                policy = yield from (self._policy_of_costs() if self._goes_on else self.policy())
                now = self.clock.now()
            frozen = self._guard(policy, ask)
            matches = not_too_many(self._matches(policy, ask))
            draws = policy.draws(matches, ask.amounts, now, ask.most)
            if ask.extends:  # its call has a slot
                draws = [draw._replace(amount=0) if draw.unit == CONCURRENT else draw for draw in draws]
            if place is not None and frozen is None and place.queues(draws):
                if not (yield place):
                    raise StoreUnavailable("the budget was closed while the call waited for its turn")
                continue
            outcome = yield Reserve(
                id, asked, ask.amounts, draws, policy.version, lease_us, ask.scope, ask.detail,
                None if frozen is None else dumps(frozen), parent,
            )  # fmt: skip
            self.clock.saw(outcome.now, now)
            if outcome.status == "refused" and frozen is not None:
                raise frozen_error(ask, frozen)
            if outcome.status not in ("stale_policy", "stale_window"):
                return matches, draws, outcome
            if outcome.status == "stale_policy":
                self.forget_policy()
        raise StoreUnavailable("the policy or the window changed at every try")


def _or_wait(
    attempt: Callable[[Place | None], Flow], line: Line, place: Place | None, patience: Patience | None
) -> Flow:
    """Make an attempt. Where it is refused without a place, and `patience` gives it time: wait for room, and again."""
    try:
        return (yield from attempt(place))
    except BudgetExceeded as refused:
        seconds = patience(refused) if place is None and patience is not None else 0.0
        if not seconds:
            raise
        try:
            return (yield from attempt(line.place(seconds)))
        except (Frozen, RunStopped):
            raise
        except BudgetExceeded:
            raise refused from None
