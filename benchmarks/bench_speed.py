"""What estimating costs: counting new text beside bare tiktoken, and a long conversation that has grown by one turn."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.measure import title
from budget import Budget
from budget.estimator import memo, tokens

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parents[1]
_SIZES = (1_000, 10_000, 100_000)  # characters
_COUNT, _COUNT_X = 10, 1.2
_TURNS, _TURN_US = 200, 100
_TOKENS = 100_000
_MODELS = {"cl100k": "claude-sonnet-4-6", "o200k": "gpt-4.1"}
_new = count()


def main() -> None:
    """Print the figures."""
    with Budget("memory://") as budget:
        _counting(budget)
        _turns(budget)
    print("pricing a usage and loading the book: see `prices`, of the same run")


def _texts() -> dict[str, str]:
    """English prose and Python, of this repository."""
    prose = "\n".join(path.read_text("utf-8") for path in sorted(_ROOT.glob("*.md")))
    code = "\n".join(path.read_text("utf-8") for path in sorted(_ROOT.glob("budget/**/*.py")))
    longest = max(_SIZES)
    return {"English": (prose * (longest // len(prose) + 1))[:longest], "code": (code * 9)[:longest]}


def _counting(budget: Budget) -> None:
    title("Counting new text: milliseconds, and times bare tiktoken (`encode_ordinary` and `len`)")
    kinds = {f"{kind} {size:,}": text[:size] for kind, text in _texts().items() for size in _SIZES}
    worst = 0.0
    print(f"{'':<28}{'tiktoken':>10}{'count':>16}{'an estimate':>16}{'litellm':>16}")
    for vocabulary, model in _MODELS.items():
        tokens.warm(vocabulary)
        for name, text in kinds.items():
            found = _fastest(_cases(budget, vocabulary, model, text))
            bare = found.pop("bare")
            ratios = {case: seconds / bare for case, seconds in found.items()}
            shown = "".join(f"{found[case] * 1e3:>9.2f}{ratio:>6.2f}x" for case, ratio in ratios.items())
            print(f"{f'{vocabulary}, {name}':<28}{bare * 1e3:>10.2f}{shown}")
            worst = max(worst, ratios["count"])
    _verdict(f"counting new text within {_COUNT_X} x of bare tiktoken ({worst:.2f})", worst <= _COUNT_X)
    if not find_spec("litellm"):
        print("litellm.token_counter: not installed")


def _cases(budget: Budget, vocabulary: str, model: str, text: str) -> dict[str, Callable[[], float]]:
    """Each counts another text every time: new ones, which nobody remembers."""
    encoding = tokens._encodings[vocabulary]

    def estimate(fresh: str) -> None:
        budget.estimate(model=model, messages=[{"role": "user", "content": fresh}], max_tokens=10)

    cases: dict[str, Callable[[str], Any]] = {
        "bare": lambda fresh: len(encoding.encode_ordinary(fresh)),
        "count": lambda fresh: tokens.count(fresh, vocabulary),
        "estimate": estimate,
    }
    if find_spec("litellm"):
        from litellm import token_counter

        cases["litellm"] = lambda fresh: token_counter(model=model, text=fresh)
    return {name: _timed(case, text) for name, case in cases.items()}


def _fastest(cases: dict[str, Callable[[], float]]) -> dict[str, float]:
    """The fastest of nine rounds in which the cases take turns: nothing here waits, so what is slower was disturbed."""
    took: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(9):
        for name, case in cases.items():
            took[name].append(case())
    return {name: min(times) for name, times in took.items()}


def _timed(case: Callable[[str], Any], text: str) -> Callable[[], float]:
    def run() -> float:
        fresh = [f"{next(_new)} {text}" for _ in range(_COUNT)]
        begun = perf_counter()
        for each in fresh:
            case(each)
        return (perf_counter() - begun) / _COUNT

    return run


def _turns(budget: Budget) -> None:
    title(f"Turn {_TURNS} of a conversation of {_TOKENS:,} tokens: microseconds, the median of 20 turns (the fastest)")
    worst = 0.0
    for name, turn, request in (
        ("a text per turn", _plain, {"model": _MODELS["cl100k"]}),
        ("a text per turn, OpenAI chat", _plain, {"model": _MODELS["o200k"]}),
        ("question and answer per turn", _pair, {"model": _MODELS["cl100k"]}),
        ("tool call and result per turn", _step, {"model": _MODELS["cl100k"]}),
    ):
        memo._memos.clear()
        new, same, size = _grown(budget, turn, request)
        print(f"{name:<34}{size:>9,} tokens   with what is new {_shown(new)}   again, as it was {_shown(same)}")
        worst = max(worst, median(same) if turn is _plain else 0.0)
    _verdict(f"such a conversation in under {_TURN_US} us", worst * 1e6 < _TURN_US)


def _grown(
    budget: Budget, turn: Callable[[int, str], list[dict[str, Any]]], request: dict[str, Any]
) -> tuple[list[float], list[float], int]:
    """Let a conversation grow turn by turn; return the times of an estimate of the last ones, and its tokens."""
    text, messages = _texts()["English"], []
    each = 4 * _TOKENS // _TURNS  # characters of a turn, about
    new, same, size = [], [], 0
    for i in range(_TURNS):
        messages += turn(i, text[i * 100 : i * 100 + each])
        times = []
        for _ in range(5):
            begun = perf_counter()
            size = budget.estimate(messages=messages, max_tokens=1000, **request).input_tokens
            times.append(perf_counter() - begun)
        if i >= _TURNS - 20:
            new.append(times[0])
            same.append(median(times[1:]))
    return new, same, size


def _shown(times: list[float]) -> str:
    return f"{median(times) * 1e6:>7.0f} ({min(times) * 1e6:.0f})"


def _plain(i: int, text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant" if i % 2 else "user", "content": f"{i} {text}"}]


def _pair(i: int, text: str) -> list[dict[str, Any]]:
    half = len(text) // 2
    return [{"role": "user", "content": f"{i} {text[:half]}"}, {"role": "assistant", "content": f"{i} {text[half:]}"}]


def _step(i: int, text: str) -> list[dict[str, Any]]:
    call = {"type": "tool_use", "id": f"call-{i}", "name": "read", "input": {"path": f"/src/{i}.py", "lines": 100}}
    said = {"type": "text", "text": f"{i} {text[:100]}"}
    result = {"type": "tool_result", "tool_use_id": f"call-{i}", "content": text[100:]}
    return [{"role": "assistant", "content": [said, call]}, {"role": "user", "content": [result]}]


def _verdict(promise: str, kept: bool) -> None:
    print(f"{promise}: {'kept' if kept else 'NOT KEPT'}")
