"""The sinks of an engine at work: a thread for each, which reads on in the ledger and hands over what it finds.

Nothing here is on the way of a call: a call writes its entries as ever, and these threads read them. A thread works
while it holds the sink's lock, so that of all processes with the same sinks one tells each; if that one ends, however
it does, another goes on from the place. Trouble only means waiting: twice as long each time, up to a minute, or as long
as the receiver asks. The ledger is the spool, so nothing has to be kept meanwhile.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.sinks import make_sinks
from budget.sinks.base import Attaching, Heeding, Sink, Ticking, Watching
from budget.sinks.feed import Feed
from budget.sinks.places import Places, beside
from budget.stores.sqlitefile import FileLock

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["EVERY", "LAST_FLUSH", "Runner", "exclusive"]

EVERY = 1.0
"""Seconds between looks at the ledger: what is there is a batch."""
LAST_FLUSH = 2.0
"""Seconds that closing gives the sinks for what is left."""


class _Worker:
    """The thread of a feed."""

    def __init__(self, feed: Feed, lock: Path | None, now: Callable[[], int]):
        self.feed, self._lock, self._now = feed, lock, now
        self._wake, self._until = Event(), float("inf")
        self._thread = Thread(target=self._run, name=f"budget-sink-{feed.sink.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask_to_end(self, until: float) -> None:
        """Hand over what is left, until an instant, and end."""
        self._until = until
        self._wake.set()

    def join(self) -> None:
        self._thread.join(max(0.0, self._until - monotonic()))

    def _run(self) -> None:
        while not self._wake.is_set():
            try:
                with exclusive(self._lock):
                    self._serve()
            except StoreUnavailable:  # another process has it
                self._wake.wait(EVERY)
        self.feed.sink.close()

    def _serve(self) -> None:
        self.feed.begin_anew()
        pause = 0.0
        while not self._wake.wait(pause):
            pause = self._attempt(flush=False)
        while monotonic() < self._until and not self._attempt(flush=True):
            pass

    def _attempt(self, flush: bool) -> float:
        """Take a turn; return the seconds to wait before the next."""
        try:
            more = self.feed.turn(flush)
            if isinstance(self.feed.sink, Ticking):
                self.feed.sink.tick(self._now())
            self.feed.went_well()
        except Exception as error:  # of a sink that somebody else wrote, too: the thread must live
            if isinstance(error, StoreUnavailable):
                self._heed(error)
            return self.feed.failed(error)
        return 0.0 if more else EVERY

    def _heed(self, error: StoreUnavailable) -> None:
        """Tell a sink that asks for it that the ledger cannot be read."""
        if isinstance(sink := self.feed.sink, Heeding):
            try:
                sink.troubled(error)
                if isinstance(sink, Ticking):
                    sink.tick(self._now())
            except Exception as trouble:
                self.feed.failed(trouble)


class Runner:
    """All sinks of an engine.

    Args:
        engine: Of the account.
        sinks: As texts or objects. After a fork, those given as text are made anew in the child; an object is used
            there as it is.

    Raises:
        ConfigError, ArgumentTypeError: A sink cannot be made, or the ledger is a server's that is not drained.
    """

    def __init__(self, engine: Engine, sinks: Sequence[str | Sink]):
        self._engine, self._books, self._whats = engine, engine.books, tuple(sinks)
        self.sinks = self._make()
        if self.sinks and self._books.drains and self._books.records is None:
            raise ConfigError("sinks: they read the drained ledger of a server; give records='sqlite:////...' besides")
        self.places = Places(beside(self._books, "-sinks"))
        self._workers: list[_Worker] = []

    def _make(self) -> list[Sink]:
        """Make the sinks, and return those that are told of the ledger."""
        made = make_sinks(self._whats)
        for sink in made:
            if isinstance(sink, Attaching):
                sink.attach(self._engine)
        return [sink for sink in made if not isinstance(sink, Watching)]

    def start(self) -> None:
        """Begin, in the background."""
        _RUNNERS.add(self)
        now = self._engine.verbs.now
        self._workers = [_Worker(self._feed(sink), self._lock(sink), now) for sink in self.sinks]
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """Hand over what is left, for `LAST_FLUSH` seconds at most, and end."""
        _RUNNERS.discard(self)
        until = monotonic() + LAST_FLUSH
        for worker in self._workers:
            worker.ask_to_end(until)
        for worker in self._workers:
            worker.join()
        self._workers = []

    def once(self, sink: Sink) -> int:
        """Hand over to one sink all that the ledger has; return its place then. Not beside `start`.

        Raises:
            SinkFailed: It did not take it.
            StoreUnavailable: Another process is at it, or the ledger cannot be read.
        """
        feed = self._feed(sink)
        with exclusive(self._lock(sink)):
            while True:
                try:
                    if not feed.turn(flush=True):
                        break
                except BudgetError as error:
                    if feed.failed(error):
                        raise
            feed.went_well()
            sink.close()
        return self.places.get(sink.name, self._books.account).seq

    def _feed(self, sink: Sink) -> Feed:
        return Feed(self._books, sink, self.places)

    def _lock(self, sink: Sink) -> Path | None:
        return beside(self._books, f"-sinks.{self._books.account}.{sink.name}.lock")

    def _forked(self) -> None:
        """Begin anew in a child. Threads do not cross a fork, and connections are the parent's."""
        _ABANDONED.extend([self._workers, self.sinks])
        if self.places.path is None:  # the child's ledger is a copy, and what it has so far is told by the parent
            self.places = Places(None)
            for sink in self.sinks:
                self.places.reset(sink.name, self._books.account, self._books.store.last(self._books.account))
        self.sinks = self._make()
        self.start()


@contextmanager
def exclusive(path: Path | None) -> Iterator[None]:
    """Be the one process that runs a sink.

    Raises:
        StoreUnavailable: Another one is.
    """
    if path is None:
        yield
        return
    try:
        lock = FileLock(path)
    except OSError as error:
        raise StoreUnavailable(f"the lock of a sink cannot be opened: {error}") from error
    _LOCKS.add(lock)
    try:
        with lock.held(0):
            yield
    finally:
        _LOCKS.discard(lock)
        lock.close()


_RUNNERS: weakref.WeakSet[Runner] = weakref.WeakSet()
_LOCKS: weakref.WeakSet[FileLock] = weakref.WeakSet()
_ABANDONED: list[Any] = []


def _forked() -> None:
    for lock in list(_LOCKS):  # or the child would hold what its parent does, after that has gone
        lock.close()
    _LOCKS.clear()
    for runner in list(_RUNNERS):
        runner._forked()


def _exit() -> None:
    for runner in list(_RUNNERS):
        runner.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
atexit.register(_exit)
