"""How much may be counted on an event loop: an estimate that turns out to be longer is made in a thread, anew.

Only text that is not remembered takes long, and how much of it there is comes out while counting. So whoever must not
wait allows a number of characters, and counting more raises. What was counted until then is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["TooLong", "at_most", "spend"]

_left: ContextVar[list[int] | None] = ContextVar("budget_inline", default=None)


class TooLong(Exception):
    """More is to be counted than was allowed."""


@contextmanager
def at_most(characters: int) -> Iterator[None]:
    """Allow so many characters to be counted in this block, and no vocabulary to be loaded."""
    token = _left.set([characters])
    try:
        yield
    finally:
        _left.reset(token)


def spend(characters: int) -> None:
    """Take so many characters from what is allowed, if there is a bound.

    Raises:
        TooLong: They are more than are left.
    """
    left = _left.get()
    if left is not None:
        left[0] -= characters
        if left[0] < 0:
            raise TooLong
