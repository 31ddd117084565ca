"""Reading numbers and times of tables exactly.

Times are nanoseconds, an int where that is exact, else a Fraction (both compare exactly), because the order of what
ends and what begins decides what a replay refuses, and traces carry more digits than a microsecond clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache

from budget.window import instant

__all__ = ["LATEST", "SECOND", "UNITS", "Exact", "count", "number", "read_time"]

Exact = int | Fraction
"""Nanoseconds since the epoch, or between two instants."""
SECOND = 10**9
UNITS = {"_ms": 10**6, "_us": 10**3, "_ns": 1}
"""Nanoseconds in what a column counts, by the end of its name; seconds where there is none."""
LATEST = 7_258_118_400 * SECOND
"""The year 2200: every window that begins before it ends before `window.FOREVER`."""

_DIGITS = 15
_UNIX = 10**9 * SECOND  # as a number of seconds it is the year 2001; as an offset it would be 31 years
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?", re.ASCII)
_PLAIN = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?", re.ASCII)
_COUNT = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
_FRACTION = re.compile(r"(?:(?<=:\d\d:\d\d)|(?<=[T ]\d{6}))[.,](\d{1,40})", re.ASCII)


def read_time(text: str, start: Exact = 0, unit: int = SECOND) -> Exact:
    """Read an instant, exactly, as nanoseconds since the epoch.

    Args:
        text: ISO 8601 with any number of decimals, UTC where it names no zone; or a number, relative to `start`.
        start: Where relative times begin.
        unit: Nanoseconds in one of a relative time.

    Raises:
        ValueError: It is neither, or a number that looks like Unix time where `start` is not the epoch.
    """
    offset = number(text, unit)
    if offset is not None:
        if start and offset >= _UNIX:
            raise ValueError("time: looks like Unix time; read it as such with --start 1970-01-01")
        return start + offset
    fraction = _FRACTION.search(text)
    if fraction is None:
        return _whole(text)
    return _whole(text[: fraction.start()] + text[fraction.end() :]) + (number(f"0.{fraction[1]}", SECOND) or 0)


@lru_cache(maxsize=64)
def _whole(text: str) -> int:
    """Read an instant without a fraction of a second; the rows of one second are neighbours."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("time: is neither like 2026-01-31T12:00:00Z nor a number") from None
    return instant(moment if moment.tzinfo else moment.replace(tzinfo=UTC)) * 1000


def number(text: str, unit: int) -> Exact | None:
    """Read a number of units as nanoseconds, exactly; None if it is not a number."""
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        whole, decimals = plain.groups("")
        parts: int = 10 ** len(decimals)
        value, rest = divmod(int(whole + decimals) * unit, parts)
        if not rest:
            return value
    elif not _NUMBER.fullmatch(text):
        return None
    exact = Fraction(text) * unit
    return exact.numerator if exact.denominator == 1 else exact


def count(text: str, name: str) -> int:
    """Read a whole number.

    Raises:
        ValueError: It is not one from 0 to 10^15.
    """
    if text.isdecimal() and text.isascii() and len(text) <= _DIGITS:
        return int(text)  # what most are
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{name}: is not a whole number from 0 to 10^15")
    return int(match[1])
