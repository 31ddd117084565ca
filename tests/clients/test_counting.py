"""Exactness by the provider's own count: asked for once, where it can change the decision, and never in the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, CapExceeded, ConfigError, Unbounded
from budget.clients import counting
from budget.demo import provider as provider_module
from budget.demo.provider import Provider, Reply, Request

from .conftest import CHAT, RESPONSE, ends, is_sync, open_reservations, run_async

Make = Callable[..., Any]
TEXT = "The quick brown fox jumps over the lazy dog. " * 200
TOOL = {"name": "look_up", "description": TEXT, "input_schema": {"type": "object", "properties": {}}}
MESSAGES: dict[str, Any] = {
    "model": "claude-sonnet-4-6", "max_tokens": 10, "messages": [{"role": "user", "content": TEXT}], "tools": [TOOL],
}  # fmt: skip
RESPONSES: dict[str, Any] = {**RESPONSE, "input": TEXT, "max_output_tokens": 16, "tools": [
    {"type": "function", "name": "look_up", "description": TEXT, "parameters": {"type": "object"}, "strict": False},
]}  # fmt: skip
COUNTERS = ("/v1/messages/count_tokens", "/v1/responses/input_tokens")
CALLS: dict[type, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    anthropic.Anthropic: (lambda client: client.messages.create, MESSAGES),
    anthropic.AsyncAnthropic: (lambda client: client.messages.create, MESSAGES),
    openai.OpenAI: (lambda client: client.responses.create, RESPONSES),
    openai.AsyncOpenAI: (lambda client: client.responses.create, RESPONSES),
}
KINDS = pytest.mark.parametrize("kind", CALLS)


@pytest.fixture
def exact(make_budget: Callable[..., Budget]) -> Budget:
    return make_budget("memory://", count_with="provider")


def call(client: Any, kind: type, **more: Any) -> Any:
    method, request = CALLS[kind]

    async def acall(client: Any) -> Any:
        return await method(client)(**{**request, **more})

    return method(client)(**{**request, **more}) if is_sync(kind) else run_async(client, acall)


def between(budget: Budget, kind: type) -> str:
    """An amount that the call's bound is above, and what is expected below."""
    estimate = budget.estimate(**CALLS[kind][1])
    assert estimate.nanos * 1.05 < estimate.nanos_max * 0.95
    return f"${(estimate.usd + estimate.usd_max) / 2:f}"


def counts(provider: Provider, tokens: int, **fault: Any) -> None:
    """Have the provider count and bill so many tokens of input; counting may fail."""
    provider._script = lambda request: Reply(input=tokens, **(fault if request.path in COUNTERS else {}))


def asked(provider: Provider) -> list[str]:
    provider.wait()
    return [seen.path for seen in provider.requests]


@KINDS
@pytest.mark.parametrize("window", ["request", "day"])
def test_a_count_admits_what_the_bound_would_refuse(
    exact: Budget, plain: Make, provider: Provider, kind: type, window: str
) -> None:
    exact.limits.set(f"{between(exact, kind)}/{window}")
    counts(provider, exact.estimate(**CALLS[kind][1]).input_tokens)
    call(exact.wrap(plain(kind)), kind)
    counter, answer = asked(provider)
    assert counter in COUNTERS
    assert counter.startswith(answer)
    first, last = [entry for entry in exact.entries() if entry.kind != "limit_set"]
    assert [first.kind, last.kind] == ["reserved", "reconciled"]
    assert first.estimate is not None
    assert last.usage is not None
    billed = last.usage.input_tokens
    assert first.estimate["counted_by"] == "provider"
    assert first.estimate["input_tokens"] == billed  # the demo provider bills what it counts
    assert first.estimate["input_tokens_max"] == billed + billed // 50 + 16
    assert first.estimate["input_tokens_max"] < exact.estimate(**CALLS[kind][1]).input_tokens_max


@KINDS
def test_nothing_is_asked_unless_it_was_allowed(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider, kind: type
) -> None:
    budget = make_budget("memory://")
    budget.limits.set(f"{between(budget, kind)}/request")
    with pytest.raises(CapExceeded):
        call(budget.wrap(plain(kind)), kind)
    assert asked(provider) == []


@KINDS
def test_nothing_is_asked_where_the_bound_fits(exact: Budget, plain: Make, provider: Provider, kind: type) -> None:
    exact.limits.set("$100/day")
    call(exact.wrap(plain(kind)), kind)
    assert len(asked(provider)) == 1
    assert [entry.kind for entry in exact.entries()][1:] == ["reserved", "reconciled"]


@KINDS
def test_nothing_is_asked_where_even_what_is_expected_is_too_much(
    exact: Budget, plain: Make, provider: Provider, kind: type
) -> None:
    exact.limits.set("$0.0001/request")
    with pytest.raises(CapExceeded):
        call(exact.wrap(plain(kind)), kind)
    assert asked(provider) == []
    assert [entry.kind for entry in exact.entries()][1:] == ["refused"]


@KINDS
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 400}, {"latency": 5.0}, {"cut": 0}])
def test_where_the_count_fails_the_bound_stands(
    exact: Budget, plain: Make, provider: Provider, kind: type, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "TIMEOUT", 0.1)
    counts(provider, 1, **fault)
    exact.limits.set(f"{between(exact, kind)}/request")
    with pytest.raises(CapExceeded) as caught:
        call(exact.wrap(plain(kind, max_retries=2)), kind)
    [path] = asked(provider)  # it is not retried
    assert path in COUNTERS
    assert caught.value.requested == exact.estimate(**CALLS[kind][1]).usd_max
    assert [entry.kind for entry in exact.entries()][1:] == ["refused"]
    assert not open_reservations(exact)


@KINDS
def test_a_count_that_is_too_much_refuses_once(exact: Budget, plain: Make, provider: Provider, kind: type) -> None:
    counts(provider, 90_000)
    exact.limits.set(f"{between(exact, kind)}/request")
    with pytest.raises(CapExceeded) as caught:
        call(exact.wrap(plain(kind)), kind)
    assert len(asked(provider)) == 1
    assert caught.value.requested > exact.estimate(**CALLS[kind][1]).usd_max  # what was counted, not what was bounded
    assert [entry.kind for entry in exact.entries()][1:] == ["refused"]


@pytest.mark.parametrize("answer", [{}, {"input_tokens": 0}, {"input_tokens": "7"}, {"input_tokens": True}])
def test_an_answer_that_is_no_count_changes_nothing(
    exact: Budget, plain: Make, provider: Provider, answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(provider_module._COUNTERS, COUNTERS[0], lambda body: answer)
    exact.limits.set(f"{between(exact, anthropic.Anthropic)}/request")
    with pytest.raises(CapExceeded):
        exact.wrap(plain()).messages.create(**MESSAGES)
    assert asked(provider) == [COUNTERS[0]]


def test_the_question_is_that_of_the_call(exact: Budget, plain: Make, provider: Provider) -> None:
    """The header of the betas and what the caller added go with it; what bounds the output does not."""
    bodies: list[tuple[str, str, Any]] = []

    def script(request: Request) -> Reply:
        bodies.append((request.path, request.query, request.json))
        return Reply(input=4_000)

    provider._script = script
    exact.limits.set(f"{between(exact, anthropic.Anthropic)}/request")
    client = exact.wrap(plain())
    more = {"betas": ["context-1m-2025-08-07"], "stop_sequences": ["x"], "metadata": {"user_id": "u"}}
    extra = {"extra_headers": {"x-demo-tag": "mine"}, "extra_query": {"beta": "true"}}
    answer = client.beta.messages.with_raw_response.create(**MESSAGES, **more, **extra)
    assert answer.parse().usage.output_tokens == 10
    (path, query, body), _ = bodies
    assert (path, query) == ("/v1/messages/count_tokens", "beta=true")
    assert body == {name: MESSAGES[name] for name in ("model", "messages", "tools")}
    counted, _ = provider.requests
    assert counted.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert counted.tag == "mine"


@KINDS
def test_streams_are_counted_too(exact: Budget, plain: Make, provider: Provider, kind: type) -> None:
    exact.limits.set(f"{between(exact, kind)}/request")
    counts(provider, exact.estimate(**CALLS[kind][1]).input_tokens)
    client = exact.wrap(plain(kind))
    method, request = CALLS[kind]

    async def read(client: Any) -> None:
        async for _ in await method(client)(**request, stream=True):
            pass

    if is_sync(kind):
        list(method(client)(**request, stream=True))
    else:
        run_async(client, read)
    assert [seen.stream for seen in provider.requests] == [False, True]
    assert ends(exact)[0].kind == "reconciled"


def test_bodies_that_the_endpoint_rejects_are_not_sent_to_it(exact: Budget, plain: Make, provider: Provider) -> None:
    """Neither what is open, nor what is given by URL or file id."""
    client = exact.wrap(plain())
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 1}
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    nested = {"type": "tool_result", "tool_use_id": "t", "content": [image]}
    for more in (
        {"tools": [TOOL, search]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}, image]}]},
        {"messages": [*MESSAGES["messages"], {"role": "user", "content": [nested]}]},
    ):
        estimate = exact.estimate(**{**MESSAGES, **more})
        exact.limits.set(f"${(estimate.usd + estimate.usd_max) / 2:f}/request")
        with pytest.raises((BudgetExceeded, Unbounded)):
            client.messages.create(**{**MESSAGES, **more})
        assert asked(provider) == []


def test_chat_has_no_counting_endpoint(exact: Budget, plain: Make, provider: Provider) -> None:
    request = {**CHAT, "messages": [{"role": "user", "content": "one two three"}]}
    estimate = exact.estimate(**request)
    exact.limits.set(f"${(estimate.usd + estimate.usd_max) / 2:f}/request")
    with pytest.raises(CapExceeded):
        exact.wrap(plain(openai.OpenAI)).chat.completions.create(**request)
    assert asked(provider) == []


def test_counts_of_the_user_pass_as_they_did(exact: Budget, plain: Make, provider: Provider) -> None:
    exact.limits.set("$0.0000001/request")
    body = {name: MESSAGES[name] for name in ("model", "messages", "tools")}
    assert exact.wrap(plain()).messages.count_tokens(**body).input_tokens > 1000
    body = {"model": RESPONSES["model"], "input": TEXT}
    assert exact.wrap(plain(openai.OpenAI)).responses.input_tokens.count(**body).input_tokens > 1000
    assert asked(provider) == list(COUNTERS)
    assert [entry.kind for entry in exact.entries()] == ["limit_set"]


def test_another_model_is_counted_by_its_own_tokenizer(exact: Budget, plain: Make, provider: Provider) -> None:
    """`fits` on an error of a counted call bounds the other model by its own tokenizer."""
    counts(provider, 90_000)
    exact.limits.set(f"{between(exact, anthropic.Anthropic)}/request")
    with pytest.raises(CapExceeded) as caught:
        exact.wrap(plain()).messages.create(**MESSAGES)
    assert caught.value.fits(model="claude-haiku-4-5")


def test_the_log_has_no_text(exact: Budget, plain: Make, provider: Provider, caplog: pytest.LogCaptureFixture) -> None:
    provider._script = lambda request: Reply(status=500 if request.path in COUNTERS else 200)
    exact.limits.set(f"{between(exact, anthropic.Anthropic)}/request")
    with caplog.at_level(logging.INFO, logger="budget"), pytest.raises(CapExceeded):
        exact.wrap(plain()).messages.create(**MESSAGES)
    said = [record.getMessage() for record in caplog.records if record.name == "budget"]
    assert said == ["the provider did not count a call (InternalServerError); its bound stands"]


def test_cancelled_while_the_provider_counts(exact: Budget, plain: Make, provider: Provider) -> None:
    counts(provider, 1, hang=30.0)
    exact.limits.set(f"{between(exact, anthropic.AsyncAnthropic)}/request")

    async def main(client: Any) -> None:
        task = asyncio.create_task(client.messages.create(**MESSAGES))
        while not provider.requests:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_async(exact.wrap(plain(anthropic.AsyncAnthropic)), main)
    assert asked(provider) == [COUNTERS[0]]
    assert [entry.kind for entry in exact.entries()] == ["limit_set"]
    assert not open_reservations(exact)


@pytest.mark.parametrize("how", ["argument", "environment", "file"])
def test_where_it_is_allowed(
    how: str, make_budget: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    if how == "environment":
        monkeypatch.setenv("BUDGET_COUNT_WITH", "provider")
    elif how == "file":
        (tmp_path / "budget.toml").write_text('count_with = "provider"')
    options = {"count_with": "provider"} if how == "argument" else {}
    assert make_budget("memory://", **options).settings.ask_provider
    assert not make_budget("memory://", count_with="tokenizer").settings.ask_provider


def test_what_is_no_way_to_count() -> None:
    with pytest.raises(ConfigError, match="count_with: 'yes' is not one of tokenizer, provider"):
        Budget("memory://", count_with="yes")
    with pytest.raises(ArgumentTypeError, match="count_with: bool"):
        Budget("memory://", count_with=True)  # type: ignore[arg-type]
