"""The store of a disabled engine (`BUDGET_DISABLED=1`): every verb is admitted, and nothing is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from budget.commands import ChangePolicy, Command, Outcome, Reconcile, Record, Refund, Reservation, Reserve, Status
from budget.ledger import Entry
from budget.stores.base import Snapshot
from budget.stores.watches import LedgerWatch

__all__ = ["DisabledStore"]

_NOTHING = (0, 0, 0, 0, 0)


class DisabledStore:
    """Admits everything and remembers nothing. See `stores.base.Store`."""

    url = "disabled://"
    default_timeout = 2.0
    undelivered: Callable[[str, Command], None] | None = None  # nothing fails here

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Answer as if there were no limit."""
        now = time.time_ns() // 1000
        if isinstance(command, Reserve):
            until = now + command.lease_us
            made = Reservation(
                command.id, command.digest, "open", command.amounts, (), command.lease_us, until, now,
                scope=command.scope, detail=command.detail, parent=command.parent,
            )  # fmt: skip
            return Outcome("reserved", now, 0, reservation=made)
        if isinstance(command, Reconcile | Refund | Record):
            how = "refunded" if isinstance(command, Refund) else "reconciled"
            charged = _NOTHING if isinstance(command, Refund) else command.actual
            ended = Reservation(command.id, "", how, _NOTHING, (), 0, now, now, now, charged)
            return Outcome(how, now, 0, reservation=ended)
        if isinstance(command, Status):
            return Outcome("status", now, 0, [None] * len(command.pools))
        return Outcome("changed" if isinstance(command, ChangePolicy) else "unchanged", now, 0)

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Answer as if there were no limit."""
        return self.call(account, command, timeout)

    def post(self, account: str, command: Command) -> None:
        """Do nothing."""

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Return no entries."""
        return []

    def lines(self, account: str, after: int) -> Iterator[Entry]:
        """Return no entries."""
        return iter(())

    def checkpoint(self, account: str) -> None:
        """There is none."""

    def forget_entries(self, account: str, upto: int) -> None:
        """Do nothing."""

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Return no reservations."""
        return []

    def ended(self, account: str) -> Sequence[Reservation]:
        """Return no reservations."""
        return []

    def snapshot(self, account: str) -> Snapshot:
        """Return an empty account."""
        return Snapshot({}, {}, 0, bytes(32))

    def names(self, account: str) -> Mapping[str, str]:
        """Return no pools."""
        return {}

    def last(self, account: str) -> int:
        """Return 0: there are no entries."""
        return 0

    def watch(self, account: str, after: int) -> LedgerWatch:
        """Watch nothing: nobody is ever refused."""
        return LedgerWatch(lambda seq: (), after)

    def remove(self, account: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
