"""Answers that are paid for, and that the SDK or we cannot read: they are charged as far as they say what they cost."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import anthropic
import httpx2
import openai
import pydantic
import pytest

from budget import Budget

from .conftest import (
    CHAT,
    CHAT_IN,
    CHAT_OUT,
    EMBEDDING,
    IN,
    OPENAI_HTTP,
    OUT,
    REQUEST,
    RESPONSE,
    only_end,
    reserved_usd,
)

Make = Callable[..., Any]


class City(pydantic.BaseModel):
    """What the answers are not."""

    name: str


TEXT = '{"name": '  # as it is where the output bound cut it
MESSAGE: dict[str, Any] = {
    "id": "m", "type": "message", "role": "assistant", "model": REQUEST["model"], "stop_reason": "max_tokens",
    "content": [{"type": "text", "text": TEXT}], "usage": {"input_tokens": 10, "output_tokens": 5},
}  # fmt: skip
COMPLETION: dict[str, Any] = {
    "id": "c", "object": "chat.completion", "created": 1, "model": CHAT["model"],
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}  # fmt: skip
RESPONDED: dict[str, Any] = {
    "id": "r", "object": "response", "created_at": 1, "model": CHAT["model"], "status": "completed", "tools": [],
    "output": [{"type": "message", "id": "m", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": TEXT, "annotations": []}]}],
    "usage": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
}  # fmt: skip
EMBEDDED: dict[str, Any] = {
    "object": "list", "model": EMBEDDING["model"], "data": [], "usage": {"prompt_tokens": 1, "total_tokens": 1},
}  # fmt: skip
CUT_CHAT = {**COMPLETION, "choices": [{**COMPLETION["choices"][0], "finish_reason": "length"}]}
PRICE, CHAT_PRICE = 10 * IN + 5 * OUT, 10 * CHAT_IN + 5 * CHAT_OUT


def _answering(plain: Make, kind: Any, answer: object, **options: Any) -> Any:
    """A client that is answered so, whatever it asks."""
    http: Any = OPENAI_HTTP if kind.__module__.startswith("openai") else httpx2
    transport = http.MockTransport(lambda request: http.Response(200, json=answer))
    client = http.AsyncClient if kind.__name__.startswith("Async") else http.Client
    return plain(kind, http_client=client(transport=transport), **options)


UNPARSED: list[Any] = [
    pytest.param(anthropic, MESSAGE, PRICE, lambda c: c.messages.parse(**REQUEST, output_format=City), id="messages"),
    pytest.param(
        openai, COMPLETION, CHAT_PRICE, lambda c: c.chat.completions.parse(**CHAT, response_format=City), id="chat"
    ),
    pytest.param(
        openai, CUT_CHAT, CHAT_PRICE, lambda c: c.chat.completions.parse(**CHAT, response_format=City), id="cut chat"
    ),
    pytest.param(
        openai, RESPONDED, CHAT_PRICE, lambda c: c.responses.parse(**RESPONSE, text_format=City), id="responses"
    ),
    pytest.param(openai, EMBEDDED, Decimal("0.00000002"), lambda c: c.embeddings.create(**EMBEDDING), id="embeddings"),
]


def _error_of(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


@pytest.mark.parametrize(("sdk", "answer", "price", "call"), UNPARSED)
def test_an_answer_that_the_sdk_cannot_parse_costs_what_it_says(
    budget: Budget, plain: Make, sdk: Any, answer: Any, price: Decimal, call: Any
) -> None:
    kind = sdk.Anthropic if sdk is anthropic else sdk.OpenAI
    bare = _error_of(lambda: call(_answering(plain, kind, answer)))
    wrapped = _error_of(lambda: call(budget.wrap(_answering(plain, kind, answer))))
    assert (type(wrapped), str(wrapped)) == (type(bare), str(bare))
    end = only_end(budget)
    assert (end.usd, end.detail.get("estimated")) == (price, None)


@pytest.mark.parametrize(("sdk", "answer", "price", "call"), UNPARSED)
def test_so_does_one_of_an_async_client(
    budget: Budget, plain: Make, sdk: Any, answer: Any, price: Decimal, call: Any
) -> None:
    kind = sdk.AsyncAnthropic if sdk is anthropic else sdk.AsyncOpenAI

    async def main() -> None:
        async with budget.wrap(_answering(plain, kind, answer)) as client:
            await call(client)

    _error_of(lambda: asyncio.run(main()))
    end = only_end(budget)
    assert (end.usd, end.detail.get("estimated")) == (price, None)


@pytest.mark.parametrize(
    ("kind", "answer", "price", "call"),
    [
        (anthropic.Anthropic, {**MESSAGE, "content": [{"type": "text", "text": 5}]}, PRICE,
         lambda c: c.messages.create(**REQUEST)),
        (openai.OpenAI, {**COMPLETION, "choices": [{}]}, CHAT_PRICE, lambda c: c.chat.completions.create(**CHAT)),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_valid_costs_what_it_says(
    budget: Budget, plain: Make, kind: Any, answer: Any, price: Decimal, call: Any
) -> None:
    client = budget.wrap(_answering(plain, kind, answer, _strict_response_validation=True))
    error = _error_of(lambda: call(client))
    assert type(error).__name__ == "APIResponseValidationError"
    assert (only_end(budget).usd, only_end(budget).detail.get("estimated")) == (price, None)


def test_one_that_parses_is_parsed(budget: Budget, plain: Make) -> None:
    answer = {**MESSAGE, "content": [{"type": "text", "text": '{"name": "Bonn"}'}]}
    found = budget.wrap(_answering(plain, anthropic.Anthropic, answer)).messages.parse(**REQUEST, output_format=City)
    assert found.parsed_output == City(name="Bonn")
    assert only_end(budget).usd == PRICE


# What we cannot read.

UNREAD: list[Any] = [
    (anthropic.Anthropic, {**MESSAGE, "usage": {**MESSAGE["usage"], "iterations": 1}}),
    (anthropic.Anthropic, {**MESSAGE, "usage": {"input_tokens": 10}}),
    (anthropic.Anthropic, {**MESSAGE, "usage": {"input_tokens": 10, "output_tokens": None}}),
    (openai.OpenAI, {**COMPLETION, "usage": {"prompt_tokens": 10}}),
    (openai.OpenAI, {**COMPLETION, "usage": {"completion_tokens": 5}}),
]


@pytest.mark.parametrize(("kind", "answer"), UNREAD)
def test_an_answer_whose_usage_cannot_be_read_is_given_and_charged_as_reserved(
    budget: Budget, plain: Make, kind: Any, answer: Any
) -> None:
    client = budget.wrap(_answering(plain, kind, answer))
    found = client.messages.create(**REQUEST) if kind is anthropic.Anthropic else client.chat.completions.create(**CHAT)
    assert found.id == answer["id"]
    assert (only_end(budget).usd, only_end(budget).detail["estimated"]) == (reserved_usd(budget), True)


@pytest.mark.parametrize("answer", [{**RESPONDED, "tools": 1}, {**RESPONDED, "usage": {"input_tokens": 10}}])
def test_so_is_one_of_responses(budget: Budget, plain: Make, answer: Any) -> None:
    found = budget.wrap(_answering(plain, openai.OpenAI, answer)).responses.create(**RESPONSE)
    assert found.id == "r"
    assert (only_end(budget).usd, only_end(budget).detail["estimated"]) == (reserved_usd(budget), True)


def test_a_fault_of_ours_does_not_withhold_an_answer(
    budget: Budget, plain: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: object) -> None:
        raise LookupError("words of the answer")

    monkeypatch.setattr("budget.clients.call.by_answer", broken)
    found = budget.wrap(_answering(plain, anthropic.Anthropic, MESSAGE)).messages.create(**REQUEST)
    assert found.id == "m"
    assert only_end(budget).usd == reserved_usd(budget)
    assert "a call is charged its reservation: LookupError" in caplog.text
    assert "words" not in caplog.text


def test_nor_does_it_break_a_stream(
    budget: Budget, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*given: object) -> None:
        raise LookupError("words of the answer")

    monkeypatch.setattr("budget.clients.meter.price", broken)
    assert [event.type for event in client.messages.create(**REQUEST, stream=True)][-1] == "message_stop"
    assert only_end(budget).usd == reserved_usd(budget)
    assert "a stream is charged its reservation: LookupError" in caplog.text
    assert "words" not in caplog.text


@pytest.mark.parametrize("kind", [anthropic.Anthropic, openai.OpenAI])
def test_a_raw_answer_that_is_nested_too_deeply_is_given(budget: Budget, plain: Make, kind: Any) -> None:
    deep = b"[" * (sys.getrecursionlimit() * 100)
    http: Any = OPENAI_HTTP if kind is openai.OpenAI else httpx2
    headers = {"content-type": "application/json"}
    transport = http.MockTransport(lambda request: http.Response(200, headers=headers, content=deep))
    client = budget.wrap(plain(kind, http_client=http.Client(transport=transport)))
    create = client.messages if kind is anthropic.Anthropic else client.chat.completions
    found = create.with_raw_response.create(**(REQUEST if kind is anthropic.Anthropic else CHAT))
    assert found.http_response.content == deep
    assert only_end(budget).usd == reserved_usd(budget)
