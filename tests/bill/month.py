"""A month of calls, made from a seed: what the ledger has of them, and what the providers bill."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from bill.vendors import Call
from budget.bill import Comparison
from budget.records import Record

Check = Callable[..., Comparison]
DAY_US = 86_400_000_000
FIRST = date(2026, 10, 1)
DAYS = 31
DAY_0 = (FIRST - date(1970, 1, 1)).days

# USD per million tokens are pico-dollars per token times 10^6: what the models cost in the shipped book.
PRICES = {
    "claude-sonnet-4-6": {"input": 3, "cache_read": 0.3, "cache_write_5m": 3.75, "cache_write_1h": 6, "output": 15},
    "claude-haiku-4-5-20251001": {"input": 1, "cache_read": 0.1, "cache_write_5m": 1.25, "output": 5},
    "gpt-4o-2024-08-06": {"input": 2.5, "cache_read": 1.25, "output": 10},
    "gpt-5-mini-2025-08-07": {"input": 0.25, "cache_read": 0.025, "output": 2},
    "gpt-5.6-luna": {"input": 0.2, "cache_read": 0.02, "cache_write_30m": 0.25, "output": 1.2},
    "text-embedding-3-small": {"input": 0.02},
}
BOOK_NAMES = {
    "claude-haiku-4-5-20251001": "claude-haiku-4-5", "gpt-4o-2024-08-06": "gpt-4o",
    "gpt-5-mini-2025-08-07": "gpt-5-mini",
}  # fmt: skip
SEARCH = 10_000_000_000  # pico-dollars


@dataclass
class Both:
    """One call: as the ledger has it, and as the provider has it; None where one of them does not."""

    ours: Record | None
    theirs: Call | None


def picos(model: str, factor: float = 1) -> dict[str, int]:
    return {kind: round(usd * factor * 10**6) for kind, usd in PRICES[model].items()}


def make_month(seed: int, per_day: int = 6, models: Iterable[str] = tuple(PRICES)) -> list[Both]:
    """Calls of every model on every day, some at midnight, with one key per provider and half of the models."""
    chance, calls = random.Random(seed), []
    for day in range(DAYS):
        for number, model in enumerate(models):
            for _ in range(chance.randint(2, per_day)):
                began = (DAY_0 + day) * DAY_US + chance.randrange(DAY_US)
                if chance.random() < 0.05:
                    began = (DAY_0 + day + 1) * DAY_US - chance.randrange(1, 20_000_000)
                calls.append(make_call(chance, model, began, key=f"key_{number % 2 + 1}"))
    return [call for call in calls if call.theirs and call.theirs.ended < (DAY_0 + DAYS) * DAY_US]


def make_call(chance: random.Random, model: str, began: int, key: str) -> Both:
    prices = picos(model)
    tokens = dict.fromkeys(prices, 0) | {"input": chance.randint(50, 20_000)}
    if "output" in prices:
        tokens["output"] = chance.randint(1, 3000)
    for kind in prices:
        if kind.startswith("cache") and chance.random() < 0.5:
            tokens[kind] = chance.randint(1024, 30_000)
    provider = "anthropic" if model.startswith("claude") else "openai"
    report = "messages" if provider == "anthropic" else "embeddings" if "embedding" in model else "completions"
    tier = "batch" if provider == "anthropic" and chance.random() < 0.1 else None
    if tier:
        prices = picos(model, 0.5)
    searches = chance.randint(1, 3) if model == "claude-sonnet-4-6" and chance.random() < 0.1 else 0
    latency = chance.randint(200, 30_000)
    theirs = Call(
        provider, model, began, began + latency * 1000, tokens, prices, key, tier=tier, report=report, searches=searches
    )
    return Both(record_of(theirs, chance, latency), theirs)


def record_of(call: Call, chance: random.Random, latency: int | None) -> Record:
    tokens = call.tokens
    writes = {kind.removeprefix("cache_write_"): n for kind, n in tokens.items() if kind.startswith("cache_write")}
    exact = sum(call.picos(kind) for kind in tokens) + call.searches * SEARCH
    written = sum(writes.values())
    usage: dict[str, Any] = {"input": tokens["input"], "cache_read": tokens.get("cache_read", 0), "cache_write": writes}
    return Record(
        f"{chance.getrandbits(128):032x}", 0, call.ended, {"key": call.key, "user": "u1"}, call.model, call.provider,
        -(-exact // 1000), tokens["input"] + tokens.get("cache_read", 0) + written, tokens.get("output", 0),
        tokens.get("cache_read", 0), written, usage, None, None, None, None, False, latency, None, "ok", None,
    )  # fmt: skip


def plain(model: str) -> str:
    return BOOK_NAMES.get(model, model)


def without_key(record: Record) -> Record:
    return replace(record, scope={"user": "u1"})
