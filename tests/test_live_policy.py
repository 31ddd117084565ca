"""What operators change holds from the next call of every process: limits, freezes, adjustments, ends and backfills.

The first test proves it exactly. Processes call all the time, and say in each call after which change it began. The
ledger is then walked in its order: at each decision the limit in force is the one of the last change before it. The
others are about what the changes mean, on every store.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import books

from budget import Budget, BudgetExceeded, Limit
from budget.backfill import backfill
from budget.cli import main
from budget.commands import Bucket, LoadPolicy, Outcome, Record, Reserve, Status
from budget.errors import ArgumentTypeError, ConfigError
from budget.ledger import Entry, make_entry
from budget.money import parse_usd
from budget.policy import Policy
from budget.pools import Pool, make_pool
from budget.stores.base import Store
from budget.subject import Subject
from budget.testing import Sandbox
from budget.window import at_zone

PROCESSES = 4
EACH = 10**7  # nano-dollars

# Told "PHASE KIND", it says PHASE as soon as a call that began in that phase was reserved or refused, as KIND wants,
# or "never" if that does not happen.
CALLER = """
import sys, threading, time
from budget import Budget, BudgetExceeded, Frozen

phase = ["0 reserved"]

def listen():
    for line in sys.stdin:
        phase[0] = line.strip()
    phase[0] = "end"

threading.Thread(target=listen, daemon=True).start()
told = begun = number = 0
with Budget(sys.argv[1], store_timeout=30) as budget:
    while (said := phase[0]) != "end":
        number, (now, wanted), kind = number + 1, said.split(), "reserved"
        try:
            held = budget.reserve("$0.01", user="alice", caller=sys.argv[2], phase=now)
            if number % 3:
                budget.reconcile(held, usd="0.004")
            else:
                budget.refund(held)
        except BudgetExceeded as no:
            assert isinstance(no, Frozen) or no.limit.source == "store"
            kind = "refused"
        if now != begun:
            begun, since = now, time.monotonic()
        if now != told and (kind == wanted or time.monotonic() - since > 60):
            print(now if kind == wanted else "never", flush=True)
            told = now
        time.sleep(0.01)
"""
CHANGES = [
    ["set", "user=alice", "$0.20/lifetime"], ["set", "user=alice", "$0.40/lifetime"],
    ["set", "user=alice", "$0.10/lifetime"], ["freeze", "user=alice"], ["set", "user=alice", "$0.60/lifetime"],
    ["unfreeze", "user=alice"], ["unset", "user=alice", "$0.60/lifetime"], ["set", "user=alice", "$0.80/lifetime"],
    ["adjust", "user=alice", "+$0.05"], ["freeze", "--all"],
]  # fmt: skip


BOTH = ["reserved", "refused"]
KINDS = [["reserved"], BOTH, BOTH, ["refused"], ["refused"], ["refused"], BOTH, ["reserved"], BOTH, BOTH, ["refused"]]
"""What happens to calls after so many changes: first what is admitted, and once the room is used up what is refused."""


def test_a_change_holds_from_the_next_call_of_every_process(shared_url: str) -> None:
    command = [sys.executable, "-W", "error", "-c", CALLER, shared_url]
    callers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(PROCESSES)
    ]
    try:
        assert hear(callers) == {"0"}
        for number, change in enumerate(CHANGES, 1):
            main([*change, "--store", shared_url], standalone_mode=False)
            tell(callers, f"{number} {KINDS[number][-1]}")
            assert hear(callers) == {str(number)}
    finally:
        tell(callers, "end")
        for caller in callers:
            caller.communicate(timeout=60)
    assert [caller.returncode for caller in callers] == [0] * PROCESSES
    with Budget(shared_url) as budget:
        entries = list(budget.entries())
        assert books(budget.engine.store).faults == []
    walk(entries)


def tell(callers: list[subprocess.Popen[str]], word: str) -> None:
    for caller in callers:
        caller.stdin.write(word + "\n")  # type: ignore[union-attr]
        caller.stdin.flush()  # type: ignore[union-attr]


def hear(callers: list[subprocess.Popen[str]]) -> set[str]:
    return {caller.stdout.readline().strip() for caller in callers}  # type: ignore[union-attr]


def walk(entries: list[Entry]) -> None:
    """Decide every call again, by the changes before it, and compare."""
    limit, frozen, phase, used = None, False, 0, 0
    seen: dict[tuple[int, str], set[str]] = defaultdict(set)
    for entry in entries:
        if entry.kind in ("limit_set", "limit_unset", "adjusted", "frozen", "unfrozen"):
            phase += 1
            if entry.kind == "adjusted":
                assert limit is not None
                limit += parse_usd(entry.detail["amount"], "amount")
            elif entry.kind.startswith("limit"):
                rule = Limit(entry.detail["limit"])
                limit = parse_usd(rule.amount, "limit") if entry.kind == "limit_set" else None
            else:
                frozen = entry.kind == "frozen"
        elif entry.kind in ("reserved", "refused"):
            assert int(entry.scope["phase"]) <= phase, "it is in the ledger before the change after which it began"
            room = not frozen and (limit is None or used + EACH <= limit)
            assert entry.kind == ("reserved" if room else "refused"), (entry, limit, frozen, used)
            assert bool(entry.postings) == (room and limit is not None)
            seen[phase, entry.scope["caller"]].add(entry.kind)
        used += sum(posting.spent + posting.reserved for posting in entry.postings)
    assert phase == len(CHANGES)
    # It was as lively as it claims to be.
    for number, kinds in enumerate(KINDS):
        each = [seen[number, str(n)] for n in range(PROCESSES)]
        assert set.union(*each) == set(kinds), number
        assert all(kinds[-1] in one for one in each), number


# What the changes mean.


@pytest.fixture
def budget(budget_factory: Callable[..., Budget]) -> Iterator[Budget]:
    made = budget_factory()
    yield made
    assert books(made.engine.store).faults == []


def pool(budget: Budget, **attributes: str) -> Pool:
    (found,) = budget.status(**attributes)
    return found


def spend(budget: Budget, usd: str, **attributes: str) -> None:
    budget.reconcile(budget.reserve(usd, **attributes), usd=usd)


def entries(budget: Budget, *kinds: str) -> list[Entry]:
    return [entry for entry in budget.entries() if entry.kind in kinds]


def next_(budget: Budget, **window: str) -> datetime:
    """When the present window of a limit ends that nobody has drawn on."""
    budget.limits.set("$1/day", nobody="x", **window)
    resets_at = pool(budget, nobody="x").resets_at
    assert resets_at is not None
    return resets_at


def test_windows_begin_where_the_limit_says(budget: Budget) -> None:
    assert next_(budget, starts="06:00", tz="Asia/Kathmandu").strftime("%H:%M %z") == "06:00 +0545"
    assert next_(budget, starts=22).strftime("%H:%M %Z") == "22:00 UTC"
    budget.limits.set("$1/week", user="a", starts="sunday")
    budget.limits.set("$1/month", user="b", starts=15)
    budget.limits.set("$1/year", user="c", starts="04-01")
    spend(budget, "$0.5", user="a")
    spend(budget, "$0.5", user="b")
    spend(budget, "$0.5", user="c")
    week, month, year = (pool(budget, user=user).resets_at for user in "abc")
    assert week is not None
    assert month is not None
    assert year is not None
    assert week.strftime("%A %H:%M") == "Sunday 00:00"
    assert month.day == 15
    assert (year.month, year.day) == (4, 1)
    assert all(now > datetime.now(UTC) for now in (week, month, year))


def test_a_changed_start_waits_for_the_end_of_the_window(budget: Budget) -> None:
    hour = datetime.now(UTC).hour
    budget.limits.set("$5/day", user="alice")
    spend(budget, "$1", user="alice")
    midnight = pool(budget, user="alice").resets_at
    budget.limits.set("$6/day", user="alice", starts=(hour + 2) % 24)
    after = pool(budget, user="alice")
    assert (after.resets_at, after.spent, after.limit.amount) == (midnight, 1, 6)


def test_a_rolling_limit(budget: Budget) -> None:
    limit = budget.limits.set("$5/7d rolling", per="session")
    assert str(limit) == "per=session $5/7d rolling"
    began = pool(budget, session="s")
    assert (began.spent, began.resets_at) == (0, None)
    spend(budget, "$3", session="s")
    budget.reserve("$1", session="s")
    with pytest.raises(BudgetExceeded) as refused:
        budget.reserve("$1.000000001", session="s")
    assert refused.value.verdict == "wait"
    assert refused.value.resets_at is not None  # when it would fit, if nothing else happened
    assert timedelta(days=6) < refused.value.resets_at - datetime.now(UTC) < timedelta(days=8)
    with pytest.raises(BudgetExceeded) as never:
        budget.reserve("$6", session="s")
    assert never.value.verdict == "never"
    present = pool(budget, session="s")
    assert (present.spent, present.reserved, present.available, present.resets_at) == (3, 1, 1, None)
    budget.reserve("$5", session="other")


def test_a_shadow_limit_counts_and_never_refuses(budget: Budget) -> None:
    budget.limits.set("$3/day", per="user", mode="shadow")
    budget.limits.set("$100/day", per="user")
    spend(budget, "$2", user="alice")
    spend(budget, "$2", user="alice")
    found = {p.limit.mode: (p.spent, p.available) for p in budget.status(user="alice")}
    assert found == {"shadow": (4, -1), "enforce": (4, 96)}
    reserved = entries(budget, "reserved")
    assert [[each["limit"] for each in entry.detail.get("shadow", [])] for entry in reserved] == [
        [], ["per=user $3/day"],
    ]  # fmt: skip
    shown = {row.get("mode"): row["limit"] for row in (p.to_dict() for p in budget.status(user="alice"))}
    assert shown == {"shadow": "per=user $3/day", None: "per=user $100/day"}


def test_a_process_in_shadow_mode_is_refused_by_freezes_alone(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=["$1/day", "$0.5/request"], mode="shadow")
    spend(budget, "$5")
    with budget.run("$1"):
        spend(budget, "$5")
    assert pool(budget, user="x").spent == 10
    budget.freeze(everybody=True)
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0.1")


def test_unset_means_the_enforcing_limit_first(budget: Budget) -> None:
    for _ in range(2):
        budget.limits.set("$3/day", user="alice", mode="shadow")
        budget.limits.set("$9/day", user="alice")
        assert [x.mode for x in budget.limits.unset("$1/day", user="alice")] == ["enforce"]
        assert [x.mode for x in budget.limits.unset("$1/day", user="alice")] == ["shadow"]
        with pytest.raises(ConfigError, match="there is none"):
            budget.limits.unset("$1/day", user="alice")
    budget.limits.set("$3/day", user="alice", mode="shadow")
    budget.limits.set("$9/day", user="alice")
    assert [x.mode for x in budget.limits.unset("$1/day", user="alice", mode="shadow")] == ["shadow"]
    assert [x.mode for x in budget.limits.unset(user="alice")] == ["enforce"]


def test_a_replaced_limit_is_not_listed_for_who_has_his_own() -> None:
    with Sandbox(limits=["per=user $7/day", "user=alice $5/day", "per=user $9/month"]) as budget:
        assert [str(limit) for limit in budget.limits.list(user="alice")] == ["user=alice $5/day", "per=user $9/month"]
        assert [str(limit) for limit in budget.limits.list(user="bob")] == ["per=user $7/day", "per=user $9/month"]
        assert len(budget.limits.list()) == 3


def test_what_a_window_left_unspent_rolls_over(store: Store) -> None:
    """$5/day with up to $2 of roll-over, from its text to its pool, over three days of a scratch account."""
    day, start = 86400 * 10**6, 20_000 * 86400 * 10**6
    policy = Policy(0, (), [Limit("$5/day", rollover="$2").set_at(1)])
    matches = policy.matches({})

    def reserve(number: int, usd: int, now: int) -> tuple[str, Pool]:
        amounts = (usd * 10**9, 0, 0, 0, 1)
        draws = policy.draws(matches, amounts, now)
        command = Reserve(f"{number:032x}", "", amounts, draws, 0, 600 * 10**6, {}, {})
        outcome = store.call("scratch", command, 5.0, now)
        assert outcome.buckets[0] is not None
        return outcome.status, make_pool(matches[0].limit, matches[0].subject, outcome.buckets[0], now)

    status, first = reserve(1, 4, start)
    assert (status, first.limit.amount, first.available) == ("reserved", 5, 1)
    status, second = reserve(2, 6, start + day)
    assert (status, str(second.limit), second.available) == ("reserved", "$6/day", 0)  # $1 was left
    status, third = reserve(3, 6, start + 2 * day)
    assert (status, third.limit.amount, third.available) == ("refused", 5, 5)
    status, later = reserve(4, 7, start + 9 * day)
    assert (status, later.limit.amount, later.available) == ("reserved", 7, 0)  # no more than $2, whatever was left


def test_before_the_first_call_of_a_window_all_say_what_it_takes_over() -> None:
    """A call is told by `check` what `reserve` will say, and `status` shows what it will find."""
    with Sandbox(limits=[Limit("$5/day", rollover="$2")]) as budget:
        budget.record(usd="4", user="alice")
        budget.clock.move("1d")
        for pools in (budget.status(), budget.status(user="alice")):
            assert [(pool.limit.amount, pool.spent, pool.available) for pool in pools] == [(6, 0, 6)]
        assert budget.check("$6")
        assert not budget.check("$6.01")
        assert [(pool.limit.amount, pool.available) for pool in budget.adjust("+$1")] == [(7, 7)]
        assert not budget.check("$7.01")
        budget.reserve("$7")
        assert [(pool.limit.amount, pool.available) for pool in budget.status()] == [(7, 0)]
        budget.clock.move("3d")  # windows without a call leave all that may go over
        assert budget.check("$7")
        assert not budget.check("$7.01")


def test_budget_toml_has_every_option(make_budget: Callable[..., Budget]) -> None:
    rows = [
        'limit = "$5/day"\nper = "user"\ntz = "Europe/Berlin"\nstarts = 6\nrollover = "$2"\nwarn = ["80%", "95%"]',
        'limit = "$20/7d rolling"\nper = "session"\nmode = "shadow"\nwarn = "80%"',
        'limit = "$9/week"\nuser = "alice"\nstarts = "sunday"\nuntil = 2200-12-01T00:00:00Z',
    ]
    Path("budget.toml").write_text("".join(f"[[limits]]\n{row}\n" for row in rows))
    day, rolling, week = make_budget("memory://").limits.list()
    assert (day.starts, day.rollover, day.warn, day.tz, day.source) == (
        "06:00", 2 * 10**9, (80, 95), "Europe/Berlin", "file",
    )  # fmt: skip
    assert (rolling.window.span, rolling.mode, rolling.warn) == (7 * 86400 * 10**6, "shadow", (80,))
    assert (week.starts, week.until, week.selector) == (
        "sunday", datetime(2200, 12, 1, tzinfo=UTC), (("user", "alice"),),
    )  # fmt: skip


@pytest.mark.parametrize(
    "row",
    ["starts = 6.5", 'starts = "noon"', "warn = 80", 'rollover = "$6"', "until = 2200-12-01",
     "until = 2200-12-01T00:00:00", 'mode = "off"'],
)  # fmt: skip
def test_budget_toml_with_a_wrong_option(row: str) -> None:
    Path("budget.toml").write_text(f'[[limits]]\nlimit = "$5/day"\n{row}\n')
    with pytest.raises((ConfigError, ArgumentTypeError), match=row.partition(" ")[0]):
        Budget("memory://")


# Until.


def test_a_temporary_limit_gives_way_to_the_one_before(budget: Budget, monkeypatch: pytest.MonkeyPatch) -> None:
    budget.limits.set("$1/lifetime", user="alice")
    budget.limits.set("$9/lifetime", user="alice", until="1h")
    spend(budget, "$5", user="alice")
    version = budget.engine.do(LoadPolicy()).version
    verbs = budget.engine.verbs
    monkeypatch.setattr(verbs, "clock", SimpleNamespace(now=lambda: verbs.now() + 3600 * 10**6, saw=lambda *_: None))
    with pytest.raises(BudgetExceeded) as over:
        budget.reserve("$0.1", user="alice")
    assert (over.value.limit.amount, over.value.spent) == (1, 5)
    assert budget.engine.do(LoadPolicy()).version == version  # nobody had to say anything


def test_a_temporary_limit_that_is_unset_gives_way_to_the_one_before(budget: Budget) -> None:
    budget.limits.set("$5/day", on_short="clamp")
    budget.limits.set("$50/day", until="7d", on_short="grow")
    budget.limits.set("$70/day", until="2h", reason="release")
    for amount, short in (("70", ""), ("50", "grow"), ("5", "clamp")):
        (limit,) = budget.limits
        assert (str(limit), limit.on_short) == (f"${amount}/day", short)
        (gone,) = budget.limits.unset("$9/day", reason=f"no {amount}")
        assert gone == limit
    assert not list(budget.limits)
    changes = entries(budget, "limit_set", "limit_unset")[3:]
    assert [(each.kind, each.detail.get("limit"), each.detail.get("reason")) for each in changes] == [
        ("limit_set", "$50/day", "no 70"), ("limit_set", "$5/day", "no 50"), ("limit_unset", "$5/day", "no 5"),
    ]  # fmt: skip


def test_a_temporary_limit_without_one_before_ends(budget: Budget) -> None:
    limit = budget.limits.set("$1/day", user="alice", until=datetime.now(UTC) + timedelta(seconds=1))
    assert limit.until is not None
    deadline = time.monotonic() + 60
    while budget.limits.list() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert budget.limits.list() == []
    spend(budget, "$5", user="alice")


@pytest.mark.parametrize(
    ("until", "tz", "expected"),
    [("2200-12-01T00:00", None, "2200-12-01T00:00:00+00:00"),
     ("2200-12-01T00:00", "Europe/Berlin", "2200-12-01T00:00:00+01:00"),
     ("2200-12-01T00:00+05:00", None, "2200-11-30T19:00:00+00:00"), ("2200-12-01", None, "2200-12-01T00:00:00+00:00"),
     (datetime(2200, 12, 1, tzinfo=UTC), None, "2200-12-01T00:00:00+00:00")],
)  # fmt: skip
def test_when_a_limit_ends(until: str | datetime, tz: str | None, expected: str) -> None:
    with Budget("memory://") as budget:
        budget.limits.set("$1/day", until=until, tz=tz)
        (limit,) = budget.limits
        assert limit.options["until"] == expected


def test_durations_count_from_now() -> None:
    with Budget("memory://") as budget:
        limit = budget.limits.set("$1/day", until="2h")
        assert limit.until is not None
        assert timedelta(minutes=119) < limit.until - datetime.now(UTC) <= timedelta(hours=2)


@pytest.mark.parametrize(
    ("until", "error"),
    [("2020-01-01T00:00", ConfigError), ("soon", ConfigError), ("2h30m", ConfigError), ("", ConfigError),
     (datetime(2020, 1, 1, tzinfo=UTC), ConfigError), (datetime(2200, 1, 1), ConfigError),  # noqa: DTZ001
     (7200, ArgumentTypeError)],
)  # fmt: skip
def test_what_is_no_end(until: Any, error: type[Exception]) -> None:
    with Budget("memory://") as budget:
        with pytest.raises(error, match="until"):
            budget.limits.set("$1/day", until=until)
        assert list(budget.limits) == []


# Adjustments.


def test_an_adjustment_raises_every_pool_of_money_of_the_subject(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=[Limit("$5/day", per="user"), Limit("$500/day"), Limit("$8/week", per="user")])
    budget.limits.set("$6/month", user="alice")
    budget.limits.set("$3/lifetime", per="user", mode="shadow")
    budget.limits.set("9 requests/day", per="user")
    spend(budget, "$4", user="alice")
    raised = budget.adjust("+$10", user="alice", reason="release day")
    assert {(str(p.limit), str(p.subject), p.spent, p.available) for p in raised} == {
        ("per=user $15/day", "user=alice", 4, 11), ("per=user $18/week", "user=alice", 4, 14),
        ("user=alice $16/month", "user=alice", 4, 12), ("per=user $13/lifetime", "user=alice", 4, 9),
    }  # fmt: skip
    with pytest.raises(BudgetExceeded) as over:
        budget.reserve("$11.01", user="alice")
    assert (over.value.available, over.value.limit.amount) == (11, 15)
    spend(budget, "$11", user="alice")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$6", user="bob")
    found = entries(budget, "adjusted")
    assert len(found) == 4
    assert {entry.detail["limit"] for entry in found} == {
        "per=user $5/day", "per=user $8/week", "user=alice $6/month", "per=user $3/lifetime",
    }  # fmt: skip
    for entry in found:
        detail = entry.detail
        assert (entry.usd, detail["amount"], detail["subject"]) == (0, "10", "user=alice")
        assert detail["reason"] == "release day"
        assert detail["actor"]
        assert ("until" in detail) == ("lifetime" not in detail["limit"])
    assert sum(p.available for p in budget.status(user="alice") if p.limit.per is None and p.subject) == 1


def test_a_replaced_pool_is_in_no_status(budget: Budget) -> None:
    budget.limits.set("per=user $5/day")
    spend(budget, "$1", user="alice")
    spend(budget, "$1", user="bob")
    spend(budget, "$1")
    budget.limits.set("user=alice $10/day")
    shown = [(str(each.limit), str(each.subject)) for each in budget.status()]
    assert shown == [
        ("per=user $5/day", "user=(none)"), ("per=user $5/day", "user=bob"), ("user=alice $10/day", "user=alice"),
    ]  # fmt: skip
    budget.limits.unset("user=alice $10/day")
    assert ("per=user $5/day", "user=alice") in [(str(each.limit), str(each.subject)) for each in budget.status()]


def test_a_limit_of_everybody_replaces_no_run_s(budget: Budget) -> None:
    budget.limits.set("$500/day")
    budget.limits.set("per=run $5/day")
    with budget.run(id="job-7"):
        spend(budget, "$1")
    for shown in (budget.status(), budget.status(run="job-7")):
        assert [(str(each.limit), str(each.subject)) for each in shown] == [
            ("$500/day", "everybody"), ("per=run $5/day", "run=job-7"),
        ]  # fmt: skip


def test_a_run_inside_itself_keeps_its_limit(budget: Budget) -> None:
    for id, around, inside in (("job-6", "$2", "$100"), ("job-7", "$100", "$2")):
        with budget.run(around, id=id), budget.run(inside, id=id, agent="sub") as run:
            with pytest.raises(BudgetExceeded) as refused:
                budget.reserve("$50")
            assert str(refused.value.limit) == f"run={id} $2/run"
            spend(budget, "$2")
            assert run.refresh().spent == 2
    with budget.run("$2", id="job-8", max_calls=1), budget.run(id="job-8"), pytest.raises(BudgetExceeded):
        budget.reserve("$50")


def test_adjustments_add_up_and_are_everybody_s_at_once(budget_factory: Callable[..., Budget]) -> None:
    budget = budget_factory(limits=["$5/day"])
    for n in range(3):
        (raised,) = budget.adjust("+$10")
        assert raised.limit.amount == 5 + 10 * (n + 1)
    spend(budget, "$35")
    with pytest.raises(BudgetExceeded):
        budget.reserve("$0.01")
    assert pool(budget, user="x").spent == 35


def test_an_adjustment_holds_in_another_process(shared_url: str) -> None:
    with Budget(shared_url) as one, Budget(shared_url) as two:
        one.limits.set("$5/day", user="alice")
        spend(one, "$5", user="alice")
        with pytest.raises(BudgetExceeded):
            one.reserve("$1", user="alice")
        two.adjust("+$1", user="alice")
        spend(one, "$1", user="alice")


def test_a_window_s_adjustment_is_over_with_it(budget: Budget) -> None:
    budget.limits.set("$5/1s rolling", user="alice")
    budget.adjust("+$10", user="alice")
    deadline = time.monotonic() + 60
    while (most := pool(budget, user="alice").limit.amount) != 5 and time.monotonic() < deadline:
        assert most == 15
        time.sleep(0.05)
    assert most == 5
    budget.limits.set("$5/day", user="alice")
    budget.adjust("+$1", user="alice")  # which also clears away what is over
    assert len(entries(budget, "adjust_ended")) >= 1


def test_a_replaced_limit_is_not_adjusted(budget: Budget) -> None:
    budget.limits.set("$5/day", per="user")
    budget.limits.set("$7/day", user="alice")
    assert [str(p.limit) for p in budget.adjust("+$1", user="alice")] == ["user=alice $8/day"]


@pytest.mark.parametrize(
    ("amount", "attributes", "error"),
    [("$10", {"user": "alice"}, ConfigError), ("-$10", {"user": "alice"}, ConfigError),
     ("+", {"user": "alice"}, ConfigError), ("+$0", {"user": "alice"}, ConfigError),
     ("+5 tokens", {"user": "alice"}, ConfigError), ("+$9007199", {"user": "alice"}, ConfigError),
     (Decimal(10), {"user": "alice"}, ArgumentTypeError), ("+$10", {"user": 5}, ArgumentTypeError),
     ("+$10", {}, ConfigError), ("+$10", {"team": "x"}, ConfigError),
     ("+$10", {"user": "alice", "team": "x"}, ConfigError)],
)  # fmt: skip
def test_what_cannot_be_adjusted(amount: Any, attributes: Any, error: type[Exception]) -> None:
    with Budget("memory://", limits=[Limit("$5/day", per="user"), Limit("9 requests/day"), Limit("$1/run")]) as budget:
        with pytest.raises(error):
            budget.adjust(amount, **attributes)
        assert list(budget.entries()) == []


# Backfill.


def test_backfill_counts_what_the_ledger_holds(budget: Budget) -> None:
    spend(budget, "$3", user="alice", team="x")
    budget.record(usd="0.5", tokens=7, user="alice")
    budget.record(usd="2", user="bob")
    budget.refund(budget.reserve("$9", user="alice"))
    still_open = budget.reserve("$4", user="alice")
    budget.limits.set("$9/day", per="user", backfill=True)
    budget.limits.set("20 tokens/week", user="alice", backfill=True)
    budget.limits.set("$9/lifetime", user="alice", team="x", backfill=True)
    budget.limits.set("$9/30d rolling", backfill=True)
    budget.limits.set("$7/month", user="alice")
    found = {(p.limit.rule, str(p.subject)): p.spent for p in budget.status()}
    assert found == {
        ("$9/day", "user=alice"): Decimal("3.5"), ("$9/day", "user=bob"): 2,
        ("20 tokens/week", "user=alice"): 7, ("$9/lifetime", "team=x,user=alice"): 3,
        ("$9/30d rolling", "everybody"): Decimal("5.5"), ("$7/month", "user=alice"): 0,
    }  # fmt: skip
    assert all(sum(entry.amounts) == 0 for entry in entries(budget, "backfilled"))
    assert sum(entry.usd for entry in budget.entries()) == Decimal("5.5")
    since = {p.limit.rule: p.since for p in budget.status(user="alice")}
    assert since["$9/day"] == datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    assert since["$7/month"] > since["$9/day"]
    with pytest.raises(BudgetExceeded) as over:
        budget.reserve("$6", tokens=0, user="alice", team="x")
    assert {r.limit.rule: r.available for r in over.value.refusals}["$9/day"] == Decimal("5.5")
    budget.reconcile(still_open, usd="1")  # which was made before


def test_backfill_adds_only_what_is_missing(budget: Budget) -> None:
    spend(budget, "$1", user="alice")
    budget.limits.set("$9/day", user="alice", backfill=True)
    for _ in range(2):
        spend(budget, "$1", user="alice")
        budget.limits.set("$9/day", user="alice", backfill=True)
    assert pool(budget, user="alice").spent == 3
    budget.limits.unset("$9/day", user="alice")
    spend(budget, "$2", user="alice")
    budget.limits.set("$9/day", user="alice")
    assert pool(budget, user="alice").spent == 3
    budget.limits.set("$9/day", user="alice", backfill=True)
    assert pool(budget, user="alice").spent == 5
    assert len(entries(budget, "backfilled")) == 2


def test_backfill_misses_and_doubles_nothing_while_others_spend(budget: Budget) -> None:
    def spender() -> None:
        for _ in range(60):
            budget.record(usd="0.01", user="alice")

    threads = [Thread(target=spender) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        budget.limits.set("$9/day", per="user", backfill=True)
        assert 0 <= pool(budget, user="alice").spent <= Decimal("2.4")
        budget.limits.unset("$9/day", per="user")
    for thread in threads:
        thread.join()
    budget.limits.set("$9/day", per="user", backfill=True)
    assert pool(budget, user="alice").spent == Decimal("2.4")


def test_backfill_is_of_the_limit_that_would_have_held(budget: Budget) -> None:
    """A call of alice would have drawn on her own limit, not on the one per user."""
    budget.limits.set("$9/day", user="alice")
    spend(budget, "$1", user="alice")
    spend(budget, "$2", user="bob")
    spend(budget, "$4")
    budget.limits.set("$8/day", per="user", backfill=True)
    found = {str(p.subject): p.spent for p in budget.status() if p.limit.per == "user"}
    assert found == {"user=bob": 2, "user=(none)": 4}


def test_backfill_takes_only_the_entries_before_the_change_and_of_the_stored_window() -> None:
    """A pool whose stored window began at 500 has nothing of what was made before, whatever the limit's zone says."""
    limit = Limit("$9/day").set_at(1)
    policy = Policy(4, (), [limit])
    pool_ = policy.matches({})[0].pool
    made = [("recorded", 400, None, 1), ("reserved", 450, "a", 0), ("reserved", 500, "b", 0),
            ("recorded", 510, None, 2), ("reconciled", 520, "a", 4), ("reconciled", 530, "b", 8),
            ("recorded", 540, None, 16)]  # fmt: skip
    entries_ = [make_entry(b"", seq, at, kind, id, (spent, 0, 0, 0, 0), {}, {}, ())
                for seq, (kind, at, id, spent) in enumerate(made, 1)]  # fmt: skip
    given: list[Record] = []

    def do(command: Any) -> Outcome:
        if isinstance(command, Status):
            return Outcome("status", 600, 4, [Bucket(500, 10**12, 500, 0, 0)])
        given.append(command)
        return Outcome("stale_policy" if len(given) == 1 else command.kind, 600, 4)

    assert backfill(limit, 6, lambda: policy, do, entries_, 600) == 1
    first, again = given  # the policy had changed: once more, as the same record
    assert (first.actual, first.id, first.kind) == ((10, 0, 0, 0, 0), again.id, "backfilled")
    assert [draw.pool for draw in first.draws] == [pool_]
    given.clear()
    backfill(limit, 7, lambda: policy, do, entries_, 600)
    assert given[0].actual[0] == 26
    assert given[0].id != first.id


def test_since_when_a_rolling_pool_counts() -> None:
    limit = Limit("$9/100s rolling").set_at(50 * 10**6)
    for counted, now, since in ((50, 90, 50), (40, 120, 40), (50, 200, 100)):
        bucket = Bucket(40 * 10**6, 10**12, counted * 10**6, 1, 0)
        assert make_pool(limit, Subject(), bucket, now * 10**6).since == at_zone(since * 10**6)


def test_a_late_correction_is_backfilled_as_it_ended(budget: Budget) -> None:
    held = budget.reserve("$5", user="alice", lease=0.001)
    time.sleep(0.02)
    budget.status()
    budget.reconcile(held, usd="1")
    assert [entry.usd for entry in entries(budget, "expired", "reconciled")] == [5, -4]
    budget.limits.set("$9/day", user="alice", backfill=True)
    assert pool(budget, user="alice").spent == 1


@pytest.mark.parametrize("limit", ["$1/request", "$1/run", "8 concurrent"])
def test_what_takes_nothing_from_before(limit: str) -> None:
    with Budget("memory://") as budget:
        with pytest.raises(ConfigError, match="backfill"):
            budget.limits.set(limit, backfill=True)
        assert list(budget.entries()) == []


def test_every_option_is_in_the_ledger(budget: Budget) -> None:
    budget.limits.set(
        "$5/day", user="alice", tz="Europe/Berlin", starts=6, mode="shadow", until="2200-01-01", rollover="$2",
        warn="80%", backfill=True, reason="trial",
    )  # fmt: skip
    (entry,) = entries(budget, "limit_set")
    detail = dict(entry.detail)
    assert detail.pop("actor")
    assert detail == {
        "limit": "user=alice $5/day", "tz": "Europe/Berlin", "starts": "06:00", "mode": "shadow", "rollover": "$2",
        "warn": ["80%"], "until": "2200-01-01T00:00:00+01:00", "backfill": True, "reason": "trial",
    }  # fmt: skip
