"""Commands as requests to the scripts of a Redis store: which script, its KEYS and its ARGV.

What the scripts expect is said in their first lines (`lua/<verb>.lua`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any

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
from budget.stores.keys import Encoded, Keys, Pools, encoded
from budget.stores.packed import KINDS, NUMBERS, Shares, pack_amounts, pack_counts, seal

__all__ = ["ENCODE", "PORTION", "expiry", "payment", "rebuilding"]

_CODES = {kind: code for code, kind in KINDS.items()}
_NO_DRAWS: Sequence[Any] = [()] * len(Draw._fields)
PORTION = 250
"""Buckets that one request sets: what a script's stack and an entry hold."""


# `at` is a scratch account's own time, else -1; `pools` are those that the server named, None: as the caller thinks.


def _reserve(keys: Keys, command: Reserve, at: int, swept: int, pools: Named | None) -> Encoded:
    draws = command.draws
    ids, _, _, limits, amounts, starts, ends, sinces, texts, *more = _columns(draws)
    count = many = len(draws)
    if None in ids:  # caps, which have no key and come last
        draws = sorted(draws, key=_is_cap)
        ids, _, _, limits, amounts, starts, ends, sinces, texts, *more = _columns(draws)
        count -= ids.count(None)
    drawn = keys.drawn(ids[:count], draws)
    numbers = NUMBERS[8 + 2 * many].pack(
        at, command.version, command.lease_us, swept, keys.seen.epoch, keys.seen.seq, count, many, *limits, *amounts
    )  # fmt: skip
    some = any(map(any, more))
    rest: bytes = NUMBERS[4 * many].pack(*chain.from_iterable(zip(*more, strict=True))) if some else b""
    kept = keep(
        command.amounts, (count, drawn.ids, drawn.units), amounts[:count], command.digest, command.scope,
        command.detail, command.parent,
    )  # fmt: skip
    lines = "\n".join((command.frozen or "", *texts)).encode()
    args = (pack_id(command.id), numbers + _pack_windows(starts, ends, sinces), kept, lines, drawn.names, rest)
    return keys.verb("reserve", command.id, drawn, args)


def _columns(draws: Sequence[Draw]) -> Sequence[Any]:
    """Return the fields of draws, each of all of them."""
    return tuple(zip(*draws, strict=True)) or _NO_DRAWS


@lru_cache(1024)
def _pack_windows(*columns: tuple[int, ...]) -> bytes:
    """Write start, end and since of windows: they are the same until one ends."""
    return NUMBERS[3 * len(columns[0])].pack(*chain.from_iterable(zip(*columns, strict=True)))


def _is_cap(draw: Draw) -> bool:
    return draw.pool is None


def _reconcile(keys: Keys, command: Reconcile, at: int, swept: int, pools: Named | None) -> Encoded:
    detail = _sealed(command.detail)
    if command.draws is None or pools is not None:
        named, made = _named(keys, command.known, pools)
        args = (pack_id(command.id), NUMBERS[3].pack(at, swept, made), pack_amounts(command.actual), detail, named.ids)
        return keys.verb("reconcile", command.id, named, args)
    draws = booked(command.draws)
    drawn = _drawn(keys, draws)
    windows = NUMBERS[6 * len(draws)].pack(*_windows(draws))
    kept = _kept(drawn, replace(command, detail={**command.detail, "unknown": True}), "")
    head = (pack_id(command.id), NUMBERS[3].pack(at, swept, command.made), pack_amounts(command.actual), detail)
    return keys.verb("reconcile_or_book", command.id, drawn, (*head, drawn.ids, kept, windows, drawn.names))


def _refund(keys: Keys, command: Refund, at: int, swept: int, pools: Named | None) -> Encoded:
    named, made = _named(keys, command.known, pools)
    args = (pack_id(command.id), NUMBERS[3].pack(at, swept, made), _sealed(command.detail), named.ids, NOTHING_KEPT)
    return keys.verb("refund", command.id, named, args)


def _record(keys: Keys, command: Record, at: int, swept: int, pools: Named | None) -> Encoded:
    draws = booked(command.draws)
    drawn = _drawn(keys, draws)
    numbers = NUMBERS[3 + 6 * len(draws)].pack(at, command.version, swept, *_windows(draws))
    kept = _kept(drawn, command, command.digest)
    args = (pack_id(command.id), numbers, pack_amounts(command.actual), kept, drawn.names, _CODES[command.kind])
    return keys.verb("record", command.id, drawn, args)


def payment(keys: Keys, command: Record, at: int, swept: int, pools: Named | None) -> Encoded:
    """Return the request that pays a cost out of a slice; its pools are those of the draws, or those that it named."""
    if pools is None:
        ids, drawn = _drawn_on(keys, [draw for draw in command.draws if draw.pool is not None])
    else:
        ids = tuple([share.pool for share in pools.shares])
        drawn = keys.named(ids)._replace(ids=pools.ids, units=bytes([share.unit for share in pools.shares]))
    kept = _kept(drawn, command, command.digest)
    frees = pack_amounts(command.frees or command.actual)
    args = (pack_id(command.id), NUMBERS[2].pack(at, swept), pack_amounts(command.actual), kept, frees)
    names = (*keys.base, f"{keys.reservation}{command.id}", *[keys.pool + id for id in ids])
    return encoded("pay", (*names, f"{keys.reservation}{command.of}"), (*args, _CODES[command.kind]))


def _drawn(keys: Keys, draws: Sequence[Draw]) -> Pools:
    return _drawn_on(keys, draws)[1]


def _drawn_on(keys: Keys, draws: Sequence[Draw]) -> tuple[tuple[str, ...], Pools]:
    ids: tuple[str, ...] = tuple([draw.pool for draw in draws])  # type: ignore[misc]
    return ids, keys.drawn(ids, draws)


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
        kept = keep((0, 0, 0, 0, 0), (len(some), ids, bytes(len(some))), (), "", {}, {})
        args: list[Any] = [NUMBERS[2].pack(at, command.seq + n), kept]
        for pool, numbers in values.items():
            args += [command.names.get(pool, ""), NUMBERS[len(numbers)].pack(*numbers)]
        found.append(encoded("rebuild", (*keys.base, *[keys.pool + pool for pool in values]), args))
    return found


def _renew(keys: Keys, command: Renew, at: int, swept: int, pools: Named | None) -> Encoded:
    names = [keys.marker, keys.leases, keys.reservation + command.id]
    return encoded("renew", names, [pack_id(command.id), NUMBERS[3].pack(at, swept, command.lease_us)])


def _status(keys: Keys, command: Status | Sweep, at: int, swept: int, pools: Named | None) -> Encoded:
    names = command.pools if type(command) is Status else ()
    head = NUMBERS[2].pack(at, swept)
    return encoded("status", [keys.marker, keys.leases, *[keys.pool + each for each in names]], [head])


def _load(keys: Keys, command: LoadPolicy, at: int, swept: int, pools: Named | None) -> Encoded:
    return encoded("policy", [keys.marker, keys.policy], [NUMBERS[1].pack(at)])


def _learn(keys: Keys, command: Learn, at: int, swept: int, pools: Named | None) -> Encoded:
    pairs = [part for name in sorted(command.more) for part in (name, pack_counts(command.more[name]))]
    return encoded("learn", [keys.marker, keys.sketches], [NUMBERS[1].pack(at), *pairs])


def _change(keys: Keys, command: ChangePolicy, at: int, swept: int, pools: Named | None) -> Encoded:
    kind = _CODES[POLICY_KINDS[command.kind, command.body is not None]]
    return encoded("change", [keys.marker, keys.leases, keys.ledger, keys.policy], (
        f"{command.kind}\n{command.identity}", NUMBERS[3].pack(at, swept, command.body is None), command.body or "",
        kind, _sealed(command.detail),
    ))  # fmt: skip


def _windows(draws: Sequence[Draw]) -> Iterable[int]:
    """The windows of draws that a cost may open: start, end, since, the limit before, roll-over, span of each."""
    return chain.from_iterable([(*draw[5:8], draw.limit - draw.raised, draw.rollover, draw.span) for draw in draws])


def _kept(drawn: Pools, command: Reconcile | Record, digest: str) -> bytes:
    """Write what is kept of a cost that nothing was reserved for: it took nothing."""
    pools = (drawn.size, drawn.ids, drawn.units)
    detail = command.detail
    if isinstance(command, Record) and command.of is not None:
        detail = {**detail, "of": command.of}
    return keep(command.actual, pools, (), digest, command.scope, detail)


def expiry(keys: Keys, id: str, pools: Named, at: int) -> Encoded:
    """Return the request that expires one reservation."""
    return keys.verb("expire", id, _known(keys, pools), (pack_id(id), NUMBERS[1].pack(at), _EXPIRED, pools.ids))


def _named(keys: Keys, known: Reservation | None, pools: Named | None) -> tuple[Pools, int]:
    """Return the pools of a reservation, and when it was made (-1: who asks does not know)."""
    if pools is not None:
        return _known(keys, pools), -1
    if known is not None:
        shares = known.shares
        ids = shares.pools if isinstance(shares, Shares) else tuple([share.pool for share in shares])
        return keys.named(ids), known.made
    return keys.named(()), -1


def _known(keys: Keys, pools: Named) -> Pools:
    """Return the pools that the server named, with their ids as they stand there."""
    return keys.named(tuple([share.pool for share in pools.shares]))._replace(ids=pools.ids)


def _sealed(detail: Mapping[str, Any]) -> bytes:
    return seal(dumps(detail).encode()) if detail else _NO_DETAIL


_NO_DETAIL = seal(b"{}")
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
