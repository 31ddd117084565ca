"""Agents that call LiteLLM's functions are stopped at their limit."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest

from budget import Budget, BudgetExceeded

from .conftest import CLAUDE, GPT, Loop, scopes, spent

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "true"
litellm = pytest.importorskip("litellm")

KINDS = ["openai", "anthropic"]
TOOL = {
    "type": "function",
    "function": {
        "name": "dig", "description": "Dig somewhere.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}  # fmt: skip


def site(kind: str, url: str) -> dict[str, Any]:
    if kind == "anthropic":
        return {"model": f"anthropic/{CLAUDE}", "api_base": url, "api_key": "key"}
    return {"model": f"openai/{GPT}", "api_base": f"{url}/v1", "api_key": "key"}


def limit_of(kind: str) -> str:
    return "$0.01" if kind == "anthropic" else "$0.001"


async def work(completion: Any, stream: bool, **options: Any) -> None:
    """An agent: it asks, digs where it is told to, and asks again."""
    messages: list[Any] = [{"role": "user", "content": "find it"}]
    while True:
        answer = completion(messages=messages, tools=[TOOL], max_tokens=100, stream=stream, **options)
        awaited = asyncio.iscoroutine(answer)
        if awaited:
            answer = await answer
        if stream:
            chunks = [chunk async for chunk in answer] if awaited else list(answer)
            answer = litellm.stream_chunk_builder(chunks, messages)
        said = answer.choices[0].message
        if not said.tool_calls:
            return
        calls = [call.model_dump() for call in said.tool_calls]
        messages.append({"role": "assistant", "content": said.content, "tool_calls": calls})
        for call in said.tool_calls:
            dug = f"nothing at {json.loads(call.function.arguments)['place']}"
            messages.append({"role": "tool", "tool_call_id": call.id, "content": dug})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_is_stopped_at_its_limit(loop: Loop, budget: Budget, kind: str, awaited: bool, stream: bool) -> None:
    pytest.importorskip("mcp", reason="LiteLLM needs it for tools")
    completion: Any = budget.wrap(litellm.acompletion if awaited else litellm.completion)
    with budget.run(limit_of(kind), user="alice"), pytest.raises(BudgetExceeded) as refused:
        asyncio.run(work(completion, stream, **site(kind, loop.url)))
    assert len(loop.provider.requests) > 1
    assert all(seen.stream == stream for seen in loop.provider.requests)
    assert refused.value.spent == spent(budget) == loop.billed()
    assert {scope["user"] for scope in scopes(budget)} == {"alice"}
