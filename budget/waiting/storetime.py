"""The store's time, as well as its answers tell it.

Windows begin and end by the store's clock, but a caller says which window it means before it asks. Where this machine's
clock is off, the wrong one would be meant, and each call would take a second turn. So the time of the last answers is
carried on by the monotonic clock, which nobody sets.

An answer made at `t` is read later than `t`: what it tells is never ahead of the store, and the largest of several is
the nearest. Only an answer that is older than its question was thought to be proves that this clock runs ahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["StoreTime"]


class StoreTime:
    """Tells the store's time, microseconds since the epoch; this machine's until the store has answered.

    Args:
        clock: What tells the store the time, too; nothing is to be learned from its answers then.
    """

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._ahead: int | None = None  # of the monotonic clock
        self._clock = clock

    def now(self) -> int:
        """Return the time."""
        if self._clock is not None:
            return self._clock()
        ahead = self._ahead
        return time.time_ns() // 1000 if ahead is None else time.monotonic_ns() // 1000 + ahead

    def saw(self, answered: int, asked: int) -> None:
        """Take an answer's time; `asked` is what `now` was before the question."""
        ahead = answered - time.monotonic_ns() // 1000
        if self._ahead is None or ahead > self._ahead or answered < asked:
            self._ahead = ahead
