"""Every panel's SQL in `deploy/` is run on DuckDB, and its figures are compared with sums made in Python."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from budget.sinks.arc import Arc
from budget.testing import Clock, Sandbox

from .helpers import feed_of
from .panels import BEGAN, HOUR, Call, Tables, World, panels, replayed, rules


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Calls of some days, and the rows of them; every seventh row came twice."""
    made = World(Tables())

    class Told(Arc):
        def _post(self, measurement: str, rows: list[dict[str, Any]]) -> None:
            made.tables.add(measurement, [*rows, *rows[::7]])

    limits = ["per=user $1/day", "agent=support 3 requests/hour", "$150/day"]
    with Sandbox(clock=Clock(BEGAN), limits=limits) as budget:
        sink = Told("http://127.0.0.1:1", "llm_costs")
        sink.attach(budget.engine)
        replayed(made, budget, 500)
        feed = feed_of(budget, sink)
        while feed.turn(flush=True):
            pass
        sink.tick(budget.engine.verbs.now())
        budget.clock.move("1s")
        made.pools = budget.status()
        made.until = budget.clock.now
    yield made
    made.tables.db.close()


def summed(calls: Iterable[Call], key: Callable[[Call], Any], figure: Callable[[Call], float]) -> dict[Any, float]:
    found: dict[Any, float] = defaultdict(float)
    for each in calls:
        found[key(each)] += figure(each)
    return found


def usd(each: Call) -> float:
    return each.usd


def table(rows: list[dict[str, Any]], *names: str) -> dict[Any, Any]:
    """Rows as a mapping of the first columns to the last."""
    *keys, last = names
    return {tuple(row[name] for name in keys) if len(keys) > 1 else row[keys[0]]: row[last] for row in rows}


def test_the_replay_has_what_it_takes(world: World) -> None:
    assert len(world.calls) > 200
    assert len(world.refused) > 20
    assert len({call.user for call in world.calls}) == 9
    assert world.until - BEGAN > timedelta(days=3)


@pytest.mark.parametrize("title", panels())
def test_every_panel_has_an_answer(world: World, title: str) -> None:
    rows = world.ask(panels()[title])
    assert rows
    assert all(row.get(name, "") is not None for row in rows for name in ("time", "cost_usd", "limit"))


@pytest.mark.parametrize("hours", [1.0, 24.0, 24.0 * 12])
def test_sums_are_those_of_the_calls(world: World, hours: float) -> None:
    calls = world.between(world.until - timedelta(hours=hours), world.until)
    spent = sum(map(usd, calls))
    assert calls
    assert world.ask(panels()["Cost"], hours) == [{"cost_usd": pytest.approx(spent)}]
    assert world.ask(panels()["Calls"], hours) == [{"calls": len(calls)}]
    assert world.ask(panels()["Cost rate, last hour"], hours) == [{"usd_per_hour": pytest.approx(spent / hours)}]


def test_the_cost_rate_of_a_single_call_and_of_none(world: World) -> None:
    sql, first = panels()["Cost rate, last hour"], world.calls[0]
    around = first.at.replace(microsecond=0)
    (row,) = world.tables.ask(sql, around - HOUR, around + timedelta(seconds=1))
    assert row["usd_per_hour"] == pytest.approx(first.usd, rel=1e-3)
    assert world.tables.ask(sql, BEGAN - 2 * HOUR, BEGAN - HOUR) == [{"usd_per_hour": 0.0}]


def test_top_users(world: World) -> None:
    rows = world.ask(panels()["Top users"])
    costs = summed(world.calls, lambda one: one.user, usd)
    calls = summed(world.calls, lambda one: one.user, lambda _: 1)
    assert table(rows, "user_id", "cost_usd") == pytest.approx(dict(costs))
    assert table(rows, "user_id", "calls") == dict(calls)
    assert [row["user_id"] for row in rows] == sorted(costs, key=lambda user: -costs[user])
    tokens = summed(world.calls, lambda one: one.user, lambda one: one.input + one.output)
    tokens["u1"] -= 9  # reserved without saying of which kind, so counted as either
    assert table(rows, "user_id", "tokens") == pytest.approx(dict(tokens), abs=9)
    assert all(row["usd_per_call"] == pytest.approx(row["cost_usd"] / row["calls"]) for row in rows)


def test_agents_and_models(world: World) -> None:
    costs = summed(world.calls, lambda one: one.agent or "unknown", usd)
    assert table(world.ask(panels()["Cost by agent"]), "agent", "cost_usd") == pytest.approx(dict(costs))
    pairs = summed(world.calls, lambda one: (one.agent or "unknown", one.model), usd)
    rows = world.ask(panels()["Agents and models"])
    assert table(rows, "agent", "model", "cost_usd") == pytest.approx(dict(pairs))
    assert sum(row["calls"] for row in rows) == len(world.calls)


def test_cost_per_hour(world: World) -> None:
    def hour(one: Call) -> tuple[datetime, str]:
        return one.at.replace(minute=0, second=0, microsecond=0), one.agent or "unknown"

    rows = world.ask(panels()["Cost per hour by agent"])
    assert table(rows, "time", "agent", "cost_usd") == pytest.approx(dict(summed(world.calls, hour, usd)))


def test_sessions(world: World) -> None:
    costs = summed(world.calls, lambda one: one.session, usd)
    wanted = sorted((session for session, cost in costs.items() if cost > 1), key=lambda one: -costs[one])[:50]
    rows = world.ask(panels()["Sessions above $1"])
    assert wanted
    assert table(rows, "session_id", "cost_usd") == pytest.approx({session: costs[session] for session in wanted})
    for row in rows:
        own = [one.at for one in world.calls if one.session == row["session_id"]]
        assert abs(row["first_call"] - min(own)) < timedelta(seconds=1)
        assert abs(row["last_call"] - max(own)) < timedelta(seconds=1)


def test_cache(world: World) -> None:
    whole = [one for one in world.calls if one.session != "late"]
    rows = world.ask(panels()["Prompt cache: share of the input read from it"])
    hours = {(row["time"], row["model"]): row["hit_ratio"] for row in rows}
    key = lambda one: (one.at.replace(minute=0, second=0, microsecond=0), one.model)  # noqa: E731
    read, given = summed(whole, key, lambda one: one.read), summed(whole, key, lambda one: one.input)
    for each, ratio in hours.items():
        if given.get(each):
            assert ratio == pytest.approx(read[each] / given[each], abs=1e-3)
    (saved,) = world.ask(panels()["Saved by the prompt cache"])
    assert saved["saved_usd"] > 0


def test_latency_is_nearest_rank(world: World) -> None:
    rows = world.ask(panels()["Latency"])
    groups: dict[datetime, list[int]] = defaultdict(list)
    for one in world.calls:
        if one.session != "late":
            groups[one.at.replace(minute=one.at.minute // 10 * 10, second=0, microsecond=0)].append(one.latency_ms)
    found = {row["time"]: row for row in rows if row["p50"] is not None}
    assert found.keys() == groups.keys()
    for time, values in groups.items():
        ordered = sorted(values)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            rank = max(1, -(-len(ordered) * round(share * 100) // 100))
            assert found[time][name] == ordered[rank - 1]


def test_limits_and_refusals(world: World) -> None:
    rows = {row["limit"]: row for row in world.ask(panels()["Limits now"])}
    for limit in {str(pool.limit) for pool in world.pools}:
        pools = [pool for pool in world.pools if str(pool.limit) == limit]
        assert rows[limit]["pools"] == len(pools)
        assert rows[limit]["used"] == pytest.approx(float(sum(pool.spent for pool in pools)))
        assert rows[limit]["reserved"] == pytest.approx(float(sum(pool.reserved for pool in pools)))
        fullest = max(float(pool.spent + pool.reserved) / float(pool.limit.amount) for pool in pools)
        assert rows[limit]["highest"] == pytest.approx(fullest)
    refused = summed([], lambda one: one, usd)
    for _, limit in world.refused:
        refused[limit] += 1
    told = summed([], lambda one: one, usd)
    for row in world.ask(panels()["Refusals by limit"]):
        told[row["limit"].removeprefix("refused ")] += row["refusals"]
    assert {limit: told[limit] >= count for limit, count in refused.items()} == dict.fromkeys(refused, True)
    assert sum(told.values()) >= len(world.refused)


def test_bare_table_names(world: World) -> None:
    known = {name for (name,) in world.tables.db.execute("select table_name from information_schema.tables").fetchall()}
    for sql in [*panels().values(), *rules().values()]:
        tables = set(re.findall(r"FROM ([\w.]+)", sql))
        assert tables <= known, sql
        assert "DISTINCT ON (call_id)" in sql
