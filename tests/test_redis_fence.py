"""Servers that lose what they had acknowledged: noticed, refused by every process, used again once declared whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from redisload import SlowLink
from redisserver import RedisServer, free_port, need_server, replicated
from test_redis_server import SECRET, restrict

from budget import Budget, ConfigError, StoreUnavailable
from budget.cli import main
from budget.commands import ChangePolicy
from budget.stores.redisfence import FENCE


class Pair:
    """A primary and its replica behind one address, which is the primary's until `fail_over`."""

    def __init__(self, folder: Path):
        self.primary = RedisServer(folder)
        self.replica = RedisServer(folder, replicaof=f"127.0.0.1 {self.primary.port}", repl_diskless_sync_delay="0")
        self.link = SlowLink(int(self.primary.port))
        self.link.__enter__()
        self.url = f"redis://127.0.0.1:{self.link.port}/0"
        replicated(self.primary)

    def ask(self, server: RedisServer, *words: Any) -> Any:
        with redis.Redis(port=int(server.port)) as client:
            return client.execute_command(*words)

    def cut(self) -> None:
        """From here the replica hears nothing any more."""
        replicated(self.primary)
        self.ask(self.replica, "REPLICAOF", "127.0.0.1", free_port())

    def fail_over(self) -> None:
        self.primary.kill()
        self.ask(self.replica, "REPLICAOF", "NO", "ONE")
        self.link._to = int(self.replica.port)

    def stop(self) -> None:
        self.link.__exit__()
        self.primary.kill()
        self.replica.kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    need_server()
    made = Pair(tmp_path)
    yield made
    made.stop()


def reserve(budget: Budget, door: str, run: Callable[..., Any]) -> Any:
    return budget.reserve("$0.10") if door == "threads" else run(budget.aio.reserve("$0.10"))


def open_one(url: str) -> Budget:
    return Budget(url, limits=["$9/day"], store_timeout=20)


def refused(budget: Budget, door: str, run: Callable[..., Any]) -> int:
    with pytest.raises(StoreUnavailable, match=r"has lost .* had acknowledged") as caught:
        reserve(budget, door, run)
    assert not caught.value.sent
    return caught.value.lost


def declare_whole(budget: Budget) -> None:
    """What `budget ledger rebuild` does at its end."""
    budget.engine.do(ChangePolicy(*FENCE, None, {"reason": "tried"}))


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_replica_is_promoted_that_lacks_writes(pair: Pair, door: str) -> None:
    with open_one(pair.url) as budget, asyncio.Runner() as loop:
        kept = reserve(budget, door, loop.run)
        pair.cut()
        gone = [reserve(budget, door, loop.run) for _ in range(3)]
        pair.fail_over()
        assert refused(budget, door, loop.run) == 3
        # What has happened is booked, also of a call that the server does not know any more.
        assert budget.reconcile(kept, usd="0.01").state == "reconciled"
        assert budget.reconcile(gone[0], usd="0.01").state == "reconciled"
        assert budget.status()
        with open_one(pair.url) as other:  # another process, which saw none of it
            assert refused(other, door, loop.run) == 3
            for _ in range(2):
                assert refused(budget, door, loop.run) == 3
            declare_whole(other)
            for each in (budget, other):
                assert reserve(each, door, loop.run).state == "open"
                each.engine.store.close()  # and over a new connection
                assert reserve(each, door, loop.run).state == "open"
        kinds = [entry.kind for entry in budget.entries()]
        assert kinds.count("fenced") == kinds.count("unfenced") == 1


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_others_write_past_the_lost_point(pair: Pair, door: str) -> None:
    """The numbers say nothing then: the entry at the remembered one is another."""
    with open_one(pair.url) as budget, asyncio.Runner() as loop:
        reserve(budget, door, loop.run)
        pair.cut()
        for _ in range(3):
            reserve(budget, door, loop.run)
        pair.fail_over()
        with open_one(pair.url) as other:
            for _ in range(10):
                reserve(other, door, loop.run)
            assert refused(budget, door, loop.run) == 1  # at least
            assert refused(other, door, loop.run) == 1
            declare_whole(budget)
            assert reserve(other, door, loop.run).state == "open"
        assert reserve(budget, door, loop.run).state == "open"


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_clean_failover_is_no_loss(pair: Pair, door: str) -> None:
    with open_one(pair.url) as budget, asyncio.Runner() as loop:
        for _ in range(3):
            reserve(budget, door, loop.run)
        pair.cut()
        pair.fail_over()
        assert reserve(budget, door, loop.run).state == "open"
        assert budget.engine.store.last("default") == 4


@pytest.mark.parametrize("door", ["threads", "tasks"])
def test_a_server_that_kept_nothing(tmp_path: Path, door: str) -> None:
    need_server()
    server = RedisServer(tmp_path)
    with open_one(server.url) as budget, asyncio.Runner() as loop:
        for _ in range(3):
            reserve(budget, door, loop.run)
        server.kill()
        server.start()
        assert refused(budget, door, loop.run) == 3
        with open_one(server.url) as other:
            assert refused(other, door, loop.run) == 3
        declare_whole(budget)
        assert reserve(budget, door, loop.run).state == "open"
    server.kill()


def test_it_is_emptied_under_an_open_connection(redis_url: str) -> None:
    with open_one(redis_url) as budget, redis.Redis.from_url(redis_url) as client:
        budget.reserve("$0.10")
        client.flushall()
        with pytest.raises(StoreUnavailable, match="has lost") as caught:
            budget.reserve("$0.10")
        assert caught.value.lost == 1


def test_what_was_drained_is_not_lost(redis_url: str) -> None:
    """Entries leave the stream when a records store has them; the number still says that nothing was lost."""
    with open_one(redis_url) as budget, redis.Redis.from_url(redis_url) as client:
        for _ in range(5):
            budget.reserve("$0.10")
        client.xtrim("budget:{default}:j", maxlen=0)
        budget.engine.store.close()
        assert budget.reserve("$0.10").state == "open"


def test_a_row_that_cannot_be_written_is_written_later(tmp_path: Path) -> None:
    need_server()
    server = RedisServer(tmp_path)
    with open_one(server.url) as budget, open_one(server.url) as other, redis.Redis(port=int(server.port)) as client:
        for _ in range(2):
            budget.reserve("$0.10")
        server.kill()
        server.start()
        client.config_set("maxmemory", 1)
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                budget.reserve("$0.10")
        assert not client.exists("budget:{default}:y")
        client.config_set("maxmemory", 0)
        with pytest.raises(StoreUnavailable, match="has lost"):
            budget.reserve("$0.10")
        assert client.exists("budget:{default}:y")
        with pytest.raises(StoreUnavailable, match="has lost"):
            other.reserve("$0.10")
    server.kill()


# Profiles.


@pytest.mark.parametrize("door", ["threads", "tasks"])
@pytest.mark.parametrize(("options", "missing"), [
    ({}, "appendonly yes"),
    ({"appendonly": "yes"}, "appendfsync always; it is everysec"),
    ({"appendonly": "yes", "appendfsync": "always", "no_appendfsync_on_rewrite": "yes"}, "no-appendfsync-on-rew"),
    ({"appendonly": "yes", "appendfsync": "always"}, ""),
])  # fmt: skip
def test_the_strict_profile(tmp_path: Path, options: dict[str, str], missing: str, door: str) -> None:
    need_server()
    server = RedisServer(tmp_path, **options)
    try:
        with Budget(f"{server.url}?profile=strict", limits=["$1/day"]) as budget:
            if missing:
                with pytest.raises(ConfigError, match=f"profile=strict needs a server with {missing}"):
                    reserve(budget, door, asyncio.run)
            else:
                assert reserve(budget, door, asyncio.run).state == "open"
                assert budget.engine.store.facts()["profile"] == "strict"
    finally:
        server.kill()


@pytest.mark.parametrize(("allowed", "missing"), [(["time", "evalsha"], "INFO"), (["time", "info"], "CONFIG GET")])
def test_strict_says_what_it_could_not_look_at(tmp_path: Path, allowed: list[str], missing: str) -> None:
    need_server()
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    try:
        with redis.Redis(port=int(server.port)) as client:
            restrict(client, allowed)
        url = server.url.replace("//", f"//worker:{SECRET}@") + "?profile=strict"
        with (
            Budget(url, account="acct", limits=["$1/day"]) as budget,
            pytest.raises(ConfigError, match=missing) as caught,
        ):
            budget.reserve("$0.10")
        assert "does not allow" in str(caught.value)
    finally:
        server.kill()


@pytest.mark.parametrize(("options", "warned"), [({}, 1), ({"save": "3600 1"}, 0), ({"appendonly": "yes"}, 0)])
def test_the_fast_profile_warns_once_of_a_server_that_keeps_nothing(
    tmp_path: Path, options: dict[str, str], warned: int, caplog: pytest.LogCaptureFixture
) -> None:
    need_server()
    caplog.set_level(logging.WARNING, "budget")
    server = RedisServer(tmp_path, **options)
    try:
        with Budget(server.url, limits=["$1/day"]) as budget:
            budget.reserve("$0.10")
            asyncio.run(budget.aio.reserve("$0.10"))
        assert caplog.text.count("keeps nothing on disk") == warned
    finally:
        server.kill()


def test_doctor_says_how_the_server_is_found(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with suppress(SystemExit):
        main(["doctor", "--store", redis_url], standalone_mode=False)
    assert "one server, profile fast" in " ".join(capsys.readouterr().out.split())
