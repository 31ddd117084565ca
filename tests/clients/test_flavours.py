"""The flavours of both SDKs: who answers a client decides whose prices hold; the guard is the same."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import weakref
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, Unbounded, UnknownModel
from budget.clients.flavours import FLAVOURS, PLAIN
from budget.demo.provider import Provider

from .conftest import CHAT, ONE_TLS_ONLY, REQUEST, RESPONSE, only_end, run_async

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
"""(Some flavours say that a newer way to make them is preferred.)"""
Make = Callable[..., Any]


class Flavour:
    """One flavour: how its client is made and called, and whose prices hold."""

    def __init__(self, name: str, provider: str, model: str, path: str = "", **options: Any):
        self.name, self.provider, self.model, self.path, self.options = name, provider, model, path, options
        self.package: Any = anthropic if name.startswith("Anthropic") else openai

    def __repr__(self) -> str:
        return self.name

    def make(self, url: str, is_async: bool = False, **more: Any) -> Any:
        kind = getattr(self.package, f"{'Async' * is_async}{self.name}", None)
        if kind is None:
            pytest.skip(f"{self.package.__name__} {self.package.__version__} has no {self.name}")
        http = self.package.DefaultAsyncHttpxClient if is_async else self.package.DefaultHttpxClient
        place = {"azure_endpoint": url} if self.name == "AzureOpenAI" else {"base_url": f"{url}{self.path}"}
        given = {**place, "max_retries": 0, "http_client": http(**ONE_TLS_ONLY), **self.options, **more}
        if "azure_deployment" in given:
            given["azure_endpoint"] = url
        return kind(**given)

    def call(self, client: Any, **more: Any) -> Any:
        if self.package is anthropic:
            return client.messages.create(**{**REQUEST, "model": self.model, **more})
        return client.chat.completions.create(**{**CHAT, "model": self.model, **more})


SONNET = "claude-sonnet-4-6"
AWS = {"api_key": "k", "aws_region": "us-east-1"}
FLAVOUR = {
    each.name: each
    for each in (
        Flavour("AnthropicBedrock", "aws-bedrock", f"anthropic.{SONNET}", **AWS),
        Flavour("AnthropicBedrockMantle", "aws-bedrock", f"anthropic.{SONNET}", **AWS),
        Flavour("AnthropicVertex", "google-vertex", SONNET, region="global", project_id="p", access_token="t"),
        Flavour("AnthropicFoundry", "azure", SONNET, api_key="k"),
        Flavour("AnthropicAWS", "anthropic", SONNET, workspace_id="w", **AWS),
        Flavour("AnthropicGoogleCloud", "anthropic", SONNET, project="p", workspace_id="w", token_provider=lambda: "t"),
        Flavour("AzureOpenAI", "azure", "gpt-4.1-mini", api_key="k", api_version="2026-10-01"),
        Flavour("BedrockOpenAI", "aws-bedrock", "openai.gpt-oss-120b-1:0", "/v1", **AWS),
    )
}


@pytest.fixture
def fresh() -> Iterator[None]:
    """Have collections look only at what is made from here on: the SDKs alone are a million objects."""
    gc.freeze()
    yield
    gc.unfreeze()


every_flavour = pytest.mark.parametrize("flavour", FLAVOUR.values(), ids=repr)


def test_every_flavour_of_the_sdks_is_known_and_tested() -> None:
    """A client class that a newer SDK adds is refused; here it is noticed."""
    made = set()
    for package in (anthropic, openai):
        base = package._base_client.BaseClient
        kinds = [kind for _, kind in inspect.getmembers(package, inspect.isclass) if issubclass(kind, base)]
        made |= {kind.__name__.removeprefix("Async") for kind in kinds}
    made = {name for name in made if not name.startswith("_")} - {"Client", "Anthropic", "OpenAI"}
    assert made <= set(FLAVOURS) == set(FLAVOUR)
    assert {name: FLAVOUR[name].provider for name in FLAVOUR} == FLAVOURS


def _all_of(client: Any) -> list[Any]:
    """A client's resources, those that are made when they are first read too."""
    return [getattr(client, name) for name in ("messages", "beta", "chat", "responses") if hasattr(client, name)]


@every_flavour
def test_it_is_guarded_and_priced_by_who_answers_it(
    budget: Budget, provider: Provider, flavour: Flavour, fresh: None
) -> None:
    given = flavour.make(provider.url)
    kind, resources, gone = type(given), _all_of(given), weakref.ref(given)
    with contextlib.ExitStack() as closing:
        wrapped = closing.enter_context(budget.wrap(given))
        del given, resources
        gc.collect()
        assert gone() is None
        assert isinstance(wrapped, kind)
        assert type(wrapped).__name__ == kind.__name__
        copied = closing.enter_context(wrapped.with_options(timeout=5.0))
        budget.limits.set("$0.000000001/day")
        for client in (wrapped, copied):
            with pytest.raises(BudgetExceeded):
                flavour.call(client)
        assert not provider.requests
        budget.limits.unset("$0.000000001/day")
        before = len(list(budget.entries()))
        answer = flavour.call(copied)
        assert answer.usage is not None
        _, end = list(budget.entries())[before:]
    assert len(provider.requests) == 1
    assert (end.kind, end.scope["provider"]) == ("reconciled", flavour.provider)
    usage = provider.requests[0].usage
    assert end.usd == budget.cost({"usage": usage}, model=flavour.model, provider=flavour.provider).usd > 0


@every_flavour
def test_it_is_guarded_when_it_is_awaited(budget: Budget, provider: Provider, flavour: Flavour, fresh: None) -> None:
    given = flavour.make(provider.url, is_async=True)
    gone = weakref.ref(given)
    wrapped = budget.wrap(given)
    del given
    gc.collect()
    assert gone() is None

    async def main(client: Any) -> None:
        with pytest.raises(BudgetExceeded):
            await flavour.call(client, extra_body={"budget_cap": "$0.000000001"})
        assert not provider.requests
        async with client.copy() as copied:
            await flavour.call(copied)

    run_async(wrapped, main)
    assert len(provider.requests) == 1
    assert [entry.scope["provider"] for entry in budget.entries() if entry.kind == "reconciled"] == [flavour.provider]


@every_flavour
def test_a_model_that_is_not_sold_there_is_refused(budget: Budget, provider: Provider, flavour: Flavour) -> None:
    with budget.wrap(flavour.make(provider.url)) as client:
        model = "claude-2.1-instant" if flavour.package is anthropic else "gpt-nobody-knows"
        with pytest.raises(UnknownModel):
            flavour.call(client, model=model)
    assert not provider.requests


@every_flavour
def test_a_stream_is_metered(budget: Budget, provider: Provider, flavour: Flavour) -> None:
    if flavour.name == "AnthropicBedrock":
        pytest.importorskip("botocore", reason="Bedrock's stream is read with botocore")
    with budget.wrap(flavour.make(provider.url)) as client:
        list(flavour.call(client, stream=True))
    end = only_end(budget)
    assert end.detail["usage"]["output"] == 40
    assert "estimated" not in end.detail


def test_prices_of_ones_own_are_for_whom_they_say(provider: Provider, make_budget: Make) -> None:
    """A row of the maker's model is no price of a cloud that sells it."""
    price = {"model": "claude-own", "input": "1", "output": "1"}
    flavour = FLAVOUR["AnthropicVertex"]
    elsewhere = make_budget("memory://", limits=["$1/day"], prices=[{**price, "provider": "anthropic"}])
    with elsewhere.wrap(flavour.make(provider.url)) as client, pytest.raises(UnknownModel):
        flavour.call(client, model="claude-own")
    there = make_budget("memory://", limits=["$1/day"], prices=[{**price, "provider": "google-vertex"}])
    with there.wrap(flavour.make(provider.url)) as client:
        flavour.call(client, model="claude-own")
    assert only_end(there).usd == Decimal("0.000051")


def test_a_flavour_that_nobody_knows_is_refused(budget: Budget) -> None:
    new = type("AnthropicOnTheMoon", (anthropic.Anthropic,), {"__module__": "anthropic.lib.moon"})
    with pytest.raises(ConfigError, match=r"anthropic.AnthropicOnTheMoon is not available in this version"):
        budget.wrap(new(api_key="k"))


def test_a_users_own_subclass_is_of_its_flavour(budget: Budget, provider: Provider) -> None:
    mine = type("Mine", (anthropic.AnthropicFoundry,), {})
    with budget.wrap(mine(api_key="k", base_url=provider.url)) as client:
        assert isinstance(client, mine)
        FLAVOUR["AnthropicFoundry"].call(client)
    assert only_end(budget).scope["provider"] == "azure"


# Where a region or a data zone has a price of its own.


@pytest.mark.parametrize(("region", "factor"), [("global", 1), ("us", "1.1"), ("eu", "1.1"), ("europe-west1", "1.1")])
def test_a_region_of_vertex_has_its_surcharge(budget: Budget, provider: Provider, region: str, factor: Any) -> None:
    flavour = FLAVOUR["AnthropicVertex"]
    with budget.wrap(flavour.make(provider.url, region=region)) as client:
        flavour.call(client)
    reserved, end = list(budget.entries())
    plain = budget.cost({"usage": provider.requests[0].usage}, model=SONNET, provider="google-vertex").usd
    assert end.usd == plain * Decimal(factor)
    bound = budget.estimate(**{**REQUEST, "model": SONNET}, provider="google-vertex", endpoint="messages")
    assert Decimal(reserved.estimate["usd_max"]) == bound.usd_max * Decimal(factor)
    assert not end.detail.get("unpriced")


def test_a_region_without_a_surcharge_is_priced_as_it_is(budget: Budget, provider: Provider) -> None:
    flavour = FLAVOUR["AnthropicVertex"]
    with budget.wrap(flavour.make(provider.url, region="us-east5")) as client:
        flavour.call(client, model="claude-opus-4-1@20250805")
    end = only_end(budget)
    assert (
        end.usd
        == budget.cost({"usage": provider.requests[0].usage}, model="claude-opus-4-1", provider="google-vertex").usd
    )
    assert not end.detail.get("unpriced")


def test_a_copy_for_another_region_has_its_price(budget: Budget, provider: Provider) -> None:
    flavour = FLAVOUR["AnthropicVertex"]
    with budget.wrap(flavour.make(provider.url)) as client:
        flavour.call(client)
        with client.copy(region="europe-west1", base_url=provider.url) as copied:
            flavour.call(copied)
    first, second = [entry.usd for entry in budget.entries() if entry.kind == "reconciled"]
    assert second == first * Decimal("1.1")


def test_a_regional_host_of_openai_has_its_surcharge(budget: Budget, plain: Make, provider: Provider) -> None:
    url = provider.url + "/v1"
    wrapped = budget.wrap(plain(openai.OpenAI, base_url="https://eu.api.openai.com/v1"))
    wrapped.base_url = url  # what it was wrapped as decides its prices
    wrapped.responses.create(**{**RESPONSE, "model": "gpt-5.6"})
    wrapped.responses.create(**RESPONSE)  # a model from before March 2026 has no surcharge
    new, old = [entry for entry in budget.entries() if entry.kind == "reconciled"]
    usage = [{"usage": seen.usage} for seen in provider.requests]
    assert new.usd == budget.cost(usage[0], model="gpt-5.6", provider="openai").usd * Decimal("1.1")
    assert old.usd == budget.cost(usage[1], model=RESPONSE["model"], provider="openai").usd
    assert not any(entry.detail.get("unpriced") for entry in (new, old))


@pytest.mark.parametrize("host", ["jp.api.openai.com", "moon.api.openai.com"])
def test_a_region_without_known_prices_is_refused(budget: Budget, plain: Make, oclient: Any, host: str) -> None:
    with pytest.raises(ConfigError, match=f"{host} has the prices of its region"):
        budget.wrap(plain(openai.OpenAI, base_url=f"https://{host}/v1"))
    with pytest.raises(ConfigError, match=f"{host} has the prices of its region"):
        oclient.copy(base_url=f"https://{host}/v1")


@pytest.mark.parametrize("host", ["my.openai.azure.com", "my.services.ai.azure.com"])
def test_a_plain_client_of_azures_host_has_azures_prices(budget: Budget, plain: Make, host: str) -> None:
    assert budget.wrap(plain(openai.OpenAI, base_url=f"https://{host}/openai/v1"))._budget_protocol.provider == "azure"
    assert budget.wrap(plain(base_url=f"https://{host}/anthropic"))._budget_protocol.provider == "azure"


# Deployments: names of the operator's own.

AZURE = FLAVOUR["AzureOpenAI"]


def _priced_as(budget: Budget, model: str) -> None:
    end = only_end(budget)
    assert (end.scope["model"], end.scope["provider"]) == (model, "azure")
    assert end.detail.get("priced_as", end.detail["model"]) == model


@pytest.mark.parametrize("is_async", [False, True])
def test_a_deployment_is_priced_as_its_model(budget: Budget, provider: Provider, is_async: bool) -> None:
    given = AZURE.make(provider.url, is_async)
    wrapped = budget.wrap(given, deployments={"my-gpt": "gpt-5.6"})

    async def main(client: Any) -> None:
        await AZURE.call(client.with_options(timeout=9), model="my-gpt")

    if is_async:
        run_async(wrapped, main)
    else:
        with wrapped:
            AZURE.call(wrapped.with_options(timeout=9), model="my-gpt")
    _priced_as(budget, "gpt-5.6")
    assert provider.requests[0].path == "/openai/deployments/my-gpt/chat/completions"  # as it is sent


def test_a_deployment_that_is_not_in_the_map_is_refused(budget: Budget, provider: Provider) -> None:
    with budget.wrap(AZURE.make(provider.url), deployments={"my-gpt": "gpt-5.6"}) as client:
        with pytest.raises(UnknownModel, match="no price for model 'theirs'"):
            AZURE.call(client, model="theirs")
        with pytest.raises(UnknownModel):
            client.embeddings.create(model="theirs", input="x")
    assert not provider.requests


def test_a_deployment_that_is_named_like_a_model_is_that_model(budget: Budget, provider: Provider) -> None:
    with budget.wrap(AZURE.make(provider.url)) as client:
        AZURE.call(client)
    _priced_as(budget, AZURE.model)


def test_the_deployment_in_the_url_answers_whatever_a_request_names(budget: Budget, provider: Provider) -> None:
    given = AZURE.make(provider.url, azure_deployment="my-gpt")
    with budget.wrap(given, deployments={"my-gpt": "gpt-5.6", "other": "gpt-4.1-nano"}) as client:
        AZURE.call(client, model="gpt-4.1-nano")
        _priced_as(budget, "gpt-5.6")
        client.responses.create(**{**RESPONSE, "model": "other"})  # this one goes to another URL
    last = [entry for entry in budget.entries() if entry.kind == "reconciled"][-1]
    assert last.scope["model"] == "gpt-4.1-nano"
    assert [seen.path for seen in provider.requests] == [
        "/openai/deployments/my-gpt/chat/completions",
        "/openai/responses",
    ]


def test_the_deployment_of_a_base_url_answers_everything(budget: Budget, provider: Provider) -> None:
    kind = openai.AzureOpenAI
    url = f"{provider.url}/openai/deployments/my-gpt"
    with budget.wrap(kind(base_url=url, api_key="k", api_version="1")) as client, pytest.raises(UnknownModel):
        client.responses.create(**RESPONSE)
    assert not provider.requests


def test_foundry_and_inference_profiles_have_deployments_too(budget: Budget, provider: Provider) -> None:
    arn = "arn:aws:bedrock:us-east-1:1:application-inference-profile/abc"
    named = {"AnthropicFoundry": ("mine", SONNET), "AnthropicBedrock": (arn, f"anthropic.{SONNET}")}
    for name, (deployment, model) in named.items():
        flavour = FLAVOUR[name]
        with budget.wrap(flavour.make(provider.url), deployments={deployment: model}) as client:
            flavour.call(client, model=deployment)
    ends = [entry for entry in budget.entries() if entry.kind == "reconciled"]
    assert [entry.scope["model"] for entry in ends] == [model for _, model in named.values()]


@pytest.mark.parametrize("wrong", ["gpt", ["a"], {"a": 5}, {5: "a"}])
def test_deployments_are_names(budget: Budget, provider: Provider, wrong: Any) -> None:
    with pytest.raises(ArgumentTypeError, match="deployments"):
        budget.wrap(AZURE.make(provider.url), deployments=wrong)


def test_only_clouds_have_deployments(budget: Budget, plain: Make) -> None:
    for kind in (anthropic.Anthropic, openai.OpenAI):
        with pytest.raises(ConfigError, match="deployments: "):
            budget.wrap(plain(kind), deployments={"a": "b"})
    guarded = budget.wrap(plain())
    with pytest.raises(ConfigError, match="guarded already"):
        budget.wrap(guarded, deployments={"a": "b"})


# `provider=` of openai's newer SDK.


def _provider_client(url: str) -> Any:
    bedrock = pytest.importorskip("openai.providers.bedrock")
    provider = bedrock.bedrock(api_key="k", base_url=f"{url}/v1", region="us-east-1")
    return openai.OpenAI(provider=provider, max_retries=0)


def test_a_client_with_a_provider_has_its_prices(budget: Budget, provider: Provider) -> None:
    flavour = FLAVOUR["BedrockOpenAI"]
    with budget.wrap(_provider_client(provider.url)) as client:
        flavour.call(client.with_options(timeout=9))
    assert only_end(budget).scope["provider"] == "aws-bedrock"


def test_a_client_of_a_provider_that_nobody_knows_is_refused(budget: Budget, plain: Make, oclient: Any) -> None:
    given = plain(openai.OpenAI)
    given._provider = object()
    with pytest.raises(ConfigError, match="provider=None is not available"):
        budget.wrap(given)


# What else a cloud's client has.


def test_free_calls_pass_also_where_the_sdk_sends_them_elsewhere(budget: Budget, provider: Provider) -> None:
    vertex = FLAVOUR["AnthropicVertex"]
    with budget.wrap(vertex.make(provider.url)) as client, pytest.raises(anthropic.NotFoundError):
        client.messages.count_tokens(model=SONNET, messages=REQUEST["messages"])
    with budget.wrap(AZURE.make(provider.url, azure_deployment="x")) as azure:
        with pytest.raises(openai.NotFoundError):
            azure.moderations.create(input="x")
        with pytest.raises(UnknownModel):
            azure.images.generate(prompt="x", model="x")
        with budget.reservation("$0.1"), pytest.raises(openai.NotFoundError):
            azure.images.generate(prompt="x", model="x")

    async def main(client: Any) -> None:
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model=SONNET, messages=REQUEST["messages"])

    run_async(budget.wrap(vertex.make(provider.url, is_async=True)), main)
    counts = "/projects/p/locations/global/publishers/anthropic/models/count-tokens:rawPredict"
    sent = [counts, "/openai/moderations", "/openai/deployments/x/images/generations", counts]
    assert [seen.path for seen in provider.requests] == sent


def test_a_cloud_without_an_endpoint_of_that_shape_refuses(budget: Budget, provider: Provider) -> None:
    """Vertex takes chat; what its Responses would cost is not known."""
    with budget.wrap(FLAVOUR["AnthropicVertex"].make(provider.url)) as client:
        with pytest.raises(Unbounded, match="is not metered in this version"):
            client.post("/v1/brand_new", cast_to=object, body={})
        with pytest.raises(Unbounded):  # past `request`, with the path as the cloud has it
            anthropic.AnthropicVertex.request(
                client,
                anthropic.types.Message,
                anthropic._models.FinalRequestOptions.construct(
                    method="post", url="/v1/messages", json_data=dict(REQUEST)
                ),
            )
    assert not provider.requests


def test_all_plain_classes_exist() -> None:
    for package, names in PLAIN.items():
        assert all(hasattr({"anthropic": anthropic, "openai": openai}[package], name) for name in names)
    assert asyncio.iscoroutinefunction(anthropic.AsyncAnthropic.request)
