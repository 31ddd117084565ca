"""Claude Agent SDK: a process that makes its own calls, held to a grant.

    async for message in query(budget, "$2", prompt="Find it.", options=options, user="alice"):
        ...

The SDK has no client to wrap: it starts the `claude` program, which calls the model by itself and stops at
`max_budget_usd`. So a session reserves its whole grant before the program starts, tells the program that limit, and is
reconciled with the `total_cost_usd` that it reports.

**A session can go above its grant by one call.** The program adds up what its calls cost when they are over, and looks
at its limit then: the call that goes above it is made, and booked. Nothing here can refuse it, because the program asks
nobody before a call. Its hooks are told neither what was spent nor what the next call holds, and none comes before the
small calls that the program makes for itself. To stay below the grant for sure, give `max_budget_usd` less than it by
the most that a call can cost: the model's whole context at its dearest price for input, and the output that
CLAUDE_CODE_MAX_OUTPUT_TOKENS allows.

Sub-agents are off: they call beside the session and beside one another, and the program (2.1.330, tried in November
2026) let them go on to several times its limit. Give each job a session with a grant of its own instead.

Where the program does not say what it spent (it is stopped in the middle of an answer, it dies, it falls silent), the
whole grant is charged. Its prices are Anthropic's; those of other vendors' models behind it may be wrong.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from contextvars import copy_context
from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

import anyio
import claude_agent_sdk as sdk
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, ResultMessage

from budget.errors import BudgetExceeded, ConfigError, Refusal
from budget.integrations import open_run
from budget.limits import Limit
from budget.money import parse_usd, to_decimal
from budget.subject import Subject

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.guard import Guard

__all__ = ["BudgetClient", "query"]

_NANO = Decimal("1e-9")
_SUBAGENTS = ("Agent", "Task", "Workflow")
"""The tools that start agents beside the session; `Task` is what `Agent` was called before."""


async def query(
    budget: Budget,
    grant: str | Decimal,
    /,
    *,
    prompt: Any,
    options: ClaudeAgentOptions | None = None,
    transport: Any = None,
    before: ResultMessage | None = None,
    silence: float = 3600.0,
    **attributes: str,
) -> AsyncIterator[Any]:
    """Like `claude_agent_sdk.query`, held to a grant.

    Args:
        budget: The engine.
        grant: The most that the session may spend: "$2".
        prompt, options, transport: As the SDK takes them. A `max_budget_usd` below the grant stays.
        before: The last result of the session that `options` continue: what a program reports includes it.
        silence: Seconds without a message after which the program is given up.
        **attributes: Whose session it is: `user="alice"`, `agent="digger"`.

    Raises:
        BudgetExceeded: A limit refuses the grant, and nothing was started; or the session came to the end of its
            grant, and its result was yielded.
        ConfigError: The options continue a session, and `before` does not say what it cost; or they ask for
            sub-agents.
        TimeoutError: The program was silent for too long.
    """
    session = _Session(budget, grant, options, before, attributes)
    await session.begin()
    try:
        session.asked = True
        async with aclosing(sdk.query(prompt=prompt, options=session.options, transport=transport)) as messages:
            while True:
                with anyio.fail_after(silence):
                    message = await anext(messages, None)
                if message is None:
                    break
                session.note(message)
                yield message
                session.check()
    finally:
        await session.end()


class BudgetClient(ClaudeSDKClient):
    """A `ClaudeSDKClient` held to a grant, from `connect` to `disconnect`: see `query`.

    When the grant is used up, `receive_response` and `receive_messages` raise `BudgetExceeded` after the result that
    says so. It raises `ConfigError` as `query` does.
    """

    def __init__(
        self,
        budget: Budget,
        grant: str | Decimal,
        /,
        options: ClaudeAgentOptions | None = None,
        transport: Any = None,
        *,
        before: ResultMessage | None = None,
        **attributes: str,
    ):
        self._session = _Session(budget, grant, options, before, attributes)
        super().__init__(self._session.options, transport)

    async def connect(self, prompt: Any = None) -> None:
        """Reserve the grant and start the program.

        Raises:
            BudgetExceeded: A limit refuses the grant, and nothing was started.
        """
        await self._session.begin()
        self._session.asked = prompt is not None
        try:
            await super().connect(prompt)
        except BaseException:
            await self._session.end()
            raise

    async def query(self, prompt: Any, session_id: str = "default") -> None:
        """Send a prompt, as the SDK does."""
        self._session.asked = True
        await super().query(prompt, session_id)

    async def receive_messages(self) -> AsyncIterator[Any]:
        """Iterate the messages, as the SDK does."""
        async with aclosing(super().receive_messages()) as messages:
            async for message in messages:
                self._session.note(message)
                yield message
                self._session.check()

    async def receive_response(self) -> AsyncIterator[Any]:
        """Iterate the messages up to a result, as the SDK does."""
        async with aclosing(super().receive_response()) as messages:
            async for message in messages:
                yield message
        self._session.check()

    async def disconnect(self) -> None:
        """Stop the program and reconcile the grant with what it spent."""
        try:
            await super().disconnect()
        finally:
            await self._session.end()


class _Session:
    """A grant, and what the program that has it says.

    Attributes:
        options: The SDK's options, with the grant as limit.
        asked: Whether something was sent whose result did not come.
    """

    def __init__(self, budget: Budget, grant: Any, options: Any, before: ResultMessage | None, attributes: Any):
        given = options or ClaudeAgentOptions()
        if (given.resume or given.continue_conversation) and before is None:
            raise ConfigError(
                "before: what a continued session reports includes what it cost before; give its last ResultMessage"
            )
        asked = [tool.partition("(")[0] for tool in (*_names(given.tools), *given.allowed_tools)]
        if given.agents or set(asked) & set(_SUBAGENTS):
            raise ConfigError(
                "options: sub-agents call beside the session, and the program's limit does not stop them; give each "
                f"job a session with a grant of its own, and no agents= nor {', '.join(_SUBAGENTS)} among the tools"
            )
        self.asked = False
        self._budget = budget
        self._run = open_run(budget, None, attributes)
        self._guard: Guard = copy_context().run(self._make, grant)
        self._grant = to_decimal(parse_usd(grant, "grant"))
        self._before = Decimal() if before is None else _usd(before.total_cost_usd)
        self._past = self._total = Decimal()
        self._answered = self._stopped = False
        own = given.max_budget_usd
        self._limit = self._grant if own is None else min(self._grant, _usd(own) - self._before)
        less = list(dict.fromkeys([*given.disallowed_tools, *_SUBAGENTS]))
        self.options = replace(given, max_budget_usd=float(self._limit + self._before), disallowed_tools=less)

    def _make(self, grant: Any) -> Guard:
        with self._run:
            return self._budget.reservation(grant)

    async def begin(self) -> None:
        """Reserve the grant, or raise."""
        await self._guard.abegin()

    def note(self, message: Any) -> None:
        """Take note of what a message says of the cost."""
        if isinstance(message, sdk.ConversationResetMessage):  # the figures that follow begin at zero
            self._past, self._total, self._before = self._past + self._cost(), Decimal(), Decimal()
        elif isinstance(message, ResultMessage) and message.total_cost_usd is not None:
            self._total = _usd(message.total_cost_usd)
            self.asked, self._answered = False, True
            self._stopped = message.subtype == "error_max_budget_usd"

    def _cost(self) -> Decimal:
        """What was spent since the latest reset. A program that was not told of the past begins at zero."""
        return self._total - self._before if self._total >= self._before else self._total

    async def end(self) -> None:
        """End the reservation: by the reported cost, or, where that is not known, charge the grant."""
        stored, spent = self._guard.stored, self._past + self._cost()
        if stored is None or self._guard.ended:
            return
        with anyio.CancelScope(shield=True):
            if self.asked and spent <= self._grant:
                await self._guard.aend(*self._guard.unanswered(None, None))
            elif self.asked or self._answered:
                await self._budget.aio.reconcile(stored, usd=spent)
            else:
                await self._budget.aio.refund(stored)
        self._guard.claim()

    def check(self) -> None:
        """Raise `BudgetExceeded` if the program has stopped at its limit."""
        if not self._stopped:
            return
        spent = self._past + self._cost()
        limit, subject = Limit(f"${self._limit:f}/run", run=self._run.id), Subject(run=self._run.id)
        left = self._limit - spent
        error = BudgetExceeded(
            [Refusal(limit, subject, "usd", spent, Decimal(), Decimal(), left, None, "never")], self._run.scope
        )
        if left < 0:
            error.add_note(f"${-left:f} above: the program looks at its limit between calls, and made the last one")
        raise error


def _names(tools: Any) -> list[str]:
    """Return the tools that the options name; a preset names none."""
    return tools if isinstance(tools, list) else []


def _usd(told: float | None) -> Decimal:
    """Read the SDK's sum of floats, to a billionth of a dollar."""
    return Decimal(repr(told or 0)).quantize(_NANO, ROUND_HALF_EVEN)
