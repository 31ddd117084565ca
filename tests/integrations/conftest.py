"""What the tests of frameworks share: a provider that keeps asking for a tool, and what a limit makes of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from budget import Budget
from budget.demo.provider import Provider, Reply, Request

CLAUDE, GPT = "claude-sonnet-4-6", "gpt-4.1-mini"
PRICES = {
    CLAUDE: ("0.000003", "0.000015"),
    GPT: ("0.0000004", "0.0000016"),
    "gpt-4.1-nano": ("0.0000001", "0.0000004"),
}  # USD per token of input, of output


class Loop:
    """A provider whose model calls the agent's tool again and again, but for a last answer in words.

    Attributes:
        calls: After how many calls it answers in words; None: never.
        talker: The model that always answers in words.
    """

    def __init__(self) -> None:
        self.calls: int | None = None
        self.talker: str | None = None
        self.provider = Provider(script=self._reply)

    def _reply(self, request: Request) -> Reply:
        body = request.json
        done = self.calls is not None and len(self.provider.requests) > self.calls
        return Reply(tool=bool(body.get("tools")) and not done and body["model"] != self.talker, output=40)

    @property
    def url(self) -> str:
        """The base URL of Anthropic's clients; OpenAI's have /v1 behind it."""
        return self.provider.url

    def billed(self) -> Decimal:
        """What the provider would bill for what it logged."""
        self.provider.wait()
        return sum((_cost(seen.model, seen.usage) for seen in self.provider.requests if seen.usage), Decimal())


def _cost(model: str | None, usage: dict[str, Any]) -> Decimal:
    price_in, price_out = map(Decimal, PRICES[model or ""])
    told_in = usage.get("input_tokens", usage.get("prompt_tokens"))
    told_out = usage.get("output_tokens", usage.get("completion_tokens"))
    return int(told_in) * price_in + int(told_out) * price_out


def spent(budget: Budget) -> Decimal:
    """What the ledger says was spent, with nothing left reserved."""
    store = budget.engine.store
    assert not list(store.reservations(budget.settings.account))
    return sum((entry.usd for entry in budget.entries()), Decimal())


def scopes(budget: Budget) -> list[dict[str, str]]:
    """The attributes of each call that was admitted, oldest first."""
    return [dict(entry.scope) for entry in budget.entries() if entry.kind == "reserved"]


@pytest.fixture(autouse=True)
def nothing_unhandled(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A refusal comes out of the framework's call, and nowhere else: no traceback is printed or logged."""
    yield
    gc.collect()  # a task's error that nobody asked for is logged when the task is dropped
    shown = "".join([*capfd.readouterr(), caplog.text])
    assert "Traceback (most recent call last)" not in shown, shown
    assert "never retrieved" not in shown, shown


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    with made.provider:
        yield made
        made.provider.wait()


@pytest.fixture
def budget(make_budget: Callable[..., Budget]) -> Budget:
    return make_budget("memory://", limits=["$100/day"])
