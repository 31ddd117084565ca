"""CrewAI crews with a tool are stopped at their limit."""

from __future__ import annotations

import asyncio
import itertools
import os
from importlib.util import find_spec
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError

from .conftest import CLAUDE, GPT, Loop, scopes, spent

if find_spec("crewai") is None:
    pytest.skip("could not find 'crewai'", allow_module_level=True)
# It reads them when it is imported; where it is not there, they would hold for the tests of others in this process.
os.environ["CREWAI_DISABLE_TELEMETRY"] = os.environ["OTEL_SDK_DISABLED"] = "true"
os.environ["CREWAI_TRACING_ENABLED"] = "false"
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from pydantic import BaseModel

from budget.integrations.crewai import guard

_numbers = itertools.count(1)
LOOPS = [("anthropic", False), ("anthropic", True), ("chat", False), ("chat", True), ("responses", False)]
"""CrewAI 1.15 does not pass on the tool calls of a Responses stream, guarded or not."""


@tool("dig")
def dig(place: str) -> str:
    """Dig somewhere."""
    return f"nothing here, {next(_numbers)} holes so far"  # the same again and again would stop CrewAI itself


def make_llm(kind: str, url: str, **options: Any) -> Any:
    if kind == "anthropic":
        return LLM(f"anthropic/{CLAUDE}", base_url=url, api_key="key", max_tokens=100, max_retries=0, **options)
    api = "responses" if kind == "responses" else "completions"
    return LLM(f"openai/{GPT}", base_url=f"{url}/v1", api_key="key", max_tokens=100, max_retries=0, api=api, **options)


def make_crew(llm: Any, **task: Any) -> Crew:
    known: dict[str, Any] = {"role": "digger", "goal": "find it", "backstory": "digs", "max_retry_limit": 0}
    agent = Agent(llm=llm, tools=[dig], max_iter=500, **known)
    return Crew(agents=[agent], tasks=[Task(description="find it", expected_output="it", agent=agent, **task)])


def limit_of(kind: str) -> str:
    return "$0.02" if kind == "anthropic" else "$0.002"


WAYS: dict[str, Any] = {
    "kickoff": lambda crew: crew.kickoff(),
    "akickoff": lambda crew: asyncio.run(crew.akickoff()),
    "kickoff_async": lambda crew: asyncio.run(crew.kickoff_async()),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "stream"), LOOPS)
def test_a_loop_is_stopped_at_its_limit(loop: Loop, budget: Budget, kind: str, stream: bool, way: str) -> None:
    crew = make_crew(guard(budget, make_llm(kind, loop.url, stream=stream)))
    with budget.run(limit_of(kind), user="alice"), pytest.raises(BudgetExceeded) as refused:
        WAYS[way](crew)
    assert len(loop.provider.requests) > 1
    assert refused.value.spent == spent(budget) == loop.billed()
    assert {scope["user"] for scope in scopes(budget)} == {"alice"}


@pytest.mark.parametrize("way", WAYS)
def test_a_crew_that_ends_is_booked(loop: Loop, budget: Budget, way: str) -> None:
    loop.calls = 2
    WAYS[way](make_crew(guard(budget, make_llm("chat", loop.url))))
    assert len(loop.provider.requests) == len(scopes(budget)) == 3
    assert spent(budget) == loop.billed()


@pytest.mark.parametrize("kind", ["anthropic", "chat", "responses"])
def test_streams_are_stopped_at_a_limit(loop: Loop, budget: Budget, kind: str) -> None:
    llm = guard(budget, make_llm(kind, loop.url, stream=True))
    with budget.run(limit_of(kind)), pytest.raises(BudgetExceeded) as refused:
        _call_again_and_again(llm)
    assert all(seen.stream for seen in loop.provider.requests)
    assert refused.value.spent == spent(budget) == loop.billed() > 0


def _call_again_and_again(llm: Any) -> None:
    for number in range(100):
        assert llm.call(f"hello {number}")


def test_calls_of_the_model_itself(loop: Loop, budget: Budget) -> None:
    given = make_llm("chat", loop.url)
    llm = guard(budget, given)
    assert llm.call("hello")
    assert asyncio.run(llm.acall("hello"))
    assert guard(budget, llm).call("hello")
    assert given.call("hello")  # the one given goes unguarded
    assert given.api_key == "key"
    assert (len(scopes(budget)), len(loop.provider.requests)) == (3, 4)


def test_what_would_go_past_the_guard_sends_no_key(loop: Loop, budget: Budget) -> None:
    class Found(BaseModel):
        place: str

    loop.calls, keys = 0, []
    reply = loop.provider._script

    def note(request: Any) -> Any:
        keys.append(request.headers["authorization"])
        return reply(request)

    loop.provider._script = note
    make_crew(guard(budget, make_llm("chat", loop.url)), output_json=Found).kickoff()
    assert keys.count("Bearer key") == len(scopes(budget)) < len(keys)


def test_what_has_no_client_is_refused(budget: Budget) -> None:
    with pytest.raises(ArgumentTypeError, match="str is no CrewAI model"):
        guard(budget, "gpt-4.1")
    pytest.importorskip("litellm")
    with pytest.raises(ConfigError, match="goes through LiteLLM"):
        guard(budget, LLM("openai/gpt-4.1", is_litellm=True))
