"""OpenAI-compatible servers: chat completions and Responses as others than OpenAI take them; and Messages.

Their bodies are OpenAI's with fields more or fewer. What differs is translated here into what `openai_chat` and its
like read, and those walk it: one table for all servers, because a field that a server does not know is refused or
ignored by it. Free are the fields that steer sampling, routing and what comes back; text that they add (reasoning that
is sent back, documents) is counted. Open, with a reason, is what a server searches, keeps, or asks of other models.
A field that stands in no table here is open as in OpenAI's own bodies.

The fields are those of the SDKs `mistralai` 3.7, `groq` 1.7, `cohere` 7.3, `together` 3.1, `fireworks-ai` 1.2,
`perplexityai` 0.46, `openrouter` 1.3, and, for DeepSeek and xAI, of their API references (all read 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from budget.estimator import anthropic, openai_chat, openai_responses
from budget.estimator.bounds import Measure
from budget.estimator.gemini import draws_unasked
from budget.estimator.plain import as_fields, as_items, compact

__all__ = ["measure_chat", "measure_messages", "measure_responses"]

# fmt: off
_FREE = frozenset({
    # sampling
    "top_k", "top_a", "min_p", "typical_p", "k", "p", "seed", "random_seed", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "mirostat_lr", "mirostat_target", "min_tokens", "stop", "stop_sequences", "logit_bias",
    "ignore_eos", "logprobs", "thinking_budget",
    # what comes back, and how
    "reasoning_format", "include_reasoning", "reasoning_history", "return_token_ids", "raw_output", "usage",
    "perf_metrics_in_response", "return_images", "return_related_questions", "citation_options", "citation_quality",
    "debug", "image_config", "deferred",
    # routing, caching, bookkeeping
    "provider", "route", "session_id", "trace", "priority", "prompt_cache_isolation_key", "user_security_context",
    "compliance", "disable_tool_validation", "strict_tools", "safe_tokenization", "stop_server_tools_when",
    # only drops input
    "transforms", "prompt_truncate_len", "prompt_truncation", "context_length_exceeded_behavior", "max_input_tokens",
})
_OPEN = {
    "search_parameters": "what a search finds is not in the request",
    "search_settings": "what a search finds is not in the request",
    "compound_custom": "what its tools find is not in the request",
    "connectors": "what they find is not in the request",
    "data_sources": "what they hold is not in the request",
    "plugins": "what they bring is not in the request",
    "deferred_tools": "they are kept by the server",
    "conversation_id": "earlier turns are kept by the server",
    "preset": "it is kept by the server",
    "agent_id": "it is kept by the server",
    "models": "another model may answer, at its own price",
    "safety_model": "another model is asked too, at its own price",
    "guardrails": "another model is asked too, at its own price",
    "speculation": "what is predicted and not used may be billed",
}
_CHAT_READ = frozenset({
    "documents", "thinking", "reasoning", "safe_prompt", "prompt_mode", "cache_control", "disable_search",
    "safety_mode", "tools", "response_format", "messages", "echo", "echo_last",
})
# fmt: on
_SEARCHES = re.compile(r"(?:.*/)?(?:sonar|compound)|.*[:-]online$")
_RESEARCHES = re.compile(r".*deep-research")
_TEXT_FIELDS = ("reasoning", "reasoning_content", "reasoning_details", "tool_plan", "citations")
_UNSENT_FIELDS = ("prefix", "cache_control", "model", *_TEXT_FIELDS)
_SAFE_PROMPT = 100
"""Tokens; Mistral's own text has about 40."""
_MODE_PROMPT = 500
"""Tokens; Magistral's own system prompt has about 200."""


def measure_chat(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a chat completions body of another server than OpenAI's.

    Raises:
        ConfigError: A shape that no such API takes; names the place.
        ArgumentTypeError: Something in the body is not JSON.
    """
    ttls: set[str] = set()
    kept = {name: value for name, value in body.items() if name not in _FREE and name not in _OPEN}
    for name in _CHAT_READ:
        kept.pop(name, None)
    if body.get("messages") is not None:
        messages = as_items(body["messages"], "messages")
        kept["messages"] = [_message(item, f"messages[{i}]", ttls) for i, item in enumerate(messages)]
        kept["messages"] += _documents(body.get("documents"))
    if body.get("tools") is not None:
        tools = as_items(body["tools"], "tools")
        kept["tools"] = [_tool(item, f"tools[{i}]", ttls) for i, item in enumerate(tools)]
    kept["response_format"] = _format(body.get("response_format"))
    _cached(body, "", ttls)
    found = openai_chat.measure(kept, vocabulary)
    more = _SAFE_PROMPT * bool(body.get("safe_prompt")) + _MODE_PROMPT * bool(body.get("prompt_mode"))
    return found._replace(
        base_tokens=found.base_tokens + more,
        cache_ttls=found.cache_ttls | ttls,
        thinking=found.thinking or _thinks(body),
        makes=found.makes | ({"image"} if draws_unasked(body.get("model")) else set()),
        reasons=(*_reasons(body, _OPEN), *found.reasons),
    )


def measure_responses(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk a Responses body of another server than OpenAI's; raises as `measure_chat`."""
    ttls: set[str] = set()
    kept = {name: value for name, value in body.items() if name not in _FREE and name not in _OPEN}
    _cached(kept, "", ttls)
    kept.pop("cache_control", None)
    reasoning = kept.get("reasoning")
    if isinstance(reasoning, Mapping):
        kept["reasoning"] = {k: v for k, v in reasoning.items() if k not in ("enabled", "max_tokens", "exclude")}
    found = openai_responses.measure(kept, vocabulary)
    return found._replace(
        cache_ttls=found.cache_ttls | ttls,
        thinking=found.thinking or _thinks(body),
        reasons=(*_reasons(body, _OPEN), *found.reasons),
    )


def measure_messages(body: Mapping[str, Any], vocabulary: str) -> Measure:
    """Walk an Anthropic Messages body as others take it: InvokeModel on Bedrock, rawPredict on Vertex, OpenRouter.

    `anthropic_version` and `anthropic_beta` stand in the body there, instead of in headers. Raises as `measure_chat`.
    """
    kept = {
        name: value
        for name, value in body.items()
        if name not in _FREE and name not in _OPEN and name not in ("anthropic_version", "anthropic_beta")
    }
    found = anthropic.measure(kept, vocabulary)
    return found._replace(reasons=(*_reasons(body, _OPEN), *found.reasons))


def _reasons(body: Mapping[str, Any], known: Mapping[str, str]) -> list[str]:
    reasons = [f"{name}: {why}" for name, why in known.items() if body.get(name) not in (None, [], (), False)]
    model = body.get("model")
    if isinstance(model, str):
        if _RESEARCHES.match(model) or (_SEARCHES.match(model) and body.get("disable_search") is not True):
            reasons.append("model: it searches the web unasked")
        if "multi-agent" in model:  # 40 tokens became 39,263 (docs.apiyi.com/en/api-capabilities/grok/multi-agent)
            reasons.append("model: what its agents tell one another is billed too")
        if "@preset/" in model:
            reasons.append("model: the preset is kept by the server")
    return reasons


def _thinks(body: Mapping[str, Any]) -> bool:
    for name in ("thinking", "reasoning"):
        asked = as_fields(body.get(name) or {}, name)
        if asked and asked.get("type") != "disabled" and asked.get("enabled") is not False:
            return asked.get("effort") != "none"
    return body.get("prompt_mode") is not None or str(body.get("model")).endswith(":thinking")


def _message(message: object, place: str, ttls: set[str]) -> Mapping[str, Any]:
    """Return a message as OpenAI has it: what else it says as parts of text."""
    fields = as_fields(message, place)
    content = fields.get("content")
    plain = isinstance(content, str) or content is None
    if plain and not any(name in fields for name in _UNSENT_FIELDS):
        return fields
    _cached(fields, place, ttls)
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else []
    if not plain:
        for i, part in enumerate(as_items(content, f"{place}.content")):
            parts += _part(part, f"{place}.content[{i}]", ttls)
    for name in _TEXT_FIELDS:
        if fields.get(name):
            parts.append(_text(fields[name], f"{place}.{name}"))
    kept = {name: value for name, value in fields.items() if name not in _UNSENT_FIELDS and name != "content"}
    return {**kept, "content": parts} if parts or content is not None else kept


def _part(part: object, place: str, ttls: set[str]) -> list[Any]:
    fields = as_fields(part, place)
    kind = fields.get("type")
    _cached(fields, place, ttls)
    if kind == "thinking":
        return [_text(fields.get("thinking"), f"{place}.thinking"), _text(fields.get("signature") or "", place)]
    if kind == "reference":
        return []
    if kind == "document":
        return [_text(fields.get("document"), f"{place}.document")]
    if kind == "image_url" and isinstance(fields.get("image_url"), str):
        return [{"type": "image_url", "image_url": {"url": fields["image_url"]}}]
    if kind == "document_url" and str(fields.get("document_url"))[:5] == "data:":
        return [{"type": "file", "file": {"file_data": fields["document_url"]}}]
    return [{name: value for name, value in fields.items() if name != "cache_control"}]


def _text(value: object, place: str) -> Mapping[str, Any]:
    return {"type": "text", "text": value if isinstance(value, str) else compact(value, place)}


def _documents(documents: object) -> list[Any]:
    """Return documents that the answer is to be grounded on as a message each."""
    items = as_items(documents, "documents") if documents is not None else ()
    return [{"role": "user", "content": [_text(item, f"documents[{i}]")]} for i, item in enumerate(items)]


def _format(format: object) -> object:
    """Return a format that has a schema or grammar as OpenAI names it."""
    if not isinstance(format, Mapping) or format.get("type") in ("json_schema", "text"):
        return format
    described = {name: value for name, value in format.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": described} if described else format


def _tool(tool: object, place: str, ttls: set[str]) -> Mapping[str, Any]:
    fields = as_fields(tool, place)
    _cached(fields, place, ttls)
    kept = {name: value for name, value in fields.items() if name not in ("cache_control", "defer_loading")}
    if kept.get("type") is None and "function" in kept:  # Mistral's clients leave it out
        kept["type"] = "function"
    return kept


def _cached(holder: Mapping[str, Any], place: str, ttls: set[str]) -> None:
    control = holder.get("cache_control")
    if control is not None:
        ttl = as_fields(control, f"{place}.cache_control".lstrip(".")).get("ttl")
        ttls.add(ttl if ttl in ("5m", "1h") else "5m")
