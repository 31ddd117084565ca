"""watch: an account as it moves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Protocol

import click

from budget.cli.common import Common, attributes_of, common
from budget.cli.output import is_terminal, note, safe
from budget.config import duration_us
from budget.errors import StoreUnavailable
from budget.limits import name_model
from budget.money import show_usd
from budget.window import SECOND, at_zone

if TYPE_CHECKING:
    from budget.cli.feed import Event, Feed
    from budget.engine import Budget

__all__ = ["watch"]

_LOOK = 1.0  # seconds after which it looks without being told: rates fall, leases end, a server's refusals tell nobody
_PAUSE = 0.1  # seconds from one reading to the next at least
_SHARE = 9  # and so many times what a reading took: at most a tenth of the time is spent on it


class View(Protocol):
    """Something that shows what happens."""

    past: int
    """Seconds before now that it begins with."""

    def show(self, feed: Feed, events: Sequence[Event]) -> None:
        """Show what has happened since the last time, and what is so now."""
        ...

    def trouble(self, text: str) -> None:
        """Say that the store cannot be read now."""
        ...


@click.command("watch")
@click.argument("words", nargs=-1, metavar="[attr=value ...]")
@click.option("--for", "length", metavar="10s", help="End by itself after so long. Default: when interrupted.")
@common
def watch(common: Common, words: tuple[str, ...], length: str | None) -> None:
    """Watch calls as they end, refusals, and what limits have left, until interrupted.

    A pipe gets a line per event instead of the screen, and with --json a JSON object per line (JSON Lines).

    \b
    Example:
      budget watch
      budget watch user=alice
      budget watch --json --for 1h >> calls.jsonl
    """
    seconds, given = None if length is None else duration_us(length, "--for") / SECOND, attributes_of(words)
    with _quietly(), common.open() as budget:
        attributes = name_model(budget.settings.book, given)  # as the ledger has it
        with _view(common, budget, attributes) as view:
            _follow(budget, attributes, view, seconds)


@contextmanager
def _quietly() -> Iterator[None]:
    """End without a word when interrupted or terminated, or when nobody reads on."""
    was = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # what is still in the buffer goes nowhere, or the interpreter would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        signal.signal(signal.SIGTERM, was)


@contextmanager
def _view(common: Common, budget: Budget, attributes: Mapping[str, str]) -> Iterator[View]:
    if common.json or not is_terminal() or os.environ.get("TERM") in ("dumb", "unknown"):
        yield _Lines(common.json)
        return
    from budget.cli.screen import Screen

    with Screen(budget, attributes) as screen:
        yield screen


def _follow(budget: Budget, attributes: Mapping[str, str], view: View, seconds: float | None) -> None:
    from budget.cli.feed import Feed

    engine, account = budget.engine, budget.settings.account
    end = None if seconds is None else monotonic() + seconds
    feed = Feed(engine.books, attributes, engine.verbs.now() - view.past * SECOND)
    told = engine.store.watch(account, engine.store.last(account))
    try:
        while True:
            begun = monotonic()
            try:
                view.show(feed, feed.read())
                sleep(_left(end, max(_PAUSE, _SHARE * (monotonic() - begun))))
                told.wait(_left(end, _LOOK))
            except StoreUnavailable as error:
                view.trouble(str(error))
                sleep(_left(end, _LOOK))
            if end is not None and monotonic() >= end:
                return
    finally:
        told.stop()
        told.wait(0.0)  # now it lets go of what it holds


def _left(end: float | None, most: float) -> float:
    return most if end is None else max(0.0, min(most, end - monotonic()))


class _Lines:
    """A line per event."""

    past = 0

    def __init__(self, as_json: bool):
        self._json = as_json
        self._begun = as_json
        self._trouble = False

    def show(self, feed: Feed, events: Sequence[Event]) -> None:
        self._trouble = False
        if not self._begun:  # what is written from here on is told
            click.echo("\t".join(("time", "event", "user", "agent", "model", "usd", "outcome")))
            self._begun = True
        for event in events:
            click.echo(json.dumps(event.to_dict()) if self._json else _line(event))

    def trouble(self, text: str) -> None:
        if not self._trouble:
            note(f"budget: {text}")
        self._trouble = True


def _line(event: Event) -> str:
    names = (event.scope.get("user"), event.scope.get("agent"), event.model)
    at = at_zone(event.at_us).strftime("%Y-%m-%dT%H:%M:%SZ")
    cells = (at, event.what, *(name or "-" for name in names), show_usd(event.nanos), event.outcome)
    return "\t".join(safe(cell) for cell in cells)
