"""What `Budget.wrap` returns: clients of the SDKs' own classes whose billable calls are guarded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from inspect import isfunction
from typing import TYPE_CHECKING, TypeVar

from budget.errors import ArgumentTypeError, ConfigError

if TYPE_CHECKING:
    from budget.clients.protocol import Protocol
    from budget.engine import Budget

__all__ = ["self_test", "wrap"]

C = TypeVar("C")
_PACKAGES = ("anthropic", "openai")
_GUARDS = {
    "botocore": "bedrock",
    "cohere": "cohere",
    "google": "google",
    "groq": "groq",
    "litellm": "litellm",
    "mistralai": "mistral",
}
"""By the package of what is wrapped: the file here whose `guard(budget, client)` guards it."""
_INSTALLED_AS = {"botocore": "boto3", "google": "google-genai"}
"""By package: the SDK's name where it is another."""


def wrap(budget: Budget, client: C, deployments: Mapping[str, str] | None = None) -> C:
    """Return a guarded client of the same class. See `Budget.wrap`.

    A chat stream of OpenAI is asked for its usage. The chunk that carries it is kept from whoever did not ask, but for
    those who read the bytes of a response themselves (`iter_lines`).

    Raises:
        ArgumentTypeError: It is no client that is known here, or `deployments` is not a mapping of names.
        ConfigError: It is a flavour that this version does not have, or the SDK lacks what guarding depends on.
    """
    from budget.clients.seam import guard_client, guarded_by

    owner = guarded_by(client) or getattr(client, "__dict__", {}).get("_budget_engine")  # of a class, or a function
    other = next((_GUARDS[name] for name in _packages(client) if name in _GUARDS), None)
    if owner not in (None, budget):
        raise ConfigError("wrap: the client is guarded by another engine already")
    if deployments is not None and other is not None:
        raise ConfigError("deployments: only clients of anthropic and openai have them")
    if owner is not None:
        if deployments is not None and deployments != vars(client)["_budget_protocol"].site.deployments:
            raise ConfigError("deployments: the client is guarded already, without these; name them at its first wrap")
        return client
    if other is None:
        return guard_client(budget, client, _protocol(client, deployments))
    guarded: C = import_module(f"budget.clients.{other}").guard(budget, client)
    return guarded


def self_test() -> dict[str, str]:
    """Check each installed SDK for what guarding depends on; return what is missing by SDK, "" if nothing is.

    LiteLLM is not among them: its functions are guarded, and nothing below them.
    """
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    from budget.clients.flavours import PLAIN
    from budget.clients.twin import missing

    found = {}
    for package, names in PLAIN.items():
        if find_spec(package) is not None:
            module = import_module(package)
            found[package] = ", ".join(absent for name in names for absent in missing(getattr(module, name)))
    for package, name in _GUARDS.items():
        sdk, guards = _INSTALLED_AS.get(package, package), import_module(f"budget.clients.{name}")
        with suppress(PackageNotFoundError):
            if version(sdk) and hasattr(guards, "missing"):
                found[sdk] = ", ".join(guards.missing())
    return found


def _protocol(client: object, deployments: Mapping[str, str] | None) -> Protocol:
    """Return what knows a client's API, where it is answered, by the first class of an SDK that it descends from."""
    package = next((name for name in _packages(client) if name in _PACKAGES), None)
    if package is None or not any(each.__name__ == "BaseClient" for each in type(client).__mro__):
        name = type(client).__name__
        raise ArgumentTypeError(
            f"wrap: {name} is no client that is known here; give an anthropic.Anthropic() or an openai.OpenAI()"
        )
    protocol: Protocol = import_module(f"budget.clients.{package}").PROTOCOL
    return protocol.at(client, deployments)


def _packages(client: object) -> list[str]:
    """Return the top-level packages that a client's classes, or a function, are of."""
    whole = [client] if isfunction(client) else type(client).__mro__
    return [each.__module__.partition(".")[0] for each in whole]
