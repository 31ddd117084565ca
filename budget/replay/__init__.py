"""Replay: what would these budgets have refused?

`trace` reads the recorded calls in the order of time, `walk` plays them against limits in a scratch account. Nothing is
decided here: which limits match, what a call draws and whether it is admitted, `budget.policy` and the store say.
"""

from __future__ import annotations

from budget.replay.trace import FIELDS, PRESETS, Call, Exact, Trace, read_time
from budget.replay.walk import LimitResult, Replay, replay

__all__ = ["FIELDS", "PRESETS", "Call", "Exact", "LimitResult", "Replay", "Trace", "read_time", "replay"]
