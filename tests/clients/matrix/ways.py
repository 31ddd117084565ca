"""How a call is made: the APIs, and the ways that their SDKs offer, sync and async.

A way is a generator that yields what it received, text or "" for anything else, until the answer ends or the caller
leaves it by closing the generator. A sync way and its async twin have the same name.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pydantic

__all__ = ["APIS", "ASYNC", "STREAMS", "SYNC", "Api"]

# A runner whose conversation the server keeps has no bound: what its calls read grows out of sight.
_RUNNER = inspect.signature(anthropic.resources.beta.Messages.tool_runner)
_NO_THREAD: dict[str, Any] = {"thread": False} if "thread" in _RUNNER.parameters else {}
_MESSAGES = [{"role": "user", "content": "hello there"}]


class Where(pydantic.BaseModel):
    """What `parse` reads an answer as."""

    where: str


@anthropic.beta_tool
def look(where: str) -> str:
    """Look somewhere."""
    return where


@anthropic.beta_async_tool
async def alook(where: str) -> str:
    """Look somewhere."""
    return where


@dataclass(frozen=True)
class Api:
    """One API of one SDK.

    Attributes:
        request: What every call asks.
        into: How `parse` is told what to read the answer as.
        resource: Where its methods are.
        text, helper_text: The text in an event of its streams, and in one of its stream helper's.
        rates: Nano-dollars per token of input and of output.
        names: What its usage calls its input and its output.
    """

    sdk: Any
    request: dict[str, Any]
    into: dict[str, Any]
    resource: Callable[[Any], Any]
    text: Callable[[Any], str]
    helper_text: Callable[[Any], str]
    rates: tuple[int, int]
    names: tuple[str, str]


def _message_text(event: Any) -> str:
    return (getattr(event.delta, "text", "") or "") if event.type == "content_block_delta" else ""


def _chat_text(chunk: Any) -> str:
    return chunk.choices[0].delta.content or ""


def _response_text(event: Any) -> str:
    return event.delta if event.type == "response.output_text.delta" else ""


_GPT = "gpt-4.1-mini"
APIS = {
    "anthropic messages": Api(
        anthropic, {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": _MESSAGES},
        {"output_format": Where}, lambda client: client.messages, _message_text, _message_text,
        (3000, 15000), ("input_tokens", "output_tokens"),
    ),
    "openai chat": Api(
        openai, {"model": _GPT, "max_tokens": 100, "messages": _MESSAGES},
        {"response_format": Where}, lambda client: client.chat.completions, _chat_text,
        lambda event: event.delta if event.type == "content.delta" else "",
        (400, 1600), ("prompt_tokens", "completion_tokens"),
    ),
    "openai responses": Api(
        openai, {"model": _GPT, "max_output_tokens": 100, "input": "hello there"},
        {"text_format": Where}, lambda client: client.responses, _response_text, _response_text,
        (400, 1600), ("input_tokens", "output_tokens"),
    ),
}  # fmt: skip


def _line_text(line: str) -> str:
    """The word in a line of SSE; the provider's have numbers, and its other strings have none."""
    for name in ('"content":"w', '"delta":"w', '"text":"w'):
        if name in line:
            word = line.partition(name)[2].partition('"')[0]
            return f"w{word}" if len(word) < 6 else ""  # not the whole text, which comes once more at the end
    return ""


def _plain(api: Api, client: Any, request: Any) -> Iterator[str]:
    api.resource(client).create(**request)
    yield ""


def _stream(api: Api, client: Any, request: Any) -> Iterator[str]:
    yield from map(api.text, api.resource(client).create(**request, stream=True))


def _helper(api: Api, client: Any, request: Any) -> Iterator[str]:
    with api.resource(client).stream(**request) as stream:
        yield from map(api.helper_text, stream)


def _raw(api: Api, client: Any, request: Any) -> Iterator[str]:
    response = api.resource(client).with_raw_response.create(**request)
    yield ""
    response.parse()


def _raw_stream(api: Api, client: Any, request: Any) -> Iterator[str]:
    yield from map(api.text, api.resource(client).with_raw_response.create(**request, stream=True).parse())


def _response(api: Api, client: Any, request: Any) -> Iterator[str]:
    with api.resource(client).with_streaming_response.create(**request) as response:
        yield ""
        response.parse()


def _lines(api: Api, client: Any, request: Any) -> Iterator[str]:
    with api.resource(client).with_streaming_response.create(**request, stream=True) as response:
        yield from map(_line_text, response.iter_lines())


def _parse(api: Api, client: Any, request: Any) -> Iterator[str]:
    api.resource(client).parse(**request, **api.into)
    yield ""


def _runner(api: Api, client: Any, request: Any) -> Iterator[str]:
    for _ in client.beta.messages.tool_runner(**request, tools=[look], **_NO_THREAD):
        yield ""


async def _aplain(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    await api.resource(client).create(**request)
    yield ""


async def _astream(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    async for event in await api.resource(client).create(**request, stream=True):
        yield api.text(event)


async def _ahelper(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    async with api.resource(client).stream(**request) as stream:
        async for event in stream:
            yield api.helper_text(event)


async def _araw(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    response = await api.resource(client).with_raw_response.create(**request)
    yield ""
    await _parsed(response)


async def _araw_stream(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    response = await api.resource(client).with_raw_response.create(**request, stream=True)
    async for event in await _parsed(response):
        yield api.text(event)


async def _aresponse(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    async with api.resource(client).with_streaming_response.create(**request) as response:
        yield ""
        await _parsed(response)


async def _alines(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    async with api.resource(client).with_streaming_response.create(**request, stream=True) as response:
        async for line in response.iter_lines():
            yield _line_text(line)


async def _aparse(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    await api.resource(client).parse(**request, **api.into)
    yield ""


async def _arunner(api: Api, client: Any, request: Any) -> AsyncIterator[str]:
    async for _ in client.beta.messages.tool_runner(**request, tools=[alook], **_NO_THREAD):
        yield ""


async def _parsed(response: Any) -> Any:
    """What a raw response is parsed to; some generations of the SDKs have it awaited."""
    parsed = response.parse()
    return await parsed if inspect.isawaitable(parsed) else parsed


SYNC: dict[str, Callable[[Api, Any, Any], Iterator[str]]] = {
    "plain": _plain,
    "stream": _stream,
    "stream helper": _helper,
    "raw": _raw,
    "raw stream": _raw_stream,
    "streaming response": _response,
    "its lines": _lines,
    "parse": _parse,
    "tool runner": _runner,
}
ASYNC: dict[str, Callable[[Api, Any, Any], AsyncIterator[str]]] = dict(
    zip(SYNC, (_aplain, _astream, _ahelper, _araw, _araw_stream, _aresponse, _alines, _aparse, _arunner), strict=True)
)
STREAMS = frozenset({"stream", "stream helper", "raw stream", "its lines"})
"""Ways whose answer comes as events."""
