"""What Claude's tokenizers and prompt frames cost, in tokens: dated data, no code.

Two families: "claude-1" up to Sonnet 4.6, Opus 4.6 and Haiku 4.5, and "claude-2" from Opus 4.7 on, which has a new
tokenizer. Neither is public. The base of every figure is a count with cl100k, which errs the same way as Claude's do in
501 languages (o200k needs 4.7 tokens for one where cl100k needs 2.3; UTF-8 bytes are no bound at all).

`BOUND` has room above what was recorded: the ratios above the largest seen on 7,542 counts of texts of 30 tokens or
more (1.56 and 2.30), the frames above the largest seen on 305 and 25 requests (but for one "Hello!" that was billed 107
tokens, as if a system prompt had been added on the way). It is measured, not proven: on text
that cl100k packs unusually well and Claude does not (long runs of one symbol, text all in capitals, a long identifier
repeated) an offline reconstruction of Claude's counts goes above it. `EXPECTED` is the middle of the same recordings.

Sources, collected 2026-11-21:

* counts: fixtures of github.com/sanderland/ctok (MIT): Rosetta Code, 22 programming languages, UDHR in 501 languages;
* requests: recorded test cassettes of public projects (MIT, Apache-2.0), plain and with tools; also citations about
  500 to 800, extended thinking 28 to 36, output schema 90 to 220, task budget 35, documents about 35 each;
* tool prompts of 290 to 804 tokens by model, bash 244 (325 on the new tokenizer), text editor 700: the vendor's
  documentation on tool use as of mid-2026 (platform.claude.com/docs/en/agents-and-tools/tool-use/overview and below);
* memory: two recorded requests on Sonnet 4.5, 1,565 tokens with the tool prompt;
* what is known for one tokenizer only is scaled for the other: by 1.33 as bash is in `EXPECTED`, by 1.5 or more in
  `BOUND`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["BOUND", "EXPECTED", "Rates"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens of Claude per thing found in a request; `text` and `json` are Claude tokens per 100 tokens of cl100k."""

    text: int
    json: int
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
BOUND: Mapping[str, Rates] = {
    "claude-1": Rates(
        text=160, json=160, frame=24, message=8, part=8, document=60, tool_block=24, thinking=60, task_budget=60,
        citations=1000, schema=220, schema_alone=840, tool_prompt=620, tool=60,
        builtin={"bash": 300, "text_editor": 900, "memory": 1200},
    ),
    "claude-2": Rates(
        text=250, json=250, frame=24, message=8, part=8, document=90, tool_block=24, thinking=60, task_budget=60,
        citations=1500, schema=220, schema_alone=1060, tool_prompt=840, tool=60,
        builtin={"bash": 400, "text_editor": 1400, "memory": 2000},
    ),
}
EXPECTED: Mapping[str, Rates] = {
    "claude-1": Rates(
        text=118, json=118, frame=7, message=0, part=0, document=30, tool_block=0, thinking=30, task_budget=35,
        citations=500, schema=150, schema_alone=150, tool_prompt=500, tool=20,
        builtin={"bash": 244, "text_editor": 700, "memory": 1000},
    ),
    "claude-2": Rates(
        text=150, json=150, frame=7, message=0, part=0, document=40, tool_block=0, thinking=30, task_budget=35,
        citations=650, schema=150, schema_alone=150, tool_prompt=380, tool=20,
        builtin={"bash": 325, "text_editor": 930, "memory": 1330},
    ),
}
# fmt: on
