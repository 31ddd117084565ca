"""What `budget demo` shows while the agents work: bars on a terminal, else a line every second."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from budget.demo.agents import Call, PoolNow
from budget.money import NANOS, show_usd

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.table import Table
    from rich.text import Text

__all__ = ["Bars", "Lines", "View"]

_WIDTH = 100  # columns, however wide the terminal is


class View(Protocol):
    """Something that shows the pools again and again."""

    every: float
    """Seconds from one `show` to the next."""

    def show(self, pools: Sequence[PoolNow], calls: Sequence[Call]) -> None:
        """Show what is so now."""
        ...


class Bars:
    """A bar per pool on a terminal, gone when the block ends."""

    every = 0.1

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=sys.stdout, highlight=False), transient=True, auto_refresh=False)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, pools: Sequence[PoolNow], calls: Sequence[Call]) -> None:
        """Draw the bars."""
        console = self._live.console
        glyphs = "#=." if console.options.ascii_only else "█░·"
        self._live.update(_board(pools, calls, min(_WIDTH, console.width), glyphs), refresh=True)


class Lines:
    """A line every second."""

    every = 1.0

    def __init__(self, say: Callable[[str], None]):
        self._say = say
        self._begun = time.monotonic()

    def show(self, pools: Sequence[PoolNow], calls: Sequence[Call]) -> None:
        """Print a line about the pool of everybody."""
        seconds = time.monotonic() - self._begun
        for pool in pools[:1]:
            spent, reserved = _usd(pool.spent), _usd(pool.reserved)
            self._say(f"{seconds:3.0f} s  {spent} of {pool.limit.rule} spent, {reserved} reserved; {_ends(calls)}")


def _board(pools: Sequence[PoolNow], calls: Sequence[Call], width: int, glyphs: str) -> Table:
    from rich.table import Table

    board = Table(box=None, width=width, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    board.add_column("pool", no_wrap=True)
    board.add_column(f"spent {glyphs[0]}  reserved {glyphs[1]}", ratio=1)
    for name in ("spent", "reserved", "limit"):
        board.add_column(name, justify="right", no_wrap=True)
    for pool in pools:
        board.add_row(pool.name, _Bar(pool, glyphs), _usd(pool.spent), _usd(pool.reserved), pool.limit.rule)
    board.caption = _ends(calls)
    board.caption_justify = "left"
    return board


class _Bar:
    """What a pool has spent and reserved, as long as its cell is wide."""

    def __init__(self, pool: PoolNow, glyphs: str):
        self._glyphs = glyphs
        self._shares = [amount * NANOS / pool.limit.quantity for amount in (pool.spent, pool.spent + pool.reserved)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        width = options.max_width
        spent, used = (min(width, round(share * width)) for share in self._shares)
        parts = zip(self._glyphs, (spent, used - spent, width - used), ("green", "yellow", "dim"), strict=True)
        yield Text.assemble(*((glyph * length, style) for glyph, length, style in parts))


def _ends(calls: Sequence[Call]) -> str:
    ends = Counter(call.end for call in calls)
    done = len(calls) - ends["refused"] - ends[""]
    return f"calls: {ends['']} under way, {done} done, {ends['refused']} refused"


def _usd(amount: object) -> str:
    return show_usd(int(amount * NANOS))  # type: ignore[operator]
