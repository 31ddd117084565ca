"""Gemini generateContent, on the Gemini API and on Vertex: walk a request body once, count every string, and name what
has no upper bound; and embedContent.

Closed are text, function declarations, calls and responses, code and its results as text, thought signatures (by their
length), response schemas, images, PDF, sounds and films whose size can be read. Open, with a reason, are Google's own
tools, cached content, files by URI and whatever is not known here. What is open is not counted. `maxOutputTokens`
bounds thoughts and answer together (github.com/googleapis/python-genai/issues/2062, read 2026-11-22; one recorded
request, too).

Names are those of the JSON; as its parser does, this takes `snake_case` for `camelCase`, and one object where a list
is due. The fields are those of the SDK `google-genai` 3.4 (types.py, models.py, read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from budget.errors import ConfigError
from budget.estimator import embeddings
from budget.estimator.bounds import Measure
from budget.estimator.plain import as_fields, as_items, shown
from budget.estimator.walk import Walk, read_count, read_traits

__all__ = ["FIELDS", "draws_unasked", "measure", "measure_embeddings"]

# fmt: off
_FREE = frozenset({"model", "safetySettings", "labels", "store"})
_READ = frozenset({
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "serviceTier",
})
_OPEN = {
    "cachedContent": "the content is kept by the server",
    "modelArmorConfig": "another service reads prompt and answer, at its own price",
}
FIELDS = _FREE | _READ | _OPEN.keys()

_CONFIG_FREE = frozenset({
    "temperature", "topP", "topK", "seed", "stopSequences", "presencePenalty", "frequencyPenalty", "responseLogprobs",
    "logprobs", "responseMimeType", "mediaResolution", "audioTimestamp", "enableAffectiveDialog",
})
_CONFIG_READ = frozenset({
    "maxOutputTokens", "candidateCount", "thinkingConfig", "responseModalities", "responseSchema",
    "responseJsonSchema", "_responseJsonSchema", "responseFormat",
})
_CONFIG_OPEN = {
    "routingConfig": "another model may answer, at its own price",
    "modelSelectionConfig": "another model may answer, at its own price",
}
_MAKES = {"speechConfig": "audio", "imageConfig": "image"}
_PART_FIELDS = {
    "text": (),
    "functionCall": ("id", "name", "args"),
    "functionResponse": ("id", "name", "response", "parts", "willContinue", "scheduling"),
    "executableCode": ("id", "language", "code"),
    "codeExecutionResult": ("id", "outcome", "output"),
    "inlineData": ("mimeType", "data", "displayName"),
    "fileData": ("mimeType", "fileUri", "displayName"),
}
_BESIDE = frozenset({"thought", "thoughtSignature", "mediaResolution", "videoMetadata"})
_DECLARATION = frozenset({
    "name", "description", "behavior", "parameters", "parametersJsonSchema", "response", "responseJsonSchema",
})
# fmt: on
_ROLES = ("user", "model", "function", "system")
_SNAKE = re.compile(r"(?<=[a-z])_([a-z])")
_REASONS_UNASKED = re.compile(r"(?:.*/)?gemini-(?:[3-9]|2\.5)")
_DRAWS_UNASKED = re.compile(r"-image|nano-banana")
_EMBED_FREE = frozenset({"model", "taskType", "title", "outputDimensionality", "autoTruncate"})


def draws_unasked(model: object) -> bool:
    """Whether models of this name answer with images without being asked to."""
    return isinstance(model, str) and _DRAWS_UNASKED.search(model) is not None


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a generateContent body once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    walk = _Walk(vocabulary)
    body = _camel(body)
    if body.get("contents") is None:
        raise ConfigError("contents: is missing; pass a list of contents")
    config = _camel(as_fields(body.get("generationConfig") or {}, "generationConfig"))
    walk.each(_list(body["contents"]), "contents", walk.content)
    if (system := body.get("systemInstruction")) is not None:
        walk.content(system, "systemInstruction")
    walk.each(_list(body.get("tools")), "tools", walk.offered)
    detail = _level(config.get("mediaResolution"))
    walk.media = [one if one.detail else replace(one, detail=detail) for one in walk.media]
    walk.unknown_fields(body, FIELDS, "")
    walk.open_fields(body, _OPEN)
    walk.tool_choice(body.get("toolConfig"))
    walk.configured(config, body.get("model"))
    return walk.result(
        read_count(config.get("maxOutputTokens"), "generationConfig.maxOutputTokens", 1),
        read_traits({"service_tier": body.get("serviceTier")}, "service_tier"),
        choices=read_count(config.get("candidateCount"), "generationConfig.candidateCount", 1) or 1,
        sealed_chars=walk.sealed_chars,
    )


def measure_embeddings(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a body of embedContent (`content`), batchEmbedContents (`requests`) or Vertex's predict (`instances`) once.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    if "input" in body:  # the OpenAI-compatible endpoint
        return embeddings.measure(body, vocabulary)
    walk = _Walk(vocabulary)
    body = _camel(body)
    many = "instances" if "instances" in body else "requests"
    requests: Sequence[tuple[str, Any]] = [("", body)]
    if body.get(many) is not None:
        walk.unknown_fields(body, {"model", "parameters", many}, "")
        requests = _several(body[many], many)
    for place, request in requests:
        fields = _camel(as_fields(request, place))
        walk.unknown_fields(fields, _EMBED_FREE | {"content"}, place)
        at = f"{place}.content".lstrip(".")
        if fields.get("content") is None:
            raise ConfigError(f"{at}: is missing; pass a content with parts")
        if isinstance(fields["content"], str):
            walk.value(fields["content"], at)
        else:
            walk.content(fields["content"], at)
        walk.value(fields.get("title"), place)
    return walk.result(0, {}, bare=True)


class _Walk(Walk):
    sealed_chars = 0

    def content(self, content: object, place: str) -> None:
        self.messages += 1
        fields = as_fields(content, place)
        self.unknown_fields(fields, {"role", "parts"}, place)
        role = fields.get("role")
        if role is not None and role not in _ROLES:
            self.reason(place, f"unknown role {shown(role)}")
            return
        if fields.get("parts") is None:
            raise ConfigError(f"{place}.parts: is missing; it must be a list of parts")
        for at, part in _several(fields["parts"], f"{place}.parts"):
            self._part(_camel(as_fields(part, at)), at)

    def _part(self, part: Mapping[str, Any], place: str) -> None:
        self.parts += 1
        self.unknown_fields(part, _BESIDE | _PART_FIELDS.keys(), place)
        signature = part.get("thoughtSignature")
        if isinstance(signature, (str, bytes)):
            self.sealed_chars += len(signature) * (4 if isinstance(signature, bytes) else 3) // 3
        self.value(part.get("text"), f"{place}.text")
        for kind, known in _PART_FIELDS.items():
            if known and part.get(kind) is not None:
                at = f"{place}.{kind}"
                fields = _camel(as_fields(part[kind], at))
                self.unknown_fields(fields, set(known), at)
                if kind == "inlineData":
                    self._inline(fields, part, at)
                elif kind == "fileData":
                    self.reason(at, "a file that is kept elsewhere")
                else:
                    self._told(kind, fields, at)

    def _inline(self, fields: Mapping[str, Any], part: Mapping[str, Any], place: str) -> None:
        said, data = fields.get("mimeType"), fields.get("data")
        mime = said.lower() if isinstance(said, str) else ""
        level = _camel(as_fields(part.get("mediaResolution") or {}, f"{place}.mediaResolution"))
        self.unknown_fields(level, {"level"}, f"{place}.mediaResolution")
        detail = _level(level.get("level"))
        if mime.startswith("image/"):
            self.image(data, detail)
        elif mime == "application/pdf":
            self.pdf(data, place, detail)
        elif mime.startswith("audio/"):
            self.audio(data, place)
        elif mime.startswith("video/"):
            film = _camel(as_fields(part.get("videoMetadata") or {}, f"{place}.videoMetadata"))
            self.unknown_fields(film, {"startOffset", "endOffset"}, f"{place}.videoMetadata")
            self.video(data, place)
        elif mime.startswith("text/"):
            self.text_file(data, place)
        else:
            self.reason(place, shown(said))

    def _told(self, kind: str, fields: Mapping[str, Any], place: str) -> None:
        self.blocks += 1
        for name in _PART_FIELDS[kind]:
            if name not in ("id", "parts"):
                self.value(fields.get(name), f"{place}.{name}")
        for at, item in _several(fields.get("parts") if kind == "functionResponse" else None, f"{place}.parts"):
            part = _camel(as_fields(item, at))
            if part.get("functionResponse") is None:
                self._part(part, at)
            else:
                self.reason(at, "functionResponse")  # such parts are media

    def offered(self, item: object, place: str) -> None:
        tool = _camel(as_fields(item, place))
        for name, value in tool.items():
            if name != "functionDeclarations" and value is not None:
                self.reason(f"{place}.{shown(name)}", "what it brings is not in the request")
        for at, declaration in _several(tool.get("functionDeclarations"), f"{place}.functionDeclarations"):
            fields = _camel(as_fields(declaration, at))
            self.unknown_fields(fields, _DECLARATION, at)
            self.tool(fields, at)

    def tool_choice(self, config: object) -> None:
        if config is None:
            return
        fields = _camel(as_fields(config, "toolConfig"))
        known = {"functionCallingConfig", "retrievalConfig", "includeServerSideToolInvocations"}
        self.unknown_fields(fields, known, "toolConfig")
        self.value(fields.get("functionCallingConfig"), "toolConfig.functionCallingConfig")

    def configured(self, config: Mapping[str, Any], model: object) -> None:
        known = _CONFIG_FREE | _CONFIG_READ | _CONFIG_OPEN.keys() | _MAKES.keys()
        self.unknown_fields(config, known, "generationConfig")
        for name, why in _CONFIG_OPEN.items():
            if config.get(name) is not None:
                self.reason(f"generationConfig.{name}", why)
        for place, kind in _several(config.get("responseModalities"), "generationConfig.responseModalities"):
            made = str(getattr(kind, "value", kind)).lower()
            if made in _MAKES.values():
                self.makes.add(made)
            elif made != "text":
                self.reason(place, f"an answer in {shown(kind)}")
        self.makes.update(made for name, made in _MAKES.items() if config.get(name) is not None)
        if draws_unasked(model):
            self.makes.add("image")
        if isinstance(model, str) and "deep-research" in model:
            self.reason("model", "it searches the web unasked")
        for name in ("responseSchema", "responseJsonSchema", "_responseJsonSchema", "responseFormat"):
            self.schema(config.get(name), f"generationConfig.{name}")
        thinking = _camel(as_fields(config.get("thinkingConfig") or {}, "generationConfig.thinkingConfig"))
        levels = {"includeThoughts", "thinkingBudget", "thinkingLevel"}
        self.unknown_fields(thinking, levels, "generationConfig.thinkingConfig")
        asked = bool(thinking.get("thinkingLevel") or thinking.get("includeThoughts"))
        unasked = isinstance(model, str) and _REASONS_UNASKED.match(model) is not None
        self.thinking = thinking.get("thinkingBudget") != 0 and (
            asked or unasked or thinking.get("thinkingBudget") is not None
        )


def _level(resolution: object) -> str:
    """Return the word in `MEDIA_RESOLUTION_LOW` and the like, "" if it is the model's own choice."""
    word = str(getattr(resolution, "value", resolution) or "").removeprefix("MEDIA_RESOLUTION_").lower()
    return "" if word == "unspecified" else word


def _camel(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Write names as the JSON has them; the SDK's models and many callers have them in snake_case."""
    if not any("_" in name for name in fields if isinstance(name, str)):
        return fields
    return {_SNAKE.sub(lambda found: found[1].upper(), str(name)): value for name, value in fields.items()}


def _list(value: object) -> object:
    """Return one object as a list of one, and nothing as an empty list."""
    single = isinstance(value, Mapping) or hasattr(type(value), "model_fields")
    return [value] if single else () if value is None else value


def _several(value: object, place: str) -> Sequence[tuple[str, Any]]:
    """Return a list's items with their places."""
    return [(f"{place}[{i}]", item) for i, item in enumerate(as_items(_list(value), place))]
