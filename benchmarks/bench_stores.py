"""Reserve + reconcile per second, on both stores, beside the floor of each.

Two levels: the store's own verbs (`Store.acall` with ready commands), and the engine's (`Budget.aio.reserve` and
`reconcile`, which also check arguments, find the limits and make the draws).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.floors import memory_floor, sqlite_floor
from benchmarks.measure import rounds, title, verdict
from budget.commands import Amounts, Draw, Reconcile, Reserve
from budget.engine import Budget
from budget.limits import Limit
from budget.policy import Policy
from budget.stores.base import Store, open_store

__all__ = [
    "ACTUAL", "AMOUNTS", "EIGHT", "LEASE_US", "ONE", "TASKS", "attributes",
    "draws_for", "engine_rate", "main", "run_pairs", "store_pairs",
]  # fmt: skip

_SCOPES = ("user", "agent", "session", "team")
EIGHT = [Limit(f"$9000/{window}", per=scope) for scope in _SCOPES for window in ("day", "month")]
"""Four scopes x two windows: what a call of a larger organisation draws on."""
ONE = [Limit("$9000/day")]
TASKS = 100
_SECONDS = 0.3  # per case and round
_TIMEOUT = 30.0
_LEAST = 0.5  # of what a bare loop does that writes the same rows in groups
AMOUNTS: Amounts = (1_000_000, 100, 60, 40, 1)
ACTUAL: Amounts = (500_000, 90, 60, 30, 1)
LEASE_US = 600_000_000

Pair = Callable[[int], Awaitable[None]]
"""One reserve and one reconcile of task n."""


def attributes(task: int) -> dict[str, str]:
    """Return whose call it is: tasks share agents and teams, and have a user and a session each."""
    return {"user": f"u{task}", "agent": f"a{task % 10}", "session": f"s{task}", "team": f"t{task % 3}"}


def main() -> None:
    """Print the figures."""
    title("Stores: reserve + reconcile, pairs per second (and how many times the floor's time)")
    with tempfile.TemporaryDirectory(prefix="budget-bench-") as folder:
        for name, limits in (("8 pools (4 scopes x 2 windows)", EIGHT), ("1 pool", ONE)):
            _print(name, rounds(_cases(limits, Path(folder) / str(len(limits))), count=5))


def _cases(limits: list[Limit], folder: Path) -> dict[str, Callable[[], float]]:
    folder.mkdir()
    numbers = count()

    def url(kind: str) -> str:
        return "memory://" if kind == "memory" else f"sqlite:///{folder}/{next(numbers)}.db"

    draws_of = [draws_for(limits, task) for task in range(TASKS)]
    source = folder / "floor.db"
    asyncio.run(run_pairs(store_pairs(open_store(f"sqlite:///{source}"), draws_of), TASKS, 0.2))
    cases: dict[str, Callable[[], float]] = {
        "memory floor 1": partial(memory_floor, draws_of, _SECONDS),
    }
    for group in (1, TASKS):
        cases[f"sqlite floor {group}"] = partial(sqlite_floor, source, folder / f"floor-{group}.db", group, _SECONDS)
    for kind in ("memory", "sqlite"):
        for tasks in (1, TASKS):
            cases[f"{kind} store {tasks}"] = partial(_store_rate, url, kind, draws_of, tasks)
            cases[f"{kind} engine {tasks}"] = partial(_engine_rate, url, kind, limits, tasks)
    return cases


def _print(name: str, rates: dict[str, float]) -> None:
    print(f"\n{name:<36}{'1 task':>16}{f'{TASKS} tasks':>20}")
    for kind, told in (("memory", "bare dictionaries"), ("sqlite", f"bare, one by one / groups of {TASKS}")):
        floors = [rates[f"{kind} floor {group}"] for group in ((1, 1) if kind == "memory" else (1, TASKS))]
        print(f"{kind}: {told:<33}" + "".join(f"{rate:>9,.0f}/s{'':9}" for rate in floors).rstrip())
        for level in ("store", "engine"):
            found = [rates[f"{kind} {level} {tasks}"] for tasks in (1, TASKS)]
            cells = [f"{r:>9,.0f}/s {f'{floor / r:.1f}x':>6}  " for r, floor in zip(found, floors, strict=True)]
            print(f"{kind}: {level + ' verbs':<33}" + "".join(cells).rstrip())
    share = rates[f"sqlite store {TASKS}"] / rates[f"sqlite floor {TASKS}"]
    verdict(f"sqlite: store verbs, {TASKS} tasks: {share:.2f} of the floor, at least {_LEAST}", share >= _LEAST)


def draws_for(limits: list[Limit], task: int) -> list[Draw]:
    """Return what a task's call draws."""
    policy = Policy(0, (), limits)
    return policy.draws(policy.matches(attributes(task), (), ()), AMOUNTS, time.time_ns() // 1000)


def _store_rate(url: Callable[[str], str], kind: str, draws_of: list[list[Draw]], tasks: int) -> float:
    store = open_store(url(kind))
    try:
        return asyncio.run(run_pairs(store_pairs(store, draws_of), tasks, _SECONDS))
    finally:
        store.close()


def store_pairs(store: Store, draws_of: list[list[Draw]], prefix: str = "00") -> Pair:
    """Return a pair through the store's own verbs; `prefix` are two hex digits that no other process has."""
    ids, scopes = count(), [attributes(task) for task in range(len(draws_of))]

    async def pair(task: int) -> None:
        id = f"{prefix}{next(ids):030x}"
        reserve = Reserve(id, id, AMOUNTS, draws_of[task], 0, LEASE_US, scopes[task], {})
        assert (await store.acall("bench", reserve, _TIMEOUT)).status == "reserved"
        assert (await store.acall("bench", Reconcile(id, ACTUAL, {}), _TIMEOUT)).status == "reconciled"

    return pair


def _engine_rate(url: Callable[[str], str], kind: str, limits: list[Limit], tasks: int) -> float:
    return engine_rate(url(kind), limits, tasks, _SECONDS)


def engine_rate(url: str, limits: list[Limit], tasks: int, seconds: float) -> float:
    """Return pairs per second of reserve and reconcile through `Budget.aio`."""
    with Budget(url, account="bench", limits=limits, store_timeout=_TIMEOUT) as budget:

        async def pair(task: int) -> None:
            reservation = await budget.aio.reserve("$0.001", tokens=100, **attributes(task))
            await budget.aio.reconcile(reservation, usd="0.0005", tokens=90)

        return asyncio.run(run_pairs(pair, tasks, seconds))


async def run_pairs(pair: Pair, tasks: int, seconds: float, limit: int | None = None) -> float:
    """Have tasks make pairs for a while, or so many; return how many per second."""
    done = 0
    await pair(0)  # opens the store and loads the policy

    async def work(task: int) -> None:
        nonlocal done
        while time.perf_counter() - begun < seconds and (limit is None or done < limit):
            await pair(task)
            done += 1
            await asyncio.sleep(0)  # the memory store answers without leaving the task: let the others have their turn

    begun = time.perf_counter()
    await asyncio.gather(*map(work, range(tasks)))
    return done / (time.perf_counter() - begun)
