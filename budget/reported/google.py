"""Gemini API and Vertex. Cached tokens are inside the prompt; thoughts and tool results are beside it."""

from __future__ import annotations

from budget.errors import ConfigError
from budget.reported.fields import Fields, as_dict, get, listed, snake_keys, whole_number, within

__all__ = ["embeddings", "gemini"]

_MEDIA = {"AUDIO": "audio", "IMAGE": "image", "DOCUMENT": "image", "VIDEO": "video", 2: "image", 3: "video", 4: "audio",
          5: "image"}  # fmt: skip
"""Gemini's modalities, by name and by number; pages of a document are billed as images
(ai.google.dev/gemini-api/docs/document-processing, read 2026-11-22)."""


def gemini(camel: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """GenerateContent and embeddings of Gemini; the SDK says the same in snake case."""
    usage = snake_keys(camel)
    read = get(usage, "cached_content_token_count")
    prompt = get(usage, "prompt_token_count") + get(usage, "tool_use_prompt_token_count")
    thoughts = get(usage, "thoughts_token_count")
    candidates = get(usage, "candidates_token_count") or get(usage, "response_token_count")
    if prompt < read:
        raise ConfigError(f"usage: prompt_token_count is below its own cached tokens ({read})")
    cached = _media(usage, "cache_tokens_details")
    sent = _media(usage, "prompt_tokens_details", "tool_use_prompt_tokens_details")
    made = _media(usage, "candidates_tokens_details", "response_tokens_details")
    fresh = {f"input_{kind}": max(0, tokens - cached.get(kind, 0)) for kind, tokens in sent.items()}
    reads = {f"cache_read_{kind}": tokens for kind, tokens in cached.items() if kind != "video"}
    outs = {f"output_{kind}": tokens for kind, tokens in made.items() if kind != "video"}
    return {
        "input": prompt - read, "cache_read": read, "output": candidates + thoughts, "reasoning": thoughts,
        "parts": within(fresh, prompt - read) | within(reads, read) | within(outs, candidates),
    }  # fmt: skip


def embeddings(_usage: Fields, answer: Fields, _provider: str | None) -> Fields:
    """Vertex's text embeddings, which count with each vector."""
    statistics = [snake_keys(as_dict(as_dict(one).get("statistics"))) for one in listed(answer, "embeddings")]
    return {"input": sum(whole_number(each, "token_count") for each in statistics)}


def _media(usage: Fields, *lists: str) -> dict[str, int]:
    """Sum the tokens of media by kind over Gemini's lists by modality."""
    found: dict[str, int] = {}
    for each in (each for name in lists for each in listed(usage, name)):
        detail = snake_keys(as_dict(each))
        modality = detail.get("modality")
        named = getattr(modality, "value", modality)
        kind = _MEDIA.get(named) if isinstance(named, (str, int)) else None
        if kind:
            found[kind] = found.get(kind, 0) + get(detail, "token_count")
    return found
