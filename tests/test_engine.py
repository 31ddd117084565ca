"""The Python API of the contract, sync and awaited, on every store."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import books

import budget.engine as engine_module
from budget import (
    ArgumentTypeError,
    Budget,
    BudgetError,
    BudgetExceeded,
    CapExceeded,
    ConfigError,
    Estimate,
    Frozen,
    Limit,
    Pool,
    Refusal,
    Reservation,
    ReservationConflict,
    RunStopped,
    StoreUnavailable,
    Unbounded,
    UnknownModel,
    Usage,
)
from budget.commands import Record
from budget.run import current

Make = Callable[..., Budget]
MODEL = "claude-sonnet-4-6"
HELLO = [{"role": "user", "content": "hello there"}]
ID = "0123456789abcdef" * 2
PRICES = {
    "cheap": {"input": "1", "output": "2"},  # USD per million tokens
    "dear": {"input": "1000", "output": "2000"},
    "free": {"input": "0", "output": "0"},
}


@pytest.fixture
def b(budget_factory: Make) -> Budget:
    return budget_factory(limits=["$1/day", Limit("$0.50/day", per="user")], prices=PRICES)


def money(pools: list[Pool]) -> list[tuple[str, str, str]]:
    return [(str(p.spent), str(p.reserved), str(p.available)) for p in pools]


def kinds(b: Budget, **attributes: str) -> list[str]:
    return [entry.kind for entry in b.entries(**attributes)]


def state_of(b: Budget) -> Any:
    return b.engine.store.snapshot(b.settings.account), b.engine.store.reservations(b.settings.account)


@contextmanager
def unchanged(b: Budget, entries: int = 0) -> Iterator[None]:
    """Nothing in the store changes inside, but for this many entries of the ledger."""
    before, open_before = state_of(b)
    written = len(list(b.entries()))
    yield
    after, open_after = state_of(b)
    assert (after.buckets, after.names, open_after) == (before.buckets, before.names, open_before)
    assert len(list(b.entries())) == written + entries


# The verbs.


def test_reserve_and_reconcile(b: Budget) -> None:
    held = b.reserve("$0.40", user="alice")
    assert isinstance(held, Reservation)
    assert (len(held.id), held.usd, held.scope, held.state) == (32, Decimal("0.4"), {"user": "alice"}, "open")
    assert money(b.status()) == [("0", "0.4", "0.6"), ("0", "0.4", "0.1")]
    done = b.reconcile(held, usd="0.31")
    assert done.state == "reconciled"
    assert money(b.status(user="alice")) == [("0.31", "0", "0.69"), ("0.31", "0", "0.19")]
    assert kinds(b) == ["reserved", "reconciled"]
    assert books(b.engine.store).ok


def test_refund(b: Budget) -> None:
    held = b.reserve(Decimal("0.40"), user="alice")
    assert b.refund(held).state == "refunded"
    assert b.refund(held.id).state == "refunded"
    assert money(b.status(user="alice")) == [("0", "0", "1"), ("0", "0", "0.5")]


def test_an_end_by_id(b: Budget) -> None:
    held = b.reserve("$0.40", user="alice")
    b.reconcile(held.id, usd=Decimal("0.1"))
    assert b.status()[0].spent == Decimal("0.1")


def test_the_second_end_must_agree(b: Budget) -> None:
    held = b.reserve("$0.40", user="alice")
    b.reconcile(held, usd="0.31")
    b.reconcile(held, usd="0.31")
    with unchanged(b):
        with pytest.raises(ReservationConflict):
            b.reconcile(held, usd="0.30")
        with pytest.raises(ReservationConflict):
            b.refund(held)


def test_record(b: Budget) -> None:
    b.record(usd="2", user="alice")  # never refused
    assert money(b.status(user="alice")) == [("2", "0", "-1"), ("2", "0", "-1.5")]
    done = b.record({"input_tokens": 1000, "output_tokens": 500}, model="cheap", user="bob", id=ID)
    assert done.charged == (2_000_000, 1500, 1000, 500, 1)
    assert b.record({"input_tokens": 1000, "output_tokens": 500}, model="cheap", user="bob", id=ID).id == ID
    with pytest.raises(ReservationConflict):
        b.record({"input_tokens": 1001, "output_tokens": 500}, model="cheap", user="bob", id=ID)
    assert money(b.status(user="bob")) == [("2.002", "0", "-1.002"), ("0.002", "0", "0.498")]
    entry = list(b.entries(user="bob"))[-1]
    assert (entry.kind, entry.usd, entry.model, entry.reservation) == ("recorded", Decimal("0.002"), "cheap", ID)
    assert entry.usage == Usage(input=1000, output=500)
    assert entry.scope == {"user": "bob", "model": "cheap"}
    assert entry.at.tzinfo is not None


def test_a_reconcile_that_the_store_does_not_know_is_booked_once(b: Budget) -> None:
    for _ in range(2):
        b.reconcile(ID, usd="0.30")
    with pytest.raises(ReservationConflict):
        b.reconcile(ID, usd="0.20")
    assert money(b.status()) == [("0.3", "0", "0.7"), ("0.3", "0", "0.2")]
    assert b.status()[1].subject == {"user": None}


def test_a_lost_reservation_is_booked_where_it_belongs(b: Budget, make_budget: Make) -> None:
    held = b.reserve("$0.40", user="alice", tokens=70)
    other = make_budget("memory://", limits=["$1/day", Limit("100 tokens/day", per="user")])
    done = other.reconcile(held, usd="0.30")
    assert done.scope == {"user": "alice"}
    assert money(other.status(user="alice")) == [("0.3", "0", "0.7"), ("70", "0", "30")]
    assert other.reconcile(held, usd="0.30").id == held.id


def test_an_estimate(b: Budget) -> None:
    estimate = b.estimate(model=MODEL, messages=HELLO, max_tokens=800)
    assert isinstance(estimate, Estimate)
    assert estimate.closed
    assert estimate.output_tokens_max == 800
    assert 0 < estimate.usd <= estimate.usd_max
    assert estimate.exceeds("$0.001")
    assert not estimate.exceeds("$1")
    held = b.reserve(estimate, user="alice")
    assert (held.usd, held.scope["model"], held.scope["user"]) == (estimate.usd_max, MODEL, "alice")
    b.reconcile(held, {"model": MODEL, "usage": {"input_tokens": 10, "output_tokens": 100}})
    entry = list(b.entries())[-1]
    assert entry.usd == b.cost(Usage(input=10, output=100), model=MODEL).usd == Decimal("0.00153")
    assert (entry.model, entry.usage) == (MODEL, Usage(input=10, output=100))
    assert entry.estimate is not None


def test_reserve_from_a_request(b: Budget) -> None:
    estimate = b.estimate(model=MODEL, messages=HELLO, max_tokens=800)
    assert b.reserve(model=MODEL, messages=HELLO, max_tokens=800, user="alice").usd == estimate.usd_max


def test_reconcile_prices_what_the_reservation_was_for(b: Budget) -> None:
    held = b.reserve(b.estimate_counts("cheap", input_tokens=1000, output_tokens=1000))
    b.reconcile(held, Usage(input=1000, output=500))
    assert b.status()[0].spent == Decimal("0.002")


def test_check_writes_and_counts_nothing(b: Budget) -> None:
    b.reserve("$0.30", user="alice")
    with unchanged(b):
        yes, no = b.check("$0.20", user="alice"), b.check("$0.21", user="alice")
        assert b.check(model=MODEL, messages=HELLO, max_tokens=800, user="alice")
    assert (yes.admitted, yes.refusal, bool(yes)) == (True, None, True)
    assert (no.admitted, bool(no)) == (False, False)
    assert isinstance(no.refusal, Refusal)
    assert (str(no.refusal.limit), no.refusal.available) == ("per=user $0.5/day", Decimal("0.2"))
    b.freeze(user="alice")
    assert not b.check("$0.01", user="alice")
    assert b.check("$0.01", user="bob")


def test_status(b: Budget) -> None:
    b.reserve("$0.40", user="alice")
    b.reserve("$0.10", user="bob")
    b.reserve("$0.05")
    everybody, none, alice, bob = sorted(b.status(), key=lambda p: str(p.subject))
    assert [str(p.subject) for p in (everybody, none, alice, bob)] == [
        "everybody",
        "user=(none)",
        "user=alice",
        "user=bob",
    ]
    assert [p.reserved for p in (everybody, none, alice, bob)] == list(map(Decimal, ("0.55", "0.05", "0.4", "0.1")))
    assert (alice.limit, alice.limit.amount, alice.unit) == (Limit("$0.50/day", per="user"), Decimal("0.5"), "usd")
    now = datetime.now(UTC)
    assert alice.resets_at is not None
    assert alice.since <= now < alice.resets_at <= now + timedelta(days=1)
    assert [str(p.subject) for p in b.status(user="alice")] == ["everybody", "user=alice"]
    assert [str(p.subject) for p in b.status(user="nobody")] == ["everybody", "user=nobody"]


def test_entries(b: Budget) -> None:
    for user in ("alice", "bob", "alice"):
        b.reconcile(b.reserve("$0.10", user=user), usd="0.05")
    assert kinds(b, user="alice") == ["reserved", "reconciled"] * 2
    assert kinds(b, user="bob") == ["reserved", "reconciled"]
    assert [e.usd for e in b.entries(user="bob")] == [0, Decimal("0.05")]
    assert len(list(b.entries(since="1h"))) == len(list(b.entries(since=datetime.now(UTC) - timedelta(hours=1)))) == 6
    assert list(b.entries(since=datetime.now(UTC) + timedelta(hours=1))) == []
    with pytest.raises(ConfigError, match="wait=30"):
        b.reserve("$1", on_short="wait:30s")
    for wrong in ("yesterday", datetime(2026, 1, 1)):  # noqa: DTZ001 - naive on purpose
        with pytest.raises(ConfigError):
            b.entries(since=wrong)


def test_more_entries_than_a_page(b: Budget) -> None:
    b.status()
    for _ in range(1005):
        b.engine.post(Record(b.engine.verbs.new_id(), "x", (0, 0, 0, 0, 1), [], 0, {}, {}))
    b.status()  # it comes after what was handed over
    assert len(list(b.entries())) == 1005


# The verbs, awaited.


def test_awaited(b: Budget) -> None:
    async def main() -> None:
        held = await b.aio.reserve("$0.40", user="alice")
        with pytest.raises(BudgetExceeded):
            await b.aio.reserve("$0.20", user="alice")
        assert not await b.aio.check("$0.20", user="alice")
        await b.aio.reconcile(held, usd="0.31")
        await b.aio.refund((await b.aio.reserve("$0.10", user="alice")).id)
        await b.aio.record(usd="0.01", user="alice")
        assert money(await b.aio.status(user="alice")) == [("0.32", "0", "0.68"), ("0.32", "0", "0.18")]
        async with b.reservation("$0.10", user="alice") as guard:
            guard.reconcile(usd="0.08")
        async with b.run(user="alice"):
            assert (await b.aio.reserve("$0.10")).scope["user"] == "alice"

    asyncio.run(main())
    assert money(b.status(user="alice")) == [("0.4", "0.1", "0.5"), ("0.4", "0.1", "0")]


def test_many_tasks_at_once(b: Budget) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(
            *(b.aio.reserve("$0.05", user=f"u{n % 2}") for n in range(50)), return_exceptions=True
        )

    answers = asyncio.run(main())
    assert sum(isinstance(answer, Reservation) for answer in answers) == 20
    assert {type(answer) for answer in answers} == {Reservation, BudgetExceeded}
    assert books(b.engine.store).ok


def test_an_engine_outlives_its_loops(b: Budget) -> None:
    for _ in range(2):
        asyncio.run(b.aio.reserve("$0.10", user="alice"))
    assert b.status()[0].reserved == Decimal("0.2")


# A guarded block.


def test_a_block(b: Budget) -> None:
    with b.reservation("$0.40", user="alice") as guard:
        assert (guard.usd, len(guard.id)) == (Decimal("0.4"), 32)
        assert b.status()[0].reserved == Decimal("0.4")
        guard.reconcile(usd="0.25")
    assert money(b.status())[0] == ("0.25", "0", "0.75")


def test_a_block_that_says_nothing_is_charged_the_reservation(b: Budget) -> None:
    with b.reservation("$0.40", user="alice"):
        pass
    assert money(b.status())[0] == ("0.4", "0", "0.6")
    assert list(b.entries())[-1].detail["estimated"] is True


def test_a_block_that_fails_is_charged(b: Budget) -> None:
    with pytest.raises(KeyError), b.reservation("$0.40", user="alice"):
        raise KeyError
    assert money(b.status())[0] == ("0.4", "0", "0.6")


@pytest.mark.parametrize(
    ("status", "spent"),
    [(400, "0"), (401, "0"), (429, "0"), (500, "0"), (503, "0"), (529, "0"),
     (408, "0.4"), (409, "0.4"), (502, "0.4"), (504, "0.4"), (200, "0.4")],
)  # fmt: skip
def test_a_block_whose_call_was_answered_with_an_error(b: Budget, status: int, spent: str) -> None:
    class Answered(Exception):
        status_code = status

    with pytest.raises(Answered), b.reservation("$0.40", user="alice"):
        raise Answered
    assert money(b.status())[0][:2] == (spent, "0")


def test_a_block_that_is_refunded(b: Budget) -> None:
    with b.reservation("$0.40", user="alice") as guard:
        guard.refund()
    assert money(b.status())[0] == ("0", "0", "1")


def test_a_block_ends_once(b: Budget) -> None:
    with b.reservation("$0.40", user="alice") as guard:
        guard.reconcile(usd="0.1")
        guard.reconcile(usd="0.1")
        with pytest.raises(ReservationConflict):
            guard.reconcile(usd="0.2")
    assert money(b.status())[0] == ("0.1", "0", "0.9")
    assert kinds(b) == ["reserved", "reconciled"]


def test_a_wrong_cost_leaves_the_block_open(b: Budget) -> None:
    with b.reservation("$0.40", user="alice") as guard:
        with pytest.raises(ArgumentTypeError):
            guard.reconcile(usd=0.1)
        guard.reconcile(usd="0.1")
    assert money(b.status())[0] == ("0.1", "0", "0.9")


def test_a_block_not_entered_has_nothing(b: Budget) -> None:
    with pytest.raises(ConfigError):
        b.reservation("$0.40").reconcile(usd="0.1")
    assert kinds(b) == []


def test_a_refused_block_does_not_run(b: Budget) -> None:
    ran = []
    with pytest.raises(BudgetExceeded), b.reservation("$2"):
        ran.append(1)
    assert ran == []


def test_a_block_renews_its_lease(b: Budget) -> None:
    with b.reservation("$0.40", user="alice", lease=1.5) as guard:
        (first,) = now = b.engine.store.reservations("default")
        while now and now[0].lease_end == first.lease_end:
            time.sleep(0.01)
            now = b.engine.store.reservations("default")
        guard.reconcile(usd="0.1")
    assert kinds(b) == ["reserved", "reconciled"]


# Refusals.


def test_the_numbers_of_a_refusal(b: Budget) -> None:
    b.record(usd="0.10", user="alice")
    b.reserve("$0.30", user="alice")
    with unchanged(b, entries=1), pytest.raises(BudgetExceeded) as caught:
        b.reserve("$0.11", user="alice", agent="x")
    e = caught.value
    assert (e.limit, e.subject, e.scope) == (
        Limit("$0.50/day", per="user"),
        {"user": "alice"},
        {"user": "alice", "agent": "x"},
    )
    figures = (e.spent, e.reserved, e.requested, e.available)
    assert figures == tuple(map(Decimal, ("0.1", "0.3", "0.11", "0.1")))
    assert all(type(figure) is Decimal for figure in figures)
    assert (e.verdict, e.unit, e.http_status, e.max_tokens, len(e.refusals)) == ("wait", "usd", 402, None, 1)
    assert e.resets_at == b.status(user="alice")[1].resets_at
    assert kinds(b)[-1] == "refused"


def test_which_limit_decides(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/day", "$2/year", "$3/hour", "5 requests/lifetime"])
    b.record(usd="0.9")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$1.5")
    assert [str(r.limit) for r in caught.value.refusals] == ["$1/day", "$2/year"]
    assert (str(caught.value.limit), caught.value.verdict) == ("$1/day", "never")  # $1.5 can never fit $1
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$2.5")
    assert [r.verdict for r in caught.value.refusals] == ["never", "never", "wait"]
    b.record(usd="0.9")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$0.5")
    assert (str(caught.value.limit), caught.value.verdict) == ("$2/year", "wait")  # the one that resets last


def test_a_window_without_an_end(budget_factory: Make) -> None:
    b = budget_factory(limits=["2 requests/lifetime"])
    b.record(usd="1")
    b.reserve("$1")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$1")
    e = caught.value
    assert (e.spent, e.reserved, e.requested, e.available, e.resets_at) == (1, 1, 1, 0, None)
    assert e.verdict == "wait"  # the open one may be refunded
    b.record(usd="1")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$1")
    assert caught.value.verdict == "never"


def test_caps(b: Budget) -> None:
    b.limits.set("$0.25/request", user="alice")
    b.reserve("$0.25", user="alice")
    b.reserve("$0.25", user="alice")
    with pytest.raises(CapExceeded) as caught:
        b.reserve("$0.26", user="alice")
    e = caught.value
    assert e.verdict == "never"
    b.reserve("$0.26", user="bob")


def test_what_would_fit(b: Budget) -> None:
    b.limits.set("$0.01/request", user="alice")
    estimate = b.estimate(model=MODEL, messages=HELLO, max_tokens=800)
    assert estimate.usd_max > Decimal("0.01")
    with pytest.raises(CapExceeded) as caught:
        b.reserve(estimate, user="alice")
    e = caught.value
    assert e.max_tokens is not None
    assert b.check(model=MODEL, messages=HELLO, max_tokens=e.max_tokens, user="alice")
    assert not b.check(model=MODEL, messages=HELLO, max_tokens=e.max_tokens + 1, user="alice")
    with unchanged(b):
        assert e.fits(model="claude-haiku-4-5")
        assert not e.fits(model=MODEL)
        assert not e.fits(model="dear")
        with pytest.raises(UnknownModel):
            e.fits(model="no-such-model")
    b.record(usd="10")
    assert not e.fits(model="claude-haiku-4-5")  # now, not then


def test_nothing_would_fit(b: Budget) -> None:
    b.record(usd="1", user="alice")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve(b.estimate(model=MODEL, messages=HELLO, max_tokens=800), user="alice")
    assert caught.value.max_tokens is None


ERRORS: list[tuple[type[BudgetError], Callable[[Budget], Any]]] = [
    (BudgetExceeded, lambda b: b.reserve("$0.60", user="alice")),
    (BudgetExceeded, lambda b: b.reserve(b.estimate(model="dear", messages=HELLO, max_tokens=5000), user="alice")),
    (CapExceeded, lambda b: (b.limits.set("$0.1/request"), b.reserve("$0.11"))),
    (Frozen, lambda b: (b.freeze(user="alice"), b.reserve("$0.10", user="alice"))),
    (RunStopped, lambda b: _in_run(b, max_calls=1)),
    (RunStopped, lambda b: _in_run(b, deadline=1e-9)),
    (UnknownModel, lambda b: b.estimate(model="claude-sonnet-4-66", messages=HELLO, max_tokens=8)),
    (ReservationConflict, lambda b: (b.reserve("$0.1", id=ID), b.reserve("$0.2", id=ID))),
    (ConfigError, lambda b: b.limits.set("$1/fortnight")),
    (ArgumentTypeError, lambda b: b.reserve(1)),
]


def _in_run(b: Budget, **options: Any) -> None:
    with b.run(user="alice", **options):
        b.reserve("$0.01")
        b.reserve("$0.01")


@pytest.mark.parametrize(("kind", "act"), ERRORS)
def test_errors_pickle_with_all_numbers(b: Budget, kind: type[BudgetError], act: Callable[[Budget], Any]) -> None:
    with pytest.raises(kind) as caught:
        act(b)
    error = caught.value
    assert type(error) is kind
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        if isinstance(error, BudgetExceeded):
            assert again.refusals == error.refusals
            assert again.to_dict() == error.to_dict()
            assert again.to_dict()["error"] == kind.__name__
            assert (again.scope, again.max_tokens, again.http_status) == (error.scope, error.max_tokens, 402)
            with pytest.raises(ConfigError):
                again.fits(model=MODEL)
        if isinstance(error, UnknownModel):
            assert (again.model, again.nearest) == (error.model, error.nearest)


def test_other_errors_pickle() -> None:
    for error in (Unbounded(["server tools"]), StoreUnavailable("no answer")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_tree_of_errors() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(ArgumentTypeError, TypeError)
    assert issubclass(UnknownModel, LookupError)
    for kind in (CapExceeded, Frozen, RunStopped):
        assert issubclass(kind, BudgetExceeded)
    assert not issubclass(StoreUnavailable, BudgetExceeded)


def test_the_order_of_checks(b: Budget) -> None:
    """Arguments, price, frozen, run guards, cap and pools."""
    b.limits.set("$0.25/request")
    b.freeze(user="alice")
    with b.run(user="alice", deadline=1e-9):
        for kind, act in [
            (ConfigError, lambda: b.reserve("$5", user="new\nline")),
            (ConfigError, lambda: b.reserve(model="no-such-model", messages=HELLO, max_tokens=8, user="")),
            (UnknownModel, lambda: b.reserve(model="no-such-model", messages=HELLO, max_tokens=8)),
            (Frozen, lambda: b.reserve("$5")),
        ]:
            with pytest.raises(kind):
                act()
        b.unfreeze(user="alice")
        with pytest.raises(RunStopped):
            b.reserve("$5")
    with pytest.raises(CapExceeded):
        b.reserve("$5", user="alice")
    b.limits.unset("$0.25/request")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$5", user="alice")
    assert type(caught.value) is BudgetExceeded


# Limits and freezes in the store.


def test_limits(budget_factory: Make) -> None:
    b = budget_factory()
    made = b.limits.set("$5/day", user="alice", tz="Europe/Berlin")
    assert (made.tz, made.source, list(b.limits)) == ("Europe/Berlin", "store", [made])
    b.reserve("$4", user="alice")
    assert len(b.limits.list(user="alice")) == 1
    assert b.limits.list(user="bob") == []
    b.limits.set("$6/day", user="alice")  # same identity: amount and options are replaced, the pool stays
    assert money(b.status(user="alice")) == [("0", "4", "2")]
    b.limits.set("$3/day", user="alice")
    assert money(b.status(user="alice")) == [("0", "4", "-1")]
    with pytest.raises(BudgetExceeded):
        b.reserve("$0.01", user="alice")
    assert [str(x) for x in b.limits.unset(user="alice")] == ["user=alice $3/day"]
    b.reserve("$100", user="alice")
    with pytest.raises(ConfigError, match="there is none"):
        b.limits.unset(user="alice")
    assert [k for k in kinds(b) if k.startswith("limit")] == ["limit_set"] * 3 + ["limit_unset"]


def test_a_limit_of_code_cannot_be_unset(b: Budget) -> None:
    with pytest.raises(ConfigError, match="code"):
        b.limits.unset("$1/day")


def test_changes_are_audited(b: Budget) -> None:
    b.limits.set("$5/day", user="alice", reason="because")
    b.freeze(user="alice", reason="abuse")
    changes = [entry.detail for entry in b.entries() if entry.kind in ("limit_set", "frozen")]
    assert [(c["reason"], bool(c["actor"])) for c in changes] == [("because", True), ("abuse", True)]


def test_a_new_limit_counts_from_now(budget_factory: Make) -> None:
    b = budget_factory()
    b.reconcile(b.reserve("$4", user="alice"), usd="4")
    before = datetime.now(UTC)
    b.limits.set("$5/day", user="alice")
    b.reserve("$5", user="alice")
    assert b.status(user="alice")[0].since >= before


def test_a_limit_of_another_budget_holds_from_the_next_call(sqlite_url: str, make_budget: Make) -> None:
    one, two = make_budget(sqlite_url), make_budget(sqlite_url)
    one.reserve("$5", user="alice")
    two.limits.set("$1/day", user="alice")
    with pytest.raises(BudgetExceeded):
        one.reserve("$1.01", user="alice")
    one.freeze(everybody=True)
    with pytest.raises(Frozen) as caught:
        two.reserve("$0")
    assert caught.value.subject == {}
    two.unfreeze(everybody=True)
    one.reserve("$1", user="alice")


def test_frozen(b: Budget) -> None:
    held = b.reserve("$0.10", user="alice")
    b.freeze(user="alice")
    with unchanged(b, entries=1), pytest.raises(Frozen) as caught:
        b.reserve("$0", user="alice")
    assert (caught.value.subject, caught.value.verdict) == ({"user": "alice"}, "wait")
    b.reserve("$0.10", user="bob")
    b.reconcile(held, usd="0.05")
    b.record(usd="0.01", user="alice")
    b.unfreeze(user="alice")
    b.reserve("$0.10", user="alice")
    for wrong in ({}, {"user": "alice", "everybody": True}):
        with pytest.raises(ConfigError):
            b.freeze(**wrong)
    with pytest.raises(ConfigError, match="no freeze"):
        b.unfreeze(user="alice")


# Runs.


def test_a_run(b: Budget) -> None:
    with b.run("$0.05", user="alice", agent="support") as run:
        held = b.reserve("$0.03")
        assert held.scope == {"user": "alice", "agent": "support", "run": run.id}
        assert (run.spent, run.reserved, run.remaining, run.calls) == (0, Decimal("0.03"), Decimal("0.02"), 1)
        b.reconcile(held, usd="0.04")
        assert (run.spent, run.reserved, run.remaining) == (Decimal("0.04"), 0, Decimal("0.01"))
        with pytest.raises(BudgetExceeded) as caught:
            b.reserve("$0.02")
        assert (str(caught.value.limit.window), caught.value.verdict, caught.value.subject["run"]) == (
            "run",
            "never",
            run.id,
        )
        b.reserve("$0.01")
    assert current() is None
    with b.run("$0.05", user="alice"):
        b.reserve("$0.05")  # each run is a new one
    b.reserve("$0.06", user="alice")


def test_nested_runs(b: Budget) -> None:
    with b.run("$0.10", user="alice", agent="outer") as outer:
        b.reserve("$0.02")
        with b.run("$0.05", agent="inner", max_calls=9) as inner:
            assert b.reserve("$0.04").scope == {"user": "alice", "agent": "inner", "run": inner.id}
            with pytest.raises(BudgetExceeded):
                b.reserve("$0.02")  # the inner run's
            assert (inner.reserved, outer.reserved) == (Decimal("0.04"), Decimal("0.06"))
        with pytest.raises(BudgetExceeded):
            b.reserve("$0.05")  # the outer run's
        with b.run("$1"), pytest.raises(BudgetExceeded):
            b.reserve("$0.05")
        assert outer.calls == 2


def test_a_run_continued_elsewhere(sqlite_url: str, make_budget: Make) -> None:
    one, two = make_budget(sqlite_url), make_budget(sqlite_url)
    with one.run("$0.05", cap="$0.04", user="alice") as run:
        one.reserve("$0.03")
        with two.run_from_headers(run.to_headers()) as again:
            assert (again.id, again.scope) == (run.id, run.scope)
            assert again.refresh().reserved == Decimal("0.03")
            with pytest.raises(BudgetExceeded):
                two.reserve("$0.03")
            two.reserve("$0.02")
        assert run.refresh().remaining == 0
    with two.run("$0.05", id=run.id), pytest.raises(BudgetExceeded):
        two.reserve("$0.01")
    for wrong in ({}, {"x-budget-run": "!!"}, {"x-budget-run": "e30="}):
        with pytest.raises(ConfigError):
            two.run_from_headers(wrong)


def test_the_guards_of_a_run(b: Budget) -> None:
    with b.run(cap="$0.05", max_calls=2, user="alice") as run:
        with pytest.raises(CapExceeded):
            b.reserve("$0.06")
        b.refund(b.reserve("$0.05"))  # a refund gives the call back
        b.reserve("$0.05")
        b.reserve("$0.05")
        with pytest.raises(RunStopped) as caught:
            b.reserve("$0")
        assert (caught.value.unit, run.calls) == ("requests", 2)
    with b.run(deadline=1e-9), pytest.raises(RunStopped) as caught:
        b.reserve("$0")
    assert "deadline" in str(caught.value)


def test_a_run_crosses_tasks(b: Budget) -> None:
    async def main() -> None:
        async with b.run("$0.10", user="alice") as run:
            held = await asyncio.gather(*(b.aio.reserve("$0.01") for _ in range(10)))
            assert {r.scope["run"] for r in held} == {run.id}
            with pytest.raises(BudgetExceeded):
                await asyncio.create_task(b.aio.reserve("$0.01"))
            assert run.reserved == Decimal("0.1")
            assert (await asyncio.to_thread(b.check, "$0")).admitted

    asyncio.run(main())


def test_a_run_belongs_to_one_engine(b: Budget, make_budget: Make) -> None:
    other = make_budget("memory://")
    with b.run("$1"), pytest.raises(ConfigError, match="engine"):
        other.reserve("$0.1")
    with b.run(user="alice"):  # attributes alone are anybody's
        assert other.reserve("$0.1").scope["user"] == "alice"


def test_a_limit_per_run(budget_factory: Make) -> None:
    b = budget_factory(limits=["$0.10/run"])
    b.reserve("$0.10")
    b.reserve("$0.10")  # outside a run each call is its own
    with pytest.raises(BudgetExceeded):
        b.reserve("$0.11")
    with b.run():
        b.reserve("$0.06")
        with b.run():
            with pytest.raises(BudgetExceeded):
                b.reserve("$0.05")  # of the run around it
            b.reserve("$0.04")


# The same id.


def test_idempotency(sqlite_url: str, make_budget: Make) -> None:
    one, two = make_budget(sqlite_url, limits=["$1/day"]), make_budget(sqlite_url, limits=["$1/day"])
    first = one.reserve("$0.60", user="alice", id=ID)
    assert two.reserve("$0.60", user="alice", id=ID) == first
    for change in ({"user": "bob"}, {"what": "$0.61"}, {"lease": 5}, {"tokens": 3}, {"parent": ID}):
        with pytest.raises(ReservationConflict):
            two.reserve(**{"what": "$0.60", "user": "alice", "id": ID, **change})
    assert money(two.status()) == [("0", "0.6", "0.4")]
    two.reconcile(ID, usd="0.5")
    assert one.reserve("$0.60", user="alice", id=ID).state == "reconciled"
    assert one.reconcile(ID, usd="0.5").charged == two.reconcile(ID, usd="0.5").charged
    assert kinds(one) == ["reserved", "reconciled"]


def test_a_refusal_is_not_kept(b: Budget) -> None:
    held = b.reserve("$0.50", user="alice")
    with pytest.raises(BudgetExceeded):
        b.reserve("$0.10", user="alice", id=ID)
    b.refund(held)
    assert b.reserve("$0.10", user="alice", id=ID).id == ID


# Bad input.

HUGE = "x" * 10_000
BAD_RESERVES: list[tuple[type[BudgetError], dict[str, Any]]] = [
    (ConfigError, {"what": Decimal("NaN")}),
    (ConfigError, {"what": Decimal("sNaN")}),
    (ConfigError, {"what": Decimal("Infinity")}),
    (ConfigError, {"what": Decimal(-1)}),
    (ConfigError, {"what": Decimal("1e-50")}),
    (ConfigError, {"what": Decimal("1e999999")}),
    (ConfigError, {"what": "NaN"}),
    (ConfigError, {"what": "$-1"}),
    (ConfigError, {"what": "-1"}),
    (ConfigError, {"what": "$1e400"}),
    (ConfigError, {"what": "1e2"}),
    (ConfigError, {"what": "1_000"}),
    (ConfigError, {"what": "１２"}),
    (ConfigError, {"what": ""}),
    (ConfigError, {"what": "5 EUR"}),
    (ConfigError, {"what": "9007199.254740992"}),
    (ConfigError, {"what": "0.0000000001"}),
    (ConfigError, {}),
    (ArgumentTypeError, {"what": 0.1}),
    (ArgumentTypeError, {"what": float("nan")}),
    (ArgumentTypeError, {"what": True}),
    (ArgumentTypeError, {"what": 1}),
    (ArgumentTypeError, {"what": b"1"}),
    (ArgumentTypeError, {"what": ["1"]}),
    (ArgumentTypeError, {"tokens": 1.5}),
    (ArgumentTypeError, {"tokens": True}),
    (ArgumentTypeError, {"tokens": "5"}),
    (ConfigError, {"tokens": -1}),
    (ConfigError, {"tokens": 2**53}),
    (ConfigError, {"user": "new\nline"}),
    (ConfigError, {"user": "\x1b[2J"}),
    (ConfigError, {"user": "\x00"}),
    (ConfigError, {"user": "\x85"}),
    (ConfigError, {"user": HUGE}),
    (ConfigError, {"user": "é" * 129}),
    (ConfigError, {"user": ""}),
    (ConfigError, {"user": "\ud800"}),
    (ArgumentTypeError, {"user": 7}),
    (ArgumentTypeError, {"user": None}),
    (ConfigError, {"per": "x"}),
    (ConfigError, {"a b": "x"}),
    (ConfigError, {"id": "abc"}),
    (ConfigError, {"id": "G" * 32}),
    (ArgumentTypeError, {"id": 5}),
    (ConfigError, {"parent": "abc"}),
    (ConfigError, {"lease": 0}),
    (ConfigError, {"lease": -1}),
    (ConfigError, {"lease": float("nan")}),
    (ConfigError, {"lease": float("inf")}),
    (ArgumentTypeError, {"lease": True}),
    (ArgumentTypeError, {"lease": "60"}),
    (UnknownModel, {"what": None, "model": "no-such-model", "messages": HELLO, "max_tokens": 8}),
    (BudgetError, {"what": None, "model": MODEL, "messages": HELLO, "max_tokens": -8}),
    (BudgetError, {"what": None, "model": MODEL, "messages": HELLO, "max_tokens": "8"}),
    (ConfigError, {"messages": HELLO}),
]


def bad_id(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 50 else text[:47] + "..."


@pytest.mark.parametrize(("kind", "arguments"), BAD_RESERVES, ids=bad_id)
def test_a_bad_argument_changes_nothing(b: Budget, kind: type[BudgetError], arguments: dict[str, Any]) -> None:
    b.reserve("$0.10", user="alice")
    given = {"what": "$0.10", "user": "alice", **arguments} if arguments else {}
    with unchanged(b):
        for verb in (b.reserve, b.check, b.reservation):
            if verb == b.check and arguments.keys() & {"id", "lease", "parent"}:
                continue
            if verb == b.reservation and arguments.keys() & {"id", "parent"}:
                continue
            with pytest.raises(kind) as caught:
                verb(**given)
            assert len(str(caught.value)) < 600
        with pytest.raises(kind):
            asyncio.run(b.aio.reserve(**given))


BAD_ENDS: list[tuple[type[BudgetError], dict[str, Any]]] = [
    (ConfigError, {}),
    (ConfigError, {"usage": {"input_tokens": 1}, "usd": "1"}),
    (ConfigError, {"usage": {"input_tokens": 1, "output_tokens": 1}}),  # of which model?
    (ConfigError, {"usage": {"input_tokens": -1, "output_tokens": 1}, "model": MODEL}),
    (ConfigError, {"usage": {"input_tokens": 1}, "model": MODEL, "tokens": 5}),
    (ArgumentTypeError, {"usage": {"input_tokens": 1.0}, "model": MODEL}),
    (ArgumentTypeError, {"usage": {"input_tokens": True}, "model": MODEL}),
    (ArgumentTypeError, {"usage": {"words": 3}, "model": MODEL}),
    (ArgumentTypeError, {"usage": "12 tokens", "model": MODEL}),
    (UnknownModel, {"usage": {"input_tokens": 1}, "model": "no-such-model"}),
    (ArgumentTypeError, {"usd": 0.1}),
    (ArgumentTypeError, {"usd": 1}),
    (ArgumentTypeError, {"usd": True}),
    (ConfigError, {"usd": "-1"}),
    (ConfigError, {"usd": "$1e400"}),
    (ConfigError, {"usd": Decimal("NaN")}),
    (ConfigError, {"usd": "99999999999999999999"}),
    (ConfigError, {"usd": "1", "tokens": -1}),
    (ArgumentTypeError, {"usd": "1", "tokens": 1.0}),
]


@pytest.mark.parametrize(("kind", "arguments"), BAD_ENDS, ids=bad_id)
def test_a_bad_cost_changes_nothing(b: Budget, kind: type[BudgetError], arguments: dict[str, Any]) -> None:
    held = b.reserve("$0.10", user="alice")
    with unchanged(b):
        for act in (lambda: b.reconcile(held, **arguments), lambda: b.record(**arguments)):
            with pytest.raises(kind):
                act()
    for wrong, error in ((None, ArgumentTypeError), (7, ArgumentTypeError), ("abc", ConfigError)):
        with unchanged(b):
            for verb in (b.refund, lambda r: b.reconcile(r, usd="1")):
                with pytest.raises(error):
                    verb(wrong)


def test_a_cost_that_no_ledger_can_hold(b: Budget) -> None:
    """A usage is untrusted input: 2^53 tokens at a price are above what an entry can hold, on every store."""
    held = b.reserve(b.estimate_counts("cheap", input_tokens=10, output_tokens=10), user="alice")
    with unchanged(b), pytest.raises(BudgetError):
        b.reconcile(held, Usage(output=2**53 - 1), model="dear")
    with unchanged(b), pytest.raises(BudgetError):
        b.record(Usage(output=2**53 - 1), model="dear")


def test_a_zero_price_on_purpose(b: Budget) -> None:
    estimate = b.estimate(model="free", messages=HELLO, max_tokens=100)
    assert (estimate.usd_max, estimate.closed) == (0, True)
    b.record(usd="5", user="alice")  # every pool is overrun, and still
    b.reconcile(b.reserve(estimate, user="alice"), Usage(input=10, output=10))
    assert b.status()[0].spent == Decimal(5)


def test_tokens_are_needed_where_a_limit_counts_them(budget_factory: Make) -> None:
    b = budget_factory(limits=["100 tokens/day"])
    with unchanged(b), pytest.raises(ConfigError, match="tokens="):
        b.reserve("$1")
    b.reserve("$1", tokens=60)
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$1", tokens=41)
    assert (caught.value.unit, caught.value.available) == ("tokens", 40)


def test_unpriced_models(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/day", "2000 tokens/day"], on_unpriced="allow")
    held = b.reserve(model="my-own", messages=HELLO, max_tokens=100)
    assert held.usd == 0
    b.reconcile(held, {"input_tokens": 50, "output_tokens": 60})
    assert [str(p.spent) for p in b.status()] == ["0", "110"]
    assert list(b.entries())[-1].detail["unpriced"] is True


def test_unbounded_requests(budget_factory: Make) -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    request: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 100, "tools": tools}
    strict, lax = (
        budget_factory(limits=["$1/day"]),
        budget_factory(account="lax", limits=["$1/day"], on_unbounded="$0.50"),
    )
    assert not strict.estimate(**request).closed
    with unchanged(strict), pytest.raises(Unbounded) as caught:
        strict.reserve(**request)
    assert caught.value.reasons
    assert lax.reserve(**request).usd == Decimal("0.5")
    with pytest.raises(BudgetExceeded):
        (
            lax.reserve(**{**request, "messages": [{"role": "user", "content": "hi " * 9}], "user": "x"}),
            lax.reserve(**request),
        )


# Settings that cannot be used.


BAD_SETTINGS: list[tuple[type[BudgetError], dict[str, Any]]] = [
    (ConfigError, {"store": "mysql://x"}),
    (ConfigError, {"store": "sqlite://x"}),
    (ConfigError, {"store": "sqlite:///"}),
    (ConfigError, {"account": "a/b"}),
    (ConfigError, {"account": ""}),
    (ConfigError, {"account": "x" * 65}),
    (ArgumentTypeError, {"account": 5}),
    (ArgumentTypeError, {"limits": "$5/day"}),
    (ArgumentTypeError, {"limits": [5]}),
    (ConfigError, {"limits": ["$5"]}),
    (ConfigError, {"on_store_error": "hope"}),
    (ConfigError, {"on_unpriced": "maybe"}),
    (ConfigError, {"on_unbounded": "maybe"}),
    (ArgumentTypeError, {"on_unbounded": 0.5}),
    (ConfigError, {"store_timeout": 0}),
    (ConfigError, {"store_timeout": float("nan")}),
    (ArgumentTypeError, {"store_timeout": True}),
    (BudgetError, {"prices": {"m": {"input": "-1", "output": "1"}}}),
    (BudgetError, {"prices": {"m": {"input": 1.5, "output": "1"}}}),
    (ConfigError, {"mode": "chaos"}),
]


@pytest.mark.parametrize(("kind", "settings"), BAD_SETTINGS, ids=bad_id)
def test_bad_settings(kind: type[BudgetError], settings: dict[str, Any]) -> None:
    with pytest.raises(kind):
        Budget(**{"store": "memory://", **settings})
    assert engine_module._default is None


def test_an_argument_nobody_knows() -> None:
    with pytest.raises(TypeError):
        Budget("memory://", limit="$5/day")  # type: ignore[call-arg]


# Configuration.


def test_precedence(monkeypatch: pytest.MonkeyPatch, make_budget: Make, tmp_path: Path) -> None:
    """Argument, then environment, then the nearest budget.toml, then the default."""
    default = make_budget()
    assert default.settings.store == f"sqlite:///{tmp_path / 'xdg' / 'budget' / 'budget.db'}"
    assert (tmp_path / "xdg" / "budget").stat().st_mode & 0o777 == 0o700
    assert default.settings.account == "default"
    Path("budget.toml").write_text('store = "sqlite:///file.db"\naccount = "file"\nstore_timeout = 3\n')
    assert (make_budget().settings.store, make_budget().settings.account) == ("sqlite:///file.db", "file")
    monkeypatch.setenv("BUDGET_STORE", "memory://")
    monkeypatch.setenv("BUDGET_STORE_TIMEOUT", "4.5")
    both = make_budget()
    assert (both.settings.store, both.settings.account, both.settings.timeout) == ("memory://", "file", 4.5)
    assert make_budget("sqlite:///argument.db").settings.store == "sqlite:///argument.db"
    assert make_budget(account="argument", store_timeout=1).settings.account == "argument"
    below = Path("a/b")
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert make_budget().settings.account == "file"  # found in a parent
    Path("budget.toml").write_text('account = "nearer"\n')
    assert make_budget().settings.account == "nearer"


def test_limits_and_prices_of_argument_and_file_are_joined(make_budget: Make) -> None:
    Path("budget.toml").write_text(
        '[[limits]]\nlimit = "$2/day"\nuser = "alice"\ntz = "Europe/Berlin"\n'
        '[[limits]]\nlimit = "10 requests/minute"\nper = "user"\n'
        '[[prices]]\nmodel = "mine"\ninput = "1"\noutput = "2"\n'
    )
    b = make_budget("memory://", limits=["$5/day"], prices={"yours": {"input": "3", "output": "4"}})
    assert [(str(x), x.source, x.tz) for x in b.limits] == [
        ("$5/day", "code", "UTC"),
        ("user=alice $2/day", "file", "Europe/Berlin"),
        ("per=user 10 requests/minute", "file", "UTC"),
    ]
    assert b.cost(Usage(input=10**6), model="mine").usd == 1
    assert b.cost(Usage(input=10**6), model="yours").usd == 3


@pytest.mark.parametrize(
    "text",
    ["stroe = 'x'", "store = ", "[limits]\nlimit = '$5/day'", "[[limits]]\nuser = 'a'", "[[limits]]\nlimit = '$5'",
     "[[limits]]\nlimit = '$5/day'\nmode = 'audit'", "account = 'a b'", "[[prices]]\nmodel = 'm'\ninput = '-1'"],
)  # fmt: skip
def test_a_file_that_is_not_understood(text: str) -> None:
    Path("budget.toml").write_text(text)
    with pytest.raises(ConfigError):
        Budget("memory://")


def test_the_stores_limit_holds_where_both_exist(budget_factory: Make) -> None:
    b = budget_factory(limits=["$5/day"])
    b.limits.set("$1/day")
    (limit,) = b.limits
    assert (limit.source, limit.amount) == ("store", 1)
    with pytest.raises(BudgetExceeded):
        b.reserve("$2")
    b.limits.unset("$1/day")
    assert [x.source for x in b.limits] == ["code"]
    b.reserve("$2")


def test_accounts_are_worlds_apart(sqlite_url: str, make_budget: Make) -> None:
    one, two = make_budget(sqlite_url, limits=["$1/day"]), make_budget(sqlite_url, account="two", limits=["$1/day"])
    one.limits.set("$0.50/day", user="alice")
    held = one.reserve("$0.40", user="alice", id=ID)
    assert two.reserve("$1", user="alice", id=ID).usd == 1
    two.refund(ID)
    assert one.engine.store.reservations("default") == [held]
    assert (money(one.status())[0], money(two.status())[0]) == (("0", "0.4", "0.6"), ("0", "0", "1"))
    assert kinds(two) == ["reserved", "refunded"]


def test_disabled(monkeypatch: pytest.MonkeyPatch, make_budget: Make, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    b = make_budget("memory://", limits=["$1/day"])
    assert len([r for r in caplog.records if "BUDGET_DISABLED" in r.message]) == 1
    held = b.reserve("$5", user="alice")
    assert b.check("$5")
    b.reconcile(held, usd="5")
    b.refund(b.reserve("$5"))
    b.record(usd="5")
    with b.run("$1", max_calls=1), b.reservation("$5") as guard:
        guard.reconcile(usd="5")
        b.reserve("$5")
    asyncio.run(b.aio.reserve("$5"))
    assert kinds(b) == []
    assert money(b.status()) == [("0", "0", "1")]


@pytest.mark.parametrize("value", ["0", "", "false", "no"])
def test_not_disabled(monkeypatch: pytest.MonkeyPatch, make_budget: Make, value: str) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", value)
    with pytest.raises(BudgetExceeded):
        make_budget("memory://", limits=["$1/day"]).reserve("$5")


def test_disabled_by_a_word_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUDGET_DISABLED", "perhaps")
    with pytest.raises(ConfigError):
        Budget("memory://")


# Engines.


def test_the_default_engine(make_budget: Make) -> None:
    first, second = make_budget("memory://"), make_budget("memory://")
    assert engine_module.default_engine() is first
    first.close()
    third = make_budget("memory://")
    assert engine_module.default_engine() is third
    assert second is not third
    third.close()
    made = engine_module.default_engine()
    assert engine_module.default_engine() is made
    made.close()


def test_close(sqlite_url: str) -> None:
    with Budget(sqlite_url, limits=["$1/day"]) as b:
        b.reserve("$0.5")
    b.close()
    with Budget(sqlite_url, limits=["$1/day"]) as b:
        assert b.status()[0].reserved == Decimal("0.5")

    async def main() -> None:
        b = Budget(sqlite_url, limits=["$1/day"])
        await b.aio.reserve("$0.1")
        b.close()

    asyncio.run(main())
    assert not Path(sqlite_url.removeprefix("sqlite:///") + "-wal").exists()


def test_nothing_tells_the_stores_url(sqlite_url: str, make_budget: Make) -> None:
    assert sqlite_url not in repr(make_budget(sqlite_url))
    with pytest.raises(ConfigError) as caught:
        Budget("redis://user:secret@host:port/0")
    assert "secret" not in str(caught.value)


def test_no_prompt_is_kept(sqlite_url: str, make_budget: Make, tmp_path: Path) -> None:
    canary = "CANARY-7f3a"
    b = make_budget(sqlite_url, limits=["$1/day"], prices=PRICES)
    request: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": canary}], "system": canary}
    estimate = b.estimate(**request, max_tokens=100)
    held = b.reserve(estimate, user="alice")
    b.reconcile(held, {"model": MODEL, "content": [{"type": "text", "text": canary}], "usage": {"input_tokens": 1}})
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve(**{**request, "model": "dear"}, max_tokens=10**6)
    shown = [str(caught.value), repr(caught.value), repr(caught.value.to_dict()), repr(estimate), repr(held)]
    shown += [repr(entry) for entry in b.entries()]
    assert canary not in "".join(shown)
    assert canary.encode() not in pickle.dumps(caught.value)
    b.close()
    assert canary.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())


def test_no_engine_is_kept_alive(sqlite_url: str) -> None:
    import weakref

    b = Budget(sqlite_url)
    second = Budget(sqlite_url)
    second.reserve("$1")
    second.close()
    gone = weakref.ref(second.engine.store)
    del second
    gc.collect()
    assert gone() is None
    b.close()


def test_a_refusal_names_its_limits_in_the_ledger(make_budget: Make) -> None:
    b = make_budget(limits=["user=alice $1/day", "$0.50/request"])
    with pytest.raises(CapExceeded):
        b.reserve("$2", user="alice")
    (entry,) = b.entries()
    assert entry.kind == "refused"
    assert [no["limit"] for no in entry.detail["refused"]] == ["user=alice $1/day", "$0.5/request"]
    assert entry.detail["refused"][1]["pool"] is None


def test_a_run_shows_its_own_pool_beside_a_cap(make_budget: Make) -> None:
    b = make_budget(limits=["$0.50/request"])
    with b.run("$1") as run:
        b.reserve("$0.40")
        assert (run.reserved, run.remaining) == (Decimal("0.4"), Decimal("0.6"))


def test_a_run_without_a_limit_learns_of_an_end_that_nobody_waits_for(make_budget: Make) -> None:
    b = make_budget()
    with b.run() as run:
        guard = b.reservation("$0.40").begin()
        assert (run.reserved, run.calls) == (Decimal("0.4"), 1)
        guard.post(*guard.unanswered(None, None))
        assert (run.spent, run.reserved, run.calls) == (Decimal("0.4"), Decimal(0), 1)


def test_a_limit_of_a_model_holds_for_its_snapshots(make_budget: Make) -> None:
    b = make_budget(limits=["model=claude-sonnet-4-5 $1/day"])
    b.record({"input_tokens": 100_000, "output_tokens": 10}, model="claude-sonnet-4-5-20250929")
    (pool,) = b.status()
    assert pool.spent == Decimal("0.30015")
    with pytest.raises(BudgetExceeded):
        b.reserve("$0.80", model="claude-sonnet-4-5-20250929")
