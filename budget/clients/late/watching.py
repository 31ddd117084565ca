"""Watching: answers that bring what a late answer has used are read as they pass, and end its reservation.

A watched request is an ordinary, free request of the user's: nothing is added to it, its result is what it would be,
and whatever goes wrong here is logged and leaves the reservation open. A result that is an object is read at once; one
that comes in parts (a JSONL decoder, a stream, the bytes of a raw response) passes through an iterator that reads along
and books when the last part has passed. Who stops before leaves the reservation open.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from budget.aio import off_loop
from budget.clients.late.along import Along, Lines, Taker, Whole, tap
from budget.clients.late.ends import batch_flow, response_flow, results_flow
from budget.clients.late.files import read_upload, remember
from budget.clients.late.links import Found, find
from budget.clients.late.results import Results
from budget.clients.meter import fields_of
from budget.clients.protocol import Protocol
from budget.clients.raw import content, unread
from budget.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from budget.clients.late.batches import Batch
    from budget.engine import Budget
    from budget.verbs import Flow

__all__ = ["Watch", "awatch", "watch"]

_log = logging.getLogger("budget")
_PATHS = {
    "anthropic": re.compile(r".*/messages/(batches)/([^/]+)(/results|/cancel|)"),
    "openai": re.compile(r"(?:/v1)?/(batches|responses|files)/([^/]+)(/cancel|/content|)"),
}
_KINDS = {
    ("anthropic", "batches", ""): "batch",
    ("anthropic", "batches", "/cancel"): "batch",
    ("anthropic", "batches", "/results"): "results",
    ("openai", "batches", ""): "batch",
    ("openai", "batches", "/cancel"): "batch",
    ("openai", "responses", ""): "response",
    ("openai", "responses", "/cancel"): "response",
    ("openai", "files", "/content"): "file",
}
_LONG = 1 << 20  # bytes of results that are read in a thread, where an event loop must not be held


def watch(budget: Budget, protocol: Protocol, options: Any) -> Watch | None:
    """Return what watches the answer of a request that costs nothing; None for all but a few."""
    found = _watched(budget, protocol, options)
    if isinstance(found, _Upload):
        found.read()
    return found


async def awatch(budget: Budget, protocol: Protocol, options: Any) -> Watch | None:
    """Like `watch`, without holding the event loop for long."""
    found = _watched(budget, protocol, options)
    if isinstance(found, _Upload):
        await off_loop(found.read)
    return found


def _watched(budget: Budget, protocol: Protocol, options: Any) -> Watch | None:
    method, path = options.method.upper(), options.url.partition("?")[0]
    sdk = protocol.sdk
    if method == "POST" and sdk == "openai" and path in ("/files", "/v1/files"):
        purpose = (options.json_data or {}).get("purpose") if isinstance(options.json_data, Mapping) else None
        return _Upload(budget, protocol, options.files) if purpose == "batch" else None
    match = _PATHS[sdk].fullmatch(path) if method in ("GET", "POST") and sdk in _PATHS else None
    if match is None or (method == "POST") != (match[3] == "/cancel"):
        return None
    kind = _KINDS.get((sdk, match[1], match[3]))
    if kind is None:
        return None
    return (_Lines if kind in ("results", "file") else _Object)(budget, sdk, kind, match[2])


class Watch:
    """Watches one answer. What reads along gives it each part (`take`), and then the end (`finish`)."""

    _spoilt = False

    def __init__(self, budget: Budget, sdk: str, kind: str, name: str):
        self._budget, self._engine, self._settings = budget, budget.engine, budget.settings
        self._sdk, self._kind, self._name = sdk, kind, name

    def passes(self, result: Any) -> Any:
        """Take note of a result, and return it."""
        try:
            first = self.first()
            if (first is None or self.begins(self._engine.drive(first))) and not self._read_along(result):
                self.whole(result)
                self.finish()
        except Exception as error:
            self._failed(error)
        return result

    async def apasses(self, result: Any) -> Any:
        """Like `passes`, without blocking the event loop."""
        try:
            first = self.first()
            if (first is None or self.begins(await self._engine.adrive(first))) and not self._read_along(result):
                await _off_loop(self.whole, result)
                await self.afinish()
        except Exception as error:
            self._failed(error)
        return result

    def first(self) -> Flow | None:
        """Return the steps that are to be taken before the answer is read, if there are any."""
        return None

    def begins(self, found: Any) -> bool:
        """Take note of what those steps returned, and say whether the answer is to be read."""
        return found is not None

    def whole(self, result: Any) -> None:
        """Take note of a result that is not to be read any more."""
        self.take(content(result))

    def take(self, part: Any) -> None:
        """Take note of an answer, or of an event or a result in it; what cannot be read leaves the reservation open."""
        try:
            self.note(part)
        except Exception as error:
            if not self._spoilt:
                self._failed(error)
            self._spoilt = True

    def note(self, part: Any) -> None:
        """Take note of a part."""

    def flow(self) -> Flow | None:
        """Return the steps that book what was taken note of, if there is anything."""
        return None

    def finish(self) -> None:
        """Book what was read."""
        try:
            if not self._spoilt and (flow := self.flow()) is not None:
                self._engine.drive(flow)
        except Exception as error:
            self._failed(error)

    async def afinish(self) -> None:
        """Like `finish`, without blocking the event loop."""
        try:
            if not self._spoilt and (flow := self.flow()) is not None:
                await self._engine.adrive(flow)
        except Exception as error:
            self._failed(error)

    def taker(self) -> Taker:
        """Return what makes parts of a raw response's bytes."""
        return Whole(self.take)

    def _read_along(self, result: Any) -> bool:
        """Read along with a result that comes in parts; False if it is here already."""
        if hasattr(type(result), "__stream__") or hasattr(type(result), "__decode__"):
            result._iterator = Along(result._iterator, self)
            return True
        if (response := unread(result)) is None:
            return False
        tap(response, self)
        return True

    def _failed(self, error: Exception) -> None:
        _log.warning("%s %s: what it cost is not booked now (%s)", self._kind, self._name[:60], error)


class _Object(Watch):
    """Watches a batch or a response, or the events of one."""

    _found: Mapping[str, Any] | None = None

    def note(self, part: Any) -> None:
        fields = fields_of(part)
        fields = fields_of(fields["response"]) if "response" in fields else fields
        if isinstance(fields.get("id"), str):
            self._found = fields

    def flow(self) -> Flow | None:
        steps = response_flow if self._kind == "response" else batch_flow
        found, self._found = self._found, None
        if found is None:
            return None
        return steps(self._engine.verbs, self._settings, self._sdk, self._name, found)


class _Lines(Watch):
    """Watches the results of a batch."""

    _link: Found
    _results: Results

    def first(self) -> Flow:
        return find(self._engine.verbs, self._sdk, "batch" if self._kind == "results" else "file", self._name)

    def begins(self, found: Found | None) -> bool:
        if found is None:
            return False
        self._link = found
        self._begin()
        return True

    def _begin(self) -> None:
        self._results, self._spoilt = Results(self._settings, self._link.main), False

    def note(self, part: Any) -> None:
        if part is None:
            raise ConfigError("a line of the results is not JSON")
        if self._kind == "results":
            self._results.message(part)
        else:
            self._results.line(part)

    def taker(self) -> Taker:
        self._begin()
        return Lines(self.take)

    def whole(self, result: Any) -> None:
        taker = self.taker()
        taker.feed(_bytes_of(result))
        taker.close()

    def flow(self) -> Flow:
        return results_flow(self._engine.verbs, self._sdk, self._link, self._results)


class _Upload(Watch):
    """Watches the upload of a batch file; `read` it before it is sent."""

    _requests: Batch | BudgetError
    _id: object = None

    def __init__(self, budget: Budget, protocol: Protocol, files: Any):
        super().__init__(budget, protocol.sdk, "upload", "")
        self._protocol, self._files = protocol, files

    def read(self) -> None:
        """Take note of what the requests in it can cost."""
        self._requests = read_upload(self._budget, self._protocol, self._files)

    def note(self, part: Any) -> None:
        self._id = fields_of(part).get("id")

    def flow(self) -> None:
        self._files = None
        if isinstance(self._id, str):
            remember(self._budget, self._id, self._requests)


async def _off_loop(work: Callable[[Any], None], result: Any) -> None:
    """Read a result that is here already, in a thread if it is long."""
    if len(_bytes_of(result)) < _LONG:
        work(result)
    else:
        import asyncio

        await asyncio.to_thread(work, result)


def _bytes_of(result: Any) -> bytes:
    """Return the bytes of a result that keeps those that it came as; of a model, none."""
    response = getattr(result, "http_response", None) or getattr(result, "response", None)
    found = getattr(response, "content", b"")
    return found if isinstance(found, bytes) else b""
