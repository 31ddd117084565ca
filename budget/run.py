"""Runs and scopes: whose call this is.

A run is one agent run: attributes for every call inside it and, if wanted, a pool of its own and guards. Which run a
task or thread is in, a context variable knows, as the stack of those it has entered: it crosses tasks and threads that
copy their context, and many may be in one run at once. Runs nest: inner attributes win, and a call draws on the pools
of its resulting scope and of every run it is in.

A run can be continued in another process: `to_headers` there, `Budget.run_from_headers` here. Its pools are found by
its id. A process that is given them in its environment (`BUDGET_RUN`) is in that run from the start, whatever engine
its calls go through.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import _AsyncGeneratorContextManager, _GeneratorContextManager
from contextvars import ContextVar
from decimal import Decimal
from functools import lru_cache, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from budget.commands import Bucket, Draw, Reservation
from budget.errors import ArgumentTypeError, ConfigError, Refusal, RunStopped
from budget.limits import UNITS, Limit, check_attributes
from budget.loopguard import LoopGuard
from budget.loops import Loop, read_loop
from budget.money import show_usd, to_decimal
from budget.subject import Subject
from budget.tally import Tally

if TYPE_CHECKING:
    from types import TracebackType

    from budget.verbs.applies import Applies

__all__ = ["ENVIRONMENT", "HEADER", "STACK", "Run", "current", "read_run"]

HEADER = "x-budget-run"
ENVIRONMENT = "BUDGET_RUN"
"""The variable in which a process is given the run that it is in."""
MOST_NESTED = 32
"""Runs that may be handed over inside one another: as many limits may apply to a call."""
_WORDS = {"requests": "calls"}
_LATER = (
    CoroutineType, GeneratorType, AsyncGeneratorType, _GeneratorContextManager, _AsyncGeneratorContextManager
)  # fmt: skip
STACK: ContextVar[tuple[Run, ...]] = ContextVar("budget_run", default=())
"""The runs that this task or thread has entered, outermost first."""

P = ParamSpec("P")
R = TypeVar("R")


def current() -> Run | None:
    """Return the run that this task or thread is in, or None.

    Raises:
        ConfigError: The process was given a run in its environment, which is damaged.
    """
    stack = STACK.get()
    if stack:
        return stack[-1]
    given = os.environ.get(ENVIRONMENT)
    return _outermost(given) if given else None


@lru_cache(maxsize=1)  # one run for the whole process, which adds up what it sees
def _outermost(text: str) -> Run:
    return read_run(None, text, ENVIRONMENT)


class Run:
    """One agent run; `Budget.run(...)` makes it. A context manager, sync and async.

    `spent`, `reserved`, `remaining` and `calls` come from the latest answer that this process saw; `refresh()` asks.
    What the run does not limit has no pool: that is added up from the calls and records of this process.

    Attributes:
        id: What identifies the run, also in other processes.
        scope: The attributes that its calls have, `run` among them.
        parent: The run around it, or None.
        limits: Its own limits: `$/run`, cap, `max_calls`, velocity.
        deadline_at: When it is over, seconds since the epoch, or None.
        guard: Its guard against loops, or None.
        on_short: What its calls do when money runs short, as text; "" if nothing was said.
        last: What was last done about that, or None.
    """

    on_short: str = ""
    last: Any = None

    def __init__(
        self, verbs: Applies | None, id: str, scope: Mapping[str, str], parent: Run | None, limits: Sequence[Limit],
        deadline_at: float | None, loop: Loop | None = None, on_short: str = "",
    ):  # fmt: skip
        self.id, self.parent, self.limits, self.deadline_at = id, parent, tuple(limits), deadline_at
        self.scope: dict[str, str] = {**scope, "run": id}
        self.guard, self.on_short = None if loop is None else LoopGuard(loop), on_short
        self._verbs, self._anybodys = verbs, verbs is None
        self._tally = Tally(self.limits, self.scope)

    # Whose it is.

    def belongs_to(self, verbs: Applies) -> bool:
        """Whether it is of an engine; the run of a process's environment is of every engine."""
        if self._verbs is None:
            self._verbs = verbs
        return self._anybodys or self._verbs is verbs

    def chain(self) -> Iterator[Run]:
        """Iterate this run and the runs around it, innermost first."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.parent

    def inside(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function that is in this run wherever it is called: `pool.submit(run.inside(work), task)`.

        Threads need it, an executor's or others. Tasks and `asyncio.to_thread` are in the run anyway.

        Raises:
            ArgumentTypeError: It is no function, or a coroutine or generator function, whose body runs later; also at
                the call, if one is behind another decorator, such as that of a context manager.
        """
        what = "inside: a plain function is needed; a task is in the run in which it was made"
        later = iscoroutinefunction(function) or isgeneratorfunction(function) or isasyncgenfunction(function)
        if not callable(function) or later:
            raise ArgumentTypeError(what)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                found = function(*args, **kwargs)
            if type(found) in _LATER:
                if isinstance(found, CoroutineType):
                    found.close()  # else Python warns too that nobody awaited it
                raise ArgumentTypeError(what)
            return found

        return call

    # Guards.

    def check_guards(self, looping: Run | None = None) -> None:
        """Check the guards of this run and of those around it: deadlines, and loops.

        Args:
            looping: What `looping` said of the call's request.

        Raises:
            RunStopped: A deadline is over, or the request stands at the end of a loop.
        """
        now = self._now()
        for run in self.chain():
            if run.deadline_at is not None and now >= run.deadline_at:
                from budget.window import at_zone

                over = at_zone(int(run.deadline_at * 1_000_000))
                no = Refusal(None, Subject(run=run.id), "deadline", 0, 0, 0, 0, over, "never")
                raise RunStopped([no], self.scope)
        if looping is not None:
            raise _stopped(looping, self.scope)

    def remaining_seconds(self) -> float | None:
        """Seconds until the first deadline of this run and those around it, 0 if one is over; None if there is none."""
        ends = [run.deadline_at for run in self.chain() if run.deadline_at is not None]
        return max(0.0, min(ends) - self._now()) if ends else None

    def _now(self) -> float:
        return self._verbs.now() / 1e6 if self._verbs is not None else time.time()

    def looping(self, body: Mapping[str, Any]) -> Run | None:
        """Return the run, this one or one around it, for which a request's newest tool calls end a loop, or None.

        Only calls count that the model made since this process was in the run, as far as the request shows them.
        """
        found = None
        for run in self.chain():
            if run.guard is not None and run.guard.finds(body):
                found = found or run
        return found

    def tool(self, name: str, arguments: object = None) -> None:
        """Say that a tool is about to be called, for the guard `loop=` of this run, or else of the nearest around it.

        Wrapped clients see tool calls themselves. Who says them here is believed: the guard then counts these alone.

        Args:
            name: The tool's.
            arguments: A JSON value or its text. Only a digest is kept.

        Raises:
            RunStopped: It would be a loop; the call is not counted.
            ArgumentTypeError: The arguments are not JSON.
        """
        run = self._guarded()
        if run is not None and run.guard is not None and run.guard.tell(name, arguments, keep=True):
            raise _stopped(run, self.scope)

    def would_loop(self, name: str, arguments: object = None) -> bool:
        """Say whether `tool` would raise; nothing is counted."""
        run = self._guarded()
        return run is not None and run.guard is not None and run.guard.tell(name, arguments, keep=False)

    def _guarded(self) -> Run | None:
        if self._verbs is not None and self._verbs.settings.disabled:
            return None
        return next((run for run in self.chain() if run.guard is not None), None)

    # What it has used.

    @property
    def spent(self) -> Decimal:
        """USD spent in this run."""
        return to_decimal(self._tally.spent("usd"))

    @property
    def reserved(self) -> Decimal:
        """USD reserved in this run."""
        return to_decimal(self._tally.reserved("usd"))

    @property
    def remaining(self) -> Decimal | None:
        """USD that this run may still spend; None if it has no limit of its own."""
        left = self._tally.left("usd")
        return None if left is None else to_decimal(left)

    @property
    def calls(self) -> int:
        """Calls made in this run, those under way too."""
        return self._tally.spent("requests") + self._tally.reserved("requests")

    def left(self, unit: str) -> tuple[int, int] | None:
        """Return what may still be used in a unit, and of how much, where this run and those around it have least."""
        found = [(run._tally.left(unit), run._tally.most(unit)) for run in self.chain()]
        return min(((left, most) for left, most in found if left is not None and most is not None), default=None)

    def disclosure(self) -> str:
        """Return one line for a prompt that says what is left of the run: money, calls, time. Without any I/O.

        Of nested runs, what is least counts. If nothing is limited the line is empty.
        """
        found = [(unit, left) for unit in UNITS if (left := self.left(unit)) is not None]
        parts = [f"{_shown(unit, max(0, left))} of {_shown(unit, most)}{_word(unit)}" for unit, (left, most) in found]
        seconds = self.remaining_seconds()
        parts += [] if seconds is None else [f"{int(seconds)} seconds"]
        return f"Left in this run: {', '.join(parts)}." if parts else ""

    def refresh(self) -> Run:
        """Ask the store for the figures of this run's own pools, which hold those of other processes too.

        What it does not limit has none and stays what this process has seen: a run without any limit asks nothing. What
        all processes did in it is in the ledger, `budget.entries(run=run.id)`.

        Raises:
            ConfigError: It came with the environment, and no call of this process has used it yet.
        """
        if self._verbs is None:
            raise ConfigError("refresh: no engine of this process has used the run yet")
        if self.own_pools:
            self._verbs.drive(self._verbs.refresh(self))
        return self

    def saw(self, reservation: Reservation, buckets: Sequence[Bucket | None], draws: Sequence[Draw] = ()) -> None:
        """Take note of an answer of the store about one of this run's calls, and of what that drew on."""
        self._tally.saw(reservation, buckets, draws)

    def recorded(self, made: Reservation, buckets: Sequence[Bucket | None]) -> None:
        """Take note of an answer of the store about a cost that had no reservation."""
        self._tally.recorded(made, buckets)

    @property
    def own_pools(self) -> list[str]:
        """The ids of the pools of its own limits."""
        return self._tally.pools

    def took(self, pool: str, bucket: Bucket | None, more: int) -> None:
        """Take a refreshed bucket of one of its own pools, and by how much its limit is raised."""
        self._tally.took(pool, bucket, more)

    # To another process.

    def to_headers(self) -> dict[str, str]:
        """Return HTTP headers with which another process continues this run.

        They carry attributes, limits and guards; of `loop` the figures, not the `key` function.

        Raises:
            ConfigError: There are more than 32 runs inside one another.
        """
        from base64 import urlsafe_b64encode

        from budget.ledger import dumps

        runs = [
            {
                "id": r.id, "scope": r.scope, "limits": [str(x) for x in r.limits], "deadline": r.deadline_at,
                "loop": None if r.guard is None else str(r.guard.rule), "on_short": r.on_short,
            }
            for r in self.chain()
        ]  # fmt: skip
        if len(runs) > MOST_NESTED:
            raise ConfigError(f"run: {len(runs)} runs inside one another; {MOST_NESTED} can be handed over")
        return {HEADER: urlsafe_b64encode(dumps(runs).encode()).decode()}

    def to_environment(self) -> dict[str, str]:
        """Return the environment variable with which a child process is in this run: `env={**os.environ, **...}`."""
        return {ENVIRONMENT: self.to_headers()[HEADER]}

    # The context.

    def __enter__(self) -> Run:
        STACK.set((*STACK.get(), self))
        return self

    def __exit__(self, *exc: object) -> None:
        stack = STACK.get()
        for at in reversed(range(len(stack))):
            if stack[at] is self:
                STACK.set(stack[:at] + stack[at + 1 :])
                return
        # Closed in another context, as an async generator may be: it was never current there.

    async def __aenter__(self) -> Run:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__()

    def __repr__(self) -> str:
        return f"Run({self.id!r})"


def read_run(verbs: Applies | None, text: str, source: str) -> Run:
    """Read a run, and those around it, from what `Run.to_headers` wrote into a header.

    Raises:
        ConfigError: It is damaged; the error names the source.
    """
    import json
    from base64 import urlsafe_b64decode

    from budget.short import short_text

    try:
        rows: list[dict[str, Any]] = json.loads(urlsafe_b64decode(text.encode()))
        run = None
        if len(rows) > MOST_NESTED:
            raise ConfigError("too many")
        for row in reversed(rows):
            limits = [Limit(rule) for rule in row["limits"]]
            scope = check_attributes(row["scope"])
            over = None if row["deadline"] is None else float(row["deadline"])
            loop = None if row.get("loop") is None else read_loop(row["loop"])
            on_short = short_text(row["on_short"]) if row.get("on_short") else ""
            run = Run(verbs, scope["run"], scope, run, limits, over, loop, on_short)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{source}: it is damaged ({type(error).__name__})") from None
    if run is None:
        raise ConfigError(f"{source}: it names no run")
    return run


def _stopped(run: Run, scope: Mapping[str, str]) -> RunStopped:
    times = 0 if run.guard is None else run.guard.rule.times
    return RunStopped([Refusal(None, Subject(run=run.id), "loop", times, 0, 0, 0, None, "never")], scope)


def _shown(unit: str, figure: int) -> str:
    return show_usd(figure) if unit == "usd" else f"{figure:,}"


def _word(unit: str) -> str:
    return "" if unit == "usd" else f" {_WORDS.get(unit, unit.replace('_', ' '))}"
