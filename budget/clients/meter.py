"""What the meters of all APIs share: what a stream said of its cost, what was received of it, and how that is booked.

A stream is booked by the usage it said, if it said all of it. One that was cut short, or left, is booked at the input
it said (else its bound) plus the larger of the output it said and the output that was received, counted with the
tokenizer's bound. Where that says nothing about what is billed, the whole reservation is charged: an error came, or the
model may have worked out of sight, or the request has no bound, or no output was said or received, or it ended without
a usage.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import add
from typing import Any

from budget.asks import price
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.errors import ArgumentTypeError, UnknownModel
from budget.estimate import Estimate
from budget.reported import as_count
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
        unread: About how many tokens were received since they were last counted, and at least half as many as there
            can be: a token has a byte or more, so of ASCII two characters count as one, and any other counts twice.
    """

    output_name = "output_tokens"
    """What the API calls its count of output tokens."""

    def __init__(self, estimate: Estimate):
        self.usage: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.begun = self.complete = self.ended = self.failed = False
        self.hidden = estimate.thinking
        self.unread = 0
        self._estimate = estimate
        self._received: dict[object, list[str]] = {}
        self._read: dict[object, int] = {}  # how many pieces of each place are counted
        self._tokenizer = ""
        self._counts: list[int] = []  # tokens, bytes outside ASCII, and then tokens by kind

    def received(self, text: object, place: object = 0) -> None:
        """Take note of a piece of output; each choice, item or call has its own place."""
        if isinstance(text, str) and text:
            self._received.setdefault(place, []).append(text)
            self.unread += len(text) + 1 >> 1 if text.isascii() else 2 * len(text)

    def is_text(self, place: object) -> bool:
        """Whether what was received in a place is text of the answer, and not a call's arguments or the like."""
        return True

    @property
    def partial(self) -> str:
        """The text received so far; of several answers that of the first."""
        return "".join("".join(pieces) for place, pieces in self._received.items() if self.is_text(place))

    def finish(self) -> None:
        """Take note that the stream was read to its end."""
        self.ended = True

    def end(self, settings: Settings, reservation: Reservation, error: BaseException | None) -> Booked | None:
        """Return what the stream cost; None charges the whole reservation."""
        if self.failed or getattr(error, "body", None) is not None or hasattr(error, "status_code"):
            return None  # the SDKs raise an error that came as an event with its body
        if self.complete:
            return price(settings, self._said(self.usage), None, None, reservation, 0)
        if self.ended or self.hidden or not self._estimate.closed:
            return None
        if not self.begun and self.usage.get(self.output_name) is None:
            return None
        amounts, detail = self.with_output(settings, reservation, self.counted(settings))
        return amounts, {**detail, "estimated": True, "outcome": "cut short"}

    def with_output(self, settings: Settings, reservation: Reservation, made: int) -> Booked:
        """Return what it costs with so many tokens of output, or as many as it said if those are more.

        What it said of its input counts, else the bound of that.
        """
        made = min(made, self._estimate.output_tokens_max)
        if not self.usage:
            return self._bound(settings, reservation, made)
        made = max(made, as_count(self.usage.get(self.output_name) or 0, self.output_name))
        try:
            usage = self._said({**self.usage, self.output_name: made})
        except ArgumentTypeError:  # no input was said, or none that can be read
            return self._bound(settings, reservation, made)
        return price(settings, usage, None, None, reservation, 0)

    def _said(self, usage: Mapping[str, Any]) -> Usage:
        """Read a usage as that of an answer, which has to say both its counts."""
        return Usage.of({"role": "assistant", **self.answer, "usage": usage})

    def _bound(self, settings: Settings, reservation: Reservation, made: int) -> Booked:
        """Return the most that the request cost if its answers are that long."""
        from budget.estimate import with_output

        estimate = self._estimate
        each = -(-made // (estimate.measure.choices if estimate.measure else 1))
        most = with_output(settings.book, estimate, each, reservation.made)
        most = most if most.output_tokens_max < estimate.output_tokens_max else estimate
        usage = Usage(input=most.input_tokens_max, output=most.output_tokens_max)
        return most.amounts, {"model": self.answer.get("model") or estimate.model, "usage": usage.to_dict()}

    def counted(self, settings: Settings) -> int:
        """Count what was received, with the bound of the model's tokenizer; each piece is counted once."""
        from budget.estimator import VOCABULARIES, Measure
        from budget.estimator.tokens import census, wide_bytes

        tokenizer = self._tokenizer = self._tokenizer or _tokenizer(settings, self._estimate)
        vocabulary = VOCABULARIES[tokenizer]
        for place, pieces in self._received.items():
            text = "".join(pieces[self._read.get(place, 0) :])
            self._read[place] = len(pieces)
            if text:
                tokens, kinds = census(text, vocabulary)
                more = (tokens, wide_bytes(text), *kinds)
                self._counts = list(map(add, self._counts, more)) if self._counts else list(more)
        self.unread = 0
        tokens, wide, *by_kind = self._counts or (0, 0)
        found = Measure(vocabulary, base_tokens=tokens, kinds=tuple(by_kind), wide_bytes=wide, bare=True)
        return found.bound(tokenizer)


def _tokenizer(settings: Settings, estimate: Estimate) -> str:
    try:
        found = settings.book.find(estimate.model, estimate.provider or None).tokenizer
    except UnknownModel:
        found = None
    return found or "claude-2"


def fields_of(thing: object) -> Mapping[str, Any]:
    """Return the fields of an SDK's model, or of what stands for one; also those that the SDK does not know."""
    if isinstance(thing, Mapping):
        return thing
    known: dict[str, Any] = getattr(thing, "__dict__", {})
    more = getattr(thing, "__pydantic_extra__", None)
    return {**known, **more} if more else known
