"""Anthropic, Bedrock and Cohere. Cached tokens are beside the input figure."""

from __future__ import annotations

from budget.reported.fields import Fields, as_dict, check_said, get, listed, snake_keys, whole_number

__all__ = ["anthropic", "cohere", "converse", "llama", "metrics", "titan"]


def anthropic(usage: Fields, answer: Fields, _provider: str | None) -> Fields:
    """Messages. Cached tokens are beside the input figure, and what a compaction used is beside all of them.

    "To calculate total tokens consumed and billed, sum across all entries" of `iterations`
    (platform.claude.com/docs/en/build-with-claude/compaction, read 2026-11-22). An advisor's entries are of another
    model, which this usage cannot price: they are counted as calls of a tool, which then shows as unpriced.
    """
    own, advised = [usage], 0
    if parts := [as_dict(each) for each in listed(usage, "iterations")]:
        said = [part for part in parts if part.get("type") != "advisor_message"]
        advised = len(parts) - len(said)
        own = said if any(part.get("type") == "compaction" for part in said) else own
    writes: dict[str, int] = {}
    for part in own:
        check_said(part, answer, "input_tokens", "output_tokens")
        for ttl, tokens in _anthropic_writes(part).items():
            writes[ttl] = writes.get(ttl, 0) + tokens
    calls = as_dict(usage.get("server_tool_use"))
    tools = {name.removesuffix("_requests"): n for name in calls if (n := get(calls, name))}
    return {
        "input": sum([get(part, "input_tokens") for part in own]),
        "cache_read": sum([get(part, "cache_read_input_tokens") for part in own]),
        "cache_write": writes,
        "output": sum([get(part, "output_tokens") for part in own]),
        "reasoning": get(as_dict(usage.get("output_tokens_details")), "thinking_tokens"),
        "tools": {**tools, **({"advisor": advised} if advised else {})},
    }


def _anthropic_writes(usage: Fields) -> dict[str, int]:
    written, created = get(usage, "cache_creation_input_tokens"), as_dict(usage.get("cache_creation"))
    by_ttl = {ttl: n for ttl in ("5m", "1h") if (n := get(created, f"ephemeral_{ttl}_input_tokens"))}
    if unsaid := max(0, written - sum(by_ttl.values())):  # what a breakdown does not name was written for 5 minutes
        by_ttl["5m"] = by_ttl.get("5m", 0) + unsaid
    return by_ttl


def converse(camel: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """Bedrock's Converse, and Nova's own shape."""
    usage = snake_keys(camel)
    written = get(usage, "cache_write_input_tokens") or get(usage, "cache_write_input_token_count")
    by_ttl: dict[str, int] = {}
    for each in listed(usage, "cache_details"):
        detail = snake_keys(as_dict(each))
        by_ttl[str(detail.get("ttl"))] = by_ttl.get(str(detail.get("ttl")), 0) + get(detail, "input_tokens")
    if unsaid := max(0, written - sum(by_ttl.values())):
        by_ttl["5m"] = by_ttl.get("5m", 0) + unsaid
    calls = snake_keys(as_dict(usage.get("server_tool_usage")))
    return {
        "input": get(usage, "input_tokens"),
        "cache_read": get(usage, "cache_read_input_tokens") or get(usage, "cache_read_input_token_count"),
        "cache_write": {ttl: tokens for ttl, tokens in by_ttl.items() if tokens},
        "output": get(usage, "output_tokens"),
        "tools": {name.removesuffix("_requests"): n for name in calls if (n := get(calls, name))},
    }


def titan(camel: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """Titan's own shape."""
    usage = snake_keys(camel)
    results = [snake_keys(as_dict(each)) for each in listed(usage, "results")]
    streamed = whole_number(usage, "total_output_text_token_count")
    made = sum(whole_number(each, "token_count") for each in results)
    return {"input": whole_number(usage, "input_text_token_count"), "output": max(made, streamed)}


def metrics(usage: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """What Bedrock adds to the last chunk of any model's stream."""
    said = snake_keys(as_dict(usage["amazon-bedrock-invocationMetrics"]))
    writes = get(said, "cache_write_input_token_count")
    return {
        "input": get(said, "input_token_count"), "cache_read": get(said, "cache_read_input_token_count"),
        "cache_write": {"5m": writes} if writes else {}, "output": get(said, "output_token_count"),
    }  # fmt: skip


def llama(usage: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """Llama's own shape on Bedrock."""
    return {"input": get(usage, "prompt_token_count"), "output": get(usage, "generation_token_count")}


def cohere(usage: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """Cohere v1 and v2, whose SDK makes floats of counts: `billed_units` is what is charged, `tokens` what was seen."""
    snake = snake_keys(usage)
    billed = snake_keys(as_dict(snake.get("billed_units")))
    if not billed:
        tokens = as_dict(snake.get("tokens"))
        seen = whole_number(tokens, "input_tokens")
        read = min(whole_number(snake, "cached_tokens"), seen)
        return {"input": seen - read, "cache_read": read, "output": whole_number(tokens, "output_tokens")}
    images = whole_number(billed, "image_tokens")
    units = {"search_unit": "search_units", "classification": "classifications"}
    return {
        "input": whole_number(billed, "input_tokens") + images,
        "output": whole_number(billed, "output_tokens"),
        "parts": {"input_image": images} if images else {},
        "tools": {unit: n for unit, name in units.items() if (n := whole_number(billed, name))},
    }
