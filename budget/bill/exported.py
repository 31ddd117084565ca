"""Read files that providers export: what their reports answer (JSON, JSON Lines), and the CSV of their consoles.

Which report a file is shows in its names, never in that of the file. A file of the API lists its buckets, also those
without a line; a CSV has lines alone, and is taken to cover each day from its first to its last.

The CSV headers were seen in exports of 2026 (platform.openai.com/usage; platform.claude.com/usage and /cost): those of
OpenAI have the names of its API, with the amount in two columns; those of Anthropic have names of their own, keys and
workspaces by their names, models of costs by their titles, and costs in dollars rounded to cents.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from budget.bill.lines import DAY_US, MICRO, Charged, Used
from budget.bill.reports import COSTS, PROVIDERS, Provider
from budget.errors import ConfigError

__all__ = ["Export", "read_export"]

_CENT = 10_000 * MICRO
_ANTHROPIC = {
    "model_version": "model", "workspace": "workspace_id", "usage_input_tokens_no_cache": "uncached_input_tokens",
    "usage_input_tokens_cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "usage_input_tokens_cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
    "usage_input_tokens_cache_read": "cache_read_input_tokens", "usage_output_tokens": "output_tokens",
    "web_search_count": "server_tool_use.web_search_requests",
}  # fmt: skip
_KINDS = {
    "input_no_cache": "uncached_input_tokens", "output": "output_tokens", "input_cache_read": "cache_read_input_tokens",
    "input_cache_write_5m": "cache_creation.ephemeral_5m_input_tokens",
    "input_cache_write_1h": "cache_creation.ephemeral_1h_input_tokens",
}  # fmt: skip
_MARKS = {"images": "images", "characters": "audio_speeches", "seconds": "audio_transcriptions"}
_OBJECT = "organization.usage."


class Export(NamedTuple):
    """What a file has of one report: the days that it covers, and their lines."""

    provider: str
    report: str
    days: Collection[int]
    lines: list[Used | Charged]


def read_export(path: Path) -> list[Export]:
    """Read a file; one may hold several reports.

    Raises:
        ConfigError: It cannot be read, or is no report of a provider that is known here.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"file: {path.name} cannot be read ({type(error).__name__})") from None
    try:
        found = list(_read_json(text) if text.lstrip()[:1] in ("{", "[") else _read_csv(text))
    except (KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ConfigError(f"file: {path.name} is not a report: {type(error).__name__} at {str(error)[:40]}") from None
    except ConfigError as error:
        raise ConfigError(f"file: {path.name}: {error}") from None
    if not found:
        raise ConfigError(f"file: {path.name} has no bucket of a report")
    return found


def _read_json(text: str) -> Iterator[Export]:
    groups: dict[tuple[str, str], tuple[set[int], list[Used | Charged]]] = {}
    empty: dict[str, set[int]] = {}
    for raw in _buckets(text):
        provider = PROVIDERS["anthropic" if "starting_at" in raw else "openai"]
        bucket = provider.bucket(raw)
        days = range(bucket[0] // DAY_US, -(-bucket[1] // DAY_US))
        if not raw["results"]:
            empty.setdefault(provider.name, set()).update(days)
        for result in raw["results"]:
            name = _report_of(provider, result)
            covered, lines = groups.setdefault((provider.name, name), (set(), []))
            covered.update(days)
            lines.append(provider.report(name).read(result, bucket, name))
    for (name, report), (covered, lines) in groups.items():
        yield Export(name, report, covered | empty.get(name, set()), lines)


def _buckets(text: str) -> Iterator[dict[str, Any]]:
    """Yield the buckets of a page, a list of pages or of buckets, or JSON Lines of them."""
    try:
        documents = [json.loads(text, parse_float=Decimal)]
    except ValueError:
        try:
            documents = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise ConfigError("is neither JSON nor JSON Lines") from None
    while documents:
        document = documents.pop(0)
        if isinstance(document, list):
            documents[:0] = document
        elif isinstance(document.get("data"), list):
            documents[:0] = document["data"]
        elif isinstance(document.get("results"), list):
            yield document
        else:
            raise ConfigError("has something else than buckets with results")


def _report_of(provider: Provider, result: Mapping[str, Any]) -> str:
    if provider.name == "anthropic":
        return COSTS if "amount" in result else "messages"
    name = str(result.get("object", ""))
    if name == "organization.costs.result":
        return COSTS
    name = name.removeprefix(_OBJECT).removesuffix(".result")
    if name not in provider.usage:
        raise ConfigError(f"{name[:40]!r} is not one of the reports {', '.join(provider.usage)}")
    return name


def _read_csv(text: str) -> Iterator[Export]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = set(reader.fieldnames or ())
    if "usage_date_utc" in names:
        provider, report = PROVIDERS["anthropic"], COSTS if "cost_usd" in names else "messages"
        lines = list(_anthropic_lines(reader, report))
    elif "start_time" in names:
        provider, report = PROVIDERS["openai"], _openai_report(names)
        lines = list(_openai_lines(reader, report))
    else:
        raise ConfigError("has neither the columns of OpenAI's exports (start_time) nor Anthropic's (usage_date_utc)")
    if lines:
        days = [line.day for line in lines]
        yield Export(provider.name, report, range(min(days), max(days) + 1), lines)


def _openai_report(names: set[str]) -> str:
    if "amount_value" in names:
        return COSTS
    for mark, report in _MARKS.items():
        if mark in names:
            return report
    return "completions" if "output_tokens" in names else "embeddings"


def _openai_lines(rows: Iterable[Mapping[str, Any]], report: str) -> Iterator[Used | Charged]:
    provider = PROVIDERS["openai"]
    for row in rows:
        if report == COSTS:
            if not row["amount_value"]:
                continue  # a bucket without costs
            amount = {"value": row["amount_value"], "currency": row.get("amount_currency")}
            yield provider.report(report).read({**row, "amount": amount}, provider.bucket(row), report)
        elif row.get("num_model_requests"):  # otherwise a bucket without usage
            yield provider.report(report).read(row, provider.bucket(row), report)


def _anthropic_lines(rows: Iterable[Mapping[str, Any]], report: str) -> Iterator[Used | Charged]:
    provider = PROVIDERS["anthropic"]
    for row in rows:
        start, _ = provider.bucket({"starting_at": row["usage_date_utc"], "ending_at": "9999-12-31"})
        raw: dict[str, Any] = {_ANTHROPIC.get(name, name): value for name, value in row.items() if name is not None}
        raw["api_key_id"] = raw.get("api_key_id") or raw.get("api_key")
        raw["service_tier"] = "batch" if raw.get("usage_type") == "batch" else None
        if report == COSTS:
            raw |= {"amount": _cents(raw["cost_usd"]), "token_type": _KINDS.get(raw["token_type"], raw["token_type"])}
            raw["cost_type"] = None if raw["token_type"] else raw.get("cost_type")
            raw["model"] = (raw.get("model") or "").strip().lower().replace(" ", "-").replace(".", "-")
        line = provider.report(report).read(raw, (start, start + DAY_US), report)
        if isinstance(line, Charged):
            line = replace(line, key=raw["api_key_id"] or None, off=_CENT // 2)
        yield line


def _cents(dollars: str) -> Decimal:
    try:
        return Decimal(dollars) * 100
    except ArithmeticError:
        raise ConfigError("cost_usd: is not an amount of a bill") from None
