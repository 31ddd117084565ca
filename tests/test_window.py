"""Windows partition time: in every zone, over days of 23 and 25 hours and dates that do not exist."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.window import FOREVER, SECOND, Window, at_zone, bounds, instant, zone

HOUR = 3600 * SECOND
CALENDAR = ["minute", "hour", "day", "week", "month", "year"]
ZONES = sorted(available_timezones() - {"localtime", "Factory"})
START, END = (instant(datetime(year, 1, 1, tzinfo=UTC)) for year in (1970, 2100))
LONGEST = {"minute": 60, "hour": 3600, "day": 49 * 3600, "week": 8 * 86400, "month": 32 * 86400, "year": 367 * 86400}


def at(text: str, tz: str = "UTC") -> int:
    return instant(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)))


def window(kind: str, text: str, tz: str) -> tuple[str, str]:
    """The window that holds a local time, as local times with their offsets."""
    start, end = bounds(Window(kind), at(text, tz), tz)
    return at_zone(start, tz).isoformat(), at_zone(end, tz).isoformat()


@settings(max_examples=600)
@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), st.integers(START, END), st.data())
def test_windows_partition_time(kind: str, tz: str, now: int, data: st.DataObject) -> None:
    """Half-open, of a sane length, the same for each of its instants, and the neighbours touch."""
    start, end = bounds(Window(kind), now, tz)
    assert start <= now < end
    assert 0 < end - start <= LONGEST[kind] * SECOND
    inside = data.draw(st.integers(start, end - 1))
    for instant_ in (start, inside, end - 1):
        assert bounds(Window(kind), instant_, tz) == (start, end)
    assert bounds(Window(kind), end, tz)[0] == end
    assert bounds(Window(kind), start - 1, tz)[1] == start


def changes(tz: str, year: int) -> list[int]:
    """The instants of a year at which a zone's offset changes."""
    found, low = [], instant(datetime(year, 1, 1, tzinfo=UTC))
    for _ in range(366):
        high = low + 24 * HOUR
        left, right = low, high
        if at_zone(left, tz).utcoffset() != at_zone(right, tz).utcoffset():
            while right - left > 1:
                middle = (left + right) // 2
                same = at_zone(middle, tz).utcoffset() == at_zone(low, tz).utcoffset()
                left, right = (middle, right) if same else (left, middle)
            found.append(right)
        low = high
    return found


def check_partition(kind: str, tz: str, now: int) -> None:
    start, end = bounds(Window(kind), now, tz)
    assert start <= now < end
    for same in (start, end - 1):
        assert bounds(Window(kind), same, tz) == (start, end)
    assert bounds(Window(kind), end, tz)[0] == end
    assert bounds(Window(kind), start - 1, tz)[1] == start


AROUND = [0, -1, 60, 1800, 3600, 5400, -60, -1800, -3599, -3600, -7200, 86400, -86400]


@settings(max_examples=150)
@given(st.sampled_from(ZONES), st.integers(1970, 2040), st.integers(-7200, 7200))
def test_windows_partition_time_around_changes_of_the_clock(tz: str, year: int, seconds: int) -> None:
    for change in changes(tz, year):
        for kind in CALENDAR:
            for delta in (*AROUND[:4], seconds):
                check_partition(kind, tz, change + delta * SECOND)


@pytest.mark.parametrize(
    ("tz", "year"),
    [
        ("America/St_Johns", 2010),
        ("America/St_Johns", 2006),
        ("America/Sao_Paulo", 2018),
        ("Pacific/Apia", 2011),
        ("Australia/Lord_Howe", 2026),
        ("Europe/Berlin", 2026),
        ("America/Godthab", 2023),
        ("Asia/Kathmandu", 1985),
        ("Africa/Monrovia", 1972),
        ("Antarctica/Casey", 2020),
        ("Pacific/Kwajalein", 1993),
        ("Asia/Pyongyang", 2018),
        ("Africa/Cairo", 2014),
        ("America/Havana", 2025),
        ("Asia/Beirut", 2025),
    ],
)
def test_windows_partition_time_around_odd_changes(tz: str, year: int) -> None:
    assert changes(tz, year)
    for change in changes(tz, year):
        for kind in CALENDAR:
            for delta in AROUND:
                check_partition(kind, tz, change + delta * SECOND)


@settings(max_examples=300)
@given(st.sampled_from(ZONES), st.integers(START, END))
def test_windows_begin_where_a_calendar_says(tz: str, now: int) -> None:
    for kind in CALENDAR:
        start = at_zone(bounds(Window(kind), now, tz)[0], tz)
        before = start.astimezone(UTC) - timedelta(microseconds=1)
        if kind in ("minute", "hour"):
            changed = before.astimezone(zone(tz)).utcoffset() != start.utcoffset()
            assert changed or (start.second == 0 and (kind == "minute" or start.minute == 0))
            continue
        earlier = before.astimezone(zone(tz)).date()
        assert earlier < start.date() or start.hour == 0  # a date begins here (or comes a second time)
        if kind == "week":
            assert start.weekday() == 0 or tz_skipped(start, tz)
        if kind == "month":
            assert start.day == 1 or tz_skipped(start, tz)


def tz_skipped(start: datetime, tz: str) -> bool:
    """Whether the date before has no instant in this zone."""
    day = (start.replace(tzinfo=None) - timedelta(days=1)).replace(hour=12)
    return day.replace(tzinfo=ZoneInfo(tz)).astimezone(UTC).astimezone(ZoneInfo(tz)).date() != day.date()


@settings(max_examples=40)
@given(st.sampled_from(ZONES), st.integers(START, END - 400 * 24 * HOUR))
def test_a_year_is_its_months_and_a_week_its_days(tz: str, now: int) -> None:
    for whole, part, counts in (("year", "month", {12}), ("week", "day", {6, 7})):
        at_us, end = bounds(Window(whole), now, tz)
        parts = 0
        while at_us < end:
            _, at_us = bounds(Window(part), at_us, tz)
            parts += 1
        assert at_us == end
        assert parts in counts


@pytest.mark.parametrize(
    ("kind", "text", "tz", "expected"),
    [
        # 23 and 25 hours.
        ("day", "2026-03-29T12:00", "Europe/Berlin", ("2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00")),
        ("day", "2026-10-25T12:00", "Europe/Berlin", ("2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00")),
        ("week", "2026-03-29T12:00", "Europe/Berlin", ("2026-03-23T00:00:00+01:00", "2026-03-30T00:00:00+02:00")),
        ("month", "2026-03-31T23:59", "Europe/Berlin", ("2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00")),
        ("year", "2026-07-01T00:00", "Europe/Berlin", ("2026-01-01T00:00:00+01:00", "2027-01-01T00:00:00+01:00")),
        ("week", "2027-01-01T00:00", "Europe/Berlin", ("2026-12-28T00:00:00+01:00", "2027-01-04T00:00:00+01:00")),
        ("month", "2028-02-29T12:00", "UTC", ("2028-02-01T00:00:00+00:00", "2028-03-01T00:00:00+00:00")),
        # Midnight does not exist: the day begins at 01:00.
        ("day", "2018-11-04T12:00", "America/Sao_Paulo", ("2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00")),
        ("day", "2018-11-03T12:00", "America/Sao_Paulo", ("2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00")),
        # A date does not exist: Friday the 30th.
        ("day", "2011-12-29T12:00", "Pacific/Apia", ("2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00")),
        ("day", "2011-12-31T12:00", "Pacific/Apia", ("2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00")),
        ("week", "2011-12-31T12:00", "Pacific/Apia", ("2011-12-26T00:00:00-10:00", "2012-01-02T00:00:00+14:00")),
        # Clocks went back across midnight, at 00:01: the date came twice, and is one day.
        ("day", "2010-11-06T12:00", "America/St_Johns", ("2010-11-06T00:00:00-02:30", "2010-11-07T00:00:00-02:30")),
        ("day", "2010-11-07T12:00", "America/St_Johns", ("2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30")),
        # Half an hour.
        ("day", "2026-04-05T12:00", "Australia/Lord_Howe", ("2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30")),
        ("hour", "2026-06-01T05:20", "Asia/Kathmandu", ("2026-06-01T05:00:00+05:45", "2026-06-01T06:00:00+05:45")),
        ("minute", "2026-06-01T05:20:33", "Asia/Kathmandu", ("2026-06-01T05:20:00+05:45", "2026-06-01T05:21:00+05:45")),
    ],
)  # fmt: skip
def test_known_windows(kind: str, text: str, tz: str, expected: tuple[str, str]) -> None:
    assert window(kind, text, tz) == expected


@pytest.mark.parametrize(
    ("text", "tz", "hours"),
    [("2026-03-29T12:00", "Europe/Berlin", 23), ("2026-10-25T12:00", "Europe/Berlin", 25), ("2026-06-01T12:00",
     "Europe/Berlin", 24),
     ("2018-11-04T12:00", "America/Sao_Paulo", 23), ("2026-04-05T12:00", "Australia/Lord_Howe", 24.5),
     ("2026-10-04T12:00", "Australia/Lord_Howe", 23.5), ("2011-12-29T12:00", "Pacific/Apia", 24),
     ("2010-11-07T12:00", "America/St_Johns", 25)],
)  # fmt: skip
def test_the_length_of_a_day(text: str, tz: str, hours: float) -> None:
    start, end = bounds(Window("day"), at(text, tz), tz)
    assert end - start == hours * HOUR


def test_hours_around_a_change_of_half_an_hour() -> None:
    """Lord Howe, 2026-04-05: at 02:00 (+11) clocks go back to 01:30 (+10:30)."""
    now, ends = at("2026-04-05T00:30", "Australia/Lord_Howe"), []
    for _ in range(5):
        now = bounds(Window("hour"), now, "Australia/Lord_Howe")[1]
        ends.append(at_zone(now, "Australia/Lord_Howe").strftime("%H:%M %z"))
    assert ends == ["01:00 +1100", "01:30 +1030", "02:00 +1030", "03:00 +1030", "04:00 +1030"]


def test_hours_over_a_whole_change_are_hours() -> None:
    now = at("2026-10-25T00:30", "Europe/Berlin")
    lengths = []
    for _ in range(5):
        start, now = bounds(Window("hour"), now, "Europe/Berlin")
        lengths.append(now - start)
    assert lengths == [HOUR] * 5


@pytest.mark.parametrize("kind", ["request", "run", "lifetime"])
def test_windows_without_a_calendar(kind: str) -> None:
    assert bounds(Window(kind), 12345) == (12345, FOREVER)
    assert not Window(kind).calendar


@pytest.mark.parametrize(
    "text",
    ["", "Day", "days", "fortnight", "1d", "day ", "7d rolling", "60s rolling", "0d rolling", "rolling", "٣d rolling"],
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ConfigError, match="window"):
        Window.parse(text)


@pytest.mark.parametrize(
    "name",
    ["", "Mars/Olympus", "../etc/passwd", "/etc/passwd", "Europe", "europe/nowhere", "UTC+1", "a\x00b", "x" * 300],
)
def test_what_is_no_zone(name: str) -> None:
    with pytest.raises(ConfigError, match="tz"):
        zone(name)


@pytest.mark.parametrize("name", [5, None, b"UTC"])
def test_a_zone_is_a_text(name: object) -> None:
    with pytest.raises(ArgumentTypeError):
        zone(name)  # type: ignore[arg-type]


def test_naive_times_are_refused() -> None:
    with pytest.raises(ConfigError):
        instant(datetime(2026, 1, 1))  # noqa: DTZ001 - naive on purpose


@given(st.integers(START, END), st.sampled_from(ZONES))
def test_instants_round_trip(now: int, tz: str) -> None:
    assert instant(at_zone(now, tz)) == now
