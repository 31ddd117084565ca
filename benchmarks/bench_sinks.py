"""Sinks: what a call costs whose record is told to three of them meanwhile, beside the same call without any.

    python -m benchmarks.bench_sinks

A call is a reserve and a reconcile on a store in memory, which is the quickest, so that the least shows. Each round
opens a store of its own, with sinks and without in turns. Paced, calls come as they do from a program that waits for
answers; what counts is how long one takes. Flat out, the threads of the sinks share the processor with the calls, which
come by the thousand: what counts is how many there are. Who makes that many runs the sinks in a process of their own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, sleep

from benchmarks.measure import rounds, title, verdict
from budget.engine import Budget
from budget.usage import Usage

_USAGE = Usage(input=1000, output=300, cache_read=4000, model="claude-sonnet-4-5")
_PACED, _RATE = 400, 200
_FLAT = 10_000
_RECEIVER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


def main() -> None:
    """Print the figures."""
    title("sinks: a reserve and a reconcile, with three sinks at work and without")
    receiver = subprocess.Popen([sys.executable, "-c", _RECEIVER], stdout=subprocess.PIPE, text=True)
    try:
        assert receiver.stdout is not None
        url = f"webhook+http://127.0.0.1:{receiver.stdout.readline().strip()}/"
        _paced(url)
        _flat(url)
    finally:
        receiver.kill()
        receiver.wait()


def _paced(url: str) -> None:
    worst: dict[bool, list[float]] = {True: [], False: []}

    def case(sinks: bool) -> float:
        times = _times(url if sinks else None, _PACED, 1 / _RATE)
        worst[sinks].append(quantiles(times, n=100)[98])
        return median(times)

    found = rounds({"without": lambda: case(False), "with": lambda: case(True)}, count=7)
    ratio = found["with"] / found["without"]
    print(f"{f'{_RATE} calls a second: median, without':<50}{found['without'] * 1e6:>10,.0f} us")
    print(f"{f'{_RATE} calls a second: median, with sinks':<50}{found['with'] * 1e6:>10,.0f} us   ratio {ratio:.2f}")
    for sinks, name in ((False, "without"), (True, "with sinks")):
        print(f"{f'{_RATE} calls a second: p99, {name}':<50}{median(worst[sinks]) * 1e6:>10,.0f} us")
    verdict("a call is not slowed measurably: at most 1.1 times", ratio <= 1.1)


def _flat(url: str) -> None:
    def case(sinks: bool) -> float:
        return _FLAT / sum(_times(url if sinks else None, _FLAT, 0.0))

    found = rounds({"without": lambda: case(False), "with": lambda: case(True)}, count=7)
    for name in ("without", "with"):
        print(f"{f'flat out, {name} sinks: calls per second':<50}{found[name]:>10,.0f}")


def _times(url: str | None, count: int, pause: float) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        sinks = [f"jsonl:{at / 'calls.jsonl'}", f"parquet:{at / 'parquet'}?seconds=1", url] if url else []
        with Budget("memory://", limits=["$1000/day"], sinks=sinks) as budget:
            budget.reconcile(budget.reserve("$0.01", user="alice"), _USAGE)
            times = []
            for _ in range(count):
                began = perf_counter()
                budget.reconcile(budget.reserve("$0.01", user="alice"), _USAGE)
                times.append(perf_counter() - began)
                if pause:
                    sleep(pause)
        return times


if __name__ == "__main__":
    main()
