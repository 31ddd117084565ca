"""A Redis or Valkey server: from a URL to a connection, and whether money can be entrusted to it.

URL forms are those of redis-py (`redis://`, `rediss://`, `unix://`, with user, password, database and options), with
`+sentinel` or `+cluster` behind the scheme and several hosts where a server must be found (`redisplaces.py`), and
`valkey`, `valkeys` for the same. A server is looked at when a connection to it is made: one that may evict keys would
set counters to zero, a replica does not take writes, and before version 7 scripts have no flags. With `?profile=strict`
it must also have every write on its disk before it answers.

What is asked while connecting stands in generators that yield requests and receive answers, once for blocking and
awaiting callers. The password stays in the connection: it is in no error and no `repr`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff

from budget.errors import ConfigError
from budget.stores.multiplex import Lost
from budget.stores.redisplaces import Address, Here, Sentinels, read_location

__all__ = ["OPEN_TIMEOUT", "Server", "facts"]

OPEN_TIMEOUT = 5.0
"""Seconds in which a connection is opened."""
_OLDEST = (7, 0)
_CLOCKS_APART = 5.0
_DATABASE = re.compile(r"(?:/\d{0,9})?", re.ASCII)
_PROFILES = ("fast", "strict")
_FORMS = (
    "not the URL of a server, such as redis://user:password@cache:6379/0, redis+sentinel://one,two,three/mymaster "
    "or redis+cluster://one,two,three"
)
_log = logging.getLogger("budget")

_Look = Generator[tuple[str, ...], Any, None]


class Server:
    """Where servers are, and how to connect to the one that holds an account.

    Args:
        url: Such as "redis://user:password@cache:6379/0".

    Raises:
        ConfigError: It is not such a URL. Its text is not in the error, for it may hold a password.
    """

    def __init__(self, url: str):
        try:
            location = read_location(url)
            _check_database(location.url)
            read: Any = redis.connection.parse_url  # it has no types
            options: dict[str, Any] = read(location.url)
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(f"store: {_FORMS}") from None
        self.url, self.places = location.shown, location.places
        kind = options.pop("connection_class", None)
        self._sync = kind or redis.Connection
        self._async = getattr(redis.asyncio.connection, self._sync.__name__)
        if self._sync is redis.UnixDomainSocketConnection and "path" not in options:
            raise ConfigError("store: unix:// needs the path of a socket, such as unix:///run/valkey.sock")
        unknown = {"decode_responses", "protocol", "parser_class", "encoding"} & options.keys()
        if unknown:
            raise ConfigError(f"store: the option {min(unknown)} cannot be set in the URL")
        self.profile = options.pop("profile", "fast")
        if self.profile not in _PROFILES:
            raise ConfigError("store: the option profile is fast or strict")
        own = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        self._options = options
        self._asking = dict(options)  # of connections that only ask for the place
        if isinstance(self.places, Sentinels):
            rest = {name: value for name, value in options.items() if name not in ("db", "username", "password")}
            self._asking = {**rest, **{name: value for name, value in own.items() if value is not None}}
        elif any(own.values()):
            raise ConfigError("store: sentinel_username and sentinel_password need a URL with +sentinel")
        self._said: set[str] = set()

    def connect(self, timeout: float, group: int = 0) -> Any:
        """Return a connection to the server that holds a group of accounts, logged in and looked at.

        Raises:
            Lost: There is no server, it does not answer in so many seconds, or does not let us in.
            ConfigError: The server must not be used, or an option of the URL is wrong.
        """
        until = time.monotonic() + timeout
        search, answer = self.places.search(group), None
        try:
            while True:
                node, words = search.send(answer)
                answer = self._ask(node, words, until)
        except StopIteration as end:
            place: Address | None = end.value
        connection = self._make(self._sync, self._options, place, until - time.monotonic())
        try:
            connection.connect()
            look, answer = self._look(), None
            while True:
                connection.send_command(*look.send(answer))
                answer = _answer(connection.read_response)
        except StopIteration:
            return connection
        except (redis.RedisError, OSError) as error:
            connection.disconnect()
            raise Lost(_why(error)) from None
        except BaseException:
            connection.disconnect()
            raise

    async def aconnect(self, timeout: float, group: int = 0) -> Any:
        """Like `connect`, for the running event loop."""
        try:
            async with asyncio.timeout(timeout):
                return await self._aconnect(time.monotonic() + timeout, group)
        except TimeoutError:
            raise Lost("the server does not answer") from None

    async def _aconnect(self, until: float, group: int) -> Any:
        search, answer = self.places.search(group), None
        try:
            while True:
                node, words = search.send(answer)
                answer = await self._aask(node, words, until)
        except StopIteration as end:
            place: Address | None = end.value
        connection = self._make(self._async, self._options, place, until - time.monotonic())
        try:
            await connection.connect()
            look, answer = self._look(), None
            while True:
                try:
                    words = look.send(answer)
                except StopIteration:
                    return connection
                await connection.send_command(*words)
                answer = await _aanswer(connection.read_response)
        except (redis.RedisError, OSError) as error:
            await connection.disconnect(nowait=True)
            raise Lost(_why(error)) from None
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    def _ask(self, node: Address, words: tuple[str, ...], until: float) -> Any:
        """Ask one of several servers where something is; what goes wrong is an answer, for another may know."""
        connection = self._make(self._sync, self._asking, node, (until - time.monotonic()) / 2)
        try:
            connection.connect()
            connection.send_command(*words)
            return connection.read_response()
        except (redis.RedisError, OSError) as error:
            return _why(error)
        finally:
            connection.disconnect()

    async def _aask(self, node: Address, words: tuple[str, ...], until: float) -> Any:
        left = (until - time.monotonic()) / 2
        connection = self._make(self._async, self._asking, node, left)
        try:
            async with asyncio.timeout(left):
                await connection.connect()
                await connection.send_command(*words)
                return await connection.read_response()
        except (redis.RedisError, OSError) as error:  # a TimeoutError is an OSError
            return _why(error)
        finally:
            await connection.disconnect(nowait=True)

    def _make(self, kind: Any, given: dict[str, Any], place: Address | None, timeout: float) -> Any:
        # A driver that repeats a command after a timeout carries it out twice; what may be repeated is known here.
        retry = redis.asyncio.retry.Retry if kind is self._async else redis.retry.Retry
        options = {"retry": retry(NoBackoff(), 0), "protocol": 2}
        limits: dict[str, Any] = dict.fromkeys(("socket_timeout", "socket_connect_timeout"), max(0.001, timeout))
        if kind is self._async:  # its own use of `asyncio.wait_for` loses a cancellation; whoever calls has a timeout
            limits["socket_timeout"] = None
        if place is not None:
            limits |= {"host": place[0], "port": place[1]}
        try:
            return kind(**{**options, **given, **limits})
        except TypeError as error:
            raise ConfigError(f"store: an option of the URL is not known: {error}") from None

    def _look(self) -> _Look:
        """Look at a server that a connection was made to: yields requests, receives replies (errors among them)."""
        info = yield ("INFO",)
        clock = yield ("TIME",)
        found = facts(info) if isinstance(info, bytes) else {}
        self._check(found, clock)
        if self.profile == "strict":
            rules = yield ("CONFIG", "GET", "*append*fsync*")
            _check_strict(found, _pairs(rules))
        elif found.get("aof_enabled") == "0" and "persistence" not in self._said:
            self._said.add("persistence")
            if _pairs((yield ("CONFIG", "GET", "save"))).get("save") == "":
                _log.warning("the server keeps nothing on disk: a restart loses what was spent (appendonly yes)")

    def _check(self, found: dict[str, str], clock: Any) -> None:
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
        mode = found.get("redis_mode", found.get("server_mode"))  # Valkey's word
        if mode == "cluster" and isinstance(self.places, Here):
            raise ConfigError("store: the server is a node of a cluster; write redis+cluster:// in the URL")
        if found.get("role", "master") != "master":
            hint = "; the URL must name the primary" if isinstance(self.places, Here) else ""
            raise Lost(f"the server is a replica{hint}")
        if isinstance(clock, list) and abs(time.time() - int(clock[0])) > _CLOCKS_APART:
            self._say(f"this machine's clock is more than {_CLOCKS_APART:g} s off the server's, which is used")

    def _say(self, warning: str) -> None:
        """Warn once, not for every connection."""
        if warning not in self._said:
            self._said.add(warning)
            _log.warning(warning)


def _check_database(url: str) -> None:
    """Refuse a path that is no database: redis-py would take 0, or what is left without the slashes."""
    scheme, path = url.partition("://")[0], urlsplit(url).path
    if scheme != "unix" and not _DATABASE.fullmatch(path):
        raise ConfigError("store: what follows the host is the number of a database, such as redis://cache:6379/0")


def _check_strict(found: dict[str, str], rules: dict[str, str]) -> None:
    """Refuse a server that may lose what it has acknowledged, or that does not let us see whether it may."""
    if not found:
        raise ConfigError("store: profile=strict needs to read INFO, which the server does not allow")
    if found.get("aof_enabled") != "1":
        raise ConfigError("store: profile=strict needs a server with appendonly yes")
    if not rules:
        raise ConfigError("store: profile=strict needs CONFIG GET, to see appendfsync, which the server does not allow")
    if rules.get("appendfsync") != "always":
        now = rules.get("appendfsync")
        raise ConfigError(f"store: profile=strict needs a server with appendfsync always; it is {now}")
    if rules.get("no-appendfsync-on-rewrite") == "yes":
        raise ConfigError("store: profile=strict needs a server with no-appendfsync-on-rewrite no")


def _pairs(reply: Any) -> dict[str, str]:
    """Read what CONFIG GET says; nothing if it may not."""
    words = [word.decode() for word in reply] if isinstance(reply, list) else []
    return dict(zip(words[::2], words[1::2], strict=True))


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
