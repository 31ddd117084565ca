"""What the tests of sinks share: a sink that keeps what it is told, calls of every kind, feeds without a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from threading import Event

import pytest

from budget.engine import Budget
from budget.errors import BudgetExceeded, StoreUnavailable
from budget.limits import Limit
from budget.records import Ended, record_of
from budget.sinks.base import Batch, Sink, SinkFailed
from budget.sinks.feed import Feed
from budget.sinks.places import Places, beside
from budget.testing import Sandbox
from budget.usage import Usage

MODEL = "claude-sonnet-4-5"


class Kept:
    """A sink that keeps its batches, and fails as it is told to."""

    def __init__(self, name: str = "kept", fails: Callable[[Batch], None] = lambda _: None):
        self.name, self._fails = name, fails
        self.batches: list[Batch] = []
        self.tries: list[Batch] = []
        self.closed = Event()

    def write(self, batch: Batch) -> None:
        self.tries.append(batch)
        self._fails(batch)
        self.batches.append(batch)

    def close(self) -> None:
        self.closed.set()

    @property
    def ids(self) -> list[str]:
        return [record.id for batch in self.batches for record in batch.records]


def failing(times: int, error: SinkFailed) -> Callable[[Batch], None]:
    """Fail so many times, and never again."""
    left = iter(range(times))

    def fail(_: Batch) -> None:
        if next(left, None) is not None:
            raise error

    return fail


def call(budget: Budget, usd: str = "0.01", **attributes: str) -> str:
    """Make one call, and return its id."""
    return str(budget.record(usd=usd, tokens=10, **attributes).id)


def mixed_budget() -> Sandbox:
    """A ledger with a change of each kind: three calls, one of which is corrected and one taken back; two refusals."""
    budget = Sandbox(limits=[Limit("$1/day", per="user"), Limit("$0.01/day", mode="shadow")])
    attributes = {"user": "alice", "session": "s1", "agent": "support", "project": "p", "feature": "x"}
    usage = Usage(input=1000, output=500, cache_read=2000, cache_write={"5m": 100}, model=MODEL)
    whole = budget.reserve("$0.5", tokens=5000, **attributes)
    budget.reconcile(whole, usage)
    late, gone = (budget.reserve("$0.1", tokens=100, lease=seconds, user="bob") for seconds in (1, 2))
    budget.clock.move("10s")
    budget.reserve("$0.1", tokens=10, user="carol")  # whoever comes next ends what is over
    budget.reconcile(late, usage)
    budget.refund(gone)
    with pytest.raises(BudgetExceeded):
        budget.reserve("$3", tokens=10, user="alice", agent="support")
    return budget


def odd_batch() -> Batch:
    """A call whose model a provider named as it pleased, of a user who is called like a placeholder."""
    with Sandbox() as budget:
        call(budget, user="%s %(time)s")
        (entry,) = budget.entries()
    odd = replace(entry, detail={**entry.detail, "model": "m\0\ud800'\n"})
    return Batch("default", 1, 1, ((odd, Ended(record_of(odd))),))


OPENED: list[Sink] = []
"""Sinks that `feed_of` was given; they are closed when the test ends."""


def feed_of(budget: Budget, sink: Sink, places: Places | None = None) -> Feed:
    OPENED.append(sink)
    books = budget.engine.books
    return Feed(books, sink, places or Places(beside(books, "-sinks")))


def killed(*_: object) -> bool:
    """Stand in for `Places.move`: the process does not come to it."""
    raise StoreUnavailable("killed here")


def drain(feed: Feed, tries: int = 20) -> None:
    """Take turns until there is nothing more to hand over."""
    for _ in range(tries):
        try:
            if not feed.turn(flush=True):
                return feed.went_well()
            feed.went_well()
        except SinkFailed as error:
            feed.failed(error)
    raise AssertionError(f"not through after {tries} turns")


def eventually(what: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come to be"
        time.sleep(0.01)
