"""Spans of OpenTelemetry's GenAI conventions, as OTLP's JSON: a document, or one per line.

Read are the attributes of the conventions 1.42 and those that they replaced (opentelemetry-semantic-conventions,
`gen_ai_attributes.py`; read 2026-11-22): cached tokens should be inside the input; where they are more than it, they
stand beside it. A span of an agent, a workflow or a tool is no call: what it sums up are the spans below it. The id of
the answer names a call, so that a framework's span and its SDK's are one; without it the span does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from budget.importing.call import Bad, Call, Found, LeftOut, Source, each, need, provider_of, scope_of, tokens, unix_us
from budget.importing.files import documents
from budget.usage import Usage

__all__ = ["is_document", "read"]

_CALLS = {"chat", "text_completion", "generate_content", "embeddings", "completion", "messages", "responses", None}
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens")
_OUTPUT = ("gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens")
_READ = ("gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_read_input_tokens")
_WRITTEN = ("gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens")
_MODEL = ("gen_ai.response.model", "gen_ai.request.model")
_PROVIDER = ("gen_ai.provider.name", "gen_ai.system")
_REASONING = ("gen_ai.usage.reasoning.output_tokens",)
_VALUES = ("stringValue", "intValue", "doubleValue")
_LISTS = (("resourceSpans", "resource_spans"), ("scopeSpans", "scope_spans", "instrumentationLibrarySpans"))


def is_document(item: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether an object is OTLP's."""
    return isinstance(item, Mapping) and not item.keys().isdisjoint(_LISTS[0])


def read(source: Source) -> Iterator[Found]:
    """Read the calls of a file of spans. A bad span is named by the line of its document.

    Raises:
        BudgetError: The file cannot be read.
    """
    for line, item in documents(source.path):
        if not is_document(item):
            yield Bad(line, "is no document of OTLP with resourceSpans")
            continue
        spans = ((line, pair) for pair in _spans(item))
        yield from each(spans, lambda line, pair: _call(source, line, *pair))


def _spans(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Iterate the spans, each with the attributes of its resource."""
    for group in _under(document, _LISTS[0]):
        resource = group.get("resource") if isinstance(group, Mapping) else None
        about = _attributes(resource)
        for inner in _under(group, _LISTS[1]):
            for span in _under(inner, ("spans",)):
                yield about, span


def _under(item: Any, names: tuple[str, ...]) -> list[Any]:
    found = next((item[name] for name in names if name in item), ()) if isinstance(item, Mapping) else ()
    return found if isinstance(found, list) else []


def _call(source: Source, line: int, resource: Mapping[str, Any], span: Any) -> Call | LeftOut | None:
    about = _attributes(span)
    operation = about.get("gen_ai.operation.name")
    if not any(name.startswith("gen_ai.") for name in about):
        return None
    if operation not in _CALLS:
        return LeftOut(line, "spans of agents, workflows and tools")
    if _first(about, _INPUT) is None and _first(about, _OUTPUT) is None:
        return LeftOut(line, "spans without a usage")
    model = _first(about, _MODEL) or source.fill.get("model")
    if not isinstance(model, str) or not model:
        raise ValueError("gen_ai.response.model: is missing")
    began = int(str(need(span, "startTimeUnixNano"))) // 1000
    at = unix_us(need(span, "endTimeUnixNano"), "endTimeUnixNano")
    scope = scope_of(
        source, user=about.get("user.id") or about.get("enduser.id"), session=about.get("gen_ai.conversation.id")
        or about.get("session.id"), agent=about.get("gen_ai.agent.name"), project=resource.get("service.name"),
    )  # fmt: skip
    key = about.get("gen_ai.response.id") or f"{need(span, 'traceId')} {need(span, 'spanId')}"
    return Call(
        line, str(key), at, model, provider_of(_first(about, _PROVIDER)), _usage(about), scope,
        latency_ms=max(0, (at - began) // 1000), outcome=str(about.get("error.type") or "ok")[:80],
    )  # fmt: skip


def _usage(about: Mapping[str, Any]) -> Usage:
    given, output, read, written, reasoning = (
        tokens(_first(about, names), names[0]) for names in (_INPUT, _OUTPUT, _READ, _WRITTEN, _REASONING)
    )
    fresh = given - read - written if given >= read + written else given
    return Usage(fresh, read, {"5m": written} if written else {}, output, min(reasoning, output))


def _first(about: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((about[name] for name in names if about.get(name) is not None), None)


def _attributes(item: Any) -> dict[str, Any]:
    """Return the attributes of a span or resource that are text or numbers."""
    found: dict[str, Any] = {}
    for pair in _under(item, ("attributes",)):
        value = pair.get("value") if isinstance(pair, Mapping) else None
        if isinstance(value, Mapping) and isinstance(pair.get("key"), str):
            found[pair["key"]] = next((value[kind] for kind in _VALUES if kind in value), None)
    return found
