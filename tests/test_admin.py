"""What operators change: arguments that are wrong, limits that are set again, and what was said beside them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from budget import ArgumentTypeError, Budget, ConfigError, Limit
from budget.testing import Clock, Sandbox

Make = Callable[..., Budget]
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def shown(budget: Budget) -> list[tuple[str, str]]:
    return [(limit.rule, limit.on_short) for limit in budget.limits]


@pytest.mark.parametrize(("usual", "meanwhile"), [("clamp", None), (None, "ask"), ("clamp", "ask")])
def test_what_is_done_when_short_comes_back_with_its_limit(usual: str | None, meanwhile: str | None) -> None:
    """Both count from the same instant, the beginning of the window."""
    with Sandbox(clock=Clock(NOON)) as budget:
        budget.limits.set("$5/day", backfill=True, on_short=usual)
        budget.limits.set("$50/day", until="2h", backfill=True, on_short=meanwhile)
        assert shown(budget) == [("$50/day", meanwhile or "")]
        budget.limits.set("$70/day", until="1h", backfill=True)
        budget.clock.move("1h")
        assert shown(budget) == [("$50/day", meanwhile or "")]
        budget.clock.move("1h")
        assert shown(budget) == [("$5/day", usual or "")]
        budget.limits.set("$50/day", until="2h", backfill=True, on_short=meanwhile)
        budget.limits.unset("$50/day")
        assert shown(budget) == [("$5/day", usual or "")]


def test_a_limit_that_is_set_again_at_the_same_instant_has_its_own_options() -> None:
    with Sandbox() as budget:
        budget.limits.set("$5/day", on_short="clamp")
        budget.limits.set("$6/day")
        assert shown(budget) == [("$6/day", "")]
        budget.limits.set("$7/day", until="2h", on_short="ask")
        budget.clock.move("2h")
        assert shown(budget) == [("$6/day", "")]


@pytest.mark.parametrize("value", ["no", 1, None])
def test_what_is_said_by_a_flag_is_true_or_false(value: Any, make_budget: Make) -> None:
    """Anything else would mean yes: "no" would freeze everybody."""
    budget = make_budget("memory://")
    for name, change in (("everybody", budget.freeze), ("everybody", budget.unfreeze)):
        with pytest.raises(ArgumentTypeError, match=f"^{name}: {type(value).__name__} is not True or False"):
            change(**{name: value})
    with pytest.raises(ArgumentTypeError, match=r"^backfill: "):
        budget.limits.set("$5/day", backfill=value)
    assert budget.limits.freezes() == []
    assert list(budget.limits) == []


@pytest.mark.parametrize(
    ("until", "tz"),
    [
        (datetime.max.replace(tzinfo=UTC), "Europe/Berlin"),
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))), None),
        (datetime.min.replace(tzinfo=UTC), "America/New_York"),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), None),
    ],
)
def test_an_end_that_no_calendar_has(until: datetime, tz: str | None, make_budget: Make) -> None:
    with pytest.raises(ConfigError, match=r"^until: .* has no date in "):
        Limit("$5/day", until=until, tz=tz)
    budget = make_budget("memory://")
    with pytest.raises(ConfigError, match=r"^until: "):
        budget.limits.set("$5/day", until=until, tz=tz)
    assert list(budget.limits) == []
    far = Limit("$5/day", until=datetime.max.replace(tzinfo=UTC))
    assert far.options == {"until": "9999-12-31T23:59:59.999999+00:00"}


def test_an_adjustment_while_disabled(make_budget: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that was set a line before is not there: nothing is recorded."""
    monkeypatch.setenv("BUDGET_DISABLED", "1")
    budget = make_budget("memory://")
    budget.limits.set("$5/day", user="alice")
    assert budget.adjust("+$1", user="alice") == []
    with pytest.raises(ConfigError, match=r"^adjust: "):
        budget.adjust("$1", user="alice")


def test_an_adjustment_of_a_run_says_who_knows_its_limit(make_budget: Make) -> None:
    budget = make_budget("memory://")
    with budget.run("$1", id="mine"):
        budget.reserve("$0.10")
    with pytest.raises(ConfigError, match="run=mine alone; what a run was given itself, its own process alone knows"):
        budget.adjust("+$1", run="mine")
    budget.limits.set("$2/run")
    assert [str(pool.limit) for pool in budget.adjust("+$1", run="mine")] == ["$3/run"]


def test_since_without_a_zone_is_named(make_budget: Make) -> None:
    with pytest.raises(ConfigError, match=r"^since: a datetime without a time zone"):
        make_budget("memory://").entries(since=datetime(2026, 11, 1))  # noqa: DTZ001 - that is what is refused
