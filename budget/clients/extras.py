"""What a caller gives for one call alone: plain keywords, or in the SDK's own `extra_body`; none of it is ever sent.

    client.messages.create(..., budget_scope={"user": "alice"}, budget_cap="$0.10")
    client.messages.create(..., extra_body={"budget_scope": {"user": "alice"}, "budget_cap": "$0.10"})

`extra_body` is what every method of both SDKs takes and hands down untouched, and so it is the way that the keywords go
too (`keywords`). Here they are taken out, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import Limit, check_attributes
from budget.money import format_usd, parse_usd

__all__ = ["NONE", "PREFIX", "Extras", "read_extras", "take_extras"]

PREFIX = "budget_"
"""What the names of all extras begin with; no API has a field of such a name."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What was given for one call.

    Attributes:
        scope: Attributes of the call, before those of its run.
        limits: Its cap, as a limit.
        on_short: What to do when money runs short, as text; None if nothing was said.
    """

    scope: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    on_short: str | None = None


NONE = Extras()
_NAMES = ("budget_scope", "budget_cap", "budget_on_short")
_KNOWN = frozenset(_NAMES)


def take_extras(options: Any) -> tuple[Any, Extras]:
    """Return a call's options without the extras, and those.

    Args:
        options: As the SDK hands them to its `request`; they are not changed.

    Raises:
        ArgumentTypeError, ConfigError: An extra has a wrong type, a wrong value, or a name that is not known.
    """
    body, more = options.json_data, options.extra_json
    if more is None and (not isinstance(body, Mapping) or _KNOWN.isdisjoint(body)):
        return options, NONE  # as most calls are
    found: dict[str, Any] = {}
    cleaned = {}
    for place, given in (("json_data", body), ("extra_json", more)):
        if isinstance(given, Mapping) and any(map(_is_extra, given)):
            found |= {name: value for name, value in given.items() if _is_extra(name)}
            cleaned[place] = {name: value for name, value in given.items() if not _is_extra(name)} or None
    if not found:
        return options, NONE
    return options.model_copy(update=cleaned), read_extras(found)


def _is_extra(name: object) -> bool:
    return isinstance(name, str) and name.startswith(PREFIX)


def read_extras(given: Mapping[str, Any]) -> Extras:
    """Check extras by name.

    Raises:
        ArgumentTypeError, ConfigError: One has a wrong type, a wrong value, or a name that is not known.
    """
    for name in given:
        if name not in _NAMES:
            raise ConfigError(f"{name[:40]}: is not one of {', '.join(_NAMES)}")
    scope, cap, on_short = (given.get(name) for name in _NAMES)
    if scope is not None and not isinstance(scope, Mapping):
        raise ArgumentTypeError(f"budget_scope: {type(scope).__name__} is not a mapping such as {{'user': 'alice'}}")
    if on_short is not None and not isinstance(on_short, str):
        raise ArgumentTypeError(f"budget_on_short: {type(on_short).__name__} is not a text such as 'clamp'")
    limits = () if cap is None else (Limit(f"${format_usd(parse_usd(cap, 'budget_cap'))}/request"),)
    try:
        return Extras(check_attributes(scope or {}), limits, on_short)
    except (ArgumentTypeError, ConfigError) as error:
        raise type(error)(f"budget_scope: {error}") from None
