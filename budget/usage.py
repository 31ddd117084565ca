"""Usage: what the provider says was used, normalised once into disjoint buckets.

OpenAI reports cached tokens inside its input figure, Anthropic beside it; here `input` never contains them. A limit's
"tokens" are all input (cached too) plus all output (reasoning too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["Usage"]

_COUNT_MAX = 2**53 - 1
_TRAITS = ("service_tier", "speed", "inference_geo")
_DEFAULT_TRAITS = {"standard", "default", "auto", "not_available", "global", "standard_only"}

_BUILT_IN = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by kind, in disjoint buckets, and the traits of the answer that change its price.

    Attributes:
        input: Input tokens that were neither read from nor written to a cache.
        cache_read: Input tokens read from a prompt cache.
        cache_write: Input tokens written to a prompt cache, by time to live ("5m", "1h"), "default" where nobody says.
        output: All output tokens, reasoning included.
        reasoning: How many of `output` were hidden reasoning, where the provider says so.
        tools: Calls of server tools ("web_search": 2).
        traits: What else decides the price: `service_tier`, `speed`, `inference_geo`; defaults are left out.
        model: The model as answered, where a whole response was given.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: Mapping[str, int] = field(default_factory=dict)
    output: int = 0
    reasoning: int = 0
    tools: Mapping[str, int] = field(default_factory=dict)
    traits: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None

    def __post_init__(self) -> None:
        counts = {"input": self.input, "cache_read": self.cache_read, "output": self.output}
        counts |= {"reasoning": self.reasoning, **self.cache_write, **self.tools}
        for name, count in counts.items():
            _count(count, name)

    @property
    def input_tokens(self) -> int:
        """All input tokens, cached ones too."""
        return self.input + self.cache_read + sum(self.cache_write.values())

    @property
    def tokens(self) -> int:
        """All input and all output tokens."""
        return self.input_tokens + self.output

    @classmethod
    def of(cls, source: object) -> Usage:
        """Normalise a provider's response or usage object.

        Args:
            source: A Usage, an SDK's response or usage model, or the same as a dict. Anthropic Messages, OpenAI chat,
                Responses and embeddings are read.

        Raises:
            ArgumentTypeError: The object carries no usage.
            ConfigError: A count is negative, not an integer, or inconsistent.
        """
        if isinstance(source, Usage):
            return source
        whole = _as_dict(source)
        usage = _as_dict(whole["usage"]) if whole.get("usage") is not None else whole
        traits = _traits(whole) | _traits(usage)
        model = whole.get("model")
        model = model if isinstance(model, str) else None
        if "prompt_tokens" in usage:
            return _openai(usage, "prompt_tokens", "completion_tokens", traits, model)
        if "input_tokens_details" in usage or "total_tokens" in usage:  # Anthropic gives no total
            return _openai(usage, "input_tokens", "output_tokens", traits, model, _built_in_calls(whole))
        if "input_tokens" in usage or "output_tokens" in usage:
            return _anthropic(usage, traits, model)
        raise ArgumentTypeError(f"usage: {type(source).__name__} carries no usage that is known here")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; empty buckets are left out."""
        fields = {name: getattr(self, name) for name in self.__slots__ if name != "model"}
        return {name: dict(v) if isinstance(v, Mapping) else v for name, v in fields.items() if v}


def _anthropic(usage: dict[str, Any], traits: dict[str, str], model: str | None) -> Usage:
    written = _get(usage, "cache_creation_input_tokens")
    by_ttl = {
        ttl: count
        for ttl in ("5m", "1h")
        if (count := _get(_as_dict(usage.get("cache_creation")), f"ephemeral_{ttl}_input_tokens"))
    }
    if sum(by_ttl.values()) < written:  # a breakdown may be missing; what it does not name was written for 5 minutes
        by_ttl["5m"] = by_ttl.get("5m", 0) + written - sum(by_ttl.values())
    calls = _as_dict(usage.get("server_tool_use"))
    tools = {name.removesuffix("_requests"): n for name in calls if (n := _get(calls, name))}
    return Usage(
        input=_get(usage, "input_tokens"),
        cache_read=_get(usage, "cache_read_input_tokens"),
        cache_write=by_ttl,
        output=_get(usage, "output_tokens"),
        reasoning=_get(_as_dict(usage.get("output_tokens_details")), "thinking_tokens"),
        tools=tools,
        traits=traits,
        model=model,
    )


def _openai(
    usage: dict[str, Any], inp: str, out: str, traits: dict[str, str], model: str | None,
    tools: Mapping[str, int] | None = None,
) -> Usage:  # fmt: skip
    details = _as_dict(usage.get(f"{inp}_details"))
    read, written = _get(details, "cached_tokens"), _get(details, "cache_write_tokens")
    by_ttl = {
        ttl: count
        for ttl in ("30m", "12h")
        if (count := _get(_as_dict(details.get("cache_write_tokens_details")), f"ttl_{ttl}_tokens"))
    }
    if unsaid := max(0, written - sum(by_ttl.values())):
        by_ttl["default"] = unsaid
    written = sum(by_ttl.values())
    fresh = _get(usage, inp) - read - written
    if fresh < 0:
        raise ConfigError(f"usage: {inp} is below its own cached tokens ({read} read, {written} written)")
    return Usage(
        input=fresh,
        cache_read=read,
        cache_write=by_ttl,
        output=_get(usage, out),
        reasoning=_get(_as_dict(usage.get(f"{out}_details")), "reasoning_tokens"),
        tools=tools or {},
        traits=traits,
        model=model,
    )


def _built_in_calls(response: dict[str, Any]) -> dict[str, int]:
    """Count the calls of built-in tools in a Responses answer; its usage does not.

    Of a web search only the searches are billed, not the pages that it opens: "Search actions incur a tool call cost"
    (developers.openai.com/api/docs/guides/tools-web-search, read 2026-11-22).
    """
    offered = {str(_as_dict(tool).get("type")) for tool in response.get("tools") or ()}
    preview = any(name.startswith("web_search_preview") for name in offered)
    calls: dict[str, int] = {}
    for item in response.get("output") or ():
        fields = _as_dict(item)
        name = _BUILT_IN.get(str(fields.get("type")))
        if name == "web_search":
            action = fields.get("action")
            if action is not None and _as_dict(action).get("type", "search") != "search":
                continue
            name = "web_search_preview" if preview else name
        if name:
            calls[name] = calls.get(name, 0) + 1
    return calls


def _traits(source: dict[str, Any]) -> dict[str, str]:
    values = {name: source.get(name) for name in _TRAITS}
    return {k: v for k, v in values.items() if isinstance(v, str) and v not in _DEFAULT_TRAITS}


def _as_dict(source: object) -> dict[str, Any]:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return dict(source)
    if hasattr(source, "model_fields_set"):  # a pydantic model: its fields, and what a newer API added to them
        return {**source.__dict__, **(getattr(source, "__pydantic_extra__", None) or {})}
    raise ArgumentTypeError(f"usage: {type(source).__name__} is neither a response, nor a usage object, nor a dict")


def _get(source: dict[str, Any], name: str) -> int:
    value = source.get(name)
    return 0 if value is None else _count(value, name)


def _count(value: object, name: str) -> int:
    if type(value) is not int:
        raise ArgumentTypeError(f"usage: {name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _COUNT_MAX:
        raise ConfigError(f"usage: {name} = {value} is outside 0 .. 2^53 - 1")
    return value
