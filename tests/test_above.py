"""Limits of another account that bind as well: never over-admitted in either, and booked in both."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import books

from budget import Budget, BudgetExceeded, ReservationConflict
from budget.cli import main
from budget.errors import ConfigError
from budget.stores.memory import MemoryStore
from budget.testing import Sandbox


@pytest.fixture
def teams(shared_url: str, make_budget: Callable[..., Budget]) -> Callable[..., Budget]:
    top = make_budget(shared_url, account="company")
    top.limits.set("$1/day")

    def make(account: str, limit: str, **options: Any) -> Budget:
        budget = make_budget(shared_url, account=account, above="company", **options)
        budget.limits.set(limit)
        return budget

    return make


@pytest.fixture
def everywhere(store_url: str, make_budget: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The same on each kind of store; budgets on memory have one here, which nobody closes."""
    if store_url == "memory://":
        one = MemoryStore()
        monkeypatch.setattr(one, "close", lambda: None)
        monkeypatch.setattr("budget.core.open_store", lambda url, clock: one)
    top = make_budget(store_url, account="company", store_timeout=60)
    top.limits.set("$1/day")

    def make(account: str, limit: str = "$10/day") -> Budget:
        budget = make_budget(store_url, account=account, above="company", store_timeout=60)
        budget.limits.set(limit)
        return budget

    make.top = top  # type: ignore[attr-defined]
    return make


def held(budget: Budget) -> list[str]:
    """What is reserved: here, and above."""
    return [str(pool.reserved) for pool in budget.status()]


def waits_above(budget: Budget) -> None:
    assert budget.engine.above is not None
    line, until = budget.engine.above.verbs.line, time.monotonic() + 60
    while not any(not place.trying for place in list(line._places)):
        assert time.monotonic() < until, "nobody waits above"
        time.sleep(0.001)


@pytest.mark.parametrize("how", ["blocking", "awaited", "on_short"])
def test_a_call_waits_for_room_above(everywhere: Any, how: str) -> None:
    """With its money set aside here; then it is admitted in both, and nobody waits any more."""
    red, blue = everywhere("red"), everywhere("blue")
    first = red.reserve("$0.80")
    with ThreadPoolExecutor(1) as pool:
        if how == "blocking":
            answer = pool.submit(blue.reserve, "$0.50", wait=600)
        elif how == "awaited":
            answer = pool.submit(lambda: asyncio.run(_awaited(blue)))
        else:
            answer = pool.submit(_on_short, blue)
        waits_above(blue)
        assert held(blue) == ["0.5", "0.8"]
        red.refund(first)
        admitted = answer.result(60)
    assert (admitted.state, held(red), held(blue)) == ("open", ["0", "0.5"], ["0.5", "0.5"])
    blue.reconcile(admitted, usd="0.1")
    assert [str(pool.spent) for pool in blue.status()] == ["0.1", "0.1"]
    for line in (blue.engine.verbs.line, blue.engine.above.verbs.line):
        assert not line._places
        assert not line._queues


async def _awaited(budget: Budget) -> Any:
    return await budget.aio.reserve("$0.50", wait=600)


def _on_short(budget: Budget) -> Any:
    with budget.run(on_short="wait:600s"):
        return budget.reserve("$0.50")


def test_a_wait_above_that_ends_otherwise_leaves_nothing_here(everywhere: Any) -> None:
    red, blue = everywhere("red"), everywhere("blue")
    red.reserve("$0.80")
    with pytest.raises(BudgetExceeded) as refused:
        blue.reserve("$0.50", wait=0.01)
    assert str(refused.value.limit) == "$1/day"
    with pytest.raises(BudgetExceeded):
        blue.reserve("$1.50", wait=600)  # which never fits
    assert held(blue) == ["0", "0.8"]

    async def cancelled() -> None:
        task = asyncio.create_task(_awaited(blue))
        await asyncio.to_thread(waits_above, blue)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        until = time.monotonic() + 60
        while await asyncio.to_thread(held, blue) != ["0", "0.8"]:
            assert time.monotonic() < until, "what was set aside here was not given back"

    asyncio.run(cancelled())
    assert not blue.engine.above.verbs.line._places


def test_an_id_that_was_given_back_here_admits_nothing(everywhere: Any) -> None:
    red, id = everywhere("red"), "5" * 32
    with pytest.raises(BudgetExceeded):
        red.reserve("$1.50", id=id)
    everywhere.top.limits.set("$5/day")
    for _ in range(2):
        with pytest.raises(ReservationConflict, match="use another one"):
            red.reserve("$1.50", id=id)
    assert held(red) == ["0", "0"]
    assert red.reserve("$1.50").state == "open"


def test_status_shows_what_is_above(everywhere: Any) -> None:
    red = everywhere("red", "per=user $10/day")
    everywhere.top.freeze(team="x")
    red.record(usd="0.25", user="ann")
    here, above = red.status(user="ann")
    assert (here.account, str(here.spent), above.account, str(above.spent)) == (None, "0.25", "company", "0.25")
    assert "account" not in here.to_dict()
    assert above.to_dict()["account"] == "company"
    assert [pool.account for pool in everywhere.top.status()] == [None]


def test_the_command_shows_what_is_above(sqlite_url: str, make_budget: Callable[..., Budget]) -> None:
    top = make_budget(sqlite_url, account="company")
    top.limits.set("$1/day")
    top.freeze(team="x")
    environment = {"BUDGET_STORE": sqlite_url, "BUDGET_ABOVE": "company"}

    def status(*words: str) -> str:
        done = CliRunner().invoke(main, ["status", *words], env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    CliRunner().invoke(main, ["set", "$5/day"], env=environment)
    rows = [line.split("\t")[:2] for line in status().splitlines()[1:]]
    assert rows == [["company: team=x", "FROZEN"], ["everybody", "$5/day"], ["company: everybody", "$1/day"]]
    assert [pool.get("account") for pool in json.loads(status("--json"))] == [None, "company"]
    assert len(status("--account", "company").splitlines()) == 3  # who names that one looks at itself


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


MESSAGES = [{"role": "user", "content": "hi"}]
DEAR, CHEAP = "claude-sonnet-4-6", "claude-3-haiku-20240307"


@pytest.mark.parametrize("own", ["$10/day", "$0.02/day", "$0.008/day"])
def test_what_a_refusal_advises_fits_in_both(everywhere: Any, own: str) -> None:
    everywhere.top.limits.set("$0.01/day")
    red, asked = everywhere("red", own), {"model": DEAR, "messages": MESSAGES}
    with pytest.raises(BudgetExceeded) as refused:
        red.reserve(**asked, max_tokens=4000)
    error = refused.value
    assert str(error.limit) == ("$0.01/day" if own == "$10/day" else own)
    assert error.fits(CHEAP)
    assert not error.fits("claude-opus-4-6")
    assert error.max_tokens is not None
    red.refund(red.reserve(**asked, max_tokens=error.max_tokens))
    with pytest.raises(BudgetExceeded):
        red.reserve(**asked, max_tokens=error.max_tokens + 1)
    assert held(red) == ["0", "0"]


def test_a_refusal_here_advises_by_what_is_above(everywhere: Any) -> None:
    everywhere.top.limits.set("$0.01/day")
    red, asked = everywhere("red", "$0.02/day"), {"model": DEAR, "messages": MESSAGES, "max_tokens": 4000}
    with pytest.raises(BudgetExceeded) as refused:
        red.reserve(**asked)
    assert [str(each.limit) for each in refused.value.refusals] == ["$0.02/day"]
    assert refused.value.max_tokens is not None
    assert red.check(model=DEAR, messages=MESSAGES, max_tokens=refused.value.max_tokens)
    assert asyncio.run(_refused(red, asked)).max_tokens == refused.value.max_tokens
    everywhere.top.freeze(everybody=True)
    with pytest.raises(BudgetExceeded) as refused:
        red.reserve(**asked)
    assert refused.value.max_tokens is None
    assert not refused.value.fits(CHEAP)


async def _refused(budget: Budget, asked: dict[str, Any]) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as refused:
        await budget.aio.reserve(**asked)
    return refused.value


def test_a_check_tells_the_shadows_of_both(everywhere: Any) -> None:
    everywhere.top.limits.set("$0.10/day", mode="shadow")
    red = everywhere("red")
    red.limits.set("$0.20/day", mode="shadow")
    decision = red.check("$0.50")
    assert decision
    assert [str(each.limit.rule) for each in decision.shadows] == ["$0.2/day", "$0.1/day"]


def test_what_is_set_aside_more_takes_no_further_slot_above(everywhere: Any) -> None:
    everywhere.top.limits.set("1 concurrent")
    red = everywhere("red")
    with red.reservation("$0.10", tokens=1) as call:
        call.extend((100_000_000, 1, 1, 1, 0), (200_000_000, 2, 2, 2, 1))
        assert held(red)[0] == "0.2"
    assert [str(pool.reserved) for pool in red.status()] == ["0", "0", "0"]


def test_nobody_can_set_a_limit_above_what_is_in_memory(make_budget: Callable[..., Budget]) -> None:
    with pytest.raises(ConfigError, match=r"above: a store in memory is private"):
        make_budget("memory://", above="company")
    with Sandbox(above="company", limits=["$1/day"]) as sandbox:  # a file may say so, which is not of the test
        assert sandbox.reserve("$0.50").state == "open"
