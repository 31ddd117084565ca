"""Bodies of OpenAI-compatible servers, of Cohere, and of Anthropic's and OpenAI's APIs at other hosts; the families."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator import VOCABULARIES, Measure, endpoint_of, measure
from budget.estimator.constants import FAMILIES, Rates, family, rates
from budget.estimator.tokens import count
from budget.prices.overlay import TOKENIZERS

DATA = Path(os.environ.get("BUDGET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CANARY = "canary-7f3a"
DIGITS = "cl100k-digits"
FUNCTION = {"name": "f", "description": "finds", "parameters": {"type": "object"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def chat(*messages: Any, at: str = "mistral", **more: Any) -> Measure:
    body = {"model": "m", "messages": list(messages), **more}
    return measure(body, provider=at, endpoint="chat", vocabulary=DIGITS)


def user(content: Any = "one two") -> dict[str, Any]:
    return {"role": "user", "content": content}


def text(*texts: str) -> int:
    return sum(count(one, DIGITS) for one in texts)


def test_mistral_has_parts_and_fields_of_its_own() -> None:
    found = chat(
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "prefix": True, "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Look."}]},
            {"type": "text", "text": "It is "},
            {"type": "reference", "reference_ids": [1]},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "name": "f", "content": "noon"},
        user(),
        tools=[{"function": FUNCTION}], tool_choice="any", max_tokens=30, n=2, random_seed=1, parallel_tool_calls=True,
    )  # fmt: skip
    assert found.reasons == ()
    told = ["Be brief.", '[{"type":"text","text":"Look."}]', "It is ", "f", "{}", "f", "noon", "one two"]
    assert text(*told) <= found.base_tokens <= text(*told) + text("f", "{}")
    assert (found.tools, found.output_max, found.choices, found.messages) == (1, 30, 2, 5)


def test_hidden_prompts_are_counted_where_they_are_asked_for() -> None:
    plain = chat(user()).base_tokens
    assert chat(user(), safe_prompt=True).base_tokens == plain + 100
    assert chat(user(), prompt_mode="reasoning").base_tokens == plain + 500
    assert chat(user(), prompt_mode="reasoning").thinking


def test_reasoning_that_is_sent_back_is_counted() -> None:
    for name in ("reasoning", "reasoning_content"):
        found = chat({"role": "assistant", "content": "noon", name: "Look at it."}, user(), at="deepseek")
        assert (found.base_tokens, found.reasons) == (text("noon", "Look at it.", "one two"), ())
    details = [{"type": "reasoning.text", "text": "Look."}]
    found = chat({"role": "assistant", "content": "noon", "reasoning_details": details}, at="openrouter")
    assert found.base_tokens == text("noon", json.dumps(details, separators=(",", ":")))


def test_documents_and_schemas_are_counted_under_any_name() -> None:
    plain = chat(user()).base_tokens
    document = {"id": "d", "source": {"type": "text", "text": "three four"}}
    written = json.dumps(document, separators=(",", ":"))
    assert chat(user(), at="groq", documents=[document]).base_tokens == plain + text(written)
    assert chat(user(), at="cohere", documents=["three four"]).base_tokens == plain + text("three four")
    part = {"type": "document", "document": {"data": "five"}}
    assert chat(user([part]), at="cohere").base_tokens == text('{"data":"five"}')
    for described in ({"schema": {"a": 1}}, {"json_schema": {"a": 1}}, {"grammar": "root ::= a"}):
        found = chat(user(), at="together", response_format={"type": "json_object", **described})
        assert (found.schema_tokens > 5, found.reasons) == (True, ())
    assert chat(user(), response_format={"type": "json_object"}).schema_tokens == 0


def test_cache_control_is_read_wherever_it_stands() -> None:
    marked = {"type": "ephemeral", "ttl": "1h"}
    part = {"type": "text", "text": "a", "cache_control": marked}
    for body in (
        {"messages": [user([part])]},
        {"messages": [{**user(), "cache_control": marked}]},
        {"messages": [user()], "tools": [{"type": "function", "function": FUNCTION, "cache_control": marked}]},
        {"messages": [user()], "cache_control": marked},
    ):
        found = chat(*body["messages"], at="openrouter", **{k: v for k, v in body.items() if k != "messages"})
        assert (found.cache_ttls, found.reasons) == ({"1h"}, ())
    assert chat(user([{**part, "cache_control": {"type": "ephemeral"}}])).cache_ttls == {"5m"}


def test_what_only_steers_costs_nothing() -> None:
    free = {
        "top_k": 1, "min_p": 0.1, "repetition_penalty": 1.1, "reasoning_format": "parsed", "include_reasoning": False,
        "provider": {"only": ["a"]}, "transforms": [], "usage": {"include": True}, "safety_mode": "CONTEXTUAL",
        "stop_sequences": ["END"], "service_tier": "auto", "thinking": {"type": "disabled"}, "citation_options": {},
    }  # fmt: skip
    assert chat(user(), at="openrouter", **free) == chat(user())
    assert chat(user(), thinking={"type": "enabled"}).thinking
    assert chat(user(), reasoning={"enabled": True}).thinking
    assert not chat(user(), reasoning={"effort": "none"}).thinking


@pytest.mark.parametrize(
    ("provider", "more", "place"),
    [
        ("groq", {"model": "groq/compound-mini"}, "model"),
        ("groq", {"model": "compound-beta"}, "model"),
        ("groq", {"compound_custom": {"tools": {}}}, "compound_custom"),
        ("groq", {"search_settings": {"country": "de"}}, "search_settings"),
        ("perplexity", {"model": "sonar-pro"}, "model"),
        ("perplexity", {"model": "sonar-deep-research", "disable_search": True}, "model"),
        ("perplexity", {"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ("xai", {"search_parameters": {"mode": "on"}}, "search_parameters"),
        ("openrouter", {"model": "openai/gpt-4o:online"}, "model"),
        ("openrouter", {"model": "@preset/mine"}, "model"),
        ("openrouter", {"models": ["a", "b"]}, "models"),
        ("openrouter", {"plugins": [{"id": "web"}]}, "plugins"),
        ("openrouter", {"preset": "mine"}, "preset"),
        ("azure", {"data_sources": [{"type": "azure_search"}]}, "data_sources"),
        ("together", {"safety_model": "guard"}, "safety_model"),
        ("mistral", {"guardrails": [{"block_on_error": True}]}, "guardrails"),
        ("mistral", {"tools": [{"type": "web_search"}]}, "tools[0]"),
        ("mistral", {"messages": [user([{"type": "document_url", "document_url": "a"}])]}, "messages[0].content[0]"),
        ("fireworks", {"best_of": 3}, "best_of"),
        ("cohere", {"connectors": [{"id": "web-search"}]}, "connectors"),
        ("deepseek", {"something_new": {"a": 1}}, "something_new"),
    ],
)  # fmt: skip
def test_what_has_no_bound_is_named_and_never_quoted(provider: str, more: dict[str, Any], place: str) -> None:
    body = {"model": "m", "messages": [user(CANARY)], **more}
    found = measure(body, provider=provider, endpoint="chat", vocabulary=DIGITS)
    assert any(reason.startswith(f"{place}: ") for reason in found.reasons), found.reasons
    assert CANARY not in repr(found)


def test_perplexity_without_a_search_is_closed() -> None:
    assert chat(user(), at="perplexity", model="sonar-pro", disable_search=True).reasons == ()


def test_a_wrong_shape_is_refused_with_its_place() -> None:
    for body, place in (
        ({}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [user([{"text": "a"}])]}, r"messages\[0\].content\[0\].type"),
        ({"messages": [user()], "documents": "a"}, "documents"),
        ({"messages": [user()], "tools": ["f"]}, r"tools\[0\]"),
    ):
        with pytest.raises(ConfigError, match=rf"^{place}: "):
            measure({"model": "m", **body}, provider="groq", endpoint="chat", vocabulary=DIGITS)
    with pytest.raises(ArgumentTypeError, match=r"^messages"):
        measure({"messages": iter(())}, provider="groq", endpoint="chat", vocabulary=DIGITS)


def test_version_1_of_cohere_is_as_version_2() -> None:
    first = measure(
        {
            "model": "command-r", "message": "one two", "preamble": "Be brief.", "max_tokens": 9, "k": 3,
            "chat_history": [{"role": "USER", "message": "hi"}, {"role": "CHATBOT", "message": "hello"}],
            "tools": [{"name": "f", "description": "finds", "parameter_definitions": {"a": {"type": "str"}}}],
            "documents": [{"snippet": "three"}], "force_single_step": True,
        },
        provider="cohere", endpoint="chat", vocabulary=DIGITS,
    )  # fmt: skip
    described = {"name": "f", "description": "finds", "parameters": {"a": {"type": "str"}}}
    second = measure(
        {
            "model": "command-r", "max_tokens": 9, "k": 3,
            "messages": [
                {"role": "system", "content": "Be brief."},
                user([{"type": "text", "text": "hi"}]),
                {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
                user(),
            ],
            "tools": [{"type": "function", "function": described}], "documents": [{"snippet": "three"}],
        },
        provider="cohere", endpoint="chat", vocabulary=DIGITS,
    )  # fmt: skip
    assert first == second
    assert first.reasons == ()
    body = {"message": "a", "chat_history": [{"role": "ORACLE"}]}
    with pytest.raises(ConfigError, match=r"chat_history\[0\].role"):
        measure(body, provider="cohere", endpoint="chat", vocabulary=DIGITS)


def test_messages_and_responses_are_taken_at_other_hosts() -> None:
    body = {"messages": [user("hi")], "max_tokens": 5}
    for provider, more in (
        ("google-vertex", {"anthropic_version": "vertex-2023-10-16"}),
        ("aws-bedrock", {"anthropic_version": "bedrock-2023-05-31", "anthropic_beta": ["a"]}),
        ("openrouter", {"model": "anthropic/claude-sonnet-5", "provider": {"only": ["anthropic"]}}),
    ):
        found = measure({**body, **more}, provider=provider, endpoint="messages", vocabulary="cl100k")
        assert (found.reasons, found.output_max, found.base_tokens) == ((), 5, count("hi", "cl100k"))
    refused = measure({**body, "models": ["b"]}, provider="openrouter", endpoint="messages", vocabulary="cl100k")
    assert [reason.partition(":")[0] for reason in refused.reasons] == ["models"]
    for provider in ("azure", "xai", "groq", "openrouter"):
        asked = {"input": "hi", "max_output_tokens": 5, "reasoning": {"effort": "low"}, "top_k": 3}
        found = measure(asked, provider=provider, endpoint="responses", vocabulary="o200k")
        assert (found.reasons, found.output_max, found.thinking) == ((), 5, True)
        searching = measure({**asked, "tools": [{"type": "web_search"}]}, provider=provider, endpoint="responses")
        assert searching.reasons


@pytest.mark.parametrize(
    ("provider", "body"),
    [
        ("mistral", {"inputs": ["one", "two"], "output_dimension": 64}),
        ("cohere", {"texts": ["one", "two"], "input_type": "search_query", "embedding_types": ["float"]}),
        ("cohere", {"inputs": [{"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]}),
        ("together", {"input": ["one", "two"]}),
        ("google", {"input": ["one", "two"]}),
    ],
)
def test_embeddings(provider: str, body: dict[str, Any]) -> None:
    found = measure({"model": "m", **body}, provider=provider, endpoint="embeddings", vocabulary=DIGITS)
    assert (found.reasons, found.output_max, found.base_tokens) == ((), 0, text("one", "two") + 2 * 2)
    assert found.bound("mistral") == -(-rates("mistral")[0].text * found.base_tokens // 100)


def test_embeddings_of_images_are_open_and_none_is_refused() -> None:
    image = {"content": [{"type": "image_url", "image_url": {"url": CANARY}}]}
    for body in ({"inputs": [image]}, {"images": [CANARY]}):
        found = measure(body, provider="cohere", endpoint="embeddings")
        assert len(found.reasons) == 1
        assert CANARY not in repr(found)
    with pytest.raises(ConfigError, match=r"^input: is missing"):
        measure({"model": "m"}, provider="mistral", endpoint="embeddings")
    with pytest.raises(ConfigError, match=r"^inputs: "):
        measure({"inputs": 5}, provider="mistral", endpoint="embeddings")


@pytest.mark.parametrize(
    ("provider", "model", "body", "endpoint"),
    [
        ("google", "gemini-2.5-pro", {"contents": []}, "generateContent"),
        ("google-vertex", "claude-sonnet-5", {"messages": [], "max_tokens": 5}, "messages"),
        ("aws-bedrock", "us.amazon.nova-micro-v1:0", {"messages": []}, "converse"),
        ("aws-bedrock", "us.anthropic.claude-sonnet-5", {"messages": []}, "converse"),
        ("aws-bedrock", "us.anthropic.claude-sonnet-5", {"messages": [], "max_tokens": 5}, "messages"),
        ("openrouter", "anthropic/claude-sonnet-5", {"messages": [], "max_tokens": 5}, "chat"),
        ("anthropic", "claude-sonnet-5", {"messages": []}, "messages"),
        ("xai", "grok-5", {"input": "a"}, "responses"),
        ("groq", "llama-4", {"messages": []}, "chat"),
    ],
)
def test_an_endpoint_is_told_from_the_body(provider: str, model: str, body: dict[str, Any], endpoint: str) -> None:
    assert endpoint_of(body, provider, model, False) == endpoint
    assert endpoint_of(body, provider, model, True) == "embeddings"


def test_every_family_has_figures_and_expects_no_more_than_it_bounds() -> None:
    assert FAMILIES == TOKENIZERS
    for name in FAMILIES:
        found = family(name)
        for bound, expected in ((found.bound, found.expected), *(rates(name, model) for model in MODELS)):
            for field in fields(Rates):
                most, least = getattr(bound, field.name), getattr(expected, field.name)
                if field.name == "builtin":
                    most, least = sum(most.values()), sum(least.values())
                assert (field.name == "kinds") or least <= most, (name, field.name)


MODELS = ("gpt-oss-120b", "us.amazon.nova-2-lite-v1:0", "cohere/command-a", "open-mixtral-8x7b", "claude-opus-5")


def test_what_is_not_known_is_bounded_highest() -> None:
    most = family("other").bound
    for name in set(FAMILIES) - {"other", "claude-1", "claude-2", "cl100k", "o200k"}:
        bound = family(name).bound
        for field in fields(Rates):
            if field.name not in ("kinds", "builtin", "shown_tools"):
                assert getattr(most, field.name) >= getattr(bound, field.name), (name, field.name)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
def test_digits_are_counted_one_by_one(words: str) -> None:
    assert count("1234567890", DIGITS) == 10
    assert count(words + " x", DIGITS) >= sum(letter in "0123456789" for letter in words)


FAMILY_OF = (
    ("gemini", "gemini"), ("claude", "claude-1"), ("gpt-3.5", "cl100k"), ("gpt", "o200k"), ("openllmetry", "o200k"),
    ("llama", "llama"), ("mi", "mistral"), ("magistral", "mistral"), ("pixtral", "mistral"), ("command", "cohere"),
    ("embed-", "cohere"), ("deepseek", "deepseek"), ("qwen", "qwen"),
)  # fmt: skip
HOSTS = ("groq", "mistral", "cohere", "deepseek", "together", "azure", "openrouter", "google")
ENDPOINTS = {
    "chat.completions": "chat", "chat": "chat", "responses": "responses", "embeddings": "embeddings",
    "embed": "embeddings",
}  # fmt: skip


def recorded() -> Iterator[tuple[dict[str, Any], str, str, int]]:
    path = DATA / "recorded_usage.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no recorded usage at {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["provider"] in HOSTS and row["endpoint"] in ENDPOINTS:
                usage = row["usage"]
                counted = usage.get("billed_units") or usage
                tokens = counted.get("input_tokens") or counted.get("prompt_tokens")
                if tokens:
                    yield row["request"], row["provider"], ENDPOINTS[row["endpoint"]], tokens


def test_recorded_requests_are_covered() -> None:
    rows, closed, missed = 0, 0, []
    for body, provider, endpoint, tokens in recorded():
        rows += 1
        model = body["model"]
        name = next((name for word, name in FAMILY_OF if word in model.lower()), "other")
        found = measure(body, provider=provider, endpoint=endpoint, vocabulary=VOCABULARIES[name])
        if found.open(name, model):
            continue
        closed += 1
        assert found.expected(name, model) <= found.bound(name, model)
        if found.bound(name, model) < tokens:
            missed.append((provider, model, tokens, found))
    assert rows > 150
    assert closed > 0.85 * rows
    assert missed == []
