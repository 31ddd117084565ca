"""What the commands share: groups that load lazily, the options that each command takes, and `attr=value` words."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from budget.errors import ConfigError
from budget.subject import read_value

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["Commands", "Common", "Words", "assigned", "attributes_of", "common", "interruption", "read_words"]

_VALUED = ("--store", "--account")
_FLAGS = ("--json",)
_TAKEN = frozenset({"self", "limit", "reason", "since", "everybody"})


@dataclass(frozen=True, slots=True)
class Common:
    """The options that every command takes."""

    store: str | None
    account: str | None
    json: bool

    def open(self) -> Budget:
        """Make the engine they name, with the configuration for the rest, but no sinks at work. Use it in a `with`."""
        from budget.engine import Budget

        budget = Budget(self.store, account=self.account, sinks=(), alerts=())
        if budget.engine.books.drains:
            _find_records(budget)
        return budget


def _find_records(budget: Budget) -> None:
    """Take the records store of the command line, if a server was drained into it and none is configured."""
    from budget.config import default_records
    from budget.stores.records import Records

    budget.engine.books.adopt(Records(default_records(budget.engine.store.url)))


_OPTIONS = (
    click.option("--store", metavar="URL", help="The store, such as sqlite:///budget.db. Default: as configured."),
    click.option("--account", metavar="NAME", help="The account in the store. Default: as configured."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document."),
)


def common(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--store`, `--account` and `--json`; the function gets them as a `Common`, before its own arguments."""

    @wraps(function)
    def call(store: str | None, account: str | None, as_json: bool, **given: Any) -> Any:
        return function(Common(store, account, as_json), **given)

    for option in reversed(_OPTIONS):
        option(call)
    return call


class Commands(click.Group):
    """A group of commands.

    The common options may also stand before the command. What is listed in `lazy` (name: module, help) is imported when
    it is used; `default` is the command of a group that is called without one.
    """

    def __init__(
        self, *args: Any, lazy: Mapping[str, tuple[str, str]] | None = None, default: str | None = None, **options: Any
    ):
        super().__init__(*args, **options)
        self._lazy, self._default = dict(lazy or {}), default

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of the help."""
        return [*self._lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module if need be."""
        if cmd_name not in self._lazy:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"budget.cli.{self._lazy[cmd_name][0]}")
        commands = (value for value in vars(module).values() if isinstance(value, click.Command))
        return next(command for command in commands if command.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        eager = [(name, command.get_short_help_str(60)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._lazy.items()] + eager)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say which options every command has."""
        with formatter.section("Options of every command"):
            formatter.write_dl([("--store URL", "The store."), ("--account NAME", "The account in it."),
                                ("--json", "Print one JSON document.")])  # fmt: skip

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Move common options from before the command to behind it, and add the default command."""
        count = 0
        while count < len(args) and args[count].partition("=")[0] in (*_VALUED, *_FLAGS):
            count += 2 if args[count] in _VALUED else 1
        moved, rest = args[:count], args[count:]
        bare = not rest or "=" in rest[0] or (rest[0].startswith("-") and rest[0] not in ctx.help_option_names)
        if bare and self._default is not None:
            rest = [self._default, *rest]
        if not rest and not ctx.resilient_parsing:
            if moved:
                ctx.fail("Missing command.")
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, [*rest[:1], *moved, *rest[1:]])


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a command line: attributes, the attribute after `per=`, and the rest, which are rules."""

    attributes: dict[str, str]
    per: str | None
    rules: tuple[str, ...]

    @property
    def selector(self) -> str:
        """The selector in the text form of limits."""
        parts = [f"{name}={value}" for name, value in self.attributes.items()]
        return " ".join(map(shlex.quote, [*parts, *([f"per={self.per}"] if self.per is not None else [])]))

    def text(self, rule: str) -> str:
        """Return one of the rules as the text of a limit."""
        return f"{self.selector} {rule}".lstrip()


def read_words(words: Sequence[str]) -> Words:
    """Read words such as `user=alice`, `per=user` and `$5/day`.

    Raises:
        ConfigError: A name or a value cannot be that of an attribute, or stands twice.
    """
    from budget.limits import check_attributes

    found: dict[str, str] = {}
    rules = [word for word in words if "=" not in word]
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            continue
        if name in found:
            raise ConfigError(f"{name}: is given twice")
        if _is_limit(word):
            raise ConfigError(f"{word!r}: give the selector and the limit as words of their own: user=alice '$5/day'")
        found[name] = read_value(value)
    per = found.pop("per", None)
    check_attributes(found)
    if taken := sorted(found.keys() & _TAKEN):
        raise ConfigError(f"attribute: {taken[0]!r} has another meaning here; use another name")
    return Words(found, per, tuple(rules))


def interruption() -> Event:
    """Return what is set by an interrupt or a SIGTERM from now on, which end nothing by themselves any more."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def assigned(texts: Sequence[str], option: str) -> dict[str, str]:
    """Read options such as `FIELD=VALUE`.

    Raises:
        ConfigError: One is not that, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name in pairs:
            wrong = "is given twice" if name in pairs else "is not FIELD=VALUE"
            raise ConfigError(f"{option}: {text[:80]!r} {wrong}")
        pairs[name] = value
    return pairs


def attributes_of(words: Sequence[str]) -> dict[str, str]:
    """Read words that are attributes only.

    Raises:
        ConfigError: One is not `attr=value`.
    """
    read = read_words(words)
    for wrong in (*read.rules, *([f"per={read.per}"] if read.per is not None else [])):
        raise ConfigError(f"{wrong[:80]!r}: only attributes such as user=alice are taken here")
    return read.attributes


def _is_limit(word: str) -> bool:
    """Whether a word with `=` is a whole limit, which would otherwise be taken for an attribute with an odd value."""
    from budget.limits import Limit

    try:
        Limit(word)
    except ConfigError:
        return False
    return True
