"""SQLite with a fault at the n-th write or sync: intact, nothing acknowledged lost, and it goes on."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from proof.crashes import DRAINS, ERRORS, Kept, check, drain_at, fail_at, kill_all, play, reopen
from proof.disk import lost_power, missing
from proof.invariants import Violation

from budget.errors import StoreUnavailable

EVERY = 7
"""Which operations a run takes; `make proof` takes every one."""
pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return play(tmp_path_factory.mktemp("kept"))


def test_the_script_meets_everything(kept: Kept) -> None:
    """All that a disk is told to do is in it, checkpoints too; each command commits with a sync."""
    done = Counter((Path(op.path).suffix, op.what) for op in kept.ops)
    assert done[".db-wal", "write"] > 100
    assert done[".db", "write"] > 20
    assert done[".db", "sync"] > 3
    assert done[".db-wal", "sync"] >= kept.acknowledged[-1][1]


def test_killed_torn_or_without_power_at_an_operation(kept: Kept, tmp_path: Path) -> None:
    found: Counter[str] = Counter()
    for n in (*range(0, len(kept.ops), EVERY), len(kept.ops)):
        found += reopen(kept, n, tmp_path, random.Random(n))
    assert min(found["killed"], found["power"]) > len(kept.ops) // EVERY
    assert found["torn"] > 10


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_at_an_operation(kept: Kept, tmp_path: Path, kind: str) -> None:
    wanted = "sync" if kind == "fsync" else "write"
    numbers = [n for n, op in enumerate(kept.ops) if op.what == wanted]
    struck = [fail_at(n, kind, tmp_path, forever=n % 3 == 0) for n in numbers[:: EVERY * (1 if kind == "fsync" else 4)]]
    assert sum(struck) > len(struck) // 2


def test_killed_at_an_operation(kept: Kept, tmp_path: Path) -> None:
    """A real process, a real SIGKILL, in the middle of what SQLite does."""
    with multiprocessing.get_context("spawn").Pool(1) as alone:
        assert alone.apply(kill_all, (range(3, len(kept.ops), 6 * EVERY), str(tmp_path))) > 5


@pytest.mark.parametrize("kind", ["eio", "killed", "power"])
def test_a_drain_into_a_file_that_fails_at_an_operation(tmp_path: Path, kind: str) -> None:
    struck = [drain_at(n, kind, tmp_path) for n in range(3, DRAINS, EVERY)]
    assert sum(struck) > 5


def test_a_disk_that_lies_is_found_out(kept: Kept, tmp_path: Path) -> None:
    """The instrument can fail: where nothing was synced, a power loss loses what was acknowledged."""
    unsynced = [op for op in kept.ops if op.what != "sync"]
    for n in range(len(unsynced) - 20, len(unsynced)):
        path = tmp_path / str(n) / "kept.db"
        path.parent.mkdir()
        path.touch(mode=0o600)
        for name, content in lost_power(unsynced, n, random.Random(n)).items():
            path.with_name(Path(name).name).write_bytes(content)
        with suppress(sqlite3.DatabaseError, StoreUnavailable), pytest.raises(Violation, match=r"^I27"):
            check(path, kept.acknowledged[-1][1], None, "power")
