"""Plain keywords: `client.messages.create(..., budget_scope={"user": "alice"})`, of any method of a wrapped client.

The SDKs' methods have fixed signatures. So what a wrapped client hands out (`client.messages`, `client.beta.messages`)
is of a subclass of its own class, made once per class, whose public methods move what begins with `budget_` into the
`extra_body` of the same call, where `extras` finds it. All other ways to a call lead through these methods: the views
for raw and streaming responses bind them, and copies of the client hand out their own. A method is looked up when it is
called, so that whoever patches the SDK's class is heard, and it keeps its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, cached_property, wraps
from inspect import iscoroutinefunction, isfunction, signature
from typing import Any, TypeVar

from budget.clients.extras import PREFIX
from budget.errors import ArgumentTypeError

__all__ = ["handing_out", "opened"]

T = TypeVar("T")
_RESOURCES = ("SyncAPIResource", "AsyncAPIResource")  # what the resources of each of these SDKs descend from


def handing_out(kind: type) -> dict[str, Any]:
    """Return the cached properties of a class of an SDK, so that the resources among them take the keywords."""
    names = {name: getattr(kind, name, None) for each in kind.__mro__ for name in vars(each)}
    return {name: _opening(made) for name, made in names.items() if isinstance(made, cached_property)}


def opened(value: T) -> T:
    """Have a resource take the keywords; whatever else it is, leave it as it is."""
    kind: Any = type(value)
    if any(each.__name__ in _RESOURCES for each in kind.__mro__) and "_budget_keywords" not in vars(kind):
        value.__class__ = _taking(kind)
    return value


def _opening(made: cached_property[Any]) -> cached_property[Any]:
    @wraps(made.func)
    def get(self: Any) -> Any:
        return opened(made.func(self))

    return cached_property(get)


@cache
def _taking(kind: type) -> type:
    """Return the subclass of a resource's class whose methods take the keywords."""

    def method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if PREFIX in "".join(kwargs):  # the quickest way to see that none is there, as in most calls
                kwargs = _moved(function, kwargs)
            return getattr(super(taking, self), name)(*args, **kwargs)

        async def acall(self: Any, *args: Any, **kwargs: Any) -> Any:
            return await call(self, *args, **kwargs)

        return wraps(function)(acall if iscoroutinefunction(function) else call)

    found = {name: getattr(kind, name) for each in kind.__mro__ for name in vars(each) if name[0] != "_"}
    own = {name: method(name, function) for name, function in found.items() if isfunction(function)}
    own |= {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    taking = type(kind.__name__, (kind,), {**own, **handing_out(kind), "_budget_keywords": True})
    return taking


def _moved(function: Callable[..., Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a method's keywords, those that are ours in its `extra_body`.

    Raises:
        ArgumentTypeError: It takes no `extra_body`, or the one that it was given is not a mapping.
    """
    ours = {name: value for name, value in kwargs.items() if name.startswith(PREFIX)}
    if not ours:
        return kwargs
    names, where = ", ".join(ours), function.__qualname__
    if not _takes_body(function):
        raise ArgumentTypeError(f"{names}: {where}() takes none; say it with the call that costs, or as a run's scope")
    given = kwargs.get("extra_body")
    if given is not None and not isinstance(given, Mapping):
        raise ArgumentTypeError(f"extra_body: {type(given).__name__} is not a mapping, as {names} needs it to be")
    rest = {name: value for name, value in kwargs.items() if name not in ours}
    return {**rest, "extra_body": {**(given or {}), **ours}}


@cache
def _takes_body(function: Callable[..., Any]) -> bool:
    return "extra_body" in signature(function).parameters
