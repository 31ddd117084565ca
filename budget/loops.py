"""Loops: the same tool calls again and again.

An agent in a loop pays for every turn of it and gets nowhere. In the order in which tool calls are made, a loop is

* **the same call**, name and arguments, n times among the m calls that end with it ("3 in 10"), or
* **a cycle**: the last n * p calls are the same p calls n times over, for a p from 2 to m.

What a call is compared by is its key: the name and the value of its arguments, or what the rule's own function makes of
them. Everything here is pure; where calls come from is `turns.py` (a request's body) and `Run.tool` (by hand).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["Loop", "arguments_of", "looped", "read_loop"]

_TEXT = re.compile(r"(\d{1,4})(?: in (\d{1,4}))?", re.ASCII)
_MOST_TIMES, _MOST_WITHIN = 50, 200


@dataclass(frozen=True)
class Loop:
    """A rule that says what a loop is: `times` the same call within `within` calls, or a cycle so many times over.

    Attributes:
        times: How often a call, or a cycle of calls, is too often: 2 to 50.
        within: Of how many calls, 200 at most; also the longest cycle that is looked for. 3 * times if not given.
        key: Makes what a call is compared by, from its name and its arguments; a call for which it returns None does
            not count (one that polls, say). By default the name and the arguments' value.

    Raises:
        ArgumentTypeError, ConfigError: A value cannot be used.
    """

    times: int
    within: int = 0
    key: Callable[[str, Any], Hashable] | None = None

    def __post_init__(self) -> None:
        for name, value in (("times", self.times), ("within", self.within)):
            if type(value) is not int:
                raise ArgumentTypeError(f"loop: {name}: {type(value).__name__} is not an int")
        if self.key is not None and not callable(self.key):
            raise ArgumentTypeError(f"loop: key: {type(self.key).__name__} cannot be called")
        if not 2 <= self.times <= _MOST_TIMES:
            raise ConfigError(f"loop: {self.times} times is not 2 to {_MOST_TIMES}")
        if self.within == 0:
            object.__setattr__(self, "within", 3 * self.times)
        if not self.times <= self.within <= _MOST_WITHIN:
            raise ConfigError(f"loop: within {self.within} calls is not {self.times} to {_MOST_WITHIN}")

    @property
    def history(self) -> int:
        """How many calls there must be for the longest cycle to be seen."""
        return self.times * self.within

    def digest(self, name: str, arguments: object) -> int | None:
        """Return 64 bits that stand for a call's key, None if it does not count.

        Raises:
            ArgumentTypeError: The arguments are not JSON, or `key` made something of them that cannot be hashed.
        """
        if not isinstance(name, str):
            raise ArgumentTypeError(f"name: {type(name).__name__} is not the name of a tool")
        value = arguments_of(arguments)
        if self.key is not None:
            made = self.key(name, value)
            try:
                return None if made is None else hash(made)
            except TypeError:
                raise ArgumentTypeError(f"loop: key gave a {type(made).__name__}, which cannot be hashed") from None
        try:
            text = json.dumps([name, value], sort_keys=True)
        except (TypeError, ValueError):
            kind = type(arguments).__name__
            raise ArgumentTypeError(f"arguments: {kind} is not JSON; give what is, or a Loop with a key") from None
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())

    def __str__(self) -> str:
        return f"{self.times} in {self.within}"


def read_loop(value: object) -> Loop:
    """Read the argument `loop`: 3, "3 in 10" or a `Loop`.

    Raises:
        ArgumentTypeError, ConfigError: It is none of these.
    """
    if isinstance(value, Loop):
        return value
    if type(value) is int:
        return Loop(value)
    if not isinstance(value, str):
        raise ArgumentTypeError(f"loop: {type(value).__name__} is not a number of times such as 3, nor '3 in 10'")
    match = _TEXT.fullmatch(value.strip())
    if match is None:
        raise ConfigError(f"loop: {value[:40]!r} is not a number of times such as '3', or '3 in 10'")
    if match[2] is not None and int(match[2]) == 0:
        raise ConfigError("loop: within 0 calls there is none")
    return Loop(int(match[1]), int(match[2] or 0))


def looped(calls: Sequence[object], judged: int, rule: Loop) -> bool:
    """Whether one of the newest calls ends a loop.

    Args:
        calls: What calls are compared by, the newest first.
        judged: How many of the newest are looked at.
        rule: What a loop is.
    """
    return any(_ends(calls, at, rule) for at in range(min(judged, len(calls))))


def _ends(calls: Sequence[object], at: int, rule: Loop) -> bool:
    if calls[at : at + rule.within].count(calls[at]) >= rule.times:
        return True
    longest = min(rule.within, (len(calls) - at) // rule.times)
    return any(_cycle(calls, at, period, rule.times) for period in range(2, longest + 1))


def _cycle(calls: Sequence[object], at: int, period: int, times: int) -> bool:
    return all(calls[i] == calls[i + period] for i in range(at, at + period * (times - 1)))


def arguments_of(given: object) -> Any:
    """Return the value of a call's arguments, which some providers give as a text of JSON."""
    if isinstance(given, str):
        try:
            return json.loads(given)
        except ValueError:
            return given  # a tool that takes any text, or what a model made a mistake in
    return given
