"""Rows: the typed answers of questions, and what all of them share: exact ratios and quantiles by nearest rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from typing import Any, Protocol, TypeVar

from budget.errors import ConfigError
from budget.money import to_decimal

__all__ = ["Plain", "Row", "Rows", "money", "nearest_rank", "plain", "ratio", "same_length"]

_PLACES = 4  # of a ratio


class Plain(Protocol):
    """What a row is: it can be written as plain JSON types."""

    def to_dict(self) -> dict[str, Any]: ...


T = TypeVar("T", bound=Plain)


class Rows(list[T]):
    """A list of rows, in the order in which they are to be read."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return plain JSON types; money and ratios are decimal strings, so that nothing is rounded."""
        return [row.to_dict() for row in self]

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame`: money and ratios as floats, which are for statistics and plots, not for books.

        A row that is grouped has a column for each attribute.

        Raises:
            ConfigError: pandas is not installed.
        """
        try:
            pandas: Any = import_module("pandas")
        except ImportError:
            raise ConfigError("to_pandas: pandas is not installed: pip install pandas") from None
        return pandas.DataFrame([_cells(row) for row in self])


def _cells(row: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(row):
        value = getattr(row, field.name)
        if field.name == "keys":
            found = {**value, **found}
        elif field.name != "by":
            found[field.name] = float(value) if isinstance(value, Decimal) else value
    return found


def plain(row: Any) -> dict[str, Any]:
    """Return the fields of a row as plain JSON types."""
    return {field.name: _plain(getattr(row, field.name)) for field in fields(row)}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Row:
    """What the calls of one group cost. Money is Decimal USD.

    Attributes:
        by: The value they have in common, None where a call has none; a tuple of them if grouped by several.
        calls: How many were charged.
        usd: What they cost together; $9,223,372,036.854775807 where that is more, which the log then says.
        mean_usd: Per call, rounded to the nano-dollar; None without a call.
        p50_usd, p95_usd, p99_usd: Quantiles over the cost of each call, by nearest rank; None without a call, and where
            only sums were asked for.
        input_tokens: All input, cached too.
        output_tokens: All output, reasoning too.
        cache_read_tokens, cache_write_tokens: The parts of the input that were read from and written to a cache.
        refused: How many reserves were refused.
        keys: The values by the names of the attributes: {"user": "alice", "day": "2026-01-31"}.
        first, last: When the first and the last of the calls ended (UTC).
        p50_latency_ms, p95_latency_ms, p99_latency_ms: Over the calls whose latency was measured.
    """

    by: str | tuple[str | None, ...] | None
    calls: int
    usd: Decimal
    mean_usd: Decimal | None
    p50_usd: Decimal | None
    p95_usd: Decimal | None
    p99_usd: Decimal | None
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    refused: int
    keys: Mapping[str, str | None]
    first: datetime | None
    last: datetime | None
    p50_latency_ms: int | None
    p95_latency_ms: int | None
    p99_latency_ms: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return plain(self)


def money(nanos: int | None) -> Decimal | None:
    """Return nano-dollars as Decimal USD; None for None."""
    return None if nanos is None else to_decimal(nanos)


def same_length(keys: Sequence[Any]) -> Any:
    """Return the value of a single key, else all of them."""
    return keys[0] if len(keys) == 1 else tuple(keys)


def nearest_rank(ordered: Sequence[int], percents: Sequence[int]) -> list[int | None]:
    """Return the smallest values that at least so many percent of all do not exceed; never one between two.

    Args:
        ordered: The values, ascending; None is returned where there are none.
        percents: Which quantiles.
    """
    return [ordered[-(-percent * len(ordered) // 100) - 1] if ordered else None for percent in percents]


def ratio(part: int, whole: int) -> Decimal | None:
    """Return a ratio with four decimals, rounded to the nearest, halves up; None of nothing."""
    return Decimal((2 * part * 10**_PLACES + whole) // (2 * whole)).scaleb(-_PLACES) if whole else None
