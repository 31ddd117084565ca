"""Windows: when `spent` starts again.

Time is an `int` of microseconds since the Unix epoch, UTC (`..._us`). A calendar window is half-open, `[start, end)`,
and the windows of one kind and zone partition time: no gap, no overlap, over 23 and 25 hour days, midnights that do
not exist and dates that do not exist.

* **Day and longer** begin at the first instant of a local date. With S(d) that instant for date d, an instant t is in
  the window of the date d for which S(d) <= t < S(next d). Deciding by S, and not by t's own local date, keeps the
  partition where clocks go back across midnight and a date comes twice.
* **Minute and hour** begin at whole local minutes or hours. Where the UTC offset changes inside one by other than whole
  hours (Lord Howe, half an hour), the change ends it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["FOREVER", "SECOND", "Window", "at_zone", "bounds", "instant", "zone"]

SECOND = 1_000_000
"""Microseconds in a second."""
FOREVER = 2**53 - 1
"""The end of a window that does not end."""

_CLOCK = {"minute": 60 * SECOND, "hour": 3600 * SECOND}
_CALENDAR = ("minute", "hour", "day", "week", "month", "year")
_ENDLESS = ("request", "run", "lifetime")
_ROLLING = re.compile(r"(\d+)([smhd]) rolling", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Window:
    """One kind of window: request, run, minute, hour, day, week, month, year or lifetime."""

    kind: str

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read a window's name.

        Raises:
            ConfigError: It is not a window, or one that this version does not have yet (rolling).
        """
        if text in _CALENDAR or text in _ENDLESS:
            return cls(text)
        if _ROLLING.fullmatch(text):
            raise ConfigError(f"window: {text!r}: rolling windows are not available in this version")
        names = ", ".join((*_ENDLESS[:2], *_CALENDAR, _ENDLESS[2]))
        raise ConfigError(f"window: {text[:40]!r} is none of {names}")

    @property
    def calendar(self) -> bool:
        """Whether it has bounds in a time zone."""
        return self.kind in _CALENDAR

    def __str__(self) -> str:
        return self.kind


@lru_cache(maxsize=256)
def zone(name: str) -> tzinfo:
    """Return an IANA time zone.

    Raises:
        ArgumentTypeError: The name is not a string.
        ConfigError: There is no such zone.
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"tz: {type(name).__name__} is not the name of a zone such as 'Europe/Berlin'")
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigError(f"tz: there is no zone {name[:60]!r}; use an IANA name such as 'Europe/Berlin'") from error


def instant(moment: datetime) -> int:
    """Return an aware datetime as microseconds since the epoch.

    Raises:
        ConfigError: The datetime is naive.
    """
    if moment.tzinfo is None:
        raise ConfigError("a datetime without a time zone is ambiguous; pass an aware one")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def at_zone(at_us: int, tz: str = "UTC") -> datetime:
    """Return an instant as an aware datetime in a zone."""
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone(tz))


def bounds(window: Window, at_us: int, tz: str = "UTC") -> tuple[int, int]:
    """Return `(start, end)` of the window that holds an instant, in microseconds; the end is exclusive.

    Windows without a calendar (run, lifetime) begin at the instant and end `FOREVER`.
    """
    if not window.calendar:
        return at_us, FOREVER
    if window.kind in _CLOCK:
        return _clock_bounds(_CLOCK[window.kind], at_us, zone(tz))
    local = at_zone(at_us, tz).date()
    first = _period_start(window.kind, local)
    following = _next_period(window.kind, first)
    if at_us >= _date_start(following, tz):
        first = following
    return _date_start(first, tz), _date_start(_next_period(window.kind, first), tz)


@lru_cache(maxsize=4096)
def _date_start(day: date, tz: str) -> int:
    # A midnight that does not exist is read with the offset before the gap, which is the instant the gap begins.
    return instant(datetime(day.year, day.month, day.day, tzinfo=zone(tz)).astimezone(UTC))


def _period_start(kind: str, day: date) -> date:
    if kind == "week":
        return day - timedelta(days=day.weekday())
    if kind == "month":
        return day.replace(day=1)
    return day.replace(month=1, day=1) if kind == "year" else day


def _next_period(kind: str, first: date) -> date:
    if kind in ("day", "week"):
        return first + timedelta(days=7 if kind == "week" else 1)
    if kind == "year" or first.month == 12:
        return date(first.year + 1, 1, 1)
    return date(first.year, first.month + 1, 1)


def _clock_bounds(length: int, at_us: int, tz: tzinfo) -> tuple[int, int]:
    offset = _offset(at_us, tz)
    start = (at_us + offset) // length * length - offset
    end = start + length
    if _offset(start, tz) != offset:
        start = _change(start, at_us, tz)
    if _offset(end - 1, tz) != offset:
        end = _change(at_us, end, tz)
    return start, end


def _offset(at_us: int, tz: tzinfo) -> int:
    offset = (_EPOCH + timedelta(microseconds=at_us)).astimezone(tz).utcoffset() or timedelta()
    return offset // timedelta(microseconds=1)


def _change(low: int, high: int, tz: tzinfo) -> int:
    """Find where the offset changes between two instants, by bisection."""
    before = _offset(low, tz)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, tz) == before else (low, middle)
    return high
