"""Tables of calls: CSV with a header, or JSON objects with such fields, one per call.

Input tokens have the cached ones inside. A row's id is that of its `id` column; without one it follows from the row's
own cells and from how many rows of the file have had the same before, so that two equal calls are two. What is filled
in for it has no part in that: a file that is imported again with another `--set` is known.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from budget.errors import BudgetError, ConfigError
from budget.importing.call import FIGURES, Call, Found, Source, each, provider_of, scope_of, tokens, unix_us, usd_of
from budget.importing.exact import LATEST, UNITS, number
from budget.importing.files import columns_of, documents, listed, rows_of
from budget.usage import Usage

__all__ = ["FIELDS", "PRESETS", "read_csv", "read_lines"]

_ATTRIBUTES = ("user", "session", "agent", "project", "run")
FIELDS = (*_ATTRIBUTES, *FIGURES)
"""What a column can be mapped to."""
PRESETS: dict[str, dict[str, str]] = {
    # github.com/Azure/AzurePublicDataset
    "azure": {"time": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
}
_OTHERWISE = {
    "time": ("timestamp", "at", "ts"), "user": ("user_id",), "session": ("session_id",), "run": ("run_id",),
    "cost_usd": ("cost", "usd", "spend"), "id": ("call_id", "request_id"), "duration": ("latency_ms", "duration_ms"),
    "input_tokens": ("prompt_tokens",), "output_tokens": ("completion_tokens",),
}  # fmt: skip
"""What else fields are called; the first that is there."""
_REQUIRED = ("time", "model", "input_tokens", "output_tokens")


def read_csv(source: Source) -> Iterator[Found]:
    """Read the calls of a CSV file.

    Raises:
        ConfigError: The columns do not give what is needed.
        BudgetError: The file cannot be read.
    """
    rows = rows_of(source.path)
    _, header = next(rows, (0, None))
    if header is None or isinstance(header, csv.Error):
        raise BudgetError(f"{source.path}: {header or 'the file is empty'}; the first line must name the columns")
    header = [name.strip() for name in header]
    names = columns_of(header, FIELDS, PRESETS, None, _renamed(header, source))
    missing = [name for name in _REQUIRED if name not in names and not source.fill.get(name)]
    if missing:
        raise ConfigError(
            f"{source.path}: no column gives {', '.join(missing)}; name it with --column {missing[0]}=NAME, or give "
            f"one value for all with --set {missing[0]}=VALUE. The columns are {listed(header)}"
        )
    make = _maker(source, names)

    def call(line: int, row: list[str]) -> Call:
        if len(row) != len(header):
            raise ValueError(f"{len(row)} fields, the header has {len(header)}")
        return make(line, dict(zip(header, (cell.strip() for cell in row), strict=True)))

    yield from each(rows, call)


def read_lines(source: Source) -> Iterator[Found]:
    """Read the calls of a file of JSON objects; each may have other fields than the one before.

    Raises:
        ConfigError: A column is mapped to no field.
        BudgetError: The file cannot be read.
    """
    makers: dict[tuple[str, ...], Callable[[int, Mapping[str, Any]], Call]] = {}
    seen: Counter[str] = Counter()

    def call(line: int, item: Any) -> Call:
        if not isinstance(item, Mapping):
            raise ValueError("is not a JSON object")
        keys = tuple(item)
        if keys not in makers:
            given = {field: column for field, column in source.columns.items() if column in item}
            columns = {**_renamed(keys, source), **given}
            makers[keys] = _maker(source, columns_of(keys, FIELDS, {}, None, columns), seen)
        return makers[keys](line, item)

    yield from each(documents(source.path), call)


def _renamed(header: Any, source: Source) -> dict[str, str]:
    """Return the columns that are called otherwise, and those that the caller named."""
    found = {}
    for field, others in _OTHERWISE.items():
        if field not in header and (name := next((name for name in others if name in header), None)):
            found[field] = name
    return found | dict(source.columns)


def _maker(
    source: Source, names: Mapping[str, str], seen: Counter[str] | None = None
) -> Callable[[int, Mapping[str, Any]], Call]:
    seen = Counter() if seen is None else seen
    lasts = names.get("duration")
    unit = UNITS.get(lasts[-3:], 10**9) if lasts else 10**9

    def call(line: int, row: Mapping[str, Any]) -> Call:
        def get(field: str) -> Any:
            value = row.get(names[field]) if field in names else None
            return source.fill.get(field) if value is None or value == "" else value

        model = get("model")
        if not isinstance(model, str):
            raise ValueError("model: is missing")
        took = _duration(get("duration"), unit)
        at = unix_us(get("time")) + (took or 0) * 1000
        if at * 1000 >= LATEST:
            raise ValueError("duration: does not end before the year 2200")
        usage = _usage(get)
        scope = scope_of(source, **{name: _name(get(name)) for name in _ATTRIBUTES})
        told = usd_of(get("cost_usd"), "cost_usd")
        key = get("id")
        if key is None:
            said = _digest(row)
            seen[said] += 1
            key = f"{said} {seen[said]}"
        return Call(line, str(key), at, model, provider_of(get("provider")), usage, scope, told, took)

    return call


def _digest(row: Mapping[str, Any]) -> str:
    """Return what tells rows apart: their cells, but for empty ones, in any order."""
    cells = {name: value for name, value in row.items() if value is not None and value != ""}
    return blake2b(json.dumps(cells, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _name(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _duration(value: Any, unit: int) -> int | None:
    """Read a duration as milliseconds, rounded up."""
    if value is None:
        return None
    nanos = number(str(value), unit)
    if nanos is None or nanos < 0:
        raise ValueError("duration: is not a number from 0 up")
    return int(-(-nanos // 10**6))


def _usage(get: Callable[[str], Any]) -> Usage:
    for name in ("input_tokens", "output_tokens"):
        if get(name) is None:
            raise ValueError(f"{name}: is missing")
    given, output = tokens(get("input_tokens"), "input_tokens"), tokens(get("output_tokens"), "output_tokens")
    read = tokens(get("cache_read_tokens"), "cache_read_tokens")
    written = tokens(get("cache_write_tokens"), "cache_write_tokens")
    if given < read + written:
        raise ValueError(f"input_tokens: {given} is below its cached tokens ({read} read, {written} written)")
    return Usage(given - read - written, read, {"5m": written} if written else {}, output)
