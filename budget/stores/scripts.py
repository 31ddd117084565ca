"""The verbs of a Redis store: from a command to its outcome, over requests and replies.

One file of `lua/` per verb, put together with the parts they share. `flow` yields requests and receives replies, so
that blocking and awaiting callers share it. Most commands are one request. A verb that finds leases that have ended
answers `due`, writes nothing, and is asked again after they were expired; an end whose caller did not know the
reservation's pools is asked again with the keys that the server names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from importlib.resources import files
from typing import Any

import hiredis

from budget.commands import (
    Bucket,
    ChangePolicy,
    Command,
    Draw,
    Learn,
    LoadPolicy,
    Outcome,
    Rebuild,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reservation,
    Reserve,
    Status,
    Sweep,
    new,
)
from budget.errors import StoreUnavailable
from budget.limits import CONCURRENT
from budget.pool import SWEEP, SWEEP_FOR_A_SLOT, takes_slot
from budget.stores.kept import Named, named_in, read_id, read_record
from budget.stores.keys import Encoded, Keys
from budget.stores.multiplex import ServerError
from budget.stores.packed import CHARGED, Buckets, Shares, read_amounts, read_bucket, read_counts, read_place
from budget.stores.requests import ENCODE, expiry, payment, rebuilding

__all__ = ["Steps", "flow", "request", "run_script"]

Steps = Generator[bytes, Any, Any]


def request(*words: str | bytes | int | float) -> bytes:
    """Write a command in the server's protocol."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
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
    at = -1 if now is None else now
    if type(command) is Rebuild:
        return (yield from _rebuild(keys, command, at))
    encode, decode = ENCODE[type(command)], _DECODE[type(command)]
    if type(command) is Record and command.of is not None:
        encode = payment
    pools: Named | None = None
    looks = type(command) is Status and not command.sweep
    swept = expired = seen = 0
    free: dict[str, int] = {}
    while True:
        script = encode(keys, command, at, swept, pools)
        reply = yield b"*%d\r\n%b%b" % (script[1] + 2, _BY_DIGEST[script[0]], script[2])
        if type(reply) is ServerError:
            reply = yield from _by_text(reply, script)
        status = reply[0]
        if status == b"due" and looks:
            swept, free = 1, (yield from _slots(keys, reply[1]))
        elif status == b"due":
            expired += yield from _expire(keys, reply[3:], at)
            seen += len(reply) - 3
            swept = int(seen % SWEEP > 0 or seen >= (SWEEP_FOR_A_SLOT if takes_slot(command) else SWEEP))
        elif status == b"pools":
            pools = named_in(reply[3])
        elif status == b"over":
            encode, pools = ENCODE[type(command)], None
        else:
            marker = reply[2]
            reply[2], seq, epoch = read_place(marker)
            outcome: Outcome = decode(command, reply)
            outcome.seq = seq
            if epoch:
                keys.seen.see(marker, seq, epoch)
            if type(command) is Sweep:
                outcome.status, outcome.count = "swept", expired
            if free and type(command) is Status:
                pairs = zip(command.pools, outcome.buckets, strict=True)
                outcome.buckets = [b and b.at(b.spent, b.reserved - free.get(pool, 0)) for pool, b in pairs]
            return outcome


def _rebuild(keys: Keys, command: Rebuild, at: int) -> Steps:
    """Set buckets in portions, each if nothing happened since the one before."""
    outcome = Outcome("rebuilt", 0, 0, seq=command.seq)
    for encoded in rebuilding(keys, command, at):
        status, now, marker = yield from run_script(encoded)
        version, seq, epoch = read_place(marker)
        outcome = Outcome(status.decode(), now, version, seq=seq)
        keys.seen.see(marker, seq, epoch)
        if status == b"moved":
            break
    return outcome


def run_script(script: Encoded) -> Steps:
    """Run a script by its digest, and return its reply.

    Raises:
        StoreUnavailable: The server answered with an error.
    """
    reply = yield b"*%d\r\n%b%b" % (script[1] + 2, _BY_DIGEST[script[0]], script[2])
    return (yield from _by_text(reply, script)) if type(reply) is ServerError else reply


def _by_text(reply: ServerError, script: Encoded) -> Steps:
    """Send the text to a server that does not have the script (any more)."""
    verb, count, words = script
    if str(reply).startswith("NOSCRIPT"):
        text = _SCRIPTS[verb][0].encode()
        reply = yield b"*%d\r\n$4\r\nEVAL\r\n$%d\r\n%b\r\n%b" % (count + 2, len(text), text, words)
    if type(reply) is not ServerError:
        return reply
    if str(reply).startswith("NEWER"):
        raise StoreUnavailable("the account was written by a newer version of this package: upgrade this process")
    raise StoreUnavailable(f"the server refused to {verb}: {str(reply).splitlines()[0][:200]}")


def _expire(keys: Keys, ids: Sequence[bytes], at: int) -> Steps:
    """Charge reservations whose lease has ended, and return how many were. Others may be at it: each ends once."""
    count = 0
    for lease in ids:
        id = read_id(lease)
        record = yield request("GET", keys.reservation + id)
        if record is None:  # the lease of nothing: a reserve that was refused half-way by a damaged account
            yield request("ZREM", keys.leases, lease)
        elif isinstance(record, bytes):
            reply = yield from run_script(expiry(keys, id, named_in(record), at))
            count += reply[0] == b"ended"
    return count


def _slots(keys: Keys, now: int) -> Steps:
    """Return the slots, by pool, that reservations would give back if those were expired that are due now."""
    free: dict[str, int] = {}
    ids = yield request("ZRANGEBYSCORE", keys.leases, "-inf", now, "LIMIT", 0, SWEEP_FOR_A_SLOT)
    records = (yield request("MGET", *[keys.reservation + read_id(id) for id in ids])) if ids else ()
    for record in records:
        for share in named_in(record).shares if isinstance(record, bytes) else ():
            if share.unit == CONCURRENT:
                free[share.pool] = free.get(share.pool, 0) + share.amount
    return free


# Replies to outcomes.


def _decode_reserve(command: Reserve, reply: Sequence[Any]) -> Outcome:
    status, now, version = reply[0].decode(), reply[1], reply[2]
    if status not in ("reserved", "refused"):
        known = read_record(command.id, reply[3]) if len(reply) > 3 else None
        return Outcome(status, now, version, reservation=known)
    draws = pooled = command.draws
    buckets: Sequence[Any] = Buckets(reply[3])
    if status == "refused":
        buckets, refused = _told(draws, buckets, reply[4])
        return Outcome(status, now, version, buckets, refused)
    ids: Any = tuple([draw[0] for draw in draws])
    if None in ids:
        buckets = _in_order(draws, buckets)
        pooled = [draw for draw in draws if draw[0] is not None]
        ids = tuple([draw[0] for draw in pooled])
    shares = Shares(ids, pooled, reply[5] or reply[3])  # the server answered pools first
    made = new(Reservation, (
        command.id, command.digest, "open", command.amounts, shares, command.lease_us, now + command.lease_us, now, 0,
        None, command.scope, command.detail, command.parent,
    ))  # fmt: skip
    shadowed = [i for i, told in enumerate(_in_order(draws, _marks(draws, reply[4]))) if told] if reply[4] else ()
    return Outcome(status, now, version, buckets, reservation=made, shadowed=shadowed)


def _marks(draws: Sequence[Draw], which: bytes) -> list[bool]:
    """Return of each draw, in the server's order, whether it is named: their numbers are bytes, from 1."""
    return [i in which for i in range(1, len(draws) + 1)]


def _in_order(draws: Sequence[Draw], told: Sequence[Any]) -> list[Any]:
    """Return what the server told of each draw, pools first and then caps, in the order of the draws."""
    order = sorted(range(len(draws)), key=lambda i: draws[i].pool is None)
    return [found for _, found in sorted(zip(order, told, strict=True))]


def _told(draws: Sequence[Draw], told: Sequence[Bucket], which: bytes) -> tuple[list[Bucket], list[int]]:
    """Return the buckets of a refusal, and which draws refuse. What does not was answered with the amount in it."""
    refuses = _in_order(draws, _marks(draws, which))
    pairs = zip(_in_order(draws, told), draws, refuses, strict=True)
    buckets = [bucket if no else bucket.at(bucket.spent, bucket.reserved - draw.amount) for bucket, draw, no in pairs]
    return buckets, [i for i, no in enumerate(refuses) if no]


def _decode_end(command: Reconcile | Refund | Record, reply: Sequence[Any]) -> Outcome:
    status, now, version = reply[0].decode(), reply[1], reply[2]
    if len(reply) == 3:
        return Outcome(status, now, version)
    if len(reply) == 4:
        return Outcome(status, now, version, reservation=read_record(command.id, reply[3]))
    record, known = reply[4], getattr(command, "known", None)
    status = command.kind if isinstance(command, Record) else _ENDS[type(command)]
    buckets = Buckets(reply[3])
    if known is not None and len(record) == CHARGED:
        reservation = known.ended_as(status, now, read_amounts(record))
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


def _decode_learn(command: Learn, reply: Sequence[Any]) -> Outcome:
    pairs = zip(reply[3::2], reply[4::2], strict=True)
    return Outcome("learned", reply[1], reply[2], learned={name.decode(): read_counts(value) for name, value in pairs})


def _decode_change(command: ChangePolicy, reply: Sequence[Any]) -> Outcome:
    return Outcome(reply[0].decode(), reply[1], reply[2])


def _load_scripts() -> dict[str, tuple[str, str]]:
    folder = files("budget.stores") / "lua"

    def read(name: str) -> str:
        return (folder / f"{name}.lua").read_text("utf-8")

    found = {}
    for verb, parts in _PARTS.items():
        flags, _, body = read(verb).partition("\n")
        text = "\n".join([flags, *map(read, parts), body])
        found[verb] = (text, hashlib.sha1(text.encode()).hexdigest())
    return found


_PARTS = {
    "reserve": ("prelude", "windows", "records", "same", "opening"),
    "reconcile": ("prelude", "windows", "records", "ends", "known"),
    "reconcile_or_book": ("prelude", "windows", "records", "opening", "ends", "book", "known"),
    "refund": ("prelude", "windows", "records", "ends"),
    "record": ("prelude", "windows", "records", "same", "opening", "ends", "book"),
    "expire": ("prelude", "windows", "records", "ends"),
    "renew": ("prelude", "records"),
    "pay": ("prelude", "windows", "records", "same", "ends"),
    "rebuild": ("prelude", "windows", "records"),
    "status": ("prelude", "windows"),
    "policy": ("prelude",),
    "change": ("prelude",),
    "learn": ("prelude",),
    "snapshot": (),
    "retire": (),
    "rename": (),
}
_SCRIPTS = _load_scripts()
_BY_DIGEST = {verb: b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest.encode() for verb, (_, digest) in _SCRIPTS.items()}
_ENDS: dict[type, str] = {Reconcile: "reconciled", Refund: "refunded"}
_DECODE: dict[type, Callable[..., Outcome]] = {
    Reserve: _decode_reserve,
    Reconcile: _decode_end,
    Refund: _decode_end,
    Record: _decode_end,
    Renew: _decode_renew,
    Sweep: _decode_status,
    Status: _decode_status,
    LoadPolicy: _decode_load,
    Learn: _decode_learn,
    ChangePolicy: _decode_change,
}
