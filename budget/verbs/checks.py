"""Before a call: what is expected of it, and whether it would be admitted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from budget.above import Also
from budget.asks import Ask, bound
from budget.buckets import opened
from budget.commands import Learn, Status
from budget.config import Settings
from budget.errors import Frozen, Refusal, RunStopped, StoreUnavailable, Unbounded
from budget.estimate import Estimate, again
from budget.expect import Counts
from budget.learn import Forecast, Learner
from budget.money import format_usd
from budget.pool import refused_by, shadowed_by
from budget.prices.stale import Watch
from budget.refusals import exceeded, frozen_error, refusals
from budget.stores.base import Store
from budget.verbs.answers import Answers
from budget.verbs.applies import TRIES, Flow, not_too_many

__all__ = ["Checks", "Decision"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a call would be admitted now; truthy if so. Nothing was written or counted.

    Attributes:
        admitted: Whether it would be.
        refusal: The deciding refusal, or None. Of a rolling limit its `resets_at` is when all that is used now will
            have left: the call fits by then at the latest, and often before. A refused reserve says when first.
        refusals: Every limit that would refuse.
        shadows: Every limit in shadow mode that would refuse if it were not.
    """

    admitted: bool
    refusal: Refusal | None = None
    refusals: tuple[Refusal, ...] = ()
    shadows: tuple[Refusal, ...] = ()

    def __bool__(self) -> bool:
        return self.admitted

    def of_account(self, account: str, shadows: Sequence[Refusal]) -> Decision:
        """Return it as that of the account above; the shadows of the account that was asked stand before its own."""
        refusals, own = ([replace(each, account=account) for each in some] for some in (self.refusals, self.shadows))
        decisive = replace(self.refusal, account=account) if self.refusal else None
        return Decision(self.admitted, decisive, tuple(refusals), (*shadows, *own))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"admitted": self.admitted, "refusal": self.refusal.to_dict() if self.refusal else None}


class Checks(Answers):
    """Looks ahead: at what calls like it have cost, at the age of its price, and at the room that there is.

    Attributes:
        above: The verbs of the account above, or None.
    """

    above: Self | None = None

    def __init__(self, settings: Settings, drive: Callable[[Flow], Any], store: Store):
        super().__init__(settings, drive, store)
        self._goes_on = settings.on_store_error != "refuse"
        self._prices = Watch(settings.book)
        if not settings.disabled:
            self._prices.begin(self.now())
        self.learner = Learner(settings, lambda more: drive(self.learned(more)))

    def check(self, ask: Ask) -> Flow:
        """Return a `Decision` on what was asked for, without writing or counting."""
        if self.settings.disabled:
            return Decision(True)
        if ask.estimate is not None:
            yield from self._expect(ask, ask.estimate)
        try:
            matches, draws, buckets = yield from self.look(ask)
        except (Frozen, RunStopped) as stopped:
            return Decision(False, stopped.refusal, stopped.refusals)
        shadows = tuple(refusals(matches, draws, buckets, shadowed_by(draws, buckets)))
        refused = refused_by(draws, buckets)
        if refused:
            error = exceeded(ask, matches, draws, buckets, refused, *self._advice(ask))
            return Decision(False, error.refusal, error.refusals, shadows)
        if self.above is None:
            return Decision(True, shadows=shadows)
        decision = yield Also(self.above.check(replace(ask.above(None), estimate=None)))
        return decision.of_account(self.above.settings.account, shadows)

    def look(self, ask: Ask) -> Flow:
        """Return the limits that would decide on a call now, its draws, and what their pools show.

        Raises:
            Frozen, RunStopped: It would not come to that.
        """
        for _ in range(TRIES):
            policy = yield from self.policy()
            frozen = self._guard(policy, ask)
            matches = not_too_many(self._matches(policy, ask))
            outcome = yield Status([match.pool or "" for match in matches], sweep=False)
            if outcome.version == policy.version:
                break
            self.forget_policy()
        if frozen is not None:
            raise frozen_error(ask, frozen)
        now = outcome.now
        draws = policy.draws(matches, ask.amounts, now, ask.most)
        pairs = zip(draws, outcome.buckets, strict=True)
        return matches, draws, [b if b is not None and now < b.end else opened(draw, b, now) for draw, b in pairs]

    def _advice(self, ask: Ask) -> tuple[Any, ...]:
        """Return what an error of a refusal needs to answer questions: guards, prices, time, and `fits`."""
        own = [limit for run in self._runs(ask) for limit in run.limits]
        guards = [limit for limit in own if limit.unit == "requests" and limit.window.kind == "run"]
        return guards, self.settings.book, self.now(), ask.fits or self._fits(ask)

    def _fits(self, ask: Ask) -> Callable[[str], bool] | None:
        """Return what says of an estimated call whether it would be admitted on another model."""
        estimate = ask.estimate
        if estimate is None:
            return None

        def fits(model: str) -> bool:
            other = again(self.settings.book, estimate, model, self.now())
            scope = {**ask.scope, "model": other.model, "provider": other.provider}
            try:
                amounts = bound(self.settings, other)
            except Unbounded:
                return False
            asked = replace(ask, amounts=amounts, most=None, scope=scope, estimate=other)
            return bool(self.drive(self.check(asked)))

        return fits

    def _expect(self, ask: Ask, estimate: Estimate) -> Flow:
        """Put into what is asked for what is expected of such calls, and return what its end is held against."""
        if not self.learner.loaded:
            try:
                self.learner.load((yield from self.learned({})))
            except StoreUnavailable:
                if not self._goes_on:
                    raise
        bound = ask.most or ask.amounts
        found: Forecast | None = self.learner.forecast(estimate, bound, ask.scope, self.now())
        if found is not None:
            told = {**ask.detail["estimate"], "input_tokens": found.tokens, "usd": format_usd(found.expected)}
            soft = found.soft or ask.step
            ask.amounts, ask.most = bound, None
            if soft is not None:
                ask.amounts, ask.most = soft, bound
                told |= {"reserve_at": self.settings.reserve_at, "usd_reserved": format_usd(soft[0] or 0)}
            ask.detail = {**ask.detail, "estimate": told}
        return found

    def learned(self, more: Mapping[str, Counts]) -> Flow:
        """Add to what the account has learned, and return what that is then."""
        outcome = yield Learn(more)
        return outcome.learned

    def _watch(self, ask: Ask) -> None:
        """Have an old price said when it is used."""
        if "book" in ask.detail:
            self._prices.used(ask.scope["model"], ask.scope.get("provider"), self.now())
