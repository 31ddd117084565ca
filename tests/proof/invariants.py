"""What must hold of an account at every observation, as code: read side by side with the list in README.md.

`Books` is fed an account's entries in order and keeps what follows from them: the counters, the open reservations, how
each reservation ended, the limits in force. Each entry is held to the laws as it comes. `observe` looks at a store that
others write to meanwhile: it takes a snapshot, feeds the entries up to it, and compares; then it reads the open
reservations, feeds what came since, and holds every row against both sides of that reading.

A new kind of entry joins with one line in `_LAWS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from budget.commands import Reservation, Status, Sweep
from budget.ledger import GENESIS, Entry
from budget.limits import UNITS, Limit
from budget.money import MAX, parse_usd
from budget.policy import read_name
from budget.pool import SWEEP
from budget.stores.base import Snapshot, Store, read_entries
from budget.window import bounds

__all__ = ["Books", "Violation", "asked", "settle"]

ASKED = "asked"
"""The attribute by which a load says what each call reserves, so that a refusal can be judged."""
_SLOTS = "concurrent"
_OPTIONS = ("tz", "mode", "starts", "rollover")  # what an entry of a limit says beside its text
_KEPT = 3600 * 1_000_000  # how long an id is known after its end, by contract, and two leases more
_SETTLED = 1_000_000  # a lease that ends while we look is for the next sweep


class Violation(AssertionError):
    """An invariant does not hold; its text begins with the invariant's number."""


def must(held: object, law: str, entry: Entry | None, what: str) -> None:
    if not held:
        where = "" if entry is None else f" at entry {entry.seq} ({entry.kind} {entry.reservation})"
        raise Violation(f"{law}{where}: {what}")


def asked(nanos: int, tokens: int = 0) -> str:
    """What a call puts into its scope under `ASKED`."""
    return f"{nanos},{tokens}"


@dataclass
class Books:
    """What follows from the entries of one account so far.

    Args:
        own: Limits that processes bring themselves, as they have them in code.
        pools: How many pools each reserve draws on, if that is known.

    Attributes:
        leases: Of reservations, as far as somebody says, in microseconds.
        clock: The latest instant that the store was told, as far as somebody says, or has written.
    """

    own: Iterable[Limit] = ()
    pools: int | None = None
    seq: int = 0
    head: bytes = GENESIS
    sums: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    open: dict[str, dict[tuple[str, int], int]] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    clock: int = 0
    observations: int = 0

    def __post_init__(self) -> None:
        self._own = {limit.identity: limit for limit in self.own}
        self._limits = dict(self._own)
        self._identities: dict[str, tuple[object, ...]] = {}
        self._raised: dict[tuple[object, ...], int] = {}
        self._until: set[tuple[object, ...]] = set()
        self._touched: dict[tuple[str, int], int] = {}  # the last entry that moved a bucket
        self._known: dict[str, int] = {}  # until when a store must know what was reconciled

    def begin(self, store: Store, account: str = "default") -> None:
        """Begin after the entries that one stands for, where nothing of theirs has ended since."""
        start = store.checkpoint(account)
        if start is not None:
            self.seq, self.head = start.upto, start.digest
            self.sums = {key: list(sums) for key, sums in start.sums.items()}
            self._touched = dict.fromkeys(self.sums, start.upto)
            later = {entry.reservation for entry in read_entries(store, account)}
            for row in store.reservations(account):
                if row.id not in later:
                    self.open[row.id] = {(share.pool or "", share.start): share.amount for share in row.shares}

    # Entries, one by one.

    def feed(self, entry: Entry) -> None:
        """Hold the next entry to the laws."""
        self.counts[entry.kind] = self.counts.get(entry.kind, 0) + 1
        self.clock = max(self.clock, entry.at_us)
        if entry.digest:
            must(entry.seq == self.seq + 1, "I12", entry, f"its number does not follow {self.seq}")
            must(entry.follows(self.head), "I12", entry, "its digest does not follow from its content")
            self.seq, self.head = entry.seq, entry.digest
        must(entry.kind in _LAWS, "I12", entry, "nobody knows such an entry")
        _LAWS[entry.kind](self, entry)
        for pool, start, spent, reserved in entry.postings if entry.kind != "rebuilt" else ():
            sums = self.sums.setdefault((pool, start), [0, 0])
            self._touched[pool, start] = self.seq
            sums[0] += spent
            sums[1] += reserved
            if sums[0] < 0 or sums[1] < 0:
                must(self._rolling(pool) and sums[1] >= 0, "I10", entry, f"pool {pool} is below zero: {sums}")

    def _reserved(self, entry: Entry) -> None:
        id = entry.reservation or ""
        must(id not in self.open and id not in self.ended, "I6", entry, "the id was there before")
        must(not any(entry.amounts), "I11", entry, "it spends")
        must(self.pools in (None, len(entry.postings)), "I2", entry, f"it moved {len(entry.postings)} pools")
        must(len({p.pool for p in entry.postings}) == len(entry.postings), "I2", entry, "it moved a pool twice")
        for posting in entry.postings:
            must(posting.spent == 0 <= posting.reserved, "I11", entry, f"it posts {posting}")
            limit = self._limit(posting.pool)
            if limit is None or not posting.reserved or limit.mode != "enforce":
                continue
            spent, reserved = self._now_in(limit, posting.pool, entry.at_us, posting.start)
            total = spent + reserved + posting.reserved
            bar = limit.quantity + limit.rollover + self._raised.get(limit.identity, 0)
            must(total <= bar, "I1", entry, f"{limit}: {spent} + {reserved} + {posting.reserved}")
        self.open[id] = {(p.pool, p.start): p.reserved for p in entry.postings}

    def _ends(self, entry: Entry) -> None:
        id, how = entry.reservation or "", entry.kind
        held = self.open.pop(id, None)
        unknown = held is None and bool(entry.detail.get("unknown")) and how == "reconciled"
        if held is None:
            before = self.ended.get(id)
            forgotten = id in self._known and self.clock >= self._known[id]
            late = before == "expired" and how != "expired"
            may = (unknown and (before is None or forgotten)) or late
            must(may, "I6", entry, f"it was {before or 'never reserved'}")
            must(not any(p.reserved for p in entry.postings), "I6", entry, "it frees what nobody holds")
        else:
            freed = {(p.pool, p.start): -p.reserved for p in entry.postings}
            must(freed == held, "I11", entry, f"it frees {freed}, it held {held}")
            if how == "expired":
                for posting in entry.postings:
                    slot = self._unit(posting.pool) == _SLOTS
                    must(slot or posting.spent >= -posting.reserved, "I9", entry, f"it makes room: {posting}")
            if how == "refunded":
                must(not any(entry.amounts), "I11", entry, "a refund spends")
        self._posts_its_cost(entry)
        self.ended[id] = "expired" if how == "expired" else f"late {how}" if held is None else how
        if how == "reconciled" and (unknown or id in self.leases):  # what is booked as unknown has no lease
            self._known[id] = entry.at_us + _KEPT + 2 * (0 if unknown else self.leases[id])

    def _booked(self, entry: Entry) -> None:
        id = entry.reservation or ""
        must(id not in self.open and id not in self.ended, "I6", entry, "the id was there before")
        slice_ = self.open.get(str(entry.detail.get("of")))
        for posting in entry.postings if slice_ is not None else ():
            slice_[posting.pool, posting.start] += posting.reserved  # a slice gives back what was paid out of it
            must(slice_[posting.pool, posting.start] >= 0, "I10", entry, f"more than the slice has: {posting}")
        freed = slice_ is None and any(p.reserved for p in entry.postings)
        must(not freed, "I11", entry, "it frees what nobody holds")
        if entry.kind == "recorded":
            self._posts_its_cost(entry)
        else:
            must(not any(entry.amounts), "I11", entry, "it spends")
        self.ended[id] = entry.kind

    def _moved(self, entry: Entry) -> None:
        """Counters that follow no call."""
        must(not any(entry.amounts), "I11", entry, "it spends")

    def _refused(self, entry: Entry) -> None:
        must(not entry.postings and not any(entry.amounts), "I4", entry, "a refusal moves something")
        said, reasons = entry.scope.get(ASKED), entry.detail.get("refused", ())
        must(reasons or entry.detail.get("frozen"), "L2", entry, "it says no reason")
        for reason in reasons if said else ():
            limit = Limit(reason["limit"])
            amount = self._amount(limit, said)
            inexact = limit.rollover or limit.identity in self._raised or limit.identity in self._until
            if reason["pool"] is None or amount is None or inexact:
                continue
            known = self._limit(reason["pool"])
            must(known is None or known.quantity == limit.quantity, "I23", entry, f"{limit} is not in force: {known}")
            limit = known or limit
            spent, reserved = self._now_in(limit, reason["pool"], entry.at_us, None)
            room = limit.quantity - spent - reserved
            must(amount > room, "I3", entry, f"{limit}: {amount} would have fitted, room was {room}")

    def _policy(self, entry: Entry) -> None:
        must(not entry.postings and not any(entry.amounts), "I23", entry, "a change of policy moves a counter")
        if entry.kind in ("limit_set", "limit_unset", "adjusted") and "limit" in entry.detail:
            options = {name: entry.detail[name] for name in _OPTIONS if name in entry.detail}
            limit = Limit(entry.detail["limit"], **options)
            if entry.kind == "adjusted":
                raised = self._raised.get(limit.identity, 0)
                self._raised[limit.identity] = raised + parse_usd(entry.detail["amount"], "amount")
            elif entry.kind == "limit_set":
                self._limits[limit.identity] = limit
                if "until" in entry.detail:  # and then what held before, without an entry
                    self._until.add(limit.identity)
            elif limit.identity in self._own:
                self._limits[limit.identity] = self._own[limit.identity]
            else:
                self._limits.pop(limit.identity, None)

    def _pruned(self, entry: Entry) -> None:
        """One entry stands for all up to another: its sums are theirs, but for windows that are over."""
        self._moved(entry)
        upto = entry.detail["upto"]
        said = {(pool, start): [spent, reserved] for pool, start, spent, reserved in entry.detail["sums"]}
        for key in [key for key, seq in self._touched.items() if seq <= upto]:
            if key in said:
                must(said[key] == self.sums[key], "I14", entry, f"{key}: it says {said[key]}, entries {self.sums[key]}")
            elif not self._rolling(key[0]):  # which goes by itself
                must(not self.sums[key][1], "I7", entry, f"{key} goes, and holds {self.sums[key][1]}")
                del self.sums[key], self._touched[key]

    def _posts_its_cost(self, entry: Entry) -> None:
        for posting in entry.postings:
            unit = self._unit(posting.pool)
            cost = 0 if unit in (None, _SLOTS) else entry.amounts[UNITS.index(unit)]
            must(unit is None or posting.spent == cost, "I5", entry, f"{posting} of a cost of {cost} {unit}")

    # What the names of pools say.

    def _identity(self, pool: str) -> tuple[object, ...] | None:
        found = self._identities.get(pool)
        if found is None and self.names.get(pool, "").startswith("["):
            found = self._identities[pool] = read_name(self.names[pool])[0]
        return found

    def _limit(self, pool: str) -> Limit | None:
        identity = self._identity(pool)
        return None if identity is None or identity in self._until else self._limits.get(identity)

    def _unit(self, pool: str) -> str | None:
        identity = self._identity(pool)
        return None if identity is None else str(identity[2])

    def _rolling(self, pool: str) -> bool:
        identity = self._identity(pool)
        return identity is not None and str(identity[3]).endswith("rolling")

    def _now_in(self, limit: Limit, pool: str, at: int, start: int | None) -> tuple[int, int]:
        """The counters of a pool's window at an instant; of a rolling one, all that can still count."""
        window = limit.window
        if self._rolling(pool):
            # What is admitted must fit with all that lies wholly within; what is refused, with all that still counts.
            first = at - window.span - (0 if start is not None else -(-window.span // 60))
            found = [s for (p, begin), s in self.sums.items() if p == pool and begin > first]
            return sum(s[0] for s in found), sum(s[1] for s in found)
        if start is None:
            start = bounds(window, at, limit.tz)[0] if window.calendar else None
        if start is None:
            found = [s for (p, _), s in self.sums.items() if p == pool]
            return (found[0][0], found[0][1]) if found else (0, 0)
        spent, reserved = self.sums.get((pool, start), (0, 0))
        return spent, reserved

    @staticmethod
    def _amount(limit: Limit, said: str) -> int | None:
        nanos, tokens = map(int, said.split(","))
        return {"usd": nanos, "tokens": tokens, "requests": 1, _SLOTS: 1}.get(limit.unit)

    # A store.

    def observe(self, store: Store, account: str = "default") -> Snapshot:
        """Look at an account that others may be writing to."""
        found = store.snapshot(account)
        self.names = {**self.names, **found.names}
        self.read(store, account, found.seq)
        self._compare(found)
        held, ended = set(self.open), set(self.ended)
        rows = store.reservations(account)
        self.names = {**self.names, **store.names(account)}
        self.read(store, account, store.last(account))
        self._compare_rows(rows, held, ended)
        self.observations += 1
        return found

    def read(self, store: Store, account: str, seq: int) -> None:
        """Feed the entries up to a number."""
        while self.seq < seq:
            page = store.entries(account, self.seq)
            must(page, "I12", None, f"entries above {self.seq} of {seq} are missing")
            for entry in page:
                if entry.seq <= seq and (entry.seq > self.seq or not entry.digest):
                    self.feed(entry)

    def _compare(self, found: Snapshot) -> None:
        must(found.seq == self.seq, "I13", None, f"the account is at {found.seq}, its entries end at {self.seq}")
        must(found.head == self.head, "I12", None, "the account's digest is not that of its last entry")
        held: dict[tuple[str, int], int] = {}
        for shares in self.open.values():
            for key, amount in shares.items():
                held[key] = held.get(key, 0) + amount
        for key in self.sums.keys() | found.buckets.keys():
            bucket, sums = found.buckets.get(key), self.sums.get(key, [0, 0])
            if bucket is None:
                gone = self._rolling(key[0]) or "pruned" in self.counts
                must(gone or sums == [0, 0], "I14", None, f"{key} is gone; its entries sum to {sums}")
                continue
            spent, reserved = bucket.spent, bucket.reserved
            must(0 <= spent <= MAX and 0 <= reserved <= MAX, "I10", None, f"{key} is {bucket}")
            must(spent in (sums[0], MAX), "I11", None, f"{key}: {bucket}, {sums}")
            must(reserved == sums[1], "I11", None, f"{key}: {bucket}, its entries sum to {sums}")
            must(reserved == held.get(key, 0), "I7", None, f"{key}: {bucket}, open reservations hold {held.get(key)}")

    def _compare_rows(self, rows: Iterable[Reservation], held: set[str], ended: set[str]) -> None:
        seen = set()
        for row in rows:
            seen.add(row.id)
            must(row.id not in ended, "I15", None, f"{row.id} is open, and its end is in the ledger")
            must(row.id in held or row.id in self.open or row.id in self.ended, "I15", None, f"{row.id} has no entry")
        missing = (held & self.open.keys()) - seen
        must(not missing, "I15", None, f"{sorted(missing)[:3]} are open in the ledger, and not in the store")


def settle(store: Store, account: str = "default", now: int | None = None) -> None:
    """Sweep until nothing is due; then nothing whose lease has ended may be open (I8)."""
    while store.call(account, Sweep(), 30.0, now).count >= SWEEP:
        pass
    at = store.call(account, Status((), sweep=False), 30.0, now).now
    due = [r for r in store.reservations(account) if r.lease_end <= at - _SETTLED]
    must(not due, "I8", None, f"{len(due)} leases ended, and are open")


_LAWS: dict[str, Callable[[Books, Entry], None]] = {
    "reserved": Books._reserved,
    "reconciled": Books._ends,
    "refunded": Books._ends,
    "expired": Books._ends,
    "recorded": Books._booked,
    "backfilled": Books._booked,
    "recovered": Books._booked,
    "returned": Books._booked,
    "rebuilt": Books._moved,  # counters are brought to what the entries say: the sums stay
    "refused": Books._refused,
    **dict.fromkeys(
        ("limit_set", "limit_unset", "frozen", "unfrozen", "adjusted", "adjust_ended", "fenced", "unfenced"),
        Books._policy,
    ),
    "pruned": Books._pruned,
    "erased": Books._moved,
}
