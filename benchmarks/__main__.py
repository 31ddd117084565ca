"""Run all benchmarks, or those named, such as `python -m benchmarks prices speed`."""

from __future__ import annotations

import os
import sys

from benchmarks import (
    bench_estimates,
    bench_growth,
    bench_import,
    bench_peers,
    bench_prices,
    bench_processes,
    bench_records,
    bench_redis,
    bench_reserve_at,
    bench_sinks,
    bench_slices,
    bench_speed,
    bench_stores,
    bench_wrap,
)
from benchmarks.measure import about

_ALL = {
    "stores": bench_stores.main,
    "processes": bench_processes.main,
    "redis": bench_redis.main,
    "growth": bench_growth.main,
    "slices": bench_slices.main,
    "sinks": bench_sinks.main,
    "peers": bench_peers.main,
    "wrap": bench_wrap.main,
    "prices": bench_prices.main,
    "speed": bench_speed.main,
    "estimates": bench_estimates.main,
    "reserve_at": bench_reserve_at.main,
    "records": bench_records.main,
    "import": bench_import.main,
}

if __name__ == "__main__":
    names = sys.argv[1:]
    if "--data" in names:  # where recordings are
        at = names.index("--data")
        os.environ["BUDGET_DATA"] = (names[at + 1 : at + 2] or sys.exit("--data: name a folder"))[0]
        del names[at : at + 2]
    names = names or list(_ALL)
    if unknown := set(names) - _ALL.keys():
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(_ALL)}")
    print(about())
    for name in names:
        _ALL[name]()
