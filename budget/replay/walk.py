"""The walk: calls of the past, played against limits in scratch accounts whose time it gives.

Each call reserves what it cost (or that, scaled) when it began, and is reconciled when it ended, or at once if the
trace does not know. Whatever ends at an instant ends before what begins then. A store's clock counts microseconds and
never goes back; the walk goes by exact times and hands over their whole microseconds, and as the bounds of windows are
whole microseconds too, every call lands in the window of its exact time.

An account is new, so the version of its policy is 0 and the limits given are the only ones; it is removed at the end,
however that comes. Nothing else of the store is read or written. Several policies have an account each, and get the
calls one after the other, so that a trace is read once and never held.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import heappop, heappush
from typing import Any, NamedTuple

from budget.commands import Amounts, Command, Reconcile, Reserve
from budget.errors import BudgetError
from budget.importing.exact import Exact
from budget.limits import Limit
from budget.policy import Match, Policy
from budget.prices import PriceBook
from budget.replay.calls import Call, Past
from budget.replay.pricing import Known, Pricing
from budget.replay.result import Comparison, LimitResult, Replay, results
from budget.stores.base import Store

__all__ = ["SAMPLE", "compare", "replay"]

SAMPLE = 5000
"""Calls whose commands the store alone carries out again, to tell how much of the time was its own."""
_TIMEOUT = 60.0  # seconds: nothing waits for the answer but the replay, and after a missing one it could not go on
_MARGIN = 3600 * 10**6  # microseconds of lease beyond a call's end: nothing expires here
_CACHED = 16384
_STEP = 256  # calls between two reports of progress


def replay(
    store: Store,
    past: Past,
    limits: Sequence[str | Limit],
    book: PriceBook,
    *,
    reserve: Fraction = Fraction(1),
    priced_at: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Replay:
    """Play calls against limits.

    Args:
        store: Where the scratch account is made.
        past: The calls.
        limits: The limits; no others apply.
        book: The prices.
        reserve: What a call reserves is this times what it cost and the tokens it used, rounded up.
        priced_at: Price every call as of this instant, microseconds since the epoch; None: as of when it began.
        on_progress: Called now and then with the number of calls so far.

    Raises:
        ConfigError: A limit cannot be used.
        BudgetError: The trace cannot be read, or a model has no price; names the line.
        StoreUnavailable: The store cannot answer.
    """
    pricing = Pricing(book, at=priced_at)
    return compare(store, past, {"": limits}, pricing, reserve=reserve, on_progress=on_progress).policies[""]


def compare(
    store: Store,
    past: Past,
    policies: Mapping[str, Sequence[str | Limit]],
    pricing: Pricing,
    *,
    before: Pricing | None = None,
    reserve: Fraction = Fraction(1),
    on_progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Play calls against several policies, each by itself.

    Args:
        policies: The limits of each, by its name.
        pricing: What calls cost.
        before: What they cost as they were, if `pricing` is something else.
        store, past, reserve, on_progress: As of `replay`.

    Raises:
        ConfigError, BudgetError, StoreUnavailable: As `replay`.
    """
    found = Comparison({name: Replay(results(limits, pricing.book)) for name, limits in policies.items()})
    total, cost_before, count, now, began = 0, 0, 0, 0, time.perf_counter()
    with ExitStack() as accounts:
        walks = [
            _Walk(store, accounts.enter_context(_scratch(store)), played, reserve) for played in found.policies.values()
        ]
        for call in past.calls():
            now, known = int(call.at // 1000), pricing.known(call)
            amounts = pricing.amounts(call, known, now)
            for walk in walks:
                walk.advance(call.at)
                walk.begin(call, known, amounts, now)
            total, count = total + (amounts[0] or 0), count + 1
            found.curve.add(now, total)
            if before is not None:
                cost_before += before.amounts(call, before.known(call), now)[0] or 0
            if on_progress is not None and count % _STEP == 0:
                on_progress(count)
        for walk in walks:
            walk.advance(None)
    rate = count / (time.perf_counter() - began) if count else None
    alone = min(count, SAMPLE) / _store_alone(store, walks[0].sample) if count else None
    for played in found.policies.values():
        played.rate, played.store_rate, played.skipped = rate, alone, past.skipped
        played.before = None if before is None else cost_before
        if count:
            played.curve.add(now, played.spent)
    return found


class _Who(NamedTuple):
    """What is the same for all calls of one user, session, agent and model."""

    matches: Sequence[Match]
    results: Sequence[LimitResult]  # of each match
    pooled: Sequence[LimitResult]  # of each match that has a pool


@dataclass(slots=True)
class _Walk:
    """A replay under way. `ends` is a heap of (exact time, number of the call, amounts, results)."""

    store: Store
    account: str
    found: Replay
    reserve: Fraction
    sample: list[tuple[Command, int]] = field(default_factory=list)
    ends: list[tuple[Exact, int, Amounts, Sequence[LimitResult]]] = field(default_factory=list)
    policy: Policy = field(init=False)
    _ratio: tuple[int, int] = field(init=False)
    _known: dict[tuple[str, ...], _Who] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = Policy(0, (), [result.limit for result in self.found.limits])
        self._ratio = self.reserve.as_integer_ratio()

    def advance(self, to: Exact | None) -> None:
        """End the calls that end by an instant, it included; all of them for None."""
        while self.ends and (to is None or self.ends[0][0] <= to):
            at, number, amounts, pooled = heappop(self.ends)
            self._end(int(at // 1000), number, amounts, pooled)

    def begin(self, call: Call, known: Known, amounts: Amounts, now: int) -> None:
        """Reserve for a call, and end it at once if nobody knows when it did."""
        found = self.found
        found.calls += 1
        policy = self.policy.at(now)
        if policy is not self.policy:  # a limit has ended
            self.policy = policy
            self._known.clear()
        who = self._known.get(call.who) or self._meet(call, known)
        reserved = self._scaled(amounts)
        until = now if call.end is None else int(call.end // 1000)
        draws = self.policy.draws(who.matches, reserved, now)
        # Without its attributes, which decide nothing any more: nobody will read this ledger.
        command = Reserve(f"{found.calls:032x}", "", reserved, draws, 0, until - now + _MARGIN, {}, {})
        outcome = self._ask(command, now)
        cost = amounts[0] or 0
        if outcome.status == "refused":
            found.refused += 1
            found.refused_cost += cost
            for i in outcome.refused:
                who.results[i].refused += 1
            return
        if outcome.status != "reserved":
            raise BudgetError(f"line {call.line}: the store answered {outcome.status!r} to the reserve of a replay")
        found.admitted += 1
        found.spent += cost
        found.curve.add(now, found.spent)
        for match, result in zip(who.matches, who.results, strict=True):
            if match.pool is None and result.max_spent is not None:
                result.max_spent = max(result.max_spent, cost)
        if call.end is None:
            self._end(now, found.calls, amounts, who.pooled)
        else:
            heappush(self.ends, (call.end, found.calls, amounts, who.pooled))

    def _end(self, now: int, number: int, amounts: Amounts, pooled: Sequence[LimitResult]) -> None:
        outcome = self._ask(Reconcile(f"{number:032x}", amounts, {}), now)
        if outcome.status != "reconciled":
            raise BudgetError(f"call {number}: the store answered {outcome.status!r} to the reconcile of a replay")
        for result, bucket in zip(pooled, outcome.buckets, strict=True):
            if result.max_spent is not None and bucket is not None:
                result.max_spent = max(result.max_spent, bucket.spent)

    def _ask(self, command: Command, now: int) -> Any:
        if self.found.calls <= SAMPLE:
            self.sample.append((command, now))
        return self.store.call(self.account, command, _TIMEOUT, now)

    def _meet(self, call: Call, known: Known) -> _Who:
        matches = self.policy.matches(known.scope, (), ())
        by_limit = {result.limit.identity: result for result in self.found.limits}
        results = [by_limit[match.limit.identity] for match in matches]
        pooled = [result for match, result in zip(matches, results, strict=True) if match.pool is not None]
        if len(self._known) >= _CACHED:
            self._known.clear()
        who = self._known[call.who] = _Who(matches, results, pooled)
        return who

    def _scaled(self, amounts: Amounts) -> Amounts:
        times, over = self._ratio
        if times == over:
            return amounts
        usd, tokens, given, output = (-(-(amount or 0) * times // over) for amount in amounts[:4])
        return usd, tokens, given, output, 1


def _store_alone(store: Store, commands: Sequence[tuple[Command, int]]) -> float:
    """Return the seconds that the store needs for these commands in an account of their own."""
    with _scratch(store) as account:
        call = store.call
        began = time.perf_counter()
        for command, now in commands:
            call(account, command, _TIMEOUT, now)
        return time.perf_counter() - began


@contextmanager
def _scratch(store: Store) -> Iterator[str]:
    """Give the name of an account that nobody else has, and remove it afterwards."""
    account = f"replay-{secrets.token_hex(16)}"
    try:
        yield account
    finally:
        store.remove(account)
