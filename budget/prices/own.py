"""The operator's own prices in files: where they stand, in which order they lie over the book, and what must be said.

Files of `price_files` lie over the shipped book, in their order; over them `budget-prices.toml`, which `budget prices
set` writes; over that the `[[prices]]` of budget.toml; on top what code gives as `prices=`. Every row of a file is
checked against the schema of `prices/*.toml`.

A price that is much too low lets everything through, and a slip of a decimal point is easily made. So a row of a file
that takes a known rate to half or less, or to zero, is refused unless it says `lower = true`. It is compared with what
holds below it from now on: what is past is paid, and a price that was refused or taken stays so as time goes by.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget.errors import ConfigError, UnknownModel
from budget.money import format_usd
from budget.prices.keys import RateKey, lowered, named_rates
from budget.window import at_zone

if TYPE_CHECKING:
    from budget.prices import Model, PriceBook, Row

__all__ = ["OWN_FILE", "Drop", "Laid", "Layer", "configured_layers", "file_layers", "lay", "lay_all", "show_rate"]

OWN_FILE = "budget-prices.toml"
_ENDLESS = 2**63
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Layer:
    """Rows of one file: how errors and `Row.origin` call it, what reads it into compiled models and faults, and the
    path of an overlay file."""

    where: str
    examine: Callable[[], tuple[list[dict[str, Any]], list[str]]]
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """A rate of an own row that is half or less of what is known; `since` is the row's first day, None for always."""

    model: str
    since: str | None
    rate: RateKey
    here: int
    there: int
    origin: str

    def __str__(self) -> str:
        row = f"row from {self.since}." if self.since else ""
        return (
            f"{self.model}.{row}{self.rate}: {show_rate(self.rate, self.here)} is half or less of "
            f"{show_rate(self.rate, self.there)} in {self.origin or 'the shipped prices'}"
        )


@dataclass(frozen=True, slots=True)
class Laid:
    """A book with a layer on it, what is wrong with the layer, and the models of the book below that it prices anew."""

    book: PriceBook
    faults: Sequence[str] = ()
    drops: Sequence[Drop] = ()
    replaced: Sequence[str] = ()

    def wrong(self, remedy: str = "if that is meant, say lower = true in that row") -> list[str]:
        """Return all that is wrong, in words."""
        return [*self.faults, *(f"{drop}; {remedy}" for drop in self.drops)]


def configured_layers(
    files: object, tables: Sequence[Mapping[str, Any]], beside: Path | None, own: Path
) -> list[Layer]:  # fmt: skip
    """Return the layers of a configuration, the lowest first.

    Args:
        files: `price_files`; `BUDGET_PRICE_FILES` goes before it, with paths from the working folder.
        tables: `[[prices]]`.
        beside: The budget.toml that these two are of; paths in it are relative to its folder.
        own: Where `budget-prices.toml` stands, if there is one.

    Raises:
        ConfigError: `price_files` is not a list of paths.
    """
    named = os.environ.get("BUDGET_PRICE_FILES")
    paths = files if named is None else [part for part in named.split(os.pathsep) if part]
    if not isinstance(paths, list) or not all(isinstance(part, str) for part in paths):
        raise ConfigError('budget.toml: price_files: a list of paths is needed, such as ["contract.toml"]')
    base = beside.parent if beside and named is None else Path.cwd()
    return [
        *file_layers(paths, base),
        *(file_layers([own], base) if own.is_file() else ()),
        *([_tables_layer(tables, beside)] if tables and beside else ()),
    ]


def file_layers(paths: Iterable[str | Path], base: Path) -> Iterator[Layer]:
    """Yield a layer per overlay file: files as they stand, folders by their `*.toml`, relative ones from `base`."""
    for path in paths:
        whole = base / path
        inside = sorted(whole.glob("*.toml")) if whole.is_dir() else [whole]
        yield from map(_file_layer, inside)
        if not inside:
            yield Layer(_shown(whole), lambda: ([], ["has no *.toml in it"]))


def _tables_layer(tables: Sequence[Mapping[str, Any]], path: Path) -> Layer:
    """Return the layer of the `[[prices]]` of a budget.toml."""

    def examine() -> tuple[list[dict[str, Any]], list[str]]:
        from budget.prices.overlayfiles import examine_tables

        return examine_tables(tables)

    return Layer(f"{_shown(path)}: [[prices]]", examine)


def lay(book: PriceBook, layer: Layer, now_us: int) -> Laid:
    """Put one layer on a book, and say what is wrong with it; with faults of the schema the book is the one below."""
    models, faults = layer.examine()
    if faults or not models:
        return Laid(book, faults)
    laid = book.overlay_models(models, layer.where)
    drops: list[Drop] = []
    replaced = []
    for raw in models:
        try:
            known = book.find(raw["id"], raw.get("provider"))
        except UnknownModel:
            continue
        except ConfigError as error:  # several providers sell that name
            faults.append(f"{raw['id']}.provider: {error}")
            continue
        replaced.append(f"{known.id} ({known.provider})" if known.provider else known.id)
        meant = {row["from"] for row in raw["rows"] if row.get("lower")}
        own = laid.find(raw["id"], raw.get("provider"))
        for row in own.rows:
            if row.origin == layer.where and row.from_us not in meant:
                drops += _drops(raw["id"], row, own, known, now_us)
    return Laid(laid, faults, drops, replaced)


def lay_all(book: PriceBook, layers: Iterable[Layer], now_us: int) -> PriceBook:
    """Put layers on a book, the first one lowest.

    Raises:
        ConfigError: A layer has faults; names file, row and field.
    """
    for layer in layers:
        laid = lay(book, layer, now_us)
        if wrong := laid.wrong():
            more = len(wrong) - _SHOWN
            rest = f"; and {more} more: budget prices check" if more > 0 else ""
            raise ConfigError(f"{layer.where}: {'; '.join(wrong[:_SHOWN])}{rest}")
        book = laid.book
    return book


def show_rate(key: RateKey, picos: int) -> str:
    """Write a rate as the files have it: USD per million tokens, or per call or request."""
    return format_usd(picos // 1000 if key.per_call else picos * 1000)


def _file_layer(path: Path) -> Layer:
    def examine() -> tuple[list[dict[str, Any]], list[str]]:
        from budget.prices.overlayfiles import examine_file

        return examine_file(path)

    return Layer(_shown(path), examine, path)


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _drops(model: str, row: Row, own: Model, known: Model, now_us: int) -> Iterator[Drop]:
    """Say which rates of an own row are half or less of what holds below, from now on and as long as the row does."""
    end = _end(own, row)
    if end <= now_us:
        return
    here, said = named_rates(row), set()
    for below in known.rows:
        begun = below.from_us < end or below is known.rows[0]
        if not begun or _end(known, below) <= max(row.from_us, now_us):
            continue
        for key, there, rate in lowered(here, named_rates(below)):
            if key not in said:
                said.add(key)
                since = at_zone(row.from_us).date().isoformat() if row.from_us else None
                yield Drop(model, since, key, rate, there, below.origin)


def _end(model: Model, row: Row) -> int:
    return next((later.from_us for later in model.rows if later.from_us > row.from_us), _ENDLESS)
