"""What `Budget.wrap` returns: clients of the SDKs' own classes whose billable calls are guarded."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from budget.errors import ArgumentTypeError, ConfigError

if TYPE_CHECKING:
    from budget.clients.protocol import Protocol
    from budget.engine import Budget

__all__ = ["self_test", "wrap"]

C = TypeVar("C")


def wrap(budget: Budget, client: C) -> C:
    """Return a guarded client of the same class. See `Budget.wrap`.

    Raises:
        ArgumentTypeError: It is no client that is known here.
        ConfigError: It is a flavour that this version does not have, or the SDK lacks what guarding depends on.
    """
    from budget.clients.seam import guard_client, guarded_by

    owner = guarded_by(client)
    if owner is budget:
        return client
    if owner is not None:
        raise ConfigError("wrap: the client is guarded by another engine already")
    return guard_client(budget, client, _protocol(client))


def self_test() -> dict[str, str]:
    """Check each installed SDK for what guarding depends on; return what is missing by SDK, "" if nothing is."""
    from importlib.util import find_spec

    from budget.clients.seam import missing

    if find_spec("anthropic") is None:
        return {}
    import anthropic

    return {"anthropic": ", ".join(missing(anthropic.Anthropic) + missing(anthropic.AsyncAnthropic))}


def _protocol(client: object) -> Protocol:
    """Return what knows a client's API, by the class of the SDK that it descends from."""
    for base in type(client).__mro__:
        package = base.__module__.partition(".")[0]
        if package == "anthropic" and base.__name__ in ("Anthropic", "AsyncAnthropic"):
            from budget.clients.anthropic import PROTOCOL

            return PROTOCOL
        if package in ("anthropic", "openai") and base.__name__.endswith(("Client", "API")) is False and base is type(client):
            raise ConfigError(f"wrap: {package}.{base.__name__} is not available in this version")
    raise ArgumentTypeError(f"wrap: {type(client).__name__} is no client that is known here; give an anthropic.Anthropic()")
