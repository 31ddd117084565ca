"""Aggregates over many calls, by DuckDB (extra `analytics`): percentiles, any pair of attributes, single hours.

Closed days are Parquet files beside the file of records (`budget.records.export`), written once; the open day is read
into memory, and then what it gains. So an answer over 10 million calls takes less than a second, and needs no server.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from budget.errors import ConfigError
from budget.records.callfile import CallFile
from budget.records.export import TYPES, Days, connect_duckdb, export_days, quoted, rows_of_day

__all__ = ["Analytics"]

_SUMS = """select count(*), sum(usd), sum(input), sum(output), sum(cache_read), sum(cache_write) from open_calls"""


class Analytics:
    """Questions in SQL to the records of one account.

    Args:
        file: The records.
        folder: Where closed days are kept; beside the file if not given.

    Raises:
        ConfigError: DuckDB is not installed.
    """

    def __init__(self, file: CallFile, folder: Path | None = None):
        self._file, self._lock = file, Lock()
        self._duck = connect_duckdb()
        self._scratch = TemporaryDirectory(prefix="budget-days-")
        self._folder = folder or file.days or Path(self._scratch.name) / "days"
        columns = ", ".join(f'"{name}" {kind}' for name, kind in TYPES.items())
        self._duck.execute(f"set temp_directory = {quoted(Path(self._scratch.name))}")
        self._duck.execute(f"create table open_calls ({columns})")
        self._days: Days | None = None

    def sql(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Answer a question over the view `calls`, which has every call up to now.

        Its columns are those of `calls` in the file of records, with texts: "user", session, agent, project, model,
        provider, run, parent, outcome ("ok", ...), tags (JSON); "at" in microseconds; usd, saved, expected and reserved
        in nano-dollars. DuckDB wants "user" and "at" in quotes.

        Raises:
            ConfigError: The query cannot be answered.
            StoreUnavailable: The ledger, the file or the days cannot be read or written.
        """
        import duckdb

        with self._lock:
            self._bring_up()
            try:
                answer = self._duck.execute(query, list(values))
            except duckdb.Error as error:
                raise ConfigError(f"sql: {error}") from error
            if answer is None:
                raise ConfigError("sql: there is no statement in it")
            found: list[tuple[Any, ...]] = answer.fetchall()
        return found

    def close(self) -> None:
        """Let go of memory and scratch files."""
        self._duck.close()
        self._scratch.cleanup()

    def _bring_up(self) -> None:
        """Have the view show every call up to now."""
        days, known = export_days(self._file, self._folder, self._duck), self._days
        if known is None or days.written or (days.files, days.state) != (known.files, known.state):
            known = None
            self._duck.execute("delete from open_calls")
            files = ", ".join(map(quoted, days.files.values()))
            closed = f"select * from read_parquet([{files}], hive_partitioning = false) union all" if files else ""  # noqa: S608 - what is put in is above
            self._duck.execute(f"create or replace view calls as {closed} select * from open_calls")  # noqa: S608 - what is put in is above
        if days.open is not None and (known is None or (days.open, days.figures) != (known.open, known.figures)):
            self._read_open(days.open, days.figures)
        self._days = days

    def _read_open(self, day: int, figures: tuple[int, ...]) -> None:
        """Read what the open day has gained; all of it, if that does not come to its sums."""
        self._read_day(day, self._duck.execute("select coalesce(max(seq), 0) from open_calls").fetchone()[0])
        if self._duck.execute(_SUMS).fetchone() != figures:
            self._duck.execute("delete from open_calls")
            self._read_day(day, -(2**63))

    def _read_day(self, day: int, after: int) -> None:
        path = Path(self._scratch.name) / "open.csv"
        with rows_of_day(self._file.db, self._file.account, day, after, path) as rows:
            self._duck.execute(f"insert into open_calls select * from {rows}")  # noqa: S608 - a path of our own
