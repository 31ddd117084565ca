"""What operators look at: the pools, as they are now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from budget.buckets import following
from budget.commands import Bucket, Outcome, Status, Sweep
from budget.limits import Limit, name_model
from budget.policy import Policy, match, read_name
from budget.pools import Pool, make_pool
from budget.stores.base import PAGE
from budget.subject import Subject
from budget.window import bounds

if TYPE_CHECKING:
    from budget.core import Engine

__all__ = ["applies", "load_policy", "pools_of", "present", "replaced", "show_pool", "sweep"]


def load_policy(engine: Engine) -> Policy:
    """Load the policy, whatever this process knew of it."""
    engine.verbs.forget_policy()
    policy: Policy = engine.drive(engine.verbs.policy())
    return policy


def sweep(engine: Engine) -> Outcome:
    """Expire all that is due, in as many commands as it takes; return the last answer, with the count of all."""
    outcome = engine.do(Sweep())
    total = count = outcome.count
    while count:
        outcome = engine.do(Sweep())
        total, count = total + outcome.count, outcome.count
    outcome.count = total
    return outcome


def applies(limit: Limit, attributes: Mapping[str, str]) -> bool:
    """Whether a limit has to do with calls that have these attributes: it matches, or is about one of them."""
    selector = dict(limit.selector)
    if any(attributes.get(name, value) != value for name, value in selector.items()):
        return False
    per = limit.per is None or limit.per in attributes
    return per and (not selector or bool(selector.keys() & attributes.keys()))


def pools_of(engine: Engine, attributes: Mapping[str, str]) -> list[Pool]:
    """Return the pools of the limits that apply to such calls (without attributes, all), the account above's last."""
    found = _pools_of(engine, attributes)
    if engine.above is not None:
        found += [replace(pool, account=engine.settings.above) for pool in _pools_of(engine.above, attributes)]
    return found


def _pools_of(engine: Engine, attributes: Mapping[str, str]) -> list[Pool]:
    policy, now = load_policy(engine), sweep(engine).now
    if attributes:
        found = list(_asked(policy, name_model(engine.settings.book, attributes)))
        outcome = engine.do(Status([pool for _, _, pool in found], sweep=False))
        pairs = zip(found, outcome.buckets, strict=True)
        return [show_pool(policy, found, bucket, outcome.now) for found, bucket in pairs]
    names = engine.store.names(engine.settings.account)
    newest: dict[str, Bucket] = {}
    for some in _batched(names):
        buckets = engine.do(Status(some, sweep=False)).buckets
        newest.update({pool: bucket for pool, bucket in zip(some, buckets, strict=True) if bucket is not None})
    return list(_all(policy, names, newest, now))


def _batched(names: Iterable[str]) -> Iterator[list[str]]:
    """Return pools in portions that one command takes."""
    rest = iter(names)
    while some := list(islice(rest, PAGE)):
        yield some


def _asked(policy: Policy, attributes: Mapping[str, str]) -> Iterator[tuple[Limit, Subject, str]]:
    for limit in policy.limits:
        kind = limit.window.kind
        if applies(limit, attributes) and kind != "request" and (kind != "run" or "run" in attributes):
            found = match(limit, {**dict(limit.selector), **attributes})
            if found.pool is not None and not replaced(policy, limit, found.subject):
                yield limit, found.subject, found.pool


def replaced(policy: Policy, limit: Limit, subject: Mapping[str, str | None]) -> bool:
    """Whether a limit of just this subject stands in the place of a `per=` one."""
    value = subject.get(limit.per) if limit.per is not None else None
    if limit.per is None or value is None:
        return False
    alone = tuple(sorted((*limit.selector, (limit.per, value))))
    return policy.has(alone, None, *limit.identity[2:])


def _all(policy: Policy, names: Mapping[str, str], newest: Mapping[str, Bucket], now: int) -> Iterator[Pool]:
    by_limit: dict[Any, list[tuple[str, Subject]]] = {}
    for pool, name in names.items():
        identity, subject = read_name(name)
        by_limit.setdefault(identity, []).append((pool, subject))
    for limit in policy.limits:
        known = sorted(by_limit.get(limit.identity, []), key=lambda item: str(item[1]))
        live = [
            (limit, subject, pool)
            for pool, subject in known
            if pool in newest and now < newest[pool].end and not replaced(policy, limit, subject)
        ]
        if not live and limit.per is None and limit.window.kind not in ("request", "run"):
            alone = match(limit, dict(limit.selector))
            yield show_pool(policy, (limit, alone.subject, alone.pool or ""), newest.get(alone.pool or ""), now)
        for item in live:
            yield show_pool(policy, item, newest[item[2]], now)


def show_pool(policy: Policy, found: tuple[Limit, Subject, str], newest: Bucket | None, now: int) -> Pool:
    """Return a pool as it is now, given its limit, subject and id, and the newest bucket that a `Status` says."""
    limit, subject, pool = found
    return make_pool(limit, subject, present(limit, newest, now), now, policy.more(pool, now))


def present(limit: Limit, newest: Bucket | None, now: int) -> Bucket:
    """Return the present bucket of a pool, given the newest one: where that is over, what the next call will find."""
    if newest is not None and (newest.span or now < newest.end):
        return newest
    start, end = bounds(limit.window, now, limit.tz, limit.starts)
    if newest is not None:
        return following(newest, start, end, limit.quantity, limit.rollover)
    since = max(start if limit.window.calendar else 0, min(limit.created_us, now))
    return Bucket(start, end, since, 0, 0)
