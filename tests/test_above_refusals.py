"""Refusals of the account above: which account they name, and that what is done about them is done there."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest
from click.testing import CliRunner

from budget import Budget, BudgetExceeded, Frozen
from budget.cli import main
from budget.demo.provider import Provider

REQUEST: dict[str, Any] = {
    "model": "claude-sonnet-4-6", "max_tokens": 4000, "messages": [{"role": "user", "content": "hello"}],
}  # fmt: skip


@pytest.fixture
def company(shared_url: str, make_budget: Callable[..., Budget]) -> Budget:
    made = make_budget(shared_url, account="company")
    made.limits.set("$1/day")
    return made


@pytest.fixture
def team(shared_url: str, company: Budget, make_budget: Callable[..., Budget]) -> Budget:
    made = make_budget(shared_url, account="team", above="company")
    made.limits.set("$5/day")
    return made


def test_it_names_its_account(team: Budget, company: Budget) -> None:
    with pytest.raises(BudgetExceeded) as caught:
        team.reserve("$2", user="alice")
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert [refusal.account for refusal in error.refusals] == ["company"]
        assert str(error).startswith("$1/day (company: everybody): ")
        assert error.to_dict()["account"] == error.to_dict()["refusals"][0]["account"] == "company"
    decision = team.check("$2", user="alice")
    assert decision.refusal is not None
    assert (decision.refusal.account, decision.refusals) == ("company", (decision.refusal,))
    with pytest.raises(BudgetExceeded) as caught:
        team.reserve("$6")
    assert [refusal.account for refusal in caught.value.refusals] == [None]
    assert "account" not in caught.value.to_dict()
    company.freeze(user="alice")
    with pytest.raises(Frozen, match=r"^company: user=alice: frozen$"):
        team.reserve("$0.10", user="alice")
    company.limits.set("$0.01/day", mode="shadow", per="user")
    assert [each.account for each in team.check("$0.10", user="bob").shadows] == ["company"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as made:
        yield made


def test_who_is_asked_raises_the_pool_that_refused(
    shared_url: str, make_budget: Callable[..., Budget], provider: Provider
) -> None:
    company = make_budget(shared_url, account="company")
    company.limits.set("$0.001/day")
    team = make_budget(shared_url, account="team", above="company", on_ask=lambda no: "+$1")
    team.limits.set("$5/day")
    client = team.wrap(anthropic.Anthropic(api_key="key", base_url=provider.url, max_retries=0))
    client.messages.create(**REQUEST, extra_body={"budget_on_short": "ask"})
    assert [str(pool.limit) for pool in team.status()] == ["$5/day", "$1.001/day"]
    assert [entry.kind for entry in company.entries()].count("adjusted") == 1
    assert "adjusted" not in [entry.kind for entry in team.entries()]


def test_a_refund_by_command_gives_back_both(team: Budget, company: Budget, shared_url: str) -> None:
    reserved = team.reserve("$0.60")
    environment = {"BUDGET_STORE": shared_url, "BUDGET_ACCOUNT": "team", "BUDGET_ABOVE": "company"}
    words = ["reservations", "refund", reserved.id, "--reason", "it died"]
    for _ in range(2):
        result = CliRunner().invoke(main, words, env=environment)
        assert (result.exit_code, result.stdout) == (0, "refunded: $0.60\n")
        assert [pool.reserved for pool in team.status()] == [0, 0]
    assert [entry.detail.get("reason") for entry in company.entries() if entry.kind == "refunded"] == ["it died"]
    company.refund(company.reserve("$1"))


def test_a_run_by_command_has_it_in_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUDGET_STORE", "BUDGET_ACCOUNT", "BUDGET_ABOVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("budget.toml").write_text('store = "sqlite:///a.db"\naccount = "team"\nabove = "company"\n')
    spend = "import os; os.chdir('/'); from budget import Budget; Budget().record(usd='0.5')"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for options in ([], ["--account", "company"]):
        result = CliRunner().invoke(main, ["run", *options, "--", sys.executable, "-c", spend])
        assert result.exit_code == 0, result.output
    with Budget(account="company") as company:
        company.limits.set("$9/day", backfill=True)
        assert [pool.spent for pool in company.status()] == [Decimal(1)]


def test_the_account_above_is_worked_with_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the name is in the environment, which goes before the file."""
    monkeypatch.chdir(tmp_path)
    Path("budget.toml").write_text('store = "memory://"\naccount = "team"\nabove = "company"\n')
    monkeypatch.setenv("BUDGET_ACCOUNT", "company")
    with Budget() as budget:
        assert (budget.settings.account, budget.settings.above) == ("company", None)
