"""Whether a bill charges its own tokens by the rates of the price book.

A charge says what it is for: the kind of tokens, the tier, whether the context was long. So the book has its rate, and
the charge divided by it is how many tokens were charged; for each kind that must be as many as were used. Where a
charge says less, its rate lies between the least and the most that it can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import NamedTuple

from budget.bill.sums import Billed, Item, Money
from budget.errors import ConfigError, UnknownModel
from budget.prices import Model, PriceBook, Rates
from budget.prices.rates import Card

__all__ = ["Wrong", "find_model", "wrong_items"]

_PPM = 1_000_000
_LONG = 200_000
"""The input tokens above which a charge is said to be for a long context: Anthropic's cost report has "0-200k" and
"200k-1M", the cards of OpenAI's models begin above. A card that begins below is not told apart."""
_KINDS = ("input", "cache_read", "cache_write", "output")


class Wrong(NamedTuple):
    """A kind of tokens that was charged by another rate: pico-dollars per token, and the book's, from least to most."""

    kind: str
    rate: int
    least: int
    most: int


def find_model(book: PriceBook, model: str | None, provider: str) -> Model | None:
    """Return a model of the book, or None if it has no price."""
    try:
        return None if model is None else book.find(model, provider)
    except (UnknownModel, ConfigError):
        return None


def wrong_items(model: Model, at_us: int, billed: Billed, money: Money) -> list[Wrong]:
    """Return what was charged by other rates than the book's.

    Args:
        model: In the book.
        at_us: When.
        billed: The tokens.
        money: What was charged for them.
    """
    dated = model.bound_rates(at_us)
    kinds: dict[str, int] = {}
    for tokens in billed.tiers.values():
        for kind, count in tokens.items():
            kinds[kind] = kinds.get(kind, 0) + count
    if any(item.item == "" for item in money.items):
        return _check_total(dated, billed, money)
    told_apart = any(item.item.startswith("cache_write_") for item in money.items)
    groups = kinds if told_apart else {name: _count(kinds, name) for name in _KINDS}
    found = (_check(dated, name, tokens, kinds, money) for name, tokens in groups.items() if tokens)
    return [wrong for wrong in found if wrong is not None]


def _check(dated: tuple[Rates, ...], name: str, tokens: int, kinds: Mapping[str, int], money: Money) -> Wrong | None:
    least = most = nanos = off = 0
    known: list[int] = []
    for item, charge in money.items.items():
        if not _is_for(item.item, name):
            continue
        rates = list(_rates(dated, item, kinds))
        known += rates
        nanos, off = nanos + charge.nanos, off + charge.off
        least += -(-1000 * max(0, charge.nanos - charge.off) // max(1, *rates))
        most += 1000 * (charge.nanos + charge.off) // max(1, min(rates))
    known = known or list(_rates(dated, Item(name, None, None, False), kinds))
    if least <= tokens <= most or (not any(known) and nanos <= off) or tokens * max(known) <= 1000 * (off or 1):
        return None
    return Wrong(name, 1000 * nanos // tokens, min(known), max(known))


def _check_total(dated: tuple[Rates, ...], billed: Billed, money: Money) -> list[Wrong]:
    """Check a charge that is for all kinds together."""
    least = most = total = 0
    for (tier, geo), kinds in billed.tiers.items():
        for kind, count in kinds.items():
            both = [rate for long in (False, True) for rate in _rates(dated, Item(kind, tier, geo, long), kinds)]
            least, most, total = least + count * min(both), most + count * max(both), total + count
    room = 1000 * sum(charge.off for charge in money.items.values())
    if not total or least - room <= 1000 * money.nanos <= most + room:
        return []
    return [Wrong("", 1000 * money.nanos // total, least // total, -(-most // total))]


def _count(kinds: Mapping[str, int], name: str) -> int:
    return sum(tokens for kind, tokens in kinds.items() if _is_for(kind, name))


def _is_for(item: str, name: str) -> bool:
    """Whether an item is a kind, or a part of it: "input_audio" of "input"."""
    return item == name or item.startswith(f"{name}_")


def _rates(dated: Iterable[Rates], item: Item, kinds: Iterable[str]) -> Iterator[int]:
    """Yield what a token of an item can cost."""
    traits = {"service_tier": item.tier, "inference_geo": item.geo}
    for rates in dated:
        cards = next((mode.cards for mode in rates.modes if _fits(mode.when, traits)), rates.cards)
        factors = [ppm for when, ppm in rates.factors if _fits(when, traits)]
        meant = cards[1:] if item.long else [card for card in cards if card.over < _LONG]
        for card in meant or cards:
            for rate in _of(card, item.item, kinds):
                yield -(-rate * prod(factors) // _PPM ** len(factors))


def _fits(when: Mapping[str, tuple[str, ...]], traits: Mapping[str, str | None]) -> bool:
    return all(traits.get(name) in values for name, values in when.items())


def _of(card: Card, item: str, kinds: Iterable[str]) -> Iterator[int]:
    if item == "cache_write":
        yield from (card.write_rate(kind.removeprefix("cache_write_")) for kind in kinds if _is_for(kind, item))
    elif item.startswith("cache_write_"):
        yield card.write_rate(item.removeprefix("cache_write_"))
    else:
        base = {"input": card.input, "cache_read": card.read_rate(), "output": card.output}
        part = card.part_rate(item)
        yield next(rate for kind, rate in base.items() if _is_for(item, kind)) if part is None else part
