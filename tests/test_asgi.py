"""Refusals as HTTP 402 in ASGI applications."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from budget import Budget, BudgetExceeded, StoreUnavailable
from budget.asgi import RefusedAs402

App = Callable[[Any, Any, Any], Awaitable[None]]


@pytest.fixture
def b() -> Iterator[Budget]:
    with Budget("memory://", limits=["user=alice $1/day", "user=bob $1/lifetime"]) as made:
        yield made


def ask(app: App, kind: str = "http") -> list[dict[str, Any]]:
    """Send a request to an application behind the middleware; return what it sent."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(RefusedAs402(app)({"type": kind, "path": "/"}, receive, send))  # type: ignore[arg-type]
    return sent


def spending(b: Budget, user: str, usd: str, *, first: bool = False) -> App:
    """An application that spends, before or after its answer has begun."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": []}
        if first:
            await send(start)
        await b.aio.reserve(usd, user=user)
        if not first:
            await send(start)
        await send({"type": "http.response.body", "body": b"done"})

    return app


def test_what_fits_is_left_alone(b: Budget) -> None:
    assert [message.get("status", message.get("body")) for message in ask(spending(b, "alice", "$1"))] == [200, b"done"]


def test_a_refusal_is_402_with_numbers(b: Budget) -> None:
    b.reserve("$0.50", user="alice")
    start, body = ask(spending(b, "alice", "$0.60"))
    headers = dict(start["headers"])
    assert (start["type"], start["status"]) == ("http.response.start", 402)
    assert headers[b"content-type"] == b"application/json"
    assert int(headers[b"content-length"]) == len(body["body"])
    assert 1 <= int(headers[b"retry-after"]) <= 24 * 3600
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$0.60", user="alice")
    assert json.loads(body["body"]) == caught.value.to_dict()


@pytest.mark.parametrize(("user", "usd"), [("alice", "$2"), ("bob", "$2")])
def test_what_will_never_fit_is_not_worth_a_retry(b: Budget, user: str, usd: str) -> None:
    start, body = ask(spending(b, user, usd))
    assert (start["status"], json.loads(body["body"])["verdict"]) == (402, "never")
    assert b"retry-after" not in dict(start["headers"])


def test_an_answer_that_has_begun_cannot_become_another(b: Budget) -> None:
    with pytest.raises(BudgetExceeded):
        ask(spending(b, "alice", "$2", first=True))


def test_refusals_of_a_task_group(b: Budget) -> None:
    def group(*more: Exception) -> App:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def fail(error: Exception) -> None:
                raise error

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(b.aio.reserve("$2", user="alice"))
                for error in more:
                    tasks.create_task(fail(error))

        return app

    assert ask(group())[0]["status"] == 402
    with pytest.raises(ExceptionGroup):
        ask(group(ValueError("another")))


def test_other_errors_and_other_connections_go_on(b: Budget) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise StoreUnavailable("away")

    async def socket(scope: Any, receive: Any, send: Any) -> None:
        await b.aio.reserve("$2", user="alice")

    with pytest.raises(StoreUnavailable):
        ask(broken)
    with pytest.raises(BudgetExceeded):
        ask(socket, "websocket")


def test_behind_a_real_server_and_framework(b: Budget) -> None:
    pytest.importorskip("starlette")
    uvicorn = pytest.importorskip("uvicorn")
    import threading
    import time
    from http.client import HTTPConnection

    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def chat(request: Any) -> Any:
        await b.aio.reserve("$0.60", user="alice")
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", chat)])
    app.add_middleware(RefusedAs402)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        answers = []
        for _ in range(2):
            connection = HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/")
            answer = connection.getresponse()
            answers.append((answer.status, answer.headers["retry-after"] is not None, answer.read()))
            connection.close()
    finally:
        server.should_exit = True
        thread.join()
    assert answers[0] == (200, False, b"done")
    assert answers[1][:2] == (402, True)
    assert json.loads(answers[1][2])["limit"] == "user=alice $1/day"
