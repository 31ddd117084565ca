"""Files of JSON and CSV, plain or gzipped, an item at a time with the number of its line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, cast

from budget.errors import BudgetError, ConfigError

__all__ = ["columns_of", "documents", "listed", "rows_of"]


@contextmanager
def _text(path: Path) -> Iterator[TextIOWrapper]:
    """Open a file as text: a byte that is not UTF-8 spoils its own row, if it stands in a field that is read."""
    with path.open("rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        plain = cast(BufferedReader, gzip.GzipFile(fileobj=raw)) if packed else raw
        with TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            yield text


def rows_of(path: Path) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """Iterate the rows of a CSV file that are not blank, with the number of their last line; an error for what is none.

    Raises:
        BudgetError: The file cannot be read.
    """
    line = 0
    try:
        with _text(path) as text:
            reader = csv.reader(text, strict=True)
            while True:
                row: list[str] | csv.Error | None
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    row = error
                line = reader.line_num
                if row is None:
                    return
                if row:
                    yield line, row
    except (OSError, EOFError, zlib.error) as error:
        raise BudgetError(f"{path}, after line {line}: {error}") from error


def documents(path: Path) -> Iterator[tuple[int, Any | ValueError]]:
    """Iterate the values of a JSON file, with their number; an error for what is none.

    A file of JSON Lines is read a line at a time. One that is a single document, such as a list over many lines, is
    read whole; the elements of a list count from 1. Numbers with a fraction are Decimals.

    Raises:
        BudgetError: The file cannot be read.
    """
    line = 0
    try:
        with _text(path) as text:
            first = ""
            for first in text:
                line += 1
                if first.strip():
                    break
            value = _parsed(first)
            if isinstance(value, ValueError | list):
                rest = text.read()
                whole = _parsed(first + rest)
                if not isinstance(whole, ValueError):
                    yield from enumerate(whole, 1) if isinstance(whole, list) else [(1, whole)]
                    return
                lines: Iterator[str] = iter(rest.split("\n"))
            else:
                lines = iter(text)
            if first.strip():
                yield line, value
            for each in lines:
                line += 1
                if each.strip():
                    yield line, _parsed(each)
    except (OSError, EOFError, zlib.error) as error:
        raise BudgetError(f"{path}, after line {line}: {error}") from error


def _parsed(text: str) -> Any | ValueError:
    try:
        return json.loads(text, parse_float=Decimal, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return ValueError("is not JSON")


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def columns_of(
    header: Sequence[str], fields: Sequence[str], presets: Mapping[str, Mapping[str, str]], preset: str | None,
    columns: Mapping[str, str],
) -> dict[str, str]:  # fmt: skip
    """Return the column of each field that has one.

    Args:
        header: The columns of a table.
        fields: What they can be mapped to; a column that is called like a field needs no mapping.
        presets: Columns by field, by the name of a kind of table.
        preset: Which of them; None: the first whose columns are all there.
        columns: Columns by field; they win.

    Raises:
        ConfigError: A field, a preset or a column is not there, or a column stands twice.
    """
    if preset is None:
        fits = (name for name, wanted in presets.items() if set(wanted.values()) <= set(header))
        preset = next(fits, None)
    elif preset not in presets:
        raise ConfigError(f"--preset: {preset[:40]!r} is none of {', '.join(presets)}")
    for name in columns:
        if name not in fields:
            raise ConfigError(f"--column: {name[:40]!r} is none of {', '.join(fields)}")
    names = {name: name for name in fields if name in header}
    names |= {**(presets[preset] if preset else {}), **columns}
    wrong = [column for column in names.values() if header.count(column) != 1]
    if wrong:
        how = "stands twice in" if wrong[0] in header else "is not in"
        raise ConfigError(f"trace: {wrong[0]!r} {how} the header: {listed(header)}")
    return names


def listed(header: Sequence[str]) -> str:
    """Write the columns of a header, as literals, because a name from a file may hold what a terminal would obey."""
    return ", ".join(map(repr, header))[:400]
