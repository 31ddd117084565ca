"""A guarded block or call: reserve, keep the lease, end exactly once, on every way out.

`Guard` is what `with budget.reservation(...)` uses and what wrapped clients build on. Whatever ends it first wins:
an explicit reconcile or refund, the end of the block, an exception, a cancellation, or the finalizer of a stream that
was dropped. An end that nobody can wait for (a cancelled task, a finalizer) is handed to the store, which carries it
out.

A guard may set more aside while it is open (`extend`); `budget.extensions` has how.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from budget.asks import Ask
from budget.commands import Amounts, Reconcile, Refund, Reservation
from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.extensions import Extensions
from budget.outcome import CHARGE, REFUND, outcome

if TYPE_CHECKING:
    from types import TracebackType

    from budget.core import Engine
    from budget.engine import Budget
    from budget.verbs import Flow

__all__ = ["BLOCKS", "Guard", "Watched", "Watcher", "set_aside"]

_log = logging.getLogger("budget")
_AS_RESERVED: Amounts = (None, None, None, None, None)
BLOCKS: ContextVar[tuple[weakref.ref[Guard], ...]] = ContextVar("budget_blocks", default=())
"""The blocks that were entered around this, outermost first."""


def set_aside(engine: Engine) -> bool:
    """Whether this runs in a block of `budget.reservation(...)` that is open."""
    guards = [reference() for reference in BLOCKS.get()]
    return any(guard is not None and guard.belongs(engine) and not guard.ended for guard in guards)


class Watched(Protocol):
    """What somebody who watches has of one call."""

    def ended(self, amounts: Amounts | None, detail: Mapping[str, Any], refund: bool) -> None:
        """Be told how it ended; a second end says nothing new."""


class Watcher(Protocol):
    """Somebody who watches calls where they are made: `Engine.watcher`. It must be quick."""

    def began(self, ask: Ask, stored: Reservation) -> Watched | None:
        """Be told that money was set aside."""

    def refused(self, ask: Ask, error: BaseException) -> None:
        """Be told that a reserve raised."""


class Guard:
    """Money set aside for one block, and its end. `Budget.reservation(...)` makes it.

    Args:
        budget: Whose it is.
        ask: What is to be set aside.
        lease_us: Its lease, microseconds.
        wait: Seconds to wait for room at most, or None.
        waits: Without that, wait as the `on_short` of run or limit says.

    Attributes:
        stored: The reservation, once the block is entered.
    """

    def __init__(self, budget: Budget, ask: Ask, lease_us: int, wait: float | None = None, waits: bool = False):
        self._engine = budget.engine
        self._ask, self._lease_us, self._wait, self._waits = ask, lease_us, wait, waits
        self.stored: Reservation | None = None
        self._ids: list[str] = []  # of its reservations, for its finalizer
        self._extensions: Extensions | None = None
        self._watched: Watched | None = None

    @property
    def id(self) -> str:
        """The reservation's id."""
        return self._known.id

    @property
    def usd(self) -> Any:
        """What was set aside, Decimal USD."""
        return self._known.usd

    @property
    def ended(self) -> bool:
        """Whether an end was handed to the store."""
        return self.stored is not None and not self._engine.leases.keeps(self.stored.id)

    def belongs(self, engine: Engine) -> bool:
        """Whether it is this engine's, and entered."""
        return self._engine is engine and self.stored is not None

    @property
    def _known(self) -> Reservation:
        if self.stored is None:
            raise ConfigError("reservation: enter it first, with `with` or `async with`")
        return self.stored

    # Beginning.

    def begin(self) -> Guard:
        """Reserve, or raise what `Budget.reserve` raises."""
        id = self._announce()
        try:
            self.stored = self._engine.drive(self._reserve(id), call_back=True)
        except Exception as error:
            self._not_begun(id, error)
            raise
        self._watch()
        return self

    async def abegin(self) -> Guard:
        """Reserve without blocking the event loop."""
        id = self._announce()
        try:
            self.stored = await self._engine.adrive(self._reserve(id), call_back=True)
        except Exception as error:
            self._not_begun(id, error)
            raise
        self._watch()
        return self

    def _announce(self) -> str:
        """Make the id and see to its end before it is reserved, so that an interrupt after any step finds one.

        What a disabled engine reserves has no end, and counts as ended.
        """
        if self.stored is not None:
            raise ConfigError("reservation: it was entered before; make another one for another block")
        id = self._engine.verbs.new_id()
        if not self._engine.settings.disabled:
            self._ids = [id]
            weakref.finalize(self, _dropped, self._engine, self._ids)
            self._engine.leases.keep(id, self._lease_us)
        return id

    def _not_begun(self, id: str, error: Exception) -> None:
        self._engine.leases.drop(id)
        if (watcher := self._engine.watcher) is not None:
            _safely(watcher.refused, self._ask, error)

    def _watch(self) -> None:
        if (watcher := self._engine.watcher) is not None:
            self._watched = _safely(watcher.began, self._ask, self._known)

    def _tell(self, amounts: Amounts | None, detail: Mapping[str, Any], refund: bool) -> None:
        if self._watched is not None:
            _safely(self._watched.ended, amounts, detail, refund)

    def _reserve(self, id: str) -> Flow:
        place = self._engine.place(self._wait, self._ask)
        reserve = self._engine.reserve_or_wait if self._waits else self._engine.verbs.reserve
        return reserve(self._ask, id, self._lease_us, None, place)

    # Growing.

    def extend(self, more: Amounts, most: Amounts) -> None:
        """Set more aside for the same call, in the same pools; nothing happens if it has ended.

        Args:
            more: What is added, per unit.
            most: What there is then in all, which caps are held to.

        Raises:
            BudgetError: What `Budget.reserve` raises; what was set aside before stays so.
        """
        try:
            self._engine.drive(self._extend(more, most), call_back=True)
        except Exception:
            if not self.ended:  # else nobody needs it
                raise

    async def aextend(self, more: Amounts, most: Amounts) -> None:
        """Like `extend`, without blocking the event loop."""
        try:
            await self._engine.adrive(self._extend(more, most), call_back=True)
        except Exception:
            if not self.ended:
                raise

    def _extend(self, more: Amounts, most: Amounts) -> Flow:
        if self._extensions is None:
            self._extensions = Extensions(self._engine, self._ids, self._lease_us)
        id = self._extensions.announce()
        if self.ended:
            self._extensions.forget(id)  # whoever ended it may not have seen this one
        else:
            yield from self._extensions.reserve(id, self._known, self._ask, more, most)

    # Ending: each returns False if it had ended before.

    def claim(self) -> bool:
        """Take the right to end it; True for the first who asks: who takes it out of the leases, which is one step."""
        return self.stored is not None and self._engine.leases.drop(self.stored.id)

    def reconcile(self, usage: object = None, *, usd: object = None, tokens: int | None = None) -> None:
        """Replace the reservation by the true cost. See `Budget.reconcile`.

        Raises:
            ConfigError, ArgumentTypeError: The cost cannot be read; the block is still open.
        """
        if self._engine.settings.disabled:
            return
        flow = self._engine.reconcile(self._known, usage, usd, tokens, None)
        done = self._engine.drive(flow)
        self.claim()
        self._give_back()
        self._tell(done.charged, {}, False)

    def refund(self) -> None:
        """Make the whole reservation available again: nothing was billed."""
        if self._engine.settings.disabled:
            return
        self._engine.drive(self._engine.verbs.refund(self._known, {}))
        self.claim()
        self._give_back()
        self._tell(None, {}, True)

    def end(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool = False) -> bool:
        """End it and wait for the store; a failure is logged, not raised: the call has happened.

        While the store cannot answer, the end is kept on disk.
        """
        if not self.claim():
            return False
        try:
            self._engine.drive(self._end_flow(amounts, detail, refund))
        except BudgetError as error:
            self._failed(error)
        except BaseException:
            self._hand_over(amounts, detail, refund)  # it may have been interrupted before; twice is once
            raise
        self._give_back()
        self._tell(amounts, detail, refund)
        return True

    async def aend(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool = False) -> bool:
        """Like `end`, without blocking the event loop. A cancellation interrupts the wait, not the end."""
        if not self.claim():
            return False
        try:
            await self._engine.adrive(self._end_flow(amounts, detail, refund))
        except BudgetError as error:
            self._failed(error)
        except BaseException:
            self._hand_over(amounts, detail, refund)
            raise
        self._give_back()
        self._tell(amounts, detail, refund)
        return True

    def post(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool = False) -> bool:
        """Hand the end to the store without waiting: for finalizers and cancelled tasks."""
        if not self.claim():
            return False
        self._hand_over(amounts, detail, refund)
        return True

    def _hand_over(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool) -> None:
        known, amounts = self._known, self._whole(amounts)
        end = Refund(known.id, detail, known) if refund else Reconcile(known.id, amounts, detail, known=known)
        self._engine.post(end)
        self._engine.verbs.presume(known, amounts, refund)
        self._give_back()
        self._tell(amounts, detail, refund)

    def _end_flow(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool) -> Flow:
        verbs = self._engine.verbs
        if refund:
            yield from verbs.refund(self._known, detail)
        else:
            yield from verbs.reconcile(self._known, self._whole(amounts), detail)
        if self._extensions is not None:
            yield from self._extensions.end(self._known)

    def _whole(self, amounts: Amounts) -> Amounts:
        return amounts if self._extensions is None else self._extensions.whole(self._known, amounts)

    def _give_back(self) -> None:
        """Hand over the end of what was set aside besides, where it has none yet."""
        if self._extensions is not None:
            self._extensions.give_back(self._known)

    def _failed(self, error: BudgetError) -> None:
        sure = "it is charged when its lease ends" if isinstance(error, StoreUnavailable) else "it has another end"
        _log.warning("reservation %s: its end was not booked (%s); %s", self._known.id, error, sure)

    def unanswered(
        self, error: BaseException | None, attempts: int | None, statuses: Sequence[int] = ()
    ) -> tuple[Amounts, dict[str, Any], bool]:
        """Return how a call without a usage ends, by the table of outcomes: (amounts, detail, refund)."""
        cause = type(error).__name__ if error is not None else "no usage"
        try:
            decided = (self._engine.settings.outcome or outcome)(error, attempts, statuses)
        except Exception:
            _log.exception("the function given as outcome= failed; the reservation is charged")
            decided = CHARGE
        if decided == REFUND:
            return _AS_RESERVED, {"outcome": cause}, True
        return _AS_RESERVED, {"outcome": cause, "estimated": True}, False

    # The block.

    def __enter__(self) -> Guard:
        self.begin()
        BLOCKS.set((*BLOCKS.get(), weakref.ref(self)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left()
        if not self.ended:
            self.end(*self.unanswered(error, None))

    async def __aenter__(self) -> Guard:
        await self.abegin()
        BLOCKS.set((*BLOCKS.get(), weakref.ref(self)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left()
        if not self.ended:
            await self.aend(*self.unanswered(error, None))

    def _left(self) -> None:
        BLOCKS.set(tuple([reference for reference in BLOCKS.get() if reference() is not self]))

    def __repr__(self) -> str:
        return f"Guard({self.stored.id if self.stored else 'not entered'})"


def _safely(told: Callable[..., Any], *what: Any) -> Any:
    """Tell somebody who watches. What that raises is logged: a call does not end by it."""
    try:
        return told(*what)
    except Exception:
        _log.exception("what watches calls has failed")
        return None


def _dropped(engine: Engine, ids: list[str]) -> None:
    """Charge what was dropped while it was open: by its owner, by an interrupt, or by the end of the interpreter."""
    for id in ids:
        if engine.leases.drop(id):
            engine.post(Reconcile(id, _AS_RESERVED, {"outcome": "dropped", "estimated": True}))
