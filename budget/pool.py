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

A pool is a list of buckets by start; `buckets.py` says which one an instant belongs to, and `ends.py` has the verbs
that end a reservation. Limits and window bounds come with the command, and the policy version with them: a caller whose
policy is old, or whose window is over, is told so (`stale_policy`, `stale_window`), nothing is written, and it asks
again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from budget.buckets import bar, freed_at, present, put, seen, view
from budget.commands import (
    Bucket,
    ChangePolicy,
    Command,
    Draw,
    Learn,
    Load,
    LoadPolicy,
    Outcome,
    Prune,
    Rebuild,
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
    new,
)
from budget.ends import NOTHING, booked, end, log, reconcile, record, refund, rest
from budget.expect import learn
from budget.ledger import Move
from budget.limits import CONCURRENT
from budget.prune import load, prune
from budget.window import FOREVER, SECOND

__all__ = [
    "POLICY_KINDS", "SWEEP", "SWEEP_FOR_A_SLOT", "admits", "apply", "booked", "keep_until", "refused_by", "shadowed_by",
    "takes_slot", "verdict",
]  # fmt: skip

SWEEP = 64  # due reservations that one command expires before its own work
SWEEP_FOR_A_SLOT = 256  # and one that takes a slot: money that is due stays taken, but a slot has nobody any more
_CLOCK_BACK = 5 * SECOND  # how far the clock may go back before nothing is admitted on it
_KEPT = {"reconciled": 3600 * SECOND, "refunded": 3600 * SECOND, "expired": 7 * 86400 * SECOND}


def apply(state: State, command: Command, now: int) -> Outcome:
    """Carry out one command at one instant (`now`, microseconds); never before what was last written."""
    account = state.account
    behind = account.clock - now
    outcome = _carry_out(state, command, max(now, account.clock), behind)
    outcome.seq = account.seq
    return outcome


def _carry_out(state: State, command: Command, now: int, behind: int) -> Outcome:
    version = state.account.version
    if behind > _CLOCK_BACK and type(command) is Reserve:
        return Outcome("clock", now, version)
    if type(command) in _UNSWEPT or (type(command) is Status and not command.sweep):
        return _VERBS[type(command)](state, command, now)
    expired = _sweep(state, command, now)
    if type(command) is Sweep:
        return Outcome("swept", now, version, count=expired)
    return _VERBS[type(command)](state, command, now)


def _load(state: State, _: LoadPolicy, now: int) -> Outcome:
    return Outcome("policy", now, state.account.version, rows=state.policy())


def _learn(state: State, command: Learn, now: int) -> Outcome:
    return Outcome("learned", now, state.account.version, learned=learn(state, command.more))


def admits(amount: int, limit: int, bucket: Bucket) -> bool:
    """Whether a pool takes an amount: zero always, else up to what is available, exactly."""
    return amount == 0 or 0 <= amount <= limit - bucket.spent - bucket.reserved


def refused_by(draws: Sequence[Draw], buckets: Sequence[Bucket]) -> list[int]:
    """Return which draws their buckets do not take."""
    pairs = zip(draws, buckets, strict=True)
    return [i for i, (draw, bucket) in enumerate(pairs) if not admits(draw.amount, bar(draw, bucket), bucket)]


def shadowed_by(draws: Sequence[Draw], buckets: Sequence[Bucket]) -> list[int]:
    """Return which draws that only count would otherwise refuse."""
    shadows = [i for i, draw in enumerate(draws) if draw.shadow]
    if not shadows:
        return shadows
    refusing = [draws[i]._replace(shadow=False) for i in shadows]
    return [shadows[i] for i in refused_by(refusing, [buckets[i] for i in shadows])]


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
    found: list[Bucket] = []
    shown: list[Bucket] = []
    tight = False  # whether a draw is not within its bare limit; most often none is: none refuses, nor would in shadow
    for draw in command.draws:
        bucket = present(state, draw, now)
        if bucket is None:
            return Outcome("stale_window", now, version)
        found.append(bucket)
        if bucket.span:
            bucket = seen(state, draw.pool, bucket, now)
        shown.append(bucket)
        tight = tight or not 0 <= draw.amount <= draw.limit - bucket.spent - bucket.reserved
    refused = refused_by(command.draws, shown) if tight else []
    if command.frozen is not None or refused:
        detail = {**command.detail, "refused": _named(command.draws, refused)}
        detail |= {"frozen": command.frozen} if command.frozen else {}
        log(state, now, "refused", command.id, NOTHING, command.scope, detail, ())
        for i in refused:
            if command.draws[i].span:
                shown[i] = shown[i]._replace(end=freed_at(state, command.draws[i], found[i], now))
        return Outcome("refused", now, version, shown, refused)
    shadowed = shadowed_by(command.draws, shown) if tight else []
    # Nothing can fail from here.
    shares: list[Share] = []
    moves: list[Move] = []
    for i, (draw, bucket) in enumerate(zip(command.draws, found, strict=True)):
        pool, amount = draw.pool, draw.amount
        if pool is None:
            continue
        start, end, since, spent, reserved, carry, span = bucket
        taken = new(Bucket, (start, end, since, spent, reserved + amount, carry, span))
        if span:
            put(state, pool, taken, now, draw.name)
            shown[i] = shown[i].at(shown[i].spent, shown[i].reserved + amount)
        else:
            state.put_bucket(pool, taken, draw.name)
            shown[i] = taken
        shares.append(new(Share, (pool, draw.unit, start, amount)))
        moves.append((pool, start, 0, amount))
    lease = command.lease_us
    reservation: Reservation = new(Reservation, (
        command.id, command.digest, "open", command.amounts, tuple(shares), lease, now + lease, now, 0, None,
        command.scope, command.detail, command.parent,
    ))  # fmt: skip
    state.put_reservation(reservation)
    told = {"shadow": _named(command.draws, shadowed)} if shadowed else {}
    log(state, now, "reserved", command.id, NOTHING, command.scope, {**command.detail, **told}, moves)
    return Outcome("reserved", now, version, shown, reservation=reservation, shadowed=shadowed)


def _named(draws: Sequence[Draw], which: Sequence[int]) -> list[dict[str, str | None]]:
    return [{"limit": draws[i].text, "pool": draws[i].pool} for i in which]


def _renew(state: State, command: Renew, now: int) -> Outcome:
    known = state.reservation(command.id)
    if known is None or known.state != "open":
        return Outcome("unknown" if known is None else "ended", now, state.account.version, reservation=known)
    renewed = known._replace(lease_end=max(known.lease_end, now + command.lease_us))
    state.put_reservation(renewed)
    return Outcome("renewed", now, state.account.version, reservation=renewed)


def takes_slot(command: Command) -> bool:
    """Whether a command asks for a slot."""
    return type(command) is Reserve and any(draw.unit == CONCURRENT for draw in command.draws)


def _sweep(state: State, command: Command, now: int) -> int:
    """Charge what is due: a reservation whose lease has ended is presumed spent."""
    ids = state.due(now, SWEEP)
    if len(ids) == SWEEP and takes_slot(command):
        ids = state.due(now, SWEEP_FOR_A_SLOT)
    for id in ids:
        known = state.reservation(id)
        assert known is not None
        end(state, known, "expired", rest(known), {"estimated": True}, now)
    return len(ids)


def _status(state: State, command: Status, now: int) -> Outcome:
    found = [state.newest(pool) for pool in command.pools]
    pairs = zip(command.pools, found, strict=True)
    shown = [view(state.parts(pool), now) if bucket is not None and bucket.span else bucket for pool, bucket in pairs]
    if not command.sweep:
        free = _slots_due(state, now)
        pairs = zip(command.pools, shown, strict=True)
        shown = [b and b.at(b.spent, b.reserved - free.get(pool, 0)) for pool, b in pairs]
    return Outcome("status", now, state.account.version, shown)


def _slots_due(state: State, now: int) -> dict[str, int]:
    """Return the slots that a sweep would give back, by pool; money that is due stays taken, so it needs no look."""
    free: dict[str, int] = {}
    for id in state.due(now, SWEEP_FOR_A_SLOT):
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
    log(state, now, POLICY_KINDS[command.kind, command.body is not None], None, NOTHING, {}, command.detail, ())
    return Outcome("changed", now, account.version)


def _rebuild(state: State, command: Rebuild, now: int) -> Outcome:
    account = state.account
    if account.seq != command.seq:
        return Outcome("moved", now, account.version)
    moves = []
    for (pool, start), bucket in sorted(command.buckets.items()):
        was = state.bucket(pool, start)
        spent, reserved = (0, 0) if was is None else (was.spent, was.reserved)
        state.put_bucket(pool, bucket, command.names.get(pool))
        moves.append((pool, start, bucket.spent - spent, bucket.reserved - reserved))
    log(state, now, "rebuilt", None, NOTHING, {}, {}, moves)
    return Outcome("rebuilt", now, account.version)


POLICY_KINDS = {
    ("limit", True): "limit_set",
    ("limit", False): "limit_unset",
    ("freeze", True): "frozen",
    ("freeze", False): "unfrozen",
    ("adjust", True): "adjusted",
    ("adjust", False): "adjust_ended",
    ("fence", True): "fenced",
    ("fence", False): "unfenced",
}
# What is no business of any reservation; and a rebuild: nothing else may move the counters that it was made from.
_UNSWEPT = (LoadPolicy, Learn, Rebuild)
_VERBS: dict[type, Callable[[State, Any, int], Outcome]] = {
    Reserve: _reserve,
    Reconcile: reconcile,
    Refund: refund,
    Record: record,
    Renew: _renew,
    Status: _status,
    ChangePolicy: _change,
    LoadPolicy: _load,
    Learn: _learn,
    Rebuild: _rebuild,
    Prune: prune,
    Load: load,
}
