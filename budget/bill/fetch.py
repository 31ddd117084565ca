"""Fetch reports from the providers: page after page, with patience, and with an admin key that goes nowhere else.

The key is read from the environment when a request is made. It stands in no error, and no redirect is followed, because
what sends one on would have it. This is the one part of the package that asks a provider anything by itself, and only
when an operator calls for it.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from http.client import HTTPException
from typing import Any, NamedTuple

from budget.bill.lines import Charged, Used
from budget.bill.reports import Provider, Report
from budget.errors import BudgetError, ConfigError

__all__ = ["BillUnavailable", "Fetcher", "Page"]

TRIES = 6
"""How often a request is made, if the provider is busy."""
TIMEOUT = 60.0
"""Seconds that one answer may take."""
_LONGEST_WAIT = 120.0
_BUSY = (408, 409, 429, 500, 502, 503, 504, 529)
_LOCAL = ("localhost", "127.0.0.1", "::1")


class BillUnavailable(BudgetError):
    """Raised when a provider does not hand out its report: refused, out of reach, or not as documented."""


class Page(NamedTuple):
    """A page of a report: the buckets that it covers, and their lines."""

    buckets: list[tuple[int, int]]
    lines: list[Used | Charged]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


class Fetcher:
    """Fetches the reports of one provider.

    Args:
        provider: Which.
        base_url: Instead of the provider's own; https, but for this machine.
        wait: Sleeps so many seconds.

    Raises:
        ConfigError: The admin key is missing, or the URL would show it to others.
    """

    def __init__(self, provider: Provider, base_url: str | None = None, wait: Callable[[float], None] = time.sleep):
        self.provider, self._wait = provider, wait
        self._url = _check_url(base_url or provider.url)
        self._key = os.environ.get(provider.variable, "").strip()
        if not self._key:
            raise ConfigError(f"{provider.variable}: set it to an admin key of the organization at {provider.name}")
        if not self._key.isprintable() or not self._key.isascii():
            raise ConfigError(f"{provider.variable}: has characters that no key has")
        # What is not encrypted does not leave this machine.
        proxies: dict[str, str] | None = None if self._url.startswith("https:") else {}
        self._opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler(proxies))

    def pages(self, report: Report, start_us: int, end_us: int, width: str = "1d") -> Iterator[Page]:
        """Fetch a report, page after page.

        Args:
            report: Of this provider.
            start_us, end_us: From when until when; whole buckets.
            width: Of the buckets: "1d", "1h" or "1m"; costs come by day alone.

        Raises:
            BillUnavailable: No answer, a refusal, or one that is not as documented.
        """
        begin, end = self.provider.times
        width = report.width(width)
        query = [
            (begin, self.provider.write_time(start_us)), (end, self.provider.write_time(end_us)),
            ("bucket_width", width), ("limit", str(report.widths[width])),
            *(("group_by[]", group) for group in report.groups),
        ]  # fmt: skip
        seen: set[str] = set()
        page: str | None = None
        while True:
            answer = self._get(report, [*query, *([("page", page)] if page else [])])
            yield self._read(report, answer)
            if not answer.get("has_more"):
                return
            page = answer.get("next_page")
            if not isinstance(page, str) or page in seen:
                raise self._strange(report, "it has more pages, and does not say which")
            seen.add(page)

    def _read(self, report: Report, answer: Mapping[str, Any]) -> Page:
        try:
            buckets = [(self.provider.bucket(raw), raw["results"]) for raw in answer["data"]]
            lines = [report.read(raw, bucket, report.name) for bucket, results in buckets for raw in results]
        except (KeyError, TypeError, AttributeError) as error:
            raise self._strange(report, f"{type(error).__name__} at {str(error)[:40]}") from None
        except ConfigError as error:
            raise self._strange(report, str(error)) from None
        return Page([bucket for bucket, _ in buckets], lines)

    def _get(self, report: Report, query: Sequence[tuple[str, str]]) -> dict[str, Any]:
        from budget import __version__

        url = f"{self._url}{report.path}?{urllib.parse.urlencode(query)}"
        headers = {"Accept": "application/json", "User-Agent": f"budget/{__version__}"}
        for tried in range(1, TRIES + 1):
            request = urllib.request.Request(url, headers=headers | self.provider.headers(self._key))
            try:
                with self._opener.open(request, timeout=TIMEOUT) as reply:
                    return self._parse(report, reply.read())
            except urllib.error.HTTPError as error:
                with error:
                    if error.code not in _BUSY or tried == TRIES:
                        raise self._refused(report, error.code, error.read(4096)) from None
                    wait = _asked_wait(error.headers.get("retry-after"), tried)
            except (urllib.error.URLError, TimeoutError, ConnectionError, HTTPException) as error:
                if tried == TRIES:
                    reason = type(getattr(error, "reason", error)).__name__
                    raise BillUnavailable(f"{self._name(report)} cannot be reached ({reason})") from None
                wait = _asked_wait(None, tried)
            self._wait(wait)
        raise AssertionError("unreachable")

    def _parse(self, report: Report, content: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(content, parse_float=Decimal)
        except ValueError:
            raise self._strange(report, "it is not JSON") from None
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
            raise self._strange(report, "it has no list of data")
        return answer

    def _refused(self, report: Report, code: int, content: bytes) -> BillUnavailable:
        said = ""
        with suppress(ValueError, KeyError, TypeError):
            said = str(json.loads(content)["error"]["message"]).replace(self._key, "***")[:200]
        if code in (401, 403):  # what is said then may show a part of the key
            said = f"is {self.provider.variable} an admin key of this organization?"
        return BillUnavailable(f"{self._name(report)} answers {code}{': ' if said else ''}{said}")

    def _strange(self, report: Report, what: str) -> BillUnavailable:
        return BillUnavailable(f"{self._name(report)} is not as documented: {what}")

    def _name(self, report: Report) -> str:
        return f"the report {report.name} of {self.provider.name}"


def _asked_wait(header: str | None, tried: int) -> float:
    """Return how long to wait: as the provider asks for in seconds, else twice as long each time."""
    asked = float(header) if header and header.isascii() and header.isdigit() else 0.5 * 2.0**tried
    return min(asked, _LONGEST_WAIT)


def _check_url(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)
    if not safe or not parts.hostname or parts.query or parts.username:
        raise ConfigError("base_url: must be https://host (http:// on this machine alone): the admin key is sent there")
    return url.rstrip("/").removesuffix("/v1")
