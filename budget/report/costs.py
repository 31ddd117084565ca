"""What calls cost, in groups.

Sums of whole days come from the daily sums where these can tell (no more than one attribute that has them); what is
before the first whole day and after the last one comes from the rows. Quantiles, and when the first and the last call
were, come from the rows: after a pruning the sums of what was pruned are still there, its rows are not.
"""

from __future__ import annotations

import logging
import sqlite3
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from budget.money import to_decimal
from budget.records.record import COLUMNS
from budget.records.sums import MOST, summed
from budget.report.asking import DAY, Question, decoded, grouped, numbers, of_turned
from budget.report.rows import Row, Rows, money, nearest_rank, same_length
from budget.window import FOREVER, at_zone

__all__ = ["report"]

_SUMMED = COLUMNS[:-1]  # of runs there are no daily sums
_PERCENTS = (50, 95, 99)
_NAMES = ("calls", "usd", "input", "output", "cache_read", "cache_write", "refused")

Key = tuple[Any, ...]
_log = logging.getLogger("budget")


def _numbers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class _Group:
    figures: tuple[int, ...]
    first: int = 0
    last: int = 0
    costs: array[int] = field(default_factory=_numbers)
    latencies: array[int] = field(default_factory=_numbers)


def report(
    db: sqlite3.Connection, account: int, question: Question, *, quick: bool = False, most: int | None = None,
    above: int | None = None, times_mean: tuple[int, int] | None = None,
) -> Rows[Row]:  # fmt: skip
    """Group calls, the dearest group first.

    Args:
        db, account: The file of records.
        question: What is grouped, of which calls, when.
        quick: Sums alone, which the daily sums answer where they can: no quantiles, no first and last.
        most: How many rows at most.
        above: Only groups that cost more than so many nano-dollars.
        times_mean: Only groups that cost at least so many times (a fraction) the mean of all groups that have a value.
    """
    asked = _Asked(db, account, question)
    if times_mean is not None:
        above = max(above or 0, asked.below_mean(times_mean))
    groups: dict[Key, _Group] = {}
    least = 0
    for key, group in asked.sums():
        cost = group.figures[1]
        if (above is not None and cost <= above) or (most is not None and len(groups) >= most and cost < least):
            break  # the others cost less; all that cost as much as the last one are there, to be told by name
        if times_mean is None or None not in key:
            groups[key], least = group, cost
    pairs = list(zip(groups.items(), decoded(db, question.by, groups), strict=True))
    pairs.sort(key=lambda pair: (-pair[0][1].figures[1], [(value is None, value or "") for value in pair[1]]))
    pairs = pairs[:most]
    if not quick:
        asked.add_details(dict(found for found, _ in pairs))
    if any(group.figures[1] >= MOST for (_, group), _ in pairs):
        _log.warning("a sum is above $%s, all that the file of records holds: it is shown as that", to_decimal(MOST))
    return Rows(_row(question.by, text, group) for (_, group), text in pairs)


class _Asked:
    """A question, put to the tables."""

    def __init__(self, db: sqlite3.Connection, account: int, question: Question):
        self._db, self._account, self._question = db, account, question
        self._keys = "".join(f"{grouped(name)} as k{i}, " for i, name in enumerate(question.by))
        self._order = ", ".join(f"k{i}" for i in range(len(question.by)))
        self._parts: list[str] = []
        self._arguments: list[Any] = []

    def sums(self) -> Iterator[tuple[Key, _Group]]:
        """Iterate the groups and their sums, the dearest first."""
        width = len(self._question.by)
        sums = ", ".join(map(summed, _NAMES))
        sql, arguments = self._statement(", ".join(filter(None, [self._order, sums])))
        for row in self._db.execute(f"{sql} order by {summed('usd')} desc", arguments):
            if row[width] or row[-1]:  # without a group there is a row of nothing
                yield row[:width], _Group(row[width:])

    def below_mean(self, times: tuple[int, int]) -> int:
        """Return the largest cost that is below so many times the mean of the groups that have a value."""
        sql, arguments = self._statement(", ".join(filter(None, [self._order, f"{summed('usd')} as usd"])))
        known = "".join(f" and k{i} is not null" for i in range(len(self._question.by)))
        mean = f"select count(*), {summed('usd')} from ({sql}) where true{known}"
        count, total = self._db.execute(mean, arguments).fetchone()
        return -(-times[0] * (total or 0) // (times[1] * count)) - 1 if count else 0

    def _statement(self, what: str) -> tuple[str, list[Any]]:
        """Return the statement that groups days and rows, and its arguments."""
        question = self._question
        self._parts, self._arguments = [], []
        first, last = -(-question.since // DAY), question.until // DAY
        dim = _dim(question)
        if dim is None or first >= last:
            self._add_rows(question.since, question.until)
        else:
            self._add_days(dim, first, last)
            if question.since < first * DAY:
                self._add_rows(question.since, first * DAY)
            if last * DAY < question.until < FOREVER:
                self._add_rows(last * DAY, question.until)
        return f"select {what} from ({' union all '.join(self._parts)}){self._by()}", self._arguments

    def _add_days(self, dim: str, first: int, last: int) -> None:
        keys = "".join(
            f"{'day' if name == 'day' else 'nullif(value, 0)'} as k{i}, " for i, name in enumerate(self._question.by)
        )
        where, arguments = "account = ? and dim = ? and day >= ? and day < ?", [self._account, dim, first, last]
        if dim in self._question.where:
            texts = [text for text in self._question.texts(dim) if text is not None]
            where += f" and value in {numbers(len(texts))}" if texts else " and value = 0"
            arguments += texts
        self._add(f"select {keys}{', '.join(_NAMES)} from totals where {where}", arguments)

    def _add_rows(self, since: int, until: int) -> None:
        where, arguments = self._question.conditions(self._account, since, until)
        figures = "1 as calls, usd, input, output, cache_read, cache_write, 0 as refused"
        self._add(f"select {self._keys}{figures} from calls where {where}", arguments)
        where, arguments = self._question.refusals(self._account, since, until)
        keys = "".join(f"{of_turned(name)} as k{i}, " for i, name in enumerate(self._question.by))
        self._add(f"select {keys}0, 0, 0, 0, 0, 0, 1 from turned where {where} and not shadow and part = 0", arguments)

    def _add(self, sql: str, arguments: Sequence[Any]) -> None:
        self._parts.append(sql)
        self._arguments += arguments

    def _by(self) -> str:
        return f" group by {self._order}" if self._order else ""

    def add_details(self, groups: Mapping[Key, _Group]) -> None:
        """Add what only the rows know: quantiles, and when the first and the last call ended.

        It takes 16 bytes of memory per call of these groups; to have the file sort them takes four times as long.
        """
        where, arguments = self._question.conditions(self._account)
        for row in self._db.execute(f"select {self._keys}at, usd, latency_ms from calls where {where}", arguments):
            group = groups.get(row[:-3])
            if group is None:
                continue
            at, usd, latency = row[-3:]
            group.first, group.last = min(at, group.first or at), max(at, group.last)
            group.costs.append(usd)
            if latency is not None:
                group.latencies.append(latency)


def _dim(question: Question) -> str | None:
    """Return the attribute whose daily sums answer a question ("": everything); None if none do."""
    if "hour" in question.by:
        return None
    names = {name for name in (*question.by, *question.where) if name != "day"}
    if len(names) > 1 or not names <= set(_SUMMED):
        return None
    return names.pop() if names else ""


def _row(by: Sequence[str], texts: Sequence[str | None], group: _Group) -> Row:
    count, total, *tokens, refused = group.figures
    mean = to_decimal((2 * total + count) // (2 * count)) if count else None
    given, answered, read, written = tokens
    first, last = (at_zone(at) if at else None for at in (group.first, group.last))
    p50, p95, p99 = map(money, nearest_rank(sorted(group.costs), _PERCENTS))
    return Row(
        same_length(texts), count, to_decimal(total), mean, p50, p95, p99, given, answered, read, written, refused,
        dict(zip(by, texts, strict=True)), first, last, *nearest_rank(sorted(group.latencies), _PERCENTS),
    )  # fmt: skip
