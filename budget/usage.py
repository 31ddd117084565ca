"""Usage: what the provider says was used, normalised once into disjoint buckets.

OpenAI reports cached tokens inside its input figure, Anthropic beside it; here `input` never contains them. A limit's
"tokens" are all input (cached too) plus all output (reasoning too).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.reported import as_count, reported

__all__ = ["PARTS", "TRAITS", "Usage"]

PARTS = {
    "input_audio": "input", "input_image": "input", "input_video": "input",
    "cache_read_audio": "cache_read", "cache_read_image": "cache_read",
    "output_audio": "output", "output_image": "output", "reasoning": "output",
}  # fmt: skip
"""Kinds of tokens that may have a price of their own, and the bucket that each is a part of."""

TRAITS = ("service_tier", "speed", "inference_geo", "search_context")
"""What decides a price beside the number of tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens by kind, in disjoint buckets, and the traits of the answer that change its price.

    Attributes:
        input: Input tokens that were neither read from nor written to a cache.
        cache_read: Input tokens read from a prompt cache.
        cache_write: Input tokens written to a prompt cache, by time to live ("5m", "1h"), "default" where nobody says.
        output: All output tokens, reasoning included.
        reasoning: How many of `output` were hidden reasoning, where the provider says so.
        parts: How many tokens of a bucket were of a kind that may have a price of its own: audio, images, video
            (`PARTS`).
        tools: Calls of server tools ("web_search": 2), and what else is billed in units of its own: "character" and
            "second" of speech, "image".
        traits: What else decides the price: `service_tier`, `speed`, `inference_geo`, `search_context`; defaults are
            left out.
        model: The model as answered, where a whole response was given.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: Mapping[str, int] = field(default_factory=dict)
    output: int = 0
    reasoning: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    tools: Mapping[str, int] = field(default_factory=dict)
    traits: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None

    def __post_init__(self) -> None:
        for name in ("input", "cache_read", "output", "reasoning"):
            as_count(getattr(self, name), name)
        for name in ("cache_write", "parts", "tools", "traits"):
            self._check_named(name)
        if self.parts or self.reasoning:
            self._check_parts()

    def _check_named(self, name: str) -> None:
        named = getattr(self, name)
        if not named and isinstance(named, Mapping):
            return  # as most are
        if not isinstance(named, Mapping) or not all(isinstance(each, str) for each in named):
            raise ArgumentTypeError(f"usage: {name} must be a mapping with names, not {type(named).__name__}")
        if name != "traits":
            for each, count in named.items():
                as_count(count, each)
        elif not all(isinstance(value, str) for value in named.values()):
            raise ArgumentTypeError("usage: traits must be strings")

    def _check_parts(self) -> None:
        rest = {"input": self.input, "cache_read": self.cache_read, "output": self.output}
        for part, count in (*self.parts.items(), ("reasoning", self.reasoning)):
            if part not in PARTS:
                raise ConfigError(f"usage: parts: {part!r} is not one of {', '.join(PARTS)}")
            rest[PARTS[part]] -= count
        for bucket, left in rest.items():
            if left < 0:
                raise ConfigError(f"usage: {bucket} is below the sum of its parts")

    @property
    def input_tokens(self) -> int:
        """All input tokens, cached ones too."""
        return self.input + self.cache_read + sum(self.cache_write.values())

    @property
    def tokens(self) -> int:
        """All input and all output tokens."""
        return self.input_tokens + self.output

    @classmethod
    def of(cls, source: object, provider: str | None = None) -> Usage:
        """Normalise a provider's answer, an event of its stream that carries the usage, or the usage alone.

        Args:
            source: A Usage, an SDK's model, or the same as a dict. Read are Anthropic Messages; OpenAI chat, Responses
                and embeddings, and what speaks like them (Azure, Mistral, xAI, DeepSeek, Groq, Together, Fireworks,
                Perplexity, OpenRouter); Gemini and Vertex; Bedrock's Converse and InvokeModel; Cohere v1 and v2.
            provider: Whose it is, where the shape alone does not say all.

        A usage alone may be a part of one: a count that it leaves out is 0. An answer of chat, Messages or Responses
        says both its input and its output (or the total), or cannot be read.

        Raises:
            ArgumentTypeError: The object carries no usage that is known, or an answer leaves a count out.
            ConfigError: A count is negative, not an integer, or inconsistent.
        """
        return source if isinstance(source, Usage) else cls(**reported(source, provider))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; empty buckets are left out."""
        fields = [(name, value) for name in self.__slots__ if (value := getattr(self, name)) and name != "model"]
        return {name: value if type(value) is int else dict(value) for name, value in fields}
