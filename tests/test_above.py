"""Limits of another account that bind as well: never over-admitted in either, and booked in both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import books

from budget import Budget, BudgetExceeded
from budget.errors import ConfigError


@pytest.fixture
def teams(shared_url: str, make_budget: Callable[..., Budget]) -> Callable[..., Budget]:
    top = make_budget(shared_url, account="company")
    top.limits.set("$1/day")

    def make(account: str, limit: str, **options: Any) -> Budget:
        budget = make_budget(shared_url, account=account, above="company", **options)
        budget.limits.set(limit)
        return budget

    return make


def sums(budget: Budget, account: str | None = None) -> tuple[str, str]:
    other = Budget(budget.settings.store, account=account or budget.settings.account)
    try:
        pool = other.status()[0]
        assert books(other.engine.store, other.settings.account).faults == []
        return str(pool.spent), str(pool.reserved)
    finally:
        other.close()


@pytest.mark.parametrize("options", [{}, {"slices": "$0.05"}])
def test_accounts_share_what_is_above_them(teams: Callable[..., Budget], options: dict[str, Any]) -> None:
    budgets = [teams(name, "$10/day", **options) for name in ("red", "blue", "green")]
    admitted: list[tuple[Budget, Any]] = []

    def work(budget: Budget) -> None:
        for _ in range(60):
            try:
                admitted.append((budget, budget.reserve("$0.01", user="u")))
            except BudgetExceeded as error:
                assert str(error.limit) == "$1/day"  # noqa: PT017

    threads = [threading.Thread(target=work, args=(budget,)) for budget in budgets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 100 if not options else 60 <= len(admitted) <= 100
    for i, (budget, reservation) in enumerate(admitted):
        if i % 2:
            budget.refund(reservation)
        else:
            budget.reconcile(reservation, usd="0.004")
    for budget in budgets:
        budget.close()
    booked = -(-len(admitted) // 2) * 4
    assert sums(budgets[0], "company") == (f"{booked / 1000:g}", "0")


def test_what_is_refused_above_leaves_nothing_here(teams: Callable[..., Budget]) -> None:
    budget = teams("red", "$10/day")
    with pytest.raises(BudgetExceeded) as refused:
        budget.reserve("$1.50")
    assert str(refused.value.limit) == "$1/day"
    assert not budget.check("$1.50")
    assert budget.check("$0.50")
    assert sums(budget) == ("0", "0")


def test_what_is_refused_here_is_not_asked_above(teams: Callable[..., Budget]) -> None:
    budget = teams("red", "$0.10/day")
    with pytest.raises(BudgetExceeded) as refused:
        budget.reserve("$0.50")
    assert str(refused.value.limit) == "$0.1/day"
    assert sums(budget, "company") == ("0", "0")


def test_blocks_and_records_are_booked_in_both(teams: Callable[..., Budget]) -> None:
    budget = teams("red", "$10/day")
    with budget.reservation("$0.20", user="u") as reserved:
        reserved.reconcile(usd="0.05")
    with budget.reservation("$0.20", user="u"):
        pass
    budget.record(usd="0.01", user="u")
    dropped = budget.reservation("$0.03").begin()
    del dropped
    budget.close()
    assert sums(budget) == sums(budget, "company") == ("0.29", "0")


@pytest.mark.parametrize("wrong", ["default", "a b", ""])
def test_names_that_cannot_be(wrong: str) -> None:
    with pytest.raises(ConfigError, match="above"):
        Budget("memory://", above=wrong)
