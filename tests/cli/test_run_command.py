"""`budget run`: a command as one run, its limit over all of its processes, its exit code, signals, output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from invoke import Cli

SPEND = """
import subprocess, sys
from budget import Budget, BudgetExceeded

with Budget() as b:
    b.reconcile(b.reserve(sys.argv[1]), usd=sys.argv[1])
    try:
        with b.run(agent="inner"):
            b.reconcile(b.reserve(sys.argv[1], team="red"), usd=sys.argv[1])
    except BudgetExceeded as refused:
        print(f"refused {refused.subject}", flush=True)
    if len(sys.argv) > 2:
        subprocess.run([sys.executable, *sys.argv[3:]], check=True)
"""
WAIT = """
import signal, sys, time
got = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    if sys.argv[1] == "handles":
        signal.signal(number, lambda number, frame: got.append(number))
    elif sys.argv[1] == "dies":
        signal.signal(number, signal.SIG_DFL)
print("ready", flush=True)
until = time.monotonic() + 60
while not got and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.2)
print(f"got {got}", flush=True)
sys.exit(40 + len(got))
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def shared(tmp_path: Path, shared_url: str) -> Cli:
    made = Cli(tmp_path)
    made.url = shared_url
    return made


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "agent.py"
        path.write_text(text)
        return str(path)

    return write


def output(done: subprocess.CompletedProcess[bytes]) -> tuple[str, list[str]]:
    return done.stdout.decode(), done.stderr.decode().splitlines()


def test_a_command_is_one_run_over_its_processes(shared: Cli, script: Callable[[str], str]) -> None:
    agent = script(SPEND)
    command = [sys.executable, agent, "0.30", "--", agent, "0.25"]
    done = shared.child("run", "--limit", "$1", "--id", "job-1", "user=alice", "--", *command)
    out, err = output(done)
    assert (done.returncode, out) == (0, "refused run=job-1\n")  # of its child's child: $0.60, then $0.25, then no more
    assert err == ["budget: run job-1", "budget: run job-1 spent $0.85 of $1.00 in 3 calls"]
    with shared.budget() as budget:
        entries = [entry for entry in budget.entries() if entry.kind == "reconciled"]
        assert [entry.scope["user"] for entry in entries] == ["alice"] * 3
        assert [entry.scope["run"] == "job-1" for entry in entries] == [True, False, True]
        assert entries[1].scope.items() >= {"agent": "inner", "team": "red"}.items()
        assert budget.run("$1", id="job-1").refresh().remaining is not None
        assert str(budget.run("$1", id="job-1").refresh().spent) == "0.85"


def test_without_a_limit_it_counts(cli: Cli, script: Callable[[str], str]) -> None:
    first, last = cli("run", "--", sys.executable, script(SPEND), "0.30").stderr.splitlines()
    assert last == f"{first} spent $0.60 in 2 calls"


def test_json_is_one_document(cli: Cli, script: Callable[[str], str]) -> None:
    agent = script(SPEND)
    options = ["--limit", "500k tokens", "--max-calls", "1", "--id", "j"]
    done = cli.child("run", *options, "--json", "--", sys.executable, "-c", "print('words'); raise SystemExit(3)")
    document = json.loads(done.stdout)
    assert document.pop("seconds") > 0
    assert document == {
        "run": "j", "exit_code": 3, "spent": "0", "reserved": "0", "remaining": None, "calls": 0
    }  # fmt: skip
    assert b"words" in done.stderr
    done = cli.child("run", "--limit", "$2", "--json", "--id", "k", "--", sys.executable, agent, "0.30")
    document = json.loads(done.stdout)
    figures = {name: document[name] for name in ("spent", "remaining", "calls", "exit_code")}
    assert figures == {"spent": "0.6", "remaining": "1.4", "calls": 2, "exit_code": 0}


def test_every_guard_reaches_the_child(cli: Cli, script: Callable[[str], str]) -> None:
    agent = script("""
from budget import Budget
from budget.run import current
run = current()
with Budget():
    print(sorted(str(limit).split(" ", 1)[1] for limit in run.limits))
    print(run.guard.rule, run.on_short, 0 < run.remaining_seconds() <= 6000, run.scope["user"], run.disclosure())
""")
    done = cli.child(
        "run", "--limit", "$2", "--cap", "$0.10", "--max-calls", "7", "--deadline", "6000", "--velocity", "$1/minute",
        "--loop", "3 in 10", "--on-short", "clamp", "user=al ice", "--", sys.executable, agent,
    )  # fmt: skip
    limits, others = output(done)[0].splitlines()
    assert limits == "['$0.1/request', '$1/60s rolling', '$2/run', '7 requests/run']"
    assert others.startswith("3 in 10 clamp True al ice Left in this run: $2.00 of $2.00, 7 of 7 calls, ")


def test_runs_inside_runs(cli: Cli, script: Callable[[str], str]) -> None:
    inner = ["-m", "budget.cli", "run", "--id", "inner", "--limit", "$5", "--", sys.executable, script(SPEND), "0.30"]
    done = cli.child("run", "--limit", "$0.50", "--id", "outer", "--", sys.executable, *inner)
    out, err = output(done)
    assert (done.returncode, out) == (0, "refused run=outer\n")
    assert err[-2:] == [
        "budget: run inner spent $0.30 of $5.00 in 1 call", "budget: run outer spent $0.30 of $0.50 in 1 call"
    ]  # fmt: skip


def test_it_is_stopped_from_elsewhere(cli: Cli, script: Callable[[str], str], tmp_path: Path) -> None:
    agent = script("""
import sys, time
from budget import Budget, Frozen
with Budget() as b:
    until = time.monotonic() + 60
    try:
        while time.monotonic() < until:
            b.reconcile(b.reserve("$0.01"), usd="0.01")
            print("call", flush=True)
            time.sleep(0.02)
    except Frozen as frozen:
        sys.exit(f"stopped: {frozen}")
""")
    with started(cli, ["--id", "job-9", "--", sys.executable, agent]) as child:
        assert line(child) == "call"
        cli("freeze", "run=job-9")
        _, err = child.communicate(timeout=60)
        assert child.returncode == 1
        assert "stopped: run=job-9: frozen" in err


# Exit codes and signals.


class started:
    """`budget run` as a process of its own, away from any terminal."""

    def __init__(self, cli: Cli, words: Sequence[str], **options: Any):
        command = [sys.executable, "-m", "budget.cli", "run", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "BUDGET_STORE": cli.url}
        self.child = subprocess.Popen(command, env=environment, text=True, start_new_session=True, **pipes)

    def __enter__(self) -> subprocess.Popen[str]:
        return self.child

    def __exit__(self, *exc: object) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait(60)


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.parametrize("code", [0, 1, 3, 77, 255])
def test_the_exit_code_is_the_commands(cli: Cli, code: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cli("run", "--", "sh", "-c", f"exit {code}", code=code)
    assert signal.getsignal(signal.SIGTERM) == before


def test_128_and_the_signal(cli: Cli) -> None:
    cli("run", "--", "sh", "-c", "kill -9 $$", code=128 + 9)


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_reaches_the_command(cli: Cli, script: Callable[[str], str], number: str) -> None:
    with started(cli, ["--", sys.executable, script(WAIT), "dies"]) as child:
        assert line(child) == "ready"
        child.send_signal(getattr(signal, number))
        _, err = child.communicate(timeout=60)
        assert child.returncode == 128 + getattr(signal, number)
        assert "spent $0.00 in 0 calls" in err  # it said so, and did not die itself


def test_a_command_that_handles_a_signal_ends_as_it_likes(cli: Cli, script: Callable[[str], str]) -> None:
    with started(cli, ["--", sys.executable, script(WAIT), "handles"]) as child:
        assert line(child) == "ready"
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=60)
        assert (child.returncode, out) == (41, f"got [{int(signal.SIGTERM)}]\n")


def test_an_ignored_signal_stays_ignored(cli: Cli, script: Callable[[str], str]) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with started(cli, ["--", sys.executable, script(WAIT), "handles"], preexec_fn=ignore) as child:
        assert line(child) == "ready"
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate(timeout=60)
        assert (child.returncode, out) == (41, f"got [{int(signal.SIGTERM)}]\n")


def test_a_terminals_ctrl_c_comes_once(cli: Cli, script: Callable[[str], str]) -> None:
    import fcntl
    import pty
    import termios

    master, slave = pty.openpty()

    def control() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": slave, "stdout": slave, "stderr": slave, "preexec_fn": control}
    with started(cli, ["--", sys.executable, script(WAIT), "handles"], **streams) as child:
        os.close(slave)
        lines = read_lines(master)
        assert next(text for text in lines if text == "ready")
        os.write(master, b"\x03")
        got = next(text for text in lines if text.startswith("got"))
        assert (got, child.wait(60)) == (f"got [{int(signal.SIGINT)}]", 41)
    os.close(master)


def read_lines(master: int) -> Iterator[str]:
    text = b""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            text += os.read(master, 4096)
        except OSError:  # the other side is closed
            return
        *whole, text = text.split(b"\n")
        yield from (each.decode().strip().removeprefix("^C") for each in whole)


def test_a_command_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    assert "no-such-command: No such file" in cli("run", "--", "no-such-command", code=127).stderr
    plain = tmp_path / "plain.txt"
    plain.write_text("words")
    assert "Permission denied" in cli("run", "--", str(plain), code=126).stderr
    assert cli.json("run", "--id", "j", code=2)["error"] == "UsageError"


# The command line.


def test_wrong_words(cli: Cli) -> None:
    for words, said in [
        (["run"], "after '--'"), (["run", "user=alice", "--"], "after '--'"), (["run", "sh", "--", "true"], "'sh'"),
        (["run", "per=user", "--", "true"], "per=user"), (["run", "--limit", "$1/day", "--", "true"], "limit"),
        (["run", "--loop", "1", "--", "true"], "loop"), (["run", "--velocity", "x", "--", "true"], "velocity"),
        (["run", "--max-calls", "0", "--", "true"], "max_calls"),
        (["run", "--deadline", "-1", "--", "true"], "deadline"),
        (["run", "run=x", "--", "true"], "id="), (["run", "--nosuch", "--", "true"], "nosuch"),
        (["run", "--store", "memory://", "--", "true"], "private to one process"),
    ]:  # fmt: skip
        assert said in cli(*words, code=2).stderr, words


def test_the_commands_own_words_are_left_alone(cli: Cli) -> None:
    show = "import sys; print(sys.argv[1:])"
    words = ["--json", "--", "--limit", "user=x", "-h", "--store"]
    done = cli.child("run", "--", sys.executable, "-c", show, *words)
    assert done.stdout.decode() == f"{words}\n"
    done = cli.child("run", "--limit", "1", "--", "true", "--json")
    assert (done.returncode, done.stdout) == (2, b"")  # the `--json` is not this command's


def test_a_store_that_is_away_changes_nothing_about_the_command(cli: Cli) -> None:
    words = ["run", "--store", "sqlite:////nowhere/at/all.db", "--", "sh", "-c", "exit 5"]
    assert "cannot be read" in cli(*words, code=5).stderr


def test_the_commands_store_and_account_are_its_own(cli: Cli, script: Callable[[str], str], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/other.db"
    words = ["--store", store, "--account", "team-a", "--limit", "$9", "--", sys.executable, script(SPEND), "0.30"]
    assert cli("run", *words).stderr.endswith("spent $0.60 of $9.00 in 2 calls\n")
    assert cli.json("ledger", "--store", store) == []
    assert len(cli.json("ledger", "--store", store, "--account", "team-a")) == 4


def test_a_relative_store_stays_where_it_is(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command changes its folder: it spends from the store of the folder where `budget run` was called."""
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "a folder"
    elsewhere.mkdir()
    cli.url = "sqlite:///here.db"
    spend = "from budget import Budget\nwith Budget() as b: b.record(usd='0.30'); print(b.settings.records)"
    script = f"import os\nos.chdir({str(elsewhere)!r})\n{spend}"
    command = ["run", "--limit", "$1", "--", sys.executable, "-c", script]
    out, err = output(cli.child(*command, env={"BUDGET_RECORDS": "sqlite:///records.db"}))
    assert err[-1].endswith("spent $0.30 of $1.00 in 1 call")
    assert out == f"sqlite:///{tmp_path}/records.db\n"
    assert list(elsewhere.iterdir()) == []
    assert output(cli.child(*command))[0] == "None\n"


def test_the_example_of_the_help(cli: Cli, script: Callable[[str], str]) -> None:
    shown = cli("run", "--help").stdout
    example = next(text for text in shown.splitlines() if "-- python agent.py" in text).split("--", 3)
    assert "budget run" in example[0]
    Path("agent.py").write_text("print('words')")
    done = cli.child("run", "--limit", "$2", "--max-calls", "50", "user=alice", "--", sys.executable, "agent.py")
    assert (done.returncode, done.stdout) == (0, b"words\n")
