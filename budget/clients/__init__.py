"""What `Budget.wrap` returns: clients of the SDKs' own classes whose billable calls are guarded."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from budget.errors import ArgumentTypeError, ConfigError

if TYPE_CHECKING:
    from budget.clients.protocol import Protocol
    from budget.engine import Budget

__all__ = ["self_test", "wrap"]

C = TypeVar("C")
_CLIENTS = {"anthropic": ("Anthropic", "AsyncAnthropic"), "openai": ("OpenAI", "AsyncOpenAI")}


def wrap(budget: Budget, client: C) -> C:
    """Return a guarded client of the same class. See `Budget.wrap`.

    A chat stream of OpenAI is asked for its usage. The chunk that carries it is kept from whoever did not ask, but for
    those who read the bytes of a response themselves (`iter_lines`).

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

    found = {}
    for package, names in _CLIENTS.items():
        if find_spec(package) is not None:
            sdk = import_module(package)
            found[package] = ", ".join(absent for name in names for absent in missing(getattr(sdk, name)))
    return found


def _protocol(client: object) -> Protocol:
    """Return what knows a client's API, by the first class of an SDK that it descends from."""
    classes = type(client).__mro__
    base = next((each for each in classes if each.__module__.partition(".")[0] in _CLIENTS), None)
    if base is not None and any(each.__name__ == "BaseClient" for each in classes):
        package = base.__module__.partition(".")[0]
        if base.__name__ not in _CLIENTS[package]:
            raise ConfigError(f"wrap: {package}.{base.__name__} is not available in this version")
        protocol: Protocol = import_module(f"budget.clients.{package}").PROTOCOL
        return protocol
    name = type(client).__name__
    raise ArgumentTypeError(
        f"wrap: {name} is no client that is known here; give an anthropic.Anthropic() or an openai.OpenAI()"
    )
