"""The verbs of a Redis store: commands to scripts and their arguments, and replies to outcomes.

One file of `lua/` per verb, put together with the parts they share. Its first lines say KEYS, ARGV and replies; here is
the other side of that. All keys of an account carry its name as hash tag, so that they live in one slot of a cluster,
and every key that a script touches is declared. Numbers travel as packed 8-byte integers, texts as they are stored.

`flow` yields requests and receives replies, so that blocking and awaiting callers share it. Most commands are one
request. A verb that finds leases that have ended answers `due`, writes nothing, and is asked again after they were
expired; an end whose caller did not know the reservation's pools is asked again with the keys it names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import chain
from struct import Struct
from typing import Any, NamedTuple

import hiredis

from budget.commands import (
    Amounts,
    Bucket,
    ChangePolicy,
    Command,
    Draw,
    LoadPolicy,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reservation,
    Reserve,
    Share,
    Status,
    Sweep,
)
from budget.errors import StoreUnavailable
from budget.ledger import dumps
from budget.limits import CONCURRENT
from budget.pool import POLICY_KINDS, booked
from budget.stores.multiplex import ServerError

__all__ = [
    "KINDS", "Keys", "Steps", "blob", "flow", "read_amounts", "read_bucket", "read_kept", "read_record", "request", "run_script", "shares",
]  # fmt: skip

Steps = Generator[bytes, Any, Any]
KINDS = {
    b"v": "reserved", b"r": "reconciled", b"f": "refunded", b"x": "expired", b"b": "recorded", b"l": "limit_set",
    b"m": "limit_unset", b"z": "frozen", b"u": "unfrozen",
}  # fmt: skip
"""What the scripts call an entry."""
_CODES = {kind: code for code, kind in KINDS.items()}
_NUMBERS = [Struct(f"<{n}d") for n in range(256)]  # of the scripts, which know doubles: exact up to 2^53 - 1
_FIVE = Struct("<5q")  # figures by unit, which may be larger
_BUCKET = _NUMBERS[5]
_WIDTHS = Struct("<3H")
_RECORD = Struct("<cddddH40s")
_CHARGED = slice(_RECORD.size - 40, _RECORD.size)
_KEPT = 16 + _FIVE.size  # where the pools of a request begin
_STATES = {b"o": "open", b"r": "reconciled", b"f": "refunded", b"x": "expired"}
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
        self._base = (self.marker, self.leases, self.ledger, self.refusals, self.closed, self.names)
        self._pools: dict[tuple[str, ...], _Pools] = {}

    def verb(self, id: str, pools: Iterable[str]) -> tuple[str, ...]:
        """The keys of a verb on a reservation and its pools."""
        return (*self._base, self.reservation + id, *pools)

    def named(self, pools: Iterable[str]) -> list[str]:
        """The keys of pools."""
        return [self.pool + each for each in pools]

    def drawn(self, draws: Sequence[Draw]) -> _Pools:
        """What is always the same about the pools of some draws."""
        ids: tuple[str, ...] = tuple([draw[0] for draw in draws])  # type: ignore[misc]
        found = self._pools.get(ids)
        if found is None:
            if len(self._pools) >= _CACHED:
                self._pools.clear()
            units = _NUMBERS[len(ids)].pack(*[draw.unit for draw in draws])
            names = "\n".join([draw.name for draw in draws])
            found = self._pools[ids] = _Pools(tuple(self.named(ids)), "\n".join(ids).encode(), units, names)
        return found


def request(*words: str | bytes | int | float) -> bytes:
    """Write a command in the server's protocol."""
    packed: bytes = hiredis.pack_command(words)
    return packed


def flow(keys: Keys, command: Command, now: int | None) -> Steps:
    """Carry out a command: yields requests, receives replies, returns its `Outcome`.

    Args:
        keys: The account.
        command: What to do.
        now: A scratch account's own time; None for the server's.

    Raises:
        StoreUnavailable: The server answered with an error.
    """
    encode, decode = _VERBS[type(command)]
    at = -1 if now is None else now
    pools: Sequence[str] | None = None
    looks = type(command) is Status and not command.sweep
    swept = expired = 0
    free: dict[str, int] = {}
    while True:
        reply = yield from run_script(*encode(keys, command, at, swept, pools))
        status = reply[0]
        if status == b"due" and looks:
            swept, free = 1, (yield from _slots(keys, reply[3:]))
        elif status == b"due":
            swept, expired = 1, (yield from _expire(keys, reply[3:], at))
        elif status == b"pools":
            pools = _pools_of(reply[3])
        else:
            outcome: Outcome = decode(command, reply)
            if type(command) is Sweep:
                outcome.status, outcome.count = "swept", expired
            if free and type(command) is Status:
                pairs = zip(command.pools, outcome.buckets, strict=True)
                outcome.buckets = [b and b.at(b.spent, b.reserved - free.get(pool, 0)) for pool, b in pairs]
            return outcome


def run_script(verb: str, keys: Sequence[str], args: Sequence[Any]) -> Steps:
    """Run a script by its digest; a server that does not have it (any more) gets its text."""
    text, digest = _SCRIPTS[verb]
    reply = yield request("EVALSHA", digest, len(keys), *keys, *args)
    if isinstance(reply, ServerError) and str(reply).startswith("NOSCRIPT"):
        reply = yield request("EVAL", text, len(keys), *keys, *args)
    if isinstance(reply, ServerError):
        raise StoreUnavailable(f"the server refused to {verb}: {str(reply).splitlines()[0][:200]}")
    return reply


def _expire(keys: Keys, ids: Sequence[bytes], at: int) -> Steps:
    """Charge reservations whose lease has ended, and return how many were. Others may be at it: each ends once."""
    count = 0
    for id in [each.decode() for each in ids]:
        record = yield request("GET", keys.reservation + id)
        if record is None:  # the lease of nothing: a reserve that was refused half-way by a damaged account
            yield request("ZREM", keys.leases, id)
        elif isinstance(record, bytes):
            args = [id, _NUMBERS[1].pack(at), _EXPIRED]
            reply = yield from run_script("expire", keys.verb(id, keys.named(_pools_of(record))), args)
            count += reply[0] == b"ended"
    return count


def _slots(keys: Keys, ids: Sequence[bytes]) -> Steps:
    """Return the slots, by pool, that reservations would give back if they were expired now."""
    free: dict[str, int] = {}
    for id in [each.decode() for each in ids]:
        record = yield request("GET", keys.reservation + id)
        for share in _shares_of(record) if isinstance(record, bytes) else ():
            if share.unit == CONCURRENT:
                free[share.pool] = free.get(share.pool, 0) + share.amount
    return free


# Commands to scripts: (verb, KEYS, ARGV). `pools` are those that the server named; None: as the caller thinks.

Encoded = tuple[str, Sequence[str], Sequence[Any]]


def _reserve(keys: Keys, command: Reserve, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    draws = command.draws
    pooled = draws
    if None in [draw[0] for draw in draws]:  # caps, which have no key and come last
        pooled = [draw for draw in draws if draw[0] is not None]
        draws = [*pooled, *[draw for draw in draws if draw[0] is None]]
    drawn, count, many = keys.drawn(pooled), len(pooled), len(draws)
    numbers = _NUMBERS[6 + 5 * many].pack(
        at, command.version, command.lease_us, swept, count, many, *[draw[3] for draw in draws],
        *[draw[4] for draw in draws], *chain.from_iterable([draw[5:8] for draw in draws]),
    )  # fmt: skip
    amounts = 48 + 8 * many
    kept = _keep(command, command.amounts, drawn, numbers[amounts : amounts + 8 * count], command.parent)
    texts = "\n".join((command.frozen or "", *[draw[8] for draw in draws]))
    return "reserve", keys.verb(command.id, drawn.keys), (command.id, numbers, kept, texts, drawn.names)


def _reconcile(keys: Keys, command: Reconcile, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    args = (command.id, _NUMBERS[3].pack(at, swept, command.made), _amounts(command.actual), blob(command.detail))
    if command.draws is None or pools is not None:
        return "reconcile", keys.verb(command.id, keys.named(_own(command.known) if pools is None else pools)), (*args, "")
    draws = booked(command.draws)
    drawn = keys.drawn(draws)
    windows = _NUMBERS[2 * len(draws)].pack(*chain.from_iterable([draw[5:7] for draw in draws]))
    unknown = replace(command, detail={**command.detail, "unknown": True})
    kept = _keep(unknown, command.actual, drawn, bytes(len(drawn.units)))
    return "reconcile", keys.verb(command.id, drawn.keys), (*args, kept, windows, drawn.names)


def _refund(keys: Keys, command: Refund, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = keys.named(_own(command.known) if pools is None else pools)
    args = (command.id, _NUMBERS[2].pack(at, swept), blob(command.detail), _NOTHING_KEPT)
    return "refund", keys.verb(command.id, names), args


def _record(keys: Keys, command: Record, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    draws = booked(command.draws)
    drawn = keys.drawn(draws)
    windows = chain.from_iterable([draw[5:8] for draw in draws])
    numbers = _NUMBERS[3 + 3 * len(draws)].pack(at, command.version, swept, *windows)
    kept = _keep(command, command.actual, drawn, bytes(len(drawn.units)))
    args = (command.id, numbers, _amounts(command.actual), kept, drawn.names)
    return "record", keys.verb(command.id, drawn.keys), args


def _renew(keys: Keys, command: Renew, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = [keys.marker, keys.leases, keys.reservation + command.id]
    return "renew", names, [command.id, _NUMBERS[3].pack(at, swept, command.lease_us)]


def _status(keys: Keys, command: Status | Sweep, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = command.pools if type(command) is Status else ()
    head = _NUMBERS[2].pack(at, swept)
    return "status", [keys.marker, keys.leases, *keys.named(names)], [head]


def _load(keys: Keys, command: LoadPolicy, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    return "policy", [keys.marker, keys.policy], [_NUMBERS[1].pack(at)]


def _change(keys: Keys, command: ChangePolicy, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    kind = _CODES[POLICY_KINDS[command.kind, command.body is not None]]
    return "change", [keys.marker, keys.leases, keys.ledger, keys.policy], (
        f"{command.kind}\n{command.identity}", _NUMBERS[3].pack(at, swept, command.body is None), command.body or "",
        kind, blob(command.detail),
    )  # fmt: skip


def _keep(
    command: Any, amounts: Amounts, drawn: _Pools, taken: bytes, parent: str | None = None
) -> bytes:
    """Write what a store keeps of a request. The scripts copy it as it is; its digest stands for it in the chain."""
    digest = getattr(command, "digest", "").encode()
    body = dumps((command.scope, command.detail, parent)).encode()
    count = len(drawn.keys)
    widths = _WIDTHS.pack(count, len(drawn.ids), len(digest))
    return _sealed(b"".join((_amounts(amounts), widths, drawn.units, taken, drawn.ids, digest, body)))


def _sealed(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest() + content


def _own(known: Reservation | None) -> list[str]:
    return [share.pool for share in known.shares] if known is not None else []


def _amounts(amounts: Amounts) -> bytes:
    if None in amounts:
        amounts = tuple([-1 if amount is None else amount for amount in amounts])  # type: ignore[assignment]
    return _FIVE.pack(*amounts)


def blob(value: object) -> bytes:
    """Write JSON after its digest, which stands for it in the chain of the ledger."""
    return _sealed(dumps(value).encode())


# Replies to outcomes.


def _decode_reserve(command: Reserve, reply: Sequence[Any]) -> Outcome:
    status, now, version = reply[0].decode(), reply[1], reply[2]
    if status not in ("reserved", "refused"):
        known = read_record(command.id, reply[3]) if len(reply) > 3 else None
        return Outcome(status, now, version, reservation=known)
    draws, buckets = command.draws, _buckets(reply[3])
    order: Sequence[int] = range(len(draws))
    if any(draw[0] is None for draw in draws):  # caps, which the server was told after the pools
        order = sorted(order, key=lambda i: draws[i].pool is None)
        buckets = [bucket for _, bucket in sorted(zip(order, buckets, strict=True))]
    if status == "refused":
        refused = sorted(order[i - 1] for i in reply[4])
        for i, draw in enumerate(draws):
            if i not in refused:
                buckets[i] = buckets[i].at(buckets[i].spent, buckets[i].reserved - draw.amount)
        return Outcome(status, now, version, buckets, refused)
    taken = [
        Share(draw[0], draw[2], bucket[0], draw[4])
        for draw, bucket in zip(draws, buckets, strict=True)
        if draw[0] is not None
    ]
    made = Reservation(
        command.id, command.digest, "open", command.amounts, tuple(taken), command.lease_us, now + command.lease_us, now,
        scope=command.scope, detail=command.detail, parent=command.parent,
    )  # fmt: skip
    return Outcome(status, now, version, buckets, reservation=made)


def _decode_end(command: Reconcile | Refund | Record, reply: Sequence[Any]) -> Outcome:
    status, now, version = reply[0].decode(), reply[1], reply[2]
    if len(reply) == 3:
        return Outcome(status, now, version)
    if len(reply) == 4:
        return Outcome(status, now, version, reservation=read_record(command.id, reply[3]))
    status, record, known = _ENDS[type(command)], reply[4], getattr(command, "known", None)
    buckets = _buckets(reply[3])
    if known is not None and known.made == _RECORD.unpack_from(record)[3]:
        reservation = known.ended_as(status, now, read_amounts(record[_CHARGED]))
    else:
        reservation = read_record(command.id, record)
    return Outcome(status, now, version, buckets, reservation=reservation)


def _decode_renew(command: Renew, reply: Sequence[Any]) -> Outcome:
    known = read_record(command.id, reply[3]) if len(reply) > 3 else None
    status = "ended" if reply[0] == b"left" else reply[0].decode()
    return Outcome(status, reply[1], reply[2], reservation=known)


def _decode_status(command: Status | Sweep, reply: Sequence[Any]) -> Outcome:
    buckets = [read_bucket(value) if value else None for value in reply[3:]]
    return Outcome("status", reply[1], reply[2], buckets)


def _decode_load(command: LoadPolicy, reply: Sequence[Any]) -> Outcome:
    texts = [text.decode() for text in reply[3]]
    names = [name.partition("\n") for name in texts[::2]]
    rows = sorted((kind, identity, body) for (kind, _, identity), body in zip(names, texts[1::2], strict=True))
    return Outcome("policy", reply[1], reply[2], rows=rows)


def _decode_change(command: ChangePolicy, reply: Sequence[Any]) -> Outcome:
    return Outcome(reply[0].decode(), reply[1], reply[2])


def read_bucket(value: bytes) -> Bucket:
    """Read a pool's value."""
    return Bucket._make(map(int, _BUCKET.unpack(value)))


def _buckets(packed: bytes) -> list[Bucket]:
    return [Bucket._make(map(int, five)) for five in _BUCKET.iter_unpack(packed)]


def read_record(id: str, record: bytes) -> Reservation:
    """Read a reservation as a script stored it."""
    state, *times, width, charged = _RECORD.unpack_from(record)
    lease, lease_end, made, ended = map(int, times)
    starts, kept = record[_RECORD.size : _RECORD.size + width], record[_RECORD.size + width :]
    amounts, digest, scope, detail, parent = read_kept(kept)
    return Reservation(
        id, digest, _STATES[state], amounts, shares(starts, kept), lease, lease_end, made, ended,
        None if state == b"o" else read_amounts(charged), scope, detail, parent,
    )  # fmt: skip


def read_kept(kept: bytes) -> tuple[Amounts, str, dict[str, str], dict[str, Any], str | None]:
    """Read what was kept of a request: amounts, digest, scope, detail, parent."""
    count, width, length = _WIDTHS.unpack_from(kept, _KEPT)
    digest = _KEPT + _WIDTHS.size + 16 * count + width
    scope, detail, parent = json.loads(kept[digest + length :])
    return read_amounts(kept[16:_KEPT]), kept[digest : digest + length].decode(), scope, detail, parent


def shares(starts: bytes, kept: bytes) -> tuple[Share, ...]:
    """Read what a request took from which buckets (at 0 if it took nothing)."""
    count, width, _ = _WIDTHS.unpack_from(kept, _KEPT)
    numbers = list(map(int, _NUMBERS[2 * count].unpack_from(kept, _KEPT + _WIDTHS.size)))
    ids = _KEPT + _WIDTHS.size + 16 * count
    names = kept[ids : ids + width].decode().split("\n")
    places = map(int, _NUMBERS[count].unpack(starts)) if starts else (0,) * count
    return tuple(map(Share, names, numbers[:count], places, numbers[count:]))


def read_amounts(packed: bytes) -> Amounts:
    """Read five figures; what was not said is None."""
    figures = _FIVE.unpack(packed)
    return tuple([None if figure < 0 else figure for figure in figures]) if min(figures) < 0 else figures  # type: ignore[return-value]


def _shares_of(record: bytes) -> tuple[Share, ...]:
    kept = _RECORD.size + _RECORD.unpack_from(record)[5]
    return shares(record[_RECORD.size : kept], record[kept:])


def _pools_of(record: bytes) -> list[str]:
    return [share.pool for share in _shares_of(record)]


def _load_scripts() -> dict[str, tuple[str, str]]:
    folder = files("budget.stores") / "lua"

    def read(name: str) -> str:
        return (folder / f"{name}.lua").read_text("utf-8")

    parts = {"policy": ["prelude"], "status": ["prelude"], "snapshot": [], "change": ["prelude"], "renew": ["prelude", "records"]}
    parts |= {"reserve": ["prelude", "records"]}
    found = {}
    for verb in ("reserve", "reconcile", "refund", "record", "renew", "expire", "status", "policy", "change", "snapshot"):
        flags, _, body = read(verb).partition("\n")
        text = "\n".join([flags, *map(read, parts.get(verb, ["prelude", "records", "ends"])), body])
        found[verb] = (text, hashlib.sha1(text.encode()).hexdigest())
    return found


_SCRIPTS = _load_scripts()
_EXPIRED = blob({"estimated": True})
_NOTHING_KEPT = _sealed(bytes(_FIVE.size + _WIDTHS.size) + b"[{},{},null]")
_ENDS = {Reconcile: "reconciled", Refund: "refunded", Record: "recorded"}
_VERBS: dict[type, tuple[Callable[..., Encoded], Callable[..., Outcome]]] = {
    Reserve: (_reserve, _decode_reserve),
    Reconcile: (_reconcile, _decode_end),
    Refund: (_refund, _decode_end),
    Record: (_record, _decode_end),
    Renew: (_renew, _decode_renew),
    Sweep: (_status, _decode_status),
    Status: (_status, _decode_status),
    LoadPolicy: (_load, _decode_load),
    ChangePolicy: (_change, _decode_change),
}
