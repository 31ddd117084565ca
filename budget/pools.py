"""A pool as people see it: the state of one limit for one subject, now."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from budget.commands import Bucket
from budget.limits import Limit
from budget.money import to_decimal
from budget.subject import Subject
from budget.window import FOREVER, at_zone

__all__ = ["Pool", "make_pool", "shown"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The state of one limit for one subject. Amounts are Decimal USD, or int for other units.

    Attributes:
        limit: The `Limit`; `.amount` is what may be spent, with the adjustments of the present window and what it took
            over from the one before.
        subject: Whose it is: {"user": "alice"}, printed "user=alice".
        unit: usd, tokens, input_tokens, output_tokens, requests or concurrent.
        spent, reserved, available: In the present window; available = limit - spent - reserved.
        since: When counting began, later than the window's start for a new limit.
        resets_at: When the window ends; None if it does not, or ends a little at every moment (a rolling one).
        account: The account above (`above=`) that it is in; None: the one that was asked.
    """

    limit: Limit
    subject: Subject
    unit: str
    spent: Decimal | int
    reserved: Decimal | int
    available: Decimal | int
    since: datetime
    resets_at: datetime | None
    account: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        amounts = {name: getattr(self, name) for name in ("spent", "reserved", "available")}
        shadow = {"mode": self.limit.mode} if self.limit.mode != "enforce" else {}
        return {
            "limit": str(self.limit),
            "subject": str(self.subject),
            "unit": self.unit,
            **{name: f"{value:f}" if isinstance(value, Decimal) else value for name, value in amounts.items()},
            "since": self.since.isoformat(),
            "resets_at": self.resets_at.isoformat() if self.resets_at else None,
            **shadow,
            **({"account": self.account} if self.account is not None else {}),
        }


def shown(unit: str, figure: int) -> Decimal | int:
    """Return a figure as people get it: Decimal USD, or int for other units."""
    return to_decimal(figure) if unit == "usd" else figure


def make_pool(limit: Limit, subject: Subject, bucket: Bucket, now: int, more: int = 0) -> Pool:
    """Return the pool that a bucket is the present one of, with `more` from adjustments.

    A rolling pool's bucket stands for its sub-buckets, the oldest of which may have begun before the window did.
    """
    limit = limit.raised(bucket.carry + more)
    ends = at_zone(bucket.end, limit.tz) if limit.window.calendar and bucket.end != FOREVER else None
    span = limit.window.span
    since = max(now - span, bucket.since) if span else bucket.since
    left = limit.quantity - bucket.spent - bucket.reserved
    spent, reserved, available = (shown(limit.unit, n) for n in (bucket.spent, bucket.reserved, left))
    return Pool(limit, subject, limit.unit, spent, reserved, available, at_zone(since, limit.tz), ends)
