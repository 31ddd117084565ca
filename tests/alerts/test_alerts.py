"""Alerts of a budget at work: on each store, however configured, over changed rules and failures; the command line."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cli.invoke import Cli

from alerts.ledgers import NOON, World
from budget import Budget
from budget.alerts import Alert, Alerts
from budget.errors import ArgumentTypeError, BudgetError, ConfigError, StoreUnavailable, UnknownModel
from budget.records.changes import changes_of
from budget.sinks.base import Batch
from budget.sinks.runner import Runner


def _until(done: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def test_a_budget_warns_on_every_store(store_url: str, tmp_path: Path) -> None:
    told: list[Alert] = []
    drained = {"records": f"sqlite:///{tmp_path / 'records.db'}"} if store_url.startswith("redis") else {}
    rules = ["limit at 50% 100%", "session > $0.50 in 10m", "unpriced"]
    with Budget(store_url, limits=["per=user $1/day"], alerts=rules, alert_to=[told.append], **drained) as budget:
        budget.record(usd="0.2", user="alice", session="s1")
        held = budget.reserve("$0.5", user="alice", session="s1")
        budget.reconcile(held, usd="0.4")
        with pytest.raises(BudgetError):
            budget.reserve("$0.9", user="alice")
        _until(lambda: len(told) >= 2)
    assert {alert.text.split(",")[0] for alert in told} <= {
        "session=s1: $0.60 within 10m", "$1/day (user=alice): 50 % reached", "$1/day (user=alice): calls are refused",
    }  # fmt: skip


def test_a_server_that_is_not_drained_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="records="):
        Budget("redis://localhost:1/0", alerts=["default"])


def test_alerts_come_from_the_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Path("budget.toml").write_text('alert_to = ["log"]\n[[alerts]]\nrule = "session > $1 in 10m"\n')
    with caplog.at_level(logging.WARNING, "budget.alerts"), Budget("memory://") as budget:
        budget.record(usd="2", session="s1")
        _until(lambda: caplog.records)
    assert caplog.records[0].getMessage() == "session=s1: $2.00 within 10m"
    monkeypatch.setenv("BUDGET_ALERTS", "default; user > $3 in 1h")
    with Budget("memory://") as budget:
        assert budget.settings.alerts == ("default", "user > $3 in 1h")
    Path("budget.toml").write_text('[[alerts]]\nrules = "session > $1 in 10m"\n')
    monkeypatch.delenv("BUDGET_ALERTS")
    with pytest.raises(ConfigError, match="alerts"):
        Budget("memory://")


@pytest.mark.parametrize(
    ("options", "error"),
    [({"alerts": ["what"]}, ConfigError), ({"alerts": ["default"], "alert_to": ["pager:me"]}, ConfigError),
     ({"alerts": 3}, ArgumentTypeError), ({"alerts": ["default"], "alert_to": [3]}, ArgumentTypeError)],
)  # fmt: skip
def test_what_cannot_be_used_is_said_at_once(options: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="alert"):
        Budget("memory://", **options)


def test_a_rule_that_is_new_knows_what_was(tmp_path: Path) -> None:
    world = World("unpriced", at=NOON - timedelta(days=7))
    for _ in range(14):
        for user in ("alice", "bob", "carol", "dave"):
            world.spend("0.05", user=user)
        world.clock.move("12h")
    assert world.look() == []
    assert world.alerts is not None
    file = world.alerts._file
    told: list[Alert] = []
    again = Alerts(world.budget.engine, ["unpriced", "user hour > 5x usual over $0.02"], [told.append])
    again._file = again._teller._file = file  # a memory store's alerts live as long as their object
    assert again.resume("default", 0) == world.place
    world.alerts, world.told = again, told
    world.spend("0.9", user="alice")
    assert len(world.look()) == 1


def test_the_same_page_twice_counts_once() -> None:
    world = World("session > $5 in 10m")
    world.spend("3", session="s1")
    entries = list(world.budget.entries())
    batch = Batch("default", 1, 1, tuple((e, c) for e, c in changes_of(entries) if c is not None))
    assert world.alerts is not None
    world.alerts.write(batch)
    world.alerts.write(batch)
    world.place = 1
    assert world.look() == []


def test_a_failure_in_a_rule_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("session > $5 in 10m", "user > $5 in 10m")
    assert world.alerts is not None
    world.spend("3", session="s1", user="alice")
    with monkeypatch.context() as patch:
        patch.setattr(world.alerts.rules[1], "saw", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            world.look()
    assert world.look() == []  # the first rule has not counted it twice
    world.spend("3", session="s1", user="alice")
    assert sorted(world.look()) == ["session=s1: $6.00 within 10m", "user=alice: $6.00 within 10m"]


def test_a_store_that_cannot_be_asked_stops_nothing_but_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("limit at 50%", limits=("$1/day",))
    world.spend("0.6")

    def down(command: object) -> None:
        raise StoreUnavailable("down")

    with monkeypatch.context() as patch:
        patch.setattr(world.budget.engine, "do", down)
        with pytest.raises(StoreUnavailable):
            world.look()
    assert len(world.look()) == 1


def test_the_file_is_private_and_old_warnings_leave_it(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'budget.db'}"
    with Budget(store) as budget:
        alerts = Alerts(budget.engine, ["session > $5 in 10m"], [])
        budget.record(usd="6", session="s1")
        Runner(budget.engine, [alerts]).once(alerts)
        assert len(alerts.history()) == 1
        assert os.stat(tmp_path / "budget.db-alerts").st_mode & 0o777 == 0o600
        alerts.tick(budget.engine.verbs.now() + 91 * 86_400_000_000)
        assert alerts.history() == []


def test_what_waits_for_the_store_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[Alert] = []
    with Budget(f"sqlite:///{tmp_path / 'budget.db'}") as budget:
        alerts = Alerts(budget.engine, ["store trouble"], [told.append])
        now = budget.engine.verbs.now()
        for seconds, count in ((59, 0), (90, 1), (120, 1)):
            with monkeypatch.context() as patch:
                patch.setattr("budget.alerts.alerts.waiting", lambda folder: (3, now))
                alerts.tick(now + seconds * 1_000_000)
            alerts.close()
            assert len(told) == count
    assert told[0].text == "3 ends of calls wait on disk for the store, the first for 90 seconds"


def test_a_refused_model_is_told_before_the_ledger_was_read_and_history_stays_history(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'budget.db'}"
    with Budget(store) as budget:
        budget.record(usd="6", session="s1")
    with Budget(store) as budget:
        alerts = Alerts(budget.engine, ["session > $5 in 10m", "unpriced"], [])
        with pytest.raises(UnknownModel):
            budget.reserve(model="no-such-1", messages=[{"role": "user", "content": "hi"}], max_tokens=9)
        alerts.close()
        Runner(budget.engine, [alerts]).once(alerts)
        assert [alert.subject for alert, _ in alerts.history()] == ["model=no-such-1"]


# The command line.


def test_the_command_line(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert "default" in cli("alerts", "list").stderr
    Path("budget.toml").write_text('[[alerts]]\nrule = "session > $5 in 10m"\n')
    assert cli.json("alerts", "list") == {"rules": ["session > $5 in 10m"], "channels": ["log"]}
    assert cli.json("alerts", "test") == {"channels": [{"channel": "log", "delivered": True, "error": None}]}
    assert cli.lines("alerts", "history") == []
    with Budget(cli.url, sinks=(), alerts=()) as budget:
        budget.record(usd="0.1")
    cli("sinks", "run", "--once")
    with Budget(cli.url, sinks=(), alerts=()) as budget:
        budget.record(usd="6", session="s\u202e1")
    cli("sinks", "run", "--once")
    ((_, text, told),) = cli.lines("alerts", "history")
    assert text == r"session=s\u202e1: $6.00 within 10m"
    assert told == "log yes"
    (row,) = cli.json("alerts", "history", "--last", "1")["alerts"]
    assert row["figures"] == {"spent": "6", "within": "10m"}
    assert row["told"][0]["tries"] == 1


def test_who_is_erased_is_in_no_warning(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    Path("budget.toml").write_text('[[alerts]]\nrule = "user > $5 in 10m"\n[[alerts]]\nrule = "user > $6 in 10m"\n')
    cli("sinks", "run", "--once")
    with Budget(cli.url, sinks=(), alerts=()) as budget:
        for user in ("mallory", "mallory2"):
            budget.record(usd="7", user=user)
    cli("sinks", "run", "--once")
    assert len(cli.lines("alerts", "history")) == 4
    cli("erase", "user=mallory")
    left = cli.lines("alerts", "history")
    assert [text for _, text, _ in left] == ["user=mallory2: $7.00 within 10m"] * 2
    assert b"mallory:" not in (tmp_path / "cli.db-alerts").read_bytes()
    assert b"user=mallory\x00" not in (tmp_path / "cli.db-alerts").read_bytes()


def test_a_user_called_none_is_erased_too(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    Path("budget.toml").write_text('alerts = ["limit at 50%"]\n[[limits]]\nlimit = "$1/day"\nper = "user"\n')
    cli("sinks", "run", "--once")
    with Budget(cli.url, sinks=(), alerts=()) as budget:
        budget.record(usd="0.7", user="(none)")
    cli("sinks", "run", "--once")
    [(_, text, _)] = cli.lines("alerts", "history")
    assert 'user="(none)"' in text
    cli("erase", "user=(none)")
    assert cli.lines("alerts", "history") == []


def test_a_channel_that_does_not_take_the_sample_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli = Cli(tmp_path)
    monkeypatch.setenv("SLACK_URL", "http://127.0.0.1:9/services")
    found = cli("alerts", "test", "--channel", "slack:SLACK_URL", "--channel", "log", "--json", code=1)
    first, second = json.loads(found.stdout)["channels"]
    assert (first["channel"], first["delivered"], second["delivered"]) == ("slack", False, True)
    assert "does not answer" in first["error"]
    assert "pager" in cli("alerts", "test", "--channel", "pager:me", code=2).stderr
