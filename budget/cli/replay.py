"""`budget replay`: what would these budgets have refused?"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction

import click

from budget.cli.common import Common, common
from budget.cli.output import Column, note, pairs, print_json, table
from budget.config import load
from budget.errors import ConfigError
from budget.money import show_usd
from budget.replay import FIELDS, PRESETS, Exact, LimitResult, Replay, Trace, read_time
from budget.replay import replay as play
from budget.stores.base import open_store

__all__ = ["replay"]

_FACTOR = re.compile(r"\d{1,4}(?:\.\d{1,6})?", re.ASCII)
_LONG = 10_000  # rows from which a progress bar is worth its place


@click.command("replay")
@click.argument("trace", type=click.Path(exists=True, dir_okay=False))
@click.option("--limit", "limits", multiple=True, metavar="LIMIT",
              help="A limit such as '$20/run' or 'per=user $5/day'; may be given again. No others apply.")
@click.option("--preset", type=click.Choice(list(PRESETS)), help="The kind of trace. Default: told by the header.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME", help="The column of a field. Numbers of time "
              f"and duration are seconds, or what NAME ends in: _ms, _us, _ns. Fields: {', '.join(FIELDS)}.")
@click.option("--set", "fill", multiple=True, metavar="FIELD=VALUE", help="What the trace lacks, such as model=gpt-4o.")
@click.option("--start", default="2026-01-01T00:00Z", show_default=True, help="When relative times begin.")
@click.option("--reserve", default="1", show_default=True, metavar="FACTOR",
              help="A call reserves this times what it cost and the tokens it used.")  # fmt: skip
@click.option("--prices-at", type=click.Choice(["today", "then"]), default="today", show_default=True,
              help="Price calls as of today, or of when each was made.")  # fmt: skip
@click.option("--strict", is_flag=True, help="End with an error at a malformed row instead of skipping it.")
@common
def replay(
    shared: Common, trace: str, limits: Sequence[str], preset: str | None, columns: Sequence[str], fill: Sequence[str],
    start: str, reserve: str, prices_at: str, strict: bool,
) -> None:  # fmt: skip
    """Replay a recorded TRACE (CSV, plain or gzipped) against limits: what would they have refused?

    It works in an account of its own, which is removed afterwards: no live pool is read or written.

    \b
    Example:
      budget replay trace.csv.gz --set model=gpt-4o --limit '$2/hour' --limit 'per=user $5/day'
    """
    settings = load(store=shared.store, account=shared.account)
    factor, begin = _factor(reserve), _start(start)
    calls = Trace(
        trace, preset=preset, columns=_assigned(columns, "--column"), fill=_assigned(fill, "--set"), start=begin,
        on_malformed=None if strict else note,
    )  # fmt: skip
    priced_at = time.time_ns() // 1000 if prices_at == "today" else None
    with closing(open_store(settings.store)) as store, _progress(calls) as advance:
        found = play(store, calls, limits, settings.book, reserve=factor, priced_at=priced_at, on_progress=advance)
    if shared.json:
        print_json(found.to_dict())
    else:
        _print(found)


def _assigned(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name in pairs:
            wrong = "is given twice" if name in pairs else "is not FIELD=VALUE"
            raise ConfigError(f"{option}: {text[:80]!r} {wrong}")
        pairs[name] = value
    return pairs


def _factor(text: str) -> Fraction:
    factor = Fraction(text) if _FACTOR.fullmatch(text) else Fraction(0)
    if not factor:
        raise ConfigError(f"--reserve: {text[:20]!r} is not a factor above zero, such as 1.5")
    return factor


def _start(text: str) -> Exact:
    try:
        return read_time(text)
    except ValueError:
        raise ConfigError(f"--start: {text[:40]!r} is not an instant such as 2026-01-01T00:00Z") from None


def _print(found: Replay) -> None:
    rows = [
        ("calls", f"{found.calls:,}"),
        ("admitted", f"{found.admitted:,}"),
        ("refused", f"{found.refused:,}"),
        ("spent", show_usd(found.spent)),
        ("refused spend", show_usd(found.refused_cost)),
        ("malformed rows", f"{found.skipped:,}"),
    ]
    if found.rate is not None and found.store_rate is not None:
        rows.append(("calls per second", f"{found.rate:,.0f} (the store alone: {found.store_rate:,.0f})"))
    pairs(rows)
    if found.limits:
        columns = [Column("limit", shrink=True), Column("refused", right=True), Column("max spent", right=True)]
        table(columns, [(result.text, f"{result.refused:,}", _most(result)) for result in found.limits])


def _most(result: LimitResult) -> str:
    return "-" if result.max_spent is None else show_usd(result.max_spent)


@contextmanager
def _progress(trace: Trace) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on stderr for a long file, if a person looks on."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None, visible=False)

        def advance(calls: int) -> None:
            bar.update(task, completed=calls, total=trace.rows, visible=trace.rows >= _LONG)

        yield advance
