"""records: the calls themselves, for other tools."""

from __future__ import annotations

from pathlib import Path

import click

from budget.cli.common import Commands, Common, common
from budget.cli.output import print_json, say

__all__ = ["records"]


@click.group("records", cls=Commands)
def records() -> None:
    """Give the records of calls to other tools.

    \b
    Example:
      budget records export --parquet calls/
    """


@records.command("export")
@click.option("--parquet", "folder", required=True, metavar="DIR",
              help="A folder, which gets one for each day: date=2026-01-31/.")  # fmt: skip
@common
def export(common: Common, folder: str) -> None:
    """Export the calls of closed days (UTC) as Parquet files, one per day; what is there and has not changed stays.

    Money is in nano-dollars, times are microseconds since the epoch. The files name users, as the ledger does: they are
    copies, which 'budget erase' does not reach. Exporting again does: a day whose texts have changed is written anew.

    \b
    Example:
      budget records export --parquet calls/
      duckdb -c "select model, sum(usd) / 1e9 from 'calls/*/calls.parquet' group by model"
    """
    from budget.records import CallFile
    from budget.records.export import export_days

    with common.open() as budget:
        file = CallFile(budget.engine.books)
        try:
            done = export_days(file, Path(folder))
        finally:
            file.close()
    told = {"days": len(done.files), "written": done.written}
    print_json(told) if common.json else say(f"{done.written} days written to {folder}; there are {len(done.files)}")
