"""Plain keywords: every way to a call takes them, none is ever sent, and the SDK's classes stay what they are."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import openai
import pytest

from budget import ArgumentTypeError, Budget, CapExceeded, ConfigError, short_of
from budget.demo.provider import Provider

from .conftest import CHAT, CHAT_MODEL, EMBEDDING, REQUEST, RESPONSE, is_sync, run_async
from .test_extras import NO_THREAD
from .test_flavours import FLAVOUR

Make = Callable[..., Any]
Way = Callable[[Any, dict[str, Any]], Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic, openai.OpenAI, openai.AsyncOpenAI)
TOO_LITTLE = "$0.000000001"
_ROW = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
_BATCH = {"requests": [{"custom_id": "a", "params": REQUEST}]}
_JOB = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}

ANTHROPIC: dict[str, Way] = {
    "create": lambda c, more: c.messages.create(**REQUEST, **more),
    "create stream": lambda c, more: c.messages.create(**REQUEST, stream=True, **more),
    "stream": lambda c, more: c.messages.stream(**REQUEST, **more),
    "parse": lambda c, more: c.messages.parse(**REQUEST, **more),
    "batches": lambda c, more: c.messages.batches.create(**_BATCH, **more),
    "raw": lambda c, more: c.messages.with_raw_response.create(**REQUEST, **more),
    "raw batches": lambda c, more: c.messages.with_raw_response.batches.create(**_BATCH, **more),
    "streaming": lambda c, more: c.messages.with_streaming_response.create(**REQUEST, **more),
    "client's raw": lambda c, more: c.with_raw_response.messages.create(**REQUEST, **more),
    "client's streaming": lambda c, more: c.with_streaming_response.beta.messages.create(**REQUEST, **more),
    "beta": lambda c, more: c.beta.messages.create(**REQUEST, **more),
    "beta stream": lambda c, more: c.beta.messages.stream(**REQUEST, **more),
    "beta batches": lambda c, more: c.beta.messages.batches.create(**_BATCH, **more),
    "runner": lambda c, more: c.beta.messages.tool_runner(**REQUEST, tools=[], **NO_THREAD, **more),
    "options": lambda c, more: c.with_options(timeout=50).messages.create(**REQUEST, **more),
    "copy": lambda c, more: c.copy().beta.messages.create(**REQUEST, **more),
}
OPENAI: dict[str, Way] = {
    "create": lambda c, more: c.chat.completions.create(**CHAT, **more),
    "create stream": lambda c, more: c.chat.completions.create(**CHAT, stream=True, **more),
    "stream": lambda c, more: c.chat.completions.stream(**CHAT, **more),
    "parse": lambda c, more: c.chat.completions.parse(**CHAT, **more),
    "raw": lambda c, more: c.chat.completions.with_raw_response.create(**CHAT, **more),
    "streaming": lambda c, more: c.chat.completions.with_streaming_response.create(**CHAT, **more),
    "client's raw": lambda c, more: c.with_raw_response.chat.completions.create(**CHAT, **more),
    "responses": lambda c, more: c.responses.create(**RESPONSE, **more),
    "responses stream": lambda c, more: c.responses.stream(**RESPONSE, **more),
    "responses parse": lambda c, more: c.responses.parse(**RESPONSE, **more),
    "embeddings": lambda c, more: c.embeddings.create(**EMBEDDING, **more),
    "options": lambda c, more: c.with_options(timeout=50).responses.create(**RESPONSE, **more),
    "copy": lambda c, more: c.copy().embeddings.with_raw_response.create(**EMBEDDING, **more),
    "batches": lambda c, more: c.batches.create(input_file_id="file", **_JOB, **more),
}


def _ways(kind: type) -> dict[str, Way]:
    return ANTHROPIC if kind.__name__.endswith("Anthropic") else OPENAI


async def _finish(result: Any) -> Any:
    """Read what a method returned to its end, whatever it is, and return it."""
    if inspect.isawaitable(result):
        result = await result
    if hasattr(result, "until_done"):
        return await _finish(result.until_done())
    if hasattr(result, "__aexit__"):
        async with result as inner:
            return [event async for event in inner] if hasattr(inner, "__aiter__") else await inner.read()
    if hasattr(result, "__exit__"):
        with result as inner:
            return list(inner) if hasattr(inner, "__iter__") and not hasattr(inner, "parse") else inner.read()
    return await _finish(result.parse()) if hasattr(result, "http_response") else result


def _in_a_loop(client: Any, main: Callable[[Any], Any]) -> None:
    asyncio.run(main(client)) if is_sync(type(client)) else run_async(client, main)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, provider: Provider) -> list[bytes]:
    """The bodies that arrive at the provider."""
    bodies: list[bytes] = []
    script = provider._script

    def note(request: Any) -> Any:
        bodies.append(request.body)
        return script(request)

    monkeypatch.setattr(provider, "_script", note)
    return bodies


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_takes_them_and_none_is_sent(budget: Budget, plain: Make, sent: list[bytes], kind: Any) -> None:
    is_openai = _ways(kind) is OPENAI
    kept: dict[str, Any] = {"user": "kept"} if is_openai else {"metadata": {"user_id": "kept"}}

    async def main(client: Any) -> None:
        file = None
        if is_openai:
            file = await _finish(client.files.create(file=("b", json.dumps(_ROW).encode()), purpose="batch"))
        for name, way in _ways(kind).items():
            extra = {"input_file_id": file.id} if file is not None and name == "batches" else {}
            sent.clear()
            with pytest.raises(CapExceeded):
                await _finish(way(client, {"budget_cap": TOO_LITTLE, "extra_body": {**kept, **extra}}))
            assert not sent, name
            more = {"budget_scope": {"user": name}, "budget_cap": "$1", "budget_on_short": None}
            await _finish(way(client, {**more, "extra_body": {**kept, **extra}}))
            (body,) = sent
            assert b"budget_" not in body, name
            assert kept.items() <= json.loads(body).items(), name
            if not extra:
                await _finish(way(client, {"budget_scope": {"user": name, "team": "red"}}))
                await _finish(way(client, {}))
                assert sent[1] == sent[2], name
            made = [one for one in budget.entries(user=name) if one.kind == "reserved" and "link" not in one.detail]
            assert len(made) == (1 if extra else 2), name

    _in_a_loop(budget.wrap(plain(kind)), main)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_is_said_before_anything_is_sent(
    budget: Budget, plain: Make, provider: Provider, kind: Any
) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"budget_scope": "alice"}, ArgumentTypeError, "budget_scope: str is not a mapping"),
        ({"budget_cap": 0.1}, ArgumentTypeError, "budget_cap"),
        ({"budget_on_short": "pray"}, ConfigError, "budget_on_short"),
        ({"budget_x": 1}, ConfigError, "budget_x: is not one of budget_scope, budget_cap, budget_on_short"),
        ({"budget_cap": "$1", "extra_body": []}, ArgumentTypeError, "extra_body: list is not a mapping, as budget_cap"),
    ]

    async def main(client: Any) -> None:
        for more, error, text in wrong:
            for name in ("create", "raw", "options"):
                with pytest.raises(error, match=text):
                    await _finish(_ways(kind)[name](client, more))

        async def unwrap(**more: Any) -> Any:
            webhooks = getattr(client, "webhooks", None) or client.beta.webhooks
            return await _finish(webhooks.unwrap("{}", headers={}, **more))

        with pytest.raises(ArgumentTypeError, match=r"budget_cap: \w+\.unwrap\(\) takes none"):
            await unwrap(budget_cap="$1")
        with pytest.raises(TypeError, match=r"unwrap\(\) got an unexpected keyword argument 'cap'"):
            await unwrap(cap="$1")

    _in_a_loop(budget.wrap(plain(kind)), main)
    assert not provider.requests
    assert not list(budget.entries())


def test_a_free_call_is_sent_as_it_is(client: Any, oclient: Any, sent: list[bytes], provider: Provider) -> None:
    client.messages.count_tokens(model=REQUEST["model"], messages=REQUEST["messages"], budget_scope={"user": "a"})
    for guarded in (client, oclient):
        with contextlib.suppress(anthropic.NotFoundError, openai.NotFoundError):  # this provider has no models
            guarded.models.retrieve("m", budget_scope={"user": "a"})
    assert len(sent) == len(provider.requests) == 3
    assert b"budget_" not in sent[0]
    assert sent[1:] == [b"", b""]


def test_a_clamped_call_says_so(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.01/request"])
    client = budget.wrap(plain())
    with pytest.raises(CapExceeded):
        client.messages.create(**{**REQUEST, "max_tokens": 5000})
    answer = client.messages.create(**{**REQUEST, "max_tokens": 5000}, budget_on_short="clamp")
    told = short_of(answer)
    assert told is not None
    assert told.clamped is not None
    assert told.clamped["from"] == 5000


@pytest.mark.parametrize("name", ["AnthropicBedrock", "AnthropicVertex", "AzureOpenAI"])
def test_flavours_take_them(budget: Budget, provider: Provider, name: str) -> None:
    flavour = FLAVOUR[name]
    with budget.wrap(flavour.make(provider.url)) as client, client.with_options(timeout=5.0) as copied:
        for each in (client, copied):
            with pytest.raises(CapExceeded):
                flavour.call(each, budget_cap=TOO_LITTLE)
        assert not provider.requests
        flavour.call(copied, budget_scope={"user": "alice"})
    assert [entry.kind for entry in budget.entries(user="alice")] == ["reserved", "reconciled"]


# The SDK's own classes.


def _resources(thing: Any, other: Any, seen: set[type]) -> Iterator[tuple[Any, Any]]:
    """Yield a wrapped client's resources, each beside that of a client that nobody guards."""
    for name in dir(type(other)):
        made = inspect.getattr_static(type(other), name)
        if not hasattr(made, "func") or name.startswith("with_"):
            continue
        pair = getattr(thing, name), getattr(other, name)
        if hasattr(pair[1], "_client") and type(pair[1]) not in seen:
            seen.add(type(pair[1]))
            yield pair
            yield from _resources(*pair, seen)


@pytest.mark.parametrize("kind", [anthropic.Anthropic, openai.AsyncOpenAI])
def test_every_resource_is_of_its_class_and_its_methods_are_as_they_were(
    budget: Budget, plain: Make, kind: Any
) -> None:
    bare = plain(kind)
    pairs = list(_resources(budget.wrap(bare), bare, set()))
    assert len(pairs) > 20
    for ours, theirs in pairs:
        assert isinstance(ours, type(theirs))
        assert type(ours) is not type(theirs)
        names = [(each.__module__, each.__qualname__, each.__doc__) for each in (type(ours), type(theirs))]
        assert names[0] == names[1]
        for name, function in inspect.getmembers(type(theirs), inspect.isfunction):
            wrapped = getattr(type(ours), name)
            assert inspect.iscoroutinefunction(wrapped) == inspect.iscoroutinefunction(function)
            if not name.startswith("_"):
                assert inspect.signature(wrapped) == inspect.signature(function)
                assert (wrapped.__name__, wrapped.__doc__) == (function.__name__, function.__doc__)
    again = budget.wrap(plain(kind))
    first = next(name for name in ("messages", "chat") if hasattr(again, name))
    assert type(getattr(again, first)) is type(getattr(budget.wrap(bare).with_options(timeout=5), first))


def test_whoever_patches_the_sdk_is_heard(oclient: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    create = oclient.chat.completions.create
    monkeypatch.setattr(openai.resources.chat.Completions, "create", lambda self, **given: given)
    assert create(model=CHAT_MODEL) == oclient.chat.completions.create(model=CHAT_MODEL) == {"model": CHAT_MODEL}
