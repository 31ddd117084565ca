"""What `wrap` returns, what it leaves alone, and that no way through a wrapped client goes around the guard."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pytest

from budget import ArgumentTypeError, Budget, BudgetError, CapExceeded, ConfigError, Unbounded
from budget.clients import self_test
from budget.demo.provider import Provider

from .conftest import IN, MODEL, OUT, REQUEST, cost, ends, only_end, run_async, steer

KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic)
Make = Callable[..., Any]


def _describe(client: Any) -> dict[str, Any]:
    return {name: id(value) for name, value in vars(client).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_wrap_returns_an_instance_of_the_same_class(budget: Budget, plain: Make, kind: type) -> None:
    given = plain(kind)
    wrapped = budget.wrap(given)
    assert isinstance(wrapped, kind)
    assert (type(wrapped).__name__, type(wrapped).__module__) == (kind.__name__, kind.__module__)
    assert (wrapped.api_key, str(wrapped.base_url)) == (given.api_key, str(given.base_url))
    assert wrapped.max_retries == given.max_retries
    assert wrapped._client is given._client  # the HTTP client, and so the connection pool


@pytest.mark.parametrize("kind", KINDS)
def test_wrap_is_idempotent(budget: Budget, plain: Make, kind: type) -> None:
    wrapped = budget.wrap(plain(kind))
    assert budget.wrap(wrapped) is wrapped
    assert type(budget.wrap(plain(kind))) is type(wrapped)


@pytest.mark.parametrize("kind", KINDS)
def test_wrap_changes_nothing_of_what_it_was_given(budget: Budget, plain: Make, kind: type) -> None:
    given = plain(kind)
    resources = given.messages, given.beta, given.with_raw_response
    before, methods = _describe(given), dict(vars(kind))
    wrapped = budget.wrap(given)
    assert wrapped.messages is not given.messages  # made, and bound to the wrapped one
    assert type(given) is kind
    assert _describe(given) == before
    assert (given.messages, given.beta, given.with_raw_response) == resources
    assert vars(kind) == methods


def test_the_client_given_goes_on_unguarded(budget: Budget, plain: Make, provider: Provider) -> None:
    given = plain()
    budget.wrap(given)
    budget.limits.set("$0.000001/request")
    assert given.messages.create(**REQUEST).usage.output_tokens == 40
    assert not ends(budget)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_client_given_can_be_collected(budget: Budget, provider: Provider, kind: Any) -> None:
    given = kind(base_url=provider.url, api_key="key", middleware=[_pass_on(kind)])
    raw = given.with_raw_response, given.with_streaming_response
    resources = given.messages, given.beta.messages, given.models, raw
    wrapped = budget.wrap(given)
    gone = weakref.ref(given)
    del given, resources, raw
    gc.collect()
    assert gone() is None
    assert wrapped.messages._client is wrapped


def test_a_dropped_wrapped_client_is_freed_and_the_given_one_works(budget: Budget, plain: Make) -> None:
    given = plain()
    gone = weakref.ref(budget.wrap(given))
    assert gone() is None
    assert given.messages.create(**REQUEST).usage.output_tokens == 40


def test_an_engine_that_wrapped_can_be_collected(plain: Make) -> None:
    with Budget("memory://") as made:
        made.wrap(plain()).messages.create(**REQUEST)
        gone = weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None


def test_closing_shares_the_http_client(budget: Budget, plain: Make) -> None:
    given = plain()
    with budget.wrap(given) as wrapped:
        assert not given.is_closed()
    assert wrapped.is_closed()
    assert given.is_closed()


def test_another_engine_cannot_wrap_it_again(budget: Budget, client: Any, make_budget: Make) -> None:
    with pytest.raises(ConfigError, match="another engine"):
        make_budget("memory://").wrap(client)
    with pytest.raises(ConfigError, match="another engine"):
        make_budget("memory://").wrap(client.copy())


@pytest.mark.parametrize("thing", [None, "client", object(), httpx2.Client, anthropic.Anthropic, REQUEST])
def test_what_is_no_client_is_an_argument_type_error(budget: Budget, thing: object) -> None:
    with pytest.raises(ArgumentTypeError, match="is no client that is known here"):
        budget.wrap(thing)


def test_an_object_of_the_sdk_that_is_no_client_is_an_argument_type_error(budget: Budget, plain: Make) -> None:
    with pytest.raises(ArgumentTypeError, match="Messages is no client"):
        budget.wrap(plain().messages)


def test_an_sdk_without_what_guarding_depends_on_is_refused(budget: Budget, plain: Make, monkeypatch: Any) -> None:
    given = plain()
    assert self_test()["anthropic"] == ""
    monkeypatch.delattr("anthropic._base_client.SyncAPIClient._prepare_request")
    with pytest.raises(ConfigError, match=r"has no _prepare_request; is its SDK too new\?"):
        budget.wrap(given)
    assert self_test()["anthropic"] == "_prepare_request"


class _Team(anthropic.Anthropic):
    """A subclass as users make it: state of its own, and a method that calls up."""

    def __init__(self, *, team: str = "none", **options: Any):
        super().__init__(**options)
        self.team = team

    def ask(self) -> Any:
        return self.messages.create(**REQUEST)

    def post(self, path: str, **options: Any) -> Any:
        self.posted = path
        return super().post(path, **options)


def test_a_users_own_subclass_is_guarded(budget: Budget, plain: Make) -> None:
    wrapped = budget.wrap(plain(_Team, team="red"))
    assert isinstance(wrapped, _Team)
    assert wrapped.ask().usage.output_tokens == 40
    assert (wrapped.team, wrapped.posted) == ("red", "/v1/messages")
    assert only_end(budget).kind == "reconciled"


def _pass_on(kind: type) -> Any:
    if kind is anthropic.Anthropic:

        def sync(request: Any, call_next: Any) -> Any:
            return call_next(request)

        return sync

    async def middleware(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    return middleware


def _twins(client: Any) -> dict[str, Any]:
    """Every way to get another client from one, by name."""
    return {
        "copy": client.copy(),
        "with_options": client.with_options(timeout=5.0),
        "copy of a copy": client.copy().with_options(max_retries=1),
        "with_middleware": client.with_middleware(_pass_on(type(client).__mro__[1])),
    }


def test_what_a_wrapped_client_makes_is_guarded_too(budget: Budget, client: Any, provider: Provider) -> None:
    for number, twin in enumerate(_twins(client).values()):
        assert type(twin) is type(client)
        assert twin.messages.create(**REQUEST).usage.output_tokens == 40
        assert len(ends(budget)) == number + 1
    assert client.with_options(timeout=5.0).timeout == 5.0
    assert len(provider.requests) == len(_twins(client))


def test_middleware_stays_and_sees_every_attempt(budget: Budget, plain: Make) -> None:
    seen = []

    def watch(request: Any, call_next: Any) -> Any:
        seen.append(request.retries_taken)
        return call_next(request)

    wrapped = budget.wrap(plain(middleware=[watch], max_retries=2))
    wrapped.messages.create(**steer("fail_first=2:500"))
    assert seen == [0, 1, 2]
    assert only_end(budget).usd == cost({"input_tokens": 11, "output_tokens": 40})


def test_credentials_are_kept_in_a_copy(budget: Budget, provider: Provider) -> None:
    def token(**_: Any) -> Any:
        return anthropic.AccessToken(token="secret-token")

    given = anthropic.Anthropic(base_url=provider.url, credentials=token)
    with budget.wrap(given) as wrapped:
        assert wrapped.copy().credentials is not None
        assert wrapped.copy().credentials == given.copy().credentials
        assert wrapped.copy().messages.create(**REQUEST).usage.output_tokens == 40


# Every way to make a billable call. Each is given the client and a request, and reads its answer to the end.


def _read(stream: Any) -> None:
    for _ in stream:
        pass


def _stream_helper(messages: Any, request: Any) -> None:
    with messages.stream(**request) as stream:
        stream.get_final_message()


def _streaming_response(messages: Any, request: Any) -> None:
    with messages.with_streaming_response.create(**request) as response:
        response.read()


# A newer SDK's runner keeps the conversation on the server unless told otherwise; that has no bound.
_RUNNER = anthropic.resources.beta.messages.Messages.tool_runner
_NO_THREAD: dict[str, Any] = {"thread": False} if "thread" in inspect.signature(_RUNNER).parameters else {}


def _by_hand(client: Any, request: Any) -> None:
    client.post("/v1/messages", cast_to=anthropic.types.Message, body=dict(request))


SYNC: dict[str, Callable[[Any, Any], Any]] = {
    "create": lambda c, r: c.messages.create(**r),
    "create, streamed": lambda c, r: _read(c.messages.create(**r, stream=True)),
    "stream": lambda c, r: _stream_helper(c.messages, r),
    "parse": lambda c, r: c.messages.parse(**r),
    "beta": lambda c, r: c.beta.messages.create(**r, betas=["some-beta"]),
    "beta, streamed": lambda c, r: _stream_helper(c.beta.messages, r),
    "raw": lambda c, r: c.messages.with_raw_response.create(**r),
    "raw of the client": lambda c, r: c.with_raw_response.messages.create(**r),
    "raw of beta": lambda c, r: c.beta.messages.with_raw_response.create(**r),
    "raw, streamed": lambda c, r: _read(c.messages.with_raw_response.create(**r, stream=True).parse()),
    "streaming response": lambda c, r: _streaming_response(c.messages, r),
    "tool runner": lambda c, r: c.beta.messages.tool_runner(**r, tools=[], **_NO_THREAD).until_done(),
    "post": _by_hand,
    "request": lambda c, r: c.request(
        anthropic.types.Message,
        anthropic._models.FinalRequestOptions.construct(method="post", url="/v1/messages?beta=true", json_data=dict(r)),
    ),
    "twin": lambda c, r: c.with_options(max_retries=1).messages.create(**r),
}


async def _aread(stream: Any) -> None:
    async for _ in await stream:
        pass


async def _astream_helper(messages: Any, request: Any) -> None:
    async with messages.stream(**request) as stream:
        await stream.get_final_message()


async def _astreaming_response(messages: Any, request: Any) -> None:
    async with messages.with_streaming_response.create(**request) as response:
        await response.read()


async def _araw_streamed(messages: Any, request: Any) -> None:
    response = await messages.with_raw_response.create(**request, stream=True)
    async for _ in await response.parse():
        pass


ASYNC: dict[str, Callable[[Any, Any], Any]] = {
    "create": lambda c, r: c.messages.create(**r),
    "create, streamed": lambda c, r: _aread(c.messages.create(**r, stream=True)),
    "stream": lambda c, r: _astream_helper(c.messages, r),
    "parse": lambda c, r: c.messages.parse(**r),
    "beta": lambda c, r: c.beta.messages.create(**r, betas=["some-beta"]),
    "raw": lambda c, r: c.messages.with_raw_response.create(**r),
    "raw, streamed": lambda c, r: _araw_streamed(c.messages, r),
    "streaming response": lambda c, r: _astreaming_response(c.messages, r),
    "tool runner": lambda c, r: c.beta.messages.tool_runner(**r, tools=[], **_NO_THREAD).until_done(),
    "post": lambda c, r: c.post("/v1/messages", cast_to=anthropic.types.Message, body=dict(r)),
    "twin": lambda c, r: c.with_options(max_retries=1).messages.create(**r),
}
WAYS = [pytest.param(kind, call, id=f"{prefix}{name}") for kind, prefix, calls in (
    (anthropic.Anthropic, "", SYNC), (anthropic.AsyncAnthropic, "async ", ASYNC)
) for name, call in calls.items()]  # fmt: skip


def _run(call: Any, client: Any, request: Any) -> None:
    """Make a call to its end, sync or async."""
    if isinstance(client, anthropic.Anthropic):
        call(client, request)
    else:
        run_async(client, lambda client: call(client, request))


@pytest.mark.parametrize(("kind", "call"), WAYS)
def test_every_way_to_call_is_booked(budget: Budget, plain: Make, provider: Provider, kind: Any, call: Any) -> None:
    _run(call, budget.wrap(plain(kind)), REQUEST)
    assert [seen.path for seen in provider.requests] == ["/v1/messages"]
    end = only_end(budget)
    assert end.kind == "reconciled"
    assert end.usd == cost(provider.requests[0].usage or {}) == 11 * IN + 40 * OUT
    assert "estimated" not in end.detail


@pytest.mark.parametrize(("kind", "call"), WAYS)
def test_a_refused_call_sends_no_byte_and_its_error_is_untouched(
    budget: Budget, plain: Make, provider: Provider, kind: Any, call: Any
) -> None:
    budget.limits.set("$0.000001/request")
    with pytest.raises(CapExceeded) as caught:
        _run(call, budget.wrap(plain(kind, max_retries=2)), REQUEST)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert not provider.requests
    assert [entry.kind for entry in budget.entries()] == ["limit_set", "refused"]


@pytest.mark.parametrize(("kind", "call"), WAYS)
def test_an_exhausted_pool_refuses_with_one_entry(
    make_budget: Make, plain: Make, provider: Provider, kind: Any, call: Any
) -> None:
    budget = make_budget("memory://", limits=["$0.000001/day"])
    with pytest.raises(BudgetError) as caught:
        _run(call, budget.wrap(plain(kind)), REQUEST)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    assert not provider.requests
    assert [entry.kind for entry in budget.entries()] == ["refused"]
    assert not budget.engine.leases._due


def test_an_unpriced_model_is_refused(budget: Budget, client: Any, provider: Provider) -> None:
    with pytest.raises(LookupError, match="no price for model 'nobody-knows'"):
        client.messages.create(**{**REQUEST, "model": "nobody-knows"})
    assert not provider.requests
    assert not list(budget.entries())


def _refused_posts(client: Any) -> list[Callable[[], Any]]:
    return [
        lambda: client.post("/v1/complete", cast_to=object, body={"model": MODEL}),
        lambda: client.post("/v1/sessions", cast_to=object, body={}),
        lambda: client.post("v1/sessions/sess_1/events", cast_to=object, body={}),
        lambda: client.post("/v1/deployments/depl_1/run", cast_to=object, body={}),
        lambda: client.post("/v1/dreams", cast_to=object, body={}),
        lambda: client.post("/v1/brand_new", cast_to=object, body={"max_tokens": 1}),
        lambda: client.post("https://elsewhere.example/v1/brand_new", cast_to=object, body={}),
    ]


def test_a_post_that_nobody_can_price_is_refused(budget: Budget, client: Any, provider: Provider) -> None:
    for post in _refused_posts(client):
        with pytest.raises(Unbounded, match="is not metered in this version"):
            post()
    assert not provider.requests
    assert not list(budget.entries())


def test_free_paths_pass_and_are_not_recorded(budget: Budget, client: Any, provider: Provider) -> None:
    budget.limits.set("$0.000001/request")
    counted = client.messages.count_tokens(model=MODEL, messages=REQUEST["messages"])
    assert counted.input_tokens == 11
    assert client.models.list().data
    with pytest.raises(anthropic.NotFoundError):  # it passed: this provider has no files
        client.get("/v1/files", cast_to=object)
    assert [seen.path for seen in provider.requests] == ["/v1/messages/count_tokens", "/v1/models", "/v1/files"]
    assert not [entry for entry in budget.entries() if entry.kind != "limit_set"]


def test_no_post_of_the_sdk_that_runs_a_model_is_free() -> None:
    """Whoever adds a free path must not open a door to what runs a model."""
    from budget.clients.anthropic import PROTOCOL

    spending = [
        "/v1/complete", "/v1/sessions", "/v1/sessions/s/events", "/v1/deployments",
        "/v1/deployments/d/run", "/v1/deployments/d/unpause", "/v1/dreams", "/v1/messages/x", "/v2/messages",
    ]  # fmt: skip
    assert {path: PROTOCOL.endpoint(path) for path in spending} == dict.fromkeys(spending)
    free = ["/v1/messages/count_tokens", "/v1/messages/batches/b/cancel", "/v1/files", "/v1/skills/s/versions"]
    assert {path: PROTOCOL.endpoint(path) for path in free} == dict.fromkeys(free, "")
    assert PROTOCOL.endpoint("/v1/messages") == "messages"
    assert PROTOCOL.endpoint("/v1/messages/batches") == "batches"


def test_the_backstop_reserves_what_went_around_request(budget: Budget, client: Any, provider: Provider) -> None:
    """A call of the base class's own method passes no `request` of ours: it is reserved and charged as it is sent."""
    request = anthropic.Anthropic.request
    options = anthropic._models.FinalRequestOptions.construct
    message = request(
        client, anthropic.types.Message, options(method="post", url="/v1/messages", json_data=dict(REQUEST))
    )
    assert message.usage.output_tokens == 40
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)
    with pytest.raises(Unbounded):
        request(client, object, options(method="post", url="/v1/dreams", json_data={}))
    budget.limits.set("$0.000001/request")
    with pytest.raises(CapExceeded):
        request(client, object, options(method="post", url="/v1/messages", json_data=dict(REQUEST)))
    assert len(provider.requests) == 1


# The body that is estimated is the body that is sent.


@pytest.mark.parametrize("kind", KINDS)
def test_what_extra_body_adds_is_reserved(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    body = {"max_tokens": 9999, "model": "claude-haiku-4-5"}
    _run(lambda c, r: c.messages.create(**r, extra_body=body), budget.wrap(plain(kind)), REQUEST)
    assert (provider.requests[0].max_tokens, provider.requests[0].model) == (9999, "claude-haiku-4-5")
    reserved = next(iter(budget.entries()))
    assert reserved.estimate is not None
    assert (reserved.estimate["output_tokens_max"], reserved.scope["model"]) == (9999, "claude-haiku-4-5")


def test_extra_body_cannot_pass_a_cap(budget: Budget, client: Any, provider: Provider) -> None:
    budget.limits.set("$0.01/request")
    client.messages.create(**REQUEST)
    with pytest.raises(CapExceeded):
        client.messages.create(**REQUEST, extra_body={"max_tokens": 99999})
    assert len(provider.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_as_messages_is_estimated_and_sent(
    budget: Budget, plain: Make, provider: Provider, kind: Any
) -> None:
    long = {"role": "user", "content": "word " * 400}
    messages = (message for message in [long])
    _run(lambda c, r: c.messages.create(**r), budget.wrap(plain(kind)), {**REQUEST, "messages": messages})
    end = only_end(budget)
    assert end.estimate is not None
    assert end.detail["usage"]["input"] >= 500  # the provider got the whole message
    assert end.estimate["input_tokens_max"] >= 400  # and so did the estimate
    assert end.usd == cost(provider.requests[0].usage or {})


def test_the_callers_request_is_not_changed(budget: Budget, client: Any) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
    kept = {**body, "messages": [dict(body["messages"][0])]}  # type: ignore[index]
    client.post("/v1/messages", cast_to=anthropic.types.Message, body=body)
    assert body == kept


@pytest.mark.parametrize("body", [None, {}, {"model": 5}, {"model": MODEL, "max_tokens": "many", "messages": []}])
def test_a_body_that_cannot_be_read_is_refused(client: Any, provider: Provider, body: Any) -> None:
    with pytest.raises(BudgetError):
        client.post("/v1/messages", cast_to=object, body=body)
    assert not provider.requests


def test_signatures_stay(client: Any) -> None:
    plain = anthropic.Anthropic
    assert inspect.signature(client.messages.create) == inspect.signature(plain(api_key="k").messages.create)
    assert not inspect.iscoroutinefunction(client.request)


def test_a_disabled_budget_lets_everything_pass(
    monkeypatch: pytest.MonkeyPatch, make_budget: Make, plain: Make, provider: Provider
) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget = make_budget("sqlite:///off.db", limits=["$0.000001/day"])
    wrapped = budget.wrap(plain())
    assert wrapped.messages.create(**REQUEST).usage.output_tokens == 40
    with wrapped.messages.stream(**REQUEST) as stream:
        assert stream.get_final_message().usage.output_tokens == 40
    with pytest.raises(anthropic.NotFoundError):  # a path that is refused otherwise
        wrapped.beta.dreams.create(inputs=[], model=MODEL)
    assert len(provider.requests) == 3
    monkeypatch.delenv("BUDGET_DISABLED")
    assert not list(make_budget("sqlite:///off.db").entries())
