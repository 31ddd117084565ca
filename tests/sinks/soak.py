"""Sinks under load while everything fails: `python -m tests.sinks.soak --minutes 10`.

A process makes calls as fast as it can, with sinks of each kind, and is killed and started again. The receivers answer
500, 503, 507 and 413, hang, cut connections before and after they took a batch, and go down. In the end everything
works again, and then each record must be where it belongs: exactly once in files and tables, and at receivers that
cannot tell, at least once, with an id that tells.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from budget.engine import Budget  # noqa: E402
from budget.sinks import base, make_sink, rows, runner  # noqa: E402
from budget.sinks.base import SinkFailed  # noqa: E402
from tests.sinks.arcserver import ArcServer  # noqa: E402
from tests.sinks.receiver import Receiver  # noqa: E402

__all__ = ["soak"]

MODES: tuple[str | int, ...] = ("ok", "ok", "ok", 500, 503, 507, 413, 429, "cut", "taken, cut", "hang", "down")
LOAD = """
import signal, sys
from budget.engine import Budget
from budget.errors import BudgetExceeded
from budget.sinks import feed, runner
runner.EVERY, feed.FIRST_WAIT, feed.LONGEST_WAIT = map(float, sys.argv[2].split())
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Budget(sys.argv[1], sinks=sys.argv[3:], limits=["$1/day"]) as budget:
    print("ready", flush=True)
    while True:
        for n in range(20):
            budget.record(usd="0.001", tokens=10, user=f"u{n}")
        try:
            budget.reserve("$2", tokens=1, user="greedy")
        except BudgetExceeded:
            pass
"""


class Load:
    """The process that makes calls."""

    def __init__(self, url: str, waits: str, sinks: list[str]):
        self._command = [sys.executable, "-c", LOAD, url, waits, *sinks]
        self.kills = 0
        self._start()

    def _start(self) -> None:
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._child = subprocess.Popen(self._command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **quiet)
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        self.end(signal.SIGKILL)
        self.kills += 1
        self._start()

    def end(self, number: int = signal.SIGTERM) -> None:
        self._child.send_signal(number)
        self._child.wait(60)
        assert self._child.stdout is not None
        self._child.stdout.close()


def soak(folder: Path, seconds: float, seed: int, *, pace: float = 0.3, postgres: str | None = None) -> dict[str, Any]:
    """Let everything fail for so many seconds, and return what was made and what arrived.

    Raises:
        AssertionError: A record is missing, or is twice where it may not be.
    """
    chance = random.Random(seed)
    url, lines, files = f"sqlite:///{folder / 'budget.db'}", folder / "calls.jsonl", folder / "parquet"
    hook, arc = Receiver(), ArcServer(token=None)
    sinks = [f"jsonl:{lines}?rotate=1MB&keep=9999", f"webhook+{hook.url}/in", f"arc+{arc.url}/llm_costs",
             f"parquet:{files}?rows=500&seconds=1", *([postgres] if postgres else [])]  # fmt: skip
    waits = f"{pace / 6} {pace / 10} {pace}"
    load = Load(url, waits, sinks)
    seen: Counter[str | int] = Counter()
    try:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for server in (hook, arc):
                seen[_misbehave(server, chance.choice(MODES))] += 1
            if chance.random() < 0.15:
                load.kill()
            time.sleep(chance.uniform(0.2, 1.5) * pace)
    finally:
        load.end()
    for server in (hook, arc):
        _misbehave(server, "ok")
    told = _check(url, sinks, lines, files, hook, arc)
    hook.close()
    arc.close()
    return {"kills": load.kills, "modes": dict(seen), **told}


def _misbehave(server: Receiver, mode: str | int) -> str | int:
    server.released.set()  # whoever hangs is cut
    if mode == "down":
        server.kill()
        return mode
    if server._server is None:
        server.start()
    server.released.clear()
    server.mode = mode
    return mode


def _check(url: str, sinks: list[str], lines: Path, files: Path, hook: Receiver, arc: ArcServer) -> dict[str, Any]:
    with Budget(url, sinks=[]) as budget:
        made = runner.Runner(budget.engine, sinks)
        for sink in made.sinks:
            _through(made, sink)
        ledger = list(budget.entries())
    changes = tuple((entry, change) for entry, change in rows_of(ledger))
    batch = base.Batch("default", 1, ledger[-1].seq, changes)
    seqs = [entry.seq for entry, _ in changes]
    assert len(seqs) > 20, "there was no load"
    older = sorted(lines.parent.glob("calls.jsonl.*"), key=lambda path: -int(path.suffix[1:]))
    written = [json.loads(line)["seq"] for path in (*older, lines) for line in path.read_text().splitlines()]
    assert written == seqs, "JSON Lines: not each entry exactly once"
    posted = [(line["seq"], line["id"]) for _, _, body in hook.taken for line in json.loads(body)["records"]]
    assert sorted({seq for seq, _ in posted}) == seqs, "webhook: a record is missing"
    assert len(set(posted)) == len(seqs), "webhook: a repeat cannot be told by its id"
    stored = [row["call_id"] for name in ("llm_usage", "llm_refusals") for row in arc.rows["llm_costs", name]]
    wanted = [row["call_id"] for row in rows.table_rows(batch)]
    assert set(stored) == set(wanted), "Arc: a record is missing"
    assert arc.skipped == 0
    assert sorted(_parquet_ids(files)) == sorted(wanted), "Parquet: not each row exactly once"
    told = {"records": len(seqs), "webhook repeats": len(posted) - len(seqs), "Arc repeats": len(stored) - len(wanted)}
    if len(sinks) > 4:
        import psycopg

        with psycopg.connect(sinks[4]) as db:
            found = [id for (id,) in db.execute("select call_id from calls")]
        assert sorted(found) == sorted(wanted), "PostgreSQL: not each row exactly once"
        told["PostgreSQL rows"] = len(found)
    return told


def _through(made: runner.Runner, sink: base.Sink) -> None:
    for _ in range(100):  # a process that was just killed may be waited for, or an answer that was cut
        try:
            made.once(sink)
            return
        except (SinkFailed, runner.StoreUnavailable):
            time.sleep(0.1)
    made.once(sink)


def rows_of(ledger: list[Any]) -> list[tuple[Any, Any]]:
    from budget.records import changes_of

    return [(entry, change) for entry, change in changes_of(ledger) if change is not None]


def _parquet_ids(folder: Path) -> list[str]:
    import duckdb

    with duckdb.connect() as db:
        return [id for (id,) in db.execute(f"select call_id from '{folder}/*/*.parquet'").fetchall()]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sinks.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgres", metavar="URL", help="A database whose table `calls` is dropped and made anew.")
    given = parser.parse_args()
    if given.postgres:
        import psycopg

        with psycopg.connect(given.postgres) as db:
            db.execute("drop table if exists calls, calls_places")
    make_sink("jsonl:x")
    with tempfile.TemporaryDirectory(prefix="budget-soak-") as folder:
        told = soak(Path(folder), given.minutes * 60, given.seed, pace=2.0, postgres=given.postgres)
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
