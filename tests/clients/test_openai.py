"""Wrapped OpenAI clients: what they are, that no way through one goes around the guard, and how plain calls end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import pickle
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from budget import Budget, BudgetError, BudgetExceeded, CapExceeded, ConfigError, Unbounded
from budget.clients import self_test
from budget.clients.openai import PROTOCOL
from budget.demo.provider import Provider, Reply, Request
from budget.outcome import CHARGE, REFUND

from .conftest import (
    BROKEN,
    CHAT,
    CHAT_IN,
    CHAT_MODEL,
    CHAT_OUT,
    EMBEDDING,
    OPENAI_HTTP,
    RESPONSE,
    ends,
    is_sync,
    only_end,
    open_reservations,
    reserved_usd,
    run_async,
    steer,
)

KINDS = (openai.OpenAI, openai.AsyncOpenAI)
Make = Callable[..., Any]
Options = openai._models.FinalRequestOptions
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "embeddings": "/v1/embeddings"}
REQUESTS = {"chat": CHAT, "responses": RESPONSE, "embeddings": EMBEDDING}


class City(BaseModel):
    city: str


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits about half a second before a retry that no `retry-after` header is about."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)


def billed(budget: Budget, provider: Provider) -> Decimal:
    """What the last request costs by the provider's own log."""
    seen = provider.requests[-1]
    return budget.cost(seen.usage, model=seen.model, provider="openai").usd


# What wrap returns.


@pytest.mark.parametrize("kind", KINDS)
def test_wrap_returns_an_instance_of_the_same_class(budget: Budget, plain: Make, kind: type) -> None:
    given = plain(kind)
    given_chat, before = given.chat, {name: id(value) for name, value in vars(given).items()}
    wrapped = budget.wrap(given)
    assert isinstance(wrapped, kind)
    assert (type(wrapped).__name__, type(wrapped).__module__) == (kind.__name__, kind.__module__)
    assert (wrapped.api_key, wrapped.base_url, wrapped._client) == (given.api_key, given.base_url, given._client)
    assert budget.wrap(wrapped) is wrapped
    assert type(budget.wrap(plain(kind))) is type(wrapped)
    assert wrapped.chat is not given_chat
    assert (type(given), given.chat) == (kind, given_chat)
    assert {name: id(value) for name, value in vars(given).items()} == before


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_given_can_be_collected(budget: Budget, provider: Provider, kind: Any) -> None:
    given = kind(base_url=f"{provider.url}/v1", api_key="key")
    raw = given.with_raw_response, given.with_streaming_response
    resources = given.chat.completions, given.responses, given.embeddings, given.beta.threads, raw
    wrapped = budget.wrap(given)
    gone = weakref.ref(given)
    del given, resources, raw
    gc.collect()
    assert gone() is None
    assert wrapped.chat.completions._client is wrapped
    gone = weakref.ref(wrapped)
    del wrapped
    gc.collect()
    assert gone() is None


def test_an_engine_that_wrapped_can_be_collected(plain: Make) -> None:
    with Budget("memory://") as made:
        made.wrap(plain(openai.OpenAI)).chat.completions.create(**CHAT)
        gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_the_client_given_goes_on_unguarded(budget: Budget, plain: Make) -> None:
    given = plain(openai.OpenAI)
    budget.wrap(given)
    budget.limits.set("$0.000000001/request")
    assert given.chat.completions.create(**CHAT).usage.completion_tokens == 40
    assert not ends(budget)


def test_another_engine_cannot_wrap_it_again(oclient: Any, make_budget: Make) -> None:
    with pytest.raises(ConfigError, match="another engine"):
        make_budget("memory://").wrap(oclient.copy())


def test_an_sdk_without_what_guarding_depends_on_is_refused(budget: Budget, plain: Make, monkeypatch: Any) -> None:
    given = plain(openai.OpenAI)
    assert self_test()["openai"] == ""
    monkeypatch.delattr("openai._base_client.SyncAPIClient.request")
    with pytest.raises(ConfigError, match=r"has no request; is its SDK too new\?"):
        budget.wrap(given)
    assert self_test()["openai"] == "request"


class _Team(openai.OpenAI):
    """A subclass as users make it: state of its own, and a method that calls up."""

    def __init__(self, *, team: str = "none", **options: Any):
        super().__init__(**options)
        self.team = team

    def post(self, path: str, **options: Any) -> Any:
        self.posted = path
        return super().post(path, **options)


def test_a_users_own_subclass_is_guarded(budget: Budget, plain: Make) -> None:
    wrapped = budget.wrap(plain(_Team, team="red"))
    assert isinstance(wrapped, _Team)
    assert wrapped.embeddings.create(**EMBEDDING).data
    assert (wrapped.team, wrapped.posted) == ("red", "/embeddings")
    assert only_end(budget).kind == "reconciled"


@pytest.mark.parametrize("twin", ["copy", "with_options", "copy of a copy"])
def test_what_a_wrapped_client_makes_is_guarded_too(budget: Budget, oclient: Any, twin: str) -> None:
    made = oclient.with_options(timeout=5.0) if twin == "with_options" else oclient.copy()
    made = made.copy(max_retries=1) if twin == "copy of a copy" else made
    assert type(made) is type(oclient)
    assert made.chat.completions.create(**CHAT).usage.completion_tokens == 40
    assert only_end(budget).kind == "reconciled"


def test_signatures_stay(oclient: Any) -> None:
    bare = openai.OpenAI(api_key="k")
    for one, other in ((oclient.chat.completions, bare.chat.completions), (oclient.responses, bare.responses)):
        assert inspect.signature(one.create) == inspect.signature(other.create)
        assert inspect.signature(one.stream) == inspect.signature(other.stream)


# Every way to make a billable call. Each is given the client and headers, and reads its answer to the end.


def _read(stream: Any) -> None:
    for _ in stream:
        pass


def _helper(manager: Any) -> None:
    with manager as stream:
        stream.until_done()


def _whole_body(manager: Any) -> None:
    with manager as response:
        response.read()


def _by_hand(client: Any, more: Any) -> None:
    cast_to = openai.types.CreateEmbeddingResponse
    client.post("/embeddings", cast_to=cast_to, body=dict(EMBEDDING), options={"headers": more["extra_headers"]})


def _by_request(client: Any, more: Any) -> Any:
    options = Options.construct(
        method="post", url="/chat/completions?x=1", json_data=dict(CHAT), headers=more["extra_headers"]
    )
    return client.request(openai.types.chat.ChatCompletion, options)


_CHAT: dict[str, Callable[[Any, Any], Any]] = {
    "create": lambda c, m: c.chat.completions.create(**CHAT, **m),
    "several": lambda c, m: c.chat.completions.create(**CHAT, **m, n=3),
    "parse": lambda c, m: c.chat.completions.parse(**CHAT, **m, response_format=City),
    "raw": lambda c, m: c.chat.completions.with_raw_response.create(**CHAT, **m),
    "raw of the client": lambda c, m: c.with_raw_response.chat.completions.create(**CHAT, **m),
    "twin": lambda c, m: c.with_options(timeout=5.0).chat.completions.create(**CHAT, **m),
    "request": _by_request,
}
_RESPONSES: dict[str, Callable[[Any, Any], Any]] = {
    "create": lambda c, m: c.responses.create(**RESPONSE, **m),
    "parse": lambda c, m: c.responses.parse(**RESPONSE, **m, text_format=City),
    "beta": lambda c, m: c.beta.responses.create(**RESPONSE, **m),
    "raw": lambda c, m: c.responses.with_raw_response.create(**RESPONSE, **m),
}
_EMBEDDINGS: dict[str, Callable[[Any, Any], Any]] = {
    "create": lambda c, m: c.embeddings.create(**EMBEDDING, **m),
    "floats": lambda c, m: c.embeddings.create(**EMBEDDING, **m, encoding_format="float"),
    "raw": lambda c, m: c.embeddings.with_raw_response.create(**EMBEDDING, **m),
    "post": _by_hand,
}
_SYNC: dict[str, dict[str, Callable[[Any, Any], Any]]] = {
    "chat": {
        **_CHAT,
        "create, streamed": lambda c, m: _read(c.chat.completions.create(**CHAT, **m, stream=True)),
        "several, streamed": lambda c, m: _read(c.chat.completions.create(**CHAT, **m, n=3, stream=True)),
        "stream": lambda c, m: _helper(c.chat.completions.stream(**CHAT, **m)),
        "raw, streamed": lambda c, m: _read(
            c.chat.completions.with_raw_response.create(**CHAT, **m, stream=True).parse()
        ),
        "streaming response": lambda c, m: _whole_body(c.chat.completions.with_streaming_response.create(**CHAT, **m)),
        "streaming response, streamed": lambda c, m: _whole_body(
            c.chat.completions.with_streaming_response.create(**CHAT, **m, stream=True)
        ),
    },
    "responses": {
        **_RESPONSES,
        "create, streamed": lambda c, m: _read(c.responses.create(**RESPONSE, **m, stream=True)),
        "stream": lambda c, m: _helper(c.responses.stream(**RESPONSE, **m)),
        "raw, streamed": lambda c, m: _read(c.responses.with_raw_response.create(**RESPONSE, **m, stream=True).parse()),
        "streaming response": lambda c, m: _whole_body(c.responses.with_streaming_response.create(**RESPONSE, **m)),
    },
    "embeddings": {
        **_EMBEDDINGS,
        "streaming response": lambda c, m: _whole_body(c.embeddings.with_streaming_response.create(**EMBEDDING, **m)),
    },
}


async def _aread(stream: Any) -> None:
    async for _ in await stream:
        pass


async def _ahelper(manager: Any) -> None:
    async with manager as stream:
        await stream.until_done()


async def _awhole_body(manager: Any) -> None:
    async with manager as response:
        await response.read()


async def _araw_streamed(response: Any) -> None:
    async for _ in (await response).parse():
        pass


async def _aby_hand(client: Any, more: Any) -> None:
    await client.post(
        "/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body=dict(EMBEDDING),
        options={"headers": more["extra_headers"]},
    )  # fmt: skip


_ASYNC: dict[str, dict[str, Callable[[Any, Any], Any]]] = {
    "chat": {
        **_CHAT,
        "create, streamed": lambda c, m: _aread(c.chat.completions.create(**CHAT, **m, stream=True)),
        "stream": lambda c, m: _ahelper(c.chat.completions.stream(**CHAT, **m)),
        "raw, streamed": lambda c, m: _araw_streamed(
            c.chat.completions.with_raw_response.create(**CHAT, **m, stream=True)
        ),
        "streaming response": lambda c, m: _awhole_body(c.chat.completions.with_streaming_response.create(**CHAT, **m)),
    },
    "responses": {
        **_RESPONSES,
        "create, streamed": lambda c, m: _aread(c.responses.create(**RESPONSE, **m, stream=True)),
        "stream": lambda c, m: _ahelper(c.responses.stream(**RESPONSE, **m)),
        "raw, streamed": lambda c, m: _araw_streamed(
            c.responses.with_raw_response.create(**RESPONSE, **m, stream=True)
        ),
    },
    "embeddings": {**_EMBEDDINGS, "post": _aby_hand},
}
WAYS = [
    pytest.param(kind, endpoint, call, id=f"{prefix}{endpoint} {name}")
    for kind, prefix, endpoints in ((openai.OpenAI, "", _SYNC), (openai.AsyncOpenAI, "async ", _ASYNC))
    for endpoint, calls in endpoints.items()
    for name, call in calls.items()
]


def _run(call: Any, client: Any, demo: str = "") -> None:
    """Make a call to its end, sync or async."""
    more = steer(demo, request={})
    if is_sync(type(client)):
        call(client, more)
    else:
        run_async(client, lambda client: call(client, more))


@pytest.mark.parametrize(("kind", "endpoint", "call"), WAYS)
def test_every_way_to_call_is_booked(
    budget: Budget, plain: Make, provider: Provider, kind: Any, endpoint: str, call: Any
) -> None:
    _run(call, budget.wrap(plain(kind)))
    assert [seen.path for seen in provider.requests] == [PATHS[endpoint]]
    end = only_end(budget)
    assert end.kind == "reconciled"
    assert end.usd == billed(budget, provider) > 0
    assert end.scope["provider"] == "openai"
    assert "estimated" not in end.detail
    assert "outcome" not in end.detail
    if endpoint != "embeddings":  # whose provider here counts tokens by other rules than the estimate
        assert end.usd <= reserved_usd(budget)


@pytest.mark.parametrize(("kind", "endpoint", "call"), WAYS)
def test_a_refused_call_sends_no_byte_and_its_error_is_untouched(
    budget: Budget, plain: Make, provider: Provider, kind: Any, endpoint: str, call: Any
) -> None:
    budget.limits.set("$0.000000001/request")
    with pytest.raises(CapExceeded) as caught:
        _run(call, budget.wrap(plain(kind, max_retries=2)))
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not provider.requests
    assert [entry.kind for entry in budget.entries()] == ["limit_set", "refused"]


@pytest.mark.parametrize(("kind", "endpoint", "call"), WAYS)
def test_an_exhausted_pool_refuses_with_one_entry(
    make_budget: Make, plain: Make, provider: Provider, kind: Any, endpoint: str, call: Any
) -> None:
    budget = make_budget("memory://", limits=["$0.000000001/day"])
    with pytest.raises(BudgetExceeded) as caught:
        _run(call, budget.wrap(plain(kind)))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert not provider.requests
    assert [entry.kind for entry in budget.entries()] == ["refused"]
    assert not budget.engine.leases._due


@pytest.mark.parametrize(("kind", "endpoint", "call"), WAYS)
def test_retries_are_one_call(
    budget: Budget, plain: Make, provider: Provider, kind: Any, endpoint: str, call: Any
) -> None:
    _run(call, budget.wrap(plain(kind, max_retries=2)), "fail_first=2:429")
    assert [seen.status for seen in provider.requests] == [429, 429, 200]
    end = only_end(budget)
    assert (end.kind, end.usd) == ("reconciled", billed(budget, provider))


@pytest.mark.parametrize(("kind", "endpoint", "call"), WAYS)
def test_an_error_answer_is_refunded(
    budget: Budget, plain: Make, provider: Provider, kind: Any, endpoint: str, call: Any
) -> None:
    with pytest.raises(openai.RateLimitError):
        _run(call, budget.wrap(plain(kind)), "status=429")
    assert len(provider.requests) == 1
    assert only_end(budget).kind == REFUND + "ed"


def test_an_unpriced_model_is_refused(oclient: Any, budget: Budget, provider: Provider) -> None:
    for call in (oclient.chat.completions.create, oclient.chat.completions.parse):
        with pytest.raises(LookupError, match="no price for model 'nobody-knows'"):
            call(**{**CHAT, "model": "nobody-knows"})
    assert not provider.requests
    assert not list(budget.entries())


# Which paths are metered, refused or free.

_SPENDING = (
    "/completions", "/responses/compact", "/decisions", "/videos", "/videos/edits", "/videos/v/remix",
    "/fine_tuning/jobs", "/fine_tuning/jobs/j/resume", "/fine_tuning/alpha/graders/run", "/evals/runs", "/evals/e/runs",
    "/threads/runs", "/threads/thread_1/runs", "/threads/thread_1/runs/run_1/submit_tool_outputs", "/live/sessions",
    "/live/sessions/s/fork", "/realtime/calls", "/realtime/sessions", "/realtime/client_secrets", "/agents",
    "/agents/sessions", "/agents/automations/a/invocations", "/content_provenance_checks", "/containers",
    "/vector_stores", "/vector_stores/vs_1/files", "/vector_stores/vs_1/file_batches", "/vector_stores/vs_1/search",
    "/images/variations", "/audio/voices", "/chatkit/sessions",
    "/responses/x", "/chat/completions/x", "/v2/chat/completions", "/brand_new",
)  # fmt: skip
_FREE = (
    "/responses/input_tokens", "/responses/resp_1/cancel", "/batches/b/cancel", "/moderations", "/files",
    "/uploads/u/parts", "/chat/completions/chatcmpl-1", "/conversations/conv_1/items", "/threads", "/threads/thread_1",
    "/threads/thread_1/messages", "/threads/thread_1/runs/run_1/cancel", "/vector_stores/vs_1", "/evals",
    "/vector_stores/vs_1/files/file-1", "/organization/projects/p/archive", "/projects/p/roles", "/assistants/asst_1",
    "/realtime/calls/c/hangup", "/fine_tuning/jobs/j/pause", "/skills/s/versions", "/webhook_endpoints/w/test",
)  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_no_post_that_spends_is_free(prefix: str) -> None:
    assert {path: PROTOCOL.endpoint(prefix + path) for path in _SPENDING} == dict.fromkeys(_SPENDING)
    assert {path: PROTOCOL.endpoint(prefix + path) for path in _FREE} == dict.fromkeys(_FREE, "")
    metered = {path: PROTOCOL.endpoint(path) for path in PATHS.values()}
    assert metered == {path: endpoint for endpoint, path in PATHS.items()}


def _refused_posts(client: Any) -> Iterator[Any]:
    yield lambda: client.completions.create(model="gpt-3.5-turbo-instruct", prompt="x")
    yield lambda: client.images.create_variation(image=b"x")
    yield lambda: client.videos.create(prompt="x")
    yield lambda: client.beta.threads.create_and_run(assistant_id="a")
    yield client.vector_stores.create
    yield lambda: client.vector_stores.search("vs_1", query="x").data
    yield lambda: client.post("/brand_new", cast_to=object, body={"max_tokens": 1})
    yield lambda: client.post("brand_new/v1/chat/completions", cast_to=object, body=dict(CHAT))
    yield lambda: client.post("https://elsewhere.example/v1/brand_new", cast_to=object, body={})
    yield lambda: client.post("/files/../responses/compact", cast_to=object, body={})  # as it is sent, not as it looks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_post_that_nobody_can_price_is_refused(budget: Budget, oclient: Any, provider: Provider) -> None:
    for post in _refused_posts(oclient):
        with pytest.raises(Unbounded, match="is not metered in this version"):
            post()
    assert not provider.requests
    assert not list(budget.entries())


@pytest.mark.parametrize("path", ["", "/v1", "/some/gateway/v1beta"])
def test_free_paths_pass_and_are_not_recorded(budget: Budget, plain: Make, provider: Provider, path: str) -> None:
    budget.limits.set("$0.000000001/request")
    client = budget.wrap(plain(openai.OpenAI, base_url=provider.url + path))
    calls = [
        lambda: client.moderations.create(input="x"),
        lambda: client.files.create(file=b"x", purpose="batch"),
        lambda: client.responses.cancel("resp_1"),
        lambda: client.responses.retrieve("resp_1"),
        lambda: client.models.delete("ft:gpt-4.1:x"),
    ]
    for call in calls:
        with contextlib.suppress(openai.NotFoundError):  # it passed; this provider may have no such thing
            call()
    assert len(provider.requests) == len(calls)
    assert [entry.kind for entry in budget.entries()] == ["limit_set"]


@pytest.mark.parametrize("path", ["", "/v1", "/some/gateway/v1beta"])
def test_any_base_url_is_guarded(budget: Budget, plain: Make, provider: Provider, path: str) -> None:
    client = budget.wrap(plain(openai.OpenAI, base_url=provider.url + path))
    with contextlib.suppress(openai.NotFoundError):
        client.chat.completions.create(**CHAT)
    only_end(budget)
    budget.limits.set("$0.000000001/request")
    with pytest.raises(CapExceeded):
        openai.OpenAI.request(client, object, Options.construct(method="post", url="/embeddings", json_data=EMBEDDING))
    assert len(provider.requests) == 1


def test_the_backstop_reserves_what_went_around_request(budget: Budget, oclient: Any, provider: Provider) -> None:
    """A call of the base class's own method passes no `request` of ours: it is reserved and charged as it is sent."""
    request, cast_to = openai.OpenAI.request, openai.types.chat.ChatCompletion
    made = request(oclient, cast_to, Options.construct(method="post", url="/chat/completions", json_data=dict(CHAT)))
    assert made.usage.completion_tokens == 40
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"], end.usd) == ("reconciled", True, reserved_usd(budget))
    for url in ("/decisions", "/files/../decisions"):
        with pytest.raises(Unbounded):
            request(oclient, object, Options.construct(method="post", url=url, json_data={}))
    assert len(provider.requests) == 1


def _sockets(client: Any) -> Iterator[Any]:
    yield lambda: client.realtime.connect(model="gpt-realtime")
    yield lambda: client.beta.realtime.connect(model="gpt-realtime")
    if hasattr(client.responses, "connect"):
        yield client.responses.connect


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_websocket_is_refused_before_it_connects(
    budget: Budget, plain: Make, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """The SDK needs a library for its WebSockets; ours only says whether it was asked to connect."""
    connected = []
    library = {name: ModuleType(name) for name in (
        "websockets", "websockets.sync", "websockets.sync.client", "websockets.asyncio", "websockets.asyncio.client",
        "openai.lib._websocket",
    )}  # fmt: skip
    for name, module in library.items():
        module.connect = module._WebSocketConnect = lambda *a, **k: connected.append(a)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)

    async def main(client: Any) -> None:
        for socket in _sockets(client):
            with pytest.raises(Unbounded, match="WebSocket"):
                await socket().__aenter__()

    wrapped = budget.wrap(plain(kind, websocket_base_url="ws://127.0.0.1:9"))
    if is_sync(kind):
        for socket in _sockets(wrapped):
            with pytest.raises(Unbounded, match="WebSocket"):
                socket().__enter__()
    else:
        run_async(wrapped, main)
    assert not connected
    assert not list(budget.entries())


def test_the_address_of_websockets_survives_a_copy(budget: Budget, plain: Make) -> None:
    wrapped = budget.wrap(plain(openai.OpenAI, websocket_base_url="ws://127.0.0.1:9"))
    assert vars(wrapped.copy())["websocket_base_url"] == "ws://127.0.0.1:9"
    wrapped.websocket_base_url = "ws://127.0.0.1:10"
    assert vars(wrapped.copy())["websocket_base_url"] == "ws://127.0.0.1:10"


# The body that is estimated is the body that is sent.


@pytest.mark.parametrize("kind", KINDS)
def test_what_extra_body_adds_is_reserved(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    body = {"max_tokens": 9999, "model": "gpt-4.1-nano"}
    _run(lambda c, m: c.chat.completions.create(**CHAT, **m, extra_body=body), budget.wrap(plain(kind)))
    assert (provider.requests[0].max_tokens, provider.requests[0].model) == (9999, "gpt-4.1-nano")
    reserved = next(iter(budget.entries()))
    assert reserved.estimate is not None
    assert (reserved.estimate["output_tokens_max"], reserved.scope["model"]) == (9999, "gpt-4.1-nano")


def test_extra_body_cannot_pass_a_cap(budget: Budget, oclient: Any, provider: Provider) -> None:
    budget.limits.set("$0.001/request")
    omit = openai._types.Omit()
    oclient.chat.completions.create(**CHAT)
    for extra in ({"max_tokens": 9999}, {"n": 100}, {"max_tokens": omit}):  # without a bound, the model's own holds
        with pytest.raises(CapExceeded):
            oclient.chat.completions.create(**CHAT, extra_body=extra)
        with pytest.raises(CapExceeded):
            oclient.chat.completions.create(**CHAT, extra_body=extra, stream=True)
    assert len(provider.requests) == 1


def test_several_answers_are_reserved(budget: Budget, oclient: Any, provider: Provider) -> None:
    oclient.chat.completions.create(**CHAT, n=5, **steer("output=100", request={}))
    end = only_end(budget)
    assert end.estimate is not None
    assert end.estimate["output_tokens_max"] >= 500 == end.detail["usage"]["output"]
    assert end.usd == billed(budget, provider) <= reserved_usd(budget)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_is_estimated_and_sent(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    messages = [{"role": "user", "content": "word " * 400}]
    request = {**CHAT, "messages": (message for message in messages)}
    _run(lambda c, m: c.chat.completions.create(**request, **m), budget.wrap(plain(kind)))
    end = only_end(budget)
    assert end.estimate is not None
    assert end.detail["usage"]["input"] >= 500  # the provider got the whole message
    assert end.estimate["input_tokens_max"] >= 400  # and so did the estimate


def test_an_earlier_answer_can_be_sent_back(budget: Budget, oclient: Any) -> None:
    first = oclient.chat.completions.create(**CHAT).choices[0].message
    messages = [*CHAT["messages"], first, {"role": "user", "content": "go on"}]
    oclient.chat.completions.create(**{**CHAT, "messages": messages})
    answer = oclient.responses.create(**RESPONSE).output
    oclient.responses.create(**{**RESPONSE, "input": [*answer, {"role": "user", "content": "go on"}]})
    assert [end.kind for end in ends(budget)] == ["reconciled"] * 4


def test_the_callers_request_is_not_changed(budget: Budget, plain: Make) -> None:
    asked: list[Any] = []

    def script(request: Request) -> Reply:
        asked.append(request.json.get("stream_options"))
        return Reply()

    with Provider(script=script) as provider:
        client = budget.wrap(plain(openai.OpenAI, base_url=f"{provider.url}/v1"))
        body: dict[str, Any] = {**CHAT, "stream": True, "stream_options": {"include_obfuscation": False}}
        extra = {"stream_options": {"include_usage": False}}
        kept, kept_extra = repr(body), repr(extra)
        stream_cls = openai.Stream[openai.types.chat.ChatCompletionChunk]
        cast_to = openai.types.chat.ChatCompletionChunk
        for options in ({}, {"extra_json": extra}):
            _read(client.post("/chat/completions", cast_to=cast_to, body=body, stream=True, stream_cls=stream_cls,
                              options=options))  # fmt: skip
        assert (repr(body), repr(extra)) == (kept, kept_extra)
    assert asked == [{"include_obfuscation": False, "include_usage": True}, {"include_usage": True}]
    assert [end.detail.get("estimated") for end in ends(budget)] == [None, None]


@pytest.mark.parametrize("body", [None, {}, {"model": 5}, {"model": CHAT_MODEL, "max_tokens": "many", "messages": []}])
def test_a_body_that_makes_no_sense_is_refused(oclient: Any, provider: Provider, body: Any) -> None:
    with pytest.raises(BudgetError):
        oclient.post("/chat/completions", cast_to=object, body=body)
    assert not provider.requests


@pytest.mark.filterwarnings("ignore:Passing raw bytes:DeprecationWarning")
def test_a_body_that_cannot_be_read_is_refused(oclient: Any, provider: Provider) -> None:
    posts = [
        lambda: oclient.post("/chat/completions", cast_to=object, body=b'{"model": "gpt-4.1-mini"}'),
        lambda: oclient.post("/chat/completions", cast_to=object, content=b'{"model": "gpt-4.1-mini"}'),
        lambda: oclient.post("/chat/completions", cast_to=object, body=["x"]),
        lambda: oclient.post("/responses", cast_to=object, body=dict(RESPONSE), files={"file": b"x"}),
    ]
    for post in posts:
        with pytest.raises(Unbounded, match="cannot be read before it is sent"):
            post()
    assert not provider.requests


# How plain calls end.


@pytest.fixture(params=[f"{prefix}{endpoint}" for prefix in ("", "async ") for endpoint in REQUESTS])
def call(request: pytest.FixtureRequest, budget: Budget, plain: Make) -> Any:
    """A call of each kind: given how to steer it and options of the client, it returns what was raised."""
    endpoint = request.param.split()[-1]
    kind = openai.AsyncOpenAI if "async" in request.param else openai.OpenAI
    create = (_CHAT if endpoint == "chat" else _RESPONSES if endpoint == "responses" else _EMBEDDINGS)["create"]

    def make(demo: str = "", **options: Any) -> BaseException | None:
        try:
            _run(create, budget.wrap(plain(kind, **options)), demo)
        except Exception as error:
            return error
        return None

    return make


def _check_end(budget: Budget, how: str) -> None:
    """One reservation and one end: refunded, or charged as reserved and marked as estimated."""
    end = only_end(budget)
    assert end.kind == ("refunded" if how == REFUND else "reconciled")
    assert end.usd == (0 if how == REFUND else reserved_usd(budget))
    assert end.detail.get("estimated", False) is (how == CHARGE)


@pytest.mark.parametrize("max_retries", [0, 2])
@pytest.mark.parametrize(
    ("status", "how"),
    [*((status, REFUND) for status in (400, 401, 403, 404, 422, 429, 500, 503)),
     *((status, CHARGE) for status in (408, 409, 502, 504))],
)  # fmt: skip
def test_an_http_error(budget: Budget, provider: Provider, call: Any, max_retries: int, status: int, how: str) -> None:
    error = call(f"status={status}", max_retries=max_retries)
    assert isinstance(error, openai.APIStatusError)
    assert error.status_code == status
    retried = status in (408, 409, 429) or status >= 500
    assert len(provider.requests) == (1 + max_retries if retried else 1)
    _check_end(budget, how)


@pytest.mark.parametrize("max_retries", [0, 1])
@pytest.mark.parametrize("demo", ["hang=0", "cut=0", "latency=9"])
def test_no_answer_is_charged(budget: Budget, provider: Provider, call: Any, max_retries: int, demo: str) -> None:
    timeout = OPENAI_HTTP.Timeout(30, read=0.2 if demo == "latency=9" else 30)
    assert isinstance(call(demo, max_retries=max_retries, timeout=timeout), openai.APIConnectionError)
    while len(provider.requests) < 1 + max_retries:  # it may read what was sent after nobody waits any more
        time.sleep(0.001)
    assert len(provider.requests) == 1 + max_retries
    _check_end(budget, CHARGE)


@pytest.mark.parametrize("max_retries", [0, 1])
def test_a_connection_that_was_never_made_is_refunded(budget: Budget, call: Any, max_retries: int) -> None:
    with Provider() as gone:
        url = gone.url
    assert isinstance(call(base_url=url, max_retries=max_retries), openai.APIConnectionError)
    _check_end(budget, REFUND)


def test_an_answer_without_usage_is_charged(budget: Budget, call: Any) -> None:
    assert call("usage=none") is None
    _check_end(budget, CHARGE)
    assert only_end(budget).detail["outcome"] == "no usage"


_429, _OK = Reply(status=429, retry_after=0.001), Reply()
_SEQUENCES: dict[str, tuple[list[Reply], str]] = {
    "429, 500, 503": ([_429, Reply(status=500), Reply(status=503)], REFUND),
    "no answer, 429, 429": ([Reply(hang=0.0), _429, _429], CHARGE),
    "429, 504, 400": ([_429, Reply(status=504), Reply(status=400)], CHARGE),
    "504, no answer, answered": ([Reply(status=504), Reply(hang=0.0), _OK], "as answered"),
}


@pytest.mark.parametrize("name", _SEQUENCES)
def test_a_refund_needs_every_attempt_unbilled(budget: Budget, call: Any, name: str) -> None:
    replies, how = _SEQUENCES[name]
    left = iter(replies)
    with Provider(script=lambda request: next(left)) as provider:
        error = call(base_url=f"{provider.url}/v1", max_retries=2)
        assert len(provider.requests) == len(replies)
        if how == "as answered":
            assert error is None
            assert only_end(budget).usd == billed(budget, provider)
        else:
            _check_end(budget, how)


def test_a_failed_response_is_charged(budget: Budget, oclient: Any) -> None:
    assert oclient.responses.create(**steer("failed=1", request=RESPONSE)).status == "failed"
    _check_end(budget, CHARGE)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_cannot_be_parsed_is_booked(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    """The SDK raises for a structured answer that was cut at its bound; what it cost is known."""
    with pytest.raises(openai.LengthFinishReasonError):
        _run(_CHAT["parse"], budget.wrap(plain(kind)), "output=100")
    end = only_end(budget)
    assert (end.kind, end.usd) == ("reconciled", billed(budget, provider))
    assert "estimated" not in end.detail


def test_a_cancelled_task_is_charged(budget: Budget, aoclient: Any, provider: Provider) -> None:
    async def main(client: Any) -> None:
        task = asyncio.create_task(client.responses.create(**steer("hang=30", request=RESPONSE)))
        while not provider.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        _check_end(budget, CHARGE)  # at once, not later

    run_async(aoclient, main)


def test_the_usage_of_the_answer_is_booked(budget: Budget, oclient: Any) -> None:
    demo = "input=1000,cache_read=5000,output=70,thinking=30"
    oclient.chat.completions.create(**steer(demo, request=CHAT))
    oclient.responses.create(**steer(demo, request=RESPONSE))
    for end in ends(budget):
        assert end.detail["usage"] == {"input": 1000, "cache_read": 5000, "output": 70, "reasoning": 30}
        # Reading a cache costs a quarter of the input price of this model.
        assert end.usd == 1000 * CHAT_IN + 1250 * CHAT_IN + 70 * CHAT_OUT
        assert end.amounts[1:] == (6070, 6000, 70, 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_the_model_and_tier_as_answered_are_priced(budget: Budget, oclient: Any, endpoint: str, stream: bool) -> None:
    create = oclient.chat.completions.create if endpoint == "chat" else oclient.responses.create
    request = {**REQUESTS[endpoint], "service_tier": "priority"}
    for demo in ("model=gpt-4.1-nano-2025-04-14,input=100,output=10", "model=nobody-knows,input=100,output=10"):
        answer = create(**steer(demo, request=request), stream=stream)
        if stream:
            _read(answer)
    known, unknown = ends(budget)
    usage = {"input_tokens": 100, "output_tokens": 10, "service_tier": "priority"}
    assert (known.model, known.usd) == (
        "gpt-4.1-nano-2025-04-14",
        budget.cost(usage, model="gpt-4.1-nano", provider="openai").usd,
    )
    assert (unknown.model, unknown.detail["priced_as"]) == ("nobody-knows", CHAT_MODEL)
    assert unknown.usd == budget.cost(usage, model=CHAT_MODEL, provider="openai").usd > 100 * CHAT_IN + 10 * CHAT_OUT


def test_an_overrun_is_booked_in_full(budget: Budget, oclient: Any, provider: Provider) -> None:
    oclient.chat.completions.create(**steer("output=5000", request=CHAT))
    assert only_end(budget).usd == billed(budget, provider) > reserved_usd(budget)


def test_a_disabled_budget_lets_everything_pass(
    monkeypatch: pytest.MonkeyPatch, make_budget: Make, plain: Make, provider: Provider
) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget = make_budget("memory://", limits=["$0.000000001/day"])
    wrapped = budget.wrap(plain(openai.OpenAI, websocket_base_url="ws://127.0.0.1:9"))
    assert wrapped.chat.completions.create(**CHAT).usage.completion_tokens == 40
    with wrapped.chat.completions.stream(**CHAT) as stream:
        assert stream.get_final_completion().choices[0].finish_reason == "stop"
    with pytest.raises(openai.NotFoundError):  # a path that is refused otherwise
        wrapped.vector_stores.create()
    assert wrapped.websocket_base_url == "ws://127.0.0.1:9"
    assert len(provider.requests) == 3


# Many at once.


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_of_two_hundred_at_once_exactly_those_that_fit_are_sent(
    make_budget: Make, plain: Make, provider: Provider, endpoint: str
) -> None:
    each = make_budget("memory://").estimate(REQUESTS[endpoint], provider="openai", endpoint=endpoint).usd_max
    made = make_budget("memory://", limits=[f"${20 * each:f}/day"])
    refused = []

    async def main(client: Any) -> None:
        create = (_CHAT if endpoint == "chat" else _RESPONSES)["create"]
        all_refused = asyncio.Event()

        async def one() -> None:
            try:
                await create(client, steer("", request={}))
            except BudgetExceeded as error:
                refused.append(error)
                if len(refused) == 180:
                    all_refused.set()

        async def answered(request: Any) -> None:
            await all_refused.wait()  # before it is sent, so that no cost is known yet

        client._client.event_hooks["request"].append(answered)
        async with asyncio.timeout(60):
            await asyncio.gather(*(one() for _ in range(200)))

    run_async(made.wrap(plain(openai.AsyncOpenAI)), main)
    assert (len(provider.requests), len(refused)) == (20, 180)
    assert len(ends(made)) == 20
    assert not open_reservations(made)
    assert sum(end.usd for end in ends(made)) == 20 * billed(made, provider)


# No text of a request, and no key, is ever kept.


def test_no_text_of_a_request_is_kept_anywhere(
    make_budget: Make, plain: Make, sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "budget")
    canary = "canary-7f3a"
    schema = {"type": "object", "required": [canary]}
    chat = {
        **CHAT,
        "messages": [{"role": "system", "content": canary}, {"role": "user", "content": f"prompt {canary}"}],
        "tools": [{"type": "function", "function": {"name": canary, "parameters": schema}}],
    }
    response = {**RESPONSE, "instructions": canary, "input": canary, "user": canary}
    embedding = {**EMBEDDING, "input": [canary]}
    made = make_budget(sqlite_url, limits=["$1/day", "$0.05/request"], on_unbounded="$0.04")
    client = made.wrap(plain(openai.OpenAI, api_key=f"sk-{canary}"))
    shown: list[object] = [made, client, client.chat.completions]
    creates = ((client.chat.completions.create, chat), (client.responses.create, response))
    for create, request in creates:
        for demo in ("", "tool=1", "status=400", "status=504", "usage=none", "hang=0", "failed=1"):
            with contextlib.suppress(openai.APIError):
                create(**steer(demo, request=request))
        for demo in ("", "cut=6", "tool=1,cut=4", "error_event=4", "usage=none"):
            with contextlib.suppress(*BROKEN), create(**steer(demo, request=request), stream=True) as stream:
                shown.extend(stream._iterator for _ in stream)
    client.embeddings.create(**embedding)
    errors: list[object] = []
    for create, request in (*creates, (client.embeddings.create, embedding)):
        search = {"type": "web_search", "user_location": {"type": "approximate", "city": canary}}
        wrong = ({"n": canary}, {"max_tokens": 10**8}, {"max_output_tokens": 10**8}, {"tools": canary},
                 {"tools": [search]}, {"messages": [canary]}, {"input": {canary: canary}})  # fmt: skip
        for change in wrong:
            try:
                create(**request, extra_body=change)
            except BudgetError as error:
                errors += [error, error.args, pickle.dumps(error)]
            except openai.APIError:
                pass  # admitted, and refused by the provider
    assert len(errors) > 15
    for thing in [*shown, *errors]:
        assert canary not in f"{thing!r} {thing!s}"
    assert canary not in repr([entry.to_dict() for entry in made.entries()])
    assert len(ends(made)) > 20
    assert canary not in caplog.text.replace(f"sk-{canary}", canary)
    made.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "budget.db" for path in files)
    assert not [path for path in files if canary.encode() in path.read_bytes()]
