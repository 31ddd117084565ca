"""`@budgeted` on functions, coroutines, generators and async generators."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import types
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import anthropic
import pytest

import budget as package
from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, RunStopped, budgeted
from budget.demo.provider import Provider
from budget.guard import set_aside
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


# Behind another decorator.


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """An ordinary decorator, as of logging or of a registry."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def every(b: Budget) -> list[Callable[..., Any]]:
    async def awaited() -> dict[str, str]:
        await asyncio.sleep(0)
        with pytest.raises(BudgetExceeded):
            await b.aio.reserve("$100")
        return scope()

    def steps() -> Iterator[dict[str, str]]:
        with pytest.raises(BudgetExceeded):
            b.reserve("$100")
        yield scope()

    async def asteps() -> AsyncIterator[dict[str, str]]:
        with pytest.raises(BudgetExceeded):
            await b.aio.reserve("$100")
        yield scope()

    def called() -> dict[str, str]:
        with pytest.raises(BudgetExceeded):
            b.reserve("$100")
        return scope()

    return [called, awaited, steps, asteps]


def outcome(made: Any) -> Any:
    """Return what a call gives, whatever it is."""

    async def first() -> Any:
        found = await (made if inspect.iscoroutine(made) else anext(made))
        assert current() is None
        return found

    if isinstance(made, dict):
        return made
    return next(made) if inspect.isgenerator(made) else asyncio.run(first())


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("other", [plain, staticmethod, classmethod])
def test_above_another_decorator(b: Budget, at: int, other: Callable[..., Any]) -> None:
    function = every(b)[at]
    inner = (lambda _: function()) if other is classmethod else function
    held = staticmethod if other is plain else lambda made: made

    class Agent:
        work = held(budgeted("$2", budget=b, agent="a")(other(inner)))

    for agent in (Agent, Agent()):
        assert outcome(agent.work()) == {"agent": "a"}
    assert current() is None
    assert b.engine.store.reservations("default") == []


@pytest.mark.parametrize("above", [True, False])
def test_beside_a_context_manager(b: Budget, above: bool) -> None:
    budgeting: Any = budgeted("$2", budget=b, agent="a")

    def steps() -> Iterator[dict[str, str]]:
        assert scope() == {"agent": "a"}
        try:
            yield scope()
        finally:
            b.reserve("$1.50")

    async def asteps() -> AsyncIterator[dict[str, str]]:
        assert scope() == {"agent": "a"}
        try:
            yield scope()
        finally:
            await b.aio.reserve("$1.50")

    def made(manager: Any, body: Any) -> Any:
        return manager(budgeting(body)) if above else budgeting(manager(body))

    async def main() -> None:
        async with made(contextlib.asynccontextmanager, asteps)() as found:
            assert (found, scope()) == ({"agent": "a"}, {})  # the block is its user's

    asyncio.run(main())
    with made(contextlib.contextmanager, steps)() as found:
        assert (found, scope()) == ({"agent": "a"}, {})
    with pytest.raises(KeyError, match="of the block"), made(contextlib.contextmanager, steps)():
        raise KeyError("of the block")
    assert len(set(runs(b))) == 3
    assert current() is None


def test_what_is_in_a_class_and_no_function() -> None:
    for wrong in (functools.cached_property(len), functools.partialmethod(len), property(len)):
        with pytest.raises(ArgumentTypeError):
            budgeted("$2")(wrong)  # type: ignore[type-var]


def test_exceptions_pass_above_another_decorator(b: Budget) -> None:
    @budgeted("$2", budget=b)
    @plain
    async def work() -> None:
        raise KeyError("x")

    made = work()
    assert current() is None
    with pytest.raises(KeyError):
        asyncio.run(made)


# Bare.


def test_bare_of_an_engine(b: Budget) -> None:
    with Budget("memory://") as other:  # b is the default one

        @other.budgeted
        def work() -> int:
            other.reserve("$5")
            run = current()
            assert run is not None
            return run.calls

        class Agent:
            @other.budgeted
            @staticmethod
            def static() -> int:
                return work()

            @other.budgeted
            @plain
            async def awaited(self) -> int:
                return work()

        assert (work(), Agent.static(), asyncio.run(Agent().awaited())) == (1, 1, 1)
        assert (len(runs(b)), len(set(runs(other)))) == (0, 3)


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


# What the body enters itself and holds over a yield.


def agent() -> str:
    return scope().get("agent", "nobody")


def test_a_run_in_a_generator_is_held_over_a_yield(b: Budget) -> None:
    @b.budgeted("$2", agent="outer")
    def work() -> Iterator[Any]:
        with b.run("$0.10", agent="inner") as inner:
            try:
                got = yield agent()
                with pytest.raises(BudgetExceeded):
                    b.reserve("$1")
                b.reserve("$0.05")
                assert (got, inner.calls) == ("ping", 1)
                yield agent()
            except KeyError:
                yield agent()
        yield agent()

    for thrown in (False, True):
        steps: Any = work()
        assert (next(steps), agent()) == ("inner", "nobody")
        with b.run(agent="consumer") as run:  # which opens one between two steps, and closes it between two others
            assert (steps.send("ping"), agent()) == ("inner", "consumer")
            if thrown:
                assert (steps.throw(KeyError("x")), agent()) == ("inner", "consumer")
        assert (next(steps), agent()) == ("outer", "nobody")
        with pytest.raises(StopIteration):
            next(steps)
        assert (current(), run.calls) == (None, 0)


def test_a_run_in_an_async_generator_is_held_over_a_yield(b: Budget) -> None:
    @b.budgeted("$2", agent="outer")
    async def work() -> AsyncIterator[Any]:
        async with b.run("$0.10", agent="inner"):
            try:
                got = yield agent()
                with pytest.raises(BudgetExceeded):
                    await b.aio.reserve("$1")
                assert got == "ping"
                yield agent()
            except KeyError:
                await asyncio.sleep(0)
                yield agent()
        yield agent()

    async def consume(thrown: bool) -> None:
        steps: Any = work()
        assert (await anext(steps), agent()) == ("inner", "nobody")
        async with b.run(agent="consumer"):
            assert (await steps.asend("ping"), agent()) == ("inner", "consumer")
            if thrown:
                assert (await steps.athrow(KeyError("x")), agent()) == ("inner", "consumer")
        assert (await anext(steps), agent()) == ("outer", "nobody")
        with pytest.raises(StopAsyncIteration):
            await anext(steps)
        assert current() is None

    async def main() -> None:
        await asyncio.gather(consume(False), consume(True))

    asyncio.run(main())


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_a_generator_that_ends_inside_its_own_run(b: Budget, error: type[Exception] | None) -> None:
    seen: list[str] = []

    @b.budgeted("$2", agent="outer")
    def work() -> Iterator[str]:
        try:
            with b.run(agent="inner"), b.run(agent="innermost"):
                try:
                    yield agent()
                    if error:
                        raise error
                finally:
                    seen.append(agent())
        finally:
            seen.append(agent())

    with b.run(agent="consumer"):
        steps: Any = work()
        assert (next(steps), agent()) == ("innermost", "consumer")
        if error is None:
            steps.close()
        else:
            with pytest.raises(error):
                next(steps)
        assert agent() == "consumer"
    assert (current(), seen) == (None, ["innermost", "outer"])


def test_an_async_generator_that_is_dropped_inside_its_own_run(b: Budget) -> None:
    seen: list[str] = []

    @b.budgeted("$2", agent="outer")
    async def work() -> AsyncIterator[str]:
        try:
            async with b.run(agent="inner"):
                try:
                    yield agent()
                finally:
                    await asyncio.sleep(0)
                    seen.append(agent())
        finally:
            seen.append(agent())

    async def main() -> None:
        async for _ in work():
            break
        while len(seen) < 2:  # the loop closes it in a task of its own
            await asyncio.sleep(0)
        assert agent() == "nobody"

    asyncio.run(main())
    assert seen == ["inner", "outer"]


def test_a_step_that_ends_in_another_context(b: Budget) -> None:
    seen: list[str] = []

    @types.coroutine
    def forever() -> Iterator[None]:
        yield

    @b.budgeted("$2", agent="outer")
    async def work() -> AsyncIterator[None]:
        try:
            async with b.run(agent="inner"):
                await forever()  # type: ignore[misc]
                yield
        finally:
            seen.append(agent())

    async def consume() -> None:
        with b.run(agent="consumer"):
            async for _ in work():
                pass

    consumer = consume()
    contextvars.copy_context().run(consumer.send, None)
    with b.run(agent="bystander"):
        with pytest.raises(KeyError):
            consumer.throw(KeyError("x"))
        assert agent() == "bystander"
    assert (seen, current()) == (["bystander"], None)


def test_a_block_in_a_generator_is_not_its_consumers(b: Budget) -> None:
    @b.budgeted("$2")
    def work() -> Iterator[bool]:
        with b.reservation("$1"):
            yield set_aside(b.engine)
            yield set_aside(b.engine)

    steps = work()
    assert (next(steps), set_aside(b.engine)) == (True, False)
    with b.reservation("$1"):
        assert (next(steps), set_aside(b.engine)) == (True, True)
    assert list(steps) == []
    assert not set_aside(b.engine)


def test_calls_of_a_wrapped_client_in_a_run_that_a_generator_holds(b: Budget) -> None:
    with Provider() as provider, anthropic.Anthropic(base_url=provider.url, api_key="key", max_retries=0) as client:
        guarded, said = b.wrap(client), [{"role": "user", "content": "a"}]

        def call() -> None:
            guarded.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=said)

        @b.budgeted("$2", agent="outer")
        def work() -> Iterator[None]:
            with b.run("$1", agent="inner"):
                call()
                yield
                call()
                yield
            call()

        with b.run(agent="consumer"):
            for _ in work():
                call()
    named = [entry.scope["agent"] for entry in b.entries() if entry.kind == "reserved"]
    assert named == ["inner", "consumer", "inner", "consumer", "outer"]


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
