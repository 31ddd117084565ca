"""When prices have become old: those that were read too long ago, and rows whose day to look again has passed.

Prices change without notice, so a book that nobody has renewed is said aloud: once per process, in the log. It is never
a refusal: an old price is still the best that is known.
"""

from __future__ import annotations

import logging
from datetime import date, timedelta
from typing import TYPE_CHECKING

from budget.errors import ConfigError, UnknownModel
from budget.window import at_zone

if TYPE_CHECKING:
    from budget.prices import PriceBook

__all__ = ["MAX_AGE_DAYS", "Watch", "due_models", "too_old"]

MAX_AGE_DAYS = 90
"""After a quarter a book is old: in 2026 the vendors in it published new models or prices about every six weeks
(`from` days in prices/*.toml), so after twice that time some of it is surely wrong."""

_log = logging.getLogger("budget")
_DAY_US = 86_400_000_000
_NEVER = 2**63
_said: set[str] = set()


class Watch:
    """Looks at the prices that calls use, and warns once per process for each of the two reasons."""

    def __init__(self, book: PriceBook):
        self._book = book
        self._due: dict[tuple[str, str | None], int] = {}

    def begin(self, now_us: int) -> None:
        """Warn if the shipped prices are old."""
        if too_old(self._book, at_zone(now_us).date()):
            read = f"the shipped prices were last read on {self._book.retrieved}, more than {MAX_AGE_DAYS} days ago"
            _say("age", f"{read}; a newer version of this package has newer ones")

    def used(self, model: str, provider: str | None, now_us: int) -> None:
        """Warn if the row that prices a model now should have been looked at again; a look-up and a comparison."""
        if now_us >= self._due.get((model, provider), 0):
            self._look(model, provider, now_us)

    def _look(self, model: str, provider: str | None, now_us: int) -> None:
        try:
            row = self._book.find(model, provider).row(now_us)
        except (UnknownModel, ConfigError):  # taken for free, or sold by several
            self._due[model, provider] = _NEVER
            return
        due = _NEVER if row.review_by is None else _end_of(row.review_by)
        if now_us >= due:
            due = _NEVER
            past = f"the price of {model} was to be looked at again by {row.review_by}"
            _say("review", f"{past}; see: budget prices check")
        self._due[model, provider] = due


def too_old(book: PriceBook, today: date) -> bool:
    """Whether the newest of the shipped prices were read more than `MAX_AGE_DAYS` ago."""
    return book.retrieved is not None and book.retrieved < (today - timedelta(MAX_AGE_DAYS)).isoformat()


def due_models(book: PriceBook, now_us: int) -> list[str]:
    """Return the models whose row of today should have been looked at again, by name."""
    today = at_zone(now_us).date().isoformat()
    rows = ((model.id, model.row(now_us)) for model in book.models())
    return sorted({name for name, row in rows if row.review_by and row.review_by < today and row.status != "retired"})


def _end_of(day: str) -> int:
    return ((date.fromisoformat(day) - date(1970, 1, 1)).days + 1) * _DAY_US


def _say(what: str, text: str) -> None:
    if what not in _said:
        _said.add(what)
        _log.warning(text)
