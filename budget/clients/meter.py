"""What the meters of all APIs share: what a stream said of its cost, what was received of it, and how that is booked.

A stream is booked by the usage it said, if it said all of it. One that was cut short, or left, is booked at the input
it said (else its bound) plus the larger of the output it said and the output that was received, counted with the
tokenizer's bound. Where that says nothing about what is billed, the whole reservation is charged: an error came, or the
model may have worked out of sight, or the request has no bound, or nothing was received, or it ended without a usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.asks import price
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.estimate import Estimate
from budget.usage import Usage

__all__ = ["StreamMeter", "fields_of"]

Booked = tuple[Amounts, dict[str, Any]]


class StreamMeter:
    """What one stream said and what was received of it; a subclass per API reads its events.

    Attributes:
        usage: What was said of the usage.
        answer: What else of the answer decides its price, such as `model` and `service_tier`.
        begun: Output has begun, so that what was received says how much there is.
        hidden: The model may have worked out of sight.
        complete: All of the usage was said.
        ended: The whole answer was sent.
        failed: An error came inside the stream.
    """

    output_name = "output_tokens"
    """What the API calls its count of output tokens."""

    def __init__(self, estimate: Estimate):
        self.usage: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.begun = self.complete = self.ended = self.failed = False
        self.hidden = estimate.thinking
        self._estimate = estimate
        self._received: dict[object, list[str]] = {}

    def received(self, text: object, place: object = 0) -> None:
        """Take note of a piece of output; each choice, item or call has its own place."""
        if isinstance(text, str) and text:
            self._received.setdefault(place, []).append(text)

    def finish(self) -> None:
        """Take note that the stream was read to its end."""
        self.ended = True

    def end(self, settings: Settings, reservation: Reservation, error: BaseException | None) -> Booked | None:
        """Return what the stream cost; None charges the whole reservation."""
        if self.failed or getattr(error, "body", None) is not None or hasattr(error, "status_code"):
            return None  # the SDKs raise an error that came as an event with its body
        if self.complete:
            return price(settings, self._said(self.usage), None, None, reservation, 0)
        if self.ended or self.hidden or not self.begun or not self._estimate.closed:
            return None
        made = min(self._counted(settings), self._estimate.output_tokens_max)
        if self.usage:
            said = self.usage.get(self.output_name) or 0
            usage = self._said({**self.usage, self.output_name: max(said, made)})
            amounts, detail = price(settings, usage, None, None, reservation, 0)
        else:
            amounts, detail = self._bound(settings, reservation, made)
        return amounts, {**detail, "estimated": True, "outcome": "cut short"}

    def _said(self, usage: Mapping[str, Any]) -> Usage:
        return Usage.of({**self.answer, "usage": usage})

    def _bound(self, settings: Settings, reservation: Reservation, made: int) -> Booked:
        """Return the most that the request cost if its answers are that long."""
        from budget.estimate import with_output

        estimate = self._estimate
        each = -(-made // (estimate.measure.choices if estimate.measure else 1))
        most = with_output(settings.book, estimate, each, reservation.made)
        most = most if most.nanos_max < estimate.nanos_max else estimate
        usage = Usage(input=most.input_tokens_max, output=most.output_tokens_max)
        return most.amounts, {"model": self.answer.get("model") or estimate.model, "usage": usage.to_dict()}

    def _counted(self, settings: Settings) -> int:
        """Count what was received, with the bound of the model's tokenizer."""
        from budget.errors import UnknownModel
        from budget.estimator import VOCABULARIES, Measure
        from budget.estimator.tokens import census, wide_bytes

        estimate = self._estimate
        try:
            tokenizer = settings.book.find(estimate.model, estimate.provider or None).tokenizer
        except UnknownModel:
            tokenizer = None
        tokenizer = tokenizer or "claude-2"
        vocabulary = VOCABULARIES[tokenizer]
        texts = ["".join(pieces) for pieces in self._received.values()]
        counted = [census(text, vocabulary) for text in texts]
        tokens, wide = sum(tokens for tokens, _ in counted), sum(map(wide_bytes, texts))
        kinds = tuple(map(sum, zip(*(kinds for _, kinds in counted), strict=True)))
        return Measure(vocabulary, base_tokens=tokens, kinds=kinds, wide_bytes=wide, bare=True).bound(tokenizer)


def fields_of(thing: object) -> Mapping[str, Any]:
    """Return the fields of an SDK's model, or of what stands for one; also those that the SDK does not know."""
    if isinstance(thing, Mapping):
        return thing
    known: dict[str, Any] = getattr(thing, "__dict__", {})
    more = getattr(thing, "__pydantic_extra__", None)
    return {**known, **more} if more else known
