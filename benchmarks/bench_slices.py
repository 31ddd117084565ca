"""Slices: decisions a second in one process, beside the memory store's own and the bare comparison.

A process that holds a slice of its pools decides without the store. A decision here is a reserve that is admitted: its
reservation is made, and is remembered until its end. With its end it is a pair; refunds stay in the process, and are
what is measured: the cost of a call that is booked is the store's to write (`stores`, `redis`). Nothing here waits, so
that the processor's time is what counts: the clock on the wall would measure the neighbours, too.
"""

from __future__ import annotations

from itertools import count
from time import thread_time

from benchmarks.bench_stores import EIGHT, draws_for
from benchmarks.measure import rounds, title, verdict
from budget.commands import Command, Draw, Outcome, Refund, Reserve
from budget.slices.slices import Slices
from budget.stores.memory import MemoryStore

__all__ = ["main"]

_CALLS = 20_000
_GOAL = 300_000
_USD = 10**9


class _Desk:
    """An engine's part around slices, on the memory store."""

    def __init__(self, speed: int):
        self.store, self._ids = MemoryStore(), count(1)
        self.slices = Slices(speed, 0, self.id, self.call, lambda name, lease_us: None, lambda name: None)

    def id(self) -> str:
        return f"{next(self._ids):032x}"

    def call(self, command: Command) -> Outcome:
        return self.store.call("bench", command, 1.0)

    def do(self, command: Command) -> Outcome:
        steps = self.slices.steps(command)
        try:
            asked = next(steps)
            while True:
                asked = steps.send(self.call(asked))
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def main() -> None:
    """Print the figures."""
    title("slices: decisions per second of the processor's time in one process, 8 pools")
    found = rounds({"bare": _bare, "slice": _decisions, "slice, reserve + refund": _pairs, "store": _store}, count=9)
    print(f"{'bare: eight comparisons and additions in dictionaries':<60}{found['bare']:>12,.0f}")
    print(f"{'a slice: reserve':<60}{found['slice']:>12,.0f}")
    print(f"{'a slice: pairs of reserve and refund':<60}{found['slice, reserve + refund']:>12,.0f}")
    print(f"{'the memory store: reserve':<60}{found['store']:>12,.0f}")
    verdict(f"at least {_GOAL:,} decisions a second from a slice", found["slice"] >= _GOAL)


def _asked(desk: _Desk, calls: int) -> list[Reserve]:
    draws = [draw._replace(limit=10**6 * _USD) for draw in draws_for(EIGHT, 0)]
    return [Reserve(desk.id(), "d", (1000, 0, 0, 0, 1), _of(draws, 1000), 0, 60_000_000, {}, {}) for _ in range(calls)]


def _of(draws: list[Draw], amount: int) -> list[Draw]:
    return [draw._replace(unit=0, amount=amount) for draw in draws]


def _ready(calls: int) -> tuple[_Desk, list[Reserve]]:
    """Return a desk that holds a slice large enough for so many calls, and the calls."""
    desk = _Desk(speed=1000 * _USD)
    first, second, *rest = _asked(desk, 2 + calls)  # made before the slice is bought, which lives for a second
    desk.do(first)
    desk.do(second)
    return desk, rest


def _bare() -> float:
    pools = {f"pool {i}": [0, 10**15] for i in range(8)}
    names = list(pools)
    began = thread_time()
    for _ in range(_CALLS):
        taken = [pools[name] for name in names]
        if all(spent + 1000 <= limit for spent, limit in taken):
            for pool in taken:
                pool[0] += 1000
    return _CALLS / (thread_time() - began)


def _decisions() -> float:
    desk, calls = _ready(900)
    rate = _timed(desk.slices.decide, calls)
    desk.slices.close()
    return rate


def _timed(decide: object, calls: list[Reserve]) -> float:
    began = thread_time()
    for command in calls:
        assert decide(command) is not None  # type: ignore[operator]
    return len(calls) / (thread_time() - began)


def _pairs() -> float:
    desk, calls = _ready(900)
    ends = [Refund(command.id) for command in calls]
    began = thread_time()
    for command, end in zip(calls, ends, strict=True):
        assert desk.slices.decide(command) is not None
        desk.do(end)
    rate = len(calls) / (thread_time() - began)
    desk.slices.close()
    return rate


def _store() -> float:
    desk = _Desk(speed=0)
    calls = _asked(desk, 2000)
    began = thread_time()
    for command in calls:
        desk.call(command)
    return len(calls) / (thread_time() - began)
