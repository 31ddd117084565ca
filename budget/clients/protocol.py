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

    def finish(self) -> None:
        """Take note that the stream was read to its end."""
        ...

    def end(
        self, settings: Settings, reservation: Reservation, error: BaseException | None
    ) -> tuple[Amounts, dict[str, Any]] | None:
        """Return the amounts of the stream and what the ledger keeps; None charges the whole reservation."""
        ...


class Protocol(Contract):
    """One SDK's API: which paths cost money, what is sent, and how its streams are metered.

    Attributes:
        provider: As the price book names it.
        doors: Attributes of a client through which the SDK connects without a request; reading one is refused.
    """

    provider: str
    doors: tuple[str, ...]

    def check(self, client: Any) -> None:
        """Raise `ConfigError` for a client of a flavour that this version does not have."""
        ...

    def endpoint(self, path: str) -> str | None:
        """Return the metered endpoint of a POST path, "" if the path is free, None if it is not known."""
        ...

    def body(self, endpoint: str, options: Any) -> Mapping[str, Any]:
        """Return a call's whole JSON body, what the caller added with `extra_body` included.

        Raises:
            Unbounded: The body cannot be read before it is sent, or its cost not when it is answered.
        """
        ...

    def sent(self, endpoint: str, options: Any, body: Mapping[str, Any]) -> Any:
        """Return the options that are sent: those given, or a copy to which something was added."""
        ...

    def question(self, endpoint: str, body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """Return what the provider's counting endpoint is asked about a call whose cost is bounded.

        That is how the call's path goes on, and a body; None if there is no such endpoint, or it refuses such bodies.
        """
        ...

    def meter(self, endpoint: str, estimate: Estimate) -> Meter | None:
        """Return a meter for one stream; None if the endpoint has none."""
        ...
