"""Cohere's chat, version 2, as the demo provider speaks it: bodies, SSE events, errors, usage.

Shapes follow the types of `cohere` 7.3, with which the tests read them; a stream says its usage in its last event.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from budget.demo.reply import Reply
from budget.demo.turn import Turn, count, fields_of, frame

__all__ = ["decide", "error", "error_event", "events", "usage", "whole"]

_FRAME_TOKENS = 5


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body; `usual` is the output where nothing says how much.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, messages=list)
    counted = count(fields.get(name) for name in ("messages", "tools", "documents")) + _FRAME_TOKENS
    return Turn.of(fields, reply, usual, id, input=counted, bound=fields.get("max_tokens"))


def usage(turn: Turn) -> dict[str, Any]:
    """The usage of a whole answer."""
    counts = {"input_tokens": turn.input, "output_tokens": turn.output}
    return {"billed_units": counts, "tokens": counts}


def error(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The body of an HTTP error."""
    return {"id": request_id, "message": message}


def error_event() -> bytes:
    """The event of an error inside a stream: the answer ends with it."""
    return _event("message-end", {"delta": {"finish_reason": "ERROR", "error": "failed"}})


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    content = [{"type": "text", "text": turn.text}]
    answer = {
        "id": turn.id,
        "finish_reason": _finish_reason(turn),
        "message": {"role": "assistant", "content": content},
    }
    return {**answer, "usage": usage(turn)} if turn.reply.usage else answer


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer, each ready to send: one token of text per event."""
    yield _event("message-start", {"id": turn.id, "delta": {"message": {"role": "assistant"}}})
    yield _event("content-start", {"index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}})
    for piece in turn.pieces:
        yield _event("content-delta", {"index": 0, "delta": {"message": {"content": {"text": piece}}}})
    yield _event("content-end", {"index": 0})
    said = {"usage": usage(turn)} if turn.reply.usage else {}
    yield _event("message-end", {"delta": {"finish_reason": _finish_reason(turn), **said}})


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return frame({"type": kind, **fields}, kind)


def _finish_reason(turn: Turn) -> str:
    return "MAX_TOKENS" if turn.full else "COMPLETE"
