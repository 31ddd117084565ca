"""The operator's own prices in files: which are read, in which order, what is refused, and what is said when."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.config import load, own_prices_file, price_book, price_layers
from budget.engine import Budget
from budget.errors import ConfigError
from budget.prices import Model, PriceBook, stale
from budget.prices.keys import RateKey, charged, lowered, named_rates
from budget.prices.own import Layer, lay
from budget.usage import Usage

Make = Callable[..., Budget]
DAY = 86_400_000_000
NOW = time.time_ns() // 1000
TODAY = datetime.now(UTC).date()
KNOWN = "claude-sonnet-4-6"  # 3 and 15 USD


def overlay(model: str, *rows: str, head: str = "") -> str:
    return f'schema = 1\n{head}\n[[models]]\nid = "{model}"\n' + "".join(f"[[models.prices]]\n{row}\n" for row in rows)


def row(input: str, output: str, day: str = "2026-01-01", more: str = "") -> str:
    return f'from = {day}\ninput = "{input}"\noutput = "{output}"\n{more}'


def tables(**rates: str) -> str:
    return "[[prices]]\n" + "".join(f'{name} = "{value}"\n' for name, value in rates.items())


def now(model: str, provider: str | None = None, book: PriceBook | None = None) -> tuple[int, int, str]:
    """Input and output rates in micro-dollars per token x 10^6 (pico-dollars), and where the row is from."""
    found = (book or price_book()).find(model, provider).row(NOW)
    return found.rates.input, found.rates.output, found.origin


def test_without_files_the_book_is_the_shipped_one_and_pydantic_is_not_imported() -> None:
    assert price_layers() == []
    assert price_book() is PriceBook.shipped()
    code = "import sys; from budget.config import price_book; price_book(); assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_each_layer_lies_over_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("more").mkdir()
    Path("contract.toml").write_text(overlay(KNOWN, row("2.9", "15")))
    Path("more/b.toml").write_text(overlay(KNOWN, row("2.7", "15")))
    Path("more/a.toml").write_text(overlay(KNOWN, row("2.8", "15")))
    Path("more/readme.md").write_text("no prices")
    Path("budget.toml").write_text('price_files = ["contract.toml"]')
    assert now(KNOWN) == (2_900_000, 15_000_000, "contract.toml")
    Path("budget.toml").write_text('price_files = ["contract.toml", "more/"]')
    assert now(KNOWN) == (2_700_000, 15_000_000, "more/b.toml")
    assert [layer.where for layer in price_layers()] == ["contract.toml", "more/a.toml", "more/b.toml"]
    Path("budget-prices.toml").write_text(overlay(KNOWN, row("2.6", "15")))
    assert now(KNOWN) == (2_600_000, 15_000_000, "budget-prices.toml")
    text = 'price_files = ["contract.toml", "more/"]\n' + tables(model=KNOWN, input="2.5", output="15")
    Path("budget.toml").write_text(text)
    assert now(KNOWN) == (2_500_000, 15_000_000, "budget.toml: [[prices]]")
    book = price_book({KNOWN: {"input": "0.1", "output": "0"}})  # code may lower as it likes
    assert now(KNOWN, book=book) == (100_000, 0, "prices=")
    monkeypatch.setenv("BUDGET_PRICE_FILES", os.pathsep.join(["more/a.toml", "contract.toml"]))
    Path("budget.toml").write_text('price_files = ["gone.toml"]')  # the environment goes before the file
    Path("budget-prices.toml").unlink()
    assert now(KNOWN) == (2_900_000, 15_000_000, "contract.toml")


def test_files_stand_beside_the_nearest_budget_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sub/folder").mkdir(parents=True)
    Path("contract.toml").write_text(overlay("mine", row("1", "2")))
    Path("budget.toml").write_text('price_files = ["contract.toml"]')
    Path("budget-prices.toml").write_text(overlay("ours", row("3", "4")))
    here = Path.cwd()
    monkeypatch.chdir("sub/folder")
    assert now("mine") == (1_000_000, 2_000_000, str(here / "contract.toml"))
    assert now("ours") == (3_000_000, 4_000_000, str(here / "budget-prices.toml"))
    assert own_prices_file() == here / "budget-prices.toml"
    (here / "budget.toml").unlink()  # then the nearest budget-prices.toml counts
    assert own_prices_file() == here / "budget-prices.toml"
    (here / "budget-prices.toml").unlink()
    assert own_prices_file() == here / "sub/folder/budget-prices.toml"


def test_an_engine_prices_by_its_files(make_budget: Make) -> None:
    Path("budget-prices.toml").write_text(overlay("mine", row("1", "2", more='per_request = "0.005"')))
    shipped = PriceBook.shipped().hash
    budget = make_budget("memory://")
    assert budget.cost(Usage(input=10**6, output=10**6), model="mine").usd == 3 + budget.cost(Usage(), model="mine").usd
    assert str(budget.cost(Usage(), model="mine").usd) == "0.005"
    assert budget.settings.book.hash != shipped


def test_what_a_known_model_is_stays_where_the_file_does_not_say() -> None:
    shipped = PriceBook.shipped().find(KNOWN)
    Path("budget-prices.toml").write_text(overlay(KNOWN, row("2.9", "15")))
    found = price_book().find(f"{KNOWN}-20260101")
    assert (found.id, found.provider, found.context) == (KNOWN, "anthropic", shipped.context)
    assert (found.tokenizer, found.snapshots) == (shipped.tokenizer, shipped.snapshots)


def test_a_row_holds_from_its_day_and_the_rows_below_hold_before() -> None:
    later = TODAY + timedelta(30)
    Path("budget-prices.toml").write_text(overlay(KNOWN, row("2.9", "15", str(later))))
    found = price_book().find(KNOWN)
    assert found.rates(NOW).input == 3_000_000
    start = (later - date(1970, 1, 1)).days * DAY
    assert (found.rates(start - 1).input, found.rates(start).input) == (3_000_000, 2_900_000)
    assert found.rows[:-1] == PriceBook.shipped().find(KNOWN).rows


def test_the_provider_may_stand_with_the_file_or_with_the_model() -> None:
    Path("budget-prices.toml").write_text(
        overlay("one", row("1", "2"), head='provider = "groq"') + '[[models]]\nid = "two"\nprovider = "acme"\n'
        f"[[models.prices]]\n{row('3', '4')}"
    )
    book = price_book()
    assert (book.find("one").provider, book.find("two").provider) == ("groq", "acme")
    assert "acme" in book.providers


def test_the_order_of_files_and_their_place_do_not_change_what_the_hash_is_of() -> None:
    Path("a").mkdir()
    for name in ("contract.toml", "a/other.toml"):
        Path(name).write_text(overlay("mine", row("1", "2")))
    hashes = set()
    for name in ("contract.toml", "a/other.toml"):
        Path("budget.toml").write_text(f'price_files = ["{name}"]')
        hashes.add(price_book().hash)
    assert len(hashes) == 1
    Path("contract.toml").write_text(overlay("mine", row("1", "2.1")))
    Path("budget.toml").write_text('price_files = ["contract.toml"]')
    assert price_book().hash not in hashes


# ---- what is wrong with a file

FAULTS = [
    (row("1", "-2"), "mine.row from 2026-01-01.output", "not an amount"),
    ('from = 2026-01-01\ninput = 1.5\noutput = "2"', "mine.row from 2026-01-01.input", "float"),
    ('from = 2026-01-01\noutput = "2"', "mine.row from 2026-01-01.input", "required"),
    ('input = "1"\noutput = "2"', "from", "required"),
    (row("1", "2", more='colour = "red"'), "mine.row from 2026-01-01.colour", "not permitted"),
    (row("1", "2", more='cache_read = "1.5"'), "mine.row from 2026-01-01", "unusual"),
    (row("1", "2", more="lower = 1"), "mine.row from 2026-01-01.lower", "bool"),
    (row("1", "2", more="until = 2026-02-01"), "mine", "must not have an until"),
]


@pytest.mark.parametrize(("text", "place", "said"), FAULTS)
def test_a_fault_names_file_row_and_field(text: str, place: str, said: str) -> None:
    Path("budget-prices.toml").write_text(overlay("mine", text))
    with pytest.raises(ConfigError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith("budget-prices.toml: ")
    assert place in message
    assert said in message


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        (tables(model="m", input="-1", output="2"), "budget.toml: [[prices]]: m.input", "not an amount"),
        ("[[prices]]\nmodel = 'm'\ninput = 1\noutput = '2'", "m.input", "int"),
        (tables(model="m", output="2"), "m.input", "required"),
        (tables(input="1", output="2"), "model", "required"),
        (tables(model="m", input="1", output="2", price="3"), "m.price", "not permitted"),
        (tables(model="m", input="1", output="2", tokenizer="gpt2"), "m.tokenizer", "'o200k'"),
        (tables(model="m", input="1", output="2") * 2, "[[prices]]: file", "m stands twice"),
        ("[[prices]]\nmodel = 'm'\ninput = '1'\noutput = '2'\nuntil = 2027-01-01", "m.until", "price_files"),
        ("price_files = 'contract.toml'", "price_files", "a list of paths"),
        ("price_files = [1]", "price_files", "a list of paths"),
        ("price_files = ['gone.toml']", "gone.toml", "No such file"),
        ("price_files = ['.hidden']", ".hidden", "has no *.toml"),
        ("price_files = ['broken.toml']", "broken.toml", "end of document"),
        ("price_files = ['second.toml']", "second.toml", "schema"),
    ],
)
def test_a_fault_of_the_configuration_names_its_place(text: str, place: str, said: str) -> None:
    Path(".hidden").mkdir()
    Path("broken.toml").write_text("schema = ")
    Path("second.toml").write_text("schema = 2")
    Path("budget.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load()
    assert place in str(caught.value)
    assert said in str(caught.value)


def test_a_table_takes_what_a_row_takes() -> None:
    Path("budget.toml").write_text(
        tables(model="m", input="1", output="2", cache_write="1.5", per_request="0.01", provider="groq")
        + 'per_unit = {web_search = "0.02"}\ntiers = [{over_input_tokens = 10, input = "2", output = "4", '
        'cache_write = {default = "3"}}]\nmodes = [{when = {service_tier = "batch"}, multiply = "0.5"}]\ncontext = 99\n'
    )
    found = price_book().find("m", "groq")
    assert found.context == 99
    assert {str(key): picos for key, picos in named_rates(found.row(0)).items()} == {
        "input": 1_000_000, "output": 2_000_000, "cache_write_default": 1_500_000,
        "input >10": 2_000_000, "output >10": 4_000_000, "cache_write_default >10": 3_000_000,
        "input batch": 500_000, "output batch": 1_000_000, "cache_write_default batch": 750_000,
        "input batch >10": 1_000_000, "output batch >10": 2_000_000, "cache_write_default batch >10": 1_500_000,
        "per_unit.web_search": 20_000_000_000, "per_request": 10_000_000_000,
    }  # fmt: skip


# ---- the drop rule

DROPS = [
    ("1.500001", "7.500001", "", None),
    ("1.5", "15", "", "input: 1.5 is half or less of 3 in the shipped prices"),
    ("3", "7.5", "", "output: 7.5 is half or less of 15"),
    ("0", "0", "", "input: 0 is half or less of 3"),
    ("3", "15", 'cache_read = "0.15"', "cache_read: 0.15 is half or less of 0.3"),
    ("3", "15", 'cache_read = "0.16"', None),
    ("0.1", "0", "lower = true", None),
    ("3", "15", "modes = [{when = {service_tier = 'batch'}, multiply = '0.2'}]",
     "input batch: 0.6 is half or less of 1.5"),
]  # fmt: skip


@pytest.mark.parametrize(("input", "output", "more", "said"), DROPS)
def test_a_price_of_half_or_less_must_be_said(input: str, output: str, more: str, said: str | None) -> None:
    Path("budget-prices.toml").write_text(overlay(KNOWN, row(input, output, more=more)))
    table = f'[[prices]]\nmodel = "{KNOWN}"\ninput = "{input}"\noutput = "{output}"\n{more}'
    for prepare, place in (
        (lambda: None, "budget-prices.toml: "),
        (lambda: (Path("budget-prices.toml").unlink(), Path("budget.toml").write_text(table)), "[[prices]]: "),
    ):
        prepare()
        if said is None:
            assert now(KNOWN)[2]
            continue
        with pytest.raises(ConfigError) as caught:
            load()
        assert place in str(caught.value)
        assert f"{KNOWN}." in str(caught.value)
        assert said in str(caught.value)
        assert "lower = true" in str(caught.value)


def test_a_drop_is_judged_by_what_lies_below_and_holds_from_now_on() -> None:
    Path("budget.toml").write_text('price_files = ["high.toml", "low.toml"]')
    Path("high.toml").write_text(overlay(KNOWN, row("9", "15")))
    Path("low.toml").write_text(overlay(KNOWN, row("4", "15")))
    with pytest.raises(ConfigError, match=r"low\.toml: .*input: 4 is half or less of 9 in high\.toml"):
        load()
    past, soon = TODAY - timedelta(9), TODAY + timedelta(9)
    ended = row("9", "15", more=f"until = {past}")
    Path("high.toml").write_text(overlay(KNOWN, ended, row("5", "15", str(past))))
    assert now(KNOWN)[0] == 4_000_000  # what cost 9 is past
    coming = row("5", "15", more=f"until = {soon}")
    Path("high.toml").write_text(overlay(KNOWN, coming, row("9", "15", str(soon))))
    with pytest.raises(ConfigError, match="half or less of 9"):
        load()
    Path("low.toml").write_text(overlay(KNOWN, row("4", "15", more=f"until = {soon}"), row("5", "15", str(soon))))
    assert now(KNOWN)[0] == 4_000_000  # it ends before the price below rises


def test_a_row_that_has_ended_is_not_judged_any_more() -> None:
    past = TODAY - timedelta(9)
    Path("budget-prices.toml").write_text(
        overlay(KNOWN, row("0.1", "15", more=f"until = {past}"), row("2.9", "15", str(past)))
    )
    assert now(KNOWN)[0] == 2_900_000


def test_a_new_model_may_cost_nothing_and_many_faults_are_cut_short() -> None:
    Path("budget-prices.toml").write_text(overlay("mine", row("0", "0")))
    assert now("mine")[:2] == (0, 0)
    text = overlay(KNOWN, row("0", "0", more='cache_read = "0"\ncache_write = {5m="0"}'))
    Path("budget-prices.toml").write_text(text)
    with pytest.raises(ConfigError, match="and 1 more: budget prices check"):
        load()


RATE = st.integers(0, 10**7)


@given(st.dictionaries(st.sampled_from(["input", "output", "cache_read"]), st.tuples(RATE, RATE), min_size=1))
def test_the_drop_rule_is_half(rates: dict[str, tuple[int, int]]) -> None:
    here = {RateKey(name): pair[0] for name, pair in rates.items()}
    there = {RateKey(name): pair[1] for name, pair in rates.items()}
    found = {key.rate for key, _, _ in lowered(here, there)}
    assert found == {name for name, (new, old) in rates.items() if old > 0 and new / old <= 0.5}


# ---- names of rates


def test_what_a_row_charges_where_another_has_a_rate() -> None:
    rates = {
        RateKey("input"): 10, RateKey("output"): 20, RateKey("cache_read"): 1, RateKey("cache_write_5m"): 12,
        RateKey("cache_write_1h"): 16, RateKey("input", "batch"): 5, RateKey("output", "batch"): 9,
        RateKey("input", "", 100): 30, RateKey("output", "", 100): 40, RateKey("per_request"): 7,
    }  # fmt: skip
    asked = {
        RateKey("input"): 10, RateKey("reasoning"): 20, RateKey("input_audio"): 10, RateKey("cache_read_audio"): 1,
        RateKey("cache_write_12h"): 16, RateKey("input", "batch", 100): 5, RateKey("input", "flex", 100): 30,
        RateKey("cache_read", "batch"): 5, RateKey("output", "", 200): 20, RateKey("cache_write_1h", "batch"): 5,
        RateKey("per_request", "high"): 7, RateKey("per_unit.web_search"): None, RateKey("unheard_of"): None,
    }  # fmt: skip
    assert {key: charged(rates, key) for key in asked} == asked
    assert charged({}, RateKey("input")) is None


# ---- old prices are said once


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    monkeypatch.setattr(stale, "_said", set())
    caplog.set_level(logging.WARNING, logger="budget")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "budget"]


def shipped_as(monkeypatch: pytest.MonkeyPatch, retrieved: date, **facts: Any) -> None:
    from dataclasses import replace

    known = PriceBook.shipped().find(KNOWN)
    models = []
    for name in ("old-one", "old-two", "fresh"):
        day = (TODAY + timedelta(1)).isoformat() if name == "fresh" else facts.get("review_by")
        models.append(Model(name, "anthropic", (replace(known.row(NOW), review_by=day),), tokenizer="claude-1"))
    book = PriceBook(models, "f" * 64)
    book.retrieved = retrieved.isoformat()
    monkeypatch.setattr(PriceBook, "shipped", lambda: book)


@pytest.mark.parametrize(("days", "warned"), [(90, False), (91, True)])
def test_an_old_book_is_said_once_per_process(
    days: int, warned: bool, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, make_budget: Make
) -> None:
    shipped_as(monkeypatch, TODAY - timedelta(days))
    make_budget("memory://")
    make_budget("memory://", prices={"mine": {"input": "1", "output": "2"}})  # own prices do not make it newer
    assert ["last read on" in text for text in said()] == [True] * warned


def test_a_price_due_for_review_is_said_when_it_is_used_and_once(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, make_budget: Make
) -> None:
    shipped_as(monkeypatch, TODAY, review_by=(TODAY - timedelta(1)).isoformat())
    budget = make_budget("memory://")
    ask = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    budget.reserve(model="fresh", **ask)
    budget.reserve("$1", user="alice")
    assert said() == []
    budget.reserve(model="old-two", **ask)
    assert [("old-two" in text, "looked at again" in text) for text in said()] == [(True, True)]
    budget.reserve(model="old-one", **ask)
    budget.record(Usage(input=1), model="old-one")
    assert len(said()) == 1


def test_recorded_spend_counts_as_use_and_today_is_not_too_late(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, make_budget: Make
) -> None:
    shipped_as(monkeypatch, TODAY, review_by=TODAY.isoformat())
    budget = make_budget("memory://")
    budget.record(Usage(input=1), model="old-one")
    assert said() == []
    due = stale.Watch(PriceBook.shipped())
    due.used("old-one", None, NOW + DAY)
    due.used("nobody-sells-this", None, NOW + DAY)
    assert ["old-one" in text for text in said()] == [True]


def test_a_disabled_engine_says_nothing_of_prices(
    said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, make_budget: Make
) -> None:
    shipped_as(monkeypatch, TODAY - timedelta(900))
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    make_budget("memory://")
    assert not any("last read" in text for text in said())


# ---- what the ledger keeps


def test_every_entry_of_a_priced_call_has_the_hash_of_the_book(budget_factory: Make) -> None:
    Path("budget-prices.toml").write_text(overlay("mine", row("1", "2"), head='provider = "openai"'))
    budget = budget_factory()
    ask = {"model": "mine", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "provider": "openai"}
    budget.reconcile(budget.reserve(**ask), Usage(input=3, output=2))
    budget.refund(budget.reserve(**ask))
    budget.reconcile(budget.reserve(**ask), usd="0.001")
    budget.record(Usage(input=3), model="mine")
    entries = list(budget.entries())
    assert [entry.kind for entry in entries] == [
        "reserved", "reconciled", "reserved", "refunded", "reserved", "reconciled", "recorded"
    ]  # fmt: skip
    assert {entry.detail["book"] for entry in entries} == {budget.settings.book.hash}
    rates = [entry.detail["rates"] for entry in entries if entry.kind in ("reconciled", "recorded") and entry.usage]
    assert [(card["input"], card["output"]) for card in rates] == [(1_000_000, 2_000_000)] * 2


def test_what_has_no_price_names_no_book(make_budget: Make) -> None:
    budget = make_budget("memory://", on_unpriced="allow")
    budget.reserve("$1")
    budget.reserve(model="nobody-sells-this", messages=[{"role": "user", "content": "hi"}], max_tokens=5)
    assert [entry.detail.get("book") for entry in budget.entries()] == [None, None]


# ---- a layer as such


def test_a_name_that_several_sell_at_different_prices_needs_a_provider() -> None:
    card = {"over": 0, "input": 10, "output": 10}
    sold = [
        Model("llama", "groq", PriceBook.shipped().find(KNOWN).rows),
        Model("llama", "together", PriceBook.shipped().find("claude-haiku-4-5").rows),
    ]
    models = [{"id": "llama", "rows": [{"from": 0, "status": "own", "cards": [card]}]}]
    laid = lay(PriceBook(sold, "f" * 64), Layer("x.toml", lambda: (models, [])), NOW)
    assert ["llama.provider: " in text and "groq, together" in text for text in laid.wrong()] == [True]
    models[0]["provider"] = "groq"
    laid = lay(PriceBook(sold, "f" * 64), Layer("x.toml", lambda: (models, [])), NOW)
    assert {drop.rate.rate for drop in laid.drops} >= {"input", "output"}
    assert laid.replaced == ["llama (groq)"]
