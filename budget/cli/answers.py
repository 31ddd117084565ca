"""The answers of `report`, `top` and `suggest`: how each is asked for, shown as a table, and drawn.

A pipe gets every column, exact amounts and no bars. A terminal gets bars, amounts to the cent (small ones to three
digits), and no column that has nothing in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from budget.cli.charts import bar, percent, plot_costs, plot_rates, spark
from budget.cli.output import Cell, Column, amount, is_terminal, note, say, table

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.report import CacheRow, CallRow, EstimateRow, OutlookRow, RateRow, RefusalRow, Row, Suggestion

__all__ = ["Answer", "answers"]

_NO_CALLS = "there are no calls in the ledger"
_DAYS = 14
_EMPTY = ("-", "0", "$0.00")
Asked = Mapping[str, Any]
Shown = tuple[Column, Callable[[Any], Cell]]
"""A column, and its cell in a row."""


class Answer(NamedTuple):
    """How a question is asked, how its rows are shown and drawn (None: they are not), and what is said of none."""

    ask: Callable[..., Any]
    show: Callable[[Budget, Any, Asked], None]
    nothing: str = _NO_CALLS
    plot: Callable[[Any, Asked], str] | None = None


def answers(kind: str, at: str = "") -> Answer:
    """Return how a kind of report is answered; `at`: of which suggestions the commands are printed."""
    return {
        "costs": Answer(lambda budget, **asked: budget.report(**asked), _show_costs, plot=plot_costs),
        "top": Answer(lambda budget, **asked: budget.report(**asked), _show_costs, plot=plot_costs),
        "cache": Answer(lambda budget, **asked: budget.questions.cache(**asked), _show_cache),
        "estimates": Answer(
            lambda budget, by="user", **asked: budget.questions.estimates(by, **asked), _show_estimates,
            "there are no calls in the ledger that have an estimate with a bound, and a usage",
        ),
        "limits": Answer(
            lambda budget, where=None: budget.questions.outlook(**(where or {})), _show_outlook,
            "there are no pools yet; set a limit: budget set per=user '$5/day'",
        ),
        "rate": Answer(lambda budget, **asked: budget.questions.rates(**asked), _show_rates, plot=plot_rates),
        "refusals": Answer(
            lambda budget, **asked: budget.questions.refusals(**asked), _show_refusals, "no limit refused anything",
        ),
        "requests_above": Answer(_ask_calls, _show_calls, "no call cost so many times the mean"),
        "suggest": Answer(
            lambda budget, **asked: budget.questions.suggest(**asked), partial(_show_suggestions, at=at),
        ),
    }[kind]  # fmt: skip


def _ask_calls(budget: Budget, requests_above: str, **asked: Any) -> Any:
    return budget.questions.dear_calls(requests_above, **asked)


def _print(columns: Sequence[Shown], rows: Sequence[Any]) -> None:
    cells = [[cell(row) for _, cell in columns] for row in rows]
    kept = list(range(len(columns)))
    if is_terminal():
        kept = [i for i in kept if not rows or not columns[i][0].drop or any(line[i] not in _EMPTY for line in cells)]
    table([columns[i][0] for i in kept], [[line[i] for i in kept] for line in cells])


def _keys(rows: Sequence[Any], by: object) -> list[Shown]:
    names = list(rows[0].keys) if rows else [name.strip() for name in str(by).split(",")]

    def cell(name: str) -> Callable[[Any], Cell]:
        return lambda row: "(none)" if row.keys[name] is None else str(row.keys[name])

    return [(Column(name, shrink=True), cell(name)) for name in names]


def _field(title: str, name: str, drop: int = 0) -> Shown:
    return Column(title, True, drop=drop), lambda row: _brief(getattr(row, name))


def _brief(value: Decimal | int | None) -> str:
    if not isinstance(value, Decimal) or not value or not is_terminal():
        return amount(value)
    places = 2 if abs(value) >= 1 else 2 - value.adjusted()
    return f"-${-value:,.{places}f}" if value < 0 else f"${value:,.{places}f}"


def _time(title: str, name: str, drop: int = 0) -> Shown:
    return Column(title, drop=drop), lambda row: _when(getattr(row, name))


def _when(moment: datetime | None) -> str:
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M")


# Costs.


def _show_costs(budget: Budget, rows: Sequence[Row], asked: Asked) -> None:
    quick = bool(asked.get("quick"))
    by = asked.get("by", "user")
    lasting = 0 if asked.get("above") or {"session", "run"} & set(str(by).split(",")) else 9
    columns = [*_keys(rows, by), _field("calls", "calls"), _field("cost", "usd"), *_drawn(budget, rows, asked),
               _field("mean", "mean_usd", 4)]  # fmt: skip
    if not quick:
        columns += [_field("p50", "p50_usd", 6), _field("p95", "p95_usd", 3), _field("p99", "p99_usd", 7)]
    columns += [
        _field("input", "input_tokens", 11), _field("output", "output_tokens", 12),
        _field("cache read", "cache_read_tokens", 13), _field("cache write", "cache_write_tokens", 14),
        _field("refused", "refused", 2),
    ]  # fmt: skip
    if not quick:
        columns += [_time("first", "first", lasting or 1), _time("last", "last", lasting or 1)]
        columns += [_field(f"p{n} ms", f"p{n}_latency_ms", 15 + i) for i, n in enumerate((95, 50, 99))]
    _print(columns, rows)


def _drawn(budget: Budget, rows: Sequence[Row], asked: Asked) -> list[Shown]:
    """Return the columns that are drawn: the share of all, and the last days."""
    if not is_terminal() or not rows:
        return []
    period = {name: asked[name] for name in ("since", "until", "where") if name in asked}
    [(calls, whole)] = [(row.calls, row.usd) for row in budget.report([], quick=True, **period)]
    note(f"all: {calls:,} calls, {_brief(whole)}")
    shares: list[Shown] = [
        (Column("share", drop=5), lambda row: (bar(row.usd, whole), "green")),
        (Column("%", True, drop=1), lambda row: f"{100 * row.usd / whole:.1f}" if whole else "-"),
    ]
    if len(rows[0].keys) != 1 or asked.get("where"):
        return shares
    [name] = rows[0].keys
    until = asked.get("until")
    lines = budget.questions.trends(name, [row.keys[name] for row in rows], until=until, days=_DAYS)
    drawn = {row.keys[name]: spark(line) for row, line in zip(rows, lines, strict=False)}
    if not drawn:
        return shares
    return [*shares, (Column(f"{_DAYS} days", drop=8), lambda row: (drawn[row.keys[name]], "cyan"))]


def _show_calls(budget: Budget, rows: Sequence[CallRow], asked: Asked) -> None:
    def key(name: str, drop: int) -> Shown:
        return Column(name, shrink=True, drop=drop), lambda row: row.keys[name] or "-"

    _print([
        (Column("at"), lambda row: row.at.strftime("%Y-%m-%d %H:%M:%S")), _field("cost", "usd"),
        (Column("x mean", True), lambda row: "-" if row.times_mean is None else f"{row.times_mean:.1f}"),
        key("user", 0), key("session", 3), key("agent", 2), key("model", 1), _field("input", "input_tokens", 4),
        _field("output", "output_tokens", 5), (Column("call", shrink=True, drop=6), lambda row: row.id),
    ], rows)  # fmt: skip


def _show_rates(budget: Budget, rows: Sequence[RateRow], asked: Asked) -> None:
    most = max((row.usd for row in rows), default=Decimal(0))
    drawn: list[Shown] = [(Column(""), lambda row: (bar(row.usd, most), "green"))] if is_terminal() else []
    _print([_time("from", "since"), _time("to", "until"), _field("calls", "calls"), _field("per hour", "usd"), *drawn],
           rows)  # fmt: skip


# Caches, estimates, limits.


def _show_cache(budget: Budget, rows: Sequence[CacheRow], asked: Asked) -> None:
    drawn: list[Shown] = []
    if is_terminal():
        drawn = [(Column("of input", drop=4), lambda row: (bar(row.hit_ratio or 0, 1), "green"))]
    _print([
        *_keys(rows, asked.get("by", "model")), _field("calls", "calls", 5),
        (Column("hits", True), lambda row: percent(row.hit_ratio, 1)), *drawn,
        (Column("misses", True, drop=6), lambda row: percent(row.miss_ratio, 1)), _field("cost", "usd"),
        _field("without", "would_cost_usd", 3), _field("saved", "saved_usd"), _field("at most more", "more_usd", 2),
        _field("input", "input_tokens", 8), _field("read", "cache_read_tokens", 9),
        _field("written", "cache_write_tokens", 10),
        (Column("most missed", drop=1), _reason),
        (Column("why", drop=11), lambda row: ", ".join(f"{why}: {n:,}" for why, n in row.misses.items()) or "-"),
    ], rows)  # fmt: skip
    unknown = sum(row.unknown for row in rows)
    if unknown:
        note(f"the rates of {unknown:,} calls are not known; they are not in what was saved")
    if "prefix" in str(asked.get("by", "")).split(",") and all(row.keys["prefix"] is None for row in rows):
        note("the ledger keeps no prompts and no fingerprints of them: give calls an attribute, prefix='support-3'")


def _reason(row: CacheRow) -> str:
    """Name the likely reason of most misses."""
    why = max(row.misses, key=lambda reason: row.misses[reason], default=None)
    return "-" if why is None else f"{why} ({100 * row.misses[why] // sum(row.misses.values())} %)"


def _show_estimates(budget: Budget, rows: Sequence[EstimateRow], asked: Asked) -> None:
    def share(title: str, name: str, drop: int = 0) -> Shown:
        return Column(title, True, drop=drop), lambda row: percent(getattr(row, name))

    _print([
        (Column(asked.get("by", "user"), shrink=True), lambda row: "(none)" if row.by is None else row.by),
        _field("calls", "calls"), _field("cost", "usd"), _field("expected", "usd_expected", 1),
        _field("reserved", "usd_reserved", 2), share("bias", "bias"), share("p50 error", "p50_error", 4),
        share("p95 error", "p95_error", 3),
        (Column("reserved/cost", True),
         lambda row: "-" if row.over_reservation is None else f"{row.over_reservation:.2f}"),
        _field("overruns", "overruns"), share("share", "overrun_share", 5),
    ], rows)  # fmt: skip


def _show_outlook(budget: Budget, rows: Sequence[OutlookRow], asked: Asked) -> None:
    drawn: list[Shown] = [(Column("will be", drop=3), _will_be)] if is_terminal() else []
    _print([
        (Column("subject", shrink=True), lambda row: row.subject),
        (Column("limit", shrink=True, least=16), lambda row: row.limit), *drawn,
        _field("spent", "spent"), _field("reserved", "reserved", 6), _field("per hour", "per_hour", 2),
        _field("by end", "projected", 1),
        (Column("runs out"), lambda row: (_soon(row.runs_out), "bold red") if row.runs_out else "-"),
        _time("resets", "resets_at", 5),
    ], rows)  # fmt: skip


def _soon(moment: datetime) -> str:
    return _when(moment)[5:] if is_terminal() else _when(moment)


def _will_be(row: OutlookRow) -> Cell:
    used = row.spent + row.reserved if row.projected is None else row.projected
    style = "red" if row.runs_out is not None else "yellow" if used * 10 >= row.amount * 8 else "green"
    return bar(used, row.amount), style


def _show_refusals(budget: Budget, rows: Sequence[RefusalRow], asked: Asked) -> None:
    _print([
        (Column("limit", shrink=True, least=24), lambda row: row.limit), _field("refused", "refused"),
        _field("would refuse", "would_refuse"), _field("nearly", "near"), _field("users", "users", 3),
        _time("first", "first", 2), _time("last", "last", 1),
    ], rows)  # fmt: skip


def _show_suggestions(budget: Budget, rows: Sequence[Suggestion], asked: Asked, at: str) -> None:
    names = {95: "p95", 99: "p99", 100: "max"}
    columns = [
        (Column("limit", shrink=True, least=24), lambda row: row.limit), (Column("at"), lambda row: names[row.percent]),
        _field("of", "of"), _field("refuses", "refused_calls"), _field("worth", "refused_usd"),
        _field("of users", "refused_users"),
    ]  # fmt: skip
    if not is_terminal():
        _print([*columns, (Column("command"), lambda row: row.command)], rows)
        return
    told = {row.limit: ", ".join(names[each.percent] for each in rows if each.limit == row.limit) for row in rows}
    columns[1] = (Column("at"), lambda row: told[row.limit])
    _print(columns, list({row.limit: row for row in rows}.values()))
    if rows:
        note(f"to set those at {at}:")
    for row in rows:
        if names[row.percent] == at:
            say(row.command)
