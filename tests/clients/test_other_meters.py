"""Meters of the SDKs in the extra `providers`: what their streams' events say, read without those SDKs."""

from __future__ import annotations

from typing import Any

import pytest

from budget.clients.bedrock import ConverseMeter
from budget.clients.cohere import CohereMeter
from budget.clients.functions import Event
from budget.clients.google import GeminiMeter
from budget.clients.meter import StreamMeter
from budget.estimate import Estimate
from budget.outcome import never_connected


def fed(kind: type[StreamMeter], *events: dict[str, Any]) -> StreamMeter:
    meter = kind(Estimate("m", "p", 1, 1, 100, 0, 0))
    for event in events:
        meter.feed(_deep(event))
    return meter


def _deep(value: Any) -> Any:
    if isinstance(value, dict):
        return Event({name: _deep(each) for name, each in value.items()})
    return [_deep(each) for each in value] if isinstance(value, list) else value


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}]}, **more}]}


def test_gemini_is_complete_with_the_usage_of_its_end() -> None:
    so_far = {"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1}, "modelVersion": "gemini-2.5-flash"}
    half = fed(GeminiMeter, {**said("one"), **so_far})
    assert (half.begun, half.complete, half.partial) == (True, False, "one")
    whole = fed(GeminiMeter, {**said("one"), **so_far}, {**said(" two", finishReason="STOP"), **so_far})
    assert (whole.complete, whole.partial) == (True, "one two")
    assert not fed(GeminiMeter, {**said("one"), **so_far}, {**said("", finishReason="STOP")}).failed
    blocked = fed(GeminiMeter, {"promptFeedback": {"blockReason": "SAFETY"}, **so_far})
    assert blocked.complete


def test_gemini_counts_calls_and_thoughts_but_shows_only_text() -> None:
    part = {"functionCall": {"name": "look_up", "args": {"word": "x" * 50}}}
    meter = fed(GeminiMeter, {"candidates": [{"content": {"parts": [part, {"text": "hm", "thought": True}]}}]})
    assert meter.unread > 25
    assert meter.partial == ""
    assert fed(GeminiMeter, {"error": {"code": 503}}).failed


def test_converse_is_complete_with_its_metadata() -> None:
    delta = {"contentBlockDelta": {"contentBlockIndex": 0, "delta": {"text": "one"}}}
    usage = {"metadata": {"usage": {"inputTokens": 3, "outputTokens": 1}}}
    meter = fed(ConverseMeter, {"messageStart": {"role": "assistant"}}, delta)
    assert (meter.begun, meter.complete, meter.partial) == (True, False, "one")
    assert fed(ConverseMeter, delta, usage).complete
    assert fed(ConverseMeter, {"throttlingException": {"message": "no"}}).failed


def test_converse_knows_tools_and_reasoning() -> None:
    def delta(**of: Any) -> dict[str, Any]:
        return {"contentBlockDelta": {"contentBlockIndex": 1, "delta": of}}

    meter = fed(ConverseMeter, delta(toolUse={"input": '{"a": 1}'}), delta(reasoningContent={"text": "hm"}))
    assert meter.unread >= 5
    assert (meter.partial, meter.hidden) == ("", False)
    assert fed(ConverseMeter, delta(reasoningContent={"redactedContent": "xx"})).hidden


@pytest.mark.parametrize("version", [1, 2])
def test_cohere_is_complete_with_its_end(version: int) -> None:
    units = {"billed_units": {"input_tokens": 3.0, "output_tokens": 1.0}}
    if version == 1:
        text: dict[str, Any] = {"event_type": "text-generation", "text": "one"}
        end: dict[str, Any] = {"event_type": "stream-end", "finish_reason": "COMPLETE", "response": {"meta": units}}
    else:
        text = {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "one"}}}}
        end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": units}}
    half, whole = fed(CohereMeter, text), fed(CohereMeter, text, end)
    assert (half.begun, half.complete, half.partial) == (True, False, "one")
    assert (whole.complete, whole.ended, whole.usage) == (True, True, units)


def test_cohere_knows_tools_plans_and_errors() -> None:
    call = {
        "type": "tool-call-delta",
        "index": 0,
        "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}},
    }
    plan = {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will look it up"}}}
    meter = fed(CohereMeter, plan, call)
    assert meter.unread >= 9
    assert meter.partial == ""
    assert fed(CohereMeter, {"type": "message-end", "delta": {"finish_reason": "ERROR"}}).failed


def test_a_connection_that_broke_is_none_that_was_never_made() -> None:
    def error(*names: str) -> BaseException:
        """An error caused by another, and so on; outermost first."""
        found: BaseException | None = None
        for name in reversed(names):
            outer: BaseException = type(name, (Exception,), {})()
            outer.__cause__ = found
            found = outer
        assert found is not None
        return found

    assert never_connected(error("APIConnectionError", "ConnectError", "ClientConnectorError"))
    assert not never_connected(error("APIConnectionError", "ConnectError", "ClientOSError"))  # httpx over aiohttp
    assert not never_connected(error("APIConnectionError", "ReadError"))
