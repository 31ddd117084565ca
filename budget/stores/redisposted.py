"""What nobody waits for: commands that were left with a Redis store, and the thread that carries them out.

A finalizer may leave a command anywhere, so that leaving waits for no lock. Whoever looks afterwards waits for what was
left before, so that it is seen. The thread has an event loop of its own and takes all that waits at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic

from budget.commands import Command, Renew
from budget.errors import BudgetError, StoreUnavailable
from budget.stores.tickets import late

__all__ = ["Posted"]

_POSTED = 30.0  # seconds in which a command that nobody waits for is tried
_GROUP = 128  # commands that are carried out at once
_PAUSE = 0.1  # seconds between attempts
_TURN = 0.001  # seconds between looks at whether what was left is done
_log = logging.getLogger("budget")


class Posted:
    """Commands that were left with a store.

    Args:
        carry_out: Carries out a command in so many seconds.
        part: Closes what an event loop had, in that loop.
        undelivered: Takes a command that could not be carried out, or None if it is said in the log; asked each time.
        soon: Seconds after which a command goes to `undelivered`, if there is one; else it is tried for longer. Asked
            each time.
    """

    def __init__(
        self,
        carry_out: Callable[[str, Command, float], Awaitable[object]],
        part: Callable[[asyncio.AbstractEventLoop], None],
        undelivered: Callable[[], Callable[[str, Command], None] | None],
        soon: Callable[[], float],
    ):
        self._carry_out, self._part = carry_out, part
        self._undelivered, self._soon = undelivered, soon
        self.queue: SimpleQueue[tuple[str, Command] | None] = SimpleQueue()
        self.waiting: set[int] = set()
        """Those that change what others see; no lock guards it."""
        self._start_lock = Lock()
        self._thread: Thread | None = None

    def put(self, account: str, command: Command) -> None:
        """Leave a command."""
        if type(command) is not Renew:
            self.waiting.add(id(command))
        self.queue.put((account, command))
        if self._thread is None and self._start_lock.acquire(blocking=False):
            try:
                with suppress(RuntimeError):  # the interpreter is ending: `rest` has it
                    self._start()
            finally:
                self._start_lock.release()

    def empty(self) -> bool:
        """Whether nothing waits for the thread."""
        return self.queue.empty()

    def settle(self, timeout: float) -> float:
        """Wait for what was left before, as long as one may; return how long that took."""
        before, began = self.waiting.copy(), monotonic()
        while not before.isdisjoint(self.waiting) and monotonic() < began + timeout:
            time.sleep(_TURN)
        return monotonic() - began

    async def asettle(self, timeout: float) -> float:
        """Like `settle`, for the running event loop."""
        before, began = self.waiting.copy(), monotonic()
        while not before.isdisjoint(self.waiting) and monotonic() < began + timeout:
            await asyncio.sleep(_TURN)
        return monotonic() - began

    def close(self, timeout: float, carry_out: Callable[[str, Command, float], object]) -> None:
        """Have everything carried out; what no thread is left for (the interpreter is ending), by the caller."""
        with self._start_lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self.queue.put(None)
                thread.join(timeout)
        until = monotonic() + timeout
        with suppress(Empty):
            while True:
                item = self.queue.get_nowait()
                if item is None:
                    continue
                try:
                    if monotonic() > until:
                        raise late(timeout)
                    carry_out(*item, max(_TURN, until - monotonic()))
                except BudgetError as error:
                    self._failed(*item, error)
                self.waiting.discard(id(item[1]))

    def _start(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name="budget-redis", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """Carry out what was left, all that waits at once."""
        loop = asyncio.new_event_loop()
        item = self.queue.get()
        while item is not None:
            group = [item]
            with suppress(Empty):
                while len(group) < _GROUP and (item := self.queue.get_nowait()) is not None:
                    group.append(item)
            loop.run_until_complete(self._all(group))
            item = item and self.queue.get()
        self._part(loop)
        loop.run_until_complete(asyncio.sleep(0))  # the loop lets go of the connection
        loop.close()

    async def _all(self, group: Sequence[tuple[str, Command]]) -> None:
        await asyncio.gather(*[self._one(*item) for item in group])

    async def _one(self, account: str, command: Command) -> None:
        until = monotonic() + (_POSTED if self._undelivered() is None else self._soon())
        while True:
            try:
                await self._carry_out(account, command, max(_TURN, until - monotonic()))
                break
            except BudgetError as error:
                if not isinstance(error, StoreUnavailable) or monotonic() + _PAUSE > until:
                    self._failed(account, command, error)
                    break
            await asyncio.sleep(_PAUSE)
        self.waiting.discard(id(command))

    def _failed(self, account: str, command: Command, error: BudgetError) -> None:
        undelivered = self._undelivered()
        if undelivered is not None and isinstance(error, StoreUnavailable):
            undelivered(account, command)
        else:
            _log.warning("%s was not carried out: %s", type(command).__name__, error)
