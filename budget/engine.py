"""The engine: `Budget`, the door to every verb, sync; `Budget.aio`, the same verbs, awaited.

What a verb does stands in `budget.verbs`, once. Here it is driven: each command that a flow yields goes to the store, and
the outcome comes back, blocking or awaiting. A reserve whose answer never came (a timeout, a cancelled task, a Ctrl-C) is
called back with a refund of its id, which the store carries out after it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from budget.admin import Limits, actor, pools_of
from budget.asks import Ask, count, make_ask, price
from budget.commands import Amounts, ChangePolicy, Command, Outcome, Refund, Renew, Reservation, Reserve
from budget.config import Settings, duration_us, load
from budget.errors import ArgumentTypeError, ConfigError, StoreUnavailable
from budget.estimate import Estimate, estimate_body, estimate_counts
from budget.lease import Renewer
from budget.limits import Limit, check_attributes
from budget.money import parse_usd
from budget.policy import selector_identity
from budget.pools import Pool
from budget.run import Run, make_run, run_from_headers
from budget.stores.base import Store, open_store
from budget.usage import Usage
from budget.verbs import Decision, Flow, Verbs
from budget.window import instant

if TYPE_CHECKING:
    from types import TracebackType

    from budget.guard import Guard
    from budget.ledger import Entry
    from budget.rates import Cost

__all__ = ["AsyncBudget", "Budget", "default_engine"]

_log = logging.getLogger("budget")
_BARE_LEASE = 600.0
_GUARDED_LEASE = 60.0
_LEASE_MAX = 86400.0 * 7
_ENDPOINT_OF = {"anthropic": "messages", "openai": "chat"}
_default: Budget | None = None

C = TypeVar("C")


class Engine:
    """What the sync and the async door share: settings, store, verbs, and how a flow is driven."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.store: Store = open_store(settings.store)
        self.verbs = Verbs(settings, self.drive)
        self.leases = Renewer(self._renew)
        self.timeout = settings.timeout or self.store.default_timeout
        if settings.disabled:
            _log.warning("BUDGET_DISABLED is set: every call is admitted, and nothing is recorded")

    def drive(self, flow: Flow, call_back: bool = False) -> Any:
        """Run a flow to its end. `call_back` refunds a reserve whose answer never came."""
        until = monotonic() + self.timeout
        try:
            command = next(flow)
            while True:
                command = flow.send(self._call(command, until, call_back))
        except StopIteration as end:
            return end.value

    async def adrive(self, flow: Flow, call_back: bool = False) -> Any:
        """Run a flow to its end without blocking the event loop."""
        until = monotonic() + self.timeout
        try:
            command = next(flow)
            while True:
                try:
                    outcome = await self.store.acall(self.settings.account, command, _left(until))
                except BaseException:
                    self._lost(command, call_back)
                    raise
                command = flow.send(outcome)
        except StopIteration as end:
            return end.value

    def ask(self, command: Command) -> Outcome:
        """Carry out one command, blocking."""
        return self._call(command, monotonic() + self.timeout, False)

    def post(self, command: Command) -> None:
        """Hand a command to the store without waiting."""
        self.store.post(self.settings.account, command)

    def _call(self, command: Command, until: float, call_back: bool) -> Outcome:
        try:
            return self.store.call(self.settings.account, command, _left(until))
        except BaseException:
            self._lost(command, call_back)
            raise

    def _lost(self, command: Command, call_back: bool) -> None:
        if call_back and type(command) is Reserve:
            self.post(Refund(command.id, {"outcome": "no answer"}))

    def _renew(self, id: str, lease_us: int) -> None:
        self.post(Renew(id, lease_us))


class Budget:
    """The budget of one account in one store.

    Guarantees: at the instant a reserve is admitted, spent + reserved + amount <= limit in every pool it draws on, over
    all tasks, threads and processes; a refusal changes nothing but one ledger entry; pool and ledger change in one step;
    a model without a price is refused; no prompt is stored.

    Args:
        store: "sqlite:///relative.db", "sqlite:////absolute.db" or "memory://" (private to this object). Default: a file
            in `$XDG_DATA_HOME/budget`. Nothing is opened before the first verb.
        limits: Limits of this process, as text or `Limit`; those set in the store hold besides.
        prices: Own prices, USD per million tokens: `{"my-model": {"input": "0.10", "output": "0.40"}}`.
        account: One world of limits, pools and ledger in the store.
        on_store_error: "refuse".
        on_unpriced: "refuse", or "allow": such a call counts tokens and requests, no money.
        on_unbounded: "refuse", or an allowance such as "$0.50" for a request without an upper bound.
        store_timeout: Seconds that one verb may wait for the store (2 by default).
        mode: "enforce".
        outcome: Replaces the table that says how a call without usage ends; see `budget.outcome.outcome`.

    Raises:
        ConfigError, ArgumentTypeError: A value here, in `BUDGET_*` or in `budget.toml` cannot be used.
    """

    def __init__(
        self,
        store: str | None = None,
        *,
        limits: Sequence[str | Limit] | None = None,
        prices: object = None,
        account: str | None = None,
        on_store_error: str | None = None,
        on_unpriced: str | None = None,
        on_unbounded: str | None = None,
        store_timeout: float | None = None,
        mode: str = "enforce",
        outcome: Any = None,
    ):
        global _default
        settings = load(
            store=store, limits=limits, prices=prices, account=account, on_store_error=on_store_error,
            on_unpriced=on_unpriced, on_unbounded=on_unbounded, store_timeout=store_timeout, mode=mode, outcome=outcome,
        )  # fmt: skip
        self._engine = Engine(settings)
        self.aio = AsyncBudget(self)
        self.limits = Limits(self)
        if _default is None:
            _default = self

    @property
    def settings(self) -> Settings:
        """What it was made of."""
        return self._engine.settings

    @property
    def engine(self) -> Engine:
        """The engine behind the door, for clients and tools of this package."""
        return self._engine

    # Before a call.

    def estimate(
        self, body: Mapping[str, Any] | None = None, *, provider: str | None = None, endpoint: str | None = None,
        **request: Any,
    ) -> Estimate:  # fmt: skip
        """Estimate a request without any I/O.

        Args:
            body: A raw request body; or give its fields as keywords: `model=..., messages=..., max_tokens=...`.
            provider: Whose API it goes to; looked up by the model if not given.
            endpoint: "messages"; the provider's own if not given.

        Raises:
            UnknownModel: The model has no price, and `on_unpriced` is "refuse".
            ConfigError, ArgumentTypeError: The request is not of the endpoint's shape.
        """
        if body is not None and request:
            raise ConfigError("estimate: give a body or its fields as keywords, not both")
        if body is not None and not isinstance(body, Mapping):
            raise ArgumentTypeError(f"body: {type(body).__name__} is not a mapping of request fields")
        found = request if body is None else body
        if provider is None and endpoint is None:
            provider, endpoint = self._api_of(found)
        endpoint = endpoint or _ENDPOINT_OF.get(provider or "anthropic", "chat")
        settings = self.settings
        return estimate_body(settings.book, found, provider, endpoint, self._engine.verbs.now(), self._free)

    def estimate_counts(
        self, model: str, *, input_tokens: int, output_tokens: int, provider: str | None = None
    ) -> Estimate:
        """Estimate a request of which only the token counts are known.

        Raises:
            UnknownModel: The model has no price.
            ConfigError, ArgumentTypeError: A count cannot be used.
        """
        book, now = self.settings.book, self._engine.verbs.now()
        return estimate_counts(book, model, provider, input_tokens, output_tokens, now, self._free)

    def cost(self, usage: object, *, model: str | None = None, provider: str | None = None) -> Cost:
        """Price a provider's response, its usage object, the same as a dict, or a `Usage`.

        Raises:
            UnknownModel: The model has no price.
            ConfigError, ArgumentTypeError: The usage cannot be read, or nobody says which model it was.
        """
        found = Usage.of(usage)
        name = model or found.model
        if name is None:
            raise ConfigError("model: the usage does not say which model; pass model=")
        return self.settings.book.find(name, provider).rates(self._engine.verbs.now()).cost(found)

    def check(self, what: object = None, *, tokens: int | None = None, **request: Any) -> Decision:
        """Say whether a call would be admitted now. Takes what `reserve` takes; writes and counts nothing."""
        decision: Decision = self._engine.drive(self._engine.verbs.check(self._ask(what, tokens, request)))
        return decision

    # The verbs.

    def reserve(
        self, what: object = None, *, tokens: int | None = None, id: str | None = None, lease: float | None = None,
        parent: str | None = None, **request: Any,
    ) -> Reservation:  # fmt: skip
        """Set money aside in every pool that the call draws on, or raise.

        Args:
            what: An `Estimate`, or an amount such as "$0.40"; or give a request as keywords (`model=`, `messages=` ...).
            tokens: With an amount: how many tokens, needed where a limit counts tokens.
            id: 32 hex digits made by the caller; the same id with the same arguments gets the first answer again.
            lease: Seconds it may stay open; then it is charged. 600 by default, not renewed.
            parent: The id of a reservation that this one extends.
            **request: Attributes of the call (`user="alice"`), and the request's fields.

        Returns:
            The reservation: `.id`, `.usd`, `.scope`.

        Raises:
            BudgetExceeded: A limit refused (`CapExceeded`, `Frozen`, `RunStopped` are special ones).
            UnknownModel, Unbounded: There is no price, or no upper bound.
            ReservationConflict: The id was used with other arguments.
            StoreUnavailable: The store did not answer.
        """
        flow = self._reserve_flow(what, tokens, id, lease, parent, request)
        reservation: Reservation = self._engine.drive(flow, call_back=id is None)
        return reservation

    def reconcile(
        self, reservation: Reservation | str, usage: object = None, *, usd: object = None, tokens: int | None = None,
        model: str | None = None,
    ) -> Reservation:  # fmt: skip
        """Replace a reservation by the true cost, whatever it is; never refused.

        Args:
            reservation: The reservation, or its id.
            usage: A provider's response, its usage object, or a `Usage`.
            usd: The cost itself, instead of a usage; with `tokens=` if they are known (else those reserved stand).
            model: Which model, where neither usage nor reservation says so.

        Raises:
            ReservationConflict: It has ended already, with other figures.
            ConfigError, ArgumentTypeError: The cost cannot be read.
            StoreUnavailable: The store did not answer in time; what was handed over may still be carried out.
        """
        done: Reservation = self._engine.drive(self._reconcile_flow(reservation, usage, usd, tokens, model))
        return done

    def refund(self, reservation: Reservation | str) -> Reservation:
        """Make a whole reservation available again: the call was surely not billed.

        Raises:
            ReservationConflict: It was already reconciled.
            StoreUnavailable: The store did not answer.
        """
        done: Reservation = self._engine.drive(self._engine.verbs.refund(_reservation(reservation), {}))
        return done

    def record(
        self, usage: object = None, *, usd: object = None, tokens: int | None = None, model: str | None = None,
        provider: str | None = None, id: str | None = None, **attributes: str,
    ) -> Reservation:  # fmt: skip
        """Book spend that had no reservation; never refused.

        Raises:
            UnknownModel: The model has no price.
            ConfigError, ArgumentTypeError: The cost cannot be read.
            StoreUnavailable: The store did not answer.
        """
        done: Reservation = self._engine.drive(self._record_flow(usage, usd, tokens, model, provider, id, attributes))
        return done

    def reservation(
        self, what: object = None, *, tokens: int | None = None, lease: float | None = None, **request: Any
    ) -> Guard:
        """Guard a block that spends: reserve on entry, renew the lease, end exactly once on exit. Also `async with`.

        Inside, call `reconcile(usd=...)` or `refund()` on what `with` gives. A block that ends without either is charged
        the reservation; one that raises is refunded or charged as the table of outcomes says.
        """
        from budget.guard import Guard

        return Guard(self, self._ask(what, tokens, request), _lease_us(lease, _GUARDED_LEASE))

    # Runs, policy, records.

    def run(
        self, limit: object = None, *, cap: object = None, max_calls: int | None = None, deadline: float | None = None,
        loop: object = None, id: str | None = None, **attributes: str,
    ) -> Run:  # fmt: skip
        """Make a run: attributes for every call inside it, a pool of its own, guards. Also `async with`.

        Args:
            limit: What the run may spend: "$2", or "500k tokens".
            cap: The most that one request in it may cost.
            max_calls: How many calls it may make.
            deadline: Seconds after which no call is begun.
            loop: Not available in this version.
            id: Continue the run of this id.
            **attributes: `user="alice"`, `agent="support"`, any tag.

        Raises:
            ConfigError, ArgumentTypeError: An argument cannot be used.
        """
        return make_run(
            self._engine.verbs, limit, cap=cap, max_calls=max_calls, deadline=deadline, loop=loop, id=id,
            attributes=attributes,
        )  # fmt: skip

    def run_from_headers(self, headers: Mapping[str, str]) -> Run:
        """Continue the run of another process, from what its `Run.to_headers()` gave.

        Raises:
            ConfigError: The headers carry no run.
        """
        return run_from_headers(self._engine.verbs, headers)

    def budgeted(self, *args: Any, **options: Any) -> Any:
        """Like `budget.budgeted`, for this engine."""
        from budget.decorator import budgeted

        return budgeted(*args, budget=self, **options)

    def wrap(self, client: C) -> C:
        """Return a client of the same class whose billable calls are guarded; the one given stays as it is.

        Raises:
            ArgumentTypeError: It is no client that is known here.
            ConfigError: The SDK has changed in a way that guarding depends on.
        """
        from budget.clients import wrap

        return wrap(self, client)

    def freeze(self, *, everybody: bool = False, reason: str | None = None, **attributes: str) -> None:
        """Refuse every reserve of a subject from its next call on, in every process.

        Raises:
            ConfigError: Neither attributes nor `everybody=True`.
        """
        self._set_freeze("{}", everybody, reason, attributes)

    def unfreeze(self, *, everybody: bool = False, reason: str | None = None, **attributes: str) -> None:
        """End a freeze.

        Raises:
            ConfigError: There is no such freeze.
        """
        if not self._set_freeze(None, everybody, reason, attributes):
            raise ConfigError("unfreeze: there is no freeze of this subject")

    def status(self, **attributes: str) -> list[Pool]:
        """Return the pools now: all of them, or those that calls with these attributes draw on."""
        check_attributes(attributes)
        return pools_of(self._engine, attributes)

    def entries(self, *, since: datetime | str | None = None, **attributes: str) -> Iterator[Entry]:
        """Iterate the ledger, oldest first.

        Args:
            since: An aware datetime, or how long ago: "7d", "12h".
            **attributes: Only entries of calls that have them.

        Raises:
            ConfigError: `since` cannot be used.
        """
        wanted = check_attributes(attributes).items()
        since_us = _since(since, self._engine.verbs.now())
        return self._entries(wanted, since_us)

    def _entries(self, wanted: Any, since_us: int) -> Iterator[Entry]:
        after = 0
        while page := self._engine.store.entries(self.settings.account, after, since_us):
            yield from (entry for entry in page if wanted <= entry.scope.items())
            after = page[-1].seq

    def close(self) -> None:
        """Finish what was handed over and let go of files and threads; ends `aio` too."""
        global _default
        self._engine.leases.close()
        self._engine.store.close()
        if _default is self:
            _default = None

    def __enter__(self) -> Budget:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Budget({self._engine.store.url.partition('://')[0]}://…, account={self.settings.account!r})"

    # The steps that both doors take before a flow.

    @property
    def _free(self) -> bool:
        return self.settings.unpriced or self.settings.disabled

    def _api_of(self, request: Mapping[str, Any]) -> tuple[str | None, str]:
        name = request.get("model")
        if not isinstance(name, str):
            raise ArgumentTypeError(f"model: {type(name).__name__} is not the name of a model")
        provider = "anthropic"
        if not self._free:
            provider = self.settings.book.find(name).provider or provider
        return None, _ENDPOINT_OF.get(provider, "chat")

    def _ask(self, what: object, tokens: object, request: Mapping[str, Any]) -> Ask:
        from budget.estimator import REQUEST_FIELDS

        fields = {name: value for name, value in request.items() if name in REQUEST_FIELDS}
        attributes = {name: value for name, value in request.items() if name not in REQUEST_FIELDS}
        if what is None:
            if not fields:
                raise ConfigError("amount: give an Estimate, an amount such as '$0.40', or a request (model=, messages=)")
            what = self.estimate(fields)
        elif fields.keys() <= {"model"}:
            attributes |= fields
        else:
            raise ConfigError(f"{min(fields)}: give an amount or a request, not both")
        return make_ask(self.settings, what, tokens, attributes)

    def _reserve_flow(
        self, what: object, tokens: object, id: str | None, lease: object, parent: str | None, request: Mapping[str, Any]
    ) -> Flow:
        ask = self._ask(what, tokens, request)
        name = self._engine.verbs.new_id() if id is None else _check_id(id, "id")
        if parent is not None:
            _check_id(parent, "parent")
        return self._engine.verbs.reserve(ask, name, _lease_us(lease, _BARE_LEASE), parent)

    def _reconcile_flow(
        self, reservation: Reservation | str, usage: object, usd: object, tokens: object, model: str | None
    ) -> Flow:
        known = _reservation(reservation)
        amounts, detail = self._actual(usage, usd, tokens, model, None, known if isinstance(known, Reservation) else None)
        return self._engine.verbs.reconcile(known, amounts, detail)

    def _record_flow(
        self, usage: object, usd: object, tokens: object, model: str | None, provider: str | None, id: str | None,
        attributes: Mapping[str, str],
    ) -> Flow:  # fmt: skip
        amounts, detail = self._actual(usage, usd, tokens, model, provider, None)
        ask = make_ask(self.settings, Decimal(0), 0, attributes)
        ask.amounts = tuple((1 if unit == 4 else 0) if n is None else n for unit, n in enumerate(amounts))  # type: ignore[assignment]
        ask.detail = detail
        for name, value in (("model", model or detail.get("model")), ("provider", provider)):
            if value:
                ask.scope[name] = value
        return self._engine.verbs.record(ask, self._engine.verbs.new_id() if id is None else _check_id(id, "id"))

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
            return price(self.settings, Usage.of(usage), model, provider, known, self._engine.verbs.now())
        number = None if tokens is None else count(tokens, "tokens")
        return (parse_usd(usd, "usd", booked=True), number, number, number, None), {}

    def _set_freeze(self, body: str | None, everybody: bool, reason: str | None, attributes: Mapping[str, str]) -> bool:
        check_attributes(attributes)
        if everybody == bool(attributes):
            raise ConfigError("freeze: name a subject (user='alice') or everybody=True")
        detail = {"subject": dict(attributes), **actor(reason)}
        command = ChangePolicy("freeze", selector_identity(attributes), body, detail)
        changed = self._engine.ask(command).status == "changed"
        self._engine.verbs.forget_policy()
        return changed


class AsyncBudget:
    """The verbs of a `Budget`, awaited; same arguments, same answers, same errors."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self._engine = budget.engine

    async def reserve(
        self, what: object = None, *, tokens: int | None = None, id: str | None = None, lease: float | None = None,
        parent: str | None = None, **request: Any,
    ) -> Reservation:  # fmt: skip
        """See `Budget.reserve`. A cancelled reserve is called back."""
        flow = self._budget._reserve_flow(what, tokens, id, lease, parent, request)
        reservation: Reservation = await self._engine.adrive(flow, call_back=id is None)
        return reservation

    async def reconcile(
        self, reservation: Reservation | str, usage: object = None, *, usd: object = None, tokens: int | None = None,
        model: str | None = None,
    ) -> Reservation:  # fmt: skip
        """See `Budget.reconcile`. A cancelled reconcile is carried out all the same."""
        done: Reservation = await self._engine.adrive(self._budget._reconcile_flow(reservation, usage, usd, tokens, model))
        return done

    async def refund(self, reservation: Reservation | str) -> Reservation:
        """See `Budget.refund`. A cancelled refund is carried out all the same."""
        done: Reservation = await self._engine.adrive(self._engine.verbs.refund(_reservation(reservation), {}))
        return done

    async def record(
        self, usage: object = None, *, usd: object = None, tokens: int | None = None, model: str | None = None,
        provider: str | None = None, id: str | None = None, **attributes: str,
    ) -> Reservation:  # fmt: skip
        """See `Budget.record`."""
        flow = self._budget._record_flow(usage, usd, tokens, model, provider, id, attributes)
        done: Reservation = await self._engine.adrive(flow)
        return done

    async def check(self, what: object = None, *, tokens: int | None = None, **request: Any) -> Decision:
        """See `Budget.check`."""
        decision: Decision = await self._engine.adrive(self._engine.verbs.check(self._budget._ask(what, tokens, request)))
        return decision

    async def status(self, **attributes: str) -> list[Pool]:
        """See `Budget.status`."""
        import asyncio

        return await asyncio.to_thread(self._budget.status, **attributes)


def default_engine() -> Budget:
    """Return the first `Budget` made in this process, else one made from configuration."""
    return Budget() if _default is None else _default


def _left(until: float) -> float:
    return max(0.001, until - monotonic())


def _reservation(value: object) -> Reservation | str:
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


def _lease_us(lease: object, default: float) -> int:
    if lease is None:
        lease = default
    if isinstance(lease, bool) or not isinstance(lease, int | float):
        raise ArgumentTypeError(f"lease: {type(lease).__name__} is not a number of seconds")
    if not 0 < lease <= _LEASE_MAX:
        raise ConfigError(f"lease: {lease!r} is not between 0 and {_LEASE_MAX:g} seconds")
    return max(1, int(lease * 1_000_000))


def _since(since: datetime | str | None, now: int) -> int:
    if since is None:
        return 0
    return now - duration_us(since, "since") if isinstance(since, str) else instant(since)
