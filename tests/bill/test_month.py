"""A generated month with seeded faults of each kind: all are found, and none is invented."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from bill.month import DAY_0, DAY_US, Both, Check, make_call, make_month, picos, plain, record_of, without_key
from bill.vendors import Vendors
from budget.bill import Comparison

Fault = tuple[str, int, str | None, str]
NEW = "claude-brand-new-9"
SONNET, HAIKU, GPT, MINI, LUNA, EMBED = (
    "claude-sonnet-4-6", "claude-haiku-4-5-20251001", "gpt-4o-2024-08-06", "gpt-5-mini-2025-08-07", "gpt-5.6-luna",
    "text-embedding-3-small",
)  # fmt: skip


def faults(found: Comparison) -> set[Fault]:
    return {(row.status, int(row.day[-2:]), row.model, reason) for row in found.faults for reason in row.reasons}


@pytest.mark.parametrize("seed", range(4))
def test_a_month_without_faults(seed: int, check: Check, vendors: Vendors) -> None:
    """Whether the provider counts a call by its begin or its end, with keys or without."""
    vendors.by_begin = seed % 2 == 0
    calls = make_month(seed)
    if seed > 1:
        calls = [Both(call.ours and without_key(call.ours), call.theirs) for call in calls]
    found = check(calls, width="1h" if seed == 1 else "1d")
    assert not found.faults, found.faults[0]
    assert found.statuses["matched"] == len(found.rows) >= 31 * 6
    assert found.days == 62
    assert not found.notes


class Seeder:
    """Puts one fault of each kind into a month, each on a day and model of its own."""

    def __init__(self, seed: int):
        self.chance = random.Random(f"faults {seed}")  # not the month's: ids would repeat
        self.calls = make_month(seed)
        self.seeded: set[Fault] = set()
        self.taken: set[tuple[int, str]] = set()

    def of(self, day: int, model: str) -> list[Both]:
        """Calls in the middle of a day: one at midnight could be counted to another day."""
        low, high = (DAY_0 + day - 1) * DAY_US + 10**11 // 100, (DAY_0 + day) * DAY_US - 10**9
        return [
            call for call in self.calls
            if call.theirs and call.ours and call.theirs.model == model and low < call.theirs.began < high
            and call.theirs.searches == 0 and call.theirs.tier is None
        ]  # fmt: skip

    def pick(self, least: int = 3) -> tuple[int, str, list[Both]]:
        while True:
            day, model = self.chance.randint(2, 30), self.chance.choice([SONNET, HAIKU, GPT, MINI, LUNA])
            found = self.of(day, model)
            every = [c for c in self.calls if c.theirs and c.theirs.model == model and c.theirs.searches]
            tools = any(abs((c.theirs.ended // DAY_US) - (DAY_0 + day - 1)) < 2 for c in every if c.theirs)
            near = {(other, model) for other in (day - 1, day, day + 1)} & self.taken
            if len(found) >= least and not near and not tools and not self.searched(day):
                self.taken.add((day, model))
                return day, model, found

    def searched(self, day: int) -> bool:
        days = {c.theirs.ended // DAY_US - DAY_0 + 1 for c in self.calls if c.theirs and c.theirs.searches}
        return day in days

    def found(self, status: str, day: int, model: str, reason: str) -> None:
        self.seeded.add((status, day, plain(model), reason))

    def other_key(self) -> None:
        day, model, [call, *_] = self.pick(1)
        assert call.theirs
        self.calls.append(Both(None, replace(call.theirs, key="key_of_somebody")))
        self.found("extra", day, model, "other_callers")

    def other_model(self) -> None:
        day = self.chance.randint(2, 30)
        call = make_call(self.chance, SONNET, (DAY_0 + day - 1) * DAY_US + 10**10, "key_1").theirs
        assert call
        model = "claude-opus-4-6" if call.tier is None else "claude-opus-4-5"
        prices = {"input": 5_000_000, "cache_read": 500_000, "cache_write_5m": 6_250_000, "cache_write_1h": 10_000_000,
                  "output": 25_000_000}  # fmt: skip
        self.calls.append(Both(None, replace(call, model=model, prices=prices, searches=0, tier=None)))
        self.found("extra", day, model, "other_callers")

    def lost(self) -> None:
        day, model, calls = self.pick(4)
        for call in calls[:3]:
            call.ours = None
        self.found("extra", day, model, "unrecorded")

    def unbilled(self) -> None:
        day, model, calls = self.pick(3)
        calls[0].theirs = None
        self.found("missing", day, model, "not_billed")

    def retried(self) -> None:
        day, model, calls = self.pick(3)
        assert calls[0].theirs
        self.calls.append(Both(None, replace(calls[0].theirs, tokens={**calls[0].theirs.tokens, "output": 7})))
        self.found("extra", day, model, "retries")

    def dearer(self) -> None:
        day, model, calls = self.pick(3)
        for call in calls:
            assert call.theirs
            prices = {**call.theirs.prices, "output": call.theirs.prices["output"] * 11 // 10}
            call.theirs = replace(call.theirs, prices=prices)
        self.found("differs", day, model, "price")

    def unpriced(self) -> None:
        day = self.chance.randint(2, 30)
        call = make_call(self.chance, HAIKU, (DAY_0 + day - 1) * DAY_US + 10**10, "key_2").theirs
        assert call
        theirs = replace(call, model=NEW, tier=None, prices=picos(HAIKU))
        ours = replace(record_of(theirs, self.chance, 10), nanos=0)
        self.calls.append(Both(ours, theirs))
        self.found("differs", day, NEW, "unpriced")

    def tiered(self) -> None:
        while True:
            day, model, calls = self.pick(3)
            if model == HAIKU:
                break
        assert calls[0].theirs
        calls[0].theirs = replace(calls[0].theirs, tier="batch", prices=picos(model, 0.5))
        self.found("differs", day, model, "tier")

    def cached(self) -> None:
        day, model, calls = self.pick(3)
        theirs = calls[0].theirs
        assert theirs
        tokens = {**theirs.tokens, "input": theirs.tokens["input"] - 40}
        tokens["cache_read"] = tokens.get("cache_read", 0) + 40
        calls[0].theirs = replace(theirs, tokens=tokens)
        self.found("differs", day, model, "cache")


KINDS: list[Callable[[Seeder], None]] = [
    Seeder.other_key, Seeder.other_model, Seeder.lost, Seeder.unbilled, Seeder.retried, Seeder.dearer, Seeder.unpriced,
    Seeder.tiered, Seeder.cached,
]  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_every_seeded_fault_is_found_and_no_other(seed: int, check: Check, vendors: Vendors) -> None:
    vendors.by_begin = seed % 2 == 1
    month = Seeder(seed)
    for kind in KINDS:
        kind(month)
    assert faults(check(month.calls)) == month.seeded
