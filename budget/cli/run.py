"""run: a command whose calls are one run, with a limit and guards of its own.

The command is a child process that has the run in its environment: every engine in it, and in what it starts itself, is
in that run, through the same store and account. Where its words are printed is left alone, but for `--json`: stdout is
then the one document, and what the command prints there goes to stderr.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from budget.cli.common import Common, attributes_of, common
from budget.cli.output import amount, note, print_json
from budget.errors import BudgetError, ConfigError
from budget.runargs import make_run

if TYPE_CHECKING:
    from budget.config import Settings
    from budget.engine import Budget
    from budget.run import Run

__all__: list[str] = []

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
_FROM_TERMINAL = ("SIGINT", "SIGQUIT")
_NOT_FOUND, _NOT_RUNNABLE = 127, 126
"""What shells answer for a command that is not there, or is no program."""


class _BeforeDashes(click.Command):
    """A command whose own words end at `--`; what follows is another command's, whatever it looks like."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta["budget.command"] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


@click.command("run", cls=_BeforeDashes)
@click.argument("words", nargs=-1, metavar="[attr=value ...] -- COMMAND ...")
@click.option("--limit", metavar="AMOUNT", help="What the whole run may spend: '$2', '500k tokens'.")
@click.option("--cap", metavar="AMOUNT", help="The most that one request may cost.")
@click.option("--max-calls", type=int, metavar="N", help="How many calls it may make.")
@click.option("--deadline", type=float, metavar="SECONDS", help="After how many seconds no call is begun.")
@click.option("--velocity", metavar="RULE", help="How much in a time: '$1/minute'.")
@click.option("--loop", metavar="RULE", help="When the same tool calls are a loop: '3', '3 in 10'.")
@click.option("--on-short", metavar="POLICY", help="When money runs short: clamp, fallback:MODEL, wait:30s.")
@click.option("--id", metavar="ID", help="The run's id, to continue one, or to freeze it later: run=ID.")
@common
def run(common: Common, words: tuple[str, ...], **options: Any) -> int:
    """Run a command as one run: every call that it makes draws on the run's limit, whatever it starts itself.

    Its exit code is the command's, 128 + n after signal n, 127 or 126 if it cannot be started. What was spent is said
    on stderr at the end; with --json stdout is that as one document, and the command's own output goes to stderr.

    \b
    Example:
      budget run --limit '$2' --max-calls 50 user=alice -- python agent.py
      budget freeze run=ID        # stops its calls from elsewhere
    """
    ctx = click.get_current_context()
    command = ctx.meta["budget.command"]
    attributes = attributes_of(words)
    if not command:
        raise click.UsageError("Missing command: write it after '--'.", ctx)
    with common.open() as budget:
        if budget.settings.store.startswith("memory:"):
            raise ConfigError("store: memory:// is private to one process; a run over several needs another store")
        made = make_run(budget.engine.verbs, **options, counted=True, attributes=attributes)
        note(f"budget: run {made.id}")
        environment = {**_whereabouts(budget.settings), **made.to_environment()}
        began = monotonic()
        code = _supervise(command, {**os.environ, **environment}, sys.stderr if common.json else None)
        _tell(common, budget, made, code, monotonic() - began)
    return code


def _whereabouts(settings: Settings) -> dict[str, str]:
    """Return the variables that name store and accounts, in every folder that the command may change to."""
    stores = {"BUDGET_STORE": settings.store, "BUDGET_RECORDS": settings.records}
    told = {name: _absolute(url) for name, url in stores.items() if url is not None}
    above = {} if settings.above is None else {"BUDGET_ABOVE": settings.above}
    return {**told, "BUDGET_ACCOUNT": settings.account, **above}


def _absolute(url: str) -> str:
    """Return the URL of a store as it is in another folder, with the password of one that has a password."""
    path = url.removeprefix("sqlite:///")
    return url if path == url else f"sqlite:///{Path(path).absolute()}"


def _supervise(command: Sequence[str], environment: dict[str, str], stdout: Any) -> int:
    """Run a command to its end, passing on the signals that this process gets; return the exit code."""
    with _forwarding() as begun:
        try:
            child = subprocess.Popen(command, env=environment, stdout=stdout)
        except OSError as error:
            note(f"budget: {command[0]}: {error.strerror or error}")
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_RUNNABLE
        begun(child)
        code = child.wait()
    return code if code >= 0 else 128 - code


@contextmanager
def _forwarding() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Pass on signals to a child, once it is given one; those that are ignored stay so, in the child too.

    What a terminal sends to the processes in its foreground, it sends to the child itself.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        if signal.Signals(number).name in _FROM_TERMINAL and _in_foreground():
            return
        early.append(number)
        for child in children:
            child.send_signal(early.pop())

    def begun(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        while early:
            child.send_signal(early.pop(0))

    known = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    taken = [number for number in known if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, forward) for number in taken}
    try:
        yield begun
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_foreground() -> bool:
    """Whether a terminal's signals go to this process and its children alike."""
    try:
        with open("/dev/tty", "rb", buffering=0) as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, AttributeError):
        return False


def _tell(common: Common, budget: Budget, made: Run, code: int, seconds: float) -> None:
    """Say what the run has used. A store that cannot answer changes nothing about how the command ended."""
    known = True
    try:
        made.refresh()
    except BudgetError as error:
        note(f"budget: what run {made.id} spent cannot be read: {error}")
        known = False
    if common.json:
        remaining = None if made.remaining is None else f"{made.remaining:f}"
        figures: dict[str, Any] = {
            "spent": f"{made.spent:f}", "reserved": f"{made.reserved:f}", "remaining": remaining, "calls": made.calls
        }  # fmt: skip
        used = figures if known else dict.fromkeys(figures)
        print_json({"run": made.id, "exit_code": code, "seconds": round(seconds, 3), **used})
    elif known:
        limit = "" if made.remaining is None else f" of {amount(made.spent + made.reserved + made.remaining)}"
        held = f", {amount(made.reserved)} still reserved" if made.reserved else ""
        calls = f"{made.calls} call{'' if made.calls == 1 else 's'}"
        note(f"budget: run {made.id} spent {amount(made.spent)}{limit} in {calls}{held}")
