"""The same id, again: repeats, late repeats, repeats in another order, and other arguments under the same id.

A table of messages to the store, on every store: what timeouts, broken connections and networks make of a caller's
messages is that some come twice, late, or in another order. The books must be as if each had come once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import pytest
from conftest import books
from hypothesis import given
from hypothesis import strategies as st

from budget.asks import Ask, digest
from budget.commands import (
    Amounts,
    ChangePolicy,
    Command,
    Draw,
    Outcome,
    Reconcile,
    Record,
    Refund,
    Renew,
    Reservation,
    Reserve,
)
from budget.pool import keep_until
from budget.stores.base import Store
from budget.window import FOREVER

ID, OTHER = "a" * 32, "b" * 32
SECOND = 1_000_000
START = 1_800_000_000 * SECOND
LEASE = 60 * SECOND
DRAW = Draw("pool-of-16-chars", '["usd","lifetime","enforce",[],null,null,null]', 0, 1000, 400, 0, FOREVER, 0, "$1e-6")

RESERVE = Reserve(ID, "d1" * 16, (400, None, None, None, 1), [DRAW], 0, LEASE, {"user": "alice"}, {})
RECONCILE = Reconcile(ID, (250, None, None, None, 1), {})
REFUND = Refund(ID)
RENEW = Renew(ID, LEASE)
RECORD = Record(ID, "d2" * 16, (250, None, None, None, 1), [DRAW], 0, {}, {})
OTHER_RESERVE = replace(RESERVE, digest="d3" * 16)
OTHER_RECONCILE = replace(RECONCILE, actual=(251, None, None, None, 1))
OTHER_RECORD = replace(RECORD, digest="d4" * 16)
BIG = replace(RESERVE, amounts=(2000, None, None, None, 1), draws=[DRAW._replace(amount=2000)])

# What comes in which order: (message, answer); then spent and reserved.
TABLE: dict[str, tuple[Sequence[tuple[Command, str]], tuple[int, int]]] = {
    "reserve twice": ([(RESERVE, "reserved"), (RESERVE, "repeated")], (0, 400)),
    "reserve with other arguments": ([(RESERVE, "reserved"), (OTHER_RESERVE, "conflict")], (0, 400)),
    "reserve after its reconcile": (
        [(RESERVE, "reserved"), (RECONCILE, "reconciled"), (RESERVE, "repeated"), (OTHER_RESERVE, "conflict")],
        (250, 0),
    ),
    "reserve after its refund": ([(RESERVE, "reserved"), (REFUND, "refunded"), (RESERVE, "repeated")], (0, 0)),
    "refund overtakes its reserve": ([(REFUND, "refunded"), (RESERVE, "conflict")], (0, 0)),
    "refused, and again": ([(BIG, "refused"), (BIG, "refused")], (0, 0)),
    "refused, and then decided anew": ([(BIG, "refused"), (RESERVE, "reserved"), (RESERVE, "repeated")], (0, 400)),
    "reconcile twice": (
        [(RESERVE, "reserved"), (RECONCILE, "reconciled"), (RECONCILE, "repeated")], (250, 0),
    ),
    "reconcile with other figures": (
        [(RESERVE, "reserved"), (RECONCILE, "reconciled"), (OTHER_RECONCILE, "conflict"), (RECONCILE, "repeated")],
        (250, 0),
    ),
    "refund twice": ([(RESERVE, "reserved"), (REFUND, "refunded"), (REFUND, "repeated")], (0, 0)),
    "refund after reconcile": (
        [(RESERVE, "reserved"), (RECONCILE, "reconciled"), (REFUND, "conflict")], (250, 0),
    ),
    "reconcile after refund": ([(RESERVE, "reserved"), (REFUND, "refunded"), (RECONCILE, "conflict")], (0, 0)),
    "reconcile that nobody knows": ([(RECONCILE, "unknown"), (RECONCILE, "unknown")], (0, 0)),
    "reconcile that is booked all the same": (
        [(RECONCILE, "unknown"), (replace(RECONCILE, draws=[DRAW], made=START), "reconciled"),
         (RECONCILE, "repeated"), (OTHER_RECONCILE, "conflict"), (RESERVE, "conflict")],
        (250, 0),
    ),
    "record twice": ([(RECORD, "recorded"), (RECORD, "repeated")], (250, 0)),
    "record with other arguments": ([(RECORD, "recorded"), (OTHER_RECORD, "conflict")], (250, 0)),
    "record under the id of a reserve": ([(RESERVE, "reserved"), (RECORD, "conflict")], (0, 400)),
    "reserve under the id of a record": ([(RECORD, "recorded"), (RESERVE, "conflict")], (250, 0)),
    "renew twice": ([(RESERVE, "reserved"), (RENEW, "renewed"), (RENEW, "renewed")], (0, 400)),
    "renew overtakes its reserve": ([(RENEW, "unknown"), (RESERVE, "reserved")], (0, 400)),
    "renew after the end": ([(RESERVE, "reserved"), (REFUND, "refunded"), (RENEW, "ended")], (0, 0)),
    "renew after a reconcile": (
        [(RESERVE, "reserved"), (RECONCILE, "reconciled"), (RENEW, "ended"), (RECONCILE, "repeated")], (250, 0),
    ),
}  # fmt: skip


def send(store: Store, command: Command, now: int = START) -> Outcome:
    return store.call("default", command, 5.0, now)


def counters(store: Store) -> tuple[int, int]:
    buckets = store.snapshot("default").buckets.values()
    return sum(b.spent for b in buckets), sum(b.reserved for b in buckets)


@pytest.mark.parametrize("name", TABLE)
def test_the_table(store: Store, name: str) -> None:
    messages, after = TABLE[name]
    assert [send(store, command).status for command, _ in messages] == [answer for _, answer in messages]
    assert counters(store) == after
    assert books(store).ok


@pytest.mark.parametrize("end", [RECONCILE, REFUND])
def test_a_repeat_gets_the_first_answer(store: Store, end: Command) -> None:
    first = send(store, RESERVE).reservation
    again = send(store, RESERVE, START + SECOND).reservation
    assert first is not None
    assert _figures(first) == _figures(again)
    ended = send(store, end, START + 2 * SECOND).reservation
    assert _figures(ended) == _figures(send(store, end, START + 3 * SECOND).reservation)


def _figures(known: Reservation | None) -> tuple[Any, ...]:
    assert known is not None
    return known.id, known.digest, known.state, known.amounts, known.lease_end, known.made, known.ended, known.charged


def test_a_refusal_leaves_nothing_but_its_entry(store: Store) -> None:
    send(store, BIG)
    send(store, BIG)
    assert store.reservations("default") == []
    assert [entry.kind for entry in store.entries("default", 0)] == ["refused", "refused"]


@pytest.mark.parametrize("end", [RECONCILE, REFUND])
def test_for_how_long_an_end_is_known(end: Command) -> None:
    """One hour and two leases; a server keeps to its own clock there, so the rule itself is tested."""
    from budget.stores.memory import MemoryStore

    for late, answer in ((-1, "repeated"), (0, "reserved")):
        store = MemoryStore()
        send(store, RESERVE)
        ended = send(store, end, START + SECOND).reservation
        assert ended is not None
        over = keep_until(ended)
        assert over == START + SECOND + 3600 * SECOND + 2 * LEASE
        send(store, ChangePolicy("freeze", "[]", "{}", {}), over + late)  # any command forgets what is over
        command = replace(RESERVE, version=1)
        assert send(store, command, over + late).status == answer


def test_expiry_and_one_correction(store: Store) -> None:
    send(store, RESERVE)
    after = START + LEASE + SECOND
    assert send(store, RENEW, after).status == "ended"
    assert counters(store) == (400, 0)
    assert send(store, RESERVE, after).status == "repeated"
    assert send(store, RECONCILE, after).status == "reconciled"
    assert send(store, RECONCILE, after).status == "repeated"
    assert send(store, REFUND, after).status == "conflict"
    assert counters(store) == (250, 0)
    assert books(store).ok


@pytest.mark.parametrize("seed", range(5))
def test_duplicated_and_reordered(store: Store, seed: int) -> None:
    """Each message twice or thrice, in any order that begins somewhere: one end counts, and nothing counts twice."""
    chance = random.Random(seed)
    for number in range(20):
        id = f"{number:032x}"
        end = chance.choice([replace(RECONCILE, id=id), replace(REFUND, id=id)])
        draws = [DRAW._replace(limit=10**6, amount=10)]
        reserve = replace(RESERVE, id=id, amounts=(10, None, None, None, 1), draws=draws)
        messages = [reserve, end, replace(RENEW, id=id)] * chance.randint(2, 3)
        chance.shuffle(messages)
        send(store, reserve)
        ended: list[str] = []
        for message in messages:
            status = send(store, message).status
            if isinstance(message, Reconcile | Refund):
                ended.append(status)
            elif isinstance(message, Reserve):
                assert status == "repeated"
        assert ended[0] in ("reconciled", "refunded")
        assert set(ended[1:]) == {"repeated"}
    spent = sum(entry.amounts[0] for entry in store.entries("default", 0))
    assert counters(store) == (spent, 0)
    assert spent in range(0, 250 * 20 + 1, 250)
    assert books(store).ok


_COUNTS = st.none() | st.integers(0, 2**53 - 1)
_SCOPES = st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), st.text(min_size=1, max_size=20), max_size=5)


@given(st.tuples(*[_COUNTS] * 5), _SCOPES, st.integers(1, 2**43), st.none() | st.just(OTHER))
def test_what_tells_a_repeat(amounts: Amounts, scope: dict[str, str], lease: int, of: str | None) -> None:
    """It is kept in stores, and a repeat may come from another version: it is of the canonical JSON, and stays so."""
    words = json.dumps([amounts, scope, lease, of], sort_keys=True, separators=(",", ":"))
    mixed = dict(reversed(scope.items()))
    for each in (Ask(amounts, scope, None, {}), Ask((0, 0, 0, 0, 1), mixed, None, {}, most=amounts)):
        assert digest(each, lease, of) == blake2b(words.encode(), digest_size=16).hexdigest()
