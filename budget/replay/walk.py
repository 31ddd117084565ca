"""The walk: a trace's calls, played against limits in a scratch account whose time it gives.

Each call reserves what it cost (or that, scaled) when it began, and is reconciled when it ended, or at once if the
trace does not know. Whatever ends at an instant ends before what begins then. A store's clock counts microseconds and
never goes back; the walk goes by exact times and hands over their whole microseconds, and as the bounds of windows are
whole microseconds too, every call lands in the window of its exact time.

The account is new, so the version of its policy is 0 and the limits given are the only ones; it is removed at the end,
however that comes. Nothing else of the store is read or written.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import heappop, heappush
from typing import Any, NamedTuple

from budget.commands import Amounts, Command, Reconcile, Reserve
from budget.errors import BudgetError, ConfigError, UnknownModel
from budget.limits import Limit
from budget.money import format_usd
from budget.policy import Match, Policy
from budget.prices import Model, PriceBook
from budget.replay.trace import Call, Exact, Trace
from budget.stores.base import Store
from budget.usage import Usage

__all__ = ["SAMPLE", "LimitResult", "Replay", "replay"]

SAMPLE = 5000
"""Calls whose commands the store alone carries out again, to tell how much of the time was its own."""
_TIMEOUT = 60.0  # seconds: nothing waits for the answer but the replay, and after a missing one it could not go on
_MARGIN = 3600 * 10**6  # microseconds of lease beyond a call's end: nothing expires here
_CACHED = 4096
_STEP = 256  # calls between two reports of progress


@dataclass(slots=True)
class LimitResult:
    """What one limit did. `text` is as it was given.

    Attributes:
        refused: Calls it refused, alone or with others.
        max_spent: The largest `spent` of its pools, nano-dollars; None for other units. Where nothing is shared (a
            cap, a run limit on a call without a session) each admitted call is a pool of its own.
    """

    text: str
    limit: Limit
    refused: int = 0
    max_spent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        spent = None if self.max_spent is None else format_usd(self.max_spent)
        return {"limit": self.text, "refused": self.refused, "max_spent_usd": spent}


@dataclass(slots=True)
class Replay:
    """What a replay found. Money in nano-dollars.

    Attributes:
        calls: Calls replayed: `admitted` and `refused`.
        spent: What the admitted calls cost.
        refused_cost: What the refused calls would have cost.
        limits: One per given limit, in the order given.
        skipped: Malformed rows.
        rate: Calls per second, reading included; None for an empty trace.
        store_rate: The same of the store alone, on up to `SAMPLE` calls.
    """

    limits: list[LimitResult]
    calls: int = 0
    admitted: int = 0
    refused: int = 0
    spent: int = 0
    refused_cost: int = 0
    skipped: int = 0
    rate: float | None = None
    store_rate: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return {
            "calls": self.calls,
            "admitted": self.admitted,
            "refused": self.refused,
            "skipped": self.skipped,
            "spent_usd": format_usd(self.spent),
            "refused_usd": format_usd(self.refused_cost),
            "limits": [limit.to_dict() for limit in self.limits],
            "calls_per_second": None if self.rate is None else round(self.rate),
            "store_calls_per_second": None if self.store_rate is None else round(self.store_rate),
        }


def replay(
    store: Store,
    trace: Trace,
    limits: Sequence[str],
    book: PriceBook,
    *,
    reserve: Fraction = Fraction(1),
    priced_at: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Replay:
    """Play a trace against limits.

    Args:
        store: Where the scratch account is made.
        trace: The calls.
        limits: The limits, as text; no others apply.
        book: The prices.
        reserve: What a call reserves is this times what it cost and the tokens it used, rounded up.
        priced_at: Price every call as of this instant, microseconds since the epoch; None: as of when it began.
        on_progress: Called now and then with the number of calls so far.

    Raises:
        ConfigError: A limit cannot be used.
        BudgetError: The trace cannot be read, or a model has no price; names the line.
        StoreUnavailable: The store cannot answer.
    """
    found = Replay(_results(limits))
    with _scratch(store) as account:
        walk = _Walk(store, account, found, book, reserve, priced_at)
        began = time.perf_counter()
        for call in trace.calls():
            walk.advance(call.at)
            walk.begin(call)
            if on_progress is not None and found.calls % _STEP == 0:
                on_progress(found.calls)
        walk.advance(None)
        if found.calls:
            found.rate = found.calls / (time.perf_counter() - began)
    found.skipped = trace.skipped
    if found.calls:
        found.store_rate = min(found.calls, SAMPLE) / _store_alone(store, walk.sample)
    return found


class _Who(NamedTuple):
    """What is the same for all calls of one user, session, agent and model."""

    model: Model
    scope: Mapping[str, str]
    matches: Sequence[Match]
    results: Sequence[LimitResult]  # of each match
    pooled: Sequence[LimitResult]  # of each match that has a pool


@dataclass(slots=True)
class _Walk:
    """A replay under way. `ends` is a heap of (exact time, number of the call, microseconds, amounts, results)."""

    store: Store
    account: str
    found: Replay
    book: PriceBook
    reserve: Fraction
    priced_at: int | None
    sample: list[tuple[Command, int]] = field(default_factory=list)
    ends: list[tuple[Exact, int, Amounts, Sequence[LimitResult]]] = field(default_factory=list)
    policy: Policy = field(init=False)
    _known: dict[tuple[str, str, str, str], _Who] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.policy = Policy(0, (), [result.limit for result in self.found.limits])

    def advance(self, to: Exact | None) -> None:
        """End the calls that end by an instant, it included; all of them for None."""
        while self.ends and (to is None or self.ends[0][0] <= to):
            at, number, amounts, pooled = heappop(self.ends)
            self._end(int(at // 1000), number, amounts, pooled)

    def begin(self, call: Call) -> None:
        """Reserve for a call, and end it at once if nobody knows when it did."""
        found = self.found
        found.calls += 1
        who = self._known.get(call.who) or self._meet(call)
        now = int(call.at // 1000)
        amounts = self._amounts(call, who.model, now)
        reserved = self._scaled(amounts)
        until = now if call.end is None else int(call.end // 1000)
        draws = self.policy.draws(who.matches, reserved, now)
        command = Reserve(f"{found.calls:032x}", "", reserved, draws, 0, until - now + _MARGIN, who.scope, {})
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

    def _meet(self, call: Call) -> _Who:
        user, session, agent, name = call.who
        try:
            model = self.book.find(name)
        except UnknownModel as error:
            raise BudgetError(f"line {call.line}: {error}") from error
        given = {"user": user, "session": session, "run": session, "agent": agent, "model": model.id}
        scope = {name: value for name, value in {**given, "provider": model.provider}.items() if value}
        matches = self.policy.matches(scope, (), ())
        by_limit = {result.limit.identity: result for result in self.found.limits}
        results = [by_limit[match.limit.identity] for match in matches]
        pooled = [result for match, result in zip(matches, results, strict=True) if match.pool is not None]
        if len(self._known) >= _CACHED:
            self._known.clear()
        who = self._known[call.who] = _Who(model, scope, matches, results, pooled)
        return who

    def _amounts(self, call: Call, model: Model, now: int) -> Amounts:
        # A trace does not say for how long a write was cached; five minutes is what a request gets that does not ask.
        written = {"5m": call.cache_write} if call.cache_write else {}
        usage = Usage(input=call.input, cache_read=call.cache_read, cache_write=written, output=call.output)
        rates = model.rates(now if self.priced_at is None else self.priced_at)
        return rates.cost(usage).nanos, usage.tokens, usage.input_tokens, usage.output, 1

    def _scaled(self, amounts: Amounts) -> Amounts:
        times, over = self.reserve.as_integer_ratio()
        if times == over:
            return amounts
        usd, tokens, given, output = (-(-(amount or 0) * times // over) for amount in amounts[:4])
        return usd, tokens, given, output, 1


def _results(texts: Sequence[str]) -> list[LimitResult]:
    results: dict[tuple[Any, ...], LimitResult] = {}
    for text in texts:
        limit = Limit(text)
        twin = results.get(limit.identity)
        if twin is not None:
            raise ConfigError(f"limit: {twin.text!r} and {text!r} are one limit, set twice; replay one after the other")
        results[limit.identity] = LimitResult(text, limit, 0, 0 if limit.unit == "usd" else None)
    return list(results.values())


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
