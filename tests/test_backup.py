"""A backup is a copy of one instant, made while others write, and it is proved."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from budget.books.backup import back_up
from budget.books.books import Books
from budget.engine import Budget
from budget.errors import BudgetError, ConfigError, StoreUnavailable
from budget.stores.base import open_store
from budget.stores.sqlite import SqliteStore


@pytest.fixture
def budget(sqlite_url: str, make_budget: Callable[..., Budget]) -> Budget:
    return make_budget(sqlite_url, limits=["$500/day", "per=user $5/hour", "8 concurrent"])


def store_of(budget: Budget) -> SqliteStore:
    assert isinstance(budget.engine.store, SqliteStore)
    return budget.engine.store


def test_while_others_write(budget: Budget, tmp_path: Path) -> None:
    stop = Event()

    def write() -> None:
        while not stop.is_set():
            budget.reconcile(budget.reserve("$0.001", user="alice"), usd="0.0005")

    writers = [Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        counts = [back_up(store_of(budget), tmp_path / f"copy{i}.db") for i in range(4)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert counts == sorted(counts)
    for i, count in enumerate(counts):
        copy = open_store(f"sqlite:///{tmp_path / f'copy{i}.db'}")
        found = Books(copy, "default").verify()
        assert (found.faults, found.entries) == ([], count)
        copy.close()
    assert budget.engine.books.verify().faults == []


def test_the_copy_is_private_whole_and_alone(budget: Budget, tmp_path: Path) -> None:
    budget.record(usd="1")
    folder = tmp_path / "backups"
    folder.mkdir()
    old = os.umask(0)
    try:
        assert back_up(store_of(budget), folder / "a.db") == 1
    finally:
        os.umask(old)
    assert [file.name for file in folder.iterdir()] == ["a.db"]
    assert (folder / "a.db").stat().st_mode & 0o777 == 0o600
    db = sqlite3.connect(folder / "a.db")
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    db.close()


def test_what_is_there_stays(budget: Budget, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        back_up(store_of(budget), tmp_path / "mine")
    assert (tmp_path / "mine").read_text() == "precious"
    with pytest.raises(ConfigError, match="folder"):
        back_up(store_of(budget), tmp_path / "nowhere" / "a.db")


def test_a_damaged_ledger_gives_no_copy(budget: Budget, tmp_path: Path) -> None:
    budget.record(usd="1")
    budget.record(usd="1")
    with sqlite3.connect(store_of(budget).path) as db:
        db.execute("update entries set usd = 5 where seq = 1")
    db.close()
    with pytest.raises(BudgetError, match="entry 1 was changed") as raised:
        back_up(store_of(budget), tmp_path / "a.db")
    assert not isinstance(raised.value, StoreUnavailable)  # it answers well
    assert not any(file.name.startswith("a.db") for file in tmp_path.iterdir())


def test_what_lies_beside_goes_with_it(budget: Budget, tmp_path: Path) -> None:
    budget.record(usd="1")
    path = store_of(budget).path
    with sqlite3.connect(path.with_name(path.name + "-calls")) as db:
        db.execute("create table t (x)")
        db.execute("insert into t values (7)")
    db.close()
    assert back_up(store_of(budget), tmp_path / "a.db", ["-calls", "-others"]) == 1
    with sqlite3.connect(tmp_path / "a.db-calls") as db:
        assert db.execute("select x from t").fetchall() == [(7,)]
    db.close()
    assert {file.name for file in tmp_path.glob("a.db*")} == {"a.db", "a.db-calls"}
    assert (tmp_path / "a.db-calls").stat().st_mode & 0o777 == 0o600
    (tmp_path / "b.db-calls").touch()
    with pytest.raises(ConfigError, match="calls' exists"):
        back_up(store_of(budget), tmp_path / "b.db", ["-calls"])
    assert {file.name for file in tmp_path.glob("b.db*")} == {"b.db-calls"}


def test_every_account_is_in_it(budget: Budget, make_budget: Callable[..., Budget], tmp_path: Path) -> None:
    budget.record(usd="1")
    other = make_budget(budget.engine.store.url, account="other")
    other.record(usd="1")
    assert back_up(store_of(budget), tmp_path / "a.db") == 2
