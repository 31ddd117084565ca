"""Figures and sums as the file of records holds them: 64 bits. What is larger stays at the largest there is.

So much money (`MOST` is $9,223,372,036.854775807) was not spent but written by mistake. The ledger has each entry as it
was; here a question is still answered, by a figure that can be told from others.
"""

from __future__ import annotations

__all__ = ["MOST", "held", "summed"]

MOST = 2**63 - 1
"""The largest figure."""
_LOW = 2**31


def held(figure: int) -> int:
    """Return a figure as the file holds it."""
    return max(-MOST, min(figure, MOST))


def summed(column: str) -> str:
    """Return the SQL of a sum: exact, and where that is above `MOST`, that. SQLite's own fails there.

    It adds up the upper bits and the lower ones. Only putting them together may overflow, and becomes a float by that,
    which is compared and left.
    """
    return f"max(-{MOST}, min({MOST}, sum(({column}) >> 31) * {_LOW} + sum(({column}) & {_LOW - 1})))"
