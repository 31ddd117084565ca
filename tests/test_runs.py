"""What a run knows of itself: its calls and its records, in this process and in others."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from budget import Budget
from budget.commands import Reservation
from budget.tally import Tally

Make = Callable[..., Budget]
ID = "0" * 31


@pytest.fixture
def b() -> Iterator[Budget]:
    with Budget("memory://") as made:
        yield made


# Records.


@pytest.mark.parametrize("limits", [{}, {"limit": "$9"}, {"max_calls": 9}, {"limit": "$9", "max_calls": 9}])
def test_a_record_counts_once(budget_factory: Make, limits: dict[str, Any]) -> None:
    b = budget_factory(limits=["100 requests/day"])
    given = dict(limits)
    with b.run(*filter(None, [given.pop("limit", None)]), **given) as run:
        b.record(usd="1")
        assert (run.spent, run.reserved, run.calls) == (1, 0, 1)
        for _ in range(3):
            b.record(usd="0.50", id=ID + "1")
        assert (run.spent, run.reserved, run.calls) == (Decimal("1.5"), 0, 2)
        b.reconcile(b.reserve("$1"), usd="0.25")
        assert (run.refresh().spent, run.reserved, run.calls) == (Decimal("1.75"), 0, 3)
    (pool,) = b.status()
    assert pool.spent == run.calls  # a record is a call where calls are counted


def test_a_record_counts_in_every_run_around_it(b: Budget) -> None:
    with b.run(user="alice") as outer:
        b.record(usd="1")
        with b.run("$9") as inner:
            b.record(usd="2")
    b.record(usd="4")
    assert [(run.spent, run.calls) for run in (outer, inner)] == [(3, 2), (2, 1)]


def test_a_record_that_was_made_in_another_process_counts_where_it_is_made_again(
    sqlite_url: str, make_budget: Make
) -> None:
    one, two = make_budget(sqlite_url), make_budget(sqlite_url)
    with one.run(user="alice") as run:
        one.record(usd="1", id=ID + "1")
        with two.run_from_headers(run.to_headers()) as again:
            two.record(usd="1", id=ID + "1")
            assert (again.spent, again.calls) == (1, 1)
    assert sum(entry.usd for entry in one.entries(run=run.id)) == 1


def test_only_so_many_records_are_remembered() -> None:
    tally = Tally([], {"run": "r"})
    for n in range(20_000):
        made = Reservation(f"{n:032x}", "", "reconciled", (1, 0, 0, 0, 1), (), 0, 0, 0, 0, (1, 0, 0, 0, 1))
        tally.recorded(made, ())
        tally.recorded(made, ())
    assert (tally.spent("usd"), tally.spent("requests")) == (20_000, 20_000)
    assert len(tally._recorded) <= 8192


# What a run without a limit can know.


def test_a_run_without_a_limit_knows_this_process_alone(sqlite_url: str, make_budget: Make) -> None:
    one, two = make_budget(sqlite_url), make_budget(sqlite_url)
    with one.run(user="alice") as run:
        one.reconcile(one.reserve("$1"), usd="1")
        two.close()
        with two.run_from_headers(run.to_headers()) as again:
            two.record(usd="2")
            assert (again.refresh().spent, again.calls) == (2, 1)
    assert (run.refresh().spent, run.calls) == (1, 1)
    assert sum(entry.usd for entry in one.entries(run=run.id)) == 3


def test_a_run_without_a_limit_asks_nothing(b: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    with b.run(user="alice") as run:
        b.record(usd="1")
        monkeypatch.setattr(b.engine.store, "call", None)
        assert run.refresh().spent == 1


# Many at once.


def test_threads_add_up_what_their_calls_cost(b: Budget) -> None:
    def work() -> None:
        for _ in range(200):
            b.record(usd="0.01")
            b.reconcile(b.reserve("$0.01"), usd="0.01")

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with b.run(user="alice") as run:
            threads = [threading.Thread(target=run.inside(work)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert (run.spent, run.reserved, run.calls) == (16, 0, 1600)


def test_a_tally_loses_nothing_to_a_thread_or_a_finalizer_in_between() -> None:
    """Between any two lines of an addition there is another one, in this thread and in another."""
    tally, made = Tally([], {"run": "r"}), iter(range(10**9))
    cost = (3, 1, 1, 1, 1)
    busy = False

    def add() -> None:
        id = f"{next(made):032x}"
        opened = Reservation(id, "", "open", cost, (), 0, 0, 0)
        tally.saw(opened, ())
        tally.saw(opened.ended_as("reconciled", 0, cost), ())

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal busy
        if os.path.basename(frame.f_code.co_filename) == "tally.py" and not busy:
            busy = True
            add()
            other = threading.Thread(target=add)
            other.start()
            other.join()
            busy = False
        return trace

    gc.disable()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        add()
    finally:
        sys.settrace(before)
        gc.enable()
    added = next(made)
    assert added > 10
    assert [tally.spent(unit) for unit in ("usd", "requests")] == [3 * added, added]
    assert tally.reserved("usd") == 0
