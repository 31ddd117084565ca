"""The checks of `budget demo`: three accounts of the same calls, which must agree.

What the agents met with, what the provider logged, and what the store holds come from three places that know nothing of
each other. Prices are taken from the book as USD per token; the arithmetic here is its own, not the engine's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

from budget.audit import Audit, audit
from budget.demo.agents import MODEL, Call, Crew, PoolNow
from budget.demo.provider import Seen
from budget.ledger import Entry
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
    rules = {limit.identity: limit.quantity for limit in (*budget.limits, *(pool.limit for pool in pools))}
    limits = {pool: rules[read_name(name)[0]] for pool, name in found.names.items()}
    prices = {name: _price_of(budget, name) for name in _PRICED}
    return Evidence(crew.calls, seen, entries, pools, audit(entries, counters, found.head, found.seq), limits, prices)


def check(evidence: Evidence) -> list[Check]:
    """Hold the three accounts against each other."""
    cases = _cases(evidence)
    sent = [case for case in cases if case.sent]
    known = [case for case in sent if case.billed is not None]
    left = [case for case in sent if case.billed is None]
    nothing = () if 0 < len(sent) < len(cases) else ("the demo shows nothing unless some are and some are not",)
    once = (f"{case.tag}: {len(case.finals)} final entries" for case in cases if len(case.finals) != case.sent)
    silent = (f"{case.tag}: the provider saw it" for case in cases if case.requests and not case.sent)
    exact = (
        f"{case.tag}: ${case.booked:f} was booked, the provider's log says ${case.billed:f}"
        for case in known if case.booked != case.billed or case.estimated
    )  # fmt: skip
    guessed = (
        f"{case.tag}: ${case.booked:f} was booked, ${case.bound:f} reserved, marked as estimated: {case.estimated}"
        for case in left if not case.guessed
    )  # fmt: skip
    reserved = (f"{pool.name}: ${pool.reserved:f} is still reserved" for pool in evidence.pools if pool.reserved)
    statements = [
        (f"{len(sent)} of {len(cases)} calls were admitted, with one final entry each", (*nothing, *once)),
        (f"none of the {len(cases) - len(sent)} calls refused reached the provider", silent),
        (f"{len(known)} calls are booked to the nano-dollar as the provider's log says", exact),
        (f"{len(left)} calls left early are booked as estimates, within what was reserved", guessed),
        ("each pool has spent the sum of its entries, and of the provider's log", _sums(evidence, cases)),
        ("no pool was ever above its limit, and nothing is reserved any more", (*_peaks(evidence), *reserved)),
        (f"the ledger's {len(evidence.entries)} entries are chained, and equal to every counter",
         (*evidence.audit.faults, *evidence.audit.saturated)),
    ]  # fmt: skip
    return [Check(text, tuple(faults)) for text, faults in statements]


@dataclass(slots=True)
class _Case:
    """One call in all three accounts: the agent's, the ledger's and the provider's."""

    tag: str
    prices: Mapping[str, Decimal]
    call: Call | None = None
    bound: Decimal = _NONE
    finals: list[Entry] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)

    @property
    def sent(self) -> bool:
        return self.call is not None and self.call.end != "refused"

    @property
    def booked(self) -> Decimal:
        return sum((entry.usd for entry in self.finals), _NONE)

    @property
    def estimated(self) -> bool:
        return any(entry.detail.get("estimated") for entry in self.finals)

    @property
    def guessed(self) -> bool:
        """Whether it is booked as an estimate within its reservation, or as nothing if nothing was sent."""
        return 0 < self.booked <= self.bound if self.estimated else not (self.booked or self.requests)

    @property
    def billed(self) -> Decimal | None:
        """What the provider's log says it cost; None if the agent left before it had the whole answer."""
        if self.call is not None and self.call.end in ("left", "timed out"):
            return None
        return sum((_price(self.prices, request.usage) for request in self.requests if request.usage), _NONE)


def _cases(evidence: Evidence) -> list[_Case]:
    """Join the accounts by the calls' tags. What has no agent's call is a case too."""
    found: dict[str, _Case] = {}

    def case(tag: str | None) -> _Case:
        name = tag or "(no call)"
        return found.setdefault(name, _Case(name, evidence.prices))

    for call in evidence.calls:
        case(call.tag).call = call
    for request in evidence.seen:
        case(request.tag).requests.append(request)
    for entry in evidence.entries:
        if entry.kind in _FINAL:
            case(entry.scope.get("call")).finals.append(entry)
        elif entry.kind == "reserved" and entry.estimate:
            case(entry.scope.get("call")).bound += Decimal(entry.estimate["usd_max"])
    return list(found.values())


def _sums(evidence: Evidence, cases: Sequence[_Case]) -> Iterator[str]:
    for pool in evidence.pools:
        within = [case for case in cases if case.call is not None and _within(pool, case.call)]
        entries = sum((case.booked for case in within), _NONE)
        provider = sum((case.booked if case.billed is None else case.billed for case in within), _NONE)
        if not pool.spent == entries == provider:
            yield f"{pool.name}: ${pool.spent:f} spent, entries ${entries:f}, the provider's log ${provider:f}"


def _peaks(evidence: Evidence) -> Iterator[str]:
    totals: Counter[tuple[str, int]] = Counter()
    for entry in evidence.entries:
        for posting in entry.postings:
            bucket = posting.pool, posting.start
            totals[bucket] += posting.spent + posting.reserved
            if totals[bucket] > evidence.limits.get(posting.pool, 0):
                yield f"entry {entry.seq}: pool {posting.pool} is at {totals[bucket]}, above its limit"


def _price_of(budget: Budget, bucket: str) -> Decimal:
    """Return USD per token of one of the provider's buckets."""
    tokens = 1000
    usage = {"input_tokens": 0, "output_tokens": 0, bucket: tokens}
    return budget.cost({"usage": usage}, model=MODEL).usd / tokens


def _price(prices: Mapping[str, Decimal], usage: Mapping[str, Any]) -> Decimal:
    """Price a usage block as the provider would, rounded up to nano-dollars."""
    exact = sum((usage[name] * price for name, price in prices.items()), _NONE)
    return exact.quantize(_NANO, ROUND_CEILING)


def _within(pool: PoolNow, call: Call) -> bool:
    """Whether a call has the attributes of a pool's subject."""
    return pool.subject.items() <= {"user": call.user, "agent": call.agent}.items()
