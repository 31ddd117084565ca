"""DSPy programs are stopped at their limit, on DSPy's own engine and on LiteLLM's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, UnknownModel

from .conftest import CLAUDE, GPT, Loop, scopes, spent

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"
pytest.importorskip("dspy")

import dspy
from dspy.utils.exceptions import LMError

from budget.demo.provider import Reply, Request
from budget.integrations.dspy import guard


@pytest.fixture(params=["auto", "litellm"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def apart() -> Iterator[None]:
    with dspy.context(adapter=dspy.ChatAdapter(), disable_history=True):
        yield


def make_lm(kind: str, url: str, engine: str, **options: Any) -> dspy.LM:
    known = {"cache": False, "num_retries": 0, "max_tokens": 100, "api_key": "key", "engine": engine, **options}
    if kind == "anthropic":
        return dspy.LM(f"anthropic/{CLAUDE}", api_base=url if engine == "litellm" else f"{url}/v1", **known)
    return dspy.LM(f"openai/{GPT}", api_base=f"{url}/v1", model_type=kind, **known)


def limit_of(kind: str) -> str:
    return "$0.01" if kind == "anthropic" else "$0.001"


async def _await_all(lm: dspy.LM, calls: int) -> None:
    for number in range(calls):
        await lm.acall(f"find number {number}")


def _call_all(lm: dspy.LM, calls: int) -> None:
    for number in range(calls):
        lm(f"find number {number}")


@pytest.mark.parametrize("kind", ["anthropic", "chat", "responses"])
@pytest.mark.parametrize("way", ["call", "acall"])
def test_calls_are_stopped_at_a_limit(loop: Loop, budget: Budget, engine: str, kind: str, way: str) -> None:
    if engine == "litellm" and kind == "responses":
        pytest.importorskip("mcp", reason="LiteLLM's Responses need it")
    lm = guard(budget, make_lm(kind, loop.url, engine))
    with budget.run(limit_of(kind), user="alice"), pytest.raises(BudgetExceeded) as refused:
        _call_all(lm, 200) if way == "call" else asyncio.run(_await_all(lm, 200))
    assert len(loop.provider.requests) > 1
    assert refused.value.spent == spent(budget) == loop.billed()
    assert {scope["user"] for scope in scopes(budget)} == {"alice"}


@pytest.mark.parametrize("kind", ["anthropic", "chat"])
@pytest.mark.parametrize("way", ["call", "acall"])
def test_an_agent_with_a_tool_is_stopped(loop: Loop, budget: Budget, engine: str, kind: str, way: str) -> None:
    dug = []

    def dig(place: str) -> str:
        """Dig somewhere."""
        dug.append(place)
        return "nothing here"

    agent = dspy.ReActV2("question -> answer", tools=[dig], max_iters=500)
    lm = guard(budget, make_lm(kind, loop.url, engine))
    adapter = dspy.ChatAdapter(use_native_function_calling=True)
    with dspy.context(lm=lm, adapter=adapter), budget.run(limit_of(kind)), pytest.raises(BudgetExceeded) as refused:
        agent(question="where?") if way == "call" else asyncio.run(agent.acall(question="where?"))
    assert len(dug) == len(loop.provider.requests) > 1
    assert refused.value.spent == spent(budget) == loop.billed()


@pytest.mark.parametrize("kind", ["anthropic", "chat"])
def test_streams_are_metered(loop: Loop, budget: Budget, engine: str, kind: str) -> None:
    lm = guard(budget, make_lm(kind, loop.url, engine))

    async def main() -> None:
        program = dspy.streamify(dspy.Predict("question -> answer"))
        with dspy.context(lm=lm):
            async for _ in program(question="where is it?"):
                pass

    with budget.run(limit_of(kind)):
        for _ in range(200):
            try:
                asyncio.run(main())
            except BaseException as error:
                if any(isinstance(each, BudgetExceeded) for each in _leaves(error)):
                    break
        else:
            raise AssertionError("never refused")
    assert all(seen.stream for seen in loop.provider.requests)
    assert spent(budget) == loop.billed() > 0


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def test_what_is_cached_costs_nothing(loop: Loop, budget: Budget, engine: str) -> None:
    lm = guard(budget, make_lm("chat", loop.url, engine, cache=True))
    with dspy.context(enable_memory_cache=True):
        lm(f"the same {loop.url}")
        lm(f"the same {loop.url}")
    assert len(scopes(budget)) == len(loop.provider.requests) == 1


@pytest.mark.parametrize("way", [_call_all, lambda lm, calls: asyncio.run(_await_all(lm, calls))])
def test_what_has_no_price_passes_where_money_was_set_aside(
    loop: Loop, budget: Budget, engine: str, way: Callable[[dspy.LM, int], None]
) -> None:
    given = make_lm("chat", loop.url, engine)
    given.model += "-unheard-of"
    lm = guard(budget, given)
    with pytest.raises(UnknownModel):
        way(lm, 1)
    assert not loop.provider.requests
    with budget.reservation("$0.50") as reserved:
        way(lm, 2)
        reserved.reconcile(usd="0.125")
    assert len(loop.provider.requests) == 2
    assert spent(budget) == Decimal("0.125")


def test_copies_and_several_answers_are_guarded(loop: Loop, budget: Budget, engine: str) -> None:
    lm = guard(budget, make_lm("chat", loop.url, engine))
    assert len(lm.copy(temperature=0.5)("hello", n=3)) == 3
    assert guard(budget, lm) is lm
    assert len(scopes(budget)) == 3
    assert spent(budget) == loop.billed()


def test_an_error_is_dspys_own_and_refunded_where_nothing_was_billed(budget: Budget, engine: str) -> None:
    from budget.demo.provider import Provider

    def reply(request: Request) -> Reply:
        return Reply(status=429)

    with Provider(script=reply) as provider:
        for url in (provider.url, "http://127.0.0.1:9"):
            with pytest.raises(LMError):
                guard(budget, make_lm("chat", url, engine))("hello")
    ended = [entry.kind for entry in budget.entries() if entry.kind != "reserved"]
    assert ended[0] == "refunded"
    assert len(ended) == 2


def test_the_model_given_goes_unguarded(loop: Loop, budget: Budget, engine: str) -> None:
    lm = make_lm("chat", loop.url, engine)
    guard(budget, lm)
    lm("hello")
    assert not scopes(budget)


def test_what_is_no_such_model_is_refused(budget: Budget) -> None:
    with pytest.raises(ArgumentTypeError, match=r"str is not a dspy\.LM"):
        guard(budget, "openai/gpt-4.1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="model_type='text'"):
        guard(budget, dspy.LM("openai/gpt-4.1", model_type="text"))
