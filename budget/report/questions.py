"""The questions that an account answers: what `Budget.report` and its siblings ask, on the file of its records."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from budget.errors import ConfigError, StoreUnavailable, UnknownModel
from budget.limits import Limit, check_attributes, name_model
from budget.money import parse_usd
from budget.overview import load_policy, pools_of
from budget.records import CallFile
from budget.report.asking import DAY, Question, moment, read_by
from budget.report.cache import CacheRow, cache_report
from budget.report.costs import report
from budget.report.estimates import EstimateRow, report_estimates
from budget.report.outlook import OutlookRow, outlook
from budget.report.refused import Levels, RefusalRow, refusals
from budget.report.requests import CallRow, RateRow, dear_calls, rates
from budget.report.rows import Row, Rows
from budget.report.suggest import Suggestion, suggest
from budget.report.trends import TRENDED, trends
from budget.stores.base import read_entries

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["Questions"]

Since = datetime | str | None
Where = Mapping[str, str | None] | None
_FACTOR = re.compile(r"\d{1,10}(?:\.\d{1,9})?", re.ASCII)


class Questions:
    """The questions that an account answers, each from the records as they are when it is asked.

    `by` is the name of what calls are grouped by, several ("user,model" or a list), or none (`[]`: all together): user,
    session, agent, project, model (as answered), provider, run, day, hour (UTC), or any other attribute. `since` and
    `until` are aware datetimes or how long ago ("7d"); a call counts by when it ended, `until` excluded. `where` is
    what calls have: {"agent": "support"}, or None as a value: that they have none. A model goes by any of its names.

    Attributes:
        file: The records that are asked.

    Every question raises:
        ConfigError, ArgumentTypeError: An argument cannot be used.
        StoreUnavailable: The ledger or the file of records cannot be read.
    """

    def __init__(self, engine: Engine):
        self._engine, self.file = engine, CallFile(engine.books)
        self._lock = threading.RLock()  # one connection, and an answer is of one instant

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.file.close()

    def report(
        self, by: object = "user", *, since: Since = None, until: Since = None, where: Where = None,
        quick: bool = False, top: int | None = None, above: str | Decimal | None = None, quota: str | None = None,
        times_mean: int | str | Decimal | None = None,
    ) -> Rows[Row]:  # fmt: skip
        """Return what calls cost in groups, the dearest first; see `Budget.report`."""
        least = None if above is None else parse_usd(above, "above")
        if quota is not None:
            if above is not None:
                raise ConfigError("quota: cannot be given together with above")
            by, least = _quota(by, quota)
        times = None if times_mean is None else _times(times_mean, "times_mean")
        question, most = self._question(by, since, until, where), _most(top)
        with self._read() as (db, account):
            return report(db, account, question, quick=quick, most=most, above=least, times_mean=times)

    def dear_calls(
        self, times: int | str | Decimal = 3, *, since: Since = None, until: Since = None, where: Where = None,
        top: int | None = None,
    ) -> Rows[CallRow]:  # fmt: skip
        """Return the calls that cost more than so many times the mean of all, the dearest first."""
        question, over = self._question((), since, until, where), _times(times, "times")
        with self._read() as (db, account):
            return dear_calls(db, account, question, over, _most(top))

    def rates(self, *, since: Since = "24h", until: Since = None, where: Where = None) -> Rows[RateRow]:
        """Return what each whole hour cost, idle ones too, counted back from now (or `until`); the last comes last."""
        now = self._engine.verbs.now()
        question = self._of_model(Question.read((), since, until, where, now))
        if question.since == 0:
            raise ConfigError("since: is needed: how far back hours are counted")
        if min(question.until, now) - question.since > 400 * DAY:
            raise ConfigError("since: hours are counted over 400 days at most")
        with self._read() as (db, account):
            return rates(db, account, question, now)

    def cache(
        self, by: object = "model", *, since: Since = None, until: Since = None, where: Where = None,
        top: int | None = None,
    ) -> Rows[CacheRow]:  # fmt: skip
        """Return what prompt caching saved and could save, and why calls missed; the most input first."""
        question = self._question(by, since, until, where)
        with self._read() as (db, account):
            return cache_report(db, account, question, self._discount, _most(top))

    def estimates(self, by: str = "model", *, since: Since = None) -> Rows[EstimateRow]:
        """Return how good the estimates were: error, over-reservation, overruns."""
        since_us = moment(since, "since", self._engine.verbs.now(), 0)
        return Rows(report_estimates(self._engine.books.entries(since_us), by))

    def refusals(self, *, since: Since = None, until: Since = None, where: Where = None) -> Rows[RefusalRow]:
        """Return what each limit refused, nearly refused, and would have refused in shadow mode."""
        question, engine = self._question((), since, until, where), self._engine
        account = engine.settings.account
        ledger = engine.books.ledger()
        levels = Levels(ledger.checkpoint(account), engine.store.names(account), load_policy(engine).limits)
        near = levels.near(read_entries(ledger, account, levels.begin(question.since)), question)
        with self._read() as (db, number):
            return refusals(db, number, question, near)

    def outlook(self, **attributes: str) -> Rows[OutlookRow]:
        """Return where the pools are going that calls with these attributes draw on, what runs out soonest first."""
        pools = pools_of(self._engine, check_attributes(attributes))
        with self._read() as (db, account):
            return outlook(db, account, pools, self._engine.verbs.now(), self._naming)

    def suggest(self, *, since: Since = None, until: Since = None, where: Where = None) -> Rows[Suggestion]:
        """Return limits at quantiles of what was observed, and what each would have refused."""
        question = self._question((), since, until, where)
        with self._read() as (db, account):
            return suggest(db, account, question)

    def trends(self, by: str, values: Sequence[str | None], *, until: Since = None, days: int = 14) -> list[list[int]]:
        """Return what values of an attribute cost on each of the last days, in nano-dollars; [] without daily sums."""
        if by not in TRENDED:
            return []
        now = self._engine.verbs.now()
        last = (min(moment(until, "until", now, now), now) - 1) // DAY
        with self._read() as (db, account):
            return trends(db, account, by, values, range(last - days + 1, last + 1))

    @contextmanager
    def _read(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        with self._lock:
            db = self.file.open()
            account = self.file.account
            try:
                db.execute("begin")
                try:
                    yield db, account
                finally:
                    db.execute("rollback")
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the file of records cannot be read: {error}") from error

    def _question(self, by: object, since: Since, until: Since, where: Where) -> Question:
        return self._of_model(Question.read(by, since, until, where, self._engine.verbs.now()))

    def _of_model(self, question: Question) -> Question:
        if "model" not in question.where:
            return question
        with self._read() as (db, account):
            return question.of_model(db, account, self._naming)

    def _naming(self, model: str, provider: str | None) -> str:
        given = {"model": model} if provider is None else {"model": model, "provider": provider}
        return name_model(self._engine.settings.book, given)["model"]

    def _discount(self, model: str | None, provider: str | None) -> int | None:
        book = self._engine.settings.book
        try:
            rates = book.find(model or "", provider).rates(self._engine.verbs.now())
        except (UnknownModel, ConfigError):
            return None
        return 0 if rates.cache_read is None else max(rates.input - rates.cache_read, 0)


def _quota(by: object, text: str) -> tuple[tuple[str, ...], int]:
    """Read a quota such as "$10/day": what is grouped by, and the amount."""
    limit = Limit(text)
    window = limit.window.kind
    if limit.unit != "usd" or window not in ("day", "hour") or limit.selector or limit.per:
        raise ConfigError(f"quota: {text[:40]!r} is not an amount per day or hour, such as '$10/day'")
    names = read_by(by)
    return (names if window in names else (*names, window)), limit.quantity


def _times(value: object, name: str) -> tuple[int, int]:
    """Read a factor as a fraction."""
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        raise ConfigError(f"{name}: {value!r} is not a factor such as 10 or '2.5'")
    text = f"{value:f}" if isinstance(value, Decimal) and -10 < value.adjusted() < 10 else str(value)
    if not _FACTOR.fullmatch(text):  # of an exponent Python would make a number of as many digits
        raise ConfigError(f"{name}: {text[:40]!r} is not a factor such as 10 or '2.5'")
    factor = Fraction(text)
    if not 0 < factor <= 10**9:
        raise ConfigError(f"{name}: {text[:40]!r} is not a factor above 0, and up to a billion")
    return factor.numerator, factor.denominator


def _most(top: int | None) -> int | None:
    if top is not None and (isinstance(top, bool) or not isinstance(top, int) or top < 1):
        raise ConfigError(f"top: {top!r} is not a whole number of rows, from 1")
    return top

