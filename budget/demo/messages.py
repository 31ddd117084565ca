"""Anthropic Messages as the demo provider speaks it: bodies, SSE events, errors and the count of input tokens.

Shapes follow the types of the `anthropic` SDK (`types/raw_message_stream_event.py`, `types/message.py`,
`types/shared/error_object.py`), with which the tests read them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from budget.demo.reply import Reply

__all__ = ["Rejected", "Turn", "count_tokens", "error", "error_event", "events", "input_tokens", "message", "models"]

_FRAME_TOKENS = 7
_BYTES_PER_TOKEN = 4
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


class Rejected(Exception):
    """Raised for a request that is answered with an error.

    Attributes:
        status: The HTTP status.
        message: What is wrong with the request; names fields, never their content.
    """

    def __init__(self, status: int, message: str):
        self.status, self.message = status, message
        super().__init__(status, message)


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer, decided but not yet put into words. Amounts are tokens.

    Attributes:
        id: The message's id.
        model: The model as answered.
        reply: What the call was told to be like.
        input: Uncached input.
        output: All output, thinking included.
        thinking: How many of `output` are thinking.
        tool: Name and input of the tool called, or None.
        stop_reason: As the provider names it.
    """

    id: str
    model: str
    reply: Reply
    input: int
    output: int
    thinking: int
    tool: tuple[str, dict[str, str]] | None
    stop_reason: str

    @classmethod
    def of(cls, body: object, reply: Reply, output_tokens: int, id: str) -> Turn:
        """Decide the answer to a request's body.

        Raises:
            Rejected: The body lacks what every request must have.
        """
        fields = _checked(body)
        bound: int = fields["max_tokens"]
        output = min(bound, output_tokens) if reply.output is None else reply.output
        tool = _tool_call(fields) if reply.tool else None
        return cls(
            id=id,
            model=reply.model or fields["model"],
            reply=reply,
            input=input_tokens(fields) if reply.input is None else reply.input,
            output=output,
            thinking=min(reply.thinking, output),
            tool=tool,
            stop_reason="tool_use" if tool else "max_tokens" if output >= bound else "end_turn",
        )

    def usage(self, output: int) -> dict[str, Any]:
        """The usage block of a message of which so many output tokens were made."""
        reply = self.reply
        usage: dict[str, Any] = {
            "input_tokens": self.input,
            "cache_creation_input_tokens": reply.cache_write_5m + reply.cache_write_1h,
            "cache_read_input_tokens": reply.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": reply.cache_write_5m,
                "ephemeral_1h_input_tokens": reply.cache_write_1h,
            },
            "output_tokens": output,
            "service_tier": "standard",
        }
        if self.thinking and output == self.output:
            usage["output_tokens_details"] = {"thinking_tokens": self.thinking}
        return usage


def input_tokens(body: Mapping[str, Any]) -> int:
    """Count a request's input: a quarter of the UTF-8 bytes of all its strings, rounded up, and 7 for the frame."""
    size, waiting = 0, [body.get(name) for name in ("system", "messages", "tools")]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return -(-size // _BYTES_PER_TOKEN) + _FRAME_TOKENS


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
    return _frame({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def message(turn: Turn) -> dict[str, Any]:
    """The body of a whole answer."""
    content: list[dict[str, Any]] = []
    if turn.thinking:
        content.append({"type": "thinking", "thinking": _SUMMARY, "signature": _SIGNATURE})
    if turn.tool:
        name, arguments = turn.tool
        content.append({"type": "tool_use", "id": _tool_id(turn), "name": name, "input": arguments})
    else:
        content.append({"type": "text", "text": "".join(map(_word, range(turn.output - turn.thinking)))})
    return _envelope(turn, content, turn.stop_reason, turn.output)


def events(turn: Turn) -> Iterator[bytes]:
    """The SSE events of a streamed answer, each ready to send: one token of text per event."""
    yield _frame({"type": "message_start", "message": _envelope(turn, [], None, min(1, turn.output))})
    yield from _blocks(turn)
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": turn.stop_reason, "stop_sequence": None},
    }
    if turn.reply.usage:
        end["usage"] = turn.usage(turn.output)
        for name in ("cache_creation", "service_tier"):  # told once, at the start
            del end["usage"][name]
    yield _frame(end)
    yield _frame({"type": "message_stop"})


_SUMMARY = "thought it over"
_SIGNATURE = "c2lnbmVk"


def _blocks(turn: Turn) -> Iterator[bytes]:
    index = 0
    if turn.thinking:
        yield _start(index, {"type": "thinking", "thinking": "", "signature": ""})
        yield _PING
        yield _delta(index, {"type": "thinking_delta", "thinking": _SUMMARY})
        yield _delta(index, {"type": "signature_delta", "signature": _SIGNATURE})
        yield _frame({"type": "content_block_stop", "index": index})
        index += 1
    if turn.tool:
        name, arguments = turn.tool
        yield _start(index, {"type": "tool_use", "id": _tool_id(turn), "name": name, "input": {}})
        yield _PING
        yield _delta(index, {"type": "input_json_delta", "partial_json": json.dumps(arguments)})
    else:
        yield _start(index, {"type": "text", "text": ""})
        yield _PING
        for number in range(turn.output - turn.thinking):
            yield _word_delta(index, number)
    yield _frame({"type": "content_block_stop", "index": index})


def _envelope(turn: Turn, content: list[dict[str, Any]], stop_reason: str | None, output: int) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "id": turn.id,
        "type": "message",
        "role": "assistant",
        "model": turn.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }
    return {**whole, "usage": turn.usage(output)} if turn.reply.usage else whole


def _checked(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise Rejected(400, "the body must be a JSON object")
    for name, kind in (("model", str), ("max_tokens", int), ("messages", list)):
        if name not in body:
            raise Rejected(400, f"{name}: Field required")
        if type(body[name]) is not kind or not body[name]:
            raise Rejected(400, f"{name}: must be a {kind.__name__}, not empty and not zero")
    if body["max_tokens"] < 0:
        raise Rejected(400, "max_tokens: must be 1 or more")
    return body


def _tool_call(body: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Call the request's first tool, with a word for every argument that it requires."""
    tools = body.get("tools")
    try:
        tool = tools[0]  # type: ignore[index]
        required = tool.get("input_schema", {}).get("required", [])
        return str(tool["name"]), {str(name): _word(number).strip() for number, name in enumerate(required)}
    except (AttributeError, KeyError, LookupError, TypeError):
        raise Rejected(400, "tools: x-demo asks for a tool call, and the request brings no tool") from None


def _tool_id(turn: Turn) -> str:
    return f"toolu_{turn.id}"


def _word(number: int) -> str:
    return f"w{number} "


@lru_cache(maxsize=8192)
def _word_delta(index: int, number: int) -> bytes:
    return _delta(index, {"type": "text_delta", "text": _word(number)})


def _start(index: int, block: dict[str, Any]) -> bytes:
    return _frame({"type": "content_block_start", "index": index, "content_block": block})


def _delta(index: int, delta: dict[str, Any]) -> bytes:
    return _frame({"type": "content_block_delta", "index": index, "delta": delta})


def _frame(event: Mapping[str, Any]) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, separators=(',', ':'))}\n\n".encode()


_PING = _frame({"type": "ping"})
