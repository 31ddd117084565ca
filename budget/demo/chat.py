"""OpenAI chat completions as the demo provider speaks them: bodies, SSE chunks, errors, and usage as it is streamed.

Shapes follow the types of the `openai` SDK (`types/chat/chat_completion.py`, `chat_completion_chunk.py`), with which
the tests read them. A stream says its usage only where `stream_options.include_usage` asks for it: then one more chunk
without choices carries it, and every other chunk has a `usage` of null.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from math import ceil
from typing import Any

from budget.demo.reply import Reply
from budget.demo.sound import seconds
from budget.demo.turn import Rejected, Turn, count, fields_of, first_tool, frame

__all__ = ["answer_error", "decide", "error", "error_event", "events", "usage", "whole"]

_FRAME_TOKENS = 7
_PER_SECOND = 10  # tokens of sound
_ERRORS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body; `usual` is the output where nothing says how much.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, messages=list)
    if fields.get("stream_options") and not fields.get("stream"):
        raise Rejected(400, "stream_options: only allowed when stream is set")
    bound = fields.get("max_completion_tokens")
    heard, messages = _heard(fields["messages"])
    counted = count([messages, fields.get("tools"), fields.get("response_format")]) + _FRAME_TOKENS + heard
    return Turn.of(
        fields, reply, usual, id, input=counted, bound=fields.get("max_tokens") if bound is None else bound,
        tool=first_tool(_functions(fields), "parameters") if reply.tool else None,
        schema=_schema(fields),
    )  # fmt: skip


def usage(turn: Turn) -> dict[str, Any]:
    """The usage block of a whole answer; its input figure includes what was read from and written to a cache."""
    reply, made = turn.reply, turn.output * _choices(turn)
    heard, _ = _heard(turn.request["messages"])
    spoken = (turn.output - turn.output // 4) * _choices(turn) if _speaks(turn) else 0
    written = reply.cache_write_5m + reply.cache_write_1h
    read = turn.input + reply.cache_read + written
    return {
        "prompt_tokens": read,
        "completion_tokens": made,
        "total_tokens": read + made,
        "prompt_tokens_details": {
            "cached_tokens": reply.cache_read,
            "cache_write_tokens": written,
            "audio_tokens": heard,
        },
        "completion_tokens_details": {
            "reasoning_tokens": turn.thinking * _choices(turn),
            "audio_tokens": spoken,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error(status: int, message: str, request_id: str) -> dict[str, Any]:
    """The body of an HTTP error."""
    return answer_error(_ERRORS.get(status, "invalid_request_error" if status < 500 else "server_error"), message)


def answer_error(kind: str, message: str) -> dict[str, Any]:
    """An error of this API."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_event() -> bytes:
    """The event of an error inside a stream."""
    return frame(answer_error("server_error", "The server had an error"))


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    message: dict[str, Any] = {"role": "assistant", "content": turn.text, "refusal": None, "annotations": []}
    if _speaks(turn):
        message |= {"content": None, "audio": {**_sound(turn), "expires_at": 0, "transcript": turn.text}}
    if turn.tool:
        message |= {"content": None, "tool_calls": [_call(turn)]}
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": _finish_reason(turn)}
        for index in range(_choices(turn))
    ]
    answer = {**_envelope(turn, "chat.completion"), "choices": choices}
    return {**answer, "usage": usage(turn)} if turn.reply.usage else answer


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer, each ready to send: one token of text per event, then `[DONE]`."""
    asked = (turn.request.get("stream_options") or {}).get("include_usage") is True
    envelope = _envelope(turn, "chat.completion.chunk")
    extra = {"usage": None} if asked else {}
    indices = range(_choices(turn))

    def chunk(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return frame({**envelope, "choices": [choice], **extra})

    for index in indices:
        yield chunk(index, {"role": "assistant", "content": None if turn.tool else "", "refusal": None})
    for delta in _deltas(turn):
        for index in indices:
            yield chunk(index, delta)
    for index in indices:
        yield chunk(index, {}, _finish_reason(turn))
    if asked and turn.reply.usage:
        yield frame({**envelope, "choices": [], "usage": usage(turn)})
    yield b"data: [DONE]\n\n"


def _deltas(turn: Turn) -> Iterator[dict[str, Any]]:
    if not turn.tool:
        for piece in turn.pieces:
            yield {"audio": {**_sound(turn), "transcript": piece}} if _speaks(turn) else {"content": piece}
        return
    call = _call(turn)
    arguments = call["function"]["arguments"]
    yield {"tool_calls": [{**call, "index": 0, "function": {**call["function"], "arguments": ""}}]}
    yield {"tool_calls": [{"index": 0, "function": {"arguments": arguments}}]}


def _call(turn: Turn) -> dict[str, Any]:
    name, arguments = turn.tool or ("", {})
    return {
        "id": f"call_{turn.id}",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }


def _envelope(turn: Turn, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{turn.id}",
        "object": kind,
        "created": 0,
        "model": turn.model,
        "service_tier": turn.tier,
        "system_fingerprint": None,
    }


def _finish_reason(turn: Turn) -> str:
    return "tool_calls" if turn.tool else "length" if turn.full else "stop"


def _choices(turn: Turn) -> int:
    asked = turn.request.get("n")
    return asked if type(asked) is int else 1


def _speaks(turn: Turn) -> bool:
    return "audio" in (turn.request.get("modalities") or ())


def _sound(turn: Turn) -> dict[str, Any]:
    return {"id": f"audio_{turn.id}", "data": "AAAA"}


def _heard(messages: list[Any]) -> tuple[int, list[Any]]:
    """Return the tokens of the sounds in the messages, and these without them."""
    heard, rest = 0, []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            sounds = [part["input_audio"]["data"] for part in content if part.get("type") == "input_audio"]
            heard += sum(ceil(_PER_SECOND * seconds(base64.b64decode(sound))) for sound in sounds)
            rest.append([part for part in content if part.get("type") != "input_audio"])
        else:
            rest.append(message)
    return heard, rest


def _functions(fields: dict[str, Any]) -> list[Any]:
    tools = fields.get("tools")
    return [tool.get("function") for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []


def _schema(fields: dict[str, Any]) -> dict[str, Any] | None:
    wanted = fields.get("response_format")
    described = wanted.get("json_schema") if isinstance(wanted, dict) else None
    schema = described.get("schema") if isinstance(described, dict) else None
    return schema if isinstance(schema, dict) else None
