"""`budget sinks`: run, status, reset."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from budget.cli import main
from budget.engine import Budget

from .helpers import call

Make = Callable[..., Budget]


@pytest.fixture
def told(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command on the store; return exit code and what it printed."""

    def run(*words: str, **_: Any) -> tuple[int, str, str]:
        code = main.main(["sinks", *words, "--store", sqlite_url], standalone_mode=False)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
def five(sqlite_url: str, make_budget: Make) -> None:
    with make_budget(sqlite_url) as budget:
        for _ in range(5):
            call(budget)


@pytest.mark.usefixtures("five")
def test_once_status_and_reset(told: Callable[..., Any], path: Path) -> None:
    sink = ("--sink", f"jsonl:{path}")
    assert json.loads(told("status", "--json", *sink)[1])["sinks"] == [
        {"sink": "jsonl", "configured": True, "last": 5, "lag": 5, "place": 0, "missed": 0, "delivered_at": None,
         "error": None},
    ]  # fmt: skip
    assert told("run", "--once", *sink)[:2] == (0, "jsonl: has all up to entry 5\n")
    (row,) = json.loads(told("status", "--json")[1])["sinks"]
    assert (row["sink"], row["configured"], row["place"], row["lag"]) == ("jsonl", False, 5, 0)
    assert row["delivered_at"].startswith("20")
    assert told("reset", "jsonl", "--to", "3")[1] == "jsonl: was at 5, goes on after 3 of 5; 2 entries come again\n"
    assert json.loads(told("reset", "jsonl", "--to", "now", "--json")[1]) == {
        "sink": "jsonl", "was": 3, "place": 5, "last": 5,
    }  # fmt: skip
    assert told("reset", "jsonl", "--to", "0")[0] == 0
    assert told("run", "--once", "--json", *sink)[1] == '{\n  "jsonl": 5\n}\n'
    assert len(path.read_text().splitlines()) == 10
    assert "jsonl" in told()[1], "status is the default"


@pytest.mark.usefixtures("five")
def test_what_holds_a_sink_up_is_shown_and_fails_the_command(told: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err = told(
        "run", "--once", "--sink", f"jsonl:{tmp_path}/no/such", "--sink", f"jsonl:{tmp_path}/b?name=b"
    )
    assert code == 1
    assert out == "b: has all up to entry 5\n", "one that fails holds no other up"
    assert "No such file or directory" in err
    rows = {row["sink"]: row for row in json.loads(told("status", "--json")[1])["sinks"]}
    assert rows["jsonl"]["place"] == 0
    assert "No such file or directory" in rows["jsonl"]["error"]
    assert rows["b"]["error"] is None


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize(("words", "code"), [
    (("reset", "jsonl", "--to", "6"), 2), (("reset", "jsonl", "--to", "-1"), 2),
    (("reset", "jsonl", "--to", "soon"), 2), (("reset", "a/b", "--to", "0"), 2), (("run", "--once"), 2),
    (("run", "--once", "--sink", "pigeon:/x"), 2),
])  # fmt: skip
def test_wrong_arguments_change_nothing(told: Callable[..., Any], words: tuple[str, ...], code: int) -> None:
    assert told(*words)[0] == code
    assert json.loads(told("status", "--json")[1])["sinks"] == []


@pytest.mark.usefixtures("five")
def test_pruning_says_which_sinks_miss_something(
    told: Callable[..., Any], path: Path, sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("on-time", "late"):
        told("run", "--once", "--sink", f"jsonl:{path}.{name}?name={name}")
    told("reset", "late", "--to", "2")
    assert main.main(["ledger", "prune", "--before", "2999-01-01", "--store", sqlite_url], standalone_mode=False) == 0
    assert capsys.readouterr().err == (
        "sink late had been told up to entry 2 alone; what was pruned after it, it misses\n"
    )
    told("run", "--once", "--sink", f"jsonl:{path}.late?name=late")
    rows = {row["sink"]: row["missed"] for row in json.loads(told("status", "--json")[1])["sinks"]}
    assert rows == {"on-time": 0, "late": 3}


def test_a_process_of_its_own_runs_until_it_is_told_to_end(sqlite_url: str, path: Path, make_budget: Make) -> None:
    command = [sys.executable, "-m", "budget.cli", "sinks", "run", "--store", sqlite_url, "--sink", f"jsonl:{path}"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        assert child.stderr.readline() == "running: jsonl; interrupt to end\n"
        with make_budget(sqlite_url) as budget:
            for _ in range(3):
                call(budget)
        until = time.monotonic() + 60
        while not path.exists() or len(path.read_text().splitlines()) < 3:
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        child.stderr.close()


def test_other_commands_run_no_sinks(
    sqlite_url: str, path: Path, monkeypatch: pytest.MonkeyPatch, make_budget: Make
) -> None:
    monkeypatch.setenv("BUDGET_SINKS", f"jsonl:{path}")
    with make_budget(sqlite_url, sinks=[]) as budget:
        call(budget)
    assert main.main(["status", "--store", sqlite_url], standalone_mode=False) == 0
    assert not path.exists()
    make_budget(sqlite_url).close()
    assert path.exists()
