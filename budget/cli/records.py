"""report: what calls cost."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from budget.cli.common import Common, common
from budget.cli.output import Column, amount, note, print_json, table

if TYPE_CHECKING:
    from budget.report import EstimateRow

__all__ = ["report_costs"]


@click.command("report")
@click.option("--by", default="user", show_default=True, metavar="WHAT",
              help="user, session, agent, run, model, provider, day (UTC), or any attribute.")  # fmt: skip
@click.option("--since", metavar="7d", help="How far back: 7d, 12h, 30m. Default: everything.")
@click.option("--estimates", is_flag=True, help="How good the estimates were: error, over-reservation, overruns.")
@common
def report_costs(common: Common, by: str, since: str | None, estimates: bool) -> None:
    """Report what calls cost, the dearest first, with quantiles over the cost of each call.

    \b
    Example:
      budget report --by model --since 7d
      budget report --by day --json
      budget report --by model --estimates
    """
    from budget.report import report, report_estimates

    with common.open() as budget:
        if estimates:
            _show_estimates(common, by, report_estimates(budget.entries(since=since), by))
            return
        rows = report(budget.entries(since=since), by)
    if common.json:
        print_json([row.to_dict() for row in rows])
        return
    columns = [
        Column(by, shrink=True), Column("calls", True), Column("cost", True), Column("mean", True, drop=3),
        Column("p50", True, drop=4), Column("p95", True, drop=2), Column("p99", True, drop=5),
        Column("input", True, drop=6), Column("output", True, drop=7), Column("cache read", True, drop=8),
        Column("cache write", True, drop=9), Column("refused", True, drop=1),
    ]  # fmt: skip
    names = [name for name in rows[0].__slots__ if name != "by"] if rows else []
    table(columns, [["(none)" if r.by is None else r.by, *(amount(getattr(r, n)) for n in names)] for r in rows])
    if not rows:
        note("there are no calls in the ledger")


def _show_estimates(common: Common, by: str, rows: Sequence[EstimateRow]) -> None:
    if common.json:
        print_json([row.to_dict() for row in rows])
        return
    columns = [
        Column(by, shrink=True), Column("calls", True), Column("cost", True), Column("expected", True, drop=1),
        Column("reserved", True, drop=2), Column("bias", True), Column("p50 error", True, drop=4),
        Column("p95 error", True, drop=3), Column("reserved/cost", True), Column("overruns", True),
        Column("share", True, drop=5),
    ]  # fmt: skip
    cells = [(
        "(none)" if r.by is None else r.by, amount(r.calls), amount(r.usd), amount(r.usd_expected),
        amount(r.usd_reserved), _percent(r.bias), _percent(r.p50_error), _percent(r.p95_error),
        "-" if r.over_reservation is None else f"{r.over_reservation:.2f}", amount(r.overruns),
        _percent(r.overrun_share),
    ) for r in rows]  # fmt: skip
    table(columns, cells)
    if not rows:
        note("there are no calls in the ledger that have an estimate with a bound, and a usage")


def _percent(ratio: Decimal | None) -> str:
    return "-" if ratio is None else f"{100 * ratio:.2f} %"
