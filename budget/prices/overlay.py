"""The user's own prices: `prices=` and the `[[prices]]` tables of the configuration, checked by hand.

They become rows of the same compiled form as the shipped book. There is no pydantic here, because `prices=` is read
when an engine is made and pydantic alone takes longer to import than the rest of the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.money import parse_usd
from budget.prices.rates import IMPLICIT_TTL
from budget.usage import PARTS

__all__ = ["SNAPSHOTS", "TOKENIZERS", "overlay_rows", "parse_rate", "parse_unit_price"]

TOKENIZERS = (
    "claude-1", "claude-2", "cl100k", "o200k", "gemini", "mistral", "llama", "cohere", "nova", "grok", "deepseek",
    "qwen", "other",
)  # fmt: skip
"""Estimator families: claude-2 is the tokenizer of Claude 4.7 and later, claude-1 the one before; `other` is of what is
not known, and bounds highest."""

SNAPSHOTS = ("date8", "date10", "at8", "version", "region", "ft")
"""Rules for the names of snapshots; `budget.prices` carries them out."""

_RATES = ("input", "output", "cache_read", *PARTS)
_FACTS = ("context", "max_output", "tokenizer", "provider")
_CARD = (*_RATES, "cache_write")
_KEYS = (*_CARD, "tiers", "per_unit", "per_request", *_FACTS)
_NAME = re.compile("[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,256}")
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
            and may have `cache_read`, `cache_write` (a price, or a mapping of TTL to price), prices of parts
            (`reasoning`, `input_audio` ..., see `budget.usage.PARTS`), `tiers` (a list of the same rates with
            `over_input_tokens`), `per_unit` (USD per call of a server tool, "character", "second" or "image"),
            `per_request` (USD), `context`, `max_output`, `tokenizer`, `provider`. Without `cache_read` a cached token
            costs as plain input, without a price of its own a part as its bucket; a single `cache_write` holds for
            every TTL, asked for or not.

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
        _check_name(name, f"prices[{name[:80]!r}]")
        names.add(key)
    return items


def _row(model: str, table: Mapping[str, Any]) -> dict[str, Any]:
    at = f"prices[{model!r}]"
    _only(table, _KEYS, at)
    cards = [_card(table, at), *(_tier(tier, f"{at}.tiers[{i}]") for i, tier in enumerate(_tiers(table, at)))]
    overs = [card["over"] for card in cards]
    if overs != sorted(set(overs)):
        raise ConfigError(f"{at}.tiers: must stand in ascending order of over_input_tokens")
    row: dict[str, Any] = {"from": 0, "cards": cards}
    if "per_unit" in table:
        units = _mapping(table["per_unit"], f"{at}.per_unit", '{"web_search": "0.01"}')
        for unit in units:
            if not isinstance(unit, str):
                raise ArgumentTypeError(f"{at}.per_unit: a unit must be a string, not {type(unit).__name__}")
            _check_name(unit, f"{at}.per_unit")
        row["per_unit"] = {unit: parse_unit_price(price, f"{at}.per_unit.{unit}") for unit, price in units.items()}
    if "per_request" in table:
        row["per_request"] = parse_unit_price(table["per_request"], f"{at}.per_request")
    facts = {key: _fact(key, table[key], f"{at}.{key}") for key in _FACTS if key in table}
    return {"id": model, "rows": [row], **facts}


def _card(table: Mapping[str, Any], at: str, over: int = 0) -> dict[str, Any]:
    missing = [key for key in ("input", "output") if key not in table]
    if missing:
        raise ConfigError(f'{at}.{missing[0]}: is missing; write "0" if it costs nothing')
    rates = {key: parse_rate(table[key], f"{at}.{key}") for key in _RATES if key in table}
    parts = {part: rates.pop(part) for part in PARTS if part in rates}
    writes = _writes(table["cache_write"], f"{at}.cache_write") if "cache_write" in table else {}
    return {"over": over, **rates, **({"cache_write": writes} if writes else {}), **({"parts": parts} if parts else {})}


def _tiers(table: Mapping[str, Any], at: str) -> Sequence[Any]:
    tiers = table.get("tiers", ())
    if not isinstance(tiers, Sequence) or isinstance(tiers, str | bytes):
        raise ArgumentTypeError(f"{at}.tiers: must be a list of tables, not {type(tiers).__name__}")
    return tiers


def _tier(value: object, at: str) -> dict[str, Any]:
    tier = _mapping(value, at, '{"over_input_tokens": 200000, "input": "0.20", "output": "0.80"}')
    _only(tier, ("over_input_tokens", *_CARD), at)
    over = _fact("context", tier.get("over_input_tokens"), f"{at}.over_input_tokens")
    return _card(tier, at, int(over))


def _only(table: Mapping[str, Any], keys: Sequence[str], at: str) -> None:
    unknown = [str(key) for key in table if key not in keys]
    if unknown:
        raise ConfigError(f"{at}.{unknown[0]}: is not known; the keys are {', '.join(keys)}")


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
    _check_name(value, at)
    return value


def _check_name(name: str, at: str) -> None:
    if not _NAME.fullmatch(name) or len(name.encode()) > 256:
        raise ConfigError(f"{at}: a name has 1 to 256 bytes of UTF-8 and no control characters")


def _mapping(value: object, at: str, example: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ArgumentTypeError(f"{at}: must be a table like {example}, not {type(value).__name__}")
    return value
