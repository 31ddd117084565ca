"""sinks: run them in a process of their own, see how far they are, set where they go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from budget.cli.common import Commands, Common, common, interruption
from budget.cli.output import Column, note, print_json, say, table
from budget.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from budget.engine import Budget
    from budget.sinks.runner import Runner


@click.group("sinks", cls=Commands, default="status")
def sinks() -> None:
    """Tell files, databases and webhooks of every call, from the ledger; see how far they are.

    \b
    Example:
      budget sinks status
      budget sinks run --once --sink jsonl:calls.jsonl
    """


_GIVEN = click.option("--sink", "given", multiple=True, metavar="SINK",
                      help="A sink, such as jsonl:/path; several times. Default: as configured.")  # fmt: skip


@sinks.command("run")
@click.option("--once", is_flag=True, help="Hand over what the ledger has now, and end.")
@_GIVEN
@common
def run(common: Common, once: bool, given: tuple[str, ...]) -> None:
    """Run the sinks in this process, so that those that make calls need not.

    \b
    Example:
      budget sinks run --sink jsonl:/var/log/calls.jsonl
      budget sinks run --once
    """
    with common.open() as budget:
        runner = _runner(budget, given)
        if not runner.sinks:
            raise ConfigError("sinks: none is configured; give --sink, BUDGET_SINKS or sinks = [...] in budget.toml")
        if once:
            _once(common, runner)
            return
        stop = interruption()
        runner.start()
        note(f"running: {', '.join(sink.name for sink in runner.sinks)}; interrupt to end")
        stop.wait()
        runner.close()


def _once(common: Common, runner: Runner) -> None:
    places: dict[str, int] = {}
    errors: list[BudgetError] = []
    for sink in runner.sinks:
        try:
            places[sink.name] = runner.once(sink)
        except BudgetError as error:
            errors.append(error)
            note(f"budget: sink {sink.name}: {error}")
    if common.json and not errors:
        print_json(places)
    elif not common.json:
        for name, place in places.items():
            say(f"{name}: has all up to entry {place}")
    if errors:
        raise errors[0]


@sinks.command("status")
@_GIVEN
@common
def status(common: Common, given: tuple[str, ...]) -> None:
    """Show each sink's place in the ledger, how many entries it lags behind, and what holds it up.

    \b
    Example:
      budget sinks status --json
    """
    with common.open() as budget:
        rows = _rows(budget, given)
    if common.json:
        print_json({"sinks": rows})
        return
    columns = [
        Column("sink", shrink=True), Column("place", True), Column("lag", True), Column("missed", True, drop=2),
        Column("delivered at", drop=1), Column("error", shrink=True),
    ]  # fmt: skip
    cells = []
    for row in rows:
        at = (row["delivered_at"] or "-")[:19].replace("T", " ")
        cells.append((row["sink"], *(f"{row[name]:,}" for name in ("place", "lag", "missed")), at, row["error"] or "-"))
    table(columns, cells)


@sinks.command("reset")
@click.argument("name")
@click.option("--to", required=True, metavar="now|0|SEQ", help="The entry that the sink is taken to have as its last.")
@common
def reset(common: Common, name: str, to: str) -> None:
    """Set where a sink goes on: at the end of the ledger, at its beginning, or after an entry.

    \b
    Example:
      budget sinks reset jsonl --to 0
    """
    from budget.sinks.base import check_name
    from budget.sinks.places import Places, beside

    check_name(name)
    with common.open() as budget:
        books = budget.engine.books
        last = books.ledger().last(books.account)
        seq = last if to == "now" else int(to) if to.isdecimal() and to.isascii() else -1
        if not 0 <= seq <= last:
            raise ConfigError(f"--to: {to[:20]!r} is neither 'now' nor the number of an entry from 0 to {last}")
        was = Places(beside(books, "-sinks")).reset(name, books.account, seq)
    if common.json:
        print_json({"sink": name, "was": was.seq, "place": seq, "last": last})
    else:
        again = f"{was.seq - seq} entries come again" if seq < was.seq else f"{seq - was.seq} entries are left out"
        say(f"{name}: was at {was.seq}, goes on after {seq} of {last}; {again}")


def _runner(budget: Budget, given: Sequence[str]) -> Runner:
    from budget.alerts import Alerts
    from budget.config import configured_alerts, configured_sinks
    from budget.sinks.runner import Runner

    rules, to = configured_alerts()
    alerts = (Alerts(budget.engine, rules, to),) if rules and not given else ()
    return Runner(budget.engine, tuple(given) or (*configured_sinks(), *alerts))


def _rows(budget: Budget, given: Sequence[str]) -> list[dict[str, Any]]:
    from budget.sinks.places import Place

    runner, books = _runner(budget, given), budget.engine.books
    last = books.ledger().last(books.account)
    known = runner.places.known(books.account)
    names = [sink.name for sink in runner.sinks]
    places = {name: known.get(name, Place()) for name in (*names, *(known.keys() - set(names)))}
    return [{"sink": name, "configured": name in names, "last": last, "lag": max(0, last - place.seq),
             **place.to_dict()} for name, place in places.items()]  # fmt: skip
