"""One POST over a connection that is kept, and what its answer means for a sink."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from budget.errors import ConfigError
from budget.sinks.base import SinkFailed

__all__ = ["PERMANENT", "SMALLER", "Poster"]

PERMANENT = frozenset({400, 401, 403, 404, 405, 410, 411, 413, 414, 415, 422, 431})
"""Answers to which the same again gets the same; others are tried again."""
SMALLER = frozenset({400, 413, 422})
"""Those of them that may be about one record, or about how many there are."""
_ANSWER = 1 << 16  # bytes of an answer that are read


class Poster:
    """Posts to one URL, over one connection for as long as it lasts.

    Args:
        url: "http://host:port/path" or "https://...".
        timeout: Seconds for connecting, and for each part of sending and answering.

    Raises:
        ConfigError: It is no such URL.
    """

    def __init__(self, url: str, timeout: float = 10.0):
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError:
            raise ConfigError("a port up to 65535 is needed, such as in https://example.com:8443/calls") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                "an http:// or https:// URL with a host is needed, such as webhook+https://example.com/calls"
            )
        if parts.username is not None:
            raise ConfigError("a secret does not belong into a URL: name an environment variable instead, by an option")
        self.path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        self.origin, self._timeout = f"{parts.scheme}://{parts.netloc}", timeout
        self._make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host = parts.hostname
        self._connection: http.client.HTTPConnection | None = None

    def post(self, body: bytes, headers: Mapping[str, str], path: str | None = None) -> int:
        """Post, and return the status if the answer was one of success.

        Raises:
            SinkFailed: It was not, or there was none.
        """
        status, reason, wait = self._send(body, headers, path or self.path)
        if not 200 <= status < 300:
            raise SinkFailed(
                f"{self.origin} answered {status} {reason}".rstrip(), status in PERMANENT, wait, status in SMALLER
            )
        return status

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, body: bytes, headers: Mapping[str, str], path: str) -> tuple[int, str, float | None]:
        kept = self._connection is not None
        try:
            if self._connection is None:
                self._connection = self._make(self._host, self._port, timeout=self._timeout)
            self._connection.request("POST", path, body, dict(headers))
            answer = self._connection.getresponse()
            answer.read(_ANSWER)
            if not answer.isclosed():
                self.close()
            return answer.status, _printable(answer.reason), _seconds(answer.getheader("Retry-After"))
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # A connection that was kept may have been closed meanwhile; then nothing was read of this request.
            if kept and isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
                return self._send(body, headers, path)
            raise SinkFailed(f"{self.origin} does not answer: {_why(error)}") from error


def _why(error: Exception) -> str:
    return (getattr(error, "strerror", None) or type(error).__name__) if isinstance(error, OSError) else "no HTTP"


def _printable(text: str) -> str:
    return "".join(c for c in text[:60] if c.isprintable())


def _seconds(text: str | None) -> float | None:
    """Read a Retry-After: seconds, or a date of HTTP."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text.strip()[:9])
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
