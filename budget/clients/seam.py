"""The seam: one place where every call of a wrapped client passes.

A wrapped client is an instance of a subclass of its own class, made by hand (`twin`). The subclass overrides what all
four SDK generations have in common: `request`, one logical call; `_prepare_request`, each HTTP attempt before any byte;
`_should_retry`, each error answer; `copy`, which wraps what it makes; and the attributes through which an SDK opens
WebSockets.

`request` reserves, so that a refused call sends nothing, and ends the reservation by what comes back, or leaves it open
for the answer that will (`late`). What the subclass does at each attempt is in `hooks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from budget.clients.backstop import UnlessByHand, endpoint_of
from budget.clients.call import Call
from budget.clients.counting import post_arguments
from budget.clients.extras import Extras, take_extras
from budget.clients.hooks import async_hooks, sync_hooks
from budget.clients.keywords import handing_out
from budget.clients.late import awatch, make_call, watch
from budget.clients.protocol import Protocol
from budget.clients.raw import content, tap, tap_async, unread
from budget.clients.sending import Sending, passing
from budget.clients.stream import meter_async_stream, meter_stream
from budget.clients.twin import adopt, check_unpatched, door, is_async, missing, plain_twin
from budget.errors import ConfigError

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard_client", "guarded_by"]

C = TypeVar("C")


def guarded_by(client: object) -> Any:
    """Return the engine that guards a client, or None."""
    return getattr(type(client), "_budget_engine", None)


def guard_client(budget: Budget, client: C, protocol: Protocol) -> C:
    """Return a guarded twin of a client, which shares its HTTP client and nothing else that changes.

    Raises:
        ConfigError: The SDK lacks what guarding depends on, or the client has something else in its place.
    """
    base = type(client)
    classes: dict[type, type] = vars(budget).setdefault("_guarded", {})  # they go when it goes
    guarded = classes.get(base)
    if guarded is None:
        if absent := ", ".join(missing(base)):
            raise ConfigError(f"wrap: {base.__module__}.{base.__name__} has no {absent}; is its SDK too new?")
        own = _async_methods(base, budget) if is_async(base) else _sync_methods(base, budget)
        own |= {"copy": (copy := _copier(base, budget)), "with_options": copy}
        own |= {name: getattr(base, name) for name in ("__module__", "__qualname__", "__doc__")}
        own |= {name: door(name, budget) for name in protocol.doors} | handing_out(base)
        guarded = classes[base] = type(base.__name__, (base,), {**own, "_budget_engine": budget})
    check_unpatched(client, guarded, protocol.doors)
    twin: C = object.__new__(guarded)
    adopt(twin, client)
    vars(twin)["_budget_protocol"] = protocol
    return twin


def _copier(base: Any, budget: Budget) -> Any:
    def copy(self: Any, *args: Any, **kwargs: Any) -> Any:
        protocol, made = self._budget_protocol, base.copy(plain_twin(base, self), *args, **kwargs)
        return guard_client(budget, made, protocol.at(made, protocol.site.deployments))

    return copy


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
    unless_by_hand = UnlessByHand(budget)

    def passes(self: Any, cast_to: Any, options: Any, by_hand: bool, **kwargs: Any) -> Any:
        protocol = self._budget_protocol
        watching = None if budget.settings.disabled else watch(budget, protocol, options)
        with passing(by_hand or protocol.site.rewrites):  # an SDK that rewrites may send it elsewhere
            result = base.request(self, cast_to, options, **kwargs)
        return result if watching is None else watching.passes(result)

    def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        options, extras = take_extras(options)
        protocol, call = self._budget_protocol, None
        endpoint = endpoint_of(budget, protocol, options.method, options.url)
        if endpoint is None:
            return passes(self, cast_to, options, False, **kwargs)
        options = self._copy_and_prepare(options) if hasattr(self, "_copy_and_prepare") else options
        with unless_by_hand:
            made, body = _call_of(budget, self, endpoint, options, extras)
            made.begin()
            call = made
        if call is None:
            return passes(self, cast_to, options, True, **kwargs)
        sending = Sending(call, extras)
        try:
            with sending:
                options = call.telling(protocol.sent(endpoint, options, body, call.changes))
                result = base.request(self, cast_to, sending.sends(self, options), **kwargs)
        except BaseException as error:
            sending.call.guard.end(*sending.call.failed(error))
            raise
        call = sending.call
        call.tell(result)
        if _is_stream(result):
            return meter_stream(result, call)
        if (response := unread(result)) is not None:
            tap(response, call)
        else:
            call.guard.end(*call.answered(content(result)))
        return result

    return {"request": request, **sync_hooks(base, budget)}


def _async_methods(base: Any, budget: Budget) -> dict[str, Any]:
    """Return the methods of a guarded async client class."""
    unless_by_hand = UnlessByHand(budget)

    async def passes(self: Any, cast_to: Any, options: Any, by_hand: bool, **kwargs: Any) -> Any:
        protocol = self._budget_protocol
        watching = None if budget.settings.disabled else await awatch(budget, protocol, options)
        with passing(by_hand or protocol.site.rewrites):  # an SDK that rewrites may send it elsewhere
            result = await base.request(self, cast_to, options, **kwargs)
        return result if watching is None else await watching.apasses(result)

    async def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
        options, extras = take_extras(options)
        protocol, call = self._budget_protocol, None
        endpoint = endpoint_of(budget, protocol, options.method, options.url)
        if endpoint is None:
            return await passes(self, cast_to, options, False, **kwargs)
        options = await self._copy_and_prepare(options) if hasattr(self, "_copy_and_prepare") else options
        with unless_by_hand:
            made, body = _call_of(budget, self, endpoint, options, extras)
            await made.abegin()
            call = made
        if call is None:
            return await passes(self, cast_to, options, True, **kwargs)
        sending = Sending(call, extras)
        try:
            with sending:
                options = call.telling(protocol.sent(endpoint, options, body, call.changes))
                result = await base.request(self, cast_to, sending.sends(self, options), **kwargs)
        except Exception as error:
            await sending.call.guard.aend(*sending.call.failed(error))
            raise
        except BaseException as error:
            sending.call.guard.post(*sending.call.failed(error))  # cancelled: the end is booked without another wait
            raise
        call = sending.call
        call.tell(result)
        if _is_stream(result):
            return meter_async_stream(result, call)
        if (response := unread(result)) is not None:
            tap_async(response, call)
        else:
            await call.guard.aend(*call.answered(content(result)))
        return result

    return {"request": request, **async_hooks(base, budget)}
