"""The long form of everything for so many minutes, and the dated record of it.

Each part gets a share of the time, goes on until it is over, and says what it did. A violation ends its part; the
record shows it, and the command fails.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import random
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redisserver import RedisServer, binaries

from . import crashes, disk, faults
from .cluster import Cluster
from .load import Storm
from .proxy import ACTS
from .simulator import simulate

__all__ = ["Part", "prove"]

KILLS, SERVER_KILLS = 120, 60
"""The most of a part; in ten minutes each comes to them, and two parts kill clients."""


@dataclass
class Part:
    """What one part did."""

    name: str
    what: str
    share: float
    act: Callable[[Part, float, Path, int], None]
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    violation: str | None = None
    skipped: str | None = None


def worlds(part: Part, until: float, folder: Path, seed: int) -> None:
    entries: Counter[str] = Counter()
    count = steps = 0
    on_file = folder if "SQLite" in part.name else None
    while time.monotonic() < until:
        world = simulate(seed + count, 2000, on_file)
        part.operations += world.counts["operations"]
        steps += world.counts["steps"]
        part.faults += world.faults
        entries += Counter(world.books.counts)
        for left in folder.glob("*.db*") if on_file else ():
            left.unlink()
        count += 1
    part.notes.append(f"{count:,} seeds from {seed}, {steps:,} steps, {sum(entries.values()):,} entries checked")


def network(part: Part, until: float, folder: Path, seed: int) -> None:
    if not binaries():
        part.skipped = "no redis-server or valkey-server"
        return
    path = str(folder / "socket")
    server = RedisServer(folder, unixsocket=path)
    try:
        sizes = faults.lengths(path)
        chosen = faults.trials(sizes, ACTS)
        random.Random(seed).shuffle(chosen)
        chosen.sort(key=lambda trial: trial.fault.act not in ("cut", "stall"))
        done = unanswered = 0
        while done < len(chosen) and time.monotonic() < until:
            some = chosen[done : done + 256]
            told = faults.run(path, some)
            done += len(some)
            part.faults += Counter(trial.fault.act for trial in some)
            part.operations += len(some)
            unanswered += sum(n for text, n in told.items() if text.endswith(faults.UNANSWERED))
        places = sum(sum(size) for size in sizes.values())
        what = f"{places:,} bytes of {len(sizes)} commands, 2 doors, {len(ACTS)} kinds of fault"
        part.notes.append(f"{done:,} of {len(chosen):,} trials ({what}); {unanswered:,} had no answer in time")
    finally:
        server.stop()


def disks(part: Part, until: float, folder: Path, seed: int) -> None:
    part.skipped = disk.missing()
    if part.skipped:
        return
    kept = crashes.play(folder)
    numbers = list(range(len(kept.ops) + 1))
    random.Random(seed).shuffle(numbers)
    done = 0
    for n in numbers:
        if time.monotonic() > until:
            break
        part.faults += crashes.reopen(kept, n, folder, random.Random(seed + n))
        for kind in crashes.ERRORS:
            wanted = "sync" if kind == "fsync" else "write"
            if n < len(kept.ops) and kept.ops[n].what == wanted:
                for forever in (False, True):
                    part.faults[kind] += crashes.fail_at(n, kind, folder, forever)
        for kind in (*crashes.ERRORS, "killed", "power") if n < crashes.DRAINS else ():
            if crashes.drain_at(n, kind, folder):
                part.faults[f"drain {kind}"] += 1
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            struck = alone.apply(crashes.kill_all, ([n], str(folder))) if done % 10 == 0 else 0
        part.kills += struck
        done += 1
    part.operations = done * len(crashes.SCRIPT)
    part.notes.append(f"{done} of {len(numbers)} operations of the disk in a run of every kind of command")


def storm(part: Part, until: float, folder: Path, seed: int) -> None:
    kind = part.name.split()[-1]
    if kind != "SQLite" and not binaries():
        part.skipped = "no redis-server or valkey-server"
        return
    killing = part.name.startswith("kills")
    with store(kind, folder) as (url, server):
        seconds = max(1.0, until - time.monotonic())
        wanted = (int(seconds * 6) if killing else 0, int(seconds * 1.5) if killing and server else 0)
        blow = Storm(url, folder, 4 if killing else 16, seed, 0.05, server)
        counts = blow.run(seconds * 0.7, min(wanted[0], KILLS), min(wanted[1], SERVER_KILLS))
    part.operations = sum(n for name, n in counts.items() if name.startswith("entries"))
    part.kills = counts["kills"] + counts["server kills"]
    part.faults += Counter({name: counts[name] for name in ("kills", "server kills", "limits changed") if counts[name]})
    part.notes.append(
        f"{counts['acknowledged']:,} acknowledged, all there; {counts['observations']:,} observations; "
        f"{counts['entries reserved']:,} reserved, {counts['entries refused']:,} refused, "
        f"{counts['entries expired']:,} expired; filled to the last nano-dollar at the end"
    )


@contextmanager
def store(kind: str, folder: Path) -> Iterator[tuple[str, Any]]:
    """A store of a kind, empty, and what can be killed of it."""
    if kind == "SQLite":
        yield f"sqlite:///{folder}/budget.db", None
        return
    made: Any = Cluster(folder) if kind == "cluster" else None
    made = made or RedisServer(folder, appendonly="yes", appendfsync="always")
    try:
        yield made.url, None if kind == "cluster" else made
    finally:
        made.stop()


def parts() -> list[Part]:
    """What there is, with its share of the time."""
    return [
        Part("simulated worlds, memory", "invariants after every step, liveness at the end", 0.18, worlds),
        Part("simulated worlds, SQLite's state code", "the same, several writers on one file", 0.10, worlds),
        Part("connections to Redis", "cut, stalled, ... at every byte: as if in some legal order", 0.18, network),
        Part("disk under SQLite", "kill, power loss, EIO, ENOSPC at the n-th write or sync", 0.18, disks),
        Part("16 processes on SQLite", "3 windows x 4 scopes, limits change; I1 to I15 at every look", 0.05, storm),
        Part("16 processes on Redis", "the same", 0.05, storm),
        Part("16 processes on a 3-node cluster", "the same", 0.05, storm),
        Part("kills on SQLite", "SIGKILL of clients: nothing acknowledged is lost", 0.09, storm),
        Part("kills on Redis", "SIGKILL of clients and of the server (AOF always)", 0.12, storm),
    ]


def prove(minutes: float, out: Path | None, seed: int, only: str = "") -> bool:
    """Run every part for its share of so many minutes, write the record, and say whether nothing was violated."""
    began = datetime.now(UTC)
    chosen = [part for part in parts() if only in part.name]
    for part in chosen:
        start = time.monotonic()
        print(f"{part.name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="proof-", dir=_fast()) as folder:
            try:
                part.act(part, start + part.share * minutes * 60, Path(folder), seed)
            except Exception:
                part.violation = traceback.format_exc()
        part.seconds = time.monotonic() - start
        print(f"  {part.operations:,} operations, {_summary(part)}", file=sys.stderr, flush=True)
    text = "\n".join(_lines(chosen, began, seed))
    print(text)
    if out is not None:
        out.write_text(text + "\n")
    return not any(part.violation for part in chosen)


def _fast() -> str | None:
    """Where files are made: in memory if there is such a place; the faults come from the instruments."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _summary(part: Part) -> str:
    return part.violation or part.skipped or f"{sum(part.faults.values()):,} faults, no violation"


def _lines(chosen: list[Part], began: datetime, seed: int) -> Iterator[str]:
    operations, kills = sum(part.operations for part in chosen), sum(part.kills for part in chosen)
    injected = sum(sum(part.faults.values()) for part in chosen)
    violations = sum(part.violation is not None for part in chosen)
    yield "# A record of `make proof`"
    yield ""
    yield f"{began:%Y-%m-%d %H:%M} UTC, {sum(part.seconds for part in chosen) / 60:.1f} minutes, seed {seed}."
    yield f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores; {_versions()}."
    yield ""
    yield f"**{operations:,} operations, {injected:,} faults, {kills:,} kills: violations = {violations}.**"
    yield ""
    yield "| Part | What | Operations | Faults by kind | Seconds |"
    yield "| --- | --- | ---: | --- | ---: |"
    for part in chosen:
        kinds = ", ".join(f"{name} {count:,}" for name, count in sorted(part.faults.items()))
        yield f"| {part.name} | {part.what} | {part.operations:,} | {part.skipped or kinds} | {part.seconds:.0f} |"
    yield ""
    for part in chosen:
        yield f"* **{part.name}**: {part.violation or part.skipped or '; '.join(part.notes)}"


def _versions() -> str:
    import redis

    from budget import __version__

    found = [f"budget {__version__}", f"Python {platform.python_version()}", f"SQLite {sqlite3.sqlite_version}"]
    return ", ".join([*found, f"redis-py {redis.__version__}", *_servers()])


def _servers() -> list[str]:
    import subprocess

    some = list(binaries().values())[:1]
    told = [subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout for path in some]
    return [" ".join(text.split()[:3]) for text in told]
