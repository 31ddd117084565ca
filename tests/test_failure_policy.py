"""When the store cannot answer: nothing is admitted unasked, nothing that ended is lost or booked twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, books, python
from redisserver import RedisServer, need_server

from budget import Budget, BudgetExceeded, ConfigError, StoreUnavailable
from budget import core as core_module
from budget.cli import main
from budget.commands import Outcome, Reconcile, Record, Refund, Renew, Reserve
from budget.outage import outbox as outbox_module
from budget.outage.outage import Outage
from budget.outage.outbox import Item, waiting
from budget.stores.base import open_store

LIMITS = ["$100/day", "50 requests/day"]
Make = Callable[..., Budget]


class Line:
    """The way to a store, which can be cut: before a command arrives, or before its answer does.

    Attributes:
        state: up, cut, or mute (the command is carried out, and nobody hears of it).
        tried, posted: The commands that were tried, and those that were left with the store.
    """

    def __init__(self, budget: Budget):
        self.store: Any = budget.engine.store
        self.state = "up"
        self.tried: list[Any] = []
        self.posted: list[Any] = []
        self._call, self._acall, self._post = self.store.call, self.store.acall, self.store.post
        self.store.call, self.store.acall, self.store.post = self.call, self.acall, self.post

    def call(self, account: str, command: Any, timeout: float, now: int | None = None) -> Outcome:
        self.tried.append(command)
        if self.state != "cut":
            outcome: Outcome = self._call(account, command, timeout, now)
        self._fail(command)
        return outcome

    async def acall(self, account: str, command: Any, timeout: float) -> Outcome:
        self.tried.append(command)
        if self.state != "cut":
            outcome: Outcome = await self._acall(account, command, timeout)
        self._fail(command)
        return outcome

    def post(self, account: str, command: Any) -> None:
        self.posted.append(command)
        if self.state != "cut":
            self._post(account, command)
        if self.state != "up":
            self.store.undelivered(account, command)

    def _fail(self, command: Any) -> None:
        if self.state != "up":
            raise StoreUnavailable("the store gave no answer within 0.25 s")

    @property
    def reserves(self) -> int:
        return sum(isinstance(command, Reserve) for command in self.tried)


@pytest.fixture
def budget(shared_url: str, make_budget: Make) -> Budget:
    return make_budget(shared_url, limits=LIMITS)


@pytest.fixture
def line(budget: Budget) -> Line:
    return Line(budget)


class Door:
    """The verbs, blocking or awaited."""

    def __init__(self, budget: Budget, kind: str):
        self._budget, self._kind = budget, kind

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if self._kind == "sync":
            return getattr(self._budget, verb)  # type: ignore[no-any-return]

        def ask(*args: Any, **options: Any) -> Any:
            return asyncio.run(getattr(self._budget.aio, verb)(*args, **options))

        return ask


@pytest.fixture(params=["sync", "aio"])
def door(budget: Budget, request: pytest.FixtureRequest) -> Door:
    return Door(budget, request.param)


def eventually(found: Callable[[], Any], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until, "it does not come"
        time.sleep(0.02)


def arrived(budget: Budget) -> None:
    """Wait until nothing waits any more, in this process or another."""
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    eventually(lambda: len(outbox) == 0 and waiting(outbox.folder)[0] == 0)


def totals(budget: Budget) -> tuple[str, str]:
    pool = next(pool for pool in budget.status() if pool.unit == "usd")
    return str(pool.spent), str(pool.reserved)


def ends(budget: Budget) -> list[tuple[str, str]]:
    """The ends in the ledger, in order."""
    return [(entry.kind, str(entry.usd)) for entry in budget.entries() if entry.kind != "reserved"]


# An end is never given up.


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_ends_arrive_once(line: Line, budget: Budget, door: Door, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whether the command was lost or its answer: an end is answered as it will be, waits on the disk, arrives once."""
    held = [door.reserve("$1", user="alice") for _ in range(3)]
    line.state = how
    done = door.reconcile(held[0], usd="0.25")
    assert (done.id, done.state, done.charged[0]) == (held[0].id, "reconciled", 250_000_000)
    assert done.charged[4] == 1
    assert door.refund(held[1]).state == "refunded"
    assert door.reconcile(held[2].id, usd="0.5").state == "reconciled"
    recorded = door.record(usd="0.125", user="alice", id="e" * 32)
    assert (recorded.id, recorded.charged[0]) == ("e" * 32, 125_000_000)
    outage = budget.engine.outage
    assert outage.outbox is not None
    assert waiting(outage.outbox.folder)[0] == 4
    line.state = "up"
    assert sum("wait in" in record.getMessage() for record in caplog.records) == 1, "said once per outage"
    arrived(budget)
    assert totals(budget) == ("0.875", "0")
    assert sorted(ends(budget)) == [("reconciled", "0.25"), ("reconciled", "0.5"), ("recorded", "0.125"),
                                    ("refunded", "0")]  # fmt: skip
    assert books(budget.engine.store).faults == []
    assert list(outage.outbox.folder.iterdir()) == []


def test_in_order(line: Line, budget: Budget) -> None:
    held = [budget.reserve("$1") for _ in range(9)]
    line.state = "cut"
    for n, each in enumerate(held):
        budget.reconcile(each, usd=f"0.{n}")
    line.state = "up"
    arrived(budget)
    assert [entry.reservation for entry in budget.entries() if entry.kind == "reconciled"] == [each.id for each in held]


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_a_guarded_call_is_not_disturbed(line: Line, budget: Budget, how: str) -> None:
    with budget.reservation("$1", user="alice") as block:
        line.state = how
        block.reconcile(usd="0.3")
    line.state = "up"
    arrived(budget)

    async def guarded() -> None:
        async with budget.reservation("$1", user="alice"):
            line.state = how

    asyncio.run(guarded())
    line.state = "up"
    arrived(budget)
    assert totals(budget) == ("1.3", "0")


def test_an_end_that_nobody_waits_for(line: Line, budget: Budget) -> None:
    """That of a block that was dropped, and of a task that was cancelled."""
    block = budget.reservation("$1").__enter__()
    line.state = "cut"
    del block
    line.state = "up"
    arrived(budget)
    assert ends(budget) == [("reconciled", "1")]


def test_nothing_is_left_with_a_store_that_is_given_up_on(line: Line, budget: Budget) -> None:
    """It would have it in memory, where a kill takes it; a lease need not be renewed in an outbox."""
    block = budget.reservation("$1").__enter__()
    line.state = "cut"
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            budget.reserve("$1", id="f" * 32)
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    budget.engine.post(Renew(block.id, 60_000_000))
    assert len(outbox) == 0
    del line.posted[:]
    id = block.id
    del block
    assert [item.command.id for item in outbox.items()] == [id]
    assert line.posted == []
    line.state = "up"
    arrived(budget)


def test_a_run_knows_of_an_end_that_waits(line: Line, budget: Budget) -> None:
    with budget.run(agent="support") as run:
        held = budget.reserve("$1")
        line.state = "cut"
        budget.reconcile(held, usd="0.75")
        assert (run.spent, run.reserved) == (Decimal("0.75"), 0)
    line.state = "up"
    arrived(budget)


def test_another_end_than_the_one_that_waits(line: Line, budget: Budget, caplog: pytest.LogCaptureFixture) -> None:
    """An operator was faster; what waited behind it arrives all the same."""
    held, other = budget.reserve("$1"), budget.reserve("$1")
    line.state = "cut"
    budget.reconcile(held, usd="0.5")
    budget.reconcile(other, usd="0.25")
    with Budget(line.store.url, limits=LIMITS) as elsewhere:
        elsewhere.refund(held.id)
    line.state = "up"
    arrived(budget)
    assert f"Reconcile of {held.id} was not carried out: it has another end" in caplog.text
    assert totals(budget) == ("0.25", "0")


def test_one_that_cannot_be_carried_out_holds_nothing_up(
    line: Line, budget: Budget, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, other = budget.reserve("$1"), budget.reserve("$1")
    replay = budget.engine.outage._replay

    def fails(command: Any, at: int) -> Any:
        if command.id == held.id:
            raise RuntimeError("a fault of ours")
        return replay(command, at)

    monkeypatch.setattr(budget.engine.outage, "_replay", fails)
    line.state = "cut"
    budget.reconcile(held, usd="0.5")
    budget.reconcile(other, usd="0.25")
    line.state = "up"
    arrived(budget)
    assert f"Reconcile of {held.id} was not carried out: a fault of ours" in caplog.text
    assert totals(budget) == ("0.25", "1")


# A record that waits.


def test_a_record_under_a_policy_that_changed_meanwhile(line: Line, budget: Budget) -> None:
    budget.record(usd="1", user="alice")
    line.state = "cut"
    budget.record(usd="0.5", user="alice")
    with Budget(line.store.url, limits=LIMITS) as elsewhere:
        elsewhere.limits.set("$5/hour", user="alice")
    line.state = "up"
    arrived(budget)
    assert totals(budget) == ("1.5", "0")
    assert books(line.store).faults == []


def test_a_record_before_anything_is_known_of_the_store(shared_url: str, make_budget: Make) -> None:
    """Its limits are those of the store, which nobody could ask yet."""
    with Budget(shared_url, limits=LIMITS) as elsewhere:
        elsewhere.limits.set("$7/day", user="alice")
    budget = make_budget(shared_url, limits=LIMITS)
    line = Line(budget)
    line.state = "cut"
    budget.record(usd="0.5", user="alice", id="d" * 32)
    budget.reconcile("c" * 32, usd="0.25")
    line.state = "up"
    arrived(budget)
    assert {str(pool.limit.rule): str(pool.spent) for pool in budget.status() if pool.unit == "usd"} == {
        "$100/day": "0.75", "$7/day": "0.5",
    }  # fmt: skip
    assert books(line.store).faults == []


def test_a_record_whose_window_is_over(line: Line, budget: Budget) -> None:
    """It is booked in the window in which it was made."""
    budget.record(usd="1")
    line.state = "cut"
    budget.record(usd="0.5")
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    item = outbox.first()
    assert item is not None
    assert isinstance(item.command, Record)
    day = 86_400_000_000  # since when it has waited
    draws = [draw._replace(start=draw.start - day, end=draw.end - day) for draw in item.command.draws]
    outbox._items[0] = Item(item.at - day, replace(item.command, draws=draws, version=item.command.version + 1))
    line.state = "up"
    arrived(budget)
    snapshot = line.store.snapshot("default")
    starts = sorted({start for _, start in snapshot.buckets})
    assert [start - starts[0] for start in starts] == [0, day]
    spent = {bucket.start: bucket.spent for bucket in snapshot.buckets.values() if bucket.spent > 1000}
    assert spent == {starts[0]: 500_000_000, starts[1]: 1_000_000_000}
    assert books(line.store).faults == []


def test_a_cost_out_of_a_slice_whose_window_is_over(make_budget: Make) -> None:
    """The policy of now is taken first; if the slice's window is over, it is booked as of then, like any other."""
    verbs = make_budget("memory://").engine.verbs
    command = Record("a" * 32, "", (5, 0, 0, 0, 1), [], 3, {"user": "alice"}, {}, of="b" * 32)
    flow = verbs.replay(command, 77)
    assert next(flow) == command
    assert flow.send(Outcome("stale_policy", 100, 9)) == replace(command, version=9)
    booked = flow.send(Outcome("stale_window", 100, 9))
    assert booked == Reconcile("a" * 32, command.actual, {}, [], command.scope, 77)
    with pytest.raises(StopIteration) as end:
        flow.send(Outcome("reconciled", 100, 9))
    assert end.value.value.status == "reconciled"


# Longer than the store knows an id.


@pytest.mark.parametrize("how", ["cut", "mute"])
@pytest.mark.parametrize("verb", ["reconcile", "record"])
def test_the_store_has_forgotten_the_id(shared_url: str, make_budget: Make, how: str, verb: str) -> None:
    """An hour after an end the store knows the id no more: what did arrive then is found in the ledger."""
    budget = make_budget(shared_url, limits=LIMITS)
    line = Line(budget)
    budget.check("$1")
    held = budget.reserve("$1") if verb == "reconcile" else SimpleNamespace(id="b" * 32)
    line.state = how
    budget.reconcile(held, usd="0.5") if verb == "reconcile" else budget.record(usd="0.5", id=held.id)
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    item = outbox.first()
    assert item is not None
    outbox._items[0] = Item(item.at - 50 * 60 * 1_000_000, item.command)
    if how == "mute":
        forget(line.store, held.id)
    line.state = "up"
    arrived(budget)
    assert totals(budget) == ("0.5", "0")
    assert len(ends(budget)) == 1
    assert books(line.store).faults == []


def forget(store: Any, id: str) -> None:
    """Have a store forget an ended reservation, as it does an hour later."""
    if store.url.startswith("sqlite"):
        import sqlite3

        store.close()
        with sqlite3.connect(store.url.removeprefix("sqlite:///")) as db:
            db.execute("delete from reservations where hex(id) = ? or id = ?", (id.upper(), id))
        db.close()
    else:
        import redis

        with redis.Redis.from_url(store.url) as client:
            keys = [key for key in client.scan_iter("*") if key.endswith(f"r:{id}".encode())]
            keys += [key for key in client.scan_iter("*") if key.endswith(b"r:" + bytes.fromhex(id))]
            assert keys, sorted(client.scan_iter("*"))
            client.delete(*keys)


# The breaker.


def test_the_breaker(line: Line, budget: Budget, door: Door, caplog: pytest.LogCaptureFixture) -> None:
    """After five failures nobody asks any more; a probe finds out that the store is back."""
    budget.reserve("$1")
    line.state = "cut"
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="no answer"):
            door.reserve("$1", id="f" * 32)
    tried = line.reserves
    for verb in (door.reserve, door.check):
        with pytest.raises(StoreUnavailable, match="does not answer") as caught:
            verb("$1")
        assert not caught.value.sent
    with pytest.raises(StoreUnavailable, match="does not answer"):
        budget.freeze(everybody=True)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        budget.entries()
    assert door.reconcile("a" * 32, usd="1").state == "reconciled", "an end is taken"
    assert line.reserves == tried
    line.state = "up"
    eventually(lambda: not budget.engine.outage.breaker.open)
    assert door.reserve("$1").state == "open"
    said = [record.getMessage() for record in caplog.records if "given up" in record.getMessage()]
    assert len(said) == 1
    assert sum("store answers again" in record.getMessage() for record in caplog.records) == 1


def test_a_probe_finds_out_when_nothing_waits(line: Line, budget: Budget) -> None:
    budget.reserve("$1")
    line.state = "cut"
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            budget.reserve("$1", id="f" * 32)
    assert len(budget.engine.outage.outbox or "") == 0
    line.state = "up"
    eventually(lambda: not budget.engine.outage.breaker.open)


def test_a_refusal_is_an_answer(line: Line, budget: Budget) -> None:
    for _ in range(3):
        line.state = "cut"
        for _ in range(4):
            with pytest.raises(StoreUnavailable):
                budget.reserve("$1", id="f" * 32)
        line.state = "up"
        for _ in range(10):
            with pytest.raises(BudgetExceeded):
                budget.reserve("$101")
    assert not budget.engine.outage.breaker.open


def test_a_wrong_argument_is_none_of_its_business(line: Line, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*args: Any, **options: Any) -> Outcome:
        raise ConfigError("store: an option of the URL is not known")

    budget.reserve("$1")
    with monkeypatch.context() as patch:
        patch.setattr(line.store, "call", wrong)
        for _ in range(20):
            with pytest.raises(ConfigError):
                budget.reserve("$1")
    assert not budget.engine.outage.breaker.troubled


def test_a_store_that_lost_entries_has_answered(line: Line, budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*args: Any, **options: Any) -> Outcome:
        error = StoreUnavailable("the server has lost 3 entries")
        error.lost = 3
        raise error

    budget.reserve("$1")
    with monkeypatch.context() as patch:
        patch.setattr(line.store, "call", lost)
        for _ in range(20):
            with pytest.raises(StoreUnavailable, match="lost 3"):
                budget.reserve("$1")
    assert not budget.engine.outage.breaker.troubled


@pytest.mark.parametrize("error", [ConfigError("store: the server may evict keys"), RuntimeError("a fault of ours")])
def test_a_probe_that_goes_wrong(
    line: Line, budget: Budget, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong setting is for the callers to hear of; a fault of ours does not end the probes."""
    budget.reserve("$1")
    line.state = "cut"
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            budget.reserve("$1", id="f" * 32)

    wrong = 0

    def fails(*args: Any, **options: Any) -> Outcome:
        nonlocal wrong
        wrong += 1
        raise error

    breaker = budget.engine.outage.breaker
    with monkeypatch.context() as patch:
        patch.setattr(line.store, "call", fails)
        eventually(lambda: wrong > 0)
        if isinstance(error, ConfigError):
            eventually(lambda: not breaker.open)
            with pytest.raises(ConfigError):
                budget.reserve("$1")
        else:
            eventually(lambda: wrong > 1)
            assert breaker.open
            assert "a fault of ours" in caplog.text
    line.state = "up"
    eventually(lambda: not breaker.open)
    assert budget.reserve("$1").state == "open"


def test_threads_and_tasks_share_it(line: Line, budget: Budget) -> None:
    budget.reserve("$1")
    line.state = "cut"

    def attempt() -> None:
        with suppress(StoreUnavailable):
            budget.reserve("$1", id="f" * 32)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tried = line.reserves
    with pytest.raises(StoreUnavailable, match="does not answer"):
        asyncio.run(budget.aio.reserve("$1"))
    assert line.reserves == tried


def test_no_thread_before_there_is_work(line: Line, budget: Budget) -> None:
    budget.reconcile(budget.reserve("$1"), usd="0.5")
    names = [thread.name for thread in threading.enumerate()]
    assert "budget-outbox" not in names
    line.state = "cut"
    budget.reconcile("a" * 32, usd="1")
    assert "budget-outbox" in [thread.name for thread in threading.enumerate()]
    line.state = "up"
    arrived(budget)
    eventually(lambda: "budget-outbox" not in [thread.name for thread in threading.enumerate()])


def test_what_is_left_while_the_thread_ends(line: Line, budget: Budget) -> None:
    """Whoever leaves it then can start no other thread; the one that ends looks again."""
    held, outage = budget.reserve("$1"), budget.engine.outage

    class Starting:
        """The lock, and at the thread's end somebody who leaves something while it is held."""

        def __init__(self) -> None:
            self._lock, self.left = threading.Lock(), False
            self.acquire, self.release = self._lock.acquire, self._lock.release

        def __enter__(self) -> None:
            self._lock.acquire()
            if not self.left:
                self.left = True
                outage.keep(Reconcile(held.id, (250_000_000, 0, 0, 0, 1), {}, known=held))

        def __exit__(self, *error: object) -> None:
            self._lock.release()

    starting: Any = Starting()
    outage._starting = starting
    outage.keep(Reconcile("a" * 32, (125_000_000, 0, 0, 0, 1), {}))
    eventually(lambda: starting.left)
    arrived(budget)
    assert totals(budget) == ("0.375", "0")


def test_a_forked_child_asks_for_itself(line: Line, budget: Budget) -> None:
    budget.reserve("$1")
    line.state = "cut"
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            budget.reserve("$1", id="f" * 32)
    budget.reconcile("a" * 32, usd="1")
    outage = budget.engine.outage
    assert outage.outbox is not None
    pid = os.fork()
    if pid == 0:
        code = 1
        with suppress(BaseException):
            line.state = "up"
            good = not outage.breaker.open and len(outage.outbox) == 0
            code = 0 if good and budget.reserve("$2").state == "open" else 1
            line.store.close()
        os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert outage.breaker.open
    assert len(outage.outbox) == 1
    line.state = "up"
    arrived(budget)
    assert totals(budget) == ("1", "3")


# One deadline.


def test_a_deadline_counts_from_an_open_store(
    line: Line, budget: Budget, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening has its own time; what a verb then asks shares one deadline, however often it asks."""
    clock, given = [100.0], []
    took = [4.0, 0.2, 0.2, 0.2]
    limit = budget.engine.timeout

    def hear(command: Any, timeout: float) -> None:
        given.append((type(command).__name__, round(timeout, 3)))
        clock[0] += took[len(given) - 1] * limit

    call, acall = line.store.call, line.store.acall

    def slow(account: str, command: Any, timeout: float, now: int | None = None) -> Outcome:
        hear(command, timeout)
        outcome: Outcome = call(account, command, 5.0, now)
        return outcome

    async def aslow(account: str, command: Any, timeout: float) -> Outcome:
        hear(command, timeout)
        outcome: Outcome = await acall(account, command, 5.0)
        return outcome

    monkeypatch.setattr(line.store, "call", slow)
    monkeypatch.setattr(line.store, "acall", aslow)
    monkeypatch.setattr(core_module, "monotonic", lambda: clock[0])
    with Budget(line.store.url) as elsewhere:  # a change that the policy as loaded does not have
        door.reserve("$1")
        elsewhere.limits.set("$5/hour")
    del given[:]
    took[:] = [0.2, 0.2, 0.2, 0.2]
    door.reserve("$1")
    whole = round(limit, 3)
    assert given == [
        ("Reserve", whole), ("LoadPolicy", round(0.8 * limit, 3)), ("Reserve", round(0.6 * limit, 3)),
    ]  # fmt: skip


def test_opening_is_not_part_of_it(line: Line, budget: Budget, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given = [100.0], []
    limit = budget.engine.timeout
    call, acall = line.store.call, line.store.acall

    def hear(command: Any, timeout: float) -> None:
        given.append(round(timeout / limit, 3))
        clock[0] += limit * (0.5 if len(given) == 1 else 0.1)

    def slow(account: str, command: Any, timeout: float, now: int | None = None) -> Outcome:
        hear(command, timeout)
        outcome: Outcome = call(account, command, 5.0, now)
        return outcome

    async def aslow(account: str, command: Any, timeout: float) -> Outcome:
        hear(command, timeout)
        outcome: Outcome = await acall(account, command, 5.0)
        return outcome

    monkeypatch.setattr(line.store, "call", slow)
    monkeypatch.setattr(line.store, "acall", aslow)
    monkeypatch.setattr(core_module, "monotonic", lambda: clock[0])
    door.reserve("$1")
    assert given == [1.0, 1.0]


# Bounded.


def test_too_much_waits(line: Line, budget: Budget, door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MOST", 2)
    monkeypatch.setattr(Outage, "_round", lambda self: None)  # nothing gets through yet
    held = [door.reserve("$1") for _ in range(3)]
    line.state = "cut"
    for each in held:
        door.reconcile(each, usd="0.5")
    line.state = "up"
    with pytest.raises(StoreUnavailable, match="3 ends of calls wait") as caught:
        door.reserve("$1")
    assert not caught.value.sent
    monkeypatch.undo()
    arrived(budget)
    assert door.reserve("$1").state == "open"


# on_store_error.


@pytest.mark.parametrize("how", ["cut", "mute"])
def test_allowed_to_go_on(shared_url: str, make_budget: Make, how: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each call's cost reaches the ledger once, whether or not its reserve had arrived."""
    budget = make_budget(shared_url, limits=LIMITS, on_store_error="allow:i-accept-unbounded-spend")
    line = Line(budget)
    budget.reserve("$1", id="1" * 32)
    line.state = how
    for kind in ("sync", "aio"):
        door = Door(budget, kind)
        for _ in range(4):
            held = door.reserve("$2", user="alice")
            assert held.detail["degraded"] is True
            door.reconcile(held, usd="0.5")
        door.refund(door.reserve("$2", user="alice"))
    with budget.reservation("$2", user="alice") as block:
        pass
    assert block.ended
    assert budget.engine.outage.degraded == 11
    line.state = "up"
    arrived(budget)
    eventually(lambda: not budget.engine.outage.breaker.open)
    held = budget.reserve("$2", user="alice")
    assert "degraded" not in held.detail
    budget.refund(held)
    assert totals(budget) == ("6", "1")
    marked = [entry.detail.get("degraded") for entry in budget.entries() if entry.kind == "reconciled"]
    assert len(marked) == 9
    assert any(marked)
    if how == "cut":
        assert all(marked)
    assert books(line.store).faults == []
    assert sum("without a reservation" in record.getMessage() for record in caplog.records) == 1


def test_a_limit_holds_all_the_same_while_the_store_answers(shared_url: str, make_budget: Make) -> None:
    budget = make_budget(shared_url, limits=["$1/day"], on_store_error="allow:i-accept-unbounded-spend")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$2")


def test_allowed_before_anything_is_known_of_the_store(shared_url: str, make_budget: Make) -> None:
    budget = make_budget(shared_url, limits=LIMITS, on_store_error="allow:i-accept-unbounded-spend")
    line = Line(budget)
    line.state = "cut"
    held = budget.reserve("$2")
    line.state = "up"
    budget.reconcile(held, usd="0.5")
    assert totals(budget) == ("0.5", "0")


@pytest.mark.parametrize(
    ("text", "kind", "nanos"),
    [
        ("refuse", "refuse", None),
        ("allow:i-accept-unbounded-spend", "allow", None),
        ("local_allowance:$1", "local_allowance", 10**9),
        ("local_allowance:0.25", "local_allowance", 250_000_000),
    ],
)
def test_settings(text: str, kind: str, nanos: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_ON_STORE_ERROR", text)
    with Budget("memory://") as budget:
        assert (budget.settings.on_store_error, budget.settings.local_allowance) == (kind, nanos)


@pytest.mark.parametrize(
    "text", ["allow", "allow:", "allow:yes", "local_allowance", "local_allowance:", "local_allowance:$0",
             "local_allowance:-1", "local_allowance:much", "refuse:", "hope", ""],
)  # fmt: skip
def test_settings_that_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="on_store_error"):
        Budget("memory://", on_store_error=text)


# What is kept is for whoever comes next.


def test_close_leaves_it_to_the_next(line: Line, budget: Budget, make_budget: Make) -> None:
    held = budget.reserve("$1")
    line.state = "cut"
    budget.reconcile(held, usd="0.5")
    with pytest.raises(StoreUnavailable):
        budget.reserve("$1")  # its call-back waits too
    budget.close()
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    assert waiting(outbox.folder)[0] == 2
    line.state = "up"
    after = make_budget(line.store.url, limits=LIMITS)
    after.status()
    arrived(after)
    assert totals(after) == ("0.5", "0")


def test_close_gives_it_a_moment(line: Line, budget: Budget) -> None:
    held = budget.reserve("$1")
    line.state = "cut"
    budget.reconcile(held, usd="0.5")
    line.state = "up"
    budget.close()
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    assert waiting(outbox.folder)[0] == 0
    assert totals(budget) == ("0.5", "0"), "it opens again"


def test_another_account_is_another_outbox(line: Line, budget: Budget, make_budget: Make) -> None:
    held = budget.reserve("$1")
    line.state = "cut"
    budget.reconcile(held, usd="0.5")
    budget.close()
    other = make_budget(line.store.url, account="other")
    other.status()
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    assert waiting(outbox.folder)[0] == 1


def test_memory_needs_none(make_budget: Make) -> None:
    budget = make_budget("memory://")
    budget.reconcile(budget.reserve("$1"), usd="0.5")
    assert budget.engine.outage.outbox is None


CLIENT = """
import sys
from budget import Budget
from budget import StoreUnavailable
budget = Budget(sys.argv[1], limits=["$100/day"])
held = [budget.reserve("$1", user="alice") for _ in range(3)]
print("ready", flush=True)
sys.stdin.readline()
budget.engine.timeout = 0.25
for each in held:
    budget.reconcile(each, usd="0.25")
budget.record(usd="0.125", id="d" * 32)
print("done", flush=True)
sys.stdin.readline()
"""


def test_a_killed_process_and_a_server_that_hangs(tmp_path: Path, make_budget: Make) -> None:
    """The server stops, calls end, their process is killed, the server goes on: another process books the ends."""
    need_server()
    server = RedisServer(tmp_path)
    try:
        child = subprocess.Popen(
            [sys.executable, "-c", CLIENT, server.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        os.kill(server.pid, signal.SIGSTOP)
        child.stdin.write("go\n")
        child.stdin.flush()
        assert child.stdout.readline() == "done\n"
        child.kill()
        child.communicate()
        os.kill(server.pid, signal.SIGCONT)
        budget = make_budget(server.url, limits=["$100/day"])
        budget.status()
        arrived(budget)
        assert totals(budget) == ("0.875", "0")
        assert len(ends(budget)) == 4
        assert books(budget.engine.store).faults == []
    finally:
        os.kill(server.pid, signal.SIGCONT)
        server.stop()


def test_no_text_of_a_prompt(line: Line, budget: Budget) -> None:
    canary = "k3pt-quiet"
    messages = [{"role": "user", "content": canary}]
    held = budget.reserve(model="claude-sonnet-4-6", max_tokens=9, messages=messages, system=canary)
    line.state = "cut"
    budget.reconcile(held, {"input_tokens": 5, "output_tokens": 5})
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    (path,) = outbox.folder.iterdir()
    text = path.read_text()
    assert json.loads(text)["detail"]["usage"]["output"] == 5
    assert canary not in text
    line.state = "up"
    arrived(budget)


def test_what_a_store_was_left_with_and_cannot_do(
    budget: Budget, monkeypatch: pytest.MonkeyPatch, shared_url: str
) -> None:
    """A command that nobody waits for, and one whose task was cancelled, come back from the store to be kept."""
    held = [budget.reserve("$1") for _ in range(2)]
    budget.close()
    store: Any = budget.engine.store
    path = Path(shared_url.removeprefix("sqlite:///"))
    monkeypatch.setattr(budget.engine.outage, "_round", lambda: None)  # what was kept is not carried out yet
    if path.is_file():
        path.rename(path.with_suffix(".away"))
        path.mkdir()  # where the file should be
    else:
        monkeypatch.setattr(store._posted, "_carry_out", _unavailable)
    store.post("default", Reconcile(held[0].id, (250_000_000, 0, 0, 0, 1), {}, known=held[0]))

    async def cancelled() -> None:
        task = asyncio.create_task(budget.aio.reconcile(held[1], usd="0.5"))
        await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    eventually(lambda: {item.command.id for item in outbox.items()} == {each.id for each in held})
    if path.is_dir():
        path.rmdir()
        path.with_suffix(".away").rename(path)
    monkeypatch.undo()
    arrived(budget)
    assert totals(budget) == ("0.75", "0")


async def _unavailable(*args: Any) -> Outcome:
    raise StoreUnavailable("the store cannot be reached")


def test_the_doctor_says_what_waits(line: Line, budget: Budget, capsys: pytest.CaptureFixture[str]) -> None:
    def findings() -> list[tuple[str, str]]:
        capsys.readouterr()
        main(["doctor", "--json", "--store", line.store.url], standalone_mode=False)
        found = json.loads(capsys.readouterr().out)["checks"]
        return [(each["state"], each["detail"]) for each in found if each["check"] == "outbox"]

    held = [budget.reserve("$1") for _ in range(2)]
    assert findings() == [("ok", "nothing waits for the store")]
    line.state = "cut"
    for each in held:
        budget.reconcile(each, usd="0.5")
    ((state, detail),) = findings()
    assert state == "note"
    assert detail.startswith("2 ends of calls wait for the store since 20")
    budget.close()
    outbox = budget.engine.outage.outbox
    assert outbox is not None
    (path,) = outbox.folder.iterdir()
    path.rename(path.with_suffix(".unread"))
    assert [state for state, _ in findings()] == ["ok", "FAULT"]


ENDING = """
import sys
from budget import Budget
budget = Budget(sys.argv[1], limits=["$100/day"])
block = budget.reservation("$1").__enter__()
budget.engine.store.post = lambda account, command: budget.engine.store.undelivered(account, command)
"""


def test_a_process_that_ends_with_a_block_open(shared_url: str, make_budget: Make) -> None:
    """Its end is left at the very end of the interpreter, when the store takes nothing any more."""
    python(ENDING, shared_url)
    budget = make_budget(shared_url, limits=LIMITS)
    budget.status()
    arrived(budget)
    assert ends(budget) == [("reconciled", "1")]


CLOSING = """
import sys
from budget import Budget
from budget.commands import Reconcile
budget = Budget(sys.argv[1], limits=["$100/day"])
held, store = budget.reserve("$1"), budget.engine.store
end = Reconcile(held.id, (500_000_000, 0, 0, 0, 1), {}, known=held)
last = getattr(store, "_posted", store)  # what is still carried out when the interpreter ends
last.close = lambda *_: store.undelivered("default", end)
"""


def test_what_a_store_cannot_do_when_the_process_ends(shared_url: str, make_budget: Make) -> None:
    """It may close after the outbox did."""
    python(CLOSING, shared_url)
    budget = make_budget(shared_url, limits=LIMITS)
    budget.status()
    arrived(budget)
    assert ends(budget) == [("reconciled", "0.5")]


# A full disk.

FULL = """
import resource, signal, sys, time
from pathlib import Path
from budget import Budget, StoreUnavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1].removeprefix("sqlite:///"))
budget = Budget(sys.argv[1], limits=["$1000/day"])
held = [budget.reserve("$1", user="alice") for _ in range(20)]
used = max(file.stat().st_size for file in path.parent.glob("budget.db*"))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]) or used, resource.RLIM_INFINITY))
try:
    while True:
        held.append(budget.reserve("$1", user="x" * 200))
except StoreUnavailable as error:
    print("full:", error, file=sys.stderr)
for each in held:
    budget.reconcile(each, usd="0.5")
budget.record(usd="0.25")
try:
    while True:
        budget.refund(budget.reserve("$1"))
        time.sleep(0.01)
except StoreUnavailable:
    pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
until = time.monotonic() + 60
while len(budget.engine.outage.outbox) or budget.engine.outage.breaker.open:
    assert time.monotonic() < until
    time.sleep(0.05)
budget.refund(budget.reserve("$1"))
print(len(held))
budget.close()
"""


@pytest.mark.parametrize("room", [0, 1])  # bytes that a file may have: what the store has now, or next to nothing
def test_a_full_disk(tmp_path: Path, room: int) -> None:
    """Nothing is admitted; what ended is kept (in memory, if there is no room for an outbox) and booked afterwards."""
    url = f"sqlite:///{tmp_path / 'budget.db'}"
    done = subprocess.run(
        [sys.executable, "-c", FULL, url, str(room)], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert ("in memory only" in done.stderr) == bool(room)
    count = int(done.stdout)
    store = open_store(url)
    (bucket,) = store.snapshot("default").buckets.values()
    assert (bucket.spent, bucket.reserved) == (count * 500_000_000 + 250_000_000, 0)
    assert books(store).ok
    store.close()


def test_it_is_closed_while_the_thread_of_the_outbox_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting = threading.Event()

    class Slow(threading.Thread):
        def start(self) -> None:
            starting.set()
            time.sleep(0.05)
            super().start()

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("budget.outage.outage.Thread", Slow)
    budget = Budget(f"sqlite:///{tmp_path}/budget.db")
    known = budget.reserve("$1")
    other = threading.Thread(target=budget.engine.outage.keep, args=(Refund(known.id),))
    other.start()
    assert starting.wait(60)
    budget.close()
    other.join()
