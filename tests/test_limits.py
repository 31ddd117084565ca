"""Limits: text to rule and back, what makes one itself, and every form that is refused."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import UNITS, Limit, check_attributes
from budget.money import MAX, format_usd
from budget.window import Window

WINDOWS = ["request", "run", "minute", "hour", "day", "week", "month", "year", "lifetime"]
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", fullmatch=True).filter(lambda name: name != "per")
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
    assert Limit(f"$5/{window}").window == Window(window)
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
    tz = draw(st.sampled_from([None, "Europe/Berlin"])) if within and Window(window).calendar else None
    made = Limit(f"{what}{within}", per=per, tz=tz)
    # By attribute, because a name may be one of Limit's own arguments.
    object.__setattr__(made, "selector", tuple(sorted(selector.items())))
    return made


@given(limits())
def test_text_round_trip(limit: Limit) -> None:
    again = Limit(str(limit), tz=limit.options.get("tz"))
    assert again == limit
    assert hash(again) == hash(limit)
    assert str(again) == str(limit)
    assert again.identity == limit.identity
    assert pickle.loads(pickle.dumps(limit)) == limit


@given(limits(), limits())
def test_identity(one: Limit, two: Limit) -> None:
    """Selector, unit, window and mode; amount and options are what setting it again replaces."""
    same = (one.selector, one.per, one.unit, one.window) == (two.selector, two.per, two.unit, two.window)
    assert (one.identity == two.identity) == same


def test_identity_leaves_out_amount_and_zone() -> None:
    one = Limit("$5/day", user="alice")
    assert one.identity == Limit("$6/day", user="alice", tz="Europe/Berlin", source="store", created_us=7).identity
    for other in ("$5/week", "5 tokens/day", "5 requests/day", "5 input tokens/day"):
        assert Limit(other, user="alice").identity != one.identity
    assert Limit("$5/day", per="user").identity != Limit("$5/day", user="user").identity
    assert Limit("$5/day", user="alice") != Limit("$6/day", user="alice")
    assert Limit("$5/day") != Limit("$5/day", tz="Europe/Berlin")
    assert Limit("$5/day", source="store") == Limit("$5/day", source="code")


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
    limit = Limit("$5/day", per="user", tz="Europe/Berlin", source="file").set_at(77)
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
     "$20/7d rolling", "1 requests/60s rolling", "1user=x $5/day",
     "user=a\x00b $5/day", "user='a\nb' $5/day", "$5\n/day\x00", "x" * 5000],
)  # fmt: skip
def test_refused_texts(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limit(text)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "options",
    [{"tz": "Mars/Olympus"}, {"tz": ""}, {"tz": "../../etc/passwd"}, {"tz": "/etc/passwd"}, {"tz": "Europe"},
     {"tz": "x" * 999},
     {"tz": "a\x00b"}, {"mode": "shadow"}, {"mode": "chaos"}, {"starts": 6}, {"user": ""}, {"user": "a\nb"},
     {"user": "\x7f"},
     {"user": "\x9b"}, {"user": "x" * 257}, {"user": "é" * 129}, {"user": "\ud800"}, {"per": "a b"}, {"per": ""},
     {"per": "per"},
     {"per": "user", "user": "alice"}, {"bad name": "x"}, {"é": "x"}, {"x" * 65: "x"}],
)  # fmt: skip
def test_refused_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Limit("$5/day", **options)


@pytest.mark.parametrize(
    "options", [{"tz": 5}, {"tz": []}, {"user": 5}, {"user": None}, {"user": b"x"}, {"per": 5}, {"per": []}]
)
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


def test_a_limit_does_not_change() -> None:
    with pytest.raises(AttributeError):
        Limit("$5/day").quantity = 7  # type: ignore[misc]


def test_json() -> None:
    assert Limit("$5.50/day", user="alice", tz="Europe/Berlin", source="store").to_dict() == {
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
