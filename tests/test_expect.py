"""Sketches: their buckets, quantiles and sums, and that every store adds them up in the same way."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from threading import Thread

import pytest
from conftest import books
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budget import expect
from budget.commands import Learn, Outcome
from budget.expect import MILLION, SKETCHES, WINDOW, bucket_of, halved, mean, most_common, plus, quantile, top_of
from budget.stores.base import Store, open_store

VALUES = st.integers(0, 2**53 - 1) | st.integers(0, 3000)
COUNTS = st.dictionaries(st.integers(0, 1567), st.integers(1, 3000), max_size=30)


class Sketches:
    """The sketches of an account in a dictionary: what every store is held to."""

    def __init__(self) -> None:
        self.all: dict[str, expect.Counts] = {}

    def learned(self, name: str) -> expect.Counts | None:
        return self.all.get(name)

    def put_learned(self, name: str, counts: expect.Counts | None) -> None:
        if counts is None:
            self.all.pop(name, None)
        else:
            self.all[name] = counts

    def learned_names(self) -> Sequence[str]:
        return list(self.all)


def sketch(values: Sequence[int]) -> dict[int, int]:
    found: dict[int, int] = {}
    for value in values:
        found[bucket_of(value)] = found.get(bucket_of(value), 0) + 1
    return found


def learn(store: Store, more: Mapping[str, expect.Counts], account: str = "default") -> Outcome:
    return store.call(account, Learn(more), 10.0)


@given(VALUES)
def test_a_bucket_holds_values_within_a_thirty_second_of_its_top(value: int) -> None:
    bucket = bucket_of(value)
    assert value <= top_of(bucket) <= value + value // 31
    assert bucket == 0 or top_of(bucket - 1) < value
    assert bucket_of(top_of(bucket)) == bucket
    assert 0 <= bucket < 2**16  # as a server packs it


def test_values_out_of_range_count_as_the_nearest_in_it() -> None:
    assert bucket_of(-5) == bucket_of(0) == 0
    assert bucket_of(2**70) == bucket_of(2**53 - 1)


@settings(max_examples=30)
@given(st.lists(VALUES, min_size=150, max_size=300), st.sampled_from([7_000, 30_000, 500_000]))
def test_a_quantile_is_the_order_statistic_or_a_little_more(values: list[int], miss: int) -> None:
    rank = -(-(len(values) + 1) * (MILLION - miss) // MILLION)
    found = quantile(sketch(values), miss)
    if rank <= len(values):
        true = sorted(values)[rank - 1]
        assert true <= found <= true + true // 31
    else:
        assert found >= max(values)


def test_too_few_values_are_extrapolated_and_less_so_the_more_there_are() -> None:
    few, more = sketch([1000] * 10), sketch([1000] * 50)
    assert quantile(few, 10_000) == top_of(bucket_of(1000)) * 100 // 11
    assert quantile(few, 10_000) > quantile(more, 10_000) > 1000


def test_the_mean_takes_the_middle_of_each_bucket() -> None:
    assert mean(sketch([0, 10, 20])) == 10
    assert mean(sketch([1000, 3000])) == pytest.approx(2000, rel=0.02)


def test_the_most_common_value() -> None:
    assert most_common({3: 2, 0: 5, 1: 5}) == 0


@given(COUNTS)
def test_halving_keeps_the_cumulative_counts(counts: dict[int, int]) -> None:
    found, before, after = halved(counts), 0, 0
    for bucket in sorted(counts):
        before += counts[bucket]
        after += found.get(bucket, 0)
        assert after == before // 2


@given(COUNTS, COUNTS)
def test_a_sketch_never_outgrows_its_window(known: dict[int, int], more: dict[int, int]) -> None:
    found = plus(known, more)
    assert sum(found.values()) <= WINDOW
    assert all(count > 0 for count in found.values())
    if sum(known.values()) + sum(more.values()) <= WINDOW:
        assert found == plus(more, known)  # increments commute, so that processes need no order


def test_what_is_old_is_forgotten() -> None:
    found = plus({}, {bucket_of(5000): WINDOW})
    for _ in range(9):
        found = plus(found, {bucket_of(100): WINDOW // 2})
    assert quantile(found, 30_000) < 110


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.dictionaries(st.sampled_from(["over\nm\n", "output\nm\na ü", "x"]), COUNTS.filter(bool))))
def test_every_store_adds_as_the_specification_does(store: Store, steps: list[dict[str, expect.Counts]]) -> None:
    account = f"a{abs(hash(str(steps)))}"
    known = Sketches()
    for more in steps:
        assert learn(store, more, account).learned == expect.learn(known, more)
    assert learn(store, {}, account).learned == known.all
    store.remove(account)
    assert learn(store, {}, account).learned == {}


def test_a_full_account_ages_and_makes_room(store: Store) -> None:
    known = Sketches()
    full = {f"name {i:04}": {3: 1 + i % 2, 9: i % 3} for i in range(SKETCHES)}
    full = {name: {b: n for b, n in counts.items() if n} for name, counts in full.items()}
    assert learn(store, full).learned == expect.learn(known, full)
    more: dict[str, expect.Counts] = {"a new one": {1: 1}, "name 0001": {3: 5}}
    assert learn(store, more).learned == expect.learn(known, more)
    assert known.learned("a new one") == {1: 1}
    assert known.learned("name 0000") is None  # it had a single value
    assert known.learned("name 0001") == {3: 6}
    assert len(known.all) < SKETCHES
    assert learn(store, {}).learned == known.all


def test_what_finds_no_room_is_not_kept(store: Store) -> None:
    known = Sketches()
    full: dict[str, expect.Counts] = {f"name {i:04}": {3: 4000} for i in range(SKETCHES)}
    learn(store, full)
    expect.learn(known, full)
    more: dict[str, expect.Counts] = {"a new one": {1: 1}}
    assert learn(store, more).learned == expect.learn(known, more) == {"a new one": {}}
    assert learn(store, {}).learned == known.all
    assert set(known.all) == set(full)
    assert known.learned("name 0000") == {3: 2000}


def test_learning_leaves_ledger_and_pools_alone(store: Store) -> None:
    before = store.snapshot("default")
    learn(store, {"over\nm\n": {5: 7}})
    assert store.snapshot("default") == before
    assert store.last("default") == 0
    assert books(store).ok


def test_accounts_do_not_share(store: Store) -> None:
    learn(store, {"x": {1: 1}}, "one")
    assert learn(store, {}, "other").learned == {}


def test_processes_add_and_never_overwrite(shared_url: str) -> None:
    def work(store: Store) -> None:
        for _ in range(20):
            learn(store, {"x": {1: 1, 2: 2}})

    stores = [open_store(shared_url) for _ in range(4)]
    threads = [Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert learn(stores[0], {}).learned == {"x": {1: 80, 2: 160}}
    for store in stores:
        store.close()


def test_what_was_posted_is_added(store: Store) -> None:
    store.post("default", Learn({"x": {1: 1}}))
    assert learn(store, {"x": {1: 1}}).learned == {"x": {1: 2}}


def test_a_file_of_the_version_before_gets_its_table(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    schema = files("budget.stores").joinpath("schema.sql").read_text()
    with closing(sqlite3.connect(path)) as db:
        db.executescript(schema.partition("-- since version 2")[0] + "pragma user_version = 1;")
        assert not db.execute("select 1 from sqlite_master where name = 'learned'").fetchall()
    for _ in range(2):
        store = open_store(f"sqlite:///{path}")
        learn(store, {"x": {1: 1}})
        store.close()
    store = open_store(f"sqlite:///{path}")
    assert learn(store, {}).learned == {"x": {1: 2}}
    store.close()
