"""A server that comes back without its last writes: what was drained is restored, once; ambiguity ends in a charge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis
from test_drain import drain_all, restore, save, use

from budget.books.books import Books
from budget.books.recovery import recover
from budget.engine import Budget
from budget.errors import StoreUnavailable
from budget.stores.records import Records

LIMITS = ["$500/day", "per=user $50/day", "$900/lifetime", "$70/1h rolling", "9000 requests/week", "8 concurrent"]
ACTOR = {"actor": "ops", "reason": "failover"}


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(f"sqlite:///{tmp_path / 'records.db'}")
    yield made
    made.close()


@pytest.fixture
def make(redis_url: str, make_budget: Callable[..., Budget]) -> Callable[[], Budget]:
    return lambda: make_budget(redis_url, limits=LIMITS)


def sums(budget: Budget) -> dict[str, tuple[int, int]]:
    """(spent, reserved) by the name of the pool, whatever its windows."""
    found = budget.engine.store.snapshot("default")
    totals: dict[str, tuple[int, int]] = {}
    for (pool, _), bucket in found.buckets.items():
        spent, reserved = totals.get(found.names[pool], (0, 0))
        totals[found.names[pool]] = (spent + bucket.spent, reserved + bucket.reserved)
    return totals


def lose(
    client: redis.Redis, make: Callable[[], Budget], records: Records
) -> tuple[Budget, dict[str, tuple[int, int]]]:
    """Everything that can be lost, each once; return an engine that has seen it, and what the pools were."""
    budget = make()
    use(budget, 3, "alice")
    ends, refunds, lasts = (budget.reserve("$1", user="alice") for _ in range(3))
    saved = save(client)
    budget.reconcile(ends, usd="0.7")
    budget.refund(refunds)
    budget.reconcile(budget.reserve("$2", user="bob"), usd="1.5")  # bob's pool is lost whole
    budget.refund(budget.reserve("$2", user="bob"))
    use(budget, 2, "bob")
    budget.reserve("$3", user="carol")  # lost while open: charged
    drain_all(Books(budget.engine.store, "default", records))
    before = sums(budget)
    restore(client, saved)
    assert lasts.usd == 1
    return budget, before


def charged(before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """What must come of it: carol's open reservation is spent, and its slot is free."""
    wanted = {}
    for name, (spent, reserved) in before.items():
        amount = 3 * 10**9 if '"usd"' in name and ('"user"' not in name or "carol" in name) else 0
        amount = 1 if '"requests"' in name else amount
        if '"concurrent"' in name:
            wanted[name] = (spent, reserved - 1)
        else:
            wanted[name] = (spent + amount, reserved - amount)
    return wanted


def test_what_was_drained_is_restored(client: redis.Redis, make: Callable[[], Budget], records: Records) -> None:
    budget, before = lose(client, make, records)
    books = Books(budget.engine.store, "default", records)
    with pytest.raises(StoreUnavailable):
        drain_all(books)
    with pytest.raises(StoreUnavailable, match="lost"):
        budget.reserve("$1", user="alice")
    told = sum(entry.amounts[0] for entry in records.store.entries("default", 0))
    found = recover(books, ACTOR, budget.settings.limits)
    assert found is not None
    assert (found.lost, found.restored, found.policy) == (9, 9, 0)
    assert sum(entry.amounts[0] for entry in books.entries()) == told  # what was spent was told once
    assert sums(budget) == charged(before)
    done = books.rebuild()
    assert (done.changed, done.audit.faults) == ([], [])
    budget.reserve("$1", user="alice")
    fresh = make()
    fresh.reserve("$1", user="bob")
    assert books.verify().faults == []
    assert recover(books, ACTOR) is None


@pytest.mark.parametrize("steps", range(12))
def test_a_recovery_that_is_killed_runs_again_and_restores_each_once(
    client: redis.Redis, make: Callable[[], Budget], records: Records, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget, before = lose(client, make, records)
    books = Books(budget.engine.store, "default", records)
    with monkeypatch.context() as patch:
        count, call = iter(range(2 * steps)), books.call

        def dies(command: object) -> object:
            if next(count, None) is None:
                raise KeyboardInterrupt
            return call(command)  # type: ignore[arg-type]

        patch.setattr(books, "call", dies)
        with suppress(KeyboardInterrupt):
            recover(books, ACTOR, budget.settings.limits)
    again = Books(budget.engine.store, "default", records)
    recover(again, ACTOR, budget.settings.limits)
    assert sums(budget) == charged(before)
    assert again.verify().faults == []


def test_a_server_that_lost_everything(
    client: redis.Redis, make: Callable[[], Budget], records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = make()
    use(budget, 5, "alice")
    budget.reserve("$3", user="carol")
    books = Books(budget.engine.store, "default", records)
    drain_all(books)
    before = sums(budget)
    client.flushall()
    with pytest.raises(StoreUnavailable, match="run 'budget ledger rebuild'"):
        drain_all(books)
    found = recover(books, ACTOR, budget.settings.limits)
    assert found is not None
    assert (found.lost, found.restored) == (6, 6)
    wanted = {name: total for name, total in charged(before).items() if '"concurrent"' not in name}
    assert sums(budget) == wanted
    assert books.verify().faults == []
    drain_all(books)
    assert books.verify().faults == []


def test_nothing_lost_is_nothing_done(client: redis.Redis, make: Callable[[], Budget], records: Records) -> None:
    budget = make()
    use(budget, 5)
    books = Books(budget.engine.store, "default", records)
    assert recover(books, ACTOR) is None
    drain_all(books)
    use(budget, 5)
    before = list(books.entries())
    assert recover(books, ACTOR) is None
    assert list(books.entries()) == before


def test_without_records_the_fence_comes_down_and_says_how_much_is_gone(
    client: redis.Redis, make: Callable[[], Budget]
) -> None:
    budget = make()
    use(budget, 3)
    saved = save(client)
    use(budget, 4)
    restore(client, saved)
    with pytest.raises(StoreUnavailable, match="lost"):
        budget.reserve("$1", user="alice")
    books = Books(budget.engine.store, "default")
    found = recover(books, ACTOR)
    assert found is not None
    assert (found.lost, found.restored, found.gone >= 4) == (0, 0, True)
    budget.reserve("$1", user="alice")
    assert books.verify().faults == []
