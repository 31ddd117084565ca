"""A feed: one sink with its place in the ledger. It reads on, makes batches, hands them over, and counts its failures.

It has neither thread nor lock; who calls it sees to it that nobody else tells the same sink meanwhile (`runner.py`).
"""

from __future__ import annotations

import logging
import random
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from budget.errors import BudgetError, StoreUnavailable
from budget.ledger import Entry
from budget.records.changes import Change, changes_of
from budget.sinks.base import Batch, Batching, Resuming, Sink, SinkFailed
from budget.sinks.places import Place, Places
from budget.stores.base import PAGE, Store

if TYPE_CHECKING:
    from budget.books.books import Books

__all__ = ["FIRST_WAIT", "LONGEST_WAIT", "SIZE", "Feed"]

SIZE = 1000
"""Changes that a batch has at most."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds to wait after the first failure, and at most; see `Feed.failed`."""
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
            self._place, self._missed = replace(place, seq=batch.last), 0
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
        if self._place is not None and self._place.error is not None:
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
