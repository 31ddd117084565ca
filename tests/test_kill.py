"""SIGKILL at any point: nothing acknowledged is lost, nothing is over-spent, nothing stays reserved for ever."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from conftest import books, python

from budget import Budget

HOLDER = """
import os, signal, sys
from budget import Budget
budget = Budget(sys.argv[1], limits=["$1/day"])
held = budget.reserve("$0.40", user="alice", lease=float(sys.argv[2]))
print(held.id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

RECONCILER = """
import sys
from budget import Budget
with Budget(sys.argv[1], limits=["$1/day"]) as budget:
    budget.reconcile(sys.argv[2], usd="0.10")
"""

WRITER = """
import sys
from budget import Budget, BudgetExceeded
budget = Budget(sys.argv[1], limits=["$0.15/day"], store_timeout=30)
print("started", flush=True)
while True:
    try:
        held = budget.reserve("$0.002", user="alice", lease=3600)
    except BudgetExceeded:
        continue
    print("reserved", held.id, flush=True)
    budget.reconcile(held, usd="0.001")
    print("reconciled", held.id, flush=True)
"""

KILLS = 30


def killed(*args: str) -> str:
    """Run the holder, which kills itself, and return the id of what it held."""
    done = python(HOLDER, *args, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stdout.strip()


def test_a_killed_process_is_charged_when_the_lease_ends(shared_url: str) -> None:
    id = killed(shared_url, "0.2")
    with Budget(shared_url, limits=["$1/day"]) as budget:
        while budget.status()[0].reserved:
            time.sleep(0.05)
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved), str(state.available)) == ("0.4", "0", "0.6")
        assert [entry.kind for entry in budget.entries()] == ["reserved", "expired"]
        # Then what it really cost becomes known, in another process that has only the id.
        python(RECONCILER, shared_url, id)
        assert str(budget.status()[0].spent) == "0.1"
        last = list(budget.entries())[-1]
        assert (last.kind, str(last.usd), last.reservation, last.scope) == ("reconciled", "-0.3", id, {"user": "alice"})
        assert books(budget.engine.store).faults == []


def test_until_then_its_money_is_held(shared_url: str) -> None:
    id = killed(shared_url, "600")
    with Budget(shared_url, limits=["$1/day"]) as budget:
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved)) == ("0", "0.4")
        assert [r.id for r in budget.engine.store.reservations("default")] == [id]
        budget.reconcile(id, usd="0.25")
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved)) == ("0.25", "0")


def test_nothing_acknowledged_is_lost(shared_url: str, tmp_path: Path) -> None:
    """Two writers at a time, killed at random points; what they were told was done is in the ledger."""
    chance = random.Random(20260101)
    seen: dict[str, set[str]] = {"reserved": set(), "reconciled": set()}
    for _ in range(KILLS // 2):
        command = [sys.executable, "-c", WRITER, shared_url]
        pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        for writer in pair:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "started\n"
        time.sleep(chance.uniform(0, 0.04))
        for writer in pair:
            writer.kill()
            out, _ = writer.communicate()
            for line in out.splitlines(keepends=True):
                word, _, id = line.strip().partition(" ")
                if line.endswith("\n") and id:
                    seen[word].add(id)
    assert seen["reconciled"]
    with Budget(shared_url, limits=["$0.15/day"]) as budget:
        store = budget.engine.store
        found = books(store)
        assert (found.faults, found.saturated) == ([], [])
        entries = list(budget.entries())
        for kind, ids in seen.items():
            assert ids <= {entry.reservation for entry in entries if entry.kind == kind}
        (state,) = budget.status()
        assert state.spent + state.reserved <= state.limit.amount  # type: ignore[operator]
        # What a killed writer held is open under its id, so that its lease can end it.
        ended = {entry.reservation for entry in entries if entry.kind == "reconciled"}
        held = {entry.reservation for entry in entries if entry.kind == "reserved"} - ended
        assert {r.id for r in store.reservations("default")} == held
    if shared_url.startswith("sqlite"):
        db = sqlite3.connect(shared_url.removeprefix("sqlite:///"))
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        db.close()
