"""What judges prices: `budget prices check` and `budget prices diff`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from budget.cli.common import Common, common
from budget.cli.output import Cell, Column, note, print_json, some, table
from budget.cli.pricediff import Catalogue, Comparison, compare, read_genai_prices, read_litellm
from budget.money import format_usd
from budget.prices import PriceBook
from budget.prices.own import Drop, Laid, Layer, file_layers, lay, show_rate
from budget.prices.stale import due_models, too_old


@click.command("check")
@click.argument("files", nargs=-1, metavar="[FILE ...]", type=click.Path(path_type=Path))
@common
def check(common: Common, files: tuple[Path, ...]) -> int:
    """Check files of prices, or all own prices in effect; exit code 1 if there is a fault.

    A fault is what is against the schema, and a row that takes a known price to half or less without lower = true.
    Worth knowing: which shipped prices are replaced, which are due for a review, and how old the shipped ones are.

    \b
    Example:
      budget prices check
      budget prices check contract.toml --json
    """
    from budget.config import price_layers

    layers = list(file_layers(files, Path.cwd())) if files else price_layers()
    now = datetime.now(UTC)
    laid = _lay(layers, _us(now))
    book = laid[-1][1].book if laid else PriceBook.shipped()
    due, ok = due_models(book, _us(now)), not any(found.wrong() for _, found in laid)
    if common.json:
        print_json({
            "ok": ok, "files": [where for where, _ in laid],
            "faults": [{"file": where, "fault": fault} for where, found in laid for fault in found.faults],
            "drops": [_drop(where, drop) for where, found in laid for drop in found.drops],
            "replaced": [{"file": where, "model": model} for where, found in laid for model in found.replaced],
            "review": due, "book": book.hash, "retrieved": book.retrieved, "age_days": _age(book, now.date()),
        })  # fmt: skip
    else:
        _print_check(laid, due, book, now.date())
    return 0 if ok else 1


@click.command("diff")
@click.argument("catalogue", default="genai-prices", metavar="[FILE.json|genai-prices]")
@click.option("--provider", metavar="NAME", help="Only this provider's models.")
@common
def diff(common: Common, catalogue: str, provider: str | None) -> None:
    """Compare the token prices in effect with the installed genai-prices, or with LiteLLM's JSON file.

    A model is equal if every rate that the catalogue has is what would be charged here. Nothing is fetched.

    \b
    Example:
      budget prices diff
      budget prices diff model_prices_and_context_window.json --provider openai
    """
    from budget.config import price_book

    now = datetime.now(UTC)
    book = price_book()
    other = read_genai_prices(now) if catalogue == "genai-prices" else read_litellm(Path(catalogue))
    found = compare(book, other, _us(now), book.check_provider(provider))
    if common.json:
        print_json(_diff_json(other, found))
    else:
        _print_diff(other, found)


def _us(now: datetime) -> int:
    return int(now.timestamp()) * 1_000_000


def _lay(layers: Sequence[Layer], now_us: int) -> list[tuple[str, Laid]]:
    """Put the layers on the shipped book, one on the other, and return what came of each."""
    book, found = PriceBook.shipped(), []
    for layer in layers:
        found.append((layer.where, lay(book, layer, now_us)))
        book = found[-1][1].book
    return found


def _drop(where: str, drop: Drop) -> dict[str, Any]:
    here, there = show_rate(drop.rate, drop.here), show_rate(drop.rate, drop.there)
    return {"file": where, "model": drop.model, "since": drop.since, "rate": str(drop.rate), "price": here,
            "known": there, "known_from": drop.origin or "shipped"}  # fmt: skip


def _print_check(laid: Sequence[tuple[str, Laid]], due: Sequence[str], book: PriceBook, today: date) -> None:
    rows: list[tuple[Cell, Cell, Cell]] = []
    for where, found in laid:
        rows += [(("FAULT", "bold red"), where, fault) for fault in found.wrong()]
        if not found.wrong():
            about = f"replaces {some(found.replaced)}" if found.replaced else "adds models"
            rows.append((("ok", "green"), where, about))
    if due:
        rows.append((("note", "yellow"), "review", f"to be looked at again: {some(due)}"))
    age = ("note", "yellow") if too_old(book, today) else ("ok", "green")
    rows.append((age, "shipped prices", _read(book, today)))
    table([Column("state"), Column("file"), Column("detail")], rows)


def _age(book: PriceBook, today: date) -> int | None:
    return (today - date.fromisoformat(book.retrieved)).days if book.retrieved else None


def _read(book: PriceBook, today: date) -> str:
    return f"read {_age(book, today)} days ago ({book.retrieved})" if book.retrieved else "read nobody knows when"


def _diff_json(other: Catalogue, found: Sequence[Comparison]) -> dict[str, Any]:
    return {
        "catalogue": other.name,
        "providers": [
            {"provider": x.provider, "equal": x.equal, "different": x.different, "only_here": x.only_here,
             "only_there": x.only_there} for x in found
        ],
        "differences": [
            {"provider": d.provider, "model": d.model, "rate": str(d.rate),
             "ours": None if d.ours is None else format_usd(d.ours * 1000), "theirs": _mtok(d.theirs)}
            for x in found for d in x.differences
        ],
    }  # fmt: skip


def _print_diff(other: Catalogue, found: Sequence[Comparison]) -> None:
    counts = [(x.provider, *map(str, (x.equal, x.different, len(x.only_here), len(x.only_there)))) for x in found]
    table([Column("provider"), *(Column(name, True) for name in ("equal", "different", "only here", "only there"))],
          counts)  # fmt: skip
    rows = [(d.provider, d.model, str(d.rate), "-" if d.ours is None else format_usd(d.ours * 1000), _mtok(d.theirs))
            for x in found for d in x.differences]  # fmt: skip
    if rows:
        click.echo()
        table([Column("provider", drop=1), Column("model", shrink=True, least=28), Column("rate"),
               Column("ours", True), Column("theirs", True)], rows)  # fmt: skip
    note(f"compared with {other.name}: {len(rows)} rates differ" if found else f"{other.name} has no such provider")


def _mtok(picos: Any) -> str:
    """Write a catalogue's rate: USD per million tokens, exactly."""
    return f"{picos.scaleb(-6).normalize():f}"
