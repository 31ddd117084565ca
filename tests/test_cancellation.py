"""A task may be cancelled at any await of any verb: nothing stays reserved, and the books balance."""

from __future__ import annotations

import asyncio
import gc
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from conftest import books

from budget import Budget, BudgetExceeded, Limit
from budget.commands import Status

Act = Callable[[Budget], Coroutine[Any, Any, Any]]


@pytest.fixture
def b(shared_url: str) -> Iterator[Budget]:
    limits = ["$1000/day", Limit("1 concurrent", agent="one"), Limit("1 concurrent", agent="two")]
    with Budget(shared_url, limits=limits, store_timeout=30) as made:
        made.status()  # it is open; the first opening is cancelled in tests of its own
        yield made


async def _reserve(b: Budget) -> None:
    held = await b.aio.reserve("$0.01", user="alice")
    await b.aio.refund(held)


async def _reconcile(b: Budget) -> None:
    held = b.reserve("$0.01", user="alice")
    await b.aio.reconcile(held, usd="0.004")


async def _refund(b: Budget) -> None:
    held = b.reserve("$0.01", user="alice")
    await b.aio.refund(held)


async def _block(b: Budget) -> None:
    async with b.reservation("$0.01", user="alice"):
        await asyncio.sleep(0)


async def _block_that_reconciles(b: Budget) -> None:
    async with b.reservation("$0.01", user="alice") as guard:
        await asyncio.sleep(0)
        guard.reconcile(usd="0.004")
        await asyncio.sleep(0)


async def _run_in_a_run(b: Budget) -> None:
    async with b.run("$1", user="alice"), b.reservation("$0.01"):
        await asyncio.sleep(0)


async def _decorated(b: Budget) -> None:
    @b.budgeted("$1", user="alice")
    async def steps() -> Any:
        for _ in range(2):
            async with b.reservation("$0.01"):
                yield

    made = steps()
    try:
        async for _ in made:
            await asyncio.sleep(0)
    finally:
        await made.aclose()


async def _wait(b: Budget) -> None:
    """Wait for a slot that is given back meanwhile."""
    held = await b.aio.reserve("$0.01", agent="one")
    waits = asyncio.create_task(b.aio.reserve("$0.01", agent="one", wait=30))
    try:
        await asyncio.sleep(0.002)
    finally:
        b.refund(held)
        try:
            b.refund(await waits)
        except asyncio.CancelledError:
            waits.cancel()
            with suppress(asyncio.CancelledError):
                b.refund(await waits)
            raise


async def _wait_in_a_block(b: Budget) -> None:
    """Wait for a slot in vain."""
    held = b.reserve("$0.01", agent="two")
    try:
        with suppress(BudgetExceeded):
            async with b.reservation("$0.01", agent="two", wait=0.02):
                raise AssertionError("there is no slot")
    finally:
        b.refund(held)


ACTS = [_reserve, _reconcile, _refund, _block, _block_that_reconciles, _run_in_a_run, _decorated]
WAITS = [_wait, _wait_in_a_block]


class Stepper:
    """Drives a coroutine and cancels it after so many of its waits."""

    def __init__(self, work: Coroutine[Any, Any, Any], cancel_at: int, again: bool):
        self.work, self.cancel_at, self.again, self.waits = work, cancel_at, again, 0

    async def run(self) -> bool:
        """Return whether it was cancelled before it was done."""
        task = asyncio.create_task(self._count())
        with suppress(asyncio.CancelledError):
            await task
        return task.cancelled()

    async def _count(self) -> Any:
        return await _Counted(self)


class _Counted:
    def __init__(self, stepper: Stepper):
        self.stepper = stepper

    def __await__(self) -> Any:
        stepper, work = self.stepper, self.stepper.work
        send: Callable[..., Any] = work.send
        value: Any = None
        while True:
            try:
                waited = send(value)
            except StopIteration as end:
                return end.value
            stepper.waits += 1
            if stepper.waits == stepper.cancel_at or (stepper.again and stepper.waits == stepper.cancel_at + 1):
                asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # type: ignore[union-attr]
            try:
                value, send = (yield waited), work.send
            except BaseException as error:
                value, send = error, work.throw


def settle(b: Budget) -> None:
    """Let everything that was handed over be carried out, also by what nobody holds any more."""
    gc.collect()
    b.engine.store.call("default", Status([]), 30.0)


def check(b: Budget) -> None:
    settle(b)
    assert b.engine.store.reservations("default") == []
    state, *slots = b.status()
    assert [pool.reserved for pool in (state, *slots)] == [0] * (1 + len(slots))
    assert not b.engine.verbs.line._places
    assert state.spent == sum((entry.usd for entry in b.entries()), Decimal(0))
    assert books(b.engine.store).ok


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("act", [*ACTS, *WAITS])
def test_cancelled_at_every_await(b: Budget, act: Act, again: bool) -> None:
    async def main() -> int:
        cancelled = 0
        for cancel_at in range(1, 40):
            stepper = Stepper(act(b), cancel_at, again)
            if await stepper.run():
                cancelled += 1
            elif stepper.waits < cancel_at:
                break
        return cancelled

    assert asyncio.run(main()) >= 1
    check(b)


def test_cancelled_at_random(b: Budget) -> None:
    """Hundreds of tasks at once, each cancelled somewhere, some of them twice."""
    chance = random.Random(20260101)

    async def main() -> None:
        for _ in range(6):
            tasks = [asyncio.create_task(act(b)) for act in ACTS * 8]
            for _ in range(30):
                await asyncio.sleep(chance.choice([0, 0, 0.0005]))
                for task in chance.sample(tasks, 4):
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    check(b)
    kinds = [entry.kind for entry in b.entries()]
    assert kinds.count("reserved") > 50


def test_a_timeout_around_a_reserve(b: Budget) -> None:
    async def main() -> None:
        for _ in range(50):
            with suppress(TimeoutError):
                async with asyncio.timeout(0):
                    await b.aio.reserve("$0.01", user="alice")

    asyncio.run(main())
    check(b)


def test_a_cancelled_reconcile_books_what_it_was_told(b: Budget) -> None:
    """Not the reservation, and not nothing."""

    async def main() -> None:
        for _ in range(20):
            held = b.reserve("$0.01", user="alice")
            task = asyncio.create_task(b.aio.reconcile(held, usd="0.004"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    check(b)
    assert b.status()[0].spent == Decimal("0.08")


def test_a_reconcile_cancelled_while_the_store_opens(shared_url: str) -> None:
    """What a verb was told to book is booked, also if the store had to be opened for it."""
    with Budget(shared_url, limits=["$1000/day"]) as first:
        held = first.reserve("$0.01", user="alice")
    b = Budget(shared_url, limits=["$1000/day"])

    async def main() -> None:
        task = asyncio.create_task(b.aio.reconcile(held, usd="0.004"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    check(b)
    assert b.status()[0].spent == Decimal("0.004")
    b.close()


def test_a_reserve_cancelled_while_the_store_opens(shared_url: str) -> None:
    b = Budget(shared_url, limits=["$1000/day"])

    async def main() -> None:
        task = asyncio.create_task(b.aio.reserve("$0.01", user="alice"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    check(b)
    b.close()


def test_cancelled_at_every_await_of_the_opening(shared_url: str) -> None:
    """A connection that is half made is closed again, and the store opens at the next try."""
    for cancel_at in range(1, 100):
        b = Budget(shared_url, limits=["$1000/day"], store_timeout=30)
        stepper = Stepper(_reconcile_by_id(b), cancel_at, False)
        done = not asyncio.run(stepper.run())
        gc.collect()
        if done:
            break
        b.close()
    assert cancel_at > 1
    check(b)
    assert [entry.kind for entry in b.entries()].count("reconciled") == 1  # the same id, however often
    b.close()


async def _reconcile_by_id(b: Budget) -> None:
    await b.aio.reconcile("f" * 32, usd="0.004")


def test_a_body_that_is_cancelled_is_charged(b: Budget) -> None:
    """It may have been sent: the reservation is the best that is known of its cost."""

    async def main() -> None:
        inside: list[None] = []

        async def work() -> None:
            async with b.reservation("$0.01", user="alice"):
                inside.append(None)
                await asyncio.sleep(3600)

        tasks = [asyncio.create_task(work()) for _ in range(200)]
        while len(inside) < 200:  # before that it is called back
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    check(b)
    assert b.status()[0].spent == 2
    assert {entry.detail.get("outcome") for entry in b.entries() if entry.kind == "reconciled"} == {"CancelledError"}


def test_a_loop_that_ends_with_tasks_in_it(b: Budget) -> None:
    """asyncio.run cancels what is left; a loop that is only closed leaves it to the lease, or to nobody at all."""
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(_block(b)) for _ in range(20)]
    loop.run_until_complete(asyncio.sleep(0))
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
    check(b)


def test_an_interrupt_in_a_block(b: Budget) -> None:
    with pytest.raises(KeyboardInterrupt), b.reservation("$0.01", user="alice"):
        raise KeyboardInterrupt
    check(b)
    assert b.status()[0].spent == Decimal("0.01")


def test_cancelled_refusals_leave_nothing(shared_url: str) -> None:
    with Budget(shared_url, limits=["$0.05/day"]) as b:
        b.status()

        async def main() -> None:
            tasks: list[Awaitable[Any]] = []
            for n in range(60):
                tasks.append(task := asyncio.create_task(b.aio.reserve("$0.01", user="alice")))
                if n % 2:
                    asyncio.get_running_loop().call_soon(task.cancel)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for held in [answer for answer in answers if not isinstance(answer, BaseException)]:
                await b.aio.refund(held)
            assert {type(answer) for answer in answers} <= {type(held), BudgetExceeded, asyncio.CancelledError}

        asyncio.run(main())
        check(b)
