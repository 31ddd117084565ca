"""Extensions: what a call sets aside after its first reservation, while it is under way.

Each is a reservation of its own that names the first as its parent, in the same pools, which admit it or stop the call.
All end with the first: that one carries the money of the whole call, and the extensions are given back. An extension is
known before it is reserved, so that whoever ends the call meanwhile, from another thread or a finalizer, ends this one
too: a refund that comes before its reserve keeps it out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budget.asks import Ask, filled
from budget.commands import Amounts, Refund, Reservation

if TYPE_CHECKING:
    from budget.core import Engine
    from budget.verbs import Flow

__all__ = ["Extensions"]

_NOTHING: Amounts = (0, 0, 0, 0, 0)


class Extensions:
    """The extensions of one call.

    Args:
        engine: Whose reservations they are.
        ids: Of the call's reservations; the finalizer of the call's guard has the same list.
        lease_us: Their lease, in microseconds.
    """

    def __init__(self, engine: Engine, ids: list[str], lease_us: int):
        self._engine, self._ids, self._lease_us = engine, ids, lease_us
        self._stored: dict[str, Reservation | None] = {}  # None until the store has answered

    def announce(self) -> str:
        """Make the id of the next one, and see to its end."""
        id = self._engine.verbs.new_id()
        self._ids.append(id)
        self._stored[id] = None
        self._engine.leases.keep(id, self._lease_us)
        return id

    def reserve(self, id: str, first: Reservation, ask: Ask, more: Amounts, most: Amounts) -> Flow:
        """Set more aside for the same call; `most` is what there is then in all, which caps are held to."""
        detail: dict[str, Any] = {name: ask.detail[name] for name in ("model", "provider") if name in ask.detail}
        detail["extends"] = first.id
        ask = Ask(more, ask.scope, ask.run, detail, most=most, limits=ask.limits, extends=True)
        try:
            self._stored[id] = yield from self._engine.verbs.reserve(ask, id, self._lease_us, parent=first.id)
        except Exception:
            self.forget(id)
            raise

    def forget(self, id: str) -> None:
        """Forget one that was not admitted."""
        self._engine.leases.drop(id)
        self._stored.pop(id, None)

    def whole(self, first: Reservation, amounts: Amounts) -> Amounts:
        """Return what the call is charged: where that is what was reserved, the extensions are part of it."""
        every = [first.amounts, *(each.amounts for each in list(self._stored.values()) if each is not None)]
        if len(every) == 1:
            return amounts
        return filled(amounts, tuple(sum(figure or 0 for figure in unit) for unit in zip(*every, strict=True)))  # type: ignore[arg-type]

    def end(self, first: Reservation) -> Flow:
        """End each, and wait for the last, behind which a store has carried out the others."""
        if not self._stored:
            return
        *others, last = self._stored
        for id in others:
            self._post(id, first)
        yield from self._engine.verbs.refund(self._stored[last] or last, {"extends": first.id})
        self._engine.leases.drop(last)

    def give_back(self, first: Reservation) -> None:
        """Hand over the end of each that has none yet."""
        for id in [*self._stored]:
            self._post(id, first)

    def _post(self, id: str, first: Reservation) -> None:
        if self._engine.leases.drop(id):
            stored = self._stored[id]
            self._engine.post(Refund(id, {"extends": first.id}, stored))
            if stored is not None:
                self._engine.verbs.presume(stored, _NOTHING, True)
