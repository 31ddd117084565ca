"""Steps: what sync and async clients do alike is written once, as a generator of what each does.

A step is a pair: what a sync client calls, and what an async one awaits. The generator gets back what that returned, or
has the `BudgetExceeded` that it raised thrown in; every other error leaves it alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextvars import copy_context
from functools import partial
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from budget.errors import BudgetExceeded

__all__ = ["Step", "Steps", "aanswer_of", "adrive", "answer_of", "drive", "in_thread"]

Step = tuple[Callable[[], Any], Callable[[], Awaitable[Any]]]
Steps = Generator[Step, Any, BudgetExceeded | None]


def answer_of(asked: Callable[[BudgetExceeded], Any], refused: BudgetExceeded) -> Any:
    """Return what a function, or a coroutine function, answers to a refusal, blocking."""
    answer = asked(refused)
    if not isawaitable(answer):
        return answer
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def whole() -> Any:
        return await answer

    with ThreadPoolExecutor(1) as thread:  # here may be a loop that runs: a sync client is used in one, too
        return thread.submit(copy_context().run, asyncio.run, whole()).result()


async def aanswer_of(asked: Callable[[BudgetExceeded], Any], refused: BudgetExceeded) -> Any:
    """Return it without blocking the event loop: what is no coroutine function is called in a thread."""
    answer = asked(refused) if iscoroutinefunction(asked) else await in_thread(partial(asked, refused))
    return await answer if isawaitable(answer) else answer


async def in_thread(work: Callable[[], Any]) -> Any:
    """Return what a function returns, without blocking the event loop."""
    import asyncio

    return await asyncio.to_thread(work)


def drive(steps: Steps) -> None:
    """Take the steps, blocking."""
    answer, error = None, None
    while True:
        try:
            step = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration:
            return
        answer, error = None, None
        try:
            answer = step[0]()
        except BudgetExceeded as refused:
            error = refused


async def adrive(steps: Steps) -> None:
    """Take the steps without blocking the event loop."""
    answer, error = None, None
    while True:
        try:
            step = steps.send(answer) if error is None else steps.throw(error)
        except StopIteration:
            return
        answer, error = None, None
        try:
            answer = await step[1]()
        except BudgetExceeded as refused:
            error = refused
