"""What all requests of a batch can cost together, at the batch price, before it is submitted.

Requests are estimated one by one, each at the price of the mode `service_tier = "batch"` in the price book, and
nothing of them is kept but sums. A batch is of one model, because its one reservation is held to that model's limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from budget.clients.meter import fields_of
from budget.clients.protocol import Protocol
from budget.commands import Amounts
from budget.core import Engine
from budget.errors import ConfigError, Unbounded
from budget.estimate import Estimate
from budget.estimator.inline import spend
from budget.prices.rates import Rates
from budget.usage import Usage

__all__ = ["BATCH_TIER", "Batch", "batch_of", "requests_of_file", "requests_of_messages"]

Request = tuple[str, str, Mapping[str, Any]]
"""A request of a batch: its place ("requests[3]"), its endpoint, its body."""
BATCH_TIER = {"service_tier": "batch"}
"""The traits of what is answered in a batch."""
_CHARACTERS = 500  # what a request takes besides its texts, in characters that would take as long to be counted
_SHOWN = 8  # reasons that a refusal lists
_NOTHING: Amounts = (0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What is known of a batch before it runs.

    Attributes:
        estimate: Of all requests together.
        requests: How many there are.
        largest: The most that one of them can take, per unit: what a cap is held to.
        site: What the provider's place adds to the traits that decide the price.
    """

    estimate: Estimate
    requests: int
    largest: Amounts
    site: Mapping[str, str]


def requests_of_messages(body: Mapping[str, Any]) -> Iterator[Request]:
    """Iterate the requests of a Message Batch.

    Raises:
        ConfigError: The body is not of that shape.
    """
    given = body.get("requests")
    if not isinstance(given, list | tuple):
        raise ConfigError("requests: must be a list of requests, each with custom_id and params")
    for i, request in enumerate(given):
        params = fields_of(request).get("params")
        if not isinstance(params, Mapping):
            raise ConfigError(f"requests[{i}].params: must be the fields of a message")
        yield f"requests[{i}]", "messages", params


def requests_of_file(file: Any, protocol: Protocol) -> Iterator[Request]:
    """Iterate the requests of a batch file, as it is uploaded: bytes, text, or a file that can be read again.

    Raises:
        Unbounded: It cannot be read before it is sent, or a line is for a path that is not metered.
        ConfigError: A line is no request.
    """
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            url, body = request["url"], request["body"]
        except (ValueError, TypeError, KeyError):
            raise ConfigError(f"line {number} of the batch file: must be JSON with custom_id, url and body") from None
        endpoint = protocol.endpoint(url) if isinstance(url, str) and isinstance(body, Mapping) else None
        if endpoint not in ("chat", "responses", "embeddings"):
            raise Unbounded([f"line {number} of the batch file: {str(url)[:60]} is not metered in a batch"])
        yield f"line {number}", endpoint, body


def _lines(file: Any) -> Iterator[bytes | str]:
    content = file[1] if isinstance(file, tuple) else file
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes):
        yield from BytesIO(content)
    elif getattr(content, "seekable", bool)():
        place = content.tell()
        try:
            content.seek(0)  # the HTTP library sends a file from its beginning, wherever it stands
            yield from content
        finally:
            content.seek(place)
    else:
        raise Unbounded(["a batch file that can be read only once; give its bytes, or a file that was opened"])


def batch_of(engine: Engine, protocol: Protocol, requests: Iterable[Request]) -> Batch:
    """Estimate all requests of a batch at the batch price. Makes no I/O, but for that of reading the requests.

    Raises:
        UnknownModel: A model has no price.
        Unbounded: A model has no batch price, a request has no bound, or there are requests of several models.
        ConfigError: A request is not of the API's shape, or there is none.
    """
    total = _Total(engine, protocol)
    for place, endpoint, body in requests:
        total.add(place, endpoint, protocol.priced(body, endpoint))
    return total.batch()


class _Total:
    """The sum of what the requests of a batch can cost."""

    def __init__(self, engine: Engine, protocol: Protocol):
        self._engine, self._protocol = engine, protocol
        self._now = engine.verbs.now()
        self._first: Estimate | None = None
        self._rows: tuple[Rates, ...] = ()
        self._sums = [0, 0, 0, 0, 0]  # input expected, at most; output at most; nano-dollars expected, at most
        self._largest = _NOTHING
        self._reasons: list[str] = []
        self._requests = 0

    def add(self, place: str, endpoint: str, body: Mapping[str, Any]) -> None:
        """Estimate one more request."""
        spend(_CHARACTERS)
        estimate = self._engine.estimate(body, self._protocol.provider, endpoint)
        if self._first is None:
            self._first, self._rows = estimate, self._rows_of(estimate)
        elif (estimate.model, estimate.priced) != (self._first.model, self._first.priced):
            models = f"{self._first.model} and {estimate.model}"
            raise Unbounded([f"{place}: a batch of several models ({models}); make one batch for each of them"])
        nanos, most = self._cost(estimate)
        if not estimate.closed and not self._engine.settings.disabled:
            allowance = self._engine.settings.allowance
            if allowance is None:
                self._reasons.extend(f"{place}: {reason}" for reason in estimate.reasons)
            most = max(most, allowance or 0)
        tokens, tokens_max, output = estimate.input_tokens, estimate.input_tokens_max, estimate.output_tokens_max
        found = (tokens, tokens_max, output, nanos, most)
        self._sums = [old + new for old, new in zip(self._sums, found, strict=True)]
        amounts = (most, tokens_max + output, tokens_max, output, 1)
        self._largest = tuple(map(max, self._largest, amounts))  # type: ignore[arg-type, assignment]
        self._requests += 1

    def batch(self) -> Batch:
        """Return what was found."""
        if self._first is None:
            raise ConfigError("requests: the batch has none")
        more = len(self._reasons) - _SHOWN
        reasons = (*self._reasons[:_SHOWN], *([f"{more} more"] if more > 0 else ()))
        first = self._first
        tokens, most, output, nanos, nanos_max = self._sums
        counts = (tokens, most, output, nanos, nanos_max)
        estimate = Estimate(first.model, first.provider, *counts, reasons, first.priced)
        return Batch(estimate, self._requests, self._largest, dict(self._protocol.traits))

    def _rows_of(self, estimate: Estimate) -> tuple[Rates, ...]:
        """Return the rates of a batch's model: those of now, and all that it may be billed at."""
        if not estimate.priced:
            return ()
        model = self._engine.settings.book.find(estimate.model, estimate.provider or None)
        rows = (model.rates(self._now), *model.bound_rates(self._now))
        if any("service_tier=batch" in rates.cost(Usage(traits=BATCH_TIER)).unpriced for rates in rows):
            raise Unbounded([f"{estimate.model} has no batch price; add one as a mode, in a file of prices"])
        return rows

    def _cost(self, estimate: Estimate) -> tuple[int, int]:
        """Return what a request is expected to cost at the batch price, and the most."""
        if not self._rows:
            return 0, 0
        now, *rows = self._rows
        measure, output = estimate.measure, estimate.output_tokens_max
        kinds = () if measure is None else measure.parts_named
        traits = {**self._protocol.traits, **dict(estimate.traits), **BATCH_TIER}
        ttls = estimate.cache_ttls
        found = [r.bound(estimate.input_tokens_max, output, cache_ttls=ttls, kinds=kinds, traits=traits) for r in rows]
        most = max(found)
        return min(now.plain_cost(estimate.input_tokens, output, traits), most), most
