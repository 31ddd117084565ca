"""Loops in tool calls: the rule, the search, and the calls that a request's body shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget import ArgumentTypeError, BudgetError, ConfigError
from budget.loopguard import LoopGuard
from budget.loops import Loop, looped, read_loop
from budget.turns import Turns

# The rule.


@pytest.mark.parametrize(
    ("given", "rule"),
    [(3, Loop(3, 9)), ("3", Loop(3, 9)), ("3 in 10", Loop(3, 10)), (" 2 in 2 ", Loop(2, 2)), (Loop(4), Loop(4, 12))],
)
def test_a_rule_is_read(given: object, rule: Loop) -> None:
    assert read_loop(given) == rule
    assert read_loop(str(rule)) == rule


WRONG: list[tuple[type[BudgetError], object]] = [
    (ConfigError, 1), (ConfigError, 0), (ConfigError, -3), (ConfigError, 51), (ConfigError, "3 in 2"),
    (ConfigError, "3 in 0"), (ConfigError, "3 in 201"), (ConfigError, "three"), (ConfigError, ""),
    (ConfigError, "3in10"), (ConfigError, "٣"), (ArgumentTypeError, True), (ArgumentTypeError, 3.0),
    (ArgumentTypeError, None), (ArgumentTypeError, [3]), (ArgumentTypeError, lambda name, arguments: 1),
]  # fmt: skip


@pytest.mark.parametrize(("error", "given"), WRONG)
def test_what_is_no_rule(error: type[BudgetError], given: object) -> None:
    with pytest.raises(error, match="loop"):
        read_loop(given)


def test_a_rule_checks_its_fields() -> None:
    wrong: Any
    for wrong in ({"times": 3, "within": 9.0}, {"times": "3"}, {"times": 3, "key": "name"}):
        with pytest.raises(ArgumentTypeError):
            Loop(**wrong)
    with pytest.raises(ConfigError):
        Loop(3, within=-1)


# The search.


def ends(calls: str, rule: Loop) -> bool:
    """Whether the last of these calls, oldest first, ends a loop."""
    return looped(calls[::-1], 1, rule)


def test_the_same_call_n_times_within_m() -> None:
    rule = Loop(3, 10)
    assert not ends("AA", rule)
    assert ends("AAA", rule)
    assert ends("A1234A5678A", Loop(3, 11))
    assert not ends("A1234A5678A", rule)  # the first is one too long ago
    assert not ends("AAAB", rule)  # the loop was left


def test_a_cycle_of_several_calls() -> None:
    rule = Loop(3, 5)
    assert ends("ABCABCABC", rule)
    assert ends("xyABCDEABCDEABCDE", rule)
    assert not ends("ABCDEABCDEABCD", rule)  # not yet three times
    assert not ends("ABCDEABCXEABCDE", rule)
    assert not ends("ABCDEFABCDEFABCDEF", rule)  # longer than what is looked for


def test_each_call_of_the_last_turn_is_judged() -> None:
    calls = "AABA" + "C"  # the model asked for A and C at once
    assert not looped(calls[::-1], 1, Loop(3, 9))
    assert looped(calls[::-1], 2, Loop(3, 9))
    assert not looped("", 1, Loop(3, 9))
    assert not looped("AAAA", 0, Loop(3, 9))


@given(st.text("ABC", max_size=40), st.integers(2, 4), st.integers(0, 6))
def test_a_loop_is_what_the_definition_says(calls: str, times: int, more: int) -> None:
    rule = Loop(times, times + more)
    last = calls[-rule.within :]
    often = bool(calls) and last.count(calls[-1]) >= times
    cycle = any(calls.endswith(calls[-p:] * times) for p in range(2, rule.within + 1) if len(calls) >= p * times)
    assert ends(calls, rule) == (often or cycle)


# What calls are compared by.


def test_a_digest_is_of_the_value() -> None:
    rule = Loop(3)
    same = [{"a": 1, "b": [2]}, {"b": [2], "a": 1}, '{"a": 1, "b": [2]}', '{"b":[2],"a":1}']
    assert len({rule.digest("f", each) for each in same}) == 1
    others = [("g", same[0]), ("f", {"a": 1}), ("f", None), ("f", "{broken"), ("f", "plain words")]
    assert len({rule.digest(*each) for each in [("f", same[0]), *others]}) == 6
    for wrong in (object(), {1, 2}, b"x"):
        with pytest.raises(ArgumentTypeError, match="arguments"):
            rule.digest("f", wrong)
    with pytest.raises(ArgumentTypeError, match="name"):
        rule.digest(b"f", {})  # type: ignore[arg-type]


def test_a_key_of_ones_own() -> None:
    rule = Loop(3, key=lambda name, arguments: None if name == "poll" else (name, arguments["q"]))
    assert rule.digest("f", {"q": 1, "at": 1}) == rule.digest("f", '{"q": 1, "at": 2}')
    assert rule.digest("poll", {}) is None
    with pytest.raises(ArgumentTypeError, match="hashed"):
        Loop(3, key=lambda name, arguments: [name]).digest("f", {})  # type: ignore[arg-type,return-value]


# Requests.


def anthropic(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for name, value, id in calls:
        messages += [
            {"role": "assistant", "content": [
                {"type": "text", "text": "let me see"}, {"type": "tool_use", "id": id, "name": name, "input": value},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "ok"}]},
        ]  # fmt: skip
    return {"model": "m", "messages": messages}


def chat(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": "s"}, {"role": "user", "content": "go"}]
    for name, value, id in calls:
        function = {"name": name, "arguments": json.dumps(value)}
        call = {"id": id, "type": "function", "function": function}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": id, "content": "ok"},
        ]
    return {"messages": messages}


def chat_of_old(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for name, value, _ in calls:
        messages.append({"role": "assistant", "function_call": {"name": name, "arguments": json.dumps(value)}})
        messages.append({"role": "function", "name": name, "content": "ok"})
    return {"messages": messages}


def custom(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for name, value, id in calls:
        call = {"id": id, "type": "custom", "custom": {"name": name, "input": f"plain {value}"}}
        messages += [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": id, "content": "ok"}]
    return {"messages": messages}


def responses(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    items: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
    for name, value, id in calls:
        items += [
            {"type": "reasoning", "id": f"rs_{id}", "summary": []},
            {"type": "function_call", "call_id": id, "name": name, "arguments": json.dumps(value)},
            {"type": "function_call_output", "call_id": id, "output": "ok"},
        ]
    return {"input": items}


def gemini(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    contents: list[dict[str, Any]] = [{"role": "user", "parts": [{"text": "go"}]}]
    for name, value, _ in calls:
        contents += [
            {"role": "model", "parts": [{"functionCall": {"name": name, "args": value}}]},
            {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {}}}]},
        ]
    return {"contents": contents}


def converse(calls: list[tuple[str, Any, str]]) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"text": "go"}]}]
    for name, value, id in calls:
        messages += [
            {"role": "assistant", "content": [{"toolUse": {"toolUseId": id, "name": name, "input": value}}]},
            {"role": "user", "content": [{"toolResult": {"toolUseId": id, "content": [{"text": "ok"}]}}]},
        ]
    return {"messages": messages}


SHAPES = [anthropic, chat, chat_of_old, custom, responses, gemini, converse]


def turns(names: str) -> list[tuple[str, Any, str]]:
    return [(name, {"q": name}, f"id{number}") for number, name in enumerate(names)]


@pytest.mark.parametrize("shape", SHAPES)
def test_calls_are_read_from_every_shape(shape: Any) -> None:
    found = Turns(shape(turns("ABC")))
    assert (found.last, [call.name for call in found.read(2)]) == (1, ["C", "B"])
    assert [call.name for call in found.read(100)] == ["C", "B", "A"]
    none = Turns(shape([]))
    assert (none.last, none.read(100)) == (0, [])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loop_is_found_while_the_conversation_grows(shape: Any) -> None:
    def found(names: str) -> list[bool]:
        guard = LoopGuard(Loop(3, 5))
        return [guard.finds(shape(turns(names[: n + 1]))) for n in range(len(names))]

    assert found("AAA") == [False, False, True]
    assert found("ABACA") == [False] * 4 + [True]
    assert found("ABCDABCDABCD") == [False] * 11 + [True]
    assert found("ABCDEFGHIJAB") == [False] * 12


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_sent_again_counts_once(shape: Any) -> None:
    guard = LoopGuard(Loop(3, 9))
    for names in ("A", "A", "AA", "AA", "AAB", "AAB"):
        assert not guard.finds(shape(turns(names)))
    assert guard.finds(shape(turns("AABA")))
    assert guard.finds(shape(turns("AABA")))  # refused, and sent once more
    assert not guard.finds(shape(turns("AABB")))  # the model was asked again, and went another way


def test_arguments_are_compared_by_value() -> None:
    texts = ['{"a": 1, "b": "x y"}', '{"b":"x y","a":1}', '{ "a":1,\n"b":"x y" }']
    body = chat([])
    for number, text in enumerate(texts):
        function = {"name": "f", "arguments": text}
        body["messages"].append({"role": "assistant", "tool_calls": [{"id": str(number), "function": function}]})
        body["messages"].append({"role": "tool", "tool_call_id": str(number), "content": "ok"})
        found = LoopGuard(Loop(2)).finds(body)
    assert not found  # of calls that the guard did not see being made, the last alone is this run's
    calls = Turns(body).read(9)
    assert calls[0] == calls[1] == calls[2]
    body["messages"][-2]["tool_calls"][0]["function"]["arguments"] = '{"b":"x y","a":2}'
    calls = Turns(body).read(9)
    assert calls[0] != calls[1]


def test_conversations_side_by_side_do_not_mix() -> None:
    guard = LoopGuard(Loop(3, 9))
    for number in range(20):
        assert not guard.finds(anthropic([("time", {}, f"id{number}")]))


def test_calls_before_the_run_are_not_the_runs() -> None:
    first, second = LoopGuard(Loop(3)), LoopGuard(Loop(3))
    for n in (1, 2):
        assert not first.finds(anthropic(turns("AAA")[:n]))
    assert first.finds(anthropic(turns("AAA")))
    again = anthropic(turns("AAA"))
    again["messages"] += [{"role": "assistant", "content": "I am stuck"}, {"role": "user", "content": "go on"}]
    assert not second.finds(again)
    more = [("A", {"q": "A"}, f"new{n}") for n in range(3)]
    found = []
    for n in range(1, 4):
        body = anthropic(more[:n])
        body["messages"] = again["messages"] + body["messages"][1:]
        found.append(second.finds(body))
    assert found == [False, False, True]


def test_ids_that_a_server_gives_twice() -> None:
    guard = LoopGuard(Loop(3))
    same: list[tuple[str, Any, str]] = [("A", {}, "call_0")] * 3
    assert [guard.finds(chat(same[:n])) for n in (1, 2, 3)] == [False, False, True]


def test_a_history_that_was_cut() -> None:
    guard = LoopGuard(Loop(3, 9))
    found = []
    for n in range(1, 4):
        body = anthropic(turns("AAA")[:n])
        body["messages"] = body["messages"][-6:]
        found.append(guard.finds(body))
    assert found == [False, False, True]


def test_calls_at_once_are_one_turn() -> None:
    def body(*rounds: str) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "go"}]
        for number, names in enumerate(rounds):
            uses = [{"type": "tool_use", "id": f"{number}.{i}", "name": n, "input": {}} for i, n in enumerate(names)]
            messages += [{"role": "assistant", "content": uses}, {"role": "user", "content": []}]
        return {"messages": messages}

    thoughtful = responses(turns("AB"))
    del thoughtful["input"][3]  # the answer to A: both calls are one turn, with a thought between them
    assert Turns(thoughtful).last == 2
    guard = LoopGuard(Loop(3))
    rounds = ["AB", "CA", "AD"]
    assert [guard.finds(body(*rounds[:n])) for n in (1, 2, 3)] == [False, False, True]


def test_a_key_of_ones_own_on_requests() -> None:
    guard = LoopGuard(Loop(3, key=lambda name, arguments: None if name == "poll" else name))
    bodies = [[("poll", {}, f"p{n}") for n in range(9)], [("f", {"at": n}, f"f{n}") for n in range(3)]]
    found = [[guard.finds(chat(calls[:n])) for n in range(1, len(calls) + 1)] for calls in bodies]
    assert found == [[False] * 9, [False, False, True]]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"messages": None}, {"messages": "text"}, {"messages": [1, None, "x"]}, {"input": "words"},
        {"messages": [{"role": "assistant", "content": "x" * 100_000}]},
        {"messages": [{"role": "assistant", "tool_calls": [None, {}, {"function": 3}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use"}, 7]}]},
        {"contents": [{"role": "model", "parts": [{"functionCall": None}]}]},
    ],
)  # fmt: skip
def test_an_odd_body_is_no_loop(body: dict[str, Any]) -> None:
    guard = LoopGuard(Loop(2, 3))
    assert not guard.finds(body)


def test_nothing_of_a_request_is_kept() -> None:
    guard = LoopGuard(Loop(3))
    guard.finds(anthropic([("send", {"text": "a secret of alice"}, "toolu_secret")]))
    guard.tell("send", {"text": "a secret of alice"}, keep=True)
    assert "secret" not in repr(vars(guard))


# By hand.


def test_calls_told_by_hand() -> None:
    guard = LoopGuard(Loop(2, 3))
    assert not guard.tell("f", {}, keep=True)
    assert guard.tell("f", {}, keep=False)
    assert guard.tell("f", {}, keep=True)  # not made, so not counted
    assert not guard.tell("g", {}, keep=True)
    assert not guard.tell("h", {}, keep=True)
    assert not guard.tell("f", {}, keep=True)  # the first is out of the three
    assert not guard.tell("g", {}, keep=True)
    assert guard.tell("f", {}, keep=True)
    assert not guard.tell("x", {}, keep=True)
    assert not guard.tell("f", {}, keep=True)  # the one before was refused


def test_who_tells_calls_is_believed() -> None:
    guard, calls = LoopGuard(Loop(2, 3)), [("f", {}, "1"), ("f", {}, "2")]
    assert not guard.finds(chat(calls[:1]))
    guard.tell("g", {}, keep=True)
    assert not guard.finds(chat(calls))


def test_peeking_keeps_nothing() -> None:
    guard = LoopGuard(Loop(2, 3))
    for _ in range(5):
        assert not guard.tell("f", {}, keep=False)
    calls = [("f", {}, "1"), ("f", {}, "2")]
    assert [guard.finds(chat(calls[:n])) for n in (1, 2)] == [False, True]
