"""Watching a ledger: for stores whose writes this process can hear of, or can look for at a calm pace.

A watch that is stopped reads no more: a store that was closed is not opened again by one who looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock
from time import monotonic

from budget.ledger import Entry
from budget.stores.base import Moved

__all__ = ["LedgerWatch", "moved"]


def moved(entry: Entry) -> Moved:
    """Return what an entry moved. One that belongs to no call and moved nothing has changed the policy."""
    return Moved(entry.seq, None if entry.reservation is None and not entry.postings else entry.postings)


class LedgerWatch:
    """Reads a ledger on after each `nudge`, and after each pause. See `stores.base.Watch`.

    Args:
        read: Returns entries after a sequence number.
        after: Where to begin.
        pause: Seconds after which others may have written; None: nobody but this process does.
    """

    def __init__(self, read: Callable[[int], Sequence[Entry]], after: int, pause: float | None = None):
        self._read, self._after, self._pause = read, after, pause
        self._nudges: SimpleQueue[None] = SimpleQueue()  # `put` may be called anywhere, also by a finalizer
        self._reading = Lock()
        self._stopped = False

    def nudge(self) -> None:
        """Have it look at once: something was written."""
        if self._nudges.empty():
            self._nudges.put(None)

    def wait(self, timeout: float) -> Sequence[Moved]:
        """Return what was written since the last time, or nothing after so many seconds."""
        until = monotonic() + timeout
        while True:
            with self._reading:
                entries = () if self._stopped else self._read(self._after)
            left = until - monotonic()
            if entries:
                self._after = entries[-1].seq
            if entries or self._stopped or left <= 0:
                return [moved(entry) for entry in entries]
            with suppress(Empty):
                self._nudges.get(timeout=left if self._pause is None else min(left, self._pause))

    def stop(self) -> None:
        """Read no more."""
        with self._reading:
            self._stopped = True
        self.nudge()
