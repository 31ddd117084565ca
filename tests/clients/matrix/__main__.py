"""The command: `python -m tests.clients.matrix [words that a row must have ...]` carries out the cells and prints them.

It exits with 1 if a cell fails, and says what disagrees.
"""

from __future__ import annotations

import sys

from .table import lines, title
from .world import ROWS, World

if __name__ == "__main__":
    wanted = [row for row in ROWS if all(word in " ".join(row) for word in sys.argv[1:])]
    with World() as world:
        found = [(row, world.row(*row)) for row in wanted]
    print(title(), *lines(found), sep="\n")
    wrong = [(*row, name, cell) for row, cells in found for name, cell in cells.items() if cell.startswith("FAILED")]
    for row in wrong:
        print(*row, sep=" | ")
    sys.exit(bool(wrong))
