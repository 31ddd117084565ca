"""The policy of an account: which limits a call must satisfy, and what it draws on which pool.

The limits of the store hold for every process; those of code and `budget.toml` for this one. Where both have the same
identity, the store's holds. All that match must allow, with one exception: a limit of one subject (`user=alice`)
replaces the `per=user` one of the same unit, window and mode.

A policy is immutable, and has the store's version and an instant: what was set for a time gives way to what held
before when that time is over (`changes_at`), without a word from the store. Python computes here what a call draws; the
store compares and moves integers, and refuses to do so for a policy that is not the present one.

The store's rows are (kind, identity, body): "limit" (its text and options, until when, and `then` what), "freeze" (the
identity is the selector), "adjust" (so much more in one pool from an instant until another) and "fence" (the store has
lost what it had acknowledged, and nothing may be reserved).
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, NamedTuple

from budget.commands import Amounts, Draw
from budget.errors import ConfigError
from budget.ledger import dumps
from budget.limits import CONCURRENT, UNITS, Limit
from budget.money import MAX
from budget.subject import Subject
from budget.window import FOREVER, at_zone, bounds

__all__ = [
    "Match", "Policy", "Raise", "drawn", "limit_body", "match", "pool_id", "raise_body", "read_limit",
    "read_name", "selector_identity",
]  # fmt: skip

_CACHED = 4096
_new: Any = tuple.__new__  # makes a draw in a third of the time that its class takes
_ENDLESS = (0, FOREVER)  # whatever the time: another host's clock may be ahead of the store's
_NEVER = (0, 0)
_ROW = {"text", "created_us", "mode", "tz", "starts", "rollover", "warn"}


class Match(NamedTuple):
    """A limit that applies to a call, and the pool it means: its subject, its name, and its id (None: a cap).

    What a draw needs at each call is beside it: the limit's unit as a number, its text, the kind, zone and start of a
    calendar window (None for others), the length of a rolling one, and whether it is a shadow limit.
    """

    limit: Limit
    subject: Subject
    name: str
    pool: str | None
    text: str
    unit: int
    calendar: tuple[str, str, str] | None
    span: int
    shadow: bool


class Raise(NamedTuple):
    """An adjustment: so much more in one pool while `start <= now < end`, and the identity of its row."""

    start: int
    end: int
    amount: int
    row: str


class _Stored(NamedTuple):
    """A limit's row as it was read, and what holds when the limit has ended."""

    limit: Limit
    then: _Stored | None


class Policy:
    """The limits and freezes that hold for this process at one version of the store's policy, at an instant.

    Args:
        version: The store's policy version.
        rows: The store's limits, freezes and adjustments, as `LoadPolicy` gives them.
        own: The limits of this process, in declaration order.
        now: The instant, microseconds since the epoch.
        shadow: Whether every limit is a shadow limit here.
        before: The policy that this one takes the place of: what was read for it is not read again.

    Attributes:
        version: The store's policy version.
        limits: The limits that hold, in declaration order.
        changes_at: Until when this holds, if nobody changes anything: then `at` has the next.
        warns: Whether one of them warns.
        warns: Whether one of them warns before it is reached.
        fenced: Why nothing may be reserved, as a body of JSON, or None.
    """

    def __init__(
        self, version: int, rows: Iterable[tuple[str, str, str]], own: Sequence[Limit], *, now: int = 0,
        shadow: bool = False, before: Policy | None = None,
    ):  # fmt: skip
        self.version = version
        self._rows, self._own, self._shadow = list(rows), own, shadow
        self.fenced = next((body for kind, _, body in self._rows if kind == "fence"), None)
        self._freezes = [dict(json.loads(identity)) for kind, identity, _ in self._rows if kind == "freeze"]
        self._raises = _read_raises(self._rows, now)
        stored = self._held(now, before)
        shared = {limit.identity: limit for limit in stored}
        mine = [limit for limit in own if not 0 < limit.until_us <= now]
        order = {limit.identity: shared.pop(limit.identity, limit) for limit in mine}
        self._order = {identity: i for i, identity in enumerate((*order, *shared))}
        self.limits: tuple[Limit, ...] = (*order.values(), *shared.values())
        self.changes_at = min((limit.until_us for limit in (*stored, *mine) if limit.until_us), default=FOREVER)
        # By the names of the selector, then by its values: 100,000 users' limits cost one look-up.
        self._index: dict[tuple[str, ...], dict[tuple[str, ...], list[Limit]]] = {}
        named: set[str] = set()
        for limit in self.limits:
            names, values = tuple(n for n, _ in limit.selector), tuple(v for _, v in limit.selector)
            self._index.setdefault(names, {}).setdefault(values, []).append(limit)
            named.update(names if limit.per is None else (*names, limit.per))
        self._names = sorted(named)
        self.warns = any(limit.warn for limit in self.limits)
        self.warns = any(limit.warn for limit in self.limits)
        self._per_run = any(limit.window.kind == "run" for limit in self.limits)
        self._matched: dict[tuple[str | None, ...], tuple[Match, ...]] = {}
        self._bounds: dict[tuple[str, str, str], tuple[int, int]] = {}

    def _held(self, now: int, before: Policy | None) -> list[Limit]:
        """Return the limits of the rows that hold at an instant, oldest first."""
        known = before._read if before is not None else {}
        self._read: dict[str, _Stored] = {}
        found = []
        for kind, identity, body in self._rows:
            if kind != "limit":
                continue
            row: _Stored | None = self._read.setdefault(body, known.get(body) or read_limit(body))
            while row is not None and 0 < row.limit.until_us <= now:
                row = row.then
            if row is not None:
                found.append((row.limit.created_us, identity, row.limit))
        found.sort(key=itemgetter(0, 1))
        return [limit for _, _, limit in found]

    def at(self, now: int) -> Policy:
        """Return the policy of the same version at an instant: itself before `changes_at`."""
        if now < self.changes_at:
            return self
        return Policy(self.version, self._rows, self._own, now=now, shadow=self._shadow, before=self)

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
        runs: Sequence[Mapping[str, str]] = (),
        own: Iterable[tuple[Limit, Mapping[str, str]]] = (),
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
        every, windows = self._shadow, self._bounds
        for limit, _, name, pool, text, unit, calendar, span, shadow in matches:
            capped = pool is None and most is not None and limit.window.kind == "request"
            amount = drawn(unit, most if capped and most else amounts)
            if amount is None:
                raise ConfigError(f"tokens: the limit {text!r} counts {limit.unit}; say how many with tokens=")
            window = _ENDLESS
            if calendar is not None:
                window = windows.get(calendar, _NEVER)
                if not window[0] <= now < window[1]:
                    window = windows[calendar] = bounds(limit.window, now, limit.tz, limit.starts)
            found.append(_new(Draw, (
                pool, name, unit, limit.quantity, amount, *window, limit.created_us, text, span, every or shadow,
                limit.rollover,
            )))  # fmt: skip
        return self._adjusted(found, now) if self._raises else found

    def _adjusted(self, draws: Sequence[Draw], now: int) -> list[Draw]:
        mores = [self.more(draw.pool or "", now) for draw in draws]
        pairs = zip(draws, mores, strict=True)
        return [draw._replace(limit=min(draw.limit + more, MAX)) if more else draw for draw, more in pairs]

    def more(self, pool: str, now: int) -> int:
        """Return by how much adjustments raise a pool's limit at an instant."""
        return sum(amount for start, end, amount, _ in self._raises.get(pool, ()) if start <= now < end)

    @property
    def ended(self) -> Sequence[str]:
        """The identities of the adjustments whose window is over."""
        known = {each.row for some in self._raises.values() for each in some}
        return [identity for kind, identity, _ in self._rows if kind == "adjust" and identity not in known]

    def body(self, identity: str) -> str | None:
        """Return the body of a limit's row, by the row's identity."""
        found = (body for kind, row, body in self._rows if (kind, row) == ("limit", identity))
        return next(found, None)

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
    name = dumps([limit.unit, limit.window.key, limit.mode, limit.selector, limit.per, value, run])
    # A cap is about one request, and a run limit outside a run about one call: nothing is shared, so there is no pool.
    shared = limit.window.kind != "request" and run != ""
    calendar = (limit.window.kind, limit.tz, limit.starts) if limit.window.calendar else None
    pool = pool_id(name) if shared else None
    unit, shadow = UNITS.index(limit.unit), limit.mode == "shadow"
    return Match(limit, subject, name, pool, str(limit), unit, calendar, limit.window.span, shadow)


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


def limit_body(limit: Limit, before: str | None = None) -> tuple[str, str]:
    """Return the identity and the body of a limit's row in the store.

    Args:
        limit: The limit.
        before: The body that the row has had, if the limit is to end: what is left of it holds then.
    """
    options = {**limit.options, "mode": limit.mode, "until": limit.until_us}
    usual = {"mode": "enforce", "until": 0}
    row = {"text": str(limit), "created_us": limit.created_us}
    row |= {name: value for name, value in options.items() if usual.get(name) != value}
    then = json.loads(before) if before and limit.until_us else None
    while then is not None and then.get("until", FOREVER) <= limit.until_us:
        then = then.get("then")
    return dumps(limit.identity), dumps(row if then is None else {**row, "then": then})


def read_limit(body: str) -> _Stored:
    """Read the body of a limit's row.

    Raises:
        ConfigError: A newer version of the package wrote it, with an option that this one does not know.
    """
    return _read_row(json.loads(body))


def _read_row(row: dict[str, Any]) -> _Stored:
    then, until = row.pop("then", None), row.pop("until", 0)
    if unknown := row.keys() - _ROW:
        raise ConfigError(
            f"limit: {str(row.get('text'))[:80]!r} in the store has {min(unknown)!r}, which this version of budget does "
            "not know; upgrade this process"
        )
    limit = Limit(**row, source="store", until=at_zone(until) if until else None)
    return _Stored(limit, None if then is None else _read_row(then))


def raise_body(pool: str, limit: Limit, subject: Subject, amount: int, start: int, end: int) -> str:
    """Return the body of an adjustment's row."""
    about = {"limit": limit.identity, "subject": subject}
    return dumps({"pool": pool, "amount": amount, "from": start, "until": end, **about})


def _read_raises(rows: Iterable[tuple[str, str, str]], now: int) -> dict[str, list[Raise]]:
    """Return the adjustments that are not over, by pool."""
    found: dict[str, list[Raise]] = {}
    for kind, identity, body in rows:
        if kind == "adjust":
            row = json.loads(body)
            if now < row["until"]:
                found.setdefault(row["pool"], []).append(Raise(row["from"], row["until"], row["amount"], identity))
    return found
