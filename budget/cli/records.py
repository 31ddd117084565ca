"""What reads the records: report, reservations."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from budget.cli.common import Commands, Common, attributes_of, common
from budget.cli.output import Column, amount, note, print_json, say, scope_text, table, when
from budget.money import format_usd
from budget.window import SECOND, at_zone

if TYPE_CHECKING:
    from budget.commands import Reservation
    from budget.engine import Budget
    from budget.report import EstimateRow

__all__ = ["sweep_all"]


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


@click.group("reservations", cls=Commands, default="list")
def reservations() -> None:
    """List open reservations, or charge those that are due.

    \b
    Example:
      budget reservations
      budget reservations sweep
    """


@reservations.command("list")
@common
def list_reservations(common: Common) -> None:
    """List the open reservations, the oldest first.

    \b
    Example:
      budget reservations list --json
    """
    with common.open() as budget:
        found = budget.engine.store.reservations(budget.settings.account)
    if common.json:
        print_json([_reservation(known) for known in found])
        return
    now = time.time_ns() // 1000
    columns = [
        Column("id", shrink=True), Column("age", True), Column("lease ends"), Column("reserved", True),
        Column("scope", shrink=True),
    ]  # fmt: skip
    rows = [(r.id, _age(now - r.made), when(at_zone(r.lease_end)), amount(r.usd), scope_text(r.scope)) for r in found]
    table(columns, rows)


@reservations.command("sweep")
@common
def sweep(common: Common) -> None:
    """Charge the reservations whose lease has ended: what nobody reconciled is presumed spent.

    \b
    Example:
      budget reservations sweep
    """
    with common.open() as budget:
        count = sweep_all(budget)
    print_json({"expired": count}) if common.json else say(f"expired: {count}")


def sweep_all(budget: Budget) -> int:
    """Expire everything that is due, in as many commands as it takes; return how many."""
    from budget.commands import Sweep

    total = 0
    while count := budget.engine.do(Sweep()).count:
        total += count
    return total


def _reservation(known: Reservation) -> dict[str, Any]:
    usd, tokens, input_tokens, output_tokens, requests = known.amounts
    return {
        "id": known.id,
        "made": at_zone(known.made).isoformat(),
        "lease_end": at_zone(known.lease_end).isoformat(),
        "usd": format_usd(usd or 0),
        "tokens": tokens,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "requests": requests,
        "scope": dict(known.scope),
        "parent": known.parent,
    }


def _age(us: int) -> str:
    seconds = max(0, us) // SECOND
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
