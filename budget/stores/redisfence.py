"""The fence: a server that lost what it had acknowledged is noticed, and admits nothing until its account is rebuilt.

A replica that is promoted, or a server that comes back without its last writes, continues from an older state: money
that was reserved or spent there would be spent a second time. Each process remembers the last entry of an account that
it was told of (`Keys.seen`: epoch, number, digest). Every reserve carries that, and a script at a lower number or of
another epoch answers `rewound`. Others may have written past the lost point before anybody looks; so on each new
connection, before anything else is sent over it, the entry at the remembered number is read and compared.

What a process finds it writes down as a row of the policy, and with that every process refuses: `StoreUnavailable`
with `lost`, for reserves alone. What has happened is booked all the same. The row goes when the account is rebuilt.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress

from budget.commands import ChangePolicy, LoadPolicy, Outcome
from budget.errors import StoreUnavailable
from budget.ledger import dumps
from budget.stores.keys import EPOCHS, Keys
from budget.stores.loopwire import LoopWire
from budget.stores.multiplex import ServerError
from budget.stores.packed import read_marker
from budget.stores.redisplaces import Places
from budget.stores.scripts import Steps, flow, request

__all__ = ["FENCE", "Account"]

FENCE = ("fence", "lost")
"""Kind and identity of the row."""


class Account:
    """An account as this process knows it: its keys, where it is found, and what is known to be lost.

    Args:
        name: Of the account.
        places: Finds its server.
    """

    __slots__ = ("group", "keys", "lost", "name", "wire", "written")

    def __init__(self, name: str, places: Places):
        self.name, self.keys = name, Keys(name)
        self.group = places.group(self.keys.marker)
        self.wire: LoopWire | None = None  # the last one that was used
        self.lost: dict[str, int] | None = None
        self.written = False  # the row was seen

    def greet(self) -> Steps:
        """Compare what this process remembers with what a server has. A loss goes to `lost`, and is written down.

        Raises:
            StoreUnavailable: It cannot be read.
        """
        if not self.keys.seen.seq:
            return
        seen = self.keys.seen.last  # others may see more meanwhile
        found = yield request("XRANGE", self.keys.ledger, f"{seen.seq}-0", f"{seen.seq}-0")
        if isinstance(found, list) and found and _digest(found[0][1]) == seen.head:
            return
        marker = yield request("GET", self.keys.marker)
        for reply in (found, marker):
            if isinstance(reply, ServerError):
                raise StoreUnavailable(f"the server refused to read: {str(reply).splitlines()[0][:200]}")
        now = read_marker(marker)
        rebuilt = now.epoch // EPOCHS > seen.epoch // EPOCHS  # deliberately, by an operator
        drained = not found and now.epoch == seen.epoch and now.seq >= seen.seq  # what was drained is trimmed
        if not rebuilt and not drained:
            yield from self._lose(now.seq)

    def told(self, outcome: Outcome) -> Steps | None:
        """Take what an outcome says of the fence; steps to be taken, which end in an error, or None."""
        if outcome.status == "rewound":
            return self._refuse(outcome.seq)
        row = next((body for kind, identity, body in outcome.rows if (kind, identity) == FENCE), None)
        if row is not None:
            self.lost, self.written = json.loads(row), True
        elif self.written:
            self.lost, self.written = None, False
        return None

    def look(self) -> Steps:
        """Look whether the account has been rebuilt, before a reserve.

        Raises:
            StoreUnavailable: It has not.
        """
        if self.written:
            self.told((yield from flow(self.keys, LoadPolicy(), None)))
        else:  # nobody else was told: it may be found again, by who reached another server meanwhile
            lost, self.lost = self.lost, None
            try:
                yield from self.greet()
            except StoreUnavailable:
                self.lost = lost
                raise
        self.check()

    def check(self) -> None:
        """Raise if something is lost."""
        if self.lost is None:
            return
        error = StoreUnavailable(
            f"the server has lost entries that it had acknowledged, {self.lost['lost']} at least (it is at "
            f"{self.lost['seq']}, {self.lost['seen']} was seen); nothing is admitted until: budget ledger rebuild"
        )
        error.sent, error.lost = False, self.lost["lost"]
        raise error

    def _refuse(self, present: int) -> Steps:
        yield from self._lose(present)
        self.check()

    def _lose(self, present: int) -> Steps:
        seen = self.keys.seen.seq
        self.lost = {"seen": seen, "seq": present, "lost": max(1, seen - present)}
        with suppress(StoreUnavailable):  # it is tried again before the next reserve
            self.told((yield from flow(self.keys, LoadPolicy(), None)))
            if not self.written:  # the first who finds it says what it found
                change = ChangePolicy(*FENCE, dumps(self.lost), {"reason": "acknowledged entries are lost"})
                yield from flow(self.keys, change, None)
                self.written = True


def _digest(fields: Iterable[bytes]) -> bytes:
    pairs = list(fields)
    found = dict(zip(pairs[::2], pairs[1::2], strict=True))
    return bytes.fromhex(found[b"h"].decode())
