"""OpenAI bodies: the bound against recorded truth, what is closed and what is open, prices, and asking again."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import statistics
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget import Budget
from budget.errors import ArgumentTypeError, BudgetError, BudgetExceeded, ConfigError
from budget.estimate import Estimate, again, estimate_body
from budget.estimator import CHAT_ONLY, REQUEST_FIELDS, VOCABULARIES, Measure, measure, openai, tokens
from budget.estimator import openai_chat as chat_fields
from budget.estimator import openai_responses as responses_fields
from budget.estimator.namespace import rendered
from budget.prices import PriceBook
from budget.usage import Usage

DATA = Path(os.environ.get("BUDGET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CANARY = "canary-7f3a"
MORE = CANARY + " and more words"  # three tokens more in both vocabularies
FAMILIES = tuple(VOCABULARIES)
BOOK = PriceBook.shipped()
NOW = 1_795_219_200_000_000  # 2026-11-21
ENDPOINTS = {"chat.completions": "chat", "responses": "responses", "embeddings": "embeddings"}


def of(endpoint: str, body: dict[str, Any], vocabulary: str = "o200k") -> Measure:
    return measure(body, provider="openai", endpoint=endpoint, vocabulary=vocabulary)


def chat(*messages: Any, **fields: Any) -> Measure:
    return of("chat", {"model": "gpt-4o", "messages": list(messages), **fields})


def responses(*items: Any, **fields: Any) -> Measure:
    return of("responses", {"model": "gpt-4o", "input": list(items), **fields})


def user(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def estimated(endpoint: str = "chat", book: PriceBook = BOOK, **body: Any) -> Estimate:
    return estimate_body(book, body, "openai", endpoint, NOW, False)


FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


# --- recorded truth ---------------------------------------------------------------------------------------------------


def rows(name: str) -> Iterator[dict[str, Any]]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no recorded data: {path} is absent (set BUDGET_DATA)")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def recorded() -> Iterator[tuple[dict[str, Any], str, str, int]]:
    """Row, endpoint, tokenizer and actual input tokens of each recorded OpenAI request."""
    for row in rows("recorded_usage.jsonl.gz"):
        if row["provider"] == "openai" and row["endpoint"] in ENDPOINTS:
            tokenizer = BOOK.find(row["request_model"], "openai").tokenizer
            assert tokenizer is not None
            usage = row["usage"]
            yield row, ENDPOINTS[row["endpoint"]], tokenizer, usage.get("prompt_tokens", usage.get("input_tokens"))


def shape_of(got: Measure) -> str:
    if got.media:
        return "media"
    return "tools" if got.tools else "schema" if got.schema_tokens else "plain"


def test_bound_covers_every_closed_recorded_request_counted_in_either_vocabulary() -> None:
    misses, closed = [], 0
    for row, endpoint, tokenizer, actual in recorded():
        for vocabulary in ("o200k", "cl100k"):
            got = of(endpoint, row["request"], vocabulary)
            model = BOOK.find(row["request_model"], "openai").id
            if got.open(tokenizer, model) or (got.bare and vocabulary != VOCABULARIES[tokenizer]):
                continue
            closed += 1
            if got.bound(tokenizer, model) < actual:
                misses.append((row["request_model"], vocabulary, actual, got))
    assert misses == []
    assert closed >= 850  # else the walks find nearly everything open and cover nothing


@pytest.mark.parametrize(
    ("endpoint", "shape", "slack", "error"),
    [("chat", "plain", 3.6, 0.02), ("chat", "tools", 2.2, 0.1), ("chat", "schema", 3.0, 0.1),
     ("responses", "plain", 3.6, 0.05), ("responses", "tools", 4.0, 0.15), ("responses", "schema", 2.8, 0.1)],
)  # fmt: skip
def test_slack_and_expectation_stay_where_they_were_measured(
    endpoint: str, shape: str, slack: float, error: float
) -> None:
    found = [
        (got.bound(tokenizer, model) / actual, got.expected(tokenizer, model) / actual)
        for row, where, tokenizer, actual in recorded()
        if (model := BOOK.find(row["request_model"], "openai").id)
        and where == endpoint
        and not (got := of(where, row["request"], VOCABULARIES[tokenizer])).reasons
        if shape_of(got) == shape and actual
    ]
    bounds, expected = zip(*found, strict=True)
    print(f"{endpoint} {shape}: {len(found)} rows, {statistics.median(bounds):.2f}, {statistics.median(expected):.2f}")
    assert statistics.median(bounds) <= slack
    assert abs(statistics.median(expected) - 1) <= error


def test_plain_chat_is_expected_exactly() -> None:
    """3 + 4 per message + the text is exact for gpt-3.5, 4, 4o and 4.1; GPT-5 and o-series have one less."""
    exact, off = 0, []
    for row, endpoint, tokenizer, actual in recorded():
        if endpoint == "chat" and row["request_model"].startswith(("gpt-3", "gpt-4")):
            got = of(endpoint, row["request"], VOCABULARIES[tokenizer])
            if not got.reasons and shape_of(got) == "plain" and not got.blocks:
                exact += got.expected(tokenizer) == actual
                off += [] if got.expected(tokenizer) == actual else [(row["request_model"], actual)]
    assert exact >= 85
    assert off == []


def test_embeddings_are_exact() -> None:
    found = [(of(e, row["request"], t).bound(t), actual) for row, e, t, actual in recorded() if e == "embeddings"]
    assert len(found) >= 15
    assert all(bound == actual for bound, actual in found)


def test_the_bound_in_money_covers_every_recorded_bill() -> None:
    bills = 0
    for row, endpoint, _, _ in recorded():
        estimate = estimated(endpoint, **row["request"])
        if not estimate.closed:
            continue
        bills += 1
        answer = {"usage": row["usage"], "service_tier": row["service_tier"]}
        cost = BOOK.find(row["request_model"], "openai").rates(NOW).cost(Usage.of(answer))
        assert estimate.nanos <= estimate.nanos_max
        assert cost.nanos <= estimate.nanos_max, (row["request_model"], row["usage"])
        assert Usage.of(answer).output <= estimate.output_tokens_max
    assert bills >= 440


def test_claude_is_bounded_by_counts_of_the_other_vocabulary() -> None:
    """501 languages on three models, and recorded requests: what `fits(model="claude-...")` of OpenAI's stands on."""
    ratios, checked = [], 0
    for name in ("claude_counts_udhr.jsonl.gz", "recorded_usage.jsonl.gz"):
        for row in rows(name):
            if row["endpoint"] not in ("messages", "messages.count_tokens") or row["provider"] != "anthropic":
                continue
            model, usage = row["request"]["model"], row["usage"]
            got = measure(row["request"], provider="anthropic", endpoint="messages", vocabulary="o200k")
            new = any(part in model for part in ("opus-4-7", "opus-5", "sonnet-5", "fable"))
            actual = usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0)
            actual += usage.get("cache_creation_input_tokens") or 0
            if not got.reasons:
                checked += 1
                ratios.append(got.bound("claude-2" if new else "claude-1") / actual)
    assert checked >= 1600
    assert min(ratios) >= 1
    print(f"{checked} rows, least {min(ratios):.2f}, median {statistics.median(ratios):.2f}")


# --- the formula ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["cl100k", "o200k"])
def test_figures_by_hand(family: str) -> None:
    plain = Measure(family, base_tokens=11, messages=2)
    assert (plain.bound(family), plain.expected(family)) == (50 + 2 * 8 + 11, 3 + 2 * 4 + 11)
    tools = Measure(family, tool_tokens=100, schema_tokens=50, sealed_chars=80, tools=2, blocks=3, parts=1)
    assert tools.bound(family) == 50 + 100 + 65 + 20 + 2 * 4 + 3 * 16 + 4 + 150 + 30
    assert tools.bound(family, "gpt-4.1") == tools.bound(family) - 90
    shown = tools._replace(shown_tool_tokens=60)
    assert shown.bound(family) == tools.bound(family) - 100 + 69
    assert shown.bound("claude-2") == tools.bound("claude-2")  # which is not shown them so
    bare = Measure(family, base_tokens=11, messages=2, bare=True)
    assert (bare.bound(family), bare.expected(family)) == (11, 11)


def test_a_function_as_the_model_is_shown_it() -> None:
    weather = {
        "name": "get_weather", "description": "Get it.\nNow.", "strict": True,
        "parameters": {
            "type": "object", "required": ["city"], "additionalProperties": False, "title": "W",
            "properties": {
                "city": {"type": "string", "description": "The city", "minLength": 2},
                "unit": {"enum": ["c", "f"], "default": "c"},
                "days": {"type": ["integer", "null"]},
                "at": {"type": "object", "properties": {"x": {"type": "array", "items": {"$ref": "#/$defs/P"}}}},
                "any": {"anyOf": [{"const": 1}, {"type": "boolean"}]},
                "odd": True,
            },
            "$defs": {"P": {"type": "number"}},
        },
    }  # fmt: skip
    assert rendered(weather) == (
        "// Get it.\n// Now.\ntype get_weather = (_: {\n"
        '// The city\n// {"minLength":2}\ncity: string,\n'
        'unit?: "c" | "f", // default: "c"\ndays?: number | null,\nat?: {\nx?: P[],\n},\nany?: 1 | boolean,\n'
        "odd?: any,\n}) => any;\n\ntype P = number;\n"
    )
    assert rendered({"name": "f", "x": CANARY}) == f'{{"x":"{CANARY}"}}type f = () => any;\n\n'


@pytest.mark.parametrize(
    "schema",
    [
        {"anyOf": [{"required": ["a"]}], "properties": {"a": {"type": "string", "description": CANARY}}},
        {"anyOf": [{"type": "string"}], "items": {"description": CANARY}},
        {"enum": ["x"], "oneOf": [{"description": CANARY}]},
        {"$ref": "#/$defs/P", "properties": {"a": {"description": CANARY}}},
        {"type": "string", "items": {"description": CANARY}},
        {"type": "array", "items": {"type": "string", "default": CANARY}},
        {"type": "array", "properties": {"a": {"description": CANARY}}},
        {"type": "object", "additionalProperties": {"type": "string", "description": CANARY}},
        {"type": "object", "$defs": {"Z": {"description": CANARY}}},
        {"anyOf": [{"required": [CANARY]}]},
    ],
)
def test_what_stands_where_it_is_not_known_to_be_shown_is_added(schema: dict[str, Any]) -> None:
    for parameters in (schema, {"properties": {"p": schema}}, {"$defs": {"P": schema}}):
        assert CANARY in rendered({"name": "f", "parameters": parameters}), parameters
    assert CANARY in rendered({"name": "f", "parameters": {"$defs": {"P": {"type": "string", "description": CANARY}}}})


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["type", "properties", "enum", "items", "anyOf", "$ref", "$defs", "x"]),
        st.none() | st.booleans() | st.text(max_size=5) | st.lists(st.integers(), max_size=2),
        max_size=5,
    )
)
def test_any_schema_is_shown(schema: dict[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}}
    got = chat(user(), tools=[tool])
    assert got.shown_tool_tokens > 0
    assert got.bound("o200k") > chat(user()).bound("o200k")


def test_tokens_of_the_other_vocabulary_by_hand() -> None:
    got = Measure("o200k", base_tokens=100, wide_bytes=8)
    assert got.bound("claude-1") == 24 + 200 + 10
    assert got.bound("claude-2") == 24 + 300 + 10
    assert got.bound("cl100k") == 50 + 200 + 8
    assert Measure("cl100k", base_tokens=100, wide_bytes=8).bound("o200k") == 50 + 150 + 8


def test_output_of_all_answers() -> None:
    assert Measure(choices=3).output(100, "o200k") == 300
    predicted = Measure("o200k", choices=3, predicted_tokens=10, wide_bytes=4)
    assert predicted.output(100, "o200k") == 3 * 110
    assert predicted.output(100, "cl100k") == 3 * (100 + 24)


@pytest.mark.parametrize(("text", "wide"), [("hello", 0), ("é", 2), ("a€b😀", 7), ("x\ud800", 3)])
def test_wide_bytes(text: str, wide: int) -> None:
    assert tokens.wide_bytes(text) == wide
    assert chat(user(text)).wide_bytes == wide


# --- laws -------------------------------------------------------------------------------------------------------------

WORDS = st.text(max_size=40)
MESSAGES = st.one_of(
    st.builds(user, WORDS),
    st.builds(lambda text: user([{"type": "text", "text": text}]), WORDS),
    st.builds(lambda text: {"role": "tool", "tool_call_id": "c", "content": text}, WORDS),
    st.builds(lambda name, arguments: {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}]}, WORDS, WORDS),
)  # fmt: skip
ITEMS = st.one_of(
    st.builds(user, WORDS),
    st.builds(lambda text: user([{"type": "input_text", "text": text}]), WORDS),
    st.builds(lambda text: {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": text + "x"}, WORDS),
    st.builds(lambda n, a: {"type": "function_call", "call_id": "c", "name": n, "arguments": a}, WORDS, WORDS),
    st.builds(lambda text: {"type": "function_call_output", "call_id": "c", "output": text}, WORDS),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(MESSAGES, max_size=3), MESSAGES, st.lists(ITEMS, max_size=3), ITEMS)
def test_adding_never_lowers_the_bound(messages: Any, message: Any, items: Any, item: Any) -> None:
    for vocabulary in ("o200k", "cl100k"):
        for endpoint, field, before, more in (
            ("chat", "messages", messages, message), ("responses", "input", items, item)
        ):  # fmt: skip
            shorter = of(endpoint, {field: before}, vocabulary)
            longer = of(endpoint, {field: [more, *before]}, vocabulary)
            for family in FAMILIES:
                assert longer.bound(family) > shorter.bound(family)
                assert longer.expected(family) <= longer.bound(family)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=4))
def test_a_token_of_text_is_at_most_a_byte_and_no_bound_is_below_the_true_count(texts: list[str]) -> None:
    true = sum(tokens.count(text, "o200k") for text in texts)
    assert of("embeddings", {"input": texts}).bound("o200k") == true
    assert chat(*map(user, texts)).bound("o200k") >= true + 4 * len(texts) + 3


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["user", "text", "function", "reasoning", "json_schema"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "function", "tool_calls", "output", "x"]), inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["chat", "responses", "embeddings"]),
    st.dictionaries(st.sampled_from(sorted(REQUEST_FIELDS)), ANYTHING, max_size=5),
    st.lists(ANYTHING, max_size=2),
)
def test_any_json_is_measured_or_refused_with_a_typed_error(endpoint: str, body: Any, items: Any) -> None:
    try:
        got = of(endpoint, {"messages" if endpoint == "chat" else "input": items, **body})
    except BudgetError:
        return
    for family in FAMILIES:
        assert 0 <= got.expected(family) <= got.bound(family)


# --- what is closed ---------------------------------------------------------------------------------------------------

CLOSED_MESSAGES = [
    {"role": "system", "content": CANARY},
    {"role": "developer", "content": [{"type": "text", "text": CANARY}]},
    {"role": "user", "content": "x", "name": CANARY},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": CANARY}, {"type": "text", "text": "x"}]},
    {"role": "assistant", "content": None, "refusal": CANARY, "annotations": []},
    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": CANARY}}]},
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "f", "input": CANARY}}]},
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": CANARY}},
    {"role": "tool", "tool_call_id": "c", "content": CANARY},
    {"role": "function", "name": "f", "content": CANARY},
]
CLOSED_ITEMS = [
    {"role": "user", "content": CANARY},
    {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": CANARY}]},
    {"type": "message", "id": "m", "status": "completed", "role": "assistant", "phase": "final_answer",
     "content": [{"type": "output_text", "text": CANARY, "annotations": [], "logprobs": [{"token": "zzzz"}]}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": CANARY}]},
    {"type": "function_call", "id": "f", "call_id": "c", "name": "f", "arguments": CANARY, "status": "completed"},
    {"type": "function_call_output", "call_id": "c", "output": CANARY},
    {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": CANARY}]},
    {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": CANARY},
    {"type": "custom_tool_call_output", "call_id": "c", "output": CANARY},
    {"type": "reasoning", "id": "r", "encrypted_content": "xxxx",
     "summary": [{"type": "summary_text", "text": CANARY}]},
    {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": CANARY}]},
]  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "item"), [*(("chat", m) for m in CLOSED_MESSAGES), *(("responses", i) for i in CLOSED_ITEMS)]
)
def test_every_string_of_a_closed_item_counts(endpoint: str, item: dict[str, Any]) -> None:
    field = "messages" if endpoint == "chat" else "input"
    longer = json.loads(json.dumps(item).replace(CANARY, MORE))
    short, long = of(endpoint, {field: [item]}), of(endpoint, {field: [longer]})
    assert short.reasons == ()
    assert long.base_tokens - short.base_tokens == 3
    assert long.bound("o200k") - short.bound("o200k") == 3


def test_the_plain_forms_of_responses() -> None:
    assert of("responses", {"input": CANARY}) == responses(user(CANARY))
    both = of("responses", {"input": "x", "instructions": MORE})
    assert both.messages == 2
    assert both.base_tokens == tokens.count("x", "o200k") + tokens.count(MORE, "o200k")
    assert of("responses", {"instructions": "x"}).reasons == ()


def test_tools_and_schemas_count_as_their_json() -> None:
    tool = {"type": "function", "function": FUNCTION}
    custom = {"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": {"definition": "x"}}}}
    flat = {"type": "function", **FUNCTION, "defer_loading": False}
    schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
    flat_schema = {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}

    def count(value: object) -> int:
        return tokens.count(json.dumps(value, separators=(",", ":")), "o200k")

    got = chat(user(), tools=[tool, custom], response_format=schema)
    assert (got.tools, got.tool_tokens, got.schema_tokens) == (2, count(tool) + count(custom), count(schema))
    assert chat(user(), functions=[FUNCTION]).tool_tokens == count(FUNCTION)
    got = responses(user(), tools=[flat], text={"format": flat_schema, "verbosity": "low"})
    assert (got.tools, got.tool_tokens, got.schema_tokens) == (1, count(flat), count(flat_schema))
    assert got.reasons == ()
    forced = {"type": "function", "function": {"name": "f"}}
    assert chat(user(), tool_choice=forced).base_tokens - chat(user()).base_tokens == count(forced)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("chat", {"store": True, "metadata": {"a": CANARY}, "user": "alice", "logprobs": True, "top_logprobs": 5}),
        ("chat", {"stop": ["x"], "seed": 1, "logit_bias": {"5": 1}, "stream": True, "stream_options": {}}),
        ("chat", {"modalities": ["text"], "audio": None, "response_format": {"type": "json_object"}, "n": None}),
        ("chat", {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "verbosity": "low", "tools": None}),
        ("responses", {"store": False, "background": True, "truncation": "auto", "include": ["x"], "metadata": {}}),
        ("responses", {"previous_response_id": None, "conversation": None, "text": {"format": {"type": "text"}}}),
        ("responses", {"reasoning": {"effort": "high", "summary": "auto"}, "max_tool_calls": 3, "tools": []}),
        ("embeddings", {"dimensions": 256, "encoding_format": "base64", "user": "alice"}),
    ],
)
def test_free_fields_change_nothing(endpoint: str, fields: dict[str, Any]) -> None:
    body: dict[str, Any] = {"messages": [user()]} if endpoint == "chat" else {"input": "hi"}
    plain, with_fields = of(endpoint, body), of(endpoint, body | fields)
    assert with_fields.reasons == ()
    assert with_fields.bound("o200k") == plain.bound("o200k")


def test_encrypted_reasoning_is_a_quarter_of_a_token_per_character() -> None:
    item = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x" * 1000}
    assert responses(item).sealed_chars == 1000
    assert responses(item).bound("o200k") == 50 + 8 + 250


def test_a_call_counts_its_name_twice_because_the_result_has_it_again() -> None:
    short, long = ({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": name, "arguments": "{}"}}]}
                   for name in ("f", "f and more words"))  # fmt: skip
    assert chat(long).base_tokens - chat(short).base_tokens == 6


def test_embeddings_inputs() -> None:
    for inputs, count in (("hello world", 2), (["hello world", ""], 2), ([1, 2, 3], 3), ([[1, 2], [3]], 3), ([], 0)):
        got = of("embeddings", {"input": inputs})
        assert (got.base_tokens, got.output_max, got.reasons) == (count, 0, ())
        assert got.bound("o200k") == count


def test_answers_of_the_sdk_may_be_passed_back() -> None:
    types = pytest.importorskip("openai.types.chat")
    message = types.ChatCompletionMessage.construct(
        role="assistant", content="hello", tool_calls=[types.ChatCompletionMessageFunctionToolCall.construct(
            id="c", type="function", function={"name": "f", "arguments": "{}"})])  # fmt: skip
    assert chat(message) == chat({"role": "assistant", "content": "hello", "tool_calls": [CALL]})
    kinds = pytest.importorskip("openai.types.responses")
    part = kinds.ResponseOutputText.construct(type="output_text", text="hello", annotations=[], logprobs=None)
    item = kinds.ResponseOutputMessage.construct(
        id="m", type="message", role="assistant", status="completed", content=[part])  # fmt: skip
    assert responses(item) == responses({"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]})


def test_what_the_sdk_parsed_itself_is_not_sent_nor_counted() -> None:
    parsed = pytest.importorskip("openai.types.responses.parsed_response")
    part = parsed.ParsedResponseOutputText[dict[str, int]].construct(
        type="output_text", text="hello", annotations=[], parsed={"a": 1})  # fmt: skip
    item = parsed.ParsedResponseOutputMessage[dict[str, int]].construct(
        id="m", type="message", role="assistant", status="completed", content=[part])  # fmt: skip
    assert responses(item) == responses({"role": "assistant", "content": [{"type": "output_text", "text": "hello"}]})


def test_every_field_of_the_sdk_is_known() -> None:
    create = pytest.importorskip("openai.types.chat.completion_create_params")
    respond = pytest.importorskip("openai.types.responses.response_create_params")
    embed = pytest.importorskip("openai.types.embedding_create_params")
    for params, known in (
        (create.CompletionCreateParamsStreaming, chat_fields.FIELDS),
        (respond.ResponseCreateParamsStreaming, responses_fields.FIELDS),
        (embed.EmbeddingCreateParams, openai.EMBEDDINGS_FIELDS),
    ):
        assert (params.__required_keys__ | params.__optional_keys__) - known == set()


def test_attributes_of_a_scope_are_no_fields_of_a_request() -> None:
    scope = {"user", "agent", "session", "run", "team", "org", "project", "provider"}
    assert not scope & REQUEST_FIELDS
    assert {"model", "messages", "input", "conversation", "max_completion_tokens", "metadata"} <= REQUEST_FIELDS
    assert not {"model", "messages", "max_tokens", "tools", "user"} & CHAT_ONLY


# --- what is open -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"web_search_options": {}}, "web_search_options"),
        ({"modalities": ["text", "smell"]}, "modalities"),
        ({"moderation": {"model": CANARY}}, "moderation"),
        ({"brand_new": CANARY}, "brand_new"),
        ({"model": "gpt-4o-search-preview"}, "model"),
        ({"model": "gpt-5-search-api"}, "model"),
        ({"tools": [{"type": "browser"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": FUNCTION, "x": 1}]}, "tools[0].x"),
        ({"tools": [{"type": "function", "function": {**FUNCTION, "x": 1}}]}, "tools[0].function.x"),
        ({"functions": [{**FUNCTION, "x": 1}]}, "functions[0].x"),
        ({"response_format": {"type": "video"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}, "x": 1}}, "response_format.x"),
        ({"prediction": {"type": "content", "content": "x", "y": 1}}, "prediction.y"),
        ({"prompt_cache_options": {"ttl": "9h"}}, "prompt_cache_options"),
        ({"prompt_cache_options": {"y": 1}}, "prompt_cache_options.y"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {"url": "x", "y": CANARY}}])]},
            "messages[0].content[0].image_url.y",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": CANARY}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [user([{"type": "input_audio", "input_audio": {"data": CANARY}}])]},
            "messages[0].content[0].input_audio",
        ),
        ({"messages": [user([{"type": "file", "file": {"file_id": CANARY}}])]}, "messages[0].content[0].file"),
        (
            {"messages": [user([{"type": "file", "file": {"file_data": "data:text/csv;base64,YQ=="}}])]},
            "messages[0].content[0].file",
        ),
        (
            {"messages": [user([{"type": "file", "file": {"file_data": "data:application/pdf;base64,YQ=="}}])]},
            "messages[0].content[0].file",
        ),
        ({"messages": [{"role": "assistant", "audio": {"id": CANARY}}]}, "messages[0].audio"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"type": "mcp"}]}]}, "messages[0].tool_calls[0]"),
        ({"messages": [{"role": "narrator", "content": CANARY}]}, "messages[0]"),
        ({"messages": [user("x", brand_new=CANARY)]}, "messages[0].brand_new"),
        ({"messages": [user([{"type": "text", "text": "x", "y": CANARY}])]}, "messages[0].content[0].y"),
    ],
)
def test_open_in_chat(fields: dict[str, Any], place: str) -> None:
    got = of("chat", {"messages": [user()], **fields})
    assert [reason.split(": ")[0] for reason in got.reasons] == [place]
    assert CANARY not in repr(got)


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"previous_response_id": "resp"}, "previous_response_id"),
        ({"conversation": {"id": "conv"}}, "conversation"),
        ({"prompt": {"id": "pmpt"}, "input": None}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": CANARY}}, "moderation"),
        ({"access_programs": {"cyber": "daybreak_red"}}, "access_programs"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"x": 1}}, "reasoning.x"),
        ({"text": {"x": 1}}, "text.x"),
        ({"brand_new": CANARY}, "brand_new"),
        *(({"tools": [{"type": kind}]}, "tools[0]") for kind in (
            "web_search", "web_search_preview", "file_search", "code_interpreter", "computer_use_preview", "mcp",
            "image_generation", "local_shell", "shell", "apply_patch", "namespace", "tool_search")),
        ({"tools": [{"type": "function", **FUNCTION, "x": 1}]}, "tools[0].x"),
        *(({"input": [{"type": kind, "id": CANARY}]}, "input[0]") for kind in (
            "item_reference", "web_search_call", "file_search_call", "computer_call_output", "compaction", "mcp_call",
            "mcp_list_tools", "local_shell_call", "tool_search_output", "image_generation_call", "program", "new")),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "input[0]"),
        ({"input": [user([{"type": "input_image", "image_url": "x", "y": CANARY}])]}, "input[0].content[0].y"),
        ({"input": [user([{"type": "input_file", "file_url": CANARY}])]}, "input[0].content[0]"),
        ({"input": [user([{"type": "input_file", "file_id": CANARY}])]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_video"}]}]},
         "input[0].output[0]"),
        ({"input": [user("x", brand_new=CANARY)]}, "input[0].brand_new"),
        ({"input": [{"role": "tool", "content": CANARY}]}, "input[0]"),
    ],
)  # fmt: skip
def test_open_in_responses(fields: dict[str, Any], place: str) -> None:
    got = of("responses", {"input": "hi", **fields})
    assert [reason.split(": ")[0] for reason in got.reasons] == [place]
    assert CANARY not in repr(got)


def test_open_in_embeddings() -> None:
    assert of("embeddings", {"input": "x", "brand_new": 1}).reasons == ("brand_new: unknown field",)


# --- what else decides the price --------------------------------------------------------------------------------------


def test_output_bounds() -> None:
    assert chat(user()).output_max is None
    assert chat(user(), max_tokens=10).output_max == 10
    assert chat(user(), max_completion_tokens=10, max_tokens=20).output_max == 20
    assert chat(user(), n=3, max_tokens=10).choices == 3
    assert responses(user(), max_output_tokens=10).output_max == 10


def test_prediction_is_input_and_output() -> None:
    plain, predicted = chat(user()), chat(user(), prediction={"type": "content", "content": MORE})
    extra = tokens.count(MORE, "o200k")
    assert (predicted.predicted_tokens, predicted.base_tokens - plain.base_tokens) == (extra, extra)
    parts = [{"type": "text", "text": MORE}]
    assert chat(user(), prediction={"type": "content", "content": parts}).predicted_tokens == extra


@pytest.mark.parametrize(
    ("model", "fields", "thinking"),
    [("gpt-4o", {}, False), ("gpt-4.1-mini", {}, False), ("my-model", {}, False), ("gpt-5-mini", {}, True),
     ("gpt-6-astra", {}, True), ("o3", {}, True), ("my-model", {"effort": "low"}, True),
     ("gpt-5.5", {"effort": "none"}, False)],
)  # fmt: skip
def test_hidden_reasoning(model: str, fields: dict[str, Any], thinking: bool) -> None:
    assert of("responses", {"model": model, "input": "x", "reasoning": fields}).thinking is thinking
    effort = {"reasoning_effort": fields["effort"]} if fields else {}
    assert of("chat", {"model": model, "messages": [user()], **effort}).thinking is thinking


def test_cache_ttls() -> None:
    part = {"type": "text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    assert chat(user([part])).cache_ttls == {"12h"}
    assert chat(user(), prompt_cache_options={"mode": "implicit", "ttl": "30m"}).cache_ttls == {"30m"}
    item = {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert responses(user([item]), prompt_cache_options={"ttl": "12h"}).cache_ttls == {"12h"}
    assert chat(user()).cache_ttls == frozenset()


def test_money_of_a_plain_request() -> None:
    got = estimated(model="gpt-4o", messages=[user("hello world")], max_tokens=100)
    assert (got.provider, got.input_tokens, got.input_tokens_max, got.output_tokens_max) == ("openai", 9, 60, 100)
    assert got.usd == Decimal("0.0010225")  # 9 x $2.50 + 100 x $10 per million
    assert got.usd_max == Decimal("0.00115")
    assert estimated(model="gpt-4o", messages=[user()]).output_tokens_max == 16384
    assert estimated(model="gpt-4o", messages=[user()], n=2).output_tokens_max == 2 * 16384
    endless = BOOK.overlay({"endless": {"input": "1", "output": "1", "tokenizer": "o200k", "provider": "openai"}})
    assert estimated(book=endless, model="endless", messages=[user()]).reasons == (
        "no max_tokens, and the model has no known ceiling",)  # fmt: skip
    assert estimated("responses", model="gpt-5", input="x").output_tokens_max == 128000


def test_money_of_embeddings() -> None:
    got = estimated("embeddings", model="text-embedding-3-small", input=["hello world"] * 50_000)
    assert (got.input_tokens_max, got.output_tokens_max, got.closed) == (100_000, 0, True)
    assert got.usd == got.usd_max == Decimal("0.002")


def test_service_tiers() -> None:
    body = {"model": "gpt-5.5", "messages": [user()], "max_completion_tokens": 1000}
    plain, flex, fast = (estimated(**body, **tier) for tier in (
        {}, {"service_tier": "flex"}, {"service_tier": "priority"}))  # fmt: skip
    assert estimated(**body, service_tier="auto") == plain
    assert flex.nanos * 2 == plain.nanos
    assert flex.nanos_max == plain.nanos_max  # it may be served, and billed, in the standard tier
    assert fast.nanos == plain.nanos * 5 // 2
    assert fast.nanos_max == plain.nanos_max * 5 // 2


def test_a_longer_cache_write_raises_the_bound() -> None:
    body = {"model": "gpt-6.1-terra", "messages": [user(CANARY * 100)], "max_completion_tokens": 1}
    plain, long = estimated(**body), estimated(**body, prompt_cache_options={"ttl": "12h"})
    assert plain.nanos_max == plain.input_tokens_max * 1250 + 5000
    assert long.nanos_max == plain.input_tokens_max * 2500 + 5000


# --- asking again, and through the engine -----------------------------------------------------------------------------


def test_the_same_request_on_another_model() -> None:
    mine = estimated(model="gpt-4o", messages=[user("hello world")], max_tokens=100, n=2)
    other = again(BOOK, mine, "claude-haiku-4-5", NOW)
    assert (other.model, other.provider, other.closed) == ("claude-haiku-4-5", "anthropic", True)
    assert other.input_tokens_max == 24 + 8 + 2 * 2
    assert other.output_tokens_max == 200
    assert again(BOOK, other, "gpt-4o", NOW) == mine
    unbounded = estimated(model="gpt-4o", messages=[user()])
    assert again(BOOK, unbounded, "gpt-5", NOW).output_tokens_max == 128000
    assert not again(BOOK.overlay({"endless": {"input": "1", "output": "1"}}), unbounded, "endless", NOW).closed
    body = {"model": "claude-sonnet-4-5", "messages": [user()], "max_tokens": 5}
    claude = estimate_body(BOOK, body, None, "messages", NOW, False)
    assert again(BOOK, claude, "gpt-5", NOW).input_tokens_max == 50 + 8 + 2


def test_embeddings_and_answers_do_not_mix() -> None:
    embeddings = estimated("embeddings", model="text-embedding-3-small", input="x")
    assert again(BOOK, embeddings, "text-embedding-3-large", NOW).usd_max > 0
    with pytest.raises(ConfigError, match="an embeddings request cannot go to gpt-4o"):
        again(BOOK, embeddings, "gpt-4o", NOW)
    with pytest.raises(ConfigError, match="cannot go to text-embedding-3-small"):
        again(BOOK, estimated(model="gpt-4o", messages=[user()]), "text-embedding-3-small", NOW)
    free = BOOK.overlay({"free": {"input": "0", "output": "0"}})
    assert again(free, estimated(model="gpt-4o", messages=[user()], max_tokens=5), "free", NOW).nanos_max == 0


def test_the_engine_tells_the_endpoint() -> None:
    own = {"mine": {"input": "1", "output": "2"}, "my-embedder": {"input": "1", "output": "0"}}
    with Budget("memory://", prices=own) as budget:

        def bound(**body: Any) -> int:
            return budget.estimate(**body).input_tokens_max

        assert bound(model="gpt-4o", messages=[user()]) == 50 + 8 + 1
        assert bound(model="gpt-4o", input="hi") == 50 + 8 + 1
        assert bound(model="text-embedding-3-small", input="hi") == 1
        assert bound(model="my-embedder", input="hi") == 3
        assert bound(model="mine", input="hi") == bound(model="mine", messages=[user()]) == 900 + 16 + 3
        assert budget.estimate(model="mine", messages=[user()], max_tokens=1).closed
        assert budget.estimate(model="mine", messages=[user()], max_completion_tokens=1).closed
        assert budget.estimate({"model": "mine", "input": "hi"}, provider="openai").reasons
        with pytest.raises(ConfigError, match="messages: is missing"):
            budget.estimate(model="gpt-4o")
    with Budget("memory://", on_unpriced="allow") as budget:
        assert budget.estimate(model="gpt-4o", messages=[user()]).provider == "openai"
        assert not budget.estimate(model="unheard-of", messages=[user()], max_tokens=1).priced


def test_a_reservation_by_keywords_keeps_the_user_an_attribute() -> None:
    request = {"model": "gpt-4o", "messages": [user()], "max_completion_tokens": 100, "n": 2}
    with Budget("memory://", limits=["user=alice $0.0015/day"]) as budget:
        assert budget.reserve(**request, user="bob").scope["user"] == "bob"
        with pytest.raises(BudgetExceeded) as refused:
            budget.reserve(**request, user="alice")
        error = refused.value
        assert error.fits(model="gpt-4o-mini")
        assert error.fits(model="claude-haiku-4-5")  # $5 per million output tokens instead of $10
        assert not error.fits(model="claude-opus-4-5")
        most = error.max_tokens
        assert most is not None
        assert budget.estimate(**{**request, "max_completion_tokens": most}).usd_max <= Decimal("0.0015")
        assert budget.estimate(**{**request, "max_completion_tokens": most + 1}).usd_max > Decimal("0.0015")


# --- wrong shapes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "body", "place"),
    [
        ("chat", {}, "messages"),
        ("chat", {"messages": CANARY}, "messages"),
        ("chat", {"messages": [CANARY]}, r"messages\[0\]"),
        ("chat", {"messages": [{"content": CANARY}]}, r"messages\[0\].role"),
        ("chat", {"messages": [{"role": "user"}]}, r"messages\[0\].content"),
        ("chat", {"messages": [user([{"text": CANARY}])]}, r"messages\[0\].content\[0\].type"),
        ("chat", {"messages": [user([{"type": "text", "text": 5}])]}, r"messages\[0\].content\[0\].text"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [CANARY]}]}, r"messages\[0\].tool_calls\[0\]"),
        ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"type": "function"}]}]},
         r"messages\[0\].tool_calls\[0\].function"),
        ("chat", {"messages": [], "tools": CANARY}, "tools"),
        ("chat", {"messages": [], "tools": [{"type": "function"}]}, r"tools\[0\].function"),
        ("chat", {"messages": [], "n": 0}, "n"),
        ("chat", {"messages": [], "max_tokens": -1}, "max_tokens"),
        ("chat", {"messages": [], "response_format": CANARY}, "response_format"),
        ("chat", {"messages": [], "prediction": CANARY}, "prediction"),
        ("responses", {}, "input"),
        ("responses", {"input": 5}, "input"),
        ("responses", {"input": [CANARY]}, r"input\[0\]"),
        ("responses", {"input": [{"content": CANARY}]}, r"input\[0\].type"),
        ("responses", {"input": [{"type": "message", "content": CANARY}]}, r"input\[0\].role"),
        ("responses", {"input": [{"role": "user"}]}, r"input\[0\].content"),
        ("responses", {"input": "x", "instructions": [CANARY]}, "instructions"),
        ("responses", {"input": "x", "text": CANARY}, "text"),
        ("responses", {"input": "x", "reasoning": CANARY}, "reasoning"),
        ("embeddings", {}, "input"),
        ("embeddings", {"input": 5}, "input"),
        ("embeddings", {"input": [5.5]}, r"input\[0\]"),
    ],
)  # fmt: skip
def test_wrong_shape_names_the_place_and_not_the_text(endpoint: str, body: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError, match=f"^{place}: ") as error:
        of(endpoint, body)
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    ("endpoint", "body", "place"),
    [
        ("chat", {"messages": [], "max_completion_tokens": "5"}, "max_completion_tokens"),
        ("chat", {"messages": [], "n": True}, "n"),
        ("responses", {"input": "x", "max_output_tokens": 1.0}, "max_output_tokens"),
        ("chat", {"messages": (user() for _ in range(1))}, "messages"),
        ("responses", {"input": {CANARY}}, "input"),
        ("embeddings", {"input": [[1, CANARY]]}, r"input\[0\]"),
        ("embeddings", {"input": [[1, True]]}, r"input\[0\]"),
    ],
)
def test_what_is_no_json_of_the_api_is_a_type_error(endpoint: str, body: dict[str, Any], place: str) -> None:
    with pytest.raises(ArgumentTypeError, match=f"^{place}: ") as error:
        of(endpoint, body)
    assert CANARY not in str(error.value)


def test_a_measure_holds_no_text() -> None:
    tool = {"type": "function", "function": {**FUNCTION, "description": CANARY}}
    everything = [
        chat(*CLOSED_MESSAGES, tools=[tool], metadata={"a": CANARY}, user=CANARY),
        responses(*CLOSED_ITEMS, instructions=CANARY),
        of("embeddings", {"input": [CANARY]}),
    ]
    for got in everything:
        assert got.reasons == ()
        assert CANARY not in repr(got)
        assert CANARY.encode() not in pickle.dumps(got)
        assert pickle.loads(pickle.dumps(got)) == got
