"""An SQLite store whose file goes away while it is open, or whose lock another process keeps."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import books

from budget import Budget, StoreUnavailable
from budget.commands import Draw, Record, Status
from budget.stores import sqlitefile
from budget.stores.sqlite import SqliteStore
from budget.stores.sqlitefile import FileLock
from budget.window import FOREVER

LIMITS = ["$1/day"]
GONE = "removed or replaced"
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.db"


@pytest.fixture
def opened(path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(str(path))
    yield store
    store.close()


def spend(id: int) -> Record:
    return Record(f"{id:032x}", "d", (1, 0, 0, 0, 1), [Draw("pool", "pool", 0, 10**15, 1, 0, FOREVER, 0)], 0, {}, {})


def spent(store: SqliteStore) -> list[int]:
    return [bucket.spent for bucket in store.snapshot("default").buckets.values()]


def remove(path: Path) -> None:
    for file in path.parent.glob("budget.db*"):
        file.unlink()


# The file.


def test_nothing_is_acknowledged_on_a_file_that_was_removed(opened: SqliteStore, path: Path) -> None:
    """Another process would work on the new one: each would admit what the limit has once."""
    opened.call("default", spend(1), 5.0)
    remove(path)
    with pytest.raises(StoreUnavailable, match=GONE):
        opened.call("default", spend(2), 5.0)
    opened.call("default", spend(3), 5.0)
    other = SqliteStore(str(path))
    assert other.call("default", spend(4), 5.0).status == "recorded"
    assert spent(other) == spent(opened) == [2]
    other.close()
    assert books(opened).ok


def test_who_lets_go_of_a_removed_file_takes_nothing_from_the_new_one(opened: SqliteStore, path: Path) -> None:
    """SQLite would remove the log when it closes, by its name."""
    opened.call("default", spend(1), 5.0)
    remove(path)
    other = SqliteStore(str(path))
    other.call("default", spend(2), 5.0)
    with pytest.raises(StoreUnavailable, match=GONE):
        opened.call("default", spend(3), 5.0)
    other.call("default", spend(4), 5.0)
    assert path.with_name("budget.db-wal").stat().st_size > 0
    third = SqliteStore(str(path))
    assert spent(third) == [2]
    for store in (third, other):
        store.close()
    assert spent(opened) == [2]
    assert books(opened).ok


def test_a_file_that_was_replaced_is_opened_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An operator has put a backup in its place."""
    with Budget(f"sqlite:///{path}", limits=LIMITS) as budget:
        budget.record(usd="0.2")
        budget.close()
        shutil.copy(path, path.with_name("backup"))
        budget.record(usd="0.3")
        for name in ("budget.db-wal", "budget.db-shm"):
            path.with_name(name).unlink()
        path.with_name("backup").rename(path)
        with pytest.raises(StoreUnavailable, match=GONE):
            budget.reserve("$0.1")
        assert "removed or replaced" in caplog.text
        budget.reserve("$0.1")
        (state,) = budget.status()
        assert (str(state.spent), str(state.reserved)) == ("0.2", "0.1")
        assert budget.engine.books.verify().ok


def test_a_cost_waits_for_the_new_file(path: Path) -> None:
    with Budget(f"sqlite:///{path}", limits=LIMITS) as budget:
        budget.record(usd="0.2")
        remove(path)
        budget.record(usd="0.3")
    with Budget(f"sqlite:///{path}", limits=LIMITS) as budget:
        assert [str(state.spent) for state in budget.status()] == ["0.3"]


@pytest.mark.parametrize("read", [lambda s: s.snapshot("default"), lambda s: s.entries("default", 0)])
def test_a_removed_file_is_not_read(opened: SqliteStore, path: Path, read: Callable[[SqliteStore], object]) -> None:
    opened.call("default", spend(1), 5.0)
    read(opened)
    remove(path)
    with pytest.raises(StoreUnavailable, match=GONE):
        read(opened)
    assert spent(opened) == []


# The lock.


@pytest.mark.parametrize("again", [1, 2])
@pytest.mark.parametrize("how", ["close", "fork"])
def test_it_works_on_after_a_lock_that_was_kept_for_long(
    opened: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch, how: str, again: int
) -> None:
    opened.call("default", spend(1), 5.0)
    monkeypatch.setattr("budget.stores.sqlite.OPEN_TIMEOUT", 0.1)
    with closing(FileLock(path.with_name("budget.db.lock"))) as lock:
        with lock.held(5.0):
            with pytest.raises(StoreUnavailable, match="no answer"):
                opened.call("default", spend(2), 0.1)
            for n in range(again):
                opened.post("default", spend(3 + n))
                opened.close() if how == "close" else fork()
        for n in range(3):
            assert opened.call("default", spend(10 + n), 5.0).status == "recorded"
            assert opened.call("default", Status([]), 5.0).status == "status"
    assert spent(opened) == [5 + again]
    monkeypatch.undo()
    opened.close()
    assert not path.with_name("budget.db-wal").exists()
    assert spent(opened) == [5 + again]


def fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


# What was put into the file by somebody else.


def test_an_entry_behind_the_last_one_is_found(opened: SqliteStore, path: Path) -> None:
    opened.call("default", spend(1), 5.0)
    with Budget(f"sqlite:///{path}") as budget, closing(sqlite3.connect(path)) as db:
        assert budget.engine.books.verify().ok
        db.execute("""insert into entries select account, seq + 1, at, kind, reservation, usd, tokens, input_tokens,
            output_tokens, requests, scope, detail, '[]', digest, sealed, origin from entries where seq = 1""")
        db.commit()
        found = budget.engine.books.verify()
        assert found.faults == ["entry 2 was changed: its digest does not follow from its content"]


def test_an_entry_that_follows_the_last_one_is_found_too(opened: SqliteStore, path: Path) -> None:
    """Whoever can make digests that follow has not made the account end with them."""
    opened.call("default", spend(1), 5.0)
    with closing(sqlite3.connect(path)) as db, closing(SqliteStore(str(path))) as store:
        before = db.execute("select seq, head from accounts").fetchone()
        store.call("default", spend(2), 5.0)
        store.close()
        db.execute("update accounts set seq = ?, head = ?", before)
        db.commit()
        with Budget(f"sqlite:///{path}") as budget:
            found = budget.engine.books.verify()
            assert found.faults[0] == "entry 2, the last one, is not the one that the account ends with"


def test_a_lock_that_was_removed_is_taken_anew(opened: SqliteStore, path: Path) -> None:
    """It looks like one that was left behind; without it two processes would not exclude one another."""
    opened.call("default", spend(1), 5.0)
    path.with_name("budget.db.lock").unlink()
    opened.call("default", spend(2), 5.0)
    with closing(FileLock(path.with_name("budget.db.lock"))) as lock:
        with lock.held(1.0), pytest.raises(StoreUnavailable):
            opened.call("default", spend(3), 0.3)
        opened.call("default", spend(4), 5.0)
    assert spent(opened) == [4]


# A link.


def test_what_is_no_file_is_refused_and_nothing_made_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(StoreUnavailable, match="is no file"):
            SqliteStore(str(tmp_path / name)).call("default", spend(1), 5.0)
    assert not list(tmp_path.glob("*.*"))


def test_by_whatever_name_there_is_one_lock(opened: SqliteStore, path: Path, tmp_path: Path) -> None:
    """Two processes of which one comes by a link would not exclude one another."""
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(path)
    with closing(SqliteStore(str(link))) as other:
        other.call("default", spend(1), 5.0)
        opened.call("default", spend(2), 5.0)
        assert spent(other) == spent(opened) == [2]
    assert [file.name for file in link.parent.iterdir()] == ["link.db"]


@pytest.mark.skipif(not Path("/proc/self/mounts").exists(), reason="only Linux says which file system it is")
def test_a_link_to_a_network_file_system(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "there"
    there.mkdir()
    path.symlink_to(there / "budget.db")
    monkeypatch.setattr(sqlitefile, "_file_system", lambda folder: "nfs4" if folder == there else "ext4")
    with closing(SqliteStore(str(path))) as store, pytest.raises(StoreUnavailable, match="network file system"):
        store.call("default", spend(1), 5.0)
