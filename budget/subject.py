"""A pool's subject: whose it is, as attributes that print, and compare, as their text."""

from __future__ import annotations

import re

__all__ = ["Subject", "read_value", "show_value"]

_NONE = "(none)"
_ID_NONE = re.compile(r'("*)\(none\)\1')  # as an id, in any number of quotes


def show_value(value: str | None) -> str:
    """Write a value; None is "(none)". An id that is called so has quotes, one more pair than it came with."""
    if value is None:
        return _NONE
    return f'"{value}"' if _ID_NONE.fullmatch(value) else value


def read_value(text: str) -> str:
    """Read an id as `show_value` writes it. A bare "(none)" is an id too: nobody can name what has none."""
    return text[1:-1] if text != _NONE and _ID_NONE.fullmatch(text) else text


class Subject(dict[str, "str | None"]):
    """The attributes that single out one pool of a limit: `{"user": "alice"}`, printed "user=alice".

    None stands for calls without the attribute and prints "(none)"; no attributes at all print "everybody".
    """

    def __str__(self) -> str:
        return ",".join(f"{name}={show_value(value)}" for name, value in self.items()) or "everybody"

    def __eq__(self, other: object) -> bool:
        return str(self) == other if isinstance(other, str) else super().__eq__(other)

    __hash__ = None
