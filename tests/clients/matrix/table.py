"""The table of the cells, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import anthropic
import openai

from .faults import FAULTS, missing
from .world import ROWS

__all__ = ["lines", "title"]

Row = tuple[tuple[str, str, str], Mapping[str, str]]
_LEGEND = (
    "usage: what the provider's log bills; refund: nothing; reserved: the whole reservation, marked estimated;",
    "part: known input and what was received at least, less than the reservation, marked estimated.",
)


def title() -> str:
    """What the table is of."""
    return f"anthropic {anthropic.__version__}, openai {openai.__version__}: provider log = ledger = pools"


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """Lay out the rows, with a legend, and why the cells that are not there are not."""
    yield f"{'':<44}" + "".join(f"{name:<14}" for name in FAULTS)
    count = failed = 0
    for (api, kind, way), cells in rows:
        count += sum(cell != "n/a" for cell in cells.values())
        failed += sum(cell.startswith("FAILED") for cell in cells.values())
        yield f"{api:<19}{kind:<6}{way:<19}" + "".join(f"{cell.partition(':')[0]:<14}" for cell in cells.values())
    yield f"{count} cells, {failed} failed"
    yield from _LEGEND
    reasons = {(way, name): missing(api, way, name) for api, _, way in ROWS for name in FAULTS}
    told: dict[str, None] = {}
    for reason in filter(None, reasons.values()):
        told[reason] = None
    yield from (f"n/a: {reason}." for reason in told)
