"""The policy of an account: which limits a call must satisfy, and what it draws on which pool.

The limits of the store hold for every process; those of code and `budget.toml` for this one. Where both have the same
identity, the store's holds; of several of one process, the smallest. All that match must allow, with one exception:
a limit of one subject (`user=alice`) replaces the `per=user` one of the same unit, window and mode.

A policy is immutable, and has the store's version and an instant: what was set for a time gives way to what held
before when that time is over (`changes_at`), without a word from the store. Python computes here what a call draws; the
store compares and moves integers, and refuses to do so for a policy that is not the present one.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from operator import itemgetter
from typing import Any, NamedTuple

from budget.commands import Amounts, Draw
from budget.errors import ConfigError
from budget.ledger import dumps
from budget.limits import UNITS, Limit
from budget.money import MAX
from budget.rows import Stored, read_limit, read_raises, read_shorts, short_identity
from budget.subject import Subject
from budget.window import FOREVER, bounds

__all__ = ["Match", "Matches", "Policy", "match", "per_unit", "pool_id", "read_name"]

_CACHED = 4096
_new: Any = tuple.__new__  # makes a draw in a third of the time that its class takes
_ENDLESS = (0, FOREVER)  # whatever the time: another host's clock may be ahead of the store's
_NEVER = (0, 0)


class Match(NamedTuple):
    """A limit that applies to a call, and the pool it means: its subject, its name, and its id (None: a cap).

    The limit's text and its unit as a number are beside it.
    """

    limit: Limit
    subject: Subject
    name: str
    pool: str | None
    text: str
    unit: int


class Matches(tuple[Match, ...]):
    """The limits that apply to a call, in declaration order, each pool once.

    Attributes:
        drafts: From when until when, and for each what a draw has then but for its amount: calls of one scope differ in
            nothing else, as long as no window ends.
    """

    drafts: tuple[int, int, Sequence[tuple[Any, ...]]] = (0, 0, ())


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
        self._raises = read_raises(self._rows, now)
        self._shorts = read_shorts(self._rows)
        shared = self._held(now, before)
        mine = _held_here(own, now)
        held = [shared.pop(row, limit) for row, limit in mine.items()]
        self.limits: tuple[Limit, ...] = (*held, *shared.values())
        ends = [limit.until_us for limit in (*self.limits, *mine.values()) if limit.until_us]
        self.changes_at = min(ends, default=FOREVER)
        self.warns = any(limit.warn for limit in self.limits)
        # By selector, with their place in the declaration order: 100,000 users' limits cost one look-up.
        self._index: dict[tuple[tuple[str, str], ...], list[tuple[int, Limit]]] = {}
        for place, limit in enumerate(self.limits):
            self._index.setdefault(limit.selector, []).append((place, limit))
        self._selectors = {tuple([name for name, _ in selector]) for selector in self._index}
        pers = {limit.per for limit in self.limits if limit.per is not None}
        self._names = sorted(pers.union(*self._selectors))
        self._per_run = any(limit.window.kind == "run" for limit in self.limits)
        self._matched: dict[tuple[str | None, ...], Matches] = {}
        self._bounds: dict[tuple[str, str, str], tuple[int, int]] = {}

    def _held(self, now: int, before: Policy | None) -> dict[str, Limit]:
        """Return the limits of the rows that hold at an instant, oldest first, by their rows' identity."""
        known = before._read if before is not None else {}
        self._read: dict[str, Stored] = {}
        found = []
        for kind, identity, body in self._rows:
            if kind != "limit":
                continue
            row: Stored | None = self._read.setdefault(body, known.get(body) or read_limit(body))
            while row is not None and 0 < row.limit.until_us <= now:
                row = row.then
            if row is not None:
                short = self._shorts.get(identity, {}).get(row.limit.created_us)
                limit = row.limit.with_short(short) if short else row.limit
                found.append((limit.created_us, identity, limit))
        found.sort(key=itemgetter(0, 1))
        return {identity: limit for _, identity, limit in found}

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

    def has(self, selector: tuple[tuple[str, str], ...], per: str | None, unit: str, window: str, mode: str) -> bool:
        """Whether a limit of this identity holds."""
        identity = (selector, per, unit, window, mode)
        return any(limit.identity == identity for _, limit in self._index.get(selector, ()))

    @property
    def freezes(self) -> Sequence[Mapping[str, str]]:
        """The selectors that are frozen."""
        return self._freezes

    def matches(
        self,
        scope: Mapping[str, str],
        runs: Sequence[Mapping[str, str]] = (),
        own: Sequence[tuple[Limit, Mapping[str, str]]] = (),
    ) -> Matches:
        """Return what applies to a call, in declaration order.

        Args:
            scope: The call's attributes.
            runs: For each run it is in, innermost first, that run's attributes with the call's model and provider.
            own: The runs' own limits, each with its run's attributes. Of those of one pool, the smallest holds.
        """
        shared = self._window_matches(scope)
        if not self._per_run and not own:
            return shared
        found = list(shared)
        if self._per_run:
            for run in runs or [scope if "run" in scope else {**scope, "run": ""}]:
                found.extend(match(limit, run) for limit in self._applicable(run) if limit.window.kind == "run")
        mine = [match(limit, run) for limit, run in own]
        return _each_once([*found, *mine], mine)

    def draws(self, matches: Sequence[Match], amounts: Amounts, now: int, most: Amounts | None = None) -> list[Draw]:
        """Return what a call draws on each pool, with the bounds of the windows that hold `now`.

        Args:
            matches: The limits that apply.
            amounts: What is set aside, per unit.
            now: Microseconds since the epoch.
            most: What caps are held to, if that is more: the most that the one request may cost.

        Raises:
            ConfigError: A limit counts tokens, and the caller did not say how many.
        """
        given = per_unit(amounts)
        for each in matches if None in amounts else ():
            if given[each.unit] is None:
                what = f"the limit {each.text!r} counts {each.limit.unit}"
                raise ConfigError(f"tokens: {what}; say how many with tokens=")
        since, until, drafts = matches.drafts if isinstance(matches, Matches) else Matches.drafts
        if not since <= now < until:
            drafts = self._drafts(matches, now)
        found: list[Draw] = [
            _new(Draw, (pool, name, unit, limit, given[unit], start, end, made, text, span, shadow, rollover, 0))
            for pool, name, unit, limit, start, end, made, text, span, shadow, rollover in drafts
        ]
        if most is not None:
            all, pairs = per_unit(most), zip(found, matches, strict=True)
            found = [d._replace(amount=all[d.unit] or 0) if m.limit.window.kind == "request" else d for d, m in pairs]
        return self._adjusted(found, now) if self._raises else found

    def _drafts(self, matches: Sequence[Match], now: int) -> Sequence[tuple[Any, ...]]:
        """Return what the draws of an instant have but for their amounts, and keep it for the next call."""
        found, since, until = [], *_ENDLESS
        for limit, _, name, pool, text, unit in matches:
            start, end = self._window(limit, now) if limit.window.calendar else _ENDLESS
            since, until = max(since, start), min(until, end)
            shadow = self._shadow or limit.mode == "shadow"
            found.append((
                pool, name, unit, limit.quantity, start, end, limit.created_us, text, limit.window.span, shadow,
                limit.rollover,
            ))  # fmt: skip
        if isinstance(matches, Matches):
            matches.drafts = since, until, found
        return found

    def _window(self, limit: Limit, now: int) -> tuple[int, int]:
        """Return the bounds of a limit's calendar window that holds an instant."""
        calendar = (limit.window.kind, limit.tz, limit.starts)
        start, end = self._bounds.get(calendar, _NEVER)
        if not start <= now < end:
            start, end = self._bounds[calendar] = bounds(limit.window, now, limit.tz, limit.starts)
        return start, end

    def _adjusted(self, draws: Sequence[Draw], now: int) -> list[Draw]:
        mores = [self.more(draw.pool or "", now) for draw in draws]
        return [_raised(draw, more) if more else draw for draw, more in zip(draws, mores, strict=True)]

    def more(self, pool: str, now: int) -> int:
        """Return by how much adjustments raise a pool's limit at an instant."""
        return sum(amount for start, end, amount, _ in self._raises.get(pool, ()) if start <= now < end)

    @property
    def ended(self) -> Sequence[str]:
        """The identities of the adjustments whose window is over."""
        known = {each.row for some in self._raises.values() for each in some}
        known |= {short_identity(identity) for identity in self._shorts}
        return [identity for kind, identity, _ in self._rows if kind == "adjust" and identity not in known]

    def body(self, identity: str, kind: str = "limit") -> str | None:
        """Return the body of a row, by its identity."""
        found = (body for *row, body in self._rows if row == [kind, identity])
        return next(found, None)

    def _window_matches(self, scope: Mapping[str, str]) -> Matches:
        key = tuple(map(scope.get, self._names))
        found = self._matched.get(key)
        if found is None:
            if len(self._matched) >= _CACHED:
                self._matched.clear()
            limits = [limit for limit in self._applicable(scope) if limit.window.kind != "run"]
            found = self._matched[key] = _each_once([match(limit, scope) for limit in limits])
        return found

    def _applicable(self, scope: Mapping[str, str]) -> list[Limit]:
        found: list[tuple[int, Limit]] = []
        for names in self._selectors:
            if all(name in scope for name in names):
                found.extend(self._index.get(tuple([(name, scope[name]) for name in names]), ()))
        replaced = {limit.identity for _, limit in found if limit.selector and limit.per is None}
        kept = [each for each in found if each[1].per is None or _as_subject(each[1], scope) not in replaced]
        return [limit for _, limit in sorted(kept, key=itemgetter(0))]


def _held_here(own: Sequence[Limit], now: int) -> dict[str, Limit]:
    """Return the limits of this process that hold at an instant, in declaration order, by their rows' identity.

    One that ends stands before what holds afterwards, and one that is said later before it, as in the store. All that
    last must allow: the smallest holds.
    """
    held: dict[str, Limit] = {}
    for limit in own:
        if 0 < limit.until_us <= now:
            continue
        row = dumps(limit.identity)
        known = held.get(row)
        if known is None or limit.until_us or (not known.until_us and limit.quantity <= known.quantity):
            held[row] = limit
    return held


def _as_subject(limit: Limit, scope: Mapping[str, str]) -> tuple[Any, ...] | None:
    """Return the identity that a limit of just this call's subject would have."""
    assert limit.per is not None
    if limit.per not in scope:
        return None
    selector = tuple(sorted((*limit.selector, (limit.per, scope[limit.per]))))
    return selector, None, *limit.identity[2:]


def _each_once(found: Sequence[Match], mine: Sequence[Match] = ()) -> Matches:
    """Leave out what was there before: one limit may match in several runs of a chain, but a pool is drawn on once.

    A run may go on inside itself, under the same id: of `mine`, the runs' own limits, the smallest of a pool holds.
    """
    unique: dict[str | int, Match] = {}
    for index, each in enumerate(found):
        known = unique.setdefault(each.pool or index, each)
        if known is not each and each.limit.quantity < known.limit.quantity and any(known is one for one in mine):
            unique[each.pool or index] = each
    return Matches(unique.values())


def per_unit(amounts: Amounts) -> tuple[int | None, ...]:
    """Return what a call of these amounts draws on a pool, by its unit: one slot where calls at once are counted."""
    return (*amounts, 1)


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
    return Match(limit, subject, name, pool_id(name) if shared else None, str(limit), UNITS.index(limit.unit))


def _raised(draw: Draw, more: int) -> Draw:
    limit = min(draw.limit + more, MAX)
    return draw._replace(limit=limit, raised=limit - draw.limit if draw.rollover else 0)


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
