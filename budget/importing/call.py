"""What a source is read into: calls, what is none, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from budget.importing.exact import count, read_time
from budget.limits import check_attributes
from budget.money import parse_usd
from budget.records import Record
from budget.usage import Usage

__all__ = [
    "FIGURES", "Bad", "Call", "Found", "LeftOut", "Source", "each", "need", "provider_of", "scope_of", "tokens",
    "unix_us", "usd_of",
]  # fmt: skip

FIGURES = (
    "time", "model", "provider", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "duration",
    "cost_usd", "id",
)  # fmt: skip
"""Fields of a table that are no attributes of a call."""

_MILLIS, _MICROS, _NANOS = 10**11, 10**14, 10**17  # as seconds each would be after the year 5000
_LATEST = 7_258_118_400 * 10**6  # the year 2200
_PROVIDERS = {
    "gemini": "google", "gcp.gemini": "google", "gcp.gen_ai": "google", "vertex_ai": "google-vertex",
    "vertex_ai_beta": "google-vertex", "gcp.vertex_ai": "google-vertex", "bedrock": "aws-bedrock",
    "bedrock_converse": "aws-bedrock", "aws.bedrock": "aws-bedrock", "azure_ai": "azure", "azure.ai.openai": "azure",
    "azure.ai.inference": "azure", "az.ai.openai": "azure", "az.ai.inference": "azure", "cohere_chat": "cohere",
    "codestral": "mistral", "mistral_ai": "mistral", "x_ai": "xai", "together_ai": "together",
    "fireworks_ai": "fireworks", "text-completion-openai": "openai",
}  # fmt: skip
"""Names of providers at LiteLLM (1.106) and in OpenTelemetry's GenAI conventions (1.42), and the price book's."""


class Bad(NamedTuple):
    """What cannot be read: the number of the line (or element) and why."""

    line: int
    why: str


class LeftOut(NamedTuple):
    """What can be read and is no call of its own, and why."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call as its source tells of it, before it is priced.

    Attributes:
        line: Of the file.
        key: What names it in its source; two with one key are one call.
        at_us: When it ended, microseconds since the epoch.
        usage: What was used.
        told: What its source says that it cost, nano-dollars; taken only where no price is known.
    """

    line: int
    key: str
    at_us: int
    model: str
    provider: str | None
    usage: Usage
    scope: Mapping[str, str]
    told: int | None = None
    latency_ms: int | None = None
    first_token_ms: int | None = None
    outcome: str = "ok"


Found = Call | Record | Bad | LeftOut


@dataclass(frozen=True, slots=True)
class Source:
    """A file, and what was said about it: `fill` is for what it lacks, `columns` names its columns by field."""

    path: Path
    fill: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


def each(items: Iterable[tuple[int, Any]], make: Callable[[int, Any], Found | None]) -> Iterator[Found]:
    """Make a call of each item; what cannot be read becomes a `Bad`, and None is passed over."""
    for line, item in items:
        try:
            if isinstance(item, Exception):
                raise ValueError(f"is not {'CSV' if 'csv' in type(item).__module__ else 'JSON'}")
            found = make(line, item)
            if isinstance(found, Call):
                check_attributes({"model": found.model, "provider": found.provider or "-", "outcome": found.outcome})
        except (ValueError, TypeError) as error:
            found = Bad(line, str(error))
        if found is not None:
            yield found


def need(item: Any, name: str) -> Any:
    """Return what stands under a name.

    Raises:
        ValueError: Nothing does.
    """
    value = item.get(name) if isinstance(item, Mapping) else None
    if value is None or value == "":
        raise ValueError(f"{name}: is missing")
    return value


def unix_us(value: object, name: str = "time") -> int:
    """Read an instant: ISO 8601, UTC where it names no zone, or Unix time in s, ms, µs or ns, told by its size.

    Returns:
        Microseconds since the epoch.

    Raises:
        ValueError: It is none of these, or not between the years 1970 and 2200.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError(f"{name}: is no instant")
    text = str(value).strip()
    try:
        number = Decimal(text)
    except ArithmeticError:
        at = int(read_time(text) // 1000)
    else:
        size = number if number.is_finite() and number < _NANOS * 10**3 else Decimal(-1)
        scale = 10**6 if size < _MILLIS else 10**3 if size < _MICROS else 1
        at = int(size * scale) if size < _NANOS else int(size) // 1000
    if not 0 < at < _LATEST:
        raise ValueError(f"{name}: is not an instant between the years 1970 and 2200")
    return at


def tokens(value: object, name: str) -> int:
    """Read a count; nothing is 0.

    Raises:
        ValueError: It is not a whole number from 0 to 10^15.
    """
    return 0 if value is None or value == "" else count(str(value), name)


def usd_of(value: object, name: str) -> int | None:
    """Read what a source says that a call cost, as nano-dollars, rounded up; None for nothing.

    Raises:
        ConfigError: It is no amount.
        ArgumentTypeError: It is neither text nor number.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        with suppress(ArithmeticError):  # then it is no number, and the next line says so
            value = Decimal(value.strip().removeprefix("$"))
    return parse_usd(Decimal(value) if type(value) is int else value, name, booked=True)


def scope_of(source: Source, /, **attributes: Any) -> dict[str, str]:
    """Return the attributes of a call, those that nobody named filled in as `source.fill` says.

    Raises:
        ConfigError, ArgumentTypeError: One cannot be an attribute.
    """
    named = {name: value for name, value in attributes.items() if value is not None and value != ""}
    return check_attributes({name: value for name, value in source.fill.items() if name not in FIGURES} | named)


def provider_of(name: object) -> str | None:
    """Return the price book's name of a provider, as others name it; None for none."""
    return _PROVIDERS.get(name.lower(), name.lower()) if isinstance(name, str) and name else None
