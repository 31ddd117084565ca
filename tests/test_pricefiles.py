"""The price sources: what is refused, what they compile to, and whether the shipped book is that."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from budget.errors import ConfigError
from budget.pricefiles import compile_book, load_source, main
from budget.prices import PriceBook
from budget.usage import Usage

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "prices"
SHIPPED = ROOT / "budget" / "data" / "prices.json"
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
    content = {"schema": book["schema"], "providers": book["providers"]}
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
    assert (new["source"], new["retrieved"]) == ("https://example.org/prices", "2026-11-20")
    assert new["review_by"] == "2026-12-01"


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_row_has_a_source_with_a_day_that_has_been(path):
    source = load_source(path)
    assert path.stem == source.provider
    for model in source.models:
        for row in model.prices:
            origin = row.source or source.source
            assert origin is not None
            assert date(2026, 1, 1) <= origin.retrieved <= datetime.now(UTC).date() + timedelta(days=1)
            assert row.status != "promotional" or row.review_by is not None, model.id


# ---- against the catalogue

# Names whose input or output price differs from genai-prices 0.2.3 on 2026-11-20, and why.
AUDIO = "every token is priced as an audio token here, as text there"
KNOWN = {
    "gpt-audio": AUDIO,
    "gpt-audio-2025-08-28": AUDIO,
    "gpt-audio-1.5": AUDIO,
    "gpt-audio-mini": AUDIO,
    "gpt-audio-mini-2025-10-06": AUDIO,
    "gpt-audio-mini-2025-12-15": AUDIO,
    "gpt-4o-audio-preview": AUDIO,
    "gpt-4o-audio-preview-2024-12-17": AUDIO,
    "gpt-4o-audio-preview-2025-06-03": AUDIO,
    "gpt-4o-mini-audio-preview": AUDIO,
    "gpt-4o-mini-audio-preview-2024-12-17": AUDIO,
}
# Cache reads that differ beside those (audio models have none), and why.
KNOWN_READS = {
    "gpt-4o-search-preview": "half of input, as LiteLLM and as plain gpt-4o; full input there",
    "gpt-4o-search-preview-2025-03-11": "the same",
    "ft:gpt-4o-2024-08-06": "half of input, as LiteLLM; full input there",
    "ft:gpt-4o-2024-11-20": "the same",
    "ft:gpt-4o-mini-2024-07-18": "the same",
}


def test_prices_agree_with_genai_prices_but_for_the_known_differences():
    data = pytest.importorskip("genai_prices.data", reason="genai-prices is not installed")
    catalogue = {provider.id: provider for provider in data.providers}
    moment = datetime(2026, 11, 20, tzinfo=UTC)
    differ: set[str] = set()
    differ_reads: set[str] = set()
    compared = 0
    for model in PriceBook.shipped().models():
        for name in (model.id, *model.aliases):
            theirs = next((entry for entry in catalogue[model.provider].models if entry.is_match(name)), None)
            if theirs is None:
                continue
            compared += 1
            price, rates = theirs.get_prices(moment), model.rates(int(moment.timestamp()) * 10**6)
            if (rates.input, rates.output) != (picos(price.input_mtok), picos(price.output_mtok)):
                differ.add(name)
            elif rates.cards[0].read_rate() != picos(price.cache_read_mtok or price.input_mtok):
                differ_reads.add(name)
    assert compared > 150
    assert differ == set(KNOWN)
    assert differ_reads == set(KNOWN_READS)


def picos(price: object) -> int:
    base = getattr(price, "base", price)
    return int(Decimal(base or 0) * 10**6)
