"""What a wrapped call adds to a bare call of the same SDK, against a provider on loopback in a process of its own.

The clients take turns call by call, so that each meets the same machine. A figure is the median of all calls, with
the fastest tenth in parentheses, which a busy machine disturbs less.

The seam itself is what wrapping adds to a bare call in `with budget.reservation(...)`, which estimates, reserves and
reconciles the same by hand; it is a median of differences of CPU time, turn by turn. Of 300 agents at once the whole
run is timed, bare and wrapped in turns, with answers that take 50 ms and more.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from anthropic import Anthropic, AsyncAnthropic, DefaultAsyncHttpxClient, DefaultHttpxClient

from benchmarks.bench_redis import server
from benchmarks.bench_stores import EIGHT, attributes
from benchmarks.measure import rounds, title, verdict
from budget.engine import Budget
from tests.redisserver import binaries

__all__ = ["main"]

_PROMPT = "Read this bug report, find the cause, and say in a few words how you would fix it. " * 18  # 1,500 characters
_REQUEST: dict[str, Any] = {
    "model": "claude-sonnet-4-6", "max_tokens": 800, "messages": [{"role": "user", "content": _PROMPT}],
}  # fmt: skip
_SERVER = """
import sys
from budget.demo.provider import Provider
with Provider(latency=float(sys.argv[1])) as provider:
    print(provider.url, flush=True)
    sys.stdin.read()
"""
_ROOT = Path(__file__).resolve().parents[1]
_WARM = 10
_SEAM_MOST = 40.0  # microseconds
_AGENTS, _USERS, _CALLS = 300, 20, 4
_AGENTS_MOST = 1.05  # times the bare run
_LATENCIES = (0.05, 1.0)  # seconds; with the first, 300 agents ask for more than one process can send, bare or not
_MICROS = 1_000_000


def main() -> None:
    """Print the figures."""
    title("Wrapped call: microseconds per call, and what wrapping adds: median (fastest tenth), 8 pools")
    with tempfile.TemporaryDirectory(prefix="budget-bench-") as folder, ExitStack() as ends:
        engines = {
            "on memory": Budget("memory://", limits=EIGHT),
            "on sqlite": Budget(f"sqlite:///{folder}/wrap.db", limits=EIGHT, store_timeout=30),
        }
        if binaries():
            engines["on redis"] = Budget(ends.enter_context(server()), limits=EIGHT, store_timeout=30)
        try:
            with provider(0) as url:
                _print("create", _sync(url, engines, _create, 300))
                _print("create, async", _async(url, engines, 300))
                _print("stream of 40 tokens", _sync(url, engines, _stream, 300))
            with provider(0.020) as url:
                _print("create, 20 ms away", _sync(url, engines, _create, 120))
                _print("create, async, 20 ms away", _async(url, engines, 120))
            _print_parts(engines["on memory"])
            with provider(0) as url:
                _print_seam(url, engines)
            for latency in _LATENCIES:
                with provider(latency) as url:
                    _print_agents(url, engines, latency)
        finally:
            for budget in engines.values():
                budget.close()


@contextmanager
def provider(latency: float) -> Iterator[str]:
    """Run a demo provider in a process of its own; give its URL."""
    command = [sys.executable, "-c", _SERVER, str(latency)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


def _create(client: Anthropic) -> None:
    client.messages.create(**_REQUEST)


def _stream(client: Anthropic) -> None:
    with client.messages.stream(**_REQUEST) as stream:
        for _ in stream.text_stream:
            pass


def _sync(
    url: str, engines: Mapping[str, Budget], call: Callable[[Anthropic], None], count: int
) -> dict[str, list[float]]:
    with Anthropic(base_url=url, api_key="bench", http_client=DefaultHttpxClient(trust_env=False)) as bare:
        clients = {"bare": bare, **{name: budget.wrap(bare) for name, budget in engines.items()}}
        found: dict[str, list[float]] = {name: [] for name in clients}
        with ExitStack() as runs:
            for budget in engines.values():
                runs.enter_context(budget.run(**attributes(0)))
            for _ in range(count + _WARM):
                for name, client in clients.items():
                    begun = time.perf_counter()
                    call(client)
                    found[name].append(time.perf_counter() - begun)
    return found


def _async(url: str, engines: Mapping[str, Budget], count: int) -> dict[str, list[float]]:
    async def measure() -> dict[str, list[float]]:
        http = DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncAnthropic(base_url=url, api_key="bench", http_client=http) as bare:
            clients = {"bare": bare, **{name: budget.wrap(bare) for name, budget in engines.items()}}
            found: dict[str, list[float]] = {name: [] for name in clients}
            with ExitStack() as runs:
                for budget in engines.values():
                    runs.enter_context(budget.run(**attributes(0)))
                for _ in range(count + _WARM):
                    for name, client in clients.items():
                        begun = time.perf_counter()
                        await client.messages.create(**_REQUEST)
                        found[name].append(time.perf_counter() - begun)
        return found

    return asyncio.run(measure())


def _print(name: str, found: Mapping[str, list[float]]) -> None:
    kept = {client: sorted(times[_WARM:]) for client, times in found.items()}
    usual = {client: median(times) * _MICROS for client, times in kept.items()}
    quick = {client: times[len(times) // 10] * _MICROS for client, times in kept.items()}
    bare, bare_quick = usual.pop("bare"), quick["bare"]
    cells = (
        f"{client} {micros - bare:+8,.0f} {micros / bare - 1:+5.0%} ({quick[client] - bare_quick:+,.0f})"
        for client, micros in usual.items()
    )
    print(f"{name:<27}bare {bare:>7,.0f} {f'({bare_quick:,.0f})':<8}   " + "   ".join(cells))


def _print_parts(budget: Budget) -> None:
    """Print what estimating, reserving and reconciling take of it, without any SDK."""
    estimate = budget.estimate(**_REQUEST)
    usage = {"input_tokens": 350, "output_tokens": 40}

    def timed(step: Callable[[], object]) -> Callable[[], float]:
        def run() -> float:
            times = []
            for _ in range(300):
                begun = time.perf_counter()
                step()
                times.append(time.perf_counter() - begun)
            return median(times) * _MICROS

        return run

    def pair() -> None:
        budget.reconcile(budget.reserve(estimate, **attributes(0)), {"usage": usage})

    parts = rounds({"estimate": timed(lambda: budget.estimate(**_REQUEST)), "reserve + reconcile": timed(pair)})
    print("of which, on memory: " + ", ".join(f"{name} {micros:,.0f}" for name, micros in parts.items()))


def _print_seam(url: str, engines: Mapping[str, Budget], count: int = 400) -> None:
    """Print what the seam adds to the same steps done by hand."""
    title("The seam itself: microseconds of CPU per call, 8 pools")
    taken = _taken_by_hand_and_wrapped(url, engines, count)
    for name in engines:
        by_hand, wrapped, bare = taken[f"{name}, by hand"], taken[name], taken["bare"]
        seam = median(_less(wrapped, by_hand)) * _MICROS
        print(
            f"{name:<11}bare {median(bare) * _MICROS:>7,.0f}   by hand {median(_less(by_hand, bare)) * _MICROS:>+6,.0f}"
            f"   wrapped {median(_less(wrapped, bare)) * _MICROS:>+6,.0f}   the seam {seam:>+6,.0f}"
        )
        if name == "on memory":
            verdict(f"the seam adds at most {_SEAM_MOST:.0f} microseconds on memory", seam <= _SEAM_MOST)


def _taken_by_hand_and_wrapped(url: str, engines: Mapping[str, Budget], count: int) -> dict[str, list[float]]:
    """Return the CPU seconds that each call takes this process, by how it is made."""

    def by_hand(budget: Budget) -> None:
        with budget.reservation(**_REQUEST) as held:
            held.reconcile(bare.messages.create(**_REQUEST))

    with Anthropic(base_url=url, api_key="bench", http_client=DefaultHttpxClient(trust_env=False)) as bare:
        ways: dict[str, Callable[[], object]] = {"bare": partial(_create, bare)}
        for name, budget in engines.items():
            ways[f"{name}, by hand"] = partial(by_hand, budget)
            ways[name] = partial(_create, budget.wrap(bare))
        found: dict[str, list[float]] = {name: [] for name in ways}
        with ExitStack() as runs:
            for budget in engines.values():
                runs.enter_context(budget.run(**attributes(0)))
            for _ in range(count + _WARM):
                for name, way in ways.items():
                    begun = time.process_time()
                    way()
                    found[name].append(time.process_time() - begun)
    return {name: times[_WARM:] for name, times in found.items()}


def _less(some: list[float], others: list[float]) -> list[float]:
    return [one - other for one, other in zip(some, others, strict=True)]


def _print_agents(url: str, engines: Mapping[str, Budget], latency: float) -> None:
    """Print how long 300 agents take, each with a run and its calls one after the other."""
    if latency == _LATENCIES[0]:
        title(f"{_AGENTS} agents of {_USERS} users at once, {_CALLS} calls each: seconds, and times the bare run")
    cases = {"bare": partial(_agents, url, None), **{name: partial(_agents, url, b) for name, b in engines.items()}}
    taken = rounds(cases)
    bare = taken.pop("bare")
    cells = "   ".join(f"{name} {seconds:.2f} ({seconds / bare:.3f}x)" for name, seconds in taken.items())
    print(f"answers take {latency:g} s: bare {bare:.2f}   {cells}")
    verdict(f"at most {_AGENTS_MOST}x on memory", taken["on memory"] / bare <= _AGENTS_MOST)


def _agents(url: str, budget: Budget | None) -> float:
    async def agent(client: AsyncAnthropic, number: int) -> None:
        whose = {**attributes(number), "user": f"u{number % _USERS}"}
        with nullcontext() if budget is None else budget.run(**whose):
            for _ in range(_CALLS):
                await client.messages.create(**_REQUEST)

    async def work() -> float:
        http = DefaultAsyncHttpxClient(trust_env=False)
        async with AsyncAnthropic(base_url=url, api_key="bench", http_client=http, timeout=120) as bare:
            client = bare if budget is None else budget.wrap(bare)
            await asyncio.gather(*(client.models.list() for _ in range(_AGENTS)))  # its connections are open
            begun = time.perf_counter()
            await asyncio.gather(*(agent(client, number) for number in range(_AGENTS)))
            return time.perf_counter() - begun

    return asyncio.run(work())
