"""Limits: text to rule and back, what makes one itself, and every form that is refused."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import UNITS, Limit, check_attributes
from budget.money import MAX, format_usd
from budget.window import Window

WINDOWS = ["request", "run", "minute", "hour", "day", "week", "month", "year", "lifetime", "7d rolling"]
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", fullmatch=True).filter(
    lambda name: name not in {"per", "mode", "tz", "starts", "until", "rollover", "warn", "on_short"}
)
VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=64)
TRICKY = ["{x}", "}{", "a:b", "*", "?", "a b", " a ", "'", '"', "\\", "a=b", "=", "per=x", "(none)", "$5/day", "#",
"-", "é" * 128,
          "𝒳" * 64, "x" * 256, "%s", "user=alice", "😀", "\u202eevil", "null", "[]", "a/b", "…", "\u2028",
          "\u00a0"]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "unit", "quantity", "amount"),
    [
        ("$5/day", "usd", 5 * 10**9, Decimal(5)),
        ("$0.25/request", "usd", 25 * 10**7, Decimal("0.25")),
        ("$0/day", "usd", 0, Decimal(0)),
        ("2M tokens/hour", "tokens", 2_000_000, 2_000_000),
        ("500k input tokens/day", "input_tokens", 500_000, 500_000),
        ("1.5M output tokens/day", "output_tokens", 1_500_000, 1_500_000),
        ("2B tokens/year", "tokens", 2 * 10**9, 2 * 10**9),
        ("7 tokens/day", "tokens", 7, 7),
        ("100 requests/minute", "requests", 100, 100),
        ("1 request/day", "requests", 1, 1),
        ("$9007199.254740991/lifetime", "usd", MAX, Decimal("9007199.254740991")),
        ("9007199254740991 tokens/lifetime", "tokens", MAX, MAX),
        (" $5 / day ", "usd", 5 * 10**9, Decimal(5)),
        ("8 concurrent", "concurrent", 8, 8),
        (" 08  concurrent ", "concurrent", 8, 8),
        ("0 concurrent", "concurrent", 0, 0),
        ("9007199254740991 concurrent", "concurrent", MAX, MAX),
    ],
)
def test_amounts(text: str, unit: str, quantity: int, amount: object) -> None:
    limit = Limit(text)
    assert (limit.unit, limit.quantity, limit.amount, limit.selector, limit.per) == (unit, quantity, amount, (), None)
    assert limit.mode == "enforce"
    assert limit.tz == "UTC"


@pytest.mark.parametrize("window", WINDOWS)
def test_windows(window: str) -> None:
    assert Limit(f"$5/{window}").window == Window.parse(window)
    assert str(Limit(f"$5.00/{window}")) == f"$5/{window}"


def test_selectors() -> None:
    limit = Limit("team=x user=alice per=agent $5/day")
    assert (
        limit
        == Limit("$5/day", user="alice", team="x", per="agent")
        == Limit("user=alice $5/day", team="x", per="agent")
    )
    assert (limit.selector, limit.per) == ((("team", "x"), ("user", "alice")), "agent")
    assert str(limit) == "team=x user=alice per=agent $5/day"
    assert Limit("user=alice $5/day", user="alice") == Limit("$5/day", user="alice")
    assert Limit("'user=a b' $5/day") == Limit("$5/day", user="a b")


@pytest.mark.parametrize("value", TRICKY)
def test_any_id_is_an_id(value: str) -> None:
    limit = Limit("$5/day", user=value)
    assert limit.selector == (("user", value),)
    assert Limit(str(limit)) == limit
    assert limit.identity != Limit("$5/day", user=value + "x" if len(value.encode()) < 256 else "x").identity


@st.composite
def limits(draw: st.DrawFn) -> Limit:
    selector = draw(st.dictionaries(NAMES, VALUES, max_size=3))
    per = draw(st.none() | NAMES.filter(lambda name: name not in selector))
    unit, quantity, window = draw(st.sampled_from(UNITS)), draw(st.integers(0, MAX)), draw(st.sampled_from(WINDOWS))
    what = f"${format_usd(quantity)}" if unit == "usd" else f"{quantity} {unit.replace('_', ' ')}"
    within = "" if unit == "concurrent" else f"/{window}"
    calendar = bool(within) and Window.parse(window).calendar
    tz = draw(st.sampled_from([None, "Europe/Berlin"])) if calendar else None
    starts = draw(st.sampled_from([None, "06:00"])) if within == "/day" else None
    rollover = draw(st.none() | st.integers(0, quantity)) if calendar and unit == "usd" else None
    warn = draw(st.none() | st.lists(st.sampled_from(["1%", "80%", "100%"]))) if window != "request" else None
    until = draw(st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
    made = Limit(
        f"{what}{within}", per=per, tz=tz, starts=starts, mode=draw(st.sampled_from(["enforce", "shadow"])),
        rollover=None if rollover is None else format_usd(rollover), warn=warn, until=until,
    )  # fmt: skip
    # By attribute, because a name may be one of Limit's own arguments.
    object.__setattr__(made, "selector", tuple(sorted(selector.items())))
    return made


@given(limits())
def test_text_round_trip(limit: Limit) -> None:
    options = {**limit.options, "mode": limit.mode, "until": limit.until}
    again = Limit(str(limit), **options)
    assert again == limit
    assert again.options == limit.options
    assert hash(again) == hash(limit)
    assert str(again) == str(limit)
    assert again.identity == limit.identity
    assert pickle.loads(pickle.dumps(limit)) == limit


@given(limits(), limits())
def test_identity(one: Limit, two: Limit) -> None:
    """Selector, unit, window and mode; amount and options are what setting it again replaces."""
    same = (one.selector, one.per, one.unit, one.window, one.mode) == (
        two.selector, two.per, two.unit, two.window, two.mode,
    )  # fmt: skip
    assert (one.identity == two.identity) == same


def test_identity_leaves_out_amount_and_zone() -> None:
    one = Limit("$5/day", user="alice")
    assert one.identity == Limit("$6/day", user="alice", tz="Europe/Berlin").set_in("store", 7).identity
    for other in ("$5/week", "5 tokens/day", "5 requests/day", "5 input tokens/day"):
        assert Limit(other, user="alice").identity != one.identity
    assert Limit("$5/day", per="user").identity != Limit("$5/day", user="user").identity
    assert Limit("$5/day", user="alice") != Limit("$6/day", user="alice")
    assert Limit("$5/day") != Limit("$5/day", tz="Europe/Berlin")
    assert Limit("$5/day").set_in("store") == Limit("$5/day").set_in("code")


def test_a_concurrency_limit_has_no_window() -> None:
    limit = Limit("per=user 8 concurrent")
    assert (limit.rule, str(limit), repr(limit)) == (
        "8 concurrent",
        "per=user 8 concurrent",
        "Limit('per=user 8 concurrent')",
    )
    shown = limit.to_dict()
    assert (shown["limit"], shown["unit"], shown["window"], shown["amount"]) == (str(limit), "concurrent", None, 8)
    assert limit.identity == Limit("9 concurrent", per="user").identity
    assert limit.identity != Limit("8 requests/lifetime", per="user").identity
    with pytest.raises(ConfigError, match="tz: a concurrency limit has no time zone"):
        Limit("8 concurrent", tz="Europe/Berlin")


def test_set_at() -> None:
    limit = Limit("$5/day", per="user", tz="Europe/Berlin").set_in("file").set_at(77)
    assert (limit.created_us, limit.tz, limit.per, limit.source) == (77, "Europe/Berlin", "user", "file")
    assert limit.set_at(88).created_us == 77


@pytest.mark.parametrize(
    "text",
    ["", " ", "$5", "5/day", "$5/", "/day", "$/day", "$-5/day", "$1e3/day", "$NaN/day", "five/day", "$5/fortnight",
     "$5/Day",
     "$5 per day", "$5/day/day", "$5/day extra", "extra $5/day", "$5/24h", "5.5 requests/day", "5k requests/day",
     "-5 tokens/day",
     "1.5 tokens/day", "0.0001k tokens/day", "5 apples/day", "5tokens/day", "5 Tokens/day", "5m tokens/day",
     "1e3 tokens/day",
     "NaN tokens/day", "inf tokens/day", "$9007199.254740992/day", "9007199254740992 tokens/day",
     "10000000B tokens/day",
     "$0.0000000001/day", "１ requests/day", "user= $5/day", "=alice $5/day", "us er=alice $5/day",
     "user=alice user=bob $5/day",
     "per=user per=agent $5/day", "per= $5/day", "per=per $5/day", "user=alice per=user $5/day", "user='alice $5/day",
     "user=alice", "8 concurrent/day", "8 concurrent/lifetime", "8 concurrent/", "1.5 concurrent", "2k concurrent",
     "-1 concurrent", "$8 concurrent", "８ concurrent", "concurrent", "8concurrent", "8 Concurrent", "1e1 concurrent",
     "9007199254740992 concurrent", "100000000000000000000 concurrent", "8 concurrent requests",
     "$20/0d rolling", "$20/7d", "$20/rolling", "$20/367d rolling", "8 concurrent/7d rolling", "1user=x $5/day",
     "user=a\x00b $5/day", "user='a\nb' $5/day", "$5\n/day\x00", "x" * 5000],
)  # fmt: skip
def test_refused_texts(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limit(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("option", ["mode=shadow", "tz=Europe/Berlin", "until=2h", "warn=80%", "on_short=clamp"])
def test_an_option_is_no_attribute(option: str) -> None:
    """As one it would make a limit that applies to no call."""
    with pytest.raises(ConfigError, match=r"is an option, no attribute.*--\w") as caught:
        Limit(f"user=alice {option} per=agent $5/day")
    assert option.partition("=")[0] + "= (" in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [{"tz": "Mars/Olympus"}, {"tz": ""}, {"tz": "../../etc/passwd"}, {"tz": "/etc/passwd"}, {"tz": "Europe"},
     {"tz": "x" * 999},
     {"tz": "a\x00b"}, {"mode": "Shadow"}, {"mode": "chaos"}, {"mode": ""}, {"starts": 24}, {"starts": "sunday"},
     {"rollover": "$5.01"}, {"rollover": "$-1"}, {"rollover": "some"}, {"warn": "80"}, {"warn": "0%"}, {"warn": "101%"},
     {"warn": "8.5%"}, {"warn": ["80%", "x"]}, {"warn": ""}, {"until": datetime(2026, 1, 1)},  # noqa: DTZ001
     {"user": ""}, {"user": "a\nb"},
     {"user": "\x7f"},
     {"user": "\x9b"}, {"user": "x" * 257}, {"user": "é" * 129}, {"user": "\ud800"}, {"per": "a b"}, {"per": ""},
     {"per": "per"},
     {"per": "user", "user": "alice"}, {"bad name": "x"}, {"é": "x"}, {"x" * 65: "x"}],
)  # fmt: skip
def test_refused_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Limit("$5/day", **options)


@pytest.mark.parametrize(
    "options",
    [{"tz": 5}, {"tz": []}, {"user": 5}, {"user": None}, {"user": b"x"}, {"per": 5}, {"per": []}, {"starts": 6.0},
     {"rollover": 2}, {"rollover": 2.0}, {"warn": 80}, {"warn": [80]}, {"until": "2h"}, {"until": 7}],
)  # fmt: skip
def test_options_of_a_wrong_type(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentTypeError):
        Limit("$5/day", **options)


@pytest.mark.parametrize("text", [5, None, Decimal(5), b"$5/day", 5.0, True])
def test_a_limit_is_a_text(text: object) -> None:
    with pytest.raises(ArgumentTypeError):
        Limit(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", ["request", "run", "lifetime"])
def test_only_a_calendar_has_a_zone(window: str) -> None:
    with pytest.raises(ConfigError, match="tz"):
        Limit(f"$5/{window}", tz="Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("$5/7d rolling", {"tz": "Europe/Berlin"}), ("$5/7d rolling", {"starts": 6}), ("$5/hour", {"starts": 1}),
        ("$5/lifetime", {"starts": 1}), ("8 concurrent", {"starts": 1}), ("5 tokens/day", {"rollover": "$1"}),
        ("$5/lifetime", {"rollover": "$1"}), ("$5/7d rolling", {"rollover": "$1"}), ("$5/run", {"rollover": "$1"}),
        ("$5/request", {"warn": "80%"}),
    ],
)  # fmt: skip
def test_options_that_a_window_or_unit_cannot_have(text: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        Limit(text, **options)


def test_the_examples_of_the_contract() -> None:
    assert str(Limit("$20/7d rolling", per="session")) == "per=session $20/7d rolling"
    shadow = Limit("$3/day", per="user", mode="shadow")
    assert (shadow.mode, shadow.identity == Limit("$3/day", per="user").identity) == ("shadow", False)
    assert Limit("per=user $5/day") == Limit("$5/day", per="user")
    assert Limit("500k input tokens/60s rolling").window.span == 60 * 10**6


def test_options_are_shown() -> None:
    limit = Limit(
        "$5/day", user="alice", tz="Europe/Berlin", starts=6, mode="shadow", rollover="$2", warn=["80%", "50%", "80%"],
        until=datetime(2026, 12, 1, tzinfo=UTC),
    )  # fmt: skip
    assert limit.options == {
        "tz": "Europe/Berlin", "starts": "06:00", "until": "2026-12-01T01:00:00+01:00", "rollover": "$2",
        "warn": ["50%", "80%"],
    }  # fmt: skip
    assert limit.to_dict()["mode"] == "shadow"
    assert repr(limit) == (
        "Limit('user=alice $5/day', mode='shadow', tz='Europe/Berlin', starts='06:00', "
        "until='2026-12-01T01:00:00+01:00', rollover='$2', warn=['50%', '80%'])"
    )
    assert (limit.rollover, limit.warn, limit.until) == (
        2 * 10**9, (50, 80), datetime(2026, 12, 1, tzinfo=UTC),
    )  # fmt: skip
    assert Limit("$5/day", starts=0, tz="UTC", warn=[], rollover="$0").options == {}
    assert Limit("$5/day", warn="80%").warn == (80,)


def test_ways_to_write_a_rolling_window_are_one_limit() -> None:
    one, two = Limit("$5/24h rolling"), Limit("$9/1d rolling")
    assert one.identity == two.identity
    assert (str(one), str(two)) == ("$5/24h rolling", "$9/1d rolling")
    assert one.identity != Limit("$5/25h rolling").identity


@pytest.mark.parametrize("name", ["source", "created_us", "text", "self"])
def test_any_name_is_an_attribute(name: str) -> None:
    limit = Limit("$5/day", **{name: "web"})  # type: ignore[arg-type]
    assert limit.selector == ((name, "web"),)
    assert limit == Limit(f"{name}=web $5/day")
    assert (limit.source, limit.created_us) == ("code", 0)
    with pytest.raises(ArgumentTypeError, match=f"{name}: int"):
        Limit("$5/day", **{name: 5})  # type: ignore[arg-type]


def test_a_limit_that_was_raised() -> None:
    limit = Limit("$5/day", user="alice", starts=6).set_at(7)
    raised = limit.raised(10 * 10**9)
    assert (str(raised), raised.amount, raised.starts, raised.created_us) == (
        "user=alice $15/day", Decimal(15), "06:00", 7,
    )  # fmt: skip
    assert limit.amount == 5
    assert limit.raised(MAX).quantity == MAX


@given(limits())
def test_a_limit_ends(limit: Limit) -> None:
    assert (limit.until is None) == (limit.until_us == 0)
    if limit.until is not None:
        assert limit.until - datetime(1970, 1, 1, tzinfo=UTC) == timedelta(microseconds=limit.until_us)


def test_a_limit_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Limit("$5/day").quantity = 7  # type: ignore[misc]


def test_json() -> None:
    assert Limit("$5.50/day", user="alice", tz="Europe/Berlin").set_in("store").to_dict() == {
        "limit": "user=alice $5.5/day", "selector": "user=alice", "unit": "usd", "window": "day", "mode": "enforce",
        "amount": "5.5", "source": "store", "options": {"tz": "Europe/Berlin"},
    }  # fmt: skip


@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_attributes(attributes: dict[str, str]) -> None:
    assert check_attributes(attributes) == attributes


@given(st.text(st.characters(categories=("Cc",)), min_size=1, max_size=1), VALUES)
def test_control_characters(control: str, value: str) -> None:
    with pytest.raises(ConfigError, match="control"):
        check_attributes({"user": value[:30] + control})
