"""`budget watch`: every event once, on a pipe and on a terminal, and a quiet end."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Cli
from rich.cells import cell_len
from rich.console import Console

from budget import Budget, BudgetExceeded, Limit
from budget.cli.feed import Event, Feed
from budget.cli.screen import Now, draw
from budget.commands import Bucket
from budget.ledger import make_entry
from budget.pools import make_pool
from budget.subject import Subject

USAGE = {"input_tokens": 1000, "output_tokens": 100}
HOSTILE = "eve\x1b]0;title\x07\u202e\n[red]"


@pytest.mark.parametrize("name", ["gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"])
def test_a_model_is_watched_under_any_of_its_names(cli: Cli, name: str) -> None:
    with Budget(cli.url) as budget, watched(cli, f"model={name}") as child:
        assert child.stdout is not None
        child.stdout.readline()
        held = budget.reserve(model=name, messages=[{"role": "user", "content": "x"}], max_tokens=9, user="alice")
        budget.reconcile(held, usd="0.25")
        assert "\talice\t" in child.stdout.readline()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def start(cli: Cli, *args: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "budget.cli", "watch", *args]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    environment = {**os.environ, "BUDGET_STORE": cli.url, "TERM": "xterm", "NO_COLOR": "1"}
    return subprocess.Popen(command, text=True, env=environment, **streams)  # type: ignore[call-overload, no-any-return]


@contextlib.contextmanager
def watched(cli: Cli, *args: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    child = start(cli, *args, **options)
    guard = threading.Timer(100, child.kill)  # a test that waits for a line ends, too
    guard.start()
    try:
        yield child
    finally:
        guard.cancel()
        child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def refuse(budget: Budget, amount: str, **scope: str) -> None:
    with pytest.raises(BudgetExceeded):
        budget.reserve(amount, **scope)


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_gets_a_line_per_event_until_interrupted(cli: Cli, ends: signal.Signals) -> None:
    cli("set", "per=user", "$5/day")
    with watched(cli) as child, cli.budget() as budget:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "time\tevent\tuser\tagent\tmodel\tusd\toutcome\n"
        budget.record(USAGE, model="claude-sonnet-4-6", user="alice", agent="a")
        refuse(budget, "$6", user="bob")
        budget.freeze(user="bob", reason="odd")
        refuse(budget, "$1", user="bob")
        lines = [child.stdout.readline().rstrip("\n").split("\t") for _ in range(4)]
        child.send_signal(ends)
        assert child.wait() == 0
        assert (child.stdout.read(), child.stderr.read()) == ("", "")
    assert [line[1:] for line in lines] == [
        ["call", "alice", "a", "claude-sonnet-4-6", "$0.0045", "ok"],
        ["refused", "bob", "-", "-", "$0.00", "per=user $5/day"],
        ["policy", "-", "-", "-", "$0.00", lines[2][6]],
        ["refused", "bob", "-", "-", "$0.00", "frozen: user=bob"],
    ]
    assert lines[2][6].startswith("frozen user=bob by ")
    assert lines[2][6].endswith(": odd")


def test_json_lines_of_one_user(cli: Cli) -> None:
    with watched(cli, "user=alice", "--json") as child, cli.budget() as budget:
        assert child.stdout is not None
        told = threading.Event()

        def spend() -> None:
            while not told.wait(0.2):
                budget.record(usd="2", user="bob")
                budget.record(usd="0.25", user="alice", team="red")

        writer = threading.Thread(target=spend)
        writer.start()
        found = [json.loads(child.stdout.readline()) for _ in range(3)]
        told.set()
        writer.join()
    assert {(event["event"], event["user"], event["usd"]) for event in found} == {("call", "alice", "0.25")}
    assert found[0]["scope"] == {"user": "alice", "team": "red"}
    assert len({event["seq"] for event in found}) == 3


def test_it_ends_by_itself_and_when_nobody_reads(cli: Cli) -> None:
    assert cli("watch", "--for", "1s").stdout.startswith("time\t")
    assert cli("watch", "--for", "soon", code=2).stdout == ""
    assert cli("watch", "$5/day", code=2).stdout == ""
    with watched(cli) as child, cli.budget() as budget:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.close()
        budget.record(usd="1")
        assert child.wait() == 0
        assert child.stderr is not None
        assert child.stderr.read() == ""


def test_a_store_that_is_not_there_is_code_4(cli: Cli) -> None:
    cli.url = "redis://127.0.0.1:9/0"
    cli("watch", "--for", "1s", code=4)


def test_a_terminal_is_as_it_was_afterwards(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        budget.record(usd="4", user="alice")
        held = budget.reserve("$0.50", user="alice")
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        before = termios.tcgetattr(theirs)
        with watched(cli, stdout=theirs, stderr=theirs) as child:
            shown = b""
            while "4.50" not in shown.decode(errors="replace"):  # the last figure of this test, written below
                shown += os.read(ours, 65536)
                if b"$0.50 reserved" in shown and held is not None:
                    budget.reconcile(held, usd="0.5")
                    held = None
            child.send_signal(signal.SIGINT)
            assert child.wait() == 0
            os.set_blocking(ours, False)
            with contextlib.suppress(BlockingIOError):
                while part := os.read(ours, 65536):
                    shown += part
        assert termios.tcgetattr(theirs) == before
        os.close(ours)
        os.close(theirs)
    assert shown.startswith(b"\x1b[?1049h")
    assert shown.rindex(b"\x1b[?1049l") > shown.rindex(b"alice")
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    assert b"Traceback" not in shown


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_a_feed_tells_every_event_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/feed.db"}
    url = urls.get(kind) or request.getfixturevalue("redis_url")
    with Budget(url, account=f"feed-{tmp_path.name[-20:]}"[:60], limits=["$5/day"]) as budget:
        budget.record(usd="1")
        feed = Feed(budget.engine.books, {}, budget.engine.verbs.now() + 60_000_000)
        assert feed.read() == []
        told = []
        for spent in range(3):
            refuse(budget, "$6")
            told += feed.read()
            refuse(budget, "$7")
            refuse(budget, "$8")
            told += feed.read() + feed.read()
            budget.record(usd=f"0.{spent + 1}")
            refuse(budget, "$9")
            told += feed.read()
        assert [event.what for event in told] == ["refused", "refused", "refused", "call", "refused"] * 3
        assert feed.spent(budget.engine.verbs.now(), 60) == 600_000_000
        assert feed.spent(budget.engine.verbs.now() + 61_000_000, 60) == 0
        assert feed.spent(budget.engine.verbs.now(), 3600) == 600_000_000


def test_what_calls_came_to_is_told(tmp_path: Path) -> None:
    with Budget("memory://", limits=[Limit("$1/day", mode="shadow")]) as budget:
        feed = Feed(budget.engine.books, {}, 0)
        with pytest.raises(ConnectionRefusedError), budget.reservation("$2"):
            raise ConnectionRefusedError
        budget.refund(budget.reserve("$0.1"))  # given back by hand: no call
        told = [(event.what, event.nanos, event.outcome) for event in feed.read()]
    assert told[0] == ("would refuse", 0, "$1/day")
    assert told[1][0] in ("call", "not billed")
    assert told[1][2].startswith("ConnectionRefusedError")
    assert len(told) == 2


@pytest.mark.parametrize(("width", "height"), [(40, 10), (80, 24), (160, 45)])
def test_the_screen_fits_and_shows_no_hostile_text(width: int, height: int) -> None:
    limit = Limit("$5/day", per="user")
    pools = [
        make_pool(limit, Subject({"user": f"{HOSTILE}{n}"}), Bucket(0, 86_400_000_000, 0, n * 10**8, 10**8), 1000)
        for n in range(40)
    ]
    entry = make_entry(bytes(32), 1, 1000, "recorded", "a" * 32, (1, 0, 0, 0, 1), {"user": HOSTILE}, {}, ())
    events = [
        Event("refused", 1000, {"user": HOSTILE, "agent": HOSTILE}, HOSTILE, n, HOSTILE, entry) for n in range(90)
    ]
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    now = Now(1000, 1, 10**12, 5 * 10**9, 3, pools, [HOSTILE], events)
    with console.capture() as got:
        console.print(draw(console, f"account {HOSTILE}", now, HOSTILE))
    lines = got.get().splitlines()
    assert len(lines) <= height
    assert all(cell_len(line) <= width and line.isprintable() for line in lines)
    if width == 160:
        order = [line for line in lines if line.startswith("user=")]
        assert len(order) > 10
        assert "39 $5/day" in order[0]  # the fullest
        assert "$3.90" in order[0]
