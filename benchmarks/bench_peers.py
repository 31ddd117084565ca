"""Other packages doing what comes nearest to a reserve and a reconcile on eight pools, beside ours, in one run.

They are not dependencies: they live in a venv of their own, which is made by

    python3 -m venv benchmarks/peers/.venv
    benchmarks/peers/.venv/bin/pip install -r benchmarks/peers/requirements.txt

Without it this benchmark says so and does nothing. What a package does in one operation, and what it leaves out, was
read in the source of the versions in `requirements.txt`.
"""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.bench_redis import server
from benchmarks.bench_stores import EIGHT, TASKS, engine_rate
from benchmarks.measure import title
from tests.redisserver import binaries

__all__ = ["main"]

_FOLDER = Path(__file__).resolve().parent / "peers"
_PYTHON = _FOLDER / ".venv" / "bin" / "python"
_SECONDS = 0.7
_ROUNDS = 3


class _Peer(NamedTuple):
    """What one operation is, and whether: atomic over pools, a reservation, a refund, survives a crash, exact money."""

    does: str
    has: tuple[str, str, str, str, str]


_HAS = ("all or none", "reserves", "refunds", "crash", "exact money")
_OURS = "budget"
_PEERS = {
    _OURS: _Peer("reserve and reconcile, 8 pools, ledger", ("yes", "yes", "yes", "store's", "yes")),
    "limits": _Peer("8 hits, one by one", ("no", "no", "no", "redis", "no money")),
    "pyrate-limiter": _Peer("4 acquires of 2 rates each", ("2 of 8", "no", "no", "redis", "no money")),
    "throttled-py": _Peer("8 limits, one by one", ("no", "no", "no", "redis", "no money")),
    "token-budget-py": _Peer("8 reservations, then 8 commits", ("no", "yes", "yes", "no", "floats")),
    "tokencap": _Peer("check and add on 8 keys at once", ("yes", "no", "no", "counts", "no money")),
}
_NOTES = """\
crash: what is left after the process was killed. "redis": counters that are there (in memory they are gone), and nobody
  knows which hits belonged to calls that never ended. "counts": the same; its memory row is SQLite in ":memory:".
  "store's": with Redis or SQLite all of it, and what a dead process reserved is charged when its lease ends.
no money: units that the caller chooses. Windows are of fixed length in UTC (limits, throttled-py), a leaking level
  (pyrate-limiter), or none but by hand (tokencap, token-budget-py).
Nothing but budget knows a call by an id (elsewhere a repeat counts twice), takes back from eight pools in one step what
a call did not use, or proves its counters from a ledger. What is used beyond a reservation: token-budget-py drops it if
it does not fit, tokencap adds it in a second step."""


def main() -> None:
    """Print one table."""
    if not _PYTHON.exists():
        print(f"\npeers: skipped, {_PYTHON.parent.parent} is not there; benchmarks/README.md says how it is made")
        return
    if not binaries():
        print("\npeers: skipped, no Redis server on PATH")
        return
    with server() as url:
        title(f"Peers: operations per second, {TASKS} tasks (median of {_ROUNDS} turns)")
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        versions: dict[str, str] = {}
        errors: dict[tuple[str, str], str] = {}
        for _ in range(_ROUNDS):
            for kind, store in (("memory", "memory://"), ("redis", url)):
                found[_OURS, kind].append(engine_rate(store, EIGHT, TASKS, _SECONDS))
            for row in _others(url):
                name, key = row["name"], (row["name"], row.get("store", ""))
                versions[name] = row.get("version", "")
                if "rate" in row:
                    found[key].append(row["rate"])
                else:
                    errors[key] = row["error"]
        _print(found, versions)
        for (name, kind), error in errors.items():
            print(f"{name} {kind}: {error}")
        print(_NOTES)


def _others(url: str) -> list[dict[str, Any]]:
    command = [str(_PYTHON), str(_FOLDER / "run.py"), url, str(_SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _print(found: dict[tuple[str, str], list[float]], versions: dict[str, str]) -> None:
    print(f"{'':24}{'memory':>9}{'redis':>9}  {'one operation':40}" + "".join(f"{name:>12}" for name in _HAS))
    for name, peer in _PEERS.items():
        rates = [found.get((name, kind)) for kind in ("memory", "redis")]
        cells = "".join(f"{median(rate):>9,.0f}" if rate else f"{'-':>9}" for rate in rates)
        cells += f"  {peer.does:40}" + "".join(f"{each:>12}" for each in peer.has)
        print(f"{f'{name} {versions.get(name, str())}':24}{cells}")
