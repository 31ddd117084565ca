"""The checks of `budget demo`: three accounts of the same calls, which must agree.

What the agents met with, what the provider logged, and what the store holds come from three places that know nothing of
each other. Prices are taken from the book as USD per token; the arithmetic here is its own, not the engine's.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

from budget.demo.agents import MODEL, Call, Crew, PoolNow
from budget.demo.provider import Seen
from budget.ledger import Audit, Entry, audit
from budget.policy import read_name

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["Check", "Evidence", "Figures", "check", "collect"]

_FINAL = ("reconciled", "refunded", "expired", "recorded")
_PRICED = ("input_tokens", "cache_read_input_tokens", "output_tokens")
_NANO = Decimal("0.000000001")
_NONE = Decimal(0)


@dataclass(frozen=True, slots=True)
class Check:
    """A statement about the demo, and what speaks against it."""

    text: str
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the final table: a pool, and the calls of its subject."""

    pool: PoolNow
    admitted: int
    refused: int
    provider: int
    entries: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is left when all agents are done.

    Attributes:
        calls: What the agents met with.
        seen: The provider's log.
        entries: The ledger.
        pools: The pools.
        audit: What the audit of the ledger found.
        limits: The limit of each pool in the ledger, by the pool's id, in its unit (USD as nano-dollars).
        prices: USD per token, by the provider's name for the bucket.
    """

    calls: Sequence[Call]
    seen: Sequence[Seen]
    entries: Sequence[Entry]
    pools: Sequence[PoolNow]
    audit: Audit
    limits: Mapping[str, int]
    prices: Mapping[str, Decimal]

    def figures(self) -> list[Figures]:
        """Return the final table."""
        return [self._figures(pool) for pool in self.pools]

    def _figures(self, pool: PoolNow) -> Figures:
        calls = [call for call in self.calls if _within(pool, call)]
        ends = Counter(call.end == "refused" for call in calls)
        tags = {call.tag for call in calls}
        seen = {request.tag for request in self.seen if request.tag in tags}
        entries = sum(entry.scope.get("call") in tags for entry in self.entries)
        return Figures(pool, ends[False], ends[True], len(seen), entries)


async def collect(crew: Crew, budget: Budget, seen: Sequence[Seen]) -> Evidence:
    """Collect what is left when all agents are done and the provider is idle."""
    pools = await crew.pools()
    entries = list(budget.entries())
    found = budget.engine.store.snapshot(budget.settings.account)
    counters = {key: (bucket.spent, bucket.reserved) for key, bucket in found.buckets.items()}
    rules = {limit.identity: limit.quantity for limit in (*budget.limits, *(crew.limited.limits if crew.limited else ()))}
    limits = {pool: rules[read_name(name)[0]] for pool, name in found.names.items()}
    prices = {name: budget.cost({"usage": {**_USAGE, name: 10**6}}, model=MODEL).usd / 10**6 for name in _PRICED}
    return Evidence(crew.calls, seen, entries, pools, audit(entries, counters, found.head, found.seq), limits, prices)


def check(evidence: Evidence) -> list[Check]:
    """Hold the three accounts against each other."""
    sent = [call for call in evidence.calls if call.end != "refused"]
    refused = len(evidence.calls) - len(sent)
    ends = _ends(evidence)
    exact, guessed, amounts = _amounts(evidence, ends)
    return [
        Check(f"each of the {len(sent)} calls admitted has one final entry, and no other call has any", _once(evidence, ends)),
        Check(f"none of the {refused} refused calls reached the provider", _silent(evidence)),
        Check(f"{len(sent) - guessed} calls are booked to the nano-dollar as the provider's log says", exact),
        Check(f"{guessed} calls that agents left are booked as estimates, within what was reserved", amounts),
        Check("each pool has spent the sum of its entries, and of the provider's log", _sums(evidence, ends)),
        Check("no pool was above its limit at any instant", _peaks(evidence)),
        Check("nothing is reserved any more", _open(evidence)),
        Check(f"the ledger is whole: {len(evidence.entries)} entries, chained, equal to every counter",
              tuple(evidence.audit.faults + evidence.audit.saturated)),
    ]  # fmt: skip


def _ends(evidence: Evidence) -> dict[str, list[Entry]]:
    """Return the final entries by call."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for entry in evidence.entries:
        if entry.kind in _FINAL:
            found[entry.scope.get("call", "")].append(entry)
    return found


def _once(evidence: Evidence, ends: Mapping[str, Sequence[Entry]]) -> tuple[str, ...]:
    wanted = {call.tag: int(call.end != "refused") for call in evidence.calls}
    pairs = ((tag, len(ends.get(tag, ())), wanted.get(tag, 0)) for tag in sorted(wanted.keys() | ends.keys()))
    return tuple(f"{tag or 'no call'}: {n} final entries instead of {right}" for tag, n, right in pairs if n != right)


def _silent(evidence: Evidence) -> tuple[str, ...]:
    sent = {call.tag for call in evidence.calls if call.end != "refused"}
    return tuple(f"{tag}: the provider saw it" for tag in sorted({str(seen.tag) for seen in evidence.seen} - sent))


def _amounts(evidence: Evidence, ends: Mapping[str, Sequence[Entry]]) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """Compare what was booked with the provider's log: faults where it is known, how many are not, faults of those."""
    requests: dict[str | None, list[Seen]] = defaultdict(list)
    for seen in evidence.seen:
        requests[seen.tag].append(seen)
    bounds = {e.scope.get("call"): Decimal(e.estimate["usd_max"]) for e in evidence.entries if _is_reserve(e) and e.estimate}
    exact: list[str] = []
    guesses: list[str] = []
    guessed = 0
    for tag, entries in ends.items():
        billed, booked = _billed(evidence, requests[tag]), sum((entry.usd for entry in entries), _NONE)
        marked = any(entry.detail.get("estimated") for entry in entries)
        if billed is None:
            guessed += 1
            if not (marked and _NONE < booked <= bounds.get(tag, _NONE)):
                guesses.append(f"{tag}: ${booked:f} was booked, ${bounds.get(tag, _NONE):f} reserved, estimated: {marked}")
        elif booked != billed or marked:
            exact.append(f"{tag}: ${booked:f} was booked, the provider's log says ${billed:f}")
    return tuple(exact), guessed, tuple(guesses)


def _billed(evidence: Evidence, requests: Sequence[Seen]) -> Decimal | None:
    """Return what the provider's log says a call cost; None if the agent left before the answer was complete."""
    if any(request.disconnected for request in requests):
        return None
    return sum((_price(evidence.prices, request.usage) for request in requests if request.usage), _NONE)


def _price(prices: Mapping[str, Decimal], usage: Mapping[str, Any]) -> Decimal:
    exact = sum((usage[name] * price for name, price in prices.items()), _NONE)
    return exact.quantize(_NANO, ROUND_CEILING)


def _sums(evidence: Evidence, ends: Mapping[str, Sequence[Entry]]) -> tuple[str, ...]:
    requests: dict[str | None, list[Seen]] = defaultdict(list)
    for seen in evidence.seen:
        requests[seen.tag].append(seen)
    faults = []
    for pool in evidence.pools:
        calls = [call.tag for call in evidence.calls if _within(pool, call)]
        booked = {tag: sum((entry.usd for entry in ends.get(tag, ())), _NONE) for tag in calls}
        billed = {tag: _billed(evidence, requests[tag]) for tag in calls}
        known = sum((booked[tag] if (usd := billed[tag]) is None else usd for tag in calls), _NONE)
        if not pool.spent == sum(booked.values(), _NONE) == known:
            total = sum(booked.values(), _NONE)
            faults.append(f"{pool.name}: ${pool.spent:f} spent, entries ${total:f}, the provider's log ${known:f}")
    return tuple(faults)


def _peaks(evidence: Evidence) -> tuple[str, ...]:
    totals: Counter[tuple[str, int]] = Counter()
    above: dict[str, str] = {}
    for entry in evidence.entries:
        for posting in entry.postings:
            bucket = posting.pool, posting.start
            totals[bucket] += posting.spent + posting.reserved
            if totals[bucket] > evidence.limits.get(posting.pool, 0):
                above.setdefault(posting.pool, f"entry {entry.seq}: pool {posting.pool} is above its limit")
    return tuple(above.values())


def _open(evidence: Evidence) -> tuple[str, ...]:
    return tuple(f"{pool.name}: ${pool.reserved:f} is still reserved" for pool in evidence.pools if pool.reserved)


def _within(pool: PoolNow, call: Call) -> bool:
    """Whether a call has the attributes of a pool's subject."""
    return pool.subject.items() <= {"user": call.user, "agent": call.agent}.items()


def _is_reserve(entry: Entry) -> bool:
    return entry.kind == "reserved"
