"""Driving steps on a server: requests out, replies in, and what is done when something goes wrong in between.

Steps (`scripts.Steps`) yield requests and receive replies. Here they meet the connections: one for all tasks of an
event loop, one for all threads, and in a cluster one such for each slot in use. `redisfaults.py` says what each fault
means; what may be tried again is, inside the deadline, with the same request and so the same id. A first connection has
time of its own; every later one is part of a deadline.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from budget.errors import StoreUnavailable
from budget.stores.loopwire import LoopWire
from budget.stores.multiplex import Lost, ServerError, Unsent
from budget.stores.redisfaults import CLOSED, SILENT, Act, Fault, fault_of
from budget.stores.redisfence import Account
from budget.stores.redisserver import OPEN_TIMEOUT, Server
from budget.stores.scripts import Steps
from budget.stores.threadwire import STRANGE, ThreadWire
from budget.stores.tickets import late

__all__ = ["Driver"]

_PAUSE = 0.02  # seconds between attempts
_LAST = 0.1  # of a deadline: the least that an attempt must have left, else a known "no" becomes an unknown outcome


class _Attempts:
    """How often a request was tried, until when it may be, and whether an attempt may have been carried out."""

    __slots__ = ("_count", "_now", "_sent", "_timeout", "_until", "_why")

    def __init__(self, now: Callable[[], float], until: float, timeout: float):
        self._now, self._until, self._timeout = now, until, timeout
        self._sent, self._count, self._why = False, 0, ""

    def after(self, error: Exception, fault: Fault) -> float:
        """Return how long to pause before the next attempt.

        Raises:
            StoreUnavailable: There is none; it says whether one may have been carried out.
        """
        self._sent = self._sent or not (fault.harmless or isinstance(error, Unsent) or not getattr(error, "sent", True))
        self._count += 1
        if fault is SILENT:
            raise self._known(StoreUnavailable(self._why) if self._why else late(self._timeout))
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        self._why = f"the store cannot be reached: {text}" if fault is CLOSED else f"{fault.says} ({text})"
        if fault.act is Act.STOP or self._until - self._now() < _PAUSE + _LAST * self._timeout:
            raise self._known(StoreUnavailable(self._why))
        # Whoever was only told where else to go, or lost a connection that had worked, goes at once.
        return 0.0 if self._count == 1 and fault.act is Act.ELSEWHERE else _PAUSE

    def _known(self, error: StoreUnavailable) -> StoreUnavailable:
        error.sent = self._sent
        return error


class Driver:
    """The connections of a store, and what is sent over them."""

    def __init__(self, server: Server):
        self._server = server
        self._loops: dict[tuple[asyncio.AbstractEventLoop, int], LoopWire] = {}
        self._threads: dict[int, ThreadWire] = {}

    def drive(self, account: Account, steps: Steps, timeout: float) -> Any:
        """Take steps, blocking, and return their result.

        Raises:
            StoreUnavailable: They cannot be taken in time.
        """
        wire = self._threads.get(account.group)
        if wire is None:
            connect = partial(self._server.connect, group=account.group)
            wire = self._threads.setdefault(account.group, ThreadWire(connect))
        if not wire.opened:
            _open(wire)
        until = monotonic() + timeout
        attempts = None
        data, name = next(steps), account.name
        while True:
            line = wire.line
            try:
                reply = wire.exchange(data, until, name)
                if reply is STRANGE:
                    self._meet(account, wire, until)
                    continue
            except (Lost, TimeoutError) as error:
                attempts = attempts or _Attempts(monotonic, until, timeout)
                time.sleep(attempts.after(error, SILENT if isinstance(error, TimeoutError) else CLOSED))
                continue
            if type(reply) is ServerError and (fault := fault_of(reply)).act is not Act.FLOW:
                self._leave(account, wire, line, reply, fault)
                attempts = attempts or _Attempts(monotonic, until, timeout)
                time.sleep(attempts.after(reply, fault))
                continue
            try:
                data = steps.send(reply)
            except StopIteration as end:
                return end.value

    def _meet(self, account: Account, wire: ThreadWire, until: float) -> None:
        line, steps = wire.line, account.greet()
        try:
            data = next(steps)
            while True:
                data = steps.send(_plain(wire.exchange(data, until)))
        except StopIteration:
            pass
        except TimeoutError:
            raise Unsent from None
        except Lost as error:
            raise Lost(str(error)) from None  # what the caller asks for was not sent
        if wire.line is line:  # else it was another connection that was compared
            line.met.add(account.name)

    async def adrive(self, account: Account, steps: Steps, timeout: float) -> Any:
        """Like `drive`, in the running event loop."""
        loop = asyncio.get_running_loop()
        wire = account.wire
        if wire is None or wire.loop is not loop:
            wire = self._wire_of(account, loop)
        if not wire.opened:
            await _aopen(wire)
        until = loop.time() + timeout
        attempts = None
        data, name = next(steps), account.name
        while True:
            try:
                while name not in wire.met:
                    await self._ameet(account, wire, until)
                line = wire.line
                reply = await wire.exchange(data, until)
            except (Lost, TimeoutError) as error:
                attempts = attempts or _Attempts(loop.time, until, timeout)
                await asyncio.sleep(attempts.after(error, SILENT if isinstance(error, TimeoutError) else CLOSED))
                continue
            if type(reply) is ServerError and (fault := fault_of(reply)).act is not Act.FLOW:
                self._leave(account, wire, line, reply, fault)
                attempts = attempts or _Attempts(loop.time, until, timeout)
                await asyncio.sleep(attempts.after(reply, fault))
                continue
            try:
                data = steps.send(reply)
            except StopIteration as end:
                return end.value

    async def _ameet(self, account: Account, wire: LoopWire, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await wire.open(until - wire.loop.time())
                async with wire.meeting:
                    line = wire.line
                    if account.name not in wire.met and line is not None:
                        await self._agreet(account, wire, until)
                        if wire.line is line:
                            wire.met.add(account.name)
        except TimeoutError:
            raise Unsent from None
        except Lost as error:
            raise Lost(str(error)) from None

    async def _agreet(self, account: Account, wire: LoopWire, until: float) -> None:
        steps = account.greet()
        with suppress(StopIteration):
            data = next(steps)
            while True:
                data = steps.send(_plain(await wire.exchange(data, until)))

    def _leave(self, account: Account, wire: Any, line: object, reply: Exception, fault: Fault) -> None:
        if fault.act is Act.ELSEWHERE:
            self._server.places.moved(account.group, str(reply))
            wire.leave(line)

    def _wire_of(self, account: Account, loop: asyncio.AbstractEventLoop) -> LoopWire:
        wire = self._loops.get((loop, account.group))
        if wire is None:
            for ended in [each for each in list(self._loops) if each[0].is_closed()]:
                self._loops.pop(ended, None)
            connect = partial(self._server.aconnect, group=account.group)
            wire = self._loops[loop, account.group] = LoopWire(connect)
        account.wire = wire
        return wire

    def part(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what an event loop had, in that loop."""
        for key in [each for each in list(self._loops) if each[0] is loop]:
            self._loops.pop(key).close()

    def close(self) -> None:
        """Let go of all connections; they are made again when they are needed."""
        wires, self._loops = self._loops, {}
        for (loop, _), wire in wires.items():
            _close_in(loop, wire)
        for line in list(self._threads.values()):
            line.close()


def _plain(reply: Any) -> Any:
    """Return a reply to a greeting; what a later attempt would mend ends it."""
    if isinstance(reply, ServerError) and (fault := fault_of(reply)).act in (Act.AGAIN, Act.ELSEWHERE):
        raise Lost(f"{fault.says} ({reply})")
    return reply


def _open(wire: ThreadWire) -> None:
    """Make a first connection."""
    try:
        wire.open(monotonic() + OPEN_TIMEOUT)
    except Lost as error:
        raise _unreachable(error) from None
    except TimeoutError:
        raise late(OPEN_TIMEOUT) from None


async def _aopen(wire: LoopWire) -> None:
    try:
        async with asyncio.timeout(OPEN_TIMEOUT):
            await wire.open(OPEN_TIMEOUT)
    except Lost as error:
        raise _unreachable(error) from None
    except TimeoutError:
        raise late(OPEN_TIMEOUT) from None


def _unreachable(error: Lost) -> StoreUnavailable:
    found = StoreUnavailable(f"the store cannot be reached: {error}")
    found.sent = False
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
