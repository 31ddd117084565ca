"""Gemini bodies: what is counted, what is closed and what is open, media, and the bound against recorded truth."""

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
PNG = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">II", 1000, 700) + b"\x08\x06\0\0\0"
PDF = b"%PDF-1.4\n1 0 obj <</Type /Page>> endobj\n2 0 obj <</Type /Page>> endobj"
FUNCTION = {"name": "f", "description": "finds", "parameters": {"type": "OBJECT", "properties": {}}}


def of(body: dict[str, Any], provider: str = "google", endpoint: str = "generateContent") -> Measure:
    return measure(body, provider=provider, endpoint=endpoint, vocabulary=VOCABULARIES["gemini"])


def said(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}


def asked(*parts: Any, **fields: Any) -> Measure:
    return of({"contents": [said(*parts)], **fields})


def inline(mime: str, data: bytes, **beside: Any) -> dict[str, Any]:
    return {"inlineData": {"mimeType": mime, "data": base64.b64encode(data).decode()}, **beside}


def text(*texts: str) -> int:
    return sum(count(one, VOCABULARIES["gemini"]) for one in texts)


def test_a_whole_conversation_is_counted() -> None:
    found = of({
        "contents": [
            said("What is the time?"),
            said({"functionCall": {"id": "c1", "name": "f", "args": {"zone": "UTC"}}, "thoughtSignature": "x" * 40}),
            said({"functionResponse": {"id": "c1", "name": "f", "response": {"time": "noon"}}}),
            said("It is ", "noon.", role="model"),
        ],
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "tools": [{"functionDeclarations": [FUNCTION]}],
        "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
        "generationConfig": {
            "maxOutputTokens": 77, "candidateCount": 2, "temperature": 0.5, "topK": 3, "stopSequences": ["END"],
            "responseMimeType": "application/json", "responseSchema": {"type": "OBJECT"},
        },
        "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
        "labels": {"team": "a"},
        "serviceTier": "flex",
    })  # fmt: skip
    assert found.reasons == ()
    strings = ["What is the time?", "f", '{"zone":"UTC"}', "f", '{"time":"noon"}', "It is ", "noon.", "Be brief."]
    assert found.base_tokens == text(*strings, '{"mode":"AUTO"}')
    declared = json.dumps(FUNCTION, separators=(",", ":"))
    assert (found.tool_tokens, found.tools) == (text(declared), 1)
    assert found.schema_tokens == text('{"type":"OBJECT"}')
    assert (found.messages, found.parts, found.blocks, found.sealed_chars) == (5, 6, 2, 40)
    assert (found.output_max, found.choices, found.traits) == (77, 2, {"service_tier": "flex"})


def test_the_bound_is_the_sum_of_its_figures() -> None:
    found = asked("one two three", {"text": "", "thoughtSignature": "s" * 100})
    bound, expected = rates("gemini")
    most = -(-(bound.text * text("one two three") + bound.sealed * 100) // 100)
    assert found.bound("gemini") == most + bound.frame + bound.message + 2 * bound.part
    least = -(-(expected.text * text("one two three") + expected.sealed * 100) // 100)
    assert found.expected("gemini") == least + expected.frame + expected.message


def test_names_in_snake_case_and_single_objects_are_taken_as_the_api_takes_them() -> None:
    camel = of({
        "contents": [said({"functionCall": {"name": "f", "args": {"a_b": 1}}, "thoughtSignature": "abc"})],
        "systemInstruction": said("hi"),
        "tools": [{"functionDeclarations": [FUNCTION]}],
        "generationConfig": {"maxOutputTokens": 5},
    })  # fmt: skip
    snake = of({
        "contents": said({"function_call": {"name": "f", "args": {"a_b": 1}}, "thought_signature": "abc"}),
        "system_instruction": said("hi"),
        "tools": {"function_declarations": [FUNCTION]},
        "generation_config": {"max_output_tokens": 5},
    })  # fmt: skip
    assert snake == camel
    assert camel.reasons == ()


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"tools": [{"urlContext": {}}]}, "tools[0].urlContext"),
        ({"tools": [{"codeExecution": {}}]}, "tools[0].codeExecution"),
        ({"tools": [{"fileSearch": {"fileSearchStoreNames": ["s"]}}]}, "tools[0].fileSearch"),
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"somethingNew": {"a": 1}}, "somethingNew"),
        ({"generationConfig": {"somethingNew": 1}}, "generationConfig.somethingNew"),
        ({"generationConfig": {"responseModalities": ["SMELL"]}}, "generationConfig.responseModalities[0]"),
        ({"generationConfig": {"routingConfig": {"autoMode": {}}}}, "generationConfig.routingConfig"),
        ({"contents": [said({"fileData": {"fileUri": "gs://b/o"}})]}, "contents[0].parts[0].fileData"),
        ({"contents": [said({"toolCall": {"id": "1"}})]}, "contents[0].parts[0].toolCall"),
        ({"contents": [said(inline("application/zip", b"PK"))]}, "contents[0].parts[0].inlineData"),
        ({"contents": [said(inline("audio/mpeg", b"no sound"))]}, "contents[0].parts[0].inlineData"),
        ({"contents": [said("a", role="oracle")]}, "contents[0]"),
        (
            {"contents": [said(inline("video/mp4", b"", videoMetadata={"fps": 24}))]},
            "contents[0].parts[0].inlineData.videoMetadata.fps",
        ),
    ],
)
def test_what_has_no_bound_is_named_and_never_quoted(fields: dict[str, Any], place: str) -> None:
    found = of({"contents": [said(CANARY)], **fields})
    assert any(reason.startswith(f"{place}: ") for reason in found.reasons), found.reasons
    assert CANARY not in repr(found)


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "contents"),
        ({"contents": "hello"}, "contents"),
        ({"contents": [{"role": "user"}]}, "contents[0].parts"),
        ({"contents": [said("a")], "systemInstruction": "be brief"}, "systemInstruction"),
        ({"contents": [said("a")], "tools": ["f"]}, "tools[0]"),
        ({"contents": [said("a")], "generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"contents": [said({"functionCall": "f"})]}, "contents[0].parts[0].functionCall"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(body: dict[str, Any], place: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(body)
    assert str(caught.value).startswith(f"{place}: ")


def test_what_is_not_json_is_refused_by_type() -> None:
    with pytest.raises(ArgumentTypeError, match=r"contents\[0\].parts"):
        of({"contents": [{"parts": (part for part in ())}]})
    with pytest.raises(ArgumentTypeError, match="maxOutputTokens"):
        asked("a", generationConfig={"maxOutputTokens": 1.5})


@pytest.mark.parametrize(
    ("model", "config", "least", "most"),
    [
        ("gemini-2.0-flash", {}, 258 * 7, 258 * 10),  # 3 x 2 crops of 466 pixels, and one of the whole
        ("gemini-3-pro-preview", {}, 1120, 1150),
        ("gemini-3-pro-preview", {"mediaResolution": "MEDIA_RESOLUTION_LOW"}, 280, 300),
        ("gemini-3-pro-preview", {"mediaResolution": "MEDIA_RESOLUTION_UNSPECIFIED"}, 1120, 1150),
    ],
)
def test_an_image_costs_what_its_model_and_resolution_say(
    model: str, config: dict[str, Any], least: int, most: int
) -> None:
    image = asked(inline("image/png", PNG), generationConfig=config)
    assert image.open("gemini", model) == ()
    without = asked("", generationConfig=config).bound("gemini", model)
    assert least <= image.bound("gemini", model) - without <= most + 2


def test_the_resolution_of_a_part_holds_over_that_of_the_request() -> None:
    part = inline("image/png", PNG, mediaResolution={"level": "MEDIA_RESOLUTION_ULTRA_HIGH"})
    found = asked(part, generationConfig={"mediaResolution": "MEDIA_RESOLUTION_LOW"})
    assert [one.detail for one in found.media] == ["ultra_high"]
    assert found.bound("gemini", "gemini-3-pro") >= 2240


def test_pages_are_counted_and_a_text_file_is_text() -> None:
    pages = asked(inline("application/pdf", PDF))
    assert [one.pages for one in pages.media] == [2]
    assert asked(inline("text/plain", b"one two three")).base_tokens == text("one two three")
    inside = {"functionResponse": {"name": "f", "response": {}, "parts": [inline("image/png", PNG)]}}
    assert [(one.width, one.height) for one in asked(inside).media] == [(1000, 700)]


def test_what_the_answer_may_hold_is_said() -> None:
    assert asked("a", generationConfig={"responseModalities": ["TEXT", "IMAGE"]}).makes == {"image"}
    assert asked("a", model="gemini-2.5-flash-image").makes == {"image"}
    assert asked("a", generationConfig={"speechConfig": {"languageCode": "de"}}).makes == {"audio"}


@pytest.mark.parametrize(
    ("model", "config", "thinks"),
    [
        ("gemini-2.0-flash", {}, False),
        ("gemini-2.5-flash", {}, True),
        ("gemini-2.5-flash", {"thinkingConfig": {"thinkingBudget": 0}}, False),
        ("gemini-2.0-flash", {"thinkingConfig": {"thinkingLevel": "high"}}, True),
        ("gemini-3-pro-preview", {}, True),
    ],
)
def test_who_thinks(model: str, config: dict[str, Any], thinks: bool) -> None:
    assert asked("a", model=model, generationConfig=config).thinking is thinks


@pytest.mark.parametrize(
    ("body", "counted"),
    [
        ({"content": said("one two")}, text("one two")),
        ({"requests": [{"content": said("one")}, {"content": said("two")}]}, text("one", "two")),
        ({"instances": [{"content": "one"}, {"content": "two", "title": "t"}]}, text("one", "two", "t")),
    ],
)
def test_embeddings_have_the_tokens_of_their_texts_alone(body: dict[str, Any], counted: int) -> None:
    found = of({**body, "model": "gemini-embedding-001"}, endpoint="embeddings")
    assert (found.base_tokens, found.output_max, found.reasons) == (counted, 0, ())
    assert found.bound("gemini") == -(-rates("gemini")[0].text * counted // 100)
    with pytest.raises(ConfigError, match="content: is missing"):
        of({"model": "gemini-embedding-001"}, endpoint="embeddings")


def test_an_estimate_takes_the_model_from_the_url() -> None:
    budget = Budget("memory://")
    body = {"contents": [said("What is 2 + 2?")], "generationConfig": {"maxOutputTokens": 100}}
    estimate = budget.estimate(body, model="gemini-2.5-flash", provider="google")
    assert (estimate.closed, estimate.output_tokens_max, estimate.provider) == (True, 100, "google")
    assert estimate.measure is not None
    assert estimate.input_tokens_max == estimate.measure.bound("gemini", estimate.model)
    with pytest.raises(ArgumentTypeError, match="model"):
        budget.estimate(body, provider="google")


def recorded() -> Iterator[tuple[dict[str, Any], str, str, int]]:
    path = DATA / "recorded_usage.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no recorded usage at {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["provider"] in ("google", "google-vertex") and "enerateContent" in row["endpoint"]:
                usage = row["usage"]
                tokens = usage["promptTokenCount"] + (usage.get("toolUsePromptTokenCount") or 0)
                yield row["request"], row["provider"], row["request_model"], tokens


def test_recorded_requests_are_covered() -> None:
    rows = [(of({**body, "model": model}, provider), model, tokens) for body, provider, model, tokens in recorded()]
    closed = [(found, model, tokens) for found, model, tokens in rows if not found.open("gemini", model)]
    assert len(closed) >= 0.75 * len(rows) >= 200
    assert [row for row in closed if row[0].bound("gemini", row[1]) < row[2]] == []
    assert all(found.expected("gemini", model) <= found.bound("gemini", model) for found, model, _ in closed)
    large = [(found.bound("gemini", model) / tokens, found) for found, model, tokens in closed if tokens > 300]
    assert statistics.median(slack for slack, found in large if not found.media) <= 1.6
