"""The Redis store: pools, reservations and ledger on a Redis or Valkey server, for many processes and hosts.

The decision runs in the server, as one script per verb (`lua/`): the counters, the reservation and the ledger entry
move in one step, and nobody sees a part of it. `scripts.py` turns commands into requests, `multiplex.py` carries those
of all callers over one connection, `redisserver.py` makes connections, `redisreads.py` reads.

Within its deadline a command whose connection was lost is sent again with the same id, which the scripts know it by. A
command that was left with `post`, or whose caller was cancelled, is carried out by a thread that waits longer; others
of this process wait for those, so that whoever looks sees what was handed over before.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any

from budget.commands import Command, Learn, LoadPolicy, Outcome, Renew, Reservation, Reserve, Status, Sweep
from budget.errors import BudgetError, StoreUnavailable
from budget.ledger import Entry
from budget.stores import redisreads
from budget.stores.base import Snapshot
from budget.stores.loopwire import LoopWire
from budget.stores.multiplex import Lost, ServerError
from budget.stores.redisserver import OPEN_TIMEOUT, Server, facts
from budget.stores.requests import Keys
from budget.stores.scripts import Steps, flow, request, run_script
from budget.stores.threadwire import ThreadWire
from budget.stores.tickets import late

__all__ = ["RedisStore"]

_POSTED = 30.0  # seconds in which a command that nobody waits for is tried
_GROUP = 128  # posted commands that are carried out at once
_PAUSE = 0.02  # seconds between attempts to connect
_TURN = 0.001  # seconds between looks at whether what was posted is done
_NOT_NOW = ("LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN")  # errors of a server that did nothing, and soon will
_LEFT_ALONE = (Reserve, Status, Sweep, LoadPolicy, Learn)  # what need not be carried out when its caller has gone
_log = logging.getLogger("budget")


class RedisStore:
    """Pools, reservations and ledger on a server. See `stores.base.Store`.

    Args:
        url: As redis-py reads it: "redis://cache:6379/0", "rediss://user:password@cache", "unix:///run/valkey.sock".

    Raises:
        ConfigError: It is not such a URL.
    """

    default_timeout = 0.25

    def __init__(self, url: str):
        self._server = Server(url)
        self.url = self._server.url
        self._keys: dict[str, Keys] = {}
        self._reset()
        _STORES.add(self)

    def _reset(self) -> None:
        self._wire = ThreadWire(self._server.connect)
        self._wires: dict[asyncio.AbstractEventLoop, LoopWire] = {}
        self._last_wire: LoopWire | None = None
        self._posted: SimpleQueue[tuple[str, Command] | None] = SimpleQueue()
        self._waiting: set[int] = set()  # the posted ones that change what others see; no lock guards it
        self._start_lock = Lock()
        self._thread: Thread | None = None

    # What callers do.

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Carry out a command and wait for its outcome."""
        if self._waiting:
            began = monotonic()
            self._settle(timeout / 2)
            timeout -= monotonic() - began
        outcome: Outcome = self._drive(flow(self._keys_of(account), command, now), timeout)
        return outcome

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Carry out a command and await its outcome; if the task is cancelled it is carried out all the same."""
        try:
            if self._waiting:
                before, began = self._waiting.copy(), monotonic()
                while not before.isdisjoint(self._waiting) and monotonic() < began + timeout / 2:
                    await asyncio.sleep(_TURN)
                timeout -= monotonic() - began
            return await self._acall(account, command, timeout)
        except asyncio.CancelledError:
            if not isinstance(command, _LEFT_ALONE):
                self.post(account, command)
            raise

    async def _acall(self, account: str, command: Command, timeout: float) -> Outcome:
        loop = asyncio.get_running_loop()
        wire = self._last_wire
        if wire is None or wire.loop is not loop:
            wire = self._wire_of(loop)
        if not wire.opened:
            await self._aopen(wire, loop.time() + OPEN_TIMEOUT, OPEN_TIMEOUT, sent=False)
        until = loop.time() + timeout
        steps = flow(self._keys_of(account), command, None)
        data, sent = next(steps), False
        while True:
            try:
                reply = await wire.exchange(data, until)
            except Lost as error:
                sent = sent or error.sent
                await self._aopen(wire, until, timeout, sent)
                continue
            except TimeoutError:
                raise late(timeout) from None
            if _not_now(reply) and loop.time() + _PAUSE < until:
                await asyncio.sleep(_PAUSE)
                continue
            try:
                data = steps.send(reply)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome

    def _wire_of(self, loop: asyncio.AbstractEventLoop) -> LoopWire:
        wire = self._wires.get(loop)
        if wire is None:
            for ended in [each for each in list(self._wires) if each.is_closed()]:
                self._wires.pop(ended, None)
            wire = self._wires[loop] = LoopWire(self._server.aconnect)
        self._last_wire = wire
        return wire

    def post(self, account: str, command: Command) -> None:
        """Leave a command with a thread of the store. A finalizer may call this anywhere: it waits for no lock."""
        if type(command) is not Renew:
            self._waiting.add(id(command))
        self._posted.put((account, command))
        if self._thread is None and self._start_lock.acquire(blocking=False):
            try:
                with suppress(RuntimeError):  # the interpreter is ending: `close` carries it out
                    self._start()
            finally:
                self._start_lock.release()

    # How.

    def _keys_of(self, account: str) -> Keys:
        keys = self._keys.get(account)
        if keys is None:
            keys = self._keys[account] = Keys(account)
        return keys

    def _open(self) -> float:
        """Have a connection, and return the time from which a deadline counts."""
        if not self._wire.opened:
            try:
                self._wire.open(monotonic() + OPEN_TIMEOUT)
            except Lost as error:
                raise _unreachable(error, sent=False) from None
            except TimeoutError:
                raise late(OPEN_TIMEOUT) from None
        return monotonic()

    def _drive(self, steps: Steps, timeout: float) -> Any:
        until = self._open() + timeout
        data = next(steps)
        while True:
            reply = self._exchange(data, until, timeout)
            try:
                data = steps.send(reply)
            except StopIteration as end:
                return end.value

    def _exchange(self, data: bytes, until: float, timeout: float) -> Any:
        sent = False
        while True:
            try:
                reply = self._wire.exchange(data, until)
                if not _not_now(reply) or monotonic() + _PAUSE >= until:
                    return reply
            except TimeoutError:
                raise late(timeout) from None
            except Lost as error:
                sent = sent or error.sent
                if monotonic() + _PAUSE >= until:
                    raise _unreachable(error, sent) from None
            time.sleep(_PAUSE)

    async def _aopen(self, wire: LoopWire, until: float, timeout: float, sent: bool) -> None:
        """Have a connection in this loop; the first one may take its time, another is part of a deadline."""
        first = not wire.opened
        loop = asyncio.get_running_loop()
        while not wire.connected:
            try:
                async with asyncio.timeout_at(until):
                    await wire.open(until - loop.time())
            except TimeoutError:
                raise late(timeout) from None
            except Lost as error:
                if first or loop.time() + _PAUSE >= until:
                    raise _unreachable(error, sent) from None
                await asyncio.sleep(_PAUSE)

    # What nobody waits for.

    def _start(self) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name="budget-redis", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        """Carry out what was posted, all that waits at once."""
        loop = asyncio.new_event_loop()
        item = self._posted.get()
        while item is not None:
            group = [item]
            with suppress(Empty):
                while len(group) < _GROUP and (item := self._posted.get_nowait()) is not None:
                    group.append(item)
            loop.run_until_complete(self._carry_out_all(group))
            item = item and self._posted.get()
        if wire := self._wires.pop(loop, None):
            wire.close()
        loop.run_until_complete(asyncio.sleep(0))  # the loop lets go of the connection
        loop.close()

    async def _carry_out_all(self, group: Sequence[tuple[str, Command]]) -> None:
        await asyncio.gather(*[self._carry_out(*item) for item in group])

    async def _carry_out(self, account: str, command: Command) -> None:
        until = monotonic() + _POSTED
        while True:
            try:
                await self._acall(account, command, max(_TURN, until - monotonic()))
                break
            except BudgetError as error:
                if not isinstance(error, StoreUnavailable) or monotonic() > until:
                    _log.warning("%s was not carried out: %s", type(command).__name__, error)
                    break
            await asyncio.sleep(_PAUSE * 5)
        self._waiting.discard(id(command))

    def _settle(self, timeout: float) -> None:
        """Wait for what was posted before, as long as one may."""
        before, until = self._waiting.copy(), monotonic() + timeout
        while not before.isdisjoint(self._waiting) and monotonic() < until:
            time.sleep(_TURN)

    # Reading.

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Read a page of the ledger. Refusals have the number of the entry that they follow."""
        return redisreads.entries(self._ask, self._keys_of(account), after, since_us)

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Read the open reservations, oldest first."""
        return redisreads.reservations(self._ask, self._keys_of(account))

    def snapshot(self, account: str) -> Snapshot:
        """Read all counters at one instant."""
        return redisreads.snapshot(self._ask, self._run, self._keys_of(account))

    def names(self, account: str) -> Mapping[str, str]:
        """Read what the ids of the pools stand for."""
        return redisreads.names(self._ask, self._keys_of(account))

    def last(self, account: str) -> int:
        """Read the number of the last entry."""
        return redisreads.last(self._ask, self._keys_of(account))

    def remove(self, account: str) -> None:
        """Remove a scratch account and all that is in it."""
        redisreads.remove(self._ask, self._keys_of(account))

    def facts(self) -> Mapping[str, str]:
        """Return what the server says of itself; nothing if it does not let us ask."""
        try:
            return facts(self._ask("INFO"))
        except StoreUnavailable:
            return {}

    def _ask(self, *words: str | bytes | int | float) -> Any:
        self._settle(OPEN_TIMEOUT)
        until = self._open() + OPEN_TIMEOUT
        reply = self._exchange(request(*words), until, OPEN_TIMEOUT)
        if isinstance(reply, ServerError):
            raise StoreUnavailable(f"the server refused to read: {str(reply).splitlines()[0][:200]}")
        return reply

    def _run(self, verb: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        self._settle(OPEN_TIMEOUT)
        return self._drive(run_script(verb, keys, args), OPEN_TIMEOUT)

    # Ends.

    def close(self) -> None:
        """Carry out what was handed over, then let go of the connections. It opens again when it is used again."""
        with self._start_lock:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._posted.put(None)
                thread.join(OPEN_TIMEOUT)
        self._finish()
        for loop, wire in list(self._wires.items()):
            _close_in(loop, wire)
        self._wires.clear()
        self._last_wire = None
        self._wire.close()

    def _finish(self) -> None:
        """Carry out what no thread was left for (the interpreter is ending), as long as one may wait for all of it."""
        until = monotonic() + OPEN_TIMEOUT
        with suppress(Empty):
            while True:
                item = self._posted.get_nowait()
                if item is None:
                    continue
                account, command = item
                try:
                    if monotonic() > until:
                        raise late(OPEN_TIMEOUT)
                    self._drive(flow(self._keys_of(account), command, None), max(_TURN, until - monotonic()))
                except BudgetError as error:
                    _log.warning("%s was not carried out: %s", type(command).__name__, error)
                self._waiting.discard(id(command))


def _not_now(reply: Any) -> bool:
    return isinstance(reply, ServerError) and str(reply).startswith(_NOT_NOW)


def _unreachable(error: Lost, sent: bool) -> StoreUnavailable:
    found = StoreUnavailable(f"the store cannot be reached: {error}")
    found.sent = sent
    return found


def _close_in(loop: asyncio.AbstractEventLoop, wire: LoopWire) -> None:
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if loop is running:
        wire.close()
    elif not loop.is_closed():
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(wire.close)


_STORES: weakref.WeakSet[RedisStore] = weakref.WeakSet()


def _forked() -> None:
    # A connection is the parent's: two who write to it would read one another's answers.
    for store in list(_STORES):
        _ABANDONED.extend([store._wire, store._wires])
        store._reset()


def _exit() -> None:
    for store in list(_STORES):
        store.close()


_ABANDONED: list[Any] = []
if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forked)
weakref.finalize(RedisStore, _exit)
