"""Measure: what was found in a request, and what that can cost in input tokens on a given tokenizer.

A measure holds counts only, so it outlives the request, prints, pickles, and can be asked again for another model. The
formula is linear in what was found, with one set of rates that bounds and one that expects (`constants`); media cost
what their rules say (`media`). Every rate of the second is at most that of the first, hence `expected <= bound` always.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import mul
from typing import NamedTuple

from budget.estimator import media as rules
from budget.estimator.constants import Rates, family, rates
from budget.estimator.media import Media

__all__ = ["Measure"]

PREVIEW = 100
"""Output tokens of a partial image (developers.openai.com/api/docs/guides/image-generation, "Partial images cost", read
2026-11-22 at second hand). And `n` images are billed as so many requests, their input too, as was measured there:
community.openai.com/t/1382940."""


class Measure(NamedTuple):
    """What was found in a request, without any of its text.

    Attributes:
        vocabulary: Whose tokens were counted, "cl100k", "cl100k-digits" or "o200k".
        base_tokens: Tokens of every string of system, messages and input.
        tool_tokens: Tokens of the compact JSON of `tools`.
        shown_tool_tokens: Tokens of the tools as OpenAI's models are shown them; 0 if that is not known.
        schema_tokens: Tokens of the compact JSON of the output schema; 0 if there is none.
        kinds: The same tokens, all three, by kind (`kinds.toml`). Shorter sums than those leave tokens of no known
            kind; where a tokenizer's figures differ by kind, such tokens count as its `text`.
        wide_bytes: UTF-8 bytes of all characters outside ASCII in what was counted: what a tokenizer of another
            vocabulary makes of them is not known from the tokens of this one.
        sealed_chars: Characters of encrypted reasoning that is sent back.
        messages: Messages and items, the system prompt among them.
        parts: Text, search result and document blocks.
        documents: Those of them that are search results or documents.
        blocks: Tool calls and their results.
        tools: Tools offered, those of `builtin` among them.
        builtin: Client tools whose schema is the provider's own ("bash", "text_editor", "memory"), one entry each.
        output_max: The request's own bound on output tokens, per answer; None if it has none.
        choices: How many answers are asked for.
        predicted_tokens: Tokens of a predicted output, which are output too where the answer does not hold them.
        cache_ttls: Times to live of the prompt cache entries that it may write ("5m", "1h").
        traits: What else decides the price (`speed`, `service_tier`, `inference_geo`), named as in `Usage.traits`.
        thinking: Hidden reasoning is asked for. A model may also reason without being asked.
        citations, task_budget: Features asked for that add to the prompt.
        media: Images, PDF, sounds and films: their sizes.
        makes: What else than text the answer may hold: "audio", "image".
        bare: Only texts, with nothing around them, and no answer: embeddings.
        drawing: The image that each answer is, where the request asks for images; its detail is the quality.
        previews: Unfinished images that are sent before each of these.
        units: How much there is of what is billed in other units than tokens: "character", "second", "image".
        reasons: Why no upper bound exists, in words, with places; empty if one does. What is named here is not counted.
    """

    vocabulary: str = "cl100k"
    base_tokens: int = 0
    tool_tokens: int = 0
    shown_tool_tokens: int = 0
    schema_tokens: int = 0
    kinds: tuple[int, ...] = ()
    wide_bytes: int = 0
    sealed_chars: int = 0
    messages: int = 0
    parts: int = 0
    documents: int = 0
    blocks: int = 0
    tools: int = 0
    builtin: tuple[str, ...] = ()
    output_max: int | None = None
    choices: int = 1
    predicted_tokens: int = 0
    cache_ttls: frozenset[str] = frozenset()
    traits: Mapping[str, str] = {}
    thinking: bool = False
    citations: bool = False
    task_budget: bool = False
    media: tuple[Media, ...] = ()
    makes: frozenset[str] = frozenset()
    bare: bool = False
    reasons: tuple[str, ...] = ()
    drawing: Media | None = None
    previews: int = 0
    units: Mapping[str, int] = {}

    @property
    def parts_named(self) -> frozenset[str]:
        """Which parts of input and output with rates of their own it can have ("input_image", "output_audio")."""
        if not self.media and not self.makes:
            return frozenset()
        found = {f"input_{'image' if one.kind == 'pdf' else one.kind}" for one in self.media}
        return frozenset(found | {f"output_{kind}" for kind in self.makes})

    def bound(self, tokenizer: str, model: str = "") -> int:
        """Return the most input tokens that the request can cost, if `open` gives no reason.

        Args:
            tokenizer: The model's tokenizer family, one of `constants.FAMILIES`: "claude-1" (up to 4.6), "claude-2"
                (from 4.7 on), "cl100k" (up to GPT-4, and embeddings), "o200k" (from GPT-4o on) ...
            model: The model's id, where figures differ within the family; "" takes those that hold for all.

        Raises:
            ConfigError: The family is unknown or has no figures.
        """
        return self._apply(rates(tokenizer, model)[0], tokenizer, model, 0)

    def expected(self, tokenizer: str, model: str = "") -> int:
        """Return the input tokens to expect, cached ones included: a point estimate, never above `bound`.

        Raises:
            ConfigError: The family is unknown or has no figures.
        """
        return self._apply(rates(tokenizer, model)[1], tokenizer, model, 1)

    def output(self, output_max: int, tokenizer: str) -> int:
        """Return the most output tokens of all answers, where `output_max` bounds each.

        Raises:
            ConfigError: The family is unknown or has no figures.
        """
        if not self.predicted_tokens:
            return self.choices * output_max
        predicted = Measure(self.vocabulary, self.predicted_tokens, wide_bytes=self.wide_bytes, bare=True)
        return self.choices * (output_max + predicted.bound(tokenizer))

    def drawn(self, tokenizer: str, model: str) -> int | None:
        """Return the most output tokens of all images that it asks for; None if no rule is known for the model's.

        Raises:
            ConfigError: The family is unknown or has no figures.
        """
        assert self.drawing is not None
        found = rules.tokens(self.drawing, family(tokenizer).media, model)
        return None if found is None else self.choices * (found[0] + PREVIEW * self.previews)

    def open(self, tokenizer: str, model: str = "") -> tuple[str, ...]:
        """Return why no upper bound exists on this model: `reasons`, and what it has no figures for.

        Raises:
            ConfigError: The family is unknown or has no figures.
        """
        if not self.media:
            return self.reasons
        known = family(tokenizer).media
        unknown = {one.kind for one in self.media if rules.tokens(one, known, model) is None}
        return (*self.reasons, *(f"{kind}: its cost on {model or tokenizer} is not known" for kind in sorted(unknown)))

    def _apply(self, rates: Rates, tokenizer: str, model: str, side: int) -> int:
        every = self.base_tokens + self.tool_tokens + self.schema_tokens
        if self.vocabulary != family(tokenizer).vocabulary:
            hundredths = rates.foreign * every + rates.wide * self.wide_bytes
        elif rates.kinds:
            hundredths = sum(map(mul, rates.kinds, self.kinds)) + rates.text * (every - sum(self.kinds))
        else:
            shown = rates.shown_tools and self.shown_tool_tokens
            tools = rates.shown_tools * shown if shown else rates.json * self.tool_tokens
            hundredths = rates.text * self.base_tokens + tools + rates.schema_json * self.schema_tokens
        tokens = -(-(hundredths + rates.sealed * self.sealed_chars) // 100)
        if self.bare:
            return tokens
        tokens += rates.frame + rates.message * self.messages
        tokens += rates.part * self.parts + rates.document * self.documents + rates.tool_block * self.blocks
        tokens += rates.thinking * self.thinking + rates.task_budget * self.task_budget
        tokens += rates.citations * self.citations + rates.tool * self.tools
        if self.tools:
            tokens += rates.tool_prompt + sum([rates.builtin[name] for name in self.builtin])
        if self.schema_tokens:
            tokens += rates.schema if self.tools else rates.schema_alone
        if self.media:
            known = family(tokenizer).media
            tokens += sum((rules.tokens(one, known, model) or (0, 0))[side] for one in self.media)
        return tokens if self.drawing is None else tokens * self.choices
