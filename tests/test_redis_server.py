"""Which servers may be entrusted with money, how they are reached, and what a user of theirs must be allowed."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import books
from redisload import Load, SlowLink
from redisserver import RedisServer, binaries, certificate, need_server
from redisserver import free_port as a_port

sys.path.insert(0, str(Path(__file__).parent / "conformance"))

from runner import Runner, scenarios

from budget import Budget, BudgetExceeded, ConfigError, StoreUnavailable
from budget.cli import main
from budget.commands import Learn, Renew
from budget.stores.redis import RedisStore
from budget.stores.redisserver import Server, facts

Start = Callable[..., RedisServer]
SECRET = "k3pt-quiet"
# What a user of the server must be allowed, on the keys `~budget:{account}:*`: the README says the same. With EVALSHA
# and EVAL come the commands of the scripts. INFO and CONFIG GET are asked for besides, and done without; XREAD is for
# waiting, CLUSTER SLOTS for clusters.
NEEDED = [
    "evalsha", "eval", "time",
    "get", "set", "mget", "mset",
    "hget", "hset", "hsetnx", "hdel", "hgetall", "hlen", "hscan",
    "zadd", "zrem", "zrange", "zrangebyscore",
    "xadd", "xrange",
]  # fmt: skip


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start servers that are stopped again."""
    need_server()
    made: list[RedisServer] = []

    def begin(**options: str) -> RedisServer:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        made.append(RedisServer(folder, **options))
        return made[-1]

    yield begin
    for server in made:
        server.stop()


def use(url: str, account: str = "acct", user: str = "alice") -> None:
    """The whole of the API, blocking and awaited: every script, every key, every way to read."""
    with Budget(url, account=account, limits=["$5/day", "2 concurrent"]) as budget:
        budget.limits.set("$1/day", user=user)
        budget.limits.set("$2/day", user="bob")
        budget.limits.unset("$2/day", user="bob")
        held = budget.reserve("$0.40", user=user)
        budget.reconcile(held, usd="0.10")
        budget.refund(budget.reserve("$0.40", user=user))
        budget.record(usd="0.10", user=user)
        budget.reconcile("f" * 32, usd="0.10")
        with budget.reservation("$0.10", user=user) as guard:
            assert budget.engine.do(Renew(guard.id, 60 * 10**6)).status == "renewed"
        budget.reserve("$0.10", user=user, lease=0.001)
        asyncio.run(use_async(budget, user))
        assert budget.check("$0.10", user=user)
        with pytest.raises(BudgetExceeded):
            budget.reserve("$1", user=user)
        budget.freeze(user=user)
        assert not budget.check("$0.10", user=user)
        budget.unfreeze(user=user)
        with budget.run("$1", user=user) as run:
            budget.refund(budget.reserve("$0.10"))
            run.refresh()
        assert budget.engine.do(Learn({f"output\n{user}\n": {3: 2}})).learned[f"output\n{user}\n"] == {3: 2}
        assert budget.engine.do(Learn()).learned
        assert [str(limit) for limit in budget.limits]
        pools = {str(pool.subject): str(pool.spent) for pool in budget.status() if pool.unit == "usd"}
        assert pools[f"user={user}"] == "0.54"
        assert len(budget.status(user=user)) == 3
        assert list(budget.entries(since="1h", user=user))
        assert books(budget.engine.store, account).faults == []


async def use_async(budget: Budget, user: str) -> None:
    held = await budget.aio.reserve("$0.20", user=user)
    await budget.aio.reconcile(held, usd="0.04")
    await budget.aio.refund(await budget.aio.reserve("$0.20", user=user))
    await budget.aio.record(usd="0.10", user=user)
    assert await budget.aio.status(user=user)


# What a server must be.


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_server_that_may_evict_keys(start: Start, door: str) -> None:
    server = start(maxmemory_policy="allkeys-lru")
    with Budget(server.url, limits=["$1/day"]) as budget, pytest.raises(ConfigError, match="maxmemory-policy noev"):
        reserve(budget, door)


def reserve(budget: Budget, door: str, run: Callable[..., Any] = asyncio.run) -> Any:
    return budget.reserve("$0.10") if door == "threads" else run(budget.aio.reserve("$0.10"))


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_replica(start: Start, door: str) -> None:
    server = start(replicaof=f"127.0.0.1 {a_port()}")
    with Budget(server.url, limits=["$1/day"]) as budget, pytest.raises(StoreUnavailable, match="name the primary"):
        reserve(budget, door)


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_server_becomes_a_replica(start: Start, door: str) -> None:
    """Nobody is admitted by what it holds, and it is used again once it takes writes."""
    server = start()
    with (
        Budget(server.url, limits=["$1/day"]) as budget,
        redis.Redis(port=int(server.port)) as client,
        asyncio.Runner() as loop,
    ):
        reserve(budget, door, loop.run)
        client.replicaof("127.0.0.1", a_port())
        with pytest.raises(StoreUnavailable, match="replica"):
            reserve(budget, door, loop.run)
        client.replicaof("NO", "ONE")
        assert reserve(budget, door, loop.run).state == "open"


# Users and passwords.


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_password(start: Start, door: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = start(requirepass=SECRET)
    address = f"127.0.0.1:{server.port}"
    for wrong in ("", f":not-{SECRET}@", f"alice:{SECRET}@"):
        with Budget(f"redis://{wrong}{address}/0", limits=["$1/day"]) as budget:
            with pytest.raises(StoreUnavailable, match="user or the password") as caught:
                reserve(budget, door)
            error = caught.value
            assert SECRET not in "".join([str(error), repr(error), repr(error.__context__), repr(budget)])
    for right in (f":{SECRET}@", f"default:{SECRET}@"):
        with Budget(f"redis://{right}{address}/0", limits=["$1/day"]) as budget:
            assert reserve(budget, door).state == "open"
    assert SECRET not in caplog.text


def restrict(client: Any, commands: list[str]) -> None:
    client.acl_deluser("worker")
    client.execute_command(
        "ACL", "SETUSER", "worker", "on", f">{SECRET}", "~budget:{acct}:*", *[f"+{name}" for name in commands]
    )


def test_a_user_who_may_do_what_is_needed(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    url = redis_url.replace("//", f"//worker:{SECRET}@")
    with redis.Redis.from_url(redis_url) as client:
        client.script_flush()
        restrict(client, [*NEEDED, "info"])
        use(url)
        assert caplog.text == ""
        client.flushall()
        restrict(client, NEEDED)
        use(url)
        said = [record.getMessage() for record in caplog.records if "INFO" in record.getMessage()]
        assert len(said) == 1
        with Budget(url, account="other", limits=["$1/day"]) as other, pytest.raises(StoreUnavailable, match="NOPERM"):
            other.reserve("$0.10")
        assert client.keys("budget:{other}:*") == []


def test_nothing_of_it_can_be_spared(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.stores.redis.OPEN_TIMEOUT", 0.3)  # a close waits that long for what cannot be done
    url = redis_url.replace("//", f"//worker:{SECRET}@")
    spared = []
    with redis.Redis.from_url(redis_url) as client:
        for name in NEEDED:
            client.flushall()
            client.script_flush()
            restrict(client, [each for each in NEEDED if each != name])
            try:
                use(url)
            except (StoreUnavailable, AssertionError):
                continue
            spared.append(name)
        client.acl_deluser("worker")
    assert spared == []


# Ways to reach it.


def test_tls(start: Start, tmp_path: Path) -> None:
    other = certificate(tmp_path, file="other.pem")["tls_cert_file"]
    try:
        server = start(**certificate(tmp_path), tls_auth_clients="no")
    except AssertionError:
        pytest.skip("this server has no TLS")
    cert, port = tmp_path / "cert.pem", server.port
    for scheme in ("rediss", "valkeys"):
        use(f"{scheme}://127.0.0.1:{port}/0?ssl_ca_certs={cert}", account=scheme)
    with Load(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}", processes=1) as load:
        time.sleep(0.3)
    assert (load.told.wrong, load.told.unavailable) == ([], [])
    with SlowLink(int(port)) as link:  # what is encrypted comes in pieces
        slow = f"rediss://127.0.0.1:{link.port}/0?ssl_ca_certs={cert}"
        with Budget(slow, account="slow", limits=["$9/day"], store_timeout=30) as budget, ThreadPoolExecutor(8) as pool:
            held = list(pool.map(lambda _: budget.reserve("$0.10"), range(40)))
            assert {made.id for made in held} == {made.id for made in pool.map(budget.refund, held)}
    with redis.Redis("127.0.0.1", int(port), ssl=True, ssl_ca_certs=cert) as client:
        assert client.info("stats")["total_connections_received"] < 20  # none was lost
    for door in ("threads", "tasks"):
        for url in (f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={other}", f"rediss://127.0.0.1:{port}/0"):
            with Budget(url, limits=["$1/day"]) as budget, pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
                reserve(budget, door)
        with Budget(f"redis://127.0.0.1:{port}/0", limits=["$1/day"]) as budget, pytest.raises(StoreUnavailable):
            reserve(budget, door)



def test_a_unix_socket(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = start(unixsocket=str(path))
    use(f"unix://{path}?db=2")
    with redis.Redis(port=int(server.port), db=2) as client:
        assert client.dbsize() > 0
        client.swapdb(0, 2)
        assert client.dbsize() == 0


def test_other_names_and_databases(redis_url: str) -> None:
    valkey = redis_url.replace("redis://", "valkey://").removesuffix("/0")
    for database in ("/1", "?db=2", "/3?socket_keepalive=1&health_check_interval=0"):
        use(valkey + database)
    with redis.Redis.from_url(redis_url) as client:
        assert sorted(client.info("keyspace")) == ["db1", "db2", "db3"]
        client.flushall()


@pytest.mark.parametrize("url", [
    f"redis://alice:{SECRET}@cache:port/0", f"redis://alice:{SECRET}@cache:99999999/0",
    "unix://", f"unix://?password={SECRET}",
    f"redis://alice:{SECRET}@cache/0?decode_responses=1", f"redis://alice:{SECRET}@cache/0?protocol=3",
    f"redis://alice:{SECRET}@cache/0?socket_timeout=soon", f"redis://[::1/{SECRET}",
    f"memcached://alice:{SECRET}@cache",
])  # fmt: skip
def test_a_wrong_url_is_said_without_its_secret(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"^store: ") as caught:
        Budget(url)
    assert main(["status", "--store", url], standalone_mode=False) == 2
    out, err = capsys.readouterr()
    assert SECRET not in "".join([str(caught.value), repr(caught.value), out, err])


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_an_option_that_does_not_exist(redis_url: str, door: str) -> None:
    url = redis_url.replace("//", f"//:{SECRET}@") + "?colour=blue"
    with Budget(url, limits=["$1/day"]) as budget, pytest.raises(ConfigError, match="colour") as caught:
        reserve(budget, door)
    assert SECRET not in str(caught.value)


# Every kind of server there is.


@pytest.mark.parametrize("name", binaries() or ["none"])
def test_the_scenarios_on_every_server(name: str, start: Start) -> None:
    """The contract of a store holds on each of them; other tests use the first only."""
    need_server()
    server = start(binary=binaries()[name])
    with redis.Redis(port=int(server.port)) as client:
        for lines in scenarios().values():
            client.flushall()
            store = RedisStore(server.url)  # one that has seen the account before it was emptied would say so
            Runner(store).run(lines)
            store.close()
    use(server.url)


def test_a_server_that_is_too_old() -> None:
    server = Server("redis://cache")
    with pytest.raises(ConfigError, match=r"version 6\.2\.14; 7\.0 or later"):
        server._check(facts(b"redis_version:6.2.14\r\nrole:master\r\n"), None)
    server._check(facts(b"redis_version:10.0.0\r\nrole:master\r\n"), None)
