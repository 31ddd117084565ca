"""Runs and scopes: whose call this is.

A run is one agent run: attributes for every call inside it and, if wanted, a pool of its own and guards. The current
run lives in a context variable, so that it crosses tasks and threads that copy their context. Runs nest: inner
attributes win, and a call draws on the pools of its resulting scope and of every run it is in.

A run can be continued in another process: `to_headers` there, `Budget.run_from_headers` here. Its pool is found by its
id.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from budget.commands import Amounts, Bucket, Reservation
from budget.errors import ArgumentTypeError, ConfigError, Refusal, RunStopped
from budget.limits import Limit, check_attributes
from budget.money import to_decimal
from budget.policy import match
from budget.subject import Subject

if TYPE_CHECKING:
    from types import TracebackType

    from budget.verbs import Verbs

__all__ = ["HEADER", "Run", "current", "make_run"]

HEADER = "x-budget-run"
_CURRENT: ContextVar[Run | None] = ContextVar("budget_run", default=None)


def current() -> Run | None:
    """Return the run that this task or thread is in, or None."""
    return _CURRENT.get()


class Run:
    """One agent run; `Budget.run(...)` makes it. A context manager, sync and async.

    `spent`, `reserved`, `remaining` and `calls` come from the latest answer that this process saw; `refresh()` asks.

    Attributes:
        id: What identifies the run, also in other processes.
        scope: The attributes that its calls have, `run` among them.
        parent: The run around it, or None.
        limits: Its own limits: `$/run`, cap, `max_calls`.
        deadline_at: When it is over, seconds since the epoch, or None.
    """

    def __init__(
        self, verbs: Verbs, id: str, scope: Mapping[str, str], parent: Run | None, limits: Sequence[Limit],
        deadline_at: float | None,
    ):  # fmt: skip
        self.id, self.parent, self.limits, self.deadline_at = id, parent, tuple(limits), deadline_at
        self.scope: dict[str, str] = {**scope, "run": id}
        self._verbs = verbs
        self._tokens: list[Token[Run | None]] = []
        self._tally = [0, 0, 0, 0, 0]
        self._open: dict[str, Amounts] = {}
        matches = [match(limit, self.scope) for limit in self.limits]
        self._pools = {found.pool: found.limit for found in matches if found.pool is not None}
        self._seen: dict[str, Bucket] = {}

    @property
    def verbs(self) -> Verbs:
        """The engine it belongs to."""
        return self._verbs

    def chain(self) -> Iterator[Run]:
        """Iterate this run and the runs around it, innermost first."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.parent

    def check_guards(self) -> None:
        """Check the deadlines of this run and of those around it.

        Raises:
            RunStopped: One is over.
        """
        now = time.time()
        for run in self.chain():
            if run.deadline_at is not None and now >= run.deadline_at:
                from budget.window import at_zone

                over = at_zone(int(run.deadline_at * 1_000_000))
                no = Refusal(None, Subject(run=run.id), "deadline", 0, 0, 0, 0, over, "never")
                raise RunStopped([no], self.scope)

    @property
    def spent(self) -> Decimal:
        """USD spent in this run."""
        bucket = self._bucket("usd")
        return to_decimal(self._tally[0] if bucket is None else bucket.spent)

    @property
    def reserved(self) -> Decimal:
        """USD reserved in this run."""
        bucket = self._bucket("usd")
        return to_decimal(sum(a[0] or 0 for a in list(self._open.values())) if bucket is None else bucket.reserved)

    @property
    def remaining(self) -> Decimal | None:
        """USD that this run may still spend; None if it has no limit of its own."""
        limits = [limit.quantity for limit in self.limits if limit.unit == "usd" and limit.window.kind == "run"]
        return to_decimal(limits[0]) - self.spent - self.reserved if limits else None

    @property
    def calls(self) -> int:
        """Calls made in this run, those under way too."""
        bucket = self._bucket("requests")
        return self._tally[4] + len(self._open) if bucket is None else bucket.spent + bucket.reserved

    def refresh(self) -> Run:
        """Ask the store for the figures of this run's own pools, which hold those of other processes too."""
        self._verbs.drive(self._verbs.refresh(self))
        return self

    def to_headers(self) -> dict[str, str]:
        """Return HTTP headers with which another process continues this run. They carry attributes and limits."""
        from base64 import urlsafe_b64encode

        from budget.ledger import dumps

        runs = [
            {"id": r.id, "scope": r.scope, "limits": [str(x) for x in r.limits], "deadline": r.deadline_at}
            for r in self.chain()
        ]
        return {HEADER: urlsafe_b64encode(dumps(runs).encode()).decode()}

    def saw(self, reservation: Reservation, buckets: Sequence[Bucket | None]) -> None:
        """Take note of an answer of the store about one of this run's calls."""
        if reservation.state == "open":
            self._open[reservation.id] = reservation.amounts
        else:
            known = self._open.pop(reservation.id, None)
            if known is not None and reservation.charged is not None:
                self._tally = [t + (c or 0) for t, c in zip(self._tally, reservation.charged, strict=True)]
        for share, bucket in zip(reservation.shares, buckets, strict=False):
            if share.pool in self._pools and bucket is not None:
                self._seen[share.pool] = bucket

    @property
    def own_pools(self) -> list[str]:
        """The ids of the pools of its own limits."""
        return list(self._pools)

    def took(self, pool: str, bucket: Bucket | None) -> None:
        """Take a refreshed bucket of one of its own pools."""
        if bucket is not None:
            self._seen[pool] = bucket

    def _bucket(self, unit: str) -> Bucket | None:
        found = [self._seen[pool] for pool, limit in self._pools.items() if limit.unit == unit and pool in self._seen]
        return found[0] if found else None

    def __enter__(self) -> Run:
        self._tokens.append(_CURRENT.set(self))
        return self

    def __exit__(self, *exc: object) -> None:
        token = self._tokens.pop()
        with suppress(ValueError):  # closed in another context, as an async generator may be: never current there
            _CURRENT.reset(token)

    async def __aenter__(self) -> Run:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__()

    def __repr__(self) -> str:
        return f"Run({self.id!r})"


def make_run(
    verbs: Verbs, limit: object, *, cap: object, max_calls: int | None, deadline: float | None, loop: object,
    id: str | None, attributes: Mapping[str, str],
) -> Run:  # fmt: skip
    """Make a run inside the current one.

    Raises:
        ConfigError, ArgumentTypeError: An argument cannot be used.
    """
    if loop is not None:
        raise ConfigError("loop: not available in this version")
    check_attributes(attributes)
    if "run" in attributes:
        raise ConfigError("run: an attribute of this name is the run's id; use id=")
    parent = current()
    name = verbs.new_id() if id is None else check_attributes({"run": id})["run"]
    limits = []
    if limit is not None:
        limits.append(_rule(limit, "run", "limit", name))
    if cap is not None:
        limits.append(_rule(cap, "request", "cap", name))
    if max_calls is not None:
        if type(max_calls) is not int:
            raise ArgumentTypeError(f"max_calls: {type(max_calls).__name__} is not an int")
        if max_calls < 1:
            raise ConfigError(f"max_calls: {max_calls} is not at least 1")
        limits.append(Limit(f"{max_calls} requests/run", run=name))
    over = None
    if deadline is not None:
        if isinstance(deadline, bool) or not isinstance(deadline, int | float):
            raise ArgumentTypeError(f"deadline: {type(deadline).__name__} is not a number of seconds")
        if not 0 < deadline < 10**9:
            raise ConfigError(f"deadline: {deadline!r} is not a positive number of seconds")
        over = time.time() + deadline
    return Run(verbs, name, {**(parent.scope if parent else {}), **attributes}, parent, limits, over)


def run_from_headers(verbs: Verbs, headers: Mapping[str, str]) -> Run:
    """Continue a run of another process.

    Raises:
        ConfigError: The headers carry no run, or one that was damaged.
    """
    import json
    from base64 import urlsafe_b64decode

    text = next((value for name, value in headers.items() if name.lower() == HEADER), None)
    if text is None:
        raise ConfigError(f"headers: there is no {HEADER}")
    try:
        rows: list[dict[str, Any]] = json.loads(urlsafe_b64decode(text.encode()))
        run = None
        for row in reversed(rows[:32]):
            limits = [Limit(rule) for rule in row["limits"]]
            scope = check_attributes(row["scope"])
            over = None if row["deadline"] is None else float(row["deadline"])
            run = Run(verbs, scope["run"], scope, run, limits, over)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"headers: {HEADER} is damaged ({type(error).__name__})") from None
    if run is None:
        raise ConfigError(f"headers: {HEADER} names no run")
    return run


def _rule(value: object, window: str, name: str, run: str) -> Limit:
    """Read a run's limit or cap: an amount, whose window goes without saying."""
    if isinstance(value, Decimal):
        value = f"${value:f}"
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name}: {type(value).__name__} is not a text such as '$2'")
    if value.strip().endswith(" concurrent"):
        raise ConfigError(f"{name}: {value!r}: calls at once belong to no {window}; set a limit with per='run'")
    limit = Limit(value if "/" in value else f"{value}/{window}", run=run)
    if limit.window.kind != window:
        raise ConfigError(f"{name}: {value!r} has another window; here it is one {window}, so write '$2'")
    if limit.per is not None or len(limit.selector) != 1:
        raise ConfigError(f"{name}: {value!r} must be an amount alone")
    return limit
