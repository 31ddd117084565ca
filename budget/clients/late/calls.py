"""The submission of a late answer: a call whose reservation stays open when it was answered.

It takes no slot of a limit of calls at once: nobody waits in a connection for it, and a slot that is held until
somebody collects could be held for a day. A batch counts as many requests as it has; a cap is held to the largest of
them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from budget.above import Also
from budget.arguments import GUARDED_LEASE, lease_us
from budget.asks import Ask, make_ask
from budget.clients.call import Call, End
from budget.clients.extras import NONE, Extras
from budget.clients.late.batches import batch_of, requests_of_messages
from budget.clients.late.ends import PENDING
from budget.clients.late.files import uploaded
from budget.clients.late.links import hold
from budget.clients.meter import fields_of
from budget.clients.protocol import Protocol
from budget.clients.shortage import check_ways
from budget.commands import Amounts, LoadPolicy, Outcome, Refund, Reserve
from budget.errors import BudgetError, BudgetExceeded
from budget.guard import Guard
from budget.limits import CONCURRENT
from budget.waiting.line import Place

if TYPE_CHECKING:
    from budget.engine import Budget
    from budget.verbs import Flow

__all__ = ["make_call"]

_log = logging.getLogger("budget")
_LEASE_US = lease_us(None, GUARDED_LEASE)
_AS_RESERVED: Amounts = (None, None, None, None, None)


def make_call(
    budget: Budget,
    protocol: Protocol,
    endpoint: str,
    body: Mapping[str, Any],
    counter: Callable[[], Any] | None = None,
    extras: Extras = NONE,
    fixed: bool = False,
) -> Call:
    """Return the call of a metered request, whose answer may be a late one. See `Call`."""
    if endpoint == "batches":
        return _Submission(budget, protocol, endpoint, body, None, extras, fixed=True)
    kind = _Background if body.get("background") else Call
    return kind(budget, protocol, endpoint, body, counter, extras, fixed)


class _Late(Call):
    """What the submissions have in common."""

    kind: str
    _protocol: Protocol

    def _kept(self, ask: Ask, wait: float | None) -> Guard:
        self._guard = LateGuard(self._budget, ask, wait, self._protocol.sdk)
        return self._guard

    def _pending(self, name: str) -> End:
        """Return how a call ends whose answer is to come: charged as reserved, if it cannot be kept open."""
        detail = {"job": {"kind": self.kind, "id": name}, "outcome": "not kept open", "estimated": True}
        return _AS_RESERVED, {**detail, **self._timing()}, False


class _Submission(_Late):
    """Of a batch."""

    kind = "batch"

    def _prepare(self) -> Ask:
        """Estimate all requests.

        Raises:
            Unbounded, UnknownModel, ConfigError: See `batch_of`; or the file's requests are not known.
        """
        settings, extras = self._budget.settings, self._extras
        if extras.on_short is not None:
            check_ways(extras.on_short, self._budget, self._protocol, self._endpoint, self._body)
        if self._protocol.sdk == "openai":
            found = uploaded(self._budget, self._body.get("input_file_id"))
        else:
            found = batch_of(self._budget.engine, self._protocol, requests_of_messages(self._body))
        ask = make_ask(settings, found.estimate, None, extras.scope)
        ask.limits = extras.limits
        ask.detail |= {"batch": {"requests": found.requests}} | ({"site": dict(found.site)} if found.site else {})
        ask.amounts = (*ask.amounts[:4], found.requests)
        ask.most, ask.estimate = found.largest, None  # what is learned is of single calls
        return ask

    def _guarded(self, ask: Ask, wait: float | None = None) -> Guard:
        return self._kept(ask, wait)

    def answered(self, result: object) -> End:
        name = fields_of(result).get("id")
        return self._pending(name) if isinstance(name, str) else self._unanswered(None, [200])


class _Background(_Late):
    """Of a response that is made in the background."""

    kind = "response"
    _name: str | None = None

    def _guarded(self, ask: Ask, wait: float | None = None) -> Guard:
        super()._guarded(ask, wait)
        return self._kept(ask, wait)

    def answered(self, result: object) -> End:
        answer = fields_of(result)
        name = answer.get("id")
        if isinstance(name, str) and answer.get("status") in PENDING:
            return self._pending(name)
        return super().answered(result)

    def event(self, event: Any) -> None:
        super().event(event)
        if self._name is None:
            name = fields_of(getattr(event, "response", None)).get("id")
            self._name = name if isinstance(name, str) else None

    def streamed(self, error: BaseException | None, *, whole: bool = False) -> End:
        """Whoever leaves the stream of a background response leaves the response as it is."""
        done = whole or getattr(self._meter, "complete", True) or getattr(self._meter, "failed", False)
        if done or self._name is None:
            return super().streamed(error, whole=whole)
        return self._pending(self._name)


class LateGuard(Guard):
    """A guard that keeps the reservation open where its end says under which id (`detail["job"]`)."""

    def __init__(self, budget: Budget, ask: Ask, wait: float | None, sdk: str):
        super().__init__(budget, ask, _LEASE_US, wait)
        self._sdk = sdk

    def begin(self) -> Guard:
        """Like `Guard.begin`; never from a slice, which other processes could not look into."""
        if not self._engine.settings.disabled:
            id = self._announce()
            try:
                self.stored = self._engine.drive(self._reserve(id))
            except BaseException as error:
                self._call_back(id, error)
                raise
        return self

    async def abegin(self) -> Guard:
        """Like `begin`, without blocking the event loop."""
        if not self._engine.settings.disabled:
            id = self._announce()
            try:
                self.stored = await self._engine.adrive(self._reserve(id))
            except BaseException as error:
                self._call_back(id, error)
                raise
        return self

    def _call_back(self, id: str, error: BaseException) -> None:
        self._engine.leases.drop(id)
        if not isinstance(error, BudgetExceeded):
            self._engine.post(Refund(id, {"outcome": "no answer"}))

    def _reserve(self, id: str) -> Flow:
        return _without_slot(super()._reserve(id))

    def end(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool = False) -> bool:
        """Keep it open, or end it."""
        if "job" in detail and self.stored is not None and not self.ended:
            try:
                if self._engine.drive(self._hold(detail)):
                    return self._leave_open()
            except BudgetError as error:
                self._not_held(error)
        return super().end(amounts, detail, refund)

    async def aend(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool = False) -> bool:
        """Like `end`, without blocking the event loop."""
        if "job" in detail and self.stored is not None and not self.ended:
            try:
                if await self._engine.adrive(self._hold(detail)):
                    return self._leave_open()
            except BudgetError as error:
                self._not_held(error)
        return await super().aend(amounts, detail, refund)

    def post(self, amounts: Amounts, detail: Mapping[str, Any], refund: bool = False) -> bool:
        """Keep it open, or hand the end to the store, without waiting."""
        if "job" in detail and self.stored is not None and not self.ended and self._posted(detail):
            return self._leave_open()
        return super().post(amounts, detail, refund)

    def _leave_open(self) -> bool:
        """Renew it no more; what a stream set aside besides is given back."""
        claimed = self.claim()
        self._give_back()
        return claimed

    def _posted(self, detail: Mapping[str, Any]) -> bool:
        """Hand over what keeps it open; False if that cannot be done without asking the store."""
        flow = self._hold(detail)
        try:
            command = next(flow)
            while not isinstance(command, LoadPolicy):
                if not isinstance(command, Also | Place):
                    self._engine.store.post(self._engine.settings.account, command)
                command = flow.send(Outcome("reserved" if isinstance(command, Reserve) else "renewed", 0, 0))
        except StopIteration:
            return True
        finally:
            flow.close()
        return False

    def _hold(self, detail: Mapping[str, Any]) -> Flow:
        job = detail["job"]
        return hold(self._engine.verbs, self._known, self._sdk, job["kind"], job["id"])

    def _not_held(self, error: BudgetError) -> None:
        _log.warning("reservation %s: it cannot be kept open and is charged now (%s)", self._known.id, error)


def _without_slot(flow: Flow) -> Flow:
    """Have what a flow reserves take no slot of calls at once, in the account above neither."""
    try:
        command = next(flow)
        while True:
            if isinstance(command, Reserve):
                draws = [draw._replace(amount=0) if draw.unit == CONCURRENT else draw for draw in command.draws]
                command = replace(command, draws=draws)
            elif isinstance(command, Also):
                command = Also(_without_slot(command.flow))
            try:
                answer = yield command
            except BudgetError as error:
                command = flow.throw(error)
            else:
                command = flow.send(answer)
    except StopIteration as end:
        return end.value
    finally:
        flow.close()
