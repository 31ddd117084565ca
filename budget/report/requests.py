"""Single calls that cost far more than the mean, and what calls cost per hour, idle hours too."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from budget.money import to_decimal
from budget.records.callfile import text_id
from budget.records.record import COLUMNS
from budget.records.sums import summed
from budget.report.asking import HOUR, Question, decoded
from budget.report.rows import Rows, plain, ratio
from budget.window import at_zone

__all__ = ["CallRow", "RateRow", "dear_calls", "rates"]


@dataclass(frozen=True, slots=True)
class CallRow:
    """One call. Money is Decimal USD.

    Attributes:
        id: Of its reservation.
        at: When it ended (UTC).
        usd: What it cost.
        times_mean: That, over the mean of all calls that were asked for.
        keys: Its user, session, agent, project, model, provider and run; None where it has none.
        input_tokens: All input, cached too.
        output_tokens: All output, reasoning too.
    """

    id: str
    at: datetime
    usd: Decimal
    times_mean: Decimal | None
    keys: Mapping[str, str | None]
    input_tokens: int
    output_tokens: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return plain(self)


@dataclass(frozen=True, slots=True)
class RateRow:
    """What one hour cost.

    Attributes:
        since, until: Its bounds (UTC); the last one ends now.
        calls: How many ended in it.
        usd: What they cost: the rate in USD per hour.
    """

    since: datetime
    until: datetime
    calls: int
    usd: Decimal

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return plain(self)


def dear_calls(
    db: sqlite3.Connection, account: int, question: Question, times: tuple[int, int], most: int | None
) -> Rows[CallRow]:
    """Return the calls that cost more than so many times (a fraction) the mean of all, the dearest first."""
    where, arguments = question.conditions(account)
    sums = f"select count(*), coalesce({summed('usd')}, 0) from calls where {where}"
    count, total = db.execute(sums, arguments).fetchone()
    if not count:
        return Rows()
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    sql = f"""select id, at, usd, input, output, {columns} from calls where {where} and usd > ?
        order by usd desc, at, abs(seq) limit ?"""
    bound = times[0] * total // (times[1] * count)
    found = db.execute(sql, [*arguments, bound, -1 if most is None else most]).fetchall()
    texts = decoded(db, COLUMNS, [row[5:] for row in found])
    return Rows(
        CallRow(
            text_id(id), at_zone(at), to_decimal(usd), ratio(usd * count, total),
            dict(zip(COLUMNS, keys, strict=True)), *tokens,
        )
        for (id, at, usd, *tokens), keys in zip((row[:5] for row in found), texts, strict=True)
    )  # fmt: skip


def rates(db: sqlite3.Connection, account: int, question: Question, now: int) -> Rows[RateRow]:
    """Return what each hour cost, counted back from the end of the period, which is no later than now.

    The last hour is a whole one, so that its cost is a rate whatever happened in it, a single call or none.
    """
    end = min(question.until, now)
    count = max(1, -(-(end - question.since) // HOUR))
    where, arguments = question.conditions(account, end - count * HOUR, end + 1)
    sql = f"select (? - at) / {HOUR} as back, count(*), {summed('usd')} from calls where {where} group by back"
    found = {back: rest for back, *rest in db.execute(sql, [end, *arguments])}
    return Rows(
        RateRow(at_zone(end - (back + 1) * HOUR), at_zone(end - back * HOUR), calls, to_decimal(usd))
        for back in reversed(range(count))
        for calls, usd in [found.get(back, (0, 0))]
    )
