"""Provider: a small LLM provider on loopback, for `budget demo`, the tests and the benchmarks.

It answers like a real one, deterministically: usage follows from the request, the text is `w0 w1 w2 ...`, and latency,
errors, cuts and usage can be set, per server, by a script, or for one call by the header `x-demo` (see `Reply`).

    with Provider() as provider:
        client = Anthropic(base_url=provider.url, api_key="demo")

`server.py` is the HTTP below it. The protocols it speaks are `messages.py` (Anthropic), `chat.py` and `responses.py`
(OpenAI), `images.py` and `sound.py` (its images, speech and transcripts), and those of `others.py`; another one is one
more such file and its line there or in `_SPEECHES`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from budget.demo import chat, images, messages, others, responses, sound
from budget.demo.batches import Later, Lines
from budget.demo.reply import Reply
from budget.demo.seen import Seen, seen_of
from budget.demo.server import Answer, Request, Server
from budget.demo.turn import Rejected, Turn
from budget.errors import BudgetError

__all__ = ["Provider", "Reply", "Request", "Seen"]

_JSON = {"content-type": "application/json"}
_SSE = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}


class Speech(Protocol):
    """A module that puts answers into the words of one protocol."""

    def decide(self, body: object, reply: Reply, usual: int, id: str) -> Turn:
        """Decide the answer to a request's body, or raise `Rejected`."""
        ...

    def usage(self, turn: Turn) -> dict[str, Any] | None:
        """What a provider bills for the whole answer, as its usage block says it."""
        ...

    def whole(self, turn: Turn) -> dict[str, Any]:
        """The body of a whole answer."""
        ...

    def events(self, turn: Turn) -> Iterator[bytes]:
        """The SSE events of a streamed answer."""
        ...

    def error_event(self) -> bytes:
        """The event of an error inside a stream."""
        ...

    def error(self, status: int, message: str, request_id: str) -> dict[str, Any]:
        """The body of an HTTP error."""
        ...


_SPEECHES: dict[str, Speech] = {
    "/v1/messages": messages,
    "/v1/chat/completions": chat,
    "/v1/responses": responses,
    "/v1/embeddings": responses,
    "/v1/images/generations": images,
}
_COUNTERS = {
    "/v1/messages/count_tokens": messages.count_tokens,
    "/v1/responses/input_tokens": responses.count_tokens,
}


class Provider:
    """A provider on a free loopback port, in its own thread, running while the `with` block does.

    Args:
        latency: Seconds before the first byte of every answer, where its Reply does not say.
        output_tokens: Output of every answer whose request allows so much, where its Reply does not say.
        script: Decides the Reply of each call; it runs in the server's thread and must not block. The header `x-demo`
            still changes what it returns. An exception in it is answered with status 400, which no SDK retries.
        port: The port to listen on; 0 takes a free one.

    Attributes:
        url: The base URL for a client; present once the block is entered.
        later: What is answered late: batches and background responses.
        requests: Every request since the start or the last `clear`, in the order of arrival.

    Raises:
        ArgumentTypeError: An amount that is not a number.
        ConfigError: A negative amount; on entering, a port that cannot be listened on.
    """

    url: str

    def __init__(
        self,
        *,
        latency: float = 0.0,
        output_tokens: int = 40,
        script: Callable[[Request], Reply] | None = None,
        port: int = 0,
    ):
        Reply(latency=latency, output=output_tokens)  # raises where one of them is wrong
        default = Reply()
        self._latency, self._output_tokens = latency, output_tokens
        self._script = script or (lambda request: default)
        self._server = Server(self._handle, port)
        self._ids = itertools.count(1)
        self._attempts: Counter[str] = Counter()
        self._busy = 0
        self.later = Later(output_tokens)
        self.requests: list[Seen] = []

    def __enter__(self) -> Self:
        self.url = self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def clear(self) -> None:
        """Forget the requests seen and the attempts counted so far."""
        self.requests.clear()
        self._attempts.clear()

    def wait(self, timeout: float = 5.0) -> None:
        """Block until no request is being answered, so that `events_sent` and `disconnected` are final.

        Raises:
            TimeoutError: One still is after so many seconds.
        """
        until = time.monotonic() + timeout
        while self._busy:
            if time.monotonic() > until:
                raise TimeoutError(f"{self._busy} requests are still being answered after {timeout} s")
            time.sleep(0.001)

    async def _handle(self, request: Request, answer: Answer) -> None:
        self._busy += 1
        seen = seen_of(request, f"req_demo{next(self._ids):08d}")
        self.requests.append(seen)
        try:
            await self._respond(request, answer, seen)
        except Rejected as no:
            _send_error(answer, seen, no.status, no.message)
        except asyncio.CancelledError:
            seen.disconnected = answer.lost
            raise
        finally:
            self._busy -= 1

    async def _respond(self, request: Request, answer: Answer, seen: Seen) -> None:
        reply = self._reply(request)
        attempt = self._attempt(seen)
        if latency := self._latency if reply.latency is None else reply.latency:
            await asyncio.sleep(latency)
        if reply.hang is not None:
            await asyncio.sleep(reply.hang)
            return
        status = reply.status
        if reply.fail_first and attempt <= reply.fail_first[0]:
            status = reply.fail_first[1]
        if status != 200:
            _send_error(answer, seen, status, "x-demo asked for this error", reply.retry_after)
            return
        told = self.later.answer(request, reply, seen.request_id.removeprefix("req_"))
        if told is None:
            await self._at_once(request, reply, answer, seen)
        else:
            _send_late(told, reply, answer, seen)

    async def _at_once(self, request: Request, reply: Reply, answer: Answer, seen: Seen) -> None:
        match request.method, request.path:
            case "POST", "/v1/embeddings":
                body, seen.usage = responses.embeddings(_body(request), reply)
                if reply.cut is None:
                    _send_json(answer, seen, 200, body)
            case "POST", path if path in sound.PATHS:
                await self._media(request, reply, answer, seen)
            case "POST", path if path in _SPEECHES:
                await self._answer(_SPEECHES[path], _body(request), reply, answer, seen)
            case "POST", path if (other := others.route(path)) is not None:
                await self._elsewhere(other, request, reply, answer, seen)
            case "POST", path if path in _COUNTERS:
                counted = _COUNTERS[path](_body(request))
                counted |= {} if reply.input is None else {"input_tokens": reply.input}
                if reply.cut is None:
                    _send_json(answer, seen, 200, counted)
            case "GET", "/v1/models":
                _send_json(answer, seen, 200, messages.models())
            case method, path:
                raise Rejected(404, f"{method} {path}: there is no such endpoint here")

    async def _media(self, request: Request, reply: Reply, answer: Answer, seen: Seen) -> None:
        """Answer what comes as a form, or is answered with sound."""
        if request.path.endswith("/speech"):
            made, seen.usage = sound.speech(_body(request))
            if reply.cut is None:
                _send(answer, seen, "audio/mpeg", made)
            return
        fields = sound.form(request)
        seen.model, seen.stream = fields.get("model"), fields.get("stream") == "true"
        if request.path.endswith("/edits"):
            await self._answer(images, fields, reply, answer, seen)
            return
        told, seen.usage = sound.transcript(fields)
        if fields.get("response_format") == "text":
            _send(answer, seen, "text/plain", told["text"].encode())
        else:
            _send_json(answer, seen, 200, told if reply.usage else {"text": told["text"]})

    async def _elsewhere(
        self, other: others.Route, request: Request, reply: Reply, answer: Answer, seen: Seen
    ) -> None:
        body: Any = _body(request)
        if other.model:
            body, seen.model = {**body, "model": other.model}, other.model
        if other.stream is not None:
            seen.stream = other.stream
        if other.speech is not None:
            await self._answer(other.speech, body, reply, answer, seen)
        else:
            embedded, seen.usage = others.embeddings(body, request.path, reply.usage)
            _send_json(answer, seen, 200, embedded)

    async def _answer(self, speech: Speech, body: object, reply: Reply, answer: Answer, seen: Seen) -> None:
        turn = speech.decide(body, reply, self._output_tokens, seen.request_id.removeprefix("req_"))
        seen.usage = speech.usage(turn)
        if seen.stream:
            await _stream(speech, turn, answer, seen)
        elif reply.cut is None:
            _send_json(answer, seen, 200, speech.whole(turn))

    def _reply(self, request: Request) -> Reply:
        try:
            return self._script(request).steered(request.headers.get("x-demo", ""))
        except BudgetError as error:
            raise Rejected(400, str(error)) from None
        except Exception as error:  # the caller's code; this thread has nobody else to tell
            raise Rejected(400, f"script raised {type(error).__name__}") from None

    def _attempt(self, seen: Seen) -> int:
        if seen.tag is None:
            return seen.retry_count + 1
        self._attempts[seen.tag] += 1
        return self._attempts[seen.tag]


def _body(request: Request) -> object:
    try:
        body: object = request.json
    except ValueError:
        raise Rejected(400, "the body is not JSON") from None
    return body


async def _stream(speech: Speech, turn: Turn, answer: Answer, seen: Seen) -> None:
    reply, events = turn.reply, list(speech.events(turn))
    if reply.error_event is not None:
        events = [*events[: reply.error_event], speech.error_event()]
    if reply.cut is not None or reply.stall is not None:
        events = events[: reply.cut if reply.stall is None else reply.stall]
    seen.status = 200
    answer.begin(200, {**getattr(speech, "HEADERS", _SSE), **_ids(seen)})
    for event in events:
        if reply.pace:
            answer.flush()
            await asyncio.sleep(reply.pace)
        seen.events_sent += 1  # before it leaves: the client may look at the log as soon as it has the event
        answer.send(event)
    if reply.stall is not None:
        answer.flush()
        await asyncio.Event().wait()
    if reply.cut is None:
        answer.end()


def _send_late(told: dict[str, Any] | Lines | bytes, reply: Reply, answer: Answer, seen: Seen) -> None:
    if isinstance(told, dict):
        if reply.cut is None:
            _send_json(answer, seen, 200, told)
        return
    seen.status = 200
    answer.begin(200, {**(_SSE if isinstance(told, bytes) else {"content-type": "application/x-jsonl"}), **_ids(seen)})
    for part in [told] if isinstance(told, bytes) else told[: reply.cut]:
        answer.send(part if isinstance(part, bytes) else json.dumps(part).encode() + b"\n")
    if reply.cut is None:
        answer.end()


def _send_json(
    answer: Answer, seen: Seen, status: int, body: dict[str, Any], headers: Mapping[str, str] | None = None
) -> None:
    seen.status = status
    answer.whole(status, {**_JSON, **_ids(seen), **(headers or {})}, json.dumps(body).encode())


def _send(answer: Answer, seen: Seen, kind: str, body: bytes) -> None:
    seen.status = 200
    answer.whole(200, {"content-type": kind, **_ids(seen)}, body)


def _send_error(answer: Answer, seen: Seen, status: int, message: str, retry_after: float | None = None) -> None:
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    other = others.route(seen.path)
    known = chat if seen.path in sound.PATHS else _SPEECHES.get(seen.path, messages)
    speech = known if other is None else other.speech or chat
    _send_json(answer, seen, status, speech.error(status, message, seen.request_id), headers)


def _ids(seen: Seen) -> dict[str, str]:
    return {"request-id": seen.request_id, "x-request-id": seen.request_id}
