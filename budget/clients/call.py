"""One guarded call of a client: from the body to the end of its reservation, whatever the SDK does in between.

A call counts the SDK's HTTP attempts and watches which of them sent anything, because a refund needs every attempt
surely unbilled. It ends by the usage of the answer, by the meter of its stream, or by the table of outcomes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.aio import off_loop
from budget.arguments import GUARDED_LEASE, lease_us, said_by_runs
from budget.asks import Ask, make_ask
from budget.clients.attempts import Attempt
from budget.clients.counting import counted, expected
from budget.clients.extras import NONE, Extras
from budget.clients.growth import Growth, ask_of_stream, grown, streams
from budget.clients.meter import StreamMeter
from budget.clients.protocol import Meter, Speech
from budget.clients.shortage import Shortage, check_ways
from budget.clients.steps import Steps, adrive, drive
from budget.clients.units import by_answer, by_units
from budget.errors import BudgetError, BudgetExceeded, CapExceeded, Frozen, RunStopped
from budget.estimate import Estimate, with_traits
from budget.guard import Guard
from budget.outcome import never_connected
from budget.short import Short, Way, ways_out

if TYPE_CHECKING:
    from budget.commands import Amounts
    from budget.engine import Budget
    from budget.verbs import Flow

__all__ = ["Call", "End"]

End = tuple["Amounts", dict[str, Any], bool]
"""How a call ends: amounts, what the ledger keeps, and whether it is a refund."""

_log = logging.getLogger("budget")
_LEASE_US = lease_us(None, GUARDED_LEASE)
_NOTHING = Short()


class Call:
    """One logical call, however many attempts the SDK makes of it.

    Args:
        counter: Asks the provider to count the call's input; to be awaited if the client is async. None if it may not.
        extras: What the caller gave for this call alone.
        fixed: The body cannot be changed any more.

    Attributes:
        changes: Fields of the body that are to be sent with other values than given; known once the call has begun.
        streams: The answer comes in pieces, so that what is reserved for it may grow.
        growth: What sees to that, if it does.
        reader: The thread or task that is reading an event of its stream now.
    """

    def __init__(
        self,
        budget: Budget,
        protocol: Speech,
        endpoint: str,
        body: Mapping[str, Any],
        counter: Callable[[], Any] | None = None,
        extras: Extras = NONE,
        fixed: bool = False,
    ):
        self._budget, self._protocol, self._extras = budget, protocol, extras
        self._endpoint, self._body, self._counter = endpoint, body, counter
        self.changes: dict[str, Any] = {}
        self._fixed, self._told = fixed, _NOTHING
        self.streams = not fixed and streams(body)
        self.growth: Growth | None = None
        self.reader: object = None
        self._grows = False
        self._guard: Guard | None = None
        self._meter: Meter | None = None
        self._estimate: Estimate | None = None
        self._begun = self._first = 0.0
        self._attempts: list[Attempt] = []
        self._judged: Any = None
        self._unparsed: Any = None
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
        try:
            self._guarded(ask).begin()
        except BudgetExceeded as refused:
            if not (ways := self._ways(ask, refused)):
                raise
            drive(self._short(ask, ways, refused))
        self._reserved()

    async def abegin(self) -> None:
        """Like `begin`, without blocking the event loop."""
        ask = await off_loop(self._prepare)
        engine = self._budget.engine
        if self._counter is not None and await engine.adrive(self._turns_on_count(ask)):
            try:
                ask = self._with_count(ask, await self._counter())
            except Exception as error:
                _uncounted(error)
        try:
            await self._guarded(ask).abegin()
        except BudgetExceeded as refused:
            if not (ways := self._ways(ask, refused)):
                raise
            await adrive(self._short(ask, ways, refused))
        self._reserved()

    def _ways_out(self, ask: Ask, refused: BudgetExceeded) -> Sequence[Way]:
        return ways_out((self._extras.on_short, *said_by_runs(ask)), refused)

    def _short(self, ask: Ask, ways: Sequence[Way], refused: BudgetExceeded) -> Steps:
        """Try what is said for when money runs short; raise the refusal if nothing helps."""
        where = (self._budget, self._protocol, self._endpoint, self._body, self._fixed)
        shortage = Shortage(*where, self._ask, self._grown, self._guarded)
        yield from shortage.tries(ask, ways, refused)
        self.changes, self._told = shortage.changes, shortage.told
        for run in ask.run.chain() if ask.run is not None else ():
            run.last = self._told
        return None

    def _ways(self, ask: Ask, refused: BudgetExceeded) -> Sequence[Way]:
        """Return what to try for a refused call; a stream whose length nobody set grows if nothing else is left.

        Not past a cap: the most that it can cost is what a cap is about, and the model's ceiling says that.
        """
        ways = self._ways_out(ask, refused)
        measure = ask.estimate.measure if self.streams and ask.estimate is not None else None
        if measure is None or measure.output_max is not None or isinstance(refused, CapExceeded | Frozen | RunStopped):
            return ways
        return (*ways, Way("grow"))

    def _reserved(self) -> None:
        """Begin to count the time, and forget the request."""
        if self._grows and self.guard.stored is not None and isinstance(self._meter, StreamMeter):
            self.growth = Growth(self._budget.settings, self.guard, self._meter)
        self._body, self._counter = {}, None
        self._begun = monotonic()

    def _prepare(self) -> Ask:
        protocol = self._protocol
        if self._extras.on_short is not None:
            check_ways(self._extras.on_short, self._budget, protocol, self._endpoint, self._body)
        body = protocol.priced(self._body, self._endpoint)
        ask = self._ask(self._budget.engine.estimate(body, protocol.provider, self._endpoint))
        if ask.run is not None:
            ask.looping = ask.run.looping(self._body)
        return ask

    def _ask(self, estimate: Estimate) -> Ask:
        """Return what is asked for: where the client is answered and what the caller gave for this call included."""
        settings, extras, traits = self._budget.settings, self._extras, self._protocol.traits
        if traits:
            estimate = with_traits(settings.book, estimate, traits, self._budget.engine.verbs.now())
        if self._may_grow(estimate):
            ask = ask_of_stream(settings, estimate, extras.scope, self._budget.engine.verbs.now())
        else:
            ask = make_ask(settings, estimate, None, extras.scope)
        ask.limits = extras.limits
        if traits and traits.items() <= dict(estimate.traits).items():
            ask.detail["site"] = dict(traits)  # the end is priced with them, too: no answer says where it was made
        return ask

    def _grown(self, ask: Ask) -> Ask | None:
        """Return what is asked for the first step of a call; None if it cannot grow."""
        if ask.estimate is None or not self._may_grow(ask.estimate):
            return None
        return grown(self._budget.settings.book, ask, self._budget.engine.verbs.now())

    def _may_grow(self, estimate: Estimate) -> bool:
        if not self.streams or (estimate.measure is not None and estimate.measure.makes):
            return False  # how much of a sound was received, nobody can count
        return isinstance(self._protocol.meter(self._endpoint, estimate), StreamMeter)

    def _turns_on_count(self, ask: Ask) -> Flow:
        """Say whether a count could change the decision: the bound is refused, and what is expected would fit."""
        estimate, settings, verbs = ask.estimate, self._budget.settings, self._budget.engine.verbs
        if estimate is None or not estimate.closed or ask.whole not in (None, estimate):
            return False  # there is no bound of the whole call that it could change
        if (yield from verbs.check(ask)):
            return False
        other = self._ask(expected(settings.book, estimate, verbs.now()))
        return bool((yield from verbs.check(other)))

    def _with_count(self, ask: Ask, answer: object) -> Ask:
        settings, now = self._budget.settings, self._budget.engine.verbs.now()
        assert ask.estimate is not None
        return self._ask(counted(settings.book, ask.estimate, answer, now))

    def _guarded(self, ask: Ask, wait: float | None = None) -> Guard:
        """Make what reserves, for one attempt to do so."""
        assert ask.estimate is not None
        self._estimate = ask.whole or ask.estimate
        self._meter = self._protocol.meter(self._endpoint, self._estimate)
        self._grows = ask.whole is not None
        self._guard = Guard(self._budget, ask, _LEASE_US, wait)
        return self._guard

    # While the SDK works.

    def attempt(self, request: Any, is_async: bool, closed: bool) -> None:
        """Take note of an HTTP attempt, and have the transport say whether it sends anything: none does if closed."""
        attempt = Attempt()
        attempt.traced = closed
        self._attempts.append(attempt)
        given = request.extensions.get("trace")
        hook = attempt.awatch(given) if is_async else attempt.watch(given)
        request.extensions = {**request.extensions, "trace": hook}

    def tried(self, judged: Any = None) -> None:
        """Take note of an attempt that was sent by a transport that cannot be traced, and of its error answer."""
        attempt = Attempt()
        attempt.note("send_request_headers")
        self._attempts.append(attempt)
        if judged is not None:
            self.judged(judged)

    def judged(self, response: Any) -> None:
        """Take note of an attempt's error answer."""
        self._judged = response
        self._statuses.append(response.status_code)

    def telling(self, options: Any) -> Any:
        """Return a call's options with which what is parsed from a raw response says it too: see `tell`.

        What the SDK's own parser fails for is kept: the answer is paid for, and says for how much.
        """
        parse = options.post_parser if callable(options.post_parser) else None
        if self._told == _NOTHING and (parse is None or self.streams):
            return options

        def parser(parsed: Any) -> Any:
            if parse is not None:
                try:
                    parsed = parse(parsed)
                except Exception:
                    self._unparsed = parsed
                    raise
            self.tell(parsed)
            return parsed

        return options.model_copy(update={"post_parser": parser})

    def tell(self, result: Any) -> None:
        """Let an answer, a stream or a raw response say what was done because money ran short: see `short_of`."""
        if self._told == _NOTHING:
            return
        with suppress(AttributeError, TypeError, ValueError):  # an object that takes no attribute goes without
            object.__setattr__(result, "_budget", self._told)

    # After it.

    def answered(self, result: object) -> End:
        """Return how a call ends that has its whole answer."""
        assert self._guard is not None
        stored = self._guard.stored
        try:
            assert self._estimate is not None
            (amounts, detail), refund = by_answer(self._budget.settings, self._estimate, stored, result), False
        except Exception as error:
            # The answer is paid for; what it cost cannot be read from it, which is no reason to withhold it.
            _log.warning("a call is charged its reservation: %s", _named(error))
            amounts, detail, refund = self._unanswered(None, [200])
        return amounts, {**detail, **self._timing()}, refund

    def failed(self, error: BaseException) -> End:
        """Return how a call ends that raised."""
        response = getattr(error, "response", None)
        if (answer := self._answer_in(error, response)) is not None:
            return self.answered(answer)
        if response is not None and response is not self._judged and hasattr(response, "status_code"):
            self.judged(response)
        if self._attempts and never_connected(error):
            self._attempts[-1].traced = True  # also by a transport that does not trace
        amounts, detail, refund = self._unanswered(error, [])
        return amounts, {**detail, **self._timing()}, refund

    def _answer_in(self, error: BaseException, response: Any) -> Any:
        """Return the answer of a call that raised because the SDK could not parse it, or not validate it."""
        if self._unparsed is not None:
            return self._unparsed
        body = getattr(error, "body", None) if getattr(response, "is_success", False) else None
        return body if isinstance(body, Mapping) and body.get("usage") else None

    def streamed(self, error: BaseException | None, *, whole: bool = False) -> End:
        """Return how a stream ends, which may have been read to its end: by its meter, or charged whole."""
        stored, found = self.guard.stored, None
        try:
            if self._meter is not None and stored is not None:
                if whole:
                    self._meter.finish()
                found = self._meter.end(self._budget.settings, stored, error)
            elif self._estimate is not None:  # such as speech, which comes as sound alone
                found = by_units(self._budget.settings, self._estimate, stored)
        except Exception as unread:
            _log.warning("a stream is charged its reservation: %s", _named(unread))
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
    def begun(self) -> bool:
        """Whether its money was set aside."""
        return self._begun > 0

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


def _named(error: Exception) -> str:
    """Return what may be said of an error: ours has no words of the answer in it, any other might."""
    return str(error) if isinstance(error, BudgetError) else type(error).__name__


def _uncounted(error: Exception) -> None:
    _log.info("the provider did not count a call (%s); its bound stands", type(error).__name__)
