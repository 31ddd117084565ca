"""What calls have cost: `reconcile`, `refund`, `record`, and what of it the store was told late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from budget.above import Also
from budget.asks import Ask, digest, filled
from budget.commands import Amounts, Reconcile, Record, Refund, Reservation
from budget.errors import StoreUnavailable
from budget.verbs.applies import TRIES, Flow
from budget.verbs.reserves import Reserves

__all__ = ["Verbs"]


class Verbs(Reserves):
    """The verbs of one engine.

    Args:
        settings: What the engine is made of.
        drive: Runs a flow to its end, blocking; for questions that an error or a run asks later.
        store: Where the commands go; those who wait for room watch it.
    """

    def reconcile(self, reservation: Reservation | str, actual: Amounts, detail: Mapping[str, Any]) -> Flow:
        """Replace a reservation by the true cost."""
        id, known = _named(reservation)
        command = Reconcile(id, actual, detail, known=known)
        outcome = yield command
        if outcome.status == "unknown":
            outcome = yield from self._booked(command, outcome.now)
        ended = self._ended(id, outcome)
        if outcome.status == "reconciled" and actual[0] is not None:
            self.learner.learn(ended, actual[0], detail)
        if self.above is not None:  # its pools are others
            yield Also(self.above.reconcile(ended._replace(shares=()), filled(actual, ended.amounts), detail))
        return ended

    def _booked(self, command: Reconcile, now: int) -> Flow:
        """Book a cost whose reservation the store does not know all the same; return the outcome."""
        id, known = command.id, command.known
        made, scope = (known.made, dict(known.scope)) if known else (now, {})
        ask = Ask(filled(command.actual, known.amounts if known else None), scope, self._run_of.get(id), {})
        policy = yield from self._policy_of_costs()
        draws = policy.draws(self._matches(policy, ask), ask.amounts, made)
        detail = {**(known.detail if known else {}), **command.detail}
        outcome = yield Reconcile(id, ask.amounts, detail, draws, scope, made, known)
        return outcome

    def refund(self, reservation: Reservation | str, detail: Mapping[str, Any]) -> Flow:
        """Make a reservation available again."""
        id, known = _named(reservation)
        outcome = yield Refund(id, detail, known)
        self.learner.ended(id)
        ended = self._ended(id, outcome)
        if self.above is not None:
            yield Also(self.above.refund(id, detail))
        return ended

    def record(self, ask: Ask, id: str) -> Flow:
        """Book spend that had no reservation."""
        asked = digest(ask, 0, None)
        self._watch(ask)
        for _ in range(TRIES):
            policy = yield from self._policy_of_costs()
            now = self.clock.now()
            draws = policy.draws(self._matches(policy, ask), ask.amounts, now)
            outcome = yield Record(id, asked, ask.amounts, draws, policy.version, ask.scope, ask.detail)
            self.clock.saw(outcome.now, now)
            if outcome.status not in ("stale_policy", "stale_window"):
                if self.above is not None:
                    yield Also(self.above.record(replace(ask, run=None), id))
                return self._stored(ask.run, outcome, outcome.buckets)
            if outcome.status == "stale_policy":
                self.forget_policy()
        raise StoreUnavailable("the policy or the window changed at every try")

    def replay(self, command: Reconcile | Refund | Record, at: int) -> Flow:
        """Carry out a command that has waited for the store since an instant; return the outcome.

        A record belongs into the windows of that instant, as a reconcile does, and under the limits of then.
        """
        if isinstance(command, Reconcile):
            command = replace(command, draws=None)
        outcome = yield command
        if isinstance(command, Reconcile) and outcome.status == "unknown":
            return (yield from self._booked(command, outcome.now))
        if not isinstance(command, Record) or outcome.status not in ("stale_policy", "stale_window"):
            return outcome
        draws, detail = command.draws, command.detail
        if command.version < 0:  # made when nobody knew the policy
            ask = Ask(command.actual, dict(command.scope), None, {})
            policy = yield from self.policy()
            draws = policy.draws(self._matches(policy, ask), command.actual, at)
        if command.of is not None:
            outcome = yield replace(command, draws=draws, version=outcome.version)
            if outcome.status not in ("stale_policy", "stale_window"):
                return outcome
        return (yield Reconcile(command.id, command.actual, detail, draws, command.scope, at))


def _named(reservation: Reservation | str) -> tuple[str, Reservation | None]:
    return (reservation, None) if isinstance(reservation, str) else (reservation.id, reservation)
