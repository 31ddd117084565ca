"""OpenAI's shapes, and all that speak like them: chat, Responses, embeddings. Cached tokens are inside the input."""

from __future__ import annotations

from math import ceil, isfinite

from budget.errors import ConfigError
from budget.reported.fields import Fields, as_dict, check_said, get, listed, within

__all__ = ["chat", "duration", "responses"]

_BUILT_IN = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "code_interpreter_call": "code_interpreter",
    "image_generation_call": "image_generation",
    "shell_call": "shell",
}
_CACHED = ("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens", "cached_prompt_text_tokens")


def chat(usage: Fields, answer: Fields, provider: str | None) -> Fields:
    """Chat completions, completions, embeddings; Mistral, DeepSeek, Groq, xAI, Perplexity, OpenRouter likewise."""
    check_said(usage, answer, "prompt_tokens", "completion_tokens")
    seconds = usage.get("prompt_audio_seconds")
    if not isinstance(seconds, (int, float)) or seconds <= 0:
        return {**_tokens(usage, "prompt_tokens", "completion_tokens", provider), "tools": _own_calls(usage)}
    heard = _heard(usage)
    tokens = _tokens(heard, "prompt_tokens", "completion_tokens", provider)
    return {**tokens, "tools": _own_calls(usage) | duration({"seconds": seconds}, answer, provider)["tools"]}


def responses(usage: Fields, answer: Fields, provider: str | None) -> Fields:
    """Responses, realtime, images and transcripts."""
    check_said(usage, answer, "input_tokens", "output_tokens")
    if _is_image(answer) and not _details(usage, "output_tokens"):  # such a usage means images alone
        usage = {**usage, "output_tokens_details": {"image_tokens": get(usage, "output_tokens")}}
    tokens = _tokens(usage, "input_tokens", "output_tokens", provider)
    return {**tokens, "tools": _own_calls(usage) | _built_in_calls(answer)}


def duration(usage: Fields, _answer: Fields, _provider: str | None) -> Fields:
    """Transcripts that are billed by the second; one that has begun counts."""
    seconds = usage["seconds"]
    return {"tools": {"second": ceil(seconds) if isinstance(seconds, float) and isfinite(seconds) else seconds}}


def _heard(usage: Fields) -> Fields:
    """Return Mistral's usage with its audio in the prompt, which leaves it out and has it in the total only.

    The same 203 seconds, with and without timestamps: 4 + 1,316 of 3,945 tokens, and 4 + 635 of 3,264
    (docs.mistral.ai/capabilities/audio, at second hand, read 2026-11-22).
    """
    prompt = get(usage, "prompt_tokens")
    audio = max(0, get(usage, "total_tokens") - prompt - get(usage, "completion_tokens"))
    details = {**_details(usage, "prompt_tokens"), "audio_tokens": audio}
    return {**usage, "prompt_tokens": prompt + audio, "prompt_tokens_details": details}


def _is_image(answer: Fields) -> bool:
    return ("created" in answer and "data" in answer) or str(answer.get("type")).startswith("image_")


def _tokens(usage: Fields, inp: str, out: str, provider: str | None) -> Fields:
    details = _details(usage, inp)
    inside = max(get(details, "cached_tokens"), get(details, "cache_read_input_tokens"))
    read = max(inside, *(get(usage, name) for name in _CACHED))
    by_ttl = {
        ttl: count
        for ttl in ("30m", "12h")
        if (count := get(as_dict(details.get("cache_write_tokens_details")), f"ttl_{ttl}_tokens"))
    }
    if unsaid := max(0, get(details, "cache_write_tokens") - sum(by_ttl.values())):
        by_ttl["default"] = unsaid
    fresh = get(usage, inp) - read - sum(by_ttl.values())
    if fresh < 0:
        raise ConfigError(f"usage: {inp} is below its own cached tokens ({read} read, {sum(by_ttl.values())} written)")
    output, reasoning = _output(usage, inp, out, provider)
    cached = as_dict(details.get("cached_tokens_details"))
    reads = {f"cache_read_{kind}": get(cached, f"{kind}_tokens") for kind in ("audio", "image")}
    media = {
        f"input_{kind}": max(0, get(details, f"{kind}_tokens") - reads.get(f"cache_read_{kind}", 0))
        for kind in ("audio", "image", "video")
    }
    made = {f"output_{kind}": get(_details(usage, out), f"{kind}_tokens") for kind in ("audio", "image")}
    return {
        "input": fresh, "cache_read": read, "cache_write": by_ttl, "output": output, "reasoning": reasoning,
        "parts": within(media, fresh) | within(reads, read) | within(made, output - reasoning),
    }  # fmt: skip


def _output(usage: Fields, inp: str, out: str, provider: str | None) -> tuple[int, int]:
    """Return all output tokens, and those of reasoning among them.

    xAI's chat and Google's compatible endpoint leave reasoning out of the completion and count it in the total only;
    Perplexity's deep research leaves it out of both and counts it beside them.
    """
    details, output = _details(usage, out), get(usage, out)
    inside, beside = get(details, "reasoning_tokens"), get(usage, "reasoning_tokens")
    hidden = get(usage, "total_tokens") - get(usage, inp) - output
    if hidden > 0:
        output, inside = output + hidden, max(inside, hidden)
    elif beside and not inside:
        output, inside = output + beside, beside
    elif inside and usage.get("total_tokens") is None and (provider == "xai" or inside > output):
        output += inside
    return output, min(inside, output)


def _built_in_calls(response: Fields) -> dict[str, int]:
    """Count the calls of built-in tools in a Responses answer; its usage does not.

    Of a web search only the searches are billed, not the pages that it opens: "Search actions incur a tool call cost"
    (developers.openai.com/api/docs/guides/tools-web-search, read 2026-11-22). Of a shell only that in a container of
    the provider's is its own, and none that runs at the caller's (guides/tools-shell, read 2026-11-22).
    """
    offered = {str(as_dict(tool).get("type")) for tool in listed(response, "tools")}
    preview = any(name.startswith("web_search_preview") for name in offered)
    calls: dict[str, int] = {}
    for item in listed(response, "output"):
        fields = as_dict(item)
        name = _BUILT_IN.get(str(fields.get("type")))
        if name == "web_search":
            action = fields.get("action")
            if action is not None and as_dict(action).get("type", "search") != "search":
                continue
            name = "web_search_preview" if preview else name
        elif name == "shell" and as_dict(fields.get("environment")).get("type") != "container_reference":
            continue
        if name:
            calls[name] = calls.get(name, 0) + 1
    return calls


def _own_calls(usage: Fields) -> dict[str, int]:
    """Return the calls that a usage counts itself, as Perplexity's and xAI's do."""
    searches = as_dict(as_dict(usage.get("tool_calls_details")).get("search_web"))
    served = as_dict(usage.get("server_side_tool_usage_details"))
    calls = {
        "web_search": get(usage, "num_search_queries") + get(searches, "invocation") + get(served, "web_search_calls"),
        "citation": get(usage, "citation_tokens"),
        "search_source": get(usage, "num_sources_used"),
        **{name.removesuffix("_calls"): get(served, name) for name in served if name != "web_search_calls"},
    }
    return {name: count for name, count in calls.items() if count}


def _details(usage: Fields, name: str) -> Fields:
    forms = (f"{name}_details", f"{name.removesuffix('s')}_details")
    return next((as_dict(usage[form]) for form in forms if usage.get(form) is not None), {})
