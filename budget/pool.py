"""The pool: the verbs, and the only place in Python where a reservation is admitted or refused.

A verb is a function from (state, command, now) to an outcome. It does no I/O, reads no clock and makes no ids, so that
it is the specification, the memory store, the decision that the SQLite store runs inside its transaction, and the
oracle of the tests. Each verb has two phases. It reads and checks; then, below the line "nothing can fail from here",
it writes: the counters, the reservation and the ledger entry together. A verb that stops above the line has changed
nothing.

Two counters per bucket of a pool, `spent` and `reserved`, and this algebra:

    reserve(a)       reserved + a                       the only verb that may refuse: all pools or none
    refund(r)        reserved - r
    record(a)        spent + a
    reconcile(r, a)  = refund(r) then record(a) in one step
    expire(r)        = reconcile(r, r)
    a repeated verb changes nothing and answers as it did; a refused reserve changes nothing

A pool of the unit "concurrent" counts slots: a reserve takes one, every end gives it back, nothing is ever spent.

A pool is a list of buckets by start. A calendar pool lives in its newest bucket; older ones stay for late reconciles,
which belong to the window of their reserve. Limits and window bounds come with the command, and the policy version
with them: a caller whose policy is old, or whose window is over, is told so (`stale_policy`, `stale_window`), nothing
is written, and it asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from budget.commands import (
    Amounts,
    Bucket,
    ChangePolicy,
    Command,
    Draw,
    Learn,
    LoadPolicy,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reservation,
    Reserve,
    Share,
    State,
    Status,
    Sweep,
)
from budget.expect import learn
from budget.ledger import Posting, make_entry
from budget.limits import CONCURRENT
from budget.money import MAX
from budget.window import FOREVER, SECOND

__all__ = ["POLICY_KINDS", "SWEEP", "admits", "apply", "booked", "keep_until", "refused_by", "verdict"]

SWEEP = 64  # due reservations that one command expires before its own work
_CLOCK_BACK = 5 * SECOND  # how far the clock may go back before nothing is admitted on it
_KEPT = {"reconciled": 3600 * SECOND, "refunded": 3600 * SECOND, "expired": 7 * 86400 * SECOND}


def apply(state: State, command: Command, now: int) -> Outcome:
    """Carry out one command at one instant (`now`, microseconds); never before what was last written."""
    account = state.account
    behind = account.clock - now
    now = max(now, account.clock)
    if type(command) is LoadPolicy:
        return Outcome("policy", now, account.version, rows=state.policy())
    if type(command) is Learn:
        return Outcome("learned", now, account.version, learned=learn(state, command.more))
    if behind > _CLOCK_BACK and type(command) is Reserve:
        return Outcome("clock", now, account.version)
    if type(command) is Status and not command.sweep:
        return _status(state, command, now)
    expired = _sweep(state, now)
    if type(command) is Sweep:
        return Outcome("swept", now, account.version, count=expired)
    return _VERBS[type(command)](state, command, now)


def admits(amount: int, limit: int, bucket: Bucket) -> bool:
    """Whether a pool takes an amount: zero always, else up to what is available, exactly."""
    return amount == 0 or 0 <= amount <= limit - bucket.spent - bucket.reserved


def refused_by(draws: Sequence[Draw], buckets: Sequence[Bucket]) -> list[int]:
    """Return which draws their buckets do not take."""
    pairs = enumerate(zip(draws, buckets, strict=True))
    return [i for i, (draw, bucket) in pairs if not admits(draw.amount, draw.limit, bucket)]


def verdict(amount: int, limit: int, bucket: Bucket) -> str:
    """Say of a refusal whether it will fit later ("wait") or cannot fit this limit ("never")."""
    never = amount > limit or (bucket.end == FOREVER and bucket.spent + amount > limit)
    return "never" if never else "wait"


def keep_until(reservation: Reservation) -> int:
    """Until when an ended reservation is kept, so that a repeat gets its first answer and a late end corrects it."""
    return reservation.ended + _KEPT[reservation.state] + 2 * reservation.lease_us


def _reserve(state: State, command: Reserve, now: int) -> Outcome:
    version = state.account.version
    known = state.reservation(command.id)
    if known is not None:
        return Outcome("repeated" if known.digest == command.digest else "conflict", now, version, reservation=known)
    if command.version != version:
        return Outcome("stale_policy", now, version)
    buckets = [_present(state, draw, now) for draw in command.draws]
    if None in buckets:
        return Outcome("stale_window", now, version)
    found: list[Bucket] = buckets  # type: ignore[assignment]
    refused = refused_by(command.draws, found)
    if command.frozen is not None or refused:
        reasons = [{"limit": command.draws[i].text, "pool": command.draws[i].pool} for i in refused]
        detail = {**command.detail, "refused": reasons, **({"frozen": command.frozen} if command.frozen else {})}
        _log(state, now, "refused", command.id, _ZERO, command.scope, detail, ())
        return Outcome("refused", now, version, found, refused)
    # Nothing can fail from here.
    shares, postings, after = [], [], []
    for draw, bucket in zip(command.draws, found, strict=True):
        if draw.pool is None:
            after.append(bucket)
            continue
        after.append(bucket.at(bucket.spent, bucket.reserved + draw.amount))
        state.put_bucket(draw.pool, after[-1], draw.name)
        shares.append(Share(draw.pool, draw.unit, bucket.start, draw.amount))
        postings.append(Posting(draw.pool, bucket.start, 0, draw.amount))
    reservation = Reservation(
        command.id, command.digest, "open", command.amounts, tuple(shares), command.lease_us, now + command.lease_us,
        now, scope=command.scope, detail=command.detail, parent=command.parent,
    )  # fmt: skip
    state.put_reservation(reservation)
    _log(state, now, "reserved", command.id, _ZERO, command.scope, command.detail, postings)
    return Outcome("reserved", now, version, after, reservation=reservation)


def _reconcile(state: State, command: Reconcile, now: int) -> Outcome:
    version = state.account.version
    known = state.reservation(command.id)
    if known is None and command.draws is None:
        return Outcome("unknown", now, version)
    if known is None:
        draws = booked(command.draws or ())
        buckets = [_bucket_at(state, draw, command.made) for draw in draws]
        detail = {**command.detail, "unknown": True}
        return _book(state, "reconciled", command.id, "", command.actual, draws, buckets, command.scope, detail, now)
    actual = _complete(command.actual, known.amounts)
    if known.state in ("reconciled", "refunded"):
        same = known.state == "reconciled" and known.charged == actual
        return Outcome("repeated" if same else "conflict", now, version, reservation=known)
    return _end(state, known, "reconciled", actual, command.detail, now)


def _refund(state: State, command: Refund, now: int) -> Outcome:
    version = state.account.version
    known = state.reservation(command.id)
    if known is None:
        # A tombstone: a reserve that was delayed past its caller's patience must not be admitted after this.
        tombstone = Reservation(command.id, "", "refunded", _ZERO, (), 0, now, now, now, _ZERO)
        state.put_reservation(tombstone)
        return Outcome("refunded", now, version, reservation=tombstone)
    if known.state in ("reconciled", "refunded"):
        return Outcome("repeated" if known.state == "refunded" else "conflict", now, version, reservation=known)
    return _end(state, known, "refunded", _ZERO, command.detail, now)


def _end(state: State, known: Reservation, how: str, actual: Amounts, detail: Mapping[str, Any], now: int) -> Outcome:
    """Move an open reservation to its end, or correct an expired one by the difference."""
    late = known.state == "expired"
    before = known.charged or _ZERO
    postings, buckets = [], []
    for share in known.shares:
        bucket = state.bucket(share.pool, share.start)
        assert bucket is not None, "a reservation's buckets outlive it"
        added = _spends(share.unit, actual) - _spends(share.unit, before)
        freed = 0 if late else share.amount
        bucket = bucket.at(_add(bucket.spent, added), bucket.reserved - freed)
        state.put_bucket(share.pool, bucket)
        buckets.append(bucket)
        postings.append(Posting(share.pool, share.start, added, -freed))
    ended = known.ended_as(how, now, actual)
    state.put_reservation(ended)
    change = tuple((a or 0) - (b or 0) for a, b in zip(actual, before, strict=True))
    detail = {**known.detail, **detail, **({"late": True} if late else {})}
    _log(state, now, how, known.id, change, known.scope, detail, postings)
    return Outcome(how, now, state.account.version, buckets, reservation=ended)


def _record(state: State, command: Record, now: int) -> Outcome:
    version = state.account.version
    known = state.reservation(command.id)
    if known is not None:
        return Outcome("repeated" if known.digest == command.digest else "conflict", now, version, reservation=known)
    if command.version != version:
        return Outcome("stale_policy", now, version)
    draws = booked(command.draws)
    buckets = [bucket for draw in draws if (bucket := _present(state, draw, now)) is not None]
    if len(buckets) < len(draws):
        return Outcome("stale_window", now, version)
    return _book(state, "recorded", command.id, command.digest, command.actual, draws, buckets, command.scope,
                 command.detail, now)  # fmt: skip


def _book(
    state: State, kind: str, id: str, digest: str, actual: Amounts, draws: Sequence[Draw], buckets: Sequence[Bucket],
    scope: Mapping[str, str], detail: Mapping[str, Any], now: int,
) -> Outcome:  # fmt: skip
    """Add a cost to spent that no stored reservation stands for, and remember its id."""
    shares, postings, after = [], [], []
    for draw, bucket in zip(draws, buckets, strict=True):
        assert draw.pool is not None
        added = actual[draw.unit] or 0
        after.append(bucket.at(_add(bucket.spent, added), bucket.reserved))
        state.put_bucket(draw.pool, after[-1], draw.name)
        shares.append(Share(draw.pool, draw.unit, bucket.start, 0))
        postings.append(Posting(draw.pool, bucket.start, added, 0))
    booked = Reservation(id, digest, "reconciled", actual, tuple(shares), 0, now, now, now, actual, scope, detail)
    state.put_reservation(booked)
    _log(state, now, kind, id, actual, scope, detail, postings)
    return Outcome(kind, now, state.account.version, after, reservation=booked)


def _renew(state: State, command: Renew, now: int) -> Outcome:
    known = state.reservation(command.id)
    if known is None or known.state != "open":
        return Outcome("unknown" if known is None else "ended", now, state.account.version, reservation=known)
    renewed = known._replace(lease_end=max(known.lease_end, now + command.lease_us))
    state.put_reservation(renewed)
    return Outcome("renewed", now, state.account.version, reservation=renewed)


def _sweep(state: State, now: int) -> int:
    """Charge what is due: a reservation whose lease has ended is presumed spent."""
    ids = state.due(now, SWEEP)
    for id in ids:
        known = state.reservation(id)
        assert known is not None
        _end(state, known, "expired", known.amounts, {"estimated": True}, now)
    return len(ids)


def _status(state: State, command: Status, now: int) -> Outcome:
    found = [state.newest(pool) for pool in command.pools]
    present = [bucket if bucket is not None and bucket.start <= now < bucket.end else None for bucket in found]
    if not command.sweep:
        free = _slots_due(state, now)
        pairs = zip(command.pools, present, strict=True)
        present = [b and b.at(b.spent, b.reserved - free.get(pool, 0)) for pool, b in pairs]
    return Outcome("status", now, state.account.version, present)


def _slots_due(state: State, now: int) -> dict[str, int]:
    """Return the slots that a sweep would give back, by pool; money that is due stays taken, so it needs no look."""
    free: dict[str, int] = {}
    for id in state.due(now, SWEEP):
        known = state.reservation(id)
        assert known is not None
        for share in known.shares:
            if share.unit == CONCURRENT:
                free[share.pool] = free.get(share.pool, 0) + share.amount
    return free


def _change(state: State, command: ChangePolicy, now: int) -> Outcome:
    account = state.account
    if not state.put_policy(command.kind, command.identity, command.body):
        return Outcome("unchanged", now, account.version)
    account.version += 1
    _log(state, now, POLICY_KINDS[command.kind, command.body is not None], None, _ZERO, {}, command.detail, ())
    return Outcome("changed", now, account.version)


def _present(state: State, draw: Draw, now: int) -> Bucket | None:
    """Return the pool's bucket now, or None if the caller's window is not the present one.

    A stored bucket holds until its own end, whatever bounds the command carries: a host with other zone data, or a
    limit whose zone was changed, cannot start a window before the stored one is over.
    """
    newest = state.newest(draw.pool) if draw.pool is not None else None
    if newest is not None and now < newest.end:
        return newest
    if not draw.start <= now < draw.end:
        return None
    if newest is None:
        return Bucket(draw.start, draw.end, max(draw.start, min(draw.since, now)), 0, 0)
    start = max(draw.start, newest.end)
    return Bucket(start, draw.end, start, 0, 0)


def _bucket_at(state: State, draw: Draw, at: int) -> Bucket:
    """Return the bucket that held an instant, also one that is over; a reservation belongs where it was made."""
    assert draw.pool is not None
    newest = state.newest(draw.pool)
    if newest is not None and newest.start <= at < newest.end:
        return newest
    return state.bucket(draw.pool, draw.start) or Bucket(draw.start, draw.end, draw.start, 0, 0)


def _add(counter: int, amount: int) -> int:
    # A counter that would pass MAX stays there, refuses every amount above zero, and `audit` reports it.
    return MAX if counter == MAX else min(counter + amount, MAX)


def _spends(unit: int, amounts: Amounts) -> int:
    """Return what a cost adds to spent in a pool of this unit."""
    return 0 if unit == CONCURRENT else amounts[unit] or 0


def booked(draws: Sequence[Draw]) -> list[Draw]:
    """Return the draws of a cost that nothing was reserved for: it took no slot, so it has none to give back."""
    return [draw for draw in draws if draw.pool is not None and draw.unit != CONCURRENT]


def _complete(amounts: Amounts, default: Amounts) -> Amounts:
    return tuple(d if a is None else a for a, d in zip(amounts, default, strict=True))  # type: ignore[return-value]


def _log(
    state: State, now: int, kind: str, reservation: str | None, amounts: Sequence[int | None],
    scope: Mapping[str, str], detail: Mapping[str, Any], postings: Sequence[Posting],
) -> None:  # fmt: skip
    account = state.account
    exact: Any = tuple(amount or 0 for amount in amounts)
    entry = make_entry(account.head, account.seq + 1, now, kind, reservation, exact, scope, detail, tuple(postings))
    account.seq, account.head = entry.seq, entry.digest
    if kind != "refused":  # which moves nothing
        account.clock = now
    state.append(entry)


_ZERO: Amounts = (0, 0, 0, 0, 0)
POLICY_KINDS = {
    ("limit", True): "limit_set",
    ("limit", False): "limit_unset",
    ("freeze", True): "frozen",
    ("freeze", False): "unfrozen",
}
_VERBS: dict[type, Callable[[State, Any, int], Outcome]] = {
    Reserve: _reserve,
    Reconcile: _reconcile,
    Refund: _refund,
    Record: _record,
    Renew: _renew,
    Status: _status,
    ChangePolicy: _change,
}
