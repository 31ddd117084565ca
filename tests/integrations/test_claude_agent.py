"""Sessions of the Claude Agent SDK, with its own program, keep to their grant and are booked at what they cost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from budget import Budget, BudgetExceeded, ConfigError

from .conftest import CLAUDE, Loop, scopes, spent

pytest.importorskip("claude_agent_sdk")

from claude_agent_sdk import (
    AgentDefinition,
    ClaudeAgentOptions,
    CLINotFoundError,
    ResultMessage,
    create_sdk_mcp_server,
    tool,
)

from budget.integrations.claude_agent import BudgetClient, query


@tool("dig", "Dig somewhere", {"place": str})
async def dig(arguments: Any) -> Any:
    return {"content": [{"type": "text", "text": "nothing here"}]}


@pytest.fixture
def options(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClaudeAgentOptions:
    """Options for the program that the SDK brings, in a home of its own, with the local provider for Anthropic."""
    home = tmp_path / "home"
    home.mkdir()
    return ClaudeAgentOptions(
        model=CLAUDE, tools=[], mcp_servers={"ground": create_sdk_mcp_server("ground", tools=[dig])},
        allowed_tools=["mcp__ground__dig"], setting_sources=[], cwd=str(home),
        env={
            "HOME": str(home), "CLAUDE_CONFIG_DIR": str(home / "config"), "ANTHROPIC_BASE_URL": loop.url,
            "ANTHROPIC_API_KEY": "key", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1",
            "DISABLE_AUTOUPDATER": "1",
        },
    )  # fmt: skip


async def read(messages: Any, seen: list[Any]) -> list[Any]:
    async for message in messages:
        seen.append(message)
    return seen


def test_a_loop_is_stopped_at_its_grant(loop: Loop, budget: Budget, options: ClaudeAgentOptions) -> None:
    seen: list[Any] = []
    with pytest.raises(BudgetExceeded) as refused:
        asyncio.run(read(query(budget, "$0.01", prompt="find it", options=options, user="alice"), seen))
    assert len(loop.provider.requests) > 1
    assert seen[-1].subtype == "error_max_budget_usd"
    assert refused.value.spent == spent(budget) == loop.billed()
    assert refused.value.available == Decimal("0.01") - loop.billed() > Decimal("-0.003")  # one call above, at most
    assert "0.01/run" in str(refused.value)
    assert (refused.value.available < 0) == any("above" in note for note in getattr(refused.value, "__notes__", []))
    assert [scope["user"] for scope in scopes(budget)] == ["alice"]


def test_a_session_that_ends_is_booked(loop: Loop, budget: Budget, options: ClaudeAgentOptions) -> None:
    loop.calls = 2
    seen = asyncio.run(read(query(budget, "$1", prompt="find it", options=options), []))
    assert seen[-1].subtype == "success"
    assert len(loop.provider.requests) == 3
    assert spent(budget) == loop.billed()


def test_nothing_is_started_for_a_grant_that_does_not_fit(
    loop: Loop, budget: Budget, options: ClaudeAgentOptions
) -> None:
    for messages in (query(budget, "$101", prompt="find it", options=options), _connected(budget, "$101", options)):
        with pytest.raises(BudgetExceeded):
            asyncio.run(read(messages, []))
    assert not loop.provider.requests
    assert spent(budget) == 0


async def _connected(budget: Budget, grant: str, options: ClaudeAgentOptions) -> Any:
    async with BudgetClient(budget, grant, options) as client:
        yield client


def test_a_session_of_several_turns(loop: Loop, budget: Budget, options: ClaudeAgentOptions) -> None:
    loop.calls = 0

    seen: list[Any] = []

    async def main() -> None:
        async with BudgetClient(budget, "$0.006", options, agent="digger") as client:
            for number in range(50):
                await client.query(f"find number {number}")
                await read(client.receive_response(), seen)

    with pytest.raises(BudgetExceeded):
        asyncio.run(main())
    results = [message for message in seen if isinstance(message, ResultMessage)]
    assert [result.subtype for result in results][-2:] == ["success", "error_max_budget_usd"]
    assert spent(budget) == loop.billed() > Decimal("0.006")


def test_a_continued_session_is_booked_at_what_it_added(
    loop: Loop, budget: Budget, options: ClaudeAgentOptions
) -> None:
    loop.calls = 1
    first = asyncio.run(read(query(budget, "$1", prompt="find it", options=options), []))[-1]
    again = replace(options, resume=first.session_id)
    with pytest.raises(ConfigError, match="its last ResultMessage"):
        asyncio.run(read(query(budget, "$1", prompt="find it", options=again), []))
    loop.calls = None
    with pytest.raises(BudgetExceeded) as refused:
        asyncio.run(read(query(budget, "$0.01", prompt="go on", options=again, before=first), []))
    assert refused.value.spent == spent(budget) - Decimal(str(round(first.total_cost_usd, 9)))
    assert spent(budget) == loop.billed()


def test_a_session_left_before_its_result_is_charged_its_grant(
    loop: Loop, budget: Budget, options: ClaudeAgentOptions
) -> None:
    async def leave() -> None:
        messages = query(budget, "$1", prompt="find it", options=options)
        async for message in messages:
            if type(message).__name__ == "AssistantMessage":
                break
        await messages.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert spent(budget) == 1

    async def silent() -> None:
        await read(query(budget, "$2", prompt="find it", options=options, silence=0.0), [])

    with pytest.raises(TimeoutError):
        asyncio.run(silent())
    assert spent(budget) == 3


def test_a_session_without_a_question_costs_nothing(loop: Loop, budget: Budget, options: ClaudeAgentOptions) -> None:
    async def main() -> None:
        async with BudgetClient(budget, "$1", options):
            pass
        with pytest.raises(CLINotFoundError):
            await BudgetClient(budget, "$1", replace(options, cli_path="/nowhere/claude")).connect()

    asyncio.run(main())
    assert not loop.provider.requests
    assert spent(budget) == 0
    assert [entry.kind for entry in budget.entries()].count("refunded") == 2


def test_a_session_starts_no_sub_agents(loop: Loop, budget: Budget, options: ClaudeAgentOptions) -> None:
    """Their calls do not stop where the program does: three of them spent seven times a grant of $0.05."""
    names, reply = set(), loop.provider._script

    def note(request: Any) -> Any:
        names.update(tool["name"] for tool in request.json.get("tools", []))
        return reply(request)

    loop.calls, loop.provider._script = 0, note
    asyncio.run(read(query(budget, "$1", prompt="find it", options=replace(options, tools=None)), []))
    assert "Bash" in names
    assert not names & {"Agent", "Task", "Workflow"}
    helper = AgentDefinition(description="digs", prompt="dig")
    for wrong in ({"agents": {"helper": helper}}, {"tools": ["Read", "Task"]}, {"allowed_tools": ["Agent(helper)"]}):
        with pytest.raises(ConfigError, match="options: sub-agents"):
            BudgetClient(budget, "$1", replace(options, **wrong))  # type: ignore[arg-type]


def test_the_lower_limit_holds(loop: Loop, budget: Budget, options: ClaudeAgentOptions) -> None:
    lower = replace(options, max_budget_usd=0.002)
    with pytest.raises(BudgetExceeded, match=r"\$0.002/run"):
        asyncio.run(read(query(budget, "$1", prompt="find it", options=lower), []))
    assert spent(budget) == loop.billed() < Decimal("0.01")


def test_a_budget_that_is_disabled_only_passes_on(
    loop: Loop, options: ClaudeAgentOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    loop.calls = 0
    with Budget("memory://", limits=["$0.01/day"]) as disabled:
        assert asyncio.run(read(query(disabled, "$1", prompt="find it", options=options), []))[-1].subtype == "success"
