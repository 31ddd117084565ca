"""Money: exact in, exact out, and nothing that is not surely an amount."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.errors import ArgumentTypeError, ConfigError
from budget.money import MAX, format_usd, parse_usd, show_usd, to_decimal

NANOS = st.integers(0, MAX)
ANY_NANOS = st.integers(-(2**63), 2**63)


@pytest.mark.parametrize(
    ("value", "nanos"),
    [
        ("$5", 5 * 10**9), ("5", 5 * 10**9), ("0.25", 25 * 10**7), ("$.5", 5 * 10**8), ("5.", 5 * 10**9), (" $5 ",
        5 * 10**9),
        ("0", 0), ("$0.00", 0), ("0.000000001", 1), ("9007199.254740991", MAX), ("0.10000000000000000000", 10**8),
        ("00005", 5 * 10**9), (Decimal("5"), 5 * 10**9), (Decimal("-0"), 0), (Decimal("1E-9"), 1),
        (Decimal("5E+3"), 5000 * 10**9),
        (Decimal("0E-60"), 0),
    ],
)  # fmt: skip
def test_amounts(value: object, nanos: int) -> None:
    assert parse_usd(value, "x") == nanos


@pytest.mark.parametrize(
    "value",
    ["", "$", "five", "-1", "$-1", "+1", "1e3", "1E-3", "$1e400", "NaN", "inf", "Infinity", "1_000", "1,000",
     "1 000", "0x10",
     "$$5", "5$", "5 USD", "€5", "１２", "٣", "1.2.3", ".", "$.", "9007199.254740992", "9" * 30, "9" * 40,
     "0.0000000001",
     "1.0000000001", "5\x00", "5\n6", Decimal("NaN"), Decimal("sNaN"), Decimal("-NaN"), Decimal("Infinity"),
     Decimal("-1"),
     Decimal("-1e-30"), Decimal("1e400"), Decimal("1e999999"), Decimal("1e-10"), Decimal("1e-50"), Decimal("1e-999999"),
     Decimal("9007199.254740992")],
)  # fmt: skip
def test_what_is_no_amount(value: object) -> None:
    with pytest.raises(ConfigError, match="the amount"):
        parse_usd(value, "the amount")


@pytest.mark.parametrize("value", [5, 0, True, False, 0.1, float("nan"), None, b"5", [], Fraction(1, 2), 5j])
def test_what_is_no_money(value: object) -> None:
    with pytest.raises(ArgumentTypeError, match="the amount"):
        parse_usd(value, "the amount")


def test_an_error_is_short() -> None:
    for value in ("x" * 10**6, Decimal("1e-" + "9" * 15)):
        with pytest.raises(ConfigError) as caught:
            parse_usd(value, "x")
        assert len(str(caught.value)) < 200


@given(NANOS)
def test_round_trip(nanos: int) -> None:
    assert parse_usd(format_usd(nanos), "x") == parse_usd(to_decimal(nanos), "x") == nanos
    assert parse_usd(f"${format_usd(nanos)}", "x") == nanos


@given(st.decimals(0, 9 * 10**9, allow_nan=False, allow_infinity=False))
def test_what_was_spent_is_rounded_up(amount: Decimal) -> None:
    assert parse_usd(amount, "x", booked=True) == ceil(Fraction(amount) * 10**9)


@given(st.decimals(0, 9 * 10**6, allow_nan=False, allow_infinity=False))
def test_what_is_asked_for_is_exact_or_refused(amount: Decimal) -> None:
    exact = Fraction(amount) * 10**9
    if exact.denominator == 1:
        assert parse_usd(amount, "x") == exact
    else:
        with pytest.raises(ConfigError, match="finer"):
            parse_usd(amount, "x")


@pytest.mark.parametrize(
    ("value", "nanos"),
    [("0.0000000001", 1), (Decimal("1e-50"), 1), ("1.0000000001", 10**9 + 1), ("9007199.254740992", MAX + 1), ("0", 0),
     ("9223372036.854775807", 2**63 - 1)],
)  # fmt: skip
def test_booked(value: object, nanos: int) -> None:
    assert parse_usd(value, "x", booked=True) == nanos


@pytest.mark.parametrize(
    "value", ["9223372036.854775808", "9223372036.8547758070001", "-1", Decimal("NaN"), Decimal("1e30")]
)
def test_not_even_booked(value: object) -> None:
    with pytest.raises(ConfigError):
        parse_usd(value, "x", booked=True)


def test_the_decimal_context_does_not_matter() -> None:
    with localcontext() as context:
        context.prec = 3
        assert parse_usd("1234567.123456789", "x") == 1234567123456789
        assert to_decimal(1234567123456789) == Decimal("1234567.123456789")
        assert show_usd(1234567123456789) == "$1,234,567.123456789"


@given(ANY_NANOS)
def test_written_plainly(nanos: int) -> None:
    text = format_usd(nanos)
    assert Fraction(text) == Fraction(nanos, 10**9)
    assert set(text) <= set("-.0123456789")
    assert not ("." in text and text.endswith(("0", ".")))
    assert (text in ("0", "-0")) == (nanos == 0)
    assert str(to_decimal(nanos)) == text or abs(nanos) < 10**3  # Decimal writes 1E-9


@given(ANY_NANOS)
def test_shown_to_people(nanos: int) -> None:
    text = show_usd(nanos)
    digits = text.lstrip("-$").replace(",", "")
    assert Fraction(digits) == Fraction(abs(nanos), 10**9)
    assert 2 <= len(digits.partition(".")[2]) <= 9
    assert text.startswith("-$" if nanos < 0 else "$")


@pytest.mark.parametrize(
    ("nanos", "plain", "shown"),
    [
        (0, "0", "$0.00"), (1, "0.000000001", "$0.000000001"), (25 * 10**7, "0.25", "$0.25"), (5 * 10**9, "5", "$5.00"),
        (-3 * 10**9, "-3", "-$3.00"), (1234 * 10**9, "1234", "$1,234.00"), (10**11, "100", "$100.00"), (10**8,
        "0.1", "$0.10"),
    ],
)  # fmt: skip
def test_texts(nanos: int, plain: str, shown: str) -> None:
    assert (format_usd(nanos), show_usd(nanos)) == (plain, shown)
