"""Every recorded usage costs what genai-prices says it does, to the nano-dollar, or for a reason that is said here."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from budget import Budget
from budget.errors import ConfigError, UnknownModel
from budget.prices import PriceBook
from budget.prices.names import plain
from budget.prices.rates import Cost
from budget.usage import Usage

genai_prices = pytest.importorskip("genai_prices", reason="genai-prices is not installed: nothing to compare with")

BOOK = PriceBook.shipped()
DATA = Path(os.environ.get("BUDGET_DATA", Path(__file__).parents[2] / "shared" / "data"))
RECORDED = DATA / "recorded_usage.jsonl.gz"
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 10**6

THEIR_PROVIDER = {"xai": "x-ai", "aws-bedrock": "aws", "google-vertex": "google"}
FLAVOURS = ("default", "chat", "responses", "embeddings", "anthropic")
FLAVOURS_OF = {"responses": ("responses",), "responses.compact": ("responses",), "chat.completions": ("chat",)}


class Priced(NamedTuple):
    """A recording that both price."""

    row: dict[str, Any]
    usage: Usage
    ours: Cost
    theirs: int

    @property
    def names(self) -> set[str]:
        return {self.row["request_model"], self.row["model_in_response"]}

    @property
    def raw(self) -> dict[str, Any]:
        return self.row["usage"]


class Reason(NamedTuple):
    """Why some costs differ: a sentence, and which recordings it is about."""

    sentence: str
    holds: Callable[[Priced], bool]


def of(provider: str, *models: str) -> Callable[[Priced], bool]:
    return lambda priced: priced.row["provider"] == provider and not priced.names.isdisjoint(models)


REASONS = [
    Reason(
        "A compaction's tokens stand in `iterations` and nowhere else; genai-prices reads the top level only.",
        lambda priced: any(part.get("type") == "compaction" for part in priced.raw.get("iterations") or ()),
    ),
    Reason(
        "Google's OpenAI-compatible endpoint counts thoughts in total_tokens only; genai-prices does not look there.",
        lambda priced: priced.raw.get("total_tokens", 0)
        > priced.raw.get("prompt_tokens", 0) + priced.raw.get("completion_tokens", 0) > 0,
    ),
    Reason(
        "Mistral charges a tenth for cached tokens; genai-prices does not read num_cached_tokens, and lacks that price "
        "for some models.",
        lambda priced: priced.row["provider"] == "mistral" and priced.usage.cache_read > 0,
    ),
    Reason(
        "Audio tokens have a price of their own at OpenAI; genai-prices has only the text price for gpt-4o-audio.",
        lambda priced: priced.row["provider"] == "openai" and bool(priced.usage.parts),
    ),
    Reason(
        "Vertex says ON_DEMAND_FLEX in trafficType, and bills half; genai-prices does not read it.",
        lambda priced: str(priced.raw.get("trafficType")).startswith("ON_DEMAND_"),
    ),
    Reason(
        "Vertex sells Gemini 2.0 Flash dearer than the Gemini API does; genai-prices has one price for both.",
        of("google-vertex", "gemini-2.0-flash", "gemini-2.0-flash-001"),
    ),
    Reason(
        "DeepSeek has changed its prices since; genai-prices has the peak and off-peak prices of early 2025.",
        of("deepseek", "deepseek-chat", "deepseek-reasoner"),
    ),
    Reason(
        "The catalogues differ on magistral-medium-latest; genai-prices has 2 / 5, and the dearer one is taken here.",
        of("mistral", "magistral-medium-latest"),
    ),
]


def answer_of(row: dict[str, Any], model: str | None) -> dict[str, Any]:
    """A usage in an answer of its provider's shape."""
    usage, named = row["usage"], {"model": model} if model else {}
    if "promptTokenCount" in usage:
        return {"usageMetadata": usage, **({"modelVersion": model} if model else {})}
    if row["endpoint"] == "embed":
        return {"meta": usage, **named}
    tier = {"service_tier": row["service_tier"]} if row["service_tier"] else {}
    return {"usage": usage, **named, **tier}


def their_usage(row: dict[str, Any]) -> Any:
    for flavour in (*FLAVOURS_OF.get(row["endpoint"], ()), *FLAVOURS):
        try:
            provider = THEIR_PROVIDER.get(row["provider"], row["provider"])
            found = genai_prices.extract_usage(answer_of(row, None), provider_id=provider, api_flavor=flavour)
        except (LookupError, ValueError, AttributeError, TypeError):  # a flavour that this is not, or that fails on it
            continue
        if found.usage.output_tokens is not None or found.usage.input_tokens:
            return found.usage
    return None


def their_nanos(row: dict[str, Any], name: str, usage: Any) -> int | None:
    """What genai-prices says it costs in nano-dollars, rounded up; None if it cannot say."""
    provider = THEIR_PROVIDER.get(row["provider"], row["provider"])
    context = {"service_tier": row["service_tier"]} if row["service_tier"] else None
    try:
        found = genai_prices.calc_price(
            usage, plain(name, row["provider"]), provider_id=provider, genai_request_timestamp=NOON,
            price_context=context,
        )  # fmt: skip
    except (LookupError, ValueError):
        return None
    return int((found.total_price * 10**9).to_integral_value(ROUND_CEILING))


def recordings() -> Iterator[dict[str, Any]]:
    if not RECORDED.is_file():
        pytest.skip(f"{RECORDED} is absent; set BUDGET_DATA to run this")
    with gzip.open(RECORDED, "rt") as lines:
        yield from (row for row in map(json.loads, lines) if row["usage"])


def supported() -> Iterator[dict[str, Any]]:
    return (row for row in recordings() if row["provider"] in BOOK.providers)


@cache
def compared() -> tuple[list[Priced], list[str]]:
    """What both price, and what only genai-prices does."""
    both, only_theirs = [], []
    for row in supported():
        usage = their_usage(row)
        for name in dict.fromkeys((row["request_model"], row["model_in_response"])):
            if usage is None or not name or (theirs := their_nanos(row, name, usage)) is None:
                continue
            try:
                mine = Usage.of(answer_of(row, name), row["provider"])
                cost = BOOK.find(name, row["provider"]).rates(NOON_US).cost(mine)
            except (UnknownModel, ConfigError) as error:
                only_theirs.append(f"{row['provider']} {name}: {error}")
            else:
                both.append(Priced(row, mine, cost, theirs))
            break
    return both, only_theirs


def test_what_genai_prices_can_price_costs_the_same_here_or_differs_for_a_reason():
    both, _ = compared()
    unexplained = Counter(
        f"{priced.row['provider']} {priced.row['endpoint']} {priced.row['request_model']}: "
        f"{priced.ours.nanos} here, {priced.theirs} there, for {priced.usage}"
        for priced in both
        if priced.ours.nanos != priced.theirs and not any(reason.holds(priced) for reason in REASONS)
    )
    assert not unexplained
    assert len(both) > 1000


def test_what_genai_prices_can_price_has_a_price_here():
    _, only_theirs = compared()
    assert only_theirs == []


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: reason.sentence.split(";")[0])
def test_a_reason_still_explains_something(reason):
    """That is: costs which differ, and which no other reason explains."""
    both, _ = compared()
    others = [other for other in REASONS if other is not reason]
    assert any(
        priced.ours.nanos != priced.theirs and reason.holds(priced) and not any(other.holds(priced) for other in others)
        for priced in both
    )


def test_a_provider_that_is_not_in_the_book_is_refused_and_not_guessed():
    """genai-prices has more of them (Cerebras, for one)."""
    others = {row["provider"] for row in recordings()} - BOOK.providers
    assert others
    for provider in others:
        with Budget("memory://") as budget, pytest.raises(ConfigError, match=f"'{provider}' is not one of"):
            budget.cost(Usage(input=1), model="gpt-4o", provider=provider)


def test_every_recorded_usage_of_a_supported_provider_can_be_read():
    """All but the answers of endpoints that only count."""
    for row in supported():
        if row["endpoint"] in ("countTokens", "rerank"):
            continue
        usage = Usage.of(answer_of(row, None), row["provider"])
        assert usage.tokens or usage.tools or not any(row["usage"].values()), row["usage"]


CLAUDE = {
    "input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 100,
    "server_tool_use": {"web_search_requests": 1},
}  # fmt: skip
CHAT = {
    "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110, "prompt_tokens_details": {"cached_tokens": 60},
}  # fmt: skip
GEMINI = {
    "promptTokenCount": 100, "candidatesTokenCount": 10, "thoughtsTokenCount": 90, "totalTokenCount": 200,
    "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 40}, {"modality": "TEXT", "tokenCount": 60}],
}  # fmt: skip
RESEARCH = {
    "prompt_tokens": 33, "completion_tokens": 7163, "total_tokens": 7196, "citation_tokens": 20016,
    "num_search_queries": 18, "reasoning_tokens": 73997,
}  # fmt: skip
COHERE = {
    "billed_units": {"input_tokens": 100.0, "output_tokens": 10.0},
    "tokens": {"input_tokens": 300.0, "output_tokens": 10.0},
}
ANSWERS: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
    ("anthropic", "claude-sonnet-4-6", {"usage": CLAUDE},
     {"input": "0.00003", "cache_read": "0.00003", "output": "0.000075", "web_search": "0.01"}),
    ("openai", "gpt-4o-mini", {"usage": CHAT}, {"input": "0.000006", "cache_read": "0.0000045", "output": "0.000006"}),
    ("google", "gemini-2.5-flash", {"usageMetadata": GEMINI},
     {"input": "0.000018", "input_audio": "0.00004", "output": "0.00025"}),
    ("aws-bedrock", "us.amazon.nova-lite-v1:0", {"usage": {"inputTokens": 1000, "outputTokens": 100}},
     {"input": "0.00006", "output": "0.000024"}),
    ("groq", "llama-3.3-70b-versatile", {"x_groq": {"usage": {"prompt_tokens": 100, "completion_tokens": 10}}},
     {"input": "0.000059", "output": "0.0000079"}),
    ("perplexity", "sonar-deep-research", {"usage": RESEARCH},
     {"input": "0.000066", "output": "0.057304", "reasoning": "0.221991", "citation": "0.040032",
      "web_search": "0.09"}),
    ("cohere", "command-r-08-2024", {"usage": COHERE}, {"input": "0.000015", "output": "0.000006"}),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "model", "answer", "buckets"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_budget_cost_prices_an_answer_of_every_shape_by_bucket(provider, model, answer, buckets):
    with Budget("memory://") as budget:
        cost = budget.cost(answer, model=model, provider=provider)
    assert cost.by_bucket == {name: Decimal(usd) for name, usd in buckets.items()}
    assert cost.unpriced == ()


def test_budget_cost_refuses_a_provider_that_nobody_knows():
    with Budget("memory://") as budget, pytest.raises(ConfigError, match="provider: 'antropic' is not one of"):
        budget.cost(Usage(input=1), model="claude-sonnet-4-6", provider="antropic")
