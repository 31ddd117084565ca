"""When money runs short: the words, where they may stand, and what needs no client."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, Frozen, Limit, RunStopped
from budget.commands import LoadPolicy
from budget.ledger import dumps
from budget.policy import Policy
from budget.rows import limit_body, read_limit, read_raises, short_body, short_identity
from budget.short import FLOOR, Short, Way, clamped, parse_short, short_of, short_text, ways_out
from budget.window import FOREVER

Make = Callable[..., Budget]

# The words.

GOOD = {
    "clamp": (Way("clamp", floor=FLOOR),),
    "clamp:200": (Way("clamp", floor=200),),
    "fallback:claude-haiku-4-5": (Way("fallback", models=("claude-haiku-4-5",)),),
    " fallback : a , anthropic.claude-3:0 ": (Way("fallback", models=("a", "anthropic.claude-3:0")),),
    "grow": (Way("grow"),),
    "wait:30s": (Way("wait", seconds=30.0),),
    "wait:0.5s": (Way("wait", seconds=0.5),),
    "wait:2m": (Way("wait", seconds=120.0),),
    "wait:1h": (Way("wait", seconds=3600.0),),
    "ask": (Way("ask"),),
    "clamp:50; fallback:a,b ;wait:5s;ask": (
        Way("clamp", floor=50), Way("fallback", models=("a", "b")), Way("wait", seconds=5.0), Way("ask"),
    ),
}  # fmt: skip
BAD = [
    "", ";", "clamp;", "clmp", "clamp:", "clamp:0", "clamp:-5", "clamp:1.5", "clamp:٣", "clamp:ten", "fallback",
    "fallback:", "fallback:a,,b", "fallback:a b", "wait", "wait:", "wait:30", "wait:30d", "wait:-1s", "wait:0s",
    "wait:2h", "wait:3601s", "ask:me", "ask:", "grow:5", "Clamp", "clamp,ask",
]  # fmt: skip


@pytest.mark.parametrize(("text", "ways"), GOOD.items())
def test_good_words(text: str, ways: Sequence[Way]) -> None:
    assert parse_short(text) == ways
    kept = short_text(text)
    assert parse_short(kept) == ways
    assert short_text(kept) == kept
    assert " " not in kept


@pytest.mark.parametrize("text", BAD)
def test_bad_words_are_named_before_anything_happens(text: str) -> None:
    with pytest.raises(ConfigError, match="somewhere: "):
        parse_short(text, "somewhere")
    with pytest.raises(ConfigError, match="on_short: "):
        Limit("$5/day", on_short=text)


@pytest.mark.parametrize("value", [5, True, b"clamp", ["clamp"], {"clamp": 5}])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="on_short: "):
        Limit("$5/day", on_short=value)


# A lower bound in a body.

THINKS = {"type": "enabled", "budget_tokens": 2000}


@pytest.mark.parametrize(
    ("endpoint", "provider", "body", "to", "fields"),
    [
        ("messages", "anthropic", {"max_tokens": 800}, 200, {"max_tokens": 200}),
        ("chat", "openai", {"max_tokens": 800}, 200, {"max_tokens": 200}),
        ("chat", "openai", {"max_completion_tokens": 800}, 200, {"max_completion_tokens": 200}),
        ("chat", "openai", {"max_completion_tokens": 800, "max_tokens": 100}, 200,
         {"max_completion_tokens": 200, "max_tokens": 100}),
        ("chat", "openai", {}, 200, {"max_completion_tokens": 200}),
        ("chat", "mistral", {}, 200, {"max_tokens": 200}),
        ("chat", "openai", {"max_tokens": None}, 200, {"max_completion_tokens": 200}),
        ("responses", "openai", {"max_output_tokens": 800}, 16, {"max_output_tokens": 16}),
        ("responses", "openai", {"max_output_tokens": 800}, 15, None),
        ("responses", "openai", {}, 300, {"max_output_tokens": 300}),
        ("embeddings", "openai", {}, 300, None),
        ("generateContent", "google", {"generationConfig": {"maxOutputTokens": 9, "topK": 1}}, 5,
         {"generationConfig": {"maxOutputTokens": 5, "topK": 1}}),
        ("converse", "aws-bedrock", {}, 5, {"inferenceConfig": {"maxTokens": 5}}),
        ("messages", "anthropic", {"max_tokens": 4000, "thinking": THINKS}, 2001, {"max_tokens": 2001}),
        ("messages", "anthropic", {"max_tokens": 4000, "thinking": THINKS}, 2000, None),
        ("messages", "anthropic", {"max_tokens": 1000, "thinking": THINKS}, 500, {"max_tokens": 500}),  # interleaved
        ("messages", "anthropic", {"max_tokens": 4000, "thinking": {"type": "adaptive"}}, 20, {"max_tokens": 20}),
        ("chat", "openrouter", {"max_tokens": 4000, "reasoning": {"max_tokens": 2000}}, 1999, None),
        ("converse", "aws-bedrock", {"additionalModelRequestFields": {"thinking": THINKS}}, 1999, None),
    ],
)  # fmt: skip
def test_a_clamped_body(
    endpoint: str, provider: str, body: dict[str, Any], to: int, fields: dict[str, Any] | None
) -> None:
    before = json.dumps(body)
    assert clamped(endpoint, provider, body, to) == fields
    assert json.dumps(body) == before


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_clamp_never_raises_a_bound_nor_breaks_what_was_valid(bound: int, to: int, thinking: int) -> None:
    body = {"max_tokens": bound, "thinking": {"type": "enabled", "budget_tokens": thinking}}
    fields = clamped("messages", "anthropic", body, to)
    if fields is None:
        assert to <= thinking < bound
    else:
        assert fields["max_tokens"] == min(bound, to)
        assert not thinking < bound or thinking < fields["max_tokens"] or to >= bound


# Who says it.


def refusal(make_budget: Make, **options: Any) -> BudgetExceeded:
    with pytest.raises(BudgetExceeded) as caught:
        make_budget("memory://", limits=[Limit("$1/day", **options)]).reserve("$2")
    return caught.value


def test_the_call_before_the_run_before_the_limit(make_budget: Make) -> None:
    no = refusal(make_budget, on_short="clamp:1")
    assert ways_out(["clamp:3", "clamp:2"], no)[0].floor == 3
    assert ways_out([None, "clamp:2", "clamp:5"], no)[0].floor == 2
    assert ways_out([None, "", ""], no)[0].floor == 1
    assert ways_out([], refusal(make_budget)) == ()


@pytest.mark.parametrize("kind", [Frozen, RunStopped])
def test_nothing_is_tried_for_the_frozen_or_the_stopped(make_budget: Make, kind: type[BudgetExceeded]) -> None:
    no = refusal(make_budget, on_short="clamp")
    assert ways_out(["clamp"], kind(no.refusals, no.scope)) == ()


def test_an_ordinary_object_tells_nothing() -> None:
    assert short_of(object()) is None
    assert short_of(None) is None


def test_what_was_done_reads_like_the_ledger() -> None:
    short = Short(clamped={"from": 800, "to": 200})
    assert short.to_dict() == {"clamped": {"from": 800, "to": 200}}
    assert pickle.loads(pickle.dumps(short)) == short
    assert Short().to_dict() == {}


# On a limit.


def test_it_is_an_option_of_a_limit_and_no_part_of_what_it_is() -> None:
    limit = Limit("$5/day", per="user", on_short=" clamp:200 ; ask ")
    assert limit.on_short == "clamp:200;ask"
    assert limit.identity == Limit("$5/day", per="user").identity
    assert limit != Limit("$5/day", per="user")
    assert limit.options == limit.to_dict()["options"] == {"on_short": "clamp:200;ask"}
    assert repr(limit) == "Limit('per=user $5/day', on_short='clamp:200;ask')"
    assert eval(repr(limit), {"Limit": Limit}) == limit
    assert pickle.loads(pickle.dumps(limit)) == limit
    assert limit.raised(5).on_short == limit.on_short


def test_a_refusal_has_the_limit_with_it(make_budget: Make) -> None:
    assert refusal(make_budget, on_short="clamp").limit.on_short == "clamp"


def test_a_limit_of_the_file_may_say_it(make_budget: Make) -> None:
    Path("budget.toml").write_text('[[limits]]\nlimit = "$5/day"\non_short = "clamp:100"\n')
    assert [limit.on_short for limit in make_budget("memory://").limits] == ["clamp:100"]
    Path("budget.toml").write_text('[[limits]]\nlimit = "$5/day"\non_short = "clmp"\n')
    with pytest.raises(ConfigError, match="on_short: 'clmp'"):
        make_budget("memory://")


def stored(budget: Budget) -> dict[str, str]:
    return {str(limit): limit.on_short for limit in budget.limits}


def test_a_limit_of_the_store_keeps_it(store_url: str, make_budget: Make) -> None:
    budget = make_budget(store_url)
    budget.limits.set("$5/day", per="user", on_short="clamp; wait:5s", reason="pilot")
    budget.limits.set("$9/week", per="user")
    assert stored(budget) == {"per=user $5/day": "clamp;wait:5s", "per=user $9/week": ""}
    budget.limits.set("$6/day", per="user", on_short="ask")
    assert stored(budget) == {"per=user $6/day": "ask", "per=user $9/week": ""}
    budget.limits.set("$7/day", per="user")
    assert stored(budget) == {"per=user $7/day": "", "per=user $9/week": ""}
    told = [entry.detail for entry in budget.entries() if entry.kind in ("limit_set", "adjusted", "adjust_ended")]
    assert [detail.get("on_short") for detail in told if detail["limit"] == "per=user $5/day"] == ["clamp;wait:5s"] * 2
    assert {detail.get("reason") for detail in told[:2]} == {"pilot"}


def test_it_goes_with_its_limit(store_url: str, make_budget: Make) -> None:
    budget = make_budget(store_url)
    budget.limits.set("$5/day", on_short="clamp")
    budget.limits.unset("$5/day")
    rows = budget.engine.do(LoadPolicy()).rows
    assert not rows
    budget.limits.set("$5/day")
    assert stored(budget) == {"$5/day": ""}


def test_a_limit_for_a_time_gives_it_back(make_budget: Make) -> None:
    budget = make_budget("memory://")
    first = budget.limits.set("$5/day", on_short="clamp")
    short = budget.limits.set("$9/day", until="2h", on_short="ask")
    assert stored(budget) == {"$9/day": "ask"}
    policy = Policy(1, budget.engine.do(LoadPolicy()).rows, (), now=short.created_us)
    later = policy.at(short.until_us)
    assert [(str(limit), limit.on_short) for limit in policy.limits] == [("$9/day", "ask")]
    assert [(str(limit), limit.on_short) for limit in later.limits] == [("$5/day", "clamp")]
    assert first.created_us < short.created_us
    budget.limits.set("$8/day", until="1h")
    policy = Policy(1, budget.engine.do(LoadPolicy()).rows, (), now=short.created_us + 1)
    assert [policy.at(at).limits[0].on_short for at in (policy.changes_at, short.until_us)] == ["ask", "clamp"]


def test_setting_it_again_since_the_window_began_replaces_it(make_budget: Make) -> None:
    budget = make_budget("memory://")
    budget.limits.set("$5/day", on_short="clamp", backfill=True)
    budget.limits.set("$5/day", backfill=True)  # of the same instant: that of the window's beginning
    assert stored(budget) == {"$5/day": ""}


def test_the_stores_limit_holds_with_its_own(make_budget: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$5/day", on_short="clamp")])
    budget.limits.set("$4/day", on_short="ask")
    assert stored(budget) == {"$4/day": "ask"}
    budget.limits.unset("$4/day")
    assert stored(budget) == {"$5/day": "clamp"}


def test_a_process_that_does_not_know_it_goes_on() -> None:
    """It refuses a limit with an option that it does not know, and counts on every adjustment as on one of a pool."""
    limit = Limit("$5/day", per="user", on_short="clamp").set_in("store", 7)
    identity, body = limit_body(limit)
    assert json.loads(body).keys() == {"text", "created_us"}
    assert read_limit(body).limit == limit.with_short("")
    beside = short_body(limit, body, None)
    assert beside is not None
    row = json.loads(beside)
    assert (row["pool"], row["amount"], row["from"], row["until"]) == ("", 0, FOREVER, FOREVER)
    rows = [("limit", identity, body), ("adjust", short_identity(identity), beside)]
    assert read_raises(rows, 8) == {}
    policy = Policy(1, rows, (), now=8)
    assert policy.ended == []  # nobody takes it for an adjustment that is over
    assert [each.on_short for each in policy.limits] == ["clamp"]
    assert short_identity(identity) == dumps({"on_short": limit.identity})


def test_adjusting_leaves_it(store_url: str, make_budget: Make) -> None:
    budget = make_budget(store_url)
    budget.limits.set("$5/day", user="alice", on_short="clamp")
    (pool,) = budget.adjust("+$2", user="alice")
    assert (str(pool.limit), pool.limit.on_short) == ("user=alice $7/day", "clamp")
    assert stored(budget) == {"user=alice $5/day": "clamp"}


# Waiting without a client.


@pytest.mark.parametrize("door", ["reserve", "aio", "reservation"])
@pytest.mark.parametrize("where", ["limit", "run"])
def test_a_reserve_waits_where_the_limit_or_the_run_says_so(make_budget: Make, door: str, where: str) -> None:
    budget = make_budget("memory://")
    budget.limits.set("$1/day", on_short="clamp;wait:60s" if where == "limit" else None)
    held = budget.reserve("$0.75")
    run = budget.run(on_short="wait:60s") if where == "run" else budget.run()

    def take() -> None:
        with run:
            if door == "reserve":
                budget.reserve("$0.50")
            elif door == "aio":
                asyncio.run(budget.aio.reserve("$0.50"))
            else:
                with budget.reservation("$0.50"):
                    pass

    waits = Thread(target=take, daemon=True)
    waits.start()
    while not budget.engine.verbs.line._places:
        waits.join(0.001)
        assert waits.is_alive()
    budget.refund(held)
    waits.join(60)
    assert not waits.is_alive()
    kinds = [entry.kind for entry in budget.entries()]
    assert kinds.count("reserved") == 2
    assert "refused" in kinds


def test_a_wait_in_vain_is_the_first_refusal(make_budget: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$1/day", on_short="wait:0.05s")])
    budget.reserve("$0.75")
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("$0.50")
    no = caught.value
    assert (no.verdict, str(no.available), str(no.requested)) == ("wait", "0.25", "0.5")
    assert not budget.engine.verbs.line._places


def test_wait_said_by_the_caller_is_what_holds(make_budget: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$1/day", on_short="wait:1h")])
    budget.reserve("$0.75")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0.50", wait=0.05)


def test_nothing_waits_unless_it_was_asked_for(make_budget: Make) -> None:
    budget = make_budget("memory://", limits=[Limit("$1/day", on_short="clamp;fallback:a;ask")])
    with pytest.raises(BudgetExceeded):
        budget.reserve("$2")
    assert [entry.kind for entry in budget.entries()] == ["refused"]
