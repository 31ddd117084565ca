"""prices: list, show, set, check, diff."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke import Cli

from budget.cli import ownfile
from budget.cli.pricediff import Catalogue, compare, read_genai_prices, read_litellm
from budget.config import price_book
from budget.errors import ConfigError
from budget.prices import PriceBook
from budget.prices.keys import RateKey, named_rates

KNOWN = "claude-sonnet-4-6"
OWN = Path("budget-prices.toml")
TODAY = datetime.now(UTC).date()
NOW = int(datetime.now(UTC).timestamp()) * 10**6


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("budget.cli.output.is_terminal", lambda: True)


def rows() -> list[dict[str, Any]]:
    """The rows of the only model in the own file."""
    (model,) = tomllib.loads(OWN.read_text())["models"]
    return model["prices"]


# ---- list and show


def test_list(cli: Cli) -> None:
    found = cli.json("prices", "list")["models"]
    assert found == cli.json("prices")["models"]
    known = next(x for x in found if (x["model"], x["provider"]) == (KNOWN, "anthropic"))
    assert known == {
        "provider": "anthropic", "model": KNOWN, "input": "3", "output": "15", "cache_read": "0.3",
        "context": 1_000_000, "since": known["since"], "status": "confirmed", "origin": "shipped",
    }  # fmt: skip
    date.fromisoformat(known["since"])
    book = PriceBook.shipped()
    current = {(m.provider, m.id) for m in book.models() if m.row(NOW).status != "retired"}
    assert {(x["provider"], x["model"]) for x in found} == current
    assert len(cli.json("prices", "list", "--all")["models"]) == len(list(book.models())) > len(found)
    assert [(x["provider"], x["model"]) for x in found] == sorted((x["provider"], x["model"]) for x in found)


def test_list_is_narrowed_by_word_and_provider(cli: Cli) -> None:
    found = cli.json("prices", "list", "SONNET", "--provider", "anthropic")["models"]
    assert found
    assert all("sonnet" in x["model"] and x["provider"] == "anthropic" for x in found)
    assert cli.lines("prices", "list", "sonnet-4-6", "--provider", "anthropic")[0][:5] == [
        "anthropic", KNOWN, "3", "15", "0.3"
    ]  # fmt: skip
    assert "no such model" in cli("prices", "list", "nothing-like-it").stderr
    assert cli.json("prices", "list", "--provider", "acme", code=2)["error"] == "ConfigError"


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.usefixtures("terminal")
def test_tables_fit_their_terminal(cli: Cli, columns: int) -> None:
    for command in (["list", "--all"], ["show", KNOWN], ["show", "gpt-5.5"], ["diff"]):
        if command == ["diff"]:
            pytest.importorskip("genai_prices")
        shown = cli("prices", *command, columns=columns).stdout
        lines = [line for line in shown.splitlines() if not line.startswith("source")]  # an address stays whole
        assert max(map(len, lines)) <= columns, command
    shown = cli("prices", "list", KNOWN, "--provider", "anthropic", columns=columns).stdout
    assert KNOWN in shown
    assert ("context" in shown) == (columns == 160) or len(shown.splitlines()[1]) <= columns


def test_show(cli: Cli) -> None:
    found = cli.json("prices", "show", f"{KNOWN}-20260301")
    assert (found["model"], found["provider"], found["tokenizer"]) == (KNOWN, "anthropic", "claude-1")
    assert (found["snapshots"], found["context"], found["max_output"]) == (["date8"], 1_000_000, 128_000)
    row = found["rows"][-1]
    assert [x["holds"] for x in found["rows"]] == [False] * (len(found["rows"]) - 1) + [True]
    assert row["rates"] == {
        "input": "3", "output": "15", "cache_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6",
        "input batch": "1.5", "output batch": "7.5", "cache_read batch": "0.15", "cache_write_5m batch": "1.875",
        "cache_write_1h batch": "3",
    }  # fmt: skip
    assert row["per_call"]["per_unit.web_search"] == "0.01"
    assert row["factors"] == [{"when": {"inference_geo": ["us"]}, "multiply": "1.1"}]
    assert row["source"].startswith("https://")
    assert (row["origin"], row["status"]) == ("shipped", "confirmed")
    date.fromisoformat(row["retrieved"])
    shown = cli("prices", "show", KNOWN).stdout
    for text in ("tokenizer\tclaude-1", "each web_search\t$0.01", "batch\t1.5\t7.5\t0.15", "x 1.1\tevery token, if "
                 "inference_geo=us", "the shipped prices", "cache write 5m 3.75", "(holds)"):  # fmt: skip
        assert text in shown, text


def test_show_one_day(cli: Cli) -> None:
    rows = cli.json("prices", "show", KNOWN)["rows"]
    assert len(rows) > 1
    day = date.fromisoformat(rows[1]["since"]) - timedelta(1)
    (row,) = cli.json("prices", "show", KNOWN, "--at", str(day))["rows"]
    assert (row["since"], row["holds"]) == (rows[0]["since"], True)
    assert cli.json("prices", "show", KNOWN, "--at", "yesterday", code=2)["error"] == "ConfigError"


def test_show_has_tiers_hours_and_media(cli: Cli) -> None:
    OWN.write_text(
        'schema = 1\n[[models]]\nid = "odd"\nprovider = "acme"\naliases = ["odder"]\n[[models.prices]]\n'
        'from = 2026-01-01\ninput = "2"\noutput = "4"\ninput_audio = "9"\nreasoning = "3"\n'
        'review_by = 2026-02-01\nper_request = "0.005"\n'
        'tiers = [{over_input_tokens = 1000, input = "3", output = "5", input_audio = "9", reasoning = "3"}]\n'
        'hours = [{from = "16:30", until = "00:30", input = "1", output = "2"}]\n'
    )
    found = cli.json("prices", "show", "odder")
    assert found["aliases"] == ["odder"]
    (row,) = found["rows"]
    assert row["rates"] == {
        "input": "2", "output": "4", "input_audio": "9", "reasoning": "3", "input >1000": "3", "output >1000": "5",
        "input_audio >1000": "9", "reasoning >1000": "3", "input 16:30-00:30": "1", "output 16:30-00:30": "2",
    }  # fmt: skip
    assert row["per_call"] == {"per_request": "0.005"}
    assert (row["origin"], row["review_by"], row["status"]) == ("budget-prices.toml", "2026-02-01", "own")
    shown = cli("prices", "show", "odd").stdout
    for text in (
        "standard, over 1,000 input\t3\t5",
        "16:30-00:30\t1\t2",
        "each request\t$0.005",
        "review by\t2026-02-01",
    ):
        assert text in shown, text


def test_an_unknown_model_is_an_error_with_the_nearest_names(cli: Cli) -> None:
    found = cli.json("prices", "show", "claude-sonet-4-6", code=1)
    assert found["error"] == "UnknownModel"
    assert KNOWN in found["message"]
    assert cli.json("prices", "show", KNOWN, "--provider", "groq", code=1)["error"] == "UnknownModel"


# ---- set


def test_set_writes_a_row_that_holds(cli: Cli) -> None:
    shown = cli("prices", "set", "mine", "--input", "0.10", "--output", "0.40").stdout
    assert "input: none -> 0.1" in shown
    assert oct(OWN.stat().st_mode & 0o777) == "0o644"
    assert OWN.read_text().startswith("# Prices of our own")
    assert rows() == [{"from": TODAY, "input": "0.10", "output": "0.40"}]
    found = price_book().find("mine")
    assert (found.rows[0].rates.input, found.provider) == (100_000, "")
    assert cli.json("prices", "list", "mine")["models"][0]["origin"] == "budget-prices.toml"
    assert os.listdir() == ["budget-prices.toml"]


def test_set_takes_every_option_and_says_what_changed(cli: Cli) -> None:
    found = cli.json(
        "prices", "set", KNOWN, "--input", "2.7", "--output", "13.5", "--cache-read", "0.27", "--cache-write",
        "5m=3.375", "--cache-write", "1h=5.4", "--per-request", "0.001", "--provider", "anthropic",
    )  # fmt: skip
    changes = {x["rate"]: (x["old"], x["new"]) for x in found.pop("changes")}
    assert found == {"file": str(OWN.absolute()), "model": KNOWN, "provider": "anthropic", "from": str(TODAY)}
    assert changes["input"] == ("3", "2.7")
    assert changes["cache_write_1h"] == ("6", "5.4")
    assert changes["input batch"] == ("1.5", "2.7")
    assert changes["per_request"] == (None, "0.001")
    assert changes["per_unit.web_search"] == ("0.01", None)
    assert "cache_read" in changes
    assert rows()[0]["cache_write"] == {"5m": "3.375", "1h": "5.4"}
    said = cli("prices", "set", KNOWN, "--input", "2.6", "--output", "13.5")
    assert "input: 2.7 -> 2.6" in said.stdout
    assert "cache_read: 0.27 -> 2.6" in said.stdout  # without a price of its own it costs as input
    assert "rates of their own" not in said.stderr  # the row before had none
    assert "batch" in cli("prices", "set", "claude-haiku-4-5", "--input", "0.9", "--output", "4.5").stderr


def test_set_keeps_history(cli: Cli) -> None:
    first, later = str(TODAY - timedelta(40)), str(TODAY - timedelta(20))
    cli("prices", "set", "mine", "--input", "1", "--output", "2", "--from", first)
    cli("prices", "set", "mine", "--input", "0.9", "--output", "2", "--from", later)
    cli("prices", "set", "mine", "--input", "0.8", "--output", "2", "--from", later)  # the same day: replaced
    cli("prices", "set", "mine", "--input", "0.7", "--output", "2")
    assert [(str(x["from"]), str(x.get("until")), x["input"]) for x in rows()] == [
        (first, later, "1"), (later, str(TODAY), "0.8"), (str(TODAY), "None", "0.7")
    ]  # fmt: skip
    found = price_book().find("mine")
    assert [row.rates.input for row in found.rows] == [1_000_000, 800_000, 700_000]
    before = OWN.read_bytes()
    said = cli("prices", "set", "mine", "--input", "0.6", "--output", "2", "--from", later, code=2).stderr
    assert f"from: {later} is before" in said
    assert OWN.read_bytes() == before


def test_set_for_a_later_day_leaves_today(cli: Cli) -> None:
    day = TODAY + timedelta(30)
    cli("prices", "set", KNOWN, "--input", "2.9", "--output", "15", "--from", str(day))
    found = price_book().find(KNOWN)
    assert found.rates(NOW).input == 3_000_000
    assert found.rates(NOW + 31 * 86_400 * 10**6).input == 2_900_000
    assert cli.json("prices", "show", KNOWN)["rows"][-1]["holds"] is False


def test_set_needs_lower_for_half_or_less(cli: Cli) -> None:
    ask = ["prices", "set", KNOWN, "--output", "15", "--input"]
    found = cli.json(*ask, "1.5", code=2)
    assert found["error"] == "ConfigError"
    assert f"{KNOWN}.row from {TODAY}.input: 1.5 is half or less of 3" in found["message"]
    assert "--lower" in found["message"]
    assert not OWN.exists()
    cli(*ask, "1.5", "--lower")
    assert rows()[0]["lower"] is True
    assert price_book().find(KNOWN).rates(NOW).input == 1_500_000
    cli(*ask, "9", "--lower")
    assert "of 9 in budget-prices.toml" in cli(*ask, "4", code=2).stderr  # the one in effect counts too
    assert price_book().find(KNOWN).rates(NOW).input == 9_000_000
    cli("prices", "set", "free", "--input", "0", "--output", "0")  # nothing is known of it


def test_set_writes_nothing_that_is_not_valid(cli: Cli) -> None:
    bad = [
        ["mine", "--input", "1.5e3", "--output", "2"],
        ["mine", "--input", "-1", "--output", "2"],
        ["mine", "--input", "1", "--output", "0.0000001"],
        ["mine", "--input", "1", "--output", "2", "--cache-read", "1.1"],
        ["mine", "--input", "1", "--output", "2", "--cache-write", "1.25"],
        ["mine", "--input", "1", "--output", "2", "--cache-write", "5m=1", "--cache-write", "5m=2"],
        ["mine", "--input", "1", "--output", "2", "--from", "soon"],
        ["mine", "--input", "1", "--output", "2", "--provider", "A B"],
        ["two words", "--input", "1", "--output", "2"],
        ["bell\a", "--input", "1", "--output", "2"],
        ["mine\udcff", "--input", "1", "--output", "2"],
        ["mine", "--input", "1"],
        ["", "--input", "1", "--output", "2"],
    ]
    for words in bad:
        assert cli("prices", "set", *words, code=2).stderr
        assert os.listdir() == [], words


def test_set_leaves_a_faulty_file_alone(cli: Cli) -> None:
    OWN.write_text('schema = 1\n[[models]]\nid = "mine"\n')
    assert "mine.prices" in cli("prices", "set", "mine", "--input", "1", "--output", "2", code=2).stderr
    assert OWN.read_text().endswith('id = "mine"\n')


def test_set_prices_an_alias_under_all_its_names_and_a_snapshot_alone(cli: Cli) -> None:
    book = PriceBook.shipped()
    known = next(m for m in book.models() if m.aliases and m.provider == "openai" and m.row(NOW).rates.input)
    rates = named_rates(known.row(NOW))
    price = str(Decimal(rates[RateKey("input")]) / 10**6 + 1)
    cli("prices", "set", known.aliases[0], "--input", price, "--output", "600")
    assert [model["id"] for model in tomllib.loads(OWN.read_text())["models"]] == [known.id]
    found = price_book()
    assert found.find(known.id, "openai") is found.find(known.aliases[0], "openai")
    assert found.find(known.id, "openai").rates(NOW).output == 600_000_000
    OWN.unlink()
    cli("prices", "set", f"{KNOWN}-20260301", "--input", "4", "--output", "20")
    found = price_book()
    assert found.find(f"{KNOWN}-20260301").rates(NOW).input == 4_000_000
    assert found.find(KNOWN).rates(NOW).input == 3_000_000


def test_set_says_when_another_layer_goes_before_it(cli: Cli) -> None:
    Path("budget.toml").write_text(f'[[prices]]\nmodel = "{KNOWN}"\ninput = "2.8"\noutput = "15"\n')
    said = cli("prices", "set", KNOWN, "--input", "2.9", "--output", "15")
    assert "it does not hold: the price in budget.toml: [[prices]] goes before it" in said.stderr
    assert "input: 2.8 -> 2.9" in said.stdout


def test_set_writes_beside_the_nearest_budget_toml_and_keeps_what_stands_there(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("budget.toml").write_text("")
    OWN.write_text(
        'schema = 1\n[source]\nurl = "https://example.org/x"\nretrieved = 2026-11-01\n[[models]]\nid = "a\\"b"\n'
        'aliases = ["ä", "c"]\n[[models.prices]]\nfrom = 2026-01-01\ninput = "1"\noutput = "2"\nnote = "quo\\"te"\n'
        'tiers = [{over_input_tokens = 9, input = "2", output = "3"}]\nper_unit = {web_search = "0.01"}\n'
        "unusual = false\n"
    )
    OWN.chmod(0o640)
    before, here = tomllib.loads(OWN.read_text()), OWN.absolute()
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    cli("prices", "set", "mine", "--input", "1", "--output", "2")
    assert os.listdir() == []
    after = tomllib.loads(here.read_text())
    assert after["models"].pop()["id"] == "mine"
    assert after == before
    assert oct(here.stat().st_mode & 0o777) == "0o640"


def test_the_file_is_read_and_written_while_others_wait(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    steps = []

    def locked(step: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            folder = os.open(".", os.O_RDONLY)
            with pytest.raises(BlockingIOError):  # a lock belongs to who opened the folder, so this is another process
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(folder)
            steps.append(step)
            step(*args)

        return call

    monkeypatch.setattr(ownfile, "put_row", locked(ownfile.put_row))
    monkeypatch.setattr(ownfile, "write", locked(ownfile.write))
    cli("prices", "set", "mine", "--input", "1", "--output", "2")
    assert len(steps) == 2
    with ownfile.alone(OWN.absolute()):
        pass  # it was let go


def test_a_write_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ownfile.write(OWN, {"schema": 1})
    before = OWN.read_text()
    monkeypatch.setattr("os.fsync", lambda fd: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="full"):
        ownfile.write(OWN, {"schema": 2})
    assert OWN.read_text() == before
    assert os.listdir() == [OWN.name]


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.dates() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab-_ é"\n', min_size=1), inner, max_size=3),
)


@given(st.dictionaries(st.text('ab-_ é"\n', min_size=1), VALUES, max_size=4))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, table: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    content = {"schema": 1, "models": [{"id": "x", **table, "prices": [table, {**table, "z": 1}]}]}
    ownfile.write(path, content)
    assert tomllib.loads(path.read_text(encoding="utf-8")) == content


# ---- check


def test_check_of_the_shipped_prices(cli: Cli) -> None:
    found = cli.json("prices", "check")
    book = PriceBook.shipped()
    assert (found["ok"], found["files"], found["faults"], found["drops"]) == (True, [], [], [])
    assert (found["book"], found["retrieved"]) == (book.hash, book.retrieved)
    assert found["age_days"] == (TODAY - date.fromisoformat(book.retrieved or "")).days


def test_check_tells_all_faults_and_drops_at_once(cli: Cli) -> None:
    head = f'schema = 1\n[[models]]\nid = "{KNOWN}"\n[[models.prices]]\nfrom = 2026-01-01\n'
    Path("bad.toml").write_text(head + 'input = "x"\noutput = 3\ncolour = "red"\n')
    Path("low.toml").write_text(head + 'input = "1"\noutput = "0"\n')
    Path("good.toml").write_text(head + 'input = "2.9"\noutput = "15"\n')
    Path("budget.toml").write_text('price_files = ["bad.toml", "low.toml", "good.toml", "gone.toml"]')
    found = cli.json("prices", "check", code=1)
    assert not found["ok"]
    assert [x["file"] for x in found["faults"]] == ["bad.toml"] * 3 + ["gone.toml"]
    assert [x["fault"].partition(":")[0] for x in found["faults"][:3]] == [
        f"{KNOWN}.row from 2026-01-01.{name}" for name in ("input", "output", "colour")
    ]  # fmt: skip
    drops = [(x["file"], x["rate"], x["price"], x["known"], x["known_from"]) for x in found["drops"]]
    assert drops == [("low.toml", "input", "1", "3", "shipped"), ("low.toml", "output", "0", "15", "shipped")]
    assert {"file": "good.toml", "model": f"{KNOWN} (anthropic)"} in found["replaced"]
    shown = [line for line in cli.lines("prices", "check", code=1) if line[0] == "FAULT"]
    assert [line[1] for line in shown] == ["bad.toml"] * 3 + ["low.toml"] * 2 + ["gone.toml"]


def test_check_of_files_that_are_named(cli: Cli) -> None:
    Path("budget.toml").write_text('price_files = ["gone.toml"]')
    Path("mine.toml").write_text(
        'schema = 1\n[[models]]\nid = "mine"\n[[models.prices]]\nfrom = 2026-01-01\ninput = "1"\noutput = "2"\n'
        "review_by = 2026-02-01\n"
    )
    found = cli.json("prices", "check", "mine.toml")
    assert (found["ok"], found["files"], found["replaced"]) == (True, ["mine.toml"], [])
    assert "mine" in found["review"]
    assert "adds models" in cli("prices", "check", "mine.toml").stdout
    assert "mine" in next(line for line in cli.lines("prices", "check", "mine.toml") if line[1] == "review")[2]
    assert not cli.json("prices", "check", "absent.toml", code=1)["ok"]


def test_check_says_when_the_book_is_old(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.lines("prices", "check")[-1][:2] == ["ok", "shipped prices"]
    book = PriceBook([PriceBook.shipped().find(KNOWN)], "f" * 64)
    book.retrieved = (TODAY - timedelta(91)).isoformat()
    monkeypatch.setattr(PriceBook, "shipped", lambda: book)
    assert cli.lines("prices", "check")[-1] == ["note", "shipped prices", f"read 91 days ago ({book.retrieved})"]


# ---- diff

LITELLM = {
    "sample_spec": {"mode": "one of: chat, embedding", "input_cost_per_token": 0, "litellm_provider": "one of https"},
    KNOWN: {
        "litellm_provider": "anthropic", "mode": "chat", "source": "x",
        "input_cost_per_token": 3e-06, "output_cost_per_token": 1.6e-05,
        "cache_read_input_token_cost": 3e-07, "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06, "input_cost_per_token_batches": 1.5e-06,
        "input_cost_per_token_above_200k_tokens": 6e-06, "output_cost_per_reasoning_token": None,
    },
    "claude-of-nobody": {"litellm_provider": "anthropic", "mode": "chat", "input_cost_per_token": 1e-06},
    "gpt-image": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 1e-06},
    "groq/openai/gpt-oss-120b": {"litellm_provider": "groq", "mode": "chat", "input_cost_per_token": 1e-09},
    "vertex_ai/claude-sonnet-4-5@20250929": {
        "litellm_provider": "vertex_ai-anthropic_models", "mode": "chat", "input_cost_per_token": 3e-06,
    },
}  # fmt: skip


def test_diff_against_litellms_file(cli: Cli) -> None:
    Path("catalogue.json").write_text(json.dumps(LITELLM))
    found = cli.json("prices", "diff", "catalogue.json", "--provider", "anthropic")
    (provider,) = found["providers"]
    assert (provider["equal"], provider["different"], provider["only_there"]) == (0, 1, ["claude-of-nobody"])
    assert "claude-haiku-4-5" in provider["only_here"]
    assert found["differences"] == [
        {"provider": "anthropic", "model": KNOWN, "rate": "output", "ours": "15", "theirs": "16"},
        {"provider": "anthropic", "model": KNOWN, "rate": "input >200000", "ours": "3", "theirs": "6"},
    ]
    found = cli.json("prices", "diff", "catalogue.json")
    assert {x["provider"] for x in found["providers"]} >= {"anthropic", "groq", "google-vertex"}
    assert {"openai"}.isdisjoint(x["provider"] for x in found["providers"])
    assert next(x for x in found["differences"] if x["provider"] == "groq")["theirs"] == "0.001"
    shown = cli("prices", "diff", "catalogue.json", "--provider", "anthropic")
    assert f"anthropic\t{KNOWN}\toutput\t15\t16" in shown.stdout
    assert "2 rates differ" in shown.stderr


def test_diff_judges_what_would_be_charged(cli: Cli) -> None:
    cli("prices", "set", KNOWN, "--input", "3", "--output", "16", "--cache-write", "5m=3.75")
    Path("catalogue.json").write_text(json.dumps(LITELLM))
    found = cli.json("prices", "diff", "catalogue.json", "--provider", "anthropic")
    assert {x["rate"]: (x["ours"], x["theirs"]) for x in found["differences"]} == {
        "cache_read": ("3", "0.3"), "cache_write_1h": ("3.75", "6"), "input batch": ("3", "1.5"),
        "input >200000": ("3", "6"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{}", '{"a": {"mode": "chat"}}', "[" * 10**5, "\xff"])
def test_diff_refuses_what_is_no_catalogue(cli: Cli, text: str) -> None:
    Path("odd.json").write_text(text, encoding="latin-1")
    assert cli.json("prices", "diff", "odd.json", code=2)["error"] == "ConfigError"
    assert cli.json("prices", "diff", "absent.json", code=2)["message"].startswith("absent.json: ")


def test_diff_against_genai_prices(cli: Cli) -> None:
    pytest.importorskip("genai_prices", reason="genai-prices is not installed")
    found = cli.json("prices", "diff")
    assert found["catalogue"] == "genai-prices"
    counts = {x["provider"]: (x["equal"], x["different"]) for x in found["providers"]}
    assert counts["anthropic"][0] >= 20
    assert counts["openai"][0] >= 60
    assert len(counts) >= 2
    first = found["differences"][0]
    cli.json("prices", "diff", "--provider", first["provider"])
    assert cli.json("prices", "diff", "--provider", "acme", code=2)["error"] == "ConfigError"


def test_diff_says_that_genai_prices_is_not_installed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices.data", None)
    found = cli.json("prices", "diff", code=2)
    assert found["error"] == "ConfigError"
    assert "genai-prices is not installed" in found["message"]


def test_genai_prices_never_starts_its_updater(monkeypatch: pytest.MonkeyPatch) -> None:
    update = pytest.importorskip("genai_prices.update_prices", reason="genai-prices is not installed")
    monkeypatch.setattr(update.UpdatePrices, "start", lambda *_: pytest.fail("the updater was started"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was used"))
    catalogue = read_genai_prices(datetime.now(UTC))
    offer = catalogue.find("anthropic", "claude-opus-5-5-20260922")
    assert offer is not None
    assert (offer[RateKey("input")], offer[RateKey("output", "fast")]) == (4_000_000, 40_000_000)


def test_a_catalogue_in_exact_figures(tmp_path: Path) -> None:
    path = tmp_path / "exact.json"
    facts = '"litellm_provider": "deepseek", "mode": "chat"'
    path.write_text(f'{{"deepseek/x": {{{facts}, "input_cost_per_token": 1.23456e-13}}}}')
    assert dict(read_litellm(path).offers["deepseek"]["x"]) == {RateKey("input"): Decimal("0.123456")}
    with pytest.raises(ConfigError, match="is not LiteLLM's"):
        read_litellm_text(tmp_path, "[1]")


def read_litellm_text(folder: Path, text: str) -> Catalogue:
    (folder / "x.json").write_text(text)
    return read_litellm(folder / "x.json")


def test_each_model_is_counted_once() -> None:
    book = PriceBook.shipped()
    mine = [model for model in book.models() if model.provider == "anthropic"]
    same = {RateKey("input"): Decimal(book.find(KNOWN).rates(NOW).input)}
    names = {KNOWN: same, f"{KNOWN}-20260301": {RateKey("input"): Decimal(7)}, "nobody": same}
    find: Callable[[str, str], Any] = lambda provider, name: names.get(name)  # noqa: E731
    (found,) = compare(book, Catalogue("x", {"anthropic": names}, find), NOW)
    assert (found.equal, found.different, found.only_there) == (0, 1, ["nobody"])
    assert found.equal + found.different + len(found.only_here) == len(mine)
    assert [(d.model, d.ours, d.theirs) for d in found.differences] == [(KNOWN, 3_000_000, Decimal(7))]


@pytest.fixture(autouse=True)
def no_leftovers() -> Iterator[None]:
    yield
    assert not [name for name in os.listdir() if name.startswith(".budget")], "a temporary file was left"
