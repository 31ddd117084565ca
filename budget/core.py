"""The engine behind both doors: settings, store, verbs, and how a flow is driven.

What a verb does stands in `budget.verbs`, once. Here a caller's arguments become a flow, and the flow is driven: each
command that it yields goes to the store, and the outcome comes back, blocking or awaiting. A reserve whose answer never
came (a timeout, a cancelled task, a Ctrl-C) is called back with a refund of its id, which the store carries out after
it. What is answered when the store cannot is decided by `budget.outage.outage`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from time import monotonic, time
from typing import Any

from budget.above import Also
from budget.asks import Ask, count, filled, make_ask, price
from budget.books.books import Books, open_records
from budget.books.drainer import Drainer
from budget.commands import Amounts, Command, Outcome, Reconcile, Refund, Renew, Reservation, Reserve
from budget.config import Settings
from budget.errors import ArgumentTypeError, BudgetError, ConfigError, StoreUnavailable, UnknownModel
from budget.estimate import Estimate, estimate_body, makes_embeddings, model_name
from budget.lease import Renewer
from budget.limits import check_attributes
from budget.money import parse_usd
from budget.outage.outage import Outage
from budget.run import current
from budget.slices.slices import AHEAD, Slices
from budget.stores.base import Store, open_store
from budget.usage import Usage
from budget.verbs import Flow, Verbs
from budget.waiting.line import Place, wait_seconds

__all__ = ["GUARDED_LEASE", "Engine", "known_reservation", "lease_us"]

_log = logging.getLogger("budget")
_BARE_LEASE = 600.0
GUARDED_LEASE = 60.0
"""Seconds of lease of a guarded call or block; it is renewed at a third while that lives."""
_LEASE_MAX = 86400.0 * 7
_WITHOUT_MESSAGES = {"input", "instructions", "prompt", "previous_response_id", "conversation"}


class Engine:
    """Settings, store, verbs and leases of one `Budget`."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.store: Store = open_store("disabled://" if settings.disabled else settings.store)
        self.verbs = Verbs(settings, self.drive, self.store)
        self.books = Books(self.store, settings.account, open_records(settings.records))
        self.drainer = Drainer(self.books)
        self.leases = Renewer(self._renew)
        self.timeout = settings.timeout or self.store.default_timeout
        self.outage = Outage(settings, self.store, self.verbs, self._try, self.books.entries)
        self.store.undelivered = self.outage.undelivered
        self.slices = self._make_slices()
        self.above: Engine | None = None
        if settings.above is not None and not settings.disabled:
            self.above = Engine(replace(settings, account=settings.above, above=None, limits=(), records=None))
            self.verbs.above = self.above.verbs
        self._opened = False
        if settings.disabled:
            _log.warning("BUDGET_DISABLED is set: every call is admitted, and nothing is recorded")

    def _make_slices(self) -> Slices | None:
        speed, allowance = self.settings.slices, self.settings.local_allowance or 0
        if self.settings.disabled or not (speed or allowance):
            return None
        made = Slices(speed, allowance, self.verbs.new_id, self._post, self.leases.keep, self.leases.drop)
        self.outage.allowance = made.without_store
        return made

    def drive(self, flow: Flow, call_back: bool = False) -> Any:
        """Run a flow to its end. `call_back` refunds a reserve whose answer never came."""
        flow = self.slices.around(flow, call_back) if self.slices is not None else flow
        until = monotonic() + self.timeout
        try:
            command = next(flow)
            while True:
                if isinstance(command, Place | Also):
                    try:
                        answer = self._aside(command)
                    except BudgetError as error:
                        command = flow.throw(error)
                    else:
                        command = flow.send(answer)
                    until = monotonic() + self.timeout
                    continue
                try:
                    outcome, until = self._call(command, until, call_back)
                except StoreUnavailable as error:
                    instead = self.outage.instead(command)
                    if instead is None:
                        command = flow.throw(error)
                        continue
                    self.outage.flush()
                    outcome = instead
                command = flow.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    async def adrive(self, flow: Flow, call_back: bool = False) -> Any:
        """Run a flow to its end without blocking the event loop."""
        flow = self.slices.around(flow, call_back) if self.slices is not None else flow
        until = monotonic() + self.timeout
        try:
            command = next(flow)
            while True:
                if isinstance(command, Place | Also):
                    try:
                        answer = await self._aaside(command)
                    except BudgetError as error:
                        command = flow.throw(error)
                    else:
                        command = flow.send(answer)
                    until = monotonic() + self.timeout
                    continue
                try:
                    outcome, until = await self._acall(command, until, call_back)
                except StoreUnavailable as error:
                    instead = self.outage.instead(command)
                    if instead is None:
                        command = flow.throw(error)
                        continue
                    await _in_thread(self.outage.flush)
                    outcome = instead
                command = flow.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def _aside(self, command: Place | Also) -> Any:
        """Do what is not the store's part: wait for room, or go on in the account above."""
        if isinstance(command, Place):
            return command.sleep()
        assert self.above is not None
        return self.above.drive(command.flow, call_back=True)

    async def _aaside(self, command: Place | Also) -> Any:
        if isinstance(command, Place):
            return await command.asleep()
        assert self.above is not None
        return await self.above.adrive(command.flow, call_back=True)

    def do(self, command: Command) -> Outcome:
        """Carry out one command, blocking."""
        return self._call(command, monotonic() + self.timeout, False)[0]

    def post(self, command: Command) -> None:
        """Hand a command over without waiting."""
        if self.above is not None:
            self.above.post(replace(command, known=None) if isinstance(command, Reconcile | Refund) else command)
        if self.slices is not None:
            self.slices.posted(command)
        else:
            self._post(command)

    def _post(self, command: Command) -> None:
        if self.outage.breaker.open:
            self.outage.keep(command)
        else:
            self.store.post(self.settings.account, command)

    def close(self) -> None:
        """Finish what was handed over and let go of files and threads. What the store cannot take yet is kept."""
        self.verbs.line.close()
        self.leases.close()
        if self.above is not None:
            self.above.close()
        self.verbs.learner.flush()
        if self.slices is not None:
            self.slices.close()
        self.outage.settle()
        self.drainer.close()
        self.store.close()
        self.outage.close()

    def _try(self, flow: Flow) -> Outcome:
        """Run the steps of a probe, or of what waits: whether the breaker is open or not."""
        try:
            command = next(flow)
            while True:
                assert not isinstance(command, Place | Also), "what must be carried out waits for no room"
                try:
                    outcome = self.store.call(self.settings.account, command, self.timeout)
                except StoreUnavailable as error:
                    self.outage.failed(error)
                    raise
                self.outage.answered()
                command = flow.send(outcome)
        except StopIteration as end:
            done: Outcome = end.value
            return done

    def _call(self, command: Command, until: float, call_back: bool) -> tuple[Outcome, float]:
        self.outage.check(command)
        try:
            outcome = self.store.call(self.settings.account, command, _left(until))
        except BaseException as error:
            self._lost(command, call_back, error)
            raise
        return outcome, self._answered(until)

    async def _acall(self, command: Command, until: float, call_back: bool) -> tuple[Outcome, float]:
        self.outage.check(command)
        try:
            outcome = await self.store.acall(self.settings.account, command, _left(until))
        except BaseException as error:
            self._lost(command, call_back, error)
            raise
        return outcome, self._answered(until)

    def _answered(self, until: float) -> float:
        """Take note of an answer, and return until when the verb may last.

        Its deadline counts from an open store. An answer that came after it is that of a store that had to be opened
        first, and so is the first one.
        """
        self.outage.answered()
        now = monotonic()
        if self._opened and now <= until:
            return until
        self._opened = True
        return now + self.timeout

    def _lost(self, command: Command, call_back: bool, error: BaseException) -> None:
        if isinstance(error, StoreUnavailable):
            self.outage.failed(error)
        # A call that goes on without its reservation ends under the same id, whether or not that was set aside.
        goes_on = isinstance(error, StoreUnavailable) and self.settings.on_store_error == "allow"
        goes_on = goes_on and getattr(command, "digest", None) != AHEAD
        if call_back and not goes_on and type(command) is Reserve and getattr(error, "sent", True):
            self.post(Refund(command.id, {"outcome": "no answer"}))

    def _renew(self, id: str, lease_us: int) -> None:
        self.post(Renew(id, lease_us))

    # From a caller's arguments to a flow: the steps that both doors take.

    @property
    def unpriced(self) -> bool:
        """Whether a model without a price is taken for free."""
        return self.settings.unpriced or self.settings.disabled

    def estimate(self, request: Mapping[str, Any], provider: str | None, endpoint: str | None) -> Estimate:
        """Estimate a request body. See `Budget.estimate`."""
        self.settings.book.check_provider(provider)
        endpoint = endpoint or self._endpoint_of(request, provider)
        return estimate_body(self.settings.book, request, provider, endpoint, self.verbs.now(), self.unpriced)

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
        from budget.estimator import CHAT_ONLY, endpoint_of

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
        return "chat" if provider or not request.keys().isdisjoint(CHAT_ONLY) else "messages"

    def ask_for(self, what: object, tokens: object, request: Mapping[str, Any]) -> Ask:
        """Tell a request's fields from attributes, and check both."""
        from budget.estimator import REQUEST_FIELDS

        fields = {name: value for name, value in request.items() if name in REQUEST_FIELDS}
        attributes = check_attributes({name: value for name, value in request.items() if name not in REQUEST_FIELDS})
        if what is None:
            if not fields:
                raise ConfigError(
                    "amount: give an Estimate, an amount such as '$0.40', or a request (model=, messages=)"
                )
            what = self.estimate(fields, None, None)
        elif fields.keys() <= {"model"}:
            attributes |= fields
        else:
            raise ConfigError(f"{min(fields)}: give an amount or a request, not both")
        return make_ask(self.settings, what, tokens, attributes)

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
        return self.verbs.reserve(ask, name, lease_us(lease, _BARE_LEASE), parent, self.place(seconds, ask))

    def place(self, seconds: float | None, ask: Ask) -> Place | None:
        """Make a place in the line for a call that may wait; no longer than its runs may."""
        if seconds is None:
            return None
        runs = ask.run.chain() if ask.run is not None else ()
        over = [run.deadline_at - time() for run in runs if run.deadline_at is not None]
        return self.verbs.line.place(max(0.0, min([seconds, *over])))

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
        ask.detail = detail
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


async def _in_thread(work: Callable[[], None]) -> None:
    import asyncio

    await asyncio.to_thread(work)


def _left(until: float) -> float:
    return max(0.001, until - monotonic())


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


def lease_us(lease: object, default: float) -> int:
    if lease is None:
        lease = default
    if isinstance(lease, bool) or not isinstance(lease, int | float):
        raise ArgumentTypeError(f"lease: {type(lease).__name__} is not a number of seconds")
    if not 0 < lease <= _LEASE_MAX:
        raise ConfigError(f"lease: {lease!r} is not between 0 and {_LEASE_MAX:g} seconds")
    return max(1, int(lease * 1_000_000))
