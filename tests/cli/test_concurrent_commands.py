"""Concurrency limits on the command line, on every store that processes share."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke import Cli

from budget import Budget
from budget.cli import look

MODEL = "claude-sonnet-4-6"
CHECK = ("check", "user=alice", "--model", MODEL, "--in", "10", "--max-out", "10")


@pytest.fixture
def cli(tmp_path: Path, shared_url: str) -> Cli:
    made = Cli(tmp_path)
    made.url = shared_url
    return made


def test_set_list_and_unset(cli: Cli) -> None:
    made = cli.json("set", "user=alice", "1 concurrent", "$5/day", "--tz", "Europe/Berlin")["set"]
    assert [(row["limit"], row["options"]) for row in made] == [
        ("user=alice 1 concurrent", {}),
        ("user=alice $5/day", {"tz": "Europe/Berlin"}),
    ]
    (row,) = (row for row in cli.json("limits", "user=alice") if row["unit"] == "concurrent")
    assert row == {
        "limit": "user=alice 1 concurrent", "selector": "user=alice", "unit": "concurrent", "window": None,
        "mode": "enforce", "amount": 1, "source": "store", "options": {},
    }  # fmt: skip
    assert ["user=alice", "1 concurrent", "-", "-", "store"] in cli.lines("limits")
    assert cli("set", "per=user", "8 concurrent").stdout == "set per=user 8 concurrent\n"
    removed = cli.json("unset", "user=alice", "7 concurrent")["unset"]  # whatever its amount
    assert [row["limit"] for row in removed] == ["user=alice 1 concurrent"]
    assert "no limit" in cli("unset", "user=alice", "1 concurrent", code=2).stderr


def test_status_and_check(cli: Cli) -> None:
    cli("set", "user=alice", "1 concurrent")
    assert cli.json(*CHECK) == {"admitted": True, "refusal": None}
    with cli.budget() as budget:
        budget.reserve("$0.10", user="alice")
    (row,) = cli.json("status", "user=alice")
    assert (row["limit"], row["unit"], row["resets_at"]) == ("user=alice 1 concurrent", "concurrent", None)
    assert (row["spent"], row["reserved"], row["available"]) == (0, 1, 0)
    assert cli.lines("status")[0][:5] == ["user=alice", "1 concurrent", "0", "1", "0"]
    refusal = cli.json(*CHECK, code=3)["refusal"]
    assert (refusal["limit"], refusal["unit"], refusal["verdict"]) == ("user=alice 1 concurrent", "concurrent", "wait")
    assert cli(*CHECK, code=3).stdout == ("refused: 1 concurrent (user=alice): 0 spent + 1 reserved, needs 1 [wait]\n")
    assert cli.json("ledger", "verify")["faults"] == []


def test_a_terminal_shows_how_many_slots_are_taken(cli: Cli) -> None:
    with Budget(cli.url, limits=["10 concurrent"]) as budget:
        budget.reserve("$0")
        (pool,) = budget.status()
    assert look._bar(pool) == ("▒" + "░" * 9, "green")


def test_replay(cli: Cli, tmp_path: Path) -> None:
    """Each call holds its slot from its begin to its end; what ends at an instant ends before what begins."""
    trace = tmp_path / "trace.csv"
    calls = "".join(f"{when},{MODEL},100,10\n" for when in ("0,30", "10,30", "20,5", "30,10", "40,1"))
    trace.write_text(f"time,duration,model,input_tokens,output_tokens\n{calls}")
    found = cli.json("replay", str(trace), "--limit", "2 concurrent", "--limit", "per=user 3 concurrent")
    assert (found["calls"], found["admitted"], found["refused"]) == (5, 4, 1)
    assert found["limits"] == [
        {"limit": "2 concurrent", "refused": 1, "max_spent_usd": None},
        {"limit": "per=user 3 concurrent", "refused": 0, "max_spent_usd": None},
    ]
