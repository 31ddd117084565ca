"""Plots: small SVG documents, written by hand, for what a terminal cannot draw.

The same figures give the same bytes. Texts are escaped, colours hold on a light and on a dark ground (the document asks
for the reader's preference), and nothing is fetched: no script, no font, no style from elsewhere. Coordinates are
tenths of a pixel, rounded from integers, so money is never a float here either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from unicodedata import east_asian_width
from xml.sax.saxutils import escape

from budget.money import show_usd
from budget.window import SECOND, at_zone

__all__ = ["bars", "lines"]

_WIDTH = 760
_TITLE, _ROW, _PAD, _LETTER = 44, 24, 16, 7
_LABEL = 34  # the most letters of a label
_HEIGHT, _BOTTOM = 300, 30  # of the field of `lines`, and what is below it
_TICKS = 5
_MOST = 600  # points of a line: more are not told apart at this width
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#8b5fbf", "#7f7f7f")
"""The first are of Okabe and Ito, "Color Universal Design" (2008), which most kinds of colour blindness tell apart."""
_MINUTE, _HOUR, _DAY = 60 * SECOND, 3600 * SECOND, 86400 * SECOND
_STEPS = (
    SECOND, 5 * SECOND, 15 * SECOND, _MINUTE, 5 * _MINUTE, 15 * _MINUTE, _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR,
    _DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 28 * _DAY, 91 * _DAY, 364 * _DAY, 1820 * _DAY,
)  # fmt: skip
_UNFIT = re.compile(
    "[^\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
)
_STYLE = """<style>
.paper { fill: #ffffff } text { fill: #24292f; font: 12px system-ui, "Segoe UI", Helvetica, Arial, sans-serif }
.title { font-size: 15px; font-weight: 600 } .soft { fill: #57606a } .grid { stroke: #d0d7de; stroke-width: 1 }
@media (prefers-color-scheme: dark) {
.paper { fill: #0d1117 } text { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #30363d } }
</style>"""


def bars(title: str, rows: Sequence[tuple[str, int]], *, show: Callable[[int], str] = show_usd) -> str:
    """Draw a horizontal bar per row, in the order given, and return the SVG document.

    Args:
        title: Above it.
        rows: A label and an amount from 0 up (nano-dollars, or what `show` writes).
        show: Writes an amount for a person.
    """
    names = [_short(label) for label, _ in rows]
    left = 2 * _PAD + _LETTER * max(map(_letters, names), default=0)
    right = 2 * _PAD + _LETTER * max((_letters(show(amount)) for _, amount in rows), default=0)
    room, most = _WIDTH - left - right, max([1, *(amount for _, amount in rows)])
    parts = []
    for i, ((_, amount), name) in enumerate(zip(rows, names, strict=True)):
        top, length = _TITLE + i * _ROW, amount * room
        parts += [
            _text(left - 8, top + 16, name, anchor="end"),
            f'<rect x="{left}" y="{top + 4}" width="{_tenths(length, most)}" height="{_ROW - 8}" '
            f'fill="{_COLOURS[0]}"/>',
            f'<text class="soft" x="{_tenths((left + 6) * most + length, most)}" y="{top + 16}">'
            f"{_clean(show(amount))}</text>",
        ]
    return _document(title, _TITLE + max(len(rows), 1) * _ROW + _PAD, parts or [_nothing()])


def lines(title: str, series: Mapping[str, Sequence[tuple[int, int]]], *, show: Callable[[int], str] = show_usd) -> str:
    """Draw a line per series over time and return the SVG document.

    Args:
        title: Above it.
        series: Points by name: when (microseconds since the epoch, rising) and an amount from 0 up (nano-dollars, or
            what `show` writes). The names stand in a legend.
        show: Writes an amount for a person.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return _document(title, _TITLE + _ROW + _PAD, [_nothing()])
    first, last = min(at for at, _ in points), max(at for at, _ in points)
    last = max(last, first + 1)
    marks = _marks(max(amount for _, amount in points))
    legend, top = _legend(list(series), _TITLE)
    bottom, left = top + _HEIGHT, 2 * _PAD + _LETTER * max(_letters(show(mark)) for mark in marks)
    width = _WIDTH - left - 2 * _PAD
    parts = [*legend]
    for mark in marks:
        y = _tenths(bottom * marks[-1] - mark * _HEIGHT, marks[-1])
        parts += [
            f'<line class="grid" x1="{left}" y1="{y}" x2="{left + width}" y2="{y}"/>',
            f'<text class="soft" x="{left - 8}" y="{y}" dy="4" text-anchor="end">{_clean(show(mark))}</text>',
        ]
    for at, name in _instants(first, last):
        x = _tenths(left * (last - first) + (at - first) * width, last - first)
        parts += [
            f'<line class="grid" x1="{x}" y1="{bottom}" x2="{x}" y2="{bottom + 5}"/>',
            f'<text class="soft" x="{x}" y="{bottom + 20}" text-anchor="middle">{name}</text>',
        ]
    for i, line in enumerate(series.values()):
        places = " ".join(
            f"{_tenths(left * (last - first) + (at - first) * width, last - first)},"
            f"{_tenths(bottom * marks[-1] - amount * _HEIGHT, marks[-1])}"
            for at, amount in _thinned(line)
        )
        parts.append(
            f'<polyline points="{places}" fill="none" stroke="{_colour(i)}" stroke-width="2" stroke-linejoin="round"/>'
        )
    return _document(title, bottom + _BOTTOM + _PAD, parts)


def _document(title: str, height: int, parts: Sequence[str]) -> str:
    name = _clean(title)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="{name}">'
    )
    paper = f'<rect class="paper" width="{_WIDTH}" height="{height}" rx="6"/>'
    said = f'<text class="title" x="{_PAD}" y="28">{name}</text>'
    return "\n".join([head, f"<title>{name}</title>", _STYLE, paper, said, *parts, "</svg>"]) + "\n"


def _legend(names: Sequence[str], top: int) -> tuple[list[str], int]:
    """Return the legend, and where the field below it begins."""
    parts, x = [], _PAD
    for i, name in enumerate(map(_short, names)):
        width = 32 + _LETTER * _letters(name)
        if x > _PAD and x + width > _WIDTH - _PAD:
            x, top = _PAD, top + 20
        parts += [f'<rect x="{x}" y="{top}" width="12" height="12" rx="2" fill="{_colour(i)}"/>',
                  _text(x + 18, top + 10, name)]  # fmt: skip
        x += width
    return parts, top + 30


def _marks(most: int) -> list[int]:
    """Return round amounts from 0 to at least the most, 1, 2 or 5 times a power of ten apart."""
    least, step = max(-(-most // _TICKS), 1), 1
    while step < least:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return [step * i for i in range(max(-(-most // step), 1) + 1)]


def _instants(first: int, last: int) -> list[tuple[int, str]]:
    """Return round instants (UTC) of a span, and how each is written."""
    span = last - first
    step = next((step for step in _STEPS if span // step <= _TICKS + 1), -(-span // _TICKS // _DAY) * _DAY)
    form = "%Y-%m-%d" if step >= _DAY else "%m-%d %H:%M" if step >= _MINUTE else "%H:%M:%S"
    return [(at, at_zone(at).strftime(form)) for at in range(-(-first // step) * step, last + 1, step)]


def _thinned(line: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """Return a line's points, or as many as can be seen, with its first, last and the highest of each part."""
    if len(line) <= _MOST:
        return line
    part = -(-len(line) // _MOST)
    peaks = [max(line[i : i + part], key=lambda point: point[1]) for i in range(0, len(line), part)]
    return [line[0], *peaks, line[-1]]


def _tenths(value: int, over: int) -> str:
    """Write a fraction with one decimal, rounded half up."""
    tenths = (20 * value + over) // (2 * over)
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth}" if tenth else str(whole)


def _text(x: int, y: int, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{_clean(text)}</text>'


def _nothing() -> str:
    return f'<text class="soft" x="{_PAD}" y="{_TITLE + 16}">nothing to show</text>'


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else f"{text[: _LABEL // 2]}…{text[1 - _LABEL // 2 :]}"


def _letters(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def _clean(text: str) -> str:
    """Escape a text; what XML does not take, and what reorders or hides text, becomes a mark that shows."""
    return escape(_UNFIT.sub("\ufffd", text), {'"': "&quot;"})
