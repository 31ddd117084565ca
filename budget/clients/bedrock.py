"""Amazon Bedrock by `boto3`: `client("bedrock-runtime")`, whatever model is behind it.

All operations of a botocore client come to its `_make_api_call`, one logical call, and below that every attempt to
`_get_response` of its endpoint, in botocore's own retries. A guarded client is a twin of the given one, of a subclass
of its class (which botocore makes at run time), over a twin of its endpoint; hooks, signer and connections are
shared, and nothing is registered with them. An attempt that nobody reserved for is refused. A URL signed by
`generate_presigned_url` is sent by others, unseen.

Converse says its usage with the answer, ConverseStream in its last event. InvokeModel takes and gives the model's own
JSON: it is metered for Claude and Nova, whose bodies can be bounded, by reading the answer, which is small, before
the caller does; for other models it is refused.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from budget.clients.anthropic import MessagesMeter
from budget.clients.call import Call
from budget.clients.extras import Extras
from budget.clients.functions import (
    Event,
    Spoken,
    backstop,
    begun,
    extras_of,
    finish,
    guarded_class,
    refuse,
    seconds,
    start,
    subclass,
    tried,
)
from budget.clients.meter import StreamMeter
from budget.clients.metered import Metered
from budget.errors import ConfigError, Unbounded

if TYPE_CHECKING:
    from budget.engine import Budget

__all__ = ["guard", "missing"]

C = TypeVar("C")

# Operations of botocore's bedrock-runtime 2023-09-30 that run no model; others but GETs are refused.
_FREE = frozenset({"CountTokens", "GetAsyncInvoke", "ListAsyncInvokes"})
_ERROR = Event(type="error", failedException=True)
_CONVERSE = ("Converse", "ConverseStream")
_INVOKE = ("InvokeModel", "InvokeModelWithResponseStream")


class ConverseMeter(StreamMeter):
    """Reads the events of one ConverseStream, or of one stream of Nova's own, which are the same."""

    output_name = "outputTokens"

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take note of one event."""
        if any(name.endswith("Exception") for name in event):
            self.failed = True
        start, delta = event.get("contentBlockStart"), event.get("contentBlockDelta")
        if start or delta:
            self.begun = True
        if delta:
            self._delta(delta.get("delta") or {}, delta.get("contentBlockIndex", 0))
        metadata = event.get("metadata")
        if metadata and metadata.get("usage"):
            self.usage = dict(metadata["usage"])
            self.answer = {"serviceTier": metadata.get("serviceTier")}
            self.complete = True

    def _delta(self, delta: Mapping[str, Any], block: int) -> None:
        reasoning = delta.get("reasoningContent")
        if reasoning and reasoning.get("redactedContent"):
            self.hidden = True
        self.received(delta.get("text"), ("text", block))
        for piece in ((reasoning or {}).get("text"), (delta.get("toolUse") or {}).get("input")):
            self.received(piece, block)

    def is_text(self, place: object) -> bool:
        """Whether a place is that of the answer's text."""
        return isinstance(place, tuple)


def missing(client: Any = None) -> list[str]:
    """Return the names that guarding depends on and a client, by default botocore's classes, does not have."""
    if client is None:
        below: Any = import_module("botocore.endpoint").Endpoint
        of = {"_make_api_call": import_module("botocore.client").BaseClient, "_get_response": below}
    else:
        of = dict.fromkeys(("_make_api_call", "_endpoint", "meta"), client)
        of["_get_response"] = getattr(client, "_endpoint", None)
    return [name for name, holder in of.items() if not hasattr(holder, name)]


def guard(budget: Budget, client: C) -> C:
    """Return a guarded twin of a bedrock-runtime client, which shares its connections.

    Raises:
        ConfigError: It is a client of another service, or botocore lacks what guarding depends on.
    """
    if absent := ", ".join(missing(client)):
        raise ConfigError(f"wrap: {type(client).__name__} has no {absent}; is its botocore too new?")
    service = client.meta.service_model.service_name  # type: ignore[attr-defined]
    if service != "bedrock-runtime":
        raise ConfigError(f"wrap: a client of {service} is not available in this version, only bedrock-runtime")
    base = type(client)
    # botocore makes a class for each client, so that this one goes with the client, too
    twin: C = object.__new__(guarded_class(base, _budget_engine=budget, _make_api_call=_logical(base, budget)))
    vars(twin).update(vars(client))
    endpoint = client._endpoint  # type: ignore[attr-defined]
    below = object.__new__(subclass(type(endpoint), budget, _get_response=_each(type(endpoint), budget)))
    vars(below).update(vars(endpoint))
    vars(twin)["_endpoint"] = below
    return twin


def _logical(base: Any, budget: Budget) -> Any:
    def make_api_call(self: Any, operation_name: str, api_params: Mapping[str, Any]) -> Any:
        params = dict(api_params)
        extras = extras_of(params)

        def send(changes: Mapping[str, Any]) -> Any:
            return base._make_api_call(self, operation_name, {**params, **changes})

        call = begun(_call, budget, operation_name, params, extras)
        if call is None:
            return send({})
        answer = start(call, send)
        if operation_name in _INVOKE:
            return _read(answer, call)
        if "stream" in answer:
            answer["stream"] = _metered(answer["stream"], call)
        else:
            finish(call, answer)
        return answer

    return make_api_call


def _call(budget: Budget, operation: str, params: Mapping[str, Any], extras: Extras) -> Call | None:
    """Return the call of an operation, None if it passes.

    Raises:
        Unbounded: It may cost money, and nobody knows how much.
    """
    if budget.settings.disabled or operation in _FREE:
        return None
    if operation in _INVOKE:
        return _invoked(budget, params, extras)
    if operation not in _CONVERSE:
        refuse(budget, operation)
        return None
    call = Call(budget, Spoken("aws-bedrock", converse=ConverseMeter), "converse", params, extras=extras)
    call.streams = operation == "ConverseStream"
    return call


def _each(base: Any, budget: Budget) -> Any:
    def get_response(self: Any, request: Any, operation_model: Any, context: Any) -> Any:
        if operation_model.name not in _FREE:
            backstop(budget, operation_model.name)
        seconds(None)
        try:
            answered, error = base._get_response(self, request, operation_model, context)
        except BaseException as interrupt:
            tried(None, interrupt)
            raise
        tried(answered and answered[0], error)
        return answered, error

    return get_response


def _metered(stream: Any, call: Call, read: Any = None) -> Any:
    """Return a twin of an event stream that ends the call."""
    base: Any = type(stream)
    twin = object.__new__(_stream_class(base))
    vars(twin).update(vars(stream))
    vars(twin)["_budget_events"] = Metered(_told(iter(stream), call), call, stream.close, *([read] if read else []))
    return twin


@cache
def _stream_class(base: Any) -> Any:
    return guarded_class(base, __iter__=_events, close=_close)


def _told(events: Iterator[Any], call: Call) -> Iterator[Any]:
    """Pass the events on; tell the meter of an error that came as an event, which botocore raises."""
    try:
        yield from events
    except Exception as error:
        if type(error).__name__ == "EventStreamError":
            call.event(_ERROR)
        raise


def _events(self: Any) -> Iterator[Any]:
    return iter(self._budget_events)


def _close(self: Any) -> None:
    self._budget_events.close()


# InvokeModel: the model's own JSON.


def _invoked(budget: Budget, params: Mapping[str, Any], extras: Extras) -> Call | None:
    """Return the call of an InvokeModel, whose body is sent as it is; None if money was set aside for it by hand.

    Raises:
        Unbounded: It is of a model whose bodies are not known here, or has a guardrail.
    """
    model, given = str(params.get("modelId")), params.get("body")
    if params.get("guardrailIdentifier"):
        raise Unbounded(["a guardrail is billed by text units, beside the tokens"])
    if hasattr(given, "read"):
        raise Unbounded(["the body of InvokeModel cannot be read before it is sent; give it as bytes"])
    try:
        body = json.loads(given or b"")
    except ValueError:
        raise Unbounded(["the body of InvokeModel is not JSON"]) from None
    claude, nova = "anthropic." in model, ".nova-" in model or model.startswith("amazon.nova-")
    if not isinstance(body, Mapping) or not (claude or nova):
        refuse(budget, f"InvokeModel of {model}")
        return None
    tier = params.get("serviceTier")
    whole = {**body, "model": model} | ({"service_tier" if claude else "serviceTier": tier} if tier else {})
    spoken = Spoken("aws-bedrock", messages=MessagesMeter, converse=ConverseMeter)
    return Call(budget, spoken, "messages" if claude else "converse", whole, extras=extras, fixed=True)


def _read(answer: Any, call: Call) -> Any:
    """Have the answer of an InvokeModel end its call."""
    given = answer["body"]
    if hasattr(given, "get_initial_response"):
        answer["body"] = _metered(given, call, _chunk)
        return answer
    try:
        content = given.read()
        given.close()
    except BaseException as error:
        call.guard.end(*call.failed(error))
        raise
    finish(call, _json(content))
    answer["body"] = type(given)(io.BytesIO(content), len(content))
    return answer


def _chunk(event: Mapping[str, Any]) -> Any:
    """Return the model's own event in an event of InvokeModelWithResponseStream."""
    chunk = event.get("chunk")
    return _json(chunk["bytes"]) if chunk else _ERROR


def _json(content: bytes) -> Any:
    try:
        return json.loads(content, object_hook=Event)
    except ValueError:
        return {}
