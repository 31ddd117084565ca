"""A model by any of its names: what is set, asked or stopped under the name that an agent sends is about its calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from budget import Budget, BudgetExceeded, CapExceeded, Frozen, Limit
from budget.cli import main
from budget.errors import ConfigError
from budget.limits import name_model
from budget.prices import PriceBook
from budget.rows import limit_body
from budget.testing import Sandbox

HAIKU, SONNET = "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"
CALL = {"max_tokens": 4000, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def budget(store_url: str) -> Iterator[Budget]:
    with Budget(store_url, prices={"mine": {"input": "1", "output": "2"}}) as made:
        yield made


def call(budget: Budget, model: str) -> None:
    budget.reconcile(budget.reserve(model=model, **CALL), {"input_tokens": 10, "output_tokens": 10})


def test_a_limit_cap_and_freeze_of_a_snapshot_hold_for_its_calls(budget: Budget) -> None:
    made = budget.limits.set("$0.001/day", model=SONNET)
    budget.limits.set("model=gpt-4.1-mini-2025-04-14 $0.001/request")
    budget.freeze(model=HAIKU)
    assert str(made) == "model=claude-sonnet-4-5 $0.001/day"
    for name, error in ((SONNET, BudgetExceeded), ("gpt-4.1-mini-2025-04-14", CapExceeded), (HAIKU, Frozen)):
        with pytest.raises(error):
            call(budget, name)
    assert budget.limits.freezes() == [{"model": "claude-haiku-4-5"}]
    budget.unfreeze(model=HAIKU)
    call(budget, "claude-haiku-4-5")


def test_a_limit_of_code_and_of_the_file_holds_for_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("budget.toml").write_text(f'[[limits]]\nlimit = "$0.001/day"\nmodel = "{HAIKU}"\n')
    with Budget("memory://", limits=[f"model={SONNET} $0.001/day", "per=model $1/day"]) as budget:
        assert [str(limit) for limit in budget.limits] == [
            "model=claude-sonnet-4-5 $0.001/day", "per=model $1/day", "model=claude-haiku-4-5 $0.001/day",
        ]  # fmt: skip
        for name in (SONNET, HAIKU):
            with pytest.raises(BudgetExceeded, match="model=claude"):
                call(budget, name)


def test_every_question_about_an_alias_is_one_about_the_model(budget: Budget) -> None:
    budget.limits.set("$5/day", model=HAIKU)
    call(budget, HAIKU)
    assert [str(limit) for limit in budget.limits.list(model=HAIKU)] == ["model=claude-haiku-4-5 $5/day"]
    [pool] = budget.status(model=HAIKU)
    assert pool.spent > 0
    [raised] = budget.adjust("+$1", model=HAIKU)
    assert raised.available == pool.available + 1
    found = {name: [e.kind for e in budget.entries(model=name)] for name in (HAIKU, "claude-haiku-4-5")}
    assert found[HAIKU] == found["claude-haiku-4-5"] == ["reserved", "reconciled"]
    assert list(budget.entries(model=SONNET)) == []
    assert [str(limit) for limit in budget.limits.unset("$9/day", model=HAIKU)] == ["model=claude-haiku-4-5 $5/day"]
    budget.limits.set("$5/day", model=HAIKU)
    assert budget.limits.unset(model=HAIKU)
    with pytest.raises(ConfigError, match="there is none"):
        budget.limits.unset(model=HAIKU)


def test_a_name_that_nobody_knows_or_several_sell_stays(budget: Budget) -> None:
    book = budget.settings.book
    for name in ("nope", "mine", "gpt-oss-120b", "claude-haiku-4-5-20259999"):
        assert name_model(book, {"model": name, "user": "a"}) == {"model": name, "user": "a"}
        assert str(budget.limits.set("$1/day", model=name)) == f"model={name} $1/day"
        budget.freeze(model=name)
        assert budget.status(model=name)
        assert list(budget.entries(model=name)) == []
        budget.unfreeze(model=name)
        budget.limits.unset("$1/day", model=name)
    assert name_model(book, {"model": HAIKU, "provider": "nope"}) == {"model": HAIKU, "provider": "nope"}


def test_the_provider_says_which_book_names_it() -> None:
    named = Limit("$1/day", model="us.anthropic.claude-sonnet-4-5-20250929-v1:0", provider="aws-bedrock")
    with Sandbox(limits=[named]) as budget:
        (limit,) = budget.limits.list()
        assert dict(limit.selector) == name_model(budget.settings.book, dict(named.selector))
        with pytest.raises(BudgetExceeded):
            budget.reserve("$2", model="us.anthropic.claude-sonnet-4-5-20250929-v1:0", provider="aws-bedrock")


def test_with_its_provider_every_model_has_its_own_name() -> None:
    """Also where it is its maker's name of another model: "gpt-5.6" of Azure and of OpenAI."""
    book = PriceBook.shipped()
    for model in book.models():
        sold = {"model": model.id, "provider": model.provider}
        assert name_model(book, sold) == sold


def test_what_an_older_version_stored_under_an_alias_can_be_removed(budget: Budget) -> None:
    from budget.commands import ChangePolicy

    identity, body = limit_body(Limit("$5/day", model=HAIKU).set_at(7))
    budget.engine.do(ChangePolicy("limit", identity, body, {}))
    budget.engine.do(ChangePolicy("freeze", f'[["model","{HAIKU}"]]', "{}", {}))
    budget.engine.verbs.forget_policy()
    assert [str(limit) for limit in budget.limits.unset("$5/day", model=HAIKU)] == [f"model={HAIKU} $5/day"]
    budget.unfreeze(model=HAIKU)
    assert (list(budget.limits), list(budget.limits.freezes())) == ([], [])
    with pytest.raises(ConfigError, match="no freeze"):
        budget.unfreeze(model=HAIKU)


def test_the_command_line_finds_calls_by_any_name_of_their_model(sqlite_url: str) -> None:
    with Budget(sqlite_url, limits=["$5/day"]) as b:
        b.reserve(model=SONNET, max_tokens=10, messages=[{"role": "user", "content": "hi"}])
    for command in (["ledger", "tail"], ["reservations", "list"]):
        done = CliRunner().invoke(main, [*command, f"model={SONNET}", "--store", sqlite_url, "--json"])
        assert len(json.loads(done.stdout)) == 1, command
