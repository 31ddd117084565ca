"""The rows of a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from budget.bill.sums import Figures
from budget.bill.verdict import FAULTS, REASONS, STATUSES

__all__ = ["Comparison", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One day, model and key, in the ledger and on the bill.

    Attributes:
        provider: "openai" or "anthropic".
        day: UTC, "2026-01-31".
        model: As the price book names it; None for what is charged for no model.
        key: The id of the API key, None where keys are not told apart, "(all keys)" where only costs are not.
        status: One of `budget.bill.STATUSES`.
        reasons: Why, of `budget.bill.REASONS`; none if it cannot be told.
        notes: The particulars, such as the rates.
        calls, requests: How many the ledger has, and the bill; None where the bill does not say.
        tokens, billed_tokens: In disjoint buckets.
        usd: What the ledger charged.
        billed_usd: What the bill charges; None where it is not known, or known for all keys together.
    """

    provider: str
    day: str
    model: str | None
    key: str | None
    status: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    calls: int
    requests: int | None
    tokens: Figures
    billed_tokens: Figures
    usd: Decimal
    billed_usd: Decimal | None

    @property
    def fault(self) -> bool:
        """Whether the bill and the ledger disagree here."""
        return self.status in FAULTS

    @property
    def difference(self) -> Decimal | None:
        """What the bill charges above the ledger."""
        return None if self.billed_usd is None else self.billed_usd - self.usd

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        found: dict[str, Any] = {}
        for name in (*self.__slots__, "difference"):
            value = getattr(self, name)
            if isinstance(value, Decimal):
                value = f"{value:f}"
            elif isinstance(value, Figures):
                value = value._asdict()
            found[name] = list(value) if isinstance(value, tuple) else value
        return found


@dataclass(frozen=True, slots=True)
class Comparison:
    """The bill against the ledger.

    Attributes:
        rows: By provider, day, model and key.
        days: How many days of a provider were compared.
        notes: What was not compared, and why.
    """

    rows: tuple[Row, ...]
    days: int
    notes: tuple[str, ...]

    @property
    def faults(self) -> tuple[Row, ...]:
        """The rows where they disagree."""
        return tuple(row for row in self.rows if row.fault)

    @property
    def statuses(self) -> dict[str, int]:
        """How many rows there are of each status."""
        return {status: sum(row.status == status for row in self.rows) for status in STATUSES}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "matches": not self.faults, "days": self.days, "statuses": self.statuses, "notes": list(self.notes),
            "reasons": {name: REASONS[name] for row in self.rows for name in row.reasons},
            "rows": [row.to_dict() for row in self.rows],
        }  # fmt: skip
