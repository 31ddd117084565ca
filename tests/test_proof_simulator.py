"""Seeded worlds: invariants after every step, everything ends when the faults stop, and a seed is a world."""

from __future__ import annotations

from pathlib import Path

import pytest
from proof.invariants import Violation
from proof.simclients import Message
from proof.simulator import World, simulate

from budget.commands import Reconcile, Record, Refund

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
