"""report, top, suggest: what was spent, on what, and what would have held it."""

from __future__ import annotations

from typing import Any

import click

from budget.cli.answers import Answer, answers
from budget.cli.charts import check_plot, print_csv, write_plot
from budget.cli.common import Common, attributes_of, common
from budget.cli.output import note, print_json
from budget.errors import ConfigError

__all__ = ["report_costs", "suggest", "top"]

_BY = "user, session, agent, project, run, model, provider, day or hour (UTC), any attribute, or several: user,model."
_KINDS = {
    "cache": "What prompt caches saved and could save, and why calls missed; by model if not said otherwise.",
    "estimates": "How good the estimates were: error, over-reservation, overruns.",
    "limits": "Where limits are going: how fast, what at the end of the window, when nothing is left.",
    "rate": "What each of the last hours cost (24 if not said otherwise), idle ones too.",
    "refusals": "What limits refused, nearly refused (less than a tenth left), or would have in shadow mode.",
}
_TAKEN = {
    "costs": {"by", "since", "until", "where", "top", "above", "quota", "times_mean", "quick"},
    "cache": {"by", "since", "until", "where", "top"},
    "estimates": {"by", "since"},
    "limits": {"where"},
    "rate": {"since", "until", "where"},
    "refusals": {"since", "until", "where"},
    "requests_above": {"since", "until", "where", "top", "requests_above"},
}
"""Which options each kind of answer takes."""
_words = click.argument("words", nargs=-1, metavar="[attr=value ...]")
_since = click.option("--since", metavar="7d", help="How far back: 7d, 12h, 30m. Default: everything.")
_until = click.option("--until", metavar="1d", help="Up to when, as long ago. Default: now.")
_csv = click.option("--csv", "as_csv", is_flag=True, help="Print CSV in which no cell is a formula.")
_plot = click.option("--plot", metavar="FILE.svg", help="Draw it into a file besides, which must not exist.")


def _kinds(function: Any) -> Any:
    for kind, text in reversed(_KINDS.items()):
        function = click.option(f"--{kind}", is_flag=True, help=text)(function)
    return function


@click.command("report")
@_words
@click.option("--by", metavar="WHAT", help=f"{_BY}  [default: user]")
@_since
@_until
@click.option("--top", type=click.IntRange(1), metavar="N", help="How many rows at most.")
@click.option("--above", metavar="AMOUNT", help="Only rows that cost more, such as '$1'.")
@click.option("--quota", metavar="AMOUNT/day", help="Only days (or hours) of a row that cost more, such as '$10/day'.")
@click.option("--times-mean", metavar="N", help="Only rows at N times the mean of all rows, or more.")
@click.option("--requests-above", metavar="N", help="Single calls that cost more than N times the mean of all.")
@click.option("--quick", is_flag=True, help="Sums alone, at once also of millions of calls: no quantiles.")
@_kinds
@_csv
@_plot
@common
def report_costs(common: Common, words: tuple[str, ...], as_csv: bool, plot: str | None, **given: Any) -> None:
    """Report what calls cost, the dearest first, with quantiles over the cost of each call.

    \b
    Example:
      budget report --by model --since 7d
      budget report --by session --above '$1' --since 24h
      budget report --by user --quota '$10/day'
      budget report agent=support --by day --csv
      budget report --cache --by agent
    """
    kinds = [name for name in _KINDS if given.pop(name)]
    kinds += ["requests_above"] if given["requests_above"] is not None else []
    if len(kinds) > 1:
        raise ConfigError(f"report: {_option(kinds[0])} and {_option(kinds[1])} are two reports")
    kind = kinds[0] if kinds else "costs"
    asked = {name: value for name, value in given.items() if value not in (None, False)}
    asked |= {"where": attributes_of(words)} if words else {}
    wrong = next((name for name in asked if name not in _TAKEN[kind]), None)
    if wrong is not None:
        what = "attributes" if wrong == "where" else _option(wrong)
        raise ConfigError(f"report: {_option(kind)} does not take {what}")
    _answer(common, answers(kind), asked, as_csv, plot)


@click.command("top")
@_words
@click.option("--by", default="user", show_default=True, metavar="WHAT", help=_BY)
@click.option("-n", "top", type=click.IntRange(1), default=10, show_default=True, help="How many rows.")
@click.option("--since", metavar="7d", default="7d", show_default=True, help="How far back: 7d, 12h, 30m.")
@_csv
@_plot
@common
def top(
    common: Common, words: tuple[str, ...], by: str, top: int, since: str, as_csv: bool, plot: str | None
) -> None:  # fmt: skip
    """Show who costs most, with their share and the last days.

    \b
    Example:
      budget top
      budget top --by agent -n 5 --since 30d
    """
    asked = {"by": by, "top": top, "since": since, "where": attributes_of(words), "quick": True}
    _answer(common, answers("top"), asked, as_csv, plot, "top")


@click.command("suggest")
@_words
@_since
@_until
@click.option("--at", type=click.Choice(["p95", "p99", "max"]), default="p99", show_default=True,
              help="Which of the limits are printed as commands.")  # fmt: skip
@_csv
@common
def suggest(
    common: Common, words: tuple[str, ...], since: str | None, until: str | None, at: str, as_csv: bool
) -> None:  # fmt: skip
    """Suggest limits from what was observed, with what each would have refused of the same calls.

    \b
    Example:
      budget suggest --since 30d
      budget suggest agent=support --at p95
    """
    asked = {"since": since, "until": until, "where": attributes_of(words)}
    _answer(common, answers("suggest", at), asked, as_csv, None, "suggestions")


def _answer(
    common: Common, answer: Answer, asked: dict[str, Any], as_csv: bool, plot: str | None, key: str | None = None
) -> None:  # fmt: skip
    """Ask, and print the answer in one of its forms; as JSON it is a list, or an object that has it under a key."""
    if common.json and as_csv:
        raise ConfigError("--json and --csv: choose one")
    if plot is not None and answer.plot is None:
        raise ConfigError("--plot: there is nothing to draw of this report")
    if plot is not None:
        check_plot(plot)
    with common.open() as budget:
        rows = answer.ask(budget, **asked)
        if plot is not None and answer.plot is not None:
            write_plot(plot, answer.plot(rows, asked))
        if not common.json and not as_csv:
            answer.show(budget, rows, asked)
    if common.json:
        print_json(rows.to_dicts() if key is None else {key: rows.to_dicts()})
    elif as_csv:
        print_csv(rows)
    if not rows and not common.json:
        note(answer.nothing)


def _option(name: str) -> str:
    return "a report of costs" if name == "costs" else f"--{name.replace('_', '-')}"
