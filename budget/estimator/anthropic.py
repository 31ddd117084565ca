"""Anthropic Messages: walk a request body once, count every string, and name what has no upper bound.

Closed are the shapes whose whole cost is in the request: text, tool calls and results, thinking, documents and search
results given as text, PDF given as data, client tools; and images, which have a cap wherever they come from. Open, with
a reason, is what brings input from elsewhere or repeats the call on the server (documents by URL or file, server tools,
containers, MCP, threads, compaction, fallbacks), and whatever is not known here: a type, a role, a field. What is open
is not counted.

The fields and types are those of the SDK `anthropic` 2.12 (types/message_create_params.py and types/beta/, read
2026-11-21), with `temperature`, `top_k`, `top_p` and `output_format`, which earlier versions send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.plain import as_fields, as_items, shown
from budget.estimator.walk import Walk, read_count, read_traits

__all__ = ["FIELDS", "measure"]

_TRAITS = ("service_tier", "speed", "inference_geo")
# fmt: off
_FREE = frozenset({
    "model", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p", "tool_choice", "diagnostics",
    "billing_policy", "betas", "user_profile_id", "workspace_id",
    "fallback_credit_token",  # only lowers the price of cache writes
})
_READ = frozenset({
    "messages", "system", "tools", "max_tokens", "cache_control", "thinking", "output_config", "output_format",
    "context_management",
})
_TOOL_FIELDS = frozenset({
    "type", "name", "description", "input_schema", "cache_control", "strict", "defer_loading", "allowed_callers",
    "input_examples", "eager_input_streaming", "max_characters", "display_width_px", "display_height_px",
    "display_number", "enable_zoom", "configs",
})
# fmt: on
_OPEN = {
    "container": "files and skills of a container are not in the request",
    "mcp_servers": "their tools and answers are not in the request",
    "fallbacks": "other models may answer too, at their own price",
    "compaction": "a compaction request",
    "thread": "the conversation is kept by the server",
}
FIELDS = _FREE | _READ | _OPEN.keys() | frozenset(_TRAITS)

_BLOCK_FIELDS = {
    "text": {"text", "citations"},
    "tool_use": {"id", "name", "input", "caller", "toolset_name"},
    "tool_result": {"tool_use_id", "content", "is_error", "toolset_name"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "search_result": {"content", "source", "title", "citations"},
    "document": {"source", "title", "context", "citations"},
    "image": {"source"},
}
_CONTENT = frozenset(_BLOCK_FIELDS)
_RESULT = frozenset({"text", "image", "search_result", "document"})
_DOCUMENT = frozenset({"text", "image"})
_TEXT = frozenset({"text"})
_IMAGE_SOURCES = ("base64", "url", "file")
_ROLES = {"user": _CONTENT, "assistant": _CONTENT, "system": _TEXT}

_CLIENT_TOOLS: Mapping[str | None, tuple[str, ...]] = {  # by type: what the provider's own schema is counted as
    None: (),
    "custom": (),
    "bash_20241022": ("bash",),
    "bash_20250124": ("bash",),
    "text_editor_20241022": ("text_editor",),
    "text_editor_20250124": ("text_editor",),
    "text_editor_20250429": ("text_editor",),
    "text_editor_20250728": ("text_editor",),
    "memory_20250818": ("memory",),
    "computer_20241022": ("computer",),
    "computer_20250124": ("computer",),
    "computer_20251124": ("computer",),
    "computer_toolset_20260801": ("computer_toolset",),
    "browser_toolset_20260801": ("browser_toolset",),
}
_SHRINKING_EDITS = ("clear_tool_uses_20250919", "clear_thinking_20251015")


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a Messages body once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    walk = _Walk(vocabulary)
    if body.get("messages") is None:
        raise ConfigError("messages: is missing; pass a list of messages")
    walk.each(body["messages"], "messages", walk.message)
    if (system := body.get("system")) is not None:
        walk.messages += 1
        walk.content(system, "system", _TEXT)
    walk.tools_offered(body.get("tools"))
    walk.options(body)
    return walk.result(
        read_count(body.get("max_tokens"), "max_tokens"),
        read_traits(body, *_TRAITS),
        documents=walk.documents,
        builtin=tuple(walk.builtin),
        citations=walk.citations,
        task_budget=walk.task_budget,
    )


class _Walk(Walk):
    def __init__(self, vocabulary: str) -> None:
        super().__init__(vocabulary)
        self.documents = 0
        self.citations = self.task_budget = False
        self.builtin: list[str] = []

    def message(self, message: object, place: str) -> None:
        fields = as_fields(message, place)
        self.messages += 1
        role = fields.get("role")
        if role is None:
            raise ConfigError(f"{place}.role: is missing; it must be one of {', '.join(_ROLES)}")
        if not isinstance(role, str) or role not in _ROLES:
            self.reason(place, f"unknown role {shown(role)}")
            return
        known = {"role", "content"} | ({"clear_at", "output_config"} if role == "system" else set())
        self.unknown_fields(fields, known, place)
        if fields.get("content") is not None:
            self.content(fields["content"], f"{place}.content", _ROLES[role])
        elif role != "system":
            raise ConfigError(f"{place}.content: is missing; it must be a string or a list of blocks")

    def content(self, content: object, place: str, allowed: frozenset[str]) -> None:
        if isinstance(content, str):
            self.base_tokens += self.count(content)
            return
        for i, block in enumerate(as_items(content, place)):
            self._block(as_fields(block, f"{place}[{i}]"), f"{place}[{i}]", allowed)

    def _block(self, block: Mapping[str, Any], place: str, allowed: frozenset[str]) -> None:
        kind = block.get("type")
        if kind is None:
            raise ConfigError(f"{place}.type: is missing")
        self._cache(block, place)
        if not isinstance(kind, str) or kind not in allowed:
            self.reason(place, shown(kind))
            return
        self.unknown_fields(block, {"type", "cache_control"} | _BLOCK_FIELDS[kind], place)
        nested: tuple[str, ...] = ()
        if kind in ("tool_use", "tool_result"):
            self.blocks += 1
            nested = ("content",) if kind == "tool_result" else ()
        elif kind in ("text", "document", "search_result"):
            self.parts += 1
        if kind in ("document", "search_result"):
            self.documents += 1
            nested = ("content", "source") if kind == "document" else ("content",)
            cited = block.get("citations")
            self.citations |= cited is not None and as_fields(cited, f"{place}.citations").get("enabled") is True
        elif kind == "image":
            self._image(block.get("source"), f"{place}.source")
            return
        for name in _BLOCK_FIELDS[kind] - set(nested):
            self.value(block.get(name), f"{place}.{name}")
        if kind == "document":
            self._document_source(block.get("source"), place)
        elif block.get("content") is not None:
            self.content(block["content"], f"{place}.content", _RESULT if kind == "tool_result" else _TEXT)

    def _image(self, source: object, place: str) -> None:
        fields = as_fields(source, place)
        kind = fields.get("type")
        if kind in _IMAGE_SOURCES:
            self.image(fields.get("data"))
        else:
            self.reason(place, f"image from {shown(kind)}")

    def _document_source(self, source: object, place: str) -> None:
        fields = as_fields(source, f"{place}.source")
        kind = fields.get("type")
        if kind == "text":
            self.value(fields.get("data"), f"{place}.source.data")
        elif kind == "content":
            self.content(fields.get("content"), f"{place}.source.content", _DOCUMENT)
        elif kind == "base64":
            self.pdf(fields.get("data"), f"{place}.source")
        else:
            self.reason(place, f"document from {shown(kind)}")

    def tools_offered(self, tools: object) -> None:
        if tools is not None:
            self.each(tools, "tools", self._tool_offered)

    def _tool_offered(self, tool: object, place: str) -> None:
        fields = as_fields(tool, place)
        self._cache(fields, place)
        kind = fields.get("type")
        if kind is not None and (not isinstance(kind, str) or kind not in _CLIENT_TOOLS):
            self.reason(place, shown(kind))
            return
        self.unknown_fields(fields, _TOOL_FIELDS, place)
        self.builtin.extend(_CLIENT_TOOLS.get(kind, ()))
        self.tool({name: value for name, value in fields.items() if name != "cache_control"}, place)

    def options(self, body: Mapping[str, Any]) -> None:
        self.unknown_fields(body, FIELDS, "")
        self._cache(body, "")
        self.open_fields(body, _OPEN)
        if (thinking := body.get("thinking")) is not None:
            self.thinking = as_fields(thinking, "thinking").get("type") != "disabled"
        if (edits := body.get("context_management")) is not None:
            self._context_management(as_fields(edits, "context_management"))
        if (config := body.get("output_config")) is not None:
            config = as_fields(config, "output_config")
            self.unknown_fields(config, {"effort", "format", "task_budget"}, "output_config")
            self.task_budget = config.get("task_budget") is not None
            self.schema(config.get("format"), "output_config.format")
        self.schema(body.get("output_format"), "output_format")

    def _context_management(self, config: Mapping[str, Any]) -> None:
        self.unknown_fields(config, {"edits"}, "context_management")
        edits = config.get("edits")
        for i, edit in enumerate(as_items(edits, "context_management.edits") if edits is not None else ()):
            place = f"context_management.edits[{i}]"
            kind = as_fields(edit, place).get("type")
            if kind not in _SHRINKING_EDITS:
                self.reason(place, shown(kind))

    def _cache(self, holder: Mapping[str, Any], place: str) -> None:
        if (control := holder.get("cache_control")) is None:
            return
        place = f"{place}.cache_control".lstrip(".")
        ttl = as_fields(control, place).get("ttl")
        if ttl in (None, "5m", "1h"):
            self.ttls.add(ttl or "5m")
        else:
            self.reason(place, f"unknown ttl {shown(ttl)}")
