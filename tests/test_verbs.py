"""What the verbs make of their arguments, and what they answer beside the plain way: disabled, rolling, out of time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, Estimate, RunStopped
from budget.testing import Sandbox

Make = Callable[..., Budget]
HELLO = [{"role": "user", "content": "hello there"}]
ASKED: dict[str, Any] = {"model": "gpt-4.1-mini", "max_tokens": 5, "messages": HELLO}


# What is asked for.


def test_the_provider_of_a_request_is_whose_price_and_limit_it_is(make_budget: Make) -> None:
    b = make_budget("memory://", limits=["provider=azure $0/day"])
    assert b.estimate(**ASKED, provider="azure").provider == "azure"
    assert b.check(**ASKED, user="alice")
    assert not b.check(**ASKED, user="alice", provider="azure")
    made = b.reserve("$0", provider="azure", user="alice")
    assert made.scope == {"provider": "azure", "user": "alice"}
    assert b.reserve(**ASKED, provider="openai", user="alice").scope["provider"] == "openai"
    with pytest.raises(ConfigError, match="provider: 'nobody' is not one of"):
        b.reserve(**ASKED, provider="nobody")


def test_the_endpoint_of_a_request_is_no_tag(make_budget: Make) -> None:
    b = make_budget("memory://", limits=["$1/day"])
    assert b.reserve(**ASKED, endpoint="chat", user="alice").scope.keys() == {"model", "provider", "user"}
    with pytest.raises(ConfigError, match="endpoint: 'nowhere' is not one of"):
        b.reserve(**ASKED, endpoint="nowhere")
    speech = {"model": "tts-1", "input": "hello", "voice": "alloy"}
    with b.reservation(**speech, endpoint="speech") as guard:
        assert guard.usd == b.estimate(**speech, endpoint="speech").usd_max > 0


@pytest.fixture
def estimate(make_budget: Make) -> Estimate:
    return make_budget("memory://").estimate(model="claude-sonnet-4-5", max_tokens=5, messages=HELLO)


@pytest.mark.parametrize(
    ("attributes", "match"),
    [
        ({"model": "claude-opus-4-6"}, "model: the estimate is of claude-sonnet-4-5, not of 'claude-opus-4-6'"),
        ({"model": "nobody-knows-it"}, "model: the estimate is of claude-sonnet-4-5"),
        ({"provider": "azure"}, "provider: the estimate is of anthropic, not of 'azure'"),
        ({"model": "claude-sonnet-4-5", "provider": "aws-bedrock"}, "provider: the estimate is of anthropic"),
    ],
)
def test_an_attribute_does_not_contradict_an_estimate(
    make_budget: Make, estimate: Estimate, attributes: dict[str, str], match: str
) -> None:
    b = make_budget("memory://", limits=["model=claude-opus-4-6 $0/day", "provider=azure $0/day"])
    for verb in (b.reserve, b.check, b.reservation, lambda *a, **k: asyncio.run(b.aio.reserve(*a, **k))):
        with pytest.raises(ConfigError, match=match):
            verb(estimate, user="alice", **attributes)
    assert list(b.entries()) == []


def test_an_attribute_that_says_what_the_estimate_says(make_budget: Make, estimate: Estimate) -> None:
    b = make_budget("memory://")
    for name in ("claude-sonnet-4-5", "claude-sonnet-4-5-20250929"):
        made = b.reserve(estimate, model=name, provider="anthropic", user="alice")
        assert made.scope == {"model": "claude-sonnet-4-5", "provider": "anthropic", "user": "alice"}
    with pytest.raises(ArgumentTypeError, match="model"):
        b.reserve(estimate, model=5)
    with b.run(model="claude-opus-4-6"):  # an attribute of the run: what is nearer to the call wins
        assert b.reserve(estimate).scope["model"] == "claude-sonnet-4-5"


@pytest.mark.parametrize("tools", [None, [{"type": "web_search_20250305", "name": "web_search"}]])
def test_a_cap_that_is_no_amount(make_budget: Make, tools: Any) -> None:
    more = {} if tools is None else {"tools": tools}
    asked = make_budget("memory://").estimate(model="claude-haiku-4-5", max_tokens=50, messages=HELLO, **more)
    assert asked.closed == (tools is None)
    assert asked.exceeds("$0.000000001")
    assert asked.exceeds("$100") == (tools is not None)
    with pytest.raises(ArgumentTypeError, match="cap"):
        asked.exceeds(0.1)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cap"):
        asked.exceeds("rubbish")


# Disabled.


@pytest.fixture
def disabled(monkeypatch: pytest.MonkeyPatch, make_budget: Make) -> Budget:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    limits = ["$1/day", "2 tokens/day", "5 input tokens/run", "$0.01/request", "1 concurrent"]
    return make_budget("redis://127.0.0.1:1/0", limits=limits)


def test_a_limit_of_tokens_does_not_stop_a_disabled_budget(disabled: Budget) -> None:
    made = disabled.reserve("$5", user="alice")
    assert (str(made.usd), made.scope) == ("5", {"user": "alice"})
    assert disabled.reserve("$5", wait=1).state == "open"
    assert disabled.reconcile(made, usd="7").state == "reconciled"
    with disabled.run("$1", cap="$0.1", max_calls=1, deadline=0.000001) as run:
        disabled.reserve("$5")
        disabled.reserve("$5")
    assert run.calls == 2
    assert disabled.check("$5")


def test_a_block_of_a_disabled_budget_has_its_figures(disabled: Budget) -> None:
    with disabled.reservation("$5", user="alice") as held:
        assert (len(held.id), str(held.usd), held.ended) == (32, "5", True)
        held.reconcile(usd="1")
        held.refund()

    async def block() -> str:
        async with disabled.reservation("$5") as awaited:
            return awaited.id

    assert asyncio.run(block()) != held.id
    assert list(disabled.entries()) == []


def test_a_disabled_budget_freezes_and_unfreezes_nobody(disabled: Budget) -> None:
    disabled.freeze(user="alice")
    disabled.reserve("$5", user="alice")
    disabled.unfreeze(user="alice")
    assert list(disabled.limits.freezes()) == []
    assert disabled.adjust("+$1")
    disabled.limits.set("$2/day", backfill=True)


# What would be refused.


def test_a_check_after_the_deadline_is_a_no(estimate: Estimate) -> None:
    with Sandbox(limits=["$1/day"]) as b, b.run(deadline=10) as run, b.run(deadline=100):
        assert b.check("$1")
        b.clock.move("11s")
        decision = b.check("$1")
        with pytest.raises(RunStopped) as refused:
            b.reserve("$1")
        assert not decision
        assert decision.refusal is not None
        assert (decision.refusal.unit, decision.refusal.subject["run"]) == ("deadline", run.id)
        assert decision.to_dict()["refusal"] == refused.value.refusal.to_dict()
        assert not asyncio.run(b.aio.check(estimate))
        b.freeze(user="alice")
        frozen = b.check("$1", user="alice")
        assert frozen.refusal is not None
        assert frozen.refusal.unit == "usd"


def test_a_check_of_a_rolling_limit_says_by_when_the_call_fits_at_the_latest() -> None:
    with Sandbox(limits=["$1/10m rolling"]) as b:
        for usd in ("0.6", "0.4"):
            b.record(usd=usd)
            b.clock.move("2m")
        latest = b.check("$0.5").refusal
        with pytest.raises(BudgetExceeded) as refused:
            b.reserve("$0.5")
        assert latest is not None
        assert latest.resets_at is not None
        assert refused.value.resets_at is not None
        assert refused.value.resets_at < latest.resets_at
        b.clock.move_to(refused.value.resets_at)
        assert b.check("$0.5")
        assert not b.check("$0.7")
        b.clock.move_to(latest.resets_at)
        assert b.check("$1")
