"""The windows of a pool: which bucket an instant belongs to, what opens, and what a pool shows of itself.

**A calendar pool** lives in its newest bucket. A stored bucket holds until its own end, whatever bounds a command
carries: a host with other zone data, or a limit whose zone was changed, cannot start a window before it is over. Older
buckets stay for late ends, which belong to the window of their reserve. A window may begin with a `carry`: what the one
before left unspent, up to the limit's `rollover`.

**A rolling pool** of length `span` is sub-buckets of a 60th of it, on the grid of the epoch. One counts until the whole
of it lies outside (its end is not after now - span), so that a pool may hold a 60th more than its span, never less: it
does not over-admit. A reservation sits in the sub-bucket of its reserve and leaves with it. What lies outside is
dropped when a new sub-bucket opens; an end that comes later than that has no counter left to move. To all others a
rolling pool shows itself as one bucket, its `view`: the sums of what counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from budget.commands import Bucket, Draw, State
from budget.money import MAX

__all__ = [
    "add", "after", "allowed", "bar", "bucket_at", "following", "freed_at", "opened", "part_length", "present", "put",
    "seen", "view",
]  # fmt: skip

_PARTS = 60  # sub-buckets of a rolling window


def allowed(draw: Draw, bucket: Bucket) -> int:
    """Return what a limit allows in a window: its amount, and what the window before left."""
    return min(draw.limit + bucket.carry, MAX)


def bar(draw: Draw, bucket: Bucket) -> int:
    """Return how much of a pool may be spent and reserved together; a shadow draw only counts."""
    return MAX if draw.shadow else allowed(draw, bucket)


def add(counter: int, amount: int) -> int:
    """Add to a counter. One that would pass MAX stays there, refuses all but zero, and `audit` reports it."""
    total = counter + amount
    return total if counter < MAX and total < MAX else MAX


def present(state: State, draw: Draw, now: int) -> Bucket | None:
    """Return the bucket that a draw takes from, or None if the caller's window is not the present one."""
    pool = draw.pool
    newest = state.newest(pool) if pool is not None else None
    if newest is not None and now < newest.end:
        return newest
    if draw.span:
        return _part(draw, newest, now, now)
    if not draw.start <= now < draw.end:
        return None
    return opened(draw, newest, now)


def opened(draw: Draw, newest: Bucket | None, now: int) -> Bucket:
    """Return the bucket of a draw's own window, given the newest of its pool, which is over or None."""
    if newest is None:
        return Bucket(draw.start, draw.end, max(draw.start, min(draw.since, now)), 0, 0)
    return following(newest, draw.start, draw.end, draw.limit - draw.raised, draw.rollover)


def following(newest: Bucket, start: int, end: int, limit: int, rollover: int) -> Bucket:
    """Return the window after a stored one of such a limit; windows without any call left all that may go over."""
    start, carry = max(start, newest.end), rollover
    if carry and start == newest.end:
        left = min(limit + newest.carry, MAX) - newest.spent - newest.reserved
        carry = min(carry, max(0, left))
    return Bucket(start, end, start, 0, 0, carry)


def bucket_at(state: State, draw: Draw, at: int, now: int) -> Bucket:
    """Return the bucket that held an instant, also one that is over: a reservation belongs where it was made."""
    assert draw.pool is not None
    newest = state.newest(draw.pool)
    if draw.span:
        part = _part(draw, newest, min(at, now), now)
        return state.bucket(draw.pool, part.start) or part
    if newest is not None and newest.start <= at < newest.end:
        return newest
    known = state.bucket(draw.pool, draw.start)
    if known is not None:
        return known
    if newest is not None and draw.start >= newest.end:
        return following(newest, draw.start, draw.end, draw.limit - draw.raised, draw.rollover)
    return Bucket(draw.start, draw.end, draw.start, 0, 0)


def seen(state: State, pool: str | None, bucket: Bucket, now: int) -> Bucket:
    """Return what a pool shows of itself, whose newest bucket this is or becomes."""
    if pool is None or not bucket.span:
        return bucket
    parts = [part for part in state.parts(pool) if part.start < bucket.start]
    found = view([*parts, bucket], now)
    assert found is not None, "the newest part counts"
    return found


def view(parts: Sequence[Bucket], now: int) -> Bucket | None:
    """Return a rolling pool as one bucket, from its parts, oldest first; None if none counts any more.

    It begins with the oldest part that counts, and ends when the newest no longer will.
    """
    live = [part for part in parts if _counts(part, now)]
    if not live:
        return None
    newest = live[-1]
    spent, reserved = sum(part.spent for part in live), sum(part.reserved for part in live)
    return Bucket(live[0].start, newest.end + newest.span, newest.since, min(spent, MAX), min(reserved, MAX))


def freed_at(state: State, draw: Draw, bucket: Bucket, now: int) -> int:
    """Return the first instant at which a draw would fit a rolling pool if nothing else happened.

    What never fits is told when everything has left.
    """
    assert draw.pool is not None
    parts = [part for part in state.parts(draw.pool) if part.start < bucket.start and _counts(part, now)]
    parts.append(bucket)
    used = sum(part.spent + part.reserved for part in parts)
    for part in parts:
        used -= part.spent + part.reserved
        if draw.amount <= draw.limit - used:
            return part.end + part.span
    return bucket.end + bucket.span


def put(state: State, pool: str, bucket: Bucket, now: int, name: str | None = None) -> None:
    """Store a bucket. A part that opens takes the place of those that no longer count.

    It must count itself, unless the pool is new: that makes it known what the postings of an entry are about.
    """
    newest = state.newest(pool) if bucket.span else None
    if newest is not None and not _counts(bucket, now) and state.bucket(pool, bucket.start) is None:
        return
    if newest is not None and newest.start < bucket.start:
        for part in state.parts(pool):
            if not _counts(part, now):
                state.drop_bucket(pool, part.start)
    state.put_bucket(pool, bucket, name)


def after(state: State, pool: str, bucket: Bucket | None, now: int) -> Bucket | None:
    """Return what a pool shows after an end: the bucket that it moved, or the view of a rolling pool."""
    return bucket if bucket is not None and not bucket.span else view(state.parts(pool), now)


def part_length(span: int) -> int:
    """Return the length of a sub-bucket of a rolling window."""
    return -(-span // _PARTS)


def _part(draw: Draw, newest: Bucket | None, at: int, now: int) -> Bucket:
    size = part_length(draw.span)
    start = at // size * size
    since = newest.since if newest is not None else max(draw.start, min(draw.since, now))
    return Bucket(start, start + size, since, 0, 0, 0, draw.span)


def _counts(part: Bucket, now: int) -> bool:
    return part.end > now - part.span
