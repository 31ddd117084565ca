"""What soft reservations set aside: `python -m benchmarks.bench_reserve_at [TRACE]`.

Plays a trace through the real engine (memory store), once per `reserve_at`, with the clock of the trace and prefix
caching modelled as in the README. Beside it stands what an oracle needs that knows input and cache of every call.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

if not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import title
from budget import Budget
from budget.commands import Reservation
from budget.expect import LEVELS
from budget.replay import Call, Trace
from budget.usage import Usage

_BLOCK = 64  # tokens: what a prefix is cached in
_OUTPUT_MAX = 32_000  # tokens that every request asks for at most
_MODEL = "claude-sonnet-4-6"  # of traces that name none
START = 1_793_491_200 * 10**9  # 1 November 2026, where a trace has only offsets
_KEPT = {"cached for 5 minutes, refreshed on use": 300 * 10**9, "cached for ever": 10**18}
_DAY = 86400.0


class _Played(NamedTuple):
    """A call as the engine meets it: when it begins and ends, whose it is, and the usage that answers it."""

    at: int
    end: int
    session: str
    model: str
    usage: Usage


class _Result(NamedTuple):
    reserved: int
    spent: int
    overruns: int


def main(path: Path | None = None) -> None:
    """Print reserved over spent, and the share of overruns, per level."""
    data = Path(os.environ.get("BUDGET_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    path = path or data / "traces" / "agent_claude_code_cc_traces.csv.gz"
    title("reserve_at: money reserved over money spent, and calls that cost more than was reserved")
    if not path.exists():
        print(f"skipped: there is no {path.name} here (BUDGET_DATA says where recorded data is)")
        return
    calls = list(Trace(path, fill={"model": _MODEL}, start=START).calls())
    sessions = len({call.who[1] for call in calls})
    modelled = not any(call.cache_read or call.cache_write for call in calls)
    print(f"{path.name}: {len(calls)} calls, {sessions} sessions")
    for name, kept in _KEPT.items() if modelled else [("cached as the trace says", 0)]:
        _print(name, list(cached(calls, kept)))


def _print(name: str, calls: Sequence[_Played]) -> None:
    print(f"\nprompts {name}")
    most = max(_OUTPUT_MAX, *(call.usage.output for call in calls))
    for level in LEVELS:
        found = play(calls, level, most)
        share = 100 * found.overruns / len(calls)
        print(f"  {level:<34}{found.reserved / found.spent:8.2f}{share:9.2f} %")
    for text, lengths in (("overall", {}), ("per session", _by_session(calls))):
        for percent in (99, 95):
            reserved, spent, overruns = _oracle(calls, percent, lengths)
            label = f"oracle: p{percent} of the output {text}"
            print(f"  {label:<34}{reserved / spent:8.2f}{100 * overruns / len(calls):9.2f} %")


def cached(calls: Sequence[Call], kept: int) -> Iterator[_Played]:
    """Give every call a usage: of what its session's last call on that model had, whole blocks are read again."""
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for call in calls:
        at, session, model = int(call.at), call.who[1], call.who[3]
        tokens = call.input + call.cache_read + call.cache_write
        if kept:
            before, then = last.get((session, model), (0, 0))
            read = min(before, tokens) // _BLOCK * _BLOCK if at - then <= kept else 0
            last[session, model] = tokens, at
        else:
            read = call.cache_read
        usage = Usage(cache_read=read, cache_write={"5m": tokens - read}, output=call.output, model=model)
        yield _Played(at, int(call.end or at), session, model, usage)


def play(calls: Sequence[_Played], level: str, most: int) -> _Result:
    """Reserve each call when it begins and reconcile it when it ends, in the order of time."""
    now = 0
    open_: list[tuple[int, int, Reservation, Usage]] = []
    reserved = spent = overruns = 0
    with patch.object(time, "time_ns", lambda: now), Budget("memory://", reserve_at=level) as budget:

        def end() -> int:
            nonlocal now, overruns
            now, _, known, usage = heappop(open_)
            charged = (budget.reconcile(known, usage).charged or (0,))[0] or 0
            overruns += charged > (known.amounts[0] or 0)
            return charged

        for index, call in enumerate(calls):
            while open_ and open_[0][0] <= call.at:
                spent += end()
            now = call.at
            estimate = budget.estimate_counts(
                call.model, input_tokens=call.usage.input_tokens, output_tokens=most, cache_ttls=["5m"]
            )
            scope = {"session": call.session} if call.session else {}
            known = budget.reserve(estimate, lease=_DAY, **scope)
            reserved += known.amounts[0] or 0
            heappush(open_, (call.end, index, known, call.usage))
        while open_:
            spent += end()
    return _Result(reserved, spent, overruns)


def _by_session(calls: Sequence[_Played]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for call in calls:
        found.setdefault(call.session, []).append(call.usage.output)
    return found


def _oracle(calls: Sequence[_Played], percent: int, lengths: dict[str, list[int]]) -> _Result:
    """Reserve the true input and a quantile of all output, known in hindsight: overall, or of the session."""
    every = sorted(call.usage.output for call in calls)
    quantiles = {session: _nearest_rank(sorted(some), percent) for session, some in lengths.items()}
    overall = _nearest_rank(every, percent)
    with Budget("memory://") as budget:
        book = budget.settings.book
        rates = {call.model: book.find(call.model).rates(call.at // 1000) for call in calls}
    reserved = spent = overruns = 0
    for call in calls:
        usage = call.usage
        guess = quantiles.get(call.session, overall)
        asked = Usage(usage.input, usage.cache_read, usage.cache_write, output=guess)
        reserved += rates[call.model].cost(asked).nanos
        spent += rates[call.model].cost(usage).nanos
        overruns += usage.output > guess
    return _Result(reserved, spent, overruns)


def _nearest_rank(ordered: Sequence[int], percent: int) -> int:
    return ordered[-(-percent * len(ordered) // 100) - 1]


if __name__ == "__main__":
    main(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
