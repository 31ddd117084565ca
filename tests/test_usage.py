"""Usage: what providers report, in disjoint buckets; what cannot be read is refused, never zero."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

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
        {"input": -5, "tools": {"input": 1}},
        {"output": -5, "cache_write": {"output": 1}},
        {"output": 5, "parts": {"reasoning": 50}},
        {"cache_write": 5},
        {"parts": None},
        {"tools": [("web_search", 1)]},
        {"tools": {5: 1}},
        {"traits": "priority"},
        {"traits": {"service_tier": ["priority"]}},
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


def test_a_shell_in_a_container_of_the_provider_is_named() -> None:
    places: list[Any] = [{"type": "container_reference", "container_id": "c"}, {"type": "local"}, None]
    output = [{"type": "shell_call", "environment": place} for place in places]
    assert Usage.of({"model": "gpt-x", "usage": RESPONSES, "output": output}).tools == {"shell": 1}


def test_what_mistral_heard_is_input_and_its_seconds_are_named() -> None:
    """It stands in the total only, and no model of theirs has a price per second."""
    usage = {"prompt_tokens": 4, "completion_tokens": 635, "total_tokens": 3264, "prompt_audio_seconds": 203}
    heard = Usage.of({"model": "voxtral-small-latest", "choices": [], "usage": usage})
    assert (heard.input, heard.output, heard.reasoning, heard.parts) == (2629, 635, 0, {"input_audio": 2625})
    assert heard.tools == {"second": 203}
    for nothing in (None, 0, object()):  # the SDK has an object of its own for what is not set
        silent = Usage.of({**usage, "total_tokens": 639, "prompt_audio_seconds": nothing})
        assert (silent.input, silent.output, silent.tools) == (4, 635, {})


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


# ---- what an answer leaves out

MESSAGE = {"type": "message", "role": "assistant", "model": "claude-x", "content": []}
COMPLETION = {"object": "chat.completion", "model": "gpt-x", "choices": [{"finish_reason": "stop"}]}
RESPONSE = {"object": "response", "model": "gpt-x", "output": []}


@pytest.mark.parametrize(
    ("answer", "usage", "unsaid"),
    [
        (MESSAGE, {"input_tokens": 10}, "output_tokens"),
        (MESSAGE, {"input_tokens": 10, "output_tokens": None}, "output_tokens"),
        (MESSAGE, {"output_tokens": 5}, "input_tokens"),
        (MESSAGE, {"input_tokens": None, "output_tokens": 5}, "input_tokens"),
        (MESSAGE, {"input_tokens": 10, "output_tokens": 5, "iterations": [
            {"type": "compaction", "input_tokens": 10}, {"input_tokens": 10, "output_tokens": 5}]}, "output_tokens"),
        (COMPLETION, {"prompt_tokens": 10}, "completion_tokens"),
        (COMPLETION, {"prompt_tokens": 10, "completion_tokens": None, "total_tokens": None}, "completion_tokens"),
        (COMPLETION, {"prompt_tokens": None, "completion_tokens": 5}, "prompt_tokens"),
        (COMPLETION, {"prompt_tokens": None, "completion_tokens": 5, "total_tokens": 15}, "prompt_tokens"),
        ({"data": []}, {"prompt_tokens": None, "total_tokens": 7}, "prompt_tokens"),  # or all were output
        (RESPONSE, {"input_tokens": 10}, "output_tokens"),
        (RESPONSE, {"input_tokens": 10, "input_tokens_details": {}}, "output_tokens"),
        (RESPONSE, {"input_tokens": None, "output_tokens": 5, "total_tokens": 15}, "input_tokens"),
    ],
)  # fmt: skip
def test_a_count_that_an_answer_leaves_out_is_no_zero(
    answer: dict[str, Any], usage: dict[str, Any], unsaid: str
) -> None:
    with pytest.raises(ArgumentTypeError, match=f"the answer does not say its {unsaid}"):
        Usage.of({**answer, "usage": usage})


def test_a_total_says_the_output() -> None:
    """Google's compatible endpoint leaves the completion out if there were thoughts alone."""
    found = Usage.of({**COMPLETION, "usage": {"prompt_tokens": 10, "total_tokens": 110}})
    assert (found.input, found.output, found.reasoning) == (10, 100, 100)
    assert Usage.of({**COMPLETION, "usage": {"prompt_tokens": 10, "total_tokens": 10}}).tokens == 10
    assert Usage.of({**RESPONSE, "usage": {"input_tokens": 10, "total_tokens": 15}}).output == 5


def test_what_may_be_left_out() -> None:
    """By a usage alone, by a count of tokens, and by embeddings."""
    assert Usage.of({"input_tokens": 10}) == Usage.of({"usage": {"input_tokens": 10}}) == Usage(input=10)
    assert Usage.of({"object": "list", "data": [], "usage": {"prompt_tokens": 8}}) == Usage(input=8)


@pytest.mark.parametrize("wrong", [1, True, "words", {"a": 1}])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("iterations", lambda wrong: {**MESSAGE, "usage": {**ANTHROPIC, "iterations": wrong}}),
        ("tools", lambda wrong: {**RESPONSE, "usage": RESPONSES, "tools": wrong}),
        ("output", lambda wrong: {**RESPONSE, "usage": RESPONSES, "output": wrong}),
        ("prompt_tokens_details", lambda wrong: {"promptTokenCount": 1, "promptTokensDetails": wrong}),
        ("cache_details", lambda wrong: {"usage": {"inputTokens": 3, "outputTokens": 2, "cacheDetails": wrong}}),
        ("results", lambda wrong: {"inputTextTokenCount": 7, "results": wrong}),
        ("embeddings", lambda wrong: {"embeddings": wrong}),
    ],
)
def test_a_list_that_is_none_cannot_be_read(name: str, source: Any, wrong: object) -> None:
    with pytest.raises(ArgumentTypeError, match=f"{name} must be a list, not {type(wrong).__name__}"):
        Usage.of(source(wrong))


@pytest.mark.parametrize("modality", [["AUDIO"], {"value": "AUDIO"}, None])
def test_a_modality_that_is_no_name_is_text(modality: object) -> None:
    details = [{"modality": modality, "tokenCount": 7}]
    assert Usage.of({"promptTokenCount": 7, "promptTokensDetails": details}) == Usage(input=7)


# ---- the other shapes: what is inside another figure, and what is beside it


class Sdk(BaseModel):
    """A stand-in for the models of SDKs, which keep what they do not know."""

    model_config = ConfigDict(extra="allow")


COMPACTED = {
    "input_tokens": 220, "output_tokens": 8, "cache_creation_input_tokens": 0,
    "cache_creation": {"ephemeral_5m_input_tokens": 50}, "iterations": [
        {"type": "compaction", "input_tokens": 100, "output_tokens": 71, "cache_creation_input_tokens": 50,
         "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 0}},
        {"type": "message", "input_tokens": 220, "output_tokens": 8, "cache_read_input_tokens": 0}],
}  # fmt: skip
GEMINI = {
    "promptTokenCount": 1000, "cachedContentTokenCount": 300, "candidatesTokenCount": 50, "thoughtsTokenCount": 70,
    "toolUsePromptTokenCount": 20, "totalTokenCount": 1140,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 400}, {"modality": "AUDIO", "tokenCount": 500},
                            {"modality": "DOCUMENT", "tokenCount": 60}, {"modality": "VIDEO", "tokenCount": 40}],
    "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 200}, {"modality": "TEXT", "tokenCount": 100}],
    "candidatesTokensDetails": [{"modality": "TEXT", "tokenCount": 10}, {"modality": "IMAGE", "tokenCount": 40}],
}  # fmt: skip
GEMINI_USAGE = Usage(
    input=720, cache_read=300, output=120, reasoning=70,
    parts={"input_audio": 300, "input_image": 60, "input_video": 40, "cache_read_audio": 200, "output_image": 40},
)  # fmt: skip


def snake(value: Any) -> Any:
    if isinstance(value, list):
        return [snake(each) for each in value]
    if isinstance(value, dict):
        return {"".join(f"_{c.lower()}" if c.isupper() else c for c in key): snake(v) for key, v in value.items()}
    return value


SHAPES: list[tuple[Any, str | None, Usage]] = [
    # Anthropic: a compaction is beside the top level; an advisor is another model's
    ({"usage": COMPACTED}, None, Usage(input=320, cache_write={"5m": 50}, output=79)),
    ({"input_tokens": 5, "output_tokens": 1, "iterations": [{"type": "advisor_message", "input_tokens": 9},
     {"type": "message", "input_tokens": 5, "output_tokens": 1}]}, None,
     Usage(input=5, output=1, tools={"advisor": 1})),
    # Gemini: cached inside, thoughts and tool results beside
    ({"usageMetadata": GEMINI}, "google", GEMINI_USAGE),
    (GEMINI, None, GEMINI_USAGE),
    (Sdk(usage_metadata=Sdk(**snake(GEMINI))), None, GEMINI_USAGE),
    ({"usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7, "trafficType": "ON_DEMAND_FLEX"}}, None,
     Usage(input=7, traits={"service_tier": "flex"})),
    ({"promptTokenCount": 7, "trafficType": 1, "promptTokensDetails": [{"modality": 4, "tokenCount": 7}]}, None,
     Usage(input=7, parts={"input_audio": 7})),
    ({"embeddings": [{"statistics": {"token_count": 4.0}}, {"statistics": {"tokenCount": 3}}]}, None, Usage(input=7)),
    # OpenAI and what speaks like it: cached inside
    ({**CHAT, "prompt_tokens_details": {"audio_tokens": 44, "cached_tokens": 0, "image_tokens": 5},
      "completion_tokens_details": {"audio_tokens": 12, "reasoning_tokens": 15, "rejected_prediction_tokens": 3}}, None,
     Usage(input=100, output=40, reasoning=15,
           parts={"input_audio": 44, "input_image": 5, "output_audio": 12})),
    ({**CHAT, "prompt_tokens_details": {"audio_tokens": 90, "cached_tokens": 60}}, None,
     Usage(input=40, cache_read=60, output=40, reasoning=15, parts={"input_audio": 40})),
    ({**CHAT, "prompt_tokens_details": {"audio_tokens": 90, "cached_tokens": 60,
      "cached_tokens_details": {"audio_tokens": 55}}}, None,
     Usage(input=40, cache_read=60, output=40, reasoning=15, parts={"input_audio": 35, "cache_read_audio": 55})),
    ({"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21, "prompt_cache_hit_tokens": 8,
      "prompt_cache_miss_tokens": 4}, "deepseek", Usage(input=4, cache_read=8, output=9)),
    ({"prompt_tokens": 64, "completion_tokens": 6, "total_tokens": 70, "num_cached_tokens": 32}, "mistral",
     Usage(input=32, cache_read=32, output=6)),
    ({"prompt_tokens": 64, "completion_tokens": 6, "total_tokens": 70, "cached_tokens": 32}, "together",
     Usage(input=32, cache_read=32, output=6)),
    # xAI: reasoning beside the completion, which the total shows; in Responses it is inside
    ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115,
      "completion_tokens_details": {"reasoning_tokens": 100}}, None, Usage(input=10, output=105, reasoning=100)),
    ({"prompt_tokens": 10, "completion_tokens": 500, "completion_tokens_details": {"reasoning_tokens": 100}}, "xai",
     Usage(input=10, output=600, reasoning=100)),
    ({"input_tokens": 10, "output_tokens": 105, "total_tokens": 115, "num_sources_used": 2,
      "output_tokens_details": {"reasoning_tokens": 100}, "server_side_tool_usage_details": {"web_search_calls": 3}},
     "xai", Usage(input=10, output=105, reasoning=100, tools={"web_search": 3, "search_source": 2})),
    # Google's OpenAI-compatible endpoint: thoughts in the total alone
    ({"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109}, "google",
     Usage(input=35, output=74, reasoning=62)),
    # a reasoning figure that cannot be inside, where the total says that nothing is beside
    ({"prompt_tokens": 43, "completion_tokens": 10, "total_tokens": 53,
      "completion_tokens_details": {"reasoning_tokens": 11}}, "openrouter",
     Usage(input=43, output=10, reasoning=10)),
    # Perplexity: reasoning and citations beside all
    ({"prompt_tokens": 33, "completion_tokens": 70, "total_tokens": 103, "citation_tokens": 200,
      "reasoning_tokens": 700, "num_search_queries": 18, "search_context_size": "high"}, "perplexity",
     Usage(input=33, output=770, reasoning=700, tools={"web_search": 18, "citation": 200},
           traits={"search_context": "high"})),
    # Groq's last chunk
    ({"choices": [], "x_groq": {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}}, "groq",
     Usage(input=3, output=2)),
    # Bedrock: cached beside; each family has words of its own
    ({"usage": {"inputTokens": 3, "outputTokens": 227, "totalTokens": 1942, "cacheReadInputTokens": 10,
      "cacheWriteInputTokens": 1712, "cacheDetails": [{"inputTokens": 700, "ttl": "1h"},
      {"inputTokens": 1000, "ttl": "5m"}], "serverToolUsage": {}}, "serviceTier": {"type": "priority"}}, None,
     Usage(input=3, cache_read=10, cache_write={"1h": 700, "5m": 1012}, output=227,
           traits={"service_tier": "priority"})),
    ({"metadata": {"usage": {"inputTokens": 3, "outputTokens": 2, "totalTokens": 5}, "metrics": {"ms": 1}}}, None,
     Usage(input=3, output=2)),
    ({"inputTokens": 3, "outputTokens": 2, "cacheReadInputTokenCount": 4, "cacheWriteInputTokenCount": 5}, None,
     Usage(input=3, cache_read=4, cache_write={"5m": 5}, output=2)),
    ({"inputTextTokenCount": 7, "results": [{"tokenCount": 5}, {"tokenCount": 6}]}, None, Usage(input=7, output=11)),
    ({"inputTextTokenCount": 7.0, "totalOutputTextTokenCount": 12.0}, None, Usage(input=7, output=12)),
    ({"prompt_token_count": 7, "generation_token_count": 12, "generation": "words"}, None, Usage(input=7, output=12)),
    ({"amazon-bedrock-invocationMetrics": {"inputTokenCount": 7, "outputTokenCount": 12}}, None,
     Usage(input=7, output=12)),
    # Cohere: what is billed, not what was seen
    ({"usage": {"billed_units": {"input_tokens": 12.0, "output_tokens": 5.0},
      "tokens": {"input_tokens": 212.0, "output_tokens": 5.0}, "cached_tokens": 208.0}}, None,
     Usage(input=12, output=5)),
    (Sdk(meta=Sdk(billed_units=Sdk(input_tokens=12.0, image_tokens=30.0))), None,
     Usage(input=42, parts={"input_image": 30})),
    ({"meta": {"billed_units": {"search_units": 2}}}, None, Usage(tools={"search_unit": 2})),
    ({"usage": {"tokens": {"input_tokens": 212.0, "output_tokens": 5.0}, "cached_tokens": 208}}, None,
     Usage(input=4, cache_read=208, output=5)),
    # events that end a stream
    ({"type": "message_start", "message": {"model": "c", "usage": {"input_tokens": 3, "output_tokens": 1}}}, None,
     Usage(input=3, output=1, model="c")),
    ({"type": "response.completed", "response": {"model": "g", "usage": RESPONSES}}, None,
     Usage(input=40, cache_read=60, output=40, reasoning=15, model="g")),
    ({"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 3, "output_tokens": 2}}}}, None,
     Usage(input=3, output=2)),
    ({"event_type": "stream-end", "response": {"meta": {"billed_units": {"input_tokens": 3, "output_tokens": 2}}}},
     None, Usage(input=3, output=2)),
]  # fmt: skip


@pytest.mark.parametrize(("source", "provider", "usage"), SHAPES)
def test_every_shape_counts_each_token_once(source: object, provider: str | None, usage: Usage) -> None:
    assert Usage.of(source, provider) == usage


@pytest.mark.parametrize(
    "source",
    [
        {"total_tokens": 12}, {"usage": {"search_units": 2}}, {"totalTokens": 5},
        {"prompt_eval_count": 3, "eval_count": 2}, {"message": {"content": "words"}}, {"response": "words"},
    ],
)  # fmt: skip
def test_a_shape_that_nobody_knows_is_an_error_and_never_nothing(source: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="carries no usage"):
        Usage.of(source)


@pytest.mark.parametrize(
    "source",
    [
        {**GEMINI, "cachedContentTokenCount": 1021}, {**GEMINI, "thoughtsTokenCount": -1},
        {**GEMINI, "candidatesTokenCount": 5.5}, {"inputTokens": "3", "outputTokens": 2},
        {"billed_units": {"input_tokens": 1.5}}, {"billed_units": {"input_tokens": -1}},
        {"inputTextTokenCount": float("nan")}, {**GEMINI, "promptTokensDetails": ["words"]},
    ],
)  # fmt: skip
def test_counts_of_the_other_shapes_are_checked_as_well(source: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ArgumentTypeError)):
        Usage.of(source)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"input": 5, "parts": {"input_audio": 3, "input_image": 3}}, "input is below the sum of its parts"),
        ({"output": 5, "reasoning": 4, "parts": {"output_audio": 2}}, "output is below the sum of its parts"),
        ({"input": 5, "parts": {"input_smell": 1}}, "'input_smell' is not one of"),
        ({"input": 5, "parts": {"input_audio": -1}}, "input_audio"),
    ],
)
def test_parts_are_of_a_known_kind_and_within_their_bucket(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Usage(**fields)


@pytest.mark.parametrize(
    "source",
    [
        {"inputTextTokenCount": 3, "results": [{5: 3}]},
        {"embeddings": [{"statistics": {5: 5}}]},
        {**CHAT, "server_side_tool_usage_details": {5: 5}},
        {**ANTHROPIC, "server_tool_use": {5: 5}},
    ],
)
def test_names_are_strings(source: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError, match="a name in it is not a string"):
        Usage.of(source)


def test_parts_are_kept_in_plain_form() -> None:
    assert Usage(**GEMINI_USAGE.to_dict()) == GEMINI_USAGE
