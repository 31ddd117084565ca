"""A process that forks in the middle of its work: the child goes on, and waits for nothing that the parent has."""

from __future__ import annotations

import os

import pytest
from conftest import python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")

BUSY = """
import os, threading, time
from budget import Budget
budget = Budget("memory://", limits=["$1000/day"])
stop = threading.Event()

def spend():
    while not stop.is_set():
        budget.record(usd="0.001")

threads = [threading.Thread(target=spend, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
until, bad = time.monotonic() + 3, 0
while time.monotonic() < until and not bad:
    pid = os.fork()
    if pid == 0:
        budget.refund(budget.reserve("$1"))
        os._exit(not budget.engine.books.verify().ok)
    late = time.monotonic() + 5
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < late:
        time.sleep(0.001)
    if ended == (0, 0):
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        bad = "hangs"
    elif ended[1]:
        bad = "does not balance"
stop.set()
print(bad, flush=True)
os._exit(0)
"""

WAITS = """
import os, sys, threading, time
from budget import Budget
budget = Budget(sys.argv[1], limits=["1 concurrent"])
held = budget.reserve("$0")
threading.Thread(target=lambda: budget.reserve("$0", wait=60), daemon=True).start()
while not budget.engine.verbs.line._watch:
    time.sleep(0.01)
lock = budget.engine.verbs.line._lock
lock.acquire()  # as another thread does now and then
pid = os.fork()
if pid == 0:
    budget.refund(held)
    budget.close()
    os._exit(0)
lock.release()
late = time.monotonic() + 10
while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < late:
    time.sleep(0.01)
if ended == (0, 0):
    os.kill(pid, 9)
    os.waitpid(pid, 0)
print(ended == (pid, 0), flush=True)
os._exit(0)
"""


def test_a_store_in_memory_is_whole_in_a_child() -> None:
    """Another thread may be in the middle of a command just then."""
    assert python(BUSY).stdout.split() == ["0"]


def test_a_child_of_a_process_that_waits_for_room_can_be_closed(store_url: str) -> None:
    """Who waits, and the thread that watches for them, are the parent's."""
    assert python(WAITS, store_url).stdout.split() == ["True"]
