"""What warnings remember: an SQLite file beside the store, which makes each warning once.

A page of the ledger, the sums that it changed, the warnings that came of it and how far it was read are one
transaction, so that a process may be killed anywhere, and two that read the same page count it once. A warning is
unique by rule, key, window and level, whoever makes it, and is told from here until each of its channels has taken it.

Each step opens the file for itself, about once a second: nothing has to be mended after a fork. The file is written
durably; it can be removed at any time, and then begins anew from the last days of the ledger.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from budget.alerts.alert import Alert
from budget.errors import StoreUnavailable
from budget.records.sums import MOST, held, summed
from budget.window import FOREVER

__all__ = ["AlertFile", "Delivered", "Step", "Sums"]

_VERSION = 1
_PATIENCE = 30.0  # seconds that a step waits for another process's
_ADDED = ", ".join(f"{name} = max(-{MOST}, min({MOST}, {name} + excluded.{name}))" for name in "abc")
_ADD = f"""insert into sums values (?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set
    {_ADDED}, at = max(at, excluded.at)"""  # noqa: S608 - what is put in is above
_SUMS = ", ".join(f"coalesce({summed(name)}, 0)" for name in "abc")
_TOTAL = f"""select {_SUMS}, coalesce(min(slot), 0) from sums
    where rule = ? and subject = ? and slot >= ? and slot < ?"""  # noqa: S608 - what is put in is above
_TOTALS = f"""select subject, {summed("a")}, min(slot) from sums
    where rule = ? and slot >= ? and slot < ? group by subject"""  # noqa: S608 - what is put in is above
_PARTS = """select subject, part, sum(a) from sums where rule = ? and slot >= ? and slot < ?
    group by subject, part order by subject, part"""
_ALERTS = "select id, account, rule, subject, window, at, text, figures from alerts"
_DUE = f"""{_ALERTS} join deliveries on alert = id
    where channel = ? and done is null and due <= ? and account = ? order by alerts.rowid limit 1"""
_FAILED = "update deliveries set tries = tries + 1, error = ? where alert = ? and channel = ? returning tries"


class Delivered(NamedTuple):
    """What came of telling a warning to one channel: `done_us` is when it was taken, by this machine's clock."""

    channel: str
    tries: int
    done_us: int | None
    error: str | None


class Sums:
    """What one rule has added up, in the open transaction."""

    def __init__(self, db: sqlite3.Connection, rule: int):
        self._db, self._rule = db, rule

    def add(self, subject: str, slot: int, at_us: int, a: int, b: int = 0, c: int = 0, part: int = 0) -> None:
        """Add to a stretch of time of a subject; figures and sums stay at the largest that the file holds."""
        self._db.execute(_ADD, (self._rule, subject, slot, part, held(a), held(b), held(c), at_us))

    def total(self, subject: str, since: int, before: int = FOREVER) -> tuple[int, int, int, int]:
        """Return the sums of a subject over the stretches that begin in `[since, before)`, and when the first began."""
        found: tuple[int, int, int, int] = self._db.execute(_TOTAL, (self._rule, subject, since, before)).fetchone()
        return found

    def totals(self, since: int, before: int) -> list[tuple[str, int, int]]:
        """Return for each subject the first sum, and when its first stretch began."""
        return self._db.execute(_TOTALS, (self._rule, since, before)).fetchall()

    def parts(self, since: int, before: int) -> dict[str, dict[int, int]]:
        """Return the distribution of each subject: how many per bucket."""
        found: dict[str, dict[int, int]] = {}
        for subject, part, count in self._db.execute(_PARTS, (self._rule, since, before)):
            found.setdefault(subject, {})[part] = count
        return found

    def prune(self, before_us: int) -> None:
        """Drop what was last added to before an instant."""
        self._db.execute("delete from sums where rule = ? and at < ?", (self._rule, before_us))


class Step:
    """One transaction."""

    def __init__(self, db: sqlite3.Connection, account: str):
        self._db, self._account = db, account

    def place(self) -> int | None:
        """Return the last entry of the ledger that any rule has seen; None if there was none yet."""
        place = "select max(seq) from rules where account = ? and seq >= 0"
        row = self._db.execute(place, (self._account,)).fetchone()
        return None if row[0] is None else int(row[0])

    def seen(self, rule: str) -> int | None:
        """Return the last entry that a rule has seen; None if it is new."""
        row = self._db.execute("select seq from rules where account = ? and text = ?", (self._account, rule)).fetchone()
        return None if row is None else int(row[0])

    def move(self, rules: Sequence[str], seq: int) -> None:
        """Keep that rules have seen the ledger up to an entry."""
        put = "insert into rules (account, text, seq) values (?, ?, ?) on conflict do update set seq = excluded.seq"
        self._db.executemany(put, [(self._account, rule, seq) for rule in rules])

    def sums(self, rule: str) -> Sums:
        """Return what a rule has added up; a new one has seen nothing."""
        self._db.execute("insert or ignore into rules (account, text, seq) values (?, ?, -1)", (self._account, rule))
        known = self._db.execute("select id from rules where account = ? and text = ?", (self._account, rule))
        return Sums(self._db, known.fetchone()[0])

    def forget(self, rule: str) -> None:
        """Drop what a rule has added up."""
        self.sums(rule).prune(FOREVER)

    def level(self, rule: str, key: str, window: int, since_us: int) -> int:
        """Return the highest level at which a rule has warned for a key, in a window or since; -1 if it has not."""
        query = "select max(level) from alerts where account = ? and rule = ? and key = ? and (window = ? or at > ?)"
        found = self._db.execute(query, (self._account, rule, key, window, since_us)).fetchone()[0]
        return -1 if found is None else int(found)

    def put(self, alert: Alert, key: str, level: int, channels: Sequence[str]) -> bool:
        """Keep a warning, to be told to channels; whether it is new."""
        values = (
            alert.id, alert.account, alert.rule, key, alert.window_us, level, alert.subject, alert.at_us, alert.text,
            json.dumps(dict(alert.figures)),
        )  # fmt: skip
        put = "insert or ignore into alerts values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        if not self._db.execute(put, values).rowcount:
            return False
        rows = [(alert.id, channel) for channel in channels]
        self._db.executemany("insert into deliveries (alert, channel) values (?, ?)", rows)
        return True

    def prune(self, before_us: int) -> None:
        """Drop the warnings of before an instant."""
        old = (self._account, before_us)
        told = "delete from deliveries where alert in (select id from alerts where account = ? and at < ?)"
        self._db.execute(told, old)
        self._db.execute("delete from alerts where account = ? and at < ?", old)

    def history(self, count: int) -> list[tuple[Alert, list[Delivered]]]:
        """Return the latest warnings, the newest first, each with what came of telling it."""
        latest = f"{_ALERTS} where account = ? order by at desc, rowid desc limit ?"
        rows = self._db.execute(latest, (self._account, count))
        told = "select channel, tries, done, error from deliveries where alert = ? order by channel"
        return [
            (alert, [Delivered(*row) for row in self._db.execute(told, (alert.id,))])
            for alert in map(_alert, rows.fetchall())
        ]

    def due(self, channel: str) -> Alert | None:
        """Return the oldest warning that a channel is to be told now."""
        row = self._db.execute(_DUE, (channel, _now(), self._account)).fetchone()
        return None if row is None else _alert(row)

    def delivered(self, alert: str, channel: str) -> None:
        """Keep that a channel has taken a warning."""
        done = "update deliveries set tries = tries + 1, done = ?, error = null where alert = ? and channel = ?"
        self._db.execute(done, (_now(), alert, channel))

    def failed(self, alert: str, channel: str, error: str) -> int:
        """Keep that a channel could not take a warning; return how often it was tried."""
        row = self._db.execute(_FAILED, (error, alert, channel)).fetchone()
        return int(row[0]) if row else 1

    def hold(self, channel: str, seconds: float) -> None:
        """Tell a channel nothing for some seconds."""
        hold = "update deliveries set due = ? where channel = ? and done is null"
        self._db.execute(hold, (_now() + int(seconds * 1e6), channel))


class AlertFile:
    """The file of a store.

    Args:
        path: Where; None keeps it in memory.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self._lock, self._pid = Lock(), os.getpid()
        self._memory = None if path is not None else _connect(":memory:")

    @contextmanager
    def step(self, account: str) -> Iterator[Step]:
        """Open a transaction about an account.

        Raises:
            StoreUnavailable: The file cannot be read or written.
        """
        try:
            if self.path is not None:
                with closing(_connect(self.path)) as db, _transaction(db):
                    yield Step(db, account)
                return
            assert self._memory is not None
            if self._pid != os.getpid():  # what a thread of the parent's may just have held is of no use here
                _ABANDONED.append((self._lock, self._memory))
                self._lock, self._memory, self._pid = Lock(), _connect(":memory:"), os.getpid()
            with self._lock, _transaction(self._memory):
                yield Step(self._memory, account)
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"the file of the alerts cannot be read or written: {error}") from error


_ABANDONED: list[Any] = []


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("begin immediate")
    try:
        yield
        db.execute("commit")
    except BaseException:
        if db.in_transaction:
            db.execute("rollback")
        raise


def _connect(path: Path | str) -> sqlite3.Connection:
    if isinstance(path, Path) and not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    db.execute("pragma synchronous = full")
    if db.execute("pragma user_version").fetchone()[0] != _VERSION:
        with _transaction(db):
            _prepare(db)
    return db


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables, unless another process just has."""
    if db.execute("pragma user_version").fetchone()[0] != _VERSION:
        for statement in files("budget.alerts").joinpath("alerts.sql").read_text().split(";\n"):
            if statement.strip():
                db.execute(statement)
        db.execute(f"pragma user_version = {_VERSION}")


def _alert(row: Any) -> Alert:
    id, account, rule, subject, window, at, text, figures = row
    return Alert(id, account, rule, subject, window, at, text, json.loads(figures))


def _now() -> int:
    return time.time_ns() // 1000
