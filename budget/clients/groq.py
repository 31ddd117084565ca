"""Groq's SDK, made by the generator that makes OpenAI's: it rides their seam.

The paths are OpenAI's below `/openai`, and so are the bodies. A stream says its usage unasked, in `x_groq` of the
chunk with the finish reason; one that was asked for it with `stream_options` says it once more, in a chunk of its
own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self, TypeVar

from budget.clients.flavours import Site
from budget.clients.openai import ChatMeter
from budget.clients.protocol import Api
from budget.clients.seam import guard_client
from budget.clients.twin import missing as missing_of
from budget.errors import Unbounded
from budget.estimate import Estimate
from budget.reported.fields import as_dict

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["PROTOCOL", "guard", "missing"]

C = TypeVar("C")
_REASONS = re.compile("gpt-oss|qwen|deepseek-r1|compound|thinking")  # unasked, and it may be left out of what is sent


class _Groq(Api):
    sdk = "groq"
    prefix = "/openai/v1"
    doors: tuple[str, ...] = ()

    def at(self, client: Any, deployments: object) -> Self:
        return self

    def body(self, endpoint: str, options: Any) -> Mapping[str, Any]:
        given = options.json_data
        if (given is not None and not isinstance(given, Mapping)) or options.files:
            raise Unbounded([f"the body of {options.url[:100]} cannot be read before it is sent"])
        return {**(given or {}), **(getattr(options, "extra_json", None) or {})}

    def sent(self, endpoint: str, options: Any, body: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
        if not changes:
            return options
        return options.model_copy(update={"json_data": {**body, **changes}, "extra_json": None})

    def question(self, endpoint: str, body: Mapping[str, Any]) -> None:
        return None

    def meter(self, endpoint: str, estimate: Estimate) -> ChatMeter | None:
        return _Meter(estimate) if endpoint == "chat" else None


class _Meter(ChatMeter):
    """Reads the chunks of one chat stream."""

    def __init__(self, estimate: Estimate):
        super().__init__(estimate)
        self.hidden = self.hidden or _REASONS.search(estimate.model) is not None

    def feed(self, chunk: Any) -> None:
        """Take note of one chunk."""
        done = self.complete
        super().feed(chunk)
        said = getattr(getattr(chunk, "x_groq", None), "usage", None)
        if said is not None and not self.usage:
            self.usage = dict(as_dict(said))
        self.complete = done or bool(self.usage)


def missing() -> list[str]:
    """Return the names that guarding depends on and the SDK does not have."""
    sdk = import_module("groq")
    return [name for kind in (sdk.Groq, sdk.AsyncGroq) for name in missing_of(kind)]


def guard(budget: Budget, client: C) -> C:
    """Return a guarded twin of a `groq.Groq` or `groq.AsyncGroq`.

    Raises:
        ConfigError: The SDK lacks what guarding depends on.
    """
    return guard_client(budget, client, PROTOCOL)


PROTOCOL = _Groq(Site("groq"))
