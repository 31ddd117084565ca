"""status, check, estimate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from invoke import Cli

REQUEST = {"model": "claude-sonnet-4-6", "max_tokens": 1000, "messages": [{"role": "user", "content": "a secret"}]}


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def test_status_shows_what_is_spent_and_reserved(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        budget.reconcile(budget.reserve("$1", user="alice"), usd="0.000000001")
        budget.reserve("$2.5", user="alice")
        [pool] = budget.status(user="alice")
    [row] = cli.lines("status")
    assert row[:5] == ["user=alice", "$5/day", "$0.000000001", "$2.50", "$2.499999999"]
    assert row[5].endswith("00:00 UTC")
    assert cli.json("status") == cli.json("status", "user=alice") == [pool.to_dict()]
    assert [row["subject"] for row in cli.json("status", "user=bob")] == ["user=bob"]


def test_a_user_called_none_is_not_taken_for_no_user(cli: Cli) -> None:
    """What is printed for such an id names it on the command line, and no id collides with "no user"."""
    ids = ["(none)", '"(none)"', '""(none)""', '"(none)', "'(none)'", "( none )", "none"]
    cli("set", "per=user", "$50/day")
    with cli.budget() as budget:
        budget.record(usd="30")
        for number, user in enumerate(ids, 1):
            budget.record(usd=str(number), user=user)
    rows = {row["spent"]: row["subject"] for row in cli.json("status")}
    assert len(rows) == len(set(rows.values())) == len(ids) + 1
    assert (rows["30"], rows["1"]) == ("user=(none)", 'user="(none)"')
    assert [rows[str(number)] for number in range(4, 8)] == [f"user={user}" for user in ids[3:]]
    for number in range(1, len(ids) + 1):
        [row] = cli.json("status", rows[str(number)])
        assert (row["spent"], row["subject"]) == (str(number), rows[str(number)])
    assert [row["spent"] for row in cli.json("status", "user=(none)")] == ["1"]
    cli("freeze", "user=(none)")
    assert cli.lines("status", "user=(none)")[0][:2] == ['user="(none)"', "FROZEN"]
    assert cli.json("unfreeze", 'user="(none)"') == {"subject": 'user="(none)"', "frozen": False}


def test_status_is_money_as_plain_decimals(cli: Cli) -> None:
    cli("set", "$5000000/day")
    with cli.budget() as budget:
        budget.record(usd="1234567.000000001")
    [row] = cli.json("status")
    assert (row["spent"], row["available"]) == ("1234567.000000001", "3765432.999999999")
    assert cli.lines("status")[0][2] == "$1,234,567.000000001"


def test_status_shows_who_is_frozen(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    cli("freeze", "user=alice")
    cli("freeze", "team=x")
    assert [row[:2] for row in cli.lines("status")] == [["team=x", "FROZEN"], ["user=alice", "FROZEN"]]
    assert [row[:2] for row in cli.lines("status", "user=bob")] == [["user=bob", "$5/day"]]
    assert ["user=alice", "FROZEN"] in [row[:2] for row in cli.lines("status", "user=alice", "team=y")]
    shown = cli("status", "user=alice", "--json")
    assert [row["subject"] for row in json.loads(shown.stdout)] == ["user=alice"]
    assert shown.stderr == "frozen: user=alice\n"
    cli("freeze", "--all")
    assert cli.lines("status", "user=bob")[0][:2] == ["everybody", "FROZEN"]


def test_status_finds_the_freeze_of_a_model_by_any_of_its_names(cli: Cli) -> None:
    cli("set", "per=model", "$5/day")
    cli("freeze", "model=claude-haiku-4-5-20251001")
    for name in ("claude-haiku-4-5", "claude-haiku-4-5-20251001"):
        assert "FROZEN" in [row[1] for row in cli.lines("status", f"model={name}")], name
    assert "FROZEN" not in [row[1] for row in cli.lines("status", "model=claude-sonnet-4-6")]


def test_status_without_limits_says_what_to_do(cli: Cli) -> None:
    shown = cli("status")
    assert "budget set" in shown.stderr
    assert shown.stdout.count("\n") == 1
    assert cli.json("status") == []


def test_check_admits_and_refuses_without_writing(cli: Cli) -> None:
    cli("set", "user=alice", "$0.05/day")
    ask = ("check", "user=alice", "--model", "claude-sonnet-4-6", "--max-out", "2000", "--in")
    assert cli.json(*ask, "1000") == {"admitted": True, "refusal": None}
    assert "admitted: at most $0.033" in cli(*ask, "1000").stdout
    refused = cli.json(*ask, "12000", code=3)
    assert not refused["admitted"]
    assert refused["refusal"]["limit"] == "user=alice $0.05/day"
    assert refused["refusal"]["requested"] == "0.066"
    said = cli(*ask, "12000", code=3).stdout
    assert said.startswith("refused: ")
    assert all(part in said for part in ("user=alice", "$0.05/day", "$0.066"))
    cli("check", "user=bob", *ask[2:], "12000")
    assert [entry["kind"] for entry in cli.json("ledger")] == ["limit_set"]


def test_check_of_a_frozen_subject_is_refused(cli: Cli) -> None:
    cli("freeze", "user=alice")
    args = ("--model", "claude-sonnet-4-6", "--in", "1", "--max-out", "1")
    assert "frozen" in cli("check", "user=alice", *args, code=3).stdout


def test_check_takes_any_attribute_name(cli: Cli) -> None:
    cli("set", "tokens=x", "system=y", "$0.00001/day")
    args = ("--model", "claude-sonnet-4-6", "--in", "1000", "--max-out", "1")
    cli("check", "tokens=x", "system=y", *args, code=3)
    cli("check", "tokens=x", "system=z", *args)


def test_check_is_of_one_model(cli: Cli) -> None:
    args = ("--model", "claude-sonnet-4-6", "--in", "1", "--max-out", "1")
    assert "estimate is of claude-sonnet-4-6" in cli("check", "model=claude-haiku-4-5", *args, code=2).stderr
    assert cli.json("check", "model=claude-sonnet-4-6", "provider=anthropic", *args)["admitted"]


def test_check_of_an_unknown_model_is_an_error_and_not_a_refusal(cli: Cli) -> None:
    args = ("--model", "claude-nope", "--in", "1", "--max-out", "1")
    assert cli.json("check", *args, code=1)["error"] == "UnknownModel"
    cli("check", "--model", "claude-sonnet-4-6", "--in", "-1", "--max-out", "1", code=2)
    cli("check", "--model", "claude-sonnet-4-6", "--in", "x", "--max-out", "1", code=2)
    cli("check", "--model", "claude-sonnet-4-6", "--in", "1", code=2)


def test_estimate_reads_a_file_or_stdin_and_agrees_with_the_api(cli: Cli) -> None:
    Path("request.json").write_text(json.dumps(REQUEST))
    with cli.budget() as budget:
        expected = budget.estimate(REQUEST).to_dict()
    assert cli.json("estimate", "request.json") == expected
    assert cli.json("estimate", "-", stdin=json.dumps(REQUEST)) == expected
    assert cli.json("estimate", "request.json", "--provider", "anthropic", "--endpoint", "messages") == expected
    assert f"at most\t${expected['usd_max']}" in cli("estimate", "request.json").stdout


def test_estimate_cap_is_met_exactly(cli: Cli) -> None:
    Path("request.json").write_text(json.dumps(REQUEST))
    most = cli.json("estimate", "request.json")["usd_max"]
    assert cli.json("estimate", "request.json", "--cap", f"${most}")["exceeds"] is False
    below = f"{float(most) - 0.000001:.6f}"
    assert cli.json("estimate", "request.json", "--cap", below, code=3)["exceeds"] is True
    assert "is above" in cli("estimate", "request.json", "--cap", below, code=3).stdout
    assert "is within" in cli("estimate", "request.json", "--cap", "$1").stdout


def test_estimate_of_a_request_without_a_bound_is_above_any_cap(cli: Cli) -> None:
    body = {**REQUEST, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}
    found = cli.json("estimate", "-", "--cap", "$1000", stdin=json.dumps(body), code=3)
    assert not found["closed"]
    assert "no bound" in cli("estimate", "-", stdin=json.dumps(body)).stdout


def test_estimate_of_a_model_without_a_price_is_above_any_cap(cli: Cli) -> None:
    Path("budget.toml").write_text('on_unpriced = "allow"\n')
    body = json.dumps({**REQUEST, "model": "nomodel"})
    found = cli.json("estimate", "-", "--cap", "$1000", stdin=body, code=3)
    assert (found["priced"], found["exceeds"], found["usd_max"]) == (False, True, "0")
    assert cli.json("estimate", "-", stdin=body)["priced"] is False
    lines = cli("estimate", "-", "--cap", "$1000", stdin=body, code=3).stdout.splitlines()
    told = dict(line.split("\t") for line in lines)
    assert (told["model"], told["expected"], told["at most"]) == ("nomodel", "no price", "no price")
    assert told["cap"] == "no price, so above $1000"
    assert cli("check", "--model", "nomodel", "--in", "1", "--max-out", "1").stdout == "admitted: no price\n"


@pytest.mark.parametrize(
    "body", [b"", b"{", b'"a secret"', b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"model": 5}', b'{"messages": []}']
)
def test_estimate_of_something_else_is_an_error_that_shows_nothing_of_it(cli: Cli, body: bytes) -> None:
    shown = cli("estimate", "-", stdin=body, code=2)
    assert shown.stderr.startswith("budget: ")
    assert "secret" not in shown.output
    assert shown.stdout == ""


def test_estimate_of_an_endless_number_is_an_error(cli: Cli) -> None:
    body = b'{"model": "gpt-4o", "messages": [], "max_tokens": ' + b"9" * 5000 + b"}"
    assert "thousands of digits" in cli("estimate", "-", stdin=body, code=2).stderr


def test_estimate_of_a_missing_file_or_a_bad_cap_is_wrong_usage(cli: Cli) -> None:
    cli("estimate", "nowhere.json", code=2)
    cli("estimate", "-", "--cap", "5 dollars", stdin=json.dumps(REQUEST), code=2)


def test_nothing_of_a_prompt_is_printed_or_stored(cli: Cli, tmp_path: Path) -> None:
    shown = cli("estimate", "-", "--json", stdin=json.dumps(REQUEST))
    assert "secret" not in shown.output
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.glob("cli.db*"))


def test_status_fits_80_columns_whatever_the_limit(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("look", "output"):
        monkeypatch.setattr(f"budget.cli.{module}.is_terminal", lambda: True)
    cli("set", "per=user", "100M tokens/7d rolling", "--mode", "shadow")
    with cli.budget() as budget:
        budget.record(usd="1", tokens=12_345_678, user="alexandra.hamilton")
    [_, line] = cli("status").stdout.splitlines()
    assert len(line) <= 80, line
    assert "(shadow)" in line
    assert "87,654,322" in line
    assert "100000000 tokens/7d rolling (shadow)" in cli("status", columns=120).stdout
