"""What a client's seam must know about one SDK's API. One object per SDK, in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from typing import Protocol as Contract

from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.estimate import Estimate

__all__ = ["Meter", "Protocol"]


class Meter(Contract):
    """Reads one stream's events and says what it cost."""

    def feed(self, event: Any) -> None:
        """Take note of one event."""
        ...

    def end(
        self, settings: Settings, reservation: Reservation, error: BaseException | None
    ) -> tuple[Amounts, dict[str, Any]] | None:
        """Return the amounts of the stream and what the ledger keeps; None charges the whole reservation."""
        ...


class Protocol(Contract):
    """One SDK's API: which paths cost money, and how its streams are metered."""

    provider: str

    def endpoint(self, path: str) -> str | None:
        """Return the metered endpoint of a POST path, "" if the path is free, None if it is not known."""
        ...

    def meter(self, endpoint: str, estimate: Estimate) -> Meter:
        """Return a meter for one stream."""
        ...

    def body(self, options: Any) -> Mapping[str, Any]:
        """Return a call's whole JSON body, what the caller added with `extra_body` included."""
        ...
