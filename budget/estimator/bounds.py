"""Measure: what was found in a request, and what that can cost in input tokens on a given tokenizer.

A measure holds counts only, so it outlives the request, prints, pickles, and can be asked again for another model. The
formula is linear in what was found, with one set of rates that bounds and one that expects (`constants`). Every rate
of the second is at most that of the first, hence `expected <= bound` always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from budget.errors import ConfigError
from budget.estimator.constants import BOUND, EXPECTED, Rates

__all__ = ["Measure"]


@dataclass(frozen=True, slots=True)
class Measure:
    """What was found in a request, without any of its text. Tokens are cl100k's.

    Attributes:
        base_tokens: Tokens of every string of system and messages.
        tool_tokens: Tokens of the compact JSON of `tools`.
        schema_tokens: Tokens of the compact JSON of the output schema; 0 if there is none.
        messages: Messages, the system prompt among them.
        parts: Text, search result and document blocks.
        documents: Those of them that are search results or documents.
        blocks: tool_use and tool_result blocks.
        tools: Tools offered, those of `builtin` among them.
        builtin: Client tools whose schema is the provider's own ("bash", "text_editor", "memory"), one entry each.
        output_max: The request's own bound on output tokens; None if it has none.
        cache_ttls: Times to live of the prompt cache entries that it may write ("5m", "1h").
        traits: What else decides the price (`speed`, `service_tier`, `inference_geo`), named as in `Usage.traits`.
        thinking: Hidden reasoning is asked for. A model may also reason without being asked.
        citations, task_budget: Features asked for that add to the prompt.
        reasons: Why no upper bound exists, in words, with places; empty if one does. What is named here is not counted.
    """

    base_tokens: int = 0
    tool_tokens: int = 0
    schema_tokens: int = 0
    messages: int = 0
    parts: int = 0
    documents: int = 0
    blocks: int = 0
    tools: int = 0
    builtin: tuple[str, ...] = ()
    output_max: int | None = None
    cache_ttls: frozenset[str] = frozenset()
    traits: Mapping[str, str] = field(default_factory=dict)
    thinking: bool = False
    citations: bool = False
    task_budget: bool = False
    reasons: tuple[str, ...] = ()

    def bound(self, tokenizer: str) -> int:
        """Return the most input tokens that the request can cost, if `reasons` is empty.

        Args:
            tokenizer: The model's tokenizer family: "claude-1" (up to 4.6) or "claude-2" (from 4.7 on).

        Raises:
            ConfigError: The family is unknown.
        """
        return self._apply(_rates(BOUND, tokenizer))

    def expected(self, tokenizer: str) -> int:
        """Return the input tokens to expect, cached ones included: a point estimate, never above `bound`.

        Raises:
            ConfigError: The family is unknown.
        """
        return self._apply(_rates(EXPECTED, tokenizer))

    def _apply(self, rates: Rates) -> int:
        tokens = -(-(rates.text * self.base_tokens + rates.json * (self.tool_tokens + self.schema_tokens)) // 100)
        tokens += rates.frame + rates.message * self.messages
        tokens += rates.part * self.parts + rates.document * self.documents + rates.tool_block * self.blocks
        tokens += rates.thinking * self.thinking + rates.task_budget * self.task_budget
        tokens += rates.citations * self.citations + rates.tool * self.tools
        tokens += sum(rates.builtin[name] for name in self.builtin)
        if self.tools:
            tokens += rates.tool_prompt
        if self.schema_tokens:
            tokens += rates.schema if self.tools else rates.schema_alone
        return tokens


def _rates(table: Mapping[str, Rates], tokenizer: str) -> Rates:
    if tokenizer not in table:
        raise ConfigError(f"tokenizer: {str(tokenizer)[:40]!r} is not one of {', '.join(table)}")
    return table[tokenizer]
