"""Replay: what would these budgets, prices, models or caches have done?

`trace` reads recorded calls in the order of time, `recorded` those of the account's own records, `pricing` says what
they cost, and `walk` plays them against limits in scratch accounts (`scratch` is a store for these alone); `result` is
what it finds. Nothing is decided here: which limits match, what a call draws and whether it is admitted,
`budget.policy` and the store say.
"""

from __future__ import annotations

from budget.importing.exact import Exact, read_time
from budget.replay.calls import Call, Past
from budget.replay.pricing import CACHES, Pricing
from budget.replay.recorded import Recorded
from budget.replay.result import Comparison, LimitResult, Replay
from budget.replay.scratch import Scratch
from budget.replay.trace import FIELDS, PRESETS, Trace
from budget.replay.walk import compare, replay

__all__ = [
    "CACHES", "FIELDS", "PRESETS", "Call", "Comparison", "Exact", "LimitResult", "Past", "Pricing", "Recorded",
    "Replay", "Scratch", "Trace", "compare", "read_time", "replay",
]  # fmt: skip
