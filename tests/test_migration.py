"""Files of earlier versions open, prove and go on; a newer one is refused plainly, also while it is open."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from conftest import books

from budget.engine import Budget
from budget.errors import StoreUnavailable
from budget.stores.base import open_store
from budget.stores.sqlitefile import SCHEMA_VERSION

TABLES = {
    "accounts": "id, name, version, seq, head, clock",
    "policy": "account, kind, identity, body",
    "pools": "account, pool, name",
    "buckets": 'account, pool, start, "end", since, spent, reserved',
    "reservations": "account, id, state, due, made, body",
    "entries": "account, seq, at, kind, reservation, usd, tokens, input_tokens, output_tokens, requests, scope, "
    "detail, postings, digest",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.db"


def use(path: Path, calls: int = 3) -> None:
    with Budget(f"sqlite:///{path}", limits=["$500/day"]) as budget:
        for i in range(calls):
            budget.reconcile(budget.reserve("$0.5", user=f"u{i}"), usd="0.25")
        budget.reserve("$1")


def old_file(path: Path, version: int, calls: int = 3) -> None:
    """A file as an earlier version wrote it: its tables, and the chain of one hash per entry."""
    new = path.with_name("new.db")
    use(new, calls)
    parts = re.split(r"-- since version \d+\n", files("budget.stores").joinpath("schema.sql").read_text())
    db = sqlite3.connect(path)
    db.executescript("".join(parts[:version]))
    db.execute("attach ? as new", (str(new),))
    for table, columns in TABLES.items():
        db.execute(f"insert into {table} ({columns}) select {columns} from new.{table}")
    for (account,) in db.execute("select id from accounts").fetchall():
        head = bytes(32)
        for seq, *row in db.execute(
            "select seq, at, kind, coalesce(reservation, ''), usd || ',' || tokens || ',' || input_tokens || ',' || "
            "output_tokens || ',' || requests, scope, detail, postings from entries where account = ? order by seq",
            (account,),
        ).fetchall():
            head = hashlib.sha256(head + "\n".join(map(str, (seq, *row))).encode()).digest()
            db.execute("update entries set digest = ? where account = ? and seq = ?", (head, account, seq))
        db.execute("update accounts set head = ? where id = ?", (head, account))
    db.execute(f"pragma user_version = {version}")
    db.commit()
    db.close()


@pytest.mark.parametrize("version", [1, 2])
def test_an_old_file_opens_proves_and_goes_on(path: Path, version: int) -> None:
    old_file(path, version)
    store = open_store(f"sqlite:///{path}")
    found = books(store)
    assert (found.faults, found.entries) == ([], 7)
    store.close()
    use(path)
    store = open_store(f"sqlite:///{path}")
    found = books(store)
    assert (found.faults, found.entries) == ([], 14)
    store.close()
    db = sqlite3.connect(path)
    assert db.execute("pragma user_version").fetchone()[0] == SCHEMA_VERSION
    assert db.execute("pragma integrity_check").fetchone()[0] == "ok"
    db.close()


@pytest.mark.parametrize(
    "damage",
    [
        "update entries set usd = usd + 1 where seq = 4",
        "delete from entries where seq = 3",
        "delete from entries where seq = 7",
        "update entries set digest = zeroblob(32) where seq = 7",
        "update accounts set head = zeroblob(32)",
    ],
)
def test_what_was_a_fault_before_is_one_after(path: Path, damage: str) -> None:
    old_file(path, 2)
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    store = open_store(f"sqlite:///{path}")
    assert not books(store).ok
    store.close()


@pytest.mark.parametrize("portions", [0, 1, 2])
def test_a_migration_that_is_killed_has_not_begun(path: Path, portions: int) -> None:
    old_file(path, 2, calls=20)
    code = f"""
import os
from budget.stores import sqlitelines
sqlitelines._PORTION = 10
write, count = sqlitelines._write, iter(range({portions}))
def dies(*args):
    if next(count, None) is None:
        os.kill(os.getpid(), 9)
    write(*args)
sqlitelines._write = dies
from budget.stores.base import open_store
open_store({f"sqlite:///{path}"!r}).last("default")
"""
    killed = subprocess.run([sys.executable, "-c", code], env=os.environ, check=False, timeout=60)
    assert killed.returncode == -9
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert db.execute("pragma user_version").fetchone()[0] == 2
    db.close()
    store = open_store(f"sqlite:///{path}")
    assert (books(store).faults, books(store).entries) == ([], 41)
    store.close()


def test_many_pages_are_chained_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.stores.sqlitelines._PORTION", 4)
    old_file(path, 2)
    store = open_store(f"sqlite:///{path}")
    assert (books(store).faults, books(store).entries) == ([], 7)
    store.close()


def test_a_newer_version_migrates_while_the_file_is_open(path: Path) -> None:
    with Budget(f"sqlite:///{path}", store_timeout=60) as budget:
        budget.record(usd="1")
        db = sqlite3.connect(path)
        db.execute(f"pragma user_version = {SCHEMA_VERSION + 1}")
        db.close()
        with pytest.raises(StoreUnavailable, match=r"newer version.*start this process again"):
            budget.reserve("$1")
        db = sqlite3.connect(path)
        assert db.execute("select count(*) from entries").fetchone() == (1,)
        db.close()
