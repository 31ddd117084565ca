"""How the tests of the command line run it: in this process, through click's runner, or in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from budget.cli import main
from budget.engine import Budget


class Cli:
    """The command line on one store. What it prints is checked to be free of control characters."""

    def __init__(self, folder: Path):
        self.url = f"sqlite:///{folder / 'cli.db'}"

    def __call__(self, *args: str, code: int = 0, stdin: str | bytes | None = None, columns: int = 80) -> Result:
        """Run a command and check its exit code; nothing may end in a traceback."""
        environment = {"BUDGET_STORE": self.url, "COLUMNS": str(columns)}
        result = CliRunner().invoke(main, list(args), input=stdin, env=environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
        assert result.exit_code == code, result.output
        for stream in (result.stdout, result.stderr):
            assert all(c.isprintable() or c in "\n\t" for c in stream), ascii(stream)
        return result

    def json(self, *args: str, code: int = 0, stdin: str | None = None) -> Any:
        """Run a command with `--json` and return the one document it prints."""
        return json.loads(self(*args, "--json", code=code, stdin=stdin).stdout)

    def lines(self, *args: str, code: int = 0, columns: int = 80) -> list[list[str]]:
        """Run a command and return the cells of what a pipe gets, without the header."""
        return [line.split("\t") for line in self(*args, code=code, columns=columns).stdout.splitlines()[1:]]

    def budget(self, **options: Any) -> Budget:
        """An engine on the same store."""
        return Budget(self.url, **options)

    def child(self, *args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run a command in a process of its own."""
        environment = {**os.environ, "BUDGET_STORE": self.url, **options.pop("env", {})}
        command = [sys.executable, "-m", "budget.cli", *args]
        return subprocess.run(command, capture_output=True, timeout=120, env=environment, check=False, **options)
