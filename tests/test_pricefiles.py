"""The price sources: what is refused, what they compile to, and whether the shipped book is that."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from budget.errors import ConfigError, UnknownModel
from budget.estimate import makes_embeddings
from budget.prices import PriceBook
from budget.prices.files import compile_book, load_source, main
from budget.prices.rates import Card
from budget.usage import Usage

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "prices"
SHIPPED = ROOT / "budget" / "prices" / "prices.json"
FILES = sorted(SOURCES.glob("*.toml"))

GOOD = """
schema = 1
provider = "acme"
[source]
url = "https://example.org/prices"
retrieved = 2026-11-20
[[models]]
id = "one"
aliases = ["uno"]
snapshots = ["date8"]
context = 1000
tokenizer = "o200k"
[[models.prices]]
from = 2026-01-01
until = 2026-02-01
status = "confirmed"
input = "4"
output = "20"
[[models.prices]]
from = 2026-02-01
status = "confirmed"
input = "2"
output = "10.5"
cache_read = "0.2"
cache_write = {5m = "2.5", 1h = "4"}
tiers = [{over_input_tokens = 100, input = "4", output = "15", cache_read = "0.4", cache_write = {5m = "5", 1h = "8"}}]
modes = [
  {when = {service_tier = ["batch", "flex"]}, multiply = "0.5"},
  {when = {speed = "fast"}, input = "8", output = "40"},
]
factors = [{when = {inference_geo = "us"}, multiply = "1.1"}]
per_unit = {web_search = "0.01"}
review_by = 2026-12-01
"""


UNITS = 'per_unit = {web_search = "0.01"}\n'


def hours(*times: str) -> str:
    spans = zip(times[::2], times[1::2], strict=True)
    tables = [f'{{from = "{a}", until = "{b}", input = "1", output = "5"}}' for a, b in spans]
    return f"hours = [{', '.join(tables)}]\n"


def write(folder: Path, text: str, name: str = "acme.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def day(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**6


def test_the_shipped_book_is_what_the_sources_compile_to(tmp_path):
    assert main([str(SOURCES), str(SHIPPED), "--check"]) == 0
    again = tmp_path / "prices.json"
    assert main([str(SOURCES), str(again)]) == 0
    assert again.read_bytes() == SHIPPED.read_bytes()


def test_a_changed_book_is_noticed_and_left_alone(tmp_path, capsys):
    copy = tmp_path / "prices.json"
    assert main([str(SOURCES), str(copy), "--check"]) == 1
    assert not copy.exists()
    copy.write_text("{}")
    assert main([str(SOURCES), str(copy), "--check"]) == 1
    assert copy.read_text() == "{}"
    assert "run without --check" in capsys.readouterr().err


def test_a_faulty_source_or_call_is_said_and_writes_nothing(tmp_path, capsys):
    write(tmp_path, GOOD.replace('"10.5"', "10.5"))
    assert main([str(tmp_path), str(tmp_path / "out.json")]) == 1
    assert "output" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    assert main([str(tmp_path)]) == 2


def test_the_hash_is_that_of_the_canonical_content():
    book = json.loads(SHIPPED.read_bytes())
    content = {name: value for name, value in book.items() if name != "hash"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    assert book["hash"] == sha256(canonical).hexdigest() == PriceBook.shipped().hash


def test_a_source_compiles_to_integers(tmp_path):
    book = compile_book([write(tmp_path, GOOD)])
    (model,) = book["providers"]["acme"]
    old, new = model["rows"]
    assert (model["id"], model["aliases"], model["snapshots"], model["context"]) == ("one", ["uno"], ["date8"], 1000)
    assert (old["from"], new["from"]) == (day("2026-01-01"), day("2026-02-01"))
    assert old["cards"] == [{"over": 0, "input": 4_000_000, "output": 20_000_000}]
    base, tier = new["cards"]
    assert base == {
        "over": 0, "input": 2_000_000, "output": 10_500_000, "cache_read": 200_000,
        "cache_write": {"5m": 2_500_000, "1h": 4_000_000},
    }
    assert tier["over"] == 100
    half, fast = new["modes"]
    assert half["when"] == {"service_tier": ["batch", "flex"]}
    assert [card["output"] for card in half["cards"]] == [5_250_000, 7_500_000]
    assert half["cards"][1]["cache_write"] == {"5m": 2_500_000, "1h": 4_000_000}
    assert fast == {"when": {"speed": ["fast"]}, "cards": [{"over": 0, "input": 8_000_000, "output": 40_000_000}]}
    assert new["factors"] == [{"when": {"inference_geo": ["us"]}, "ppm": 1_100_000}]
    assert new["per_unit"] == {"web_search": 10_000_000_000}
    assert new.keys().isdisjoint(book["usual"]["acme"])
    assert book["usual"]["acme"] == {
        "status": "confirmed", "source": "https://example.org/prices", "retrieved": "2026-11-20",
    }  # fmt: skip
    assert book["retrieved"] == "2026-11-20"
    assert new["review_by"] == "2026-12-01"


def test_parts_hours_and_requests_have_prices(tmp_path):
    more = 'input_audio = "40"\nper_request = "0.005"\n' + hours("22:00", "06:30")
    text = GOOD.replace('output = "20"\n', 'output = "20"\n' + more)
    old = compile_book([write(tmp_path, text)])["providers"]["acme"][0]["rows"][0]
    assert old["cards"] == [{"over": 0, "input": 4_000_000, "output": 20_000_000, "parts": {"input_audio": 40_000_000}}]
    assert old["per_request"] == 5_000_000_000
    (night,) = old["hours"]
    assert (night["from"], night["until"]) == (22 * 60, 6 * 60 + 30)
    assert night["cards"] == [{"over": 0, "input": 1_000_000, "output": 5_000_000}]


def test_the_compiled_form_is_what_the_run_time_reads(tmp_path):
    book = PriceBook.from_dict(compile_book([write(tmp_path, GOOD)]))
    model = book.find("one-20260301")
    usage = Usage(input=101, output=10, traits={"service_tier": "flex", "inference_geo": "us"})
    assert model.rates(day("2026-03-01")).cost(usage).by_bucket["input"] == Decimal("0.0002222")
    assert model.rates(day("2026-01-31")).input == 4_000_000
    assert (model.rows[1].status, model.rows[1].review_by) == ("confirmed", "2026-12-01")


def test_the_order_of_the_files_does_not_matter(tmp_path):
    one = write(tmp_path, GOOD)
    two = write(tmp_path, GOOD.replace('"acme"', '"zeta"'), "zeta.toml")
    assert compile_book([one, two]) == compile_book([two, one])
    with pytest.raises(ConfigError, match="acme has a file already"):
        compile_book([one, write(tmp_path, GOOD, "other.toml")])


@pytest.mark.parametrize(
    ("old", "new", "place", "text"),
    [
        ('input = "4"\n', "input = 4.0\n", "one.row from 2026-01-01.input", "float"),
        ('input = "4"\n', "input = 4\n", "one.row from 2026-01-01.input", "int"),
        ('input = "4"\n', 'input = "-4"\n', "one.row from 2026-01-01.input", "not an amount"),
        ('input = "4"\n', 'input = "nan"\n', "one.row from 2026-01-01.input", "not an amount"),
        ('input = "4"\n', 'input = "4e0"\n', "one.row from 2026-01-01.input", "not an amount"),
        ('input = "4"\n', 'input = "4.0000001"\n', "one.row from 2026-01-01.input", "6 decimals"),
        ('input = "4"\n', "", "one.row from 2026-01-01.input", "required"),
        ('input = "4"\n', 'input = "4"\nprice = "3"\n', "one.row from 2026-01-01.price", "not permitted"),
        ('status = "confirmed"\n', 'status = "rumour"\n', "one.row from 2026-01-01.status", "'confirmed'"),
        ("until = 2026-02-01\n", "until = 2026-01-31\n", "one", "neither overlap nor leave a gap"),
        ("until = 2026-02-01\n", "until = 2026-02-02\n", "one", "neither overlap nor leave a gap"),
        ("until = 2026-02-01\n", "", "one", "neither overlap nor leave a gap"),
        ("from = 2026-02-01\n", "from = 2026-02-01\nuntil = 2026-03-01\n", "one", "must not have an until"),
        ('cache_read = "0.2"\n', 'cache_read = "2.1"\n', "one.row from 2026-02-01", "cache_read is above input"),
        ('{5m = "2.5"', '{5m = "1.5"', "one.row from 2026-02-01", "cache_write is below input"),
        (', cache_read = "0.4"', "", "one.row from 2026-02-01", "repeat the full set"),
        ('{5m = "5", 1h = "8"}', '{5m = "5"}', "one.row from 2026-02-01", "repeat the full set"),
        ("over_input_tokens = 100", "over_input_tokens = 0", "over_input_tokens", "greater than 0"),
        ('multiply = "0.5"', 'multiply = "0.5", input = "1"', "modes.[0].multiply.input", "not permitted"),
        ('speed = "fast"}, input = "8", output = "40"', 'speed = "fast"}', "modes.[1].input", "required"),
        ('multiply = "0.5"', 'multiply = "0.333333"', "one.row from 2026-02-01", "more than 6 decimals"),
        ('speed = "fast"', 'colour = "red"', "modes.[1]", "'service_tier'"),
        ('when = {speed = "fast"}', "when = {}", "modes.[1].when", "at least 1"),
        ('cache_read = "0.2"\n', 'cache_read = "0.2"\ninput_audio = "9"\n', "one.row from 2026-02-01", "input_audio"),
        (UNITS, UNITS + "per_request = 1\n", "per_request", "int"),
        (UNITS, UNITS + hours("24:00", "01:00"), "hours.row from 24:00", "between 00:00 and 23:59"),
        (UNITS, UNITS + hours("7:00", "8:00"), "hours.row from 7:00", "not a time of day"),
        (UNITS, UNITS + hours("01:00", "01:00"), "one.row from 2026-02-01", "has a length"),
        (UNITS, UNITS + hours("22:00", "02:00", "01:00", "03:00"), "one.row from 2026-02-01", "overlap"),
        ('tokenizer = "o200k"', 'tokenizer = "gpt2"', "one.tokenizer", "'o200k'"),
        ('snapshots = ["date8"]', 'snapshots = ["starts-with"]', "one.snapshots", "'date8'"),
        ('aliases = ["uno"]', 'aliases = ["one"]', "file", "the name one stands twice"),
        ('url = "https://example.org/prices"', 'url = "somewhere"', "source.url", "pattern"),
        ("retrieved = 2026-11-20", 'retrieved = "lately"', "source.retrieved", "date"),
        ('[source]\nurl = "https://example.org/prices"\nretrieved = 2026-11-20\n', "", "file", "has no source"),
        ("schema = 1", "schema = 2", "schema", "1"),
    ],
)
def test_a_wrong_source_names_file_row_and_field(tmp_path, old, new, place, text):
    assert GOOD.count(old) >= 1, "the case itself is stale"
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_source(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert place in said
    assert text in said


def test_the_unusual_must_be_said(tmp_path):
    odd = GOOD.replace('cache_read = "0.2"\n', 'cache_read = "2.1"\nunusual = true\n')
    assert load_source(write(tmp_path, odd)).models[0].prices[1].cache_read == 2_100_000


def test_what_is_no_toml_or_no_file_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        load_source(write(tmp_path, "schema = ", "bad.toml"))
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_source(tmp_path / "absent.toml")


PROVIDERS = {
    "anthropic", "aws-bedrock", "azure", "cohere", "deepseek", "fireworks", "google", "google-vertex", "groq",
    "mistral", "openai", "openrouter", "perplexity", "together", "xai",
}  # fmt: skip


# ---- the shipped files


def test_there_is_a_file_for_every_provider():
    assert {path.stem for path in FILES} == PROVIDERS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_has_a_source_with_a_day_that_has_been(path):
    source = load_source(path)
    assert path.stem == source.provider
    for model in source.models:
        for row in model.prices:
            origin = row.source or source.source
            assert origin is not None
            assert date(2026, 1, 1) <= origin.retrieved <= datetime.now(UTC).date() + timedelta(days=1)
            if row.status in ("promotional", "announced"):
                assert row.review_by is not None, model.id
            if row.status == "announced":
                assert row.review_by <= row.from_, model.id


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_two_models_of_a_provider_share_a_name(path):
    models = load_source(path).models
    names = [name for model in models for name in (model.id, *model.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_what_is_known_to_be_free_costs_nothing(path):
    source = load_source(path)
    for model in source.models:
        free = model.id.endswith(":free") or (source.provider == "google" and model.id.startswith("gemma-"))
        for row in model.prices:
            costs = row.input or row.output or row.per_request or row.per_unit
            assert bool(costs) != free, model.id


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_long_requests_and_haste_cost_more_and_patience_less(path):
    for model in load_source(path).models:
        for row in model.prices:
            base, *tiers = row.cards()
            assert all(tier["input"] >= base["input"] and tier["output"] >= base["output"] for tier in tiers), model.id
            for mode in row.modes:
                tiers_of_service = set(mode.when.get("service_tier", ()))
                rates = mode.compiled_cards(row.cards())[0]
                if tiers_of_service & {"batch", "flex"}:
                    assert (rates["input"], rates["output"]) <= (base["input"], base["output"]), model.id
                if tiers_of_service & {"priority", "fast", "ultrafast"} or "speed" in mode.when:
                    assert rates["input"] > base["input"], model.id


def test_a_global_endpoint_is_never_dearer_than_a_regional_one():
    book, compared = PriceBook.shipped(), 0
    for model in book.models():
        if model.provider == "aws-bedrock" and model.id.startswith("global."):
            if model.id == "global.moonshotai.kimi-k3.1":  # the price of the geographies is not known
                continue
            regional = book.find("us." + model.id.removeprefix("global."), "aws-bedrock").rates(NOON)
            here = model.rates(NOON)
            assert (here.input, here.output) <= (regional.input, regional.output), model.id
            compared += 1
    assert compared > 25


NOON = day("2026-11-20") + 12 * 3600 * 10**6

NAMES = [
    ("claude-sonnet-4-5-20250929", None, "anthropic/claude-sonnet-4-5"),
    ("claude-sonnet-4-5-typo9", None, None),
    ("claude-sonnet-4-5-20250931", None, None),
    ("gpt-5-mini-2025-08-07", None, "openai/gpt-5-mini"),
    ("gpt-5.5-2026-04-23", None, "openai/gpt-5.5"),
    ("gpt-5.6", None, "openai/gpt-5.6-sol"),
    ("ft:gpt-4o-2024-08-06:acme::x1", None, "openai/ft:gpt-4o-2024-08-06"),
    ("gpt-4o", None, "openai/gpt-4o"),
    ("gpt-4o", "azure", "azure/gpt-4o"),
    ("gpt-35-turbo", "azure", "azure/gpt-35-turbo"),
    ("gpt-6-sol-2026-09-22", "azure", "azure/gpt-6-sol"),
    ("models/gemini-2.5-flash", "google", "google/gemini-2.5-flash"),
    ("gemini-2.5-flash", None, "google/gemini-2.5-flash"),
    ("gemini-2.5-flash", "google-vertex", "google-vertex/gemini-2.5-flash"),
    ("publishers/google/models/gemini-2.5-pro", "google-vertex", "google-vertex/gemini-2.5-pro"),
    ("claude-sonnet-4-5@20250929", "google-vertex", "google-vertex/claude-sonnet-4-5"),
    ("claude-opus-5@default", "google-vertex", "google-vertex/claude-opus-5"),
    ("publishers/anthropic/models/claude-opus-5", "google-vertex", "google-vertex/claude-opus-5"),
    ("gemini-3.8-flash-cyber", "google-vertex", "google-vertex/gemini-3.8-flash-cyber"),
    ("gemini-3.8-flash-cyber", "google", None),
    ("gemini-2.5-flash-002", "google", None),
    ("anthropic.claude-sonnet-4-5-20250929-v1:0", None, "aws-bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", None, "aws-bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0"),
    ("eu.anthropic.claude-haiku-4-5-20251001-v1:0", None, "aws-bedrock/anthropic.claude-haiku-4-5-20251001-v1:0"),
    ("global.anthropic.claude-sonnet-5", None, "aws-bedrock/global.anthropic.claude-sonnet-5"),
    ("us.anthropic.claude-opus-4-6-v1:0", None, "aws-bedrock/anthropic.claude-opus-4-6"),
    ("anthropic.claude-opus-5-5-v1", None, "aws-bedrock/anthropic.claude-opus-5-5"),
    ("eu.amazon.nova-lite-v1:0", None, "aws-bedrock/eu.amazon.nova-lite-v1:0"),
    ("us.amazon.nova-lite-v1:0", None, "aws-bedrock/amazon.nova-lite-v1:0"),
    ("arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-pro-v1:0", "aws-bedrock",
     "aws-bedrock/amazon.nova-pro-v1:0"),
    ("arn:aws:bedrock:us-east-1:1:application-inference-profile/mi1dadi0g15f", "aws-bedrock", None),
    ("mars.amazon.nova-lite-v1:0", "aws-bedrock", None),
    ("anthropic/claude-sonnet-4.5", "openrouter", "openrouter/anthropic/claude-sonnet-4.5"),
    ("anthropic/claude-sonnet-4.5", None, None),
    ("openrouter/anthropic/claude-sonnet-4.5", None, None),
    ("llama-3.3-70b-versatile", None, "groq/llama-3.3-70b-versatile"),
    ("mistral-large-2512", None, "mistral/mistral-large-2512"),
    ("grok-4.7-20261001", None, "xai/grok-4.7"),
    ("grok-code-fast", None, "xai/grok-code-fast-1"),
    ("deepseek-reasoner", None, "deepseek/deepseek-reasoner"),
    ("command-r-08-2024", None, "cohere/command-r"),
    ("sonar-pro", None, "perplexity/sonar-pro"),
    ("meta-llama/Llama-3.3-70B-Instruct-Turbo", "together", "together/meta-llama/Llama-3.3-70B-Instruct-Turbo"),
    ("accounts/fireworks/models/kimi-k3", None, "fireworks/accounts/fireworks/models/kimi-k3"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "provider", "meant"), NAMES, ids=str)
def test_a_name_means_one_model_or_none(name, provider, meant):
    book = PriceBook.shipped()
    if meant is None:
        with pytest.raises(UnknownModel):
            book.find(name, provider)
    else:
        model = book.find(name, provider)
        assert f"{model.provider}/{model.id}" == meant


def test_a_market_s_prices_are_found_only_when_it_is_named():
    book = PriceBook.shipped()
    markets = [model for model in book.models() if model.provider == "openrouter"]
    others = [model for model in book.models() if model.provider != "openrouter"]
    elsewhere = {name for model in others for name in (model.id, *model.aliases)}
    shared = [model for model in markets if model.id in elsewhere]
    assert len(markets) > 600
    assert len(shared) > 10
    for model in (*shared, *markets[::25]):  # a name that nobody knows is slow: its likenesses are looked for
        assert book.find(model.id, "openrouter") == model
        with suppress(UnknownModel, ConfigError):
            assert book.find(model.id).provider != "openrouter"


def test_every_answer_has_a_ceiling_but_of_models_whose_window_nobody_states():
    chat = [model for model in PriceBook.shipped().models() if not makes_embeddings(model)]
    assert len(chat) > 2000
    chat = [model for model in chat if not model.rows[-1].rates.per_unit.keys() & {"character", "second"}]
    open_ended = {f"{model.provider}/{model.id}" for model in chat if (model.max_output or model.context) is None}
    images = {name for name in open_ended if "-image-" in name}  # an image ends by itself
    assert open_ended - images == {
        "openai/gpt-rosalind-research", "openai/gpt-rosalind-discovery", "openrouter/switchpoint/router",
        "openai/gpt-4o-mini-tts",
    }  # fmt: skip


# ---- against the catalogue

CATALOGUE_IDS = {"aws-bedrock": "aws", "google-vertex": "google", "xai": "x-ai"}
MODES = [
    ({"processing": "batch"}, {"service_tier": "batch"}),
    ({"service_tier": "flex"}, {"service_tier": "flex"}),
    ({"service_tier": "priority"}, {"service_tier": "priority"}),
    ({"speed": "fast"}, {"speed": "fast"}),
]

# Names whose prices differ from genai-prices 0.2.3 on 2026-11-20, by reason. A reason that no longer holds fails too.
DIFFERENCES = {
    "a later price, which LiteLLM has": [
        "deepseek/deepseek-chat", "deepseek/deepseek-reasoner", "xai/grok-code-fast-1", "xai/grok-code-fast",
        "xai/grok-code-fast-1-0825", "mistral/magistral-medium-latest", "mistral/mistral-medium",
    ],
    "nothing decides between genai-prices and LiteLLM: the dearer": [
        "azure/text-embedding-3-large", "azure/text-embedding-3-small", "azure/text-embedding-ada-002",
        "deepseek/deepseek-v3.2", "fireworks/accounts/fireworks/models/gemma-3-27b-it", "mistral/open-mistral-nemo",
        "together/meta-llama/Llama-3.3-70B-Instruct-Turbo", "google-vertex/claude-3-5-haiku",
        "google-vertex/claude-3-5-haiku@default",
    ],
    "a model of its own, which genai-prices takes for another that begins alike": [
        "google-vertex/gemini-3.8-flash-cyber", "fireworks/accounts/fireworks/models/deepseek-v4-flash-0731",
        "openai/ft:gpt-4-0613",
    ],
    "the price of Vertex, not of the Gemini API": [
        "google-vertex/gemini-2.0-flash", "google-vertex/gemini-2.0-flash-001",
    ],
    "long requests are dearer in batch and flex too": ["openai/gpt-5.5-pro"],
    "embeddings have no output": ["mistral/mistral-embed", "mistral/mistral-embed-2312"],
    "a long-context tier that only LiteLLM has": [
        "openai/gpt-5.6-cyber", "aws-bedrock/openai.gpt-5.4", "aws-bedrock/openai.gpt-5.5",
        "google-vertex/gemini-3-pro-image", "google-vertex/gemini-3-pro-image-preview",
        "aws-bedrock/anthropic.claude-sonnet-4-20250514-v1:0", "aws-bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
        "aws-bedrock/global.anthropic.claude-sonnet-4-20250514-v1:0",
        "aws-bedrock/global.anthropic.claude-sonnet-4-5-20250929-v1:0",
    ],
    "the 1M context beta and its tier ended on 2026-04-30": ["anthropic/claude-sonnet-4-5"],
    "genai-prices gives it the priority of gpt-4o-mini, whose modes it has not": [
        "openai/gpt-4o-mini-search-preview", "openai/gpt-4o-mini-search-preview-2025-03-11",
    ],
}  # fmt: skip
# Bedrock's geographies at a price of their own: genai-prices gives them that of the US.
GEOGRAPHIES = re.compile(r"aws-bedrock/(us-gov|eu|apac|jp)\.")


def test_prices_agree_with_genai_prices_but_for_the_known_differences():
    catalogue = pytest.importorskip("genai_prices.data", reason="genai-prices is not installed")
    providers = {provider.id: provider.models for provider in catalogue.providers}
    differ, compared = set(), 0
    for model in PriceBook.shipped().models():
        models = providers[CATALOGUE_IDS.get(model.provider, model.provider)]
        for name in (model.id, *model.aliases):
            theirs = next((entry for entry in models if entry.is_match(name)), None)
            if theirs is None or theirs.get_prices(datetime(2026, 11, 20, 12, tzinfo=UTC)).input_mtok is None:
                continue
            compared += 1
            if any(differences(model, theirs, hour) for hour in (2, 12)):
                differ.add(f"{model.provider}/{name}")
    assert compared > 1700
    explained = {name for names in DIFFERENCES.values() for name in names}
    assert {name for name in differ if not GEOGRAPHIES.match(name)} == explained


def differences(model, theirs, hour: int) -> list[str]:
    """Return which rates differ at this hour of 2026-11-20, over sizes and modes; only of what the catalogue states."""
    moment = datetime(2026, 11, 20, hour, tzinfo=UTC)
    rates = model.rates(int(moment.timestamp()) * 10**6)
    standard = theirs.get_prices(moment)
    pairs = [({}, standard)]
    for context, traits in MODES:
        price = theirs.get_prices(moment, context)
        pairs += [(traits, price)] if price != standard else []
    found = []
    for traits, price in pairs:
        tiers = {tier.start for tier in getattr(price.input_mtok, "tiers", ())}
        for over in {0, *tiers, *(card.over for card in rates.cards)}:
            known = rates.cost(Usage(input=over + 1, traits=traits)).rates
            card = Card(**{"over": 0, **{name: known[name] for name in known if name in Card.__dataclass_fields__}})
            found += [bucket for bucket, rate in stated(price, over).items() if not rounded(rate, ours(card, bucket))]
    return found


def stated(price, over: int) -> dict[str, Decimal]:
    """Return the pico-dollars per token that the catalogue states for a request of one token more than `over`."""
    names = {
        "input": "input_mtok", "output": "output_mtok", "cache_read": "cache_read_mtok", "write": "cache_write_mtok",
        "write_1h": "cache_write_1h_mtok", "reasoning": "output_reasoning_mtok", "input_audio": "input_audio_mtok",
        "output_audio": "output_audio_mtok", "output_image": "output_image_mtok", "input_image": "input_image_mtok",
        "cache_read_audio": "cache_audio_read_mtok",
    }  # fmt: skip
    found = {}
    for ours_, theirs in names.items():
        if (value := getattr(price, theirs)) is not None:
            reached = [tier.price for tier in getattr(value, "tiers", ()) if tier.start <= over]
            found[ours_] = Decimal(reached[-1] if reached else getattr(value, "base", value)) * 10**6
    return found


def ours(card: Card, bucket: str) -> int:
    if bucket == "write":
        return card.write_rate("default" if "default" in card.cache_write else "5m")
    if bucket == "write_1h":
        return card.write_rate("1h")
    if bucket == "cache_read":
        return card.read_rate()
    if bucket in ("input", "output"):
        return getattr(card, bucket)
    whole = card.output if bucket.startswith(("output", "reasoning")) else card.input
    return card.parts.get(bucket, card.read_rate() if bucket.startswith("cache_read") else whole)


def rounded(theirs: Decimal, ours: int) -> bool:
    """Say whether a price is theirs, rounded up to six decimals."""
    return ours - 1 < theirs <= ours
