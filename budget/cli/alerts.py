"""alerts: what is warned of and where, whether it arrives, and what was warned of so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from budget.cli.common import Commands, Common, common
from budget.cli.output import Column, note, print_json, say, table, when
from budget.window import at_zone

if TYPE_CHECKING:
    from budget.alerts import Alert, Alerts
    from budget.alerts.file import Delivered
    from budget.engine import Budget

_TO = click.option("--channel", "given", multiple=True, metavar="CHANNEL",
                   help="A channel, such as slack:VARIABLE; several times. Default: as configured.")  # fmt: skip


@click.group("alerts", cls=Commands, default="list")
def alerts() -> None:
    """Warn of what happens in the ledger: limits that run out, users and sessions that are out of line, prices.

    \b
    Example:
      budget alerts list
      budget alerts test --channel log
      budget alerts history
    """


@alerts.command("list")
@common
def list_alerts(common: Common) -> None:
    """List the rules and the channels that are configured.

    \b
    Example:
      budget alerts list --json
    """
    with common.open() as budget:
        made = _alerts(budget)
    rules, channels = [rule.text for rule in made.rules], [channel.name for channel in made.channels]
    if common.json:
        print_json({"rules": rules, "channels": channels})
        return
    table([Column("rule")], [(rule,) for rule in rules])
    say(f"told to: {', '.join(channels)}")
    if not rules:
        note('no alerts are configured; write alerts = ["default"] in budget.toml')


@alerts.command("test")
@_TO
@common
def test_channels(common: Common, given: tuple[str, ...]) -> int:
    """Send a sample through every channel, and say what came of it. Answers 1 if one did not take it.

    \b
    Example:
      budget alerts test
      budget alerts test --channel log --json
    """
    from budget.alerts.channels import make_channels
    from budget.config import configured_alerts
    from budget.sinks.base import SinkFailed

    found: list[tuple[str, str | None]] = []
    channels = make_channels(given or configured_alerts()[1])
    with common.open() as budget:
        sample = _sample(budget.settings.account)
    for channel in channels:
        try:
            channel.send(sample)
        except SinkFailed as error:
            found.append((channel.name, str(error)))
        else:
            found.append((channel.name, None))
    if common.json:
        rows = [{"channel": name, "delivered": error is None, "error": error} for name, error in found]
        print_json({"channels": rows})
    else:
        table([Column("channel"), Column("delivered"), Column("error")],
              [(name, "no" if error else "yes", error or "-") for name, error in found])  # fmt: skip
    return 1 if any(error for _, error in found) else 0


@alerts.command("history")
@click.option("--last", "count", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="How many.")
@common
def history(common: Common, count: int) -> None:
    """Show the latest warnings, the newest first, and whether each channel has taken them.

    \b
    Example:
      budget alerts history --last 10
      budget alerts history --json
    """
    with common.open() as budget:
        rows = _alerts(budget, configured=False).history(count)
    if common.json:
        print_json({"alerts": [{**alert.to_dict(), "told": [_told(each) for each in told]} for alert, told in rows]})
        return
    columns = [Column("at"), Column("warning", shrink=True, least=30), Column("told", shrink=True, drop=1)]
    table(columns, [(when(at_zone(alert.at_us)), alert.text, _summary(told)) for alert, told in rows])
    if not rows:
        note("there was no warning")


def _alerts(budget: Budget, *, configured: bool = True) -> Alerts:
    from budget.alerts import Alerts
    from budget.config import configured_alerts

    rules, channels = configured_alerts()
    return Alerts(budget.engine, rules, channels if configured else ())


def _sample(account: str) -> Alert:
    from budget.alerts.alert import Alert, alert_id

    now = time.time_ns() // 1000
    text = "this is a sample: budget can tell you something here"
    return Alert(alert_id(account, "test", "", now, 0), account, "test", "nobody", now, now, text, {"sample": True})


def _told(each: Delivered) -> dict[str, Any]:
    done = None if each.done_us is None else at_zone(each.done_us).isoformat()
    return {"channel": each.channel, "delivered_at": done, "tries": each.tries, "error": each.error}


def _summary(told: list[Delivered]) -> str:
    return ", ".join(f"{each.channel} {_state(each)}" for each in told) or "-"


def _state(each: Delivered) -> str:
    if each.done_us is not None:
        return "yes"
    return "not yet" if each.error is None else f"no ({each.error})"
