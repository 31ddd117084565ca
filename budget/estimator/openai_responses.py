"""OpenAI Responses: walk a request body once, count every string, and name what has no upper bound.

Closed are text, functions and custom tools, their calls and results, encrypted reasoning, output schemas, images (by
URL or file too, where the model has a cap for them) and PDF given as data. Open, with a reason, is what the server adds
(earlier responses, conversations, prompt templates, items by reference, built-in tools, compaction), files by URL or id
and other files, and whatever is not known here. What is open is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.openai import DESCRIBED, FREE, MediaPart, OpenAIWalk, reasons_unasked
from budget.estimator.plain import as_fields, shown
from budget.estimator.walk import read_count, read_traits

__all__ = ["FIELDS", "measure"]

# fmt: off
_FREE = FREE | {
    "background", "background_options", "image", "include", "max_tool_calls",
    "truncation",  # only drops input
}
_READ = frozenset({
    "input", "instructions", "tools", "tool_choice", "text", "reasoning", "max_output_tokens", "prompt_cache_options",
    "service_tier",
})
# fmt: on
_OPEN = {
    "previous_response_id": "earlier turns are kept by the server",
    "conversation": "earlier turns are kept by the server",
    "prompt": "the template is kept by the server",
    "context_management": "compaction asks the model once more",
    "moderation": "what another model is asked is not in the request",
    "access_programs": "another model may answer, at its own price",
}
FIELDS = _FREE | _READ | _OPEN.keys()

_CONTENT = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_REASONING = {"summary_text": "text", "reasoning_text": "text"}
_ROLES = ("user", "assistant", "system", "developer")
_ITEM_FIELDS = {
    "message": {"role", "content", "phase"},
    "function_call": {"call_id", "name", "arguments", "namespace", "caller"},
    "function_call_output": {"call_id", "output", "name", "namespace", "caller"},
    "custom_tool_call": {"call_id", "name", "input", "namespace", "caller"},
    "custom_tool_call_output": {"call_id", "output", "caller"},
    "reasoning": {"summary", "content", "encrypted_content"},
}
_COUNTED = ("name", "name", "namespace", "arguments", "input", "caller")
"""Of a call, its id is not; the result has the name again in its place."""
_TOOL_FIELDS = {"type", "allowed_callers", "defer_loading", "output_schema"}


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a Responses body once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    walk = _Walk(vocabulary)
    given = body.get("input")
    if isinstance(given, str):
        walk.messages += 1
        walk.value(given, "input")
    elif given is not None:
        walk.each(given, "input", walk.item)
    elif not any(body.get(name) for name in ("prompt", "previous_response_id", "conversation", "instructions")):
        raise ConfigError("input: is missing; pass a text or a list of items")
    if (instructions := body.get("instructions")) is not None:
        walk.messages += 1
        walk.text(instructions, "instructions")
    walk.tools_offered(body.get("tools"))
    walk.options(body)
    output_max = read_count(body.get("max_output_tokens"), "max_output_tokens", 1)
    return walk.result(
        output_max, read_traits(body, "service_tier"), sealed_chars=walk.sealed_chars,
        shown_tool_tokens=walk.shown_tool_tokens,
    )  # fmt: skip


class _Walk(OpenAIWalk):
    sealed_chars = 0

    def item(self, given: object, place: str) -> None:
        item = as_fields(given, place)
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind is None:
            raise ConfigError(f"{place}.type: is missing")
        if not isinstance(kind, str) or kind not in _ITEM_FIELDS:
            self.reason(place, shown(kind))
            return
        self.unknown_fields(item, {"type", "id", "status"} | _ITEM_FIELDS[kind], place)
        if kind == "message":
            self._message(item, place)
        elif kind == "reasoning":
            self._reasoning(item, place)
        else:
            self.blocks += 1
            self.messages += 1
            for name in _COUNTED:
                self.value(item.get(name), f"{place}.{name}")
            if kind.endswith("_output"):
                self.parts_of(item.get("output"), f"{place}.output", _CONTENT, self._media())

    def _message(self, item: Mapping[str, Any], place: str) -> None:
        self.messages += 1
        role = item.get("role")
        if role is None:
            raise ConfigError(f"{place}.role: is missing; it must be one of {', '.join(_ROLES)}")
        if not isinstance(role, str) or role not in _ROLES:
            self.reason(place, f"unknown role {shown(role)}")
            return
        if item.get("content") is None:
            raise ConfigError(f"{place}.content: is missing; it must be a string or a list of parts")
        self.parts_of(item["content"], f"{place}.content", _CONTENT, self._media())
        self.value(item.get("phase"), f"{place}.phase")

    def _media(self) -> dict[str, MediaPart]:
        return {
            "input_image": MediaPart(("image_url", "file_id", "detail"), self._image_part),
            "input_file": MediaPart(("file_data", "file_id", "file_url", "filename", "detail"), self.file),
        }

    def _image_part(self, part: Mapping[str, Any], _: str) -> None:
        self.image(part.get("image_url"), part.get("detail"))

    def _reasoning(self, item: Mapping[str, Any], place: str) -> None:
        self.messages += 1
        sealed = item.get("encrypted_content")
        if isinstance(sealed, str) and sealed:
            self.sealed_chars += len(sealed)
        elif not item.get("content"):
            self.reason(place, "reasoning that is kept by the server")
        for name in ("summary", "content"):
            if item.get(name) is not None:
                self.parts_of(item[name], f"{place}.{name}", _REASONING)

    def tools_offered(self, tools: object) -> None:
        if tools is not None:
            self.each(tools, "tools", self._tool_offered)

    def _tool_offered(self, tool: object, place: str) -> None:
        fields = as_fields(tool, place)
        kind = fields.get("type")
        if not isinstance(kind, str) or kind not in DESCRIBED:
            self.reason(place, shown(kind))
            return
        self.unknown_fields(fields, DESCRIBED[kind] | _TOOL_FIELDS, place)
        self.tool(fields, place)
        self.shown_tool(fields, kind, place)

    def options(self, body: Mapping[str, Any]) -> None:
        self.unknown_fields(body, FIELDS, "")
        self.open_fields(body, _OPEN)
        self.cache_options(body.get("prompt_cache_options"))
        if (text := body.get("text")) is not None:
            fields = as_fields(text, "text")
            self.unknown_fields(fields, {"format", "verbosity"}, "text")
            known = frozenset({"type", "name", "description", "schema", "strict"})
            self.format(fields.get("format"), "text.format", known)
        reasoning = as_fields(body.get("reasoning") or {}, "reasoning")
        self.unknown_fields(reasoning, {"context", "effort", "generate_summary", "mode", "summary"}, "reasoning")
        if reasoning.get("mode") not in (None, "standard"):
            self.reason("reasoning.mode", shown(reasoning["mode"]))
        effort = reasoning.get("effort")
        self.thinking = effort != "none" and (effort is not None or reasons_unasked(body.get("model")))
        if not isinstance(body.get("tool_choice"), str):
            self.value(body.get("tool_choice"), "tool_choice")
