"""Windows partition time: in every zone, over days of 23 and 25 hours and dates that do not exist."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.window import FOREVER, SECOND, Window, at_zone, bounds, check_starts, instant, zone

HOUR = 3600 * SECOND
CALENDAR = ["minute", "hour", "day", "week", "month", "year"]
ZONES = sorted(available_timezones() - {"localtime", "Factory"})
STARTS = {
    "day": ["", "06:00", "02:30", "23:59"], "week": ["", "sunday", "thursday"], "month": ["", "15", "31"],
    "year": ["", "04-01", "02-29", "12-31"],
}  # fmt: skip
PROOF = os.environ.get("BUDGET_PROOF") == "1"
START, END = (instant(datetime(year, 1, 1, tzinfo=UTC)) for year in (1970, 2100))
LONGEST = {"minute": 60, "hour": 3600, "day": 49 * 3600, "week": 8 * 86400, "month": 32 * 86400, "year": 367 * 86400}


def at(text: str, tz: str = "UTC") -> int:
    return instant(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(tz)))


def window(kind: str, text: str, tz: str, starts: str = "") -> tuple[str, str]:
    """The window that holds a local time, as local times with their offsets."""
    start, end = bounds(Window(kind), at(text, tz), tz, starts)
    return at_zone(start, tz).isoformat(), at_zone(end, tz).isoformat()


@settings(max_examples=600)
@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), st.integers(START, END), st.data())
def test_windows_partition_time(kind: str, tz: str, now: int, data: st.DataObject) -> None:
    """Half-open, of a sane length, the same for each of its instants, and the neighbours touch."""
    starts = data.draw(st.sampled_from(STARTS.get(kind, [""])))
    start, end = bounds(Window(kind), now, tz, starts)
    assert start <= now < end
    assert 0 < end - start <= LONGEST[kind] * SECOND
    inside = data.draw(st.integers(start, end - 1))
    for instant_ in (start, inside, end - 1):
        assert bounds(Window(kind), instant_, tz, starts) == (start, end)
    assert bounds(Window(kind), end, tz, starts)[0] == end
    assert bounds(Window(kind), start - 1, tz, starts)[1] == start


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


ODD = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Pacific/Apia", "Australia/Lord_Howe",
    "Asia/Kathmandu", "America/St_Johns", "Africa/Casablanca", "Asia/Pyongyang", "Antarctica/Troll", "Asia/Gaza",
    "Africa/Cairo", "America/Havana", "Pacific/Kiritimati", "Asia/Tehran", "America/Asuncion", "Asia/Beirut",
    "America/Godthab", "Africa/Khartoum",
]  # fmt: skip
WALKED = ZONES if PROOF else ODD
FROM, TO = (1990, 2038) if PROOF else (2010, 2026)


def walk(kind: str, tz: str, starts: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The windows from one instant to another; each begins where the one before ended, and holds its last instant."""
    now = bounds(Window(kind), begin, tz, starts)[0]
    while now < end:
        start, ends = bounds(Window(kind), now, tz, starts)
        assert start == now < ends, (kind, tz, starts, now)
        assert ends - now <= LONGEST[kind] * SECOND
        assert bounds(Window(kind), ends - 1, tz, starts) == (now, ends), (kind, tz, starts, now)
        yield start, ends
        now = ends


@pytest.mark.parametrize("tz", WALKED)
def test_every_window_of_many_years(tz: str) -> None:
    """No gap and no overlap, and each begins on its day at its time, or where clocks skip that."""
    begin, end = instant(datetime(FROM, 1, 1, tzinfo=UTC)), instant(datetime(TO, 1, 1, tzinfo=UTC))
    for kind, all_starts in STARTS.items():
        some = all_starts
        if kind == "day":  # which are most of the windows
            one = WALKED.index(tz) % len(all_starts)
            some = sorted({all_starts[one], *([""] if PROOF else [])})
        for starts in some:
            for start, _ in walk(kind, tz, starts, begin, end):
                check_start(kind, tz, starts, start)


def check_start(kind: str, tz: str, starts: str, start: int) -> None:
    local = at_zone(start, tz).replace(tzinfo=None)
    hour, minute = map(int, starts.split(":")) if kind == "day" and starts else (0, 0)
    at_its_time = (local.hour, local.minute, local.second) == (hour, minute, 0)
    if not at_its_time:  # clocks went forward over it: the window begins as long after the change as it should have
        before = at_zone(start - 25 * HOUR, tz).utcoffset()
        local = datetime.fromtimestamp(start / SECOND, tz=UTC).replace(tzinfo=None) + (before or timedelta())
        assert skipped(local, tz), (tz, starts, local)
        assert (local.hour, local.minute) == (hour, minute), (tz, starts, local)
    elif kind != "day" and skipped(local - timedelta(days=1), tz):
        return  # the date on which it should begin does not exist, so it is the next one
    last = (local + timedelta(days=1)).month != local.month
    if kind == "week":
        assert local.strftime("%A").lower() == (starts or "monday")
    elif kind == "month":
        assert local.day == int(starts or 1) or (last and local.day < int(starts))
    elif kind == "year":
        month, day = map(int, (starts or "01-01").split("-"))
        assert local.month == month
        assert local.day == day or (last and local.day < day)


def skipped(local: datetime, tz: str) -> bool:
    """Whether a zone's clocks never show a time."""
    there = local.replace(tzinfo=ZoneInfo(tz)).astimezone(UTC).astimezone(ZoneInfo(tz))
    return there.replace(tzinfo=None) != local


@pytest.mark.parametrize("tz", WALKED)
def test_every_minute_and_hour_around_changes_of_many_years(tz: str) -> None:
    for year in range(FROM, TO, 2 if PROOF else 5):
        for change in changes(tz, year):
            for kind, around in (("hour", 3 * HOUR), ("minute", HOUR // 20)):
                assert len(list(walk(kind, tz, "", change - around, change + around))) >= 6


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
    ("kind", "starts", "text", "tz", "expected"),
    [
        ("day", "06:00", "2026-06-01T05:59", "Europe/Berlin",
         ("2026-05-31T06:00:00+02:00", "2026-06-01T06:00:00+02:00")),
        ("day", "06:00", "2026-06-01T06:00", "Europe/Berlin",
         ("2026-06-01T06:00:00+02:00", "2026-06-02T06:00:00+02:00")),
        ("day", "06:00", "2026-03-29T05:00", "Europe/Berlin",
         ("2026-03-28T06:00:00+01:00", "2026-03-29T06:00:00+02:00")),
        # 02:30 does not exist on 29 March, and comes twice on 25 October.
        ("day", "02:30", "2026-03-29T12:00", "Europe/Berlin",
         ("2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00")),
        ("day", "02:30", "2026-10-25T12:00", "Europe/Berlin",
         ("2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00")),
        ("day", "00:30", "2018-11-04T12:00", "America/Sao_Paulo",
         ("2018-11-04T01:30:00-02:00", "2018-11-05T00:30:00-02:00")),
        # The 30th does not exist: the day from 06:00 of the 29th ends at 06:00 of the 31st, 24 hours later.
        ("day", "06:00", "2011-12-29T12:00", "Pacific/Apia",
         ("2011-12-29T06:00:00-10:00", "2011-12-31T06:00:00+14:00")),
        ("day", "06:00", "2011-12-31T05:00", "Pacific/Apia",
         ("2011-12-29T06:00:00-10:00", "2011-12-31T06:00:00+14:00")),
        ("week", "friday", "2011-12-31T05:00", "Pacific/Apia",
         ("2011-12-31T00:00:00+14:00", "2012-01-06T00:00:00+14:00")),
        ("month", "30", "2011-12-31T05:00", "Pacific/Apia",
         ("2011-12-31T00:00:00+14:00", "2012-01-30T00:00:00+14:00")),
        ("week", "sunday", "2026-11-21T23:59", "UTC", ("2026-11-15T00:00:00+00:00", "2026-11-22T00:00:00+00:00")),
        ("week", "sunday", "2026-11-22T00:00", "UTC", ("2026-11-22T00:00:00+00:00", "2026-11-29T00:00:00+00:00")),
        ("month", "15", "2026-03-14T12:00", "UTC", ("2026-02-15T00:00:00+00:00", "2026-03-15T00:00:00+00:00")),
        # A month without the day begins on its last one.
        ("month", "31", "2026-02-28T12:00", "UTC", ("2026-02-28T00:00:00+00:00", "2026-03-31T00:00:00+00:00")),
        ("month", "31", "2026-04-29T12:00", "UTC", ("2026-03-31T00:00:00+00:00", "2026-04-30T00:00:00+00:00")),
        ("month", "30", "2028-02-29T12:00", "UTC", ("2028-02-29T00:00:00+00:00", "2028-03-30T00:00:00+00:00")),
        ("year", "04-01", "2026-03-31T12:00", "UTC", ("2025-04-01T00:00:00+00:00", "2026-04-01T00:00:00+00:00")),
        ("year", "02-29", "2027-06-01T12:00", "UTC", ("2027-02-28T00:00:00+00:00", "2028-02-29T00:00:00+00:00")),
        ("year", "02-29", "2028-02-28T23:59", "UTC", ("2027-02-28T00:00:00+00:00", "2028-02-29T00:00:00+00:00")),
        ("year", "12-31", "2026-12-30T12:00", "UTC", ("2025-12-31T00:00:00+00:00", "2026-12-31T00:00:00+00:00")),
    ],
)  # fmt: skip
def test_known_windows_that_begin_elsewhere(
    kind: str, starts: str, text: str, tz: str, expected: tuple[str, str]
) -> None:
    assert window(kind, text, tz, starts) == expected


@pytest.mark.parametrize(
    ("kind", "starts", "text"),
    [("day", 6, "06:00"), ("day", "6", "06:00"), ("day", "06:00", "06:00"), ("day", "6:30", "06:30"), ("day", 0, ""),
     ("day", "00:00", ""), ("day", 23, "23:00"), ("week", "Sunday", "sunday"), ("week", "monday", ""),
     ("month", 15, "15"), ("month", "31", "31"), ("month", 1, ""), ("year", "04-01", "04-01"),
     ("year", "02-29", "02-29"), ("year", "01-01", "")],
)  # fmt: skip
def test_where_windows_may_begin(kind: str, starts: str | int, text: str) -> None:
    assert check_starts(Window(kind), starts) == text


@pytest.mark.parametrize(
    ("kind", "starts"),
    [("day", 24), ("day", -1), ("day", "24:00"), ("day", "06:60"), ("day", "sunday"), ("day", ""), ("day", "6h"),
     ("week", 6), ("week", "sun"), ("week", ""), ("month", 0), ("month", 32), ("month", "04-01"), ("year", 4),
     ("year", "4-1"), ("year", "13-01"), ("year", "02-30"), ("year", "04-31"), ("year", "00-01"), ("year", "04-00"),
     ("hour", 5), ("minute", 1), ("lifetime", 1), ("run", 1), ("request", "sunday"), ("7d rolling", 6),
     ("day", "٦")],
)  # fmt: skip
def test_where_windows_cannot_begin(kind: str, starts: str | int) -> None:
    with pytest.raises(ConfigError, match="starts"):
        check_starts(Window.parse(kind), starts)


@pytest.mark.parametrize("starts", [None, 6.0, True, b"06:00", ["sunday"]])
def test_where_windows_begin_is_a_text_or_an_int(starts: object) -> None:
    with pytest.raises(ArgumentTypeError, match="starts"):
        check_starts(Window("day"), starts)


@pytest.mark.parametrize(
    ("text", "span", "key"),
    [("1s rolling", 1, "1s rolling"), ("60s rolling", 60, "60s rolling"), ("1m rolling", 60, "60s rolling"),
     ("24h rolling", 86400, "86400s rolling"), ("7d rolling", 7 * 86400, "604800s rolling"),
     ("366d rolling", 366 * 86400, "31622400s rolling"), ("31622400s rolling", 366 * 86400, "31622400s rolling")],
)  # fmt: skip
def test_rolling_windows(text: str, span: int, key: str) -> None:
    window = Window.parse(text)
    assert (str(window), window.span, window.key, window.calendar) == (text, span * SECOND, key, False)
    assert window == Window.parse(key)
    assert bounds(window, 12345) == (12345, FOREVER)


def test_one_rolling_window_written_in_two_ways() -> None:
    assert Window.parse("24h rolling") == Window.parse("1d rolling") == Window.parse("01d rolling")
    assert str(Window.parse("01d rolling")) == "1d rolling"


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
    ["", "Day", "days", "fortnight", "1d", "day ", "0d rolling", "0s rolling", "rolling", "d rolling", "٣d rolling",
     "367d rolling", "31622401s rolling", "99999999d rolling", "999999999d rolling", "7d  rolling", "7 d rolling",
     "7w rolling", "7d Rolling", "1.5d rolling", "-7d rolling", "7d rolling "],
)  # fmt: skip
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
