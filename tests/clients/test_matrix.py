"""Every API, sync and async, every way to make a call, every way for it to end: see `matrix/`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from .matrix.faults import FAULTS, missing
from .matrix.table import lines, title
from .matrix.world import ROWS, World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    logging.getLogger("budget").setLevel(logging.ERROR)  # it warns of each answer without usage
    with World() as made:
        yield made
    logging.getLogger("budget").setLevel(logging.NOTSET)


@pytest.mark.parametrize("row", ROWS, ids=" ".join)
def test_provider_ledger_and_pools_agree(
    row: tuple[str, str, str], world: World, record_property: Callable[[str, object], None]
) -> None:
    cells = world.row(*row)
    record_property("matrix", (title(), row, cells))
    assert {name: cell for name, cell in cells.items() if cell.startswith("FAILED")} == {}


def test_every_cell_that_is_not_there_says_why() -> None:
    there = [(row, name) for row in ROWS for name in FAULTS if missing(row[0], row[2], name) is None]
    assert len(there) == 462
    rows = [(row, {name: "n/a" if missing(row[0], row[2], name) else "usage" for name in FAULTS}) for row in ROWS]
    text = "\n".join(lines(rows))
    assert "462 cells, 0 failed" in text
    assert text.count("n/a:") == 3
