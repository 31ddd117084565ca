"""What went wrong in other projects, as far as their issue trackers tell, and does not here: one test per report.

The number in a test's name is that of the report in the project's own tracker. Reports that cannot apply: litellm 35664
and 36997 (the admin key in a cookie that scripts can read): there is no server and no browser session here. Reports
about the labels of metrics (litellm 12159, 27272, 39136) stand for everything that grows with what callers send.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest
import redis
from conftest import books, python
from redisserver import RedisServer, free_port, need_server

from budget import (
    ArgumentTypeError,
    Budget,
    BudgetExceeded,
    ConfigError,
    Limit,
    ReservationConflict,
    StoreUnavailable,
    UnknownModel,
    Usage,
)
from budget.commands import Learn
from budget.demo.provider import Provider
from budget.money import MAX, to_decimal
from budget.stores.memory import MemoryStore
from budget.window import bounds, instant

Make = Callable[..., Budget]
MODEL = "claude-sonnet-4-6"
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running
        running.wait()


@pytest.fixture
def client(provider: Provider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider.url, api_key="key", max_retries=0) as made:
        yield made


def pool(budget: Budget, **scope: str) -> tuple[str, str]:
    (found,) = budget.status(**scope)
    return str(found.spent), str(found.reserved)


def nothing_open(budget: Budget) -> None:
    assert budget.engine.store.reservations("default") == []
    assert books(budget.engine.store).faults == []


# Reservations that leak.


def test_litellm_27639_reservations_leak_on_cancel(shared_url: str, make_budget: Make) -> None:
    """A hundred tasks are cancelled in the middle: nothing stays reserved, and nobody is refused for them."""
    budget = make_budget(shared_url, limits=["$1/day"], store_timeout=30)

    async def call(started: asyncio.Event) -> None:
        async with budget.reservation("$0.01"):
            started.set()
            await asyncio.sleep(60)

    async def everybody() -> None:
        signs = [asyncio.Event() for _ in range(50)]
        tasks = [asyncio.create_task(call(sign)) for sign in signs]
        early = [asyncio.create_task(call(asyncio.Event())) for _ in range(50)]
        await asyncio.gather(*[sign.wait() for sign in signs])
        for task in (*tasks, *early):
            task.cancel()
        await asyncio.gather(*tasks, *early, return_exceptions=True)

    asyncio.run(everybody())
    nothing_open(budget)
    (state,) = budget.status()
    assert state.reserved == 0
    assert budget.reserve(state.available).usd == state.available


def test_litellm_30460_reservations_leak_on_timeout(shared_url: str, make_budget: Make) -> None:
    budget = make_budget(shared_url, limits=["$1/day"], store_timeout=30)

    async def call() -> None:
        async with budget.reservation("$0.25"), asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        asyncio.run(call())
    nothing_open(budget)
    assert pool(budget) == ("0.25", "0")  # it may have been billed


def test_litellm_30522_reservations_leak_on_disconnect(
    provider: Provider, client: anthropic.Anthropic, make_budget: Make
) -> None:
    budget = make_budget(limits=["$1/day"])
    with suppress(Exception):
        for _ in budget.wrap(client).messages.create(**ASK, stream=True, extra_headers={"x-demo": "output=9,cut=5"}):
            pass
    nothing_open(budget)
    assert Decimal(pool(budget)[0]) > 0


def test_litellm_39851_a_refused_session_leaves_a_hold(
    provider: Provider, client: anthropic.Anthropic, make_budget: Make
) -> None:
    budget = make_budget(limits=["$1/day"])
    with pytest.raises(anthropic.APIStatusError):
        budget.wrap(client).messages.create(**ASK, extra_headers={"x-demo": "status=403"})
    nothing_open(budget)
    assert pool(budget) == ("0", "0")


def test_otari_128_no_way_back_before_the_first_chunk(
    provider: Provider, client: anthropic.Anthropic, make_budget: Make
) -> None:
    budget = make_budget(limits=["$1/day"])
    with pytest.raises(anthropic.APIStatusError):
        budget.wrap(client).messages.create(**ASK, stream=True, extra_headers={"x-demo": "status=529"})
    nothing_open(budget)
    assert pool(budget) == ("0", "0")


def test_eliza_11493_stranded_holds_are_never_swept(shared_url: str, make_budget: Make) -> None:
    """Whoever comes next ends what a vanished caller held."""
    python(
        "import os, sys\nfrom budget import Budget\nbudget = Budget(sys.argv[1], limits=['$1/day'])\n"
        "budget.reserve('$0.40', lease=0.05)\nos._exit(0)",
        shared_url,
    )
    budget = make_budget(shared_url, limits=["$1/day"])
    while budget.engine.store.reservations("default"):
        assert budget.status()[0].available == Decimal("0.6")
    assert pool(budget) == ("0.4", "0")


# Counters that are made twice, from nothing, or beside their rows.


def test_litellm_28247_pods_reseed_by_adding(shared_url: str, make_budget: Make) -> None:
    """Five processes come up on an account that has spent: it has spent that, and not five times as much."""
    make_budget(shared_url, limits=["$9/day"]).record(usd="1.5")
    for _ in range(5):
        late = make_budget(shared_url, limits=["$9/day"])
        assert pool(late) == ("1.5", "0")
        late.close()
    nothing_open(make_budget(shared_url, limits=["$9/day"]))


def test_litellm_36926_a_process_races_itself(shared_url: str, make_budget: Make) -> None:
    """Threads that meet a pool for the first time at once count each call once."""
    budget, start = make_budget(shared_url, limits=["$9/day"], store_timeout=30), threading.Barrier(8)

    def work() -> None:
        start.wait()
        budget.record(usd="0.125")

    with ThreadPoolExecutor(8) as threads:
        for job in [threads.submit(work) for _ in range(8)]:
            job.result()
    assert pool(budget) == ("1", "0")
    nothing_open(budget)


def test_litellm_34238_a_missing_counter_is_zero(redis_url: str, make_budget: Make) -> None:
    """A counter that somebody removed is found by the audit, from entries that are still there."""
    budget = make_budget(redis_url, limits=["$9/day"])
    budget.record(usd="1.5")
    with redis.Redis.from_url(redis_url) as server:
        (key,) = server.keys("*:p:*")
        server.delete(key)
    assert "entries sum to 1500000000 spent" in "".join(books(budget.engine.store).faults)


def test_litellm_26845_counters_may_be_evicted(tmp_path: Path, make_budget: Make) -> None:
    """A server that may drop a counter to make room is refused before the first call."""
    need_server()
    server = RedisServer(tmp_path, maxmemory_policy="allkeys-lru")
    try:
        with pytest.raises(ConfigError, match="noeviction"):
            make_budget(server.url, limits=["$1/day"]).reserve("$0.10")
    finally:
        server.stop()


def test_litellm_35570_a_reconcile_is_marked_and_not_applied(store_url: str, make_budget: Make) -> None:
    """After each end the pool has moved by just that; a repeat moves nothing."""
    budget = make_budget(store_url, limits=["$9/day"])
    for number in range(1, 6):
        held = budget.reserve("$0.50")
        for _ in range(2):
            assert budget.reconcile(held, usd="0.25").state == "reconciled"
        assert budget.status()[0].spent == Decimal("0.25") * number
        assert sum(entry.usd for entry in budget.entries()) == Decimal("0.25") * number


def test_otari_742_a_counter_without_rows(store_url: str, make_budget: Make) -> None:
    """What is reserved is at any time the sum of reservations that have an id, an amount and a lease."""
    budget = make_budget(store_url, limits=["$9/day"])
    held = [budget.reserve(f"$0.{n}") for n in range(1, 6)]
    while held:
        rows = budget.engine.store.reservations("default")
        assert budget.status()[0].reserved == sum(row.usd for row in rows) == sum(row.usd for row in held)
        budget.refund(held.pop(2 % len(held)))


def test_otari_767_a_clamp_hides_a_double_release(store_url: str, make_budget: Make) -> None:
    budget = make_budget(store_url, limits=["$9/day"])
    first, second = budget.reserve("$1"), budget.reserve("$2")
    for _ in range(3):
        budget.refund(first)
        assert pool(budget) == ("0", "2")
    with pytest.raises(ReservationConflict):
        budget.reconcile(first, usd="0.5")
    budget.refund(second)
    assert pool(budget) == ("0", "0")


def test_agenc_1539_a_replayed_reconcile_refunds_twice(store_url: str, make_budget: Make) -> None:
    budget = make_budget(store_url, limits=["$9/day"])
    held, other = budget.reserve("$3"), budget.reserve("$3")
    for _ in range(4):
        budget.reconcile(held.id, usd="1")
    assert pool(budget) == ("1", "3")
    assert other.state == "open"


# Limits that do not hold.


def test_litellm_34732_check_then_record(shared_url: str, make_budget: Make) -> None:
    """Of forty that ask at once exactly ten are admitted, though each was told that it would be."""
    budget, start = make_budget(shared_url, limits=["$1/day"], store_timeout=30), threading.Barrier(40)

    def work() -> int:
        told = bool(budget.check("$0.10"))
        start.wait()
        try:
            budget.reserve("$0.10")
        except BudgetExceeded:
            return 100 * told
        return 100 * told + 1

    with ThreadPoolExecutor(40) as threads:
        found = [job.result() for job in [threads.submit(work) for _ in range(40)]]
    assert sum(found) == 40 * 100 + 10


def test_litellm_40095_an_unknown_user_bypasses_the_default(shared_url: str, make_budget: Make) -> None:
    """Eight first requests at once of a user nobody has seen, and of calls without a user."""
    budget = make_budget(shared_url, limits=[Limit("$1/day", per="user")], store_timeout=30)
    for scope in ({"user": "new"}, {}):

        def work(scope: dict[str, str] = scope) -> int:
            with suppress(BudgetExceeded):
                return bool(budget.reserve("$0.30", **scope))
            return 0

        with ThreadPoolExecutor(8) as threads:
            assert sum(job.result() for job in [threads.submit(work) for _ in range(8)]) == 3


def test_membrane_3210_overshoot_by_design(store_url: str, make_budget: Make) -> None:
    """A call that would pass the limit is not made, however little is missing."""
    budget, called = make_budget(store_url, limits=["$1/day"]), []
    budget.reserve("$0.999999999")
    with pytest.raises(BudgetExceeded), budget.reservation("$0.000000002"):
        called.append(1)
    with budget.reservation("$0.000000001"):
        called.append(2)
    assert called == [2]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_litellm_30684_an_outage_is_fail_open(kind: str, tmp_path: Path, make_budget: Make) -> None:
    """Without a store nothing is admitted by any door, and it is not said to be a lack of money."""
    url = f"sqlite:///{tmp_path}/none/budget.db" if kind == "sqlite" else f"redis://127.0.0.1:{free_port()}/0"
    budget, called = make_budget(url, limits=["$1/day"]), []

    @budget.budgeted()
    def work() -> None:
        with budget.reservation("$0.01"):
            called.append(1)

    async def awaited() -> None:
        async with budget.reservation("$0.01"):
            called.append(2)

    for act in (work, lambda: asyncio.run(awaited()), lambda: budget.reserve("$0")):
        with pytest.raises(StoreUnavailable):
            act()
    assert called == []


def test_litellm_41379_a_fallback_escapes_the_budget(
    provider: Provider, client: anthropic.Anthropic, make_budget: Make
) -> None:
    """The dearer model that is tried after the first is priced anew, and refused before a byte is sent."""
    budget = make_budget(limits=["$0.001/day"])
    wrapped = budget.wrap(client)
    with pytest.raises(anthropic.APIStatusError):
        wrapped.messages.create(**{**ASK, "model": "claude-haiku-4-5"}, extra_headers={"x-demo": "status=529"})
    before = len(provider.requests)
    with pytest.raises(BudgetExceeded):
        wrapped.messages.create(**{**ASK, "model": "claude-opus-4-1"})
    assert len(provider.requests) == before


# What is free that is not.


@pytest.mark.parametrize("model", ["no-such-model", "claude-sonnet-99", ""])
def test_litellm_37927_unpriced_is_free(store_url: str, make_budget: Make, model: str) -> None:
    budget = make_budget(store_url, limits=["$1/day"])
    with pytest.raises((UnknownModel, ConfigError)):
        budget.reserve(**{**ASK, "model": model})
    with pytest.raises((UnknownModel, ConfigError)):
        budget.record(Usage(input=1000, output=1000), model=model)
    assert pool(budget) == ("0", "0")


def test_litellm_33736_a_cut_stream_is_billed_zero(
    provider: Provider, client: anthropic.Anthropic, make_budget: Make
) -> None:
    budget = make_budget(limits=["$1/day"])
    for cut in (2, 4, 6):
        before = Decimal(pool(budget)[0])
        with suppress(Exception):
            for _ in budget.wrap(client).messages.create(
                **ASK, stream=True, extra_headers={"x-demo": f"output=9,cut={cut}"}
            ):
                pass
        assert Decimal(pool(budget)[0]) > before


def test_litellm_37558_an_explicit_zero_is_billed_as_an_estimate(store_url: str, make_budget: Make) -> None:
    budget = make_budget(store_url, limits=["$1/day"])
    held = budget.reserve(**ASK)
    budget.reconcile(held, Usage(input=0, output=0))
    assert pool(budget) == ("0", "0")
    assert not any(entry.detail.get("estimated") for entry in budget.entries())


def test_litellm_37992_an_answer_without_usage_is_free(
    provider: Provider, client: anthropic.Anthropic, make_budget: Make
) -> None:
    budget = make_budget(limits=["$1/day"])
    held = budget.estimate(**ASK).usd_max
    with suppress(Exception):
        budget.wrap(client).messages.create(**ASK, extra_headers={"x-demo": "output=5,usage=none"})
    assert pool(budget) == (str(held.normalize()), "0")


def test_litellm_40002_a_hold_ignores_the_higher_tier(make_budget: Make) -> None:
    """A request that may reach the dearer tier of a model is held at that tier."""
    budget = make_budget()
    text = "word " * 210_000
    request = {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": [{"role": "user", "content": text}]}
    estimate = budget.estimate(**request)
    assert estimate.input_tokens_max > 200_000
    used = Usage(input=estimate.input_tokens_max, output=1000)
    low = budget.cost(Usage(input=100_000, output=0), model="claude-sonnet-4-5").usd / 100_000
    cost = budget.cost(used, model="claude-sonnet-4-5").usd
    assert estimate.usd_max >= cost > low * estimate.input_tokens_max


# Numbers, names, times.


@pytest.mark.parametrize("amount", ["-$5/day", "$-5/day", "-100 requests/minute", "$NaN/day", "$1e3/day", "$inf/day"])
def test_litellm_18554_negative_budgets(store_url: str, make_budget: Make, amount: str) -> None:
    budget = make_budget(store_url)
    with pytest.raises(ConfigError):
        budget.limits.set(amount)
    assert list(budget.limits) == []


@pytest.mark.parametrize("price", [{"input": "-1", "output": "1"}, {"input": "NaN", "output": "1"}, {"input": True}])
def test_any_llm_844_negative_prices(make_budget: Make, price: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ArgumentTypeError)):
        make_budget(prices={"mine": price})


def test_litellm_34896_the_offset_of_a_zone_is_dropped(store_url: str, make_budget: Make) -> None:
    """A day ends at midnight of its own zone, and a time without a zone is no time."""
    budget = make_budget(store_url, limits=[Limit("$1/day", tz="Asia/Kolkata")])
    budget.reserve("$1")
    with pytest.raises(BudgetExceeded) as refused:
        budget.reserve("$1")
    ends = refused.value.resets_at
    assert ends is not None
    assert (ends.utcoffset(), ends.hour, ends.minute) == (timedelta(hours=5, minutes=30), 0, 0)
    assert timedelta() < ends - datetime.now(UTC) <= timedelta(days=1)
    with pytest.raises(ConfigError, match="time zone"):
        instant(datetime(2026, 1, 1))  # noqa: DTZ001


def test_litellm_40978_daily_is_not_1d() -> None:
    """One word for one window; what is not a window is refused, and never another one."""
    for text in ("$5/1d", "$5/daily", "$5/24h", "$5/Day", "$5/d"):
        with pytest.raises(ConfigError):
            Limit(text)


def test_litellm_42241_a_reset_that_comes_late() -> None:
    """A window ends at its end for every caller, wherever its clock stands within it."""
    day = Limit("$5/day", tz="America/New_York")
    start, end = bounds(day.window, instant(datetime(2026, 3, 8, 12, tzinfo=UTC)), day.tz)
    assert end - start == 23 * 3600 * 10**6
    for at in (start, start + 1, end - 1):
        assert bounds(day.window, at, day.tz) == (start, end)
    assert bounds(day.window, end, day.tz)[0] == end


@pytest.mark.parametrize(("amount", "rest"), [(MAX - 1, 1), (10**15, MAX - 10**15), (2**52 + 1, 2**52 - 2)])
def test_redis_1118_numbers_become_strings(redis_url: str, make_budget: Make, amount: int, rest: int) -> None:
    """Amounts near 2^53 come back as they went in, and are compared to the last unit."""
    budget = make_budget(redis_url, limits=[f"${to_decimal(MAX)}/lifetime"])
    held = [budget.reserve(to_decimal(amount)), budget.reserve(to_decimal(rest))]
    assert budget.status()[0].reserved == to_decimal(MAX)
    with pytest.raises(BudgetExceeded):
        budget.reserve(to_decimal(1))
    budget.reconcile(held[0], usd=to_decimal(amount - 1))
    assert (budget.status()[0].spent, budget.status()[0].available) == (to_decimal(amount - 1), to_decimal(1))
    budget.reserve(to_decimal(1))
    assert books(budget.engine.store).faults == []


def test_redis_13115_a_figure_above_every_counter_stays_exact_in_the_ledger(redis_url: str, make_budget: Make) -> None:
    budget = make_budget(redis_url, limits=["$1/lifetime"])
    cost = to_decimal(10**17 + 1)
    budget.reconcile(budget.reserve("$1"), usd=cost)
    assert [entry.usd for entry in budget.entries()][-1] == cost


def test_zealphp_247_keys_that_collide(store_url: str, make_budget: Make) -> None:
    """Ids that look alike once they are joined are different subjects."""
    budget = make_budget(store_url, limits=[Limit("$1/day", per="user"), Limit("$1/day", per="agent")])
    users = ["a:b", "a", "b", "a:b:c", "a b", "a\\", '"a"', "a{b}", "{a}", "}{", "(none)", "null", "A", "á", "a\u0301"]
    for user in users:
        budget.reserve("$0", user=user, agent="x")
        budget.record(usd="0.01", user=user, agent=f"agent {user}")
    for user in users:
        assert [str(found.spent) for found in budget.status(user=user)] == ["0.01"]


@pytest.mark.parametrize("user", ["*", "?", "[a-z]*", "%", "_", "a*"])
def test_langgraphjs_2350_globs_in_names(store_url: str, make_budget: Make, user: str) -> None:
    budget = make_budget(store_url, limits=[Limit("$1/day", per="user")])
    budget.record(usd="0.5", user="alice")
    budget.record(usd="0.25", user=user)
    assert pool(budget, user=user) == ("0.25", "0")
    budget.engine.store.remove("other")
    assert pool(budget, user="alice") == ("0.5", "0")


def test_context_forge_4380_a_tenant_in_the_key(shared_url: str, make_budget: Make) -> None:
    """An account is not part of another, and no name of a user reaches into one."""
    names = ["t", "t-1", "t_1", "T"]
    made = {name: make_budget(shared_url, account=name, limits=[Limit("$1/day", per="user")]) for name in names}
    for number, budget in enumerate(made.values(), 1):
        budget.record(usd=f"0.{number}", user="t:p:t-1")
    made["t"].engine.store.remove("t")
    found = [str(made[name].status(user="t:p:t-1")[0].spent) for name in names]
    assert found == ["0", "0.2", "0.3", "0.4"]
    for bad in ("t:1", "t*", "{t}", "", "t/1"):
        with pytest.raises(ConfigError):
            make_budget(shared_url, account=bad)


# What grows, and what is told.


def test_litellm_12159_what_grows_with_names(make_budget: Make) -> None:
    """Fifty thousand users, agents and models do not make this process hold as many things."""
    budget = make_budget(limits=[Limit("$1/day", per="user")])
    policy = budget.engine.drive(budget.engine.verbs.policy())
    for number in range(10_000):
        policy.matches({"user": f"user{number}"}, [], [])
    assert len(policy._matched) <= 4096
    store = MemoryStore()
    for number in range(3000):
        store.call("default", Learn({f"o/{number}": {1: 1}}), 1.0)
    assert len(store.call("default", Learn(), 1.0).learned) <= 2048


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_litellm_8075_keys_in_traces(scheme: str, make_budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A password is in no text that a log, a trace or an audit row may show."""
    secret = "c4nary-of-a-password"
    budget = make_budget(f"{scheme}://me:{secret}@127.0.0.1:{free_port()}/0", limits=["$1/day"])
    with pytest.raises(StoreUnavailable) as caught:
        budget.reserve("$0.10")
    chain: list[BaseException] = [caught.value]
    while chain[-1].__cause__ or chain[-1].__context__:
        chain.append(chain[-1].__cause__ or chain[-1].__context__)  # type: ignore[arg-type]
    shown = [str(error) + repr(error) + repr(error.args) for error in chain]
    shown += [repr(budget), repr(budget.settings), budget.engine.store.url, caplog.text]
    assert secret not in "".join(shown)


# Drivers and files.


def test_redis_py_2624_the_answer_of_another(redis_url: str, make_budget: Make) -> None:
    """After tasks that were cancelled at any point, every answer is to its own question."""
    budget = make_budget(redis_url, limits=["$1000/day"], store_timeout=30)

    async def one(name: str) -> None:
        held = await budget.aio.reserve("$0.01", call=name)
        assert held.scope["call"] == name
        done = await budget.aio.reconcile(held, usd="0.001")
        assert (done.id, done.state) == (held.id, "reconciled")

    async def everybody() -> None:
        for turn in range(20):
            tasks = [asyncio.create_task(one(f"{turn}-{n}")) for n in range(10)]
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            for task in tasks[::3]:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(answer) for answer in answers} <= {type(None), asyncio.CancelledError}

    asyncio.run(everybody())
    nothing_open(budget)


def test_redis_py_261_a_command_is_sent_twice(redis_url: str, make_budget: Make) -> None:
    """A connection is lost after each request was sent: it takes effect once."""
    budget = make_budget(redis_url, limits=["$1000/day"], store_timeout=30)
    with redis.Redis.from_url(redis_url) as server:
        for number in range(10):
            held = budget.reserve("$1")
            server.client_kill_filter(_type="normal", skipme=True)
            budget.reconcile(held, usd="0.5")
            assert budget.status()[0].spent == Decimal("0.5") * (number + 1)


def test_redis_py_4121_connections_leak(redis_url: str, make_budget: Make) -> None:
    """A thousand tasks, some cancelled, are carried by one connection and not by hundreds."""
    budget = make_budget(redis_url, limits=["$1000/day"], store_timeout=30)

    async def everybody() -> int:
        for _ in range(5):
            tasks = [asyncio.create_task(budget.aio.reserve("$0.01")) for _ in range(100)]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with redis.Redis.from_url(redis_url) as server:
            return len(server.client_list())

    before = asyncio.run(everybody())
    assert asyncio.run(everybody()) <= before + 2 < 12


def test_opencode_14970_a_network_file_system(
    tmp_path: Path, make_budget: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budget.stores.sqlitefile._file_system", lambda folder: "nfs4")
    with pytest.raises(StoreUnavailable, match="network file system"):
        make_budget(f"sqlite:///{tmp_path}/budget.db", limits=["$1/day"]).reserve("$0.10")
    assert list(tmp_path.glob("budget.db*")) == []


CHECKPOINTER = """
import sys
from budget import Budget
from budget.stores import sqlitewriter

kept = sqlitewriter.connect
def connect(path):
    db = kept(path)
    db.execute("pragma wal_autocheckpoint = 1")
    return db
sqlitewriter.connect = connect
with Budget(sys.argv[1], limits=["$1000/day"], store_timeout=60) as budget:
    for _ in range(60):
        budget.reconcile(budget.reserve("$0.01"), usd="0.01")
"""


def test_sqlite_wal_reset_corrupts_a_file(tmp_path: Path, make_budget: Make) -> None:
    """Processes that write and checkpoint at every commit leave a file that is whole."""
    url = f"sqlite:///{tmp_path}/budget.db"
    with ThreadPoolExecutor(3) as threads:
        for job in [threads.submit(python, CHECKPOINTER, url) for _ in range(3)]:
            job.result()
    budget = make_budget(url, limits=["$1000/day"])
    assert pool(budget) == ("1.8", "0")
    nothing_open(budget)
    with sqlite3.connect(tmp_path / "budget.db") as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    db.close()
