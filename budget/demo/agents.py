"""The agents of `budget demo`: they want far more than their limits allow, through one wrapped SDK client.

Each agent is a run, and each of its calls a run within it, so that the attribute `call` tells which ledger entries are
whose: the checks afterwards hold them against the provider's own log, call by call. How an agent fares with a call, and
how the provider answers it, stands in one table, `_CALLS`; nothing is random.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from budget.errors import BudgetExceeded
from budget.limits import Limit

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

    from budget.engine import Budget
    from budget.run import Run

__all__ = ["AGENTS", "CALLS", "LIMITS", "MODEL", "RUN_LIMIT", "USERS", "Call", "Crew", "PoolNow", "make_client"]

MODEL = "claude-sonnet-4-6"
USERS = ("alice", "bob", "carol", "dave", "erin")
AGENTS = 40
CALLS = 10
"""Calls that each agent wants to make."""
RUN_LIMIT = "$0.03"
"""What one of erin's agents may spend."""
_RUN_AGENT = "erin-1"
# A day that ends during the demo would start new pools; in Tokyo it does not end between 23:00 and 24:00 UTC.
_TZ = "UTC" if datetime.now(UTC).hour < 23 else "Asia/Tokyo"
LIMITS = (
    Limit("$1.25/day", tz=_TZ),
    Limit("$0.28/day", per="user", tz=_TZ),
    Limit("$0.15/day", user="bob", tz=_TZ),
    Limit("$0.05/request"),
)
_CALLS = (  # how the agent takes the answer, max_tokens, and how the provider answers (the fields of `Reply`)
    ("whole", 1000, "output=300, latency=0.3"),
    ("stream", 1000, "output=420, thinking=400, pace=0.02"),
    ("whole", 1000, "output=640, latency=0.5"),
    ("leave", 1000, "output=60, pace=0.02"),
    ("whole", 1000, "output=450, latency=0.3, fail_first=1:529, retry-after=0.05"),
    ("whole", 16000, "output=9000, latency=0.6"),  # up to $0.24: above the cap, so it is never sent
    ("whole", 1000, "output=520, input=20, cache_read=100, latency=0.4"),
    ("whole", 1000, "status=529, retry-after=0.05"),  # every attempt fails: refunded
    ("stream", 1000, "output=380, thinking=360, pace=0.02"),
    ("hurry", 1000, "output=300, latency=5"),
    ("whole", 1000, "output=700, latency=0.6"),
)
_PROMPT = "Read this bug report, find the cause, and say in a few words how you would fix it. " * 6
_PATIENCE = 0.4  # seconds that an agent in a hurry waits for an answer
_PAUSE = 0.15  # seconds between an agent's calls
_STAGGER = 0.02  # seconds between the starts of two agents


@dataclass(slots=True)
class Call:
    """One call that an agent wanted to make, and what it met with.

    Attributes:
        tag: What it is known by: in the ledger as the attribute `call`, at the provider as its `x-demo-tag`.
        user, agent: Whose it is.
        end: answered, left, timed out, failed (the provider's error), refused; "" while it is under way.
        refused_by: The limit that refused, as text.
    """

    tag: str
    user: str
    agent: str
    end: str = ""
    refused_by: str = ""


@dataclass(frozen=True, slots=True)
class PoolNow:
    """A pool as the demo shows it: whose, by which attributes, its limit, and what is spent and reserved now."""

    name: str
    subject: Mapping[str, str | None]
    limit: Limit
    spent: Decimal
    reserved: Decimal


@dataclass(slots=True)
class Crew:
    """All agents, and what their calls met with.

    Args:
        budget: The engine, with `LIMITS`.
        client: A wrapped client whose base URL is the demo provider.
        agents: How many agents there are, shared out among the users.
        speed: How many times faster than usual agents and provider are.
    """

    budget: Budget
    client: AsyncAnthropic
    agents: int = AGENTS
    speed: float = 1.0
    calls: list[Call] = field(default_factory=list)
    limited: Run | None = None

    async def work(self) -> None:
        """Have every agent make its calls."""
        await asyncio.gather(*(self._agent(number) for number in range(self.agents)))

    async def pools(self) -> list[PoolNow]:
        """Return every pool as it is now: everybody's, each user's, and that of the run with a limit of its own."""
        found = []
        for pool in await self.budget.aio.status():
            name = str(pool.subject).removeprefix("user=")
            found.append(PoolNow(name, pool.subject, pool.limit, Decimal(pool.spent), Decimal(pool.reserved)))
        found.sort(key=lambda pool: (bool(pool.subject), pool.name))
        if self.limited is not None:
            run = await asyncio.to_thread(self.limited.refresh)
            found.append(PoolNow(_RUN_AGENT, {"agent": _RUN_AGENT}, run.limits[0], run.spent, run.reserved))
        return found

    async def _agent(self, number: int) -> None:
        user = USERS[number % len(USERS)]
        name = f"{user}-{number // len(USERS) + 1}"
        await self._sleep(_STAGGER * number)
        run = self.budget.run(RUN_LIMIT if name == _RUN_AGENT else None, user=user, agent=name)
        if run.limits:
            self.limited = run
        with run:
            for turn in range(CALLS):
                call = Call(f"{name}.{turn + 1}", user, name)
                self.calls.append(call)
                way, max_tokens, reply = _CALLS[(number + turn) % len(_CALLS)]
                with self.budget.run(call=call.tag):
                    await self._call(call, way, max_tokens, reply)
                await self._sleep(_PAUSE)

    async def _call(self, call: Call, way: str, max_tokens: int, reply: str) -> None:
        import anthropic

        headers = {"x-demo": self._faster(reply), "x-demo-tag": call.tag}
        try:
            call.end = await self._take(way, max_tokens, headers)
        except BudgetExceeded as no:  # raised before any byte was sent
            call.end, call.refused_by = "refused", _rule(no.limit)
        except anthropic.APITimeoutError:
            call.end = "timed out"
        except anthropic.APIError:
            call.end = "failed"

    async def _take(self, way: str, max_tokens: int, headers: dict[str, str]) -> str:
        """Make a call the ordinary way of the SDK; return how it ended."""
        request: dict[str, Any] = {
            "model": MODEL, "max_tokens": max_tokens, "messages": [{"role": "user", "content": _PROMPT}],
            "extra_headers": headers,
        }  # fmt: skip
        if way in ("stream", "leave"):
            async with self.client.messages.stream(**request) as stream:
                seen = 0
                async for _ in stream.text_stream:
                    seen += 1
                    if way == "leave" and seen == 10:
                        return "left"
            return "answered"
        client = self.client
        if way == "hurry":
            client = client.with_options(timeout=_PATIENCE / self.speed, max_retries=0)
        await client.messages.create(**request)
        return "answered"

    def _faster(self, reply: str) -> str:
        """Divide the times in a reply by the speed."""
        fields = (item.split("=") for item in reply.split(", "))
        times = ("latency", "pace")
        return ", ".join(f"{k}={float(v) / self.speed:g}" if k in times else f"{k}={v}" for k, v in fields)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self.speed)


def _rule(limit: Limit | None) -> str:
    """Return a limit as text, a run's without the run's id."""
    assert limit is not None
    return limit.rule if limit.window.kind == "run" else str(limit)


def make_client(budget: Budget, url: str) -> AsyncAnthropic:
    """Return a wrapped SDK client of the demo provider; proxies of the environment are not used."""
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    http = DefaultAsyncHttpxClient(trust_env=False)
    return budget.wrap(AsyncAnthropic(base_url=url, api_key="demo", http_client=http))
