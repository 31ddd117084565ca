"""What commands print: tables for a terminal, lines of tab-separated cells for a pipe, JSON.

Whatever a user, a model or an agent named is escaped before it reaches a terminal or a log: control characters, escape
sequences, line breaks, and the invisible characters that reorder or hide text. JSON is ASCII. A terminal's table keeps
to one line per row: long ids lose their middle, and where that is not enough, columns are left out, and said so.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import click

from budget.money import NANOS, show_usd
from budget.subject import show_value

__all__ = [
    "Cell", "Column", "amount", "csv_cell", "is_terminal", "note", "pairs", "print_json", "safe", "say", "scope_text",
    "some", "table", "when",
]  # fmt: skip

Cell = str | tuple[str, str]
"""A text, or a text and a style of rich; what a style says must stand in the text too."""
_GAP = 2
_SHORT = 10
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run a cell that begins so


@dataclass(frozen=True, slots=True)
class Column:
    """A column: figures stand right; `shrink` may be shortened, no further than `least` while others can be left out;
    of those with `drop`, the highest is left out first."""

    name: str
    right: bool = False
    shrink: bool = False
    drop: int = 0
    least: int = _SHORT


def safe(text: str) -> str:
    """Escape what is not printable: C0, C1, ESC, line separators, bidi and zero-width characters, lone surrogates."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """Print a message, one line, on stderr. One that cannot be printed changes nothing about what is done."""
    with suppress(OSError):
        click.echo(safe(text), err=True)


def say(text: str) -> None:
    """Print a line of the answer."""
    click.echo(safe(text))


def print_json(value: object) -> None:
    """Print one JSON document in ASCII."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True, allow_nan=False))


def amount(value: Decimal | int | None) -> str:
    """Write an amount for a person: "$0.25", "2,000,000"; "-" for none."""
    if value is None:
        return "-"
    return show_usd(int(value * NANOS)) if isinstance(value, Decimal) else f"{value:,}"


def when(moment: datetime | None) -> str:
    """Write a moment for a person, in its own zone."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M %Z")


def scope_text(scope: Any) -> str:
    """Write attributes as "user=alice,agent=support"."""
    return ",".join(f"{name}={show_value(value)}" for name, value in scope.items())


def some(names: Sequence[str], most: int = 10) -> str:
    """Write names, the first ones and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def csv_cell(value: Any) -> Any:
    """Escape a text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) and not _number(value) else value


def _number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdigit()


def is_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout.isatty()


def pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    width = max(len(name) for name, _ in rows) + _GAP if is_terminal() else 0
    for name, value in rows:
        click.echo(f"{name:<{width}}{safe(value)}" if width else f"{name}\t{safe(value)}")


def table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table. `rows` have a cell per column."""
    cells = [[(safe(cell), "") if isinstance(cell, str) else (safe(cell[0]), cell[1]) for cell in row] for row in rows]
    if is_terminal():
        _print_table(columns, cells)
        return
    for line in ([(column.name, "") for column in columns], *cells):
        click.echo("\t".join(text for text, _ in line))


def _print_table(columns: Sequence[Column], rows: list[list[tuple[str, str]]]) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    lines = [[(column.name, "bold") for column in columns], *rows]
    widths = [max(cell_len(line[i][0]) for line in lines) for i in range(len(columns))]
    kept, left_out = _fit(columns, widths, console.width)
    for line in lines:
        parts = []
        for i in kept:
            text, style = line[i]
            text = _shorten(text, widths[i])
            pad = " " * (widths[i] - cell_len(text))
            parts.append(Text(pad + text if columns[i].right else text + pad, style))
        shown = Text(" " * _GAP).join(parts)
        shown.rstrip()
        console.print(shown, soft_wrap=True)
    if left_out:
        note(f"left out, the terminal has {console.width} columns: {', '.join(left_out)}")


def _fit(columns: Sequence[Column], widths: list[int], room: int) -> tuple[list[int], list[str]]:
    """Make columns fit: shorten ids, else leave columns out. Return which stay, and the names of the others."""
    kept = list(range(len(columns)))
    while True:
        excess = sum(widths[i] for i in kept) + _GAP * (len(kept) - 1) - room
        droppable = [i for i in kept if columns[i].drop]
        least = {i: columns[i].least if droppable else _SHORT for i in kept if columns[i].shrink}
        spare = [i for i in least if widths[i] > least[i]]
        if excess <= 0 or not (spare or droppable):
            break
        if excess <= sum(widths[i] - least[i] for i in spare) or not droppable:
            widths[max(spare, key=lambda i: widths[i])] -= 1
        else:
            kept.remove(max(droppable, key=lambda i: columns[i].drop))
    return kept, [column.name for i, column in enumerate(columns) if i not in kept]


def _shorten(text: str, width: int) -> str:
    """Take out the middle of a text that is wider than its column: two ids often differ at their ends only."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    tail = (width - 1) // 2
    head = set_cell_size(text, width - 1 - tail)
    end = text
    while cell_len(end) > tail:
        end = end[1:]
    return f"{head}…{end}"
