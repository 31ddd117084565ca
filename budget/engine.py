"""`Budget`: the door to every verb. `Budget.aio` has them awaited; `budget.core` is the engine behind both."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from budget.admin import Limits, actor, adjust
from budget.aio import AsyncBudget
from budget.arguments import GUARDED_LEASE, known_reservation, lease_us
from budget.commands import ChangePolicy, LoadPolicy, Reservation
from budget.config import Settings, duration_us, load
from budget.core import Engine
from budget.errors import ArgumentTypeError, BudgetExceeded, ConfigError
from budget.estimate import Estimate, estimate_counts
from budget.limits import Limit, check_attributes, name_model
from budget.overview import pools_of
from budget.pools import Pool
from budget.rows import selector_identity
from budget.run import Run
from budget.runargs import make_run, run_from_headers
from budget.usage import Usage
from budget.verbs import Decision
from budget.waiting.line import wait_seconds
from budget.window import instant

if TYPE_CHECKING:
    from types import TracebackType

    from budget.alerts.alerts import Alerts
    from budget.guard import Guard
    from budget.ledger import Entry
    from budget.loops import Loop
    from budget.prices.rates import Cost
    from budget.report import Questions, Row, Rows
    from budget.sinks.runner import Runner
    from budget.thresholds import Warned

__all__ = ["AsyncBudget", "Budget", "default_engine"]

_default: Budget | None = None

C = TypeVar("C")


class Budget:
    """The budget of one account in one store.

    Guarantees: at the instant a reserve is admitted, spent + reserved + amount <= limit in every pool it draws on, over
    all tasks, threads and processes; a refusal changes nothing but one ledger entry; pool and ledger change in one
    step; a model without a price is refused; no prompt is stored.

    Args:
        store: "sqlite:///relative.db", "sqlite:////absolute.db" or "memory://" (private to this object). Default: a
        file
            in `$XDG_DATA_HOME/budget`. Nothing is opened before the first verb.
        limits: Limits of this process, as text or `Limit`; those set in the store hold besides.
        prices: Own prices, USD per million tokens: `{"my-model": {"input": "0.10", "output": "0.40"}}`.
        account: One world of limits, pools and ledger in the store.
        above: Another account of the store, whose limits bind every call besides: what the accounts of several teams
            share, also where they are on different nodes of a cluster. With `slices` it is asked once for many calls.
        records: With a server: the SQLite file ("sqlite:////var/lib/records.db") that its ledger is drained into, once
            a second in the background, each entry once, and dropped from the server only then. One file per account.
        on_store_error: What becomes of a call whose reserve the store cannot answer. "refuse": it raises
            `StoreUnavailable`. "local_allowance:$1": this process spends so much meanwhile, bought in advance from the
            pools; calls that a rolling, concurrency or shadow limit applies to have no allowance.
            "allow:i-accept-unbounded-spend": it goes on without a reservation, and its cost is booked when the store
            is back.
        slices: For very many small calls: this process buys up to so much ("$1") of the pools at a time and decides
            from that without asking the store, for one second at most. Limits still hold; others may be refused early
            meanwhile, and a change of policy holds within a second.
        on_unpriced: "refuse", or "allow": such a call counts tokens and requests, no money.
        on_unbounded: "refuse", or an allowance such as "$0.50" for a request without an upper bound.
        count_with: "tokenizer": estimates are made here alone. "provider": where the bound of a wrapped client's call
            would be refused and what is expected would fit, the provider's counting endpoint is asked, once, before it
            is reserved (Anthropic Messages, OpenAI Responses). Such a call waits for it, at most a few seconds, and
            every call asks the store once more.
        reserve_at: How much a call sets aside in its pools: "max", the most that it can cost (hard: a limit holds
            whatever the answers); "p99" or "p95", what all but 1 or 5 of 100 calls like it cost, or "expected", their
            mean (soft: an overrun is booked in full, beyond the limit if need be). What calls cost is learned; while
            too little is known, "max" holds. A cap is always held to the most that a request can cost.
        store_timeout: Seconds that one verb may wait for the store (2 by default).
        mode: "enforce", or "shadow": every limit is a shadow limit of this process. It never refuses, and the ledger
            says what it would have refused.
        on_warning: Called with a `Warned` when a reserve takes a pool to one of its limit's `warn` shares, once per
            pool, window and share in a process; the logger `budget` gets a warning besides. It must be quick.
        on_ask: Called with the `BudgetExceeded` of a wrapped client's call whose `on_short` says "ask", a function or a
            coroutine function. True: the call is tried once more; "+$2": the pools of money that refused are raised by
            that, as by `adjust`, and it is tried once more; False: it is refused.
        outcome: Replaces the table that says how a call without usage ends; see `budget.outcome.outcome`.
        sinks: What is told of every call, in the background: texts such as "jsonl:/var/log/calls.jsonl", or objects;
            see `budget.sinks`. With a server, `records` is needed besides.
        alerts: What to warn of, in the background, once over all processes of the host: ["default", "session > $5 in
            10m"]; see `budget.alerts`. With a server, `records` is needed besides.
        alert_to: Where warnings are told: "log" (the logger `budget.alerts`, the default), "slack:VARIABLE",
            "webhook+https://...", "email:...", functions that are called with an `Alert`.

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
        above: str | None = None,
        records: str | None = None,
        on_store_error: str | None = None,
        slices: str | None = None,
        on_unpriced: str | None = None,
        on_unbounded: str | None = None,
        count_with: str | None = None,
        reserve_at: str | None = None,
        store_timeout: float | None = None,
        mode: str = "enforce",
        on_warning: Callable[[Warned], Any] | None = None,
        on_ask: Callable[[BudgetExceeded], Any] | None = None,
        outcome: Any = None,
        sinks: Sequence[Any] | None = None,
        alerts: Sequence[Any] | None = None,
        alert_to: Sequence[Any] | None = None,
    ):
        settings = load(
            store=store, limits=limits, prices=prices, account=account, above=above, records=records,
            on_store_error=on_store_error, slices=slices,
            on_unpriced=on_unpriced, on_unbounded=on_unbounded, count_with=count_with, reserve_at=reserve_at,
            store_timeout=store_timeout, mode=mode, on_warning=on_warning, on_ask=on_ask, outcome=outcome,
            sinks=sinks, alerts=alerts, alert_to=alert_to,
        )  # fmt: skip
        self._begin(settings)

    def _begin(self, settings: Settings) -> None:
        global _default
        self._engine = Engine(settings)
        self._sinks = self._start_sinks(settings)
        self._questions: Questions | None = None
        self.aio = AsyncBudget(self)
        self.limits = Limits(self)
        if _default is None:
            _default = self

    def _start_sinks(self, settings: Settings) -> Runner | None:
        if settings.disabled or not (settings.sinks or settings.alerts):
            return None
        from budget.sinks.runner import Runner

        try:
            made = Runner(self._engine, (*settings.sinks, *self._make_alerts(settings)))
        except BaseException:
            self._engine.close()
            raise
        made.start()
        return made

    def _make_alerts(self, settings: Settings) -> tuple[Alerts, ...]:
        if not settings.alerts:
            return ()
        from budget.alerts.alerts import Alerts

        return (Alerts(self._engine, settings.alerts, settings.alert_to),)

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
            body: A raw request body; or give its fields as keywords: `model=..., messages=..., max_tokens=...`. For a
                body without the model's name, such as Gemini's, `model=` says it.
            provider: Whose API it goes to; looked up by the model if not given.
            endpoint: "messages", "chat", "responses", "embeddings", "generateContent" or "converse"; told from provider
                and request if not given. "images", "speech" and "transcriptions" must be given.

        Raises:
            UnknownModel: The model has no price, and `on_unpriced` is "refuse".
            ConfigError, ArgumentTypeError: The request is not of the endpoint's shape.
        """
        if body is not None and request.keys() - {"model"}:
            raise ConfigError("estimate: give a body (and model=, if it has none) or its fields as keywords, not both")
        if body is not None and not isinstance(body, Mapping):
            raise ArgumentTypeError(f"body: {type(body).__name__} is not a mapping of request fields")
        return self._engine.expect(self._engine.estimate({**(body or {}), **request}, provider, endpoint))

    def estimate_counts(
        self, model: str, *, input_tokens: int, output_tokens: int, provider: str | None = None,
        cache_ttls: Collection[str] = (),
    ) -> Estimate:  # fmt: skip
        """Estimate a request of which only the token counts are known; they are taken for bounds.

        Args:
            model: Which model.
            input_tokens: All input, cached too.
            output_tokens: All output, reasoning too.
            provider: Looked up by the model if not given.
            cache_ttls: The caches that input may be written to, by how long they keep it: "5m", "1h".

        Raises:
            UnknownModel: The model has no price.
            ConfigError, ArgumentTypeError: A count cannot be used.
        """
        book, now = self.settings.book, self._engine.verbs.now()
        known = (input_tokens, output_tokens, now, self._engine.unpriced, cache_ttls)
        return self._engine.expect(estimate_counts(book, model, provider, *known))

    def cost(self, usage: object, *, model: str | None = None, provider: str | None = None) -> Cost:
        """Price a provider's response, its usage object, the same as a dict, or a `Usage`.

        Raises:
            UnknownModel: The model has no price.
            ConfigError, ArgumentTypeError: The usage cannot be read, or nobody says which model it was.
        """
        self.settings.book.check_provider(provider)
        found = Usage.of(usage, provider)
        name = model or found.model
        if name is None:
            raise ConfigError("model: the usage does not say which model; pass model=")
        return self.settings.book.find(name, provider).rates(self._engine.verbs.now()).cost(found)

    def check(self, what: object = None, *, tokens: int | None = None, **request: Any) -> Decision:
        """Say whether a call would be admitted now; writes and counts nothing.

        Takes what `reserve` takes of a call: an estimate, an amount or a request, and attributes.
        """
        decision: Decision = self._engine.drive(self._engine.verbs.check(self._engine.ask_for(what, tokens, request)))
        return decision

    # The verbs.

    def reserve(
        self, what: object = None, *, tokens: int | None = None, id: str | None = None, lease: float | None = None,
        parent: str | None = None, wait: float | None = None, **request: Any,
    ) -> Reservation:  # fmt: skip
        """Set money aside in every pool that the call draws on, or raise.

        Args:
            what: An `Estimate`, or an amount such as "$0.40"; or give a request as keywords (`model=`, `messages=`
            ...).
            tokens: With an amount: how many tokens, needed where a limit counts tokens.
            id: 32 hex digits made by the caller; the same id with the same arguments gets the first answer again.
            lease: Seconds it may stay open; then it is charged. 600 by default, not renewed.
            parent: The id of a reservation that this one extends.
            wait: Seconds (above 0, up to 3600) to wait for room, where every limit that refuses will have some: what a
                refund, a reconcile, a higher limit or a new window brings. First come, first served, of those who
                wait in this process. A frozen subject is refused at once. Without it, what the run's `on_short`, or
                that of the limit, says of waiting holds.
            **request: Attributes of the call (`user="alice"`), and the request's fields.

        Returns:
            The reservation: `.id`, `.usd`, `.scope`.

        Raises:
            BudgetExceeded: A limit refused (`CapExceeded`, `Frozen`, `RunStopped` are special ones).
            UnknownModel, Unbounded: There is no price, or no upper bound.
            ReservationConflict: The id was used with other arguments.
            StoreUnavailable: The store did not answer.
        """
        flow = self._engine.reserve(what, tokens, id, lease, parent, wait, request)
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

        While the store cannot answer, this is kept on disk and carried out once it can; what is returned is then what
        it will presumably be.
        """
        done: Reservation = self._engine.drive(self._engine.reconcile(reservation, usage, usd, tokens, model))
        return done

    def refund(self, reservation: Reservation | str) -> Reservation:
        """Make a whole reservation available again: the call was surely not billed.

        Raises:
            ReservationConflict: It was already reconciled.

        While the store cannot answer: as with `reconcile`.
        """
        done: Reservation = self._engine.drive(self._engine.verbs.refund(known_reservation(reservation), {}))
        return done

    def record(
        self, usage: object = None, *, usd: object = None, tokens: int | None = None, model: str | None = None,
        provider: str | None = None, id: str | None = None, **attributes: str,
    ) -> Reservation:  # fmt: skip
        """Book spend that had no reservation; never refused.

        Raises:
            UnknownModel: The model has no price.
            ConfigError, ArgumentTypeError: The cost cannot be read.

        While the store cannot answer: as with `reconcile`.
        """
        done: Reservation = self._engine.drive(self._engine.record(usage, usd, tokens, model, provider, id, attributes))
        return done

    def reservation(
        self, what: object = None, *, tokens: int | None = None, lease: float | None = None,
        wait: float | None = None, **request: Any,
    ) -> Guard:  # fmt: skip
        """Guard a block that spends: reserve on entry, renew the lease, end exactly once on exit. Also `async with`.

        Inside, call `reconcile(usd=...)` or `refund()` on what `with` gives. A block that ends without either is
        charged the reservation; one that raises is refunded or charged as the table of outcomes says. `wait`: see
        `reserve`.

        While the block is open, wrapped clients let pass in it what they refuse otherwise, because nobody knows what it
        costs: images, sessions, WebSockets.
        """
        from budget.guard import Guard

        seconds = wait_seconds(wait)
        ask = self._engine.ask_for(what, tokens, request)
        return Guard(self, ask, lease_us(lease, GUARDED_LEASE), seconds, waits=True)

    # Runs, policy, records.

    def run(
        self, limit: object = None, *, cap: object = None, max_calls: int | None = None, deadline: float | None = None,
        loop: int | str | Loop | None = None, velocity: str | None = None, on_short: str | None = None,
        id: str | None = None, **attributes: str,
    ) -> Run:  # fmt: skip
        """Make a run: attributes for every call inside it, a pool of its own, guards. Also `async with`.

        Args:
            limit: What the run may spend: "$2", or "500k tokens".
            cap: The most that one request in it may cost.
            max_calls: How many calls it may make.
            deadline: Seconds after which no call is begun; what is left of them is a call's timeout.
            loop: How often the same tool call with the same arguments is a loop: 3, "3 in 10" (calls), or a `Loop`;
                as many rounds of a cycle of several calls are one, too. Wrapped clients see the tool calls in what they
                send; `Run.tool` says them by hand, also where the provider keeps the conversation.
            velocity: How much it may use in a time: "$1/minute" (always the last 60 seconds), "$5/10m rolling",
                "100 requests/minute". It is a limit, refused as such: the call fits later (`resets_at`, `wait=`).
            on_short: What is done when a limit has no room for a call of a wrapped client: "clamp", "fallback:MODEL",
                "wait:30s", "ask", several with ";".
            id: Continue the run of this id.
            **attributes: `user="alice"`, `agent="support"`, any tag.

        Raises:
            ConfigError, ArgumentTypeError: An argument cannot be used.
        """
        return make_run(
            self._engine.verbs, limit, cap=cap, max_calls=max_calls, deadline=deadline, loop=loop,
            velocity=velocity, on_short=on_short, id=id, attributes=attributes,
        )  # fmt: skip

    def run_from_headers(self, headers: Mapping[str, str]) -> Run:
        """Continue the run of another process, from what its `Run.to_headers()` gave.

        They are believed: take them from processes of your own only. A process that gets them in its environment
        (`Run.to_environment()`, `budget run`) is in that run without a word.

        Raises:
            ConfigError: The headers carry no run.
        """
        return run_from_headers(self._engine.verbs, headers)

    def budgeted(self, *args: Any, **options: Any) -> Any:
        """Like `budget.budgeted`, for this engine."""
        from budget.decorator import budgeted

        return budgeted(*args, budget=self, **options)

    def wrap(self, client: C, *, deployments: Mapping[str, str] | None = None) -> C:
        """Return a client of the same class whose billable calls are guarded; the one given stays as it is.

        Takes the clients of `anthropic` and `openai`, sync and async, those for Azure, Bedrock, Vertex and other clouds
        too: they are priced by who answers them. An OpenAI chat stream is asked for its usage; the chunk that brings it
        is shown only to who asked for it (or reads the bytes). Takes also `genai.Client` of `google-genai`, `boto3`'s
        bedrock-runtime, the clients of `mistralai`, `groq` and `cohere`, and LiteLLM's functions `completion`,
        `acompletion`, `embedding` and `aembedding`: what is returned is a function of the same signature then.

        Args:
            client: The client.
            deployments: For a cloud where models have names of the operator's own: what those names mean,
                `{"my-gpt": "gpt-5.6"}`.

        Raises:
            ArgumentTypeError: It is no client that is known here, or `deployments` is not a mapping of names.
            ConfigError: It is of a flavour that is not known, or the SDK lacks what guarding depends on.
        """
        from budget.clients import wrap

        return wrap(self, client, deployments)

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

    def adjust(self, amount: str, /, *, reason: str | None = None, **attributes: str) -> list[Pool]:
        """Raise what fits in the present window of a subject's money pools; it ends with that window.

        What is spent stays as it is. A rolling pool is raised for the length of its window, a lifetime one for good.

        Args:
            amount: How much more, such as "+$10".
            reason: Why, for the ledger.
            **attributes: The subject, whole: `user="alice"` means her own pools; without any, those of everybody
                together.

        Returns:
            The pools that were raised, as they are now.

        Raises:
            ConfigError, ArgumentTypeError: It is no such amount, or the subject has no limit of money.
            StoreUnavailable: The store did not answer.
        """
        return adjust(self._engine, amount, reason, attributes)

    def status(self, **attributes: str) -> list[Pool]:
        """Return the pools now: all of them, or those that calls with these attributes draw on.

        Those of the account above (`above=`) come last; their `account` names it.
        """
        check_attributes(attributes)
        return pools_of(self._engine, attributes)

    def entries(self, *, since: datetime | str | None = None, **attributes: str) -> Iterator[Entry]:
        """Iterate the ledger, oldest first.

        Args:
            since: An aware datetime, or how long ago: "7d", "12h".
            **attributes: Only entries of calls that have them; a model under any name that it has.

        Raises:
            ConfigError, ArgumentTypeError: `since` cannot be used.
        """
        given = check_attributes(attributes)
        wanted = [given.items(), name_model(self.settings.book, given).items()]
        since_us = _since(since, self._engine.verbs.now())
        return self._entries(wanted, since_us)

    def _entries(self, wanted: Sequence[Any], since_us: int) -> Iterator[Entry]:
        """Iterate entries of a model as the book names it, and as written: the book may not have known it then."""
        self._engine.outage.check(LoadPolicy())
        entries = self._engine.books.entries(since_us)
        return (entry for entry in entries if any(some <= entry.scope.items() for some in wanted))

    def report(
        self, by: object = "user", *, since: datetime | str | None = None, until: datetime | str | None = None,
        where: Mapping[str, str | None] | None = None, quick: bool = False, top: int | None = None,
        above: str | Decimal | None = None, quota: str | None = None, times_mean: int | str | Decimal | None = None,
    ) -> Rows[Row]:  # fmt: skip
        """Return what calls cost in groups, the dearest first, as a list with `to_dicts()` and `to_pandas()`.

        Args:
            by: What calls are grouped by: user, session, agent, project, model (as answered), provider, run, day, hour
                (UTC), or any other attribute; several ("user,model", or a list), or none (`[]`: all together).
            since: An aware datetime, or how long ago: "7d", "12h". A call counts by when it ended.
            until: The same; what ended then or later does not count.
            where: What the calls have, {"agent": "support"}; None as a value: that they have none.
            quick: Sums alone, from the daily sums where these can tell: no quantiles, no first and last call.
            top: How many rows at most.
            above: Only groups that cost more than this: "$1".
            quota: Only days (or hours) of a group that cost more than this: "$10/day".
            times_mean: Only groups that cost at least so many times the mean of all groups: 10.

        Raises:
            ConfigError, ArgumentTypeError: An argument cannot be used.
            StoreUnavailable: The ledger, or the file of records that is made of it, cannot be read.
        """
        return self.questions.report(
            by, since=since, until=until, where=where, quick=quick, top=top, above=above, quota=quota,
            times_mean=times_mean,
        )  # fmt: skip

    def top(self, by: object = "user", count: int = 10, *, since: datetime | str | None = "7d") -> Rows[Row]:
        """Return the groups that cost most, from the daily sums; see `report`."""
        return self.questions.report(by, since=since, quick=True, top=count)

    @property
    def questions(self) -> Questions:
        """All that can be asked of the account's records: costs, prompt caches, refusals, where limits are going."""
        if self._questions is None:
            from budget.report import Questions

            self._questions = Questions(self._engine)
        return self._questions

    def close(self) -> None:
        """Finish what was handed over and let go of files and threads; ends `aio` too.

        Sinks get two seconds for what they were not told of yet; what is left then is told at the next start.
        """
        global _default
        if self._sinks is not None:
            self._sinks.close()
        if self._questions is not None:
            self._questions.close()
        self._engine.close()
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

    def _set_freeze(self, body: str | None, everybody: bool, reason: str | None, attributes: Mapping[str, str]) -> bool:
        given = check_attributes(attributes)
        if not isinstance(everybody, bool):
            raise ArgumentTypeError(f"everybody: {type(everybody).__name__} is not True or False")
        if everybody == bool(given):
            raise ConfigError("freeze: name a subject (user='alice') or everybody=True")
        who, named, changed = actor(reason), name_model(self.settings.book, given), False
        subjects = [named] if body is not None or named == given else [named, given]
        while subjects and not changed:
            subject = subjects.pop(0)
            command = ChangePolicy("freeze", selector_identity(subject), body, {"subject": subject, **who})
            changed = self._engine.do(command).status == "changed"
        self._engine.verbs.forget_policy()
        return changed


def default_engine() -> Budget:
    """Return the first `Budget` made in this process, else one made from configuration."""
    return Budget() if _default is None else _default


def _since(since: datetime | str | None, now: int) -> int:
    if since is None:
        return 0
    if isinstance(since, str):
        return now - duration_us(since, "since")
    if isinstance(since, datetime):
        if since.tzinfo is None:
            raise ConfigError("since: a datetime without a time zone is ambiguous; pass an aware one")
        return instant(since)
    raise ArgumentTypeError(f"since: {type(since).__name__} is neither an aware datetime nor a text such as '7d'")
