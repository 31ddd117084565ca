"""The demo provider's OpenAI endpoints, read by the real SDK over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from budget.demo.provider import Provider, Reply, Request

openai = pytest.importorskip("openai")

MODEL = "gpt-4.1-mini"
CHAT: dict[str, Any] = {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": "very private"}]}
RESPONSE: dict[str, Any] = {"model": MODEL, "max_output_tokens": 20, "input": "a very private prompt"}
_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": _SCHEMA}}]
TOOLS = [{"type": "function", "name": "look_up", "parameters": _SCHEMA, "strict": False}]
LONG = "output=200,pace=0.05"
USAGE = {"stream_options": {"include_usage": True}}


class City(BaseModel):
    city: str


def words(count: int) -> str:
    return "".join(f"w{n} " for n in range(count))


def demo(header: str, tag: str | None = None) -> dict[str, Any]:
    return {"extra_headers": {"x-demo": header, **({"x-demo-tag": tag} if tag else {})}}


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def sdk(running: Provider) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="sk-private") as client:
        yield client


@pytest.fixture
def provider(running: Provider) -> Provider:
    running.wait()
    running.clear()
    return running


@pytest.fixture
def client(sdk: Any, provider: Provider) -> Any:
    return sdk


@pytest.fixture
def once(client: Any) -> Any:
    return client.with_options(max_retries=0)


# -- chat --------------------------------------------------------------------------------------------------------------


def test_plain_chat(client: Any, provider: Provider) -> None:
    reply = client.chat.completions.create(**CHAT)
    assert (reply.object, reply.model, reply.service_tier) == ("chat.completion", MODEL, "default")
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", words(20), "length")
    counted = -(-len("user" + "very private") // 4) + 7
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (counted, 20)
    assert reply.usage.total_tokens == counted + 20
    assert reply._request_id == provider.requests[0].request_id
    assert provider.requests[0].usage == reply.usage.to_dict()
    assert (provider.requests[0].max_tokens, provider.requests[0].model) == (20, MODEL)
    assert "private" not in repr(provider.requests)


def test_output_of_chat_is_the_smaller_of_bound_and_default(client: Any, provider: Provider) -> None:
    unbounded = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    reply = client.chat.completions.create(**unbounded)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (40, "stop")
    reply = client.chat.completions.create(**unbounded, max_completion_tokens=3)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (3, "length")
    assert [seen.max_tokens for seen in provider.requests] == [None, 3]


def test_several_choices(client: Any) -> None:
    reply = client.chat.completions.create(**CHAT, n=3, **demo("output=5,thinking=2"))
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert {choice.message.content for choice in reply.choices} == {words(3)}
    assert reply.usage.completion_tokens == 15
    assert reply.usage.completion_tokens_details.reasoning_tokens == 6
    chunks = list(client.chat.completions.create(**CHAT, n=3, stream=True, **USAGE, **demo("output=5")))
    assert {chunk.choices[0].index for chunk in chunks[:-1]} == {0, 1, 2}
    assert chunks[-1].usage.completion_tokens == 15


def test_a_chat_stream_says_its_usage_only_if_asked(client: Any, provider: Provider) -> None:
    create = client.chat.completions.create
    bare = list(create(**CHAT, stream=True))
    assert len(bare) == 22
    assert "".join(chunk.choices[0].delta.content or "" for chunk in bare) == words(20)
    assert (bare[0].choices[0].delta.role, bare[-1].choices[0].finish_reason) == ("assistant", "length")
    assert not any("usage" in chunk.to_dict() for chunk in bare)
    assert provider.requests[0].events_sent == 23  # and `[DONE]`
    unasked = list(create(**CHAT, stream=True, stream_options={"include_usage": False}))
    assert len(unasked) == 22
    *others, last = create(**CHAT, stream=True, **USAGE)
    assert (last.choices, last.usage.completion_tokens, len(others)) == ([], 20, 22)
    assert [chunk.to_dict()["usage"] for chunk in others] == [None] * 22
    *_, end = create(**CHAT, stream=True, **USAGE, **demo("usage=none"))
    assert (end.usage, end.choices[0].finish_reason) == (None, "length")


@pytest.mark.parametrize("header", ["", "tool=1", "output=12,thinking=5", "pace=0.001", "input=90,cache_read=10"])
def test_the_chat_helper_ends_in_the_same_answer_as_a_plain_call(client: Any, header: str) -> None:
    call = {**CHAT, "max_tokens": 50, "tools": CHAT_TOOLS, **demo(header)}
    plain = client.chat.completions.create(**call)
    with client.chat.completions.stream(**call, **USAGE) as stream:
        final = stream.get_final_completion()
    assert final.usage == plain.usage
    assert final.choices[0].finish_reason == plain.choices[0].finish_reason
    assert final.choices[0].message.content == plain.choices[0].message.content
    for message in (final.choices[0].message, plain.choices[0].message):
        called = [call.function.arguments for call in message.tool_calls or []]
        assert called == (['{"city": "w0"}'] if "tool" in header else [])


def test_structured_answers(client: Any) -> None:
    chat, response = {**CHAT, "max_tokens": 50}, {**RESPONSE, "max_output_tokens": 50}
    parsed = client.chat.completions.parse(**chat, response_format=City)
    assert parsed.choices[0].message.parsed == City(city="w0")
    with client.chat.completions.stream(**chat, response_format=City) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == City(city="w0")
    assert client.responses.parse(**response, text_format=City).output_parsed == City(city="w0")
    with client.responses.stream(**response, text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(city="w0")
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**CHAT, response_format=City)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"messages": []}, "messages"),
        ({"model": ""}, "model"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_a_chat_that_makes_no_sense_is_refused(once: Any, body: dict[str, Any], named: str) -> None:
    with pytest.raises(openai.BadRequestError, match=named) as caught:
        once.chat.completions.create(**{**CHAT, **body})
    assert caught.value.type == "invalid_request_error"


def test_an_error_in_a_chat_stream(once: Any, provider: Provider) -> None:
    chunks: list[Any] = []
    with pytest.raises(openai.APIError, match="The server had an error"):
        chunks.extend(once.chat.completions.create(**CHAT, stream=True, **demo("error_event=3")))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", "w0 ", "w1 "]
    assert provider.requests[0].status == 200


# -- responses ---------------------------------------------------------------------------------------------------------


def test_plain_response(client: Any, provider: Provider) -> None:
    reply = client.responses.create(**RESPONSE)
    assert (reply.object, reply.status, reply.model) == ("response", "incomplete", MODEL)
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.output_text == words(20)
    counted = -(-len(RESPONSE["input"]) // 4) + 7
    assert (reply.usage.input_tokens, reply.usage.output_tokens, reply.usage.total_tokens) == (
        counted,
        20,
        counted + 20,
    )
    assert provider.requests[0].usage == reply.usage.to_dict()
    assert provider.requests[0].max_tokens == 20
    whole = client.responses.create(**RESPONSE, **demo("output=4,thinking=3,cache_read=50,cache_write_5m=7"))
    assert (whole.status, whole.output_text) == ("completed", "w0 ")
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.usage.output_tokens_details.reasoning_tokens == 3
    details = whole.usage.input_tokens_details
    assert (whole.usage.input_tokens, details.cached_tokens, details.cache_write_tokens) == (counted + 57, 50, 7)


def test_a_stream_of_responses_has_the_events_of_the_protocol(client: Any, provider: Provider) -> None:
    events = list(client.responses.create(**{**RESPONSE, "max_output_tokens": 30}, stream=True, **demo("output=3")))
    assert [event.type.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.sequence_number for event in events] == list(range(11))
    assert events[0].response.usage is None
    assert events[-1].response.usage.output_tokens == 3
    assert provider.requests[0].events_sent == 11


@pytest.mark.parametrize("header", ["", "tool=1", "output=12,thinking=5", "failed=1", "input=90,cache_read=10"])
def test_the_helper_of_responses_ends_in_the_same_answer_as_a_plain_call(client: Any, header: str) -> None:
    call = {**RESPONSE, "max_output_tokens": 50, "tools": TOOLS, **demo(header)}
    plain = client.responses.create(**call)
    with client.responses.stream(**call) as stream:
        *_, last = stream
    assert last.type == f"response.{plain.status}"
    assert last.response.usage == plain.usage
    assert [item.type for item in last.response.output] == [item.type for item in plain.output]
    assert last.response.output_text == plain.output_text
    assert plain.status == ("failed" if "failed" in header else "completed")


def test_a_failed_response_has_an_error_and_no_usage(client: Any, provider: Provider) -> None:
    reply = client.responses.create(**RESPONSE, **demo("failed=1"))
    assert (reply.status, reply.error.code, reply.usage, reply.output) == ("failed", "server_error", None, [])
    assert provider.requests[0].usage is None


def test_an_error_in_a_stream_of_responses(client: Any) -> None:
    *_, last = client.responses.create(**RESPONSE, stream=True, **demo("error_event=5"))
    assert (last.type, last.code) == ("error", "server_error")


# -- embeddings --------------------------------------------------------------------------------------------------------


def test_embeddings(client: Any, provider: Provider) -> None:
    create = client.embeddings.create
    one = create(model="text-embedding-3-small", input="hello")
    assert (len(one.data), one.data[0].embedding, one.usage.prompt_tokens) == (1, [0.5] * 4, 2)
    two = create(model="text-embedding-3-small", input=["one", "two three"], dimensions=2, encoding_format="float")
    assert [row.embedding for row in two.data] == [[0.5, 0.5]] * 2
    assert (two.usage.prompt_tokens, two.usage.total_tokens) == (1 + 3, 4)
    assert create(model="text-embedding-3-small", input=[1, 2, 3]).usage.prompt_tokens == 3
    tokens = create(model="text-embedding-3-small", input=[[1, 2], [3]], **demo("model=other"))
    assert (len(tokens.data), tokens.usage.prompt_tokens, tokens.model) == (2, 3, "other")
    assert create(model="m", input="x", **demo("input=77")).usage.prompt_tokens == 77
    assert [seen.usage["prompt_tokens"] for seen in provider.requests if seen.usage] == [2, 4, 3, 3, 77]


# -- steering, as everywhere -------------------------------------------------------------------------------------------

CALLS = {
    "chat": lambda client, **more: client.chat.completions.create(**CHAT, **more),
    "responses": lambda client, **more: client.responses.create(**RESPONSE, **more),
    "embeddings": lambda client, **more: client.embeddings.create(model="text-embedding-3-small", input="x", **more),
}
PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "embeddings": "/v1/embeddings"}


@pytest.mark.parametrize("name", CALLS)
def test_errors_latency_and_retries(client: Any, provider: Provider, name: str) -> None:
    call = CALLS[name]
    with pytest.raises(openai.InternalServerError, match="x-demo asked"):
        call(client.with_options(max_retries=1), **demo("status=503,retry-after=0.001"))
    assert call(client, **demo("fail_first=2:429,retry-after=0.001", "mine")).usage.total_tokens
    assert [(seen.status, seen.path) for seen in provider.requests] == [
        (status, PATHS[name]) for status in (503, 503, 429, 429, 200)
    ]
    with pytest.raises(openai.APITimeoutError):
        call(client.with_options(max_retries=0), timeout=0.2, **demo("latency=30"))
    for cut in ("cut=0", "hang=0"):
        with pytest.raises(openai.APIConnectionError):
            call(client.with_options(max_retries=0), **demo(cut))
    assert call(client, **demo("usage=none")).usage is None
    assert (provider.requests[-1].usage or {})["total_tokens"] > 0


@pytest.mark.parametrize("name", ["chat", "responses"])
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_stream_can_be_cut(once: Any, provider: Provider, name: str, cut: int) -> None:
    seen: list[Any] = []
    with pytest.raises(Exception, match=r"peer closed|[Cc]onnection"):
        seen.extend(CALLS[name](once, stream=True, **demo(f"cut={cut}")))
    assert (len(seen), provider.requests[0].events_sent) == (cut, cut)


@pytest.mark.parametrize("name", ["chat", "responses"])
def test_a_stream_left_early_is_noticed(client: Any, provider: Provider, name: str) -> None:
    with CALLS[name](client, stream=True, **demo(LONG)) as stream:
        for _, event in zip(range(4), stream, strict=False):
            assert event
    provider.wait()
    assert provider.requests[0].disconnected


def test_a_service_tier_is_answered(client: Any) -> None:
    for tier in ("flex", "priority"):
        assert client.chat.completions.create(**CHAT, service_tier=tier).service_tier == tier
        assert client.responses.create(**RESPONSE, service_tier=tier).service_tier == tier


def test_a_script_sees_the_body() -> None:
    asked = []

    def script(request: Request) -> Reply:
        asked.append(request.json.get("encoding_format"))
        return Reply(output=2)

    with Provider(script=script) as own, openai.OpenAI(base_url=f"{own.url}/v1", api_key="k") as client:
        client.embeddings.create(model="m", input="x")
        assert client.responses.create(**RESPONSE).usage.output_tokens == 2
    assert asked == ["base64", None]


def test_async(provider: Provider) -> None:
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="demo") as client:
            assert (await client.chat.completions.create(**CHAT)).usage.completion_tokens == 20
            async with client.responses.stream(**{**RESPONSE, "max_output_tokens": 30}, **demo("output=2")) as stream:
                assert (await stream.get_final_response()).output_text == words(2)
            async with client.chat.completions.stream(**CHAT) as helper:
                assert [event.type async for event in helper][-1] == "content.done"

    asyncio.run(main())
