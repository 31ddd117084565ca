"""When money runs short in wrapped clients: what is sent, what is reserved and what is told are the same.

The provider's log says what was sent, the ledger what was set aside, and the answer what was done.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier, Thread
from typing import Any

import anthropic
import openai
import pytest

from budget import (
    ArgumentTypeError,
    Budget,
    BudgetExceeded,
    CapExceeded,
    ConfigError,
    Frozen,
    Limit,
    RunStopped,
    Short,
    UnknownModel,
    short_of,
)
from budget.demo.provider import Provider, Reply

from .conftest import CHAT, IN, OUT, REQUEST, RESPONSE, ends, is_sync, open_reservations, run_async

Make = Callable[..., Any]
CHEAP = {"messages": "claude-haiku-4-5", "chat": "gpt-4.1-nano", "responses": "gpt-4.1-nano"}
BOUND = {"messages": "max_tokens", "chat": "max_tokens", "responses": "max_output_tokens"}
LONG = 4000

# One door per API, plain, as a stream of events, and by the helper of streams: what it takes and what it gives back.


def _request(api: str, **more: Any) -> dict[str, Any]:
    request = {"messages": REQUEST, "chat": CHAT, "responses": RESPONSE}[api]
    return {**request, BOUND[api]: LONG, **more}


def _resource(client: Any, api: str) -> Any:
    return {"messages": lambda: client.messages, "chat": lambda: client.chat.completions,
            "responses": lambda: client.responses}[api]()  # fmt: skip


def call(client: Any, api: str, door: str = "create", **more: Any) -> Any:
    """Make a call, read all of its answer, and return what the user holds."""
    resource, request = _resource(client, api), _request(api, **more)
    if door == "create":
        return resource.create(**request)
    if door == "stream":
        stream = resource.create(**request, stream=True)
        list(stream)
        return stream
    with resource.stream(**request) as helper:
        list(helper)
        return helper


async def acall(client: Any, api: str, door: str = "create", **more: Any) -> Any:
    resource, request = _resource(client, api), _request(api, **more)
    if door == "create":
        return await resource.create(**request)
    if door == "stream":
        stream = await resource.create(**request, stream=True)
        assert [event async for event in stream]
        return stream
    async with resource.stream(**request) as helper:
        assert [event async for event in helper]
        return helper


class Door:
    """One way to make a call, on clients made for it."""

    def __init__(self, api: str, kind: Any, door: str, plain: Make):
        self.api, self.kind, self.door, self._plain = api, kind, door, plain

    def __call__(self, budget: Budget, **more: Any) -> Any:
        client = budget.wrap(self._plain(self.kind))
        if is_sync(self.kind):
            return call(client, self.api, self.door, **more)
        return run_async(client, lambda client: acall(client, self.api, self.door, **more))

    def estimate(self, budget: Budget, **more: Any) -> Any:
        return budget.estimate(_request(self.api, **more), provider=self.provider, endpoint=self.api)

    @property
    def provider(self) -> str:
        return "anthropic" if self.api == "messages" else "openai"


KINDS = [
    ("messages", anthropic.Anthropic), ("messages", anthropic.AsyncAnthropic), ("chat", openai.OpenAI),
    ("chat", openai.AsyncOpenAI), ("responses", openai.OpenAI), ("responses", openai.AsyncOpenAI),
]  # fmt: skip
EVERY = [(api, kind, door) for api, kind in KINDS for door in ("create", "stream", "helper")]
SOME = [("messages", anthropic.Anthropic, "create"), ("chat", openai.AsyncOpenAI, "stream")]


def _id(value: Any) -> str:
    return f"{value[0]}-{value[1].__name__}-{value[2]}"


@pytest.fixture(params=EVERY, ids=_id)
def door(request: pytest.FixtureRequest, plain: Make) -> Door:
    return Door(*request.param, plain)


@pytest.fixture(params=SOME, ids=_id)
def one(request: pytest.FixtureRequest, plain: Make) -> Door:
    return Door(*request.param, plain)


def room_for(door: Door, budget: Budget, tokens: int) -> str:
    """An amount in which so many tokens of output fit, and no more."""
    return f"${door.estimate(budget, **{BOUND[door.api]: tokens}).usd_max:f}"


def on_short(text: str) -> dict[str, Any]:
    return {"extra_body": {"budget_on_short": text}}


def sent(provider: Provider) -> list[tuple[str | None, int | None]]:
    provider.wait()
    return [(seen.model, seen.max_tokens) for seen in provider.requests]


def kinds(budget: Budget) -> list[str]:
    return [entry.kind for entry in budget.entries() if entry.kind not in ("limit_set", "adjusted")]


def agree(budget: Budget, provider: Provider) -> None:
    """Nothing is left open, and the pools hold what the entries say."""
    provider.wait()
    assert not open_reservations(budget)
    spent = sum((entry.usd for entry in ends(budget)), Decimal(0))
    assert {(pool.spent, pool.reserved) for pool in budget.status() if pool.unit == "usd"} == {(spent, 0)}
    assert all(pool.spent <= pool.limit.amount for pool in budget.status())


# Clamp.


def test_a_clamped_call_is_sent_as_it_was_reserved(door: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set(f"{room_for(door, budget, 300)}/day", on_short="clamp")
    answer = door(budget)
    assert sent(provider) == [(_request(door.api)["model"], 300)]
    told = short_of(answer)
    assert told is not None
    assert told == Short(clamped={"from": LONG, "to": 300})
    assert kinds(budget) == ["refused", "reserved", "reconciled"]
    first, last = [entry for entry in budget.entries() if entry.kind in ("reserved", "reconciled")]
    assert first.estimate is not None
    assert first.estimate["output_tokens_max"] == 300
    assert first.detail["clamped"] == last.detail["clamped"] == {"from": LONG, "to": 300}
    agree(budget, provider)


def test_it_is_the_largest_that_fits_with_what_is_reserved(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set("$0.01/day", on_short="clamp")
    budget.reserve("$0.0043")
    one(budget)
    ((_, to),) = sent(provider)
    fits, above = (one.estimate(budget, **{BOUND[one.api]: n}).usd_max for n in (to, to + 1))
    assert fits <= Decimal("0.0057") < above


def test_never_below_the_floor(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set(f"{room_for(one, budget, 100)}/day")
    one(budget, **on_short("clamp:100"), extra_headers={"x-demo": "output=0"})
    spent = budget.status()[0].spent
    budget.limits.set(f"${Decimal(room_for(one, budget, 99)[1:]) + spent:f}/day")
    with pytest.raises(BudgetExceeded) as caught:
        one(budget, **on_short("clamp:100"))
    assert any("99 output tokens fit, and 100" in note for note in caught.value.__notes__)
    assert one.estimate(budget).usd_max == caught.value.requested  # the original refusal, with its figures
    one(budget, **on_short("clamp:99"))
    assert [to for _, to in sent(provider)] == [100, 99]


def test_the_usual_floor(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set(f"{room_for(one, budget, 15)}/request", on_short="clamp")
    with pytest.raises(CapExceeded):
        one(budget)
    budget.limits.set(f"{room_for(one, budget, 16)}/request", on_short="clamp")
    one(budget)
    assert [to for _, to in sent(provider)] == [16]


def test_a_budget_for_thinking_stays_below_the_bound(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget, door = make_budget("memory://"), Door("messages", anthropic.Anthropic, "create", plain)
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 2000}}
    for tokens in (2000, 2001):
        most = budget.estimate(_request("messages", max_tokens=tokens, **thinking)).usd_max
        budget.limits.set(f"${most:f}/request", on_short="clamp")
        if tokens == 2000:
            with pytest.raises(CapExceeded) as caught:
                door(budget, **thinking)
            assert caught.value.max_tokens == 2000
            assert "would not be valid" in caught.value.__notes__[0]
        else:
            door(budget, **thinking)
    assert [to for _, to in sent(provider)] == [2001]


def test_a_request_without_a_bound_is_given_one(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget, door = make_budget("memory://"), Door("chat", openai.OpenAI, "create", plain)
    budget.limits.set(f"{room_for(door, budget, 300)}/request", on_short="clamp")
    answer = door(budget, max_tokens=openai.omit)
    assert sent(provider) == [(CHAT["model"], 300)]
    assert short_of(answer) == Short(clamped={"from": 32768, "to": 300})


def test_several_answers_are_clamped_each(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget, door = make_budget("memory://"), Door("chat", openai.OpenAI, "create", plain)
    most = budget.estimate(_request("chat", max_tokens=70, n=3)).usd_max
    budget.limits.set(f"${most:f}/request", on_short="clamp")
    assert short_of(door(budget, n=3)) == Short(clamped={"from": LONG, "to": 70})
    assert sent(provider) == [(CHAT["model"], 70)]


def test_what_the_caller_adds_by_extra_body_is_clamped_too(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget, door = make_budget("memory://"), Door("messages", anthropic.Anthropic, "create", plain)
    budget.limits.set(f"{room_for(door, budget, 300)}/request", on_short="clamp")
    door(budget, max_tokens=10, extra_body={"max_tokens": 5000})
    assert sent(provider) == [(REQUEST["model"], 300)]


def test_tokens_are_clamped_as_money_is(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set("250 output tokens/day", on_short="clamp")
    one(budget)
    assert [to for _, to in sent(provider)] == [250]


def test_a_clamp_makes_no_slot_free(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set("1 concurrent", on_short="clamp")
    budget.reserve("$0.01", tokens=1)
    with pytest.raises(BudgetExceeded):
        one(budget)
    assert sent(provider) == []


def test_what_the_provider_counted_is_kept(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://", count_with="provider")
    door = Door("messages", anthropic.Anthropic, "create", plain)
    text = {"messages": [{"role": "user", "content": "The quick brown fox jumps over the lazy dog. " * 200}]}
    estimate = budget.estimate(_request("messages", **text))
    room = estimate.usd + estimate.input_tokens // 25 * IN * 2  # too little for the bound, enough for what is expected
    assert room < estimate.usd_max
    count = estimate.input_tokens * 11 // 10
    provider._script = lambda request: Reply(input=count)
    budget.limits.set(f"${room:f}/request", on_short="clamp")
    to = _to(door(budget, **text))
    most = count + count // 50 + 16
    rate = max(IN, (estimate.usd_max - LONG * OUT) / estimate.input_tokens_max)
    assert most * rate + to * OUT <= room < most * rate + (to + 1) * OUT
    first = next(entry for entry in budget.entries() if entry.kind == "reserved")
    assert first.estimate is not None
    assert (first.estimate["counted_by"], first.estimate["input_tokens_max"]) == ("provider", most)


def test_the_backstop_sends_nothing_else_than_was_given(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    client = budget.wrap(plain())
    budget.limits.set("$0.01/day", on_short="clamp;fallback:claude-haiku-4-5")
    options = anthropic._models.FinalRequestOptions.construct
    with pytest.raises(BudgetExceeded) as caught:
        anthropic.Anthropic.request(
            client, object, options(method="post", url="/v1/messages", json_data=_request("messages"))
        )
    assert all("cannot be changed" in note for note in caught.value.__notes__)
    assert sent(provider) == []


@pytest.mark.parametrize("is_async", [False, True])
def test_many_clamp_into_the_same_room(make_budget: Make, plain: Make, provider: Provider, is_async: bool) -> None:
    """All see the same room. Whoever comes later finds less, clamps again, and fits: or is refused."""
    budget, many = make_budget("memory://"), 6
    budget.limits.set("$0.02/day", on_short="clamp")
    most: list[Decimal] = []
    headers = {"extra_headers": {"x-demo": "output=2,latency=0.05"}}

    def watch() -> None:
        (pool,) = budget.status()
        most.append(pool.spent + pool.reserved)

    results: list[Any] = []
    if is_async:

        async def all_at_once(client: Any) -> None:
            calls = [acall(client, "messages", **headers) for _ in range(many)]
            results.extend(await asyncio.gather(*calls, return_exceptions=True))

        run_async(budget.wrap(plain(anthropic.AsyncAnthropic)), all_at_once)
    else:
        client, gate = budget.wrap(plain()), Barrier(many)

        def once(_: int) -> Any:
            gate.wait()
            try:
                return call(client, "messages", **headers)
            except BudgetExceeded as no:
                return no
            finally:
                watch()

        with ThreadPoolExecutor(many) as pool:
            results.extend(pool.map(once, range(many)))
    answers = [answer for answer in results if not isinstance(answer, BaseException)]
    assert answers
    assert all(isinstance(no, BudgetExceeded) for no in results if isinstance(no, BaseException))
    reserved = [entry for entry in budget.entries() if entry.kind == "reserved"]
    bounds = sorted(entry.estimate["output_tokens_max"] for entry in reserved if entry.estimate)
    assert bounds == sorted(to or 0 for _, to in sent(provider)) == sorted(_to(answer) for answer in answers)
    assert all(amount <= Decimal("0.02") for amount in most)
    agree(budget, provider)


def _to(answer: Any) -> int:
    told = short_of(answer)
    assert told is not None
    assert told.clamped is not None
    return told.clamped["to"]


def test_a_clamp_that_came_too_late_clamps_again(make_budget: Make, plain: Make, provider: Provider) -> None:
    """Between a refusal and the next reserve somebody takes the room of 100 tokens, twice."""
    budget, door = make_budget("memory://"), Door("messages", anthropic.Anthropic, "create", plain)
    budget.limits.set(f"{room_for(door, budget, 400)}/day", on_short="clamp")
    step = Decimal(room_for(door, budget, 200)[1:]) - Decimal(room_for(door, budget, 100)[1:])
    left = [step, step]
    store = budget.engine.store
    carry_out = store.call

    def first_somebody_else(account: str, command: Any, timeout: float) -> Any:
        outcome = carry_out(account, command, timeout)
        if outcome.status == "refused" and left:
            budget.reserve(f"${left.pop():f}", tokens=1)
        return outcome

    store.call = first_somebody_else
    answer = door(budget)
    assert sent(provider) == [(REQUEST["model"], 200)]
    assert _to(answer) == 200
    assert kinds(budget) == ["refused", "reserved"] * 2 + ["refused", "reserved", "reconciled"]


# Fallback.


def test_the_dearest_that_fits_is_used_and_said(door: Door, make_budget: Make, provider: Provider) -> None:
    budget, cheap = make_budget("memory://"), CHEAP[door.api]
    most = door.estimate(budget, model=cheap).usd_max
    asked = door.estimate(budget)
    assert most < asked.usd_max
    budget.limits.set(f"${most:f}/day", on_short=f"fallback:{_request(door.api)['model']},{cheap}")
    answer = door(budget)
    assert sent(provider) == [(cheap, LONG)]
    told = Short(substituted={"asked": asked.model, "used": cheap})
    assert short_of(answer) == told
    first, last = [entry for entry in budget.entries() if entry.kind in ("reserved", "reconciled")]
    assert first.scope["model"] == last.scope["model"] == cheap
    assert first.detail["substituted"] == last.detail["substituted"] == told.to_dict()["substituted"]
    assert first.estimate is not None
    assert Decimal(first.estimate["usd_max"]) == most
    assert last.usd == budget.cost(last.usage, model=cheap).usd
    agree(budget, provider)


def test_the_dearest_of_several_whatever_their_order(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://", prices={
        name: {"input": price, "output": price, "provider": one.provider, "tokenizer": "claude-2"}
        for name, price in (("a-dear", "3"), ("b-cheap", "0.01"), ("c-middle", "0.1"))
    })  # fmt: skip
    budget.limits.set("$0.002/day", on_short="fallback:b-cheap,a-dear,c-middle")
    one(budget)
    one(budget)  # what is left now is too little for another of those
    budget.limits.set("$0.0004/request", on_short="fallback:b-cheap,c-middle,a-dear")
    one(budget)
    assert [model for model, _ in sent(provider)] == ["c-middle", "c-middle", "b-cheap"]


def test_the_limits_of_the_other_model_hold(one: Door, make_budget: Make, provider: Provider) -> None:
    budget, cheap = make_budget("memory://"), CHEAP[one.api]
    budget.limits.set(f"${one.estimate(budget, model=cheap).usd_max:f}/day", on_short=f"fallback:{cheap}")
    budget.limits.set("$0.000001/day", model=cheap)
    with pytest.raises(BudgetExceeded) as caught:
        one(budget)
    assert str(caught.value.limit).endswith("/day")
    assert caught.value.scope["model"] == _request(one.api)["model"]
    assert f"{cheap} does not fit either" in caught.value.__notes__[0]
    assert sent(provider) == []


@pytest.mark.parametrize(("text", "error", "says"), [
    ("fallback:gpt-4.1", ConfigError, "'gpt-4.1': it is a model of openai, and anthropic answers this client"),
    ("clamp;fallback:claude-haiku-4-5,gpt-4.1", ConfigError, "'gpt-4.1'"),
    ("fallback:nonesuch-9", ConfigError, "nonesuch-9"),
    ("ask", ConfigError, "on_ask"),
    ("clmp", ConfigError, "budget_on_short: 'clmp'"),
    (5, ArgumentTypeError, "budget_on_short"),
])  # fmt: skip
def test_what_a_call_says_is_checked_before_anything_happens(
    make_budget: Make, plain: Make, provider: Provider, text: Any, error: type[Exception], says: str
) -> None:
    budget, door = make_budget("memory://", limits=["$100/day"]), Door("messages", anthropic.Anthropic, "create", plain)
    with pytest.raises(error, match=says):
        door(budget, extra_body={"budget_on_short": text})
    assert sent(provider) == []
    assert kinds(budget) == []


def test_a_list_of_a_limit_may_name_models_of_several_providers(
    make_budget: Make, plain: Make, provider: Provider
) -> None:
    budget = make_budget("memory://")
    budget.limits.set("$0.03/request", on_short="fallback:claude-haiku-4-5,gpt-4.1-nano,nonesuch")
    Door("messages", anthropic.Anthropic, "create", plain)(budget, max_tokens=5000)
    Door("chat", openai.OpenAI, "create", plain)(budget, model="gpt-4.1", max_tokens=5000)
    assert [model for model, _ in sent(provider)] == ["claude-haiku-4-5", "gpt-4.1-nano"]
    budget.limits.set("$0.03/request", on_short="fallback:claude-haiku-4-5")
    with pytest.raises(CapExceeded) as caught:
        Door("chat", openai.OpenAI, "create", plain)(budget, model="gpt-4.1", max_tokens=5000)
    assert "it is a model of anthropic, and openai answers" in caught.value.__notes__[0]


def test_a_model_that_cannot_answer_so_long_is_passed_over(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    door = Door("chat", openai.OpenAI, "create", plain)
    budget.limits.set("$0.05/request", on_short="fallback:gpt-4o-mini,gpt-4.1-nano")
    door(budget, model="gpt-4.1", max_tokens=30_000)  # gpt-4o-mini: 16,384
    assert [model for model, _ in sent(provider)] == ["gpt-4.1-nano"]


# Wait.


def test_a_call_waits_for_room(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set(f"${one.estimate(budget).usd_max:f}/day", on_short="wait:60s")
    held = budget.reserve("$0.001", tokens=1)
    answers: list[Any] = []
    waits = Thread(target=lambda: answers.append(one(budget)), daemon=True)
    waits.start()
    while not budget.engine.verbs.line._places:
        waits.join(0.001)
        assert waits.is_alive()
    assert sent(provider) == []
    budget.refund(held)
    waits.join(60)
    assert [to for _, to in sent(provider)] == [LONG]
    assert short_of(answers[0]) is None
    agree(budget, provider)


def test_a_wait_is_bounded_and_ends_in_the_first_refusal(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set(f"${one.estimate(budget).usd_max:f}/day")
    budget.reserve("$0.001", tokens=1)
    with pytest.raises(BudgetExceeded) as caught:
        one(budget, **on_short("wait:0.05s"))
    assert caught.value.verdict == "wait"
    assert "no room in time" in caught.value.__notes__[0]
    assert sent(provider) == []
    assert not budget.engine.verbs.line._places


# Ask.


async def _amount(no: BudgetExceeded) -> str:
    await asyncio.sleep(0)
    return "+$1"


ANSWERS: dict[str, Callable[[BudgetExceeded], Any]] = {
    "sync": lambda no: "+$1",
    "async": _amount,
    "awaitable": lambda no: _amount(no),  # noqa: PLW0108 - no coroutine function
}


@pytest.mark.parametrize("who", ANSWERS)
def test_somebody_is_asked_and_raises_the_limit(one: Door, make_budget: Make, provider: Provider, who: str) -> None:
    seen: list[BudgetExceeded] = []
    asked = ANSWERS[who]

    def ask(no: BudgetExceeded) -> Any:
        seen.append(no)
        return asked(no)

    async def aask(no: BudgetExceeded) -> Any:
        seen.append(no)
        return await asked(no)

    budget = make_budget("memory://", on_ask=aask if who == "async" else ask)
    budget.limits.set("$0.001/day", on_short="ask")
    answer = one(budget)
    assert [no.requested for no in seen] == [one.estimate(budget).usd_max]
    assert short_of(answer) == Short(asked={"answer": "+$1"})
    (raised,) = [entry for entry in budget.entries() if entry.kind == "adjusted" and "amount" in entry.detail]
    assert (raised.detail["actor"], raised.detail["amount"], raised.detail["limit"]) == ("on_ask", "1", "$0.001/day")
    assert str(budget.status()[0].limit) == "$1.001/day"
    assert [entry.detail.get("asked") for entry in ends(budget)] == [{"answer": "+$1"}]
    assert len(sent(provider)) == 1
    assert not open_reservations(budget)


def test_only_the_pools_that_refused_are_raised(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://", limits=[Limit("$0.001/day", per="user", on_short="ask"), "$5/day"],
                         on_ask=lambda no: "+$1")  # fmt: skip
    door = Door("messages", anthropic.Anthropic, "create", plain)
    with budget.run("$0.002", user="alice"):
        door(budget)
    with budget.run(user="bob"), pytest.raises(BudgetExceeded):
        door(make_budget("memory://", limits=["$0.001/day"]), **on_short("clamp:3000"))
    shown = {str(pool.subject): str(pool.limit.rule) for pool in budget.status() if pool.unit == "usd"}
    assert shown["user=alice"] == "$1.001/day"
    assert "$5/day" in shown.values()
    amounts = [entry.detail["limit"] for entry in budget.entries() if entry.kind == "adjusted"]
    assert len(amounts) == 2  # hers, and that of the run
    assert any("run=" in text for text in amounts)


def test_a_shared_pool_of_nobody_is_raised_too(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$0.001/day", per="user", on_short="ask")], on_ask=lambda no: "+$1")
    Door("messages", anthropic.Anthropic, "create", plain)(budget)
    assert len(ends(budget)) == 1


@pytest.mark.parametrize("answer", [False, None])
def test_no_is_a_refusal(one: Door, make_budget: Make, provider: Provider, answer: Any) -> None:
    asked: list[BudgetExceeded] = []
    budget = make_budget("memory://", limits=["$0.001/day"], on_ask=lambda no: asked.append(no) or answer)
    with pytest.raises(BudgetExceeded) as caught:
        one(budget, **on_short("ask"))
    assert caught.value is asked[0]
    assert "the answer was no" in caught.value.__notes__[0]
    assert kinds(budget) == ["refused"]
    assert sent(provider) == []


def test_yes_tries_once_more_and_once_only(one: Door, make_budget: Make, provider: Provider) -> None:
    asked: list[BudgetExceeded] = []

    def ask(no: BudgetExceeded) -> bool:
        asked.append(no)
        if len(asked) > 1:
            budget.limits.set("$1/day", on_short="ask")
        return True

    budget = make_budget("memory://", on_ask=ask)
    budget.limits.set("$0.001/day", on_short="ask")
    with pytest.raises(BudgetExceeded) as caught:
        one(budget)
    assert caught.value is asked[0]
    assert kinds(budget) == ["refused", "refused"]
    answer = one(budget)
    assert short_of(answer) == Short(asked={"answer": "yes"})
    assert len(asked) == 2
    assert len(sent(provider)) == 1


@pytest.mark.parametrize(("answer", "error"), [
    (5, ArgumentTypeError), (Decimal(5), ArgumentTypeError), (0, ArgumentTypeError), ("yes", ConfigError),
    ("$2", ConfigError), ("+$0", ConfigError),
])  # fmt: skip
def test_an_answer_that_is_none(make_budget: Make, plain: Make, provider: Provider, answer: Any, error: Any) -> None:
    budget = make_budget("memory://", limits=["$0.001/day"], on_ask=lambda no: answer)
    with pytest.raises(error, match="on_ask"):
        Door("messages", anthropic.Anthropic, "create", plain)(budget, **on_short("ask"))
    assert kinds(budget) == ["refused"]
    assert sent(provider) == []


def test_an_amount_does_not_raise_a_cap(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.001/request"], on_ask=lambda no: "+$1")
    with pytest.raises(ConfigError, match=r"on_ask: \+\$1 raises pools of money, and none refused: \$0\.001/request"):
        Door("messages", anthropic.Anthropic, "create", plain)(budget, **on_short("ask"))


def test_what_the_callback_raises_is_raised(one: Door, make_budget: Make, provider: Provider) -> None:
    def ask(no: BudgetExceeded) -> bool:
        raise KeyError("nobody is there")

    budget = make_budget("memory://", limits=["$0.001/day"], on_ask=ask)
    with pytest.raises(KeyError, match="nobody is there"):
        one(budget, **on_short("ask"))
    assert not open_reservations(budget)
    assert sent(provider) == []


def test_a_run_knows_what_it_was_raised_by(
    sqlite_url: str, make_budget: Make, plain: Make, provider: Provider
) -> None:
    budget = make_budget(sqlite_url, on_ask=lambda no: "+$1")
    door = Door("messages", anthropic.Anthropic, "create", plain)
    with budget.run("$0.0001", on_short="ask") as run:
        assert run.remaining == Decimal("0.0001")
        door(budget)
        assert run.remaining == Decimal("1.0001") - run.spent
        assert run.disclosure() == f"Left in this run: ${run.remaining} of $1.0001."
        other = make_budget(sqlite_url).run_from_headers(run.to_headers()).refresh()
        assert (other.remaining, other.left("usd")) == (run.remaining, run.left("usd"))
        assert run.refresh().left("usd") == other.left("usd")


def test_a_process_that_cannot_ask_refuses(one: Door, make_budget: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$0.001/day", on_short="ask")])
    with pytest.raises(BudgetExceeded) as caught:
        one(budget)
    assert caught.value.__notes__ == ["on_short: ask: this process has no on_ask="]


def test_on_ask_must_be_callable(make_budget: Make) -> None:
    with pytest.raises(ArgumentTypeError, match="on_ask"):
        make_budget("memory://", on_ask="yes")


# Who says it, and in which order.


def test_nothing_is_tried_unless_somebody_says_so(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://", limits=["$0.01/day"])
    with pytest.raises(BudgetExceeded) as caught:
        one(budget, **{BOUND[one.api]: 15_000})
    assert not getattr(caught.value, "__notes__", [])
    assert sent(provider) == []


def test_the_call_before_the_run_before_the_limit(one: Door, make_budget: Make, provider: Provider) -> None:
    budget, cheap = make_budget("memory://"), CHEAP[one.api]
    most = one.estimate(budget, model=cheap).usd_max
    budget.limits.set(f"${most:f}/request", on_short="clamp")
    one(budget)
    with budget.run(on_short=f"fallback:{cheap}"):
        one(budget)
        with budget.run():
            one(budget)
        with budget.run(on_short="clamp"):
            one(budget)
        one(budget, **on_short("clamp"))
    fell = [model == cheap for model, _ in sent(provider)]
    assert fell == [False, True, True, False, False]


def test_the_limit_that_decides_says_it(one: Door, make_budget: Make, provider: Provider) -> None:
    budget = make_budget("memory://")
    budget.limits.set("$0.01/lifetime", on_short="clamp")
    budget.limits.set("$0.01/week", on_short="ask")
    one(budget, **{BOUND[one.api]: 15_000})
    budget.limits.unset("$0.01/lifetime")
    with pytest.raises(BudgetExceeded, match="/week"):
        one(budget, **{BOUND[one.api]: 15_000})
    assert len(sent(provider)) == 1


def test_several_are_tried_in_order(one: Door, make_budget: Make, provider: Provider) -> None:
    budget, cheap = make_budget("memory://", on_ask=lambda no: "+$1"), CHEAP[one.api]
    budget.limits.set("$0.0001/day", on_short=f"clamp:3000;fallback:{cheap};ask")
    assert short_of(one(budget)) == Short(asked={"answer": "+$1"})
    budget.limits.set(f"{room_for(one, budget, 200)}/request", on_short=f"clamp:300;fallback:{cheap};clamp:200")
    told = short_of(one(budget, extra_headers={"x-demo": "output=1"}))
    assert told is not None
    assert told.clamped or told.substituted
    assert not (told.clamped and told.substituted)


def test_a_run_knows_what_was_done_last(one: Door, make_budget: Make) -> None:
    budget = make_budget("memory://")
    budget.limits.set("$0.01/request", on_short="clamp")
    with budget.run() as outer, budget.run() as run:
        one(budget, **{BOUND[one.api]: 100})
        assert run.last is None
        answer = one(budget, **{BOUND[one.api]: 15_000})
    assert run.last == outer.last == short_of(answer)


@pytest.mark.parametrize("text", ["clamp", "fallback:claude-haiku-4-5", "wait:60s", "ask"])
def test_the_frozen_and_the_stopped_stay_refused(make_budget: Make, plain: Make, provider: Provider, text: str) -> None:
    def ask(no: BudgetExceeded) -> bool:
        raise AssertionError("nobody is asked")

    budget, door = make_budget("memory://", on_ask=ask), Door("messages", anthropic.Anthropic, "create", plain)
    budget.freeze(user="alice")
    with budget.run(user="alice"), pytest.raises(Frozen):
        door(budget, **on_short(text))
    with budget.run(max_calls=1):
        door(budget)
        with pytest.raises(RunStopped):
            door(budget, **on_short(text))
    assert len(sent(provider)) == 1


def test_a_freeze_that_comes_between_is_what_is_raised(make_budget: Make, plain: Make) -> None:
    def ask(no: BudgetExceeded) -> bool:
        budget.freeze(everybody=True)
        return True

    budget = make_budget("memory://", limits=["$0.001/day"], on_ask=ask)
    with pytest.raises(Frozen):
        Door("messages", anthropic.Anthropic, "create", plain)(budget, **on_short("ask"))


# What the answer is besides.


def test_an_answer_that_tells_is_an_answer_like_any_other(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.01/request"])
    client = budget.wrap(plain())
    answer = call(client, "messages", **on_short("clamp"))
    assert answer._budget.clamped["from"] == LONG
    same = type(answer).construct(**answer.to_dict())
    assert short_of(same) is None
    assert answer == same
    assert answer.to_dict() == same.to_dict()
    assert answer.model_dump_json() == same.model_dump_json()
    assert "_budget" not in repr(answer)
    assert short_of(pickle.loads(pickle.dumps(answer))) == short_of(answer)
    assert not hasattr(call(client, "messages", max_tokens=10), "_budget")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("api", "kind"), KINDS)
def test_a_raw_answer_tells_too_and_what_is_parsed_from_it(
    make_budget: Make, plain: Make, api: str, kind: Any, stream: bool
) -> None:
    request = _request(api, **on_short("clamp"), **({"stream": True} if stream else {}))

    async def main(client: Any) -> None:
        for tokens in (20_000, 20):
            raw = _resource(client, api).with_raw_response.create(**{**request, BOUND[api]: tokens})
            raw = await raw if inspect.isawaitable(raw) else raw
            parsed = raw.parse()
            parsed = await parsed if inspect.isawaitable(parsed) else parsed
            told = short_of(raw)
            assert (told is not None and told.clamped is not None) == (tokens > 20)
            assert short_of(parsed) == told
            if stream:
                assert [each async for each in parsed] if hasattr(parsed, "__aiter__") else list(parsed)
            else:
                assert parsed.usage is not None

    budget = make_budget("memory://", limits=["$0.01/request"])
    client = budget.wrap(plain(kind))
    asyncio.run(main(client)) if is_sync(kind) else run_async(client, main)


def test_retries_of_the_sdk_send_the_clamped_body(make_budget: Make, plain: Make, provider: Provider) -> None:
    budget = make_budget("memory://", limits=["$0.01/request"])
    client = budget.wrap(plain(max_retries=2))
    headers = {"x-demo": "fail_first=1:529,retry-after=0.001"}
    answer = call(client, "messages", extra_headers=headers, **on_short("clamp"))
    assert [to for _, to in sent(provider)] == [_to(answer)] * 2
    assert len(ends(budget)) == 1


def test_unknown_models_stay_unknown(make_budget: Make, plain: Make) -> None:
    budget = make_budget("memory://", limits=["$0.01/request"])
    with pytest.raises(UnknownModel):
        call(budget.wrap(plain()), "messages", model="nonesuch", **on_short("clamp"))
