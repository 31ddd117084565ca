"""init and doctor."""

from __future__ import annotations

import re
import sqlite3
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from invoke import Cli

from budget.config import load
from budget.config.files import KEYS
from budget.errors import StoreUnavailable


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_init_writes_a_file_of_comments_that_changes_nothing(cli: Cli) -> None:
    before = load()
    assert cli("init").stdout == f"written: {Path.cwd() / 'budget.toml'}\n"
    text = Path("budget.toml").read_text()
    assert tomllib.loads(text) == {}
    assert all(line.startswith("#") for line in text.splitlines() if line)
    assert load() == before


def test_every_setting_of_the_file_works_when_its_comment_is_taken_away(cli: Cli) -> None:
    cli("init")
    path = Path("budget.toml")
    lines = [
        line[1:] if line.startswith("#") and line[1:2] not in ("", " ") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    assert tomllib.loads(path.read_text()).keys() == KEYS
    settings = load()
    assert settings.store == "sqlite:///budget.db"
    assert [str(limit) for limit in settings.limits] == [
        "$500/day", "per=user $5/day", "user=alice $20/day", "$0.25/request", "per=agent 2000000 tokens/hour",
        "per=user 100 requests/minute", "per=user 8 concurrent", "per=team $100/month",
    ]  # fmt: skip
    assert settings.book.find("my-model").id == "my-model"


def test_init_leaves_an_existing_file_alone(cli: Cli) -> None:
    Path("budget.toml").write_text("# mine")
    assert "exists already" in cli("init", code=1).stderr
    assert cli.json("init", code=1)["message"].startswith("budget.toml exists already")
    assert Path("budget.toml").read_text() == "# mine"


def test_init_json(cli: Cli) -> None:
    assert cli.json("init") == {"written": str(Path.cwd() / "budget.toml")}


def checks(found: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {row["check"]: (row["state"], row["detail"]) for row in found["checks"]}


def test_doctor_of_a_healthy_store(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        budget.reserve("$1", user="alice")
        book = budget.settings.book
    found = cli.json("doctor")
    assert found["ok"]
    seen = checks(found)
    assert seen["store"][0] == seen["clock"][0] == seen["ledger"][0] == seen["anthropic"][0] == "ok"
    assert seen["limits"] == ("ok", "limits: 1, freezes: 0")
    assert seen["reservations"] == ("ok", "1 open")
    assert book.hash[:12] in seen["prices"][1]
    assert sqlite3.sqlite_version in seen["sqlite"][1]
    cli("freeze", "--all")
    assert checks(cli.json("doctor"))["limits"] == ("note", "limits: 1, freezes: 1")


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 40, 1), "note"),
        ((3, 51, 2), "note"),
        ((3, 51, 3), "ok"),
        ((3, 50, 7), "ok"),
        ((3, 44, 6), "ok"),
        ((3, 45, 0), "note"),
    ],
)
def test_doctor_knows_which_sqlite_has_the_wal_reset_bug(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], state: str
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)
    seen = checks(cli.json("doctor"))["sqlite"]
    assert seen[0] == state
    assert ("WAL-reset" in seen[1]) == (state == "note")


def test_doctor_finds_a_store_that_does_not_open(cli: Cli, tmp_path: Path) -> None:
    missing = cli.json("doctor", "--store", f"sqlite:///{tmp_path}/nowhere/x.db", code=1)
    assert not missing["ok"]
    assert "does not exist" in checks(missing)["store"][1]
    (tmp_path / "text.db").write_text("this is not a database, whatever its name says" * 100)
    assert checks(cli.json("doctor", "--store", f"sqlite:///{tmp_path}/text.db", code=1))["store"][0] == "FAULT"
    assert "FAULT" in cli("doctor", "--store", f"sqlite:///{tmp_path}/nowhere/x.db", code=1).stdout


def test_doctor_finds_a_clock_that_went_back(cli: Cli) -> None:
    cli("set", "$5/day")
    with sqlite3.connect(cli.url.removeprefix("sqlite:///")) as db:
        db.execute("update accounts set clock = clock + 60000000")
    db.close()
    found = cli.json("doctor", code=1)
    assert checks(found)["clock"][0] == "FAULT"


def test_doctor_finds_an_sdk_that_cannot_be_guarded(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.clients.self_test", lambda: {"anthropic": "Anthropic._prepare_request"})
    state, detail = checks(cli.json("doctor", code=1))["anthropic"]
    assert state == "FAULT"
    assert "_prepare_request" in detail

    def broken() -> dict[str, str]:
        raise ImportError("no module named httpx2")

    monkeypatch.setattr("budget.clients.self_test", broken)
    assert checks(cli.json("doctor", code=1))["wrap"][0] == "FAULT"


def test_doctor_names_models_whose_prices_are_to_be_looked_at_again(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from budget.prices import Model, PriceBook, Row

    rates = PriceBook.shipped().find("claude-sonnet-4-6").rates(0)
    rows = (Row(0, rates, retrieved="2020-01-01", review_by="2020-02-01"),)
    book = PriceBook([Model("old-one", "anthropic", rows)], "f" * 64)
    book.retrieved = "2020-01-01"
    monkeypatch.setattr(PriceBook, "shipped", lambda: book)
    seen = checks(cli.json("doctor"))
    assert seen["price review"] == ("note", "to be looked at again: old-one")
    assert seen["prices"][0] == "note"
    assert re.fullmatch(r"1 models, read \d{4,} days ago \(more than 90: .*\), book ffffffffffff", seen["prices"][1])


def test_doctor_prints_no_password(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for command, code in (("doctor", 1), ("status", 4), ("limits", 4)):
        shown = cli(command, "--store", "redis://me:hunter2@127.0.0.1:1/0", code=code).output
        assert "127.0.0.1:1" in shown
        assert "hunter2" not in shown

    def call(*_: object) -> None:
        raise StoreUnavailable("no answer from redis://me:hunter2@cache/0")

    store = SimpleNamespace(url="redis://me:hunter2@cache/0", default_timeout=1.0, call=call, close=lambda: None)
    monkeypatch.setattr("budget.core.open_store", lambda *_: store)
    shown = cli("doctor", "--json", code=1).output
    assert "redis://***@cache/0: no answer" in shown
    assert "hunter2" not in shown
