"""OpenAI Responses and embeddings as the demo provider speaks them: bodies and SSE events.

Shapes follow the types of the `openai` SDK (`types/responses/response.py`, `response_stream_event.py`,
`types/create_embedding_response.py`), with which the tests read them. A stream says its usage in its last event alone.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Mapping
from itertools import count as numbers
from typing import Any

from budget.demo.chat import error
from budget.demo.reply import Reply
from budget.demo.turn import Turn, count, fields_of, first_tool, frame

__all__ = ["count_tokens", "decide", "embeddings", "error", "error_event", "events", "usage", "whole"]

_FRAME_TOKENS = 7
_DIMENSIONS = 4
_SUMMARY = "thought it over"


def decide(body: object, reply: Reply, usual: int, id: str) -> Turn:
    """Decide the answer to a request's body; `usual` is the output where nothing says how much.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, input=(str, list))
    text = fields.get("text")
    format = text.get("format") if isinstance(text, dict) else None
    return Turn.of(
        fields, reply, usual, id, bound=fields.get("max_output_tokens"),
        input=_input_tokens(fields),
        tool=first_tool(fields.get("tools"), "parameters") if reply.tool else None,
        schema=format.get("schema") if isinstance(format, dict) else None,
    )  # fmt: skip


def usage(turn: Turn) -> dict[str, Any] | None:
    """The usage block of a whole answer; its input figure includes what was read from and written to a cache.

    None for one that failed: such an answer is not billed.
    """
    reply = turn.reply
    if reply.failed:
        return None
    written = reply.cache_write_5m + reply.cache_write_1h
    read = turn.input + reply.cache_read + written
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": reply.cache_read, "cache_write_tokens": written},
        "output_tokens": turn.output,
        "output_tokens_details": {"reasoning_tokens": turn.thinking},
        "total_tokens": read + turn.output,
    }


def error_event() -> bytes:
    """The event of an error inside a stream."""
    kind = "error"
    fields = {"code": "server_error", "message": "The server had an error", "param": None, "sequence_number": 0}
    return frame({"type": kind, **fields}, kind)


def whole(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    return _response(turn, _status(turn))


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer, each ready to send: one token of text per event."""
    numbered = numbers()

    def event(kind: str, **fields: Any) -> bytes:
        return frame({"type": kind, "sequence_number": next(numbered), **fields}, kind)

    yield event("response.created", response=_response(turn, "in_progress"))
    yield event("response.in_progress", response=_response(turn, "in_progress"))
    if not turn.reply.failed:
        for index, item in enumerate(_output(turn)):
            place = {"output_index": index}
            yield event("response.output_item.added", **place, item=_empty(item))
            for kind, fields in _parts(turn, item):
                yield event(f"response.{kind}", **place, item_id=item["id"], **fields)
            yield event("response.output_item.done", **place, item=item)
    yield event(f"response.{_status(turn)}", response=_response(turn, _status(turn)))


def count_tokens(body: object) -> dict[str, Any]:
    """The answer of `/v1/responses/input_tokens`.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, input=(str, list))
    return {"object": "response.input_tokens", "input_tokens": _input_tokens(fields)}


def embeddings(body: object, reply: Reply) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer of `/v1/embeddings`, and what a provider bills for it.

    Raises:
        Rejected: The body lacks what every request must have.
    """
    fields = fields_of(body, model=str, input=(str, list))
    given = fields["input"]
    texts = given if isinstance(given, list) and not isinstance(given[0], int) else [given]
    tokens = sum(len(text) if isinstance(text, list) else count([text]) for text in texts)
    tokens = tokens if reply.input is None else reply.input
    bill = {"prompt_tokens": tokens, "total_tokens": tokens}
    vector = [0.5] * (fields.get("dimensions") or _DIMENSIONS)
    packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    shown = packed if fields.get("encoding_format") == "base64" else vector
    data = [{"object": "embedding", "index": index, "embedding": shown} for index in range(len(texts))]
    answer = {"object": "list", "data": data, "model": reply.model or fields["model"]}
    return ({**answer, "usage": bill} if reply.usage else answer), bill


def _input_tokens(body: Mapping[str, Any]) -> int:
    """Count a request's input: a quarter of the UTF-8 bytes of all its strings, rounded up, and 7 for the frame."""
    return count(body.get(name) for name in ("instructions", "input", "tools", "text")) + _FRAME_TOKENS


def _status(turn: Turn) -> str:
    return "failed" if turn.reply.failed else "incomplete" if turn.full and not turn.tool else "completed"


def _response(turn: Turn, status: str) -> dict[str, Any]:
    ended = status in ("completed", "incomplete")
    return {
        "id": f"resp_{turn.id}",
        "object": "response",
        "created_at": 0,
        "status": status,
        "error": {"code": "server_error", "message": "The model failed"} if status == "failed" else None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": turn.request.get("max_output_tokens"),
        "model": turn.model,
        "output": _output(turn) if ended else [],
        "parallel_tool_calls": True,
        "service_tier": turn.tier,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage(turn) if ended and turn.reply.usage else None,
    }


def _output(turn: Turn) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    if turn.thinking:
        summary = [{"type": "summary_text", "text": _SUMMARY}]
        items.append({"id": f"rs_{turn.id}", "type": "reasoning", "summary": summary})
    if turn.tool:
        name, arguments = turn.tool
        items.append({
            "id": f"fc_{turn.id}", "type": "function_call", "status": "completed", "call_id": f"call_{turn.id}",
            "name": name, "arguments": json.dumps(arguments),
        })  # fmt: skip
    else:
        status = "incomplete" if turn.full else "completed"
        content = [{"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []}]
        message = {"id": f"msg_{turn.id}", "type": "message", "status": status, "role": "assistant"}
        items.append({**message, "content": content})
    return items


_NOTHING: dict[str, dict[str, Any]] = {
    "message": {"content": [], "status": "in_progress"},
    "function_call": {"arguments": "", "status": "in_progress"},
    "reasoning": {"summary": []},
}


def _empty(item: Mapping[str, Any]) -> dict[str, Any]:
    """An output item as it begins."""
    return {**item, **_NOTHING[item["type"]]}


def _parts(turn: Turn, item: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """What comes between the beginning and the end of an output item: kinds of event and their fields."""
    if item["type"] == "function_call":
        yield "function_call_arguments.delta", {"delta": item["arguments"]}
        yield "function_call_arguments.done", {"arguments": item["arguments"], "name": item["name"]}
    elif item["type"] == "reasoning":
        part, place = item["summary"][0], {"summary_index": 0}
        yield "reasoning_summary_part.added", {**place, "part": {**part, "text": ""}}
        yield "reasoning_summary_text.delta", {**place, "delta": part["text"]}
        yield "reasoning_summary_text.done", {**place, "text": part["text"]}
        yield "reasoning_summary_part.done", {**place, "part": part}
    else:
        part, place = item["content"][0], {"content_index": 0}
        yield "content_part.added", {**place, "part": {**part, "text": ""}}
        for piece in turn.pieces:
            yield "output_text.delta", {**place, "delta": piece, "logprobs": []}
        yield "output_text.done", {**place, "text": part["text"], "logprobs": []}
        yield "content_part.done", {**place, "part": part}
