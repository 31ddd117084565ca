"""The figures that Prometheus is shown: counters and histograms of what a ledger says, gauges of the limits."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from budget.records.changes import Corrected, Ended, Refused, Shadowed, Withdrawn
from budget.records.record import Record
from budget.sinks.levels import Level, Levels

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from budget.core import Engine
    from budget.ledger import Entry
    from budget.records.changes import Change

__all__ = ["MOST", "OTHER", "Figures", "without_names"]

MOST = 100
"""Values of a label that are kept apart."""
OTHER = "other"
"""What all values after those are together."""
_UNKNOWN = "unknown"
_NAMES = re.compile(r"(user|session|run)=")
_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_FIRST = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 30)
_USD = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
_WHO = ("model", "provider", "agent")


class Figures:
    """The metrics in a registry: the one that is given, or one of their own."""

    def __init__(self, registry: CollectorRegistry | None):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry or CollectorRegistry()
        self._labels: dict[str, set[str]] = {}
        self._levels, self._seen = Levels(), _Seen(self._bounded)
        self._made: list[Any] = [self._seen]
        self.registry.register(self._seen)

        def counter(name: str, text: str, labels: Iterable[str]) -> Any:
            self._made.append(Counter(name, text, tuple(labels), registry=self.registry))
            return self._made[-1]

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Any:
            self._made.append(Histogram(name, text, ("model",), buckets=bounds, registry=self.registry))
            return self._made[-1]

        self._calls = counter("budget_calls", "Calls that ended and were charged", (*_WHO, "outcome"))
        self._usd = counter("budget_cost_usd", "What calls cost, USD", _WHO)
        self._back = counter("budget_cost_returned_usd", "Cost that a later entry took back, USD", _WHO)
        self._tokens = counter(
            "budget_tokens", "Tokens; kind is input (not cached), cache_read, cache_write or output", ("kind", *_WHO)
        )
        self._refusals = counter(
            "budget_refusals", "What limits refused, or would have (mode=shadow)", ("limit", "mode")
        )
        self._latency = histogram("budget_latency_seconds", "Time to the end of the answer", _SECONDS)
        self._first = histogram("budget_first_token_seconds", "Time to the first part of an answer", _FIRST)
        self._cost = histogram("budget_call_cost_usd", "What one call cost, USD", _USD)
        self._at = Gauge(
            "budget_last_entry_timestamp_seconds", "When the last entry of the ledger that is counted was written",
            registry=self.registry,
        )  # fmt: skip
        self._made.append(self._at)

    def drop(self) -> None:
        """Take everything out of the registry again."""
        for metric in self._made:
            self.registry.unregister(metric)

    def look(self, engine: Engine) -> None:
        """Take the levels of the limits, if it is time to."""
        found = self._levels.due(engine)
        if found is not None:
            self._seen.levels = tuple(found)

    def count(self, entry: Entry, change: Change) -> None:
        """Count what an entry did."""
        if isinstance(change, Ended):
            self._ended(change.record)
        elif isinstance(change, Corrected):
            self._money(self._who(change.record), change.record.nanos)
        elif isinstance(change, Withdrawn):
            who = (entry.model, entry.scope.get("provider"), entry.scope.get("agent"))
            self._money(self._values(_WHO, who), entry.amounts[0] or 0)
        elif isinstance(change, Refused | Shadowed):
            mode = "shadow" if isinstance(change, Shadowed) else "enforce"
            for limit in change.limits or (_UNKNOWN,):
                self._refusals.labels(self._bounded("limit", without_names(limit)), mode).inc()
        self._at.set(entry.at_us / 1e6)

    def _ended(self, record: Record) -> None:
        who = self._who(record)
        self._calls.labels(*who, self._bounded("outcome", record.outcome)).inc()
        self._money(who, record.nanos)
        plain = record.input_tokens - record.cache_read_tokens - record.cache_write_tokens
        kinds = {
            "input": plain, "cache_read": record.cache_read_tokens, "cache_write": record.cache_write_tokens,
            "output": record.output_tokens,
        }  # fmt: skip
        for kind, tokens in kinds.items():
            self._tokens.labels(kind, *who).inc(max(0, tokens))
        self._cost.labels(who[0]).observe(record.nanos / 1e9)
        for metric, ms in ((self._latency, record.latency_ms), (self._first, record.first_token_ms)):
            if ms is not None:
                metric.labels(who[0]).observe(ms / 1000)

    def _money(self, who: list[str], nanos: int) -> None:
        (self._usd if nanos >= 0 else self._back).labels(*who).inc(abs(nanos) / 1e9)

    def _who(self, record: Record) -> list[str]:
        return self._values(_WHO, (record.model, record.provider, record.scope.get("agent")))

    def _values(self, labels: Iterable[str], values: Iterable[str | None]) -> list[str]:
        return [self._bounded(label, value or _UNKNOWN) for label, value in zip(labels, values, strict=True)]

    def _bounded(self, label: str, value: str) -> str:
        seen = self._labels.setdefault(label, set())
        if value not in seen:
            if len(seen) >= MOST:
                return OTHER
            seen.add(value)
        return value


class _Seen:
    """The gauges of the limits: all of one look, or none."""

    def __init__(self, bounded: Any):
        self.levels: tuple[Level, ...] = ()
        self._bounded = bounded

    def collect(self) -> Iterator[Any]:
        """Yield the gauges, as a registry asks for them."""
        from prometheus_client.core import GaugeMetricFamily

        rules = [(self._bounded("limit", without_names(level.limit)), level) for level in self.levels]
        for name, text in (
            ("amount", "What a limit allows one subject"),
            ("used", "What is spent of a limit in its present windows, over all subjects"),
            ("reserved", "What is set aside of a limit now, over all subjects"),
            ("pools", "How many subjects a limit has a pool of"),
            ("highest", "How full the fullest pool of a limit is, spent and reserved: 1 is full"),
        ):
            family = GaugeMetricFamily(f"budget_limit_{name}", text, labels=("limit", "unit"))
            figures: dict[tuple[str, str], float] = {}
            for rule, level in rules:
                key, figure = (rule, level.unit), float(getattr(level, name))
                if key not in figures:
                    figures[key] = figure
                else:  # several rules that are one without the names in them
                    before = figures[key]
                    figures[key] = {"amount": min, "highest": max}.get(name, lambda one, two: one + two)(before, figure)
            for key, figure in figures.items():
                family.add_metric(key, figure)
            yield family


def without_names(limit: str) -> str:
    """Return the text of a limit without the id of the user, session or run that it is for."""
    try:
        parts = shlex.split(limit)
    except ValueError:
        return OTHER
    return " ".join(f"{match[0]}*" if (match := _NAMES.match(part)) else part for part in parts)
