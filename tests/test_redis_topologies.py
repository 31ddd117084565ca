"""Where an account's server is: clusters whose slots move, Sentinels that elect, nodes that die, URLs that say so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from conftest import books
from redisload import Load
from redisserver import (
    RedisCluster,
    RedisSentinel,
    RedisServer,
    certificate,
    free_port,
    need_server,
    replicated,
)
from test_redis_faults import check
from test_redis_server import restrict, use

from budget import Budget, ConfigError, StoreUnavailable
from budget.stores.multiplex import Lost
from budget.stores.redisserver import Server

SECRET = "k3pt-quiet"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    need_server()
    made = RedisCluster(tmp_path_factory.mktemp("cluster"))
    yield made
    made.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    need_server()
    made: list[RedisServer] = []

    def begin(kind: Callable[..., RedisServer] = RedisServer, *args: Any, **options: str) -> RedisServer:
        folder = tmp_path / f"server{len(made)}"
        folder.mkdir()
        made.append(kind(folder, *args, **options))
        return made[-1]

    yield begin
    for server in made:
        server.kill()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The options of servers with a certificate for localhost, which nobody trusts who is not told to."""
    need_server()
    options = certificate(tmp_path, "DNS:localhost")
    try:
        RedisServer(tmp_path, **options).kill()
    except AssertionError as error:
        pytest.skip(f"this server has no TLS: {error}")
    # Each connection reads what the system trusts, which takes longer than all the rest here.
    monkeypatch.setenv("SSL_CERT_FILE", certificate(tmp_path, file="root.pem")["tls_cert_file"])
    return options


def reserve(budget: Budget, door: str, run: Callable[..., Any] = asyncio.run) -> Any:
    return budget.reserve("$0.10") if door == "threads" else run(budget.aio.reserve("$0.10"))


# URLs.


@pytest.mark.parametrize(("url", "shown", "topology"), [
    ("redis://a:b@cache:6380/2", "redis://cache:6380/2", "one server"),
    ("redis+sentinel://a:b@one,two:27000,[::1]:5/main/3?sentinel_username=s&sentinel_password=p",
     "redis+sentinel://one,two:27000,[::1]:5/main/3", "Sentinel, main at not asked for yet"),
    ("valkeys+sentinel://one/main", "valkeys+sentinel://one/main", "Sentinel, main at not asked for yet"),
    ("rediss+cluster://a:b@one:7000,two", "rediss+cluster://one:7000,two", "cluster, not asked for yet"),
    ("valkey+cluster://[::1]:7000/0?profile=strict", "valkey+cluster://[::1]:7000/0", "cluster, not asked for yet"),
])  # fmt: skip
def test_urls(url: str, shown: str, topology: str) -> None:
    server = Server(url)
    assert (server.url, server.places.topology) == (shown, topology)


@pytest.mark.parametrize("url", [
    f"redis+sentinel://a:{SECRET}@one", f"redis+sentinel://a:{SECRET}@one/main/x", "redis+sentinel://one,/main",
    f"redis+sentinel://a:{SECRET}@/main", "redis+sentinel://one:0/main", "redis+sentinel://one:99999/main",
    f"redis+cluster://a:{SECRET}@one/1", "redis+cluster://one,,two", "redis+raft://one", "unix+cluster:///run/s.sock",
    f"redis://one?profile={SECRET}", f"redis://one?sentinel_password={SECRET}", "redis+cluster://[::1",
])  # fmt: skip
def test_wrong_urls(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^store: ") as caught:
        Budget(url)
    assert SECRET not in str(caught.value)


# A cluster.


def test_accounts_live_on_all_nodes(cluster: RedisCluster) -> None:
    names = ["acct", "b", "c", "d"]
    assert len({cluster.owner(name).port for name in names}) == 3
    for name in names:
        use(cluster.url, account=name)
    with Budget(cluster.url, account="e", limits=["$1/day"]) as budget:
        budget.reserve("$0.10")
        store = budget.engine.store
        for name in names:  # several accounts of one store
            assert store.last(name) > 10
            assert books(store, name).faults == []
        facts = store.facts()
        assert (facts["topology"], facts["profile"]) == ("cluster, 3 primaries", "fast")


def test_a_user_of_a_cluster(cluster: RedisCluster) -> None:
    """Beside what one server asks for, the map of the slots."""
    from test_redis_server import NEEDED

    for node in cluster.nodes:
        with redis.Redis(port=int(node.port)) as client:
            restrict(client, [*NEEDED, "cluster|slots"])
    with Budget(cluster.url.replace("//", f"//worker:{SECRET}@"), account="acct", limits=["$1/day"]) as budget:
        budget.refund(budget.reserve("$0.10"))


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_slot_between_two_nodes(cluster: RedisCluster, door: str) -> None:
    """While some keys are here and some there nobody is admitted; nothing is written, and it goes on where they end."""
    name = f"half-{door}"
    source = cluster.owner(name)
    to = next(node for node in cluster.nodes if node is not source)
    with Budget(cluster.url, account=name, limits=["$1/day"], store_timeout=2) as budget, asyncio.Runner() as loop:
        held = reserve(budget, door, loop.run)
        cluster.begin(name, to)
        cluster.carry(name, source, to, 2)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"TRYAGAIN|ASK") as caught:
            reserve(budget, door, loop.run)
        assert time.monotonic() - began > 0.2, "it was tried again inside the deadline"
        assert not caught.value.sent
        cluster.carry(name, source, to)
        for node in (to, *cluster.nodes):
            cluster.ask(node, "CLUSTER SETSLOT", cluster.slot(name), "NODE", cluster.id(to))
        assert reserve(budget, door, loop.run).state == "open"
        budget.reconcile(held, usd="0.05")
        assert cluster.owner(name) is to
        assert books(budget.engine.store, name).faults == []
        assert budget.engine.store.last(name) == 3


def test_slots_move_under_load(cluster: RedisCluster) -> None:
    """From node to node and back, a few keys at a time: nothing is lost or takes effect twice, and nobody is told."""
    first = cluster.owner("default")
    others = [node for node in cluster.nodes if node is not first]
    with Load(cluster.url, 30.0) as load:
        for node in (others[0], others[1], first):
            time.sleep(0.2)
            cluster.move("default", node)
        time.sleep(0.2)
    assert load.told.unavailable == []
    check(cluster.url, load.told, unanswered=False)


def test_a_node_of_a_cluster_dies(tmp_path: Path) -> None:
    """Its replica takes over; the account is found there."""
    need_server()
    cluster = RedisCluster(tmp_path)
    replica = None
    try:
        owner = cluster.owner("acct")
        replica = cluster.start_node()
        cluster.meet(replica)
        name = cluster.id(owner)
        cluster.wait(lambda node: name in str(cluster.ask(node, "CLUSTER NODES")), [replica])
        cluster.ask(replica, "CLUSTER REPLICATE", name)
        cluster.wait(lambda node: cluster.ask(node, "INFO")["master_link_status"] == "up", [replica])
        with Budget(cluster.url, account="acct", limits=["$1/day"], store_timeout=30) as budget:
            held = budget.reserve("$0.10")
            replicated(owner, "{acct}sync")
            owner.kill()
            assert budget.reconcile(held, usd="0.05").state == "reconciled"
            assert asyncio.run(budget.aio.reserve("$0.10")).state == "open"
            assert books(budget.engine.store, "acct").faults == []
        assert cluster.ask(replica, "ROLE")[0] == b"master"
    finally:
        cluster.stop()
        if replica is not None:
            replica.kill()


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_the_wrong_kind_of_url(cluster: RedisCluster, redis_url: str, door: str) -> None:
    with (
        Budget(f"redis://127.0.0.1:{cluster.nodes[0].port}", limits=["$1/day"]) as budget,
        pytest.raises(ConfigError, match=r"redis\+cluster://"),
    ):
        reserve(budget, door)
    wrong = redis_url.replace("redis:", "redis+cluster:")
    with Budget(wrong, limits=["$1/day"]) as budget, pytest.raises(StoreUnavailable, match="cluster support disabled"):
        reserve(budget, door)
    wrong = redis_url.replace("redis:", "redis+sentinel:").removesuffix("/0") + "/main"
    with Budget(wrong, limits=["$1/day"]) as budget, pytest.raises(StoreUnavailable, match="no Sentinel answers"):
        reserve(budget, door)
    none = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with Budget(none, limits=["$1/day"]) as budget, pytest.raises(StoreUnavailable, match="no node answers"):
        reserve(budget, door)


def admitted(url: str, account: str = "acct") -> None:
    with Budget(url, account=account, limits=["$1/day"], store_timeout=30) as budget:
        for door in ("threads", "tasks"):
            budget.refund(reserve(budget, door))


def refused(url: str) -> None:
    """Nobody connects to a server whose certificate does not say who it is."""
    server = Server(url)
    with pytest.raises(Lost, match=r"(?i)certificate"):
        server.connect(30)
    with pytest.raises(Lost, match=r"(?i)certificate"):
        asyncio.run(server.aconnect(30))


def test_a_cluster_over_tls(tls: dict[str, str], tmp_path: Path) -> None:
    """Its nodes are found by the name that their certificate has, and where a slot goes the call goes, too."""
    named = {"cluster_announce_hostname": "localhost", "cluster_preferred_endpoint_type": "hostname"}
    cluster = RedisCluster(tmp_path, **tls, **named)
    first = cluster.nodes[0]
    url = f"rediss+cluster://localhost:{first.port}{first.query}"
    try:
        for name in ("acct", "b", "c", "d"):  # on all of the nodes
            admitted(url, name)
        for door in ("threads", "tasks"):
            with Budget(url, account=door, limits=["$1/day"], store_timeout=30) as budget, asyncio.Runner() as loop:
                assert budget.check("$0.10") if door == "threads" else loop.run(budget.aio.check("$0.10"))
                to = next(node for node in cluster.nodes if node is not cluster.owner(door))
                cluster.move(door, to)  # nothing is there yet, so that only the place is another
                assert reserve(budget, door, loop.run).state == "open"
                assert books(budget.engine.store, door).faults == []
        refused(url.partition("?")[0])
        refused(url.replace("localhost", "127.0.0.1"))
        for node in cluster.nodes:  # told by its number, which the certificate does not have
            cluster.ask(node, "CONFIG SET", "cluster-preferred-endpoint-type", "ip")
        refused(url)
        admitted(f"{url}&ssl_check_hostname=false")
    finally:
        cluster.stop()


# Sentinels.


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_sentinels_fail_over(start: Callable[..., RedisServer], door: str) -> None:
    """The primary is killed; the one that was elected is found, inside one call, and knows what was acknowledged."""
    primary = start()
    replica = start(replicaof=f"127.0.0.1 {primary.port}")
    sentinel = start(RedisSentinel, primary)
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/mymaster/0"
    with redis.Redis(port=int(sentinel.port)) as watcher, redis.Redis(port=int(primary.port)) as client:
        wait(lambda: watcher.execute_command("SENTINEL", "REPLICAS", "mymaster"))
        wait(lambda: client.info("replication")["slave0"]["state"] == "online")
        with Budget(url, limits=["$1/day"], store_timeout=30) as budget, asyncio.Runner() as loop:
            held = reserve(budget, door, loop.run)
            assert budget.engine.store.facts()["topology"] == f"Sentinel, mymaster at 127.0.0.1:{primary.port}"
            replicated(primary)
            primary.kill()
            assert reserve(budget, door, loop.run).state == "open"
            budget.reconcile(held, usd="0.05")
            assert budget.engine.store.facts()["topology"] == f"Sentinel, mymaster at 127.0.0.1:{replica.port}"
            assert books(budget.engine.store).faults == []
            assert budget.engine.store.last("default") == 3


def wait(done: Callable[[], Any]) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            if done():
                return
        except (redis.RedisError, KeyError):
            pass
        assert time.monotonic() < until
        time.sleep(0.05)


def test_sentinels_over_tls(start: Callable[..., RedisServer], tls: dict[str, str]) -> None:
    """Sentinels and servers are known by the name that their certificate has."""
    primary = start(**tls)
    by_name = start(RedisSentinel, primary, "localhost", **tls)
    by_number = start(RedisSentinel, primary, **tls)
    url, other = (
        f"rediss+sentinel://localhost:{sentinel.port}/mymaster/0{sentinel.query}" for sentinel in (by_name, by_number)
    )
    admitted(url)
    for wrong in (url.partition("?")[0], url.replace("localhost", "127.0.0.1"), other):
        refused(wrong)
    admitted(f"{other}&ssl_check_hostname=false")


def test_a_password_of_sentinels(start: Callable[..., RedisServer]) -> None:
    """It is another than that of the servers, and neither is told to the others."""
    primary = start(requirepass=SECRET)
    sentinel = start(RedisSentinel, primary)
    with redis.Redis(port=int(sentinel.port)) as watcher:
        watcher.execute_command("SENTINEL", "SET", "mymaster", "auth-pass", SECRET)
        watcher.execute_command("ACL", "SETUSER", "asker", "on", ">other-" + SECRET, "+sentinel")
        watcher.execute_command("ACL", "SETUSER", "default", "off")
    hosts = f"127.0.0.1:{sentinel.port}/mymaster"
    right = f"redis+sentinel://:{SECRET}@{hosts}?sentinel_username=asker&sentinel_password=other-{SECRET}"
    with Budget(right, limits=["$1/day"]) as budget:
        budget.refund(budget.reserve("$0.10"))
    with (
        Budget(f"redis+sentinel://:{SECRET}@{hosts}", limits=["$1/day"]) as budget,
        pytest.raises(StoreUnavailable, match="no Sentinel answers") as caught,
    ):
        budget.reserve("$0.10")
    assert SECRET not in str(caught.value)


def test_sentinels_that_do_not_know_the_service(start: Callable[..., RedisServer]) -> None:
    sentinel = start(RedisSentinel, start())
    with (
        Budget(f"redis+sentinel://127.0.0.1:{sentinel.port}/other", limits=["$1/day"]) as budget,
        pytest.raises(StoreUnavailable, match="do not know other"),
    ):
        budget.reserve("$0.10")
