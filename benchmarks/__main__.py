"""Run all benchmarks, or those named: `python -m benchmarks [stores] [redis] [wrap] [import]`."""

from __future__ import annotations

import sys

from benchmarks import bench_import, bench_redis, bench_stores, bench_wrap
from benchmarks.measure import about

_ALL = {"stores": bench_stores.main, "redis": bench_redis.main, "wrap": bench_wrap.main, "import": bench_import.main}

if __name__ == "__main__":
    names = sys.argv[1:] or list(_ALL)
    if unknown := set(names) - _ALL.keys():
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(_ALL)}")
    print(about())
    for name in names:
        _ALL[name]()
