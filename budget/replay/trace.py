"""Reading a trace: a CSV file of recorded calls, gzipped or not, as calls in the order of time.

A first pass reads only the times. If they do not go back, the second pass streams, and a file of any length needs no
memory; else the calls are read whole and sorted, calls of one instant staying in the order of the file.

Times are exact: nanoseconds, an int where that is exact, else a Fraction (both compare exactly), because the order of
what ends and what begins decides what is refused, and traces carry more digits than a microsecond clock.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from functools import lru_cache
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import NamedTuple, cast

from budget.errors import BudgetError, ConfigError
from budget.limits import check_attributes
from budget.window import instant

__all__ = ["FIELDS", "PRESETS", "Call", "Exact", "Trace", "read_time"]

Exact = int | Fraction
"""Nanoseconds since the epoch, or between two instants."""

_ATTRIBUTES = ("user", "session", "agent", "model")
FIELDS = (
    "time", *_ATTRIBUTES, "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "duration",
)  # fmt: skip
"""What a column can be mapped to."""
_REQUIRED = ("time", "model", "input_tokens", "output_tokens")

PRESETS: dict[str, dict[str, str]] = {
    # github.com/semianalysisai/cc-traces: one row per request of a coding agent
    "cc": {
        "time": "offset_s", "session": "session_id", "model": "model", "input_tokens": "input_tokens",
        "output_tokens": "output_tokens", "duration": "api_time_s",
    },
    # github.com/Azure/AzurePublicDataset
    "azure": {"time": "TIMESTAMP", "input_tokens": "ContextTokens", "output_tokens": "GeneratedTokens"},
    # github.com/kvcache-ai/Mooncake
    "mooncake": {
        "time": "timestamp_ms", "input_tokens": "input_tokens", "output_tokens": "output_tokens",
        "cache_read_tokens": "ideal_prefix_cache_hit_tokens",
    },
}  # fmt: skip
"""Column names by field, of public traces."""

_CACHED = 65536
_SECOND = 10**9
_UNITS = {"_ms": 10**6, "_us": 10**3, "_ns": 1}
_LATEST = 7_258_118_400 * _SECOND  # the year 2200: every window that begins before it ends before `window.FOREVER`
_UNIX = 10**9 * _SECOND  # as a number of seconds it is the year 2001; as an offset it would be 31 years
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,2})?", re.ASCII)
_PLAIN = re.compile(r"(\d{1,18})(?:\.(\d{1,9}))?", re.ASCII)
_COUNT = re.compile(r"(\d{1,15})(?:\.0*)?", re.ASCII)
_FRACTION = re.compile(r"(?:(?<=:\d\d:\d\d)|(?<=[T ]\d{6}))[.,](\d{1,40})", re.ASCII)


class Call(NamedTuple):
    """One recorded call. It sorts by time, then by its place in the file.

    Attributes:
        at: When it began, exact nanoseconds since the epoch.
        line: The line of the file that it ends on.
        end: When it ended, or None if the trace does not know.
        who: user, session, agent, model; "" where there is none.
        input: Input tokens that were neither read from nor written to a cache.
    """

    at: Exact
    line: int
    end: Exact | None
    who: tuple[str, str, str, str]
    input: int
    cache_read: int
    cache_write: int
    output: int


class Trace:
    """A trace file and how to read it.

    Args:
        path: A CSV file with a header line, in UTF-8, plain or gzipped.
        preset: One of `PRESETS`; found from the header if not given.
        columns: Column names by field; they win over the preset's. A column that is called like a field needs none.
        fill: Values by field, for what the trace lacks: no column, or an empty cell.
        start: Nanoseconds since the epoch at which relative times begin.
        on_malformed: Called with a line of text for each row that is skipped; if None such a row is an error.

    Attributes:
        rows: Rows of the file, known after the first pass.
        skipped: Malformed rows so far.

    Raises:
        ConfigError: An argument cannot be used, or the columns do not give what is needed.
        BudgetError: The file cannot be read.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        preset: str | None = None,
        columns: Mapping[str, str] | None = None,
        fill: Mapping[str, str] | None = None,
        start: Exact = 0,
        on_malformed: Callable[[str], None] | None = None,
    ):
        self.path, self.rows, self.skipped = Path(path), 0, 0
        self._start, self._on_malformed = start, on_malformed
        self._fill = {_field(name, "--set"): value.strip() for name, value in (fill or {}).items()}
        self._known: dict[tuple[str, ...], tuple[str, str, str, str]] = {}
        header = next((row for _, row in self._read()), None)
        if header is None or isinstance(header, csv.Error):
            raise BudgetError(f"{self.path}: {header or 'the file is empty'}; the first line must name the columns")
        header = [name.strip() for name in header]
        names = _columns(header, preset, columns or {})
        missing = [name for name in _REQUIRED if name not in names and not self._fill.get(name)]
        if missing:
            raise ConfigError(
                f"trace: no column gives {', '.join(missing)}; name it with --column {missing[0]}=NAME, or give one "
                f"value for all with --set {missing[0]}=VALUE. The columns are {_listed(header)}"
            )
        self._width = len(header)
        # A field without a column reads the empty cell that is put behind every row.
        places = [header.index(names[name]) if name in names else self._width for name in FIELDS]
        self._cells = [(place, self._fill.get(name, "")) for name, place in zip(FIELDS, places, strict=True)]
        self._units = [_UNITS.get(names.get(name, "")[-3:], _SECOND) for name in ("time", "duration")]

    def calls(self) -> Iterator[Call]:
        """Iterate the calls by time, then file order.

        Raises:
            BudgetError: The file cannot be read, or a row is malformed and `on_malformed` is None.
        """
        ordered = self._scan()
        self.skipped = 0
        yield from self._calls() if ordered else sorted(self._calls())

    def _scan(self) -> bool:
        """Count the rows, and say whether their times never go back."""
        self.rows, last, ordered = 0, cast(Exact, -1), True
        place, default = self._cells[0]
        for _, row in self._body():
            self.rows += 1
            if ordered and isinstance(row, list) and len(row) == self._width:
                try:
                    at = self._time((*row, "")[place].strip() or default)
                except ValueError:
                    continue  # the second pass will say so
                last, ordered = at, at >= last
        return ordered

    def _calls(self) -> Iterator[Call]:
        for line, row in self._body():
            try:
                call = self._call(line, row)
            except ValueError as error:
                if self._on_malformed is None:
                    raise BudgetError(f"{self.path}, line {line}: {error}") from None
                self.skipped += 1
                self._on_malformed(f"{self.path}, line {line}: {error}; skipped")
            else:
                yield call

    def _call(self, line: int, row: list[str] | csv.Error) -> Call:
        if isinstance(row, csv.Error):
            raise ValueError(str(row))
        if len(row) != self._width:
            raise ValueError(f"{len(row)} fields, the header has {self._width}")
        row.append("")
        time, user, session, agent, model, given, output, read, written, duration = [
            row[place].strip() or default for place, default in self._cells
        ]
        at = self._time(time)
        lasted = _number(duration, self._units[1]) if duration else 0
        if lasted is None or not 0 <= lasted < _LATEST - at:
            raise ValueError("duration: is not a number from 0 that ends before the year 2200")
        end = at + lasted if duration else None
        who = self._known.get((user, session, agent, model)) or self._check((user, session, agent, model))
        all_input, cached = _count(given, "input_tokens"), _count(read or "0", "cache_read_tokens")
        stored = _count(written or "0", "cache_write_tokens")
        fresh = all_input - cached - stored
        if fresh < 0:
            raise ValueError(f"input_tokens: {all_input} is below its cached tokens ({cached} read, {stored} written)")
        return Call(at, line, end, who, fresh, cached, stored, _count(output, "output_tokens"))

    def _time(self, text: str) -> Exact:
        at = read_time(text, self._start, self._units[0])
        if not 0 <= at < _LATEST:
            raise ValueError("time: is not between the years 1970 and 2200")
        return at

    def _check(self, who: tuple[str, str, str, str]) -> tuple[str, str, str, str]:
        if not who[-1]:
            raise ValueError("model: is empty")
        check_attributes({name: value for name, value in zip(_ATTRIBUTES, who, strict=True) if value})
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[who] = who
        return who

    def _body(self) -> Iterator[tuple[int, list[str] | csv.Error]]:
        rows = self._read()
        next(rows, None)
        return rows

    def _read(self) -> Iterator[tuple[int, list[str] | csv.Error]]:
        """Iterate the rows that are not blank, with the number of their last line; an error for what is no CSV."""
        line = 0
        try:
            with self.path.open("rb") as raw:
                packed = raw.peek(2)[:2] == b"\x1f\x8b"
                plain = cast(BufferedReader, gzip.GzipFile(fileobj=raw)) if packed else raw
                # A byte that is not UTF-8 spoils its own row, if it stands in a column that is read, and no other.
                with TextIOWrapper(plain, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
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
            raise BudgetError(f"{self.path}, after line {line}: {error}") from error


def read_time(text: str, start: Exact = 0, unit: int = _SECOND) -> Exact:
    """Read an instant, exactly, as nanoseconds since the epoch.

    Args:
        text: ISO 8601 with any number of decimals, UTC where it names no zone; or a number, relative to `start`.
        start: Where relative times begin.
        unit: Nanoseconds in one of a relative time.

    Raises:
        ValueError: It is neither, or a number that looks like Unix time where `start` is not the epoch.
    """
    offset = _number(text, unit)
    if offset is not None:
        if start and offset >= _UNIX:
            raise ValueError("time: looks like Unix time; read it as such with --start 1970-01-01")
        return start + offset
    fraction = _FRACTION.search(text)
    if fraction is None:
        return _whole(text)
    return _whole(text[: fraction.start()] + text[fraction.end() :]) + (_number(f"0.{fraction[1]}", _SECOND) or 0)


@lru_cache(maxsize=64)
def _whole(text: str) -> int:
    """Read an instant without a fraction of a second; the rows of one second are neighbours."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("time: is neither like 2026-01-31T12:00:00Z nor a number") from None
    return instant(moment if moment.tzinfo else moment.replace(tzinfo=UTC)) * 1000


def _number(text: str, unit: int) -> Exact | None:
    """Read a number of units as nanoseconds, exactly; None if it is not a number."""
    plain = _PLAIN.fullmatch(text)
    if plain is not None:
        whole, decimals = plain.groups("")
        parts: int = 10 ** len(decimals)
        value, rest = divmod(int(whole + decimals) * unit, parts)
        if not rest:
            return value
    elif not _NUMBER.fullmatch(text):
        return None
    exact = Fraction(text) * unit
    return exact.numerator if exact.denominator == 1 else exact


def _count(text: str, name: str) -> int:
    match = _COUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"{name}: is not a whole number from 0 to 10^15")
    return int(match[1])


def _field(name: str, option: str) -> str:
    if name not in FIELDS:
        raise ConfigError(f"{option}: {name[:40]!r} is none of {', '.join(FIELDS)}")
    return name


def _listed(header: list[str]) -> str:
    # As literals, because a name from a file may hold what a terminal would obey.
    return ", ".join(map(repr, header))[:400]


def _columns(header: list[str], preset: str | None, columns: Mapping[str, str]) -> dict[str, str]:
    """Return the column of each field that has one."""
    if preset is None:
        fits = (name for name, wanted in PRESETS.items() if set(wanted.values()) <= set(header))
        preset = next(fits, None)
    elif preset not in PRESETS:
        raise ConfigError(f"--preset: {preset[:40]!r} is none of {', '.join(PRESETS)}")
    names = {name: name for name in FIELDS if name in header}
    names |= PRESETS[preset] if preset else {}
    names |= {_field(name, "--column"): column for name, column in columns.items()}
    wrong = [column for column in names.values() if header.count(column) != 1]
    if wrong:
        how = "stands twice in" if wrong[0] in header else "is not in"
        raise ConfigError(f"trace: {wrong[0]!r} {how} the header: {_listed(header)}")
    return names
