"""No bypass: every public method of the installed SDKs, called on a client whose lowest request only notes what it is.

A POST path that the data file does not know fails here, and so does a method that was not reached and is not listed
below with its reason. So does a path of which the file says that it is metered and the engine lets it pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import anthropic
import openai
import pytest

from budget import Unbounded
from budget.clients import anthropic as anthropic_api
from budget.clients import openai as openai_api
from budget.clients.paths import paths_of
from budget.demo.provider import Provider

from .conftest import REQUEST

# Methods that come to no request with arguments of the right kind, and why.
LOCAL = {
    "webhooks.parse_unverified": "it parses a webhook's body",
    "webhooks.unwrap": "it checks and parses a webhook's body",
    "webhooks.verify_signature": "it checks a webhook's signature",
    "messages.thread": "it begins a conversation on this side; what is sent in it is a message",
    "work.worker": "it makes a worker on this side; what that sends are the methods beside it",
    "artifacts.for_result": "it makes a view on this side; what that sends are the methods beside it",
    "files.prepare": "it makes a list of files on this side",
    "files.prepare_directory": "it makes a list of files on this side",
    ".connect": "a WebSocket: `test_every_websocket_is_refused` has it",
}
ID = "ID"
_GIVEN = (ID, b"x", [ID], {}, 1)  # tried in this order: what an argument is without a default
_NAMED: dict[str, Any] = {
    "file": ("f.txt", b"x"),
    "max_tokens": 1,
    "messages": [],
    "tools": [],
    "destination": "/workspace/f.txt",
    "response_id": ID,
    "file_path": __file__,
}
# By method: arguments that its signature does not ask for, and its body does.
_MORE: dict[str, list[dict[str, Any]]] = {
    "responses.stream": [{"input": ID, "model": ID}, {"response_id": ID}],
    "admin.organization.external_keys.create": [
        {"kms_arn": ID, "name": ID, "role_arn": ID, "type": "aws_kms", "external_id": ID}
    ],
    "voices.create": [{"audio_sample": b"x", "consent": ID, "name": ID}],
    "automations.create": [{"expression": ID, "name": ID, "target": {}, "timezone": "UTC", "type": "cron"}],
    "environments.files.create": [{"file_id": ID, "path": "/workspace/f", "type": "file"}],
    "upload_file_chunked": [{"file": Path(__file__), "mime_type": "text/plain", "purpose": "batch"}],
    "environments.files.upload": [
        {"file": b"x", "path": "/workspace/f"},
        {"file": b"x", "destination": "/workspace/f"},
    ],
}


class Requested(BaseException):
    """Ends a method that has asked for something; hardly anything catches it on the way."""


def _recorder(kind: Any, noted: list[tuple[str, str]]) -> Any:
    def request(self: Any, cast_to: Any, options: Any, **_: Any) -> Any:
        noted.append((options.method.upper(), options.url.partition("?")[0].replace(ID, "{}")))
        raise Requested

    async def arequest(self: Any, cast_to: Any, options: Any, **_: Any) -> Any:
        request(self, cast_to, options)

    own = {"request": arequest if inspect.iscoroutinefunction(kind.request) else request}
    admin = {"admin_api_key": "k"} if "admin_api_key" in inspect.signature(kind.__init__).parameters else {}
    return type(kind.__name__, (kind,), own)(api_key="k", **admin)


def _resources(thing: Any, package: str, trail: str, seen: list[Any]) -> Iterator[tuple[str, Any]]:
    """Yield a client's resources and those of theirs, but for the raw and streaming variants of each."""
    seen.append(thing)
    yield trail, thing
    for name in dict.fromkeys([*dir(type(thing)), *vars(thing)]):
        if name.startswith(("_", "with_")) or inspect.isfunction(inspect.getattr_static(type(thing), name, None)):
            continue
        try:
            value = getattr(thing, name)
        except Exception:  # a property that needs what this client has not
            continue
        ours = type(value).__module__.startswith(f"{package}.") and hasattr(value, "_client")
        if ours and not any(value is other for other in seen):
            yield from _resources(value, package, f"{trail}.{name}".lstrip("."), seen)


def _arguments(trail: str, method: Any) -> Iterator[dict[str, Any]]:
    """Yield arguments that a method may take: by name, by annotation, else one kind after another."""
    needed = [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]
    needed = [p for p in needed if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for given in _GIVEN:
        plain = {p.name: ID if p.annotation == "str" or p.name.endswith("_id") else given for p in needed}
        named = {p.name: _NAMED[p.name] for p in needed if p.name in _NAMED}
        for more in (*next((more for end, more in _MORE.items() if trail.endswith(end)), ()), {}):
            yield {**plain, **named, **more}


async def _use(method: Any, arguments: dict[str, Any]) -> None:
    """Call a method and use what it returns, until something is requested."""
    result = method(**arguments)
    for _ in range(3):
        if inspect.isawaitable(result):
            result = await result
        elif hasattr(result, "__aenter__"):
            result = await result.__aenter__()
        elif hasattr(result, "__aiter__"):
            result = await anext(aiter(result))
        elif hasattr(result, "__enter__"):
            result = result.__enter__()
        elif hasattr(result, "__iter__"):
            result = next(iter(result))


@cache
def _surface(kind: Any) -> tuple[dict[tuple[str, str], list[str]], list[str]]:
    """Return what the methods of a client ask for, by verb and path, and the methods that asked for nothing."""
    asked: dict[tuple[str, str], list[str]] = {}
    silent, noted = [], list[tuple[str, str]]()

    async def walk() -> None:
        client = _recorder(kind, noted)
        for trail, resource in _resources(client, kind.__module__.partition(".")[0], "", []):
            if resource is client:
                continue
            for name in dir(type(resource)):
                public = not name.startswith(("_", "with_"))
                if not public or not inspect.isfunction(inspect.getattr_static(type(resource), name)):
                    continue
                method, way = getattr(resource, name), f"{trail}.{name}"
                noted.clear()
                for arguments in _arguments(way, method):
                    with contextlib.suppress(Exception, Requested, BaseExceptionGroup):
                        await _use(method, arguments)
                    if noted:
                        break
                for verb_and_path in noted:
                    asked.setdefault(verb_and_path, []).append(way)
                if not noted:
                    silent.append(way)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # methods that are deprecated are methods
        asyncio.run(walk())
    return asked, silent


KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic, openai.OpenAI, openai.AsyncOpenAI)


def _lines(kind: Any) -> dict[str, str | None]:
    """Return the file's lines of a client's SDK, ids as `{}` without their prefixes."""
    import re

    kinds = paths_of(kind.__module__.partition(".")[0]).kinds
    return {re.sub(r"[a-z]+[_-]\{\}", "{}", path): endpoint for path, endpoint in kinds.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_knows_every_path_that_is_posted_to(kind: Any) -> None:
    asked, _ = _surface(kind)
    lines = _lines(kind)
    unknown = {path: ways for (verb, path), ways in asked.items() if verb == "POST" and path not in lines}
    assert not unknown


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_was_reached_or_asks_for_nothing(kind: Any) -> None:
    asked, silent = _surface(kind)
    assert not [way for way in silent if not way.endswith(tuple(LOCAL))]
    methods = sum(map(len, asked.values()))
    assert methods > 300  # the walk found the SDK, not a corner of it
    assert {verb for verb, _ in asked} <= {"GET", "POST", "DELETE"}  # another verb would pass as free


@pytest.mark.parametrize("kind", KINDS)
def test_what_makes_text_is_metered(kind: Any) -> None:
    """The methods that everybody uses come to the paths that are metered or late, whatever they are called."""
    asked, _ = _surface(kind)
    lines = _lines(kind)
    metered = {way for (verb, path), ways in asked.items() if verb == "POST" and lines.get(path) for way in ways}
    some = {
        "anthropic": "messages.create messages.stream messages.parse beta.messages.create beta.messages.tool_runner "
        "beta.messages.stream messages.batches.create beta.messages.batches.create",
        "openai": "chat.completions.create chat.completions.stream chat.completions.parse responses.create "
        "responses.stream responses.parse embeddings.create batches.create",
    }[kind.__module__.partition(".")[0]]
    assert set(some.split()) <= metered


@pytest.mark.parametrize("api", [anthropic_api, openai_api])
def test_a_line_is_what_decides(api: Any) -> None:
    protocol = api.PROTOCOL
    for line, endpoint in paths_of(protocol.sdk).kinds.items():
        path = line.replace("{}", "1")
        assert (line, protocol.endpoint(path)) == (line, endpoint)
        assert protocol.endpoint(f"{path}/brand/new/door") is None
        assert protocol.endpoint(f"/brand_new{path}") is None
        assert endpoint is not None or len(protocol.reason(path)) > 10


@pytest.mark.parametrize("dots", [".", "..", "%2e%2E", ".%2e"])
def test_a_path_that_is_sent_as_another_is_refused(client: Any, oclient: Any, provider: Provider, dots: str) -> None:
    for guarded, path in ((client, f"/v1/agents/{dots}"), (oclient, f"/skills/{dots}/versions")):
        with pytest.raises(Unbounded):
            guarded.post(path, cast_to=object, body={})
    assert not provider.requests


@pytest.mark.parametrize("name", ["anthropic", "openai"])
def test_no_path_stands_in_two_lines(name: str) -> None:
    import tomllib
    from importlib.resources import files

    table = tomllib.loads(files("budget.clients.paths").joinpath(f"{name}.toml").read_text())
    listed = [*table["metered"], *table["late"]]
    listed += [path for group in ("refused", "free") for paths in table[group].values() for path in paths]
    assert len(listed) == len(set(listed)) == len(paths_of(name).kinds)


# Money set aside by hand opens what is refused.


def test_a_refused_path_passes_where_money_was_set_aside_by_hand(budget: Any, client: Any, provider: Provider) -> None:
    def dream() -> Any:
        return client.post("/v1/dreams", cast_to=object, body={})

    with pytest.raises(Unbounded, match="a dream runs models by itself; set money aside for it"):
        dream()
    assert not provider.requests
    with budget.reservation("$0.40", user="alice") as block:
        with pytest.raises(anthropic.NotFoundError):  # it passed: this provider has no dreams
            dream()
        block.reconcile(usd="0.31")
        with pytest.raises(Unbounded):
            dream()  # what was set aside is spent
    with pytest.raises(Unbounded):
        dream()
    assert len(provider.requests) == 1
    assert [str(entry.usd) for entry in budget.entries(user="alice")] == ["0", "0.31"]


def test_money_set_aside_with_another_engine_opens_nothing(client: Any, make_budget: Any) -> None:
    with make_budget("memory://").reservation("$1"), pytest.raises(Unbounded):
        client.post("/v1/dreams", cast_to=object, body={})


def test_money_set_aside_by_hand_is_for_what_is_refused(budget: Any, client: Any) -> None:
    with budget.reservation("$0.40"):
        client.messages.create(**REQUEST)
    kinds = [entry.kind for entry in budget.entries()]
    assert kinds == ["reserved", "reserved", "reconciled", "reconciled"]


def test_an_async_block_opens_it_too(budget: Any, aclient: Any, provider: Provider) -> None:
    async def dream() -> None:
        await aclient.post("/v1/dreams", cast_to=object, body={})

    async def main() -> None:
        async with aclient:
            async with budget.reservation("$0.40"):
                with pytest.raises(anthropic.NotFoundError):
                    await dream()
                with pytest.raises(anthropic.NotFoundError):
                    await asyncio.create_task(dream())
            with pytest.raises(Unbounded):
                await dream()

    asyncio.run(main())
    assert len(provider.requests) == 2


# WebSockets come to no request.


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", [openai.OpenAI, openai.AsyncOpenAI])
def test_every_websocket_is_refused(budget: Any, plain: Any, kind: Any, monkeypatch: Any) -> None:
    """The SDK needs a library for its WebSockets; ours only says whether it was asked to connect."""
    connected = []
    for name in ("", ".sync", ".sync.client", ".asyncio", ".asyncio.client"):
        monkeypatch.setitem(sys.modules, f"websockets{name}", module := ModuleType(f"websockets{name}"))
        module.connect = module._WebSocketConnect = lambda *a, **k: connected.append(a)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openai.lib._websocket", module)
    client = budget.wrap(plain(kind, websocket_base_url="ws://127.0.0.1:9"))

    async def connect(way: str) -> None:
        method = client
        for name in way.split("."):
            method = getattr(method, name)
        await _use(method, next(_arguments(way, method)))

    doors = [way for way in _surface(kind)[1] if way.endswith(".connect")]
    assert len(doors) >= 4
    for way in doors:
        with pytest.raises(Unbounded, match="WebSocket"):
            asyncio.run(connect(way))
    assert not connected
    with budget.reservation("$1"), contextlib.suppress(Exception):
        asyncio.run(connect(doors[0]))
    assert connected  # money was set aside by hand
