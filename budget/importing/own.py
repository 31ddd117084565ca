"""Our own JSON Lines, as the sink writes them: records, which were priced when they were made.

A correction or a withdrawal may follow much later than the call it is about; a first pass over the file finds them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeGuard

from budget.importing.call import Found, LeftOut, Source, each, need, scope_of, tokens, unix_us
from budget.importing.files import documents
from budget.limits import check_attributes
from budget.money import parse_usd
from budget.records import Record

__all__ = ["is_own", "read"]

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_LATER = ("correction", "withdrawn")
_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


def is_own(item: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a line is of this package's sink."""
    return isinstance(item, Mapping) and {"seq", "kind", "account", "id", "scope"} <= item.keys()


def read(source: Source) -> Iterator[Found]:
    """Read the records of a file.

    Raises:
        BudgetError: The file cannot be read.
    """
    later: dict[str, list[Record | None]] = {}
    for _, item in documents(source.path):
        if is_own(item) and item["kind"] in _LATER and isinstance(item["id"], str):
            try:
                more = None if item["kind"] == "withdrawn" else _record(source, item)
            except (ValueError, TypeError):
                continue  # the second pass will say so
            later.setdefault(item["id"], []).append(more)
    told = set(later)

    def call(line: int, item: Any) -> Found:
        if not is_own(item):
            raise ValueError("is no line of a record")
        kind = item["kind"]
        if kind in ("refused", "shadow"):
            return LeftOut(line, "refusals")
        if kind != "call" and kind not in _LATER:
            raise ValueError("kind: is none that a line of a record has")
        record = _record(source, item)
        if kind != "call":
            if record.id in told:
                raise ValueError(f"id: {kind} of a call that the file does not have before it")
            return LeftOut(line, "corrections, which are in the calls that they are about")
        told.discard(record.id)
        for more in later.get(record.id, ()):
            if more is None:
                return LeftOut(line, "withdrawn calls")
            record = _corrected(record, more)
        return record

    yield from each(documents(source.path), call)


def _corrected(record: Record, more: Record) -> Record:
    """Return a call with what became known of it later: what was added to it, or all of its usage."""
    changed = replace(
        record, nanos=record.nanos + more.nanos, outcome=more.outcome,
        latency_ms=record.latency_ms if more.latency_ms is None else more.latency_ms,
        first_token_ms=record.first_token_ms if more.first_token_ms is None else more.first_token_ms,
    )  # fmt: skip
    if more.usage is None:
        return replace(changed, **{name: getattr(record, name) + getattr(more, name) for name in _TOKENS})
    told = {name: getattr(more, name) for name in (*_TOKENS, "usage", "rates", "book", "estimated")}
    return replace(changed, **told)


def _record(source: Source, item: Mapping[str, Any]) -> Record:
    id, scope = need(item, "id"), item["scope"]
    if not isinstance(id, str) or not _ID.fullmatch(id):
        raise ValueError("id: is not 32 hex digits")
    if not isinstance(scope, Mapping):
        raise ValueError("scope: is not an object")
    given, output, read, written = (_count(item, name) for name in _TOKENS)
    record = Record(
        id, 0, unix_us(need(item, "at"), "at"), scope_of(source, **scope), _text(item, "model"),
        _text(item, "provider"), _nanos(item), given, output, read, written, _object(item, "usage"),
        _object(item, "rates"), _text(item, "book"), _some_nanos(item, "usd_expected"),
        _some_nanos(item, "usd_reserved"), item.get("estimated") is True, _some(item, "latency_ms"),
        _some(item, "first_token_ms"), _text(item, "outcome") or "ok", _text(item, "parent"),
    )  # fmt: skip
    if (record.latency_ms or 0) * 1000 > record.at_us:
        raise ValueError("latency_ms: it would have begun before the year 1970")
    _check_saved(record)
    return record


def _check_saved(record: Record) -> None:
    """See that usage and rates are what a record has: what its cache saved follows from them."""
    with suppress(TypeError, AttributeError):
        if record.saved is None or type(record.saved) is int:
            return
    raise ValueError("usage, rates: are not those of a record")


def _nanos(item: Mapping[str, Any]) -> int:
    """Read what a line adds to spent: below 0 where a correction gave something back."""
    value = need(item, "usd")
    if item["kind"] != "call" and isinstance(value, str) and value.startswith("-"):
        return -parse_usd(value[1:], "usd", booked=True)
    return parse_usd(value, "usd", booked=True)


def _count(item: Mapping[str, Any], name: str) -> int:
    """Read a count, which is below 0 where a correction took something back."""
    value = item.get(name)
    if item["kind"] != "call" and type(value) is int and value < 0:
        return -tokens(-value, name)
    return tokens(value, name)


def _some_nanos(item: Mapping[str, Any], name: str) -> int | None:
    return None if item.get(name) is None else parse_usd(item[name], name, booked=True)


def _some(item: Mapping[str, Any], name: str) -> int | None:
    return None if item.get(name) is None else tokens(item[name], name)


def _text(item: Mapping[str, Any], name: str) -> str | None:
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name}: is not text")
    if value is not None:
        check_attributes({name: value})
    return value


def _object(item: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    value = item.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ValueError(f"{name}: is not an object")
    return value
