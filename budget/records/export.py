"""Closed days as Parquet files: `<folder>/date=2026-01-31/calls.parquet`, as tools that read Parquet expect it.

The columns are those of `calls` (calls.sql), with texts in the place of numbers: money in nano-dollars, `at` in
microseconds since the epoch (UTC), `tags` as JSON. A day is closed when a call has ended on a later one. A file is
written when its day is new, or not any more what the daily sums say (imported or late figures); `days.json` remembers
what that was. Files are made beside, and then take the name.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from budget.errors import ConfigError, StoreUnavailable
from budget.records.callfile import CallFile
from budget.stores.sqlitefile import FileLock
from budget.window import at_zone

__all__ = ["TYPES", "Days", "connect_duckdb", "export_days", "quoted", "rows_of_day"]

TYPES = {
    "seq": "BIGINT", "id": "VARCHAR", "at": "BIGINT", "usd": "BIGINT",
    "user": "VARCHAR", "session": "VARCHAR", "agent": "VARCHAR", "project": "VARCHAR", "model": "VARCHAR",
    "provider": "VARCHAR", "run": "VARCHAR",
    "input": "BIGINT", "output": "BIGINT", "cache_read": "BIGINT", "cache_write": "BIGINT",
    "saved": "BIGINT", "expected": "BIGINT", "reserved": "BIGINT", "latency_ms": "BIGINT", "first_token_ms": "BIGINT",
    "estimated": "BOOLEAN", "outcome": "VARCHAR", "parent": "VARCHAR", "tags": "VARCHAR",
}  # fmt: skip
"""The columns, as DuckDB names their types."""
_NAMED = {"user", "session", "agent", "project", "model", "provider", "run", "parent"}
_DAY_US = 86_400_000_000
_SQL = {
    "id": """case length(id) when 16 then lower(hex(id))
        else cast(substr(id, case substr(id, 1, 2) when x'0000' then 3 else 2 end) as text) end""",
    "outcome": "coalesce((select text from names where names.id = outcome), 'ok')",
    **{name: f'(select text from names where names.id = calls."{name}")' for name in _NAMED},  # noqa: S608 - from above
}
# "+seq" keeps SQLite from going through all numbers above one, where the times are of a day.
_ROWS = f"""select {", ".join(_SQL.get(name, name) for name in TYPES)} from calls
    where account = ? and at >= ? and at < ? and +seq > ? order by at, seq"""  # noqa: S608 - what is put in is above
_FIGURES = """select day, calls, usd, input, output, cache_read, cache_write from totals
    where account = ? and dim = '' and calls > 0 order by day"""
_MANIFEST = "days.json"
_ALL = -(2**63)  # below every number
_IMPORTED, _NOBODY = 2**62, 2**63 - 1  # of a day whose calls are in no ledger, or that has none any more


class Days(NamedTuple):
    """The days of an account.

    Attributes:
        files: Of closed days, by day (since the epoch).
        written: How many of them were written just now.
        open: The open day; None if there are no calls.
        figures: Of the open day: calls, nano-dollars and tokens.
        state: Up to where entries are gone, and how often texts were changed: what was read before does not hold.
    """

    files: Mapping[int, Path]
    written: int
    open: int | None
    figures: tuple[int, ...]
    state: tuple[int, int]


def export_days(file: CallFile, folder: Path, duck: Any = None) -> Days:
    """Bring a folder with closed days up to date.

    Args:
        file: The records; they are brought up to date first.
        folder: It is made if it is not there, for its owner alone.
        duck: A connection to DuckDB; one of its own if not given.

    Raises:
        ConfigError: DuckDB is not installed (the extra `analytics`), or the folder has another account's days.
        StoreUnavailable: The file cannot be read, or the folder not be written.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(FileLock(folder / ".lock")) as lock, lock.held(600):
            return _export(file, folder, duck or connect_duckdb())
    except (OSError, sqlite3.Error) as error:
        raise StoreUnavailable(f"the days cannot be exported to {str(folder)!r}: {error}") from error


def _export(file: CallFile, folder: Path, duck: Any) -> Days:
    db = file.open()
    account, known = file.account, _read_manifest(folder, file.books.account)
    state = db.execute("select pruned, texts from accounts where id = ?", (account,)).fetchone() or (0, 0)
    pruned, texts = state
    figures = {day: tuple(rest) for day, *rest in db.execute(_FIGURES, (account,))}
    last = max(figures, default=None)
    days: dict[str, Any] = known["days"] if known.get("texts") == texts else {}
    written, files = 0, {}
    for day, sums in figures.items():
        made, path = days.get(str(day)), _path(folder, day)
        if day == last:
            continue
        if made is None or tuple(made["figures"]) != sums or made["first"] <= pruned or not path.exists():
            made = days[str(day)] = {"figures": sums, "first": _write(duck, db, account, day, path)}
            written += 1
        if made["first"] != _NOBODY:
            files[day] = path
    for path in set(folder.glob("date=*/calls.parquet")) - {*files.values()}:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # in the day's folder may be files of others, such as a sink's
            path.parent.rmdir()
    if written or known.get("texts") != texts:
        _write_manifest(folder, {"account": file.books.account, "texts": texts, "days": days})
    return Days(files, written, last, () if last is None else figures[last], state)


def _write(duck: Any, db: sqlite3.Connection, account: int, day: int, path: Path) -> int:
    """Write a day's calls; return the lowest number of the ledger among them, `_NOBODY` if there are no calls."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    try:
        with rows_of_day(db, account, day, _ALL, path.with_suffix(".csv")) as rows:
            duck.execute(f"copy (select * from {rows}) to {quoted(part)} (format parquet, compression zstd)")  # noqa: S608 - what is put in is above
        os.chmod(part, 0o600)
        first, count = duck.execute(
            f"select min(seq) filter (seq > 0), count(*) from read_parquet({quoted(part)})"  # noqa: S608 - see `quoted`
        ).fetchone()
        os.replace(part, path)
        return int(first or _IMPORTED) if count else _NOBODY
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def rows_of_day(db: sqlite3.Connection, account: int, day: int, after: int, path: Path) -> Iterator[str]:
    """Yield what DuckDB reads the calls of a day from, those with numbers above `after`.

    That is a CSV file for as long as it lasts: given row by row, they would take a hundred times as long.
    """
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", newline="") as stream:
            span = (account, day * _DAY_US, (day + 1) * _DAY_US, after)
            csv.writer(stream, lineterminator="\n").writerows(db.execute(_ROWS, span))
        columns = ", ".join(f"'{name}': '{kind}'" for name, kind in TYPES.items())
        yield (
            f"read_csv({quoted(path)}, columns = {{{columns}}}, header = false, auto_detect = false, "
            "hive_partitioning = false, delim = ',', quote = '\"', escape = '\"', parallel = false)"
        )
    finally:
        path.unlink(missing_ok=True)


def connect_duckdb() -> Any:
    """Return a connection to DuckDB in memory, which fetches nothing.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import duckdb
    except ImportError:
        raise ConfigError("analytics: duckdb is not installed: pip install 'budget-engine[analytics]'") from None
    return duckdb.connect(config={
        "autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "memory_limit": "1GB",
        "temp_directory": "",
    })  # fmt: skip


def quoted(path: Path) -> str:
    """Return a path as SQL writes a text."""
    return "'" + str(path).replace("'", "''") + "'"


def _path(folder: Path, day: int) -> Path:
    return folder / f"date={at_zone(day * _DAY_US).date().isoformat()}" / "calls.parquet"


def _read_manifest(folder: Path, account: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / _MANIFEST).read_text())
    except FileNotFoundError:
        return {"account": account, "days": {}}
    except ValueError:
        return {"account": account, "days": {}}
    if found.get("account") != account:
        raise ConfigError(f"parquet: {str(folder)!r} has the days of another account; name another folder")
    return found


def _write_manifest(folder: Path, found: Mapping[str, Any]) -> None:
    part = folder / f"{_MANIFEST}.part"
    part.write_text(json.dumps(found))
    os.chmod(part, 0o600)
    os.replace(part, folder / _MANIFEST)
