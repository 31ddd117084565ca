"""How a call that did not answer with a usage ends: the table of outcomes, as one function.

A reservation is refunded only where providers surely bill nothing, and only if that holds for every attempt. Whatever
is uncertain is charged, marked `estimated`: a guess is never to the user's advantage, and never zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

__all__ = ["CHARGE", "REFUND", "never_connected", "outcome", "unbilled_status"]

REFUND = "refund"
CHARGE = "charge"

_UNCERTAIN_4XX = {408, 409}  # a proxy may answer these after the model ran, and both SDKs retry them
_UNBILLED_5XX = {500, 503, 529}
_NEVER_CONNECTED = {
    "ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ConnectionRefusedError",  # httpx
    "ClientConnectorError", "ClientConnectorDNSError",  # aiohttp
    "EndpointConnectionError", "ConnectTimeoutError",  # botocore
}  # fmt: skip
_MAY_HAVE_SENT = "ClientOSError"
"""Of aiohttp, for a connection that breaks, too: httpx's transports over it call that a ConnectError."""


def outcome(error: BaseException | None, attempts: int | None, statuses: Sequence[int] = ()) -> str:
    """Say whether a call without a usage is refunded or charged.

    Args:
        error: What ended the call; None for an answer without usage.
        attempts: HTTP attempts that may have sent something; None if nobody counted them, which is taken for one.
        statuses: The status of each attempt that got an HTTP answer.

    Returns:
        `REFUND` or `CHARGE`.
    """
    if attempts is None:
        status = _status(error)
        attempts, statuses = 0 if never_connected(error) else 1, [] if status is None else [status]
    if attempts == 0:
        return REFUND
    answered = error is not None and len(statuses) >= attempts
    return REFUND if answered and all(map(unbilled_status, statuses)) else CHARGE


def never_connected(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that no connection was made, so that nothing was sent."""
    names = {type(cause).__name__ for cause in _causes(error)}
    return _MAY_HAVE_SENT not in names and not names.isdisjoint(_NEVER_CONNECTED)


def unbilled_status(status: int) -> bool:
    """Whether providers bill nothing for an HTTP answer: 4xx except 408 and 409; 500, 503, 529."""
    return (400 <= status < 500 and status not in _UNCERTAIN_4XX) or status in _UNBILLED_5XX


def _status(error: BaseException | None) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) and not isinstance(status, bool) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(16):
        if error is None:
            return
        yield error
        error = error.__cause__  # not its context: what was handled before may have been tried again, and billed
