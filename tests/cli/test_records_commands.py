"""report, top, suggest, reservations."""

from __future__ import annotations

import shlex
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


def test_report_json_begins_with_the_keys_of_the_contract(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        spent = budget.record(USAGE, model="claude-sonnet-4-6", user="alice").charged
        budget.record(usd="0.5", user="alice")
        assert not budget.check("$6", user="alice")
        with pytest.raises(Exception, match=r"\$5/day"):
            budget.reserve("$6", user="alice")
    [row] = cli.json("report")
    assert list(row)[: len(KEYS)] == KEYS
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


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("answers", "output"):
        monkeypatch.setattr(f"budget.cli.{module}.is_terminal", lambda: True)


def spend(cli: Cli) -> None:
    """Calls of three users: most of it alice's, in two sessions."""
    with cli.budget() as budget:
        for i in range(20):
            budget.record(usd="0.30", user="alice", session=f"s{i % 2}", model="claude-sonnet-4-6", agent="support")
        budget.record(usd="4", user="alice", session="s1", agent="=1+1")
        budget.record(USAGE, model="claude-sonnet-4-6", user="bob", session="t", agent="support")
        budget.record(usd="0.01")


def test_a_pair_of_attributes(cli: Cli) -> None:
    spend(cli)
    rows = cli.json("report", "--by", "user,agent")
    assert [row["by"] for row in rows] == [["alice", "support"], ["alice", "=1+1"], [None, None], ["bob", "support"]]
    assert rows[0]["keys"] == {"user": "alice", "agent": "support"}
    assert cli.lines("report", "--by", "user,agent")[2][:4] == ["(none)", "(none)", "1", "$0.01"]
    assert "stands twice" in cli("report", "--by", "user,user", code=2).stderr


def test_filters(cli: Cli) -> None:
    spend(cli)
    [row] = cli.json("report", "--by", "session", "--above", "$5")
    assert (row["by"], row["usd"], row["calls"]) == ("s1", "7", 11)
    assert row["first"] < row["last"]
    assert [row["by"] for row in cli.json("report", "--by", "user", "--top", "1")] == ["alice"]
    [row] = cli.json("report", "--quota", "$9/day")
    assert (row["keys"]["user"], row["usd"]) == ("alice", "10")
    assert [row["by"] for row in cli.json("report", "--times-mean", "1.5")] == ["alice"]
    assert [row["by"] for row in cli.json("report", "agent=support", "--by", "user")] == ["alice", "bob"]
    assert cli.json("report", "--until", "1d") == []
    [call] = cli.json("report", "--requests-above", "5")
    assert (call["usd"], call["keys"]["session"], call["keys"]["agent"]) == ("4", "s1", "=1+1")
    assert "no call cost" in cli("report", "--requests-above", "500").stderr
    [row] = cli.json("report", "--by", "day", "--quick")
    assert (row["calls"], row["p95_usd"], row["first"]) == (23, None, None)


def test_reports_that_exclude_one_another(cli: Cli) -> None:
    assert "--cache and --limits are two reports" in cli("report", "--cache", "--limits", code=2).stderr
    assert "--limits does not take --since" in cli("report", "--limits", "--since", "1d", code=2).stderr
    assert "--estimates does not take attributes" in cli("report", "--estimates", "user=a", code=2).stderr
    assert "choose one" in cli("report", "--json", "--csv", code=2).stderr
    assert "nothing to draw" in cli("report", "--limits", "--plot", "x.svg", code=2).stderr


def test_csv_has_no_formula(cli: Cli) -> None:
    spend(cli)
    header, *lines = cli("report", "--by", "agent", "--csv").stdout.splitlines()
    assert header.startswith("agent,calls,usd,mean_usd,")
    assert [line.split(",")[:3] for line in lines][:2] == [["support", "21", "6.007575"], ["'=1+1", "1", "4"]]
    assert "limit,percent,observed" in cli("suggest", "--csv").stdout


def test_top_draws_shares_that_fit_a_terminal(cli: Cli, terminal: None) -> None:
    spend(cli)
    for width in (80, 160):
        for args in (["top"], ["report"], ["report", "--by", "session,model"], ["report", "--cache"],
                     ["report", "--rate"], ["suggest"], ["report", "--requests-above", "2"]):  # fmt: skip
            printed = cli(*args, columns=width).stdout.splitlines()
            assert all(len(line) <= width for line in printed), printed
    first, second = cli("top").stdout.splitlines()[1:3]
    assert first.split()[:5] == ["alice", "21", "$10.00", "█████████▉", "99.8"]
    assert first.split()[5] == "·" * 13 + "█"
    assert second.split()[:2] == ["(none)", "1"]
    assert "all: 23 calls, $10.02" in cli("top").stderr


def test_a_cache_report(cli: Cli) -> None:
    with cli.budget() as budget:
        for i in range(4):
            usage = {**USAGE, "cache_read_input_tokens": 0 if i in (0, 2) else 4000, "cache_creation_input_tokens": 0}
            budget.record(usage, model="claude-sonnet-4-6", session="s", agent="a")
    [row] = cli.json("report", "--cache")
    assert (row["by"], row["calls"], row["input_tokens"], row["cache_read_tokens"]) == (
        "claude-sonnet-4-6", 4, 12000, 8000,
    )  # fmt: skip
    assert (row["hit_ratio"], row["miss_ratio"], row["saved_usd"]) == ("0.6667", "0.3333", "0.0216")
    assert float(row["would_cost_usd"]) == pytest.approx(float(row["usd"]) + 0.0216)
    # after 1,000 came 5,000 (4,000 read); then 1,000 could have been read, and was not; then 1,000 of 5,000
    assert (row["more_tokens"], row["more_usd"]) == (1000, "0.0027")
    assert row["misses"] == {"first call": 1, "too short": 1}
    told = cli("report", "--cache", "--by", "prefix")
    assert "no fingerprints of them" in told.stderr
    assert told.stdout.splitlines()[1].split("\t")[:3] == ["(none)", "4", "66.7 %"]


def test_limits_refusals_and_the_rate(cli: Cli) -> None:
    cli("set", "per=user", "$11/day", "$5/request")
    spend(cli)
    with cli.budget() as budget:
        budget.reserve("$0.50", user="alice")
        with pytest.raises(Exception, match="/day"):
            budget.reserve("$2", user="alice")
        with pytest.raises(Exception, match="/request"):
            budget.reserve("$6", user="dora")
    rows = cli.json("report", "--limits")
    assert {row["subject"] for row in rows} == {"user=alice", "user=bob", "user=(none)"}
    alice = next(row for row in rows if row["subject"] == "user=alice")
    assert (alice["spent"], alice["reserved"], alice["per_hour"]) == ("10", "0.5", "2.5")
    assert alice["limit"] == "per=user $11/day"
    found = {row["limit"]: (row["refused"], row["near"]) for row in cli.json("report", "--refusals")}
    assert found == {"per=user $11/day": (1, 1), "per=user $5/request": (1, 0)}
    rates = cli.json("report", "--rate")
    assert len(rates) == 24
    assert (rates[-1]["calls"], float(rates[-1]["usd"])) == (23, pytest.approx(10.017575))
    assert {row["calls"] for row in rates[:-1]} == {0}
    assert cli.lines("report", "--limits", "user=bob")[0][:2] == ["user=bob", "per=user $11/day"]


def test_suggested_limits_can_be_set_as_they_are_printed(cli: Cli, terminal: None) -> None:
    spend(cli)
    rows = cli.json("suggest")["suggestions"]
    cap = next(row for row in rows if row["limit"] == "$0.3/request")
    assert (cap["percent"], cap["of"], cap["refused_calls"], cap["refused_usd"]) == (95, 23, 1, "4")
    commands = [line for line in cli("suggest", "--at", "max").stdout.splitlines() if line.startswith("budget ")]
    assert "budget set per=user '$10/day'" in commands
    for command in commands:
        cli(*shlex.split(command)[1:])
    assert len(cli.json("limits")) == len(commands)


def test_plots(cli: Cli, tmp_path: Path) -> None:
    spend(cli)
    for name, args in {"bars": ["report"], "lines": ["report", "--by", "day"], "rate": ["report", "--rate"]}.items():
        path = tmp_path / f"{name}.svg"
        cli(*args, "--plot", str(path))
        assert path.read_text(encoding="utf-8").startswith("<svg")
    assert "alice" in (tmp_path / "bars.svg").read_text(encoding="utf-8")
    assert "exists" in cli("report", "--plot", str(tmp_path / "bars.svg"), code=2).stderr
