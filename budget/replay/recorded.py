"""The calls of an account as its records have them: those of its ledger, and those that were imported."""

from __future__ import annotations

from collections.abc import Iterator

from budget.records import CallFile
from budget.replay.calls import Call

__all__ = ["Recorded"]

_SQL = """select seq, at * 1000, latency_ms * 1000000, usd, user, session, agent, model, provider, project, run, tags,
    input - cache_read - cache_write, cache_read, cache_write, output
    from calls where account = ? and at >= ? order by at - coalesce(latency_ms, 0) * 1000, seq"""
_COUNT = "select count(*) from calls where account = ? and at >= ?"
_KEPT = 65536  # names in memory


class Recorded:
    """The records, as calls to be replayed: in the order in which they began, read as they are needed.

    Args:
        records: The file; it is brought up to date.
        since_us: Only calls that ended from then on, microseconds since the epoch.
    """

    def __init__(self, records: CallFile, since_us: int = 0):
        self._db, self._account, self._since = records.open(), records.account, since_us
        self._names: dict[int | None, str] = {}
        self.skipped = 0
        self.rows: int = self._db.execute(_COUNT, (self._account, since_us)).fetchone()[0]

    def calls(self) -> Iterator[Call]:
        """Iterate the calls."""
        name = self._name
        for row in self._db.execute(_SQL, (self._account, self._since)):
            seq, end, took, usd, user, session, agent, model, provider, project, run, tags, *counts = row
            who = (
                name(user), name(session), name(agent), name(model), name(provider), name(project), name(run),
                tags or "",
            )  # fmt: skip
            fresh, read, written, output = counts
            yield Call(end - (took or 0), seq, end, who, max(fresh, 0), read, written, output, usd)

    def _name(self, number: int | None) -> str:
        known = self._names.get(number)
        if known is None:
            if len(self._names) > _KEPT:
                self._names.clear()
            row = self._db.execute("select text from names where id = ?", (number,)).fetchone()
            known = self._names[number] = row[0] if row else ""
        return known
