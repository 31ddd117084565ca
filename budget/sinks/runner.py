"""The sinks of an engine at work: a thread for each, which reads on in the ledger and hands over what it finds.

Nothing here is on the way of a call: a call writes its entries as ever, and these threads read them. A feed is one sink
with its place. It works while it holds the sink's lock, so that of all processes with the same sinks one tells each;
if that one ends, however, another goes on from the place. Trouble only means waiting: twice as long each time, up to a
minute, or as long as the receiver asks. The ledger is the spool, so nothing has to be kept meanwhile.
"""

from __future__ import annotations

import atexit
import logging
import os
import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.ledger import Entry
from budget.records.changes import Change, changes_of
from budget.sinks import make_sinks
from budget.sinks.base import Attaching, Batch, Batching, Heeding, Resuming, Sink, SinkFailed, Ticking, Watching
from budget.sinks.places import Place, Places, beside
from budget.stores.base import PAGE, Store
from budget.stores.sqlitefile import FileLock

if TYPE_CHECKING:
    from budget.books.books import Books
    from budget.core import Engine

__all__ = ["EVERY", "FIRST_WAIT", "LAST_FLUSH", "LONGEST_WAIT", "Feed", "Runner"]

EVERY = 1.0
"""Seconds between looks at the ledger: what is there is a batch."""
SIZE = 1000
"""Changes that a batch has at most."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds to wait after the first failure, and at most; see `Feed.failed`."""
LAST_FLUSH = 2.0
"""Seconds that closing gives the sinks for what is left."""
_ASKED_WAIT = 3600.0  # seconds that a receiver can make us wait at most
_PAGES = 10  # pages of the ledger that a turn reads at most
_log = logging.getLogger("budget")


class Feed:
    """One sink and its place in the ledger of one account. Used by one thread at a time, under the sink's lock."""

    def __init__(self, books: Books, sink: Sink, places: Places):
        self.sink = sink
        self._books, self._places, self._account = books, places, books.account
        self._size, self._age = (sink.size, sink.age) if isinstance(sink, Batching) else (SIZE, 0.0)
        self._most = self._size
        self._failures, self._told, self.fine = 0, "", False
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read: somebody else may have gone on meanwhile."""
        self._place: Place | None = None
        self._batch: Batch | None = None
        self._pending: list[tuple[Entry, Change]] = []
        self._since = 0.0
        self._first = self._upto = self._done = self._missed = 0

    def turn(self, flush: bool = False) -> bool:
        """Read on, and hand over a batch if one is due; whether there may be more at once.

        Args:
            flush: Whatever there is, is due.

        Raises:
            SinkFailed: The sink did not take it.
            StoreUnavailable: Ledger or places cannot be read.
        """
        place = self._places.get(self.sink.name, self._account)
        if self._place is None or (self._place.seq, self._place.resets) != (place.seq, place.resets):
            self._begin(place)
            place = self._places.get(self.sink.name, self._account)
        self._place = place
        more = self._read_on() if self._batch is None else True
        if self._batch is None:
            self._batch = self._next(flush)
        if self._batch is not None:
            self._hand_over(self._batch, place)
        self.fine = not self._pending or self._batch is not None
        handed, self._batch = self._batch is not None, None
        return more or (handed and (bool(self._pending) or self._place is None))

    def _hand_over(self, batch: Batch, place: Place) -> None:
        if batch.changes and batch.last > self._done:
            self.sink.write(batch)
        self._done = batch.last
        if self._places.move(self.sink.name, self._account, place, batch.last, self._missed):
            self._place, self._missed = Place(batch.last, place.resets), 0
            self._most = min(self._size, self._most * 2)
        else:  # it was set by hand meanwhile, and that holds
            self._place = None

    def failed(self, error: Exception) -> float:
        """Take note of a failure; return the seconds to wait before the next turn."""
        wanted = error if isinstance(error, SinkFailed) else SinkFailed(_said(error))
        if wanted.smaller and self._batch is not None and len(self._batch.changes) > 1:
            self._most = max(1, len(self._batch.changes) // 2)
            self.begin_anew()
            return 0.0
        self._tell(wanted)
        if isinstance(self.sink, Resuming):
            self.begin_anew()
        wait = LONGEST_WAIT if wanted.permanent else min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self._failures, 16))
        self._failures += 1
        # Jitter, so that many who were cut off at once do not come back at once.
        return max(wait * random.uniform(0.5, 1.0), min(wanted.retry_after or 0.0, _ASKED_WAIT))

    def went_well(self) -> None:
        """Take note that a turn and what belongs to it went well: the outage, if there was one, is over."""
        if not self.fine:
            return
        if self._place is not None and self._places.get(self.sink.name, self._account).error is not None:
            _log.info("sink %s goes on", self.sink.name)
            self._places.trouble(self.sink.name, self._account, None)
        self._failures, self._told = 0, ""

    def _tell(self, error: SinkFailed) -> None:
        """Say it once per outage, and once more where from now on somebody has to put something right."""
        how = "does not take what it is given" if error.permanent else "cannot be reached; it is tried again"
        if not self._told or (error.permanent and self._told != "permanent"):
            self._told = "permanent" if error.permanent else "passing"
            _log.warning("sink %s %s: %s (its place is kept)", self.sink.name, how, error)
        with suppress(StoreUnavailable):
            self._places.trouble(self.sink.name, self._account, str(error))

    def _begin(self, place: Place) -> None:
        """Go to a place, or to where the sink says that it is."""
        self.begin_anew()
        seq = place.seq
        if isinstance(self.sink, Resuming) and not place.forced:
            seq = self.sink.resume(self._account, place.seq)
            if seq != place.seq:
                self._places.move(self.sink.name, self._account, place, seq)
        self._check(seq)
        self._first, self._upto = seq + 1, seq

    def _check(self, seq: int) -> None:
        """Find out that the ledger is another one than the sink was told of: it would never be told of this one."""
        ledger = _whole_ledger(self._books)
        last = ledger.last(self._account) if ledger is not None else 0
        if seq > last:
            raise SinkFailed(
                f"it was told of entries up to {seq}, and the ledger has {last}: this is another ledger; "
                f"see 'budget sinks reset {self.sink.name} --to 0'",
                permanent=True,
            )

    def _next(self, flush: bool) -> Batch | None:
        """Return the next batch, if one is due. Entries that did nothing make one too: the place moves over them."""
        changes = tuple(self._pending[: self._most])
        due = flush or len(changes) >= self._most or monotonic() - self._since >= self._age
        last = changes[-1][0].seq if len(self._pending) > len(changes) else self._upto
        if last < self._first or (changes and not due):
            return None
        del self._pending[: len(changes)]
        first, self._first = self._first, last + 1
        return Batch(self._account, first, last, changes)

    def _read_on(self) -> bool:
        """Read until there is a full batch; whether the ledger has more."""
        ledger = _whole_ledger(self._books)
        for _ in range(_PAGES if ledger is not None else 0):
            if len(self._pending) >= self._most:
                return True
            page = ledger.entries(self._account, self._upto) if ledger is not None else ()
            if self._upto and page and page[0].seq > self._upto + 1:
                self._gap(page[0].seq - self._upto - 1)
            if not self._pending:
                self._since = monotonic()
            self._pending += [(entry, change) for entry, change in changes_of(page) if change is not None]
            self._upto = page[-1].seq if page else self._upto
            if len(page) < PAGE:
                return False
        return ledger is not None

    def _gap(self, count: int) -> None:
        """What was pruned too early is said, and counted."""
        self._missed += count
        _log.warning("sink %s: %d entries of the ledger were pruned before it was told of them", self.sink.name, count)


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


def _whole_ledger(books: Books) -> Store | None:
    """Return the ledger as it is numbered for good; None if there is nothing of it yet."""
    if books.records is not None and books.records.cursor(books.account) is None:
        books.drain_step(trim=False)
        if books.records.cursor(books.account) is None:
            return None
    return books.ledger()


def _said(error: Exception) -> str:
    """Return what may be said of an error: that of a library may hold a URL with a password."""
    return str(error) if isinstance(error, BudgetError) else type(error).__name__


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
