"""Commands as requests to the scripts of a Redis store: which script, its KEYS and its ARGV.

All keys of an account carry its name as hash tag, so that they live in one slot of a cluster, and every key that a
script touches is declared. What the scripts expect is said in their first lines (`lua/<verb>.lua`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from budget.commands import (
    ChangePolicy,
    Draw,
    Learn,
    LoadPolicy,
    Rebuild,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reservation,
    Reserve,
    Status,
    Sweep,
)
from budget.ledger import dumps
from budget.pool import POLICY_KINDS, booked
from budget.stores.kept import NOTHING_KEPT, Named, keep, pack_id, pack_ids
from budget.stores.packed import KINDS, NUMBERS, Marker, pack_amounts, pack_counts, read_marker, seal

__all__ = ["ENCODE", "EPOCHS", "PORTION", "Encoded", "Keys", "Seen", "expiry", "payment", "rebuilding"]

Encoded = tuple[str, Sequence[str], Sequence[Any]]
"""A script, its KEYS and its ARGV."""
_CODES = {kind: code for code, kind in KINDS.items()}
_CACHED = 4096
EPOCHS = 2**40  # an epoch counts above its random bits how often an operator has declared the account whole
PORTION = 250
"""Buckets that one request sets: what a script's stack and an entry hold."""


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


class _Pools(NamedTuple):
    """What every call that draws on the same pools sends: their keys, ids, units and names."""

    keys: tuple[str, ...]
    ids: bytes
    units: bytes
    names: str


class Keys:
    """The keys of an account, and its ledger's place."""

    def __init__(self, account: str):
        self.prefix = prefix = f"budget:{{{account}}}:"
        self.marker, self.leases, self.ledger = f"{prefix}m", f"{prefix}l", f"{prefix}j"
        self.refusals, self.closed, self.names = f"{prefix}x", f"{prefix}c", f"{prefix}n"
        self.policy, self.pool, self.reservation = f"{prefix}y", f"{prefix}p:", f"{prefix}r:"
        self.sketches, self.drain = f"{prefix}e", f"{prefix}d"
        self.base = (self.marker, self.leases, self.ledger, self.refusals, self.closed, self.names)
        self._pools: dict[tuple[str, ...], _Pools] = {}
        self.seen = Seen()

    def verb(self, id: str, pools: Iterable[str]) -> tuple[str, ...]:
        """The keys of a verb on a reservation and its pools."""
        return (*self.base, self.reservation + id, *pools)

    def named(self, pools: Sequence[str]) -> tuple[Sequence[str], bytes]:
        """The keys of pools, and their ids."""
        known = self._pools.get(tuple(pools))
        return (known.keys, known.ids) if known else ([self.pool + each for each in pools], pack_ids(pools))

    def drawn(self, draws: Sequence[Draw]) -> _Pools:
        """What is always the same about the pools of some draws."""
        ids: tuple[str, ...] = tuple([draw[0] for draw in draws])  # type: ignore[misc]
        found = self._pools.get(ids)
        if found is None:
            if len(self._pools) >= _CACHED:
                self._pools.clear()
            units = bytes([draw.unit for draw in draws])
            names = "\n".join([draw.name for draw in draws])
            keys = tuple([self.pool + each for each in ids])
            found = self._pools[ids] = _Pools(keys, pack_ids(ids), units, names)
        return found


# `at` is a scratch account's own time, else -1; `pools` are those that the server named, None: as the caller thinks.


def _reserve(keys: Keys, command: Reserve, at: int, swept: int, pools: Named | None) -> Encoded:
    draws = command.draws
    pooled = draws
    if None in [draw[0] for draw in draws]:  # caps, which have no key and come last
        pooled = [draw for draw in draws if draw[0] is not None]
        draws = [*pooled, *[draw for draw in draws if draw[0] is None]]
    drawn, count, many = keys.drawn(pooled), len(pooled), len(draws)
    numbers = NUMBERS[8 + 5 * many].pack(
        at, command.version, command.lease_us, swept, keys.seen.epoch, keys.seen.seq, count, many,
        *[draw[3] for draw in draws], *[draw[4] for draw in draws],
        *chain.from_iterable([draw[5:8] for draw in draws]),
    )  # fmt: skip
    taken = numbers[64 + 8 * many : 64 + 8 * (many + count)]
    more: bytes = b""
    if [1 for draw in draws if draw[9] or draw[10] or draw[11]]:
        more = NUMBERS[3 * many].pack(*chain.from_iterable([draw[9:12] for draw in draws]))
    kept = keep(
        command.amounts,
        (count, drawn.ids, drawn.units),
        taken,
        command.digest,
        command.scope,
        command.detail,
        command.parent,
    )
    texts = "\n".join((command.frozen or "", *[draw[8] for draw in draws]))
    return "reserve", keys.verb(command.id, drawn.keys), (pack_id(command.id), numbers, kept, texts, drawn.names, more)


def _reconcile(keys: Keys, command: Reconcile, at: int, swept: int, pools: Named | None) -> Encoded:
    detail = _sealed(command.detail)
    if command.draws is None or pools is not None:
        named, ids, made = _named(keys, command.known, pools)
        args = (pack_id(command.id), NUMBERS[3].pack(at, swept, made), pack_amounts(command.actual), detail, ids)
        return "reconcile", keys.verb(command.id, named), args
    draws = booked(command.draws)
    drawn = keys.drawn(draws)
    windows = NUMBERS[6 * len(draws)].pack(*_windows(draws))
    kept = _kept(drawn, replace(command, detail={**command.detail, "unknown": True}), "")
    head = (pack_id(command.id), NUMBERS[3].pack(at, swept, command.made), pack_amounts(command.actual), detail)
    return "reconcile_or_book", keys.verb(command.id, drawn.keys), (*head, drawn.ids, kept, windows, drawn.names)


def _refund(keys: Keys, command: Refund, at: int, swept: int, pools: Named | None) -> Encoded:
    named, ids, made = _named(keys, command.known, pools)
    args = (pack_id(command.id), NUMBERS[3].pack(at, swept, made), _sealed(command.detail), ids, NOTHING_KEPT)
    return "refund", keys.verb(command.id, named), args


def _record(keys: Keys, command: Record, at: int, swept: int, pools: Named | None) -> Encoded:
    draws = booked(command.draws)
    drawn = keys.drawn(draws)
    numbers = NUMBERS[3 + 6 * len(draws)].pack(at, command.version, swept, *_windows(draws))
    kept = _kept(drawn, command, command.digest)
    args = (pack_id(command.id), numbers, pack_amounts(command.actual), kept, drawn.names, _CODES[command.kind])
    return "record", keys.verb(command.id, drawn.keys), args


def payment(keys: Keys, command: Record, at: int, swept: int, pools: Named | None) -> Encoded:
    """Return the request that pays a cost out of a slice; its pools are those of the draws, or those that it named."""
    if pools is None:
        drawn = keys.drawn([draw for draw in command.draws if draw.pool is not None])
    else:
        units = bytes([share.unit for share in pools.shares])
        drawn = _Pools(tuple([keys.pool + share.pool for share in pools.shares]), pools.ids, units, "")
    kept = _kept(drawn, command, command.digest)
    frees = pack_amounts(command.frees or command.actual)
    code = _CODES[command.kind]
    args = (pack_id(command.id), NUMBERS[2].pack(at, swept), pack_amounts(command.actual), kept, frees, code)
    return "pay", (*keys.verb(command.id, drawn.keys), f"{keys.reservation}{command.of}"), args


def rebuilding(keys: Keys, command: Rebuild, at: int) -> list[Encoded]:
    """Return the requests that carry out a rebuild; all buckets of a pool are in one, or follow one another."""
    found: list[Encoded] = []
    buckets = sorted(command.buckets.items())
    for n, first in enumerate(range(0, len(buckets), PORTION)):
        some = buckets[first : first + PORTION]
        values: dict[str, list[float]] = {}
        for (pool, _), bucket in some:
            values.setdefault(pool, []).extend(bucket)
        ids = pack_ids([pool for (pool, _), _ in some])
        kept = keep((0, 0, 0, 0, 0), (len(some), ids, bytes(len(some))), b"", "", {}, {})
        args: list[Any] = [NUMBERS[2].pack(at, command.seq + n), kept]
        for pool, numbers in values.items():
            args += [command.names.get(pool, ""), NUMBERS[len(numbers)].pack(*numbers)]
        found.append(("rebuild", (*keys.base, *[keys.pool + pool for pool in values]), args))
    return found


def _renew(keys: Keys, command: Renew, at: int, swept: int, pools: Named | None) -> Encoded:
    names = [keys.marker, keys.leases, keys.reservation + command.id]
    return "renew", names, [pack_id(command.id), NUMBERS[3].pack(at, swept, command.lease_us)]


def _status(keys: Keys, command: Status | Sweep, at: int, swept: int, pools: Named | None) -> Encoded:
    names = command.pools if type(command) is Status else ()
    head = NUMBERS[2].pack(at, swept)
    return "status", [keys.marker, keys.leases, *[keys.pool + each for each in names]], [head]


def _load(keys: Keys, command: LoadPolicy, at: int, swept: int, pools: Named | None) -> Encoded:
    return "policy", [keys.marker, keys.policy], [NUMBERS[1].pack(at)]


def _learn(keys: Keys, command: Learn, at: int, swept: int, pools: Named | None) -> Encoded:
    pairs = [part for name in sorted(command.more) for part in (name, pack_counts(command.more[name]))]
    return "learn", [keys.marker, keys.sketches], [NUMBERS[1].pack(at), *pairs]


def _change(keys: Keys, command: ChangePolicy, at: int, swept: int, pools: Named | None) -> Encoded:
    kind = _CODES[POLICY_KINDS[command.kind, command.body is not None]]
    return "change", [keys.marker, keys.leases, keys.ledger, keys.policy], (
        f"{command.kind}\n{command.identity}", NUMBERS[3].pack(at, swept, command.body is None), command.body or "",
        kind, _sealed(command.detail),
    )  # fmt: skip


def _windows(draws: Sequence[Draw]) -> Iterable[int]:
    """The windows of draws that a cost may open: start, end, since, limit, roll-over, span of each."""
    return chain.from_iterable([(*draw[5:8], draw.limit, draw.rollover, draw.span) for draw in draws])


def _kept(drawn: _Pools, command: Reconcile | Record, digest: str) -> bytes:
    """Write what is kept of a cost that nothing was reserved for: it took nothing."""
    pools = (len(drawn.keys), drawn.ids, drawn.units)
    detail = command.detail
    if isinstance(command, Record) and command.of is not None:
        detail = {**detail, "of": command.of}
    return keep(command.actual, pools, b"", digest, command.scope, detail)


def expiry(keys: Keys, id: str, pools: Named, at: int) -> Encoded:
    """Return the request that expires one reservation."""
    named = [keys.pool + share.pool for share in pools.shares]
    return "expire", keys.verb(id, named), (pack_id(id), NUMBERS[1].pack(at), _EXPIRED, pools.ids)


def _named(
    keys: Keys, known: Reservation | None, pools: Named | None
) -> tuple[Sequence[str], bytes, int]:
    """Return the keys of a reservation's pools, their ids, and when it was made (-1: who asks does not know)."""
    if pools is None and known is not None:
        return *keys.named([share[0] for share in known.shares]), known.made
    if pools is None:
        return (), b"", -1
    return [keys.pool + share.pool for share in pools.shares], pools.ids, -1


def _sealed(detail: object) -> bytes:
    return seal(dumps(detail).encode())


_EXPIRED = _sealed({"estimated": True})
ENCODE: dict[type, Callable[..., Encoded]] = {
    Reserve: _reserve,
    Reconcile: _reconcile,
    Refund: _refund,
    Record: _record,
    Renew: _renew,
    Sweep: _status,
    Status: _status,
    LoadPolicy: _load,
    Learn: _learn,
    ChangePolicy: _change,
}
"""Called with the account's keys, a command, the time, whether leases that have ended were dealt with, and pools."""
