"""Every alert rule in `deploy/` is run on DuckDB, every PromQL name is exported, and what its files name is there."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from budget.asks import price
from budget.engine import Budget
from budget.errors import BudgetExceeded
from budget.guard import Guard
from budget.sinks.prometheus import Prometheus
from budget.usage import Usage

from .panels import DEPLOY, MODELS, ROOT, Tables, read, rules
from .test_prometheus import eventually, has_calls, scraped, total

# Alerts, each over rows that are made for it.

NOW = datetime(2026, 3, 20, 12, 0, tzinfo=UTC)


def spent(minutes_ago: float, cost: float, **more: Any) -> dict[str, Any]:
    """A row of a call."""
    at = int((NOW - timedelta(minutes=minutes_ago)).timestamp() * 1000)
    return {"time": at, "call_id": "", "kind": "call", "calls": 1, "user_id": "u", "session_id": "s", "model": "m",
            "cost_usd": cost, "input_tokens": 0, "cache_read_tokens": 0, **more}  # fmt: skip


def alerted(uid: str, rows: list[dict[str, Any]], measurement: str = "llm_usage") -> list[dict[str, Any]]:
    """What a rule says of some rows, each of which came twice."""
    tables = Tables()
    rows = [{**row, "call_id": f"c{number}"} for number, row in enumerate(rows)]
    tables.add(measurement, rows + rows)
    groups = read("grafana/alerting/arc.yaml")["groups"]
    (rule,) = (rule for group in groups for rule in group["rules"] if rule["uid"] == uid)
    span = rule["data"][0]["relativeTimeRange"]
    found = tables.ask(rules()[uid], NOW - timedelta(seconds=span["from"]), NOW - timedelta(seconds=span["to"]))
    tables.db.close()
    for row in found:  # a row is an alert only so: labels that are text, and one figure above the threshold
        figures = [value for value in row.values() if not isinstance(value, str)]
        assert len(figures) == 1
        assert figures[0] > rule["data"][1]["model"]["conditions"][0]["evaluator"]["params"][0]
    return found


def test_alert_of_a_session() -> None:
    rows = [spent(9, 3.0, session_id="a"), spent(1, 2.5, session_id="a"), spent(1, 2.5, session_id="b")]
    old = [spent(11, 9.0, session_id="c"), spent(1, 9.0, session_id=None)]
    assert alerted("budget-session-10m", rows + old) == [{"session_id": "a", "cost_usd": 5.5}]


def test_alert_of_a_spike() -> None:
    day = 24 * 60
    steady = [spent(60 * hour + 5, 2.0, user_id="steady") for hour in range(100)]
    jump = [spent(60 * hour + 5, 1.0, user_id="jump") for hour in range(1, 100)] + [spent(5, 6.0, user_id="jump")]
    new = [spent(5, 1.5, user_id="new"), spent(5, 0.9, user_id="small and new")]
    idle = [spent(6 * day, 30.0, user_id="idle"), spent(5, 3.0, user_id="idle")]  # 0.21 an hour, not 30
    found = {row["user_id"] for row in alerted("budget-user-spike", steady + jump + new + idle)}
    assert found == {"jump", "new", "idle"}


def test_alerts_of_a_user_and_of_all() -> None:
    rows = [spent(60 * hour, 6.0, user_id=user) for hour in (1, 2, 25) for user in ("a", "b")][:5]
    assert alerted("budget-user-day", [*rows, spent(25 * 60, 50.0)]) == [
        {"user_id": "a", "cost_usd": 12.0}, {"user_id": "b", "cost_usd": 12.0}
    ]  # fmt: skip
    assert alerted("budget-cost-rate", [spent(59, 30.0), spent(1, 21.0), spent(61, 99.0)]) == [{"usd_per_hour": 51.0}]
    assert alerted("budget-cost-rate", [spent(59, 49.0), spent(61, 99.0)]) == []
    assert alerted("budget-cost-rate", [spent(61, 99.0)]) == []


def test_alerts_of_limits() -> None:
    at = spent(1, 0.0)["time"]
    level = {"time": at, "call_id": "", "account": "default", "limit": "$5/day", "unit": "usd", "highest": 0.95}
    calm = {**level, "limit": "$9/day", "highest": 0.89}
    assert alerted("budget-limit-full", [level, calm], "llm_limits") == [{"limit": "$5/day", "highest": 0.95}]
    refusal = {"time": at, "call_id": "", "kind": "refused", "limit": "$5/day"}
    shadow = {**refusal, "kind": "shadow", "limit": "$9/day"}
    rows = [refusal] * 21 + [shadow] * 30
    assert alerted("budget-refusals", rows, "llm_refusals") == [{"limit": "$5/day", "refusals": 21.0}]
    assert alerted("budget-refusals", rows[1:], "llm_refusals") == []


def test_alert_of_a_cache() -> None:
    rows = [spent(5, 0.0, model=name, input_tokens=600_000, cache_read_tokens=read)
            for name, read in (("cold", 60_000), ("warm", 300_000), ("without", 0)) for _ in range(2)]  # fmt: skip
    (row,) = alerted("budget-cache", [*rows, spent(5, 0.0, model="small", input_tokens=9000, cache_read_tokens=9)])
    assert row["model"] == "cold"
    assert row["miss_ratio"] == pytest.approx(0.9)


def test_rules_are_whole() -> None:
    groups = read("grafana/alerting/arc.yaml")["groups"]
    uids = [rule["uid"] for group in groups for rule in group["rules"]]
    assert len(set(uids)) == len(uids) == 7
    for group in groups:
        for rule in group["rules"]:
            query, threshold = rule["data"]
            assert rule["condition"] == threshold["refId"] == "C"
            assert (threshold["datasourceUid"], threshold["model"]["expression"]) == ("__expr__", query["refId"])
            assert query["datasourceUid"] == "budget-arc"
            assert query["model"]["format"] == "table"
            labels = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
            assert all(label in query["model"]["sql"] for label in labels)


# Prometheus.


def promql() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana/dashboards/prometheus.json").read_text())
    exprs = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    groups = read("prometheus/rules.yml")["groups"]
    return exprs + [rule["expr"] for group in groups for rule in group["rules"]]


def test_every_name_in_promql_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.sinks.levels.EVERY", 0.05)
    sink = Prometheus(port=0)
    with Budget(f"sqlite:///{tmp_path}/budget.db", sinks=[sink], limits=["$9/day"]) as budget:
        ask = budget.engine.ask_for("$3", 500, {"model": MODELS[0], "agent": "support"})
        guard = Guard(budget, ask, 60_000_000).begin()
        usage = Usage(input=100, cache_read=50, output=20, model=MODELS[0])
        amounts, detail = price(budget.settings, usage, None, None, guard.stored, 0)
        guard.end(amounts, {**detail, "latency_ms": 900, "first_token_ms": 90})
        with pytest.raises(BudgetExceeded):
            budget.reserve("$10", tokens=1)

        def all_there(found: Any) -> bool:
            seen = [total(found, name) for name in ("budget_refusals_total", "budget_limit_used")]
            return has_calls(1, found) and min(seen) > 0

        found = eventually(lambda: scraped(sink), all_there)
    exported = {name for name, _ in found}
    labels: dict[str, set[str]] = defaultdict(set)
    for name, given in found:
        labels[name] |= {label for label, _ in given}
    # No series of this one exists before money was taken back: its name is what is declared of it.
    labels["budget_cost_returned_usd_total"], exported = {"model"}, exported | {"budget_cost_returned_usd_total"}
    used = {name for expr in promql() for name in re.findall(r"\bbudget_\w+", expr)}
    assert len(used) > 10
    assert used <= exported
    for expr in promql():
        for name, matchers in re.findall(r"\b(budget_\w+)\{([^}]*)\}", expr):
            assert set(re.findall(r"(\w+)[!=]", matchers)) <= labels[name]
        for by in re.findall(r"\bby \(([^)]*)\)", expr):
            wanted = {label.strip() for label in by.split(",")}
            assert wanted <= set().union(*(labels[name] for name in re.findall(r"\bbudget_\w+", expr)))


# Files.


def test_dashboards_are_whole() -> None:
    sources = {}
    for path in (DEPLOY / "grafana/datasources").glob("*.yaml"):
        for source in read(str(path.relative_to(DEPLOY)))["datasources"]:
            sources[source["uid"]] = source["type"]
    for path in (DEPLOY / "grafana/dashboards").glob("*.json"):
        dashboard = json.loads(path.read_text())
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))
        taken: set[tuple[int, int]] = set()
        for panel in dashboard["panels"]:
            place = panel["gridPos"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells
            for what in (panel, *panel["targets"]):
                assert sources[what["datasource"]["uid"]] == what["datasource"]["type"]


def test_compose() -> None:
    services: dict[str, Any] = {}
    variables: set[str] = set()
    for name in ("compose.yaml", "compose.prometheus.yaml"):
        text = (DEPLOY / name).read_text()
        compose = read(name)
        assert compose.keys() == {"services", "volumes"}
        variables |= set(re.findall(r"\$\{(\w+)", text))
        for service, told in compose["services"].items():
            assert told.keys() <= {
                "image", "command", "environment", "ports", "volumes", "restart", "healthcheck", "depends_on",
                "extra_hosts",
            }  # fmt: skip
            services[service] = {**services.get(service, {}), **told}
            for volume in told.get("volumes", ()):
                source, target, *mode = volume.split(":")
                assert target.startswith("/")
                if source.startswith("."):
                    assert (DEPLOY / source).is_file(), source
                    assert mode == ["ro"]
                else:
                    assert source in compose["volumes"]
    assert services.keys() == {"valkey", "arc", "grafana", "prometheus"}
    for name, told in services.items():
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+(\.\d+)+(-\w+)?", told["image"]), name
        assert all(port.startswith("127.0.0.1:") for port in told["ports"])
        assert all(needed in services for needed in told.get("depends_on", ()))
    known = set(re.findall(r"^(\w+)=", (DEPLOY / ".env.example").read_text(), re.M))
    assert variables == known
    provider = read("grafana/dashboards.yaml")["providers"][0]
    mounts = (DEPLOY / "compose.yaml").read_text() + (DEPLOY / "compose.prometheus.yaml").read_text()
    for path in (DEPLOY / "grafana/dashboards").glob("*.json"):
        assert f"{provider['options']['path']}/{path.name}:ro" in mounts
    source = read("grafana/datasources/arc.yaml")["datasources"][0]
    assert source["jsonData"]["url"] == "http://arc:8000"
    assert source["secureJsonData"]["apiKey"].removeprefix("$") in services["grafana"]["environment"]


def test_prometheus_reads_its_rules() -> None:
    told = read("prometheus/prometheus.yml")
    assert [(DEPLOY / "prometheus" / name).is_file() for name in told["rule_files"]] == [True]
    assert told["scrape_configs"][0]["static_configs"][0]["targets"] == ["host.docker.internal:9464"]


def test_what_the_readme_names_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    for name in re.findall(r"`((?:grafana|prometheus|tests|budget)/[\w./-]+)`", text):
        assert (DEPLOY / name).exists() or (ROOT / name).exists(), name
    for path in DEPLOY.rglob("*"):
        if path.suffix in (".yaml", ".yml"):
            assert read(str(path.relative_to(DEPLOY)))
