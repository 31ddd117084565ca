"""Seeded bugs, and whether the tests catch them: what shows that the tests can see.

Each mutant is one exact text of one file and what stands there instead. It is tried in a copy of the tree in a
temporary folder, with the smallest tests that should notice. One that survives is a hole in the tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .mutanttable import TABLE

__all__ = ["Mutant", "catch", "mutants", "show"]

ROOT = Path(__file__).resolve().parents[2]
_COPIED = ("budget", "tests", "pyproject.toml", "README.md", "prices")
TIMEOUT = 600.0


class Mutant(NamedTuple):
    """A bug: what it breaks, where, the text and what stands there instead, and the tests that should notice.

    Each of `tests` is what pytest is told; they run one after the other until one notices.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str
    tests: Sequence[str]

    def found(self, root: Path = ROOT) -> int:
        """How often its text stands in its file."""
        path = root / self.file
        return path.read_text().count(self.old) if path.exists() else 0


def mutants(only: str = "") -> list[Mutant]:
    """The table, or what has these words in its name or file."""
    all_of_them = [Mutant(*row) for row in TABLE]
    return [mutant for mutant in all_of_them if only in f"{mutant.name} {mutant.file}"]


def show(only: str) -> bool:
    """List them; False if the text of one is not there (once) any more."""
    fine = True
    for mutant in mutants(only):
        count = mutant.found()
        fine = fine and count == 1
        print(
            f"{mutant.name:40} {mutant.file:32} {mutant.breaks}" + ("" if count == 1 else f"  TEXT FOUND {count} TIMES")
        )
    return fine


def catch(only: str, jobs: int) -> bool:
    """Try them, and say of each whether it was caught; True if all were."""
    chosen, began = mutants(only), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        sound = Mutant("nothing", "", "", "", "", sorted({test for mutant in chosen for test in mutant.tests}))
        if (fails := _try(sound, Path(folder) / "sound")) != "SURVIVED":
            print(f"the tests fail without any seeded bug ({fails}): that one is caught would say nothing")
            return False
        tried = [pool.submit(_try, mutant, Path(folder) / str(n)) for n, mutant in enumerate(chosen)]
        found = []
        for mutant, job in zip(chosen, tried, strict=True):
            found.append(job.result())
            print(f"{mutant.name} ({mutant.file}, {mutant.breaks}): {found[-1]}", flush=True)
    caught = sum(each.startswith("caught") for each in found)
    seconds = time.monotonic() - began
    print(f"{caught} of {len(chosen)} seeded bugs were caught, {len(chosen) - caught} were not, in {seconds:.0f} s")
    return caught == len(chosen)


def _try(mutant: Mutant, folder: Path) -> str:
    if mutant.file and mutant.found() != 1:
        return "NOT FOUND"
    folder.mkdir()
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        elif source.exists():
            shutil.copy(source, folder / name)
    if mutant.file:
        path = folder / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
    try:
        for tests in mutant.tests:
            if (said := _run(tests, folder)) != "SURVIVED":
                return said
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return "SURVIVED"


def _run(tests: str, folder: Path) -> str:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *shlex.split(tests)]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        return "caught (it hangs)"
    if done.returncode == 1:
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return f"caught by {failed[0].split()[1] if failed else tests}"
    if done.returncode == 0:
        return "SURVIVED"
    return f"NO TEST ({tests}: {done.returncode}, {done.stdout.strip().splitlines()[-1:]})"
