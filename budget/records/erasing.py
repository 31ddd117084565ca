"""Erasing a subject from an account and from the file of its records.

The file is no evidence, so its rows are changed in place; sums by subject stay sums by subject. Whoever else has such a
file of the account (in memory, or elsewhere) finds the entry "erased" in the ledger, and makes it anew.
"""

from __future__ import annotations

import json
import mmap
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from budget.books.books import Books
from budget.books.erasing import Erased
from budget.books.erasing import erase as erase_ledger
from budget.ledger import dumps
from budget.pseudonym import Swap
from budget.records.callfile import CallFile
from budget.records.intake import DIMS, Intake, merge_sums
from budget.records.record import COLUMNS

__all__ = ["erase"]


def erase(books: Books, attribute: str, value: str, detail: Mapping[str, Any]) -> Erased:
    """Erase the value of an attribute: see `budget.books.erasing.erase`, with the same arguments and errors.

    Raises:
        StoreUnavailable: Also if the file of records cannot be written; run it again, then.
    """
    file = CallFile(books)
    try:
        if file.path is None or not file.path.exists():
            return erase_ledger(books, attribute, value, detail)
        with file.file.alone():
            file.catch_up()
            done = erase_ledger(books, attribute, value, detail)
            file.catch_up(erased=True)
            with file.change() as (db, intake):
                _swap(db, intake, file.account, Swap(attribute, value, done.pseudonym, {}))
                file.forget_names(db)
            clean = file.file.scrub()
            file.drop_days()
            if file.file.aside is not None and _holds(file.file.aside, value):
                file.file.aside.unlink()
        return done._replace(clean=done.clean and clean)
    finally:
        file.close()


def _swap(db: sqlite3.Connection, intake: Intake, account: int, swap: Swap) -> None:
    """Put the pseudonym into every row that has the value."""
    found = db.execute("select id, text from names where instr(text, ?)", (swap.value,)).fetchall()
    for old, text in found:
        for column in (*COLUMNS, "parent"):
            changed = swap.text(text, column)
            if changed != text:
                new = intake.name(changed)
                key = (new, account, old)
                db.execute(f'update calls set "{column}" = ? where account = ? and "{column}" = ?', key)  # noqa: S608 - what is put in is above
                if column in DIMS:
                    merge_sums(db, account, column, old, new)
    written = dumps(swap.value)[1:-1]
    query = "select seq, tags from calls where account = ? and tags is not null and instr(tags, ?)"
    for seq, tags in db.execute(query, (account, written)).fetchall():
        changed = dumps(swap.json(json.loads(tags)))
        db.execute("update calls set tags = ? where account = ? and seq = ?", (changed, account, seq))
    db.execute("update accounts set texts = texts + 1 where id = ?", (account,))
    query = """select rowid, scope, "limit", model from turned
        where account = ?1 and (instr(scope, ?2) or instr("limit", ?3) or instr(model, ?3))"""
    for row, scope, limit, model in db.execute(query, (account, written, swap.value)).fetchall():
        told = (dumps(swap.json(json.loads(scope))), swap.text(limit), model and swap.text(model, "model"))
        db.execute('update turned set scope = ?, "limit" = ?, model = ? where rowid = ?', (*told, row))


def _holds(path: Path, value: str) -> bool:
    """Whether a file has the bytes of a value, also as JSON writes it."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as there:
        return any(there.find(text.encode()) >= 0 for text in (value, dumps(value)[1:-1]))
