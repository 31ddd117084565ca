"""import: calls that others have recorded."""

from __future__ import annotations

from collections.abc import Sequence

import click

from budget.cli.common import Common, assigned, common
from budget.cli.output import Column, note, pairs, print_json, table
from budget.importing import FORMATS, Imported, import_files
from budget.money import show_usd

__all__ = ["import_calls"]


@click.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True), metavar="FILE...")
@click.option("--format", "form", type=click.Choice(FORMATS), help="What they are. Default: told by each file.")
@click.option("--column", "columns", multiple=True, metavar="FIELD=NAME", help="The column of a field (csv, jsonl).")
@click.option("--set", "fill", multiple=True, metavar="NAME=VALUE", help="What calls lack, such as user=alice.")
@click.option("--dry-run", is_flag=True, help="Read and price them, and add nothing.")
@common
def import_calls(
    shared: Common, files: Sequence[str], form: str | None, columns: Sequence[str], fill: Sequence[str], dry_run: bool
) -> None:
    """Import recorded calls into the records, priced by the book of their day; importing again adds nothing.

    They count in reports and replays. No limit, no pool and no ledger is touched.

    \b
    Example:
      budget import ~/.claude/projects --set user=alice
      budget import spend_logs.csv --format litellm --dry-run
    """
    from budget.records import CallFile

    with shared.open() as budget:
        calls = CallFile(budget.engine.books)
        try:
            found = import_files(
                calls, budget.engine.settings.book, files, format=form, columns=assigned(columns, "--column"),
                fill=assigned(fill, "--set"), dry_run=dry_run, on_bad=note,
            )  # fmt: skip
        finally:
            calls.close()
    if shared.json:
        print_json(found.to_dict())
    else:
        _show(found)


def _show(found: Imported) -> None:
    known = "" if found.added is None else f"{found.calls - found.added:,}"
    pairs([
        ("files", f"{found.files:,}"),
        ("calls", f"{found.calls:,}"),
        ("cost", show_usd(found.usd)),
        ("added", "nothing (dry run)" if found.added is None else f"{found.added:,}"),
        *([("known before", known)] if known else []),
        ("without a price", f"{found.unpriced.total():,}"),
        ("priced by their source", f"{found.told:,}"),
        ("rows that cannot be read", f"{found.bad:,}"),
    ])  # fmt: skip
    reasons = [("no price, left out", name, count) for name, count in found.unpriced.most_common()]
    reasons += [("no price for a part", name, count) for name, count in found.partly.most_common()]
    reasons += [("left out", name, count) for name, count in found.left_out.most_common()]
    if reasons:
        columns = [Column("what"), Column("which", shrink=True), Column("calls", right=True)]
        table(columns, [(what, name, f"{count:,}") for what, name, count in reasons])
    if found.unpriced:
        note("give those models a price (budget prices set) and import again: only they are added")
