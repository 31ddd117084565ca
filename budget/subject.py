"""A pool's subject: whose it is, as attributes that print, and compare, as their text."""

from __future__ import annotations

__all__ = ["Subject"]


class Subject(dict[str, "str | None"]):
    """The attributes that single out one pool of a limit: `{"user": "alice"}`, printed "user=alice".

    None stands for calls without the attribute and prints "(none)"; no attributes at all print "everybody".
    """

    def __str__(self) -> str:
        parts = [f"{name}={'(none)' if value is None else value}" for name, value in self.items()]
        return ",".join(parts) or "everybody"

    def __eq__(self, other: object) -> bool:
        return str(self) == other if isinstance(other, str) else super().__eq__(other)

    __hash__ = None
