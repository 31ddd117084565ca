"""`@budgeted`: each call of a function is a run.

Functions, coroutines, generators and async generators alike. In a generator the run is active only while its body
executes, never between yields, so that the consumer's own calls are not counted in it; it begins at the first `next`
and ends when the generator does. So it is with what the body enters itself, runs and blocks, and holds over a yield.

What a plain function returns may be a coroutine or generator, as behind another decorator, or a context manager made of
one: its body is in the run too, which has begun with the call then.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager
from contextvars import ContextVar, Token
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from budget.errors import ArgumentTypeError
from budget.run import STACK

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.run import Run

__all__ = ["budgeted"]

F = TypeVar("F", bound=Callable[..., Any])


@overload
def budgeted(limit: F, /) -> F: ...


@overload
def budgeted(limit: object = None, /, *, budget: Budget | None = None, **options: Any) -> Callable[[F], F]: ...


def budgeted(limit: Any = None, /, *, budget: Budget | None = None, **options: Any) -> Any:
    """Make each call of a function a run.

    Args:
        limit: What one run may spend: "$2". Bare `@budgeted` limits nothing, but counts: a function that is given alone
            is what is decorated, unless it is a lambda, which says the limit.
        budget: The engine; the default one if not given.
        **options: What `Budget.run` takes: `cap`, `max_calls`, `deadline`, `loop`, `velocity`, `on_short`, `id`, and
            attributes such as `user=`. Each, and the limit, is a constant or a callable of the call's arguments.

    Raises:
        ArgumentTypeError: What is decorated is not a function.
        ConfigError, ArgumentTypeError: At the call, if an option cannot be used.
    """
    if inspect.isroutine(limit) and not options and not _is_lambda(limit):
        return _decorate(limit, functools.partial(_make_run, budget, None, {}))

    def decorate(function: Any) -> Any:
        return _decorate(function, functools.partial(_make_run, budget, limit, options))

    return decorate


def _is_lambda(function: Any) -> bool:
    return getattr(function, "__name__", "") == "<lambda>"


def _make_run(budget: Budget | None, limit: Any, options: dict[str, Any], args: Any, kwargs: Any) -> Run:
    def resolve(value: Any) -> Any:
        return value(*args, **kwargs) if callable(value) else value

    if budget is None:
        from budget.engine import default_engine

        budget = default_engine()
    return budget.run(resolve(limit), **{name: resolve(value) for name, value in options.items()})


def _decorate(function: Any, make: Callable[[Any, Any], Run]) -> Any:
    if isinstance(function, staticmethod | classmethod):
        return type(function)(_decorate(function.__func__, make))
    if not inspect.isroutine(function) or not callable(function):
        raise ArgumentTypeError(
            f"budgeted: {type(function).__name__} is not a function; put '@budgeted(...)' above a def"
        )
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _agenerate(lambda: make(args, kwargs), function(*args, **kwargs))

    elif inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return _generate(lambda: make(args, kwargs), function(*args, **kwargs))

    elif inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            with make(args, kwargs):
                return await function(*args, **kwargs)

    else:

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            run = make(args, kwargs)
            with run:
                found = function(*args, **kwargs)
            drive = _DRIVERS.get(type(found))
            return found if drive is None else drive(lambda: run, found)

    return wrapper


# A body that is executed later.


class _Body:
    """The runs and blocks that a body has entered which is executed in steps: each step is a `with` block.

    Within one they are what is entered; before and after it, whatever its consumer has entered.
    """

    def __init__(self, run: Run):
        from budget.guard import BLOCKS

        self._kept: dict[ContextVar[Any], Any] = {STACK: (*STACK.get(), run), BLOCKS: BLOCKS.get()}
        self._tokens: list[Token[Any]] = []

    def __enter__(self) -> None:
        self._tokens = [stack.set(kept) for stack, kept in self._kept.items()]

    def __exit__(self, *_: object) -> None:
        for stack, token in zip(self._kept, self._tokens, strict=True):
            kept = stack.get()
            try:
                stack.reset(token)
            except ValueError:  # it ends in another context, as what is dropped half-way may: nothing was entered there
                return
            self._kept[stack] = kept


async def _await(make: Callable[[], Run], body: Coroutine[Any, Any, Any]) -> Any:
    with make():
        return await body


def _generate(make: Callable[[], Run], body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    inside = _Body(make())
    step: Callable[[Any], Any] = body.send
    sent: Any = None
    try:
        while True:
            try:
                with inside:
                    item = step(sent)
            except StopIteration as end:
                return end.value
            try:
                sent, step = (yield item), body.send
            except GeneratorExit:
                raise
            except BaseException as thrown:
                sent, step = thrown, body.throw
    finally:
        with inside:
            body.close()


async def _agenerate(make: Callable[[], Run], body: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    inside = _Body(make())
    step: Callable[[Any], Any] = body.asend
    sent: Any = None
    try:
        while True:
            try:
                with inside:
                    item = await step(sent)
            except StopAsyncIteration:
                return
            try:
                sent, step = (yield item), body.asend
            except GeneratorExit:
                raise
            except BaseException as thrown:
                sent, step = thrown, body.athrow
    finally:
        with inside:
            await body.aclose()


def _manage(make: Callable[[], Run], manager: Any) -> Any:
    manager.gen = _DRIVERS[type(manager.gen)](make, manager.gen)
    return manager


_DRIVERS: dict[type, Callable[[Callable[[], Run], Any], Any]] = {
    CoroutineType: _await, GeneratorType: _generate, AsyncGeneratorType: _agenerate,
    _GeneratorContextManager: _manage, _AsyncGeneratorContextManager: _manage,
}  # fmt: skip
"""What executes in its run what a function has returned instead of an answer."""
