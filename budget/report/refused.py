"""What limits refused, would have refused in shadow mode, and nearly refused.

Refusals are entries of the ledger. A near one is a call that was admitted and left less than a tenth of a limit: no
entry says so, but each says by how much it changed which pool, so that what was spent and reserved after every reserve
is the sum of what came before. Limits are taken as they are now: one that was removed is not judged, one that was
raised is judged by its new amount, and what was adjusted for one window or rolled over into it is left out.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from budget.audit import Checkpoint
from budget.ledger import Entry
from budget.limits import Limit
from budget.policy import read_name
from budget.report.asking import DAY, Question, of_scope
from budget.report.rows import Rows, plain
from budget.window import at_zone

__all__ = ["Levels", "RefusalRow", "refusals"]

_NEAR = 10  # percent of a limit
_PARTS = 60  # of a rolling window, see `budget.buckets`
_LENGTHS = {"minute": DAY, "hour": DAY, "day": 2 * DAY, "week": 8 * DAY, "month": 32 * DAY, "year": 367 * DAY}
"""No window of these is longer; the others have no end."""
_FROZEN = "(frozen)"


@dataclass(frozen=True, slots=True)
class RefusalRow:
    """What one limit did.

    Attributes:
        limit: As text; "(frozen)" for what a freeze refused.
        refused: Reserves that it refused, alone or with others.
        would_refuse: Reserves that were admitted, and that it would have refused if it were not a shadow limit.
        near: Reserves that were admitted, and left less than a tenth of it.
        users: How many users were refused, or would have been.
        first, last: When the first and the last of these were (UTC); None if there were none.
    """

    limit: str
    refused: int
    would_refuse: int
    near: int
    users: int
    first: datetime | None
    last: datetime | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return plain(self)


class Levels:
    """The pools, followed through the ledger.

    Args:
        checkpoint: What stands for the entries that were pruned, or None.
        names: Of the pools.
        limits: The limits that hold now.
    """

    def __init__(self, checkpoint: Checkpoint | None, names: Mapping[str, str], limits: Iterable[Limit]):
        held = {limit.identity: limit for limit in limits if limit.unit != "concurrent"}
        known = ((pool, held.get(read_name(name)[0])) for pool, name in names.items())
        self._limits = {pool: limit for pool, limit in known if limit is not None}
        self._levels: dict[str, dict[int, int]] = defaultdict(dict)
        for (pool, start), sums in (checkpoint.sums if checkpoint is not None else {}).items():
            if pool in self._limits:
                self._levels[pool][start] = sum(sums)

    def begin(self, since: int) -> int:
        """Return from when on entries must be read to know the pools since an instant: that of the longest window."""
        lengths = [limit.window.span or _LENGTHS.get(limit.window.kind, since) for limit in self._limits.values()]
        return max(0, since - max(lengths, default=0) - DAY)

    def near(self, entries: Iterable[Entry], question: Question) -> Counter[str]:
        """Count the reserves after which less than a tenth of a limit was left, by the limit's text."""
        found: Counter[str] = Counter()
        for entry in entries:
            if entry.kind == "rebuilt":  # it brought the counters to the sums
                continue
            reserves = entry.kind == "reserved" and _meant(entry, question)
            for pool, start, spent, reserved in entry.moves:
                limit = self._limits.get(pool)
                if limit is None:
                    continue
                level = self._move(pool, limit, start, spent + reserved, entry.at_us)
                if reserves and level * 100 > limit.quantity * (100 - _NEAR):
                    found[str(limit)] += 1
        return found

    def _move(self, pool: str, limit: Limit, start: int, by: int, now: int) -> int:
        """Move a pool, and return how much of it is taken in the window of the move."""
        buckets = self._levels[pool]
        buckets[start] = buckets.get(start, 0) + by
        span = limit.window.span
        if not span:
            return buckets[start]
        for old in [each for each in buckets if each + span // _PARTS <= now - span]:
            del buckets[old]
        return sum(buckets.values())


def refusals(
    db: sqlite3.Connection, account: int, question: Question, near: Mapping[str, int]
) -> Rows[RefusalRow]:
    """Return what each limit did, the one that refused most first."""
    where, arguments = question.refusals(account)
    sql = f"""select "limit", sum(not shadow), sum(shadow), count(distinct {of_scope("user")}), min(at), max(at)
        from turned where {where} group by "limit" """
    found = {limit or _FROZEN: tuple(rest) for limit, *rest in db.execute(sql, arguments)}
    rows = []
    for limit in found.keys() | near.keys():
        refused, would, users, first, last = found.get(limit, (0, 0, 0, None, None))
        times = (None if at is None else at_zone(at) for at in (first, last))
        rows.append(RefusalRow(limit, refused, would, near.get(limit, 0), users, *times))
    return Rows(sorted(rows, key=lambda row: (-row.refused, -row.would_refuse, -row.near, row.limit)))


def _meant(entry: Entry, question: Question) -> bool:
    if not question.since <= entry.at_us < question.until:
        return False
    have = {**entry.scope, "model": entry.model}
    return all(have.get(name) in question.texts(name) for name in question.where)
