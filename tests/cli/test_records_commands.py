"""report, reservations."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from invoke import Cli

KEYS = [
    "by", "calls", "usd", "mean_usd", "p50_usd", "p95_usd", "p99_usd", "input_tokens", "output_tokens",
    "cache_read_tokens", "cache_write_tokens", "refused",
]  # fmt: skip
USAGE = {
    "input_tokens": 1000,
    "output_tokens": 100,
    "cache_read_input_tokens": 4000,
    "cache_creation_input_tokens": 500,
}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_report_json_has_exactly_the_keys_of_the_contract(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        spent = budget.record(USAGE, model="claude-sonnet-4-6", user="alice").charged
        budget.record(usd="0.5", user="alice")
        assert not budget.check("$6", user="alice")
        with pytest.raises(Exception, match=r"\$5/day"):
            budget.reserve("$6", user="alice")
    [row] = cli.json("report")
    assert list(row) == KEYS
    assert spent is not None
    assert row["usd"] == f"0.{500_000_000 + (spent[0] or 0):09d}".rstrip("0")
    assert (row["by"], row["calls"], row["refused"], row["p99_usd"]) == ("alice", 2, 1, "0.5")
    tokens = [row[name] for name in KEYS if name.endswith("_tokens")]
    assert tokens == [5500, 100, 4000, 500]


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("user", ["alice", "bob", None]), ("agent", ["a", None]), ("session", ["s", None]),
        ("provider", ["anthropic", None]),
        ("model", ["claude-sonnet-4-6", None]), ("run", [None]), ("team", ["(none)", None]),
    ],
)  # fmt: skip
def test_report_groups_by_any_attribute(cli: Cli, by: str, groups: list[str | None]) -> None:
    with cli.budget() as budget:
        budget.record(usd="3", user="alice", agent="a", session="s", model="claude-sonnet-4-6", team="(none)")
        budget.record(usd="2", user="bob")
        budget.record(usd="1")
    rows = cli.json("report", "--by", by)
    assert sorted(map(str, (row["by"] for row in rows))) == sorted(map(str, groups))
    assert sum(row["calls"] for row in rows) == 3
    costs = [float(row["usd"]) for row in rows]
    assert costs == sorted(costs, reverse=True)


def test_report_since(cli: Cli) -> None:
    with cli.budget() as budget:
        budget.record(usd="3", user="alice")
    assert len(cli.json("report", "--since", "7d", "--by", "day")) == 1
    assert "is not a duration" in cli("report", "--since", "yesterday", code=2).stderr
    assert "is not a name" in cli("report", "--by", "a b", code=2).stderr


def test_an_empty_report_says_so(cli: Cli) -> None:
    assert "no calls" in cli("report").stderr
    assert cli.json("report") == []


def test_reservations_are_listed_and_swept(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    with cli.budget() as budget:
        open_one = budget.reserve("$0.40", user="alice", tokens=7, lease=86400)
        for _ in range(70):  # more than one sweep takes
            budget.reserve("$0.01", user="bob")
    found = cli.json("reservations")
    assert found == cli.json("reservations", "list")
    mine = next(row for row in found if row["id"] == open_one.id)
    assert (mine["usd"], mine["tokens"], mine["scope"], mine["parent"]) == ("0.4", 7, {"user": "alice"}, None)
    assert mine["made"] < mine["lease_end"]
    assert any(row[0] == open_one.id and row[3:5] == ["$0.40", "user=alice"] for row in cli.lines("reservations"))
    assert cli.json("reservations", "sweep") == {"expired": 0}
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("time.time_ns", lambda: later)
    assert cli.json("reservations", "sweep") == {"expired": 70}
    assert cli.lines("reservations")[0][1] in ("59m", "1h")
    assert [row["id"] for row in cli.json("reservations")] == [open_one.id]
    assert cli("reservations", "sweep").stdout == "expired: 0\n"
    assert sum(entry["kind"] == "expired" for entry in cli.json("ledger", "tail", "-n", "500")) == 70


def test_report_estimates(cli: Cli) -> None:
    assert "no calls" in cli("report", "--estimates").stderr
    with cli.budget() as budget:
        guess = budget.estimate_counts("claude-sonnet-4-6", input_tokens=1000, output_tokens=100)
        budget.reconcile(budget.reserve(guess, agent="a"), {"input_tokens": 1000, "output_tokens": 50})
    [row] = cli.json("report", "--by", "model", "--estimates")
    assert row == {
        "by": "claude-sonnet-4-6", "calls": 1, "usd": "0.00375", "usd_expected": "0.0045", "usd_reserved": "0.0045",
        "bias": "0.2000", "p50_error": "0.2000", "p95_error": "0.2000", "over_reservation": "1.2000", "overruns": 0,
        "overrun_share": "0.0000",
    }  # fmt: skip
    header, line = cli("report", "--by", "agent", "--estimates").stdout.splitlines()
    assert header.split("\t")[:4] == ["agent", "calls", "cost", "expected"]
    assert line == "a\t1\t$0.00375\t$0.0045\t$0.0045\t20.00 %\t20.00 %\t20.00 %\t1.20\t0\t0.00 %"
