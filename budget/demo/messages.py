"""Anthropic Messages as the demo provider speaks it: bodies, SSE events, errors and the count of input tokens.

Shapes follow the types of the `anthropic` SDK (`types/raw_message_stream_event.py`, `types/message.py`,
`types/shared/error_object.py`), with which the tests read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from budget.demo.reply import Reply
from budget.demo.turn import Rejected, Turn, count, fields_of, first_tool, frame

__all__ = ["count_tokens", "decide", "error", "error_event", "events", "input_tokens", "models", "usage", "whole"]

_FRAME_TOKENS = 7
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_MODELS = ("claude-sonnet-4-6", "claude-haiku-4-5")


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body; `usual` is the output where nothing says how much.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = _checked(body)
    return Turn.of(
        fields, reply, usual, f"msg_{id}", input=input_tokens(fields), bound=fields["max_tokens"],
        tool=first_tool(fields.get("tools"), "input_schema") if reply.tool else None,
        schema=_schema(fields),
    )  # fmt: skip


def usage(turn: Turn, output: int | None = None) -> dict[str, Any]:
    """The usage block of a message of which so many output tokens were made; None: all."""
    reply = turn.reply
    told: dict[str, Any] = {
        "input_tokens": turn.input,
        "cache_creation_input_tokens": reply.cache_write_5m + reply.cache_write_1h,
        "cache_read_input_tokens": reply.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": reply.cache_write_5m,
            "ephemeral_1h_input_tokens": reply.cache_write_1h,
        },
        "output_tokens": turn.output if output is None else output,
        "service_tier": "standard",
    }
    if turn.thinking and told["output_tokens"] == turn.output:
        told["output_tokens_details"] = {"thinking_tokens": turn.thinking}
    return told


def input_tokens(body: Mapping[str, Any]) -> int:
    """Count a request's input: a quarter of the UTF-8 bytes of all its strings, rounded up, and 7 for the frame."""
    return count(body.get(name) for name in ("system", "messages", "tools")) + _FRAME_TOKENS


def count_tokens(body: object) -> dict[str, Any]:
    """The answer of `/v1/messages/count_tokens`.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    return {"input_tokens": input_tokens(_checked({"max_tokens": 1, **body} if isinstance(body, dict) else body))}


def models() -> dict[str, Any]:
    """The answer of `/v1/models`."""
    data = [
        {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "1970-01-01T00:00:00Z",  # "may be an epoch value if the release date is unknown"
            "lifecycle": "active",
        }
        for name in _MODELS
    ]
    return {"data": data, "first_id": _MODELS[0], "last_id": _MODELS[-1], "has_more": False}


def error(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The body of an HTTP error."""
    kind = _ERRORS.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def error_event() -> bytes:
    """The event of an error inside a stream."""
    return _event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    content: list[dict[str, Any]] = []
    if turn.thinking:
        content.append({"type": "thinking", "thinking": _SUMMARY, "signature": _SIGNATURE})
    if turn.tool:
        name, arguments = turn.tool
        content.append({"type": "tool_use", "id": _tool_id(turn), "name": name, "input": arguments})
    else:
        content.append({"type": "text", "text": turn.text})
    return _envelope(turn, content, _stop_reason(turn), turn.output)


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer, each ready to send: one token of text per event."""
    yield _event({"type": "message_start", "message": _envelope(turn, [], None, min(1, turn.output))})
    yield from _blocks(turn)
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(turn), "stop_sequence": None},
    }
    if turn.reply.usage:
        end["usage"] = usage(turn)
        for name in ("cache_creation", "service_tier"):  # told once, at the start
            del end["usage"][name]
    yield _event(end)
    yield _event({"type": "message_stop"})


_SUMMARY = "thought it over"
_SIGNATURE = "c2lnbmVk"


def _blocks(turn: Turn) -> Iterator[bytes]:
    index = 0
    if turn.thinking:
        yield _start(index, {"type": "thinking", "thinking": "", "signature": ""})
        yield _PING
        yield _delta(index, {"type": "thinking_delta", "thinking": _SUMMARY})
        yield _delta(index, {"type": "signature_delta", "signature": _SIGNATURE})
        yield _event({"type": "content_block_stop", "index": index})
        index += 1
    if turn.tool:
        name, arguments = turn.tool
        yield _start(index, {"type": "tool_use", "id": _tool_id(turn), "name": name, "input": {}})
        yield _PING
        yield _delta(index, {"type": "input_json_delta", "partial_json": json.dumps(arguments)})
    else:
        yield _start(index, {"type": "text", "text": ""})
        yield _PING
        for piece in turn.pieces:
            yield _text_delta(index, piece)
    yield _event({"type": "content_block_stop", "index": index})


def _envelope(turn: Turn, content: list[dict[str, Any]], stop_reason: str | None, output: int) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "id": turn.id,
        "type": "message",
        "role": "assistant",
        "model": turn.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    return {**answer, "usage": usage(turn, output)} if turn.reply.usage else answer


def _checked(body: object) -> dict[str, Any]:
    fields = fields_of(body, model=str, max_tokens=int, messages=list)
    if fields["max_tokens"] < 0:
        raise Rejected(400, "max_tokens: must be 1 or more")
    return fields


def _schema(fields: dict[str, Any]) -> dict[str, Any] | None:
    wanted = fields.get("output_config")
    described = wanted.get("format") if isinstance(wanted, dict) else None
    schema = described.get("schema") if isinstance(described, dict) else None
    return schema if isinstance(schema, dict) else None


def _stop_reason(turn: Turn) -> str:
    return "tool_use" if turn.tool else "max_tokens" if turn.full else "end_turn"


def _tool_id(turn: Turn) -> str:
    return f"toolu_{turn.id}"


@lru_cache(maxsize=8192)
def _text_delta(index: int, text: str) -> bytes:
    return _delta(index, {"type": "text_delta", "text": text})


def _start(index: int, block: dict[str, Any]) -> bytes:
    return _event({"type": "content_block_start", "index": index, "content_block": block})


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _event({"type": "content_block_delta", "index": index, "delta": delta})


def _event(event: Mapping[str, Any]) -> bytes:
    return frame(event, event["type"])


_PING = _event({"type": "ping"})
