"""Connections that fail at a chosen byte, in every way: the account is as some legal order makes it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from proof.faults import DOORS, KINDS, OPERATIONS, PATIENCE, UNANSWERED, lengths, run, trials
from proof.proxy import ACTS, Fault, Proxies
from redisserver import RedisServer, need_server

from budget.commands import LoadPolicy
from budget.errors import StoreUnavailable
from budget.stores.base import open_store

SOME = {"cut": 5, "stall": 4}
"""How many of each command's bytes, besides the first and the last; `make proof` takes every one."""


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    need_server()
    folder = tmp_path_factory.mktemp("proof")
    path = str(folder / "s")
    server = RedisServer(folder, unixsocket=path)
    yield path
    server.stop()


@pytest.fixture(scope="module")
def sizes(socket: str) -> dict[str, tuple[int, int]]:
    return lengths(socket)


@pytest.mark.parametrize("act", ACTS)
def test_every_command_over_a_connection_that_fails(socket: str, sizes: dict[str, tuple[int, int]], act: str) -> None:
    chance = random.Random(f"proof {act}")
    chosen = trials({kind: sizes[kind] for kind in KINDS}, [act], chance, SOME.get(act, 1))
    chosen += trials({kind: sizes[kind] for kind in OPERATIONS}, [act], chance, 1)
    told = run(socket, chosen)
    assert sum(told.values()) == len(chosen) >= len(KINDS) * len(DOORS) * 3
    if act in ("stall", "hole"):
        assert told[f"{act}: {UNANSWERED}"] > len(chosen) / 2
    if act not in PATIENCE:
        assert f"{act}: {UNANSWERED}" not in told


def test_the_proxy_counts_bytes(socket: str, sizes: dict[str, tuple[int, int]]) -> None:
    """A request and its answer have as many bytes each time, so that every byte of them is met."""
    assert lengths(socket) == sizes
    assert all(there > 100 and back > 50 for there, back in sizes.values())


def test_the_proxy_swallows(socket: str) -> None:
    """The instrument strikes: with the connection gone at each attempt, there is no answer."""
    with Proxies() as proxies:
        proxy = proxies.make(socket)
        store = open_store(f"redis://127.0.0.1:{proxy.port}/0")
        store.call("default", LoadPolicy(), 10.0)
        proxies.tell(proxy.arm, Fault("back", 0, "hole"))
        with pytest.raises(StoreUnavailable):
            store.call("default", LoadPolicy(), 0.1)
        assert proxy.struck == 1
        store.close()
