"""The guards of a run: loops, velocity, deadlines, the kill switch; and runs in runs, tasks, threads and executors."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from budget import (
    ArgumentTypeError,
    Budget,
    BudgetError,
    BudgetExceeded,
    ConfigError,
    Frozen,
    Limit,
    Loop,
    RunStopped,
    budgeted,
)
from budget.demo.provider import Provider
from budget.loops import looped
from budget.run import Run, current

MODEL = "claude-sonnet-4-6"
SCHEMA = {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]}
TOOL: Any = {"name": "search", "input_schema": SCHEMA}


@pytest.fixture
def b() -> Iterator[Budget]:
    with Budget("memory://") as made:
        yield made


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def client(b: Budget, provider: Provider) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=provider.url, api_key="key", max_retries=0) as plain:
        provider.clear()
        guarded: anthropic.Anthropic = b.wrap(plain)
        yield guarded


# Loops, in a wrapped client.


def agent(client: anthropic.Anthropic, rounds: int, messages: list[Any]) -> int:
    """An agent whose model calls the same tool with the same arguments each time; returns its rounds."""
    for made in range(rounds):
        answer = client.messages.create(
            model=MODEL, max_tokens=50, messages=messages, tools=[TOOL], extra_headers={"x-demo": "tool=1"}
        )
        messages.append({"role": "assistant", "content": answer.content})
        uses = [part.id for part in answer.content if part.type == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": id, "content": f"found {made}"} for id in uses]
        messages.append({"role": "user", "content": results})
    return rounds


def test_an_agent_in_a_loop_is_stopped(b: Budget, client: anthropic.Anthropic, provider: Provider) -> None:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    with b.run(user="alice", loop=3) as run:
        with pytest.raises(RunStopped) as caught:
            agent(client, 10, messages)
        assert (caught.value.unit, caught.value.spent, caught.value.verdict) == ("loop", 3, "never")
        assert caught.value.subject == f"run={run.id}"
        assert str(caught.value) == f"run={run.id}: the same tool calls 3 times over"
        assert len(provider.requests) == 3  # whose answers made the same call; the fourth was not sent
        with pytest.raises(RunStopped):
            agent(client, 1, messages)  # the same request once more
        assert (len(provider.requests), run.calls) == (3, 3)
        assert agent(client, 1, [{"role": "user", "content": "something else"}]) == 1
    assert b.status() == []
    with b.run(user="alice", loop=3):
        messages += [{"role": "assistant", "content": "I am stuck."}, {"role": "user", "content": "try on"}]
        assert agent(client, 2, messages) == 2  # a new run of the same chat
        with pytest.raises(RunStopped):
            agent(client, 2, messages)


def test_without_a_guard_nobody_is_stopped(b: Budget, client: anthropic.Anthropic) -> None:
    with b.run(user="alice"):
        assert agent(client, 5, [{"role": "user", "content": "go"}]) == 5


def test_a_loop_over_the_runs_of_single_calls(b: Budget, client: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "go"}]

    def turn(number: int) -> None:
        with b.run(step=str(number)):
            agent(client, 1, messages)

    with b.run(loop="3 in 10") as outer:
        for number in range(3):
            turn(number)
        with pytest.raises(RunStopped) as caught:
            turn(3)
    assert caught.value.subject == f"run={outer.id}"


def test_agents_side_by_side_are_no_loop(b: Budget, client: anthropic.Anthropic) -> None:
    with b.run(loop=3):
        for _ in range(6):
            agent(client, 2, [{"role": "user", "content": "go"}])


def test_a_frozen_run_is_frozen_first(b: Budget, client: anthropic.Anthropic) -> None:
    messages: list[Any] = [{"role": "user", "content": "go"}]
    with b.run(loop=2, id="r1"):
        agent(client, 2, messages)
        with pytest.raises(RunStopped):
            agent(client, 1, messages)
        b.freeze(run="r1")
        with pytest.raises(Frozen):
            agent(client, 1, messages)


def test_a_loop_of_an_openai_agent(b: Budget, provider: Provider) -> None:
    asyncio.run(_openai_agents(b, provider))


async def _openai_agents(b: Budget, provider: Provider) -> None:
    function = {"name": "search", "parameters": SCHEMA}
    steer = {"model": "gpt-4.1-mini", "extra_headers": {"x-demo": "tool=1"}}
    async with openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="key", max_retries=0) as plain:
        client: Any = b.wrap(plain)
        items: list[Any] = [{"role": "user", "content": "go"}]

        async def respond() -> None:
            tools = [{"type": "function", **function}]
            answer = await client.responses.create(max_output_tokens=50, input=items, tools=tools, **steer)
            calls = [item for item in answer.output if item.type == "function_call"]
            items.extend(answer.output)
            items.extend({"type": "function_call_output", "call_id": call.call_id, "output": "ok"} for call in calls)

        async def chat() -> None:
            tools = [{"type": "function", "function": function}]
            answer = await client.chat.completions.create(max_tokens=50, messages=items, tools=tools, **steer)
            items.append(answer.choices[0].message)
            calls = answer.choices[0].message.tool_calls
            items.extend({"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in calls)

        for turn in (respond, chat):
            del items[1:]
            async with b.run(loop=3) as run:
                for _ in range(3):
                    await turn()
                with pytest.raises(RunStopped):
                    await turn()
                assert run.calls == 3


# Loops, by hand.


def test_tools_told_by_hand(b: Budget) -> None:
    with b.run(loop="3 in 10", user="alice") as run:
        run.tool("search", {"q": "x"})
        run.tool("search", '{"q": "x"}')
        assert run.would_loop("search", {"q": "x"})
        assert not run.would_loop("search", {"q": "y"})
        with pytest.raises(RunStopped, match="3 times"):
            run.tool("search", {"q": "x"})
        run.tool("read", {"path": "a"})  # another way out
        assert b.reserve("$0").scope["user"] == "alice"


def test_tools_are_told_to_the_nearest_guard(b: Budget) -> None:
    with b.run(loop=3) as outer, b.run(loop=2) as inner, b.run() as innermost:
        innermost.tool("f")
        with pytest.raises(RunStopped) as caught:
            innermost.tool("f")
        assert caught.value.subject == f"run={inner.id}"
        assert not outer.would_loop("f")
    with b.run() as run:
        for _ in range(99):
            run.tool("f", object())  # there is no guard, and nothing to say
        assert not run.would_loop("f")


def test_tools_where_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    with Budget("memory://") as b, b.run(loop=2) as run, b.run() as inner:
        for _ in range(3):
            run.tool("f")
            inner.tool("f")
        assert not run.would_loop("f")


def test_who_tells_tools_is_believed(b: Budget, client: anthropic.Anthropic) -> None:
    with b.run(loop=3) as run:
        run.tool("search", {"q": "w0", "page": 1})
        assert agent(client, 6, [{"role": "user", "content": "go"}]) == 6  # what its model called was not made


def test_a_key_of_ones_own(b: Budget) -> None:
    rule = Loop(3, key=lambda name, arguments: None if name == "poll" else name)
    with b.run(loop=rule) as run:
        for number in range(9):
            run.tool("poll", {"job": 1})
            if number < 2:
                run.tool("f", {"at": number})
        with pytest.raises(RunStopped):
            run.tool("f", {"at": 2})


def test_many_threads_tell_one_run(b: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(*given: Any) -> bool:
        time.sleep(0.0005)  # others come in between, if they may
        return looped(*given)

    monkeypatch.setattr("budget.loopguard.looped", slowly)
    run = b.run(loop="50 in 50")
    stopped = []

    def tell() -> None:
        for _ in range(20):
            try:
                run.tool("f")
            except RunStopped:
                stopped.append(1)

    threads = [threading.Thread(target=tell) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stopped) == 100 - 49


# Velocity.


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("$1/minute", "$1/60s rolling"), ("$30/hour", "$30/3600s rolling"), ("$5/10m rolling", "$5/10m rolling"),
        ("500k tokens/minute", "500000 tokens/60s rolling"), ("100 requests/minute", "100 requests/60s rolling"),
        ("$1 / minute", "$1/60s rolling"),
    ],
)  # fmt: skip
def test_a_velocity_is_a_rolling_limit_of_the_run(b: Budget, given: str, rule: str) -> None:
    run = b.run(velocity=given, id="r1")
    assert [str(limit) for limit in run.limits] == [f"run=r1 {rule}"]


def test_a_run_that_spends_too_fast(b: Budget) -> None:
    begun = datetime.now(UTC)
    with b.run("$9", velocity="$1/minute") as run:
        b.reconcile(b.reserve("$0.60"), usd="0.60")
        with pytest.raises(BudgetExceeded) as caught:
            b.reserve("$0.50")
        assert not isinstance(caught.value, RunStopped)  # it fits later
        assert (caught.value.verdict, caught.value.available) == ("wait", Decimal("0.4"))
        assert caught.value.resets_at is not None
        minute, part = timedelta(seconds=60), timedelta(seconds=1)
        assert begun + minute <= caught.value.resets_at <= datetime.now(UTC) + minute + part
        assert (run.spent, run.remaining) == (Decimal("0.6"), Decimal("8.4"))  # of the whole run
        with b.run(agent="sub"), pytest.raises(BudgetExceeded):
            b.reserve("$0.50")
    with b.run(velocity="$1/minute") as run:
        b.record(usd="0.60")
        assert run.remaining is None  # a velocity is no limit of the whole


def test_a_velocity_of_requests_is_no_guard(b: Budget) -> None:
    with b.run(velocity="1 requests/minute", max_calls=9):
        b.reserve("$0")
        with pytest.raises(BudgetExceeded) as caught:
            b.reserve("$0")
        assert (type(caught.value), caught.value.unit) == (BudgetExceeded, "requests")


def test_a_call_waits_for_its_velocity(b: Budget) -> None:
    with b.run(velocity="$1/3s rolling"):
        b.reconcile(b.reserve("$1"), usd="1")
        with pytest.raises(BudgetExceeded):
            b.reserve("$1")
        assert b.reserve("$1", wait=60).state == "open"


# Deadlines.


def test_the_first_deadline_counts(b: Budget) -> None:
    with b.run() as free:
        assert free.remaining_seconds() is None
        with b.run(deadline=100) as outer, b.run(deadline=500) as inner, b.run() as innermost:
            for run in (outer, inner, innermost):
                assert 0 < (run.remaining_seconds() or 0) <= 100
            with b.run(deadline=1e-9) as over:
                assert over.remaining_seconds() == 0
                with b.run(deadline=50), pytest.raises(RunStopped) as caught:
                    b.reserve("$0")
                assert caught.value.subject == f"run={over.id}"


# The kill switch.


def test_a_run_is_stopped_from_another_process(sqlite_url: str, provider: Provider) -> None:
    def operator(verb: str) -> None:
        command = [sys.executable, "-m", "budget.cli", verb, "run=job-17", "--store", sqlite_url]
        subprocess.run(command, check=True, timeout=60, capture_output=True)

    with Budget(sqlite_url) as b, anthropic.Anthropic(base_url=provider.url, api_key="key") as plain:
        client = b.wrap(plain)
        request: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]}
        with b.run("$2", id="job-17", user="alice"), b.run(agent="sub"):
            client.messages.create(**request)
            operator("freeze")
            sent = len(provider.requests)
            for _ in range(2):
                with pytest.raises(Frozen) as caught:
                    client.messages.create(**request)
            assert (caught.value.subject, len(provider.requests)) == ("run=job-17", sent)
            operator("unfreeze")
            client.messages.create(**request)
        client.messages.create(**request)


# Runs in runs, tasks and threads.


def test_hundreds_of_tasks_below_one_run(b: Budget) -> None:
    async def child(number: int) -> int:
        try:
            async with b.run("$0.02", agent=f"agent-{number % 7}") as run:
                for _ in range(4):
                    held = await b.aio.reserve("$0.01")
                    assert held.scope["run"] == run.id
                    await asyncio.sleep(0)
                    await b.aio.reconcile(held, usd="0.01")
                return 4
        except BudgetExceeded:
            return round(float(run.spent * 100))

    async def main() -> None:
        async with b.run("$4", user="alice") as parent, asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(number)) for number in range(300)]
        done = [task.result() for task in tasks]
        assert max(done) == 2  # each its own $0.02 ...
        assert sum(done) == 400  # ... and all of them the parent's $4
        assert (parent.spent, parent.reserved, parent.remaining, parent.calls) == (4, 0, 0, 400)

    asyncio.run(main())


def test_one_run_entered_by_many_at_once(b: Budget) -> None:
    run = b.run(agent="shared")
    barrier = threading.Barrier(8)

    def work(_: int) -> tuple[Run | None, Run | None]:
        with run:
            barrier.wait(10)
            inside = current()
            barrier.wait(10)
        return inside, current()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [(run, None)] * 8
        assert list(pool.map(lambda _: current(), range(8))) == [None] * 8

    async def task() -> tuple[Run | None, Run | None]:
        async with run:
            await asyncio.sleep(0)
            inside = current()
        return inside, current()

    async def main() -> None:
        assert await asyncio.gather(*(task() for _ in range(8))) == [(run, None)] * 8

    asyncio.run(main())


def test_runs_that_end_in_another_order(b: Budget) -> None:
    one, two = b.run(), b.run()
    one.__enter__()
    two.__enter__()
    one.__exit__()
    assert current() is two
    two.__exit__()
    assert current() is None
    contextvars.copy_context().run(one.__enter__)
    one.__exit__()  # it was never entered here
    assert current() is None
    with one, one:
        pass
    assert current() is None


def test_threads_of_an_executor(b: Budget) -> None:
    def work(n: int) -> str:
        return f"{b.reserve('$0').scope.get('run')} {n}"

    with ThreadPoolExecutor(4) as pool, b.run() as run:
        assert pool.submit(work, 1).result() == "None 1"  # what Python does
        assert pool.submit(run.inside(work), 1).result() == f"{run.id} 1"
        assert list(pool.map(run.inside(work), range(50))) == [f"{run.id} {n}" for n in range(50)]
        assert pool.submit(contextvars.copy_context().run, work, 2).result() == f"{run.id} 2"
    assert run.inside(work).__name__ == "work"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with b.run() as run:
            assert await asyncio.to_thread(work, 1) == f"{run.id} 1"
            assert await loop.run_in_executor(None, run.inside(work), 1) == f"{run.id} 1"

    asyncio.run(main())


def _generate() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("wrong", [None, 3, asyncio.sleep, _generate])
def test_what_cannot_be_called_inside(b: Budget, wrong: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="inside"):
        b.run().inside(wrong)


@pytest.mark.parametrize("later", [asyncio.sleep, _generate, contextlib.contextmanager(_generate)])
def test_what_cannot_be_called_inside_behind_another_decorator(b: Budget, later: Callable[..., Any]) -> None:
    def plain(*given: Any) -> Any:
        return later(*given)

    with pytest.raises(ArgumentTypeError, match="inside"):
        b.run().inside(plain)(*[0] * (later is asyncio.sleep))
    assert current() is None


def test_a_call_through_another_engine_inside_runs_of_both(b: Budget) -> None:
    with Budget("memory://") as other:
        with b.run("$1"), other.run(user="alice"), pytest.raises(ConfigError, match="engine"):
            other.reserve("$0")
        with b.run(user="alice"), other.run("$1") as run:
            assert other.reserve("$1").scope == {"user": "alice", "run": run.id}
            with pytest.raises(BudgetExceeded):
                other.reserve("$1")


# What a model may be told.


def test_disclosure(b: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    with b.run(user="alice") as run:
        assert run.disclosure() == ""
    with b.run("$2", max_calls=50) as run:
        assert run.disclosure() == "Left in this run: $2.00 of $2.00, 50 of 50 calls."
        b.reconcile(b.reserve("$0.50"), usd="0.38")
        b.reserve("$0.25")
        assert run.disclosure() == "Left in this run: $1.37 of $2.00, 48 of 50 calls."
        with b.run("$1.50", max_calls=60):
            inner = current()
            assert inner is not None
            assert inner.disclosure() == "Left in this run: $1.37 of $2.00, 48 of 50 calls."
        b.record(usd="9")
        assert run.disclosure() == "Left in this run: $0.00 of $2.00, 47 of 50 calls."
    monkeypatch.setattr(b.engine.verbs, "now", lambda: 1_700_000_000_000_000)
    with b.run("500k tokens", deadline=90.5, velocity="$1/minute", cap="$1") as run:
        assert run.disclosure() == "Left in this run: 500,000 of 500,000 tokens, 90 seconds."


def test_disclosure_asks_nobody(b: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    run = b.run("$2", deadline=90)
    monkeypatch.setattr(b.engine, "drive", None)
    monkeypatch.setattr(b.engine.verbs, "drive", None)
    assert run.disclosure().startswith("Left in this run: $2.00 of $2.00")


# Arguments.

WRONG: list[tuple[type[BudgetError], str, dict[str, Any]]] = [
    (ConfigError, "loop", {"loop": 1}), (ConfigError, "loop", {"loop": "often"}),
    (ArgumentTypeError, "loop", {"loop": 3.0}), (ArgumentTypeError, "loop", {"loop": True}),
    (ConfigError, "velocity", {"velocity": "$1/day"}), (ConfigError, "velocity", {"velocity": "$1/run"}),
    (ConfigError, "velocity", {"velocity": "user=alice $1/minute"}), (ConfigError, "^velocity", {"velocity": "$1"}),
    (ConfigError, "velocity", {"velocity": "per=user $1/minute"}),
    (ConfigError, "^velocity", {"velocity": "fast/minute"}),
    (ConfigError, "velocity", {"velocity": "8 concurrent"}), (ArgumentTypeError, "velocity", {"velocity": Decimal(1)}),
    (ArgumentTypeError, "velocity", {"velocity": 1}), (ConfigError, "^cap", {"cap": "much"}),
    (ConfigError, "^max_calls", {"max_calls": 2**60}),
    (ConfigError, "on_short", {"on_short": "panic"}), (ArgumentTypeError, "on_short", {"on_short": 3}),
    (ConfigError, "deadline", {"deadline": 0}), (ConfigError, "deadline", {"deadline": float("nan")}),
    (ArgumentTypeError, "deadline", {"deadline": "60"}), (ArgumentTypeError, "max_calls", {"max_calls": "3"}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "name", "options"), WRONG)
def test_arguments_that_cannot_be_used(b: Budget, error: type[BudgetError], name: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=name):
        b.run(**options)


GIVEN: dict[str, tuple[Any, Callable[[Run], object]]] = {
    "cap": ("$1", lambda run: run.limits[0].window.kind),
    "max_calls": (3, lambda run: run.limits[0].quantity),
    "deadline": (600, lambda run: run.remaining_seconds() is not None),
    "loop": (3, lambda run: run.guard and str(run.guard.rule)),
    "velocity": ("$1/minute", lambda run: str(run.limits[0].window)),
    "on_short": ("clamp", lambda run: run.on_short),
    "id": ("r1", lambda run: run.id),
    "user": ("alice", lambda run: run.scope["user"]),
}


@pytest.mark.parametrize("name", GIVEN)
def test_every_option_is_a_constant_or_a_callable(b: Budget, name: str) -> None:
    value, look = GIVEN[name]

    def probe(word: str) -> object:
        run = current()
        assert run is not None
        return look(run)

    constant = budgeted(budget=b, **{name: value})(probe)("x")
    computed = budgeted(budget=b, **{name: lambda word: value if word == "x" else 1 / 0})(probe)("x")
    assert constant == computed
    assert constant


def test_a_loop_with_a_key_is_a_constant_too(b: Budget) -> None:
    @budgeted(budget=b, loop=Loop(2, key=lambda name, arguments: name))
    def work() -> None:
        run = current()
        assert run is not None
        run.tool("f", 1)
        run.tool("f", 2)

    with pytest.raises(RunStopped):
        work()


# The refusal as others get it.


def test_the_keys_of_a_refusal_stay(b: Budget) -> None:
    b.limits.set("$1/day", user="alice")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$2", user="alice")
    fields = [
        "limit", "subject", "unit", "spent", "reserved", "requested", "available", "resets_at", "verdict",
    ]  # fmt: skip
    found = caught.value.to_dict()
    assert list(found) == ["error", *fields, "scope", "max_tokens", "refusals"]
    assert [list(refusal) for refusal in found["refusals"]] == [fields]
    assert (found["error"], found["limit"], found["subject"]) == ("BudgetExceeded", "user=alice $1/day", "user=alice")
    assert (found["spent"], found["requested"], found["available"]) == ("0", "2", "1")
    with b.run(loop=2, id="r1") as run:
        run.tool("f")
        with pytest.raises(RunStopped) as stopped:
            run.tool("f")
    assert stopped.value.to_dict() == {
        "error": "RunStopped", "limit": None, "subject": "run=r1", "unit": "loop", "spent": 2, "reserved": 0,
        "requested": 0, "available": 0, "resets_at": None, "verdict": "never", "scope": {"run": "r1"},
        "max_tokens": None, "refusals": [stopped.value.refusal.to_dict()],
    }  # fmt: skip


def test_a_limit_of_its_own_in_a_run_is_text_that_reads_back() -> None:
    with Budget("memory://") as b:
        for run in (b.run("$2", cap="$1", max_calls=3, velocity="$1/minute", id="a b'c"),):
            assert [Limit(str(limit)) for limit in run.limits] == list(run.limits)
    assert "BUDGET_RUN" not in os.environ
