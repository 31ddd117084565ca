"""Cohere chat: version 2 is read as of an OpenAI-compatible server (`compatible`), version 1 is written as that first.

Version 1 (`message`, `chat_history`, `preamble`) has the fields of the SDK `cohere` 7.3 (base_client.py, read
2026-11-22). Its connectors and conversations that the server keeps are open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.compatible import measure_chat
from budget.estimator.plain import as_fields, as_items, compact, shown

__all__ = ["measure"]

_READ = ("message", "chat_history", "preamble", "tools", "tool_results")
_FREE = ("accepts", "force_single_step", "raw_prompting", "search_queries_only")
_ROLES = {"USER": "user", "CHATBOT": "assistant", "SYSTEM": "system", "TOOL": "user"}


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a Cohere chat body of either version once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    return measure_chat(_second(body) if "message" in body and "messages" not in body else body, vocabulary)


def _second(body: Mapping[str, Any]) -> Mapping[str, Any]:
    messages = []
    if body.get("preamble") is not None:
        messages.append({"role": "system", "content": body["preamble"]})
    for i, turn in enumerate(as_items(body.get("chat_history") or (), "chat_history")):
        place = f"chat_history[{i}]"
        fields = as_fields(turn, place)
        said = fields.get("role")
        role = _ROLES.get(said.upper()) if isinstance(said, str) else None
        if role is None:
            raise ConfigError(f"{place}.role: {shown(said)!r} is not one of {', '.join(_ROLES)}")
        parts = [fields[name] for name in ("message", "tool_calls", "tool_results") if fields.get(name)]
        messages.append({"role": role, "content": [_text(part, place) for part in parts]})
    if not isinstance(body["message"], str):
        raise ConfigError(f"message: must be a string, not {type(body['message']).__name__}")
    messages.append({"role": "user", "content": body["message"]})
    for i, result in enumerate(as_items(body.get("tool_results") or (), "tool_results")):
        messages.append({"role": "user", "content": [_text(result, f"tool_results[{i}]")]})
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(as_items(body.get("tools") or (), "tools"))]
    kept = {name: value for name, value in body.items() if name not in _READ and name not in _FREE}
    return {**kept, "messages": messages, **({"tools": tools} if tools else {})}


def _tool(tool: object, place: str) -> Mapping[str, Any]:
    fields = dict(as_fields(tool, place))
    if "parameter_definitions" in fields:
        fields["parameters"] = fields.pop("parameter_definitions")
    return {"type": "function", "function": fields}


def _text(value: object, place: str) -> Mapping[str, Any]:
    return {"type": "text", "text": value if isinstance(value, str) else compact(value, place)}
