"""One guarded call of a client: from the body to the end of its reservation, whatever the SDK does in between.

A call counts the SDK's HTTP attempts and watches which of them sent anything, because a refund needs every attempt
surely unbilled. It ends by the usage of the answer, by the meter of its stream, or by the table of outcomes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.aio import off_loop
from budget.arguments import GUARDED_LEASE, lease_us
from budget.asks import Ask, make_ask, price
from budget.clients.counting import counted, expected
from budget.clients.protocol import Meter, Protocol
from budget.errors import BudgetError
from budget.guard import Guard
from budget.outcome import never_connected
from budget.usage import Usage

if TYPE_CHECKING:
    from budget.commands import Amounts
    from budget.engine import Budget
    from budget.verbs import Flow

__all__ = ["Call", "End"]

End = tuple["Amounts", dict[str, Any], bool]
"""How a call ends: amounts, what the ledger keeps, and whether it is a refund."""

_log = logging.getLogger("budget")
_LEASE_US = lease_us(None, GUARDED_LEASE)


class Call:
    """One logical call, however many attempts the SDK makes of it.

    Args:
        counter: Asks the provider to count the call's input; to be awaited if the client is async. None if it may not.

    Attributes:
        reader: The thread or task that is reading an event of its stream now.
    """

    def __init__(
        self,
        budget: Budget,
        protocol: Protocol,
        endpoint: str,
        body: Mapping[str, Any],
        counter: Callable[[], Any] | None = None,
    ):
        self._budget, self._protocol = budget, protocol
        self._endpoint, self._body, self._counter = endpoint, body, counter
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
        ask = self._prepare()
        engine = self._budget.engine
        if self._counter is not None and engine.drive(self._turns_on_count(ask)):
            try:
                ask = self._with_count(ask, self._counter())
            except Exception as error:
                _uncounted(error)
        self._guarded(ask).begin()
        self._begun = monotonic()

    async def abegin(self) -> None:
        """Like `begin`, without blocking the event loop."""
        ask = await off_loop(self._prepare)
        engine = self._budget.engine
        if self._counter is not None and await engine.adrive(self._turns_on_count(ask)):
            try:
                ask = self._with_count(ask, await self._counter())
            except Exception as error:
                _uncounted(error)
        await self._guarded(ask).abegin()
        self._begun = monotonic()

    def _prepare(self) -> Ask:
        budget = self._budget
        estimate = budget.engine.estimate(self._body, self._protocol.provider, self._endpoint)
        return make_ask(budget.settings, estimate, None, {})

    def _turns_on_count(self, ask: Ask) -> Flow:
        """Say whether a count could change the decision: the bound is refused, and what is expected would fit."""
        estimate, settings, verbs = ask.estimate, self._budget.settings, self._budget.engine.verbs
        if estimate is None or not estimate.closed or (yield from verbs.check(ask)):
            return False
        other = make_ask(settings, expected(settings.book, estimate, verbs.now()), None, {})
        return bool((yield from verbs.check(other)))

    def _with_count(self, ask: Ask, answer: object) -> Ask:
        settings, now = self._budget.settings, self._budget.engine.verbs.now()
        assert ask.estimate is not None
        return make_ask(settings, counted(settings.book, ask.estimate, answer, now), None, {})

    def _guarded(self, ask: Ask) -> Guard:
        assert ask.estimate is not None
        self._body, self._counter = {}, None  # nothing of the request is kept
        self._meter = self._protocol.meter(self._endpoint, ask.estimate)
        self._guard = Guard(self._budget, ask, _LEASE_US)
        return self._guard

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


def _uncounted(error: Exception) -> None:
    _log.info("the provider did not count a call (%s); its bound stands", type(error).__name__)


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
