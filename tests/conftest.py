"""What all tests share: a store of each kind, budgets that are closed again, and a fence around the user's own data."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import settings
from redisserver import RedisServer, need_server

from budget.audit import Audit, audit, rolling_pools
from budget.engine import Budget
from budget.stores.base import Store, open_store, read_entries

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = "5"  # seconds that a busy machine's store may take; who is to miss a deadline sets one

# One line per kind of store: every test that asks for `store_url` or `store` runs on each.
STORES: dict[str, Callable[[Path], str]] = {
    "memory": lambda folder: "memory://",
    "sqlite": lambda folder: f"sqlite:///{folder / 'budget.db'}",
    "redis": lambda folder: empty_redis(),
}

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # run in the background of a shell: children would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("default", deadline=None)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's store, configuration or environment, nor another test's default engine."""
    for name in os.environ:
        if name.startswith("BUDGET_") and name != "BUDGET_DATA":
            monkeypatch.delenv(name)
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("BUDGET_STORE_TIMEOUT", PATIENCE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # children import the package from the source tree
    monkeypatch.setattr("budget.engine._default", None)


@lru_cache
def redis_server() -> RedisServer:
    """The server that tests share: each empties it before."""
    folder = tempfile.TemporaryDirectory(prefix="budget-redis-")
    server = RedisServer(Path(folder.name), save="86400 1")  # one that keeps nothing is warned of
    atexit.register(lambda: (server.stop(), folder.cleanup()))
    return server


def empty_redis() -> str:
    """The URL of the shared server, with nothing in it."""
    need_server()
    server = redis_server()
    with redis.Redis(port=int(server.port)) as client:
        client.flushall()
    return server.url


@pytest.fixture(params=STORES)
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return STORES[request.param](tmp_path)


@pytest.fixture(params=[name for name in STORES if name != "memory"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that processes can share."""
    return STORES[request.param](tmp_path)


@pytest.fixture
def redis_url() -> str:
    return empty_redis()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return STORES["sqlite"](tmp_path)


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    made = open_store(store_url)
    yield made
    made.close()


@pytest.fixture
def make_budget() -> Iterator[Callable[..., Budget]]:
    """Make budgets that are closed when the test ends."""
    made: list[Budget] = []

    def make(*args: Any, **options: Any) -> Budget:
        made.append(Budget(*args, **options))
        return made[-1]

    yield make
    for budget in made:
        budget.close()


@pytest.fixture
def budget_factory(store_url: str, make_budget: Callable[..., Budget]) -> Callable[..., Budget]:
    """Make budgets on a store of each kind in turn."""
    return lambda **options: make_budget(store_url, **options)


def books(store: Store, account: str = "default") -> Audit:
    """Audit an account that nobody writes to meanwhile."""
    entries = list(read_entries(store, account))
    found = store.snapshot(account)
    counters = {key: (bucket.spent, bucket.reserved) for key, bucket in found.buckets.items()}
    return audit(entries, counters, found.head, found.seq, rolling_pools(found.names))


def alone(work: Callable[..., None], *args: Any) -> None:
    """Run a function of a module in a process of its own, where no other test's threads open and close descriptors."""
    child = multiprocessing.get_context("spawn").Process(target=work, args=args)
    child.start()
    child.join(120)
    child.kill()
    assert child.exitcode == 0, "its traceback is in the captured output"


def python(code: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a process of its own."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, check=check, timeout=120)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table of the cells that the tests of `clients/matrix` carried out."""
    reports = [report for how in ("passed", "failed") for report in terminalreporter.getreports(how)]
    found = [value for report in reports for name, value in report.user_properties if name == "matrix"]
    if found:
        from clients.matrix.table import lines

        terminalreporter.section(found[0][0])
        for line in lines((tuple(row), cells) for _, row, cells in found):
            terminalreporter.write_line(line)
