"""A rule about prompt caches: little of the input comes from one, where caching is in use.

The ratio is tokens read from a cache to all tokens of input. It is judged of agents and models that have read from a
cache or written to one in the last days (where nobody caches there is nothing to miss), after as many calls as it takes
to warm one up, and over so many calls that one miss does not make it.
"""

from __future__ import annotations

import re
from typing import Self

from budget.alerts.rule import Look, Rule, group_of, span_of
from budget.errors import ConfigError
from budget.ledger import Entry
from budget.records.changes import Change, Ended

__all__ = ["Cache"]

_WARM_UP = 20
"""Calls of an agent and model before which their ratio says nothing, and calls that a ratio is made of at least."""
_PARTS = 12
_ALWAYS = "used "  # before the name of a group: its calls, and the tokens that it has cached


class Cache(Rule):
    """The hit ratio of an agent and model is low: "cache < 60% in 1h"."""

    form = "cache < 60% in 1h"
    pattern = re.compile(r"cache < (\d{1,3})% in (\d{1,6}[smhd])")

    def __init__(self, text: str, percent: int, span: int, within: str):
        super().__init__(text)
        self._percent, self._span, self._within = percent, span, within

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        if not 1 <= int(found[1]) <= 100:
            raise ConfigError(f"alerts: {found[1]} % is not from 1 to 100 %")
        return cls(text, int(found[1]), span_of(found[2]), found[2])

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        if not isinstance(change, Ended) or change.record.usage is None:
            return
        record, group, at_us, size = change.record, group_of(change), entry.at_us, self._span // _PARTS
        read, cached = record.cache_read_tokens, record.cache_read_tokens + record.cache_write_tokens
        look.sums.add(_ALWAYS + group, 0, at_us, 1, cached)
        ever, used, _, _ = look.sums.total(_ALWAYS + group, 0)
        if ever <= _WARM_UP:
            return
        look.sums.add(group, at_us // size * size, at_us, record.input_tokens, read, 1)
        whole, hits, calls, _ = look.sums.total(group, (at_us - self._span) // size * size)
        if used and calls >= _WARM_UP and hits * 100 < whole * self._percent:
            text = f"{group}: {hits * 100 / whole:.0f} % of the input of {calls} calls came from the cache"
            look.warn(
                group, at_us // self._span * self._span, at_us, text, quiet=self._span, input_tokens=whole,
                cache_read_tokens=hits, calls=calls, within=self._within,
            )  # fmt: skip
