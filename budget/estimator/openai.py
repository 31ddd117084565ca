"""OpenAI: what the bodies of chat completions, Responses and embeddings have in common; and embeddings.

The fields and types are those of the SDK `openai` 3.54 (types/chat/completion_create_params.py,
types/responses/response_create_params.py, types/embedding_create_params.py, read 2026-11-22); 2.54 has fewer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from budget.errors import ArgumentTypeError, ConfigError
from budget.estimator.bounds import Measure
from budget.estimator.namespace import rendered
from budget.estimator.plain import as_fields, as_items, compact, shown
from budget.estimator.tokens import count
from budget.estimator.walk import Walk

__all__ = ["DESCRIBED", "EMBEDDINGS_FIELDS", "FREE", "MediaPart", "OpenAIWalk", "measure_embeddings", "reasons_unasked"]

# fmt: off
FREE = frozenset({
    "model", "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier",
    "store", "stream", "stream_options", "temperature", "top_logprobs", "top_p", "user",
})
# fmt: on
"""Fields of chat and Responses alike that cost nothing."""

EMBEDDINGS_FIELDS = frozenset({"model", "input", "dimensions", "encoding_format", "user"})

DESCRIBED = {"function": {"name", "description", "parameters", "strict"}, "custom": {"name", "description", "format"}}
"""What describes a tool of the caller's own, by its type."""

_TTLS = ("30m", "12h")
_REASONS_UNASKED = re.compile(r"(ft:)?(gpt-[5-9]|o\d|codex-|chat-latest|computer-use)")


def reasons_unasked(model: object) -> bool:
    """Whether models of this name spend hidden reasoning without being asked to."""
    return isinstance(model, str) and _REASONS_UNASKED.match(model) is not None


class MediaPart(NamedTuple):
    """A part of a content that is no text: its fields, and what measures it."""

    fields: tuple[str, ...]
    measure: Callable[[Mapping[str, Any], str], None]


_NO_MEDIA: Mapping[str, MediaPart] = {}


def _is_pdf(data: object) -> bool:
    return isinstance(data, str) and data.startswith(("data:application/pdf", "JVBERi"))


class OpenAIWalk(Walk):
    """What chat and Responses have in common."""

    shown_tool_tokens = 0

    def parts_of(
        self, content: object, place: str, allowed: Mapping[str, str], media: Mapping[str, MediaPart] = _NO_MEDIA
    ) -> None:
        """Count a content: a string, or parts of these types, whose text is in the named field, or media."""
        if isinstance(content, str):
            self.base_tokens += self.count(content)
            return
        for i, item in enumerate(as_items(content, place)):
            part, at = as_fields(item, f"{place}[{i}]"), f"{place}[{i}]"
            kind = part.get("type")
            if kind is None:
                raise ConfigError(f"{at}.type: is missing")
            self.breakpoint(part.get("prompt_cache_breakpoint"), f"{at}.prompt_cache_breakpoint")
            if isinstance(kind, str) and kind in media:
                self.unknown_fields(part, {"type", *media[kind].fields, "prompt_cache_breakpoint"}, at)
                media[kind].measure(part, at)
                continue
            if not isinstance(kind, str) or kind not in allowed:
                self.reason(at, shown(kind))
                continue
            field = allowed[kind]
            known = {"type", field, "prompt_cache_breakpoint", "annotations", "logprobs"}
            self.unknown_fields(part, known, at)
            self.parts += 1
            self.text(part.get(field), f"{at}.{field}")
            self.value(part.get("annotations") or None, f"{at}.annotations")

    def shown_tool(self, tool: object, kind: str, place: str) -> None:
        """Count a tool as the model sees it."""
        text = compact(tool, place)
        if kind == "function":
            text = rendered(json.loads(text))
        self.shown_tool_tokens += count(text, self.vocabulary)

    def file(self, file: Mapping[str, Any], place: str) -> None:
        """Measure a file: a PDF that is given as data; its name is read too."""
        data = file.get("file_data")
        if data is None:
            self.reason(place, "a file that is not in the request")
        elif _is_pdf(data):
            self.value(file.get("filename"), f"{place}.filename")
            self.pdf(data, place)
        else:
            self.reason(place, "a file that is no PDF")

    def text(self, text: object, place: str) -> None:
        """Count a string that must be there."""
        if not isinstance(text, str):
            raise ConfigError(f"{place}: must be a string, not {type(text).__name__}")
        self.base_tokens += self.count(text)

    def breakpoint(self, options: object, place: str) -> None:
        """Read how long what is written to the prompt cache is kept."""
        if options is None:
            return
        ttl = as_fields(options, place).get("ttl")
        if ttl in _TTLS:
            self.ttls.add(ttl)
        elif ttl is not None:
            self.reason(place, f"unknown ttl {shown(ttl)}")

    def cache_options(self, options: object) -> None:
        """Read `prompt_cache_options`."""
        self.breakpoint(options, "prompt_cache_options")
        if options is not None:
            known = {"mode", "ttl", "comparison_response_id", "prewarm"}
            self.unknown_fields(as_fields(options, "prompt_cache_options"), known, "prompt_cache_options")

    def format(self, format: object, place: str, known: frozenset[str]) -> None:
        """Read the format of the answer: plain text, JSON, or JSON of a schema."""
        if format is None:
            return
        fields = as_fields(format, place)
        kind = fields.get("type")
        if kind == "json_schema":
            self.unknown_fields(fields, known, place)
            self.schema(fields, place)
        elif kind not in ("text", "json_object"):
            self.reason(place, shown(kind))


def measure_embeddings(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk an embeddings body once. Nothing but the tokens of the texts is billed.

    Raises:
        ConfigError: A shape that the API does not take; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    walk = Walk(vocabulary)
    walk.unknown_fields(body, EMBEDDINGS_FIELDS, "")
    given = body.get("input")
    if given is None:
        raise ConfigError("input: is missing; pass a text, a list of texts, or tokens")
    if isinstance(given, str):
        given = [given]
    items = as_items(given, "input")
    if items and all(type(item) is int for item in items):
        items = [items]
    for i, item in enumerate(items):
        place = f"input[{i}]"
        if isinstance(item, str):
            walk.base_tokens += walk.count(item)
        elif all(type(token) is int for token in as_items(item, place)):
            walk.base_tokens += len(item)
        else:
            raise ArgumentTypeError(f"{place}: must be a text or a list of tokens, which are ints")
        walk.parts += 1
    return walk.result(0, {}, bare=True)
