"""What prices cost at run time: loading the book, finding a model, reading and pricing a usage; beside genai-prices."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.measure import rounds, title
from budget.errors import UnknownModel
from budget.prices import PriceBook
from budget.usage import Usage

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parents[1]
_COUNT = 2000
_LOAD, _LOAD_MS = "the same, and list its names", 30
_PRICE, _PRICE_US = "price a usage", 5
_MODEL = "claude-sonnet-4-6"
_ANSWER: dict[str, Any] = {
    "model": _MODEL,
    "usage": {
        "input_tokens": 120, "output_tokens": 350, "service_tier": "standard",
        "cache_read_input_tokens": 9000, "cache_creation_input_tokens": 500,
        "cache_creation": {"ephemeral_5m_input_tokens": 500, "ephemeral_1h_input_tokens": 0},
    },
}  # fmt: skip


def main() -> None:
    """Print the figures."""
    book = PriceBook.from_json(_content())
    title(f"Prices: {sum(1 for _ in book.models()):,} models, {len(_content()) / 1000:,.0f} kB compiled")
    loads = {"read and parse the compiled book": _parsed, _LOAD: lambda: PriceBook.from_json(_content())}
    found = rounds({name: _timed(load, 1) for name, load in loads.items()}, count=15)
    for name, seconds in found.items():
        print(f"{name:<52}{seconds * 1e3:>10.2f} ms")
    print(f"{'in a fresh process, with the imports':<52}{_fresh(_OURS) * 1e3:>10.2f} ms")
    if find_spec("genai_prices"):
        print(f"{'genai-prices: import and the first price':<52}{_fresh(_THEIRS) * 1e3:>10.2f} ms")
    prices = rounds(_priced(book), count=9)
    for name, seconds in prices.items():
        print(f"{name:<52}{seconds * 1e6:>10.2f} us")
    _verdict(f"loading the book takes under {_LOAD_MS} ms", found[_LOAD] * 1e3 < _LOAD_MS)
    _verdict(f"pricing a usage takes under {_PRICE_US} us", prices[_PRICE] * 1e6 < _PRICE_US)


def _content() -> bytes:
    return files("budget.prices").joinpath("prices.json").read_bytes()


def _parsed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_content())
    return found


def _priced(book: PriceBook) -> dict[str, Callable[[], float]]:
    usage, now = Usage.of(_ANSWER), int(datetime.now(UTC).timestamp()) * 10**6
    model = book.find(_MODEL)
    rates = model.rates(now)
    unknown = iter(range(10**9))

    def miss() -> None:
        try:
            book.find(f"claude-sonnet-4-6-typo{next(unknown)}")
        except UnknownModel:
            return

    cases: dict[str, Callable[[], float]] = {
        _PRICE: _timed(lambda: rates.cost(usage)),
        "read an answer's usage": _timed(lambda: Usage.of(_ANSWER)),
        "bound a request": _timed(lambda: rates.bound(9000, 800, cache_ttls=("5m",), kinds=())),
        "find a model by its name, again": _timed(lambda: book.find(_MODEL)),
        "find a model, its rates now, and price a usage": _timed(lambda: book.find(_MODEL).rates(now).cost(usage)),
        "find the three names nearest to an unknown one": _timed(miss, 20),
    }
    if find_spec("genai_prices"):
        from genai_prices import calc_price, extract_usage

        theirs = extract_usage(_ANSWER, provider_id="anthropic").usage
        cases["genai-prices: calc_price"] = _timed(lambda: calc_price(theirs, _MODEL, provider_id="anthropic"), 200)
        cases["genai-prices: extract_usage"] = _timed(lambda: extract_usage(_ANSWER, provider_id="anthropic"), 200)
    return cases


_OURS = "from budget.prices import PriceBook; PriceBook.shipped()"
_THEIRS = (
    "from genai_prices import calc_price, Usage;"
    f"calc_price(Usage(input_tokens=1, output_tokens=1), {_MODEL!r}, provider_id='anthropic')"
)


def _timed(call: Callable[[], Any], count: int = _COUNT) -> Callable[[], float]:
    def run() -> float:
        begun = perf_counter()
        for _ in range(count):
            call()
        return (perf_counter() - begun) / count

    return run


def _fresh(code: str) -> float:
    script = f"import time; begun = time.perf_counter(); {code}; print(time.perf_counter() - begun)"
    command = [sys.executable, "-c", script]
    took = [
        float(subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout) for _ in range(5)
    ]
    return sorted(took)[2]


def _verdict(promise: str, kept: bool) -> None:
    print(f"{promise}: {'kept' if kept else 'NOT KEPT'}")
