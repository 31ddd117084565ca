"""What may pass a wrapped client: paths, attempts that nobody reserved for, and the time that a run has left.

Where money was set aside by hand, with a block of `budget.reservation(...)` around it, what is refused for want of a
bound or a price passes: who opened the block says what it cost. A path that is refused, or not known, does so at once;
one that is metered only if its own estimate finds no bound or no price, since what can be metered is, in a block too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from budget.clients.call import Call
from budget.clients.protocol import Protocol
from budget.clients.sending import is_passing
from budget.errors import Unbounded, UnknownModel
from budget.guard import set_aside
from budget.run import current

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["HOW", "UnlessByHand", "by_hand", "endpoint_of", "hand_deadline", "unreserved"]

HOW = 'set money aside for it: with budget.reservation("$1"): ...'
"""What to do about what is refused."""


def by_hand(budget: Budget) -> bool:
    """Whether a block of `budget.reservation(...)` is open around this."""
    return set_aside(budget.engine)


class UnlessByHand:
    """Blocks that what has no bound or no price just leaves, where money was set aside for it by hand.

    It keeps nothing of a block, and so one serves all: entering it costs next to nothing.
    """

    def __init__(self, budget: Budget):
        self._budget = budget

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Unbounded | UnknownModel) and by_hand(self._budget)


def endpoint_of(budget: Budget, protocol: Protocol, method: str, url: str) -> str | None:
    """Return the endpoint of a request that is metered or late, None if it passes.

    Raises:
        Unbounded: It may cost money, nobody knows how much, and none was set aside by hand.
    """
    if method.upper() != "POST" or budget.settings.disabled:
        return None
    path = _path(url)
    endpoint = protocol.endpoint(path)
    if endpoint is None and not by_hand(budget):
        what = f"POST {path[:100]} is not metered in this version"
        raise Unbounded([f"{what}: {protocol.reason(path)}; {HOW}"])
    return endpoint or None


def unreserved(budget: Budget, protocol: Protocol, client: Any, request: Any) -> Call | None:
    """Return a call for an attempt that nobody reserved for, None if it passes.

    Raises:
        Unbounded: It may cost money, and its body is not known, or its cost not when it is answered.
    """
    if is_passing():
        return None
    path = request.url.path.removeprefix(client.base_url.path.rstrip("/"))
    endpoint = endpoint_of(budget, protocol, request.method, path)
    if endpoint is None:
        return None
    body = _read(path, request)
    if endpoint == "batches" or body.get("background"):
        raise Unbounded([f"{path[:100]} is answered later, and went around the client's own `request`"])
    return Call(budget, protocol, endpoint, body, fixed=True)


def _read(path: str, request: Any) -> Mapping[str, Any]:
    try:
        body = json.loads(request.content)
    except Exception:
        body = None
    if not isinstance(body, Mapping):
        raise Unbounded([f"the body of {path[:100]} cannot be read before it is sent"])
    return body


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
