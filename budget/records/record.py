"""One call, as its final entry in the ledger tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from budget.ledger import Entry
from budget.money import format_usd, parse_usd, to_decimal
from budget.window import at_zone

__all__ = ["CHARGED", "COLUMNS", "Record", "record_of", "tokens_of"]

CHARGED = ("reconciled", "expired", "recorded")
"""The kinds of entries that end a call and charge it."""
COLUMNS = ("user", "session", "agent", "project", "model", "provider", "run")
"""The attributes that have a column of their own in a `CallFile`; others are tags."""
_MAPPINGS = ("scope", "usage", "rates")


@dataclass(slots=True)  # "frozen" would take four times as long to make, once per call
class Record:
    """What one call was. Money is int nano-dollars. Nobody changes it.

    Attributes:
        id: Of the reservation (32 hex digits): where a receiver cannot tell what it has had, this is how.
        seq: The ledger's number of the entry that ended it.
        at_us: When it ended, microseconds since the epoch (UTC).
        scope: The attributes of the call: user, session, agent, run and tags.
        model, provider: As answered, else as requested; None if nobody said.
        nanos: What it cost.
        input_tokens: All input, cached too.
        output_tokens: All output, reasoning too.
        cache_read_tokens, cache_write_tokens: The parts of the input that were read from and written to a cache.
        usage: The buckets as the provider reported them (disjoint), or None.
        rates: The rates that it was priced by, pico-dollars per token, or None.
        book: The hash of the price book, or None.
        expected, reserved: What was expected of it, and what was set aside for it; None without an estimate.
        estimated: The charge is an estimate: the provider did not say what was used.
        latency_ms, first_token_ms: To the end of the answer and to its first part; None where nobody measured.
        outcome: "ok", or how it ended otherwise: "cut short", "expired", the name of an error's class.
        parent: The run around its run, or None.
    """

    id: str
    seq: int
    at_us: int
    scope: Mapping[str, str]
    model: str | None
    provider: str | None
    nanos: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    usage: Mapping[str, Any] | None
    rates: Mapping[str, Any] | None
    book: str | None
    expected: int | None
    reserved: int | None
    estimated: bool
    latency_ms: int | None
    first_token_ms: int | None
    outcome: str
    parent: str | None

    @property
    def usd(self) -> Decimal:
        """What it cost, in USD."""
        return to_decimal(self.nanos)

    @property
    def saved(self) -> int | None:
        """What its cache saved, in nano-dollars: below 0 where writing cost more than reading saved; None if not known.

        Each token read from a cache saves what it would have cost as plain input; each one written cost more.
        """
        if self.usage is None or not self.rates or "input" not in self.rates:
            return None
        plain, rates = self.rates["input"], self.rates
        saved: int = self.cache_read_tokens * (plain - rates.get("cache_read", plain))
        for age, count in self.usage.get("cache_write", {}).items():
            saved -= count * (rates.get("cache_write", {}).get(age, plain) - plain)
        return saved // 1000

    @property
    def at(self) -> datetime:
        """When it ended, as an aware datetime in UTC."""
        return at_zone(self.at_us)

    @property
    def day(self) -> str:
        """The day (UTC) of its end: "2026-01-31"."""
        return str(self.at.date().isoformat())

    @property
    def tags(self) -> dict[str, str]:
        """The attributes that have no column of their own."""
        return {name: value for name, value in self.scope.items() if name not in COLUMNS}

    def column(self, name: str) -> str | None:
        """Return an attribute, `model`, `provider` or `day`; None where the call has none."""
        if name in ("model", "provider", "day"):
            found: str | None = getattr(self, name)
            return found
        return self.scope.get(name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        money = {"nanos": "usd", "expected": "usd_expected", "reserved": "usd_reserved"}
        found: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name in money:
                found[money[name]] = None if value is None else format_usd(value)
            elif name == "at_us":
                found["at"] = self.at.isoformat()
            else:
                found[name] = dict(value) if name in _MAPPINGS and value is not None else value
        return found


def record_of(entry: Entry) -> Record:
    """Return the record of a call from the entry that ended and charged it."""
    detail, scope = entry.detail, entry.scope
    usage, estimate = detail.get("usage"), entry.estimate
    expected = reserved = None
    if estimate is not None:
        expected = parse_usd(estimate["usd"], "usd", booked=True)
        reserved = parse_usd(estimate.get("usd_reserved", estimate["usd_max"]), "usd_reserved", booked=True)
    provider = scope.get("provider") or detail.get("provider")
    return Record(
        entry.reservation or "", entry.seq, entry.at_us, scope, entry.model, provider, entry.amounts[0],
        *tokens_of(entry), usage, detail.get("rates"), detail.get("book"), expected, reserved,
        usage is None or bool(detail.get("estimated")), detail.get("latency_ms"), detail.get("first_token_ms"),
        "expired" if entry.kind == "expired" else detail.get("outcome", "ok"), detail.get("parent"),
    )  # fmt: skip


def tokens_of(entry: Entry) -> tuple[int, int, int, int]:
    """Return input (cached too), output, cache read and cache write tokens of an end."""
    usage = entry.detail.get("usage")
    if usage is None:
        return entry.amounts[2], entry.amounts[3], 0, 0
    read, written = usage.get("cache_read", 0), sum(usage.get("cache_write", {}).values())
    return usage.get("input", 0) + read + written, usage.get("output", 0), read, written
