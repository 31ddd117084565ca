"""What every walk over a request body shares: counting strings, and naming what has no upper bound."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.plain import as_fields, compact, shown
from budget.estimator.tokens import count, wide_bytes
from budget.usage import Usage

__all__ = ["Walk", "read_count", "read_traits"]

_REASONS_SHOWN = 20


class Walk:
    """What was found so far. Tokens are those of `vocabulary`."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self.base_tokens = self.tool_tokens = self.schema_tokens = self.wide_bytes = 0
        self.messages = self.parts = self.blocks = self.tools = 0
        self.thinking = False
        self.ttls: set[str] = set()
        self.reasons: list[str] = []
        self._open = 0

    def result(self, output_max: int | None, traits: Mapping[str, str], **more: Any) -> Measure:
        """Return the measure; `more` are the fields that only one walk knows."""
        unsaid = self._open - len(self.reasons)
        return Measure(
            vocabulary=self.vocabulary,
            base_tokens=self.base_tokens,
            tool_tokens=self.tool_tokens,
            schema_tokens=self.schema_tokens,
            wide_bytes=self.wide_bytes,
            messages=self.messages,
            parts=self.parts,
            blocks=self.blocks,
            tools=self.tools,
            output_max=output_max,
            cache_ttls=frozenset(self.ttls),
            traits=traits,
            thinking=self.thinking,
            reasons=(*self.reasons, *([f"and {unsaid} more"] if unsaid else [])),
            **more,
        )

    def count(self, text: str) -> int:
        """Count a text, and its bytes outside ASCII."""
        self.wide_bytes += wide_bytes(text)
        return count(text, self.vocabulary)

    def value(self, value: object, place: str) -> None:
        """Count a field: a string as it is, an object or list as JSON; flags, numbers and null cost nothing."""
        if isinstance(value, str):
            self.base_tokens += self.count(value)
        elif value is not None and not isinstance(value, (int, float)):
            self.base_tokens += self.count(compact(value, place))

    def tool(self, tool: object, place: str) -> None:
        """Count a tool whose whole description is in the request."""
        self.tools += 1
        self.tool_tokens += self.count(compact(tool, place))

    def schema(self, schema: object, place: str) -> None:
        """Count an output schema."""
        if schema is not None:
            self.schema_tokens += self.count(compact(as_fields(schema, place), place))

    def unknown_fields(self, fields: Mapping[str, Any], known: Set[str], place: str) -> None:
        """Give a reason for every field that is not known, unless it is null."""
        for name, value in fields.items():
            if name not in known and value is not None:
                self.reason(f"{place}.{shown(name)}".lstrip("."), "unknown field")

    def open_fields(self, fields: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Give the known reason for every field of these that is there and not empty."""
        for name, why in known.items():
            if fields.get(name) not in (None, [], ()):
                self.reason(name, why)

    def reason(self, place: str, what: str) -> None:
        """Note why there is no upper bound."""
        self._open += 1
        if len(self.reasons) < _REASONS_SHOWN:
            self.reasons.append(f"{place}: {what}")


def read_count(value: object, place: str, least: int = 0) -> int | None:
    """Read a number of tokens or of answers.

    Raises:
        ArgumentTypeError: It is not an int.
        ConfigError: It is below `least`.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentTypeError(f"{place}: must be an int, not {type(value).__name__}")
    if value < least:
        raise ConfigError(f"{place}: {value} must be at least {least}")
    return value


def read_traits(body: Mapping[str, Any], *names: str) -> Mapping[str, str]:
    """Return the fields that decide the price, named and with defaults left out as in `Usage.traits`."""
    return Usage.of({"input_tokens": 0, **{name: body.get(name) for name in names}}).traits
