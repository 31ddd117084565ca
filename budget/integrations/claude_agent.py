"""Claude Agent SDK: a process that makes its own calls, held to a grant.

    async for message in query(budget, "$2", prompt="Find it.", options=options, user="alice"):
        ...

The SDK has no client to wrap: it starts the `claude` program, which calls the model by itself and stops at
`max_budget_usd`. So a session reserves its whole grant before the program starts, tells the program that limit, and is
reconciled with the `total_cost_usd` that it reports. The program looks at its limit between calls: the call that goes
above it is made, and booked. To stay below the grant for sure, give `max_budget_usd` a call's worth less.

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
            grant, and its last message was yielded.
        ConfigError: The options continue a session, and `before` does not say what it cost.
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
    except sdk.ResultError as error:
        session.check(error)
        raise
    finally:
        await session.end()
    session.check()


class BudgetClient(ClaudeSDKClient):
    """A `ClaudeSDKClient` held to a grant, from `connect` to `disconnect`: see `query`.

    When the grant is used up, `receive_response` and `receive_messages` raise `BudgetExceeded` after the result that
    says so.
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
        self.options = replace(given, max_budget_usd=float(self._limit + self._before))

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

    def check(self, cause: BaseException | None = None) -> None:
        """Raise `BudgetExceeded` if the program has stopped at its limit."""
        if not self._stopped:
            return
        spent = self._past + self._cost()
        limit, subject = Limit(f"${self._limit:f}/run", run=self._run.id), Subject(run=self._run.id)
        no = Refusal(limit, subject, "usd", spent, Decimal(), Decimal(), self._limit - spent, None, "never")
        raise BudgetExceeded([no], self._run.scope) from cause


def _usd(told: float | None) -> Decimal:
    """Read the SDK's sum of floats, to a billionth of a dollar."""
    return Decimal(repr(told or 0)).quantize(_NANO, ROUND_HALF_EVEN)
