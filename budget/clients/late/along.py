"""Reading along: the parts of a result pass on to the user unchanged, and to a reader, which is told when all have.

Only who reads to the end is followed to the end: a result that was left early has said nothing yet.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

__all__ = ["Along", "Lines", "Reader", "Whole", "tap"]


class Taker(Protocol):
    """Takes the bytes of a response."""

    def feed(self, part: bytes) -> None:
        """Take the next of them."""
        ...

    def close(self) -> None:
        """Take note that there are no more."""
        ...


class Reader(Protocol):
    """Reads along. It never raises."""

    def take(self, part: Any) -> None:
        """Take note of one part."""
        ...

    def taker(self) -> Taker:
        """Return what makes parts of bytes."""
        ...

    def finish(self) -> None:
        """Take note of the end."""
        ...

    async def afinish(self) -> None:
        """Take note of the end, without blocking the event loop."""
        ...


class Along:
    """The iterator of a stream or a decoder, sync or async, with a reader along."""

    __slots__ = ("_parts", "_reader")

    def __init__(self, parts: Any, reader: Reader):
        self._parts, self._reader = parts, reader

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            part = next(self._parts)
        except StopIteration:
            self._reader.finish()
            raise
        self._reader.take(part)
        return part

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        try:
            part = await anext(self._parts)
        except StopAsyncIteration:
            await self._reader.afinish()
            raise
        self._reader.take(part)
        return part


def tap(response: Any, reader: Reader) -> None:
    """Have the bytes of an HTTP response that is still to be read, as they are after decompression, read along.

    All that reads a response does it through its `iter_bytes`, or `aiter_bytes`, but for who wants them compressed.
    """
    kind, reference = type(response), weakref.ref(response)

    def iter_bytes(chunk_size: int | None = None) -> Iterator[bytes]:
        taker = reader.taker()
        for part in kind.iter_bytes(reference(), chunk_size):
            taker.feed(part)
            yield part
        taker.close()
        reader.finish()

    async def aiter_bytes(chunk_size: int | None = None) -> AsyncIterator[bytes]:
        taker = reader.taker()
        async for part in kind.aiter_bytes(reference(), chunk_size):
            taker.feed(part)
            yield part
        taker.close()
        await reader.afinish()

    response.iter_bytes, response.aiter_bytes = iter_bytes, aiter_bytes


class Lines:
    """Makes JSON of each line; None of one that is none."""

    def __init__(self, take: Callable[[Any], None]):
        self._take, self._rest = take, b""

    def feed(self, part: bytes) -> None:
        """Take bytes, and give on the lines that are whole."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            self._line(line)

    def close(self) -> None:
        """Give on the last line."""
        self._line(self._rest)

    def _line(self, line: bytes) -> None:
        if line.strip():
            try:
                self._take(json.loads(line))
            except ValueError:
                self._take(None)


class Whole:
    """Makes JSON of all bytes together, or of each event."""

    def __init__(self, take: Callable[[Any], None]):
        self._take = take
        self._parts: list[bytes] = []

    def feed(self, part: bytes) -> None:
        """Take bytes."""
        self._parts.append(part)

    def close(self) -> None:
        """Give on what they are."""
        body = b"".join(self._parts)
        events = [line[5:] for line in body.split(b"\n") if line[:5] == b"data:"]
        for text in events or [body]:
            try:
                self._take(json.loads(text))
            except ValueError:
                continue  # such as [DONE]
