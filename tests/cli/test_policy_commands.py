"""set, unset, adjust, limits, freeze, unfreeze."""

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
    assert cli.lines("limits") == [
        ["everybody", "$500/day", "UTC", "-", "file"], ["per=user", "$5/day", "UTC", "-", "store"],
    ]  # fmt: skip
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
        (["$5/0d rolling"], "is not between 1 second and 366 days"),
        (["$5/7d", "rolling"], "'7d' is none of"),
        (["$5/7d rolling", "--tz", "Europe/Berlin"], "none of the limits has a calendar window"),
        (["$5/24h rolling", "$6/1d rolling"], "one would replace the other"),
        (["$5/hour", "--starts", "6"], "none of the limits has a window of a day, week, month or year"),
        (["$5/day", "$5/week", "--starts", "6"], "'6' is not a weekday"),
        (["$5/day", "--starts", "25"], "'25' is not an hour"),
        (["$5/day", "--mode", "chaos"], "--mode"),
        (["$5/day", "--until", "2020-01-01"], "is over"),
        (["$5/day", "--until", "soon"], "is not a duration"),
        (["$5/day", "--until", "0s"], "is over"),
        (["8 concurrent", "$1/request", "--backfill"], "backfill: none of the limits has a calendar, rolling"),
        (["5 tokens/day", "--rollover", "$1"], "rollover: none of the limits has money and a calendar window"),
        (["$5/day", "$1/hour", "--rollover", "$2"], "is above the limit's $1"),
        (["$5/request", "--warn", "80%"], "warn: none of the limits"),
        (["$5/day", "--warn", "80"], "'80' is not a share"),
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


def test_set_takes_every_option(cli: Cli) -> None:
    words = ["--tz", "Europe/Berlin", "--starts", "6", "--mode", "shadow", "--until", "2200-12-01T00:00",
             "--rollover", "$2", "--warn", "80%", "--warn", "50%", "--backfill"]  # fmt: skip
    options = {"tz": "Europe/Berlin", "starts": "06:00", "until": "2200-12-01T00:00:00+01:00", "rollover": "$2",
               "warn": ["50%", "80%"]}  # fmt: skip
    shown = "Europe/Berlin, from 06:00, until 2200-12-01 00:00 CET, rolls over $2, warns at 50%, 80%"
    assert cli("set", "user=alice", "$5/day", *words).stdout == f"set user=alice $5/day (shadow) ({shown})\n"
    [row] = cli.json("limits")
    assert (row["limit"], row["mode"], row["options"]) == ("user=alice $5/day", "shadow", options)
    with cli.budget() as budget:
        [limit] = budget.limits
        assert (limit.rollover, limit.warn, limit.starts) == (2 * 10**9, (50, 80), "06:00")


def test_what_to_do_when_money_runs_short(cli: Cli) -> None:
    ways = "clamp:200; fallback:claude-haiku-4-5"
    shown = cli("set", "per=user", "$2/day", "$0.25/request", "--on-short", ways).stdout
    assert shown.splitlines()[0] == "set per=user $2/day (on short clamp:200;fallback:claude-haiku-4-5)"
    assert [row["options"] for row in cli.json("limits")] == [{"on_short": "clamp:200;fallback:claude-haiku-4-5"}] * 2
    assert "on short clamp:200" in cli.lines("limits")[0][3]
    assert "on_short: 'clmp' is not" in cli("set", "per=user", "$9/day", "$3/week", "--on-short", "clmp", code=2).stderr
    assert rules(cli) == ["per=user $2/day", "per=user $0.25/request"]
    cli("set", "per=user", "$2/day")
    assert [row["options"] for row in cli.json("limits")] == [{"on_short": "clamp:200;fallback:claude-haiku-4-5"}, {}]


def test_options_go_to_the_limits_they_mean(cli: Cli) -> None:
    rules_ = ["$5/day", "$9/30d rolling", "$0.25/request", "8 concurrent", "5 tokens/day", "$3/hour"]
    words = ["--starts", "6", "--rollover", "$2", "--warn", "80%", "--backfill"]
    cli("set", "per=user", *rules_, *words)
    found = {row["limit"].removeprefix("per=user "): row["options"] for row in cli.json("limits")}
    assert found == {
        "$5/day": {"starts": "06:00", "rollover": "$2", "warn": ["80%"]}, "$9/30d rolling": {"warn": ["80%"]},
        "$0.25/request": {}, "8 concurrent": {"warn": ["80%"]}, "5 tokens/day": {"starts": "06:00", "warn": ["80%"]},
        "$3/hour": {"rollover": "$2", "warn": ["80%"]},
    }  # fmt: skip
    entries = [entry["detail"] for entry in cli.json("ledger", "tail")]
    told = {entry["limit"].removeprefix("per=user "): entry.get("backfill", False) for entry in entries}
    assert told == {rule: rule in ("$5/day", "$9/30d rolling", "5 tokens/day", "$3/hour") for rule in rules_}


def test_backfill_counts_from_the_ledger(cli: Cli) -> None:
    with cli.budget() as budget:
        budget.record(usd="3", user="alice")
        cli("set", "user=alice", "$4/day", "--backfill")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$2", user="alice")
    [pool] = cli.json("status", "user=alice")
    assert (pool["spent"], pool["available"]) == ("3", "1")


def test_a_temporary_raise(cli: Cli) -> None:
    cli("set", "user=alice", "$5/day")
    cli("set", "user=alice", "$50/day", "--until", "7d", "--reason", "release day")
    [row] = cli.json("limits")
    assert row["limit"] == "user=alice $50/day"
    assert row["options"].keys() == {"until"}
    cli("unset", "user=alice", "$50/day")
    assert rules(cli) == ["user=alice $5/day"]  # what it stood before
    cli("unset", "user=alice", "$50/day")
    assert rules(cli) == []


def test_a_model_is_unset_by_any_name(cli: Cli) -> None:
    for words in (("$9/day",), ()):
        cli("set", "model=claude-haiku-4-5-20251001", "$5/day")
        assert rules(cli) == rules(cli, "model=claude-haiku-4-5-20251001") == ["model=claude-haiku-4-5 $5/day"]
        cli("unset", "model=claude-haiku-4-5-20251001", *words)
        assert rules(cli) == []


def test_source_is_an_attribute_as_any_other(cli: Cli) -> None:
    cli("set", "source=web", "created_us=1", "$5/day")
    assert rules(cli) == ["created_us=1 source=web $5/day"]
    assert cli.json("status")[0]["limit"] == "created_us=1 source=web $5/day"
    cli("unset", "source=web", "created_us=1", "$5/day")
    assert rules(cli) == []


def test_adjust_raises_the_present_window(cli: Cli) -> None:
    cli("set", "per=user", "$5/day", "$9/lifetime")
    cli("set", "user=alice", "$3/day", "--mode", "shadow")
    with cli.budget() as budget:
        budget.record(usd="5", user="alice")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$1", user="alice")
        shown = cli("adjust", "user=alice", "+$10", "--reason", "release day").stdout
        budget.reserve("$1", user="alice")
    lines = [line.split(" until")[0] for line in shown.splitlines()]
    assert sorted(lines) == [
        "adjusted user=alice: $13/day (shadow)", "adjusted user=alice: $15/day",
        "adjusted user=alice: $19/lifetime, $14.00 available",
    ]  # fmt: skip
    told = [entry["detail"] for entry in cli.json("ledger", "tail") if entry["kind"] == "adjusted"]
    assert {(each["reason"], each["subject"], each["amount"]) for each in told} == {
        ("release day", "user=alice", "10"),
    }  # fmt: skip
    assert all(each["actor"] for each in told)
    cli("set", "$500/day")
    [raised] = cli.json("adjust", "+$10")["adjusted"]
    assert (raised["limit"], raised["subject"], raised["available"]) == ("$510/day", "everybody", "510")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["user=alice", "$10"], "'$10' is not an amount to add"), (["user=alice"], "one amount"),
        (["user=alice", "+$1", "+$2"], "one amount"), (["per=user", "+$1"], "give a subject"),
        (["user=bob", "+$1"], "no limit of money for user=bob alone"), (["+$1"], "for everybody alone"),
        (["user=alice", "+ten"], "is not an amount"),
    ],
)  # fmt: skip
def test_adjust_wants_a_subject_and_more(cli: Cli, words: list[str], says: str) -> None:
    cli("set", "user=alice", "$5/day")
    cli("set", "user=bob", "5 tokens/day")
    assert says in cli("adjust", *words, code=2).stderr
    assert [entry["kind"] for entry in cli.json("ledger", "tail")] == ["limit_set", "limit_set"]


def test_unset_of_shadow_limits(cli: Cli) -> None:
    def set_both() -> None:
        cli("set", "user=alice", "$5/day")
        cli("set", "user=alice", "$3/day", "--mode", "shadow")

    set_both()
    assert cli("unset", "user=alice", "$1/day").stdout == "unset user=alice $5/day\n"
    assert cli("unset", "user=alice", "$1/day").stdout == "unset user=alice $3/day (shadow)\n"
    set_both()
    assert cli("unset", "user=alice", "$1/day", "--mode", "shadow").stdout == "unset user=alice $3/day (shadow)\n"
    assert "no limit" in cli("unset", "user=alice", "$1/day", "--mode", "shadow", code=2).stderr
    set_both()
    assert len(cli.json("unset", "user=alice")["unset"]) == 2


@pytest.mark.parametrize("columns", [80, 160])
def test_limits_and_status_on_a_terminal(cli: Cli, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("set", "per=session", "$20/7d rolling", "--warn", "80%")
    cli("set", "user=alice", "$5/day", "--starts", "6", "--tz", "America/Argentina/Buenos_Aires", "--rollover", "$2",
        "--until", "2200-12-01")  # fmt: skip
    cli("set", "per=user", "$3/month", "--mode", "shadow")
    with cli.budget() as budget:
        budget.record(usd="1", user="alice", session="s" * 40)
    monkeypatch.setattr("budget.cli.output.is_terminal", lambda: True)
    shown = cli("limits", columns=columns)
    assert all(len(line) <= columns for line in shown.stdout.splitlines())
    assert "$20/7d rolling" in shown.stdout
    until = "2200-12-01 00:00 -03"
    assert (f"from 06:00, until {until}, rolls over $2" in shown.stdout) == (columns == 160)
    assert ("warns at 80%" in shown.stdout) == (columns == 160)
    assert "$3/month (shadow)" in shown.stdout
    assert ("options" in shown.stderr) == (columns == 80)
    pools = cli("status", columns=columns).stdout
    assert all(len(line) <= columns for line in pools.splitlines())
    assert "$3/month (shadow)" in pools
    assert "$20/7d rolling" in pools
