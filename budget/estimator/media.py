"""Images, PDF, audio and video: how large one is, read from its header, and what that costs by a family's rule.

A `Media` says what was found: pixels, pages or a length, never content (`headers` reads them). What cannot be read is 0
pixels (a model that has a cap for images bounds them anyway) or no Media at all: pages and lengths have no cap. Nothing
here raises on content.

The rules themselves are data, in `families/<family>.toml`: which models, which `detail`, which figures. The first rule
that fits holds. There are seven: a flat figure, patches, tiles, crops (images), a figure per page or second, and for an
image that is asked for, whose `detail` is its quality, a table by size and a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budget.estimator.headers import Source, audio_ms, image_size, pdf_pages, source_of, video_ms

__all__ = ["Media", "audio_of", "image_of", "pdf_of", "tokens", "video_of"]

_NO_EDGE = 1 << 30


_Found = tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Media:
    """One image, PDF, sound or film.

    Attributes:
        kind: "image", "pdf", "audio" or "video"; "drawing" is an image that is asked for.
        width, height: Pixels of an image; 0 if they are not known, as of one given by URL, or not said.
        pages: Of a PDF.
        ms: Length of a sound or film in milliseconds, rounded up; for some formats a bound of it.
        detail: How closely the request asks to look, or how well to draw, in the API's word ("low", "high" ...), or "".
    """

    kind: str
    width: int = 0
    height: int = 0
    pages: int = 0
    ms: int = 0
    detail: str = ""


def tokens(media: Media, rules: Sequence[Mapping[str, Any]], model: str) -> _Found:
    """Return the most tokens that it can cost and those to expect; None if no rule is known for it.

    Args:
        media: What was found.
        rules: Of the model's family (`constants.Family.media`).
        model: The model's id; a rule names models by patterns ("*gpt-4o-mini*").
    """
    from fnmatch import fnmatchcase

    for rule in rules:
        fits = rule["kind"] == media.kind and media.detail in rule.get("detail", (media.detail,))
        if fits and any(fnmatchcase(model, pattern) for pattern in rule["models"]):
            return _RULES[rule["rule"]](rule, media)
    return None


def image_of(data: object, detail: str = "") -> Media:
    """Read an image's size.

    Args:
        data: Base64, a `data:` URL of base64, or bytes; anything else, such as another URL, has no known size.
        detail: See `Media`.
    """
    source = source_of(data)
    width, height = image_size(source) if source is not None else (0, 0)
    known = width > 0 and height > 0
    return Media("image", width if known else 0, height if known else 0, detail=detail)


def pdf_of(data: object, detail: str = "") -> Media | None:
    """Count a PDF's pages, rather too many than too few; None if they cannot be counted (encrypted, damaged, large)."""
    source = source_of(data)
    pages = pdf_pages(source) if source is not None else 0
    return Media("pdf", pages=pages, detail=detail) if pages else None


def audio_of(data: object) -> Media | None:
    """Read how long a sound is (WAV, MP3, FLAC, Ogg); None if that cannot be read."""
    return _long("audio", data, audio_ms)


def video_of(data: object) -> Media | None:
    """Read how long a film is (MP4, QuickTime); None if that cannot be read."""
    return _long("video", data, video_ms)


def _long(kind: str, data: object, read: Callable[[Source], int]) -> Media | None:
    source = source_of(data)
    ms = read(source) if source is not None else 0
    return Media(kind, ms=ms) if ms else None


# --- what the rules say -----------------------------------------------------------------------------------------------


def _flat(rule: Mapping[str, Any], _: Media) -> _Found:
    return rule["bound"], rule["expected"]


def _capped(rule: Mapping[str, Any], media: Media, cost: Callable[[int, int], int]) -> _Found:
    """Bound an image by what its size costs, plus the rule's margin (percent), and by the rule's cap, if it has one."""
    cap = rule.get("bound")
    if not media.width:
        return None if cap is None else (cap, rule["expected"])
    found = cost(media.width, media.height)
    most = -(-found * (100 + rule["margin"]) // 100)
    most = most if cap is None else min(most, cap)
    return most, min(most, found)


def _patches(rule: Mapping[str, Any], media: Media) -> _Found:
    """One token per square of `patch` pixels, times `percent`, after it was made to fit `edge` pixels, if any."""

    def cost(width: int, height: int) -> int:
        width, height = _fitted(width, height, rule.get("edge", _NO_EDGE))
        return int(-(-_squares(width, height, rule["patch"]) * rule["percent"] // 100))

    return _capped(rule, media, cost)


def _tiles(rule: Mapping[str, Any], media: Media) -> _Found:
    """`base`, and `tile` per square of 512 pixels, after it was made to fit 2048 pixels and the shorter side 768."""

    def cost(width: int, height: int) -> int:
        width, height = _fitted(width, height, 2048)
        if (short := min(width, height)) > 768:
            width, height = -(-width * 768 // short), -(-height * 768 // short)
        return int(rule["base"] + rule["tile"] * _squares(width, height, 512))

    return _capped(rule, media, cost)


def _crops(rule: Mapping[str, Any], media: Media) -> _Found:
    """`tile` up to 384 pixels, else per square crop: of two thirds of the shorter side, from 256 to 768."""

    def cost(width: int, height: int) -> int:
        if max(width, height) <= 384:
            return int(rule["tile"])
        width, height = _fitted(width, height, rule.get("edge", _NO_EDGE))
        return int(rule["tile"] * _squares(width, height, max(256, min(768, min(width, height) * 2 // 3))))

    return _capped(rule, media, cost)


def _each(rule: Mapping[str, Any], media: Media) -> _Found:
    """`bound` and `expected` per page, or per second; a film is looked at once a second, from its first frame on."""
    if media.kind == "pdf":
        return rule["bound"] * media.pages, rule["expected"] * media.pages
    if media.kind == "video":
        seconds = -(-media.ms // 1000)
        return rule["bound"] * (seconds + 1), rule["expected"] * seconds
    return -(-rule["bound"] * media.ms // 1000), rule["expected"] * media.ms // 1000


def _table(rule: Mapping[str, Any], media: Media) -> _Found:
    """Tokens by size and quality; the most of them where one or both are not said."""
    size = f"{media.width}x{media.height}"
    rows = [by for name, by in rule["sizes"].items() if name == size or not media.width]
    return _most([row[quality] for row in rows for quality in _qualities(row, media)])


def _grid(rule: Mapping[str, Any], media: Media) -> _Found:
    """A grid whose longer side has `sides` cells, by quality, and whose cells cost more in a larger image.

    The vendor's calculator, as its script was read at several places (the source `calculator`):
    ceil(longer side x shorter side x (2,000,000 + pixels) / 4,000,000), the shorter side in proportion, rounded.
    Where no size is said, the largest square is the dearest: `edge` pixels.
    """
    width, height = (media.width, media.height) if media.width else (rule["edge"], rule["edge"])
    long, short = max(width, height), min(width, height)
    found = []
    for quality in _qualities(rule["sides"], media):
        side = rule["sides"][quality]
        cells = side * ((2 * side * short + long) // (2 * long))
        found.append(-(-cells * (2_000_000 + width * height) // 4_000_000))
    return _most(found)


def _qualities(known: Mapping[str, Any], media: Media) -> Sequence[str]:
    return [quality for quality in known if media.detail in (quality, "", "auto")]


def _most(found: Sequence[int]) -> _Found:
    return (max(found), max(found)) if found else None


_RULES = {
    "flat": _flat, "patches": _patches, "tiles": _tiles, "crops": _crops, "each": _each, "table": _table, "grid": _grid,
}  # fmt: skip


def _fitted(width: int, height: int, edge: int) -> tuple[int, int]:
    longest = max(width, height)
    if longest <= edge:
        return width, height
    return -(-width * edge // longest), -(-height * edge // longest)


def _squares(width: int, height: int, side: int) -> int:
    return -(-width // side) * -(-height // side)
