"""Whole lives of batches, over the real SDKs and real HTTP: submitted, collected in whatever process, booked once."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from conftest import books

from budget import Budget, BudgetExceeded, CapExceeded, ConfigError, Unbounded, UnknownModel
from budget.clients.late import along, calls, links, results
from budget.commands import Reserve
from budget.demo.provider import Provider
from budget.ledger import Entry

from .conftest import CHAT_IN, CHAT_MODEL, CHAT_OUT, IN, MODEL, OUT, REQUEST, is_sync, open_reservations, run_async

Make = Callable[..., Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic)
OPENAI_KINDS = (openai.OpenAI, openai.AsyncOpenAI)
PARAMS: dict[str, Any] = {**REQUEST, "max_tokens": 100}
DAY = "24h"
HOUR = 3_600_000_000


def requests(*names: str, **more: Any) -> list[Any]:
    """The requests of a batch, by their ids, which say what becomes of them."""
    return [{"custom_id": name, "params": {**PARAMS, **more}} for name in names]


def lines(*names: str, url: str = "/v1/chat/completions", **body: Any) -> bytes:
    """A batch file."""
    usual = {"model": CHAT_MODEL, "max_tokens": 100, "messages": PARAMS["messages"]}
    asked = {"method": "POST", "url": url, "body": body or usual}
    return b"\n".join(json.dumps({"custom_id": name, **asked}).encode() for name in names)


def at_half(usages: list[dict[str, Any]], rates: tuple[Decimal, Decimal] = (IN, OUT)) -> Decimal:
    """What the provider bills for usages of a batch."""
    total = Decimal(0)
    for usage in usages:
        total += (usage.get("input_tokens") or usage["prompt_tokens"]) * rates[0] / 2
        total += (usage.get("output_tokens") or usage["completion_tokens"]) * rates[1] / 2
    return total


def state(budget: Budget) -> tuple[Decimal, Decimal]:
    """What is spent and what is reserved of the first limit."""
    pool = budget.status()[0]
    return pool.spent, pool.reserved


def final(budget: Budget) -> Entry:
    """The one end with money, or none, of the batch there was; all is in order, and nothing is open."""
    assert open_reservations(budget) == []
    found = [entry for entry in budget.entries() if entry.kind in ("reconciled", "refunded", "expired")]
    (end,) = [entry for entry in found if "link" not in entry.detail]
    assert all(entry.amounts == (0, 0, 0, 0, 0) for entry in found if entry is not end)
    assert books(budget.engine.store).faults == []
    return end


def each(client: Any, main: Callable[[Any], Any]) -> Any:
    """Run `main(client)`, a coroutine function, with a client of either kind, whose answers need no `await` then."""
    return asyncio.run(main(_Awaitable(client))) if is_sync(type(client)) else run_async(client, main)


class _Awaitable:
    """A sync client that is used like an async one."""

    def __init__(self, thing: Any):
        self._thing = thing

    def __getattr__(self, name: str) -> Any:
        return _Awaitable(getattr(self._thing, name))

    async def __call__(self, *args: Any, **named: Any) -> Any:
        return self._thing(*args, **named)


async def all_of(results: Any) -> list[Any]:
    """Read results of either kind."""
    return [each async for each in results] if hasattr(results, "__aiter__") else list(results)


# --- Anthropic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_message_batch(budget: Budget, plain: Make, provider: Provider, kind: Any, beta: bool) -> None:
    provider.later.polls = 1

    async def main(client: Any) -> None:
        batches = client.beta.messages.batches if beta else client.messages.batches
        made = await batches.create(requests=requests("a", "b", "errored", "expired"))
        assert made.processing_status == "in_progress"
        spent, reserved = state(budget)
        assert spent == 0
        bound = 4 * (100 * OUT / 2)
        assert bound < reserved < bound * 2
        assert (await batches.retrieve(made.id)).processing_status == "in_progress"
        assert (await batches.retrieve(made.id)).processing_status == "ended"
        assert state(budget) == (0, reserved)
        for _ in range(2):  # whoever reads them twice pays once
            found = await all_of(await batches.results(made.id))
            assert [one.custom_id for one in found] == ["a", "b", "errored", "expired"]
            assert found[0].result.message.usage.output_tokens == 40
            assert state(budget) == (at_half(provider.later.billed(made.id)), 0)

    each(budget.wrap(plain(kind)), main)
    end = final(budget)
    assert end.kind == "reconciled"
    assert end.amounts[4] == 2
    assert end.detail["batch"] == {"requests": 4, "succeeded": 2}
    assert end.detail["job"]["kind"] == "batch"
    assert end.usage is not None
    assert end.usage.traits == {"service_tier": "batch"}
    assert "estimated" not in end.detail
    assert [row.calls for row in budget.report("model")] == [1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["raw", "streaming lines", "streaming parse"])
def test_results_may_be_read_raw(budget: Budget, plain: Make, provider: Provider, kind: Any, way: str) -> None:
    client = budget.wrap(plain(kind))
    sync = is_sync(kind)

    async def main(client: Any) -> None:
        made = await client.messages.batches.with_raw_response.create(requests=requests("a", "b", "canceled"))
        name = json.loads(made.http_response.content)["id"]
        await client.messages.batches.with_raw_response.retrieve(name)
        assert state(budget)[1] > 0
        if way == "raw":
            raw = await client.messages.batches.with_raw_response.results(name)
            parsed = raw.parse() if sync or not asyncio.iscoroutinefunction(raw.parse) else await raw.parse()
            assert len(await all_of(parsed)) == 3
            return
        streaming = client.messages.batches.with_streaming_response
        opened = streaming._thing.results(name) if sync else streaming.results(name)
        if sync:
            with opened as response:
                read = response.iter_lines() if way == "streaming lines" else response.parse()
                assert len(list(read)) == 3
        else:
            async with opened as response:
                read = response.iter_lines() if way == "streaming lines" else await response.parse()
                assert len([line async for line in read]) == 3

    each(client, main)
    (name,) = [entry.detail["job"]["id"] for entry in budget.entries() if "job" in entry.detail]
    assert final(budget).usd == at_half(provider.later.billed(name))


def test_a_submission_that_is_read_raw(budget: Budget, client: Any, provider: Provider) -> None:
    with client.messages.batches.with_streaming_response.create(requests=requests("a")) as response:
        name = json.loads(response.read())["id"]
    assert state(budget)[1] > 0
    list(client.messages.batches.results(name))
    assert final(budget).usd == at_half(provider.later.billed(name))


def test_nothing_is_billed_for_a_batch_of_failures(budget: Budget, client: Any) -> None:
    made = client.messages.batches.create(requests=requests("errored", "expired"))
    assert state(budget)[1] > 0
    client.messages.batches.retrieve(made.id)
    assert state(budget) == (0, 0)
    assert final(budget).kind == "refunded"


@pytest.mark.parametrize("names", [("a", "done"), ("a", "b")])
def test_a_cancelled_batch(budget: Budget, client: Any, provider: Provider, names: tuple[str, ...]) -> None:
    provider.later.polls = 3
    made = client.messages.batches.create(requests=requests(*names))
    client.messages.batches.cancel(made.id)
    list(client.messages.batches.results(made.id))
    billed = provider.later.billed(made.id)
    assert len(billed) == names.count("done")
    end = final(budget)
    assert (end.kind, end.usd) == ("reconciled" if billed else "refunded", at_half(billed))


def test_results_that_were_not_read_to_their_end_leave_it_open(budget: Budget, client: Any, provider: Provider) -> None:
    made = client.messages.batches.create(requests=requests("a", "b", "c"))
    reserved = state(budget)
    next(iter(client.messages.batches.results(made.id)))
    assert state(budget) == reserved
    with pytest.raises(Exception, match=r"peer closed|incomplete"):
        list(client.messages.batches.results(made.id, extra_headers={"x-demo": "cut=2"}))
    assert state(budget) == reserved
    list(client.messages.batches.results(made.id))
    assert final(budget).usd == at_half(provider.later.billed(made.id))


def test_results_that_lack_a_line_leave_it_open(budget: Budget, client: Any, provider: Provider) -> None:
    made = client.messages.batches.create(requests=requests("a", "b"))
    lost = provider.later._jobs[made.id].results.pop()
    assert len(list(client.messages.batches.results(made.id))) == 1
    assert state(budget)[0] == 0
    provider.later._jobs[made.id].results.append(lost)
    list(client.messages.batches.results(made.id))
    assert final(budget).usd == at_half(provider.later.billed(made.id))


@pytest.mark.parametrize("raw", [False, True])
def test_what_goes_wrong_here_is_no_fault_in_the_results(
    budget: Budget, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, raw: bool
) -> None:
    def message(*args: Any) -> None:
        raise RuntimeError("a fault")

    made = client.messages.batches.create(requests=requests("a", "b"))
    with monkeypatch.context() as patch:
        patch.setattr(results.Results, "message", message)
        if raw:
            with client.messages.batches.with_streaming_response.results(made.id) as response:
                assert len(list(response.iter_lines())) == 2
        else:
            assert len(list(client.messages.batches.results(made.id))) == 2
    assert state(budget)[1] > 0
    assert "not booked now (a fault)" in caplog.text
    list(client.messages.batches.results(made.id))
    assert final(budget).kind == "reconciled"


def test_lines_are_made_of_bytes_however_they_are_cut() -> None:
    taken: list[Any] = []
    taker = along.Lines(taken.append)
    for part in (b'{"a": 1}\nnot json\n\n{"b"', b": 2}\n{", b'"c": 3}'):
        taker.feed(part)
    taker.close()
    assert taken == [{"a": 1}, None, {"b": 2}, {"c": 3}]


def test_results_without_a_usage_are_charged_as_reserved(budget: Budget, client: Any) -> None:
    made = client.messages.batches.create(requests=requests("a"), extra_headers={"x-demo": "usage=none"})
    reserved = state(budget)[1]
    list(client.messages.batches.results(made.id))
    end = final(budget)
    assert (end.usd, end.detail["estimated"]) == (reserved, True)


def test_cached_input_and_long_requests_have_their_batch_price(budget: Budget, client: Any) -> None:
    demo = {"x-demo": "input=1000,cache_read=500,cache_write_1h=300,output=100"}
    made = client.messages.batches.create(requests=requests("a", "b"), extra_headers=demo)
    list(client.messages.batches.results(made.id))
    once = (1000 * IN + 500 * IN / 10 + 300 * IN * 2 + 100 * OUT) / 2
    assert final(budget).usd == 2 * once


def test_what_nobody_collects_is_charged_and_a_late_collection_corrects_it(
    budget: Budget, client: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(links.LEASES, "batch", 700_000)  # microseconds
    monkeypatch.setattr(calls, "_LEASE_US", 700_000)
    made = client.messages.batches.create(requests=requests("a"))
    reserved = state(budget)[1]
    assert reserved > at_half(provider.later.billed(made.id))
    while open_reservations(budget):
        time.sleep(0.05)
        budget.status()
    assert state(budget) == (reserved, 0)
    assert [row.calls for row in budget.report("model")] == [1]
    list(client.messages.batches.results(made.id))
    assert state(budget) == (at_half(provider.later.billed(made.id)), 0)
    assert open_reservations(budget) == []
    assert [row.calls for row in budget.report("model")] == [1]


# --- what is reserved, and what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (["$0.0018/day"], BudgetExceeded),  # two of the three would fit
        (["2 requests/day"], BudgetExceeded),
        (["$0.0001/request"], CapExceeded),
    ],
)
def test_a_refused_batch_sends_nothing(
    make_budget: Make, plain: Make, provider: Provider, kind: Any, limits: list[str], error: type
) -> None:
    budget = make_budget("memory://", limits=limits)
    with pytest.raises(error):
        each(budget.wrap(plain(kind)), lambda client: client.messages.batches.create(requests=requests("a", "b", "c")))
    assert provider.requests == []
    assert open_reservations(budget) == []


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (requests("a", model="no-such-model"), UnknownModel, "no-such-model"),
        (requests("a") + requests("b", model="claude-haiku-4-5"), Unbounded, "one batch for each"),
        (requests("a", tools=[{"type": "something_new", "name": "x"}]), Unbounded, r"requests\[0\]"),
        ([], ConfigError, "has none"),
        ([{"custom_id": "a"}], ConfigError, r"requests\[0\].params"),
        ([{"custom_id": "a", "params": {"model": MODEL, "max_tokens": 9}}], ConfigError, "messages"),
    ],
)
def test_a_batch_without_a_bound_is_refused(
    client: Any, provider: Provider, asked: list[Any], error: type, words: str
) -> None:
    with pytest.raises(error, match=words):
        client.messages.batches.create(requests=asked)
    assert provider.requests == []


def test_a_model_without_a_batch_price_is_refused(make_budget: Make, plain: Make, provider: Provider) -> None:
    own = {"own-model": {"input": "3", "output": "15"}}
    budget = make_budget("memory://", limits=["$1/day"], prices=own)
    with pytest.raises(Unbounded, match="no batch price"):
        budget.wrap(plain()).messages.batches.create(requests=requests("a", model="own-model"))
    assert provider.requests == []


def test_a_cap_is_held_to_one_request_and_a_slot_is_not_taken(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["$1/day", "$0.002/request", "1 concurrent"])
    client = budget.wrap(plain())
    made = client.messages.batches.create(requests=requests(*"abcdef"))
    assert state(budget)[1] > Decimal("0.002")
    client.messages.create(**REQUEST)  # it finds the one slot free
    list(client.messages.batches.results(made.id))
    assert open_reservations(budget) == []


def test_a_limit_of_a_model_and_the_scope_of_a_call_hold(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://", limits=[f"model={MODEL} $1/day", "user=alice $0.0001/day"])
    client = budget.wrap(plain())
    client.messages.batches.create(requests=requests("a"))
    assert state(budget)[1] > 0
    with pytest.raises(BudgetExceeded, match="alice"):
        client.messages.batches.create(requests=requests("a"), extra_body={"budget_scope": {"user": "alice"}})
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("on_short", "error"), [("clamp", BudgetExceeded), ("wait:0.05s", BudgetExceeded), ("x", ConfigError)]
)
def test_a_batch_is_not_made_to_fit(
    make_budget: Make, plain: Make, provider: Provider, on_short: str, error: type
) -> None:
    client = make_budget("memory://", limits=["$0.0001/day"]).wrap(plain())
    with pytest.raises(error):
        client.messages.batches.create(requests=requests("a"), extra_body={"budget_on_short": on_short})
    assert provider.requests == []


@pytest.mark.parametrize(("demo", "spent"), [("status=400", False), ("cut=0", True), ("status=504", True)])
def test_a_submission_that_failed(budget: Budget, client: Any, demo: str, spent: bool) -> None:
    with pytest.raises(anthropic.APIError):
        client.messages.batches.create(requests=requests("a", "b"), extra_headers={"x-demo": demo})
    end = final(budget)
    assert end.kind == ("reconciled" if spent else "refunded")
    assert end.detail.get("estimated", False) is spent
    assert (state(budget)[0] > 0) is spent


def test_what_cannot_be_kept_open_is_charged(budget: Budget, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold(*args: Any) -> Any:
        return False
        yield

    monkeypatch.setattr(calls, "hold", hold)
    client.messages.batches.create(requests=requests("a"))
    end = final(budget)
    assert (end.usd > 0, end.detail["outcome"], end.detail["estimated"]) == (True, "not kept open", True)


def test_a_submission_that_is_interrupted_while_it_reserves(
    budget: Budget, client: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = budget.engine.store
    carry_out = store.call

    def call(account: str, command: Any, *more: Any) -> Any:
        done = carry_out(account, command, *more)
        if isinstance(command, Reserve):
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(store, "call", call)
    with pytest.raises(KeyboardInterrupt):
        client.messages.batches.create(requests=requests("a"))
    assert open_reservations(budget) == []
    assert state(budget) == (0, 0)
    assert provider.requests == []


def test_a_batch_in_two_accounts(make_budget: Make, plain: Make, provider: Provider, sqlite_url: str) -> None:
    budget = make_budget(sqlite_url, account="team", above="company", limits=["$1/day"])
    company = make_budget(sqlite_url, account="company", limits=["$1/day"])
    client = budget.wrap(plain())
    made = client.messages.batches.create(requests=requests("a"))
    (there,) = company.engine.store.reservations("company")
    assert there.lease_end - there.made > 47 * HOUR
    list(client.messages.batches.results(made.id))
    assert state(budget) == (at_half(provider.later.billed(made.id)), 0)
    assert sum(entry.usd for entry in company.entries()) == state(budget)[0]
    assert company.engine.store.reservations("company") == []


def test_a_batch_is_never_taken_from_a_slice(
    make_budget: Make, plain: Make, provider: Provider, sqlite_url: str
) -> None:
    budget = make_budget(sqlite_url, limits=["$100/day"], slices="$1")
    client = budget.wrap(plain())
    for _ in range(3):
        client.messages.create(**REQUEST)
    made = client.messages.batches.create(requests=requests("a"))
    elsewhere = make_budget(sqlite_url, limits=["$100/day"]).wrap(plain())
    list(elsewhere.messages.batches.results(made.id))
    (end,) = [entry for entry in budget.entries() if "job" in entry.detail]
    assert end.usd == at_half(provider.later.billed(made.id))


# --- processes --------------------------------------------------------------------------------------------------------

SUBMIT = """
import os, signal, sys
import anthropic
from budget import Budget
budget = Budget(sys.argv[1], limits=["$100/day"])
client = budget.wrap(anthropic.Anthropic(base_url=sys.argv[2], api_key="key", max_retries=0))
request = {"model": sys.argv[3], "max_tokens": 100, "messages": [{"role": "user", "content": "hello"}]}
made = client.messages.batches.create(requests=[{"custom_id": str(i), "params": request} for i in range(3)])
print(made.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_is_killed_and_another_collects(
    shared_url: str, make_budget: Make, plain: Make, provider: Provider
) -> None:
    command = [sys.executable, "-c", SUBMIT, shared_url, provider.url, MODEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    name = done.stdout.strip()
    budget = make_budget(shared_url, limits=["$100/day"])
    assert state(budget)[1] > 0
    client = budget.wrap(plain())
    (reservation,) = [each for each in budget.engine.store.reservations("default") if each.parent is None]
    assert reservation.lease_end - reservation.made > 47 * HOUR
    assert client.messages.batches.retrieve(name).processing_status == "ended"
    for later in budget.engine.store.reservations("default"):  # whoever asks keeps it open, and the link to it
        assert later.lease_end > reservation.lease_end
    list(client.messages.batches.results(name))
    assert state(budget) == (at_half(provider.later.billed(name)), 0)
    assert final(budget).usd == state(budget)[0]


def test_processes_that_collect_at_once_book_once(
    shared_url: str, make_budget: Make, plain: Make, provider: Provider
) -> None:
    budgets = [make_budget(shared_url, limits=["$100/day"]) for _ in range(2)]
    one, two = (budget.wrap(plain()) for budget in budgets)
    name = one.messages.batches.create(requests=requests("a", "b")).id
    readers = [iter(client.messages.batches.results(name)) for client in (one, two)]
    assert [len(list(reader)) for reader in readers] == [2, 2]
    assert state(budgets[0]) == (at_half(provider.later.billed(name)), 0)
    assert final(budgets[1]).usd == state(budgets[1])[0]


def test_a_batch_that_was_submitted_elsewhere_costs_nothing_here(budget: Budget, client: Any, plain: Make) -> None:
    name = plain().messages.batches.create(requests=requests("a")).id
    client.messages.batches.retrieve(name)
    assert len(list(client.messages.batches.results(name))) == 1
    assert state(budget) == (0, 0)


# --- OpenAI -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_sum", [True, False])
@pytest.mark.parametrize("kind", OPENAI_KINDS)
def test_a_batch_of_a_file(budget: Budget, plain: Make, provider: Provider, kind: Any, in_sum: bool) -> None:
    provider.later.polls, provider.later.in_sum = 1, in_sum
    rates = CHAT_IN, CHAT_OUT

    async def main(client: Any) -> None:
        file = await client.files.create(file=("b.jsonl", lines("a", "b", "errored")), purpose="batch")
        asked = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": DAY}
        made = await client.batches.create(**asked)
        reserved = state(budget)[1]
        assert 3 * 50 * CHAT_OUT < reserved < 3 * 100 * CHAT_OUT
        assert (await client.batches.retrieve(made.id)).status == "in_progress"
        assert state(budget) == (0, reserved)
        made = await client.batches.retrieve(made.id)
        assert made.status == "completed"
        bill = at_half(provider.later.billed(made.id), rates)
        assert state(budget) == ((bill, 0) if in_sum else (0, reserved))
        assert len((await client.files.content(made.error_file_id)).text.splitlines()) == 1
        for _ in range(2):
            assert len((await client.files.content(made.output_file_id)).text.splitlines()) == 2
            assert state(budget) == (bill, 0)
        await client.batches.retrieve(made.id)
        assert state(budget) == (bill, 0)

    each(budget.wrap(plain(kind)), main)
    end = final(budget)
    assert end.detail["batch"] == {"requests": 3, "succeeded": 2}
    assert end.amounts[4] == 2


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("/v1/responses", {"model": CHAT_MODEL, "max_output_tokens": 50, "input": "hello"}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hello there"}),
    ],
)
def test_batches_of_other_endpoints(budget: Budget, oclient: Any, provider: Provider, url: str, body: Any) -> None:
    provider.later.in_sum = False
    file = oclient.files.create(file=("b.jsonl", lines("a", "b", url=url, **body)), purpose="batch")
    made = oclient.batches.create(input_file_id=file.id, endpoint=url, completion_window=DAY)
    made = oclient.batches.retrieve(made.id)
    oclient.files.content(made.output_file_id)
    end = final(budget)
    assert end.usage is not None
    usages = provider.later.billed(made.id)
    assert end.usage.tokens == sum(usage["total_tokens"] for usage in usages)
    assert end.usd > 0
    assert url == "/v1/embeddings" or end.usd == at_half(usages, (CHAT_IN, CHAT_OUT))


@pytest.mark.parametrize("way", ["bytes", "text", "path", "opened", "buffer"])
def test_a_file_is_seen_however_it_is_given(
    budget: Budget, oclient: Any, provider: Provider, way: str, tmp_path: Path
) -> None:
    path = tmp_path / "batch.jsonl"
    path.write_bytes(lines("a", "b"))
    with path.open("rb") as opened:
        ways = {"bytes": ("b.jsonl", path.read_bytes()), "text": ("b.jsonl", path.read_text()), "path": path}
        given = {**ways, "opened": opened, "buffer": io.BytesIO(path.read_bytes())}[way]
        if way in ("opened", "buffer"):
            given.readline()  # what is sent begins before this
        file = oclient.files.create(file=given, purpose="batch")
    assert file.bytes == path.stat().st_size
    oclient.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=DAY)
    assert [entry.detail["batch"]["requests"] for entry in budget.entries() if "batch" in entry.detail] == [2]


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (lines("a", url="/v1/images/generations"), Unbounded, "images/generations is not metered"),
        (lines("a", model="no-such-model", messages=[]), UnknownModel, "no-such-model"),
        (b"{}\n", ConfigError, "line 1"),
        (b"hello", ConfigError, "line 1"),
        (b"", ConfigError, "has none"),
    ],
)
def test_an_upload_is_free_and_a_batch_of_it_is_refused(
    oclient: Any, provider: Provider, content: bytes, error: type, words: str
) -> None:
    file = oclient.files.create(file=("b.jsonl", content), purpose="batch")
    for _ in range(2):
        with pytest.raises(error, match=words):
            oclient.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=DAY)
    assert len(provider.requests) == 1


def test_a_file_that_was_not_seen_is_refused(oclient: Any, plain: Make, provider: Provider) -> None:
    file = plain(openai.OpenAI).files.create(file=("b.jsonl", lines("a")), purpose="batch")
    with pytest.raises(Unbounded, match=r"upload it with files\.create"):
        oclient.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=DAY)
    oclient.files.create(file=("b.jsonl", lines("a")), purpose="user_data")
    assert len(provider.requests) == 2


@pytest.mark.parametrize("kind", OPENAI_KINDS)
def test_a_file_in_parts_is_not_seen_and_passes_by_hand_alone(
    budget: Budget, plain: Make, provider: Provider, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Its order is said at its end: a batch of it is refused, until somebody sets money aside."""
    answer, content = provider.later.answer, lines("a")

    def uploads(request: Any, reply: Any, id: str) -> Any:
        if not request.path.startswith("/v1/uploads"):
            return answer(request, reply, id)
        if request.path.endswith("/complete"):
            provider.later._files["file-in-parts"] = content
        return {"id": id, "object": "upload", "status": "pending", "file": {"id": "file-in-parts", "object": "file"}}

    monkeypatch.setattr(provider.later, "answer", uploads)

    async def main(client: Any) -> None:
        given = {"filename": "b.jsonl", "bytes": len(content), "mime_type": "application/jsonl", "purpose": "batch"}
        upload = await client.uploads.upload_file_chunked(file=content, part_size=40, **given)
        asked = {"input_file_id": upload.file.id, "endpoint": "/v1/chat/completions", "completion_window": DAY}
        for more in ({}, {"input_file_id": None, "extra_body": {"input_file_id": upload.file.id}}):
            with pytest.raises(Unbounded, match=r"files\.create.* not in parts .*, or set money aside for it"):
                await client.batches.create(**{**asked, **more})
        assert not list(budget.entries())
        with budget.reservation("$0.5") as block:
            batch = await client.batches.create(**asked)
            assert state(budget) == (0, Decimal("0.5"))
            block.reconcile(usd="0.1")
            with pytest.raises(Unbounded):
                await client.batches.create(**asked)
        assert (await client.batches.retrieve(batch.id)).status == "completed"
        assert state(budget) == (Decimal("0.1"), 0)
        seen = await client.files.create(file=("b.jsonl", content), purpose="batch")
        with budget.reservation("$0.5"):
            await client.batches.create(**{**asked, "input_file_id": seen.id})
            assert state(budget)[1] > Decimal("0.5")  # what is known is metered, whoever set money aside

    each(budget.wrap(plain(kind)), main)


TIERED = """
schema = 1
provider = "openai"
[[models]]
id = "tiered"
[[models.prices]]
from = 2026-01-01
input = "1"
output = "2"
tiers = [{over_input_tokens = 1000, input = "2", output = "4"}]
modes = [{when = {service_tier = "batch"}, multiply = "0.5"}]
"""


def test_a_sum_is_not_priced_where_a_tier_may_begin(
    make_budget: Make, plain: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.toml").write_text(TIERED)
    monkeypatch.setenv("BUDGET_PRICE_FILES", str(tmp_path / "own.toml"))
    budget = make_budget("memory://", limits=["$100/day"])
    client = budget.wrap(plain(openai.OpenAI))
    body = {"model": "tiered", "max_tokens": 50, "messages": PARAMS["messages"]}
    file = client.files.create(file=("b.jsonl", lines("a", "b", **body)), purpose="batch")
    demo = {"x-demo": "input=800,output=10"}
    made = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=DAY, extra_headers=demo
    )
    made = client.batches.retrieve(made.id)
    assert made.usage.input_tokens == 1600
    assert state(budget)[0] == 0  # 1600 tokens in sum, and no request is in the tier
    client.files.content(made.output_file_id)
    assert final(budget).usd == 2 * (800 * Decimal("0.000001") + 10 * Decimal("0.000002")) / 2


def test_a_batch_file_is_streamed(budget: Budget, oclient: Any, provider: Provider, tmp_path: Path) -> None:
    provider.later.in_sum = False
    file = oclient.files.create(file=("b.jsonl", lines(*"abc")), purpose="batch")
    made = oclient.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=DAY)
    made = oclient.batches.retrieve(made.id)
    with oclient.files.with_streaming_response.content(made.output_file_id) as response:
        response.stream_to_file(tmp_path / "out.jsonl")
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert final(budget).usd == at_half(provider.later.billed(made.id), (CHAT_IN, CHAT_OUT))


def test_a_cancelled_batch_of_openai(budget: Budget, oclient: Any, provider: Provider) -> None:
    provider.later.polls = 3
    file = oclient.files.create(file=("b.jsonl", lines("a", "b")), purpose="batch")
    made = oclient.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window=DAY)
    assert oclient.batches.cancel(made.id).status == "cancelled"
    assert final(budget).kind == "refunded"
