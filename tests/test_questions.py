"""Questions on recorded calls, each compared with what DuckDB computes from the same calls on its own."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tracerecords import START, agents, chats

from budget.engine import Budget
from budget.errors import ArgumentTypeError, ConfigError
from budget.money import NANOS
from budget.records import Record
from budget.report import Questions
from budget.window import at_zone

duckdb = pytest.importorskip("duckdb")

ODD = timedelta(hours=31, minutes=17)
BEGIN = at_zone(START)
BOUNDS = [(None, None), (BEGIN + ODD, None), (BEGIN + ODD, BEGIN + 2 * ODD), (BEGIN + ODD, BEGIN + ODD * 1.1)]
"""Periods: everything; from the middle of a day on; with whole days between two ends; within a day."""


class Truth:
    """The same calls in DuckDB."""

    def __init__(self, records: list[Record], folder: Path):
        path = folder / "calls.csv"
        names = ("user", "session", "agent", "team", "model")
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["nr", "ts", "person", *names[1:], "usd", "input", "output", "read", "saved", "latency"])
            for number, r in enumerate(records):
                keys = [r.model if name == "model" else r.scope.get(name) for name in names]
                writer.writerow([number, r.at_us, *keys, r.nanos, r.input_tokens, r.output_tokens, r.cache_read_tokens,
                                 r.saved, r.latency_ms])  # fmt: skip
        self.db = duckdb.connect(config={"threads": 1})
        self.db.execute("create table calls as select * from read_csv(?, header = true)", [str(path)])

    def __call__(self, sql: str) -> list[Any]:
        """Ask."""
        return self.db.execute(sql).fetchall()


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [*chats(), *agents()]


@pytest.fixture(scope="module")
def questions(records: list[Record]) -> Iterator[Questions]:
    with Budget("memory://") as budget:
        assert budget.questions.file.put(records) == len(records)
        yield budget.questions


@pytest.fixture(scope="module")
def truth(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return Truth(records, tmp_path_factory.mktemp("truth"))


def micros(moment: datetime | None, default: int) -> int:
    return default if moment is None else (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def during(since: datetime | None, until: datetime | None) -> str:
    return f"ts >= {micros(since, 0)} and ts < {micros(until, 2**62)}"


def nanos(usd: Decimal | None) -> int | None:
    return None if usd is None else int(usd * NANOS)


SQL_OF = {
    "user": "person", "day": "strftime(make_timestamp(ts), '%Y-%m-%d')",
    "hour": "strftime(make_timestamp(ts), '%Y-%m-%dT%H:00Z')",
}  # fmt: skip
"""What an attribute is called there: `user` and `at` are words of its language."""


@pytest.mark.parametrize(("since", "until"), BOUNDS)
@pytest.mark.parametrize("by", ["user", "session", "agent", "model", "team", "day", "user,model", "agent,day",
                                "team,hour", ""])  # fmt: skip
def test_costs_in_groups(
    questions: Questions, truth: Truth, by: str, since: datetime | None, until: datetime | None
) -> None:
    names = by.split(",") if by else []
    keys = "".join(f"{SQL_OF.get(name, name)} as k{i}, " for i, name in enumerate(names))
    group = "group by " + ", ".join(f"k{i}" for i in range(len(names))) if names else "having count(*) > 0"
    quantiles = "".join(
        f", quantile_disc({what}, 0.{percent})" for what in ("usd", "latency") for percent in (50, 95, 99)
    )
    wanted = truth(f"""select {keys} count(*), sum(usd), sum(input), sum(output), sum(read), min(ts), max(ts)
                       {quantiles} from calls where {during(since, until)} {group}""")
    rows = questions.report(names, since=since, until=until)
    found = [(*row.keys.values(), row.calls, nanos(row.usd), row.input_tokens, row.output_tokens,
              row.cache_read_tokens, micros(row.first, 0), micros(row.last, 0), *map(nanos, (row.p50_usd, row.p95_usd,
              row.p99_usd)), row.p50_latency_ms, row.p95_latency_ms, row.p99_latency_ms) for row in rows]  # fmt: skip
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    assert [row.usd for row in rows] == sorted((row.usd for row in rows), reverse=True)
    quick = questions.report(names, since=since, until=until, quick=True)
    assert {row.p95_usd for row in quick} <= {None}
    same = ("by", "calls", "usd", "mean_usd", "input_tokens", "output_tokens", "cache_read_tokens", "keys")
    for name in same:
        assert [getattr(row, name) for row in quick] == [getattr(row, name) for row in rows]


def test_cost_per_user_in_a_week(questions: Questions, truth: Truth) -> None:
    """Calls, cost, tokens and the mean per call; the top 20."""
    since = BEGIN + timedelta(days=1, hours=3)
    rows = questions.report("user", since=since, top=20)
    wanted = truth(f"""select person, count(*), sum(usd), sum(input + output), avg(usd) from calls
        where {during(since, None)} group by 1 order by 3 desc, 1 nulls last limit 20""")
    for row, (user, calls, usd, tokens, mean) in zip(rows, wanted, strict=True):
        assert (row.by, row.calls, nanos(row.usd), row.input_tokens + row.output_tokens) == (user, calls, usd, tokens)
        assert abs((nanos(row.mean_usd) or 0) - mean) <= 1


def test_sessions_above_an_amount_with_start_and_end(questions: Questions, truth: Truth) -> None:
    since = BEGIN + timedelta(hours=20)
    rows = questions.report("session", since=since, above="$0.10")
    wanted = truth(f"""select session, sum(usd), min(ts), max(ts) from calls where {during(since, None)}
        group by 1 having sum(usd) > 100000000 order by 2 desc, 1""")
    found = [(row.by, nanos(row.usd), micros(row.first, 0), micros(row.last, 0)) for row in rows]
    assert found == wanted
    assert wanted


def test_agents_by_model(questions: Questions, truth: Truth) -> None:
    rows = questions.report("agent,model")
    wanted = truth("""select agent, model, count(*), sum(input), sum(output), sum(usd) from calls
        group by 1, 2 order by 6 desc""")
    assert [(*row.by, row.calls, row.input_tokens, row.output_tokens, nanos(row.usd)) for row in rows] == wanted
    assert len(wanted) >= 12


@pytest.mark.parametrize(("quota", "part", "key"), [("$0.50/day", 86400, "day"), ("$0.10/hour", 3600, "hour")])
def test_users_over_a_quota(questions: Questions, truth: Truth, quota: str, part: int, key: str) -> None:
    bound = int(Decimal(quota[1:].partition("/")[0]) * NANOS)
    wanted = truth(f"""select person, {SQL_OF[key]}, sum(usd) from calls group by 1, 2, ts // {part}000000
        having sum(usd) > {bound} order by 3 desc, 1 nulls last, 2""")
    found = [(*row.keys.values(), nanos(row.usd)) for row in questions.report("user", quota=quota)]
    assert found == wanted
    assert wanted


def test_who_costs_most_and_who_is_at_times_the_mean(questions: Questions, truth: Truth) -> None:
    wanted = truth("""select person, count(*), sum(usd) from calls group by 1 order by 3 desc, 1 nulls last limit 10""")
    rows = questions.report("user", quick=True, top=10)
    assert [(row.by, row.calls, nanos(row.usd)) for row in rows] == wanted
    for times in ("3", "2.5", "1"):
        far = truth(f"""with sums as (select person, sum(usd) as usd from calls where person is not null group by 1)
            select person from sums where usd >= {times} * (select avg(usd) from sums) order by usd desc""")
        assert [(row.by,) for row in questions.report("user", times_mean=times)] == far
        assert far


def test_the_rate_per_hour_knows_idle_hours(questions: Questions, truth: Truth) -> None:
    until = BEGIN + timedelta(days=3, hours=5, minutes=11)
    since = until - timedelta(hours=30)
    rows = questions.rates(since=since, until=until)
    assert len(rows) == 30
    assert (rows[0].since, rows[-1].until) == (since, until)
    for row in rows:
        [(calls, usd)] = truth(f"select count(*), coalesce(sum(usd), 0) from calls where "
                               f"ts > {micros(row.since, 0)} and ts <= {micros(row.until, 0)}")  # fmt: skip
        assert (row.calls, nanos(row.usd)) == (calls, usd)
    idle = questions.rates(since=BEGIN - timedelta(hours=3), until=BEGIN - timedelta(hours=1))
    assert [(row.calls, row.usd) for row in idle] == [(0, 0)] * 2


def test_calls_far_above_the_mean(questions: Questions, truth: Truth) -> None:
    since = BEGIN + timedelta(days=1)
    wanted = truth(f"""with those as (select * from calls where {during(since, None)})
        select ts, usd, person, model from those where usd > 3 * (select avg(usd) from those)""")
    rows = questions.dear_calls(3, since=since)
    found = [(micros(row.at, 0), nanos(row.usd), row.keys["user"], row.keys["model"]) for row in rows]
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    assert len(wanted) > 20
    assert min(row.times_mean for row in rows if row.times_mean is not None) > 3
    assert [row.usd for row in rows] == sorted((row.usd for row in rows), reverse=True)
    assert questions.dear_calls(3, since=since, top=5) == rows[:5]
    assert {row.keys["agent"] for row in questions.dear_calls("1.5", where={"agent": "coder"})} == {"coder"}


@pytest.mark.parametrize("by", ["model", "agent", "team", "user,model"])
def test_what_caches_saved(questions: Questions, truth: Truth, by: str) -> None:
    keys = by.replace("user", "person")
    wanted = truth(f"""select {keys}, count(*), sum(usd), sum(input), sum(read), sum(saved), sum(usd + saved)
        from calls group by {keys}""")
    rows = questions.cache(by)
    found = [(*row.keys.values(), row.calls, nanos(row.usd), row.input_tokens, row.cache_read_tokens,
              nanos(row.saved_usd), nanos(row.would_cost_usd)) for row in rows]  # fmt: skip
    assert sorted(found, key=repr) == sorted(wanted, key=repr)
    for row in rows:
        assert row.hit_ratio is not None
        assert row.miss_ratio is not None
        assert abs(row.hit_ratio - Decimal(row.cache_read_tokens) / row.input_tokens) < Decimal("0.0001")
        assert abs(row.hit_ratio + row.miss_ratio - 1) <= Decimal("0.0001")


def test_what_full_caching_would_add_and_why_calls_missed(questions: Questions, truth: Truth) -> None:
    wanted = dict(truth("""
        with placed as (
            select *, lag(input) over talk as held, ts - coalesce(latency, 0) * 1000 - lag(ts) over talk as gap
            from calls where agent = 'coder' window talk as (partition by session order by ts, nr)
        ), judged as (select *, least(coalesce(held, 0), input) as most from placed)
        select case when held is null then 'first call' when input < 1024 then 'too short'
            when gap > 300000000 then 'too late' else 'changed' end, count(*)
        from judged where read * 2 < most or (held is null and read = 0) group by 1
        union all select 'more', sum(greatest(most - read, 0)) from judged"""))
    [row] = questions.cache("agent", where={"agent": "coder"})
    assert row.more_tokens == wanted.pop("more")
    assert dict(row.misses) == wanted
    assert wanted["too late"] > 5
    [chat] = questions.cache("team", where={"team": "red", "agent": "search"})
    assert chat.misses["not asked for"] > 10


def test_what_suggested_limits_would_have_refused(questions: Questions, truth: Truth) -> None:
    rows = questions.suggest()
    cut = {(row.limit.partition("$")[0] + row.limit.rpartition("/")[2], row.percent): row for row in rows}
    for percent in (95, 99):
        row = cut["request", percent]
        amount = int(Decimal(row.limit[1:].partition("/")[0]) * NANOS)
        [(p, calls, usd, users)] = truth(f"""select
            (select quantile_disc(usd, 0.{percent}) from calls), count(*), sum(usd), count(distinct person)
            from calls where usd > {amount}""")
        assert nanos(row.observed) == p <= amount < p * Decimal("1.1") + 1
        assert (row.refused_calls, nanos(row.refused_usd), row.refused_users) == (calls, usd, users)
    for name, per, window in (("per=user day", "person", 86400), ("per=session lifetime", "session", None)):
        row = cut[name, 95]
        amount = int(Decimal(row.limit.partition("$")[2].partition("/")[0]) * NANOS)
        span = "0" if window is None else f"ts // {window}000000"
        sums = f'select {per} as who, {span} as part, sum(usd) as usd from calls where {per} is not null group by 1, 2'
        [(p, count)] = truth(f"select quantile_disc(usd, 0.95), count(*) from ({sums})")
        assert (nanos(row.observed), row.of) == (p, count)
        spent: dict[Any, int] = {}
        refused, cost = 0, 0
        for who, part, usd in truth(f"select {per}, {span}, usd from calls order by ts, nr"):
            before = spent.get((who, part), 0)
            if before + usd > amount:
                refused, cost = refused + 1, cost + usd
            else:
                spent[who, part] = before + usd
        assert (row.refused_calls, nanos(row.refused_usd)) == (refused, cost)
        assert refused > 0


def test_where_narrows_every_kind_of_attribute(questions: Questions, truth: Truth) -> None:
    for where, sql in [
        ({"agent": "coder"}, "agent = 'coder'"), ({"agent": None}, "agent is null"), ({"team": "red"}, "team = 'red'"),
        ({"team": None, "model": "huge"}, "team is null and model = 'huge'"), ({"user": "nobody"}, "false"),
        ({"user": None}, "person is null"),
    ]:  # fmt: skip
        for quick in (False, True):
            wanted = truth(f"select model, count(*), sum(usd) from calls where {sql} group by 1 order by 3 desc")
            found = questions.report("model", where=where, quick=quick)
            assert [(row.by, row.calls, nanos(row.usd)) for row in found] == wanted
            wanted = truth(f"select count(*), sum(usd) from calls where {sql} having count(*) > 0")
            assert [(row.calls, nanos(row.usd)) for row in questions.report([], where=where, quick=quick)] == wanted


def test_the_last_days_of_a_row(questions: Questions, truth: Truth) -> None:
    until = BEGIN + timedelta(days=4)
    [found] = questions.trends("user", ["user-0"], until=until, days=6)
    wanted = dict(truth("select ts // 86400000000, sum(usd) from calls where person = 'user-0' group by 1"))
    last = (micros(until, 0) - 1) // 86_400_000_000
    assert found == [wanted.get(day, 0) for day in range(last - 5, last + 1)]
    assert sum(value > 0 for value in found) >= 3
    assert questions.trends("team", ["red"]) == []


def test_data_frames(questions: Questions) -> None:
    pytest.importorskip("pandas")
    rows = questions.report("user,model")
    frame = rows.to_pandas()
    assert list(frame.columns)[:4] == ["user", "model", "calls", "usd"]
    assert frame["calls"].sum() == sum(row.calls for row in rows)
    assert frame["usd"].sum() == pytest.approx(float(sum(row.usd for row in rows)))
    assert len(questions.suggest().to_pandas()) == len(questions.suggest())


@pytest.mark.parametrize(("asked", "what"), [
    ({"by": "a b"}, "is not a name"), ({"by": "user,user"}, "stands twice"), ({"since": "yesterday"}, "not a duration"),
    ({"since": "1d", "until": "2d"}, "is not before until"), ({"where": {"day": "2026-01-01"}}, "is no attribute"),
    ({"where": {"user": ""}}, "1 to 256"), ({"quota": "$10/week"}, "per day or hour"),
    ({"quota": "10"}, "AMOUNT/WINDOW"),
    ({"quota": "$1/day", "above": "$1"}, "together with above"), ({"above": "much"}, "above"), ({"top": 0}, "top"),
    ({"times_mean": "0"}, "times_mean"), ({"times_mean": "many"}, "times_mean"),
    ({"times_mean": "1e999999999"}, "times_mean"), ({"times_mean": Decimal("1e999999999")}, "times_mean"),
    ({"times_mean": Decimal("NaN")}, "times_mean"),
    ({"since": datetime(2026, 1, 1)}, "zone"),  # noqa: DTZ001
])  # fmt: skip
def test_what_cannot_be_asked(questions: Questions, asked: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        questions.report(**asked)


@pytest.mark.parametrize(("name", "arguments", "what"), [
    ("report", {"where": "agent=x"}, "where: str"), ("cache", {"where": 5}, "where: int"),
    ("estimates", {"by": ["user"]}, "by: list"), ("outlook", {"user": 5}, "user: int"),
])  # fmt: skip
def test_what_is_of_a_wrong_type_is_named(
    questions: Questions, name: str, arguments: dict[str, Any], what: str
) -> None:  # fmt: skip
    with pytest.raises(ArgumentTypeError, match=what):
        getattr(questions, name)(**arguments)
