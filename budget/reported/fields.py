"""Reading fields: answers as plain dicts, counts that are checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["Fields", "as_count", "as_dict", "check_said", "get", "listed", "snake_keys", "whole_number", "within"]

Fields = dict[str, Any]

_COUNT_MAX = 2**53 - 1
_MADE = frozenset({"choices", "output", "role"})
"""What an answer of chat, of Responses, of Messages has: one in which the model made something."""


def as_count(value: object, name: str) -> int:
    """Check a count.

    Raises:
        ArgumentTypeError, ConfigError: It is not an int from 0 to 2^53 - 1.
    """
    if type(value) is not int:
        raise ArgumentTypeError(f"usage: {name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _COUNT_MAX:
        said = f" = {value}" if abs(value) < 2**64 else ""
        raise ConfigError(f"usage: {name}{said} is outside 0 .. 2^53 - 1")
    return value


def as_dict(source: object) -> Fields:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        if all(isinstance(name, str) for name in source):
            return dict(source)
        raise ArgumentTypeError("usage: a name in it is not a string")
    if hasattr(source, "model_fields_set"):  # a pydantic model: its fields, and what a newer API added to them
        return {**source.__dict__, **(getattr(source, "__pydantic_extra__", None) or {})}
    raise ArgumentTypeError(f"usage: {type(source).__name__} is neither a response, nor a usage object, nor a dict")


def snake_keys(source: Fields) -> Fields:
    return {_snake(key): value for key, value in source.items()}


def _snake(key: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key)


def get(source: Fields, name: str) -> int:
    value = source.get(name)
    return 0 if value is None else as_count(value, name)


def listed(source: Fields, name: str) -> Sequence[Any]:
    """Return a list's items; none if there is no list."""
    value = source.get(name) or ()
    if not isinstance(value, (list, tuple)):
        raise ArgumentTypeError(f"usage: {name} must be a list, not {type(value).__name__}")
    return value


def check_said(usage: Fields, answer: Fields, inp: str, out: str) -> None:
    """Check that an answer says both its counts, since one that is left out there is not known to be 0.

    Who says the total says the output by it, which Google leaves out of an answer of thoughts alone, and all leave out
    of embeddings. A usage by itself may be a part of one.

    Raises:
        ArgumentTypeError: A count is left out.
    """
    if usage.get("total_tokens") is not None:
        needed: tuple[str, ...] = (inp,)
    else:
        needed = () if _MADE.isdisjoint(answer) else (inp, out)
    for name in needed:
        if usage.get(name) is None:
            raise ArgumentTypeError(f"usage: the answer does not say its {name}")


def whole_number(source: Fields, name: str) -> int:
    """Read a count that some SDKs give as a float."""
    value = source.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return 0 if value is None else as_count(value, name)


def within(parts: Mapping[str, int], bucket: int) -> dict[str, int]:
    """Keep parts within their bucket: what a breakdown counts beyond it was counted in another bucket already."""
    kept = {}
    for name, tokens in parts.items():
        if taken := min(tokens, bucket):
            kept[name] = taken
            bucket -= taken
    return kept
