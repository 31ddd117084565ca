"""Money set aside by hand, and what the SDKs' own arguments carry for this package: with each SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest

from budget import Budget, UnknownModel
from budget.demo.provider import Provider, Reply, Request
from tests.clients.others.conftest import spent
from tests.clients.others.drivers import CHAT, TEXT, Bedrock, Cohere, Driver, Google, LiteLLMGemini, LiteLLMOpenAI

SCOPE = {"budget_scope": {"user": "alice"}}


def _unpriced(driver: Driver) -> Driver:
    if isinstance(driver, LiteLLMGemini):
        pytest.skip("LiteLLM refuses its parameters for a model that it does not know")
    driver.model += "-unheard-of"
    return driver


def test_what_has_no_price_passes_where_money_was_set_aside(budget: Budget, provider: Provider, driver: Driver) -> None:
    driver = _unpriced(driver)
    client = driver.guard(budget, driver.make(provider.url, 0))
    for ask in (driver.ask, lambda given: list(driver.stream(given))):
        before, sent = spent(budget), len(provider.requests)
        with pytest.raises(UnknownModel):
            ask(client)
        assert len(provider.requests) == sent
        with budget.reservation("$0.50") as reserved:
            ask(client)
            reserved.reconcile(usd="0.125")
        assert len(provider.requests) == sent + 1
        assert spent(budget) - before == Decimal("0.125")  # and nothing of the call itself


def test_the_same_awaited(budget: Budget, provider: Provider, adriver: Driver) -> None:
    driver = _unpriced(adriver)
    client = driver.guard(budget, driver.make(provider.url, 0))

    async def main() -> None:
        with pytest.raises(UnknownModel):
            await driver.aask(client)
        assert not provider.requests
        async with budget.reservation("$0.50") as reserved:
            await driver.aask(client)
            async for _ in await driver.astream(client):
                pass
            reserved.reconcile(usd="0.125")
        await driver.aclose(client)

    asyncio.run(main())
    assert len(provider.requests) == 2
    assert spent(budget) == Decimal("0.125")


def test_what_can_be_metered_is_metered_there_too(budget: Budget, provider: Provider, driver: Driver) -> None:
    client = driver.guard(budget, driver.make(provider.url, 0))
    with budget.reservation("$0.50") as reserved:
        driver.ask(client)
        reserved.refund()
    assert spent(budget) == driver.cost(provider.requests[0].usage or {}) > 0


def test_an_invoke_model_with_a_guardrail_passes_by_hand(budget: Budget, provider: Provider) -> None:
    pytest.importorskip("boto3")
    driver = Bedrock()
    client = driver.guard(budget, driver.make(provider.url, 0))
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 20, "messages": CHAT}
    asked = {"modelId": driver.model, "body": json.dumps(body), "guardrailIdentifier": "abcde"}
    with budget.reservation("$0.50") as reserved:
        assert client.invoke_model(**asked, guardrailVersion="1")["body"].read()
        reserved.reconcile(usd="0.125")
    assert spent(budget) == Decimal("0.125")


# Keywords are read and never sent.


@pytest.fixture
def bodies() -> list[bytes]:
    return []


@pytest.fixture
def listening(bodies: list[bytes]) -> Iterator[Provider]:
    def script(request: Request) -> Reply:
        bodies.append(request.body)
        return Reply()

    with Provider(script=script, output_tokens=8) as running:
        yield running


def _google(client: Any) -> None:
    options = {"extra_body": {**SCOPE}}
    client.models.generate_content(model=Google.model, contents=TEXT, config={"http_options": options})
    with pytest.raises(import_module("google.genai.errors").ClientError):  # there is no such path here
        client.models.count_tokens(model=Google.model, contents=TEXT, config={"http_options": options})


def _cohere(client: Any) -> None:
    client[0].chat(model=Cohere.model, messages=CHAT, request_options={"additional_body_parameters": {**SCOPE}})


def _litellm(client: Any) -> None:
    where = {"api_base": client[2], "api_key": "k"}
    client[0](model=LiteLLMOpenAI.model, messages=CHAT, max_tokens=10, **SCOPE, **where)


@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize(("kind", "ask"), [(Google, _google), (Cohere, _cohere), (LiteLLMOpenAI, _litellm)])
def test_a_free_call_and_a_disabled_budget_send_no_extras(
    make_budget: Callable[..., Budget], listening: Provider, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch,
    kind: type[Driver], ask: Callable[[Any], None], disabled: bool,
) -> None:  # fmt: skip
    pytest.importorskip(kind.package)
    if disabled:
        monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget, driver = make_budget("memory://"), kind()
    client = driver.guard(budget, driver.make(listening.url, 0))
    ask((*client, f"{listening.url}/v1") if driver.two else client)
    assert bodies
    assert not any(b"budget_" in body for body in bodies)
    if not disabled:
        assert {entry.scope["user"] for entry in budget.entries()} == {"alice"}
