"""A call while the SDK sends it: which call an attempt belongs to, and which attempts pass.

Anthropic's SDK has middleware, which sees every attempt and may send something else than was reserved for: another
model, a longer answer. Such an attempt is a call of its own and takes the place of the one before it, which ends as one
without an answer does: refunded if nothing of it was sent, else charged. The answer ends the last. Retries, and
middleware that leaves the body as it is, stay in the one reservation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from typing import Any
from weakref import ref

from budget.clients.call import Call
from budget.clients.extras import Extras
from budget.clients.protocol import Protocol

__all__ = ["OtherRequest", "Sending", "current", "is_passing", "passing"]

_SENDING: ContextVar[ref[Sending] | None] = ContextVar("budget_sending", default=None)
_PASSES: ContextVar[bool] = ContextVar("budget_passes", default=False)


class OtherRequest(Exception):
    """Stands for the answer of a call in whose place a middleware has sent something else."""


class Sending:
    """A call that is under way, while this is entered.

    Attributes:
        call: The call; another one after a middleware has sent another request.
        extras: What the caller gave for it alone.
        prepared: The options that the seam has prepared, while the SDK has them: a body is walked once.
    """

    __slots__ = ("__weakref__", "_asked", "_outer", "call", "extras", "prepared")

    def __init__(self, call: Call, extras: Extras):
        self.call, self.extras = call, extras
        self.prepared: Any = None
        self._asked: Any = None
        self._outer: ref[Sending] | None = None

    def __enter__(self) -> None:
        self._outer = _SENDING.get()
        _SENDING.set(ref(self))

    def __exit__(self, *error: object) -> None:
        _SENDING.set(self._outer)
        self.prepared = self._asked = None

    def sends(self, client: Any, options: Any) -> Any:
        """Take note of the options that are sent and return them; of a copy of their body if there is middleware."""
        self.prepared = options
        if getattr(client, "_middleware", ()):
            self._asked = deepcopy(_asked(client._budget_protocol, options))
        return options

    def is_other(self, protocol: Protocol, options: Any) -> bool:
        """Whether an attempt is none of the call under way.

        Raises:
            Unbounded: Its body cannot be read.
        """
        return self._asked is not None and (self.call.guard.ended or _asked(protocol, options) != self._asked)

    def turns(self, call: Call, protocol: Protocol, options: Any) -> None:
        """Put the call that an attempt is, once it has begun, in the place of the one before it."""
        self.call, self._asked = call, deepcopy(_asked(protocol, options))


def _asked(protocol: Protocol, options: Any) -> Any:
    return options.url, protocol.body("", options)


def current() -> Sending | None:
    """Return the call that is under way here. (Held weakly: an interrupt may leave one behind.)"""
    reference = _SENDING.get()
    return None if reference is None else reference()


@contextmanager
def passing(all_of_it: bool) -> Iterator[None]:
    """Have the attempts of a request that passes belong to no call around it.

    Args:
        all_of_it: Let them through as what the request was made for; else each is looked at before it leaves.
    """
    passes, sending = _PASSES.set(all_of_it), _SENDING.set(None)
    try:
        yield
    finally:
        _SENDING.reset(sending)
        _PASSES.reset(passes)


def is_passing() -> bool:
    """Whether attempts made here pass as what their request was made for."""
    return _PASSES.get()
