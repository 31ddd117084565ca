"""`Budget.aio`: the verbs of a `Budget`, awaited."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from budget.arguments import known_reservation
from budget.commands import Reservation
from budget.pools import Pool
from budget.verbs import Decision

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["AsyncBudget", "off_loop"]

T = TypeVar("T")
_INLINE = 20_000  # characters: 2 to 4 ms of counting


async def off_loop(work: Callable[[], T]) -> T:
    """Return what `work` returns, without holding the event loop for long.

    It is done here, and if it turns out to count much text, anew in a thread; tiktoken frees the GIL while it counts.
    It must be something that can be begun twice.
    """
    from budget.estimator.inline import TooLong, at_most

    try:
        with at_most(_INLINE):
            return work()
    except TooLong:
        import asyncio

        return await asyncio.to_thread(work)


class AsyncBudget:
    """The verbs of a `Budget`, awaited; same arguments, same answers, same errors."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self._engine = budget.engine

    async def reserve(
        self, what: object = None, *, tokens: int | None = None, id: str | None = None, lease: float | None = None,
        parent: str | None = None, wait: float | None = None, **request: Any,
    ) -> Reservation:  # fmt: skip
        """See `Budget.reserve`. A cancelled reserve is called back; while it waits, nothing is held."""
        if what is None:  # there is a request to count
            flow = await off_loop(lambda: self._engine.reserve(None, tokens, id, lease, parent, wait, request))
        else:
            flow = self._engine.reserve(what, tokens, id, lease, parent, wait, request)
        reservation: Reservation = await self._engine.adrive(flow, call_back=id is None)
        return reservation

    async def reconcile(
        self, reservation: Reservation | str, usage: object = None, *, usd: object = None, tokens: int | None = None,
        model: str | None = None,
    ) -> Reservation:  # fmt: skip
        """See `Budget.reconcile`. A cancelled reconcile is carried out all the same."""
        done: Reservation = await self._engine.adrive(self._engine.reconcile(reservation, usage, usd, tokens, model))
        return done

    async def refund(self, reservation: Reservation | str) -> Reservation:
        """See `Budget.refund`. A cancelled refund is carried out all the same."""
        done: Reservation = await self._engine.adrive(self._engine.verbs.refund(known_reservation(reservation), {}))
        return done

    async def record(
        self, usage: object = None, *, usd: object = None, tokens: int | None = None, model: str | None = None,
        provider: str | None = None, id: str | None = None, **attributes: str,
    ) -> Reservation:  # fmt: skip
        """See `Budget.record`."""
        flow = self._engine.record(usage, usd, tokens, model, provider, id, attributes)
        done: Reservation = await self._engine.adrive(flow)
        return done

    async def check(self, what: object = None, *, tokens: int | None = None, **request: Any) -> Decision:
        """See `Budget.check`."""
        ask = await off_loop(lambda: self._engine.ask_for(what, tokens, request))
        decision: Decision = await self._engine.adrive(self._engine.verbs.check(ask))
        return decision

    async def status(self, **attributes: str) -> list[Pool]:
        """See `Budget.status`."""
        import asyncio

        return await asyncio.to_thread(self._budget.status, **attributes)
