"""One guarded call of a client: from the body to the end of its reservation, whatever the SDK does in between.

A call counts the SDK's HTTP attempts and watches which of them sent anything, because a refund needs every attempt
surely unbilled. It ends by the usage of the answer, by the meter of its stream, or by the table of outcomes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.asks import make_ask, price
from budget.clients.protocol import Meter, Protocol
from budget.core import GUARDED_LEASE, lease_us
from budget.errors import BudgetError
from budget.guard import Guard
from budget.outcome import never_connected
from budget.usage import Usage

if TYPE_CHECKING:
    from budget.commands import Amounts
    from budget.engine import Budget

__all__ = ["Call", "End"]

End = tuple["Amounts", dict[str, Any], bool]
"""How a call ends: amounts, what the ledger keeps, and whether it is a refund."""

_log = logging.getLogger("budget")
_LEASE_US = lease_us(None, GUARDED_LEASE)
_TEXTS = ("messages", "system", "input", "instructions", "tools")
_LONG_BODY = 20_000  # characters from which counting is left to a thread, so that the event loop is not held


class Call:
    """One logical call, however many attempts the SDK makes of it.

    Attributes:
        reader: The thread or task that is reading an event of its stream now.
    """

    def __init__(self, budget: Budget, protocol: Protocol, endpoint: str, body: Mapping[str, Any]):
        self._budget, self._protocol = budget, protocol
        self._endpoint, self._body = endpoint, body
        self.reader: object = None
        self._guard: Guard | None = None
        self._meter: Meter | None = None
        self._begun = self._first = 0.0
        self._attempts: list[_Attempt] = []
        self._judged: Any = None
        self._statuses: list[int] = []

    # Before the call.

    def begin(self) -> None:
        """Estimate and reserve, or raise before any byte is sent."""
        self._prepare()
        assert self._guard is not None
        self._guard.begin()
        self._begun = monotonic()

    async def abegin(self) -> None:
        """Like `begin`, without blocking the event loop."""
        if _long(self._body) or not self._loaded():
            await asyncio.to_thread(self._prepare)
        else:
            self._prepare()
        assert self._guard is not None
        await self._guard.abegin()
        self._begun = monotonic()

    def _loaded(self) -> bool:
        """Whether the vocabulary that the model needs is in memory."""
        from budget.estimator import VOCABULARIES, tokens

        try:
            model = self._budget.settings.book.find(self._body["model"], self._protocol.provider)
        except (LookupError, TypeError):
            return True  # there is nothing to count: it will be refused
        return tokens.loaded(VOCABULARIES[model.tokenizer or "claude-2"])

    def _prepare(self) -> None:
        budget = self._budget
        estimate = budget.estimate(self._body, provider=self._protocol.provider, endpoint=self._endpoint)
        self._body = {}  # nothing of the request is kept
        self._guard = Guard(budget, make_ask(budget.settings, estimate, None, {}), _LEASE_US)
        self._meter = self._protocol.meter(self._endpoint, estimate)

    # While the SDK works.

    def attempt(self, request: Any, is_async: bool) -> None:
        """Take note of an HTTP attempt, and have the transport say whether it sends anything."""
        attempt = _Attempt()
        self._attempts.append(attempt)
        given = request.extensions.get("trace")
        hook = attempt.awatch(given) if is_async else attempt.watch(given)
        request.extensions = {**request.extensions, "trace": hook}

    def judged(self, response: Any) -> None:
        """Take note of an attempt's error answer."""
        self._judged = response
        self._statuses.append(response.status_code)

    # After it.

    def answered(self, result: object) -> End:
        """Return how a call ends that has its whole answer."""
        assert self._guard is not None
        stored = self._guard.stored
        try:
            (amounts, detail), refund = price(self._budget.settings, Usage.of(result), None, None, stored, 0), False
        except BudgetError as error:
            # The answer is paid for; what it cost cannot be read from it.
            _log.warning("a call is charged its reservation: %s", error)
            amounts, detail, refund = self._unanswered(None, [200])
        return amounts, {**detail, **self._timing()}, refund

    def failed(self, error: BaseException) -> End:
        """Return how a call ends that raised."""
        answer = getattr(error, "completion", None)  # OpenAI's `parse` raises for an answer that it cannot parse
        if getattr(answer, "usage", None) is not None:
            return self.answered(answer)
        response = getattr(error, "response", None)
        if response is not None and response is not self._judged and hasattr(response, "status_code"):
            self.judged(response)
        if self._attempts and never_connected(error):
            self._attempts[-1].traced = True  # also by a transport that does not trace
        amounts, detail, refund = self._unanswered(error, [])
        return amounts, {**detail, **self._timing()}, refund

    def streamed(self, error: BaseException | None, *, whole: bool = False) -> End:
        """Return how a stream ends, which may have been read to its end: by its meter, or charged whole."""
        stored, found = self.guard.stored, None
        try:
            if self._meter is not None and stored is not None:
                if whole:
                    self._meter.finish()
                found = self._meter.end(self._budget.settings, stored, error)
        except BudgetError as unread:
            _log.warning("a stream is charged its reservation: %s", unread)
        if found is not None:
            return found[0], {**found[1], **self._timing()}, False
        amounts, detail, refund = self._unanswered(error, [200])
        cause = type(error).__name__ if error is not None else "no usage" if whole else "cut short"
        return amounts, {**detail, "outcome": cause, **self._timing()}, refund

    def heard(self) -> None:
        """Take note of the time to the first part of an answer that comes in parts."""
        self._first = self._first or monotonic()

    def event(self, event: Any) -> None:
        """Take note of an event of its stream. One that we cannot read is no fault in the user's stream."""
        self.heard()
        try:
            if self._meter is not None:
                self._meter.feed(event)
        except Exception as error:
            _log.warning("a stream is charged its reservation: an event cannot be read (%s)", type(error).__name__)
            self._meter = None

    @property
    def guard(self) -> Guard:
        """The reservation and its end."""
        assert self._guard is not None
        return self._guard

    def _unanswered(self, error: BaseException | None, last: list[int]) -> End:
        sent = sum(not attempt.sent_nothing for attempt in self._attempts)
        return self.guard.unanswered(error, sent, [*self._statuses, *last])

    def _timing(self) -> dict[str, int]:
        timing = {"latency_ms": int((monotonic() - self._begun) * 1000)}
        if self._first:
            timing["first_token_ms"] = int((self._first - self._begun) * 1000)
        return timing


class _Attempt:
    """What the transport said of one attempt (httpcore's `trace` extension)."""

    def __init__(self) -> None:
        self.traced = self._sent = False

    @property
    def sent_nothing(self) -> bool:
        """Whether the transport was heard of, and never began to send."""
        return self.traced and not self._sent

    def _note(self, event: str) -> None:
        self.traced = True
        self._sent = self._sent or "send_request_headers" in event

    def watch(self, given: Any) -> Any:
        """Return a trace hook that also calls the one that was there."""

        def hook(event: str, info: Mapping[str, Any]) -> None:
            self._note(event)
            if given is not None:
                given(event, info)

        return hook

    def awatch(self, given: Any) -> Any:
        """Return the same for an async transport."""

        async def hook(event: str, info: Mapping[str, Any]) -> None:
            self._note(event)
            if given is not None:
                await given(event, info)

        return hook


def _long(body: Mapping[str, Any]) -> bool:
    """Say whether a body may be long, by a look at what most of it is in."""
    waiting, size = [body.get(name) for name in _TEXTS], 0
    while waiting and size <= _LONG_BODY:
        value = waiting.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, (list, tuple)):
            size += 100 * len(value)
            waiting.extend(value)
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif value is not None:
            size += 100  # of an SDK's model, not looked into
    return size > _LONG_BODY
