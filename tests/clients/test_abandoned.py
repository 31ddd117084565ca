"""Nothing stays reserved: calls abandoned at random, interrupted at every step, slow beyond a lease, left at exit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import os
import pickle
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import anthropic
import httpx2
import openai
import pytest
from conftest import ROOT, books

import budget.arguments
import budget.clients
import budget.core
import budget.guard
import budget.lease
from budget import Budget, BudgetError, Unbounded
from budget.demo.provider import Provider, Reply, Request, Seen
from budget.money import to_decimal

from .conftest import (
    BROKEN,
    CHAT,
    ENDS,
    MODEL,
    OPENAI_HTTP,
    REQUEST,
    cost,
    ends,
    only_end,
    open_reservations,
    reserved_usd,
    run_async,
    steer,
)

Make = Callable[..., Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic)

# The acceptance test: 1,000 calls, each abandoned in its own way.

_PLAIN = (
    "", "", "output=3", "status=400", "status=429", "status=503", "status=504", "fail_first=1:529", "fail_first=2:429",
    "cut=0", "hang=0", "usage=none", "latency=0.02", "hang=9", "output=500",
)  # fmt: skip
_STREAMED = (
    "", "output=9", "output=30,pace=0.001", "output=30,pace=0.001", "cut=0", "cut=1", "cut=5", "cut=44", "cut=46",
    "error_event=2", "error_event=9", "thinking=8,cut=9", "status=500", "status=408", "usage=none", "hang=9",
    "output=500", "tool=1", "cut=0,latency=0.01",
)  # fmt: skip
_SCHEMA = {"type": "object", "properties": {}, "required": ["where"]}
# Anthropic's stream helper raises AttributeError where a stream says no usage, OpenAI's its own where the bound cut it.
_EXPECTED = (*BROKEN, openai.OpenAIError, BudgetError, AttributeError)
_TOOL = {"name": "look", "input_schema": _SCHEMA}
_CHAT_TOOL = {"type": "function", "function": {"name": "look", "strict": True, "parameters": _SCHEMA}}
_LEAVE = ("read", "read", "break", "close", "drop", "raise", "helper", "helper break", "raw", "lines")


class _Api(NamedTuple):
    """An API whose calls are abandoned: how many, their request, and what its clients are."""

    calls: int
    request: dict[str, Any]
    too_much: int
    """Output tokens that cost more than the cap."""
    limits: tuple[str, ...]
    kinds: tuple[type, type]
    http: Any
    path: str
    resource: Callable[[Any], Any]


_LIMITS = ("$900/day", "$0.1/request", "9M tokens/day")
_APIS = {
    "anthropic": _Api(
        1000, {**REQUEST, "tools": [_TOOL]}, 50_000, ("per=user $0.05/day", *_LIMITS),
        KINDS, httpx2, "", lambda client: client.messages,
    ),
    "openai": _Api(
        400, {**CHAT, "tools": [_CHAT_TOOL]}, 90_000, ("per=user $0.004/day", *_LIMITS),
        (openai.OpenAI, openai.AsyncOpenAI), OPENAI_HTTP, "/v1", lambda client: client.chat.completions,
    ),
}  # fmt: skip


class _Plan:
    """What one call asks for and how it is abandoned; the same for each number, whatever thread or task makes it."""

    def __init__(self, api: _Api, number: int):
        chance = random.Random(number)
        self.tag = f"call-{number}"
        self.user = f"u{number % 7}"
        self.streamed = chance.random() < 0.6
        self.leave = chance.choice(_LEAVE) if self.streamed else "read"
        self.after = chance.randrange(0, 20)
        self.cancel = chance.uniform(0, 0.05) if chance.random() < 0.4 else None
        demo = chance.choice(_STREAMED if self.streamed else _PLAIN)
        self.complete = demo in ("", "output=3", "output=9") and self.leave in ("read", "helper", "raw", "lines")
        self.request = steer(demo, self.tag, api.request)
        if demo == "hang=9":  # no other call may time out, however busy the machine is
            self.request["timeout"] = 0.3
        if number % 11 == 0:  # refused: above the cap
            self.request["max_tokens"] = api.too_much


def _sync(messages: Any, plan: _Plan) -> None:  # noqa: PLR0912
    request, after = plan.request, plan.after
    if not plan.streamed:
        messages.create(**request)
    elif plan.leave.startswith("helper"):
        with messages.stream(**request) as stream:
            for number, _ in enumerate(stream):
                if plan.leave == "helper break" and number == after:
                    break
    elif plan.leave == "raw":
        for _ in messages.with_raw_response.create(**request, stream=True).parse():
            pass
    elif plan.leave == "lines":
        with messages.with_streaming_response.create(**request, stream=True) as response:
            for _ in response.iter_lines():
                pass
    else:
        stream = messages.create(**request, stream=True)
        for number, _ in enumerate(stream):
            if plan.leave == "read" or number < after:
                continue
            if plan.leave == "raise":
                with contextlib.suppress(LookupError), stream:
                    raise LookupError
            if plan.leave == "close":
                stream.close()
            break  # and drop it


async def _async(messages: Any, plan: _Plan) -> None:  # noqa: PLR0912
    request, after = plan.request, plan.after
    if not plan.streamed:
        await messages.create(**request)
    elif plan.leave.startswith("helper"):
        async with messages.stream(**request) as stream:
            number = 0
            async for _ in stream:
                number += 1
                if plan.leave == "helper break" and number > after:
                    break
    elif plan.leave == "raw":
        parsed = (await messages.with_raw_response.create(**request, stream=True)).parse()
        async for _ in await parsed if inspect.isawaitable(parsed) else parsed:
            pass
    elif plan.leave == "lines":
        async with messages.with_streaming_response.create(**request, stream=True) as response:
            async for _ in response.iter_lines():
                pass
    else:
        stream, number = await messages.create(**request, stream=True), 0
        async for _ in stream:
            number += 1
            if plan.leave == "read" or number <= after:
                continue
            if plan.leave == "raise":
                with contextlib.suppress(LookupError):
                    async with stream:
                        raise LookupError
            if plan.leave == "close":
                await stream.close()
            break


def _made(api: _Api, sync: bool, provider: Provider) -> Any:
    http = api.http.Client if sync else api.http.AsyncClient
    return api.kinds[not sync](
        base_url=provider.url + api.path, api_key="key", max_retries=1, timeout=120,
        http_client=http(limits=api.http.Limits(max_connections=64), timeout=120, verify=False),
    )  # fmt: skip


def _in_threads(made: Budget, api: _Api, provider: Provider, plans: list[_Plan], failed: Counter[str]) -> None:
    def one(plan: _Plan) -> None:
        with made.run(user=plan.user, call=plan.tag):
            try:
                _sync(api.resource(client), plan)
            except _EXPECTED as error:
                failed[type(error).__name__] += 1

    with made.wrap(_made(api, True, provider)) as client, ThreadPoolExecutor(16) as pool:
        list(pool.map(one, plans))


def _in_tasks(made: Budget, api: _Api, provider: Provider, plans: list[_Plan], failed: Counter[str]) -> None:
    async def one(client: Any, plan: _Plan, room: asyncio.Semaphore) -> None:
        async with room:
            with made.run(user=plan.user, call=plan.tag):
                task = asyncio.create_task(_async(api.resource(client), plan))
                if plan.cancel is not None:
                    asyncio.get_running_loop().call_later(plan.cancel, task.cancel)
                try:
                    await task
                except (asyncio.CancelledError, *_EXPECTED) as error:
                    failed[type(error).__name__] += 1

    async def main(client: Any) -> None:
        room = asyncio.Semaphore(48)
        await asyncio.gather(*(one(client, plan, room) for plan in plans))
        await asyncio.sleep(0.05)  # dropped async streams are closed by the loop

    run_async(made.wrap(_made(api, False, provider)), main)


@pytest.mark.parametrize("name", _APIS)
def test_a_thousand_calls_abandoned_at_random(make_budget: Make, shared_url: str, name: str) -> None:
    api = _APIS[name]
    made = make_budget(shared_url, limits=api.limits, store_timeout=30)
    plans, failed = [_Plan(api, number) for number in range(api.calls)], Counter[str]()
    with Provider() as provider:
        _in_threads(made, api, provider, plans[: api.calls // 2], failed)
        _in_tasks(made, api, provider, plans[api.calls // 2 :], failed)
        provider.wait()
        seen = list(provider.requests)
    gc.collect()
    _check_books(made)
    _check_calls(made, plans, seen)
    # It was as wild as it claims to be.
    wild = {"CapExceeded", "BudgetExceeded", "CancelledError", "APITimeoutError"}
    assert wild | {"RemoteProtocolError" if name == "anthropic" else "APIConnectionError"} <= failed.keys()


def _check_books(made: Budget) -> None:
    """Nothing reserved, no lease kept, a whole ledger, and every pool the sum of its entries."""
    assert not open_reservations(made)
    assert not made.engine.leases._due
    assert all(pool.reserved == 0 for pool in made.status())
    found = books(made.engine.store)
    assert found.ok, found.faults
    booked = ends(made)
    by_user = Counter[str]()
    for end in booked:
        by_user[end.scope["user"]] += end.amounts[0]
    spent = {(pool.unit, pool.subject.get("user")): pool.spent for pool in made.status()}
    assert spent == {
        **{("usd", user): to_decimal(amount) for user, amount in by_user.items()},
        ("usd", None): sum(end.usd for end in booked),
        ("tokens", None): sum(end.tokens for end in booked),
    }


def _check_calls(made: Budget, plans: list[_Plan], seen: list[Seen]) -> None:
    """Each call that reached the provider has one reservation and one end; a refused one never reached it."""
    kinds: dict[str, list[str]] = {}
    final: dict[str, Any] = {}
    for entry in made.entries():
        kinds.setdefault(entry.scope["call"], []).append(entry.kind)
        if entry.kind in ENDS:
            final[entry.scope["call"]] = entry
    arrived = {one.tag: one for one in seen}
    for plan in plans:
        was = kinds.get(plan.tag, [])
        if plan.tag in arrived or "reserved" in was:
            assert was == ["reserved", final[plan.tag].kind], (plan.tag, was)
        else:
            assert was in (["refused"], []), (plan.tag, was)  # or cancelled before it asked
        if plan.complete and plan.cancel is None and plan.tag in arrived:
            one = arrived[plan.tag]
            assert final[plan.tag].usd == made.cost(one.usage or {}, model=one.model).usd, plan.tag
    assert not [entry for entry in final.values() if entry.kind == "expired"]
    assert sum(was == ["refused"] for was in kinds.values()) > len(plans) / 20


# An interrupt (Ctrl-C) at every line of ours that a call passes.

_WATCHED = {str(path) for path in Path(budget.clients.__file__).parent.glob("*.py")}
_WATCHED |= {module.__file__ for module in (budget.guard, budget.core, budget.arguments, budget.lease)}


class _Interrupt:
    """Raises KeyboardInterrupt at the n-th line of the watched files; Python then stops tracing by itself."""

    def __init__(self, at: int):
        self.left = at

    def __enter__(self) -> _Interrupt:
        sys.settrace(self.trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def trace(self, frame: Any, event: str, arg: object) -> Any:
        if frame.f_code.co_filename not in _WATCHED or _finalizing(frame):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self.trace


def _finalizing(frame: Any) -> bool:
    """Whether Python would only print what is raised here: in a finalizer, or while a generator is dropped."""
    while frame is not None:
        if frame.f_code.co_name in ("_dropped", "hook"):
            return True
        frame = frame.f_back
    return isinstance(sys.exc_info()[1], GeneratorExit)


def _create(client: Any) -> None:
    client.messages.create(**REQUEST)


def _stream(client: Any) -> None:
    with client.messages.stream(**steer("output=2")) as stream:
        for _ in stream:
            pass


def _leave(client: Any) -> None:
    with client.messages.create(**steer("output=2"), stream=True) as stream:
        next(stream)


def _lines(client: Any) -> None:
    with client.messages.with_streaming_response.create(**REQUEST) as response:
        response.read()


def _chat_helper(client: Any) -> None:
    with client.chat.completions.stream(**steer("output=2", request=CHAT)) as stream:
        stream.until_done()


def _chat_leave(client: Any) -> None:
    with client.chat.completions.create(**steer("output=2", request=CHAT), stream=True) as stream:
        next(stream)


@pytest.mark.skipif(sys.gettrace() is not None, reason="a debugger or a coverage tool is tracing")
@pytest.mark.parametrize("call", [_create, _stream, _leave, _lines, _chat_helper, _chat_leave])
def test_an_interrupt_at_every_step(budget: Budget, client: Any, oclient: Any, call: Callable[[Any], None]) -> None:
    """None leaves a reservation that goes on being renewed, and all but one end at once.

    That one strikes when the call has the right to end it and has not yet done so: it expires, and is charged.
    """
    client = oclient if "chat" in call.__name__ else client
    store = budget.engine.store
    call(client)
    steps, left, seq = 0, 0, store.last("default")
    while True:
        steps += 1
        with contextlib.suppress(KeyboardInterrupt), _Interrupt(steps) as interrupt:
            call(client)
        if interrupt.left > 0:
            break
        if budget.engine.leases._due:
            gc.collect()
        assert not budget.engine.leases._due, steps
        new = store.entries("default", seq)
        assert len(new) <= 2, "one call, one reservation, one end"
        if new:
            seq, left = new[-1].seq, len(open_reservations(budget))
    assert steps > 100
    assert left <= 1
    assert books(budget.engine.store).ok


# Slow calls, and leases.


@pytest.fixture
def answer() -> Iterator[Event]:
    """Lets the provider answer."""
    event = Event()
    yield event
    event.set()


@pytest.fixture
def late(answer: Event) -> Iterator[Provider]:
    """A provider that answers when it is let."""

    def reply(request: Request) -> Reply:
        answer.wait()
        return Reply()

    with Provider(script=reply) as made:
        yield made
        answer.set()


@pytest.mark.parametrize("streamed", [False, True])
def test_the_lease_of_a_slow_call_is_renewed(
    budget: Budget, plain: Make, late: Provider, answer: Event, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setattr("budget.clients.call._LEASE_US", 6_000_000)  # renewed after two seconds
    client = budget.wrap(plain(base_url=late.url))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.messages.create, **REQUEST, stream=streamed)
        if streamed:
            answer.set()
            stream = running.result()
        try:
            _await_renewal(budget)
        finally:
            answer.set()
        list(stream) if streamed else running.result()
    end = only_end(budget)
    assert end.kind == "reconciled"
    assert end.usd < reserved_usd(budget)


def _await_renewal(budget: Budget) -> None:
    while not open_reservations(budget):
        time.sleep(0.01)
    seen = set()
    while len(seen) < 2:
        time.sleep(0.05)
        budget.status()  # moves what is due
        (known,) = budget.engine.store.reservations(budget.settings.account)
        seen.add(known.lease_end)


def test_a_call_whose_lease_ended_is_charged_and_corrected_by_its_answer(
    budget: Budget, plain: Make, late: Provider, answer: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the renewal prevents: it is how a process that was stopped for too long finds its reservation."""
    monkeypatch.setattr("budget.clients.call._LEASE_US", 300_000)
    monkeypatch.setattr(budget.engine.leases, "_renew", lambda name, lease_us: None)
    client = budget.wrap(plain(base_url=late.url))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.messages.create, **REQUEST)
        while not ends(budget):
            budget.status()
            time.sleep(0.05)
        answer.set()
        running.result()
    expired, corrected = ends(budget)
    assert (expired.kind, corrected.kind, corrected.detail["late"]) == ("expired", "reconciled", True)
    assert expired.usd + corrected.usd == cost(late.requests[0].usage or {})
    assert not open_reservations(budget)


def test_an_ended_call_is_renewed_no_more(budget: Budget, client: Any) -> None:
    for demo in ("", "status=429", "hang=0"):
        with contextlib.suppress(anthropic.APIError):
            client.messages.create(**steer(demo))
    with client.messages.stream(**REQUEST) as stream:
        assert len(budget.engine.leases._due) == 1
        stream.until_done()
    assert not budget.engine.leases._due


# The end of the interpreter: one process imports everything, and forks a child for each way to end.

_PARENT = """
import weakref
weakref.finalize(weakref.finalize, int)  # one that is older than ours, as a temporary folder's
import asyncio, os, signal, sys, threading
from anthropic import Anthropic, AsyncAnthropic
from openai import OpenAI
from budget import Budget
url, *cases = sys.argv[1:]
request = dict(model="claude-sonnet-4-6", max_tokens=100, messages=[dict(role="user", content="hello there")])
Budget("memory://").estimate(**request)  # loads the vocabulary
plain = Anthropic(base_url=url, api_key="key")
other = OpenAI(base_url=url + "/v1", api_key="key")
chat = {**request, "model": "gpt-4.1-mini"}
Budget("memory://").estimate(chat, provider="openai", endpoint="chat")
demo = {"extra_headers": {"x-demo": "output=4000,pace=0.01"}}
slow = {"extra_headers": {"x-demo": "latency=60"}}

def press_ctrl_c(request=None):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

for number, case in enumerate(cases):
    if os.fork() == 0:
        os.dup2(os.open(f"{number}.err", os.O_WRONLY | os.O_CREAT), 2)
        budget = Budget(f"sqlite:///{number}.db")
        client = budget.wrap(plain)
        exec(case)
        break
else:
    for case in cases: os.wait()
"""
_OPEN = "stream = client.messages.create(**request, **demo, stream=True)\nfor _ in range(6): next(stream)\n"
_CHAT = "chats = budget.wrap(other).chat.completions\n"
_ASYNC = """
async def main():
    client = budget.wrap(AsyncAnthropic(base_url=url, api_key="key"))
    stream = await client.messages.create(**request, **demo, stream=True)
    for _ in range(6): await anext(stream)
    {then}
asyncio.run(main())
"""
_EXITS: dict[str, str] = {
    "an open stream": _OPEN,
    "an unread stream": "stream = client.messages.create(**request, **demo, stream=True)",
    "an open stream in a cycle": _OPEN + "cycle = [stream]; cycle.append(cycle); del stream, cycle",
    "an open streaming response": "m = client.messages.with_streaming_response.create(**request); r = m.__enter__()",
    "an open block": "guard = budget.reservation(**request); guard.__enter__()",
    "sys.exit": _OPEN + "sys.exit(3)",
    "sys.exit in the block": _OPEN + "with stream: sys.exit(3)",
    "an uncaught error": _OPEN + "raise LookupError",
    "a closed store": _OPEN + "budget.close()",
    "a daemon thread": "run = lambda: client.messages.create(**request, **slow)\n"
    "threading.Thread(target=run, daemon=True).start()\nwhile not list(budget.entries()): pass",
    "an open chat stream": _CHAT + "stream = chats.create(**chat, **demo, stream=True)\n"
    "for _ in range(6): next(stream)",
    "an open chat helper": _CHAT + "m = chats.stream(**chat, **demo); s = m.__enter__()\nfor _ in range(6): next(s)",
    "an open raw chat stream": _CHAT + "raw = chats.with_raw_response.create(**chat, **demo, stream=True)\n"
    "s = raw.parse()\nfor _ in range(6): next(s)",
    "an open async stream": _ASYNC.format(then="globals().update(stream=stream)"),
    "sys.exit in a task": _ASYNC.format(then="sys.exit(3)"),
    "an unfinished task": _ASYNC.format(then="globals().update(task=asyncio.create_task(anext(stream)))"),
    "ctrl-c in a stream": _OPEN + "press_ctrl_c()\nfor _ in stream: pass",
    "ctrl-c in a call": "plain._client.event_hooks = {'request': [press_ctrl_c]}\n"
    "client.messages.create(**request, **slow)",
    "ctrl-c in a task": _ASYNC.format(then="press_ctrl_c(); await asyncio.sleep(60)"),
}
_RAISING = {"an uncaught error": "LookupError", **{name: "KeyboardInterrupt" for name in _EXITS if "ctrl-c" in name}}


@pytest.fixture(scope="module")
def exits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the store and the standard error of each child."""
    folder = tmp_path_factory.mktemp("exits")
    with Provider() as provider:
        command = [sys.executable, "-c", _PARENT, provider.url, *_EXITS.values()]
        subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=600, check=True)
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", _EXITS)
def test_nothing_stays_reserved_when_the_interpreter_exits(make_budget: Make, exits: Path, name: str) -> None:
    number = list(_EXITS).index(name)
    after = make_budget(f"sqlite:///{exits / f'{number}.db'}")
    end = only_end(after)
    assert end.kind == "reconciled"
    assert end.detail["estimated"]
    assert 0 < end.usd <= reserved_usd(after)
    assert books(after.engine.store).ok
    errors = (exits / f"{number}.err").read_text()
    if name in _RAISING:
        assert errors.strip().endswith(_RAISING[name])
    elif "task" not in name and "async" not in name:  # the SDK's own async streams complain when their loop is closed
        assert errors == ""


# No text of a request, and no key, is ever kept.


def test_no_text_of_a_request_is_kept_anywhere(
    make_budget: Make, plain: Make, sqlite_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "budget")
    canary = "canary-7f3a"
    request: dict[str, Any] = {
        "model": MODEL, "max_tokens": 100, "system": f"system {canary}",
        "messages": [{"role": "user", "content": f"prompt {canary}"}],
        "tools": [{"name": canary, "description": canary, "input_schema": {"type": "object", "required": [canary]}}],
    }  # fmt: skip
    made = make_budget(sqlite_url, limits=["$1/day", "$0.05/request"], on_unbounded="$0.04")
    client = made.wrap(plain(api_key=f"sk-{canary}", max_retries=1))
    shown: list[object] = [made, client, client.messages, made.estimate(**request), made.reservation(**request)]
    for demo in ("", "tool=1,output=30", "status=400", "status=504", "usage=none", "hang=0"):
        with contextlib.suppress(anthropic.APIError):
            client.messages.create(**{**request, "extra_headers": {"x-demo": demo}})
    for demo in ("", "cut=6", "tool=1,cut=5", "error_event=4", "usage=none"):
        with (
            contextlib.suppress(anthropic.APIError, httpx2.HTTPError),
            client.messages.create(**{**request, "extra_headers": {"x-demo": demo}}, stream=True) as stream,
        ):
            for _ in stream:
                shown.append(stream._iterator)
    wrong: list[dict[str, Any]] = [
        {"max_tokens": 20_000},
        {"max_tokens": canary},
        {"messages": canary},
        {"messages": [canary]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": canary}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": canary}}]}]},
        {"messages": [{"role": "user", "content": {canary: canary}}]},
        {"system": {canary: canary}},
        {"tools": canary},
        {"tools": [{"type": "web_search_20250305", "name": canary}]},
        {"tools": [{"name": canary, "input_schema": {canary: object()}}]},
    ]
    errors = []
    for change in wrong:
        try:
            client.messages.create(**{**request, **change})
        except BudgetError as error:
            errors += [error, error.args, pickle.dumps(error)]
        except (anthropic.APIError, TypeError):
            pass  # admitted and refused by the provider, or by the SDK
    with pytest.raises(Unbounded) as caught:
        client.post("/v1/dreams", cast_to=object, body={"dream": canary})
    errors += [caught.value]
    assert len(errors) > 10
    for thing in [*shown, *errors]:
        assert canary not in f"{thing!r} {thing!s}"
    assert canary not in repr([entry.to_dict() for entry in made.entries()])
    assert len(ends(made)) >= 11
    assert canary not in caplog.text.replace(f"sk-{canary}", canary)
    made.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "budget.db" for path in files)
    assert not [path for path in files if canary.encode() in path.read_bytes()]
