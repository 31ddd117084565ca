"""What the tests of `deploy/` share: its queries, macros expanded, and the tables that the Arc sink fills."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from budget.asks import price
from budget.errors import BudgetExceeded
from budget.guard import Guard
from budget.replay.trace import Trace
from budget.testing import Sandbox
from budget.usage import Usage

duckdb = pytest.importorskip("duckdb")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DATA = Path(os.environ.get("BUDGET_DATA") or ROOT.parent / "shared" / "data")
CC = DATA / "traces" / "agent_claude_code_cc_traces.csv.gz"
BEGAN = datetime(2026, 3, 2, 7, 30, 17, tzinfo=UTC)
MODELS = ("claude-sonnet-4-5", "claude-opus-4-5", "gpt-5-mini")
AGENTS = ("support", "research", None)
HOUR = timedelta(hours=1)
PLAIN = {"VARCHAR", "DOUBLE", "BIGINT", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}
"""Column types that the data source's decoder has a Grafana type for; sums of whole numbers are none of them."""


def arc_dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/arc.json").read_text())
    return found


@cache
def read(path: str) -> Any:
    """A YAML file of `deploy/`."""
    return yaml.safe_load((DEPLOY / path).read_text())


def rules() -> dict[str, str]:
    """The SQL of each alert rule by its uid."""
    groups = read("grafana/alerting/arc.yaml")["groups"]
    return {rule["uid"]: rule["data"][0]["model"]["sql"] for group in groups for rule in group["rules"]}


def panels() -> dict[str, str]:
    """The SQL of each panel by its title."""
    return {panel["title"]: panel["targets"][0]["sql"] for panel in arc_dashboard()["panels"]}


# What the data source makes of a query, and the tables that it is asked of.


def expanded(sql: str, since: datetime, until: datetime) -> str:
    """Expand the macros as the data source (1.4.0, `applyMacrosWith`, a dashboard in UTC) does."""
    low, high = (f"'{at.strftime('%Y-%m-%dT%H:%M:%SZ')}'" for at in (since, until))
    sql = re.sub(r"\$__timeFilter\((\w+)\)", rf"\1 >= {low} AND \1 < {high}", sql)
    sql = sql.replace("$__timeFrom()", low).replace("$__timeTo()", high)
    units = {"m": 60, "h": 3600, "d": 86400}

    def group(match: re.Match[str]) -> str:
        seconds = int(match[2]) * units[match[3]]
        return f"to_timestamp((epoch_ns({match[1]}) // 1000000000 // {seconds}) * {seconds})"

    sql = re.sub(r"\$__timeGroup\((\w+), '(\d+)([mhd])'\)", group, sql)
    assert "$" not in sql.replace("$5", "").replace("$1", ""), sql
    return sql


class Tables:
    """The measurements of an Arc database, as the Arc sink fills them."""

    def __init__(self) -> None:
        self.db = duckdb.connect()
        self.db.execute("set timezone = 'UTC'")
        self._known: dict[str, dict[str, str]] = {}

    def add(self, measurement: str, rows: list[dict[str, Any]]) -> None:
        rows = [{**row, "time": datetime.fromtimestamp(row["time"] / 1000, UTC).replace(tzinfo=None)} for row in rows]
        types = self._known.setdefault(measurement, {name: self._type(name, rows) for name in rows[0]})
        columns = ", ".join(f'"{name}" {type}' for name, type in types.items())
        self.db.execute(f"create table if not exists {measurement} ({columns})")
        lists = ", ".join(f"unnest(cast(? as {type}[]))" for type in types.values())
        self.db.execute(f"insert into {measurement} select {lists}", [[row[name] for row in rows] for name in types])

    @staticmethod
    def _type(name: str, rows: Iterable[dict[str, Any]]) -> str:
        if name.endswith("_usd"):
            return "DOUBLE"
        if name.endswith(("_ms", "_tokens")):
            return "BIGINT"
        types = {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", datetime: "TIMESTAMP"}
        return next((types.get(type(row[name]), "VARCHAR") for row in rows if row[name] is not None), "VARCHAR")

    def ask(self, sql: str, since: datetime, until: datetime) -> list[dict[str, Any]]:
        asked = expanded(sql, since, until)
        types = {name: type for name, type, *_ in self.db.execute(f"describe {asked}").fetchall()}
        assert set(types.values()) <= PLAIN
        timed = [name for name, type in types.items() if type.startswith("TIMESTAMP")]
        plain = ", ".join(f'epoch_us("{name}") as "{name}"' for name in timed)
        cursor = self.db.execute(f"select * {f'replace ({plain})' if timed else ''} from ({asked})")
        rows = [dict(zip(types, row, strict=True)) for row in cursor.fetchall()]
        return [{name: at(value) if name in timed else value for name, value in row.items()} for row in rows]


def at(micros: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)


@dataclass
class Call:
    """A call as the test made it: what the panels are compared with."""

    at: datetime
    user: str
    session: str
    agent: str
    model: str
    usd: float
    input: int
    read: int
    output: int
    latency_ms: int


@dataclass
class World:
    """A ledger that was replayed, and the tables that the Arc sink made of it."""

    tables: Tables
    calls: list[Call] = field(default_factory=list)
    refused: list[tuple[datetime, str]] = field(default_factory=list)
    pools: list[Any] = field(default_factory=list)
    until: datetime = BEGAN

    def between(self, since: datetime, until: datetime) -> list[Call]:
        return [call for call in self.calls if since <= call.at < until]

    def ask(self, sql: str, hours: float = 24 * 12) -> list[dict[str, Any]]:
        return self.tables.ask(sql, self.until - timedelta(hours=hours), self.until)


def sizes(count: int) -> Iterator[tuple[int, int, int]]:
    """Input, cached input and output of calls: of a recorded coding agent, where the traces are, else made up."""
    if CC.exists():
        for call in islice(Trace(CC).calls(), count):
            yield call.input % 20_000, call.input // 2, call.output
        return
    dice = random.Random(3)
    yield from ((dice.randrange(50, 9000), dice.randrange(30_000), dice.randrange(2000)) for _ in range(count))


def call(budget: Sandbox, made: Call) -> None:
    """Make a call as a wrapped client does."""
    about = {"user": made.user, "session": made.session, "project": "p", "model": made.model}
    about |= {"agent": made.agent} if made.agent else {}
    guard = Guard(budget, budget.engine.ask_for("$0.8", 60_000, about), 60_000_000).begin()
    usage = Usage(input=made.input - made.read, cache_read=made.read, output=made.output, model=made.model)
    amounts, detail = price(budget.settings, usage, None, None, guard.stored, budget.engine.verbs.now())
    made.usd = (amounts[0] or 0) / 1e9
    guard.end(amounts, {**detail, "latency_ms": made.latency_ms})


def replayed(world: World, budget: Sandbox, count: int) -> None:
    """Make calls over some days, with refusals, a charge that was taken back, and one that was corrected."""
    dice = random.Random(11)
    for number, (plain, read, output) in enumerate(sizes(count)):
        budget.clock.move(f"{dice.choice((1, 20, 300, 4000))}s")
        user = f"u{dice.randrange(9)}"
        session, agent, model = f"{user}-{number // 400}", dice.choice(AGENTS), dice.choice(MODELS)
        tokens, latency = (plain + read, read, output), dice.randrange(9000)
        made = Call(budget.clock.now, user, session, agent or "", model, 0.0, *tokens, latency)
        try:
            call(budget, made)
        except BudgetExceeded as error:
            world.refused.append((made.at, str(error.limit)))
        else:
            world.calls.append(made)
    budget.clock.move_to(budget.clock.now.replace(minute=1) + HOUR)
    about = {"user": "u1", "session": "late", "agent": "support", "model": MODELS[0]}
    late, gone = (budget.reserve("$0.4", tokens=9, lease=1.0, **about) for _ in range(2))
    budget.clock.move("2s")
    budget.status()  # their leases are over: they are charged
    budget.refund(gone)
    budget.reconcile(late, usd="0.1", tokens=9)
    world.calls.append(Call(budget.clock.now, "u1", "late", "support", MODELS[0], 0.1, 9, 0, 9, 0))
    budget.clock.move("5m")
