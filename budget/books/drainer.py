"""The drain in the background of an engine: what a server's ledger has gained goes to the records store."""

from __future__ import annotations

import logging
import os
import weakref
from threading import Event, Thread

from budget.books.books import Books
from budget.errors import BudgetError

__all__ = ["EVERY", "Drainer"]

EVERY = 1.0
"""Seconds between looks at a server's ledger."""
_PATIENCE = 5.0  # seconds that closing waits for a step
_log = logging.getLogger("budget")


class Drainer:
    """A thread that drains, page by page, as long as its engine is open."""

    def __init__(self, books: Books):
        self._books = books
        self._stop = Event()
        self._thread: Thread | None = None
        if books.records is not None:
            _DRAINERS.add(self)
            self._start()

    def _start(self) -> None:
        self._stop = Event()
        self._thread = Thread(target=self._run, args=(self._stop,), name="budget-drain", daemon=True)
        self._thread.start()

    def _run(self, stop: Event) -> None:
        failed = False
        while not stop.wait(EVERY):
            try:
                while self._books.drain_step() and not stop.is_set():
                    pass
                failed = False
            except Exception as error:  # whatever it is may be mended, and then it must go on
                if not failed:  # said once, until it went well again
                    trace = not isinstance(error, BudgetError)
                    _log.warning("the ledger cannot be drained: %s", error or type(error).__name__, exc_info=trace)
                failed = True

    def stop(self) -> None:
        """End after the present step."""
        _DRAINERS.discard(self)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE)
            self._thread = None

    def close(self) -> None:
        """End, and let go of the records store."""
        self.stop()
        if self._books.records is not None:
            self._books.records.close()


_DRAINERS: weakref.WeakSet[Drainer] = weakref.WeakSet()


def _forked() -> None:
    # Threads do not cross a fork; parent and child drain into the same file, each entry once.
    for drainer in list(_DRAINERS):
        drainer._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
