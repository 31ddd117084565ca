"""What operators do: limits set, unset and adjusted in the store, with who and why.

Limits in the store hold for every process from its next call; those of code and `budget.toml` cannot be changed here.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from budget.backfill import backfill as fill
from budget.backfill import takes_backfill, window_start
from budget.commands import ChangePolicy, Outcome, Status
from budget.config import duration_us
from budget.errors import ArgumentTypeError, ConfigError, Refusal
from budget.ledger import dumps
from budget.limits import Limit, check_attributes, name_model
from budget.money import MAX, format_usd, parse_usd
from budget.overview import applies, load_policy, present, replaced, show_pool
from budget.policy import Policy, match
from budget.pools import Pool
from budget.rows import limit_beneath, limit_body, raise_body, read_limit, short_body, short_identity
from budget.subject import Subject
from budget.window import FOREVER, at_zone, zone

if TYPE_CHECKING:
    from budget.core import Engine
    from budget.engine import Budget

__all__ = ["Limits", "actor", "adjust", "adjust_refused", "moment"]

_RUN_DAYS = 30  # for how long the pool of one run is raised: it has no window whose end would end that


class Limits:
    """The limits of an account: iterate those that hold, `set` and `unset` those of the store."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self._latest = 0  # when a limit was last set here: the next one was later, whatever the clock says

    def set(
        self, limit: str, *, tz: str | None = None, per: str | None = None, starts: str | int | None = None,
        mode: str = "enforce", until: datetime | str | None = None, backfill: bool = False,
        rollover: str | Decimal | None = None, warn: str | Sequence[str] | None = None, on_short: str | None = None,
        reason: str | None = None, **attributes: str,
    ) -> Limit:  # fmt: skip
        """Set a limit in the store, or replace the amount and options of the one with the same identity.

        Args:
            limit: `AMOUNT/WINDOW`: "$5/day", "2M tokens/hour", "$20/7d rolling", "$0.25/request"; or "8 concurrent".
            tz: The zone of a calendar window; a changed one takes effect when the present window ends.
            per: Give each value of this attribute a pool of its own.
            starts: Where calendar windows begin (see `Limit`); a change takes effect when the present window ends.
            mode: "enforce", or "shadow": it never refuses, and the ledger says what it would have refused. The two are
                limits of their own, with pools of their own.
            until: When it ends: an aware datetime, or a text: a duration from now ("2h", "7d") or an ISO time, in
                `tz` if it names no zone. What the store holds now holds again then.
            backfill: Count what the ledger holds since the present window began; else a new limit counts from now.
            rollover: The most that a window of money takes over from what the one before left unspent.
            warn: At how much of it a warning is given: "80%", or several such.
            on_short: What a call of a wrapped client may do instead of being refused (see `Limit`).
            reason: Why, for the ledger.
            **attributes: Whose calls it applies to. A model may have any of its names; that of a host which is not its
                maker's too needs `provider=` besides.

        Raises:
            ConfigError, ArgumentTypeError: It is not a limit, or cannot have such an option.
            StoreUnavailable: The store did not answer.
        """
        if not isinstance(backfill, bool):
            raise ArgumentTypeError(f"backfill: {type(backfill).__name__} is not True or False")
        now = self._budget.engine.verbs.now()
        ends = moment(until, tz, now)
        made = Limit(
            limit, tz=tz, per=per, starts=starts, mode=mode, until=ends, rollover=rollover, warn=warn,
            on_short=on_short, **attributes,
        ).named(self._budget.settings.book)  # fmt: skip
        if backfill and not takes_backfill(made):
            raise ConfigError(f"backfill: {made.rule} takes nothing from before; calendar, rolling and lifetime do")
        # Else nothing of what was set before matters, and nobody reads 100,000 limits to set one.
        policy, who = self._policy() if ends or backfill or made.on_short else None, actor(reason)
        before = policy.body(dumps(made.identity)) if policy and ends else None
        self._latest = max(now, self._latest + 1)
        since = max(1, window_start(made, now)) if backfill else self._latest
        made = made.set_in("store", _free(since, before))
        identity, body = limit_body(made, before)
        if policy is not None:
            self._put_short(policy, made, body, who)
        detail = {"limit": str(made), **_told(made), **({"backfill": True} if backfill else {}), **who}
        outcome = self._change(ChangePolicy("limit", identity, body, detail))
        if backfill:
            self._fill(made, outcome)
        return made

    def _put_short(self, policy: Policy, limit: Limit, row: str | None, who: Mapping[str, str]) -> None:
        """Write what is done when a limit is short, before the limit itself: until that is set, it means nothing."""
        identity = short_identity(dumps(limit.identity))
        before = policy.body(identity, "adjust")
        body = None if row is None else short_body(limit, row, before)
        if body != before:
            detail = {"limit": str(limit), "on_short": limit.on_short, **who}
            self._change(ChangePolicy("adjust", identity, body, detail))

    def _fill(self, limit: Limit, change: Outcome) -> None:
        engine = self._budget.engine
        entries = engine.books.entries(window_start(limit, change.now))
        fill(limit, change.seq, self._policy, engine.do, entries, change.now)

    def unset(
        self, limit: str | None = None, *, per: str | None = None, mode: str | None = None, reason: str | None = None,
        **attributes: str,
    ) -> list[Limit]:  # fmt: skip
        """Remove a limit of the store, whatever its amount; without `limit`, all of that selector.

        Of one that was set for a time, what was set before holds again, as at its end.

        Args:
            limit: The limit.
            per, **attributes: Its selector.
            mode: "enforce" or "shadow"; without it, the enforcing limit is meant, or the shadow one if there is none.
            reason: Why, for the ledger.

        Raises:
            ConfigError: There is none in the store.
            StoreUnavailable: The store did not answer.
        """
        who, policy = actor(reason), self._policy()
        if self._budget.engine.settings.disabled:
            return []
        found = self._meant(policy, limit, per, mode, attributes)
        stored = [x for x in found if x.source == "store"]
        if not stored:
            where = f"it is set in {found[0].source}" if found else "there is none"
            raise ConfigError(f"unset: no such limit in the store ({where})")
        for each in stored:
            self._unset(each, policy, who)
        return stored

    def _unset(self, limit: Limit, policy: Policy, who: Mapping[str, str]) -> None:
        """Remove a limit of the store. The entry of the ledger says what holds then, if anything does."""
        identity = dumps(limit.identity)
        beneath = limit_beneath(limit, policy.body(identity))
        told = limit if beneath is None else read_limit(beneath).limit
        self._change(ChangePolicy("limit", identity, beneath, {"limit": str(told), **_told(told), **who}))
        if limit.on_short:
            self._put_short(self._policy(), limit.with_short(""), beneath, who)

    def _meant(
        self, policy: Policy, limit: str | None, per: str | None, mode: str | None, attributes: Mapping[str, str]
    ) -> Sequence[Limit]:
        """Return the limits that hold of those that `unset` means: of the model's name in the book, else as written."""
        book = self._budget.settings.book
        if limit is None:
            given = check_attributes(attributes)
            selectors = [tuple(sorted(each.items())) for each in (name_model(book, given), given)]
            tries = [[x for x in policy.limits if (x.selector, x.per) == (each, per)] for each in selectors]
            return next(([x for x in some if mode in (None, x.mode)] for some in tries if some), [])
        modes = ("enforce", "shadow") if mode is None else (mode,)
        wanted = [Limit(limit, per=per, mode=each, **attributes) for each in modes]  # type: ignore[arg-type]
        identities = [each.identity for each in (*(one.named(book) for one in wanted), *wanted)]
        tries = [[x for x in policy.limits if x.identity == each] for each in identities]
        return next(filter(None, tries), [])

    def list(self, **attributes: str) -> list[Limit]:
        """Return the limits that hold now; with attributes, those that apply to such calls."""
        asked, policy = name_model(self._budget.settings.book, check_attributes(attributes)), self._policy()
        if not asked:
            return list(policy.limits)
        return [limit for limit in policy.limits if applies(limit, asked) and not replaced(policy, limit, asked)]

    def freezes(self) -> Sequence[Mapping[str, str]]:
        """Return the subjects that are frozen; {} is everybody."""
        return self._policy().freezes

    def __iter__(self) -> Iterator[Limit]:
        return iter(self.list())

    def _policy(self) -> Policy:
        return load_policy(self._budget.engine)

    def _change(self, command: ChangePolicy) -> Outcome:
        engine = self._budget.engine
        outcome = engine.do(command)
        engine.verbs.forget_policy()
        return outcome


def actor(reason: str | None) -> dict[str, str]:
    """Return who makes a change and why, for the ledger.

    Raises:
        ArgumentTypeError: The reason is not a text.
    """
    if reason is not None and not isinstance(reason, str):
        raise ArgumentTypeError(f"reason: {type(reason).__name__} is not a text")
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = "unknown"
    return {"actor": who, **({"reason": reason[:500]} if reason else {})}


def adjust(engine: Engine, amount: object, reason: str | None, attributes: Mapping[str, str]) -> list[Pool]:
    """Raise what fits in the present window of a subject's money pools. See `Budget.adjust`."""
    nanos = _read_more(amount, "adjust")
    who = actor(reason)
    subject = Subject(name_model(engine.settings.book, check_attributes(attributes)))
    policy = load_policy(engine)
    found = list(_money(policy, subject))
    if not found and engine.settings.disabled:
        return []
    if not found:
        own = "; what a run was given itself, its own process alone knows" if subject.keys() == {"run"} else ""
        raise ConfigError(f"adjust: there is no limit of money for {subject} alone{own}")
    return _raise(engine, policy, found, nanos, who)


def adjust_refused(engine: Engine, amount: object, refused: Sequence[Refusal], who: str) -> None:
    """Raise the money pools that refused a call, in their present window; that of a run, for 30 days at most.

    Args:
        engine: Whose account it is; where the account above it refused, that one's pools are raised.
        amount: How much more, such as "+$2".
        refused: Who said no. Also a limit of code, or of a run, that no policy of the store has.
        who: Who raises it, for the ledger.

    Raises:
        ConfigError, ArgumentTypeError: It is no such amount, or none of them is a pool of money.
        StoreUnavailable: The store did not answer.
    """
    if refused[0].account is not None and engine.above is not None:
        engine = engine.above
    nanos, policy, found = _read_more(amount, who), load_policy(engine), []
    known = {limit.identity: limit for limit in policy.limits}  # a refusal shows them as they were raised before
    for each in refused:
        attributes = {name: value for name, value in each.subject.items() if value is not None}
        pool = match(each.limit, attributes).pool if each.unit == "usd" else None
        if pool is not None:
            found.append((known.get(each.limit.identity, each.limit), each.subject, pool))
    if not found:
        raise ConfigError(f"{who}: {amount} raises pools of money, and none refused: {refused[0].limit}")
    _raise(engine, policy, found, nanos, {"actor": who})


def _raise(
    engine: Engine, policy: Policy, found: Sequence[tuple[Limit, Subject, str]], nanos: int, who: Mapping[str, str]
) -> list[Pool]:
    outcome = engine.do(Status([pool for _, _, pool in found]))
    now = outcome.now
    pairs = zip(found, outcome.buckets, strict=True)
    buckets = [present(limit, newest, now) for (limit, _, _), newest in pairs]
    for (limit, _, pool), bucket in zip(found, buckets, strict=True):
        if limit.quantity + bucket.carry + policy.more(pool, now) + nanos > MAX:
            raise ConfigError(f"adjust: {limit} would be above ${format_usd(MAX)}, the largest amount")
    for (limit, subject, pool), bucket in zip(found, buckets, strict=True):
        start, end = (now, now + limit.window.span) if limit.window.span else (bucket.start, bucket.end)
        if limit.window.kind == "run":
            end = now + _RUN_DAYS * 86_400_000_000
        until = {} if end == FOREVER else {"until": at_zone(end, limit.tz).isoformat()}
        detail = {"limit": str(limit), "subject": str(subject), "amount": format_usd(nanos), **_told(limit), **until}
        body = raise_body(pool, limit, subject, nanos, start, end)
        engine.do(ChangePolicy("adjust", engine.verbs.new_id(), body, {**detail, **who}))
    for identity in policy.ended:
        engine.do(ChangePolicy("adjust", identity, None, {"actor": who["actor"], "reason": "its window is over"}))
    policy = load_policy(engine)
    return [show_pool(policy, each, newest, now) for each, newest in zip(found, outcome.buckets, strict=True)]


def _money(policy: Policy, subject: Subject) -> Iterator[tuple[Limit, Subject, str]]:
    """Return the pools of money of exactly one subject."""
    attributes = {name: value for name, value in subject.items() if value is not None}
    for limit in policy.limits:
        found = match(limit, attributes) if limit.unit == "usd" else None
        if found is None or not found.pool or dict(found.subject) != attributes:
            continue
        if not replaced(policy, limit, found.subject):
            yield limit, found.subject, found.pool


def _read_more(amount: object, name: str) -> int:
    if not isinstance(amount, str):
        raise ArgumentTypeError(f"{name}: {type(amount).__name__} is not a text such as '+$10'")
    if not amount.startswith("+"):
        raise ConfigError(f"{name}: {amount[:40]!r} is not an amount to add, such as '+$10'; less is set with a limit")
    nanos = parse_usd(amount[1:], name)
    if not nanos:
        raise ConfigError(f"{name}: nothing to add")
    return nanos


def moment(until: datetime | str | None, tz: str | None, now: int) -> datetime | None:
    """Read when a limit ends.

    Raises:
        ConfigError: It is over, or cannot be read.
    """
    ends = until
    if isinstance(until, str):
        try:
            ends = datetime.fromisoformat(until)
        except ValueError:
            ends = at_zone(now + duration_us(until, "until"))
        if ends.tzinfo is None:
            ends = ends.replace(tzinfo=zone(tz or "UTC"))
    if isinstance(ends, datetime) and ends.tzinfo is not None and ends <= at_zone(now):
        raise ConfigError(f"until: {ends.isoformat()} is over")
    return ends  # type: ignore[return-value]  # what else it is, `Limit` refuses


def _free(at_us: int, body: str | None) -> int:
    """Return the instant, or the next one at which no limit of a row was set: by it they are told apart."""
    taken, row = set(), json.loads(body) if body else None
    while row is not None:
        taken.add(row["created_us"])
        row = row.get("then")
    while at_us in taken:
        at_us += 1
    return at_us


def _told(limit: Limit) -> dict[str, Any]:
    """Return what the ledger says of a limit beside its text."""
    return {**limit.options, **({"mode": limit.mode} if limit.mode != "enforce" else {})}
