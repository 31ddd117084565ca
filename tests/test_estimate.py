"""Estimates as a caller asks for them: odd but legal requests keep their bound; what has none is refused in words."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budget import Budget, BudgetExceeded, Usage
from budget.errors import ArgumentTypeError, ConfigError, Unbounded

HI = [{"role": "user", "content": "hi"}]
WORDS = "some words " * 2000
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.fixture
def budget() -> Iterator[Budget]:
    with Budget("memory://") as made:
        yield made


# --- amounts that no store can hold -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"max_tokens": 2**53 - 1}, {"max_tokens": 10**6, "n": 10**9}])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_a_request_that_can_cost_more_than_the_largest_amount_sets_nothing_aside(
    tmp_path: Path, store: str, fields: dict[str, int]
) -> None:
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/budget.db"
    with Budget(url) as budget:
        estimate = budget.estimate(model="gpt-4o", messages=HI, **fields)
        assert estimate.exceeds("$9000000")
        for verb in (budget.reserve, budget.check):
            with pytest.raises(ConfigError, match=r"above \$9007199.254740991, the largest amount"):
                verb(estimate, user="alice")
        assert budget.reserve("$1").usd == 1  # and the account still answers
        assert [entry.kind for entry in budget.entries()] == ["reserved"]


def test_tokens_without_a_price_have_a_largest_number_as_well() -> None:
    with Budget("memory://", on_unpriced="allow") as budget, pytest.raises(ConfigError, match="tokens"):
        budget.reserve(model="nobody-knows-it", messages=HI, max_tokens=2**53 - 1, n=2)


@pytest.mark.parametrize("count", [2**53, 10**5000, -(10**5000)], ids=["large", "endless", "negative"])
def test_a_count_that_no_request_has_is_refused_by_name(budget: Budget, count: int) -> None:
    with pytest.raises(ConfigError, match="max_tokens"):
        budget.estimate(model="gpt-4o", messages=HI, max_tokens=count)
    with pytest.raises(ConfigError, match="input_tokens"):
        budget.estimate_counts("gpt-4o", input_tokens=count, output_tokens=1)
    with pytest.raises(ConfigError, match="input"):
        Usage(input=count)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "\ud800", "a\nb", "a\0b", "m" * 257], ids=ascii)
def test_a_name_that_cannot_be_an_attribute_is_no_name_of_a_model(tmp_path: Path, name: str) -> None:
    with Budget(f"sqlite:///{tmp_path}/budget.db", on_unpriced="allow") as budget:
        for estimate in (
            lambda: budget.estimate(model=name, messages=HI, max_tokens=3),
            lambda: budget.estimate_counts(name, input_tokens=1, output_tokens=1),
            lambda: budget.reserve(model=name, messages=HI, max_tokens=3),
        ):
            with pytest.raises(ConfigError, match="model"):
                estimate()
    with pytest.raises(ConfigError, match="prices"):
        Budget("memory://", prices={name: {"input": "1", "output": "2"}})


def test_a_unit_that_is_no_name_is_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"prices\['m'\]\.per_unit"):
        Budget("memory://", prices={"m": {"input": "1", "output": "2", "per_unit": {5: "1"}}})


def test_a_provider_of_the_users_own_is_taken_for_an_openai_compatible_server() -> None:
    with Budget("memory://", prices={"m": {"input": "1", "output": "2", "provider": "acme"}}) as budget:
        of_model = budget.estimate(model="m", messages=HI, max_tokens=5)
        named = budget.estimate({"model": "m", "messages": HI, "max_tokens": 5}, provider="acme", endpoint="chat")
        assert of_model == named
        assert (of_model.provider, of_model.closed, of_model.output_tokens_max) == ("acme", True, 5)
        messages = budget.estimate({"model": "m", "messages": HI, "max_tokens": 5}, endpoint="messages")
        assert messages.closed


def test_counts_name_a_provider_that_exists(budget: Budget) -> None:
    counts: dict[str, Any] = {"input_tokens": 1, "output_tokens": 1}
    with pytest.raises(ConfigError, match="provider"):
        budget.estimate_counts("gpt-4o", provider="nobody", **counts)
    with pytest.raises(ArgumentTypeError, match="provider"):
        budget.estimate_counts("gpt-4o", provider=5, **counts)  # type: ignore[arg-type]


@pytest.mark.parametrize("ttls", [None, 5, "5m", [5]])
def test_caches_are_named_in_a_list(budget: Budget, ttls: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="cache_ttls"):
        budget.estimate_counts("gpt-4o", input_tokens=1, output_tokens=1, cache_ttls=ttls)


# --- what is in a request, and what is not ----------------------------------------------------------------------------


def document(data: object, format: str = "txt") -> dict[str, Any]:
    block = {"document": {"name": "d", "format": format, "source": {"bytes": data}}}
    said = [{"role": "user", "content": [block]}]
    return {"modelId": CLAUDE, "inferenceConfig": {"maxTokens": 5}, "messages": said}


@pytest.mark.parametrize("data", [io.BytesIO(WORDS.encode()), None, 5, ["a"]])
def test_a_text_that_cannot_be_read_here_has_no_bound(budget: Budget, data: object) -> None:
    """boto3 takes a file where bytes are due."""
    found = budget.estimate(document(data))
    assert found.reasons == ("messages[0].content[0].document.source.bytes: a text that cannot be read here",)
    said = [{"parts": [{"inlineData": {"mimeType": "text/plain", "data": data}}]}]
    assert not budget.estimate({"model": "gemini-2.5-flash", "contents": said}).closed


def test_a_text_is_counted_as_bytes_as_base64_and_as_it_is(budget: Budget) -> None:
    import base64

    as_bytes = budget.estimate(document(WORDS.encode())).input_tokens_max
    packed = base64.encodebytes(WORDS.encode()).decode()  # in lines
    assert budget.estimate(document(packed)).input_tokens_max == as_bytes
    assert budget.estimate(document("!? " * 5000)).input_tokens_max > 5000  # has no character of base64


def test_a_type_that_is_a_number_is_named_by_its_type(budget: Budget) -> None:
    said = [{"parts": [{"inlineData": {"mimeType": 10**5000, "data": ""}}]}]
    found = budget.estimate({"model": "gemini-2.5-flash", "contents": said})
    assert found.reasons == ("contents[0].parts[0].inlineData: int",)


def test_fields_for_the_model_below_are_known_one_by_one(budget: Budget) -> None:
    body = {**document(b"x"), "additionalModelRequestFields": {"inferenceConfig": {"max_new_tokens": 10_000}}}
    place = "additionalModelRequestFields.inferenceConfig.max_new_tokens"
    assert budget.estimate(body).reasons == (f"{place}: unknown field",)


def test_parts_of_a_function_response_are_media_only(budget: Budget) -> None:
    part: dict[str, Any] = {"text": "x"}
    for _ in range(2000):
        part = {"functionResponse": {"name": "f", "response": {}, "parts": [part]}}
    found = budget.estimate({"model": "gemini-2.5-flash", "contents": [{"parts": [part]}]})
    assert found.reasons == ("contents[0].parts[0].functionResponse.parts[0]: functionResponse",)


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        ("gpt-4o", "service_tier", "ultrafast"),
        ("gpt-3.5-turbo", "service_tier", "priority"),
        ("claude-sonnet-4-6", "speed", "fast"),
        ("claude-sonnet-4-6", "inference_geo", "eu"),
        ("gemini-2.5-flash", "serviceTier", "ultrafast"),
    ],
)
def test_a_tier_without_a_price_has_no_bound(budget: Budget, model: str, field: str, value: str) -> None:
    said: dict[str, Any] = {"contents": [{"parts": [{"text": "x"}]}]} if "gemini" in model else {"messages": HI}
    found = budget.estimate({"model": model, **said, field: value})
    assert [reason for reason in found.reasons if value in reason and model in reason]
    with pytest.raises(Unbounded):
        budget.reserve(found)


@pytest.mark.parametrize("tier", [None, "auto", "default", "flex", "scale", "priority"])
def test_a_tier_that_has_a_price_or_is_never_dearer_has_a_bound(budget: Budget, tier: str | None) -> None:
    assert budget.estimate(model="gpt-4o", messages=HI, n=1, service_tier=tier).closed


def test_an_own_price_holds_in_every_tier() -> None:
    with Budget("memory://", prices={"gpt-4o": {"input": "1", "output": "2"}}) as budget:
        assert budget.estimate(model="gpt-4o", messages=HI, n=1, service_tier="priority").closed


def test_a_model_that_the_request_goes_to_instead_has_a_price_in_its_tier_or_no_bound(budget: Budget) -> None:
    """What a refusal says of another model holds for the tier that was asked for."""
    from budget.estimate import again

    found = budget.estimate(model="gpt-4o", messages=HI, max_tokens=5, n=1, service_tier="priority")
    book = budget.settings.book
    assert found.closed
    assert not again(book, found, "gpt-3.5-turbo", 2**50).closed
    assert again(book, found, "gpt-4o-mini", 2**50).closed


def test_the_same_words_as_bytes_are_not_remembered_as_text(budget: Budget) -> None:
    assert budget.estimate(model="gpt-4o", messages=HI, max_tokens=5, n=1).closed
    with pytest.raises(ArgumentTypeError, match=r"messages\[0\].content"):
        budget.estimate(model="gpt-4o", messages=[{"role": "user", "content": b"hi"}], max_tokens=5, n=1)


def test_no_number_of_tokens_makes_an_image_fit() -> None:
    with Budget("memory://", limits=["$0.02/day"]) as budget:
        image = budget.estimate(model="gpt-image-1", prompt="a cat", n=4, endpoint="images")
        with pytest.raises(BudgetExceeded) as caught:
            budget.reserve(image)
    assert caught.value.max_tokens is None


@pytest.mark.parametrize("model", ["nano-banana-pro-preview", "gemini-nano-banana-2.1", "gemini-2.5-flash-image"])
def test_a_model_that_draws_unasked_is_bounded_at_the_price_of_images(budget: Budget, model: str) -> None:
    said = [{"role": "user", "parts": [{"text": "a cat"}]}]
    asked = {"model": model, "contents": said, "generationConfig": {"maxOutputTokens": 1000}}
    drawn = budget.cost(Usage(output=1000, parts={"output_image": 1000}), model=model)
    assert budget.estimate(asked).usd_max > drawn.usd
    compatible = {"model": model, "messages": HI, "max_tokens": 1000}
    assert budget.estimate(compatible, provider="google", endpoint="chat").usd_max > drawn.usd


@pytest.mark.parametrize(
    ("provider", "model", "why"),
    [
        ("xai", "grok-4.20-multi-agent", "what its agents tell one another is billed too"),
        ("openrouter", "x-ai/grok-4.20-multi-agent", "what its agents tell one another is billed too"),
        ("openrouter", "openai/o3-deep-research", "it searches the web unasked"),
        ("perplexity", "llama-3.1-sonar-large-128k-online", "it searches the web unasked"),
    ],
)
def test_a_model_that_brings_input_of_its_own_has_no_bound(budget: Budget, provider: str, model: str, why: str) -> None:
    found = budget.estimate({"model": model, "messages": HI, "max_tokens": 9}, provider=provider, endpoint="chat")
    assert found.reasons == (f"model: {why}",)


def test_a_model_that_researches_has_no_bound(budget: Budget) -> None:
    asked = {"model": "deep-research-pro-preview-12-2025", "contents": [{"parts": [{"text": "why?"}]}]}
    assert budget.estimate(asked).reasons == ("model: it searches the web unasked",)


def test_a_request_without_a_bound_on_another_model_does_not_fit_there() -> None:
    with Budget("memory://", limits=["$0.0001/day"]) as budget:
        asked = budget.estimate(model="gpt-4o", messages=HI, n=1, service_tier="priority", max_tokens=100)
        with pytest.raises(BudgetExceeded) as caught:
            budget.reserve(asked)
        assert not caught.value.fits("gpt-3.5-turbo")  # cheap enough, but without a price in that tier


@pytest.mark.parametrize("endpoint", [5, ["chat"], b"chat"])
def test_an_endpoint_is_a_name(budget: Budget, endpoint: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^endpoint"):
        budget.estimate({"model": "gpt-4o", "messages": HI}, endpoint=endpoint)
    with pytest.raises(ConfigError, match=r"^endpoint"):
        budget.estimate({"model": "gpt-4o", "messages": HI}, endpoint="")


CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}
CALLED = {"role": "assistant", "tool_calls": [CALL]}


@pytest.mark.parametrize("more", [
    {"messages": [*HI, CALLED, {"role": "tool", "tool_call_id": "a", "content": "done"}]},
    {"messages": [{"role": "developer", "content": "be brief"}, *HI]},
    {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]},
])  # fmt: skip
def test_an_own_model_is_asked_in_the_words_of_chat(more: dict[str, Any]) -> None:
    with Budget("memory://", prices={"my-model": {"input": "1", "output": "2"}}) as budget:
        assert budget.estimate(model="my-model", max_tokens=5, **more).closed
