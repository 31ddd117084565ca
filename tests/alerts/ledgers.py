"""Ledgers that the real engine makes on a virtual clock, and the alerts that come of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from budget.alerts import Alert, Alerts
from budget.records.changes import changes_of
from budget.sinks.base import Batch
from budget.testing import Clock, Sandbox
from budget.usage import Usage

NOON = datetime(2026, 9, 2, 12, tzinfo=UTC)  # a Wednesday
MODEL = "claude-sonnet-4-6"


class World:
    """A budget in memory at a noon, and what it is warned of by some rules."""

    def __init__(self, *rules: str, limits: tuple[str, ...] = (), at: datetime = NOON, **options: Any):
        self.clock = Clock(at)
        self.budget = Sandbox(clock=self.clock, limits=list(limits), **options)
        self.told: list[Alert] = []
        self.alerts: Alerts | None = None
        if rules:
            self.watch(*rules)

    def watch(self, *rules: str) -> None:
        """Begin to warn: what came before is history."""
        self.alerts = Alerts(self.budget.engine, list(rules), [self.told.append])
        self.place = self.alerts.resume("default", 0)

    def spend(self, usd: str, times: int = 1, every: str = "0s", **attributes: str) -> None:
        """Record calls, so far from one another."""
        for _ in range(times):
            self.budget.record(usd=usd, **attributes)
            self.clock.move(every)

    def call(self, times: int = 1, read: int = 0, fresh: int = 1000, **attributes: str) -> None:
        """Record calls with a usage, a second from one another."""
        usage = Usage(input=fresh, cache_read=read, output=10)
        for _ in range(times):
            self.budget.record(usage, model=MODEL, **attributes)
            self.clock.move("1s")

    def look(self) -> list[str]:
        """Have the rules read on and look at the time; return the texts of what they warn of."""
        assert self.alerts is not None
        found = [each for each in self.budget.entries() if each.seq > self.place]
        if found:
            changes = tuple((entry, change) for entry, change in changes_of(found) if change is not None)
            self.alerts.write(Batch("default", found[0].seq, found[-1].seq, changes))
            self.place = found[-1].seq
        self.alerts.tick(self.clock())
        self.alerts.close()
        new = self.told[:]
        self.told.clear()
        return [alert.text for alert in new]
