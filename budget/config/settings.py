"""Settings: what an engine is made of, and how it is joined of arguments, environment and file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from budget.config import values
from budget.config.files import KEYS, default_store, price_book, read_file, read_limits
from budget.expect import LEVELS
from budget.limits import MODES, Limit

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = ["Settings", "configured_alerts", "configured_sinks", "load"]

_LISTS = {"limits", "prices", "price_files"}


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine is made of.

    Attributes:
        store: The store's URL.
        account: One world of limits, pools and ledger in it.
        above: The account whose limits bind besides, or None.
        records: The SQLite file that a server's ledger is drained into, or None.
        limits: The limits of this process, in declaration order.
        book: The price book, own rows included.
        unpriced: Take a model without a price for free (tokens and requests are counted).
        allowance: What a request without a bound may reserve, nano-dollars; None refuses it.
        ask_provider: Have the provider count a call's input where our bound alone would have it refused.
        reserve_at: How much a call sets aside in its pools: one of `expect.LEVELS`.
        timeout: How long a verb may wait for the store, seconds; None is the store's own.
        on_store_error: What happens to a call whose reserve the store cannot answer: "refuse", "allow" (it goes on
            without a reservation), or "local_allowance".
        local_allowance: What that may spend, nano-dollars; else None.
        slices: What a slice for speed has at most, nano-dollars; 0: none is bought.
        shadow: Every limit is a shadow limit: nothing is refused but to the frozen.
        disabled: Every verb admits and records nothing.
        on_warning: What is called with a warning before a limit refuses, or None.
        on_ask: What is asked when a limit refuses and `on_short` says so, or None.
        outcome: What replaces the table of outcomes, or None.
        clock: What tells the time in place of this machine, microseconds since the epoch: a test's.
        sinks: What is told of every call, as text or objects; see `budget.sinks`.
        alerts: What is warned of, as text or rules; see `budget.alerts`.
        alert_to: Where warnings are told, as text, functions or channels.
    """

    store: str = field(repr=False)  # it may hold a password
    account: str
    above: str | None
    records: str | None = field(repr=False)
    limits: tuple[Limit, ...]
    book: PriceBook
    unpriced: bool
    allowance: int | None
    ask_provider: bool
    reserve_at: str
    timeout: float | None
    on_store_error: str
    local_allowance: int | None
    slices: int
    shadow: bool
    disabled: bool
    on_warning: Callable[..., Any] | None
    on_ask: Callable[..., Any] | None
    outcome: Callable[..., str] | None
    clock: Callable[[], int] | None = None
    sinks: tuple[Any, ...] = field(default=(), repr=False)  # a URL in one may hold a password
    alerts: tuple[Any, ...] = ()
    alert_to: tuple[Any, ...] = field(default=("log",), repr=False)


def load(
    *,
    store: str | None = None,
    account: str | None = None,
    above: str | None = None,
    records: str | None = None,
    limits: Sequence[str | Limit] | None = None,
    prices: object = None,
    on_store_error: str | None = None,
    slices: str | None = None,
    on_unpriced: str | None = None,
    on_unbounded: str | None = None,
    count_with: str | None = None,
    reserve_at: str | None = None,
    store_timeout: float | None = None,
    mode: str = "enforce",
    on_warning: Callable[..., Any] | None = None,
    on_ask: Callable[..., Any] | None = None,
    outcome: Callable[..., str] | None = None,
    sinks: Sequence[Any] | None = None,
    alerts: Sequence[Any] | None = None,
    alert_to: Sequence[Any] | None = None,
) -> Settings:
    """Join arguments, environment and file into settings. See `Budget` for the arguments.

    Raises:
        ConfigError, ArgumentTypeError: A value cannot be used; the error names where it stands.
    """
    file = read_file()
    environment = {name: os.environ.get(f"BUDGET_{name.upper()}") for name in KEYS - _LISTS}

    def pick(name: str, argument: Any, default: Any) -> Any:
        return next((v for v in (argument, environment[name], file.get(name)) if v is not None), default)

    on_error, local_allowance = values.on_store_error(pick("on_store_error", on_store_error, "refuse"))
    unpriced = values.choice("on_unpriced", pick("on_unpriced", on_unpriced, "refuse"), ("refuse", "allow"))
    counter = values.choice("count_with", pick("count_with", count_with, "tokenizer"), ("tokenizer", "provider"))
    name = values.check_account(pick("account", account, "default"))
    # Said by who goes before what says which account is above.
    named = account is not None or (environment["account"] is not None and environment["above"] is None)
    book = price_book(prices, file)
    return Settings(
        store=values.store_url("store", pick("store", store, None)) or default_store(),
        account=name,
        above=values.above(above, pick("above", None, None), named, name),
        records=values.store_url("records", pick("records", records, None)),
        limits=_joined(values.limits(limits), read_limits(file), book),
        book=book,
        unpriced=unpriced == "allow",
        allowance=values.on_unbounded(pick("on_unbounded", on_unbounded, "refuse")),
        ask_provider=counter == "provider",
        reserve_at=values.choice("reserve_at", pick("reserve_at", reserve_at, "max"), tuple(LEVELS)),
        timeout=values.store_timeout(pick("store_timeout", store_timeout, None)),
        on_store_error=on_error,
        local_allowance=local_allowance,
        slices=values.slices(pick("slices", slices, None)),
        shadow=values.choice("mode", mode, MODES) == "shadow",
        disabled=values.flag("BUDGET_DISABLED"),
        on_warning=values.callback("on_warning", on_warning),
        on_ask=values.callback("on_ask", on_ask),
        outcome=values.callback("outcome", outcome),
        sinks=values.sinks(pick("sinks", sinks, ())),
        alerts=values.alerts(pick("alerts", alerts, ())),
        alert_to=values.alert_to(pick("alert_to", alert_to, ("log",))),
    )


def _joined(given: Sequence[Limit], file: Sequence[Limit], book: PriceBook) -> tuple[Limit, ...]:
    """Join the limits of argument and file; where both have the same one, with an end or without, the argument's holds.

    A limit of a model is one of the name that calls of it have.
    """
    mine, theirs = ([limit.named(book) for limit in some] for some in (given, file))
    known = {(limit.identity, limit.until_us > 0) for limit in mine}
    return (*mine, *(limit for limit in theirs if (limit.identity, limit.until_us > 0) not in known))


def configured_sinks() -> tuple[Any, ...]:
    """Return the sinks that environment or file name, for who runs them in a process of its own.

    Raises:
        ConfigError, ArgumentTypeError: They cannot be read.
    """
    return values.sinks(os.environ.get("BUDGET_SINKS", read_file().get("sinks", ())))


def configured_alerts() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the rules and the channels that environment or file name, for who runs them in a process of its own.

    Raises:
        ConfigError, ArgumentTypeError: They cannot be read.
    """
    file = read_file()
    rules = os.environ.get("BUDGET_ALERTS", file.get("alerts", ()))
    to = os.environ.get("BUDGET_ALERT_TO", file.get("alert_to", ("log",)))
    return values.alerts(rules), values.alert_to(to)
