"""Whole lives of background responses: reserved, kept open, and ended by whatever brings their usage."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import openai
import pytest
from conftest import books

from budget import Budget, BudgetExceeded
from budget.demo.provider import Provider
from budget.ledger import Entry

from .conftest import CHAT_IN, CHAT_MODEL, CHAT_OUT, RESPONSE, is_sync, open_reservations, run_async, steer

Make = Callable[..., Any]
KINDS = (openai.OpenAI, openai.AsyncOpenAI)
BACKGROUND: dict[str, Any] = {**RESPONSE, "background": True}


def cost(usage: dict[str, Any]) -> Decimal:
    return usage["input_tokens"] * CHAT_IN + usage["output_tokens"] * CHAT_OUT


def state(budget: Budget) -> tuple[Decimal, Decimal]:
    pool = budget.status()[0]
    return pool.spent, pool.reserved


def final(budget: Budget) -> Entry:
    """The one end with money, or none, of the response there was; nothing is open."""
    assert open_reservations(budget) == []
    found = [entry for entry in budget.entries() if entry.kind in ("reconciled", "refunded", "expired")]
    (end,) = [entry for entry in found if "link" not in entry.detail]
    assert books(budget.engine.store).faults == []
    return end


def billed(provider: Provider, name: str) -> Decimal:
    (usage,) = provider.later.billed(name)
    return cost(usage)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_background_response(budget: Budget, plain: Make, provider: Provider, kind: Any, raw: bool) -> None:
    provider.later.polls = 1
    client = budget.wrap(plain(kind))

    def checks(made: Any) -> Any:
        """What is done, step by step: an answer goes in, the next call comes out."""
        assert made.status == "queued"
        reserved = state(budget)
        assert reserved[0] == 0 < reserved[1]
        first = yield client.responses.retrieve(made.id)
        assert first.status == "in_progress"
        assert state(budget) == reserved
        get = client.responses.with_raw_response if raw else client.responses
        yield get.retrieve(made.id)
        assert state(budget) == (billed(provider, made.id), 0)
        again = yield client.responses.retrieve(made.id)
        assert again.status == "completed"
        assert state(budget) == (billed(provider, made.id), 0)

    if is_sync(kind):
        steps = checks(client.responses.create(**BACKGROUND))
        answer = next(steps)
        for _ in range(2):
            answer = steps.send(answer)
        with pytest.raises(StopIteration):
            steps.send(answer)
    else:

        async def main(client: Any) -> None:
            steps = checks(await client.responses.create(**BACKGROUND))
            answer = await next(steps)
            for _ in range(2):
                answer = await steps.send(answer)
            with pytest.raises(StopIteration):
                steps.send(answer)

        run_async(client, main)
    end = final(budget)
    assert (end.kind, end.detail["job"]["kind"], end.amounts[4]) == ("reconciled", "response", 1)


def test_whoever_asks_for_it_keeps_it_open(budget: Budget, oclient: Any, provider: Provider) -> None:
    provider.later.polls = 1
    made = oclient.responses.create(**BACKGROUND)
    before = {each.id: each.lease_end for each in budget.engine.store.reservations("default")}
    oclient.responses.retrieve(made.id)
    after = {each.id: each.lease_end for each in budget.engine.store.reservations("default")}
    assert len(before) == 2
    assert all(after[id] > before[id] for id in before)


def test_its_answer_is_read_from_a_streaming_response(budget: Budget, oclient: Any, provider: Provider) -> None:
    with oclient.responses.with_streaming_response.create(**BACKGROUND) as response:
        name = json.loads(response.read())["id"]
    assert state(budget)[1] > 0
    with oclient.responses.with_streaming_response.retrieve(name) as response:
        response.read()
    assert final(budget).usd == billed(provider, name)


def test_one_that_is_cancelled_is_charged_as_reserved(budget: Budget, oclient: Any, provider: Provider) -> None:
    provider.later.polls = 3
    made = oclient.responses.create(**BACKGROUND)
    reserved = state(budget)[1]
    assert oclient.responses.cancel(made.id).status == "cancelled"
    end = final(budget)
    assert (end.usd, end.detail["estimated"], end.detail["outcome"]) == (reserved, True, "cancelled")


def test_one_that_failed_is_charged_as_reserved(budget: Budget, oclient: Any) -> None:
    made = oclient.responses.create(**steer("failed=1", request=BACKGROUND))
    reserved = state(budget)[1]
    assert oclient.responses.retrieve(made.id).status == "failed"
    assert final(budget).usd == reserved


def test_one_that_is_refused_sends_nothing(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://", limits=["$0.0001/day"])
    with pytest.raises(BudgetExceeded):
        budget.wrap(plain(openai.OpenAI)).responses.create(**BACKGROUND)
    assert provider.requests == []


@pytest.mark.parametrize(("demo", "kind"), [("status=400", "refunded"), ("cut=0", "reconciled")])
def test_a_submission_that_failed(budget: Budget, oclient: Any, demo: str, kind: str) -> None:
    with pytest.raises(openai.APIError):
        oclient.responses.create(**steer(demo, request=BACKGROUND))
    assert final(budget).kind == kind


def test_it_takes_no_slot(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["1 concurrent", "$1/day"])
    client = budget.wrap(plain(openai.OpenAI))
    made = [client.responses.create(**BACKGROUND) for _ in range(2)]
    client.responses.create(**RESPONSE)
    for each in made:
        client.responses.retrieve(each.id)
    assert open_reservations(budget) == []


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_read_to_its_end_ends_it(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    client = budget.wrap(plain(kind))
    if is_sync(kind):
        names = [event.response.id for event in client.responses.create(**BACKGROUND, stream=True) if _tells(event)]
    else:

        async def main(client: Any) -> list[str]:
            stream = await client.responses.create(**BACKGROUND, stream=True)
            return [event.response.id async for event in stream if _tells(event)]

        names = run_async(client, main)
    assert final(budget).usd == billed(provider, names[0])


def _tells(event: Any) -> bool:
    return hasattr(event, "response")


@pytest.mark.parametrize("way", ["closed", "dropped", "broken"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_left_leaves_it_open(
    budget: Budget, plain: Make, provider: Provider, kind: Any, way: str
) -> None:
    client = budget.wrap(plain(kind))
    request = {**BACKGROUND, "stream": True} | ({"extra_headers": {"x-demo": "cut=6"}} if way == "broken" else {})
    names: list[str] = []
    if is_sync(kind):
        stream = client.responses.create(**request)
        names.append(next(stream).response.id)
        if way == "closed":
            stream.close()
        elif way == "broken":
            with pytest.raises(Exception, match=r"peer closed|incomplete|Connection"):
                list(stream)
        del stream
        gc.collect()
    else:

        async def main(client: Any) -> None:
            stream = await client.responses.create(**request)
            names.append((await anext(stream)).response.id)
            if way == "closed":
                await stream.close()
            elif way == "broken":
                with pytest.raises(Exception, match=r"peer closed|incomplete|Connection"):
                    [event async for event in stream]
            del stream
            gc.collect()

        run_async(client, main)
    spent, reserved = state(budget)
    assert (spent, reserved > 0) == (0, True)
    collector = budget.wrap(plain(openai.OpenAI))
    collector.responses.retrieve(names[0])
    assert final(budget).usd == billed(provider, names[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_is_taken_up_again_ends_it(budget: Budget, plain: Make, provider: Provider, kind: Any) -> None:
    client = budget.wrap(plain(kind))
    if is_sync(kind):
        made = client.responses.create(**BACKGROUND)
        events = list(client.responses.retrieve(made.id, stream=True, starting_after=3))
    else:

        async def main(client: Any) -> tuple[Any, list[Any]]:
            made = await client.responses.create(**BACKGROUND)
            return made, [event async for event in await client.responses.retrieve(made.id, stream=True)]

        made, events = run_async(client, main)
    assert events[-1].type == "response.completed"
    assert final(budget).usd == billed(provider, made.id)


# --- processes --------------------------------------------------------------------------------------------------------

COLLECT = """
import sys
import openai
from budget import Budget
with Budget(sys.argv[1], limits=["$100/day"]) as budget:
    client = budget.wrap(openai.OpenAI(base_url=sys.argv[2] + "/v1", api_key="key", max_retries=0))
    print(client.responses.retrieve(sys.argv[3]).status)
"""


def test_another_process_collects(sqlite_url: str, make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget(sqlite_url, limits=["$100/day"])
    made = budget.wrap(plain(openai.OpenAI)).responses.create(**BACKGROUND)
    assert state(budget)[1] > 0
    command = [sys.executable, "-c", COLLECT, sqlite_url, provider.url, made.id]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "completed\n"
    assert state(budget) == (billed(provider, made.id), 0)
    assert final(budget).scope == {"model": CHAT_MODEL, "provider": "openai"}


def test_a_response_that_is_no_background_one_may_be_retrieved(budget: Budget, oclient: Any, plain: Make) -> None:
    made = plain(openai.OpenAI).responses.create(**BACKGROUND)
    oclient.responses.retrieve(made.id)
    assert state(budget) == (0, 0)
    assert list(budget.entries(kind="reconciled")) == []
