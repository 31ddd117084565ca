"""`budget replay`: what would these budgets have refused?"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from fractions import Fraction

import click

from budget.config import load
from budget.errors import ConfigError
from budget.money import show_usd
from budget.replay import FIELDS, PRESETS, Exact, Replay, Trace, read_time
from budget.replay import replay as play
from budget.stores.base import open_store

__all__ = ["replay"]

_LONG = 10_000  # rows from which a progress bar is worth its place


@click.command("replay")
@click.argument("trace", type=click.Path(exists=True, dir_okay=False))
@click.option("--limit", "limits", multiple=True, metavar="LIMIT", help="A limit such as '$20/run' or 'per=user $5/day'; "
              "may be given again. Only these apply.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="The kind of trace; found from the header if not given.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME", help=f"The column of a field: {', '.join(FIELDS)}. "
              "Times and durations count seconds, or what the name ends in: _ms, _us, _ns.")  # fmt: skip
@click.option("--set", "fill", multiple=True, metavar="FIELD=VALUE", help="What the trace lacks, such as model=gpt-4o.")
@click.option("--start", default="2026-01-01T00:00Z", show_default=True, help="When relative times begin.")
@click.option("--reserve", default="1", show_default=True, metavar="FACTOR", help="A call reserves its cost times this.")
@click.option("--prices-at", type=click.Choice(["today", "then"]), default="today", show_default=True,
              help="Price calls as of today, or of when each was made.")  # fmt: skip
@click.option("--strict", is_flag=True, help="End with an error at a malformed row instead of skipping it.")
@click.option("--store", metavar="URL", help="Where the scratch account is made; memory:// is fastest.")
@click.option("--account", metavar="NAME", help="Checked, and left alone: a replay has an account of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(
    trace: str, limits: Sequence[str], preset: str | None, columns: Sequence[str], fill: Sequence[str], start: str,
    reserve: str, prices_at: str, strict: bool, store: str | None, account: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Replay a recorded TRACE (CSV, plain or gzipped) against limits: what would they have refused?

    It works in an account of its own, which is removed afterwards: no live pool is read or written.
    """
    settings = load(store=store, account=account)
    factor, begin = _factor(reserve), _start(start)
    calls = Trace(
        trace, preset=preset, columns=_pairs(columns, "--column"), fill=_pairs(fill, "--set"), start=begin,
        on_malformed=None if strict else _complain,
    )  # fmt: skip
    priced_at = time.time_ns() // 1000 if prices_at == "today" else None
    with closing(open_store(settings.store)) as opened, _progress(calls) as advance:
        found = play(opened, calls, limits, settings.book, reserve=factor, priced_at=priced_at, on_progress=advance)
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    elif sys.stdout.isatty():
        _print_table(found)
    else:
        _print_lines(found)


def _complain(line: str) -> None:
    click.echo(line, err=True)


def _pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name in pairs:
            wrong = "is given twice" if name in pairs else "is not FIELD=VALUE"
            raise ConfigError(f"{option}: {text[:80]!r} {wrong}")
        pairs[name] = value
    return pairs


def _factor(text: str) -> Fraction:
    whole, _, rest = text.partition(".")
    if not (whole.isascii() and f"{whole}{rest or 0}".isdecimal() and len(text) <= 12 and Fraction(text)):
        raise ConfigError(f"--reserve: {text[:20]!r} is not a factor above zero, such as 1.5")
    return Fraction(text)


def _start(text: str) -> Exact:
    try:
        return read_time(text)
    except ValueError:
        raise ConfigError(f"--start: {text[:40]!r} is not an instant such as 2026-01-01T00:00Z") from None


def _facts(found: Replay) -> list[tuple[str, str]]:
    facts = [
        ("calls", f"{found.calls:,}"),
        ("admitted", f"{found.admitted:,}, {show_usd(found.spent)}"),
        ("refused", f"{found.refused:,}, {show_usd(found.refused_cost)}"),
    ]
    if found.skipped:
        facts.append(("skipped", f"{found.skipped:,} malformed rows"))
    if found.rate is not None and found.store_rate is not None:
        facts.append(("speed", f"{found.rate:,.0f} calls/s; the store alone {found.store_rate:,.0f} calls/s"))
    return facts


def _print_lines(found: Replay) -> None:
    for name, value in _facts(found):
        click.echo(f"{name:<9} {value}")
    for result in found.limits:
        spent = "" if result.max_spent is None else f", max spent {show_usd(result.max_spent)}"
        click.echo(f"limit     {result.text}: refused {result.refused:,}{spent}")


def _print_table(found: Replay) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, value in _facts(found):
        console.print(f"{name:<9} {value}", markup=False, highlight=False)
    table = Table("limit")
    table.add_column("refused", justify="right")
    table.add_column("max spent", justify="right")
    for result in found.limits:
        spent = "" if result.max_spent is None else show_usd(result.max_spent)
        table.add_row(result.text.replace("[", "\\["), f"{result.refused:,}", spent)
    if found.limits:
        console.print(table)


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
