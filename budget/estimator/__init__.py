"""The estimator: how many tokens a request can cost at most, and is expected to cost, before it is sent. No I/O.

A request body is walked once into a `Measure`: counts of what was found, and the reasons why no upper bound exists, if
there are any. A measure holds no text and answers for any tokenizer (`bound`, `expected`). Small modules know the
shapes (`anthropic`, `openai_chat`, `openai_responses`, `openai_media`, `openai` for embeddings and the common parts,
`gemini`, `converse`, `compatible` and `embeddings` for servers that take OpenAI's or Anthropic's with differences,
`cohere`),
`tokens` counts offline, `bounds` has the formula, `constants` its dated figures. Whatever a module does not know in a
body makes the request open, never cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator import (
    anthropic,
    cohere,
    compatible,
    converse,
    embeddings,
    gemini,
    openai,
    openai_chat,
    openai_media,
    openai_responses,
)
from budget.estimator.bounds import Measure
from budget.estimator.constants import VOCABULARIES

__all__ = [
    "CHAT_ONLY", "PROVIDERS", "REQUEST_FIELDS", "VOCABULARIES", "Measure", "endpoint_of", "measure", "speaks_chat",
]  # fmt: skip

_SCOPE = frozenset({"user", "agent", "session", "run", "team", "org", "project", "provider"})
_FIELDS = anthropic.FIELDS | openai_chat.FIELDS | openai_responses.FIELDS | openai.EMBEDDINGS_FIELDS
_FIELDS |= gemini.FIELDS | converse.FIELDS

REQUEST_FIELDS = _FIELDS - _SCOPE
"""Every field of a body that is known here, plain and beta, but for those that are named like a usual attribute of a
scope: in `reserve(model=..., messages=..., user="alice")` alice is whose call it is, and OpenAI's `user` costs nothing.
Call extras such as `extra_headers` are not of a body."""

CHAT_ONLY = openai_chat.FIELDS - anthropic.FIELDS - _SCOPE
"""Fields that tell a chat completions body from a Messages body."""
_CHAT_ROLES = ("developer", "tool", "function")

_MEASURES: dict[tuple[str, str], Callable[[Mapping[str, Any], str], Measure]] = {
    ("anthropic", "messages"): anthropic.measure,
    ("openai", "chat"): openai_chat.measure,
    ("openai", "responses"): openai_responses.measure,
    ("openai", "embeddings"): openai.measure_embeddings,
    ("openai", "images"): openai_media.measure_images,
    ("openai", "speech"): openai_media.measure_speech,
    ("openai", "transcriptions"): openai_media.measure_recording,
    ("google", "generateContent"): gemini.measure,
    ("google", "embeddings"): gemini.measure_embeddings,
    ("google-vertex", "generateContent"): gemini.measure,
    ("google-vertex", "embeddings"): gemini.measure_embeddings,
    ("aws-bedrock", "converse"): converse.measure,
    ("cohere", "chat"): cohere.measure,
}
_OTHERS = {  # who takes what of Anthropic's and OpenAI's
    "messages": "google-vertex aws-bedrock azure xai deepseek fireworks openrouter",
    "chat": "azure mistral xai deepseek groq together fireworks perplexity openrouter google google-vertex aws-bedrock "
    "anthropic",
    "responses": "azure xai groq openrouter fireworks aws-bedrock",
    "embeddings": "azure aws-bedrock mistral cohere together fireworks openrouter perplexity xai",
    "images": "azure aws-bedrock",
    "speech": "azure aws-bedrock",
    "transcriptions": "azure aws-bedrock",
}
for _endpoint, _walk in (
    ("messages", compatible.measure_messages),
    ("chat", compatible.measure_chat),
    ("responses", compatible.measure_responses),
    ("embeddings", embeddings.measure),
    ("images", openai_media.measure_images),
    ("speech", openai_media.measure_speech),
    ("transcriptions", openai_media.measure_recording),
):
    _MEASURES |= {(provider, _endpoint): _walk for provider in _OTHERS[_endpoint].split()}
PROVIDERS = (
    "anthropic", "openai", "google", "google-vertex", "aws-bedrock", "azure", "mistral", "xai", "deepseek", "groq",
    "cohere", "together", "fireworks", "perplexity", "openrouter",
)  # fmt: skip
_ENDPOINTS = (
    "messages", "chat", "responses", "embeddings", "generateContent", "converse", "images", "speech", "transcriptions",
)  # fmt: skip


def measure(body: Mapping[str, Any], *, provider: str, endpoint: str, vocabulary: str = "cl100k") -> Measure:
    """Walk a request body once and return what was found in it.

    Args:
        body: The body as the SDK's `create` takes it. It may hold the SDK's own models (an earlier answer's content
            blocks); sequences must be lists or tuples.
        provider: Whose API ("anthropic", "openai", "google", "aws-bedrock" ...).
        endpoint: Which of its endpoints: "messages", "chat", "responses", "embeddings", "generateContent", "converse",
            "images", "speech", "transcriptions".
        vocabulary: Whose tokens to count, best that of the model's tokenizer (`VOCABULARIES`). The measure then bounds
            that one tightly, and those of the other vocabulary loosely.

    Raises:
        ConfigError: The provider or endpoint is unknown or not available in this version, or the body has a shape that
            the API does not take; the error names the place.
        ArgumentTypeError: The body holds something that is not JSON, such as a generator.
    """
    for name, value, known in (("provider", provider, PROVIDERS), ("endpoint", endpoint, _ENDPOINTS)):
        if value not in known:
            raise ConfigError(f"{name}: {str(value)[:40]!r} is not one of {', '.join(known)}")
    walk = _MEASURES.get((provider, endpoint))
    if walk is None:
        available = ", ".join(f"{p} {e}" for p, e in _MEASURES)
        raise ConfigError(f"{provider} {endpoint} is not available in this version, which has: {available}")
    if not isinstance(body, Mapping):
        raise ArgumentTypeError(f"body: a mapping of the request's fields is needed, not {type(body).__name__}")
    return walk(body, vocabulary)


def endpoint_of(body: Mapping[str, Any], provider: str, model: str, embeds: bool) -> str:
    """Tell which endpoint of a provider other than OpenAI a body is for, from what it holds.

    Args:
        body: The request.
        provider: Whose API.
        model: The model's name.
        embeds: Whether the model makes embeddings.
    """
    if embeds:
        return "embeddings"
    if "contents" in body:
        return "generateContent"
    claude = "claude" in model and "max_tokens" in body and provider in ("google-vertex", "aws-bedrock", "azure")
    if provider == "anthropic" or claude or "anthropic_version" in body:
        return "messages"
    if provider == "aws-bedrock":
        return "converse"
    return "responses" if "input" in body and "messages" not in body else "chat"


def speaks_chat(body: Mapping[str, Any]) -> bool:
    """Whether a body with messages is one of chat completions, by what Messages does not have."""
    return (
        not body.keys().isdisjoint(CHAT_ONLY)
        or any(message.get("role") in _CHAT_ROLES or "tool_calls" in message for message in _rows(body, "messages"))
        or any("function" in tool for tool in _rows(body, "tools"))
    )


def _rows(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = body.get(name)
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, (list, tuple)) else []
