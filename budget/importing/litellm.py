"""LiteLLM's spend logs: rows of its table `LiteLLM_SpendLogs`, as JSON or CSV.

The columns are those of litellm/proxy/schema.prisma (LiteLLM 1.106, read 2026-11-22). `prompt_tokens` has the cached
tokens inside; how many those are stands in `metadata.additional_usage_values`, else in `metadata.usage_object`. The
columns that hold texts (messages, response, proxy_server_request) and keys are never read.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from budget.importing.call import (
    Call,
    Found,
    LeftOut,
    Source,
    each,
    need,
    provider_of,
    scope_of,
    tokens,
    unix_us,
    usd_of,
)
from budget.importing.files import documents, rows_of
from budget.usage import Usage

__all__ = ["is_row", "read"]


def is_row(names: Any) -> bool:
    """Whether columns or keys are those of a spend log."""
    return {"request_id", "startTime", "spend", "prompt_tokens"} <= set(names)


def read(source: Source) -> Iterator[Found]:
    """Read the calls of a file of spend logs.

    Raises:
        BudgetError: The file cannot be read.
    """

    def call(line: int, row: Any) -> Found:
        if not isinstance(row, Mapping):
            raise ValueError("is not a row of a spend log")
        if str(row.get("cache_hit")).lower() == "true":
            return LeftOut(line, "answers from LiteLLM's own cache")
        usage = _usage(row)
        if row.get("status") == "failure" and not usage.tokens:
            return LeftOut(line, "failed calls without a usage")
        key, model = str(need(row, "request_id")), str(need(row, "model"))
        provider = provider_of(row.get("custom_llm_provider"))
        ends = row.get("endTime") or row.get("startTime")
        began, at = unix_us(need(row, "startTime"), "startTime"), unix_us(ends, "endTime")
        first = row.get("completionStartTime")
        scope = scope_of(
            source, user=row.get("end_user") or row.get("user"), session=row.get("session_id"),
            agent=row.get("agent_id"), team=row.get("team_id"), org=row.get("organization_id"),
        )  # fmt: skip
        return Call(
            line, key, at, model.removeprefix(f"{row.get('custom_llm_provider')}/"), provider, usage, scope,
            usd_of(row.get("spend"), "spend"), max(0, (at - began) // 1000),
            None if not first else max(0, (unix_us(first, "completionStartTime") - began) // 1000),
            "ok" if row.get("status") != "failure" else "failure",
        )  # fmt: skip

    yield from each(_rows(source), call)


def _rows(source: Source) -> Iterator[tuple[int, Any]]:
    if source.path.name.removesuffix(".gz").endswith(".csv"):
        rows = rows_of(source.path)
        _, header = next(rows, (0, []))
        for line, row in rows:
            if isinstance(row, csv.Error) or isinstance(header, csv.Error) or len(row) != len(header):
                yield line, row if isinstance(row, csv.Error) else ValueError()
            else:
                yield line, dict(zip(header, row, strict=True))
    else:
        yield from documents(source.path)


def _usage(row: Mapping[str, Any]) -> Usage:
    metadata = _json(row.get("metadata"))
    more, whole = _json(metadata.get("additional_usage_values")), _json(metadata.get("usage_object"))
    details = _json(more.get("prompt_tokens_details")) or _json(whole.get("prompt_tokens_details"))

    def cached(name: str, detail: str) -> int:
        value = next((v for v in (more.get(name), whole.get(name), details.get(detail)) if v is not None), None)
        return tokens(value, name)

    given, output = (tokens(row.get(name), name) for name in ("prompt_tokens", "completion_tokens"))
    read = cached("cache_read_input_tokens", "cached_tokens")
    written = cached("cache_creation_input_tokens", "cache_creation_tokens")
    fresh = given - read - written
    if fresh < 0:
        raise ValueError(f"prompt_tokens: {given} is below its cached tokens ({read} read, {written} written)")
    return Usage(fresh, read, {"5m": written} if written else {}, output)


def _json(value: Any) -> Mapping[str, Any]:
    """Return an object that may be written as text; an empty one for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value, parse_float=Decimal)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}
