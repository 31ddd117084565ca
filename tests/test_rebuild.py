"""Rebuild sets the counters to what the ledger says, on every store, and never adds."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import redis

from budget import Limit
from budget.books.books import Books
from budget.books.counters import lost_buckets
from budget.commands import Rebuild
from budget.engine import Budget
from budget.errors import BudgetError
from budget.stores.base import Store, open_store
from budget.stores.memory import MemoryStore
from budget.stores.sqlite import SqliteStore

LIMITS = ["$500/day", "per=user $50/hour", "500 requests/lifetime", "80 concurrent", "$70/1h rolling"]


def use(budget: Budget, calls: int = 12) -> None:
    for i in range(calls):
        reservation = budget.reserve("$0.5", user=f"u{i % 3}")
        if i % 4:
            budget.reconcile(reservation, usd=f"0.{i:02d}1")


def spoil(budget: Budget, seed: int) -> None:
    """Set some counters to what they are not."""
    rng, store, account = random.Random(seed), budget.engine.store, budget.settings.account
    found = store.snapshot(account)
    some = rng.sample(sorted(found.buckets), 3)
    wrong = {}
    for key in some:
        bucket = found.buckets[key]
        wrong[key] = bucket.at(bucket.spent + rng.randrange(1, 5), bucket.reserved + rng.randrange(5))
    assert store.call(account, Rebuild(found.seq, wrong, found.names), 5.0).status == "rebuilt"
    assert not budget.engine.books.verify().ok


@pytest.mark.parametrize("seed", range(3))
def test_counters_are_set_to_what_the_ledger_says(budget_factory: Callable[..., Budget], seed: int) -> None:
    budget = budget_factory(limits=LIMITS)
    use(budget)
    before = budget.engine.store.snapshot("default").buckets
    spoil(budget, seed)
    done = budget.engine.books.rebuild()
    assert (len(done.changed), done.audit.faults) == (3, [])
    assert budget.engine.store.snapshot("default").buckets == before
    assert budget.engine.books.rebuild().changed == []
    use(budget)
    assert budget.engine.books.verify().faults == []


def test_many_at_once_come_to_the_same(shared_url: str, make_budget: Callable[..., Budget]) -> None:
    budget = make_budget(shared_url, limits=LIMITS)
    use(budget)
    before = budget.engine.store.snapshot("default").buckets
    spoil(budget, 5)
    stores = [open_store(shared_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda store: Books(store, "default").rebuild(), stores))
    assert sum(len(each.changed) for each in done) >= 3
    assert all(each.audit.ok for each in done)
    assert budget.engine.store.snapshot("default").buckets == before
    for store in stores:
        store.close()


def test_while_others_write(shared_url: str, make_budget: Callable[..., Budget]) -> None:
    budget = make_budget(shared_url, limits=LIMITS)
    use(budget)
    spoil(budget, 7)
    other = make_budget(shared_url, limits=LIMITS)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(use, other, 6)
        budget.engine.books.rebuild()
        writing.result()
    assert budget.engine.books.verify().faults == []


def test_a_damaged_ledger_tells_nothing(budget_factory: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch) -> None:
    budget = budget_factory(limits=LIMITS)
    use(budget)
    before = budget.engine.store.snapshot("default")
    lines = list(budget.engine.store.lines("default", 0))
    monkeypatch.setattr(budget.engine.store, "lines", lambda account, after: iter([*lines[:4], *lines[5:]]))
    with pytest.raises(BudgetError, match="entry 5 is missing"):
        budget.engine.books.rebuild()
    assert budget.engine.store.snapshot("default") == before


def lose(store: Store, what: str) -> None:
    """Take counters, or open reservations, away behind the store's back."""
    if isinstance(store, MemoryStore):
        state = store._states["default"]
        for known in (state.pools, state.last) if what == "counters" else (state.reservations,):
            known.clear()
    elif isinstance(store, SqliteStore):
        with closing(sqlite3.connect(store.path)) as db, db:
            db.execute("delete from buckets" if what == "counters" else "delete from reservations where state = 'open'")
    else:
        with redis.Redis.from_url(store.url) as client:
            letter = b"p" if what == "counters" else b"r"
            found = [key for key in client.scan_iter("*") if key.rsplit(b":", 2)[-2] == letter]
            assert found
            client.delete(*found)


def test_counters_that_are_gone_are_found_and_made_again(budget_factory: Callable[..., Budget]) -> None:
    """A pool without its counter would begin anew, and admit a second time what the limit has once."""
    budget = budget_factory(limits=[*LIMITS, Limit("$90/day", per="user", tz="Asia/Kolkata", starts=6)])
    use(budget)
    books, account = budget.engine.books, budget.settings.account
    before = budget.engine.store.snapshot(account).buckets
    lose(budget.engine.store, "counters")
    assert len(books.verify().faults) >= len(before)
    done = books.rebuild(budget.settings.limits)
    after = budget.engine.store.snapshot(account).buckets
    assert (sorted(done.changed), done.audit.faults) == (sorted(before), [])
    assert {key: bucket._replace(since=0) for key, bucket in after.items()} == {
        key: bucket._replace(since=0) for key, bucket in before.items()
    }
    use(budget)
    assert books.verify().faults == []


def test_a_counter_that_was_made_again_ends_before_the_next(budget_factory: Callable[..., Budget]) -> None:
    """Nobody may know the zone of its limit, which was in another process's code."""
    budget = budget_factory(limits=[Limit("$5/day", tz="Asia/Kolkata", starts=6)])
    use(budget, 3)
    found = budget.engine.store.snapshot(budget.settings.account)
    ((key, bucket),) = found.buckets.items()
    auditor = budget.engine.books.audit(found)
    made = lost_buckets(auditor, found._replace(buckets={}), [key], ())
    assert made[key]._replace(since=0) == bucket._replace(since=0)
    later = bucket._replace(start=bucket.end - 3600 * 1_000_000)
    made = lost_buckets(auditor, found._replace(buckets={(key[0], later.start): later}), [key], ())
    assert made[key].end == later.start


def test_a_reservation_that_is_gone_is_found(budget_factory: Callable[..., Budget]) -> None:
    """What it had set aside would be reserved for ever."""
    budget = budget_factory(limits=LIMITS)
    use(budget)
    assert budget.engine.books.verify().ok
    lose(budget.engine.store, "reservations")
    faults = budget.engine.books.verify().faults
    assert faults
    assert all("open reservations hold 0, the pool says" in fault for fault in faults)
