"""The expectation: what a call is likely to cost, learned from how calls like it were reconciled.

A call's price is input, nearly all of it known beforehand, plus an answer whose length nobody knows. So a forecast has
two parts:

1. The input, priced as the provider is likely to price it. A conversation that this process has seen left a prefix of
   known length in the provider's cache, and how long ago; what share of such a prefix was read again is learned, by
   that age. The rest is written to a cache or not, as most such calls did it.
2. All else, as one distribution: true cost less that of the input, in output tokens of that model. It holds the length
   of answers, and whatever the first part got wrong. Its quantile is what a soft reservation adds, its mean is what is
   expected.

Each is kept as sketches (`budget.expect`) per model and agent, per model, and over all; a forecast takes the most
particular one that has seen `ENOUGH` calls, and where none has, nothing is forecast and the bound stands. Kinds:

    over    cost beyond the expected input's, in output tokens, rounded up; 0 where it was less
    under   how much less it was, in the same way
    output  output tokens
    miss    per age of the prefix: how many thousandths of it were not read from the cache
    write   which cache most of the new input was written to: 0 none, else the place in `TTLS`
    ratio   input tokens billed per token counted, in 1024ths (of a model alone)

A level takes its quantile below the share of overruns that its name allows (`expect.LEVELS`): what was learned and what
comes are never quite of one kind, and a share that is right on average is exceeded half of the time.

What was learned belongs to the account. A process adds to its own view at once, and hands the increments to the store
after `FLUSH` calls, or with the first one after `FLUSH_SECONDS`, from a thread of its own, and when it closes or ends;
the answer brings what the others added. A killed process loses its last increments and nothing else. Names hold the
model and the agent, never a user, and of a conversation this process alone keeps sizes and times.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from budget.errors import BudgetError
from budget.expect import LEVELS, MILLION, WINDOW, Counts, bucket_of, halved, mean, most_common, plus, quantile
from budget.talks import Seen, Talks

if TYPE_CHECKING:
    from budget.commands import Amounts, Reservation
    from budget.config import Settings
    from budget.estimate import Estimate
    from budget.prices.rates import Rates

__all__ = ["ENOUGH", "FLUSH", "FLUSH_SECONDS", "TTLS", "Forecast", "Learner"]

ENOUGH = 10
"""Calls from which a sketch is believed. Below a level's own count its largest value is extrapolated."""
FLUSH = 64
FLUSH_SECONDS = 5.0
TTLS = ("5m", "30m", "1h", "12h", "default")
"""Caches that input is written to, by how long they keep it."""
_PATIENCE = 0.1
_OPEN = 16384  # open calls that are remembered
_HALF = MILLION // 2
_MILLION_TOKENS = 1_000_000
_FAR = 2**40  # tokens that no extrapolation exceeds
_log = logging.getLogger("budget")


class _Sketch:
    """Counts that grow in place, how many there are, and what was computed from them, at which total.

    `more` is what of them is to be handed to the store.
    """

    __slots__ = ("counts", "known", "more", "total")

    def __init__(self, counts: Counts, more: dict[int, int]):
        self.counts, self.more = dict(counts), more
        self.total = sum(counts.values())
        self.known: dict[int, tuple[int, int]] = {}

    def add(self, bucket: int) -> None:
        counts, more = self.counts, self.more
        counts[bucket] = counts.get(bucket, 0) + 1
        more[bucket] = more.get(bucket, 0) + 1
        self.total += 1
        if self.total > WINDOW:
            self.counts = halved(self.counts)
            self.total = sum(self.counts.values())

    def value(self, miss: int) -> int:
        """Return a quantile (the mean for a million), kept until the sketch has grown by a thirty-second."""
        at, value = self.known.get(miss, (0, 0))
        if not at <= self.total < at + max(1, at // 32):
            counts = self.counts.copy()  # in one step: another thread may be adding
            value = min(_FAR, mean(counts) if miss == MILLION else quantile(counts, miss))
            self.known[miss] = self.total, value
        return value


_Sketches = dict[str, _Sketch]
"""Of one model and agent, one model, or all calls: by kind."""


class Forecast(NamedTuple):
    """How a call's input is expected to be priced: what its end is held against. Money is nano-dollars.

    Attributes:
        tokens: Of the expected input.
        nanos: What it is expected to cost.
        rate: What a million output tokens cost beside it.
        age: Of the prefix that may be cached: "5m", "1h", "late", "side", or "new".
        prefix: Its tokens.
        counted: Input tokens as counted before the model's ratio; 0 where they are not an estimate.
        expected: What the whole call is expected to cost.
        soft: What a soft reservation of it sets aside, per unit; None if it is hard.
    """

    tokens: int
    nanos: int
    rate: int
    age: str
    prefix: int
    counted: int
    expected: int
    soft: Amounts | None

    def cost(self, output: int) -> int:
        """Return what it costs with an answer of so many tokens, nano-dollars rounded up."""
        return self.nanos - -output * self.rate // _MILLION_TOKENS


class Learner:
    """What is expected of calls in one account, as this process knows it.

    Args:
        settings: What the engine is made of.
        send: Hands increments to the store and returns the sketches as they then are.
    """

    def __init__(self, settings: Settings, send: Callable[[Mapping[str, Counts]], Mapping[str, Counts]]):
        self.loaded = settings.disabled
        self._settings, self._send = settings, send
        self._sketches: dict[str, _Sketches] = {}  # by how their names end
        self._grown: set[str] = set()  # which of these are to be handed over
        self._calls, self._next = 0, monotonic() + FLUSH_SECONDS
        self._lock, self._sending, self._told = Lock(), Lock(), False
        self._talks = Talks()
        self._open: dict[str, Forecast] = {}
        _LEARNERS.add(self)
        _at_exit()

    def load(self, sketches: Mapping[str, Counts]) -> None:
        """Take what the store holds; what this process has learned since then comes on top."""
        with self._lock:
            for name, counts in sketches.items():
                kind, line, rest = name.partition("\n")
                known = self._sketches.setdefault(line + rest, {})
                more = known[kind].more if kind in known else {}
                known[kind] = _Sketch(plus(counts, more), more)
            self.loaded = True

    # Before a call.

    @property
    def empty(self) -> bool:
        """Whether nothing is known, so that a forecast changes no estimate."""
        return not self._sketches

    def forecast(self, estimate: Estimate, bound: Amounts, scope: Mapping[str, str], now: int) -> Forecast | None:
        """Return what is expected of a call; None if nothing can be said: it has no bound, or no price.

        Args:
            estimate: Of the call.
            bound: The most that it can take, per unit.
            scope: Its attributes.
            now: Microseconds since the epoch.
        """
        settings = self._settings
        if settings.disabled or not estimate.priced or not estimate.closed:
            return None
        rates = settings.book.find(estimate.model, estimate.provider or None).rates(now)
        known = [self._sketches.get(key, {}) for key in _endings(estimate.model, scope.get("agent", ""))]
        found = self._input(estimate, rates, known, scope, now)
        over = _sketch("over", known)
        nanos, level, answer = estimate.nanos, settings.reserve_at, estimate.output_tokens_max
        soft: Amounts | None = None
        if over is not None:
            under = _sketch("under", known)
            mean_over = over.value(MILLION) - (under.value(MILLION) if under else 0)
            nanos = max(0, min(found.cost(mean_over), estimate.nanos_max))
        if over is not None and level != "max" and answer:  # what has no answer is embedded: its bound is close
            miss = LEVELS[level]
            output, most = _sketch("output", known), estimate.input_tokens_max
            answer = answer if output is None else min(answer, output.value(miss))
            # Where output is free, nothing was learned of how far above its input a call's cost goes.
            cost = nanos if level == "expected" else found.cost(over.value(miss)) if found.rate else estimate.nanos_max
            asked = (cost, most + answer, most, answer, 1)
            soft = tuple(min(a, b or 0) for a, b in zip(asked, bound, strict=True))  # type: ignore[assignment]
        return Forecast(*found[:6], nanos, soft)

    def ended(self, id: str) -> None:
        """Forget a reservation that ended without a usage."""
        self._open.pop(id, None)

    def opened(self, id: str, forecast: Forecast | None) -> None:
        """Remember what the end of a reservation is held against."""
        if forecast is not None:
            if len(self._open) >= _OPEN:
                with suppress(KeyError, StopIteration, RuntimeError):  # another thread was faster
                    self._open.pop(next(iter(self._open)))
            self._open.setdefault(id, forecast)

    def _input(
        self, estimate: Estimate, rates: Rates, known: Sequence[_Sketches], scope: Mapping[str, str], now: int
    ) -> Forecast:
        tokens, counted = estimate.input_tokens, 0
        if estimate.measure is not None and estimate.counted_by == "tokenizer":
            counted = estimate.counted or tokens
            ratio = _sketch("ratio", known)
            tokens = counted if ratio is None else min(counted * ratio.value(_HALF) // 1024, estimate.input_tokens_max)
        age, prefix, read = self._talks.prefix(scope, tokens, now)
        if (missed := _sketch(f"miss-{age}", known)) is not None:
            read = prefix * (1000 - min(1000, missed.value(_HALF))) // 1000
        write = _sketch("write", known)
        # Where nobody knows yet, a request that names a cache is taken to write to the one that keeps longest.
        asked = [TTLS.index(ttl) + 1 for ttl in estimate.cache_ttls if ttl in TTLS]
        place = max(asked, default=0) if write is None else most_common(write.counts.copy())
        ttl = TTLS[place - 1] if 0 < place <= len(TTLS) else None
        nanos, rate = rates.input_cost(tokens - read, read, ttl, dict(estimate.traits))
        return Forecast(tokens, nanos, rate, age, prefix, counted, 0, None)

    # After it.

    def learn(self, reservation: Reservation, nanos: int, detail: Mapping[str, Any]) -> None:
        """Take note of a call's end."""
        found = self._open.pop(reservation.id, None)
        estimate, usage = reservation.detail.get("estimate"), detail.get("usage")
        if self._settings.disabled or not estimate or not usage or detail.get("estimated") or not estimate["closed"]:
            return
        written = usage.get("cache_write", {})
        read, output = usage.get("cache_read", 0), usage.get("output", 0)
        tokens = usage.get("input", 0) + read + sum(written.values())
        dearest = max(written, key=lambda ttl: written[ttl], default="")
        most = dearest in TTLS and written[dearest] >= usage.get("input", 0)
        values = {"output": output, "write": TTLS.index(dearest) + 1 if most else 0}
        if tokens == read:
            del values["write"]
        if found is not None:
            over = -((found.nanos - nanos) * _MILLION_TOKENS // found.rate) if found.rate else 0
            values |= {"over": over, "under": -over}  # of what is negative a sketch keeps that it was none
            prefix = min(found.prefix, tokens)
            if prefix:
                values[f"miss-{found.age}"] = 1000 - min(1000, 1000 * read // prefix)
        model, scope = estimate["model"], reservation.scope
        buckets = [(kind, bucket_of(value)) for kind, value in values.items()]
        notes = [(key, buckets) for key in _endings(model, scope.get("agent", ""))]
        if found is not None and found.counted:
            notes.append((_endings(model, "")[0], [("ratio", bucket_of(tokens * 1024 // found.counted))]))
        if not self._lock.acquire(timeout=_PATIENCE):  # a finalizer may come here while its thread holds the lock
            return
        try:
            for key, noted in notes:
                self._note(key, noted)
            self._calls += 1
            self._talks.remember(scope, Seen(tokens, reservation.made, read + sum(written.values()) > 0))
        finally:
            self._lock.release()
        if self._calls >= FLUSH or monotonic() >= self._next:
            self._calls, self._next = 0, monotonic() + FLUSH_SECONDS
            with suppress(RuntimeError):  # the interpreter is ending: what is left goes at exit
                Thread(target=self.flush, name="budget-learn", daemon=True).start()

    def _note(self, key: str, buckets: Sequence[tuple[str, int]]) -> None:
        known = self._sketches.get(key)
        if known is None:
            known = self._sketches[key] = {}
        for kind, bucket in buckets:
            sketch = known.get(kind)
            if sketch is None:
                sketch = known[kind] = _Sketch({}, {})
            sketch.add(bucket)
        self._grown.add(key)

    def _take(self) -> dict[str, Counts]:
        """Return what is to be handed over, by name, and count anew."""
        more: dict[str, Counts] = {}
        for key in self._grown:
            for kind, sketch in self._sketches[key].items():
                if sketch.more:
                    more[kind + key], sketch.more = sketch.more, {}
        self._grown, self._calls = set(), 0
        return more

    def forget(self) -> None:
        """Forget what a fork's parent will hand over, and locks that its threads may have held."""
        self._lock, self._sending = Lock(), Lock()
        self._take()

    def flush(self) -> None:
        """Hand over what was learned since the last time. A store that fails costs these increments, nothing else."""
        with self._sending:
            with self._lock:
                more = self._take()
            if not more:
                return
            try:
                self.load(self._send(more))
            except BudgetError as error:
                if not self._told:
                    self._told = True
                    _log.warning("what was learned of calls cannot be kept in the store: %s", error)


def _sketch(kind: str, known: Sequence[_Sketches]) -> _Sketch | None:
    """Return the most particular sketch of a kind that has seen enough."""
    for sketches in known:
        found = sketches.get(kind)
        if found is not None and found.total >= ENOUGH:
            return found
    return None


@lru_cache(4096)
def _endings(model: str, agent: str) -> tuple[str, ...]:
    """Return how the names of a call's sketches end, the most particular first."""
    return (*([f"\n{model}\n{agent}"] if agent else []), f"\n{model}\n", "\n\n")


_LEARNERS: weakref.WeakSet[Learner] = weakref.WeakSet()
_ending: weakref.finalize[[], Any] | None = None


def _at_exit() -> None:
    """Have the end of the process hand over what is left, before the stores that are open now close."""
    global _ending
    if _ending is not None:
        _ending.detach()
    _ending = weakref.finalize(Learner, _exit)


def _exit() -> None:
    for learner in list(_LEARNERS):
        with suppress(Exception):  # what was learned is not worth a traceback at the end
            learner.flush()


def _forked() -> None:
    for learner in list(_LEARNERS):
        learner.forget()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forked)
