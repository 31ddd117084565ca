"""A rule about ourselves: the ledger cannot be read, or ends of calls wait for a store that does not take them."""

from __future__ import annotations

import re

from budget.alerts.rule import HOUR, Look, Rule
from budget.window import SECOND

__all__ = ["Trouble"]

_PATIENCE = 60 * SECOND
"""How long it must last: a store that is started anew is away for some seconds."""


class Trouble(Rule):
    """The store cannot be read for a minute, or its outbox holds what is older than that: "store trouble". Once an
    hour while it lasts."""

    form = "store trouble"
    pattern = re.compile("store trouble")
    remembers = False

    def unreadable(self, look: Look, since_us: int, error: str) -> None:
        """Take note that the ledger cannot be read."""
        for_us = look.now_us - since_us
        if for_us >= _PATIENCE:
            text = f"the ledger cannot be read for {for_us // SECOND} seconds: {error}"
            look.warn("ledger", look.now_us // HOUR * HOUR, look.now_us, text, quiet=HOUR, seconds=for_us // SECOND)

    def waits(self, look: Look, count: int, since_us: int) -> None:
        """Take note of what is in the outbox: how much, and since when."""
        for_us = look.now_us - since_us
        if count and for_us >= _PATIENCE:
            text = f"{count} ends of calls wait on disk for the store, the first for {for_us // SECOND} seconds"
            look.warn(
                "outbox", look.now_us // HOUR * HOUR, look.now_us, text, quiet=HOUR, waiting=count,
                seconds=for_us // SECOND,
            )  # fmt: skip
