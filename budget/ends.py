"""How reservations end, and how spend is booked that had none: reconcile, refund, expire, record.

A slice is a reservation out of whose money other costs are paid: each is a `Record` that names it, and moves what it
frees from the slice's reserved to the record's spent in one step. So both sides are exact at every instant; the slice's
own end has only the rest to free or to charge. What it gave back so far is its `charged` while it is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from budget.buckets import add, after, bucket_at, present, put
from budget.commands import Amounts, Bucket, Draw, Outcome, Reconcile, Record, Refund, Reservation, Share, State, new
from budget.ledger import Move, make_entry
from budget.limits import CONCURRENT

__all__ = ["MOVES_ALONE", "NOTHING", "booked", "end", "kept", "log", "reconcile", "record", "refund", "rest"]

NOTHING: Amounts = (0, 0, 0, 0, 0)
MOVES_ALONE = ("backfilled", "recovered")
"""Kinds of records whose entries add nothing to what was spent."""


def reconcile(state: State, command: Reconcile, now: int) -> Outcome:
    """Replace a reservation by the true cost; see `Reconcile`."""
    version = state.account.version
    known = state.reservation(command.id)
    if known is None and command.draws is None:
        return Outcome("unknown", now, version)
    if known is None:
        draws = booked(command.draws or ())
        buckets = [bucket_at(state, draw, command.made, now) for draw in draws]
        detail = {**command.detail, "unknown": True}
        return _book(state, "reconciled", command.id, "", command.actual, draws, buckets, command.scope, detail, now)
    actual = _complete(command.actual, rest(known))
    if known.state in ("reconciled", "refunded"):
        same = known.state == "reconciled" and known.charged == actual
        return Outcome("repeated" if same else "conflict", now, version, reservation=known)
    return end(state, known, "reconciled", actual, command.detail, now)


def refund(state: State, command: Refund, now: int) -> Outcome:
    """Make a whole reservation available again; see `Refund`."""
    version = state.account.version
    known = state.reservation(command.id)
    if known is None:
        # A tombstone: a reserve that was delayed past its caller's patience must not be admitted after this.
        tombstone = Reservation(command.id, "", "refunded", NOTHING, (), 0, now, now, now, NOTHING)
        state.put_reservation(tombstone)
        return Outcome("refunded", now, version, reservation=tombstone)
    if known.state in ("reconciled", "refunded"):
        return Outcome("repeated" if known.state == "refunded" else "conflict", now, version, reservation=known)
    return end(state, known, "refunded", NOTHING, command.detail, now)


def end(state: State, known: Reservation, how: str, actual: Amounts, detail: Mapping[str, Any], now: int) -> Outcome:
    """Move an open reservation to its end, or correct an expired one by the difference."""
    late = known.state == "expired"
    change: Sequence[int | None] = actual
    if late:
        change = [(a or 0) - (b or 0) for a, b in zip(actual, known.charged or NOTHING, strict=True)]
    spends = (*change, 0)  # by unit: a slot is never spent
    moves: list[Move] = []
    buckets: list[Bucket | None] = []
    for share in known.shares:
        pool, unit, start, amount = share
        added = spends[unit] or 0
        freed = 0 if late else amount if known.charged is None else amount - _given(known, share)
        buckets.append(_move(state, pool, start, added, freed, now))
        moves.append((pool, start, added, -freed))
    ended = known.ended_as(how, now, actual)
    state.put_reservation(ended)
    detail = {**known.detail, **detail, **({"late": True} if late else {})}
    log(state, now, how, known.id, change, known.scope, detail, moves)
    return Outcome(how, now, state.account.version, buckets, reservation=ended)


def record(state: State, command: Record, now: int) -> Outcome:
    """Book spend that had no reservation, out of a slice if it names one that is open; see `Record`."""
    version = state.account.version
    known = state.reservation(command.id)
    if known is not None:
        return Outcome("repeated" if known.digest == command.digest else "conflict", now, version, reservation=known)
    detail = command.detail
    if command.of is not None:
        detail = {**detail, "of": command.of}
        piece = state.reservation(command.of)
        if piece is not None and piece.state == "open":
            return _pay(state, command, piece, detail, now)
    if command.version != version:
        return Outcome("stale_policy", now, version)
    draws = booked(command.draws)
    buckets = [bucket for draw in draws if (bucket := present(state, draw, now)) is not None]
    if len(buckets) < len(draws):
        return Outcome("stale_window", now, version)
    return _book(state, command.kind, command.id, command.digest, command.actual, draws, buckets, command.scope,
                 detail, now)  # fmt: skip


def _book(
    state: State, kind: str, id: str, digest: str, actual: Amounts, draws: Sequence[Draw], buckets: Sequence[Bucket],
    scope: Mapping[str, str], detail: Mapping[str, Any], now: int,
) -> Outcome:  # fmt: skip
    """Add a cost to spent that no stored reservation stands for, and remember its id."""
    shares, moves, shown = [], [], []
    for draw, bucket in zip(draws, buckets, strict=True):
        assert draw.pool is not None
        added = actual[draw.unit] or 0
        moved = bucket.at(add(bucket.spent, added), bucket.reserved)
        put(state, draw.pool, moved, now, draw.name)
        shown.append(after(state, draw.pool, moved, now))
        shares.append(Share(draw.pool, draw.unit, bucket.start, 0))
        moves.append((draw.pool, bucket.start, added, 0))
    return _booked(state, kind, id, digest, actual, shares, shown, moves, scope, detail, now)


def _pay(state: State, command: Record, piece: Reservation, detail: Mapping[str, Any], now: int) -> Outcome:
    """Book a cost out of a slice, in its buckets; they give back what the cost frees, as far as the slice has it."""
    actual, left = command.actual, rest(piece)
    frees = _complete(command.frees or actual, NOTHING)
    freed = tuple(min(f or 0, r or 0) for f, r in zip(frees, left, strict=True))
    shares, moves, shown = [], [], []
    for share in piece.shares:
        slot = share.unit == CONCURRENT  # which the slice keeps to its end
        added = _spends(share.unit, actual)
        back = 0 if slot else min(freed[share.unit], share.amount - _given(piece, share))
        shown.append(_move(state, share.pool, share.start, added, back, now))
        shares.append(share._replace(amount=0))
        moves.append((share.pool, share.start, added, -back))
    given = tuple((g or 0) + f for g, f in zip(piece.charged or NOTHING, freed, strict=True))
    state.put_reservation(piece._replace(charged=given if any(given) else None))  # type: ignore[arg-type]
    return _booked(state, command.kind, command.id, command.digest, actual, shares, shown, moves, command.scope,
                   detail, now)  # fmt: skip


def _booked(
    state: State, kind: str, id: str, digest: str, actual: Amounts, shares: Sequence[Share],
    shown: Sequence[Bucket | None], moves: Sequence[Move], scope: Mapping[str, str], detail: Mapping[str, Any],
    now: int,
) -> Outcome:  # fmt: skip
    made = Reservation(id, digest, "reconciled", actual, tuple(shares), 0, now, now, now, actual, scope, detail)
    state.put_reservation(made)
    log(state, now, kind, id, NOTHING if kind in MOVES_ALONE else actual, scope, detail, moves)
    return Outcome(kind, now, state.account.version, shown, reservation=made)


def _move(state: State, pool: str, start: int, added: int, freed: int, now: int) -> Bucket | None:
    """Move a bucket that a reservation was taken from; a part of a rolling window may be gone, and moves nothing."""
    bucket = state.bucket(pool, start)
    if bucket is not None:
        _, end, since, spent, reserved, carry, span = bucket
        moved: Bucket = new(Bucket, (start, end, since, add(spent, added), reserved - freed, carry, span))
        state.put_bucket(pool, moved)
        if not span:
            return moved
    return after(state, pool, bucket, now)


def rest(known: Reservation) -> Amounts:
    """Return what a reservation still holds if it is open: all of it but what a slice has given back."""
    if known.state != "open" or known.charged is None:
        return known.amounts
    pairs = zip(known.amounts, known.charged, strict=True)
    return tuple((amount or 0) - (given or 0) for amount, given in pairs)  # type: ignore[return-value]


def kept(known: Reservation, share: Share) -> int:
    """Return how much of a share an open reservation still holds."""
    return share.amount - _given(known, share)


def _given(known: Reservation, share: Share) -> int:
    """Return how much of a share an open slice has given back."""
    if known.state != "open" or known.charged is None or share.unit == CONCURRENT:
        return 0
    return min(known.charged[share.unit] or 0, share.amount)


def _spends(unit: int, amounts: Amounts) -> int:
    """Return what a cost adds to spent in a pool of this unit."""
    return 0 if unit == CONCURRENT else amounts[unit] or 0


def booked(draws: Sequence[Draw]) -> list[Draw]:
    """Return the draws of a cost that nothing was reserved for: it took no slot, so it has none to give back."""
    return [draw for draw in draws if draw.pool is not None and draw.unit != CONCURRENT]


def _complete(amounts: Amounts, default: Amounts) -> Amounts:
    if None not in amounts:
        return amounts
    return tuple(d if a is None else a for a, d in zip(amounts, default, strict=True))  # type: ignore[return-value]


def log(
    state: State, now: int, kind: str, reservation: str | None, amounts: Sequence[int | None],
    scope: Mapping[str, str], detail: Mapping[str, Any], moves: Sequence[Move],
) -> None:  # fmt: skip
    """Append the entry of an event, with which the account's sequence and clock go on."""
    account = state.account
    exact: Any = tuple([amount or 0 for amount in amounts])
    entry = make_entry(account.head, account.seq + 1, now, kind, reservation, exact, scope, detail, tuple(moves))
    account.seq, account.head = entry.seq, entry.digest
    if kind != "refused":  # which moves nothing
        account.clock = now
    state.append(entry)
