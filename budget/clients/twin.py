"""The twin: an instance of a subclass of a client's own class, made by hand from the client's attributes.

Not constructed, because the SDKs treat a client that they construct as a subclass differently: Anthropic's keeps its
chain of credentials only where the class is exactly its own. Whatever points back to the client is dropped, if it makes
itself again, or made again for the twin; decided by value, because some resources are plain attributes and some cached
properties are none.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

from budget.clients.backstop import HOW, by_hand
from budget.clients.flavours import PLAIN
from budget.clients.keywords import opened
from budget.errors import ConfigError, Unbounded

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["adopt", "check_unpatched", "door", "is_async", "missing", "plain_twin"]


def missing(base: type) -> list[str]:
    """Return the names that guarding depends on and a client class does not have."""
    absent = [name for name in ("request", "_prepare_request", "_should_retry", "copy") if not hasattr(base, name)]
    if "request" not in absent:
        parameters = inspect.signature(base.request).parameters  # type: ignore[attr-defined]
        absent += [f"request({name})" for name in ("cast_to", "options", "stream") if name not in parameters]
    return absent


_VERBS = ("get", "post", "put", "patch", "delete", "get_api_list", "_request_api_list")
"""The methods of the SDKs that lead to `request`."""


def check_unpatched(client: object, guarded: type, doors: Collection[str]) -> None:
    """Check that nothing put on the client itself would go before what guards it: it would lead to the client given.

    Args:
        client: As it was given.
        guarded: The class of its twin.
        doors: Attributes that are the client's own, whatever the class has under their names.

    Raises:
        ConfigError: Something would.
    """
    for name, value in vars(client).items():
        found = getattr(guarded, name, None)
        if isinstance(found, cached_property):
            shadows = _is_strange(value, client, found)
        else:
            shadows = name in _VERBS or (name in vars(guarded) and name not in doors)
        if shadows:
            raise ConfigError(
                f"wrap: {name} was replaced on this very client, and calls through that would not be guarded; wrap the "
                f"client first and replace its {name} then"
            )


def _is_strange(value: object, client: object, made: cached_property[Any]) -> bool:
    """Whether a value is none that a cached property of an SDK has made: a resource of the client, or plain data."""
    if getattr(value, "_client", None) is client or type(value).__module__ == "builtins":
        return False
    return made.func.__module__.partition(".")[0] in PLAIN


def is_async(base: type) -> bool:
    """Whether clients of a class are awaited."""
    return inspect.iscoroutinefunction(base.request)  # type: ignore[attr-defined]


def adopt(twin: Any, client: Any) -> None:
    """Give the twin the client's attributes, but for those that point back to the client."""
    for name, value in vars(client).items():
        if value is client:
            twin.__dict__[name] = twin
        elif getattr(value, "_client", None) is not client:
            twin.__dict__[name] = value
        elif not hasattr(type(client), name):  # a cached property makes itself again; this is a plain attribute
            twin.__dict__[name] = opened(type(value)(twin))
    if hasattr(twin, "_build_middleware_chain"):  # a closure over the client it was built for
        twin._middleware_chain = twin._build_middleware_chain()


def plain_twin(base: Any, client: Any) -> Any:
    """Return an unguarded twin of a guarded client, for what the SDK must do with a client of its own class."""
    twin: Any = object.__new__(base)
    adopt(twin, client)
    return twin


def door(name: str, budget: Budget) -> property:
    """Make an attribute that the SDK reads to connect without a request: it opens where money was set aside by hand."""

    def get(self: Any) -> Any:
        if budget.settings.disabled or by_hand(budget):
            return vars(self)[name]
        raise Unbounded([f"a WebSocket is not metered in this version; {HOW}"])

    def put(self: Any, value: Any) -> None:
        vars(self)[name] = value

    return property(get, put)
