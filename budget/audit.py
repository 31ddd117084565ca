"""The audit: proves from the entries alone that no entry is missing or changed, and what every counter must be.

An auditor reads lines one by one and keeps one sum per pool and window, so a ledger may be of any length. It starts at
the first entry, or at a checkpoint: the entry "pruned", which has the sums of all entries up to `upto` and the digest
of the last of them. The checkpoint is itself in the chain that it starts, so neither can be changed without the other.

The entry "rebuilt" says by how much counters were set right. It moves no sum: it brought the counters to them.

Entries whose subject was erased keep the digest of their first content. What they say now is vouched for by the last
entry "erased" (or "pruned"): it has the digest of all of them as they then were.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from budget.ledger import GENESIS
from budget.money import MAX
from budget.window import Window, at_zone

__all__ = ["Audit", "Auditor", "Checkpoint", "Line", "Vouch", "audit", "read_checkpoint", "rolling_pools"]

Key = tuple[str, int]
"""A bucket: its pool, and when it starts."""
_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_VOUCHES = ("erased", "pruned")


class Chained(Protocol):
    """What the auditor asks of an entry."""

    @property
    def seq(self) -> int: ...
    @property
    def at_us(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def sealed(self) -> bytes: ...
    @property
    def amounts(self) -> Sequence[int]: ...
    @property
    def postings(self) -> Iterable[Sequence[Any]]: ...
    @property
    def detail(self) -> Mapping[str, Any]: ...
    def follows(self, previous: bytes) -> bool: ...
    def own(self) -> bytes: ...


class Line(NamedTuple):
    """An entry as a proof needs it, as a row of a table: half of the work of an `Entry`.

    `content` is what its digest covers (`ledger.content_digest`), and has the rest in it; `seal` and `moved` are what
    is `sealed` and `postings` here.
    """

    seq: int
    kind: str
    digest: bytes
    seal: bytes | None
    content: bytes
    moved: str

    @property
    def sealed(self) -> bytes:
        """The digest of its first content, if that was erased; else empty."""
        return self.seal or b""

    @property
    def at_us(self) -> int:
        """When, in microseconds since the epoch."""
        return int(self.content.split(b"\n", 2)[1])

    @property
    def amounts(self) -> Sequence[int]:
        """What it added to spent, per unit."""
        return [int(amount) for amount in self.content.split(b"\n", 5)[4].split(b",")]

    @property
    def postings(self) -> Iterable[Sequence[Any]]:
        """What it changed per pool and bucket."""
        found: list[Sequence[Any]] = _scan(self.moved, 0)[0]
        return found

    @property
    def detail(self) -> Mapping[str, Any]:
        """The rest."""
        found: Mapping[str, Any] = json.loads(self.content.split(b"\n")[6])
        return found

    def follows(self, previous: bytes) -> bool:
        """Whether its digest is that of its content after the digest before it."""
        return self.digest == sha256(previous + (self.seal or sha256(self.content).digest())).digest()

    def own(self) -> bytes:
        """Return the digest of its content as it is now."""
        return sha256(self.content).digest()


class Checkpoint(NamedTuple):
    """The sum of the entries up to `upto`, which stands for them.

    Attributes:
        upto: The number of the last entry that was summed.
        digest: The digest of that entry.
        amounts: What those entries added to spent, per unit.
        sums: (spent, reserved) of each bucket that there still was.
        seq: The number of the entry that says so.
        retired: Buckets of a server that are left out, whether the server has dropped them yet or not.
    """

    upto: int = 0
    digest: bytes = GENESIS
    amounts: tuple[int, ...] = (0, 0, 0, 0, 0)
    sums: Mapping[Key, tuple[int, int]] = {}
    seq: int = 0
    retired: frozenset[Key] = frozenset()

    def to_detail(self) -> dict[str, Any]:
        """Return it as the detail of an entry."""
        sums = [[pool, start, *sums] for (pool, start), sums in sorted(self.sums.items())]
        return {"upto": self.upto, "digest": self.digest.hex(), "amounts": list(self.amounts), "sums": sums}


def read_checkpoint(seq: int, detail: Mapping[str, Any]) -> Checkpoint:
    """Read the detail of an entry "pruned". A pool may be in it twice: an erasure made two pools one."""
    sums: dict[Key, tuple[int, int]] = {}
    for pool, start, spent, reserved in detail["sums"]:
        before = sums.get((pool, start), (0, 0))
        sums[pool, start] = before[0] + spent, before[1] + reserved
    retired = frozenset((pool, start) for pool, start in detail.get("retired", ()))
    return Checkpoint(detail["upto"], bytes.fromhex(detail["digest"]), tuple(detail["amounts"]), sums, seq, retired)


class Vouch:
    """The digest of the entries whose subject was erased, as they are now, by which another entry vouches for them."""

    __slots__ = ("_digest", "any")

    def __init__(self) -> None:
        self._digest, self.any = sha256(), False

    def add(self, entry: Chained) -> None:
        """Add an entry, in the order of their numbers, if it was erased."""
        if entry.sealed:
            self._digest.update(b"%d\n" % entry.seq + entry.own())
            self.any = True

    def __str__(self) -> str:
        return self._digest.hexdigest() if self.any else ""


@dataclass(slots=True)
class Audit:
    """What an audit found.

    Attributes:
        entries: How many entries were read.
        faults: What is wrong, in words; empty if the books balance.
        saturated: Pools whose counter stays at its ceiling because the true sum is above it.
        head: The digest of the last entry.
        since: The first entry that could be read; above 1, those before are summed in a checkpoint, or `partial`.
        partial: Nobody here knows the entries before `since`, so sums could not be compared.
    """

    entries: int = 0
    faults: list[str] = field(default_factory=list)
    saturated: list[str] = field(default_factory=list)
    head: bytes = GENESIS
    since: int = 1
    partial: bool = False

    @property
    def ok(self) -> bool:
        """Whether the books balance."""
        return not self.faults


class Auditor:
    """Reads a chain from its start, and keeps the sums.

    Attributes:
        found: What was found so far.
        sums: [spent, reserved] by bucket.
        touched, amounts: If asked for: when each bucket was last posted to, and what was added to spent, per unit.
        seq: The number of the last entry read.
        voucher: The number of the last entry that stands for others, or 0.

    Args:
        start: Where the entries begin: after a checkpoint, else with the first.
        touches: Keep what a checkpoint is made of, besides: a fifth of the time more.
        anywhere: They may begin anywhere: nobody here has those before.
    """

    def __init__(self, start: Checkpoint | None = None, *, touches: bool = False, anywhere: bool = False):
        start = start or Checkpoint()
        self.found = Audit(head=start.digest, since=start.upto + 1)
        self.sums: dict[Key, list[int]] = {key: list(sums) for key, sums in start.sums.items()}
        self.touched: dict[Key, int] | None = {} if touches else None
        self.amounts = list(start.amounts)
        self.seq = start.upto
        self.voucher = start.seq
        self._anywhere = anywhere and not start.upto
        self._checkpoint, self._met = start, start.seq == 0
        self._sealed, self._vouched = Vouch(), True
        self._claims = self._so = ""  # what the last entry that vouches for others says of them, and what is so
        self._last: Chained | None = None

    def read(self, lines: Iterable[Chained], upto: int | None = None) -> bool:
        """Read lines, the oldest first, up to a number; whether all of them follow."""
        found, sums, touched = self.found, self.sums, self.touched
        for line in lines:
            if not line.digest:
                continue
            seq = line.seq
            if upto is not None and seq > upto:  # what came later, or was put in behind the last entry
                follows = self._anywhere or (seq == self.seq + 1 and line.follows(found.head))
                return follows or self._broken(seq)
            if seq != self.seq + 1 or not line.follows(found.head):
                if not self._anywhere or seq == 1:
                    return self._broken(seq)
                found.since, found.partial = seq, True
            self.seq, found.head, self._anywhere, self._last = seq, line.digest, False, line
            found.entries += 1
            if line.sealed:
                self._sealed.add(line)
                self._vouched = False
            if line.kind in _VOUCHES:
                self._look_at(line)
            elif line.kind == "rebuilt":
                continue
            for pool, start, spent, reserved in line.postings:
                total = sums.get((pool, start))
                if total is None:
                    sums[pool, start] = [spent, reserved]
                else:
                    total[0] += spent
                    total[1] += reserved
            if touched is not None:
                self._touch(line, touched)
        return True

    def _broken(self, seq: int) -> bool:
        if seq != self.seq + 1:
            return self._fault(f"entry {self.seq + 1} is missing: the next one is {seq}")
        return self._fault(f"entry {seq} was changed: its digest does not follow from its content")

    def _touch(self, line: Chained, touched: dict[Key, int]) -> None:
        self.amounts = [total + amount for total, amount in zip(self.amounts, line.amounts, strict=True)]
        for pool, start, _, _ in line.postings:
            touched[pool, start] = line.at_us

    def sealed(self) -> str:
        """Return the digest of the erased entries as they are now; "" if there are none."""
        return str(self._sealed)

    def _look_at(self, line: Chained) -> None:
        """Remember what an entry says of those before it."""
        detail, self.voucher = line.detail, line.seq
        if line.seq == self._checkpoint.seq:
            self._met = read_checkpoint(line.seq, detail) == self._checkpoint
        # What an earlier erasure said does not hold any more where a later one changed entries again: the last counts.
        self._claims, self._vouched = detail.get("sealed", ""), True
        self._so = self.sealed()

    def _fault(self, text: str) -> bool:
        self.found.faults.append(text)
        return False

    def finish(self, head: bytes, seq: int) -> Audit:
        """See whether this is the account's end: its last digest and sequence number."""
        found = self.found
        if found.faults:
            return found
        if (self.seq, found.head) != (seq, head):
            if self.seq == seq:
                self._fault(f"entry {seq}, the last one, is not the one that the account ends with")
            else:
                self._fault(f"the last entry is {self.seq}, the account is at {seq}: entries are missing at the end")
        if not self._met:
            self._fault(f"entry {self._checkpoint.seq}, the checkpoint that stands for the entries up to "
                        f"{self._checkpoint.upto}, is not in the chain")  # fmt: skip
        if not self._vouched or self._claims != self._so:
            self._fault("an erased entry was changed: the last erasure does not vouch for what it says")
        return found

    def lost(self, there: Container[Key], rolling: Mapping[str, int]) -> list[Key]:
        """Return the buckets with a sum that should be among the counters after the entry that was read last.

        A rolling pool forgets what has left its window; the entries do not.
        """
        now = self._last.at_us if self._last is not None else 0
        gone = [key for key, sums in self.sums.items() if key not in there and any(sums)]
        return [(pool, start) for pool, start in gone if pool not in rolling or start > now - rolling[pool]]

    def compare(self, counters: Mapping[Key, tuple[int, int]], rolling: Mapping[str, int] = {}) -> None:
        """Compare the sums with the counters as they were after the entry that was read last."""
        if self.found.partial:
            return
        nothing, retired = (0, 0), self._checkpoint.retired
        there = [key for key in counters if key in self.sums or key not in retired]
        for bucket in (*there, *self.lost(counters, rolling)):
            _compare(self.found, bucket, self.sums.get(bucket, nothing), counters.get(bucket, nothing))


def audit(
    entries: Iterable[Chained], counters: Mapping[Key, tuple[int, int]], head: bytes, seq: int,
    rolling: Mapping[str, int] = {}, start: Checkpoint | None = None,
) -> Audit:  # fmt: skip
    """Prove that the ledger is whole and that the sum of its entries is what the pools say.

    Args:
        entries: Every entry of the account after `start`, oldest first.
        counters: (spent, reserved) of every bucket, by (pool, start), at the instant of the last entry.
        head: The account's digest after its last entry.
        seq: The account's sequence number after its last entry.
        rolling: The ids of rolling pools, whose old buckets need not be there any more, and their lengths (see
            `rolling_pools`).
        start: The checkpoint that the entries begin after.
    """
    auditor = Auditor(start)
    if auditor.read(entries):
        auditor.finish(head, seq)
        auditor.compare(counters, rolling)
    return auditor.found


def rolling_pools(names: Mapping[str, str]) -> dict[str, int]:
    """Return the ids of pools whose window is a rolling one, which their name says, and its length in microseconds."""
    likely = ((pool, json.loads(name)[1]) for pool, name in names.items() if " rolling" in name)
    return {pool: Window.parse(window).span for pool, window in likely if window.endswith(" rolling")}


def _compare(found: Audit, bucket: Key, ledger: Sequence[int], pool: Sequence[int]) -> None:
    where = f"pool {bucket[0]} from {at_zone(bucket[1]).isoformat()}"
    if pool[0] == MAX and ledger[0] != MAX:
        found.saturated.append(f"{where}: the counter stays at {MAX}, the entries sum to {ledger[0]}")
    elif ledger[0] != pool[0]:
        found.faults.append(f"{where}: entries sum to {ledger[0]} spent, the pool says {pool[0]}")
    if ledger[1] != pool[1]:
        found.faults.append(f"{where}: entries sum to {ledger[1]} reserved, the pool says {pool[1]}")
