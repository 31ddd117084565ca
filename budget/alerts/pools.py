"""Rules about limits: a share of one is spent, it is spent too fast, it will not last until it resets.

How much of a pool is spent is what the store says of its present window; where that is over already (nobody looked
while it lasted), it is what the ledger has added to it since the rule came. Only what is spent counts, not what is
reserved: a call that sets aside a dollar and costs a cent is no news.

A limit's burn rate is how fast it is spent, as a multiple of the pace that would spend all of it just at the end of
its window: over 24 parts of a window, the present and the one before (the measure and the use of a short stretch
besides the whole window are those of "Alerting on SLOs", The Site Reliability Workbook, Google 2018, chapter 5)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from budget.alerts.rule import DAY, Look, Rule, times_of
from budget.commands import Bucket, LoadPolicy, Status
from budget.ledger import Entry
from budget.limits import CONCURRENT, Limit
from budget.money import format_usd, show_usd
from budget.policy import Match, Policy
from budget.records.changes import Change, Refused
from budget.stores.base import PAGE
from budget.window import FOREVER, SECOND, at_zone, bounds

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["Burn", "Exhaustion", "Share", "Touched", "touched"]

SHARES = (50, 75, 90, 100)
"""Percent of a limit at which it is said, if nothing else was asked for."""
_PARTS = 24
_LEAST_BURN, _LEAST_EXHAUSTION = 10, 20
"""Percent of a limit below which its pace says nothing: a window's first call is always far ahead of it."""


@dataclass(slots=True)
class Touched:
    """A pool that entries were about.

    Attributes:
        id: The pool's.
        limit: Its limit; `amount` is what that allows in this window.
        subject: Whose it is.
        start, end: Of the window; a rolling one has stretches of its length, on the grid of the epoch.
        spent: In the window, by the store; None if that window is over.
        parts: What the entries added to spent, at which times.
        refused: It has refused a call.
        at_us: When it was last touched.
    """

    id: str
    limit: Limit
    subject: str
    start: int
    end: int
    spent: int | None
    amount: int
    at_us: int
    refused: bool = False
    parts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def added(self) -> int:
        """What the entries added to spent."""
        return sum(amount for _, amount in self.parts)

    @property
    def name(self) -> str:
        """Limit and subject, for people."""
        return f"{self.limit.rule} ({self.subject})"

    def shown(self, figure: int) -> str:
        """Write an amount of its unit for people."""
        return show_usd(figure) if self.limit.unit == "usd" else f"{figure:,} {self.limit.unit.replace('_', ' ')}"

    def figures(self, spent: int) -> dict[str, Any]:
        """Return what is spent of how much, as JSON types."""
        usd = self.limit.unit == "usd"
        plain = {name: format_usd(n) if usd else n for name, n in (("spent", spent), ("amount", self.amount))}
        return {"limit": str(self.limit), "whose": self.subject, "unit": self.limit.unit, **plain}


class Share(Rule):
    """A share of a limit is spent: "limit at 50% 75% 90% 100%". A limit that refuses calls for want of what is left of
    it is used up (100 %) before its last cent is spent."""

    form = "limit at 50% 75% 90% 100%"
    pattern = re.compile(r"limit(?: at((?: [1-9]\d?%| 100%)+))?")
    looks_at_pools, remembers, keep_us = True, False, 3 * DAY

    def __init__(self, text: str, shares: Sequence[int] = SHARES):
        super().__init__(text)
        self._shares = sorted(shares)

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        return cls(text, [int(each.rstrip("%")) for each in (found[1] or "").split()] or SHARES)

    def pools(self, look: Look, touched: Sequence[Touched]) -> None:
        """See `Rule`."""
        for pool in touched:
            look.sums.add(pool.id, pool.start, pool.at_us, pool.added)
            spent = look.sums.total(pool.id, pool.start, pool.start + 1)[0] if pool.spent is None else pool.spent
            reached = [share for share in self._shares if spent * 100 >= pool.amount * share]
            if pool.refused and spent * 2 >= pool.amount and 100 in self._shares:
                reached = [100]
            if reached:
                self._warn(look, pool, spent, reached[-1])

    def _warn(self, look: Look, pool: Touched, spent: int, share: int) -> None:
        what = "calls are refused" if share == 100 and spent < pool.amount else f"{share} % reached"
        resets = f", resets {_when(pool.end, pool.limit)}" if pool.limit.window.calendar else ""
        text = f"{pool.name}: {what}, {pool.shown(spent)} of {pool.shown(pool.amount)} spent{resets}"
        look.warn(
            pool.name, pool.start, pool.at_us, text, key=pool.id, level=share, quiet=pool.limit.window.span,
            share=share, **pool.figures(spent),
        )  # fmt: skip


class _Pace(Rule):
    """What both rules about the pace share: sums of a window's 24ths."""

    looks_at_pools, remembers, keep_us = True, False, 32 * DAY

    def pools(self, look: Look, touched: Sequence[Touched]) -> None:
        """See `Rule`."""
        for pool in touched:
            length = pool.end - pool.start
            if pool.end >= FOREVER or length < 60 * SECOND:
                continue
            size = length // _PARTS
            for at_us, amount in pool.parts:
                look.sums.add(pool.id, at_us - (at_us - pool.start) % size, at_us, amount)
            upto = pool.at_us - (pool.at_us - pool.start) % size + size
            begun = max(upto - 2 * size, pool.start) if pool.limit.window.calendar else upto - 2 * size
            recent = look.sums.total(pool.id, begun)[0]
            if pool.spent is not None and recent > 0:
                self._judge(look, pool, pool.spent, Decimal(recent) / (upto - begun), upto)

    def _judge(self, look: Look, pool: Touched, spent: int, rate: Decimal, upto: int) -> None:
        """Warn, if what is spent and the present rate (per microsecond) say so.

        A part that has only begun counts as a whole one, up to its end: its first call would look like a burst.
        """


class Burn(_Pace):
    """A limit is spent at n times the pace that it can bear: "burn > 3x"."""

    form = "burn > 3x"
    pattern = re.compile(r"burn > (\d{1,4}(?:\.\d{1,3})?)x")

    def __init__(self, text: str, times: Decimal):
        super().__init__(text)
        self._times = times

    @classmethod
    def made(cls, text: str, found: re.Match[str]) -> Self:
        """See `Rule`."""
        return cls(text, times_of(found[1]))

    def _judge(self, look: Look, pool: Touched, spent: int, rate: Decimal, upto: int) -> None:
        burn = rate * (pool.end - pool.start) / pool.amount if pool.amount else Decimal(0)
        if burn > self._times and pool.amount > spent and spent * 100 >= pool.amount * _LEAST_BURN:
            text = (
                f"{pool.name}: spent {burn:.1f} times as fast as it can last, "
                f"{pool.shown(spent)} of {pool.shown(pool.amount)} spent"
            )
            look.warn(
                pool.name, pool.start, pool.at_us, text, key=pool.id, quiet=pool.limit.window.span,
                burn=f"{burn:.2f}", **pool.figures(spent),
            )  # fmt: skip


class Exhaustion(_Pace):
    """At its present pace, and at that of the whole window so far, a limit will be used up before it resets:
    "exhausted before reset"."""

    form = "exhausted before reset"
    pattern = re.compile("exhausted before reset")

    def _judge(self, look: Look, pool: Touched, spent: int, rate: Decimal, upto: int) -> None:
        left = pool.amount - spent
        if not pool.limit.window.calendar or left <= 0 or spent * 100 < pool.amount * _LEAST_EXHAUSTION:
            return
        whole = Decimal(spent) / (upto - pool.start)
        at_us = pool.at_us + int(left / min(rate, whole))
        if at_us < pool.end - (pool.end - pool.start) // _PARTS:
            when = _when(at_us, pool.limit)
            text = (
                f"{pool.name}: used up at {when} if it goes on like this, and resets {_when(pool.end, pool.limit)}; "
                f"{pool.shown(spent)} of {pool.shown(pool.amount)} spent"
            )
            look.warn(
                pool.name, pool.start, pool.at_us, text, key=pool.id, exhausted_at=at_zone(at_us).isoformat(),
                **pool.figures(spent),
            )  # fmt: skip


def touched(engine: Engine, changes: Sequence[tuple[Entry, Change]]) -> list[Touched]:
    """Return the pools that entries drew on or were refused by, those of limits that hold now; asks the store.

    Raises:
        StoreUnavailable: It did not answer.
    """
    loaded = engine.do(LoadPolicy())
    own = [limit.set_at(loaded.now) for limit in engine.settings.limits]
    policy = Policy(loaded.version, loaded.rows, own, now=loaded.now, shadow=engine.settings.shadow)
    matches: dict[str, Match] = {}
    rows: list[tuple[str, int | None, int, int]] = []  # pool, start of its bucket, when, amount
    for entry, change in changes:
        found = _pools_of(entry, change)
        if any(pool not in matches for pool, _, _ in found):
            matches.update({each.pool: each for each in policy.matches(entry.scope) if each.pool is not None})
        rows += [(pool, start, entry.at_us, amount) for pool, start, amount in found if pool in matches]
    pools = sorted({pool for pool, *_ in rows})
    newest: dict[str, Bucket | None] = {}
    for i in range(0, len(pools), PAGE):
        some = pools[i : i + PAGE]
        newest.update(zip(some, engine.do(Status(some, sweep=False)).buckets, strict=True))
    return list(_joined(policy, matches, newest, rows, loaded.now))


def _pools_of(entry: Entry, change: Change) -> list[tuple[str, int | None, int]]:
    if isinstance(change, Refused):
        return [(each["pool"], None, 0) for each in change.detail["refused"] if each.get("pool")]
    return [(pool, start, spent) for pool, start, spent, _ in entry.moves if spent]


def _joined(
    policy: Policy, matches: Mapping[str, Match], newest: Mapping[str, Bucket | None],
    rows: Iterable[tuple[str, int | None, int, int]], now: int,
) -> Iterable[Touched]:  # fmt: skip
    found: dict[tuple[str, int], Touched] = {}
    for pool, moved, at_us, amount in rows:
        match, bucket = matches[pool], newest[pool]
        if match.unit == CONCURRENT:
            continue
        start, end = _window(match.limit, bucket, moved, at_us)
        known = found.get((pool, start))
        if known is None:
            known = found[pool, start] = _touched(policy, match, bucket, start, end, now)
        known.at_us = max(known.at_us, at_us)
        known.refused |= amount == 0
        known.parts.append((at_us, amount))
    return found.values()


def _window(limit: Limit, bucket: Bucket | None, start: int | None, at_us: int) -> tuple[int, int]:
    """Return the window that an entry's move is in."""
    span = limit.window.span
    if span:
        return at_us // span * span, at_us // span * span + span
    if bucket is not None and bucket.start <= (at_us if start is None else start) < bucket.end:
        return bucket.start, bucket.end
    return bounds(limit.window, at_us if start is None else start, limit.tz, limit.starts)


def _touched(policy: Policy, match: Match, bucket: Bucket | None, start: int, end: int, now: int) -> Touched:
    limit, amount, spent = match.limit, match.limit.quantity, None
    if bucket is not None and (limit.window.span or bucket.start == start):
        amount, spent = limit.quantity + bucket.carry + policy.more(match.pool or "", now), bucket.spent
    return Touched(match.pool or "", limit, str(match.subject), start, end, spent, amount, 0)


def _when(at_us: int, limit: Limit) -> str:
    return at_zone(at_us, limit.tz).strftime("%Y-%m-%d %H:%M %Z")
