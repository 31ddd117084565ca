"""Refusals: from what a pool answered to an error with numbers in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from budget.asks import Ask
from budget.buckets import allowed, bar
from budget.commands import Amounts, Bucket, Draw
from budget.errors import BudgetExceeded, CapExceeded, Frozen, Refusal, RunStopped
from budget.estimate import Estimate, with_output
from budget.limits import UNITS, Limit
from budget.money import to_decimal
from budget.policy import Match, per_unit
from budget.pool import admits, verdict
from budget.pools import shown
from budget.prices import PriceBook
from budget.subject import Subject
from budget.window import FOREVER, at_zone

__all__ = ["exceeded", "frozen_error", "refusals"]


def frozen_error(ask: Ask, subject: Mapping[str, str]) -> Frozen:
    """Make the error of a frozen subject ({} is everybody)."""
    zero = Decimal(0)
    asked = to_decimal(ask.amounts[0] or 0)
    return Frozen([Refusal(None, Subject(subject), "usd", zero, zero, asked, zero, None, "wait")], ask.scope)


def exceeded(
    ask: Ask,
    matches: Sequence[Match],
    draws: Sequence[Draw],
    buckets: Sequence[Bucket | None],
    refused: Sequence[int],
    guards: Sequence[Limit],
    book: PriceBook,
    at_us: int,
    fits: Callable[[str], bool] | None,
) -> BudgetExceeded:
    """Make the error of a refused reserve. `guards` are the `max_calls` of the runs the call is in."""
    found = refusals(matches, draws, buckets, refused)
    limits = [matches[i].limit for i in refused]
    kind: type[BudgetExceeded] = BudgetExceeded
    if any(limit in guards for limit in limits):
        kind = RunStopped
    elif any(limit.window.kind == "request" for limit in limits):
        kind = CapExceeded
    estimate = ask.estimate
    soft = ask.amounts if ask.most else None
    if estimate is None or not estimate.closed:
        return kind(found, ask.scope, None, fits)

    def most() -> int | None:
        return _output_that_fits(book, estimate, soft, matches, draws, buckets, at_us)

    return kind(found, ask.scope, most, fits)


def refusals(
    matches: Sequence[Match], draws: Sequence[Draw], buckets: Sequence[Bucket | None], which: Sequence[int]
) -> list[Refusal]:
    """Return what those draws of a call that refuse (or would) say of it."""
    return [_refusal(matches[i], draws[i], _known(buckets[i])) for i in which]


def _output_that_fits(
    book: PriceBook, estimate: Estimate, soft: Amounts | None, matches: Sequence[Match], draws: Sequence[Draw],
    buckets: Sequence[Bucket | None], at_us: int,
) -> int | None:  # fmt: skip
    """Return the largest output bound that every pool would take, by bisection; None if there is none.

    There is none where no slot is free, or no request left: a shorter answer does not cure that.
    """
    low, high = 0, estimate.output_tokens_max
    while low < high:
        middle = (low + high + 1) // 2
        most = with_output(book, estimate, middle, at_us).amounts
        caps, amounts = per_unit(most), per_unit(soft or most)
        asked = [(caps[draw.unit] or 0, amounts[draw.unit] or 0) for draw in draws]
        fits = all(
            admits(cap if match.limit.window.kind == "request" else min(cap, amount), bar(draw, bucket), bucket)
            for match, draw, bucket, (cap, amount) in zip(matches, draws, map(_known, buckets), asked, strict=True)
        )
        low, high = (middle, high) if fits else (low, middle - 1)
    return low or None


def _known(bucket: Bucket | None) -> Bucket:
    assert bucket is not None, "a refusal shows every pool"
    return bucket


def _refusal(match: Match, draw: Draw, bucket: Bucket) -> Refusal:
    unit, most = UNITS[draw.unit], allowed(draw, bucket)
    figures = (bucket.spent, bucket.reserved, draw.amount, most - bucket.spent - bucket.reserved)
    spent, reserved, requested, available = (shown(unit, n) for n in figures)
    ends = at_zone(bucket.end, match.limit.tz) if bucket.end < FOREVER else None
    says = verdict(draw.amount, most, bucket)
    limit = match.limit.raised(most - match.limit.quantity)  # as a status shows it
    return Refusal(limit, match.subject, unit, spent, reserved, requested, available, ends, says)
