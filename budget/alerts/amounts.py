"""Rules about amounts: a session above one within minutes, a user's hour and a request that are many times the usual.

Time is added up in stretches: 60 of the minutes that a rule is about (so that a sum may reach a 60th further back than
it says, never less), and hours of what is usual. What is usual is a mean over the last seven days, in which idle hours
count as zero. Who has no day of history yet is compared with the median user, so that a stranger's first hour is judged
like everybody else's.
"""

from __future__ import annotations

import re
from decimal import Decimal
from statistics import median_low
from typing import Self

from budget.alerts.rule import DAY, HOUR, Look, Rule, charged, group_of, span_of, times_of, value_of
from budget.ledger import Entry
from budget.money import format_usd, parse_usd, show_usd
from budget.records.changes import Change, Ended

__all__ = ["Hour", "Request", "Spree"]

_USUAL = 7 * DAY
_OTHERS = 3
"""Users that have a history, below which there is no median user."""
_LEAST_CALLS = 100
"""Calls before which there is no mean that a request could be held against."""
_AMOUNT = r"\$(\d{1,9}(?:\.\d{1,9})?)"
_TIMES = r"(\d{1,4}(?:\.\d{1,3})?)x"


class Spree(Rule):
    """One session (user, agent, run, model or tag) is above an amount within minutes: "session > $5 in 10m"."""

    form = "session > $5 in 10m"
    pattern = re.compile(rf"([A-Za-z_][A-Za-z0-9_.-]{{0,63}}) > {_AMOUNT} in (\d{{1,6}}[smhd])")

    def __init__(self, text: str, name: str, nanos: int, span: int, within: str):
        super().__init__(text)
        self._name, self._nanos, self._span, self._within = name, nanos, span, within
        self.keep_us = 2 * span

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        return cls(text, found[1], parse_usd(found[2], "alerts"), span_of(found[3]), found[3])

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        nanos, value = charged(entry, change), value_of(entry, change, self._name)
        if nanos is None or value is None:
            return
        subject, at_us, size = f"{self._name}={value}", entry.at_us, self._span // 60
        look.sums.add(subject, at_us // size * size, at_us, nanos)
        spent = look.sums.total(subject, (at_us - self._span) // size * size)[0]
        if spent > self._nanos:
            text = f"{subject}: {show_usd(spent)} within {self._within}"
            look.warn(
                subject, at_us // self._span * self._span, at_us, text, quiet=self._span, spent=format_usd(spent),
                within=self._within,
            )  # fmt: skip


class Hour(Rule):
    """A user's hour (or an agent's ...) is n times their usual: "user hour > 5x usual over $1"."""

    form = "user hour > 5x usual over $1"
    pattern = re.compile(rf"([A-Za-z_][A-Za-z0-9_.-]{{0,63}}) hour > {_TIMES} usual over {_AMOUNT}")

    def __init__(self, text: str, name: str, times: Decimal, least: int):
        super().__init__(text)
        self._name, self._times, self._least = name, times, least

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        return cls(text, found[1], times_of(found[2]), parse_usd(found[3], "alerts"))

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        nanos, value = charged(entry, change), value_of(entry, change, self._name)
        if nanos is None or value is None:
            return
        subject, hour = f"{self._name}={value}", entry.at_us // HOUR * HOUR
        look.sums.add(subject, hour, entry.at_us, nanos)
        spent = look.sums.total(subject, hour, hour + 1)[0]
        if spent < self._least or look.history:
            return
        usual, whose = self._usual(look, subject, hour)
        if usual is not None and spent > self._times * usual:
            times = f"{spent / usual:.1f} times" if usual else "more than"
            text = f"{subject}: {show_usd(spent)} in an hour, {times} the {show_usd(usual)} {whose}"
            look.warn(subject, hour, entry.at_us, text, spent=format_usd(spent), usual=format_usd(usual))

    def _usual(self, look: Look, subject: str, hour: int) -> tuple[int | None, str]:
        total, _, _, first = look.sums.total(subject, hour - _USUAL, hour)
        if first and first <= hour - DAY:
            return total * HOUR // (hour - first), "of a usual hour of theirs"
        others = [
            sum * HOUR // (hour - first)
            for other, sum, first in look.sums.totals(hour - _USUAL, hour)
            if first <= hour - DAY and other != subject
        ]
        usual = median_low(others) if len(others) >= _OTHERS else None
        return usual, f"of a usual hour of the median {self._name}, who is compared with because this one is new"


class Request(Rule):
    """A request costs n times the mean of its agent and model: "request > 10x mean over $0.10"."""

    form = "request > 10x mean over $0.10"
    pattern = re.compile(rf"request > {_TIMES} mean over {_AMOUNT}")

    def __init__(self, text: str, times: Decimal, least: int):
        super().__init__(text)
        self._times, self._least = times, least

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        return cls(text, times_of(found[1]), parse_usd(found[2], "alerts"))

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        if not isinstance(change, Ended):
            return
        record, hour, group = change.record, entry.at_us // HOUR * HOUR, group_of(change)
        if record.nanos >= self._least and not look.history:
            total, calls, _, _ = look.sums.total(group, hour - _USUAL)
            if calls >= _LEAST_CALLS and record.nanos * calls > self._times * total:
                mean = total // calls
                text = (
                    f"{group}: a request of {show_usd(record.nanos)}, {Decimal(record.nanos) / max(mean, 1):.1f} "
                    f"times the mean of {show_usd(mean)} (call {record.id})"
                )
                look.warn(
                    group, hour, entry.at_us, text, call=record.id, usd=format_usd(record.nanos),
                    mean=format_usd(mean), scope=dict(record.scope),
                )  # fmt: skip
        look.sums.add(group, hour, entry.at_us, record.nanos, 1)
