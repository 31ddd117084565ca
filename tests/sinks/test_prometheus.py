"""The Prometheus sink: what is scraped is what the ledger says, within bounds and without names of people."""

from __future__ import annotations

import os
import re
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.error import URLError

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from budget.engine import Budget
from budget.errors import ArgumentTypeError, BudgetExceeded, ConfigError
from budget.sinks import make_sink
from budget.sinks.base import Spec
from budget.sinks.figures import MOST, OTHER, without_names
from budget.sinks.prometheus import Prometheus
from budget.testing import Sandbox

Scrape = dict[tuple[str, tuple[tuple[str, str], ...]], float]
USAGE = {"input_tokens": 100, "output_tokens": 20, "cache_read_input_tokens": 300}
MODEL = "claude-sonnet-4-5"


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples(answer.read().decode())


def scraped(sink: Prometheus) -> Scrape:
    return scrape(sink.port)


def has_calls(count: int, found: Scrape) -> bool:
    return total(found, "budget_calls_total") >= count


def samples(text: str) -> Scrape:
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}


def total(found: Scrape, name: str, **labels: str) -> float:
    return sum(value for (own, given), value in found.items() if own == name and labels.items() <= dict(given).items())


def eventually(look: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    until = time.monotonic() + 60
    while True:
        try:
            found = look()
            if wanted(found):
                return found
        except OSError:  # nothing is served yet
            found = None
        assert time.monotonic() < until, found
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.sinks.levels.EVERY", 0.1)


@pytest.fixture
def served(tmp_path: Any) -> Iterator[tuple[Budget, Prometheus]]:
    sink = Prometheus(port=0)
    limits = ["$1/day", "user=alice $0.50/day", "per=user 3 requests/minute"]
    with Budget(f"sqlite:///{tmp_path}/budget.db", sinks=[sink], limits=limits) as budget:
        yield budget, sink


def test_what_is_scraped_is_what_the_ledger_says(served: tuple[Budget, Prometheus]) -> None:
    budget, sink = served
    usage = {"type": "message", "role": "assistant", "model": MODEL, "usage": USAGE}
    for agent in ("support", "research"):
        budget.reconcile(budget.reserve("$0.10", tokens=500, user="alice", agent=agent, model=MODEL), usage)
    held = budget.reserve("$0.20", tokens=500, user="alice", model=MODEL)
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0.20", tokens=500, user="alice", model=MODEL)

    def told(found: Scrape) -> bool:
        reserved = total(found, "budget_limit_reserved", limit="$1/day")
        return total(found, "budget_refusals_total") >= 1 and reserved == pytest.approx(0.20)

    found = eventually(partial(scraped, sink), told)
    spent = float(sum(entry.amounts[0] for entry in budget.entries() if entry.kind == "reconciled")) / 1e9
    assert spent > 0
    assert total(found, "budget_cost_usd_total") == pytest.approx(spent)
    assert total(found, "budget_cost_usd_total", agent="support", model=MODEL) == pytest.approx(spent / 2)
    assert total(found, "budget_calls_total", outcome="ok") == 2
    kinds = {kind: total(found, "budget_tokens_total", kind=kind) for kind in ("input", "cache_read", "output")}
    assert kinds == {"input": 200, "cache_read": 600, "output": 40}
    assert total(found, "budget_call_cost_usd_count") == 2
    # Two limits of money hold her: what is set aside is in both, and each rule says what of it is used.
    assert total(found, "budget_limit_reserved", limit="user=* $0.5/day") == pytest.approx(0.20)
    assert total(found, "budget_limit_used", limit="$1/day") == pytest.approx(spent)
    assert total(found, "budget_limit_amount", limit="user=* $0.5/day") == pytest.approx(0.50)
    assert total(found, "budget_limit_highest", limit="user=* $0.5/day") == pytest.approx((spent + 0.2) / 0.5)
    budget.refund(held)


def test_nobody_is_named(served: tuple[Budget, Prometheus]) -> None:
    budget, sink = served
    budget.record(usd="0.10", user="alice", session="s-17", model=MODEL)
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0.60", tokens=1, user="alice", session="s-17")

    def both(found: Scrape) -> bool:
        return total(found, "budget_refusals_total") > 0 and total(found, "budget_limit_used") > 0

    found = eventually(partial(scraped, sink), both)
    labels = {value for _, given in found for _, value in given}
    assert not [value for value in labels if re.search("alice|s-17", value)]
    assert {name for name, _ in (pair for _, given in found for pair in given)} <= {
        "model", "provider", "agent", "outcome", "kind", "limit", "mode", "unit", "le",
    }  # fmt: skip


def test_series_are_bounded(tmp_path: Any) -> None:
    registry = CollectorRegistry()
    sink = Prometheus(registry=registry)
    with Budget(f"sqlite:///{tmp_path}/budget.db", sinks=[sink]) as budget:
        for number in range(MOST + 20):
            budget.record(usd="0.01", agent=f"agent-{number}", model=MODEL)

        def calls() -> list[tuple[str, float]]:
            made = [sample for family in registry.collect() for sample in family.samples]
            return [(one.labels["agent"], one.value) for one in made if one.name == "budget_calls_total"]

        found = eventually(calls, lambda found: sum(value for _, value in found) == MOST + 20)
    assert len(found) == MOST + 1
    assert dict(found)[OTHER] == 20


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_restart_counts_on_from_where_the_last_process_stopped(
    kind: str, tmp_path: Any, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    drained = {"records": f"sqlite:///{tmp_path}/records.db"} if kind == "redis" else {}
    with Budget(url) as budget:  # before there was a sink: never counted
        budget.record(usd="7", model=MODEL)
    figures = []
    for calls, usd in ((1, "1"), (2, "2")):
        sink = Prometheus(port=0)
        with Budget(url, sinks=[sink], **drained) as budget:
            budget.record(usd=usd, model=MODEL)
            found = eventually(partial(scraped, sink), partial(has_calls, calls))
            figures.append(total(found, "budget_cost_usd_total"))
        with pytest.raises(URLError):  # nothing is served any more
            scrape(sink.port)
        with Budget(url) as budget:  # without a sink meanwhile: counted by the next
            budget.record(usd="0.25", model=MODEL)
    assert figures == pytest.approx([1, 2.25])


def test_money_that_was_taken_back_does_not_make_a_counter_go_down(tmp_path: Any) -> None:
    registry = CollectorRegistry()
    sink = Prometheus(registry=registry)
    with Sandbox(sinks=[sink]) as budget:
        late = budget.reserve("$0.50", tokens=1, lease=1.0, model=MODEL)
        gone = budget.reserve("$0.30", tokens=1, lease=1.0, model=MODEL)
        budget.clock.move("1m")
        budget.status()  # both leases have ended: they are charged
        budget.reconcile(late, usd="0.10", tokens=1)
        budget.refund(gone)

        def back(found: Scrape) -> bool:
            return total(found, "budget_cost_returned_usd_total") > 0.6

        found = eventually(lambda: samples(generate_latest(registry).decode()), back)
    assert total(found, "budget_calls_total", outcome="expired") == 2
    assert total(found, "budget_cost_usd_total") == pytest.approx(0.80)
    assert total(found, "budget_cost_returned_usd_total") == pytest.approx(0.70)


def test_as_text() -> None:
    made = make_sink("prometheus://127.0.0.1:9999?name=mine")
    assert isinstance(made, Prometheus)
    assert (made.name, made.host, made.port) == ("mine", "127.0.0.1", 9999)
    assert Prometheus.of(Spec.of("prometheus://localhost")).port == 9464


@pytest.mark.parametrize(
    "text", ["prometheus:9464", "prometheus://127.0.0.1:no", "prometheus://h:1/x", "prometheus://h:1?x=1"]
)
def test_texts_that_mean_nothing(text: str) -> None:
    with pytest.raises(ConfigError):
        make_sink(text)


def test_arguments() -> None:
    with pytest.raises(ArgumentTypeError):
        Prometheus(port="9464")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        Prometheus(port=70_000)


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("$5/day", "$5/day"),
        ("user=alice $5/day", "user=* $5/day"),
        ("'user=al ice' agent=a per=session $5/day", "user=* agent=a per=session $5/day"),
        ("run=0af3 $2", "run=* $2"),
        ("it's broken", OTHER),
    ],
)
def test_a_limit_without_names(limit: str, wanted: str) -> None:
    assert without_names(limit) == wanted


def test_a_port_that_is_taken_is_said_and_taken_once_it_is_free(tmp_path: Any, caplog: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        sink = Prometheus(port=taken.getsockname()[1])
        with Budget(f"sqlite:///{tmp_path}/budget.db", sinks=[sink]) as budget:
            budget.record(usd="1", model=MODEL)
            eventually(lambda: caplog.text, lambda text: "nothing can be served on 127.0.0.1" in text)
            taken.close()
            found = eventually(partial(scraped, sink), partial(has_calls, 1))
    assert total(found, "budget_cost_usd_total") == 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_child_leaves_the_port_to_its_parent(served: tuple[Budget, Prometheus]) -> None:
    budget, sink = served
    budget.record(usd="1", model=MODEL)
    eventually(partial(scraped, sink), partial(has_calls, 1))
    if not (child := os.fork()):
        os._exit(0 if sink._server is None else 1)  # its thread is not there: who connects would wait for ever
    assert os.waitpid(child, 0)[1] == 0
    assert total(scraped(sink), "budget_calls_total") == 1
