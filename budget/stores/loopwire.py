"""All tasks of an event loop on one connection: what one tick of the loop asks leaves in one write."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from budget.stores.multiplex import IN_FLIGHT, MORE, STALLED, Lost, Unsent, reader

__all__ = ["LoopWire"]

_TICK = 0.02  # seconds between looks at the deadlines


class LoopWire(asyncio.Protocol):
    """One connection for all tasks of an event loop. Used in that loop only.

    Args:
        connect: Makes a connected `redis.asyncio.Connection`, in so many seconds at most; raises `Lost` if it cannot.
    """

    def __init__(self, connect: Callable[[float], Awaitable[Any]]):
        self._connect = connect
        self.loop = asyncio.get_running_loop()
        self.met: set[str] = set()
        """The accounts whose history was compared over the present connection: see `redisfence.py`."""
        self.meeting = asyncio.Lock()
        """Held by who compares."""
        self._opening = asyncio.Lock()
        self._failed: Lost | None = None  # the last attempt that failed
        self._connection: Any = None
        self.line: asyncio.Transport | None = None
        """The present connection."""
        self._pending: deque[tuple[asyncio.Future[Any], float]] = deque()  # who waits, until when
        self._queue: deque[tuple[bytes, asyncio.Future[Any], float]] = deque()  # whose turn has not come
        self._timer: asyncio.TimerHandle | None = None
        self._output: list[bytes] = []
        self._heard = 0.0
        self._end: AsyncGenerator[None, None] | None = None

    @property
    def opened(self) -> bool:
        """Whether it was ever connected."""
        return self._end is not None

    async def open(self, timeout: float) -> None:
        """Connect, unless it is connected.

        Raises:
            Lost: It cannot.
        """
        before = self._failed
        async with self._opening:
            if self.line is not None:
                return
            if self._failed is not before and self._failed is not None:
                raise Lost(str(self._failed))  # who waited for an attempt has had one
            try:
                connection = await self._connect(timeout)
            except Lost as error:
                self._failed = error
                raise
            # The handshake is over and nothing is on its way: from here the bytes come to us.
            self._replies = reader()
            self._connection = connection
            self.line = connection._writer.transport
            self.line.set_protocol(self)
            if self._end is None:  # one for all connections: the end of an earlier one would close this one
                self._end = self._until_the_loop_ends()
                await anext(self._end)

    def exchange(self, data: bytes, until: float) -> asyncio.Future[Any]:
        """Send one request with all others of this tick; the future is its reply.

        It ends with `Lost` if the connection is gone, or `TimeoutError` at most a few hundredths of a second late (by
        the loop's clock); `Unsent` if its turn did not come by then.
        """
        future = self.loop.create_future()
        if self.line is None:
            future.set_exception(Lost("the connection to the server was lost"))
            return future
        if self._queue or len(self._pending) >= IN_FLIGHT:
            self._queue.append((data, future, until))
        else:
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
        transport, self.line = self.line, None
        if transport is not None:
            transport.abort()
            self._connection._writer = self._connection._reader = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.met.clear()
        self._output.clear()
        pending, queue = self._pending, self._queue
        self._pending, self._queue = deque(), deque()
        for future, _ in pending:
            if not future.done():
                future.set_exception(Lost("the connection to the server was lost", sent=True))
        for _, future, _ in queue:
            if not future.done():
                future.set_exception(Lost("the connection to the server was lost"))

    def leave(self, line: object) -> None:
        """Close this connection, if it is the present one."""
        if line is self.line:
            self.close()

    # What the loop calls.

    def data_received(self, data: bytes) -> None:
        """Hand out what has come."""
        self._heard = self.loop.time()
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not MORE:
                future, _ = self._pending.popleft()
                if not future.done():
                    future.set_result(reply)
        except (Lost, IndexError):  # not the protocol, or more replies than requests
            self.close()
        if self._queue:
            self._admit()

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait."""
        self.close()

    def _flush(self) -> None:
        if self.line is not None and self._output:
            self.line.write(b"".join(self._output))
        self._output.clear()

    def _admit(self) -> None:
        """Send those whose turn has come; who has stopped waiting has none."""
        while self._queue and len(self._pending) < IN_FLIGHT:
            data, future, until = self._queue.popleft()
            if not future.done():
                self._output.append(data)
                self._pending.append((future, until))
        self._flush()

    def _look(self) -> None:
        """End the waits that have lasted long enough: one timer for all costs less than one each."""
        now = self.loop.time()
        for _, future, until in self._queue:
            if until <= now and not future.done():
                future.set_exception(Unsent())
        self._queue = deque([each for each in self._queue if not each[1].done()])
        late = [future for future, until in self._pending if until <= now and not future.done()]
        for future in late:
            future.set_exception(TimeoutError())
        if late and now - self._heard > STALLED:
            self.close()
        self._timer = self.loop.call_later(_TICK, self._look) if self._pending else None

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        # An event loop has no hook for its end, but it closes the asynchronous generators that it began.
        try:
            yield
        finally:
            self.close()
