"""Reading a trace: a CSV file of recorded calls, gzipped or not, as calls in the order of time.

A first pass reads only the times. If they do not go back, the second pass streams, and a file of any length needs no
memory; else the calls are read whole and sorted, calls of one instant staying in the order of the file.

Times are exact (`budget.importing.exact`), because the order of what ends and what begins decides what is refused.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from budget.errors import BudgetError, ConfigError
from budget.importing.exact import LATEST, SECOND, UNITS, Exact, count, number, read_time
from budget.importing.files import columns_of, listed, rows_of
from budget.limits import check_attributes
from budget.replay.calls import Call

__all__ = ["FIELDS", "PRESETS", "Trace"]

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
        header = next((row for _, row in rows_of(self.path)), None)
        if header is None or isinstance(header, csv.Error):
            raise BudgetError(f"{self.path}: {header or 'the file is empty'}; the first line must name the columns")
        header = [name.strip() for name in header]
        names = columns_of(header, FIELDS, PRESETS, preset, columns or {})
        missing = [name for name in _REQUIRED if name not in names and not self._fill.get(name)]
        if missing:
            raise ConfigError(
                f"trace: no column gives {', '.join(missing)}; name it with --column {missing[0]}=NAME, or give one "
                f"value for all with --set {missing[0]}=VALUE. The columns are {listed(header)}"
            )
        self._width = len(header)
        # A field without a column reads the empty cell that is put behind every row.
        places = [header.index(names[name]) if name in names else self._width for name in FIELDS]
        self._cells = [(place, self._fill.get(name, "")) for name, place in zip(FIELDS, places, strict=True)]
        self._units = [UNITS.get(names.get(name, "")[-3:], SECOND) for name in ("time", "duration")]

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
        lasted = number(duration, self._units[1]) if duration else 0
        if lasted is None or not 0 <= lasted < LATEST - at:
            raise ValueError("duration: is not a number from 0 that ends before the year 2200")
        end = at + lasted if duration else None
        who = self._known.get((user, session, agent, model)) or self._check((user, session, agent, model))
        all_input, cached = count(given, "input_tokens"), count(read or "0", "cache_read_tokens")
        stored = count(written or "0", "cache_write_tokens")
        fresh = all_input - cached - stored
        if fresh < 0:
            raise ValueError(f"input_tokens: {all_input} is below its cached tokens ({cached} read, {stored} written)")
        return Call(at, line, end, who, fresh, cached, stored, count(output, "output_tokens"))

    def _time(self, text: str) -> Exact:
        at = read_time(text, self._start, self._units[0])
        if not 0 <= at < LATEST:
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
        rows = rows_of(self.path)
        next(rows, None)
        return rows


def _field(name: str, option: str) -> str:
    if name not in FIELDS:
        raise ConfigError(f"{option}: {name[:40]!r} is none of {', '.join(FIELDS)}")
    return name
