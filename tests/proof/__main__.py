"""The command: `python -m tests.proof run|simulate|mutants ...`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]


def main(words: list[str]) -> int:
    """Do what the words say; 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="everything, for so many minutes, and the record")
    run.add_argument("--minutes", type=float, default=10.0)
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--only", default="", help="parts with this in their name")
    run.add_argument("--out", type=Path, help="where the record is written, as Markdown")
    one = commands.add_parser("simulate", help="worlds by their seeds")
    one.add_argument("--seed", type=int, default=1, help="the first")
    one.add_argument("--count", type=int, default=1, help="how many")
    one.add_argument("--steps", type=int, default=2000)
    one.add_argument("--store", choices=("memory", "sqlite"), default="memory")
    mutants = commands.add_parser("mutants", help="seeded bugs: does the suite catch each one?")
    mutants.add_argument("--only", default="", help="mutants with this in their name or file")
    mutants.add_argument("--list", action="store_true", help="only say which there are")
    mutants.add_argument("--jobs", type=int, default=2)
    asked = parser.parse_args(words)
    logging.getLogger("budget").setLevel(logging.ERROR)  # what the store cannot do is what is asked for here
    if asked.command == "run":
        from proof.record import prove

        return not prove(asked.minutes, asked.out, asked.seed, asked.only)
    if asked.command == "mutants":
        from proof.mutants import catch, show

        return not (show(asked.only) if asked.list else catch(asked.only, asked.jobs))
    return _simulate(asked)


def _simulate(asked: argparse.Namespace) -> int:
    from proof.invariants import Violation
    from proof.simulator import simulate

    with tempfile.TemporaryDirectory() as folder:
        for seed in range(asked.seed, asked.seed + asked.count):
            try:
                world = simulate(seed, asked.steps, Path(folder) if asked.store == "sqlite" else None)
            except Violation as violation:
                print(violation)
                return 1
            told = f"{dict(world.counts)}, faults {dict(world.faults)}"
            print(f"seed {seed}: {told}, last digest {world.books.head.hex()[:16]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
