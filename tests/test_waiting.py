"""Waiting for room: who is served, when, in which order, and what is left of a wait that ends otherwise."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import STORES, books

from budget import (
    ArgumentTypeError,
    Budget,
    BudgetExceeded,
    ConfigError,
    Frozen,
    Limit,
    Reservation,
    RunStopped,
    StoreUnavailable,
)
from budget.commands import Bucket, Draw, Outcome
from budget.stores.base import Store, open_store
from budget.waiting.line import Line, Place
from budget.waiting.queues import Queue, Want
from budget.waiting.storetime import StoreTime
from budget.window import FOREVER

Make = Callable[..., Budget]
LONG = 60.0


class Caller(threading.Thread):
    """A thread that reserves, and what came of it."""

    def __init__(self, b: Budget, amount: str = "$1", wait: float = 3600, **request: Any):
        super().__init__(daemon=True)
        self._call = lambda: b.reserve(amount, wait=wait, **request)
        self.answer: Reservation | BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._call()
        except BaseException as error:
            self.answer = error

    def result(self) -> Any:
        self.join(LONG)
        assert self.answer is not None, "it still waits"
        return self.answer


def waiting(b: Budget) -> int:
    """How many stand in the line, those who are asking left out."""
    return sum(not place.trying for place in list(b.engine.verbs.line._places))


def in_line(b: Budget, count: int) -> None:
    """Wait until so many stand in the line."""
    until = time.monotonic() + LONG
    while waiting(b) != count:
        assert time.monotonic() < until, f"{waiting(b)} stand in the line, not {count}"
        time.sleep(0.001)


def nobody_waits(b: Budget) -> None:
    line = b.engine.verbs.line
    assert not line._places
    assert not line._queues


@pytest.fixture
def b(budget_factory: Make) -> Budget:
    return budget_factory(limits=["$1/day"], store_timeout=30)


# What brings room.


def test_a_refund_brings_room(b: Budget) -> None:
    held = b.reserve("$1")
    waits = Caller(b)
    in_line(b, 1)
    b.refund(held)
    assert waits.result().state == "open"
    assert b.status()[0].reserved == 1
    nobody_waits(b)
    assert books(b.engine.store).ok


def test_a_reconcile_brings_room(b: Budget) -> None:
    held = b.reserve("$1")
    waits = Caller(b, "$0.75")
    in_line(b, 1)
    b.reconcile(held, usd="0.25")
    assert waits.result().state == "open"


def test_an_end_that_leaves_too_little_brings_none(b: Budget) -> None:
    held, other = b.reserve("$0.90"), b.reserve("$0.10")
    waits = Caller(b, "$0.90")
    in_line(b, 1)
    b.refund(other)
    b.reconcile(held, usd="0.10")
    assert waits.result().state == "open"
    assert [entry.kind for entry in b.entries()].count("refused") == 1  # it knew, and did not ask in between


def test_a_raised_limit_brings_room(b: Budget) -> None:
    b.record(usd="1")
    waits = Caller(b)
    in_line(b, 1)
    b.limits.set("$2/day")
    assert waits.result().state == "open"


def test_another_process_brings_room(shared_url: str, make_budget: Make) -> None:
    """Another engine, which this one hears of through the store alone."""
    b, other = (make_budget(shared_url, limits=["$1/day"], store_timeout=30) for _ in range(2))
    held = other.reserve("$1")
    waits = Caller(b)
    in_line(b, 1)
    other.refund(held)
    assert waits.result().state == "open"


@pytest.mark.parametrize("kind", ["memory", "sqlite"])  # a server's clock is not ours to set
def test_a_new_window_brings_room(
    kind: str, tmp_path: Path, make_budget: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, minute = time.time_ns, 60 * 10**9
    ahead = minute - real() % minute - 300_000_000  # 0.3 s before a minute ends
    monkeypatch.setattr(time, "time_ns", lambda: real() + ahead)
    b = make_budget(STORES[kind](tmp_path), limits=["$1/minute"], store_timeout=30)
    b.record(usd="1")
    waits = [Caller(b, "$0.50"), Caller(b, "$0.50")]
    assert {type(each.result()) for each in waits} == {Reservation}
    assert b.status()[0].reserved == 1


def test_a_rolling_window_lets_go(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/2s rolling"], store_timeout=30)
    b.record(usd="1")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$1")
    assert caught.value.resets_at is not None
    entry = next(entry for entry in b.entries() if entry.kind == "recorded")
    assert timedelta(seconds=2) < caught.value.resets_at - entry.at <= timedelta(seconds=2.1)
    assert b.reserve("$1", wait=LONG).state == "open"


def test_a_lease_that_ends_gives_its_slot_back(budget_factory: Make) -> None:
    """Nobody writes to the account meanwhile: whoever waits sees to it."""
    b = budget_factory(limits=["1 concurrent"], store_timeout=30)
    b.reserve("$1", lease=0.2)
    assert b.reserve("$1", wait=LONG).state == "open"


def test_what_is_posted_brings_room(b: Budget) -> None:
    """An end that nobody waits for, as a finalizer leaves it."""
    guard = b.reservation("$1").begin()
    waits = Caller(b, "$0.50")
    in_line(b, 1)
    guard.post((500_000_000, None, None, None, None), {})
    assert waits.result().state == "open"


# Who is served.


def test_first_come_first_served(b: Budget) -> None:
    """Threads and tasks stand in one queue."""
    held = b.reserve("$1")
    served: list[int] = []

    async def task(number: int) -> None:
        reservation = await b.aio.reserve("$1", wait=LONG)
        served.append(number)
        await b.aio.refund(reservation)

    def thread(number: int) -> None:
        reservation = b.reserve("$1", wait=LONG)
        served.append(number)
        b.refund(reservation)

    async def main() -> None:
        tasks: list[Any] = []
        for number in range(12):
            work = asyncio.to_thread(thread, number) if number % 3 == 0 else task(number)
            tasks.append(asyncio.create_task(work))
            while waiting(b) <= number:
                await asyncio.sleep(0.001)
        await b.aio.refund(held)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert served == list(range(12))
    nobody_waits(b)


def test_few_attempts(b: Budget) -> None:
    held = b.reserve("$1")
    waiting = []
    for number in range(10):
        waiting.append(Caller(b))
        in_line(b, number + 1)
    b.refund(held)
    for each in waiting:
        b.refund(each.result())
    kinds = [entry.kind for entry in b.entries()]
    assert (kinds.count("reserved"), kinds.count("refused")) == (11, 1)


def test_room_for_several_at_once(b: Budget) -> None:
    held = b.reserve("$1")
    waiting = []
    for number in range(5):
        waiting.append(Caller(b, "$0.25"))
        in_line(b, number + 1)
    b.refund(held)
    for each in waiting[:4]:
        assert each.result().state == "open"
    in_line(b, 1)
    b.refund(waiting[0].result())
    assert waiting[4].result().state == "open"
    assert [entry.kind for entry in b.entries()].count("refused") == 1


def test_who_does_not_wait_takes_what_there_is(b: Budget) -> None:
    b.reserve("$0.50")
    first = Caller(b, "$0.90")
    in_line(b, 1)
    assert b.reserve("$0.50").state == "open"
    b.close()
    assert isinstance(first.result(), BudgetExceeded)


def test_pools_have_queues_of_their_own(budget_factory: Make) -> None:
    b = budget_factory(limits=[Limit("$1/day", per="user")], store_timeout=30)
    held = {user: b.reserve("$1", user=user) for user in ("alice", "bob")}
    alice = Caller(b, user="alice")
    in_line(b, 1)
    bob = Caller(b, user="bob")
    in_line(b, 2)
    b.refund(held["bob"])
    assert bob.result().state == "open"
    b.refund(held["alice"])
    assert alice.result().state == "open"


def test_room_in_all_pools_is_needed(budget_factory: Make) -> None:
    b = budget_factory(limits=[Limit("$1/day", per="user"), "2 concurrent"], store_timeout=30)
    first, second = b.reserve("$1", user="alice"), b.reserve("$0.10", user="bob")
    waits = Caller(b, user="alice")
    in_line(b, 1)
    b.refund(second)
    b.refund(first)
    assert waits.result().state == "open"
    assert [entry.kind for entry in b.entries()].count("refused") == 1
    nobody_waits(b)


def test_no_phantom_refusal(b: Budget) -> None:
    """Who stands behind a big one is not refused for that: when its time is over it may take what there is."""
    b.reserve("$0.50")
    big = Caller(b, "$0.90")
    in_line(b, 1)
    assert b.reserve("$0.50", wait=0.2).state == "open"
    b.close()
    assert isinstance(big.result(), BudgetExceeded)


WORKER = """
import asyncio, sys
from budget import Budget

async def one(b):
    async with b.reservation("$0.01", wait=60.0):
        await asyncio.sleep(0.001)

async def main(b):
    await asyncio.gather(*[one(b) for _ in range(20)])

with Budget(sys.argv[1], limits=["3 concurrent"], store_timeout=30) as b:
    b.status()
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main(b))
"""


def test_waiters_in_several_processes(shared_url: str, make_budget: Make) -> None:
    command = [sys.executable, "-c", WORKER, shared_url]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        for worker in workers:
            worker.communicate(timeout=LONG)
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * 3
    b = make_budget(shared_url)
    kinds = [entry.kind for entry in b.entries()]
    assert kinds.count("reserved") == kinds.count("reconciled") == 60
    assert books(b.engine.store).ok


# Who is not.


@pytest.mark.parametrize(
    ("wait", "error"),
    [(0, ConfigError), (-1, ConfigError), (3600.1, ConfigError), (float("nan"), ConfigError),
     (True, ArgumentTypeError), ("5", ArgumentTypeError), (Decimal(5), ArgumentTypeError)],
)  # fmt: skip
def test_a_wait_that_cannot_be(b: Budget, wait: Any, error: type[Exception]) -> None:
    for call in (b.reserve, b.reservation, lambda what, wait: asyncio.run(b.aio.reserve(what, wait=wait))):
        with pytest.raises(error, match="wait"):
            call("$0.01", wait=wait)
    assert list(b.entries()) == []


def test_time_is_over(b: Budget) -> None:
    b.reserve("$1")
    for call in (b.reserve, lambda what, wait: asyncio.run(b.aio.reserve(what, wait=wait))):
        with pytest.raises(BudgetExceeded) as caught:
            call("$0.10", wait=0.02)
        assert (caught.value.available, caught.value.verdict) == (0, "wait")
    nobody_waits(b)


def test_what_never_fits_does_not_wait(b: Budget) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$2", wait=3600)
    assert caught.value.verdict == "never"
    b.limits.set("$0.10/request")
    with pytest.raises(BudgetExceeded):
        b.reserve("$0.20", wait=3600)


def test_the_frozen_do_not_wait(b: Budget) -> None:
    b.freeze(user="alice")
    with pytest.raises(Frozen):
        b.reserve("$0.10", user="alice", wait=3600)


def test_a_freeze_ends_the_waits_of_its_subject(b: Budget) -> None:
    b.reserve("$1")
    waits = Caller(b, user="alice")
    in_line(b, 1)
    b.freeze(user="alice")
    assert isinstance(waits.result(), Frozen)


def test_a_run_that_is_over_does_not_wait(b: Budget) -> None:
    b.reserve("$1")
    with b.run(deadline=0.05), pytest.raises((RunStopped, BudgetExceeded)):
        b.reserve("$1", wait=3600)


def test_the_line_is_full(b: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.waiting.line.MOST", 1)
    held = b.reserve("$1")
    first = Caller(b)
    in_line(b, 1)
    with pytest.raises(BudgetExceeded):
        b.reserve("$1", wait=3600)
    b.refund(held)
    assert first.result().state == "open"


def test_closing_ends_the_waits(b: Budget) -> None:
    b.reserve("$1")
    tried = Caller(b)
    in_line(b, 1)
    behind = Caller(b)
    in_line(b, 2)
    b.close()
    assert isinstance(tried.result(), BudgetExceeded)
    assert isinstance(behind.result(), StoreUnavailable)
    nobody_waits(b)


def test_a_block_waits(b: Budget) -> None:
    held = b.reserve("$1")
    threading.Timer(0.05, b.refund, [held]).start()
    with b.reservation("$1", wait=LONG) as guard:
        guard.refund()
    assert b.status()[0].reserved == 0


# What is left of a wait that was cut.


def test_a_cancelled_wait_leaves_nothing(b: Budget) -> None:
    held = b.reserve("$1")

    async def block() -> None:
        async with b.reservation("$1", wait=LONG):
            raise AssertionError("there is no room")

    async def main() -> Reservation:
        tasks = [asyncio.create_task(work) for work in (b.aio.reserve("$1", wait=LONG), block())]
        while waiting(b) < 2:
            await asyncio.sleep(0.001)
        last = asyncio.create_task(b.aio.reserve("$1", wait=LONG))
        while waiting(b) < 3:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2
        await b.aio.refund(held)
        return await last

    assert asyncio.run(main()).state == "open"
    nobody_waits(b)
    assert b.status()[0].reserved == 1
    assert [r.usd for r in b.engine.store.reservations("default")] == [1]


def test_an_event_loop_that_ends_with_waiters(b: Budget) -> None:
    held = b.reserve("$1")
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(b.aio.reserve("$1", wait=LONG)) for _ in range(3)]
    while waiting(b) < 3:
        loop.run_until_complete(asyncio.sleep(0.001))
    for task in tasks[:1]:
        task.cancel()
    loop.run_until_complete(asyncio.gather(tasks[0], return_exceptions=True))
    for task in tasks[1:]:  # forgotten: the coroutines are closed by the collector
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    del task, tasks
    b.refund(held)
    assert b.reserve("$1", wait=LONG).state == "open"  # nobody stands before it any more
    nobody_waits(b)


def test_an_interrupt_leaves_nothing(b: Budget) -> None:
    held = b.reserve("$1")
    main = threading.get_ident()

    def press() -> None:
        in_line(b, 1)
        signal.pthread_kill(main, signal.SIGINT)

    finger = threading.Thread(target=press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        finger.start()
        with pytest.raises(KeyboardInterrupt):
            b.reserve("$1", wait=LONG)
    finally:
        finger.join()
        signal.signal(signal.SIGINT, before)
    nobody_waits(b)
    behind = Caller(b)
    in_line(b, 1)
    b.refund(held)
    assert behind.result().state == "open"


def test_a_watch_that_loses_its_connection(redis_url: str, make_budget: Make) -> None:
    b = make_budget(redis_url, limits=["$1/day"], store_timeout=30)
    held = b.reserve("$1")
    waits = Caller(b)
    in_line(b, 1)
    with redis.Redis.from_url(redis_url) as client:
        for _ in range(2):
            client.client_kill_filter(_type="normal", skipme=True)
            time.sleep(0.05)
    b.refund(held)
    assert waits.result().state == "open"


# Watching.


def test_a_watch(store: Store) -> None:
    watch = store.watch("default", 0)
    assert list(watch.wait(0.01)) == []
    stopper = threading.Timer(0.05, watch.stop)
    stopper.start()
    assert list(watch.wait(LONG)) == []
    stopper.join()
    assert list(watch.wait(LONG)) == []


def test_what_a_watch_tells(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/day"])
    watch = b.engine.store.watch("default", 0)
    held = b.reserve("$0.40")
    b.reconcile(held, usd="0.10")
    b.limits.set("$2/day")
    seen: list[Any] = []
    with suppress(StoreUnavailable):
        while len(seen) < 3:
            seen.extend(watch.wait(LONG))
    watch.stop()
    assert [each.seq for each in seen] == [1, 2, 3]
    moved = [None if each.postings is None else [p[2:] for p in each.postings] for each in seen]
    assert moved == [[(0, 400_000_000)], [(100_000_000, -400_000_000)], None]


# The line itself.

DRAW = Draw("pool", "name", 0, 10, 1, 100, FOREVER, 0)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line(open_store("memory://"), "default", StoreTime())
    yield made
    made.close()


def stands(line: Line, amount: int, seconds: float = LONG) -> Place:
    """A place that was refused: nine of ten are taken."""
    place = line.place(seconds)
    draws = [DRAW._replace(amount=amount)]
    place.queues(draws)
    refused = Outcome("refused", 0, 0, [Bucket(100, FOREVER, 100, 0, 9)], [0], seq=7)
    assert place.stays(draws, refused)
    return place


def may_ask(*places: Place) -> list[bool]:
    return [place._line.look(place)[0] is True for place in places]


def test_so_many_ask_as_there_seems_to_be_room_for(line: Line) -> None:
    places = [stands(line, 3) for _ in range(4)]
    assert may_ask(*places) == [False] * 4
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 4))], 8)
    assert may_ask(*places) == [True, True, False, False]
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 7))], 9)  # the first has got it
    places[0].leave()
    assert may_ask(places[2], places[3]) == [False, False]
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 0))], 10)
    assert may_ask(places[2], places[3]) == [True, True]


def test_a_small_one_does_not_overtake(line: Line) -> None:
    big, small = stands(line, 9), stands(line, 2)
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 5))], 8)
    assert may_ask(big, small) == [False, False]
    big.leave()
    assert may_ask(small) == [True]


def test_who_comes_first_is_waited_for(line: Line) -> None:
    """Also where it is another pool that holds that one up."""
    first = line.place(LONG)
    draws = [DRAW, DRAW._replace(pool="other")]
    first.queues(draws)
    full = Bucket(100, FOREVER, 100, 0, 10)
    assert first.stays(draws, Outcome("refused", 0, 0, [full, full], [0, 1], seq=7))
    second = line.place(LONG)
    assert second.queues([DRAW])
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 0))], 8)
    assert may_ask(first, second) == [False, False]
    line.told([("other", Bucket(100, FOREVER, 100, 0, 0))], 9)
    assert may_ask(first, second) == [True, True]


def test_at_the_end_of_its_time_a_place_takes_what_there_is(line: Line) -> None:
    big, small = stands(line, 9), stands(line, 2, 0.0)
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 5))], 8)
    assert may_ask(big, small) == [False, True]
    other = stands(line, 2, 0.0)
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 9))], 9)
    assert line.look(other) == (False, 0.0)  # there is none, and it knows


def test_a_newcomer_asks_alone_until_something_is_known(line: Line) -> None:
    places = [line.place(LONG) for _ in range(3)]
    assert [place.queues([DRAW]) for place in places] == [False, True, True]
    line.told([("pool", Bucket(100, FOREVER, 100, 0, 1))], 8)
    assert may_ask(*places[1:]) == [True, True]


# What is known of a pool.


def bucket(start: int, taken: int) -> Bucket:
    return Bucket(start, start + 100, start, taken, 0)


def room(queue: Queue) -> int | None:
    return queue.room(Want(1, 10, None))


def test_what_is_taken_is_carried_on() -> None:
    queue = Queue(-1, False, False)
    assert room(queue) is None
    queue.learn(bucket(100, 7), 5)
    queue.move(5, 100, -7)  # is in it already
    queue.move(6, 100, 2)
    queue.move(7, 0, -5)  # a late end in the window before
    assert room(queue) == 1
    queue.learn(bucket(100, 9), 6)
    assert room(queue) == 1
    queue.learn(bucket(100, 0), 4)  # an answer that is older than what is known
    assert room(queue) == 1
    queue.move(8, 200, 3)
    assert room(queue) is None  # another window


def test_an_answer_that_is_older_than_the_last_entries() -> None:
    queue = Queue(3, False, False)
    for seq in range(4, 1000):
        queue.move(seq, 100, 1 if seq % 2 else -1)
    queue.learn(bucket(100, 4), 500)
    assert room(queue) == 10 - 4 - 1
    queue.forget(999)
    queue.learn(bucket(100, 4), 998)
    assert room(queue) is None  # the policy was changed since


def test_many_movements() -> None:
    queue = Queue(-1, True, False)
    queue.learn(bucket(100, 4), 0)
    for seq in range(1, 2001):
        queue.move(seq, seq, 1 if seq % 2 else -1)
    assert room(queue) == 6
    assert len(queue.log) < 300


# The store's time.


def test_the_stores_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monotonic = [1_000_000_000]
    monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic[0])
    monkeypatch.setattr(time, "time_ns", lambda: 50_000_000)
    clock = StoreTime()
    assert clock.now() == 50_000  # ours, until the store has spoken
    clock.saw(90_000_000, 50_000)
    assert clock.now() == 90_000_000
    monotonic[0] += 5_000_000
    assert clock.now() == 90_005_000  # whatever becomes of this machine's clock
    clock.saw(90_004_000, 90_003_000)  # it took a millisecond to read: what is known already is nearer
    assert clock.now() == 90_005_000
    clock.saw(90_006_000, 90_005_000)
    assert clock.now() == 90_006_000
    clock.saw(90_001_000, 90_006_000)  # answered before it was asked: this clock was ahead
    assert clock.now() == 90_001_000


def test_a_host_whose_clock_is_off(budget_factory: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It pays one turn more, once; not one for each call."""
    b = budget_factory(limits=["$100/minute"])
    sent: list[str] = []
    call = b.engine.store.call

    def count(account: str, command: Any, timeout: float, now: int | None = None) -> Any:
        sent.append(type(command).__name__)
        return call(account, command, timeout, now)

    monkeypatch.setattr(b.engine.store, "call", count)
    monkeypatch.setattr(b.engine.verbs.clock, "_ahead", -time.monotonic_ns() // 1000)  # 1970
    for _ in range(5):
        b.refund(b.reserve("$0.10"))
    assert sent.count("Reserve") <= 7  # a minute may end meanwhile
