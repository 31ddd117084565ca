"""Agents of the OpenAI Agents SDK with a tool are stopped at their limit: one run, each agent by its name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from budget import Budget, BudgetExceeded, ConfigError

from .conftest import GPT, Loop, scopes, spent

pytest.importorskip("agents")

import openai
from agents import (
    Agent,
    ModelProvider,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIProvider,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
    set_tracing_disabled,
)

from budget.integrations.openai_agents import run_config

set_tracing_disabled(True)
BRIEF = ModelSettings(max_tokens=100)


@function_tool
def dig(place: str) -> str:
    """Dig somewhere."""
    return "nothing here"


def make_client(loop: Loop) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{loop.url}/v1", api_key="key", max_retries=0)


def make_config(loop: Loop, kind: str) -> RunConfig:
    return RunConfig(model_provider=OpenAIProvider(openai_client=make_client(loop), use_responses=kind == "responses"))


def make_agent(model: Any = GPT, **options: Any) -> Agent[Any]:
    return Agent("digger", instructions="Dig.", model=model, model_settings=BRIEF, tools=[dig], **options)


async def _stream(agent: Agent[Any], config: RunConfig) -> None:
    async for _ in Runner.run_streamed(agent, "find it", run_config=config, max_turns=500).stream_events():
        pass


WAYS: dict[str, Any] = {
    "run": lambda agent, config: asyncio.run(Runner.run(agent, "find it", run_config=config, max_turns=500)),
    "run_sync": lambda agent, config: Runner.run_sync(agent, "find it", run_config=config, max_turns=500),
    "run_streamed": lambda agent, config: asyncio.run(_stream(agent, config)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_a_loop_is_stopped_at_its_limit(loop: Loop, budget: Budget, kind: str, way: str) -> None:
    config = run_config(budget, "$0.001", config=make_config(loop, kind), user="alice")
    with pytest.raises(BudgetExceeded) as refused:
        WAYS[way](make_agent(), config)
    assert len(loop.provider.requests) > 1
    assert refused.value.spent == spent(budget) == loop.billed()
    first, *others = scopes(budget)
    assert (first["user"], first["agent"]) == ("alice", "digger")
    assert all(scope == first for scope in others)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["chat", "responses"])
def test_an_agent_that_ends_is_booked(loop: Loop, budget: Budget, kind: str, way: str) -> None:
    loop.calls = 3
    WAYS[way](make_agent(), run_config(budget, config=make_config(loop, kind)))
    assert len(loop.provider.requests) == 4
    assert spent(budget) == loop.billed()


def test_agents_that_are_handed_to_or_used_as_tools_are_in_the_run(loop: Loop, budget: Budget) -> None:
    loop.talker = "gpt-4.1-nano"
    helper = Agent("helper", instructions="Help.", model="gpt-4.1-nano", model_settings=BRIEF)
    tool = helper.as_tool("help", "Ask the helper")
    config = run_config(budget, "$0.001", config=make_config(loop, "chat"))
    with pytest.raises(BudgetExceeded) as refused:
        asyncio.run(Runner.run(Agent("boss", model=GPT, model_settings=BRIEF, tools=[tool]), "go", run_config=config))
    assert refused.value.spent == spent(budget) == loop.billed()
    assert {scope["agent"] for scope in scopes(budget)} == {"boss", "helper"}
    assert len({scope["run"] for scope in scopes(budget)}) == 1

    loop.calls, loop.talker = len(loop.provider.requests) + 1, None  # hand over, then answer
    boss = Agent("boss", model=GPT, model_settings=BRIEF, handoffs=[helper])
    asyncio.run(Runner.run(boss, "go", run_config=run_config(budget, config=make_config(loop, "chat"))))
    assert [scope["agent"] for scope in scopes(budget)][-2:] == ["boss", "helper"]
    assert spent(budget) == loop.billed()


def test_runs_at_once_keep_apart(loop: Loop, budget: Budget) -> None:
    async def main() -> list[Any]:
        client = make_client(loop)
        config = RunConfig(model_provider=OpenAIProvider(openai_client=client, use_responses=False))
        configs = [run_config(budget, "$0.001", config=config, user=f"user{n}") for n in range(5)]
        runs = [Runner.run(make_agent(), "find it", run_config=each, max_turns=500) for each in configs]
        return await asyncio.gather(*runs, return_exceptions=True)

    refusals = asyncio.run(main())
    assert all(isinstance(refused, BudgetExceeded) for refused in refusals)
    assert sum(refused.spent for refused in refusals) == spent(budget) == loop.billed()
    assert {(len({s["run"] for s in scopes(budget) if s["user"] == f"user{n}"})) for n in range(5)} == {1}


@pytest.mark.parametrize("kind", [OpenAIChatCompletionsModel, OpenAIResponsesModel])
def test_model_objects(loop: Loop, budget: Budget, kind: Any) -> None:
    loop.calls = 1
    bare = kind(GPT, openai_client=make_client(loop))
    with pytest.raises(ConfigError, match=r"'digger' brings its own"):
        asyncio.run(Runner.run(make_agent(bare), "go", run_config=run_config(budget)))
    wrapped = kind(GPT, openai_client=budget.wrap(make_client(loop)))
    with pytest.raises(ConfigError, match=r"'digger' brings its own, whose calls would not be in the run"):
        asyncio.run(Runner.run(make_agent(wrapped), "go", run_config=run_config(budget, "$1", user="carol")))
    assert not loop.provider.requests
    asyncio.run(Runner.run(make_agent(), "go", run_config=run_config(budget, config=RunConfig(model=bare))))
    loop.calls = 3
    with budget.run(user="carol"):  # without a configuration of ours: enforced, not labelled
        asyncio.run(Runner.run(make_agent(wrapped), "go"))
    assert scopes(budget)[-1]["user"] == "carol"
    assert len(scopes(budget)) == len(loop.provider.requests) == 4
    assert spent(budget) == loop.billed()


def test_what_a_model_is_given_is_filtered_as_before(loop: Loop, budget: Budget) -> None:
    loop.calls = 0
    seen = []

    def note(call: Any) -> Any:
        seen.append(call.agent.name)
        return call.model_data

    config = make_config(loop, "chat")
    config.call_model_input_filter = note
    asyncio.run(Runner.run(make_agent(), "go", run_config=run_config(budget, config=config)))
    assert seen == ["digger"]


def test_a_model_without_a_client_is_refused(budget: Budget) -> None:
    class Odd(ModelProvider):
        def get_model(self, model_name: str | None) -> Any:
            return object()

    config = run_config(budget, config=RunConfig(model_provider=Odd()))
    with pytest.raises(ConfigError, match="object has no client"):
        asyncio.run(Runner.run(make_agent(), "go", run_config=config))
