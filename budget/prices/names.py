"""Names: which ids a name can mean, and which names are like it.

A name means an id exactly, or by named rules: a provider's own way of writing a path to a model (an ARN, `models/`),
and the rules for snapshots that a model allows (`-20250929`, `@20250929`, `-v1:0`, `us.` ...), with real dates. There
is no guessing by prefix: an unknown future model priced as its elder sibling is how a budget leaks.
"""

from __future__ import annotations

import re
from heapq import nlargest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["HOSTS", "MAKERS", "MARKETS", "PATHS", "likeliest", "plain", "readings"]

MAKERS = ("anthropic", "openai", "google", "mistral", "xai", "deepseek", "cohere")
"""Providers that sell models of their own: a name asked without a provider is theirs first."""

HOSTS = ("google-vertex", "aws-bedrock", "azure", "groq", "together", "fireworks", "perplexity")
"""Providers that sell models of others, each at a price of its own."""

MARKETS = ("openrouter",)
"""Providers whose prices follow others': found only when they are named."""

_DATES = {
    "date8": re.compile(r"(.+)-(20\d\d)(\d\d)(\d\d)", re.ASCII),
    "date10": re.compile(r"(.+)-(20\d\d)-(\d\d)-(\d\d)", re.ASCII),
    "at8": re.compile(r"(.+)@(20\d\d)(\d\d)(\d\d)", re.ASCII),
}
_VERSION = re.compile(r"(.+)-v\d{1,2}(?::\d{1,2})?", re.ASCII)
_REGION = re.compile(r"(?:us|eu|apac|jp|au|ca|sa|me|af|in)\.(.+)")
"""Where a Bedrock inference profile may be served; `global.` and `us-gov.` are not here: they have prices of their own
(docs.aws.amazon.com/bedrock/latest/userguide/inference-profiles-support.html, read 2026-11-22)."""

PATHS = {
    "google": re.compile(r"models/([^/]+)"),
    "google-vertex": re.compile(r"(?:projects/[^/]+/locations/[^/]+/)?publishers/[^/]+/models/([^/]+)|models/([^/]+)"),
    "aws-bedrock": re.compile(
        r"arn:aws[a-z-]*:bedrock:[a-z0-9-]*:\d*:(?:foundation-model|inference-profile)/([^/]+)", re.ASCII
    ),
}
"""How providers write a path to a model."""


def plain(name: str, provider: str) -> str:
    """Return the id in a path or ARN as this provider writes them; any other name as it is."""
    pattern = PATHS.get(provider)
    match = pattern.fullmatch(name) if pattern else None
    return name if match is None else next(filter(None, match.groups()))


def readings(name: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the ids that a name can be a snapshot of, each with the rules that lead there, fewest first."""
    if name.startswith("ft:"):
        yield ":".join(name.split(":", 2)[:2]), frozenset(("ft",))
        return
    found = [(name, frozenset[str]())]
    for peel in (_region, _version, _date):
        found += [(base, rules | {rule}) for whole, rules in tuple(found) for base, rule in peel(whole)]
    yield from sorted(found[1:], key=lambda reading: len(reading[1]))


def likeliest(name: str, known: Iterable[str], count: int = 3) -> tuple[str, ...]:
    """Return the known names most like this one: by shared trigrams among all, then by longest matches among those."""
    from difflib import SequenceMatcher

    name = name[:80]
    grams = {name[i : i + 3] for i in range(max(1, len(name) - 2))}

    def shared(other: str) -> float:
        return sum([gram in other for gram in grams]) / (len(grams) + len(other))

    near = nlargest(count * 8, known, key=shared)
    matcher = SequenceMatcher(b=name)

    def ratio(other: str) -> float:
        matcher.set_seq1(other)
        return matcher.ratio()

    return tuple(nlargest(count, near, key=ratio))


def _region(name: str) -> Iterator[tuple[str, str]]:
    if (match := _REGION.fullmatch(name)) is not None:
        yield match[1], "region"


def _version(name: str) -> Iterator[tuple[str, str]]:
    if (match := _VERSION.fullmatch(name)) is not None:
        yield match[1], "version"


def _date(name: str) -> Iterator[tuple[str, str]]:
    for rule, pattern in _DATES.items():
        if (match := pattern.fullmatch(name)) is not None and _is_date(*map(int, match.groups()[1:])):
            yield match[1], rule


def _is_date(year: int, month: int, day: int) -> bool:
    from datetime import date

    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
