"""Google's `google-genai`: one client for the Gemini API and for Vertex, sync and async in one object.

Every resource of a `genai.Client` (models, chats, files, batches ...) holds the one `BaseApiClient` below it, sync
ones and those of `client.aio`. A guarded client is a twin of the given one over a twin of that: its `_request` and
`_async_request` are one logical call each, whole or streamed, with the final URL and body; `_request_once` and
`_async_request_once` are each attempt of it, in the SDK's own retries, and refuse what nobody reserved for. With
aiohttp the SDK repeats a broken request inside of an attempt, unseen from there; so attempts are counted at the
session that it asks for.

What goes around that client is refused: the Live API's WebSockets, and the second client, of another make, behind
`interactions`, `agents` and their like. Uploads and downloads pass.

A stream says a cumulative usage in each chunk; the one with the finish reason, or a later one, has all of it. Answers
of `embed_content` on the Gemini API may carry no usage: then the bound is charged, marked as estimated.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

from budget.clients.call import Call
from budget.clients.extras import NONE
from budget.clients.functions import (
    Event,
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
    seconds,
    start,
    subclass,
)
from budget.clients.meter import StreamMeter
from budget.clients.metered import AsyncMetered, Metered
from budget.errors import ArgumentTypeError, ConfigError

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard", "missing"]

C = TypeVar("C")

_ACTION = re.compile(r"/([^/:]+):([A-Za-z]+)$")
_METERED = {
    "generateContent": "generateContent",
    "streamGenerateContent": "generateContent",
    "embedContent": "embeddings",
    "batchEmbedContents": "embeddings",
}
# POST paths that run no model and rent nothing, as in models.py, files.py, file_search_stores.py and operations.py of
# the SDK 3.4. A cache is rented by the hour, a file search store embeds what is put in, batches and tuning run models.
_FREE = re.compile(
    r".*(:(countTokens|computeTokens|cancel|fetchPredictOperation)|/files(:register)?|/fileSearchStores)"
)
_AROUND = (
    "live", "interactions", "agents", "triggers", "environments", "credentials", "voices", "decisions", "webhooks",
    "_nextgen_client",
)  # fmt: skip
_NEEDED = ("_request", "_async_request", "_request_once", "_async_request_once", "_get_aiohttp_session", "_use_aiohttp")


class GeminiMeter(StreamMeter):
    """Reads the chunks of one streamGenerateContent."""

    output_name = "candidatesTokenCount"
    _finished = False

    def feed(self, chunk: Mapping[str, Any]) -> None:
        """Take note of one chunk."""
        if chunk.get("error"):
            self.failed = True
            return
        candidates = chunk.get("candidates") or ()
        for candidate in candidates:
            self.begun = True
            for part in (candidate.get("content") or {}).get("parts") or ():
                self._part(part, candidate.get("index", 0))
        self._finished = self._finished or any(each.get("finishReason") for each in candidates)
        self._finished = self._finished or bool((chunk.get("promptFeedback") or {}).get("blockReason"))
        usage = chunk.get("usageMetadata")
        if usage:
            self.usage = dict(usage)
            self.answer = {"model": chunk.get("modelVersion")}
        self.complete = self._finished and bool(self.usage) and (bool(usage) or self.complete)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the first answer's text."""
        return place == (0, "text")

    def _part(self, part: Mapping[str, Any], index: int) -> None:
        self.received(part.get("text"), (index, "thought" if part.get("thought") else "text"))
        for name in ("functionCall", "executableCode", "codeExecutionResult"):
            if part.get(name):
                self.received(str(part[name]), (index, name))


def missing(below: Any = None) -> list[str]:
    """Return the names that guarding depends on and a client's class below, by default the SDK's, does not have."""
    kind = below or import_module("google.genai._api_client").BaseApiClient
    return [name for name in _NEEDED if not hasattr(kind, name)]


def guard(budget: Budget, client: C) -> C:
    """Return a guarded twin of a `genai.Client`, which shares its connections.

    Raises:
        ArgumentTypeError: It is another client of Google's.
        ConfigError: The SDK lacks what guarding depends on.
    """
    if not hasattr(client, "_api_client"):
        raise ArgumentTypeError(f"wrap: {type(client).__name__} is no client that is known here; give a genai.Client()")
    if absent := ", ".join(missing(type(client._api_client))):
        raise ConfigError(f"wrap: google.genai.Client has no {absent}; is its SDK too new?")
    below: Any = client._api_client
    twin_below = _bare(_api_class(type(below), budget), below)
    kind = subclass(type(client), budget, __del__=_nothing, **_doors(type(client), budget))
    twin: C = _adopted(_bare(kind, client), below, twin_below, budget)
    return twin


def _nothing(self: Any) -> None:
    """Close nothing when a twin goes: the connections are those of the client that was given, which it keeps."""


def _bare(kind: Any, original: Any) -> Any:
    twin = object.__new__(kind)
    twin.__dict__.update(vars(original), _budget_original=original)
    return twin


def _adopted(twin: Any, below: Any, twin_below: Any, budget: Budget) -> Any:
    """Put the guarded client below in the place of the other, in an object and all resources that it holds."""
    for name, value in vars(twin).items():
        if value is below:
            vars(twin)[name] = twin_below
        elif name != "_budget_original" and getattr(value, "_api_client", None) is below:
            doors = _doors(type(value), budget)
            held = _bare(subclass(type(value), budget, **doors), value) if doors else copy.copy(value)
            vars(twin)[name] = _adopted(held, below, twin_below, budget)
    return twin


def _doors(base: type, budget: Budget) -> dict[str, Any]:
    """Return properties that refuse what goes around the client below."""
    return {name: _door(getattr(base, name), name, budget) for name in _AROUND if hasattr(base, name)}


def _door(given: Any, name: str, budget: Budget) -> property:
    def get(self: Any) -> Any:
        refuse(budget, f"client.{name.removeprefix('_')}")
        return given.__get__(self)

    return property(get)


def _endpoint(budget: Budget, request: Any) -> tuple[str, str] | None:
    """Return (endpoint, model) of a metered request, None if it passes.

    Raises:
        Unbounded: It may cost money, and nobody knows how much.
    """
    path = _path(request)
    found = _ACTION.search(path)
    model, action = (unquote(found[1]), found[2]) if found else ("", "")
    if _free(request):
        return None
    endpoint = _METERED.get(action)
    if action == "predict" and isinstance(request.data, Mapping):  # of Vertex: embeddings of text, or images
        given = request.data.get("instances") or ()
        endpoint = "embeddings" if given and all("content" in each for each in given) else None
    if endpoint is None or not isinstance(request.data, Mapping):
        refuse(budget, f"{request.method.upper()} {path}")
        return None
    return endpoint, model


def _call(budget: Budget, client: Any, request: Any) -> Call | None:
    extras = extras_of(request.data) if isinstance(request.data, dict) else NONE
    found = None if budget.settings.disabled else _endpoint(budget, request)
    if found is None:
        return None
    api = Spoken("google-vertex" if client.vertexai else "google", generateContent=GeminiMeter)
    call = Call(budget, api, found[0], {**request.data, "model": found[1]}, extras=extras)
    call.streams = _path(request).endswith(":streamGenerateContent")
    return call


def _change(request: Any, changes: Mapping[str, Any]) -> None:
    """Have a request, which is this call's own, sent with other values."""
    if "model" in changes:
        path, mark, query = request.url.partition("?")
        request.url = _ACTION.sub(lambda found: f"/{changes['model']}:{found[2]}", path) + mark + query
    request.data.update({name: value for name, value in changes.items() if name != "model"})


def _counted(answer: Any) -> Any:
    """Return an answer; one of embeddings as its usage, {} if it does not say how many tokens it embedded."""
    if not isinstance(answer, Mapping) or answer.get("usageMetadata"):
        return answer
    vectors = [each.get("embeddings") for each in answer.get("predictions") or ()] or answer.get("embeddings")
    if vectors is None:
        return {} if "embedding" in answer else answer
    said = [(each or {}).get("statistics") or {} for each in vectors]
    tokens = [one.get("token_count", one.get("tokenCount")) for one in said]
    if any(count is None for count in tokens):
        return {}
    return {"usage": {"prompt_tokens": sum(int(count or 0) for count in tokens), "completion_tokens": 0}}


def _free(request: Any) -> bool:
    path, method = _path(request), request.method.upper()
    rents = method == "PATCH" and "/cachedContents/" in path  # for longer
    return (method != "POST" and not rents) or _FREE.fullmatch(path) is not None


def _path(request: Any) -> str:
    return re.sub(r"^[a-z]+://[^/]*", "", str(request.url)).partition("?")[0]


def _api_class(base: Any, budget: Budget) -> Any:
    """Make the guarded subclass of the SDK's client below."""

    def request(self: Any, http_request: Any, *args: Any, **options: Any) -> Any:
        call = begun(_call, budget, self, http_request)
        if call is None:
            return base._request(self, http_request, *args, **options)

        def send(changes: Mapping[str, Any]) -> Any:
            _change(http_request, changes)
            return base._request(self, http_request, *args, **options)

        response = start(call, send)
        if isinstance(response.response_stream, list):
            finish(call, _counted(response.json))
        else:
            events = Metered(copy.copy(response).segments(), call, response.response_stream.close)
            response.segments = lambda: events
        return response

    async def async_request(self: Any, http_request: Any, *args: Any, **options: Any) -> Any:
        call = await abegun(_call, budget, self, http_request)
        if call is None:
            return await base._async_request(self, http_request, *args, **options)

        async def send(changes: Mapping[str, Any]) -> Any:
            _change(http_request, changes)
            return await base._async_request(self, http_request, *args, **options)

        response = await astart(call, send)
        if isinstance(response.response_stream, list):
            await afinish(call, _counted(response.json))
        else:
            below = response.response_stream  # of httpx, or of aiohttp
            closing = getattr(below, "aclose", below.close)
            events = AsyncMetered(copy.copy(response).async_segments(), call, closing)
            response.async_segments = lambda: events
        return response

    def request_once(self: Any, http_request: Any, *args: Any, **options: Any) -> Any:
        if not _free(http_request):
            backstop(budget, f"{http_request.method.upper()} {_path(http_request)}")
        http_request.timeout = seconds(http_request.timeout)
        with attempt():
            return base._request_once(self, http_request, *args, **options)

    async def async_request_once(self: Any, http_request: Any, *args: Any, **options: Any) -> Any:
        if not _free(http_request):
            backstop(budget, f"{http_request.method.upper()} {_path(http_request)}")
        http_request.timeout = seconds(http_request.timeout)
        if self._use_aiohttp():
            return await base._async_request_once(self, http_request, *args, **options)
        with attempt():
            return await base._async_request_once(self, http_request, *args, **options)

    async def session(self: Any, *args: Any, **options: Any) -> Any:
        return _Session(await base._get_aiohttp_session(self, *args, **options))

    return subclass(
        base, budget, __del__=_nothing, _request=request, _async_request=async_request, _request_once=request_once,
        _async_request_once=async_request_once, _get_aiohttp_session=session,
    )  # fmt: skip


class _Session:
    """An aiohttp session whose requests count as attempts."""

    def __init__(self, session: Any):
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def request(self, *args: Any, **options: Any) -> Any:
        """Send a request of the call under way."""
        with attempt() as answered:
            response = await self._session.request(*args, **options)
            answered(response if hasattr(response, "status_code") else Event(status_code=response.status))
            return response
