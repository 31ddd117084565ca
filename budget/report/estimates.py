"""How good the estimates were: what was expected and set aside for each call, against what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from budget.ledger import Entry
from budget.money import parse_usd, to_decimal
from budget.report.calls import calls_of

__all__ = ["EstimateRow", "report_estimates"]

_PLACES = 4  # of a ratio


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """How good the estimates of one group of calls were. Money is Decimal USD, ratios have four decimals.

    Attributes:
        by: The value they have in common; None where a call has none.
        calls: How many had an estimate with a bound and an end whose usage the provider reported.
        usd: What they cost together.
        usd_expected, usd_reserved: What was expected of them, and what was set aside for them.
        bias: (expected - cost) / cost, over all of them; None where they cost nothing.
        p50_error, p95_error: Quantiles, by nearest rank, of |expected - cost| / cost of each call that cost anything.
        over_reservation: Set aside / cost, over all of them.
        overruns: How many cost more than was set aside.
        overrun_share: Of the calls.
    """

    by: str | None
    calls: int
    usd: Decimal
    usd_expected: Decimal
    usd_reserved: Decimal
    bias: Decimal | None
    p50_error: Decimal | None
    p95_error: Decimal | None
    over_reservation: Decimal | None
    overruns: int
    overrun_share: Decimal

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money and ratios are decimal strings."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in values.items()}


def report_estimates(entries: Iterable[Entry], by: str = "model") -> list[EstimateRow]:
    """Group the calls of a ledger that an estimate was made of, the dearest group first.

    Left out are calls without an estimate, without a bound, and those whose true cost nobody knows.

    Args:
        entries, by: See `budget.report.report`.

    Raises:
        ConfigError: `by` is not the name of an attribute.
    """
    groups: dict[str | None, list[tuple[int, int, int]]] = {}
    for call in calls_of(entries, by)[0]:
        estimate = call.estimate
        if estimate is not None and estimate["closed"] and call.told:
            expected = parse_usd(estimate["usd"], "usd", booked=True)
            reserved = parse_usd(estimate.get("usd_reserved", estimate["usd_max"]), "usd_reserved", booked=True)
            groups.setdefault(call.by, []).append((call.nanos, expected, reserved))
    ranked = sorted(groups.items(), key=lambda item: (-sum(c for c, _, _ in item[1]), item[0] is None, item[0] or ""))
    return [_row(key, calls) for key, calls in ranked]


def _row(by: str | None, calls: Sequence[tuple[int, int, int]]) -> EstimateRow:
    cost, expected, reserved = (sum(column) for column in zip(*calls, strict=True))
    errors = sorted(abs(e - c) * 10**_PLACES // c for c, e, _ in calls if c)
    p50, p95 = _nearest_rank(errors, 50), _nearest_rank(errors, 95)
    overruns = sum(c > r for c, _, r in calls)
    return EstimateRow(
        by, len(calls), to_decimal(cost), to_decimal(expected), to_decimal(reserved), _ratio(expected - cost, cost),
        p50, p95, _ratio(reserved, cost), overruns,
        Decimal(overruns * 10**_PLACES // len(calls)).scaleb(-_PLACES),
    )  # fmt: skip


def _ratio(part: int, whole: int) -> Decimal | None:
    """Return a ratio rounded to the nearest, halves up."""
    return Decimal((2 * part * 10**_PLACES + whole) // (2 * whole)).scaleb(-_PLACES) if whole else None


def _nearest_rank(ordered: Sequence[int], percent: int) -> Decimal | None:
    return Decimal(ordered[-(-percent * len(ordered) // 100) - 1]).scaleb(-_PLACES) if ordered else None
