"""Each rule on a ledger of the real engine, on a virtual clock: what it warns of, and what it does not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from alerts.ledgers import MODEL, NOON, World
from budget.alerts import KINDS, make_rule
from budget.alerts.drift import ks_p_value
from budget.alerts.rules import DEFAULT, make_rules
from budget.errors import ArgumentTypeError, BudgetExceeded, ConfigError, UnknownModel
from budget.usage import Usage

DAY = 86_400_000_000


# Limits.


def test_each_share_of_a_limit_is_told_once_in_its_window() -> None:
    world = World("limit at 50% 75% 90% 100%", limits=("per=user $1/day",))
    world.spend("0.49", user="alice")
    assert world.look() == []
    world.spend("0.02", user="alice")
    assert world.look() == ["$1/day (user=alice): 50 % reached, $0.51 of $1.00 spent, resets 2026-09-03 00:00 UTC"]
    world.spend("0.1", user="alice")
    assert world.look() == []
    world.spend("0.3", user="alice")  # over two shares at once: the higher one is told
    assert [text.split(",")[0] for text in world.look()] == ["$1/day (user=alice): 90 % reached"]
    world.clock.move("1d")
    world.spend("0.6", user="alice")
    assert len(world.look()) == 1


def test_what_is_only_reserved_is_no_news() -> None:
    world = World("limit at 50%", limits=("$1/day",))
    held = world.budget.reserve("$0.99")
    world.budget.reconcile(held, usd="0.01")
    assert world.look() == []


def test_a_limit_that_refuses_is_used_up_before_its_last_cent() -> None:
    world = World("limit at 100%", limits=("$1/day",))
    world.spend("0.8")
    with pytest.raises(BudgetExceeded):
        world.budget.reserve("$0.3")
    assert world.look() == ["$1/day (everybody): calls are refused, $0.80 of $1.00 spent, resets 2026-09-03 00:00 UTC"]


def test_one_large_request_that_is_refused_uses_nothing_up() -> None:
    world = World("limit at 50% 100%", limits=("$1/day",))
    world.spend("0.1")
    with pytest.raises(BudgetExceeded):
        world.budget.reserve("$5")
    assert world.look() == []


def test_a_window_that_nobody_looked_at_while_it_lasted_is_not_missed() -> None:
    world = World("limit at 90%", limits=("per=user $1/hour",))
    world.spend("0.95", user="alice")
    world.clock.move("1h")
    world.spend("0.01", user="alice")
    assert [text.split(",")[0] for text in world.look()] == ["$1/hour (user=alice): 90 % reached"]


def test_a_rolling_window_is_told_once_in_its_length() -> None:
    world = World("limit at 50% 75%", limits=("$1/1h rolling",), at=NOON + timedelta(minutes=55))
    world.spend("0.6")
    assert len(world.look()) == 1
    world.clock.move("10m")  # another hour of the clock, the same hour of the limit
    world.spend("0.01")
    assert world.look() == []
    world.spend("0.2")
    assert len(world.look()) == 1  # a higher share is news
    world.clock.move("2h")
    world.spend("0.6")
    assert len(world.look()) == 1


def test_a_raised_limit_has_other_shares() -> None:
    world = World("limit at 50%", limits=("per=user $1/day",))
    world.budget.adjust("+$9", user="alice")
    world.spend("2", user="alice")
    world.spend("0.6", user="bob")
    assert [text.split(":")[0] for text in world.look()] == ["$1/day (user=bob)"]


def test_a_limit_of_tokens_is_told_in_tokens() -> None:
    world = World("limit at 50%", limits=("10k tokens/day",))
    world.call(6)
    assert "6,060 tokens of 10,000 tokens spent" in world.look()[0]


def test_a_limit_that_will_not_last_is_told() -> None:
    world = World("exhausted before reset", limits=("$10/day",))
    world.spend("0.05", times=12, every="5m")  # a cent a minute would last
    assert world.look() == []
    world.spend("0.5", times=11, every="5m")
    (text,) = world.look()
    assert text.startswith("$10/day (everybody): used up at 2026-09-02 ")
    assert "resets 2026-09-03 00:00 UTC" in text
    world.spend("0.5", times=2, every="5m")
    assert world.look() == []


def test_a_limit_that_is_spent_evenly_lasts() -> None:
    world = World("exhausted before reset", "burn > 2x", limits=("$24/day",), at=NOON.replace(hour=0))
    for _ in range(47):
        world.spend("0.49")
        world.clock.move("30m")
        assert world.look() == []


def test_a_busy_hour_in_a_quiet_day_and_a_busy_morning_last() -> None:
    busy = World("exhausted before reset", limits=("$24/day",), at=NOON.replace(hour=18))
    busy.spend("0.5", times=16, every="3m")
    assert busy.look() == []
    morning = World("exhausted before reset", limits=("$24/day",), at=NOON.replace(hour=0))
    morning.spend("12", every="4h")
    morning.spend("0.01", times=5, every="1h")
    assert morning.look() == []


def test_a_limit_that_burns_is_told_before_it_is_used_up() -> None:
    world = World("burn > 3x", limits=("$24/day",), at=NOON.replace(hour=0))
    for _ in range(6):
        world.spend("1", every="1h")
        assert world.look() == []
    world.spend("2", times=4, every="15m")
    (text,) = world.look()
    assert "times as fast as it can last" in text


# Amounts.


def test_a_session_above_an_amount_within_minutes() -> None:
    world = World(
        "session > $5 in 10m", at=NOON + timedelta(minutes=4)
    )  # it crosses shortly before the next ten minutes
    world.spend("0.9", times=5, every="1m", session="s1", user="alice")
    assert world.look() == []
    world.spend("0.9", session="s1", user="alice")
    assert world.look() == ["session=s1: $5.40 within 10m"]
    world.spend("0.9", times=5, every="1m", session="s1", user="alice")  # it goes on: not news within ten minutes
    assert world.look() == []
    world.spend("0.9", times=7, every="1m", session="s1", user="alice")
    assert len(world.look()) == 1


def test_sums_beyond_what_the_file_holds_stop_no_rule() -> None:
    """Of a mistake in units one is told, and of what comes after it, too."""
    largest = "9223372036.854775807"
    world = World("user > $5 in 10m", "user hour > 5x usual over $1", "burn > 2x", "limit at 50%", limits=("$9/day",))
    _week(world, "alice", "bob", "carol", "dave")
    world.look()
    for _ in range(3):
        world.spend(largest, user="alice", every="1s")
    assert any(text.startswith("user=alice: $9,223,372,036.85") for text in world.look())
    world.spend(largest, user="alice", every="2h")
    world.look()
    world.spend("6", user="bob")
    assert any(text.startswith("user=bob: $6.00 within 10m") for text in world.look())


def test_a_session_that_is_slow_or_another_is_not_told() -> None:
    world = World("session > $5 in 10m")
    world.spend("0.9", times=30, every="130s", session="s1")  # five of them are within 10 minutes
    world.spend("4.9", session="s2")
    world.spend("4.9", session="s3")
    world.spend("9")
    assert world.look() == []


def _week(world: World, *users: str) -> None:
    """Let users spend 10 cents in two hours of each of seven days: 0.4 cents an hour, idle hours included."""
    for _ in range(14):
        for user in users:
            world.spend("0.05", user=user)
        world.clock.move("12h")


def test_a_users_hour_is_held_against_their_usual_one() -> None:
    world = World(at=NOON - timedelta(days=7))
    _week(world, "alice", "bob", "carol", "dave")
    world.watch("user hour > 5x usual over $0.02")
    world.spend("0.02", user="alice")
    assert world.look() == []
    world.spend("0.05", user="alice")
    assert len(world.look()) == 1
    world.spend("0.05", user="alice")
    assert world.look() == []


def test_a_spike_of_a_new_user_is_held_against_the_median_user() -> None:
    world = World(at=NOON - timedelta(days=7))
    _week(world, "alice", "bob", "carol", "dave")
    world.watch("user hour > 5x usual over $0.02")
    world.spend("0.02", user="mallory")
    assert world.look() == []
    world.spend("0.98", user="mallory")
    (text,) = world.look()
    assert text.startswith("user=mallory: $1.00 in an hour, ")
    assert "the median user" in text


def test_an_hour_below_the_floor_and_a_ledger_without_history_are_not_told() -> None:
    world = World(at=NOON - timedelta(days=7))
    _week(world, "alice", "bob", "carol", "dave")
    world.watch("user hour > 5x usual over $1")
    world.spend("0.9", user="alice")
    assert world.look() == []
    young = World("user hour > 5x usual over $1")
    young.spend("3", times=3, user="alice")
    young.spend("0.1", times=3, user="bob")
    assert young.look() == []


def test_a_request_of_many_times_the_mean() -> None:
    world = World("request > 10x mean over $0.10")
    world.spend("0.02", times=60, every="1s", agent="support")
    world.spend("0.3", agent="support")  # of 60 calls no mean is made
    assert world.look() == []
    world.spend("0.02", times=300, every="1s", agent="support")
    world.spend("0.19", agent="support")  # 9 times
    world.spend("9", agent="research")  # an agent of which nothing is known
    assert world.look() == []
    world.spend("0.3", agent="support", user="alice")
    (text,) = world.look()
    assert text.startswith("agent=support: a request of $0.30, 14.1 times the mean of $0.021")


# Caches, distributions.


def test_a_low_hit_ratio_after_the_warm_up() -> None:
    world = World("cache < 60% in 1h")
    world.call(30, read=9000, agent="support")
    world.call(5, agent="support")  # five misses do not make a bad hour
    world.call(25, read=4000, fresh=6000, agent="young")  # nor does a cache that is being warmed
    assert world.look() == []
    world.clock.move("2h")
    world.call(19, agent="support", fresh=10_000)
    assert world.look() == []
    world.call(1, agent="support", fresh=10_000)
    assert world.look() == [f"agent=support model={MODEL}: 0 % of the input of 20 calls came from the cache"]


def test_where_nobody_caches_nothing_is_missed() -> None:
    world = World("cache < 60% in 1h")
    world.call(100, agent="support")
    assert world.look() == []


def _days(world: World, days: int, factor: int = 100) -> None:
    """Let an agent make 130 calls on each of some days, of 1 to 1.3 cents, times a factor in percent."""
    for _ in range(days):
        for i in range(130):
            world.budget.record(usd=f"{(10_000 + 23 * i) * factor / 100 / 1e6:.6f}", agent="support")
        world.clock.move("1d")


def test_a_cost_that_is_distributed_otherwise_is_told_once() -> None:
    world = World(at=NOON - timedelta(days=4))
    _days(world, 3)
    world.watch("drift in 1d")
    _days(world, 1)
    assert world.look() == []
    _days(world, 1, factor=130)
    (text,) = world.look()
    assert text.startswith("agent=support: what calls cost has changed, median $0.01")
    world.clock.move("1h")
    assert world.look() == []


def _steps(world: World, lowest: int, calls: int) -> None:
    """Let an agent make calls on a day, each dearer than the one before; the first ones cost as much as `lowest`."""
    for i in range(calls):
        world.budget.record(usd=f"0.{10_000 + 100 * max(i, lowest):06d}", agent="support")
    world.clock.move("1d")


def test_a_change_that_is_significant_and_small_is_no_drift() -> None:
    world = World(at=NOON - timedelta(days=8))
    for _ in range(7):
        _steps(world, 0, 180)
    world.watch("drift in 1d")
    _steps(world, 33, 180)  # 18 % of the calls are dearer: D is 0.18, and p below 0.0001
    assert ks_p_value(33 / 180, 1260, 180) < 0.0001
    assert world.look() == []


def test_a_change_that_is_large_and_may_be_chance_is_no_drift() -> None:
    world = World(at=NOON - timedelta(days=2))
    _steps(world, 0, 100)
    world.watch("drift in 1d")
    _steps(world, 23, 100)
    assert ks_p_value(23 / 100, 100, 100) > 0.005
    assert world.look() == []


def test_a_small_change_of_scale_and_a_few_calls_are_no_drift() -> None:
    world = World(at=NOON - timedelta(days=4))
    _days(world, 3)
    world.watch("drift in 1d")
    _days(world, 1, factor=103)
    for _ in range(60):
        world.budget.record(usd="1", agent="support")
    world.clock.move("1d")
    assert world.look() == []


# Prices, ourselves.


def test_a_model_without_a_price_that_is_refused() -> None:
    world = World("unpriced")
    for _ in range(3):
        with pytest.raises(UnknownModel):
            world.budget.reserve(model="no-such-1", messages=[{"role": "user", "content": "hi"}], max_tokens=9)
    assert world.alerts is not None
    world.alerts.close()
    assert world.look() == ["model=no-such-1 lacks a price, its calls are refused; see: budget prices set"]


def test_what_a_model_is_called_stays_one_line() -> None:
    world = World("unpriced")
    with pytest.raises(UnknownModel):
        world.budget.reserve(model="no\nsuch", messages=[{"role": "user", "content": "hi"}], max_tokens=9)
    assert world.alerts is not None
    world.alerts.close()
    assert world.look() == [r"model=no\nsuch lacks a price, its calls are refused; see: budget prices set"]


def test_a_model_without_a_price_that_is_allowed() -> None:
    world = World("unpriced", on_unpriced="allow")
    world.call(1)
    assert world.look() == []
    world.budget.record({"input_tokens": 5, "output_tokens": 5}, model="no-such-1", provider="anthropic")
    assert world.look() == ["model=no-such-1 lacks a price, its calls are counted as free; see: budget prices set"]


def test_old_prices_are_told_of_models_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("stale prices")
    book = world.budget.settings.book
    read = datetime.fromisoformat(str(book.retrieved)).replace(tzinfo=UTC)
    world = World("stale prices", at=max(read, NOON) + timedelta(days=1))
    assert not any("last read" in text for text in world.look())
    world.clock.move("100d")
    assert any("more than 90 days ago" in text for text in world.look())
    assert world.look() == []


def test_prices_past_their_day_are_told_of_models_that_are_used() -> None:
    world = World("stale prices", at=NOON + timedelta(days=80))
    book, now = world.budget.settings.book, world.clock()
    rows = {model.id: model.row(now).review_by for model in book.models() if model.provider == "anthropic"}
    dated = min((day, name) for name, day in rows.items() if day and day > world.clock.now.date().isoformat())
    for name in (dated[1], MODEL):
        world.budget.record(Usage(input=5, output=5), model=name)
    assert not any("looked at again" in text for text in world.look())
    world.clock.move_to(datetime.fromisoformat(f"{dated[0]}T12:00:00+00:00") + timedelta(days=1))
    world.budget.record(Usage(input=5, output=5), model=dated[1])
    assert any(f"looked at again: {dated[1]};" in text for text in world.look())


def test_a_store_that_is_away_for_a_moment_is_no_news_and_for_long_is() -> None:
    world = World("store trouble")
    assert world.alerts is not None
    world.alerts.troubled(OSError("gone"))
    world.clock.move("30s")
    world.alerts.troubled(OSError("gone"))
    assert world.look() == []
    world.spend("0.1")
    world.look()  # it was read again: what comes is another outage
    world.alerts.troubled(OSError("gone"))
    world.clock.move("90s")
    world.alerts.troubled(OSError("gone"))
    world.alerts.troubled(OSError("gone"))
    assert world.look() == ["the ledger cannot be read for 90 seconds: gone"]


# Rules as text.


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_that_help_and_errors_show_is_a_rule_of_its_kind(kind: type) -> None:
    assert type(make_rule(kind.form)) is kind  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    ["", "limits", "limit at 0%", "limit at 120%", "burn > 1x", "burn > -3x", "session > 5 in 10m", "cache < 0% in 1h",
     "session > $5 in 10s", "drift in 2d", "user hour > 5x usual", "request > x mean over $1"],
)  # fmt: skip
def test_what_is_no_rule_is_said(text: str) -> None:
    with pytest.raises(ConfigError, match="alerts"):
        make_rule(text)


def test_rules_are_a_list_and_each_counts_once() -> None:
    assert [rule.text for rule in make_rules(["default", "unpriced"])] == list(DEFAULT)
    for wrong in ("default", None, [3]):
        with pytest.raises(ArgumentTypeError, match="alerts"):
            make_rules(wrong)
