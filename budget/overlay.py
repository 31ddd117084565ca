"""The user's own prices: `prices=` and the `[[prices]]` tables of the configuration, checked by hand.

They become rows of the same compiled form as the shipped book. There is no pydantic here, because `prices=` is read
when an engine is made and pydantic alone takes longer to import than the rest of the package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.money import parse_usd
from budget.rates import IMPLICIT_TTL

__all__ = ["TOKENIZERS", "overlay_rows", "parse_rate", "parse_unit_price"]

TOKENIZERS = ("claude-1", "claude-2", "cl100k", "o200k")
"""Estimator families: claude-2 is the tokenizer of Claude 4.7 and later, claude-1 the one before."""

_RATES = ("input", "output", "cache_read", "cache_write")
_KEYS = (*_RATES, "per_unit", "context", "max_output", "tokenizer", "provider")
_EXAMPLE = '{"my-model": {"input": "0.10", "output": "0.40"}}'


def parse_rate(value: object, name: str) -> int:
    """Read a price per million tokens.

    Args:
        value: USD as a string ("0.10") or a Decimal, with up to 6 decimals. Zero is a price.
        name: The argument, for the error's text.

    Returns:
        Pico-dollars per token: USD per million tokens x 10^6.

    Raises:
        ArgumentTypeError: A float, a bool, an int or anything else that is not a string or Decimal.
        ConfigError: NaN, infinity, negative, an exponent, more than 6 decimals, or above the largest amount.
    """
    picos, rest = divmod(parse_usd(value, name), 1000)
    if rest:
        raise ConfigError(f"{name}: {value!s} has more than 6 decimals; a price is USD per million tokens")
    return picos


def parse_unit_price(value: object, name: str) -> int:
    """Read a price per call of a server tool, USD with up to 9 decimals, as pico-dollars; raises as `parse_usd`."""
    return parse_usd(value, name) * 1000


def overlay_rows(prices: object) -> list[dict[str, Any]]:
    """Check the user's own prices and return them in the compiled form, one entry per model.

    Args:
        prices: A mapping of model to table, or a list of tables with a `model` key. A table has `input` and `output`,
            and may have `cache_read`, `cache_write` (a price, or a mapping of TTL to price), `per_unit` (USD per call
            of a server tool), `context`, `max_output`, `tokenizer`, `provider`. Without `cache_read` a cached token
            costs as plain input; a single `cache_write` holds for every TTL, asked for or not.

    Raises:
        ArgumentTypeError: A wrong type, a float or an int as a price among them; names it, as
            `prices['my-model'].input`.
        ConfigError: A missing, unknown or wrong value.
    """
    return [_row(name, table) for name, table in _tables(prices)]


def _tables(prices: object) -> list[tuple[str, Mapping[str, Any]]]:
    if isinstance(prices, Mapping):
        items = list(prices.items())
    elif isinstance(prices, Sequence) and not isinstance(prices, str | bytes):
        items = []
        for i, entry in enumerate(prices):
            table = _mapping(entry, f"prices[{i}]", '{"model": "my-model", "input": "0.10", "output": "0.40"}')
            if "model" not in table:
                raise ConfigError(f"prices[{i}].model: is missing")
            items.append((table["model"], {key: value for key, value in table.items() if key != "model"}))
    else:
        raise ArgumentTypeError(f"prices: must be like {_EXAMPLE} or a list of tables, not {type(prices).__name__}")
    names = set()
    for name, table in items:
        if not isinstance(name, str):
            raise ArgumentTypeError(f"prices: a model must be a string, not {type(name).__name__}")
        _mapping(table, f"prices[{name!r}]", '{"input": "0.10", "output": "0.40"}')
        key = (name, str(table.get("provider")))
        if not name or key in names:
            raise ConfigError(f"prices[{name!r}]: {'stands twice' if name else 'the model has no name'}")
        names.add(key)
    return items


def _row(model: str, table: Mapping[str, Any]) -> dict[str, Any]:
    at = f"prices[{model!r}]"
    unknown = [str(key) for key in table if key not in _KEYS]
    if unknown:
        raise ConfigError(f"{at}.{unknown[0]}: is not known; the keys are {', '.join(_KEYS)}")
    missing = [key for key in ("input", "output") if key not in table]
    if missing:
        raise ConfigError(f'{at}.{missing[0]}: is missing; write "0" if it costs nothing')
    card: dict[str, Any] = {"over": 0}
    for key in ("input", "output", "cache_read"):
        if key in table:
            card[key] = parse_rate(table[key], f"{at}.{key}")
    if "cache_write" in table:
        card["cache_write"] = _writes(table["cache_write"], f"{at}.cache_write")
    row: dict[str, Any] = {"from": 0, "cards": [card]}
    if "per_unit" in table:
        units = _mapping(table["per_unit"], f"{at}.per_unit", '{"web_search": "0.01"}')
        row["per_unit"] = {unit: parse_unit_price(price, f"{at}.per_unit.{unit}") for unit, price in units.items()}
    facts = {key: _fact(key, table[key], f"{at}.{key}") for key in _KEYS[len(_RATES) + 1 :] if key in table}
    return {"id": model, "rows": [row], **facts}


def _writes(value: object, at: str) -> dict[str, int]:
    if isinstance(value, Mapping):
        return {str(ttl): parse_rate(price, f"{at}.{ttl}") for ttl, price in value.items()}
    return {IMPLICIT_TTL: parse_rate(value, at)}


def _fact(key: str, value: object, at: str) -> int | str:
    if key in ("context", "max_output"):
        if type(value) is not int:
            raise ArgumentTypeError(f"{at}: must be an int of tokens, not {type(value).__name__}")
        if value < 1:
            raise ConfigError(f"{at}: {value} must be at least 1")
        return value
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{at}: must be a string, not {type(value).__name__}")
    if key == "tokenizer" and value not in TOKENIZERS:
        raise ConfigError(f"{at}: {value!r} is not one of {', '.join(TOKENIZERS)}")
    if not value:
        raise ConfigError(f"{at}: must not be empty")
    return value


def _mapping(value: object, at: str, example: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentTypeError(f"{at}: must be a table like {example}, not {type(value).__name__}")
    return value
