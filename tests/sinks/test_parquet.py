"""Parquet: whole files in folders per day, each entry in one of them, sums that are right."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from budget.sinks import make_sink
from budget.sinks.base import SinkFailed
from budget.sinks.places import Places
from budget.testing import Clock, Sandbox

from .helpers import call, drain, feed_of, mixed_budget, odd_batch

duckdb = pytest.importorskip("duckdb")


def ask(folder: Path, what: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as db:
        files = str(folder / "*" / "*.parquet").replace("'", "''")
        query = f"select {what} from (select * from read_parquet('{files}') order by seq)"
        rows: list[tuple[Any, ...]] = db.execute(query).fetchall()
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "it's calls"


def test_rows_add_up_and_have_their_types(folder: Path) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, make_sink(f"parquet:{folder}")))
        spent = sum(entry.usd for entry in budget.entries())
        day = next(iter(budget.entries())).at.date().isoformat()
    assert [path.name for path in folder.glob("*/*")] == ["default-000000000001-000000000010.parquet"]
    assert (folder / f"date={day}").is_dir()
    assert ask(folder, "sum(usd), sum(calls), count(*), count(distinct call_id)") == [(spent, 2, 10, 10)]
    assert ask(folder, "usd, user_id, date::varchar")[1] == (Decimal("0.011475"), "alice", day)
    assert ask(folder, 'kind, "limit" ')[-1] == ("refused", "per=user $1/day")
    kinds = {type(value) for (value,) in ask(folder, "time")}
    assert kinds == {datetime}


def test_a_batch_over_midnight_makes_a_file_per_day(folder: Path) -> None:
    clock = Clock(datetime(2026, 1, 31, 23, 59, 50, tzinfo=UTC))
    with Sandbox(clock=clock) as budget:
        for _ in range(3):
            call(budget)
            clock.move("5s")
        drain(feed_of(budget, make_sink(f"parquet:{folder}")))
    assert sorted(str(path.relative_to(folder)) for path in folder.glob("*/*")) == [
        "date=2026-01-31/default-000000000001-000000000002.parquet",
        "date=2026-02-01/default-000000000003-000000000003.parquet",
    ]
    assert ask(folder, "min(time)::varchar, max(time)::varchar") == [("2026-01-31 23:59:50", "2026-02-01 00:00:00")]


def test_the_names_of_the_files_say_where_to_go_on(folder: Path) -> None:
    with Sandbox() as budget:
        for _ in range(4):
            call(budget)
        sink = make_sink(f"parquet:{folder}?rows=2")
        drain(feed_of(budget, sink, Places(None)))
        (folder / "date=2026-01-01").mkdir()
        (folder / "date=2026-01-01" / "other-000000000001-000000000099.parquet").touch()  # of another account
        sink = make_sink(f"parquet:{folder}?rows=3")  # other bounds would make other files
        drain(feed_of(budget, sink, Places(None)))  # as after a crash before the place was kept
        (folder / "date=2026-01-01" / "other-000000000001-000000000099.parquet").unlink()
        call(budget)
        drain(feed_of(budget, sink, Places(None)))
    assert ask(folder, "seq") == [(1,), (2,), (3,), (4,), (5,)]


def test_a_file_waits_until_it_is_full_or_old(folder: Path) -> None:
    with Sandbox() as budget:
        feed = feed_of(budget, make_sink(f"parquet:{folder}?rows=3&seconds=3600"))
        call(budget)
        assert feed.turn() is False
        assert not folder.exists()
        call(budget)
        call(budget)
        feed.turn()
    assert ask(folder, "count(*)") == [(3,)]


def test_what_cannot_be_written_is_tried_again_and_leaves_nothing_half(folder: Path) -> None:
    folder.write_text("a file where the folder should be")
    with mixed_budget() as budget:
        feed = feed_of(budget, make_sink(f"parquet:{folder}"))
        with pytest.raises(SinkFailed, match="cannot be written") as caught:
            feed.turn(flush=True)
        feed.failed(caught.value)
        folder.unlink()
        drain(feed)
    assert not list(folder.glob("*/*.tmp"))
    assert ask(folder, "count(*)") == [(10,)]


def test_what_a_provider_says_may_be_anything(folder: Path) -> None:
    make_sink(f"parquet:{folder}").write(odd_batch())
    assert ask(folder, "model, user_id") == [("m\ufffd?'\n", "%s %(time)s")]
