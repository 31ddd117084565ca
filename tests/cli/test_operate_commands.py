"""The commands on an account as a whole: what they say, what they keep, and how they end."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import empty_redis
from invoke import Cli

from budget import Budget
from budget.records import CallFile

HEAD = "time,model,input_tokens,output_tokens,user\n"
MILLION = {"input_tokens": 1_000_000, "output_tokens": 0}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.mark.parametrize("name", ["missing/cli.db", "text.db"])
def test_a_store_that_cannot_answer_has_no_key_made_beside_it(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "text.db").write_text("this is not a database, whatever its name says" * 100)
    cli.url = f"sqlite:///{tmp_path / name}"
    assert "the store" in cli("erase", "user=alice", code=4).stderr
    assert not list(tmp_path.glob("**/*.erase-key"))


def spent(cli: Cli, *options: str) -> dict[str, str]:
    return {row["by"]: row["usd"] for row in cli.json("report", "--by", "user", *options)}


def test_a_pruning_takes_nothing_from_reports_that_nobody_had_asked_for(cli: Cli) -> None:
    with cli.budget() as budget:
        for user in "ab":
            budget.record(MILLION, model="claude-sonnet-4-6", user=user)
    cli("ledger", "prune", "--before", "0s")
    assert spent(cli) == {"a": "3", "b": "3"}


def test_a_server_is_pruned_where_it_is_drained_to(cli: Cli) -> None:
    url = empty_redis()
    with Budget(url) as budget:
        budget.record(MILLION, model="claude-sonnet-4-6", user="a")
    assert "'budget drain'" in cli("ledger", "prune", "--before", "0s", "--store", url, code=2).stderr
    cli("drain", "--store", url)
    assert cli.json("ledger", "prune", "--before", "0s", "--store", url)["entries"] == 1
    assert spent(cli, "--store", url) == {"a": "3"}


def test_nothing_is_pruned_if_the_calls_cannot_be_kept(cli: Cli, tmp_path: Path) -> None:
    with cli.budget() as budget:
        budget.record(usd="1", user="a")
    (tmp_path / "cli.db-calls").mkdir()
    cli("ledger", "prune", "--before", "0s", code=4)
    assert cli.json("ledger", "verify")["since"] == 1


def test_a_backup_has_what_only_reports_know(cli: Cli, tmp_path: Path) -> None:
    with cli.budget() as budget:
        budget.record(MILLION, model="claude-sonnet-4-6", user="a")
    trace = tmp_path / "a.csv"
    trace.write_text(HEAD + "2026-01-20T10:00:00Z,claude-sonnet-4-6,1000000,0,imported\n")
    cli("import", str(trace))
    cli("ledger", "prune", "--before", "0s")
    copy = tmp_path / "copy.db"
    assert f"{copy}-calls" in cli("backup", str(copy)).stderr
    known = spent(cli)
    assert known.keys() == {"a", "imported"}
    assert spent(cli, "--store", f"sqlite:///{copy}") == known


def test_a_move_says_what_it_leaves(cli: Cli, tmp_path: Path) -> None:
    with cli.budget() as budget:
        budget.record(usd="1", user="a")
    first, second = (f"sqlite:///{tmp_path / name}.db" for name in ("first", "second"))
    assert "pruned" not in cli("move", "--to", first).stderr
    cli("ledger", "prune", "--before", "0s", "--store", first)
    assert "pruned before is not in the reports" in cli("move", "--to", second, "--store", first).stderr


def test_a_move_to_no_text_is_refused(cli: Cli) -> None:
    cli("set", "$5/day")
    assert "UTF-8" in cli.json("move", "--to", "sqlite:///\udcff.db", code=2)["message"]


def test_a_move_into_memory_is_refused(cli: Cli) -> None:
    assert "keeps nothing" in cli("move", "--to", "memory://", code=2).stderr
    with cli.budget() as budget:
        budget.reserve("$1")  # nothing was frozen


def test_the_store_answers_that_something_is_open(cli: Cli) -> None:
    with cli.budget() as budget:
        budget.reserve("$1", user="bob")
    assert "is open: end it" in cli("erase", "user=bob", code=1).stderr


def test_a_database_of_something_else_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    for version in (0, 1, 7):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as db:
            db.execute("create table x (y)")
            db.execute(f"pragma user_version = {version}")
        db.close()
        before = path.read_bytes()
        for command in (["status"], ["set", "$5/day"], ["ledger"]):
            shown = cli(*command, "--store", f"sqlite:///{path}", code=2).stderr
            assert "is a database of something else" in shown
        assert path.read_bytes() == before
        assert not path.with_name("app.db-wal").exists()


def test_the_file_of_calls_is_no_store(cli: Cli, tmp_path: Path) -> None:
    with cli.budget() as budget, CallFile(budget.engine.books).change():
        pass
    assert "something else" in cli("status", "--store", f"sqlite:///{tmp_path / 'cli.db-calls'}", code=2).stderr


def test_a_replay_that_is_terminated_leaves_no_account(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEAD + "".join(f"{i},claude-sonnet-4-6,10,10,a\n" for i in range(60_000)))
    cli("set", "$5/day")
    command = [sys.executable, "-m", "budget.cli", "replay", str(path), "--store", cli.url, "--limit", "$5/day"]

    def accounts() -> list[str]:
        with sqlite3.connect(tmp_path / "cli.db") as db:
            found = [name for (name,) in db.execute("select name from accounts")]
        db.close()
        return found

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        until = time.monotonic() + 60
        while len(accounts()) == 1 and child.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        _, shown = child.communicate(timeout=60)
    assert (child.returncode, shown.strip()) == (1, "budget: interrupted")
    assert accounts() == ["default"]
