"""Single values of the configuration, as argument, environment or file give them.

A function that has the name of an argument of `load` reads that one. The others take a name, for their errors. What is
of another type is an `ArgumentTypeError`, what means nothing a `ConfigError`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from budget.config.files import FILE
from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import Limit
from budget.money import parse_usd

__all__ = [
    "above", "alert_to", "alerts", "callback", "check_account", "choice", "duration_us", "flag", "limits",
    "on_store_error", "on_unbounded", "sinks", "slices", "store_timeout", "store_url",
]  # fmt: skip

_ACCOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
_UTF8 = re.compile("[^\ud800-\udfff]*")
_LONGEST = 1000 * 366 * 86400 * 1_000_000
"""Microseconds: of what is longer, no instant so far away can be told."""
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_ALLOW = "allow:i-accept-unbounded-spend"
_YES = {"1", "true", "yes", "on"}
_NO = {"", "0", "false", "no", "off"}


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
    found = int(match[1]) * _SECONDS[match[2]] * 1_000_000
    if found > _LONGEST:
        raise ConfigError(f"{name}: {text!r} is longer than 1,000 years")
    return found


def choice(name: str, value: object, known: Sequence[str]) -> str:
    """Read one of the words that are known."""
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} is not one of {', '.join(known)}")
    if value in known:
        return value
    raise ConfigError(f"{name}: {value[:40]!r} is not one of {', '.join(known)}")


def store_url(name: str, value: object) -> str | None:
    """Read the URL of a store, or nothing. An empty one is an error: it would hide the one that the file names."""
    if value == "":
        raise ConfigError(f"{name}: '' names no store; leave it out (unset BUDGET_{name.upper()}) or give a URL")
    if value is not None and not isinstance(value, str):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} is not a string")
    if value is not None and not _UTF8.fullmatch(value):
        raise ConfigError(f"{name}: it is not valid UTF-8, which the path or URL of a store has to be")
    return value


def callback(name: str, value: object) -> Callable[..., Any] | None:
    """Read what can be called, or nothing."""
    if value is not None and not callable(value):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} cannot be called")
    return value


def flag(name: str) -> bool:
    """Read a variable of the environment that is on or off."""
    value = os.environ.get(name, "").strip().lower()
    if value not in _YES | _NO:
        raise ConfigError(f"{name}: {value[:20]!r} is not 1 or 0")
    return value in _YES


def above(given: object, configured: object, named: bool, name: str) -> str | None:
    """Read the account above the one called `name`; `named` says whether that goes before what is configured."""
    value = configured if given is None else given
    found = None if value is None else check_account(value, "above")
    if found == name and given is None and named:
        return None  # who names the account that is configured as the one above works with that one itself
    if found == name:
        raise ConfigError(f"above: {name!r} is the account itself; name another one, whose limits bind besides")
    return found


def limits(value: Sequence[str | Limit] | None) -> list[Limit]:
    """Read the limits of this process; those of the file are `read_limits`."""
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ArgumentTypeError("limits: a list of limits is needed, such as ['$500/day', Limit('$5/day', per='user')]")
    return [item if isinstance(item, Limit) else Limit(item) for item in value]


def on_unbounded(value: object) -> int | None:
    """Read what a request without a bound may reserve, nano-dollars; None refuses it."""
    return None if value == "refuse" else parse_usd(value, "on_unbounded")


def on_store_error(value: object) -> tuple[str, int | None]:
    """Read what is done when the store cannot answer, and with how much."""
    kind, colon, amount = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind == "local_allowance" and colon:
        nanos = parse_usd(amount, "on_store_error")
        if nanos == 0:
            raise ConfigError("on_store_error: an allowance of $0 allows nothing; write 'refuse'")
        return kind, nanos
    return choice("on_store_error", value, ("refuse", _ALLOW)).partition(":")[0], None


def slices(value: object) -> int:
    """Read what a slice has at most, nano-dollars; 0: none is bought."""
    nanos = 0 if value is None else parse_usd(value, "slices")
    if value is not None and not nanos:
        raise ConfigError("slices: a slice of $0 holds nothing; leave slices= out")
    return nanos


def store_timeout(value: object) -> float | None:
    """Read a number of seconds, or nothing."""
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


def sinks(value: object) -> tuple[Any, ...]:
    """Read sinks: a list, or one text with blanks between them, as in an environment variable."""
    if isinstance(value, str):
        return tuple(value.split())
    if not isinstance(value, Sequence):
        raise ArgumentTypeError("sinks: a list is needed, such as ['jsonl:/var/log/calls.jsonl']")
    return tuple(value)


def alerts(value: object) -> tuple[Any, ...]:
    """Read rules: a list of texts, tables [[alerts]] with a `rule` each, or one text with semicolons between them."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(";") if part.strip())
    if not isinstance(value, Sequence):
        raise ArgumentTypeError("alerts: a list is needed, such as ['default', 'session > $5 in 10m']")
    return tuple(_rule(item) if isinstance(item, Mapping) else item for item in value)


def _rule(table: Mapping[str, Any]) -> Any:
    if table.keys() != {"rule"}:
        raise ConfigError(f'{FILE}: each [[alerts]] needs rule = "..." and nothing else')
    return table["rule"]


def alert_to(value: object) -> tuple[Any, ...]:
    """Read channels: a list, or one text with blanks between them."""
    if isinstance(value, str):
        return tuple(value.split())
    if not isinstance(value, Sequence):
        raise ArgumentTypeError("alert_to: a list is needed, such as ['log', 'slack:SLACK_WEBHOOK_URL']")
    return tuple(value)
