"""How streams of chat and Responses end: read to the end, left early in every way there is, or cut at every event."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from budget import Budget, budgeted
from budget.clients.openai import ChatMeter, ResponsesMeter
from budget.demo.provider import Provider
from budget.ledger import Entry

from .conftest import (
    BROKEN,
    CHAT,
    CHAT_IN,
    CHAT_OUT,
    RESPONSE,
    ends,
    is_sync,
    only_end,
    open_reservations,
    reserved_usd,
    run_async,
    steer,
    words,
)

Make = Callable[..., Any]
SLOW = "output=40,pace=0.001"


# Ways to read a stream. Each yields what it received, text or "" for another event, until it ends or is left.


def _chat_text(chunk: Any) -> str:
    delta = chunk.choices[0].delta  # each chunk that a user meets has a choice
    return delta.content or ""


def _response_text(event: Any) -> str:
    return event.delta if event.type == "response.output_text.delta" else ""


def _line_text(line: str) -> str:
    """The word in a line of SSE; the provider's have numbers, and its other strings have none."""
    for name in ('"content":"w', '"delta":"w'):
        if name in line:
            return line.partition(name)[2].partition('"')[0]
    return ""


def _chat(client: Any, request: Any) -> Iterator[str]:
    with client.chat.completions.create(**request, stream=True) as stream:
        yield from map(_chat_text, stream)


def _chat_helper(client: Any, request: Any) -> Iterator[str]:
    with client.chat.completions.stream(**request) as stream:
        for event in stream:
            yield event.delta if event.type == "content.delta" else ""


def _chat_raw(client: Any, request: Any) -> Iterator[str]:
    with client.chat.completions.with_raw_response.create(**request, stream=True).parse() as stream:
        yield from map(_chat_text, stream)


def _chat_lines(client: Any, request: Any) -> Iterator[str]:
    with client.chat.completions.with_streaming_response.create(**request, stream=True) as response:
        yield from map(_line_text, response.iter_lines())


def _chat_streamed(client: Any, request: Any) -> Iterator[str]:
    with client.chat.completions.with_streaming_response.create(**request, stream=True) as response:
        yield from map(_chat_text, response.parse())


def _responses(client: Any, request: Any) -> Iterator[str]:
    with client.responses.create(**request, stream=True) as stream:
        yield from map(_response_text, stream)


def _responses_helper(client: Any, request: Any) -> Iterator[str]:
    with client.responses.stream(**request) as stream:
        yield from map(_response_text, stream)


def _responses_raw(client: Any, request: Any) -> Iterator[str]:
    with client.responses.with_raw_response.create(**request, stream=True).parse() as stream:
        yield from map(_response_text, stream)


def _responses_lines(client: Any, request: Any) -> Iterator[str]:
    with client.responses.with_streaming_response.create(**request, stream=True) as response:
        yield from map(_line_text, response.iter_lines())


async def _achat(client: Any, request: Any) -> AsyncIterator[str]:
    async with await client.chat.completions.create(**request, stream=True) as stream:
        async for chunk in stream:
            yield _chat_text(chunk)


async def _achat_helper(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.chat.completions.stream(**request) as stream:
        async for event in stream:
            yield event.delta if event.type == "content.delta" else ""


async def _achat_raw(client: Any, request: Any) -> AsyncIterator[str]:
    response = await client.chat.completions.with_raw_response.create(**request, stream=True)
    async with response.parse() as stream:
        async for chunk in stream:
            yield _chat_text(chunk)


async def _achat_lines(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.chat.completions.with_streaming_response.create(**request, stream=True) as response:
        async for line in response.iter_lines():
            yield _line_text(line)


async def _achat_streamed(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.chat.completions.with_streaming_response.create(**request, stream=True) as response:
        async for chunk in await response.parse():
            yield _chat_text(chunk)


async def _aresponses(client: Any, request: Any) -> AsyncIterator[str]:
    async with await client.responses.create(**request, stream=True) as stream:
        async for event in stream:
            yield _response_text(event)


async def _aresponses_helper(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.responses.stream(**request) as stream:
        async for event in stream:
            yield _response_text(event)


async def _aresponses_lines(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.responses.with_streaming_response.create(**request, stream=True) as response:
        async for line in response.iter_lines():
            yield _line_text(line)


_SYNC = (
    _chat, _chat_helper, _chat_raw, _chat_lines, _chat_streamed,
    _responses, _responses_helper, _responses_raw, _responses_lines,
)  # fmt: skip
_ASYNC = (
    _achat, _achat_helper, _achat_raw, _achat_lines, _achat_streamed,
    _aresponses, _aresponses_helper, _aresponses_lines,
)  # fmt: skip
READERS = [
    pytest.param(kind, reader, id=reader.__name__.strip("_"))
    for kind, readers in ((openai.OpenAI, _SYNC), (openai.AsyncOpenAI, _ASYNC))
    for reader in readers
]
_BY_LINES = (_chat_lines, _achat_lines, _responses_lines, _aresponses_lines)


def _of_chat(reader: Any) -> bool:
    return "chat" in reader.__name__


def _request(reader: Any) -> dict[str, Any]:
    return CHAT if _of_chat(reader) else RESPONSE


def _read(client: Any, reader: Any, demo: str, leave: int | None = None, **more: Any) -> tuple[str, Exception | None]:
    """Read a stream, to its end or until so many words have come; return the text and what was raised."""
    got: list[str] = []
    request = steer(demo, request=_request(reader), **more)

    def enough(text: str) -> bool:
        got.append(text)
        return leave is not None and words("".join(got)) >= leave

    def sync() -> None:
        with contextlib.closing(reader(client, request)) as parts:
            for text in parts:
                if enough(text):
                    break

    async def main(client: Any) -> None:
        async with contextlib.aclosing(reader(client, request)) as parts:
            async for text in parts:
                if enough(text):
                    break

    try:
        sync() if is_sync(type(client)) else run_async(client, main)
    except BROKEN as error:
        return "".join(got), error
    return "".join(got), None


# Read to the end.


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("demo", ["output=7", "output=50,thinking=9", "cache_read=900,output=3"])
def test_a_stream_read_to_its_end_is_booked_exactly(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any, demo: str
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, demo)
    assert (error, words(text) > 0) == (None, True)
    end, usage = only_end(budget), provider.requests[0].usage or {}
    assert end.usd == budget.cost(usage, model="gpt-4.1-mini", provider="openai").usd
    made = usage["completion_tokens" if _of_chat(reader) else "output_tokens"]
    assert end.detail["usage"]["output"] == made
    assert "estimated" not in end.detail
    assert "outcome" not in end.detail
    assert 0 <= end.detail["first_token_ms"] <= end.detail["latency_ms"]


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_an_overrun_of_a_stream_is_booked_in_full(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any
) -> None:
    _read(budget.wrap(plain(kind)), reader, "output=900,input=11")
    assert only_end(budget).usd == 11 * CHAT_IN + 900 * CHAT_OUT > reserved_usd(budget)


_PARAMETERS = {"type": "object", "properties": {}, "required": ["where"]}
_CHAT_TOOLS = [{"type": "function", "function": {"name": "look", "parameters": _PARAMETERS, "strict": True}}]
_TOOLS = [{"type": "function", "name": "look", "parameters": _PARAMETERS, "strict": False}]


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_a_tool_call_in_a_stream_is_metered(budget: Budget, plain: Make, kind: Any, reader: Any) -> None:
    tools = _CHAT_TOOLS if _of_chat(reader) else _TOOLS
    for demo in ("tool=1,output=20", "tool=1,output=20,cut=4"):
        _read(budget.wrap(plain(kind)), reader, demo, tools=tools)
    whole, cut = ends(budget)
    assert whole.detail["usage"]["output"] == 20
    assert 3 < cut.detail["usage"]["output"] <= 100  # {"where":"w0"} was received
    assert cut.detail["estimated"]


# Chat: the usage that we ask for.


def _dumps(client: Any, **more: Any) -> list[dict[str, Any]]:
    stream = client.chat.completions.create(**steer("output=3", request=CHAT), stream=True, **more)
    return [chunk.to_dict() for chunk in stream]


def _without_ids(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in chunk.items() if name not in ("id", "usage")} for chunk in chunks]


@pytest.mark.parametrize("asked", [None, {"include_usage": False}, {"include_obfuscation": False}])
def test_a_chat_stream_looks_as_it_would_unguarded(oclient: Any, plain: Make, asked: dict[str, Any] | None) -> None:
    more = {} if asked is None else {"stream_options": asked}
    guarded, bare = _dumps(oclient, **more), _dumps(plain(openai.OpenAI), **more)
    assert _without_ids(guarded) == _without_ids(bare)
    assert not any(chunk.get("usage") for chunk in guarded)


def test_a_user_who_asks_for_the_usage_gets_it(budget: Budget, oclient: Any, plain: Make) -> None:
    more = {"stream_options": {"include_usage": True}}
    guarded, bare = _dumps(oclient, **more), _dumps(plain(openai.OpenAI), **more)
    assert _without_ids(guarded) == _without_ids(bare)
    assert guarded[-1]["usage"]["completion_tokens"] == 3
    raw = oclient.chat.completions.with_raw_response.create(**CHAT, stream=True, **more)
    assert [chunk.choices for chunk in raw.parse()][-1] == []
    assert [end.detail.get("estimated") for end in ends(budget)] == [None, None]


def test_the_chat_helper_gives_the_usage_only_if_asked(oclient: Any) -> None:
    for more, given in (({}, None), ({"stream_options": {"include_usage": True}}, 40)):
        with oclient.chat.completions.stream(**CHAT, **more) as stream:
            usage = stream.get_final_completion().usage
        assert (usage and usage.completion_tokens) == given


def test_who_reads_the_bytes_meets_the_extra_chunk(oclient: Any) -> None:
    """As the documentation says: it is taken out of parsed chunks only."""
    with oclient.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line for line in response.iter_lines() if '"choices":[]' in line]
    assert len(lines) == 1


@pytest.mark.parametrize(("path", "asked"), [("/chat/completions", CHAT), ("/responses", RESPONSE)])
def test_a_stream_of_plain_objects_is_metered_too(
    budget: Budget, oclient: Any, plain: Make, provider: Provider, path: str, asked: dict[str, Any]
) -> None:
    form = {"body": {**asked, "stream": True}, "cast_to": object, "stream": True, "stream_cls": openai.Stream[object]}
    guarded, bare = (list(each.post(path, **form)) for each in (oclient, plain(openai.OpenAI)))
    assert len(guarded) == len(bare)
    end, usage = only_end(budget), provider.requests[0].usage or {}
    assert end.usd == budget.cost(usage, model="gpt-4.1-mini", provider="openai").usd
    assert "estimated" not in end.detail


def test_a_raw_response_parsed_twice_is_parsed_once(budget: Budget, oclient: Any) -> None:
    raw = oclient.chat.completions.with_raw_response.create(**CHAT, stream=True)
    assert raw.parse() is raw.parse()
    assert "".join(map(_chat_text, raw.parse())).split()[-1] == "w39"
    assert only_end(budget).kind == "reconciled"


# Cut by the server.

_N = 6
# Chat: the role, 6 deltas, the end, the usage, `[DONE]`. Responses: created, in progress, item, part, 6 deltas, text
# done, part done, item done, completed.
_BEGUN, _BEFORE, _USAGE = {True: 1, False: 3}, {True: 1, False: 4}, {True: _N + 3, False: _N + 8}


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("cut", range(_N + 9))
def test_a_stream_cut_at_every_event(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any, cut: int
) -> None:
    chat = _of_chat(reader)
    text, error = _read(budget.wrap(plain(kind)), reader, f"output={_N},cut={cut},input=11")
    end, produced = only_end(budget), max(0, min(_N, cut - _BEFORE[chat]))
    assert words(text) == produced
    assert end.kind == "reconciled"
    if cut >= _USAGE[chat]:  # the provider had said what it bills
        assert end.usd == 11 * CHAT_IN + _N * CHAT_OUT
        assert "estimated" not in end.detail
        return
    assert isinstance(error, BROKEN)
    assert end.detail["estimated"]
    if cut < _BEGUN[chat]:  # nothing says what was produced
        assert end.usd == reserved_usd(budget)
    else:
        assert 11 * CHAT_IN + produced * CHAT_OUT <= end.usd < reserved_usd(budget) / 2
        reserved = next(iter(budget.entries())).estimate or {}
        assert end.detail["usage"]["input"] == reserved["input_tokens_max"]  # the stream had not said its input


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize(("cut", "model"), [(4, "gpt-5-mini"), (9, "o4-mini")])
def test_a_cut_stream_of_a_model_that_reasons_is_charged_whole(
    budget: Budget, plain: Make, kind: Any, reader: Any, cut: int, model: str
) -> None:
    _read(budget.wrap(plain(kind)), reader, f"output=20,cut={cut}", model=model)
    end = only_end(budget)
    assert (end.usd, end.detail["estimated"]) == (reserved_usd(budget), True)


@pytest.mark.parametrize("reader", [_responses, _responses_helper, _responses_lines])
def test_a_cut_stream_that_showed_its_reasoning_is_charged_whole(budget: Budget, oclient: Any, reader: Any) -> None:
    _read(oclient, reader, "output=20,thinking=5,cut=12")
    assert only_end(budget).usd == reserved_usd(budget)


def test_a_cut_stream_of_a_request_without_a_bound_is_charged_whole(make_budget: Make, plain: Make) -> None:
    budget = make_budget(limits=["$100/day"], on_unbounded="$0.50")
    client = budget.wrap(plain(openai.OpenAI))
    _read(client, _responses, "output=20,cut=9", tools=[{"type": "web_search"}])
    _read(client, _chat, "output=20,cut=9", web_search_options={})
    assert [end.usd for end in ends(budget)] == [Decimal("0.5"), Decimal("0.5")]


def test_a_cut_stream_of_several_answers_counts_each(budget: Budget, oclient: Any) -> None:
    _read(oclient, _chat, "output=20,cut=30", n=3)
    end = only_end(budget)
    assert 27 <= end.detail["usage"]["output"] < 100  # the roles of three, and 27 words of at most 3 tokens
    assert end.usd < reserved_usd(budget)


def test_a_cut_stream_with_a_prediction_counts_what_may_be_rejected_of_it(budget: Budget, oclient: Any) -> None:
    prediction = {"type": "content", "content": "word " * 300}
    _read(oclient, _chat, "output=20,cut=9", prediction=prediction)
    end = only_end(budget)
    assert 300 <= end.detail["usage"]["output"] < 420
    assert end.usd < reserved_usd(budget)


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("after", [0, 1, 5])
def test_an_error_in_a_stream_is_charged_whole(budget: Budget, plain: Make, kind: Any, reader: Any, after: int) -> None:
    if reader in (_responses_helper, _aresponses_helper) and after == 0:
        pytest.skip("the SDK's helper needs a first event")
    _, error = _read(budget.wrap(plain(kind)), reader, f"output={_N},error_event={after}")
    end = only_end(budget)
    assert (end.kind, end.usd, end.detail["estimated"]) == ("reconciled", reserved_usd(budget), True)
    # In Responses an error is an event like others; lines are not looked into.
    assert isinstance(error, openai.APIError) is (_of_chat(reader) and reader not in _BY_LINES)
    if reader in (_chat, _chat_helper, _achat, _achat_helper):
        assert end.detail["outcome"] == "APIError"


@pytest.mark.parametrize("reader", [_responses, _responses_helper, _responses_lines])
def test_a_response_that_failed_is_charged_whole(budget: Budget, oclient: Any, reader: Any) -> None:
    assert _read(oclient, reader, "failed=1") == ("", None)
    assert only_end(budget).usd == reserved_usd(budget)


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_a_stream_without_usage_is_charged_whole_and_comes_through(
    budget: Budget, plain: Make, kind: Any, reader: Any
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, "output=5,usage=none")
    assert (words(text), error) == (5, None)
    assert only_end(budget).usd == reserved_usd(budget)


# Left early.


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("leave", [1, 4, 9])
def test_a_stream_left_early_is_charged_for_what_came(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any, leave: int
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, f"{SLOW},input=11", leave)
    assert error is None
    _check_received(budget, only_end(budget), text)
    provider.wait()
    assert provider.requests[0].disconnected


def _check_received(budget: Budget, end: Entry, text: str) -> None:
    """Charged at least the input and the text received, at most what was reserved."""
    assert (end.kind, end.detail["outcome"], end.detail["estimated"]) == ("reconciled", "cut short", True)
    assert 11 * CHAT_IN + words(text) * CHAT_OUT <= end.usd < reserved_usd(budget)


def test_a_chat_left_at_its_finish_reason_is_charged_for_what_came(budget: Budget, oclient: Any) -> None:
    """The usage comes after the finish reason, at which many stop to read."""
    with oclient.chat.completions.create(**steer("output=9,input=11", request=CHAT), stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].finish_reason:
                break
    end = only_end(budget)
    assert 11 * CHAT_IN + 9 * CHAT_OUT <= end.usd < reserved_usd(budget) / 2
    assert end.detail["estimated"]


def _open(client: Any, endpoint: str) -> Any:
    if endpoint == "chat":
        return client.chat.completions.create(**steer(SLOW, request=CHAT), stream=True)
    return client.responses.create(**steer(SLOW, request=RESPONSE), stream=True)


def _text_of(event: Any) -> str:
    return _chat_text(event) if hasattr(event, "choices") else _response_text(event)


def _some(stream: Any, count: int) -> str:
    """Read so many events of a raw stream; return their text."""
    return "".join(_text_of(next(stream)) for _ in range(count))


def _raise_inside(stream: Any) -> str:
    with contextlib.suppress(LookupError), stream:
        text = _some(stream, 9)
        raise LookupError
    return text


def _close_generator(stream: Any) -> str:
    def consume() -> Iterator[str]:
        with stream:
            yield from map(_text_of, stream)

    parts = consume()
    text = "".join(next(parts) for _ in range(9))
    parts.close()
    return text


def _break_and_close(stream: Any) -> str:
    text = _some(stream, 9)
    stream.close()
    stream.close()  # and again
    return text


def _close_the_response(stream: Any) -> str:
    text = _some(stream, 9)
    stream.response.close()
    return text


def _break_inside(stream: Any) -> str:
    text = ""
    with stream:
        for event in stream:
            text += _text_of(event)
            if words(text) == 4:
                break
    return text


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@pytest.mark.parametrize(
    "leave", [_break_and_close, _break_inside, _raise_inside, _close_generator, _close_the_response]
)
def test_every_way_to_leave_a_stream(budget: Budget, oclient: Any, endpoint: str, leave: Callable[[Any], str]) -> None:
    stream = _open(oclient, endpoint)
    text = leave(stream)
    assert words(text) >= 4
    _check_received(budget, only_end(budget), text)  # while the stream is still there
    del stream


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_a_helper_that_is_left_ends_at_once(budget: Budget, oclient: Any, endpoint: str) -> None:
    if endpoint == "chat":
        manager = oclient.chat.completions.stream(**steer(SLOW, request=CHAT))
    else:
        manager = oclient.responses.stream(**steer(SLOW, request=RESPONSE))
    with manager as stream:
        for number, _ in enumerate(stream):
            if number == 12:
                break
    end = only_end(budget)  # while the helper is still there
    assert end.detail["outcome"] == "cut short"
    assert end.usd < reserved_usd(budget)
    del stream


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is dropped must end by its last reference alone."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@pytest.mark.parametrize("count", [None, 0, 9])
@pytest.mark.usefixtures("no_collector")
def test_a_dropped_stream_ends_at_once(budget: Budget, oclient: Any, endpoint: str, count: int | None) -> None:
    stream = _open(oclient, endpoint)
    text = "" if count is None else _some(stream, count)
    response = stream.response
    del stream
    assert not open_reservations(budget)
    end = only_end(budget)
    if words(text):
        _check_received(budget, end, text)
    else:
        assert (end.usd, end.detail["outcome"]) == (reserved_usd(budget), "cut short")
    response.close()


@pytest.mark.usefixtures("no_collector")
def test_a_dropped_stream_of_a_raw_response_ends_at_once(budget: Budget, oclient: Any) -> None:
    raw = oclient.chat.completions.with_raw_response.create(**steer(SLOW, request=CHAT), stream=True)
    stream = raw.parse()
    text, inner = _some(stream, 9), raw.http_response.stream
    del stream, raw
    assert not open_reservations(budget)
    _check_received(budget, only_end(budget), text)
    inner.close()


def test_a_stream_helper_that_is_never_entered_reserves_nothing(budget: Budget, oclient: Any) -> None:
    oclient.chat.completions.stream(**CHAT)
    oclient.responses.stream(**RESPONSE)
    assert not list(budget.entries())


async def _aopen(client: Any, endpoint: str, demo: str = SLOW) -> Any:
    if endpoint == "chat":
        return await client.chat.completions.create(**steer(demo, request=CHAT), stream=True)
    return await client.responses.create(**steer(demo, request=RESPONSE), stream=True)


async def _asome(stream: Any, count: int) -> str:
    return "".join([_text_of(await anext(stream)) for _ in range(count)])


async def _cancel(client: Any, endpoint: str, between: bool) -> str:
    text: list[str] = []
    reading = asyncio.Event()

    async def consume() -> None:
        async with await _aopen(client, endpoint, "output=40,pace=0.01") as stream:
            async for event in stream:
                text.append(_text_of(event))
                if words("".join(text)) == 4:
                    reading.set()
                    await asyncio.sleep(30 * between)

    task = asyncio.create_task(consume())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return "".join(text)


async def _cancel_inside(client: Any, endpoint: str) -> str:
    return await _cancel(client, endpoint, False)


async def _cancel_between(client: Any, endpoint: str) -> str:
    return await _cancel(client, endpoint, True)


async def _aclose(client: Any, endpoint: str) -> str:
    stream = await _aopen(client, endpoint)
    text = await _asome(stream, 9)
    await stream.close()
    await stream.close()
    return text


async def _aclose_the_response(client: Any, endpoint: str) -> str:
    stream = await _aopen(client, endpoint)
    text = await _asome(stream, 9)
    await stream.response.aclose()
    return text


async def _araise_inside(client: Any, endpoint: str) -> str:
    text = ""
    with contextlib.suppress(LookupError):
        async with await _aopen(client, endpoint) as stream:
            async for event in stream:
                text += _text_of(event)
                if words(text) == 4:
                    raise LookupError
    return text


async def _aclose_generator(client: Any, endpoint: str) -> str:
    reader, request = (_achat_helper, CHAT) if endpoint == "chat" else (_aresponses_helper, RESPONSE)
    parts = reader(client, steer(SLOW, request=request))
    text = ""
    while words(text) < 4:
        text += await anext(parts)
    await parts.aclose()
    return text


async def _adrop(client: Any, endpoint: str) -> str:
    stream = await _aopen(client, endpoint)
    text, response = await _asome(stream, 9), stream.response
    del stream
    await response.aclose()
    return text


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@pytest.mark.parametrize(
    "leave",
    [_cancel_inside, _cancel_between, _aclose, _aclose_the_response, _araise_inside, _aclose_generator, _adrop],
)
def test_every_way_to_leave_an_async_stream(budget: Budget, aoclient: Any, endpoint: str, leave: Any) -> None:
    async def main(client: Any) -> None:
        text = await leave(client, endpoint)
        assert words(text) >= 4
        _check_received(budget, only_end(budget), text)

    run_async(aoclient, main)


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@pytest.mark.parametrize("read", [False, True])
def test_an_async_stream_dropped_before_any_text(budget: Budget, aoclient: Any, endpoint: str, read: bool) -> None:
    async def main(client: Any) -> None:
        stream = await _aopen(client, endpoint)
        if read:
            await anext(stream)
        response = stream.response
        del stream
        end = only_end(budget)
        assert end.detail["estimated"]
        assert end.usd <= reserved_usd(budget)
        await response.aclose()

    run_async(aoclient, main)


def test_a_task_cancelled_while_it_reads_ends_the_stream_that_others_still_hold(budget: Budget, aoclient: Any) -> None:
    async def main(client: Any) -> None:
        stream = await _aopen(client, "chat", "output=9,pace=0.2")
        text = await _asome(stream, 2)
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        _check_received(budget, only_end(budget), text)
        await stream.close()

    run_async(aoclient, main)


# Whose calls they are.


def test_a_budgeted_async_generator_left_early(budget: Budget, aoclient: Any) -> None:
    @budgeted("$2", agent="researcher", user=lambda job: job.owner, max_calls=50, deadline=120)
    async def research(job: Any) -> AsyncIterator[str]:
        async with aoclient.responses.stream(**steer("output=30,pace=0.001", request=RESPONSE)) as stream:
            async for event in stream:
                yield _response_text(event)

    async def main(client: Any) -> str:
        text = ""
        async with contextlib.aclosing(research(SimpleNamespace(owner="alice"))) as parts:
            async for part in parts:
                text += part
                if words(text) == 5:
                    break
        return text

    text = run_async(aoclient, main)
    end = only_end(budget)
    assert (end.scope["user"], end.scope["agent"]) == ("alice", "researcher")
    _check_received(budget, end, text)


# The meters alone, for what this provider never sends.


def _chunk(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"model": "gpt-4.1-mini", "service_tier": None, "choices": [], "usage": None, **fields})


def _choice(text: str = "", finish: str | None = None, **more: Any) -> SimpleNamespace:
    delta = {"role": "assistant", "content": text, "tool_calls": None, "function_call": None, **more}
    return SimpleNamespace(index=0, delta=delta, finish_reason=finish)


def _end(budget: Budget, meter: Any, *events: Any, whole: bool = False) -> dict[str, Any] | None:
    for event in events:
        meter.feed(event)
    if whole:
        meter.finish()
    found = meter.end(budget.settings, budget.reserve(meter._estimate), None)
    return None if found is None else found[1]


def _chat_meter(budget: Budget) -> ChatMeter:
    return ChatMeter(budget.estimate(CHAT, provider="openai", endpoint="chat"))


def _said(prompt: int, completion: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def test_a_usage_said_with_every_chunk_is_whole_only_at_the_end(budget: Budget) -> None:
    """Some servers say a running usage in each chunk, whether they are asked or not."""
    running = _chunk(choices=[_choice("one two three four five")], usage=_said(9, 1))
    cut = _end(budget, _chat_meter(budget), running)
    assert cut is not None
    assert (cut["usage"], cut["estimated"]) == ({"input": 9, "output": 5}, True)
    more = _chunk(choices=[_choice("one two three four five")], usage=_said(9, 50))
    cut = _end(budget, _chat_meter(budget), running, more)
    assert cut is not None
    assert cut["usage"] == {"input": 9, "output": 50}  # the larger of what was said and what was counted
    last = _chunk(choices=[_choice(finish="stop")], usage=_said(9, 60))
    done = _end(budget, _chat_meter(budget), running, last)
    assert done is not None
    assert (done["usage"], "estimated" in done) == ({"input": 9, "output": 60}, False)


@pytest.mark.parametrize(
    "more",
    [
        {"refusal": "I had rather not say this"},
        {"reasoning_content": "I had rather not say this"},
        {"function_call": SimpleNamespace(name="find", arguments='{"where": "nowhere"}')},
        {"tool_calls": [SimpleNamespace(index=0, function=SimpleNamespace(name="find", arguments='{"a": "b"}'))]},
    ],
)
def test_whatever_comes_in_a_delta_is_counted(budget: Budget, more: dict[str, Any]) -> None:
    found = _end(budget, _chat_meter(budget), _chunk(choices=[_choice(**more)]))
    assert found is not None
    assert found["usage"]["output"] >= 5


def _event(kind: str, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(type=kind, **fields)


_BEGIN = _event("response.output_item.added", item=SimpleNamespace(type="message"))


@pytest.mark.parametrize(
    ("events", "counted"),
    [
        ([_BEGIN, _event("response.output_text.delta", delta="one two three four", item_id="m")], 4),
        ([_BEGIN, _event("response.brand_new.delta", delta="one two three four", item_id="m")], 4),
        ([_BEGIN, _event("response.reasoning_text.delta", delta="one", item_id="m")], None),
        ([_event("response.output_item.added", item=SimpleNamespace(type="web_search_call")), _BEGIN], None),
        ([_BEGIN, _event("error", message="x")], None),
        ([], None),
    ],
)
def test_what_the_meter_of_responses_makes_of_events(budget: Budget, events: list[Any], counted: int | None) -> None:
    meter = ResponsesMeter(budget.estimate(RESPONSE, provider="openai", endpoint="responses"))
    found = _end(budget, meter, *events)
    assert (found and found["usage"]["output"]) == counted


def test_an_event_that_cannot_be_read_does_not_break_the_stream(
    budget: Budget, oclient: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Any, event: Any) -> None:
        raise AttributeError

    for meter, reader in ((ChatMeter, _chat), (ResponsesMeter, _responses)):
        monkeypatch.setattr(meter, "feed", broken)
        text, error = _read(oclient, reader, "")
        assert (words(text), error) == (40, None)
    reserved = [entry.estimate for entry in budget.entries() if entry.kind == "reserved" and entry.estimate]
    assert [end.usd for end in ends(budget)] == [Decimal(estimate["usd_max"]) for estimate in reserved]
    assert caplog.text.count("an event cannot be read (AttributeError)") == 2
