"""The report: calls from entries, exact sums, nearest-rank quantiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.engine import Budget
from budget.errors import ConfigError
from budget.ledger import GENESIS, Entry, make_entry
from budget.money import NANOS
from budget.report import Row, report, report_estimates

DAY = 86_400_000_000


def entry(
    kind: str, id: str = "1", nanos: int = 0, tokens: Sequence[int] = (0, 0), user: str | None = "alice", at: int = 0,
    **detail: Any,
) -> Entry:  # fmt: skip
    scope: Mapping[str, str] = {} if user is None else {"user": user}
    return make_entry(GENESIS, 1, at, kind, id, (nanos, sum(tokens), *tokens, 1), scope, detail, ())


def only(entries: Sequence[Entry], by: str = "user") -> Row:
    [row] = report(entries, by)
    return row


def test_a_call_is_counted_at_its_end() -> None:
    assert report([entry("reserved")]) == []
    assert only([entry("reserved"), entry("reconciled", nanos=5)]).calls == 1
    assert only([entry("reserved"), entry("expired", nanos=5)]).usd == Decimal("0.000000005")
    assert only([entry("recorded", nanos=5)]).calls == 1
    assert report([entry("reserved"), entry("refunded")]) == []
    assert report([entry("limit_set"), entry("frozen")]) == []


def test_a_correction_after_expiry_belongs_to_the_same_call() -> None:
    expired = entry("expired", nanos=100, tokens=(10, 20), estimated=True)
    usage = {"input": 3, "cache_read": 2, "cache_write": {"5m": 1, "1h": 1}, "output": 4}
    row = only([expired, entry("reconciled", nanos=-60, tokens=(-3, -16), late=True, usage=usage)])
    assert (row.calls, row.usd, row.p50_usd) == (1, Decimal("0.00000004"), Decimal("0.00000004"))
    assert (row.input_tokens, row.output_tokens, row.cache_read_tokens, row.cache_write_tokens) == (7, 4, 2, 2)
    row = only([expired, entry("reconciled", nanos=-60, tokens=(-3, -16), late=True)])
    assert (row.input_tokens, row.output_tokens) == (7, 4)
    assert report([expired, entry("refunded", nanos=-100, tokens=(-10, -20), late=True)]) == []


def test_a_correction_belongs_to_the_time_of_the_call_that_it_corrects() -> None:
    assert report([entry("reconciled", nanos=-60, late=True)]) == []
    assert report([entry("refunded", nanos=-60, late=True)]) == []


def test_an_expiry_that_the_engine_corrects(tmp_path: Any) -> None:
    with Budget("memory://", limits=["$5/day"]) as budget:
        late = budget.reserve("$1", user="alice", lease=0.000001, tokens=50)
        while not any(e.kind == "expired" for e in budget.entries()):
            budget.status()
        assert only(list(budget.entries())).usd == 1
        budget.reconcile(late, {"input_tokens": 10, "output_tokens": 5}, model="claude-sonnet-4-6")
        row = only(list(budget.entries()))
        assert row.calls == 1
        assert row.usd == budget.status()[0].spent < 1
        assert (row.input_tokens, row.output_tokens) == (10, 5)


def test_refusals_are_counted_and_are_no_calls() -> None:
    row = only([entry("refused", "1"), entry("refused", "2")])
    assert (row.calls, row.refused, row.usd) == (0, 2, 0)
    assert (row.mean_usd, row.p50_usd, row.p95_usd, row.p99_usd) == (None, None, None, None)
    row = only([entry("refused", "1"), entry("reserved", "1"), entry("reconciled", "1", nanos=NANOS)])
    assert (row.calls, row.refused) == (1, 1)


def test_groups() -> None:
    entries = [
        entry("recorded", "1", 3, at=DAY - 1, provider="anthropic", model="m"),
        entry("recorded", "2", 5, at=DAY, user=None),
        entry("recorded", "3", 4, at=DAY, user="bob"),
    ]
    assert [(row.by, row.usd * NANOS) for row in report(entries)] == [(None, 5), ("bob", 4), ("alice", 3)]
    assert [(row.by, row.calls) for row in report(entries, "day")] == [("1970-01-02", 2), ("1970-01-01", 1)]
    assert [row.by for row in report(entries, "model")] == [None, "m"]
    assert [row.by for row in report(entries, "provider")] == [None, "anthropic"]
    assert [row.by for row in report(entries, "session")] == [None]
    with pytest.raises(ConfigError, match="is not a name"):
        report(entries, "not a name")


def test_equal_costs_are_ordered_by_name() -> None:
    names = ["c", None, "a", "b"]
    rows = report([entry("recorded", str(i), 1, user=name) for i, name in enumerate(names)])
    assert [row.by for row in rows] == ["a", "b", "c", None]


def test_the_mean_is_rounded_to_the_nano_dollar() -> None:
    assert only([entry("recorded", "1", 1), entry("recorded", "2", 2)]).mean_usd == Decimal("0.000000002")
    assert only([entry("recorded", str(i), n) for i, n in enumerate((1, 1, 2))]).mean_usd == Decimal("0.000000001")


def test_money_is_written_as_plain_decimals() -> None:
    found = only([entry("recorded", "1", 10**16), entry("recorded", "2", 1)]).to_dict()
    assert (found["usd"], found["p50_usd"], found["p99_usd"]) == ("10000000.000000001", "0.000000001", "10000000")
    assert only([entry("refused")]).to_dict()["mean_usd"] is None


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=250))
def test_quantiles_are_nearest_rank(costs: list[int]) -> None:
    row = only([entry("recorded", str(i), cost) for i, cost in enumerate(costs)])
    for percent, value in ((50, row.p50_usd), (95, row.p95_usd), (99, row.p99_usd)):
        assert value is not None
        nanos = int(value * NANOS)
        assert nanos in costs
        assert sum(cost <= nanos for cost in costs) * 100 >= percent * len(costs)
        assert sum(cost < nanos for cost in costs) * 100 < percent * len(costs)


@given(
    st.lists(st.tuples(st.sampled_from(["reconciled", "recorded", "expired", "refunded"]), st.integers(0, 10**15),
                       st.sampled_from(["a", "b", None])), max_size=40)
)  # fmt: skip
def test_the_sum_of_a_report_is_what_the_entries_added_to_spent(ends: list[tuple[str, int, str | None]]) -> None:
    entries = [entry(kind, str(i), 0 if kind == "refunded" else n, user=u) for i, (kind, n, u) in enumerate(ends)]
    rows = report(iter(entries))
    assert sum(int(row.usd * NANOS) for row in rows) == sum(e.amounts[0] for e in entries)
    assert sum(row.calls for row in rows) == sum(kind != "refunded" for kind, _, _ in ends)
    assert [row.usd for row in rows] == sorted((row.usd for row in rows), reverse=True)


def estimated(usd: str, usd_max: str, reserved: str | None = None, closed: bool = True) -> dict[str, Any]:
    soft = {"reserve_at": "p95", "usd_reserved": reserved} if reserved else {}
    return {"model": "m", "usd": usd, "usd_max": usd_max, "closed": closed, **soft}


def ended(id: str, nanos: int, model: str = "m", kind: str = "reconciled", **detail: Any) -> Entry:
    known = {"model": model, "usage": {"input": 1, "output": 1}, **detail}
    return entry(kind, id, nanos, **{name: value for name, value in known.items() if value is not None})


def test_how_good_estimates_were() -> None:
    [row] = report_estimates(
        [
            ended("1", 1000, estimate=estimated("0.0000011", "0.000005")),
            ended("2", 1000, estimate=estimated("0.0000005", "0.000005", "0.0000009")),
            ended("3", 2000, estimate=estimated("0.000002", "0.000005", "0.000002")),
            ended("4", 0, estimate=estimated("0", "0")),
        ]
    )
    assert row.to_dict() == {
        "by": "m", "calls": 4, "usd": "0.000004", "usd_expected": "0.0000036", "usd_reserved": "0.0000079",
        "bias": "-0.1000", "p50_error": "0.1000", "p95_error": "0.5000", "over_reservation": "1.9750", "overruns": 1,
        "overrun_share": "0.2500",
    }  # fmt: skip


def test_estimates_are_judged_where_there_is_a_bound_and_a_usage() -> None:
    told = estimated("0.000001", "0.000002")
    assert report_estimates([ended("1", 5)]) == []
    assert report_estimates([ended("1", 5, usage=None, estimate=told)]) == []
    assert report_estimates([ended("1", 5, estimate=told, estimated=True)]) == []
    assert report_estimates([ended("1", 5, estimate=estimated("0.1", "0.2", closed=False))]) == []
    assert report_estimates([ended("1", 5, estimate=told), entry("refunded", "1", -5, late=True)]) == []
    late = [
        ended("1", 2000, kind="expired", usage=None, estimated=True, estimate=told),
        ended("1", -1000, late=True, estimate=told),
    ]
    assert [(r.usd, r.bias) for r in report_estimates(late)] == [(Decimal("0.000001"), Decimal("0.0000"))]


def test_free_calls_have_no_ratio() -> None:
    [row] = report_estimates([ended("1", 0, estimate=estimated("0", "0"))])
    assert (row.bias, row.p50_error, row.over_reservation, row.overruns) == (None, None, None, 0)


def test_estimates_by_model_the_dearest_first() -> None:
    told = estimated("0.000001", "0.000002")
    entries = [ended("1", 5, "cheap", estimate=told), ended("2", 50, "dear", estimate=told)]
    assert [row.by for row in report_estimates(entries)] == ["dear", "cheap"]
    with pytest.raises(ConfigError):
        report_estimates([], "")


def test_estimates_of_an_engine(store_url: str) -> None:
    from budget.usage import Usage

    with Budget(store_url, prices={"m": {"input": "1", "output": "10"}}) as budget:
        guess = budget.estimate_counts("m", input_tokens=1000, output_tokens=100)
        budget.reconcile(budget.reserve(guess), Usage(input=1000, output=50))
        budget.reconcile(budget.reserve(guess), Usage(input=1000, output=200))
        [row] = report_estimates(budget.entries())
    assert (row.calls, row.usd, row.usd_reserved) == (2, Decimal("0.0045"), Decimal("0.004"))
    assert (row.overruns, row.overrun_share) == (1, Decimal("0.5000"))
