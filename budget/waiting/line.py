"""Waiting for room: who waits for which pool, in which order, and when it is worth asking again.

A reserve that was refused with the verdict "wait" takes a place in the line of its engine: in the queue of each pool
that refused. Threads and tasks stand in the same queues. First come, first served: a place may ask the store again when
everybody before it in all of its queues is asking already, and there seems to be room in all of its pools for it and
for them. Who does not wait is asked nothing: it may take any room at any time, for a refusal that only protects a queue
would be a refusal without a reason. The order holds inside a process; between processes the store's order decides.

Nobody asks on the off chance. What is taken of a pool is known exactly at one entry of the ledger, from an answer that
said its number, and is carried on with the postings of later entries. They come from the store's `watch`: one thread
per engine, only while somebody waits. A change of the policy makes the room unknown, and so does a connection that is
lost; the first of each queue then asks. A window that ends writes nothing, so the first of a queue also sets a timer.

A place that was given room elsewhere, was cancelled, or whose time is over, leaves; that takes no lock that it would
have to wait for, because a finalizer may do it anywhere.
"""

from __future__ import annotations

import os
from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING
from weakref import WeakSet

from budget.buckets import allowed
from budget.commands import Bucket, Draw, Outcome, Sweep
from budget.errors import ArgumentTypeError, BudgetError, ConfigError
from budget.limits import CONCURRENT
from budget.pool import verdict
from budget.stores.base import Moved, Store, Watch
from budget.waiting.queues import Queue, Want
from budget.waiting.storetime import StoreTime

if TYPE_CHECKING:
    import asyncio

__all__ = ["MOST", "Line", "Place", "wait_seconds"]

MOST = 10_000
"""Places in one line; who comes when all are taken is refused at once."""
LONGEST = 3600.0
"""Seconds that one call may wait."""
_LOOK = 1.0  # seconds after which the watching thread sees to leases that have ended, and whether it is still needed
_LINGER = 5.0  # seconds that it stays when nobody waits: the next who does often comes soon
_numbers = count()


def wait_seconds(value: object) -> float | None:
    """Check the argument `wait`.

    Raises:
        ArgumentTypeError, ConfigError: It is not a number of seconds above 0 and up to 3600.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentTypeError(f"wait: {type(value).__name__} is not a number of seconds")
    if not 0 < value <= LONGEST:
        raise ConfigError(f"wait: {value!r} is not between 0 and {LONGEST:g} seconds")
    return float(value)


class Place:
    """The place of one call in the line; made by `Line.place`. Used by one thread or task at a time."""

    def __init__(self, line: Line, seconds: float):
        self._line = line
        self.until = monotonic() + seconds
        self.number = next(_numbers)
        self.wants: dict[str, Want] = {}
        self.tried = self.trying = self.over = False
        self._wake = Lock()
        self._wake.acquire()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake: asyncio.Event | None = None

    def __lt__(self, other: Place) -> bool:
        return self.number < other.number

    @property
    def left_us(self) -> int:
        """Microseconds that it may still wait."""
        return max(0, int((self.until - monotonic()) * 1_000_000))

    def queues(self, draws: Sequence[Draw]) -> bool:
        """Stand in the line before the first attempt; True if others come first, and it must sleep before that."""
        return not (self.tried or self.trying) and self._line.enter(self, draws)

    def stays(self, draws: Sequence[Draw], outcome: Outcome) -> bool:
        """Whether to wait after a refusal: every limit will have room, and so has the line and the time."""
        return self._line.stand(self, draws, outcome)

    def leave(self) -> None:
        """Give the place up."""
        self._line.leave(self)

    def sleep(self) -> bool:
        """Wait until it may ask again; False if that is over, or not worth it."""
        while True:
            go, patience = self._line.look(self)
            if go is not None:
                return go
            self._wake.acquire(timeout=patience)

    async def asleep(self) -> bool:
        """Like `sleep`, without blocking the event loop."""
        import asyncio

        if self._awake is None:
            self._awake, self._loop = asyncio.Event(), asyncio.get_running_loop()
        while True:
            self._awake.clear()
            go, patience = self._line.look(self)
            if go is not None:
                return go
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._awake.wait()

    def dead(self) -> bool:
        """Whether nobody will look any more: its event loop has ended, or was left standing."""
        ended = self._loop is not None and self._loop.is_closed()
        return ended or (not self.trying and monotonic() > self.until + _LINGER)

    def nudge(self) -> None:
        """Have it look again."""
        with suppress(RuntimeError):  # it is awake, or its event loop has ended
            if self._loop is not None and self._awake is not None:
                self._loop.call_soon_threadsafe(self._awake.set)
            else:
                self._wake.release()


class Line:
    """All who wait in one engine.

    Args:
        store: Whose pools they wait for.
        account: The account in it.
        clock: The store's time.
    """

    def __init__(self, store: Store, account: str, clock: StoreTime):
        self._store, self._account, self._clock = store, account, clock
        self._reset()
        _LINES.add(self)

    def _reset(self) -> None:
        self._queues: dict[str, Queue] = {}
        self._places: set[Place] = set()
        self._lock = Lock()
        self._gone: deque[Place] = deque()
        self._watch: Watch | None = None
        self._seen = 0  # the last entry that the watch brought
        self._idle = self._looked = 0.0  # when somebody waited last, and when leases were last seen to

    def place(self, seconds: float) -> Place:
        """Make a place for a call that may wait so long from now on."""
        return Place(self, seconds)

    def told(self, pools: Iterable[tuple[str | None, Bucket | None]], seq: int) -> None:
        """Take what an answer of the store said of some pools after the entry `seq`."""
        if not self._queues:
            return
        with self._lock:
            for pool, bucket in pools:
                queue = self._queues.get(pool or "")
                if queue is not None and bucket is not None:
                    queue.learn(bucket, seq)
                    queue.nudge()
        self._clear()

    def enter(self, place: Place, draws: Sequence[Draw]) -> bool:
        """Put a place behind those who wait for its pools or are asking for them; True if it must wait for them."""
        with self._lock:
            if len(self._places) >= MOST:
                return False
            wanted = [draw for draw in draws if draw.pool is not None and not draw.shadow]
            self._stand(place, {draw: Want(draw.amount, draw.limit, 0 if draw.span else None) for draw in wanted})
            place.trying = self._may(place)
        self._clear()
        return not place.trying

    def stand(self, place: Place, draws: Sequence[Draw], outcome: Outcome) -> bool:
        """Put a place where it was refused; False if it cannot wait."""
        place.tried, place.trying = True, False
        found = [(draws[i], outcome.buckets[i]) for i in outcome.refused]
        full = place not in self._places and len(self._places) >= MOST
        if place.over or full or not all(b and verdict(d.amount, allowed(d, b), b) == "wait" for d, b in found):
            return False
        with self._lock:
            self._stand(place, {
                draw: Want(draw.amount, draw.limit, bucket.end if draw.span else None)
                for draw, bucket in found if bucket is not None
            })  # fmt: skip
            for draw, bucket in found:
                if draw.pool is not None and bucket is not None:
                    self._queues[draw.pool].learn(bucket, outcome.seq)
                    self._queues[draw.pool].nudge()
        self._clear()
        return True

    def _stand(self, place: Place, wants: Mapping[Draw, Want]) -> None:
        """Have a place stand in the queues of these pools, and in no others."""
        self._places.add(place)
        before, place.wants = place.wants, {draw.pool or "": want for draw, want in wants.items()}
        for draw in wants:
            queue = self._queues.get(draw.pool or "")
            if queue is None:
                at = -1 if self._watch is None else self._seen
                queue = self._queues[draw.pool or ""] = Queue(at, bool(draw.span), draw.unit == CONCURRENT)
            if place not in queue.places:
                insort(queue.places, place)
        self._leave_queues(place, before.keys() - place.wants.keys())

    def look(self, place: Place) -> tuple[bool | None, float]:
        """Return whether a place may ask the store now (None: not yet), and after how many seconds to look again."""
        with self._lock:
            left = place.until - monotonic()
            if left <= 0 or place.over:
                closed, place.over = place.over, True
                may = not place.tried or (place in self._places and self._may(place, alone=True))
                place.trying = may and not closed
                return place.trying, 0.0
            if self._may(place):
                place.trying = True
                for pool in place.wants:
                    self._queues[pool].nudge()
                return True, 0.0
            if self._watch is None:
                self._begin()
            ends = [self._fits_at(pool, want) for pool, want in place.wants.items() if self._first(place, pool)]
            now = self._clock.now()
            patience = min([left, *[max(0.001, (end - now) / 1e6) for end in ends]])
        self._clear()
        return None, patience

    def _may(self, place: Place, alone: bool = False) -> bool:
        """Whether all of its pools seem to have room for it and, unless `alone`, for all who come before it."""
        for pool, want in place.wants.items():
            queue = self._queues[pool]
            promised = 0
            for other in queue.places if not alone else ():
                if other is place:
                    break
                if not other.trying:
                    return False
                promised += other.wants[pool].amount
            room = queue.room(want)
            perhaps = room is None or self._fits_at(pool, want) <= self._clock.now()
            if (room is None or want.amount + promised > room) and (promised or not perhaps):
                return False
        return True

    def _first(self, place: Place, pool: str) -> bool:
        return self._queues[pool].places[0] is place

    def _fits_at(self, pool: str, want: Want) -> int:
        return self._queues[pool].end if want.fits_at is None else want.fits_at

    # Leaving.

    def leave(self, place: Place) -> None:
        """Take a place out of the line. A finalizer may call this anywhere: it waits for no lock."""
        self._gone.append(place)
        self._clear()

    def _clear(self) -> None:
        """Take out who has gone; whoever holds the lock does it when it lets go."""
        while self._gone and self._lock.acquire(blocking=False):
            try:
                while self._gone:
                    place = self._gone.popleft()
                    self._places.discard(place)
                    self._leave_queues(place, place.wants)
            finally:
                self._lock.release()

    def _leave_queues(self, place: Place, pools: Iterable[str]) -> None:
        for pool in pools:
            queue = self._queues.get(pool)
            if queue is None:
                continue
            with suppress(ValueError):
                queue.places.remove(place)
            if queue.places:
                queue.nudge()
            else:
                del self._queues[pool]

    def close(self) -> None:
        """End all waits: each is refused as it was at last."""
        with self._lock:
            self._end()
            for place in self._places:
                place.over = True
                place.nudge()
        self._clear()

    # Watching the store.

    def _begin(self) -> None:
        """Watch from the first entry after which something is known of a pool that somebody waits for."""
        known = [queue.at for queue in self._queues.values() if queue.taken is not None]
        if not known:
            return
        self._seen = min(known)
        self._idle = self._looked = monotonic()
        self._watch = self._store.watch(self._account, self._seen)
        Thread(target=self._follow, args=(self._watch,), name="budget-wait", daemon=True).start()

    def _end(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    def _follow(self, watch: Watch) -> None:
        try:
            while self._round(watch, _LOOK):
                pass
        finally:
            watch.stop()
            watch.wait(0.0)  # now it lets go of what it holds
            with self._lock:
                if watch is self._watch:  # it failed in a way that nobody thought of: the next who waits begins anew
                    self._watch = None

    def _round(self, watch: Watch, patience: float) -> bool:
        """Bring what is written within so many seconds; False when this watch is over: nobody waits for a while."""
        try:
            moved: Sequence[Moved] | None = watch.wait(patience)
            if monotonic() >= self._looked + _LOOK:
                self._looked = monotonic()
                if self._let_go():
                    self._store.call(self._account, Sweep(), _LOOK)
        except BudgetError:
            moved = None
            Event().wait(patience)
        with self._lock:
            if watch is not self._watch:
                return False
            self._take(moved)
            self._idle = monotonic() if self._places else self._idle
            if monotonic() > self._idle + _LINGER:
                self._end()
        self._clear()
        return True

    def _let_go(self) -> bool:
        """Take out places that nobody stands at any more; return whether one of the others waits for a slot.

        A slot of a call that died comes back only when the end of its lease is seen.
        """
        with self._lock:
            self._gone.extend([place for place in self._places if place.dead()])
            return any(queue.slots for queue in self._queues.values())

    def _take(self, moved: Sequence[Moved] | None) -> None:
        """Carry the pools on by what was written; None: it cannot be known now, and whoever is first asks."""
        changed: set[str] = set()
        if moved is None:
            changed.update(self._queues)
            for queue in self._queues.values():
                queue.taken = None
        for seq, postings in moved or ():
            if postings is None:
                changed.update(self._queues)
                for queue in self._queues.values():
                    queue.forget(seq)
            else:
                for pool, start, spent, reserved in postings:
                    if pool in self._queues:
                        changed.add(pool)
                        self._queues[pool].move(seq, start, spent + reserved)
            self._seen = max(self._seen, seq)
        for pool in changed:
            self._queues[pool].nudge()


_LINES: WeakSet[Line] = WeakSet()


def _forked() -> None:
    # Who waits is the parent's; so is the thread that watches, and perhaps one that has the lock just now.
    for line in list(_LINES):
        line._reset()


if hasattr(os, "register_at_fork"):  # Windows does not fork
    os.register_at_fork(after_in_child=_forked)
