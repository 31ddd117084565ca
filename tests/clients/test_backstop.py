"""A block of `budget.reservation(...)` stands for what has no bound or no price, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from budget import Budget, BudgetExceeded, Unbounded, UnknownModel
from budget.demo.provider import Provider

from .conftest import CHAT, REQUEST, RESPONSE, ends, is_sync, run_async

Make = Callable[..., Any]
SEARCH: dict[str, Any] = {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}
IMAGE: dict[str, Any] = {"model": "gpt-image-2", "prompt": "a cat", "size": "1024x1024", "quality": "high"}
OPEN: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "a model without a price": (openai, lambda c: c.chat.completions.create(**{**CHAT, "model": "nobody-1"})),
    "earlier turns": (openai, lambda c: c.responses.create(**RESPONSE, previous_response_id="resp_1")),
    "a body of bytes": (openai, lambda c: c.post("/responses", cast_to=object, content=b'{"model":"m","input":"hi"}')),
    "speech by the token": (
        openai, lambda c: c.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hello")
    ),
    "a search": (anthropic, lambda c: c.messages.create(**REQUEST, **SEARCH)),
    "messages of bytes": (anthropic, lambda c: c.post("/v1/messages", cast_to=object, content=_BYTES)),
}  # fmt: skip
_BYTES = b'{"model": "claude-sonnet-4-6", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}'
METERED: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "chat": (openai, lambda c: c.chat.completions.create(**CHAT)),
    "an image": (openai, lambda c: c.images.generate(**IMAGE)),
    "speech by the character": (openai, lambda c: c.audio.speech.create(model="tts-1", voice="alloy", input="hello")),
    "messages": (anthropic, lambda c: c.messages.create(**REQUEST)),
}


def _client(plain: Make, sdk: Any, is_async: bool) -> Any:
    kind = getattr(sdk, ("Async" if is_async else "") + ("OpenAI" if sdk is openai else "Anthropic"))
    return plain(kind)


def _run(client: Any, call: Callable[[Any], Any]) -> Any:
    async def main(client: Any) -> Any:
        return await call(client)

    return call(client) if is_sync(type(client)) else run_async(client, main)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("name", OPEN)
def test_what_has_no_bound_or_no_price_passes_by_hand_alone(
    budget: Budget, plain: Make, provider: Provider, name: str, is_async: bool
) -> None:
    sdk, call = OPEN[name]
    with pytest.raises((Unbounded, UnknownModel)):
        _run(budget.wrap(_client(plain, sdk, is_async)), call)
    assert not provider.requests
    with budget.reservation("$1") as block:
        _run(budget.wrap(_client(plain, sdk, is_async)), call)
        block.reconcile(usd="0.4")
        with pytest.raises((Unbounded, UnknownModel)):
            _run(budget.wrap(_client(plain, sdk, is_async)), call)  # what was set aside is spent
    assert len(provider.requests) == 1
    assert [str(entry.usd) for entry in ends(budget)] == ["0.4"]  # nothing beside the block


def test_a_stored_prompt_that_names_the_model_passes_by_hand_alone(
    budget: Budget, oclient: Any, provider: Provider
) -> None:
    with pytest.raises(Unbounded, match="the request names no model"):
        oclient.responses.create(prompt={"id": "pmpt_1"})
    assert not provider.requests
    with budget.reservation("$1"), pytest.raises(openai.BadRequestError):  # it passed: this provider stores no prompts
        oclient.responses.create(prompt={"id": "pmpt_1"})
    assert len(provider.requests) == 1


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("name", METERED)
def test_what_can_be_metered_is_in_a_block_too(
    make_budget: Make, plain: Make, provider: Provider, name: str, is_async: bool
) -> None:
    sdk, call = METERED[name]
    budget = make_budget("memory://", limits=["$100/day"])
    with budget.reservation("$1") as block:
        _run(budget.wrap(_client(plain, sdk, is_async)), call)
        block.reconcile(usd="0")
    booked, by_hand = ends(budget)
    assert (by_hand.usd, booked.usd > 0) == (0, True)
    budget = make_budget("memory://", limits=["$0.000002/request"])
    with budget.reservation("$0.000001"), pytest.raises(BudgetExceeded):
        _run(budget.wrap(_client(plain, sdk, is_async)), call)
    assert len(provider.requests) == 1


def test_the_policies_come_before_the_block(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["$100/day"], on_unbounded="$0.50", on_unpriced="allow")
    with budget.reservation("$1", user="alice"):
        budget.wrap(plain()).messages.create(**REQUEST, **SEARCH)
        assert [str(entry.usd) for entry in budget.entries() if entry.kind == "reconciled"] != []
        budget.wrap(plain(openai.OpenAI)).chat.completions.create(**{**CHAT, "model": "nobody-1"})
    assert [entry.detail.get("unpriced", False) for entry in ends(budget)] == [False, True, False]


def test_an_error_of_what_passed_is_the_sdks_own(budget: Budget, plain: Make) -> None:
    request = {**REQUEST, **SEARCH, "extra_headers": {"x-demo": "status=400"}}
    with budget.reservation("$1"), pytest.raises(anthropic.BadRequestError) as raised:
        budget.wrap(plain()).messages.create(**request)
    assert not isinstance(raised.value.__context__, Unbounded)


def test_retries_of_what_passed_pass(budget: Budget, plain: Make, provider: Provider) -> None:
    request = {**REQUEST, **SEARCH, "extra_headers": {"x-demo": "fail_first=2:500,retry-after=0.001"}}
    with budget.reservation("$1"):
        budget.wrap(plain(max_retries=2)).messages.create(**request)
    assert len(provider.requests) == 3
    assert len(ends(budget)) == 1


@pytest.mark.parametrize("body", [[1], b"{}", "text"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_body_of_no_fields_is_refused(
    budget: Budget, plain: Make, provider: Provider, body: Any, is_async: bool
) -> None:
    for given in ({"body": body}, {"content": b"{}"}):
        with pytest.raises(Unbounded, match=r"the body of /v1/messages cannot be read"):
            _run(
                budget.wrap(_client(plain, anthropic, is_async)),
                lambda c, given=given: c.post("/v1/messages", cast_to=object, **given),  # type: ignore[misc]
            )
    assert not provider.requests
