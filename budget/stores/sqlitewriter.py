"""The writing side of an SQLite store: one connection, one lock, groups of commands in one transaction each.

If a group fails (a full disk, say), it is rolled back and its commands are tried one by one, so that each gets its own
answer.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from budget.commands import Outcome
from budget.errors import StoreUnavailable
from budget.pool import apply
from budget.stores.sqlitefile import check_version, connect, lock_of, prepare
from budget.stores.sqlitestate import SqliteState
from budget.stores.tickets import Ticket

__all__ = ["MOVED", "OPEN_TIMEOUT", "Writer"]

MOVED = "the store's file was removed or replaced; the next call opens what is there now"

OPEN_TIMEOUT = 5.0
"""Seconds that opening the file may take."""
_SYNC = {"full": "pragma synchronous = full", "normal": "pragma synchronous = normal"}
_ACCOUNTS = 64  # whose rows are known from one transaction to the next
_FORGET = 256  # ended reservations that one transaction drops at most
_REMOVE = (
    "delete from policy where account = ?",
    "delete from pools where account = ?",
    "delete from buckets where account = ?",
    "delete from reservations where account = ?",
    "delete from entries where account = ?",
    "delete from learned where account = ?",
    "delete from drained where account = ?",
)


_log = logging.getLogger("budget")


class Writer:
    """Opens the file, and carries out groups of tickets.

    Attributes:
        lock: The lock beside the file.
        db: The connection.
        moved: The file was seen to be removed or replaced: nothing is written any more.

    Raises:
        StoreUnavailable: The file cannot be opened.
    """

    def __init__(self, path: Path):
        try:
            prepare(path)
            self.lock = lock_of(path)
            try:
                with self.lock.held(OPEN_TIMEOUT):
                    self.db = connect(path)
                    self._path, self._file = path, _identity(path)
            except BaseException:
                self.lock.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"the store {str(path)!r} cannot be opened: {error}") from error
        self.moved = False
        self._synchronous = "full"
        self._states: dict[str, SqliteState] = {}
        self._seen = -1  # the file's version as of the last transaction; another connection's commit makes it another
        self._next_forget = 0.0

    def commit(self, group: Sequence[Ticket], timeout: float | None = None) -> None:
        """Carry out a group in one transaction; each ticket then has its outcome or its error.

        Args:
            group: The tickets.
            timeout: Seconds to wait for the lock; None is for ever.
        """
        try:
            with self.lock.held(timeout):
                self.check_file()
                self._transact(group)
        except Exception as error:
            if len(group) > 1:
                for ticket in group:
                    self.commit([ticket], timeout)
                return
            expected = isinstance(error, sqlite3.Error | OSError | ImportError)
            ticket = group[0]
            ticket.error = StoreUnavailable(f"the store cannot write: {error}") if expected else error

    def check_file(self) -> None:
        """See that the file is still where it was opened: what is written to a removed one is lost.

        Raises:
            StoreUnavailable: It was removed, or another one is in its place.
        """
        if self.moved or _identity(self._path) != self._file:
            if not self.moved:
                self.moved = True
                _log.error("the store's file was removed or replaced while it was open, and is opened anew: %s",
                           self._path)  # fmt: skip
            raise StoreUnavailable(MOVED)

    def close(self, reader: sqlite3.Connection | None = None, timeout: float | None = None) -> None:
        """Close the file, and a reader of it. SQLite leaves alone what is beside a file that has taken its place.

        Raises:
            StoreUnavailable: The lock was not to be had within `timeout` seconds; the file stays open.
        """
        with self.lock.held(timeout):
            if reader is not None:
                reader.close()
            self.db.close()
        self.lock.close()

    def _transact(self, group: Sequence[Ticket]) -> None:
        db = self.db
        self._sync("full" if any(ticket.now is None for ticket in group) else "normal")
        db.execute("begin immediate")
        try:
            self._look_for_changes()
            self._expect(group)
            moments: dict[str, int] = {}
            for ticket in group:
                if ticket.command is None:
                    self._states.pop(ticket.account, None)
                    moments.pop(ticket.account, None)
                    ticket.outcome = _remove(db, ticket.account)
                    continue
                now = time.time_ns() // 1000 if ticket.now is None else ticket.now
                ticket.outcome = apply(self._state(ticket.account), ticket.command, now)
                moments[ticket.account] = ticket.outcome.now
            forget = time.monotonic() >= self._next_forget
            for account, moment in moments.items():
                state = self._states[account]
                state.flush()
                if forget:
                    state.forget(moment, _FORGET)
            db.execute("commit")
        except BaseException:
            self._states.clear()  # they hold what was not written
            db.execute("rollback") if db.in_transaction else None
            raise
        if len(self._states) > _ACCOUNTS:
            self._states.clear()
        if forget:
            self._next_forget = time.monotonic() + 1.0

    def _look_for_changes(self) -> None:
        """Know nothing any more if another connection has committed."""
        seen = self.db.execute("pragma data_version").fetchone()[0]
        if seen != self._seen:
            self._states.clear()
            check_version(self.db)
            self._seen = seen

    def _expect(self, group: Sequence[Ticket]) -> None:
        """Tell each account which reservations are about to be asked for, if there are several."""
        ids: dict[str, list[str]] = {}
        for ticket in group:
            if (id := getattr(ticket.command, "id", None)) is not None:
                ids.setdefault(ticket.account, []).append(id)
        for account, asked in ids.items():
            if len(asked) > 1:
                self._state(account).expect(asked)

    def _state(self, account: str) -> SqliteState:
        state = self._states.get(account)
        if state is None:
            state = self._states[account] = SqliteState(self.db, account)
        return state

    def _sync(self, how: str) -> None:
        """Have commits reach the disk, but for a scratch account's: those may be lost with the power."""
        if how != self._synchronous:
            self.db.execute(_SYNC[how])
            self._synchronous = how


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file is there. While it is open, no other has the same."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _remove(db: sqlite3.Connection, account: str) -> Outcome:
    row = db.execute("select id from accounts where name = ?", (account,)).fetchone()
    if row is not None:
        for statement in _REMOVE:
            db.execute(statement, row)
        db.execute("delete from accounts where id = ?", row)
    return Outcome("removed", 0, 0)
