"""What operators do: limits set and unset in the store, with who and why; and what they look at: the pools.

Limits in the store hold for every process from its next call; those of code and `budget.toml` cannot be changed here.
"""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from budget.commands import Bucket, ChangePolicy, Status, Sweep
from budget.errors import ConfigError
from budget.limits import Limit, check_attributes
from budget.policy import Match, Policy, limit_body, match, read_name
from budget.pools import Pool, make_pool
from budget.stores.base import PAGE
from budget.subject import Subject
from budget.window import bounds

if TYPE_CHECKING:
    from budget.core import Engine
    from budget.engine import Budget

__all__ = ["Limits", "actor", "pools_of"]


class Limits:
    """The limits of an account: iterate those that hold, `set` and `unset` those of the store."""

    def __init__(self, budget: Budget):
        self._budget = budget

    def set(
        self, limit: str, *, tz: str | None = None, per: str | None = None, starts: object = None,
        mode: str = "enforce", until: object = None, backfill: bool = False, reason: str | None = None,
        **attributes: str,
    ) -> Limit:  # fmt: skip
        """Set a limit in the store, or replace the amount and options of the one with the same identity.

        Args:
            limit: `AMOUNT/WINDOW`: "$5/day", "2M tokens/hour", "$0.25/request"; or "8 concurrent".
            tz: The zone of a calendar window; a changed one takes effect when the present window ends.
            per: Give each value of this attribute a pool of its own.
            starts, mode, until, backfill: Not available in this version, but for `mode="enforce"`.
            reason: Why, for the ledger.
            **attributes: Whose calls it applies to.

        Raises:
            ConfigError, ArgumentTypeError: It is not a limit.
            StoreUnavailable: The store did not answer.
        """
        if until is not None or backfill:
            raise ConfigError(f"{'until' if until is not None else 'backfill'}: not available in this version")
        now = self._budget.engine.verbs.now()
        made = Limit(limit, tz=tz, per=per, starts=starts, mode=mode, source="store", created_us=now, **attributes)
        identity, body = limit_body(made)
        self._change(ChangePolicy("limit", identity, body, {"limit": str(made), **made.options, **actor(reason)}))
        return made

    def unset(
        self, limit: str | None = None, *, per: str | None = None, reason: str | None = None, **attributes: str
    ) -> list[Limit]:
        """Remove a limit of the store, whatever its amount; without `limit`, all of that selector.

        Raises:
            ConfigError: There is none in the store.
            StoreUnavailable: The store did not answer.
        """
        if limit is not None:
            wanted = Limit(limit, per=per, **attributes)  # type: ignore[arg-type]
            found = [known for known in self if known.identity == wanted.identity]
        else:
            selector = tuple(sorted(check_attributes(attributes).items()))
            found = [known for known in self if (known.selector, known.per) == (selector, per)]
        stored = [known for known in found if known.source == "store"]
        if not stored:
            where = f"it is set in {found[0].source}" if found else "there is none"
            raise ConfigError(f"unset: no such limit in the store ({where})")
        for known in stored:
            self._change(ChangePolicy("limit", limit_body(known)[0], None, {"limit": str(known), **actor(reason)}))
        return stored

    def list(self, **attributes: str) -> list[Limit]:
        """Return the limits that hold now; with attributes, those that apply to such calls."""
        check_attributes(attributes)
        return [limit for limit in self._policy().limits if not attributes or applies(limit, attributes)]

    def freezes(self) -> Sequence[Mapping[str, str]]:
        """Return the subjects that are frozen; {} is everybody."""
        return self._policy().freezes

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.list())

    def _policy(self) -> Policy:
        engine = self._budget.engine
        engine.verbs.forget_policy()
        policy: Policy = engine.drive(engine.verbs.policy())
        return policy

    def _change(self, command: ChangePolicy) -> None:
        engine = self._budget.engine
        engine.do(command)
        engine.verbs.forget_policy()


def actor(reason: str | None) -> dict[str, str]:
    """Return who makes a change and why, for the ledger."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"
    return {"actor": who, **({"reason": reason[:500]} if reason else {})}


def applies(limit: Limit, attributes: Mapping[str, str]) -> bool:
    """Whether a limit has to do with calls that have these attributes: it matches, or is about one of them."""
    selector = dict(limit.selector)
    if any(attributes.get(name, value) != value for name, value in selector.items()):
        return False
    per = limit.per is None or limit.per in attributes
    return per and (not selector or bool(selector.keys() & attributes.keys()))


def pools_of(engine: Engine, attributes: Mapping[str, str]) -> list[Pool]:
    """Return the pools of the limits that apply to such calls; without attributes, every pool there is."""
    engine.verbs.forget_policy()
    policy: Policy = engine.drive(engine.verbs.policy())
    if attributes:
        found = list(_asked(policy, attributes))
        outcome = engine.do(Status([pool for _, _, pool in found]))
        return [_pool(m, bucket, outcome.now) for m, bucket in zip(found, outcome.buckets, strict=True)]
    now = engine.do(Sweep()).now
    names = engine.store.names(engine.settings.account)
    newest: dict[str, Bucket] = {}
    for some in _batched(names):
        present = engine.do(Status(some, sweep=False)).buckets
        newest.update({pool: bucket for pool, bucket in zip(some, present, strict=True) if bucket is not None})
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
            if found.pool is not None and not _replaced(policy, found):
                yield limit, found.subject, found.pool


def _replaced(policy: Policy, found: Match) -> bool:
    """Whether a limit of just this subject stands in the place of a `per=` one."""
    limit = found.limit
    known = sorted((name, value) for name, value in found.subject.items() if value is not None and name != "run")
    return limit.per is not None and (tuple(known), None, *limit.identity[2:]) in policy.identities


def _all(policy: Policy, names: Mapping[str, str], newest: Mapping[str, Bucket], now: int) -> Iterator[Pool]:
    by_limit: dict[Any, list[tuple[str, Subject]]] = {}
    for pool, name in names.items():
        identity, subject = read_name(name)
        by_limit.setdefault(identity, []).append((pool, subject))
    for limit in policy.limits:
        known = sorted(by_limit.get(limit.identity, []), key=lambda item: str(item[1]))
        live = [(limit, subject, newest[pool]) for pool, subject in known if pool in newest]
        if not live and limit.per is None and limit.window.kind not in ("request", "run"):
            yield _pool((limit, Subject(limit.selector), ""), None, now)
        for item in live:
            yield make_pool(*item)


def _pool(found: tuple[Limit, Subject, str], bucket: Bucket | None, now: int) -> Pool:
    limit, subject, _ = found
    if bucket is None:
        start, end = bounds(limit.window, now, limit.tz)
        since = max(start if limit.window.calendar else 0, min(limit.created_us, now))
        bucket = Bucket(start, end, since, 0, 0)
    return make_pool(limit, subject, bucket)
