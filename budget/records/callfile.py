"""The records of an account in columns: an SQLite file beside the store, which is brought up to date when it is asked.

It is made from the ledger and can be made again, so it is written without waiting for the disk, and nothing on the way
of a call writes it. Entries are taken a portion at a time, in one transaction with how far the ledger was read: any
number of processes may do it at once, and each entry counts once. What is asked for most (calls, money and tokens by
user, session, agent, project, model, provider and day) stands in daily sums besides, which do not grow with the calls.

With its place the file keeps the digest of the entry there. A ledger that has another one, or ends before it, is not
the one that was read (a restored copy, an account that was removed and made again): the account's records are then made
anew, and so they are after an entry "erased" that was not carried out here too (`budget.records.erasing`). What was
imported stays.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from budget.errors import ConfigError
from budget.records.calldb import CallDb, Damaged
from budget.records.intake import Intake, day_of, resum, text_id
from budget.records.reading import digest_at, ledger_of, read_portion
from budget.records.record import COLUMNS, Record
from budget.stores.base import read_entries

if TYPE_CHECKING:
    from budget.books.books import Books
    from budget.ledger import Entry
    from budget.stores.base import Store

__all__ = ["CallFile", "day_of", "text_id"]

_PLACE = "select id, seq, digest, since from accounts where name = ?"
_NAMED = (*COLUMNS, "outcome", "parent")
_NOBODYS = "delete from names where id not in (" + " union ".join(  # noqa: S608 - what is put in is above
    [f'select "{name}" from calls where "{name}" is not null' for name in _NAMED] + ["select value from totals"]  # noqa: S608 - what is put in is above
) + ")"  # fmt: skip


class CallFile:
    """The records of one account.

    Args:
        books: Of the account. Its ledger is read as far as it goes each time that the file is brought up to date.
        path: The file; by default `<store or records store>-calls` beside it. For a store in memory, and for a server
            whose ledger is not drained, the records are made in memory.
    """

    def __init__(self, books: Books, path: Path | None = None):
        self.books, self.path = books, path or _beside(books)
        self.file = CallDb(self.path)
        self._names: dict[str, int] = {}
        self._names_of: tuple[Any, int] = (None, 0)

    def open(self) -> sqlite3.Connection:
        """Bring the file up to date and return its connection, to be read.

        Raises:
            StoreUnavailable: The ledger or the file cannot be read.
        """
        self.catch_up()
        return self.db

    @property
    def db(self) -> sqlite3.Connection:
        """The connection, as far as the file is now; to be read."""
        return self.file.reader

    @property
    def account(self) -> int:
        """The number of the account in the file; 0 if it has none there."""
        rows = self.file.read(_PLACE, self.books.account)
        return int(rows[0][0]) if rows else 0

    def catch_up(self, *, erased: bool = False) -> int:
        """Read what the ledger has gained; return how many entries that were.

        Args:
            erased: What the ledger says was erased is erased here by the caller.

        Raises:
            StoreUnavailable: The ledger or the file cannot be read.
        """
        try:
            return self._catch_up(erased)
        except Damaged:
            return self._catch_up(erased)

    def _catch_up(self, erased: bool) -> int:
        if self._reads_whole:
            return self._read_whole()
        ledger = ledger_of(self.books)
        account, count = self.books.account, 0
        last = 0 if ledger is None else ledger.last(account)
        if self._stands_at(ledger, last):
            return 0
        self._notice_another(ledger, last)
        while ledger is not None:
            with self.change() as (db, intake):
                id, seq, _, since = self._place(db)
                if seq >= last:
                    return count
                if not seq:
                    db.execute("update accounts set since = ? where id = ?", (since := last, id))
                found = read_portion(ledger, account, seq, last)
                anew = intake.take(found.entries) > since and not erased
                db.execute("update accounts set seq = ?, digest = ? where id = ?", (found.upto, found.digest, id))
                if anew:
                    self._drop(db, id)
                count += found.upto - seq
            if anew:
                self.file.scrub()
                self.drop_days()
        return 0

    @property
    def _reads_whole(self) -> bool:
        """Whether there is no file: a server's ledger that is not drained is on that server alone."""
        return self.path is None and self.books.drains

    def _read_whole(self) -> int:
        # From the beginning each time: its refusals stand beside the sequence, so that no place says what is new.
        self.file.close()
        count = 0

        def counted() -> Iterator[Entry]:
            nonlocal count
            for entry in read_entries(self.books.store, self.books.account):
                count += 1
                yield entry

        with self.change() as (_, intake):
            intake.take(counted())
        return count

    def _check_kept(self) -> None:
        if self._reads_whole:
            raise ConfigError("records: this needs a file beside a records store; configure one, or drain the server")

    def put(self, records: Iterable[Record]) -> int:
        """Add records that are in no ledger, such as imported ones; return how many were not there before.

        They count from below 0, and stay when the file is made anew from the ledger.

        Raises:
            ConfigError: The store is a server whose ledger is not drained.
            StoreUnavailable: The file cannot be written; nothing was added.
        """
        self._check_kept()
        with self.change() as (db, intake):
            lowest = db.execute("select min(seq) from calls where account = ?", (self._place(db)[0],)).fetchone()[0]
            return intake.add(records, min(lowest or 0, 0))

    def put_from(self, other: CallFile) -> int:
        """Add what was imported into another file, as when an account has moved; return how many were new here.

        Raises:
            ConfigError: The store is a server whose ledger is not drained.
            StoreUnavailable: One of both files cannot be used; nothing was added.
        """
        self._check_kept()
        names = dict(other.file.read("select id, text from names"))
        rows = other.file.read("select * from calls where account = ? and seq < 0 order by seq desc", other.account)
        with self.change() as (db, intake):
            lowest = db.execute("select min(seq) from calls where account = ?", (self._place(db)[0],)).fetchone()[0]
            return intake.add_rows(rows, names, min(lowest or 0, 0))

    @property
    def days(self) -> Path | None:
        """The folder with the account's closed days as Parquet files (`budget.records.analytics`); None in memory."""
        return None if self.path is None else self.path.with_name(f"{self.path.name}-days") / self.books.account

    def drop_days(self) -> None:
        """Drop the files of closed days, which are made again when they are needed."""
        if self.days is not None:
            rmtree(self.days, ignore_errors=True)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    @contextmanager
    def change(self) -> Iterator[tuple[sqlite3.Connection, Intake]]:
        """Change the file in one step; what is yielded adds records.

        Raises:
            StoreUnavailable: It cannot be written; nothing was changed.
        """
        with self.file.transaction() as db:
            now = db.execute("pragma data_version").fetchone()[0]
            if self._names_of != (db, now):  # another connection may have dropped names
                self._names.clear()
            self._names_of = (db, now)
            try:
                yield db, Intake(db, self._place(db)[0], self._names)
            except BaseException:
                self._names.clear()
                raise

    def forget_names(self, db: sqlite3.Connection) -> None:
        """Drop the names that nothing has."""
        db.execute(_NOBODYS)
        self._names.clear()

    def _stands_at(self, ledger: Store | None, last: int) -> bool:
        """Whether the file has all of the ledger, as it is now; asked without waiting for anybody."""
        place = self.file.read(_PLACE, self.books.account)
        if not place:
            return not last
        _, seq, digest, _ = place[0]
        if seq != last or ledger is None or not last:
            return bool(seq == last)
        return bool(digest == digest_at(ledger, self.books.account, last))

    def _notice_another(self, ledger: Store | None, last: int) -> None:
        """Make the records anew if the ledger is not the one that was read."""
        with self.file.transaction() as db:
            id, seq, digest, _ = self._place(db)
            found = digest_at(ledger, self.books.account, seq) if ledger is not None else None
            pruned = found is None and seq <= last
            if found != digest and not pruned:
                self._drop(db, id)

    def _drop(self, db: sqlite3.Connection, id: int) -> None:
        """Drop the account's records, but for imported ones, to read the ledger from its beginning."""
        db.execute("delete from calls where account = ? and seq >= 0", (id,))
        db.execute("delete from turned where account = ?", (id,))
        resum(db, id)
        db.execute("update accounts set seq = 0, digest = x'', pruned = 0, texts = texts + 1 where id = ?", (id,))
        self.forget_names(db)

    def _place(self, db: sqlite3.Connection) -> tuple[int, int, bytes, int]:
        db.execute("insert or ignore into accounts (name) values (?)", (self.books.account,))
        id, seq, digest, since = db.execute(_PLACE, (self.books.account,)).fetchone()
        return id, seq, digest, since


def _beside(books: Books) -> Path | None:
    path = books.records.path if books.records is not None else getattr(books.store, "path", None)
    return None if path is None else path.with_name(f"{path.name}-calls")
