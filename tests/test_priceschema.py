"""The schema of price sources: what a row can say, how it is compiled, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from budget.errors import ConfigError
from budget.prices import PriceBook
from budget.prices.files import compile_book, load_source
from budget.usage import PARTS, Usage

WHOLE = """
schema = 1
provider = "acme"
[source]
url = "https://example.org/prices"
retrieved = 2026-11-20
[[models]]
id = "one"
snapshots = ["at8", "version", "region"]
tokenizer = "gemini"
[[models.prices]]
from = 2026-01-01
status = "confirmed"
input = "1"
output = "4"
cache_read = "0.1"
reasoning = "6"
input_audio = "2"
cache_read_audio = "0.2"
output_image = "30"
tiers = [{over_input_tokens = 100, input = "2", output = "8", cache_read = "0.2", reasoning = "12", input_audio = "4", \
cache_read_audio = "0.4", output_image = "60"}]
per_request = "0.005"
per_unit = {web_search = "0.01", citation = "0.000002"}
modes = [
  {when = {service_tier = "batch"}, multiply = "0.5", per_request = "0"},
  {when = {search_context = ["medium", "high"]}, per_request = "0.012", per_unit = {web_search = "0.02"}},
  {when = {speed = "fast"}, input = "8", output = "40", reasoning = "41"},
]
hours = [{from = "16:30", until = "00:30", input = "0.5", output = "2"}]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "acme.toml"
    path.write_text(text, encoding="utf-8")
    return path


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 10**6


def test_every_word_of_a_row_is_compiled_to_integers(tmp_path):
    (model,) = compile_book([write(tmp_path, WHOLE)])["providers"]["acme"]
    (row,) = model["rows"]
    parts = {"reasoning": 6_000_000, "input_audio": 2_000_000, "cache_read_audio": 200_000, "output_image": 30_000_000}
    base, tier = row["cards"]
    assert base == {"over": 0, "input": 1_000_000, "output": 4_000_000, "cache_read": 100_000, "parts": parts}
    assert tier["parts"] == {part: 2 * rate for part, rate in parts.items()}
    assert (row["per_request"], row["per_unit"]) == (5 * 10**9, {"web_search": 10**10, "citation": 2 * 10**6})
    batch, deep, fast = row["modes"]
    assert (batch["cards"][1]["parts"]["reasoning"], batch["per_request"]) == (6_000_000, 0)
    assert deep == {
        "when": {"search_context": ["medium", "high"]}, "cards": row["cards"], "per_request": 12 * 10**9,
        "per_unit": {"web_search": 2 * 10**10},
    }  # fmt: skip
    assert fast["cards"] == [{"over": 0, "input": 8_000_000, "output": 40_000_000, "parts": {"reasoning": 41_000_000}}]
    (night,) = row["hours"]
    assert (night["from"], night["until"]) == (990, 30)
    assert night["cards"] == [{"over": 0, "input": 500_000, "output": 2_000_000}]
    assert night["modes"][0]["cards"] == [{"over": 0, "input": 250_000, "output": 1_000_000}]
    assert night["modes"][2]["cards"] == fast["cards"]


def test_the_run_time_reads_every_word(tmp_path):
    model = PriceBook.from_dict(compile_book([write(tmp_path, WHOLE)])).find("us.one-v1:0", "acme")
    day, night = model.rates(at("2026-03-01T12:00")), model.rates(at("2026-03-01T20:00"))
    usage = Usage(input=50, output=20, reasoning=15, tools={"web_search": 1, "citation": 10})
    assert day.cost(usage).exact == {
        "input": 50_000_000, "output": 20_000_000, "reasoning": 90_000_000, "request": 5 * 10**9, "web_search": 10**10,
        "citation": 2 * 10**7,
    }  # fmt: skip
    assert night.cost(Usage(output=20, reasoning=15)).exact == {"input": 0, "output": 40_000_000, "request": 5 * 10**9}
    deep = day.cost(Usage(tools={"web_search": 1, "citation": 1}, traits={"search_context": "high"}))
    assert deep.by_bucket == {
        "request": Decimal("0.012"), "web_search": Decimal("0.02"), "citation": Decimal("0.000002"),
    }  # fmt: skip
    assert day.cost(Usage(input=1, traits={"service_tier": "batch"})).exact == {"input": 500_000, "output": 0}
    assert model.rows[0].source == "https://example.org/prices"
    assert (model.rows[0].status, model.rows[0].retrieved) == ("confirmed", "2026-11-20")


def test_every_kind_of_token_can_have_a_rate(tmp_path):
    rates = "".join(f'{part} = "{i}"\n' for i, part in enumerate(PARTS, 1))
    head, _ = WHOLE.split("[[models.prices]]")
    bare = f'{head}[[models.prices]]\nfrom = 2026-01-01\nstatus = "confirmed"\ninput = "1"\noutput = "1"\n{rates}'
    (model,) = compile_book([write(tmp_path, bare)])["providers"]["acme"]
    assert model["rows"][0]["cards"][0]["parts"] == {part: i * 10**6 for i, part in enumerate(PARTS, 1)}


@pytest.mark.parametrize(
    ("old", "new", "place", "text"),
    [
        ('input_audio = "2"\n', "input_audio = 2\n", "one.row from 2026-01-01.input_audio", "int"),
        ('reasoning = "6"\n', 'reasoning = "-6"\n', "one.row from 2026-01-01.reasoning", "not an amount"),
        (', reasoning = "12"', "", "one.row from 2026-01-01", "full set of rates: reasoning"),
        ('per_request = "0.005"', "per_request = 0.005", "one.row from 2026-01-01.per_request", "float"),
        ('"16:30"', '"16.30"', "one.row from 2026-01-01.hours.row from 16.30.from", "not a time of day"),
        ('"16:30"', '"24:00"', "one.row from 2026-01-01.hours.row from 24:00.from", "between 00:00 and 23:59"),
        ('"16:30"', '"00:30"', "one.row from 2026-01-01", "each span has a length"),
        ("hours = [", 'hours = [{from = "23:00", until = "23:30", input = "1", output = "1"}, ',
         "one.row from 2026-01-01", "no two of them overlap"),
        ('input = "0.5", output = "2"}', 'input = "0.000001", output = "2"}', "one.row from 2026-01-01",
         "more than 6 decimals"),
        ('input = "0.5", output = "2"}', 'input = "0.5"}', "one.row from 2026-01-01.hours", "required"),
        ('["medium", "high"]', "[]", "one.row from 2026-01-01.modes.[1].multiply.when.search_context", "at least 1"),
        ("search_context =", "depth =", "one.row from 2026-01-01.modes.[1]", "'search_context'"),
        ('search_context = ["medium", "high"]}, per_request = "0.012", per_unit = {web_search = "0.02"}',
         'search_context = "low"}', "one.row from 2026-01-01.modes.[1].input", "required"),
        ('snapshots = ["at8"', 'snapshots = ["prefix"', "one.snapshots", "'region'"),
    ],
)  # fmt: skip
def test_what_a_row_cannot_say_is_refused_by_its_place(tmp_path, old, new, place, text):
    assert old in WHOLE, "the case itself is stale"
    path = write(tmp_path, WHOLE.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_source(path)
    assert str(caught.value).startswith(f"{path}: {place}")
    assert text in str(caught.value)
