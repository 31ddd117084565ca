"""How the benchmarks measure: cases take turns, every figure is the median of its turns."""

from __future__ import annotations

import gc
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from statistics import median

__all__ = ["about", "rounds", "title", "verdict"]


def about() -> str:
    """Return the date, and what of the machine the figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = f"{cores} cores ({platform.machine()}, {sys.platform}), load {os.getloadavg()[0]:.1f}"
    return f"{datetime.now(UTC).date()}, {machine}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"


def rounds(cases: Mapping[str, Callable[[], float]], count: int = 3) -> dict[str, float]:
    """Run every case once per round, and return each one's median.

    The cases take turns so that a neighbour that makes the machine slow for a second does not hit one case alone.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(count):
        for name, case in cases.items():
            gc.collect()
            found[name].append(case())
    return {name: median(values) for name, values in found.items()}


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}\n{'-' * len(text)}")


def verdict(goal: str, kept: bool) -> None:
    """Print whether a goal is met."""
    print(f"goal: {goal}: {'kept' if kept else 'NOT KEPT'}")
