"""The command line as a whole: help, common options, exit codes, errors, escaping, terminals."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from invoke import Cli
from rich.cells import cell_len

from budget.cli import _COMMANDS, main

HOSTILE = [
    "\x1b]52;c;ZXZpbA==\x07", "\x1b]0;title\x07", "\x1b[2J\x1b[H", "a\nok: 3 entries", "a\rb", "\x9b31m", "\x00",
    "a\tb",
]  # fmt: skip
SMALL_CALL = ["--model", "claude-sonnet-4-6", "--in", "1", "--max-out", "1"]
INVISIBLE = ["evil\u202etxt.exe", "a\u200bb", "\u2066x\u2069", "a\u2028b", "\ufeffa", "a\u00adb", "\U000e0041"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands print as for a terminal."""
    for module in ("output", "look"):
        monkeypatch.setattr(f"budget.cli.{module}.is_terminal", lambda: True)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


def test_every_command_has_help_with_an_example_and_takes_the_common_options(cli: Cli) -> None:
    for path, command in commands(main):
        shown = cli(*path, "--help").stdout
        assert re.search(r"Examples?:\n+ +budget " + path[0], shown), path
        if not isinstance(command, click.Group):
            options = {name for parameter in command.params for name in parameter.opts}
            assert {"--json", "--store", "--account"} <= options, path


def test_every_example_of_the_help_works(cli: Cli) -> None:
    body = json.dumps({"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
    Path("request.json").write_text(body)
    Path("contract.toml").write_text("schema = 1")
    catalogue = {"gpt-5": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1.25e-06}}
    Path("model_prices_and_context_window.json").write_text(json.dumps(catalogue))
    with cli.budget() as budget:
        budget.reserve("$0.01", id="01a2020f7f0dc89124baba59b9ecbc8d")
    seen = 0
    for path, command in commands(main):
        if path[0] not in ("replay", "demo", "init", "drain", "run", "watch", "import", "audit", "sinks"):
            for line in re.findall(r"^ *budget (.+)$", (command.help or "").partition("Example:")[2], re.M):
                cli(*shlex.split(line.partition(" < ")[0]), stdin=body)
                seen += 1
    assert seen > 20


def test_help_lists_every_command_and_loads_none(cli: Cli) -> None:
    shown = cli("--help").stdout
    assert all(re.search(rf"^  {name} ", shown, re.M) for name in _COMMANDS)
    code = """
import sys
from budget.cli import main
main(["--help"], standalone_mode=False)
heavy = {"budget.engine", "rich", "asyncio", "pydantic", "redis", "tiktoken", "anthropic", "openai", "sqlite3"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert not [name for name in sys.modules if name.startswith("budget.cli.") and name[11:] not in ("common", "output")]
main(["status", "--store", "memory://"], standalone_mode=False)
assert not {"rich", "pydantic", "redis", "tiktoken", "anthropic", "openai"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_common_options_may_stand_before_the_command(cli: Cli, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path}/other.db"
    cli("--store", other, "--account=team-a", "set", "$7/day")
    assert cli.json("limits") == cli.json("limits", "--store", other) == []
    shown = cli("--json", "--store", other, "limits", "--account", "team-a").stdout
    assert json.loads(shown)[0]["limit"] == "$7/day"
    assert json.loads(cli("ledger", "--json", "--store", other, "--account", "team-a", "verify").stdout)["entries"] == 1
    assert json.loads(cli("--json", "status", "--", "user=alice").stdout) == []
    assert json.loads(cli("--json", "ledger", "--store", other, "--account", "team-a").stdout)[0]["kind"] == "limit_set"


def test_configuration_is_read(cli: Cli, tmp_path: Path) -> None:
    Path("budget.toml").write_text('account = "filed"\n[[limits]]\nlimit = "$1/day"\n')
    cli("set", "$2/hour")
    with cli.budget(account="filed") as budget:
        assert [str(limit) for limit in budget.limits if limit.source == "store"] == ["$2/hour"]
    Path("budget.toml").write_text("acount = 1")
    assert "means nothing here" in cli("status", code=2).stderr


def test_the_memory_store_does_not_crash(cli: Cli) -> None:
    for path, command in commands(main):
        if path[0] not in ("replay", "demo") and not isinstance(command, click.Group):
            words = {
                "set": ["$1/day"], "freeze": ["--all"], "check": SMALL_CALL, "prices show": ["gpt-5"],
                "prices set": ["gpt-5", "--input", "2", "--output", "11"], "ledger prune": ["--before", "1d"],
                "backup": ["a.db"], "reservations refund": ["0" * 32], "move": ["--to", "memory://"],
                "erase": ["user=alice"], "watch": ["--for", "1s"], "records export": ["--parquet", "calls"],
                "audit": ["--no-pull"], "sinks run": ["--once", "--sink", "jsonl:a.jsonl"],
                "sinks reset": ["jsonl", "--to", "0"],
            }  # fmt: skip
            refused = ("unset", "unfreeze", "adjust", "estimate", "backup", "drain", "run", "import", "move")
            code = 2 if path[0] in refused else 1 if path[-1] == "refund" else 0
            cli(*path, *words.get(" ".join(path), []), "--store", "memory://", code=code)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["status"], 0),
        (["check", "--model", "no-such-model", "--in", "1", "--max-out", "1"], 1),
        (["nosuch"], 2),
        (["status", "--nosuch"], 2),
        ([], 2),
        (["ledger", "nosuch"], 2),
        (["--store", "memory://"], 2),
        (["set"], 2),
        (["status", "--account", "a b"], 2),
        (["status", "--store", "mysql://x"], 2),
        (["check", "--model", "claude-opus-4-5", "--in", "1000", "--max-out", "9000"], 3),
        (["status", "--store", "sqlite:////nowhere/at/all.db"], 4),
    ],
)
def test_exit_codes_of_the_real_command(cli: Cli, args: list[str], code: int) -> None:
    cli("set", "$0.01/request")
    plain, as_json = cli.child(*args), cli.child(*args, "--json")
    assert plain.returncode == as_json.returncode == code, plain.stderr
    assert b"Traceback" not in plain.stderr + as_json.stderr
    if args:
        found = json.loads(as_json.stdout)
    if code in (1, 2, 4):
        assert plain.stdout == b""
        assert plain.stderr
    if code in (1, 2, 4) and args:
        assert plain.stderr.count(b"\n") == 1
    if code in (1, 2, 4) and args:
        assert set(found) == {"error", "message"}
        assert found["message"].encode() in as_json.stderr


def test_an_unreadable_store_is_not_an_empty_one(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is not a database, whatever its name says" * 100)
    for args in (["status"], ["report"], ["ledger", "verify"], ["reservations"], ["set", "$1/day"], ["limits"]):
        assert cli.json(*args, "--store", f"sqlite:///{tmp_path}/text.db", code=4)["error"] == "StoreUnavailable"


def test_a_reader_that_had_enough_is_no_traceback(cli: Cli) -> None:
    with cli.budget() as budget:
        for _ in range(2000):
            budget.record(usd="0.01", user="alice" * 20)
    command = f"{sys.executable} -m budget.cli ledger tail -n 2000 --store {cli.url} | head -1"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True, env=buffered)
    assert done.stdout.startswith("entry\t")
    assert done.stderr == ""


def test_a_stream_that_cannot_show_a_character_shows_its_number(cli: Cli) -> None:
    with cli.budget() as budget:
        budget.record(usd="0.01", user="日本")
    shown = cli.child("report", env={"PYTHONIOENCODING": "latin-1"})
    assert shown.returncode == 0
    assert rb"\u65e5\u672c" in shown.stdout


@pytest.mark.parametrize("text", HOSTILE)
def test_control_characters_do_not_get_in_nor_out(cli: Cli, text: str) -> None:
    for args in (["status", text], ["set", f"{text}/day"], ["doctor", text], [text]):
        assert text not in cli(*args, code=2).output
    assert "control character" in cli("set", f"user={text}", "$1/day", code=2).stderr
    cli("check", "--model", text, "--in", "1", "--max-out", "1", code=1)
    cli("freeze", "user=alice", "--reason", text)
    cli("unfreeze", "user=alice", "--reason", text)
    assert len(cli.lines("ledger")) == 2
    assert cli.json("ledger")[0]["detail"]["reason"] == text


@pytest.mark.parametrize("text", INVISIBLE)
@pytest.mark.parametrize("shown_on", ["pipe", "terminal"])
def test_invisible_characters_are_shown_as_escapes(
    cli: Cli, text: str, shown_on: str, request: pytest.FixtureRequest
) -> None:
    if shown_on == "terminal":
        request.getfixturevalue("terminal")
    cli("set", f"user={text}", "$1/day")
    cli("freeze", f"user={text}")
    with cli.budget() as budget:
        budget.record(usd="0.01", user=text, session="s")
    escaped = text.encode("unicode_escape").decode()
    for command in ("limits", "status", "report", "ledger"):
        assert escaped in cli(command, columns=160).stdout
    refused = cli("check", f"user={text}", *SMALL_CALL, code=3)
    assert escaped in refused.stdout
    shown = cli("status", f"user={text}", "--json")
    assert shown.stdout.isascii()
    assert json.loads(shown.stdout)[0]["subject"] == f"user={text}"


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("columns", [80, 160])
def test_tables_keep_to_one_line_per_row_and_to_the_width(cli: Cli, columns: int) -> None:
    cli("set", "per=user", "$5/day", "2M tokens/month", "--tz", "Europe/Berlin")
    names = ["alice", "b" * 256, "日本語" * 28, "x" * 128 + "\u202e" + "y" * 120, "w w w " * 40]
    with cli.budget() as budget:
        for name in names:
            made = budget.reserve("$1.234567891", user=name, agent="a" * 200, session="s" * 99, tokens=1_999_999)
            budget.reconcile(made, usd="1.234567891", tokens=1_999_999)
            budget.reserve("$0.5", user=name, tokens=1)
    for args, rows in ((["status"], 10), (["report"], 5), (["ledger"], 17), (["reservations"], 5), (["limits"], 2)):
        shown = cli(*args, columns=columns)
        lines = shown.stdout.splitlines()
        assert len(lines) == rows + 1, args
        assert max(map(cell_len, lines)) <= columns, args
    lines = cli("status", columns=columns).stdout.splitlines()
    assert all("$5/day" in line or "2000000 tokens/month" in line for line in lines[1:])
    assert "$3.265432109" in lines[1]
    assert sum("b…b" in line for line in lines) == 2
    assert ("█" in lines[1]) == (columns == 160)
    left_out = cli("status", columns=80).stderr
    assert left_out.startswith("left out, the terminal has 80 columns: used")


@pytest.mark.usefixtures("terminal")
def test_the_bar_shows_whatever_is_not_zero(cli: Cli) -> None:
    cli("set", "$5/day")
    with cli.budget() as budget:

        def shows(bar: str) -> bool:
            return bar in cli("status", columns=120).stdout

        assert shows("░" * 10)
        budget.record(usd="0.01")
        assert shows("█" + "░" * 9)
        budget.reserve("$0.01")
        assert shows("█▒" + "░" * 8)
        budget.reserve("$2.5")
        assert shows("█▒▒▒▒▒" + "░" * 4)
        budget.record(usd="9")
        assert shows("█" * 10)
    cli("set", "$0/day")
    assert not shows("█")


def test_a_pipe_gets_every_column_whole(cli: Cli) -> None:
    cli("set", "per=user", "$5/day")
    with cli.budget() as budget:
        budget.record(usd="0.01", user="b" * 256)
    assert cli.lines("report", columns=40)[0][0] == "b" * 256
    assert len(cli.lines("report", columns=40)[0]) == 17
    assert "█" not in cli("status", columns=160).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_real_terminal_gets_colours_unless_it_asks_for_none(cli: Cli, no_color: str) -> None:
    import pty

    cli("set", "$5/day")
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": no_color, "COLUMNS": "120"}
    command = [sys.executable, "-m", "budget.cli", "status", "--store", cli.url]
    with subprocess.Popen(command, stdout=child, stderr=child, env=environment):
        os.close(child)
        shown = b""
        try:
            while piece := os.read(parent, 65536):
                shown += piece
        except OSError:  # how Linux says that the other side is closed
            pass
    os.close(parent)
    assert "░░░░".encode() in shown
    assert (b"\x1b[32m" in shown) == (not no_color)


@pytest.mark.parametrize("command", [
    "limits", "set $5/day", "set $1/hour", "unset $1/hour", "status",
    "check --model claude-haiku-4-5 --in 1 --max-out 1",
    "adjust +$1", "freeze user=bob", "unfreeze user=carol", "report", "report --by day", "top", "suggest",
    "reservations",
    "reservations list", "reservations sweep", "ledger", "ledger tail", "ledger export", "ledger verify",
    "ledger rebuild", "prices", "prices list", "prices show claude-haiku-4-5", "prices check", "sinks", "alerts",
    "alerts test", "alerts history", "doctor",
])  # fmt: skip
def test_a_document_is_a_list_of_rows_or_an_object(cli: Cli, command: str) -> None:
    lists = ("status", "limits", "report", "reservations", "reservations list", "ledger", "ledger tail")
    cli("set", "$1/hour", "$3/day")
    cli("freeze", "user=carol")
    assert type(cli.json(*command.split())) is (list if command in (*lists, "report --by day") else dict)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize(
    "command", ["status", "status --json", "ledger export", "ledger export --format csv", "doctor --json"]
)
def test_a_full_disk_is_an_error_in_one_line(cli: Cli, command: str) -> None:
    cli("set", "per=user", "$5/day")
    done = shell(cli, f"{command} > /dev/full")
    assert (done.returncode, done.stderr) == (1, b"budget: [Errno 28] No space left on device\n")
    assert shell(cli, "status user 2> /dev/full").returncode == 2
    assert shell(cli, "run -- true 2> /dev/full").returncode == 0


def test_a_process_without_streams(cli: Cli) -> None:
    cli("set", "$5/day")
    for command in ("status", "status --json", "limits", "ledger export", "ledger export --format csv"):
        done = shell(cli, f"{command} >&-")
        assert (done.returncode, done.stderr) == (0, b""), command
    assert shell(cli, "status 2>&-").stdout.startswith(b"subject\t")
    assert shell(cli, "status user 2>&-").returncode == 2
    assert shell(cli, "status <&- >&- 2>&-").returncode == 0
    assert b"not JSON" in shell(cli, "estimate - <&-").stderr
    assert shell(cli, "status | true").stderr == b""
    assert cli.json("limits") != []
    assert cli.json("ledger", "verify")["ok"]


def shell(cli: Cli, command: str) -> subprocess.CompletedProcess[bytes]:
    words = [f"{sys.executable} -m budget.cli {command}"]
    environment = {**os.environ, "BUDGET_STORE": cli.url}
    return subprocess.run(words, shell=True, capture_output=True, timeout=120, env=environment, check=False)
