"""Seeded worlds: invariants after every step, everything ends when the faults stop, and a seed is a world."""

from __future__ import annotations

from pathlib import Path

import pytest
from proof.invariants import Books, Violation
from proof.simclients import Client, Message
from proof.simulator import World, simulate

from budget import pool
from budget.commands import Draw, Reconcile, Record, Refund, Reserve, Status
from budget.outage.breaker import IN_A_ROW
from budget.stores.memory import MemoryStore
from budget.window import FOREVER

SEEDS, STEPS = 24, 700


@pytest.mark.parametrize("part", range(4))
def test_worlds_in_memory(part: int) -> None:
    faults = 0
    for seed in range(part, SEEDS, 4):
        world = simulate(seed, STEPS)
        faults += sum(world.faults.values())
        assert world.books.counts["reserved"] > 5
    assert faults > STEPS // 10


def test_worlds_on_the_sqlite_code(tmp_path: Path) -> None:
    for seed in range(100, 104):
        assert simulate(seed, 300, tmp_path).faults


def test_every_fault_and_every_kind_of_entry_comes_up() -> None:
    worlds = [simulate(seed, STEPS) for seed in range(200, 204)]
    faults = {kind for world in worlds for kind in world.faults}
    assert faults == {name.removeprefix("f_") for name in vars(World) if name.startswith("f_")}
    kinds = {kind for world in worlds for kind in world.books.counts}
    assert {"reserved", "reconciled", "refunded", "expired", "refused", "limit_set", "limit_unset", "frozen"} <= kinds


@pytest.mark.parametrize("seed", [7, 8])
def test_a_seed_is_a_world(seed: int) -> None:
    first, second = simulate(seed, STEPS), simulate(seed, STEPS)
    assert (first.books.head, first.trace, first.counts) == (second.books.head, second.trace, second.counts)
    assert simulate(seed + 1, STEPS).books.head != first.books.head


def test_a_seed_is_a_world_on_the_sqlite_code(tmp_path: Path) -> None:
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(simulate(9, 300, tmp_path / name))
    assert (made[0].books.head, made[0].trace) == (made[1].books.head, made[1].trace)


def test_a_violation_says_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is carried out twice under two ids is found, and can be seen again."""
    carry_out = World.carry_out

    def twice(world: World, commands: list, client: object) -> list:  # type: ignore[type-arg]
        for command in commands:
            if isinstance(command, Reconcile | Record):
                command.actual = tuple(2 * (amount or 0) for amount in command.actual)
                world.books.sums.clear()
        return carry_out(world, commands, client)  # type: ignore[arg-type]

    monkeypatch.setattr(World, "carry_out", twice)
    with pytest.raises(Violation, match=r"seed 3, step \d+: .*\nagain: python -m tests.proof simulate --seed 3 "):
        simulate(3, STEPS)


def test_a_lost_refund_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last check of a world can fail: what was acknowledged must be there."""
    deliver = World.deliver

    def lying(world: World, group: list[Message], lose_answer: bool = False) -> None:
        for message in group:
            if isinstance(message.command, Refund):
                world.told[message.command.id[::-1]] = "refund 0"
        deliver(world, group, lose_answer)

    monkeypatch.setattr(World, "deliver", lying)
    with pytest.raises(Violation, match=r"I15: .* was acknowledged, and is not in the ledger"):
        simulate(4, STEPS)


def test_an_operator_is_refused_where_the_store_is_given_up_on() -> None:
    """An open breaker is no violation: it says so to whoever freezes, or changes a limit, through this client."""
    world = World(1)
    with world.reality():
        world.all = [Client(world, 0)]
        for _ in range(IN_A_ROW):
            world.all[0].outage.breaker.failed(world.mono)
        assert not world.f_freeze()
        assert not world.f_limit()
        assert world.store.last("default") == 0
        world.come_to_an_end()  # which needs it closed again
        assert not world.all[0].outage.breaker.open


@pytest.mark.parametrize(("early", "lease_us"), [(0, 60), (1, 60), (0, None)])
def test_an_end_comes_again_only_after_its_id_may_be_forgotten(
    monkeypatch: pytest.MonkeyPatch, early: int, lease_us: int | None
) -> None:
    """An hour and two leases after the end, and not a microsecond earlier; never, where the lease is not known."""
    hour, id, actual = 3600 * 10**6, f"{1:032x}", (5, None, None, None, None)
    monkeypatch.setitem(pool._KEPT, "reconciled", hour - early)
    store, draws = MemoryStore(), [Draw("pool", "pool", 0, 100, 7, 0, FOREVER, 0)]
    end = Reconcile(id, actual, {}, draws=draws, made=1000)
    store.call("default", Reserve(id, id, (7, *actual[1:]), draws, 0, 60, {}, {}), 1.0, 1000)
    assert store.call("default", end, 1.0, 1001).status == "reconciled"
    again = 1001 + hour + 2 * 60 - early
    store.call("default", Status(()), 1.0, again - 1)
    assert store.call("default", end, 1.0, again - 1).status == "repeated"
    store.call("default", Status(()), 1.0, again)
    assert store.call("default", end, 1.0, again).status == "reconciled"
    books = Books(leases={} if lease_us is None else {id: lease_us})
    if not early and lease_us is not None:
        books.observe(store)
        assert books.ended == {id: "late reconciled"}
        return
    with pytest.raises(Violation, match=r"^I6 at entry 3 .*: it was reconciled"):
        books.observe(store)
