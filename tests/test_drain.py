"""Draining a server's ledger into the records store: each entry once, whoever is killed, and trimmed only then."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from budget.books.books import Books
from budget.cli import main
from budget.engine import Budget
from budget.errors import BudgetError, BudgetExceeded, ConfigError, StoreUnavailable
from budget.stores.base import open_store
from budget.stores.records import Records
from budget.stores.redisdrain import KEPT

STREAM = "budget:{default}:j"


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(f"sqlite:///{tmp_path / 'records.db'}")
    yield made
    made.close()


@pytest.fixture
def budget(redis_url: str, make_budget: Callable[..., Budget]) -> Budget:
    return make_budget(redis_url, limits=["$500/day", "per=user $5/hour"])


def use(budget: Budget, calls: int, user: str = "alice") -> None:
    for _ in range(calls):
        budget.record(usd="0.001", user=user)


def drain_all(books: Books) -> int:
    total = 0
    while count := books.drain_step():
        total += count
    return total


def what(entry: object) -> tuple[object, ...]:
    """What an entry says, apart from its number and digest."""
    return tuple(
        getattr(entry, name) for name in ("at_us", "kind", "reservation", "amounts", "scope", "detail", "postings")
    )


def test_everything_arrives_in_order_and_proves(budget: Budget, records: Records, client: redis.Redis) -> None:
    reservation = budget.reserve("$1", user="bob")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$20", user="bob")
    use(budget, 1500)
    budget.reconcile(reservation, usd="0.5")
    before = list(budget.entries())
    assert sum(entry.kind == "refused" for entry in before) == 1
    books = Books(budget.engine.store, "default", records)
    assert drain_all(books) == len(before) == 1503
    kept = list(books.entries())
    assert list(map(what, kept)) == list(map(what, before))
    assert [entry.seq for entry in kept] == list(range(1, 1504))
    assert KEPT <= client.xlen(STREAM) < KEPT + 200
    found = books.verify()
    assert (found.faults, found.entries, found.partial) == ([], 1503, False)
    use(budget, 3)
    found = books.verify()  # what the server has since is read first
    assert (found.faults, found.entries) == ([], 1506)
    assert [entry.kind for entry in books.last({"user": "bob"}, 5)] == ["reserved", "refused", "reconciled"]


def test_without_the_records_it_is_said_from_where_it_could_be_proved(budget: Budget, records: Records) -> None:
    use(budget, 1500)
    drain_all(Books(budget.engine.store, "default", records))
    found = Books(budget.engine.store, "default").verify()
    assert (found.ok, found.partial) == (True, True)
    assert found.since > 1000
    with pytest.raises(BudgetError, match="first entries are not here"):  # the store answers: not StoreUnavailable
        Books(budget.engine.store, "default").rebuild()
    since = next(iter(budget.entries())).at
    assert next(iter(budget.entries(since=since))).at == since


def test_rebuild_uses_the_records(budget: Budget, records: Records, client: redis.Redis) -> None:
    use(budget, 1200)
    books = Books(budget.engine.store, "default", records)
    drain_all(books)
    before = budget.engine.store.snapshot("default").buckets
    from budget.commands import Rebuild

    found = budget.engine.store.snapshot("default")
    wrong = {key: bucket.at(bucket.spent + 5, 0) for key, bucket in found.buckets.items()}
    budget.engine.store.call("default", Rebuild(found.seq, wrong, found.names), 5.0)
    assert not books.verify().ok
    assert books.rebuild().audit.ok
    assert budget.engine.store.snapshot("default").buckets == before


def save(client: redis.Redis) -> dict[bytes, bytes]:
    """What a server has now, as a failover may bring it back."""
    return {key: client.dump(key) for key in client.scan_iter()}


def restore(client: redis.Redis, saved: dict[bytes, bytes]) -> None:
    client.flushall()
    for key, value in saved.items():
        client.restore(key, 0, value)


def rewrite(client: redis.Redis, place: bytes, change: Callable[[bytes, bytes], bytes]) -> None:
    """Put a stream back with one entry changed."""
    rows = client.xrange(STREAM)
    client.delete(STREAM)
    for id, fields in rows:
        client.xadd(STREAM, {n: change(n, v) if id == place else v for n, v in fields.items()}, id=id)


@pytest.mark.parametrize("damage", ["changed", "unreadable", "gap", "fork", "lost", "anew"])
def test_a_server_that_is_not_what_it_was_is_not_drained(
    budget: Budget, records: Records, client: redis.Redis, damage: str
) -> None:
    books = Books(budget.engine.store, "default", records)
    use(budget, 7)
    saved = save(client)
    use(budget, 3)
    drain_all(books)
    use(budget, 5)
    kept = list(records.store.entries("default", 0))
    if damage == "changed":
        rewrite(client, b"12-0", lambda name, value: value[:25] + b"?" + value[26:] if name == b"E" else value)
    elif damage == "unreadable":
        rewrite(client, b"12-0", lambda name, value: value[:-20] + b"?" * 20 if name == b"E" else value)
    elif damage == "fork":
        rewrite(client, b"10-0", lambda name, value: value[::-1] if name == b"h" else value)
    elif damage == "gap":
        client.xtrim(STREAM, minid="13-0", approximate=False)
    elif damage == "lost":
        restore(client, saved)
    else:
        client.flushall()
        use(budget, 12)
    with pytest.raises(StoreUnavailable, match=r"entry|entries|account"):
        drain_all(books)
    assert list(records.store.entries("default", 0)) == kept


def test_two_records_stores_do_not_share_an_account(budget: Budget, records: Records, tmp_path: Path) -> None:
    use(budget, 10)
    drain_all(Books(budget.engine.store, "default", records))
    other = Records(f"sqlite:///{tmp_path / 'other.db'}")
    with pytest.raises(StoreUnavailable, match="another records store"):
        drain_all(Books(budget.engine.store, "default", other))
    other.close()


DRAIN = """
import sys
from budget.books.books import Books
from budget.stores import redisdrain
from budget.stores.base import open_store
from budget.stores.records import Records
redisdrain.PAGE = 20
redisdrain.KEPT = 5
books = Books(open_store(sys.argv[1]), "default", Records(sys.argv[2]))
print("ready", flush=True)
while True:
    books.drain_step()
"""


def test_killed_at_any_point_nothing_is_lost_and_nothing_comes_twice(
    redis_url: str, budget: Budget, records: Records
) -> None:
    """Two drains at once, each killed again and again, while calls are made."""
    rng = random.Random(11)
    command = [sys.executable, "-c", DRAIN, redis_url, f"sqlite:///{records.path}"]
    made: list[str] = []
    children: list[subprocess.Popen[str]] = []
    try:
        for _ in range(4):
            for _ in range(2):
                children.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ))
            for child in children[-2:]:
                assert child.stdout is not None
                assert child.stdout.readline() == "ready\n"
            until = time.monotonic() + rng.uniform(0.02, 0.25)
            while time.monotonic() < until:
                made.append(budget.record(usd="0.001", user="alice").id)
            for child in children[-2:]:
                child.send_signal(signal.SIGKILL)
                child.wait()
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    books = Books(budget.engine.store, "default", records)
    drain_all(books)
    assert [entry.reservation for entry in records.store.entries("default", 0)][: len(made)] == made[:1000]
    assert [entry.reservation for entry in books.entries()] == made
    found = books.verify()
    assert (found.faults, found.partial) == ([], False)


def test_the_background_of_an_engine_drains(
    redis_url: str, make_budget: Callable[..., Budget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budget.books.drainer.EVERY", 0.02)
    url = f"sqlite:///{tmp_path / 'records.db'}"
    budget = make_budget(redis_url, records=url, limits=["$5/day"])
    use(budget, 20)
    store = open_store(url)
    until = time.monotonic() + 60
    while store.last("default") < 20 and time.monotonic() < until:
        time.sleep(0.02)
    assert store.last("default") == 20
    store.close()
    assert [entry.seq for entry in budget.entries()] == list(range(1, 21))
    budget.close()


def test_records_of_a_file_are_its_own(sqlite_url: str, make_budget: Callable[..., Budget], tmp_path: Path) -> None:
    budget = make_budget(sqlite_url, records=f"sqlite:///{tmp_path / 'records.db'}")
    budget.record(usd="1")
    assert len(list(budget.entries())) == 1
    assert not (tmp_path / "records.db").exists()


def test_the_command_drains_into_the_default_place(
    redis_url: str, budget: Budget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(budget, 200)
    run = CliRunner()
    told = json.loads(run.invoke(main, ["drain", "--store", redis_url, "--json"]).stdout)
    place = Path(told.pop("records"))
    assert told == {"entries": 200}
    assert (place.parent, place.name.startswith("records-")) == (tmp_path / "xdg" / "budget", True)
    assert place.stat().st_mode & 0o777 == 0o600
    use(budget, 1)
    found = json.loads(run.invoke(main, ["ledger", "verify", "--store", redis_url, "--json"]).stdout)
    assert (found["ok"], found["entries"], found["since"], found["partial"]) == (True, 201, 1, False)
    assert len(run.invoke(main, ["ledger", "export", "--store", redis_url]).stdout.splitlines()) == 201
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "elsewhere"))
    found = json.loads(run.invoke(main, ["ledger", "verify", "--store", redis_url, "--json"]).stdout)
    assert (found["ok"], found["partial"], found["since"] > 1) == (True, True, True)
    assert not list((tmp_path / "elsewhere" / "budget").glob("records*"))
    refused = run.invoke(main, ["drain", "--store", redis_url])
    assert refused.exit_code == 4
    assert "somebody else has trimmed it" in refused.stderr


def test_what_is_missing_at_the_beginning_of_a_ledger_that_was_never_drained_is_a_fault(
    redis_url: str, budget: Budget
) -> None:
    use(budget, 5)
    with redis.Redis.from_url(redis_url) as client:
        client.xdel("budget:{default}:j", "1-0")
    found = budget.engine.books.verify()
    assert (found.ok, found.partial, found.faults) == (False, False, ["entry 1 is missing: the next one is 2"])


def test_a_store_in_use_is_no_records_store(
    redis_url: str, make_budget: Callable[..., Budget], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two ledgers in one file would both be spoiled."""
    url = f"sqlite:///{tmp_path / 'budget.db'}"
    mine = make_budget(url)
    mine.record(usd="1")
    served = make_budget(redis_url, records=url)
    served.engine.drainer.stop()
    served.record(usd="2")
    with pytest.raises(ConfigError, match=r"records: .*budget\.db has a ledger of its own for 'default'"):
        served.engine.books.drain_step()
    assert [entry.usd for entry in mine.entries()] == [1]
    assert mine.engine.books.verify().ok


def test_two_servers_are_not_drained_into_one_file(
    redis_url: str, make_budget: Callable[..., Budget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databases of one server are two stores, however their URLs are written."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    base, _, number = redis_url.rpartition("/")
    other = f"{base}?db={1 if number != '1' else 2}"
    told = []
    for url in (redis_url, other):
        with make_budget(url) as budget:
            budget.record(usd="1")
        run = CliRunner()
        told.append(json.loads(run.invoke(main, ["drain", "--store", url, "--json"]).stdout))
        found = json.loads(run.invoke(main, ["ledger", "verify", "--store", url, "--json"]).stdout)
        assert (found["ok"], found["entries"]) == (True, 1)
    assert [each["entries"] for each in told] == [1, 1]
    assert told[0]["records"] != told[1]["records"]
    redis.Redis.from_url(other).flushdb()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_follow_goes_on_until_it_is_stopped(
    redis_url: str, budget: Budget, records: Records, number: signal.Signals
) -> None:
    use(budget, 5)
    command = [sys.executable, "-m", "budget.cli", "drain", "--follow", "--store", redis_url]
    environment = {**os.environ, "BUDGET_RECORDS": f"sqlite:///{records.path}"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while records.store.last("default") < 5 and time.monotonic() < until:
            time.sleep(0.05)
        use(budget, 3)
        while records.store.last("default") < 8 and time.monotonic() < until:
            time.sleep(0.05)
        child.send_signal(number)
        assert child.communicate(timeout=60)[0] == f"drained: 8 entries to {records.path}\n"
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("url", ["redis://x", "sqlite:///", "records.db", ""])
def test_records_are_a_file(url: str) -> None:
    with pytest.raises(ConfigError, match="records"):
        Records(url)
