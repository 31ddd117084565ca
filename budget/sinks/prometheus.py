"""Prometheus: figures of all calls for a scrape, made from the ledger, and how full the limits are.

Counters begin at 0 with their process and count what it is told of: the first time from now on, later from where the
last process stopped, so a call is counted once, over restarts and hand-overs to another process. Prometheus takes a
counter that begins anew for what it is (`rate`, `increase`); what was counted after the last scrape of a process that
ended is the one thing it does not see. A counter never goes down, so money that a later entry took back is a counter of
its own.

Series are bounded: no user, no session, no run is a label, also not in the text of a limit, and of every other label
the first 100 values are kept apart; later ones are "other". Alerts about single users are `budget alerts`' matter.
"""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from budget.errors import ArgumentTypeError, ConfigError
from budget.sinks.base import Batch, SinkFailed, Spec, check_name, need
from budget.sinks.figures import Figures

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from budget.core import Engine

__all__ = ["PORT", "Prometheus"]

PORT = 9464
"""The port of OpenTelemetry's exporter for Prometheus, which is free where that one is not used."""


class Prometheus:
    """A sink that is scraped.

    Args:
        host, port: Where `/metrics` is served; port 0 takes any that is free. Only the process that holds the sink's
            lock serves it: of several on one machine, one.
        registry: Where the figures are put instead, to be served with those of the program. Then nothing is served
            here, and `host` and `port` mean nothing.
        name: Its place in the ledger is kept under it.

    Attributes:
        port: The port that is served, once it is; the one given before.

    Raises:
        ConfigError, ArgumentTypeError: An argument cannot be used, or `prometheus_client` is not installed.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = PORT,
        *,
        registry: CollectorRegistry | None = None,
        name: str = "prometheus",
    ):
        need("prometheus_client", "prometheus")
        if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
            raise ArgumentTypeError("sinks: prometheus is given a host as text and a port as int")
        if not 0 <= port <= 65535:
            raise ConfigError(f"sinks: {port} is not a port from 0 to 65535")
        self.name, self.host, self.port = check_name(name), host, port
        self._given = registry
        self._engine: Engine | None = None
        self._figures: Figures | None = None
        self._server: Any = None

    @classmethod
    def of(cls, spec: Spec) -> Prometheus:
        """Make one of text: "prometheus://127.0.0.1:9464".

        Raises:
            ConfigError: The text means nothing.
        """
        name = spec.name()
        spec.done()
        try:
            parts = urlsplit(spec.target)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or parts.path not in ("", "/", "/metrics") or parts.username is not None:
            raise ConfigError(
                "sinks: Prometheus is written as prometheus://HOST:PORT, such as prometheus://127.0.0.1:9464"
            )
        return cls(host, PORT if port is None else port, name=name)

    def attach(self, engine: Engine) -> None:
        """Begin to count, from 0."""
        self._engine = engine
        self._since, self._last = engine.verbs.now(), 0
        if self._figures is not None:
            self._figures.drop()
        self._figures = Figures(self._given)

    def resume(self, account: str, kept: int) -> int:
        """Go on from the place that was kept; the first time, from when this process began."""
        self._serve()
        if kept or self._last:  # the place may not have moved with what was counted
            return max(kept, self._last)
        books = self._begun.books
        if books.records is not None and books.records.cursor(account) is None:
            books.drain_step(trim=False)  # or the numbers would be the server's
        last = books.ledger().last(account)
        first = next(iter(books.entries(self._since)), None)
        return last if first is None else max(0, first.seq - 1)

    def write(self, batch: Batch) -> None:
        """Count what is in a batch."""
        self._serve()
        assert self._figures is not None
        for entry, change in batch.changes:
            self._figures.count(entry, change)
        self._last = batch.last

    def tick(self, now_us: int) -> None:
        """Look at the limits, if it is time to."""
        self._serve()
        assert self._figures is not None
        self._figures.look(self._begun)

    def close(self) -> None:
        """Serve no longer."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def forked(self) -> None:
        """Leave the port to the parent: nobody would answer here, and its connections would wait for that."""
        if self._server is not None:
            self._server.socket.close()
            self._server = None

    @property
    def _begun(self) -> Engine:
        if self._engine is None:
            raise ConfigError("sinks: Prometheus must be given to Budget(sinks=[...]) before it can count")
        return self._engine

    def _serve(self) -> None:
        if self._given is not None or self._server is not None:
            return
        from prometheus_client import start_http_server

        assert self._figures is not None
        try:
            self._server, _ = start_http_server(self.port, self.host, self._figures.registry)
        except OSError as error:
            raise SinkFailed(f"nothing can be served on {self.host}:{self.port} ({error.strerror})") from error
        self.port = self._server.server_port
        _SERVING.add(self)


_SERVING: weakref.WeakSet[Prometheus] = weakref.WeakSet()


def _forked() -> None:
    for sink in list(_SERVING):
        sink.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
