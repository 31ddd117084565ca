"""All threads of a process on one connection: they share a socket, and whoever waits reads for all.

A thread sends under a lock and then waits. The first who finds nobody reading reads, hands replies out in the order of
the queue until it has its own, and wakes the next to read on. So a lone thread makes three system calls and no switch.

An interrupt (Ctrl-C) may come between any two steps. Whoever leaves a request half sent or a reply half read leaves the
line marked as torn, and the next to use it closes it.
"""

from __future__ import annotations

import select
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any

from budget.stores.multiplex import IN_FLIGHT, MORE, STALLED, Lost, Unsent, reader

__all__ = ["STRANGE", "ThreadWire"]

STRANGE = object()
"""What an exchange gives that was not sent."""

_TURN = 0.05  # seconds after which a waiting thread looks whether it must read itself; it is woken long before
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Waiter:
    """A thread that waits for the reply to a request."""

    __slots__ = ("data", "done", "reply", "until", "wake")

    def __init__(self, data: bytes, until: float) -> None:
        self.data, self.until = data, until
        self.wake = Lock()
        self.wake.acquire()
        self.done = False
        self.reply: Any = None

    def give(self, reply: Any) -> None:
        self.reply, self.done = reply, True
        self.nudge()

    def nudge(self) -> None:
        with suppress(RuntimeError):  # it was woken before
            self.wake.release()


class _Line:
    """One connected socket of a `ThreadWire`. `send` and `receive` need its lock; waiting for input does not."""

    def __init__(self, connection: Any):
        self._connection = connection
        self._socket = connection._sock
        self._socket.setblocking(False)
        self._replies = reader()
        self._input = _poller(self._socket, write=False)
        self.pending: deque[_Waiter] = deque()
        self.queue: deque[_Waiter] = deque()  # whose turn has not come
        self.met: set[str] = set()
        self.lead = Lock()
        self.lost = False
        self._torn = False  # an interrupt left a request half sent, or a reply half read
        self._heard = monotonic()

    @property
    def usable(self) -> bool:
        if self._torn and not self.lost:
            self.fail()
        return not self.lost

    def ask(self, waiter: _Waiter) -> None:
        """Send a request, or let it wait for its turn."""
        if self.queue or len(self.pending) >= IN_FLIGHT:
            self.queue.append(waiter)
        else:
            self._send(waiter)

    def _send(self, waiter: _Waiter) -> None:
        self._torn = True
        if not self.pending:
            self._heard = monotonic()
        self.pending.append(waiter)
        rest = memoryview(waiter.data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except _WOULD_BLOCK:
                if not _poller(self._socket, write=True)(waiter.until - monotonic()):
                    break
            except OSError:
                break
        self._torn = False
        if rest:
            self.fail()

    def wait(self, timeout: float) -> bool:
        """Wait for input; True if there may be some."""
        pending = getattr(self._socket, "pending", None)
        return bool(pending and pending()) or self._input(timeout)

    def receive(self) -> None:
        """Read what has come, and hand it out."""
        self._torn = True
        try:
            data = self._socket.recv(65536)
        except _WOULD_BLOCK:
            self._torn = False
            return
        except OSError:
            data = b""
        if not data:
            self._torn = False
            self.fail()
            return
        self._heard = monotonic()
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not MORE:
                self.pending.popleft().give(reply)
        except (Lost, IndexError):  # not the protocol, or more replies than requests
            self.fail()
        self._torn = False
        while self.queue and len(self.pending) < IN_FLIGHT:
            self._send(self.queue.popleft())

    def check(self) -> None:
        """Give up a connection that has been silent for too long."""
        if monotonic() - self._heard > STALLED:
            self.fail()

    def fail(self) -> None:
        """Close it, and tell all who wait."""
        self.lost = True
        self._connection.disconnect()
        while self.pending:
            self.pending.popleft().give(Lost("the connection to the server was lost", sent=True))
        while self.queue:
            self.queue.popleft().give(Lost("the connection to the server was lost"))


def _poller(socket: Any, write: bool) -> Callable[[float], bool]:
    """Return a function that waits up to so many seconds until a socket can be read or written."""
    if not hasattr(select, "poll"):  # Windows

        def wait(timeout: float) -> bool:
            lists = ([], [socket]) if write else ([socket], [])
            return any(select.select(*lists, [], max(0.0, timeout)))

        return wait
    poll = select.poll()
    poll.register(socket, select.POLLOUT if write else select.POLLIN)
    return lambda timeout: bool(poll.poll(max(0.0, timeout) * 1000))


class ThreadWire:
    """One connection for all threads of a process.

    Args:
        connect: Makes a connected `redis.Connection`, in so many seconds at most; raises `Lost` if it cannot.
    """

    def __init__(self, connect: Callable[[float], Any]):
        self._connect = connect
        self._lock = Lock()
        self._line: _Line | None = None
        self._failed: Lost | None = None  # the last attempt to connect that failed

    @property
    def opened(self) -> bool:
        """Whether it was ever connected."""
        return self._line is not None

    @property
    def line(self) -> Any:
        """The last connection, or None. Its `met` are the accounts whose history was compared over it."""
        return self._line

    def open(self, until: float) -> None:
        """Connect, unless it is connected.

        Raises:
            Lost: It cannot.
            TimeoutError: Another thread is still at it.
        """
        before = self._failed
        self._enter(until)
        try:
            self._present(until, before)
        finally:
            self._lock.release()

    def exchange(self, data: bytes, until: float, account: str | None = None) -> Any:
        """Send one request and return its reply.

        Nothing is sent, and it is `STRANGE`, if the connection has not `met` the account.

        Raises:
            Lost: The connection is gone.
            TimeoutError: No reply came in time (`time.monotonic`); `Unsent` if the turn of the request did not come.
        """
        waiter, before = _Waiter(data, until), self._failed
        self._enter(until)
        try:
            line = self._present(until, before)
            if account is not None and account not in line.met:
                return STRANGE
            line.ask(waiter)
        finally:
            self._lock.release()
        while not waiter.done:
            self._wait(line, waiter, until)
        if isinstance(waiter.reply, Lost):
            raise waiter.reply
        return waiter.reply

    def close(self) -> None:
        """Close the connection; the next exchange makes another."""
        with self._lock:
            if self._line is not None:
                self._line.fail()
            self._line = None

    def leave(self, line: object) -> None:
        """Close this connection, if it is the present one."""
        with self._lock:
            if line is self._line and self._line is not None:
                self._line.fail()

    def _enter(self, until: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
            raise Unsent

    def _present(self, until: float, before: Lost | None) -> _Line:
        line = self._line
        if line is None or not line.usable:
            if self._failed is not before and self._failed is not None:
                raise Lost(str(self._failed))  # who waited for an attempt has had one
            try:
                line = self._line = _Line(self._connect(max(0.001, until - monotonic())))
            except Lost as error:
                self._failed = error
                raise
        return line

    def _wait(self, line: _Line, waiter: _Waiter, until: float) -> None:
        """Wait one turn: read for all if nobody else does, else be woken by who does."""
        left = until - monotonic()
        if left <= 0:
            with self._lock:
                line.check()
                if waiter in line.queue:
                    line.queue.remove(waiter)
                    raise Unsent
            raise TimeoutError
        if not line.lead.acquire(blocking=False):
            waiter.wake.acquire(timeout=min(left, _TURN))
            return
        try:
            while not waiter.done and (left := until - monotonic()) > 0:
                if line.wait(min(left, _TURN)):  # a socket closed just before may be another's by its number now
                    with self._lock:
                        if line.usable:
                            line.receive()
        finally:
            line.lead.release()
            with suppress(IndexError):  # the next in the queue reads on
                (line.pending[0] if line.pending else line.queue[0]).nudge()
