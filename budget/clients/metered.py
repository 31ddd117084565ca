"""Streams of the SDKs that no seam is common to: iterators that end their call, whatever way they end.

Not generators: an async one raises when it is dropped while running. A stream whose reservation grows has it looked
after before each event is read.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from inspect import isawaitable
from typing import Any

from budget.clients.call import Call
from budget.clients.growth import alook_after, look_after

__all__ = ["AsyncMetered", "Metered"]


class Metered:
    """The events of a sync stream, which end their call: the last one, an exception, `close`, or that it is dropped.

    Args:
        events: What the SDK makes.
        call: The call.
        closing: Closes the connection.
        read: What of an event the meter reads.
        hidden: Which events the user has not asked for.
    """

    def __init__(
        self,
        events: Iterator[Any],
        call: Call,
        closing: Callable[[], Any],
        read: Callable[[Any], Any] = lambda event: event,
        hidden: Callable[[Any], bool] = lambda event: False,
    ):
        self._events, self._call, self._closing, self._read, self._hidden = events, call, closing, read, hidden
        weakref.finalize(self, _dropped, call)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        call = self._call
        while True:
            look_after(call, self._cut)
            try:
                event = next(self._events)
            except StopIteration:
                call.guard.end(*call.streamed(None, whole=True))
                raise
            except BaseException as error:
                call.guard.end(*call.streamed(error))
                raise
            call.event(self._read(event))
            if not self._hidden(event):
                return event

    def _cut(self) -> None:
        self._events = iter(())
        self._closing()

    def close(self) -> None:
        """Read no more."""
        try:
            self._cut()
        finally:
            if not self._call.guard.ended:
                self._call.guard.end(*self._call.streamed(None))


class AsyncMetered:
    """The events of an async stream, metered likewise; `closing` is awaited if it has to be."""

    def __init__(
        self,
        events: AsyncIterator[Any],
        call: Call,
        closing: Callable[[], Any],
        read: Callable[[Any], Any] = lambda event: event,
        hidden: Callable[[Any], bool] = lambda event: False,
    ):
        self._events, self._call, self._closing, self._read, self._hidden = events, call, closing, read, hidden
        weakref.finalize(self, _dropped, call)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        while True:
            await alook_after(call, self._cut)
            try:
                event = await anext(self._events)
            except StopAsyncIteration:
                await call.guard.aend(*call.streamed(None, whole=True))
                raise
            except Exception as error:
                await call.guard.aend(*call.streamed(error))
                raise
            except BaseException:
                _dropped(call)  # cancelled: the end is booked without another wait
                raise
            call.event(self._read(event))
            if not self._hidden(event):
                return event

    async def _cut(self) -> None:
        self._events = _nothing()
        closing = self._closing()
        if isawaitable(closing):
            await closing

    async def aclose(self) -> None:
        """Read no more."""
        try:
            await self._cut()
        finally:
            _dropped(self._call)


async def _nothing() -> AsyncIterator[Any]:
    """Iterate no event."""
    return
    yield


def _dropped(call: Call) -> None:
    """End a stream that nobody will read on; nobody may be waited for here."""
    if not call.guard.ended:
        call.guard.post(*call.streamed(None))
