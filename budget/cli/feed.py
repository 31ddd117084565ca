"""What happens in an account, event by event, as its ledger is read on.

A server's refusals stand beside the sequence, with the number of the entry that they follow, and more of them may come
behind an entry that was read: so each reading begins at the last entry that is known, and leaves out what was seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budget.books.books import Books
from budget.cli.output import scope_text
from budget.ledger import Entry
from budget.money import format_usd
from budget.records.changes import Change, Corrected, Ended, Refused, Shadowed, Withdrawn, changes_of
from budget.window import SECOND, at_zone

__all__ = ["HOUR", "Event", "Feed"]

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person wants to see.

    Attributes:
        what: "call" (it ended and was charged), "corrected" (more became known of it), "not billed" (it ended without a
            bill), "refused", "would refuse" (a limit in shadow mode), or "policy" (who changed what).
        at_us: When, microseconds since the epoch (UTC).
        scope: The attributes of the call.
        model: As answered, else as requested; None if nobody said.
        nanos: What it added to spent, in nano-dollars.
        outcome: How it ended, what refused it, or what was changed.
        entry: The entry that tells of it.
    """

    what: str
    at_us: int
    scope: Mapping[str, str]
    model: str | None
    nanos: int
    outcome: str
    entry: Entry

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        return {
            "event": self.what, "at": at_zone(self.at_us).isoformat(), "user": self.scope.get("user"),
            "agent": self.scope.get("agent"), "model": self.model, "usd": format_usd(self.nanos),
            "outcome": self.outcome, "scope": dict(self.scope), "input_tokens": self.entry.amounts[2],
            "output_tokens": self.entry.amounts[3], "reservation": self.entry.reservation, "seq": self.entry.seq,
        }  # fmt: skip


class Feed:
    """Reads an account's ledger on.

    Args:
        books: Of the account.
        wanted: Only what has these attributes is told.
        since_us: Where it begins: at the first entry made then or later, microseconds since the epoch.
    """

    def __init__(self, books: Books, wanted: Mapping[str, str], since_us: int):
        self._books, self._wanted = books, wanted
        ledger, account = books.ledger(), books.account
        last = ledger.last(account)
        first = ledger.entries(account, 0, since_us)[:1]
        self._after = max(0, first[0].seq - 1) if first else last
        self._beside = 0  # refusals that were read behind that entry
        self._spent: dict[int, int] = {}

    def read(self) -> list[Event]:
        """Return what happened since the last time, oldest first.

        Raises:
            StoreUnavailable: The ledger cannot be read.
        """
        ledger, account = self._books.ledger(), self._books.account
        found: list[Event] = []
        while True:
            page = ledger.entries(account, max(0, self._after - 1))
            new = list(self._unread(page))
            if not page:  # it was pruned up to here, or begun anew
                self._after = min(self._after, ledger.last(account))
            if not new:
                return found
            found += self._take([entry for entry in new if self._wanted.items() <= entry.scope.items()])

    def spent(self, now_us: int, seconds: int) -> int:
        """Return what was spent in the last seconds, an hour at most, in nano-dollars."""
        now = now_us // SECOND
        for second in [second for second in self._spent if second <= now - HOUR]:
            del self._spent[second]
        return sum(nanos for second, nanos in self._spent.items() if second > now - seconds)

    def _take(self, entries: Sequence[Entry]) -> list[Event]:
        for entry in entries:
            second = entry.at_us // SECOND
            self._spent[second] = self._spent.get(second, 0) + entry.amounts[0]
        return _events(entries)

    def _unread(self, page: Sequence[Entry]) -> Iterable[Entry]:
        known = self._beside
        for entry in page:
            if entry.seq < self._after or (entry.seq == self._after and entry.digest):
                continue
            if entry.seq > self._after:
                self._after, self._beside, known = entry.seq, 0 if entry.digest else 1, 0
            elif known:
                known -= 1
                continue
            else:
                self._beside += 1
            yield entry


def _events(entries: Iterable[Entry]) -> list[Event]:
    found = []
    for entry, change in changes_of(entries):
        told = _told(entry, change)
        if told is not None:
            found.append(Event(told[0], entry.at_us, entry.scope, entry.model, entry.amounts[0], told[1], entry))
    return found


def _told(entry: Entry, change: Change | None) -> tuple[str, str] | None:
    """Return what an entry is to a person, and the rest of it as text; None if it is nothing to look at."""
    detail, found = entry.detail, None
    match change:
        case Ended(record):
            found = "call", f"{record.outcome} (estimated)" if record.estimated else record.outcome
        case Corrected(_, record):
            found = "corrected", record.outcome
        case Withdrawn():
            found = "corrected", "not billed"
        case Refused(limits=limits):
            found = "refused", ", ".join([*limits, *_frozen(detail)])
        case Shadowed(limits=limits):
            found = "would refuse", ", ".join(limits)
        case _ if entry.kind == "refunded" and "outcome" in detail and "link" not in detail:
            found = "not billed", str(detail["outcome"])
        case _ if entry.reservation is None:
            found = "policy", _changed(entry)
    return found


def _frozen(detail: Mapping[str, Any]) -> list[str]:
    return [f"frozen: {scope_text(json.loads(detail['frozen'])) or 'everybody'}"] if "frozen" in detail else []


def _changed(entry: Entry) -> str:
    """Say what was changed, by whom and why."""
    detail = entry.detail
    what = detail.get("limit") or scope_text(detail.get("subject", {}))
    by = f"by {detail['actor']}" if "actor" in detail else ""
    text = " ".join(part for part in (entry.kind.replace("_", " "), what, by) if part)
    return f"{text}: {detail['reason']}" if detail.get("reason") else text
