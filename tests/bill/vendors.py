"""A server that speaks the usage and cost reports of OpenAI and Anthropic as they are documented, and nothing more.

What a provider documents as wrong is refused here: a missing or wrong key, a path, parameter, width or group that it
does not have, more buckets than a page may have, a page that was not handed out. It sums the calls that it was given
by itself, with prices and arithmetic of its own.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEYS = {"openai": "sk-admin-right", "anthropic": "sk-ant-admin-right"}
SECONDS = {"1d": 86400, "1h": 3600, "1m": 60}
LIMITS = {"1d": (7, 31), "1h": (24, 168), "1m": (60, 1440)}
COMMON = {"project_id", "user_id", "api_key_id", "model"}
OPENAI = {
    "completions": COMMON | {"batch", "service_tier", "api_source"}, "embeddings": COMMON, "moderations": COMMON,
    "images": COMMON | {"size", "source"}, "audio_speeches": COMMON, "audio_transcriptions": COMMON,
}  # fmt: skip
ANTHROPIC = {
    "api_key_id", "workspace_id", "model", "service_tier", "context_window", "inference_geo", "account_id",
    "service_account_id",
}  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A call as the provider saw it: times in microseconds, tokens by kind, pico-dollars per token of each kind."""

    provider: str
    model: str
    began: int
    ended: int
    tokens: dict[str, int]
    prices: dict[str, int]
    key: str = "key_1"
    project: str = "proj_1"
    tier: str | None = None
    report: str = "completions"
    images: int = 0
    requests: int = 1
    searches: int = 0
    long: bool = False

    def picos(self, kind: str) -> int:
        return self.tokens.get(kind, 0) * self.prices.get(kind, 0)


@dataclass
class Vendors:
    """The server.

    Attributes:
        calls: What was called.
        by_begin: Whether a call counts to the bucket of its begin, or of its end.
        trouble: Answers to give before the right ones: (status, headers), or None to break the connection.
        asked: The paths that were asked for, with their parameters.
        page: The largest number of buckets in a page, below what is asked for.
    """

    calls: list[Call] = field(default_factory=list)
    by_begin: bool = False
    trouble: list[tuple[int, dict[str, str]] | None] = field(default_factory=list)
    asked: list[tuple[str, list[tuple[str, str]]]] = field(default_factory=list)
    page: int = 1440
    agents: set[str] = field(default_factory=set)

    def __enter__(self) -> Vendors:
        vendors = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                vendors.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        query = parse_qsl(parts.query, keep_blank_values=True)
        self.asked.append((parts.path, query))
        self.agents.add(handler.headers["user-agent"])
        if self.trouble:
            now = self.trouble.pop(0)
            if now is None:
                handler.close_connection = True
                handler.connection.close()
                return
            _send(handler, now[0], {"error": {"message": "not now"}}, now[1])
            return
        try:
            document = self.report(parts.path, query, handler.headers)
        except Wrong as error:
            _send(handler, error.code, {"error": {"type": "invalid_request_error", "message": error.text}})
        else:
            _send(handler, 200, document)

    def report(self, path: str, query: list[tuple[str, str]], headers: Any) -> dict[str, Any]:
        if path.startswith("/v1/organizations/"):
            if headers["x-api-key"] != KEYS["anthropic"]:
                raise Wrong(401, "invalid x-api-key")
            if headers["anthropic-version"] != "2023-06-01":
                raise Wrong(400, "anthropic-version: header is required")
            return self._anthropic(path.removeprefix("/v1/organizations/"), query)
        if headers["authorization"] != f"Bearer {KEYS['openai']}":
            raise Wrong(401, f"Incorrect API key provided: {headers['authorization']}")
        return self._openai(path.removeprefix("/v1/organization/"), query)

    def _anthropic(self, path: str, query: list[tuple[str, str]]) -> dict[str, Any]:
        costs = path == "cost_report"
        if not costs and path != "usage_report/messages":
            raise Wrong(404, "not_found")
        groups = {"workspace_id", "description"} if costs else ANTHROPIC
        asked = Asked(query, ("starting_at", "ending_at"), groups, ("1d",) if costs else tuple(SECONDS), 31)
        make = _anthropic_cost if costs else _anthropic_usage
        calls = [call for call in self.calls if call.provider == "anthropic"]
        data = [
            {"starting_at": _rfc(start), "ending_at": _rfc(end), "results": list(make(found, asked.groups))}
            for start, end, found in self._buckets(calls, asked)
        ]
        return self._paged(data, asked)

    def _openai(self, path: str, query: list[tuple[str, str]]) -> dict[str, Any]:
        costs, name = path == "costs", path.removeprefix("usage/")
        if not costs and (name == path or name not in OPENAI):
            raise Wrong(404, "Invalid URL")
        groups = {"project_id", "user_id", "line_item", "api_key_id", "api_source"} if costs else OPENAI[name]
        asked = Asked(query, ("start_time", "end_time"), groups, ("1d",) if costs else tuple(SECONDS), 180)
        calls = [call for call in self.calls if call.provider == "openai" and (costs or call.report == name)]
        data = [
            {
                "object": "bucket", "start_time": start, "end_time": end,
                "results": list(_openai_cost(found, asked.groups) if costs else _usage(found, asked.groups, name)),
            }
            for start, end, found in self._buckets(calls, asked)
        ]  # fmt: skip
        return {"object": "page", **self._paged(data, asked)}

    def _buckets(self, calls: list[Call], asked: Asked) -> Iterable[tuple[int, int, list[Call]]]:
        width = SECONDS[asked.width]
        held: dict[int, list[Call]] = defaultdict(list)
        for call in calls:
            at = (call.began if self.by_begin else call.ended) // 10**6
            held[at - at % width].append(call)
        for start in range(asked.start - asked.start % width, asked.end, width):
            yield start, start + width, held[start]

    def _paged(self, data: list[dict[str, Any]], asked: Asked) -> dict[str, Any]:
        count, first = min(asked.limit, self.page), 0
        if asked.page is not None:
            if not asked.page.startswith("page_"):
                raise Wrong(400, "page: invalid")
            first = int(asked.page.removeprefix("page_"))
        more = first + count < len(data)
        page = f"page_{first + count}" if more else None
        return {"data": data[first : first + count], "has_more": more, "next_page": page}


class Wrong(Exception):
    def __init__(self, code: int, text: str):
        self.code, self.text = code, text


class Asked:
    """The parameters of a request, checked."""

    def __init__(
        self, query: list[tuple[str, str]], times: tuple[str, str], groups: set[str], widths: tuple[str, ...], most: int
    ):
        given: dict[str, list[str]] = defaultdict(list)
        for name, value in query:
            given[name.removesuffix("[]")].append(value)
        known = {*times, "bucket_width", "limit", "page", "group_by", "models", "api_key_ids"}
        if unknown := sorted(given.keys() - known):
            raise Wrong(400, f"{unknown[0]}: unknown parameter")
        if any(len(values) > 1 for name, values in given.items() if name != "group_by"):
            raise Wrong(400, "a parameter stands twice")
        self.start, self.end = (_time(given, name, times[0] == "starting_at") for name in times)
        if self.end <= self.start:
            raise Wrong(400, f"{times[1]}: must be after {times[0]}")
        self.width = given.get("bucket_width", ["1d"])[0]
        if self.width not in widths:
            raise Wrong(400, f"bucket_width: {self.width} is not supported")
        default, largest = LIMITS[self.width]
        if len(widths) == 1:
            largest = most
        self.limit = int(given.get("limit", [str(default)])[0])
        if not 1 <= self.limit <= largest:
            raise Wrong(400, f"limit: must be between 1 and {largest}")
        self.groups = given.get("group_by", [])
        if wrong := set(self.groups) - groups:
            raise Wrong(400, f"group_by: {sorted(wrong)[0]} is not supported")
        self.page = given["page"][0] if "page" in given else None


def _time(given: dict[str, list[str]], name: str, rfc: bool) -> int:
    if name not in given:
        raise Wrong(400, f"{name}: Field required")
    text = given[name][0]
    try:
        return int(datetime.fromisoformat(text).timestamp()) if rfc else int(text)
    except ValueError:
        raise Wrong(400, f"{name}: invalid") from None


Members = Iterable[tuple[dict[str, Any], list[Call]]]


def _grouped(calls: list[Call], groups: list[str], names: dict[str, Any]) -> Members:
    found: dict[tuple[Any, ...], list[Call]] = defaultdict(list)
    for call in calls:
        found[tuple(names[group](call) for group in groups if group in names)].append(call)
    for key, members in sorted(found.items(), key=str):
        yield dict(zip([group for group in groups if group in names], key, strict=True)), members


def _total(calls: Iterable[Call], *kinds: str) -> int:
    return sum(call.tokens.get(kind, 0) for call in calls for kind in kinds)


def _anthropic_usage(calls: list[Call], groups: list[str]) -> Iterable[dict[str, Any]]:
    names = {
        "model": lambda c: c.model, "api_key_id": lambda c: c.key, "workspace_id": lambda c: c.project,
        "service_tier": lambda c: c.tier or "standard", "inference_geo": lambda c: "global",
    }  # fmt: skip
    for group, members in _grouped(calls, groups, names):
        yield {
            **dict.fromkeys((*names, "context_window", "account_id", "service_account_id")), **group,
            "uncached_input_tokens": _total(members, "input"),
            "cache_read_input_tokens": _total(members, "cache_read"),
            "cache_creation": {
                "ephemeral_5m_input_tokens": _total(members, "cache_write_5m"),
                "ephemeral_1h_input_tokens": _total(members, "cache_write_1h"),
            },
            "output_tokens": _total(members, "output"),
            "server_tool_use": {"web_search_requests": sum(call.searches for call in members)},
        }  # fmt: skip


_TYPES = {
    "input": "uncached_input_tokens", "cache_read": "cache_read_input_tokens", "output": "output_tokens",
    "cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
}  # fmt: skip


def _anthropic_cost(calls: list[Call], groups: list[str]) -> Iterable[dict[str, Any]]:
    nothing = dict.fromkeys(
        ("context_window", "cost_type", "description", "inference_geo", "model", "service_tier", "token_type",
         "workspace_id")
    )  # fmt: skip
    names = {"workspace_id": lambda c: c.project, "description": lambda c: (c.model, c.tier or "standard", c.long)}
    for group, members in _grouped(calls, groups, names):
        model, tier, long = group.pop("description", (None, None, False))
        for kind, name in _TYPES.items():
            picos = sum(call.picos(kind) for call in members)
            if picos:
                yield {
                    **nothing, **group, "currency": "USD", "amount": _cents(picos), "cost_type": "tokens",
                    "description": f"{model} Usage - {name}", "model": model, "service_tier": tier, "token_type": name,
                    "context_window": "200k-1M" if long else "0-200k", "inference_geo": "global",
                }  # fmt: skip
        if searches := sum(call.searches for call in members):
            yield {**nothing, **group, "currency": "USD", "amount": str(searches), "cost_type": "web_search",
                   "description": "Web Search Usage"}  # fmt: skip


def _usage(calls: list[Call], groups: list[str], name: str) -> Iterable[dict[str, Any]]:
    names = {
        "project_id": lambda c: c.project, "api_key_id": lambda c: c.key, "model": lambda c: c.model,
        "batch": lambda c: c.tier == "batch",
        "service_tier": lambda c: None if c.tier == "batch" else c.tier or "default",
    }  # fmt: skip
    for group, members in _grouped(calls, groups, names):
        common = {
            "object": f"organization.usage.{name}.result", **dict.fromkeys(("user_id", *names)), **group,
            "num_model_requests": sum(call.requests for call in members),
        }  # fmt: skip
        if name == "images":
            yield {**common, "images": sum(call.images for call in members)}
            continue
        tokens = {"input_tokens": _total(members, "input", "cache_read", "cache_write_30m")}
        if name == "completions":
            tokens |= {
                "output_tokens": _total(members, "output"), "input_cached_tokens": _total(members, "cache_read"),
                "input_cache_write_tokens": _total(members, "cache_write_30m"),
                "input_cache_write_30m_tokens": _total(members, "cache_write_30m"),
            }  # fmt: skip
        yield {**common, **tokens}


_ITEMS = {"input": "input", "cache_read": "cached input", "output": "output", "cache_write_30m": "cache writes"}


def _openai_cost(calls: list[Call], groups: list[str]) -> Iterable[dict[str, Any]]:
    names = {
        "project_id": lambda c: c.project, "api_key_id": lambda c: c.key,
        "line_item": lambda c: (c.model, c.tier or "", c.long),
    }  # fmt: skip
    for group, members in _grouped(calls, groups, names):
        model, tier, long = group.pop("line_item", (None, None, False))
        for kind, name in _ITEMS.items():
            if picos := sum(call.picos(kind) for call in members):
                yield {
                    "object": "organization.costs.result", "user_id": None, "project_id": None, "api_key_id": None,
                    **group,
                    "line_item": f"{f'{tier} | ' if tier else ''}{model}, {name}{', long context' if long else ''}",
                    "amount": {"value": picos / 10**12, "currency": "usd"}, "quantity": float(_total(members, kind)),
                    "quantity_unit": "tokens",
                }  # fmt: skip


def _cents(picos: int) -> str:
    """An amount in cents with at most five decimals, as a decimal text."""
    units = round(Fraction(picos, 10**5))
    whole, rest = divmod(units, 10**5)
    return f"{whole}.{rest:05d}".rstrip("0").rstrip(".")


def _rfc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _send(handler: BaseHTTPRequestHandler, code: int, document: object, headers: dict[str, str] | None = None) -> None:
    content = json.dumps(document).encode()
    handler.send_response(code)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
