"""Many processes, 12 pools a call, limits that change, kills: invariants at every look, exact to the last unit."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import STORES
from proof.cluster import Cluster
from proof.load import Storm
from redisserver import RedisServer, need_server

SECONDS, PROCESSES = 2.0, 16


@pytest.mark.parametrize("kind", ["sqlite", "redis", "cluster"])
def test_many_processes_and_windows(kind: str, tmp_path: Path) -> None:
    cluster = None
    if kind == "cluster":
        need_server()
        cluster = Cluster(tmp_path)
    try:
        url = cluster.url if cluster else STORES[kind](tmp_path)
        counts = Storm(url, tmp_path, PROCESSES).run(SECONDS)
    finally:
        if cluster:
            cluster.stop()
    assert counts["observations"] > 0
    assert counts["limits changed"] > 0
    assert counts["entries reserved"] > 50
    assert counts["entries refused"] > 10


def test_clients_are_killed(shared_url: str, tmp_path: Path) -> None:
    counts = Storm(shared_url, tmp_path, 4, seed=2).run(1.0, kills=8)
    assert counts["kills"] == 8
    assert counts["acknowledged"] > 20


def test_the_server_is_killed_under_load(tmp_path: Path) -> None:
    need_server()
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    try:
        counts = Storm(server.url, tmp_path, 4, seed=3, server=server).run(1.0, kills=2, server_kills=4)
    finally:
        server.stop()
    assert counts["server kills"] == 4
    assert counts["acknowledged"] > 20
