"""What the seams of SDKs without a common base share: a call around the function that makes it.

Each of those SDKs has one function for a logical call and, below it, one for each HTTP attempt. `begun` stands before
the first: it reserves, or says that the call passes. `start` stands around it, and ends the call if that raises.
`attempt` stands around the second, and takes note of what was sent and answered. A context variable joins the two, so
that a request that nobody reserved for is seen at the attempt, before any byte: `backstop`. A whole answer ends its
call by `finish`; a stream by `metered.Metered` or `AsyncMetered`, whatever way it ends.

Attempts here cannot be traced into the transport: one that raised counts as sent unless its error says that no
connection was made.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from budget.clients.backstop import HOW, UnlessByHand, by_hand
from budget.clients.call import Call
from budget.clients.extras import NONE, PREFIX, Extras, read_extras
from budget.clients.protocol import Meter
from budget.errors import Unbounded
from budget.estimate import Estimate
from budget.outcome import never_connected
from budget.run import current

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = [
    "ErrorAnswer", "Event", "Spoken", "abegun", "afinish", "astart", "attempt", "backstop", "begun", "extras_of",
    "finish", "guarded_class", "refuse", "seconds", "start", "subclass", "tried",
]  # fmt: skip

T = TypeVar("T")
P = ParamSpec("P")
_CLOSED = ("Cannot send a request, as the client has been closed.", "Session is closed")
"""What httpx, both generations, and aiohttp say to who asks a closed client."""
_call: ContextVar[weakref.ref[Call] | None] = ContextVar("budget_function_call", default=None)


class Spoken:
    """What a call must know of an API: the provider as the price book names it, and the meters by endpoint."""

    traits: Mapping[str, str] = {}

    def __init__(self, provider: str | None, **meters: Callable[[Estimate], Meter]):
        self.provider, self._meters = provider, meters

    def priced(self, body: Mapping[str, Any], endpoint: str) -> Mapping[str, Any]:
        """Return a call's body with the model's name as the price book has it."""
        return body

    def meter(self, endpoint: str, estimate: Estimate) -> Meter | None:
        """Return a meter for one stream."""
        make = self._meters.get(endpoint)
        return None if make is None else make(estimate)


class Event(dict[str, Any]):
    """A JSON object whose members can be read as attributes; what is not there is None."""

    __getattr__ = dict.get


class ErrorAnswer(Exception):
    """Stands for an error answer that an SDK returns, before it raises its own error for it."""


def refuse(budget: Budget, what: str) -> None:
    """Refuse what may cost money that nobody can tell, unless money was set aside for it by hand.

    Raises:
        Unbounded: Nothing was set aside.
    """
    if not (budget.settings.disabled or by_hand(budget)):
        raise Unbounded([f"{what[:100]} is not metered in this version; {HOW}"])


def subclass(base: Any, budget: Budget, **members: Any) -> Any:
    """Return the guarded subclass of a client class, made once for each engine, under the same name."""
    made: dict[Any, Any] = vars(budget).setdefault("_guarded", {})
    if base not in made:
        made[base] = guarded_class(base, _budget_engine=budget, **members)
    return made[base]


def guarded_class(base: Any, **members: Any) -> Any:
    """Return a subclass under the same name: for classes that are not made once, and for what a call returns."""
    names = {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(base.__name__, (base,), {**names, **members})


@contextmanager
def _under_way(call: Call) -> Iterator[None]:
    outer = _call.set(weakref.ref(call))
    try:
        yield
    finally:
        _call.reset(outer)


def extras_of(body: dict[str, Any]) -> Extras:
    """Take what was given for this call alone out of a body, a dict of ours.

    Raises:
        ArgumentTypeError, ConfigError: An extra has a wrong type, a wrong value, or a name that is not known.
    """
    found = {name: body.pop(name) for name in tuple(body) if str(name).startswith(PREFIX)}
    return read_extras(found) if found else NONE


def begun(
    make: Callable[Concatenate[Budget, P], Call | None], budget: Budget, *args: P.args, **kwargs: P.kwargs
) -> Call | None:
    """Make a call and reserve for it; None if it passes.

    That is if it is free (`make` returns None), or if it has no bound or no price and money was set aside for it by
    hand: who did that says what it cost.

    Raises:
        BudgetError: Refused; nothing was sent.
    """
    with UnlessByHand(budget):
        call = make(budget, *args, **kwargs)
        if call is not None:
            call.begin()
        return call
    return None


async def abegun(
    make: Callable[Concatenate[Budget, P], Call | None], budget: Budget, *args: P.args, **kwargs: P.kwargs
) -> Call | None:
    """Like `begun`, without blocking the event loop."""
    with UnlessByHand(budget):
        call = make(budget, *args, **kwargs)
        if call is not None:
            await call.abegin()
        return call
    return None


def start(call: Call, send: Callable[[Mapping[str, Any]], T]) -> T:
    """Reserve, if `begun` has not, and send; return what came back, which does not end the call yet.

    Args:
        call: The call.
        send: Sends it; is given the fields of the body that are to be sent with other values.

    Raises:
        BudgetError: Refused; nothing was sent.
    """
    if not call.begun:
        call.begin()
    try:
        with _under_way(call):
            return send(call.changes)
    except BaseException as error:
        call.guard.end(*call.failed(error))
        raise


async def astart(call: Call, send: Callable[[Mapping[str, Any]], Awaitable[T]]) -> T:
    """Like `start`, without blocking the event loop."""
    if not call.begun:
        await call.abegin()
    try:
        with _under_way(call):
            return await send(call.changes)
    except Exception as error:
        await call.guard.aend(*call.failed(error))
        raise
    except BaseException as error:
        call.guard.post(*call.failed(error))  # cancelled: the end is booked without another wait
        raise


def finish(call: Call, answer: object) -> None:
    """End a call by its whole answer."""
    call.guard.end(*call.answered(answer))


async def afinish(call: Call, answer: object) -> None:
    """Like `finish`, without blocking the event loop."""
    await call.guard.aend(*call.answered(answer))


def backstop(budget: Budget, what: str) -> None:
    """Refuse an attempt that nobody reserved for.

    Raises:
        Unbounded: None did, nor was money set aside by hand.
    """
    if _current() is None:
        refuse(budget, what)


def _current() -> Call | None:
    reference = _call.get()
    return None if reference is None else reference()


def seconds(given: Any) -> Any:
    """Return how long an attempt may take: as given (seconds, or None for as long as it takes), or less in a run.

    Raises:
        RunStopped: The run has no time left.
    """
    run = current()
    left = None if run is None else run.remaining_seconds()
    if run is None or left is None:
        return given
    run.check_guards()
    return min(given, left) if isinstance(given, (int, float)) else left


def tried(response: Any, error: BaseException | None) -> None:
    """Take note of one HTTP attempt of the call under way: of its response, or of what was raised instead."""
    call = _current()
    if call is None or (response is None and (never_connected(error) or _was_closed(error))):
        return
    judged = _judged(error) if response is None and error is not None else response
    call.tried(judged if judged is not None and judged.status_code >= 300 else None)


def _was_closed(error: BaseException | None) -> bool:
    """Whether an HTTP client says that it was closed before, and so has sent nothing."""
    return type(error) is RuntimeError and str(error) in _CLOSED


@contextmanager
def attempt() -> Iterator[Callable[[Any], None]]:
    """Take note of the HTTP attempt inside; gives a function to be told of the response, if errors do not say it."""
    answers: list[Any] = [None]
    try:
        yield answers.append
    except BaseException as error:
        tried(answers[-1], error)
        raise
    tried(answers[-1], None)


def _judged(error: BaseException) -> Any:
    """Return the error answer that an error tells of, or None."""
    response = getattr(error, "response", None)
    if hasattr(response, "status_code"):
        return response
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    return Event(status_code=status) if type(status) is int else None
