"""What applies to a call: the policy last loaded, freezes and guards, and the runs that the call is in."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

from budget.above import Also
from budget.asks import Ask
from budget.commands import Command, LoadPolicy, Status
from budget.config import Settings
from budget.errors import ConfigError, StoreUnavailable
from budget.policy import Matches, Policy
from budget.run import Run
from budget.waiting.line import Place
from budget.waiting.storetime import StoreTime

__all__ = ["MOST_LIMITS", "TRIES", "Applies", "Flow", "not_too_many"]

Flow = Generator[Command | Place | Also, Any, Any]
"""The steps of one verb: commands, which are answered with outcomes, and places in the line, with whether to go on."""
MOST_LIMITS = 32
"""Limits that may apply to one call."""
TRIES = 64
"""Answers of stale policy or window in a row before the store is given up on."""


class Applies:
    """What applies to the calls of one engine, and what time it is.

    Attributes:
        clock: The store's time.
    """

    def __init__(self, settings: Settings, drive: Callable[[Flow], Any]):
        self.settings, self.drive = settings, drive
        self.clock = StoreTime(settings.clock)
        now = self.now()
        self._own = [limit.set_at(now) for limit in settings.limits]
        self._policy: Policy | None = None
        self._before: Policy | None = None

    def now(self) -> int:
        """The wall clock in microseconds; the store's is what decides."""
        clock = self.settings.clock
        return time.time_ns() // 1000 if clock is None else clock()

    @staticmethod
    def new_id() -> str:
        """Make a reservation's id: 48 bits of time in milliseconds and 80 random bits, as 32 hex digits."""
        return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"

    def policy(self) -> Flow:
        """Return the policy last loaded, as it is now, or load it."""
        policy, now = self._policy, self.clock.now()
        if policy is None:
            outcome = yield LoadPolicy()
            self.clock.saw(outcome.now, now)
            policy = self._policy = self._before = Policy(
                outcome.version, outcome.rows, self._own, now=outcome.now, shadow=self.settings.shadow,
                before=self._before,
            )  # fmt: skip
        elif now >= policy.changes_at:
            policy = self._policy = self._before = policy.at(now)
        return policy

    def forget_policy(self) -> None:
        """Have the next verb load the policy."""
        self._policy = None

    def _policy_of_costs(self) -> Flow:
        """Return the policy, or what this process knows of it: a cost is booked by the whole of it when it arrives."""
        try:
            return (yield from self.policy())
        except StoreUnavailable:
            return Policy(-1, (), self._own, now=self.now(), shadow=self.settings.shadow)

    def _guard(self, policy: Policy, ask: Ask) -> dict[str, str] | None:
        """Return the frozen subject, if there is one; else check the guards of the call's runs."""
        if policy.fenced is not None:
            self.forget_policy()  # the next one looks whether it was rebuilt
            error = StoreUnavailable(
                "the store has lost what it had acknowledged, and nothing is admitted on what is left: "
                "`budget ledger rebuild` restores it"
            )
            error.sent, error.lost = False, json.loads(policy.fenced)["lost"]
            raise error
        if ask.run is None:
            return policy.frozen([ask.scope])
        frozen = policy.frozen([ask.scope, *self._run_scopes(ask, self._runs(ask))]) if policy.freezes else None
        if frozen is None and not self.settings.disabled:
            ask.run.check_guards(ask.looping)
        return frozen

    def _runs(self, ask: Ask) -> Sequence[Run]:
        if ask.run is None:
            return ()
        chain = list(ask.run.chain())
        mine = [run for run in chain if run.belongs_to(self)]
        if len(mine) < len(chain) and any(run.limits for run in chain if not run.belongs_to(self)):
            raise ConfigError("run: a run with limits belongs to one engine, and this call goes through another one")
        return mine

    def _run_scopes(self, ask: Ask, runs: Sequence[Run]) -> list[dict[str, str]]:
        call: dict[str, str] = {name: ask.scope[name] for name in ("model", "provider") if name in ask.scope}
        return [{**run.scope, **call} for run in runs]

    def _matches(self, policy: Policy, ask: Ask) -> Matches:
        if self.settings.disabled:
            return Matches()
        own = [(limit, ask.scope) for limit in ask.limits]
        if ask.run is None:
            return policy.matches(ask.scope, (), own) if own else policy.matches(ask.scope)
        runs = self._runs(ask)
        scopes = self._run_scopes(ask, runs)
        own += [(limit, scope) for run, scope in zip(runs, scopes, strict=True) for limit in run.limits]
        return policy.matches(ask.scope, scopes, own)

    def refresh(self, run: Run) -> Flow:
        """Read a run's pools, so that it knows what other processes spent in it, and what it was raised by."""
        pools = run.own_pools
        outcome = yield Status(pools)
        policy = yield from self.policy()
        if policy.version != outcome.version:
            self.forget_policy()
            policy = yield from self.policy()
        for pool, bucket in zip(pools, outcome.buckets, strict=True):
            run.took(pool, bucket, policy.more(pool, outcome.now))


def not_too_many(matches: Matches) -> Matches:
    """Return limits that apply to one call.

    Raises:
        ConfigError: They are too many.
    """
    if len(matches) > MOST_LIMITS:
        names = ", ".join(repr(each.text) for each in matches)
        raise ConfigError(f"limits: {len(matches)} apply to this call, {MOST_LIMITS} may: {names}")
    return matches
