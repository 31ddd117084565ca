"""What may pass a wrapped client: paths, attempts that nobody reserved for, and the time that a run has left.

A POST path that is refused, or not known, passes where money was set aside by hand, with a block of
`budget.reservation(...)` around it: who opened the block says what it cost. So does one of media, of whose models only
some can be metered, and a batch of a file that nobody saw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from budget.clients.call import Call
from budget.clients.protocol import Protocol
from budget.errors import Unbounded
from budget.guard import set_aside
from budget.run import current

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["HOW", "by_hand", "endpoint_of", "hand_deadline", "passing", "unreserved"]

HOW = 'set money aside for it: with budget.reservation("$1"): ...'
"""What to do about what is refused."""
_MEDIA = ("images", "speech", "transcriptions")
_PASSES: ContextVar[bool] = ContextVar("budget_passes", default=False)


@contextmanager
def passing(protocol: Protocol) -> Iterator[None]:
    """Let the attempts of a request through that passed as what it was made for; its SDK may send it elsewhere."""
    token = _PASSES.set(protocol.site.rewrites)
    try:
        yield
    finally:
        _PASSES.reset(token)


def by_hand(budget: Budget) -> bool:
    """Whether a block of `budget.reservation(...)` is open around this."""
    return set_aside(budget.engine)


def endpoint_of(
    budget: Budget, protocol: Protocol, method: str, url: str, body: Callable[[], Mapping[str, Any]]
) -> str | None:
    """Return the endpoint of a request that is metered or late, None if it passes.

    Args:
        body: Returns the request's body, which hardly any decision needs.

    Raises:
        Unbounded: It may cost money, nobody knows how much, and none was set aside by hand.
    """
    if method.upper() != "POST" or budget.settings.disabled:
        return None
    path = _path(url)
    endpoint = protocol.endpoint(path)
    if endpoint in _MEDIA and by_hand(budget):
        return None
    if endpoint is None and not by_hand(budget):
        what = f"POST {path[:100]} is not metered in this version"
        raise Unbounded([f"{what}: {protocol.reason(path)}; {HOW}"])
    if endpoint == "batches" and by_hand(budget):
        from budget.clients.late.files import is_unseen  # which itself says how to do it by hand

        return None if is_unseen(budget, body()) else endpoint
    return endpoint or None


def unreserved(budget: Budget, protocol: Protocol, client: Any, request: Any) -> Call | None:
    """Return a call for an attempt that nobody reserved for, None if it passes.

    Raises:
        Unbounded: It may cost money, and its body is not known, or its cost not when it is answered.
    """
    if _PASSES.get():
        return None
    path = request.url.path.removeprefix(client.base_url.path.rstrip("/"))

    def read() -> Any:
        try:
            return json.loads(request.content)
        except Exception:
            raise Unbounded([f"the body of {path[:100]} cannot be read before it is sent"]) from None

    endpoint = endpoint_of(budget, protocol, request.method, path, read)
    if endpoint is None:
        return None
    body = read()
    if endpoint == "batches" or body.get("background"):
        raise Unbounded([f"{path[:100]} is answered later, and went around the client's own `request`"])
    return Call(budget, protocol, endpoint, body, fixed=True)


def hand_deadline(request: Any) -> None:
    """Let an attempt take no longer than its run has left; each of the SDK's own timeouts stays if it is shorter.

    Raises:
        RunStopped: Nothing is left: the SDK would retry.
    """
    run = current()
    left = None if run is None else run.remaining_seconds()
    if run is None or left is None:
        return
    run.check_guards()
    given = request.extensions.get("timeout") or {}
    parts = {part: given.get(part) for part in ("connect", "read", "write", "pool")}
    shorter = {part: left if seconds is None else min(seconds, left) for part, seconds in parts.items()}
    request.extensions = {**request.extensions, "timeout": shorter}


def _path(url: str) -> str:
    """Return the path of a request's URL, without the query."""
    path = url.partition("?")[0]
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    return path if path.startswith("/") else f"/{path}"
