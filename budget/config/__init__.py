"""Configuration: an argument, then `BUDGET_*`, then `budget.toml` (working folder, then its parents), then defaults.

Limits and prices of argument and file are joined. Whatever is not understood is an error; nothing is ignored.

    settings   `Settings`, and how they are joined of arguments, environment and file
    values     single values of them, each checked by a function of its name
    files      `budget.toml`, the files of own prices, the folder of the stores that nobody named
"""

from budget.config.files import (
    FILE,
    default_records,
    default_store,
    find_file,
    own_prices_file,
    price_book,
    price_layers,
    read_file,
    read_limits,
)
from budget.config.settings import Settings, configured_alerts, configured_sinks, load
from budget.config.values import check_account, duration_us

__all__ = [
    "FILE", "Settings", "check_account", "configured_alerts", "configured_sinks", "default_records", "default_store",
    "duration_us", "find_file", "load", "own_prices_file", "price_book", "price_layers", "read_file", "read_limits",
]  # fmt: skip
