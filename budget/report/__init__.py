"""Reports: what calls cost, grouped by an attribute, from the entries of the ledger (`report`), and how good their
estimates were (`report_estimates`). What a call is, `budget.report.calls` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from budget.ledger import Entry
from budget.money import to_decimal
from budget.report.calls import calls_of
from budget.report.estimates import EstimateRow, report_estimates

__all__ = ["EstimateRow", "Row", "report", "report_estimates"]


@dataclass(frozen=True, slots=True)
class Row:
    """What the calls of one group cost. Money is Decimal USD.

    Attributes:
        by: The value they have in common; None where a call has none.
        calls: How many were charged.
        usd: What they cost together.
        mean_usd: Per call, rounded to the nano-dollar; None without a call.
        p50_usd, p95_usd, p99_usd: Quantiles over the cost of each call, by nearest rank; None without a call.
        input_tokens: All input, cached too.
        output_tokens: All output, reasoning too.
        cache_read_tokens, cache_write_tokens: The parts of the input that were read from and written to a cache.
        refused: How many reserves were refused.
    """

    by: str | None
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in values.items()}


@dataclass(slots=True)
class _Group:
    costs: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    refused: int = 0


def report(entries: Iterable[Entry], by: str = "user") -> list[Row]:
    """Group the calls of a ledger.

    Args:
        entries: Entries of one account, oldest first. A call belongs to them if its first end is among them.
        by: An attribute of the calls (`user`, `session`, `agent`, `run`, any tag), `model` (as answered), `provider`,
            or `day` (UTC, of its end).

    Returns:
        The rows, the dearest first.

    Raises:
        ConfigError: `by` is not the name of an attribute.
    """
    calls, refused = calls_of(entries, by)
    groups: dict[str | None, _Group] = {}
    for key, count in refused.items():
        groups.setdefault(key, _Group()).refused = count
    for call in calls:
        group = groups.setdefault(call.by, _Group())
        group.costs.append(call.nanos)
        group.tokens = [known + more for known, more in zip(group.tokens, call.tokens, strict=True)]
    ranked = sorted(groups.items(), key=lambda item: (-sum(item[1].costs), item[0] is None, item[0] or ""))
    return [_row(key, group) for key, group in ranked]


def _row(by: str | None, group: _Group) -> Row:
    costs = sorted(group.costs)
    total, count = sum(costs), len(costs)
    mean = to_decimal((2 * total + count) // (2 * count)) if count else None
    p50, p95, p99 = (_nearest_rank(costs, percent) for percent in (50, 95, 99))
    tokens, answered, read, written = group.tokens
    return Row(by, count, to_decimal(total), mean, p50, p95, p99, tokens, answered, read, written, group.refused)


def _nearest_rank(ordered: Sequence[int], percent: int) -> Decimal | None:
    """Return the smallest value that at least `percent` of all values do not exceed."""
    return to_decimal(ordered[-(-percent * len(ordered) // 100) - 1]) if ordered else None
