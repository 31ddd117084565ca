"""Versions of this package that share a server: what the first format wrote is read and goes on; its scripts, and those
of a later one, do nothing to an account that they do not understand. And the epoch, which tells accounts apart.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import hiredis
import pytest
import redis
from conftest import books

from budget.commands import (
    Bucket,
    ChangePolicy,
    Draw,
    LoadPolicy,
    Outcome,
    Rebuild,
    Reconcile,
    Record,
    Refund,
    Reservation,
    Reserve,
    Status,
)
from budget.errors import StoreUnavailable
from budget.ledger import dumps
from budget.stores.kept import read_record
from budget.stores.keys import EPOCHS, Keys
from budget.stores.multiplex import ServerError
from budget.stores.packed import read_marker, seal
from budget.stores.redis import RedisStore
from budget.stores.requests import PORTION
from budget.stores.scripts import flow
from budget.window import FOREVER

S = 1_000_000
AMOUNTS = (5, 7, 7, 0, 1)
DRAWS = [
    Draw("p", "name p", 0, 100, 5, 0, FOREVER, 0, "limit p"),
    Draw("q", "name q", 4, 100, 1, 0, 2**52, 0, "limit q"),
]
KEYS = Keys("default")
BUCKET = Bucket(0, FOREVER, 0, 1, 1)
_MARKER = struct.Struct("<8d40s")


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as made:
        yield made


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    made = RedisStore(redis_url)
    yield made
    made.close()


def a_reserve(n: int, **changes: Any) -> Reserve:
    return replace(Reserve(f"{n:032x}", "d", AMOUNTS, DRAWS, 0, 600 * S, {"user": "u"}, {}), **changes)


def call(store: RedisStore, command: Any) -> Outcome:
    return store.call("default", command, 10.0)


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    return {key: client.dump(key) for key in client.scan_iter()}


def first_record(known: Reservation) -> bytes:
    """A reservation as the first format had it."""
    shares = known.shares
    units, taken, starts = (struct.pack(f"<{len(shares)}d", *[share[i] for share in shares]) for i in (1, 3, 2))
    ids = "\n".join([share.pool for share in shares]).encode()
    body = dumps((known.scope, known.detail, known.parent)).encode()
    widths = struct.pack("<3H", len(shares), len(ids), len(known.digest))
    kept = struct.pack("<5q", *known.amounts) + widths + units + taken + ids + known.digest.encode() + body
    head = struct.pack("<cddddH40x", b"o", known.lease_us, known.lease_end, known.made, 0, len(starts))
    return head + starts + seal(kept)


def to_first_format(client: redis.Redis) -> None:
    """Write an account as the first format had it: marker, pools, open reservations and entries."""
    for key in client.scan_iter(KEYS.reservation + "*"):
        known = read_record(key.decode().removeprefix(KEYS.reservation), client.get(key))
        if known.state == "open":
            client.set(key, first_record(known))
    _, _, clock, due, _, version, seq, _, _ = _MARKER.unpack(client.get(KEYS.marker))
    for key in client.scan_iter(KEYS.pool + "*"):
        client.set(key, client.get(key)[:40])
    for place, value in client.hgetall(KEYS.closed).items():
        client.hset(KEYS.closed, place, value[:40])
    head, entries = b"0" * 40, client.xrange(KEYS.ledger)
    client.delete(KEYS.ledger)
    for id, fields in entries:
        if b"e" in fields:
            head = fields[b"h"]
            client.xadd(KEYS.ledger, fields, id)
            continue
        packed = fields[b"E"]
        kind, at, *widths = struct.unpack_from("<cdBHBHI", packed)
        body = packed[struct.calcsize("<cdBHBHI") :]
        first, detail = sum(widths[:4]), widths[4]
        own = struct.pack("<cdBBBHI", kind, at, *widths) + body[:first]
        more, kept = body[first : first + detail], body[first + detail :]
        number = id.partition(b"-")[0]
        head = hashlib.sha1(head + number + b"\n" + own + kept[:16] + more[:16]).hexdigest().encode()
        client.xadd(KEYS.ledger, {"e": own + more + kept, "h": head}, id)
    client.set(KEYS.marker, struct.pack("<4d40s", version, seq, clock, due, head))


def test_an_account_of_the_first_format_goes_on(store: RedisStore, client: redis.Redis) -> None:
    for n in range(3):
        assert call(store, a_reserve(n)).status == "reserved"
    call(store, Reconcile(f"{0:032x}", (3, 7, 7, 0, 1), {}))
    call(store, ChangePolicy("freeze", "x", "{}", {}))
    shares = [known.shares for known in store.reservations("default")]
    to_first_format(client)
    store.close()
    again = RedisStore(store.url)
    try:
        assert len(client.get(KEYS.marker)) == 72
        status = call(again, Status(["p", "q"]))
        assert [b and (b.spent, b.reserved) for b in status.buckets] == [(3, 10), (1, 2)]
        assert (status.version, status.seq) == (1, 5)
        assert len(client.get(KEYS.marker)) == 72  # a look writes nothing
        assert books(again).faults == []
        assert [known.shares for known in again.reservations("default")] == shares
        assert call(again, a_reserve(3, version=1)).status == "reserved"
        assert call(again, Refund(f"{3:032x}")).status == "refunded"
        assert len(client.get(KEYS.marker)) == 104
        assert call(again, a_reserve(1)).status == "repeated"
        assert call(again, Refund(f"{1:032x}")).status == "refunded"
        assert read_marker(client.get(KEYS.marker)).epoch > 0
        assert call(again, a_reserve(4, version=1)).status == "reserved"
        assert call(again, a_reserve(5, version=1)).seq == 10
        buckets = again.snapshot("default").buckets
        assert [buckets[pool, 0][3:] for pool in ("p", "q")] == [(3, 15, 0, 0), (1, 3, 0, 0)]
        assert books(again).faults == []
    finally:
        again.close()


def test_so_do_its_windows(store: RedisStore, client: redis.Redis) -> None:
    def window(n: int) -> list[Draw]:
        return [Draw("w", "name w", 0, 100, 5, 100 * S * n, 100 * S * (n + 1), 0, "limit w", rollover=50)]

    def do(at: int, command: Any) -> str:
        return store.call("default", command, 10.0, at * S).status

    assert do(10, a_reserve(1, draws=window(0))) == "reserved"
    assert do(110, a_reserve(2, draws=window(1))) == "reserved"
    to_first_format(client)
    assert do(120, Reconcile(f"{1:032x}", AMOUNTS, {})) == "reconciled"
    assert do(121, Record(f"{3:032x}", "d", AMOUNTS, window(1), 0, {}, {})) == "recorded"
    assert do(122, Reconcile(f"{4:032x}", AMOUNTS, {}, window(0), {}, 50 * S)) == "reconciled"
    to_first_format(client)
    assert do(130, Reconcile(f"{5:032x}", AMOUNTS, {}, window(0), {}, 50 * S)) == "reconciled"
    to_first_format(client)
    assert do(210, Record(f"{6:032x}", "d", AMOUNTS, window(2), 0, {}, {})) == "recorded"
    found = {start: bucket[3:6] for (_, start), bucket in store.snapshot("default").buckets.items()}
    assert found == {0: (15, 0, 0), 100 * S: (5, 5, 0), 200 * S: (5, 0, 50)}
    assert books(store).faults == []


def test_what_an_open_reservation_takes(store: RedisStore, client: redis.Redis) -> None:
    """Units, what was taken, ids and digest are written in as few bytes as they need."""
    draws = [Draw("GUTVX6KekmIpH9J2"[n:] + "abcdefgh"[:n], f"n{n}", 0, 100, 5, 0, FOREVER, 0, "l") for n in range(8)]
    assert call(store, a_reserve(1, draws=draws, digest="0123456789abcdef" * 2)).status == "reserved"
    assert client.strlen(KEYS.reservation + f"{1:032x}") <= 310
    assert call(store, Refund(f"{1:032x}")).status == "refunded"
    assert [(bucket.spent, bucket.reserved) for bucket in store.snapshot("default").buckets.values()] == [(0, 0)] * 8
    uneven = [draw._replace(amount=n) for n, draw in enumerate(draws)]
    assert call(store, a_reserve(2, draws=uneven)).status == "reserved"
    assert [share.amount for share in store.reservations("default")[0].shares] == list(range(8))
    assert call(store, Reconcile(f"{2:032x}", AMOUNTS, {})).status == "reconciled"
    assert [(bucket.spent, bucket.reserved) for bucket in store.snapshot("default").buckets.values()] == [(5, 0)] * 8
    assert books(store).faults == []


@pytest.mark.parametrize("pools", [1, 2, 3, 7, 8, 9, 24, 25, 32])
@pytest.mark.parametrize("starts", [1, 2, 4, 5])
@pytest.mark.parametrize("amounts", [AMOUNTS, (2**52, 2**32, 2**31, 7, 300)], ids=["small", "large"])
def test_whatever_is_drawn_on_is_read_as_it_was(pools: int, starts: int, amounts: Any, store: RedisStore) -> None:
    """Where windows start, units and amounts are written in as few bytes as these need."""
    draws = [
        Draw(f"pool{n}", f"n{n}", n % starts % 2, 2**53 - 1, amounts[n % starts % 2], n % starts * S, FOREVER, 0, "l")
        for n in range(pools)
    ]
    outcome = call(store, a_reserve(1, draws=draws, amounts=amounts))
    assert outcome.status == "reserved"
    (known,) = store.reservations("default")
    assert known == outcome.reservation
    assert [share[1:] for share in known.shares] == [(draw.unit, draw.start, draw.amount) for draw in draws]
    actual = (amounts[0] // 2, None, None, None, None)
    ended = call(store, Reconcile(known.id, actual, {}, known=known)).reservation
    assert ended.charged == (actual[0], *amounts[1:])
    assert ended.shares == known.shares
    found = [bucket for _, bucket in sorted(store.snapshot("default").buckets.items())]
    assert sorted((b.start, b.spent, b.reserved) for b in found) == sorted(
        (draw.start, ended.charged[draw.unit], 0) for draw in draws
    )
    assert call(store, Reconcile(known.id, actual, {})).status == "repeated"
    assert books(store).faults == []


def test_scripts_of_the_first_format_find_no_number_where_theirs_were(store: RedisStore, client: redis.Redis) -> None:
    """They compare the policy's version, and count on from the sequence, before they write."""
    call(store, a_reserve(1))
    script = """local version, seq = struct.unpack('<dd', redis.call('GET', KEYS[1]))
        return { tostring(version == 0 or version == 1 or version == version), string.format('%d', seq + 1) }"""
    same, number = client.eval(script, 1, KEYS.marker)
    assert same == b"false"
    with pytest.raises(redis.ResponseError, match="Invalid stream ID"):
        client.xadd(KEYS.ledger, {"e": "x"}, number + b"-0")


@pytest.mark.parametrize(
    "command",
    [
        a_reserve(2), Reconcile(f"{1:032x}", AMOUNTS, {}), Refund(f"{1:032x}"), Status(["p"]), LoadPolicy(),
        Record("7" * 32, "d", AMOUNTS, DRAWS, 0, {}, {}), ChangePolicy("freeze", "x", "{}", {}),
        Rebuild(1, {("p", 0): BUCKET}),
        Record("7" * 32, "d", AMOUNTS, DRAWS, 0, {}, {}, of=f"{1:032x}"),
    ],
    ids=lambda command: type(command).__name__,
)  # fmt: skip
def test_an_account_of_a_later_format_is_left_alone(command: Any, store: RedisStore, client: redis.Redis) -> None:
    call(store, a_reserve(1))
    marker = client.get(KEYS.marker)
    later = marker[:32] + struct.pack("<d", 3) + b"what it has then, which nobody knows".ljust(80)
    client.set(KEYS.marker, later)
    before = everything(client)
    with pytest.raises(StoreUnavailable, match="newer version of this package"):
        call(store, command)
    assert everything(client) == before


def drive(client: redis.Redis, keys: Keys, command: Any) -> Outcome:
    """Carry out a command as a process that has seen what `keys` remember."""
    steps = flow(keys, command, None)
    data = next(steps)
    reader = hiredis.Reader()
    while True:
        reader.feed(data)
        try:
            reply = client.execute_command(*reader.gets(), NEVER_DECODE=True)
        except redis.exceptions.NoScriptError as error:
            reply = ServerError(f"NOSCRIPT {error}")
        try:
            data = steps.send(reply)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


def seen(keys: Keys) -> tuple[int, int]:
    return keys.seen.epoch, keys.seen.seq


def test_a_process_remembers_the_last_entry_that_it_was_told_of(client: redis.Redis) -> None:
    keys, other = Keys("default"), Keys("default")
    assert seen(keys) == (0, 0)
    assert drive(client, keys, a_reserve(1)).seq == 1
    epoch = read_marker(client.get(keys.marker)).epoch
    assert 0 < epoch < EPOCHS
    assert seen(keys) == (epoch, 1)
    assert drive(client, other, a_reserve(2)).seq == 2
    assert seen(keys) == (epoch, 1)
    drive(client, keys, Status(["p"]))
    assert seen(keys) == (epoch, 2)
    assert keys.seen.last.head == read_marker(client.get(keys.marker)).head


def test_who_has_seen_more_than_there_is_gets_nothing_from_it(client: redis.Redis) -> None:
    """A server that lost its last entries, and one that lost all and counts anew."""
    keys = Keys("default")
    drive(client, keys, a_reserve(1))
    lost = everything(client)
    drive(client, keys, a_reserve(2))
    for state in (lost, {}):
        client.flushall()
        for key, value in state.items():
            client.restore(key, 0, value)
        before = everything(client)
        outcome = drive(client, keys, a_reserve(3))
        assert (outcome.status, outcome.seq) == ("rewound", 1 if state else 0)
        assert everything(client) == before
    for n in range(4, 8):  # others, who have seen nothing, write past it
        assert drive(client, Keys("default"), a_reserve(n)).status == "reserved"
    assert drive(client, keys, a_reserve(9)).status == "rewound"
    assert drive(client, keys, Refund(f"{4:032x}")).status == "refunded"  # what has happened is booked all the same
    assert drive(client, keys, a_reserve(9)).status == "rewound"


def test_an_operator_declares_an_account_whole(client: redis.Redis) -> None:
    """After that nobody is kept away, also nobody who has seen more; after a second loss they are, again."""
    keys, idle, late = Keys("default"), Keys("default"), Keys("default")
    for n in range(1, 5):
        for each in (keys, idle):
            drive(client, each, a_reserve(10 * n + (each is idle)))
    client.flushall()
    assert drive(client, keys, a_reserve(1)).status == "rewound"
    assert drive(client, keys, ChangePolicy("fence", "lost", "{}", {})).status == "changed"
    assert drive(client, keys, ChangePolicy("fence", "lost", None, {})).status == "changed"
    epoch = read_marker(client.get(keys.marker)).epoch
    assert epoch // EPOCHS == 1
    for each in (keys, idle, late):
        assert drive(client, each, a_reserve(100 + id(each) % 1000, version=2)).status == "reserved"
        assert each.seen.epoch == epoch
    client.flushall()
    assert drive(client, Keys("default"), a_reserve(1)).status == "reserved"
    assert drive(client, keys, a_reserve(2)).status == "rewound"


def test_a_rebuild_goes_in_portions(store: RedisStore) -> None:
    """Each with an entry of its own; one that finds the account moved ends it."""
    many = {(f"pool{n:04}", 0): Bucket(0, FOREVER, 0, n, n % 7) for n in range(2 * PORTION + 10)}
    names = {pool: f"name of {pool}" for pool, _ in many}
    outcome = call(store, Rebuild(0, many, names))
    assert (outcome.status, outcome.seq) == ("rebuilt", 3)
    found = store.snapshot("default")
    assert found.buckets == many
    assert found.names == names
    entries = list(store.entries("default", 0))
    assert [(entry.kind, len(entry.postings)) for entry in entries] == [("rebuilt", PORTION)] * 2 + [("rebuilt", 10)]
    postings = {(p.pool, p.start): (p.spent, p.reserved) for entry in entries for p in entry.postings}
    assert postings == {key: (bucket.spent, bucket.reserved) for key, bucket in many.items()}
    assert call(store, Rebuild(2, many, names)).status == "moved"
    assert store.last("default") == 3


def test_a_rolling_pool_of_many_parts_is_rebuilt(store: RedisStore) -> None:
    """More of them than a portion holds."""
    span, size = 600 * S, 10 * S
    parts = {("p", n * size): Bucket(n * size, (n + 1) * size, 0, n, 1, 0, span) for n in range(PORTION + 40)}
    assert call(store, Rebuild(0, parts, {"p": '["p","600s rolling"]'})).status == "rebuilt"
    assert store.snapshot("default").buckets == parts
