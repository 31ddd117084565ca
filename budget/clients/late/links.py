"""Links: how the reservation of a late answer is found again by the provider's id, in any process of the same store.

A reservation has its id before the provider says its own, and a store finds reservations by their ids alone. So the
provider's id gets a reservation too, a link: of nothing, with the late answer's reservation as its parent, under an id
that is the hash of the provider's. Whoever renews a link is told its parent; a link that has ended says that the
answer was collected. In the ledger a link is an entry that moves nothing and says which late answer it stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from budget.above import Also
from budget.commands import Amounts, Refund, Renew, Reservation, Reserve
from budget.verbs import Flow, Verbs

__all__ = ["LEASES", "Found", "find", "hold", "settle"]

_HOUR = 3_600_000_000
LEASES = {"batch": 48 * _HOUR, "file": 48 * _HOUR, "response": 24 * _HOUR}
"""Microseconds that a late answer may be left alone, by kind: a batch is done within 24 hours at both providers."""
_NOTHING: Amounts = (0, 0, 0, 0, 0)
_TRIES = 8  # answers of a stale policy in a row


class Found(NamedTuple):
    """A late answer's reservation, and the link by which it was found."""

    link: Reservation
    main: Reservation


def hold(verbs: Verbs, known: Reservation, sdk: str, kind: str, name: str, of: str | None = None) -> Flow:
    """Keep a reservation open under a provider's id; return whether that was done.

    Args:
        verbs: The engine's.
        known: The reservation.
        sdk: Whose id it is: "anthropic" or "openai".
        kind: Of what: "batch", "file" (of results) or "response".
        name: The id.
        of: The batch that a file belongs to.
    """
    lease, detail = LEASES[kind], {"link": {"kind": kind, "id": name, **({"of": of} if of else {})}}
    link = _id(sdk, kind, name)
    for _ in range(_TRIES):
        policy = yield from verbs.policy()
        outcome = yield Reserve(
            link, known.id, _NOTHING, (), policy.version, lease, known.scope, detail, None, known.id
        )  # fmt: skip
        if outcome.status != "stale_policy":
            break
        verbs.forget_policy()
    if outcome.status not in ("reserved", "repeated"):
        return False
    outcome = yield from _renew(verbs, known.id, lease)
    return outcome.status == "renewed"


def find(verbs: Verbs, sdk: str, kind: str, name: str) -> Flow:
    """Return what is `Found` under a provider's id, its leases renewed; None if it is not known, or was collected."""
    lease = LEASES[kind]
    link = (yield Renew(_id(sdk, kind, name), lease)).reservation
    if link is None or link.parent is None or _is_done(link):
        return None
    main = (yield from _renew(verbs, link.parent, lease)).reservation
    if main is None or _is_done(main):
        yield Refund(link.id, {}, link)
        return None
    return Found(link, main)


def settle(verbs: Verbs, sdk: str, found: Found, amounts: Amounts | None, detail: Mapping[str, Any]) -> Flow:
    """End a late answer by what it cost; by nothing if `amounts` is None."""
    job = found.link.detail["link"]
    detail = {**detail, "job": job}
    if amounts is None:
        yield from verbs.refund(found.main, detail)
    else:
        yield from verbs.reconcile(found.main, amounts, detail)
    yield Refund(found.link.id, {}, found.link)
    if "of" in job:
        yield Refund(_id(sdk, "batch", job["of"]), {})


def _renew(verbs: Verbs, id: str, lease: int) -> Flow:
    outcome = yield Renew(id, lease)
    if verbs.above is not None and outcome.status == "renewed":
        yield Also(_renew(verbs.above, id, lease))
    return outcome


def _is_done(known: Reservation) -> bool:
    return known.state in ("reconciled", "refunded")


def _id(sdk: str, kind: str, name: str) -> str:
    return blake2b(f"late {sdk} {kind} {name}".encode(), digest_size=16).hexdigest()
