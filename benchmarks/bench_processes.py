"""Four processes on one SQLite file: how much each gets done, beside its fair share.

Each has 25 tasks that make pairs of reserve and reconcile on 8 pools, as in the `stores` benchmark, and all begin at
the same instant. They queue at the lock of the file, group by group; its order decides.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time

from benchmarks.bench_stores import EIGHT, draws_for, run_pairs, store_pairs
from benchmarks.measure import title, verdict
from budget.stores.base import open_store

__all__ = ["main"]

_PROCESSES, _TASKS = 4, 25
_SECONDS = 2.0
_TURNS = 3
_START = 3.0  # seconds in which the processes must be there
_LEAST = 0.5


def main() -> None:
    """Print the figures."""
    title(f"SQLite: {_PROCESSES} processes on one file, {_TASKS} tasks each, 8 pools")
    worst = 1.0
    with tempfile.TemporaryDirectory(prefix="budget-bench-") as folder:
        alone = _turn(f"sqlite:///{folder}/one.db", 1)
        print(f"{'pairs per second of one alone':<40}{alone[0]:>9,.0f}")
        for turn in range(_TURNS):
            rates = sorted(_turn(f"sqlite:///{folder}/{turn}.db", _PROCESSES))
            share = rates[0] / (sum(rates) / _PROCESSES)
            worst = min(worst, share)
            cells = f"{sum(rates):>9,.0f}   each {', '.join(f'{rate:,.0f}' for rate in rates)}"
            print(f"{f'of {_PROCESSES} together':<40}{cells}   slowest {share:.2f} of its share")
    verdict(f"the slowest process gets at least {_LEAST} of its fair share", worst >= _LEAST)


def _turn(url: str, processes: int) -> list[float]:
    open_store(url).last("bench")
    command = [sys.executable, "-m", "benchmarks.bench_processes", url, str(time.time() + _START)]
    running = [subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True) for n in range(processes)]
    return [float(process.communicate(timeout=60)[0]) for process in running]


def _work(url: str, start: float, number: int) -> float:
    """Make pairs from the given instant on; return how many per second."""
    store = open_store(url)
    draws = [draws_for(EIGHT, number * _TASKS + task) for task in range(_TASKS)]
    store.last("bench")
    time.sleep(max(0.0, start - time.time()))
    try:
        return asyncio.run(run_pairs(store_pairs(store, draws, prefix=f"{number:02x}"), _TASKS, _SECONDS))
    finally:
        store.close()


if __name__ == "__main__":
    print(_work(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
