"""How well estimates hold: bound and expectation of input tokens beside what providers billed for recorded requests.

    python -m benchmarks estimates --data DIR
    python -m benchmarks.bench_estimates DIR_OR_FILE ...

reads `DIR/recorded_usage.jsonl.gz` and `DIR/claude_counts_udhr.jsonl.gz`, or the files named: a row per request with
`provider`, `endpoint`, `request`, `usage`, and where the body does not name the model, `request_model`. The recordings
are not part of the repository.

Every row goes through `Budget.estimate` with the shipped price book, which says which tokenizer a model has. Rows are
split by whether the SHA-256 of their `source_path` is even ("fit") or odd ("judge"). Only the text weights of Claude
were computed without the odd rows, and even their settings were chosen with the figures of both halves in view, once
after a miss in the odd one. Frames, tools and media were set looking at all rows. So neither half is a blind test: for
that, name a file that nobody has looked at.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

if not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import title
from budget import Budget
from budget.errors import BudgetError
from budget.estimate import Estimate
from budget.usage import Usage

__all__ = ["Row", "judged", "main", "rows_of"]

_FILES = ("recorded_usage.jsonl.gz", "claude_counts_udhr.jsonl.gz")
_ENDPOINTS = {
    "messages": "messages", "messages.count_tokens": "messages", "chat.completions": "chat", "chat": "chat",
    "responses": "responses", "embeddings": "embeddings", "generateContent": "generateContent",
    "streamGenerateContent": "generateContent", "converse": "converse", "converse-stream": "converse",
}  # fmt: skip
_SLACK_FROM = 300  # tokens: below, the constants of the frame say more than the text
_LEFT_OUT = ("no usage", "no such endpoint here")


class Row(NamedTuple):
    """One recorded request and its estimate."""

    group: tuple[str, str]
    half: str
    source: str
    model: str
    actual: int
    actual_output: int
    estimate: Estimate

    @property
    def covered(self) -> bool:
        """Whether the bounds hold for input and output."""
        estimate = self.estimate
        return self.actual <= estimate.input_tokens_max and self.actual_output <= estimate.output_tokens_max


def rows_of(path: Path, left_out: dict[tuple[str, str], int]) -> Iterator[Row]:
    """Estimate every row of a file; those that cannot be are counted in `left_out`, by provider and reason."""
    with Budget("memory://") as budget, gzip.open(path, "rt", encoding="utf-8") as lines:
        for raw in map(json.loads, lines):
            row = _estimated(budget, raw)
            if isinstance(row, str):
                left_out[raw["provider"], row] += 1
            else:
                yield row


def judged(rows: Sequence[Row]) -> dict[str, float | int]:
    """Return the figures of some rows: shares, and quantiles of bound and expectation over what was billed."""
    closed = [row for row in rows if row.estimate.closed]
    slack = sorted(row.estimate.input_tokens_max / row.actual for row in closed if row.actual >= _SLACK_FROM)
    error = sorted(row.estimate.input_tokens / row.actual - 1 for row in closed)
    found: dict[str, float | int] = {
        "rows": len(rows), "open": len(rows) - len(closed), "missed": sum(not row.covered for row in closed)
    }  # fmt: skip
    if slack:
        found |= {"n": len(slack), "slack": median(slack), "slack p95": _quantile(slack, 0.95)}
    if error:
        found |= {f"error p{q}": _quantile(error, q / 100) for q in (5, 50, 95)}
    return found


def main(data: Sequence[str] = ()) -> None:
    """Print the tables for a folder of recordings, or for the files named."""
    left_out: dict[tuple[str, str], int] = defaultdict(int)
    paths = _paths(data)
    if not paths:
        print("estimates: no recordings: name them, --data DIR, or set BUDGET_DATA")
        return
    rows = [row for path in paths for row in rows_of(path, left_out)]
    title("estimates: input tokens, bound and expectation over what was billed")
    print(f"{'':31}{'rows':>5}{'open':>7}{'covered':>9}{'n>=300':>8}{'slack':>7}{'p95':>7}   expectation p5 p50 p95")
    for half in ("fit", "judge", "all"):
        print(f"-- {half}")
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            if half in ("all", row.half):
                groups[row.group].append(row)
                groups["all", ""].append(row)
        for group in sorted(groups):
            _print(group, judged(groups[group]))
    _print_misses([row for row in rows if row.estimate.closed and not row.covered])
    for (provider, why), count in sorted(left_out.items()):
        print(f"left out: {provider}: {count} rows, {why}")


def _estimated(budget: Budget, raw: dict[str, Any]) -> Row | str:
    endpoint = _ENDPOINTS.get(raw["endpoint"])
    model = raw.get("request_model") or raw["request"].get("model")
    if endpoint is None or not model:
        return _LEFT_OUT[1]
    try:
        usage = Usage.of({"usage": raw["usage"]} if raw.get("usage") else {}, raw["provider"])
        estimate = budget.estimate({**raw["request"], "model": model}, provider=raw["provider"], endpoint=endpoint)
    except BudgetError as error:
        return f"{type(error).__name__}: {str(error)[:90]}"
    if usage.input_tokens == 0:
        return _LEFT_OUT[0]
    return Row(
        (_family(budget, estimate), _shape(estimate, raw["endpoint"])), _half(raw), raw.get("source_path", ""), model,
        usage.input_tokens, usage.output if raw["endpoint"] != "messages.count_tokens" else 0, estimate,
    )  # fmt: skip


def _family(budget: Budget, estimate: Estimate) -> str:
    tokenizer = budget.settings.book.find(estimate.model, estimate.provider or None).tokenizer
    return f"{estimate.provider} {tokenizer or '?'}"


def _shape(estimate: Estimate, endpoint: str) -> str:
    measure = estimate.measure
    assert measure is not None
    if measure.bare:
        return "embeddings"
    if measure.media:
        return "media"
    if measure.tools:
        return "tools"
    return "schema" if measure.schema_tokens else "counts" if endpoint.endswith("count_tokens") else "plain"


def _half(raw: dict[str, Any]) -> str:
    return "judge" if sha256(raw.get("source_path", "").encode()).digest()[0] % 2 else "fit"


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(len(values) - 1, int(q * len(values)))]


def _print(group: tuple[str, str], found: dict[str, float | int]) -> None:
    closed = found["rows"] - found["open"]
    line = f"{' '.join(group):31}{found['rows']:5}{found['open'] / found['rows']:7.1%}"
    line += f"{1 - found['missed'] / closed:9.2%}" if closed else f"{'-':>9}"
    line += f"{found['n']:8}{found['slack']:7.2f}{found['slack p95']:7.2f}" if "n" in found else " " * 22
    if closed:
        line += "".join(f"{found[f'error p{q}']:+8.0%}" for q in (5, 50, 95))
    print(line)


def _print_misses(misses: Sequence[Row]) -> None:
    for row in misses:
        estimate, group = row.estimate, " ".join(row.group)
        print(
            f"missed: {group}, {row.half}: {row.model}: input {row.actual} of {estimate.input_tokens_max}, "
            f"output {row.actual_output} of {estimate.output_tokens_max} ({row.source})"
        )


def _paths(data: Sequence[str]) -> list[Path]:
    named = [Path(name) for name in data] or [
        Path(os.environ.get("BUDGET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    ]
    found = [file for path in named for file in ([path / name for name in _FILES] if path.is_dir() else [path])]
    return [path for path in found if path.is_file()]


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name != "--data"])
