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
from budget.stores.packed import KINDS, NOTHING_KEPT, NUMBERS, keep, pack_amounts, pack_counts, seal

__all__ = ["ENCODE", "Encoded", "Keys", "expiry"]

Encoded = tuple[str, Sequence[str], Sequence[Any]]
"""A script, its KEYS and its ARGV."""
_CODES = {kind: code for code, kind in KINDS.items()}
_CACHED = 4096


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
        self.sketches = f"{prefix}e"
        self._base = (self.marker, self.leases, self.ledger, self.refusals, self.closed, self.names)
        self._pools: dict[tuple[str, ...], _Pools] = {}

    def verb(self, id: str, pools: Iterable[str]) -> tuple[str, ...]:
        """The keys of a verb on a reservation and its pools."""
        return (*self._base, self.reservation + id, *pools)

    def named(self, pools: Sequence[str]) -> tuple[Sequence[str], str | bytes]:
        """The keys of pools, and their ids."""
        known = self._pools.get(tuple(pools))
        return (known.keys, known.ids) if known else ([self.pool + each for each in pools], "\n".join(pools))

    def drawn(self, draws: Sequence[Draw]) -> _Pools:
        """What is always the same about the pools of some draws."""
        ids: tuple[str, ...] = tuple([draw[0] for draw in draws])  # type: ignore[misc]
        found = self._pools.get(ids)
        if found is None:
            if len(self._pools) >= _CACHED:
                self._pools.clear()
            units = NUMBERS[len(ids)].pack(*[draw.unit for draw in draws])
            names = "\n".join([draw.name for draw in draws])
            keys = tuple([self.pool + each for each in ids])
            found = self._pools[ids] = _Pools(keys, "\n".join(ids).encode(), units, names)
        return found


# `at` is a scratch account's own time, else -1; `pools` are those that the server named, None: as the caller thinks.


def _reserve(keys: Keys, command: Reserve, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    draws = command.draws
    pooled = draws
    if None in [draw[0] for draw in draws]:  # caps, which have no key and come last
        pooled = [draw for draw in draws if draw[0] is not None]
        draws = [*pooled, *[draw for draw in draws if draw[0] is None]]
    drawn, count, many = keys.drawn(pooled), len(pooled), len(draws)
    numbers = NUMBERS[6 + 5 * many].pack(
        at, command.version, command.lease_us, swept, count, many, *[draw[3] for draw in draws],
        *[draw[4] for draw in draws], *chain.from_iterable([draw[5:8] for draw in draws]),
    )  # fmt: skip
    taken = numbers[48 + 8 * many : 48 + 8 * (many + count)]
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
    return "reserve", keys.verb(command.id, drawn.keys), (command.id, numbers, kept, texts, drawn.names)


def _reconcile(keys: Keys, command: Reconcile, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    detail = _sealed(command.detail)
    if command.draws is None or pools is not None:
        named, ids, made = _named(keys, command.known, pools)
        args = (command.id, NUMBERS[3].pack(at, swept, made), pack_amounts(command.actual), detail, ids, "")
        return "reconcile", keys.verb(command.id, named), args
    draws = booked(command.draws)
    drawn = keys.drawn(draws)
    windows = NUMBERS[2 * len(draws)].pack(*chain.from_iterable([draw[5:7] for draw in draws]))
    kept = _kept(drawn, replace(command, detail={**command.detail, "unknown": True}), "")
    head = (command.id, NUMBERS[3].pack(at, swept, command.made), pack_amounts(command.actual), detail)
    return "reconcile", keys.verb(command.id, drawn.keys), (*head, drawn.ids, kept, windows, drawn.names)


def _refund(keys: Keys, command: Refund, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    named, ids, made = _named(keys, command.known, pools)
    args = (command.id, NUMBERS[3].pack(at, swept, made), _sealed(command.detail), ids, NOTHING_KEPT)
    return "refund", keys.verb(command.id, named), args


def _record(keys: Keys, command: Record, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    draws = booked(command.draws)
    drawn = keys.drawn(draws)
    windows = chain.from_iterable([draw[5:8] for draw in draws])
    numbers = NUMBERS[3 + 3 * len(draws)].pack(at, command.version, swept, *windows)
    kept = _kept(drawn, command, command.digest)
    args = (command.id, numbers, pack_amounts(command.actual), kept, drawn.names)
    return "record", keys.verb(command.id, drawn.keys), args


def _renew(keys: Keys, command: Renew, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = [keys.marker, keys.leases, keys.reservation + command.id]
    return "renew", names, [command.id, NUMBERS[3].pack(at, swept, command.lease_us)]


def _status(keys: Keys, command: Status | Sweep, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = command.pools if type(command) is Status else ()
    head = NUMBERS[2].pack(at, swept)
    return "status", [keys.marker, keys.leases, *[keys.pool + each for each in names]], [head]


def _load(keys: Keys, command: LoadPolicy, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    return "policy", [keys.marker, keys.policy], [NUMBERS[1].pack(at)]


def _learn(keys: Keys, command: Learn, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    pairs = [part for name in sorted(command.more) for part in (name, pack_counts(command.more[name]))]
    return "learn", [keys.marker, keys.sketches], [NUMBERS[1].pack(at), *pairs]


def _change(keys: Keys, command: ChangePolicy, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    kind = _CODES[POLICY_KINDS[command.kind, command.body is not None]]
    return "change", [keys.marker, keys.leases, keys.ledger, keys.policy], (
        f"{command.kind}\n{command.identity}", NUMBERS[3].pack(at, swept, command.body is None), command.body or "",
        kind, _sealed(command.detail),
    )  # fmt: skip


def _kept(drawn: _Pools, command: Reconcile | Record, digest: str) -> bytes:
    """Write what is kept of a cost that nothing was reserved for: it took nothing."""
    pools = (len(drawn.keys), drawn.ids, drawn.units)
    return keep(command.actual, pools, bytes(len(drawn.units)), digest, command.scope, command.detail)


def expiry(keys: Keys, id: str, pools: Sequence[str], at: int) -> Encoded:
    """Return the request that expires one reservation."""
    named, ids = keys.named(pools)
    return "expire", keys.verb(id, named), (id, NUMBERS[1].pack(at), _EXPIRED, ids)


def _named(
    keys: Keys, known: Reservation | None, pools: Sequence[str] | None
) -> tuple[Sequence[str], str | bytes, int]:
    """Return the keys of a reservation's pools, their ids, and when it was made (-1: who asks does not know)."""
    if pools is None and known is not None:
        return *keys.named([share[0] for share in known.shares]), known.made
    return *keys.named(pools or ()), -1


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
