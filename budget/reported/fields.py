"""Reading fields: answers as plain dicts, counts that are checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["Fields", "as_count", "as_dict", "get", "snake_keys", "whole_number", "within"]

Fields = dict[str, Any]

_COUNT_MAX = 2**53 - 1


def as_count(value: object, name: str) -> int:
    """Check a count.

    Raises:
        ArgumentTypeError, ConfigError: It is not an int from 0 to 2^53 - 1.
    """
    if type(value) is not int:
        raise ArgumentTypeError(f"usage: {name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= _COUNT_MAX:
        raise ConfigError(f"usage: {name} = {value} is outside 0 .. 2^53 - 1")
    return value


def as_dict(source: object) -> Fields:
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return dict(source)
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
