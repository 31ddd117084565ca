"""How one entry comes to stand for many: the verb behind retention. What a checkpoint proves, `budget.audit` says."""

from __future__ import annotations

from budget.audit import Checkpoint
from budget.commands import Outcome, Prune, State
from budget.ends import NOTHING, log

__all__ = ["prune"]


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
