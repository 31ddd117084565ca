"""Read a request body of plain JSON types and SDK models, naming the place of what is wrong and never its text.

What JSON could say but the API does not take is a `ConfigError`; what is not JSON at all is an `ArgumentTypeError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["as_fields", "as_items", "compact", "decoded", "shown"]

_DEPTH = 100


def as_fields(value: object, place: str) -> Mapping[str, Any]:
    """Return a JSON object's fields, also of an SDK's model.

    Raises:
        ConfigError: The value is another JSON type.
        ArgumentTypeError: The value is not JSON.
    """
    fields = _fields(value)
    if fields is None:
        raise _wrong(value, place, "an object")
    return fields


def as_items(value: object, place: str) -> list[Any] | tuple[Any, ...]:
    """Return a JSON array's items.

    Raises:
        ConfigError: The value is another JSON type.
        ArgumentTypeError: The value is not JSON; a generator, say, could be read only once.
    """
    if isinstance(value, (list, tuple)):
        return value
    raise _wrong(value, place, "a list")


def compact(value: object, place: str) -> str:
    """Write a value as JSON without spaces, non-ASCII characters as they are.

    Raises:
        ConfigError: The value is nested too deep, or not writable as JSON.
        ArgumentTypeError: It holds something that is not JSON.
    """
    import json

    plain = _plain(value, place, 0)
    try:
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    except ValueError:  # an integer of thousands of digits
        raise ConfigError(f"{place}: holds a number that cannot be written as JSON") from None


def shown(name: object) -> str:
    """Write an unknown name (a type, a field) for an error or reason: short, and safe for a terminal."""
    return ascii(name[:40])[1:-1] if isinstance(name, str) else type(name).__name__


def _fields(value: object) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value
    if hasattr(type(value), "model_fields"):  # pydantic; the SDK does not send what its models name in __api_exclude__
        fields = {**value.__dict__, **(getattr(value, "__pydantic_extra__", None) or {})}
        unsent = getattr(value, "__api_exclude__", None) or ()
        for name in () if isinstance(unsent, Mapping) else unsent:  # a mapping speaks of parts, which say it themselves
            fields.pop(name, None)
        return fields
    return None


def _plain(value: object, place: str, depth: int) -> Any:
    if value is None or isinstance(value, (str, int, float)):
        return value
    if depth == _DEPTH:
        raise ConfigError(f"{place}: is nested deeper than {_DEPTH} levels")
    if (fields := _fields(value)) is not None:
        return {str(name): _plain(item, place, depth + 1) for name, item in fields.items()}
    return [_plain(item, place, depth + 1) for item in as_items(value, place)]


def _wrong(value: object, place: str, right: str) -> ConfigError | ArgumentTypeError:
    if value is None or isinstance(value, (str, int, float, list, tuple, Mapping)):
        return ConfigError(f"{place}: must be {right}, not {type(value).__name__}")
    once = ", which can be read only once; pass a list" if hasattr(value, "__next__") else ""
    return ArgumentTypeError(f"{place}: must be {right}, not {type(value).__name__}{once}")


def decoded(data: object) -> str | None:
    """Return the text of a file that is sent as bytes or base64; a string that is no base64 is taken as it is.

    None: it is neither, such as an open file.
    """
    from binascii import Error, a2b_base64

    if isinstance(data, str):
        packed = "".join(data.split()).replace("-", "+").replace("_", "/")
        try:
            data = a2b_base64(packed + "=" * (-len(packed) % 4), strict_mode=True)
        except (Error, ValueError):
            return str(data)
    return bytes(data).decode("utf-8", "replace") if isinstance(data, (bytes, bytearray, memoryview)) else None
