"""From a caller's arguments to a flow: the steps that both doors take before there is anything to drive.

Every argument is checked here, before a command is made. What is asked for becomes an `Ask`, what a call has cost
becomes amounts, and the flow of a verb (`budget.verbs`) is what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from budget.asks import Ask, count, filled, make_ask, must_agree, price
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.errors import ArgumentTypeError, BudgetExceeded, ConfigError, UnknownModel
from budget.estimate import Estimate, estimate_body, makes_embeddings, model_name
from budget.limits import check_attributes
from budget.money import parse_usd
from budget.run import current
from budget.short import ways_out
from budget.usage import Usage
from budget.verbs import Flow, Verbs
from budget.waiting.line import Place, wait_seconds

__all__ = ["GUARDED_LEASE", "Arguments", "known_reservation", "lease_us", "said_by_runs"]

_BARE_LEASE = 600.0
GUARDED_LEASE = 60.0
"""Seconds of lease of a guarded call or block; it is renewed at a third while that lives."""
_LEASE_MAX = 86400.0 * 7
_WITHOUT_MESSAGES = {"input", "instructions", "prompt", "previous_response_id", "conversation"}


class Arguments:
    """Turns arguments into flows, by the settings and with the verbs of one engine."""

    settings: Settings
    verbs: Verbs
    on_unknown_model: Callable[[str], None] | None = None
    """Is told of each model that was refused because it has no price."""

    @property
    def unpriced(self) -> bool:
        """Whether a model without a price is taken for free."""
        return self.settings.unpriced or self.settings.disabled

    def estimate(self, request: Mapping[str, Any], provider: str | None, endpoint: str | None) -> Estimate:
        """Estimate a request body. See `Budget.estimate`."""
        self.settings.book.check_provider(provider)
        if endpoint is not None and not isinstance(endpoint, str):
            raise ArgumentTypeError(f"endpoint: {type(endpoint).__name__} is not a name such as 'messages'")
        try:
            endpoint = self._endpoint_of(request, provider) if endpoint is None else endpoint
            return estimate_body(self.settings.book, request, provider, endpoint, self.verbs.now(), self.unpriced)
        except UnknownModel as error:
            if self.on_unknown_model is not None:
                self.on_unknown_model(error.model)
            raise

    def expect(self, estimate: Estimate) -> Estimate:
        """Put into an estimate what this process knows of such calls in the current run."""
        if self.verbs.learner.empty:
            return estimate
        run = current()
        scope = {**(run.scope if run else {}), "model": estimate.model, "provider": estimate.provider}
        found = self.verbs.learner.forecast(estimate, estimate.amounts, scope, self.verbs.now())
        if found is None:
            return estimate
        return replace(estimate, input_tokens=found.tokens, counted=found.counted or None, nanos=found.expected)

    def _endpoint_of(self, request: Mapping[str, Any], provider: str | None) -> str:
        """Tell the endpoint from the provider, the one asked for or the model's, and from what the request holds."""
        from budget.estimator import endpoint_of, speaks_chat

        name = model_name(request)
        try:
            model = self.settings.book.find(name, provider)
        except UnknownModel:
            if not self.unpriced:
                raise
            model = None
        provider = provider or (model.provider if model else None)
        embeds = model is not None and makes_embeddings(model)
        if provider and provider != "openai":
            return endpoint_of(request, provider, name, embeds)
        if "messages" not in request and not request.keys().isdisjoint(_WITHOUT_MESSAGES):
            return "embeddings" if embeds else "responses"
        return "chat" if provider or speaks_chat(request) else "messages"

    def ask_for(self, what: object, tokens: object, request: Mapping[str, Any]) -> Ask:
        """Tell a request's fields from attributes, and check both.

        Of a request, `provider` and `endpoint` say what they say of an estimate.
        """
        from budget.estimator import REQUEST_FIELDS

        if "on_short" in request:  # it would be taken for an attribute
            raise ConfigError("on_short: limits, runs and wrapped clients take it; here wait=30 waits for room")
        fields = {name: value for name, value in request.items() if name in REQUEST_FIELDS}
        if what is not None:
            if not fields.keys() <= {"model"}:
                raise ConfigError(f"{min(fields.keys() - {'model'})}: give an amount or a request, not both")
            if isinstance(what, Estimate):
                must_agree(self.settings, what, request)
            return make_ask(self.settings, what, tokens, request)
        attributes = {name: value for name, value in request.items() if name not in REQUEST_FIELDS}
        endpoint = attributes.pop("endpoint", None)
        check_attributes(attributes)
        if not fields:
            raise ConfigError("amount: give an Estimate, an amount such as '$0.40', or a request (model=, messages=)")
        estimate = self.estimate(fields, attributes.get("provider"), endpoint)
        return make_ask(self.settings, estimate, tokens, attributes)

    def reserve(
        self,
        what: object,
        tokens: object,
        id: str | None,
        lease: object,
        parent: str | None,
        wait: object,
        request: Mapping[str, Any],
    ) -> Flow:
        """See `Budget.reserve`."""
        seconds = wait_seconds(wait)
        ask = self.ask_for(what, tokens, request)
        name = self.verbs.new_id() if id is None else _check_id(id, "id")
        if parent is not None:
            _check_id(parent, "parent")
        place = self.place(seconds, ask)
        return self.reserve_or_wait(ask, name, lease_us(lease, _BARE_LEASE), parent, place)

    def reserve_or_wait(self, ask: Ask, id: str, lease_us: int, parent: str | None, place: Place | None) -> Flow:
        """Reserve; where that is refused and `on_short` says so, wait for room, unless the caller does so already."""

        def patience(refused: BudgetExceeded) -> float:
            return _within(max((way.seconds for way in ways_out(said_by_runs(ask), refused)), default=0.0), ask)

        return self.verbs.reserve(ask, id, lease_us, parent, place, patience)

    def place(self, seconds: float | None, ask: Ask) -> Place | None:
        """Make a place in the line for a call that may wait; no longer than its runs may."""
        return None if seconds is None else self.verbs.line.place(_within(seconds, ask))

    def reconcile(
        self, reservation: Reservation | str, usage: object, usd: object, tokens: object, model: str | None
    ) -> Flow:
        """See `Budget.reconcile`."""
        known = known_reservation(reservation)
        amounts, detail = self._actual(
            usage, usd, tokens, model, None, known if isinstance(known, Reservation) else None
        )
        return self.verbs.reconcile(known, amounts, detail)

    def record(
        self, usage: object, usd: object, tokens: object, model: str | None, provider: str | None, id: str | None,
        attributes: Mapping[str, str],
    ) -> Flow:  # fmt: skip
        """See `Budget.record`."""
        amounts, detail = self._actual(usage, usd, tokens, model, provider, None)
        given = {"model": model or detail.get("model"), "provider": provider}
        scope = {**attributes, **{name: value for name, value in given.items() if value}}
        ask = make_ask(self.settings, Decimal(0), 0, scope)
        ask.amounts = filled(amounts, None)
        ask.detail |= detail
        return self.verbs.record(ask, self.verbs.new_id() if id is None else _check_id(id, "id"))

    def _actual(
        self, usage: object, usd: object, tokens: object, model: str | None, provider: str | None,
        known: Reservation | None,
    ) -> tuple[Amounts, dict[str, Any]]:  # fmt: skip
        """Read what a call cost: a usage, or an amount of USD."""
        if (usage is None) == (usd is None):
            raise ConfigError("usage: give either a usage or usd=")
        if usage is not None:
            if tokens is not None:
                raise ConfigError("tokens: the usage says how many")
            self.settings.book.check_provider(provider)
            return price(self.settings, Usage.of(usage, provider), model, provider, known, self.verbs.now())
        number = None if tokens is None else count(tokens, "tokens")
        return (parse_usd(usd, "usd", booked=True), number, number, number, None), {}


def said_by_runs(ask: Ask) -> list[str]:
    """Return what the runs of a call say is to be done when money runs short, innermost first; "" is nothing."""
    return [run.on_short for run in ask.run.chain()] if ask.run is not None else []


def known_reservation(value: object) -> Reservation | str:
    if isinstance(value, Reservation):
        return value
    if isinstance(value, str):
        return _check_id(value, "reservation")
    raise ArgumentTypeError(f"reservation: {type(value).__name__} is neither a reservation nor its id")


def _check_id(id: object, name: str) -> str:
    if not isinstance(id, str):
        raise ArgumentTypeError(f"{name}: {type(id).__name__} is not 32 hex digits")
    if len(id) != 32 or not set(id) <= set("0123456789abcdef"):
        raise ConfigError(f"{name}: {id[:40]!r} is not 32 hex digits (0-9, a-f)")
    return id


def _within(seconds: float, ask: Ask) -> float:
    """Return so many seconds, or what the runs of a call leave of them."""
    left = ask.run.remaining_seconds() if ask.run is not None else None
    return seconds if left is None else min(seconds, left)


def lease_us(lease: object, default: float) -> int:
    if lease is None:
        return int(default * 1_000_000)
    if isinstance(lease, bool) or not isinstance(lease, int | float):
        raise ArgumentTypeError(f"lease: {type(lease).__name__} is not a number of seconds")
    if not 0 < lease <= _LEASE_MAX:
        raise ConfigError(f"lease: {lease!r} is not between 0 and {_LEASE_MAX:g} seconds")
    return max(1, int(lease * 1_000_000))
