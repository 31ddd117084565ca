"""Entries of the ledger on their way into the file of records: rows of calls, and daily sums of them.

Rows are put a portion at a time. A correction is of a call that is there, so what waits is put before it; most portions
have none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from budget.ledger import Entry, dumps
from budget.records.changes import Corrected, Ended, Refused, Shadowed, Withdrawn, changes_of
from budget.records.record import COLUMNS, Record
from budget.records.sums import MOST, held, summed

__all__ = ["DIMS", "Intake", "day_of", "merge_sums", "raw_id", "resum", "text_id"]

_DAY_US = 86_400_000_000
DIMS = ("", *COLUMNS[:-1])
"""What daily sums are by; "" is everything. A run has its rows in `calls`: sums of runs would be as many."""

_MARKS = ", ".join("?" * 25)
_PUT = f"insert into calls values ({_MARKS}) on conflict (account, id) do nothing"  # noqa: S608 - what is put in is above
_KNOWN = """select seq, at, usd, input, output, cache_read, cache_write,
    user, session, agent, project, model, provider from calls where account = ? and id = ?"""
_CORRECT = """update calls set usd = ?, input = ?, output = ?, cache_read = ?, cache_write = ?,
    saved = coalesce(?, saved), estimated = coalesce(?, estimated), outcome = ?,
    latency_ms = coalesce(?, latency_ms), first_token_ms = coalesce(?, first_token_ms) where account = ? and seq = ?"""
_SUMS = ("calls", "usd", "input", "output", "cache_read", "cache_write", "refused")
_ADDED = ", ".join(f"{name} = min({MOST}, {name} + excluded.{name})" for name in _SUMS)  # above it, SQLite has a float
_ADD = f"insert into totals values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set {_ADDED}"  # noqa: S608 - what is put in is above
_NOBODY = "delete from totals where account = ? and dim = ? and day = ? and value = ? and calls = 0 and refused = 0"
_MERGE = f"""insert into totals select account, dim, day, ?4, {", ".join(_SUMS)} from totals
    where account = ?1 and dim = ?2 and value = ?3 on conflict do update set {_ADDED}"""  # noqa: S608 - what is put in is above
_RESUM = f"""insert into totals select account, ?2, at / {_DAY_US}, coalesce({{column}}, 0), count(*),
    {", ".join(map(summed, _SUMS[1:-1]))}, 0 from calls
    where account = ?1 and seq >= ?3 and seq < ?4
    group by 3, 4 on conflict do update set {_ADDED}"""  # noqa: S608 - what is put in is above
_NAMED = (*range(5, 12), 22, 23)  # where a row has numbers of names
_NAMES_KEPT = 200_000
_AT_ONCE = 200_000  # rows that are sorted in memory; ten million would be on disk


class Intake:
    """What adds to the records of one account, in one transaction.

    Args:
        db: The file.
        account: Its number there.
        names: The numbers of names that are known; added to.
    """

    def __init__(self, db: sqlite3.Connection, account: int, names: dict[str, int]):
        self._db, self._account, self._names = db, account, names
        self._waiting: list[tuple[Any, bool]] = []  # no records, which would keep the collector of cycles busy
        self._sums: dict[tuple[Any, ...], list[int]] = {}
        if len(names) > _NAMES_KEPT:
            names.clear()

    def take(self, entries: Iterable[Entry]) -> int:
        """Carry out what entries do to the records; return which said last that a subject was erased, or 0."""
        erased = 0
        for entry, change in changes_of(entries):
            if type(change) is Ended:
                self._waiting.append((self._row(change.record, entry.seq), change.record.usage is not None))
            elif type(change) is Refused or type(change) is Shadowed:
                self._turn(change)
            elif type(change) is Corrected or type(change) is Withdrawn:
                self._put()
                if type(change) is Corrected:
                    self._correct(self._row(change.record, entry.seq), change.record.usage is not None)
                else:
                    self._withdraw(raw_id(change.id))
            elif entry.kind == "pruned":
                self._put()
                self._forget(entry.detail["upto"])
            elif entry.kind == "erased":
                erased = entry.seq
        self._put()
        self._sum_up()
        return erased

    def add(self, records: Iterable[Record], below: int) -> int:
        """Add calls that are in no ledger, numbered downwards from below `below`; return how many were new."""
        seq, added = below, 0
        for record in records:
            if self._put_one(self._row(record, seq - 1)):
                seq, added = seq - 1, added + 1
        self._sum_up()
        return added

    def add_rows(self, rows: Iterable[Sequence[Any]], names: Mapping[int, str], below: int) -> int:
        """Add rows of another file, whose names are given, as `add` does."""
        seq, added = below, 0
        for row in rows:
            own = [self._account, seq - 1, *row[2:]]
            for at in _NAMED:
                own[at] = None if row[at] is None else self.name(names[row[at]])
            if self._put_one(tuple(own)):
                seq, added = seq - 1, added + 1
        self._sum_up()
        return added

    def _row(self, record: Record, seq: int) -> tuple[Any, ...]:
        scope, name, saved = record.scope, self.name, record.saved
        tags = {key: value for key, value in scope.items() if key not in COLUMNS}
        return (
            self._account, seq, raw_id(record.id), record.at_us, held(record.nanos),
            name(scope.get("user")), name(scope.get("session")), name(scope.get("agent")), name(scope.get("project")),
            name(record.model), name(record.provider), name(scope.get("run")),
            held(record.input_tokens), held(record.output_tokens), held(record.cache_read_tokens),
            held(record.cache_write_tokens), None if saved is None else held(saved), record.expected,
            record.reserved, record.latency_ms, record.first_token_ms, record.estimated,
            name(None if record.outcome == "ok" else record.outcome), name(record.parent),
            dumps(tags) if tags else None,
        )  # fmt: skip

    def _put(self) -> None:
        """Put the rows that wait; what a row's id is there for already is more of the same call."""
        db, waiting = self._db, self._waiting
        if not waiting:
            return
        db.execute("savepoint put")
        before = db.total_changes
        db.executemany(_PUT, [row for row, _ in waiting])
        if db.total_changes - before == len(waiting):
            for row, _ in waiting:
                self._count(row[3], row[5:11], 1, (row[4], *row[12:16]))
        else:
            db.execute("rollback to put")
            for row, whole in waiting:
                if not self._put_one(row):
                    self._correct(row, whole)
        db.execute("release put")
        self._waiting = []

    def _put_one(self, row: tuple[Any, ...]) -> bool:
        if not self._db.execute(_PUT, row).rowcount:
            return False
        self._count(row[3], row[5:11], 1, (row[4], *row[12:16]))
        return True

    def _correct(self, row: Sequence[Any], whole: bool) -> None:
        """Add what became known later of a call that is there; `whole` if that is all of its usage, not more of it."""
        known = self._known(row[2])
        if known is None:
            return
        seq, at, usd, *rest = known
        before, dims = rest[:4], rest[4:]
        saved, _, _, latency, first, estimated, outcome = row[16:23]
        told = row[12:16] if whole else [held(one + more) for one, more in zip(before, row[12:16], strict=True)]
        figures = (held(usd + row[4]), *told, saved, estimated if whole else None, outcome, latency, first)
        self._db.execute(_CORRECT, (*figures, self._account, seq))
        more = [new - old for new, old in zip(told, before, strict=True)]
        self._count(at, dims, 0, (row[4], *more))

    def _withdraw(self, id: bytes) -> None:
        known = self._known(id)
        if known is None:
            return
        seq, at, *rest = known
        self._db.execute("delete from calls where account = ? and seq = ?", (self._account, seq))
        self._count(at, rest[5:], -1, [-figure for figure in rest[:5]])

    def _known(self, id: bytes) -> Any:
        return self._db.execute(_KNOWN, (self._account, id)).fetchone()

    def _turn(self, change: Refused | Shadowed) -> None:
        shadow = type(change) is Shadowed
        self._db.executemany("insert into turned values (?, ?, ?, ?, ?, ?, ?, ?)", [
            (self._account, change.seq, part, change.at_us, shadow, limit, dumps(dict(change.scope)), change.model)
            for part, limit in enumerate(change.limits or ("",))
        ])  # fmt: skip
        if not shadow:
            provider = change.scope.get("provider") or change.detail.get("provider")
            values = {**change.scope, "model": change.model, "provider": provider}
            dims = [self.name(values.get(name)) for name in DIMS[1:]]
            self._count(change.at_us, dims, 0, (0, 0, 0, 0, 0), 1)

    def _forget(self, upto: int) -> None:
        """Drop what the ledger does not keep any more. The sums stay, as the ledger's own do."""
        self._db.execute("delete from calls where account = ? and seq between 0 and ?", (self._account, upto))
        self._db.execute("delete from turned where account = ? and seq <= ?", (self._account, upto))
        self._db.execute("update accounts set pruned = ? where id = ?", (upto, self._account))

    def _count(self, at_us: int, dims: Sequence[Any], calls: int, figures: Sequence[int], refused: int = 0) -> None:
        _add(self._sums, (at_us // _DAY_US, *dims), (calls, *figures, refused))

    def _sum_up(self) -> None:
        """Add to the daily sums; calls that are alike in all that has sums were added up before."""
        totals: dict[tuple[str, int, int], list[int]] = {}
        for (day, *values), figures in self._sums.items():
            for dim, value in zip(DIMS, (0, *values), strict=True):
                _add(totals, (dim, day, value or 0), figures)
        told = sorted(totals.items())
        self._db.executemany(_ADD, [(self._account, *key, *map(held, figures)) for key, figures in told])
        less = [(self._account, *key) for key, figures in totals.items() if figures[0] <= 0]
        self._db.executemany(_NOBODY, less)
        self._sums = {}

    def name(self, text: str | None) -> int | None:
        """Return the number of a name, which is made if there is none; None for None."""
        if text is None:
            return None
        known = self._names.get(text)
        if known is None:
            self._db.execute("insert or ignore into names (text) values (?)", (text,))
            known = self._names[text] = self._db.execute("select id from names where text = ?", (text,)).fetchone()[0]
        return known


def _add(sums: dict[Any, list[int]], key: Any, figures: Sequence[int]) -> None:
    known = sums.get(key)
    if known is None:
        sums[key] = [*figures]
        return
    calls, usd, input, output, read, written, refused = figures
    known[0] += calls  # a loop over them would take twice as long, of what takes most
    known[1] += usd
    known[2] += input
    known[3] += output
    known[4] += read
    known[5] += written
    known[6] += refused


def day_of(at_us: int) -> int:
    """Return the day (UTC) of an instant, as days since the epoch."""
    return at_us // _DAY_US


def resum(db: sqlite3.Connection, account: int) -> None:
    """Make the daily sums of an account anew from its rows; refusals have none."""
    db.execute("delete from totals where account = ?", (account,))
    lowest, highest = db.execute("select min(seq), max(seq) from calls where account = ?", (account,)).fetchone()
    for start in range(lowest or 0, (highest or 0) + 1, _AT_ONCE):
        for dim in DIMS:
            db.execute(_RESUM.format(column=dim or "0"), (account, dim, start, start + _AT_ONCE))


def merge_sums(db: sqlite3.Connection, account: int, dim: str, old: int, new: int | None) -> None:
    """Add the daily sums of one value to those of another, which takes its place."""
    db.execute(_MERGE, (account, dim, old, new))
    db.execute("delete from totals where account = ? and dim = ? and value = ?", (account, dim, old))


def raw_id(id: str) -> bytes:
    """Return an id as it stands in the file: 16 bytes for 32 hex digits; imported ids may be any text."""
    with suppress(ValueError):
        if len(id) == 32 and (raw := bytes.fromhex(id)).hex() == id:
            return raw
    raw = b"\0" + id.encode()
    return raw if len(raw) != 16 else b"\0" + raw


def text_id(raw: bytes) -> str:
    """Return the id that stands in the file as `raw`."""
    return raw.hex() if len(raw) == 16 else raw.lstrip(b"\0").decode()
