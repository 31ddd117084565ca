"""Calls, from the entries of the ledger.

A call is one reservation id with an end that was charged: reconciled, expired or recorded. A refunded one is no call.
A correction after expiry belongs to the same call: its figures are added to those of the expiry, and a late refund
takes the call away again. Of an entry nothing is kept but a few figures per call, so ledgers may be long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from budget.errors import ArgumentTypeError
from budget.ledger import Entry
from budget.limits import check_attributes

__all__ = ["Call", "calls_of"]

_CHARGED = ("reconciled", "expired", "recorded")


class Call:
    """The sums of one call.

    Attributes:
        by: The value that it is grouped by, or None.
        nanos: What it cost.
        tokens: Input, output, cache read, cache write.
        estimate: The estimate that it was reserved by, or None.
        told: Whether the provider said what was used.
    """

    __slots__ = ("by", "estimate", "nanos", "tokens", "told")

    def __init__(self, by: str | None):
        self.by, self.nanos, self.told = by, 0, False
        self.tokens: tuple[int, ...] = (0, 0, 0, 0)
        self.estimate: Mapping[str, Any] | None = None

    def add(self, entry: Entry) -> None:
        """Add one of its ends."""
        self.nanos += entry.amounts[0]
        self.estimate = entry.estimate or self.estimate
        usage = entry.detail.get("usage")
        if usage is not None:  # the whole truth about a call, also in a correction
            self.told = not entry.detail.get("estimated")
            self.tokens = _tokens(usage)
        else:
            known_input, known_output, *cached = self.tokens
            self.tokens = (known_input + entry.amounts[2], known_output + entry.amounts[3], *cached)


def calls_of(entries: Iterable[Entry], by: str) -> tuple[Iterable[Call], Counter[str | None]]:
    """Return the calls of a ledger, and how many reserves were refused, by the attribute they are grouped by.

    Args:
        entries: Entries of one account, oldest first. A call belongs to them if its first end is among them.
        by: An attribute of the calls (`user`, `session`, `agent`, `run`, any tag), `model` (as answered), `provider`,
            or `day` (UTC, of its end).

    Raises:
        ArgumentTypeError, ConfigError: `by` is not the name of an attribute.
    """
    if not isinstance(by, str):
        raise ArgumentTypeError(f"by: {type(by).__name__} is not the name of one attribute, such as 'user'")
    check_attributes({by: "any"})
    calls: dict[str, Call] = {}
    refused: Counter[str | None] = Counter()
    for entry in entries:
        id = entry.reservation
        if entry.kind == "refused":
            refused[_key(entry, by)] += 1
        elif id is not None and entry.kind == "refunded":
            calls.pop(id, None)
        elif id is not None and entry.kind in _CHARGED and _counts(entry, id in calls):
            calls.setdefault(id, Call(_key(entry, by))).add(entry)
    return calls.values(), refused


def _counts(entry: Entry, known: bool) -> bool:
    """Whether an end is of a call among these: not a correction of an earlier one, nor that of a link to a call."""
    return (known or not entry.detail.get("late")) and "link" not in entry.detail


def _key(entry: Entry, by: str) -> str | None:
    if by == "day":
        return str(entry.at.date().isoformat())
    if by == "model":
        return entry.model
    return entry.scope.get(by) or (entry.detail.get("provider") if by == "provider" else None)


def _tokens(usage: Mapping[str, Any]) -> tuple[int, ...]:
    read, written = usage.get("cache_read", 0), sum(usage.get("cache_write", {}).values())
    return usage.get("input", 0) + read + written, usage.get("output", 0), read, written
