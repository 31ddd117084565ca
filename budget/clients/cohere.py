"""Cohere's SDK: `ClientV2` and `AsyncClientV2`, and those of version 1: chat and embeddings.

All resources of a client hold one wrapper, and that one `HttpClient`: its `request` is one logical call (it repeats
itself by calling `self.request(retries=n)`), its `stream` one that is streamed and never repeated. A guarded client
is made by its class from what the given one was made of, since the SDK binds methods to the object it constructs; its
wrapper has a guarded `HttpClient` over the same connections, which counts attempts as well. There is no other door,
so there is no other line of defence. `embed` of version 1 sends a long list in several requests: each is a call of
its own.

Clients of other clouds (AWS, OCI) are not available. Reranking is billed by searches, which no request bounds.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from budget.clients.call import Call
from budget.clients.extras import NONE
from budget.clients.functions import (
    ErrorAnswer,
    Spoken,
    abegun,
    afinish,
    astart,
    attempt,
    begun,
    extras_of,
    finish,
    refuse,
    seconds,
    start,
    subclass,
)
from budget.clients.meter import StreamMeter
from budget.clients.raw import tap, tap_async
from budget.errors import ConfigError

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard", "missing"]

C = TypeVar("C")

_METERED = {"v2/chat": "chat", "v1/chat": "chat", "v2/embed": "embeddings", "v1/embed": "embeddings"}
_FREE = ("v1/tokenize", "v1/detokenize", "v1/check-api-key")
_MODULES = ("cohere.client", "cohere.client_v2")


class CohereMeter(StreamMeter):
    """Reads the events of one chat stream of either version."""

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        kind = event.type or event.event_type or ""
        if kind == "text-generation":
            self.begun = True
            self.received(event.text, ("text", 0))
        elif kind == "stream-end":
            self._ended(event.finish_reason, (event.response or {}).get("meta"))
        elif kind == "message-end":
            delta = event.delta or {}
            self._ended(delta.get("finish_reason"), delta.get("usage"))
        elif kind.startswith(("content-", "tool-")):
            self.begun = True
            self._message(((event.delta or {}).get("message") or {}), event.index)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the answer's text."""
        return isinstance(place, tuple) and place[0] == "text"

    def _message(self, message: Mapping[str, Any], index: Any) -> None:
        content, calls = message.get("content") or {}, message.get("tool_calls") or {}
        function = calls.get("function") or {} if isinstance(calls, Mapping) else {}
        self.received(content.get("text"), ("text", index))
        for piece in (content.get("thinking"), message.get("tool_plan")):
            self.received(piece, index)
        for name in ("name", "arguments"):
            self.received(function.get(name), ("call", index))

    def _ended(self, reason: Any, usage: Any) -> None:
        self.finish()
        self.failed = self.failed or reason == "ERROR"
        if usage:
            self.usage = dict(usage)
            self.complete = True


def missing(client: Any = None) -> list[str]:
    """Return the names that guarding depends on and a client, by default the SDK's classes, does not have."""
    if client is None:
        below = import_module("cohere.core.http_client")
        kinds, names = (below.HttpClient, below.AsyncHttpClient), ("request", "stream")
        return [name for name in names if not all(hasattr(kind, name) for kind in kinds)]
    http = getattr(getattr(client, "_client_wrapper", None), "httpx_client", None)
    return [name for name in ("request", "stream", "httpx_client") if not hasattr(http, name)]


def guard(budget: Budget, client: C) -> C:
    """Return a guarded twin of a client of Cohere's own API, which shares its connections.

    Raises:
        ConfigError: It is a client of a cloud, or the SDK lacks what guarding depends on.
    """
    if type(client).__module__ not in _MODULES:
        raise ConfigError(f"wrap: {type(client).__module__}.{type(client).__name__} is not available in this version")
    if absent := ", ".join(missing(client)):
        raise ConfigError(f"wrap: cohere.{type(client).__name__} has no {absent}; is its SDK too new?")
    given: Any = client
    wrapper = given._client_wrapper
    twin: Any = object.__new__(subclass(type(client), budget))
    twin.__init__(
        api_key=wrapper._token, base_url=wrapper._base_url, httpx_client=wrapper.httpx_client.httpx_client,
        thread_pool_executor=given._executor, log_warning_experimental_features=False,
    )  # fmt: skip
    http = wrapper.httpx_client
    made = _async_http if type(client).__name__.startswith("Async") else _http
    guarded = object.__new__(made(type(http), budget))
    vars(guarded).update(vars(http))
    guarded.httpx_client = (_AsyncSent if made is _async_http else _Sent)(http.httpx_client)
    vars(twin._client_wrapper).update(vars(wrapper), httpx_client=guarded)
    return twin  # type: ignore[no-any-return]


class _Sent:
    """An HTTP client whose requests count as attempts."""

    def __init__(self, http: Any):
        self._http = http

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)

    def request(self, *args: Any, **options: Any) -> Any:
        """Send a request of the call under way."""
        options["timeout"] = seconds(options.get("timeout"))
        with attempt() as answered:
            response = self._http.request(*args, **options)
            answered(response)
        return response


class _AsyncSent(_Sent):
    async def request(self, *args: Any, **options: Any) -> Any:
        """Send a request of the call under way."""
        options["timeout"] = seconds(options.get("timeout"))
        with attempt() as answered:
            response = await self._http.request(*args, **options)
            answered(response)
        return response


def _call(budget: Budget, path: Any, options: dict[str, Any]) -> Call | None:
    """Return the call of a request, whose options, the call's own, get its whole body; None if it passes.

    Raises:
        Unbounded: It may cost money, and nobody knows how much.
    """
    name, given, asked = str(path).strip("/"), options.get("json"), options.get("request_options") or {}
    extras = NONE
    if isinstance(given, Mapping):
        whole = {**given, **(asked.get("additional_body_parameters") or {})}
        body = {name: value for name, value in whole.items() if value is not options.get("omit")}
        extras = extras_of(body)
        options.update(json=body, request_options={**asked, "additional_body_parameters": {}})
    if budget.settings.disabled or options["method"].upper() != "POST" or name in _FREE:
        return None
    endpoint = _METERED.get(name)
    if endpoint is None or not isinstance(given, Mapping):
        refuse(budget, f"POST {name}")
        return None
    return Call(budget, Spoken("cohere", chat=CohereMeter), endpoint, body, extras=extras)


def _changed(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {**options, "json": {**options["json"], **changes}}


def _http(base: Any, budget: Budget) -> Any:
    def request(self: Any, path: Any = None, **options: Any) -> Any:
        call = None if options.get("retries") else begun(_call, budget, path, options)
        if call is None:
            return base.request(self, path, **options)
        response = start(call, lambda changes: base.request(self, path, **_changed(options, changes)))
        if response.status_code >= 400:
            call.guard.end(*call.failed(ErrorAnswer()))
        else:
            finish(call, _json(response))
        return response

    @contextmanager
    def stream(self: Any, path: Any = None, **options: Any) -> Iterator[Any]:
        call = begun(_call, budget, path, options)
        if call is None:
            with base.stream(self, path, **options) as response:
                yield response
            return
        opened: list[Any] = []

        def send(changes: Mapping[str, Any]) -> Any:
            opened.append(base.stream(self, path, **_changed(options, changes)))
            with attempt() as answered:
                response = opened[0].__enter__()
                answered(response)
            return response

        response = start(call, send)
        if response.status_code >= 400:
            call.guard.end(*call.failed(ErrorAnswer()))
        else:
            tap(response, call)
        try:
            yield response
        except BaseException:
            if not opened[0].__exit__(*sys.exc_info()):
                raise
        else:
            opened[0].__exit__(None, None, None)

    return subclass(base, budget, request=request, stream=stream)


def _async_http(base: Any, budget: Budget) -> Any:
    async def request(self: Any, path: Any = None, **options: Any) -> Any:
        call = None if options.get("retries") else await abegun(_call, budget, path, options)
        if call is None:
            return await base.request(self, path, **options)
        response = await astart(call, lambda changes: base.request(self, path, **_changed(options, changes)))
        if response.status_code >= 400:
            await call.guard.aend(*call.failed(ErrorAnswer()))
        else:
            await afinish(call, _json(response))
        return response

    @asynccontextmanager
    async def stream(self: Any, path: Any = None, **options: Any) -> AsyncIterator[Any]:
        call = await abegun(_call, budget, path, options)
        if call is None:
            async with base.stream(self, path, **options) as response:
                yield response
            return
        opened: list[Any] = []

        async def send(changes: Mapping[str, Any]) -> Any:
            opened.append(base.stream(self, path, **_changed(options, changes)))
            with attempt() as answered:
                response = await opened[0].__aenter__()
                answered(response)
            return response

        response = await astart(call, send)
        if response.status_code >= 400:
            await call.guard.aend(*call.failed(ErrorAnswer()))
        else:
            tap_async(response, call)
        try:
            yield response
        except BaseException:
            if not await opened[0].__aexit__(*sys.exc_info()):
                raise
        else:
            await opened[0].__aexit__(None, None, None)

    return subclass(base, budget, request=request, stream=stream)


def _json(response: Any) -> Any:
    try:
        return response.json()
    except ValueError:
        return {}
