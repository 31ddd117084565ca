"""What those who wait know of a pool: who stands in its queue, and what is taken of it at which entry of the ledger."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from budget.commands import Bucket

if TYPE_CHECKING:
    from budget.waiting.line import Place

__all__ = ["Queue", "Want"]

_LOG = 256  # movements that are kept apart where what was taken before them is known
_LOG_UNKNOWN = 4096  # and where it is not, so that an answer that took its time is still of use


class Want(NamedTuple):
    """What a place needs of one pool, and from when on it would fit by itself (rolling windows; else the pool's)."""

    amount: int
    limit: int
    fits_at: int | None


class Queue:
    """A pool that somebody waits for: its places in order, and what is taken of it.

    `taken` is spent + reserved of the window that began at `start`, after the entry `at`; None if it is not known.
    `log` has what later entries moved: number, window, change. It is complete, so that an answer which is older than
    the last of them, but not than `at`, still says what is taken now.
    """

    def __init__(self, at: int, rolling: bool, slots: bool):
        self.places: list[Place] = []
        self.rolling, self.slots = rolling, slots
        self.at, self.carry = at, 0
        self.taken: int | None = None
        self.log: deque[tuple[int, int, int]] = deque()
        self.start = self.end = 0

    def learn(self, bucket: Bucket, seq: int) -> None:
        """Take what an answer said of the pool after an entry."""
        if seq < self.at or bucket.start < self.start:
            return
        while self.log and self.log[0][0] <= seq:
            self.log.popleft()
        later = not self.rolling and any(start > bucket.start for _, start, _ in self.log)
        self.at, self.taken, self.carry = seq, None if later else bucket.spent + bucket.reserved, bucket.carry
        self.start, self.end = bucket.start, bucket.end

    def move(self, seq: int, start: int, change: int) -> None:
        """Take what an entry moved."""
        if seq <= self.at:
            return
        if self.taken is not None and start > self.start and not self.rolling:
            self.forget(seq)  # another window has begun
            return
        self.log.append((seq, start, change))
        if len(self.log) > (_LOG_UNKNOWN if self.taken is None else _LOG):
            first = self.log.popleft()
            self.at = first[0]
            self.taken = None if self.taken is None else self.taken + self._counts(*first)

    def forget(self, seq: int) -> None:
        """Have what is taken found out by asking."""
        if seq >= self.at:
            self.at, self.taken = seq, None
            self.log.clear()

    def room(self, want: Want) -> int | None:
        """Return what is left for one who wants that, or None if it is not known."""
        if self.taken is None:
            return None
        return want.limit + self.carry - self.taken - sum([self._counts(*each) for each in self.log])

    def _counts(self, seq: int, start: int, change: int) -> int:
        """Return what a movement changes here: a late end in an earlier window changes nothing."""
        return change if self.rolling or start == self.start else 0

    def nudge(self) -> None:
        """Have the first who is not asking look whether it may."""
        for place in self.places:
            if not place.trying:
                place.nudge()
                return
