"""Moving an account between stores of each kind: nothing is lost, nothing twice, and never two that admit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import STORES, empty_redis, redis_server

from budget.books.books import Books
from budget.books.moving import move
from budget.commands import LoadPolicy, Sweep
from budget.engine import Budget
from budget.errors import BudgetExceeded, ConfigError, ReservationConflict, StoreUnavailable
from budget.stores.base import Store, open_store
from budget.stores.records import Records

ACTOR = {"actor": "ops", "reason": "growth"}
PAIRS = [(a, b) for a, b in itertools.product(STORES, STORES)]


class World:
    """Two stores, their books, and budgets on them."""

    def __init__(self, folder: Path, kinds: tuple[str, str]):
        self.urls = [self._url(folder, kind, i) for i, kind in enumerate(kinds)]
        self.stores: list[Store] = [open_store(url) for url in self.urls]
        self.records = [Records(f"sqlite:///{folder / f'records{i}.db'}") for i in range(2)]
        pairs = zip(self.stores, self.records, strict=True)
        self.source, self.target = (Books(store, "default", records) for store, records in pairs)

    @staticmethod
    def _url(folder: Path, kind: str, which: int) -> str:
        if kind == "redis":
            url = redis_server().url if which else empty_redis()
            return f"{url[:-1]}{which}"
        return f"sqlite:///{folder / f'{which}.db'}" if kind == "sqlite" else "memory://"

    def close(self) -> None:
        for each in (*self.stores, *self.records):
            each.close()


@pytest.fixture(params=PAIRS, ids="-".join)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if "redis" in request.param:
        empty_redis()
        import redis

        with redis.Redis(port=int(redis_server().port), db=1) as client:
            client.flushall()
    made = World(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def on(make_budget: Callable[..., Budget]) -> Callable[[Store], Budget]:
    """A budget on a store that is open: the memory store is private to its object."""

    def make(store: Store) -> Budget:
        budget = make_budget("memory://", limits=["$500/day", "per=user $50/hour", "8 concurrent", "$70/1h rolling"])
        engine: Any = budget.engine
        engine.store = store
        engine.books = Books(store, "default")
        engine.outage._store = store
        return budget

    return make


def test_everything_is_there_and_goes_on(world: World, on: Callable[[Store], Budget]) -> None:
    budget = on(world.stores[0])
    budget.limits.set("$20/day", user="bob")
    budget.freeze(user="mallory")
    ended = budget.reserve("$0.5", user="alice", id="a" * 32)
    budget.reconcile(ended, usd="0.25")
    held = budget.reserve("$1", user="bob", lease=500)
    budget.record(usd="0.125", user="carol")
    entries = list(world.source.entries())
    before = world.stores[0].snapshot("default")
    done = move(world.source, world.target, ACTOR)
    assert (done.reservations, done.audit.faults) == (3, [])
    kept = list(world.target.entries())[: len(entries)]
    assert [(e.kind, e.reservation, e.amounts, e.scope) for e in kept] == [
        (e.kind, e.reservation, e.amounts, e.scope) for e in entries
    ]
    after = world.stores[1].snapshot("default")
    assert (after.buckets, after.names) == (before.buckets, before.names)
    with pytest.raises(BudgetExceeded, match=r"(?i)frozen"):
        on(world.stores[0]).reserve("$1", user="bob")
    there = on(world.stores[1])
    with pytest.raises(BudgetExceeded, match=r"(?i)frozen"):
        there.reserve("$1", user="mallory")
    with pytest.raises(BudgetExceeded, match=r"\$20/day"):
        there.reserve("$19.5", user="bob")
    assert there.reserve("$0.5", user="alice", id="a" * 32).state == "reconciled"  # its first answer
    with pytest.raises(ReservationConflict):
        there.reconcile(ended, usd="0.3")
    [open_one] = there.engine.store.reservations("default")
    assert (open_one.id, open_one.lease_end, open_one.shares) == (held.id, held.lease_end, held.shares)
    there.reconcile(held.id, usd="0.75")
    there.reserve("$19", user="bob")
    assert world.target.verify().faults == []


def test_a_lease_that_was_moved_ends(world: World, on: Callable[[Store], Budget]) -> None:
    held = on(world.stores[0]).reserve("$1", user="bob", lease=2)
    move(world.source, world.target, ACTOR)
    until = time.monotonic() + 60
    while world.stores[1].reservations("default") and time.monotonic() < until:
        time.sleep(0.1)
        world.target.call(Sweep())
    [ended] = [known for known in world.stores[1].ended("default") if known.id == held.id]
    assert (ended.state, ended.charged) == ("expired", held.amounts)
    assert world.target.verify().faults == []


def test_an_end_that_comes_in_meanwhile_is_moved_too(
    world: World, on: Callable[[Store], Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = on(world.stores[0])
    held = budget.reserve("$1", user="bob")
    ended = world.stores[0].ended
    once = iter([True])

    def overtaken(account: str) -> Any:
        if next(once, False):
            budget.reconcile(held, usd="0.5")
        return ended(account)

    monkeypatch.setattr(world.stores[0], "ended", overtaken)
    done = move(world.source, world.target, ACTOR)
    assert done.audit.faults == []
    assert list(world.stores[1].reservations("default")) == []


def test_an_account_that_is_there_is_not_replaced(world: World, on: Callable[[Store], Budget]) -> None:
    on(world.stores[0]).record(usd="1")
    on(world.stores[1]).record(usd="2")
    with pytest.raises(ConfigError, match="has an account"):
        move(world.source, world.target, ACTOR)
    on(world.stores[0]).reserve("$1")  # nothing was frozen


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7])
def test_a_move_that_was_killed_is_made_again(
    world: World, on: Callable[[Store], Budget], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = on(world.stores[0])
    budget.reconcile(budget.reserve("$1", user="bob"), usd="0.5")
    held = budget.reserve("$1", user="bob")
    before = world.stores[0].snapshot("default").buckets
    with monkeypatch.context() as patch:
        count, call = iter(range(steps)), world.target.call

        def dies(command: Any) -> Any:
            if next(count, None) is None:
                raise KeyboardInterrupt
            return call(command)

        patch.setattr(world.target, "call", dies)
        with suppress(KeyboardInterrupt):
            move(world.source, world.target, ACTOR)
    admitted = 0
    for store in world.stores:
        if not store.call("default", LoadPolicy(), 5.0).version:
            continue  # an account that is not there admits for nobody
        try:
            on(store).check("$1", user="zoe")
            on(store).reserve("$0", user="zoe")
            admitted += 1
        except (BudgetExceeded, StoreUnavailable):
            continue
    assert admitted <= 1
    if admitted == 0:
        assert move(world.source, world.target, ACTOR).audit.faults == []
        assert world.stores[1].snapshot("default").buckets == before
    assert held.id in [known.id for known in world.stores[1].reservations("default")]
    assert world.target.verify().faults == []


def test_a_damaged_ledger_is_not_moved(
    world: World, on: Callable[[Store], Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = on(world.stores[0])
    for _ in range(5):
        budget.record(usd="1")
    lines = list(world.stores[0].lines("default", 0))
    monkeypatch.setattr(world.stores[0], "lines", lambda account, after: iter([*lines[:2], *lines[3:]]))
    with pytest.raises(StoreUnavailable, match="nothing was moved"):
        move(world.source, world.target, ACTOR)
    assert world.stores[1].last("default") == 0
    budget.reserve("$1")


def test_there_is_nowhere_to_go(world: World) -> None:
    with pytest.raises(ConfigError, match="the store that the account is in"):
        move(world.source, world.source, ACTOR)
