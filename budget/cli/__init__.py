"""The command line: `budget`.

Each command lives in a module of its group and is imported when it is used, so that `budget --help` and every command
start quickly. What a command returns is its exit code; errors become one line on stderr here and nowhere else:

    0  fine
    1  an error, or a fault that a command found
    2  wrong usage, arguments or configuration
    3  refused (`check`, `estimate --cap`)
    4  the store cannot be reached

`budget run` answers what its command did, 128 + n where that ended by signal n.

With `--json`, stdout is one JSON document, also when there is an error; of `budget watch` it is one per line.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

from budget import __version__
from budget.cli.common import Commands
from budget.cli.output import note, print_json
from budget.errors import ArgumentTypeError, BudgetError, BudgetExceeded, ConfigError, StoreUnavailable

__all__ = ["main"]

_COMMANDS = {
    "init": ("setup", "Write a commented budget.toml."),
    "set": ("policy", "Set limits in the store."),
    "unset": ("policy", "Remove limits from the store."),
    "adjust": ("policy", "Raise what a subject may spend in the present window."),
    "limits": ("policy", "List the limits that hold."),
    "status": ("look", "Show what is spent, reserved and available."),
    "check": ("look", "Ask whether a call would be admitted now."),
    "estimate": ("look", "Estimate what a request costs at most."),
    "freeze": ("policy", "Refuse every call of a subject from now on."),
    "unfreeze": ("policy", "End a freeze."),
    "report": ("records", "Report what calls cost, by user, model, day ..."),
    "top": ("records", "Show who costs most."),
    "watch": ("watch", "Watch calls and refusals as they happen, and what is left."),
    "suggest": ("records", "Suggest limits from what was observed."),
    "records": ("recordfile", "Export the records of calls."),
    "reservations": ("reservations", "See who holds what, give it back, or charge what is due."),
    "ledger": ("ledger", "Read the ledger, prove it, put the counters right."),
    "audit": ("audit", "Set the providers' bills against the ledger."),
    "drain": ("ledger", "Read a server's ledger into the records store."),
    "sinks": ("sinks", "Tell files, databases and webhooks of every call."),
    "alerts": ("alerts", "Warn of limits that run out, and of who is out of line."),
    "backup": ("operate", "Copy the store's file while others write to it."),
    "move": ("operate", "Move the account to another store."),
    "erase": ("operate", "Put a pseudonym in the place of a subject."),
    "run": ("run", "Run a command whose calls are one run, with a limit."),
    "import": ("importing", "Import calls that others have recorded."),
    "replay": ("replay", "Replay a trace: what would these limits refuse?"),
    "prices": ("prices", "See, check and set what models cost."),
    "doctor": ("doctor", "Check the store, the prices and the installed SDKs."),
    "demo": ("demo", "Watch agents try to overrun their limits."),
}


class _Main(Commands):
    """The group `budget`, with the one place where errors become exit codes."""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command line; in standalone mode (the default) leave the process with the exit code."""
        given = list(sys.argv[1:] if args is None else args)
        _open_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character gets its number
                stream.reconfigure(errors="backslashreplace")
        try:
            answer = super().main(given, "budget", standalone_mode=False, **extra)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads has seen enough; click answers the same where it happens before the end
            answer = 1
        except (click.ClickException, click.Abort, BudgetError, OSError) as error:
            own = given[: given.index("--")] if "--" in given else given
            answer = _failed(error, "--json" in own)
        finally:
            _let_go()
        code = answer if isinstance(answer, int) else 0
        if standalone_mode:
            sys.exit(code)
        return code


def _open_streams() -> None:
    """Give a process that was started without stdin, stdout or stderr (`>&-`) ones that nobody reads."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def _let_go() -> None:
    """Drop what a full disk did not take: at its end the interpreter would try again, and make the exit code 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def _failed(error: Exception, as_json: bool) -> int:
    """Say what went wrong and return the exit code."""
    message = error.format_message() if isinstance(error, click.ClickException) else str(error) or "interrupted"
    if as_json:
        name = "UsageError" if isinstance(error, click.UsageError) else type(error).__name__
        with suppress(OSError):  # it may be stdout that failed, and stderr tells
            print_json({"error": name, "message": message})
    help = f" Try: {error.ctx.command_path} --help" if isinstance(error, click.UsageError) and error.ctx else ""
    note(f"budget: {message}{help}")
    return _code(error)


def _code(error: Exception) -> int:
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, ConfigError | ArgumentTypeError):
        return 2
    if isinstance(error, StoreUnavailable):
        return 4
    return 3 if isinstance(error, BudgetExceeded) else 1


main = _Main(
    "budget",
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Decide, before an LLM call leaves the process, whether it may be made.

\b
Example:
  budget set per=user '$5/day'
  budget status user=alice""",
)
click.version_option(__version__, prog_name="budget")(main)
