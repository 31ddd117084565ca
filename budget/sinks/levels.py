"""How full the limits are: a figure per rule, whatever number of subjects have a pool of it.

A ledger says what happened, not what is left, so this is asked of the store: every pool, as `Budget.status()` does.
That costs more the more subjects there are, so the next time waits until the last one has cost at most a twentieth of
the time between.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from budget.overview import load_policy, pools_of
from budget.pools import Pool

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["EVERY", "Level", "Levels", "levels_of"]

EVERY = 15.0
"""Seconds between two looks at the pools, at least."""
_SHARE = 20  # the time between is at least so many times what looking takes


class Level(NamedTuple):
    """One rule and all of its pools together, in their present windows. Figures are USD, or counts of the unit.

    Attributes:
        limit: The rule as text.
        unit: usd, tokens, input_tokens, output_tokens, requests or concurrent.
        pools: How many subjects have a pool.
        amount: What one of them may have; the least, where some were raised.
        used, reserved: What is spent and set aside, over all of them.
        highest: Spent and reserved of the fullest one, as a share of what it may have: 1.0 is full.
    """

    limit: str
    unit: str
    pools: int
    amount: float
    used: float
    reserved: float
    highest: float


class Levels:
    """Looks at the pools of an engine when it is time to."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, engine: Engine) -> list[Level] | None:
        """Return the levels now; None if it is not time yet.

        Raises:
            StoreUnavailable: The store did not answer. The next look is as far away as after an answer.
        """
        began = monotonic()
        if began < self._next:
            return None
        self._next = began + EVERY
        found = levels_of(engine)
        took = monotonic() - began
        self._next = began + max(EVERY, _SHARE * took)
        return found


def levels_of(engine: Engine) -> list[Level]:
    """Return the levels of the rules that have pools now.

    Raises:
        StoreUnavailable: The store did not answer.
    """
    rules: dict[tuple[str | None, object], str]
    rules = {(None, limit.identity): str(limit) for limit in load_policy(engine).limits}
    if engine.above is not None:
        name = engine.settings.above
        rules |= {(name, limit.identity): f"{limit} ({name})" for limit in load_policy(engine.above).limits}
    found: dict[str, Level] = {}
    for pool in pools_of(engine, {}):
        text = rules.get((pool.account, pool.limit.identity))  # the pool's own limit may be raised
        if text is not None:
            found[text] = _with(found.get(text), text, pool)
    return list(found.values())


def _with(known: Level | None, text: str, pool: Pool) -> Level:
    used, reserved, amount = float(pool.spent), float(pool.reserved), float(pool.limit.amount)
    highest = (used + reserved) / amount if amount else 1.0
    if known is None:
        return Level(text, pool.unit, 1, amount, used, reserved, highest)
    return Level(
        text, pool.unit, known.pools + 1, min(known.amount, amount), known.used + used, known.reserved + reserved,
        max(known.highest, highest),
    )  # fmt: skip
