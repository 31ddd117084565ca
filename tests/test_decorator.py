"""`@budgeted` on functions, coroutines, generators and async generators."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

import budget as package
from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, RunStopped, budgeted
from budget.run import current


@pytest.fixture
def b() -> Iterator[Budget]:
    with Budget("memory://") as made:
        yield made


def scope() -> dict[str, str]:
    run = current()
    return {} if run is None else {k: v for k, v in run.scope.items() if k != "run"}


def runs(b: Budget) -> list[str]:
    return [entry.scope["run"] for entry in b.entries() if entry.kind == "reserved"]


# What it can be put on.


def test_a_function(b: Budget) -> None:
    @budgeted("$2", agent="researcher")
    def work(x: int, *, y: int) -> tuple[int, dict[str, str]]:
        """What it does."""
        b.reserve("$1.50")
        return x + y, scope()

    assert work(1, y=2) == (3, {"agent": "researcher"})
    assert work(1, y=2)[0] == 3  # each call is a new run
    assert len(set(runs(b))) == 2
    assert current() is None
    assert (work.__name__, work.__doc__) == ("work", "What it does.")
    assert list(inspect.signature(work).parameters) == ["x", "y"]


def test_a_coroutine(b: Budget) -> None:
    @budgeted("$2", agent="researcher")
    async def work(x: int) -> dict[str, str]:
        await b.aio.reserve("$1.50")
        await asyncio.sleep(0)
        with pytest.raises(BudgetExceeded):
            await b.aio.reserve("$1")
        return scope()

    async def main() -> None:
        assert await asyncio.gather(work(1), work(2)) == [{"agent": "researcher"}] * 2
        assert current() is None

    assert inspect.iscoroutinefunction(work)
    asyncio.run(main())
    assert len(set(runs(b))) == 2


def test_a_generator(b: Budget) -> None:
    @budgeted("$2", agent="researcher")
    def work(n: int) -> Iterator[Any]:
        for _ in range(n):
            b.reserve("$0.10")
            got = yield scope()
            if got is not None:
                yield got
        return "end"

    assert inspect.isgeneratorfunction(inspect.unwrap(work))
    steps = work(2)
    assert list(b.entries()) == []  # it begins at the first next
    for _ in range(2):
        assert next(steps) == {"agent": "researcher"}
        assert current() is None  # between yields the caller is itself
        b.reserve("$0")
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert end.value.value == "end"
    named = [entry.scope.get("run") for entry in b.entries()]
    assert named == [named[0], None, named[0], None]
    assert named[0] is not None
    steps = work(1)
    next(steps)
    assert steps.send("ping") == "ping"  # type: ignore[attr-defined]


def test_an_async_generator(b: Budget) -> None:
    @budgeted("$2", agent="researcher")
    async def work(n: int) -> AsyncIterator[dict[str, str]]:
        for _ in range(n):
            await b.aio.reserve("$0.10")
            yield scope()

    async def main() -> None:
        steps = work(2)
        assert list(b.entries()) == []
        async for item in steps:
            assert item == {"agent": "researcher"}
            assert current() is None
            await b.aio.reserve("$0")

    asyncio.run(main())
    named = [entry.scope.get("run") for entry in b.entries()]
    assert named == [named[0], None, named[0], None]


def test_bare(b: Budget) -> None:
    @budgeted
    def work() -> int:
        run = current()
        assert run is not None
        package.engine.default_engine().reserve("$5")
        assert run.remaining is None
        return run.calls

    @budgeted
    async def awaited() -> int:
        return work()

    @budgeted()
    def called() -> int:
        return work()

    assert (work(), asyncio.run(awaited()), called()) == (1, 1, 1)


def test_methods(b: Budget) -> None:
    class Agent:
        name = "alice"

        @budgeted("$1", user=lambda self, x: self.name)
        def work(self, x: int) -> dict[str, str]:
            return scope()

        @staticmethod
        @budgeted("$1", user="s")
        def static() -> dict[str, str]:
            return scope()

        @classmethod
        @budgeted("$1", user="c")
        def of(cls) -> dict[str, str]:
            return scope()

    assert [Agent().work(1), Agent.static(), Agent.of()] == [{"user": "alice"}, {"user": "s"}, {"user": "c"}]


def test_what_is_no_function() -> None:
    with pytest.raises(ArgumentTypeError):
        budgeted("$2")("not a function")
    with pytest.raises(ArgumentTypeError):
        budgeted("$2")(type("A", (), {}))


# Arguments.


def test_arguments_that_depend_on_the_call(b: Budget) -> None:
    @budgeted(
        lambda job: job.money,
        user=lambda job: job.owner,
        agent="a",
        cap=lambda job: "$0.30",
        max_calls=lambda job: job.calls,
    )
    def work(job: Any) -> tuple[dict[str, str], list[str]]:
        run = current()
        assert run is not None
        return scope(), [limit.rule for limit in run.limits]

    for owner, amount, calls in (("alice", "$2", 3), ("bob", "$4", 5)):
        found = work(SimpleNamespace(owner=owner, money=amount, calls=calls))
        assert found == ({"user": owner, "agent": "a"}, [f"{amount}/run", "$0.3/request", f"{calls} requests/run"])


def test_wrong_arguments_are_told_at_the_call(b: Budget) -> None:
    ran = []
    for options, kind in (({"user": 5}, TypeError), ({"user": ""}, ConfigError), ({"max_calls": 0}, ConfigError),
                          ({"deadline": -1}, ConfigError), ({"loop": 1}, ConfigError)):  # fmt: skip
        with pytest.raises(kind):
            budgeted("$2", **options)(lambda: ran.append(1))()
    for limit, kind in ((2, TypeError), (2.0, TypeError), ("$2/day", ConfigError), ("-2", ConfigError)):
        with pytest.raises(kind):
            budgeted(limit)(lambda: ran.append(1))()
    assert ran == []


# Guards and nesting.


def test_guards(b: Budget) -> None:
    @budgeted("$2", max_calls=2)
    def work(calls: int) -> int:
        for _ in range(calls):
            b.reserve("$0.10")
        return calls

    assert work(2) == 2
    with pytest.raises(RunStopped):
        work(3)
    assert work(2) == 2
    assert current() is None

    @budgeted(deadline=1e-9)
    def late() -> None:
        b.reserve("$0")

    with pytest.raises(RunStopped):
        late()


def test_nesting(b: Budget) -> None:
    @budgeted("$1", agent="inner")
    def inner(usd: str) -> dict[str, str]:
        b.reserve(usd)
        return scope()

    @budgeted("$1.50", agent="outer", user="alice")
    def outer() -> None:
        assert inner("$1") == {"agent": "inner", "user": "alice"}
        assert scope() == {"agent": "outer", "user": "alice"}
        with pytest.raises(BudgetExceeded):
            inner("$1")  # the outer run has $0.50 left
        inner("$0.50")

    outer()
    with b.run("$0.10"), pytest.raises(BudgetExceeded):
        inner("$0.20")


def test_recursion(b: Budget) -> None:
    @budgeted("$1")
    def work(depth: int) -> int:
        b.reserve("$0.10")
        run = current()
        assert run is not None
        return len(list(run.chain())) if depth == 0 else work(depth - 1)

    assert work(3) == 4
    assert current() is None


def test_a_generator_inside_a_run(b: Budget) -> None:
    @budgeted("$1", agent="inner")
    def work() -> Iterator[dict[str, str]]:
        while True:
            b.reserve("$0.10")
            yield scope()

    with b.run(agent="outer") as outer:
        steps = work()
        assert next(steps) == {"agent": "inner"}
        assert current() is outer
        steps.close()  # type: ignore[attr-defined]
        assert current() is outer
    with pytest.raises(BudgetExceeded):
        for _ in work():
            pass
    assert current() is None


# Endings.


def test_leaving_a_generator_early(b: Budget) -> None:
    seen: list[Any] = []

    @budgeted("$1", agent="a")
    def work() -> Iterator[int]:
        with b.reservation("$0.40") as guard:
            try:
                yield 1
                yield 2
            finally:
                seen.append(scope())
                guard.reconcile(usd="0.10")

    for _ in work():
        break
    steps = work()
    assert next(steps) == 1
    steps.close()  # type: ignore[attr-defined]
    assert seen == [{"agent": "a"}] * 2  # the body's end runs inside its run
    assert current() is None
    assert [entry.usd for entry in b.entries() if entry.kind == "reconciled"] == [Decimal("0.1")] * 2
    assert b.engine.store.reservations("default") == []


def test_leaving_an_async_generator_early(b: Budget) -> None:
    seen: list[Any] = []

    @budgeted("$1", agent="a")
    async def work() -> AsyncIterator[int]:
        async with b.reservation("$0.40") as guard:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0)
                seen.append(scope())
                guard.reconcile(usd="0.10")

    async def main() -> None:
        steps = work()
        assert await anext(steps) == 1
        await steps.aclose()  # type: ignore[attr-defined]
        async for _ in work():
            break
        while len(seen) < 2:  # the loop closes what was dropped, in a task of its own
            await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == [{"agent": "a"}] * 2
    assert b.engine.store.reservations("default") == []


def test_a_generator_that_was_never_begun(b: Budget) -> None:
    made = []

    @budgeted(lambda: made.append(1) or "$1")
    def work() -> Iterator[int]:
        yield 1

    @budgeted(lambda: made.append(1) or "$1")
    async def awaited() -> AsyncIterator[int]:
        yield 1

    work().close()  # type: ignore[attr-defined]
    asyncio.run(awaited().aclose())  # type: ignore[attr-defined]
    assert made == []


@pytest.mark.parametrize("depth", [0, 1])
def test_exceptions_pass(b: Budget, depth: int) -> None:
    @budgeted("$1")
    def work() -> None:
        raise KeyError("x")

    @budgeted("$1")
    async def awaited() -> None:
        raise KeyError("x")

    @budgeted("$1")
    def steps() -> Iterator[int]:
        yield from range(depth)
        raise KeyError("x")

    @budgeted("$1")
    async def asteps() -> AsyncIterator[int]:
        for n in range(depth):
            yield n
        raise KeyError("x")

    async def consume() -> None:
        async for _ in asteps():
            pass

    acts: list[Callable[[], Any]] = [
        work, lambda: asyncio.run(awaited()), lambda: list(steps()), lambda: asyncio.run(consume())
    ]  # fmt: skip
    for act in acts:
        with pytest.raises(KeyError):
            act()
        assert current() is None


def test_exceptions_thrown_into_a_generator(b: Budget) -> None:
    @budgeted("$1", agent="a")
    def steps() -> Iterator[Any]:
        try:
            yield 1
        except KeyError:
            yield scope()

    @budgeted("$1", agent="a")
    async def asteps() -> AsyncIterator[Any]:
        try:
            yield 1
        except KeyError:
            yield scope()

    made = steps()
    next(made)
    assert made.throw(KeyError("x")) == {"agent": "a"}  # type: ignore[attr-defined]
    assert current() is None

    async def main() -> None:
        made = asteps()
        await anext(made)
        assert await made.athrow(KeyError("x")) == {"agent": "a"}  # type: ignore[attr-defined]
        assert current() is None

    asyncio.run(main())


def test_interleaved_generators_keep_their_own_runs(b: Budget) -> None:
    @budgeted("$1", user=lambda name: name)
    def work(name: str) -> Iterator[str]:
        while True:
            yield b.reserve("$0.10").scope["user"]

    one, two = work("alice"), work("bob")
    assert [next(steps) for steps in (one, two, one, two, two, one)] == ["alice", "bob", "alice", "bob", "bob", "alice"]
    assert len(set(runs(b))) == 2
    two.close()  # type: ignore[attr-defined]
    assert next(one) == "alice"
    assert current() is None


# Which engine.


def test_the_default_engine_is_the_first(b: Budget) -> None:
    with Budget("memory://") as other:

        @budgeted("$1")
        def work() -> None:
            b.reserve("$0.10")

        @other.budgeted("$1")
        def elsewhere() -> None:
            other.reserve("$0.10")
            with pytest.raises(ConfigError):
                b.reserve("$0.10")

        @budgeted("$1", budget=other)
        def named() -> None:
            other.reserve("$0.10")

        work()
        elsewhere()
        named()
        assert (len(runs(b)), len(runs(other))) == (1, 2)
