"""What a rule is: a small class that looks at what became of calls, adds up what it needs, and warns.

A rule holds nothing itself: what it has added up is in the file of the alerts, so that a process may end anywhere. It
is shown every change that the ledger makes to the records, in order; those of the last days before it was first used,
too, when what it says is not told (`Look.history`): a rule about what is usual has to know what was."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Self

from budget.alerts.alert import Alert, alert_id
from budget.config import duration_us
from budget.errors import ConfigError
from budget.ledger import Entry
from budget.records.changes import Change, Corrected, Ended, Withdrawn
from budget.window import FOREVER, SECOND

if TYPE_CHECKING:
    from budget.alerts.file import Step, Sums
    from budget.alerts.pools import Touched
    from budget.prices import PriceBook

__all__ = ["DAY", "HOUR", "Look", "Rule", "charged", "group_of", "span_of", "times_of", "value_of"]

HOUR, DAY = 3600 * SECOND, 86_400 * SECOND
_PER = ("agent", "model")


class Look:
    """What a rule gets to see and to do, in one transaction.

    Attributes:
        now_us: The account's time.
        sums: What the rule has added up.
        book: The price book.
        history: What is seen happened before the rule was first used: nothing is told of it.
    """

    def __init__(
        self, step: Step, rule: Rule, account: str, now_us: int, book: PriceBook, channels: Sequence[str],
        history: bool = False,
    ):  # fmt: skip
        self._step, self._rule, self._account, self._channels = step, rule, account, channels
        self.now_us, self.book, self.history = now_us, book, history
        self.sums: Sums = step.sums(rule.text)

    def warn(
        self, subject: str, window_us: int, at_us: int, text: str, *, key: str | None = None, level: int = 0,
        quiet: int = 0, **figures: Any,
    ) -> None:  # fmt: skip
        """Give a warning, unless it was given.

        Args:
            subject: Whom it is about.
            window_us: It is given once for this window.
            at_us: When what it is about happened.
            text: What people read.
            key: What it is given once for, where that is not the subject.
            level: Of what goes up in steps: the step. A lower one is not told after a higher one.
            quiet: Microseconds in which it is not given again, also in the next window.
            **figures: What the text says, as JSON types.
        """
        rule, account = self._rule.text, self._account
        key = subject if key is None else key
        if self.history or level <= self._step.level(rule, key, window_us, at_us - quiet if quiet else FOREVER):
            return
        id = alert_id(account, rule, key, window_us, level)
        alert = Alert(id, account, rule, _printable(subject), window_us, at_us, _printable(text), figures)
        self._step.put(alert, key, level, self._channels)


class Rule:
    """The base of all rules.

    Attributes:
        form: How it is written, for people.
        text: How this one is written: its identity.
        keep_us: How long what it added up matters.
        remembers: Whether it has to see the last days before it is first used.
        looks_at_pools: Whether it is shown the pools that the ledger touched.
    """

    form: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]
    keep_us: int = 8 * DAY
    remembers: bool = True
    looks_at_pools: bool = False

    def __init__(self, text: str):
        self.text = text

    @classmethod
    def of(cls, text: str) -> Self | None:
        """Read a rule of this kind; None if it is of another one.

        Raises:
            ConfigError: It is of this kind, and has a figure that cannot be used.
        """
        found = cls.pattern.fullmatch(text)
        return None if found is None else cls.made(text, found)

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """Make it of its text, and of what `pattern` found in it."""
        return cls(text)

    def saw(self, look: Look, entry: Entry, change: Change) -> None:
        """Look at what an entry of the ledger did to the records."""

    def pools(self, look: Look, touched: Sequence[Touched]) -> None:
        """Look at pools that were drawn on, as they are now."""

    def tick(self, look: Look) -> None:
        """Look at the time: called about twice a minute."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.text!r})"


def _printable(text: str) -> str:
    """Escape what a log or a terminal would obey: a model may be called anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def charged(entry: Entry, change: Change) -> int | None:
    """Return what an entry added to spent, nano-dollars; None where it is not about a call that was charged."""
    return entry.amounts[0] if isinstance(change, Ended | Corrected | Withdrawn) else None


def group_of(change: Ended) -> str:
    """Return which calls one is like: "agent=support model=claude-sonnet-5"."""
    found = [(name, change.record.column(name)) for name in _PER]
    return " ".join(f"{name}={value}" for name, value in found if value is not None) or "everybody"


def times_of(text: str) -> Decimal:
    """Read the "5" of "5x".

    Raises:
        ConfigError: It is not above 1.
    """
    found = Decimal(text)
    if found <= 1:
        raise ConfigError(f"alerts: {text}x is no more than usual; write a figure above 1")
    return found


def span_of(text: str, longest: int = DAY) -> int:
    """Read a duration from one minute to a day, or as long as may be.

    Raises:
        ConfigError: It is none, or shorter or longer.
    """
    span = duration_us(text, "alerts")
    if not 60 * SECOND <= span <= longest:
        raise ConfigError(f"alerts: {text} is not between 1m and {longest // HOUR}h")
    return span


def value_of(entry: Entry, change: Change, name: str) -> str | None:
    """Return a call's user, session, agent, model ... or another of its attributes."""
    if name in ("model", "provider") and isinstance(change, Ended | Corrected):
        return change.record.column(name)
    return entry.scope.get(name)
