"""Windows: when `spent` starts again.

Time is an `int` of microseconds since the Unix epoch, UTC (`..._us`). A calendar window is half-open, `[start, end)`,
and the windows of one kind, zone and start partition time: no gap, no overlap, over 23 and 25 hour days, midnights that
do not exist and dates that do not exist.

* **Day and longer** begin on a local date at a local time: days at `starts` (midnight if not said), weeks on a weekday,
  months on a day of the month, years on a month and day, these at midnight. With S(n) the instant at which the n-th of
  them begins, an instant t is in the n-th for which S(n) <= t < S(n + 1). Deciding by S, and not by t's own local date,
  keeps the partition where clocks go back across midnight and a date comes twice. A local time that comes twice is
  read as the first of the two; one that clocks skip is read with the offset before the change. So a midnight that does
  not exist is where the gap begins, and a date that does not exist has no window: S is the next date's too.
* A day that a month or year does not have (the 31st, 29 February) is that month's last one.
* **Minute and hour** begin at whole local minutes or hours. Where the UTC offset changes inside one by other than whole
  hours (Lord Howe, half an hour), the change ends it.

A rolling window has no bounds: it is always the last `span`, and the pool counts it in sub-buckets.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["FOREVER", "SECOND", "Window", "at_zone", "bounds", "check_starts", "instant", "zone"]

SECOND = 1_000_000
"""Microseconds in a second."""
FOREVER = 2**53 - 1
"""The end of a window that does not end."""

_CLOCK = {"minute": 60 * SECOND, "hour": 3600 * SECOND}
_CALENDAR = ("minute", "hour", "day", "week", "month", "year")
_ENDLESS = ("request", "run", "lifetime")
_ROLLING = re.compile(r"(\d{1,8})([smhd]) rolling", re.ASCII)
_SPANS = {"s": SECOND, "m": 60 * SECOND, "h": 3600 * SECOND, "d": 86400 * SECOND}
_LONGEST = 366 * 86400 * SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIME = re.compile(r"([01]?\d|2[0-3])(?::([0-5]\d))?", re.ASCII)
_DAY = re.compile(r"[1-9]|[12]\d|3[01]", re.ASCII)
_MONTH_DAY = re.compile(r"(0[1-9]|1[0-2])-(\d\d)", re.ASCII)
_FIRST = {"day": "00:00", "week": "monday", "month": "1", "year": "01-01"}
"""Where windows begin if nothing else was said; what cannot be told apart from that is not an option."""
_STARTS = {
    "day": "an hour of the day, such as 6 or '06:00'",
    "week": "a weekday, such as 'sunday'",
    "month": "a day of the month, 1 to 31",
    "year": "a month and day, such as '04-01'",
}


@dataclass(frozen=True, slots=True)
class Window:
    """One kind of window: request, run, minute, hour, day, week, month, year, lifetime or rolling.

    Attributes:
        kind: Which one.
        span: The length of a rolling one in microseconds; 0 for all others.
        text: As it was written; "24h rolling" and "1d rolling" are one window.
    """

    kind: str
    span: int = 0
    text: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read a window's name.

        Raises:
            ConfigError: It is not a window, or a rolling one that is not 1 second to 366 days long.
        """
        if text in _CALENDAR or text in _ENDLESS:
            return cls(text)
        match = _ROLLING.fullmatch(text)
        if match is None:
            names = ", ".join((*_ENDLESS[:2], *_CALENDAR, _ENDLESS[2]))
            raise ConfigError(f"window: {text[:40]!r} is none of {names}, nor a rolling one such as '7d rolling'")
        span = int(match[1]) * _SPANS[match[2]]
        if not SECOND <= span <= _LONGEST:
            raise ConfigError(f"window: {text!r} is not between 1 second and 366 days long")
        return cls("rolling", span, f"{int(match[1])}{match[2]} rolling")

    @property
    def calendar(self) -> bool:
        """Whether it has bounds in a time zone."""
        return self.kind in _CALENDAR

    @property
    def key(self) -> str:
        """What it is in the identity of a limit and the name of a pool: the same for each way to write it."""
        return f"{self.span // SECOND}s rolling" if self.span else self.kind

    def __str__(self) -> str:
        return self.text or self.key


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


def check_starts(window: Window, starts: object) -> str:
    """Return the text of where windows begin: "06:00", "sunday", "15", "04-01"; "" for where they begin anyway.

    Raises:
        ArgumentTypeError: It is neither a text nor an int.
        ConfigError: Windows of this kind cannot begin there.
    """
    if window.kind not in _STARTS:
        what = "windows" if window.span else f"windows of one {window.kind}"
        raise ConfigError(f"starts: {what} cannot be moved; only a day, week, month or year can")
    if isinstance(starts, bool) or not isinstance(starts, int | str):
        raise ArgumentTypeError(f"starts: {type(starts).__name__} is not {_STARTS[window.kind]}")
    text = _starts_text(window.kind, str(starts).strip().lower())
    if text is None:
        raise ConfigError(f"starts: {str(starts)[:40]!r} is not {_STARTS[window.kind]}, as a {window.kind} needs it")
    return "" if text == _FIRST[window.kind] else text


def bounds(window: Window, at_us: int, tz: str = "UTC", starts: str = "") -> tuple[int, int]:
    """Return `(start, end)` of the window that holds an instant, in microseconds; the end is exclusive.

    Windows without a calendar (run, lifetime, rolling) begin at the instant and end `FOREVER`. `starts` is what
    `check_starts` gave.
    """
    if not window.calendar:
        return at_us, FOREVER
    if window.kind in _CLOCK:
        return _clock_bounds(_CLOCK[window.kind], at_us, zone(tz))
    number = _number(window.kind, at_zone(at_us, tz).date())
    while at_us < _begin(window.kind, number, tz, starts):
        number -= 1
    while at_us >= (end := _begin(window.kind, number + 1, tz, starts)):
        number += 1
    return _begin(window.kind, number, tz, starts), end


def _starts_text(kind: str, text: str) -> str | None:
    if kind == "day":
        time = _TIME.fullmatch(text)
        return f"{int(time[1]):02d}:{time[2] or '00'}" if time else None
    if kind == "week":
        return text if text in _WEEKDAYS else None
    if kind == "month":
        return text if _DAY.fullmatch(text) else None
    found = _MONTH_DAY.fullmatch(text)
    known = found is not None and 1 <= int(found[2]) <= monthrange(2000, int(found[1]))[1]  # a leap year has all days
    return text if known else None


def _number(kind: str, day: date) -> int:
    """Return the number of a date's day, week, month or year; where it begins later, the one before is meant."""
    if kind in ("day", "week"):
        return day.toordinal() if kind == "day" else day.toordinal() // 7
    return day.year if kind == "year" else day.year * 12 + day.month - 1


@lru_cache(maxsize=4096)
def _begin(kind: str, number: int, tz: str, starts: str) -> int:
    """Return S(n): when the n-th window begins."""
    hour = minute = 0
    if kind == "day":
        day = date.fromordinal(number)
        if starts:
            hour, minute = int(starts[:2]), int(starts[3:])
    elif kind == "week":  # the first day of the calendar was a Monday
        day = date.fromordinal(number * 7 + 1 + (_WEEKDAYS.index(starts) if starts else 0))
    elif kind == "month":
        day = _day_of(number // 12, number % 12 + 1, int(starts or 1))
    else:
        day = _day_of(number, int(starts[:2]), int(starts[3:])) if starts else date(number, 1, 1)
    # A time that does not exist is read with the offset before the gap (PEP 495, fold=0).
    return instant(datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone(tz)).astimezone(UTC))


def _day_of(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]))


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
