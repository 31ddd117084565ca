"""The ledger: append-only entries from which every balance follows.

Each event of the pool (reserved, reconciled, refunded, expired, recorded, refused, and changes of policy) is one entry,
written in the same atomic step as the counters it explains. An entry carries

* what it added to spent, per unit (`amounts`), and the same per pool and window (`postings`);
* a gapless sequence number, and the SHA-256 digest of its own content chained to the digest before it.

So `audit` can recompute every counter, and find any entry that was edited, removed or reordered.
"""

from __future__ import annotations

import hashlib
import json
import json.encoder
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple

from budget.money import MAX, format_usd, to_decimal
from budget.usage import Usage
from budget.window import at_zone

__all__ = ["GENESIS", "Audit", "Entry", "Posting", "audit", "dumps", "make_entry"]

GENESIS = bytes(32)
"""The digest before the first entry."""


class Posting(NamedTuple):
    """What an entry changed in one bucket of one pool, in the pool's unit."""

    pool: str
    start: int
    spent: int
    reserved: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One immutable line of the ledger.

    Attributes:
        seq: The account's gapless sequence number, from 1.
        at_us: When, by the store's clock: microseconds since the epoch.
        kind: reserved, reconciled, refunded, expired, recorded, refused, limit_set, limit_unset, frozen or unfrozen.
        reservation: The id of the reservation, or None.
        amounts: What it added to spent: (nano-dollars, tokens, input tokens, output tokens, requests).
        scope: The attributes of the call.
        detail: The rest as JSON types: model, usage, rates, price book, estimate, outcome; never any text of a prompt.
        postings: What it changed per pool and bucket.
        texts: Scope, detail and postings as the canonical JSON that the digest covers; empty where a server wrote it.
        digest: SHA-256 of this entry's content and the digest before it (SHA-1 where a server's script made it). Empty
            for a refusal that stands beside the sequence; its `seq` is then that of the entry it follows.
        content: What a server's digest covers.
    """

    seq: int
    at_us: int
    kind: str
    reservation: str | None
    amounts: tuple[int, int, int, int, int]
    scope: Mapping[str, str]
    detail: Mapping[str, Any]
    postings: tuple[Posting, ...]
    texts: tuple[str, str, str]
    digest: bytes
    content: bytes = b""

    def follows(self, previous: bytes) -> bool:
        """Whether its digest is that of its content after the digest before it."""
        if self.content:
            return self.digest == hashlib.sha1(previous[:20].hex().encode() + self.content).digest()
        content = (self.seq, self.at_us, self.kind, self.reservation, self.amounts, self.texts)
        return self.digest == chain(previous, *content)

    @property
    def usd(self) -> Decimal:
        """What it added to spent, in USD."""
        return to_decimal(self.amounts[0])

    @property
    def tokens(self) -> int:
        """What it added to spent, in tokens."""
        return self.amounts[1]

    @property
    def at(self) -> Any:
        """When, as an aware datetime in UTC."""
        return at_zone(self.at_us)

    @property
    def model(self) -> str | None:
        """The model as answered, else as requested."""
        return self.detail.get("model") or self.scope.get("model")

    @property
    def usage(self) -> Usage | None:
        """The usage the provider reported, or None."""
        found = self.detail.get("usage")
        return None if found is None else Usage(**found)

    @property
    def estimate(self) -> Mapping[str, Any] | None:
        """The estimate the reservation was made from, or None."""
        return self.detail.get("estimate")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money is a decimal string."""
        usd, tokens, input_tokens, output_tokens, requests = self.amounts
        return {
            "seq": self.seq,
            "at": self.at.isoformat(),
            "kind": self.kind,
            "reservation": self.reservation,
            "usd": format_usd(usd),
            "tokens": tokens,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "requests": requests,
            "scope": dict(self.scope),
            "detail": dict(self.detail),
            "digest": self.digest.hex(),
        }


def make_entry(
    previous: bytes, seq: int, at_us: int, kind: str, reservation: str | None,
    amounts: tuple[int, int, int, int, int], scope: Mapping[str, str], detail: Mapping[str, Any],
    postings: tuple[Posting, ...],
) -> Entry:  # fmt: skip
    """Make the entry that follows the one whose digest is `previous`."""
    texts = (dumps(scope), dumps(detail), dumps(postings))
    digest = chain(previous, seq, at_us, kind, reservation, amounts, texts)
    return Entry(seq, at_us, kind, reservation, amounts, scope, detail, postings, texts, digest)


def chain(
    previous: bytes, seq: int, at_us: int, kind: str, reservation: str | None, amounts: tuple[int, ...],
    texts: tuple[str, str, str],
) -> bytes:  # fmt: skip
    """Return the SHA-256 of an entry's content after the digest before it.

    JSON escapes every newline inside a string, and no other part has one, so the content is joined without ambiguity.
    """
    numbers = ",".join(map(str, amounts))
    content = f"{seq}\n{at_us}\n{kind}\n{reservation or ''}\n{numbers}\n" + "\n".join(texts)
    return hashlib.sha256(previous + content.encode()).digest()


def dumps(value: object) -> str:
    """Write canonical JSON: sorted keys, no spaces, integers exact."""
    return "".join(_encode(value, 0))


def _make_encoder() -> Callable[[object, int], Iterable[str]]:
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # an interpreter without the C module
        return lambda value, _: [encoder.encode(value)]
    # What `encoder.encode` makes anew at each call, which is most of its time for a small value.
    parts = (None, encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", True, False, False)
    return make(*parts)  # type: ignore[no-any-return]


_encode = _make_encoder()


@dataclass(slots=True)
class Audit:
    """What `audit` found.

    Attributes:
        entries: How many entries were read.
        faults: What is wrong, in words; empty if the books balance.
        saturated: Pools whose counter stays at its ceiling because the true sum is above it.
        head: The digest of the last entry.
    """

    entries: int = 0
    faults: list[str] = field(default_factory=list)
    saturated: list[str] = field(default_factory=list)
    head: bytes = GENESIS

    @property
    def ok(self) -> bool:
        """Whether the books balance."""
        return not self.faults


def audit(
    entries: Iterable[Entry], counters: Mapping[tuple[str, int], tuple[int, int]], head: bytes, seq: int
) -> Audit:
    """Prove that the ledger is whole and that the sum of its entries is what the pools say.

    Args:
        entries: Every entry of the account, oldest first.
        counters: (spent, reserved) of every bucket, by (pool, start), at the instant of the last entry.
        head: The account's digest after its last entry.
        seq: The account's sequence number after its last entry.
    """
    found = Audit()
    sums: dict[tuple[str, int], list[int]] = {}
    for entry in entries:
        if not entry.digest:
            continue
        found.entries += 1
        if entry.seq != found.entries:
            found.faults.append(f"entry {found.entries} is missing: the next one is {entry.seq}")
            return found
        if not entry.follows(found.head):
            found.faults.append(f"entry {entry.seq} was changed: its digest does not follow from its content")
            return found
        found.head = entry.digest
        for posting in entry.postings:
            total = sums.setdefault((posting.pool, posting.start), [0, 0])
            total[0] += posting.spent
            total[1] += posting.reserved
    if (found.entries, found.head) != (seq, head):
        found.faults.append(
            f"the last entry is {found.entries}, the account is at {seq}: entries are missing at the end"
        )
    for bucket in sums.keys() | counters.keys():
        _compare(found, bucket, tuple(sums.get(bucket, (0, 0))), counters.get(bucket, (0, 0)))
    return found


def _compare(found: Audit, bucket: tuple[str, int], ledger: tuple[int, ...], pool: tuple[int, int]) -> None:
    where = f"pool {bucket[0]} from {at_zone(bucket[1]).isoformat()}"
    if pool[0] == MAX and ledger[0] != MAX:
        found.saturated.append(f"{where}: the counter stays at {MAX}, the entries sum to {ledger[0]}")
    elif ledger[0] != pool[0]:
        found.faults.append(f"{where}: entries sum to {ledger[0]} spent, the pool says {pool[0]}")
    if ledger[1] != pool[1]:
        found.faults.append(f"{where}: entries sum to {ledger[1]} reserved, the pool says {pool[1]}")
