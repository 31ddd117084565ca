"""Reports: what calls cost, grouped by an attribute, from the entries of the ledger.

A call is one reservation id with an end that was charged: reconciled, expired or recorded. A refunded one is no call.
A correction after expiry belongs to the same call: its figures are added to those of the expiry, and a late refund
takes the call away again. Of an entry nothing is kept but a few integers per call, so ledgers may be long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from budget.ledger import Entry
from budget.limits import check_attributes
from budget.money import to_decimal

__all__ = ["Row", "report"]

_CHARGED = ("reconciled", "expired", "recorded")


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


class _Call:
    """The sums of one call. `tokens` are input, output, cache read, cache write."""

    __slots__ = ("by", "nanos", "tokens")

    def __init__(self, by: str | None):
        self.by, self.nanos = by, 0
        self.tokens: tuple[int, ...] = (0, 0, 0, 0)

    def add(self, entry: Entry) -> None:
        self.nanos += entry.amounts[0]
        usage = entry.detail.get("usage")
        if usage is not None:  # the whole truth about a call, also in a correction
            self.tokens = _tokens(usage)
        else:
            known_input, known_output, *cached = self.tokens
            self.tokens = (known_input + entry.amounts[2], known_output + entry.amounts[3], *cached)


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
    check_attributes({by: "any"})
    calls: dict[str, _Call] = {}
    groups: dict[str | None, _Group] = {}
    for entry in entries:
        id = entry.reservation
        if entry.kind == "refused":
            groups.setdefault(_key(entry, by), _Group()).refused += 1
        elif id is not None and entry.kind == "refunded":
            calls.pop(id, None)
        elif id is not None and entry.kind in _CHARGED and (id in calls or not entry.detail.get("late")):
            calls.setdefault(id, _Call(_key(entry, by))).add(entry)
    for call in calls.values():
        group = groups.setdefault(call.by, _Group())
        group.costs.append(call.nanos)
        group.tokens = [known + more for known, more in zip(group.tokens, call.tokens, strict=True)]
    ranked = sorted(groups.items(), key=lambda item: (-sum(item[1].costs), item[0] is None, item[0] or ""))
    return [_row(key, group) for key, group in ranked]


def _key(entry: Entry, by: str) -> str | None:
    if by == "day":
        return str(entry.at.date().isoformat())
    if by == "model":
        return entry.model
    return entry.scope.get(by) or (entry.detail.get("provider") if by == "provider" else None)


def _tokens(usage: Mapping[str, Any]) -> tuple[int, ...]:
    read, written = usage.get("cache_read", 0), sum(usage.get("cache_write", {}).values())
    return usage.get("input", 0) + read + written, usage.get("output", 0), read, written


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
