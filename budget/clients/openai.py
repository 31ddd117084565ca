"""OpenAI's API: what is sent, and what the streams of chat, Responses and images report.

A stream says its usage in its last event alone. Responses always do; a chat stream only if `stream_options` asks, so we
ask, in a copy of the call's options, and keep the extra chunk to ourselves where the user did not ask for it. Only who
reads the bytes of a response himself (`iter_lines` and the like of a raw or streaming response) meets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from budget.asks import price
from budget.clients.flavours import Site
from budget.clients.meter import StreamMeter, fields_of
from budget.clients.protocol import Api, Meter
from budget.clients.stream import hide
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.errors import Unbounded
from budget.estimate import Estimate
from budget.estimator.openai_media import FILES
from budget.usage import Usage

__all__ = ["PROTOCOL"]

# What decides the input, of types/responses/input_token_count_params.py (SDK openai 3.54).
_COUNTED = frozenset({
    "model", "input", "instructions", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools", "truncation",
})  # fmt: skip


_FORMS = ("images", "transcriptions")
"""Endpoints whose requests may be forms with files."""
_DEFAULTED = (*_FORMS, "speech")
"""Endpoints that have a model for requests that name none. (So has a prompt that is stored with OpenAI.)"""


class _OpenAI(Api):
    sdk = "openai"
    prefix = "/v1"
    doors = ("websocket_base_url",)

    def body(self, endpoint: str, options: Any) -> Mapping[str, Any]:
        given = options.json_data
        other = given is not None and not isinstance(given, Mapping)
        no_form = options.files and endpoint not in _FORMS
        if other or getattr(options, "content", None) is not None or no_form:
            raise Unbounded([f"the body of {options.url[:100]} cannot be read before it is sent"])
        body = given or {}
        if (endpoint in _DEFAULTED or body.get("prompt")) and not isinstance(body.get("model"), str):
            raise Unbounded(["the request names no model, and which one answers it then is not known; name one"])
        if options.extra_json is not None:  # as the SDK does it: what the caller left out with `omit` is not sent
            body = {k: v for k, v in {**body, **options.extra_json}.items() if type(v).__name__ != "Omit"}
        return {**body, FILES: list(_files(options.files, endpoint))} if options.files else body

    def sent(self, endpoint: str, options: Any, body: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
        asked = body.get("stream_options") or {}
        if endpoint != "chat" or not body.get("stream") or not isinstance(asked, Mapping) or asked.get("include_usage"):
            if not changes:
                return options
            body = {name: value for name, value in body.items() if name != FILES}
            return options.model_copy(update={"json_data": {**body, **changes}, "extra_json": None})
        body = {**body, **changes, "stream_options": {**asked, "include_usage": True}}
        parse = options.post_parser

        def parser(parsed: Any) -> Any:
            if hasattr(type(parsed), "__stream__"):
                hide(parsed, _only_usage)
            return parse(parsed) if callable(parse) else parsed

        return options.model_copy(update={"json_data": body, "extra_json": None, "post_parser": parser})

    def question(self, endpoint: str, body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        if endpoint != "responses":
            return None
        return "/input_tokens", {name: value for name, value in body.items() if name in _COUNTED}

    def meter(self, endpoint: str, estimate: Estimate) -> Meter | None:
        kind = _METERS.get(endpoint)
        return None if kind is None else kind(estimate)


def _files(files: Any, endpoint: str) -> Iterator[tuple[str, bytes | None]]:
    """Yield the name of each file of a form and, where it matters, what is in it; none is used up by that."""
    for name, file in files.items() if isinstance(files, Mapping) else files:
        yield name, _peeked(file[1] if isinstance(file, tuple) else file) if endpoint == "transcriptions" else None


def _peeked(file: Any) -> bytes | None:
    if isinstance(file, bytes):
        return file
    try:
        if not file.seekable():
            return None
        at = file.tell()
        try:
            file.seek(0)  # as the SDK does before it sends it
            found = file.read()
        finally:
            file.seek(at)
    except (AttributeError, OSError, ValueError):
        return None
    return found if isinstance(found, bytes) else None


def _only_usage(chunk: Any) -> bool:
    fields = fields_of(chunk)
    return not fields.get("choices") and fields.get("usage") is not None


class ChatMeter(StreamMeter):
    """Reads the chunks of one chat stream."""

    output_name = "completion_tokens"

    def feed(self, chunk: Any) -> None:
        """Take note of one chunk."""
        if isinstance(chunk, Mapping) and chunk.get("error"):
            self.failed = True
            return
        choices, usage = chunk.choices or (), chunk.usage
        for choice in choices:
            self._delta(choice.index, choice.delta)
        if usage is not None or not self.answer:
            self.answer = {"model": chunk.model, "service_tier": chunk.service_tier}
        if usage is None:
            self.complete = self.complete and not choices
        else:  # some servers say their usage in every chunk: what is said before the end is not all
            self.usage = dict(fields_of(usage))
            self.complete = all(choice.finish_reason for choice in choices)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the first answer's text."""
        return place == (0, "content")

    def _delta(self, choice: int, delta: Any) -> None:
        self.begun = True
        for name, value in fields_of(delta).items():
            if not value or name == "role":
                continue
            self.hidden = self.hidden or name == "audio"  # how many tokens a piece of sound has, nobody knows
            if name == "tool_calls":
                for call in value:
                    self._function(call.function, (choice, call.index))
            elif name == "function_call":
                self._function(value, (choice, name))
            else:
                self.received(value, (choice, name))

    def _function(self, function: Any, place: object) -> None:
        if function is not None:
            self.received(function.name, place)
            self.received(function.arguments, place)


class ResponsesMeter(StreamMeter):
    """Reads the events of one stream of Responses."""

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        kind = event.type
        if kind.endswith(".delta"):
            self.begun = True
            self.hidden = self.hidden or "reasoning" in kind
            self.received(event.delta, (kind, getattr(event, "item_id", None)))
        elif kind == "response.output_item.added":
            self.begun = True
            self.hidden = self.hidden or event.item.type not in _SHOWN_ITEMS
        elif kind == "error":
            self.failed = True
        elif kind in _LIFECYCLE:
            self._response(kind, event.response)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the answer's text."""
        return isinstance(place, tuple) and place[0] == "response.output_text.delta"

    def _response(self, kind: str, response: Any) -> None:
        self.answer = {"model": response.model}
        if kind in _ENDS:
            self.finish()
            self.answer = dict(fields_of(response))  # its service tier and its calls of built-in tools count too
            self.usage = dict(fields_of(response.usage))
            self.complete = bool(self.usage)


class ImageMeter:
    """Reads the events of one stream of images, each of which says in the end what it took.

    Whoever leaves early is charged the whole reservation: what an image costs does not grow with what was received.
    """

    def __init__(self, estimate: Estimate):
        self._units, self._due = dict(estimate.units), estimate.measure.choices if estimate.measure else 1
        self._said: list[Usage] = []
        self._ended = self._failed = False

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        if str(event.type).endswith(".completed"):
            self._said.append(Usage.of({"type": event.type, "usage": event.usage}))
        elif event.type == "error":
            self._failed = True

    def finish(self) -> None:
        """Take note that the stream was read to its end."""
        self._ended = True

    def end(
        self, settings: Settings, reservation: Reservation, error: BaseException | None
    ) -> tuple[Amounts, dict[str, Any]] | None:
        """Return what the stream cost; None charges the whole reservation."""
        if self._failed or not self._said or (len(self._said) < self._due and not self._ended):
            return None
        parts = sum((Counter(usage.parts) for usage in self._said), Counter())
        tokens = {name: sum(getattr(usage, name) for usage in self._said) for name in ("input", "cache_read", "output")}
        usage = Usage(**tokens, parts=dict(parts), tools=self._units)
        return price(settings, usage, None, None, reservation, 0)


_SHOWN_ITEMS = ("message", "function_call", "custom_tool_call")
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_LIFECYCLE = ("response.created", "response.in_progress", "response.queued", *_ENDS)
_METERS: Mapping[str, Callable[[Estimate], Meter]] = {
    "chat": ChatMeter, "responses": ResponsesMeter, "images": ImageMeter
}  # fmt: skip
PROTOCOL = _OpenAI(Site("openai"))
