"""The alerts of an engine: what reads the ledger for them, as a sink does, and hands each change to every rule."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING

from budget.alerts.alert import Alert
from budget.alerts.channels import make_channels
from budget.alerts.file import AlertFile, Delivered, Step
from budget.alerts.pools import touched
from budget.alerts.prices import Unpriced
from budget.alerts.rule import DAY, Look, Rule
from budget.alerts.rules import make_rules
from budget.alerts.telling import Teller
from budget.alerts.trouble import Trouble
from budget.errors import StoreUnavailable
from budget.ledger import Entry
from budget.outage.outbox import waiting
from budget.records.changes import Change, changes_of
from budget.sinks.base import Batch
from budget.sinks.places import beside
from budget.stores.base import PAGE
from budget.window import SECOND

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["Alerts"]

_HISTORY = 8 * DAY
"""How far back rules look that were not used before: seven days and the present one."""
_KEPT = 90 * DAY
_TICK = 30 * SECOND
_MODELS = 1000  # unpriced models that a process remembers to have told of
_PATIENCE = 3.0  # seconds that closing waits for a channel
_log = logging.getLogger("budget.alerts")


class Alerts:
    """The alerts of one account.

    It is a sink: a process that holds the sink's lock reads the ledger for all, and tells what comes of it.

    Args:
        engine: Of the account.
        rules: What to warn of, as text; see `budget.alerts`.
        channels: Where, as texts, functions or channels.

    Raises:
        ConfigError, ArgumentTypeError: A rule or a channel cannot be made.
    """

    name = "alerts"

    def __init__(self, engine: Engine, rules: object, channels: object):
        self.rules, self.channels = make_rules(rules), make_channels(channels)
        self._engine, self._account = engine, engine.settings.account
        self._file = AlertFile(beside(engine.books, "-alerts"))
        self._teller = Teller(self._file, self._account, self.channels)
        self._began = engine.verbs.now()
        self._ticked = self._failing_since = 0
        self._unknown: dict[str, Thread | None] = {}
        if any(isinstance(rule, Unpriced) for rule in self.rules):
            engine.on_unknown_model = self.unknown_model

    # What the sinks' runner calls.

    def resume(self, account: str, kept: int) -> int:
        """Return the last entry that the rules have seen, after those that are new have seen the last days."""
        with self._file.step(account) as step:
            place = step.place()
            behind = [rule for rule in self.rules if place is None or step.seen(rule.text) != place]
            for rule in behind:
                step.forget(rule.text)
        if place is None:
            place = self._first_place()
        self._remember([rule for rule in behind if rule.remembers], place)
        with self._file.step(account) as step:
            step.move([rule.text for rule in self.rules], place)
        return place

    def write(self, batch: Batch) -> None:
        """Show a batch to the rules; their sums, their warnings and the place are one transaction."""
        with self._file.step(self._account) as step:
            place = step.place() or 0
        changes = [(entry, change) for entry, change in batch.changes if entry.seq > place]
        pools = touched(self._engine, changes) if any(rule.looks_at_pools for rule in self.rules) else []
        with self._file.step(self._account) as step:
            if (step.place() or 0) != place:
                raise StoreUnavailable("another process has read on for the alerts; the same comes again")
            for rule, look in self._looks(step, self._engine.verbs.now()):
                for entry, change in changes:
                    rule.saw(look, entry, change)
                rule.pools(look, pools)
            step.move([rule.text for rule in self.rules], max(place, batch.last))
        self._failing_since = 0
        self._teller.tell()

    def tick(self, now_us: int) -> None:
        """Do what is due at this time: rules that look at it, warnings that were not taken yet."""
        if not self._ticked <= now_us < self._ticked + _TICK:
            self._ticked = now_us
            outbox = self._engine.outage.outbox
            held = waiting(outbox.folder) if outbox is not None else (0, 0)
            with self._file.step(self._account) as step:
                for rule, look in self._looks(step, now_us):
                    rule.tick(look)
                    if isinstance(rule, Trouble):
                        rule.waits(look, *held)
                    look.sums.prune(now_us - rule.keep_us)
                step.prune(now_us - _KEPT)
        self._teller.tell()

    def troubled(self, error: Exception) -> None:
        """Take note that the ledger cannot be read."""
        now = self._engine.verbs.now()
        self._failing_since = self._failing_since or now
        with self._file.step(self._account) as step:
            for rule, look in self._looks(step, now):
                if isinstance(rule, Trouble):
                    rule.unreadable(look, self._failing_since, str(error))

    def close(self) -> None:
        """Give what is under way a moment."""
        for thread in list(self._unknown.values()):
            if thread is not None:
                thread.join(_PATIENCE)
        self._teller.wait(_PATIENCE)

    # What else there is to it.

    def unknown_model(self, model: str) -> None:
        """Take note that a model without a price was refused: no entry of the ledger says so. Does not block."""
        if model in self._unknown or len(self._unknown) >= _MODELS:
            return
        self._unknown[model] = None
        thread = Thread(target=self._warn_of, args=(model,), name="budget-alerts-unpriced", daemon=True)
        thread.start()
        self._unknown[model] = thread

    def history(self, count: int = 50) -> list[tuple[Alert, list[Delivered]]]:
        """Return the latest warnings, the newest first, each with what came of telling it.

        Raises:
            StoreUnavailable: The file cannot be read.
        """
        with self._file.step(self._account) as step:
            return step.history(count)

    def _warn_of(self, model: str) -> None:
        now = self._engine.verbs.now()
        try:
            with self._file.step(self._account) as step:
                for rule, look in self._looks(step, now):
                    if isinstance(rule, Unpriced):
                        rule.warn(look, model, now, "its calls are refused")
        except StoreUnavailable as error:
            _log.warning("%s", error)

    def _looks(self, step: Step, now_us: int, history: bool = False) -> Iterator[tuple[Rule, Look]]:
        book, names = self._engine.settings.book, [channel.name for channel in self.channels]
        for rule in self.rules:
            yield rule, Look(step, rule, self._account, now_us, book, names, history)

    def _first_place(self) -> int:
        """Return the last entry of the time before these alerts were: it and all before it are history."""
        last = self._engine.books.ledger().last(self._account)
        first = next(iter(self._engine.books.entries(self._began)), None)
        return last if first is None else min(last, first.seq - 1)

    def _remember(self, rules: Sequence[Rule], upto: int) -> None:
        """Show the last days to rules that were not used before, or not lately."""
        if not rules or not upto:
            return
        entries = self._engine.books.entries(self._engine.verbs.now() - _HISTORY)
        pages = iter(lambda: list(islice(entries, PAGE)), [])
        for page in pages:
            seen = [(entry, change) for entry, change in changes_of(page) if change is not None and entry.seq <= upto]
            with self._file.step(self._account) as step:
                self._show(step, rules, seen)

    def _show(self, step: Step, rules: Sequence[Rule], changes: Iterable[tuple[Entry, Change]]) -> None:
        for rule, look in self._looks(step, self._engine.verbs.now(), history=True):
            if rule in rules:
                for entry, change in changes:
                    rule.saw(look, entry, change)
