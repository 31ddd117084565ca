"""The OpenTelemetry sink: every guarded call has exactly one span, its own or the one that is already there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import APIStatusError, AsyncOpenAI, OpenAI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.trace import SpanKind, StatusCode, Tracer

from budget.demo.provider import Provider
from budget.engine import Budget
from budget.errors import BudgetExceeded, ConfigError
from budget.sinks import make_sink
from budget.sinks.otel import OpenTelemetry

SECRET = "the secret words of a prompt"
MESSAGES = [{"role": "user", "content": SECRET}]
BODY: dict[str, Any] = {"model": "gpt-5-mini", "messages": MESSAGES, "max_completion_tokens": 50}
CLAUDE: dict[str, Any] = {"model": "claude-haiku-4-5", "messages": MESSAGES, "max_tokens": 50}


class Traces:
    """Spans and metrics of one test."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.provider, self.meters = TracerProvider(), MeterProvider([self.reader])
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer: Tracer = self.provider.get_tracer("another instrumentation")

    def sink(self, **options: Any) -> OpenTelemetry:
        return OpenTelemetry(tracer_provider=self.provider, meter_provider=self.meters, **options)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        metrics = (one for each in data.resource_metrics for scope in each.scope_metrics for one in scope.metrics)
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def traces() -> Traces:
    return Traces()


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as made:
        yield made


@pytest.fixture
def budget(traces: Traces, make_budget: Callable[..., Budget]) -> Budget:
    return make_budget("memory://", sinks=[traces.sink()])


def ended(budget: Budget) -> Any:
    return [entry for entry in budget.entries() if entry.kind == "reconciled"]


@pytest.fixture
def openai(provider: Provider) -> Iterator[Callable[[Budget], OpenAI]]:
    """Make guarded clients of the provider, which are closed when the test ends."""
    with OpenAI(base_url=f"{provider.url}/v1", api_key="demo", max_retries=0) as client:
        yield lambda budget: budget.wrap(client)


@pytest.fixture
def claude(provider: Provider) -> Iterator[Callable[[Budget], Anthropic]]:
    with Anthropic(base_url=provider.url, api_key="demo", max_retries=0) as client:
        yield lambda budget: budget.wrap(client)


def test_a_call_without_a_span_gets_one(
    budget: Budget, provider: Provider, traces: Traces, openai: Callable[[Budget], OpenAI]
) -> None:
    with budget.run(agent="support", user="alice"), traces.tracer.start_as_current_span("GET /answer"):
        openai(budget).chat.completions.create(**BODY)
    span, request = traces.spans()
    assert request.name == "GET /answer"
    assert not [name for name in request.attributes or {} if name.startswith(("budget.", "gen_ai."))]
    assert span.parent is not None
    assert span.parent.span_id == request.get_span_context().span_id
    (entry,) = ended(budget)
    usage = entry.detail["usage"]
    assert (span.name, span.kind) == ("chat gpt-5-mini", SpanKind.CLIENT)
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.response.model": entry.model, "gen_ai.agent.name": "support", "budget.call.id": entry.reservation,
        "gen_ai.usage.input_tokens": usage.get("input", 0) + usage.get("cache_read", 0),
        "gen_ai.usage.output_tokens": usage["output"], "budget.cost.usd": entry.amounts[0] / 1e9,
        "budget.cost.estimated": False, "budget.outcome": "ok",
    }  # fmt: skip
    assert expected.items() <= dict(span.attributes or {}).items()
    assert span.attributes is not None
    assert span.attributes["budget.reserved.usd"] >= span.attributes["budget.cost.usd"]
    assert "alice" not in span.to_json()


@pytest.mark.parametrize("stream", [False, True])
def test_the_span_of_another_instrumentation_is_enriched_and_none_is_made(
    budget: Budget, traces: Traces, stream: bool, openai: Callable[[Budget], OpenAI]
) -> None:
    client = openai(budget)
    about = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5-mini", "gen_ai.usage.output_tokens": 7}
    with traces.tracer.start_as_current_span("chat gpt-5-mini", attributes=about):
        answer = client.chat.completions.create(**BODY, stream=stream)
        if stream:
            list(answer)
    (span,) = traces.spans()
    (entry,) = ended(budget)
    assert span.attributes is not None
    assert span.attributes["budget.cost.usd"] == entry.amounts[0] / 1e9
    assert span.attributes["gen_ai.usage.output_tokens"] == 7  # what somebody said before us stands
    assert span.attributes["gen_ai.usage.input_tokens"] > 0
    assert traces.points("gen_ai.client.token.usage") == []  # the other one counts them
    assert [point.count for point in traces.points("budget.client.operation.cost")] == [1]


def test_spans_of_agents_and_tools_are_not_those_of_a_call(
    budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI]
) -> None:
    client = openai(budget)
    with traces.tracer.start_as_current_span("agent", attributes={"gen_ai.operation.name": "invoke_agent"}):
        client.chat.completions.create(**BODY)
        client.chat.completions.create(**BODY)
    one, two, agent = traces.spans()
    assert (one.name, two.name, agent.name) == ("chat gpt-5-mini", "chat gpt-5-mini", "agent")
    assert "budget.cost.usd" not in (agent.attributes or {})


def test_a_span_is_given_one_call(budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI]) -> None:
    client = openai(budget)
    with traces.tracer.start_as_current_span("loop", attributes={"gen_ai.request.model": "gpt-5-mini"}):
        client.chat.completions.create(**BODY)
        client.chat.completions.create(**BODY)
    ids = [(span.attributes or {})["budget.call.id"] for span in traces.spans()]
    assert len(set(ids)) == len(ids) == 2


def test_without_spans_of_its_own(
    traces: Traces, make_budget: Callable[..., Budget], openai: Callable[[Budget], OpenAI]
) -> None:
    budget = make_budget("memory://", sinks=[traces.sink(spans=False)])
    openai(budget).chat.completions.create(**BODY)
    assert traces.spans() == []
    assert [point.count for point in traces.points("gen_ai.client.operation.duration")] == [1]


def test_async_and_another_provider(
    budget: Budget, provider: Provider, traces: Traces, claude: Callable[[Budget], Anthropic]
) -> None:
    async def ask() -> None:
        client = budget.wrap(AsyncOpenAI(base_url=f"{provider.url}/v1", api_key="demo", max_retries=0))
        await asyncio.gather(*(client.chat.completions.create(**BODY) for _ in range(3)))
        await client.close()

    asyncio.run(ask())
    claude(budget).messages.create(**CLAUDE)
    found = [(span.attributes or {})["gen_ai.provider.name"] for span in traces.spans()]
    assert found == ["openai"] * 3 + ["anthropic"]


def test_a_stream_says_when_it_began_and_is_ended_when_it_is_dropped(
    budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI]
) -> None:
    client = openai(budget)
    list(client.chat.completions.create(**BODY, stream=True))
    stream = client.chat.completions.create(**BODY, stream=True)
    next(iter(stream))
    stream.close()
    whole, cut = traces.spans()
    assert "gen_ai.response.time_to_first_chunk" in (whole.attributes or {})
    assert (cut.attributes or {})["budget.outcome"] == "cut short"


def test_a_call_that_failed(budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI]) -> None:
    client = openai(budget)
    headers = {"x-demo": "status=500"}
    with pytest.raises(APIStatusError):
        client.chat.completions.create(**BODY, extra_headers=headers)
    (span,) = traces.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == "InternalServerError"
    assert (span.attributes or {})["budget.cost.usd"] == 0


def test_a_refusal_is_an_event_of_the_current_span(
    traces: Traces, make_budget: Callable[..., Budget], openai: Callable[[Budget], OpenAI]
) -> None:
    budget = make_budget("memory://", sinks=[traces.sink()], limits=["$0.000001/day"])
    with traces.tracer.start_as_current_span("GET /answer"), pytest.raises(BudgetExceeded):
        openai(budget).chat.completions.create(**BODY)
    (span,) = traces.spans()
    (event,) = [event for event in span.events if event.name == "budget.refused"]
    told = event.attributes or {}
    assert (told["budget.limit"], told["error.type"]) == ("$0.000001/day", "BudgetExceeded")


def test_by_hand(budget: Budget, traces: Traces) -> None:
    with budget.reservation(**BODY) as guard:
        guard.reconcile(usd="0.01")
    with budget.reservation(**BODY) as guard:
        guard.refund()
    with budget.reservation("$0.10"):  # of no model: no call of one
        pass
    costs = [(span.attributes or {})["budget.cost.usd"] for span in traces.spans()]
    assert costs == [0.01, 0]


def test_an_end_is_told_once(budget: Budget, traces: Traces) -> None:
    with budget.reservation(**BODY) as guard:
        guard.reconcile(usd="0.01")
        guard.reconcile(usd="0.01")  # a repeat is the same end
    assert [point.count for point in traces.points("budget.client.operation.cost")] == [1]


def test_metrics(budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI]) -> None:
    openai(budget).chat.completions.create(**BODY)
    (entry,) = ended(budget)
    tokens = {point.attributes["gen_ai.token.type"]: point.sum for point in traces.points("gen_ai.client.token.usage")}
    assert tokens == {"input": entry.detail["usage"]["input"], "output": entry.detail["usage"]["output"]}
    (cost,) = traces.points("budget.client.operation.cost")
    assert cost.sum == pytest.approx(entry.amounts[0] / 1e9)
    (seconds,) = traces.points("gen_ai.client.operation.duration")
    assert seconds.attributes["gen_ai.response.model"] == entry.model


def test_names_are_those_of_the_conventions(
    budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI], claude: Callable[[Budget], Anthropic]
) -> None:
    client = openai(budget)
    list(client.chat.completions.create(**BODY, stream=True))
    claude(budget).messages.create(**CLAUDE)
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    used = {name for span in traces.spans() for name in span.attributes or {} if name.startswith("gen_ai.")}
    assert len(used) > 6
    assert used <= known
    names = {value.value for value in gen_ai_attributes.GenAiProviderNameValues}
    assert {(span.attributes or {})["gen_ai.provider.name"] for span in traces.spans()} <= names
    operations = {value.value for value in gen_ai_attributes.GenAiOperationNameValues}
    assert {(span.attributes or {})["gen_ai.operation.name"] for span in traces.spans()} <= operations
    assert gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE == "gen_ai.client.token.usage"
    assert gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION == "gen_ai.client.operation.duration"


def test_no_text_of_a_request(budget: Budget, traces: Traces, openai: Callable[[Budget], OpenAI]) -> None:
    openai(budget).chat.completions.create(**BODY)
    (span,) = traces.spans()
    assert SECRET not in span.to_json()


def test_a_tracer_that_fails_breaks_no_call(
    traces: Traces, provider: Provider, make_budget: Callable[..., Budget], openai: Callable[[Budget], OpenAI]
) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("of the exporter")

    traces.provider.add_span_processor(Broken())
    budget = make_budget("memory://", sinks=[traces.sink()])
    openai(budget).chat.completions.create(**BODY)
    assert len(ended(budget)) == 1


def test_nothing_is_told_it_from_the_ledger(budget: Budget) -> None:
    assert budget._sinks is not None
    assert budget._sinks.sinks == []


def test_as_text() -> None:
    made = make_sink("otel:?spans=no")
    assert isinstance(made, OpenTelemetry)
    assert not made._spans


@pytest.mark.parametrize("text", ["otel:http://collector:4317", "otel:?spans=maybe", "otel:?to=here"])
def test_what_it_would_ignore_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="otel"):
        make_sink(text)
