"""What sinks write: a line of JSON per change, or a flat row of a table.

A line says what became known, as it became known: a call, a correction of it, its withdrawal, a refusal, or what limits
in shadow mode would have refused. Rows of a table can be added up besides: a correction has only what it added, and a
withdrawal takes away what was charged, so that sums over all rows are right, and `calls` (1, 0, -1) counts them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from budget.ledger import Entry
from budget.money import format_usd
from budget.records.changes import Change, Corrected, Ended, Refused, Shadowed, Withdrawn
from budget.records.record import Record, record_of
from budget.sinks.base import Batch
from budget.window import at_zone

__all__ = ["COLUMNS", "call_rows", "line_of", "lines_of", "refusal_rows", "table_rows"]

_MONEY = {"nanos": "usd", "expected": "expected_usd", "reserved": "reserved_usd", "saved": "saved_usd"}
COLUMNS = {
    "time": "bigint", "call_id": "varchar", "seq": "bigint", "account": "varchar", "kind": "varchar",
    "calls": "bigint", "model": "varchar", "provider": "varchar", "user_id": "varchar", "session_id": "varchar",
    "agent": "varchar", "project": "varchar", "run_id": "varchar", "parent_id": "varchar", "tags": "varchar",
    "usd": "decimal(28,9)", "input_tokens": "bigint", "output_tokens": "bigint", "cache_read_tokens": "bigint",
    "cache_write_tokens": "bigint", "estimated": "boolean", "expected_usd": "decimal(28,9)",
    "reserved_usd": "decimal(28,9)", "saved_usd": "decimal(28,9)", "latency_ms": "bigint",
    "first_token_ms": "bigint", "outcome": "varchar", "limit": "varchar",
}  # fmt: skip
"""The columns of a table of records, and their types; `time` is in microseconds."""
_KINDS = {Ended: ("call", 1), Corrected: ("correction", 0), Withdrawn: ("withdrawn", -1)}


def lines_of(batch: Batch) -> Iterator[dict[str, Any]]:
    """Iterate a batch as JSON types, an object per change."""
    return (line_of(batch.account, entry, change) for entry, change in batch.changes)


def line_of(account: str, entry: Entry, change: Change) -> dict[str, Any]:
    """Return a change as JSON types: `seq`, `kind`, `account`, and what is known of the call. Money is decimal text."""
    if isinstance(change, Refused | Shadowed):
        kind = "refused" if isinstance(change, Refused) else "shadow"
        about = {"at": at_zone(change.at_us).isoformat(), "scope": dict(change.scope), "model": change.model}
        detail = {
            name: value for name, value in change.detail.items() if name in ("refused", "shadow", "run", "parent")
        }
        return {"seq": entry.seq, "kind": kind, "account": account, "id": entry.reservation, **about,
                "limits": list(change.limits), "detail": detail}  # fmt: skip
    kind, _ = _KINDS[type(change)]
    return {"seq": entry.seq, "kind": kind, "account": account, **_record(entry, change).to_dict()}


def call_rows(batch: Batch) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Iterate the calls, corrections and withdrawals of a batch as rows; money is in nano-dollars.

    `call_id` is the id of the call, and for what follows of it, id and number of the entry: unique over all rows.
    """
    for entry, change in batch.changes:
        if isinstance(change, Refused | Shadowed):
            continue
        kind, calls = _KINDS[type(change)]
        record = _record(entry, change)
        known = record.scope.get
        tokens = (record.input_tokens, record.output_tokens) if calls == 1 else (entry.amounts[2], entry.amounts[3])
        yield record, {
            "call_id": record.id if calls == 1 else f"{record.id}:{entry.seq}", "seq": entry.seq,
            "account": batch.account, "kind": kind, "calls": calls, "model": _clean(record.model),
            "provider": _clean(record.provider),
            "user_id": known("user"), "session_id": known("session"), "agent": known("agent"),
            "project": known("project"), "run_id": known("run"), "parent_id": record.parent, "tags": _tags(record),
            "nanos": record.nanos, "input_tokens": tokens[0], "output_tokens": tokens[1],
            "cache_read_tokens": record.cache_read_tokens, "cache_write_tokens": record.cache_write_tokens,
            "estimated": record.estimated, "expected": record.expected if calls == 1 else None,
            "reserved": record.reserved if calls == 1 else None, "saved": record.saved,
            "latency_ms": record.latency_ms, "first_token_ms": record.first_token_ms, "outcome": _clean(record.outcome),
        }  # fmt: skip


def refusal_rows(batch: Batch) -> Iterator[tuple[int, dict[str, Any]]]:
    """Iterate the refusals of a batch, and those of limits in shadow mode: when, and a row per limit that refused."""
    for entry, change in batch.changes:
        if not isinstance(change, Refused | Shadowed):
            continue
        known = change.scope.get
        for number, limit in enumerate(change.limits or ("",)):
            yield change.at_us, {
                "call_id": f"{batch.account}:{entry.seq}:{number}", "seq": entry.seq, "account": batch.account,
                "kind": "refused" if isinstance(change, Refused) else "shadow", "limit": limit,
                "model": _clean(change.model),
                "user_id": known("user"), "session_id": known("session"), "agent": known("agent"),
                "project": known("project"), "run_id": known("run"),
            }  # fmt: skip


def table_rows(batch: Batch) -> Iterator[dict[str, Any]]:
    """Iterate a batch as rows of `COLUMNS`: calls, what follows of them, and refusals. Money is decimal text."""
    for record, row in call_rows(batch):
        told = {_MONEY.get(name, name): value for name, value in row.items()}
        money = {new: None if row[old] is None else format_usd(row[old]) for old, new in _MONEY.items()}
        yield {"time": record.at_us, **told, **money}
    for at_us, row in refusal_rows(batch):
        none = {"input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0}
        yield {"time": at_us, "calls": 0, "usd": "0", **none, **row}


def _record(entry: Entry, change: Ended | Corrected | Withdrawn) -> Record:
    return record_of(entry) if isinstance(change, Withdrawn) else change.record


def _tags(record: Record) -> str | None:
    return json.dumps(record.tags, sort_keys=True) if record.tags else None


def _clean(text: str | None) -> str | None:
    """Return a text that others said as every receiver takes it: without NUL and lone surrogates."""
    if text is None or text.isprintable():
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
