"""Bedrock bodies: Converse whatever model is behind it, Nova's InvokeModel, and the bound against recorded truth."""

from __future__ import annotations

import base64
import gzip
import json
import os
import statistics
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budget import Budget
from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator import VOCABULARIES, Measure, measure
from budget.estimator.constants import rates
from budget.estimator.tokens import count

DATA = Path(os.environ.get("BUDGET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CANARY = "canary-7f3a"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 520, 260) + b"\x08\x06\0\0\0"
PDF = b"%PDF-1.4\n1 0 obj <</Type /Page>> endobj"
SPEC = {"name": "f", "description": "finds", "inputSchema": {"json": {"type": "object", "properties": {}}}}
S3 = {"s3Location": {"uri": "s3://bucket/file"}}


def of(body: dict[str, Any], endpoint: str = "converse", family: str = "nova") -> Measure:
    return measure(body, provider="aws-bedrock", endpoint=endpoint, vocabulary=VOCABULARIES[family])


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [{"text": block} if isinstance(block, str) else block for block in blocks]}


def asked(*blocks: Any, **fields: Any) -> Measure:
    return of({"messages": [said(*blocks)], **fields})


def text(*texts: str) -> int:
    return sum(count(one, VOCABULARIES["nova"]) for one in texts)


def test_a_whole_conversation_is_counted() -> None:
    found = of({
        "modelId": "us.amazon.nova-micro-v1:0",
        "messages": [
            said("What is the time?", {"cachePoint": {"type": "default"}}),
            said(
                {"reasoningContent": {"reasoningText": {"text": "Look.", "signature": "c2ln"}}},
                {"toolUse": {"toolUseId": "t1", "name": "f", "input": {"zone": "UTC"}}},
                role="assistant",
            ),
            said({"toolResult": {
                "toolUseId": "t1", "status": "success", "content": [{"json": {"time": "noon"}}, {"text": "sunny"}],
            }}),
            said({"guardContent": {"text": {"text": "Thanks", "qualifiers": ["query"]}}}),
        ],
        "system": [{"text": "Be brief."}, {"cachePoint": {"type": "default", "ttl": "1h"}}],
        "inferenceConfig": {"maxTokens": 77, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "toolConfig": {"tools": [{"toolSpec": SPEC}, {"cachePoint": {"type": "default"}}], "toolChoice": {"auto": {}}},
        "serviceTier": {"type": "flex"},
        "requestMetadata": {"team": "a"},
        "performanceConfig": {"latency": "standard"},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
        "additionalModelRequestFields": {"inferenceConfig": {"topK": 20}},
    })  # fmt: skip
    assert found.reasons == ()
    strings = ["What is the time?", "Look.", "c2ln", "f", '{"zone":"UTC"}', '{"time":"noon"}', "sunny", "Thanks"]
    assert found.base_tokens == text(*strings, "Be brief.", '{"auto":{}}')
    assert (found.tools, found.tool_tokens) == (1, text(json.dumps(SPEC, separators=(",", ":"))))
    assert (found.messages, found.blocks, found.cache_ttls) == (5, 2, {"5m", "1h"})
    assert (found.output_max, found.traits, found.thinking) == (77, {"service_tier": "flex"}, False)


def test_the_bound_is_that_of_the_model_behind_it() -> None:
    found = asked("one two three", toolConfig={"tools": [{"toolSpec": SPEC}]})
    tools = text(json.dumps(SPEC, separators=(",", ":")))
    for family, model in (("mistral", "mistral.mistral-large-3-675b-instruct"), ("nova", "nova-micro")):
        most = rates(family, model)[0]
        counted = -(-(most.text * text("one two three") + most.json * tools) // 100)
        expected = counted + most.frame + most.message + most.part + most.tool_prompt + most.tool
        assert found.bound(family, model) == expected
    assert found.bound("nova", "us.amazon.nova-2-lite-v1:0") >= found.bound("nova", "nova-micro") + 500


def test_documents_given_as_text_are_counted_and_pages_and_pixels_read() -> None:
    cited = {"enabled": True}
    found = asked(
        {"document": {"format": "txt", "name": "a", "source": {"bytes": base64.b64encode(b"one two").decode()}}},
        {"document": {"format": "md", "name": "b", "source": {"bytes": b"three four"}, "citations": cited}},
        {"document": {"format": "txt", "name": "c", "source": {"text": "five"}, "context": "six"}},
        {"document": {"format": "txt", "name": "d", "source": {"content": [{"text": "seven"}]}}},
        {"searchResult": {"source": "web", "title": "t", "content": [{"text": "eight"}], "citations": cited}},
        {"document": {"format": "pdf", "name": "e", "source": {"bytes": PDF}}},
        {"image": {"format": "png", "source": {"bytes": PNG}}},
    )
    assert found.reasons == ()
    strings = ["a", "one two", "b", "three four", "c", "five", "six", "d", "seven", "web", "t", "eight", "e"]
    assert found.base_tokens == text(*strings)
    assert (found.documents, found.citations) == (6, True)
    assert [(one.kind, one.pages, one.width, one.height) for one in found.media] == [
        ("pdf", 1, 0, 0), ("image", 0, 520, 260),
    ]  # fmt: skip
    inside = {"toolResult": {"toolUseId": "t", "content": [{"image": {"format": "png", "source": {"bytes": PNG}}}]}}
    assert len(asked(inside).media) == 1


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"guardrailConfig": {"guardrailIdentifier": "g"}}, "guardrailConfig"),
        ({"promptVariables": {"a": {"text": "b"}}}, "promptVariables"),
        ({"performanceConfig": {"latency": "optimized"}}, "performanceConfig.latency"),
        ({"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}}, "toolConfig.tools[0].systemTool"),
        ({"additionalModelRequestFields": {"tools": []}}, "additionalModelRequestFields.tools"),
        ({"inferenceConfig": {"numberOfAnswers": 3}}, "inferenceConfig.numberOfAnswers"),
        ({"somethingNew": 1}, "somethingNew"),
        ({"messages": [said({"image": {"format": "png", "source": S3}})]}, "messages[0].content[0].image.source"),
        ({"messages": [said({"video": {"format": "mp4", "source": S3}})]}, "messages[0].content[0].video.source"),
        (
            {"messages": [said({"document": {"format": "pdf", "name": "a", "source": S3}})]},
            "messages[0].content[0].document.source.s3Location",
        ),
        (
            {"messages": [said({"document": {"format": "docx", "name": "a", "source": {"bytes": b"PK"}}})]},
            "messages[0].content[0].document.source.bytes",
        ),
        ({"messages": [said({"toolAddition": {"tool": {}}})]}, "messages[0].content[0].toolAddition"),
        (
            {"messages": [said({"toolUse": {"name": "f", "input": {}, "type": "server_tool_use"}})]},
            "messages[0].content[0].toolUse.type",
        ),
        ({"messages": [said({"cachePoint": {"ttl": "9y"}})]}, "messages[0].content[0].cachePoint"),
        ({"messages": [said("a", role="oracle")]}, "messages[0]"),
        ({"system": [{"image": {}}]}, "system[0].image"),
    ],
)
def test_what_has_no_bound_is_named_and_never_quoted(fields: dict[str, Any], place: str) -> None:
    found = of({"messages": [said(CANARY)], **fields})
    assert any(reason.startswith(f"{place}: ") for reason in found.reasons), found.reasons
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": [{"content": []}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "messages[0].content"),
        ({"messages": [said({"text": 5})]}, "messages[0].content[0].text"),
        ({"messages": [said("a")], "system": "be brief"}, "system"),
        ({"messages": [said("a")], "inferenceConfig": {"maxTokens": 0}}, "inferenceConfig.maxTokens"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(body: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(body)
    assert str(caught.value).startswith(f"{place}: ")


def test_what_is_not_json_is_refused_by_type() -> None:
    with pytest.raises(ArgumentTypeError, match=r"messages\[0\].content"):
        of({"messages": [{"role": "user", "content": iter(())}]})
    with pytest.raises(ArgumentTypeError, match="maxTokens"):
        asked("a", inferenceConfig={"maxTokens": "10"})


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"reasoningConfig": {"type": "enabled", "maxReasoningEffort": "low"}}, True),
    ],
)
def test_who_thinks(fields: dict[str, Any], thinks: bool) -> None:
    assert asked("a", additionalModelRequestFields=fields).thinking is thinks


def test_an_output_schema_is_counted() -> None:
    form = {"type": "json_schema", "structure": {"jsonSchema": {"name": "n", "schema": '{"type":"object"}'}}}
    found = asked("a", outputConfig={"textFormat": form, "effort": "low"})
    assert (found.schema_tokens, found.reasons) == (text(json.dumps(form, separators=(",", ":"))), ())


def test_bodies_of_invoke_model_are_taken() -> None:
    nova = of({
        "schemaVersion": "messages-v1",
        "messages": [said("hi")],
        "inferenceConfig": {"max_new_tokens": 50, "topK": 20, "topP": 0.9},
    })  # fmt: skip
    assert (nova.reasons, nova.output_max, nova.base_tokens) == ((), 50, text("hi"))
    claude = of(
        {
            "anthropic_version": "bedrock-2023-05-31",
            "anthropic_beta": ["context-1m-2025-08-07"],
            "max_tokens": 60,
            "stop_sequences": ["END"],
            "top_k": 5,
            "messages": [{"role": "user", "content": "hi"}],
        },
        "messages",
    )
    assert (claude.reasons, claude.output_max, claude.base_tokens) == ((), 60, text("hi"))
    titan = of({"inputText": "one two", "dimensions": 256, "normalize": True}, "embeddings")
    assert (titan.reasons, titan.base_tokens, titan.output_max) == ((), text("one two") + 2, 0)


def test_an_estimate_takes_model_and_endpoint_from_the_body() -> None:
    budget = Budget("memory://", prices={"my-nova": {
        "input": "1", "output": "2", "tokenizer": "nova", "provider": "aws-bedrock", "max_output": 5000,
    }})  # fmt: skip
    estimate = budget.estimate({"modelId": "my-nova", "messages": [said("hi")]})
    assert estimate.measure is not None
    assert (estimate.closed, estimate.output_tokens_max) == (True, 5000)
    assert estimate.input_tokens_max == estimate.measure.bound("nova", "my-nova")


FAMILIES = (
    ("claude", "claude-1"), ("nova", "nova"), ("titan", "nova"), ("llama", "llama"), ("mistral", "mistral"),
    ("qwen", "qwen"), ("gpt-oss", "o200k"),
)  # fmt: skip


def recorded() -> Iterator[tuple[dict[str, Any], str, int]]:
    path = DATA / "recorded_usage.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no recorded usage at {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["provider"] == "aws-bedrock" and row["endpoint"].startswith("converse"):
                usage = row["usage"]
                cached = [usage.get(f"cache{kind}InputTokens") or 0 for kind in ("Read", "Write")]
                yield row["request"], row["request_model"], usage["inputTokens"] + sum(cached)


def test_recorded_requests_are_covered() -> None:
    slacks, rows, missed = [], 0, []
    for body, model, tokens in recorded():
        rows += 1
        family = next((family for word, family in FAMILIES if word in model), "other")
        found = of(body, family=family)
        if found.open(family, model):
            continue
        if found.bound(family, model) < tokens:
            missed.append((model, tokens, found))
        assert found.expected(family, model) <= found.bound(family, model)
        slacks += [found.bound(family, model) / tokens] if tokens > 300 and not found.media else []
    assert rows > 100
    assert missed == []
    assert len(slacks) > 50
    assert statistics.median(slacks) <= 1.6
