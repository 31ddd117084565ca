"""What providers report about a call, read into the one shape of `Usage`.

Each provider says the same few facts in its own words, and two of them differ in meaning: whether cached tokens are
inside the input figure (OpenAI, Gemini) or beside it (Anthropic, Converse), and whether reasoning tokens are inside the
output figure (OpenAI, Anthropic) or beside it (Gemini, xAI, Perplexity). There is a reader per shape, told by its keys
and not by the provider's name, since gateways speak in the words of others. A reader returns fields of a `Usage`: all
tokens, each counted once. What no reader knows is an error, never a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from budget.errors import ArgumentTypeError
from budget.reported import google, openai, others
from budget.reported.fields import Fields, as_count, as_dict

__all__ = ["as_count", "reported", "traits_of"]

_USAGES = ("usage", "usageMetadata", "usage_metadata", "meta")
_WRAPPERS = ("response", "message", "delta", "metadata", "x_groq")
"""What events of streams carry an answer or its end in."""

_READERS: tuple[tuple[set[str], Callable[[Fields, Fields, str | None], Fields]], ...] = (
    ({"prompt_tokens"}, openai.chat),
    ({"generation_token_count"}, others.llama),
    ({"promptTokenCount", "candidatesTokenCount", "prompt_token_count", "candidates_token_count"}, google.gemini),
    ({"billed_units", "billedUnits", "tokens"}, others.cohere),
    ({"inputTokens", "outputTokens"}, others.converse),
    ({"input_tokens_details", "input_token_details", "total_tokens"}, openai.responses),  # Anthropic gives no total
    ({"input_tokens", "output_tokens"}, others.anthropic),
    ({"inputTextTokenCount"}, others.titan),
    ({"amazon-bedrock-invocationMetrics"}, others.metrics),
    ({"embeddings"}, google.embeddings),
    ({"seconds"}, openai.duration),
)
"""By a key that a usage of the shape has; the first that fits."""

_TIERS = ("service_tier", "serviceTier", "trafficType", "traffic_type")
_DECIDING = frozenset({*_TIERS, "search_context", "search_context_size", "speed", "inference_geo"})
_DEFAULTS = {
    "standard", "default", "auto", "not_available", "global", "standard_only", "on_demand", "unspecified",
    "traffic_type_unspecified",
}  # fmt: skip


def reported(source: object, provider: str | None) -> Fields:
    """Read a provider's answer, an event of its stream, or the usage in it.

    Args:
        source: An SDK's model or a mapping.
        provider: Whose it is, where the caller knows.

    Returns:
        The fields of a `Usage`.

    Raises:
        ArgumentTypeError: It carries no usage that is known here, or leaves out what its API always says.
        ConfigError: A count is negative, not an integer, or inconsistent.
    """
    whole, usage = _unwrapped(as_dict(source))
    names = (whole.get(key) for key in ("model", "modelVersion", "model_version"))
    read = next((reader for keys, reader in _READERS if not keys.isdisjoint(usage)), None)
    if read is None or (read is openai.responses and "input_tokens" not in usage):
        raise ArgumentTypeError(f"usage: {type(source).__name__} carries no usage that is known here")
    return {
        **read(usage, whole, provider),
        "traits": traits_of(whole) | traits_of(usage),
        "model": next((name for name in names if isinstance(name, str)), None),
    }


def _unwrapped(whole: Fields) -> tuple[Fields, Fields]:
    """Return the answer and the usage in it; a usage alone is both."""
    for key in _USAGES:
        if whole.get(key) is not None:
            return whole, as_dict(whole[key])
    for key in _WRAPPERS:
        inner = whole.get(key)
        if isinstance(inner, Mapping) or hasattr(inner, "model_fields_set"):
            found, usage = _unwrapped(as_dict(inner))
            if found is not usage:
                return found, usage
    return whole, whole


def traits_of(source: Fields) -> dict[str, str]:
    """Return what of an answer, a usage or a request decides the price beside the counts; defaults are left out."""
    if _DECIDING.isdisjoint(source):
        return {}
    tier = next((value for name in _TIERS if (value := source.get(name))), None)
    if isinstance(tier, Mapping):  # Bedrock
        tier = tier.get("type")
    if isinstance(tier, str):  # Vertex says ON_DEMAND_FLEX; an SDK's enum is a str with a value
        tier = str(getattr(tier, "value", tier)).lower().removeprefix("on_demand_")
    context = source.get("search_context", source.get("search_context_size"))
    values = {"service_tier": tier, "search_context": context}
    values |= {name: source.get(name) for name in ("speed", "inference_geo")}
    return {name: value for name, value in values.items() if isinstance(value, str) and value not in _DEFAULTS}
