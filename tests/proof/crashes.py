"""Every kind of command on an SQLite file, with a fault at the n-th write or sync for every n.

One run of `SCRIPT` is kept as the operations of a disk. From it follow the files as they are when the process is
killed, or the power lost, at any of them. Other runs have an error or a full disk at the n-th. Each time SQLite finds
its file intact, the invariants hold, all that was acknowledged is there, and the store goes on.

What operators do is among it: a rebuild of spoiled counters, and a prune. Where that is cut off, it is done again. A
drain into a file is treated likewise (`drain_at`): each entry comes once.

A new command joins with one line in `SCRIPT`.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from budget.books.books import Books as Ledgers
from budget.books.pruning import prune
from budget.commands import (
    ChangePolicy,
    Command,
    Draw,
    Learn,
    Rebuild,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reserve,
    Sweep,
)
from budget.errors import StoreUnavailable
from budget.stores import sqlitewriter
from budget.stores.base import Store, open_store, read_entries
from budget.stores.memory import MemoryStore
from budget.stores.records import Records
from budget.window import FOREVER

from .disk import FULL, IOERR_FSYNC, IOERR_WRITE, Disk, Op, killed, lost_power
from .drained import Served, all_there, drain, said
from .invariants import Books, must

__all__ = ["DRAINS", "ERRORS", "SCRIPT", "Kept", "check", "drain_at", "fail_at", "kill_at", "play", "reopen"]

S = 1_000_000
NOW = 1_760_000_000 * S
DRAINS = 76
"""Operations of the disk in the drain of a script, at most."""
ERRORS = {"eio": IOERR_WRITE, "enospc": FULL, "fsync": IOERR_FSYNC}


def draws(amount: int, window: int = 0) -> list[Draw]:
    hours = [Draw("hour", "hour", 0, 1000, amount, NOW + window * S, NOW + (window + 100) * S, 0)]
    return [*hours, *[Draw(f"pool{n}", f"pool{n}", 0, 1000, amount, 0, FOREVER, 0) for n in range(3)]]


def reserve(number: int, version: int = 0, window: int = 0, lease: int = 600) -> Reserve:
    scope = {"user": "ann"}
    return Reserve(
        f"{number:032x}", "asked", (10, 0, 0, 0, 1), draws(10, window), version, lease * S, scope, {"model": "m"}
    )


def reconcile(number: int, cost: int = 7) -> Reconcile:
    return Reconcile(f"{number:032x}", (cost, 0, 0, 0, 1), {})


def spoil(store: Store) -> None:
    found = store.snapshot("default")
    wrong = {key: bucket.at(bucket.spent + 3, 5) for key, bucket in found.buckets.items()}
    store.call("default", Rebuild(found.seq, wrong, found.names), 10.0)


def rebuild(store: Store) -> None:
    must(Ledgers(store, "default").rebuild().audit.ok, "I14", None, "rebuilt, the books do not balance")


def summed(store: Store) -> None:
    now = NOW + 126 * S
    prune(Ledgers(store, "default"), now, now, {})  # which it refuses where the rebuild before it was cut off


# When (seconds after NOW), and what. All kinds, twice over, and a window that ends.
SCRIPT: list[tuple[int, Command | Callable[[Store], None]]] = [
    (0, reserve(1)), (0, reserve(2)), (0, reserve(3)), (0, reserve(4, lease=5)), (1, reconcile(1)),
    (1, Refund(f"{2:032x}")), (1, Refund(f"{9:032x}")), (2, Renew(f"{3:032x}", 700 * S)), (6, Sweep()),
    (7, reconcile(4, 25)), (8, Record(f"{5:032x}", "asked", (7, 0, 0, 0, 1), draws(0), 0, {}, {})),
    (9, ChangePolicy("limit", "a", "body", {"limit": "$1/day"})), (9, reserve(6, version=1)), (9, reserve(7)),
    (120, reserve(8, version=1, window=100)), (121, reconcile(3)), (121, Learn({"o/m": {3: 2}})),
    (122, ChangePolicy("limit", "a", None, {"limit": "$1/day"})), (123, reconcile(8)), (124, reconcile(6, 0)),
    (125, reconcile(7)), (125, spoil), (125, rebuild), (126, summed),
    (127, reserve(10, version=2, window=100)), (128, reconcile(10)),
]  # fmt: skip


def carry_out(store: Store, what: Command | Callable[[Store], None]) -> None:
    if callable(what):
        what(store)
    else:
        store.call("default", what, 10.0)


@dataclass
class Kept:
    """A run of the script: what the disk was told, and after how much of it each command was acknowledged."""

    path: str
    ops: list[Op] = field(default_factory=list)
    acknowledged: list[tuple[int, int]] = field(default_factory=list)  # operations by then, entries by then
    digests: dict[int, bytes] = field(default_factory=dict)


@contextmanager
def small_log(pages: int = 12) -> Iterator[list[int]]:
    """Have checkpoints often, so that they are in every run; and the time that is told, in seconds after NOW."""
    kept, clock, at = sqlitewriter.connect, sqlitewriter.time, [0]

    def connect(path: Path) -> sqlite3.Connection:
        db = kept(path)
        db.execute(f"pragma wal_autocheckpoint = {pages}")
        return db

    sqlitewriter.connect = connect  # type: ignore[attr-defined]
    told = SimpleNamespace(time_ns=lambda: (NOW + at[0] * S) * 1000, monotonic=clock.monotonic)
    sqlitewriter.time = told  # type: ignore[assignment]
    try:
        yield at
    finally:
        sqlitewriter.connect, sqlitewriter.time = kept, clock  # type: ignore[attr-defined]


def play(folder: Path) -> Kept:
    """Run the script and keep what the disk was told."""
    disk, path = Disk(), folder / "kept.db"
    kept = Kept(str(path), disk.ops)
    with small_log() as clock, disk.mounted():
        store = open_store(f"sqlite:///{path}")
        for at, command in SCRIPT:
            clock[0] = at
            carry_out(store, command)
            kept.acknowledged.append((len(disk.ops), store.last("default")))
            kept.digests |= {entry.seq: entry.digest for entry in read_entries(store, "default")}
        kept.ops = list(disk.ops)  # without the close
        store.close()
    return kept


def images(kept: Kept, n: int, chance: random.Random) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The files at the n-th operation, however it comes to an end there."""
    yield "killed", killed(kept.ops, n)
    if n < len(kept.ops) and kept.ops[n].what == "write":
        yield "torn", killed(kept.ops, n, torn=True)
    yield "power", lost_power(kept.ops, n, chance)


def reopen(kept: Kept, n: int, folder: Path, chance: random.Random) -> Counter[str]:
    """Open what is left at the n-th operation, in each way, and go on with it.

    Raises:
        Violation: Something acknowledged is lost, or an invariant does not hold.
    """
    counts: Counter[str] = Counter()
    least = max([entries for ops, entries in kept.acknowledged if ops <= n], default=0)
    for how, files in images(kept, n, chance):
        with tempfile.TemporaryDirectory(dir=folder) as made:
            path = Path(made) / "kept.db"
            path.touch(mode=0o600)
            for name, content in files.items():
                (Path(made) / Path(name).name).write_bytes(content)
            where = f"{how} at operation {n} of {len(kept.ops)}"
            with _told(where):
                check(path, least, kept.digests, where)
        counts[how] += 1
    return counts


def check(path: Path, least: int, digests: dict[int, bytes] | None, where: str) -> None:
    """An account is intact, has what was acknowledged, and goes on."""
    with small_log() as clock:
        clock[0] = 200
        store = open_store(f"sqlite:///{path}")
        try:
            before = [entry.kind for entry in read_entries(store, "default")]
            if before.count("rebuilt") % 2:  # it was spoiled, and whoever was to set it right was cut off
                rebuild(store)
            books = Books()
            books.begin(store)
            books.observe(store)
            found = Ledgers(store, "default").verify()
            must(found.ok, "I12", None, f"{where}: the audit says {found.faults}")
            must(books.seq >= least, "I27", None, f"{where}: {least} entries were acknowledged, {books.seq} are there")
            if digests is not None:
                there = [(entry.seq, entry.digest) for entry in read_entries(store, "default")][: len(before)]
                must(all(digests[seq] == digest for seq, digest in there), "I12", None, f"{where}: another history")
            version = store.call("default", Sweep(), 10.0, NOW + 200 * S).version
            done = store.call("default", reserve(99, version, window=200), 10.0, NOW + 200 * S)
            must(done.status == "reserved", "L2", None, f"{where}: {done.status}")
            books.observe(store)
        finally:
            store.close()
    db = sqlite3.connect(path)
    must(db.execute("pragma integrity_check").fetchall() == [("ok",)], "I26", None, f"{where}: the file is damaged")
    db.close()


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(where)
        raise


def fail_at(n: int, kind: str, folder: Path, forever: bool = False) -> bool:
    """Run the script on a disk whose n-th operation fails (and, `forever`, all later ones until the end of the script).

    Returns:
        Whether there was such an operation.

    Raises:
        Violation: See `reopen`.
    """
    wanted = "sync" if kind == "fsync" else "write"

    def fail(number: int, op: Op) -> int:
        hits = number >= n if forever else number == n
        return ERRORS[kind] if hits and op.what == wanted and disk.keep else 0

    disk = Disk(fail)
    done = 0
    with tempfile.TemporaryDirectory(dir=folder) as made, small_log() as clock, disk.mounted(), _told(f"{kind} at {n}"):
        path = Path(made) / "fails.db"
        store = open_store(f"sqlite:///{path}")
        for at, command in SCRIPT:
            clock[0] = at
            try:
                carry_out(store, command)
                done = max(done, _last(store))
            except StoreUnavailable:
                pass
        disk.keep = False  # the disk works again
        store.close()
        check(path, done, None, f"{kind} at {n}")
    return disk.failures > 0


def drain_at(n: int, kind: str, folder: Path) -> bool:
    """Drain into a file whose n-th operation fails, or is the last before a kill or a power loss; then go on.

    Returns:
        Whether there was such an operation.

    Raises:
        Violation: An entry did not come, or came twice.
    """
    source = MemoryStore()
    for at, command in SCRIPT:
        if not callable(command):
            source.call("default", command, 10.0, NOW + at * S)
    wanted = "sync" if kind == "fsync" else "write"
    disk = Disk(lambda number, op: ERRORS.get(kind, 0) if number == n and op.what == wanted else 0)
    with tempfile.TemporaryDirectory(dir=folder) as made, _told(f"drain, {kind} at {n}"):
        path = Path(made) / "records.db"
        records = Records(f"sqlite:///{path}")
        with disk.mounted():
            ledgers = Ledgers(Served(source, records), "default", records)  # type: ignore[arg-type]
            drain(ledgers, 1 if kind in ("killed", "power") else 50)
            records.close()
        struck = disk.failures > 0
        if kind in ("killed", "power"):
            struck, chance = n < len(disk.ops), random.Random(n)
            files = killed(disk.ops, n, torn=True) if kind == "killed" else lost_power(disk.ops, n, chance)
            for left in Path(made).iterdir():
                left.unlink()
            for name, content in files.items():
                Path(name).write_bytes(content)
                Path(name).chmod(0o600)
            records = Records(f"sqlite:///{path}")
            ledgers = Ledgers(Served(source, records), "default", records)  # type: ignore[arg-type]
        drain(ledgers)
        all_there(ledgers, said(source))
        records.close()
    return struck


def _last(store: Any) -> int:
    try:
        found: int = store.last("default")
    except StoreUnavailable:
        return 0
    return found


def kill_at(n: int, folder: Path) -> bool:
    """Run the script in a forked process that kills itself at the n-th operation; False if it came to its end.

    The caller must have no thread besides its own (`forked` makes sure of that).
    """
    path = folder / f"killed-{n}.db"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _until_killed(n, path, write)
    os.close(write)
    told = b""
    while some := os.read(read, 4096):
        told += some
    os.close(read)
    _, status = os.waitpid(child, 0)
    least = int(told.split()[-1]) if told.split() else 0
    check(path, least, None, f"killed at operation {n}")
    for left in folder.glob(f"{path.name}*"):
        left.unlink()
    return os.WIFSIGNALED(status)


def _until_killed(n: int, path: Path, write: int) -> None:
    def fail(number: int, op: Op) -> int:
        if number == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    try:
        disk = Disk(fail, keep=False)
        with small_log() as clock, disk.mounted():
            store = open_store(f"sqlite:///{path}")
            for at, command in SCRIPT:
                clock[0] = at
                carry_out(store, command)
                os.write(write, b"%d\n" % store.last("default"))
    finally:
        os._exit(0)


def kill_all(numbers: Iterable[int], folder: str) -> int:
    """Be killed at each of these operations; how often that came to pass. To be run in a process without threads."""
    return sum(kill_at(n, Path(folder)) for n in numbers)
