"""Many processes on one account, while limits change, processes are killed, and a server too if one is given.

Each call of a worker draws on 12 pools: 3 windows for each of 4 scopes. It writes down what it was told, in a file that
outlives it. The coordinator changes limits, kills, and looks at the account all the time; at the end it holds the
ledger to what the workers were told, and the pools to the last nano-dollar.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from budget import Budget, BudgetExceeded, ReservationConflict, StoreUnavailable
from budget.money import to_decimal

from .invariants import ASKED, Books, Violation, asked, must, settle

__all__ = ["Storm"]

SCOPES = ("user", "agent", "session", "team")
WINDOWS = {"minute": "$0.02", "day": "$0.06", "lifetime": "$0.1"}
AMOUNTS = (Decimal("0.5"), Decimal("1"), Decimal("1"), Decimal("3"))  # what limits are changed to, of what they were
PATIENCE = 60.0
LEASE = 1.5


@dataclass
class Storm:
    """A load on one store.

    Args:
        url: The store.
        folder: For what workers are told.
        processes: How many workers.
        seed: Of what they do; when they do it is up to the machine.
        pause: At most how many seconds a worker rests between calls, so that who looks at the account keeps up.
        server: What has `kill()` and `start()`, if it is to be killed as well.
    """

    url: str
    folder: Path
    processes: int = 16
    seed: int = 1
    pause: float = 0.05
    server: Any = None
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.books = Books(pools=len(SCOPES) * len(WINDOWS))
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["budget", "budget.engine", "budget.stores.redis", "budget.stores.sqlite"])
        self._workers: list[Any] = []
        self._stop = self.folder / "stop"
        self._files = 0

    def run(self, seconds: float, kills: int = 0, server_kills: int = 0) -> Counter[str]:
        """Blow for so many seconds (longer if the kills need it), then look whether all is well.

        Raises:
            Violation: An invariant does not hold, or something acknowledged is lost.
        """
        self._stop.unlink(missing_ok=True)
        with Budget(self.url, store_timeout=PATIENCE) as budget:
            for scope in SCOPES:
                for window, amount in WINDOWS.items():
                    budget.limits.set(f"{amount}/{window}", per=scope)
            for _ in range(self.processes):
                self._start()
            try:
                self._blow(budget, seconds, kills, server_kills)
            finally:
                self._stop.touch()
                for worker in self._workers:
                    worker.join(PATIENCE + 30)
                    must(worker.exitcode is not None, "L1", None, "a worker does not end")
                    worker.kill()
            must(all(w.exitcode == 0 for w in self._workers), "L1", None, "a worker failed; see its traceback")
            self._check(budget)
        return self.counts

    def _start(self, place: int | None = None) -> None:
        """Start a worker, in the place of one that was killed."""
        self._files += 1
        told = self.folder / f"told-{self._files}"
        seed = self.chance.random()
        worker: Any = self._context.Process(
            target=work, args=(self.url, seed, self.pause, str(told), str(self._stop)), daemon=True, name=told.name
        )
        worker.start()
        if place is None:
            self._workers.append(worker)
        else:
            self._workers[place] = worker

    def _at_work(self) -> list[Any]:
        """The workers that have been told something."""
        return [worker for worker in self._workers if self._size(worker.name)]

    def _size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.exists() else 0

    def _blow(self, budget: Budget, seconds: float, kills: int, server_kills: int) -> None:
        store, pause = budget.engine.store, 0.0
        late = time.monotonic() + PATIENCE
        while len(self._at_work()) < self.processes:
            must(time.monotonic() < late, "L1", None, "a worker does not get to work")
            self.books.observe(store)
            time.sleep(0.05)
        until = time.monotonic() + seconds
        while time.monotonic() < until or self.counts["kills"] < kills or self.counts["server kills"] < server_kills:
            with suppress(StoreUnavailable):
                self.books.observe(store)
                self.counts["observations"] += 1
                if self.chance.random() < 0.5:
                    scope, window = self.chance.choice(SCOPES), self.chance.choice(list(WINDOWS))
                    amount = Decimal(WINDOWS[window].removeprefix("$")) * self.chance.choice(AMOUNTS)
                    budget.limits.set(f"${amount}/{window}", per=scope)
                    self.counts["limits changed"] += 1
            working = self._at_work()
            if self.counts["kills"] < kills and working:
                victim = self.chance.choice(working)
                victim.kill()
                victim.join()
                self.counts["kills"] += 1
                self._start(self._workers.index(victim))
            if self.counts["server kills"] < server_kills and time.monotonic() > pause:
                self.server.kill()
                time.sleep(self.chance.uniform(0, 0.05))
                self.server.start()
                self.counts["server kills"] += 1
                pause = time.monotonic() + self.chance.uniform(0.05, 0.3)
            time.sleep(self.chance.uniform(0, 0.02))

    def _check(self, budget: Budget) -> None:
        store = budget.engine.store
        until = time.monotonic() + 60 * LEASE
        while store.reservations("default") and time.monotonic() < until:
            time.sleep(0.1)
            settle(store)
        self.books.observe(store)
        must(not self.books.open, "I8", None, f"{len(self.books.open)} are open for ever")
        whole = Books(pools=self.books.pools)
        whole.observe(store)  # all of it once more, with what came beside the chain
        self.counts.update({f"entries {kind}": count for kind, count in whole.counts.items()})
        self._check_told(whole)
        self._fill_up(budget)
        whole.observe(store)

    def _check_told(self, books: Books) -> None:
        """What workers were told is in the ledger, as they were told it."""
        how = {"c": "reconciled", "f": "refunded"}
        for path in self.folder.glob("told-*"):
            for line in path.read_text().splitlines(keepends=True):
                word, _, id = line.strip().partition(" ")
                if not line.endswith("\n"):
                    continue  # it was killed in the middle of it
                self.counts["acknowledged"] += 1
                must(id in books.ended, "I27", None, f"{id} was acknowledged ({word}), and is not there")
                must(how.get(word, "") in books.ended[id], "I6", None, f"{id}: told {word}, is {books.ended[id]}")

    def _fill_up(self, budget: Budget) -> None:
        """What is free fits to the last nano-dollar, and one more does not."""
        for number in range(4):
            scope = {name: f"{name}{number}" for name in SCOPES}
            for _ in range(5):  # a minute may end meanwhile
                pools = budget.status(**scope)
                room = int(max(min(pool.available for pool in pools), Decimal(0)) * 10**9)
                try:
                    budget.refund(budget.reserve(to_decimal(room + 1), **scope, **{ASKED: asked(room + 1)}))
                except BudgetExceeded:
                    budget.refund(budget.reserve(to_decimal(room), **scope, **{ASKED: asked(room)}))
                    break
            else:
                raise Violation(f"I3: more fits than {room} for {scope}")


def work(url: str, seed: float, pause: float, told: str, stop: str) -> None:
    """One worker: calls until it is told to stop; each acknowledgement is a line."""
    chance = random.Random(seed)
    lines = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with Budget(url, store_timeout=PATIENCE) as budget:
        while not os.path.exists(stop):
            time.sleep(chance.uniform(0, pause))
            nanos = chance.choice((0, 1, 999, 10**6, 3 * 10**6, 7_654_321))
            scope = {name: f"{name}{chance.randrange(4)}" for name in SCOPES}
            try:
                held = budget.reserve(to_decimal(nanos), lease=LEASE, **scope, **{ASKED: asked(nanos)})
            except (BudgetExceeded, StoreUnavailable):
                continue
            os.write(lines, f"r {held.id}\n".encode())
            how = chance.choice("ccccccffl")
            cost = to_decimal(chance.choice((0, nanos // 3, nanos, 2 * nanos)))
            while how != "l":
                try:
                    budget.refund(held) if how == "f" else budget.reconcile(held, usd=cost)
                except StoreUnavailable:
                    continue
                except ReservationConflict:
                    break
                os.write(lines, f"{how} {held.id}\n".encode())
                break
