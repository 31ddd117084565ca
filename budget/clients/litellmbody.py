"""What of a call of LiteLLM's functions is the request, as an estimate reads it: the arguments that are not LiteLLM's.

An answer's message that is sent back (`messages.append(answer.choices[0].message)`, or its `model_dump()`) has fields
of LiteLLM's own, of which it makes what the provider knows: thinking blocks, signatures of thoughts, results of tools
that the provider ran. Most are empty, and add nothing; the others are counted as the text that they hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from budget.estimator.plain import as_fields, compact

__all__ = ["body_of"]

_LEADS_ELSEWHERE = ("fallbacks", "context_window_fallback_dict", "model_list", "model_alias_map", "silent_model")
_KEPT_ELSEWHERE = ("prompt_id",)
# Parameters that steer LiteLLM and are in no list of its own (`types/utils.py` of 1.106), and never sent in a body.
_STEERING = {
    "timeout", "base_url", "deployment_id", "extra_headers", "shared_session", "drop_params", "additional_drop_params",
    "organization", "extra_body", "project", "provider_specific_header",
}  # fmt: skip
_STEERING_PREFIXES = ("aws_", "vertex_", "azure_", "litellm_")
# Fields of LiteLLM's messages and tool calls that others than OpenAI know (`Message` of `types/utils.py` of 1.106).
_TEXTS = ("provider_specific_fields", "thinking_blocks", "reasoning_items", "reasoning_content", "caller")
_MEDIA = ("images", "audio")
_OWN = frozenset(_TEXTS + _MEDIA)


def body_of(given: Mapping[str, Any], litellm: Any) -> dict[str, Any]:
    """Return what of a call's arguments is the request."""
    steering = _STEERING | set(litellm.types.utils.all_litellm_params)
    body = {
        name: value for name, value in given.items()
        if value is not None and name not in steering and not name.startswith(_STEERING_PREFIXES)
    } | dict(given.get("extra_body") or {})  # fmt: skip
    if inspect.isclass(body.get("response_format")):
        schema = body["response_format"].model_json_schema()
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    if isinstance(body.get("messages"), list):
        body["messages"] = [_message(each, f"messages[{i}]") for i, each in enumerate(body["messages"])]
    if any(given.get(name) for name in _LEADS_ELSEWHERE):
        body["models"] = ["another"]  # which an estimate of a compatible server takes for what it is: open
    if any(given.get(name) for name in _KEPT_ELSEWHERE):
        body["preset"] = "kept"
    return body


def _message(message: Any, place: str) -> Any:
    """Return an answer's message with what is LiteLLM's own in it as parts of text; any other as it is."""
    if getattr(message, "role", None) != "assistant" and not _is_answer(message):
        return message
    said: list[Any] = []
    fields = _without_own(message, place, said)
    calls = fields.get("tool_calls")
    if isinstance(calls, (list, tuple)):
        fields["tool_calls"] = [_call(each, f"{place}.tool_calls[{i}]", said) for i, each in enumerate(calls)]
    if said:
        content = fields.get("content") or []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
        fields["content"] = [*parts, {"type": "text", "text": compact(said, place)}]
    return fields


def _is_answer(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "assistant"


def _call(call: Any, place: str, said: list[Any]) -> dict[str, Any]:
    fields = _without_own(call, place, said)
    if fields.get("function") is not None:
        fields["function"] = _without_own(fields["function"], f"{place}.function", said)
    return fields


def _without_own(thing: Any, place: str, said: list[Any]) -> dict[str, Any]:
    """Return the fields of a thing but for LiteLLM's own, of which those that hold text are added to `said`."""
    fields = dict(as_fields(thing, place))
    for name in _OWN & fields.keys():
        if name in _TEXTS or not _holds(fields[name]):
            value = fields.pop(name)
            said.extend([value] if _holds(value) else [])
    return fields


def _holds(value: Any) -> bool:
    """Whether there is anything in a value: not null, and not lists and objects of nothing else."""
    if isinstance(value, Mapping):
        return any(map(_holds, value.values()))
    return any(map(_holds, value)) if isinstance(value, (list, tuple)) else value not in (None, "")
