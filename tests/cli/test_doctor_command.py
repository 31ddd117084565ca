"""doctor: what keeps every process from starting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from invoke import Cli

from budget import Budget
from budget.errors import ConfigError

SECRET = "https://hooks.slack.com/services/T0/B0/SECRET"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    made = Cli(tmp_path)
    made("set", "per=user", "$5/day")
    return made


def found(cli: Cli, code: int = 0) -> dict[str, Any]:
    return {row["check"]: (row["state"], row["detail"]) for row in cli.json("doctor", code=code)["checks"]}


@pytest.mark.parametrize(
    ("lines", "check", "says"),
    [
        ('sinks = ["nope:"]', "sinks", "'nope' is not a kind of sink"),
        ("sinks = 3", "sinks", "a list is needed"),
        ('sinks = ["jsonl:/x", "jsonl:/y"]', "sinks", "two have the name"),
        ('sinks = ["webhook+https://x/y?secret_env=NOT_THERE"]', "sinks", "sinks: the environment variable NOT_THERE"),
        ('alerts = ["what"]', "alerts", "'what' is no rule"),
        ('alerts = ["default"]\nalert_to = ["slack:NOT_THERE"]', "alerts", "alert_to: the environment variable"),
        (f'alerts = ["default"]\nalert_to = ["slack:{SECRET}"]', "alerts", "alert_to: no environment variable is"),
    ],
)  # fmt: skip
def test_sinks_and_channels_that_cannot_be_made(cli: Cli, lines: str, check: str, says: str) -> None:
    Path("budget.toml").write_text(lines)
    state, detail = found(cli, code=1)[check]
    assert state == "FAULT"
    assert says in detail
    assert "SECRET" not in detail
    with pytest.raises((ConfigError, TypeError)) as failed:
        Budget(cli.url)
    assert str(failed.value) in detail


def test_sinks_of_a_server_need_a_records_store(cli: Cli) -> None:
    """Nobody asks the server: what is missing is missing at once."""
    Path("budget.toml").write_text('sinks = ["jsonl:calls.jsonl"]')
    store = "redis://127.0.0.1:1/0"
    rows = {row["check"]: row for row in cli.json("doctor", "--store", store, code=1)["checks"]}
    assert "give records=" in rows["sinks"]["detail"]
    with pytest.raises(ConfigError, match="give records="):
        Budget(store)


def test_sinks_and_channels_that_can_be_made_are_not_run(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not found(cli).keys() & {"sinks", "alerts"}
    calls = tmp_path / "calls.jsonl"
    Path("budget.toml").write_text(
        f'sinks = ["jsonl:{calls}"]\nalerts = ["unpriced"]\nalert_to = ["log", "slack:SLACK_WEBHOOK_URL"]\n'
    )
    monkeypatch.setenv("SLACK_WEBHOOK_URL", SECRET)
    seen = found(cli)
    assert (seen["sinks"], seen["alerts"]) == (("ok", "can be made: 1"), ("ok", "rules: 1, told to log, slack"))
    assert not calls.exists()
    assert not list(tmp_path.glob("*-alerts*")) + list(tmp_path.glob("*-sinks*"))
