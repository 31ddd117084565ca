"""Real processes: one warning of what eight do at once, and none lost when one is killed before it is told."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from budget import Budget
from budget.alerts import Alert, Alerts
from budget.sinks.base import SinkFailed
from budget.sinks.runner import Runner

HERE = Path(__file__).parent
PATIENCE = 60.0


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def test_eight_processes_cross_a_threshold_at_once_and_it_is_told_once(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'budget.db'}"
    given = [sys.executable, str(HERE / "crossing.py"), store, str(tmp_path)]
    processes = [subprocess.Popen(given) for _ in range(8)]
    try:
        _until(lambda: len(list(tmp_path.glob("ready-*"))) == 8)
        (tmp_path / "go").touch()
        _until(lambda: len(list(tmp_path.glob("done-*"))) == 8)
        _until((tmp_path / "told").exists)
        (tmp_path / "end").touch()
        assert [process.wait(PATIENCE) for process in processes] == [0] * 8
    finally:
        for process in processes:
            process.kill()
            process.wait()
    told = (tmp_path / "told").read_text().splitlines()
    assert len(told) == 1
    assert "$1/day (everybody): 50 % reached" in told[0]
    with Budget(store, limits=["$1/day"]) as budget:
        assert len(Alerts(budget.engine, ["limit at 50%"], []).history()) == 1
        assert sum(entry.amounts[0] for entry in budget.entries()) == 800_000_000


DECIDES = """
import os, signal, sys
from budget import Budget
from budget.alerts import Alert, Alerts
from budget.sinks.runner import Runner

class Dying:
    name = "hook"
    def send(self, alert):
        os.kill(os.getpid(), signal.SIGKILL)

with Budget(sys.argv[1], limits=["$1/day"]) as budget:
    alerts = Alerts(budget.engine, ["limit at 50%"], [Dying()])
    budget.record(usd="0.6")
    Runner(budget.engine, [alerts]).once(alerts)
    signal.pause()
"""


class Hook:
    """A channel that takes a warning at the second try."""

    name = "hook"

    def __init__(self) -> None:
        self.told: list[Alert] = []
        self.tries = 0

    def send(self, alert: Alert) -> None:
        self.tries += 1
        if self.tries == 1:
            raise SinkFailed("not now")
        self.told.append(alert)


def test_what_was_decided_and_not_told_is_told_once_after_a_kill(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'budget.db'}"
    died = subprocess.run([sys.executable, "-c", DECIDES, store], timeout=PATIENCE, check=False)
    assert died.returncode == -signal.SIGKILL
    with Budget(store, limits=["$1/day"]) as budget:
        hook = Hook()
        alerts = Alerts(budget.engine, ["limit at 50%"], [hook])
        (waiting,) = alerts.history()
        assert waiting[1][0].done_us is None
        for _ in range(4):  # two tries and more: what was taken is not told again
            Runner(budget.engine, [alerts]).once(alerts)
            alerts.tick(budget.engine.verbs.now())
            alerts.close()
            _now_due(tmp_path)
        assert [alert.id for alert in hook.told] == [waiting[0].id]
        (after,) = alerts.history()
        assert (after[1][0].tries, after[1][0].error) == (2, None)


def _now_due(folder: Path) -> None:
    """Let the time pass that a channel waits after a failure."""
    db = sqlite3.connect(folder / "budget.db-alerts")
    db.execute("update deliveries set due = 0")
    db.commit()
    db.close()


def test_a_new_process_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    store, told = f"sqlite:///{tmp_path / 'budget.db'}", list[Alert]()

    def day(*costs: str) -> None:
        with Budget(store, limits=["per=user $1/day"]) as budget:
            alerts = Alerts(budget.engine, ["session > $0.50 in 1h"], [told.append])
            for usd in costs:
                budget.record(usd=usd, session="s")
            Runner(budget.engine, [alerts]).once(alerts)

    day("0.2")
    with Budget(store) as budget:  # nobody looks meanwhile
        budget.record(usd="0.2", session="s")
    assert told == []
    day("0.2")
    day()
    day("0.2")
    assert [alert.text for alert in told] == ["session=s: $0.60 within 1h"]
