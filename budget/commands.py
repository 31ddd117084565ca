"""What the verbs speak: buckets, draws, reservations, the commands of a store and their outcomes.

Everything here is plain data. Amounts are integers (nano-dollars, tokens, requests), times are microseconds since the
epoch, names and ids are strings: a store can write any of it as rows or as packed bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from budget.ledger import Entry
from budget.money import to_decimal

__all__ = [
    "Account",
    "Amounts",
    "Bucket",
    "ChangePolicy",
    "Command",
    "Draw",
    "Learn",
    "Load",
    "LoadPolicy",
    "Outcome",
    "Prune",
    "Rebuild",
    "Reconcile",
    "Record",
    "Refund",
    "Renew",
    "Reservation",
    "Reserve",
    "Share",
    "State",
    "Status",
    "Sweep",
    "new",
]

Amounts = tuple[int | None, int | None, int | None, int | None, int | None]
"""One figure per unit of `limits.UNITS`; None where the caller did not say."""


new: Any = tuple.__new__
"""Makes a named tuple of a tuple of all its fields, in half of the time that its class takes."""


class Bucket(NamedTuple):
    """The counters of one pool over `[start, end)`; counting began at `since`, after start for a new limit.

    `carry` is what the window before left unspent, where a limit rolls that over: it is added to the limit. `span` is
    the length of the rolling window that it is a part of, else 0; what an outcome shows of a rolling pool has none.
    """

    start: int
    end: int
    since: int
    spent: int
    reserved: int
    carry: int = 0
    span: int = 0

    def at(self, spent: int, reserved: int) -> Bucket:
        """Return it with other counters; `_replace` takes six times as long, and verbs do this for every pool."""
        start, end, since, _, _, carry, span = self
        return new(Bucket, (start, end, since, spent, reserved, carry, span))  # type: ignore[no-any-return]


class Draw(NamedTuple):
    """What one call asks of one pool: `pool` is its id, or None where nothing is shared (a cap).

    `name` is the pool's name, `text` the limit's, for the ledger. A rolling limit has its length in `span`
    (microseconds; 0 for all others) and no bounds: the store finds the sub-buckets. A `shadow` one never refuses.
    `rollover` is the most that a window takes over from what the one before left unspent; that one did not have what
    adjustments add to the limit in the present window, which is `raised` then.
    """

    pool: str | None
    name: str
    unit: int
    limit: int
    amount: int
    start: int
    end: int
    since: int
    text: str = ""
    span: int = 0
    shadow: bool = False
    rollover: int = 0
    raised: int = 0


class Share(NamedTuple):
    """What a reservation took from one bucket."""

    pool: str
    unit: int
    start: int
    amount: int


@dataclass(slots=True)
class Account:
    """The marker of one account: policy version, last sequence number and digest, and the latest instant written."""

    version: int = 0
    seq: int = 0
    head: bytes = bytes(32)
    clock: int = 0


class Reservation(NamedTuple):
    """Money set aside in all pools of one request, under one client-made id.

    Attributes:
        id: 32 hex digits.
        digest: Of what the caller asked for, to tell a repeat from a conflict.
        state: open, then exactly one of reconciled, refunded, expired (which one correction may follow).
        amounts: What was set aside, per unit.
        shares: The buckets it was taken from.
        lease_us, lease_end: How long it may stay open, and until when, in microseconds.
        made, ended: When, in microseconds since the epoch; `ended` is 0 while it is open.
        charged: What its end added to spent, per unit. While it is open: of a slice what it has given back so far for
            what was paid out of it, else None.
        scope: The attributes of the call.
        detail: Model, provider, estimate and the like, as JSON types.
        parent: The reservation that it extends, or None.
    """

    id: str
    digest: str
    state: str
    amounts: Amounts
    shares: Sequence[Share]
    lease_us: int
    lease_end: int
    made: int
    ended: int = 0
    charged: Amounts | None = None
    scope: Mapping[str, str] = {}
    detail: Mapping[str, Any] = {}
    parent: str | None = None

    @property
    def usd(self) -> Decimal:
        """What was set aside, in USD."""
        return to_decimal(self.amounts[0] or 0)

    def ended_as(self, state: str, at: int, charged: Amounts) -> Reservation:
        """Return it as it is after its end."""
        id, digest, _, amounts, shares, lease_us, lease_end, made, _, _, scope, detail, parent = self
        ended = (id, digest, state, amounts, shares, lease_us, lease_end, made, at, charged, scope, detail, parent)
        return new(Reservation, ended)  # type: ignore[no-any-return]


@dataclass(slots=True)
class Reserve:
    """Set aside `amounts` in every pool of `draws`, or in none."""

    id: str
    digest: str
    amounts: Amounts
    draws: Sequence[Draw]
    version: int
    lease_us: int
    scope: Mapping[str, str]
    detail: Mapping[str, Any]
    frozen: str | None = None
    parent: str | None = None


@dataclass(slots=True)
class Reconcile:
    """Replace a reservation by the true cost.

    `draws`, `scope` and `made` (when it was made) say where to book a reservation that the store does not know; without
    them the answer is "unknown" and nothing is written. `known` is the reservation as the caller has it: a server is
    told by it which pools to look at, in one step.
    """

    id: str
    actual: Amounts
    detail: Mapping[str, Any]
    draws: Sequence[Draw] | None = None
    scope: Mapping[str, str] = field(default_factory=dict)
    made: int = 0
    known: Reservation | None = None


@dataclass(slots=True)
class Refund:
    """Make the whole reservation available again. `known`: see `Reconcile`."""

    id: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    known: Reservation | None = None


@dataclass(slots=True)
class Record:
    """Book spend that had no reservation.

    `kind` is what the ledger calls it. "recorded" is spend of now. "backfilled" (spend from before a limit was set) and
    "recovered" (spend that a store lost and others know of) move the counters alone: their entry adds nothing to what
    was spent, because one that did is there already, or was. "returned" spends nothing and only frees.

    `of` names an open reservation, a slice, out of whose money this cost is paid in the same step. In each pool of the
    slice spent rises by the cost, and reserved falls by `frees` (None: by the cost), as far as the slice still has it.
    Once the slice has ended, the cost is booked on `draws` like any other.
    """

    id: str
    digest: str
    actual: Amounts
    draws: Sequence[Draw]
    version: int
    scope: Mapping[str, str]
    detail: Mapping[str, Any]
    kind: str = "recorded"
    of: str | None = None
    frees: Amounts | None = None


@dataclass(slots=True)
class Rebuild:
    """Set these buckets, by (pool, start), if the account's last entry is still `seq`: what an audit found they are.

    `names` says what the ids stand for of pools that the store does not have (any more). A server does it in portions,
    each with an entry; "moved" may then mean that some are done.
    """

    seq: int
    buckets: Mapping[tuple[str, int], Bucket]
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Prune:
    """Let one entry stand for all up to `upto`, if `vouched` is still the last that stands for others.

    Attributes:
        vouched: The number of the last entry "pruned" or "erased" that the caller knows.
        upto, digest: The last entry that is summed, and its digest.
        amounts: What the entries up to it added to spent, per unit.
        sums: (spent, reserved) of each bucket after it.
        gone: Windows that are over, and go if nothing has moved them since.
        detail: Who and why; and what the entry vouches for (`budget.audit`).
    """

    vouched: int
    upto: int
    digest: bytes
    amounts: Sequence[int]
    sums: Mapping[tuple[str, int], tuple[int, int]]
    gone: Collection[tuple[str, int]]
    detail: Mapping[str, Any]


@dataclass(slots=True)
class Load:
    """Write what another store had into an account of this one, entries first, in the order of their numbers.

    The entries follow the last that is there; the first may have any number, if a checkpoint stands for those before.
    """

    entries: Sequence[Entry] = ()
    rows: Sequence[tuple[str, str, str]] = ()
    buckets: Mapping[tuple[str, int], Bucket] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    reservations: Sequence[Reservation] = ()


@dataclass(slots=True)
class Renew:
    """Prolong a lease."""

    id: str
    lease_us: int


@dataclass(slots=True)
class Sweep:
    """Expire what is due, up to `SWEEP` reservations."""


@dataclass(slots=True)
class Status:
    """Read the newest bucket of each pool, after a sweep unless nothing may be written.

    A window that is over stays the newest until a call opens the next. A rolling pool shows what still counts.
    """

    pools: Sequence[str]
    sweep: bool = True


@dataclass(slots=True)
class LoadPolicy:
    """Read the policy and its version in one step."""


@dataclass(slots=True)
class ChangePolicy:
    """Write one row of the policy (`body` None removes it), with who and why in the ledger."""

    kind: str
    identity: str
    body: str | None
    detail: Mapping[str, Any]


@dataclass(slots=True)
class Learn:
    """Add increments to the sketches of what was learned (`budget.expect`), by name; without any, read all of them.

    No pool, no reservation and no entry has to do with it.
    """

    more: Mapping[str, Mapping[int, int]] = field(default_factory=dict)


Command = (
    Reserve | Reconcile | Refund | Record | Renew | Sweep | Status | LoadPolicy | ChangePolicy | Learn | Rebuild | Prune
    | Load
)


@dataclass(slots=True)
class Outcome:
    """The answer to a command.

    Attributes:
        status: reserved, repeated, refused, conflict, stale_policy, stale_window, clock, reconciled, refunded,
            recorded, backfilled, recovered, returned, renewed, ended, unknown, swept, status, policy, changed,
            unchanged, learned, rebuilt, moved or rewound (the account has lost entries that its callers have seen).
        now: The store's clock at the decision.
        version: The policy version at the decision.
        seq: The account's sequence number after it.
        buckets: One per draw or pool, after the verb; None where a pool has none now.
        refused: Indices of the draws that refused.
        shadowed: Indices of the draws in shadow mode that would have refused.
        reservation: The reservation concerned, as it is now stored.
        rows: The policy: (kind, identity, body).
        count: How many reservations a sweep expired.
        learned: Sketches as they are now, by name.
    """

    status: str
    now: int
    version: int
    buckets: Sequence[Bucket | None] = ()
    refused: Sequence[int] = ()
    reservation: Reservation | None = None
    rows: Sequence[tuple[str, str, str]] = ()
    count: int = 0
    learned: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    shadowed: Sequence[int] = ()
    seq: int = 0


class State(Protocol):
    """One account as a verb sees it. What is put is visible to the next read; a store makes it durable in one step."""

    account: Account

    def reservation(self, id: str) -> Reservation | None: ...
    def put_reservation(self, reservation: Reservation) -> None: ...
    def newest(self, pool: str) -> Bucket | None: ...
    def bucket(self, pool: str, start: int) -> Bucket | None: ...
    def parts(self, pool: str) -> Sequence[Bucket]: ...  # of a rolling pool, all that are stored, oldest first
    def put_bucket(self, pool: str, bucket: Bucket, name: str | None = None) -> None: ...
    def drop_bucket(self, pool: str, start: int) -> None: ...
    def due(self, now: int, most: int) -> Sequence[str]: ...
    def forget_window(self, pool: str, start: int) -> None: ...  # and the pool's name, if it was the last
    def vouched(self) -> int: ...  # the number of the last entry that stands for others, or 0
    def append(self, entry: Entry) -> None: ...
    def policy(self) -> Sequence[tuple[str, str, str]]: ...
    def put_policy(self, kind: str, identity: str, body: str | None) -> bool: ...
    def learned(self, name: str) -> Mapping[int, int] | None: ...
    def put_learned(self, name: str, counts: Mapping[int, int] | None) -> None: ...
    def learned_names(self) -> Sequence[str]: ...
