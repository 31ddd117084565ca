"""All threads of a process on one connection: they share a socket, and whoever waits reads for all.

A thread queues its request, and sends all that are queued unless another thread has the socket just now, which then
takes this one along: nobody waits for a lock in order to send. Then it waits. The first who finds nobody reading reads,
hands replies out in the order of the requests until it has its own, and wakes the next to read on. So a lone thread
makes three system calls and no switch.

An interrupt (Ctrl-C) may come between any two steps. Whoever leaves a request half sent or a reply half read leaves the
line marked as torn, and the next to use it closes it. If it strikes just after a lock was taken, that is never given
back: nobody waits for one beyond his deadline, and a line whose turn does not come is given up.
"""

from __future__ import annotations

import select
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
    """One connected socket of a `ThreadWire`. What touches the socket or `pending` needs `turn`; polling does not."""

    def __init__(self, connection: Any):
        self._connection = connection
        self._socket = connection._sock
        self._socket.setblocking(False)
        self._replies = reader()
        self._input = _poller(self._socket, write=False)
        self.pending: deque[_Waiter] = deque()
        self.queue: deque[_Waiter] = deque()  # not sent yet
        self.met: set[str] = set()
        self.lead, self.turn = Lock(), Lock()
        self.lost = False
        self._torn = False  # an interrupt left a request half sent, or a reply half read
        self._heard = monotonic()

    def ask(self, waiter: _Waiter) -> None:
        """Send a request, or leave it to who has the socket just now."""
        self.queue.append(waiter)
        self.flush()
        if self.lost:  # it may have been told to all before this one came
            self.in_turn(self.fail, waiter.until)

    def in_turn(self, step: Callable[[], object], until: float) -> bool:
        """Take a step when it is one's turn; False if that does not come in time, and then the line is given up."""
        if not self.turn.acquire(timeout=max(_TURN, until - monotonic())):
            self.lost = True
            return False
        try:
            step()
        finally:
            self.turn.release()
        return True

    def flush(self) -> None:
        """Send what is queued, unless somebody else has the socket: who gives it back looks again."""
        while self.queue and len(self.pending) < IN_FLIGHT and self.turn.acquire(blocking=False):
            try:
                self._send()
            finally:
                self.turn.release()

    def _send(self) -> None:
        if self.mend():
            return
        self._torn = True
        if not self.pending:
            self._heard = monotonic()
        batch = []
        while self.queue and len(self.pending) < IN_FLIGHT:
            waiter = self.queue.popleft()
            self.pending.append(waiter)
            batch.append(waiter.data)
        rest = memoryview(b"".join(batch))
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except _WOULD_BLOCK:
                if not _poller(self._socket, write=True)(self.pending[-1].until - monotonic()):
                    break
            except OSError:
                break
        self._torn = False
        if rest:
            self.fail()

    def mend(self) -> bool:
        """Whether the connection is lost: then all who wait are told. One that an interrupt left torn is given up."""
        if self._torn or self.lost:
            self.fail()
        return self.lost

    def wait(self, timeout: float) -> bool:
        """Wait for input; True if there may be some."""
        pending = getattr(self._socket, "pending", None)
        return bool(pending and pending()) or self._input(timeout)

    def receive(self) -> None:
        """Read what has come, and hand it out."""
        if self.mend():
            return
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

    def withdraw(self, waiter: _Waiter) -> None:
        """Take back what was not sent yet, for one whose time is over; a connection long silent is given up.

        Raises:
            Unsent: It was taken back: the server never saw it.
        """
        if monotonic() - self._heard > STALLED:
            self.fail()
        if waiter in self.queue:
            self.queue.remove(waiter)
            raise Unsent

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
        if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
            raise Unsent
        try:
            if self._line is not None and not self._line.lost:
                return
            if self._failed is not before and self._failed is not None:
                raise Lost(str(self._failed))  # who waited for an attempt has had one
            try:
                self._line = _Line(self._connect(max(0.001, until - monotonic())))
            except Lost as error:
                self._failed = error
                raise
        finally:
            self._lock.release()

    def exchange(self, data: bytes, until: float, account: str | None = None) -> Any:
        """Send one request and return its reply.

        Nothing is sent, and it is `STRANGE`, if the connection has not `met` the account.

        Raises:
            Lost: The connection is gone.
            TimeoutError: No reply came in time (`time.monotonic`); `Unsent` if the turn of the request did not come.
        """
        waiter = _Waiter(data, until)
        line = self._line
        if line is None or line.lost:
            self.open(until)
            line = self._line
            assert line is not None
        if account is not None and account not in line.met:
            return STRANGE
        if monotonic() >= until:
            raise Unsent
        line.ask(waiter)
        while not waiter.done:
            self._wait(line, waiter, until)
        if isinstance(waiter.reply, Lost):
            raise waiter.reply
        return waiter.reply

    def close(self) -> None:
        """Close the connection; the next exchange makes another."""
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.in_turn(line.fail, monotonic())

    def leave(self, line: object) -> None:
        """Close this connection, if it is the present one."""
        if line is self._line and self._line is not None:
            self._line.in_turn(self._line.fail, monotonic())

    def _wait(self, line: _Line, waiter: _Waiter, until: float) -> None:
        """Wait one turn: read for all if nobody else does, else be woken by who does."""
        left = until - monotonic()
        if left <= 0:
            line.in_turn(partial(line.withdraw, waiter), until)
            raise TimeoutError
        if not line.lead.acquire(blocking=False):
            waiter.wake.acquire(timeout=min(left, _TURN))
            return
        try:
            while not waiter.done and (left := until - monotonic()) > 0:
                if line.wait(min(left, _TURN)):  # a socket closed just before may be another's by its number now
                    line.in_turn(line.receive, until)
                line.flush()
        finally:
            line.lead.release()
            with suppress(IndexError):  # the next in the queue reads on
                (line.pending[0] if line.pending else line.queue[0]).nudge()
