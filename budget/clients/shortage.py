"""What is tried for a refused call: `on_short`, step by step, once for sync and async clients.

A way is a generator. It yields steps, each as what a sync and what an async client does, and gets back what that
returned. It ends with None if the call is reserved, else with the latest refusal, and the next way is tried. If none is
left, the first refusal is raised, with a note for each way that says why it led nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from budget.admin import adjust_refused
from budget.aio import off_loop
from budget.asks import Ask
from budget.clients.protocol import Speech
from budget.clients.steps import Steps, aanswer_of, answer_of, in_thread
from budget.errors import ArgumentTypeError, BudgetExceeded, ConfigError, Frozen, RunStopped, UnknownModel
from budget.estimate import makes_embeddings, with_output
from budget.guard import Guard
from budget.short import Short, Way, clamped, parse_short

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["Shortage", "check_ways"]

_TRIES = 8  # of a clamp, where others take the room that it was made for
_ANSWERS = "True, False or an amount such as '+$2'"


class Shortage:
    """One refused call.

    Args:
        budget: Whose limits refused.
        protocol, endpoint, body: What was asked for.
        fixed: The body cannot be changed any more.
        ask_of: Makes an ask of another estimate of the call.
        grown: Makes one of its first step; None if it cannot grow.
        guarded: Makes a guard of an ask, which waits so many seconds at most.

    Attributes:
        changes: Fields of the body that are to be sent with other values.
        told: What was done.
    """

    def __init__(
        self, budget: Budget, protocol: Speech, endpoint: str, body: Mapping[str, Any], fixed: bool,
        ask_of: Callable[[Any], Ask], grown: Callable[[Ask], Ask | None],
        guarded: Callable[[Ask, float | None], Guard],
    ):  # fmt: skip
        self._budget, self._protocol, self._endpoint, self._body = budget, protocol, endpoint, body
        self._fixed, self._ask_of, self._grown, self._guarded = fixed, ask_of, grown, guarded
        self._notes: list[str] = []
        self.changes: dict[str, Any] = {}
        self.told = Short()

    def tries(self, ask: Ask, ways: Sequence[Way], first: BudgetExceeded) -> Steps:
        """Try one way after the other.

        Raises:
            BudgetExceeded: What refused first, if nothing helps; a freeze or a guard of the run, if that came between.
            ConfigError, ArgumentTypeError: What `on_ask` answered cannot be used.
        """
        refused: BudgetExceeded | None = first
        for way in ways:
            assert refused is not None
            self._way = way.kind
            refused = yield from _WAYS[way.kind](self, way, ask, refused)
            if refused is None:
                return None
        for note in self._notes:
            first.add_note(note)
        raise first

    def _reserve(self, ask: Ask, told: Short, wait: float | None = None) -> Steps:
        detail = ask.detail
        ask.detail = {**detail, **told.to_dict()}
        guard = self._guarded(ask, wait)
        try:
            yield guard.begin, guard.abegin
        except (Frozen, RunStopped):
            raise
        except BudgetExceeded as refused:
            ask.detail = detail
            return refused
        self.told = told
        return None

    def _no(self, why: str, refused: BudgetExceeded) -> BudgetExceeded:
        self._notes.append(f"on_short: {self._way}: {why}")
        return refused

    def _clamp(self, way: Way, ask: Ask, refused: BudgetExceeded) -> Steps:
        estimate = ask.estimate
        if self._fixed or estimate is None or (ask.whole is not None and ask.whole is not estimate):
            return self._no("this request cannot be changed", refused)
        measure, before = estimate.measure, estimate.output_tokens_max
        if measure is not None:
            before = measure.output_max or before // measure.choices
        for _ in range(_TRIES):
            most = refused.max_tokens
            if most is None or most < way.floor:
                return self._no(f"{most or 'no'} output tokens fit, and {way.floor} are the fewest", refused)
            fields = clamped(self._endpoint, self._protocol.provider, self._body, most)
            if fields is None:
                return self._no(f"the request would not be valid with {most} output tokens", refused)
            less = with_output(self._budget.settings.book, estimate, most, self._budget.engine.verbs.now())
            other = self._ask_of(less)
            again = yield from self._reserve(other, Short(clamped={"from": before, "to": most}))
            if again is None:
                self.changes = fields
                return None
            refused = again
        return self._no("others took the room", refused)

    def _fallback(self, way: Way, ask: Ask, refused: BudgetExceeded) -> Steps:
        if self._fixed or ask.estimate is None:
            return self._no("this request cannot be changed", refused)
        found: list[tuple[str, Ask]] = []
        for model in way.models:
            work = partial(self._on, model, ask)
            other = yield work, partial(off_loop, work)
            if isinstance(other, str):
                self._no(f"{model}: {other}", refused)
            else:
                found.append((model, other))
        engine = self._budget.engine
        for model, other in sorted(found, key=lambda each: -(each[1].amounts[0] or 0)):
            check = engine.verbs.check(other)
            if not (yield partial(engine.drive, check), partial(engine.adrive, check)):
                self._no(f"{model} does not fit either", refused)
                continue
            used = Short(substituted={"asked": ask.estimate.model, "used": other.scope["model"]})
            again = yield from self._reserve(other, used)
            if again is None:
                self.changes = {_name(self._body): model}
                return None
            refused = again
        return refused

    def _on(self, model: str, ask: Ask) -> Ask | str:
        """Return what the same request asks for on another model, or why it cannot go there."""
        protocol, settings = self._protocol, self._budget.settings
        body = protocol.priced({**self._body, _name(self._body): model}, self._endpoint)
        if why := _elsewhere(self._budget, protocol, body[_name(body)]):
            return why
        estimate = self._budget.engine.estimate(body, protocol.provider, self._endpoint)
        assert ask.estimate is not None
        if estimate.model == ask.estimate.model:
            return "it is the model that was asked for"
        if not estimate.closed:
            return "; ".join(estimate.reasons)
        if estimate.priced:
            known = settings.book.find(estimate.model, estimate.provider)
            if makes_embeddings(known) != (self._endpoint == "embeddings"):
                return f"it does not do {self._endpoint}"
            asked = estimate.measure.output_max if estimate.measure else None
            if known.max_output is not None and (asked or 0) > known.max_output:
                return f"it answers with {known.max_output} tokens at most, and {asked} were asked for"
        return self._ask_of(estimate)

    def _grow(self, way: Way, ask: Ask, refused: BudgetExceeded) -> Steps:
        step = self._grown(ask)
        return refused if step is None else (yield from self._reserve(step, Short()))

    def _wait(self, way: Way, ask: Ask, refused: BudgetExceeded) -> Steps:
        again = yield from self._reserve(ask, Short(), way.seconds)
        return again and self._no("there was no room in time", again)

    def _ask(self, way: Way, ask: Ask, refused: BudgetExceeded) -> Steps:
        asked = self._budget.settings.on_ask
        if asked is None:
            return self._no("this process has no on_ask=", refused)
        answer = yield partial(answer_of, asked, refused), partial(aanswer_of, asked, refused)
        if answer is None or answer is False:
            return self._no("the answer was no", refused)
        if isinstance(answer, str):
            work = partial(adjust_refused, self._budget.engine, answer, refused.refusals, "on_ask")
            yield work, partial(in_thread, work)
        elif answer is not True:
            raise ArgumentTypeError(f"on_ask: {type(answer).__name__} is not {_ANSWERS}")
        told = Short(asked={"answer": "yes" if answer is True else answer})
        again = yield from self._reserve(ask, told)
        return again and self._no("it does not fit all the same", again)


_WAYS: Mapping[str, Callable[[Shortage, Way, Ask, BudgetExceeded], Steps]] = {
    "clamp": Shortage._clamp,
    "fallback": Shortage._fallback,
    "grow": Shortage._grow,
    "wait": Shortage._wait,
    "ask": Shortage._ask,
}


def check_ways(text: str, budget: Budget, protocol: Speech, endpoint: str, body: Mapping[str, Any]) -> None:
    """Check what a call says itself, where all is known: before anything of it happens.

    Raises:
        ConfigError: It cannot be read, names a model that has no price or is another provider's, or asks where nobody
            can be asked.
    """
    for way in parse_short(text, "budget_on_short"):
        if way.kind == "ask" and budget.settings.on_ask is None:
            raise ConfigError("budget_on_short: 'ask' needs somebody to ask; give Budget(on_ask=...)")
        for model in way.models:
            priced = protocol.priced({**body, _name(body): model}, endpoint)
            if why := _elsewhere(budget, protocol, priced[_name(priced)]):
                raise ConfigError(f"budget_on_short: {model!r}: {why}")


def _elsewhere(budget: Budget, protocol: Speech, model: str) -> str:
    """Say why a call cannot go to a model: nobody knows its price, or it is not of those to whom the client talks."""
    book = budget.settings.book
    try:
        book.find(model, protocol.provider)
    except UnknownModel:
        try:
            owner = book.find(model).provider
        except UnknownModel:
            return "" if budget.engine.unpriced else "there is no price for it"
        except ConfigError:  # several have it
            owner = "others"
        return f"it is a model of {owner}, and {protocol.provider} answers this client"
    return ""


def _name(body: Mapping[str, Any]) -> str:
    """Where a body says its model: in `modelId` for Bedrock's Converse."""
    return "modelId" if "modelId" in body and "model" not in body else "model"
