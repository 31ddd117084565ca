"""Turns: which tool calls stand in the body of a request to a model.

A request brings its conversation, the model's tool calls among it, so what an agent has been doing can be read from the
request that is about to be sent. Nothing of it is kept: calls are compared where they stand.

The shapes: Anthropic's Messages (`tool_use`), OpenAI's Chat (`tool_calls`, and the `function_call` before them), which
Mistral, Groq, Cohere and others share, OpenAI's Responses (`function_call` and its like, as items of their own),
Google's `functionCall` and Bedrock's `toolUse`. Tools that the provider runs itself are not among them, nor is what
stands in a conversation that the provider keeps, which a request continues by its id alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from budget.loops import arguments_of

__all__ = ["ToolCall", "Turns"]

_LISTS = ("messages", "input", "contents")
_MODELS = ("assistant", "model")
_ITEMS = {
    "function_call": "arguments",
    "custom_tool_call": "input",
    "shell_call": "action",
    "local_shell_call": "action",
}
_BLANK = " \n\t\r"


class ToolCall:
    """One tool call of a model: equal to another of the same name whose arguments have the same value.

    Attributes:
        name: The tool's.
        given: The arguments: a value, or its text in JSON.
        id: What the provider knows the call by, or None.
    """

    __hash__ = None  # type: ignore[assignment]  # it is compared, and never kept
    __slots__ = ("_size", "_value", "given", "id", "name")

    def __init__(self, name: str, given: object, id: object):
        self.name, self.given, self.id = name, given, id
        self._size, self._value = -1, None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ToolCall) or self.name != other.name:
            return False
        mine, theirs = self.given, other.given
        if mine == theirs:
            return True
        texts = isinstance(mine, str) and isinstance(theirs, str)
        return texts and self._long() == other._long() and bool(self._read() == other._read())

    def _long(self) -> int:
        """Return how long its text is without blanks: the same for each way to set the same JSON."""
        if self._size < 0:
            text = str(self.given)
            self._size = len(text) - sum(map(text.count, _BLANK))
        return self._size

    def _read(self) -> Any:
        """Return the value of its text, in which the same members may stand in another order."""
        if self._value is None:
            self._value = arguments_of(self.given)
        return self._value


class Turns:
    """The tool calls of a request, read from the end as far as they are wanted.

    Args:
        body: The request's body.

    Attributes:
        calls: Those read so far, the newest first.
        last: How many of them the model made when it last spoke. If those were other words, that is 0.
    """

    def __init__(self, body: Mapping[str, Any]):
        items = next((body[name] for name in _LISTS if isinstance(body.get(name), (list, tuple))), ())
        self._items: Iterator[Any] = reversed(items)
        self.calls: list[ToolCall] = []
        speaking = False
        for item in self._items:
            found = _calls_of(item)
            if found is not None:
                speaking = True
                self.calls += reversed(found)
            elif speaking:
                break
        self.last = len(self.calls)

    def read(self, most: int) -> list[ToolCall]:
        """Return the calls, so many or all there are."""
        if len(self.calls) < most:
            for item in self._items:
                if found := _calls_of(item):
                    self.calls += reversed(found)
                    if len(self.calls) >= most:
                        break
        return self.calls[:most]


def _calls_of(item: object) -> list[ToolCall] | None:
    """Return the tool calls of one item of a conversation; None if it is not the model's."""
    if not isinstance(item, dict):
        return None
    if item.get("role") in _MODELS:
        return _in_message(item)
    kind = item.get("type")
    if kind in _ITEMS:
        return _call(item.get("name", kind), item.get(_ITEMS[kind]), item.get("call_id"))
    return [] if kind == "reasoning" else None


def _in_message(message: Mapping[str, Any]) -> list[ToolCall]:
    found = []
    if calls := message.get("tool_calls"):
        for each in _dicts(calls):
            found += _function(each.get("function", each.get("custom")), each.get("id"))
    if call := message.get("function_call"):
        found += _function(call, None)
    for part in _dicts(message.get("content") or message.get("parts")):
        if part.get("type") == "tool_use":
            found += _call(part.get("name"), part.get("input"), part.get("id"))
        elif use := part.get("toolUse"):
            found += _function(use, use.get("toolUseId") if isinstance(use, dict) else None)
        elif call := part.get("functionCall") or part.get("function_call"):
            found += _function(call, call.get("id") if isinstance(call, dict) else None)
    return found


def _function(call: object, id: object) -> list[ToolCall]:
    if not isinstance(call, dict):
        return []
    given = next((call[name] for name in ("arguments", "input", "args") if name in call), None)
    return _call(call.get("name"), given, id)


def _call(name: object, given: object, id: object) -> list[ToolCall]:
    return [ToolCall(name, given, id)] if isinstance(name, str) else []


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, (list, tuple)) else []
