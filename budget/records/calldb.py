"""The SQLite file that records are in: making it, opening it, and putting it aside when it cannot be used.

It is written without waiting for the disk: what a power cut takes away is made again from the ledger. As for the
store's own file, writing, opening and closing happen under an advisory lock beside it (`budget.stores.sqlitefile` says
why), in which processes queue; reading needs none.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakSet

from budget.errors import StoreUnavailable
from budget.stores.sqlitefile import FileLock, prepare

__all__ = ["CallDb", "Damaged"]

_log = logging.getLogger("budget")

_VERSION = 2
_PATIENCE = 60.0  # seconds for the lock, behind portions of others and, seldom, an erasure
_PRAGMAS = ("synchronous = off", "trusted_schema = off", "cache_size = -65536", "secure_delete = on")
_ASIDE = "the file of records %s %s: it is made anew from the ledger; what was imported into it is in %s"
_left: list[object] = []  # connections that must not even be closed
_every: WeakSet[CallDb] = WeakSet()


class Damaged(StoreUnavailable):
    """The file could not be used, and was put aside; there is an empty one now."""


class CallDb:
    """The file, with a connection to write and one to read.

    Args:
        path: Where it is; None for memory.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._threads, self._depth = RLock(), 0
        self._lock: FileLock | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        _every.add(self)

    @property
    def reader(self) -> sqlite3.Connection:
        """The connection to read; of a file one that sees whole portions and waits for nobody.

        Raises:
            StoreUnavailable: The file cannot be opened.
        """
        with self._threads:
            if self._reader is None or self._is_gone():
                with self.alone() as writer:
                    self._reader = writer
                    if self.path is not None:
                        self._reader = _connect(self.path)
                        self._reader.execute("pragma query_only = on")
            return self._reader

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """Keep every other writer out, threads and processes; in it, transactions may follow one another.

        Raises:
            StoreUnavailable: The file cannot be opened, or somebody else kept it for too long.
        """
        with self._threads:
            if self._depth == 0 and self._is_gone():
                self._abandon()
            if self.path is None or self._depth:
                yield self._open()
                return
            prepare(self.path)
            if self._lock is None:
                self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))
            with self._lock.held(_PATIENCE):
                self._depth = 1
                try:
                    yield self._open()
                finally:
                    self._depth = 0

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change the file in one step.

        Raises:
            StoreUnavailable: It cannot be written; nothing was changed.
        """
        with self.alone() as db, self._errors():
            db.execute("begin immediate")
            try:
                yield db
                db.execute("commit")
            except BaseException:
                with suppress(sqlite3.Error):
                    db.execute("rollback")
                raise

    def read(self, query: str, *values: Any) -> list[Any]:
        """Read rows.

        Raises:
            StoreUnavailable: The file cannot be read.
        """
        with self._errors():
            return self.reader.execute(query, values).fetchall()

    def scrub(self) -> bool:
        """Rewrite the file, so that no page of it or of its log has what was there; whether nobody kept the log."""
        with self.alone() as db, self._errors():
            db.execute("vacuum")
            busy: int = db.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
        return not busy

    @property
    def aside(self) -> Path | None:
        """Where a file is kept that could not be used."""
        return None if self.path is None else self.path.with_name(f"{self.path.name}.aside")

    def close(self) -> None:
        """Let go of the file."""
        with self._threads:
            if self._writer is not None and not self._is_gone():
                with self.alone():
                    self._close()
            self._abandon()

    def forked(self) -> None:
        """Begin anew in a child process."""
        self._threads, self._depth = RLock(), 0
        self._abandon()

    def _abandon(self) -> None:
        """Forget the connections without closing them: they are a parent process's, or of a file that is gone.

        Closing them, SQLite might take the log of the file that has the name now for theirs.
        """
        if self._writer is not None:
            _left.append((self._reader, self._writer))
        self._reader = self._writer = self._file = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if _is_damage(error):
                with self.alone():
                    self._put_aside()
                raise Damaged(f"the file of records was damaged: {error}") from error
            raise StoreUnavailable(f"the file of records cannot be used: {error}") from error

    def _is_gone(self) -> bool:
        return self._file is not None and self._file != _identity(self.path)

    def _open(self) -> sqlite3.Connection:
        if self._writer is None:
            try:
                try:
                    self._writer = _opened(self.path, self.aside)
                except sqlite3.DatabaseError as error:
                    if not _is_damage(error):
                        raise
                    self._put_aside()
                    self._writer = _opened(self.path, self.aside)
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the file of records cannot be opened: {error}") from error
            self._file = _identity(self.path)
        return self._writer

    def _put_aside(self) -> None:
        self._close()
        if self.path is None or self.aside is None:
            return
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        os.replace(self.path, self.aside)
        _log.error(_ASIDE, self.path, "was damaged", self.aside)

    def _close(self) -> None:
        for db in {id(each): each for each in (self._reader, self._writer) if each is not None}.values():
            with suppress(sqlite3.Error):
                db.close()
        self._reader = self._writer = self._file = None


def _opened(path: Path | None, aside: Path | None) -> sqlite3.Connection:
    """Open the file to write, with its tables. Those of another version are made anew, where they are."""
    db = _connect(path)
    found = db.execute("pragma user_version").fetchone()[0]
    if found not in (0, _VERSION):
        if db.execute("select 1 from calls where seq < 0 limit 1").fetchone() and aside is not None:
            aside.unlink(missing_ok=True)
            db.execute("vacuum into ?", (str(aside),))
            _log.error(_ASIDE, path, "was of another version", aside)
        tables = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        db.executescript("begin immediate;" + "".join(f'drop table "{name}";' for name in tables) + "commit")
    if found != _VERSION:
        schema = files("budget.records").joinpath("calls.sql").read_text()
        db.executescript(f"begin immediate; {schema}; pragma user_version = {_VERSION}; commit")
    return db


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None and not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path or ":memory:", timeout=30.0, isolation_level=None, check_same_thread=False)
    try:
        db.execute("pragma journal_mode = wal")
        for pragma in _PRAGMAS:
            db.execute(f"pragma {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def _identity(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_damage(error: sqlite3.Error) -> bool:
    return type(error) is sqlite3.DatabaseError  # what is wrong with one statement or at one time is a subclass of it


def _after_fork() -> None:
    for each in list(_every):
        each.forked()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)
