"""Tickets: commands on their way to a store's writer, and how their outcomes come back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from budget.commands import Command, Outcome
from budget.errors import StoreUnavailable

if TYPE_CHECKING:
    import asyncio

__all__ = ["Deadlines", "Halt", "Ticket", "hand_back", "late"]

Undelivered = Callable[[str, Command], None]
_TICK = 0.02  # seconds between looks at deadlines
_log = logging.getLogger("budget")


class Ticket:
    """A command on its way: who waits for it (a thread by the lock, a task by the future, or nobody)."""

    __slots__ = ("account", "command", "done", "error", "future", "loop", "now", "outcome", "timeout", "until")

    def __init__(self, account: str, command: Command | None, now: int | None = None):
        self.account, self.command, self.now = account, command, now
        self.outcome: Outcome | None = None
        self.error: Exception | None = None
        self.done: Lock | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[Outcome] | None = None  # None again once it has its answer
        self.timeout = self.until = 0.0  # of its future, by the clock of its loop


class Halt:
    """The wish that a writer ends. Who settles it first decides: the writer, who ends, or who wished it and goes on."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = Lock()

    def settle(self) -> bool:
        """Decide; False if the other one has."""
        return self._lock.acquire(blocking=False)


def hand_back(group: Sequence[Ticket], undelivered: Undelivered | None) -> None:
    """Wake who waits: threads one by one, tasks with one wake-up per event loop.

    Args:
        group: Tickets with an outcome or an error.
        undelivered: See `stores.base.Store`.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[Ticket]] = {}
    for ticket in group:
        if ticket.done is not None:
            ticket.done.release()
        elif ticket.loop is not None:
            by_loop.setdefault(ticket.loop, []).append(ticket)
        else:
            _unawaited(ticket, undelivered)
    for loop, tickets in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, tickets, undelivered)
        except RuntimeError:  # the loop was closed, and with it every task that waited
            for ticket in tickets:
                _unawaited(ticket, undelivered)


def _unawaited(ticket: Ticket, undelivered: Undelivered | None) -> None:
    if ticket.error is None or ticket.command is None:
        return
    if undelivered is not None and isinstance(ticket.error, StoreUnavailable):
        undelivered(ticket.account, ticket.command)
    else:
        _log.warning("%s was not carried out: %s", type(ticket.command).__name__, ticket.error)


def _resolve(tickets: Sequence[Ticket], undelivered: Undelivered | None) -> None:
    for ticket in tickets:
        future = ticket.future
        if future is None or future.done():
            _unawaited(ticket, undelivered)
            continue
        if ticket.error is not None:
            future.set_exception(ticket.error)
        elif ticket.outcome is not None:
            future.set_result(ticket.outcome)
        ticket.future = ticket.outcome = None  # whoever still has the ticket keeps no answer alive


class Deadlines:
    """Ends the waits of an event loop that have lasted long enough. One timer for all costs less than one each."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self.loop = loop
        self._waits: list[Ticket] = []
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, ticket: Ticket, timeout: float) -> None:
        """Have a wait end with an error after so many seconds, or at most a few hundredths later."""
        ticket.timeout, ticket.until = timeout, self.loop.time() + timeout
        self._waits.append(ticket)
        if self._timer is None:
            self._timer = self.loop.call_later(_TICK, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        waits, self._waits = self._waits, []
        for ticket in waits:
            future = ticket.future
            if future is None or future.done():
                continue
            if ticket.until <= now:
                future.set_exception(late(ticket.timeout))
            else:
                self._waits.append(ticket)
        self._timer = self.loop.call_later(_TICK, self._look) if self._waits else None


def late(timeout: float) -> StoreUnavailable:
    """Return the error of an answer that did not come in time."""
    return StoreUnavailable(f"the store gave no answer within {round(timeout, 2):g} s")
