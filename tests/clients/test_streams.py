"""How streams end: read to the end, left early in every way there is, or cut by the server at every event."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import anthropic
import httpx2
import pytest

from budget import Budget, budgeted
from budget.clients.anthropic import MessagesMeter
from budget.demo.provider import Provider
from budget.errors import ArgumentTypeError
from budget.ledger import Entry

from .conftest import IN, OUT, REQUEST, cost, ends, only_end, reserved_usd, run_async, steer, words

Make = Callable[..., Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic)
INPUT = 11  # what the provider counts for the tests' request


# Five ways to read a stream. Each yields what it received, text or "" for another event, until it ends or is left.


def _events(client: Any, request: Any) -> Iterator[str]:
    with client.messages.create(**request, stream=True) as stream:
        for event in stream:
            yield getattr(getattr(event, "delta", None), "text", "") or ""


def _helper(client: Any, request: Any) -> Iterator[str]:
    with client.messages.stream(**request) as stream:
        yield from stream.text_stream


def _raw(client: Any, request: Any) -> Iterator[str]:
    with client.messages.with_raw_response.create(**request, stream=True).parse() as stream:
        for event in stream:
            yield getattr(getattr(event, "delta", None), "text", "") or ""


def _lines(client: Any, request: Any) -> Iterator[str]:
    with client.messages.with_streaming_response.create(**request, stream=True) as response:
        for line in response.iter_lines():
            yield line.partition('"text":"w')[2].partition('"')[0]


def _asked(request: Any, kind: Any) -> dict[str, Any]:
    """What asks for a stream of plain objects, with the method that all others come to."""
    body = {name: value for name, value in request.items() if name != "extra_headers"}
    options = {"headers": request.get("extra_headers", {})}
    return {"body": {**body, "stream": True}, "options": options, "cast_to": object, "stream": True, "stream_cls": kind}


def _objects(client: Any, request: Any) -> Iterator[str]:
    with client.post("/v1/messages", **_asked(request, anthropic.Stream[object])) as stream:
        for event in stream:
            yield event.get("delta", {}).get("text", "")


async def _aevents(client: Any, request: Any) -> AsyncIterator[str]:
    async with await client.messages.create(**request, stream=True) as stream:
        async for event in stream:
            yield getattr(getattr(event, "delta", None), "text", "") or ""


async def _ahelper(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.messages.stream(**request) as stream:
        async for text in stream.text_stream:
            yield text


async def _araw(client: Any, request: Any) -> AsyncIterator[str]:
    response = await client.messages.with_raw_response.create(**request, stream=True)
    async with await response.parse() as stream:
        async for event in stream:
            yield getattr(getattr(event, "delta", None), "text", "") or ""


async def _alines(client: Any, request: Any) -> AsyncIterator[str]:
    async with client.messages.with_streaming_response.create(**request, stream=True) as response:
        async for line in response.iter_lines():
            yield line.partition('"text":"w')[2].partition('"')[0]


async def _aobjects(client: Any, request: Any) -> AsyncIterator[str]:
    async with await client.post("/v1/messages", **_asked(request, anthropic.AsyncStream[object])) as stream:
        async for event in stream:
            yield event.get("delta", {}).get("text", "")


_SYNC = (_events, _helper, _raw, _lines, _objects)
_ASYNC = (_aevents, _ahelper, _araw, _alines, _aobjects)
READERS = [
    pytest.param(kind, reader, id=reader.__name__.strip("_"))
    for kind, readers in ((anthropic.Anthropic, _SYNC), (anthropic.AsyncAnthropic, _ASYNC))
    for reader in readers
]


def _read(client: Any, reader: Any, request: Any, leave: int | None = None) -> tuple[str, Exception | None]:
    """Read a stream, to its end or until so many words have come; return the text and what was raised."""
    got: list[str] = []

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
        sync() if isinstance(client, anthropic.Anthropic) else run_async(client, main)
    except (httpx2.HTTPError, anthropic.APIError) as error:
        return "".join(got), error
    return "".join(got), None


# Read to the end.


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("demo", ["output=7", "output=50,thinking=9", "cache_read=900,cache_write_1h=40,output=3"])
def test_a_stream_read_to_its_end_is_booked_exactly(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any, demo: str
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, steer(demo))
    assert error is None
    assert text
    end = only_end(budget)
    usage = provider.requests[0].usage or {}
    assert end.usd == budget.cost(usage, model="claude-sonnet-4-6").usd
    assert end.detail["usage"]["output"] == usage["output_tokens"]
    assert "estimated" not in end.detail
    assert "outcome" not in end.detail


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_the_ledger_keeps_the_time_to_the_first_event(budget: Budget, plain: Make, kind: Any, reader: Any) -> None:
    _read(budget.wrap(plain(kind)), reader, steer("output=4,pace=0.02"))
    detail = only_end(budget).detail
    assert 0 <= detail["first_token_ms"] < detail["latency_ms"]


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_an_overrun_of_a_stream_is_booked_in_full(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any
) -> None:
    _read(budget.wrap(plain(kind)), reader, steer("output=900"))
    end = only_end(budget)
    assert end.usd == cost(provider.requests[0].usage or {}) == INPUT * IN + 900 * OUT > reserved_usd(budget)


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_a_tool_call_in_a_stream_is_metered(budget: Budget, plain: Make, kind: Any, reader: Any) -> None:
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {}, "required": ["where"]}}
    for demo in ("tool=1,output=20", "tool=1,output=20,cut=4"):
        _read(budget.wrap(plain(kind)), reader, steer(demo, tools=[tool]))
    whole, cut = ends(budget)
    assert whole.detail["usage"]["output"] == 20
    assert 1 < cut.detail["usage"]["output"] <= 100  # {"where":"w0"} was received
    assert cut.detail["estimated"]


# Cut by the server.

_N = 6  # words, so the events are: message_start, content_block_start, ping, 6 deltas, block_stop, delta, message_stop


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("cut", range(_N + 7))
def test_a_stream_cut_at_every_event(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any, cut: int
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, steer(f"output={_N},cut={cut}"))
    assert isinstance(error, httpx2.RemoteProtocolError)
    end, produced = only_end(budget), max(0, min(_N, cut - 3))
    assert words(text) == produced
    assert end.kind == "reconciled"
    if cut >= _N + 5:  # the provider had said what it bills
        assert end.usd == INPUT * IN + _N * OUT
        assert "estimated" not in end.detail
        return
    assert end.detail["estimated"]
    if cut == 0:  # nothing says what was produced
        assert end.usd == reserved_usd(budget)
    elif cut == 1:  # the input, and the one token that `message_start` says
        assert end.usd == INPUT * IN + OUT
    else:
        assert INPUT * IN + produced * OUT <= end.usd <= reserved_usd(budget)
        assert end.usd < reserved_usd(budget) / 2  # what was received is what is charged


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("cut", [2, 5, 9])
def test_a_cut_stream_that_may_have_reasoned_is_charged_whole(
    budget: Budget, plain: Make, kind: Any, reader: Any, cut: int
) -> None:
    _read(budget.wrap(plain(kind)), reader, steer(f"output=20,thinking=5,cut={cut}"))
    assert only_end(budget).usd == reserved_usd(budget)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_stream_of_a_request_that_asks_for_reasoning_is_charged_whole(
    budget: Budget, plain: Make, kind: Any
) -> None:
    asked = {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000}
    reader = _events if kind is anthropic.Anthropic else _aevents
    _read(budget.wrap(plain(kind)), reader, {**steer("output=20,cut=9"), **asked})
    assert only_end(budget).usd == reserved_usd(budget)


def test_a_cut_stream_of_a_request_without_a_bound_is_charged_whole(
    make_budget: Callable[..., Budget], plain: Make
) -> None:
    """A server tool adds input while the model works; what the stream said at its start is not the whole of it."""
    budget = make_budget(limits=["$100/day"], on_unbounded="$0.50")
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    _read(budget.wrap(plain(anthropic.Anthropic)), _events, {**steer("output=20,cut=9"), "tools": tools})
    assert only_end(budget).usd == Decimal("0.5")


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("after", [0, 1, 5, _N + 3])
def test_an_error_in_a_stream_is_charged_whole(budget: Budget, plain: Make, kind: Any, reader: Any, after: int) -> None:
    _, error = _read(budget.wrap(plain(kind)), reader, steer(f"output={_N},error_event={after}"))
    end = only_end(budget)
    assert (end.kind, end.usd, end.detail["estimated"]) == ("reconciled", reserved_usd(budget), True)
    assert isinstance(error, anthropic.APIStatusError) is (reader not in (_lines, _alines))  # lines show it as an event
    if reader in (_events, _helper, _aevents, _ahelper):
        assert end.detail["outcome"] == type(error).__name__


@pytest.mark.parametrize(("kind", "reader"), [row for row in READERS if "helper" not in str(row.id)])
def test_a_stream_without_usage_is_charged_whole_and_comes_through(
    budget: Budget, plain: Make, kind: Any, reader: Any
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, steer("output=5,usage=none"))
    assert (words(text), error) == (5, None)
    assert only_end(budget).usd == reserved_usd(budget)


@pytest.mark.parametrize(("kind", "reader"), READERS)
def test_a_stream_that_is_answered_with_an_error_is_refunded(
    budget: Budget, plain: Make, kind: Any, reader: Any
) -> None:
    _, error = _read(budget.wrap(plain(kind)), reader, steer("status=429"))
    assert isinstance(error, anthropic.RateLimitError)
    assert only_end(budget).kind == "refunded"


# Left early.


@pytest.mark.parametrize(("kind", "reader"), READERS)
@pytest.mark.parametrize("leave", [1, 4, 9])
def test_a_stream_left_early_is_charged_for_what_came(
    budget: Budget, plain: Make, provider: Provider, kind: Any, reader: Any, leave: int
) -> None:
    text, error = _read(budget.wrap(plain(kind)), reader, steer("output=40,pace=0.001"), leave)
    assert error is None
    _check_received(budget, only_end(budget), text)
    provider.wait()
    assert provider.requests[0].disconnected


def _check_received(budget: Budget, end: Entry, text: str) -> None:
    """Charged at least the input and the text received, at most what was reserved."""
    assert (end.kind, end.detail["outcome"], end.detail["estimated"]) == ("reconciled", "cut short", True)
    assert end.detail["usage"]["input"] == INPUT
    assert INPUT * IN + words(text) * OUT <= end.usd < reserved_usd(budget)


def _some(stream: Any, count: int) -> str:
    """Read so many events of a raw stream; return their text."""
    found = [next(stream) for _ in range(count)]
    return "".join(getattr(getattr(event, "delta", None), "text", "") or "" for event in found)


def _raise_inside(stream: Any) -> str:
    with contextlib.suppress(LookupError), stream:
        text = _some(stream, 6)
        raise LookupError
    return text


def _close_generator(stream: Any) -> str:
    def consume() -> Iterator[str]:
        with stream:
            for event in stream:
                yield getattr(getattr(event, "delta", None), "text", "") or ""

    parts = consume()
    text = "".join(next(parts) for _ in range(6))
    parts.close()
    return text


def _break_and_close(stream: Any) -> str:
    text = _some(stream, 6)
    stream.close()
    stream.close()  # and again
    return text


def _break_inside(stream: Any) -> str:
    text = ""
    with stream:
        for event in stream:
            text += getattr(getattr(event, "delta", None), "text", "") or ""
            if words(text) == 4:
                break
    return text


def _left_to_the_close_method(stream: Any) -> str:
    with contextlib.ExitStack() as stack:
        stack.callback(stream.close)  # does not keep the stream alive
        return _some(stream, 6)


LEAVINGS = [_break_and_close, _break_inside, _raise_inside, _close_generator]


@pytest.mark.parametrize("leave", LEAVINGS)
def test_every_way_to_leave_a_stream(budget: Budget, client: Any, leave: Callable[[Any], str]) -> None:
    stream = client.messages.create(**steer("output=40,pace=0.001"), stream=True)
    text = leave(stream)
    assert words(text) == 4
    _check_received(budget, only_end(budget), text)  # while the stream is still there
    del stream


def _gone(stream: Any) -> str:
    return ""


@pytest.mark.parametrize(("leave", "count"), [(_some, 0), (_some, 1), (_some, 6), (_gone, None)])
@pytest.mark.usefixtures("no_collector")
def test_a_dropped_stream_ends_at_once(
    budget: Budget, client: Any, leave: Callable[..., str], count: int | None
) -> None:
    stream = client.messages.create(**steer("output=40,pace=0.001"), stream=True)
    text = leave(stream) if count is None else leave(stream, count)
    response = stream.response
    del stream
    end = only_end(budget)
    if words(text):
        _check_received(budget, end, text)
    else:  # its first event says its input, and one token of output
        assert (end.usd, end.detail["outcome"]) == (INPUT * IN + OUT if count else reserved_usd(budget), "cut short")
    response.close()


@pytest.mark.usefixtures("no_collector")
def test_a_dropped_streaming_response_ends_at_once(budget: Budget, client: Any) -> None:
    response = client.messages.with_streaming_response.create(**REQUEST).__enter__()
    inner = response.http_response.stream
    del response
    assert only_end(budget).usd == reserved_usd(budget)
    inner.close()


def test_a_closed_stream_outlived_by_its_close_method(budget: Budget, client: Any) -> None:
    _left_to_the_close_method(client.messages.create(**steer("output=40,pace=0.001"), stream=True))
    assert only_end(budget).kind == "reconciled"


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is dropped must end by its last reference alone."""
    gc.disable()
    yield
    gc.enable()


def test_a_stream_helper_that_is_never_entered_reserves_nothing(budget: Budget, client: Any) -> None:
    client.messages.stream(**REQUEST)
    assert not list(budget.entries())


async def _cancel_inside(client: Any) -> str:
    text, reading = [], asyncio.Event()

    async def consume() -> None:
        async with client.messages.stream(**steer("output=40,pace=0.01")) as stream:
            async for part in stream.text_stream:
                text.append(part)
                if len(text) == 4:
                    reading.set()

    task = asyncio.create_task(consume())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return "".join(text)


async def _cancel_between(client: Any) -> str:
    text, reading = [], asyncio.Event()

    async def consume() -> None:
        async with await client.messages.create(**steer("output=40,pace=0.001"), stream=True) as stream:
            async for event in stream:
                text.append(getattr(getattr(event, "delta", None), "text", "") or "")
                if len(text) == 6:
                    reading.set()
                    await asyncio.sleep(30)

    task = asyncio.create_task(consume())
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return "".join(text)


async def _aclose(client: Any) -> str:
    stream = await client.messages.create(**steer("output=40,pace=0.001"), stream=True)
    found = [await anext(stream) for _ in range(6)]
    await stream.close()
    await stream.close()
    return "".join(getattr(getattr(event, "delta", None), "text", "") or "" for event in found)


async def _araise_inside(client: Any) -> str:
    text = ""
    with contextlib.suppress(LookupError):
        async with client.messages.stream(**steer("output=40,pace=0.001")) as stream:
            async for part in stream.text_stream:
                text += part
                if words(text) == 4:
                    raise LookupError
    return text


async def _aclose_generator(client: Any) -> str:
    parts = _ahelper(client, steer("output=40,pace=0.001"))
    text = "".join([await anext(parts) for _ in range(4)])
    await parts.aclose()
    return text


async def _adrop(client: Any) -> str:
    stream = await client.messages.create(**steer("output=40,pace=0.001"), stream=True)
    found = [await anext(stream) for _ in range(6)]
    response = stream.response
    del stream
    await response.aclose()
    return "".join(getattr(getattr(event, "delta", None), "text", "") or "" for event in found)


@pytest.mark.parametrize("leave", [_cancel_inside, _cancel_between, _aclose, _araise_inside, _aclose_generator, _adrop])
def test_every_way_to_leave_an_async_stream(budget: Budget, aclient: Any, leave: Any) -> None:
    async def main(client: Any) -> None:
        text = await leave(client)
        assert words(text) >= 4
        end = only_end(budget)
        assert end.detail["outcome"] in ("cut short", "CancelledError")
        assert INPUT * IN + words(text) * OUT <= end.usd < reserved_usd(budget)

    run_async(aclient, main)


def test_a_task_cancelled_while_it_reads_ends_the_stream_that_others_still_hold(budget: Budget, aclient: Any) -> None:
    async def main(client: Any) -> None:
        stream = await client.messages.create(**steer("output=9,pace=0.2"), stream=True)
        text = "".join([getattr(getattr(await anext(stream), "delta", None), "text", "") or "" for _ in range(4)])
        task = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert INPUT * IN + words(text) * OUT <= only_end(budget).usd < reserved_usd(budget)
        await stream.close()

    run_async(aclient, main)


@pytest.mark.parametrize("read", [False, True])
def test_an_async_stream_dropped_before_any_text(budget: Budget, aclient: Any, read: bool) -> None:
    async def main(client: Any) -> None:
        stream = await client.messages.create(**REQUEST, stream=True)
        if read:
            await anext(stream)
        response = stream.response
        del stream
        assert only_end(budget).usd == (INPUT * IN + OUT if read else reserved_usd(budget))
        await response.aclose()

    run_async(aclient, main)


# Whose calls they are.


@pytest.mark.parametrize("finish", [False, True])
def test_a_budgeted_async_generator_left_early(budget: Budget, aclient: Any, provider: Provider, finish: bool) -> None:
    """The example of the documentation: leaving early books what was really produced, in the run of the generator."""

    @budgeted("$2", agent="researcher", user=lambda job: job.owner, max_calls=50, deadline=120)
    async def research(job: Any) -> AsyncIterator[str]:
        async with aclient.messages.stream(**steer("output=30,pace=0.001")) as stream:
            async for text in stream.text_stream:
                yield text

    async def main(client: Any) -> str:
        text = ""
        async with contextlib.aclosing(research(SimpleNamespace(owner="alice"))) as parts:
            async for part in parts:
                text += part
                if not finish and words(text) == 5:
                    break
        return text

    text = run_async(aclient, main)
    end = only_end(budget)
    assert (end.scope["user"], end.scope["agent"]) == ("alice", "researcher")
    assert end.scope["run"]
    if finish:
        assert end.usd == INPUT * IN + 30 * OUT
    else:
        _check_received(budget, end, text)


def test_a_run_reaches_the_ledger_and_its_own_limit(budget: Budget, client: Any) -> None:
    with budget.run(user="alice", agent="support", team="red") as outer:
        client.messages.create(**REQUEST)
        with budget.run("$0.002", agent="helper") as inner:
            client.messages.create(**REQUEST)
            with pytest.raises(Exception, match=r"\$0\.002"):
                client.messages.create(**REQUEST)
    client.messages.create(**REQUEST)
    first, second, third = ends(budget)
    assert dict(first.scope) == {
        "user": "alice", "agent": "support", "team": "red", "run": outer.id, "model": "claude-sonnet-4-6",
        "provider": "anthropic",
    }  # fmt: skip
    assert (second.scope["user"], second.scope["agent"], second.scope["run"]) == ("alice", "helper", inner.id)
    assert third.scope.keys() == {"model", "provider"}
    assert (inner.spent, inner.calls) == (second.usd, 1)
    assert (outer.spent, outer.reserved, outer.calls) == (first.usd + second.usd, 0, 2)


def test_a_stream_belongs_to_the_run_it_was_begun_in(budget: Budget, client: Any) -> None:
    with budget.run(user="alice"):
        stream = client.messages.create(**REQUEST, stream=True)
    with budget.run(user="bob"), stream:
        for _ in stream:
            pass
    assert only_end(budget).scope["user"] == "alice"


def test_tasks_inherit_the_run_they_were_made_in(budget: Budget, aclient: Any) -> None:
    async def agent(client: Any, name: str) -> None:
        async with budget.run(agent=name):
            await asyncio.gather(*(client.messages.create(**REQUEST) for _ in range(3)))

    async def main(client: Any) -> None:
        async with budget.run(user="alice"):
            await asyncio.gather(agent(client, "a"), agent(client, "b"))

    run_async(aclient, main)
    found = [(end.scope["user"], end.scope["agent"]) for end in ends(budget)]
    assert sorted(found) == [("alice", "a")] * 3 + [("alice", "b")] * 3


# The meter alone, for what this provider never sends.


def _feed(meter: MessagesMeter, *events: Any) -> None:
    for event in events:
        meter.feed(event)


_USAGE = {"input_tokens": 9, "output_tokens": 1}
_START = SimpleNamespace(type="message_start", message=SimpleNamespace(model="claude-sonnet-4-6", usage=_USAGE))
_BLOCK = SimpleNamespace(type="content_block_start", content_block=SimpleNamespace(type="text"))
_TEXT = SimpleNamespace(type="content_block_delta", delta=SimpleNamespace(text="one two three four"))


def _end(budget: Budget, *events: Any) -> dict[str, Any] | None:
    estimate = budget.estimate(**REQUEST)
    meter = MessagesMeter(estimate)
    _feed(meter, *events)
    found = meter.end(budget.settings, budget.reserve(estimate), None)
    return None if found is None else found[1]


def test_an_end_that_does_not_say_its_output_is_no_end(budget: Budget) -> None:
    for usage in (None, {}, {"input_tokens": 9}):
        stop = SimpleNamespace(type="message_delta", delta=SimpleNamespace(stop_reason="end_turn"), usage=usage)
        found = _end(budget, _START, _BLOCK, _TEXT, stop)
        assert found is not None
        assert found["estimated"]
        assert found["usage"]["output"] >= 4


def test_the_larger_of_reported_and_counted_output_is_taken(budget: Budget) -> None:
    stop = SimpleNamespace(type="message_delta", delta=SimpleNamespace(stop_reason=None), usage={"output_tokens": 5000})
    found = _end(budget, _START, _BLOCK, _TEXT, stop)
    assert found is not None
    assert (found["usage"], found["estimated"]) == ({"input": 9, "output": 5000}, True)


def test_an_input_that_was_not_said_is_charged_at_its_bound(budget: Budget) -> None:
    most = budget.estimate(**REQUEST).input_tokens_max
    silent = SimpleNamespace(type="message_start", message=SimpleNamespace(model="m", usage={"output_tokens": 1}))
    stop = SimpleNamespace(type="message_delta", delta=SimpleNamespace(stop_reason=None), usage={"output_tokens": 50})
    found = _end(budget, silent, _BLOCK, _TEXT, stop)
    assert found is not None
    assert (found["usage"], found["estimated"]) == ({"input": most, "output": 50}, True)
    said = SimpleNamespace(output_tokens=50)
    whole = SimpleNamespace(type="message_delta", delta=SimpleNamespace(stop_reason="end_turn"), usage=said)
    with pytest.raises(ArgumentTypeError, match="does not say its input_tokens"):
        _end(budget, silent, _BLOCK, _TEXT, whole)  # the call is charged its reservation then


def test_before_any_output_what_was_said_of_it_counts(budget: Budget) -> None:
    found = _end(budget, _START)
    assert found is not None
    assert (found["usage"], found["estimated"]) == ({"input": 9, "output": 1}, True)
    unsaid = SimpleNamespace(type="message_start", message=SimpleNamespace(model="m", usage={"input_tokens": 9}))
    assert _end(budget, unsaid) is None
    thinks = budget.estimate(**{**REQUEST, "max_tokens": 3000, "thinking": {"type": "enabled", "budget_tokens": 2000}})
    meter = MessagesMeter(thinks)
    meter.feed(_START)
    assert meter.end(budget.settings, budget.reserve(thinks), None) is None


def test_what_an_older_sdk_does_not_know_is_priced(budget: Budget) -> None:
    """A field that the SDK's model does not have stays in the model's extra fields."""
    usage = anthropic.types.Usage.construct(input_tokens=9, output_tokens=2, a_new_field=3)
    meter = MessagesMeter(budget.estimate(**REQUEST))
    meter.feed(SimpleNamespace(type="message_start", message=SimpleNamespace(model="m", usage=usage)))
    assert meter.usage["a_new_field"] == 3


def test_an_event_that_cannot_be_read_does_not_break_the_stream(
    budget: Budget, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: MessagesMeter, event: Any) -> None:
        raise AttributeError

    monkeypatch.setattr(MessagesMeter, "feed", broken)
    text, error = _read(client, _events, REQUEST)
    assert (words(text), error) == (40, None)
    assert only_end(budget).usd == reserved_usd(budget)
    assert caplog.text.count("an event cannot be read (AttributeError)") == 1
