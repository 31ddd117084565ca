"""What is billed in units of its own: a character or second of speech, an image. An answer need not say how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from budget.asks import price
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.errors import ArgumentTypeError
from budget.estimate import Estimate
from budget.usage import Usage

__all__ = ["Booked", "by_answer", "by_units"]

Booked = tuple[Amounts, dict[str, Any]]


def by_answer(settings: Settings, estimate: Estimate, stored: Reservation | None, answer: object) -> Booked:
    """Return what a whole answer cost: by the usage that it says, and the units of the request that it does not.

    Raises:
        BudgetError: It carries no usage that can be read, and tokens are billed.
    """
    try:
        usage = Usage.of(answer)
    except ArgumentTypeError:
        if (found := by_units(settings, estimate, stored)) is None:
            raise
        return found
    if estimate.units:
        usage = replace(usage, tools={**dict(estimate.units), **usage.tools})
    return price(settings, usage, None, None, stored, 0)


def by_units(settings: Settings, estimate: Estimate, stored: Reservation | None) -> Booked | None:
    """Return what a request cost of which units alone are billed, which are known before; None if tokens are, too."""
    if not estimate.units:
        return None
    found = price(settings, Usage(tools=dict(estimate.units)), None, None, stored, 0)
    return found if found[0][0] == estimate.nanos_max else None
