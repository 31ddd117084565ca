"""Clients whose own attributes stand before the methods of their class: what is put there must not go around wrap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from budget import Budget, ConfigError
from budget.demo.provider import Provider

from .conftest import REQUEST, only_end

Make = Callable[..., Any]
KINDS = (anthropic.Anthropic, anthropic.AsyncAnthropic, openai.OpenAI, openai.AsyncOpenAI)
NAMES = ("request", "post", "get", "put", "patch", "delete", "get_api_list", "copy", "with_options", "_prepare_request",
         "_should_retry")  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_a_client_with_a_method_replaced_is_refused(budget: Budget, plain: Make, kind: Any, name: str) -> None:
    given = plain(kind)
    setattr(given, name, functools.partial(getattr(given, name)))
    with pytest.raises(ConfigError, match=rf"^wrap: {name} was replaced on this very client.*wrap the client first"):
        budget.wrap(given)
    delattr(given, name)
    budget.wrap(given)


def test_a_resource_replaced_is_refused(budget: Budget, plain: Make) -> None:
    class Proxy:
        def __init__(self, messages: Any):
            self.create = messages.create

    given = plain()
    given.messages = Proxy(given.messages)
    with pytest.raises(ConfigError, match="messages was replaced"):
        budget.wrap(given)


@pytest.mark.parametrize("name", ["request", "post"])
def test_what_is_replaced_after_wrap_is_guarded(budget: Budget, plain: Make, name: str) -> None:
    wrapped = budget.wrap(plain())
    setattr(wrapped, name, functools.partial(getattr(wrapped, name)))
    wrapped.messages.create(**REQUEST)
    assert only_end(budget).kind == "reconciled"
    assert budget.wrap(wrapped) is wrapped
    wrapped.with_options(timeout=5.0).close()


def test_an_attribute_that_is_the_client_itself_is_guarded(budget: Budget, provider: Provider) -> None:
    class Own(anthropic.Anthropic):
        def __init__(self, **options: Any):
            super().__init__(**options)
            self.helper = self

    with Own(base_url=provider.url, api_key="key") as given:
        wrapped = budget.wrap(given)
        assert wrapped.helper is wrapped
        assert given.helper is given
        wrapped.helper.messages.create(**REQUEST)
    assert only_end(budget).kind == "reconciled"


def test_the_same_deployments_again_change_nothing(budget: Budget) -> None:
    named = {"my-gpt": "gpt-4.1-mini"}
    with openai.AzureOpenAI(azure_endpoint="https://x.test", api_key="key", api_version="x") as given:
        wrapped = budget.wrap(given, deployments=named)
        assert budget.wrap(wrapped, deployments=dict(named)) is wrapped
        with pytest.raises(ConfigError, match="guarded already"):
            budget.wrap(wrapped, deployments={"my-gpt": "gpt-4o"})
