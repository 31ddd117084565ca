"""audit."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from bill.month import DAYS, FIRST, make_month
from bill.vendors import KEYS, Vendors
from invoke import Cli

from budget.records import CallFile

PERIOD = ("--since", FIRST.isoformat(), "--until", (FIRST + timedelta(days=DAYS - 1)).isoformat())
MODELS = ("claude-sonnet-4-6", "claude-haiku-4-5-20251001")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.delenv("OPENAI_ADMIN_KEY", raising=False)
    monkeypatch.setenv("ANTHROPIC_ADMIN_KEY", KEYS["anthropic"])
    return Cli(tmp_path)


@pytest.fixture
def vendors(cli: Cli) -> Iterator[Vendors]:
    """A provider, and a ledger that has the same month."""
    month = make_month(5, 2, MODELS)
    with Vendors([call.theirs for call in month if call.theirs]) as server, cli.budget() as budget:
        file = CallFile(budget.engine.books)
        file.put(call.ours for call in month if call.ours)
        file.close()
        yield server


def audit(vendors: Vendors) -> tuple[str, ...]:
    return "audit", *PERIOD, "--base-url", vendors.url


def test_what_matches_and_what_does_not(cli: Cli, vendors: Vendors) -> None:
    assert cli.json(*audit(vendors))["matches"] is True
    assert "62 matched" in cli(*audit(vendors), "--provider", "anthropic").stderr
    call = next(c for c in vendors.calls if c.model == MODELS[1] and not c.tier)
    vendors.calls.append(replace(call, key="key_x"))
    found = cli.json(*audit(vendors), code=1)
    [row] = found["rows"]
    assert (found["matches"], found["statuses"]["extra"], found["statuses"]["matched"]) == (False, 1, 62)
    assert (row["model"], row["key"], row["status"], row["reasons"]) == (
        "claude-haiku-4-5", "key_x", "extra", ["other_callers"],
    )  # fmt: skip
    assert "no call in the ledger has this key" in found["reasons"]["other_callers"]
    [line] = cli.lines(*audit(vendors), code=1)[:1]
    assert line[1:5] == ["claude-haiku-4-5", "key_x", "extra", "other_callers"]
    rows = list(csv.DictReader(io.StringIO(cli(*audit(vendors), "--csv", code=1).stdout)))
    assert [(r["key"], r["status"], int(r["billed_tokens_output"])) for r in rows] == [
        ("key_x", "extra", call.tokens["output"])
    ]
    assert len(cli.json(*audit(vendors), "--all", code=1)["rows"]) == 63


def test_the_bill_is_kept_apart_from_the_ledger(cli: Cli, vendors: Vendors, tmp_path: Path) -> None:
    with cli.budget() as budget:
        before = budget.engine.books.store.entries("default", 0)
    cli(*audit(vendors))
    assert (tmp_path / "cli.db-bill").stat().st_mode & 0o777 == 0o600
    with cli.budget() as budget:
        assert budget.engine.books.store.entries("default", 0) == before
    asked = len(vendors.asked)
    assert cli.json("audit", *PERIOD, "--no-pull", "--all") == cli.json(*audit(vendors), "--all")
    assert len(vendors.asked) == 2 * asked  # by the second of these two
    cli(*audit(vendors))
    assert KEYS["anthropic"].encode() not in (tmp_path / "cli.db-bill").read_bytes()


def test_a_day_that_is_not_over_is_open(cli: Cli, vendors: Vendors) -> None:
    with cli.budget() as budget:
        budget.record({"input_tokens": 10, "output_tokens": 1}, model="claude-sonnet-4-6", user="alice", key="key_1")
    found = cli.json("audit", "--since", "0d", "--base-url", vendors.url)
    assert [(row["status"], row["reasons"], row["day"]) for row in found["rows"]] == [
        ("open", ["not_billed"], datetime.now(UTC).date().isoformat())
    ]


def test_files_instead_of_the_provider(cli: Cli, vendors: Vendors, tmp_path: Path) -> None:
    asked = len(vendors.asked)
    path = tmp_path / "usage.csv"
    path.write_text("usage_date_utc,model_version,api_key,usage_input_tokens_no_cache,usage_output_tokens\n"
                    f"{FIRST.isoformat()},claude-opus-4-6,app,100,5\n")  # fmt: skip
    result = cli("audit", "--provider", "anthropic", "--file", str(path), code=1)  # the day of the file
    assert "claude-opus-4-6\tapp\textra\tother_callers" in result.stdout
    assert "1 days compared" in result.stderr
    assert "1 days compared" in cli("audit", "--since", FIRST.isoformat(), "--file", str(path), code=1).stderr
    assert "1 days are not in a report of costs" in result.stderr
    assert len(vendors.asked) == asked


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "soon"], "--since: 'soon' is no day"), (["--provider", "acme"], "--provider: 'acme'"),
        (["--json", "--csv"], "choose one"), (["--file", "x.csv", "--no-pull"], "--file: takes neither"),
        (["--since", "2026-10-02", "--until", "2026-10-01", "--no-pull"], "--until: is before --since"),
        (["--provider", "openai"], "OPENAI_ADMIN_KEY: set it"), (["--base-url", "http://example.com"], "base_url"),
        (["--provider", "openai", "--provider", "anthropic", "--base-url", "https://x"], "is of one provider"),
        (["--file", "gone.csv"], "gone.csv cannot be read"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments: list[str], message: str, cli: Cli) -> None:
    assert message in cli("audit", *arguments, code=2).stderr


def test_without_a_key_it_says_what_it_needs(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_ADMIN_KEY")
    assert "set OPENAI_ADMIN_KEY or ANTHROPIC_ADMIN_KEY" in cli("audit", code=2).stderr


def test_a_provider_out_of_reach_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("budget.bill.fetch.TRIES", 2)
    with Vendors() as gone:
        pass
    assert "cannot be reached" in cli("audit", "--base-url", gone.url, code=1).stderr


def test_a_terminal_of_80_columns(cli: Cli, vendors: Vendors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.cli.output.is_terminal", lambda: True)
    model = "claude-opus-4-6-with-quite-a-long-name-20260101"
    vendors.calls.append(replace(vendors.calls[0], model=model, key="key_0123456789abcdef", tier=None))
    lines = cli(*audit(vendors), code=1).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[:2]), lines
    assert "other_callers" in lines[1]
