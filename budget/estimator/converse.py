"""Amazon Bedrock Converse, whatever model is behind it: walk a request body once, count every string, and name what
has no upper bound.

Closed are text, tools, calls and results, reasoning, documents and search results given as text, output schemas. Open,
with a reason, are Bedrock's own tools, prompts and files that are kept elsewhere (S3, prompt management), guardrails,
which are billed by text units beside the tokens, and whatever is not known here. What is open is not counted.

InvokeModel takes nearly the same body for Nova (`schemaVersion`, `max_new_tokens`, `topK`); Claude's own body there is
that of `anthropic`. The fields are those of botocore 1.44's model of bedrock-runtime (2023-09-30, read 2026-11-22);
for Nova docs.aws.amazon.com/nova/latest/userguide/complete-request-schema.html.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

from budget.errors import ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.plain import as_fields, as_items, shown
from budget.estimator.walk import Walk, read_count, read_traits

__all__ = ["FIELDS", "measure"]

# fmt: off
_FREE = frozenset({
    "model", "modelId", "additionalModelResponseFieldPaths", "requestMetadata", "schemaVersion", "stream",
})
_READ = frozenset({
    "messages", "system", "inferenceConfig", "toolConfig", "additionalModelRequestFields", "performanceConfig",
    "serviceTier", "outputConfig",
})
_OPEN = {
    "guardrailConfig": "a guardrail is billed by text units, beside the tokens",
    "promptVariables": "the prompt is kept by the server",
}
FIELDS = _FREE | _READ | _OPEN.keys()

_MAX_TOKENS = ("maxTokens", "max_new_tokens")
_SAMPLING = frozenset({"temperature", "topP", "topK", "top_p", "top_k", "stopSequences", *_MAX_TOKENS})
_MODEL_FREE = frozenset({"top_k", "topK", "k", "reasoning_effort", "anthropic_beta"})
_MODEL_READ = frozenset({"thinking", "reasoning_config", "reasoningConfig", "output_config", "inferenceConfig"})
# fmt: on
_TOLD = frozenset({"text", "image", "document", "video", "searchResult"})
_MESSAGE = _TOLD | {"audio", "toolUse", "toolResult", "guardContent", "reasoningContent", "citationsContent"}
_SYSTEM = frozenset({"text", "guardContent"})
_ROLES = {"user": _MESSAGE, "assistant": _MESSAGE, "system": _MESSAGE}
_TEXTUAL = ("txt", "md", "csv", "html")


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a Converse body once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    walk = _Walk(vocabulary)
    if body.get("messages") is None and body.get("promptVariables") is None:
        raise ConfigError("messages: is missing; pass a list of messages")
    walk.each(body.get("messages") or (), "messages", walk.message)
    if body.get("system"):
        walk.messages += 1
        walk.blocks_of(body["system"], "system", _SYSTEM)
    walk.tools_offered(as_fields(body.get("toolConfig") or {}, "toolConfig"))
    walk.options(body)
    config = as_fields(body.get("inferenceConfig") or {}, "inferenceConfig")
    walk.unknown_fields(config, _SAMPLING, "inferenceConfig")
    limits = [read_count(config.get(name), f"inferenceConfig.{name}", 1) for name in _MAX_TOKENS]
    tier = as_fields(body.get("serviceTier") or {}, "serviceTier").get("type")
    return walk.result(
        max((limit for limit in limits if limit is not None), default=None),
        read_traits({"service_tier": tier}, "service_tier"),
        documents=walk.documents,
        citations=walk.citations,
    )


class _Walk(Walk):
    documents = 0
    citations = False

    def message(self, item: object, place: str) -> None:
        message = as_fields(item, place)
        self.messages += 1
        self.unknown_fields(message, {"role", "content"}, place)
        role = message.get("role")
        if role is None:
            raise ConfigError(f"{place}.role: is missing; it must be one of {', '.join(_ROLES)}")
        if not isinstance(role, str) or role not in _ROLES:
            self.reason(place, f"unknown role {shown(role)}")
            return
        if message.get("content") is None:
            raise ConfigError(f"{place}.content: is missing; it must be a list of blocks")
        self.blocks_of(message["content"], f"{place}.content", _ROLES[role])

    def blocks_of(self, content: object, place: str, allowed: Set[str]) -> None:
        for i, item in enumerate(as_items(content, place)):
            at = f"{place}[{i}]"
            for kind, value in as_fields(item, at).items():
                if value is None:
                    continue
                if kind == "cachePoint":
                    self._cache(value, f"{at}.cachePoint")
                elif kind not in allowed:
                    self.reason(f"{at}.{shown(kind)}", "unknown block")
                else:
                    self._block(kind, value, f"{at}.{kind}")

    def _block(self, kind: str, value: object, place: str) -> None:
        self.parts += 1
        if kind == "text":
            self.text(value, place)
            return
        fields = as_fields(value, place)
        if kind in ("image", "video", "audio"):
            self._media(kind, fields, place)
            return
        if kind in ("toolUse", "toolResult"):
            self._called(kind, fields, place)
        elif kind in ("document", "searchResult"):
            self._document(fields, place)
        elif kind == "reasoningContent":
            self._reasoning(fields, place)
        elif kind == "citationsContent":
            for name in ("content", "citations"):
                self.value(fields.get(name), f"{place}.{name}")
        elif kind == "guardContent":
            self.unknown_fields(fields, {"text"}, place)
            text = as_fields(fields.get("text") or {}, f"{place}.text")
            self.value(text.get("text"), f"{place}.text.text")

    def _media(self, kind: str, fields: Mapping[str, Any], place: str) -> None:
        self.unknown_fields(fields, {"format", "source"}, place)
        source = as_fields(fields.get("source") or {}, f"{place}.source")
        data = source.get("bytes")
        if data is None:
            self.reason(f"{place}.source", "a file that is kept elsewhere")
        elif kind == "image":
            self.image(data)
        elif kind == "video":
            self.video(data, place)
        else:
            self.audio(data, place)

    def text(self, text: object, place: str) -> None:
        if not isinstance(text, str):
            raise ConfigError(f"{place}: must be a string, not {type(text).__name__}")
        self.base_tokens += self.count(text)

    def _called(self, kind: str, fields: Mapping[str, Any], place: str) -> None:
        self.blocks += 1
        if kind == "toolUse":
            self.unknown_fields(fields, {"toolUseId", "name", "input"}, place)
            for name in ("name", "input"):
                self.value(fields.get(name), f"{place}.{name}")
            return
        self.unknown_fields(fields, {"toolUseId", "content", "status"}, place)
        for i, item in enumerate(as_items(fields.get("content") or (), f"{place}.content")):
            at = f"{place}.content[{i}]"
            told = as_fields(item, at)
            self.value(told.get("json"), f"{at}.json")
            rest = {name: value for name, value in told.items() if name != "json"}
            self.blocks_of([rest], at, _TOLD)

    def _document(self, fields: Mapping[str, Any], place: str) -> None:
        self.documents += 1
        known = {"name", "title", "context", "source", "content", "format", "citations"}
        self.unknown_fields(fields, known, place)
        for name in ("name", "title", "context"):
            self.value(fields.get(name), f"{place}.{name}")
        cited = fields.get("citations")
        self.citations |= cited is not None and as_fields(cited, f"{place}.citations").get("enabled") is True
        if fields.get("content") is not None:  # a search result, whose source is a string
            self.value(fields.get("source"), f"{place}.source")
            self.blocks_of(fields["content"], f"{place}.content", {"text"})
            return
        source = as_fields(fields.get("source"), f"{place}.source")
        for name, value in source.items():
            at = f"{place}.source.{shown(name)}"
            if name == "text":
                self.text(value, at)
            elif name == "content":
                self.blocks_of(value, at, {"text"})
            elif name == "bytes" and fields.get("format") in _TEXTUAL:
                self.text_file(value, at)
            elif name == "bytes" and fields.get("format") == "pdf":
                self.pdf(value, at)
            elif value is not None:
                kept = "a file that is kept elsewhere"
                self.reason(at, f"a document as {shown(fields.get('format'))}" if name == "bytes" else kept)

    def _reasoning(self, fields: Mapping[str, Any], place: str) -> None:
        self.unknown_fields(fields, {"reasoningText", "redactedContent"}, place)
        told = as_fields(fields.get("reasoningText") or {}, f"{place}.reasoningText")
        self.unknown_fields(told, {"text", "signature"}, f"{place}.reasoningText")
        for name in ("text", "signature"):
            self.value(told.get(name), f"{place}.reasoningText.{name}")
        sealed = fields.get("redactedContent")
        self.value(sealed.hex() if isinstance(sealed, bytes) else sealed, f"{place}.redactedContent")

    def tools_offered(self, config: Mapping[str, Any]) -> None:
        self.unknown_fields(config, {"tools", "toolChoice"}, "toolConfig")
        self.each(config.get("tools") or (), "toolConfig.tools", self.offered)
        self.value(config.get("toolChoice"), "toolConfig.toolChoice")

    def offered(self, item: object, place: str) -> None:
        fields = as_fields(item, place)
        self.unknown_fields(fields, {"cachePoint", "systemTool", "toolSpec"}, place)
        if fields.get("cachePoint") is not None:
            self._cache(fields["cachePoint"], f"{place}.cachePoint")
        if fields.get("systemTool") is not None:
            self.reason(f"{place}.systemTool", "what it brings is not in the request")
        if fields.get("toolSpec") is not None:
            spec = as_fields(fields["toolSpec"], f"{place}.toolSpec")
            self.unknown_fields(spec, {"name", "description", "inputSchema", "strict"}, f"{place}.toolSpec")
            self.tool(spec, f"{place}.toolSpec")

    def options(self, body: Mapping[str, Any]) -> None:
        self.unknown_fields(body, FIELDS, "")
        self.open_fields(body, _OPEN)
        latency = as_fields(body.get("performanceConfig") or {}, "performanceConfig").get("latency")
        if latency not in (None, "standard"):
            self.reason("performanceConfig.latency", f"{shown(latency)} has a price of its own")
        output = as_fields(body.get("outputConfig") or {}, "outputConfig")
        self.unknown_fields(output, {"textFormat", "effort"}, "outputConfig")
        self.schema(output.get("textFormat"), "outputConfig.textFormat")
        more = as_fields(body.get("additionalModelRequestFields") or {}, "additionalModelRequestFields")
        self.unknown_fields(more, _MODEL_FREE | _MODEL_READ, "additionalModelRequestFields")
        place = "additionalModelRequestFields.inferenceConfig"
        self.unknown_fields(as_fields(more.get("inferenceConfig") or {}, place), {"topK", "top_k"}, place)
        for name in ("thinking", "reasoning_config", "reasoningConfig"):
            kind = as_fields(more.get(name) or {}, f"additionalModelRequestFields.{name}").get("type")
            self.thinking |= kind not in (None, "disabled")
        config = as_fields(more.get("output_config") or {}, "additionalModelRequestFields.output_config")
        self.unknown_fields(config, {"effort", "format"}, "additionalModelRequestFields.output_config")
        self.schema(config.get("format"), "additionalModelRequestFields.output_config.format")

    def _cache(self, point: object, place: str) -> None:
        ttl = as_fields(point, place).get("ttl")
        if ttl in (None, "5m", "1h"):
            self.ttls.add(ttl or "5m")
        else:
            self.reason(place, f"unknown ttl {shown(ttl)}")
