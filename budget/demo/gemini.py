"""Gemini's generateContent as the demo provider speaks it: bodies, SSE chunks, errors, usage.

Shapes follow the types of `google-genai` 3.4, with which the tests read them. Each chunk of a stream says the usage
so far; the last one, with the finish reason, all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from budget.demo.reply import Reply
from budget.demo.turn import Turn, count, fields_of, first_tool, frame

__all__ = ["decide", "error", "error_event", "events", "usage", "whole"]

_FRAME_TOKENS = 4


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body, to which the model of its path was added.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, contents=list)
    tools = [each for tool in fields.get("tools") or () for each in tool.get("functionDeclarations") or ()]
    config = fields.get("generationConfig") or {}
    counted = count(fields.get(name) for name in ("contents", "tools", "systemInstruction")) + _FRAME_TOKENS
    return Turn.of(
        fields, reply, usual, id, input=counted, bound=config.get("maxOutputTokens", config.get("max_output_tokens")),
        tool=first_tool(tools, "parameters") if reply.tool else None,
    )  # fmt: skip


def usage(turn: Turn, made: int | None = None) -> dict[str, Any]:
    """The usage of an answer, whole or so far; its input figure includes what was read from a cache."""
    visible = turn.output - turn.thinking if made is None else made
    read, total = turn.input + turn.reply.cache_read, turn.input + turn.reply.cache_read + visible + turn.thinking
    counts = {"promptTokenCount": read, "cachedContentTokenCount": turn.reply.cache_read, "totalTokenCount": total}
    return {**counts, "candidatesTokenCount": visible, "thoughtsTokenCount": turn.thinking}


def error(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The body of an HTTP error."""
    return {"error": {"code": status, "message": message, "status": "RESOURCE_EXHAUSTED" if status == 429 else "ERROR"}}


def error_event() -> bytes:
    """The event of an error inside a stream."""
    return frame(error(503, "The model is overloaded", ""))


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    name, arguments = turn.tool or ("", {})
    part: dict[str, Any] = {"functionCall": {"name": name, "args": arguments}} if turn.tool else {"text": turn.text}
    return _chunk(turn, part, _finish_reason(turn), usage(turn))


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer, each ready to send: one token of text per event."""
    for number, piece in enumerate(turn.pieces[:-1], 1):
        yield frame(_chunk(turn, {"text": piece}, None, usage(turn, number)))
    last = turn.pieces[-1] if turn.pieces else ""
    yield frame(_chunk(turn, {"text": last}, _finish_reason(turn), usage(turn)))


def _chunk(turn: Turn, part: dict[str, Any], reason: str | None, said: dict[str, Any]) -> dict[str, Any]:
    candidate = {"content": {"parts": [part], "role": "model"}, "index": 0}
    candidate |= {"finishReason": reason} if reason else {}
    answer = {"candidates": [candidate], "modelVersion": turn.model, "responseId": turn.id}
    return {**answer, "usageMetadata": said} if turn.reply.usage else answer


def _finish_reason(turn: Turn) -> str:
    return "MAX_TOKENS" if turn.full else "STOP"
