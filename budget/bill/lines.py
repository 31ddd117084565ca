"""The lines of a bill: what a provider's report says was used, and what it was charged.

Tokens are in the disjoint buckets of `budget.usage`, whatever a report calls them. Amounts are read from their decimal
text, never from a float, and rounded to the nano-dollar once per line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation, localcontext

from budget.errors import ConfigError

__all__ = ["DAY_US", "MICRO", "Charged", "Line", "Used", "read_count", "read_nanos"]

DAY_US = 86_400_000_000
MICRO = 1000
"""A millionth of a dollar in nano-dollars: reports of costs are taken to be that exact."""
_LARGEST = 10**9
"""USD on one line; above it is no amount of a bill, but a unit that was misread."""


@dataclass(frozen=True, slots=True)
class Line:
    """What both kinds of lines say.

    Attributes:
        provider: "openai" or "anthropic".
        start_us, end_us: The bucket of time, `[start, end)`, microseconds since the epoch (UTC).
        model: As the provider names it; None where a line is not of one model.
        key: The id of the API key (never the key itself), or None.
        project: The id of the project or workspace, or None.
        tier: "batch", "priority" ...; None is the standard one.
        geo: Where inference was bound to, where that has a price; else None.
    """

    provider: str
    start_us: int
    end_us: int
    model: str | None = None
    key: str | None = None
    project: str | None = None
    tier: str | None = None
    geo: str | None = None

    @property
    def day(self) -> int:
        """The day (UTC) that the bucket begins in, as days since the epoch."""
        return self.start_us // DAY_US


@dataclass(frozen=True, slots=True)
class Used(Line):
    """What was used in a bucket.

    Attributes:
        report: Which report it is from: "completions", "embeddings", "images" ..., "messages".
        input: Input tokens that were neither read from nor written to a cache.
        cache_read: Input tokens read from a cache.
        cache_write: Input tokens written to one, by time to live.
        output: All output tokens.
        units: What is counted otherwise: "image", "character", "second", "web_search".
        requests: How many there were; None where the report does not say.
    """

    report: str = ""
    input: int = 0
    cache_read: int = 0
    cache_write: Mapping[str, int] = field(default_factory=dict)
    output: int = 0
    units: Mapping[str, int] = field(default_factory=dict)
    requests: int | None = None


@dataclass(frozen=True, slots=True)
class Charged(Line):
    """What was charged for a bucket.

    Attributes:
        item: What for: "input", "cache_read", "cache_write_5m", "output", "web_search" ..., or as the provider says.
        nanos: Nano-dollars.
        long: Whether it is for requests with a long context, which have a rate of their own.
        off: How far the amount may be off because the provider rounded it, nano-dollars.
    """

    item: str = ""
    nanos: int = 0
    long: bool = False
    off: int = MICRO // 2


def read_nanos(value: object, name: str, per_usd: int = 1) -> int:
    """Read an amount, a decimal text or a Decimal, as nano-dollars.

    Args:
        value: "123.78912", say.
        name: What it is, for the error's text.
        per_usd: How many of its units are a dollar: 100 for cents.

    Raises:
        ConfigError: It is no amount.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    try:
        amount = Decimal(value) if isinstance(value, str) else value
    except InvalidOperation:
        amount = None
    if not isinstance(amount, Decimal) or not amount.is_finite() or abs(amount) > _LARGEST * per_usd:
        raise ConfigError(f"{name}: is not an amount of a bill")
    with localcontext() as context:
        context.prec = 60
        return int((amount * 10**9 / per_usd).to_integral_value(ROUND_HALF_EVEN))


def read_count(value: object, name: str) -> int:
    """Read a count of tokens or requests; None and "" are 0.

    Raises:
        ConfigError: It is none.
    """
    if value is None or value == "":
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    if isinstance(value, Decimal) and value == value.to_integral_value():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ConfigError(f"{name}: is not a count")
