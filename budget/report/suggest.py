"""Limits from what was observed: the quantiles of what calls cost, and what each limit would have refused.

A limit is suggested at a quantile (nearest rank) of what it would have counted: the cost of a call, of a user's day, of
a session. It is rounded up to two digits. What it would have refused is counted by letting the same calls come again in
their order, each asking for what it cost: one that does not fit is refused and spends nothing, so smaller ones after it
may still fit. Windows are those of UTC. Calls without the attribute share a pool of such a limit, so it refuses of them
too; they are no subject that a quantile is taken of.
"""

from __future__ import annotations

import shlex
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from budget.money import MAX, format_usd, to_decimal
from budget.records.sums import summed
from budget.report.asking import DAY, HOUR, Question, grouped
from budget.report.rows import Rows, nearest_rank, plain
from budget.window import FOREVER

__all__ = ["QUANTILES", "Suggestion", "suggest"]

QUANTILES = (95, 99, 100)
"""The percents at which limits are suggested; 100: what was the most."""


class _Rule(NamedTuple):
    """What a limit counts: per value of an attribute (None: all together), in windows of a kind."""

    per: str | None
    window: str


_RULES = (
    _Rule("user", "hour"), _Rule("user", "day"), _Rule("session", "lifetime"), _Rule("agent", "day"),
    _Rule("project", "day"), _Rule(None, "day"),
)  # fmt: skip
_SUBJECTS = ("user", "session", "agent", "project")
_SPANS = {"hour": HOUR, "day": DAY, "lifetime": FOREVER}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One limit, and what it would have refused. Money is Decimal USD.

    Attributes:
        limit: As text, such as "per=user $5/day".
        percent: At which quantile it was taken.
        observed: That quantile.
        of: How many calls, or windows of a subject, it is a quantile of.
        refused_calls, refused_usd, refused_users: What it would have refused of the same calls, and of how many users.
        command: What sets it.
    """

    limit: str
    percent: int
    observed: Decimal
    of: int
    refused_calls: int
    refused_usd: Decimal
    refused_users: int
    command: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return plain(self)


@dataclass(slots=True)
class _Tried:
    """One limit, tried on the calls: what it has spent in each window that may be too much for it, and refused."""

    rule: _Rule
    percent: int
    observed: int
    of: int
    amount: int
    spent: dict[tuple[Any, int], int]
    calls: int = 0
    usd: int = 0
    users: set[Any] = field(default_factory=set)

    def call(self, key: tuple[Any, int], usd: int, user: Any) -> None:
        """Let one call come."""
        spent = self.spent.get(key)
        if spent is None:
            return
        if spent + usd <= self.amount:
            self.spent[key] = spent + usd
            return
        self.calls, self.usd = self.calls + 1, self.usd + usd
        if user is not None:
            self.users.add(user)


def suggest(db: sqlite3.Connection, account: int, question: Question) -> Rows[Suggestion]:
    """Suggest a cap per request, and limits per user, session, agent, project and for all together."""
    where, arguments = question.conditions(account)
    found = [*_caps(db, where, arguments)]
    tried = [(rule, list(_limits(db, rule, where, arguments))) for rule in _RULES]
    _replay(db, [(rule, limits) for rule, limits in tried if limits], where, arguments)
    for rule, limits in tried:
        per = "" if rule.per is None else f"per={rule.per}"
        found += [_suggestion(per, rule.window, each, (each.calls, each.usd, len(each.users))) for each in limits]
    return Rows(found)


def _replay(
    db: sqlite3.Connection, tried: Sequence[tuple[_Rule, Sequence[_Tried]]], where: str, arguments: list[Any]
) -> None:  # fmt: skip
    """Let the calls come in their order."""
    sql = f"select at, usd, user, {', '.join(_SUBJECTS)}, null from calls where {where} order by at, abs(seq)"
    # Where the lowest of a rule's limits has room for all that came, the others have, too.
    places = [
        (3 + _SUBJECTS.index(rule.per) if rule.per else -1, _SPANS[rule.window], limits[0].spent, limits)
        for rule, limits in tried
    ]
    for row in db.execute(sql, arguments):
        at, usd, user = row[:3]
        for place, span, narrow, limits in places:
            key = row[place], at // span
            if key in narrow:
                for each in limits:
                    each.call(key, usd, user)


def _caps(db: sqlite3.Connection, where: str, arguments: list[Any]) -> Iterator[Suggestion]:
    rule = _Rule(None, "request")
    costs = array("q", (usd for (usd,) in db.execute(f"select usd from calls where {where}", arguments)))
    ordered = sorted(costs)
    for percent, observed in zip(QUANTILES, nearest_rank(ordered, QUANTILES), strict=True):
        if observed:
            each = _Tried(rule, percent, observed, len(ordered), _rounded(observed), {})
            figures = f"count(*), coalesce({summed('usd')}, 0), count(distinct user)"
            sql = f"select {figures} from calls where {where} and usd > ?"
            yield _suggestion("", "request", each, db.execute(sql, [*arguments, each.amount]).fetchone())


def _limits(db: sqlite3.Connection, rule: _Rule, where: str, arguments: list[Any]) -> Iterator[_Tried]:
    subject = "null" if rule.per is None else grouped(rule.per)
    keys = f"{subject} as k0, at / {_SPANS[rule.window]} as k1"
    sql = f"select {keys}, {summed('usd')} from calls where {where} group by k0, k1"
    totals = {(subject, window): total for subject, window, total in db.execute(sql, arguments)}
    ordered = sorted(total for (subject, _), total in totals.items() if subject is not None or rule.per is None)
    for percent, observed in zip(QUANTILES, nearest_rank(ordered, QUANTILES), strict=True):
        if observed and observed <= MAX:
            amount = _rounded(observed)
            heavy = {key: 0 for key, total in totals.items() if total > amount}
            yield _Tried(rule, percent, observed, len(ordered), amount, heavy)


def _rounded(nanos: int) -> int:
    """Round up to two digits: 1,234 to 1,300."""
    unit: int = 10 ** max(len(str(nanos)) - 2, 0)
    return min(-(-nanos // unit) * unit, MAX)


def _suggestion(selector: str, window: str, tried: _Tried, refused: tuple[int, int, int]) -> Suggestion:
    rule = f"${format_usd(tried.amount)}/{window}"
    command = " ".join(["budget set", *([selector] if selector else []), shlex.quote(rule)])
    calls, usd, users = refused
    return Suggestion(
        f"{selector} {rule}".lstrip(), tried.percent, to_decimal(tried.observed), tried.of, calls, to_decimal(usd),
        users, command,
    )  # fmt: skip
