"""Costs by day of single values, for the lines that stand beside a row: looked up in the daily sums, one by one."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from budget.records.record import COLUMNS

__all__ = ["TRENDED", "trends"]

TRENDED = COLUMNS[:-1]
"""The attributes that have daily sums."""


def trends(
    db: sqlite3.Connection, account: int, name: str, values: Sequence[str | None], days: range
) -> list[list[int]]:
    """Return what each value cost on each of some days (since the epoch, UTC), in nano-dollars."""
    found = []
    marks = ",".join("?" * len(days))
    for value in values:
        sql = f"""select day, usd from totals where account = ? and dim = ? and day in ({marks})
            and value = coalesce((select id from names where text = ?), 0)"""
        costs = dict(db.execute(sql, [account, name, *days, value]))
        found.append([costs.get(day, 0) for day in days])
    return found
