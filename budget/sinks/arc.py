"""Arc, a time-series database: `arc+http://arc:8000/llm_costs?token_env=ARC_TOKEN`.

Rows go to `POST /api/v1/write/msgpack`, columnar, one map per request: of several in one, those that Arc cannot read
are left out, and the answer is success all the same. Arc takes a column's type from its first value that is not null,
and cuts floats down to whole numbers if that was an integer. So money is always float here, counts are always int,
times are milliseconds, and a column without any value is not sent (it would become text).

There are three measurements: `llm_usage`, a row per call, correction and withdrawal, which can be added up (see
`rows.py`), `llm_refusals`, and `llm_limits`, how full each limit was. Success means that Arc has the rows in memory,
and there is no key for repeats: each row has a `call_id` of its own, by which queries leave doubles out.

Source: Arc's documentation and source code, as of August 2026.
"""

from __future__ import annotations

import gzip
import re
from typing import TYPE_CHECKING, Any

from budget.errors import ConfigError
from budget.money import NANOS
from budget.sinks.base import Batch, SinkFailed, Spec, need
from budget.sinks.http import Poster
from budget.sinks.levels import Levels
from budget.sinks.rows import call_rows, refusal_rows
from budget.sinks.webhook import secret_of

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["CALLS", "LIMITS", "REFUSALS", "Arc"]

CALLS, REFUSALS, LIMITS = "llm_usage", "llm_refusals", "llm_limits"
"""The measurements."""
_PATH = "/api/v1/write/msgpack"
_DATABASE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_MONEY = {"nanos": "cost_usd", "expected": "expected_usd", "reserved": "reserved_usd", "saved": "saved_usd"}
_TAKEN = 204
_TRIES = 5  # answers of 500 in a row after which a batch is taken to be at fault: a wrong type is answered so, too


class Arc:
    """A database of an Arc server.

    Args:
        url: Of the server, "http://arc:8000".
        database: Its name there.
        token_env: The environment variable with a token that may write; None: none is sent.
        name: Of the sink.
    """

    def __init__(self, url: str, database: str = "default", token_env: str | None = None, name: str = "arc"):
        need("msgpack", "arc")
        if not _DATABASE.fullmatch(database):
            raise ConfigError(
                f"sinks: {database[:70]!r} is not the name of an Arc database: letter, then 63 of A-Z0-9_-"
            )
        self.name, self._poster, self._database, self._token_env = name, Poster(url), database, token_env
        secret_of(token_env)
        self._taken: tuple[int, int, str] | None = None
        self._broken = 0
        self._engine: Engine | None = None
        self._levels = Levels()

    @classmethod
    def of(cls, spec: Spec) -> Arc:
        """Make one from text: the last part of the path is the database."""
        url, _, database = spec.target.rpartition("/")
        if url.endswith("/") or not url:
            url, database = spec.target, "default"
        name, token_env = spec.name(), spec.take("token_env", "")
        spec.done()
        return cls(url, database or "default", token_env or None, name)

    def write(self, batch: Batch) -> None:
        """Write the rows of a batch; of two measurements, what was taken already is not sent again."""
        rows = [_row(record.at_us, row) for record, row in call_rows(batch)]
        turned = [{"time": at_us // 1000, **row} for at_us, row in refusal_rows(batch)]
        if rows and self._taken != (batch.first, batch.last, CALLS):
            self._post(CALLS, rows)
            self._taken = (batch.first, batch.last, CALLS)
        if turned:
            self._post(REFUSALS, turned)

    def attach(self, engine: Engine) -> None:
        """Take note of the engine whose limits are told of."""
        self._engine = engine

    def tick(self, now_us: int) -> None:
        """Say how full the limits are, if it is time."""
        levels = self._levels.due(self._engine) if self._engine is not None else None
        if levels and self._engine is not None:
            account, now = self._engine.settings.account, now_us // 1000
            rows = [level._asdict() for level in levels]
            self._post(LIMITS, [{"time": now, "call_id": f"{account}:{row['limit']}:{now}", "account": account, **row}
                                for row in rows])  # fmt: skip

    def close(self) -> None:
        """Let go of the connection."""
        self._poster.close()

    def _post(self, measurement: str, rows: list[dict[str, Any]]) -> None:
        import msgpack  # type: ignore[import-untyped]

        columns = {name: [row[name] for row in rows] for name in rows[0]}
        filled = {name: values for name, values in columns.items() if any(value is not None for value in values)}
        body = gzip.compress(msgpack.packb({"m": measurement, "columns": filled}), 1)
        headers = {"Content-Type": "application/msgpack", "x-arc-database": self._database}
        if token := secret_of(self._token_env):
            headers["Authorization"] = f"Bearer {token}"
        try:
            status = self._poster.post(body, headers, _PATH)
        except SinkFailed as error:
            self._broken = self._broken + 1 if " 500" in str(error) else 0
            if self._broken >= _TRIES:
                raise SinkFailed(str(error), permanent=True, smaller=True) from error
            raise
        self._broken = 0
        if status != _TAKEN:
            raise SinkFailed(f"{self._poster.origin} answered {status}: this is no Arc", permanent=True)


def _row(at_us: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as Arc takes it: money as float USD, and a time in milliseconds."""
    told: dict[str, Any] = {"time": at_us // 1000}
    for name, value in row.items():
        if name in _MONEY:
            told[_MONEY[name]] = None if value is None else value / NANOS
        else:
            told[name] = value
    return told
