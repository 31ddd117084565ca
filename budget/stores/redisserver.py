"""A Redis or Valkey server: from a URL to a connection, and whether money can be entrusted to it.

URL forms are those of redis-py (`redis://`, `rediss://`, `unix://`, with user, password, database and options), and
`valkey://`, `valkeys://` for the same. A server is looked at when a connection to it is made: one that may evict keys
would set counters to zero, a replica does not take writes, and before version 7 scripts have no flags.

The password stays in the connection: it is in no error and no `repr`.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff

from budget.errors import ConfigError
from budget.stores.multiplex import Lost

__all__ = ["OPEN_TIMEOUT", "Server", "facts"]

OPEN_TIMEOUT = 5.0
"""Seconds in which a connection is opened."""
_OLDEST = (7, 0)
_CLOCKS_APART = 5.0
_ALIASES = {"valkey": "redis", "valkeys": "rediss"}
_log = logging.getLogger("budget")


class Server:
    """Where a server is, and how to connect to it.

    Args:
        url: Such as "redis://user:password@cache:6379/0".

    Raises:
        ConfigError: It is not such a URL. Its text is not in the error, for it may hold a password.
    """

    def __init__(self, url: str):
        scheme, _, rest = url.partition("://")
        try:
            read: Any = redis.connection.parse_url  # it has no types
            self._options: dict[str, Any] = read(f"{_ALIASES.get(scheme, scheme)}://{rest}")
            parts = urlsplit(url)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:
            raise ConfigError("store: not the URL of a server, such as redis://user:password@cache:6379/0") from None
        kind = self._options.pop("connection_class", None)
        self._sync = kind or redis.Connection
        self._async = getattr(redis.asyncio.connection, self._sync.__name__)
        if self._sync is redis.UnixDomainSocketConnection and "path" not in self._options:
            raise ConfigError("store: unix:// needs the path of a socket, such as unix:///run/valkey.sock")
        unknown = {"decode_responses", "protocol", "parser_class", "encoding"} & self._options.keys()
        if unknown:
            raise ConfigError(f"store: the option {min(unknown)} cannot be set in the URL")
        self.url = f"{scheme}://{parts.hostname or ''}{port}{parts.path}"
        self._said: set[str] = set()

    def connect(self, timeout: float) -> Any:
        """Return a connection that is logged in and looked at.

        Raises:
            Lost: There is no server, it does not answer in so many seconds, or does not let us in.
            ConfigError: The server must not be used, or an option of the URL is wrong.
        """
        connection = self._make(self._sync, timeout, redis.retry.Retry)
        try:
            connection.connect()
            connection.send_command("INFO")
            info = _answer(connection.read_response)
            connection.send_command("TIME")
            self._check(info, _answer(connection.read_response))
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise Lost(_why(error)) from None
        except BaseException:
            connection.disconnect()
            raise
        return connection

    async def aconnect(self, timeout: float) -> Any:
        """Like `connect`, for the running event loop."""
        connection = self._make(self._async, timeout, redis.asyncio.retry.Retry)
        try:
            await connection.connect()
            await connection.send_command("INFO")
            info = await _aanswer(connection.read_response)
            await connection.send_command("TIME")
            self._check(info, await _aanswer(connection.read_response))
        except (redis.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise Lost(_why(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _make(self, kind: Any, timeout: float, retry: Any) -> Any:
        # A driver that repeats a command after a timeout carries it out twice; what may be repeated is known here.
        options = {"retry": retry(NoBackoff(), 0), "protocol": 2}
        limits = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
        try:
            return kind(**{**options, **self._options, **limits})
        except TypeError as error:
            raise ConfigError(f"store: an option of the URL is not known: {error}") from None

    def _check(self, info: Any, clock: Any) -> None:
        found = facts(info) if isinstance(info, bytes) else {}
        if not found:
            self._say("the server does not let us read INFO: its eviction policy, role and version are not checked")
            return
        version = found.get("redis_version", "0")
        if tuple(map(int, version.split(".")[:2])) < _OLDEST:
            raise ConfigError(f"store: the server is version {version}; 7.0 or later is needed")
        policy = found.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigError(
                f"store: the server may evict keys (maxmemory-policy {policy}), and with them what was spent; "
                "set maxmemory-policy noeviction"
            )
        if found.get("role", "master") != "master":
            raise Lost("the server is a replica; the URL must name the primary")
        if isinstance(clock, list) and abs(time.time() - int(clock[0])) > _CLOCKS_APART:
            self._say(f"this machine's clock is more than {_CLOCKS_APART:g} s off the server's, which is used")

    def _say(self, warning: str) -> None:
        """Warn once, not for every connection."""
        if warning not in self._said:
            self._said.add(warning)
            _log.warning(warning)


def _answer(read: Any) -> Any:
    try:
        return read()
    except redis.ResponseError as error:
        return error


async def _aanswer(read: Any) -> Any:
    try:
        return await read()
    except redis.ResponseError as error:
        return error


def facts(info: bytes) -> dict[str, str]:
    """Read what INFO says."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _why(error: Exception) -> str:
    if isinstance(error, redis.AuthenticationError):
        return "the server does not accept the user or the password"
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
