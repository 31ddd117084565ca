"""After a server lost acknowledged writes: what the records store has of them is restored, and the fence comes down.

An ambiguity ends in a charge. The end of a reservation that the server still has is carried out again, with the same
id. What left no trace on the server is recorded under an id that follows from the lost entry, so that a recovery that
was killed and runs again restores each once; a reservation that was lost while it was open is charged whole. Windows
that are over by then stay as they are.

In the records store the lost entries stay, for they tell what was spent. An entry "lost" takes back what they moved,
because the counters of the server do not have it, and the server's ledger goes on from its last entry that is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, NamedTuple

from budget.books.books import TRIES, Books
from budget.commands import Amounts, ChangePolicy, Command, Draw, LoadPolicy, Outcome, Reconcile, Record, Refund
from budget.errors import StoreUnavailable
from budget.ledger import Entry, Posting
from budget.limits import CONCURRENT, UNITS, Limit
from budget.money import MAX
from budget.policy import Policy, read_name
from budget.stores.base import Cursor, read_entries
from budget.window import FOREVER, Window, bounds

__all__ = ["Recovered", "recover"]

_FENCE = ("fence", "lost")
_POLICY = {"limit_set", "limit_unset", "frozen", "unfrozen", "adjusted", "adjust_ended", "fenced", "unfenced"}


class Recovered(NamedTuple):
    """How many lost entries are known of, and of how many what they did was restored.

    `policy` is how many were changes of limits and freezes: those have to be made again. `gone` is how many a process
    saw that nobody has.
    """

    lost: int
    restored: int
    policy: int
    gone: int


@dataclass(slots=True)
class _Call:
    """What was lost of one reservation, or of one entry without any."""

    first: Entry
    made: bool = False
    end: Entry | None = None
    entries: int = 0
    moved: dict[tuple[str, int], int] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        self.entries += 1
        self.made = self.made or entry.kind == "reserved"
        if entry.kind in ("reconciled", "refunded", "expired"):
            self.end = entry
        for posting in entry.postings:
            key = (posting.pool, posting.start)
            self.moved[key] = self.moved.get(key, 0) + posting.spent + posting.reserved


def recover(books: Books, actor: Mapping[str, Any], own: Sequence[Limit] = ()) -> Recovered | None:
    """Restore what a server lost, as far as the records store has it, and take the fence away.

    Args:
        books: Of the account.
        actor: Who and why, for the ledger.
        own: The limits of this process: their windows, for pools that were lost.

    Returns:
        What was done, or None if nothing is known to be lost.

    Raises:
        StoreUnavailable: The store cannot be reached; run it again.
    """
    if not books.drains:
        return None
    rows = books.call(LoadPolicy()).rows
    fence = next((body for kind, identity, body in rows if (kind, identity) == _FENCE), None)
    records, cursor = books.records, None
    if records is not None:
        cursor = records.cursor(books.account)
    known = None if cursor is None else _last_known(books, cursor)
    if known is None and fence is None:
        return None
    found: list[Entry] = []
    restored = 0
    if records is not None and cursor is not None and known is not None:
        numbers = set(records.beyond(books.account, cursor, known.seq))
        if numbers:
            later = read_entries(records.store, books.account, after=min(numbers) - 1)
            found = [entry for entry in later if entry.seq in numbers]
        restored = _restore(books, cursor, found, Policy(0, rows, own))
    if fence is not None:
        books.call(ChangePolicy(*_FENCE, None, dict(actor)))
    if records is not None and cursor is not None and known is not None:
        place = replace(known, epoch=books.epoch())
        records.go_back(books.account, cursor, place, *_taken_back(found), {**actor, "entries": len(found)})
    policy = sum(entry.kind in _POLICY for entry in found)
    gone = 0 if fence is None else max(0, _seen(fence) - (cursor.seq if cursor else 0))
    return Recovered(len(found), restored, policy, gone)


def _seen(body: str) -> int:
    seen: int = json.loads(body).get("seen", 0)
    return seen


def _last_known(books: Books, cursor: Cursor) -> Cursor | None:
    """Return the last place at which server and records agree; None if that is the end of what was drained."""
    assert books.records is not None
    epoch = books.epoch()
    if not cursor.seq or _digest(books, cursor.seq) == cursor.digest:
        return None if epoch == cursor.epoch else replace(cursor, epoch=epoch)
    first = next(iter(books.store.lines(books.account, 0)), None)
    high = min(cursor.seq, books.store.last(books.account))
    low = high if first is None else min(high, first.seq - 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _agree(books, middle) else (low, middle - 1)
    digest = (low and _digest(books, low)) or bytes(20)
    return replace(cursor, seq=low, digest=digest, refusal=f"{low + 1}-{2**63 - 1}")


def _digest(books: Books, seq: int) -> bytes | None:
    """Return the digest of the server's entry of a number, if it has one."""
    found = next(iter(books.store.lines(books.account, seq - 1)), None)
    return found.digest if found is not None and found.seq == seq else None


def _agree(books: Books, seq: int) -> bool:
    """Whether the server's entry of a number is the one that was drained."""
    assert books.records is not None
    there = next((entry for entry in books.store.entries(books.account, seq - 1) if entry.digest), None)
    here = books.records.entry_of(books.account, seq)
    if there is None or here is None or there.seq != seq:
        return False
    return all(getattr(there, name) == getattr(here, name) for name in ("at_us", "kind", "reservation", "amounts"))


def _taken_back(found: Sequence[Entry]) -> tuple[tuple[int, ...], tuple[Posting, ...]]:
    """Return the sum of what lost entries moved, and of what will be added again by the ends that are repeated."""
    amounts = [0] * 5
    moved: dict[tuple[str, int], tuple[int, int]] = {}
    again = {call.end.seq for call in _calls(found) if _repeated(call) and call.end is not None}
    for entry in found:
        if entry.seq in again:
            amounts = [total - amount for total, amount in zip(amounts, entry.amounts, strict=True)]
        for posting in entry.postings if entry.kind != "rebuilt" else ():
            spent, reserved = moved.get((posting.pool, posting.start), (0, 0))
            moved[posting.pool, posting.start] = (spent - posting.spent, reserved - posting.reserved)
    return tuple(amounts), tuple(Posting(*key, *change) for key, change in sorted(moved.items()) if any(change))


def _calls(found: Sequence[Entry]) -> list[_Call]:
    calls: dict[str, _Call] = {}
    for entry in found:
        if entry.kind not in _POLICY and entry.kind not in ("refused", "rebuilt"):
            calls.setdefault(entry.reservation or f"{entry.seq}", _Call(entry)).add(entry)
    return list(calls.values())


def _repeated(call: _Call) -> bool:
    """Whether the server has the reservation, and is told of its end once more."""
    ended = call.end is not None and call.end.kind in ("reconciled", "refunded") and not call.end.detail.get("late")
    return ended and not call.made and not (call.end is not None and call.end.detail.get("unknown"))


def _restore(books: Books, cursor: Cursor, found: Sequence[Entry], policy: Policy) -> int:
    """Carry out again what was lost, call by call; return how many entries that was."""
    names = {**(books.records.store.names(books.account) if books.records else {}), **books.store.names(books.account)}
    restored = 0
    for call in _calls(found):
        if _repeated(call) and call.end is not None and call.end.reservation is not None:
            detail = {key: value for key, value in call.end.detail.items() if key in ("model", "usage", "provider")}
            command: Command = Refund(call.end.reservation, {"recovered": True})
            if call.end.kind == "reconciled":
                command = Reconcile(call.end.reservation, call.end.amounts, {**detail, "recovered": True})
            outcome: Outcome | None = books.call(command)
        elif call.made or call.end is None or call.end.kind != "expired":
            outcome = _record(books, cursor, call, names, policy)
        else:
            continue  # the server has it, open, and expires it by itself
        done = not any(call.moved.values()) if outcome is None else outcome.status not in ("unknown", "conflict")
        restored += call.entries if done else 0
    return restored


def _record(books: Books, cursor: Cursor, call: _Call, names: Mapping[str, str], policy: Policy) -> Outcome | None:
    """Record what a call that the server knows nothing of has moved, in the windows that still hold."""
    now = books.call(LoadPolicy()).now
    draws, actual = [], [0] * 5
    for draw, start, amount in _draws(call, names, policy, now):
        if draw.span or draw.start <= start < draw.end:
            draws.append(draw)
            actual[draw.unit] = max(actual[draw.unit], amount)
    if not any(actual):
        return None
    id = blake2b(f"{cursor.epoch}:{call.first.seq}".encode(), digest_size=16).hexdigest()
    detail = {"of": call.first.reservation, "lost": call.first.seq}
    for _ in range(TRIES):
        version = books.call(LoadPolicy()).version
        made = Record(id, "recovered", _amounts(actual), draws, version, call.first.scope, detail, "recovered")
        outcome = books.call(made)
        if outcome.status not in ("stale_policy", "stale_window"):
            return outcome
    raise StoreUnavailable("the policy changes too fast; run 'budget ledger rebuild' again")


def _amounts(actual: Sequence[int]) -> Amounts:
    usd, tokens, input_tokens, output_tokens, requests = actual
    return usd, tokens, input_tokens, output_tokens, requests


def _draws(call: _Call, names: Mapping[str, str], policy: Policy, now: int) -> Iterator[tuple[Draw, int, int]]:
    """Return what a call has moved as draws on the pools as they are now, with the window and the amount."""
    limits = {limit.identity: limit for limit in policy.limits}
    for (pool, start), amount in call.moved.items():
        if pool not in names or amount <= 0:
            continue
        identity, _ = read_name(names[pool])
        unit = UNITS.index(identity[2])
        if unit == CONCURRENT:
            continue
        limit = limits.get(identity)
        window = limit.window if limit is not None else Window.parse(identity[3])
        first, end = 0, FOREVER
        if window.calendar:
            first, end = bounds(window, now, *((limit.tz, limit.starts) if limit is not None else ("UTC",)))
        yield Draw(pool, names[pool], unit, MAX, amount, first, end, first, span=window.span), start, amount
