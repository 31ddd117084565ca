"""`@budgeted`: each call of a function is a run.

Functions, coroutines, generators and async generators alike. In a generator the run is active only while its body
executes, never between yields, so that the consumer's own calls are not counted in it; it begins at the first `next`
and ends when the generator does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, TypeVar, overload

from budget.errors import ArgumentTypeError

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
        limit: What one run may spend: "$2". Bare `@budgeted` limits nothing, but counts.
        budget: The engine; the default one if not given.
        **options: What `Budget.run` takes: `cap`, `max_calls`, `deadline`, `loop`, `velocity`, `on_short`, `id`, and
            attributes such as `user=`. Each, and the limit, is a constant or a callable of the call's arguments.

    Raises:
        ArgumentTypeError: What is decorated is not a function.
        ConfigError, ArgumentTypeError: At the call, if an option cannot be used.
    """
    if inspect.isroutine(limit) and not options and budget is None and _name(limit) != "<lambda>":
        return _decorate(limit, functools.partial(_make_run, budget, None, {}))

    def decorate(function: F) -> F:
        return _decorate(function, functools.partial(_make_run, budget, limit, options))

    return decorate


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")


def _make_run(budget: Budget | None, limit: Any, options: dict[str, Any], args: Any, kwargs: Any) -> Run:
    def resolve(value: Any) -> Any:
        return value(*args, **kwargs) if callable(value) else value

    if budget is None:
        from budget.engine import default_engine

        budget = default_engine()
    return budget.run(resolve(limit), **{name: resolve(value) for name, value in options.items()})


def _decorate(function: F, make: Callable[[Any, Any], Run]) -> F:
    if not inspect.isroutine(function):
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
            with make(args, kwargs):
                return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]


def _generate(make: Callable[[], Run], body: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    run = make()
    step: Callable[[Any], Any] = body.send
    sent: Any = None
    try:
        while True:
            try:
                with run:
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
        with run:
            body.close()


async def _agenerate(make: Callable[[], Run], body: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    run = make()
    step: Callable[[Any], Any] = body.asend
    sent: Any = None
    try:
        while True:
            try:
                with run:
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
        with run:
            await body.aclose()
