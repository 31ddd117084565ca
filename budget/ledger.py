"""The ledger: append-only entries from which every balance follows.

Each event of the pool (reserved, reconciled, refunded, expired, recorded, refused, and changes of policy) is one entry,
written in the same atomic step as the counters it explains. An entry carries

* what it added to spent, per unit (`amounts`), and the same per pool and window (`postings`);
* a gapless sequence number, and a digest: the SHA-256 of the digest before it and the SHA-256 of its own content.

So `budget.audit` can recompute every counter, and find any entry that was edited, removed or reordered. Two hashes
instead of one, so that an entry whose subject was erased can keep the digest of its first content (`sealed`): the chain
stays provable, and the entry "erased" that follows vouches for the new content.
"""

from __future__ import annotations

import hashlib
import json
import json.encoder
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from budget.money import format_usd, to_decimal
from budget.usage import Usage
from budget.window import at_zone

__all__ = [
    "GENESIS", "Entry", "Move", "Posting", "content_digest", "dumps", "dumps_scope", "dumps_shares", "dumps_text",
    "link", "make_entry",
]  # fmt: skip

GENESIS = bytes(32)
"""The digest before the first entry."""


Move = tuple[str, int, int, int]
"""A `Posting` as verbs write it: eight for a call that draws on eight pools, and seldom read again as such."""


class Posting(NamedTuple):
    """What an entry changed in one bucket of one pool, in the pool's unit."""

    pool: str
    start: int
    spent: int
    reserved: int


@dataclass(slots=True)  # "frozen" would take four times as long to make, once per verb
class Entry:
    """One line of the ledger. Nobody changes it.

    Attributes:
        seq: The account's gapless sequence number, from 1.
        at_us: When, by the store's clock: microseconds since the epoch.
        kind: reserved, reconciled, refunded, expired, recorded, backfilled, recovered, refused; of policy: limit_set,
            limit_unset, frozen, unfrozen, adjusted ...; of the ledger itself: rebuilt, pruned, erased, moved.
        reservation: The id of the reservation, or None.
        amounts: What it added to spent: (nano-dollars, tokens, input tokens, output tokens, requests).
        scope: The attributes of the call.
        detail: The rest as JSON types: model, usage, rates, price book, estimate, outcome; never any text of a prompt.
        moves: What it changed per pool and bucket, the fields of `postings`.
        texts: Scope, detail and postings as the canonical JSON that the digest covers; empty where a server wrote it.
        digest: SHA-256 of the digest before it and its content's (SHA-1 where a server's script made it). Empty for a
            refusal that stands beside the sequence; its `seq` is then that of the entry it follows.
        content: What a server's digest covers.
        sealed: The digest of its first content, if that was erased; else empty.
    """

    seq: int
    at_us: int
    kind: str
    reservation: str | None
    amounts: tuple[int, int, int, int, int]
    scope: Mapping[str, str]
    detail: Mapping[str, Any]
    moves: tuple[Move, ...]
    texts: tuple[str, str, str]
    digest: bytes
    content: bytes = b""
    sealed: bytes = b""

    def follows(self, previous: bytes) -> bool:
        """Whether its digest is that of its content after the digest before it."""
        if self.content:
            return self.digest == hashlib.sha1(previous[:20].hex().encode() + self.content).digest()
        return self.digest == link(previous, self.sealed or self.own())

    def own(self) -> bytes:
        """Return the digest of its content as it is now."""
        return content_digest(self.seq, self.at_us, self.kind, self.reservation, self.amounts, self.texts)

    @property
    def postings(self) -> tuple[Posting, ...]:
        """What it changed per pool and bucket."""
        return tuple(map(Posting._make, self.moves))

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
    moves: tuple[Move, ...],
) -> Entry:  # fmt: skip
    """Make the entry that follows the one whose digest is `previous`."""
    texts = (dumps_scope(scope), dumps(detail) if detail else "{}", dumps_shares(moves))
    digest = link(previous, content_digest(seq, at_us, kind, reservation, amounts, texts))
    return Entry(seq, at_us, kind, reservation, amounts, scope, detail, moves, texts, digest)


def link(previous: bytes, content: bytes) -> bytes:
    """Return the digest of an entry: of the digest before it and the digest of its content."""
    return hashlib.sha256(previous + content).digest()


def content_digest(
    seq: int, at_us: int, kind: str, reservation: str | None, amounts: Iterable[int], texts: tuple[str, str, str]
) -> bytes:
    """Return the SHA-256 of an entry's content.

    JSON escapes every newline inside a string, and no other part has one, so the content is joined without ambiguity.
    """
    usd, tokens, input_tokens, output_tokens, requests = amounts
    scope, detail, postings = texts
    content = (
        f"{seq}\n{at_us}\n{kind}\n{reservation or ''}\n{usd},{tokens},{input_tokens},{output_tokens},{requests}\n"
        f"{scope}\n{detail}\n{postings}"
    )
    return hashlib.sha256(content.encode()).digest()


def dumps(value: object) -> str:
    """Write canonical JSON: sorted keys, no spaces, integers exact."""
    return "".join(_encode(value, 0))


def dumps_scope(scope: Mapping[str, str]) -> str:
    """Return what `dumps` makes of a scope; that of one call is asked for at its start, its end, and by both rows."""
    return _dumps_pairs(tuple(scope.items()))


@lru_cache(1024)
def _dumps_pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    return dumps(dict(pairs))


def dumps_shares(rows: Iterable[Move]) -> str:
    """Return what `dumps` makes of moves, or of a reservation's shares, in half of its time."""
    return f"[{','.join([f'[{dumps_text(pool)},{a},{b},{c}]' for pool, a, b, c in rows])}]"


def _make_encoder() -> Callable[[object, int], Iterable[str]]:
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    make = json.encoder.c_make_encoder  # type: ignore[attr-defined]
    if make is None:  # an interpreter without the C module
        return lambda value, _: [encoder.encode(value)]
    # What `encoder.encode` makes anew at each call, which is most of its time for a small value.
    parts = (None, encoder.default, json.encoder.encode_basestring_ascii, None, ":", ",", True, False, False)
    return make(*parts)  # type: ignore[no-any-return]


_encode = _make_encoder()
dumps_text = json.encoder.encode_basestring_ascii
"""Return what `dumps` makes of a text."""
