"""What a call of the past costs: as booked, at prices of today or of then, or as it would under another plan.

A plan may have other prices, other models in the place of those that were used, or another use of prompt caches. With
"none" each cached token is plain input. With "full" a call reads from the cache what the call before it in its session
had sent, if that was no longer than five minutes before, and writes the rest: the most that caching could have done, as
a trace does not say which tokens were the same. (A cache keeps for five minutes from its last use and takes writes at a
price of its own: Anthropic, "Prompt caching", read 2026-11-22; where a model has no such price, as plain input.)
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from budget.commands import Amounts
from budget.errors import BudgetError, ConfigError, UnknownModel
from budget.limits import name_model
from budget.prices import Model, PriceBook
from budget.prices.rates import Rates
from budget.replay.calls import Call
from budget.usage import Usage

__all__ = ["CACHES", "Known", "Pricing"]

CACHES = ("full", "none")
_KEPT_FOR = 300 * 10**9  # nanoseconds
_SESSIONS = 65536  # of which the last call is remembered
_CACHED = 16384
_PLACES = ("user", "session", "agent", "model", "provider", "project", "run")


class Known(NamedTuple):
    """What is the same for all calls of one user, session, agent, model ..."""

    model: Model | None  # None: its calls cost what was booked
    rates: Rates | None  # None: those of when a call began
    scope: Mapping[str, str]


class Pricing:
    """Prices calls.

    Args:
        book: The prices.
        at: Price every call as of this instant, microseconds since the epoch; None: as of when it began.
        booked: Calls cost what was booked for them, if anything was.
        models: Models by those in whose place they are used, under any of their names.
        cache: One of `CACHES`, or None: as it was.
        on_unpriced: Called once for each model that has no price; its calls then cost what was booked.

    Attributes:
        book: The prices.
        unused: Those of `models` that no call had so far.
    """

    def __init__(
        self, book: PriceBook, *, at: int | None = None, booked: bool = False,
        models: Mapping[str, str] | None = None, cache: str | None = None,
        on_unpriced: Callable[[str], None] | None = None,
    ):  # fmt: skip
        if cache is not None and cache not in CACHES:
            raise ConfigError(f"--cache: {cache[:20]!r} is none of {', '.join(CACHES)}")
        self.book, self._at, self._booked, self._cache = book, at, booked, cache
        self._on_unpriced, given = on_unpriced, dict(models or {})
        self._models = {self._name(name): other for name, other in given.items()} | given
        self.unused = {*given}
        for model in given.values():
            try:
                book.find(model)
            except UnknownModel as error:
                raise ConfigError(f"--model-map: {error}") from error
        self._known: dict[tuple[str, ...], Known] = {}
        self._sent: OrderedDict[tuple[str, ...], tuple[int, int]] = OrderedDict()
        self._unpriced: set[str] = set()

    def known(self, call: Call) -> Known:
        """Return the model and the attributes of a call.

        Raises:
            BudgetError: Its model has no price; names the line.
        """
        known = self._known.get(call.who)
        if known is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            known = self._known[call.who] = self._meet(call)
        return known

    def amounts(self, call: Call, known: Known, now: int) -> Amounts:
        """Return what a call costs and how much it used, by unit."""
        fresh, read, written, output = call.input, call.cache_read, call.cache_write, call.output
        given = fresh + read + written
        if self._cache is not None:
            read = self._read(call, given) if self._cache == "full" else 0
            written = given - read if self._cache == "full" and call.who[1] else 0
            fresh = given - read - written
        if known.model is None or not (given or output):  # nobody said what was used: it has no price but its own
            nanos = call.cost or 0
        else:
            rates = known.rates or known.model.rates(now)
            if read or written:
                # Nobody says for how long a write was cached: five minutes is what a request gets that does not ask.
                usage = Usage(fresh, read, {"5m": written} if written else {}, output)
                nanos = rates.cost(usage).nanos
            else:
                nanos = rates.plain_cost(fresh, output, {})
        return nanos, given + output, given, output, 1

    def _read(self, call: Call, given: int) -> int:
        """Return what a call could have read from the cache at most."""
        if not call.who[1]:
            return 0
        at = int(call.at)
        key = (call.who[1], call.who[2], call.who[3])
        before, since = self._sent.pop(key, (0, 0))
        self._sent[key] = given, int(call.end or at)
        if len(self._sent) > _SESSIONS:
            self._sent.popitem(last=False)
        return min(before, given) if before and at - since <= _KEPT_FOR else 0

    def _meet(self, call: Call) -> Known:
        given = dict(zip(_PLACES, call.who, strict=False))
        name, provider = given["model"], given.get("provider")
        given["model"] = self._name(name, provider)  # as of a live call: its limits are of the model, not of a snapshot
        if mapped := self._models.get(name) or self._models.get(given["model"]):
            self.unused -= {each for each in self.unused if each == name or self._name(each) == given["model"]}
            name, provider = mapped, None
        given["run"] = given.get("run") or given["session"]
        model = None
        if not self._booked or call.cost is None or mapped:
            model = self._find(call, name, provider)
        if model is not None:
            given["model"], given["provider"] = model.id, model.provider
        tags = json.loads(call.who[7]) if len(call.who) > len(_PLACES) and call.who[7] else {}
        scope = {**tags, **{name: value for name, value in given.items() if value}}
        rates = None if model is None or self._at is None else model.rates(self._at)
        return Known(model, rates, scope)

    def _name(self, model: str, provider: str | None = None) -> str:
        return name_model(self.book, {"model": model, **({"provider": provider} if provider else {})})["model"]

    def _find(self, call: Call, name: str, provider: str | None) -> Model | None:
        try:
            return self.book.find(name, provider if provider in self.book.providers else None)
        except (UnknownModel, ConfigError) as error:
            if call.cost is None:
                if isinstance(error, ConfigError):
                    raise
                raise BudgetError(f"line {call.line}: {error}") from error
            if name not in self._unpriced and self._on_unpriced is not None:
                self._on_unpriced(name)
            self._unpriced.add(name)
            return None
