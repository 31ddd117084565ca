"""What the tests of the bill share: a budget in memory with the ledger's side, and the providers' reports pulled."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from bill.month import DAY_0, DAY_US, DAYS, FIRST, Both, Check
from bill.vendors import KEYS, Vendors
from budget.bill import PROVIDERS, BillFile, Comparison, Fetcher, compare, pull
from budget.engine import Budget
from budget.prices import PriceBook
from budget.records import CallFile

LATER = (DAY_0 + DAYS + 5) * DAY_US


@pytest.fixture(autouse=True)
def admin_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for provider, key in KEYS.items():
        monkeypatch.setenv(PROVIDERS[provider].variable, key)


@pytest.fixture
def vendors() -> Iterator[Vendors]:
    with Vendors() as server:
        yield server


@pytest.fixture
def check(vendors: Vendors) -> Iterator[Check]:
    """Compare a month of calls: put ours into a file of records, and pull theirs."""
    opened: list[Any] = []

    def run(calls: list[Both], *, width: str = "1d", now: int = LATER, **options: Any) -> Comparison:
        budget = Budget("memory://")
        records, bill = CallFile(budget.engine.books), BillFile(None)
        opened.extend((records, bill, budget))
        records.put(call.ours for call in calls if call.ours is not None)
        vendors.calls = [call.theirs for call in calls if call.theirs is not None]
        for provider in PROVIDERS.values():
            pull(Fetcher(provider, vendors.url), bill, DAY_0, DAY_0 + DAYS - 1, now, width)
        until = FIRST + timedelta(days=DAYS - 1)
        return compare(records, bill, PriceBook.shipped(), since=FIRST, until=until, **options)

    yield run
    for each in opened:
        each.close()
