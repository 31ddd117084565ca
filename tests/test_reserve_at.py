"""The expectation: what is learned from reconciliations, what soft reservations set aside, and what stays hard."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import books, python

from budget import (
    ArgumentTypeError,
    Budget,
    BudgetExceeded,
    CapExceeded,
    ConfigError,
    Estimate,
    Reservation,
    StoreUnavailable,
    Unbounded,
    Usage,
)
from budget.commands import Learn
from budget.learn import ENOUGH, FLUSH

Make = Callable[..., Budget]
MODEL = "claude-sonnet-4-6"
PRICES = {"m": {"input": "1", "output": "10", "cache_read": "0.1"}, "other": {"input": "1", "output": "10"}}
DATA = Path(os.environ.get("BUDGET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
TRACE = DATA / "traces" / "agent_claude_code_cc_traces.csv.gz"


def estimate(budget: Budget, model: str = "m", input_tokens: int = 1000, output_tokens: int = 10_000) -> Estimate:
    return budget.estimate_counts(model, input_tokens=input_tokens, output_tokens=output_tokens)


def call(budget: Budget, usage: Usage | None = None, model: str = "m", **scope: str) -> Reservation:
    held = budget.reserve(estimate(budget, model), **scope)
    budget.reconcile(held, usage or Usage(input=1000, output=100, model=model))
    return held


def teach(budget: Budget, count: int = 150, **options: Any) -> None:
    for _ in range(count):
        call(budget, **options)


@pytest.fixture(params=["p99", "p95", "expected"])
def soft(request: pytest.FixtureRequest, budget_factory: Make) -> Budget:
    return budget_factory(prices=PRICES, reserve_at=request.param, limits=["$1000/day"])


def test_the_level_is_an_argument_a_variable_or_a_line_of_the_file(
    make_budget: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make_budget("memory://").settings.reserve_at == "max"
    Path("budget.toml").write_text('reserve_at = "p95"\n')
    assert make_budget("memory://").settings.reserve_at == "p95"
    monkeypatch.setenv("BUDGET_RESERVE_AT", "expected")
    assert make_budget("memory://").settings.reserve_at == "expected"
    assert make_budget("memory://", reserve_at="p99").settings.reserve_at == "p99"


def test_a_level_that_is_none_is_an_error() -> None:
    with pytest.raises(ConfigError, match="reserve_at: 'p90' is not one of max, p99, p95, expected"):
        Budget("memory://", reserve_at="p90")
    with pytest.raises(ArgumentTypeError, match="reserve_at"):
        Budget("memory://", reserve_at=0.99)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", ["p99", "p95"])
def test_where_output_is_free_the_bound_of_the_cost_is_set_aside(make_budget: Make, level: str) -> None:
    """How much dearer than expected a call may be is learned in output tokens, of which none has a cost here."""
    budget = make_budget("memory://", prices={"m": {"input": "1", "output": "0"}}, reserve_at=level)
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "word " * 900}], "max_tokens": 10_000}
    for i in range(150):
        usage = Usage(input=1000 if i % 9 else 2500, output=100)
        budget.reconcile(budget.reserve(model="m", **asked), usage, model="m")
    held, bound = budget.reserve(model="m", **asked), budget.estimate(model="m", **asked)
    assert held.usd == bound.usd_max > Decimal("0.0025") > bound.usd
    assert held.amounts[3] < 10_000  # the answer's length is learned all the same


def test_while_too_little_is_known_the_bound_is_set_aside(soft: Budget) -> None:
    for _ in range(ENOUGH):
        held = soft.reserve(estimate(soft))
        assert held.usd == estimate(soft).usd_max == Decimal("0.101")
        soft.reconcile(held, Usage(input=1000, output=100))
    held = soft.reserve(estimate(soft))
    assert held.usd < Decimal("0.101")


def test_what_was_learned_is_set_aside_and_marked_soft(soft: Budget) -> None:
    teach(soft)
    level = soft.settings.reserve_at
    held = soft.reserve(estimate(soft))
    assert Decimal("0.00199") < held.usd < Decimal("0.0021")  # the input, 100 tokens of output, and a bucket's width
    assert soft.status()[0].reserved == held.usd
    soft.reconcile(held, Usage(input=1000, output=100))
    kept = list(soft.entries())[-1].estimate
    assert kept is not None
    assert (kept["reserve_at"], kept["usd_max"]) == (level, "0.101")
    assert Decimal(kept["usd_reserved"]) == held.usd
    assert Decimal("0.00199") < Decimal(kept["usd"]) < Decimal("0.0021")


def test_at_max_everything_is_hard_and_the_expectation_is_told_all_the_same(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES, limits=["$1000/day"])
    assert estimate(budget).usd == Decimal("0.101")
    teach(budget, 30)
    assert Decimal("0.00199") < estimate(budget).usd < Decimal("0.0021")
    held = budget.reserve(estimate(budget))
    assert held.usd == Decimal("0.101")
    assert "reserve_at" not in held.detail["estimate"]
    assert Decimal(held.detail["estimate"]["usd"]) == estimate(budget).usd


def test_nothing_is_set_aside_above_the_bound(soft: Budget) -> None:
    teach(soft, 30, usage=Usage(input=1000, output=9000))
    held = soft.reserve(estimate(soft, output_tokens=50))
    assert held.usd == estimate(soft, output_tokens=50).usd_max == Decimal("0.0015")
    assert estimate(soft, output_tokens=50).usd <= Decimal("0.0015")


def test_a_quantile_covers_what_the_mean_does_not(budget_factory: Make) -> None:
    outputs = ([100] * 19 + [5000]) * 5
    reserved = {}
    for level in ("p99", "p95", "expected"):
        budget = budget_factory(prices=PRICES, reserve_at=level, account=level)
        for output in outputs * 2:
            call(budget, Usage(input=1000, output=output))
        reserved[level] = budget.reserve(estimate(budget)).usd
    assert reserved["p99"] >= reserved["p95"] >= Decimal("0.051")  # 5 % is more than what p95 lets pass
    assert Decimal("0.0042") < reserved["expected"] < Decimal("0.0048")


def test_a_cap_is_held_to_the_bound(soft: Budget) -> None:
    soft.limits.set("$0.05/request", user="alice")
    teach(soft)
    with pytest.raises(CapExceeded) as caught:
        soft.reserve(estimate(soft), user="alice")
    assert caught.value.requested == Decimal("0.101")
    assert caught.value.max_tokens == 4900
    assert not soft.check(estimate(soft), user="alice")
    assert soft.check(estimate(soft), user="bob")
    assert soft.reserve(estimate(soft, output_tokens=4900), user="alice").usd < Decimal("0.0021")


def test_more_calls_fit_into_a_pool_and_a_refusal_says_what_was_asked(soft: Budget) -> None:
    teach(soft)
    soft.limits.set("$0.0495/day", user="carol")
    for _ in range(24):
        assert soft.reserve(estimate(soft), user="carol").usd < Decimal("0.0021")
    with pytest.raises(BudgetExceeded) as caught:
        soft.reserve(estimate(soft), user="carol")
    assert caught.value.requested < Decimal("0.0021")
    assert caught.value.max_tokens is not None
    assert not caught.value.fits(model="other")


def test_an_overrun_is_booked_in_full(soft: Budget) -> None:
    teach(soft, 30)
    soft.limits.set("$0.01/day", user="dave")
    held = soft.reserve(estimate(soft), user="dave")
    soft.reconcile(held, Usage(input=1000, output=10_000))
    [pool] = [pool for pool in soft.status(user="dave") if pool.limit.selector]
    assert (pool.spent, pool.reserved) == (Decimal("0.101"), 0)
    with pytest.raises(BudgetExceeded):
        soft.reserve(estimate(soft), user="dave")
    assert books(soft.engine.store).ok


def test_pools_of_tokens_are_treated_alike(soft: Budget) -> None:
    soft.limits.set("1B tokens/day")
    soft.limits.set("1B input tokens/day")
    soft.limits.set("1B output tokens/day")
    teach(soft)
    soft.reserve(estimate(soft))
    taken = {pool.unit: pool.reserved for pool in soft.status() if "tokens" in pool.unit}
    assert taken["input_tokens"] == 1000
    assert 100 <= taken["output_tokens"] < 105
    assert taken["tokens"] == taken["input_tokens"] + taken["output_tokens"]


def test_a_repeat_gets_its_first_answer_whatever_was_learned_meanwhile(soft: Budget) -> None:
    id = "0123456789abcdef" * 2
    first = soft.reserve(estimate(soft), id=id)
    teach(soft, 30)
    again = soft.reserve(estimate(soft), id=id)
    assert again.amounts == first.amounts
    assert soft.status()[0].reserved == first.usd


def test_a_check_before_it_does_not_change_what_is_asked(soft: Budget) -> None:
    teach(soft)
    id, engine = "0123456789abcdef" * 2, soft.engine
    ask = engine.ask_for(estimate(soft), None, {})
    assert engine.drive(engine.verbs.check(ask))
    first = engine.drive(engine.verbs.reserve(ask, id, 600_000_000))
    assert soft.reserve(estimate(soft), id=id).amounts == first.amounts


def test_a_request_without_a_bound_keeps_its_allowance(budget_factory: Make) -> None:
    budget = budget_factory(reserve_at="p99", on_unbounded="$0.50")
    tools = [{"type": "web_search_20250305", "name": "web_search", "max_uses": 9}]
    request = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "tools": tools, "max_tokens": 100}
    for _ in range(ENOUGH + 5):
        held = budget.reserve(**request)
        assert held.usd == Decimal("0.5")
        budget.reconcile(held, Usage(input=9000, output=10))
    with pytest.raises(Unbounded):
        budget_factory(reserve_at="p99").reserve(**request)


def test_agents_are_told_apart_and_a_new_one_has_what_its_model_had(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES, reserve_at="p95")
    teach(budget, 60, usage=Usage(input=1000, output=1000), agent="writer")
    teach(budget, 60, usage=Usage(input=1000, output=10), agent="router")
    writer, router, new = (budget.reserve(estimate(budget), agent=a).usd for a in ("writer", "router", "new"))
    assert router < Decimal("0.002") < Decimal("0.01") < writer
    assert new == pytest.approx(writer, rel=Decimal("0.1"))
    other = budget.reserve(estimate(budget, "other")).usd
    assert other == pytest.approx(writer, rel=Decimal("0.1"))  # of a model of which nothing is known


def test_a_conversation_that_was_seen_is_priced_by_its_cache(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES, reserve_at="p95")
    for turn in range(40):
        held = budget.reserve(estimate(budget, input_tokens=100_000 + turn), session="s")
        read = 100_000 if turn else 0
        budget.reconcile(held, Usage(input=turn if turn else 100_000, cache_read=read, output=100))
    known = budget.reserve(estimate(budget, input_tokens=100_040), session="s").usd
    assert Decimal("0.011") < known < Decimal("0.02")  # read at a tenth of the price
    assert estimate(budget, input_tokens=100_040).usd > Decimal("0.09")  # of another conversation


def test_the_tokenizer_is_learned_but_never_above_the_bound(budget_factory: Make) -> None:
    budget = budget_factory()
    request: dict[str, Any] = {
        "model": MODEL, "messages": [{"role": "user", "content": "one two three " * 200}], "max_tokens": 100,
    }  # fmt: skip
    counted = budget.estimate(**request)
    actual = counted.input_tokens * 3 // 4
    for _ in range(ENOUGH + 1):
        budget.reconcile(budget.reserve(**request), Usage(input=actual, output=9))
    learned = budget.estimate(**request)
    assert learned.input_tokens == pytest.approx(actual, rel=0.04)
    assert learned.input_tokens_max == counted.input_tokens_max
    for _ in range(200):
        budget.reconcile(budget.reserve(**request), Usage(input=counted.input_tokens_max * 2, output=9))
    assert budget.estimate(**request).input_tokens == counted.input_tokens_max


def test_what_was_learned_survives_and_is_shared(shared_url: str, make_budget: Make) -> None:
    first, second = (make_budget(shared_url, prices=PRICES, reserve_at="p95") for _ in range(2))
    second.reserve(estimate(second))  # it has loaded an empty account
    teach(first, FLUSH, agent="a")
    first.close()
    third = make_budget(shared_url, prices=PRICES, reserve_at="p95")
    assert third.reserve(estimate(third), agent="a").usd < Decimal("0.01")
    teach(second, 3, agent="a")
    second.engine.verbs.learner.flush()  # its answer brings what the first one learned
    assert second.reserve(estimate(second), agent="a").usd < Decimal("0.01")
    sketches = second.engine.do(Learn()).learned
    assert sum(sketches["over\nm\na"].values()) == FLUSH + 3


def test_a_process_that_ends_without_closing_hands_over_what_it_learned(shared_url: str, make_budget: Make) -> None:
    python(
        "import sys; from budget import Budget, Usage\n"
        "b = Budget(sys.argv[1], prices={'m': {'input': '1', 'output': '10'}})\n"
        "for _ in range(12):\n"
        "    e = b.estimate_counts('m', input_tokens=1000, output_tokens=10000)\n"
        "    b.reconcile(b.reserve(e), Usage(input=1000, output=100))\n",
        shared_url,
    )
    budget = make_budget(shared_url, prices=PRICES, reserve_at="p95")
    assert sum(budget.engine.do(Learn()).learned["over\nm\n"].values()) == 12
    assert budget.reserve(estimate(budget)).usd < Decimal("0.101")


def test_it_is_handed_over_in_the_background(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES)
    teach(budget, FLUSH)
    until = time.monotonic() + 60
    while not (found := budget.engine.do(Learn()).learned) and time.monotonic() < until:
        time.sleep(0.01)
    assert sum(found["over\nm\n"].values()) >= FLUSH


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_hand_over_what_its_parent_will(sqlite_url: str) -> None:
    python(
        "import os, sys; from budget import Budget, Usage\n"
        "b = Budget(sys.argv[1], prices={'m': {'input': '1', 'output': '10'}})\n"
        "def call():\n"
        "    e = b.estimate_counts('m', input_tokens=1000, output_tokens=10000)\n"
        "    b.reconcile(b.reserve(e), Usage(input=1000, output=100))\n"
        "for _ in range(5): call()\n"
        "child = os.fork()\n"
        "call()\n"
        "b.close()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n",
        sqlite_url,
    )
    with Budget(sqlite_url) as budget:
        assert sum(budget.engine.do(Learn()).learned["over\nm\n"].values()) == 7


def test_names_hold_the_model_and_the_agent_and_nothing_of_a_user(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES)
    teach(budget, 3, agent="a", user="alice", session="secret-session", team="red")
    budget.engine.verbs.learner.flush()
    names = budget.engine.do(Learn()).learned
    assert {tuple(name.split("\n")[1:]) for name in names} == {("m", "a"), ("m", ""), ("", "")}
    assert not [name for name in names if "alice" in name or "secret" in name or "red" in name]


def test_what_is_learned_while_it_is_handed_over_is_not_lost(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES)
    teach(budget, ENOUGH)
    learner = budget.engine.verbs.learner
    send = learner._send

    def slow(more: Any) -> Any:
        found = send(more)
        teach(budget, 2, usage=Usage(input=1000, output=10_000))
        return found

    learner._send = slow
    learner.flush()
    assert Decimal("0.015") < estimate(budget).usd < Decimal("0.03")  # two in twelve were dear
    learner._send = send
    learner.flush()
    assert sum(budget.engine.do(Learn()).learned["over\nm\n"].values()) == ENOUGH + 2


def test_what_cannot_be_kept_is_said_once(budget_factory: Make, caplog: pytest.LogCaptureFixture) -> None:
    budget = budget_factory(prices=PRICES)
    learner = budget.engine.verbs.learner

    def fails(more: Any) -> Any:
        raise StoreUnavailable("it is full")

    send, learner._send = learner._send, fails
    for _ in range(2):
        teach(budget, 1)
        learner.flush()
    learner._send = send
    assert [record.getMessage() for record in caplog.records] == [
        "what was learned of calls cannot be kept in the store: it is full"
    ]


def test_what_teaches_nothing(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES)
    budget.reconcile(budget.reserve(estimate(budget)), usd="0.05")  # no usage
    budget.reconcile(budget.reserve("$0.05"), Usage(input=5, model="m"))  # no estimate
    budget.refund(budget.reserve(estimate(budget)))
    budget.record(Usage(input=5), model="m")
    cut = budget.reserve(estimate(budget))  # a stream that was cut: what it used is a guess
    guess = {"usage": {"input": 1000, "output": 5}, "estimated": True}
    budget.engine.drive(budget.engine.verbs.reconcile(cut, (5, 5, 5, 5, 1), guess))
    held = call(budget)
    budget.reconcile(held, Usage(input=1000, output=100))  # a repeat
    budget.engine.verbs.learner.flush()
    assert {sum(counts.values()) for counts in budget.engine.do(Learn()).learned.values()} == {1}


def test_a_disabled_engine_learns_nothing(make_budget: Make, sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget = make_budget(sqlite_url, prices=PRICES, reserve_at="p99")
    teach(budget, ENOUGH + 1)
    assert estimate(budget).usd == Decimal("0.101")


def test_awaited_calls_learn_and_reserve_alike(budget_factory: Make) -> None:
    budget = budget_factory(prices=PRICES, reserve_at="p95")

    async def work() -> Decimal:
        for _ in range(30):
            held = await budget.aio.reserve(estimate(budget))
            await budget.aio.reconcile(held, Usage(input=1000, output=100))
        return (await budget.aio.reserve(estimate(budget))).usd

    assert asyncio.run(work()) < Decimal("0.005")


def test_another_process_reconciles(shared_url: str, make_budget: Make) -> None:
    one, other = (make_budget(shared_url, prices=PRICES) for _ in range(2))
    for _ in range(3):
        other.reconcile(one.reserve(estimate(one)).id, Usage(input=1000, output=100, model="m"))
    other.engine.verbs.learner.flush()
    assert sum(other.engine.do(Learn()).learned["output\nm\n"].values()) == 3


@pytest.mark.parametrize("seed", range(3))
def test_the_levels_keep_their_promise_on_agents_of_many_kinds(seed: int, make_budget: Make) -> None:
    """Growing conversations with heavy-tailed answers, of agents that differ by a factor of forty."""
    dice = random.Random(seed)
    calls = []
    for agent in range(3):
        tokens, scale = 5_000, 100 * dice.choice([1, 5, 40])
        for _ in range(500):
            output = min(30_000, int(scale * dice.lognormvariate(0, 1)))
            calls.append((f"agent {agent}", tokens, output))
            tokens = tokens + output + dice.randrange(2000) if tokens < 150_000 else 5_000
    for level, allowed in (("p99", 0.01), ("p95", 0.05)):
        budget = make_budget("memory://", reserve_at=level)
        last: dict[str, int] = {}
        reserved = spent = overruns = bound = 0
        for agent, tokens, output in calls:
            guess = budget.estimate_counts(MODEL, input_tokens=tokens, output_tokens=32_000, cache_ttls=["5m"])
            held = budget.reserve(guess, agent=agent, session=agent)
            read = min(last.get(agent, 0), tokens)
            end = budget.reconcile(held, Usage(cache_read=read, cache_write={"5m": tokens - read}, output=output))
            last[agent] = tokens
            cost, asked = (end.charged or (0,))[0] or 0, held.amounts[0] or 0
            reserved, spent, overruns = reserved + asked, spent + cost, overruns + (cost > asked)
            bound += guess.nanos_max
        assert overruns / len(calls) <= allowed
        assert reserved < bound / 2
        assert reserved > spent


@pytest.mark.skipif(not TRACE.exists(), reason=f"no traces in {DATA}: set BUDGET_DATA")
def test_the_levels_keep_their_promise_on_recorded_agents() -> None:
    from benchmarks import bench_reserve_at as bench
    from budget.replay import Trace

    calls = list(bench.cached(list(Trace(TRACE, start=bench.START).calls()), 10**18))
    for level, most, allowed in (("p99", 2.2, 0.01), ("p95", 1.6, 0.05)):
        found = bench.play(calls, level, 32_000)
        assert found.reserved / found.spent <= most
        assert found.overruns / len(calls) <= allowed


def test_limits_of_a_run_outside_one_take_the_level(soft: Budget) -> None:
    teach(soft)
    soft.limits.set("$0.05/run")
    assert soft.reserve(estimate(soft)).usd < Decimal("0.0025")
