"""Turn: one answer of the demo provider, decided but not yet put into the words of a protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from budget.demo.reply import Reply

__all__ = ["Rejected", "Turn", "count", "fields_of", "fill", "first_tool", "frame", "word"]

_BYTES_PER_TOKEN = 4


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
    """One answer. Amounts are tokens.

    Attributes:
        id: What the answer's own id is made of.
        request: The request's body.
        reply: What the call was told to be like.
        input: Uncached input.
        output: All output, thinking included; of each choice, where the request asks for several.
        thinking: How many of `output` are thinking.
        full: Whether the request's bound ended the output.
        tool: Name and input of the tool called, or None.
        pieces: The text, one token each; one piece where it is JSON.
    """

    id: str
    request: Mapping[str, Any]
    reply: Reply
    input: int
    output: int
    thinking: int
    full: bool
    tool: tuple[str, dict[str, str]] | None
    pieces: tuple[str, ...]

    @classmethod
    def of(
        cls,
        request: Mapping[str, Any],
        reply: Reply,
        usual: int,
        id: str,
        *,
        input: int,
        bound: int | None,
        tool: tuple[str, dict[str, str]] | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Turn:
        """Decide the answer to a request.

        Args:
            request: The body, checked.
            reply: What the call was told to be like.
            usual: The output where nothing says how much.
            id: What the answer's own id is made of.
            input: What the request counts for.
            bound: The request's own bound on the output.
            tool: Name and input of the tool to call.
            schema: The JSON schema that the text must follow.
        """
        most = usual if bound is None else min(bound, usual)
        output = most if reply.output is None else reply.output
        thinking = min(reply.thinking, output)
        words = tuple(map(word, range(output - thinking)))
        return cls(
            id=id,
            request=request,
            reply=reply,
            input=input if reply.input is None else reply.input,
            output=output,
            thinking=thinking,
            full=bound is not None and output >= bound,
            tool=tool,
            pieces=words if schema is None else (json.dumps(fill(schema)),),
        )

    @property
    def model(self) -> str:
        """The model as answered."""
        return self.reply.model or str(self.request["model"])

    @property
    def tier(self) -> str:
        """The service tier as OpenAI answers it."""
        asked = self.request.get("service_tier")
        return asked if asked in ("flex", "priority") else "default"

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.pieces)


def fields_of(body: object, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """Return a body's fields, among which there must be these, of these kinds and not empty.

    Raises:
        Rejected: One is missing or of another kind.
    """
    if not isinstance(body, dict):
        raise Rejected(400, "the body must be a JSON object")
    for name, kind in kinds.items():
        if name not in body:
            raise Rejected(400, f"{name}: Field required")
        known = kind if isinstance(kind, tuple) else (kind,)
        if type(body[name]) not in known or not body[name]:
            wanted = " or ".join(each.__name__ for each in known)
            raise Rejected(400, f"{name}: must be a {wanted}, not empty and not zero")
    return body


def count(values: Iterable[object]) -> int:
    """Count the tokens of JSON values: a quarter of the UTF-8 bytes of all strings, rounded up."""
    size, waiting = 0, list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return -(-size // _BYTES_PER_TOKEN)


def first_tool(tools: object, schema_name: str) -> tuple[str, dict[str, str]]:
    """Return a call of the first tool of a request, with a word for every argument that it requires.

    Raises:
        Rejected: There is none.
    """
    try:
        tool = tools[0]  # type: ignore[index]
        return str(tool["name"]), fill(tool.get(schema_name) or {})
    except (AttributeError, KeyError, LookupError, TypeError):
        raise Rejected(400, "tools: x-demo asks for a tool call, and the request brings no tool") from None


def fill(schema: Mapping[str, Any]) -> dict[str, str]:
    """Return an object that a JSON schema allows, if all that it requires may be text."""
    return {str(name): word(number).strip() for number, name in enumerate(schema.get("required") or ())}


def word(number: int) -> str:
    """Return the text of one token of output."""
    return f"w{number} "


def frame(event: Mapping[str, Any], kind: str | None = None) -> bytes:
    """Return an event as it is sent, named if it has a name."""
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps(event, separators=(',', ':'))}\n\n".encode()
