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
from budget.errors import BudgetError, BudgetExceeded, ConfigError, ReservationConflict, StoreUnavailable
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
    with pytest.raises(BudgetError, match="nothing was moved") as raised:
        move(world.source, world.target, ACTOR)
    assert not isinstance(raised.value, StoreUnavailable)  # it answers well
    assert world.stores[1].last("default") == 0
    budget.reserve("$1")


def test_there_is_nowhere_to_go(world: World) -> None:
    with pytest.raises(ConfigError, match="the store that the account is in"):
        move(world.source, world.source, ACTOR)


def killed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that died when a part of the copy was made."""
    with monkeypatch.context() as patch:
        patch.setattr(world.stores[0], "ended", lambda account: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            move(world.source, world.target, ACTOR)


@pytest.fixture
def again(world: World, tmp_path: Path) -> Iterator[Books]:
    """The source by another name, in a program of its own."""
    url, store = world.stores[0].url, world.stores[0]  # a memory store has no name
    if url.startswith("sqlite"):
        (tmp_path / "link.db").symlink_to(tmp_path / "0.db")
        url = f"sqlite:///{tmp_path / 'link.db'}"
    elif url.startswith("redis"):
        url = url.replace("127.0.0.1", "localhost") if "127.0.0.1" in url else url.replace("localhost", "127.0.0.1")
    store = store if url == "memory://" else open_store(url)
    records = Records(f"sqlite:///{tmp_path / 'records2.db'}")
    yield Books(store, "default", records)
    store.close()
    records.close()


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_store_under_another_name_is_not_moved_onto_itself(
    world: World, again: Books, on: Callable[[Store], Budget], monkeypatch: pytest.MonkeyPatch, dead: bool, used: bool
) -> None:
    if used:
        budget = on(world.stores[0])
        budget.limits.set("$20/day", user="bob")
        budget.record(usd="1.5", user="bob")
    if dead:
        killed(world, monkeypatch)
    before = world.stores[0].snapshot("default"), world.source.call(LoadPolicy()).rows
    with pytest.raises(ConfigError, match="to: "):
        move(world.source, again, ACTOR)
    after = world.stores[0].snapshot("default"), world.source.call(LoadPolicy()).rows
    assert (after[0].buckets, after[1]) == (before[0].buckets, before[1])
    assert after[0].seq >= before[0].seq
    assert world.source.verify().faults == []
    if dead:
        assert move(world.source, world.target, ACTOR).audit.faults == []


def test_what_another_move_has_left_is_not_replaced(
    world: World, on: Callable[[Store], Budget], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on(world.stores[0]).record(usd="1.5", user="bob")
    killed(world, monkeypatch)
    with pytest.raises(ConfigError, match="part of a copy"):  # the wrong way round: the source is the only whole one
        move(world.target, world.source, ACTOR)
    other = Books(open_store(f"sqlite:///{tmp_path / 'other.db'}"), "default")
    on(other.store).record(usd="7", user="eve")
    with pytest.raises(ConfigError, match="has an account"):
        move(other, world.target, ACTOR)
    assert move(world.source, world.target, ACTOR).audit.faults == []
    other.store.close()


@pytest.mark.parametrize("late", [False, True])
def test_what_was_moved_away_gives_no_second_copy(
    world: World, on: Callable[[Store], Budget], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, late: bool
) -> None:
    on(world.stores[0]).record(usd="1.5", user="bob")
    other = Books(open_store(f"sqlite:///{tmp_path / 'other.db'}"), "default")
    if late:  # killed when the copy was whole, before it was told so
        call = world.target.call

        def dies(command: Any) -> Any:
            return 1 / 0 if "moved_from" in getattr(command, "detail", {}) else call(command)

        with monkeypatch.context() as patch:
            patch.setattr(world.target, "call", dies)
            with pytest.raises(ZeroDivisionError):
                move(world.source, world.target, ACTOR)
    else:
        move(world.source, world.target, ACTOR)
    with pytest.raises(ConfigError, match="was moved away"):
        move(world.source, other, ACTOR)
    assert other.store.last("default") == 0
    if late:
        assert move(world.source, world.target, ACTOR).audit.faults == []
    with pytest.raises(ConfigError, match="has an account"):
        move(world.source, world.target, ACTOR)
    on(world.stores[1]).reserve("$1", user="bob")
    other.store.close()


def test_everybody_stays_frozen_over_a_move_that_was_killed(
    world: World, on: Callable[[Store], Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(world.stores[0]).freeze(everybody=True)
    killed(world, monkeypatch)
    move(world.source, world.target, ACTOR)
    with pytest.raises(BudgetExceeded, match=r"(?i)frozen"):
        on(world.stores[1]).reserve("$1", user="bob")
    on(world.stores[1]).unfreeze(everybody=True)
    on(world.stores[1]).reserve("$1", user="bob")
