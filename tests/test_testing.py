"""`budget.testing`: what users' own tests are given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anthropic
import pytest
from conftest import ROOT, python

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, Limit, RunStopped, budgeted
from budget.demo.provider import Provider
from budget.testing import Clock, Sandbox, assert_no_leaks

BERLIN = "Europe/Berlin"
EVENING = datetime(2026, 11, 21, 22, 59, 59, tzinfo=UTC)  # one second before midnight in Berlin
MESSAGES = [{"role": "user", "content": "hello there"}]
REQUEST: dict[str, Any] = {"model": "claude-sonnet-4-6", "max_tokens": 50, "messages": MESSAGES}


def client_of(budget: Budget, provider: Provider) -> anthropic.Anthropic:
    http = anthropic.DefaultHttpxClient(verify=False)
    return budget.wrap(anthropic.Anthropic(base_url=provider.url, api_key="key", max_retries=0, http_client=http))


# The clock.


def test_a_clock_stands_still_until_it_is_moved() -> None:
    clock = Clock(EVENING)
    assert clock.now == EVENING == clock.now
    clock.move("1s")
    clock.move(timedelta(minutes=2))
    assert clock.now == EVENING + timedelta(seconds=121)
    clock.move_to(EVENING + timedelta(days=1))
    assert clock() == int((EVENING + timedelta(days=1)).timestamp()) * 1_000_000
    assert repr(clock) == "Clock(2026-11-22T22:59:59+00:00)"
    assert abs(Clock().now - datetime.now(UTC)) < timedelta(minutes=5)


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (lambda clock: clock.move(timedelta(seconds=-1)), ConfigError, "by: .* back in time"),
        (lambda clock: clock.move_to(EVENING - timedelta(seconds=1)), ConfigError, "at: .* is over"),
        (lambda clock: clock.move("soon"), ConfigError, "by: 'soon'"),
        (lambda clock: clock.move(5), ArgumentTypeError, "by: int"),
        (lambda clock: clock.move_to("2026-11-22"), ArgumentTypeError, "at: str"),
        (lambda clock: clock.move_to(datetime(2027, 1, 1)), ConfigError, "without a time zone"),  # noqa: DTZ001
        (lambda clock: Clock(datetime(2027, 1, 1)), ConfigError, "without a time zone"),  # noqa: DTZ001
        (lambda clock: Sandbox(clock=5), ArgumentTypeError, "clock: int"),
        (lambda clock: Sandbox(store="memory://"), ConfigError, "store: a sandbox is in memory"),
    ],
)
def test_a_clock_that_cannot_be(wrong: Callable[[Clock], object], error: type[Exception], says: str) -> None:
    clock = Clock(EVENING)
    with pytest.raises(error, match=says):
        wrong(clock)
    assert clock.now == EVENING


def test_windows_follow_the_clock() -> None:
    limits = [Limit("$1/day", tz=BERLIN), "$3/2h rolling"]
    with Sandbox(limits=limits, clock=Clock(EVENING)) as budget:
        budget.record(usd="1")
        with pytest.raises(BudgetExceeded) as caught:
            budget.reserve("$0.5")
        assert caught.value.resets_at == EVENING + timedelta(seconds=1)
        budget.clock.move("1s")
        budget.record(usd="1")
        assert [str(pool.spent) for pool in budget.status()] == ["1", "2"]
        budget.clock.move("1d")
        assert [str(pool.spent) for pool in budget.status()] == ["0", "0"]
        day = budget.status()[0]
        midnight = EVENING + timedelta(days=1, seconds=1)
        assert (day.since, day.resets_at) == (midnight, midnight + timedelta(days=1))
        assert [entry.at for entry in budget.entries()][-1] == EVENING + timedelta(seconds=1)
        assert_no_leaks(budget)


def test_a_limit_ends_by_the_clock_and_what_held_before_holds_at_once() -> None:
    with Sandbox() as budget:
        budget.limits.set("$1/lifetime")
        budget.limits.set("$5/lifetime", until=budget.clock.now + timedelta(hours=1))
        budget.refund(budget.reserve("$3"))
        budget.clock.move("2h")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$3")


def test_a_lease_ends_by_the_clock() -> None:
    with Sandbox(limits=["$1/day"]) as budget:
        held = budget.reserve("$0.4", lease=60)
        budget.clock.move("59s")
        assert str(budget.status()[0].reserved) == "0.4"
        budget.clock.move("2s")
        (pool,) = budget.status()
        assert (str(pool.spent), pool.reserved) == ("0.4", 0)
        budget.refund(held)
        assert budget.status()[0].spent == 0


def test_a_deadline_follows_the_clock() -> None:
    with Sandbox() as budget, budget.run(deadline=60):
        budget.clock.move("59s")
        budget.refund(budget.reserve("$0.1"))
        budget.clock.move("2s")
        with pytest.raises(RunStopped):
            budget.reserve("$0.1")


def test_a_sandbox_is_private() -> None:
    with Sandbox(limits=["$1/day"]) as one, Sandbox(limits=["$1/day"]) as other:
        one.record(usd="1")
        assert other.reserve("$1").state == "open"
        with pytest.raises(AssertionError):
            assert_no_leaks(other)


# Leaks.


def test_what_is_open_is_a_leak() -> None:
    with Sandbox(limits=["$1/day"]) as budget:
        assert_no_leaks(budget)
        held = budget.reserve("$0.4", user="alice")
        budget.clock.move("2s")
        with pytest.raises(AssertionError) as caught:
            assert_no_leaks(budget)
        assert str(caught.value) == f"reservations are still open (1):\n  {held.id}: $0.4 (user=alice), 2.0 s old"
        budget.refund(held)
        assert_no_leaks(budget)


def test_a_pool_that_its_entries_do_not_explain_is_a_leak() -> None:
    with Sandbox(limits=["$1/day"]) as budget:
        budget.record(usd="0.3")
        state = budget.engine.store._states["default"]
        (pool,) = state.last
        state.put_bucket(pool, state.last[pool].at(1, 0))
        with pytest.raises(AssertionError, match="entries sum to 300000000 spent, the pool says 1"):
            assert_no_leaks(budget)


def test_no_leaks_on_each_store(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=["$1/day"])
    held = budget.reserve("$0.4")
    with pytest.raises(AssertionError, match=held.id):
        assert_no_leaks(budget)
    budget.reconcile(held, usd="0.3")
    assert_no_leaks(budget)


def test_a_dropped_stream_is_no_leak() -> None:
    with Provider() as provider, Sandbox(limits=["$1/day"]) as budget, client_of(budget, provider) as client:
        stream: Any = client.messages.create(**REQUEST, stream=True)
        next(stream)
        with pytest.raises(AssertionError, match=r"\$0\.00"):
            assert_no_leaks(budget)
        stream.itself = stream
        del stream
        assert_no_leaks(budget)


@pytest.mark.parametrize("kind", ["batch", "background"])
def test_a_late_answer_is_no_leak_and_a_stream_that_is_left_beside_it_is_one(kind: str) -> None:
    with Provider() as provider, Sandbox(limits=["$1/day"]) as budget, client_of(budget, provider) as client:
        if kind == "batch":
            job = client.messages.batches.create(requests=[{"custom_id": "a", "params": REQUEST}])
        else:
            openai = pytest.importorskip("openai")
            other = budget.wrap(openai.OpenAI(base_url=f"{provider.url}/v1", api_key="key", max_retries=0))
            asked = {"model": "gpt-4.1-mini", "max_output_tokens": 50, "input": "hello", "background": True}
            job = other.responses.create(**asked)
        (late,) = assert_no_leaks(budget)
        assert late.usd == budget.status()[0].reserved > 0
        stream: Any = client.messages.create(**REQUEST, stream=True)
        next(stream)
        with pytest.raises(AssertionError, match=r"still open \(1\):\n") as caught:
            assert_no_leaks(budget)
        assert late.id not in str(caught.value)
        stream.close()
        assert assert_no_leaks(budget) == [late]
        provider.wait()
        for _ in range(9):
            if kind == "batch" and client.messages.batches.retrieve(job.id).processing_status == "ended":
                list(client.messages.batches.results(job.id))
            elif kind == "background":
                other.responses.retrieve(job.id)
        assert assert_no_leaks(budget) == []
        assert budget.status()[0].spent > 0


# A disabled budget lets the tests of a program pass that has one.


def test_a_disabled_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    with Provider() as provider, Sandbox(limits=["$0.000001/day"]) as budget, client_of(budget, provider) as client:
        with budget.run("$0.000001", max_calls=1):
            for _ in range(2):
                assert client.messages.create(**REQUEST).usage.output_tokens == 40
            with client.messages.stream(**REQUEST) as stream:
                assert stream.get_final_message().usage.output_tokens == 40
        budget.clock.move("1d")
        assert budget.status() == [] or not any(pool.spent for pool in budget.status())
        assert list(budget.entries()) == []
        assert_no_leaks(budget)


# The fixture, in a run of pytest as users have it.

CONFTEST = """
from budget.testing import Clock, budget_fixture
from datetime import UTC, datetime

budget = budget_fixture(limits=["$1/day"], clock=Clock(datetime(2026, 11, 21, 23, 59, tzinfo=UTC)))
"""
TESTS = """
import pytest
from budget import BudgetExceeded, budgeted

@budgeted("$0.50")
def job(usd):
    return usd

def test_spends(budget):
    budget.record(usd="1")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0.10")
    budget.clock.move("1m")
    budget.refund(budget.reserve("$0.10"))

def test_begins_anew(budget):
    assert budget.clock.now.minute == 59
    budget.refund(budget.reserve("$1"))

def test_is_the_default(budget):
    from budget.engine import default_engine
    assert default_engine() is budget

def test_leaks(budget):
    budget.reserve("$0.40", user="alice")

def test_works_after_a_leak(budget):
    budget.refund(budget.reserve("$1"))
"""


def test_the_fixture_in_a_run_of_pytest(tmp_path: Path) -> None:
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_users.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "--rootdir", str(folder)]
    done = subprocess.run([*command, str(folder)], check=False, cwd=folder, capture_output=True, text=True, timeout=120)
    assert "5 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "ERROR at teardown of test_leaks" in done.stdout
    assert "reservations are still open (1)" in done.stdout
    assert "$0.4 (user=alice)" in done.stdout
    assert not (folder / "budget.db").exists()


def test_the_default_engine_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from budget.engine import default_engine
    from budget.testing import _as_default

    with Sandbox() as first, Sandbox() as second:
        assert default_engine() is first
        with _as_default(second):
            assert default_engine() is second

            @budgeted("$1")
            def job() -> None:
                second.record(usd="0.5")

            job()
        assert default_engine() is first
        assert [entry.usd for entry in second.entries()]
        assert not list(first.entries())


def test_nothing_of_it_is_loaded_with_budget() -> None:
    shown = python("import budget, sys; budget.Budget; print('budget.testing' in sys.modules, 'pytest' in sys.modules)")
    assert shown.stdout.split() == ["False", "False"]
    shown = python("import budget.testing, sys; print('pytest' in sys.modules)")
    assert shown.stdout.split() == ["False"]


def test_the_example_of_its_docstring_is_what_it_has() -> None:
    text = (ROOT / "budget" / "testing.py").read_text()
    for name in ("budget_fixture(limits=", "budget.clock.move(", "budget.demo.provider.Provider"):
        assert name in text.partition("__all__")[0]
