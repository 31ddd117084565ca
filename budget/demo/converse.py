"""Bedrock's Converse as the demo provider speaks it: bodies, event stream messages, errors, usage.

Shapes follow botocore's model of bedrock-runtime (2023-09-30), with which the tests read them; a message of the event
stream is two lengths, their checksum, headers, the payload, and a checksum of all (botocore/eventstream.py).
"""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Iterator
from struct import pack
from typing import Any

from budget.demo.reply import Reply
from budget.demo.turn import Turn, count, fields_of

__all__ = ["HEADERS", "decide", "error", "error_event", "events", "message", "usage", "whole"]

HEADERS = {"content-type": "application/vnd.amazon.eventstream"}
_FRAME_TOKENS = 6
_STRING = 7
_ERRORS = {400: "ValidationException", 403: "AccessDeniedException", 429: "ThrottlingException"}


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body, to which the model of its path was added.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, messages=list)
    counted = count(fields.get(name) for name in ("messages", "system", "toolConfig")) + _FRAME_TOKENS
    bound = (fields.get("inferenceConfig") or {}).get("maxTokens")
    return Turn.of(fields, reply, usual, id, input=counted, bound=bound)


def usage(turn: Turn) -> dict[str, Any]:
    """The usage of a whole answer; what was read from and written to a cache is beside its input figure."""
    written = turn.reply.cache_write_5m + turn.reply.cache_write_1h
    counts = {"inputTokens": turn.input, "outputTokens": turn.output, "cacheReadInputTokens": turn.reply.cache_read}
    total = turn.input + turn.output + turn.reply.cache_read + written
    return {**counts, "cacheWriteInputTokens": written, "totalTokens": total}


def error(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The body of an HTTP error."""
    return {"message": message, "__type": _ERRORS.get(status, "InternalServerException")}


def error_event() -> bytes:
    """The event of an error inside a stream."""
    return message(
        {":message-type": "exception", ":exception-type": "modelStreamErrorException"}, {"message": "failed"}
    )


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    answer: dict[str, Any] = {
        "output": {"message": {"role": "assistant", "content": [{"text": turn.text}]}},
        "stopReason": _stop_reason(turn),
        "metrics": {"latencyMs": 1},
    }
    return {**answer, "usage": usage(turn)} if turn.reply.usage else answer


def events(turn: Turn) -> Iterator[bytes]:
    """The messages of a streamed answer, each ready to send: one token of text per message."""
    yield _event("messageStart", {"role": "assistant"})
    for piece in turn.pieces:
        yield _event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})
    yield _event("contentBlockStop", {"contentBlockIndex": 0})
    yield _event("messageStop", {"stopReason": _stop_reason(turn)})
    if turn.reply.usage:
        yield _event("metadata", {"usage": usage(turn), "metrics": {"latencyMs": 1}})


def _event(kind: str, payload: dict[str, Any]) -> bytes:
    return message({":message-type": "event", ":event-type": kind, ":content-type": "application/json"}, payload)


def message(headers: dict[str, str], payload: dict[str, Any]) -> bytes:
    """Return a message of the event stream."""
    body, head = json.dumps(payload).encode(), b""
    for name, value in headers.items():
        head += bytes([len(name)]) + name.encode() + bytes([_STRING]) + pack(">H", len(value)) + value.encode()
    prelude = pack(">II", len(head) + len(body) + 16, len(head))
    whole = prelude + pack(">I", crc32(prelude)) + head + body
    return whole + pack(">I", crc32(whole))


def _stop_reason(turn: Turn) -> str:
    return "max_tokens" if turn.full else "end_turn"
