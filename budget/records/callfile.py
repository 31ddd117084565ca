"""The records of an account in columns: an SQLite file beside the store, which is brought up to date when it is asked.

It is made from the ledger and can be made again, so it is written without waiting for the disk, and nothing on the way
of a call writes it. Entries are taken a page at a time, in one transaction with how far the ledger was read: any number
of processes may do it at once, and each entry counts once. What is asked for most (calls, money and tokens by user,
session, agent, project, model, provider and day) stands in daily sums besides, which do not grow with the calls.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget.errors import StoreUnavailable
from budget.records.changes import Corrected, Ended, Refused, Shadowed, Withdrawn, changes_of
from budget.records.record import COLUMNS, Record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from budget.books.books import Books

__all__ = ["CallFile", "day_of"]

_VERSION = 1
_DAY_US = 86_400_000_000
_PUT = "insert or ignore into calls values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_KNOWN = """select seq, at, usd, input, output, cache_read, cache_write,
    user, session, agent, project, model, provider, run from calls where account = ? and id = ?"""
_ADD = """insert into totals values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set
    calls = calls + excluded.calls, usd = usd + excluded.usd, input = input + excluded.input,
    output = output + excluded.output, cache_read = cache_read + excluded.cache_read,
    cache_write = cache_write + excluded.cache_write, refused = refused + excluded.refused"""
_DIMS = ("", *COLUMNS[:-1])  # a run has its rows in `calls`; daily sums of them would be as many
_FIGURES = 7
_NAMES_KEPT = 200_000


class CallFile:
    """The records of one account.

    Args:
        books: Of the account. Its ledger is read as far as it goes each time that the file is brought up to date.
        path: The file; by default `<store or records store>-calls` beside it, and memory for a store in memory.
    """

    def __init__(self, books: Books, path: Path | None = None):
        self._books = books
        self.path = path or _beside(books)
        self._db: sqlite3.Connection | None = None
        self._names: dict[str, int] = {}

    def open(self) -> sqlite3.Connection:
        """Bring the file up to date and return its connection, to be read.

        Raises:
            StoreUnavailable: The ledger or the file cannot be read.
        """
        self.catch_up()
        return self.db

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, as far as the file is now."""
        if self._db is None:
            self._db = _connect(self.path)
        return self._db

    @property
    def account(self) -> int:
        """The number of the account in the file."""
        rows = self.db.execute("select id from accounts where name = ?", (self._books.account,)).fetchone()
        return int(rows[0]) if rows else 0

    def catch_up(self) -> int:
        """Read what the ledger has gained; return how many entries that were."""
        ledger, account, count = self._books.ledger(), self._books.account, 0
        while True:
            with self._transaction() as db:
                db.execute("insert or ignore into accounts (name) values (?)", (account,))
                id, seq = db.execute("select id, seq from accounts where name = ?", (account,)).fetchone()
                page = ledger.entries(account, seq)
                if not page:
                    return count
                _Page(db, id, self._names).take(page)
                db.execute("update accounts set seq = ? where id = ?", (page[-1].seq, id))
                count += len(page)

    def put(self, records: Iterable[Record]) -> int:
        """Add records that are in no ledger, such as imported ones; return how many were not there before.

        They count from below 0, and stay when the file is made anew from the ledger.
        """
        with self._transaction() as db:
            db.execute("insert or ignore into accounts (name) values (?)", (self._books.account,))
            id = db.execute("select id from accounts where name = ?", (self._books.account,)).fetchone()[0]
            lowest = db.execute("select min(seq) from calls where account = ?", (id,)).fetchone()[0]
            page = _Page(db, id, self._names)
            seq, added = min(lowest or 0, 0), 0
            for record in records:
                if page.end(record, seq - 1):
                    seq, added = seq - 1, added + 1
            page.sum_up()
        return added

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self.db
        try:
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                db.execute("rollback")
                self._names.clear()  # some of them may not be there now
                raise
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the file of records cannot be written: {error}") from error


class _Page:
    """One page of the ledger on its way into the file."""

    def __init__(self, db: sqlite3.Connection, account: int, names: dict[str, int]):
        self._db, self._account, self._names = db, account, names
        self._sums: dict[tuple[str, int, int], list[int]] = {}
        self._refused: Counter[tuple[str, int, int]] = Counter()

    def take(self, entries: Sequence[Any]) -> None:
        """Carry out what entries do to the records."""
        for entry, change in changes_of(entries):
            if isinstance(change, Ended):
                self.end(change.record, entry.seq)
            elif isinstance(change, Corrected):
                self._correct(change.id, change.record)
            elif isinstance(change, Withdrawn):
                self._withdraw(change.id)
            elif isinstance(change, Refused | Shadowed):
                self._turn(change)
            elif entry.kind in ("erased", "pruned"):
                self._forget(entry.kind, entry.detail)
        self.sum_up()

    def end(self, record: Record, seq: int) -> bool:
        """Add a call; whether it was not there before."""
        columns = [self._name(record.column(name)) for name in COLUMNS]
        figures = (
            record.input_tokens, record.output_tokens, record.cache_read_tokens, record.cache_write_tokens,
        )  # fmt: skip
        rest = (
            record.saved, record.expected, record.reserved, record.latency_ms, record.first_token_ms, record.estimated,
            self._name(None if record.outcome == "ok" else record.outcome), self._name(record.parent),
            json.dumps(record.tags, separators=(",", ":")) if record.tags else None,
        )  # fmt: skip
        row = (self._account, seq, _raw(record.id), record.at_us, record.nanos, *columns, *figures, *rest)
        if not self._db.execute(_PUT, row).rowcount:
            return False
        self._count(record.at_us, columns, 1, (record.nanos, *figures))
        return True

    def _correct(self, id: str, record: Record) -> None:
        known = self._known(id)
        if known is None:
            return
        seq, at, usd, *rest = known
        before, dims = rest[:4], rest[4:]
        nanos = usd + record.nanos
        if record.usage is None:  # more of it, not the whole truth
            told = [one + more for one, more in zip(before, _tokens(record), strict=True)]
        else:
            told = list(_tokens(record))
        self._db.execute(
            """update calls set usd = ?, input = ?, output = ?, cache_read = ?, cache_write = ?, saved = ?,
            estimated = ? where account = ? and seq = ?""",
            (nanos, *told, record.saved, record.usage is None or record.estimated, self._account, seq),
        )
        more = [new - old for new, old in zip(told, before, strict=True)]
        self._count(at, dims, 0, (record.nanos, *more))

    def _withdraw(self, id: str) -> None:
        known = self._known(id)
        if known is None:
            return
        seq, at, *rest = known
        self._db.execute("delete from calls where account = ? and seq = ?", (self._account, seq))
        self._count(at, rest[5:], -1, [-figure for figure in rest[:5]])

    def _turn(self, change: Refused | Shadowed) -> None:
        shadow = isinstance(change, Shadowed)
        rows = [
            (self._account, change.seq, change.at_us, shadow, limit, json.dumps(dict(change.scope)), change.model)
            for limit in change.limits or ("",)
        ]
        self._db.executemany("insert into turned values (?, ?, ?, ?, ?, ?, ?)", rows)
        if not shadow:
            values = {**change.scope, "model": change.model or change.scope.get("model")}
            for dim, value in self._values([self._name(values.get(name)) for name in COLUMNS]):
                self._refused[dim, day_of(change.at_us), value] += 1

    def _forget(self, kind: str, detail: Mapping[str, Any]) -> None:
        if kind == "pruned":  # the sums stay, as the ledger's own do
            upto = detail["upto"]
            self._db.execute("delete from calls where account = ? and seq between 0 and ?", (self._account, upto))
            self._db.execute("delete from turned where account = ? and seq <= ?", (self._account, upto))

    def _known(self, id: str) -> Any:
        return self._db.execute(_KNOWN, (self._account, _raw(id))).fetchone()

    def _values(self, columns: Sequence[int | None]) -> list[tuple[str, int]]:
        return [("", 0), *((dim, value or 0) for dim, value in zip(_DIMS[1:], columns, strict=False))]

    def _count(self, at_us: int, columns: Sequence[int | None], calls: int, figures: Sequence[int]) -> None:
        day = day_of(at_us)
        for dim, value in self._values(columns):
            sums = self._sums.setdefault((dim, day, value), [0] * (_FIGURES - 1))
            sums[0] += calls
            for place, figure in enumerate(figures, 1):
                sums[place] += figure

    def sum_up(self) -> None:
        """Write the daily sums of this page."""
        keys = self._sums.keys() | self._refused.keys()
        none = [0] * (_FIGURES - 1)
        rows = [(self._account, *key, *self._sums.get(key, none), self._refused[key]) for key in keys]
        self._db.executemany(_ADD, rows)

    def _name(self, text: str | None) -> int | None:
        if text is None:
            return None
        known = self._names.get(text)
        if known is None:
            if len(self._names) > _NAMES_KEPT:
                self._names.clear()
            self._db.execute("insert or ignore into names (text) values (?)", (text,))
            known = self._names[text] = self._db.execute("select id from names where text = ?", (text,)).fetchone()[0]
        return known


def day_of(at_us: int) -> int:
    """Return the day (UTC) of an instant, as days since the epoch."""
    return at_us // _DAY_US


def _tokens(record: Record) -> tuple[int, int, int, int]:
    return record.input_tokens, record.output_tokens, record.cache_read_tokens, record.cache_write_tokens


def _raw(id: str) -> bytes:
    """Return an id as bytes: 16 of them where it is hex digits."""
    try:
        return bytes.fromhex(id)
    except ValueError:
        return id.encode()


def _beside(books: Books) -> Path | None:
    path = books.records.path if books.records is not None else getattr(books.store, "path", None)
    return None if path is None else path.with_name(f"{path.name}-calls")


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    try:
        db = sqlite3.connect(path or ":memory:", timeout=30.0, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode = wal", "synchronous = off", "trusted_schema = off", "cache_size = -65536"):
            db.execute(f"pragma {pragma}")
        _prepare(db)
    except sqlite3.Error as error:
        raise StoreUnavailable(f"the file of records {path} cannot be opened: {error}") from error
    return db


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables; a file of another version is made anew from the ledger."""
    db.execute("begin immediate")
    found = db.execute("pragma user_version").fetchone()[0]
    if found != _VERSION:
        for (name,) in db.execute("select name from sqlite_master where type = 'table'").fetchall():
            db.execute(f'drop table "{name}"')
        for statement in files("budget.records").joinpath("calls.sql").read_text().split(";\n"):
            if statement.strip():
                db.execute(statement)
        db.execute(f"pragma user_version = {_VERSION}")
    db.execute("commit")
