"""OpenAI chat completions: walk a request body once, count every string, and name what has no upper bound.

Closed are text, functions and custom tools, their calls and results, output schemas, predicted outputs, images (by URL
too, where the model has a cap for them), sounds and PDF given as data, answers in audio. Open, with a reason, are files
by id and other files, web search, and whatever is not known here. What is open is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.openai import DESCRIBED, FREE, MediaPart, OpenAIWalk, reasons_unasked
from budget.estimator.plain import as_fields, as_items, shown
from budget.estimator.walk import read_count, read_traits

__all__ = ["FIELDS", "measure"]

# fmt: off
_FREE = FREE | {
    "frequency_penalty", "logit_bias", "logprobs", "presence_penalty", "seed", "stop", "verbosity",
}
_READ = frozenset({
    "messages", "tools", "functions", "tool_choice", "function_call", "response_format", "max_completion_tokens",
    "max_tokens", "n", "prediction", "prompt_cache_options", "reasoning_effort", "service_tier", "modalities", "audio",
})
# fmt: on
_OPEN = {
    "web_search_options": "what a search finds is not in the request",
    "moderation": "what another model is asked is not in the request",
}
FIELDS = _FREE | _READ | _OPEN.keys()

_TEXT = {"text": "text"}
_TEXT_OR_REFUSAL = {"text": "text", "refusal": "refusal"}
_ROLES = {
    "system": _TEXT, "developer": _TEXT, "user": _TEXT, "assistant": _TEXT_OR_REFUSAL, "tool": _TEXT, "function": _TEXT
}  # fmt: skip
_MESSAGE_FIELDS = {"role", "content", "name"}
_ASSISTANT_FIELDS = _MESSAGE_FIELDS | {"refusal", "tool_calls", "function_call", "audio", "annotations", "parsed"}
_CALLS = {"function": ("name", "arguments"), "custom": ("name", "input")}


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a chat completions body once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    walk = _Walk(vocabulary)
    if body.get("messages") is None:
        raise ConfigError("messages: is missing; pass a list of messages")
    walk.each(body["messages"], "messages", walk.message)
    walk.tools_offered(body.get("tools"), body.get("functions"))
    walk.options(body)
    limits = [read_count(body.get(name), name, 1) for name in ("max_completion_tokens", "max_tokens")]
    return walk.result(
        max((limit for limit in limits if limit is not None), default=None),
        read_traits(body, "service_tier"),
        shown_tool_tokens=walk.shown_tool_tokens,
        choices=read_count(body.get("n"), "n", 1) or 1,
        predicted_tokens=walk.predicted(body.get("prediction")),
    )


class _Walk(OpenAIWalk):
    def message(self, message: object, place: str) -> None:
        fields = as_fields(message, place)
        self.messages += 1
        role = fields.get("role")
        if role is None:
            raise ConfigError(f"{place}.role: is missing; it must be one of {', '.join(_ROLES)}")
        if not isinstance(role, str) or role not in _ROLES:
            self.reason(place, f"unknown role {shown(role)}")
            return
        extra = {"tool_call_id"} if role == "tool" else set()
        self.unknown_fields(fields, (_ASSISTANT_FIELDS if role == "assistant" else _MESSAGE_FIELDS) | extra, place)
        if fields.get("content") is not None:
            media = self._media() if role in ("user", "tool") else {}
            self.parts_of(fields["content"], f"{place}.content", _ROLES[role], media)
        elif role not in ("assistant", "function"):
            raise ConfigError(f"{place}.content: is missing; it must be a string or a list of parts")
        self.value(fields.get("name"), f"{place}.name")
        if role == "tool":
            self.blocks += 1
        elif role == "assistant":
            self._assistant(fields, place)

    def _assistant(self, fields: Mapping[str, Any], place: str) -> None:
        self.value(fields.get("refusal"), f"{place}.refusal")
        for name in ("annotations", "parsed"):  # the SDK sends what it parsed itself, too
            self.value(fields.get(name) or None, f"{place}.{name}")
        if fields.get("audio") is not None:
            self.reason(f"{place}.audio", "audio that is kept by the server")
        if (call := fields.get("function_call")) is not None:
            self._called({"type": "function", "function": call}, f"{place}.function_call")
        calls = fields.get("tool_calls")
        for i, call in enumerate(as_items(calls, f"{place}.tool_calls") if calls is not None else ()):
            self._called(as_fields(call, f"{place}.tool_calls[{i}]"), f"{place}.tool_calls[{i}]")

    def _media(self) -> dict[str, MediaPart]:
        return {
            "image_url": MediaPart(("image_url",), self._image_part),
            "input_audio": MediaPart(("input_audio",), self._audio_part),
            "file": MediaPart(("file",), self._file_part),
        }

    def _image_part(self, part: Mapping[str, Any], place: str) -> None:
        image = as_fields(part.get("image_url"), f"{place}.image_url")
        self.unknown_fields(image, {"url", "detail"}, f"{place}.image_url")
        self.image(image.get("url"), image.get("detail"))

    def _audio_part(self, part: Mapping[str, Any], place: str) -> None:
        audio = as_fields(part.get("input_audio"), f"{place}.input_audio")
        self.unknown_fields(audio, {"data", "format"}, f"{place}.input_audio")
        self.audio(audio.get("data"), f"{place}.input_audio")

    def _file_part(self, part: Mapping[str, Any], place: str) -> None:
        file = as_fields(part.get("file"), f"{place}.file")
        self.unknown_fields(file, {"file_data", "file_id", "filename"}, f"{place}.file")
        self.file(file, f"{place}.file")

    def _called(self, call: Mapping[str, Any], place: str) -> None:
        kind = call.get("type") or "function"
        if not isinstance(kind, str) or kind not in _CALLS:
            self.reason(place, shown(kind))
            return
        self.unknown_fields(call, {"id", "type", "index", kind}, place)
        self.blocks += 1
        called = as_fields(call.get(kind), f"{place}.{kind}")
        self.unknown_fields(called, {*_CALLS[kind], "parsed_arguments"}, f"{place}.{kind}")
        for name in ("name", *_CALLS[kind], "parsed_arguments"):  # the result has the name again, in place of the id
            self.value(called.get(name), f"{place}.{kind}.{name}")

    def tools_offered(self, tools: object, functions: object) -> None:
        if tools is not None:
            self.each(tools, "tools", self._tool_offered)
        if functions is not None:
            self.each(functions, "functions", self._function_offered)

    def _tool_offered(self, tool: object, place: str) -> None:
        fields = as_fields(tool, place)
        kind = fields.get("type")
        if not isinstance(kind, str) or kind not in DESCRIBED:
            self.reason(place, shown(kind))
            return
        self.unknown_fields(fields, {"type", kind}, place)
        inner = f"{place}.{kind}"
        described = as_fields(fields.get(kind), inner)
        self.unknown_fields(described, DESCRIBED[kind], inner)
        self.tool(fields, place)
        self.shown_tool(described, kind, inner)

    def _function_offered(self, function: object, place: str) -> None:
        self.unknown_fields(as_fields(function, place), DESCRIBED["function"], place)
        self.tool(function, place)
        self.shown_tool(function, "function", place)

    def options(self, body: Mapping[str, Any]) -> None:
        self.unknown_fields(body, FIELDS, "")
        self.open_fields(body, _OPEN)
        self.cache_options(body.get("prompt_cache_options"))
        self.format(body.get("response_format"), "response_format", frozenset({"type", "json_schema"}))
        if "-search-" in str(body.get("model")):
            self.reason("model", "it searches the web unasked")
        modalities = body.get("modalities")
        for kind in as_items(modalities, "modalities") if modalities is not None else ():
            if kind == "audio":
                self.makes.add("audio")
            elif kind != "text":
                self.reason("modalities", shown(kind))
        effort = body.get("reasoning_effort")
        self.thinking = effort != "none" and (effort is not None or reasons_unasked(body.get("model")))
        for name in ("tool_choice", "function_call"):
            if not isinstance(body.get(name), str):
                self.value(body.get(name), name)

    def predicted(self, prediction: object) -> int:
        """Count a predicted output: what the answer does not hold of it is billed as output, beside it."""
        if prediction is None:
            return 0
        before = self.base_tokens
        fields = as_fields(prediction, "prediction")
        self.unknown_fields(fields, {"type", "content"}, "prediction")
        self.parts_of(fields.get("content"), "prediction.content", _TEXT)
        return self.base_tokens - before
