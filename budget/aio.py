"""`Budget.aio`: the verbs of a `Budget`, awaited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budget.commands import Reservation
from budget.core import known_reservation
from budget.pools import Pool
from budget.verbs import Decision

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["AsyncBudget"]


class AsyncBudget:
    """The verbs of a `Budget`, awaited; same arguments, same answers, same errors."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self._engine = budget.engine

    async def reserve(
        self, what: object = None, *, tokens: int | None = None, id: str | None = None, lease: float | None = None,
        parent: str | None = None, **request: Any,
    ) -> Reservation:  # fmt: skip
        """See `Budget.reserve`. A cancelled reserve is called back."""
        flow = self._engine.reserve(what, tokens, id, lease, parent, request)
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
        ask = self._engine.ask_for(what, tokens, request)
        decision: Decision = await self._engine.adrive(self._engine.verbs.check(ask))
        return decision

    async def status(self, **attributes: str) -> list[Pool]:
        """See `Budget.status`."""
        import asyncio

        return await asyncio.to_thread(self._budget.status, **attributes)
