"""The algebra of the pool, each law as a property of `pool.apply` on the memory store's state."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from budget.audit import audit
from budget.commands import (
    Amounts,
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
    Status,
    Sweep,
)
from budget.money import MAX
from budget.pool import admits, apply, keep_until, verdict
from budget.stores.memory import _MemoryState
from budget.window import FOREVER

LEASE = 1000
AMOUNT = st.one_of(st.integers(0, 100), st.integers(0, MAX))
LIMIT = st.one_of(st.integers(0, 300), st.integers(0, MAX), st.just(MAX))
BOOKED = st.one_of(st.integers(0, 300), st.integers(0, 2**62))


class Pool:
    """One account with one pool, driven by hand."""

    def __init__(self, limit: int = MAX, end: int = FOREVER):
        self.state, self.limit, self.end, self.now = _MemoryState(), limit, end, 1

    def draw(self, amount: int) -> list[Draw]:
        return [Draw("p", "p", 0, self.limit, amount, 0, self.end, 0)]

    def do(self, command: Command) -> Outcome:
        return apply(self.state, command, self.now)

    def reserve(self, id: str, amount: int, digest: str = "d") -> str:
        return self.do(Reserve(id, digest, amounts(amount), self.draw(amount), 0, LEASE, {}, {})).status

    def reconcile(self, id: str, amount: int) -> str:
        return self.do(Reconcile(id, amounts(amount), {})).status

    def refund(self, id: str) -> str:
        return self.do(Refund(id)).status

    def record(self, id: str, amount: int, digest: str = "d") -> str:
        return self.do(Record(id, digest, amounts(amount), self.draw(amount), 0, {}, {})).status

    def sweep(self) -> int:
        return self.do(Sweep()).count

    @property
    def counters(self) -> tuple[int, int]:
        """(spent, reserved)"""
        bucket = self.state.bucket("p", 0)
        return (0, 0) if bucket is None else (bucket.spent, bucket.reserved)

    @property
    def whole(self) -> Any:
        state = self.state
        return (
            dict(state.last),
            {k: dict(v) for k, v in state.pools.items()},
            dict(state.reservations),
            len(state.ledger),
        )


def amounts(usd: int) -> Amounts:
    return usd, 0, 0, 0, 1


def start(limit: int, spent: int, held: int) -> Pool:
    """A pool in which something was spent and something is reserved."""
    pool = Pool(limit)
    pool.reserve("held", held)
    pool.record("spent", spent)
    return pool


POOLS = st.builds(start, LIMIT, AMOUNT, AMOUNT)


@given(POOLS, AMOUNT)
def test_reserve_adds_to_reserved_or_refuses(pool: Pool, amount: int) -> None:
    spent, reserved = pool.counters
    room = pool.limit - spent - reserved
    status = pool.reserve("r", amount)
    assert status == ("reserved" if amount == 0 or amount <= room else "refused")
    assert pool.counters == (spent, reserved + (amount if status == "reserved" else 0))


@given(POOLS, AMOUNT)
def test_refund_takes_it_back(pool: Pool, amount: int) -> None:
    before = pool.counters
    assume(pool.reserve("r", amount) == "reserved")
    assert pool.refund("r") == "refunded"
    assert pool.counters == before


@given(POOLS, BOOKED)
def test_record_adds_to_spent(pool: Pool, amount: int) -> None:
    spent, reserved = pool.counters
    assert pool.record("x", amount) == "recorded"
    assert pool.counters == (min(spent + amount, MAX), reserved)


@given(st.integers(0, MAX), LIMIT, AMOUNT, AMOUNT, BOOKED)
def test_reconcile_is_refund_then_record(limit: int, spent: int, held: int, amount: int, actual: int) -> None:
    one, two = start(limit, spent, held), start(limit, spent, held)
    assume(one.reserve("r", amount) == two.reserve("r", amount) == "reserved")
    one.reconcile("r", actual)
    two.refund("r")
    two.record("x", actual)
    assert one.counters == two.counters


@given(st.integers(0, 300), AMOUNT, AMOUNT)
def test_expire_is_reconcile_with_itself(spent: int, held: int, amount: int) -> None:
    def after(end: Callable[[Pool], object]) -> tuple[int, int]:
        pool = start(MAX, spent, 0)
        assume(pool.reserve("r", amount) == "reserved")
        end(pool)
        return pool.counters

    def expire(pool: Pool) -> None:
        pool.now += LEASE
        assert pool.sweep() == 2  # "held" too, of nothing

    assert after(expire) == after(lambda pool: (pool.reconcile("r", amount), pool.reconcile("held", 0)))


@given(POOLS, AMOUNT)
def test_expiry_leaves_what_is_available(pool: Pool, amount: int) -> None:
    assume(pool.reserve("r", amount) == "reserved")
    spent, reserved = pool.counters
    pool.now += LEASE
    pool.sweep()
    assert pool.counters == (min(spent + reserved, MAX), 0)


@given(POOLS, AMOUNT, BOOKED, st.booleans())
def test_one_correction_after_expiry(pool: Pool, amount: int, actual: int, refund: bool) -> None:
    """It ends as if it had never expired."""
    spent, _ = pool.counters
    assume(pool.reserve("r", amount) == "reserved")
    pool.reconcile("held", 0) if "held" in pool.state.reservations else None
    assume(spent + amount + actual < MAX)
    pool.now += LEASE
    assert pool.sweep() == 1
    assert (pool.refund("r") if refund else pool.reconcile("r", actual)) == ("refunded" if refund else "reconciled")
    assert pool.counters == (spent + (0 if refund else actual), 0)
    before = pool.whole
    assert pool.reconcile("r", actual + 1) == "conflict"
    assert pool.whole == before


@given(POOLS, AMOUNT, BOOKED)
def test_a_repeated_verb_changes_nothing_and_says_so(pool: Pool, amount: int, actual: int) -> None:
    verbs: list[Callable[[], str]] = [lambda: pool.record("x", actual), lambda: pool.refund("unknown")]
    if pool.reserve("a", amount) == "reserved":
        verbs += [lambda: pool.reserve("a", amount)]
        pool.reserve("b", 0)
        verbs += [lambda: pool.reconcile("b", actual), lambda: pool.reserve("b", 0)]
    for verb in verbs:
        verb()
        before = pool.whole
        assert verb() == "repeated"
        assert pool.whole == before


@given(POOLS, AMOUNT, AMOUNT)
def test_other_arguments_conflict_and_change_nothing(pool: Pool, amount: int, other: int) -> None:
    assume(pool.reserve("a", amount) == "reserved" and other != amount)
    before = pool.whole
    assert pool.reserve("a", other, "other") == "conflict"
    assert pool.record("a", other, "other") == "conflict"
    assert pool.whole == before
    pool.reconcile("a", amount)
    before = pool.whole
    for status in (pool.reconcile("a", other), pool.refund("a")):
        assert status == "conflict"
    assert pool.whole == before


@given(POOLS, AMOUNT)
def test_a_refusal_changes_nothing_but_one_entry(pool: Pool, amount: int) -> None:
    before = pool.whole
    assume(pool.reserve("r", amount) == "refused")
    assert pool.whole == (*before[:3], before[3] + 1)


@given(POOLS)
def test_zero_passes_always(pool: Pool) -> None:
    pool.record("over", pool.limit + 10)
    spent, reserved = pool.counters
    assert pool.reserve("r", 0) == "reserved"
    assert pool.reserve("s", 1) == "refused"
    assert pool.counters == (spent, reserved)


@given(st.integers(MAX // 2 + 1, 2**62), st.integers(MAX // 2 + 1, 2**62), st.integers(1, MAX))
def test_saturation(one: int, two: int, amount: int) -> None:
    """A counter that would pass 2^53 - 1 stays there for good and refuses every amount above zero."""
    pool = Pool(MAX)
    pool.reserve("later", 5)
    pool.record("x", one)
    pool.record("y", two)
    assert pool.counters == (MAX, 5)
    assert pool.reserve("r", amount) == "refused"
    assert pool.reserve("z", 0) == "reserved"
    pool.now += LEASE
    pool.sweep()
    pool.refund("later")
    assert pool.counters == (MAX, 0)
    found = check(pool)
    assert (found.faults, len(found.saturated)) == ([], 1)


@given(st.lists(st.tuples(st.sampled_from(["reserve", "reconcile", "refund", "record", "renew", "wait", "back"]),
                          st.integers(0, 6), BOOKED), max_size=40), LIMIT)  # fmt: skip
def test_invariants(steps: list[tuple[str, int, int]], limit: int) -> None:
    """Reserved is the sum of what is open, spent is the sum of the entries, nothing is negative, the books balance."""
    pool = Pool(limit)
    admitted_over = 0
    for verb, n, amount in steps:
        id = f"id{n}"
        match verb:
            case "reserve":
                asked = amount % 200
                status = pool.reserve(id, asked)
                spent, reserved = pool.counters
                admitted_over += status == "reserved" and asked > 0 and spent + reserved > limit
            case "reconcile":
                pool.reconcile(id, amount)
            case "refund":
                pool.refund(id)
            case "record":
                pool.record(f"x{n}", amount)
            case "renew":
                pool.do(Renew(id, LEASE))
            case "wait":
                pool.now += LEASE // 2
            case "back":
                pool.now = max(1, pool.now - LEASE // 3)
        spent, reserved = pool.counters
        held = [r.amounts[0] or 0 for r in pool.state.reservations.values() if r.state == "open"]
        assert reserved == sum(held)
        assert 0 <= spent <= MAX
        assert check(pool).faults == []
    assert admitted_over == 0


def check(pool: Pool) -> Any:
    state = pool.state
    counters = {(p, s): (b.spent, b.reserved) for p, found in state.pools.items() for s, b in found.items()}
    return audit(state.ledger, counters, state.account.head, state.account.seq)


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=20))
def test_the_clock_never_goes_back(times: list[int]) -> None:
    pool = Pool()
    seen = 0
    for n, now in enumerate(times):
        pool.now = now
        outcome = pool.do(Record(f"x{n}", "d", amounts(1), pool.draw(1), 0, {}, {}))
        assert outcome.now == max(seen, now)
        seen = outcome.now
        back = seen - now
        asked = pool.do(Reserve(f"r{n}", "d", amounts(1), pool.draw(1), 0, LEASE, {}, {}))
        assert asked.status == ("clock" if back > 5_000_000 else "reserved")
    stamps = [entry.at_us for entry in pool.state.ledger]
    assert stamps == sorted(stamps)


def test_reading_writes_nothing() -> None:
    pool = start(100, 5, 5)
    pool.now += LEASE  # something is due
    before = pool.whole
    assert pool.do(LoadPolicy()).status == "policy"
    status = pool.do(Status(["p", "other"], sweep=False))
    assert [b and (b.spent, b.reserved) for b in status.buckets] == [(5, 5), None]
    assert pool.whole == before


@given(st.lists(st.tuples(AMOUNT, AMOUNT), max_size=6), AMOUNT, st.sampled_from(["refund", "expire"]))
def test_a_slice_is_worth_what_it_was(paid: list[tuple[int, int]], amount: int, how: str) -> None:
    """At every step reserved is what the slice has left; its end frees or charges that, and nothing else."""
    pool = Pool()
    pool.reserve("slice", amount)
    left, spent = amount, 0
    for n, (actual, frees) in enumerate(paid):
        assume(spent + actual + amount < MAX)
        paying = Record(f"x{n}", "d", amounts(actual), pool.draw(actual), 0, {}, {}, of="slice", frees=amounts(frees))
        assert pool.do(paying).status == "recorded"
        left, spent = left - min(left, frees), spent + actual
        assert pool.counters == (spent, left)
    if how == "refund":
        pool.refund("slice")
    else:
        pool.now += LEASE
        assert pool.sweep() == 1
        spent += left
    assert pool.counters == (spent, 0)
    assert check(pool).faults == []


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 12)), max_size=30), st.integers(1, 40))
def test_a_rolling_window_never_holds_more_than_its_limit(steps: list[tuple[int, int]], limit: int) -> None:
    """In any span of its length, wherever it begins, what was admitted is at most the limit."""
    state, now, admitted, span = _MemoryState(), 10**9, [], 60
    for n, (later, amount) in enumerate(steps):
        now += later
        draw = Draw("p", '["p","60s rolling"]', 0, limit, amount, 0, FOREVER, 0, "", span)
        outcome = apply(state, Reserve(f"r{n}", "d", amounts(amount), [draw], 0, 10**9, {}, {}), now)
        if outcome.status == "reserved":
            admitted.append((now, amount))
        else:
            (bucket,) = outcome.buckets
            assert bucket is not None
            again = Draw("p", draw.name, 0, limit, amount, 0, FOREVER, 0, "", span)
            if amount <= limit:
                for moment, status in ((bucket.end - 1, "refused"), (bucket.end, "reserved")):
                    copy = deepcopy(state)
                    asked = Reserve("then", "d", amounts(amount), [again], 0, 10**9, {}, {})
                    assert apply(copy, asked, moment).status == status
    for start, _ in admitted:
        assert sum(amount for at, amount in admitted if start <= at < start + span) <= limit
    assert all(len(found) <= 62 for found in state.pools.values())


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), max_size=20), st.integers(0, 20))
def test_what_goes_over_was_left(steps: list[tuple[int, int]], rollover: int) -> None:
    """Over all windows no more is spent than all limits together, and in one at most the limit and the roll-over."""
    limit, state, now = 20, _MemoryState(), 0
    spent: dict[int, int] = {}
    for n, (amount, windows) in enumerate(steps):
        now += windows * 100
        draw = Draw("p", "p", 0, limit, amount, now, now + 100, 0, rollover=rollover)
        status = apply(state, Reserve(f"r{n}", "d", amounts(amount), [draw], 0, 10**9, {}, {}), now + 1).status
        if status == "reserved":
            spent[now] = spent.get(now, 0) + amount
    assert all(amount <= limit + rollover for amount in spent.values())
    if spent:
        first = min(spent)
        for start in spent:
            counted = sum(amount for at, amount in spent.items() if at <= start)
            assert counted <= limit * ((start - first) // 100 + 1)


@given(st.integers(0, MAX), LIMIT, AMOUNT, AMOUNT)
def test_verdicts(amount: int, limit: int, spent: int, held: int) -> None:
    """A "never" is said of what would not fit with nothing reserved and, if the window ends, nothing spent."""
    from budget.commands import Bucket

    for end in (100, FOREVER):
        bucket = Bucket(0, end, 0, spent, held)
        emptied = bucket._replace(reserved=0, spent=spent if end == FOREVER else 0)
        if not admits(amount, limit, bucket):
            assert (verdict(amount, limit, bucket) == "never") == (not admits(amount, limit, emptied))


def test_how_long_an_end_is_kept() -> None:
    """One hour and two leases; what expired may be corrected for a week."""
    hour = 3600 * 10**6
    for state, kept in (("reconciled", hour), ("refunded", hour), ("expired", 7 * 24 * hour)):
        ended = Reservation("r", "", state, amounts(0), (), LEASE, 0, 5, ended=10)
        assert keep_until(ended) == 10 + kept + 2 * LEASE
