"""What messages add is remembered by their content: the answer never differs from that of a walk without a memory."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import python
from hypothesis import example, given, settings
from hypothesis import strategies as st

from budget import Budget, ConfigError
from budget.aio import off_loop
from budget.estimator import Measure, inline, measure, memo, tokens, walk

SHAPES = ("messages", "chat", "responses")
PROVIDER = {"messages": "anthropic", "chat": "openai", "responses": "openai"}
LONG = "It was a bright cold day in April, and the clocks were striking thirteen. " * 8


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    memo._memos.clear()
    yield
    memo._memos.clear()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are counted from now on."""
    texts: list[str] = []
    census = walk.census

    def spy(text: str, vocabulary: str) -> Any:
        texts.append(text)
        return census(text, vocabulary)

    monkeypatch.setattr(walk, "census", spy)
    return texts


def body(messages: list[Any], shape: str = "messages") -> dict[str, Any]:
    return {"input" if shape == "responses" else "messages": messages, "model": "m", "max_tokens": 10}


def measured(messages: list[Any], shape: str = "messages") -> Measure:
    fields = body(messages, shape)
    if shape == "responses":
        del fields["max_tokens"]
    return measure(fields, provider=PROVIDER[shape], endpoint=shape)


def afresh(messages: list[Any], shape: str = "messages") -> Measure:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "memo_of", lambda method, vocabulary: None)
        return measured(messages, shape)


def talk(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"role": "user" if i % 2 == 0 else "assistant", "content": f"{i} {LONG}"} for i in range(start, start + count)
    ]


def step(i: int) -> dict[str, Any]:
    """A message of an agent: calls of tools in Anthropic's shape, and their results."""
    if i % 2:
        return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": f"t{i}", "content": f"{i} {LONG}"}]}
    call = {"type": "tool_use", "id": f"t{i + 1}", "name": "read", "input": {"path": f"/{i}", "lines": i, "all": True}}
    return {"role": "assistant", "content": [{"type": "text", "text": f"{i} {LONG}"}, call]}


# What is counted.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 31, 127, 128, 300])
def test_only_what_is_new_is_counted(shape: str, count: int, counted: list[str]) -> None:
    messages = talk(count)
    assert measured(messages, shape) == measured(messages, shape)
    assert len(counted) == count
    messages += talk(2, count)
    grown = measured(messages, shape)
    assert counted[count:] == [message["content"] for message in messages[count:]]
    assert grown == afresh(messages, shape)


def test_blocks_are_remembered_too(counted: list[str]) -> None:
    messages = [step(i) for i in range(40)]
    measured(messages)
    before = len(counted)
    messages.append(step(40))
    assert measured(messages) == afresh([*messages])
    assert len(counted) - before < 10 + 3 * 41  # those of `afresh`, and of the new message
    again = len(counted)
    measured([step(i) for i in range(41)])  # other objects, the same content
    assert len(counted) == again


def test_other_vocabularies_and_other_apis_are_apart(counted: list[str]) -> None:
    messages = talk(1)
    for vocabulary in ("cl100k", "o200k"):
        for shape in ("messages", "chat"):
            found = measure(body(messages), provider=PROVIDER[shape], endpoint=shape, vocabulary=vocabulary)
            assert found.vocabulary == vocabulary
    assert len(counted) == 4


# What must not be taken for the same.


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[3].update(content="short"),
        lambda m: m[3].update(content=[{"type": "text", "text": "short"}]),
        lambda m: m[2]["content"][1]["input"].update(path="/a/much/longer/path/than/it/was/before"),
        lambda m: m[2]["content"][0].update(cache_control={"type": "ephemeral", "ttl": "1h"}),
        lambda m: m[2]["content"].append({"type": "text", "text": "and so on"}),
        lambda m: m[2]["content"].pop(),
        lambda m: m.pop(0),
        lambda m: m.reverse(),
        lambda m: m[3]["content"][0].update(is_error=True, content=None),
    ],
)
def test_a_message_that_was_changed_in_place_is_counted_anew(change: Callable[[Any], None]) -> None:
    messages = [step(i) for i in range(40)]
    measured(messages)
    change(messages)
    assert measured(messages) == afresh(messages)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (True, 1),
        (1, 1.0),
        (1, "1"),
        (None, "None"),
        (-1, -2),
        (5, 5 + 2**61 - 1),
        (1e22, 10**22),
        ([], {}),
        ("", 0),
        (0.0, -0.0),
    ],
)
def test_values_that_are_equal_are_not_the_same_json(first: Any, second: Any) -> None:
    def message(value: Any) -> dict[str, Any]:
        call = {"type": "tool_use", "id": "t", "name": "n", "input": {"value": value, "values": [value]}}
        return {"role": "assistant", "content": [call]}

    for value in (first, second, first):
        assert measured([message(value)]) == afresh([message(value)])


def test_names_count_too() -> None:
    """`{1: ...}` and `{"1": ...}` are written the same and equal nothing; 1 and True are equal."""
    for name in ("a", "b" * 400, 1, True, 1.0):
        messages = [
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {name: "x"}}]}
        ]
        assert measured(messages) == afresh(messages)


@pytest.mark.parametrize("wrong", [0, 0.0, False, 1, {"a": 1}, {1}])
def test_what_is_no_content_is_an_error_after_what_looks_like_it(wrong: Any) -> None:
    measured([{"role": "user", "content": ""}, {"role": "user", "content": "1"}])
    with pytest.raises((ConfigError, TypeError)):
        measured([{"role": "user", "content": wrong}])


@pytest.mark.parametrize("role", [["user"], {"a": 1}, 1, None])
def test_what_is_no_role_is_no_surprise(role: Any) -> None:
    """Also where it cannot be hashed."""
    for content in ("hi", [{"type": "text", "text": "hi"}]):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(walk, "memo_of", lambda method, vocabulary: None)
            right = _said([{"role": role, "content": content}])
        assert _said([{"role": role, "content": content}]) == right


def _said(messages: list[Any]) -> Any:
    try:
        return measured(messages).reasons
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_error_names_the_place_however_much_is_remembered(shape: str) -> None:
    messages: list[Any] = talk(300)
    measured(messages, shape)
    messages[130] = {"role": "user", "content": [{"text": "no type"}]}
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"\[130\].content\[0\].type: is missing"):
            measured(messages, shape)


def test_what_has_no_bound_says_so_every_time_with_its_place() -> None:
    messages: list[Any] = [step(i) for i in range(40)]
    messages[7] = {"role": "user", "content": [{"type": "hologram"}]}
    for place in (7, 8, 9):
        found = measured(messages)
        assert found.reasons == (f"messages[{place}].content[0]: hologram",)
        assert found == afresh(messages)
        messages.insert(0, step(100 + place))
    many = [{"role": "user", "content": [{"type": "hologram"}]} for _ in range(300)]
    assert measured(many) == afresh(many)
    assert len(measured(many).reasons) == 21


def test_a_list_that_holds_itself_is_refused_as_before() -> None:
    value: list[Any] = []
    value.append(value)
    call = {"type": "tool_use", "id": "t", "name": "n", "input": {"value": value}}
    with pytest.raises(ConfigError, match="is nested deeper than"):
        measured([{"role": "assistant", "content": [call]}])


def test_models_of_an_sdk_are_known_by_what_they_hold(counted: list[str]) -> None:
    from anthropic.types import TextBlock

    block = TextBlock(type="text", text=LONG)
    messages: list[Any] = [{"role": "assistant", "content": [block]}]
    found = measured(messages)
    assert measured([{"role": "assistant", "content": [TextBlock(type="text", text=LONG)]}]) == found
    assert counted == [LONG]
    block.text = "short"
    assert measured(messages) == afresh(messages) != found


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 2**61, "", "0", "1", "True", "é" * 300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, st.sampled_from(["", "a", LONG, "Ωmega " * 60])),
    st.builds(lambda value: {"type": "tool_use", "id": "t", "name": "n", "input": {"value": value}}, VALUES),
    st.builds(
        lambda flag: {"type": "tool_result", "tool_use_id": "t", "content": "r", "is_error": flag}, st.booleans()
    ),
    st.just({"type": "text", "text": "cached", "cache_control": {"type": "ephemeral"}}),
    st.just({"type": "unheard of"}),
)
MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant"]),
        "content": st.sampled_from(["", "hi", LONG]) | st.lists(BLOCKS, max_size=3),
    }
)


@given(VALUES, VALUES)
@example([[[[[["x"]]]]]], [[], [], [], [], ["x"]])
@example([["x"], []], [[], ["x"]])
@example({"a": "b"}, ["a", "b"])
@example(["a", ["b"]], [["b"], "a"])
@settings(max_examples=300, deadline=None)
def test_a_key_is_of_one_structure(first: Any, second: Any) -> None:
    same = json.dumps(first) == json.dumps(second)
    assert (memo.key_of([{"v": first}]) == memo.key_of([{"v": second}])) is same
    assert (memo.key_of([{"v": first}, {"v": second}]) == memo.key_of([{"v": second}, {"v": first}])) is same


@given(st.lists(MESSAGES, min_size=1, max_size=10), st.data())
@settings(max_examples=200, deadline=None)
def test_a_memory_never_changes_the_answer(pool: list[Any], data: st.DataObject) -> None:
    for _ in range(4):
        talk = data.draw(st.lists(st.sampled_from(pool), min_size=1, max_size=140), label="talk")
        assert measured(talk) == afresh(talk)


# How it is kept.


def test_no_text_is_kept_alive() -> None:
    """What is remembered is made of numbers."""
    text = "x" * 1_000_000 + " y"
    measured([{"role": "user", "content": [{"type": "text", "text": text}]}, {"role": "user", "content": text}])
    for kept in memo._memos.values():
        for key, added in kept._young.items():
            assert type(key) is int
            assert len(repr(added)) < 500
            assert "xx" not in repr(added)


def test_what_is_kept_is_bounded_and_the_used_stays(monkeypatch: pytest.MonkeyPatch, counted: list[str]) -> None:
    monkeypatch.setattr(memo, "_SIZE", 10)
    for i in range(100):
        measured(talk(1))
        measured(talk(1, i + 1))
    assert all(len(kept._young) + len(kept._old) <= 20 for kept in memo._memos.values())
    assert counted.count(f"0 {LONG}") == 1
    assert len(counted) == 101


def test_threads_find_the_same() -> None:
    talks = [[step(i) for i in range(start, start + 90)] for start in range(8)]
    right = [[afresh(one[: 40 + k]) for k in range(51)] for one in talks]
    wrong: list[int] = []

    def work(turn: int) -> None:
        for k in range(200):
            i, more = (turn + k) % len(talks), k % 51
            if measured(talks[i][: 40 + more]) != right[i][more]:
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("seed", "kept"), [("0", "0"), ("1", "1"), ("random", "1")])
def test_without_a_secret_in_the_hashes_nothing_is_remembered(
    seed: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from budget.estimator import measure, memo\n"
        "measure({'messages': [{'role': 'user', 'content': 'hello'}]}, provider='anthropic', endpoint='messages')\n"
        "print(len(memo._memos))"
    )
    monkeypatch.setenv("PYTHONHASHSEED", seed)
    assert python(code).stdout.strip() == kept


# Off the event loop.


def test_short_texts_are_counted_where_they_are() -> None:
    assert asyncio.run(off_loop(threading.get_ident)) == threading.get_ident()


def test_what_is_remembered_needs_no_thread(make_budget: Callable[..., Budget]) -> None:
    budget, threads = make_budget("memory://"), []

    def estimate(messages: list[Any]) -> Any:
        threads.append(threading.get_ident())
        return budget.estimate(model="claude-sonnet-4-6", messages=messages, max_tokens=10)

    async def main() -> None:
        messages = talk(100)  # 60,000 characters
        await off_loop(lambda: estimate(messages))
        messages += talk(2, 100)
        await off_loop(lambda: estimate(messages))

    asyncio.run(main())
    assert len(threads) == 3
    assert threads[0] == threads[2] == threading.get_ident() != threads[1]  # begun here, made there; then here


def test_the_loop_turns_while_five_megabytes_are_counted(
    make_budget: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = make_budget("memory://", limits=["$1000/day"])
    where: set[int] = set()
    ticks_during: list[int] = []
    ticks = 0
    counted = tokens._counted

    def spy(*args: Any) -> Any:
        where.add(threading.get_ident())
        before = ticks
        found = counted(*args)
        ticks_during.append(ticks - before)
        return found

    monkeypatch.setattr(tokens, "_counted", spy)
    text = " ".join(f"word{i} and some more of it" for i in range(190_000))
    assert len(text) > 5_000_000

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> Any:
        ticking = asyncio.create_task(tick())
        messages = [{"role": "user", "content": text}]
        held = await budget.aio.reserve(model="claude-sonnet-4-6", messages=messages, max_tokens=10)
        ticking.cancel()
        return held

    assert asyncio.run(main()).amounts[2] > 1_000_000
    assert threading.get_ident() not in where
    assert sum(ticks_during) > 20  # many: the GIL was let go of, and the loop was not waiting for the count


def test_a_vocabulary_is_not_loaded_on_the_loop() -> None:
    code = """
import asyncio, threading
from budget import Budget
from budget.estimator import tokens

build, where = tokens._build, []
tokens._build = lambda *args: where.append(threading.current_thread()) or build(*args)

async def main():
    with Budget("memory://") as budget:
        await budget.aio.reserve(model="claude-sonnet-4-6", messages=[{"role": "user", "content": "hi"}], max_tokens=9)

asyncio.run(main())
print(len(where), where[0] is threading.main_thread())
"""
    assert python(code).stdout.split() == ["1", "False"]


@pytest.mark.parametrize(
    "text", ["", "a b", "word " * 40_000, "x" * 200_000, "a b\n" * 50_000, "é a b " * 40_000, "  a  b" * 30_000]
)
@pytest.mark.parametrize("vocabulary", ["cl100k", "o200k"])
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole(text: str, vocabulary: str) -> None:
    tokens.warm(vocabulary)
    whole = tokens._encodings[vocabulary].encode_ordinary(text)
    pieces = list(tokens._pieces(text))
    assert "".join(pieces) == text
    assert len(pieces) > 1 or len(text) < tokens._PIECE or "a b" not in text
    assert [id for piece in pieces for id in tokens._encodings[vocabulary].encode_ordinary(piece)] == whole
    assert tokens.count(text, vocabulary) == len(whole)


@given(st.text(st.sampled_from("ab cA1.\n'é漢\t"), max_size=60), st.sampled_from(["cl100k", "o200k"]))
@settings(max_examples=300, deadline=None)
def test_a_cut_is_where_a_token_ends(text: str, vocabulary: str) -> None:
    tokens.warm(vocabulary)
    encode = tokens._encodings[vocabulary].encode_ordinary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "_PIECE", 3)
        pieces = list(tokens._pieces(text))
    assert [id for piece in pieces for id in encode(piece)] == encode(text)


def test_an_allowance_is_of_one_block_and_one_task() -> None:
    with inline.at_most(10):
        inline.spend(10)
        with pytest.raises(inline.TooLong):
            inline.spend(1)
        worker = threading.Thread(target=inline.spend, args=(1000,))
        worker.start()
        worker.join()
    inline.spend(1000)


def test_a_cancelled_count_leaves_nothing_reserved(
    make_budget: Callable[..., Budget], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = make_budget("memory://", limits=["$1000/day"])
    begun, go_on = threading.Event(), threading.Event()
    counted = tokens._counted

    def slow(*args: Any) -> Any:
        begun.set()
        go_on.wait(10)
        return counted(*args)

    monkeypatch.setattr(tokens, "_counted", slow)
    messages = [{"role": "user", "content": LONG * 100}]

    async def main() -> None:
        call = asyncio.create_task(
            budget.aio.reserve(model="claude-sonnet-4-6", messages=messages, max_tokens=10, user="alice")
        )
        await asyncio.to_thread(begun.wait, 10)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()

    asyncio.run(main())
    assert list(budget.entries()) == []
    assert not budget.engine.store.reservations("default")
