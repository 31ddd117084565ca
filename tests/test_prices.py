"""The run time of the price book: names, dates, exact costs, and bounds that hold."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError, Unbounded, UnknownModel
from budget.prices import Model, PriceBook, Rates
from budget.prices.overlay import TOKENIZERS
from budget.prices.rates import Card, Mode
from budget.usage import PARTS, Usage

BOOK = PriceBook.shipped()
DATA = Path(os.environ.get("BUDGET_DATA", Path(__file__).parents[2] / "shared" / "data"))
MILLION = 1_000_000


def at(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * MILLION


NOW = at("2026-11-20")


def card(model: str, traits: dict[str, str] | None = None, size: int = MILLION) -> dict[str, object]:
    """USD for a million tokens of each kind, through the public cost; size is the request's real input."""
    rates = BOOK.find(model).rates(NOW)
    usages = {
        "input": Usage(input=size, traits=traits or {}),
        "output": Usage(input=size, output=MILLION, traits=traits or {}),
        "cache_read": Usage(cache_read=size, traits=traits or {}),
        "5m": Usage(cache_write={"5m": size}, traits=traits or {}),
        "1h": Usage(cache_write={"1h": size}, traits=traits or {}),
    }
    costs = {name: rates.cost(usage).by_bucket for name, usage in usages.items()}
    scale = Decimal(MILLION) / size
    return {
        "input": costs["input"]["input"] * scale,
        "output": costs["output"]["output"],
        "cache_read": costs["cache_read"]["cache_read"] * scale,
        "5m": costs["5m"]["cache_write_5m"] * scale,
        "1h": costs["1h"]["cache_write_1h"] * scale,
    }


# USD per million tokens as printed by the vendors: platform.claude.com/docs/en/about-claude/pricing (copy of
# 2026-09-26) and developers.openai.com/api/docs/pricing (as quoted on 2026-11-06).
CLAUDE = [
    ("claude-opus-5-5", "4", "20", "0.20", "5", "8"),
    ("claude-opus-5", "5", "25", "0.50", "6.25", "10"),
    ("claude-opus-4-8", "5", "25", "0.50", "6.25", "10"),
    ("claude-opus-4-7", "5", "25", "0.50", "6.25", "10"),
    ("claude-opus-4-6", "5", "25", "0.50", "6.25", "10"),
    ("claude-opus-4-5", "5", "25", "0.50", "6.25", "10"),
    ("claude-fable-5-1", "10", "50", "0.25", "12.50", "20"),
    ("claude-fable-5", "10", "50", "1.00", "12.50", "20"),
    ("claude-sonnet-5-5", "2", "10", "0.10", "2.50", "4"),
    ("claude-sonnet-5", "2", "10", "0.20", "2.50", "4"),
    ("claude-sonnet-4-6", "3", "15", "0.30", "3.75", "6"),
    ("claude-sonnet-4-5", "3", "15", "0.30", "3.75", "6"),
    ("claude-haiku-5-5", "0.10", "0.50", "0.01", "0.125", "0.20"),
    ("claude-haiku-4-5", "1", "5", "0.10", "1.25", "2"),
]
GPT = [
    ("gpt-5.5", "5", "30", "0.50"),
    ("gpt-5.6-sol", "4", "20", "0.40"),
    ("gpt-5.6-terra", "2", "12", "0.20"),
    ("gpt-5.6-luna", "0.20", "1.20", "0.02"),
    ("gpt-6-astra", "10", "50", "1"),
    ("gpt-6-sol", "2", "10", "0.20"),
    ("gpt-6-luna", "0.10", "0.50", "0.01"),
    ("gpt-6.1-terra", "1", "5", "0.05"),
    ("gpt-4o", "2.50", "10", "1.25"),
    ("gpt-4o-mini", "0.15", "0.60", "0.075"),
]


@pytest.mark.parametrize("row", CLAUDE, ids=lambda row: row[0])
def test_claude_prices_are_those_of_the_vendors_table(row):
    model, *amounts = row
    table = dict(zip(("input", "output", "cache_read", "5m", "1h"), map(Decimal, amounts), strict=True))
    assert card(model, size=50_000) == table


@pytest.mark.parametrize(("model", "inp", "out", "read"), GPT)
def test_gpt_prices_are_those_of_the_vendors_table(model, inp, out, read):
    amounts = card(model, size=200_000)
    assert (amounts["input"], amounts["output"], amounts["cache_read"]) == (Decimal(inp), Decimal(out), Decimal(read))


@pytest.mark.parametrize(
    ("model", "traits", "size", "inp", "out"),
    [
        ("claude-opus-5-5", {"speed": "fast"}, 1000, "8", "40"),
        ("claude-opus-5", {"speed": "fast"}, 1000, "10", "50"),
        ("claude-opus-4-8", {"speed": "fast"}, 1000, "10", "50"),
        ("claude-sonnet-4-6", {"service_tier": "batch"}, 1000, "1.5", "7.5"),
        ("claude-sonnet-4-6", {"inference_geo": "us"}, 1000, "3.3", "16.5"),
        ("claude-opus-5-5", {"speed": "fast", "inference_geo": "us"}, 1000, "8.8", "44"),
        ("gpt-5.5", {"service_tier": "priority"}, 1000, "12.5", "75"),
        ("gpt-5.5", {}, 272_001, "10", "45"),
        ("gpt-5.5", {}, 272_000, "5", "30"),
        ("gpt-5.5", {"service_tier": "flex"}, 272_001, "5", "22.5"),
        ("gpt-6-astra", {"service_tier": "fast"}, 300_000, "40", "150"),
        ("gpt-6-astra", {"service_tier": "ultrafast"}, 1000, "60", "300"),
        ("gpt-5-mini", {"service_tier": "priority"}, 1000, "0.45", "3.6"),
        ("gpt-6-luna", {"service_tier": "flex"}, 1000, "0.05", "0.25"),
        ("claude-haiku-5-5", {}, 100_001, "0.5", "2.5"),
        ("claude-haiku-5-5", {"service_tier": "batch"}, 100_001, "0.25", "1.25"),
    ],
)
def test_tier_mode_and_factor_choose_the_rate(model, traits, size, inp, out):
    cost = BOOK.find(model).rates(NOW).cost(Usage(input=size, output=size, traits=traits))
    million = Decimal(MILLION)
    assert cost.by_bucket == {"input": Decimal(inp) * size / million, "output": Decimal(out) * size / million}
    assert cost.unpriced == ()


def test_cached_tokens_count_towards_the_tier():
    rates = BOOK.find("gpt-5.5").rates(NOW)
    usage = Usage(input=1000, cache_read=272_000, output=10)
    assert rates.cost(usage).by_bucket["input"] == Decimal("0.01")


def test_openai_cache_writes_by_lifetime():
    rates = BOOK.find("gpt-6.1-terra").rates(NOW)
    usage = Usage(cache_write={"default": 1000, "30m": 1000, "12h": 1000})
    usd = rates.cost(usage).by_bucket
    assert usd == {
        "cache_write_default": Decimal("0.00125"),
        "cache_write_30m": Decimal("0.00125"),
        "cache_write_12h": Decimal("0.0025"),
    }


def test_a_row_holds_from_midnight_utc_and_the_first_one_for_all_time_before():
    model = BOOK.find("claude-sonnet-5-5")
    moments = ("1970-01-01", "2026-10-06T23:59:59", "2026-10-07")
    read = {moment: model.rates(at(moment)).cache_read for moment in moments}
    assert read == {"1970-01-01": 200_000, "2026-10-06T23:59:59": 200_000, "2026-10-07": 100_000}
    assert model.rates(at("2026-10-07") - 1).cache_read == 200_000
    # the same instant, said in another zone
    assert model.rates(at("2026-10-07T01:00:00+02:00")).cache_read == 200_000
    assert BOOK.find("gpt-5.6-sol").rates(at("2026-08-20")).output == 30 * MILLION
    assert BOOK.find("gpt-5.6-sol").rates(at("2026-08-21")).output == 20 * MILLION


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-opus-4-7-20260416", "claude-opus-4-7"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-0"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet-latest"),
        ("gpt-5.5-2026-04-23", "gpt-5.5"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc123", "ft:gpt-4o-mini-2024-07-18"),
    ],
)
def test_exact_names_aliases_and_dated_snapshots_resolve(name, model):
    assert BOOK.find(name).id == model


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5-typo9",
        "claude-sonnet-4-5-20251399",
        "claude-sonnet-4-5-20250230",
        "claude-sonnet-4-5-2025-09-29",  # the other provider's way of writing it
        "gpt-5.5-20260423",
        "gpt-5.5-2026-04-23-preview",
        "claude-sonnet",
        "Claude-Sonnet-4-5",
        "gpt-6.2-astra-mini",
        "ft:gpt-6-astra:acme::abc123",
        "",
        "x" * 10_000,
    ],
)
def test_anything_else_is_unknown_and_three_names_are_offered(name):
    with pytest.raises(UnknownModel) as caught:
        BOOK.find(name)
    assert len(caught.value.nearest) == 3
    assert caught.value.model == name
    with pytest.raises(UnknownModel):  # and again, from the cache
        BOOK.find(name)


def test_an_unknown_name_is_offered_its_likeness():
    with pytest.raises(UnknownModel) as caught:
        BOOK.find("claude-sonnet-4-5-typo9")
    assert "claude-sonnet-4-5" in caught.value.nearest


def test_a_provider_narrows_the_search():
    assert BOOK.find("gpt-4o", "openai").provider == "openai"
    with pytest.raises(UnknownModel, match="at anthropic"):
        BOOK.find("gpt-4o", "anthropic")
    with pytest.raises(ArgumentTypeError, match="model: must be a string"):
        BOOK.find(None)  # type: ignore[arg-type]


def test_lookups_stay_right_when_the_cache_overflows(monkeypatch):
    monkeypatch.setattr("budget.prices.book._CACHED_NAMES", 4)
    book = BOOK.overlay({"free": {"input": "0", "output": "0"}})
    for number in range(10):
        with pytest.raises(UnknownModel):
            book.find(f"free-{number}")
        assert book.find("free").rates(NOW).input == 0
        assert len(book._found) <= 4


def test_models_iterates_each_once_and_finds_itself():
    ids = [(model.provider, model.id) for model in BOOK.models()]
    assert len(ids) == len(set(ids)) > 100
    assert {"anthropic", "openai"} <= {provider for provider, _ in ids} <= BOOK.providers


def test_every_model_has_the_facts_that_an_estimate_needs():
    for model in BOOK.models():
        assert model.tokenizer in TOKENIZERS
        if model.provider == "anthropic":
            assert model.context
            assert model.max_output
    new = {model.id for model in BOOK.models() if (model.provider, model.tokenizer) == ("anthropic", "claude-2")}
    assert {"claude-opus-4-7", "claude-sonnet-5", "claude-haiku-5-5", "claude-fable-5-2"} <= new
    assert not {"claude-sonnet-4-6", "claude-haiku-4-5", "claude-opus-4-6"} & new


# ---- names


def listing(provider: str, id: str, price: str = "1", **facts: object) -> dict[str, object]:
    rate = int(Decimal(price) * MILLION)
    rows = [{"from": 0, "cards": [{"over": 0, "input": rate, "output": rate}]}]
    return {"provider": provider, "id": id, "rows": rows, **facts}


def book_of(*listings: dict[str, object]) -> PriceBook:
    providers: dict[str, list[dict[str, object]]] = {}
    for one in listings:
        raw = dict(one)
        providers.setdefault(str(raw.pop("provider")), []).append(raw)
    return PriceBook.from_dict({"providers": providers, "hash": "0" * 64})


CLAUDE_ON_BEDROCK = "anthropic.claude-opus-9"
NAMED = book_of(
    listing("google", "gemini-9", snapshots=["at8"]),
    listing("google-vertex", "gemini-9", "2"),
    listing("google-vertex", "claude-opus-9", "2", snapshots=["at8"]),
    listing("aws-bedrock", CLAUDE_ON_BEDROCK, snapshots=["date8", "version", "region"]),
    listing("aws-bedrock", f"eu.{CLAUDE_ON_BEDROCK}", "3", snapshots=["version"]),
    listing("aws-bedrock", f"global.{CLAUDE_ON_BEDROCK}", "4", snapshots=["version"]),
    listing("aws-bedrock", "amazon.nova-9-v1:0", aliases=["amazon.nova-9-latest"], snapshots=["region"]),
    listing("groq", "llama-9"), listing("together", "llama-9"),
    listing("groq", "oss-9"), listing("fireworks", "oss-9", "2"),
    listing("openrouter", "maker/one-9"), listing("openrouter", "llama-9", "9"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "provider", "id"),
    [
        ("models/gemini-9", "google", "gemini-9"),
        ("models/gemini-9", None, "gemini-9"),
        ("gemini-9@20260131", None, "gemini-9"),
        ("publishers/google/models/gemini-9", "google-vertex", "gemini-9"),
        ("projects/p-1/locations/eu/publishers/anthropic/models/claude-opus-9@20260131", None, "claude-opus-9"),
        (CLAUDE_ON_BEDROCK, None, CLAUDE_ON_BEDROCK),
        (f"{CLAUDE_ON_BEDROCK}-20260131-v1:0", None, CLAUDE_ON_BEDROCK),
        (f"us.{CLAUDE_ON_BEDROCK}-20260131-v1:0", "aws-bedrock", CLAUDE_ON_BEDROCK),
        (f"apac.{CLAUDE_ON_BEDROCK}-v2", None, CLAUDE_ON_BEDROCK),
        (f"eu.{CLAUDE_ON_BEDROCK}-v2", None, f"eu.{CLAUDE_ON_BEDROCK}"),
        (f"global.{CLAUDE_ON_BEDROCK}-v1:0", None, f"global.{CLAUDE_ON_BEDROCK}"),
        ("us.amazon.nova-9-latest", None, "amazon.nova-9-v1:0"),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{CLAUDE_ON_BEDROCK}-v1:0", None, CLAUDE_ON_BEDROCK),
        (f"arn:aws-us-gov:bedrock:us-gov-west-1:123456789012:inference-profile/us.{CLAUDE_ON_BEDROCK}",
         "aws-bedrock", CLAUDE_ON_BEDROCK),
        ("maker/one-9", "openrouter", "maker/one-9"),
    ],
)  # fmt: skip
def test_a_name_resolves_by_the_rules_of_its_provider(name, provider, id):
    assert NAMED.find(name, provider).id == id


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("models/gemini-9", "google-vertex-2"),
        ("publishers/google/models/gemini-9", "google"),
        ("models/models/gemini-9", "google"),
        ("gemini-9@20261301", None),
        ("gemini-9-20260131", None),
        (f"{CLAUDE_ON_BEDROCK}-20261301-v1:0", None),
        (f"{CLAUDE_ON_BEDROCK}-v1:0-20260131", None),
        (f"xx.{CLAUDE_ON_BEDROCK}", None),
        (f"us.eu.{CLAUDE_ON_BEDROCK}", None),
        (f"us-gov.{CLAUDE_ON_BEDROCK}", None),
        (f"global.{CLAUDE_ON_BEDROCK}-20260131", None),
        ("amazon.nova-9-v2:0", None),
        ("us.gemini-9", None),
        ("arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123", "aws-bedrock"),
        (f"arn:aws:sagemaker:us-east-1:123456789012:inference-profile/{CLAUDE_ON_BEDROCK}", "aws-bedrock"),
        ("maker/one-9", None),
    ],
)
def test_no_rule_no_price(name, provider):
    with pytest.raises(UnknownModel):
        NAMED.find(name, provider)


def test_without_a_provider_own_rows_come_first_then_makers_then_hosts_that_agree():
    assert NAMED.find("gemini-9").provider == "google"
    assert NAMED.find("llama-9").rates(NOW).input == MILLION  # two hosts at one price; the market's is another
    assert NAMED.find("llama-9", "openrouter").rates(NOW).input == 9 * MILLION
    with pytest.raises(ConfigError, match="fireworks, groq; pass provider="):
        NAMED.find("oss-9")
    assert NAMED.find("oss-9", "fireworks").rates(NOW).input == 2 * MILLION
    own = NAMED.overlay({"oss-9": {"input": "5", "output": "5"}})
    assert {own.find("oss-9", provider).rates(NOW).input for provider in (None, "groq", "fireworks")} == {5 * MILLION}
    hosted = NAMED.overlay({"gemini-9": {"input": "7", "output": "7", "provider": "google-vertex"}})
    assert hosted.find("gemini-9").provider == "google-vertex"
    assert hosted.find("gemini-9", "google").rates(NOW).input == MILLION


def test_the_names_offered_are_those_of_the_provider_that_was_asked():
    for provider, names in (("anthropic", "claude"), ("openai", "gpt")):
        with pytest.raises(UnknownModel) as caught:
            BOOK.find(f"{names}-opus-nine", provider)
        assert all(BOOK.find(name, provider) for name in caught.value.nearest)
    with pytest.raises(UnknownModel) as caught:
        NAMED.find("maker/one")
    assert "maker/one-9" not in caught.value.nearest  # it would not be found either


def test_a_provider_is_one_of_those_known_or_of_an_own_row():
    book = BOOK.overlay({"m": {"input": "1", "output": "1", "provider": "acme"}})
    assert [book.check_provider(name) for name in ("acme", "azure", None)] == ["acme", "azure", None]
    for wrong, error in (("acme", ConfigError), ("Anthropic", ConfigError), (5, ArgumentTypeError)):
        with pytest.raises(error, match="provider: "):
            BOOK.check_provider(wrong)


def test_a_model_is_made_when_it_is_found(monkeypatch):
    made = []
    monkeypatch.setattr("budget.prices.book.read_model", lambda raw, *_: made.append(raw["id"]))
    book = book_of(listing("openai", "one"), listing("openai", "two"))
    assert made == []
    with pytest.raises(UnknownModel):
        book.find("two")  # the stand-in makes nothing
    assert made == ["two"]


# ---- hours


def hourly() -> PriceBook:
    """Dear by day, cheap at night (16:30 to 00:30 UTC), at half a price in batches."""
    cards = {name: [{"over": 0, "input": rate, "output": rate}] for name, rate in (("day", 8), ("night", 2))}
    halves = {name: [{"over": 0, "input": card[0]["input"] // 2, "output": 4}] for name, card in cards.items()}
    batch = {"service_tier": ["batch"]}
    night = {"from": 990, "until": 30, "cards": cards["night"], "modes": [{"when": batch, "cards": halves["night"]}]}
    row = {"from": 0, "cards": cards["day"], "modes": [{"when": batch, "cards": halves["day"]}], "hours": [night],
           "per_request": 77}  # fmt: skip
    return PriceBook.from_dict({"providers": {"acme": [{"id": "m", "rows": [row]}]}, "hash": ""})


@pytest.mark.parametrize(
    ("time", "rate"),
    [("16:29:59.999999", 8), ("16:30", 2), ("23:59:59", 2), ("00:00", 2), ("00:29:59", 2), ("00:30", 8)],
)
def test_hours_are_of_the_day_in_utc(time, rate):
    assert hourly().find("m").rates(at(f"2026-11-20T{time}")).input == rate


def test_hours_have_the_modes_and_the_other_prices_of_their_row_and_a_bound_covers_all_of_them():
    model = hourly().find("m")
    night = model.rates(at("2026-11-20T20:00"))
    assert night.cost(Usage(input=1000, traits={"service_tier": "batch"})).rates["input"] == 1
    assert night.per_request == 77
    assert {rates.input for rates in model.bound_rates(at("2026-11-20T20:00"))} == {8, 2}


# ---- costs


def test_a_cost_is_rounded_up_once_not_per_bucket():
    rates = Rates((Card(0, input=1, output=1, cache_read=1, cache_write={"5m": 1}),))
    cost = rates.cost(Usage(input=1, output=1, cache_read=1, cache_write={"5m": 1}))
    assert cost.nanos == 1  # four times a thousandth of a nano-dollar, each of which would round up to one
    assert cost.usd == Decimal("0.000000001")
    assert sum(cost.by_bucket.values()) == Decimal("0.000000000004")


def test_one_token_of_the_cheapest_model_is_not_free():
    rates = BOOK.find("gpt-6-luna").rates(NOW)
    assert rates.cost(Usage(cache_read=1, traits={"service_tier": "flex"})).nanos == 5
    assert BOOK.find("text-embedding-3-small").rates(NOW).cost(Usage(input=1)).nanos == 20
    tiny = BOOK.overlay({"tiny": {"input": "0.000001", "output": "0"}}).find("tiny").rates(NOW)
    assert tiny.cost(Usage(input=1)).nanos == 1


def test_by_bucket_is_exact_in_a_coarse_decimal_context():
    with localcontext() as context:
        context.prec = 2
        cost = BOOK.find("claude-sonnet-4-6").rates(NOW).cost(Usage(input=123_457, traits={"inference_geo": "us"}))
        assert str(cost.by_bucket["input"]) == "0.4074081"
        assert str(cost.usd) == "0.4074081"


def test_what_has_no_price_of_its_own_never_costs_nothing():
    bare = Rates((Card(0, input=10, output=40),)).cost(Usage(cache_read=100, cache_write={"5m": 100}))
    assert bare.by_bucket == {"cache_read": Decimal("0.000000001"), "cache_write_5m": Decimal("0.000000001")}
    known = Rates((Card(0, input=10, output=40, cache_write={"5m": 12, "1h": 20}),))
    assert known.cost(Usage(cache_write={"7d": 100})).by_bucket == {"cache_write_7d": Decimal("0.000000002")}


def test_reasoning_is_part_of_output_and_not_charged_again():
    rates = BOOK.find("o3").rates(NOW)
    assert rates.cost(Usage(output=1000, reasoning=900)).nanos == rates.cost(Usage(output=1000)).nanos


def test_a_part_with_a_price_of_its_own_leaves_its_bucket():
    card = Card(0, 10, 40, cache_read=1, parts={"input_audio": 70, "reasoning": 30, "output_image": 300})
    usage = Usage(
        input=100, cache_read=50, output=100, reasoning=60,
        parts={"input_audio": 30, "input_image": 20, "cache_read_audio": 10, "output_image": 5},
    )  # fmt: skip
    cost = Rates((card,)).cost(usage)
    assert cost.exact == {
        "input": 70 * 10, "input_audio": 30 * 70, "cache_read": 50, "output": 35 * 40, "reasoning": 60 * 30,
        "output_image": 5 * 300,
    }  # fmt: skip
    assert cost.rates["parts"] == {"input_audio": 70, "reasoning": 30, "output_image": 300}


def test_cached_audio_costs_as_audio_where_reads_have_no_price():
    audio = Usage(cache_read=100, parts={"cache_read_audio": 100})
    assert Rates((Card(0, 10, 40, parts={"input_audio": 70}),)).cost(audio).exact["cache_read_audio"] == 7000
    assert Rates((Card(0, 10, 40, 1, parts={"input_audio": 70}),)).cost(audio).exact == {
        "input": 0, "output": 0, "cache_read": 100,
    }  # fmt: skip


def test_a_request_and_a_search_have_a_price_by_the_depth_of_the_search():
    deep = Mode({"search_context": ("high",)}, (Card(0, 10, 10),), {"web_search": 7}, 9000)
    rates = Rates((Card(0, 10, 10),), (deep,), per_unit={"web_search": 5}, per_request=5000)
    assert rates.cost(Usage(input=1, tools={"web_search": 2})).exact == {
        "input": 10, "output": 0, "request": 5000, "web_search": 10,
    }  # fmt: skip
    cost = rates.cost(Usage(input=1, tools={"web_search": 2}, traits={"search_context": "high"}))
    assert cost.exact == {"input": 10, "output": 0, "request": 9000, "web_search": 14}
    assert (cost.rates["per_request"], cost.rates["per_unit"]) == (9000, {"web_search": 7})
    assert rates.bound(1, 0) == rates.bound(1, 0, traits={"search_context": "high"}) == 10
    assert rates.bound(1, 0, traits={"search_context": "low"}) == 6


def test_server_tools_are_priced_per_call_and_the_unpriced_are_named():
    rates = BOOK.find("claude-sonnet-4-6").rates(NOW)
    tools = {"web_search": 3, "web_fetch": 2, "code_execution": 1}
    usage = Usage(input=1000, tools=tools, traits={"inference_geo": "us"})
    cost = rates.cost(usage)
    assert cost.by_bucket == {"input": Decimal("0.0033"), "web_search": Decimal("0.03")}  # no factor on calls
    assert cost.unpriced == ("code_execution",)


def test_a_tool_that_is_named_like_a_bucket_takes_nothing_from_it():
    prices = {"m": {"input": "1", "output": "2", "per_unit": {"input": "0.5"}}}
    cost = PriceBook.shipped().overlay(prices).find("m").rates(NOW).cost(Usage(input=MILLION, tools={"input": 1}))
    assert (cost.usd, cost.by_bucket) == (Decimal("1.5"), {"input": Decimal("1.5")})


def test_a_trait_without_a_price_is_named_and_priced_as_without_it():
    rates = BOOK.find("gpt-4o").rates(NOW)
    cost = rates.cost(Usage(input=MILLION, traits={"service_tier": "scale"}))
    assert (cost.usd, cost.unpriced) == (Decimal("2.5"), ("service_tier=scale",))


def test_the_applied_rates_are_enough_to_compute_the_cost_again():
    usage = Usage(
        input=7, cache_read=300_000, cache_write={"12h": 11}, output=13, tools={"web_search": 1},
        traits={"service_tier": "batch", "inference_geo": "eu"},
    )
    cost = BOOK.find("gpt-6-sol").rates(NOW).cost(usage)
    rates = json.loads(json.dumps(cost.rates))
    assert rates["over"] == 272_000
    picos = 7 * rates["input"] + 300_000 * rates["cache_read"] + 11 * rates["cache_write"]["12h"] + 13 * rates["output"]
    exact = Fraction(picos * rates["factors"][0], MILLION) + rates["per_unit"]["web_search"]
    assert cost.nanos == ceil(exact / 1000)


def test_a_whole_row_is_plain_json():
    rates = BOOK.find("gpt-5.5").rates(NOW)
    whole = json.loads(json.dumps(rates.to_dict()))
    assert [entry["over"] for entry in whole["cards"]] == [0, 272_000]
    assert {"when": {"inference_geo": ["us", "eu"]}, "ppm": 1_100_000} in whole["factors"]
    assert rates.tiers[0].input == 10 * MILLION


# ---- laws

counts = st.integers(min_value=0, max_value=2_000_000)
rate = st.integers(min_value=0, max_value=200_000_000)
ttl = st.sampled_from(["5m", "1h", "12h", "default"])


search = st.sampled_from(["low", "medium", "high"])


@st.composite
def any_card(draw: st.DrawFn, over: int = 0) -> Card:
    writes = draw(st.dictionaries(ttl, rate, max_size=3))
    parts = draw(st.dictionaries(st.sampled_from(sorted(PARTS)), rate, max_size=4))
    return Card(over, draw(rate), draw(rate), draw(st.none() | rate), writes, parts)


@st.composite
def any_rates(draw: st.DrawFn) -> Rates:
    """Also rates that no provider has: a tier below the base, a read dearer than plain input."""

    def cards() -> tuple[Card, ...]:
        overs = sorted(draw(st.sets(st.integers(1, 2_000_000), max_size=2)))
        return (draw(any_card()), *(draw(any_card(over)) for over in overs))

    def mode(when: dict[str, tuple[str, ...]]) -> Mode:
        return Mode(when, cards(), {"web_search": draw(rate)}, draw(rate))

    modes = [mode({"service_tier": ("batch", "flex")}), mode({"speed": ("fast",)}), mode({"search_context": ("high",)})]
    both = mode({"search_context": ("medium", "high"), "speed": ("fast",)})
    modes.insert(draw(st.integers(0, 3)), both)
    factors = (
        ({"inference_geo": ("us",)}, draw(st.integers(1, 3_000_000))),
        ({"search_context": ("low", "medium")}, draw(st.integers(1, 3_000_000))),
    )
    return Rates(cards(), tuple(modes), factors, {"web_search": draw(rate)}, draw(rate))


traits = st.fixed_dictionaries(
    {},
    optional={
        "service_tier": st.sampled_from(["batch", "flex", "priority"]),
        "speed": st.just("fast"),
        "inference_geo": st.sampled_from(["us", "eu"]),
        "search_context": search,
    },
)


@st.composite
def any_parts(draw: st.DrawFn, buckets: dict[str, int]) -> tuple[dict[str, int], int]:
    """Parts within their buckets, and reasoning."""
    parts = {}
    for part in draw(st.permutations(sorted(PARTS))):
        most = buckets[PARTS[part]]
        if tokens := draw(st.sampled_from([0, most]) | st.integers(0, most)):
            parts[part] = tokens
            buckets[PARTS[part]] -= tokens
    reasoning = parts.pop("reasoning", 0)
    return parts, reasoning


@st.composite
def any_usage(draw: st.DrawFn) -> Usage:
    buckets = {"input": draw(counts), "cache_read": draw(counts), "output": draw(counts)}
    parts, reasoning = draw(any_parts(dict(buckets)))
    return Usage(
        **buckets, cache_write=draw(st.dictionaries(ttl, counts, max_size=3)), parts=parts, reasoning=reasoning,
        tools=draw(st.dictionaries(st.just("web_search"), st.integers(0, 50))), traits=draw(traits),
    )


shipped = st.sampled_from([row.rates for model in BOOK.models() for row in model.rows])


def exactly(rates: Rates, usage: Usage) -> Fraction:
    """The cost in nano-dollars by the book's definition, written down a second time with fractions."""
    chosen = next((mode for mode in rates.modes if holds(mode.when, usage)), rates)
    card = [entry for entry in chosen.cards if entry.over == 0 or usage.input_tokens > entry.over][-1]
    read = card.input if card.cache_read is None else card.cache_read
    dearest = max(card.cache_write.values()) if card.cache_write else card.input
    of_bucket = {"input": card.input, "cache_read": read, "output": card.output}
    picos, rest = Fraction(0), {bucket: getattr(usage, bucket) for bucket in of_bucket}
    for part, count in {**usage.parts, "reasoning": usage.reasoning}.items():
        fresh = part.replace("cache_read", "input") if card.cache_read is None else part
        own = card.parts.get(part, card.parts.get(fresh, of_bucket[PARTS[part]]))
        picos += count * own
        rest[PARTS[part]] -= count
    picos += sum(rest[bucket] * of_bucket[bucket] for bucket in rest)
    picos += sum(count * card.cache_write.get(name, dearest) for name, count in usage.cache_write.items())
    for when, ppm in rates.factors:
        if holds(when, usage):
            picos *= Fraction(ppm, MILLION)
    calls = sum(count * chosen.per_unit.get(tool, 0) for tool, count in usage.tools.items())
    return (picos + calls + chosen.per_request) / 1000


def holds(when: dict[str, tuple[str, ...]], usage: Usage) -> bool:
    return all(usage.traits.get(name) in values for name, values in when.items())


@given(st.one_of(any_rates(), shipped), any_usage())
def test_plain_text_costs_what_its_usage_costs(rates: Rates, usage: Usage):
    plain = Usage(input=usage.input, output=usage.output, traits=usage.traits)
    assert rates.plain_cost(usage.input, usage.output, usage.traits) == rates.cost(plain).nanos


@given(st.one_of(any_rates(), shipped), any_usage(), st.none() | ttl)
def test_input_costs_what_its_usage_costs_and_a_million_output_tokens_what_theirs_do(
    rates: Rates, usage: Usage, to: str | None
):
    kept = Usage(0 if to else usage.input, usage.cache_read, {to: usage.input} if to else {}, traits=usage.traits)
    answer = replace(kept, output=MILLION)
    nanos, million = rates.input_cost(usage.input, usage.cache_read, to, usage.traits)
    assert nanos == rates.cost(kept).nanos
    assert 0 <= nanos + million - rates.cost(answer).nanos <= 1  # each is rounded up


@given(st.one_of(any_rates(), shipped), any_usage())
def test_a_cost_is_the_exact_sum_rounded_up_and_its_buckets_add_up_to_it(rates: Rates, usage: Usage):
    cost = rates.cost(usage)
    exact = exactly(rates, usage)
    assert cost.nanos == ceil(exact)
    assert sum(map(Fraction, cost.by_bucket.values()), Fraction()) * 10**9 == exact


KINDS = frozenset(part for part in PARTS if part != "reasoning" and not part.startswith("cache_read"))


slack = st.just(0) | counts


@given(st.one_of(any_rates(), shipped), any_usage(), slack, slack, st.booleans(), st.booleans())
def test_a_bound_is_at_least_the_cost_of_any_usage_within_it(
    rates: Rates, usage: Usage, more: int, longer: int, any_kind: bool, said: bool
):
    """Kinds of media may be named or not, and so may the depth of a search."""
    priced = set(rates.per_unit).intersection(*(mode.per_unit for mode in rates.modes))
    usage = replace(usage, tools={tool: calls for tool, calls in usage.tools.items() if tool in priced})
    kinds = {part.replace("cache_read", "input") for part in usage.parts}
    asked = {name: value for name, value in usage.traits.items() if said or name != "search_context"}
    bound = rates.bound(
        usage.input_tokens + more, usage.output + longer, cache_ttls=set(usage.cache_write), traits=asked,
        kinds=None if any_kind else kinds, tool_calls=usage.tools,
    )  # fmt: skip
    assert bound >= rates.cost(usage).nanos


@given(any_rates(), counts, counts, st.frozensets(st.sampled_from(sorted(KINDS))))
def test_a_bound_without_a_kind_is_no_more_than_with_it(rates: Rates, tokens: int, output: int, kinds: frozenset[str]):
    bounds = [rates.bound(tokens, output, kinds=some) for some in ((), kinds, KINDS, None)]
    assert bounds == sorted(bounds)
    assert bounds[2] == bounds[3]


@given(shipped, counts, counts)
def test_a_bound_without_asked_writes_still_holds_for_what_is_written_unasked(rates: Rates, tokens: int, output: int):
    if "default" in rates.cache_write:
        usage = Usage(cache_write={"default": tokens}, output=output)
        assert rates.bound(tokens, output) >= rates.cost(usage).nanos


def test_a_bound_is_no_larger_than_the_request_can_cost():
    rates = BOOK.find("claude-sonnet-4-6").rates(NOW)
    assert rates.bound(1000, 100) == rates.cost(Usage(input=1000, output=100)).nanos
    assert rates.bound(1000, 100, cache_ttls=["5m"]) == rates.cost(Usage(cache_write={"5m": 1000}, output=100)).nanos
    long = BOOK.find("gpt-5.5").rates(NOW)
    assert long.bound(272_000, 0) == long.cost(Usage(input=272_000)).nanos
    assert long.bound(272_001, 0) == long.cost(Usage(input=272_001)).nanos
    implicit = BOOK.find("gpt-5.6-luna").rates(NOW)
    assert implicit.bound(1000, 0) == implicit.cost(Usage(cache_write={"default": 1000})).nanos


def test_a_bound_takes_the_dearest_kind_that_the_request_can_touch():
    parts = {"input_audio": 70, "cache_read_image": 50, "output_image": 300, "output_audio": 200, "reasoning": 60}
    rates = Rates((Card(0, input=10, output=40, cache_read=1, parts=parts),))
    bounds = {
        kinds: rates.bound(1000, 1000, kinds=kinds)
        for kinds in [(), ("input_audio",), ("input_image",), ("output_audio",), ("input_audio", "output_image"), None]
    }
    assert list(bounds.values()) == [10 + 60, 70 + 60, 50 + 60, 10 + 200, 70 + 300, 70 + 300]


def test_a_bound_that_reaches_a_cheaper_tier_covers_the_dearer_base():
    rates = Rates((Card(0, input=100, output=100), Card(1000, input=1, output=1)))
    assert rates.bound(2000, 500) >= rates.cost(Usage(input=1000, output=500)).nanos


def test_a_bound_refuses_what_it_cannot_bound():
    rates = BOOK.find("claude-sonnet-4-6").rates(NOW)
    assert rates.bound(0, 0, tool_calls={"web_search": 2}) == 20_000_000
    with pytest.raises(Unbounded, match="code_execution"):
        rates.bound(10, 10, tool_calls={"code_execution": 1})
    with pytest.raises(ConfigError, match="negative"):
        rates.bound(10, -1)


# ---- the user's own prices


def test_own_prices_lie_on_top_and_change_the_hash():
    book = BOOK.overlay({"my-model": {"input": "0.10", "output": Decimal("0.40"), "context": 8192, "max_output": 512}})
    model = book.find("my-model")
    assert (model.provider, model.context, model.max_output) == ("", 8192, 512)
    assert model.rates(0).cost(Usage(input=MILLION, output=MILLION)).usd == Decimal("0.5")
    assert next(book.models()) is model
    assert book.hash != BOOK.hash
    table = {"model": "my-model", "input": "0.10", "output": "0.4", "context": 8192, "max_output": 512}
    assert book.hash == BOOK.overlay([table]).hash
    assert BOOK.overlay({}) is BOOK
    with pytest.raises(UnknownModel):
        BOOK.find("my-model")


def test_own_prices_of_a_known_model_hold_under_all_its_names_and_keep_its_facts():
    book = BOOK.overlay({"claude-sonnet-4-5": {"input": "2", "output": "9", "cache_write": {"5m": "2.5"}}})
    for name in ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"):
        model = book.find(name, "anthropic")
        assert model.rates(NOW).input == 2 * MILLION
        assert (model.tokenizer, model.context, model.provider) == ("claude-1", 200_000, "anthropic")
    listed = [(model.provider, model.id) for model in book.models()]
    assert listed.count(("anthropic", "claude-sonnet-4-5")) == 1
    by_alias = BOOK.overlay({"claude-3-5-haiku-20241022": {"input": "1", "output": "5"}})
    assert by_alias.find("claude-3-5-haiku-latest").rates(NOW).input == MILLION


def test_own_prices_of_one_snapshot_hold_for_that_one():
    book = BOOK.overlay({"gpt-5.5-2026-04-23": {"input": "1", "output": "2"}})
    assert book.find("gpt-5.5-2026-04-23").rates(NOW).input == MILLION
    assert book.find("gpt-5.5-2026-04-23").tokenizer == "o200k"
    assert book.find("gpt-5.5").rates(NOW).input == 5 * MILLION


def test_own_prices_may_name_another_provider():
    book = BOOK.overlay({"gpt-4o": {"input": "9", "output": "9", "provider": "azure"}})
    assert book.find("gpt-4o").provider == "azure"
    assert book.find("gpt-4o", "openai").rates(NOW).input == 2_500_000
    twice = book.overlay({"gpt-4o": {"input": "1", "output": "1", "provider": "azure"}})
    assert twice.find("gpt-4o", "azure").rates(NOW).input == MILLION


def test_own_prices_have_all_the_words_of_a_card():
    own = {"input": "1", "output": "2", "reasoning": "3", "input_audio": "4", "per_request": "0.005",
           "tiers": [{"over_input_tokens": 100, "input": "10", "output": "20", "cache_write": "30"}]}  # fmt: skip
    rates = BOOK.overlay({"m": own}).find("m").rates(NOW)
    usage = Usage(input=10, output=10, reasoning=4, parts={"input_audio": 3})
    assert rates.cost(usage).exact == {
        "input": 7 * MILLION, "input_audio": 12 * MILLION, "output": 12 * MILLION, "reasoning": 12 * MILLION,
        "request": 5_000_000_000,
    }  # fmt: skip
    assert rates.cost(Usage(input=101)).rates["input"] == 10 * MILLION


def test_a_dated_own_row_leaves_what_was_before_it_and_all_names():
    cards = [{"over": 0, "input": 7, "output": 7}]
    own = {"provider": "anthropic", "id": "claude-sonnet-4-5", "aliases": ["mine"],
           "rows": [{"from": at("2027-01-01"), "cards": cards}]}  # fmt: skip
    book = BOOK.overlay_models([own], "contract.toml")
    for name in ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929", "mine"):
        model = book.find(name)
        assert (model.rates(NOW).input, model.rates(at("2027-01-01")).input) == (3 * MILLION, 7)
        assert [row.origin for row in model.rows[-2:]] == ["", "contract.toml"]
    assert book.retrieved == BOOK.retrieved
    assert book.hash != BOOK.hash == PriceBook.shipped().hash
    assert book.hash == BOOK.overlay_models([own], "elsewhere.toml").hash


def test_a_price_of_zero_is_a_price():
    rates = BOOK.overlay({"local": {"input": "0", "output": "0"}}).find("local").rates(NOW)
    usage = Usage(input=10**9, cache_read=10**9, cache_write={"5m": 5}, output=10**9)
    assert rates.cost(usage).nanos == 0
    assert rates.bound(10**9, 10**9, cache_ttls=["5m"]) == 0


def test_a_single_cache_write_price_holds_for_every_ttl_asked_for_or_not():
    rates = BOOK.overlay({"m": {"input": "1", "output": "1", "cache_write": "2"}}).find("m").rates(NOW)
    assert rates.cost(Usage(cache_write={"5m": MILLION})).usd == 2
    assert rates.bound(MILLION, 0) == 2 * 10**9


@pytest.mark.parametrize(
    ("prices", "error", "text"),
    [
        ({"my-model": {"input": 0.1, "output": "1"}}, ArgumentTypeError, "prices['my-model'].input: float"),
        ({"my-model": {"input": 1, "output": "1"}}, ArgumentTypeError, "prices['my-model'].input: int"),
        ({"my-model": {"input": "1", "output": True}}, ArgumentTypeError, "prices['my-model'].output: bool"),
        ({"m": {"input": "NaN", "output": "1"}}, ConfigError, "prices['m'].input"),
        ({"m": {"input": Decimal("NaN"), "output": "1"}}, ConfigError, "prices['m'].input"),
        ({"m": {"input": "-1", "output": "1"}}, ConfigError, "prices['m'].input"),
        ({"m": {"input": "1e3", "output": "1"}}, ConfigError, "prices['m'].input"),
        ({"m": {"input": Decimal("Infinity"), "output": "1"}}, ConfigError, "prices['m'].input"),
        ({"m": {"input": "0.0000001", "output": "1"}}, ConfigError, "prices['m'].input: 0.0000001 has more than 6"),
        ({"m": {"input": "1"}}, ConfigError, "prices['m'].output: is missing"),
        ({"m": {"input": "1", "output": "1", "cost": "2"}}, ConfigError, "prices['m'].cost: is not known"),
        ({"m": {"input": "1", "output": "1", "cache_write": {"5m": 2.0}}}, ArgumentTypeError, "cache_write.5m: float"),
        ({"m": {"input": "1", "output": "1", "per_unit": {"web_search": 1}}}, ArgumentTypeError, "per_unit.web_search"),
        ({"m": {"input": "1", "output": "1", "per_unit": "1"}}, ArgumentTypeError, "per_unit"),
        ({"m": {"input": "1", "output": "1", "context": "8k"}}, ArgumentTypeError, "context"),
        ({"m": {"input": "1", "output": "1", "max_output": 0}}, ConfigError, "max_output"),
        ({"m": {"input": "1", "output": "1", "tokenizer": "gpt2"}}, ConfigError, "tokenizer"),
        ({"m": {"input": "1", "output": "1", "provider": ""}}, ConfigError, "provider"),
        ({"m": {"input": "1", "output": "1", "input_audio": 3}}, ArgumentTypeError, "prices['m'].input_audio: int"),
        ({"m": {"input": "1", "output": "1", "per_request": "x"}}, ConfigError, "prices['m'].per_request"),
        ({"m": {"input": "1", "output": "1", "tiers": "x"}}, ArgumentTypeError, "prices['m'].tiers"),
        ({"m": {"input": "1", "output": "1", "tiers": ["x"]}}, ArgumentTypeError, "prices['m'].tiers[0]"),
        ({"m": {"input": "1", "output": "1", "tiers": [{"over_input_tokens": 5, "input": "1"}]}}, ConfigError,
         "prices['m'].tiers[0].output: is missing"),
        ({"m": {"input": "1", "output": "1", "tiers": [{"over_input_tokens": "5", "input": "1", "output": "1"}]}},
         ArgumentTypeError, "prices['m'].tiers[0].over_input_tokens"),
        ({"m": {"input": "1", "output": "1", "tiers": [{"over_input_tokens": 5, "input": "1", "output": "1"}] * 2}},
         ConfigError, "prices['m'].tiers: must stand in ascending order"),
        ({"m": "1"}, ArgumentTypeError, "prices['m']: must be a table"),
        ({"": {"input": "1", "output": "1"}}, ConfigError, "no name"),
        ({1: {"input": "1", "output": "1"}}, ArgumentTypeError, "must be a string"),
        ([{"input": "1", "output": "1"}], ConfigError, "prices[0].model: is missing"),
        ([{"model": "m", "input": "1", "output": "1"}] * 2, ConfigError, "stands twice"),
        ("m=1", ArgumentTypeError, "prices: must be like"),
        (7, ArgumentTypeError, "prices: must be like"),
    ],
)
def test_wrong_own_prices_name_the_place(prices, error, text):
    with pytest.raises(error) as caught:
        BOOK.overlay(prices)
    assert text in str(caught.value)


# ---- what it must not drag in, and the real data


def loaded(code: str, *names: str) -> list[str]:
    """Which of these modules a fresh interpreter has loaded after the code."""
    code = f"import sys; {code}; print([name for name in {names} if name in sys.modules])"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    return json.loads(done.stdout.replace("'", '"'))


def test_prices_need_no_pydantic():
    code = (
        "from budget.prices import PriceBook; from budget.usage import Usage;"
        "book = PriceBook.shipped().overlay({'m': {'input': '1', 'output': '1'}});"
        "book.find('gpt-4o').rates(0).cost(Usage(input=1)); book.find('m').rates(0).bound(1, 1)"
    )
    assert loaded(code, "pydantic", "asyncio", "tiktoken", "click", "json") == ["json"]


def test_the_import_reads_nothing():
    assert loaded("import budget.prices", "json", "importlib.resources", "difflib") == []


def rows(name: str) -> Path:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{path} is absent; set BUDGET_DATA to run this")
    return path


def test_every_recorded_model_of_both_providers_resolves_and_costs_something():
    asked: set[tuple[str, str]] = set()
    with gzip.open(rows("recorded_usage.jsonl.gz"), "rt") as lines:
        for row in map(json.loads, lines):
            if row["provider"] not in ("openai", "anthropic") or not row["usage"]:
                continue
            name = row["model_in_response"] or row["request_model"]
            asked.add((row["provider"], name))
            usage = Usage.of({"usage": row["usage"]})
            cost = BOOK.find(name, row["provider"]).rates(NOW).cost(usage)
            assert (cost.nanos > 0) == (usage.tokens > 0), name
    assert len(asked) > 40


def test_every_traced_model_resolves():
    with gzip.open(rows("traces/agent_claude_code_cc_traces.csv.gz"), "rt") as lines:
        names = {row["model"] for row in csv.DictReader(lines)}
    assert {type(BOOK.find(name)) for name in names} == {Model}
