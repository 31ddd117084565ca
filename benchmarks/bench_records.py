"""The file of records: how fast it is brought up to date, and how quickly it answers with 10 million calls in it.

    python -m benchmarks.bench_records --calls 10000000 [--data FOLDER] [--folder WHERE]

Sizes, models and durations of the calls are those of the recorded traces, drawn again and again (without them they are
made up, of about the same size); users call as by Zipf's law, agents each in sessions of about 20 calls, over 90 days.
The calls go straight into the file, for what is measured is the answers.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import resource
import sqlite3
import tempfile
import time
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.measure import title, verdict
from budget.engine import Budget
from budget.errors import ConfigError
from budget.ledger import Entry
from budget.records import CallFile
from budget.records.analytics import Analytics
from budget.records.intake import resum
from budget.report.asking import Question
from budget.report.costs import report
from budget.stores.records import put_entries
from budget.stores.sqliteadmin import account_id, transaction

DAY = 86_400_000_000
DAYS, USERS, AGENTS, AT_ONCE, SESSION = 90, 10_000, 40, 2_000, 20
NOW = 1_790_000_000_000_000
CHUNK = 100_000
PUT = f"insert into calls values ({', '.join('?' * 25)})"  # noqa: S608 - what is put in is here
MODELS = {"claude-opus-4-7": (5000, 25000), "claude-sonnet-4-6": (3000, 15000), "claude-haiku-4-5": (1000, 5000)}


def shapes(data: str | None) -> list[tuple[str, int, int, int, int]]:
    """What calls were like: model, input, of which cached, output, milliseconds."""
    found: list[tuple[str, int, int, int, int]] = []
    folder = Path(data) / "traces" if data else None
    if folder is not None and folder.is_dir():
        with gzip.open(folder / "agent_claude_code_cc_traces.csv.gz", "rt") as lines:
            for row in csv.DictReader(lines):
                given, ms = int(row["input_tokens"]), int(float(row["api_time_s"] or 0) * 1000)
                found.append((row["model"], given, given * 9 // 10, int(row["output_tokens"]), ms))
        with gzip.open(folder / "azure_llm_2023_conv.csv.gz", "rt") as lines:
            for row in csv.DictReader(lines):
                given, answered = int(row["ContextTokens"]), int(row["GeneratedTokens"])
                found.append(("claude-haiku-4-5", given, 0, answered, 300 + 20 * answered))
        print(f"shapes: {len(found):,} calls of the traces")
        return found
    draw = Random(1)
    for _ in range(20_000):
        given, answered = int(draw.lognormvariate(7, 1.3)), int(draw.lognormvariate(5, 1))
        found.append((draw.choice([*MODELS]), given, given // 2, answered, 300 + 20 * answered))
    print("shapes: made up; --data names a folder with traces")
    return found


class Makes:
    """Rows of calls in the order of time, and the names that they have."""

    def __init__(self, known: list[tuple[str, int, int, int, int]], calls: int):
        self.names: dict[str, int] = {}
        self._known, self._calls = known, calls
        self._weights = list(accumulate(1 / rank for rank in range(1, USERS + 1)))

    def name(self, text: str) -> int:
        return self.names.setdefault(text, len(self.names) + 1)

    def rows(self, account: int) -> Iterator[tuple[Any, ...]]:
        draw = Random(7)
        step = DAYS * DAY / self._calls
        sessions: list[tuple[int, int, int]] = [self._session(draw, i) for i in range(AT_ONCE)]
        made, provider, project = AT_ONCE, self.name("anthropic"), [self.name(f"project-{i}") for i in range(12)]
        known, count = self._known, len(self._known)
        for seq in range(1, self._calls + 1):
            which = int(draw.random() * AT_ONCE)
            if draw.random() * SESSION < 1:
                sessions[which] = self._session(draw, made)
                made += 1
            user, session, agent = sessions[which]
            model, given, cached, answered, ms = known[int(draw.random() * count)]
            dear, out = MODELS.get(model, (3000, 15000))
            usd = (given - cached) * dear + cached * dear // 10 + answered * out
            at = NOW - DAYS * DAY + int(seq * step)
            yield (
                account, seq, draw.randbytes(16), at, usd, user, session, agent, project[user % 12], self.name(model),
                provider, session, given, answered, cached, 0, cached * dear * 9 // 10, usd, usd * 2, ms, ms // 4, 0,
                None, None, None,
            )  # fmt: skip

    def _session(self, draw: Random, number: int) -> tuple[int, int, int]:
        user = bisect(self._weights, draw.random() * self._weights[-1])
        return self.name(f"user-{user}"), self.name(f"session-{number}"), self.name(f"agent-{user % AGENTS}")


def fill(file: CallFile, calls: int, data: str | None) -> None:
    """Put calls into a file, past the ledger: rows, then indexes, then sums."""
    started = time.perf_counter()
    with file.change() as (db, _):
        account = db.execute("select id from accounts").fetchone()[0]
        indexes = db.execute("select name, sql from sqlite_master where type = 'index' and tbl_name = 'calls'")
        indexes = [(name, sql) for name, sql in indexes.fetchall() if sql]
        for name, _ in indexes:
            db.execute(f"drop index {name}")
    makes = Makes(shapes(data), calls)
    rows = makes.rows(account)
    while chunk := list(islice(rows, CHUNK)):
        with file.change() as (db, _):
            db.executemany(PUT, chunk)
    with file.change() as (db, _):
        db.executemany("insert into names values (?, ?)", [(id, text) for text, id in makes.names.items()])
    print(f"{calls:,} rows in {time.perf_counter() - started:.0f} s", flush=True)
    for _, sql in indexes:
        with file.change() as (db, _):
            db.execute(sql)
    with file.change() as (db, _):
        resum(db, account)
    print(f"indexes and sums after {time.perf_counter() - started:.0f} s", flush=True)


def everyday(db: sqlite3.Connection, account: int) -> dict[str, Callable[[], object]]:
    """The questions, as `budget report` and `budget top` put them."""
    user = db.execute("select text from names join totals on value = id where dim = 'user' limit 1").fetchone()[0]
    found: dict[str, Callable[[], object]] = {}
    for days in (7, 30):
        since = NOW - days * DAY
        for by in ("user", "agent", "model", "day"):
            found[f"by {by}, {days} d"] = partial(report, db, account, Question((by,), since, NOW, {}), quick=True)
        for by, most in (("user", 10), ("session", 20)):
            asked = Question((by,), since, NOW, {})
            found[f"top {most} by {by}, {days} d"] = partial(report, db, account, asked, quick=True, most=most)
        one = Question(("day",), since, NOW, {"user": user})
        found[f"one user's days, {days} d"] = partial(report, db, account, one, quick=True)
        found[f"total, {days} d"] = partial(report, db, account, Question((), since, NOW, {}), quick=True)
    return found


AGGREGATES = {
    "percentiles by model, 90 d": """select model, count(*), quantile_disc(usd, [0.5, 0.95, 0.99]),
        quantile_disc(latency_ms, [0.5, 0.95, 0.99]) from calls group by model""",
    "agent and model, 30 d": f"""select agent, model, count(*), sum(usd), sum(input), sum(output) from calls
        where "at" >= {NOW - 30 * DAY} group by all""",  # noqa: S608 - what is put in is here
    "user and model, 30 d": f"""select "user", model, count(*), sum(usd) from calls
        where "at" >= {NOW - 30 * DAY} group by all order by 4 desc limit 20""",  # noqa: S608 - what is put in is here
    "hours above 3 x a user's mean, 7 d": f"""with hours as (select "user", "at" // 3600000000 as hour, sum(usd) as usd
        from calls where "at" >= {NOW - 7 * DAY} group by all)
        select *, avg(usd) over (partition by "user") as mean from hours qualify usd > 3 * mean order by usd desc""",  # noqa: S608 - what is put in is here
}  # what has no daily sums


def answers(questions: Mapping[str, Callable[[], object]], goal: str) -> None:
    """Time questions."""
    slowest = 0.0
    for name, ask in questions.items():
        times = []
        for _ in range(3):
            started, cpu = time.perf_counter(), time.process_time()
            ask()
            times.append((time.perf_counter() - started, time.process_time() - cpu))
        wall, cpu = sorted(times)[1]
        slowest = max(slowest, wall)
        first = times[0][0]
        print(f"  {name:<36} {wall * 1000:7.0f} ms ({cpu * 1000:.0f} of CPU, first {first * 1000:.0f})", flush=True)
    verdict(f"{goal} in less than 1 s", slowest < 1)


def analyse(file: CallFile, calls: int) -> None:
    """Time what DuckDB answers, if it is installed."""
    try:
        analytics = Analytics(file)
    except ConfigError as error:
        print(f"skipped: {error}")
        return
    started = time.perf_counter()
    analytics.sql("select count(*) from calls")
    print(f"closed days exported in {time.perf_counter() - started:.0f} s", end="; ")
    if file.days is not None:
        print(f"{sum(path.stat().st_size for path in file.days.rglob('*.parquet')) / 1e6:,.0f} MB of Parquet")
    asked = {name: partial(analytics.sql, query) for name, query in AGGREGATES.items()}
    answers(asked, f"aggregates over {calls:,} calls")
    analytics.close()


def reading(folder: Path, calls: int = 20_000) -> None:
    """Time how fast a ledger is read into the file."""
    with Budget(f"sqlite:///{folder / 'ledger.db'}") as budget:
        budget.status()
        store, at = budget.engine.books.store, time.time_ns() // 1000
        detail = {"model": "claude-sonnet-4-6", "provider": "anthropic", "book": "0" * 64, "estimate": {
            "model": "claude-sonnet-4-6", "provider": "anthropic", "input_tokens": 390, "input_tokens_max": 483,
            "output_tokens_max": 800, "usd": "0.01317", "usd_max": "0.013449", "closed": True, "reasons": [],
            "counted_by": "tokenizer"}}  # fmt: skip
        end = {**detail, "usage": {"input": 382, "output": 40, "cache_read": 1000}, "latency_ms": 107, "rates": {
            "over": 0, "input": 3000000, "output": 15000000, "cache_read": 300000}}  # fmt: skip
        entries = []
        for i in range(calls):
            scope = {"user": f"u{i % 300}", "session": f"s{i % 300}-{i // 6000}", "agent": f"a{i % 3}"}
            ends = (("reserved", detail, (0,) * 5), ("reconciled", end, (1000 + i, 1422, 1382, 40, 1)))
            for kind, told, amounts in ends:
                entries.append(Entry(0, at + i, kind, f"{i:032x}", amounts, scope, told, (), ("", "", ""), b""))  # type: ignore[arg-type]
        with transaction(store.path) as db:  # type: ignore[attr-defined]
            put_entries(db, account_id(db, "default"), entries)
        file = CallFile(budget.engine.books)
        started, cpu = time.perf_counter(), time.process_time()
        count = file.catch_up()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
        print(f"read {count:,} entries: {count / wall:,.0f} entries/s ({count / cpu:,.0f} per second of CPU)")
        file.close()


def main(calls: int = 1_000_000, data: str | None = None, where: str | None = None) -> None:
    """Fill a file and ask it."""
    title(f"Records: {calls:,} calls in a file")
    with tempfile.TemporaryDirectory(dir=where, ignore_cleanup_errors=True) as made:
        folder = Path(made)
        reading(folder)
        with Budget("memory://") as budget:
            file = CallFile(budget.engine.books, folder / "calls")
            fill(file, calls, data or os.environ.get("BUDGET_DATA"))
            file.close()
            print(f"file: {(folder / 'calls').stat().st_size / 1e6:,.0f} MB")
            answers(everyday(file.open(), file.account), f"everyday questions over {calls:,} calls")
            analyse(file, calls)
            file.close()
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--calls", type=int, default=1_000_000, help="how many calls")
    options.add_argument("--data", help="a folder with recorded traces")
    options.add_argument("--folder", help="where the file is made, on a disk with room; default: as of other scratch")
    given = options.parse_args()
    main(given.calls, given.data, given.folder)
