"""ledger tail, export, verify, rebuild, prune."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from pathlib import Path

import pytest
from invoke import Cli

from budget.stores.base import Snapshot


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_ledger_tail_gives_the_last_entries_oldest_first(cli: Cli) -> None:
    with cli.budget() as budget:
        for i in range(30):
            budget.record(usd=f"0.{i + 1:02d}", user="alice" if i % 10 == 0 else "bob")
        newest = [entry.to_dict() for entry in budget.entries()][-20:]
    assert cli.json("ledger", "tail") == cli.json("ledger") == newest
    assert [entry["seq"] for entry in cli.json("ledger", "-n", "2")] == [29, 30]
    assert [entry["seq"] for entry in cli.json("ledger", "tail", "user=alice", "-n", "2")] == [11, 21]
    assert cli.json("ledger", "tail", "user=carol") == []
    [line] = cli.lines("ledger", "tail", "-n", "1")
    assert [line[0], *line[2:5]] == ["30", "recorded", "$0.30", "user=bob"]
    cli("ledger", "tail", "-n", "0", code=2)


def test_ledger_tail_reads_back_over_pages(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.books.books.PAGE", 7)
    with cli.budget() as budget:
        for i in range(30):
            budget.record(usd="0.01", user="alice" if i in (0, 5, 20) else "bob")
    assert [entry["seq"] for entry in cli.json("ledger", "tail", "user=alice")] == [1, 6, 21]
    assert [entry["seq"] for entry in cli.json("ledger", "tail", "-n", "10")] == list(range(21, 31))


def test_ledger_verify_proves_the_books(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        budget.reconcile(budget.reserve("$1", user="alice"), usd="0.5")
        budget.reserve("$2", user="bob")
    assert cli.json("ledger", "verify") == {
        "ok": True, "entries": 4, "since": 1, "partial": False, "faults": [], "saturated": [],
    }  # fmt: skip
    assert cli("ledger", "verify").stdout == "ok: 4 entries\n"


def test_ledger_verify_reads_more_than_a_page(cli: Cli) -> None:
    with cli.budget() as budget:
        for _ in range(1003):
            budget.record(usd="0.01")
    assert cli.json("ledger", "verify")["entries"] == 1003


def test_verify_looks_at_one_instant_while_others_write(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:
        budget.record(usd="0.5")
        store, snapshot = budget.engine.store, budget.engine.store.snapshot

        def overtaken(account: str) -> Snapshot:
            found = snapshot(account)
            budget.record(usd="0.25")
            return found

        monkeypatch.setattr(store, "snapshot", overtaken)
        found = budget.engine.books.verify()
        assert (found.ok, found.entries) == (True, 2)


@pytest.mark.parametrize(
    "damage",
    [
        "update entries set usd = 1 where kind = 'recorded'",
        "delete from entries where seq = 2",
        "update buckets set spent = spent + 1",
    ],
)
def test_ledger_verify_finds_a_fault(cli: Cli, damage: str) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:
        budget.record(usd="0.5", user="alice")
    with sqlite3.connect(cli.url.removeprefix("sqlite:///")) as db:
        db.execute(damage)
    db.close()
    found = cli.json("ledger", "verify", code=1)
    assert not found["ok"]
    assert found["faults"]
    assert "fault: " in cli("ledger", "verify", code=1).stdout
    health = cli.json("doctor", code=1)
    assert [row["state"] for row in health["checks"] if row["check"] == "ledger"] == ["FAULT"]


def test_ledger_verify_reports_what_is_saturated_and_is_no_fault(cli: Cli) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:
        budget.record(usd="10000000")
    found = cli.json("ledger", "verify")
    assert found["ok"]
    assert len(found["saturated"]) == 1
    assert "saturated: pool" in cli("ledger", "verify").stdout


@pytest.mark.parametrize(("wrong", "code"), [(["--since", "7days"], 2), (["--store", "sqlite:///text.db"], 4)])
def test_an_export_that_failed_leaves_no_file(cli: Cli, tmp_path: Path, wrong: list[str], code: int) -> None:
    cli("set", "$5/day")
    target = tmp_path / "x.jsonl"
    Path("text.db").write_text("this is not a database, whatever its name says" * 100)
    for kind in ("jsonl", "csv"):
        cli("ledger", "export", "--format", kind, "-o", str(target), *wrong, code=code)
        assert not list(tmp_path.glob("x.jsonl*"))
        assert cli("ledger", "export", "--format", "jsonl", *wrong, code=code).stdout == ""
    cli("ledger", "export", "--since", "7d", "-o", str(target))
    assert json.loads(target.read_text())["kind"] == "limit_set"
    assert list(tmp_path.glob("x.jsonl*")) == [target]


def test_an_export_replaces_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("set", "$5/day")
    target = tmp_path / "x.jsonl"
    target.symlink_to(tmp_path / "nowhere")
    assert "exists; name" in cli("ledger", "export", "-o", str(target), code=2).stderr
    target.unlink()
    link = os.link

    def meanwhile(*args: Path) -> None:
        target.write_text("somebody's")
        link(*args)

    monkeypatch.setattr("os.link", meanwhile)
    assert "exists by now" in cli("ledger", "export", "-o", str(target), code=2).stderr
    assert [path.read_text() for path in tmp_path.glob("x.jsonl*")] == ["somebody's"]
    missing = cli("ledger", "export", "-o", str(tmp_path / "no" / "x.jsonl"), code=2).stderr
    assert "does not exist" in missing


def test_an_export_touches_no_other_file(cli: Cli, tmp_path: Path) -> None:
    """Two of the same name at the same time would write into one file, and the first would get what both wrote."""
    cli("set", "$5/day")
    (tmp_path / "x.jsonl.part").write_text("somebody's")
    cli("ledger", "export", "-o", str(tmp_path / "x.jsonl"))
    assert (tmp_path / "x.jsonl.part").read_text() == "somebody's"
    assert json.loads((tmp_path / "x.jsonl").read_text())["kind"] == "limit_set"


def test_export_json_is_one_document(cli: Cli, tmp_path: Path) -> None:
    assert cli.json("ledger", "export") == {"ledger": []}
    cli("set", "$5/day", "$1/hour")
    lines = cli("ledger", "export").stdout.splitlines()
    assert len(lines) == 2
    assert cli.json("ledger", "export")["ledger"] == [json.loads(line) for line in lines]
    assert "choose one" in cli.json("ledger", "export", "--format", "csv", code=2)["message"]
    target = str(tmp_path / "x.jsonl")
    assert cli.json("ledger", "export", "-o", target) == {"entries": 2, "file": target}


def test_export_as_lines_and_as_csv(cli: Cli, tmp_path: Path) -> None:
    with cli.budget() as budget:
        budget.record(usd="0.5", user="=HYPERLINK(1)", model="m")
        budget.record(usd="0.25", user='bob, the "builder"\u2028')
        entries = [entry.to_dict() for entry in budget.entries()]
    assert [json.loads(line) for line in cli("ledger", "export").stdout.splitlines()] == entries
    target = tmp_path / "out.csv"
    assert cli.json("ledger", "export", "--format", "csv", "-o", str(target)) == {"entries": 2, "file": str(target)}
    rows = list(csv.DictReader(target.read_text("utf-8").splitlines()))
    assert [json.loads(row["scope"]) for row in rows] == [entry["scope"] for entry in entries]
    assert [row["usd"] for row in rows] == ["0.5", "0.25"]
    assert "exists" in cli("ledger", "export", "-o", str(target), code=2).stderr
    assert [json.loads(x)["seq"] for x in cli("ledger", "export", "user==HYPERLINK(1)").stdout.splitlines()] == [1]
    assert cli("ledger", "export", "--since", "1s", "user=nobody").stdout == ""


@pytest.mark.parametrize("value", ["=1+1", "+1", "-cmd", "@x"])
def test_no_cell_of_a_csv_is_a_formula(cli: Cli, value: str) -> None:
    with cli.budget() as budget:
        budget.record(usd="0.5", model=value)
    [row] = csv.DictReader(cli("ledger", "export", "--format", "csv").stdout.splitlines())
    assert row["model"] == f"'{value}"
    assert row["usd"] == "0.5"


def test_rebuild_puts_a_counter_right(cli: Cli) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:
        budget.record(usd="0.5")
    with sqlite3.connect(cli.url.removeprefix("sqlite:///")) as db:
        db.execute("update buckets set spent = spent + 7")
    db.close()
    assert not cli.json("ledger", "verify", code=1)["ok"]
    found = cli.json("ledger", "rebuild")
    assert (found["ok"], found["changed"]) == (True, 1)
    assert cli.json("ledger", "rebuild")["changed"] == 0
    assert [pool["spent"] for pool in cli.json("status")] == ["0.5"]


def test_prune_is_told_what_and_why(cli: Cli) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:
        for _ in range(5):
            budget.record(usd="0.5", user="alice")
    assert cli.json("ledger", "prune", "--before", "90d") == {"entries": 0, "windows": 0, "upto": 0}
    found = cli.json("ledger", "prune", "--before", "0s", "--reason", "retention")
    assert (found["entries"], found["upto"]) == (6, 6)
    assert cli.json("ledger", "verify")["since"] == 7
    [entry] = cli.json("ledger", "tail")
    assert (entry["kind"], entry["detail"]["reason"]) == ("pruned", "retention")
    assert "is not a duration" in cli("ledger", "prune", "--before", "someday", code=2).stderr


def test_drain_is_for_servers(cli: Cli) -> None:
    assert "keeps its own ledger" in cli("drain", code=2).stderr


# What operators do to an account as a whole.


def test_backup_move_and_erase(cli: Cli, tmp_path: Path) -> None:
    with cli.budget() as budget:
        budget.record(usd="0.5", user="alice")
    copy, other = tmp_path / "copy.db", f"sqlite:///{tmp_path / 'other.db'}"
    assert cli.json("backup", str(copy)) == {"file": str(copy), "entries": 1}
    assert "exists" in cli("backup", str(copy), code=2).stderr
    found = cli.json("erase", "user=alice", "--reason", "asked")
    assert (found["entries"], found["clean"]) == (1, True)
    assert cli.json("ledger", "tail")[0]["scope"] == {"user": found["pseudonym"]}
    assert "alice" not in cli("ledger", "export").stdout
    assert cli.json("move", "--to", other) == {"entries": 3, "pools": 0, "reservations": 1}
    assert cli.json("ledger", "verify", "--store", other)["ok"]
    assert cli("check", "--json", "--model", "claude-sonnet-4-6", "--in", "1", "--max-out", "1", code=3)
    assert "has an account" in cli("move", "--to", other, code=2).stderr
    assert "is in" in cli("move", "--to", cli.url, code=2).stderr
