"""Records of recorded calls, for questions: the public traces in the folder `BUDGET_DATA`, or made up in their shape.

Azure's trace (github.com/Azure/AzurePublicDataset) is one hour of a chat service without users or sessions; here it is
spread over four days, and a generator with a fixed seed says whose calls they are. The other one is of coding agents
(github.com/semianalysisai/cc-traces): sessions whose prompts grow, with the tokens that a cache could have.
"""

from __future__ import annotations

import csv
import gzip
import os
import random
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from budget.records import Record

START = 1_700_000_000_000_000  # 2023-11-14 22:13:20 UTC, in microseconds
SPREAD = 96  # an hour becomes four days
RATES = {  # pico-dollars per token: input, output, read from a cache
    "small": (150_000, 600_000, 75_000), "large": (3_000_000, 15_000_000, 300_000),
    "huge": (15_000_000, 75_000_000, 1_500_000),
}  # fmt: skip


def chats(count: int = 2000) -> list[Record]:
    """The calls of a chat service."""
    chance = random.Random(20231116)
    users = [f"user-{i}" for i in range(60)]
    weights = [1 / (i + 1) ** 1.3 for i in range(60)]
    found = []
    for number, (at, given, answered) in enumerate(_azure(chance, count)):
        user = chance.choices(users, weights)[0] if chance.random() > 0.02 else None
        scope = {"session": f"{user}-{int(at) // 900}", "agent": chance.choice(["search", "support", "writer"]),
                 "team": chance.choice(["blue", "red"])}  # fmt: skip
        scope |= {"user": user} if user else {}
        if chance.random() < 0.1:
            del scope["agent"]
        model = chance.choices(["small", "large", "huge"], [6, 3, 1])[0]
        latency = None if chance.random() < 0.1 else 200 + answered * 15
        found.append(_record(number, START + int(at * SPREAD * 10**6), scope, model, given, answered, 0, latency))
    return found


def agents(count: int = 1000) -> list[Record]:
    """The calls of coding agents."""
    chance = random.Random(20260101)
    found = []
    for number, (session, at, given, answered, cached, latency) in enumerate(_coding(chance, count)):
        scope = {"session": session, "run": session, "user": f"dev-{hash_of(session) % 12}", "agent": "coder"}
        model = "huge" if hash_of(session) % 3 else "large"
        end = START + int(at * 10**6)
        found.append(_record(10**6 + number, end, scope, model, given, answered, cached, latency))
    return found


def hash_of(text: str) -> int:
    """A number of a text that is the same in every process."""
    return sum(ord(c) * (i + 1) for i, c in enumerate(text))


def _record(
    number: int, at_us: int, scope: dict[str, str], model: str, given: int, answered: int, cached: int,
    latency: int | None,
) -> Record:  # fmt: skip
    plain, out, read = RATES[model]
    nanos = -(-((given - cached) * plain + cached * read + answered * out) // 1000)
    usage = {"input": given - cached, "cache_read": cached, "output": answered}
    return Record(
        f"{number:032x}", 0, at_us, scope, model, "maker", nanos, given, answered, cached, 0, usage,
        {"input": plain, "output": out, "cache_read": read}, None, nanos, nanos * 2, False, latency, None, "ok", None,
    )  # fmt: skip


def _azure(chance: random.Random, count: int) -> Iterator[tuple[float, int, int]]:
    rows = _rows("azure_llm_2023_conv.csv.gz")
    if rows is None:
        at = 0.0
        for _ in range(count):
            at += chance.expovariate(count / 3600)
            yield at, int(chance.lognormvariate(6.5, 1.1)) + 1, int(chance.lognormvariate(4.9, 0.8)) + 1
        return
    first: datetime | None = None
    for row in rows:
        moment = datetime.fromisoformat(row["TIMESTAMP"][:26])
        first = first or moment
        yield (moment - first).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"])


def _coding(chance: random.Random, count: int) -> Iterator[tuple[str, float, int, int, int, int]]:
    rows = _rows("agent_claude_code_cc_traces.csv.gz")
    if rows is None:
        for number in range(count // 25):
            at, given, known = chance.uniform(0, 86400), chance.randint(8_000, 30_000), 0
            for _ in range(25):
                gap = chance.expovariate(1 / 40) if chance.random() > 0.04 else chance.uniform(400, 2000)
                cached = min(known, given) if gap < 300 and chance.random() > 0.1 else 0
                at += gap
                yield f"session-{number}", at, given, chance.randint(50, 900), cached, chance.randint(1500, 20_000)
                known = given // 64 * 64
                given = given // 3 if chance.random() < 0.05 else given + chance.randint(20, 4000)
        return
    before: dict[str, tuple[float, int]] = {}
    for row in rows:
        session, at, given = row["session_id"], float(row["offset_s"]), int(row["input_tokens"])
        last, known = before.get(session, (at, 0))
        cached = min(known, given) if at - last < 300 else 0
        yield session, at, given, int(row["output_tokens"]), cached, int(1000 * float(row["api_time_s"] or 0))
        before[session] = at, 64 * int(row["prefix_blocks_64tok"] or 0)


def _rows(name: str) -> Iterator[dict[str, str]] | None:
    folder = os.environ.get("BUDGET_DATA")
    if folder is None:
        return None
    return csv.DictReader(gzip.open(Path(folder) / name, "rt", newline=""))
