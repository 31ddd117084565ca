"""Three primaries that share the slots of one cluster, on loopback."""

from __future__ import annotations

import time
from pathlib import Path

import redis
from redisserver import WAIT, RedisServer, free_port

__all__ = ["Cluster"]

SLOTS = 16384


class Cluster:
    """Servers with a third of the slots each; `url` is what a store is told."""

    def __init__(self, folder: Path, nodes: int = 3):
        self.nodes: list[RedisServer] = []
        try:
            self._make(folder, nodes)
        except BaseException:
            self.stop()
            raise
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def _make(self, folder: Path, nodes: int) -> None:
        for number in range(nodes):
            place = folder / f"node-{number}"
            place.mkdir()
            bus = str(free_port())
            self.nodes.append(RedisServer(place, cluster_enabled="yes", cluster_port=bus, appendonly="yes"))
            self._take_slots(number, nodes)
            first = self.nodes[0]
            with redis.Redis(port=int(self.nodes[-1].port)) as client:
                client.execute_command("CLUSTER MEET", "127.0.0.1", first.port, self._bus(first))
        self._wait()

    @staticmethod
    def _bus(node: RedisServer) -> str:
        with redis.Redis(port=int(node.port)) as client:
            return str(client.config_get("cluster-port")["cluster-port"])

    def _take_slots(self, number: int, nodes: int) -> None:
        with redis.Redis(port=int(self.nodes[number].port)) as client:
            last = SLOTS * (number + 1) // nodes - 1
            client.execute_command("CLUSTER ADDSLOTSRANGE", SLOTS * number // nodes, last)

    def _wait(self) -> None:
        until = time.monotonic() + WAIT
        for node in self.nodes:
            with redis.Redis(port=int(node.port)) as client:
                while client.execute_command("CLUSTER INFO").get("cluster_state") != "ok":
                    assert time.monotonic() < until, "the cluster does not come up"
                    time.sleep(0.05)

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()
