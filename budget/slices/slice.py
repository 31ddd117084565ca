"""One slice, and the pools that calls draw on together: plain bookkeeping, for `budget.slices.slices`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from time import monotonic
from typing import Any, NamedTuple

from budget.commands import Amounts, Bucket, Draw, Outcome, Reconcile, Record, Reservation, Reserve, Share
from budget.limits import CONCURRENT
from budget.window import FOREVER, SECOND

__all__ = ["NEVER", "Group", "Slice", "Taken", "key_of", "record_of"]

NEVER = float("-inf")
"""Before every instant, also of a machine that has only just been started: `time.monotonic` may begin at 0 there."""
_SHARES = 64  # amounts of which the shares are remembered
_POOL = itemgetter(0)


class Slice:
    """Money set aside ahead: what is left of it, until when it is given out, and how many calls run on it.

    Args:
        bought: The reserve that set it aside.
        outcome: Its answer.
        life: Seconds for which it is given out at most; also not past its window.
    """

    __slots__ = ("_shares", "buckets", "draws", "id", "left", "lives", "made", "running", "units", "until", "version")

    def __init__(self, bought: Reserve, outcome: Outcome, life: float):
        self.id, self.draws, self.version, self.buckets = bought.id, bought.draws, bought.version, outcome.buckets
        self.left = [amount or 0 for amount in bought.amounts]
        self.units = sorted({draw.unit for draw in bought.draws})
        ends = [_end(*pair, outcome.now) for pair in zip(bought.draws, outcome.buckets, strict=True)]
        now = monotonic()
        self.until = now + min([life, *[(end - outcome.now) / SECOND for end in ends]])
        self.made = outcome.now - int(now * SECOND)  # the store's clock beside ours
        self.running, self.lives = 0, True
        self._shares: dict[Amounts, tuple[Share, ...]] = {}

    def take(self, amounts: Amounts) -> bool:
        """Take amounts out of it, all or none."""
        left = self.left
        for unit in self.units:
            if amounts[unit] > left[unit]:  # type: ignore[operator]
                return False
        for unit in self.units:
            left[unit] -= amounts[unit]  # type: ignore[operator]
        self.running += 1
        return True

    def give_back(self, amounts: Amounts) -> None:
        """Put amounts into it."""
        for unit in self.units:
            self.left[unit] += amounts[unit] or 0

    def shares(self, amounts: Amounts) -> tuple[Share, ...]:
        """Return what a call of these amounts took from which buckets."""
        found = self._shares.get(amounts)
        if found is None:
            if len(self._shares) >= _SHARES:
                self._shares.clear()
            pairs = zip(self.draws, self.buckets, strict=True)
            found = tuple(Share(d.pool, d.unit, b.start if b else 0, amounts[d.unit] or 0) for d, b in pairs)  # type: ignore[arg-type]
            self._shares[amounts] = found
        return found

    def at(self, now: float) -> int:
        """Return the store's clock, in microseconds, at an instant of `time.monotonic`."""
        return self.made + int(now * SECOND)


class Group:
    """Pools that calls draw on together, and what was last heard of them.

    Attributes:
        fits: Whether calls on them may be decided from a slice: none takes a slot or is watched by a shadow limit.
        capped: Whether a limit on the one request is among them.
        fast: The slice bought for speed, or None.
        spare: The allowance, or None.
        after: When an allowance may be asked for (`time.monotonic`).
        buying: Whether somebody is buying a slice.
        heard: When the store last admitted a call on them; `NEVER` if it refused since.
        room: What each had left then, by draw.
    """

    __slots__ = ("after", "buying", "capped", "fast", "fits", "heard", "room", "spare")

    def __init__(self, draws: Sequence[Draw]):
        self.fits = not any(draw.shadow or draw.unit == CONCURRENT for draw in draws)
        self.capped = any(draw.pool is None for draw in draws)
        self.fast: Slice | None = None
        self.spare: Slice | None = None
        self.after, self.heard = 0.0, NEVER
        self.buying = False
        self.room: Sequence[int] = ()

    def hear(self, draws: Sequence[Draw], outcome: Outcome) -> None:
        """Take note of the store's answer to a call."""
        self.heard = NEVER
        if outcome.status == "reserved":
            self.heard = monotonic()
            self.room = [_room(*pair) for pair in zip(draws, outcome.buckets, strict=True)]

    def calls(self, command: Reserve, size: int, share: int, most: int) -> int:
        """Return for how many such calls a slice may be bought: so many nano-dollars, and such a part of the room."""
        usd = command.amounts[0] or 0
        found = min(most, size // usd) if usd else most
        for draw, room in zip(command.draws, self.room, strict=True):
            if draw.pool is not None and draw.amount:
                found = min(found, room // share // draw.amount)
        return found


class Taken(NamedTuple):
    """A call that was decided from a slice, when (`time.monotonic`); `id` is that of the record of its cost."""

    slice: Slice
    call: Reserve
    id: str
    when: float

    def reservation(self) -> Reservation:
        """Return it as a store would keep it."""
        slice, call, _, when = self
        at = slice.at(when)
        return Reservation(
            call.id, call.digest, "open", call.amounts, slice.shares(call.amounts), call.lease_us, at + call.lease_us,
            at, scope=call.scope, detail=call.detail, parent=call.parent,
        )  # fmt: skip

    def outcome(self) -> Outcome:
        """Return what a store would have answered: a bucket for each draw, and none for a cap."""
        made, buckets, draws = self.reservation(), self.slice.buckets, self.call.draws
        if len(buckets) < len(draws):  # a slice is bought without the caps: they are about one request
            known = iter(buckets)
            buckets = [None if draw.pool is None else next(known) for draw in draws]
        return Outcome("reserved", made.made, self.call.version, buckets, reservation=made)


def key_of(command: Reserve) -> tuple[Any, ...]:
    """Return what tells one group from another."""
    return tuple(map(_POOL, command.draws))


def record_of(command: Reconcile, taken: Taken) -> Record:
    """Return the record of a call that was decided from a slice: its cost, paid out of that."""
    slice, known, id, _ = taken
    pairs = zip(command.actual, known.amounts, strict=True)
    actual: Any = tuple(reserved if said is None else said for said, reserved in pairs)
    return Record(
        id, known.digest, actual, slice.draws, slice.version, known.scope, {**known.detail, **command.detail},
        "recorded", slice.id, known.amounts,
    )  # fmt: skip


def _room(draw: Draw, bucket: Bucket | None) -> int:
    return 0 if bucket is None else draw.limit + bucket.carry - bucket.spent - bucket.reserved


def _end(draw: Draw, bucket: Bucket | None, now: int) -> int:
    """Return when a slice of a pool must end: with its window; of a rolling one, with the part that holds it."""
    if draw.span:
        size = -(-draw.span // 60)
        return (now // size + 1) * size
    return FOREVER if bucket is None else bucket.end
