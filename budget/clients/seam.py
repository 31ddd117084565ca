"""The seam: one place where every call of a wrapped client passes.

A wrapped client is an instance of a subclass of its own class, made by hand (`twin`). The subclass overrides what all
four SDK generations have in common: `request`, one logical call; `_prepare_request`, each HTTP attempt before any byte;
`_should_retry`, each error answer; `copy`, which wraps what it makes; and the attributes through which an SDK opens
WebSockets.

`request` reserves, so that a refused call sends nothing, and ends the reservation by what comes back, or leaves it open
for the answer that will (`late`). `_prepare_request` is the backstop: whatever reaches it without a reservation is
reserved and charged if its body is known, else refused (`backstop`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from budget.clients.backstop import endpoint_of, hand_deadline, passing, unreserved
from budget.clients.call import Call
from budget.clients.counting import post_arguments
from budget.clients.extras import Extras, take_extras
from budget.clients.keywords import handing_out
from budget.clients.late import awatch, make_call, watch
from budget.clients.protocol import Protocol
from budget.clients.raw import content, tap, tap_async, unread
from budget.clients.stream import meter_async_stream, meter_stream
from budget.clients.twin import adopt, door, is_async, missing, plain_twin
from budget.errors import ConfigError

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard_client", "guarded_by"]

C = TypeVar("C")
_call: ContextVar[ref[Call] | None] = ContextVar("budget_call", default=None)


def _current() -> Call | None:
    """Return the call that is under way here. (Held weakly: an interrupt may leave one behind.)"""
    reference = _call.get()
    return None if reference is None else reference()


def guarded_by(client: object) -> Any:
    """Return the engine that guards a client, or None."""
    return getattr(type(client), "_budget_engine", None)


def guard_client(budget: Budget, client: C, protocol: Protocol) -> C:
    """Return a guarded twin of a client, which shares its HTTP client and nothing else that changes.

    Raises:
        ConfigError: The SDK lacks what guarding depends on.
    """
    base = type(client)
    classes: dict[type, type] = vars(budget).setdefault("_guarded", {})  # they go when it goes
    guarded = classes.get(base)
    if guarded is None:
        if absent := ", ".join(missing(base)):
            raise ConfigError(f"wrap: {base.__module__}.{base.__name__} has no {absent}; is its SDK too new?")
        own = _async_methods(base, budget) if is_async(base) else _sync_methods(base, budget)
        own |= {"_should_retry": _judge(base), "copy": (copy := _copier(base, budget)), "with_options": copy}
        own |= {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
        own |= {name: door(name, budget) for name in protocol.doors} | handing_out(base)
        guarded = classes[base] = type(base.__name__, (base,), {**own, "_budget_engine": budget})
    twin: C = object.__new__(guarded)
    adopt(twin, client)
    vars(twin)["_budget_protocol"] = protocol
    return twin


def _copier(base: Any, budget: Budget) -> Any:
    def copy(self: Any, *args: Any, **kwargs: Any) -> Any:
        protocol, made = self._budget_protocol, base.copy(plain_twin(base, self), *args, **kwargs)
        return guard_client(budget, made, protocol.at(made, protocol.site.deployments))

    return copy


def _judge(base: Any) -> Any:
    def should_retry(self: Any, response: Any) -> Any:
        call = _current()
        if call is not None:
            call.judged(response)
        return base._should_retry(self, response)

    return should_retry


def _call_of(budget: Budget, client: Any, endpoint: str, options: Any, extras: Extras) -> tuple[Call, Any]:
    """Return the call that a request is, and its body."""
    protocol = client._budget_protocol
    body = protocol.body(endpoint, options)
    question = protocol.question(endpoint, body) if budget.settings.ask_provider else None
    counter: Callable[[], Any] | None = None
    if question is not None:
        counter = lambda: client.post(**post_arguments(options, question))  # noqa: E731  (the guard lets it pass)
    return make_call(budget, protocol, endpoint, body, counter, extras=extras), body


def _is_stream(result: Any) -> bool:
    return hasattr(type(result), "__stream__")


def _sync_methods(base: Any, budget: Budget) -> dict[str, Any]:
    """Return the methods of a guarded sync client class."""

    def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        options, extras = take_extras(options)
        protocol = self._budget_protocol
        given = partial(protocol.body, "batches", options)
        endpoint = endpoint_of(budget, protocol, options.method, options.url, given)
        if endpoint is None:
            watching = None if budget.settings.disabled else watch(budget, protocol, options)
            with passing(protocol):
                result = base.request(self, cast_to, options, **kwargs)
            return result if watching is None else watching.passes(result)
        options = self._copy_and_prepare(options) if hasattr(self, "_copy_and_prepare") else options
        call, body = _call_of(budget, self, endpoint, options, extras)
        call.begin()
        outer = _call.get()
        try:
            _call.set(ref(call))
            call.prepared = options = call.telling(protocol.sent(endpoint, options, body, call.changes))
            result = base.request(self, cast_to, options, **kwargs)
        except BaseException as error:
            call.guard.end(*call.failed(error))
            raise
        finally:
            _call.set(outer)
            call.prepared = None
        call.tell(result)
        if _is_stream(result):
            return meter_stream(result, call)
        if (response := unread(result)) is not None:
            tap(response, call)
        else:
            call.guard.end(*call.answered(content(result)))
        return result

    def prepare_request(self: Any, http_request: Any) -> None:
        call = _current()
        if call is None:
            call = unreserved(budget, self._budget_protocol, self, http_request)
            if call is not None:
                call.begin()
                call.guard.end(*call.guard.unanswered(None, None))
        if call is not None:
            hand_deadline(http_request)
            call.attempt(http_request, is_async=False)
        base._prepare_request(self, http_request)

    def copy_and_prepare(self: Any, options: Any) -> Any:
        if _is_prepared(options):
            return options
        return base._copy_and_prepare(self, options)

    prepares = {"_copy_and_prepare": copy_and_prepare} if hasattr(base, "_copy_and_prepare") else {}
    return {"request": request, "_prepare_request": prepare_request, **prepares}


def _is_prepared(options: Any) -> bool:
    """Whether these options are those that the seam has prepared."""
    call = _current()
    return call is not None and call.prepared is options


def _async_methods(base: Any, budget: Budget) -> dict[str, Any]:
    """Return the methods of a guarded async client class."""

    async def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        options, extras = take_extras(options)
        protocol = self._budget_protocol
        given = partial(protocol.body, "batches", options)
        endpoint = endpoint_of(budget, protocol, options.method, options.url, given)
        if endpoint is None:
            watching = None if budget.settings.disabled else await awatch(budget, protocol, options)
            with passing(protocol):
                result = await base.request(self, cast_to, options, **kwargs)
            return result if watching is None else await watching.apasses(result)
        options = await self._copy_and_prepare(options) if hasattr(self, "_copy_and_prepare") else options
        call, body = _call_of(budget, self, endpoint, options, extras)
        await call.abegin()
        outer = _call.get()
        try:
            _call.set(ref(call))
            call.prepared = options = call.telling(protocol.sent(endpoint, options, body, call.changes))
            result = await base.request(self, cast_to, options, **kwargs)
        except Exception as error:
            await call.guard.aend(*call.failed(error))
            raise
        except BaseException as error:
            call.guard.post(*call.failed(error))  # cancelled: the end is booked without another wait
            raise
        finally:
            _call.set(outer)
            call.prepared = None
        call.tell(result)
        if _is_stream(result):
            return meter_async_stream(result, call)
        if (response := unread(result)) is not None:
            tap_async(response, call)
        else:
            await call.guard.aend(*call.answered(content(result)))
        return result

    async def prepare_request(self: Any, http_request: Any) -> None:
        call = _current()
        if call is None:
            call = unreserved(budget, self._budget_protocol, self, http_request)
            if call is not None:
                await call.abegin()
                await call.guard.aend(*call.guard.unanswered(None, None))
        if call is not None:
            hand_deadline(http_request)
            call.attempt(http_request, is_async=True)
        await base._prepare_request(self, http_request)

    async def copy_and_prepare(self: Any, options: Any) -> Any:
        if _is_prepared(options):
            return options
        return await base._copy_and_prepare(self, options)

    prepares = {"_copy_and_prepare": copy_and_prepare} if hasattr(base, "_copy_and_prepare") else {}
    return {"request": request, "_prepare_request": prepare_request, **prepares}
