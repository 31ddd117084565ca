"""Growing reservations: which streams have them, what stops them, and that every way out ends all of them once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal
from threading import Thread
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from budget import Budget, BudgetExceeded, CapExceeded, Frozen, Limit, RunStopped, StoreUnavailable, Unbounded
from budget.clients.growth import AHEAD, STEP
from budget.commands import Reserve
from budget.demo.provider import Provider
from budget.guard import Guard
from budget.learn import ENOUGH
from budget.ledger import Entry

from .conftest import (
    CHAT_IN,
    CHAT_MODEL,
    CHAT_OUT,
    IN,
    OPENAI_HTTP,
    OUT,
    REQUEST,
    ends,
    open_reservations,
    run_async,
    steer,
    words,
)

Make = Callable[..., Any]
MESSAGES = {**REQUEST, "max_tokens": 5000}
CHAT: dict[str, Any] = {"model": CHAT_MODEL, "messages": REQUEST["messages"]}  # its ceiling is 32,768 tokens: $0.052
RESPONSE: dict[str, Any] = {"model": CHAT_MODEL, "input": "hello there"}
LONG = "output=400,pace=0.0002"
CHEAP = {"my-model": {"input": "0.40", "output": "1.60"}}  # without a ceiling
OWN = {**CHAT, "model": "my-model"}


def _entries(budget: Budget) -> list[Entry]:
    return [entry for entry in budget.entries() if entry.kind not in ("limit_set", "frozen", "unfrozen")]


def _check(budget: Budget, extensions: int | None = None) -> Entry:
    """One reservation with its extensions: all over, the money in one final entry, that of the first. Returns it."""
    gc.collect()
    assert not open_reservations(budget)
    entries = [entry for entry in _entries(budget) if entry.kind != "refused"]
    made = [entry.reservation for entry in entries if entry.kind == "reserved"]
    final = {entry.reservation: entry for entry in entries if entry.kind != "reserved"}
    assert len(entries) == 2 * len(made)
    assert final.keys() == set(made)
    assert {entry.kind for id, entry in final.items() if id != made[0]} <= {"refunded"}
    assert extensions is None or len(made) == 1 + extensions
    assert all(pool.reserved == 0 for pool in budget.status())
    return final[made[0]]


def _chat(client: Any, request: dict[str, Any] = CHAT, demo: str = LONG) -> Iterator[str]:
    for chunk in client.chat.completions.create(**steer(demo, request=request), stream=True):
        yield chunk.choices[0].delta.content or ""


def _read(parts: Iterator[str]) -> tuple[str, Any]:
    got: list[str] = []
    try:
        got.extend(parts)  # keeps what came before an exception
    except (BudgetExceeded, StoreUnavailable) as error:
        return "".join(got), error
    return "".join(got), None


# Which streams grow.


def test_a_stream_with_a_bound_that_fits_does_not_grow(budget: Budget, client: Any) -> None:
    with client.messages.stream(**steer(LONG, request=MESSAGES)) as stream:
        assert words(stream.get_final_text()) == 400
    assert _check(budget, 0).usd == 11 * IN + 400 * OUT


def test_a_stream_whose_ceiling_fits_does_not_grow(budget: Budget, oclient: openai.OpenAI) -> None:
    assert words(_read(_chat(oclient))[0]) == 400
    end = _check(budget, 0)
    assert end.estimate is not None
    assert end.estimate["output_tokens_max"] == 32768


def test_a_stream_without_a_bound_grows_where_its_ceiling_does_not_fit(
    make_budget: Callable[..., Budget], plain: Make
) -> None:
    budget = make_budget("memory://", limits=["$0.01/day"])
    text, error = _read(_chat(budget.wrap(plain(openai.OpenAI))))
    assert (words(text), error) == (400, None)
    end = _check(budget)
    assert "estimated" not in end.detail
    assert end.detail["usage"]["output"] == 400
    extensions = [entry for entry in _entries(budget) if "extends" in entry.detail and entry.kind == "reserved"]
    assert extensions
    assert {entry.detail["extends"] for entry in extensions} == {end.reservation}


def test_with_a_bound_of_its_own_it_is_refused(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider
) -> None:
    budget = make_budget("memory://", limits=["$0.01/day"])
    text, error = _read(_chat(budget.wrap(plain(openai.OpenAI)), {**CHAT, "max_tokens": 20000}))
    assert (text, error.partial) == ("", None)
    assert error.max_tokens
    assert not provider.requests


def test_a_call_that_does_not_stream_is_refused(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider
) -> None:
    budget = make_budget("memory://", limits=["$0.01/day"])
    with pytest.raises(BudgetExceeded):
        budget.wrap(plain(openai.OpenAI)).chat.completions.create(**CHAT)
    assert not provider.requests


def test_where_not_even_a_step_fits_the_first_refusal_is_raised(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider
) -> None:
    budget = make_budget("memory://", limits=["$0.0003/day"])
    _, error = _read(_chat(budget.wrap(plain(openai.OpenAI))))
    assert error.requested > Decimal("0.05")
    assert error.partial is None
    assert 0 < error.max_tokens < STEP
    assert not hasattr(error, "__notes__")
    assert not provider.requests


def test_a_model_without_a_ceiling(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.0008/day"], prices=CHEAP)
    client = budget.wrap(plain(openai.OpenAI))
    with pytest.raises(Unbounded, match="no known ceiling"):
        client.chat.completions.create(**OWN)
    asked: dict[str, Any]
    for asked in ({"reasoning_effort": "high"}, {"web_search_options": {}}):  # it cannot be seen what that adds
        with pytest.raises(Unbounded):
            client.chat.completions.create(**OWN, **asked, stream=True)
    text, error = _read(_chat(client, OWN))
    assert type(error) is BudgetExceeded
    assert error.partial == text
    end = _check(budget)
    assert end.usd >= 7 * CHAT_IN + words(text) * CHAT_OUT
    assert end.estimate is not None
    assert not end.estimate["closed"]


def test_a_count_by_the_provider_does_not_make_a_step_of_it_the_whole(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider
) -> None:
    limit = STEP * CHAT_OUT + 45 * CHAT_IN  # the provider's count of the input fits into it, and our bound does not
    budget = make_budget("memory://", limits=[f"${limit}/day"], prices=CHEAP, count_with="provider")
    client = budget.wrap(plain(openai.OpenAI))
    with pytest.raises(BudgetExceeded) as caught:
        list(client.responses.create(**steer(LONG, request={**RESPONSE, "model": "my-model"}), stream=True))
    assert caught.value.partial is None
    assert not provider.requests


def test_an_allowance_for_what_has_no_bound_stays_one(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$1/day"], prices=CHEAP, on_unbounded="$0.50")
    assert words(_read(_chat(budget.wrap(plain(openai.OpenAI)), OWN))[0]) == 400
    _check(budget, 0)


@pytest.mark.parametrize("level", ["expected", "p99"])
def test_a_soft_reservation_grows_from_a_step_or_from_what_was_learned(
    make_budget: Callable[..., Budget], plain: Make, level: str
) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at=level)
    client = budget.wrap(plain())

    def reserved(output: int) -> tuple[int, Decimal]:
        before = len(_entries(budget))
        with client.messages.stream(**steer(f"output={output}", request=MESSAGES)) as stream:
            stream.get_final_message()
        entries = _entries(budget)[before:]
        made = [entry for entry in entries if entry.kind == "reserved"]
        estimate = made[0].estimate
        assert estimate is not None
        assert estimate["reserve_at"] == level
        assert not open_reservations(budget)
        assert ends(budget)[-len(made)].usd == 11 * IN + output * OUT
        return len(made) - 1, Decimal(estimate["usd_reserved"])

    extensions, usd = reserved(500)
    assert extensions > 2
    assert STEP * OUT < usd < 2 * STEP * OUT
    for _ in range(ENOUGH):
        client.messages.create(**steer("output=500", request=MESSAGES))
    extensions, usd = reserved(100)
    assert extensions == 0
    assert usd > 480 * OUT


def test_a_step_larger_than_the_bound_is_no_step(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="expected")
    client = budget.wrap(plain())
    with client.messages.stream(**steer("output=100")) as stream:
        assert words(stream.get_final_text()) == 100
    _check(budget, 0)


def test_several_answers_share_their_steps(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.0012/day"])
    client = budget.wrap(plain(openai.OpenAI))
    request = steer(LONG, request={**CHAT, "n": 3})
    got: dict[int, str] = {0: "", 1: "", 2: ""}

    def parts() -> Iterator[str]:
        for chunk in client.chat.completions.create(**request, stream=True):
            for choice in chunk.choices:
                got[choice.index] += choice.delta.content or ""
            yield ""

    _, error = _read(parts())
    assert error.partial == got[0]
    end = _check(budget)
    assert end.usd >= sum(map(words, got.values())) * CHAT_OUT
    assert end.usd <= Decimal("0.0012")


def test_a_call_may_ask_to_grow(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.02/day"])
    client = budget.wrap(plain())
    with pytest.raises(BudgetExceeded) as caught:
        client.messages.create(**MESSAGES, stream=True)
    assert caught.value.partial is None
    asked = {**steer(LONG, request=MESSAGES), "extra_body": {"budget_on_short": "grow"}}
    with client.messages.stream(**asked) as stream:
        assert words(stream.get_final_text()) == 400
    _check(budget)


# What stops them.

UNDER_WAY = [
    pytest.param(anthropic.Anthropic, "events", id="messages"),
    pytest.param(anthropic.Anthropic, "text_stream", id="text_stream"),
    pytest.param(anthropic.Anthropic, "final", id="get_final_message"),
    pytest.param(anthropic.Anthropic, "lines", id="lines"),
    pytest.param(openai.OpenAI, "chat", id="chat"),
    pytest.param(openai.OpenAI, "chat_final", id="get_final_completion"),
    pytest.param(openai.OpenAI, "responses", id="responses"),
    pytest.param(openai.OpenAI, "responses_final", id="get_final_response"),
]


def _consume(client: Any, how: str) -> None:
    if how == "events":
        for _ in client.messages.create(**steer(LONG, request=MESSAGES), stream=True):
            pass
    elif how == "lines":
        with client.messages.with_streaming_response.create(**steer(LONG, request=MESSAGES), stream=True) as response:
            for _ in response.iter_lines():
                pass
    elif how in ("text_stream", "final"):
        with client.messages.stream(**steer(LONG, request=MESSAGES)) as stream:
            list(stream.text_stream) if how == "text_stream" else stream.get_final_message()
    elif how == "chat":
        list(_chat(client))
    elif how == "responses":
        list(client.responses.create(**steer(LONG, request=RESPONSE), stream=True))
    else:
        door = client.chat.completions if how == "chat_final" else client.responses
        request = CHAT if how == "chat_final" else RESPONSE
        with door.stream(**steer(LONG, request=request)) as stream:
            stream.get_final_completion() if how == "chat_final" else stream.get_final_response()


async def _aconsume(client: Any, how: str) -> None:
    if how == "events":
        async for _ in await client.messages.create(**steer(LONG, request=MESSAGES), stream=True):
            pass
    elif how == "lines":
        made = client.messages.with_streaming_response.create(**steer(LONG, request=MESSAGES), stream=True)
        async with made as response:
            async for _ in response.iter_lines():
                pass
    elif how in ("text_stream", "final"):
        async with client.messages.stream(**steer(LONG, request=MESSAGES)) as stream:
            if how == "final":
                await stream.get_final_message()
            async for _ in stream.text_stream:
                pass
    elif how == "chat":
        async for _ in await client.chat.completions.create(**steer(LONG, request=CHAT), stream=True):
            pass
    elif how == "responses":
        async for _ in await client.responses.create(**steer(LONG, request=RESPONSE), stream=True):
            pass
    else:
        door = client.chat.completions if how == "chat_final" else client.responses
        async with door.stream(**steer(LONG, request=CHAT if how == "chat_final" else RESPONSE)) as stream:
            await (stream.get_final_completion() if how == "chat_final" else stream.get_final_response())


@pytest.mark.parametrize(("kind", "how"), UNDER_WAY)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_freeze_stops_a_stream_at_its_next_extension(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch, kind: Any,
    how: str, is_async: bool,
) -> None:  # fmt: skip
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    asked = Guard.aextend if is_async else Guard.extend

    def freeze(guard: Guard, *amounts: Any) -> Any:
        if sum(entry.kind == "reserved" for entry in budget.entries()) == 2:
            budget.freeze(run=run.id)
        return asked(guard, *amounts)

    monkeypatch.setattr(Guard, asked.__name__, freeze)
    sdk = kind
    if is_async:
        sdk = anthropic.AsyncAnthropic if kind is anthropic.Anthropic else openai.AsyncOpenAI
    client = budget.wrap(plain(sdk))

    async def main(client: Any) -> None:
        try:
            await _aconsume(client, how)
        finally:
            await asyncio.to_thread(provider.wait)  # before the client is closed

    with budget.run(user="ann") as run, pytest.raises(Frozen) as caught:
        run_async(client, main) if is_async else _consume(client, how)
    partial = caught.value.partial
    assert partial is not None
    assert 30 < words(partial) < 400
    assert partial.startswith("w0 w1 w2 ")
    assert partial not in str(caught.value) + repr(caught.value) + json.dumps(caught.value.to_dict())
    provider.wait()
    assert provider.requests[0].disconnected
    end = _check(budget, 1)
    rate = OUT if kind is anthropic.Anthropic else CHAT_OUT
    assert words(partial) * rate < end.usd < 4 * STEP * rate
    assert (end.detail["estimated"], end.detail["outcome"]) == (True, "cut short")


def test_a_deadline_stops_a_stream(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    client = budget.wrap(plain())
    with budget.run(deadline=900) as run, client.messages.stream(**steer(LONG, request=MESSAGES)) as stream:
        for text in stream.text_stream:
            if text == "w20 ":
                run.deadline_at = 1.0
                break
        with pytest.raises(RunStopped) as caught:
            stream.get_final_message()
    assert (caught.value.partial or "").startswith("w0 w1 ")
    assert _check(budget).usd < 3 * STEP * OUT


def test_a_cap_is_held_to_the_ceiling_or_to_what_a_stream_has_come_to(
    make_budget: Callable[..., Budget], plain: Make, provider: Provider
) -> None:
    budget = make_budget("memory://", limits=["$10/day", "$0.001/request"], prices=CHEAP)
    client = budget.wrap(plain(openai.OpenAI))
    text, error = _read(_chat(client))
    assert (type(error), text, provider.requests) == (CapExceeded, "", [])
    grow = {"extra_body": {"budget_on_short": "grow"}}
    for request in (OWN, {**CHAT, **grow}, {**CHAT, "max_tokens": 5000, **grow}):
        text, error = _read(_chat(client, request))
        assert type(error) is CapExceeded
        assert error.partial == text
        usd = next(entry.usd for entry in reversed(ends(budget)) if entry.kind == "reconciled")
        assert Decimal("0.001") - STEP * CHAT_OUT < usd <= Decimal("0.001")
    assert not open_reservations(budget)


@pytest.mark.parametrize("limit", ["700 tokens/day", "650 output tokens/day"])
def test_a_limit_of_tokens_stops_a_stream(make_budget: Callable[..., Budget], plain: Make, limit: str) -> None:
    budget = make_budget("memory://", limits=[limit])
    text, error = _read(_chat(budget.wrap(plain(openai.OpenAI))))
    assert error.partial == text
    assert 150 < words(text) < 400
    assert _check(budget).kind == "reconciled"
    pool = budget.status()[0]
    assert pool.limit.quantity - STEP - 60 < pool.spent <= pool.limit.quantity


def test_an_extension_is_no_further_request_and_takes_no_slot(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.01/day", "1 requests/day", "1 concurrent"])
    client = budget.wrap(plain(openai.OpenAI))
    with budget.run(max_calls=1) as run:
        assert words(_read(_chat(client))[0]) == 400
        assert run.calls == 1
    assert [pool.spent for pool in budget.status() if pool.unit in ("requests", "concurrent")] == [1, 0]
    assert _check(budget).detail["usage"]["output"] == 400


def test_the_scope_of_an_extension_is_that_of_its_call(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$0.01/day", per="user")])
    parts = _chat(budget.wrap(plain(openai.OpenAI)))
    with budget.run(user="ann", agent="writer"):
        next(parts)
    assert words(_read(parts)[0]) == 400  # read on where no run is
    assert _check(budget).kind == "reconciled"
    assert {(entry.scope["user"], entry.scope["agent"]) for entry in _entries(budget)} == {("ann", "writer")}


def test_a_refusal_with_text_travels_without_showing_it(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.001/day"])
    _, error = _read(_chat(budget.wrap(plain(openai.OpenAI))))
    other = pickle.loads(pickle.dumps(error))
    assert other.partial == error.partial
    assert error.to_dict()["partial_chars"] == len(error.partial) > 100
    for shown in (str(error), repr(error), json.dumps(error.to_dict())):
        assert "w0 w1" not in shown
    assert all("w0 w1" not in json.dumps(entry.detail) for entry in budget.entries())
    text, again = _read(_chat(budget.wrap(plain(openai.OpenAI))))
    assert (text, "partial_chars" in again.to_dict()) == ("", False)


def test_nothing_is_read_on_after_the_cut(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.001/day"])
    stream = budget.wrap(plain(openai.OpenAI)).chat.completions.create(**steer(LONG, request=CHAT), stream=True)
    with pytest.raises(BudgetExceeded):
        list(stream)
    assert list(stream) == []
    stream.close()
    _check(budget)

    async def main(client: Any) -> None:
        stream = await client.chat.completions.create(**steer(LONG, request=CHAT), stream=True)
        with pytest.raises(BudgetExceeded):
            [chunk async for chunk in stream]
        assert [chunk async for chunk in stream] == []
        await stream.close()

    other = make_budget("memory://", limits=["$0.001/day"])
    run_async(other.wrap(plain(openai.AsyncOpenAI)), main)
    _check(other)


# What was learned of the input.


def test_where_the_input_costs_more_than_expected_the_difference_is_reserved_at_once(
    make_budget: Callable[..., Budget], plain: Make
) -> None:
    """A soft reservation counts on what calls like it cost; the first event says what the input really is."""
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="expected")
    client = budget.wrap(plain())
    for _ in range(ENOUGH):
        client.messages.create(**steer("output=200,input=11", request=MESSAGES))
    reserved = []
    stream = client.messages.create(**steer("output=50,input=90000,pace=0.001", request=MESSAGES), stream=True)
    for event in stream:
        reserved.append(budget.status()[0].reserved)
        if event.type == "content_block_delta":
            break
    stream.close()
    assert reserved[0] < 90000 * IN < reserved[-1]
    assert not open_reservations(budget)


# Every way out.


def _grown(budget: Budget) -> bool:
    return len(open_reservations(budget)) >= 3


def test_a_dropped_stream_gives_all_of_it_back(make_budget: Callable[..., Budget], plain: Make) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    stream = budget.wrap(plain()).messages.create(**steer(LONG, request=MESSAGES), stream=True)
    while not _grown(budget):
        next(stream)
    kept = {entry.reservation for entry in _entries(budget)}
    assert all(budget.engine.leases.keeps(str(id)) for id in kept)
    del stream
    assert STEP * OUT < _check(budget, 2).usd < 4 * STEP * OUT
    assert not any(budget.engine.leases.keeps(str(id)) for id in kept)


@pytest.mark.parametrize("end", ["dropped", "left", "refunded", "reconciled"])
def test_a_grown_reservation_ends_with_its_extensions(budget_factory: Callable[..., Budget], end: str) -> None:
    budget = budget_factory(limits=["$1/day"])
    guard = budget.reservation("$0.40", tokens=0)
    guard.begin()
    guard.extend((10**8, 0, 0, 0, 0), (5 * 10**8, 0, 0, 0, 1))
    with pytest.raises(BudgetExceeded):
        guard.extend((6 * 10**8, 0, 0, 0, 0), (11 * 10**8, 0, 0, 0, 1))
    first, more = sorted(budget.engine.store.reservations(budget.settings.account), key=lambda each: each.made)
    assert (first.parent, more.parent) == (None, guard.id)
    if end == "left":
        guard.__exit__(None, None, None)
    elif end == "refunded":
        guard.refund()
    elif end == "reconciled":
        guard.reconcile(usd="0.31")
    del guard
    gc.collect()
    spent = {"dropped": "0.5", "left": "0.5", "refunded": "0", "reconciled": "0.31"}
    assert budget.status()[0].spent == Decimal(spent[end])  # asks behind what was handed over
    assert not open_reservations(budget)
    assert sum(entry.usd for entry in ends(budget)) == Decimal(spent[end])
    assert sum(entry.usd > 0 for entry in ends(budget)) == {"dropped": 2, "refunded": 0}.get(end, 1)


def test_an_error_in_a_grown_stream_charges_all_that_was_reserved(
    make_budget: Callable[..., Budget], plain: Make
) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    asked = steer("output=600,error_event=300", request=MESSAGES)
    stream = budget.wrap(plain()).messages.create(**asked, stream=True)
    reserved: list[Any] = []
    with pytest.raises(anthropic.APIError):
        reserved.extend(budget.status()[0].reserved for _ in stream)
    assert reserved[-1] > 2 * STEP * OUT
    assert _check(budget).usd == reserved[-1]


def test_a_cancelled_extension_is_given_back(
    make_budget: Callable[..., Budget], plain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    call = budget.engine.store.acall

    async def main(client: Any) -> None:
        asked = asyncio.Event()

        async def slow(account: str, command: Any, timeout: float) -> Any:
            if isinstance(command, Reserve) and command.parent is not None:
                asked.set()
                await asyncio.sleep(60)
            return await call(account, command, timeout)

        monkeypatch.setattr(budget.engine.store, "acall", slow)
        stream = await client.messages.create(**steer(LONG, request=MESSAGES), stream=True)

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not open_reservations(budget)  # while the stream is still there
        await stream.close()

    run_async(budget.wrap(plain(anthropic.AsyncAnthropic)), main)
    assert [entry.kind for entry in ends(budget) if entry.usd] == ["reconciled"]
    assert budget.status()[0].reserved == 0


def test_a_stream_closed_while_it_asks_for_more(
    make_budget: Callable[..., Budget], plain: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end comes before the reserve of its extension, which then is not admitted."""
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    stream = budget.wrap(plain()).messages.create(**steer(LONG, request=MESSAGES), stream=True)
    call = budget.engine.store.call

    def closing(account: str, command: Any, timeout: float) -> Any:
        if isinstance(command, Reserve) and command.parent is not None:
            other = Thread(target=stream.close)
            other.start()
            other.join()
        return call(account, command, timeout)

    monkeypatch.setattr(budget.engine.store, "call", closing)
    with contextlib.suppress(httpx2.HTTPError, RuntimeError):  # what reading a closed response raises
        list(stream)
    assert not open_reservations(budget)
    assert budget.status()[0].reserved == 0
    assert [entry.kind for entry in ends(budget) if entry.usd] == ["reconciled"]


@pytest.mark.parametrize("back", [True, False])
def test_while_the_store_is_away_what_is_reserved_may_be_used(
    make_budget: Callable[..., Budget], plain: Make, monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    budget = make_budget("memory://", limits=["$10/day"], reserve_at="p95")
    client, call = budget.wrap(plain()), budget.engine.store.call
    failed: list[Reserve] = []
    gone = StoreUnavailable("away")

    def away(account: str, command: Any, timeout: float) -> Any:
        if isinstance(command, Reserve) and command.parent is not None and not (failed and back):
            failed.append(command)
            raise gone  # to all who wait, as the embedded store does
        return call(account, command, timeout)

    monkeypatch.setattr(budget.engine.store, "call", away)
    with client.messages.stream(**steer(LONG, request=MESSAGES)) as stream:
        text, error = _read(stream.text_stream)
    if back:
        assert (words(text), error) == (400, None)
    else:
        assert (type(error), str(error), error.partial) == (StoreUnavailable, "away", text)
        assert gone.partial is None  # it is nobody else's
        assert pickle.loads(pickle.dumps(error)).partial == text
        assert STEP // 4 < words(text) <= STEP
    assert len(failed) == 1 if back else len(failed) > 1
    usd = _check(budget).usd
    assert words(text) * OUT <= usd
    assert back or usd <= 60 * IN + STEP * OUT


_ENDING = """
import sys, anthropic
from budget import Budget
budget = Budget(sys.argv[1], limits=["$10/day"], reserve_at="p95")
client = budget.wrap(anthropic.Anthropic(base_url=sys.argv[2], api_key="key"))
request = {"model": "claude-sonnet-4-6", "max_tokens": 5000, "messages": [{"role": "user", "content": "hello there"}]}
stream = client.messages.create(**request, stream=True, extra_headers={"x-demo": "output=600,pace=0.0002"})
text = ""
while len(text.split()) < 250:
    text += getattr(getattr(next(stream), "delta", None), "text", "") or ""
sys.exit(3)
"""


def test_the_end_of_the_interpreter_ends_a_grown_stream(
    make_budget: Callable[..., Budget], provider: Provider, tmp_path: Any
) -> None:
    from conftest import python

    url = f"sqlite:///{tmp_path / 'budget.db'}"
    assert python(_ENDING, url, provider.url, check=False).returncode == 3
    budget = make_budget(url)
    end = _check(budget)
    assert 250 * OUT <= end.usd < 4 * 250 * OUT
    assert end.detail["outcome"] == "cut short"


# On every store; and bytes as they come.


def test_a_grown_stream_on_every_store(budget_factory: Callable[..., Budget], plain: Make) -> None:
    budget = budget_factory(limits=["$0.0015/day", "4 concurrent", "3000 tokens/hour"])
    text, error = _read(_chat(budget.wrap(plain(openai.OpenAI))))
    assert type(error) is BudgetExceeded
    assert error.partial == text
    assert words(text) * CHAT_OUT <= _check(budget).usd <= Decimal("0.0015")
    parents = {entry.detail.get("extends") for entry in _entries(budget) if entry.kind == "reserved"}
    assert len(parents) == 2  # none, and the first


def _compressed() -> Iterator[bytes]:
    squeeze = gzip.zlib.compressobj(wbits=31)  # type: ignore[attr-defined]
    for n in range(600):
        delta = {"index": 0, "delta": {"content": f"w{n} "}, "finish_reason": None}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": CHAT_MODEL, "choices": [delta]}
        yield squeeze.compress(f"data: {json.dumps(chunk)}\n\n".encode()) + squeeze.flush(gzip.zlib.Z_SYNC_FLUSH)  # type: ignore[attr-defined]


def test_compressed_bytes_are_looked_into(make_budget: Callable[..., Budget], plain: Make) -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": "gzip"}
    answer = OPENAI_HTTP.MockTransport(lambda _: OPENAI_HTTP.Response(200, headers=headers, content=_compressed()))
    budget = make_budget("memory://", limits=["$0.001/day"])
    client = budget.wrap(plain(openai.OpenAI, http_client=openai.DefaultHttpxClient(transport=answer)))
    got = []
    with (
        pytest.raises(BudgetExceeded) as caught,
        client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response,
    ):
        got.extend(response.iter_lines())
    assert words(caught.value.partial or "") == len([line for line in got if line]) > AHEAD // 2
    _check(budget)
