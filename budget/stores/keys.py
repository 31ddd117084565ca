"""The keys of an account on a server, the last entry seen there, and what requests have in common, written once.

All keys of an account carry its name as hash tag, so that they live in one slot of a cluster, and every key that a
script touches is declared.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from budget.commands import Draw
from budget.stores.kept import pack_ids
from budget.stores.packed import Marker, read_marker

__all__ = ["EPOCHS", "Encoded", "Keys", "Pools", "Seen", "encoded"]

Encoded = tuple[str, int, bytes]
"""A script, and what stands behind its digest or text in the server's protocol: how many words, and these."""
EPOCHS = 2**40  # an epoch counts above its random bits how often an operator has declared the account whole
_CACHED = 4096
_HEADS = [b"$%d\r\n" % length for length in range(4096)]
"""How words of so many bytes begin: formatting them takes as long as all the rest of a request."""
_END = b"\r\n"


def encoded(verb: str, keys: Sequence[str], args: Iterable[str | bytes | int]) -> Encoded:
    """Write the keys and arguments of a script."""
    values = [_bytes(value) for value in (len(keys), *keys, *args)]
    return verb, len(values), _words(values)


def _bytes(value: str | bytes | int) -> bytes:
    return value if type(value) is bytes else str(value).encode()


def _words(values: Iterable[bytes], *before: bytes) -> bytes:
    parts = [*before]
    for value in values:
        length = len(value)
        parts += (_HEADS[length] if length < len(_HEADS) else b"$%d\r\n" % length, value, _END)
    return b"".join(parts)


class Seen:
    """The last entry that this process has seen of an account: its epoch (0: none yet), number and digest.

    A server that has lost it answers `rewound` to a reserve.
    """

    __slots__ = ("_marker", "epoch", "seq")

    def __init__(self) -> None:
        self.epoch = self.seq = 0
        self._marker = b""

    @property
    def last(self) -> Marker:
        """The entry's number, digest and epoch, which belong together also while other threads see further."""
        return read_marker(self._marker)

    def see(self, marker: bytes, seq: int, epoch: int) -> None:
        """Look at the marker of an answer; one from before an entry that was seen says nothing new."""
        later = seq > self.seq
        if epoch != self.epoch:
            later = self.epoch == 0 or epoch // EPOCHS > self.epoch // EPOCHS
        if later:
            self.epoch, self.seq, self._marker = epoch, seq, marker


class Pools(NamedTuple):
    """What every call that draws on the same pools sends: how many they are, their ids, units and names.

    `before` and `after` are the words of the keys before that of the reservation, and behind it.
    """

    size: int
    ids: bytes
    units: bytes
    names: bytes
    before: bytes
    after: bytes


class Keys:
    """The keys of an account, and its ledger's place."""

    def __init__(self, account: str):
        self.prefix = prefix = f"budget:{{{account}}}:"
        self.marker, self.leases, self.ledger = f"{prefix}m", f"{prefix}l", f"{prefix}j"
        self.refusals, self.closed, self.names = f"{prefix}x", f"{prefix}c", f"{prefix}n"
        self.policy, self.pool, self.reservation = f"{prefix}y", f"{prefix}p:", f"{prefix}r:"
        self.sketches, self.drain = f"{prefix}e", f"{prefix}d"
        self.base = (self.marker, self.leases, self.ledger, self.refusals, self.closed, self.names)
        self._pools: dict[tuple[str, ...], Pools] = {}
        self.seen = Seen()

    def verb(self, name: str, id: str, pools: Pools, args: Sequence[bytes]) -> Encoded:
        """Write the keys of a verb on a reservation and its pools, and the arguments."""
        key = f"{self.reservation}{id}".encode()
        words = _words(args, pools.before, b"$%d\r\n%b\r\n" % (len(key), key), pools.after)
        return name, len(self.base) + 2 + pools.size + len(args), words

    def drawn(self, ids: tuple[str, ...], draws: Sequence[Draw]) -> Pools:
        """What is always the same about the pools of some draws, which begin with those that have one."""
        found = self._pools.get(ids)
        if found is None:
            if len(self._pools) >= _CACHED:
                self._pools.clear()
            pooled = draws[: len(ids)]
            units = bytes([draw.unit for draw in pooled])
            found = self._pools[ids] = self.of(ids, units, "\n".join([draw.name for draw in pooled]))
        return found

    def named(self, ids: tuple[str, ...]) -> Pools:
        """The pools with these ids; without units and names, if nothing was drawn on them."""
        return self._pools.get(ids) or self.of(ids)

    def of(self, ids: Sequence[str], units: bytes = b"", names: str = "") -> Pools:
        """Write the keys of pools."""
        before = [_bytes(value) for value in (len(self.base) + 1 + len(ids), *self.base)]
        after = [f"{self.pool}{id}".encode() for id in ids]
        return Pools(len(ids), pack_ids(ids), units, names.encode(), _words(before), _words(after))
