"""Money: integer nano-dollars inside, `Decimal` or strings at the edge, floats nowhere.

One nano-dollar is 10^-9 USD. A limit or a reserve may be at most `MAX` = 2^53 - 1 nano-dollars (about $9.007
million), because Redis scripts compare in doubles, which are exact up to there.
"""

from __future__ import annotations

import re
from decimal import Decimal
from functools import lru_cache

from budget.errors import ArgumentTypeError, ConfigError

__all__ = ["MAX", "NANOS", "format_usd", "parse_usd", "show_usd", "to_decimal"]

NANOS = 10**9
"""Nano-dollars in a dollar."""
MAX = 2**53 - 1
"""The largest limit, reserve or counter, in nano-dollars (or tokens, or requests)."""
_MAX_BOOKED = 2**63 - 1  # what one ledger entry can hold: a 64-bit integer, about $9.2 billion

_AMOUNT = re.compile(r"\$?(\d{1,30}(?:\.\d{0,30})?|\.\d{1,30})", re.ASCII)


def parse_usd(value: object, name: str, *, booked: bool = False) -> int:
    """Read an amount of USD.

    Args:
        value: A string such as "$5" or "0.25", or a Decimal.
        name: The argument, for the error's text.
        booked: True for a cost that has happened: it may be above `MAX` and is rounded **up** to a nano-dollar.
            Otherwise the amount must be a whole number of nano-dollars up to `MAX`.

    Returns:
        Nano-dollars.

    Raises:
        ArgumentTypeError: A float, a bool, a bare int or anything else that is not a string or Decimal.
        ConfigError: NaN, infinity, negative, an exponent, too fine or too large.
    """
    if type(value) is str and len(value) <= 32:
        return _parse_text(value, name, booked)
    return _parse(value, name, booked)


def _parse(value: object, name: str, booked: bool) -> int:
    if isinstance(value, str):
        match = _AMOUNT.fullmatch(value.strip())
        if match is None:
            raise ConfigError(f"{name}: {_short(value)} is not an amount of USD; write it like '$5' or '0.25'")
        amount = Decimal(match[1])
    elif isinstance(value, Decimal):
        if not value.is_finite() or value < 0:
            raise ConfigError(f"{name}: {_short(str(value))} must be finite and not negative")
        amount = value
    else:
        hint = " (dollars or nano-dollars?)" if type(value) is int else ""
        raise ArgumentTypeError(
            f"{name}: {type(value).__name__} is not taken for money{hint}; use a string like '$5' or a Decimal"
        )
    return _to_nanos(amount, name, booked)


_parse_text = lru_cache(maxsize=1024)(_parse)  # callers name the same few amounts again and again


def _to_nanos(amount: Decimal, name: str, booked: bool) -> int:
    ceiling = _MAX_BOOKED if booked else MAX
    if amount.adjusted() > 20:  # before any big integer is built from '1e999999'
        raise ConfigError(f"{name}: above ${format_usd(ceiling)}, the largest amount")
    numerator, denominator = amount.as_integer_ratio() if amount.adjusted() > -40 else (int(amount > 0), 10 * NANOS)
    nanos, rest = divmod(numerator * NANOS, denominator)
    if rest and not booked:
        raise ConfigError(f"{name}: {_short(str(amount))} is finer than a nano-dollar (10^-9 USD)")
    nanos += bool(rest)
    if nanos > ceiling:
        raise ConfigError(f"{name}: above ${format_usd(ceiling)}, the largest amount")
    return nanos


def to_decimal(nanos: int) -> Decimal:
    """Return nano-dollars as an exact Decimal of USD without trailing zeros, whatever the decimal context."""
    return Decimal(format_usd(nanos))


def format_usd(nanos: int) -> str:
    """Write nano-dollars as a plain decimal of USD: no exponent, no trailing zeros ("0.25", "-3", "0.000000001")."""
    sign, nanos = ("-", -nanos) if nanos < 0 else ("", nanos)
    whole, fraction = divmod(nanos, NANOS)
    return f"{sign}{whole}.{fraction:09d}".rstrip("0").rstrip(".")


def show_usd(nanos: int) -> str:
    """Write nano-dollars for a person: "$", 2 to 9 decimals; what is not zero never prints as zero."""
    text = format_usd(nanos)
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, fraction = digits.partition(".")
    return f"{sign}${int(whole):,}.{fraction:0<2}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
