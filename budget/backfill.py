"""Backfill: what the ledger already holds of a limit's present window is added to its pools.

The change that set the limit has a sequence number P in the ledger. Calls after it draw on the limit by themselves;
what stands before it is added up here, per pool, and booked by one record each, whose id follows from limit, pool and
P, so that it cannot be booked twice. An entry that moved the pool itself is counted already, and so is everything
before an earlier backfill of it: setting a limit with `backfill` again adds only what is missing.

A call belongs to the window of its reserve. One that is open at P is not in the ledger's sums yet, and its end will not
know the new pool; it is the only spend of the window that a backfilled pool lacks. In a rolling window, what is added
counts as spent now, and so leaves late rather than early.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

from budget.commands import Amounts, Bucket, Command, Outcome, Record, Status
from budget.ledger import Entry, dumps
from budget.limits import UNITS, Limit
from budget.policy import Match, Policy
from budget.window import bounds

__all__ = ["backfill", "takes_backfill", "window_start"]

_TRIES = 64  # changes of policy in a row, while one record is tried

Do = Callable[[Command], Outcome]


class _Pool(NamedTuple):
    """A pool that something is added to: what it is, and since when its present window runs."""

    match: Match
    start: int


def takes_backfill(limit: Limit) -> bool:
    """Whether a limit has pools that the ledger can fill: no cap, and none that counts runs or calls at once."""
    return limit.unit != "concurrent" and limit.window.kind not in ("request", "run")


def window_start(limit: Limit, now: int) -> int:
    """Return when the present window of a limit began."""
    if limit.window.span:
        return now - limit.window.span
    return bounds(limit.window, now, limit.tz, limit.starts)[0] if limit.window.calendar else 0


def backfill(limit: Limit, through: int, load: Callable[[], Policy], do: Do, entries: Iterable[Entry], now: int) -> int:
    """Add what the ledger holds since the present window began, and return to how many pools.

    Args:
        limit: The limit.
        through: The sequence number of the change that set it.
        load: Loads the policy.
        do: Carries out a command.
        entries: The ledger since `window_start`, oldest first.
        now: The store's clock at the change.
    """
    sums, pools = _sums(limit, through, load(), do, entries, now)
    added = 0
    for id, spent in sums.items():
        if spent > 0:
            added += _book(limit, pools[id], spent, through, load, do, now)
    return added


def _sums(
    limit: Limit, through: int, policy: Policy, do: Do, entries: Iterable[Entry], now: int
) -> tuple[Mapping[str, int], Mapping[str, _Pool]]:
    """Return what is missing in each pool, by its id."""
    unit, sums, pools, made = UNITS.index(limit.unit), dict[str, int](), dict[str, _Pool](), dict[str, int]()
    for entry in entries:
        if entry.seq > through:
            break
        match = _drawn(policy, limit, entry.scope) if entry.digest else None
        if match is None or match.pool is None:
            continue
        if entry.kind == "reserved":
            made[entry.reservation or ""] = entry.at_us
            continue
        unreserved = entry.kind == "recorded" or "unknown" in entry.detail
        at = entry.at_us if unreserved else made.get(entry.reservation or "")
        if match.pool not in pools:
            present = _present(match.pool, do)
            pools[match.pool] = _Pool(match, present.start if present else window_start(limit, now))
        if any(posting.pool == match.pool for posting in entry.postings):
            if entry.kind == "backfilled":
                sums[match.pool] = 0
        elif at is not None and at >= pools[match.pool].start:
            sums[match.pool] = sums.get(match.pool, 0) + entry.amounts[unit]
    return sums, pools


def _book(limit: Limit, pool: _Pool, spent: int, through: int, load: Callable[[], Policy], do: Do, now: int) -> bool:
    """Record what was spent, unless the window is over by then."""
    subject = {name: value for name, value in pool.match.subject.items() if value is not None}
    key = dumps([limit.identity, pool.match.pool, through])
    id = blake2b(key.encode(), digest_size=16).hexdigest()
    amounts: Amounts = tuple(spent if i == pool.match.unit else 0 for i in range(5))  # type: ignore[assignment]
    detail = {"limit": pool.match.text, "through": through}
    for _ in range(_TRIES):
        policy = load()
        present = _present(pool.match.pool or "", do)
        if present is not None and not limit.window.span and present.start != pool.start:
            return False
        draws = policy.draws([pool.match], amounts, now)
        status = do(Record(id, key, amounts, draws, policy.version, subject, detail, kind="backfilled")).status
        if status != "stale_policy":
            return status == "backfilled"
    return False


def _drawn(policy: Policy, limit: Limit, scope: Mapping[str, str]) -> Match | None:
    """Return the pool of the limit that a call with these attributes draws on."""
    return next((found for found in policy.matches(scope) if found.limit.identity == limit.identity), None)


def _present(pool: str, do: Do) -> Bucket | None:
    outcome = do(Status([pool], sweep=False))
    newest = outcome.buckets[0]
    return newest if newest is not None and outcome.now < newest.end else None
