"""`budget replay`: what would these budgets, prices, models or caches have done?"""

from __future__ import annotations

import re
import signal
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from budget.cli.charts import check_plot, write_plot
from budget.cli.common import Common, assigned, common
from budget.cli.output import Column, note, pairs, print_json, table
from budget.config import Settings, duration_us, load, read_limits
from budget.errors import ConfigError
from budget.limits import Limit
from budget.money import show_usd
from budget.plot import lines
from budget.prices import PriceBook
from budget.replay import (
    CACHES,
    FIELDS,
    PRESETS,
    Comparison,
    Exact,
    LimitResult,
    Past,
    Pricing,
    Recorded,
    Replay,
    Scratch,
    Trace,
    compare,
    read_time,
)
from budget.stores.base import Store, open_store

__all__ = ["replay"]

_FACTOR = re.compile(r"\d{1,4}(?:\.\d{1,6})?", re.ASCII)
_LONG = 10_000  # rows from which a progress bar is worth its place
_OWN = "--limit"
"""The name of the policy of the limits on the command line."""
_OF_TRACES = ("preset", "columns", "fill", "start", "strict")


@click.command("replay")
@click.argument("trace", type=click.Path(exists=True, dir_okay=False), required=False)
@click.option("--ledger", is_flag=True, help="Replay the account's own records, imported ones too, instead of a TRACE.")
@click.option("--since", metavar="30d", help="Of the ledger: only calls of the last 30d, 12h ...")
@click.option("--limit", "limits", multiple=True, metavar="LIMIT",
              help="A limit such as '$20/run' or 'per=user $5/day'; may be given again. No others apply.")  # fmt: skip
@click.option("--policy", "files", multiple=True, metavar="FILE", type=click.Path(exists=True, dir_okay=False),
              help="The [[limits]] of a file like budget.toml; given again, policies stand side by side.")  # fmt: skip
@click.option("--preset", type=click.Choice(list(PRESETS)), help="The kind of trace. Default: told by the header.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME", help="The column of a field. Numbers of time "
              "and duration are seconds, or what NAME ends in: _ms, _us, _ns. "
              f"Fields: {', '.join(FIELDS)}.")  # fmt: skip
@click.option("--set", "fill", multiple=True, metavar="FIELD=VALUE", help="What the trace lacks, such as model=gpt-4o.")
@click.option("--start", help="When relative times begin.  [default: 2026-01-01T00:00Z]")
@click.option("--reserve", default="1", show_default=True, metavar="FACTOR",
              help="A call reserves this times what it cost and the tokens it used.")  # fmt: skip
@click.option("--prices-at", type=click.Choice(["today", "then", "booked"]),
              help="Price calls as of today, or of when each was made; of the ledger also as booked.  "
              "[default: today; of the ledger booked]")  # fmt: skip
@click.option("--prices-file", "prices", type=click.Path(exists=True, dir_okay=False),
              help="Other prices: a file as of `price_files`.")  # fmt: skip
@click.option("--model-map", "models", multiple=True, metavar="A=B", help="Other models: B in the place of A.")
@click.option("--cache", type=click.Choice(CACHES),
              help="Another use of prompt caches: as much as a session's calls allow, or none.")  # fmt: skip
@click.option("--plot", metavar="FILE.svg", help="Draw what was spent over time into a file, which must not exist.")
@click.option("--strict", is_flag=True, help="End with an error at a malformed row instead of skipping it.")
@common
def replay(
    shared: Common, trace: str | None, ledger: bool, since: str | None, limits: Sequence[str], files: Sequence[str],
    reserve: str, prices_at: str | None, prices: str | None, models: Sequence[str], cache: str | None,
    plot: str | None, **reading: Any,
) -> None:  # fmt: skip
    """Replay a recorded TRACE (CSV, plain or gzipped) against limits: what would they have refused?

    It works in an account of its own, which is removed afterwards: no live pool is read or written. It is in memory,
    or, for a TRACE, in --store if that is given.

    \b
    Example:
      budget replay trace.csv.gz --set model=gpt-4o --limit '$2/hour' --limit 'per=user $5/day'
      budget replay --ledger --since 30d --policy strict.toml --policy mild.toml --plot spent.svg
      budget replay --ledger --model-map gpt-4o=gpt-4o-mini --cache full
    """
    settings = load(store=shared.store, account=shared.account)
    factor, policies = _factor(reserve), _policies(limits, files)
    if plot is not None:
        check_plot(plot)
    plan = prices, _models(models), cache
    at = prices_at or ("today" if not ledger else "then" if prices or cache else "booked")
    pricing, before = _pricing(settings.book, at, ledger, plan)
    with ExitStack() as opened:
        opened.enter_context(_terminated())
        past = _past(opened, shared, trace, ledger, since, reading)
        store = Scratch() if ledger else _store(opened, shared, settings)
        advance = opened.enter_context(_progress(past))
        found = compare(store, past, policies, pricing, before=before, reserve=factor, on_progress=advance)
    for name in sorted(pricing.unused):
        note(f"--model-map: no call has the model {name!r}")
    if plot is not None:
        _draw(plot, found)
    one = next(iter(found.policies.values())) if len(policies) == 1 else None
    if shared.json:
        print_json((one or found).to_dict())
    elif one is not None:
        _print(one)
    else:
        _print_all(found)


@contextmanager
def _terminated() -> Iterator[None]:
    """Take a SIGTERM as an interruption, which leaves no account behind in a store."""
    was = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, was)


def _policies(limits: Sequence[str], files: Sequence[str]) -> dict[str, Sequence[str | Limit]]:
    """Return the limits of each policy by its name; without any there is one that has none."""
    found: dict[str, Sequence[str | Limit]] = {} if files and not limits else {_OWN: limits}
    for file in files:
        if file in found:
            raise ConfigError(f"--policy: {file!r} is given twice")
        try:
            content = tomllib.loads(Path(file).read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"--policy: {file}: {error}") from None
        found[file] = read_limits(content, file)
        if not found[file]:
            raise ConfigError(f"--policy: {file} has no [[limits]]")
    return found


def _models(models: Sequence[str]) -> Mapping[str, str]:
    return assigned(models, "--model-map")


def _pricing(
    book: PriceBook, at: str, ledger: bool, plan: tuple[str | None, Mapping[str, str], str | None]
) -> tuple[Pricing, Pricing | None]:
    """Return what calls cost, and, if that is not as it was, what they did cost."""
    prices, models, cache = plan
    if at == "booked" and (not ledger or prices or cache):
        what = "--prices-file and --cache price calls anew" if ledger else "a trace has no booked amounts"
        raise ConfigError(f"--prices-at booked: {what}; say today or then")
    priced_at, other = time.time_ns() // 1000 if at == "today" else None, book
    if prices is not None:
        from budget.prices.own import file_layers, lay_all

        other = lay_all(book, file_layers([prices], Path.cwd()), time.time_ns() // 1000)

    def unpriced(model: str) -> None:
        note(f"{model or 'no model'}: no price; its calls cost what was booked")

    pricing = Pricing(other, at=priced_at, booked=at == "booked", models=models, cache=cache, on_unpriced=unpriced)
    if not (prices or models or cache):
        return pricing, None
    return pricing, Pricing(book, at=priced_at, booked=ledger)


def _past(
    opened: ExitStack, shared: Common, trace: str | None, ledger: bool, since: str | None, reading: Mapping[str, Any]
) -> Past:
    if ledger == (trace is not None):
        raise click.UsageError("name a TRACE, or --ledger, and not both")
    if ledger:
        if given := [name for name in _OF_TRACES if reading[name]]:
            raise click.UsageError(f"--{given[0].rstrip('s') if given[0] == 'columns' else given[0]} is for traces")
        from budget.records import CallFile

        budget = opened.enter_context(shared.open())
        records = CallFile(budget.engine.books)
        opened.callback(records.close)
        since_us = 0 if since is None else budget.engine.verbs.now() - duration_us(since, "since")
        return Recorded(records, since_us)
    if since is not None:
        raise click.UsageError("--since is for --ledger")
    assert trace is not None
    return Trace(
        trace, preset=reading["preset"], columns=assigned(reading["columns"], "--column"),
        fill=assigned(reading["fill"], "--set"), start=_start(reading["start"] or "2026-01-01T00:00Z"),
        on_malformed=None if reading["strict"] else note,
    )  # fmt: skip


def _store(opened: ExitStack, shared: Common, settings: Settings) -> Store:
    """Return the store that was asked for, else a private one that holds no more than the pools."""
    if shared.store is None or settings.store == "memory://":
        return Scratch()
    store = open_store(settings.store)
    opened.callback(store.close)
    return store


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


def _draw(path: str, found: Comparison) -> None:
    named = {"without limits": found.curve.all()}
    named |= {name: played.curve.all() for name, played in found.policies.items() if played.limits}
    write_plot(path, lines("Spent over time", named))
    note(f"drawn: {path}")


def _print(found: Replay) -> None:
    rows = [
        ("calls", f"{found.calls:,}"),
        ("admitted", f"{found.admitted:,}"),
        ("refused", f"{found.refused:,}"),
        ("spent", show_usd(found.spent)),
        ("refused spend", show_usd(found.refused_cost)),
        ("malformed rows", f"{found.skipped:,}"),
        *_changed(found),
    ]
    if found.rate is not None and found.store_rate is not None:
        rows.append(("calls per second", f"{found.rate:,.0f} (the store alone: {found.store_rate:,.0f})"))
    pairs(rows)
    if found.limits:
        columns = [Column("limit", shrink=True), Column("refused", right=True), Column("max spent", right=True)]
        table(columns, [(result.text, f"{result.refused:,}", _most(result)) for result in found.limits])


def _print_all(found: Comparison) -> None:
    first = next(iter(found.policies.values()))
    pairs([("calls", f"{first.calls:,}"), ("malformed rows", f"{first.skipped:,}"), *_changed(first)])
    columns = [
        Column("policy", shrink=True), Column("admitted", right=True), Column("refused", right=True),
        Column("spent", right=True), Column("refused spend", right=True),
    ]  # fmt: skip
    table(columns, [
        (name, f"{one.admitted:,}", f"{one.refused:,}", show_usd(one.spent), show_usd(one.refused_cost))
        for name, one in found.policies.items()
    ])  # fmt: skip


def _changed(found: Replay) -> list[tuple[str, str]]:
    if found.before is None:
        return []
    return [("all calls, as they were", show_usd(found.before)),
            ("all calls, as replayed", show_usd(found.spent + found.refused_cost))]  # fmt: skip


def _most(result: LimitResult) -> str:
    return "-" if result.max_spent is None else show_usd(result.max_spent)


@contextmanager
def _progress(past: Past) -> Iterator[Callable[[int], None] | None]:
    """Show a bar on stderr for a long trace, if a person looks on."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("replay", total=None, visible=False)

        def advance(calls: int) -> None:
            bar.update(task, completed=calls, total=past.rows, visible=past.rows >= _LONG)

        yield advance
