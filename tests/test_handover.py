"""Runs handed to other processes: by headers through a queue, by the environment to a child, to workers of a pool."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from decimal import Decimal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, RunStopped
from budget.run import ENVIRONMENT, HEADER, MOST_NESTED, Run, current

Make = Callable[..., Budget]

# A worker as task queues have them: a process that was there before, and gets jobs as JSON, with headers beside.
WORKER = """
import json, sys
from budget import Budget, BudgetExceeded

with Budget(sys.argv[1]) as b:
    for line in sys.stdin:
        job = json.loads(line)
        with b.run_from_headers(job["headers"]) as run:
            try:
                held = b.reserve(job["usd"])
                b.reconcile(held, usd=job["usd"])
                answer = {"scope": held.scope}
            except BudgetExceeded as refused:
                answer = {"error": type(refused).__name__, "subject": str(refused.subject), "unit": refused.unit}
        print(json.dumps({"run": run.id, "guard": run.guard and str(run.guard.rule), **answer}), flush=True)
"""
CHILD = """
import json, sys
from budget import Budget, BudgetExceeded
from budget.run import current

outer = current()
with Budget(sys.argv[1]) as b:
    b.reconcile(b.reserve("$0.25"), usd="0.25")
    with b.run(agent="inner") as inner:
        held = b.reserve("$0.25")
        b.reconcile(held, usd="0.25")
    try:
        b.reserve("$2")
    except BudgetExceeded as refused:
        print(json.dumps({
            "outer": outer.id, "parent": inner.parent is outer, "scope": held.scope, "subject": str(refused.subject),
            "spent": str(outer.refresh().spent), "left": outer.disclosure(), "on_short": outer.on_short,
        }))
"""


class Worker:
    """A worker process, jobs in and answers out through its pipes."""

    def __init__(self, url: str):
        command = [sys.executable, "-c", WORKER, url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, headers: dict[str, str], usd: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"headers": headers, "usd": usd}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate(timeout=60)


def test_jobs_of_a_queue_are_in_the_run_that_sent_them(sqlite_url: str, make_budget: Make) -> None:
    b, workers = make_budget(sqlite_url), [Worker(sqlite_url), Worker(sqlite_url)]
    try:
        with b.run("$1", user="alice", loop="3 in 10") as run, b.run(max_calls=3, agent="sub") as sub:
            headers = sub.to_headers()
            answers = [worker(headers, "0.30") for worker in workers]
            for answer in answers:
                assert answer["scope"] == {"user": "alice", "agent": "sub", "run": sub.id}
                assert (answer["run"], answer["guard"]) == (sub.id, None)
            assert (run.refresh().spent, run.remaining) == (Decimal("0.6"), Decimal("0.4"))
            assert workers[0](headers, "0.50")["subject"] == f"run={run.id}"  # the outer run's limit
            with pytest.raises(BudgetExceeded):
                b.reserve("0.50")
            b.reserve("0.10")
            refused = workers[1](headers, "0.10")  # the fourth call of the inner run
            assert (refused["error"], refused["unit"]) == ("RunStopped", "requests")
            assert workers[0](run.to_headers(), "0.10")["guard"] == "3 in 10"
    finally:
        for worker in workers:
            worker.close()


def _in_a_worker(url: str, headers: dict[str, str], count: int) -> int:
    with Budget(url) as b, b.run_from_headers(headers):
        done = 0
        for _ in range(count):
            try:
                b.reconcile(b.reserve("$0.01"), usd="0.01")
                done += 1
            except BudgetExceeded:
                break
        return done


def test_processes_of_a_pool_share_one_run(sqlite_url: str, make_budget: Make) -> None:
    b = make_budget(sqlite_url)
    with b.run("$0.20") as run, ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        done = [pool.submit(_in_a_worker, sqlite_url, run.to_headers(), 15) for _ in range(2)]
        assert sum(task.result(timeout=120) for task in done) == 20
        assert run.refresh().remaining == 0


def child(url: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-c", CHILD, url]
    made = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=60, check=True)
    answer: dict[str, Any] = json.loads(made.stdout)
    return answer


def test_a_child_is_in_the_run_of_its_environment(sqlite_url: str, make_budget: Make) -> None:
    b = make_budget(sqlite_url)
    with b.run("$1", user="alice", on_short="clamp") as run:
        answer = child(sqlite_url, run.to_environment())
        assert (answer["outer"], answer["parent"], answer["on_short"]) == (run.id, True, "clamp")
        assert answer["scope"]["user"] == "alice"
        assert answer["scope"]["agent"] == "inner"
        assert answer["subject"] == f"run={run.id}"
        assert answer["spent"] == "0.5"
        assert answer["left"] == "Left in this run: $0.50 of $1.00."
        assert run.refresh().spent == Decimal("0.5")


def test_the_run_of_the_environment_is_every_engines(monkeypatch: pytest.MonkeyPatch, make_budget: Make) -> None:
    one, two = make_budget("memory://"), make_budget("memory://")
    given = Run(one.engine.verbs, "r1", {"user": "alice"}, None, (), None)
    assert current() is None
    monkeypatch.setenv(ENVIRONMENT, given.to_environment()[ENVIRONMENT])
    outer = current()
    assert outer is not None
    assert outer is current()
    assert (outer.id, outer.scope) == ("r1", {"user": "alice", "run": "r1"})
    with pytest.raises(ConfigError, match="refresh"):
        outer.refresh()
    for b in (one, two):
        assert b.reserve("$0.10").scope == outer.scope
        with b.run("$1", agent="inner") as run:
            assert b.reserve("$0.10").scope == {"user": "alice", "agent": "inner", "run": run.id}
    assert outer.reserved == Decimal("0.4")
    seen: list[Run | None] = []
    thread = threading.Thread(target=lambda: seen.append(current()))
    thread.start()
    thread.join()
    assert seen == [outer]  # whatever context there is
    monkeypatch.delenv(ENVIRONMENT)
    assert current() is None


def test_the_limit_of_the_environments_run_holds_in_each_engine(
    monkeypatch: pytest.MonkeyPatch, make_budget: Make
) -> None:
    one, two = make_budget("memory://"), make_budget("memory://")
    monkeypatch.setenv(ENVIRONMENT, one.run("$1", max_calls=2).to_environment()[ENVIRONMENT])
    for b in (one, two):
        with b.run(agent="inner"):
            b.reserve("$0.60")
            with pytest.raises(BudgetExceeded):
                b.reserve("$0.60")
            b.reserve("$0.10")
            with pytest.raises(RunStopped):
                b.reserve("$0")
    with one.run("$1"), pytest.raises(ConfigError, match="engine"):
        two.reserve("$0")


def test_a_damaged_environment_is_said(monkeypatch: pytest.MonkeyPatch, make_budget: Make) -> None:
    b = make_budget("memory://")
    way = json.dumps([{"id": "r", "scope": {"run": "r"}, "limits": [], "deadline": None, "on_short": "walk"}])
    for wrong in ("!!", "e30=", "W10=", "W3t9XQ==", base64.urlsafe_b64encode(way.encode()).decode()):
        monkeypatch.setenv(ENVIRONMENT, wrong)
        with pytest.raises(ConfigError, match=ENVIRONMENT):
            b.reserve("$0")
        with pytest.raises(ConfigError, match=ENVIRONMENT):
            b.run()
    monkeypatch.setenv(ENVIRONMENT, "")
    b.reserve("$0")


def test_headers_carry_the_whole_chain(make_budget: Make) -> None:
    b = make_budget("memory://")
    with b.run("$2", cap="$1", user="al ice", deadline=600, on_short="clamp;wait:30s", id="out er") as outer:
        inner = b.run(max_calls=3, loop="3 in 10", velocity="$1/minute", agent="'")
    got = b.run_from_headers(inner.to_headers())
    assert (got.id, got.scope, got.limits, got.guard and got.guard.rule) == (
        inner.id, inner.scope, inner.limits, inner.guard and inner.guard.rule,
    )  # fmt: skip
    assert got.parent is not None
    assert (got.parent.id, got.parent.scope, got.parent.limits) == (outer.id, outer.scope, outer.limits)
    assert (got.parent.deadline_at, got.parent.on_short, got.on_short) == (outer.deadline_at, "clamp;wait:30s", "")
    assert 0 < (got.remaining_seconds() or 0) <= 600
    assert b.run_from_headers({HEADER.upper(): inner.to_headers()[HEADER]}).id == inner.id


def test_too_many_runs_are_not_cut_short(make_budget: Make) -> None:
    b = make_budget("memory://")
    run: Run | None = None
    for number in range(MOST_NESTED + 1):
        run = Run(b.engine.verbs, f"r{number}", {}, run, (), None)
        if number < MOST_NESTED:
            got = b.run_from_headers(run.to_headers())
            assert len(list(got.chain())) == number + 1
    assert run is not None
    with pytest.raises(ConfigError, match="33 runs"):
        run.to_headers()


def test_a_header_keeps_to_what_headers_may_have(make_budget: Make, tmp_path: Path) -> None:
    text = make_budget("memory://").run(user="ä\u2028 ü", id="ü").to_headers()[HEADER]
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text


@pytest.mark.parametrize("headers", [None, [(HEADER, "x")], {HEADER: 5}, f"{HEADER}: x"])
def test_headers_are_a_mapping_of_texts(make_budget: Make, headers: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^headers"):
        make_budget("memory://").run_from_headers(headers)
