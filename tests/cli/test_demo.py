"""`budget demo`: it runs, its figures agree, and its checks can fail."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import budget.cli.demo as command
from budget import Budget
from budget.cli import main
from budget.demo.agents import LIMITS, Crew, make_client
from budget.demo.checks import Evidence, check, collect
from budget.demo.provider import Provider


def run(*args: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "budget.cli", "demo", *args]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)


async def play() -> Evidence:
    """A short demo on the memory store."""
    with Provider() as provider, Budget("memory://", limits=LIMITS) as budget:
        async with make_client(budget, provider.url) as client:
            crew = Crew(budget, client, agents=20, speed=5.0)
            await crew.work()
        await asyncio.to_thread(provider.wait)
        return await collect(crew, budget, provider.requests)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return asyncio.run(play())


def test_the_figures_agree(tmp_path: Path) -> None:
    (Path.cwd() / "budget.toml").write_text('[[limits]]\nlimit = "$0.001/day"\n')  # has no say in the demo
    store = f"sqlite:///{tmp_path / 'kept.db'}"
    done = run("--json", "--store", store, "--account", "shown")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    pools = {pool["pool"]: pool for pool in found["pools"]}
    users = [pools[name] for name in ("alice", "bob", "carol", "dave", "erin")]
    assert found["ok"] is True
    assert found["calls"] == found["admitted"] + found["refused"] == 400
    assert 0 < Decimal(found["spent"]) <= Decimal("1.25")
    assert found["spent"] == pools["everybody"]["spent"]
    assert sum(Decimal(user["spent"]) for user in users) == Decimal(found["spent"])
    assert {pool["reserved"] for pool in found["pools"]} == {"0"}
    assert found["provider_calls"] <= found["admitted"]
    assert found["provider_calls"] < found["provider_requests"]  # the SDK repeats what failed
    assert found["ledger_entries"] == 2 * found["admitted"] + found["refused"]
    assert {"$0.05/request", "user=bob $0.15/day", "$0.03/run"} <= found["refused_by"].keys()
    assert {"answered", "left", "timed out", "failed", "refused"} == found["ends"].keys()
    with Budget(store, account="shown") as budget:
        assert sum(entry.usd for entry in budget.entries()) == Decimal(found["spent"])
    again = run("--store", store, "--account", "shown")
    assert again.returncode == 2
    assert "is in use" in again.stderr


def test_plain_lines_for_a_pipe_and_nothing_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = run()
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert len([line for line in lines if line.startswith("ok ")]) == 7
    assert any(" of $1.25/day spent" in line for line in lines)
    assert [line.split("\t")[0] for line in lines if line.count("\t") == 7] == [
        "pool", "everybody", "alice", "bob", "carol", "dave", "erin", "erin-1",
    ]  # fmt: skip
    assert list(tmp_path.glob("budget-demo-*")) == []


def test_honest_evidence_passes(evidence: Evidence) -> None:
    assert [(each.text, each.faults) for each in check(evidence) if not each.ok] == []
    assert {call.end for call in evidence.calls} == {"answered", "left", "timed out", "failed", "refused"}


def change(items: Any, wanted: Callable[[Any], bool], **values: Any) -> list[Any]:
    """Replace fields of the first item that is wanted."""
    found = next(item for item in items if wanted(item))
    return [replace(item, **values) if item is found else item for item in items]


def tampered(evidence: Evidence) -> dict[str, Evidence]:
    """What could go wrong, and a word of the check that must find it."""
    ends = [entry for entry in evidence.entries if entry.kind == "reconciled"]
    final = next(entry for entry in ends if not entry.detail.get("estimated"))
    guess = next(entry for entry in ends if entry.detail.get("estimated"))
    stopped = [call for call in evidence.calls if call.end == "refused"]
    whole = change(evidence.seen, lambda seen: seen.usage and seen.tag == final.scope["call"], usage=None)
    nobody = change(evidence.seen, lambda seen: True, tag=stopped[0].tag)
    dearer = (guess.amounts[0] + 10**9, *guess.amounts[1:])
    return {
        "final entry each": replace(evidence, entries=[entry for entry in evidence.entries if entry is not final]),
        "reached the provider": replace(evidence, seen=nobody),
        "nano-dollar": replace(evidence, seen=whole),
        "estimates": replace(evidence, entries=change(evidence.entries, lambda e: e is guess, amounts=dearer)),
        "sum of its entries": replace(evidence, pools=change(evidence.pools, lambda pool: True, spent=Decimal("0.01"))),
        "above its limit": replace(evidence, limits=dict.fromkeys(evidence.limits, 1)),
        "is reserved": replace(evidence, pools=change(evidence.pools, lambda pool: True, reserved=Decimal("0.01"))),
        "chained": replace(evidence, audit=replace(evidence.audit, faults=["entry 7 was changed"])),
        "were admitted": replace(evidence, calls=stopped, entries=[], seen=[]),
    }


def test_every_check_finds_its_fault(evidence: Evidence) -> None:
    for word, changed in tampered(evidence).items():
        found = [each.text for each in check(changed) if not each.ok]
        assert any(word in text for text in found), (word, found)


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_a_fault_is_exit_code_1(args: list[str], evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    async def played(budget: Budget, quiet: bool) -> Evidence:
        return tampered(evidence)["nano-dollar"]

    monkeypatch.setattr(command, "_play", played)
    done = CliRunner().invoke(main, ["demo", *args])
    assert done.exit_code == 1
    if args:
        assert json.loads(done.stdout)["ok"] is False
    else:
        assert "FAULT" in done.stdout
