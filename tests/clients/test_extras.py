"""What is given for one call alone (`extra_body`), and the time that a run has left: in force, and never sent."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from budget import ArgumentTypeError, Budget, CapExceeded, ConfigError, RunStopped
from budget.clients.extras import NONE, take_extras
from budget.demo.provider import Provider

from .conftest import CHAT, EMBEDDING, REQUEST, RESPONSE, ends, is_sync, only_end, run_async, steer

Make = Callable[..., Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic, openai.OpenAI, openai.AsyncOpenAI)
_RUNNER = inspect.signature(anthropic.resources.beta.messages.Messages.tool_runner)
NO_THREAD = {"thread": False} if "thread" in _RUNNER.parameters else {}
SCOPE = {"budget_scope": {"user": "alice", "team": "red"}}


def _drain(stream: Any) -> None:
    for _ in stream:
        pass


def _helper(client: Any, more: dict[str, Any]) -> None:
    with client.messages.stream(**REQUEST, **more) as stream:
        stream.get_final_message()


WAYS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "create": lambda c, more: c.messages.create(**REQUEST, **more),
    "stream": lambda c, more: _drain(c.messages.create(**REQUEST, stream=True, **more)),
    "helper": _helper,
    "raw": lambda c, more: c.messages.with_raw_response.create(**REQUEST, **more).parse(),
    "beta": lambda c, more: c.beta.messages.create(**REQUEST, **more),
    "runner": lambda c, more: c.beta.messages.tool_runner(**REQUEST, tools=[], **NO_THREAD, **more).until_done(),
    "by hand": lambda c, more: c.post(
        "/v1/messages", cast_to=object, body=dict(REQUEST), options={"extra_json": more.get("extra_body")}
    ),
    "in the body": lambda c, more: c.post(
        "/v1/messages", cast_to=object, body={**REQUEST, **more.get("extra_body", {})}
    ),
}
OPENAI_WAYS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "chat": lambda c, more: c.chat.completions.create(**CHAT, **more),
    "chat stream": lambda c, more: _drain(c.chat.completions.create(**CHAT, stream=True, **more)),
    "chat raw": lambda c, more: c.chat.completions.with_raw_response.create(**CHAT, **more).parse(),
    "responses": lambda c, more: c.responses.create(**RESPONSE, **more),
    "embeddings": lambda c, more: c.embeddings.create(**EMBEDDING, **more),
}
every_way = pytest.mark.parametrize("way", [*WAYS, *OPENAI_WAYS])


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, provider: Provider) -> list[dict[str, Any]]:
    """The bodies that arrive at the provider."""
    bodies: list[dict[str, Any]] = []
    script = provider._script

    def note(request: Any) -> Any:
        bodies.append(json.loads(request.body or b"{}"))
        return script(request)

    monkeypatch.setattr(provider, "_script", note)
    return bodies


def _call(budget: Budget, plain: Make, way: str, more: dict[str, Any]) -> None:
    if way in WAYS:
        WAYS[way](budget.wrap(plain()), more)
    else:
        OPENAI_WAYS[way](budget.wrap(plain(openai.OpenAI)), more)


@every_way
def test_a_scope_is_the_calls_own_and_is_not_sent(budget: Budget, plain: Make, sent: Any, way: str) -> None:
    other = {"user": "kept"} if way == "embeddings" else {"metadata": {"user_id": "kept"}}
    with budget.run(user="bob", agent="support"):
        _call(budget, plain, way, {"extra_body": {**SCOPE, **other}})
    end = only_end(budget)
    assert {name: end.scope[name] for name in ("user", "team", "agent")} == {
        "user": "alice",
        "team": "red",
        "agent": "support",
    }
    (body,) = sent
    assert other.items() <= body.items()  # what else the caller added is sent
    assert not [name for name in body if name.startswith("budget")]


@every_way
def test_a_cap_holds_for_the_call_alone(budget: Budget, plain: Make, sent: Any, way: str) -> None:
    with pytest.raises(CapExceeded) as caught:
        _call(budget, plain, way, {"extra_body": {"budget_cap": "$0.000000001"}})
    assert caught.value.limit.amount == Decimal("0.000000001")
    assert caught.value.verdict == "never"
    assert not sent
    _call(budget, plain, way, {"extra_body": {"budget_cap": "$1"}})
    _call(budget, plain, way, {})
    assert len(ends(budget)) == 2


def test_the_lower_of_two_caps_holds(budget: Budget, client: Any) -> None:
    budget.limits.set("$0.0000001/request")
    with pytest.raises(CapExceeded):
        client.messages.create(**REQUEST, extra_body={"budget_cap": "$1"})
    budget.limits.unset("$0.0000001/request")
    with budget.run(cap="$1"), pytest.raises(CapExceeded):
        client.messages.create(**REQUEST, extra_body={"budget_cap": Decimal("0.0000001")})


@pytest.mark.parametrize("kind", KINDS)
def test_extras_work_awaited_and_not(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    def create(client: Any) -> Any:
        if isinstance(client, (anthropic.Anthropic, anthropic.AsyncAnthropic)):
            return client.messages.create(**REQUEST, extra_body=SCOPE)
        return client.chat.completions.create(**CHAT, extra_body=SCOPE)

    wrapped = budget.wrap(plain(kind))
    if is_sync(kind):
        create(wrapped)
    else:
        run_async(wrapped, create)
    assert only_end(budget).scope["user"] == "alice"


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"budget_scope": "alice"}, ArgumentTypeError, "budget_scope: str is not a mapping"),
    ({"budget_scope": {"user": 5}}, ArgumentTypeError, "budget_scope: user: int is not a string"),
    ({"budget_scope": {"user": ""}}, ConfigError, "budget_scope: user: the value has 0 bytes"),
    ({"budget_scope": {"us er": "a"}}, ConfigError, "budget_scope: "),
    ({"budget_scope": {"user": "a\nb"}}, ConfigError, "budget_scope: user: the value has a control character"),
    ({"budget_cap": 0.1}, ArgumentTypeError, "budget_cap"),
    ({"budget_cap": 1}, ArgumentTypeError, "budget_cap"),
    ({"budget_cap": "-1"}, ConfigError, "budget_cap"),
    ({"budget_cap": "lots"}, ConfigError, "budget_cap"),
    ({"budget_on_short": 5}, ArgumentTypeError, "budget_on_short: int is not a text"),
    ({"budget_limit": "$1"}, ConfigError, "budget_limit: is not one of budget_scope, budget_cap"),
    ({"budget_": "$1"}, ConfigError, "budget_: is not one of"),
]


@pytest.mark.parametrize(("extra", "error", "text"), WRONG, ids=lambda value: str(value)[:30])
def test_what_is_wrong_is_said_before_anything_is_sent(
    budget: Budget, client: Any, oclient: Any, provider: Provider, extra: Any, error: type[Exception], text: str
) -> None:
    for call in (client.messages.create, client.messages.count_tokens):
        given = {name: REQUEST[name] for name in ("model", "messages")}
        more = {} if call == client.messages.count_tokens else {"max_tokens": 5}
        with pytest.raises(error, match=text):
            call(**given, **more, extra_body=extra)
    with pytest.raises(error, match=text):
        oclient.responses.create(**RESPONSE, extra_body=extra)
    assert not provider.requests
    assert not list(budget.entries())


def test_an_error_about_extras_holds_nothing_of_the_request(client: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        client.messages.create(**REQUEST, extra_body={"budget_cap": "secret words"})
    assert "hello" not in str(caught.value)


@pytest.mark.parametrize("disabled", [False, True])
def test_a_free_call_and_a_disabled_budget_send_no_extras(
    make_budget: Make, plain: Make, sent: Any, monkeypatch: pytest.MonkeyPatch, disabled: bool
) -> None:
    if disabled:
        monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget = make_budget("memory://")
    client = budget.wrap(plain())
    client.messages.count_tokens(model=REQUEST["model"], messages=REQUEST["messages"], extra_body=SCOPE)
    if disabled:
        client.messages.create(**REQUEST, extra_body=SCOPE)
    assert not any(name.startswith("budget") for body in sent for name in body)


def test_the_callers_own_mapping_stays_as_it_is(client: Any) -> None:
    extra = {**SCOPE, "top_k": 5}
    client.messages.create(**REQUEST, extra_body=extra)
    assert extra == {**SCOPE, "top_k": 5}


def test_a_call_without_extras_costs_no_copy() -> None:
    options = openai._models.FinalRequestOptions.construct(method="post", url="/x", json_data={"model": "m"})
    assert take_extras(options) == (options, NONE)
    assert take_extras(options)[0] is options


def test_extras_are_in_the_call_that_is_counted_and_retried(budget: Budget, plain: Make, sent: Any) -> None:
    client = budget.wrap(plain(max_retries=2))
    client.messages.create(**steer("fail_first=2:500"), extra_body=SCOPE)
    assert only_end(budget).scope["user"] == "alice"
    assert len(sent) == 3
    assert not any("budget_scope" in body for body in sent)


# The time that a run has left is a timeout of each attempt.


def _timeouts(client: Any) -> list[dict[str, Any]]:
    """What the transport is told; the client's own HTTP client notes it."""
    seen: list[dict[str, Any]] = []
    client._client.event_hooks = {"request": [lambda request: seen.append(dict(request.extensions["timeout"]))]}
    return seen


@pytest.mark.parametrize("timeout", [None, 3600.0, 5.0])
def test_what_a_run_has_left_is_the_timeout(budget: Budget, plain: Make, timeout: Any) -> None:
    client = budget.wrap(plain(timeout=timeout))
    seen = _timeouts(client)
    with budget.run(deadline=100):
        with budget.run(deadline=50):
            client.messages.create(**REQUEST)
        client.messages.create(**REQUEST)
    client.messages.create(**REQUEST)
    inner, outer, outside = seen
    shorter = timeout is not None and timeout < 50
    for parts, most in ((inner, 50), (outer, 100)):
        assert set(parts) == {"connect", "read", "write", "pool"}
        for value in parts.values():
            assert value == timeout if shorter else most - 30 < value <= most
    assert set(outside.values()) == {timeout}


def test_the_timeout_of_one_call_stays_if_it_is_shorter(budget: Budget, plain: Make) -> None:
    client = budget.wrap(plain(openai.OpenAI))
    seen = _timeouts(client)
    with budget.run(deadline=100):
        client.chat.completions.create(**CHAT, timeout=7)
        client.chat.completions.create(**CHAT, timeout=openai.Timeout(500, connect=2))
    assert set(seen[0].values()) == {7}
    assert seen[1]["connect"] == 2
    assert 70 < seen[1]["read"] <= 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_ends_a_call_that_hangs(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    """The attempt times out when the run is over, and the SDK's next one is not sent."""
    wrapped = budget.wrap(plain(kind, max_retries=5))
    ours = isinstance(wrapped, (anthropic.Anthropic, anthropic.AsyncAnthropic))
    more = steer("hang=30", request={})

    def create(client: Any) -> Any:
        return client.messages.create(**REQUEST, **more) if ours else client.chat.completions.create(**CHAT, **more)

    async def main(client: Any) -> None:
        with budget.run(deadline=0.3), pytest.raises(RunStopped):
            await create(client)

    if is_sync(kind):
        with budget.run(deadline=0.3), pytest.raises(RunStopped):
            create(wrapped)
    else:
        run_async(wrapped, main)
    assert len(provider.requests) == 1
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)  # the first attempt may have been billed


def test_a_run_that_is_over_sends_nothing(budget: Budget, aclient: Any, provider: Provider) -> None:
    async def main(client: Any) -> None:
        with budget.run(deadline=0.001):
            await asyncio.sleep(0.01)
            with pytest.raises(RunStopped):
                await client.messages.create(**REQUEST)

    run_async(aclient, main)
    assert not provider.requests
