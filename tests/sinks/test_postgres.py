"""PostgreSQL: rows and place in one transaction. Needs a server's binaries (`initdb`) on the PATH."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from budget.errors import StoreUnavailable
from budget.sinks import make_sink
from budget.sinks.base import SinkFailed
from budget.sinks.places import Places
from budget.testing import Sandbox

from .helpers import call, drain, feed_of, killed, mixed_budget, odd_batch

psycopg = pytest.importorskip("psycopg")
pytestmark = pytest.mark.skipif(shutil.which("initdb") is None, reason="no PostgreSQL on the PATH")


class Server:
    """A server of its own, as a user other than root: it refuses that one."""

    def __init__(self, folder: Path):
        self._folder, self._user = folder, {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(folder, **self._user)
        bin = Path(os.path.realpath(str(shutil.which("initdb")))).parent
        self._postgres = str(bin / "postgres")
        run = {"cwd": folder, "stdout": subprocess.DEVNULL, **self._user}
        data = str(folder / "data")
        subprocess.run([bin / "initdb", "-D", data, "-A", "trust", "-U", "me", "--no-sync"], check=True, **run)
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = found.getsockname()[1]
        self.url = f"postgresql://me@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        options = {"fsync": "off", "unix_socket_directories": "", "shared_buffers": "8MB", "max_connections": "20"}
        command = [self._postgres, "-D", "data", "-p", str(self.port)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, cwd=self._folder, **quiet, **self._user)  # type: ignore[call-overload]
        until = time.monotonic() + 60
        while True:
            try:
                return psycopg.connect(self.url).close()
            except psycopg.OperationalError:
                assert time.monotonic() < until
                time.sleep(0.02)

    def kill(self) -> None:
        """At once, as at a crash, but so that its children go too."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(60)

    def ask(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as db:
            rows: list[tuple[Any, ...]] = db.execute(query).fetchall()
        return rows


@pytest.fixture(scope="module")
def one() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="budget-pg-") as folder:
        Path(folder).chmod(0o755)
        made = Server(Path(folder))
        yield made
        made.kill()


@pytest.fixture
def server(one: Server) -> Server:
    with psycopg.connect(one.url) as db:
        db.execute("drop table if exists calls, calls_places")
    return one


def test_rows_add_up_and_have_their_types(server: Server) -> None:
    with mixed_budget() as budget:
        drain(feed_of(budget, make_sink(server.url)))
        spent = sum(entry.usd for entry in budget.entries())
        at = [entry.at for entry in budget.entries()]
    assert server.ask("select sum(usd), sum(calls), count(*), count(distinct call_id) from calls") == [
        (spent, 2, 10, 10)
    ]
    query = 'select time, user_id, tags, estimated, usd, input_tokens from calls where seq = 2 and "limit" is null'
    assert server.ask(query) == [(at[1], "alice", '{"feature": "x"}', False, Decimal("0.011475"), 3100)]
    assert server.ask("select * from calls_places") == [("postgresql", "default", 10)]


def test_a_crash_between_writing_and_moving_the_place_repeats_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(None)
    with mixed_budget() as budget:
        feed = feed_of(budget, make_sink(server.url), places)
        with monkeypatch.context() as patch:
            patch.setattr(places, "move", killed)
            with pytest.raises(StoreUnavailable):
                feed.turn(flush=True)
        call(budget, user="dora")
        drain(feed_of(budget, make_sink(server.url), places))
        places.reset("postgresql", "default", 0)
        drain(feed_of(budget, make_sink(server.url), places))  # what comes again is there already
    assert server.ask("select count(*), max(seq) from calls") == [(11, 11)]


def test_a_server_that_is_killed_has_each_record_once(server: Server) -> None:
    with Sandbox() as budget:
        feed = feed_of(budget, make_sink(f"{server.url}?table=calls&name=pg"))
        ids = [call(budget) for _ in range(5)]
        drain(feed)
        server.kill()
        ids += [call(budget) for _ in range(5)]
        for _ in range(2):
            with pytest.raises(SinkFailed, match="PostgreSQL") as caught:
                feed.turn(flush=True)
            assert not caught.value.permanent
            feed.failed(caught.value)
        server.start()
        drain(feed)
    assert [id for (id,) in server.ask("select call_id from calls order by seq")] == ids


def test_a_schema_and_texts_of_any_kind(server: Server) -> None:
    with psycopg.connect(server.url) as db:
        db.execute("drop schema if exists llm cascade")
        db.execute("create schema llm")
    sink = make_sink(f"{server.url}?table=llm.records")
    sink.write(odd_batch())
    sink.close()
    assert server.ask("select model, user_id from llm.records") == [("m\ufffd?'\n", "%s %(time)s")]


def test_a_table_of_another_shape_is_said_without_its_rows(server: Server) -> None:
    with psycopg.connect(server.url) as db:
        db.execute("create table calls (account text, call_id text, secret text)")
    with mixed_budget() as budget, pytest.raises(SinkFailed, match="42703") as caught:
        feed_of(budget, make_sink(server.url)).turn(flush=True)
    assert caught.value.permanent
    assert "alice" not in str(caught.value)


def test_a_password_is_never_said(server: Server) -> None:
    sink = make_sink(f"postgresql://me:pass-word@127.0.0.1:{server.port}/nowhere")
    with mixed_budget() as budget, pytest.raises(SinkFailed) as caught:
        feed_of(budget, sink).turn(flush=True)
    assert "pass-word" not in f"{caught.value} {sink!r}"
