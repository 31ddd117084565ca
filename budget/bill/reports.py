"""The reports of the providers: where they are, what may be asked of them, and how their lines are read.

What is documented, read 2026-11-22:

* OpenAI (developers.openai.com/api/reference, usage and costs; the types of its Python SDK 3.54): times are Unix
  seconds; buckets of 1m, 1h and 1d, at most 1,440, 168 and 31 of them in a page, of costs 1d only and at most 180;
  `group_by`; `has_more` and `next_page`. Input tokens contain those read from and written to a cache. An amount is a
  number of dollars. A cost's `line_item` is text: "gpt-5-mini-2025-08-07, cached input", with a tier before a bar and
  ", long context" behind.
* Anthropic (platform.claude.com/docs/en/api/admin, usage and cost report; .../manage-claude/usage-cost-api): times are
  RFC 3339; the same buckets and maxima, of costs 1d only and at most 31; `group_by[]`. Cached tokens stand beside
  the uncached ones, writes by their time to live. The report has no number of requests. An amount is a decimal text in
  cents. Costs have no key, and do not contain the priority tier.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from budget.bill.lines import Charged, Used, read_count, read_nanos
from budget.errors import ConfigError

__all__ = ["COSTS", "PROVIDERS", "WIDTHS", "Provider", "Report"]

COSTS = "costs"
"""The name of each provider's report of costs."""
WIDTHS = {"1d": 31, "1h": 168, "1m": 1440}
"""The widths of buckets, and how many of them a page of usage may have."""
_DAYS = {"1d": 180}

Bucket = tuple[int, int]
Read = Callable[[Mapping[str, Any], Bucket, str], Used | Charged]


@dataclass(frozen=True, slots=True)
class Report:
    """One report of a provider.

    Attributes:
        name: "completions", "messages", "costs" ...
        path: Below the base URL.
        groups: What its lines are asked to be told apart by.
        read: Makes a line of a result, its bucket and the report's name.
        widths: As `WIDTHS`.
        tokens: Whether its lines count tokens.
    """

    name: str
    path: str
    groups: tuple[str, ...]
    read: Read
    widths: Mapping[str, int]
    tokens: bool = True

    def width(self, wanted: str) -> str:
        """Return the width to ask for: the wanted one, or the only one there is."""
        return wanted if wanted in self.widths else "1d"


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider that tells an organization what it used and owes.

    Attributes:
        variable: The environment variable of the admin key.
        times: The names of the parameters for the begin and the end.
        marks: The names of a bucket's begin and end.
        rfc: Whether times are RFC 3339, or else Unix seconds.
        headers: Made of the key.
        reports: All of them; `costs` is the last.
    """

    name: str
    url: str
    variable: str
    times: tuple[str, str]
    marks: tuple[str, str]
    rfc: bool
    headers: Callable[[str], dict[str, str]]
    reports: tuple[Report, ...]

    def report(self, name: str) -> Report:
        """Return the report of a name."""
        return next(report for report in self.reports if report.name == name)

    @property
    def usage(self) -> tuple[str, ...]:
        """The names of the reports of usage."""
        return tuple(report.name for report in self.reports if report.name != COSTS)

    @property
    def has_key(self) -> bool:
        """Whether the environment has an admin key."""
        return bool(os.environ.get(self.variable, "").strip())

    def write_time(self, at_us: int) -> str:
        """Write a time as its parameters have it."""
        seconds = at_us // 10**6
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if self.rfc else str(seconds)

    def bucket(self, raw: Mapping[str, Any]) -> Bucket:
        """Read the begin and the end of a bucket.

        Raises:
            ConfigError: It has none.
        """
        start, end = (_read_time(raw.get(mark), mark) for mark in self.marks)
        if end <= start:
            raise ConfigError(f"{self.marks[1]}: a bucket ends after it begins")
        return start, end


def _read_time(value: object, name: str) -> int:
    if isinstance(value, Decimal):
        value = int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value * 10**6
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(f"{name}: is not a time") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)  # a day alone: these reports are in UTC
    return int(moment.timestamp()) * 10**6


# OpenAI

_ITEMS = {
    "input": "input", "input_tokens": "input", "cached input": "cache_read", "cached_input_tokens": "cache_read",
    "input_cached_tokens": "cache_read", "cache writes": "cache_write", "output": "output", "output_tokens": "output",
}  # fmt: skip
_ITEM = re.compile(
    r"(?:(?P<tier>[\w -]+) \| )?(?P<model>[^\s,|]+)(?: (?P<part>\w+))?, (?P<item>[^,]+)(?P<long>, long context)?",
    re.ASCII,
)
_STANDARD = ("", "default", "standard", "auto", "none", "null")


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    found = raw.get(name)
    return str(found) if found not in (None, "") else None


def _tier(raw: Mapping[str, Any]) -> str | None:
    if str(raw.get("batch")).lower() == "true":
        return "batch"
    found = str(raw.get("service_tier") or "").lower()
    return None if found in _STANDARD else found


def _geo(raw: Mapping[str, Any]) -> str | None:
    found = _text(raw, "inference_geo")
    return None if found in ("global", "not_available") else found


def _openai_used(raw: Mapping[str, Any], bucket: Bucket, report: str) -> Used:
    def count(name: str) -> int:
        return read_count(raw.get(name), name)

    read, written = count("input_cached_tokens"), count("input_cache_write_tokens")
    writes = {"30m": count("input_cache_write_30m_tokens"), "12h": count("input_cache_write_12h_tokens")}
    writes["default"] = max(0, written - sum(writes.values()))
    fresh = count("input_tokens") - read - sum(writes.values())
    if fresh < 0:
        raise ConfigError("input_tokens: is below the cached tokens that it contains")
    units = {"image": count("images"), "character": count("characters"), "second": count("seconds")}
    return Used(
        "openai", *bucket, _text(raw, "model"), _text(raw, "api_key_id"), _text(raw, "project_id"), _tier(raw), None,
        report, fresh, read, _some(writes), count("output_tokens"), _some(units), count("num_model_requests"),
    )  # fmt: skip


def _openai_charged(raw: Mapping[str, Any], bucket: Bucket, report: str) -> Charged:
    found = raw.get("amount")
    amount = found if isinstance(found, Mapping) else {}
    _only_usd(amount.get("currency"))
    said = _text(raw, "line_item")
    tier = model = None
    item, long = said or "", False
    if match := _ITEM.fullmatch(item):
        model, kind, long = match["model"], match["item"].lower(), match["long"] is not None
        tier = None if (match["tier"] or "").lower() in _STANDARD else match["tier"].lower()
        item = _ITEMS.get(kind, kind) + (f"_{match['part']}" if match["part"] not in (None, "text") else "")
    elif said and " " not in said and "," not in said:
        model, item = said, ""
    nanos = read_nanos(amount.get("value"), "amount")
    return Charged(
        "openai", *bucket, model, _text(raw, "api_key_id"), _text(raw, "project_id"), tier, None, item, nanos, long
    )


# Anthropic

_KINDS = {"uncached_input_tokens": "input", "cache_read_input_tokens": "cache_read", "output_tokens": "output"}
_LONG = ("200k-1M", "> 200k")
_WRITE = re.compile(r"(?:cache_creation\.)?ephemeral_(\d+[mh])_input_tokens", re.ASCII)


def _anthropic_used(raw: Mapping[str, Any], bucket: Bucket, report: str) -> Used:
    flat = {**raw}
    for name in ("cache_creation", "server_tool_use"):
        found = raw.get(name)
        if isinstance(found, Mapping):
            flat |= {f"{name}.{key}": value for key, value in found.items()}
    writes = {match[1]: read_count(flat[name], name) for name in flat if (match := _WRITE.fullmatch(name))}
    searches = read_count(flat.get("server_tool_use.web_search_requests"), "web_search_requests")
    input, read, output = (read_count(flat.get(name), name) for name in _KINDS)
    return Used(
        "anthropic", *bucket, _text(raw, "model"), _text(raw, "api_key_id"), _text(raw, "workspace_id"), _tier(raw),
        _geo(raw), report, input, read, _some(writes), output, _some({"web_search": searches}),
    )  # fmt: skip


def _anthropic_charged(raw: Mapping[str, Any], bucket: Bucket, report: str) -> Charged:
    _only_usd(raw.get("currency"))
    kind = _text(raw, "token_type") or ""
    match = _WRITE.fullmatch(kind)
    item = f"cache_write_{match[1]}" if match else _KINDS.get(kind, kind)
    item = item or _text(raw, "cost_type") or _text(raw, "description") or ""
    nanos = read_nanos(raw.get("amount"), "amount", per_usd=100)
    return Charged(
        "anthropic", *bucket, _text(raw, "model"), None, _text(raw, "workspace_id"), _tier(raw), _geo(raw), item, nanos,
        _text(raw, "context_window") in _LONG,
    )  # fmt: skip


def _only_usd(currency: object) -> None:
    if str(currency or "usd").lower() != "usd":
        raise ConfigError(f"currency: {str(currency)[:8]!r} is not USD, and prices here are in nothing else")


def _some(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


_BY = ("project_id", "api_key_id", "model")
_USAGE = "/v1/organization/usage"
_OTHERS = ("moderations", "images", "audio_speeches", "audio_transcriptions")

PROVIDERS = {
    "openai": Provider(
        "openai", "https://api.openai.com", "OPENAI_ADMIN_KEY", ("start_time", "end_time"),
        ("start_time", "end_time"), False, lambda key: {"Authorization": f"Bearer {key}"},
        (
            Report("completions", f"{_USAGE}/completions", (*_BY, "batch", "service_tier"), _openai_used, WIDTHS),
            Report("embeddings", f"{_USAGE}/embeddings", _BY, _openai_used, WIDTHS),
            *(Report(name, f"{_USAGE}/{name}", _BY, _openai_used, WIDTHS, name == "moderations") for name in _OTHERS),
            Report(COSTS, "/v1/organization/costs", ("project_id", "line_item", "api_key_id"), _openai_charged, _DAYS),
        ),
    ),
    "anthropic": Provider(
        "anthropic", "https://api.anthropic.com", "ANTHROPIC_ADMIN_KEY", ("starting_at", "ending_at"),
        ("starting_at", "ending_at"), True, lambda key: {"x-api-key": key, "anthropic-version": "2023-06-01"},
        (
            Report(
                "messages", "/v1/organizations/usage_report/messages",
                ("model", "api_key_id", "workspace_id", "service_tier", "inference_geo"), _anthropic_used, WIDTHS,
            ),
            Report(
                COSTS, "/v1/organizations/cost_report", ("workspace_id", "description"), _anthropic_charged,
                {"1d": 31},
            ),
        ),
    ),
}  # fmt: skip
"""The providers whose bill can be checked."""
