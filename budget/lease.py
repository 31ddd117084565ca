"""Leases: one daemon thread per engine renews what is guarded for as long as it lives, at a third of the lease.

A call that ends before a third of its lease costs a dictionary entry and nothing else: the thread sleeps until
something can be due, and a new entry is never due earlier than what it already waits for, unless its lease is shorter.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic

__all__ = ["Renewer"]


class Renewer:
    """Calls `renew(id, lease_us)` for each id that is kept, again and again, until it is dropped."""

    def __init__(self, renew: Callable[[str, int], None]):
        self._renew = renew
        self._due: dict[str, list[float]] = {}  # when it is to be renewed next, and its lease in microseconds
        self._changed = Condition()
        self._thread: Thread | None = None
        self._wakes = 0.0
        self._closed = False
        self._pid = os.getpid()

    def keep(self, id: str, lease_us: int) -> None:
        """Renew a reservation from now on."""
        if self._pid != os.getpid():  # forked: what is kept here is the parent's, and its thread is not here
            self.__init__(self._renew)  # type: ignore[misc]
        due = monotonic() + lease_us / 3e6
        with self._changed:
            self._due[id] = [due, lease_us]
            if self._thread is None or not self._thread.is_alive():
                self._wakes, self._closed = due, False
                self._thread = Thread(target=self._run, name="budget-lease", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._changed.notify()

    def drop(self, id: str) -> bool:
        """Renew it no more; True for the first who says so. A finalizer may call this anywhere: it takes no lock."""
        return self._due.pop(id, None) is not None and self._pid == os.getpid()  # a parent's is not ours to end

    def keeps(self, id: str) -> bool:
        """Whether it is renewed."""
        return id in self._due

    def close(self) -> None:
        """End the thread."""
        if self._pid != os.getpid():  # forked: the thread is the parent's, and so may be who has the lock
            return
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(1.0)  # else a budget that is used again would count on a thread that is about to end

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                # A copy is made in one step; a finalizer may drop one while we iterate.
                self._wakes = min((due for due, _ in self._due.copy().values()), default=monotonic() + 60.0)
                self._changed.wait(max(0.0, self._wakes - monotonic()))
                now = monotonic()
                waiting = self._due.copy()
            for id, entry in waiting.items():
                if entry[0] <= now:
                    self._renew(id, int(entry[1]))
                    entry[0] = now + entry[1] / 3e6
