"""Benchmarks: what the project's speed is beside a floor measured in the same run. `python -m benchmarks`."""
