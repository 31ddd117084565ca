"""reservations: who holds what, and giving it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke import Cli

from budget import BudgetExceeded, Reservation


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def held(cli: Cli) -> list[Reservation]:
    cli("set", "per=user", "$1/day", "2 concurrent")
    cli("set", "$5/day")
    with cli.budget() as budget:
        return [budget.reserve("$0.40", user="alice"), budget.reserve("$0.30", user="bob", agent="support")]


def test_who_holds_what(cli: Cli, held: list[Reservation]) -> None:
    alice, bob = cli.json("reservations")
    assert [alice["id"], bob["id"]] == [each.id for each in held]
    rows = sorted((row["limit"], row["subject"], row["unit"], row["amount"]) for row in alice["holds"])
    assert rows == [
        ("$1/day", "user=alice", "usd", "0.4"),
        ("$5/day", "everybody", "usd", "0.4"),
        ("2 concurrent", "user=alice", "concurrent", 1),
    ]
    assert [row["id"] for row in cli.json("reservations", "list", "user=bob")] == [bob["id"]]
    assert cli.json("reservations", "list", "user=bob", "agent=x") == []


def test_who_holds_a_limit(cli: Cli, held: list[Reservation]) -> None:
    found = cli.json("reservations", "list", "--limit", "per=user $1/day")
    assert [[row["amount"] for row in each["holds"]] for each in found] == [["0.4"], ["0.3"]]
    assert len(cli.json("reservations", "list", "--limit", "$9/day")) == 2  # the amount is not what tells limits apart
    assert cli.json("reservations", "list", "--limit", "$5/week") == []
    assert "is not AMOUNT/WINDOW" in cli("reservations", "list", "--limit", "5", code=2).stderr


def test_what_a_limit_that_was_unset_held(cli: Cli, held: list[Reservation]) -> None:
    cli("unset", "$5/day")
    assert "usd/day" in {row["limit"] for row in cli.json("reservations")[0]["holds"]}


def test_a_refusal_leads_there(cli: Cli, held: list[Reservation]) -> None:
    with cli.budget() as budget, pytest.raises(BudgetExceeded, match="budget reservations") as caught:
        budget.reserve("$0.70", user="alice")
    (row,) = cli.lines("reservations", "list", *[f"{k}={v}" for k, v in caught.value.subject.items()])
    holds = {"1 of 2 concurrent (user=alice)", "$0.40 of $1/day (user=alice)", "$0.40 of $5/day (everybody)"}
    assert set(row[5].split("; ")) == holds


@pytest.mark.parametrize(("columns", "left_out"), [(80, True), (160, False)])
def test_it_fits_the_terminal(
    cli: Cli, held: list[Reservation], columns: int, left_out: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budget.cli.output.is_terminal", lambda: True)
    shown = cli("reservations", columns=columns)
    lines = shown.stdout.splitlines()
    assert len(lines) == 3
    assert max(map(len, lines)) <= columns
    assert ("holds" in lines[0]) is not left_out
    assert ("holds" in shown.stderr) is left_out


def test_refund(cli: Cli, held: list[Reservation]) -> None:
    first, second = held
    assert cli("reservations", "refund", first.id, "--reason", "it died").stdout == "refunded: $0.40\n"
    assert cli.json("reservations", "refund", second.id) == {"refunded": second.id, "usd": "0.3"}
    assert cli.json("reservations") == []
    assert "nothing is reserved" in cli("reservations").stderr
    entry = next(
        row for row in cli.json("ledger", "tail") if row["reservation"] == first.id and row["kind"] == "refunded"
    )
    assert entry["detail"]["reason"] == "it died"
    assert entry["detail"]["actor"]
    assert any("user=alice by" in cell for row in cli.lines("ledger", "tail") for cell in row)


def test_what_cannot_be_refunded(cli: Cli, held: list[Reservation]) -> None:
    with cli.budget() as budget:
        budget.reconcile(held[0], usd="0.1")
    assert "already reconciled" in cli("reservations", "refund", held[0].id, code=1).stderr
    assert "there is none" in cli("reservations", "refund", "f" * 32, code=1).stderr
    assert "32 hex digits" in cli("reservations", "refund", "x", code=2).stderr


def test_an_expired_one_is_corrected(cli: Cli) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:
        held = budget.reserve("$0.40", lease=0.001)
    assert cli.json("reservations", "sweep") == {"expired": 1}
    assert cli.json("status")[0]["spent"] == "0.4"
    cli("reservations", "refund", held.id)
    assert cli.json("status")[0]["spent"] == "0"
