"""`import budget` costs next to nothing, and its public names are those it says."""

from __future__ import annotations

import importlib

import pytest
from conftest import python

import budget

HEAVY = ("asyncio", "pydantic", "redis", "click", "rich", "tiktoken", "anthropic", "openai", "sqlite3", "httpx")
SHOW = "import sys; {}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"


def loaded(statement: str) -> set[str]:
    return set(python(SHOW.format(statement)).stdout.split())


def test_the_import_is_light() -> None:
    """`typing` and what that loads, and nothing else."""
    after = loaded("import budget")
    assert "budget" in after
    assert after - loaded("import typing") <= {"budget", "__future__"}


@pytest.mark.parametrize("name", ["Budget", "budgeted", "Limit", "BudgetExceeded", "Usage", "Estimate"])
def test_a_name_loads_no_more_than_it_needs(name: str) -> None:
    after = loaded(f"import budget; budget.{name}")
    assert not after & (set(HEAVY) - {"sqlite3"})


def test_a_guarded_call_in_memory_loads_no_framework() -> None:
    code = "import budget; b = budget.Budget('memory://', limits=['$1/day']); b.refund(b.reserve('$0.5')); b.close()"
    assert not loaded(code) & set(HEAVY)


def test_star_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from budget import *", names)
    names.pop("__builtins__")
    assert names.keys() == set(budget.__all__)
    assert len(budget.__all__) == len(set(budget.__all__))


def test_dir_and_homes_agree() -> None:
    assert set(budget.__all__) <= set(dir(budget))
    for name, home in budget._HOMES.items():
        module = importlib.import_module(f"budget.{home}")
        assert getattr(budget, name) is getattr(module, name)
        assert name in module.__all__


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="Bugdet"):
        budget.Bugdet  # noqa: B018
