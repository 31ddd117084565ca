"""What commands draw with letters (bars, lines of little bars), and what they write besides: CSV and SVG."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from budget.cli.output import csv_cell
from budget.errors import ConfigError
from budget.money import NANOS
from budget.window import instant

__all__ = ["bar", "check_plot", "percent", "plot_costs", "plot_rates", "print_csv", "spark", "write_plot"]

_BAR = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"
_HEIGHTS = "▁▂▃▄▅▆▇█"


def bar(part: Decimal | int, whole: Decimal | int) -> str:
    """Draw a share; what is not zero has an eighth of a letter at least."""
    if whole <= 0 or part <= 0:
        return "░" * _BAR
    eighths = max(1, min(8 * _BAR, int(part * 8 * _BAR / whole)))
    full, rest = divmod(eighths, 8)
    drawn = "█" * full + (_EIGHTHS[rest] if rest else "")
    return drawn + "░" * (_BAR - len(drawn))


def spark(values: Sequence[int]) -> str:
    """Draw values over time, the highest in full; what is zero is a dot."""
    most = max(values, default=0)
    return "".join("·" if value <= 0 else _HEIGHTS[-(-value * 8 // most) - 1] for value in values)


def percent(ratio: Decimal | None, places: int = 2) -> str:
    """Write a ratio as percent: "12.50 %"; "-" for none."""
    return "-" if ratio is None else f"{100 * ratio:.{places}f} %"


def print_csv(rows: Sequence[Any]) -> None:
    """Print rows as CSV in which no cell is a formula; a row that is grouped has a column per attribute."""
    found = [_flat(row.to_dict()) for row in rows]
    writer = csv.writer(sys.stdout, lineterminator="\n")
    if found:
        writer.writerow(found[0])
    for row in found:
        writer.writerow([csv_cell(value) for value in row.values()])


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    keys: Mapping[str, Any] = row.pop("keys", {})
    if keys:
        row.pop("by", None)
    rest = {name: json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()}
    return {**keys, **rest}


def check_plot(path: str) -> None:
    """Check that a file can be made, before the work that it is to show.

    Raises:
        ConfigError: It exists, or its folder does not.
    """
    target = Path(path)
    if target.exists():
        raise ConfigError(f"plot: {path!r} exists; name another file")
    if not target.parent.is_dir():
        raise ConfigError(f"plot: the folder {str(target.parent)!r} does not exist")


def write_plot(path: str, drawn: str) -> None:
    """Write an SVG document to a file that does not exist yet.

    Raises:
        ConfigError: It exists.
    """
    try:
        with Path(path).open("x", encoding="utf-8") as stream:
            stream.write(drawn)
    except FileExistsError:
        raise ConfigError(f"plot: {path!r} exists; name another file") from None


def plot_costs(rows: Sequence[Any], asked: Mapping[str, Any]) -> str:
    """Draw costs: over time if grouped by day or hour, else a bar per row."""
    from budget.plot import bars, lines

    keys = list(rows[0].keys) if rows else []
    title = f"Cost by {' and '.join(keys)}" if keys else "Cost"
    if keys in (["day"], ["hour"]):
        points = sorted((instant(_moment(row.by)), _nanos(row.usd)) for row in rows)
        return lines(title, {"cost": points})
    names = [", ".join(key or "(none)" for key in row.keys.values()) for row in rows]
    return bars(title, [(name, _nanos(row.usd)) for name, row in zip(names, rows, strict=True)])


def plot_rates(rows: Sequence[Any], asked: Mapping[str, Any]) -> str:
    """Draw what each hour cost."""
    from budget.plot import lines

    return lines("Cost per hour", {"cost": [(instant(row.until), _nanos(row.usd)) for row in rows]})


def _moment(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _nanos(usd: Decimal) -> int:
    return int(usd * NANOS)
