"""What one day's difference is called."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import date, datetime

import pytest

from bill.month import DAY_0, DAY_US, Both, Check, make_call, picos, record_of, without_key
from bill.vendors import Vendors
from budget.bill import PROVIDERS, BillFile, Row, compare
from budget.bill.verdict import sent_again
from budget.engine import Budget
from budget.errors import ArgumentTypeError, ConfigError
from budget.prices import PriceBook
from budget.records import CallFile

SONNET, HAIKU, GPT, MINI, LUNA = (
    "claude-sonnet-4-6", "claude-haiku-4-5-20251001", "gpt-4o-2024-08-06", "gpt-5-mini-2025-08-07",
    "gpt-5.6-luna",
)  # fmt: skip
NOON = DAY_0 * DAY_US + DAY_US // 2


def some(model: str, count: int, seed: int = 0, at: int = NOON, key: str = "key_1") -> list[Both]:
    """Calls of one model at one time, without tools and batches."""
    chance, calls = random.Random(seed), []
    while len(calls) < count:
        call = make_call(chance, model, at, key)
        if call.theirs and not call.theirs.tier and not call.theirs.searches:
            calls.append(call)
    return calls


def only(rows: tuple[Row, ...]) -> tuple[str, tuple[str, ...]]:
    [row] = rows
    return row.status, row.reasons


def test_a_call_at_midnight_is_no_fault(check: Check, vendors: Vendors) -> None:
    """Where nobody measured how long it took, two days that cancel each other say so."""
    for by_begin in (False, True):
        vendors.by_begin = by_begin
        before = [some(GPT, 1, day, NOON + day * DAY_US)[0] for day in range(3)]
        [call] = some(GPT, 1, 9, (DAY_0 + 2) * DAY_US - 1000)
        assert call.ours
        found = check([*before, Both(replace(call.ours, latency_ms=None), call.theirs)])
        assert not found.faults
        assert {row.reasons for row in found.rows} == ({("midnight",), ()} if by_begin else {()})


def test_estimates_are_told_apart(check: Check) -> None:
    """A call without an answer was charged its bound; the bill has something between nothing and that."""
    calls = some(SONNET, 4)
    assert calls[0].ours
    assert calls[0].theirs
    bound = replace(
        calls[0].ours, usage=None, estimated=True, cache_read_tokens=0, cache_write_tokens=0,
        input_tokens=90_000, output_tokens=8000, nanos=10**9,
    )  # fmt: skip
    billed = [Both(bound, calls[0].theirs), *calls[1:]]
    assert only(check(billed).rows) == ("estimated", ("estimated",))
    assert only(check([Both(bound, None), *calls[1:]]).rows) == ("estimated", ("estimated",))
    assert only(check([Both(bound, None)]).rows) == ("estimated", ("estimated",))
    tiny = replace(bound, input_tokens=1, output_tokens=1)
    assert only(check([Both(tiny, calls[0].theirs), *calls[1:]]).rows)[0] == "extra"


def test_a_day_that_is_not_final_is_open(check: Check) -> None:
    calls = some(GPT, 3)
    calls[0].theirs = None
    assert only(check(calls, now=(DAY_0 + 1) * DAY_US + DAY_US // 3).rows) == ("open", ("not_billed",))
    found = check(calls, now=(DAY_0 + 1) * DAY_US + DAY_US // 2)
    assert only(found.rows) == ("missing", ("not_billed",))
    assert (found.rows[0].calls, found.rows[0].requests) == (3, 2)


def test_keys_that_are_not_ours(check: Check) -> None:
    """Calls that do not name a key: all of the bill's are ours, unless it is said which are."""
    ours = [Both(call.ours and without_key(call.ours), call.theirs) for call in some(HAIKU, 3)]
    strange = [Both(None, call.theirs) for call in some(HAIKU, 2, 1, key="key_x")]
    assert only(check([*ours, *strange]).rows) == ("extra", ("unrecorded",))
    found = check([*ours, *strange], keys=["key_1"])
    assert [(row.key, row.status, row.reasons) for row in found.rows] == [
        (None, "matched", ()), ("key_x", "extra", ("other_callers",)),
    ]  # fmt: skip


def test_costs_over_all_keys(check: Check) -> None:
    """Anthropic's costs have no key: with two of them they are compared together, and only a fault has a row."""
    calls = [*some(SONNET, 3), *some(SONNET, 3, 1, key="key_2")]
    found = check(calls)
    assert [(row.key, row.status, row.billed_usd) for row in found.rows] == [
        ("key_1", "matched", None), ("key_2", "matched", None),
    ]  # fmt: skip
    assert calls[0].theirs
    calls[0].theirs = replace(calls[0].theirs, prices=picos(SONNET, 1.5))
    [row] = check(calls).faults
    assert (row.key, row.status, row.reasons, row.calls) == ("(all keys)", "differs", ("price",), 6)
    assert row.difference is not None
    assert row.difference > 0
    assert "per million tokens, the book has $15" in row.notes[0]


def test_rates_are_named(check: Check) -> None:
    calls = some(GPT, 3)
    for call in calls:
        assert call.theirs
        call.theirs = replace(call.theirs, prices={**call.theirs.prices, "output": 11_000_000})
    [row] = check(calls).faults
    assert row.notes == ("output: $11 per million tokens, the book has $10",)


def test_the_ledger_was_charged_by_other_prices(check: Check) -> None:
    calls = some(GPT, 3)
    assert calls[1].ours
    calls[1].ours = replace(calls[1].ours, nanos=calls[1].ours.nanos + 10_000)
    assert only(check(calls).rows) == ("differs", ("book",))


def test_rounding_is_no_fault(check: Check) -> None:
    """A call rounds up to a nano-dollar, a line of the bill to half a millionth of a dollar."""
    calls = some(GPT, 3)
    assert calls[1].ours
    calls[1].ours = replace(calls[1].ours, nanos=calls[1].ours.nanos + 3 * 500)
    assert only(check(calls).rows) == ("matched", ())
    calls[1].ours = replace(calls[1].ours, nanos=calls[1].ours.nanos + 10)
    assert only(check(calls).rows) == ("differs", ("book",))


def test_tools_are_charged_for_no_model(check: Check) -> None:
    calls = some(SONNET, 3)
    assert calls[0].theirs
    searching = replace(calls[0].theirs, searches=2)
    both = [Both(record_of(searching, random.Random(1), 5), searching), *calls[1:]]
    assert only(check(both).rows) == ("matched", ("tools",))
    rows = check([Both(calls[0].ours, searching), *calls[1:]]).rows
    assert [(row.model, row.status, row.reasons) for row in rows] == [
        (SONNET, "matched", ()), (None, "extra", ("tools",)),
    ]  # fmt: skip


def test_requests_without_tokens_are_retries(check: Check) -> None:
    calls = some(MINI, 3)
    assert calls[0].theirs
    calls[0].theirs = replace(calls[0].theirs, requests=3)
    found = check(calls)
    assert only(found.rows) == ("extra", ("retries",))
    assert found.rows[0].notes == ("2 requests without tokens",)
    calls[0].theirs = replace(calls[0].theirs, tier="batch", prices=picos(MINI, 0.5))
    calls[0].ours = record_of(calls[0].theirs, random.Random(1), 5)
    assert only(check(calls).rows) == ("matched", ())


def test_images_are_compared_by_request(check: Check) -> None:
    """Their report counts no tokens."""
    both = []
    for call in some(GPT, 2):
        assert call.ours
        assert call.theirs
        prices = {"output": 40_000_000}
        theirs = replace(call.theirs, model="gpt-image-1", report="images", images=1)
        theirs = replace(theirs, tokens={"output": 10}, prices=prices)
        both.append(Both(replace(call.ours, model="gpt-image-1", nanos=400_000), theirs))
    assert only(check(both).rows) == ("matched", ())
    assert only(check([*both[1:], Both(None, both[0].theirs)]).rows) == ("extra", ("unrecorded",))


def test_what_was_not_pulled_is_not_judged(check: Check) -> None:
    budget = Budget("memory://")
    records, bill = CallFile(budget.engine.books), BillFile(None)
    calls = [*some(GPT, 2), *some(SONNET, 2)]
    records.put(call.ours for call in calls if call.ours)
    span = {"since": date(2026, 10, 1), "until": date(2026, 10, 2)}
    found = compare(records, bill, PriceBook.shipped(), **span)
    assert (found.rows, found.days) == ((), 0)
    assert sorted(found.notes) == [
        "anthropic: 1 days with calls are not in a report of usage",
        "openai: 1 days with calls are not in a report of usage",
    ]
    bill.replace("openai", "completions", [DAY_0], [], 10**18)
    [row] = compare(records, bill, PriceBook.shipped(), **span).rows
    assert (row.status, row.reasons) == ("open", ("not_pulled",))  # the embeddings may have it
    with pytest.raises(ConfigError, match="until: is before"):
        compare(records, bill, PriceBook.shipped(), since=date(2026, 10, 2), until=date(2026, 10, 1))
    with pytest.raises(ConfigError, match="provider: 'acme'"):
        compare(records, bill, PriceBook.shipped(), **span, providers=["acme"])
    with pytest.raises(ConfigError, match="attribute"):
        compare(records, bill, PriceBook.shipped(), **span, attribute='k"')
    with pytest.raises(ArgumentTypeError, match="since"):
        compare(records, bill, PriceBook.shipped(), since=datetime(2026, 10, 1), until=date(2026, 10, 1))  # noqa: DTZ001
    for each in (records, bill, budget):
        each.close()


def test_sums_beyond_what_the_file_holds_are_compared(check: Check) -> None:
    """A mistake in units is a row like any other, and not the end of all of them."""
    calls = some(GPT, 3)
    most = 2**63 - 1
    for call in calls:
        assert call.ours
        call.ours.nanos, call.ours.input_tokens, call.ours.estimated = most, most, True
    [row] = check(calls).rows
    assert (row.calls, row.status) == (3, "estimated")


def test_days_that_were_pruned_are_not_compared(check: Check) -> None:
    """Their calls were billed, and the ledger has but their sums."""
    budget = Budget("memory://")
    records, bill = CallFile(budget.engine.books), BillFile(None)
    records.put(call.ours for call in some(GPT, 2) if call.ours)
    records.db.execute("delete from calls where seq = (select min(seq) from calls)")
    for report in PROVIDERS["openai"].reports:
        bill.replace("openai", report.name, [DAY_0, DAY_0 + 1], [], 10**18)
    found = compare(records, bill, PriceBook.shipped(), since=date(2026, 10, 1), until=date(2026, 10, 2))
    assert (found.rows, found.days) == ((), 1)
    assert found.notes == ("1 days are not compared: their calls were pruned from the ledger",)
    for each in (records, bill, budget):
        each.close()


def long_and_short(model: str, base: tuple[int, int], long: tuple[int, int], tokens: int, told: bool) -> list[Both]:
    [one] = some(SONNET if model.startswith("claude") else GPT, 1)
    assert one.theirs
    calls = [
        replace(one.theirs, model=model, tokens={"input": count, "output": 100}, long=named,
                prices=dict(zip(("input", "output"), rates, strict=True)))
        for count, rates, named in ((1000, base, False), (tokens, long, told))
    ]  # fmt: skip
    return [Both(record_of(call, random.Random(str(place)), 5), call) for place, call in enumerate(calls)]


def test_long_contexts_have_rates_of_their_own(check: Check) -> None:
    """The bill names them, so that another model's rate between the two is not taken for right."""
    calls = long_and_short(LUNA, (200_000, 1_200_000), (400_000, 1_800_000), 300_000, True)
    assert only(check(calls).rows) == ("matched", ())
    assert calls[0].theirs
    calls[0].theirs = replace(calls[0].theirs, prices={"input": 200_000, "output": 1_500_000})
    found = check([calls[0], *some(LUNA, 4)])
    assert only(found.rows) == ("differs", ("price",))
    assert found.rows[0].notes[0].startswith("output: ")


def test_a_longer_context_that_the_bill_does_not_name(check: Check) -> None:
    calls = long_and_short("claude-haiku-5-5", (100_000, 500_000), (500_000, 2_500_000), 150_000, False)
    assert only(check(calls).rows) == ("matched", ())


def test_the_priority_tier_is_not_in_anthropics_costs(check: Check) -> None:
    calls = some(SONNET, 2)
    assert calls[0].theirs
    calls[0].theirs = replace(calls[0].theirs, tier="priority", prices={})
    assert only(check(calls).rows) == ("matched", ())


def test_chance_is_no_evidence_of_retries() -> None:
    assert sent_again(700, 1, [100, 700, 20_000]) == 1
    assert sent_again(700, None, [100, 700, 20_000]) == 1
    assert sent_again(701, 1, [100, 700, 20_000]) is None
    assert sent_again(20_700, 2, [100, 700, 20_000]) == 2
    assert sent_again(1400, 2, [100, 700, 20_000]) == 2
    assert sent_again(20_700, 3, [100, 700, 20_000]) is None
    assert sent_again(150, 1, list(range(100, 200))) is None  # every sum is some call's
    assert sent_again(0, 1, [0, 100]) is None
    assert sent_again(5, 1, []) is None
