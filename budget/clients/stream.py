"""The meter of a stream: whatever way it ends, its reservation ends then.

A stream's events all pass its `_iterator`. We put an iterator object there (not a generator: an async one raises when
it is dropped while running) over the events of a twin of the stream, so that no cycle keeps a dropped stream alive. Its
ends: the last event, an exception, the close of its response (which every `close()` and every `with` of the SDKs comes
to), and a finalizer for a stream that is simply dropped. The SDKs also close the response when the events end or fail;
what that was, only the reader of the event knows, so a close by whoever is reading is left to the reader.

A stream whose reservation grows (`budget.clients.growth`) has it looked after before each event is read.
"""

from __future__ import annotations

import asyncio
import copy
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from threading import get_ident
from typing import Any

from budget.clients.call import Call
from budget.clients.growth import alook_after, look_after
from budget.clients.raw import read

__all__ = ["hide", "meter_async_stream", "meter_stream"]


def meter_stream(stream: Any, call: Call) -> Any:
    """Have a sync stream metered."""
    response = stream.response
    events = _twin(stream).__stream__()
    _listen(stream, _Events(events, call) if call.growth is None else _GrowingEvents(events, call, response))
    reference, close = weakref.ref(response), type(response).close

    def close_and_end() -> None:
        try:
            if (alive := reference()) is not None:
                close(alive)
        finally:
            if call.reader != get_ident() and not call.guard.ended:
                call.guard.end(*call.streamed(None))

    response.close = close_and_end
    weakref.finalize(stream, _dropped, call)
    return stream


def meter_async_stream(stream: Any, call: Call) -> Any:
    """Have an async stream metered."""
    response = stream.response
    events = _twin(stream).__stream__()
    _listen(stream, _AsyncEvents(events, call) if call.growth is None else _AsyncGrowingEvents(events, call, response))
    reference, close = weakref.ref(response), type(response).aclose

    async def close_and_end() -> None:
        reading = call.reader is not None and call.reader is asyncio.current_task()
        try:
            if (alive := reference()) is not None:
                await close(alive)
        except BaseException:
            if not reading:
                _dropped(call)
            raise
        if not reading and not call.guard.ended:
            await call.guard.aend(*call.streamed(None))

    response.aclose = close_and_end
    weakref.finalize(stream, _dropped, call)
    return stream


def hide(stream: Any, hidden: Callable[[Any], bool]) -> Any:
    """Have a stream, sync or async, keep some events to itself; if it is metered afterwards, the meter sees them."""
    stream._iterator = _Shown(_twin(stream).__stream__(), hidden)
    return stream


def _listen(stream: Any, events: Any) -> None:
    if isinstance(stream._iterator, _Shown):
        stream._iterator.events = events
    else:
        stream._iterator = events


def _twin(stream: Any) -> Any:
    twin = copy.copy(stream)
    twin.__dict__.pop("_iterator", None)
    return twin


def _dropped(call: Call) -> None:
    """End a stream that nobody will read on; nobody may be waited for here."""
    if not call.guard.ended:
        call.guard.post(*call.streamed(None))


class _Events:
    """The events of a sync stream, metered."""

    __slots__ = ("_call", "_events")

    def __init__(self, events: Iterator[Any], call: Call):
        self._events, self._call = events, call

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        call = self._call
        call.reader = get_ident()
        try:
            event = next(self._events)
        except StopIteration:
            call.guard.end(*call.streamed(None, whole=True))
            raise
        except BaseException as error:
            call.guard.end(*call.streamed(error))
            raise
        call.reader = None
        call.event(read(event))
        return event


class _AsyncEvents:
    """The events of an async stream, metered."""

    __slots__ = ("_call", "_events")

    def __init__(self, events: AsyncIterator[Any], call: Call):
        self._events, self._call = events, call

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        call = self._call
        call.reader = asyncio.current_task()
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
        call.reader = None
        call.event(read(event))
        return event


class _GrowingEvents(_Events):
    """The events of a sync stream whose reservation grows."""

    __slots__ = ("_response",)

    def __init__(self, events: Iterator[Any], call: Call, response: Any):
        super().__init__(events, call)
        self._response = response

    def __next__(self) -> Any:
        if self._call.growth.due:  # type: ignore[union-attr]
            look_after(self._call, self._cut)
        return super().__next__()

    def _cut(self) -> None:
        self._events = iter(())
        self._response.close()


class _AsyncGrowingEvents(_AsyncEvents):
    """The same of an async stream."""

    __slots__ = ("_response",)

    def __init__(self, events: AsyncIterator[Any], call: Call, response: Any):
        super().__init__(events, call)
        self._response = response

    async def __anext__(self) -> Any:
        if self._call.growth.due:  # type: ignore[union-attr]
            await alook_after(self._call, self._cut)
        return await super().__anext__()

    async def _cut(self) -> None:
        self._events = _nothing()
        await self._response.aclose()


async def _nothing() -> AsyncIterator[Any]:
    """Iterate no event."""
    return
    yield


class _Shown:
    """The events of a stream, sync or async, but for some."""

    __slots__ = ("_hidden", "events")

    def __init__(self, events: Any, hidden: Callable[[Any], bool]):
        self.events, self._hidden = events, hidden

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while self._hidden(event := next(self.events)):
            pass
        return event

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while self._hidden(event := await anext(self.events)):
            pass
        return event
