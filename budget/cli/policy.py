"""What changes the policy, and what lists it: set, unset, limits, freeze, unfreeze."""

from __future__ import annotations

from collections.abc import Sequence

import click

from budget.cli.common import Common, Words, attributes_of, common, read_words
from budget.cli.output import Column, note, print_json, say, scope_text, table
from budget.errors import ConfigError
from budget.limits import Limit
from budget.subject import Subject

_REASON = click.option("--reason", help="Why; the ledger keeps it, with who and when.")


@click.command("set")
@click.argument("words", nargs=-1, required=True, metavar="[attr=value ...] [per=attr] LIMIT ...")
@click.option("--tz", metavar="ZONE", help="The time zone of calendar windows, such as Europe/Berlin.")
@_REASON
@common
def set_limits(common: Common, words: tuple[str, ...], tz: str | None, reason: str | None) -> None:
    """Set limits in the store.

    They hold for every process from its next call. A limit with the same selector, unit and window is replaced; its
    pools keep what is spent. Nothing is set unless every limit of the command is valid.

    \b
    Example:
      budget set '$500/day'
      budget set per=user '$5/day' '2M tokens/hour' '8 concurrent'
      budget set user=alice '$5/day' '$0.25/request' --tz Europe/Berlin --reason 'pilot'
    """
    wanted = _limits(read_words(words), tz)
    with common.open() as budget:
        made = [budget.limits.set(str(x), tz=tz if x.window.calendar else None, reason=reason) for x in wanted]
    _print_changed(common, "set", made)


@click.command("unset")
@click.argument("words", nargs=-1, required=True, metavar="[attr=value ...] [per=attr] [LIMIT ...]")
@_REASON
@common
def unset_limits(common: Common, words: tuple[str, ...], reason: str | None) -> None:
    """Remove limits from the store, whatever their amount; without a limit, all of that selector.

    Limits of code and of budget.toml stay: they are not in the store.

    \b
    Example:
      budget unset user=alice '$5/day' --reason 'pilot is over'
      budget unset user=alice
    """
    read = read_words(words)
    with common.open() as budget:
        if read.rules:
            wanted = _limits(read, None)
            stored = {known.identity for known in budget.limits if known.source == "store"}
            for limit in wanted:
                if limit.identity not in stored:
                    raise ConfigError(f"unset: the store has no limit {str(limit)!r}, whatever its amount")
            removed = [gone for limit in wanted for gone in budget.limits.unset(str(limit), reason=reason)]
        else:
            removed = budget.limits.unset(per=read.per, reason=reason, **read.attributes)
    _print_changed(common, "unset", removed)


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
    columns = [Column("for", shrink=True), Column("limit"), Column("zone", drop=1), Column("set in", drop=2)]
    rows = [(x.selector_text or "everybody", x.rule, x.tz if x.window.calendar else "-", x.source) for x in found]
    table(columns, rows)
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


def _limits(read: Words, tz: str | None) -> list[Limit]:
    """Read every limit of a command, so that a wrong one is found before anything is written."""
    if not read.rules:
        raise ConfigError("limit: give at least one, such as '$5/day'")
    found = [Limit(read.text(rule)) for rule in read.rules]
    if tz is not None and not any(limit.window.calendar for limit in found):
        raise ConfigError("tz: none of the limits has a calendar window (day, week, month ...)")
    if len({limit.identity for limit in found}) < len(found):
        raise ConfigError("limit: two of them have the same unit and window, so one would replace the other")
    return [Limit(str(limit), tz=tz) if limit.window.calendar else limit for limit in found]


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
        say(f"{verb} {limit}" + (f" ({limit.tz})" if limit.tz != "UTC" else ""))


def _print_frozen(common: Common, subject: dict[str, str], frozen: bool) -> None:
    if common.json:
        print_json({"subject": str(Subject(subject)), "frozen": frozen})
    else:
        say(f"{'frozen' if frozen else 'unfrozen'}: {scope_text(subject) or 'everybody'}")
