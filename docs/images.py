"""The pictures of these pages: `python -m docs.images`.

Made-up calls of two weeks are imported, some more are made against limits, and what the commands show of them becomes
SVG. Nothing in a picture is fetched: rich's link to a font is taken out.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import random
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.text import Text

from budget import Budget, BudgetExceeded, Limit
from budget.cli.feed import HOUR, Feed
from budget.cli.screen import draw, look

HERE = Path(__file__).parent / "images"
WIDTH = 110
MODELS = ("claude-sonnet-4-6", "claude-haiku-4-5", "gpt-4.1-mini")
AGENTS = ("support", "research", "triage")
USERS = {"alice": 9, "bob": 5, "carol": 4, "dave": 2, "erin": 1}
"""Who makes calls, and how many of 21."""


def main() -> None:
    """Make all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        url, chosen = f"sqlite:///{folder}/costs.db", random.Random(7)
        _write_calls(Path(folder, "calls.csv"), chosen)
        _run(folder, url, "import", "calls.csv")
        (HERE / "users.svg").unlink(missing_ok=True)
        _run(folder, url, "report", "--plot", str(HERE / "users.svg"))
        _save("report", "budget report", Text.from_ansi(_run(folder, url, "report")))
        _save_watch(url, chosen)


def _write_calls(path: Path, chosen: random.Random) -> None:
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    lines = ["time,user,session,agent,model,input_tokens,cache_read_tokens,output_tokens,latency_ms"]
    for n in range(3000):
        hours = 14 * 24 * (1 - (n / 3000) ** 0.7)
        user, agent, model = _call(chosen)
        read = chosen.randrange(0, 9000)
        lines.append(
            f"{end - timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ},{user},s{n // 20},{agent},{model},"
            f"{read + chosen.randrange(500, 6000)},{read},{chosen.randrange(40, 1500)},{chosen.randrange(600, 9000)}"
        )
    path.write_text("\n".join(lines) + "\n")


def _call(chosen: random.Random) -> tuple[str, str, str]:
    return chosen.choices(*zip(*USERS.items(), strict=True))[0], chosen.choice(AGENTS), chosen.choice(MODELS)


def _run(folder: str, url: str, *words: str) -> str:
    """Run a command on a terminal of its own and return what it printed there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    environment = {**os.environ, "BUDGET_STORE": url, "TERM": "xterm-256color", "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, "-m", "budget.cli", *words]
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal whose other side was closed ends
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    if child.wait() != 0:
        raise SystemExit(shown.decode())
    return shown.decode().replace("\r\n", "\n")


def _save_watch(url: str, chosen: random.Random) -> None:
    limits = ["$2/hour", "$20/day", "8 concurrent", "agent=research $0.3/hour", "user=bob $0.15/hour"]
    with Budget(url, limits=[*limits, Limit("$5/day", per="user")]) as budget:
        feed = Feed(budget.engine.books, {}, budget.engine.verbs.now() - HOUR * 1_000_000)
        for n in range(90):
            if n == 80:
                budget.freeze(user="dave", reason="looks like a loop")
            user, agent, model = _call(chosen)
            try:
                held = budget.reserve("$0.06", user=user, agent=agent, model=model)
            except BudgetExceeded:
                continue
            usage = {"input_tokens": chosen.randrange(500, 6000), "output_tokens": chosen.randrange(40, 1500)}
            budget.reconcile(held, usage, model=model)
            time.sleep(0.1)
        for user, agent, model in (_call(chosen) for _ in range(3)):
            with suppress(BudgetExceeded):
                budget.reserve("$0.06", user=user, agent=agent, model=model)
        console = Console(record=True, width=WIDTH, height=28, file=io.StringIO(), force_terminal=True)
        now = look(budget, {}, feed, feed.read())
        console.print(draw(console, "account default", now))
        _export("watch", "budget watch", console)


def _save(name: str, title: str, text: Text) -> None:
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(text)
    _export(name, title, console)


def _export(name: str, title: str, console: Console) -> None:
    drawn = console.export_svg(title=title, unique_id=name)
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S)
    drawn = re.sub(r"<!--.*?-->\s*", "", drawn, flags=re.S)
    (HERE / f"{name}.svg").write_text(drawn)


if __name__ == "__main__":
    main()
