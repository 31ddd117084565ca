"""Rebuild sets the counters to what the ledger says, on every store, and never adds."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from budget.books.books import Books
from budget.commands import Rebuild
from budget.engine import Budget
from budget.errors import BudgetError
from budget.stores.base import open_store

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
