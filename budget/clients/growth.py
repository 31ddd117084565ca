"""Growing reservations: a stream that sets money aside for its answer step by step, while the answer comes.

A hard reservation sets aside the longest answer there can be. A stream begins with a step of output instead, or with
what was learned of such calls, and keeps what is reserved ahead of what was received, if

    nobody knows the longest answer (no `max_tokens`, and the model has no known ceiling),
    or nobody set it, and a limit has no room for the model's ceiling (a cap still refuses that),
    or `reserve_at` is soft, or the call, its run or the limit that refused says `on_short="grow"`:

    received + AHEAD > reserved   ->   an extension, so that reserved = received + STEP

in money and in tokens. It looks before it reads on, so that what the caller has is covered. An extension is a reserve
like any other: a limit, a freeze or a guard of the run may refuse it. A step beyond what was received does not fit
then, and so the stream is stopped within one step of the limit: its connection is closed, the refusal is raised with
the text so far in `partial`, and what was received is booked as of any stream that was cut short. While the store
cannot answer, what is reserved may be used up first; the error that stops the stream then has the text too.

What was received is counted with the tokenizer's bound, in portions, because counting each piece would take longer than
reading it: `StreamMeter.unread` is at least half of what there can be, and a portion is no larger than AHEAD, so that
what comes before the count is covered too, but for a single event that is larger than that.

What the provider makes beyond what is read, before it notices that the connection is closed, and what a model reasons
out of sight is not seen here: a growing reservation is soft. A request that asks for reasoning therefore does not grow
unless `reserve_at` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from threading import get_ident
from typing import TYPE_CHECKING, Any

from budget.asks import Ask, make_ask
from budget.clients.meter import StreamMeter
from budget.commands import Amounts
from budget.errors import BudgetError, BudgetExceeded, StoreUnavailable
from budget.estimate import NO_CEILING, Estimate, with_output

if TYPE_CHECKING:
    from budget.clients.call import Call
    from budget.config import Settings
    from budget.guard import Guard
    from budget.prices import PriceBook

__all__ = ["AHEAD", "STEP", "Growth", "alook_after", "ask_of_stream", "grown", "look_after", "streams"]

STEP = 256
"""Output tokens that are reserved beyond what was received, in all of a request's answers: the store is asked once in a
hundred words or two, and what others cannot use meanwhile, or a stream that is stopped leaves unused, is no more."""
AHEAD = STEP // 4
"""Output tokens below which what is left is filled up: what a provider may be ahead of the reader."""
_NEVER = 1 << 62
_NOTHING = (0, 0, 0, 0, 0)
_WHOLE = 1 << 32
_FAR = 2**31  # output tokens that no answer has
_log = logging.getLogger("budget")


def streams(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for its answer in pieces, here and now."""
    return bool(body.get("stream")) and not body.get("background")


def ask_of_stream(settings: Settings, estimate: Estimate, attributes: Mapping[str, str], at_us: int) -> Ask:
    """Return what is asked for a stream: like `make_ask`, but that an answer without a bound is no reason to refuse it.

    Raises:
        ArgumentTypeError, ConfigError: An attribute cannot be used.
        Unbounded: Its input, or what it may add, has no upper bound, and the policy refuses that.
    """
    if estimate.reasons == (NO_CEILING,) and not estimate.thinking and settings.allowance is None:
        whole = with_output(settings.book, replace(estimate, reasons=()), _FAR, at_us)
        ask = grown(settings.book, make_ask(settings, whole, None, attributes), at_us)
        assert ask is not None
        ask.detail["estimate"] = estimate.to_dict()
        return ask
    ask = make_ask(settings, estimate, None, attributes)
    if estimate.closed and settings.reserve_at != "max":
        ask.step = _first(settings.book, estimate, at_us).amounts
        ask.whole = estimate
    return ask


def grown(book: PriceBook, ask: Ask, at_us: int) -> Ask | None:
    """Return what is asked for the first step of a stream; None if it cannot grow.

    That is if it may cost more than what can be counted in its answer, or its answer cannot be longer than a step. Caps
    are held to what is reserved in all, because it is not said how long the answer may be.
    """
    whole = ask.estimate
    if whole is None or whole.thinking or not whole.closed:
        return None
    first = _first(book, whole, at_us)
    if first.output_tokens_max >= whole.output_tokens_max:
        return None
    return replace(ask, amounts=first.amounts, most=None, estimate=first, whole=whole, step=None)


def _first(book: PriceBook, estimate: Estimate, at_us: int) -> Estimate:
    choices = estimate.measure.choices if estimate.measure is not None else 1
    first = with_output(book, estimate, -(-STEP // choices), at_us)
    return first if first.output_tokens_max < estimate.output_tokens_max else estimate


class Growth:
    """Keeps what is reserved for one stream ahead of what was received of it.

    Args:
        settings: Of the engine.
        guard: The call's reservation, made.
        meter: Reads the stream's events.
    """

    __slots__ = (
        "_ahead", "_base", "_guard", "_left", "_meter", "_next", "_reserved", "_settings", "_slack", "_top", "_usage",
    )  # fmt: skip

    def __init__(self, settings: Settings, guard: Guard, meter: StreamMeter):
        self._settings, self._guard, self._meter = settings, guard, meter
        assert guard.stored is not None
        self._reserved = _filled(guard.stored.amounts)
        self._slack: Sequence[int] = _NOTHING
        self._price()
        output = max(0, self._reserved[3] - self._base[3])
        # What the first reservation does not cover of the input's bound, because less is expected to be billed.
        self._slack = [max(0, cost - held) for cost, held in zip(self._needed(output), self._reserved, strict=True)]
        self._ahead = self._next = min(AHEAD, output // 4)
        self._left = output

    @property
    def due(self) -> bool:
        """Whether it is time to look whether more must be reserved."""
        return self._meter.unread >= self._next or (not self._usage and bool(self._meter.usage))

    def keep_ahead(self) -> None:
        """Reserve more, if that is needed.

        Raises:
            BudgetError: It may not be, so the stream must stop; a `BudgetExceeded` and a `StoreUnavailable` have the
                text so far.
        """
        if (more := self._lacking()) is not None:
            try:
                self._guard.extend(more, self._with(more))
            except BudgetError as error:
                if (stop := self._stopped_by(error)) is not None:
                    raise stop from error.__cause__
            else:
                self._grow(more)

    async def akeep_ahead(self) -> None:
        """Like `keep_ahead`, without blocking the event loop."""
        if (more := self._lacking()) is not None:
            try:
                await self._guard.aextend(more, self._with(more))
            except BudgetError as error:
                if (stop := self._stopped_by(error)) is not None:
                    raise stop from error.__cause__
            else:
                self._grow(more)

    def _lacking(self) -> Amounts | None:
        """Return what must be added; None if there is enough. Say when to look again."""
        meter = self._meter
        if meter.complete or self._guard.ended:
            self._next = _NEVER
            return None
        try:
            if meter.usage != self._usage:  # now the input is known
                self._price()
                self._slack = _NOTHING
            made = max(meter.counted(self._settings), self._said)
            low, high = self._needed(made + self._ahead), self._needed(made + STEP)
        except BudgetError as error:  # no fault in the user's stream
            _log.warning("a stream does not grow any more: %s", error)
            self._next = _NEVER
            return None
        room = min(map(_room, self._reserved, low, high)) * (STEP - self._ahead) // _WHOLE
        self._left, self._next = room + self._ahead, max(1, min(AHEAD, room))
        if room > self._ahead // 4:  # closer than that, counting again is not worth the while
            return None
        return tuple(max(0, most - held) for held, most in zip(self._reserved, high, strict=True))  # type: ignore[return-value]

    def _stopped_by(self, error: BudgetError) -> BudgetError | None:
        """Return what to raise because no more could be reserved; None if the stream may go on."""
        if isinstance(error, StoreUnavailable):
            if self._left > 1:  # until then the store may be there again
                self._next = self._left // 2
                return None
            error = copy(error)  # a store that fails may raise one error to all who wait for it
        if isinstance(error, BudgetExceeded | StoreUnavailable):
            error.partial = self._meter.partial
        return error

    def _grow(self, more: Amounts) -> None:
        self._reserved, self._ahead, self._next = _filled(self._with(more)), AHEAD, AHEAD

    def _price(self) -> None:
        """Take what is known of the input; beyond that, cost grows evenly up to the longest answer."""
        assert self._guard.stored is not None
        self._usage = dict(self._meter.usage)
        costs = [self._meter.with_output(self._settings, self._guard.stored, made)[0] for made in (0, _FAR)]
        self._base, self._top = map(_filled, costs)

    def _needed(self, made: int) -> list[int]:
        """Return what an answer of so many tokens costs (no fewer than it said), less the slack."""
        span = max(1, self._top[3] - self._base[3])
        more = min(made - self._said, span)
        ends = zip(self._base, self._top, self._slack, strict=True)
        return [base - (-more * (top - base) // span) - less for base, top, less in ends]

    @property
    def _said(self) -> int:
        """The output that the stream has said, which is in `_base`."""
        return self._usage.get(self._meter.output_name) or 0

    def _with(self, more: Amounts) -> Amounts:
        return tuple(map(sum, zip(self._reserved, _filled(more), strict=True)))  # type: ignore[return-value]


def _filled(amounts: Amounts) -> list[int]:
    return [figure or 0 for figure in amounts]


def look_after(call: Call, close: Callable[[], None]) -> None:
    """Reserve more for a call if it is time to; to be called before more of its answer is read.

    Args:
        call: The call, which has begun.
        close: Closes the connection to the provider, if the stream must stop.

    Raises:
        BudgetError: No more may be reserved. The connection is closed, and the call has ended.
    """
    if call.growth is None or not call.growth.due:
        return
    try:
        call.growth.keep_ahead()
    except BaseException as error:
        call.reader = get_ident()
        try:
            close()
        finally:
            call.guard.end(*call.streamed(error))
        raise


async def alook_after(call: Call, close: Callable[[], Awaitable[None]]) -> None:
    """Like `look_after`, without blocking the event loop."""
    if call.growth is None or not call.growth.due:
        return
    try:
        await call.growth.akeep_ahead()
    except Exception as error:
        call.reader = asyncio.current_task()
        try:
            await close()
        finally:
            await call.guard.aend(*call.streamed(error))
        raise
    except BaseException as error:
        call.guard.post(*call.streamed(error))  # cancelled: the end is booked without another wait
        raise


def _room(held: int, low: int, high: int) -> int:
    """Return how far from `low` to `high` what is held reaches, in parts of _WHOLE; below 0 if it does not."""
    if held >= high:
        return _WHOLE
    return (held - low) * _WHOLE // (high - low) if low < high else -_WHOLE
