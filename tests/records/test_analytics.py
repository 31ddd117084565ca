"""Aggregates by DuckDB: closed days as Parquet files, the open one besides, together what the file of records has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from test_callfile import AT, MODEL, USAGE, imported

from budget.books.books import Books
from budget.books.moving import move
from budget.books.pruning import prune
from budget.engine import Budget
from budget.errors import ConfigError
from budget.records import CallFile
from budget.records.analytics import Analytics
from budget.records.erasing import erase
from budget.records.export import TYPES, export_days
from budget.stores.base import Store
from budget.stores.sqlite import SqliteStore
from budget.testing import Sandbox

ODD = 'a "b", c\'d \\ é;'
FIGURES = "count(*), sum(usd), sum(input), sum(output), sum(cache_read), sum(cache_write)"
TEXTS = 'select model, "user", run, outcome, tags, count(*) from calls group by all order by all'


def days_of_calls(budget: Sandbox, days: int = 3) -> None:
    for _ in range(days):
        for i in range(5):
            with budget.run(agent="outer"):
                held = budget.reserve("$0.5", tokens=9, user=ODD if i % 2 else "bob", lease=60)
                budget.reconcile(held, USAGE, model=MODEL) if i else budget.clock.move("2m")
            budget.record(usd=f"0.0{i + 1}", customer=ODD)
        budget.clock.move("1d")


def agree(file: CallFile, analytics: Analytics) -> None:
    """Both say the same of calls."""
    db = file.open()
    [found] = analytics.sql(f"select {FIGURES}, count(distinct id) from calls")
    query = f"select {FIGURES}, count(distinct id) from calls where account = ?"
    assert db.execute(query, (file.account,)).fetchone() == found
    names = dict(db.execute("select id, text from names"))
    per: dict[tuple[str | None, ...], int] = {}
    for model, user, run, outcome, tags in db.execute(
        "select model, user, run, outcome, tags from calls where account = ?", (file.account,)
    ):
        key = (names.get(model), names.get(user), names.get(run), names.get(outcome, "ok"), tags)
        per[key] = per.get(key, 0) + 1
    assert {row[:-1]: row[-1] for row in analytics.sql(TEXTS)} == per


def test_closed_days_and_the_open_one() -> None:
    with Sandbox(limits=["$500/day"]) as budget:
        file = CallFile(budget.engine.books)
        analytics = Analytics(file)
        assert analytics.sql("select count(*) from calls") == [(0,)]
        days_of_calls(budget, 1)
        agree(file, analytics)
        budget.record(usd="0.5", user="carol")
        agree(file, analytics)
        days_of_calls(budget)
        agree(file, analytics)
        late = budget.reserve("$1", lease=60, user="late")
        soon = budget.reserve("$1", lease=60, user="soon")
        budget.clock.move("2m")
        budget.status()
        agree(file, analytics)
        budget.reconcile(soon, usd="0.3")  # what was read of the open day gets another figure
        agree(file, analytics)
        days_of_calls(budget, 2)
        agree(file, analytics)
        budget.reconcile(late, usd="0.2")  # a day that is closed gets another figure
        agree(file, analytics)
        file.put([imported("i1"), imported("x" * 15), imported("AB" * 16, note=ODD)])
        agree(file, analytics)
        ids = {id for (id,) in analytics.sql("select id from calls where seq < 0")}
        assert ids == {"i1", "x" * 15, "AB" * 16}
        analytics.close()
        file.close()


def test_a_question_that_cannot_be_answered() -> None:
    with Sandbox() as budget:
        analytics = Analytics(CallFile(budget.engine.books))
        with pytest.raises(ConfigError, match="sql: "):
            analytics.sql("select nothing from calls")
        with pytest.raises(ConfigError, match="no statement"):
            analytics.sql("")
        assert analytics.sql("select ? + 1", [1]) == [(2,)]
        analytics.close()


@pytest.fixture
def store(tmp_path: Path) -> SqliteStore:
    """A file whose ledger goes over several days."""
    with Sandbox(limits=["$500/day"]) as budget:
        days_of_calls(budget)
        store = SqliteStore(tmp_path / "budget.db")
        move(budget.engine.books, Books(store, "default"), {"actor": "ops"})
    return store


def test_an_export_is_done_once(store: Store, tmp_path: Path, make_budget: Callable[..., Budget]) -> None:
    books = make_budget(f"sqlite:///{tmp_path / 'budget.db'}").engine.books
    file, folder = CallFile(books), tmp_path / "out"
    assert [export_days(file, folder).written for _ in range(2)] == [2, 0]
    paths = sorted(folder.glob("date=*/calls.parquet"))
    last = file.open().execute("select max(day) from totals").fetchone()[0]
    closed = file.db.execute("select count(distinct day) from totals where day < ?", (last,)).fetchone()[0]
    assert len(paths) == closed >= 2
    stamps = [path.stat().st_mtime_ns for path in paths]
    assert export_days(file, folder).written == 0
    assert [path.stat().st_mtime_ns for path in paths] == stamps
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o600] * len(paths)
    found = duckdb.sql(f"select * from '{folder}/*/calls.parquet'")
    assert dict(zip(found.columns, map(str, found.types), strict=True)) == {**TYPES, "date": "DATE"}
    paths[0].unlink()
    assert export_days(file, folder).written == 1
    assert sorted(os.listdir(paths[0].parent)) == ["calls.parquet"]
    other = CallFile(make_budget(f"sqlite:///{tmp_path / 'budget.db'}", account="other").engine.books)
    with pytest.raises(ConfigError, match="of another account"):
        export_days(other, folder)
    file.close()
    other.close()
    store.close()


def test_files_of_others_stay_where_a_day_goes(
    store: Store, tmp_path: Path, make_budget: Callable[..., Budget]
) -> None:  # fmt: skip
    """A sink may write into the same folder, and of pruned calls its files are all that is left."""
    books = make_budget(f"sqlite:///{tmp_path / 'budget.db'}").engine.books
    file, folder = CallFile(books), tmp_path / "out"
    first, second = sorted(export_days(file, folder).files.values())[:2]
    (first.parent / "default-000000000001-000000000009.parquet").write_text("a sink's")
    middle = file.db.execute("select max(day) from totals").fetchone()[0] * 86_400_000_000
    assert prune(books, middle, middle, {"actor": "ops"}).entries
    export_days(file, folder)
    assert os.listdir(first.parent) == ["default-000000000001-000000000009.parquet"]
    assert not second.parent.exists()
    file.close()
    store.close()


def test_what_is_erased_or_pruned_is_not_in_the_days(
    store: Store, tmp_path: Path, make_budget: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_ERASE_KEY", "a key of sixteen characters")
    books = make_budget(f"sqlite:///{tmp_path / 'budget.db'}").engine.books
    file = CallFile(books)
    analytics = Analytics(file)
    agree(file, analytics)
    assert file.days is not None
    assert list(file.days.glob("date=*/calls.parquet"))
    done = erase(books, "customer", ODD, {"actor": "ops"})
    assert not file.days.exists()
    agree(file, analytics)
    assert analytics.sql("select count(*) from calls where contains(tags, ?)", [done.pseudonym])[0][0] > 10
    middle = file.open().execute("select at from calls order by at limit 1 offset 12").fetchone()[0]
    assert prune(books, middle, middle, {"actor": "ops"}).entries
    agree(file, analytics)
    assert analytics.sql('select min("at") from calls')[0][0] >= middle
    analytics.close()
    file.close()
    store.close()


def test_without_duckdb_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with Sandbox() as budget, pytest.raises(ConfigError, match=r"budget-engine\[analytics\]"):
        Analytics(CallFile(budget.engine.books))


def test_imported_days_before_the_epoch_of_the_ledger_are_closed() -> None:
    with Sandbox() as budget:
        file = CallFile(budget.engine.books)
        file.put([imported("i1")])
        budget.record(usd="0.5")
        analytics = Analytics(file)
        agree(file, analytics)
        assert analytics.sql("select \"at\" from calls where id = 'i1'") == [(AT,)]
        analytics.close()
        file.close()
