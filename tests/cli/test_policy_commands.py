"""set, unset, limits, freeze, unfreeze."""

from __future__ import annotations

from pathlib import Path

import pytest
from invoke import Cli

from budget.errors import BudgetExceeded, Frozen


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def rules(cli: Cli, *args: str) -> list[str]:
    return [row["limit"] for row in cli.json("limits", *args)]


def test_set_holds_for_an_engine_that_runs(cli: Cli) -> None:
    with cli.budget() as budget:
        budget.reserve("$2", user="alice")
        cli("set", "user=alice", "$1/day")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$2", user="alice")


def test_set_says_what_it_set(cli: Cli) -> None:
    shown = cli("set", "user=alice", "team=a b", "$5/day", "$0.25/request", "--tz", "Europe/Berlin").stdout
    assert shown == "set 'team=a b' user=alice $5/day (Europe/Berlin)\nset 'team=a b' user=alice $0.25/request\n"
    made = cli.json("set", "per=user", "2M tokens/hour")
    assert [row["limit"] for row in made["set"]] == ["per=user 2000000 tokens/hour"]
    assert rules(cli) == [
        "'team=a b' user=alice $5/day", "'team=a b' user=alice $0.25/request", "per=user 2000000 tokens/hour",
    ]  # fmt: skip


def test_limits_json_has_exactly_the_keys_of_the_contract(cli: Cli) -> None:
    cli("set", "user=alice", "$5/day", "--tz", "Europe/Berlin")
    [row] = cli.json("limits")
    assert row == {
        "limit": "user=alice $5/day", "selector": "user=alice", "unit": "usd", "window": "day", "mode": "enforce",
        "amount": "5", "source": "store", "options": {"tz": "Europe/Berlin"},
    }  # fmt: skip


def test_limits_of_the_file_are_listed_with_their_source(cli: Cli) -> None:
    Path("budget.toml").write_text('[[limits]]\nlimit = "$500/day"\n')
    cli("set", "per=user", "$5/day")
    assert cli.lines("limits") == [["everybody", "$500/day", "UTC", "file"], ["per=user", "$5/day", "UTC", "store"]]
    assert rules(cli, "user=alice") == ["$500/day", "per=user $5/day"]
    assert "the store has no limit '$500/day'" in cli("unset", "$500/day", code=2).stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["user=alice", "$5/day", "$1/foo"], "'foo' is none of"),
        (["user=alice", "$5/day", "$6/day"], "one would replace the other"),
        (["user=alice"], "give at least one"),
        (["user=alice", "user=bob", "$5/day"], "user: is given twice"),
        (["user=alice $5/day", "$1/hour"], "words of their own"),
        (["per=user $5/day"], "words of their own"),
        (["user=", "$5/day"], "0 bytes"),
        (["us er=x", "$5/day"], "is not a name"),
        (["reason=x", "$5/day"], "has another meaning"),
        (["user=a", "per=user", "$5/day"], "exclude one another"),
        (["5/day"], "is not an amount"),
        (["$5"], "is not AMOUNT/WINDOW"),
        (["$1e3/day"], "is not an amount"),
        (["8 concurrent/day"], "without a window"),
        (["8 concurrent", "--tz", "Europe/Berlin"], "none of the limits has a calendar window"),
        (["8 concurrent", "9 concurrent"], "one would replace the other"),
        (["$5/7d rolling"], "not available in this version"),
        (["$5/run", "$1/request", "--tz", "Europe/Berlin"], "none of the limits has a calendar window"),
        (["$5/day", "--tz", "Mars/Olympus"], "there is no zone"),
    ],
)
def test_nothing_is_set_unless_all_is_valid(cli: Cli, words: list[str], says: str) -> None:
    assert says in cli("set", *words, code=2).stderr
    assert rules(cli) == []


def test_tz_goes_to_the_calendar_windows_only(cli: Cli) -> None:
    cli("set", "per=user", "$5/day", "$9/lifetime", "--tz", "Asia/Tokyo")
    assert [row["options"] for row in cli.json("limits")] == [{"tz": "Asia/Tokyo"}, {}]


def test_unset_takes_a_limit_by_identity_or_a_whole_selector(cli: Cli) -> None:
    cli("set", "user=alice", "$5/day", "$1/hour", "$0.25/request")
    cli("set", "$500/day")
    assert cli("unset", "user=alice", "$9/day").stdout == "unset user=alice $5/day\n"
    assert rules(cli) == ["user=alice $1/hour", "user=alice $0.25/request", "$500/day"]
    assert len(cli.json("unset", "user=alice")["unset"]) == 2
    assert rules(cli) == ["$500/day"]


def test_unset_of_several_removes_none_if_one_is_missing(cli: Cli) -> None:
    cli("set", "user=alice", "$5/day")
    assert "$7/hour" in cli("unset", "user=alice", "$5/day", "$7/hour", code=2).stderr
    assert rules(cli) == ["user=alice $5/day"]
    assert "no such limit" in cli("unset", "user=bob", code=2).stderr


def test_freeze_refuses_and_unfreeze_ends_it(cli: Cli) -> None:
    assert cli("freeze", "user=alice", "--reason", "runaway").stdout == "frozen: user=alice\n"
    with cli.budget() as budget:
        with pytest.raises(Frozen):
            budget.reserve("$1", user="alice")
        budget.reserve("$1", user="bob")
        assert cli.json("freeze", "--all") == {"subject": "everybody", "frozen": True}
        with pytest.raises(Frozen):
            budget.reserve("$1", user="bob")
        assert cli("unfreeze", "--all").stdout == "unfrozen: everybody\n"
        budget.reserve("$1", user="bob")
        assert cli.json("unfreeze", "user=alice") == {"subject": "user=alice", "frozen": False}
        budget.reserve("$1", user="alice")
    assert "there is no freeze" in cli("unfreeze", "user=alice", code=2).stderr


@pytest.mark.parametrize("args", [[], ["user=alice", "--all"], ["alice"], ["per=user"]])
def test_freeze_wants_a_subject_or_all(cli: Cli, args: list[str]) -> None:
    for verb in ("freeze", "unfreeze"):
        said = cli(verb, *args, code=2).stderr
        assert "--all" in said or "only attributes" in said
    assert cli.json("ledger", "tail") == []


def test_every_write_is_audited_with_actor_and_reason(cli: Cli) -> None:
    cli("set", "user=alice", "$5/day", "--reason", "pilot")
    cli("freeze", "user=alice", "--reason", "runaway")
    cli("unfreeze", "user=alice", "--reason", "fixed")
    cli("unset", "user=alice", "--reason", "over")
    entries = cli.json("ledger", "tail")
    assert [entry["kind"] for entry in entries] == ["limit_set", "frozen", "unfrozen", "limit_unset"]
    assert [entry["detail"]["reason"] for entry in entries] == ["pilot", "runaway", "fixed", "over"]
    assert all(entry["detail"]["actor"] for entry in entries)
