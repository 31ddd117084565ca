"""What is done when the store cannot answer: a breaker, an outbox, and what callers are told meanwhile.

* A reserve is refused with `StoreUnavailable`, at once while the breaker is open. Only `on_store_error` can have it
  otherwise, and `Outage.instead` is the one place that looks at it.
* A reconcile, a refund and a record are never given up: they go to the outbox (`outbox.py`), and the caller gets
  the answer that the store is presumed to give. One thread, which is there only as long as there is work for it,
  probes the store while the breaker is open and carries out what waits, with the same ids, in order: what this process
  has left, then what processes that are gone have left.

The store knows an id for an hour after its end. What has waited for longer is looked for in the ledger first, so that
what did arrive, although no answer came, is not booked a second time.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Container, Iterable, Sequence
from sys import is_finalizing
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING

from budget.asks import filled
from budget.commands import Amounts, Command, LoadPolicy, Outcome, Reconcile, Record, Refund, Reservation, Reserve
from budget.errors import BudgetError, StoreUnavailable
from budget.outage.breaker import PROBE_EVERY, Breaker
from budget.outage.outbox import Item, Kept, Outbox, folder_of

if TYPE_CHECKING:
    from budget.config import Settings
    from budget.ledger import Entry
    from budget.stores.base import Store
    from budget.verbs import Flow, Verbs

__all__ = ["Outage"]

LOOK = 10.0
"""Seconds between looks for the outboxes of processes that are gone."""
_SURE = 45 * 60 * 1_000_000  # microseconds in which the store surely knows an id: less than the hour of `budget.pool`
_SLACK = 10 * 60 * 1_000_000  # how far a host's clock may be from the store's, of which it may not have heard
_MOMENT = 1.0  # seconds that a close waits for what waits
_ENDS = ("reconciled", "refunded", "recorded", "backfilled", "recovered")
_NOTHING: Amounts = (0, 0, 0, 0, 0)
_log = logging.getLogger("budget")


class Outage:
    """One engine's relation to a store that may not answer.

    Args:
        settings: What the engine is made of.
        store: Its store.
        verbs: Its verbs.
        drive: Runs steps to their end, whether the breaker is open or not.
        entries: Iterates the ledger since an instant.

    Attributes:
        breaker: Whether the store is given up on for now.
        degraded: Calls that went on without a reservation, because `on_store_error` says so.
        allowance: Decides a reserve from the local allowance, or None: there is none.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        verbs: Verbs,
        drive: Callable[[Flow], Outcome],
        entries: Callable[[int], Iterable[Entry]],
    ):
        self._settings, self._replay, self._clock = settings, verbs.replay, verbs.clock.now
        self._drive, self._entries = drive, entries
        shared = not store.url.startswith(("memory:", "disabled:"))
        self.outbox = Outbox(folder_of(store.url, settings.account)) if shared else None
        self.degraded = 0
        self.allowance: Callable[[Reserve], Outcome | None] | None = None
        self._reset()
        _OUTAGES.add(self)

    def _reset(self) -> None:
        self.breaker = Breaker()
        self._look_at = 0.0 if self.outbox is not None else float("inf")
        self._starting = Lock()
        self._thread: Thread | None = None
        self._wake = Event()
        self._stop_at = float("inf")
        self._told = self._told_degraded = self._closing = False

    # What the engine tells it, and asks it.

    def check(self, command: Command) -> None:
        """Refuse at once what need not be tried.

        Raises:
            StoreUnavailable: The breaker is open, or too much waits for anything new to be begun.
        """
        if self.breaker.open:
            self._ensure()
            raise _unsent("the store does not answer; it is asked again every second")
        if self.outbox is not None and type(command) is Reserve and self.outbox.full:
            self._ensure()
            raise _unsent(f"{len(self.outbox)} ends of calls wait for the store; nothing is begun before they arrived")

    def answered(self) -> None:
        """Take note that the store has answered."""
        now = monotonic()
        if self.breaker.troubled and self.breaker.answered(now):
            _log.warning("the store answers again")
            self._told_degraded = False
        if now >= self._look_at and self.outbox is not None:
            self._look_at = now + LOOK
            if len(self.outbox) or self.outbox.orphaned():
                self._ensure()

    def failed(self, error: StoreUnavailable) -> None:
        """Take note that the store could not answer. One that has lost entries does answer, and what it says is no."""
        if not getattr(error, "lost", 0) and self.breaker.failed(monotonic()):
            _log.warning("the store is given up on until it answers again: %s", error)
            self._ensure()

    def instead(self, command: Command) -> Outcome | None:
        """Return what is answered in the store's place, or None: then the caller is told that it cannot answer.

        A cost or an end has been left in the outbox then; `flush` brings it to the disk.
        """
        now = self._clock()
        if isinstance(command, Kept) and self.outbox is not None:
            self.keep(command)
            return _presumed(command, now)
        if type(command) is Reserve and self.allowance is not None:
            return self.allowance(command)
        if type(command) is Reserve and self._settings.on_store_error == "allow":
            self.degraded += 1
            if not self._told_degraded:
                self._told_degraded = True
                _log.warning("calls go on without a reservation until the store answers: on_store_error allows it")
            return _unreserved(command, now)
        return None

    def keep(self, command: Command) -> None:
        """Leave in the outbox what must not get lost; anything else is not worth it. Takes no lock, and waits not."""
        if isinstance(command, Kept) and self.outbox is not None:
            self.outbox.leave(Item(self._clock(), command))
            if not self._told:
                self._told = True
                _log.warning("the store cannot take the ends of calls; they wait in %s", self.outbox.folder)
            self._ensure()

    def undelivered(self, account: str, command: Command) -> None:
        """Take back from the store what nobody waits for, and what it could not carry out."""
        if account == self._settings.account:
            self.keep(command)

    def flush(self) -> None:
        """Have on the disk what was left."""
        if self.outbox is not None:
            self.outbox.flush()

    def settle(self) -> None:
        """Before the store is closed: give what waits a moment to arrive, and end the thread."""
        self._closing = True  # what the store gives back when it is closed is for whoever comes next
        if self._starting.acquire(timeout=_MOMENT):  # a thread that is being started cannot be waited for yet
            self._starting.release()
        thread, self._stop_at = self._thread, monotonic() + _MOMENT
        self._wake.set()
        if thread is not None and thread.is_alive():
            thread.join(2 * _MOMENT)

    def close(self) -> None:
        """After the store is closed: what could not arrive is for whoever comes next."""
        if self.outbox is not None:
            self.outbox.close()
            self._look_at = 0.0
        self._closing = False

    # The thread.

    def _ensure(self) -> None:
        # While the interpreter ends Python 3.11 would wait for ever for a new thread; the outbox writes at once then.
        if self._closing or self._thread is not None or is_finalizing():
            return
        if self._starting.acquire(blocking=False):
            try:
                if self._thread is None:
                    self._wake.clear()
                    self._stop_at = float("inf")
                    self._thread = Thread(target=self._work, name="budget-outbox", daemon=True)
                    self._thread.start()
            except RuntimeError:  # the interpreter is ending: what waits is written at its end
                self._thread = None
            finally:
                self._starting.release()

    def _work(self) -> None:
        pause = 0.05
        while True:
            self.flush()
            self._round()
            closing = self._stop_at < float("inf")
            if closing or not self._busy:
                with self._starting:
                    self._thread = None
                # Who left something while the lock was held found it held, and started nobody.
                if not closing and self._busy:
                    self._ensure()
                return
            pause = min(PROBE_EVERY, 2 * pause)
            self._wake.wait(max(0.05, self.breaker.probe_at - monotonic()) if self.breaker.open else pause)

    @property
    def _busy(self) -> bool:
        return self.breaker.open or (self.outbox is not None and len(self.outbox) > 0)

    def _round(self) -> None:
        """Probe the store, if need be, and carry out what waits, as far as it can answer and there is time."""
        outbox = self.outbox
        try:
            # The probe, and the store's time now: what is carried on here stood still if the machine slept.
            now = self._drive(_once(LoadPolicy())).now
            if outbox is None:
                return
            arrived = self._arrived(outbox.items(), now)
            count = len(outbox)
            while (item := outbox.first()) is not None:
                self._carry_out(item, arrived)
                outbox.done(item)
            self._told = self._told and not count
            _say_carried_out(count)
            for orphan in outbox.orphans():
                arrived = self._arrived(orphan.items, now)
                for item in orphan.items:
                    self._carry_out(item, arrived)
                orphan.remove()
                _say_carried_out(len(orphan.items))
        except BudgetError as error:
            if not isinstance(error, StoreUnavailable):
                self.answered()  # callers are told themselves what is wrong
        except OSError as error:
            self._look_at = float("inf")
            _log.warning("an outbox that a process left cannot be taken over: %s", error)
        except Exception:  # a fault of ours: the thread must not end by it, for nobody else probes the store
            _log.exception("what waits for the store was not carried out")

    def _carry_out(self, item: Item, arrived: Container[str]) -> None:
        command = item.command
        if command.id in arrived:
            return
        if monotonic() > self._stop_at:
            raise StoreUnavailable("it is closed")
        try:
            outcome = self._drive(self._replay(command, item.at))
        except StoreUnavailable:
            raise
        except Exception as error:  # it would fail again, and hold up all that waits behind it
            _log.error("%s of %s was not carried out: %s", type(command).__name__, command.id, error)
            return
        if outcome.status == "conflict":
            _log.warning("%s of %s was not carried out: it has another end", type(command).__name__, command.id)

    def _arrived(self, items: Sequence[Item], now: int) -> Container[str]:
        """Find in the ledger which of those that the store may have forgotten had arrived."""
        old = [item for item in items if item.at < now - _SURE]
        if not old:
            return set()
        ids, since = {item.command.id for item in old}, min(item.at for item in old) - _SLACK
        return {e.reservation for e in self._entries(since) if e.reservation in ids and e.kind in _ENDS}


def _say_carried_out(count: int) -> None:
    if count:
        _log.warning("%d ends of calls that had to wait for the store were carried out", count)


def _unsent(message: str) -> StoreUnavailable:
    error = StoreUnavailable(message)
    error.sent = False
    return error


def _once(command: Command) -> Flow:
    return (yield command)


def _presumed(command: Command, now: int) -> Outcome:
    """Return what the store will answer, as far as one can tell."""
    if isinstance(command, Record):
        ended = Reservation(command.id, command.digest, "reconciled", command.actual, (), 0, now, now, now,
                            command.actual, command.scope, command.detail)  # fmt: skip
        return Outcome("recorded", now, command.version, reservation=ended)
    assert isinstance(command, Reconcile | Refund)
    known = command.known
    if isinstance(command, Refund):
        how, charged = "refunded", _NOTHING
    else:
        how, charged = "reconciled", filled(command.actual, known.amounts if known else None)
    if known is None:
        known = Reservation(command.id, "", "open", charged, (), 0, 0, now)
    return Outcome(how, now, 0, reservation=known.ended_as(how, now, charged))


def _unreserved(command: Reserve, now: int) -> Outcome:
    """Return a reservation that no store knows. Its end is booked in full, because no store knows it."""
    made = Reservation(command.id, command.digest, "open", command.amounts, (), command.lease_us,
                       now + command.lease_us, now, scope=command.scope, detail={**command.detail, "degraded": True},
                       parent=command.parent)  # fmt: skip
    return Outcome("reserved", now, command.version, reservation=made)


_OUTAGES: weakref.WeakSet[Outage] = weakref.WeakSet()


def _forked() -> None:
    for outage in list(_OUTAGES):
        outage._reset()  # its thread is the parent's


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forked)
