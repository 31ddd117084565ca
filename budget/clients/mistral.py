"""Mistral's `mistralai`: chat, fill-in-the-middle and embeddings, sync and async in one client.

The client makes its resources when they are first asked for, and each of them has the SDK's `do_request` and
`do_request_async`: one logical call, with the request as it will be sent. A guarded client is a twin of the given one
that makes resources of its own, whose two functions are guarded, over a configuration whose HTTP clients count
attempts (the SDK's own retries come to `send` again) and refuse what nobody reserved for. The WebSockets of
`audio.realtime` are refused.

A stream says its usage in its last chunk. It is read from the bytes as they pass, and booked when the response
closes. The clients for Azure and Google Cloud are other classes, and not available.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from budget.clients.backstop import hand_deadline
from budget.clients.call import Call
from budget.clients.functions import (
    ErrorAnswer,
    Spoken,
    abegun,
    afinish,
    astart,
    attempt,
    backstop,
    begun,
    extras_of,
    finish,
    refuse,
    start,
    subclass,
)
from budget.clients.openai import ChatMeter
from budget.clients.raw import tap, tap_async
from budget.errors import ConfigError, Unbounded

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard", "missing"]

C = TypeVar("C")

_METERED = {"/v1/chat/completions": "chat", "/v1/fim/completions": "chat", "/v1/embeddings": "embeddings"}
# POST paths of the SDK 3.7 that run no model and keep no texts that would be processed; all others are refused.
_FREE = re.compile(r".*/v1/(files|responses/input_tokens|batch/jobs/[^/]+/cancel|fine_tuning/models/[^/]+/archive)")
_AROUND = ("realtime", "realtime_speech")


class _Meter(ChatMeter):
    """Reads the chunks of one chat stream, whose content may be parts, too."""

    def received(self, text: object, place: object = 0) -> None:
        """Take note of a piece of output."""
        if isinstance(text, list):
            for part in text:
                self.received(part.get("text") or part.get("thinking"), place)
        else:
            super().received(text, place)


def missing(kind: Any = None) -> list[str]:
    """Return the names that guarding depends on and a client's class, by default the SDK's, does not have."""
    kind = kind or import_module("mistralai.client").Mistral
    configured = import_module("mistralai.client.sdkconfiguration").SDKConfiguration.__annotations__
    absent = [name for name in ("do_request", "do_request_async", "_sub_sdk_map") if not hasattr(kind, name)]
    return absent + [name for name in ("client", "async_client") if name not in configured]


def guard(budget: Budget, client: C) -> C:
    """Return a guarded twin of a `mistralai.Mistral`, which shares its connections.

    Raises:
        ConfigError: It is a client of a cloud, or the SDK lacks what guarding depends on.
    """
    if any(cloud in each.__module__ for each in type(client).__mro__ for cloud in ("mistralai.azure", "mistralai.gcp")):
        raise ConfigError(f"wrap: {type(client).__module__}.{type(client).__name__} is not available in this version")
    if absent := ", ".join(missing(type(client))):
        raise ConfigError(f"wrap: mistralai.{type(client).__name__} has no {absent}; is its SDK too new?")
    given: Any = client
    base: Any = type(client)
    configuration = copy.copy(given.sdk_configuration)
    configuration.__dict__.update(given.sdk_configuration.__dict__)
    configuration.client = _Http(budget, configuration.client)
    configuration.async_client = _AsyncHttp(budget, configuration.async_client)

    def resource(self: Any, name: str) -> Any:
        made = base.__getattr__(self, name)
        _guard_requests(made, budget)
        return made

    twin: C = object.__new__(subclass(base, budget, __getattr__=resource))
    made = {name: value for name, value in vars(client).items() if name not in base._sub_sdk_map}
    vars(twin).update(made, sdk_configuration=configuration, _budget_original=client)
    return twin


def _guard_requests(resource: Any, budget: Budget) -> None:
    """Guard a resource of a twin, and those that it holds."""
    for name, value in vars(resource).items():
        if hasattr(type(value), "do_request") and name != "parent_ref":
            _guard_requests(value, budget)
    resource.do_request = partial(_request, type(resource).do_request, budget, resource)
    resource.do_request_async = partial(_async_request, type(resource).do_request_async, budget, resource)
    base = type(resource)
    if doors := {name: _door(getattr(base, name), name, budget) for name in _AROUND if hasattr(base, name)}:
        resource.__class__ = subclass(base, budget, **doors)


def _door(given: Any, name: str, budget: Budget) -> property:
    """Return a property that refuses what leads around the HTTP client."""

    def get(self: Any) -> Any:
        refuse(budget, f"client.audio.{name}")
        return given.__get__(self)

    return property(get)


class _Http:
    """An HTTP client whose requests count as attempts."""

    def __init__(self, budget: Budget, http: Any):
        self._budget, self._http = budget, http

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)

    def send(self, request: Any, **options: Any) -> Any:
        """Send a request of the call under way."""
        if not _free(request):
            backstop(self._budget, f"POST {request.url.path}")
        hand_deadline(request)
        with attempt() as answered:
            response = self._http.send(request, **options)
            answered(response)
        return response


class _AsyncHttp(_Http):
    async def send(self, request: Any, **options: Any) -> Any:
        """Send a request of the call under way."""
        if not _free(request):
            backstop(self._budget, f"POST {request.url.path}")
        hand_deadline(request)
        with attempt() as answered:
            response = await self._http.send(request, **options)
            answered(response)
        return response


def _free(request: Any) -> bool:
    return request.method.upper() != "POST" or _FREE.fullmatch(request.url.path) is not None


def _call(budget: Budget, request: Any) -> Call | None:
    """Return the call of a request, None if it passes.

    Raises:
        Unbounded: It may cost money, and nobody knows how much.
    """
    if budget.settings.disabled or _free(request):
        return None
    path = request.url.path
    endpoint = next((each for end, each in _METERED.items() if path.endswith(end)), None)
    if endpoint is None:
        refuse(budget, f"POST {path}")
        return None
    try:
        body = json.loads(request.content)
    except Exception:
        raise Unbounded([f"the body of {path[:100]} cannot be read before it is sent"]) from None
    extras = extras_of(body)
    if path.endswith("/fim/completions"):
        texts = [body.pop(name, None) for name in ("prompt", "suffix")]
        body["messages"] = [{"role": "user", "content": text} for text in texts if text is not None]
    return Call(budget, Spoken("mistral", chat=_Meter), endpoint, body, extras=extras)


def _changed(request: Any, changes: Mapping[str, Any]) -> Any:
    """Return a request with other values in its body."""
    if not changes:
        return request
    body = json.dumps({**json.loads(request.content), **changes})
    headers = {name: value for name, value in request.headers.items() if name != "content-length"}
    return type(request)(request.method, request.url, headers=headers, content=body, extensions=request.extensions)


def _request(send: Callable[..., Any], budget: Budget, resource: Any, *args: Any, **options: Any) -> Any:
    names = dict(zip(("hook_ctx", "request"), args, strict=False)) | options
    call = begun(_call, budget, names["request"])
    if call is None:
        return send(resource, **names)
    response = start(call, lambda changes: send(resource, **{**names, "request": _changed(names["request"], changes)}))
    if response.status_code >= 400:
        call.guard.end(*call.failed(ErrorAnswer()))
    elif response.is_closed:
        finish(call, response.json())
    else:
        tap(response, call)
    return response


async def _async_request(send: Callable[..., Any], budget: Budget, resource: Any, *args: Any, **options: Any) -> Any:
    names = dict(zip(("hook_ctx", "request"), args, strict=False)) | options
    call = await abegun(_call, budget, names["request"])
    if call is None:
        return await send(resource, **names)

    async def sent(changes: Mapping[str, Any]) -> Any:
        return await send(resource, **{**names, "request": _changed(names["request"], changes)})

    response = await astart(call, sent)
    if response.status_code >= 400:
        await call.guard.aend(*call.failed(ErrorAnswer()))
    elif response.is_closed:
        await afinish(call, response.json())
    else:
        tap_async(response, call)
    return response
