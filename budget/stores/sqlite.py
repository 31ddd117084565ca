"""The SQLite store: one file, many threads, many processes.

One writer thread per process owns the connection. Callers hand it tickets; it takes all that wait (up to `GROUP`), runs
`pool.apply` for each inside one `BEGIN IMMEDIATE`, commits once (WAL, `synchronous=FULL`: one fsync), and only then
hands the outcomes back. So a hundred tasks share the price of one fsync, no transaction can be interrupted by a
cancellation or a Ctrl-C, and the decision is the very code of `pool.py`: SQL stays mechanical.

Readers use a connection of their own and see what was committed.

When the interpreter ends, the file is closed. What finalizers still ask for after that is carried out in their thread,
for no other one runs any more.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from budget.commands import Command, Outcome
from budget.errors import StoreUnavailable
from budget.stores.sqliteadmin import forget_entries
from budget.stores.sqlitefile import connect
from budget.stores.sqlitereads import SqliteReads
from budget.stores.sqlitewriter import MOVED, OPEN_TIMEOUT, Writer
from budget.stores.tickets import Deadlines, Halt, Ticket, hand_back, late
from budget.stores.watches import LedgerWatch

if TYPE_CHECKING:
    import asyncio

__all__ = ["GROUP", "SqliteStore"]

GROUP = 128
"""Commands that one transaction takes at most."""
_LOOK = 0.025  # seconds between looks at what other processes wrote, while somebody waits for that


class SqliteStore(SqliteReads):
    """Pools, reservations and ledger in one SQLite file. See `stores.base.Store`.

    Args:
        path: The file; its folder must exist. Nothing is opened before the first command.
    """

    default_timeout = 2.0
    undelivered: Callable[[str, Command], None] | None = None

    def __init__(self, path: str):
        self.path = self._path = Path(path).absolute()
        self.url = f"sqlite:///{self._path}"
        self._reset()
        _STORES.add(self)

    def _reset(self) -> None:
        self._queue: deque[Ticket | Halt] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()  # rung after the queue got something
        self._ringer: asyncio.AbstractEventLoop | None = None  # who will ring it when its tick is over
        self._deadlines: Deadlines | None = None  # of the loop that was served last
        self._start_lock, self._read_lock = Lock(), Lock()
        self._thread: Thread | None = None
        self._opened = Event()
        self._failure: Exception | None = None
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._watches: WeakSet[LedgerWatch] = WeakSet()

    # What callers do.

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Hand a command to the writer and wait for its outcome."""
        return self._wait(Ticket(account, command, now), timeout)

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Hand a command to the writer and await its outcome; cancelling the wait does not call it back."""
        import asyncio

        ticket = Ticket(account, command)
        loop = ticket.loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        ticket.future = future
        self._queue.append(ticket)
        if self._ringer is not loop:  # what one tick of a loop asks for is one group
            self._ringer = loop
            loop.call_soon(self._ring)
        deadlines = self._deadlines
        if deadlines is None or deadlines.loop is not loop:
            deadlines = self._deadlines = Deadlines(loop)
        deadlines.watch(ticket, self._patience(timeout))
        return await future

    def post(self, account: str, command: Command) -> None:
        """Leave a command with the writer. A finalizer may call this anywhere: it waits for no lock."""
        self._queue.append(Ticket(account, command))
        self._bell.put(None)
        if self._thread is None and _ended:
            self._serve()
        elif self._thread is None and self._start_lock.acquire(blocking=False):
            try:
                with suppress(StoreUnavailable):  # the interpreter is ending: `close` has it
                    self._start()
            finally:
                self._start_lock.release()

    def _wait(self, ticket: Ticket, timeout: float) -> Outcome:
        ticket.done = Lock()
        ticket.done.acquire()
        self._hand_over(ticket)
        if not ticket.done.acquire(timeout=self._patience(timeout)):
            raise late(timeout)
        if ticket.error is not None:
            raise ticket.error
        assert ticket.outcome is not None
        return ticket.outcome

    def _hand_over(self, ticket: Ticket | None) -> None:
        """Queue a ticket, and have a writer. In this order: a writer that gives up looks into the queue after that."""
        if ticket is not None:
            self._queue.append(ticket)
        self._bell.put(None)
        if self._thread is None and _ended:
            self._serve()
        elif self._thread is None:
            with self._start_lock:
                self._start()

    def _ring(self) -> None:
        self._ringer = None
        self._hand_over(None)

    def _start(self) -> None:
        if self._thread is None:
            self._opened.clear()
            self._thread = Thread(target=self._write, name="budget-sqlite", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                self._thread = None
                raise StoreUnavailable(f"the store has no thread: {error}") from error

    def _patience(self, timeout: float) -> float:
        """A verb's deadline counts from an open store; opening has its own."""
        return timeout if self._opened.is_set() else timeout + OPEN_TIMEOUT

    # What the writer thread does.

    def _write(self) -> None:
        try:
            writer = self._writer = Writer(self._path)
        except Exception as error:
            self._give_up(error)
            return
        self._opened.set()
        while True:
            group, halt = self._next_group()
            if group:
                writer.commit(group)
                if writer.moved:
                    break
                hand_back(group, self.undelivered)
                for watch in list(self._watches):
                    watch.nudge()
            if halt is not None and halt.settle():
                return
        with self._read_lock:
            self._let_go()
        self._give_up(StoreUnavailable(MOVED), group)

    def _next_group(self) -> tuple[list[Ticket], Halt | None]:
        """Wait for what is handed over. A halt ends a group."""
        if not self._queue:
            self._bell.get()
        with suppress(Empty):
            while True:  # who rang before is in the queue by now
                self._bell.get_nowait()
        group: list[Ticket] = []
        while self._queue and len(group) < GROUP:
            item = self._queue.popleft()
            if isinstance(item, Halt):
                return group, item
            group.append(item)
        return group, None

    def _give_up(self, error: Exception, answered: Sequence[Ticket] = ()) -> None:
        """Answer all that wait with an error, and those that have their answer; the next command opens again."""
        self._failure, self._thread = error, None
        self._opened.set()
        rest = self._rest()
        for ticket in rest:
            ticket.error = error
        hand_back([*answered, *rest], self.undelivered)

    def _rest(self) -> list[Ticket]:
        """Take all that waits."""
        rest: list[Ticket] = []
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, Ticket):
                rest.append(item)
        return rest

    # What any thread does when the interpreter is ending.

    def _serve(self) -> None:
        """Carry out what was handed over."""
        while group := self._rest():
            try:
                with self._here() as writer:
                    writer.commit(group, OPEN_TIMEOUT)
            except StoreUnavailable as error:
                for ticket in group:
                    ticket.error = error
            hand_back(group, self.undelivered)

    @contextmanager
    def _here(self) -> Iterator[Writer]:
        """Open the file for a moment. Nobody is waited for longer than that takes: threads may stand still by now."""
        if not self._start_lock.acquire(timeout=OPEN_TIMEOUT):
            raise late(OPEN_TIMEOUT)
        try:
            sys.modules["fcntl"] = fcntl  # the lock imports it, and modules may have been taken down
            writer = Writer(self._path)
            try:
                yield writer
            finally:
                try:
                    writer.close(timeout=OPEN_TIMEOUT)
                except StoreUnavailable:
                    _ABANDONED.append(writer)
        except ImportError as error:  # modules are being taken down
            raise StoreUnavailable(f"the interpreter is ending: {error}") from error
        finally:
            self._start_lock.release()

    # Reading.

    def watch(self, account: str, after: int) -> LedgerWatch:
        """Watch what is written: by this process at once, by others at each look."""
        made = LedgerWatch(lambda seq: self.entries(account, seq), after, _LOOK)
        self._watches.add(made)
        return made

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Have a connection that reads to oneself."""
        try:
            if self._thread is None and _ended:
                with self._here() as writer:
                    yield writer.db
            else:
                db = self._open_reader()
                with self._read_lock:
                    yield db
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"the store cannot read: {error}") from error

    def _open_reader(self) -> sqlite3.Connection:
        self._hand_over(None)
        self._opened.wait(OPEN_TIMEOUT)
        with self._read_lock:
            writer = self._writer
            if writer is None:
                raise self._failure or late(OPEN_TIMEOUT)
            if self._reader is None:
                with writer.lock.held(OPEN_TIMEOUT):
                    self._reader = connect(self._path)
                self._reader.execute("pragma query_only = on")
            reader = self._reader
        try:
            writer.check_file()
        except StoreUnavailable:
            self.close()
            raise
        return reader

    # Ends.

    def forget_entries(self, account: str, upto: int) -> None:
        """Drop entries that a checkpoint stands for."""
        forget_entries(self.path, account, upto)

    def remove(self, account: str) -> None:
        """Remove a scratch account and all that is in it."""
        self._wait(Ticket(account, None), 60.0)

    def close(self) -> None:
        """Carry out what was handed over, then close the file. The store opens again when it is used again."""
        with self._start_lock:
            self._stop()
        self._go_on()

    def _stop(self) -> None:
        thread = self._thread
        if thread is None or not self._opened.wait(OPEN_TIMEOUT) or self._writer is None:
            return
        halt = Halt()
        self._queue.append(halt)
        self._bell.put(None)
        thread.join(OPEN_TIMEOUT)
        if thread.is_alive():
            if halt.settle():
                return  # it waits for another process, and goes on when that ends
            thread.join()
        with self._read_lock:
            self._let_go()
            self._thread = None
            self._opened.clear()

    def _let_go(self) -> None:
        """Close the file, under `_read_lock`."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if writer is not None:
            writer.close(reader)

    def _go_on(self) -> None:
        if self._queue:  # handed over while it closed
            self._hand_over(None)

    def _pause(self) -> None:
        """Close for a fork, and let nobody open before it is over.

        A child that inherits an open connection inherits SQLite's memory of the locks that its process holds; they are
        the parent's, and it would write without any of its own.
        """
        self._start_lock.acquire()
        self._stop()

    def _resume(self) -> None:
        self._start_lock.release()
        self._go_on()

    def _forked(self) -> None:
        """Start anew in a forked child. What the parent could not close in time stays unclosed here too."""
        _ABANDONED.extend([self._writer, self._reader])
        if self._writer is not None:
            self._writer.lock.close()
        self._reset()


_STORES: WeakSet[SqliteStore] = WeakSet()
_PAUSED: list[SqliteStore] = []  # during a fork; always in one order, so that two forks cannot wait for one another
_ABANDONED: list[Any] = []


def _before_fork() -> None:
    for store in sorted(_STORES, key=id):
        store._pause()
        _PAUSED.append(store)


def _after_in_parent() -> None:
    while _PAUSED:
        _PAUSED.pop()._resume()


def _after_in_child() -> None:
    while _PAUSED:
        _PAUSED.pop()._forked()


_ended = False  # the interpreter is ending: a thread that is started does not run any more, and is waited for for ever


def _exit() -> None:
    global _ended
    _ended = True
    # Finalizers run in reverse at exit: those of streams, which are younger, hand over their ends before this.
    for store in list(_STORES):
        store.close()


os.register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
weakref.finalize(SqliteStore, _exit)
