"""Pull reports into the file of the bill: from the providers, or from files that they exported."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from budget.bill.billfile import BillFile
from budget.bill.exported import read_export
from budget.bill.lines import DAY_US, Charged, Used
from budget.errors import ConfigError

if TYPE_CHECKING:
    from budget.bill.fetch import Fetcher

__all__ = ["load", "pull"]


def pull(fetcher: Fetcher, bill: BillFile, first: int, last: int, now_us: int, width: str = "1d") -> int:
    """Fetch all reports of a provider, and put them in the place of what the bill has for these days.

    Args:
        fetcher: Of the provider.
        bill: Where they go; a report is written when all of it has come.
        first, last: Days since the epoch (UTC), both included.
        now_us: The time now, microseconds since the epoch.
        width: Of the buckets of usage: "1d", "1h" or "1m".

    Returns:
        How many lines came.

    Raises:
        BillUnavailable: The provider does not answer as documented.
    """
    provider, count = fetcher.provider, 0
    days = range(first, last + 1)
    for report in provider.reports:
        lines: list[Used | Charged] = []
        for page in fetcher.pages(report, first * DAY_US, (last + 1) * DAY_US, width):
            lines += [line for line in page.lines if line.day in days]
        count += bill.replace(provider.name, report.name, days, lines, now_us)
    return count


def load(paths: Iterable[Path], bill: BillFile, now_us: int) -> dict[str, set[int]]:
    """Read exported files, and put them in the place of what the bill has for their days.

    Returns:
        The days that the files cover, by provider.

    Raises:
        ConfigError: A file cannot be read; nothing was changed then.
    """
    exports = [export for path in paths for export in read_export(path)]
    merged: dict[tuple[str, str], tuple[set[int], list[Used | Charged]]] = {}
    for export in exports:
        days, lines = merged.setdefault((export.provider, export.report), (set(), []))
        if days & set(export.days):
            raise ConfigError(f"file: two files have the report {export.report} of {export.provider} for the same day")
        days.update(export.days)
        lines += export.lines
    covered: dict[str, set[int]] = {}
    for (provider, report), (days, lines) in merged.items():
        bill.replace(provider, report, days, lines, now_us)
        covered.setdefault(provider, set()).update(days)
    return covered
