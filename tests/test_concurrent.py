"""Calls at once: a slot is taken when a call is reserved, held while it is under way, and back when it ends."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import anthropic
import pytest
from conftest import books, python

from budget import Budget, BudgetExceeded, ConfigError, Limit
from budget.demo.provider import Provider
from budget.pool import SWEEP
from budget.pools import Pool

Make = Callable[..., Budget]
MODEL = "claude-sonnet-4-6"
REQUEST: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "hello there"}]}
SLOTS, CALLS = 3, 24
SOON = 30.0  # seconds that something may take that is waited for


def slots(budget: Budget, **scope: str) -> Pool:
    """The one concurrency pool of such calls."""
    (found,) = (pool for pool in budget.status(**scope) if pool.unit == "concurrent")
    return found


def taken(budget: Budget, **scope: str) -> int:
    pool = slots(budget, **scope)
    assert pool.spent == 0
    return int(pool.reserved)


def wait_for(true: Callable[[], object]) -> None:
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until, "it does not come true"
        time.sleep(0.02)


# The pool and its refusals.


def test_a_slot_is_reserved_and_never_spent(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit("2 concurrent", per="user"), "$5/day"])
    held = budget.reserve("$0.40", user="alice")
    pool = slots(budget, user="alice")
    assert (pool.limit.amount, pool.spent, pool.reserved, pool.available, pool.resets_at) == (2, 0, 1, 1, None)
    assert {type(n) for n in (pool.spent, pool.reserved, pool.available)} == {int}
    shown = pool.to_dict()
    assert (shown["limit"], shown["unit"], shown["spent"], shown["reserved"], shown["available"], shown["resets_at"]) \
        == ("per=user 2 concurrent", "concurrent", 0, 1, 1, None)  # fmt: skip
    assert taken(budget, user="bob") == 0
    budget.reconcile(held, usd="0.90")
    assert taken(budget, user="alice") == 0
    budget.refund(budget.reserve("$0.40", user="alice"))
    assert taken(budget, user="alice") == 0
    assert budget.record(usd="0.10", user="alice").state == "reconciled"
    assert taken(budget, user="alice") == 0
    assert [str(pool.spent) for pool in budget.status() if pool.unit == "usd"] == ["1"]
    assert books(budget.engine.store).faults == []


def test_what_costs_nothing_takes_a_slot(budget_factory: Make) -> None:
    budget = budget_factory(limits=["1 concurrent"])
    held = budget.reserve("$0")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0")
    budget.refund(held)
    assert budget.reserve("$0").state == "open"


def test_a_refusal_says_what_is_taken(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit("1 concurrent", per="user"), "$100/day"])
    held = budget.reserve("$0.40", user="alice")
    estimate = budget.estimate(**REQUEST)
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(estimate, user="alice")
    e = caught.value
    assert (str(e.limit), e.limit.amount, str(e.subject), e.unit) == (
        "per=user 1 concurrent",
        1,
        "user=alice",
        "concurrent",
    )
    assert (e.spent, e.reserved, e.requested, e.available, e.resets_at, e.verdict) == (0, 1, 1, 0, None, "wait")
    assert {type(n) for n in (e.spent, e.reserved, e.requested, e.available)} == {int}
    assert (len(e.refusals), e.max_tokens) == (1, None)  # a shorter answer needs a slot as well
    assert not e.fits(model="claude-haiku-4-5")
    assert e.to_dict()["requested"] == 1
    assert str(e) == (
        "1 concurrent (user=alice): 0 spent + 1 reserved, needs 1 [wait] "
        "(calls under way hold enough of it: `budget reservations`)"
    )
    decision = budget.check(estimate, user="alice")
    assert not decision
    assert decision.refusal == e.refusal
    budget.refund(held)
    assert e.fits(model="claude-haiku-4-5")
    assert budget.check(estimate, user="alice")
    assert taken(budget, user="alice") == 0  # neither question took one


def test_a_shorter_answer_is_advised_where_only_money_is_short(budget_factory: Make) -> None:
    budget = budget_factory(limits=["2 concurrent", "$0.0005/day"])
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve(budget.estimate(**REQUEST))
    assert caught.value.unit == "usd"
    most = caught.value.max_tokens
    assert most is not None
    assert 0 < most < 50
    assert budget.reserve(budget.estimate(**{**REQUEST, "max_tokens": most})).state == "open"


def test_a_limit_of_zero_never_fits(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit("0 concurrent", user="mallory")])
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("$0", user="mallory")
    assert (caught.value.verdict, caught.value.available) == ("never", 0)
    assert budget.reserve("$0", user="alice").state == "open"


def test_all_pools_or_none(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit("2 concurrent", per="user"), Limit("3 concurrent", per="team"), "$1/day"])
    with pytest.raises(BudgetExceeded):
        budget.reserve("$1.01", user="alice", team="x")
    assert [pool.reserved for pool in budget.status(user="alice", team="x")] == [0, 0, 0]
    for user in ("alice", "alice", "bob"):
        budget.reserve("$0.01", user=user, team="x")
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("$0.01", user="bob", team="x")
    assert [str(refusal.subject) for refusal in caught.value.refusals] == ["team=x"]
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("$2", user="alice", team="x")
    assert [refusal.unit for refusal in caught.value.refusals] == ["concurrent", "concurrent", "usd"]
    assert taken(budget, user="bob") == 1


def test_one_subjects_limit_replaces_the_one_per_subject(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit("2 concurrent", per="user"), Limit("1 concurrent", user="alice")])
    for user, most in (("alice", 1), ("bob", 2)):
        for _ in range(most):
            budget.reserve("$0", user=user)
        with pytest.raises(BudgetExceeded) as caught:
            budget.reserve("$0", user=user)
        assert (len(caught.value.refusals), caught.value.limit.amount) == (1, most)


# Expiry.


def test_expiry_gives_the_slot_back_once(budget_factory: Make) -> None:
    budget = budget_factory(limits=["2 concurrent", "$5/day"])
    lost = [budget.reserve("$0.50", lease=0.05) for _ in range(2)]
    wait_for(lambda: taken(budget) == 0)
    held = budget.reserve("$0.25")
    budget.refund(lost[0])
    budget.reconcile(lost[1], usd="0.10")
    assert taken(budget) == 1
    budget.reconcile(held, usd="0.25")
    pools = {pool.unit: pool for pool in budget.status()}
    assert (str(pools["usd"].spent), pools["usd"].reserved, pools["concurrent"].available) == ("0.35", 0, 2)
    assert books(budget.engine.store).faults == []


def test_a_check_sees_a_slot_that_is_due_and_expires_nothing(budget_factory: Make) -> None:
    """A reserve would expire it first, and then take it."""
    budget = budget_factory(limits=["1 concurrent"])
    budget.reserve("$0", lease=0.3)
    wait_for(lambda: budget.check("$0"))
    assert [entry.kind for entry in budget.entries()] == ["reserved"]
    assert budget.reserve("$0").state == "open"
    assert [entry.kind for entry in budget.entries()] == ["reserved", "expired", "reserved"]


def test_a_slot_of_many_that_are_due_is_back(budget_factory: Make) -> None:
    """One command expires a few of what is due; a slot that nobody holds any more refuses nobody."""
    budget = budget_factory(limits=[Limit("1 concurrent", per="user")])
    for n in range(SWEEP + 10):
        budget.reserve("$0", user=f"u{n}", lease=1.5)
    budget.reserve("$0", user="alice", lease=1.5)
    time.sleep(2)
    assert budget.check("$0", user="alice")
    assert budget.reserve("$0", user="alice").state == "open"
    assert sum(entry.kind == "expired" for entry in budget.entries()) == SWEEP + 11


@pytest.mark.parametrize("attributes", [{}, {"user": "alice"}])
def test_status_shows_all_that_is_due_as_spent(budget_factory: Make, attributes: dict[str, str]) -> None:
    budget = budget_factory(limits=["$5/day", Limit("$5/day", per="user")])
    for _ in range(2 * SWEEP + 10):
        budget.reserve("$0.01", user="alice", lease=2)
    time.sleep(2.5)
    for pool in budget.status(**attributes):
        assert (str(pool.spent), pool.reserved) == ("1.38", 0)


HOLDER = """
import os, signal, sys
from budget import Budget
budget = Budget(sys.argv[1], limits=["1 concurrent"])
print(budget.reserve("$0.40", lease=float(sys.argv[2])).id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_gives_its_slot_back_when_its_lease_ends(shared_url: str) -> None:
    done = python(HOLDER, shared_url, "0.5", check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Budget(shared_url, limits=["1 concurrent"]) as budget:
        wait_for(lambda: taken(budget) == 0)
        budget.refund(budget.reserve("$0.40"))
        assert [entry.kind for entry in budget.entries()] == ["reserved", "expired", "reserved", "refunded"]
        budget.refund(done.stdout.strip())  # its correction has no slot to give back
        assert taken(budget) == 0
        assert books(budget.engine.store).faults == []


def test_until_then_a_killed_process_holds_its_slot(shared_url: str) -> None:
    done = python(HOLDER, shared_url, "600", check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Budget(shared_url, limits=["1 concurrent"]) as budget:
        with pytest.raises(BudgetExceeded):
            budget.reserve("$0")
        assert not budget.check("$0")
        budget.refund(done.stdout.strip())
        assert budget.reserve("$0").state == "open"


# Races.


class Room:
    """Counts who is inside. Nobody leaves before somebody was refused meanwhile, unless all others were served.

    So it is full again and again, and one slot too many would let one more in.
    """

    def __init__(self) -> None:
        self.inside = self.most = self.served = self.refused = 0
        self.lock = Lock()

    def enter(self) -> int:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            return self.refused

    def may_leave(self, refused: int) -> bool:
        with self.lock:
            return self.refused > refused or self.served + self.inside == CALLS

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1
            self.served += 1

    def refuse(self) -> None:
        with self.lock:
            self.refused += 1

    def check(self, budget: Budget) -> None:
        assert (self.most, self.inside, self.served) == (SLOTS, 0, CALLS)
        assert taken(budget, user="alice") == 0
        found = books(budget.engine.store)
        assert (found.faults, found.saturated) == ([], [])


def test_threads_race_for_slots(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit(f"{SLOTS} concurrent", per="user")], store_timeout=30)
    room = Room()

    def call(_: int) -> None:
        while True:
            try:
                with budget.reservation("$0.01", user="alice"):
                    refused = room.enter()
                    wait_for(partial(room.may_leave, refused))
                    room.leave()
                return
            except BudgetExceeded:
                room.refuse()
                time.sleep(0.005)

    with ThreadPoolExecutor(2 * SLOTS) as pool:
        assert len(list(pool.map(call, range(CALLS)))) == CALLS
    room.check(budget)


def test_tasks_race_for_slots(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit(f"{SLOTS} concurrent", per="user")], store_timeout=30)
    room = Room()

    async def call() -> None:
        while True:
            try:
                async with budget.reservation("$0.01", user="alice"):
                    refused = room.enter()
                    while not room.may_leave(refused):
                        await asyncio.sleep(0.005)
                    room.leave()
                return
            except BudgetExceeded:
                room.refuse()
                await asyncio.sleep(0.005)

    async def race() -> None:
        async with asyncio.timeout(2 * SOON), asyncio.TaskGroup() as group:
            for _ in range(CALLS):
                group.create_task(call())

    asyncio.run(race())
    room.check(budget)


RACER = """
import sys
from budget import Budget, BudgetExceeded
with Budget(sys.argv[1], limits=["3 concurrent"], store_timeout=30) as budget:
    held = None
    for line in sys.stdin:
        if line == "reserve\\n":
            try:
                held = budget.reserve("$0.01")
            except BudgetExceeded:
                held = None
        elif held is not None:
            budget.reconcile(held, usd="0.01")
        print("no" if held is None else "yes", flush=True)
"""


def test_processes_race_for_slots(shared_url: str) -> None:
    """Of many who ask at once, as many are admitted as there are slots; when they end, as many again."""
    command = [sys.executable, "-c", RACER, shared_url]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]

    def told(word: str) -> list[str]:
        for racer in racers:
            racer.stdin.write(word + "\n")  # type: ignore[union-attr]
            racer.stdin.flush()  # type: ignore[union-attr]
        return [racer.stdout.readline().strip() for racer in racers]  # type: ignore[union-attr]

    try:
        with Budget(shared_url, limits=["3 concurrent"]) as budget:
            for _ in range(10):
                assert told("reserve").count("yes") == taken(budget) == 3
                assert told("end").count("yes") == 3
                assert taken(budget) == 0
            assert books(budget.engine.store).faults == []
    finally:
        for racer in racers:
            racer.communicate(timeout=SOON)
    assert [racer.returncode for racer in racers] == [0] * 6


# Changes while calls are under way.


def test_a_change_holds_from_the_next_call(budget_factory: Make) -> None:
    budget = budget_factory()
    budget.limits.set("1 concurrent", per="user")
    held = [budget.reserve("$0", user="alice")]
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0", user="alice")
    budget.limits.set("3 concurrent", per="user")
    held += [budget.reserve("$0", user="alice") for _ in range(2)]
    budget.limits.set("2 concurrent", per="user")  # takes nothing back
    pool = slots(budget, user="alice")
    assert (pool.reserved, pool.available) == (3, -1)
    budget.refund(held.pop())
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("$0", user="alice")
    assert (caught.value.available, caught.value.verdict) == (0, "wait")
    budget.refund(held.pop())
    held.append(budget.reserve("$0", user="alice"))
    budget.limits.unset("9 concurrent", per="user")
    held.append(budget.reserve("$0", user="alice"))  # no limit, no slot
    budget.limits.set("2 concurrent", per="user")
    assert taken(budget, user="alice") == 2
    for reservation in held:
        budget.refund(reservation)
    assert taken(budget, user="alice") == 0
    assert books(budget.engine.store).faults == []


def test_a_change_holds_in_every_process(shared_url: str) -> None:
    with Budget(shared_url) as one, Budget(shared_url) as two:
        one.limits.set("1 concurrent")
        held = two.reserve("$0")
        with pytest.raises(BudgetExceeded):
            one.reserve("$0")
        two.limits.set("2 concurrent")
        one.reserve("$0")
        one.refund(held)
        assert taken(two) == 1


def test_stored_limits_go_before_those_of_code(budget_factory: Make) -> None:
    budget = budget_factory(limits=["5 concurrent"])
    budget.limits.set("1 concurrent")
    budget.reserve("$0")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0")


# Runs.


@pytest.mark.parametrize("name", ["limit", "cap"])
@pytest.mark.parametrize("text", ["8 concurrent", " 8 concurrent ", "8 concurrent/run"])
def test_a_run_has_no_concurrency_limit_of_its_own(make_budget: Make, name: str, text: str) -> None:
    budget = make_budget("memory://")
    with pytest.raises(ConfigError, match="calls at once"):
        budget.run(text) if name == "limit" else budget.run(cap=text)


def test_per_run_gives_each_run_slots_of_its_own(budget_factory: Make) -> None:
    budget = budget_factory(limits=[Limit("1 concurrent", per="run"), Limit("3 concurrent", per="user")])
    with budget.run("$1", user="alice") as run:
        held = budget.reserve("$0.10")
        with pytest.raises(BudgetExceeded):
            budget.reserve("$0.10")
        with budget.run():  # its calls are those of the inner run
            budget.reserve("$0.10")
        assert (run.calls, str(run.reserved)) == (2, "0.2")
        budget.reconcile(held, usd="0.05")
        budget.reserve("$0.10")
        assert (str(run.spent), str(run.refresh().reserved)) == ("0.05", "0.2")
    with budget.run(user="alice"):
        budget.reserve("$0.10")
        with pytest.raises(BudgetExceeded) as caught:
            budget.reserve("$0.10")
    assert {str(refusal.limit) for refusal in caught.value.refusals} == {
        "per=run 1 concurrent",
        "per=user 3 concurrent",
    }


# Wrapped clients.


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def one_at_a_time(budget_factory: Make) -> Budget:
    return budget_factory(limits=["1 concurrent", "$100/day"])


def steered(text: str) -> dict[str, Any]:
    return {**REQUEST, "extra_headers": {"x-demo": text}}


def sync_client(budget: Budget, provider: Provider) -> anthropic.Anthropic:
    return budget.wrap(anthropic.Anthropic(base_url=provider.url, api_key="key", max_retries=0))


def leave_at_the_end(stream: Any) -> None:
    for _ in stream:
        pass


def leave_by_close(stream: Any) -> None:
    next(iter(stream))
    stream.close()


def leave_by_break(stream: Any) -> None:
    with stream:
        for _ in stream:
            break


def leave_by_dropping(stream: Any) -> None:
    next(iter(stream))


@pytest.mark.parametrize("leave", [leave_at_the_end, leave_by_close, leave_by_break, leave_by_dropping])
def test_a_stream_holds_a_slot_while_it_is_open(one_at_a_time: Budget, provider: Provider, leave: Any) -> None:
    budget = one_at_a_time
    provider.clear()
    with sync_client(budget, provider) as client:
        streams = [client.messages.create(**steered("output=20,pace=0.001"), stream=True)]
        assert taken(budget) == 1
        with pytest.raises(BudgetExceeded) as caught:
            client.messages.create(**REQUEST)
        assert caught.value.unit == "concurrent"
        assert len(provider.requests) == 1  # no byte of the refused call was sent
        leave(streams.pop())
        gc.collect()
        assert client.messages.create(**REQUEST).usage.output_tokens > 0
        assert taken(budget) == 0
    assert books(budget.engine.store).faults == []


def test_a_call_that_fails_gives_its_slot_back(one_at_a_time: Budget, provider: Provider) -> None:
    with sync_client(one_at_a_time, provider) as client:
        for how in ("status=529", "status=504", "cut=0"):
            with pytest.raises(anthropic.APIError):
                client.messages.create(**steered(how))
            assert taken(one_at_a_time) == 0
        assert client.messages.create(**REQUEST).usage.output_tokens > 0


def test_a_cancelled_task_gives_its_slot_back(one_at_a_time: Budget, provider: Provider) -> None:
    budget = one_at_a_time
    provider.clear()

    async def main() -> None:
        plain = anthropic.AsyncAnthropic(base_url=provider.url, api_key="key", max_retries=0)
        async with budget.wrap(plain) as client:
            task = asyncio.create_task(client.messages.create(**steered("hang=9")))
            while not provider.requests:
                await asyncio.sleep(0.01)
            assert taken(budget) == 1
            with pytest.raises(BudgetExceeded):
                await client.messages.create(**REQUEST)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with client.messages.stream(**REQUEST) as stream:
                assert taken(budget) == 1
                await stream.get_final_message()
            assert taken(budget) == 0

    asyncio.run(main())


# Configuration.


def test_a_file_sets_it(make_budget: Make) -> None:
    Path("budget.toml").write_text('[[limits]]\nlimit = "1 concurrent"\nper = "user"\n')
    budget = make_budget("memory://")
    budget.reserve("$0", user="alice")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0", user="alice")
    assert [limit.to_dict()["source"] for limit in budget.limits] == ["file"]
    Path("budget.toml").write_text('[[limits]]\nlimit = "1 concurrent"\ntz = "Europe/Berlin"\n')
    with pytest.raises(ConfigError, match="tz: a concurrency limit has no time zone"):
        make_budget("memory://")
