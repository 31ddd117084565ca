"""Flavours: who answers a client, so whose prices hold, and which model a name means there.

The class of a client says who answers it, not the address, which may be a proxy's. A flavour whose prices the book does
not have is refused as unpriced, model by model, until the operator adds prices for its provider.

Anthropic runs two of its flavours itself, behind a cloud's door, and bills them at its own prices:

* Claude Platform on AWS: "standard per-model, per-feature rates"
  (docs.aws.amazon.com/claude-platform/latest/userguide/billing.html, read 2026-11-22);
* Claude Models on Google Cloud, Anthropic managed: its prices are the same on every cloud that bills in its units
  (learn.microsoft.com/en-us/azure/foundry/foundry-models/concepts/claude-models-billing, read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["FLAVOURS", "PLAIN", "Site", "site_of"]

PLAIN = {"anthropic": ("Anthropic", "AsyncAnthropic"), "openai": ("OpenAI", "AsyncOpenAI")}
"""The classes of each SDK that its maker answers."""

FLAVOURS = {
    "AnthropicAWS": "anthropic",
    "AnthropicBedrock": "aws-bedrock",
    "AnthropicBedrockMantle": "aws-bedrock",
    "AnthropicFoundry": "azure",
    "AnthropicGoogleCloud": "anthropic",
    "AnthropicVertex": "google-vertex",
    "AzureOpenAI": "azure",
    "BedrockOpenAI": "aws-bedrock",
}
"""By class, and its async twin: the provider in the price book whose prices hold."""

_PROVIDERS = {"bedrock": "aws-bedrock", "vertex": "google-vertex"}
"""By the name of a `provider=` of openai's SDK."""

_AZURE = (".openai.azure.com", ".services.ai.azure.com")
"""Hosts whose own documentation has them called with the plain client, too (`/openai/v1`, `/anthropic`)."""

_REGIONAL = ".api.openai.com"  # such as eu.api.openai.com: `_data_residency.py` of the SDK openai 3.54
_REGIONS = ("us", "eu")
"""Of OpenAI's regions, those whose surcharge the price book has. (Models before March 2026 have none:
developers.openai.com/api/docs/guides/data-residency, read 2026-11-22.)"""


@dataclass(frozen=True, slots=True)
class Site:
    """Who answers a client.

    Attributes:
        provider: As the price book names it.
        traits: What the client knows of what decides a price, and its requests do not say: `inference_geo`.
        deployments: The operator's own names of models, and what they mean.
        deployment: The one in the client's URL, which answers whatever model a request names; "" if there is none.
        elsewhere: Endpoints whose requests do not go to that URL.
        rewrites: Whether the SDK may send a request to another path than the one it was made for.
    """

    provider: str
    traits: Mapping[str, str] = field(default_factory=dict)
    deployments: Mapping[str, str] = field(default_factory=dict)
    deployment: str = ""
    elsewhere: tuple[str, ...] = ()
    rewrites: bool = False

    def priced(self, body: Mapping[str, Any], endpoint: str) -> Mapping[str, Any]:
        """Return a request's body with the model's name as the price book has it."""
        asked = body.get("model")
        name = self.deployment if self.deployment and endpoint not in self.elsewhere else asked
        name = self.deployments.get(name, name) if isinstance(name, str) else name
        return body if name is asked else {**body, "model": name}


def site_of(client: Any, package: str, deployments: object) -> Site:
    """Return who answers a client.

    Args:
        client: Of a class that descends from one of the SDK's.
        package: The SDK.
        deployments: What the operator says that names of models mean there; None for nothing.

    Raises:
        ConfigError: It is of a flavour that is not known, or has no deployments.
        ArgumentTypeError: `deployments` is not a mapping of names.
    """
    names = _checked(deployments)
    name = next(each.__name__ for each in type(client).__mro__ if each.__module__.partition(".")[0] == package)
    if name in PLAIN[package]:
        site = _plain_site(client, package, names)
    elif (provider := FLAVOURS.get(name.removeprefix("Async"))) is not None:
        site = Site(provider, _traits(client, provider), names, *_deployment(client), rewrites=True)
    else:
        raise ConfigError(f"wrap: {package}.{name} is not available in this version")
    if names and site.provider == package:
        raise ConfigError(f"deployments: {name} has none; its models have the names that the price book knows")
    return site


def _plain_site(client: Any, package: str, names: Mapping[str, str]) -> Site:
    if getattr(client, "_provider", None) is None:
        if client.base_url.host.endswith(_AZURE):
            return Site("azure", {}, names)
        return Site(package, _region(client) if package == "openai" else {}, names)
    by = getattr(getattr(client, "_provider_runtime", None), "name", None)
    if by not in _PROVIDERS:
        raise ConfigError(f"wrap: an OpenAI client with provider={by!r} is not available in this version")
    return Site(_PROVIDERS[by], {}, names)


def _region(client: Any) -> dict[str, str]:
    host = client.base_url.host
    if not host.endswith(_REGIONAL):
        return {}
    region = host.removesuffix(_REGIONAL)
    if region not in _REGIONS:
        raise ConfigError(f"wrap: {host} has the prices of its region, which are not available in this version")
    return {"inference_geo": region}


def _traits(client: Any, provider: str) -> dict[str, str]:
    if provider != "google-vertex" or client.region == "global":
        return {}
    return {"inference_geo": client.region if client.region in ("us", "eu") else "regional"}


def _deployment(client: Any) -> tuple[str, tuple[str, ...]]:
    """Return the deployment that an Azure client's URL names, and which endpoints the SDK sends to another URL."""
    _, found, rest = client.base_url.path.partition("/deployments/")
    around = getattr(client, "_azure_endpoint", None) and getattr(client, "_azure_deployment", None)
    return (unquote(rest.partition("/")[0]), ("responses",) if around else ()) if found else ("", ())


def _checked(deployments: object) -> Mapping[str, str]:
    if deployments is None:
        return {}
    if not isinstance(deployments, Mapping):
        kind = type(deployments).__name__
        raise ArgumentTypeError(f"deployments: {kind} is not a mapping such as {{'my-gpt': 'gpt-5.6'}}")
    for name, model in deployments.items():
        if not isinstance(name, str) or not isinstance(model, str):
            raise ArgumentTypeError("deployments: the names of deployments and of models are strings")
    return dict(deployments)
