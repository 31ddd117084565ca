"""docs/adding-a-provider.md: its example runs as it stands, against a provider on loopback, and keeps its promises."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from budget import Budget, BudgetExceeded
from budget.demo.provider import Provider, Reply
from budget.errors import Unbounded
from tests.clients.conftest import CHAT, only_end

PAGE = (Path(__file__).parents[2] / "docs" / "adding-a-provider.md").read_text()
BODY = {**CHAT, "model": "acme-1"}
PRICES = {"acme-1": {"input": "0.10", "output": "0.40"}}


def example(url: str) -> dict[str, Any]:
    """What the snippets of the page define."""
    names: dict[str, Any] = {"ACME_URL": url}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(compile(block, "adding-a-provider.md", "exec"), names)
    return names


def test_the_example_runs_and_meters(provider: Provider, capsys: pytest.CaptureFixture[str]) -> None:
    names = example(provider.url)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("{'prompt_tokens'")
    usages = [seen.usage for seen in provider.requests]
    assert len(usages) == 2
    cost = sum(u["prompt_tokens"] * Decimal("1e-7") + u["completion_tokens"] * Decimal("4e-7") for u in usages if u)
    assert Decimal(printed[2]) == cost > 0
    names["budget"].close()


def test_it_refuses_before_it_sends_and_where_nobody_reserved(provider: Provider) -> None:
    names = example(provider.url)
    seen = len(provider.requests)
    poor = Budget("memory://", limits=["$0.000001/day"], prices=PRICES)
    client = names["guard"](poor, names["Eager"](provider.url))
    for ask in (client.chat, client.stream):
        with pytest.raises(BudgetExceeded):
            ask(**BODY)
    with pytest.raises(Unbounded, match="POST /v1/files"):
        client._send("/v1/files", {})
    late = names["guard"](names["budget"], names["Client"](provider.url)).stream(**BODY)
    with pytest.raises(Unbounded):  # the mistake that the page points at
        next(late)
    assert len(provider.requests) == seen
    names["budget"].close()
    poor.close()


def test_a_retry_is_one_reservation_and_an_error_is_refunded(provider: Provider, budget: Budget) -> None:
    names = example(provider.url)
    names["budget"].close()
    replies = [Reply(status=429), Reply(), Reply(status=400)]
    provider._script = lambda request: replies.pop(0)
    rich = Budget("memory://", limits=["$1/day"], prices=PRICES)
    client = names["guard"](rich, names["Eager"](provider.url))
    client.chat(**BODY)
    assert only_end(rich).kind == "reconciled"
    with pytest.raises(HTTPError) as error:
        client.chat(**BODY)
    error.value.close()
    assert [entry.kind for entry in rich.entries()][-2:] == ["reserved", "refunded"]
    rich.close()
