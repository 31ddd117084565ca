"""Many callers on one connection to a Redis server, without waiting for one another.

redis-py makes a connection (address, TLS, login); after that its socket is ours. Requests leave in the order of the
calls, and a server answers in that order, so that a queue of who waits is all that is needed to tell the answers apart.

* **Tasks of an event loop** (`LoopWire`): what one tick of the loop asks leaves in one write.
* **Threads** (`ThreadWire`): they share one socket, and whoever waits reads for all. No thread of our own stands between.

A caller who stops waiting, cancelled or late, leaves its place in the queue: the answer is read and dropped. When a
connection is lost, all who wait are told (`Lost`), and what they asked may or may not have been carried out. It is safe
to ask again, because every command carries an id that the scripts know it by. Nothing here retries by itself.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any

import hiredis

__all__ = ["Lost", "LoopWire", "ServerError", "ThreadWire"]

_MORE = object()
_STALLED = 5.0  # seconds without a sign of life, while someone waits, after which a connection is given up
_TURN = 0.05  # seconds after which a waiting thread looks whether it must read itself; it is woken long before
_TICK = 0.02  # seconds between looks at the deadlines of tasks
_WOULD_BLOCK = (BlockingIOError, InterruptedError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Lost(Exception):
    """The connection is gone; what was sent over it may or may not have been carried out."""


class ServerError(Exception):
    """An error reply of the server. It is returned, not raised: the place in the queue is that of any reply."""


def _reader() -> Any:
    return hiredis.Reader(protocolError=Lost, replyError=ServerError, notEnoughData=_MORE)


class _Waiter:
    """A thread that waits for a reply."""

    __slots__ = ("done", "reply", "wake")

    def __init__(self) -> None:
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
        self._replies = _reader()
        self._input = _poller(self._socket, write=False)
        self.pending: deque[_Waiter] = deque()
        self.lead = Lock()
        self.lost = False
        self._torn = False  # an interrupt left a request half sent, or a reply half read
        self._heard = monotonic()

    @property
    def usable(self) -> bool:
        if self._torn and not self.lost:
            self.fail()
        return not self.lost

    def send(self, data: bytes, waiter: _Waiter, until: float) -> None:
        self._torn = True
        if not self.pending:
            self._heard = monotonic()
        self.pending.append(waiter)
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except _WOULD_BLOCK:
                if not _poller(self._socket, write=True)(until - monotonic()):
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
        while (reply := self._replies.gets()) is not _MORE:
            self.pending.popleft().give(reply)
        self._torn = False

    def check(self) -> None:
        """Give up a connection that has been silent for too long."""
        if monotonic() - self._heard > _STALLED:
            self.fail()

    def fail(self) -> None:
        """Close it, and tell all who wait."""
        self.lost = True
        self._connection.disconnect()
        while self.pending:
            self.pending.popleft().give(Lost("the connection to the server was lost"))


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

    @property
    def opened(self) -> bool:
        return self._line is not None

    def open(self, until: float) -> None:
        """Connect, unless it is connected.

        Raises:
            Lost: It cannot.
            TimeoutError: Another thread is still at it.
        """
        self._enter(until)
        try:
            self._present(until)
        finally:
            self._lock.release()

    def exchange(self, data: bytes, until: float) -> Any:
        """Send one request and return its reply.

        Raises:
            Lost: The connection is gone.
            TimeoutError: No reply came in time (`time.monotonic`).
        """
        waiter = _Waiter()
        self._enter(until)
        try:
            line = self._present(until)
            line.send(data, waiter, until)
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

    def _enter(self, until: float) -> None:
        if not self._lock.acquire(timeout=max(0.0, until - monotonic())):
            raise TimeoutError

    def _present(self, until: float) -> _Line:
        line = self._line
        if line is None or not line.usable:
            line = self._line = _Line(self._connect(max(0.001, until - monotonic())))
        return line

    def _wait(self, line: _Line, waiter: _Waiter, until: float) -> None:
        """Wait one turn: read for all if nobody else does, else be woken by who does."""
        left = until - monotonic()
        if left <= 0:
            with self._lock:
                line.check()
            raise TimeoutError
        if not line.lead.acquire(blocking=False):
            waiter.wake.acquire(timeout=min(left, _TURN))
            return
        try:
            while not waiter.done and (left := until - monotonic()) > 0:
                if line.wait(left):
                    with self._lock:
                        if line.usable:
                            line.receive()
        finally:
            line.lead.release()
            with suppress(IndexError):  # the next in the queue reads on
                line.pending[0].nudge()


class LoopWire(asyncio.Protocol):
    """One connection for all tasks of an event loop. Used in that loop only.

    Args:
        connect: Makes a connected `redis.asyncio.Connection`, in so many seconds at most; raises `Lost` if it cannot.
    """

    def __init__(self, connect: Callable[[float], Awaitable[Any]]):
        self._connect = connect
        self.loop = asyncio.get_running_loop()
        self._opening = asyncio.Lock()
        self._connection: Any = None
        self._transport: asyncio.Transport | None = None
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()  # who waits, until when
        self._timer: asyncio.TimerHandle | None = None
        self._output: list[bytes] = []
        self._heard = 0.0
        self._end: AsyncGenerator[None, None] | None = None

    @property
    def opened(self) -> bool:
        """Whether it was ever connected."""
        return self._end is not None

    @property
    def connected(self) -> bool:
        return self._transport is not None

    async def open(self, timeout: float) -> None:
        """Connect, unless it is connected.

        Raises:
            Lost: It cannot.
        """
        async with self._opening:
            if self._transport is not None:
                return
            connection = await self._connect(timeout)
            # The handshake is over and nothing is on its way: from here the bytes come to us.
            self._replies = _reader()
            self._connection = connection
            self._transport = connection._writer.transport
            self._transport.set_protocol(self)
            if self._end is None:  # one for all connections: the end of an earlier one would close this one
                self._end = self._until_the_loop_ends()
                await anext(self._end)

    def exchange(self, data: bytes, until: float) -> asyncio.Future[Any]:
        """Send one request with all others of this tick; the future is its reply.

        It ends with `Lost` if the connection is gone, or `TimeoutError` at most a few hundredths of a second late (by the
        loop's clock).
        """
        future = self.loop.create_future()
        if self._transport is None:
            future.set_exception(Lost("the connection to the server was lost"))
            return future
        if not self._output:
            self.loop.call_soon(self._flush)
        self._output.append(data)
        self._pending.append((future, until))
        if self._timer is None:
            self._heard = self.loop.time()
            self._timer = self.loop.call_later(_TICK, self._look)
        return future

    def close(self) -> None:
        """Close the connection. The next `open` makes another."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._connection._writer = self._connection._reader = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._output.clear()
        while self._pending:
            future, _ = self._pending.popleft()
            if not future.done():
                future.set_exception(Lost("the connection to the server was lost"))

    # What the loop calls.

    def data_received(self, data: bytes) -> None:
        """Hand out what has come."""
        self._heard = self.loop.time()
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not _MORE:
                future, _ = self._pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (Lost, IndexError):  # not the protocol, or more replies than requests
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait."""
        self.close()

    def _flush(self) -> None:
        if self._transport is not None and self._output:
            self._transport.write(b"".join(self._output))
        self._output.clear()

    def _look(self) -> None:
        """End the waits that have lasted long enough: one timer for all costs less than one each."""
        now = self.loop.time()
        late = [future for future, until in self._pending if until <= now and not future.done()]
        for future in late:
            future.set_exception(TimeoutError())
        if late and now - self._heard > _STALLED:
            self.close()
        self._timer = self.loop.call_later(_TICK, self._look) if self._pending else None

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        # An event loop has no hook for its end, but it closes the asynchronous generators that it began.
        try:
            yield
        finally:
            self.close()
