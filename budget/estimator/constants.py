"""What tokenizers and prompt frames cost, in tokens: dated data, no code.

Four families. Claude's tokenizers are not public: "claude-1" up to Sonnet 4.6, Opus 4.6 and Haiku 4.5, and "claude-2"
from Opus 4.7 on. Their figures are for counts with cl100k, which errs the same way as they do in 501 languages (o200k
needs 4.7 tokens for one where cl100k needs 2.3; UTF-8 bytes are no bound at all). OpenAI's are public, so that only the
frame, tools and schemas are measured: "cl100k" up to GPT-4 and for embeddings, "o200k" from GPT-4o on.

`BOUND` has room above what was recorded. Claude: the ratios above the largest seen on 7,542 counts of texts of 30
tokens or more (1.56 and 2.30), the frames above the largest seen on 305 and 25 requests (but for one "Hello!" that was
billed 107 tokens, as if a system prompt had been added on the way). It is measured, not proven: on text
that cl100k packs unusually well and Claude does not (long runs of one symbol, text all in capitals, a long identifier
repeated) an offline reconstruction of Claude's counts goes above it. OpenAI: 27 tokens for the frame, 8 per message and
call, 90 for tools in chat and 220 in Responses, 16 per tool, 30 + 1.3 x the schema, 0.25 per character of encrypted
reasoning (0.19 seen) covered 814 of 816 recorded requests; the frame here has 23 more for one of o3-mini that was
billed 22 above that. `EXPECTED` is the middle of the same recordings; for plain chat and Responses, 3 tokens and 4 per
message, it is exact for most (GPT-5 and later have one token less, and about 70 more for tools in chat).

`foreign` and `wide` bound what a tokenizer makes of tokens of the other vocabulary, when a request that was measured
for one model is asked again for another: of tokens on ASCII text, largest seen 1.83 and 2.27 (Claude by o200k), 1.69
(cl100k by o200k) and 1.17 (o200k by cl100k), beside a token per byte outside ASCII, 1.25 for Claude (1.16 seen).

Sources, collected 2026-11-21 and 22:

* counts: fixtures of github.com/sanderland/ctok (MIT): Rosetta Code, 22 programming languages, UDHR in 501 languages;
* requests: recorded test cassettes of public projects (MIT, Apache-2.0), plain and with tools; also citations about
  500 to 800, extended thinking 28 to 36, output schema 90 to 220, task budget 35, documents about 35 each;
* tool prompts of 290 to 804 tokens by model, bash 244 (325 on the new tokenizer), text editor 700: the vendor's
  documentation on tool use as of mid-2026 (platform.claude.com/docs/en/agents-and-tools/tool-use/overview and below);
* memory: two recorded requests on Sonnet 4.5, 1,565 tokens with the tool prompt;
* what is known for one tokenizer of Claude only is scaled for the other: by 1.33 as bash is in `EXPECTED`, by 1.5 or
  more in `BOUND`. What only Claude has (documents, its own tools) costs at an OpenAI model what it does there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

__all__ = ["BOUND", "EXPECTED", "VOCABULARIES", "Rates"]

VOCABULARIES: Mapping[str, str] = {"claude-1": "cl100k", "claude-2": "cl100k", "cl100k": "cl100k", "o200k": "o200k"}
"""Per tokenizer family, the vocabulary that its figures are for."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per thing found in a request; `text`, `json` and `schema_json` per 100 counted tokens."""

    text: int
    json: int
    """Tools."""
    schema_json: int
    """An output schema."""
    foreign: int
    """All three, where the tokens are of the other vocabulary; beside `wide`."""
    wide: int
    """Tokens per 100 bytes of characters outside ASCII, where the tokens are of the other vocabulary."""
    sealed: int
    """Tokens per 100 characters of encrypted reasoning."""
    frame: int
    message: int
    part: int
    """A text, search result or document block: on texts below 30 tokens the ratio alone can be too low."""
    document: int
    """A search result or document, on top of its part: how it is wrapped and numbered."""
    tool_block: int
    """A tool_use or tool_result block."""
    thinking: int
    task_budget: int
    citations: int
    """Once, if any document or search result has citations on."""
    schema: int
    """An output schema where there are tools."""
    schema_alone: int
    """An output schema where there are none."""
    tool_prompt: int
    """Once, if there are tools: the system prompt that explains their use."""
    tool: int
    builtin: Mapping[str, int]
    """A client tool whose schema is Anthropic's, by `type` without its date."""


# fmt: off
_CLAUDES_TOOLS = {"bash": 400, "text_editor": 1400, "memory": 2000}
_OPENAI_BOUND = Rates(
    text=100, json=100, schema_json=130, foreign=150, wide=100, sealed=25, frame=50, message=8, part=4, document=60,
    tool_block=16, thinking=0, task_budget=0, citations=0, schema=30, schema_alone=30, tool_prompt=220, tool=16,
    builtin=_CLAUDES_TOOLS,
)
BOUND: Mapping[str, Rates] = {
    "claude-1": Rates(
        text=160, json=160, schema_json=160, foreign=200, wide=125, sealed=25, frame=24, message=8, part=8, document=60,
        tool_block=24, thinking=60, task_budget=60, citations=1000, schema=220, schema_alone=840, tool_prompt=620,
        tool=60, builtin={"bash": 300, "text_editor": 900, "memory": 1200},
    ),
    "claude-2": Rates(
        text=250, json=250, schema_json=250, foreign=300, wide=125, sealed=25, frame=24, message=8, part=8, document=90,
        tool_block=24, thinking=60, task_budget=60, citations=1500, schema=220, schema_alone=1060, tool_prompt=840,
        tool=60, builtin=_CLAUDES_TOOLS,
    ),
    "cl100k": replace(_OPENAI_BOUND, foreign=200),
    "o200k": _OPENAI_BOUND,
}
_OPENAI_EXPECTED = Rates(
    text=100, json=50, schema_json=65, foreign=100, wide=0, sealed=10, frame=3, message=4, part=0, document=30,
    tool_block=2, thinking=0, task_budget=0, citations=0, schema=5, schema_alone=5, tool_prompt=10, tool=0,
    builtin={"bash": 325, "text_editor": 930, "memory": 1330},
)
EXPECTED: Mapping[str, Rates] = {
    "claude-1": Rates(
        text=118, json=118, schema_json=118, foreign=118, wide=0, sealed=10, frame=7, message=0, part=0, document=30,
        tool_block=0, thinking=30, task_budget=35, citations=500, schema=150, schema_alone=150, tool_prompt=500,
        tool=20, builtin={"bash": 244, "text_editor": 700, "memory": 1000},
    ),
    "claude-2": Rates(
        text=150, json=150, schema_json=150, foreign=150, wide=0, sealed=10, frame=7, message=0, part=0, document=40,
        tool_block=0, thinking=30, task_budget=35, citations=650, schema=150, schema_alone=150, tool_prompt=380,
        tool=20, builtin={"bash": 325, "text_editor": 930, "memory": 1330},
    ),
    "cl100k": _OPENAI_EXPECTED,
    "o200k": _OPENAI_EXPECTED,
}
# fmt: on
