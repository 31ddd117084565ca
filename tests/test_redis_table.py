"""The failure table, line by line, on real servers: each state is brought about, seen from outside, and gone through.

A reserve meets it with a short deadline and then with a long one, during which it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import hiredis
import pytest
import redis
from conftest import books
from redisserver import RedisCluster, RedisServer, free_port, need_server

from budget import Budget, StoreUnavailable
from budget.commands import Draw, Reconcile, Refund, Renew, Reserve
from budget.stores import redisfaults
from budget.stores.redis import RedisStore
from budget.stores.redisfaults import Act, fault_of
from budget.window import FOREVER

LONG = 60.0
SHORT = 0.3
SCRIPT = "#!lua\nreturn redis.call('SET', KEYS[1], 'x')"
LOOP = "local n = 0 while true do n = n + 1 end"


class Case:
    """A server in a state: `word` is how it then answers; `end` ends the state."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.servers: list[Any] = []
        self.account = "acct"
        self.server = self.start()
        self.url = self.server.url
        self.end: Callable[[], Any] = lambda: None

    def start(self, **options: str) -> RedisServer:
        folder = self.folder / f"server{len(self.servers)}"
        folder.mkdir()
        self.servers.append(RedisServer(folder, **options))
        return self.servers[-1]

    def ask(self, *words: Any, server: RedisServer | None = None) -> Any:
        with redis.Redis(port=int((server or self.server).port)) as client:
            return client.execute_command(*words)

    def stop(self) -> None:
        for server in self.servers:
            with suppress(ProcessLookupError):
                os.kill(getattr(server, "pid", 0) or self.server.pid, signal.SIGCONT)
            getattr(server, "kill", server.stop)()


def loading(case: Case) -> None:
    """It reads its file, so slowly that it does not come to an end before it is told to go on: 20 s and more."""
    with redis.Redis(port=int(case.server.port)) as client:
        client.mset({f"key{n}": os.urandom(3000) for n in range(1000)})
        client.save()
    case.server.kill()
    case.server._options |= {"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024"}
    case.server.start()
    case.end = lambda: case.ask("CONFIG", "SET", "key-load-delay", "0")


def busy(case: Case) -> None:
    case.ask("CONFIG", "SET", "busy-reply-threshold", "20")
    thread = Thread(target=lambda: suppressed(lambda: case.ask("EVAL", LOOP, 0)))
    thread.start()
    case.end = lambda: (case.ask("SCRIPT", "KILL"), thread.join())
    eventually(lambda: answer(case, "BUSY") == "BUSY")


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.005)


def suppressed(act: Callable[[], Any]) -> None:
    with suppress(redis.RedisError):
        act()


def no_replicas(case: Case) -> None:
    case.ask("CONFIG", "SET", "min-replicas-to-write", "1")
    case.end = lambda: case.ask("CONFIG", "SET", "min-replicas-to-write", "0")


def read_only(case: Case) -> None:
    case.ask("REPLICAOF", "127.0.0.1", free_port())
    case.end = lambda: case.ask("REPLICAOF", "NO", "ONE")


def without_primary(case: Case) -> None:
    case.ask("CONFIG", "SET", "replica-serve-stale-data", "no")
    read_only(case)


def out_of_memory(case: Case) -> None:
    case.ask("CONFIG", "SET", "maxmemory", "1")
    case.end = lambda: case.ask("CONFIG", "SET", "maxmemory", "0")


def cannot_save(case: Case) -> None:
    case.ask("CONFIG", "SET", "save", "3600 1")
    shutil.rmtree(case.folder / "server0")
    suppressed(lambda: case.ask("BGSAVE"))
    eventually(lambda: case.ask("INFO")["rdb_last_bgsave_status"] != "ok")
    case.end = lambda: case.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")


def no_scripts(case: Case) -> None:
    case.ask("SCRIPT", "FLUSH")


def no_permission(case: Case) -> None:
    case.ask("ACL", "SETUSER", "default", "-evalsha", "-eval")
    case.end = lambda: case.ask("ACL", "SETUSER", "default", "+@all")


def another_type(case: Case) -> None:
    case.ask("DEL", "budget:{acct}:l")
    case.ask("SET", "budget:{acct}:l", "text")
    case.end = lambda: case.ask("DEL", "budget:{acct}:l")


def in_a_cluster(case: Case) -> RedisCluster:
    cluster = RedisCluster(case.folder)
    case.servers.append(cluster)
    case.url, case.server = cluster.url, cluster.owner(case.account)
    return cluster


def another(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    return next(each for each in cluster.nodes if each is not node)


def begun(case: Case, count: int) -> None:
    """A slot that is being moved, and that many keys of it."""
    cluster, source = case.servers[-1], case.server
    to = another(cluster, source)
    cluster.begin(case.account, to)
    cluster.carry(case.account, source, to, count)

    def end() -> None:
        cluster.carry(case.account, source, to)
        for node in (to, *cluster.nodes):
            cluster.ask(node, "CLUSTER SETSLOT", cluster.slot(case.account), "NODE", cluster.id(to))

    case.end = end


def moved(case: Case) -> None:
    cluster = case.servers[-1]
    cluster.move(case.account, another(cluster, case.server))


def not_served(case: Case) -> None:
    cluster, slot = case.servers[-1], case.servers[-1].slot(case.account)
    keys = {key: case.ask("DUMP", key) for key in case.ask("CLUSTER GETKEYSINSLOT", slot, 100)}
    for node in cluster.nodes:
        cluster.ask(node, "CLUSTER DELSLOTS", slot)

    def end() -> None:
        case.ask("CLUSTER ADDSLOTS", slot)
        cluster.wait(lambda node: cluster.ask(node, "CLUSTER INFO")["cluster_state"] == "ok")
        if not case.ask("EXISTS", next(iter(keys))):  # its keys went with it
            for key, value in keys.items():
                case.ask("RESTORE", key, 0, value)

    case.end = end


# What brings it about; whether the account is in a cluster; whether a patient caller sees nothing of it.
STATES: dict[str, tuple[Callable[[Case], Any], bool, bool]] = {
    "LOADING": (loading, False, True),
    "BUSY": (busy, False, True),
    "TRYAGAIN": (lambda case: begun(case, 2), True, True),
    "ASK": (lambda case: begun(case, 10**6), True, True),
    "NOREPLICAS": (no_replicas, False, True),
    "MOVED": (moved, True, True),
    "CLUSTERDOWN": (not_served, True, True),
    "READONLY": (read_only, False, True),
    "MASTERDOWN": (without_primary, False, True),
    "OOM": (out_of_memory, False, False),
    "MISCONF": (cannot_save, False, False),
    "NOSCRIPT": (no_scripts, False, True),
    "NOPERM": (no_permission, False, False),
    "WRONGTYPE": (another_type, False, False),
}
AT_ONCE = ("MOVED", "NOSCRIPT")  # states that do not end, of which no caller sees anything
ELSEWHERE = {"NOAUTH", "WRONGPASS"}  # said while connecting: `test_a_password`
ANYTHING = {"ERR"}


def test_every_line_is_tried() -> None:
    assert set(redisfaults.FAULTS) == STATES.keys() | ELSEWHERE | ANYTHING


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    need_server()
    made = Case(tmp_path)
    yield made
    made.stop()


@pytest.mark.parametrize("door", ["threads", "tasks"])
@pytest.mark.parametrize("word", STATES)
def test_a_line(word: str, door: str, case: Case) -> None:
    begin, clustered, patient = STATES[word]
    if clustered:
        in_a_cluster(case)
    fault = redisfaults.FAULTS[word]
    with (
        Budget(case.url, account=case.account, limits=["$9/day"], store_timeout=LONG) as hasty,
        Budget(case.url, account=case.account, limits=["$9/day"], store_timeout=LONG) as calm,
        asyncio.Runner() as loop,
    ):
        for budget in (hasty, calm):
            reserve(budget, door, loop.run)
        begin(case)
        assert answer(case, word) == word, "the server is in that state"
        if word in AT_ONCE:
            assert reserve(hasty, door, loop.run).state == "open"
        else:
            if word == "LOADING":  # who meets a connection that broke when the server ended cannot know
                refusal(hasty, door, loop.run, True)
            error = refusal(hasty, door, loop.run, fault.harmless)
            assert error.sent is not fault.harmless
            told = (fault.says, "is a replica", "no node of the cluster has the account's slot")
            assert fault.act is Act.FLOW or any(words in str(error) for words in told)
        if patient:
            timer = Timer(0.4, case.end)
            timer.start()
            assert reserve(calm, door, loop.run).state == "open"
            timer.join()
        else:
            case.end()
            assert reserve(calm, door, loop.run).state == "open"
        if word != "WRONGTYPE":
            assert books(calm.engine.store, case.account).faults == []
            expected = 4 if word in AT_ONCE else 3
            assert len(calm.engine.store.reservations(case.account)) == expected, "what was refused was not written"


def reserve(budget: Budget, door: str, run: Callable[..., Any]) -> Any:
    return budget.reserve("$0.10") if door == "threads" else run(budget.aio.reserve("$0.10"))


def refusal(budget: Budget, door: str, run: Callable[..., Any], harmless: bool) -> StoreUnavailable:
    """What a reserve with a short deadline is told.

    On a busy machine the last answer may come too late, and then it is asked once more, with more time.
    """
    for deadline in (SHORT, 1.0, 3.0, 9.0):
        with within(budget, deadline), pytest.raises(StoreUnavailable) as caught:
            reserve(budget, door, run)
        if caught.value.sent is not harmless:
            break
    return caught.value


@contextmanager
def within(budget: Budget, deadline: float) -> Iterator[None]:
    """Another deadline for a while, for those who are to miss it alone."""
    usual, budget.engine.timeout = budget.engine.timeout, deadline
    yield
    budget.engine.timeout = usual


def answer(case: Case, word: str) -> str:
    """How the server answers now to what a script asks, in one word."""
    key = f"budget:{{{case.account}}}:" + ("r:new" if word in ("ASK", "OOM") else "m")
    words: dict[str, tuple[Any, ...]] = {
        "NOSCRIPT": ("EVALSHA", "0" * 40, 1, key),
        "WRONGTYPE": ("ZCARD", "budget:{acct}:l"),
        "TRYAGAIN": ("MGET", *both(case)) if word == "TRYAGAIN" else (),
        "ASK": ("GET", key),
        "MOVED": ("GET", key),
        "MASTERDOWN": ("GET", key),
    }  # fmt: skip
    with socket.create_connection(("127.0.0.1", int(case.server.port))) as line:
        line.sendall(hiredis.pack_command(words.get(word) or ("EVAL", SCRIPT, 1, f"{{{case.account}}}other")))
        return line.recv(1000).decode()[1:].split(" ")[0]


def both(case: Case) -> tuple[Any, ...]:
    """A key that is here, and one that is not."""
    here = case.ask("CLUSTER GETKEYSINSLOT", case.servers[-1].slot(case.account), 1)[0]
    return here, f"budget:{{{case.account}}}:nowhere"


# What is not an answer.


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_silence(case: Case, door: str) -> None:
    """It may have been carried out: the reserve is called back when the server goes on."""
    with Budget(case.url, account="acct", limits=["$9/day"], store_timeout=LONG) as budget, asyncio.Runner() as loop:
        reserve(budget, door, loop.run)
        os.kill(case.server.pid, signal.SIGSTOP)
        with within(budget, SHORT), pytest.raises(StoreUnavailable, match="no answer within") as caught:
            reserve(budget, door, loop.run)
        assert caught.value.sent
        os.kill(case.server.pid, signal.SIGCONT)
        eventually(lambda: len(budget.engine.store.reservations("acct")) == 1)


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_refused_connection(case: Case, door: str) -> None:
    with Budget(case.url, account="acct", limits=["$9/day"], store_timeout=LONG) as budget, asyncio.Runner() as loop:
        reserve(budget, door, loop.run)
        case.server.kill()
        with within(budget, 1.0):
            with pytest.raises(StoreUnavailable, match="cannot be reached"):  # it may have been sent just before
                reserve(budget, door, loop.run)
            with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                reserve(budget, door, loop.run)
        assert not caught.value.sent


# An error on a repeat says nothing of the first attempt.


INFO = b"$%d\r\n%b\r\n" % (len(text := b"redis_version:7.2.4\r\nrole:master\r\n"), text)


@contextmanager
def scripted(*answers: bytes) -> Iterator[str]:
    """A server that lets everybody in and answers to scripts as told; b"" closes the connection instead."""
    todo = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    talk(listener.accept()[0])

        def talk(line: socket.socket) -> None:
            reader = hiredis.Reader()
            with line:
                while data := line.recv(65536):
                    reader.feed(data)
                    while (words := reader.gets()) is not False:
                        if words[0] in (b"EVALSHA", b"EVAL"):
                            reply = todo.pop(0) if todo else b""
                            if not reply:
                                return
                        else:
                            reply = INFO if words[0] == b"INFO" else b"+OK\r\n"
                        line.sendall(reply)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(LONG)


A_RESERVE = Reserve("a" * 32, "asked", (1, 0, 0, 0, 1), [Draw("p", "n", 0, 9, 1, 0, FOREVER, 0)], 0, 10**7, {}, {})


@pytest.mark.parametrize("door", ["threads", "tasks"])
@pytest.mark.parametrize(("answers", "sent"), [
    ([b"-OOM command not allowed\r\n"], False),
    ([b"", b"-OOM command not allowed\r\n"], True),
    ([b"-BUSY Redis is busy\r\n"] * 1000, False),
    ([b"", *[b"-BUSY Redis is busy\r\n"] * 1000], True),
    ([b"-BUSY Redis is busy\r\n", b"-OOM command not allowed\r\n"], False),
    ([b"-LOADING\r\n", b"", b"-MISCONF no\r\n"], True),
])  # fmt: skip
def test_an_error_on_a_repeat(answers: list[bytes], sent: bool, door: str) -> None:
    """A reserve whose first outcome is unknown stays unknown, whatever the repeat is told: it must be called back."""
    for deadline in (0.5, 2.0, 9.0) if len(answers) > 999 else (LONG,):
        with scripted(*answers) as url:
            store = RedisStore(url)
            calls = {"threads": store.call, "tasks": lambda *words: asyncio.run(store.acall(*words))}  # noqa: B023
            with pytest.raises(StoreUnavailable) as caught:
                calls[door]("acct", A_RESERVE, deadline)
            store.close()
        if caught.value.sent is sent:
            return
    pytest.fail("on a busy machine the last answer may come too late, but not each time")


def test_what_ends_passes_when_memory_is_full(case: Case) -> None:
    store = RedisStore(case.url)
    for id in ("1" * 32, "2" * 32, "3" * 32):
        store.call("acct", Reserve(id, *_rest(A_RESERVE)), 10.0)
    out_of_memory(case)
    assert store.call("acct", Reconcile("1" * 32, (2, 0, 0, 0, 1), {}), 10.0).status == "reconciled"
    assert store.call("acct", Refund("2" * 32), 10.0).status == "refunded"
    assert store.call("acct", Renew("3" * 32, 10**8), 10.0).status == "renewed"
    with pytest.raises(StoreUnavailable, match="memory is full"):
        store.call("acct", Reserve("4" * 32, *_rest(A_RESERVE)), 10.0)
    store.close()


def _rest(command: Reserve) -> tuple[Any, ...]:
    return (command.digest, command.amounts, command.draws, command.version, command.lease_us, {}, {})


def test_unknown_words() -> None:
    assert fault_of(Exception("QUITE new")) is redisfaults.FAULTS["ERR"]


# What waits for its turn.


@pytest.mark.parametrize("late", [False, True])
def test_tasks_wait_for_their_turn(case: Case, late: bool) -> None:
    """A server that has stopped holds so many requests and no more; who gets no turn was surely not carried out."""
    count = 1500
    store = RedisStore(case.url)

    async def one(n: int) -> Any:
        try:
            return await store.acall("acct", Reserve(f"{n:032x}", *_rest(A_RESERVE)), 2.0 if late else 30.0)
        except StoreUnavailable as error:
            return error

    async def all_of_them() -> list[Any]:
        await store.acall("acct", A_RESERVE, 10.0)
        await store.acall("acct", Refund(A_RESERVE.id), 10.0)
        os.kill(case.server.pid, signal.SIGSTOP)
        tasks = [asyncio.create_task(one(n)) for n in range(count)]
        (wire,) = store._driver._loops.values()
        while len(wire._pending) + len(wire._queue) < count:
            await asyncio.sleep(0)
        assert (len(wire._pending), len(wire._queue)) == (1024, count - 1024)
        if late:
            found = await asyncio.gather(*tasks)
            assert (len(wire._pending), len(wire._queue)) == (1024, 0)
            os.kill(case.server.pid, signal.SIGCONT)
            return found
        os.kill(case.server.pid, signal.SIGCONT)
        return await asyncio.gather(*tasks)

    found = asyncio.run(all_of_them())
    if late:
        assert [error.sent for error in found] == [True] * 1024 + [False] * (count - 1024)
    else:
        assert [outcome.status for outcome in found] == ["reserved"] * 9 + ["refused"] * (count - 9), "in their order"
    store.close()


def test_threads_wait_for_their_turn(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.stores.threadwire.IN_FLIGHT", 4)
    store = RedisStore(case.url)
    store.call("acct", A_RESERVE, 10.0)  # the server has the script
    store.call("acct", Refund(A_RESERVE.id), 10.0)
    told: dict[int, Any] = {}

    def one(n: int, timeout: float) -> None:
        try:
            told[n] = store.call("acct", Reserve(f"{n:032x}", *_rest(A_RESERVE)), timeout)
        except StoreUnavailable as error:
            told[n] = error

    def go(numbers: range, timeout: float) -> list[Thread]:
        threads = [Thread(target=one, args=(n, timeout)) for n in numbers]
        for n, thread in zip(numbers, threads, strict=True):
            thread.start()
            eventually(lambda: len(line.pending) + len(line.queue) > n)  # noqa: B023
        return threads

    line = store._driver._threads[0].line
    os.kill(case.server.pid, signal.SIGSTOP)
    hasty = go(range(6), 2.0)
    calm = go(range(6, 12), LONG)
    assert (len(line.pending), len(line.queue)) == (4, 8)
    for thread in hasty:
        thread.join()
    assert [told[n].sent for n in range(6)] == [True] * 4 + [False] * 2
    assert (len(line.pending), len(line.queue)) == (4, 6)
    os.kill(case.server.pid, signal.SIGCONT)
    for thread in calm:
        thread.join()
    assert [told[n].status for n in range(6, 12)] == ["reserved"] * 5 + ["refused"], "and 4 that nobody awaits"
    store.close()
