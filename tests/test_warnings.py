"""What is said before a limit refuses: warnings at shares of it, limits in shadow mode, and who holds what."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, BudgetExceeded, ConfigError, Frozen, Limit
from budget.thresholds import Warned

Make = Callable[..., Budget]


class Told(list[Warned]):
    """Collects what `on_warning` is called with."""

    def __call__(self, warned: Warned) -> None:
        self.append(warned)

    @property
    def shares(self) -> list[tuple[str, int]]:
        return [(str(each.subject), each.share) for each in self]


@pytest.fixture
def told() -> Told:
    return Told()


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "% reached" in record.getMessage()]


def test_a_warning_has_plain_figures(make_budget: Make, told: Told) -> None:
    b = make_budget("memory://", limits=[Limit("$0.000000002/day", warn="50%")], on_warning=told)
    b.record(usd="0.000000001")
    b.reserve("$0")
    figures = "$0.000000001 spent + $0 reserved of $0.000000002"
    assert [str(warned) for warned in told] == [f"$0.000000002/day (everybody): 50 % reached, {figures}"]


def test_a_warning(budget_factory: Make, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    b = budget_factory(limits=[Limit("$1/day", per="user", warn="80%")], on_warning=told)
    b.record(usd="0.50", user="alice")
    b.reserve("$0.29", user="alice")
    assert told == []
    b.reserve("$0.01", user="alice")
    (warned,) = told
    assert (str(warned.limit), warned.subject, warned.share) == ("per=user $1/day", {"user": "alice"}, 80)
    assert (warned.spent, warned.reserved, warned.amount) == (Decimal("0.5"), Decimal("0.3"), 1)
    assert logged(caplog) == ["$1/day (user=alice): 80 % reached, $0.5 spent + $0.3 reserved of $1"]
    assert {record.name for record in caplog.records if "% reached" in record.getMessage()} == {"budget"}
    assert [record.levelno for record in caplog.records if "% reached" in record.getMessage()] == [logging.WARNING]


def test_once_per_pool_and_share(budget_factory: Make, told: Told) -> None:
    b = budget_factory(limits=[Limit("$1/day", per="user", warn=["50%", "90%"])], on_warning=told)
    for user in ("alice", "bob"):
        b.refund(b.reserve("$0.60", user=user))
        b.refund(b.reserve("$0.60", user=user))
    b.reserve("$0.95", user="alice")
    assert told.shares == [("user=alice", 50), ("user=bob", 50), ("user=alice", 90)]


def test_several_shares_at_once(budget_factory: Make, told: Told) -> None:
    b = budget_factory(limits=[Limit("10 requests/day", warn=["50%", "80%", "100%"])], on_warning=told)
    for _ in range(10):
        b.reserve("$1")
    assert [each.share for each in told] == [50, 80, 100]
    assert [each.reserved for each in told] == [5, 8, 10]


def test_it_counts_what_was_raised(budget_factory: Make, told: Told) -> None:
    b = budget_factory(limits=["$1/day"], on_warning=told)
    b.limits.set("$1/day", warn="80%")
    b.adjust("+$1", reason="release")
    b.reserve("$1.50")
    assert told == []
    b.reserve("$0.10")
    assert [each.amount for each in told] == [2]


def test_a_new_window_warns_again(make_budget: Make, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    b = make_budget("memory://", limits=[Limit("$1/day", warn="80%")], on_warning=told)
    b.record(usd="0.7")
    b.reserve("$0.20")
    b.reserve("$0.05")
    now += 86400 * 10**9
    b.reserve("$0.90")
    assert [each.spent for each in told] == [Decimal("0.7"), 0]


def test_a_rolling_window_warns_again_when_it_was_below(make_budget: Make, told: Told) -> None:
    b = make_budget("memory://", limits=[Limit("$1/7d rolling", warn="80%")], on_warning=told)
    for _ in range(2):
        held = b.reserve("$0.90")
        b.refund(held)
        b.refund(b.reserve("$0.10"))
    assert [each.share for each in told] == [80, 80]


def test_a_function_that_fails(budget_factory: Make, caplog: pytest.LogCaptureFixture) -> None:
    def fail(warned: Warned) -> None:
        raise RuntimeError("mine")

    b = budget_factory(limits=[Limit("$1/day", warn="80%")], on_warning=fail)
    assert b.reserve("$0.90").state == "open"
    assert "the function given as on_warning= failed" in caplog.text


def test_on_warning_must_be_a_function() -> None:
    with pytest.raises(ArgumentTypeError, match="on_warning"):
        Budget("memory://", on_warning="log")  # type: ignore[arg-type]


# Shadow limits.


def test_a_shadow_limit_does_not_refuse(budget_factory: Make) -> None:
    b = budget_factory(limits=["$10/day", Limit("$1/day", per="user", mode="shadow")])
    decision = b.check("$2", user="alice")
    assert decision.admitted
    assert [(str(each.limit), each.requested) for each in decision.shadows] == [("per=user $1/day", 2)]
    b.reserve("$2", user="alice")
    entry = list(b.entries())[-1]
    assert [each["limit"] for each in entry.detail["shadow"]] == ["per=user $1/day"]
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$9", user="alice")
    assert [str(each.limit) for each in caught.value.refusals] == ["$10/day"]
    no = b.check("$9", user="alice")
    assert [str(each.limit) for each in no.refusals] == ["$10/day"]
    assert [str(each.limit) for each in no.shadows] == ["per=user $1/day"]


def test_a_budget_in_shadow_mode(store_url: str, make_budget: Make) -> None:
    b = make_budget(store_url, limits=["$1/day", "$0.50/request"], mode="shadow")
    assert b.check("$2")
    b.reserve("$2")
    assert b.reserve("$2", wait=1).state == "open"
    assert {each["limit"] for each in list(b.entries())[-1].detail["shadow"]} == {"$1/day", "$0.5/request"}
    assert [pool.reserved for pool in b.status()] == [4]
    b.freeze(user="alice")
    with pytest.raises(Frozen):
        b.reserve("$0.10", user="alice")
    with pytest.raises(ConfigError, match="mode"):
        Budget("memory://", mode="audit")


def test_a_process_in_shadow_mode_counts_in_the_same_pools(shared_url: str, make_budget: Make) -> None:
    looks, holds = (make_budget(shared_url, limits=["$1/day"], mode=mode) for mode in ("shadow", "enforce"))
    looks.reserve("$0.80")
    with pytest.raises(BudgetExceeded):
        holds.reserve("$0.30")
    looks.reserve("$0.30")
    assert holds.status()[0].available == Decimal("-0.1")


def test_the_output_that_fits_leaves_shadow_limits_out(budget_factory: Make) -> None:
    prices = {"m": {"input": "1", "output": "1000"}}
    b = budget_factory(limits=["$0.50/day", Limit("$0.10/day", per="user", mode="shadow")], prices=prices)
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve(b.estimate_counts("m", input_tokens=0, output_tokens=1000), user="alice")
    assert caught.value.max_tokens == 500


# What a refusal says.


def test_a_refusal_says_who_may_hold_it(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/day"])
    held = b.reserve("$0.60")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$0.50")
    assert "budget reservations" in str(caught.value)
    assert "budget reservations" in str(pickle.loads(pickle.dumps(caught.value)))
    b.reconcile(held, usd="0.60")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$0.50")
    assert "budget reservations" not in str(caught.value)


def test_a_refusal_with_what_was_raised(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/day"])
    b.limits.set("$1/day")
    b.adjust("+$1", reason="release")
    b.record(usd="1")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$1.50")
    assert (caught.value.available, caught.value.verdict) == (1, "wait")
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$2.50")
    assert caught.value.verdict == "never"


def test_a_rolling_window_says_when_it_fits(budget_factory: Make) -> None:
    b = budget_factory(limits=["$1/7d rolling"])
    b.record(usd="0.60")
    booked: Any = list(b.entries())[-1].at
    with pytest.raises(BudgetExceeded) as caught:
        b.reserve("$0.50")
    resets = caught.value.resets_at
    assert resets is not None
    days = (resets - booked).total_seconds() / 86400
    assert 7 < days <= 7 + 7 / 60 + 0.001
    assert (caught.value.verdict, caught.value.available) == ("wait", Decimal("0.4"))
    assert caught.value.to_dict()["resets_at"] == resets.isoformat()


def test_too_many_limits(budget_factory: Make) -> None:
    b = budget_factory(limits=[Limit("$1/day", per=f"tag{n}") for n in range(33)])
    for call in (b.reserve, b.check):
        with pytest.raises(ConfigError, match=r"33 apply to this call, 32 may: 'per=tag0 \$1/day', .*tag32"):
            call("$0.01")
    b.record(usd="0.01")  # never refused


def test_a_limit_for_a_time(make_budget: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends without a word from the store: nothing is read for that."""
    import time
    from datetime import UTC, datetime, timedelta

    b = make_budget("memory://", limits=["$1/day"])
    b.limits.set("$2/day")
    b.limits.set("$5/day", until=datetime.now(UTC) + timedelta(minutes=1))
    assert b.check("$5")
    real, sent = time.monotonic_ns, []
    call = b.engine.store.call

    def count(account: str, command: Any, *rest: Any) -> Any:
        sent.append(type(command).__name__)
        return call(account, command, *rest)

    monkeypatch.setattr(b.engine.store, "call", count)
    monkeypatch.setattr(time, "monotonic_ns", lambda: real() + 61 * 10**9)
    assert not b.check("$5")
    assert b.check("$2")
    assert sent == ["Status", "Status"]
