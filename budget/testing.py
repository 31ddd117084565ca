"""For the tests of programs that use `budget`: a budget of their own, a clock that is moved, a check for leaks.

    # conftest.py
    from budget.testing import budget_fixture

    budget = budget_fixture(limits=["$5/day"])       # a pytest fixture of this name

    # test_agent.py
    def test_the_next_day_it_goes_on(budget):
        client = budget.wrap(Anthropic(base_url=...))
        with pytest.raises(BudgetExceeded):
            run_agent_until_refused(client)
        budget.clock.move("1d")
        run_agent_once(client)

A `Sandbox` is the real engine on a store in memory, not a double of it: what it admits and refuses is what production
would. Only its time is a test's: windows, leases, deadlines and dated prices follow a clock that stands still until it
is moved. (Waiting for room, `wait=`, takes the seconds that it takes, and so does renewing a lease in the background.)

For answers without a provider there is `budget.demo.provider.Provider`, a server on loopback that speaks the APIs of
the SDKs and says usage, errors, delays and cuts as a test wants them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from budget import engine
from budget.config import Settings, duration_us
from budget.engine import Budget
from budget.errors import ArgumentTypeError, ConfigError
from budget.window import at_zone, instant

if TYPE_CHECKING:
    from budget.commands import Reservation

__all__ = ["Clock", "Sandbox", "assert_no_leaks", "budget_fixture"]


class Clock:
    """A clock that stands still until it is moved; it never goes back, as a store's never does.

    Args:
        at: What it says first; this machine's time if not given. Prices are dated: before a model's first price, the
            model has none.

    Raises:
        ArgumentTypeError: It is no datetime.
        ConfigError: It has no time zone.
    """

    def __init__(self, at: datetime | None = None):
        self._us = _micros(datetime.now(UTC) if at is None else at)

    @property
    def now(self) -> datetime:
        """The time, in UTC."""
        return at_zone(self._us)

    def move(self, by: str | timedelta) -> None:
        """Let time pass: "90s", "15m", "2h", "1d", "1w", or a timedelta.

        Raises:
            ArgumentTypeError: It is neither.
            ConfigError: It is no such text, or a timedelta below zero.
        """
        if isinstance(by, timedelta):
            us = by // timedelta(microseconds=1)
        elif isinstance(by, str):
            us = duration_us(by, "by")
        else:
            raise ArgumentTypeError(f"by: {type(by).__name__} is neither a text such as '2h' nor a timedelta")
        if us < 0:
            raise ConfigError(f"by: {by} is back in time, and a store's clock never goes back")
        self._us += us

    def move_to(self, at: datetime) -> None:
        """Let time pass until an instant.

        Raises:
            ArgumentTypeError: It is no datetime.
            ConfigError: It has no time zone, or is over.
        """
        us = _micros(at)
        if us < self._us:
            raise ConfigError(f"at: {at.isoformat()} is over, and a store's clock never goes back")
        self._us = us

    def __call__(self) -> int:
        """Return the time as the engine counts it: microseconds since the epoch."""
        return self._us

    def __repr__(self) -> str:
        return f"Clock({self.now.isoformat()})"


class Sandbox(Budget):
    """A budget for one test: in memory, private, with a clock of its own.

    Args:
        clock: Its clock; one that stands at this machine's time if not given.
        **options: As of `Budget`, but for the store. What `BUDGET_*` and a `budget.toml` say holds besides.

    Attributes:
        clock: Its clock.

    Raises:
        ConfigError, ArgumentTypeError: See `Budget`.
    """

    def __init__(self, *, clock: Clock | None = None, **options: Any):
        if clock is not None and not isinstance(clock, Clock):
            raise ArgumentTypeError(f"clock: {type(clock).__name__} is not a budget.testing.Clock")
        if "store" in options:
            raise ConfigError("store: a sandbox is in memory; take a Budget for another store")
        self.clock = clock or Clock()
        super().__init__("memory://", **options)

    def _begin(self, settings: Settings) -> None:
        super()._begin(replace(settings, clock=self.clock))


def assert_no_leaks(budget: Budget) -> list[Reservation]:
    """Assert that nothing is reserved any more, and that every pool is the sum of its ledger entries.

    Call it when all calls have ended. A stream that was dropped ends when it is collected, which is seen to here. What
    was bought in advance (`slices`, `local_allowance`) is reserved until the budget is closed.

    Batches and background responses whose results nobody has collected yet are no leaks.

    Returns:
        What is reserved for those. `assert not assert_no_leaks(budget)` allows none either.

    Raises:
        AssertionError: It says what is still reserved, for whom and since when, or which pool differs.
    """
    engine = budget.engine
    late, left = _open(budget)
    if left:
        gc.collect()
        late, left = _open(budget)
    if left:
        now = engine.verbs.now()
        rows = "".join(f"\n  {_describe(each, now)}" for each in left)
        raise AssertionError(f"reservations are still open ({len(left)}):{rows}")
    if faults := engine.books.verify().faults:
        raise AssertionError("the pools are not the sums of their entries:" + "".join(f"\n  {each}" for each in faults))
    return late


def budget_fixture(*, clock: Clock | None = None, **options: Any) -> Any:
    """Make a pytest fixture that gives each test a `Sandbox`, and looks for leaks when the test is over.

    While the test runs, the sandbox is the default engine: what is decorated with a bare `@budgeted` uses it.

    Args:
        clock: See `Clock`; each test begins with a clock of its own that stands where this one does.
        **options: As of `Sandbox`.
    """
    import pytest

    @pytest.fixture
    def fixture() -> Iterator[Sandbox]:
        made = Sandbox(clock=None if clock is None else Clock(clock.now), **options)
        with made:
            with _as_default(made):
                yield made
            assert_no_leaks(made)

    return fixture


@contextmanager
def _as_default(budget: Budget) -> Iterator[None]:
    before, engine._default = engine._default, budget
    try:
        yield
    finally:
        engine._default = before


def _open(budget: Budget) -> tuple[list[Reservation], list[Reservation]]:
    """Return what is reserved for late answers, to which a link leads, and all else that is open, but for links."""
    known = budget.engine.store.reservations(budget.settings.account)
    late = {each.parent for each in known if "link" in each.detail}
    others = [each for each in known if "link" not in each.detail]
    return [each for each in others if each.id in late], [each for each in others if each.id not in late]


def _describe(left: Reservation, now: int) -> str:
    scope = ", ".join(f"{name}={value}" for name, value in left.scope.items() if name != "run")
    return f"{left.id}: ${left.usd:f} ({scope or 'no attributes'}), {(now - left.made) / 1e6:.1f} s old"


def _micros(at: object) -> int:
    if not isinstance(at, datetime):
        raise ArgumentTypeError(f"at: {type(at).__name__} is not a datetime")
    return instant(at)
