"""What a client's seam must know about one SDK's API: a class per SDK in a file of its own, an object per client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self
from typing import Protocol as Contract

from budget.clients.flavours import Site, site_of
from budget.clients.paths import paths_of
from budget.commands import Amounts, Reservation
from budget.config import Settings
from budget.estimate import Estimate

__all__ = ["Api", "Meter", "Protocol", "Speech"]


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


class Speech(Contract):
    """What a call must know of the API that it goes to."""

    @property
    def provider(self) -> str | None:
        """As the price book names it; None if the model's name alone says it."""
        ...

    @property
    def traits(self) -> Mapping[str, str]:
        """What the client knows of what decides a price, and its requests do not say."""
        ...

    def priced(self, body: Mapping[str, Any], endpoint: str) -> Mapping[str, Any]:
        """Return a call's body with the model's name as the price book has it: an operator's deployment has another."""
        ...

    def meter(self, endpoint: str, estimate: Estimate) -> Meter | None:
        """Return a meter for one stream; None if the endpoint has none."""
        ...


class Protocol(Speech, Contract):
    """One SDK's API at one client's site: which paths cost money, what is sent, and how its streams are metered.

    Attributes:
        sdk: The SDK's package.
        doors: Attributes of a client through which the SDK connects without a request.
        site: Who answers the client.
    """

    sdk: str
    doors: tuple[str, ...]
    site: Site

    def at(self, client: Any, deployments: object) -> Self:
        """Return the same API where another client is answered.

        Raises:
            ConfigError: The client is of a flavour that this version does not have.
        """
        ...

    def endpoint(self, path: str) -> str | None:
        """Return the endpoint of a POST path that is metered or late, "" if the path is free, None if it is refused."""
        ...

    def reason(self, path: str) -> str:
        """Return why a POST path is refused."""
        ...

    def body(self, endpoint: str, options: Any) -> Mapping[str, Any]:
        """Return a call's whole JSON body, what the caller added with `extra_body` included.

        Raises:
            Unbounded: The body cannot be read before it is sent.
        """
        ...

    def sent(self, endpoint: str, options: Any, body: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
        """Return the options that are sent: those given, or a copy in which something was added or changed.

        Args:
            endpoint: As `endpoint` says.
            options: The call's.
            body: As `body` returned it.
            changes: Fields that are to be sent with other values.
        """
        ...

    def question(self, endpoint: str, body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
        """Return what the provider's counting endpoint is asked about a call whose cost is bounded.

        That is how the call's path goes on, and a body; None if there is no such endpoint, or it refuses such bodies.
        """
        ...


class Api:
    """What the protocols of both SDKs share."""

    sdk: str = ""
    doors: tuple[str, ...] = ()
    prefix: str = ""
    """What a path may begin with that its line in the file of paths does not."""

    def __init__(self, site: Site):
        self.site = site
        self._paths = paths_of(self.sdk)

    @property
    def provider(self) -> str:
        """As the price book names it."""
        return self.site.provider

    @property
    def traits(self) -> Mapping[str, str]:
        """What the client knows of what decides a price, and its requests do not say."""
        return self.site.traits

    def at(self, client: Any, deployments: object) -> Self:
        """Return the same API where another client is answered."""
        return type(self)(site_of(client, self.sdk, deployments))

    def endpoint(self, path: str) -> str | None:
        """Return the endpoint of a POST path that is metered or late, "" if it is free, None if it is refused."""
        return self._paths.endpoint(path.removeprefix(self.prefix))

    def reason(self, path: str) -> str:
        """Return why a POST path is refused."""
        return self._paths.reason(path.removeprefix(self.prefix))

    def priced(self, body: Mapping[str, Any], endpoint: str) -> Mapping[str, Any]:
        """Return a call's body with the model's name as the price book has it."""
        return self.site.priced(body, endpoint)
