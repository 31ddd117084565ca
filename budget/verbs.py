"""The steps of each verb, written once for sync and async.

A verb is a generator, a `Flow`: it yields commands for the store, receives their outcomes, and returns the answer.
Everything between two commands is pure computing; the engine drives the generator, blocking or awaiting. So the twins
cannot differ.

The life of a reserve: arguments -> estimate and price -> scope and runs -> policy -> draws -> one command. If the store
answers that the policy or the window is not the present one, nothing was written; the steps are taken again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any
from weakref import WeakValueDictionary

from budget.above import Also
from budget.asks import Ask, digest, filled
from budget.commands import (
    Amounts,
    Bucket,
    Command,
    Draw,
    Learn,
    LoadPolicy,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Reservation,
    Reserve,
    Status,
)
from budget.config import Settings
from budget.errors import (
    BudgetError,
    BudgetExceeded,
    ConfigError,
    Frozen,
    Refusal,
    ReservationConflict,
    RunStopped,
    StoreUnavailable,
)
from budget.estimate import Estimate, again
from budget.expect import Counts
from budget.learn import Forecast, Learner
from budget.ledger import dumps
from budget.limits import CONCURRENT
from budget.money import format_usd
from budget.policy import Match, Matches, Policy
from budget.pool import refused_by, shadowed_by
from budget.prices.stale import Watch
from budget.refusals import exceeded, frozen_error, refusals
from budget.run import Run
from budget.stores.base import Store
from budget.thresholds import Thresholds
from budget.waiting.line import Line, Place
from budget.waiting.storetime import StoreTime

__all__ = ["Decision", "Flow", "Verbs"]

Flow = Generator[Command | Place | Also, Any, Any]
"""The steps of one verb: commands, which are answered with outcomes, and places in the line, with whether to go on."""
Patience = Callable[[BudgetExceeded], float]
"""Says for how many seconds to wait after a refusal, 0 for not at all."""
MOST_LIMITS = 32
"""Limits that may apply to one call."""
_pool_of = attrgetter("pool")
_TRIES = 64  # answers of stale policy or window in a row before the store is given up on


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call would be admitted now; truthy if so. Nothing was written or counted.

    Attributes:
        admitted: Whether it would be.
        refusal: The deciding refusal, or None.
        refusals: Every limit that would refuse.
        shadows: Every limit in shadow mode that would refuse if it were not.
    """

    admitted: bool
    refusal: Refusal | None = None
    refusals: tuple[Refusal, ...] = ()
    shadows: tuple[Refusal, ...] = ()

    def __bool__(self) -> bool:
        return self.admitted

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"admitted": self.admitted, "refusal": self.refusal.to_dict() if self.refusal else None}


class Verbs:
    """The verbs of one engine: its settings, the policy last loaded, and the steps between commands.

    Args:
        settings: What the engine is made of.
        drive: Runs a flow to its end, blocking; for questions that an error or a run asks later.
        store: Where the commands go; those who wait for room watch it.

    Attributes:
        clock: The store's time.
        line: Who waits for room.
        above: The verbs of the account above, or None.
    """

    above: Verbs | None = None

    def __init__(self, settings: Settings, drive: Callable[[Flow], Any], store: Store):
        self.settings = settings
        now = self.now()
        self.drive = drive
        self.clock = StoreTime(settings.clock)
        self.line = Line(store, settings.account, self.clock)
        self._thresholds = Thresholds(settings.on_warning)
        self._own = [limit.set_at(now) for limit in settings.limits]
        self._goes_on = settings.on_store_error != "refuse"
        self._policy: Policy | None = None
        self._before: Policy | None = None
        self._run_of: WeakValueDictionary[str, Run] = WeakValueDictionary()
        self._prices = Watch(settings.book)
        if not settings.disabled:
            self._prices.begin(now)
        self.learner = Learner(settings, lambda more: drive(self.learned(more)))

    def now(self) -> int:
        """The wall clock in microseconds; the store's is what decides."""
        clock = self.settings.clock
        return time.time_ns() // 1000 if clock is None else clock()

    @staticmethod
    def new_id() -> str:
        """Make a reservation's id: 48 bits of time in milliseconds and 80 random bits, as 32 hex digits."""
        return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"

    def policy(self) -> Flow:
        """Return the policy last loaded, as it is now, or load it."""
        policy, now = self._policy, self.clock.now()
        if policy is None:
            outcome = yield LoadPolicy()
            self.clock.saw(outcome.now, now)
            policy = self._policy = self._before = Policy(
                outcome.version, outcome.rows, self._own, now=outcome.now, shadow=self.settings.shadow,
                before=self._before,
            )  # fmt: skip
        elif now >= policy.changes_at:
            policy = self._policy = self._before = policy.at(now)
        return policy

    def forget_policy(self) -> None:
        """Have the next verb load the policy."""
        self._policy = None

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
                    raise exceeded(ask, matches, draws, outcome.buckets, outcome.refused, *self._advice(ask))
        finally:
            if place is not None:
                place.leave()

    def _also_above(
        self, above: Verbs, ask: Ask, id: str, lease_us: int, place: Place | None, patience: Patience | None
    ) -> Flow:
        """Have the account above set it aside too; if it does not, nothing is set aside here either."""
        there = Ask(ask.amounts, ask.scope, None, ask.detail, None, ask.most)
        room = None if place is None else above.line.place(place.left_us / 1e6)
        try:
            yield Also(above.reserve(there, id, lease_us, place=room, patience=patience), held=id)
        except BudgetError:
            self.learner.ended(id)
            yield Refund(id, {"outcome": "not admitted above"})
            raise

    def _attempt(self, ask: Ask, words: tuple[str, str, int, str | None], place: Place | None) -> Flow:
        """Ask the store once, with the policy and the windows that hold now; return matches, draws and the outcome."""
        id, asked, lease_us, parent = words
        for _ in range(_TRIES):
            now, policy = self.clock.now(), self._policy
            if policy is None or now >= policy.changes_at:
                policy = yield from (self._policy_of_costs() if self._goes_on else self.policy())
                now = self.clock.now()
            frozen = self._guard(policy, ask)
            matches = _not_too_many(self._matches(policy, ask))
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

    def _admitted(
        self, run: Run | None, matches: Sequence[Match], draws: Sequence[Draw], outcome: Outcome
    ) -> Reservation:
        """Take note of a reserve that was not refused."""
        if outcome.status == "reserved":
            self.line.told(zip(map(_pool_of, draws), outcome.buckets, strict=False), outcome.seq)
            if self._policy is not None and self._policy.warns:
                self._thresholds.look(matches, draws, outcome.buckets)
        if run is None:
            return self._stored(None, outcome, ())
        pairs = zip(draws, outcome.buckets, strict=False)
        return self._stored(run, outcome, [bucket for draw, bucket in pairs if draw.pool is not None])

    def check(self, ask: Ask) -> Flow:
        """Return a `Decision` on what was asked for, without writing or counting."""
        if self.settings.disabled:
            return Decision(True)
        if ask.estimate is not None:
            yield from self._expect(ask, ask.estimate)
        for _ in range(_TRIES):
            policy = yield from self.policy()
            frozen = self._guard(policy, ask)
            matches = _not_too_many(self._matches(policy, ask))
            outcome = yield Status([match.pool or "" for match in matches], sweep=False)
            if outcome.version == policy.version:
                break
            self.forget_policy()
        if frozen is not None:
            found = frozen_error(ask, frozen)
            return Decision(False, found.refusal, found.refusals)
        draws = policy.draws(matches, ask.amounts, outcome.now, ask.most)
        pairs = zip(draws, outcome.buckets, strict=True)
        buckets = [bucket or Bucket(draw.start, draw.end, draw.start, 0, 0) for draw, bucket in pairs]
        shadows = tuple(refusals(matches, draws, buckets, shadowed_by(draws, buckets)))
        refused = refused_by(draws, buckets)
        if not refused and self.above is not None:
            return (yield Also(self.above.check(Ask(ask.amounts, ask.scope, None, ask.detail, None, ask.most))))
        if not refused:
            return Decision(True, shadows=shadows)
        error = exceeded(ask, matches, draws, buckets, refused, *self._advice(ask))
        return Decision(False, error.refusal, error.refusals, shadows)

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

    def _policy_of_costs(self) -> Flow:
        """Return the policy, or what this process knows of it: a cost is booked by the whole of it when it arrives."""
        try:
            return (yield from self.policy())
        except StoreUnavailable:
            return Policy(-1, (), self._own, now=self.now(), shadow=self.settings.shadow)

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
        for _ in range(_TRIES):
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

    def _watch(self, ask: Ask) -> None:
        """Have an old price said when it is used."""
        if "book" in ask.detail:
            self._prices.used(ask.scope["model"], ask.scope.get("provider"), self.now())

    def learned(self, more: Mapping[str, Counts]) -> Flow:
        """Add to what the account has learned, and return what that is then."""
        outcome = yield Learn(more)
        return outcome.learned

    def _expect(self, ask: Ask, estimate: Estimate) -> Flow:
        """Put into what is asked for what is expected of such calls, and return what its end is held against."""
        if not self.learner.loaded:
            try:
                self.learner.load((yield from self.learned({})))
            except StoreUnavailable:
                if not self._goes_on:
                    raise
        bound = ask.most or ask.amounts
        found: Forecast | None = self.learner.forecast(estimate, bound, ask.scope, self.now())
        if found is not None:
            told = {**ask.detail["estimate"], "input_tokens": found.tokens, "usd": format_usd(found.expected)}
            soft = found.soft or ask.step
            ask.amounts, ask.most = bound, None
            if soft is not None:
                ask.amounts, ask.most = soft, bound
                told |= {"reserve_at": self.settings.reserve_at, "usd_reserved": format_usd(soft[0] or 0)}
            ask.detail = {**ask.detail, "estimate": told}
        return found

    def refresh(self, run: Run) -> Flow:
        """Read a run's pools, so that it knows what other processes spent in it."""
        pools = run.own_pools
        outcome = yield Status(pools)
        for pool, bucket in zip(pools, outcome.buckets, strict=True):
            run.took(pool, bucket)

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

    def _stored(self, run: Run | None, outcome: Outcome, buckets: Sequence[Bucket | None]) -> Reservation:
        """Return the reservation that the store keeps; `buckets` are those of its shares."""
        if outcome.status == "clock":
            raise StoreUnavailable("the clock went back by more than 5 s; nothing is admitted until it catches up")
        reservation = outcome.reservation
        assert reservation is not None
        if outcome.status == "conflict":
            raise ReservationConflict(f"id {reservation.id}: it was used with other arguments")
        if run is not None:
            self._run_of[reservation.id] = run
            for each in run.chain():
                each.saw(reservation, buckets)
        return reservation

    def _ended(self, id: str, outcome: Outcome) -> Reservation:
        assert outcome.reservation is not None
        if outcome.status == "conflict":
            state = outcome.reservation.state
            raise ReservationConflict(f"reservation {id} is already {state}, with other figures")
        self.note(id, outcome)
        self.line.told(zip(map(_pool_of, outcome.reservation.shares), outcome.buckets, strict=False), outcome.seq)
        return outcome.reservation

    def _guard(self, policy: Policy, ask: Ask) -> dict[str, str] | None:
        """Return the frozen subject, if there is one; else check the guards of the call's runs."""
        if policy.fenced is not None:
            self.forget_policy()  # the next one looks whether it was rebuilt
            error = StoreUnavailable(
                "the store has lost what it had acknowledged, and nothing is admitted on what is left: "
                "`budget ledger rebuild` restores it"
            )
            error.sent, error.lost = False, json.loads(policy.fenced)["lost"]
            raise error
        if ask.run is None:
            return policy.frozen([ask.scope])
        frozen = policy.frozen([ask.scope, *self._run_scopes(ask, self._runs(ask))]) if policy.freezes else None
        if frozen is None and not self.settings.disabled:
            ask.run.check_guards(ask.looping)
        return frozen

    def _runs(self, ask: Ask) -> Sequence[Run]:
        if ask.run is None:
            return ()
        chain = list(ask.run.chain())
        mine = [run for run in chain if run.belongs_to(self)]
        if len(mine) < len(chain) and any(run.limits for run in chain if not run.belongs_to(self)):
            raise ConfigError("run: a run with limits belongs to one engine, and this call goes through another one")
        return mine

    def _run_scopes(self, ask: Ask, runs: Sequence[Run]) -> list[dict[str, str]]:
        call: dict[str, str] = {name: ask.scope[name] for name in ("model", "provider") if name in ask.scope}
        return [{**run.scope, **call} for run in runs]

    def _matches(self, policy: Policy, ask: Ask) -> Matches:
        own = [(limit, ask.scope) for limit in ask.limits]
        if ask.run is None:
            return policy.matches(ask.scope, (), own) if own else policy.matches(ask.scope)
        runs = self._runs(ask)
        scopes = self._run_scopes(ask, runs)
        own += [(limit, scope) for run, scope in zip(runs, scopes, strict=True) for limit in run.limits]
        return policy.matches(ask.scope, scopes, own)

    def _advice(self, ask: Ask) -> tuple[Any, ...]:
        """Return what an error of a refusal needs to answer questions: guards, prices, time, and `fits`."""
        own = [limit for run in self._runs(ask) for limit in run.limits]
        guards = [limit for limit in own if limit.unit == "requests" and limit.window.kind == "run"]
        estimate = ask.estimate
        if estimate is None:
            return guards, self.settings.book, self.now(), None

        def fits(model: str) -> bool:
            other = again(self.settings.book, estimate, model, self.now())
            scope = {**ask.scope, "model": other.model, "provider": other.provider}
            asked = replace(ask, amounts=other.amounts, most=None, scope=scope, estimate=other)
            return bool(self.drive(self.check(asked)))

        return guards, self.settings.book, self.now(), fits


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


def _not_too_many(matches: Matches) -> Matches:
    if len(matches) > MOST_LIMITS:
        names = ", ".join(repr(each.text) for each in matches)
        raise ConfigError(f"limits: {len(matches)} apply to this call, {MOST_LIMITS} may: {names}")
    return matches


def _named(reservation: Reservation | str) -> tuple[str, Reservation | None]:
    return (reservation, None) if isinstance(reservation, str) else (reservation.id, reservation)
