"""Load on a store, in a process of its own: threads and tasks that reserve and end, and look at every answer.

`python redisload.py URL TIMEOUT THREADS TASKS` says "ready", works until a line comes on its stdin, closes its budget
and prints what it was told as JSON:

    reserved     ids of the reservations it was given
    reconciled   ids that it was told are reconciled, each to `COST`
    refunded     ids that it was told are refunded
    unavailable  what the calls said that raised StoreUnavailable
    wrong        anything else that was raised, and answers that were not to the question

A reserve without an answer is left to the store; an end without one is asked for again, as a caller would.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from threading import Event, Thread
from typing import Any

from redisserver import free_port

from budget import Budget, StoreUnavailable
from budget.commands import Reservation

__all__ = ["COST", "EACH", "Load", "SlowLink", "Told"]

EACH, COST = "0.01", "0.004"
"""What each call reserves, and what those cost that are reconciled."""
TRIES = 200


@dataclass
class Told:
    """What a process was told."""

    reserved: list[str] = field(default_factory=list)
    reconciled: list[str] = field(default_factory=list)
    refunded: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Told) -> None:
        self.reserved += other.reserved
        self.reconciled += other.reconciled
        self.refunded += other.refunded
        self.unavailable += other.unavailable
        self.wrong += other.wrong

    def held(self, held: Reservation, tag: str) -> None:
        self.reserved.append(held.id)
        if (held.scope.get("call"), held.state) != (tag, "open"):
            self.wrong.append(f"{tag} was given {held}")

    def ended(self, done: Reservation, held: Reservation, number: int) -> None:
        refunded = number % 3 == 0
        (self.refunded if refunded else self.reconciled).append(held.id)
        state, cost = ("refunded", 0) if refunded else ("reconciled", 4 * 10**6)
        if (done.id, done.state, done.charged and done.charged[0]) != (held.id, state, cost):
            self.wrong.append(f"the end of {held} is {done}")


def thread(budget: Budget, name: str, told: Told, stop: Event) -> None:
    number = 0
    while not stop.is_set() and not told.wrong:
        number, tag = number + 1, f"{name}-{number}"
        try:
            held = budget.reserve(f"${EACH}", user=name, call=tag)
            told.held(held, tag)
            told.ended(again(told, lambda: end(budget, held, number)), held, number)  # noqa: B023
        except StoreUnavailable as error:
            told.unavailable.append(str(error))
        except BaseException as error:
            told.wrong.append(repr(error))


def end(budget: Any, held: Reservation, number: int) -> Any:
    return budget.refund(held) if number % 3 == 0 else budget.reconcile(held, usd=COST)


def again(told: Told, ask: Callable[[], Reservation]) -> Reservation:
    for _ in range(TRIES):
        try:
            return ask()
        except StoreUnavailable as error:
            told.unavailable.append(str(error))
    raise TimeoutError("an end is not booked, however often")


async def task(budget: Budget, name: str, told: Told, stop: Event) -> None:
    number = 0
    while not stop.is_set() and not told.wrong:
        number, tag = number + 1, f"{name}-{number}"
        try:
            held = await budget.aio.reserve(f"${EACH}", user=name, call=tag)
            told.held(held, tag)
            told.ended(await aagain(told, lambda: end(budget.aio, held, number)), held, number)  # noqa: B023
        except StoreUnavailable as error:
            told.unavailable.append(str(error))
        except BaseException as error:
            told.wrong.append(repr(error))


async def aagain(told: Told, ask: Callable[[], Awaitable[Reservation]]) -> Reservation:
    for _ in range(TRIES):
        try:
            return await ask()
        except StoreUnavailable as error:
            told.unavailable.append(str(error))
    raise TimeoutError("an end is not booked, however often")


def work(url: str, timeout: float, threads: int, tasks: int) -> Told:
    stop, found = Event(), [Told() for _ in range(threads + tasks)]

    async def loop() -> None:
        await asyncio.gather(*[task(budget, f"task{n}", found[n], stop) for n in range(tasks)])

    with Budget(url, limits=["$1000000/day", "per=user $100000/day"], store_timeout=timeout) as budget:
        workers = [Thread(target=thread, args=(budget, f"thread{n}", found[tasks + n], stop)) for n in range(threads)]
        workers += [Thread(target=lambda: asyncio.run(loop()))] if tasks else []
        for worker in workers:
            worker.start()
        while not all(told.reserved or told.unavailable or told.wrong for told in found):
            time.sleep(0.005)  # all have had an answer, so that they are connected
        print("ready", flush=True)
        sys.stdin.readline()
        stop.set()
        for worker in workers:
            worker.join()
    for told in found[1:]:
        found[0].add(told)
    return found[0]


class Load:
    """Processes under load, from `with` to its end; then `told` is what they were told together."""

    def __init__(self, url: str, timeout: float = 30.0, processes: int = 2, threads: int = 4, tasks: int = 16):
        self._command = [sys.executable, "-W", "error", __file__, url, str(timeout), str(threads), str(tasks)]
        self._count = processes
        self.told = Told()

    def __enter__(self) -> Load:
        self._processes = [
            subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(self._count)
        ]
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            for process in self._processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            for process in self._processes:
                answer = process.communicate(timeout=60)[0]
                assert process.returncode == 0
                self.told.add(Told(**json.loads(answer)))
        finally:
            for process in self._processes:
                process.kill()


class SlowLink:
    """A TCP proxy to a server that delays whatever passes, by another time each."""

    def __init__(self, port: int):
        self._to, self.port = port, free_port()
        self._ready, self._loop = Event(), asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> SlowLink:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        self._chance = random.Random(20260101)
        self._links: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._meet, "127.0.0.1", self.port)
        self._ready.set()
        await self._stop.wait()
        server.close()
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to, back = await asyncio.open_connection("127.0.0.1", self._to)
        pairs = ((reader, back), (to, writer))
        self._links |= {asyncio.ensure_future(self._pass_on(source, drain)) for source, drain in pairs}

    async def _pass_on(self, source: asyncio.StreamReader, drain: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(self._chance.choice([17, 200, 4096])):
                await asyncio.sleep(self._chance.uniform(0, 0.002))
                drain.write(data)
        finally:
            drain.transport.abort()


if __name__ == "__main__":
    print(json.dumps(asdict(work(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))))
