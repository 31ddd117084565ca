"""Configuration: an argument, then `BUDGET_*`, then `budget.toml` (working folder, then its parents), then defaults.

Limits and prices of argument and file are joined. Whatever is not understood is an error; nothing is ignored.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.expect import LEVELS
from budget.limits import MODES, Limit
from budget.money import parse_usd
from budget.prices.own import OWN_FILE, Layer, configured_layers, lay_all

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = [
    "FILE", "Settings", "check_account", "configured_alerts", "configured_sinks", "default_records", "default_store",
    "duration_us", "find_file", "load", "own_prices_file", "price_book", "price_layers", "read_file", "read_limits",
]  # fmt: skip

FILE = "budget.toml"
_KEYS = {
    "store", "account", "above", "records", "on_store_error", "slices", "on_unpriced", "on_unbounded",
    "count_with", "reserve_at", "store_timeout", "sinks", "alerts", "alert_to", "limits", "prices", "price_files",
}  # fmt: skip
_LISTS = {"limits", "prices", "price_files"}
_ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_ALLOW = "allow:i-accept-unbounded-spend"
_YES = {"1", "true", "yes", "on"}
_NO = {"", "0", "false", "no", "off"}


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
    environment = {name: os.environ.get(f"BUDGET_{name.upper()}") for name in _KEYS - _LISTS}

    def pick(name: str, argument: Any, default: Any) -> Any:
        return next((v for v in (argument, environment[name], file.get(name)) if v is not None), default)

    on_error, local_allowance = _on_store_error(pick("on_store_error", on_store_error, "refuse"))
    unpriced = _choice("on_unpriced", pick("on_unpriced", on_unpriced, "refuse"), ("refuse", "allow"))
    counter = _choice("count_with", pick("count_with", count_with, "tokenizer"), ("tokenizer", "provider"))
    name = check_account(pick("account", account, "default"))
    return Settings(
        store=_text("store", pick("store", store, None)) or default_store(),
        account=name,
        above=_above(above, pick("above", None, None), account, name),
        records=_text("records", pick("records", records, None)),
        limits=(*_own_limits(limits), *read_limits(file)),
        book=price_book(prices, file),
        unpriced=unpriced == "allow",
        allowance=_allowance(pick("on_unbounded", on_unbounded, "refuse")),
        ask_provider=counter == "provider",
        reserve_at=_choice("reserve_at", pick("reserve_at", reserve_at, "max"), tuple(LEVELS)),
        timeout=_timeout(pick("store_timeout", store_timeout, None)),
        on_store_error=on_error,
        local_allowance=local_allowance,
        slices=_slices(pick("slices", slices, None)),
        shadow=_choice("mode", mode, MODES) == "shadow",
        disabled=_flag("BUDGET_DISABLED"),
        on_warning=_callback("on_warning", on_warning),
        on_ask=_callback("on_ask", on_ask),
        outcome=outcome,
        sinks=_sinks(pick("sinks", sinks, ())),
        alerts=_alerts(pick("alerts", alerts, ())),
        alert_to=_alert_to(pick("alert_to", alert_to, ("log",))),
    )


def configured_sinks() -> tuple[Any, ...]:
    """Return the sinks that environment or file name, for who runs them in a process of its own.

    Raises:
        ConfigError, ArgumentTypeError: They cannot be read.
    """
    return _sinks(os.environ.get("BUDGET_SINKS") or read_file().get("sinks", ()))


def read_file() -> dict[str, Any]:
    """Read the nearest `budget.toml`, or nothing.

    Raises:
        ConfigError: It is not TOML, or has a key that means nothing.
    """
    path = find_file()
    if path is None:
        return {}
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    unknown = sorted(content.keys() - _KEYS)
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]!r} means nothing here; known are {', '.join(sorted(_KEYS))}")
    return content


def find_file(name: str = FILE) -> Path | None:
    """Return the nearest `budget.toml`, or another file: of the working folder, else of its parents."""
    here = Path.cwd()
    return next((folder / name for folder in (here, *here.parents) if (folder / name).is_file()), None)


def own_prices_file() -> Path:
    """Return the file of `budget prices set`: beside the nearest budget.toml, else the nearest such file, else here."""
    beside = find_file()
    return beside.with_name(OWN_FILE) if beside else find_file(OWN_FILE) or Path.cwd() / OWN_FILE


def price_layers(file: Mapping[str, Any] | None = None) -> list[Layer]:
    """Return the layers of own prices that the configuration names, the lowest first.

    Args:
        file: What `read_file` gave, if it was read already.

    Raises:
        ConfigError: `price_files` or `prices` is not what it must be.
    """
    file = read_file() if file is None else file
    return configured_layers(file.get("price_files", []), _tables(file, "prices"), find_file(), own_prices_file())


def price_book(prices: object = None, file: Mapping[str, Any] | None = None) -> PriceBook:
    """Return the book in effect: the shipped one, the configuration's files over it, and `prices=` on top.

    Raises:
        ConfigError, ArgumentTypeError: See `price_layers`, `budget.prices.own.lay_all` and `PriceBook.overlay`.
    """
    from budget.prices import PriceBook

    book = lay_all(PriceBook.shipped(), price_layers(file), time.time_ns() // 1000)
    return book.overlay(prices) if prices is not None else book


def default_store() -> str:
    """Return the URL of the default store: `$XDG_DATA_HOME/budget/budget.db`. Its folder is made (mode 0700)."""
    return f"sqlite:///{_data_folder() / 'budget.db'}"


def default_records() -> str:
    """Return the URL of the records store of the command line: `records.db` beside the default store."""
    return f"sqlite:///{_data_folder() / 'records.db'}"


def _data_folder() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    folder = Path(base) / "budget"
    with suppress(OSError):  # opening the store will say that its folder is missing: a StoreUnavailable
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def check_account(name: object, argument: str = "account") -> str:
    """Check an account's name, which stands in `argument`.

    Raises:
        ArgumentTypeError: It is not a string.
        ConfigError: It is not 1 to 64 letters, digits, `_` or `-`.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"{argument}: {type(name).__name__} is not a name")
    if not _ACCOUNT.fullmatch(name):
        raise ConfigError(f"{argument}: {name[:70]!r} is not 1 to 64 letters, digits, '_' or '-'")
    return name


def duration_us(text: str, name: str) -> int:
    """Read a duration such as "7d", "12h", "30m", "45s" or "2w" as microseconds.

    Raises:
        ConfigError: It is none.
    """
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ConfigError(f"{name}: {str(text)[:40]!r} is not a duration such as '7d', '12h' or '30m'")
    return int(match[1]) * _SECONDS[match[2]] * 1_000_000


def _own_limits(limits: Sequence[str | Limit] | None) -> list[Limit]:
    if limits is None:
        return []
    if isinstance(limits, str) or not isinstance(limits, Sequence):
        raise ArgumentTypeError("limits: a list of limits is needed, such as ['$500/day', Limit('$5/day', per='user')]")
    return [item if isinstance(item, Limit) else Limit(item) for item in limits]


def read_limits(file: Mapping[str, Any], name: str = FILE) -> list[Limit]:
    """Read the `[[limits]]` of a file.

    Args:
        file: What it says.
        name: Of the file, for errors.

    Raises:
        ConfigError, ArgumentTypeError: One cannot be read.
    """
    found = []
    for row in _tables(file, "limits"):
        options = dict(row)
        if not isinstance(text := options.pop("limit", None), str):
            raise ConfigError(f'{name}: each [[limits]] needs limit = "AMOUNT/WINDOW"')
        found.append(Limit(text, **{**options, "source": "file"}))
    return found


def _tables(file: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = file.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{FILE}: write each of the {name} as a table [[{name}]]")
    return rows


def _choice(name: str, value: object, known: Sequence[str]) -> str:
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} is not one of {', '.join(known)}")
    if value in known:
        return value
    raise ConfigError(f"{name}: {value[:40]!r} is not one of {', '.join(known)}")


def _allowance(value: object) -> int | None:
    return None if value == "refuse" else parse_usd(value, "on_unbounded")


def _above(given: object, configured: object, account: str | None, name: str) -> str | None:
    value = configured if given is None else given
    above = None if value is None else check_account(value, "above")
    if above == name and given is None and account is not None:
        return None  # who names the account that is configured as the one above works with that one itself
    if above == name:
        raise ConfigError(f"above: {name!r} is the account itself; name another one, whose limits bind besides")
    return above


def _slices(value: object) -> int:
    nanos = 0 if value is None else parse_usd(value, "slices")
    if value is not None and not nanos:
        raise ConfigError("slices: a slice of $0 holds nothing; leave slices= out")
    return nanos


def _on_store_error(value: object) -> tuple[str, int | None]:
    """Read what is done when the store cannot answer, and with how much."""
    kind, colon, amount = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == "local_allowance" and colon:
        nanos = parse_usd(amount, "on_store_error")
        if nanos == 0:
            raise ConfigError("on_store_error: an allowance of $0 allows nothing; write 'refuse'")
        return kind, nanos
    return _choice("on_store_error", value, ("refuse", _ALLOW)).partition(":")[0], None


def configured_alerts() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the rules and the channels that environment or file name, for who runs them in a process of its own.

    Raises:
        ConfigError, ArgumentTypeError: They cannot be read.
    """
    rules, to = (os.environ.get(name) for name in ("BUDGET_ALERTS", "BUDGET_ALERT_TO"))
    file = read_file()
    return _alerts(rules or file.get("alerts", ())), _alert_to(to or file.get("alert_to", ("log",)))


def _alerts(value: object) -> tuple[Any, ...]:
    """Read rules: a list of texts, tables [[alerts]] with a `rule` each, or one text with semicolons between them."""
    if isinstance(value, str):
        return tuple(text.strip() for text in value.split(";") if text.strip())
    if not isinstance(value, Sequence):
        raise ArgumentTypeError("alerts: a list is needed, such as ['default', 'session > $5 in 10m']")
    return tuple(_rule(item) if isinstance(item, Mapping) else item for item in value)


def _rule(table: Mapping[str, Any]) -> Any:
    if table.keys() != {"rule"}:
        raise ConfigError(f'{FILE}: each [[alerts]] needs rule = "..." and nothing else')
    return table["rule"]


def _alert_to(value: object) -> tuple[Any, ...]:
    """Read channels: a list, or one text with blanks between them."""
    if isinstance(value, str):
        return tuple(value.split())
    if not isinstance(value, Sequence):
        raise ArgumentTypeError("alert_to: a list is needed, such as ['log', 'slack:SLACK_WEBHOOK_URL']")
    return tuple(value)


def _sinks(value: object) -> tuple[Any, ...]:
    """Read sinks: a list, or one text with blanks between them, as in an environment variable."""
    if isinstance(value, str):
        return tuple(value.split())
    if not isinstance(value, Sequence):
        raise ArgumentTypeError("sinks: a list is needed, such as ['jsonl:/var/log/calls.jsonl']")
    return tuple(value)


def _callback(name: str, value: object) -> Callable[..., Any] | None:
    if value is not None and not callable(value):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} cannot be called")
    return value


def _timeout(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            raise ConfigError(f"store_timeout: {value[:20]!r} is not a number of seconds")
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"store_timeout: {type(value).__name__} is not a number of seconds")
    if not 0 < value <= 3600:
        raise ConfigError(f"store_timeout: {value!r} is not between 0 and 3600 seconds")
    return float(value)


def _text(name: str, value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ArgumentTypeError(f"{name}: {type(value).__name__} is not a string")


def _flag(name: str) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value not in _YES | _NO:
        raise ConfigError(f"{name}: {value[:20]!r} is not 1 or 0")
    return value in _YES
