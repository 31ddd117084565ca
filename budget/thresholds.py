"""Warnings before a limit refuses: a reserve that takes a pool to a share of it says so, once per window and process.

A pool of a rolling window has no window that ends: it may warn again when it was seen below the share meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from budget.buckets import allowed
from budget.commands import Bucket, Draw
from budget.limits import Limit
from budget.pools import shown
from budget.subject import Subject

if TYPE_CHECKING:
    from budget.policy import Match

__all__ = ["Thresholds", "Warned"]

_KEPT = 20_000  # pools and shares that are remembered to have warned
_log = logging.getLogger("budget")


@dataclass(frozen=True, slots=True)
class Warned:
    """What a warning says; what `Budget(on_warning=)` is called with.

    Attributes:
        limit: The `Limit`.
        subject: Whose pool it is: {"user": "alice"}, printed "user=alice".
        share: The share of the limit that was reached, percent: 80.
        spent, reserved: The pool after the reserve, Decimal USD or int.
        amount: What the limit allows in this window, with what was rolled over and raised.
    """

    limit: Limit
    subject: Subject
    share: int
    spent: Decimal | int
    reserved: Decimal | int
    amount: Decimal | int

    def __str__(self) -> str:
        figures = (self.spent, self.reserved, self.amount)
        spent, reserved, amount = (f"${n:f}" if isinstance(n, Decimal) else str(n) for n in figures)
        taken = f"{spent} spent + {reserved} reserved of {amount}"
        return f"{self.limit.rule} ({self.subject}): {self.share} % reached, {taken}"


class Thresholds:
    """Watches what reserves are answered.

    Args:
        tell: Is called with each warning, or None; what it raises is logged. Each is logged besides.
    """

    def __init__(self, tell: Callable[[Warned], Any] | None):
        self._tell = tell
        self._warned: dict[tuple[str, int], int] = {}  # where: in which window

    def look(self, matches: Sequence[Match], draws: Sequence[Draw], buckets: Sequence[Bucket | None]) -> None:
        """Warn of the pools that a reserve took to one of their limits' shares."""
        for match, draw, bucket in zip(matches, draws, buckets, strict=False):
            if match.limit.warn and draw.pool is not None and bucket is not None:
                self._look(match, draw, bucket)

    def _look(self, match: Match, draw: Draw, bucket: Bucket) -> None:
        amount, taken = allowed(draw, bucket), bucket.spent + bucket.reserved
        window = 0 if draw.span else bucket.start
        for share in match.limit.warn:
            key = (draw.pool or "", share)
            if taken * 100 < amount * share:
                if draw.span:
                    self._warned.pop(key, None)
            elif self._warned.get(key) != window:
                if len(self._warned) >= _KEPT:
                    self._warned.clear()
                self._warned[key] = window
                unit = match.limit.unit
                figures = (shown(unit, bucket.spent), shown(unit, bucket.reserved), shown(unit, amount))
                self._warn(Warned(match.limit, match.subject, share, *figures))

    def _warn(self, warned: Warned) -> None:
        _log.warning("%s", warned)
        if self._tell is not None:
            try:
                self._tell(warned)
            except Exception:
                _log.exception("the function given as on_warning= failed")
