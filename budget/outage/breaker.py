"""The circuit breaker: when a store has failed often enough, nobody waits for it any more.

A machine of two states over a monotonic time that is passed in. Closed, it counts; open, what it guards is refused at
once, and about once a second one question probes whether the store is back. Any answer closes it, a refusal too: a
store that says no has answered.

It opens after `IN_A_ROW` failures in a row, or when half of at least `ENOUGH` answers failed within `WITHIN` seconds of
a failure. While nothing fails it costs its callers one look at `troubled`.
"""

from __future__ import annotations

from collections.abc import Callable
from random import random
from threading import Lock

__all__ = ["ENOUGH", "IN_A_ROW", "PROBE_EVERY", "WITHIN", "Breaker"]

IN_A_ROW = 5
"""Failures in a row that open it."""
ENOUGH = 10
"""Answers of which half must have failed to open it."""
WITHIN = 10.0
"""Seconds, from a failure on, in which those are counted."""
PROBE_EVERY = 1.0
"""Seconds between probes, on average: each comes a quarter earlier or later, so that processes do not come together."""


class Breaker:
    """Opens when a store fails, closes when it answers.

    Args:
        chance: A random number from 0 to 1 per probe.

    Attributes:
        open: Whether what it guards is refused.
        troubled: Whether an answer would be news: it is open, or something failed not long ago.
        probe_at: When the next probe is due, if it is open.
    """

    def __init__(self, chance: Callable[[], float] = random):
        self.open = self.troubled = False
        self.probe_at = 0.0
        self._chance, self._lock = chance, Lock()
        self._row = self._failed = self._all = 0
        self._since = 0.0

    def failed(self, now: float) -> bool:
        """Take note that the store could not answer; True if that opened it."""
        with self._lock:
            if self.open:
                if now >= self.probe_at:
                    self._plan(now)
                return False
            if not self.troubled or now - self._since > WITHIN:
                self._since, self._failed, self._all = now, 0, 0
            self.troubled = True
            self._row, self._failed, self._all = self._row + 1, self._failed + 1, self._all + 1
            if self._row >= IN_A_ROW or (self._all >= ENOUGH and 2 * self._failed >= self._all):
                self.open = True
                self._plan(now)
            return self.open

    def answered(self, now: float) -> bool:
        """Take note that the store has answered; True if that closed it."""
        with self._lock:
            closed = self.open
            self._row = 0
            self._all += 1
            if closed or now - self._since > WITHIN:
                self.open = self.troubled = False
            return closed

    def _plan(self, now: float) -> None:
        self.probe_at = now + PROBE_EVERY * (0.75 + self._chance() / 2)
