"""Leases: one daemon thread per engine renews what is guarded for as long as it lives, at a third of the lease.

A call that ends before a third of its lease costs a dictionary entry and nothing else: the thread sleeps until
something can be due, and a new entry is never due earlier than what it already waits for, unless its lease is shorter.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition, Thread
from time import monotonic

__all__ = ["Renewer"]


class Renewer:
    """Calls `renew(id, lease_us)` for each id that is kept, again and again, until it is dropped."""

    def __init__(self, renew: Callable[[str, int], None]):
        self._renew = renew
        self._due: dict[str, tuple[float, int]] = {}
        self._changed = Condition()
        self._thread: Thread | None = None
        self._wakes = 0.0
        self._closed = False

    def keep(self, id: str, lease_us: int) -> None:
        """Renew a reservation from now on."""
        due = monotonic() + lease_us / 3e6
        with self._changed:
            self._due[id] = (due, lease_us)
            if self._thread is None or not self._thread.is_alive():  # never started, or lost in a fork
                self._wakes, self._closed = due, False
                self._thread = Thread(target=self._run, name="budget-lease", daemon=True)
                self._thread.start()
            elif due < self._wakes:
                self._changed.notify()

    def drop(self, id: str) -> None:
        """Renew it no more. A finalizer may call this anywhere: it takes no lock."""
        self._due.pop(id, None)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._due.clear()
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                waiting = list(self._due.values())
                self._wakes = min((due for due, _ in waiting), default=monotonic() + 60.0)
                self._changed.wait(max(0.0, self._wakes - monotonic()))
                now = monotonic()
                due = [(id, lease) for id, (at, lease) in list(self._due.items()) if at <= now]
            for id, lease_us in due:
                self._renew(id, lease_us)
                if id in self._due:
                    self._due[id] = (now + lease_us / 3e6, lease_us)
