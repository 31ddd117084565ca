"""What a replay found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from budget.errors import ConfigError
from budget.limits import Limit
from budget.money import format_usd
from budget.prices import PriceBook

__all__ = ["Comparison", "Curve", "LimitResult", "Replay", "results"]

_POINTS = 1024


@dataclass(slots=True)
class LimitResult:
    """What one limit did. `text` is as it was given.

    Attributes:
        refused: Calls it refused, alone or with others.
        max_spent: The largest `spent` of its pools, nano-dollars; None for other units. Where nothing is shared (a
            cap, a run limit on a call without a session) each admitted call is a pool of its own.
    """

    text: str
    limit: Limit
    refused: int = 0
    max_spent: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        spent = None if self.max_spent is None else format_usd(self.max_spent)
        return {"limit": self.text, "refused": self.refused, "max_spent_usd": spent}


@dataclass(slots=True)
class Curve:
    """A sum over time, in at most `_POINTS` points and the last one: each second is dropped when there are more."""

    points: list[tuple[int, int]] = field(default_factory=list)
    _every: int = 1
    _count: int = 0
    _last: tuple[int, int] | None = None

    def add(self, at_us: int, total: int) -> None:
        """Add a point; times rise."""
        self._last = at_us, total
        if self._count % self._every == 0:
            self.points.append(self._last)
            if len(self.points) > _POINTS:
                self.points, self._every = self.points[::2], self._every * 2
        self._count += 1

    def all(self) -> list[tuple[int, int]]:
        """Return the points."""
        return self.points if self._last is None or self.points[-1] == self._last else [*self.points, self._last]


@dataclass(slots=True)
class Replay:
    """What a replay found. Money in nano-dollars.

    Attributes:
        calls: Calls replayed: `admitted` and `refused`.
        spent: What the admitted calls cost.
        refused_cost: What the refused calls would have cost.
        limits: One per given limit, in the order given.
        skipped: Malformed rows.
        rate: Calls per second, reading included; None for an empty trace.
        store_rate: The same of the store alone, on up to `SAMPLE` calls.
        before: What all calls cost as they were, if they were replayed as something else, else None.
        curve: What was spent, over time.
    """

    limits: list[LimitResult]
    calls: int = 0
    admitted: int = 0
    refused: int = 0
    spent: int = 0
    refused_cost: int = 0
    skipped: int = 0
    rate: float | None = None
    store_rate: float | None = None
    before: int | None = None
    curve: Curve = field(default_factory=Curve)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        found: dict[str, Any] = {
            "calls": self.calls,
            "admitted": self.admitted,
            "refused": self.refused,
            "skipped": self.skipped,
            "spent_usd": format_usd(self.spent),
            "refused_usd": format_usd(self.refused_cost),
            "limits": [limit.to_dict() for limit in self.limits],
            "calls_per_second": None if self.rate is None else round(self.rate),
            "store_calls_per_second": None if self.store_rate is None else round(self.store_rate),
        }
        if self.before is not None:
            found["all_usd"] = format_usd(self.spent + self.refused_cost)
            found["all_usd_before"] = format_usd(self.before)
        return found


@dataclass(slots=True)
class Comparison:
    """The same calls under several policies, by name.

    Attributes:
        policies: What each did.
        curve: What all calls cost, over time.
    """

    policies: dict[str, Replay]
    curve: Curve = field(default_factory=Curve)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types: what is the same for all policies, then each with its own."""
        shown = {name: found.to_dict() for name, found in self.policies.items()}
        first = next(iter(shown.values()))
        same = ("calls", "skipped", "all_usd", "all_usd_before", "calls_per_second", "store_calls_per_second")
        return {
            **{name: first[name] for name in same if name in first},
            "policies": [
                {"policy": policy, **{name: value for name, value in found.items() if name not in same}}
                for policy, found in shown.items()
            ],
        }


def results(limits: Sequence[str | Limit], book: PriceBook) -> list[LimitResult]:
    """Return a result for each limit; a model is called as the book does, as calls are.

    Raises:
        ConfigError: One cannot be read, or two are one.
    """
    found: dict[tuple[Any, ...], LimitResult] = {}
    for given in limits:
        limit = (given if isinstance(given, Limit) else Limit(given)).named(book)
        text, twin = str(given), found.get(limit.identity)
        if twin is not None:
            raise ConfigError(f"limit: {twin.text!r} and {text!r} are one limit, set twice; replay one after the other")
        found[limit.identity] = LimitResult(text, limit, 0, 0 if limit.unit == "usd" else None)
    return list(found.values())
