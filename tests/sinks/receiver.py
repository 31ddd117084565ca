"""A server that takes what sinks post, and misbehaves as it is told to: errors, silence, cut connections, slowness."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any

__all__ = ["Receiver"]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def handle_error(self, *_: Any) -> None:
        """What a client that went away leaves is no news."""


class Receiver:
    """A server on a loopback port that stays its own, also while it is down.

    Attributes:
        mode: What the next requests get: "ok"; a status such as 503; "cut" (the connection goes before anything is
            taken), "taken, cut" (the same after it was taken), "hang" (nothing until `released`).
        taken: (path, headers, body) of each request that was taken.
        retry_after: The header, if any, of answers that are errors.
    """

    answer = 200

    def __init__(self) -> None:
        self.mode: str | int = "ok"
        self.retry_after: str | None = None
        self.taken: list[tuple[str, Mapping[str, str], bytes]] = []
        self.seen: Counter[str | int] = Counter()
        self.released = Event()
        self.lock = Lock()
        self._server: _Server | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        """Take a request; return status and body of the answer."""
        with self.lock:
            self.taken.append((path, headers, body))
        return self.answer, b""

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self.port = self._server.server_address[1]
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def kill(self) -> None:
        """Stop listening, and cut what is open."""
        server, self._server = self._server, None
        self.released.set()
        if server is not None:
            server.shutdown()
            server.server_close()

    close = kill


def _handler(receiver: Receiver) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            mode = receiver.mode
            receiver.seen[mode] += 1
            if receiver._server is None or mode == "cut":
                return self._cut()
            if mode == "hang":
                receiver.released.wait()
                return self._cut()
            if isinstance(mode, int):
                return self._say(mode, b"{}")
            status, said = receiver.take(self.path, dict(self.headers), body)
            if mode == "taken, cut":
                return self._cut()
            return self._say(status, said)

        def _say(self, status: int, said: bytes) -> None:
            self.send_response(status)
            if status >= 300 and receiver.retry_after is not None:
                self.send_header("Retry-After", receiver.retry_after)
            if status != 204:
                self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(b"" if status == 204 else said)

        def _cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    return Handler
