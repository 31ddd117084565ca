"""What is each SDK's own: what passes, what is refused, that nothing goes around the seam, and extras of one call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from budget import Budget, BudgetExceeded
from budget.demo.provider import Provider, Reply
from budget.errors import ConfigError, Unbounded
from tests.clients.conftest import only_end
from tests.clients.others.drivers import (
    CHAT,
    Bedrock,
    Cohere,
    Driver,
    Google,
    Groq,
    LiteLLMAnthropic,
    LiteLLMOpenAI,
    Mistral,
)


def made(kind: type[Driver], budget: Budget, provider: Provider, retries: int = 0) -> Any:
    pytest.importorskip(kind.package)
    driver = kind()
    return driver.guard(budget, driver.make(provider.url, retries))


# Google.


def test_google_every_door_of_the_clients_is_known(budget: Budget, provider: Provider) -> None:
    from budget.clients.google import _AROUND

    client = made(Google, budget, provider)
    below = {
        "models", "chats", "tunings", "caches", "batches", "files", "file_search_stores", "auth_tokens", "operations",
        "aio", "vertexai",
    }  # fmt: skip
    for each in (client, client.aio):
        doors = {name for name in dir(type(each)) if isinstance(getattr(type(each), name), property)}
        assert doors <= below | set(_AROUND)
        for name in doors & set(_AROUND):
            with pytest.raises(Unbounded, match="set money aside"):
                getattr(each, name)
        for name in doors & below - {"aio", "vertexai", "chats"}:
            assert getattr(each, name)._api_client is client._api_client


def test_google_what_is_not_metered_is_refused_unless_money_was_set_aside(budget: Budget, provider: Provider) -> None:
    client = made(Google, budget, provider)
    options = {"base_url": provider.url}
    vertex = budget.wrap(__import__("google.genai").genai.Client(vertexai=True, api_key="k", http_options=options))
    image = {"model": "imagen-4.0-generate-001", "prompt": "a cat"}
    with pytest.raises(Unbounded):
        client.caches.create(model="gemini-2.5-flash", config={"contents": "long"})
    with pytest.raises(Unbounded):
        client.caches.update(name="cachedContents/a", config={"ttl": "7200s"})
    with pytest.raises(Unbounded):
        client.batches.create(model="gemini-2.5-flash", src=[{"contents": [{"parts": [{"text": "hi"}]}]}])
    with pytest.raises(Unbounded):
        vertex.models.generate_images(**image)
    assert provider.requests == []
    with budget.reservation("$1"), pytest.raises(Exception, match="404"):
        vertex.models.generate_images(**image)
    assert len(provider.requests) == 1


def test_google_free_calls_pass(budget: Budget, provider: Provider) -> None:
    client = made(Google, budget, provider)
    with pytest.raises(Exception, match="404"):
        client.models.count_tokens(model="gemini-2.5-flash", contents="hi")
    assert [entry.kind for entry in budget.entries() if entry.kind == "reserved"] == []


def test_google_an_attempt_that_nobody_reserved_for_is_refused(budget: Budget, provider: Provider) -> None:
    client = made(Google, budget, provider)
    below = client._api_client
    request = below._build_request("post", "models/gemini-2.5-flash:generateContent", {"contents": []}, None)
    with pytest.raises(Unbounded):
        below._request_once(request)
    with pytest.raises(Unbounded):
        asyncio.run(below._async_request_once(request))
    assert provider.requests == []


def test_google_extras_and_chats(budget: Budget, provider: Provider) -> None:
    client = made(Google, budget, provider)
    extra = {"http_options": {"extra_body": {"budget_scope": {"user": "alice"}}}}
    client.models.generate_content(model="gemini-2.5-flash", contents="hi", config=extra)
    assert only_end(budget, user="alice").kind == "reconciled"
    client.chats.create(model="gemini-2.5-flash").send_message("hi")
    assert list(budget.entries())[-1].detail["usage"]["output"] == 8


@pytest.mark.parametrize(
    ("vertex", "model"),
    [(False, "gemini-embedding-001"), (True, "gemini-embedding-001"), (True, "text-embedding-005")],
)
def test_google_embeddings_cost_what_their_answer_says(
    budget: Budget, provider: Provider, replies: list[Reply], vertex: bool, model: str
) -> None:
    genai = pytest.importorskip("google.genai")
    client = budget.wrap(genai.Client(vertexai=vertex, api_key="k", http_options={"base_url": provider.url}))
    client.models.embed_content(model=model, contents=["a", "b c"])
    usage = provider.requests[0].usage
    assert usage is not None
    end = only_end(budget)
    assert (end.detail["usage"]["input"], end.detail.get("estimated")) == (usage["promptTokenCount"], None)
    replies.append(Reply(usage=False))
    client.models.embed_content(model=model, contents=["a", "b c"])
    last = list(budget.entries())[-1]
    assert last.detail["estimated"] is True
    assert Decimal(last.usd) > 0


def test_google_vertex_has_prices_of_its_own(budget: Budget, provider: Provider) -> None:
    genai = pytest.importorskip("google.genai")
    client = budget.wrap(genai.Client(vertexai=True, api_key="k", http_options={"base_url": provider.url}))
    client.models.generate_content(model="gemini-2.5-flash", contents="hi")
    assert only_end(budget, provider="google-vertex").kind == "reconciled"
    assert provider.requests[0].path.startswith("/v1beta1/publishers/google/models/")


@pytest.mark.parametrize("by", ["aiohttp", "httpx"])
def test_google_an_async_attempt_without_an_answer_is_charged_whatever_came_after(
    budget: Budget, provider: Provider, replies: list[Reply], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    genai = pytest.importorskip("google.genai")
    monkeypatch.setattr("google.genai._api_client.random.randint", lambda low, high: -1)  # its pause before it repeats
    options: dict[str, Any] = {"base_url": provider.url}
    if by == "httpx":
        options["async_client_args"] = {"transport": __import__("httpx").AsyncHTTPTransport()}
    client = budget.wrap(genai.Client(api_key="k", http_options=options))
    replies.extend([Reply(cut=0), Reply(status=400)])

    async def main() -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011 - of either library
            await client.aio.models.generate_content(model="gemini-2.5-flash", contents="hi")
        await client.aio.aclose()

    asyncio.run(main())
    assert len(provider.requests) == (2 if by == "aiohttp" else 1)
    end = only_end(budget)
    assert (end.kind, end.detail["estimated"]) == ("reconciled", True)


def test_google_thoughts_are_paid_for(budget: Budget, provider: Provider, replies: list[Reply]) -> None:
    client = made(Google, budget, provider)
    replies.append(Reply(output=50, thinking=20, cache_read=30, input=5))
    list(client.models.generate_content_stream(model="gemini-2.5-flash", contents="hi"))
    usage = only_end(budget).detail["usage"]
    assert (usage["input"], usage["cache_read"], usage["output"]) == (5, 30, 50)


# Bedrock.


def test_bedrock_every_operation_is_metered_free_or_refused(budget: Budget, provider: Provider) -> None:
    from budget.clients.bedrock import _CONVERSE, _FREE, _INVOKE

    client = made(Bedrock, budget, provider)
    operations = set(client.meta.service_model.operation_names)
    assert operations >= set(_CONVERSE) | set(_INVOKE) | _FREE
    for name in operations - set(_CONVERSE) - set(_INVOKE) - _FREE:
        with pytest.raises(Unbounded, match=name):
            client._make_api_call(name, {})
    assert provider.requests == []


def test_bedrock_an_attempt_that_nobody_reserved_for_is_refused(budget: Budget, provider: Provider) -> None:
    client = made(Bedrock, budget, provider)
    model = client.meta.service_model.operation_model("Converse")
    request = client._convert_to_request_dict(
        {"modelId": "x", "messages": []}, model, provider.url, context={"client_config": client.meta.config}
    )
    with pytest.raises(Unbounded):
        client._endpoint.make_request(model, request)
    assert provider.requests == []


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
def test_bedrock_invoke_model_of_claude(budget: Budget, provider: Provider, streams: bool) -> None:
    client = made(Bedrock, budget, provider)
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 100, "messages": CHAT}
    asked = {"modelId": Bedrock.model, "body": json.dumps(body)}
    if streams:
        answer = client.invoke_model_with_response_stream(**asked)
        events = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
        assert events[-1]["type"] == "message_stop"
    else:
        answer = client.invoke_model(**asked)
        assert json.loads(answer["body"].read())["usage"]["output_tokens"] == 8
    end = only_end(budget)
    usage = provider.requests[0].usage
    assert usage is not None
    expected = usage["input_tokens"] * Decimal("0.0000033") + usage["output_tokens"] * Decimal("0.0000165")
    assert Decimal(end.usd) == expected


def test_bedrock_invoke_model_of_others_is_refused(budget: Budget, provider: Provider) -> None:
    client = made(Bedrock, budget, provider)
    with pytest.raises(Unbounded):
        client.invoke_model(modelId="meta.llama3-70b-instruct-v1:0", body=json.dumps({"prompt": "hi"}))
    with pytest.raises(Unbounded, match="guardrail"):
        client.converse(**Bedrock()._asked(9), guardrailConfig={"guardrailIdentifier": "a", "guardrailVersion": "1"})
    assert provider.requests == []


def test_bedrock_extras_and_another_service(budget: Budget, provider: Provider) -> None:
    client = made(Bedrock, budget, provider)
    client.converse(**Bedrock()._asked(9), budget_scope={"user": "alice"}, budget_cap="$1")
    assert only_end(budget, user="alice").kind == "reconciled"
    with pytest.raises(BudgetExceeded):
        client.converse(**Bedrock()._asked(9), budget_cap="$0.000001")
    with pytest.raises(ConfigError, match="s3"):
        budget.wrap(__import__("boto3").client("s3", region_name="us-east-1"))


# Mistral.


def test_mistral_all_resources_are_guarded(budget: Budget, provider: Provider) -> None:
    client = made(Mistral, budget, provider)

    def check(resource: Any) -> int:
        assert resource.do_request.func.__name__ == "_request"
        assert resource.sdk_configuration is client.sdk_configuration
        held = [
            value for name, value in vars(resource).items() if name != "parent_ref" and hasattr(value, "do_request")
        ]
        return 1 + sum(map(check, held))

    assert sum(check(getattr(client, name)) for name in type(client)._sub_sdk_map) > 30


def test_mistral_what_is_not_metered_is_refused(budget: Budget, provider: Provider) -> None:
    client = made(Mistral, budget, provider)
    for ask in (
        lambda: client.ocr.process(model="m", document={"type": "document_url", "document_url": "https://x"}),
        lambda: client.beta.conversations.start(inputs="hi", model="mistral-small-latest"),
        lambda: client.audio.realtime,
    ):
        with pytest.raises(Unbounded):
            ask()
    request = client.sdk_configuration.client.build_request("POST", f"{provider.url}/v1/chat/completions", json={})
    with pytest.raises(Unbounded):
        client.sdk_configuration.client.send(request)
    assert provider.requests == []


def test_mistral_fills_in_the_middle(budget: Budget, provider: Provider) -> None:
    client = made(Mistral, budget, provider)
    client.fim.complete(model="codestral-latest", prompt="def f(", suffix="return x", max_tokens=20)
    end = only_end(budget)
    usage = provider.requests[0].usage
    assert usage is not None
    assert (end.detail["usage"]["input"], end.detail["usage"]["output"]) == (usage["prompt_tokens"], 8)


# Groq.


def test_groq_paths_and_extras(budget: Budget, provider: Provider) -> None:
    client, _ = made(Groq, budget, provider)
    with pytest.raises(Unbounded):
        client.embeddings.create(model="m", input="hi")
    with pytest.raises(Unbounded):
        client.audio.speech.create(model="m", input="hi", voice="v")
    assert provider.requests == []
    client.chat.completions.create(
        model=Groq.model, messages=CHAT, max_tokens=9, extra_body={"budget_scope": {"user": "alice"}}
    )
    assert only_end(budget, user="alice").kind == "reconciled"


# Cohere.


def test_cohere_all_resources_are_guarded(budget: Budget, provider: Provider) -> None:
    client, _ = made(Cohere, budget, provider)
    http = client._client_wrapper.httpx_client
    assert type(http).request.__module__ == "budget.clients.cohere"
    for name in ("batches", "embed_jobs", "datasets", "connectors", "models", "finetuning"):
        assert getattr(client, name)._raw_client._client_wrapper.httpx_client is http
    for raw in (client._raw_client._v1, client._raw_client._v2):
        assert raw._client_wrapper.httpx_client is http


def test_cohere_embeds_and_refuses_to_rerank(budget: Budget, provider: Provider) -> None:
    client, _ = made(Cohere, budget, provider)
    client.embed(model="embed-v4.0", texts=["a", "b"], input_type="search_query", embedding_types=["float"])
    usage = provider.requests[0].usage
    assert usage is not None
    assert Decimal(only_end(budget).usd) == usage["input_tokens"] * Decimal("0.00000012")
    with pytest.raises(Unbounded):
        client.rerank(model="rerank-v3.5", query="a", documents=["b"])
    assert len(provider.requests) == 1


# LiteLLM.


def test_litellm_a_refusal_is_untouched_whatever_litellm_is_told_to_repeat(
    make_budget: Callable[..., Budget], provider: Provider
) -> None:
    pytest.importorskip("litellm")
    driver = LiteLLMAnthropic()
    completion, acompletion = driver.make(provider.url, 3)
    budget = make_budget("memory://", limits=["$0.000001/day"])
    for ask in (
        lambda: budget.wrap(completion)(**driver._asked(50), num_retries=3),
        lambda: asyncio.run(budget.wrap(acompletion)(**driver._asked(50), num_retries=3)),
    ):
        with pytest.raises(BudgetExceeded) as refused:
            ask()
        assert type(refused.value) is BudgetExceeded
    assert [entry.kind for entry in budget.entries() if entry.kind == "reserved"] == []
    assert provider.requests == []


def test_litellm_nothing_of_it_is_changed(budget: Budget, provider: Provider) -> None:
    litellm = pytest.importorskip("litellm")
    before = litellm.completion
    guarded = budget.wrap(litellm.completion)
    assert litellm.completion is before
    assert guarded.__name__ == "completion"
    assert budget.wrap(guarded) is guarded
    with pytest.raises(ConfigError, match="image_generation"):
        budget.wrap(litellm.image_generation)


def test_litellm_caches_are_priced_by_how_long_they_keep(
    budget: Budget, provider: Provider, replies: list[Reply]
) -> None:
    completion, _ = made(LiteLLMAnthropic, budget, provider)
    replies.append(Reply(cache_read=10, cache_write_5m=20, cache_write_1h=7))
    driver = LiteLLMAnthropic()
    driver.make(provider.url, 0)
    completion(**driver._asked(50))
    usage = only_end(budget).detail["usage"]
    assert usage["cache_read"] == 10
    assert usage["cache_write"] == {"5m": 20, "1h": 7}


def test_litellm_extras_fallbacks_mocks_and_places(budget: Budget, provider: Provider) -> None:
    completion, _ = made(LiteLLMOpenAI, budget, provider)
    driver = LiteLLMOpenAI()
    driver.make(provider.url, 0)
    asked = driver._asked(50)
    with pytest.raises(Unbounded):
        completion(**asked, fallbacks=["openai/gpt-5.6"])
    completion(**asked, mock_response="nothing is sent")
    assert provider.requests == []
    model, messages = asked.pop("model"), asked.pop("messages")
    completion(model, messages, budget_scope={"user": "alice"}, **asked)
    assert only_end(budget, user="alice").kind == "reconciled"


@pytest.mark.parametrize("asks", [False, True])
def test_litellm_the_chunk_with_the_usage_is_shown_to_who_asked(budget: Budget, provider: Provider, asks: bool) -> None:
    completion, _ = made(LiteLLMOpenAI, budget, provider)
    driver = LiteLLMOpenAI()
    driver.make(provider.url, 0)
    more = {"stream_options": {"include_usage": True}} if asks else {}
    chunks = list(completion(**driver._asked(50), stream=True, **more))
    assert any(getattr(chunk, "usage", None) is not None for chunk in chunks) is asks
    assert only_end(budget).detail.get("estimated") is None
