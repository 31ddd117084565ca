"""The seam: one place where every call of a wrapped client passes.

A wrapped client is an instance of a subclass of its own class, made by hand from the given client's attributes (the
SDKs treat a client they construct as a subclass differently). The subclass overrides what all four SDK generations
have in common: `request`, one logical call; `_prepare_request`, each HTTP attempt before any byte; `_should_retry`,
each error answer; `copy`, which wraps what it makes; and the attributes through which an SDK opens WebSockets.

`request` reserves, so that a refused call sends nothing, and ends the reservation by what comes back.
`_prepare_request` is the backstop: whatever reaches it without a reservation is reserved and charged if its body is
known, else refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import ref

from budget.clients.call import Call
from budget.clients.counting import post_arguments
from budget.clients.protocol import Protocol
from budget.clients.raw import content, tap, tap_async, unread
from budget.clients.stream import meter_async_stream, meter_stream
from budget.errors import ConfigError, Unbounded

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard_client", "guarded_by", "missing"]

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
        ConfigError: The SDK lacks what guarding depends on, or the client is of a flavour that is not available.
    """
    protocol.check(client)
    base = type(client)
    classes: dict[type, type] = vars(budget).setdefault("_guarded", {})  # they go when it goes
    guarded = classes.get(base)
    if guarded is None:
        if absent := ", ".join(missing(base)):
            raise ConfigError(f"wrap: {base.__module__}.{base.__name__} has no {absent}; is its SDK too new?")
        make = _async_class if _is_async(base) else _sync_class
        guarded = classes[base] = make(base, budget, protocol)
    twin: C = object.__new__(guarded)
    _adopt(twin, client)
    return twin


def missing(base: type) -> list[str]:
    """Return the names that guarding depends on and a client class does not have."""
    absent = [name for name in ("request", "_prepare_request", "_should_retry", "copy") if not hasattr(base, name)]
    if "request" not in absent:
        parameters = inspect.signature(base.request).parameters  # type: ignore[attr-defined]
        absent += [f"request({name})" for name in ("cast_to", "options", "stream") if name not in parameters]
    return absent


def _is_async(base: type) -> bool:
    return inspect.iscoroutinefunction(base.request)  # type: ignore[attr-defined]


def _adopt(twin: Any, client: Any) -> None:
    """Give the twin the client's attributes, but for those that point back to the client."""
    for name, value in vars(client).items():
        if getattr(value, "_client", None) is not client:
            twin.__dict__[name] = value
        elif not hasattr(type(client), name):  # a cached property makes itself again; this is a plain attribute
            twin.__dict__[name] = type(value)(twin)
    if hasattr(twin, "_build_middleware_chain"):  # a closure over the client it was built for
        twin._middleware_chain = twin._build_middleware_chain()


def _plain(base: Any, client: Any) -> Any:
    """Return an unguarded twin of a guarded client, for what the SDK must do with a client of its own class."""
    twin: Any = object.__new__(base)
    _adopt(twin, client)
    return twin


def _counter(
    client: Any, budget: Budget, protocol: Protocol, endpoint: str, options: Any, body: Any
) -> Callable[[], Any] | None:
    """Return what asks the provider to count a call, if that is allowed and possible; the guard lets it pass."""
    question = protocol.question(endpoint, body) if budget.settings.ask_provider else None
    return None if question is None else lambda: client.post(**post_arguments(options, question))


def _path(url: str) -> str:
    """Return the path of a request's URL, without the query."""
    path = url.partition("?")[0]
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    return path if path.startswith("/") else f"/{path}"


def _unknown(method: str, path: str) -> Unbounded:
    return Unbounded([f"{method.upper()} {path[:100]} is not metered in this version; use an unwrapped client for it"])


def _endpoint(protocol: Protocol, method: str, path: str) -> str | None:
    """Return the metered endpoint of a request, None if it is free.

    Raises:
        Unbounded: It may cost money, and nobody knows how much.
    """
    if method.upper() != "POST":
        return None
    endpoint = protocol.endpoint(path)
    if endpoint is None:
        raise _unknown(method, path)
    return endpoint or None


def _backstop(budget: Budget, protocol: Protocol, client: Any, request: Any) -> Call | None:
    """Return a call for an attempt that nobody reserved for, None if it is free.

    Raises:
        Unbounded: It may cost money, and its body is not known.
    """
    path = _path(request.url.path.removeprefix(client.base_url.path.rstrip("/")))
    endpoint = _endpoint(protocol, request.method, path)
    if endpoint is None:
        return None
    try:
        body = json.loads(request.content)
    except Exception:
        raise Unbounded([f"the body of {path[:100]} cannot be read before it is sent"]) from None
    return Call(budget, protocol, endpoint, body)


def _is_stream(result: Any) -> bool:
    return hasattr(type(result), "__stream__")


def _attributes(base: type, budget: Budget, protocol: Protocol) -> dict[str, Any]:
    names = ("__module__", "__qualname__", "__doc__")
    doors = {name: _door(name, budget) for name in protocol.doors}
    return {"_budget_engine": budget, **{name: getattr(base, name) for name in names}, **doors}


def _door(name: str, budget: Budget) -> property:
    """Make an attribute that cannot be read, because the SDK reads it to connect without a request."""

    def get(self: Any) -> Any:
        if budget.settings.disabled:
            return vars(self)[name]
        raise Unbounded(["a WebSocket is not metered in this version; use an unwrapped client for it"])

    def put(self: Any, value: Any) -> None:
        vars(self)[name] = value

    return property(get, put)


def _copier(base: Any, budget: Budget, protocol: Protocol) -> Any:
    def copy(self: Any, *args: Any, **kwargs: Any) -> Any:
        # The SDK keeps some of a client's credentials only where its class is exactly its own.
        return guard_client(budget, base.copy(_plain(base, self), *args, **kwargs), protocol)

    return copy


def _sync_class(base: Any, budget: Budget, protocol: Protocol) -> type:
    """Make the guarded subclass of a sync client class."""

    def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        endpoint = None if budget.settings.disabled else _endpoint(protocol, options.method, _path(options.url))
        if endpoint is None:
            return base.request(self, cast_to, options, **kwargs)
        options = self._copy_and_prepare(options) if hasattr(self, "_copy_and_prepare") else options
        body = protocol.body(endpoint, options)
        call = Call(budget, protocol, endpoint, body, _counter(self, budget, protocol, endpoint, options, body))
        options = protocol.sent(endpoint, options, body)
        call.begin()
        outer = _call.get()
        try:
            _call.set(ref(call))
            result = base.request(self, cast_to, options, **kwargs)
        except BaseException as error:
            call.guard.end(*call.failed(error))
            raise
        finally:
            _call.set(outer)
        if _is_stream(result):
            return meter_stream(result, call)
        if (response := unread(result)) is not None:
            tap(response, call)
        else:
            call.guard.end(*call.answered(content(result)))
        return result

    def prepare_request(self: Any, http_request: Any) -> None:
        call = _current()
        if call is None and not budget.settings.disabled:
            call = _backstop(budget, protocol, self, http_request)
            if call is not None:
                call.begin()
                call.guard.end(*call.guard.unanswered(None, None))
        if call is not None:
            call.attempt(http_request, is_async=False)
        base._prepare_request(self, http_request)

    return type(base.__name__, (base,), {
        **_attributes(base, budget, protocol), "request": request, "_prepare_request": prepare_request,
        "_should_retry": _judge(base), "copy": (copy := _copier(base, budget, protocol)), "with_options": copy,
    })  # fmt: skip


def _async_class(base: Any, budget: Budget, protocol: Protocol) -> type:
    """Make the guarded subclass of an async client class."""

    async def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        endpoint = None if budget.settings.disabled else _endpoint(protocol, options.method, _path(options.url))
        if endpoint is None:
            return await base.request(self, cast_to, options, **kwargs)
        options = await self._copy_and_prepare(options) if hasattr(self, "_copy_and_prepare") else options
        body = protocol.body(endpoint, options)
        call = Call(budget, protocol, endpoint, body, _counter(self, budget, protocol, endpoint, options, body))
        options = protocol.sent(endpoint, options, body)
        await call.abegin()
        outer = _call.get()
        try:
            _call.set(ref(call))
            result = await base.request(self, cast_to, options, **kwargs)
        except Exception as error:
            await call.guard.aend(*call.failed(error))
            raise
        except BaseException as error:
            call.guard.post(*call.failed(error))  # cancelled: the end is booked without another wait
            raise
        finally:
            _call.set(outer)
        if _is_stream(result):
            return meter_async_stream(result, call)
        if (response := unread(result)) is not None:
            tap_async(response, call)
        else:
            await call.guard.aend(*call.answered(content(result)))
        return result

    async def prepare_request(self: Any, http_request: Any) -> None:
        call = _current()
        if call is None and not budget.settings.disabled:
            call = _backstop(budget, protocol, self, http_request)
            if call is not None:
                await call.abegin()
                await call.guard.aend(*call.guard.unanswered(None, None))
        if call is not None:
            call.attempt(http_request, is_async=True)
        await base._prepare_request(self, http_request)

    return type(base.__name__, (base,), {
        **_attributes(base, budget, protocol), "request": request, "_prepare_request": prepare_request,
        "_should_retry": _judge(base), "copy": (copy := _copier(base, budget, protocol)), "with_options": copy,
    })  # fmt: skip


def _judge(base: Any) -> Any:
    def should_retry(self: Any, response: Any) -> Any:
        call = _current()
        if call is not None:
            call.judged(response)
        return base._should_retry(self, response)

    return should_retry
