"""The rows of a policy in the store: (kind, identity, body), each a JSON text that a process reads as a whole.

    limit    its text and options; `until` when, and `then` what holds afterwards (another such row, or nothing)
    freeze   the identity is the selector; the body says nothing
    adjust   so much more in one pool, from an instant until another; or a limit's `on_short`
    fence    the store has lost what it had acknowledged: nothing may be reserved

A row of a kind that is not known is passed over; a limit with an option that is not known is an error, because to leave
the option out could allow what it forbids. What to do when money runs short forbids nothing, so it stands beside the
row of its limit, where it means nothing to who does not know it: an adjustment of no pool by nothing, that never begins
and never ends. It names the limits that it is about by when they were set, the present one and those that follow it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from budget.errors import ConfigError
from budget.ledger import dumps
from budget.limits import Limit
from budget.subject import Subject
from budget.window import FOREVER, at_zone

__all__ = [
    "Raise", "Stored", "limit_beneath", "limit_body", "raise_body", "read_limit", "read_raises", "read_shorts",
    "selector_identity", "short_body", "short_identity",
]  # fmt: skip

_SHORT = '{"on_short":'  # how the identity of such a row begins; that of another adjustment is 32 hex digits
_OPTIONS = {"text", "created_us", "mode", "tz", "starts", "rollover", "warn"}


class Raise(NamedTuple):
    """An adjustment: so much more in one pool while `start <= now < end`, and the identity of its row."""

    start: int
    end: int
    amount: int
    row: str


class Stored(NamedTuple):
    """A limit's row as it was read, and what holds when the limit has ended."""

    limit: Limit
    then: Stored | None


def selector_identity(selector: Mapping[str, str]) -> str:
    """Return the identity of a freeze."""
    return dumps(sorted(selector.items()))


def limit_body(limit: Limit, before: str | None = None) -> tuple[str, str]:
    """Return the identity and the body of a limit's row in the store.

    Args:
        limit: The limit.
        before: The body that the row has had, if the limit is to end: what is left of it holds then.
    """
    options = {**limit.options, "mode": limit.mode, "until": limit.until_us}
    options.pop("on_short", None)
    usual = {"mode": "enforce", "until": 0}
    row = {"text": str(limit), "created_us": limit.created_us}
    row |= {name: value for name, value in options.items() if usual.get(name) != value}
    then = _after(limit, before)
    return dumps(limit.identity), dumps(row if then is None else {**row, "then": then})


def limit_beneath(limit: Limit, body: str | None) -> str | None:
    """Return the body that a limit's row has without it: what would hold at its end; None if that is nothing."""
    then = _after(limit, body)
    return None if then is None else dumps(then)


def _after(limit: Limit, body: str | None) -> dict[str, Any] | None:
    """Return what is left of a body when a limit ends; nothing if it does not."""
    row: dict[str, Any] | None = json.loads(body) if body and limit.until_us else None
    while row is not None and row.get("until", FOREVER) <= limit.until_us:
        row = row.get("then")
    return row


def read_limit(body: str) -> Stored:
    """Read the body of a limit's row.

    Raises:
        ConfigError: A newer version of the package wrote it, with an option that this one does not know.
    """
    return _read_row(json.loads(body))


def _read_row(row: dict[str, Any]) -> Stored:
    then, until = row.pop("then", None), row.pop("until", 0)
    if unknown := row.keys() - _OPTIONS:
        raise ConfigError(
            f"limit: {str(row.get('text'))[:80]!r} in the store has {min(unknown)!r}, which this version of budget "
            "does not know; upgrade this process"
        )
    text, created_us = row.pop("text"), row.pop("created_us")
    limit = Limit(text, **row, until=at_zone(until) if until else None).set_in("store", created_us)
    return Stored(limit, None if then is None else _read_row(then))


def raise_body(pool: str, limit: Limit, subject: Subject, amount: int, start: int, end: int) -> str:
    """Return the body of an adjustment's row."""
    about = {"limit": limit.identity, "subject": subject}
    return dumps({"pool": pool, "amount": amount, "from": start, "until": end, **about})


def read_raises(rows: Iterable[tuple[str, str, str]], now: int) -> dict[str, list[Raise]]:
    """Return the adjustments that are not over, by pool."""
    found: dict[str, list[Raise]] = {}
    for kind, identity, body in rows:
        if kind == "adjust" and not identity.startswith(_SHORT):
            row = json.loads(body)
            if now < row["until"]:
                found.setdefault(row["pool"], []).append(Raise(row["from"], row["until"], row["amount"], identity))
    return found


def short_identity(identity: str) -> str:
    """Return the identity of the row beside a limit's that has its `on_short`."""
    return f"{_SHORT}{identity}}}"


def short_body(limit: Limit, row: str, before: str | None) -> str | None:
    """Return the body of the row beside a limit's; None if there is nothing to say.

    Args:
        limit: The limit.
        row: The body of its row, with those that hold afterwards.
        before: The body that it has had.
    """
    known: dict[str, str] = json.loads(before)["on_short"] if before else {}
    known = {**known, str(limit.created_us): limit.on_short}
    found: dict[str, str] = {}
    each = json.loads(row)
    while each is not None:
        at, each = str(each["created_us"]), each.get("then")
        found |= {at: known[at]} if known.get(at) else {}
    never = {"pool": "", "amount": 0, "from": FOREVER, "until": FOREVER}
    return dumps({**never, "limit": limit.identity, "on_short": found}) if found else None


def read_shorts(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[int, str]]:
    """Return what stands beside the limits: by the identity of a limit's row, and by when the limit was set."""
    found: dict[str, dict[int, str]] = {}
    for kind, identity, body in rows:
        if kind == "adjust" and identity.startswith(_SHORT):
            beside = identity[len(_SHORT) : -1]
            found[beside] = {int(at): text for at, text in json.loads(body)["on_short"].items()}
    return found
