"""Transcripts of Claude Code: `~/.claude/projects/<project>/**/*.jsonl`, one JSON object per line.

Only lines of an assistant carry a usage, as Anthropic's API reports it. One answer is written over several lines, one
per block of content, which repeat its id and its usage; the output grows from line to line, so the last is the whole.
Sessions that were resumed or forked, and the files of subagents, repeat lines of others: the id of the message names
the call wherever it stands. What Claude Code wrote itself has the model `<synthetic>` and cost nothing. (As described
by users who have compared their bills with it, such as github.com/ryoppippi/ccusage; read 2026-11-22.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from budget.importing.call import Call, Found, LeftOut, Source, each, need, scope_of, unix_us
from budget.importing.files import documents
from budget.usage import Usage

__all__ = ["is_line", "read"]

_AGENT = "claude-code"


def is_line(item: Any) -> bool:
    """Whether an object is a line of a transcript."""
    return isinstance(item, Mapping) and "sessionId" in item and "type" in item


def read(source: Source) -> Iterator[Found]:
    """Read the calls of a transcript, each once; what the file does not know is nobody's line.

    Raises:
        BudgetError: The file cannot be read.
    """
    calls: dict[str, Call] = {}
    for found in each(documents(source.path), lambda line, item: _call(source, line, item)):
        if isinstance(found, Call):
            known = calls.get(found.key)
            if known is None or found.usage.output >= known.usage.output:
                calls[found.key] = found
        else:
            yield found
    yield from calls.values()


def _call(source: Source, line: int, item: Any) -> Call | LeftOut | None:
    if not isinstance(item, Mapping):
        raise ValueError("is not a JSON object")
    message = item.get("message")
    if item.get("type") != "assistant" or not isinstance(message, Mapping) or "usage" not in message:
        return None
    model = str(need(message, "model"))
    if model == "<synthetic>":
        return LeftOut(line, "messages of Claude Code itself")
    key = str(message.get("id") or item.get("requestId") or need(item, "uuid"))
    project = PurePath(str(item.get("cwd") or source.path.parent.name)).name or None
    scope = scope_of(source, session=item.get("sessionId"), agent=_AGENT, project=project)
    usage = Usage.of({"usage": message["usage"]}, "anthropic")
    return Call(line, key, unix_us(need(item, "timestamp"), "timestamp"), model, None, usage, scope)
