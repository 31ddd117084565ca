"""What can go wrong between us and a server: nothing counts twice, no answer goes astray, and the books balance."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import pickle
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
import redis
from conftest import alone, books, python
from redisload import COST, Load, SlowLink, Told
from redisserver import RedisServer, free_port, need_server

from budget import Budget, StoreUnavailable
from budget.cli import main
from budget.commands import (
    Amounts,
    ChangePolicy,
    Command,
    Draw,
    LoadPolicy,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reserve,
    Sweep,
)
from budget.outage.outbox import waiting
from budget.stores.multiplex import Lost
from budget.stores.redis import RedisStore
from budget.stores.redisserver import OPEN_TIMEOUT, Server
from budget.stores.threadwire import ThreadWire, _Waiter

STALL = 2.0
LONG = 60.0  # seconds that something may take that is waited for


def eventually(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < until, what
        time.sleep(0.01)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[RedisServer, RedisServer]]:
    need_server()
    made = RedisServer(tmp_path), RedisServer(tmp_path)
    yield made
    for each in made:
        each.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    need_server()
    made = RedisServer(tmp_path)
    yield made
    made.stop()


@contextmanager
def admin(server: RedisServer) -> Iterator[Any]:
    """Another connection to it."""
    with redis.Redis(port=int(server.port)) as client:
        yield client


def check(url: str, told: Told, unanswered: bool) -> None:
    """The ledger says what callers were told: each reserve once, each end once, nothing left open.

    `unanswered`: there may be reserves besides, whose callers were told nothing; those were called back.
    """
    assert told.wrong == []
    assert told.reserved
    with Budget(url, limits=["$1000000/day"]) as budget:
        entries = [entry for entry in budget.entries() if entry.kind != "refused"]
        assert budget.engine.store.reservations("default") == []
        assert books(budget.engine.store).faults == []
        (pool,) = budget.status()
    ids = {kind: [entry.reservation or "" for entry in entries if entry.kind == kind] for kind in _KINDS}
    assert sum(map(len, ids.values())) == len(entries)
    assert all(len(set(found)) == len(found) for found in ids.values()), "something took effect twice"
    assert set(told.reserved) <= set(ids["reserved"])
    assert sorted(told.reconciled) == sorted(ids["reconciled"])
    assert set(told.refunded) <= set(ids["refunded"])
    assert sorted(ids["reconciled"] + ids["refunded"]) == sorted(ids["reserved"])
    assert unanswered or len(told.reserved) == len(ids["reserved"])
    assert (pool.reserved, pool.spent) == (0, len(told.reconciled) * Decimal(COST))


_KINDS = ("reserved", "reconciled", "refunded")


def test_servers_that_stall(servers: tuple[RedisServer, RedisServer]) -> None:
    """What was asked meanwhile is carried out when it goes on; who did not wait is not charged for it."""
    first, second = (server.url for server in servers)
    with Load(first, 0.25) as hasty, Load(second, 30.0) as patient:
        time.sleep(0.2)
        for server in servers:
            os.kill(server.pid, signal.SIGSTOP)
        time.sleep(STALL)
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)
        time.sleep(0.2)
    assert len(hasty.told.unavailable) > 40
    assert patient.told.unavailable == []
    check(first, hasty.told, unanswered=True)
    check(second, patient.told, unanswered=False)


def test_what_nobody_waits_for_has_the_deadline_of_the_engine(server: RedisServer, make_budget: Any) -> None:
    """A server that stalls for less than that has carried it out when somebody looks."""
    budget = make_budget(server.url, limits=["$1/day"], store_timeout=5)
    left = budget.reservation("$0").begin()
    del left
    gc.collect()
    time.sleep(0.3)  # who carries that out is connected
    held = budget.reservation("$0.40", tokens=0).begin()
    held.extend((10**8, 0, 0, 0, 0), (5 * 10**8, 0, 0, 0, 1))
    told: list[Any] = []
    budget.engine.store.undelivered = lambda *given: told.append(given)
    os.kill(server.pid, signal.SIGSTOP)
    Timer(1.5, os.kill, (server.pid, signal.SIGCONT)).start()
    del held
    gc.collect()
    assert (budget.status()[0].spent, budget.status()[0].reserved) == (Decimal("0.5"), 0)
    assert told == []


def test_what_a_close_gives_up_is_kept_and_starts_nobody(server: RedisServer, make_budget: Any) -> None:
    budget = make_budget(server.url, limits=["$1/day"], store_timeout=0.25)
    held = budget.reservation("$0.40").begin()
    os.kill(server.pid, signal.SIGSTOP)
    del held
    gc.collect()
    budget.close()
    os.kill(server.pid, signal.SIGCONT)
    outage = budget.engine.outage
    assert outage._thread is None
    assert waiting(outage.outbox.folder)[0] == 1
    eventually(lambda: (budget.status()[0].spent, budget.status()[0].reserved) == (Decimal("0.4"), 0), "used again")
    eventually(lambda: waiting(outage.outbox.folder)[0] == 0, "it has what was kept")


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_who_waits_for_others_waits_no_longer_than_the_deadline(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    """What was left to the store goes before, and the wait for it is part of the one deadline of a call."""
    monkeypatch.setattr("budget.stores.redis.OPEN_TIMEOUT", 0.1)  # of the close, below
    store, left = RedisStore(server.url), list[float]()
    driver = store._driver
    drive, adrive, posted = driver.drive, driver.adrive, store._posted
    settle, asettle, waited = posted.settle, posted.asettle, [0.0]

    def settled(most: float) -> float:
        waited.append(settle(most))
        return waited[-1]

    async def asettled(most: float) -> float:
        waited.append(await asettle(most))
        return waited[-1]

    async def asked() -> None:
        await store.acall("default", LoadPolicy(), LONG)
        os.kill(server.pid, signal.SIGSTOP)
        store.post("default", Refund("f" * 32))
        monkeypatch.setattr(posted, "settle", settled)
        monkeypatch.setattr(posted, "asettle", asettled)
        with suppress(StoreUnavailable):
            if door == "tasks":
                monkeypatch.setattr(driver, "adrive", lambda *of: (left.append(of[2]), adrive(*of))[1])
                await store.acall("default", LoadPolicy(), 1.0)
            else:
                monkeypatch.setattr(driver, "drive", lambda *of: (left.append(of[2]), drive(*of))[1])
                store.call("default", LoadPolicy(), 1.0)
            pytest.fail("it answered")

    store.call("default", LoadPolicy(), LONG)
    try:
        asyncio.run(asked())
        assert 1.0 - waited[-1] in left, "it has what is left of its second"
        assert 1.0 not in left or waited[-1] == 0
    finally:
        os.kill(server.pid, signal.SIGCONT)
    store.close()


def test_a_close_does_not_wait_for_each_of_many(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was left to a store that has gone is given up on together, and said."""
    monkeypatch.setattr("budget.stores.redis.OPEN_TIMEOUT", 0.1)
    store = RedisStore(server.url)
    store.last("default")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        for number in range(400):
            store.post("default", Refund(f"{number:032x}"))
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 400 * 0.1 / 4
        assert "Refund was not carried out" in caplog.text
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_the_scripts_are_flushed_all_the_time(server: RedisServer) -> None:
    with Load(server.url) as load, again_and_again(server, lambda client: client.script_flush()) as count:
        time.sleep(1)
        eventually(lambda: len(count) > 20, "they are not flushed")
    assert load.told.unavailable == []
    check(server.url, load.told, unanswered=False)


@contextmanager
def again_and_again(server: RedisServer, act: Any, pause: float = 0) -> Iterator[list[Any]]:
    """Do something to the server in a loop."""
    stop, done = Event(), []

    def work() -> None:
        with admin(server) as client:
            while not stop.wait(pause):
                done.append(act(client))

    thread = Thread(target=work)
    thread.start()
    try:
        yield done
    finally:
        stop.set()
        thread.join()


def test_connections_are_killed_all_the_time(server: RedisServer) -> None:
    def kill(client: Any) -> None:
        client.client_kill_filter(_type="normal", skipme=True)

    with Load(server.url) as load, again_and_again(server, kill, 0.04) as count:
        time.sleep(1)
        eventually(lambda: len(count) > 10, "none is killed")
    assert load.told.unavailable == []
    check(server.url, load.told, unanswered=False)


def read_a_closed_socket(url: str) -> None:
    store = RedisStore(url)
    store.call("default", LoadPolicy(), LONG)
    wire: Any = store._driver._threads[0]
    line = wire._line
    number, look = line._socket.fileno(), line._input

    def lost_just_now(timeout: float) -> bool:
        line._input = look
        with wire._lock:
            line.fail()  # as by a thread whose request could not be sent
        wire.open(time.monotonic() + LONG)
        if (other := wire._line._socket.fileno()) != number:
            os.dup2(other, number)
        found: bool = look(timeout)
        return found

    line._input = lost_just_now
    assert store.call("default", LoadPolicy(), LONG).status == "policy"


def test_a_reader_is_not_left_at_a_socket_that_was_closed(redis_url: str) -> None:
    """Its number may be that of another connection by the time it is waited for, on which nothing comes for us."""
    alone(read_a_closed_socket, redis_url)


def test_a_server_is_killed_and_comes_back(tmp_path: Path) -> None:
    need_server()
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    try:
        with Load(server.url) as load:
            for _ in range(3):
                time.sleep(0.3)
                server.kill()
                time.sleep(0.1)
                server.start()
            time.sleep(0.3)
        assert load.told.unavailable == []
        check(server.url, load.told, unanswered=False)
    finally:
        server.stop()


# A server that is not there, or has no memory left.

SECRET = "k3pt-quiet"


def test_no_server(make_budget: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A refused connection is an answer: nobody waits out the time of an opening, and nobody reads the password."""
    caplog.set_level(logging.DEBUG)
    url = f"redis://alice:{SECRET}@127.0.0.1:{free_port()}/0"
    budget = make_budget(url, limits=["$1/day"])
    asks: list[Any] = [
        lambda: budget.reserve("$0.10", user="alice"),
        lambda: asyncio.run(budget.aio.reserve("$0.10", user="alice")),
        lambda: list(budget.entries()),
        budget.status,
    ]
    shown = [repr(budget), repr(budget.settings), repr(budget.engine.store), budget.engine.store.url]
    began = time.monotonic()
    for ask in asks:
        with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
            ask()
        assert not caught.value.sent
        assert budget.engine.store._posted.empty(), "what was never sent need not be called back"
        shown += all_of(caught.value)
    assert time.monotonic() - began < OPEN_TIMEOUT
    assert SECRET not in "\n".join([*shown, caplog.text])


def all_of(error: BaseException) -> list[str]:
    """Everything that a log or another process may show of an error."""
    chain = [error.__context__] if error.__context__ else []
    return [str(error), repr(error), repr(pickle.dumps(error)), *traceback.format_exception(error), *map(repr, chain)]


@pytest.mark.parametrize("line", ["status", "set user=alice $5/day", "ledger verify", "limits --json"])
def test_the_command_line_without_a_server(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://alice:{SECRET}@127.0.0.1:{free_port()}/0"
    assert main([*line.split(), "--store", url], standalone_mode=False) == 4
    out, err = capsys.readouterr()
    assert "cannot be reached" in err
    assert SECRET not in out + err


def test_memory_is_full(server: RedisServer, make_budget: Any) -> None:
    """Nothing new is admitted, and nothing written; what is under way ends as it must."""
    budget = make_budget(server.url, limits=["$1/day"])
    held = [budget.reserve("$0.10", user="alice", lease=lease) for lease in (600, 600, 0.2)]
    store = budget.engine.store
    with admin(server) as client:
        client.config_set("maxmemory", 1)
        before = everything(client)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="OOM"):
                budget.reserve("$0.10", user="alice", id="f" * 32)
        with pytest.raises(StoreUnavailable, match="OOM"):
            asyncio.run(budget.aio.reserve("$0.10", user="alice", id="e" * 32))
        assert everything(client) == before
        budget.reconcile(held[0], usd="0.25")
        budget.refund(held[1])
        budget.record(usd="0.01", user="alice")
        eventually(lambda: budget.status()[0].reserved == 0, "the last does not expire")
        assert str(budget.status()[0].spent) == "0.36"
        kinds = sorted(entry.kind for entry in budget.entries())  # one may have expired before others ended
        assert kinds == ["expired", "reconciled", "recorded", "refunded", "reserved", "reserved", "reserved"]
        client.config_set("maxmemory", 0)
    assert budget.reserve("$0.10", user="alice").state == "open"
    assert books(store).faults == []


def everything(client: Any) -> dict[bytes, Any]:
    """All that a server holds."""
    return {key: (client.type(key), client.dump(key)) for key in client.scan_iter("*")}


# Answers and their askers.


def test_cancelled_tasks_leave_no_answer_behind(server: RedisServer, make_budget: Any) -> None:
    """256 tasks are cancelled while their question is anywhere on its way: all others get the answers to theirs."""
    chance = random.Random(20260101)
    tasks, cancelled = 64, 0

    async def one(budget: Budget, tag: str) -> None:
        held = await budget.aio.reserve("$0.01", user="alice", call=tag)
        assert held.scope["call"] == tag
        done = await budget.aio.reconcile(held, usd="0.004")
        assert (done.id, done.state, done.scope["call"]) == (held.id, "reconciled", tag)

    async def everybody(budget: Budget) -> None:
        nonlocal cancelled
        while cancelled < 256:
            made = [asyncio.create_task(one(budget, f"{cancelled}-{n}")) for n in range(tasks)]
            while not all(task.done() for task in made):
                cancelled += sum(task.cancel() for task in chance.sample(made, 2))
                await asyncio.sleep(chance.uniform(0, 0.004))
            answers = await asyncio.gather(*made, return_exceptions=True)
            assert {type(answer) for answer in answers} <= {type(None), asyncio.CancelledError}, answers

    with SlowLink(int(server.port)) as link:
        budget = make_budget(f"redis://127.0.0.1:{link.port}/0", limits=["$1000/day"], store_timeout=30)
        budget.status()
        asyncio.run(everybody(budget))
        budget.close()
    with Budget(server.url, limits=["$1000/day"]) as budget:
        # A reserve that was cancelled is called back, and a reconcile carried out.
        assert budget.engine.store.reservations("default") == []
        found = {entry.reservation: entry.kind for entry in budget.entries()}
        assert set(found.values()) == {"refunded", "reconciled"}
        assert books(budget.engine.store).faults == []


# Forks, event loops, and what is left when it is closed.

FORKS = """
import asyncio, os, sys, warnings
from budget import Budget

budget = Budget(sys.argv[1], limits=["$1000/day"], store_timeout=30)

async def awaited(name, count):
    async def one(n):
        held = await budget.aio.reserve("$0.01", call=f"{name} {n}")
        assert held.scope["call"] == f"{name} {n}"
        assert (await budget.aio.reconcile(held, usd="0.004")).id == held.id
    await asyncio.gather(*[one(n) for n in range(count)])

def use(name):
    for n in range(20):
        held = budget.reserve("$0.01", call=f"{name} {n}")
        assert held.scope["call"] == f"{name} {n}"
        assert budget.reconcile(held, usd="0.004").id == held.id
    asyncio.run(awaited(name + "a", 20))
    budget.engine.post(__import__("budget.commands").commands.Refund(budget.reserve("$0.01", call=name + "p").id))

def fork(name):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            use(name)
            budget.close()
            code = 0
        finally:
            os._exit(code)
    return child

async def within():
    await awaited("before", 5)
    child = fork("inside")  # the child leaves this loop alone and runs its own
    await awaited("after", 20)
    return child

use("parent")
children = [fork("first"), fork("second")]
use("meanwhile")
children.append(asyncio.run(within()))
use("end")
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
budget.close()
"""


def test_a_fork_uses_the_store_and_leaves_its_parent_alone(redis_url: str) -> None:
    said = python(FORKS, redis_url).stderr.splitlines()
    assert [line for line in said if "fork()" not in line] == []  # newer Pythons warn of threads beside a fork
    with Budget(redis_url, limits=["$1000/day"]) as budget:
        kinds = Counter(entry.kind for entry in budget.entries())
        assert kinds == {"reserved": 6 * 41 + 25, "reconciled": 6 * 40 + 25, "refunded": 6}
        assert books(budget.engine.store).faults == []


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def use_many_loops(url: str) -> None:
    before = descriptors()
    budget = Budget(url, limits=["$1000/day"])

    async def use(times: int) -> None:
        async def one() -> None:
            held = await budget.aio.reserve("$0.01", user="alice")
            await budget.aio.reconcile(held, usd="0.004")

        await asyncio.gather(*[one() for _ in range(times)])

    async def use_and_close() -> None:
        await use(3)
        budget.close()
        await use(3)
        await asyncio.to_thread(budget.close)
        await use(3)
        budget.close()

    for _ in range(20):
        asyncio.run(use(3))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asyncio.run(use(20)), range(16)))
    budget.reserve("$0.01", user="alice")
    asyncio.run(use_and_close())
    asyncio.run(use(1))
    budget.close()
    loop = asyncio.new_event_loop()  # and one that pauses, and is closed by hand
    loop.run_until_complete(use(1))
    budget.close()
    loop.run_until_complete(use(1))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
    budget.close()
    gc.collect()
    assert descriptors() == before


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_event_loops_come_and_go(server: RedisServer) -> None:
    """One after another and at once, with the budget closed inside, outside and between them."""
    alone(use_many_loops, server.url)
    with admin(server) as client:
        eventually(lambda: client.info("clients")["connected_clients"] == 1, "a connection is left")
    with Budget(server.url, limits=["$1000/day"]) as again:
        kinds = Counter(entry.kind for entry in again.entries())
        assert kinds == {"reserved": 20 * 3 + 16 * 20 + 13, "reconciled": 20 * 3 + 16 * 20 + 12}


# Keys of another type. Redis takes nothing back: a script that fails half-way would leave what it wrote.

S = 1_000_000
AMOUNTS: Amounts = (10, 0, 0, 0, 1)
KEYS = {"marker": "m", "leases": "l", "ledger": "j", "refusals": "x", "closed": "c", "names": "n", "policy": "y",
        "pool": "p:p1", "first": f"r:{1:032x}", "second": f"r:{2:032x}", "new": f"r:{3:032x}"}  # fmt: skip
FIRST, SECOND, NEW = (f"{n:032x}" for n in (1, 2, 3))


def draw(start: int, end: int, amount: int = 10) -> Draw:
    return Draw("p1", "its name", 0, 100, amount, start * S, end * S, 0, "its limit")


def a_reserve(id: str, window: Draw, lease: int) -> Reserve:
    amounts: Amounts = (window.amount, *AMOUNTS[1:])
    return Reserve(id, "asked", amounts, [window], 1, lease * S, {"user": "u"}, {})


# What is done, when, and the keys that it cannot do without.
WRONG: dict[str, tuple[int, Command, set[str]]] = {
    "reserve": (150, a_reserve(NEW, draw(100, 200), 60), {"marker", "leases", "ledger", "pool", "new"}),
    "reserve in a new window": (
        250, a_reserve(NEW, draw(200, 300), 60), {"marker", "leases", "ledger", "pool", "new", "names", "closed"}),
    "a refusal": (150, a_reserve(NEW, draw(100, 200, 101), 60), {"marker", "refusals", "new"}),
    "reconcile": (150, Reconcile(SECOND, AMOUNTS, {}), {"marker", "leases", "ledger", "pool", "second"}),
    "reconcile in an old window": (
        150, Reconcile(FIRST, AMOUNTS, {}), {"marker", "leases", "ledger", "closed", "first"}),
    "reconcile the unknown": (150, Reconcile(NEW, AMOUNTS, {}, [draw(100, 200)], {}, 150 * S),
                              {"marker", "ledger", "pool", "new"}),
    "reconcile the unknown of an old window": (150, Reconcile(NEW, AMOUNTS, {}, [draw(0, 100)], {}, 5 * S),
                                               {"marker", "ledger", "closed", "pool", "new"}),
    "refund": (150, Refund(SECOND), {"marker", "leases", "ledger", "pool", "second"}),
    "refund the unknown": (150, Refund(NEW), {"new"}),
    "record": (150, Record(NEW, "asked", AMOUNTS, [draw(100, 200)], 1, {}, {}),
               {"marker", "ledger", "pool", "new"}),
    "record in a new window": (250, Record(NEW, "asked", AMOUNTS, [draw(200, 300)], 1, {}, {}),
                               {"marker", "ledger", "pool", "new", "names", "closed"}),
    "renew": (150, Renew(SECOND, 600 * S), {"leases", "second"}),
    "expire": (450, Sweep(), {"marker", "leases", "ledger", "pool", "second"}),
    "policy": (150, LoadPolicy(), {"marker", "policy"}),
    "change": (150, ChangePolicy("limit", "other", "body", {}), {"marker", "ledger", "policy"}),
}  # fmt: skip


SETUP: list[tuple[int, Command]] = [
    (5, ChangePolicy("limit", "its", "body", {})),
    (10, a_reserve(FIRST, draw(0, 100), 900)),
    (110, a_reserve(SECOND, draw(100, 200), 300)),
    (120, a_reserve("f" * 32, draw(100, 200, 99), 300)),
]
NO_EFFECT = ("stale_policy", "unknown", "swept none")
LATER = 5000 * S


@pytest.mark.parametrize("what", WRONG)
def test_a_key_of_another_type(what: str, redis_url: str) -> None:
    """What a verb cannot do without is not passed over, and nothing is counted by half.

    * It fails before it has moved anything, or it has done all of it and fails at the last step (to forget a lease);
      then it says so when it is asked again. Once the key is what it was, the books balance and the verb does its work.
    * Without its marker an account looks like a new one: its policy is another, nothing is due, and its ledger refuses.
    * What is in the place of a reservation is taken for none, and written over. Ids are random: nobody else has them.
    """
    at, command, needed = WRONG[what]
    with redis.Redis.from_url(redis_url) as client:
        for name, key in ((name, "budget:{default}:" + key) for name, key in KEYS.items()):
            client.flushall()
            store = RedisStore(redis_url)  # one that has seen nothing of what was there
            for now, first in SETUP:
                store.call("default", first, 10.0, now * S)
            was = client.dump(key)
            plant(client, key)
            before = everything(client)
            status = act(store, command, at)
            if status in NO_EFFECT:
                assert everything(client) == before, f"wrong {name}: {status}, and something was written"
            elif status != "failed":
                assert name not in needed or name in ("new", "second"), f"wrong {name}: {status}"
                store.close()
                continue
            client.delete(key)
            if was is not None:
                client.restore(key, 0, was)
            assert books(store).faults == [], f"wrong {name}: {status}"
            assert act(store, command, at) not in ("failed", *NO_EFFECT)
            for _ in range(2):
                act(store, Sweep(), LATER)
            assert books(store).faults == []
            assert store.reservations("default") == []
            assert client.zcard("budget:{default}:l") == 0
            store.close()


def act(store: RedisStore, command: Command, now: int) -> str:
    try:
        outcome = store.call("default", command, 10.0, now * S)
    except StoreUnavailable:
        return "failed"
    return "swept none" if (outcome.status, outcome.count) == ("swept", 0) else outcome.status


def plant(client: Any, key: str) -> None:
    """Put a value of another type in the place of a key."""
    is_text = client.type(key) == b"string" or ":r:" in key
    client.delete(key)
    if is_text:
        client.hset(key, "a", "b")
    else:
        client.set(key, "text")


def test_who_asks_on_a_line_that_was_lost_meanwhile_is_told(redis_url: str) -> None:
    wire = ThreadWire(lambda timeout: Server(redis_url).connect(timeout))
    wire.open(time.monotonic() + LONG)
    line = wire.line
    with line.turn:
        line.fail()
    waiter = _Waiter(b"*1\r\n$4\r\nPING\r\n", time.monotonic() + LONG)
    asking = Thread(target=line.ask, args=(waiter,), daemon=True)
    asking.start()
    asking.join(LONG)
    assert not asking.is_alive()
    assert isinstance(waiter.reply, Lost)
    wire.close()


def test_an_interrupt_after_a_lock_was_taken_costs_one_deadline(redis_url: str) -> None:
    """Python may deliver Ctrl-C between a lock and the `try` behind it: the lock is never given back."""
    wire = ThreadWire(lambda timeout: Server(redis_url).connect(timeout))
    ping = b"*1\r\n$4\r\nPING\r\n"
    assert wire.exchange(ping, time.monotonic() + LONG) == b"PONG"
    line = wire.line
    line.turn.acquire()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        wire.exchange(ping, began + 0.1)
    assert time.monotonic() - began < LONG
    assert wire.exchange(ping, time.monotonic() + LONG) == b"PONG"
    assert wire.line is not line
    wire.close()
