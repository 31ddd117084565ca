"""What operators do to an account as a whole: let one entry stand for many, and bring it over from another store.

What a checkpoint proves, `budget.audit` says.
"""

from __future__ import annotations

from budget.audit import Checkpoint
from budget.commands import Load, Outcome, Prune, State
from budget.ends import NOTHING, log

__all__ = ["load", "prune"]


def prune(state: State, command: Prune, now: int) -> Outcome:
    """Append the checkpoint for the entries up to one of them; windows that are over go with it."""
    if state.vouched() != command.vouched:
        return Outcome("moved", now, state.account.version)
    sums = dict(command.sums)
    for key in command.gone:
        bucket, (spent, reserved) = state.bucket(*key), sums.get(key, (0, 0))
        if bucket is None or (bucket.spent, bucket.reserved, 0) == (spent, reserved, reserved):
            sums.pop(key, None)
            if bucket is not None:
                state.forget_window(*key)
    made = Checkpoint(command.upto, command.digest, tuple(command.amounts), sums)
    log(state, now, "pruned", None, NOTHING, {}, {**made.to_detail(), **command.detail}, ())
    return Outcome("pruned", now, state.account.version)


def load(state: State, command: Load, now: int) -> Outcome:
    """Write what another store had."""
    account = state.account
    for entry in command.entries:
        if account.seq and entry.seq != account.seq + 1:
            return Outcome("moved", now, account.version)
        state.append(entry)
        account.seq, account.head, account.clock = entry.seq, entry.digest, max(account.clock, entry.at_us)
    for row in command.rows:
        account.version += state.put_policy(*row)
    for (pool, _), bucket in sorted(command.buckets.items()):
        state.put_bucket(pool, bucket, command.names.get(pool))
    for reservation in command.reservations:
        state.put_reservation(reservation)
    return Outcome("loaded", now, account.version)
