"""The two sides that are compared, each summed by provider, day, model and key.

The ledger's side comes from the file of records. A provider counts a call to the day in which it began, or to that in
which it ended; neither says which. So the calls are summed by both, and whoever compares takes what fits the bill.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from budget.bill.lines import DAY_US, Charged, Used
from budget.errors import UnknownModel
from budget.prices import PriceBook
from budget.records.sums import summed

__all__ = [
    "Billed", "Charge", "Figures", "Group", "Item", "Money", "Names", "Ours", "billed_sums", "inputs_of", "merge",
    "money_sums", "our_sums", "pruned_days",
]  # fmt: skip

Tariff = tuple[str | None, str | None]
"""A tier and a geo."""

_ADDED = ", ".join(map(summed, (
    "c.usd", "c.input - c.cache_read - c.cache_write", "c.cache_read", "c.cache_write", "c.output", "c.estimated",
    "c.estimated * c.usd", "c.estimated * c.input", "c.estimated * c.output",
)))  # fmt: skip
_CALLS = f"""
select c.at / :day, (c.at - coalesce(c.latency_ms, 0) * 1000) / :day, c.model, c.provider,
    case when c.tags is null then null else json_extract(c.tags, :path) end, count(*), {_ADDED}
from calls c where c.account = :account and c.at >= :first * :day and c.at < (:last + 2) * :day group by 1, 2, 3, 4, 5
"""  # noqa: S608 - what is put in is above
_INPUTS = """
select c.input from calls c left join names m on m.id = c.model
where c.account = ? and c.at >= ? and c.at < ? and m.text in ({marks}) limit ?
"""
_PRUNED = """
select t.day from totals t where t.account = ? and t.dim = '' and t.day between ? and ? and t.calls >
    (select count(*) from calls c where c.account = t.account
    and c.at >= t.day * 86400000000 and c.at < (t.day + 1) * 86400000000)
"""


class Figures(NamedTuple):
    """Tokens in disjoint buckets; of a difference, any of them may be below 0."""

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0

    @property
    def input_tokens(self) -> int:
        """All input tokens, cached ones too."""
        return self.input + self.cache_read + self.cache_write

    def plus(self, other: Figures) -> Figures:
        """Return the sums."""
        return Figures(*(one + more for one, more in zip(self, other, strict=True)))

    def minus(self, other: Figures) -> Figures:
        """Return the differences."""
        return Figures(*(one - less for one, less in zip(self, other, strict=True)))


_NOTHING = Figures()


class Group(NamedTuple):
    """What is compared: the calls of a day (since the epoch, UTC) with one model and, where it is known, one key."""

    provider: str
    day: int
    model: str | None
    key: str | None


@dataclass(slots=True)
class Ours:
    """What the ledger has of a group; `guessed` and what begins so are of calls that were charged an estimate."""

    calls: int = 0
    nanos: int = 0
    tokens: Figures = _NOTHING
    guessed: int = 0
    guessed_nanos: int = 0
    guessed_input: int = 0
    guessed_output: int = 0

    def add(self, other: Ours) -> None:
        """Add another group's."""
        self.calls += other.calls
        self.nanos += other.nanos
        self.tokens = self.tokens.plus(other.tokens)
        self.guessed += other.guessed
        self.guessed_nanos += other.guessed_nanos
        self.guessed_input += other.guessed_input
        self.guessed_output += other.guessed_output


@dataclass(slots=True)
class Billed:
    """What the reports of usage have of a group.

    Attributes:
        requests: None where no report says.
        tokens: Of all tiers.
        counted: Whether a report counts tokens at all; others count images, characters or seconds.
        tiers: The tokens by tier and geo, and kind ("input", "cache_write_5m" ...).
        keys: The ids of the keys.
    """

    requests: int | None = None
    tokens: Figures = _NOTHING
    counted: bool = False
    tiers: dict[Tariff, dict[str, int]] = field(default_factory=dict)
    keys: set[str | None] = field(default_factory=set)


class Item(NamedTuple):
    """What a charge is for: the item of a line, its tier, its geo, and whether the context was long."""

    item: str
    tier: str | None
    geo: str | None
    long: bool


class Charge(NamedTuple):
    """An amount in nano-dollars, and how far rounding may have put it off."""

    nanos: int = 0
    off: int = 0


@dataclass(slots=True)
class Money:
    """What was charged, by item."""

    items: dict[Item, Charge] = field(default_factory=dict)

    @property
    def nanos(self) -> int:
        """All of it, nano-dollars."""
        return sum(charge.nanos for charge in self.items.values())

    @property
    def off(self) -> int:
        """How far that may be off."""
        return sum(charge.off for charge in self.items.values())

    def add(self, line: Charged) -> None:
        """Add a line."""
        self._put(Item(line.item, line.tier, line.geo, line.long), Charge(line.nanos, line.off))

    def merge(self, other: Money) -> None:
        """Add another sum."""
        for item, charge in other.items.items():
            self._put(item, charge)

    def _put(self, item: Item, charge: Charge) -> None:
        known = self.items.get(item, Charge())
        self.items[item] = Charge(known.nanos + charge.nanos, known.off + charge.off)


class Names:
    """Names of models as the price book has them: a dated snapshot is its model.

    Args:
        book: Of the prices.
    """

    def __init__(self, book: PriceBook):
        self._book = book
        self._known: dict[tuple[str | None, str | None], tuple[str | None, str | None]] = {}
        self.said: dict[tuple[str, str | None], set[str]] = {}

    def plain(self, model: str | None, provider: str | None) -> tuple[str | None, str | None]:
        """Return provider and model; the provider of a call that names none is the model's maker."""
        found = self._known.get((model, provider))
        if found is None:
            found = self._known[model, provider] = self._look_up(model, provider)
            if model is not None and found[0] is not None:
                self.said.setdefault((found[0], found[1]), set()).add(model)
        return found

    def _look_up(self, model: str | None, provider: str | None) -> tuple[str | None, str | None]:
        if model is None:
            return provider, None
        try:
            known = self._book.find(model, provider)
        except (UnknownModel, ValueError):
            return provider, model
        return provider or known.provider, known.id


def our_sums(
    db: sqlite3.Connection, account: int, first: int, last: int, names: Names, attribute: str
) -> tuple[dict[Group, Ours], dict[Group, Ours]]:
    """Sum the calls of the days from `first` to `last`, by the day they ended in, and by that they began in."""
    both: tuple[dict[Group, Ours], dict[Group, Ours]] = {}, {}
    given = {"day": DAY_US, "path": f'$."{attribute}"', "account": account, "first": first, "last": last}

    @cache
    def text(id: int | None) -> str | None:
        row = db.execute("select text from names where id = ?", (id,)).fetchone()
        return row and str(row[0])

    for ended, began, said, maker, key, calls, usd, *rest in db.execute(_CALLS, given):
        provider, model = names.plain(text(said), text(maker))
        if provider is None:
            continue
        ours = Ours(calls, usd, Figures(*rest[:4]), *rest[4:])
        for day, sums in zip((ended, began), both, strict=True):
            if first <= day <= last:
                sums.setdefault(Group(provider, day, model, None if key is None else str(key)), Ours()).add(ours)
    return both


def pruned_days(db: sqlite3.Connection, account: int, first: int, last: int) -> set[int]:
    """Return the days of which calls were pruned: their daily sums have more than is there."""
    return {day for (day,) in db.execute(_PRUNED, (account, first, last))}


def billed_sums(lines: Iterable[Used], names: Names) -> dict[Group, Billed]:
    """Sum the lines of usage."""
    sums: dict[Group, Billed] = {}
    for line in lines:
        _, model = names.plain(line.model, line.provider)
        billed = sums.setdefault(Group(line.provider, line.day, model, line.key), Billed())
        merge(billed, _billed(line))
    return {group: billed for group, billed in sums.items() if any(billed.tokens) or billed.requests}


def merge(into: Billed, other: Billed) -> None:
    """Add the figures of another group."""
    if other.requests is not None:
        into.requests = (into.requests or 0) + other.requests
    into.tokens = into.tokens.plus(other.tokens)
    into.counted = into.counted or other.counted
    into.keys |= other.keys
    for tariff, kinds in other.tiers.items():
        mine = into.tiers.setdefault(tariff, {})
        for kind, tokens in kinds.items():
            mine[kind] = mine.get(kind, 0) + tokens


def money_sums(lines: Iterable[Charged], names: Names) -> dict[Group, Money]:
    """Sum the lines of costs; what is of no model stands under the model None."""
    sums: dict[Group, Money] = {}
    for line in lines:
        _, model = names.plain(line.model, line.provider)
        sums.setdefault(Group(line.provider, line.day, model, line.key), Money()).add(line)
    return sums


def inputs_of(db: sqlite3.Connection, account: int, day: int, models: set[str], most: int) -> list[int]:
    """Return the input tokens of each call of a day with one of these models; at most so many calls."""
    query = _INPUTS.format(marks=", ".join("?" * len(models)))
    rows = db.execute(query, (account, day * DAY_US, (day + 1) * DAY_US, *sorted(models), most))
    return [tokens for (tokens,) in rows]


def _billed(line: Used) -> Billed:
    kinds = {"input": line.input, "cache_read": line.cache_read, "output": line.output}
    kinds |= {f"cache_write_{age}": tokens for age, tokens in line.cache_write.items()}
    kinds = {kind: tokens for kind, tokens in kinds.items() if tokens}
    tokens = Figures(line.input, line.cache_read, sum(line.cache_write.values()), line.output)
    counted = not line.units or any(tokens)
    return Billed(line.requests, tokens, counted, {(line.tier, line.geo): kinds}, {line.key})
