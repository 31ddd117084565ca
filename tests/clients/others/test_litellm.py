"""LiteLLM's own: conversations that go on with its answers' messages, and its Router."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from budget import Budget, BudgetExceeded
from budget.clients.litellmbody import body_of
from budget.demo.provider import Provider
from budget.errors import ConfigError
from budget.estimator import measure
from tests.clients.conftest import ends
from tests.clients.others.drivers import CHAT, LiteLLM, LiteLLMAnthropic, LiteLLMGemini, LiteLLMOpenAI

litellm = pytest.importorskip("litellm")
KINDS = (LiteLLMOpenAI, LiteLLMAnthropic, LiteLLMGemini)
FUNCTIONS = ("completion", "acompletion", "embedding", "aembedding")


# Conversations.


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_goes_on_with_what_was_answered(
    budget: Budget, provider: Provider, kind: type[LiteLLM], streams: bool
) -> None:
    driver = kind()
    completion, _ = driver.guard(budget, driver.make(provider.url, 0))
    asked, messages = driver._asked(50), list[Any](CHAT)
    for dumped in (True, False, True):
        answer = completion(**{**asked, "messages": messages, "stream": streams})
        if streams:
            answer = litellm.stream_chunk_builder(list(answer), messages)
        said = answer.choices[0].message
        messages += [said.model_dump() if dumped else said, {"role": "user", "content": "go on"}]
    assert [end.detail.get("estimated") for end in ends(budget)] == [None, None, None]


def counted(message: Any) -> Any:
    given = {"model": "gpt-4.1-mini", "messages": [*CHAT, message], "max_tokens": 9}
    return measure(body_of(given, litellm), provider="openai", endpoint="chat")


def test_what_a_message_says_beside_its_text_is_counted_and_what_is_empty_is_not() -> None:
    called = {"id": "c", "type": "function", "function": {"name": "dig", "arguments": "{}"}}
    plain = {"role": "assistant", "content": "done", "tool_calls": [called]}
    empty = {"provider_specific_fields": {"refusal": None, "citations": []}, "images": [], "thinking_blocks": []}
    signed = {"provider_specific_fields": {"thought_signature": "abc def " * 20}}
    assert counted(plain | empty | {"audio": None}) == counted(plain)
    for more in (
        {"thinking_blocks": [{"type": "thinking", "thinking": "hm " * 40}]},
        {"reasoning_content": "hm " * 40},
        signed,
        {"tool_calls": [called | signed]},
        {"tool_calls": [called | {"function": called["function"] | signed}]},
        {"content": None, "reasoning_items": [{"summary": "hm " * 40}]},
    ):
        found = counted(plain | more)
        assert found.reasons == ()
        assert found.base_tokens > counted(plain).base_tokens + 30
    assert counted(plain | {"images": [{"image_url": {"url": "https://x"}}]}).reasons != ()


def test_what_others_say_is_left_as_it_is() -> None:
    message = {"role": "user", "content": "hi", "provider_specific_fields": {"a": 1}}
    assert counted(message).reasons == ("messages[1].provider_specific_fields: unknown field",)
    wrong = SimpleNamespace(role="user")
    assert body_of({"messages": [wrong]}, litellm)["messages"] == [wrong]


# The Router.


@pytest.fixture
def in_place(budget: Budget) -> Iterator[None]:
    """LiteLLM's functions, guarded where the Router looks for them."""
    given = {name: getattr(litellm, name) for name in FUNCTIONS}
    for name, function in given.items():
        setattr(litellm, name, budget.wrap(function))
    yield
    for name, function in given.items():
        setattr(litellm, name, function)


def router(provider: Provider, **options: Any) -> Any:
    sites = {
        "fast": {"model": LiteLLMOpenAI.model, "api_base": f"{provider.url}/v1"},
        "slow": {"model": LiteLLMAnthropic.model, "api_base": provider.url},
        "embeds": {"model": "openai/text-embedding-3-small", "api_base": f"{provider.url}/v1"},
    }
    models = [{"model_name": name, "litellm_params": {**site, "api_key": "k"}} for name, site in sites.items()]
    return litellm.Router(model_list=models, num_retries=0, **options)


@pytest.mark.usefixtures("in_place")
def test_a_router_calls_what_stands_in_litellm(budget: Budget, provider: Provider) -> None:
    asked: dict[str, Any] = {"messages": CHAT, "max_tokens": 50}
    routed = router(provider)

    async def main() -> None:
        await routed.acompletion("fast", **asked)
        async for _ in await routed.acompletion("slow", **asked, stream=True):
            pass
        await routed.aembedding("embeds", ["hi"])

    routed.completion("slow", **asked)
    assert len(list(routed.completion("fast", **asked, stream=True))) >= 8
    routed.embedding("embeds", ["hi"])
    asyncio.run(main())
    assert len(provider.requests) == len(ends(budget)) == 6
    assert [(end.kind, end.detail.get("estimated")) for end in ends(budget)] == [("reconciled", None)] * 6


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("budget", ["$0.000001/day"], indirect=True)
@pytest.mark.usefixtures("in_place")
def test_a_router_is_refused_wherever_it_falls_back_to(budget: Budget, provider: Provider, awaited: bool) -> None:
    routed = router(provider, fallbacks=[{"fast": ["slow"]}])
    with pytest.raises(BudgetExceeded) as refused:
        asyncio.run(routed.acompletion("fast", CHAT)) if awaited else routed.completion("fast", CHAT)
    assert type(refused.value) is BudgetExceeded
    assert provider.requests == []
    assert {entry.kind for entry in budget.entries()} == {"refused"}


def test_a_router_itself_cannot_be_wrapped(budget: Budget, provider: Provider) -> None:
    with pytest.raises(ConfigError, match=r"say litellm\.completion = "):
        budget.wrap(router(provider))


@pytest.fixture
def budget(make_budget: Callable[..., Budget], request: pytest.FixtureRequest) -> Budget:
    return make_budget("memory://", limits=[getattr(request, "param", "$100/day")])
