"""LangChain agents with a tool, LangGraph graphs and bare chat models are stopped at their limit."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError

from .conftest import CLAUDE, GPT, Loop, scopes, spent

pytest.importorskip("langchain")
pytest.importorskip("langchain_anthropic")
pytest.importorskip("langchain_openai")

from langchain.agents import create_agent
from langchain.agents.middleware import ModelFallbackMiddleware
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from budget.integrations.langchain import BudgetMiddleware, guard

ASK = {"messages": [{"role": "user", "content": "find it"}]}
FAR: Any = {"recursion_limit": 1000}
KINDS = ["anthropic", "chat", "responses"]


@tool
def dig(place: str) -> str:
    """Dig somewhere."""
    return "nothing here"


def make_model(kind: str, url: str) -> Any:
    if kind == "anthropic":
        return ChatAnthropic(model=CLAUDE, base_url=url, api_key="key", max_retries=0, max_tokens=100)
    options: dict[str, Any] = {"use_responses_api": kind == "responses", "max_retries": 0, "max_tokens": 100}
    return ChatOpenAI(model=GPT, base_url=f"{url}/v1", api_key="key", **options)


def limit_of(kind: str) -> str:
    return "$0.01" if kind == "anthropic" else "$0.001"


async def _astream(agent: Any) -> None:
    async for _ in agent.astream(ASK, FAR, stream_mode="messages"):
        pass


WAYS: dict[str, Any] = {
    "invoke": lambda agent: agent.invoke(ASK, FAR),
    "ainvoke": lambda agent: asyncio.run(agent.ainvoke(ASK, FAR)),
    "stream": lambda agent: list(agent.stream(ASK, FAR, stream_mode="messages")),
    "astream": lambda agent: asyncio.run(_astream(agent)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_is_stopped_at_its_limit(loop: Loop, budget: Budget, kind: str, way: str) -> None:
    middleware = BudgetMiddleware(budget, limit_of(kind), user="alice")
    agent = create_agent(make_model(kind, loop.url), [dig], middleware=[middleware], name="digger")
    with pytest.raises(BudgetExceeded) as refused:
        WAYS[way](agent)
    assert len(loop.provider.requests) > 1
    assert all(seen.stream == ("stream" in way) for seen in loop.provider.requests)
    assert refused.value.spent == spent(budget) == loop.billed()
    first, *others = scopes(budget)
    assert (first["user"], first["agent"]) == ("alice", "digger")
    assert all(scope == first for scope in others)


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_can_end_with_a_message(loop: Loop, budget: Budget, way: str) -> None:
    middleware = BudgetMiddleware(budget, "$0.001", at_limit="end")
    agent = create_agent(make_model("chat", loop.url), [dig], middleware=[middleware], checkpointer=InMemorySaver())
    thread: Any = {**FAR, "configurable": {"thread_id": "1"}}
    if way == "invoke":
        last = agent.invoke(ASK, thread)["messages"][-1]
    elif way == "ainvoke":
        last = asyncio.run(agent.ainvoke(ASK, thread))["messages"][-1]
    else:
        list(agent.stream(ASK, thread)) if way == "stream" else asyncio.run(_drain(agent.astream(ASK, thread)))
        last = agent.get_state(thread).values["messages"][-1]
    assert last.response_metadata["budget"]["error"] == "BudgetExceeded"
    assert "0.001/run" in last.content
    assert spent(budget) == loop.billed() > 0


async def _drain(stream: Any) -> None:
    async for _ in stream:
        pass


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_ones_own_with_a_guarded_model(loop: Loop, budget: Budget, kind: str, way: str) -> None:
    model = guard(budget, make_model(kind, loop.url)).bind_tools([dig])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async def athink(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("think", athink if way.startswith("a") else think)
    graph.add_node("tools", ToolNode([dig])).add_edge(START, "think").add_edge("tools", "think")
    graph.add_conditional_edges("think", tools_condition)
    with budget.run(limit_of(kind), user="alice"), pytest.raises(BudgetExceeded) as refused:
        WAYS[way](graph.compile())
    assert len(loop.provider.requests) > 1
    assert refused.value.spent == spent(budget) == loop.billed()
    assert {scope["user"] for scope in scopes(budget)} == {"alice"}
    assert len({scope["run"] for scope in scopes(budget)}) == 1


def test_bound_models_and_models_for_everybody(loop: Loop, budget: Budget) -> None:
    loop.calls = 0
    given = make_model("chat", loop.url)
    client = given.root_client
    assert guard(budget, given.bind_tools([dig])).invoke("hello").content
    assert guard(budget, guard(budget, given)).invoke("hello").content
    assert given.root_client is client
    assert given.invoke("hello").content  # the one given goes unguarded
    assert (len(scopes(budget)), len(loop.provider.requests)) == (2, 3)


def test_each_invocation_is_a_run_with_its_tools(loop: Loop, budget: Budget) -> None:
    loop.calls = 2
    helper = guard(budget, make_model("chat", loop.url))

    @tool
    def ask(question: str) -> str:
        """Ask another model."""
        return str(helper.invoke(question).content)

    agent = create_agent(make_model("chat", loop.url), [ask], middleware=[BudgetMiddleware(budget, "$1")], name="boss")
    agent.invoke(ASK)
    assert len({scope["run"] for scope in scopes(budget)}) == 1
    assert len(scopes(budget)) == len(loop.provider.requests) == 3
    agent.invoke(ASK)
    assert len({scope["run"] for scope in scopes(budget)}) == 2
    assert spent(budget) == loop.billed()


def test_an_interrupted_invocation_goes_on_in_its_run(loop: Loop, budget: Budget) -> None:
    @tool
    def approve(what: str) -> str:
        """Ask the user."""
        return str(interrupt(what))

    middleware = BudgetMiddleware(budget, "$0.001")
    agent = create_agent(make_model("chat", loop.url), [approve], middleware=[middleware], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    agent.invoke(ASK, thread)
    with pytest.raises(BudgetExceeded) as refused:
        _resume_again_and_again(agent, thread)
    assert refused.value.spent == spent(budget) == loop.billed()
    assert len({scope["run"] for scope in scopes(budget)}) == 1


def _resume_again_and_again(agent: Any, thread: Any) -> None:
    for _ in range(50):
        agent.invoke(Command(resume="yes"), thread)


def test_a_model_that_another_middleware_chooses_is_guarded(loop: Loop, budget: Budget) -> None:
    loop.calls = 0
    bad = ChatOpenAI(model=GPT, base_url="http://127.0.0.1:9/v1", api_key="key", max_retries=0, max_tokens=100)
    fallback = ModelFallbackMiddleware(make_model("anthropic", loop.url))
    agent = create_agent(bad, [dig], middleware=[fallback, BudgetMiddleware(budget)])
    agent.invoke(ASK)
    assert spent(budget) == loop.billed() > 0


def test_a_model_that_cannot_be_guarded_is_refused(budget: Budget, loop: Loop) -> None:
    fake = FakeListChatModel(responses=["hello"])
    with pytest.raises(ConfigError, match="FakeListChatModel has no client"):
        guard(budget, fake)
    with pytest.raises(ConfigError, match="FakeListChatModel has no client"):
        create_agent(fake, [], middleware=[BudgetMiddleware(budget)]).invoke(ASK)
    given, other = make_model("chat", loop.url), make_model("anthropic", loop.url)
    for holder in (
        given.with_fallbacks([other]), given.configurable_fields(temperature=ConfigurableField("heat")),
        other.configurable_alternatives(ConfigurableField("which"), gpt=given), given.with_retry(),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"{type(holder).__name__} has no client"):
            guard(budget, holder)
    odd = make_model("chat", loop.url)
    odd.root_client = object()
    with pytest.raises(ArgumentTypeError, match="no client that is known"):
        guard(budget, odd)
    with pytest.raises(ConfigError, match="at_limit: 'stop' is neither"):
        BudgetMiddleware(budget, at_limit="stop")


@pytest.mark.parametrize("kind", KINDS)
def test_guarded_models_stay_so_in_what_holds_models(loop: Loop, budget: Budget, kind: str) -> None:
    loop.calls = 0
    model = guard(budget, make_model(kind, loop.url))
    assert isinstance(model, type(make_model(kind, loop.url)))
    heated = model.configurable_fields(temperature=ConfigurableField("heat"))
    chosen = model.configurable_alternatives(ConfigurableField("which"), other=guard(budget, heated.default))
    holders = (
        heated, heated.with_config(configurable={"heat": 0.5}), chosen.with_config(configurable={"which": "other"}),
        model.with_fallbacks([model]), model.with_retry(), model.model_copy(update={"temperature": 0.5}),
    )  # fmt: skip

    async def main() -> None:
        for holder in holders:
            assert (await holder.ainvoke("hello")).content

    asyncio.run(main())
    for holder in holders:
        assert holder.invoke("hello").content
    assert len(scopes(budget)) == len(loop.provider.requests) == 12
    assert spent(budget) == loop.billed()
