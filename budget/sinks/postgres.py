"""PostgreSQL: `postgresql://writer@db/costs?table=calls`, a row per call, correction, withdrawal and refusal.

The rows of a batch and how far the ledger was read stand in one transaction, so that each is in the table exactly once;
the primary key (`account`, `call_id`) says so besides. The tables are made if they are missing: `calls`, and
`calls_places` with the place of each sink. Rows can be added up (`rows.py`). Other options of the URL are libpq's; a
password belongs into its password file or PGPASSWORD.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from budget.errors import ConfigError
from budget.sinks.base import Batch, SinkFailed, Spec, need
from budget.sinks.rows import COLUMNS, table_rows

if TYPE_CHECKING:
    import psycopg

__all__ = ["Postgres"]

_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,40}(\.[a-z_][a-z0-9_]{0,40})?", re.ASCII)
_TYPES = {"varchar": "text", "bigint": "bigint", "boolean": "boolean", "decimal(28,9)": "numeric(28, 9)"}
_LOCK = 0x6275646765740001  # an advisory lock: two that make the same table at once fail otherwise


class Postgres:
    """A table of a database.

    Args:
        url: As libpq takes it.
        table: Its name, with a schema or without.
        name: Of the sink.
    """

    def __init__(self, url: str, table: str = "calls", name: str = "postgresql"):
        if not _TABLE.fullmatch(table):
            raise ConfigError(f"sinks: {table[:90]!r} is not the name of a table: a-z, 0-9 and _, with a schema or not")
        need("psycopg", "postgres")
        self.name, self._url, self._table = name, url, table
        self._connection: psycopg.Connection[Any] | None = None
        columns = ", ".join(f'"{column}"' for column in COLUMNS)
        values = ", ".join(
            "'epoch'::timestamptz + %(time)s * interval '1 microsecond'" if column == "time" else f"%({column})s"
            for column in COLUMNS
        )
        self._insert = f"insert into {table} ({columns}) values ({values}) on conflict do nothing"  # noqa: S608

    @classmethod
    def of(cls, spec: Spec) -> Postgres:
        """Make one from text. Options that are not ours are libpq's."""
        name, table = spec.name(), spec.take("table", "calls")
        return cls(spec.url(), table, name)

    def resume(self, account: str, kept: int) -> int:
        """Return the place that stands beside the rows."""
        query = f"select seq from {self._table}_places where sink = %s and account = %s"  # noqa: S608
        row = self._do(lambda db: db.execute(query, (self.name, account)).fetchone())
        return int(row[0]) if row else kept

    def write(self, batch: Batch) -> None:
        """Insert the rows of a batch and move the place, in one transaction."""
        rows = [{**dict.fromkeys(COLUMNS), **row} for row in table_rows(batch)]
        place = f"""insert into {self._table}_places values (%s, %s, %s)
            on conflict (sink, account) do update set seq = excluded.seq"""  # noqa: S608

        def put(db: psycopg.Connection[Any]) -> None:
            with db.cursor() as cursor:
                cursor.executemany(self._insert, rows)
            db.execute(place, (self.name, batch.account, batch.last))

        self._do(put)

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _do(self, work: Any) -> Any:
        """Do something in one transaction, on a connection that is opened if need be."""
        import psycopg

        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, connect_timeout=10, autocommit=True)
                self._prepare(self._connection)
            with self._connection.transaction():
                return work(self._connection)
        except psycopg.Error as error:
            self.close()
            passing = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
            raise SinkFailed(
                _said(error), permanent=not passing, smaller=isinstance(error, psycopg.DataError)
            ) from error

    def _prepare(self, db: psycopg.Connection[Any]) -> None:
        columns = ", ".join(
            f'"{name}" {"timestamptz" if name == "time" else _TYPES[kind]}' for name, kind in COLUMNS.items()
        )
        with db.transaction():
            db.execute("set statement_timeout = '60s'")
            db.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
            if db.execute("select to_regclass(%s)", (f"{self._table}_places",)).fetchone() == (None,):
                db.execute(f"create table if not exists {self._table} ({columns}, primary key (account, call_id))")
                db.execute(f"""create table if not exists {self._table}_places
                    (sink text, account text, seq bigint not null, primary key (sink, account))""")


def _said(error: psycopg.Error) -> str:
    """Return what may be said of an error: a message of the server can hold values of a row."""
    if error.sqlstate is not None:
        return f"PostgreSQL answered {error.sqlstate} ({type(error).__name__})"
    return (
        f"PostgreSQL cannot be reached: {str(error).strip().splitlines()[0][:200]}"
        if str(error).strip()
        else (f"PostgreSQL cannot be reached: {type(error).__name__}")
    )
