"""The SQLite store: one file, many threads, many processes.

One writer thread per process owns the connection. Callers hand it tickets; it takes all that wait (up to `GROUP`), runs
`pool.apply` for each inside one `BEGIN IMMEDIATE`, commits once (WAL, `synchronous=FULL`: one fsync), and only then
hands the outcomes back. So a hundred tasks share the price of one fsync, no transaction can be interrupted by a
cancellation or a Ctrl-C, and the decision is the very code of `pool.py`: SQL stays mechanical.

If a group fails (a full disk, say), it is rolled back and its commands are tried one by one, so that each gets its own
answer. Readers use a connection of their own and see what was committed.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from budget.commands import Bucket, Command, Outcome, Reservation
from budget.errors import StoreUnavailable
from budget.ledger import Entry
from budget.pool import apply
from budget.stores.base import PAGE, Snapshot
from budget.stores.sqlitefile import FileLock, connect, prepare
from budget.stores.sqlitestate import SqliteState, read_entry, read_reservation

if TYPE_CHECKING:
    import asyncio

__all__ = ["GROUP", "SqliteStore"]

_log = logging.getLogger("budget")
GROUP = 128
"""Commands that one transaction takes at most."""
_OPEN_TIMEOUT = 5.0
_SYNC = {"full": "pragma synchronous = full", "normal": "pragma synchronous = normal"}
_FORGET = 256
_REMOVE = (
    "delete from policy where account = ?",
    "delete from pools where account = ?",
    "delete from buckets where account = ?",
    "delete from reservations where account = ?",
    "delete from entries where account = ?",
)


class _Ticket:
    """A command on its way: who waits for it (a thread by the lock, a task by the future, or nobody)."""

    __slots__ = ("account", "command", "done", "error", "future", "loop", "now", "outcome")

    def __init__(self, account: str, command: Command | None, now: int | None = None):
        self.account, self.command, self.now = account, command, now
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.done: Lock | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[Outcome] | None = None


class SqliteStore:
    """Pools, reservations and ledger in one SQLite file. See `stores.base.Store`.

    Args:
        path: The file; its folder must exist. Nothing is opened before the first command.
    """

    default_timeout = 2.0

    def __init__(self, path: str):
        self._path = Path(path).absolute()
        self.url = f"sqlite:///{self._path}"
        self._reset()
        _STORES.add(self)

    def _reset(self) -> None:
        self._queue: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._start_lock, self._read_lock = Lock(), Lock()
        self._thread: Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._file_lock: FileLock | None = None
        self._next_forget = 0.0
        self._synchronous = "full"

    # What callers do.

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Hand a command to the writer and wait for its outcome."""
        return self._wait(_Ticket(account, command, now), timeout)

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Hand a command to the writer and await its outcome; cancelling the wait does not call it back."""
        import asyncio

        if self._thread is None:
            await asyncio.to_thread(self._start)
        ticket = _Ticket(account, command)
        ticket.loop = asyncio.get_running_loop()
        ticket.future = ticket.loop.create_future()
        self._queue.put(ticket)
        try:
            async with asyncio.timeout(timeout):
                return await ticket.future
        except TimeoutError:
            raise _late(timeout) from None

    def post(self, account: str, command: Command) -> None:
        """Leave a command with the writer. `SimpleQueue.put` may be called by a finalizer anywhere."""
        self._queue.put(_Ticket(account, command))
        if self._thread is None:  # closed, or not opened yet; opening takes locks, which a finalizer must not
            with suppress(RuntimeError):  # the interpreter is ending: no thread starts any more
                Thread(target=self._start, name="budget-sqlite-open", daemon=True).start()

    def _wait(self, ticket: _Ticket, timeout: float) -> Outcome:
        if self._thread is None:
            self._start()
        ticket.done = Lock()
        ticket.done.acquire()
        self._queue.put(ticket)
        if self._thread is None:  # another thread closed it in between
            self._start()
        if not ticket.done.acquire(timeout=timeout):
            raise _late(timeout)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcome is not None
        return ticket.outcome

    def _start(self) -> None:
        """Open the file and start the writer, unless that is done; a failed try leaves the next call to try again."""
        with self._start_lock:
            if self._thread is not None:
                return
            try:
                prepare(self._path)
                lock = FileLock(self._path.with_name(self._path.name + ".lock"))
                try:
                    with lock.held(_OPEN_TIMEOUT):
                        self._db = connect(self._path)
                except BaseException:
                    lock.close()
                    raise
            except (sqlite3.Error, OSError) as error:
                raise StoreUnavailable(f"the store {str(self._path)!r} cannot be opened: {error}") from error
            self._file_lock, self._synchronous = lock, "full"
            self._thread = Thread(target=self._write, name="budget-sqlite", daemon=True)
            self._thread.start()

    # What the writer thread does.

    def _write(self) -> None:
        stop = False
        while not stop:
            group: list[_Ticket] = []
            ticket = self._queue.get()
            while ticket is not None:
                group.append(ticket)
                if len(group) == GROUP:
                    break
                try:
                    ticket = self._queue.get_nowait()
                except Empty:
                    break
            stop = ticket is None
            if group:
                self._commit(group)
                _hand_back(group)

    def _commit(self, group: Sequence[_Ticket]) -> None:
        assert self._file_lock is not None
        try:
            with self._file_lock.held():
                self._transact(group)
        except Exception as error:
            if len(group) > 1:
                for ticket in group:
                    self._commit([ticket])
                return
            expected = isinstance(error, sqlite3.Error | OSError)
            ticket = group[0]
            ticket.error = StoreUnavailable(f"the store cannot write: {error}") if expected else error
            if ticket.done is None and ticket.loop is None:
                _log.warning("%s was not carried out: %s", type(ticket.command).__name__, ticket.error)

    def _transact(self, group: Sequence[_Ticket]) -> None:
        db = self._db
        assert db is not None
        self._sync(db, "full" if any(ticket.now is None for ticket in group) else "normal")
        db.execute("begin immediate")
        try:
            states: dict[str, SqliteState] = {}
            for ticket in group:
                if ticket.command is None:
                    states.pop(ticket.account, None)
                    ticket.outcome = _remove(db, ticket.account)
                    continue
                state = states.get(ticket.account)
                if state is None:
                    state = states[ticket.account] = SqliteState(db, ticket.account)
                now = time.time_ns() // 1000 if ticket.now is None else ticket.now
                ticket.outcome = apply(state, ticket.command, now)
            forget = time.monotonic() >= self._next_forget
            for state in states.values():
                state.flush()
                if forget:
                    state.forget(state.account.clock, _FORGET)
            db.execute("commit")
        except BaseException:
            db.execute("rollback") if db.in_transaction else None
            raise
        if forget:
            self._next_forget = time.monotonic() + 1.0

    def _sync(self, db: sqlite3.Connection, how: str) -> None:
        """Have commits reach the disk, but for a scratch account's: those may be lost with the power."""
        if how != self._synchronous:
            db.execute(_SYNC[how])
            self._synchronous = how

    # Reading.

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Read a page of the ledger."""
        query = """select seq, at, kind, reservation, usd, tokens, input_tokens, output_tokens, requests, scope,
        detail,
            postings, digest from entries where account = (select id from accounts where name = ?)
            and seq > ? and at >= ? order by seq limit ?"""
        return [read_entry(row) for row in self._read(query, account, after, since_us, PAGE)]

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Read the open reservations, oldest first."""
        query = """select body, state, made, id from reservations where account = (select id from accounts where name =
        ?)
            and (state = 'open') = 1 order by made"""
        return [read_reservation(*row) for row in self._read(query, account)]

    def snapshot(self, account: str) -> Snapshot:
        """Read all counters at one instant."""
        try:
            return self._snapshot(account)
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store cannot read: {error}") from error

    def _snapshot(self, account: str) -> Snapshot:
        db = self._open_reader()
        with self._read_lock:
            db.execute("begin")
            try:
                row = db.execute("select id, seq, head from accounts where name = ?", (account,)).fetchone()
                id, seq, head = row or (None, 0, bytes(32))
                query = 'select pool, start, "end", since, spent, reserved from buckets where account = ?'
                buckets = {(pool, rest[0]): Bucket(*rest) for pool, *rest in db.execute(query, (id,))}
                names = dict(db.execute("select pool, name from pools where account = ?", (id,)))
            finally:
                db.execute("commit")
        return Snapshot(buckets, names, seq, head)

    def _read(self, query: str, *values: Any) -> list[Any]:
        db = self._open_reader()
        try:
            with self._read_lock:
                return db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store cannot read: {error}") from error

    def _open_reader(self) -> sqlite3.Connection:
        self._start()
        assert self._file_lock is not None
        with self._read_lock:
            if self._reader is None:
                with self._file_lock.held(_OPEN_TIMEOUT):
                    self._reader = connect(self._path)
                self._reader.execute("pragma query_only = on")
            return self._reader

    # Ends.

    def remove(self, account: str) -> None:
        """Remove a scratch account and all that is in it."""
        self._wait(_Ticket(account, None), 60.0)

    def close(self) -> None:
        """Carry out what was handed over, then close the file. The store opens again when it is used again."""
        with self._start_lock:
            thread, lock = self._thread, self._file_lock
            if thread is None or lock is None:
                return
            self._queue.put(None)
            thread.join(_OPEN_TIMEOUT)
            if thread.is_alive():
                return  # it waits for another process; what it has is still written if that ends
            with lock.held(), self._read_lock:
                for db in (self._reader, self._db):
                    if db is not None:
                        db.close()
                self._reader = self._db = self._thread = self._file_lock = None
            lock.close()
        if not self._queue.empty():  # handed over while it closed
            self._start()

    def _forked(self) -> None:
        """Start anew in a forked child. The parent's connections stay unclosed: closing one here would checkpoint."""
        _ABANDONED.extend([self._db, self._reader])
        if self._file_lock is not None:
            self._file_lock.close()
        self._reset()


def _remove(db: sqlite3.Connection, account: str) -> Outcome:
    row = db.execute("select id from accounts where name = ?", (account,)).fetchone()
    if row is not None:
        for statement in _REMOVE:
            db.execute(statement, row)
        db.execute("delete from accounts where id = ?", row)
    return Outcome("removed", 0, 0)


def _hand_back(group: Sequence[_Ticket]) -> None:
    """Wake who waits: threads one by one, tasks with one wake-up per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Ticket]] = {}
    for ticket in group:
        if ticket.done is not None:
            ticket.done.release()
        elif ticket.loop is not None:
            by_loop.setdefault(ticket.loop, []).append(ticket)
    for loop, tickets in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, tickets)
        except RuntimeError:
            continue  # the loop was closed, and with it every task that waited


def _resolve(tickets: Sequence[_Ticket]) -> None:
    for ticket in tickets:
        future = ticket.future
        if future is None or future.done():
            continue
        if ticket.error is not None:
            future.set_exception(ticket.error)
        elif ticket.outcome is not None:
            future.set_result(ticket.outcome)


def _late(timeout: float) -> StoreUnavailable:
    return StoreUnavailable(f"the store gave no answer within {timeout:g} s")


_STORES: WeakSet[SqliteStore] = WeakSet()
_ABANDONED: list[Any] = []


def _forked() -> None:
    for store in list(_STORES):
        store._forked()


def _exit() -> None:
    # Finalizers run in reverse at exit: those of streams, which are younger, hand over their ends before this.
    for store in list(_STORES):
        store.close()


os.register_at_fork(after_in_child=_forked)
weakref.finalize(SqliteStore, _exit)
