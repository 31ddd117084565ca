"""Anthropic's API: which paths cost money, what a Messages stream reports, and what a cut one cost.

A stream says its input in `message_start` and its cumulative output in `message_delta`. One that ends before its final
`message_delta` is booked at the input it reported plus the larger of the output it reported and the output that was
received, counted with the tokenizer's bound. If the model may have reasoned out of sight, or a server tool may have
added input on the way, what was received says nothing about what is billed: the whole reservation is charged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from budget.asks import price
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.estimate import Estimate
from budget.usage import Usage

__all__ = ["PROTOCOL"]

_METERED = {"/v1/messages": "messages"}
# POST paths that run no model: counting, files and their kin, administration, and whatever ends or archives something.
_FREE = re.compile(
    r"/v1/(messages/count_tokens"
    r"|(files|skills|user_profiles|vaults|tunnels|memory_stores|environments|organizations|agents)(/.*)?"
    r"|.*/(archive|cancel|pause))"
)


class _Messages:
    provider = "anthropic"

    def endpoint(self, path: str) -> str | None:
        return _METERED.get(path) or ("" if _FREE.fullmatch(path) else None)

    def meter(self, endpoint: str, estimate: Estimate) -> MessagesMeter:
        return MessagesMeter(estimate)

    def body(self, options: Any) -> Mapping[str, Any]:
        return {**(options.json_data or {}), **(getattr(options, "extra_json", None) or {})}


class MessagesMeter:
    """Reads the events of one Messages stream."""

    def __init__(self, estimate: Estimate):
        self._estimate = estimate
        self._usage: dict[str, Any] = {}
        self._model: str | None = None
        self._received: list[str] = []
        self._blocks = 0
        self._reasoned = estimate.thinking
        self._complete = self._failed = False

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        read = _READ.get(getattr(event, "type", ""))
        if read is not None:
            read(self, event)

    def _start(self, event: Any) -> None:
        self._model = event.message.model
        self._merge(getattr(event.message, "usage", None))

    def _block(self, event: Any) -> None:
        self._blocks += 1
        if event.content_block.type in ("thinking", "redacted_thinking"):
            self._reasoned = True

    def _delta(self, event: Any) -> None:
        delta = event.delta
        text = getattr(delta, "text", None) or getattr(delta, "partial_json", None)
        if text:
            self._received.append(text)

    def _message_delta(self, event: Any) -> None:
        usage = getattr(event, "usage", None)
        self._merge(usage)
        said = getattr(usage, "output_tokens", None) is not None
        self._complete = self._complete or (said and event.delta.stop_reason is not None)

    def _error(self, event: Any) -> None:
        self._failed = True

    def _merge(self, usage: Any) -> None:
        """Take over what a usage says; figures are cumulative, and a later event may leave some out."""
        model = {**getattr(usage, "__dict__", {}), **(getattr(usage, "__pydantic_extra__", None) or {})}
        fields = usage if isinstance(usage, Mapping) else model
        self._usage.update({name: value for name, value in fields.items() if value is not None})

    def end(
        self, settings: Settings, reservation: Reservation, error: BaseException | None
    ) -> tuple[Amounts, dict[str, Any]] | None:
        """Return what the stream cost; None charges the whole reservation."""
        if not self._usage or self._failed or hasattr(error, "status_code"):  # nothing was said, or an error event came
            return None
        usage = self._usage
        if not self._complete:
            if self._reasoned or self._blocks == 0 or not self._estimate.closed:
                return None
            usage = {**usage, "output_tokens": max(usage.get("output_tokens") or 0, self._counted(settings))}
        amounts, detail = price(settings, Usage.of({"usage": usage, "model": self._model}), None, None, reservation, 0)
        return amounts, detail if self._complete else {**detail, "estimated": True, "outcome": "cut short"}

    def _counted(self, settings: Settings) -> int:
        from budget.errors import UnknownModel
        from budget.estimator import Measure
        from budget.estimator.tokens import count

        estimate = self._estimate
        try:
            tokenizer = settings.book.find(estimate.model, estimate.provider or None).tokenizer
        except UnknownModel:
            tokenizer = None
        tokenizer = tokenizer or "claude-2"
        received = Measure(base_tokens=count("".join(self._received))).bound(tokenizer) - Measure().bound(tokenizer)
        return min(received, estimate.output_tokens_max)


_READ = {
    "message_start": MessagesMeter._start,
    "content_block_start": MessagesMeter._block,
    "content_block_delta": MessagesMeter._delta,
    "message_delta": MessagesMeter._message_delta,
    "error": MessagesMeter._error,
}
PROTOCOL = _Messages()
