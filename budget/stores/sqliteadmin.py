"""What operators do to an SQLite file: transactions of their own, beside a store's writer that may be open on it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from budget.errors import StoreUnavailable
from budget.stores.sqlitefile import connect, lock_of, prepare

__all__ = ["account_id", "copy_file", "file_lock", "forget_entries", "transaction"]

_PORTION = 5000  # rows that one transaction drops at most: tens of milliseconds
_PATIENCE = 30.0  # seconds to wait for the file's lock
_FORGET = """delete from entries where account = ?1 and seq in (
    select seq from entries where account = ?1 and seq <= ?2 order by seq limit ?3)"""


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Do one transaction on a connection of its own, under the file's lock.

    Raises:
        StoreUnavailable: The file cannot be opened or written; nothing was changed.
    """
    try:
        prepare(path)
        with file_lock(path), closing(connect(path)) as db:
            db.execute("pragma secure_delete = on")
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                db.execute("rollback") if db.in_transaction else None
                raise
    except (sqlite3.Error, OSError) as error:
        raise StoreUnavailable(f"the store {str(path)!r} cannot be written: {error}") from error


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold the file's lock, as for a moment of one's own.

    Raises:
        StoreUnavailable: Somebody else kept it for too long.
    """
    with closing(lock_of(path)) as lock, lock.held(_PATIENCE):
        yield


def account_id(db: sqlite3.Connection, name: str) -> int:
    """Return the number of an account, which is made if there is none."""
    db.execute(
        "insert or ignore into accounts (name, version, seq, head, clock) values (?, 0, 0, zeroblob(32), 0)", (name,)
    )
    found: int = db.execute("select id from accounts where name = ?", (name,)).fetchone()[0]
    return found


def forget_entries(path: Path, account: str, upto: int) -> None:
    """Drop an account's entries up to a number, in bounded transactions."""
    dropped = _PORTION
    while dropped == _PORTION:
        with transaction(path) as db:
            id = account_id(db, account)
            dropped = db.execute(_FORGET, (id, upto, _PORTION)).rowcount


def copy_file(path: Path, target: Path, opened: Callable[[Path], sqlite3.Connection] = connect) -> None:
    """Copy a file at one instant, by SQLite's backup, in one step: who writes meanwhile is not held up, nor seen.

    Args:
        path, target: From where, and to where.
        opened: Opens it; by default as the file of a store.

    Raises:
        sqlite3.Error, OSError: It cannot be read, or the copy cannot be written.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with file_lock(path):
        source = opened(path)
    try:
        with closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
            copy.execute("pragma journal_mode = delete")
    finally:
        with file_lock(path):  # the last to close writes the log into the file
            source.close()
