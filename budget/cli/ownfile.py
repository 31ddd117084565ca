"""`budget-prices.toml`: the file of prices that `budget prices set` owns. It is read, changed and written as a whole.

Rows are only added: a new price closes the row before it, so what held on a day can be looked up later. Only a row that
began on the same day is replaced. The file is replaced in one step, and processes that write it take turns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any

from budget.errors import ConfigError

__all__ = ["alone", "put_row", "write"]

_HEAD = """\
# Prices of our own, USD per million tokens. `budget prices set` writes this file and writes all of it anew each time:
# comments are lost. Rows by hand belong into a file of their own, named by price_files in budget.toml.

"""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from writing the file meanwhile: a lock on its folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def put_row(content: dict[str, Any], model: str, provider: str | None, row: dict[str, Any]) -> None:
    """Put a row into the content of the file: in place of the one of the same day, else behind the last one.

    Raises:
        ConfigError: The last row begins later.
    """
    content.setdefault("schema", 1)
    models = content.setdefault("models", [])
    for entry in models:
        if (entry["id"], entry.get("provider", content.get("provider"))) == (model, provider):
            break
    else:
        models.append({"id": model, **({"provider": provider} if provider else {}), "prices": [row]})
        return
    last = entry["prices"][-1]
    if last["from"] > row["from"]:
        raise ConfigError(f"from: {row['from']} is before the last row of {model}, which is from {last['from']}")
    if last["from"] == row["from"]:
        entry["prices"][-1] = row
    else:
        last["until"] = row["from"]
        entry["prices"].append(row)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file in one step: what reads it sees the old or the new one, also after a crash."""
    path = path.resolve()
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(_HEAD + _table(content, ""))
            file.flush()
            os.chmod(temporary, mode)
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    with suppress(OSError):  # some file systems do not sync folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _table(table: Mapping[str, Any], name: str, inner: Sequence[str] = ("models", "prices")) -> str:
    """Write a table of TOML; of the tables in it, models and their prices have headers, others stand in one line."""
    key, rest = (inner[0], inner[1:]) if inner else ("", ())
    lines = [f"{_key(other)} = {_value(value)}\n" for other, value in table.items() if other != key]
    for each in table.get(key, ()):
        whole = f"{name}.{key}" if name else key
        lines.append(f"\n[[{whole}]]\n{_table(each, whole, rest)}")
    return "".join(lines)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_value(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return value.isoformat() if isinstance(value, date) else str(value) if isinstance(value, int) else _text(value)


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").replace("-", "").isalnum() else _text(key)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
