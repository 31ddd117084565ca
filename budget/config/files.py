"""What files say: `budget.toml`, the files of own prices beside it, and where the stores that nobody named are."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import Limit
from budget.prices.own import OWN_FILE, Layer, configured_layers, lay_all

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = [
    "FILE", "KEYS", "default_records", "default_store", "find_file", "own_prices_file", "price_book", "price_layers",
    "read_file", "read_limits",
]  # fmt: skip

FILE = "budget.toml"
KEYS = {
    "store", "account", "above", "records", "on_store_error", "slices", "on_unpriced", "on_unbounded",
    "count_with", "reserve_at", "store_timeout", "sinks", "alerts", "alert_to", "limits", "prices", "price_files",
}  # fmt: skip
"""What a `budget.toml` may say."""


def find_file(name: str = FILE) -> Path | None:
    """Return the nearest `budget.toml`, or another file: of the working folder, else of its parents.

    Raises:
        ConfigError: It cannot be told whether there is one, or it is a link to none: what it says would be left out.
    """
    here = _working_folder()
    try:
        for path in (folder / name for folder in (here, *here.parents)):
            if path.is_file():
                return path
            if path.is_symlink() and not path.exists():
                raise ConfigError(f"{path}: is a link that leads nowhere ({os.readlink(path)})")
        return None
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be looked at ({error.strerror}); work in another folder") from None


def _working_folder() -> Path:
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(f"{FILE}: the working folder is gone ({error.strerror}); change to another one") from None


def read_file() -> dict[str, Any]:
    """Read the nearest `budget.toml`, or nothing.

    Raises:
        ConfigError: It cannot be read, is not TOML, or has a key that means nothing.
    """
    path = find_file()
    if path is None:
        return {}
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    unknown = sorted(content.keys() - KEYS)
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]!r} means nothing here; known are {', '.join(sorted(KEYS))}")
    return content


def read_limits(file: Mapping[str, Any], name: str = FILE) -> list[Limit]:
    """Read the `[[limits]]` of a file.

    Args:
        file: What it says.
        name: Of the file, for errors.

    Raises:
        ConfigError, ArgumentTypeError: One cannot be read.
    """
    found = []
    for row in _tables(file, "limits"):
        options = dict(row)
        if not isinstance(text := options.pop("limit", None), str):
            raise ConfigError(f'{name}: each [[limits]] needs limit = "AMOUNT/WINDOW"')
        try:
            found.append(Limit(text, **options).set_in("file"))
        except (ConfigError, ArgumentTypeError) as error:
            raise type(error)(f"{name}: [[limits]] {text[:40]!r}: {error}") from None
    return found


def own_prices_file() -> Path:
    """Return the file of `budget prices set`: beside the nearest budget.toml, else the nearest such file, else here."""
    beside = find_file()
    return beside.with_name(OWN_FILE) if beside else find_file(OWN_FILE) or _working_folder() / OWN_FILE


def price_layers(file: Mapping[str, Any] | None = None) -> list[Layer]:
    """Return the layers of own prices that the configuration names, the lowest first.

    Args:
        file: What `read_file` gave, if it was read already.

    Raises:
        ConfigError: `price_files` or `prices` is not what it must be.
    """
    file = read_file() if file is None else file
    return configured_layers(file.get("price_files", []), _tables(file, "prices"), find_file(), own_prices_file())


def price_book(prices: object = None, file: Mapping[str, Any] | None = None) -> PriceBook:
    """Return the book in effect: the shipped one, the configuration's files over it, and `prices=` on top.

    Raises:
        ConfigError, ArgumentTypeError: See `price_layers`, `budget.prices.own.lay_all` and `PriceBook.overlay`.
    """
    from budget.prices import PriceBook

    book = lay_all(PriceBook.shipped(), price_layers(file), time.time_ns() // 1000)
    return book.overlay(prices) if prices is not None else book


def default_store() -> str:
    """Return the URL of the default store: `$XDG_DATA_HOME/budget/budget.db`. Its folder is made (mode 0700)."""
    return f"sqlite:///{_data_folder() / 'budget.db'}"


def default_records(store: str) -> str:
    """Return the URL of the command line's records store for a server, a file of its own beside the default store.

    Args:
        store: The URL of the server as the store shows it, without user and password.
    """
    name = blake2b(store.encode(), digest_size=6).hexdigest()
    return f"sqlite:///{_data_folder() / f'records-{name}.db'}"


def _data_folder() -> Path:
    try:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    except RuntimeError:
        raise ConfigError("store: there is no home folder for the usual one; set XDG_DATA_HOME, or name one") from None
    folder = Path(base) / "budget"
    with suppress(OSError):  # opening the store will say that its folder is missing: a StoreUnavailable
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _tables(file: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = file.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{FILE}: write each of the {name} as a table [[{name}]]")
    return rows
