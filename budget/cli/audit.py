"""audit: the providers' bills against the ledger."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from budget.cli.common import Common, common
from budget.cli.output import Cell, Column, amount, csv_cell, note, print_json, safe, say, table
from budget.errors import ConfigError

if TYPE_CHECKING:
    from budget.bill import BillFile, Comparison, Row
    from budget.records import CallFile

__all__ = ["audit_bill"]

_STYLES = {"missing": "red", "extra": "red", "differs": "red", "open": "yellow", "estimated": "yellow"}
_EPOCH = date(1970, 1, 1)
_SPAN = timedelta(days=30)
_LEAST = Decimal("0.0001")


@click.command("audit")
@click.option("--since", metavar="DAY",
              help="The first day (UTC): 2026-11-01, or 7d. Default: 30d, or the first of the files.")  # fmt: skip
@click.option("--until", metavar="DAY", help="The last day (UTC). Default: today, or the last of the files.")
@click.option("--provider", "providers", multiple=True, metavar="NAME",
              help="openai or anthropic. Default: those whose admin key is set, or whose files are given.")  # fmt: skip
@click.option("--file", "files", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
              help="Read what a provider exported (JSON, JSON Lines, CSV) instead of asking it.")  # fmt: skip
@click.option("--no-pull", is_flag=True, help="Ask nobody; compare what was pulled before.")
@click.option("--width", type=click.Choice(["1d", "1h", "1m"]), default="1d", show_default=True,
              help="The buckets in which usage is pulled.")  # fmt: skip
@click.option("--base-url", metavar="URL", help="Where one provider is asked, instead of its own address.")
@click.option("--key", "keys", multiple=True, metavar="ID", help="The id of an API key of ours. Default: all are.")
@click.option("--attribute", default="key", show_default=True, metavar="NAME",
              help="The attribute of calls that has the id of their API key.")  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Show the rows that match, too.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV in which no cell is a formula.")
@common
def audit_bill(
    common: Common, since: str | None, until: str | None, keys: tuple[str, ...], attribute: str, everything: bool,
    as_csv: bool, providers: tuple[str, ...], **source: Any,
) -> int:  # fmt: skip
    """Set what the providers billed against the ledger, by day, model and key.

    Usage and costs are pulled with an admin key (OPENAI_ADMIN_KEY, ANTHROPIC_ADMIN_KEY) into a file of their own beside
    the store. Exit code 1 says that something does not match.

    \b
    Example:
      budget audit --since 2026-11-01
      budget audit --file claude_api_tokens.csv --file claude_api_cost.csv
      budget audit --no-pull --since 7d --csv > audit.csv
    """
    from budget.bill import BillFile, compare
    from budget.records import CallFile

    if common.json and as_csv:
        raise ConfigError("--json and --csv: choose one")
    with common.open() as budget:
        calls = CallFile(budget.engine.books)
        bill = BillFile(_beside(calls))
        try:
            asked, first, last = _fill(bill, since, until, providers, **source)
            found = compare(
                calls, bill, budget.engine.settings.book, since=first, until=last, providers=asked, keys=keys,
                attribute=attribute,
            )  # fmt: skip
        finally:
            bill.close()
            calls.close()
    _print(common, found, everything, as_csv)
    return 1 if found.faults else 0


def _fill(
    bill: BillFile, since: str | None, until: str | None, providers: tuple[str, ...], files: tuple[Path, ...],
    no_pull: bool, width: str, base_url: str | None,
) -> tuple[Sequence[str], date, date]:  # fmt: skip
    """Fill the bill from files or from the providers; return whose it is, and what is to be compared."""
    from budget.bill import PROVIDERS, Fetcher, load, pull

    if unknown := [name for name in providers if name not in PROVIDERS]:
        raise ConfigError(f"--provider: {unknown[0][:40]!r} is not one of {', '.join(PROVIDERS)}")
    now, (first, last) = time.time_ns() // 1000, _period(since, until)
    if files:
        if base_url or no_pull:
            raise ConfigError("--file: takes neither --base-url nor --no-pull, because nobody is asked")
        covered = load(files, bill, now)
        days = [_EPOCH + timedelta(days=day) for found in covered.values() for day in found]
        return providers or list(covered), first if since else min(days), last if until else max(days)
    asked = providers or tuple(name for name, each in PROVIDERS.items() if no_pull or each.has_key)
    if no_pull:
        return asked, first, last
    if not asked:
        variables = " or ".join(each.variable for each in PROVIDERS.values())
        raise ConfigError(f"set {variables} to an admin key, give exported files (--file), or say --no-pull")
    if base_url and len(asked) > 1:
        raise ConfigError("--base-url: is of one provider; name it with --provider")
    for fetcher in [Fetcher(PROVIDERS[name], base_url) for name in asked]:
        pull(fetcher, bill, (first - _EPOCH).days, (last - _EPOCH).days, now, width)
    return asked, first, last


def _period(since: str | None, until: str | None) -> tuple[date, date]:
    today = datetime.now(UTC).date()
    last = _read_day(until, "--until", today) if until else today
    first = _read_day(since, "--since", today) if since else last - _SPAN
    if last < first:
        raise ConfigError("--until: is before --since")
    return first, last


def _read_day(text: str, name: str, today: date) -> date:
    if text.endswith("d") and text[:-1].isascii() and text[:-1].isdigit() and len(text) < 6:
        return today - timedelta(days=int(text[:-1]))
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{name}: {text[:40]!r} is no day; write it like 2026-11-01, or 7d") from None


def _beside(calls: CallFile) -> Path | None:
    return None if calls.path is None else calls.path.with_name(f"{calls.path.name.removesuffix('-calls')}-bill")


def _print(common: Common, found: Comparison, everything: bool, as_csv: bool) -> None:
    rows = [row for row in found.rows if everything or row.status != "matched"]
    if common.json:
        print_json(found.to_dict() | {"rows": [row.to_dict() for row in rows]})
        return
    if as_csv:
        _print_csv(rows)
    else:
        _print_table(rows)
    for text in found.notes:
        note(text)
    counts = ", ".join(f"{count} {status}" for status, count in found.statuses.items() if count)
    note(f"{found.days} days compared: {counts or 'nothing to compare'}")


def _print_table(rows: Sequence[Row]) -> None:
    from budget.bill import REASONS

    if not rows:
        return
    columns = [
        Column("day"), Column("model", shrink=True, least=14), Column("key", shrink=True, drop=3), Column("status"),
        Column("why"), Column("calls", True, drop=5), Column("billed", True, drop=4), Column("ledger", True),
        Column("bill", True), Column("difference", True, drop=2),
    ]  # fmt: skip
    table(columns, [_cells(row) for row in rows])
    for row in rows:
        for text in row.notes:
            say(f"{row.day} {row.model or '-'}: {text}")
    for name in dict.fromkeys(name for row in rows for name in row.reasons):
        say(f"{name}: {REASONS[name]}")


def _cells(row: Row) -> list[Cell]:
    status: Cell = (row.status, _STYLES.get(row.status, ""))
    money = (_usd(row.usd), _usd(row.billed_usd), _usd(row.difference))
    why = " ".join(row.reasons) or "-"
    return [row.day, row.model or "-", row.key or "-", status, why, amount(row.calls), amount(row.requests), *money]


def _usd(value: Decimal | None) -> str:
    """Write an amount with four decimals, if it does not print as zero so."""
    return amount(value if value is None or abs(value) < _LEAST else value.quantize(_LEAST))


def _print_csv(rows: Sequence[Row]) -> None:
    writer, flat = csv.writer(sys.stdout, lineterminator="\n"), [_flat(row) for row in rows]
    if flat:
        writer.writerow(flat[0])
    for row in flat:
        writer.writerow([csv_cell(safe(value) if isinstance(value, str) else value) for value in row.values()])


def _flat(row: Row) -> dict[str, Any]:
    """Return a row with one level: lists as text, tokens in columns of their own."""
    found: dict[str, Any] = {}
    for name, value in row.to_dict().items():
        if isinstance(value, dict):
            found |= {f"{name}_{kind}": count for kind, count in value.items()}
        else:
            found[name] = "; ".join(value) if isinstance(value, list) else value
    return found
