"""Erasing a subject from what warnings remember: what was warned of it, and what it has spent lately, is dropped."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from budget.errors import StoreUnavailable
from budget.sinks.places import beside
from budget.subject import show_value

if TYPE_CHECKING:
    from budget.books.books import Books

__all__ = ["forget"]


def forget(books: Books, attribute: str, value: str) -> int:
    """Drop the warnings that name a subject, and its sums; return how many warnings that were.

    Raises:
        StoreUnavailable: The file cannot be written; run it again, then.
    """
    path = beside(books, "-alerts")
    if path is None or not path.exists():
        return 0
    try:
        with closing(sqlite3.connect(path, timeout=30.0, isolation_level=None)) as db:
            db.execute("pragma secure_delete = on")
            db.execute("begin immediate")
            dropped = _forget(db, books.account, attribute, value)
            db.execute("commit")
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the file of the alerts cannot be written: {error}") from error
    return dropped


def _forget(db: sqlite3.Connection, account: str, attribute: str, value: str) -> int:
    forms = "|".join(re.escape(f"{attribute}={each}") for each in {value, show_value(value)})
    named = re.compile(rf"(?<!\w)(?:{forms})(?![\w.@-])")
    rows = db.execute("select id, subject, text, figures from alerts where account = ?", (account,)).fetchall()
    ids = [
        (id,)
        for id, subject, text, figures in rows
        if named.search(subject) or named.search(text) or json.loads(figures).get("scope", {}).get(attribute) == value
    ]
    db.executemany("delete from deliveries where alert = ?", ids)
    db.executemany("delete from alerts where id = ?", ids)
    known = "select distinct rule, subject from sums where rule in (select id from rules where account = ?)"
    sums = [row for row in db.execute(known, (account,)).fetchall() if named.search(row[1])]
    db.executemany("delete from sums where rule = ? and subject = ?", sums)
    return len(ids)
