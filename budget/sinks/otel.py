"""OpenTelemetry: what a call cost, on the span of the call, in the process that makes it.

A span cannot be told afterwards from a ledger, so this sink watches: a guard tells it when money was set aside and when
the call ended (`watcher` of the engine). If the span that is current then is already one of this call, made by another
instrumentation around the SDK, it gets what that one does not know, under `budget.`, and the usage. Else a span is made
here. So no call has two. A span of an agent or a tool is not one of a call, and one span is never given two calls.

Names are those of the GenAI semantic conventions as `opentelemetry-semantic-conventions` 0.66b2 has them (read
2026-11-22); they are still called incubating there. No text of a request or an answer is ever set.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from budget.errors import BudgetExceeded, ConfigError
from budget.sinks.base import Batch, Spec, check_name, need

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from budget.asks import Ask
    from budget.commands import Amounts, Reservation
    from budget.core import Engine

__all__ = ["OpenTelemetry", "Watched"]

_CALLS = {"chat", "generate_content", "text_completion", "embeddings"}
"""The operations of the conventions that are one call of a model."""
_PROVIDERS = {
    "aws-bedrock": "aws.bedrock", "azure": "azure.ai.openai", "google": "gcp.gemini", "google-vertex": "gcp.vertex_ai",
    "mistral": "mistral_ai", "xai": "x_ai",
}  # fmt: skip
"""What the conventions call a provider, where the price book calls it otherwise."""
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_USD = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)


class OpenTelemetry:
    """A sink that adds cost and budget to traces, and counts tokens, time and cost as metrics.

    An instrumentation that works below what is wrapped (botocore's, or LiteLLM's own callback) makes its span after
    this one was asked; with it, give `spans=False`.

    Args:
        tracer_provider, meter_provider: Those of the process if not given, as they are when a call is made.
        spans: Make a span for a call that has none. Without that, only spans of others get what is known here.
        name: Of the sink. It keeps no place.

    Raises:
        ConfigError: `opentelemetry-api` is not installed.
    """

    watches = True

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        spans: bool = True,
        name: str = "otel",
    ):
        need("opentelemetry", "otel")
        from opentelemetry import metrics, trace

        self.name, self._spans, self._trace = check_name(name), spans, trace
        self._tracer = trace.get_tracer("budget", tracer_provider=tracer_provider)
        meter = metrics.get_meter("budget", meter_provider=meter_provider)

        def histogram(name: str, unit: str, text: str, bounds: tuple[float, ...]) -> Any:
            return meter.create_histogram(name, unit, text, explicit_bucket_boundaries_advisory=bounds)

        self.tokens = histogram("gen_ai.client.token.usage", "{token}", "Tokens of a call", _TOKENS)
        self.seconds = histogram("gen_ai.client.operation.duration", "s", "Time of a call", _SECONDS)
        self.usd = histogram("budget.client.operation.cost", "{USD}", "Cost of a call", _USD)

    @classmethod
    def of(cls, spec: Spec) -> OpenTelemetry:
        """Make one of text: "otel:" or "otel:?spans=no".

        Raises:
            ConfigError: The text means nothing.
        """
        spans = spec.take("spans", "yes")
        if spec.target or spans not in ("yes", "no"):
            raise ConfigError("sinks: OpenTelemetry is written as otel: or otel:?spans=no; where to, its SDK is told")
        made = cls(spans=spans == "yes", name=spec.name())
        spec.done()
        return made

    def attach(self, engine: Engine) -> None:
        """Watch the calls of an engine."""
        engine.watcher = self

    def write(self, batch: Batch) -> None:
        """Nothing comes from the ledger."""

    def close(self) -> None:
        """There is nothing to let go of: providers are their owner's."""

    def began(self, ask: Ask, stored: Reservation) -> Watched | None:
        """Take note that money was set aside for a call; None if what was reserved for is not a call of a model."""
        if ask.estimate is None:
            return None
        span, own = self._trace.get_current_span(), False
        if not _is_of_a_call(span):
            own = self._spans
            span = self._own_span(ask) if own else self._trace.INVALID_SPAN
        return Watched(self, span, own, _about(ask), stored)

    def refused(self, ask: Ask, error: BaseException) -> None:
        """Add to the current span that a call was refused, and by what."""
        span = self._trace.get_current_span()
        if isinstance(error, BudgetExceeded) and span.is_recording():
            told = {"error.type": type(error).__name__, **({"budget.limit": str(error.limit)} if error.limit else {})}
            span.add_event("budget.refused", {**_about(ask), **told})

    def _own_span(self, ask: Ask) -> Span:
        about = _about(ask)
        name = f"{about['gen_ai.operation.name']} {about['gen_ai.request.model']}"
        return self._tracer.start_span(name, kind=self._trace.SpanKind.CLIENT, attributes=about)

    def failed(self, span: Span, cause: str) -> None:
        """Mark a span that was made here as one of a call that failed."""
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, cause))


class Watched:
    """One call between its reservation and its end."""

    __slots__ = ("_about", "_began", "_otel", "_own", "_reservation", "_span")

    def __init__(self, otel: OpenTelemetry, span: Span, own: bool, about: dict[str, str], stored: Reservation):
        self._otel, self._own, self._about, self._reservation = otel, own, about, stored
        self._span: Span | None = span
        self._began = monotonic()
        span.set_attributes({"budget.call.id": stored.id, "budget.reserved.usd": (stored.amounts[0] or 0) / 1e9})

    def ended(self, amounts: Amounts | None, detail: Mapping[str, Any], refund: bool) -> None:
        """Say what became of it, once: later ends of the same call say nothing.

        Args:
            amounts: What it was charged, per unit; None figures mean what was reserved.
            detail: What the ledger keeps of the end.
            refund: It was charged nothing.
        """
        span, self._span = self._span, None
        if span is None:
            return
        told = detail.get("latency_ms")
        seconds = monotonic() - self._began if told is None else told / 1000
        nanos = 0 if refund else _first(amounts, self._reservation.amounts)
        usage, cause = _usage(detail), detail.get("outcome", "ok")
        model = {"gen_ai.response.model": str(detail["model"])} if usage and detail.get("model") else {}
        span.set_attributes({
            "budget.cost.usd": nanos / 1e9, "budget.cost.estimated": not refund and bool(detail.get("estimated")),
            "budget.outcome": cause,
        })  # fmt: skip
        known: dict[str, int | str] = {**usage, **model}
        for name, value in known.items():
            if self._own or name not in (getattr(span, "attributes", None) or {}):
                span.set_attribute(name, value)
        if self._own:
            self._end_own(span, cause, detail)
        self._otel.usd.record(nanos / 1e9, {**self._about, **model})
        if self._own or not span.get_span_context().is_valid:  # else the other instrumentation counts them
            self._measure(seconds, usage, model, cause)

    def _end_own(self, span: Span, cause: str, detail: Mapping[str, Any]) -> None:
        if (first := detail.get("first_token_ms")) is not None:
            span.set_attribute("gen_ai.response.time_to_first_chunk", first / 1000)
        if cause != "ok":
            span.set_attribute("error.type", cause)
            self._otel.failed(span, cause)
        span.end()

    def _measure(self, seconds: float, usage: Mapping[str, int], model: Mapping[str, str], cause: str) -> None:
        about = {**self._about, **model}
        self._otel.seconds.record(seconds, {**about, **({} if cause == "ok" else {"error.type": cause})})
        for kind in ("input", "output"):
            if (count := usage.get(f"gen_ai.usage.{kind}_tokens")) is not None:
                self._otel.tokens.record(count, {**about, "gen_ai.token.type": kind})


def _about(ask: Ask) -> dict[str, str]:
    """Return what is known before the call; the scope's attributes but for agent and session stay here."""
    scope, estimate = ask.scope, ask.estimate
    provider = scope.get("provider", "")
    operation = "generate_content" if provider in ("google", "google-vertex") else "chat"
    if estimate is not None and estimate.output_tokens_max == 0:
        operation = "embeddings"
    known = {
        "gen_ai.operation.name": operation, "gen_ai.provider.name": _PROVIDERS.get(provider, provider),
        "gen_ai.request.model": scope.get("model", ""), "gen_ai.agent.name": scope.get("agent", ""),
    }  # fmt: skip
    return {name: value for name, value in known.items() if value}


def _is_of_a_call(span: Span) -> bool:
    """Whether somebody made this span for one call of a model, and it has none of ours yet."""
    if not span.is_recording():
        return False
    attributes: Mapping[str, Any] = getattr(span, "attributes", None) or {}
    if "budget.call.id" in attributes:
        return False
    operation = attributes.get("gen_ai.operation.name")
    if operation is not None:
        return operation in _CALLS
    older = ("gen_ai.request.model", "gen_ai.system")  # of instrumentations before the operation had a name
    return any(name in attributes for name in older) or attributes.get("openinference.span.kind") == "LLM"


def _usage(detail: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that the provider said were used; nothing where it did not."""
    usage = detail.get("usage")
    if usage is None:
        return {}
    read, written = usage.get("cache_read", 0), sum(usage.get("cache_write", {}).values())
    found = {
        "gen_ai.usage.input_tokens": usage.get("input", 0) + read + written,
        "gen_ai.usage.output_tokens": usage.get("output", 0),
    }
    more = {
        "gen_ai.usage.cache_read.input_tokens": read, "gen_ai.usage.cache_creation.input_tokens": written,
        "gen_ai.usage.reasoning.output_tokens": usage.get("reasoning", 0),
    }  # fmt: skip
    return {**found, **{name: count for name, count in more.items() if count}}


def _first(amounts: Amounts | None, reserved: Amounts) -> int:
    nanos = amounts[0] if amounts is not None else None
    return (reserved[0] or 0) if nanos is None else nanos
