"""A small HTTP/1.1 server on loopback, in a thread of its own. It knows no protocol above HTTP.

Theory of operation. One `asyncio.Protocol` per connection collects bytes; as soon as they hold a whole request, one
task runs the handler with that request and an `Answer` to write to. Connections are kept alive and answer one request
at a time. Two rules keep the rest simple:

* A handler that returns without having finished its answer drops the connection: that is how a cut is made.
* A client that goes away cancels the handler's task and marks the answer as lost: that is how a disconnect is noticed,
  also while the handler only waits. Nothing is written to a connection that is gone, so nothing is logged.

(asyncio sets TCP_NODELAY on every connection, so a small answer is never delayed.)
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from budget.errors import ConfigError

__all__ = ["HOST", "Answer", "Handler", "Request", "Server"]

HOST = "127.0.0.1"
_HEAD_MAX = 64 * 2**10
_BODY_MAX = 64 * 2**20  # bytes; above the 32 MB that Anthropic's Messages take, so a test can be over that
_BACKLOG = 1024  # hundreds of clients may connect in the same instant


@dataclass(frozen=True)
class Request:
    """One HTTP request. Header names are in lower case; neither headers nor body show in the `repr`."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @cached_property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: It is not JSON.
        """
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deeply") from None


class Answer:
    """What a handler writes to: either `whole`, or `begin`, any number of `send`, and `end`.

    What was written leaves at `flush`, or when the handler returns, in one system call.

    Attributes:
        finished: The answer is complete.
        lost: The client went away before it was.
    """

    __slots__ = ("_transport", "_unsent", "finished", "lost")

    def __init__(self, transport: asyncio.Transport):
        self._transport = transport
        self._unsent = bytearray()
        self.finished = self.lost = False

    def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Write a complete answer."""
        self._unsent += _head(status, {**headers, "content-length": str(len(body))}) + body
        self.finished = True

    def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Write the head of an answer that comes in parts."""
        self._unsent += _head(status, {**headers, "transfer-encoding": "chunked"})

    def send(self, part: bytes) -> None:
        """Write one part, which must not be empty: an empty chunk would end the answer."""
        self._unsent += b"%x\r\n%b\r\n" % (len(part), part)

    def end(self) -> None:
        """Finish an answer that came in parts."""
        self._unsent += b"0\r\n\r\n"
        self.finished = True

    def flush(self) -> None:
        """Let go what was written, unless the connection is gone."""
        if self._unsent and not self._transport.is_closing():
            self._transport.write(bytes(self._unsent))
        self._unsent.clear()


Handler = Callable[[Request, Answer], Awaitable[None]]


class Server:
    """Runs a handler for every request that arrives on a loopback port.

    Starting and stopping wait for the thread, which takes about a millisecond; between them the caller's thread and
    event loop are never touched.
    """

    def __init__(self, handler: Handler, port: int = 0):
        self.handler = handler
        self.connections: set[_Connection] = set()
        self._port = port
        self._thread: threading.Thread | None = None

    def start(self) -> str:
        """Listen, and return the address as a URL.

        Raises:
            ConfigError: The port cannot be listened on.
        """
        listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="budget-demo-server", daemon=True
        )
        self._thread.start()
        try:
            return f"http://{HOST}:{listening.result()}"
        except (OSError, OverflowError) as error:
            self._thread.join()
            raise ConfigError(f"port: cannot listen on {HOST}:{self._port} ({error}); 0 takes a free one") from None

    def stop(self) -> None:
        """Drop every connection and end the thread."""
        if self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    async def _serve(self, listening: Future[int]) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        try:
            listener = await self._loop.create_server(lambda: _Connection(self), HOST, self._port, backlog=_BACKLOG)
        except (OSError, OverflowError) as error:
            listening.set_exception(error)
            return
        listening.set_result(listener.sockets[0].getsockname()[1])
        await self._stopping.wait()
        listener.close()
        for connection in tuple(self.connections):
            connection.drop()  # its socket closes in the loop's next turn, which `asyncio.run` makes as it ends


class _Connection(asyncio.Protocol):
    """One client's connection: collects bytes into requests and runs the handler for one at a time."""

    def __init__(self, server: Server):
        self._server = server
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._task is not None:
            self._answer.lost = True
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._task is None:
            self._next()

    def drop(self) -> None:
        """Close at once; the handler is cancelled, and its answer does not count as lost by the client."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._transport.abort()

    def _next(self) -> None:
        try:
            request = _take(self._received)
        except _Malformed as error:
            self._transport.write(_head(error.status, {"content-length": "0", "connection": "close"}))
            self._transport.close()
            return
        if request is not None:
            self._answer = Answer(self._transport)
            self._task = asyncio.get_running_loop().create_task(self._run(request, self._answer))

    async def _run(self, request: Request, answer: Answer) -> None:
        try:
            await self._server.handler(request, answer)
        finally:
            self._task = None
            answer.flush()
            if not answer.finished or request.headers.get("connection", "").lower() == "close":
                self._transport.close()
        self._next()


class _Malformed(Exception):
    def __init__(self, status: int):
        self.status = status


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} \r\n{lines}\r\n".encode("latin-1")


def _take(received: bytearray) -> Request | None:
    """Remove the first whole request from what was received; None while there is none."""
    head_end = received.find(b"\r\n\r\n")
    if head_end < 0:
        if len(received) > _HEAD_MAX:
            raise _Malformed(431)
        return None
    first, *lines = received[:head_end].decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        method, target, _version = first.split(" ")
        found = _body(received, head_end + 4, headers)
    except ValueError:
        raise _Malformed(400) from None
    if found is None:
        return None
    body, end = found
    del received[:end]
    path, _, query = target.partition("?")
    return Request(method, path, query, headers, body)


def _body(received: bytearray, start: int, headers: Mapping[str, str]) -> tuple[bytes, int] | None:
    """The body that begins at `start`, and where it ends; None while it is incomplete."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        if len(received) - start > _BODY_MAX:
            raise _Malformed(413)
        return _chunks(received, start)
    length = _size(headers.get("content-length", "0"), 10)
    end = start + length
    return None if len(received) < end else (bytes(received[start:end]), end)


def _chunks(received: bytearray, at: int) -> tuple[bytes, int] | None:
    body = bytearray()
    while (line_end := received.find(b"\r\n", at)) >= 0:
        size = _size(received[at:line_end].partition(b";")[0].decode("latin-1"), 16)
        if size == 0:  # the last chunk; trailers may follow, up to an empty line
            end = received.find(b"\r\n\r\n", line_end)
            return None if end < 0 else (bytes(body), end + 4)
        at = line_end + 2 + size + 2
        body += received[line_end + 2 : at - 2]
    return None


def _size(text: str, base: int) -> int:
    size = int(text, base)
    if not 0 <= size <= _BODY_MAX:
        raise _Malformed(413)
    return size
