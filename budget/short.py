"""When money runs short: what a call may do instead of being refused. The words, and the decisions that need no store.

    clamp               lower the output bound to the most that fits, down to 16 tokens
    clamp:200           the same, down to 200
    fallback:A,B        the dearest of these models on which the same request fits
    grow                of a stream: set aside a first step of its answer, and more while it comes
    wait:30s            wait for room, so long at most
    ask                 ask somebody (`Budget(on_ask=...)`), who may raise the limit

Several, separated by `;`, are tried in order. The text stands on the call, else on the run, else on the limit that
refused; without one, a refusal is a refusal. Whatever is tried ends in an ordinary reserve: nothing here can exceed a
limit. It is about limits: a frozen subject, and a run that its guards stopped, stay refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from budget.errors import ArgumentTypeError, BudgetExceeded, ConfigError, Frozen, RunStopped

__all__ = ["FLOOR", "Short", "Way", "clamped", "parse_short", "short_of", "short_text", "ways_out"]

FLOOR = 16
"""Output tokens below which nothing is clamped unless it is said; with fewer there is hardly an answer."""
_LONGEST = 3600.0  # seconds, as of `wait=`
_TOKENS = re.compile(r"[1-9]\d{0,8}", re.ASCII)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)([smh])", re.ASCII)
_MODEL = re.compile(r"[^\s,;]{1,200}")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_WAYS = "'clamp', 'clamp:200', 'fallback:MODEL,MODEL', 'grow', 'wait:30s' or 'ask'"

_BOUNDS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "messages": (("max_tokens",),),
    "chat": (("max_completion_tokens",), ("max_tokens",)),
    "responses": (("max_output_tokens",),),
    "generateContent": (("generationConfig", "maxOutputTokens"),),
    "converse": (("inferenceConfig", "maxTokens"),),
}
"""Where the body of an endpoint has its output bound; the first is what is written where it has none."""
_LEAST = {"responses": 16}
"""The smallest bound that an endpoint takes: "Expected a value >= 16" is what OpenAI answers to less
(github.com/UKGovernmentBEIS/inspect_evals issue 694, 2025-11-21)."""


class Way(NamedTuple):
    """One way out of a refusal.

    Attributes:
        kind: "clamp", "fallback", "grow", "wait" or "ask".
        floor: Of a clamp: the fewest output tokens.
        models: Of a fallback, in the order given.
        seconds: Of a wait.
    """

    kind: str
    floor: int = FLOOR
    models: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Short:
    """What was done to a call for which there was no room, in the words of the ledger.

    Attributes:
        clamped: {"from": 800, "to": 212}, output tokens per answer, or None.
        substituted: {"asked": model, "used": model}, or None.
        asked: {"answer": "yes"}, or {"answer": "+$2"} where the limit was raised, or None.
    """

    clamped: Mapping[str, int] | None = None
    substituted: Mapping[str, str] | None = None
    asked: Mapping[str, str] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what the ledger keeps, plain JSON types."""
        found = {"clamped": self.clamped, "substituted": self.substituted, "asked": self.asked}
        return {name: dict(value) for name, value in found.items() if value is not None}


def parse_short(text: object, name: str = "on_short") -> tuple[Way, ...]:
    """Read what is to be done when money runs short.

    Args:
        text: "clamp:200;wait:30s".
        name: The argument that it stands in, for the error.

    Raises:
        ArgumentTypeError: It is not a text.
        ConfigError: It cannot be read.
    """
    if not isinstance(text, str):
        raise ArgumentTypeError(f"{name}: {type(text).__name__} is not a text such as 'clamp' or 'wait:30s'")
    return tuple(_way(part.strip(), name) for part in text.split(";"))


def short_text(text: object, name: str = "on_short") -> str:
    """Check such a text, and return it as it is kept.

    Raises:
        ArgumentTypeError, ConfigError: See `parse_short`.
    """
    parse_short(text, name)
    return ";".join("".join(part.split()) for part in str(text).split(";"))


def ways_out(texts: Iterable[str | None], refused: BudgetExceeded) -> tuple[Way, ...]:
    """Return what to try for a refused call.

    Args:
        texts: What the call says, and its runs, innermost first; the first that says something counts.
        refused: The refusal; if nobody else does, its limit says it.
    """
    if isinstance(refused, Frozen | RunStopped):
        return ()
    text = next((text for text in texts if text), None) or refused.limit.on_short
    return parse_short(text) if text else ()


def _way(part: str, name: str) -> Way:
    kind, colon, value = (piece.strip() for piece in part.partition(":"))
    if kind in ("clamp", "grow", "ask") and not colon:
        return Way(kind)
    if kind == "clamp" and _TOKENS.fullmatch(value):
        return Way(kind, floor=int(value))
    if kind == "fallback":
        models = tuple(model.strip() for model in value.split(","))
        if all(_MODEL.fullmatch(model) for model in models):
            return Way(kind, models=models)
    if kind == "wait" and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
        if 0 < seconds <= _LONGEST:
            return Way(kind, seconds=seconds)
        raise ConfigError(f"{name}: {part[:60]!r} is not between 0 and an hour")
    raise ConfigError(f"{name}: {part[:60]!r} is not {_WAYS}")


def clamped(endpoint: str, provider: str | None, body: Mapping[str, Any], to: int) -> dict[str, Any] | None:
    """Return the fields of a body, whole ones of its top level, that lower its output bound.

    Args:
        endpoint: Of the API: "messages", "chat" ...
        provider: Whose it is.
        body: The request.
        to: Output tokens of each answer.

    Returns:
        The fields; None if no bound can be set, or a provider would refuse the request with this one.
    """
    places = _BOUNDS.get(endpoint)
    if places is None or to < _LEAST.get(endpoint, 1):
        return None
    given = {place: bound for place in places if (bound := _at(body, place)) is not None}
    most = min(given.values(), default=None)
    # A budget for thinking must be "less than `max_tokens`" (types/thinking_config_enabled_param.py, anthropic 2.12).
    # With interleaved thinking it need not: a request that does not keep it itself is not held to it.
    if any(to <= budget and (most is None or budget < most) for budget in _thinking(body)):
        return None
    own = given or {_usual(places, provider): to}
    return {place[0]: _put(body, place, min(to, bound)) for place, bound in own.items()}


def _usual(places: tuple[tuple[str, ...], ...], provider: str | None) -> tuple[str, ...]:
    """The name of a bound that is added: the newer one of chat is OpenAI's own."""
    return places[0] if provider in ("openai", "azure") else places[-1]


def _at(body: Mapping[str, Any], place: tuple[str, ...]) -> int | None:
    value: Any = body
    for name in place:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if type(value) is int else None


def _put(body: Mapping[str, Any], place: tuple[str, ...], value: int) -> Any:
    """Return the new value of the top-level field of a place."""
    return value if len(place) == 1 else {**(body.get(place[0]) or {}), place[1]: value}


def _thinking(body: Mapping[str, Any]) -> Iterator[int]:
    """Iterate the budgets that a request sets for its thinking: of Anthropic, the same in Converse, of OpenRouter."""
    more = body.get("additionalModelRequestFields")
    for place in (("thinking", "budget_tokens"), ("reasoning", "max_tokens")):
        for fields in (body, more):
            if isinstance(fields, Mapping) and (budget := _at(fields, place)) is not None:
                yield budget


def short_of(answer: object) -> Short | None:
    """Return what was done to the call of an answer because money ran short; None if nothing was.

    Takes what a wrapped client returns: an answer, a stream, the helper of a stream, a raw response.
    """
    for holder in (answer, getattr(answer, "_raw_stream", None)):
        found = getattr(holder, "_budget", None)
        if isinstance(found, Short):
            return found
    return None
