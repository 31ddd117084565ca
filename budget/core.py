"""The engine behind both doors: settings, store, verbs, and how a flow is driven.

What a verb does stands in `budget.verbs`, once, and how a caller's arguments become a flow in `budget.arguments`. Here
the flow is driven: each command that it yields goes to the store, and the outcome comes back, blocking or awaiting. A
reserve whose answer never came (a timeout, a cancelled task, a Ctrl-C) is called back with a refund of its id, which
the store carries out after it. What is answered when the store cannot is decided by `budget.outage.outage`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.above import Also
from budget.arguments import Arguments
from budget.books.books import Books, open_records
from budget.books.drainer import Drainer
from budget.commands import Command, Outcome, Reconcile, Refund, Renew, Reserve
from budget.config import Settings
from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.lease import Renewer
from budget.outage.outage import Outage
from budget.slices.slices import AHEAD, Slices
from budget.stores.base import Store, open_store
from budget.verbs import Flow, Verbs
from budget.waiting.line import Place

if TYPE_CHECKING:
    from budget.guard import Watcher

__all__ = ["Engine"]

_log = logging.getLogger("budget")
_ASIDE = (Place, Also)  # what a flow yields that is not for the store


class Engine(Arguments):
    """Settings, store, verbs and leases of one `Budget`."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.store: Store = open_store("disabled://" if settings.disabled else settings.store, settings.clock)
        self.verbs = Verbs(settings, self.drive, self.store)
        self.books = Books(self.store, settings.account, open_records(settings.records))
        self.drainer = Drainer(self.books)
        self.leases = Renewer(self._renew)
        self.timeout = self.store.default_timeout = settings.timeout or self.store.default_timeout
        self.outage = Outage(settings, self.store, self.verbs, self._try, self.books.entries)
        self.store.undelivered = self.outage.undelivered
        self.slices = self._make_slices()
        self.above: Engine | None = None
        if settings.above is not None and not settings.disabled:
            self.above = Engine(replace(settings, account=settings.above, above=None, limits=(), records=None))
            self.verbs.above = self.above.verbs
            self._check_above(self.above)
        self.watcher: Watcher | None = None
        self._opened = False
        if settings.disabled:
            _log.warning("BUDGET_DISABLED is set: every call is admitted, and nothing is recorded")

    def _check_above(self, above: Engine) -> None:
        """Refuse an account above that is in another store than this one; a test's sandbox takes what files say."""
        if self.store.url == "memory://" and above.store is not self.store and self.settings.clock is None:
            raise ConfigError(
                "above: a store in memory is private to one Budget, so that nobody could set limits in the account "
                "above; name a store that both share, such as 'sqlite:///budget.db'"
            )

    def _make_slices(self) -> Slices | None:
        speed, allowance = self.settings.slices, self.settings.local_allowance or 0
        if self.settings.disabled or not (speed or allowance):
            return None
        made = Slices(speed, allowance, self.verbs.new_id, self._post, self.leases.keep, self.leases.drop)
        self.outage.allowance = made.without_store
        return made

    def drive(self, flow: Flow, call_back: bool = False) -> Any:
        """Run a flow to its end. `call_back` refunds a reserve whose answer never came."""
        flow = self.slices.around(flow, call_back) if self.slices is not None else flow
        until = monotonic() + self.timeout
        try:
            command = next(flow)
            while True:
                if isinstance(command, _ASIDE):
                    try:
                        answer = self._aside(command)
                    except BudgetError as error:
                        command = flow.throw(error)
                    else:
                        command = flow.send(answer)
                    until = monotonic() + self.timeout
                    continue
                try:
                    outcome, until = self._call(command, until, call_back)
                except StoreUnavailable as error:
                    instead = self.outage.instead(command)
                    if instead is None:
                        command = flow.throw(error)
                        continue
                    self.outage.flush()
                    outcome = instead
                command = flow.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    async def adrive(self, flow: Flow, call_back: bool = False) -> Any:
        """Run a flow to its end without blocking the event loop."""
        flow = self.slices.around(flow, call_back) if self.slices is not None else flow
        until = monotonic() + self.timeout
        try:
            command = next(flow)
            while True:
                if isinstance(command, _ASIDE):
                    try:
                        answer = await self._aaside(command)
                    except BudgetError as error:
                        command = flow.throw(error)
                    else:
                        command = flow.send(answer)
                    until = monotonic() + self.timeout
                    continue
                try:
                    self.outage.check(command)
                    try:
                        outcome = await self.store.acall(self.settings.account, command, _left(until))
                    except BaseException as error:
                        self._lost(command, call_back, error)
                        raise
                    until = self._answered(until)
                except StoreUnavailable as error:
                    instead = self.outage.instead(command)
                    if instead is None:
                        command = flow.throw(error)
                        continue
                    await _in_thread(self.outage.flush)
                    outcome = instead
                command = flow.send(outcome)
        except StopIteration as end:
            return end.value
        finally:
            flow.close()

    def _aside(self, command: Place | Also) -> Any:
        """Do what is not the store's part: wait for room, or go on in the account above."""
        if isinstance(command, Place):
            return command.sleep()
        assert self.above is not None
        try:
            return self.above.drive(command.flow, call_back=True)
        except BaseException as error:
            self._cut_off(command, error)
            raise

    async def _aaside(self, command: Place | Also) -> Any:
        if isinstance(command, Place):
            return await command.asleep()
        assert self.above is not None
        try:
            return await self.above.adrive(command.flow, call_back=True)
        except BaseException as error:
            self._cut_off(command, error)
            raise

    def _cut_off(self, command: Also, error: BaseException) -> None:
        """Give back what was set aside here for steps above that were cancelled or interrupted."""
        if command.held is not None and not isinstance(error, BudgetError):  # of those the flow hears
            self._post_here(Refund(command.held, {"outcome": "no answer"}))

    def do(self, command: Command) -> Outcome:
        """Carry out one command, blocking."""
        return self._call(command, monotonic() + self.timeout, False)[0]

    def post(self, command: Command) -> None:
        """Hand a command over without waiting."""
        if self.above is not None:
            self.above.post(replace(command, known=None) if isinstance(command, Reconcile | Refund) else command)
        self._post_here(command)

    def _post_here(self, command: Command) -> None:
        if self.slices is not None:
            self.slices.posted(command)
        else:
            self._post(command)

    def _post(self, command: Command) -> None:
        if self.outage.breaker.open:
            self.outage.keep(command)
        else:
            self.store.post(self.settings.account, command)

    def close(self) -> None:
        """Finish what was handed over and let go of files and threads. What the store cannot take yet is kept."""
        self.verbs.line.close()
        self.leases.close()
        if self.above is not None:
            self.above.close()
        self.verbs.learner.flush()
        if self.slices is not None:
            self.slices.close()
        self.outage.settle()
        try:
            self.drainer.close()
            self.store.close()
        finally:
            self.outage.close()

    def _try(self, flow: Flow) -> Outcome:
        """Run the steps of a probe, or of what waits: whether the breaker is open or not."""
        try:
            command = next(flow)
            while True:
                assert not isinstance(command, Place | Also), "what must be carried out waits for no room"
                try:
                    outcome = self.store.call(self.settings.account, command, self.timeout)
                except StoreUnavailable as error:
                    self.outage.failed(error)
                    raise
                self.outage.answered()
                command = flow.send(outcome)
        except StopIteration as end:
            done: Outcome = end.value
            return done

    def _call(self, command: Command, until: float, call_back: bool) -> tuple[Outcome, float]:
        self.outage.check(command)
        try:
            outcome = self.store.call(self.settings.account, command, _left(until))
        except BaseException as error:
            self._lost(command, call_back, error)
            raise
        return outcome, self._answered(until)

    def _answered(self, until: float) -> float:
        """Take note of an answer, and return until when the verb may last.

        Its deadline counts from an open store. An answer that came after it is that of a store that had to be opened
        first, and so is the first one.
        """
        self.outage.answered()
        now = monotonic()
        if self._opened and now <= until:
            return until
        self._opened = True
        return now + self.timeout

    def _lost(self, command: Command, call_back: bool, error: BaseException) -> None:
        if isinstance(error, StoreUnavailable):
            self.outage.failed(error)
        # A call that goes on without its reservation ends under the same id, whether or not that was set aside.
        goes_on = isinstance(error, StoreUnavailable) and self.settings.on_store_error == "allow"
        goes_on = goes_on and getattr(command, "digest", None) != AHEAD
        if call_back and not goes_on and type(command) is Reserve and getattr(error, "sent", True):
            self.post(Refund(command.id, {"outcome": "no answer"}))

    def _renew(self, id: str, lease_us: int) -> None:
        self.post(Renew(id, lease_us))


async def _in_thread(work: Callable[[], None]) -> None:
    import asyncio

    await asyncio.to_thread(work)


def _left(until: float) -> float:
    left = until - monotonic()
    return left if left > 0.001 else 0.001
