"""What `import budget` costs beside importing dataclasses, decimal and contextvars, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import rounds, title

__all__ = ["main"]

_FLOOR = "import dataclasses, decimal, contextvars"
_CASES = {
    "floor": _FLOOR,
    "import budget": "import budget",
    "import budget, then budget.Budget": "import budget; budget.Budget",
}
_ALLOWED = 1.5
_ROOT = Path(__file__).resolve().parents[1]
_LAZY = ("asyncio", "pydantic", "redis", "click", "rich", "tiktoken", "anthropic", "openai", "sqlite3")


def main() -> None:
    """Print the figures."""
    title("Import: milliseconds, median of 15 fresh processes each")
    found = rounds({name: _timed(code) for name, code in _CASES.items()}, count=15)
    floor = found["floor"]
    for name, seconds in found.items():
        print(f"{_FLOOR if name == 'floor' else name:<44}{seconds * 1000:>9.2f}   {seconds / floor:>6.2f}x")
    verdict = "kept" if found["import budget"] <= _ALLOWED * floor else "NOT KEPT"
    print(f"`import budget` takes at most {_ALLOWED}x: {verdict}")
    loaded = _modules("import budget") - _modules("pass")
    print(f"it loads {len(loaded)} modules: {', '.join(sorted(loaded))}")
    print(f"of those that must load when used ({', '.join(_LAZY)}): {', '.join(loaded.intersection(_LAZY)) or 'none'}")


def _timed(code: str) -> Callable[[], float]:
    script = f"import time; begun = time.perf_counter(); {code}; print(time.perf_counter() - begun)"
    return lambda: float(_python(script))


def _modules(code: str) -> set[str]:
    return set(_python(f"import sys; {code}; print(*sys.modules)").split())


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True).stdout
