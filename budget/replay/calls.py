"""A call of the past, wherever it was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from budget.importing.exact import Exact

__all__ = ["Call", "Past"]


class Call(NamedTuple):
    """One recorded call. It sorts by time, then by its place in the file.

    Attributes:
        at: When it began, exact nanoseconds since the epoch.
        line: The line of the file that it ends on; of a record, its number.
        end: When it ended, or None if the trace does not know.
        who: user, session, agent, model; "" where there is none. A record has provider, project, run and tags (JSON)
            besides.
        input: Input tokens that were neither read from nor written to a cache.
        cost: What was booked for it, nano-dollars; None of a trace.
    """

    at: Exact
    line: int
    end: Exact | None
    who: tuple[str, ...]
    input: int
    cache_read: int
    cache_write: int
    output: int
    cost: int | None = None


class Past(Protocol):
    """Where calls come from; `rows` is how many there are, `skipped` how many of them cannot be read."""

    rows: int
    skipped: int

    def calls(self) -> Iterator[Call]:
        """Iterate the calls by time, then in the order in which they were recorded."""
        ...
