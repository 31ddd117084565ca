"""What prompt caches saved, what they could save besides, and why calls probably missed them.

A conversation is the calls of one session and run, user, agent and model, in the order of their ends. What a call could
have read from the cache is at most what the call before it had sent: that, less what it did read, is what caching in
full would add. It is a bound: what was never the same cannot be read, and nobody but the provider sees that.

Why a call missed (it read less than half of that) is told from sizes and times, the first that fits: it has no session
or run that tells its conversation; it is the first of it; its input is shorter than any cache takes; nothing of the
conversation was ever written to a cache or read from one; it came later than a cache is kept; else the beginning of the
prompt presumably changed. The ledger keeps no fingerprint of prompts, so calls are grouped by prefix where they say it
themselves, with an attribute `prefix`. A cache takes
1,024 tokens or more and keeps them for 5 minutes from the last use unless more was asked for (Anthropic, "Prompt
caching"; OpenAI, "Prompt caching": 5 to 10 minutes; both read in November 2026; some models need more).
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from budget.money import to_decimal
from budget.records.sums import summed
from budget.report.asking import Question, decoded, grouped
from budget.report.rows import Rows, plain, ratio, same_length

__all__ = ["MISSES", "CacheRow", "Discount", "cache_report"]

MISSES = ("no session", "first call", "too short", "not asked for", "too late", "changed")
"""The likely reasons of misses, in the order in which they are tried."""
Discount = Callable[[str | None, str | None], int | None]
"""What a token read from a cache costs less than plain input, for a model and provider: pico-dollars; None: unknown."""
_LEAST = 1024  # tokens
_KEPT = 300_000_000  # microseconds

_SQL = """
with placed as (
    select {keys} model, provider, usd, saved, input, cache_read, cache_write, coalesce(session, run) as talk,
        lag(input) over talks as held, at - coalesce(latency_ms, 0) * 1000 - lag(at) over talks as gap,
        max(cache_read + cache_write) over (partition by session, run, user, agent, model) as used
    from calls where {where}
    window talks as (partition by session, run, user, agent, model order by at, abs(seq))
), judged as (
    select *, case when talk is null or held is null then 0 else min(held, input) end as most from placed
)
select {order} model, provider,
    case when most = 0 and cache_read > 0 or most > 0 and 2 * cache_read >= most then null
        when talk is null then 0 when held is null then 1 when input < {least} then 2 when used = 0 then 3
        when gap > {kept} then 4 else 5 end as miss,
    count(*), {sums}, sum(saved is null), {rest}
from judged group by {order} model, provider, miss
"""

_SUMS = ", ".join(map(summed, ("usd", "input", "cache_read", "cache_write", "coalesce(saved, 0)")))
_REST = ", ".join(map(summed, ("case when saved is null then 0 else usd end", "max(most - cache_read, 0)")))


@dataclass(frozen=True, slots=True)
class CacheRow:
    """What prompt caching did for the calls of one group. Money is Decimal USD, ratios have four decimals.

    Attributes:
        by, keys: As in `Row`.
        calls: How many.
        usd: What they cost.
        input_tokens: All input, cached too.
        cache_read_tokens, cache_write_tokens: The parts of it that were read from and written to a cache.
        hit_ratio: Read / all input; None without input.
        miss_ratio: 1 - hit_ratio.
        saved_usd: What reading saved, less what writing cost more than plain input.
        would_cost_usd: What the calls would have cost without a cache: those of `saved_usd`.
        unknown: Calls whose rates nobody knows; they are in neither of these two.
        more_tokens: What could have been read besides, at most.
        more_usd: What that would have saved, at most; None where a model has no price.
        misses: How many calls missed, by likely reason (`MISSES`).
    """

    by: str | tuple[str | None, ...] | None
    calls: int
    usd: Decimal
    input_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    hit_ratio: Decimal | None
    miss_ratio: Decimal | None
    saved_usd: Decimal
    would_cost_usd: Decimal
    unknown: int
    more_tokens: int
    more_usd: Decimal | None
    misses: Mapping[str, int]
    keys: Mapping[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; money and ratios are decimal strings."""
        return plain(self)


@dataclass(slots=True)
class _Group:
    figures: list[int] = field(default_factory=lambda: [0] * 9)
    misses: Counter[str] = field(default_factory=Counter)
    more: int | None = 0  # pico-dollars


def cache_report(
    db: sqlite3.Connection, account: int, question: Question, discount: Discount, most: int | None = None
) -> Rows[CacheRow]:
    """Group calls by what caching did for them; the group that sent the most input first."""
    width, groups = len(question.by), defaultdict[tuple[Any, ...], _Group](_Group)
    found = db.execute(*_statement(account, question)).fetchall()
    models = decoded(db, ("model", "provider"), [row[width : width + 2] for row in found])
    for row, (model, provider) in zip(found, models, strict=True):
        group, miss, figures = groups[row[:width]], row[width + 2], row[width + 3 :]
        group.figures = [one + more for one, more in zip(group.figures, figures, strict=True)]
        if miss is not None:
            group.misses[MISSES[miss]] += figures[0]
        less = discount(model, provider) if figures[-1] else 0
        group.more = None if less is None or group.more is None else group.more + less * figures[-1]
    pairs = zip(decoded(db, question.by, groups), groups.values(), strict=True)
    ranked = sorted(pairs, key=lambda pair: (-pair[1].figures[2], list(map(str, pair[0]))))
    return Rows(_row(question.by, text, group) for text, group in ranked[:most])


def _statement(account: int, question: Question) -> tuple[str, list[Any]]:
    where, arguments = question.conditions(account)
    keys = "".join(f"{grouped(name)} as k{i}, " for i, name in enumerate(question.by))
    order = "".join(f"k{i}, " for i in range(len(question.by)))
    return _SQL.format(keys=keys, order=order, where=where, least=_LEAST, kept=_KEPT, sums=_SUMS, rest=_REST), arguments


def _row(by: Sequence[str], texts: Sequence[str | None], group: _Group) -> CacheRow:
    calls, usd, given, read, written, saved, unknown, known, more = group.figures
    return CacheRow(
        same_length(texts), calls, to_decimal(usd), given, read, written,
        ratio(read, given), ratio(given - read, given), to_decimal(saved), to_decimal(known + saved), unknown, more,
        None if group.more is None else to_decimal(group.more // 1000),
        {reason: group.misses[reason] for reason in MISSES if group.misses[reason]}, dict(zip(by, texts, strict=True)),
    )  # fmt: skip
