"""Seen: the demo provider's log of its requests, one entry each."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from budget.demo.server import Request

__all__ = ["Seen", "seen_of"]

_BOUNDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_HEADERS_KEPT = ("x-stainless-", "x-demo", "anthropic-", "idempotency-key", "user-agent")  # no key, no cookie


@dataclass(slots=True)
class Seen:
    """One HTTP request as it arrived, and what became of it. Holds no text of the request, only sizes.

    Attributes:
        method: GET, POST ...
        path: Without the query.
        query: Without the question mark.
        headers: Those of interest, names in lower case; never a key.
        request_id: The id that the answer's headers `request-id` and `x-request-id` carry.
        at: When it arrived, in seconds since the epoch.
        body_bytes: The body's size.
        model: As asked for; None where the request names none.
        stream: Whether events were asked for.
        max_tokens: The request's bound, or None.
        tag: Its header `x-demo-tag`, by which a test knows its calls.
        status: The HTTP status of the answer; None where none was sent.
        usage: What a provider would bill for a whole answer, as the answer's own usage block says it; None for
            anything that is not an answer. Present also where `usage=none` kept it from the client.
        events_sent: How many SSE events have left, pings and an `error` event counted too.
        disconnected: The client went away before the answer was complete.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    request_id: str
    at: float
    body_bytes: int
    model: str | None = None
    stream: bool = False
    max_tokens: int | None = None
    tag: str | None = None
    status: int | None = None
    usage: dict[str, Any] | None = None
    events_sent: int = 0
    disconnected: bool = False

    @property
    def retry_count(self) -> int:
        """Which attempt of its logical call this is, as the SDK says; 0 is the first."""
        count = self.headers.get("x-stainless-retry-count", "")
        return int(count) if count.isdecimal() else 0


def seen_of(request: Request, request_id: str) -> Seen:
    """Take note of a request that has just arrived."""
    seen = Seen(
        method=request.method,
        path=request.path,
        query=request.query,
        headers={name: value for name, value in request.headers.items() if name.startswith(_HEADERS_KEPT)},
        request_id=request_id,
        at=time.time(),
        body_bytes=len(request.body),
        tag=request.headers.get("x-demo-tag"),
    )
    try:
        body = request.json
    except ValueError:
        return seen
    if isinstance(body, dict):
        model, bounds = body.get("model"), (body.get(name) for name in _BOUNDS)
        seen.model = model if isinstance(model, str) else None
        seen.max_tokens = next((bound for bound in bounds if type(bound) is int), None)
        seen.stream = body.get("stream") is True
    return seen
