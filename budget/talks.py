"""Conversations: how much of a call's input an earlier call may have left in the provider's cache.

A conversation is told by the attributes of its calls. Where these do not tell it (no `session`, no `run`), and where
one has side branches, it is told by size: a call continues the longest earlier one that its input can begin with. Kept
are sizes and times, in this process, of the latest calls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["NEW", "Seen", "Talks"]

NEW = "new"
"""The age of a conversation that was not seen before."""
_SIDE = "side"  # a call with less input came between: whether the longer prefix is still read, is learned
_AGES = {"5m": 300_000_000, "1h": 3_600_000_000, "late": 2**63}
_TALKS, _BRANCHES = 4096, 16


class Seen(NamedTuple):
    """The last call of a branch: its input tokens, when it was made (microseconds), and whether any was cached."""

    tokens: int
    at: int
    cached: bool


class Talks:
    """The latest calls of the latest conversations."""

    def __init__(self) -> None:
        self._seen: dict[Any, tuple[Seen, ...]] = {}

    def prefix(self, scope: Mapping[str, str], tokens: int, now: int) -> tuple[str, int, int]:
        """Return the age of what may be cached of a call's input, its tokens, and how many are cached by all we know.

        The age is "5m" (by which caches are kept at least), "1h", "late", "side" or "new".
        """
        seen = self._seen.get(_name(scope), ())
        before = _branch(seen, tokens)
        if before is None and not (seen and ("session" in scope or "run" in scope)):
            return NEW, tokens, 0
        last = seen[-1]
        before = before or last  # it is of this conversation, and begins anew: after a summary, or in a branch
        prefix = min(before.tokens, tokens)
        age = next(name for name, end in _AGES.items() if now - before.at <= end)
        sure = min(prefix, last.tokens) if age == "5m" and before.cached else 0
        return _SIDE if last.tokens < prefix else age, prefix, sure

    def remember(self, scope: Mapping[str, str], call: Seen) -> None:
        """Put a call in the place of the one that it continued, as the latest of its conversation."""
        name = _name(scope)
        seen = self._seen.pop(name, ())
        before = _branch(seen, call.tokens)
        others = [each for each in seen if each is not before]
        self._seen[name] = (*others[1 - _BRANCHES :], call)
        if len(self._seen) > _TALKS:
            self._seen.pop(next(iter(self._seen)))


def _name(scope: Mapping[str, str]) -> Any:
    return tuple(sorted(scope.items()))


def _branch(seen: Sequence[Seen], tokens: int) -> Seen | None:
    """Return the call that one of so many tokens continues."""
    fits = [each for each in seen if tokens // 2 <= each.tokens <= tokens + tokens // 50]
    return max(fits, default=None)
