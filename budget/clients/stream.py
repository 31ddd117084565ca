"""The meter of a stream: whatever way it ends, its reservation ends then.

A stream's events all pass its `_iterator`. We put an iterator object there (not a generator: an async one raises when
it is dropped while running) over the events of a twin of the stream, so that no cycle keeps a dropped stream alive. Its
ends: the last event, an exception, `close()` (also by leaving `with`), and a finalizer for a stream that is simply
dropped.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

from budget.clients.call import Call

__all__ = ["meter_async_stream", "meter_stream"]


def meter_stream(stream: Any, call: Call) -> Any:
    """Have a sync stream metered."""
    stream._iterator = _Events(_twin(stream).__stream__(), call)
    reference, close = weakref.ref(stream), type(stream).close

    def close_and_end() -> None:
        try:
            if (alive := reference()) is not None:
                close(alive)
        finally:
            call.guard.end(*call.streamed(None)) if not call.guard.ended else None

    stream.close = close_and_end
    weakref.finalize(stream, _dropped, call)
    return stream


def meter_async_stream(stream: Any, call: Call) -> Any:
    """Have an async stream metered."""
    stream._iterator = _AsyncEvents(_twin(stream).__stream__(), call)
    reference, close = weakref.ref(stream), type(stream).close

    async def close_and_end() -> None:
        try:
            if (alive := reference()) is not None:
                await close(alive)
        except BaseException:
            _dropped(call)
            raise
        if not call.guard.ended:
            await call.guard.aend(*call.streamed(None))

    stream.close = close_and_end
    weakref.finalize(stream, _dropped, call)
    return stream


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
        try:
            event = next(self._events)
        except StopIteration:
            call.guard.end(*call.streamed(None))
            raise
        except BaseException as error:
            call.guard.end(*call.streamed(error))
            raise
        call.event(event)
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
        try:
            event = await anext(self._events)
        except StopAsyncIteration:
            await call.guard.aend(*call.streamed(None))
            raise
        except Exception as error:
            await call.guard.aend(*call.streamed(error))
            raise
        except BaseException:
            _dropped(call)  # cancelled: the end is booked without another wait
            raise
        call.event(event)
        return event
