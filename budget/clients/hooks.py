"""What a guarded client does at each HTTP attempt, before any byte and after an error answer: the SDKs' own hooks.

`_prepare_request` is the backstop: whatever reaches it without a reservation is reserved and charged if its body is
known, else refused (`backstop`). `_prepare_options`, which comes before it, sees what a middleware has made of a
request that was reserved for (`sending`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from budget.clients.backstop import UnlessByHand, endpoint_of, hand_deadline, unreserved
from budget.clients.call import Call
from budget.clients.late import make_call
from budget.clients.sending import OtherRequest, Sending, current

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["async_hooks", "sync_hooks"]


def sync_hooks(base: Any, budget: Budget) -> dict[str, Any]:
    """Return the hooks of a guarded sync client class."""
    unless_by_hand = UnlessByHand(budget)

    def prepare_options(self: Any, options: Any) -> Any:
        sending, protocol = current(), self._budget_protocol
        if sending is not None:
            with unless_by_hand:
                if sending.is_other(protocol, options):
                    sending.call.guard.end(*sending.call.failed(OtherRequest()))
                    if (call := _other(budget, self, sending, options)) is not None:
                        call.begin()
                        sending.turns(call, protocol, options)
        return base._prepare_options(self, options)

    def prepare_request(self: Any, http_request: Any) -> None:
        sending = current()
        call = None if sending is None else sending.call
        if call is None:
            with unless_by_hand:
                made = unreserved(budget, self._budget_protocol, self, http_request)
                if made is not None:
                    made.begin()
                    made.guard.end(*made.guard.unanswered(None, None))
                call = made
        if call is not None:
            hand_deadline(http_request)
            call.attempt(http_request, is_async=False, closed=self.is_closed())
        base._prepare_request(self, http_request)

    def copy_and_prepare(self: Any, options: Any) -> Any:
        if _is_prepared(options):
            return options
        return base._copy_and_prepare(self, options)

    return _found(base, prepare_options, prepare_request, copy_and_prepare)


def async_hooks(base: Any, budget: Budget) -> dict[str, Any]:
    """Return the hooks of a guarded async client class."""
    unless_by_hand = UnlessByHand(budget)

    async def prepare_options(self: Any, options: Any) -> Any:
        sending, protocol = current(), self._budget_protocol
        if sending is not None:
            with unless_by_hand:
                if sending.is_other(protocol, options):
                    await sending.call.guard.aend(*sending.call.failed(OtherRequest()))
                    if (call := _other(budget, self, sending, options)) is not None:
                        await call.abegin()
                        sending.turns(call, protocol, options)
        return await base._prepare_options(self, options)

    async def prepare_request(self: Any, http_request: Any) -> None:
        sending = current()
        call = None if sending is None else sending.call
        if call is None:
            with unless_by_hand:
                made = unreserved(budget, self._budget_protocol, self, http_request)
                if made is not None:
                    await made.abegin()
                    await made.guard.aend(*made.guard.unanswered(None, None))
                call = made
        if call is not None:
            hand_deadline(http_request)
            call.attempt(http_request, is_async=True, closed=self.is_closed())
        await base._prepare_request(self, http_request)

    async def copy_and_prepare(self: Any, options: Any) -> Any:
        if _is_prepared(options):
            return options
        return await base._copy_and_prepare(self, options)

    return _found(base, prepare_options, prepare_request, copy_and_prepare)


def _found(base: Any, prepare_options: Any, prepare_request: Any, copy_and_prepare: Any) -> dict[str, Any]:
    """Return the hooks by name; of the newer ones those that the SDK has."""
    hooks = {"_prepare_request": prepare_request, "_should_retry": _judge(base)}
    if hasattr(base, "_copy_and_prepare"):
        hooks["_copy_and_prepare"] = copy_and_prepare
    if hasattr(base, "_build_middleware_chain"):
        hooks["_prepare_options"] = prepare_options
    return hooks


def _judge(base: Any) -> Any:
    def should_retry(self: Any, response: Any) -> Any:
        sending = current()
        if sending is not None:
            sending.call.judged(response)
        return base._should_retry(self, response)

    return should_retry


def _other(budget: Budget, client: Any, sending: Sending, options: Any) -> Call | None:
    """Return the call that an attempt is, by what a middleware has made of the request; None if it passes."""
    protocol = client._budget_protocol
    endpoint = endpoint_of(budget, protocol, options.method, options.url)
    if endpoint is None:
        return None
    return make_call(budget, protocol, endpoint, protocol.body(endpoint, options), extras=sending.extras, fixed=True)


def _is_prepared(options: Any) -> bool:
    """Whether these options are those that the seam has prepared."""
    sending = current()
    return sending is not None and sending.prepared is options
