"""The memory store: `pool.apply` on dictionaries, under one lock. Private to its object; gone with it.

A finalizer may run in any thread at any allocation, also in one that holds the lock. So `post` never waits: it leaves
the command in a queue, and whoever holds or gets the lock carries it out.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from itertools import islice
from threading import Lock
from typing import Any
from weakref import WeakSet

from budget.audit import Checkpoint, Vouch, read_checkpoint
from budget.commands import Account, Bucket, Command, Outcome, Reservation
from budget.ends import NOTHING, log
from budget.ledger import Entry
from budget.pool import apply, keep_until
from budget.pseudonym import Swap
from budget.stores.base import PAGE, Snapshot
from budget.stores.watches import LedgerWatch

__all__ = ["MemoryStore"]


class _MemoryState:
    """One account in dictionaries."""

    def __init__(self) -> None:
        self.account = Account()
        self.reservations: dict[str, Reservation] = {}
        self.pools: dict[str, dict[int, Bucket]] = {}
        self.last: dict[str, Bucket] = {}
        self.names: dict[str, str] = {}
        self.leases: list[tuple[int, str]] = []
        self.ended: deque[str] = deque()
        self.rows: dict[tuple[str, str], str] = {}
        self.sketches: dict[str, Mapping[int, int]] = {}
        self.ledger: list[Entry] = []

    def reservation(self, id: str) -> Reservation | None:
        return self.reservations.get(id)

    def put_reservation(self, reservation: Reservation) -> None:
        known = self.reservations.get(reservation.id)
        self.reservations[reservation.id] = reservation
        if reservation.state == "open":
            if known is None or known.lease_end != reservation.lease_end:  # not at each cost that a slice pays
                heappush(self.leases, (reservation.lease_end, reservation.id))
        else:
            self.ended.append(reservation.id)

    def newest(self, pool: str) -> Bucket | None:
        return self.last.get(pool)

    def bucket(self, pool: str, start: int) -> Bucket | None:
        buckets = self.pools.get(pool)
        return None if buckets is None else buckets.get(start)

    def put_bucket(self, pool: str, bucket: Bucket, name: str | None = None) -> None:
        last, start = self.last.get(pool), bucket.start
        if last is None:
            self.pools[pool] = {}
        self.pools[pool][start] = bucket
        if last is None or start >= last.start:
            self.last[pool] = bucket
        if name is not None:
            self.names.setdefault(pool, name)

    def parts(self, pool: str) -> Sequence[Bucket]:
        return sorted(self.pools.get(pool, {}).values())

    def drop_bucket(self, pool: str, start: int) -> None:
        del self.pools[pool][start]

    def forget_window(self, pool: str, start: int) -> None:
        buckets = self.pools.get(pool, {})
        buckets.pop(start, None)
        if not buckets:
            for known in (self.pools, self.last, self.names):
                known.pop(pool, None)

    def vouched(self) -> int:
        return next((entry.seq for entry in reversed(self.ledger) if entry.kind in ("pruned", "erased")), 0)

    def due(self, now: int, most: int) -> Sequence[str]:
        found: list[str] = []
        while self.leases and self.leases[0][0] <= now and len(found) < most:
            lease_end, id = heappop(self.leases)
            known = self.reservations.get(id)
            # An ended or a renewed reservation leaves its earlier lease behind in the heap.
            if known is not None and known.state == "open" and known.lease_end == lease_end and id not in found:
                found.append(id)
        for id in found:  # until it has ended: whoever asks may only look
            heappush(self.leases, (self.reservations[id].lease_end, id))
        return found

    def append(self, entry: Entry) -> None:
        self.ledger.append(entry)

    def policy(self) -> Sequence[tuple[str, str, str]]:
        return [(kind, identity, body) for (kind, identity), body in self.rows.items()]

    def put_policy(self, kind: str, identity: str, body: str | None) -> bool:
        before = self.rows.get((kind, identity))
        if body is None:
            self.rows.pop((kind, identity), None)
        else:
            self.rows[kind, identity] = body
        return before != body

    def learned(self, name: str) -> Mapping[int, int] | None:
        return self.sketches.get(name)

    def put_learned(self, name: str, counts: Mapping[int, int] | None) -> None:
        if counts is None:
            self.sketches.pop(name, None)
        else:
            self.sketches[name] = counts

    def learned_names(self) -> Sequence[str]:
        return list(self.sketches)

    def forget(self, now: int) -> None:
        """Drop a few ended reservations whose time is over."""
        for _ in range(min(2, len(self.ended))):
            known = self.reservations.get(self.ended[0])
            if known is not None and known.state != "open" and keep_until(known) > now:
                return
            self.ended.popleft()
            if known is not None and known.state != "open":
                self.reservations.pop(known.id, None)


def _machine_clock() -> int:
    return time.time_ns() // 1000


class MemoryStore:
    """Pools, reservations and ledger in this process's memory. See `stores.base.Store`."""

    url = "memory://"
    default_timeout = 2.0
    undelivered: Callable[[str, Command], None] | None = None  # nothing fails here

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or _machine_clock
        self._states: dict[str, _MemoryState] = {}
        self._lock = Lock()
        self._posted: deque[tuple[str, Command]] = deque()
        self._watches: WeakSet[LedgerWatch] = WeakSet()
        _STORES.add(self)

    def call(self, account: str, command: Command, timeout: float, now: int | None = None) -> Outcome:
        """Carry out a command."""
        self._lock.acquire()
        try:
            self._drain()
            return self._apply(account, command, now)
        finally:
            self._lock.release()
            if self._posted:
                self._drain_if_free()

    async def acall(self, account: str, command: Command, timeout: float) -> Outcome:
        """Carry out a command; it takes microseconds, so the event loop is not left."""
        return self.call(account, command, timeout)

    def post(self, account: str, command: Command) -> None:
        """Hand a command over without waiting for the lock."""
        self._posted.append((account, command))
        self._drain_if_free()

    def entries(self, account: str, after: int, since_us: int = 0) -> Sequence[Entry]:
        """Read a page of the ledger."""
        ledger = self._read(account).ledger
        start = max(0, after - (ledger[0].seq - 1 if ledger else 0))
        if not since_us:
            return ledger[start : start + PAGE]
        later = (entry for entry in islice(ledger, start, None) if entry.at_us >= since_us)
        return list(islice(later, PAGE))

    def watch(self, account: str, after: int) -> LedgerWatch:
        """Watch what this process writes: nobody else does."""
        made = LedgerWatch(lambda seq: self.entries(account, seq), after)
        with self._lock:
            self._watches.add(made)
        return made

    def lines(self, account: str, after: int) -> Iterator[Entry]:
        """Iterate the entries."""
        while page := self.entries(account, after):
            yield from page
            after = page[-1].seq

    def checkpoint(self, account: str) -> Checkpoint | None:
        """Read the last checkpoint."""
        found = next((entry for entry in reversed(self._read(account).ledger) if entry.kind == "pruned"), None)
        return None if found is None else read_checkpoint(found.seq, found.detail)

    def erase(self, account: str, swap_of: Callable[[Mapping[str, str]], Swap], detail: Mapping[str, Any]) -> int:
        """Put a pseudonym in the place of a value; return how many entries have changed."""
        with self._lock:
            old = self._read(account)
            swap, new, vouch, count = swap_of(old.names), _MemoryState(), Vouch(), 0
            new.account = old.account
            for (kind, identity), body in old.rows.items():
                new.account.version += new.put_policy(kind, swap.text(identity), swap.text(body))
            for pool, buckets in old.pools.items():
                other, name = swap.pools.get(pool, (pool, old.names[pool]))
                for bucket in buckets.values():
                    known = new.bucket(other, bucket.start)
                    more = bucket.at(bucket.spent + known.spent, bucket.reserved + known.reserved) if known else bucket
                    new.put_bucket(other, more, name)
            for id in (*old.ended, *(id for _, id in old.leases)):
                if id in old.reservations:
                    new.put_reservation(swap.reservation(old.reservations[id]))
            new.sketches = {swap.sketch(name): counts for name, counts in old.sketches.items()}
            for entry in old.ledger:
                new.append(swap.entry(entry))
                vouch.add(new.ledger[-1])
                count += new.ledger[-1] is not entry
            told = {**detail, "entries": count, **({"sealed": str(vouch)} if vouch.any else {})}
            log(new, new.account.clock, "erased", None, NOTHING, {}, told, ())
            self._states[account] = new
            return count

    def forget_entries(self, account: str, upto: int) -> None:
        """Drop entries that a checkpoint stands for."""
        with self._lock:
            state = self._read(account)
            state.ledger = [entry for entry in state.ledger if entry.seq > upto]

    def reservations(self, account: str) -> Sequence[Reservation]:
        """Read the open reservations, oldest first."""
        with self._lock:
            known = list(self._read(account).reservations.values())
        return sorted((r for r in known if r.state == "open"), key=lambda r: r.made)

    def ended(self, account: str) -> Sequence[Reservation]:
        """Read the ended reservations that are still known."""
        with self._lock:
            return [known for known in self._read(account).reservations.values() if known.state != "open"]

    def snapshot(self, account: str) -> Snapshot:
        """Read all counters at one instant."""
        with self._lock:
            state = self._read(account)
            buckets = {(pool, start): b for pool, found in state.pools.items() for start, b in found.items()}
            return Snapshot(buckets, dict(state.names), state.account.seq, state.account.head)

    def names(self, account: str) -> Mapping[str, str]:
        """Read what the ids of the pools stand for."""
        with self._lock:
            return dict(self._read(account).names)

    def last(self, account: str) -> int:
        """Read the number of the last entry."""
        return self._read(account).account.seq

    def remove(self, account: str) -> None:
        """Remove a scratch account."""
        with self._lock:
            self._states.pop(account, None)

    def close(self) -> None:
        """Carry out what was posted."""
        self._drain_if_free()

    def _read(self, account: str) -> _MemoryState:
        return self._states.get(account) or _MemoryState()

    def _apply(self, account: str, command: Command, now: int | None = None) -> Outcome:
        state = self._states.get(account)
        if state is None:
            state = self._states[account] = _MemoryState()
        outcome = apply(state, command, self._clock() if now is None else now)
        state.forget(outcome.now)
        if self._watches:
            for watch in self._watches:
                watch.nudge()
        return outcome

    def _drain(self) -> None:
        while self._posted:
            self._apply(*self._posted.popleft())

    def _drain_if_free(self) -> None:
        while self._posted and self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()


_STORES: WeakSet[MemoryStore] = WeakSet()
_PAUSED: list[MemoryStore] = []  # during a fork; always in one order, so that two forks cannot wait for one another


def _before_fork() -> None:
    # A child that is made while another thread carries something out would have half of it, and wait for it for ever.
    for store in sorted(_STORES, key=id):
        store._lock.acquire()
        _PAUSED.append(store)


def _after_fork() -> None:
    while _PAUSED:
        store = _PAUSED.pop()
        store._lock.release()
        store._drain_if_free()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
