"""Embeddings bodies of others than OpenAI: its own shape, with the texts under other names and other free fields.

Texts of parts are counted, images are open. Each text gets the tokens that mark its beginning and end; OpenAI's own
bodies (`openai.measure_embeddings`) have none. The fields are those of the SDKs `mistralai` 3.7, `cohere` 7.3,
`together` 3.1, `perplexityai` 0.46 and of Titan's request (docs.aws.amazon.com/bedrock/latest/userguide/
model-parameters-titan-embed-text.html), read 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from budget.errors import ConfigError
from budget.estimator import openai
from budget.estimator.bounds import Measure
from budget.estimator.plain import as_fields, as_items, shown

__all__ = ["measure"]

# fmt: off
_FREE = frozenset({
    "input_type", "embedding_types", "embeddingTypes", "truncate", "output_dimension", "output_dtype", "normalize",
    "metadata", "max_tokens", "priority", "prompt_truncation", "provider",
})
# fmt: on
_SPECIAL = 2
"""Tokens around a text: 2 of e5-mistral and Mistral Embed (1 more seen on 7), 1 of Titan, none of Cohere."""


def measure(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk an embeddings body: texts as `input`, `inputs` (Mistral), `texts` (Cohere) or `inputText` (Titan).

    Raises:
        ConfigError: A shape that no such API takes; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    kept = {name: value for name, value in body.items() if name not in _FREE}
    texts: list[Any] = []
    reasons: list[str] = []
    for name in ("input", "inputs", "texts", "inputText"):
        given = kept.pop(name, None)
        one = isinstance(given, str) or (bool(given) and all(type(item) is int for item in as_items(given, name)))
        if one:
            texts.append(given)
        elif given is not None:
            for i, item in enumerate(as_items(given, name)):
                _embedded(item, f"{name}[{i}]", texts, reasons)
    if kept.pop("images", None):
        reasons.append("images: not measured")
    if not texts and not reasons:
        raise ConfigError("input: is missing; pass a text, a list of texts, or tokens")
    found = openai.measure_embeddings({**kept, "input": texts}, vocabulary)
    return found._replace(
        base_tokens=found.base_tokens + _SPECIAL * len(texts),
        reasons=(*reasons, *found.reasons),
    )


def _embedded(item: object, place: str, texts: list[Any], reasons: list[str]) -> None:
    if isinstance(item, (str, list, tuple)):
        texts.append(item)
        return
    content = as_fields(item, place).get("content")
    for i, part in enumerate(as_items(content, f"{place}.content")):
        fields = as_fields(part, f"{place}.content[{i}]")
        if isinstance(fields.get("text"), str):
            texts.append(fields["text"])
        else:
            reasons.append(f"{place}.content[{i}]: {shown(fields.get('type'))}")
