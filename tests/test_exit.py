"""The end of the interpreter: what is asked of a store by generators and finalizers that it closes last.

By then the stores are closed, no thread runs any more, and modules are being taken down. An end that comes so late is
carried out all the same, and the process ends.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from budget import Budget

LIMITS = ["$10/day"]
MAKE = "import sys\nfrom budget import Budget\nb = Budget(sys.argv[1], limits=['$10/day'])\n"
GENERATOR = """
def work():
    held = b.reserve("$0.1")
    try:
        yield
    finally:
        b.reconcile(held, usd="0.02")
it = work()
next(it)
"""
BUDGETED = """
@b.budgeted("$1")
def work():
    try:
        yield
    finally:
        b.record(usd="0.02")
it = work()
next(it)
"""
FINALIZER = """
class Held:
    def __init__(self):
        self.held = b.reserve("$0.1")
    def __del__(self):
        b.reconcile(self.held, usd="0.02")
it = Held()
"""
LOOK = """
class Looks:
    def __del__(self):
        print(len(b.status()), len(list(b.entries())))
b.record(usd="0.02")
it = Looks()
"""


def run(code: str, url: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which must come."""
    command = [sys.executable, "-X", "dev", "-c", MAKE + code, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        pytest.param(GENERATOR, ["reserved", "reconciled"], id="generator"),
        pytest.param(BUDGETED, ["reconciled"], id="budgeted"),  # by the next process, into the windows of then
        pytest.param(FINALIZER, ["reserved", "reconciled"], id="finalizer"),
    ],
)
def test_an_end_that_comes_last_is_carried_out(shared_url: str, code: str, kinds: list[str]) -> None:
    done = run(code, shared_url)
    told = [line for line in done.stderr.splitlines() if "they wait in" not in line]  # a store that was never opened
    assert (done.returncode, told) == (0, [])
    with Budget(shared_url, limits=LIMITS) as budget:
        until = time.monotonic() + 30  # what no store could take any more is on disk; the next process carries it out
        while len(list(budget.entries())) < len(kinds) and time.monotonic() < until:
            budget.status()
            time.sleep(0.05)
        assert [entry.kind for entry in budget.entries()] == kinds
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved)) == ("0.02", "0")
        assert budget.engine.books.verify().ok


def test_a_finalizer_may_look(shared_url: str) -> None:
    done = run(LOOK, shared_url)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "1 1\n")


def test_many_ends_that_come_last(shared_url: str) -> None:
    done = run("class Held:" + FINALIZER.split("class Held:")[1] + "all = [Held() for _ in range(50)]", shared_url)
    assert (done.returncode, done.stderr) == (0, "")
    with Budget(shared_url, limits=LIMITS) as budget:
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved)) == ("1.02", "0")
