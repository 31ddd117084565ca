"""The estimator: how many tokens a request can cost at most, and is expected to cost, before it is sent. No I/O.

A request body is walked once into a `Measure`: counts of what was found, and the reasons why no upper bound exists, if
there are any. A measure holds no text and answers for any tokenizer (`bound`, `expected`). Small modules know the
shapes (`anthropic`, `openai_chat`, `openai_responses`, `openai` for embeddings and what its three have in common),
`tokens` counts offline, `bounds` has the formula, `constants` its dated figures. Whatever a module does not know in a
body makes the request open, never cheap.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator import anthropic, openai, openai_chat, openai_responses
from budget.estimator.bounds import Measure
from budget.estimator.constants import VOCABULARIES

__all__ = ["CHAT_ONLY", "REQUEST_FIELDS", "VOCABULARIES", "Measure", "measure"]

_SCOPE = frozenset({"user", "agent", "session", "run", "team", "org", "project", "provider"})
_FIELDS = anthropic.FIELDS | openai_chat.FIELDS | openai_responses.FIELDS | openai.EMBEDDINGS_FIELDS

REQUEST_FIELDS = _FIELDS - _SCOPE
"""Every field of a body that is known here, plain and beta, but for those that are named like a usual attribute of a
scope: in `reserve(model=..., messages=..., user="alice")` alice is whose call it is, and OpenAI's `user` costs nothing.
Call extras such as `extra_headers` are not of a body."""

CHAT_ONLY = openai_chat.FIELDS - anthropic.FIELDS - _SCOPE
"""Fields that tell a chat completions body from a Messages body."""

_MEASURES = {
    ("anthropic", "messages"): anthropic.measure,
    ("openai", "chat"): openai_chat.measure,
    ("openai", "responses"): openai_responses.measure,
    ("openai", "embeddings"): openai.measure_embeddings,
}
_PROVIDERS = (
    "anthropic", "openai", "google", "google-vertex", "aws-bedrock", "azure", "mistral", "xai", "deepseek", "groq",
    "cohere", "together", "fireworks", "perplexity", "openrouter",
)  # fmt: skip
_ENDPOINTS = ("messages", "chat", "responses", "embeddings", "generateContent", "converse")


def measure(body: Mapping[str, Any], *, provider: str, endpoint: str, vocabulary: str = "cl100k") -> Measure:
    """Walk a request body once and return what was found in it.

    Args:
        body: The body as the SDK's `create` takes it. It may hold the SDK's own models (an earlier answer's content
            blocks); sequences must be lists or tuples.
        provider: Whose API: "anthropic" or "openai".
        endpoint: Which of its endpoints: "messages"; "chat", "responses", "embeddings".
        vocabulary: Whose tokens to count, best that of the model's tokenizer (`VOCABULARIES`). The measure then bounds
            that one tightly, and those of the other vocabulary loosely.

    Raises:
        ConfigError: The provider or endpoint is unknown or not available in this version, or the body has a shape that
            the API does not take; the error names the place.
        ArgumentTypeError: The body holds something that is not JSON, such as a generator.
    """
    for name, value, known in (("provider", provider, _PROVIDERS), ("endpoint", endpoint, _ENDPOINTS)):
        if value not in known:
            raise ConfigError(f"{name}: {str(value)[:40]!r} is not one of {', '.join(known)}")
    walk = _MEASURES.get((provider, endpoint))
    if walk is None:
        available = ", ".join(f"{p} {e}" for p, e in _MEASURES)
        raise ConfigError(f"{provider} {endpoint} is not available in this version, which has: {available}")
    if not isinstance(body, Mapping):
        raise ArgumentTypeError(f"body: a mapping of the request's fields is needed, not {type(body).__name__}")
    return walk(body, vocabulary)
