"""Race to the cent: of many equal concurrent requests exactly as many are admitted as fit, however they interleave."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from conftest import books

from budget import Budget, BudgetExceeded
from budget.stores.base import Store, open_store, read_entries

PROCESSES, TASKS, ROUNDS = 8, 200, 20

# Each process is started once and races in every round, on an account of its own; a round begins when all have
# said that they are ready and are told to go.
RACER = """
import asyncio, json, sys
from budget import Budget, BudgetExceeded

async def race(budget):
    async def one():
        try:
            await budget.aio.reserve("$0.01", user="alice")
            return 1
        except BudgetExceeded as no:
            assert no.verdict == "wait" and no.spent + no.reserved <= 1
            return 0
    return sum(await asyncio.gather(*(one() for _ in range(int(sys.argv[2])))))

for line in sys.stdin:
    with Budget(sys.argv[1], account=line.strip(), limits=["$1/day"], store_timeout=30) as budget:
        budget.status()
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(asyncio.run(race(budget))), flush=True)
"""


def test_processes_race_to_the_cent(shared_url: str) -> None:
    command = [sys.executable, "-c", RACER, shared_url, str(TASKS)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        for n in range(ROUNDS):
            tell(racers, f"round{n}")
            assert hear(racers) == ["ready"] * PROCESSES
            tell(racers, "go")
            admitted = [json.loads(line) for line in hear(racers)]
            assert sum(admitted) == 100
    finally:
        for racer in racers:
            racer.stdin.close()  # type: ignore[union-attr]
            racer.wait(30)
            racer.stdout.close()  # type: ignore[union-attr]
    store = open_store(shared_url)
    for n in range(ROUNDS):
        check(store, f"round{n}", PROCESSES * TASKS)
    store.close()


def tell(racers: list[subprocess.Popen[str]], word: str) -> None:
    for racer in racers:
        racer.stdin.write(word + "\n")  # type: ignore[union-attr]
        racer.stdin.flush()  # type: ignore[union-attr]


def hear(racers: list[subprocess.Popen[str]]) -> list[str]:
    return [racer.stdout.readline().strip() for racer in racers]  # type: ignore[union-attr]


def check(store: Store, account: str, tries: int) -> None:
    """A dollar is reserved to the cent, everything else was refused, and the books balance."""
    assert books(store, account).faults == []
    assert sum(bucket.reserved for bucket in store.snapshot(account).buckets.values()) == 10**9
    kinds = [entry.kind for entry in read_entries(store, account)]
    assert (kinds.count("reserved"), kinds.count("refused")) == (100, tries - 100)


@pytest.mark.parametrize("limit", ["$0.50/day", "$0.505/day", "50 requests/day"])
def test_threads_race(budget_factory: Callable[..., Budget], limit: str) -> None:
    """Amounts that leave a rest admit floor(room / amount)."""
    budget = budget_factory(limits=[limit, "$100/day"])
    threads = 8
    barrier = Barrier(threads)

    def race() -> int:
        barrier.wait()
        admitted = 0
        for _ in range(40):
            try:
                budget.reserve("$0.01", user="alice")
                admitted += 1
            except BudgetExceeded:
                pass
        return admitted

    with ThreadPoolExecutor(threads) as pool:
        assert sum(job.result() for job in [pool.submit(race) for _ in range(threads)]) == 50
    assert books(budget.engine.store).faults == []


def test_what_is_given_back_is_admitted_again(budget_factory: Callable[..., Budget]) -> None:
    """Threads that reserve and refund, or reconcile to less, never leave room unused nor use what is not there."""
    budget = budget_factory(limits=["$0.12/day"])
    spent_each, threads = 5, 4  # 20 calls of $0.005: with the last of them $0.095 + $0.02 fit

    def work() -> None:
        done = 0
        while done < spent_each:
            try:
                held = budget.reserve("$0.02", user="alice")
            except BudgetExceeded:
                continue
            if done % 2:
                budget.refund(held)
                held = budget.reserve("$0.00", user="alice")
            budget.reconcile(held, usd="0.005")
            done += 1

    with ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(work) for _ in range(threads)]:
            job.result()
    (state,) = budget.status()
    assert (str(state.spent), str(state.reserved)) == ("0.1", "0")
    assert books(budget.engine.store).faults == []
