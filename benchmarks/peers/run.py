"""What other packages do that comes nearest to a reserve and a reconcile on eight pools.

Run it with an interpreter that has them:

    benchmarks/peers/.venv/bin/python benchmarks/peers/run.py [REDIS_URL] [SECONDS]

prints one line of JSON per package and store. A call draws on four scopes (user, agent, session, team) in two windows
each, 100 of 9 billion units; a hundred tasks call in turn. Where a package takes several pools in one step it does;
else they are taken one by one, and then a refusal half-way would leave the first ones taken.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

TASKS = 100
LIMIT = 9_000_000_000
AMOUNT, ACTUAL = 100, 90  # what is asked for, and what is used
Call = Callable[[int], Awaitable[None]]
"""One operation of task n."""


def scopes(task: int) -> list[tuple[str, str]]:
    """Whose call it is: tasks share agents and teams, and have a user and a session each."""
    return [("user", f"u{task}"), ("agent", f"a{task % 10}"), ("session", f"s{task}"), ("team", f"t{task % 3}")]


@asynccontextmanager
async def token_budget(url: str | None) -> AsyncIterator[Call]:
    """Eight pools in memory, one by one: a reservation of each, and a commit of each."""
    from token_budget import BudgetPool

    pools: dict[tuple[str, str, str], BudgetPool] = {}

    async def call(task: int) -> None:
        names = [(window, *scope) for scope in scopes(task) for window in ("day", "month")]
        for name in names:
            if name not in pools:
                pools[name] = BudgetPool(usd_cap=float(LIMIT))
        held = [pools[name].try_reserve(usd=AMOUNT) for name in names]
        for reservation in held:
            reservation.commit(usd=ACTUAL)

    yield call


@asynccontextmanager
async def tokencap(url: str | None) -> AsyncIterator[Call]:
    """Eight counters in one script (or transaction). What a call does not use stays taken, so that is all it does."""
    from tokencap.core.types import BudgetKey

    backend: Any
    if url is None:
        from tokencap.backends.sqlite import SQLiteBackend

        backend = SQLiteBackend(":memory:")
    else:
        from tokencap.backends.redis import RedisBackend

        backend = RedisBackend(url)
    keys = [
        [BudgetKey(f"{scope}-{window}", name) for scope, name in scopes(task) for window in ("day", "month")]
        for task in range(TASKS)
    ]
    for key in {(key.dimension, key.identifier): key for each in keys for key in each}.values():
        backend.set_limit(key, LIMIT)

    async def call(task: int) -> None:
        assert backend.check_and_increment(keys[task], AMOUNT).allowed

    yield call


@asynccontextmanager
async def limits(url: str | None) -> AsyncIterator[Call]:
    """Eight hits of a fixed window with a cost, one by one."""
    from limits import RateLimitItemPerDay, RateLimitItemPerMonth
    from limits.aio.storage import MemoryStorage, RedisStorage
    from limits.aio.strategies import FixedWindowRateLimiter

    storage = MemoryStorage() if url is None else RedisStorage(f"async+{url}", implementation="redispy")
    limiter = FixedWindowRateLimiter(storage)
    windows = (RateLimitItemPerDay(LIMIT), RateLimitItemPerMonth(LIMIT))

    async def call(task: int) -> None:
        for scope, name in scopes(task):
            for window in windows:
                assert await limiter.hit(window, scope, name, cost=AMOUNT)

    yield call


@asynccontextmanager
async def throttled(url: str | None) -> AsyncIterator[Call]:
    """Eight limits of a fixed window with a cost, one by one."""
    from datetime import timedelta

    from throttled.asyncio import MemoryStore, RedisStore, Throttled, rate_limiter

    store = MemoryStore(options={"MAX_SIZE": 100_000}) if url is None else RedisStore(server=url)
    windows = [
        Throttled(using="fixed_window", quota=rate_limiter.per_duration(timedelta(days=days), LIMIT), store=store)
        for days in (1, 30)
    ]

    async def call(task: int) -> None:
        for scope, name in scopes(task):
            for days, window in enumerate(windows):
                assert not (await window.limit(f"{days}:{scope}:{name}", cost=AMOUNT)).limited

    yield call


@asynccontextmanager
async def pyrate(url: str | None) -> AsyncIterator[Call]:
    """Four buckets of two rates each (both or none), one bucket after the other; its constant-size algorithm (GCRA)."""
    import redis.asyncio
    from pyrate_limiter import (
        Duration,
        InMemoryStateStore,
        Limiter,
        Rate,
        RedisStateStore,
        SingleBucketFactory,
        StateBucket,
    )

    rates = [Rate(LIMIT, Duration.DAY), Rate(30 * LIMIT, 30 * Duration.DAY)]
    client = None if url is None else redis.asyncio.Redis.from_url(url)
    limiters: dict[tuple[str, str], Limiter] = {}

    def limiter(scope: tuple[str, str]) -> Limiter:
        if scope not in limiters:
            store = InMemoryStateStore() if client is None else RedisStateStore(client, ":".join(scope))
            limiters[scope] = Limiter(SingleBucketFactory(StateBucket(rates, store=store), schedule_leak=False))
        return limiters[scope]

    async def call(task: int) -> None:
        for scope in scopes(task):
            assert await limiter(scope).try_acquire_async("call", weight=AMOUNT, blocking=False)

    yield call
    if client is not None:
        await client.aclose()


PEERS = {
    "limits": (limits, ("memory", "redis")),
    "pyrate-limiter": (pyrate, ("memory", "redis")),
    "throttled-py": (throttled, ("memory", "redis")),
    "token-budget-py": (token_budget, ("memory",)),
    "tokencap": (tokencap, ("memory", "redis")),
}


async def rate(make: Any, url: str | None, seconds: float) -> float:
    """Return operations per second of a hundred tasks."""
    done = 0
    async with make(url) as call:
        await asyncio.gather(*map(call, range(TASKS)))  # connections are opened before the clock starts

        async def work(task: int) -> None:
            nonlocal done
            while time.perf_counter() - begun < seconds:
                await call(task)
                done += 1
                await asyncio.sleep(0)  # what answers without waiting would keep its turn

        begun = time.perf_counter()
        await asyncio.gather(*map(work, range(TASKS)))
        return done / (time.perf_counter() - begun)


def main() -> None:
    """Print what every package does here."""
    url = sys.argv[1] if len(sys.argv) > 1 else None
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    for name, (make, stores) in PEERS.items():
        try:
            found = {"name": name, "version": version(name)}
        except PackageNotFoundError:
            print(json.dumps({"name": name, "error": "not installed"}))
            continue
        for store in stores:
            if store == "redis" and not url:
                continue
            try:
                result: dict[str, Any] = {"rate": asyncio.run(rate(make, url if store == "redis" else None, seconds))}
            except Exception as error:
                result = {"error": f"{type(error).__name__}: {error}"[:200]}
            print(json.dumps({**found, "store": store, **result}), flush=True)


if __name__ == "__main__":
    main()
