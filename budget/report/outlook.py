"""Where pools are going: what is spent, how fast, and when it runs out.

The rate is that of the last sixth of the window's length (four hours of a day, ten minutes of an hour; a day where the
window has no length): a fixed time, idle or not, also where the window has just begun. It is taken from the records, so
a call counts when it has ended.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from budget.limits import Limit
from budget.money import NANOS
from budget.pools import Pool, shown
from budget.records.sums import MOST, summed
from budget.report.asking import DAY, HOUR, Naming, Question, decoded, grouped
from budget.report.rows import Rows, plain
from budget.window import FOREVER, at_zone, bounds

__all__ = ["OutlookRow", "outlook"]

_PART = 6  # of the window
_COUNTED = {
    "usd": summed("usd"),
    "tokens": f"min({MOST}, {summed('input')} + {summed('output')})",
    "input_tokens": summed("input"),
    "output_tokens": summed("output"),
    "requests": "count(*)",
}


@dataclass(frozen=True, slots=True)
class OutlookRow:
    """Where one pool is going. Amounts are Decimal USD, or int for other units.

    Attributes:
        limit: The limit as text.
        subject: Whose pool it is: "user=alice".
        unit: usd, tokens, input_tokens, output_tokens or requests.
        amount: What may be spent in the window.
        spent, reserved, available: As in `Pool`.
        per_hour: What was spent per hour in the last sixth of the window's length.
        projected: Spent and reserved at the end of the window if it goes on so; of a rolling window, what it will have
            in it; None where the window does not end.
        runs_out: When nothing is left if it goes on so; None if that is after the window's end, or never. Of a rolling
            window it is the earliest, as what leaves it meanwhile is not known.
        resets_at: When the window ends, or None.
    """

    limit: str
    subject: str
    unit: str
    amount: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    available: Decimal | int
    per_hour: Decimal | int
    projected: Decimal | int | None
    runs_out: datetime | None
    resets_at: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return plain(self)


def outlook(
    db: sqlite3.Connection, account: int, pools: Sequence[Pool], now: int, naming: Naming
) -> Rows[OutlookRow]:  # fmt: skip
    """Project pools to the end of their windows: those that run out come first, the soonest before the others."""
    spending: dict[Any, Mapping[str | None, int]] = {}
    rows = []
    for pool in pools:
        limit = pool.limit
        if limit.unit not in _COUNTED or pool.account is not None or limit.window.kind == "run":
            continue
        start, end = bounds(limit.window, now, limit.tz, limit.starts)
        length = limit.window.span or (DAY if end == FOREVER else end - start)
        key = (limit.identity, length)
        if key not in spending:
            spending[key] = _spent(db, account, limit, now - length // _PART, naming)
        value = None if limit.per is None else pool.subject.get(limit.per)
        rows.append(_row(pool, spending[key].get(value, 0), length // _PART, end, now))
    never = at_zone(FOREVER)
    return Rows(sorted(rows, key=lambda row: (row.runs_out or never, -_share(row), row.limit, row.subject)))


def _spent(
    db: sqlite3.Connection, account: int, limit: Limit, since: int, naming: Naming
) -> Mapping[str | None, int]:  # fmt: skip
    """Return what the calls that a limit applies to have spent since then, by the subject of each pool."""
    by, selector = () if limit.per is None else (limit.per,), dict(limit.selector)
    where, arguments = Question(by, since, FOREVER, selector).of_model(db, account, naming).conditions(account)
    key = grouped(limit.per) if limit.per is not None else "null"
    sql = f"select {key} as k0, {_COUNTED[limit.unit]} from calls where {where} group by k0"
    found = db.execute(sql, arguments).fetchall()
    if limit.per is None:
        return {None: sum(amount for _, amount in found)}
    spent = Counter[str | None]()
    for (text,), (_, amount) in zip(decoded(db, by, [row[:1] for row in found]), found, strict=True):
        spent[naming(text, selector.get("provider")) if text and limit.per == "model" else text] += amount
    return spent


def _row(pool: Pool, lately: int, part: int, end: int, now: int) -> OutlookRow:
    limit, unit = pool.limit, pool.unit
    spent, reserved, left = (_figure(value) for value in (pool.spent, pool.reserved, pool.available))
    projected: int | None = None
    if limit.window.span:
        projected = max(lately * limit.window.span // part, 0) + reserved
    elif end < FOREVER:
        projected = spent + reserved + lately * (end - now) // part
    runs_out = None
    if left <= 0 and limit.quantity:
        runs_out = now
    elif lately > 0 and (projected is None or projected > limit.quantity):
        runs_out = now + left * part // lately
    return OutlookRow(
        str(limit), str(pool.subject), unit, limit.amount, pool.spent, pool.reserved, pool.available,
        shown(unit, lately * HOUR // part), None if projected is None else shown(unit, projected),
        None if runs_out is None or runs_out > FOREVER else at_zone(runs_out, limit.tz), pool.resets_at,
    )  # fmt: skip


def _figure(value: Decimal | int) -> int:
    return int(value * NANOS) if isinstance(value, Decimal) else value


def _share(row: OutlookRow) -> Decimal:
    """Return how much of it will be used, or is."""
    used = row.spent + row.reserved if row.projected is None else row.projected
    return Decimal(used) / Decimal(row.amount) if row.amount else Decimal(0)
