"""The policy of an account: which limits a call must satisfy, and what it draws on which pool.

The limits of the store hold for every process; those of code and `budget.toml` for this one. Where both have the same
identity, the store's holds. All that match must allow, with one exception: a limit of one subject (`user=alice`)
replaces the `per=user` one of the same unit, window and mode.

A policy is immutable and has the store's version. Python computes here what a call draws; the store compares and moves
integers, and refuses to do so for a policy that is not the present one.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from budget.commands import Amounts, Draw
from budget.errors import ConfigError
from budget.ledger import dumps
from budget.limits import CONCURRENT, UNITS, Limit
from budget.subject import Subject
from budget.window import FOREVER, bounds

__all__ = ["Match", "Policy", "drawn", "limit_body", "match", "pool_id", "read_name", "selector_identity"]

_CACHED = 4096
_new: Any = tuple.__new__  # makes a draw in a third of the time that its class takes
_ENDLESS = (0, FOREVER)  # whatever the time: another host's clock may be ahead of the store's


class Match(NamedTuple):
    """A limit that applies to a call, and the pool it means: its subject, its name, and its id (None: a cap).

    What a draw needs at each call is beside it: the limit's unit as a number, its text, and the kind and zone of a
    calendar window (None for others).
    """

    limit: Limit
    subject: Subject
    name: str
    pool: str | None
    text: str
    unit: int
    calendar: tuple[str, str] | None


class Policy:
    """The limits and freezes that hold for this process at one version of the store's policy.

    Args:
        version: The store's policy version.
        rows: The store's limits and freezes, as `LoadPolicy` gives them.
        own: The limits of this process, in declaration order.
    """

    def __init__(self, version: int, rows: Iterable[tuple[str, str, str]], own: Sequence[Limit]):
        self.version = version
        stored = [read_limit(body) for kind, _, body in rows if kind == "limit"]
        self._freezes = [dict(json.loads(identity)) for kind, identity, _ in rows if kind == "freeze"]
        shared = {limit.identity: limit for limit in stored}
        mine = {limit.identity for limit in own}
        later = sorted((x for x in stored if x.identity not in mine), key=lambda x: (x.created_us, str(x)))
        self.limits: tuple[Limit, ...] = (*(shared.get(limit.identity, limit) for limit in own), *later)
        self._order = {limit.identity: i for i, limit in enumerate(self.limits)}
        # By the names of the selector, then by its values: 100,000 users' limits cost one look-up.
        self._index: dict[tuple[str, ...], dict[tuple[str, ...], list[Limit]]] = {}
        for limit in self.limits:
            names, values = tuple(n for n, _ in limit.selector), tuple(v for _, v in limit.selector)
            self._index.setdefault(names, {}).setdefault(values, []).append(limit)
        self._names = sorted({n for x in self.limits for n in (*dict(x.selector), *([x.per] if x.per else []))})
        self._per_run = any(limit.window.kind == "run" for limit in self.limits)
        self._matched: dict[tuple[str | None, ...], tuple[Match, ...]] = {}
        self._bounds: dict[tuple[str, str], tuple[int, int]] = {}

    def frozen(self, scopes: Iterable[Mapping[str, str]]) -> dict[str, str] | None:
        """Return the selector of a freeze that holds for one of the scopes ({} is everybody), or None."""
        for scope in scopes if self._freezes else ():
            for selector in self._freezes:
                if selector.items() <= scope.items():
                    return selector
        return None

    @property
    def identities(self) -> Collection[tuple[Any, ...]]:
        """The identities of the limits."""
        return self._order.keys()

    @property
    def freezes(self) -> Sequence[Mapping[str, str]]:
        """The selectors that are frozen."""
        return self._freezes

    def matches(
        self,
        scope: Mapping[str, str],
        runs: Sequence[Mapping[str, str]],
        own: Iterable[tuple[Limit, Mapping[str, str]]],
    ) -> list[Match]:
        """Return what applies to a call, in declaration order.

        Args:
            scope: The call's attributes.
            runs: For each run it is in, innermost first, that run's attributes with the call's model and provider.
            own: The runs' own limits, each with its run's attributes.
        """
        if not runs:
            runs = [scope if "run" in scope else {**scope, "run": ""}]
        found = list(self._window_matches(scope))
        for run in runs if self._per_run else ():
            found.extend(match(limit, run) for limit in self._applicable(run) if limit.window.kind == "run")
        found.extend(match(limit, run) for limit, run in own)
        # One limit may match in several runs of a chain, but a pool is drawn on once.
        unique: dict[str | int, Match] = {}
        for index, each in enumerate(found):
            unique.setdefault(each.pool or index, each)
        return list(unique.values())

    def draws(
        self, matches: Sequence[Match], amounts: Amounts, now: int, most: Amounts | None = None
    ) -> list[Draw]:
        """Return what a call draws on each pool, with the bounds of the windows that hold `now`.

        Args:
            matches: The limits that apply.
            amounts: What is set aside, per unit.
            now: Microseconds since the epoch.
            most: What caps are held to, if that is more: the most that the one request may cost.

        Raises:
            ConfigError: A limit counts tokens, and the caller did not say how many.
        """
        found: list[Draw] = []
        for limit, _, name, pool, text, unit, calendar in matches:
            capped = most is not None and limit.window.kind == "request"
            amount = drawn(unit, most if capped and most else amounts)
            if amount is None:
                raise ConfigError(f"tokens: the limit {text!r} counts {limit.unit}; say how many with tokens=")
            start, end = self._window(calendar, limit, now) if calendar else _ENDLESS
            found.append(_new(Draw, (pool, name, unit, limit.quantity, amount, start, end, limit.created_us, text)))
        return found

    def _window(self, calendar: tuple[str, str], limit: Limit, now: int) -> tuple[int, int]:
        known = self._bounds.get(calendar)
        if known is None or not known[0] <= now < known[1]:
            known = self._bounds[calendar] = bounds(limit.window, now, limit.tz)
        return known

    def _window_matches(self, scope: Mapping[str, str]) -> tuple[Match, ...]:
        key = tuple(map(scope.get, self._names))
        found = self._matched.get(key)
        if found is None:
            if len(self._matched) >= _CACHED:
                self._matched.clear()
            found = tuple(match(limit, scope) for limit in self._applicable(scope) if limit.window.kind != "run")
            self._matched[key] = found
        return found

    def _applicable(self, scope: Mapping[str, str]) -> list[Limit]:
        found: list[Limit] = []
        for names, by_values in self._index.items():
            values = tuple(scope[name] for name in names if name in scope)
            if len(values) == len(names):
                found.extend(by_values.get(values, ()))
        replaced = {limit.identity for limit in found if limit.selector and limit.per is None}
        kept = [limit for limit in found if limit.per is None or _as_subject(limit, scope) not in replaced]
        return sorted(kept, key=lambda limit: self._order[limit.identity])


def _as_subject(limit: Limit, scope: Mapping[str, str]) -> tuple[Any, ...] | None:
    """Return the identity that a limit of just this call's subject would have."""
    assert limit.per is not None
    if limit.per not in scope:
        return None
    selector = tuple(sorted((*limit.selector, (limit.per, scope[limit.per]))))
    return selector, None, *limit.identity[2:]


def drawn(unit: int, amounts: Amounts) -> int | None:
    """Return what a call of these amounts draws on a pool of this unit: one slot where calls at once are counted."""
    return 1 if unit == CONCURRENT else amounts[unit]


def match(limit: Limit, scope: Mapping[str, str]) -> Match:
    """Return the pool that a limit means for a call with these attributes."""
    subject = Subject(limit.selector)
    if limit.per is not None:
        subject[limit.per] = scope.get(limit.per)
    run = scope.get("run", "") if limit.window.kind == "run" else None
    if run:
        subject["run"] = run
    # JSON tells None from any text and needs no separator that an id could hold.
    value = scope.get(limit.per or "")
    name = dumps([limit.unit, str(limit.window), limit.mode, limit.selector, limit.per, value, run])
    # A cap is about one request, and a run limit outside a run about one call: nothing is shared, so there is no pool.
    shared = limit.window.kind != "request" and run != ""
    calendar = (limit.window.kind, limit.tz) if limit.window.calendar else None
    pool = pool_id(name) if shared else None
    return Match(limit, subject, name, pool, str(limit), UNITS.index(limit.unit), calendar)


def pool_id(name: str) -> str:
    """Return the id of a pool: 96 bits of its name's BLAKE2b digest, in 16 characters."""
    return urlsafe_b64encode(blake2b(name.encode(), digest_size=12).digest()).decode()


def read_name(name: str) -> tuple[tuple[Any, ...], Subject]:
    """Return the identity of the limit and the subject that a pool's name stands for."""
    unit, window, mode, selector, per, value, run = json.loads(name)
    subject = Subject(selector)
    if per is not None:
        subject[per] = value
    if run:
        subject["run"] = run
    return (tuple(map(tuple, selector)), per, unit, window, mode), subject


def selector_identity(selector: Mapping[str, str]) -> str:
    """Return the identity of a freeze."""
    return dumps(sorted(selector.items()))


def limit_body(limit: Limit) -> tuple[str, str]:
    """Return the identity and the body of a limit's row in the store."""
    identity = dumps(limit.identity)
    return identity, dumps({"text": str(limit), "tz": limit.options.get("tz"), "created_us": limit.created_us})


def read_limit(body: str) -> Limit:
    """Read the body of a limit's row."""
    row = json.loads(body)
    return Limit(row["text"], tz=row["tz"], created_us=row["created_us"], source="store")
