"""Refusals as HTTP answers, for any ASGI application: 402 with the numbers, before an answer has begun.

Starlette and FastAPI take it with `app.add_middleware(RefusedAs402)`, any other application is wrapped:
`app = RefusedAs402(app)`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from budget.errors import BudgetExceeded

__all__ = ["RefusedAs402"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class RefusedAs402:
    """Middleware that answers a request whose handling a budget refused with status 402 and `e.to_dict()` as JSON.

    `Retry-After` says when the window ends in which it would fit, if it ever does. A task group's error is answered,
    too, if it consists of refusals alone. Once an answer has begun nothing can be done, and the error goes on. What is
    sent names the limit, the subject and the call's scope: whoever must not see those needs a handler of the
    application's own.

    Args:
        app: The application.
    """

    def __init__(self, app: App):
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle one connection; what is not HTTP is passed on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watch(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            refused = _refusal(error)
            if begun or refused is None:
                raise
            await _answer(refused, send)


def _refusal(error: BaseException) -> BudgetExceeded | None:
    """Return the refusal that an error is, or the first one of a group of nothing else."""
    if not isinstance(error, BaseExceptionGroup):
        return error if isinstance(error, BudgetExceeded) else None
    found = [_refusal(each) for each in error.exceptions]
    return found[0] if all(found) else None


async def _answer(refused: BudgetExceeded, send: Send) -> None:
    body = json.dumps(refused.to_dict()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if refused.resets_at is not None and refused.verdict == "wait":
        seconds = max(1, math.ceil(refused.resets_at.timestamp() - time.time()))
        headers.append((b"retry-after", str(seconds).encode()))
    await send({"type": "http.response.start", "status": refused.http_status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
