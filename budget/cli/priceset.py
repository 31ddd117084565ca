"""`budget prices set`: a price of one's own, written to budget-prices.toml."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click

from budget.cli import ownfile
from budget.cli.common import Common, common
from budget.cli.output import note, print_json, say
from budget.errors import ConfigError, UnknownModel
from budget.prices import Model, PriceBook, Row
from budget.prices.keys import RateKey, charged, lowered, named_rates
from budget.prices.own import Drop, Layer, file_layers, lay, lay_all, show_rate
from budget.window import at_zone

_REMEDY = "if that is meant, add --lower"


@dataclass(frozen=True, slots=True)
class _Change:
    """A row in place of another: what each rate was and is."""

    rate: RateKey
    old: int | None
    new: int | None


@click.command("set")
@click.argument("model")
@click.option("--input", "input_", required=True, metavar="USD", help="Per million input tokens.")
@click.option("--output", required=True, metavar="USD", help="Per million output tokens, reasoning too.")
@click.option("--cache-read", metavar="USD", help="Per million tokens read from a cache. Without it: as input.")
@click.option("--cache-write", multiple=True, metavar="TTL=USD", help="Per million written to a cache: 5m=1.25.")
@click.option("--per-request", metavar="USD", help="Added once per request.")
@click.option("--provider", metavar="NAME", help="Whose; looked up by the model if not given.")
@click.option("--from", "day", metavar="YYYY-MM-DD", help="The first day (UTC). Default: today.")
@click.option("--lower", is_flag=True, help="Yes, half or less of what is known, or nothing.")
@common
def set_price(
    common: Common, model: str, input_: str, output: str, cache_read: str | None, cache_write: Sequence[str],
    per_request: str | None, provider: str | None, day: str | None, lower: bool,
) -> None:  # fmt: skip
    """Set a price of your own, from today or a later day on, in budget-prices.toml.

    The file stands beside the nearest budget.toml, else in the working folder, and is read with it. The price holds for
    the model under all its names, in every mode and at every size of request. Earlier rows of the file stay, closed.

    \b
    Example:
      budget prices set my-model --input 0.10 --output 0.40
      budget prices set claude-sonnet-4-6 --input 2.70 --output 13.50 --cache-read 0.27 --cache-write 5m=3.375
      budget prices set gpt-5.5 --input 4.50 --output 27 --from 2027-01-01
    """
    rates = {"input": input_, "output": output, "cache_read": cache_read, "per_request": per_request}
    first = _day(day)
    row = {
        "from": first, **{name: price for name, price in rates.items() if price is not None},
        **({"cache_write": _writes(cache_write)} if cache_write else {}), **({"lower": True} if lower else {}),
    }  # fmt: skip
    if not model.isprintable():
        raise ConfigError(f"model: {model[:80]!r} is not a name: it has characters that cannot be printed")
    from budget.config import own_prices_file

    path = own_prices_file()
    with ownfile.alone(path):
        found, old = _set(path, model, provider, row)
    new = found.row(_us(first))
    changes = _changes(old, new)
    where = {"file": str(path), "model": found.id, "provider": found.provider or None, "from": str(first)}
    if common.json:
        shown = [{"rate": str(x.rate), "old": _shown(x.rate, x.old), "new": _shown(x.rate, x.new)} for x in changes]
        print_json({**where, "changes": shown})
    else:
        say(f"set {found.id}{f' ({found.provider})' if found.provider else ''} from {first} in {path}")
        for x in changes:
            if not (x.rate.mode or x.rate.over):
                say(f"{x.rate.rate}: {_shown(x.rate, x.old) or 'none'} -> {_shown(x.rate, x.new) or 'none'}")
    _note(found, first, new, changes)


def _set(path: Path, name: str, provider: str | None, row: dict[str, Any]) -> tuple[Model, Row | None]:
    """Write the row; return the model as the file has it now, and the row that held before.

    Raises:
        ConfigError: Something is against the schema, or lowers a price without saying so; nothing is written.
    """
    from budget.config import price_book, price_layers
    from budget.prices.files import read_toml
    from budget.prices.overlayfiles import examine_content

    now = time.time_ns() // 1000
    known = _known(price_book(), name, provider)
    old = None if known is None else known.row(max(now, _us(row["from"])))
    if known is not None:
        name = known.id if name in (known.id, *known.aliases) else name
        provider = provider or known.provider or None
    content = read_toml(path) if path.is_file() else {}
    ownfile.put_row(content, name, provider, row)
    layers = price_layers()
    (there,) = file_layers([path], path.parent)
    own = Layer(there.where, lambda: examine_content(content), path)
    lower = [layer for layer in layers if layer.path is not None and layer.path != path]
    laid = lay(lay_all(PriceBook.shipped(), lower, now), own, now)
    if wrong := laid.wrong(_REMEDY):
        raise ConfigError("; ".join(wrong))
    found = laid.book.find(name, provider)
    if old is not None and not row.get("lower"):
        _refuse_drop(found.id, old, found.row(_us(row["from"])))
    ownfile.write(path, content)
    return found, old


def _known(book: PriceBook, name: str, provider: str | None) -> Model | None:
    try:
        return book.find(name, provider)
    except UnknownModel:
        return None


def _refuse_drop(model: str, old: Row, new: Row) -> None:
    """Refuse a price of half or less of the one in effect, which may be of a layer above or of this file.

    Raises:
        ConfigError: It is.
    """
    since = at_zone(new.from_us).date().isoformat()
    pairs = lowered(named_rates(new), named_rates(old))
    if drops := [f"{Drop(model, since, key, here, there, old.origin)}; {_REMEDY}" for key, there, here in pairs]:
        raise ConfigError("; ".join(drops))


def _changes(old: Row | None, new: Row) -> list[_Change]:
    before, after = {} if old is None else named_rates(old), named_rates(new)
    pairs = [(key, charged(before, key), charged(after, key)) for key in {**after, **before}]
    return [_Change(key, was, is_) for key, was, is_ in pairs if was != is_]


def _note(found: Model, day: date, new: Row, changes: Sequence[_Change]) -> None:
    """Say what does not go without saying: what of the old row is gone, and what lies over the new one."""
    from budget.config import price_book

    gone = dict.fromkeys(
        " ".join([x.rate.mode or "standard", *([f"over {x.rate.over:,} input tokens"] if x.rate.over else [])])
        for x in changes if x.rate.mode or x.rate.over
    )  # fmt: skip
    if gone:
        note(f"these had rates of their own and cost as the new row says: {', '.join(gone)}")
    holds = price_book().find(found.id, found.provider or None).row(_us(day))
    if holds.origin != new.origin:
        note(f"it does not hold: the price in {holds.origin or 'code'} goes before it")


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"from: {text[:40]!r} is not a day such as 2026-11-20") from None


def _us(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000_000


def _writes(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        ttl, equals, price = pair.partition("=")
        if not (equals and ttl) or ttl in found:
            raise ConfigError(f"cache-write: {pair[:40]!r} is not a TTL and its price, such as 5m=1.25, each once")
        found[ttl] = price
    return found


def _shown(rate: RateKey, picos: int | None) -> str | None:
    return None if picos is None else show_rate(rate, picos)
