"""The contract of a store as scenario tables (`scenarios/*.txt`), run on every store."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runner import Runner, number, scenarios

from budget.money import MAX
from budget.stores.base import Store

SCENARIOS = scenarios()


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, store: Store) -> None:
    Runner(store).run(SCENARIOS[name])


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 40


def test_numbers() -> None:
    assert [number(text) for text in ("5", "MAX", "MAX-1", "10+1")] == [5, MAX, MAX - 1, 11]


@pytest.mark.parametrize(
    "line",
    [
        "reserve r1 5 a -> refused a",
        "reserve r1 11 a -> reserved",
        "status a -> a 0+0",
        "reserve r1 5 a",
        "last -> reserved 0",
    ],
)
def test_a_wrong_table_fails(line: str, store: Store) -> None:
    with pytest.raises(AssertionError, match="line 2"):
        Runner(store).run([(1, "pool a 10"), (2, line)])
