"""The guard of a run against loops: it knows which tool calls are the run's, and finds the loop in them.

A request shows its whole conversation, so that the loop is looked for in the request itself: what is sent again with
each request counts once, conversations that go on side by side do not mix, and a request that was refused is refused
again. All that is kept is which calls the model made since the run began, by the ids that the provider gave them, so
that a chat whose earlier run ended in a loop can go on in a new one.

Where the provider keeps the conversation (`previous_response_id` or `conversation` of Responses) a request shows only
what is new, and no tool call is in it: such a loop is found only if each call is said by hand, with `Run.tool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from threading import Lock
from typing import Any

from budget.loops import Loop, looped
from budget.turns import ToolCall, Turns

__all__ = ["LoopGuard"]

_MOST = 8192  # ids that are known at once


class LoopGuard:
    """Finds loops in the tool calls of one run.

    Args:
        rule: What a loop is.
    """

    def __init__(self, rule: Loop):
        self.rule = rule
        self._made: dict[int, None] = {}
        self._told: list[int] | None = None
        self._lock = Lock()

    def finds(self, body: Mapping[str, Any]) -> bool:
        """Whether the tool calls that the model made last in a request end a loop."""
        if self._told is not None:  # who says the calls by hand is believed
            return False
        turns = Turns(body)
        if not turns.last:
            return False
        with self._lock:
            self._made.update((hash(call.id), None) for call in turns.calls if isinstance(call.id, str))
            if len(self._made) > _MOST:
                for id in list(islice(self._made, _MOST // 2)):
                    del self._made[id]
        near, last = self._keys(turns, turns.last + self.rule.within)
        if not any(near[at] in near[at + 1 : at + 1 + self.rule.within] for at in range(last)):
            return False  # the usual case, for which it was enough to read a part
        keys, last = self._keys(turns, turns.last + self.rule.history)
        return looped(keys, last, self.rule)

    def _keys(self, turns: Turns, most: int) -> tuple[Sequence[Any], int]:
        """Return what the run's newest calls are compared by, and how many of these are of the last turn."""
        mine = list(takewhile(self._is_mine, turns.read(most)))
        if self.rule.key is None:
            return mine, turns.last
        keys = [self.rule.digest(call.name, call.given) for call in mine]
        counted = [key for key in keys if key is not None]
        return counted, turns.last - keys[: turns.last].count(None)

    def _is_mine(self, call: ToolCall) -> bool:
        return not isinstance(call.id, str) or hash(call.id) in self._made

    def tell(self, name: str, arguments: object, *, keep: bool) -> bool:
        """Take note of a call that is about to be made, unless it ends a loop: then this is True.

        Raises:
            ArgumentTypeError: There is no telling what the arguments are.
        """
        digest = self.rule.digest(name, arguments)
        with self._lock:
            if digest is None:
                return False
            told = [digest, *(self._told or ())][: self.rule.history]
            loop = looped(told, 1, self.rule)
            if keep and not loop:
                self._told = told
            return loop
