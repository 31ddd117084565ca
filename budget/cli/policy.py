"""What changes the policy, and what lists it: set, unset, adjust, limits, freeze, unfreeze."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from budget.admin import moment
from budget.backfill import takes_backfill
from budget.cli.common import Common, Words, attributes_of, common, read_words
from budget.cli.output import Cell, Column, amount, note, print_json, say, scope_text, table, when
from budget.errors import ConfigError
from budget.limits import MODES, Limit, name_model
from budget.money import format_usd
from budget.subject import Subject

if TYPE_CHECKING:
    from budget.engine import Budget

_MEANS: dict[str, Callable[[Limit], bool]] = {
    "tz": lambda limit: limit.window.calendar,
    "starts": lambda limit: limit.window.kind in ("day", "week", "month", "year"),
    "rollover": lambda limit: limit.unit == "usd" and limit.window.calendar,
    "warn": lambda limit: limit.window.kind != "request",
    "backfill": takes_backfill,
}
"""Which limits of a command an option is about; the others go without it."""
_WHAT = {
    "tz": "a calendar window (day, week, month ...)",
    "starts": "a window of a day, week, month or year",
    "rollover": "money and a calendar window",
    "warn": "a pool that fills: they are caps",
    "backfill": "a calendar, rolling or lifetime window",
}
_REASON = click.option("--reason", help="Why; the ledger keeps it, with who and when.")


@click.command("set")
@click.argument("words", nargs=-1, required=True, metavar="[attr=value ...] [per=attr] LIMIT ...")
@click.option("--tz", metavar="ZONE", help="The time zone of calendar windows, such as Europe/Berlin.")
@click.option(
    "--starts", metavar="WHEN",
    help="Where windows begin: an hour for days (06:00), a weekday (sunday), a day of the month (15), 04-01 for years.",
)  # fmt: skip
@click.option("--mode", type=click.Choice(MODES), default="enforce", help="shadow: never refuse, only say so.")
@click.option(
    "--until", metavar="WHEN",
    help="When they end, and what was set before holds again: 2h, 7d, or 2026-12-01T00:00 (in --tz, else UTC).",
)  # fmt: skip
@click.option("--backfill", is_flag=True, help="Count what the ledger holds since the present window began.")
@click.option("--rollover", metavar="AMOUNT", help="Take over what a window of money left unspent, up to that.")
@click.option("--warn", multiple=True, metavar="SHARE", help="Warn when a call takes it to that, such as 80%.")
@click.option(
    "--on-short", metavar="WAYS",
    help="What a call may do instead of being refused: clamp, fallback:MODEL, grow, wait:30s, ask; several with ';'.",
)  # fmt: skip
@_REASON
@common
def set_limits(common: Common, words: tuple[str, ...], reason: str | None, backfill: bool, **options: Any) -> None:
    """Set limits in the store.

    They hold for every process from its next call. A limit with the same selector, unit, window and mode is replaced;
    its pools keep what is spent. Nothing is set unless every limit of the command is valid. --tz and --starts mean the
    calendar windows among them, --rollover those of money, --backfill and --warn those that have pools.

    \b
    Example:
      budget set '$500/day'
      budget set per=user '$5/day' '2M tokens/hour' '$20/7d rolling' '8 concurrent'
      budget set user=alice '$5/day' '$0.25/request' --tz Europe/Berlin --starts 06:00 --reason 'pilot'
      budget set user=alice '$50/day' --until 2h --reason 'release day'
      budget set per=user '$3/day' --mode shadow --backfill --warn 80%
      budget set per=user '$2/day' --on-short 'clamp:200;fallback:claude-haiku-4-5'
    """
    wanted = _limits(read_words(words), options, backfill)
    with common.open() as budget:
        made = [budget.limits.set(text, reason=reason, **options) for text, options in wanted]
    _print_changed(common, "set", made)


@click.command("unset")
@click.argument("words", nargs=-1, required=True, metavar="[attr=value ...] [per=attr] [LIMIT ...]")
@click.option("--mode", type=click.Choice(MODES), help="Only those. Else a shadow limit goes if no other is meant.")
@_REASON
@common
def unset_limits(common: Common, words: tuple[str, ...], mode: str | None, reason: str | None) -> None:
    """Remove limits from the store, whatever their amount; without a limit, all of that selector.

    Of one that was set with --until, what was set before holds again. Limits of code and of budget.toml stay: they are
    not in the store.

    \b
    Example:
      budget unset user=alice '$5/day' --reason 'pilot is over'
      budget unset user=alice
      budget unset per=user '$3/day' --mode shadow
    """
    read = read_words(words)
    with common.open() as budget:
        if read.rules:
            found = _stored(budget, [Limit(read.text(rule)) for rule in read.rules], mode)
        else:
            subjects = (name_model(budget.settings.book, read.attributes), read.attributes)
            selectors = [tuple(sorted(subject.items())) for subject in subjects]
            stored = [x for x in budget.limits if x.source == "store" and x.per == read.per and mode in (None, x.mode)]
            found = next(filter(None, ([x for x in stored if x.selector == each] for each in selectors)), [])
            if not found:
                raise ConfigError(f"unset: no such limit in the store: {read.selector or 'everybody'}")
        removed = [gone for x in found for gone in budget.limits.unset(str(x), mode=x.mode, reason=reason)]
    _print_changed(common, "unset", removed)


@click.command("adjust")
@click.argument("words", nargs=-1, required=True, metavar="[attr=value ...] +AMOUNT")
@_REASON
@common
def adjust(common: Common, words: tuple[str, ...], reason: str | None) -> None:
    """Raise what a subject may still spend in the present window.

    It holds for all pools of money of just this subject (without one, of everybody together), in every process from its
    next call, and ends with the window. What is spent stays as it is.

    \b
    Example:
      budget adjust user=alice '+$10' --reason 'release day'
    """
    read = read_words(words)
    if read.per is not None or len(read.rules) != 1:
        raise ConfigError("adjust: give a subject and one amount, such as user=alice '+$10'")
    with common.open() as budget:
        raised = budget.adjust(read.rules[0], reason=reason, **read.attributes)
    if common.json:
        print_json({"adjusted": [pool.to_dict() for pool in raised]})
        return
    for pool in raised:
        until = f" until {when(pool.resets_at)}" if pool.resets_at else ""
        say(f"adjusted {pool.subject}: {pool.limit.rule}{_mode(pool.limit)}{until}, {amount(pool.available)} available")


@click.command("limits")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@common
def list_limits(common: Common, words: tuple[str, ...]) -> None:
    """List the limits that hold, or those that apply to calls with some attributes.

    \b
    Example:
      budget limits
      budget limits user=alice --json
    """
    attributes = attributes_of(words)
    with common.open() as budget:
        found = budget.limits.list(**attributes)
    if common.json:
        print_json([limit.to_dict() for limit in found])
        return
    columns = [
        Column("for", shrink=True), Column("limit"), Column("zone", drop=1), Column("options", drop=3),
        Column("set in", drop=2),
    ]  # fmt: skip
    table(columns, [_cells(limit) for limit in found])
    if not found:
        note("there are no limits; set one: budget set per=user '$5/day'")


@click.command("freeze")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("--all", "everybody", is_flag=True, help="Everybody.")
@_REASON
@common
def freeze(common: Common, words: tuple[str, ...], everybody: bool, reason: str | None) -> None:
    """Refuse every call of a subject from now on, in every process; what runs already is still booked.

    \b
    Example:
      budget freeze user=alice --reason 'runaway agent'
      budget freeze --all
    """
    subject = _subject(words, everybody)
    with common.open() as budget:
        budget.freeze(everybody=everybody, reason=reason, **subject)
    _print_frozen(common, subject, True)


@click.command("unfreeze")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("--all", "everybody", is_flag=True, help="The freeze of everybody; those of single subjects stay.")
@_REASON
@common
def unfreeze(common: Common, words: tuple[str, ...], everybody: bool, reason: str | None) -> None:
    """End a freeze.

    \b
    Example:
      budget unfreeze user=alice --reason 'fixed'
      budget unfreeze --all
    """
    subject = _subject(words, everybody)
    with common.open() as budget:
        budget.unfreeze(everybody=everybody, reason=reason, **subject)
    _print_frozen(common, subject, False)


def _limits(read: Words, options: Mapping[str, Any], backfill: bool) -> list[tuple[str, dict[str, Any]]]:
    """Read every limit of a command with the options that are its own, so that nothing is written if one is wrong."""
    if not read.rules:
        raise ConfigError("limit: give at least one, such as '$5/day'")
    found = [Limit(read.text(rule)) for rule in read.rules]
    if len({limit.identity for limit in found}) < len(found):
        raise ConfigError("limit: two of them have the same unit and window, so one would replace the other")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "until" in given:
        given["until"] = moment(given["until"], given.get("tz"), time.time_ns() // 1000)
    if backfill:
        given["backfill"] = True
    for name, means in _MEANS.items():
        if name in given and not any(means(limit) for limit in found):
            raise ConfigError(f"{name}: none of the limits has {_WHAT[name]}")
    rows = []
    for limit in found:
        own = {name: value for name, value in given.items() if name not in _MEANS or _MEANS[name](limit)}
        Limit(str(limit), **{name: value for name, value in own.items() if name != "backfill"})
        rows.append((str(limit), own))
    return rows


def _stored(budget: Budget, wanted: Sequence[Limit], mode: str | None) -> list[Limit]:
    """Return the store's limits of these identities, but for the mode: the enforcing ones, else the shadow ones.

    The model has the name of the book, else the one that is written.
    """
    stored = {known.identity: known for known in budget.limits if known.source == "store"}
    modes, found = MODES if mode is None else (mode,), []
    for limit in wanted:
        names = (limit.named(budget.settings.book), limit)
        known = [stored.get((*name.identity[:-1], each)) for name in names for each in modes]
        meant = next((each for each in known if each is not None), None)
        if meant is None:
            raise ConfigError(f"unset: the store has no limit {str(limit)!r}, whatever its amount")
        found.append(meant)
    return found


def _cells(limit: Limit) -> list[Cell]:
    zone, options = limit.tz if limit.window.calendar else "-", ", ".join(_options(limit)) or "-"
    return [limit.selector_text or "everybody", limit.rule + _mode(limit), zone, options, limit.source]


def _options(limit: Limit) -> Iterator[str]:
    """Say for a person what neither rule, mode nor zone do."""
    if limit.starts:
        yield f"from {limit.starts}"
    if limit.until is not None:
        yield f"until {when(limit.until)}"
    if limit.rollover:
        yield f"rolls over ${format_usd(limit.rollover)}"
    if limit.warn:
        yield f"warns at {', '.join(f'{percent}%' for percent in limit.warn)}"
    if limit.on_short:
        yield f"on short {limit.on_short}"


def _mode(limit: Limit) -> str:
    return "" if limit.mode == "enforce" else f" ({limit.mode})"


def _subject(words: Sequence[str], everybody: bool) -> dict[str, str]:
    subject = attributes_of(words)
    if everybody == bool(subject):
        raise ConfigError("freeze: name a subject (user=alice) or --all, and not both")
    return subject


def _print_changed(common: Common, verb: str, limits: Sequence[Limit]) -> None:
    if common.json:
        print_json({verb: [limit.to_dict() for limit in limits]})
        return
    for limit in limits:
        more = [*([limit.tz] if limit.tz != "UTC" else []), *_options(limit)]
        say(f"{verb} {limit}{_mode(limit)}" + (f" ({', '.join(more)})" if more else ""))


def _print_frozen(common: Common, subject: dict[str, str], frozen: bool) -> None:
    if common.json:
        print_json({"subject": str(Subject(subject)), "frozen": frozen})
    else:
        say(f"{'frozen' if frozen else 'unfrozen'}: {scope_text(subject) or 'everybody'}")
