"""The README's snippets run as they stand, against a provider on loopback."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from budget.demo.provider import Provider

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
TRACE = "time,user,input_tokens,output_tokens\n2026-01-01T00:00:00Z,alice,1000,200\n2026-01-01T00:00:05Z,bob,1000,200\n"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_python_snippets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with Provider() as provider:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "demo")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{provider.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "demo")
        names: dict[str, object] = {}
        for block in blocks("python"):
            exec(compile(block, "README.md", "exec"), names)

        async def research() -> str:
            async for text in names["research"]("why?"):  # type: ignore[operator]
                return text
            return ""

        assert asyncio.run(research())
        budget = names["budget"]
        pools = budget.status(user="alice")  # type: ignore[attr-defined]
        budget.close()  # type: ignore[attr-defined]
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            names.clear()  # the snippets close no client: their sockets go here, not in some later test
            gc.collect()
    printed = capsys.readouterr().out
    assert "output tokens would fit" in printed
    assert "per" not in pools[0].limit.selector_text
    assert pools[0].spent > 0
    assert pools[0].reserved == 0


def test_shell_snippets(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "trace.csv").write_text(TRACE)
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path), "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith(("budget ", "export "))]
    assert len(lines) > 10
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        if program == "export":
            name, _, value = words[0].partition("=")
            environment[name] = value.replace("redis://cache:6379/0", redis_url)
            continue
        command = [sys.executable, "-m", "budget.cli", *words]
        options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 60}
        done = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
        assert done.returncode == 0, (line, done.stdout, done.stderr)
