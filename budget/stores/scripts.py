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
from collections.abc import Callable, Generator, Sequence
from importlib.resources import files
from itertools import chain
from struct import Struct
from typing import Any

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

__all__ = ["Keys", "Steps", "blob", "flow", "read_amounts", "read_record", "read_shares", "request", "run_script"]

Steps = Generator[bytes, Any, Any]
_NUMBERS = [Struct(f"<{n}q") for n in range(256)]
_BUCKET = Struct("<5q")
_CACHED = 4096
_RECORD = Struct("<cqqqq40s40sHH")
_CHARGED = slice(73, 113)
_STATES = {b"o": "open", b"r": "reconciled", b"f": "refunded", b"x": "expired"}


class Keys:
    """The keys of an account, and its ledger's place."""

    def __init__(self, account: str):
        self.prefix = prefix = f"budget:{{{account}}}:"
        self.marker, self.leases, self.ledger = f"{prefix}m", f"{prefix}l", f"{prefix}j"
        self.refusals, self.closed, self.names = f"{prefix}x", f"{prefix}c", f"{prefix}n"
        self.policy, self.pool, self.reservation = f"{prefix}y", f"{prefix}p:", f"{prefix}r:"
        self._base = (self.marker, self.leases, self.ledger, self.refusals, self.closed, self.names)
        self._pools: dict[tuple[str, ...], tuple[str, ...]] = {}

    def verb(self, id: str, pools: Sequence[str]) -> tuple[str, ...]:
        """The keys of a verb on a reservation and its pools."""
        known = self._pools.get(ids := tuple(pools))
        if known is None:
            if len(self._pools) >= _CACHED:
                self._pools.clear()
            known = self._pools[ids] = tuple([self.pool + each for each in ids])
        return (*self._base, self.reservation + id, *known)


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
        if isinstance(record, bytes):
            args = [id, _NUMBERS[1].pack(at), _EXPIRED]
            reply = yield from run_script("expire", keys.verb(id, _pools_of(record)), args)
            count += reply[0] == b"expired"
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
    draws = pooled = command.draws
    ids = [draw[0] for draw in draws]
    if None in ids:  # caps, which have no key and come last
        pooled = [draw for draw in draws if draw[0] is not None]
        draws = pooled + [draw for draw in draws if draw[0] is None]
        ids = [draw[0] for draw in pooled]
    many = len(draws)
    pack = _NUMBERS[many].pack
    amounts = pack(*[draw[4] for draw in draws])
    head = _NUMBERS[6].pack(at, command.version, command.lease_us, swept, len(ids), many)
    windows = _NUMBERS[3 * many].pack(*chain.from_iterable([draw[5:8] for draw in draws]))
    taken = _NUMBERS[len(ids)].pack(*[draw[2] for draw in pooled]) + amounts[: 8 * len(ids)]
    texts = [command.frozen or "", *[draw[8] for draw in draws]]
    return "reserve", keys.verb(command.id, ids), [  # type: ignore[arg-type]
        command.id, head, pack(*[draw[3] for draw in draws]) + amounts, windows, taken, "\n".join(ids),  # type: ignore[arg-type]
        _amounts(command.amounts), command.digest, blob([command.scope, command.detail, command.parent]),
        "\n".join([draw[1] for draw in pooled]), "\n".join(texts),
    ]  # fmt: skip


def _reconcile(keys: Keys, command: Reconcile, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    book = command.draws is not None and pools is None
    args = [command.id, _NUMBERS[4].pack(at, swept, book, command.made), _amounts(command.actual), blob(command.detail)]
    if not book:
        return "reconcile", keys.verb(command.id, _own(command.known) if pools is None else pools), args
    draws = booked(command.draws or ())
    ids, taken, names = _booking(draws)
    body = blob([command.scope, {**command.detail, "unknown": True}, None])
    args += [_pack([draw[5:7] for draw in draws]), taken, "\n".join(ids), body, names]
    return "reconcile", keys.verb(command.id, ids), args


def _refund(keys: Keys, command: Refund, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    args = [command.id, _NUMBERS[2].pack(at, swept), blob(command.detail)]
    return "refund", keys.verb(command.id, _own(command.known) if pools is None else pools), args


def _record(keys: Keys, command: Record, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    draws = booked(command.draws)
    ids, taken, names = _booking(draws)
    return "record", keys.verb(command.id, ids), [
        command.id, _NUMBERS[3].pack(at, command.version, swept), _amounts(command.actual),
        _pack([draw[5:8] for draw in draws]), taken, "\n".join(ids), command.digest,
        blob([command.scope, command.detail, None]), names,
    ]  # fmt: skip


def _renew(keys: Keys, command: Renew, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = [keys.marker, keys.leases, keys.reservation + command.id]
    return "renew", names, [command.id, _NUMBERS[3].pack(at, swept, command.lease_us)]


def _status(keys: Keys, command: Status | Sweep, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    names = command.pools if type(command) is Status else ()
    head = _NUMBERS[2].pack(at, swept)
    return "status", [keys.marker, keys.leases, *[keys.pool + each for each in names]], [head]


def _load(keys: Keys, command: LoadPolicy, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    return "policy", [keys.marker, keys.policy], [_NUMBERS[1].pack(at)]


def _change(keys: Keys, command: ChangePolicy, at: int, swept: int, pools: Sequence[str] | None) -> Encoded:
    kind = POLICY_KINDS[command.kind, command.body is not None]
    return "change", [keys.marker, keys.leases, keys.ledger, keys.policy], [
        f"{command.kind}\n{command.identity}", _NUMBERS[3].pack(at, swept, command.body is None), command.body or "",
        kind, blob([{}, command.detail, None]),
    ]  # fmt: skip


def _booking(draws: Sequence[Draw]) -> tuple[list[str], bytes, str]:
    """Return the pools of draws that nothing was reserved for: ids, units and amounts packed, names."""
    units = [draw.unit for draw in draws]
    ids: list[str] = [draw.pool for draw in draws]  # type: ignore[misc]
    return ids, _NUMBERS[2 * len(units)].pack(*units, *[0] * len(units)), "\n".join([draw.name for draw in draws])


def _own(known: Reservation | None) -> list[str]:
    return [share.pool for share in known.shares] if known is not None else []


def _pack(rows: Sequence[Sequence[int]]) -> bytes:
    numbers = list(chain.from_iterable(rows))
    return _NUMBERS[len(numbers)].pack(*numbers)


def _amounts(amounts: Amounts) -> bytes:
    if None in amounts:
        amounts = tuple([-1 if amount is None else amount for amount in amounts])  # type: ignore[assignment]
    return _BUCKET.pack(*amounts)


def blob(value: object) -> bytes:
    """Write JSON after its digest, which stands for it in the chain of the ledger."""
    text = dumps(value).encode()
    return hashlib.blake2b(text, digest_size=16).digest() + text


# Replies to outcomes.


def _decode_reserve(command: Reserve, reply: Sequence[Any]) -> Outcome:
    status, now, version = reply[0].decode(), reply[1], reply[2]
    if status not in ("reserved", "refused"):
        known = read_record(command.id, reply[3]) if len(reply) > 3 else None
        return Outcome(status, now, version, reservation=known)
    draws, buckets = command.draws, list(map(Bucket._make, _BUCKET.iter_unpack(reply[3])))
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
    buckets = list(map(Bucket._make, _BUCKET.iter_unpack(reply[3]))) if len(reply) == 5 else ()
    record, known = reply[-1], getattr(command, "known", None)
    if known is not None and len(reply) == 5 and known.made == _RECORD.unpack_from(record)[3]:
        reservation = known.ended_as(status, now, read_amounts(record[_CHARGED]))
    else:
        reservation = read_record(command.id, record)
    return Outcome(status, now, version, buckets, reservation=reservation)


def _decode_renew(command: Renew, reply: Sequence[Any]) -> Outcome:
    known = read_record(command.id, reply[3]) if len(reply) > 3 else None
    return Outcome(reply[0].decode(), reply[1], reply[2], reservation=known)


def _decode_status(command: Status | Sweep, reply: Sequence[Any]) -> Outcome:
    buckets = [Bucket._make(_BUCKET.unpack(value)) if value else None for value in reply[3:]]
    return Outcome("status", reply[1], reply[2], buckets)


def _decode_load(command: LoadPolicy, reply: Sequence[Any]) -> Outcome:
    texts = [text.decode() for text in reply[3]]
    names = [name.partition("\n") for name in texts[::2]]
    rows = sorted((kind, identity, body) for (kind, _, identity), body in zip(names, texts[1::2], strict=True))
    return Outcome("policy", reply[1], reply[2], rows=rows)


def _decode_change(command: ChangePolicy, reply: Sequence[Any]) -> Outcome:
    return Outcome(reply[0].decode(), reply[1], reply[2])


def read_record(id: str, record: bytes) -> Reservation:
    """Read a reservation as a script stored it."""
    state, lease, lease_end, made, ended_at, amounts, charged, width, length = _RECORD.unpack_from(record)
    shares = read_shares(record[_RECORD.size : _RECORD.size + width])
    digest_end = _RECORD.size + width + length
    body = record[digest_end:]
    scope, detail, parent = json.loads(body[16:]) if body else ({}, {}, None)
    return Reservation(
        id, record[_RECORD.size + width : digest_end].decode(), _STATES[state], read_amounts(amounts), shares, lease,
        lease_end, made, ended_at, None if state == b"o" else read_amounts(charged), scope, detail, parent,
    )  # fmt: skip


def read_shares(packed: bytes) -> tuple[Share, ...]:
    """Read what a reservation took from which buckets."""
    count = int.from_bytes(packed[:2], "little")
    numbers = _NUMBERS[3 * count].unpack_from(packed, 2)
    ids = packed[2 + 24 * count :].decode().split("\n")
    return tuple(map(Share, ids, numbers[count : 2 * count], numbers[:count], numbers[2 * count :]))


def read_amounts(packed: bytes) -> Amounts:
    """Read five figures; what was not said is None."""
    figures = _BUCKET.unpack(packed)
    return tuple([None if figure < 0 else figure for figure in figures]) if min(figures) < 0 else figures  # type: ignore[return-value]


def _shares_of(record: bytes) -> tuple[Share, ...]:
    width = _RECORD.unpack_from(record)[7]
    return read_shares(record[_RECORD.size : _RECORD.size + width])


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
