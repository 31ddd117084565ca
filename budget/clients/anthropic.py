"""Anthropic's API: what is sent, and what a Messages stream reports.

A stream says its input in `message_start` and its cumulative output in `message_delta`. What was received of one that
ends before its final `message_delta` says nothing about what is billed if the model may have reasoned out of sight, or
a server tool may have added input on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.clients.flavours import Site
from budget.clients.meter import StreamMeter, fields_of
from budget.clients.protocol import Api
from budget.errors import Unbounded
from budget.estimate import Estimate

__all__ = ["PROTOCOL"]

# What decides the input: types/message_count_tokens_params.py (SDK anthropic 2.12). Edits of a context only shrink it.
_COUNTED = frozenset({
    "model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format",
    "cache_control", "user_profile_id", "workspace_id",
})  # fmt: skip


class _Messages(Api):
    sdk = "anthropic"

    def body(self, endpoint: str, options: Any) -> Mapping[str, Any]:
        given, more = options.json_data, getattr(options, "extra_json", None)
        other = any(not isinstance(each, Mapping) for each in (given, more) if each is not None)
        if other or getattr(options, "content", None) is not None:
            raise Unbounded([f"the body of {options.url[:100]} cannot be read before it is sent"])
        return {**(given or {}), **(more or {})}

    def sent(self, endpoint: str, options: Any, body: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
        return options.model_copy(update={"json_data": {**body, **changes}, "extra_json": None}) if changes else options

    def question(self, endpoint: str, body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        if endpoint != "messages" or _is_elsewhere([body.get(name) for name in ("messages", "system")]):
            return None
        return "/count_tokens", {name: value for name, value in body.items() if name in _COUNTED}

    def meter(self, endpoint: str, estimate: Estimate) -> MessagesMeter:
        return MessagesMeter(estimate)


def _is_elsewhere(waiting: list[Any]) -> bool:
    """Whether content is given by URL or file id: what cannot be counted."""
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            if value.get("type") in ("url", "file"):
                return True
            waiting.extend(value[name] for name in ("content", "source") if name in value)
        elif isinstance(value, (list, tuple)):
            waiting.extend(value)
    return False


class MessagesMeter(StreamMeter):
    """Reads the events of one Messages stream."""

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        read = _READ.get(getattr(event, "type", ""))
        if read is not None:
            read(self, event)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the answer's text."""
        return place == "text"

    def _start(self, event: Any) -> None:
        self.answer["model"] = event.message.model
        self._merge(getattr(event.message, "usage", None))

    def _block(self, event: Any) -> None:
        self.begun = True
        if event.content_block.type in ("thinking", "redacted_thinking"):
            self.hidden = True

    def _delta(self, event: Any) -> None:
        delta = event.delta
        name = _SHOWN.get(getattr(delta, "type", ""), "text")
        self.received(getattr(delta, name, None), name)

    def _message_delta(self, event: Any) -> None:
        usage = getattr(event, "usage", None)
        self._merge(usage)
        said = getattr(usage, "output_tokens", None) is not None
        self.complete = self.complete or (said and event.delta.stop_reason is not None)

    def _stop(self, event: Any) -> None:
        self.finish()

    def _error(self, event: Any) -> None:
        self.failed = True

    def _merge(self, usage: Any) -> None:
        """Take over what a usage says; figures are cumulative, and a later event may leave some out."""
        self.usage.update({name: value for name, value in fields_of(usage).items() if value is not None})


_SHOWN = {"input_json_delta": "partial_json", "thinking_delta": "thinking"}
_READ = {
    "message_start": MessagesMeter._start,
    "content_block_start": MessagesMeter._block,
    "content_block_delta": MessagesMeter._delta,
    "message_delta": MessagesMeter._message_delta,
    "message_stop": MessagesMeter._stop,
    "error": MessagesMeter._error,
}
PROTOCOL = _Messages(Site("anthropic"))
