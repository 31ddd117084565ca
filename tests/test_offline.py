"""Everything but the provider's own counting works without a network, from an installation that is read-only."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import budget

PACKAGE = Path(budget.__file__).parent
CODE = """
import builtins, json, os, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
for name in ("create_connection", "getaddrinfo", "gethostbyname", "create_server"):
    setattr(socket, name, refuse)

written = []
def audit(event, args):
    mode, flags = args[1:3] if event == "open" else ("", 0)
    if set(mode or "") & set("wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.append(str(args[0]))
    elif event in ("os.mkdir", "os.rename", "os.remove", "tempfile.mkstemp", "tempfile.mkdtemp"):
        written.append(str(args[0]))
    elif event.startswith(("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind", "urllib.Request")):
        raise AssertionError(event)
sys.addaudithook(audit)

import budget
from budget import Budget, BudgetExceeded, Usage
from budget.prices import PriceBook

assert budget.__file__.startswith(os.environ["INSTALLED"]), budget.__file__
store = sys.argv[1]
text = "The quick brown fox jumps over the lazy dog. " * 50
tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
requests = [
    {"model": "claude-sonnet-4-6", "max_tokens": 100, "messages": [{"role": "user", "content": text}], "tools": [tool]},
    {"model": "claude-opus-4-7", "max_tokens": 100, "messages": [{"role": "user", "content": text}], "system": text},
    {"model": "gpt-4o", "max_tokens": 100, "messages": [{"role": "user", "content": text}]},
    {"model": "gpt-4.1", "max_output_tokens": 100, "input": text},
    {"model": "text-embedding-3-small", "input": text},
]
found = {}
for url in ("memory://", store):
    with Budget(url, limits=["$100/day", "1M tokens/day"]) as b:
        for request in requests:
            estimate = b.estimate(**request)
            assert estimate.closed and estimate.usd_max > 0 and estimate.input_tokens > 400, estimate
            held = b.reserve(**request, user="alice")
            b.reconcile(held, {"input_tokens": 500, "output_tokens": 50}, model=request["model"])
        assert b.cost({"prompt_tokens": 10, "completion_tokens": 5}, model="gpt-4o").usd > 0
        b.record(Usage(input=100, output=10), model="claude-haiku-4-5")
        assert not b.check("$1000", tokens=1)
        try:
            b.reserve("$1000", tokens=1)
        except BudgetExceeded as e:
            found["refused"] = e.verdict
        found[url.partition(":")[0]] = [str(pool.spent) for pool in b.status()]
book = PriceBook.shipped()
found["models"] = sum(1 for _ in book.models())
chat = {"max_tokens": 100, "messages": [{"role": "user", "content": text}]}
bodies = {
    "google": {"contents": [{"role": "user", "parts": [{"text": text}]}]},
    "google-vertex": {"contents": [{"role": "user", "parts": [{"text": text}]}]},
    "aws-bedrock": {"messages": [{"role": "user", "content": [{"text": text}]}]},
}
one = {model.provider: model.id for model in book.models() if model.max_output}
with Budget("memory://") as b:
    found["estimates"] = {
        provider: b.estimate({**bodies.get(provider, chat), "model": model}, provider=provider).input_tokens
        for provider, model in one.items()
    }
found["written"] = written
print(json.dumps(found))
"""


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """A copy of the package, which nobody may write to."""
    folder = tmp_path / "site"
    shutil.copytree(PACKAGE, folder / "budget", ignore=shutil.ignore_patterns("__pycache__"))
    entries = [folder, *folder.rglob("*")]
    for entry in entries:
        entry.chmod(entry.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    yield folder
    for entry in entries:
        entry.chmod(entry.stat().st_mode | stat.S_IWUSR)


def run(installed: Path, *command: str) -> str:
    """Run Python on the copy, in a folder that cannot be written to, without a home."""
    known = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH") if name in os.environ}
    own = {
        "PYTHONPATH": str(installed),
        "INSTALLED": str(installed),
        "HOME": "/nowhere",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(  # noqa: PLW1510
        [sys.executable, *command], env={**known, **own}, cwd=installed, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_offline_and_read_only(installed: Path, tmp_path: Path) -> None:
    before = sorted(str(path) for path in installed.rglob("*"))
    store = tmp_path / "store" / "budget.db"
    store.parent.mkdir()
    found = json.loads(run(installed, "-c", CODE, f"sqlite:///{store}"))
    assert found["refused"] == "never"
    assert found["memory"] == found["sqlite"]
    assert found["models"] > 100
    assert len(found["estimates"]) > 1
    assert min(found["estimates"].values()) > 300, found["estimates"]
    strange = [path for path in found["written"] if not path.startswith((str(store), "/dev/null"))]
    assert not strange, "no cache of tiktoken, no bytecode, nothing beside the store"
    assert sorted(str(path) for path in installed.rglob("*")) == before


def test_the_command_line_is_offline_too(installed: Path, tmp_path: Path) -> None:
    blocked = CODE.partition("import budget\n")[0]
    request = tmp_path / "request.json"
    request.write_text(
        json.dumps({"model": "gpt-4o", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
    )
    code = f"{blocked}\nfrom budget.cli import main\nmain(sys.argv[1:])"
    said = json.loads(run(installed, "-c", code, "--json", "estimate", str(request)))
    assert said["closed"] is True
