"""A TCP proxy on loopback that does to a connection what networks do, at a byte that was chosen.

    cut      both sides are closed after so many bytes          reset    the same, with a RST
    half     one direction is closed, the other goes on         hole     what follows in one direction is swallowed
    stall    what follows waits until `release`                 again    what passed by then is sent to the server once
    trickle  what follows passes byte by byte                            more, on a connection of its own

Bytes are counted from when a fault is armed; it strikes once, on the first connection that gets there.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any, NamedTuple

__all__ = ["ACTS", "Fault", "Proxies", "Proxy"]

ACTS = ("cut", "reset", "half", "stall", "hole", "trickle", "again")
_RST = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class Fault(NamedTuple):
    """`act` strikes in one way ("there": to the server, "back") after so many bytes."""

    way: str
    after: int
    act: str


@dataclass(eq=False)
class Proxy:
    """One door to a server, which is reached by its Unix socket: a port can be used again only after a while."""

    to: str
    port: int = 0
    fault: Fault | None = None
    passed: dict[str, int] = field(default_factory=lambda: {"there": 0, "back": 0})
    struck: int = 0

    def __post_init__(self) -> None:
        self._released = asyncio.Event()
        self._seen = bytearray()
        self._links: set[asyncio.Future[Any]] = set()

    def arm(self, fault: Fault | None) -> None:
        """Count from here, and strike."""
        self.fault, self.passed = fault, {"there": 0, "back": 0}
        self._seen.clear()
        self._released.clear()

    def release(self) -> None:
        """Let go of what was stalled, and strike no more."""
        self.fault = None
        self._released.set()

    async def open(self) -> Proxy:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        self._server.close()
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)
        await asyncio.sleep(0.001)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to, back = await asyncio.open_unix_connection(self.to)
        except OSError:
            writer.transport.abort()
            return
        ends = (writer, back)
        ways = [self._carry("there", reader, back, ends), self._carry("back", to, writer, ends)]
        link = asyncio.ensure_future(asyncio.gather(*ways))
        self._links.add(link)
        try:
            with suppress(asyncio.CancelledError):
                await link
        finally:
            self._links.discard(link)
            for end in ends:
                end.transport.abort()
            await asyncio.sleep(0)  # the loop lets go of the sockets

    async def _carry(
        self, way: str, source: asyncio.StreamReader, drain: asyncio.StreamWriter, ends: tuple[Any, Any]
    ) -> None:
        try:
            while data := await source.read(65536):
                if not await self._strike(way, data, drain, ends):
                    return
            if drain.can_write_eof():
                drain.write_eof()
        except (OSError, RuntimeError):
            for end in ends:
                end.transport.abort()

    async def _strike(self, way: str, data: bytes, drain: asyncio.StreamWriter, ends: tuple[Any, Any]) -> bool:
        """Pass some bytes on; False if this direction is over."""
        fault = self.fault
        left = fault.after - self.passed[way] if fault is not None and fault.way == way else len(data) + 1
        self.passed[way] += len(data)
        if way == "there":
            self._seen += data[: max(left, 0)]
        if fault is None or left > len(data) or (left == len(data) and fault.act == "trickle"):
            drain.write(data)
            return True
        self.fault, self.struck = None, self.struck + 1
        drain.write(data[:left])
        rest = data[left:]
        if fault.act in ("cut", "reset"):
            await asyncio.sleep(0)
            for end in ends:
                if fault.act == "reset":
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                    end.transport.abort()
                else:
                    end.close()
            return False
        if fault.act == "half":
            drain.write_eof()
            return False
        if fault.act == "hole":
            return False
        if fault.act == "stall":
            await self._released.wait()
        elif fault.act == "again":
            await self._say_again()
        elif fault.act == "trickle":
            for byte in rest:
                drain.write(bytes((byte,)))
                await asyncio.sleep(0)
            return True
        drain.write(rest)
        return True

    async def _say_again(self) -> None:
        reader, writer = await asyncio.open_unix_connection(self.to)
        writer.write(bytes(self._seen))
        writer.write_eof()
        await reader.read()
        writer.close()


class Proxies:
    """Proxies in a thread with an event loop of its own, from `with` to its end."""

    def __enter__(self) -> Proxies:
        self._loop, ready = asyncio.new_event_loop(), Event()
        self._loop.call_soon(ready.set)
        self._thread = Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self._made: list[Proxy] = []
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._made:
            self.do(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def make(self, to: str) -> Proxy:
        """A door to the server at a Unix socket."""

        async def made() -> Proxy:
            return await Proxy(to).open()

        proxy: Proxy = self.do(made())
        self._made.append(proxy)
        return proxy

    def drop(self, proxy: Proxy) -> None:
        """Close a door."""
        self._made.remove(proxy)
        self.do(proxy.close())

    def tell(self, act: Callable[..., None], *args: Any) -> None:
        """Have something done in the loop of the proxies, and wait until it is."""

        async def told() -> None:
            act(*args)

        self.do(told())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
