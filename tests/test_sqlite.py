"""What only the SQLite store has to prove: files, processes, forks, full disks, and how its queries run."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import STORES, books, python

from budget import Budget, BudgetExceeded, ConfigError, StoreUnavailable
from budget.commands import (
    ChangePolicy,
    Command,
    Draw,
    Prune,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reserve,
    Status,
    Sweep,
)
from budget.stores import sqlitefile, sqlitestate
from budget.stores.base import open_store
from budget.stores.sqlite import SqliteStore
from budget.stores.sqlitefile import SCHEMA_VERSION, FileLock
from budget.stores.tickets import Ticket
from budget.window import FOREVER

DAY = ["$1000/day"]
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.db"


@pytest.fixture
def opened(sqlite_url: str) -> Iterator[SqliteStore]:
    store = SqliteStore(sqlite_url.removeprefix("sqlite:///"))
    yield store
    store.close()


def spend(id: int, amount: int = 1) -> Record:
    draw = Draw("pool", "pool", 0, 10**15, amount, 0, FOREVER, 0)
    return Record(f"{id:032x}", "d", (amount, 0, 0, 0, 1), [draw], 0, {}, {})


def refused(path: Path, match: str) -> None:
    with Budget(f"sqlite:///{path}") as budget:
        for _ in range(2):  # a failed try leaves the next call to try again, and to say the same
            with pytest.raises(StoreUnavailable, match=match):
                budget.reserve("$1")
        with pytest.raises(StoreUnavailable, match=match):
            asyncio.run(budget.aio.reserve("$1"))
        with pytest.raises(StoreUnavailable, match=match):
            budget.status()


def integrity(path: Path) -> str:
    db = sqlite3.connect(path)
    try:
        return str(db.execute("pragma integrity_check").fetchone()[0])
    finally:
        db.close()


# The file.


def test_files_are_private(opened: SqliteStore, path: Path) -> None:
    old = os.umask(0)
    try:
        opened.call("default", spend(1), 5.0)
    finally:
        os.umask(old)
    files = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir() if file.is_file()}
    assert set(files) == {"budget.db", "budget.db-wal", "budget.db-shm", "budget.db.lock"}
    assert set(files.values()) == {0o600}


def test_close_leaves_one_file_that_can_be_copied(opened: SqliteStore, path: Path, tmp_path: Path) -> None:
    opened.call("default", spend(1, 7), 5.0)
    opened.close()
    assert not Path(f"{path}-wal").exists()
    (tmp_path / "copy.db").write_bytes(path.read_bytes())
    copy = open_store(f"sqlite:///{tmp_path / 'copy.db'}")
    assert [bucket.spent for bucket in copy.snapshot("default").buckets.values()] == [7]
    copy.close()


def test_nothing_is_opened_before_the_first_verb(path: Path) -> None:
    Budget(f"sqlite:///{path}").close()
    assert not path.exists()


def test_a_relative_path_is_taken_where_the_store_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    store = open_store("sqlite:///here.db")
    monkeypatch.chdir(tmp_path)
    store.call("default", spend(1), 5.0)
    store.close()
    assert (here / "here.db").exists()


def test_durability_is_as_promised(opened: SqliteStore) -> None:
    opened.call("default", spend(1), 5.0)
    db = opened._writer.db
    assert db is not None
    assert [db.execute(f"pragma {name}").fetchone()[0] for name in ("journal_mode", "synchronous")] == ["wal", 2]


def test_a_schema_of_a_newer_version(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    store.call("default", spend(1), 5.0)
    store.close()
    db = sqlite3.connect(path)
    db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
    db.close()
    before = path.read_bytes()
    refused(path, f"schema {SCHEMA_VERSION + 1}")
    assert path.read_bytes() == before


def test_not_a_database(path: Path) -> None:
    path.write_bytes(b"something else entirely\n" * 100)
    refused(path, "not a database")
    assert path.read_bytes() == b"something else entirely\n" * 100


def test_a_damaged_database(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    store.call("default", spend(1), 5.0)
    store.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with Budget(f"sqlite:///{path}") as budget, pytest.raises(StoreUnavailable):
        budget.reserve("$1")


def test_a_missing_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere" / "budget.db", "does not exist")


def test_a_folder_that_is_a_file(path: Path) -> None:
    path.write_text("")
    refused(path / "budget.db", "does not exist")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
def test_a_folder_that_takes_no_file() -> None:
    refused(Path("/proc/budget.db"), "cannot be opened")


def test_a_path_that_is_a_folder(path: Path) -> None:
    path.mkdir()
    refused(path, "is no file")


def test_a_file_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"sqlite:///{path}")
    store.call("default", spend(1), 5.0)
    store.close()
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda p, **k: real(f"file:{p}?mode=ro", uri=True, **k))
    refused(path, "readonly")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_a_network_file_system(path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = f"/dev/sda1 / ext4 rw 0 0\nserver:/x {path.parent} {kind} rw 0 0\n/dev/sdb /elsewhere ext4 rw 0 0\n"
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda p, **k: mounts if str(p) == "/proc/self/mounts" else real(p, **k))
    refused(path, kind)
    assert not path.exists()


def test_the_mount_that_counts_is_the_nearest(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = str(path.parent).replace(" ", "\\040")
    mounts = f"server:/x / nfs4 rw 0 0\ntmpfs {space} tmpfs rw 0 0\nserver:/y {space}more nfs4 rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda p, **k: mounts)
    assert sqlitefile._file_system(path.parent) == "tmpfs"


def test_the_url() -> None:
    assert open_store("sqlite:////tmp/x.db").url == "sqlite:////tmp/x.db"
    with pytest.raises(ConfigError):
        open_store("sqlite://")


# The lock beside it.


def test_the_lock_excludes_the_threads_of_one_process_too(tmp_path: Path) -> None:
    """A thread that opens a reader must not let go of the lock under which the writer is in a transaction."""
    import fcntl

    lock, probe = FileLock(tmp_path / "lock"), os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    try:
        with lock.held():
            second = threading.Thread(target=_hold_once, args=(lock,), daemon=True)
            second.start()
            second.join(0.2)  # it waits, or it has come and gone
            with pytest.raises(BlockingIOError):
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second.join(60)
        assert not second.is_alive()
        fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(probe)
        lock.close()


def _hold_once(lock: FileLock) -> None:
    with lock.held():
        pass


def test_readers_and_close_do_not_block_one_another(sqlite_url: str) -> None:
    store = SqliteStore(sqlite_url.removeprefix("sqlite:///"))

    def read() -> None:
        for _ in range(30):
            with suppress(StoreUnavailable):  # closed under its hands, and said so
                store.snapshot("default")

    def close() -> None:
        for _ in range(30):
            store.close()

    threads = [threading.Thread(target=target, daemon=True) for target in (read, read, close)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    store.close()


# Many at once.


def test_two_budgets_on_one_file(sqlite_url: str) -> None:
    with Budget(sqlite_url, limits=["$1/day"]) as one, Budget(sqlite_url, limits=["$1/day"]) as two:
        held = one.reserve("$0.60", user="alice")
        with pytest.raises(BudgetExceeded):
            two.reserve("$0.50", user="bob")
        two.reconcile(held.id, usd="0.10")
        assert str(one.status()[0].spent) == "0.1"
        one.close()
        assert str(two.status()[0].spent) == "0.1"


def test_a_group_is_one_transaction(opened: SqliteStore) -> None:
    """What waits together is committed together, and each gets its own answer."""
    opened.call("default", Status([]), 5.0)
    statements: list[str] = []
    opened._writer.db.set_trace_callback(statements.append)  # type: ignore[union-attr]
    tickets = [Ticket("default", spend(n), None) for n in range(50)]
    opened._writer.commit(tickets)
    opened._writer.db.set_trace_callback(None)  # type: ignore[union-attr]
    assert [s.lower() for s in statements].count("commit") == 1
    assert {ticket.outcome.status for ticket in tickets if ticket.outcome} == {"recorded"}
    assert [b.spent for b in opened.snapshot("default").buckets.values()] == [50]
    assert books(opened).ok


def test_one_that_fails_does_not_fail_its_neighbours(opened: SqliteStore) -> None:
    opened.call("default", Status([]), 5.0)
    tickets = [Ticket("default", spend(n), None) for n in range(5)]
    tickets.insert(2, Ticket("default", spend(9, 2**64), None))  # no column holds that
    opened._writer.commit(tickets)
    assert [t.outcome is not None and t.error is None for t in tickets] == [True, True, False, True, True, True]
    assert [b.spent for b in opened.snapshot("default").buckets.values()] == [5]
    assert books(opened).ok


def test_a_group_sees_what_it_has_changed(opened: SqliteStore) -> None:
    """In one transaction: two late ends in a window that is over, between calls in the one that is not."""
    old, new = (Draw("pool", "pool", 0, 100, 10, start, start + 100, 0) for start in (0, 100))

    def reserve(id: int, draw: Draw) -> Reserve:
        return Reserve(f"{id:032x}", "d", (draw.amount, 0, 0, 0, 1), [draw], 0, 10_000, {}, {})

    before = [reserve(n, old) for n in range(4)]
    group = [
        reserve(10, new), Reconcile(f"{0:032x}", (3, 0, 0, 0, 1), {}), reserve(11, new), Refund(f"{1:032x}"),
        reserve(12, new),
        Reconcile(f"{2:032x}", (40, 0, 0, 0, 1), {}), Reconcile(f"{10:032x}", (90, 0, 0, 0, 1), {}), reserve(13, new),
        Renew(f"{3:032x}", 50), Refund(f"{11:032x}"), Refund(f"{11:032x}"), reserve(11, new),
    ]  # fmt: skip
    memory = open_store("memory://")
    for command in before:
        for store in (opened, memory):
            assert store.call("default", command, 5.0, 50).status == "reserved"
    tickets = [Ticket("default", command, 150) for command in group]
    opened._writer.commit(tickets)
    alone = [memory.call("default", command, 5.0, 150) for command in group]
    assert [t.outcome.status for t in tickets if t.outcome] == [outcome.status for outcome in alone]
    assert opened.snapshot("default") == memory.snapshot("default")
    assert books(opened).ok


@pytest.mark.parametrize("rollover", [0, 10])
def test_a_group_that_prunes_knows_what_it_has_just_moved(opened: SqliteStore, rollover: int) -> None:
    """A window goes, and the pool's newest one has been drawn on, or was opened, in the same transaction."""
    hour = 3600 * 10**6

    def reserve(n: int, window: int) -> Reserve:
        start = window * hour
        draws = [Draw("pool", "pool", 0, 100, 60, start, start + hour, start, rollover=rollover)]
        return Reserve(f"{n:032x}", "d", (60, 0, 0, 0, 1), draws, 0, 2 * hour, {}, {})

    def prune(window: int, spent: int) -> Prune:
        gone = ("pool", window * hour)
        return Prune(0, 2, bytes(32), (60, 0, 0, 0, 0), {gone: (spent, 0)}, {gone}, {})

    group = [reserve(2, 2), prune(1, 60), reserve(3, 2), Refund(f"{2:032x}"), reserve(4, 2), reserve(5, 2)]
    memory = open_store("memory://")
    for store in (opened, memory):
        assert store.call("default", reserve(1, 1), 5.0, hour).status == "reserved"
        assert store.call("default", Reconcile(f"{1:032x}", (60, 0, 0, 0, 1), {}), 5.0, hour + 1).status == "reconciled"
    tickets = [Ticket("default", command, 2 * hour) for command in group]
    opened._writer.commit(tickets)
    found = [ticket.outcome.status for ticket in tickets if ticket.outcome]
    assert found == ["reserved", "pruned", "refused", "refunded", "reserved", "refused"]
    assert found == [memory.call("default", command, 5.0, 2 * hour).status for command in group]
    assert opened.snapshot("default") == memory.snapshot("default")


def test_a_group_expires_nothing_twice(opened: SqliteStore) -> None:
    draw = Draw("pool", "pool", 0, 1000, 1, 0, FOREVER, 0)
    for n in range(100):
        opened.call("default", Reserve(f"{n:032x}", "d", (1, 0, 0, 0, 1), [draw], 0, 1000, {}, {}), 5.0, 1)
    for _ in range(2):
        opened._writer.commit([Ticket("default", Sweep(), 5000) for _ in range(5)])
    expired = [entry.reservation for entry in opened.entries("default", 0) if entry.kind == "expired"]
    assert len(expired) == len(set(expired)) == 100
    assert [(b.spent, b.reserved) for b in opened.snapshot("default").buckets.values()] == [(100, 0)]


def test_the_last_line_of_defence(opened: SqliteStore) -> None:
    """STRICT and the CHECKs keep out what no verb should ever write."""
    opened.call("default", spend(1), 5.0)
    db = opened._writer.db
    assert db is not None
    for change in ("spent = -1", "reserved = -1", f"spent = {2**53}", "spent = 1.5", "spent = null", "spent = 'x'"):
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(f"update buckets set {change}")


# What is known from one transaction to the next.

ENDLESS = Draw("pool", "pool", 0, 100, 60, 0, FOREVER, 0)


def hold(id: int, lease: int = 60_000_000) -> Reserve:
    return Reserve(f"{id:032x}", "d", (60, 0, 0, 0, 1), [ENDLESS], 0, lease, {}, {})


def reads(store: SqliteStore, command: Command) -> list[str]:
    """Carry a command out, and return the tables that were read for it."""
    statements: list[str] = []
    db = store._writer.db  # type: ignore[union-attr]
    db.set_trace_callback(statements.append)
    store.call("default", command, 5.0)
    db.set_trace_callback(None)
    return [s.split(" from ")[1].split()[0] for s in statements if s.lower().startswith("select")]


def test_rows_are_read_once(opened: SqliteStore) -> None:
    """While nobody else writes, a pool, an open reservation and the marker are not read again."""
    opened.call("default", hold(1), 5.0)
    assert reads(opened, spend(7)) == ["reservations"]  # whether this id was used
    assert reads(opened, Reconcile(f"{1:032x}", (5, 0, 0, 0, 1), {})) == []
    assert reads(opened, Refund(f"{1:032x}")) == ["reservations"]  # it has ended, and is not kept


def test_what_a_group_made_is_found_when_it_has_ended(opened: SqliteStore) -> None:
    """A group asks beforehand which of its reservations there are; that answer is for this group alone."""
    opened.call("default", Status([]), 5.0)
    writer = opened._writer
    assert writer is not None
    writer.commit([Ticket("default", hold(1)), Ticket("default", hold(2))])
    answers = [opened.call("default", Refund(f"{1:032x}"), 5.0).status for _ in range(2)]
    assert answers == ["refunded", "repeated"]


def test_another_process_s_writes_are_seen(opened: SqliteStore, path: Path) -> None:
    """What the other one reserved, spent, ended and named in the policy counts here from the next transaction on."""
    other = SqliteStore(str(path))  # a connection of its own: the same to SQLite as another process
    try:
        stores = [opened, other]
        for n in range(6):
            mine, theirs = stores[n % 2], stores[1 - n % 2]
            assert mine.call("default", hold(10 + n), 5.0).status == "reserved"
            assert theirs.call("default", hold(20 + n), 5.0).status == "refused"
            assert theirs.call("default", Renew(f"{10 + n:032x}", 60_000_000), 5.0).status == "renewed"
            assert theirs.call("default", Refund(f"{10 + n:032x}"), 5.0).status == "refunded"
            again = mine.call("default", Reconcile(f"{10 + n:032x}", (1, 0, 0, 0, 1), {}), 5.0)
            assert again.status == "conflict"
        for n in range(4):
            changed = stores[n % 2].call("default", ChangePolicy("freeze", "x", None if n % 2 else "{}", {}), 5.0)
            assert changed.version == n + 1
            assert stores[1 - n % 2].call("default", hold(30), 5.0).status == "stale_policy"
        assert books(opened).ok
    finally:
        other.close()


def test_another_process_s_lease_ends_here(opened: SqliteStore, path: Path) -> None:
    """When the first lease ends is known from before; a shorter one of another process counts all the same."""
    opened.call("default", hold(1), 5.0, 1)
    assert opened.call("default", Sweep(), 5.0, 2).count == 0
    other = SqliteStore(str(path))
    draw = ENDLESS._replace(amount=10)
    other.call("default", Reserve(f"{2:032x}", "d", (10, 0, 0, 0, 1), [draw], 0, 1000, {}, {}), 5.0, 3)
    other.close()
    assert opened.call("default", Sweep(), 5.0, 5000).count == 1
    assert opened.call("default", hold(3, 20), 5.0, 6000).status == "refused"
    draw = ENDLESS._replace(amount=5)
    opened.call("default", Reserve(f"{4:032x}", "d", (5, 0, 0, 0, 1), [draw], 0, 20, {}, {}), 5.0, 6000)
    assert opened.call("default", Sweep(), 5.0, 7000).count == 1  # its own, made since


def test_what_a_failed_transaction_had_changed_is_forgotten(opened: SqliteStore) -> None:
    opened.call("default", hold(1), 5.0)
    writer = opened._writer
    assert writer is not None
    broken = [Ticket("default", spend(9, 2**64)), Ticket("default", Refund(f"{1:032x}"))]
    for group in ([broken[0]], broken):
        writer.commit(group)
    assert [ticket.error is None for ticket in broken] == [False, True]
    assert opened.call("default", hold(2), 5.0).status == "reserved"  # the refund was carried out alone
    writer.commit([Ticket("default", Refund(f"{2:032x}")), Ticket("default", spend(8, 2**64))])
    writer.commit([Ticket("default", spend(7, 2**64))])
    assert opened.call("default", hold(3), 5.0).status == "reserved"
    assert opened.call("default", hold(4), 5.0).status == "refused"
    assert books(opened).ok


def test_a_commit_that_fails_leaves_nothing_known(opened: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step fails: what was flushed is rolled back, and the next command starts from the file."""
    opened.call("default", hold(1), 5.0)
    flush = sqlitestate.SqliteState.flush

    def failing(state: sqlitestate.SqliteState) -> None:
        flush(state)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlitestate.SqliteState, "flush", failing)
    with pytest.raises(StoreUnavailable):
        opened.call("default", Refund(f"{1:032x}"), 5.0)
    monkeypatch.undo()
    assert opened.call("default", hold(2), 5.0).status == "refused"
    assert opened.call("default", Refund(f"{1:032x}"), 5.0).status == "refunded"
    assert opened.call("default", hold(2), 5.0).status == "reserved"
    assert books(opened).ok


def test_a_removed_account_begins_anew(opened: SqliteStore) -> None:
    """Also within one group of commands."""
    opened.call("default", hold(1), 5.0)
    opened.remove("default")
    assert opened.call("default", hold(1), 5.0).status == "reserved"
    assert opened.call("default", hold(2), 5.0).status == "refused"
    writer = opened._writer
    assert writer is not None
    group = [Ticket("default", hold(3)), Ticket("default", None), Ticket("default", hold(3))]
    writer.commit(group)
    assert [ticket.outcome.status for ticket in group if ticket.outcome] == ["refused", "removed", "reserved"]
    assert [entry.kind for entry in opened.entries("default", 0)] == ["reserved"]
    assert books(opened).ok


# How the queries run.


@pytest.mark.parametrize(
    "name", [name for name in vars(sqlitestate) if name.isupper() and isinstance(getattr(sqlitestate, name), str)]
)
def test_no_hot_query_scans_a_table(opened: SqliteStore, name: str) -> None:
    opened.call("default", spend(1), 5.0)
    query: str = getattr(sqlitestate, name)
    numbered = [query.count(f"?{n}") for n in range(1, 9)]
    values = [1] * (sum(map(bool, numbered)) or query.count("?"))
    plan = [row[3] for row in opened._writer.db.execute("explain query plan " + query, values)]  # type: ignore[union-attr]
    asked = "SCAN json_each"  # the values that the query was given
    assert not [s for s in plan if (s.startswith("SCAN") and not s.startswith(asked)) or "TEMP B-TREE" in s], plan


def test_what_runs_for_a_reserve_scans_nothing(opened: SqliteStore) -> None:
    draws = [Draw(f"p{n}", f"p{n}", 0, 100, 1, 0, FOREVER, 0) for n in range(8)]
    opened.call("default", Status([]), 5.0)
    statements: list[str] = []
    db = opened._writer.db
    assert db is not None
    db.set_trace_callback(statements.append)
    opened.call("default", Reserve("0" * 32, "d", (1, 0, 0, 0, 1), draws, 0, 60_000_000, {}, {}), 5.0)
    opened.call("default", Sweep(), 5.0)
    db.set_trace_callback(None)
    seen = 0
    for statement in {s for s in statements if s.split()[0].lower() in ("select", "update", "delete", "insert")}:
        plan = [row[3] for row in db.execute("explain query plan " + statement)]
        assert not [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step], (statement, plan)
        seen += 1
    assert seen > 10


def test_reading_scans_only_an_account(opened: SqliteStore) -> None:
    seen: list[str] = []
    opened.snapshot("default")
    opened._reader.set_trace_callback(seen.append)  # type: ignore[union-attr]
    opened.entries("default", 0)
    opened.reservations("default")
    opened.snapshot("default")
    opened._reader.set_trace_callback(None)  # type: ignore[union-attr]
    queries = [s for s in seen if s.lower().startswith("select")]
    assert len(queries) >= 5
    for statement in queries:
        plan = [row[3] for row in opened._reader.execute("explain query plan " + statement)]  # type: ignore[union-attr]
        assert not [step for step in plan if step.startswith("SCAN")], (statement, plan)


# Forks.

FORK = """
import os, signal, sys, threading
from budget import Budget
signal.alarm(40)  # a deadlock is a failure, not a wait
budget = Budget(sys.argv[1], limits=["$1000/day"], store_timeout=10)
stop = threading.Event()
done = [0] * 3

def work(n):
    while not stop.is_set():
        budget.record(usd="0.001", user="parent")
        done[n] += 1

threads = [threading.Thread(target=work, args=(n,)) for n in range(len(done))]
for thread in threads:
    thread.start()
children = failed = 0
for _ in range(8):
    budget.record(usd="0.001", user="parent")
    done[0] += 1
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            for _ in range(3):
                budget.record(usd="0.001", user="child")
            budget.close()
        except BaseException as error:
            os.write(2, f"{error!r}\\n".encode())
            os._exit(1)
        os._exit(0)
    children += 1
    failed += os.waitpid(pid, 0)[1] != 0
stop.set()
for thread in threads:
    thread.join()
budget.close()
print(sum(done), 3 * children, failed)
"""


def test_fork_while_in_use(sqlite_url: str, path: Path) -> None:
    """Child and parent both go on, each with connections of its own, and the books balance."""
    done = python(FORK, sqlite_url)
    parent, child, failed = map(int, done.stdout.split())
    assert failed == 0, done.stderr
    store = open_store(sqlite_url)
    assert [b.spent for b in store.snapshot("default").buckets.values()] == [(parent + child) * 10**6]
    assert books(store).ok
    store.close()
    assert integrity(path) == "ok"


DAEMON = """
import os, sys
from budget import Budget
budget = Budget(sys.argv[1], limits=["$1000/day"])
budget.record(usd="0.001", user="parent")
written, write = os.pipe()
if os.fork():
    os.read(written, 1)
    budget.record(usd="0.001", user="parent")
    os._exit(0)
budget.record(usd="0.001", user="child")
os.write(write, b"1")
print("ready", flush=True)
sys.stdin.readline()
budget.record(usd="0.001", user="child")
print("done", flush=True)
os._exit(0)
"""


def test_a_child_outlives_its_parent(sqlite_url: str, path: Path) -> None:
    """As a daemon does: what it writes after its parent is gone is not lost, whoever else opens the file."""
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, sqlite_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert daemon.stdout is not None
    assert daemon.stdin is not None
    assert daemon.stdout.readline() == "ready\n"
    assert daemon.wait(10) == 0  # the parent; the child goes on
    with Budget(sqlite_url, limits=DAY) as budget:
        for _ in range(20):
            budget.record(usd="0.001", user="third")
    daemon.stdin.write("go\n")
    daemon.stdin.flush()
    assert daemon.stdout.readline() == "done\n"
    with Budget(sqlite_url, limits=DAY) as budget:
        budget.record(usd="0.001", user="third")
    daemon.stdin.close()
    daemon.stdout.close()
    store = open_store(sqlite_url)
    assert [b.spent for b in store.snapshot("default").buckets.values()] == [25 * 10**6]
    assert books(store).ok
    store.close()
    assert integrity(path) == "ok"


def test_a_child_that_never_uses_it(sqlite_url: str) -> None:
    with Budget(sqlite_url, limits=DAY) as budget:
        budget.record(usd="1")
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        budget.record(usd="1")
        assert str(budget.status()[0].spent) == "2"


# Loops.


def test_close_inside_a_running_loop_and_open_again(sqlite_url: str) -> None:
    budget = Budget(sqlite_url, limits=DAY)

    async def main() -> None:
        for n in range(3):
            await asyncio.gather(*(budget.aio.record(usd="0.01") for _ in range(20)))
            budget.close()
            assert str((await budget.aio.status())[0].spent) == f"{(n + 1) * 0.2:.1f}"
            budget.close()

    asyncio.run(main())
    assert str(budget.status()[0].spent) == "0.6"
    budget.close()


def test_close_carries_out_what_was_handed_over(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    store.call("default", Status([]), 5.0)
    for n in range(500):
        store.post("default", spend(n))
    store.close()
    assert [b.spent for b in store.snapshot("default").buckets.values()] == [500]
    store.close()


def test_what_is_handed_over_before_it_is_open_is_carried_out(sqlite_url: str) -> None:
    store = open_store(sqlite_url)
    store.post("default", spend(1))
    store.call("default", Status([]), 5.0)
    assert [b.spent for b in store.snapshot("default").buckets.values()] == [1]
    store.close()


def test_an_answer_that_comes_too_late(sqlite_url: str) -> None:
    """A timeout is not a no: the store is told to take the reserve back."""
    lock = FileLock(Path(sqlite_url.removeprefix("sqlite:///") + ".lock"))
    with Budget(sqlite_url, limits=["$1/day"]) as budget:
        budget.status()
        usual, budget.engine.timeout = budget.engine.timeout, 0.1
        with lock.held():
            with pytest.raises(StoreUnavailable, match="no answer"):
                budget.reserve("$0.5")
            with pytest.raises(StoreUnavailable, match="no answer"):
                asyncio.run(budget.aio.reserve("$0.5"))
        budget.engine.timeout = usual
        budget.engine.store.call("default", Status([]), 10.0)
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved)) == ("0", "0")
        assert [entry.kind for entry in budget.entries()] == ["reserved", "refunded"] * 2
    lock.close()


# A full disk.

FULL = """
import resource, signal, sys
from pathlib import Path
from budget import Budget, StoreUnavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
budget = Budget(sys.argv[1], limits=["$1000/day"])
held = budget.reserve("$1", user="alice")
used = max(path.stat().st_size for path in Path(sys.argv[1].removeprefix("sqlite:///")).parent.glob("budget.db*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (used + 400_000, resource.RLIM_INFINITY))
acked = 0
try:
    while True:
        budget.reserve("$0.001", user="x" * 200)
        acked += 1
except StoreUnavailable as error:
    print("full:", error, file=sys.stderr)
for act in (lambda: budget.reserve("$1"), lambda: budget.limits.set("$1/day", user="u")):
    try:
        act()
        print("admitted on a full disk", file=sys.stderr)
        sys.exit(1)
    except StoreUnavailable:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
budget.reconcile(held, usd="0.5")
for _ in range(10):
    budget.record(usd="0.001")
print(acked)
budget.close()
"""


def test_a_full_disk(sqlite_url: str, path: Path) -> None:
    """Nothing is admitted, nothing acknowledged is lost, and it works again when there is room."""
    done = python(FULL, sqlite_url, check=False)
    assert done.returncode == 0, done.stderr
    store = open_store(sqlite_url)
    acked = int(done.stdout)
    assert acked > 10
    (bucket,) = store.snapshot("default").buckets.values()
    assert (bucket.spent, bucket.reserved) == (10 * 10**6 + 5 * 10**8, acked * 10**6)
    assert books(store).ok
    store.close()
    assert integrity(path) == "ok"


# Upkeep.


def test_what_is_due_is_expired_a_few_at_a_time(store_url: str) -> None:
    """No single command pays for a thousand leases; it takes 64, and the next one goes on."""
    store = open_store(store_url)
    draw = Draw("pool", "pool", 0, 1000, 1, 0, FOREVER, 0)
    for n in range(150):
        reserve = Reserve(f"{n:032x}", "d", (1, 0, 0, 0, 1), [draw], 0, 60_000_000 + n % 7, {}, {})
        assert store.call("default", reserve, 5.0, 1).status == "reserved"
    counts = [store.call("default", Sweep(), 5.0, 100_000_000).count for _ in range(4)]
    assert counts == [64, 64, 22, 0]
    assert [(b.spent, b.reserved) for b in store.snapshot("default").buckets.values()] == [(150, 0)]
    assert books(store).ok
    store.close()


@pytest.mark.parametrize("url", ["memory", "sqlite"])
def test_ended_reservations_are_forgotten_in_time(url: str, tmp_path: Path) -> None:
    """For an hour and two leases a repeat gets its first answer; after that the id may be anything."""
    hour = 3600 * 1_000_000
    store = open_store(STORES[url](tmp_path))
    one = Reserve("1" * 32, "d", (5, 0, 0, 0, 1), [], 0, 60_000_000, {}, {})
    assert store.call("default", one, 5.0, 1).status == "reserved"
    store.call("default", Reconcile("1" * 32, (5, 0, 0, 0, 1), {}), 5.0, 1)
    assert store.call("default", one, 5.0, hour + 119_000_000).status == "repeated"
    if isinstance(store, SqliteStore):
        store._writer._next_forget = 0.0
    for _ in range(2):
        store.call("default", Sweep(), 5.0, hour + 121_000_000)
    assert store.call("default", one, 5.0, hour + 121_000_000).status == "reserved"
    store.close()


def test_a_scratch_account_leaves_nothing(opened: SqliteStore) -> None:
    opened.call("default", spend(1), 5.0)
    before = _rows(opened)
    opened.call("scratch", spend(1), 5.0, 12345)
    opened.call("scratch", Reserve("2" * 32, "d", (1, 0, 0, 0, 1), [], 0, 60_000_000, {}, {}), 5.0, 12345)
    assert _rows(opened) != before
    opened.remove("scratch")
    assert _rows(opened) == before
    opened.remove("never there")


def _rows(store: SqliteStore) -> dict[str, int]:
    tables = ("accounts", "policy", "pools", "buckets", "reservations", "entries")
    return {table: store._read(f"select count(*) from {table}")[0][0] for table in tables}


def test_every_other_command_is_kept_in_order(opened: SqliteStore) -> None:
    """What one thread hands over first is carried out first."""
    order: Callable[[Any], int] = lambda entry: int(entry.reservation, 16)  # noqa: E731
    opened.call("default", Status([]), 5.0)
    for n in range(300):
        opened.post("default", spend(n))
    opened.call("default", spend(300), 5.0)
    assert [order(entry) for entry in opened.entries("default", 0)] == list(range(301))
