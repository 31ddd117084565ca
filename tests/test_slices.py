"""Slices: decided here, exact in the pools, gone after their time; and the allowance for when the store is away."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import books
from redisserver import RedisServer, need_server

from budget import Budget, BudgetExceeded, Limit
from budget.commands import Command, Draw, Outcome, Reconcile, Record, Refund, Renew, Reserve
from budget.errors import ConfigError, StoreUnavailable
from budget.slices.slices import LIFE, SHARE, Slices
from budget.stores.base import Store
from budget.window import FOREVER

USD = 1_000_000_000


class Desk:
    """An engine's part around slices: commands go to a store, and are counted."""

    def __init__(self, store: Store, speed: int = 0, allowance: int = 0):
        self.store, self.sent, self.made, self.kept = store, [], 0, set()
        self.slices = Slices(speed, allowance, self.id, self.post, self.keep, self.kept.discard)

    def id(self) -> str:
        self.made += 1
        return f"{self.made:032x}"

    def keep(self, id: str, lease_us: int) -> None:
        self.kept.add(id)

    def post(self, command: Command) -> None:
        self.call(command)

    def call(self, command: Command) -> Outcome:
        self.sent.append(command)
        return self.store.call("default", command, 30.0)

    def do(self, command: Command, own: bool = True) -> Outcome:
        steps = self.slices.steps(command, own)
        try:
            asked = next(steps)
            while True:
                asked = steps.send(self.call(asked))
        except StopIteration as end:
            return end.value

    def reserve(self, amount: int, limit: int = 100, version: int = 0, **more: Any) -> Outcome:
        pools = [Draw(p, p, 0, limit, amount, *more.get("window", (0, FOREVER)), 0, "t") for p in ("a", "b")]
        draws = [*pools, *more.get("draws", ())]
        scope = {"user": "u"}
        asked = Reserve(self.id(), "d", (amount, 0, 0, 0, 1), draws, version, 60_000_000, scope, {"n": 1},
                        more.get("frozen"))  # fmt: skip
        return self.do(asked, more.get("own", True))

    def pool(self, name: str = "a") -> tuple[int, int]:
        found = [b for (pool, _), b in self.store.snapshot("default").buckets.items() if pool == name]
        return sum(b.spent for b in found), sum(b.reserved for b in found)

    def slices_bought(self) -> list[Reserve]:
        return [c for c in self.sent if isinstance(c, Reserve) and c.detail.keys() & {"slice", "allowance"}]

    def over(self) -> None:
        """Wait until the slices are over."""
        eventually(lambda: not self.slices._living)


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.01)


@pytest.fixture
def desk(store: Store) -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(**options: int) -> Desk:
        made.append(Desk(store, **options))
        return made[-1]

    yield make
    for each in made:
        each.slices.close()


def test_the_second_call_buys_a_slice_and_the_next_need_no_store(desk: Callable[..., Desk]) -> None:
    it = desk(speed=100)
    it.reserve(1, limit=1000)
    it.reserve(1, limit=1000)
    before = len(it.sent)
    ids = [it.reserve(1, limit=1000).reservation.id for _ in range(50)]  # type: ignore[union-attr]
    assert len(it.sent) == before
    assert len(set(ids)) == 50
    assert [c.amounts[0] for c in it.slices_bought()] == [100]
    assert it.pool() == (0, 101)


def test_a_machine_that_has_just_been_started(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock begins at 0, and nothing was heard of any pool all the same."""
    began = time.monotonic()
    for module in ("slice", "slices"):
        monkeypatch.setattr(f"budget.slices.{module}.monotonic", lambda: time.monotonic() - began)
    made = desk(speed=1000, allowance=1000)
    assert made.reserve(1).status == "reserved"
    assert made.slices_bought() == []


def test_never_more_than_fits_and_all_that_fits(desk: Callable[..., Desk]) -> None:
    first, second = desk(speed=40), desk(speed=40)
    second.made = 1 << 100
    admitted = [(it, o) for _ in range(200) for it in (first, second) if (o := it.reserve(1)).status == "reserved"]
    for it, outcome in admitted:
        it.do(Reconcile(outcome.reservation.id, (1, 0, 0, 0, 1), {}))  # type: ignore[union-attr]
    for it in (first, second):
        it.slices.close()
    # What one had bought and not used was kept from the other: refused early, never admitted too often.
    assert 100 - 2 * 100 // SHARE <= len(admitted) <= 100
    assert first.pool() == (len(admitted), 0)
    while first.reserve(1).status == "reserved":
        admitted.append((first, None))  # type: ignore[arg-type]
    assert len(admitted) == 100
    assert books(first.store).faults == []


def test_slices_taper(desk: Callable[..., Desk]) -> None:
    it = desk(speed=1_000_000)
    while it.reserve(1).status == "reserved":
        pass
    sizes = [c.amounts[0] or 0 for c in it.slices_bought()]
    assert sizes[0] == 99 // SHARE
    assert sizes == sorted(sizes, reverse=True)
    assert it.pool() == (0, 100)


def test_an_end_moves_the_pools_exactly_and_is_one_entry(desk: Callable[..., Desk]) -> None:
    it = desk(speed=50)
    it.reserve(10, limit=1000)
    call = it.reserve(10, limit=1000).reservation
    assert call is not None
    assert it.pool() == (0, 60)
    done = it.do(Reconcile(call.id, (7, None, None, None, None), {"usage": "u"}))
    assert done.status == "reconciled"
    assert done.reservation is not None
    assert done.reservation.charged == (7, 0, 0, 0, 1)
    assert it.pool() == (7, 50)
    entry = it.store.entries("default", 0)[-1]
    assert (entry.kind, entry.reservation, entry.amounts[0], entry.scope) == ("recorded", call.id, 7, {"user": "u"})
    assert entry.detail["n"] == 1
    assert entry.detail["usage"] == "u"
    assert it.do(Reconcile(call.id, (7, None, None, None, None), {})).status == "repeated"
    assert it.pool() == (7, 50)


def test_an_overrun_is_booked_in_full(desk: Callable[..., Desk]) -> None:
    it = desk(speed=20)
    it.reserve(10, limit=1000)
    call = it.reserve(10, limit=1000).reservation
    assert call is not None
    it.do(Reconcile(call.id, (500, None, None, None, None), {}))
    it.slices.close()
    assert it.pool() == (500, 10)
    assert books(it.store).faults == []


def test_a_refund_stays_here_and_is_given_out_again(desk: Callable[..., Desk]) -> None:
    it = desk(speed=12)
    it.reserve(1)
    for _ in range(40):
        call = it.reserve(1).reservation
        assert call is not None
        assert it.do(Refund(call.id)).status == "refunded"
    assert len(it.slices_bought()) <= 5  # a retired or an empty one takes in what comes back only when it looks
    it.over()
    assert it.pool() == (0, 1)


def test_a_slice_ends_by_itself_with_calls_still_running(desk: Callable[..., Desk]) -> None:
    it = desk(speed=30)
    it.reserve(1, limit=1000)
    call = it.reserve(5, limit=1000).reservation
    assert call is not None
    eventually(lambda: it.pool() == (0, 6))  # what nobody took is back, what runs is not
    assert it.do(Renew(call.id, 1)).status == "renewed"
    it.do(Reconcile(call.id, (3, None, None, None, None), {}))
    it.over()
    assert it.pool() == (3, 1)
    assert it.kept == set()
    assert len(it.store.reservations("default")) == 1
    assert books(it.store).faults == []


def test_another_policy_is_asked_of_the_store(desk: Callable[..., Desk]) -> None:
    it = desk(speed=50)
    it.reserve(1)
    it.reserve(1)
    assert it.reserve(1, version=7).status == "stale_policy"


def test_what_is_never_decided_from_a_slice(desk: Callable[..., Desk]) -> None:
    it = desk(speed=50)
    it.reserve(1, limit=1000)
    it.reserve(1, limit=1000)
    before = len(it.sent)
    it.reserve(1, limit=1000, own=False)
    it.reserve(1, limit=1000, frozen="{}")
    assert len(it.sent) == before + 2
    slot = Draw("slots", "slots", 5, 5, 1, 0, FOREVER, 0, "t")
    watch = Draw("w", "w", 0, 5, 1, 0, FOREVER, 0, "t", shadow=True)
    for more in (slot, watch):
        bought = len(it.slices_bought())
        for _ in range(3):
            it.reserve(1, limit=1000, draws=[more])
        assert len(it.slices_bought()) == bought


def test_a_cap_is_the_stores_to_refuse(desk: Callable[..., Desk]) -> None:
    it = desk(speed=500)
    cap = Draw(None, "cap", 0, 5, 1, 0, FOREVER, 0, "$5/request")
    for _ in range(3):
        assert it.reserve(1, limit=1000, draws=[cap]).status == "reserved"
    big = cap._replace(amount=9)
    refused = it.reserve(9, limit=1000, draws=[big])
    assert refused.status == "refused"
    assert it.store.entries("default", 0)[-1].kind == "refused"


@pytest.mark.parametrize("first", [True, False])
def test_what_is_answered_beside_a_cap_is_what_the_store_answers(desk: Callable[..., Desk], first: bool) -> None:
    it = desk(speed=500)
    pool = [Draw("requests", "r", 4, 1000, 1, 0, FOREVER, 0, "t")]
    cap = [Draw(None, "cap", 0, 500, 30, 0, FOREVER, 0, "$500/request")]
    draws = [*(cap if first else pool), *(pool if first else cap)]
    asked = [it.reserve(30, limit=10_000, draws=draws) for _ in range(3)]
    assert it.slices_bought()
    assert len(it.sent) == 2  # the first call, and a slice
    for outcome in asked:
        buckets = dict(zip(["a", "b", *(draw.pool for draw in draws)], outcome.buckets, strict=True))
        assert [buckets[name].reserved % 30 for name in "ab"] == [0, 0]
        assert 0 < buckets["requests"].reserved <= 50
        shares = [(share.pool, share.amount) for share in outcome.reservation.shares]
        assert shares == [("a", 30), ("b", 30), ("requests", 1)]


def test_a_slice_never_outlives_its_window(desk: Callable[..., Desk], store: Store) -> None:
    it = desk(speed=50)
    store.snapshot("default")  # it is open
    now = time.time_ns() // 1000
    window = (now - 1_000_000, now + 700_000)  # less than a slice lives
    it.reserve(1, window=window)
    it.reserve(1, window=window)
    assert it.slices_bought()
    time.sleep(0.71)
    assert it.reserve(1, window=window).status == "stale_window"


def test_threads_share_slices(desk: Callable[..., Desk]) -> None:
    it = desk(speed=200)
    lock, outcomes = threading.Lock(), []

    def work() -> None:
        for _ in range(100):
            with lock:
                command = Reserve(it.id(), "d", (1, 0, 0, 0, 1), [Draw("a", "a", 0, 300, 1, 0, FOREVER, 0, "t")], 0,
                                  60_000_000, {}, {})  # fmt: skip
            outcomes.append(it.do(command))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    admitted = [o for o in outcomes if o.status == "reserved"]
    assert 300 - 300 // SHARE <= len(admitted) <= 300
    for outcome in admitted:
        it.do(Reconcile(outcome.reservation.id, (1, 0, 0, 0, 1), {}))  # type: ignore[union-attr]
    it.slices.close()
    assert it.pool() == (len(admitted), 0)


def test_what_nobody_waits_for_is_handed_over(desk: Callable[..., Desk]) -> None:
    it = desk(speed=50)
    it.reserve(1, limit=1000)
    kept, back = (it.reserve(5, limit=1000).reservation for _ in range(2))
    assert kept is not None
    assert back is not None
    it.slices.posted(Renew(kept.id, 5))
    it.slices.posted(Reconcile(kept.id, (None,) * 5, {}))
    it.slices.posted(Refund(back.id))
    it.slices.posted(Refund(back.id))
    assert [type(c) for c in it.sent if isinstance(c, Record)] == [Record]
    it.slices.close()
    assert it.pool() == (5, 1)


# The allowance.


def test_an_allowance_is_bought_once_and_touched_only_without_the_store(desk: Callable[..., Desk]) -> None:
    it = desk(allowance=20)
    for _ in range(10):
        it.reserve(1, limit=1000)
    assert [c.amounts[0] for c in it.slices_bought()] == [20]
    assert it.pool() == (0, 30)
    draws = [Draw(p, p, 0, 1000, 4, 0, FOREVER, 0, "t") for p in ("a", "b")]
    taken = [it.slices.without_store(Reserve(it.id(), "d", (4, 0, 0, 0, 1), draws, 99, 1, {}, {})) for _ in range(8)]
    assert [o is not None for o in taken] == [True] * 5 + [False] * 3
    for outcome in taken[:5]:
        assert outcome is not None
        it.do(Reconcile(outcome.reservation.id, (3, 0, 0, 0, 1), {}))  # type: ignore[union-attr]
    it.reserve(4, limit=1000)  # the store is back, and the allowance is made whole
    it.slices.close()
    assert it.pool() == (15, 14)
    assert books(it.store).faults == []


def test_pools_nobody_called_on_have_no_allowance(desk: Callable[..., Desk]) -> None:
    it = desk(allowance=20)
    it.reserve(1)
    it.reserve(1)
    other = [Draw("z", "z", 0, 100, 1, 0, FOREVER, 0, "t")]
    assert it.slices.without_store(Reserve(it.id(), "d", (1, 0, 0, 0, 1), other, 0, 1, {}, {})) is None


# Through `Budget`.


def test_a_budget_with_slices_keeps_its_promises(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=["$1/month", "$0.50/day"], slices="$0.10")
    admitted = until_refused(budget, "$0.001", BudgetExceeded)
    assert len(admitted) == 500
    for reservation in admitted[:300]:
        budget.reconcile(reservation, usd="0.0005")
    for reservation in admitted[300:]:
        budget.refund(reservation)
    budget.close()
    assert [(str(p.spent), str(p.reserved)) for p in budget.status()] == [("0.15", "0")] * 2
    recorded = [e for e in budget.entries() if e.kind in ("recorded", "reconciled") and e.amounts[0]]
    assert len(recorded) == 300
    assert books(budget.engine.store).faults == []


def test_a_lowered_limit_holds_within_the_life_of_a_slice(shared_url: str, make_budget: Callable[..., Budget]) -> None:
    budget = make_budget(shared_url, slices="$1")
    budget.limits.set("$100/day")
    for _ in range(3):
        budget.reserve("$0.01")
    make_budget(shared_url).limits.set("$0/day")
    assert len(until_refused(budget, "$0.01", BudgetExceeded, pause=0.01)) <= 150 * LIFE


def test_a_dropped_block_is_charged_from_the_slice(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=["$100/day"], slices="$1")
    for _ in range(3):
        budget.refund(budget.reserve("$0.01"))
    budget.reservation("$0.01").begin()
    gc.collect()
    budget.close()
    (pool,) = budget.status()
    assert (str(pool.spent), str(pool.reserved)) == ("0.01", "0")


def test_a_run_and_warnings_beside_a_cap_look_at_their_own_pools(budget_factory: Callable[..., Budget]) -> None:
    warned: list[Any] = []
    limits = ["$0.50/request", Limit("1000000 requests/day", warn="50%"), Limit("$10/day", warn="50%")]
    budget = budget_factory(limits=limits, slices="$1", on_warning=warned.append)
    with budget.run("$1", max_calls=1000) as run:
        for _ in range(10):
            budget.reconcile(budget.reserve("$0.01"), usd="0.01")
        assert run.spent + run.reserved >= Decimal("0.10")
        assert 10 <= run.calls <= 50
        assert run.remaining == 1 - run.spent - run.reserved
    budget.close()
    assert (run.refresh().spent, run.reserved, run.calls) == (Decimal("0.1"), 0, 10)
    assert warned == []


def until_refused(budget: Budget, amount: str, error: type[Exception], **options: Any) -> list[Any]:
    """Reserve until that raises, and return what was reserved."""
    admitted = []
    with pytest.raises(error):  # noqa: PT012 - which one it is cannot be said
        while len(admitted) < 1000:
            admitted.append(budget.reserve(amount, user="u"))
            time.sleep(options.get("pause", 0))
    return admitted


def test_bad_slices(tmp_path: Path) -> None:
    for wrong in ("$0", "$-1", "all"):
        with pytest.raises(ConfigError, match="slices"):
            Budget("memory://", slices=wrong)


@pytest.mark.parametrize("limits", [["$100/day"], ["$1/request", "$100/day"], ["$100/day", "$1/request"]])
def test_the_allowance_lets_so_much_through_and_no_more(
    tmp_path: Path, make_budget: Callable[..., Budget], limits: list[str]
) -> None:
    need_server()
    server = RedisServer(tmp_path, appendonly="yes", appendfsync="always")
    try:
        budget = make_budget(server.url, limits=limits, on_store_error="local_allowance:$0.05")
        calls = [budget.reserve("$0.01", user="u") for _ in range(3)]
        budget.engine.timeout = 0.25
        server.kill()
        through = until_refused(budget, "$0.01", StoreUnavailable)
        assert len(through) == 5
        for reservation in [*calls, *through]:
            budget.reconcile(reservation, usd="0.004")
        server.start()
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                (pool,) = budget.status()
                if str(pool.spent) == "0.032":
                    break
            except StoreUnavailable:
                pass
            time.sleep(0.05)
        budget.engine.timeout = 30.0
        budget.close()
        (pool,) = budget.status()
        assert (str(pool.spent), str(pool.reserved)) == ("0.032", "0")
        assert books(budget.engine.store).faults == []
    finally:
        server.stop()


@pytest.mark.parametrize("limit", ["$20/7d rolling", "8 concurrent", Limit("$3/day", per="user", mode="shadow")])
def test_where_there_is_no_allowance_it_is_said_once(
    limit: object, make_budget: Callable[..., Budget], caplog: pytest.LogCaptureFixture
) -> None:
    budget = make_budget("memory://", limits=["$5/day", limit], on_store_error="local_allowance:$1")
    for user in ("alice", "bob"):
        budget.refund(budget.reserve("$0.1", user=user))
    assert [record.message for record in caplog.records] == [
        "on_store_error: calls that a rolling, concurrency or shadow limit applies to have no allowance; "
        "they are refused while the store is away"
    ]
    assert not any("allowance" in entry.detail for entry in budget.entries())
