"""What a sink is: something outside that is told what became of calls, a batch at a time.

The ledger is the spool. A sink has a place in it, the number of the last entry that it was told of, which moves only
when a batch was taken; so an outage means nothing but that the place stands still. A sink may be told of the same
entries again after a crash, between its having taken a batch and the place having moved. One that can say itself what
it has (`resume`) is told of each exactly once; all others get ids by which a repeat can be told from something new.

A sink is one small file: a class with a `name`, `write` and `close`. Its thread is its own (`runner.py`), so it may
block, and it never runs twice at once, also not in two processes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import parse_qsl, urlencode

from budget.errors import ArgumentTypeError, BudgetError, ConfigError
from budget.ledger import Entry
from budget.records.changes import Change, Ended
from budget.records.record import Record

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = [
    "Attaching", "Batch", "Batching", "Heeding", "Resuming", "Sink", "SinkFailed", "Spec", "Ticking", "Watching",
    "check_name", "need",
]  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


class SinkFailed(BudgetError):
    """Raised by a sink that could not take a batch. Its message holds no secret.

    Attributes:
        permanent: Trying again cannot help: somebody has to put something right. The place stays nevertheless.
        retry_after: Seconds that the receiver asked us to wait, or None.
        smaller: A part of the batch may be taken: it is tried with half of it, down to a single change.
    """

    def __init__(self, message: str, permanent: bool = False, retry_after: float | None = None, smaller: bool = False):
        super().__init__(message)
        self.permanent, self.retry_after, self.smaller = permanent, retry_after, smaller


@dataclass(frozen=True, slots=True)
class Batch:
    """What the entries `first` to `last` of an account's ledger did to its records.

    Attributes:
        account: Whose ledger.
        first, last: The numbers of the entries that it covers, both included, also those that did nothing.
        changes: The others, in order: each entry with the change that it made.
    """

    account: str
    first: int
    last: int
    changes: tuple[tuple[Entry, Change], ...]

    @property
    def records(self) -> Iterator[Record]:
        """The calls that ended in it."""
        return (change.record for _, change in self.changes if isinstance(change, Ended))


class Sink(Protocol):
    """Something that takes batches.

    Attributes:
        name: Its place is kept under it: up to 64 letters, digits, "_", "-" and ".".
    """

    @property
    def name(self) -> str:
        """See above."""

    def write(self, batch: Batch) -> None:
        """Take a batch; it counts as taken when this returns.

        Raises:
            SinkFailed: It was not taken, or nobody knows. It comes again, the same.
        """

    def close(self) -> None:
        """Let go of files and connections. A `write` may follow, and opens them again."""


@runtime_checkable
class Resuming(Protocol):
    """A sink that knows itself what it has."""

    def resume(self, account: str, kept: int) -> int:
        """Return the number of the last entry that it has, asked before the first batch and after each trouble.

        Args:
            account: Whose ledger.
            kept: The place as it was kept; 0 if there is none. What the sink has may be beyond it.

        Raises:
            SinkFailed: It cannot tell now.
        """


@runtime_checkable
class Batching(Protocol):
    """A sink that wants other batches than of 1,000 changes or one second.

    Attributes:
        size: How many changes a batch has at most.
        age: Seconds after which a batch that is not full is closed.
    """

    size: int
    age: float


@runtime_checkable
class Ticking(Protocol):
    """A sink that is also told the time, about once a second, whether there was a batch or not."""

    def tick(self, now_us: int) -> None:
        """Do what is due.

        Args:
            now_us: The account's time, microseconds since the epoch.

        Raises:
            SinkFailed: It could not be done; it is asked again.
        """


@runtime_checkable
class Heeding(Protocol):
    """A sink that is told when the ledger cannot be read, and whose `tick` goes on meanwhile."""

    def troubled(self, error: Exception) -> None:
        """Take note that the ledger could not be read; called at each try."""


@runtime_checkable
class Attaching(Protocol):
    """A sink that has to know whose it is."""

    def attach(self, engine: Engine) -> None:
        """Take note of the engine whose ledger it is told of; called once, before everything else.

        Args:
            engine: To be asked what a ledger does not say, such as how full the limits are now.
        """


@runtime_checkable
class Watching(Protocol):
    """A sink that is told of nothing in the ledger: it watches calls in the process that makes them.

    Attributes:
        watches: True.
    """

    watches: bool


@dataclass
class Spec:
    """A sink as text, such as "jsonl:/var/log/calls.jsonl?rotate=100MB", taken apart.

    Attributes:
        kind: What stands before the first colon or plus: "jsonl", "arc", "webhook" ...
        target: What comes after it, without our options: a path, or the URL that a receiver is reached at.
        options: The options that nobody has taken yet.
    """

    kind: str
    target: str = field(repr=False)  # a URL may hold a password
    options: dict[str, str] = field(repr=False)

    @classmethod
    def of(cls, text: str) -> Spec:
        """Take a text apart: "KIND:PATH?options", "KIND+URL?options" or, for a database, its URL.

        Raises:
            ConfigError, ArgumentTypeError: It is no such text.
        """
        if not isinstance(text, str):
            raise ArgumentTypeError(f"sinks: {type(text).__name__} is neither a text such as 'jsonl:/path' nor a sink")
        match = re.match(r"([a-z]+)([:+])", text)
        if match is None:
            raise ConfigError("sinks: a sink is written as KIND:PATH or KIND+URL, such as 'jsonl:/var/log/calls.jsonl'")
        kind, rest = match[1], text[match.end() :]
        target, _, query = (text if rest.startswith("//") and match[2] == ":" else rest).partition("?")
        return cls(kind, target, dict(parse_qsl(query, keep_blank_values=True)))

    def take(self, name: str, default: str) -> str:
        """Return an option, which is one of ours then."""
        return self.options.pop(name, default)

    def name(self) -> str:
        """Take the option `name`; the kind, if there is none.

        Raises:
            ConfigError: It cannot be a name.
        """
        return check_name(self.take("name", self.kind))

    def url(self) -> str:
        """Return the target with the options that nobody took: they are the receiver's."""
        return f"{self.target}?{urlencode(self.options)}" if self.options else self.target

    def done(self) -> None:
        """Refuse what nobody took.

        Raises:
            ConfigError: There is an option that means nothing.
        """
        if self.options:
            raise ConfigError(f"sinks: a sink of the kind {self.kind} has no option {sorted(self.options)[0]!r}")


def check_name(name: object) -> str:
    """Check the name of a sink.

    Raises:
        ConfigError: It cannot be one.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"sinks: {str(name)[:70]!r} is not a name of 1 to 64 letters, digits, '_', '-' or '.'")
    return name


def need(module: str, extra: str) -> None:
    """Check that a library is there.

    Raises:
        ConfigError: It is not; the error names the extra that brings it.
    """
    if find_spec(module) is None:
        raise ConfigError(f"sinks: {module} is not installed: pip install 'budget-engine[{extra}]'")
