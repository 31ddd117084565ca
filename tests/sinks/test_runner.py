"""The runner: each record once, in order, whatever becomes of sinks, processes and places."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from conftest import python

from budget.cli import main
from budget.config import load
from budget.engine import Budget
from budget.errors import ArgumentTypeError, ConfigError, StoreUnavailable
from budget.sinks import make_sinks
from budget.sinks.base import Batch, SinkFailed
from budget.sinks.feed import Feed
from budget.sinks.places import Places, beside
from budget.sinks.runner import Runner, exclusive

from .helpers import Kept, call, drain, eventually, failing, feed_of, mixed_budget

Make = Callable[..., Budget]


def records_of(url: str, folder: Path) -> dict[str, str]:
    return {"records": f"sqlite:///{folder / 'records.db'}"} if url.startswith("redis") else {}


def test_each_call_is_told_once_and_in_order(store_url: str, make_budget: Make, tmp_path: Path) -> None:
    kept = Kept()
    budget = make_budget(store_url, sinks=[kept], **records_of(store_url, tmp_path))
    ids = [call(budget, user=f"u{n % 3}") for n in range(25)]
    eventually(lambda: len(kept.ids) >= 25)
    ids += [call(budget) for _ in range(5)]
    budget.close()  # what is left is handed over
    assert kept.ids == ids
    assert kept.closed.is_set()
    assert [batch.first for batch in kept.batches[1:]] >= [batch.last for batch in kept.batches[:-1]]


def test_a_place_outlives_the_process(sqlite_url: str, make_budget: Make) -> None:
    first, second = Kept(), Kept()
    with make_budget(sqlite_url, sinks=[first]) as budget:
        ids = [call(budget) for _ in range(3)]
    with make_budget(sqlite_url, sinks=[second]) as budget:
        later = call(budget)
    assert (first.ids, second.ids) == (ids, [later])


def test_a_new_sink_is_told_everything(sqlite_url: str, make_budget: Make) -> None:
    with make_budget(sqlite_url) as budget:
        ids = [call(budget) for _ in range(3)]
    kept = Kept()
    make_budget(sqlite_url, sinks=[kept]).close()
    assert kept.ids == ids


def test_every_kind_of_change_is_told() -> None:
    kept = Kept()
    with mixed_budget() as budget:
        drain(feed_of(budget, kept))
    (batch,) = kept.batches
    assert (batch.first, batch.last) == (1, 10)
    kinds = Counter(type(change).__name__ for _, change in batch.changes)
    assert kinds == {"Ended": 3, "Corrected": 1, "Withdrawn": 1, "Refused": 1, "Shadowed": 4}


def test_a_batch_has_a_size_and_entries_that_do_nothing_move_the_place() -> None:
    class Small(Kept):
        size, age = 4, 0.0

    kept = Small()
    with mixed_budget() as budget:
        feed = feed_of(budget, kept)
        drain(feed)
        budget.refund(budget.reserve("$0.1", tokens=10, user="dora", shadow="no"))
        budget.freeze(user="dora")
        drain(feed)
        assert feed._place is not None
        assert feed._place.seq == budget.engine.books.ledger().last("default")
    assert [(b.first, b.last, len(b.changes)) for b in kept.batches][:3] == [(1, 4, 4), (5, 8, 4), (9, 10, 2)]


def test_one_who_wants_age_gets_no_small_batches() -> None:
    class Patient(Kept):
        size, age = 3, 3600.0

    kept = Patient()
    with mixed_budget() as budget:
        feed = feed_of(budget, kept)
        while feed.turn():
            pass
        assert [len(batch.changes) for batch in kept.batches] == [3, 3, 3]
        drain(feed)
        assert len(kept.batches[-1].changes) == 1


def test_an_outage_loses_nothing_and_is_said_once(make_budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(fails=failing(6, SinkFailed("no answer")))
    with caplog.at_level(logging.WARNING, "budget"):
        budget = make_budget("memory://", sinks=[kept])
        ids = [call(budget) for _ in range(3)]
        eventually(lambda: bool(kept.batches))
        ids += [call(budget)]
        budget.close()
    assert kept.ids == ids
    assert [record.message for record in caplog.records] == [
        "sink kept cannot be reached; it is tried again: no answer (its place is kept)"
    ]
    assert kept.tries[0] is kept.tries[5], "the same batch comes again, in the same bounds"


def test_each_outage_is_said(caplog: pytest.LogCaptureFixture) -> None:
    fail = iter([True, True, False, True, False])

    def fails(_: Batch) -> None:
        if next(fail):
            raise SinkFailed("no answer")

    with mixed_budget() as budget, caplog.at_level(logging.WARNING, "budget"):
        feed = feed_of(budget, Kept(fails=fails))
        drain(feed)
        call(budget)
        drain(feed)
    assert len(caplog.records) == 2


def test_what_holds_a_sink_up_stands_beside_its_place_until_it_goes_on() -> None:
    with mixed_budget() as budget:
        places = Places(None)
        feed = feed_of(budget, Kept(fails=failing(1, SinkFailed("no answer"))), places)
        with pytest.raises(SinkFailed) as caught:
            feed.turn(flush=True)
        feed.failed(caught.value)
        assert places.get("kept", "default").error == "no answer"
        assert places.get("kept", "default").seq == 0
        drain(feed)
        assert places.get("kept", "default").error is None
        assert places.get("kept", "default").seq == 10


def test_an_outage_is_not_over_while_what_failed_waits_to_be_due() -> None:
    class Patient(Kept):
        size, age = 1000, 3600.0

        def resume(self, account: str, kept: int) -> int:
            return kept

    places = Places(None)
    with mixed_budget() as budget:
        feed = feed_of(budget, Patient(fails=failing(1, SinkFailed("no answer"))), places)
        with pytest.raises(SinkFailed) as caught:
            feed.turn(flush=True)
        feed.failed(caught.value)
        feed.turn()
        feed.went_well()
        assert places.get("kept", "default").error == "no answer"
        drain(feed)
        assert places.get("kept", "default").error is None


def test_waits_grow_to_a_minute_and_are_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.sinks.feed.FIRST_WAIT", 0.5)
    monkeypatch.setattr("budget.sinks.feed.LONGEST_WAIT", 60.0)
    with mixed_budget() as budget:
        feed = feed_of(budget, Kept())
        waits = [feed.failed(SinkFailed("no")) for _ in range(30)]
        asked = feed.failed(SinkFailed("no", retry_after=77.0))
        forever = feed.failed(SinkFailed("no", retry_after=1e9))
    assert 0.25 <= waits[0] <= 0.5
    assert 1.0 <= waits[2] <= 2.0
    assert all(30 <= wait <= 60 for wait in waits[8:])
    assert len(set(waits[8:])) > 1, "all come back at once"
    assert asked == 77.0
    assert forever == 3600.0


def test_one_record_that_is_refused_holds_up_only_what_follows(caplog: pytest.LogCaptureFixture) -> None:
    poisoned = "6" * 32

    def fails(batch: Batch) -> None:
        if any(record.id == poisoned for record in batch.records):
            raise SinkFailed("answered 400", permanent=True, smaller=True)

    with mixed_budget() as budget, caplog.at_level(logging.WARNING, "budget"):
        budget.record(usd="1", tokens=1, id=poisoned)
        call(budget)
        kept = Kept(fails=fails)
        feed = feed_of(budget, kept)
        with pytest.raises(AssertionError, match="not through"):
            drain(feed)
        place = feed._places.get("kept", "default")
    assert [change for batch in kept.batches for _, change in batch.changes][-1].seq == 10  # type: ignore[union-attr]
    assert place.seq == 10
    assert place.error == "answered 400"
    assert [record.message for record in caplog.records] == [
        "sink kept does not take what it is given: answered 400 (its place is kept)"
    ]


def test_a_sink_of_somebody_else_may_raise_anything(make_budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(fails=failing(2, ZeroDivisionError("postgres://me:secret@host")))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "budget"), make_budget("memory://", sinks=[kept]) as budget:
        id = call(budget)
        eventually(lambda: bool(kept.batches))
    assert kept.ids == [id]
    assert "ZeroDivisionError" in caplog.text
    assert "secret" not in caplog.text


def test_a_reset_is_kept_to_also_while_the_sink_runs(sqlite_url: str, make_budget: Make) -> None:
    kept = Kept()
    budget = make_budget(sqlite_url, sinks=[kept])
    ids = [call(budget) for _ in range(3)]
    eventually(lambda: len(kept.ids) == 3)
    places = Places(beside(budget.engine.books, "-sinks"))
    eventually(lambda: places.get("kept", "default").seq == 3)
    places.reset("kept", "default", 1)
    eventually(lambda: len(kept.ids) == 5)
    assert kept.ids == ids + ids[1:]


def test_a_reset_during_a_write_wins() -> None:
    places = Places(None)
    with mixed_budget() as budget:
        kept = Kept(fails=lambda _: places.reset("kept", "default", 4) if not kept.batches else None)
        drain(feed_of(budget, kept, places))
    assert [(batch.first, batch.last) for batch in kept.batches] == [(1, 10), (5, 10)]


def test_the_place_of_another_ledger_is_said_and_nothing_is_skipped() -> None:
    places = Places(None)
    places.reset("kept", "default", 11)
    with mixed_budget() as budget:
        feed = feed_of(budget, Kept(), places)
        with pytest.raises(SinkFailed, match="11, and the ledger has 10: this is another ledger") as caught:
            feed.turn()
    assert caught.value.permanent


def test_entries_that_were_pruned_too_early_are_said_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    places = Places(None)
    with mixed_budget() as budget, caplog.at_level(logging.WARNING, "budget"):
        feed = feed_of(budget, Kept(), places)
        ledger = budget.engine.store._states["default"].ledger  # type: ignore[attr-defined]
        places.reset("kept", "default", 2)
        del ledger[:5]
        drain(feed)
    assert places.get("kept", "default").missed == 3
    assert "3 entries of the ledger were pruned before it was told of them" in caplog.text


def test_a_place_that_cannot_be_written_repeats_nothing_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    places, broken = Places(None), iter([True, True, False])
    move = places.move

    def moves(*args: Any) -> bool:
        if next(broken, False):
            raise StoreUnavailable("disk full")
        return move(*args)

    monkeypatch.setattr(places, "move", moves)
    kept = Kept()
    with mixed_budget() as budget:
        feed = feed_of(budget, kept, places)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                feed.turn(flush=True)
        drain(feed)
    assert len(kept.batches) == 1
    assert places.get("kept", "default").seq == 10


def test_closing_waits_for_no_sink_that_hangs(make_budget: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.sinks.runner.LAST_FLUSH", 0.1)
    release = Event()
    kept = Kept(fails=lambda _: release.wait() and None)
    budget = make_budget("memory://", sinks=[kept])
    call(budget)
    eventually(lambda: bool(kept.tries))
    budget.close()
    assert not kept.batches
    release.set()
    eventually(kept.closed.is_set)


def test_time_is_told_and_trouble_with_the_ledger(make_budget: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(Kept):
        ticks, troubles = 0, 0

        def tick(self, now_us: int) -> None:
            assert now_us > 10**15
            self.ticks += 1

        def troubled(self, error: Exception) -> None:
            assert isinstance(error, StoreUnavailable)
            self.troubles += 1

    clock = Clock()
    budget = make_budget("memory://", sinks=[clock])
    eventually(lambda: clock.ticks > 2)
    assert not clock.troubles

    def gone(*_: object) -> Any:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(budget.engine.store, "entries", gone)
    eventually(lambda: clock.troubles > 0)
    ticks = clock.ticks
    eventually(lambda: clock.ticks > ticks)


CALLS = """
import sys
from budget.engine import Budget
from budget.sinks import runner
runner.EVERY = 0.02
with Budget(sys.argv[1], sinks=["jsonl:" + sys.argv[2]]) as budget:
    for n in range(40):
        budget.record(usd="0.01", tokens=1, user=sys.argv[3])
"""


def test_processes_with_the_same_sink_tell_each_record_once(sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    children = [subprocess.Popen([sys.executable, "-c", CALLS, sqlite_url, str(path), f"u{n}"]) for n in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    main.main(["sinks", "run", "--once", "--store", sqlite_url, "--sink", f"jsonl:{path}"], standalone_mode=False)
    seqs = [json.loads(line)["seq"] for line in path.read_text().splitlines()]
    assert seqs == list(range(1, 121))


def test_a_sink_runs_in_one_process_at_a_time(sqlite_url: str, make_budget: Make) -> None:
    kept = Kept()
    budget = make_budget(sqlite_url)
    call(budget)
    runner = Runner(budget.engine, [kept])
    with exclusive(runner._lock(kept)), pytest.raises(StoreUnavailable):
        runner.once(kept)
    assert runner.once(kept) == 1
    assert len(kept.ids) == 1


FORKED = """
import os, sys, threading
from budget.engine import Budget
from budget.sinks import runner
runner.EVERY = 0.02
budget = Budget(sys.argv[1], sinks=["jsonl:" + sys.argv[2]])
for n in range(20):
    budget.record(usd="0.01", tokens=1, user="parent")
child = os.fork()
for n in range(20):
    budget.record(usd="0.01", tokens=1, user="child" if child == 0 else "parent")
if child == 0:
    assert "budget-sink-jsonl" in [thread.name for thread in threading.enumerate()]
    budget.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
budget.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_tells_each_record_once(sqlite_url: str, tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    python(FORKED, sqlite_url, str(path))
    main.main(["sinks", "run", "--once", "--store", sqlite_url, "--sink", f"jsonl:{path}"], standalone_mode=False)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["seq"] for line in lines] == list(range(1, 61))
    assert Counter(line["scope"]["user"] for line in lines) == {"parent": 40, "child": 20}


def test_a_server_needs_its_ledger_drained(redis_url: str, make_budget: Make) -> None:
    with pytest.raises(ConfigError, match="records="):
        make_budget(redis_url, sinks=[Kept()])


@pytest.mark.parametrize(
    ("sinks", "error", "match"),
    [
        (["nowhere"], ConfigError, "KIND:PATH"),
        (["webhook+https://x:99999/"], ConfigError, "a port up to 65535"),
        (["carrier-pigeon:/x"], ConfigError, "KIND:PATH"),
        (["pigeon:/x"], ConfigError, "known are arc, jsonl"),
        (["jsonl:"], ConfigError, "needs a file"),
        (["jsonl:/x?rotate=big"], ConfigError, "100MB"),
        (["jsonl:/x?colour=red"], ConfigError, "'colour'"),
        (["jsonl:/x?name=a/b"], ConfigError, "not a name"),
        (["jsonl:/x", "jsonl:/y"], ConfigError, "the name 'jsonl'"),
        (["webhook+ftp://x/y"], ConfigError, "https"),
        (["webhook+https://me:secret@x/y"], ConfigError, "environment variable"),
        (["webhook+https://x/y?secret_env=NOT_THERE"], ConfigError, "sinks: the environment variable NOT_THERE is not"),
        (["webhook+https://x/y?secret_env=hunter2"], ConfigError, "^sinks: no environment variable is[^2]*$"),
        (["arc+http://x:1/7up"], ConfigError, "'7up'"),
        (["parquet:/x?rows=0"], ConfigError, "rows='0'"),
        (["postgresql://x/y?table=a;b"], ConfigError, "'a;b'"),
        ([7], ArgumentTypeError, "int"),
        ([object()], ArgumentTypeError, "object"),
        (7, ArgumentTypeError, "a list"),
    ],
)
def test_what_is_no_sink(sinks: Any, error: type[Exception], match: str, make_budget: Make) -> None:
    with pytest.raises(error, match=match) as caught:
        make_budget("memory://", sinks=sinks)
    assert "secret@" not in str(caught.value)


def test_sinks_are_configured_by_file_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("budget.toml").write_text('sinks = ["jsonl:a.jsonl?name=a", "jsonl:b.jsonl"]\n')
    assert [sink.name for sink in make_sinks(load().sinks)] == ["a", "jsonl"]
    monkeypatch.setenv("BUDGET_SINKS", "jsonl:c.jsonl?name=c jsonl:d.jsonl?name=d")
    assert [sink.name for sink in make_sinks(load().sinks)] == ["c", "d"]
    assert load(sinks=[]).sinks == ()
    monkeypatch.setenv("BUDGET_SINKS", "postgresql://me:secret@db/x")
    assert "secret" not in repr(load())


def test_nothing_of_a_sink_is_on_the_way_of_a_call(make_budget: Make, tmp_path: Path) -> None:
    budget = make_budget("memory://", sinks=[Kept(), f"jsonl:{tmp_path}/calls.jsonl"], limits=["$1/day"])
    budget.reconcile(budget.reserve("$0.1"), usd="0.1")
    ours: set[str] = set()

    def look(frame: Any, event: str, _: object) -> None:
        if event == "call":
            ours.add(frame.f_code.co_filename)

    sys.setprofile(look)  # of this thread alone
    try:
        budget.reconcile(budget.reserve("$0.1"), usd="0.1")
    finally:
        sys.setprofile(None)
    assert any("engine.py" in name for name in ours)
    assert not [name for name in ours if "sinks" in Path(name).parts]


def test_a_disabled_budget_tells_nobody(make_budget: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    kept = Kept()
    with make_budget("memory://", sinks=[kept]) as budget:
        call(budget)
    assert not kept.tries


def test_importing_the_package_loads_no_sink() -> None:
    code = (
        "import budget, sys; b = budget.Budget('memory://'); b.close(); print([m for m in sys.modules if 'sinks' in m])"
    )
    assert python(code).stdout.strip() == "[]"


def test_a_feed_needs_no_thread(make_budget: Make) -> None:
    budget = make_budget("memory://")
    assert Feed(budget.engine.books, Kept(), Places(None)).turn() is False
