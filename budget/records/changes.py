"""What the entries of a ledger, read in order, do to the records.

A call is one reservation id with an end that was charged. A correction after its lease ended belongs to the same call:
its amounts are added to those of the expiry, and its usage, the whole truth about a call, takes the place of what was
known. A late refund takes the call away again. The end of a link, which only closes what a batch has left open, is no
call, and the end that a recovery repeats, because a server had lost it, is the one that was read before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from budget.ledger import Entry
from budget.records.record import CHARGED, Record, record_of

__all__ = ["Change", "Corrected", "Ended", "Refused", "Shadowed", "Withdrawn", "changes_of"]


class Ended(NamedTuple):
    """A call has ended and was charged."""

    record: Record


class Corrected(NamedTuple):
    """More became known of a call that was charged: `nanos` is added, `usage` (if any) replaces what was known."""

    id: str
    record: Record


class Withdrawn(NamedTuple):
    """A call that was charged before turned out to be none."""

    id: str


class Refused(NamedTuple):
    """A reserve was refused.

    Attributes:
        seq, at_us, scope, model: As of a record.
        limits: The rules that refused, as text.
        detail: All that the entry says of it.
    """

    seq: int
    at_us: int
    scope: Mapping[str, str]
    model: str | None
    limits: tuple[str, ...]
    detail: Mapping[str, Any]


class Shadowed(NamedTuple):
    """A call was admitted that limits in shadow mode would have refused; the fields of `Refused`."""

    seq: int
    at_us: int
    scope: Mapping[str, str]
    model: str | None
    limits: tuple[str, ...]
    detail: Mapping[str, Any]


Change = Ended | Corrected | Withdrawn | Refused | Shadowed


def changes_of(entries: Iterable[Entry]) -> Iterator[tuple[Entry, Change | None]]:
    """Iterate entries with what each does to the records; None where it does nothing."""
    for entry in entries:
        yield entry, _change_of(entry)


def _change_of(entry: Entry) -> Change | None:
    kind, id, detail = entry.kind, entry.reservation, entry.detail
    if kind == "reserved":
        named = detail.get("shadow")
        return Shadowed(*_about(entry, named)) if named else None
    if kind == "refused":
        return Refused(*_about(entry, detail.get("refused", ())))
    if id is None or "link" in detail or "recovered" in detail:
        return None
    if kind == "refunded":
        return Withdrawn(id) if detail.get("late") else None
    if kind not in CHARGED:
        return None
    return Corrected(id, record_of(entry)) if detail.get("late") else Ended(record_of(entry))


def _about(entry: Entry, named: Iterable[Mapping[str, Any]]) -> tuple[Any, ...]:
    rules = tuple(str(each["limit"]) for each in named)
    return entry.seq, entry.at_us, entry.scope, entry.model, rules, entry.detail
