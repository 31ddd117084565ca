"""Transcripts of Codex: `~/.codex/sessions/**/rollout-*.jsonl`, one JSON object per line.

A `token_count` event has the session's totals so far; what a call used is how much they grew. An event whose totals are
those of the one before was only shown again. Cached tokens are inside the input, reasoning is inside the output. A
session that was forked from another begins with that one's events, under new times: the totals, and the session at the
root of the forks, name a call, so that it counts once, as the parent's. The model is that of the turn
(`turn_context`). (As described in github.com/ccusage/ccusage/issues/1288 and /1370; read 2026-11-22.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from budget.importing.call import Call, Found, Source, each, need, scope_of, tokens, unix_us
from budget.importing.files import documents
from budget.usage import Usage

__all__ = ["is_line", "read"]

_COUNTS = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_output_tokens")
_TYPES = {"session_meta", "event_msg", "response_item", "turn_context", "compacted"}


def is_line(item: Any) -> bool:
    """Whether an object is a line of a rollout."""
    return isinstance(item, Mapping) and item.get("type") in _TYPES and isinstance(item.get("payload"), Mapping)


def read(source: Source) -> Iterator[Found]:
    """Read the calls of a rollout.

    Raises:
        BudgetError: The file cannot be read.
    """
    session = _Session(source)
    yield from each(documents(source.path), session.call)


class _Session:
    """What is known of a session as far as it was read."""

    def __init__(self, source: Source):
        self._source = source
        self._id: str | None = None
        self._parents: dict[str, str | None] = {}
        self._model: str | None = source.fill.get("model")
        self._project: str | None = None
        self._totals: tuple[int, ...] | None = None

    def call(self, line: int, item: Any) -> Call | None:
        """Take a line; return the call that it ends."""
        if not isinstance(item, Mapping):
            raise ValueError("is not a JSON object")
        payload = item.get("payload")
        if not isinstance(payload, Mapping):
            return None
        if item.get("type") == "session_meta":
            self._meet(payload)
        elif item.get("type") == "turn_context":
            self._model = payload.get("model") or self._model
        elif item.get("type") == "event_msg" and payload.get("type") == "token_count":
            info = payload.get("info")
            return None if info is None else self._count(line, item, info)
        return None

    def _meet(self, meta: Mapping[str, Any]) -> None:
        id = str(need(meta, "id"))
        self._parents.setdefault(id, meta.get("forked_from_id"))
        if self._id is None:  # those that follow are its parents'
            self._id = id
            self._project = PurePath(str(meta["cwd"])).name if meta.get("cwd") else None

    def _root(self) -> str:
        found = self._id or self._source.path.name
        seen = {found}
        while (parent := self._parents.get(found)) and parent not in seen:
            found = parent
            seen.add(found)
        return found

    def _count(self, line: int, item: Mapping[str, Any], info: Any) -> Call | None:
        totals = _counts(need(info, "total_token_usage"))
        before, self._totals = self._totals, totals
        last = info.get("last_token_usage")
        grown = before is not None and all(now >= then for now, then in zip(totals, before, strict=True))
        if grown:
            used = tuple(now - then for now, then in zip(totals, before or (), strict=True))
        else:  # the first, or the totals began anew
            used = _counts(last) if isinstance(last, Mapping) and last else totals
        if not any(used):
            return None
        given, read, output, reasoning = used
        if not self._model:
            raise ValueError("model: no turn names one; give it with --set model=NAME")
        scope = scope_of(self._source, session=self._id, agent="codex", project=self._project)
        key = f"{self._root()} {totals} {used}"
        at = unix_us(need(item, "timestamp"), "timestamp")
        usage = Usage(given - read, read, {}, output, reasoning)
        return Call(line, key, at, self._model, "openai", usage, scope)


def _counts(usage: Any) -> tuple[int, ...]:
    if not isinstance(usage, Mapping):
        raise ValueError("total_token_usage: is not an object")
    return tuple(tokens(usage.get(name), name) for name in _COUNTS)
