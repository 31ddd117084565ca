"""Questions as SQL over the file of records: what is grouped, of which calls, in which time.

A name is a column, a day or an hour (UTC), or a tag. Values of columns are numbers of names in the file, and stay
numbers until the rows that are shown are known. Names are checked before they stand in a statement; values never do.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from budget.config import duration_us
from budget.errors import ArgumentTypeError, ConfigError
from budget.limits import check_attributes
from budget.records.record import COLUMNS
from budget.window import FOREVER, at_zone, instant

__all__ = [
    "DAY", "HOUR", "Naming", "Question", "decoded", "grouped", "moment", "numbers", "of_scope", "of_turned", "read_by",
]  # fmt: skip

HOUR = 3_600_000_000
"""Microseconds in an hour."""
DAY = 24 * HOUR
"""Microseconds in a day."""
Naming = Callable[[str, str | None], str]
"""What the price book calls a model, of a provider if one is named; a name that it does not know stays."""
_TIMES = {"day": DAY, "hour": HOUR}
_PAGE = 500  # names that one statement asks for


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        by: The names that calls are grouped by.
        since, until: Microseconds since the epoch; a call counts if it ended from `since` on, and before `until`.
        where: What calls have; None: that they have none.
        models: All names of the model in `where`, where others are known than that; see `of_model`.
    """

    by: tuple[str, ...]
    since: int
    until: int
    where: Mapping[str, str | None]
    models: tuple[str, ...] = ()

    @classmethod
    def read(
        cls, by: object, since: object, until: object, where: Mapping[str, str | None] | None, now: int
    ) -> Question:  # fmt: skip
        """Read the arguments of a question.

        Raises:
            ArgumentTypeError, ConfigError: One of them cannot be used.
        """
        if where is not None and not isinstance(where, Mapping):
            raise ArgumentTypeError(f"where: {type(where).__name__} is no mapping such as {{'agent': 'support'}}")
        named = dict(where or {})
        check_attributes({name: "any" if value is None else value for name, value in named.items()})
        wrong = next((name for name in named if name in _TIMES), None)
        if wrong is not None:
            raise ConfigError(f"where: a {wrong} is no attribute; use since= and until=")
        first, last = moment(since, "since", now, 0), moment(until, "until", now, FOREVER)
        if first >= last:
            raise ConfigError("since: is not before until")
        return cls(read_by(by), first, last, named)

    def of_model(self, db: sqlite3.Connection, account: int, naming: Naming) -> Question:
        """Return it about a model under every name that its calls were answered under.

        A limit of a model holds for its snapshots and aliases, and an answer names the snapshot.
        """
        model, provider = self.where.get("model"), self.where.get("provider")
        if model is None:
            return self
        sql = "select text from names where id in (select value from totals where account = ? and dim = 'model')"
        plain = naming(model, provider)
        answered = [text for (text,) in db.execute(sql, (account,)) if naming(text, provider) == plain]
        return replace(self, models=tuple(dict.fromkeys((model, plain, *answered))))

    def texts(self, name: str) -> tuple[str | None, ...]:
        """Return the values of an attribute in `where`, of which calls have one."""
        return (name == "model" and self.models) or (self.where[name],)

    def conditions(self, account: int, since: int | None = None, until: int | None = None) -> tuple[str, list[Any]]:
        """Return the condition on rows of `calls`, in a part of the time if given, and its arguments."""
        sql, arguments = self._times(account, since, until)
        for name, value in self.where.items():
            key = f'"{name}"' if name in COLUMNS else grouped(name)
            if value is None:
                sql.append(f"{key} is null")
            else:
                texts = self.texts(name)
                sql.append(f"{key} in {numbers(len(texts))}" if name in COLUMNS else f"{key} = ?")
                arguments += texts
        return " and ".join(sql), arguments

    def refusals(self, account: int, since: int | None = None, until: int | None = None) -> tuple[str, list[Any]]:
        """Return the condition on rows of `turned`, and its arguments."""
        sql, arguments = self._times(account, since, until)
        for name in self.where:
            texts = self.texts(name)
            sql.append(f"({' or '.join([f'{of_scope(name)} is ?'] * len(texts))})")
            arguments += texts
        return " and ".join(sql), arguments

    def _times(self, account: int, since: int | None, until: int | None) -> tuple[list[str], list[Any]]:
        sql: list[str] = ["account = ?"]
        arguments: list[Any] = [account]
        first, last = self.since if since is None else since, self.until if until is None else until
        if first > 0:
            sql.append("at >= ?")
            arguments.append(first)
        if last < FOREVER:
            sql.append("at < ?")
            arguments.append(last)
        return sql, arguments


def read_by(by: object) -> tuple[str, ...]:
    """Return the names of "user", "user,model" or ["user", "model"].

    Raises:
        ArgumentTypeError: It is neither a text nor a list of such.
        ConfigError: One is not the name of an attribute, or stands twice.
    """
    names = [name.strip() for name in by.split(",")] if isinstance(by, str) else by
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ArgumentTypeError("by: a name such as 'user', 'user,model' or a list of names is needed")
    check_attributes(dict.fromkeys(names, "any"))
    if len(set(names)) < len(names):
        raise ConfigError("by: a name stands twice")
    return tuple(names)


def moment(at: object, name: str, now: int, default: int) -> int:
    """Return an instant: an aware datetime, or how long ago ("7d"); the default for None.

    Raises:
        ArgumentTypeError, ConfigError: It is neither.
    """
    if at is None:
        return default
    if isinstance(at, str):
        return now - duration_us(at, name)
    if isinstance(at, datetime):
        return instant(at)
    raise ArgumentTypeError(f"{name}: {type(at).__name__} is neither an aware datetime nor a text such as '7d'")


def numbers(count: int) -> str:
    """Return the expression of the numbers that so many names have in the file."""
    return f"(select id from names where text in ({', '.join('?' * count)}))"


def grouped(name: str) -> str:
    """Return the expression of a name over `calls`, to group by: one that no index is used for.

    Reading the rows in the order of an index takes four times as long as sorting the few figures that are wanted.
    """
    if name in _TIMES:
        return f"at / {_TIMES[name]}"
    return f'+"{name}"' if name in COLUMNS else f"""json_extract(tags, '$."{name}"')"""


def of_scope(name: str) -> str:
    """Return the expression of a name over `turned`, as text."""
    if name in _TIMES:
        return f"at / {_TIMES[name]}"
    value = f"""json_extract(scope, '$."{name}"')"""
    return f"coalesce(model, {value})" if name == "model" else value


def of_turned(name: str) -> str:
    """Return the expression of a name over `turned`, as what `grouped` gives over `calls`."""
    value = of_scope(name)
    return f"(select id from names where text = {value})" if name in COLUMNS else value


def decoded(db: sqlite3.Connection, by: Sequence[str], keys: Iterable[Sequence[Any]]) -> list[list[str | None]]:
    """Return the keys of groups as texts."""
    rows = [list(key) for key in keys]
    wanted = sorted({row[i] for row in rows for i, name in enumerate(by) if name in COLUMNS and row[i]})
    names: dict[int, str] = {}
    for start in range(0, len(wanted), _PAGE):
        some = wanted[start : start + _PAGE]
        names.update(db.execute(f"select id, text from names where id in ({','.join('?' * len(some))})", some))
    for row in rows:
        for i, name in enumerate(by):
            row[i] = _text(name, row[i], names)
    return rows


def _text(name: str, value: Any, names: Mapping[int, str]) -> str | None:
    if value is None:
        return None
    if name in COLUMNS:
        return names.get(value)
    if name not in _TIMES:
        return str(value)
    at = at_zone(value * _TIMES[name])
    return str(at.date().isoformat()) if name == "day" else f"{at:%Y-%m-%dT%H:00Z}"
