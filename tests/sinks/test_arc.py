"""Arc: its contract to the letter, and its traps avoided."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from decimal import Decimal

import msgpack
import pytest

from budget.errors import ConfigError
from budget.limits import Limit
from budget.sinks import make_sink
from budget.sinks.arc import Arc
from budget.sinks.base import SinkFailed
from budget.sinks.http import Poster
from budget.testing import Sandbox

from .arcserver import ArcServer
from .helpers import call, drain, eventually, feed_of, mixed_budget, odd_batch


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ArcServer]:
    monkeypatch.setenv("ARC_TOKEN", "secret")
    made = ArcServer()
    yield made
    made.close()


def sink_for(server: ArcServer, **options: str) -> Arc:
    query = "&".join(f"{name}={value}" for name, value in {"token_env": "ARC_TOKEN", **options}.items())
    made = make_sink(f"arc+{server.url}/llm_costs?{query}")
    assert isinstance(made, Arc)
    return made


def test_rows_add_up_to_the_ledger(server: ArcServer) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, sink_for(server)))
        spent = sum(entry.usd for entry in budget.entries())
        at_us = [entry.at_us for entry in budget.entries()]
    rows = server.rows["llm_costs", "llm_usage"]
    assert [(row["kind"], row["calls"]) for row in rows] == [
        ("call", 1), ("call", 1), ("call", 1), ("correction", 0), ("withdrawn", -1),
    ]  # fmt: skip
    assert sum(Decimal(str(row["cost_usd"])) for row in rows) == spent
    assert sum(row["calls"] for row in rows) == 2
    assert sum(row["input_tokens"] for row in rows) == 6200
    assert len({row["call_id"] for row in rows}) == 5
    assert [row["time"] for row in rows] == [at_us[seq - 1] // 1000 * 1000 for seq in (2, 5, 6, 8, 9)]
    first = rows[0]
    assert {name: first[name] for name in ("user_id", "session_id", "agent", "project", "tags", "outcome")} == {
        "user_id": "alice", "session_id": "s1", "agent": "support", "project": "p", "tags": '{"feature": "x"}',
        "outcome": "ok",
    }  # fmt: skip
    refusals = server.rows["llm_costs", "llm_refusals"]
    assert [(row["kind"], row["limit"], row["user_id"]) for row in refusals] == [
        ("shadow", "$0.01/day", "alice"), ("shadow", "$0.01/day", "bob"), ("shadow", "$0.01/day", "bob"),
        ("shadow", "$0.01/day", "carol"), ("refused", "per=user $1/day", "alice"),
    ]  # fmt: skip


def test_money_is_float_counts_are_int_and_no_column_is_all_null(server: ArcServer) -> None:
    with Sandbox() as budget:
        budget.record(usd="0", tokens=1)  # whose cost, as an integer, would cut down all that follow
        budget.record(usd="0.75", tokens=1)
        drain(feed_of(budget, sink_for(server)))
    (request,) = server.requests
    columns = request["columns"]
    assert columns["cost_usd"] == [0.0, 0.75]
    assert all(type(value) is float for value in columns["cost_usd"])
    assert [row["cost_usd"] for row in server.rows["llm_costs", "llm_usage"]] == [0.0, 0.75]
    assert all(type(value) is int for name in ("calls", "input_tokens", "time", "seq") for value in columns[name])
    assert all(any(value is not None for value in values) for values in columns.values())
    assert "user_id" not in columns
    assert request["database"] == "llm_costs"


def test_the_server_cuts_floats_down_as_arc_does(server: ArcServer) -> None:
    poster = Poster(server.url + "/api/v1/write/msgpack")
    headers = {"Authorization": "Bearer secret"}
    body = msgpack.packb({"m": "t", "columns": {"cost": [0, 0.75], "time": [1_700_000_000, 1_700_000_001]}})
    poster.post(gzip.compress(body), headers)
    assert server.rows["default", "t"] == [{"cost": 0, "time": 1_700_000_000_000_000},
                                           {"cost": 0, "time": 1_700_000_001_000_000}]  # fmt: skip
    poster.post(msgpack.packb({"batch": [{"m": "t"}, {"m": "u", "columns": {"a": [1.5]}}]}), headers)
    assert server.skipped == 1
    assert list(server.rows) == [("default", "t"), ("default", "u")]
    for body, status in [(b"", 400), (b"\xc1", 400), (msgpack.packb({"m": "1", "columns": {"a": [1]}}), 400),
                         (msgpack.packb({"m": "t", "columns": {"a": [1], "b": []}}), 400),
                         (msgpack.packb({"m": "t", "columns": {"time": ["now"]}}), 400),
                         (msgpack.packb({"m": "t", "columns": {"a": [b"x"]}}), 400),
                         (msgpack.packb({"m": "t", "columns": {"a": [1.0, "x"]}}), 500)]:  # fmt: skip
        with pytest.raises(SinkFailed, match=f"answered {status}"):
            poster.post(body, headers)
    poster.close()


@pytest.mark.parametrize("status", [500, 503, 507, 429])
def test_what_passes_is_tried_again(server: ArcServer, status: int) -> None:
    server.mode = status
    with mixed_budget() as budget:
        feed = feed_of(budget, sink_for(server))
        with pytest.raises(SinkFailed, match=str(status)) as caught:
            feed.turn(flush=True)
        assert not caught.value.permanent
        feed.failed(caught.value)
        server.mode = "ok"
        drain(feed)
    assert len(server.rows["llm_costs", "llm_usage"]) == 5


@pytest.mark.parametrize("status", [400, 401, 403, 413])
def test_what_does_not_pass_is_said(server: ArcServer, status: int) -> None:
    server.mode = status
    with mixed_budget() as budget, pytest.raises(SinkFailed) as caught:
        feed_of(budget, sink_for(server)).turn(flush=True)
    assert caught.value.permanent
    assert caught.value.smaller == (status in (400, 413))


def test_another_success_than_arcs_is_none(server: ArcServer) -> None:
    server.mode = 200
    with mixed_budget() as budget, pytest.raises(SinkFailed, match="answered 200: this is no Arc"):
        feed_of(budget, sink_for(server)).turn(flush=True)


def test_answers_of_500_are_taken_for_a_wrong_type_at_last(server: ArcServer) -> None:
    server.mode = 500
    with mixed_budget() as budget:
        feed, permanent = feed_of(budget, sink_for(server)), []
        for _ in range(6):
            with pytest.raises(SinkFailed) as caught:
                feed.turn(flush=True)
            permanent.append(caught.value.permanent)
    assert permanent == [False, False, False, False, True, True]


def test_of_two_requests_the_one_that_was_taken_is_not_sent_again(server: ArcServer) -> None:
    sink = sink_for(server)
    post, broken = sink._poster.post, iter([False, True])

    def posts(*given: object) -> int:
        if next(broken, False):
            raise SinkFailed("gone")
        return post(*given)  # type: ignore[arg-type]

    sink._poster.post = posts  # type: ignore[assignment]
    with mixed_budget() as budget:
        drain(feed_of(budget, sink))
    assert len(server.rows["llm_costs", "llm_usage"]) == 5
    assert len(server.rows["llm_costs", "llm_refusals"]) == 5


def test_rows_that_came_twice_have_the_same_id(server: ArcServer) -> None:
    server.mode = "taken, cut"
    with Sandbox() as budget:
        ids = [call(budget) for _ in range(3)]
        feed = feed_of(budget, sink_for(server))
        with pytest.raises(SinkFailed) as caught:
            feed.turn(flush=True)
        feed.failed(caught.value)
        server.mode = "ok"
        drain(feed)
    rows = server.rows["llm_costs", "llm_usage"]
    assert len(rows) > 3
    assert {row["call_id"] for row in rows} == set(ids)


def test_a_wrong_token_is_said_and_never_the_token(
    server: ArcServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ARC_TOKEN", "wrong-and-secret")
    with caplog.at_level(logging.DEBUG), mixed_budget() as budget:
        sink = sink_for(server)
        feed = feed_of(budget, sink)
        with pytest.raises(SinkFailed, match="answered 401") as caught:
            feed.turn(flush=True)
        feed.failed(caught.value)
        assert "wrong-and-secret" not in f"{caplog.text} {caught.value} {sink!r} {vars(sink)}"
        monkeypatch.setenv("ARC_TOKEN", "secret")  # put right, it is used at once
        drain(feed)
    assert len(server.rows["llm_costs", "llm_usage"]) == 5


def test_limits_are_told_besides(server: ArcServer) -> None:
    with Sandbox(limits=[Limit("$1/day", per="user")], sinks=[f"arc+{server.url}/llm_costs?token_env=ARC_TOKEN"]) as it:
        call(it, "0.25", user="alice")
        eventually(lambda: bool(server.rows["llm_costs", "llm_usage"]))
        eventually(lambda: bool(server.rows["llm_costs", "llm_limits"]))
    row = server.rows["llm_costs", "llm_limits"][-1]
    assert (row["limit"], row["unit"], row["account"]) == ("per=user $1/day", "usd", "default")
    assert all(type(row[name]) is float for name in ("amount", "used", "reserved", "highest"))


def test_what_a_provider_says_may_be_anything(server: ArcServer) -> None:
    sink = sink_for(server)
    sink.write(odd_batch())
    sink.close()
    (row,) = server.rows["llm_costs", "llm_usage"]
    assert row["model"] == "m\ufffd?'\n"


@pytest.mark.parametrize(("text", "url", "database"), [
    ("arc+http://h:8000", "http://h:8000", "default"),
    ("arc+http://h:8000/", "http://h:8000", "default"),
    ("arc+https://h/costs", "https://h", "costs"),
])  # fmt: skip
def test_the_last_part_of_the_path_is_the_database(text: str, url: str, database: str) -> None:
    sink = make_sink(text)
    assert isinstance(sink, Arc)
    assert (sink._poster.origin, sink._database) == (url, database)


def test_the_library_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.sinks.base.find_spec", lambda _: None)
    for text in ("arc+http://h:1/x", "parquet:/tmp/x", "postgresql://h/x"):
        with pytest.raises(ConfigError, match=r"pip install 'budget-engine\[(arc|analytics|postgres)\]'"):
            make_sink(text)
