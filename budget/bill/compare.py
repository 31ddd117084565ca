"""Set the bill against the ledger, by day (UTC), model and key.

First tokens and requests, which are exact. Then money: the bill's own tokens must be charged by the price book
(`tariff`), and where the tokens agree, so must the ledger's. Where tokens differ, money follows from them.

A key is compared where each call of a provider names it (an attribute of the calls). Otherwise all keys of the bill
are one, but for those that the caller says are not his. Costs that a provider does not tell by key are compared over
all keys.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

from budget.bill.reports import PROVIDERS
from budget.bill.rows import Comparison, Row
from budget.bill.side import EPOCH, Side
from budget.bill.sums import Group, Names, inputs_of, our_sums, pruned_days
from budget.errors import ArgumentTypeError, ConfigError

if TYPE_CHECKING:
    from budget.bill.billfile import BillFile
    from budget.prices import PriceBook
    from budget.records import CallFile

__all__ = ["compare"]

_MOST_CALLS = 2000
"""Of a group, among which calls that were sent again are looked for."""


def compare(
    calls: CallFile, bill: BillFile, book: PriceBook, *, since: date, until: date,
    providers: Collection[str] = tuple(PROVIDERS), keys: Collection[str] = (), attribute: str = "key",
) -> Comparison:  # fmt: skip
    """Compare what the ledger has with what was pulled.

    Args:
        calls: The records of the account; they are brought up to date.
        bill: What was pulled.
        book: Of the prices.
        since, until: Days (UTC), both included.
        providers: Whose bill.
        keys: The ids of the API keys that our calls use, if not all keys of the organization are ours.
        attribute: Which attribute of a call has the id of its API key, if one has.

    Raises:
        ArgumentTypeError: A day is no `datetime.date`.
        ConfigError: A wrong period, provider or attribute.
        StoreUnavailable: The ledger or a file cannot be read.
    """
    first, last = _day(since, "since"), _day(until, "until")
    if last < first:
        raise ConfigError("until: is before since")
    if unknown := [name for name in providers if name not in PROVIDERS]:
        raise ConfigError(f"provider: {unknown[0][:40]!r} is not one of {', '.join(PROVIDERS)}")
    if not attribute.isidentifier():
        raise ConfigError(f"attribute: {attribute[:40]!r} is not the name of an attribute")
    db, account, names = calls.open(), calls.account, Names(book)

    def inputs(group: Group) -> Sequence[int]:
        said = names.said.get((group.provider, group.model), set())
        found = inputs_of(db, account, group.day, said, _MOST_CALLS + 1)
        return found if len(found) <= _MOST_CALLS else ()

    both = our_sums(db, account, first, last, names, attribute)
    pruned = pruned_days(db, account, first, last)
    rows: list[Row] = []
    notes = [f"{len(pruned)} days are not compared: their calls were pruned from the ledger"] if pruned else []
    days = 0
    for provider in providers:
        own = [{group: ours for group, ours in sums.items() if group.provider == provider} for sums in both]
        side = Side(provider, range(first, last + 1), bill, book, names, frozenset(keys), own, inputs, pruned)
        rows += side.rows()
        notes += side.notes()
        days += len(side.days)
    return Comparison(tuple(rows), days, tuple(notes))


def _day(day: date, name: str) -> int:
    if isinstance(day, datetime) or not isinstance(day, date):
        raise ArgumentTypeError(f"{name}: give a day, as datetime.date")
    return day.toordinal() - EPOCH
