"""The report: calls from entries, exact sums, nearest-rank quantiles."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget.config import load
from budget.engine import Budget
from budget.errors import BudgetExceeded, ConfigError
from budget.ledger import GENESIS, Entry, make_entry
from budget.limits import Limit
from budget.money import NANOS
from budget.records import CallFile
from budget.report import Row, Rows, report_estimates
from budget.report.asking import Question
from budget.report.costs import report as answer
from budget.testing import Sandbox
from budget.usage import Usage

DAY = 86_400_000_000


def entry(
    kind: str, id: str = "1", nanos: int = 0, tokens: Sequence[int] = (0, 0), user: str | None = "alice", at: int = 0,
    **detail: Any,
) -> Entry:  # fmt: skip
    scope: Mapping[str, str] = {} if user is None else {"user": user}
    return make_entry(GENESIS, 1, at, kind, id, (nanos, sum(tokens), *tokens, 1), scope, detail, ())


class Shelf:
    """The books of an account whose ledger is a list."""

    account, records, drains, path = "default", None, False, None

    def __init__(self, entries: Iterable[Entry]):
        self._entries = [replace(entry, seq=number) for number, entry in enumerate(entries, 1)]
        self.store = self

    def last(self, account: str) -> int:
        return len(self._entries)

    def entries(self, account: str, after: int = 0) -> list[Entry]:
        return self._entries[after : after + 7]


def report(entries: Iterable[Entry], by: str = "user") -> Rows[Row]:
    with closing(CallFile(Shelf(entries))) as file:  # type: ignore[arg-type]
        db = file.open()
        question = Question.read(by, None, None, None, 0)
        rows = answer(db, file.account, question)
        quick = answer(db, file.account, question, quick=True)
        assert [(row.by, row.calls, row.usd, row.refused) for row in quick] == [
            (row.by, row.calls, row.usd, row.refused) for row in rows
        ]
    return rows


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


@settings(max_examples=40)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=250))
def test_quantiles_are_nearest_rank(costs: list[int]) -> None:
    row = only([entry("recorded", str(i), cost) for i, cost in enumerate(costs)])
    for percent, value in ((50, row.p50_usd), (95, row.p95_usd), (99, row.p99_usd)):
        assert value is not None
        nanos = int(value * NANOS)
        assert nanos in costs
        assert sum(cost <= nanos for cost in costs) * 100 >= percent * len(costs)
        assert sum(cost < nanos for cost in costs) * 100 < percent * len(costs)


@settings(max_examples=40)
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
    with Budget(store_url, prices={"m": {"input": "1", "output": "10"}}) as budget:
        guess = budget.estimate_counts("m", input_tokens=1000, output_tokens=100)
        budget.reconcile(budget.reserve(guess), Usage(input=1000, output=50))
        budget.reconcile(budget.reserve(guess), Usage(input=1000, output=200))
        [row] = report_estimates(budget.entries())
    assert (row.calls, row.usd, row.usd_reserved) == (2, Decimal("0.0045"), Decimal("0.004"))
    assert (row.overruns, row.overrun_share) == (1, Decimal("0.5000"))


# What limits did, and where they are going.


class Clock:
    """A clock that a test moves."""

    def __init__(self, at: str = "2026-03-10T12:00:00+00:00"):
        self.start = datetime.fromisoformat(at)
        self.now_us = int(self.start.timestamp()) * 10**6

    def __call__(self) -> int:
        return self.now_us

    def ahead(self, **by: float) -> None:
        self.now_us += int(timedelta(**by) / timedelta(microseconds=1))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def timed(clock: Clock, *limits: str | Limit) -> Budget:
    made = replace(load(store="memory://", limits=limits), clock=clock)
    budget = Budget.__new__(Budget)
    budget._begin(made)
    return budget


def spend(budget: Budget, usd: str, **attributes: str) -> None:
    budget.reconcile(budget.reserve(usd, **attributes), usd=usd)


def test_what_limits_refused_nearly_refused_and_would_have_refused(clock: Clock) -> None:
    with timed(clock, "per=user $10/day", Limit("$3/day", user="bob", mode="shadow"), "$0.95/request") as budget:
        for _ in range(10):
            spend(budget, "$0.90", user="alice")  # 9.00 of 10 in the end: not more than nine tenths
        spend(budget, "$0.50", user="alice")
        for usd in ("$0.94", "$0.94"):
            with pytest.raises(BudgetExceeded):
                budget.reserve(usd, user="alice")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$0.96", user="carol")
        for _ in range(4):
            spend(budget, "$0.90", user="bob")
        rows = budget.questions.refusals()
        assert [(row.limit, row.refused, row.would_refuse, row.near, row.users) for row in rows] == [
            ("per=user $10/day", 2, 0, 1, 1), ("$0.95/request", 1, 0, 0, 1), ("user=bob $3/day", 0, 1, 1, 1),
        ]  # fmt: skip
        assert rows[0].first == rows[0].last == clock.start
        by_rows = {row.by: row.refused for row in budget.report("user,agent")}
        assert by_rows == {("alice", None): 2, ("carol", None): 1, ("bob", None): 0}
        assert [row.limit for row in budget.questions.refusals(where={"user": "carol"})] == ["$0.95/request"]
        clock.ahead(hours=1)
        assert budget.questions.refusals(since="30m") == []
        budget.freeze(user="carol")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$0.01", user="carol")
        assert [(row.limit, row.refused) for row in budget.questions.refusals(since="30m")] == [("(frozen)", 1)]
        assert budget.report("user", where={"user": "alice"})[0].refused == 2


def test_a_rolling_limit_is_near_only_while_what_was_spent_counts(clock: Clock) -> None:
    with timed(clock, "$1/1h rolling") as budget:
        for usd in ("$0.60", "$0.35"):
            spend(budget, usd)
        clock.ahead(hours=2)
        spend(budget, "$0.60")
        assert [(row.limit, row.near) for row in budget.questions.refusals()] == [("$1/1h rolling", 1)]


def test_what_was_spent_before_the_period_counts_in_it(clock: Clock) -> None:
    for window in ("month", "7d rolling", "lifetime"):
        with timed(clock, f"$10/{window}") as budget:
            spend(budget, "$8")
            clock.ahead(days=3)
            spend(budget, "$1.50")
            assert [row.near for row in budget.questions.refusals(since="1h")] == [1]
            clock.ahead(days=60)
            assert budget.questions.refusals(since="1h") == []
            clock.now_us = int(clock.start.timestamp()) * 10**6


def test_where_limits_are_going(clock: Clock) -> None:
    with timed(clock, "per=user $24/day", "per=user 100 requests/day", "agent=x $9/lifetime") as budget:
        clock.ahead(hours=-3)
        spend(budget, "$1", user="alice", agent="x")
        spend(budget, "$1", user="bob")
        clock.ahead(hours=3)
        spend(budget, "$3", user="alice")
        found = {(row.limit, row.subject): row for row in budget.questions.outlook()}
        alice = found["per=user $24/day", "user=alice"]
        # in the last four hours 4 of 24 dollars, twelve hours to go
        assert (alice.spent, alice.per_hour, alice.projected) == (Decimal(4), Decimal(1), Decimal(16))
        assert alice.runs_out is None
        assert alice.resets_at == datetime(2026, 3, 11, tzinfo=UTC)
        assert found["per=user $24/day", "user=bob"].per_hour == Decimal("0.25")
        requests = found["per=user 100 requests/day", "user=alice"]
        assert (requests.spent, requests.projected) == (2, 2 + 2 * 12 // 4)
        life = found["agent=x $9/lifetime", "agent=x"]
        assert (life.projected, life.resets_at) == (None, None)
        assert life.runs_out == clock.start + timedelta(hours=8 * 4)  # a dollar in four hours
        budget.reserve("$18", user="alice")
        soonest = budget.questions.outlook()[0]
        assert (soonest.subject, soonest.runs_out) == ("user=alice", clock.start + timedelta(hours=2))
        assert (soonest.reserved, soonest.projected) == (18, 4 + 18 + 12)
        assert {row.subject for row in budget.questions.outlook(user="bob")} == {"user=bob"}
        clock.ahead(hours=5)
        assert budget.questions.outlook(user="bob")[0].per_hour == 0


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("name", ["gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"])
def test_a_model_is_asked_for_under_any_of_its_names(name: str, quick: bool) -> None:
    """An answer names the snapshot, and that is in the records; limits and questions are of the model."""
    answered = {"model": "gpt-4.1-mini-2025-04-14", "usage": {"prompt_tokens": 100, "completion_tokens": 10}}
    with Sandbox(limits=["model=gpt-4.1-mini 9 requests/hour"]) as b:
        for model in ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14", "gpt-4o"):
            held = b.reserve(model=model, messages=[{"role": "user", "content": "x"}], max_tokens=9, user="alice")
            b.reconcile(held, usd="0.25") if model == "gpt-4o" else b.reconcile(held, answered)
        b.record(usd="1", model="nobody's")
        for _ in range(7):
            b.record({"input_tokens": 1, "output_tokens": 1}, model="gpt-4.1-mini", user="bob")
        with pytest.raises(BudgetExceeded):
            b.reserve(model=name, messages=[{"role": "user", "content": "x"}], max_tokens=9, user="bob")
        rows = {row.by: (row.calls, row.refused) for row in b.report(where={"model": name}, quick=quick)}
        assert rows == {"alice": (2, 0), "bob": (7, 1)}
        assert b.report("model", where={"model": name, "user": "alice"}, quick=quick)[0].by == answered["model"]
        assert len(b.questions.dear_calls("0.001", where={"model": name})) == 9
        assert sum(row.calls for row in b.questions.rates(since="1h", where={"model": name})) == 9
        [row] = b.questions.refusals(where={"model": name})
        assert (row.refused, row.near) == (1, 0)
        assert [row.calls for row in b.report(where={"model": "nobody's"}, quick=quick)] == [1]
        assert b.report(where={"model": None}, quick=quick) == []


@pytest.mark.parametrize("limit", ["model=gpt-4.1-mini $9/day", "per=model $9/day"])
def test_a_limit_of_a_model_goes_where_its_snapshots_take_it(limit: str) -> None:
    with Sandbox(limits=[limit]) as b:
        for model in ("gpt-4.1-mini", "gpt-4.1-mini-2025-04-14"):
            held = b.reserve(model="gpt-4.1-mini", messages=[{"role": "user", "content": "x"}], max_tokens=9)
            b.reconcile(held, {"model": model, "usage": {"prompt_tokens": 10**6, "completion_tokens": 0}})
        [row] = b.questions.outlook()
        assert (row.subject, row.spent, row.per_hour) == ("model=gpt-4.1-mini", Decimal("0.8"), Decimal("0.2"))


def test_a_rolling_limit_settles_at_its_rate(clock: Clock) -> None:
    with timed(clock, "$5/6h rolling") as budget:
        spend(budget, "$1")
        [row] = budget.questions.outlook()
        assert (row.per_hour, row.projected, row.runs_out) == (1, 6, clock.start + timedelta(hours=4))
        clock.ahead(hours=2)
        [row] = budget.questions.outlook()
        assert (row.per_hour, row.projected, row.runs_out, row.spent) == (0, 0, None, 1)


def test_a_report_is_of_the_calls_as_they_are_when_it_is_asked(store_url: str, tmp_path: Any) -> None:
    records = f"sqlite:///{tmp_path / 'records.db'}" if store_url.startswith("redis") else None
    with Budget(store_url, records=records, limits=["$1/request"]) as budget:
        assert budget.report() == []
        budget.record(usd="0.5", user="alice", team="red")
        assert [(row.by, row.usd) for row in budget.report()] == [("alice", Decimal("0.5"))]
        budget.record(usd="0.25", user="bob")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$2", user="bob")
        assert [(row.by, row.refused) for row in budget.top()] == [("alice", 0), ("bob", 1)]
        assert [row.by for row in budget.report(["user", "team"])] == [("alice", "red"), ("bob", None)]
        assert [row.usd for row in budget.report("user", where={"team": "red"})] == [Decimal("0.5")]
        assert budget.report([]).to_dicts()[0]["usd"] == "0.75"
        assert [row.limit for row in budget.questions.refusals()] == ["$1/request"]


def test_a_suggested_limit_takes_what_fills_it_to_the_last_cent() -> None:
    with Budget("memory://") as budget:
        for number in range(20):
            budget.record(usd="10", user=f"user-{number}")
        for usd in ("6", "4", "1"):
            budget.record(usd=usd, user="late")
        rows = {row.limit: row for row in budget.questions.suggest() if row.percent == 95}
    day = rows["per=user $10/day"]
    assert (day.of, day.refused_calls, day.refused_usd, day.refused_users) == (21, 1, 1, 1)
    assert day.command == "budget set per=user '$10/day'"


def test_estimates_of_an_engine_as_another_computes_them() -> None:
    duckdb = pytest.importorskip("duckdb")
    chance = random.Random(7)
    told = []
    with Budget("memory://", prices={name: {"input": "1", "output": "10"} for name in ("m", "n")}) as budget:
        for _ in range(150):
            given, most, used = chance.randint(1, 900), chance.randint(2, 400), chance.randint(1, 450)
            guess = budget.estimate_counts(chance.choice(["m", "n"]), input_tokens=given, output_tokens=most)
            done = budget.reconcile(budget.reserve(guess), Usage(input=given, output=used))
            assert done.charged is not None
            told.append((guess.model, done.charged[0], int(guess.usd * NANOS), int(guess.usd_max * NANOS)))
        rows = {row.by: row for row in budget.questions.estimates("model")}
    db = duckdb.connect(config={"threads": 1})
    for name in ("m", "n"):
        mine = [row[1:] for row in told if row[0] == name]
        sql = """select count(*), sum(c), sum(e), sum(r), sum(e - c) / sum(c),
            quantile_disc(floor(abs(e - c) * 10000 / c), 0.95) / 10000, sum(r) / sum(c), count(*) filter (where c > r)
            from (select unnest(?)::bigint as c, unnest(?)::bigint as e, unnest(?)::bigint as r)"""
        columns = [list(column) for column in zip(*mine, strict=True)]
        calls, usd, expected, reserved, bias, error, over, overruns = db.execute(sql, columns).fetchone()
        row = rows[name]
        assert (row.calls, row.usd * NANOS, row.usd_expected * NANOS, row.usd_reserved * NANOS, row.overruns) == (
            calls, usd, expected, reserved, overruns,
        )  # fmt: skip
        assert row.bias is not None
        assert row.p95_error is not None
        assert row.over_reservation is not None
        assert [float(row.bias), float(row.p95_error), float(row.over_reservation)] == pytest.approx(
            [bias, error, over], abs=1e-4
        )
        assert overruns > 3


LARGEST = 2**63 - 1


@pytest.mark.parametrize("quick", [True, False])
def test_sums_beyond_what_the_file_holds_stay_at_the_most(caplog: pytest.LogCaptureFixture, quick: bool) -> None:
    """Of a mistake in units the ledger has every entry; no question is broken by it, today or later."""
    with Sandbox(limits=["per=user $5/day"]) as b:
        b.record(usd="9223372036.854775807", tokens=2**53 - 1, user="a")
        assert [row.usd for row in b.report(quick=quick)] == [Decimal(LARGEST) / NANOS]
        caplog.clear()
        for _ in range(3):
            b.record(usd="9223372036.854775807", tokens=2**53 - 1, user="a")
            b.record(usd="0.25", tokens=3, user="b")
            rows = {row.by: row for row in b.report(quick=quick)}  # each time what the ledger gained is taken in
        assert (rows["a"].usd, rows["a"].calls) == (Decimal(LARGEST) / NANOS, 4)
        assert (rows["b"].usd, rows["b"].input_tokens) == (Decimal("0.75"), 9)
        assert any("shown as that" in each.message for each in caplog.records)
        assert [row.by for row in b.top()] == ["a", "b"]
        assert len(b.report([], times_mean=1)) == 1
        b.clock.move("1d")
        b.record(usd="1", user="b")
        assert b.report("day", quick=quick)[0].usd == Decimal(LARGEST) / NANOS
        caplog.clear()
        assert b.report(since="1h")[0].usd == 1
        assert caplog.records == []
        asked = b.questions
        assert asked.cache()
        assert asked.rates()
        assert asked.outlook()
        assert asked.suggest() is not None
        assert asked.dear_calls() is not None


def test_sums_that_hardly_fit_are_exact() -> None:
    ends = [entry("recorded", str(n), LARGEST // 4, (2**61 - 1, 1), at=n) for n in range(4)]
    (row,) = report(ends)
    assert (row.usd, row.input_tokens) == (Decimal(LARGEST // 4 * 4) / NANOS, 4 * (2**61 - 1))
    (row,) = report([*ends, entry("recorded", "4", 3), entry("recorded", "5", 0, (3, 0))])
    assert (row.usd, row.input_tokens) == (Decimal(LARGEST) / NANOS, 4 * (2**61 - 1) + 3)
