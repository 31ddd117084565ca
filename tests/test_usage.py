"""Usage: what providers report, in disjoint buckets; what cannot be read is refused, never zero."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.usage import Usage

COUNTS = st.integers(0, 10**9)

ANTHROPIC = {
    "input_tokens": 10, "cache_read_input_tokens": 200, "cache_creation_input_tokens": 50,
    "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 30}, "output_tokens": 7,
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0}, "service_tier": "standard",
}  # fmt: skip
CHAT = {
    "prompt_tokens": 100, "completion_tokens": 40, "total_tokens": 140, "prompt_tokens_details": {"cached_tokens": 60},
    "completion_tokens_details": {"reasoning_tokens": 15},
}  # fmt: skip
RESPONSES = {
    "input_tokens": 100, "output_tokens": 40, "total_tokens": 140, "input_tokens_details": {"cached_tokens": 60},
    "output_tokens_details": {"reasoning_tokens": 15},
}  # fmt: skip


def test_anthropic() -> None:
    usage = Usage.of(ANTHROPIC)
    assert usage == Usage(input=10, cache_read=200, cache_write={"5m": 20, "1h": 30}, output=7, tools={"web_search": 2})
    assert (usage.input_tokens, usage.tokens) == (260, 267)  # cached input is beside the input figure


@pytest.mark.parametrize("source", [CHAT, RESPONSES])
def test_openai(source: dict[str, Any]) -> None:
    usage = Usage.of(source)
    assert usage == Usage(input=40, cache_read=60, output=40, reasoning=15)
    assert (usage.input_tokens, usage.tokens) == (100, 140)  # cached input is inside the input figure


def test_embeddings() -> None:
    assert Usage.of({"prompt_tokens": 8, "total_tokens": 8}) == Usage(input=8)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_buckets_are_disjoint(fresh: int, read: int, output: int, reasoning: int) -> None:
    """The same call means the same tokens, whoever reports it."""
    anthropic = Usage.of({"input_tokens": fresh, "cache_read_input_tokens": read, "output_tokens": output})
    openai = Usage.of({"prompt_tokens": fresh + read, "completion_tokens": output,
                       "prompt_tokens_details": {"cached_tokens": read}})  # fmt: skip
    assert (anthropic.input, anthropic.cache_read, anthropic.output) == (openai.input, openai.cache_read, openai.output)
    assert anthropic.tokens == openai.tokens == fresh + read + output


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"cache_creation_input_tokens": 50}, {"5m": 50}),
        ({"cache_creation_input_tokens": 50, "cache_creation": None}, {"5m": 50}),
        (
            {"cache_creation_input_tokens": 50, "cache_creation": {"ephemeral_1h_input_tokens": 30}},
            {"1h": 30, "5m": 20},
        ),
        ({"cache_creation_input_tokens": 0, "cache_creation": {"ephemeral_1h_input_tokens": 0}}, {}),
        ({"cache_creation_input_tokens": None}, {}),
    ],
)
def test_cache_writes(given: dict[str, Any], expected: dict[str, int]) -> None:
    assert Usage.of({"input_tokens": 1, "output_tokens": 1, **given}).cache_write == expected


def test_a_whole_response_as_a_dict() -> None:
    usage = Usage.of({"id": "msg", "model": "claude-x", "content": [{"text": "words"}], "usage": ANTHROPIC})
    assert (usage.model, usage.tokens) == ("claude-x", 267)
    assert "words" not in repr(usage)


def test_models_of_the_anthropic_sdk() -> None:
    types = pytest.importorskip("anthropic.types")
    message = types.Message.construct(
        id="m", type="message", role="assistant", model="claude-x", content=[], stop_reason=None, stop_sequence=None,
        usage=types.Usage.construct(**{**ANTHROPIC, "cache_creation": types.CacheCreation(
            ephemeral_5m_input_tokens=20, ephemeral_1h_input_tokens=30), "inference_geo": "us",
            "from_the_future": {"x": 1}}),
    )  # fmt: skip
    usage = Usage.of(message)
    assert (usage.model, usage.tokens, usage.cache_write) == ("claude-x", 267, {"5m": 20, "1h": 30})
    assert usage.traits == {"inference_geo": "us"}
    assert Usage.of(message.usage).tokens == 267


def test_models_of_the_openai_sdk() -> None:
    types = pytest.importorskip("openai.types")
    chat = pytest.importorskip("openai.types.chat").ChatCompletion.construct(
        id="c", model="gpt-x", choices=[], created=1, object="chat.completion", service_tier="flex",
        usage=types.CompletionUsage.construct(**{
            **CHAT, "prompt_tokens_details": types.completion_usage.PromptTokensDetails(cached_tokens=60),
            "completion_tokens_details": types.completion_usage.CompletionTokensDetails(reasoning_tokens=15)}),
    )  # fmt: skip
    usage = Usage.of(chat)
    assert (usage.model, usage.input, usage.cache_read, usage.reasoning) == ("gpt-x", 40, 60, 15)
    assert usage.traits == {"service_tier": "flex"}
    responses = pytest.importorskip("openai.types.responses")
    usage_types = responses.response_usage
    found = Usage.of(responses.ResponseUsage.construct(**{
        **RESPONSES, "input_tokens_details": usage_types.InputTokensDetails.construct(cached_tokens=60),
        "output_tokens_details": usage_types.OutputTokensDetails.construct(reasoning_tokens=15)}))  # fmt: skip
    assert (found.input, found.cache_read, found.output, found.reasoning) == (40, 60, 40, 15)


@pytest.mark.parametrize(
    "name", ["input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"]
)
@pytest.mark.parametrize(
    ("value", "kind"),
    [(-1, ConfigError), (2**53, ConfigError), (1.0, ArgumentTypeError), (float("nan"), ArgumentTypeError),
     (True, ArgumentTypeError), ("5", ArgumentTypeError), ([], ArgumentTypeError)],
)  # fmt: skip
def test_a_count_that_cannot_be(name: str, value: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=name):
        Usage.of({**ANTHROPIC, name: value})


@pytest.mark.parametrize(
    "source",
    [{"prompt_tokens": -1}, {"prompt_tokens": 5, "completion_tokens": 1.5}, {"prompt_tokens": 5,
     "completion_tokens": True},
     {**CHAT, "prompt_tokens_details": {"cached_tokens": 101}}, {**CHAT,
     "prompt_tokens_details": {"cached_tokens": -1}},
     {**RESPONSES, "input_tokens_details": {"cached_tokens": 101}}, {**CHAT, "prompt_tokens_details": [1]},
     {**ANTHROPIC, "cache_creation": {"ephemeral_5m_input_tokens": -5}}, {**ANTHROPIC, "cache_creation": 7},
     {**ANTHROPIC, "server_tool_use": {"web_search_requests": -1}}],
)  # fmt: skip
def test_what_does_not_add_up(source: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ArgumentTypeError)):
        Usage.of(source)


@pytest.mark.parametrize(
    "source", [None, {}, {"usage": None}, {"usage": {}}, {"model": "x"}, 5, "usage", [1], object(), b"x"]
)
def test_what_carries_no_usage(source: object) -> None:
    with pytest.raises(ArgumentTypeError):
        Usage.of(source)


@pytest.mark.parametrize(
    "fields",
    [
        {"input": -1},
        {"output": 2**53},
        {"input": 1.5},
        {"output": True},
        {"cache_write": {"5m": -1}},
        {"tools": {"x": 1.0}},
    ],
)
def test_made_by_hand(fields: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ArgumentTypeError)):
        Usage(**fields)


def test_given_twice_it_is_itself() -> None:
    usage = Usage(input=5, output=3)
    assert Usage.of(usage) is usage
    assert usage.to_dict() == {"input": 5, "output": 3}


@pytest.mark.parametrize("tier", ["standard", "default", "auto", None, 5])
def test_usual_traits_are_left_out(tier: object) -> None:
    assert Usage.of({**ANTHROPIC, "service_tier": tier}).traits == {}


def test_openai_cache_writes_by_lifetime() -> None:
    details = {"cached_tokens": 60, "cache_write_tokens": 30,
               "cache_write_tokens_details": {"ttl_30m_tokens": 10, "ttl_12h_tokens": 15}}  # fmt: skip
    usage = Usage.of({**RESPONSES, "input_tokens_details": details})
    assert usage == Usage(
        input=10, cache_read=60, cache_write={"30m": 10, "12h": 15, "default": 5}, output=40, reasoning=15
    )
    assert usage.input_tokens == 100
    chat = Usage.of({**CHAT, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30}})
    assert (chat.input, chat.cache_write) == (10, {"default": 30})


def test_responses_without_details() -> None:
    usage = Usage.of({"input_tokens": 100, "output_tokens": 40, "total_tokens": 140,
                      "output_tokens_details": {"reasoning_tokens": 15}})  # fmt: skip
    assert usage == Usage(input=100, output=40, reasoning=15)


def test_calls_of_built_in_tools_are_in_the_answer() -> None:
    def search(kind: str | None) -> dict[str, Any]:
        return {"type": "web_search_call", "action": kind and {"type": kind}}

    output = [search("search"), search("open_page"), search("find_in_page"), search(None), {"type": "message"},
              {"type": "file_search_call"}, {"type": "code_interpreter_call"}, {"type": "mcp_call"}]  # fmt: skip
    answer = {"model": "gpt-x", "usage": RESPONSES, "output": output, "tools": [{"type": "web_search"}]}
    assert Usage.of(answer).tools == {"web_search": 2, "file_search": 1, "code_interpreter": 1}
    preview = {**answer, "tools": [{"type": "web_search_preview_2025_03_11"}], "output": output[:1]}
    assert Usage.of(preview).tools == {"web_search_preview": 1}
    assert Usage.of({**answer, "output": None, "tools": None}).tools == {}


def test_a_response_of_the_openai_sdk_with_a_search() -> None:
    responses = pytest.importorskip("openai.types.responses")
    search = responses.ResponseFunctionWebSearch.construct(
        id="w", type="web_search_call", status="completed",
        action=responses.response_function_web_search.ActionSearch.construct(type="search", query="q"))  # fmt: skip
    answer = responses.Response.construct(
        id="r", model="gpt-x", output=[search], tools=[], service_tier="priority",
        usage=responses.ResponseUsage.construct(**RESPONSES))  # fmt: skip
    usage = Usage.of(answer)
    assert (usage.tools, usage.traits, usage.model, usage.tokens) == (
        {"web_search": 1}, {"service_tier": "priority"}, "gpt-x", 140)  # fmt: skip
