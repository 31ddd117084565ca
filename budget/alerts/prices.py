"""Rules about prices: a model that has none, and prices that nobody has looked at for long."""

from __future__ import annotations

import re

from budget.alerts.rule import DAY, Look, Rule
from budget.errors import ConfigError, UnknownModel
from budget.ledger import Entry
from budget.prices.stale import MAX_AGE_DAYS, too_old
from budget.records.changes import Change, Ended
from budget.window import at_zone

__all__ = ["Stale", "Unpriced"]

_SHOWN = 5


class Unpriced(Rule):
    """A model without a price was asked for and refused, or was used, with `on_unpriced="allow"`, and counted as free:
    "unpriced". Once per model and day."""

    form = "unpriced"
    pattern = re.compile("unpriced")
    remembers = False

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        unpriced = entry.detail.get("unpriced") if isinstance(change, Ended) else None
        if unpriced is True:
            self.warn(look, str(entry.model), entry.at_us, "its calls are counted as free")
        elif unpriced:
            self.warn(look, str(entry.model), entry.at_us, f"not counted of its calls: {', '.join(map(str, unpriced))}")

    def warn(self, look: Look, model: str, at_us: int, what: str) -> None:
        """Warn of a model."""
        text = f"model={model} lacks a price, {what}; see: budget prices set"
        look.warn(f"model={model}", at_us // DAY * DAY, at_us, text, model=model)


class Stale(Rule):
    """The shipped prices, or that of a model that is used, should have been looked at again: "stale prices". Weekly."""

    form = "stale prices"
    pattern = re.compile("stale prices")
    keep_us = 7 * DAY

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """See `Rule`."""
        if isinstance(change, Ended) and change.record.model is not None:
            look.sums.add(change.record.model, entry.at_us // DAY * DAY, entry.at_us, 1)

    def tick(self, look: Look) -> None:
        """See `Rule`."""
        now, week = look.now_us, look.now_us // (7 * DAY) * 7 * DAY
        if too_old(look.book, at_zone(now).date()):
            text = f"the shipped prices were last read on {look.book.retrieved}, more than {MAX_AGE_DAYS} days ago"
            look.warn("shipped prices", week, now, text, retrieved=look.book.retrieved)
        used = [model for model, _, _ in look.sums.totals(now - self.keep_us, now + DAY)]
        if due := sorted(model for model in used if _is_due(look, model)):
            more = f" and {len(due) - _SHOWN} more" if len(due) > _SHOWN else ""
            text = f"prices were to be looked at again: {', '.join(due[:_SHOWN])}{more}; see: budget prices check"
            look.warn("prices of models", week, now, text, models=due)


def _is_due(look: Look, model: str) -> bool:
    try:
        row = look.book.find(model, None).row(look.now_us)
    except (UnknownModel, ConfigError):  # taken for free, or sold by several
        return False
    return bool(row.review_by and row.review_by < at_zone(look.now_us).date().isoformat())
