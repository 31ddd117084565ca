"""pydantic-ai agents with a tool are stopped at their limit, whichever model serves them and however they are run."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError

from .conftest import CLAUDE, GPT, Loop, scopes, spent

pytest.importorskip("pydantic_ai")

import anthropic
import openai
from pydantic_ai import Agent
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.concurrency import ConcurrencyLimitedModel
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits

from budget.integrations.pydantic_ai import BudgetCapability

MANY = UsageLimits(request_limit=500)


def make_model(kind: str, url: str) -> Model:
    claude = anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0)
    gpt = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0)
    made: dict[str, Any] = {
        "anthropic": lambda: AnthropicModel(CLAUDE, provider=AnthropicProvider(anthropic_client=claude)),
        "chat": lambda: OpenAIChatModel(GPT, provider=OpenAIProvider(openai_client=gpt)),
        "responses": lambda: OpenAIResponsesModel(GPT, provider=OpenAIProvider(openai_client=gpt)),
        "fallback": lambda: FallbackModel(make_model("chat", url), make_model("anthropic", url)),
    }
    model: Model = made[kind]()
    return model


def make_agent(model: Any, *capabilities: Any) -> Agent[Any, str]:
    agent = Agent(
        model, name="digger", deps_type=str, capabilities=capabilities, model_settings={"max_tokens": 100}, retries=500
    )

    @agent.tool_plain
    def dig(place: str) -> str:
        """Dig somewhere."""
        return "nothing here"

    return agent


async def _stream(agent: Agent[Any, str], **options: Any) -> None:
    async with agent.run_stream("find it", **options) as answer:
        await answer.get_output()


async def _events(agent: Agent[Any, str], **options: Any) -> None:
    async with agent.run_stream_events("find it", **options) as events:
        async for _ in events:
            pass


async def _nodes(agent: Agent[Any, str], **options: Any) -> None:
    async with agent.iter("find it", **options) as run:
        async for _ in run:
            pass


WAYS: dict[str, Any] = {
    "run": lambda agent, **options: asyncio.run(agent.run("find it", **options)),
    "run_sync": lambda agent, **options: agent.run_sync("find it", **options),
    "run_stream": lambda agent, **options: asyncio.run(_stream(agent, **options)),
    "run_stream_events": lambda agent, **options: asyncio.run(_events(agent, **options)),
    "iter": lambda agent, **options: asyncio.run(_nodes(agent, **options)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["anthropic", "chat", "responses", "fallback"])
def test_a_loop_is_stopped_at_its_limit(loop: Loop, budget: Budget, kind: str, way: str) -> None:
    limit = "$0.01" if kind == "anthropic" else "$0.001"
    agent = make_agent(make_model(kind, loop.url), BudgetCapability(budget, limit, user=lambda context: context.deps))
    with pytest.raises(BudgetExceeded) as refused:
        WAYS[way](agent, deps="alice", usage_limits=MANY)
    assert len(loop.provider.requests) > 1
    assert refused.value.spent == spent(budget) == loop.billed()
    first, *others = scopes(budget)
    assert (first["user"], first["agent"]) == ("alice", "digger")
    assert all(scope == first for scope in others)


@pytest.mark.parametrize("way", WAYS)
def test_an_agent_that_ends_is_booked(loop: Loop, budget: Budget, way: str) -> None:
    for calls in (2, 5):
        loop.calls = calls
        agent = make_agent(make_model("anthropic", loop.url), BudgetCapability(budget, "$1"))
        WAYS[way](agent, deps="alice", usage_limits=MANY)
    assert len(loop.provider.requests) == 6
    assert spent(budget) == loop.billed()
    assert len({scope["run"] for scope in scopes(budget)}) == 2  # each agent run has its own limit


def test_an_agent_in_a_tool_is_in_the_run_around_it(loop: Loop, budget: Budget) -> None:
    loop.talker = GPT
    inner = make_agent(make_model("chat", loop.url), BudgetCapability(budget, agent="helper"))
    outer = Agent(
        make_model("anthropic", loop.url), name="boss", capabilities=[BudgetCapability(budget, "$0.01", user="bob")],
        model_settings={"max_tokens": 100},
    )  # fmt: skip

    @outer.tool_plain
    async def ask(place: str) -> str:
        """Ask the helper."""
        return (await inner.run("help", deps="")).output

    with pytest.raises(BudgetExceeded) as refused:
        outer.run_sync("find it", usage_limits=MANY)
    assert refused.value.spent == spent(budget) == loop.billed()
    assert {(scope["agent"], scope["user"]) for scope in scopes(budget)} == {("boss", "bob"), ("helper", "bob")}


def test_an_override_and_what_wraps_a_model_are_guarded_too(loop: Loop, budget: Budget) -> None:
    agent = make_agent(make_model("chat", loop.url), BudgetCapability(budget, "$0.01"))
    for model in (make_model("anthropic", loop.url), ConcurrencyLimitedModel(make_model("anthropic", loop.url), 1)):
        with agent.override(model=model), pytest.raises(BudgetExceeded):
            agent.run_sync("find it", deps="", usage_limits=MANY)
    assert spent(budget) == loop.billed()


def test_a_client_that_was_wrapped_before_is_guarded_once(loop: Loop, budget: Budget) -> None:
    loop.calls = 1
    client = budget.wrap(anthropic.AsyncAnthropic(base_url=loop.url, api_key="key", max_retries=0))
    model = AnthropicModel(CLAUDE, provider=AnthropicProvider(anthropic_client=client))
    make_agent(model, BudgetCapability(budget)).run_sync("find it", deps="")
    assert len(scopes(budget)) == len(loop.provider.requests) == 2
    assert spent(budget) == loop.billed()


def test_the_model_given_stays_as_it_was(loop: Loop, budget: Budget) -> None:
    loop.calls = 0
    model: Any = make_model("anthropic", loop.url)
    client = model.client
    make_agent(model, BudgetCapability(budget)).run_sync("find it", deps="")
    assert model.client is client
    assert "_budget_engine" not in dir(type(client))


def test_a_model_that_answers_by_itself_costs_nothing(budget: Budget) -> None:
    assert make_agent(TestModel(), BudgetCapability(budget)).run_sync("find it", deps="").output
    assert not scopes(budget)


def test_a_model_that_cannot_be_guarded_is_refused(loop: Loop, budget: Budget) -> None:
    class Odd(TestModel.__mro__[1]):  # type: ignore[misc]
        model_name = system = "odd"

        async def request(self, *args: Any) -> Any:
            raise AssertionError

    class Own(OpenAIProvider):
        @property
        def client(self) -> openai.AsyncOpenAI:
            return gpt

    gpt = openai.AsyncOpenAI(base_url=f"{loop.url}/v1", api_key="key", max_retries=0)
    past = OpenAIChatModel(GPT, provider=Own(openai_client=gpt))
    with pytest.raises(ConfigError, match="OpenAIChatModel has a client of its own making"):
        make_agent(past, BudgetCapability(budget)).run_sync("hello", deps="alice")
    with pytest.raises(ConfigError, match="Odd has no provider"):
        make_agent(Odd(), BudgetCapability(budget)).run_sync("find it", deps="")
    model: Any = make_model("anthropic", loop.url)
    model._provider._client = object()
    with pytest.raises(ArgumentTypeError, match="no client that is known"):
        make_agent(model, BudgetCapability(budget)).run_sync("find it", deps="")
    assert not loop.provider.requests
