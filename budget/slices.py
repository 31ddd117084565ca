"""Slices: money bought ahead from the pools, and given out by this process without asking the store.

A slice is an ordinary reservation on the pools that calls draw on. Calls that draw on the very same pools are then
decided here, by comparing five integers. The end of such a call is a record that is paid out of the slice (`Record.of`):
the pools move from reserved to spent in the one step that writes its entry. So a slice admits nothing that the pools had
not set aside; it only keeps money from others while it lives, and what nobody took is handed back when it ends.

Two uses, one mechanism:

* **Speed.** A busy process buys a slice for many calls at once. It lives for `LIFE` seconds at most and never past its
  window, so a change of policy holds within that time. Slices taper: one takes at most one part in `SHARE` of the room
  that is left, and none is bought where that is less than two calls.
* **The local allowance.** Once a call on some pools was admitted, an allowance is bought for them and kept until their
  window ends. It is touched only while the store cannot answer.

What a slice decides is in the ledger from its end on, and the id of such a call is known to this process alone. So only
calls whose id was made here are decided so (`Reserve.local`), and none that takes a slot or is watched by a limit in
shadow mode. A process that is killed loses its slices: their leases end and they are charged, as every reservation is.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Any

from budget.commands import (
    Amounts,
    Bucket,
    Command,
    Draw,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reservation,
    Reserve,
    Share,
)
from budget.limits import CONCURRENT
from budget.window import FOREVER, SECOND

__all__ = ["LEASE", "LIFE", "SHARE", "Slices"]

LIFE = 1.0
"""Seconds that a slice bought for speed lives."""
SHARE = 8
"""A slice takes at most one part in so many of the room that is left."""
LEASE = 60 * SECOND
"""Microseconds of a slice's lease; it is renewed while the slice lives."""
_KEPT = 4096  # sets of pools that are remembered
_CALLS = 1000  # calls that one slice is bought for at most
_AGAIN = 60.0  # seconds after which an allowance that was refused is asked for again
_NOTHING = (0, 0, 0, 0, 0)

Steps = Generator[Command, Outcome, Any]


class _Slice:
    """Money set aside ahead: what is left of it, until when it is given out, and how many calls run on it."""

    __slots__ = ("draws", "id", "left", "lives", "made", "running", "shares", "until", "version")

    def __init__(self, bought: Reserve, outcome: Outcome, until: float):
        assert outcome.reservation is not None
        self.id, self.draws, self.version, self.until = bought.id, bought.draws, bought.version, until
        self.shares = outcome.reservation.shares
        self.left: list[int] = [amount or 0 for amount in bought.amounts]
        self.made = outcome.now - int(monotonic() * SECOND)  # the store's clock beside ours
        self.running, self.lives = 0, True

    def take(self, amounts: Amounts) -> bool:
        """Take amounts out of it, all or none."""
        a, b, c, d, e = amounts
        left = self.left
        if (
            (a or 0) <= left[0] and (b or 0) <= left[1] and (c or 0) <= left[2]
            and (d or 0) <= left[3] and (e or 0) <= left[4]
        ):  # fmt: skip
            self.give(amounts, -1)
            self.running += 1
            return True
        return False

    def give(self, amounts: Amounts, sign: int = 1) -> None:
        """Put amounts into it."""
        self.left = [left + sign * (amount or 0) for left, amount in zip(self.left, amounts, strict=True)]


class _Group:
    """A set of pools that calls draw on together, and what was last heard of them."""

    __slots__ = ("after", "buckets", "buying", "fast", "room", "seen", "spare")

    def __init__(self) -> None:
        self.fast: _Slice | None = None
        self.spare: _Slice | None = None  # the allowance
        self.after = 0.0  # when an allowance may be asked for
        self.buying = False
        self.room: Sequence[int] = ()  # what each pool had left, by draw
        self.buckets: Sequence[Bucket | None] = ()
        self.seen = 0.0


class Slices:
    """The slices of one engine.

    Args:
        speed: Nano-dollars that a slice for speed has at most; 0: none is bought.
        allowance: Nano-dollars of the allowance of a set of pools; 0: none is bought.
        new_id: Makes the id of a reservation.
        post: Hands a command to the store without waiting.
        keep, drop: Have a reservation renewed, and no more.
    """

    def __init__(
        self, speed: int, allowance: int, new_id: Callable[[], str], post: Callable[[Command], object],
        keep: Callable[[str, int], object], drop: Callable[[str], object],
    ):  # fmt: skip
        self._speed, self._allowance = speed, allowance
        self._new_id, self._post, self._keep, self._drop = new_id, post, keep, drop
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._groups: dict[tuple[Any, ...], _Group] = {}
        self._taken: dict[str, tuple[_Slice, Reservation]] = {}
        self._ended: deque[tuple[_Slice, Amounts]] = deque()  # calls that have ended, and what they give back
        self._living: list[_Slice] = []
        self._lock = Lock()
        self._thread: Thread | None = None

    # What an engine's driver does with each command.

    def steps(self, command: Command) -> Steps:
        """Carry out a command: from a slice if that can be, else by what is yielded to the store."""
        if self._pid != os.getpid():  # forked: what is kept here is the parent's
            self._begin()
        kind = type(command)
        if kind is Reserve:
            if command.local and _fits(command):  # type: ignore[union-attr]
                return (yield from self._reserve(command))  # type: ignore[arg-type]
        elif kind is Reconcile or kind is Refund or kind is Renew:
            taken = self._taken.get(command.id)  # type: ignore[union-attr]
            if taken is not None:
                return (yield from self._end(command, *taken))  # type: ignore[arg-type]
        return (yield command)

    def posted(self, command: Command) -> None:
        """Hand over a command that nobody waits for. A finalizer may call this anywhere: it takes no lock."""
        taken = self._taken.get(command.id) if isinstance(command, Reconcile | Refund | Renew) else None
        if taken is None or self._pid != os.getpid():
            self._post(command)
        elif not isinstance(command, Renew) and self._taken.pop(taken[1].id, None) is not None:
            slice, known = taken
            if isinstance(command, Reconcile):
                self._post(_record(command, slice, known))
            self._ended.append((slice, known.amounts if isinstance(command, Refund) else _NOTHING))

    def without_store(self, command: Reserve) -> Outcome | None:
        """Decide a reserve from the allowance of its pools, because the store cannot answer; None: it cannot."""
        group = self._groups.get(_key(command))
        if group is None or self._pid != os.getpid() or not _fits(command):
            return None
        return self._take(group, group.spare, command)

    def close(self) -> None:
        """Hand back what is left of every slice."""
        if self._pid == os.getpid():
            with self._lock:
                self._settle(monotonic(), everything=True)

    # Reserve.

    def _reserve(self, command: Reserve) -> Steps:
        group = self._group(command)
        outcome = self._take(group, group.fast, command)
        if outcome is not None:
            return outcome
        ahead = self._ahead(group, command)
        if ahead is not None:
            try:
                bought = yield ahead
            finally:
                group.buying = False
            if bought.status not in ("reserved", "refused"):
                return bought  # of another policy or window: the caller takes its steps again
            outcome = self._bought(group, ahead, bought, command)
            if outcome is not None:
                return outcome
        outcome = yield command
        if outcome.status == "reserved":
            group.buckets, group.seen = outcome.buckets, monotonic()
            group.room = [_room(*pair) for pair in zip(command.draws, outcome.buckets, strict=True)]
        else:
            group.seen = 0.0
        return outcome

    def _group(self, command: Reserve) -> _Group:
        key = _key(command)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _KEPT:
                self.close()
                self._groups.clear()
            group = self._groups[key] = _Group()
        return group

    def _take(self, group: _Group, slice: _Slice | None, command: Reserve) -> Outcome | None:
        """Decide a reserve from a slice; None if that has not enough left, or is over."""
        now = monotonic()
        if slice is None or now >= slice.until or (slice is group.fast and slice.version != command.version):
            return None
        if any(draw.pool is None and draw.amount > draw.limit for draw in command.draws):
            return None  # a cap refuses: the store's to say and to write down
        with self._lock:
            if not slice.lives or not slice.take(command.amounts):
                return None
        at = slice.made + int(now * SECOND)
        shares = tuple(Share(s.pool, s.unit, s.start, command.amounts[s.unit] or 0) for s in slice.shares)
        known = Reservation(
            command.id, command.digest, "open", command.amounts, shares, command.lease_us, at + command.lease_us, at,
            scope=command.scope, detail=command.detail, parent=command.parent,
        )  # fmt: skip
        self._taken[command.id] = slice, known
        return Outcome("reserved", at, command.version, group.buckets, reservation=known)

    def _ahead(self, group: _Group, command: Reserve) -> Reserve | None:
        """Return the reserve that buys a slice before this call, or None."""
        now = monotonic()
        spare = group.spare is None and self._allowance and now >= group.after
        if group.buying or now - group.seen > (_AGAIN if spare else LIFE):
            return None
        size, share = (self._allowance, 2) if spare else (self._speed, SHARE)
        usd = command.amounts[0] or 0
        calls = min(_CALLS, size // usd if usd else _CALLS)
        for draw, room in zip(command.draws, group.room, strict=True):
            if draw.pool is not None and draw.amount:
                calls = min(calls, room // share // draw.amount)
        if calls < (1 if spare else 2) or (spare and any(draw.span for draw in command.draws)):
            return None
        group.buying, group.after = True, now + _AGAIN
        amounts: Any = tuple(None if amount is None else amount * calls for amount in command.amounts)
        draws = [draw._replace(amount=draw.amount * calls) for draw in command.draws if draw.pool is not None]
        what = "allowance" if spare else "slice"
        return Reserve(self._new_id(), "", amounts, draws, command.version, LEASE, {}, {what: calls})

    def _bought(self, group: _Group, ahead: Reserve, bought: Outcome, command: Reserve) -> Outcome | None:
        """Begin a slice, and decide the call from it if it is one for speed."""
        if bought.status == "refused":
            group.seen = 0.0
            return None
        now = monotonic()
        ends = [_ends(*pair, bought.now) for pair in zip(ahead.draws, bought.buckets, strict=True)]
        spare = "allowance" in ahead.detail
        until = min([now + (float("inf") if spare else LIFE), *[now + (end - bought.now) / SECOND for end in ends]])
        slice = _Slice(ahead, bought, until)
        self._keep(slice.id, LEASE)
        with self._lock:
            self._living.append(slice)
            old = group.spare if spare else group.fast
            if old is not None:
                self._retire(old)
            if spare:
                group.spare = slice
            else:
                group.fast = slice
            self._settle(now)
        self._watch()
        return None if spare else self._take(group, slice, command)

    # Ends.

    def _end(self, command: Reconcile | Refund | Renew, slice: _Slice, known: Reservation) -> Steps:
        """End a call that was decided from a slice, once."""
        at = slice.made + int(monotonic() * SECOND)
        if isinstance(command, Renew):
            return Outcome("renewed", at, slice.version, reservation=known)
        if self._taken.pop(known.id, None) is None:
            return (yield command)
        if isinstance(command, Refund):
            self._ended.append((slice, known.amounts))
            return Outcome("refunded", at, slice.version, reservation=known.ended_as("refunded", at, _NOTHING))
        record = _record(command, slice, known)
        try:
            outcome = yield record
        finally:
            self._ended.append((slice, _NOTHING))
        ended = known.ended_as("reconciled", outcome.now, record.actual)
        return Outcome("reconciled", outcome.now, outcome.version, outcome.buckets, reservation=ended)

    def _settle(self, now: float, everything: bool = False) -> None:
        """Take note of calls that have ended, and end the slices whose time is over. Call it under the lock."""
        for slice, amounts in _emptied(self._ended):
            slice.running -= 1
            slice.give(amounts)
        for slice in list(self._living):
            if everything or now >= slice.until:
                self._retire(slice)
            if not slice.lives and not slice.running:
                self._living.remove(slice)
                self._drop(slice.id)
                self._post(Refund(slice.id, {"slice": "ended"}))

    def _retire(self, slice: _Slice) -> None:
        """Give nothing more out of it, and hand back what nobody took; calls that run on it go on."""
        if slice.lives and slice.running and any(slice.left):
            left: Any = tuple(slice.left)
            self._post(Record(self._new_id(), "", _NOTHING, slice.draws, slice.version, {}, {}, "returned",
                              slice.id, left))  # fmt: skip
            slice.left = [0, 0, 0, 0, 0]
        slice.lives = False

    def _watch(self) -> None:
        """Have a thread that ends slices when nobody calls any more; it lives as long as they do."""
        with self._lock:
            if self._thread is None:
                self._thread = Thread(target=self._work, name="budget-slices", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                now = monotonic()
                self._settle(now)
                if not self._living:
                    self._thread = None
                    return
                # What has been retired waits for its calls; what lives, for its time.
                waits = min(slice.until - now if slice.lives else LIFE for slice in self._living)
            sleep(min(LIFE, max(0.01, waits)))


def _key(command: Reserve) -> tuple[Any, ...]:
    return tuple([draw[0] for draw in command.draws])


def _fits(command: Reserve) -> bool:
    """Whether a call may be decided from a slice."""
    if command.frozen is not None:
        return False
    return not any(draw.shadow or draw.unit == CONCURRENT for draw in command.draws)


def _room(draw: Draw, bucket: Bucket | None) -> int:
    return 0 if bucket is None else draw.limit + bucket.carry - bucket.spent - bucket.reserved


def _ends(draw: Draw, bucket: Bucket | None, now: int) -> int:
    """Return when a slice of a pool must end: with its window; of a rolling one, with the sub-bucket that holds it."""
    if draw.span:
        size = -(-draw.span // 60)
        return (now // size + 1) * size
    return FOREVER if bucket is None else bucket.end


def _record(command: Reconcile, slice: _Slice, known: Reservation) -> Record:
    """Return the record of a call that was decided from a slice: its cost, paid out of that."""
    pairs = zip(command.actual, known.amounts, strict=True)
    actual: Any = tuple(reserved if said is None else said for said, reserved in pairs)
    return Record(
        known.id, known.digest, actual, slice.draws, slice.version, known.scope, {**known.detail, **command.detail},
        "recorded", slice.id, known.amounts,
    )  # fmt: skip


def _emptied(queue: deque[tuple[_Slice, Amounts]]) -> Iterator[tuple[_Slice, Amounts]]:
    while queue:
        yield queue.popleft()
