"""A change made by the command line holds from the next call of every process, exactly, and nobody slips through.

Processes call all the time, and say in each call after which change it began. The ledger is then walked in its order:
at each decision the limit in force is the one of the last change before it.
"""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict

from conftest import books

from budget import Budget, Limit
from budget.ledger import Entry
from budget.money import parse_usd

PROCESSES = 4
EACH = 10**7  # nano-dollars

# Told "PHASE KIND", it says PHASE as soon as a call that began in that phase was reserved or refused, as KIND wants,
# or "never" if that does not happen.
CALLER = """
import sys, threading, time
from budget import Budget, BudgetExceeded, Frozen

phase = ["0 reserved"]

def listen():
    for line in sys.stdin:
        phase[0] = line.strip()
    phase[0] = "end"

threading.Thread(target=listen, daemon=True).start()
told = begun = number = 0
with Budget(sys.argv[1], store_timeout=30) as budget:
    while (said := phase[0]) != "end":
        number, (now, wanted), kind = number + 1, said.split(), "reserved"
        try:
            held = budget.reserve("$0.01", user="alice", caller=sys.argv[2], phase=now)
            if number % 3:
                budget.reconcile(held, usd="0.004")
            else:
                budget.refund(held)
        except BudgetExceeded as no:
            assert isinstance(no, Frozen) or no.limit.source == "store"
            kind = "refused"
        if now != begun:
            begun, since = now, time.monotonic()
        if now != told and (kind == wanted or time.monotonic() - since > 20):
            print(now if kind == wanted else "never", flush=True)
            told = now
        time.sleep(0.01)
"""
CHANGES = [
    ["set", "user=alice", "$0.20/lifetime"], ["set", "user=alice", "$0.40/lifetime"],
    ["set", "user=alice", "$0.10/lifetime"], ["freeze", "user=alice"], ["set", "user=alice", "$0.60/lifetime"],
    ["unfreeze", "user=alice"], ["unset", "user=alice", "$0.60/lifetime"], ["set", "user=alice", "$0.80/lifetime"],
    ["freeze", "--all"],
]  # fmt: skip


BOTH = ["reserved", "refused"]
KINDS = [["reserved"], BOTH, BOTH, ["refused"], ["refused"], ["refused"], BOTH, ["reserved"], BOTH, ["refused"]]
"""What happens to calls after so many changes: first what is admitted, and once the room is used up what is refused."""


def test_a_change_holds_from_the_next_call_of_every_process(shared_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", CALLER, shared_url]
    callers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(PROCESSES)
    ]
    try:
        assert hear(callers) == {"0"}
        for number, change in enumerate(CHANGES, 1):
            line = [sys.executable, "-m", "budget.cli", *change, "--store", shared_url]
            subprocess.run(line, check=True, capture_output=True)
            tell(callers, f"{number} {KINDS[number][-1]}")
            assert hear(callers) == {str(number)}
    finally:
        tell(callers, "end")
        for caller in callers:
            caller.communicate(timeout=30)
    assert [caller.returncode for caller in callers] == [0] * PROCESSES
    with Budget(shared_url) as budget:
        entries = list(budget.entries())
        assert books(budget.engine.store).faults == []
    walk(entries)


def tell(callers: list[subprocess.Popen[str]], word: str) -> None:
    for caller in callers:
        caller.stdin.write(word + "\n")  # type: ignore[union-attr]
        caller.stdin.flush()  # type: ignore[union-attr]


def hear(callers: list[subprocess.Popen[str]]) -> set[str]:
    return {caller.stdout.readline().strip() for caller in callers}  # type: ignore[union-attr]


def walk(entries: list[Entry]) -> None:
    """Decide every call again, by the changes before it, and compare."""
    limit, frozen, phase, used = None, False, 0, 0
    seen: dict[tuple[int, str], set[str]] = defaultdict(set)
    for entry in entries:
        if entry.kind in ("limit_set", "limit_unset", "frozen", "unfrozen"):
            phase += 1
            if entry.kind.startswith("limit"):
                rule = Limit(entry.detail["limit"])
                limit = parse_usd(rule.amount, "limit") if entry.kind == "limit_set" else None
            else:
                frozen = entry.kind == "frozen"
        elif entry.kind in ("reserved", "refused"):
            assert int(entry.scope["phase"]) <= phase, "it is in the ledger before the change after which it began"
            room = not frozen and (limit is None or used + EACH <= limit)
            assert entry.kind == ("reserved" if room else "refused"), (entry, limit, frozen, used)
            assert bool(entry.postings) == (room and limit is not None)
            seen[phase, entry.scope["caller"]].add(entry.kind)
        used += sum(posting.spent + posting.reserved for posting in entry.postings)
    assert phase == len(CHANGES)
    # It was as lively as it claims to be.
    for number, kinds in enumerate(KINDS):
        each = [seen[number, str(n)] for n in range(PROCESSES)]
        assert set.union(*each) == set(kinds), number
        assert all(kinds[-1] in one for one in each), number
