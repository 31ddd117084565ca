"""`budget prices`: which prices hold, and where they come from. Here are list and show; the others are beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click

from budget.cli.common import Commands, Common, common
from budget.cli.output import Column, note, pairs, print_json, table
from budget.errors import ConfigError
from budget.prices import Model, PriceBook, Row
from budget.prices.keys import RateKey, named_rates
from budget.prices.own import show_rate
from budget.window import at_zone

_CARD = ("input", "output", "cache_read")


@click.group("prices", cls=Commands, default="list", lazy={
    "list": ("prices", "List the models with a price."),
    "show": ("prices", "Show everything about one model's prices."),
    "set": ("priceset", "Set a price of your own."),
    "check": ("pricecheck", "Check your own prices, and how old the shipped ones are."),
    "diff": ("pricecheck", "Compare the prices with another catalogue."),
})  # fmt: skip
def prices() -> None:
    """See, check and set what models cost. Nothing of this needs a network.

    Prices are USD per million tokens. Own ones lie over those that are shipped: files named by price_files in
    budget.toml, then budget-prices.toml (which `budget prices set` writes), then [[prices]] in budget.toml.

    \b
    Example:
      budget prices list sonnet
      budget prices show claude-sonnet-4-6
      budget prices set my-model --input 0.10 --output 0.40
    """


@click.command("list")
@click.argument("word", required=False, metavar="[WORD]")
@click.option("--provider", metavar="NAME", help="Only this provider's.")
@click.option("--all", "everything", is_flag=True, help="Retired models too.")
@common
def list_prices(common: Common, word: str | None, provider: str | None, everything: bool) -> None:
    """List the models with a price, or those with WORD in a name: USD per million tokens, as they are today.

    \b
    Example:
      budget prices list
      budget prices list sonnet --provider anthropic
      budget prices list --all --json
    """
    now, book = time.time_ns() // 1000, _book()
    book.check_provider(provider)
    found = [
        (model, row) for model in book.models()
        if provider in (None, model.provider) and _named(model, word)
        and ((row := model.row(now)).status != "retired" or everything)
    ]  # fmt: skip
    found.sort(key=lambda pair: (pair[0].provider, pair[0].id))
    if common.json:
        print_json({"models": [_summary(model, row) for model, row in found]})
        return
    columns = [
        Column("provider", drop=1), Column("model", shrink=True, least=36), Column("input", True),
        Column("output", True), Column("cache read", True, drop=2), Column("context", True, drop=5),
        Column("since", drop=4), Column("status", drop=3),
    ]  # fmt: skip
    shown = [_summary(model, row) for model, row in found]
    table(columns, [
        (x["provider"] or "-", x["model"], x["input"], x["output"], x["cache_read"] or "-",
         f"{x['context']:,}" if x["context"] else "-", x["since"] or "-", x["status"]) for x in shown
    ])  # fmt: skip
    if not found:
        note("there is no such model; all names: budget prices list --all")


@click.command("show")
@click.argument("model")
@click.option("--provider", metavar="NAME", help="Whose; looked up by the model if not given.")
@click.option("--at", "day", metavar="YYYY-MM-DD", help="Only the row that holds on this day (UTC).")
@common
def show(common: Common, model: str, provider: str | None, day: str | None) -> None:
    """Show everything about one model's prices: names, limits, and every dated row with its rates and source.

    A name that means no model is an error with the nearest names.

    \b
    Example:
      budget prices show claude-sonnet-4-6
      budget prices show gpt-5.5-2026-04-23 --at 2026-06-01 --json
    """
    at = time.time_ns() // 1000 if day is None else _midnight(day, "at")
    book = _book()
    found = book.find(model, book.check_provider(provider))
    holds = found.row(at)
    rows = found.rows if day is None else (holds,)
    if common.json:
        print_json({**_facts(found), "rows": [{**_row(row), "holds": row is holds} for row in rows]})
        return
    pairs([(name.replace("_", " "), text) for name, text in _words(found)])
    for row in rows:
        click.echo()
        pairs([(name, text) for name, text in _row_words(row, row is holds)])
        _print_rates(row)


def _book() -> PriceBook:
    from budget.config import price_book

    return price_book()


def _midnight(day: str, name: str) -> int:
    """Read a day as its first microsecond, UTC.

    Raises:
        ConfigError: It is none.
    """
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError:
        raise ConfigError(f"{name}: {day[:40]!r} is not a day such as 2026-11-20") from None


def _named(model: Model, word: str | None) -> bool:
    return word is None or any(word.lower() in name.lower() for name in (model.id, *model.aliases))


def _since(row: Row) -> str | None:
    return at_zone(row.from_us).date().isoformat() if row.from_us else None


def _summary(model: Model, row: Row) -> dict[str, Any]:
    rates = named_rates(row)
    card = {name: show_rate(key, rates[key]) if (key := RateKey(name)) in rates else None for name in _CARD}
    return {
        "provider": model.provider or None, "model": model.id, **card, "context": model.context, "since": _since(row),
        "status": row.status, "origin": row.origin or "shipped",
    }  # fmt: skip


def _facts(model: Model) -> dict[str, Any]:
    return {
        "provider": model.provider or None, "model": model.id, "aliases": list(model.aliases),
        "snapshots": list(model.snapshots), "tokenizer": model.tokenizer, "context": model.context,
        "max_output": model.max_output,
    }  # fmt: skip


def _row(row: Row) -> dict[str, Any]:
    """Return a row as plain JSON types."""
    rates = named_rates(row)
    return {
        "since": _since(row), "status": row.status, "origin": row.origin or "shipped", "source": row.source,
        "retrieved": row.retrieved, "review_by": row.review_by,
        "rates": {str(key): show_rate(key, picos) for key, picos in rates.items() if not key.per_call},
        "per_call": {str(key): show_rate(key, picos) for key, picos in rates.items() if key.per_call},
        "factors": [{"when": dict(when), "multiply": show_rate(RateKey("factor"), ppm)} for when, ppm in
                    row.rates.factors],
    }  # fmt: skip


def _words(model: Model) -> Iterator[tuple[str, str]]:
    for name, value in _facts(model).items():
        if isinstance(value, int):
            yield name, f"{value:,} tokens"
        elif value:
            yield name, ", ".join(value) if isinstance(value, list) else value


def _row_words(row: Row, holds: bool) -> Iterator[tuple[str, str]]:
    yield "since", f"{_since(row) or 'always'}{' (holds)' if holds else ''}, {row.status}"
    yield "stands in", row.origin or "the shipped prices"
    if row.source:
        yield "source", row.source
    if row.retrieved:
        yield "read", row.retrieved
    if row.review_by:
        yield "review by", row.review_by
    for key, picos in named_rates(row).items():
        if key.per_call:
            what = " ".join([key.rate.removeprefix("per_unit.").removeprefix("per_"), key.mode]).rstrip()
            yield f"each {what}", f"${show_rate(key, picos)}"
    for when, ppm in row.rates.factors:
        named = ", ".join(f"{trait}={'|'.join(values)}" for trait, values in when.items())
        yield f"x {show_rate(RateKey('factor'), ppm)}", f"every token, if {named}"


def _print_rates(row: Row) -> None:
    """Print the cards of a row: one line for each mode and size of request, what only some have in the last column."""
    lines: dict[tuple[str, int], dict[str, str]] = {}
    for key, picos in named_rates(row).items():
        if not key.per_call:
            lines.setdefault((key.mode, key.over), {})[key.rate] = show_rate(key, picos)
    columns = [
        Column("USD per million tokens"), *(Column(name.replace("_", " "), True) for name in _CARD),
        Column("further rates", shrink=True),
    ]  # fmt: skip
    table(columns, [
        (_line_name(*place), *(card.get(name, "-") for name in _CARD), _further(card)) for place, card in lines.items()
    ])  # fmt: skip


def _line_name(mode: str, over: int) -> str:
    return f"{mode or 'standard'}{f', over {over:,} input' if over else ''}"


def _further(card: Mapping[str, str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {text}" for name, text in card.items() if name not in _CARD) or "-"
