"""Where an account's server is: named by the URL, told by Sentinels, or found in a cluster.

All keys of an account are in one slot (its name is their hash tag), so that in a cluster, too, an account is on one
server at a time. Each time a connection is made the place is asked for: nothing that is remembered of a topology can be
older than the connection. A search yields whom to ask what, and receives the answers, so that blocking and awaiting
callers share it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs

from redis.crc import key_slot

from budget.errors import ConfigError
from budget.stores.multiplex import Lost

__all__ = ["Address", "Cluster", "Here", "Location", "Places", "Search", "Sentinels", "read_location"]

Address = tuple[str, int]
Search = Generator[tuple[Address, tuple[str, ...]], Any, Address | None]
"""Yields a server and a request to it, receives the answer or the exception instead, returns the place."""
_PARTS = re.compile(r"([^/?#]*)([^?#]*)(\?[^#]*)?")
_NODE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
_PORTS = {"sentinel": 26379, "cluster": 6379}
_ALIASES = {"valkey": "redis", "valkeys": "rediss"}


class Location(NamedTuple):
    """A URL in its parts: a URL of one server that redis-py reads, how it is shown, and whom to ask for the place."""

    url: str
    shown: str
    places: Places


class Places(Protocol):
    """Knows, or finds out, where accounts are."""

    def group(self, key: str) -> int:
        """Return a number that is the same for accounts that are always on one server, from a key of one."""
        ...

    def search(self, group: int) -> Search:
        """Find where a group is now; None means the one server that the URL names.

        Raises:
            Lost: Nobody who could be asked knows.
        """
        ...

    def moved(self, group: int, told: str) -> None:
        """Take what a server said of the place of a group ("MOVED 3999 10.0.0.7:6381")."""
        ...

    @property
    def topology(self) -> str: ...


class Here:
    """The one server of the URL."""

    topology = "one server"

    def group(self, key: str) -> int:
        return 0

    def search(self, group: int) -> Search:
        return None
        yield  # never reached: it makes this a generator

    def moved(self, group: int, told: str) -> None:
        """Nothing is known of other servers."""


class Sentinels:
    """The primary that Sentinels have elected.

    Args:
        nodes: The Sentinels.
        service: What they call the primary.
    """

    def __init__(self, nodes: Sequence[Address], service: str):
        self._nodes, self._service = list(nodes), service
        self._found: Address | None = None

    @property
    def topology(self) -> str:
        at = f"{self._found[0]}:{self._found[1]}" if self._found else "not asked for yet"
        return f"Sentinel, {self._service} at {at}"

    def group(self, key: str) -> int:
        return 0

    def search(self, group: int) -> Search:
        why = "no Sentinel answers"
        for node in tuple(self._nodes):
            answer = yield node, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            if isinstance(answer, list):
                self._nodes.remove(node)  # who answered is asked first the next time
                self._nodes.insert(0, node)
                self._found = answer[0].decode(), int(answer[1])
                return self._found
            why = f"the Sentinels do not know {self._service}" if answer is None else f"{why}: {answer}"
        raise Lost(why)

    def moved(self, group: int, told: str) -> None:
        """A server that was elected does not know of another."""


class Cluster:
    """The nodes of a cluster.

    Args:
        nodes: Some of them; the others are found.
    """

    def __init__(self, nodes: Sequence[Address]):
        self._named = list(nodes)
        self._nodes: list[Address] = []
        self._hints: dict[int, Address] = {}

    @property
    def topology(self) -> str:
        return f"cluster, {len(self._nodes)} primaries" if self._nodes else "cluster, not asked for yet"

    def group(self, key: str) -> int:
        slot: int = key_slot(key.encode())
        return slot

    def search(self, group: int) -> Search:
        hint = self._hints.pop(group, None)
        if hint is not None:
            return hint
        why = "no node answers"
        for node in dict.fromkeys((*self._nodes, *self._named)):
            answer = yield node, ("CLUSTER", "SLOTS")
            if not isinstance(answer, list):
                why = f"{why}: {answer}"
                continue
            owners = {(low, high): _address(primary, node) for low, high, primary, *_ in answer}
            self._nodes = list(dict.fromkeys(owners.values()))
            for (low, high), address in owners.items():
                if low <= group <= high:
                    return address
            why = "no node of the cluster has the account's slot"
        raise Lost(why)

    def moved(self, group: int, told: str) -> None:
        """Go there next: who says so knows better than a node that is asked at random."""
        host, _, port = told.rpartition(" ")[2].rpartition(":")
        if host and port.isdigit():
            self._hints[group] = host, int(port)


def _address(primary: Sequence[Any], asked: Address) -> Address:
    """Read a node of CLUSTER SLOTS; one without a host is where the node is that was asked."""
    host, port = primary[0], int(primary[1])
    return (host.decode() if host and host != b"?" else asked[0]), port


def read_location(url: str) -> Location:
    """Read a URL.

    Raises:
        ConfigError: A part of it is not right. Its text is not in the error, for it may hold a password.
        ValueError: It is no URL at all.
    """
    scheme, _, rest = url.partition("://")
    base, _, kind = scheme.partition("+")
    base = _ALIASES.get(base, base)
    parts = _PARTS.match(rest)
    if parts is None or (kind and (kind not in _PORTS or base not in ("redis", "rediss"))):
        raise ValueError
    net, path, query = parts[1], parts[2], parts[3] or ""
    user, at, hosts = net.rpartition("@")
    database = parse_qs(query[1:]).get("db", [""])[0]  # another one is another store; it holds before that of a path
    shown = f"{scheme}://{hosts}{path}"
    if not kind:
        if database:
            shown = f"{shown}?db={database}" if base == "unix" else f"{scheme}://{hosts}/{database}"
        return Location(f"{base}://{rest}", shown, Here())
    nodes = [_node(each, _PORTS[kind]) for each in hosts.split(",")]
    if kind == "cluster":
        if path.strip("/") not in ("", "0"):
            raise ConfigError("store: a cluster has no database but 0")
        return Location(f"{base}://{user}{at}cluster/0{query}", shown, Cluster(nodes))
    service, _, named = path.strip("/").partition("/")
    if not service or not (named or "0").isdigit():
        raise ConfigError("store: name the service of the Sentinels, such as redis+sentinel://one,two,three/mymaster/0")
    if database:
        shown = f"{scheme}://{hosts}/{service}/{database}"
    return Location(f"{base}://{user}{at}sentinel/{named or 0}{query}", shown, Sentinels(nodes, service))


def _node(text: str, port: int) -> Address:
    parts = _NODE.fullmatch(text)
    if parts is None or not 0 < int(parts[2] or port) < 65536:
        raise ValueError
    return parts[1].strip("[]"), int(parts[2] or port)
