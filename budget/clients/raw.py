"""The tap of a raw response: its bytes pass on to the caller, and when it closes, its cost is read from them.

Whatever reads a response (`read`, `iter_lines`, a stream parsed from it) reads through its `iter_raw`, which calls
`close` when all bytes have passed. So that is where we listen, on the one response object: at `close` we have what the
caller had, a JSON body or events, whole or cut short. A response that is dropped has a finalizer.
"""

from __future__ import annotations

import json
import logging
import weakref
from collections.abc import AsyncIterator, Iterator
from typing import Any

from budget.clients.call import Call, End
from budget.clients.growth import alook_after, look_after

_log = logging.getLogger("budget")
__all__ = ["content", "read", "tap", "tap_async", "unread"]


def unread(result: Any) -> Any:
    """Return the HTTP response of a result whose body is still to be read, else None."""
    response = _response(result)
    return None if response is None or response.is_closed else response


def content(result: Any) -> Any:
    """Return what may carry the usage of a result that was read: the model itself, or the JSON of a raw response."""
    response = _response(result)
    return result if response is None else _json(response.content)


def _response(result: Any) -> Any:
    if hasattr(type(result), "model_fields_set"):
        return None  # a pydantic model takes its time to say that it lacks a name
    response = getattr(result, "http_response", result)
    return response if hasattr(response, "is_stream_consumed") else None


def tap(response: Any, call: Call) -> None:
    """Have a response that is still to be read end its call."""
    iter_raw, close, reference = type(response).iter_raw, type(response).close, weakref.ref(response)
    read = _Read(response)

    def tapped(chunk_size: int | None = None) -> Iterator[bytes]:
        for part in iter_raw(reference(), chunk_size):
            call.heard()
            read.take(part, call)
            yield part
            if call.growth is not None:
                look_after(call, _living(reference).close)

    def close_and_end() -> None:
        try:
            if (alive := reference()) is not None:
                close(alive)
        finally:
            call.guard.end(*read.end(call)) if not call.guard.ended else None

    response.iter_raw, response.close = tapped, close_and_end
    weakref.finalize(response, _dropped, call, read)


def tap_async(response: Any, call: Call) -> None:
    """Like `tap`, for a response of an async client."""
    aiter_raw, aclose, reference = type(response).aiter_raw, type(response).aclose, weakref.ref(response)
    read = _Read(response)

    async def tapped(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        async for part in aiter_raw(reference(), chunk_size):
            call.heard()
            read.take(part, call)
            yield part
            if call.growth is not None:
                await alook_after(call, _living(reference).aclose)

    async def close_and_end() -> None:
        try:
            if (alive := reference()) is not None:
                await aclose(alive)
        except BaseException:
            _dropped(call, read)
            raise
        if not call.guard.ended:
            await call.guard.aend(*read.end(call))

    response.aiter_raw, response.aclose = tapped, close_and_end
    weakref.finalize(response, _dropped, call, read)


def _living(reference: weakref.ref[Any]) -> Any:
    """Return a response that is being read, so that somebody has it."""
    return reference()


def _dropped(call: Call, read: _Read) -> None:
    if not call.guard.ended:
        call.guard.post(*read.end(call))


class _Read:
    """What was read of a response, as it came: it may be compressed.

    It is looked into when the response closes; at once, and line by line, where what is reserved grows with it.
    """

    def __init__(self, response: Any):
        self._parts: list[bytes] = []
        self._kind, self._headers = type(response), response.headers
        self._decoder: Any = None
        self._rest, self._whole = b"", False

    def take(self, part: bytes, call: Call) -> None:
        """Take note of a part."""
        if call.growth is None or not self._streams:
            self._parts.append(part)
            return
        try:
            self._feed(self._decoded(part), call)
        except Exception as error:
            _log.warning("a stream does not grow any more: its answer cannot be decoded (%s)", type(error).__name__)
            call.growth = None

    def _decoded(self, part: bytes) -> bytes:
        if "content-encoding" not in self._headers:
            return part
        if self._decoder is None:
            self._decoder = self._kind(200, headers=self._headers)._get_content_decoder()
        decoded = self._decoder.decode(part)
        return decoded if isinstance(decoded, bytes) else b"".join(decoded)  # of httpx, of httpx2

    def end(self, call: Call) -> End:
        """Return how the call ends."""
        try:
            body: bytes = self._kind(200, headers=self._headers, content=b"".join(self._parts)).content
        except Exception:  # a part of a compressed body need not be readable
            body = b""
        if not self._streams:
            found = _json(body)
            return call.answered(found) if found else call.streamed(None)
        self._feed(body + b"\n", call)
        return call.streamed(None, whole=self._whole)

    @property
    def _streams(self) -> bool:
        return "event-stream" in self._headers.get("content-type", "")

    def _feed(self, more: bytes, call: Call) -> None:
        *lines, self._rest = (self._rest + more).split(b"\n")
        for line in lines:
            data = line[5:].strip() if line.startswith(b"data:") else b""
            if data == b"[DONE]":
                self._whole = True
            elif event := _json(data):
                call.event(event)


class _Event(dict[str, Any]):
    """A JSON object whose members are read like those of the SDK's models; what is not there is None."""

    __getattr__ = dict.get


def read(event: Any) -> Any:
    """Return an event of a stream as the meters read it, also of one that gives plain objects (`cast_to=object`)."""
    return _json(json.dumps(event)) if type(event) is dict else event


def _json(text: str | bytes) -> Any:
    try:
        return json.loads(text, object_hook=_Event)
    except (ValueError, RecursionError):
        return {}  # not JSON, or cut off: there is no usage in it
