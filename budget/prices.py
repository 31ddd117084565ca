"""Prices: which model a name means, and which rates it has at an instant.

A `PriceBook` maps names to `Model`s. A name is found by an exact id, an explicit alias, or a named snapshot rule with
a valid date; anything else is `UnknownModel`, never a guess by prefix: an unknown future model priced as its elder
sibling is how a budget leaks. The shipped book is compiled from `prices/*.toml` (see `budget.pricefiles`) and read
from package data once; the user's own rows lie on top of it (see `budget.overlay`). A model has dated rows, and the
`Rates` of a row price a usage or bound a request (see `budget.rates`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from budget.errors import ArgumentTypeError, UnknownModel
from budget.rates import Card, Cost, Rates

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Cost", "Model", "PriceBook", "Rates", "Row"]

_CACHED_NAMES = 4096
_SNAPSHOTS = {
    "date8": re.compile(r"(.+)-(20\d\d)(\d\d)(\d\d)", re.ASCII),
    "date10": re.compile(r"(.+)-(20\d\d)-(\d\d)-(\d\d)", re.ASCII),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A dated row: these rates from `from_us` (microseconds since the Unix epoch, UTC) until the next row.

    Attributes:
        status: confirmed, announced, promotional, retired; "own" for the user's own prices.
        source: Where the price was read, and `retrieved` when (ISO date); `review_by` when to look again.
    """

    from_us: int
    rates: Rates
    status: str = "own"
    source: str | None = None
    retrieved: str | None = None
    review_by: str | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one provider, under all its names.

    Attributes:
        provider: "anthropic", "openai" ...; "" for a model of the user's own that names no provider: it is found
            whichever provider is asked for.
        aliases: Further exact names.
        snapshots: Rules for dated names: date8 (id-YYYYMMDD), date10 (id-YYYY-MM-DD), ft (id:anything, fine-tuned).
        context: Tokens of the context window, None if not known.
        max_output: Most output tokens of one request, None if not known.
        tokenizer: One of `budget.overlay.TOKENIZERS`, None if not known.
        rows: By date, ascending.
    """

    id: str
    provider: str
    rows: tuple[Row, ...]
    aliases: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    context: int | None = None
    max_output: int | None = None
    tokenizer: str | None = None

    def rates(self, at_us: int) -> Rates:
        """Return the rates at an instant (microseconds since the Unix epoch, UTC); before the first row, the first."""
        return self.rows[max(0, bisect_right(self.rows, at_us, key=_from_us) - 1)].rates


class PriceBook:
    """Models by name. Immutable; `overlay` makes a new one.

    Attributes:
        hash: SHA-256 of the content, own rows included; it stands in every ledger entry.
    """

    def __init__(self, models: Iterable[Model], content_hash: str):
        """Args: models: where two share a name, the first is found; content_hash: becomes `hash`."""
        self.hash = content_hash
        self._models = tuple(models)
        self._names: dict[str, list[Model]] = {}
        self._found: dict[tuple[str, str | None], Model | tuple[str, ...]] = {}
        for model in self._models:
            for name in (model.id, *model.aliases):
                self._names.setdefault(name, []).append(model)

    @classmethod
    def shipped(cls) -> PriceBook:
        """Return the book that comes with the package; read once."""
        return _shipped()

    @classmethod
    def from_dict(cls, book: Mapping[str, Any]) -> PriceBook:
        """Make a book of the compiled form (`budget.pricefiles.compile_book`), which is trusted."""
        providers = book["providers"].items()
        return cls([_model(raw, provider) for provider, models in providers for raw in models], book["hash"])

    def overlay(self, prices: object) -> PriceBook:
        """Return a book with the user's own rows on top.

        A row whose name this book knows replaces that model's prices, all of them, under all its names; context,
        tokenizer and the like stay where the row does not say otherwise.

        Args:
            prices: `{"my-model": {"input": "0.10", "output": "0.40"}}` or a list of tables with a `model` key.

        Raises:
            ArgumentTypeError, ConfigError: See `budget.overlay.overlay_rows`.
        """
        from hashlib import sha256
        from json import dumps

        from budget.overlay import overlay_rows

        rows = overlay_rows(prices)
        if not rows:
            return self
        own = [self._own(row) for row in rows]
        digest = sha256((self.hash + dumps(rows, sort_keys=True)).encode()).hexdigest()
        return PriceBook([*own, *self._models], digest)

    def find(self, model: str, provider: str | None = None) -> Model:
        """Return the model that a name means.

        Args:
            model: An exact id or alias, or a dated snapshot of an id where the model allows it.
            provider: Look only there. None: the user's own rows first, then every provider.

        Raises:
            ArgumentTypeError: `model` is not a string.
            UnknownModel: No price; carries the three nearest names.
        """
        if not isinstance(model, str):
            raise ArgumentTypeError(f"model: must be a string, not {type(model).__name__}")
        found = self._found.get((model, provider))
        if found is None:
            found = self._look_up(model, provider) or self._nearest(model)
            if len(self._found) >= _CACHED_NAMES:
                self._found.clear()
            self._found[model, provider] = found
        if isinstance(found, tuple):
            raise UnknownModel(model, provider, found)
        return found

    def models(self) -> Iterator[Model]:
        """Iterate the models that can be found, own ones first."""
        return (model for model in self._models if self.find(model.id, model.provider or None) is model)

    def _look_up(self, name: str, provider: str | None) -> Model | None:
        for model in self._names.get(name, ()):
            if _sold_by(model, provider):
                return model
        base, rule = _snapshot_of(name)
        for model in self._names.get(base, ()):
            if rule in model.snapshots and base == model.id and _sold_by(model, provider):
                return model
        return None

    def _nearest(self, name: str) -> tuple[str, ...]:
        from difflib import get_close_matches

        return tuple(get_close_matches(name[:80], self._names, n=3, cutoff=0.0))

    def _own(self, row: dict[str, Any]) -> Model:
        known = self._look_up(row["id"], row.get("provider"))
        facts: dict[str, Any] = {}
        if known is not None:
            facts = {name: getattr(known, name) for name in ("provider", "context", "max_output", "tokenizer")}
            if row["id"] in (known.id, *known.aliases):
                facts |= {"id": known.id, "aliases": known.aliases, "snapshots": known.snapshots}
        raw = {"id": row["id"], **facts, **{name: value for name, value in row.items() if name != "id"}}
        return _model(raw, raw.get("provider", ""))


@cache
def _shipped() -> PriceBook:
    import json
    from importlib.resources import files

    return PriceBook.from_dict(json.loads(files("budget").joinpath("data/prices.json").read_bytes()))


def _snapshot_of(name: str) -> tuple[str, str]:
    """Split a dated or fine-tuned name into the id it is a snapshot of and the rule; ("", "") if it is neither."""
    if name.startswith("ft:"):
        return ":".join(name.split(":", 2)[:2]), "ft"
    for rule, pattern in _SNAPSHOTS.items():
        if (match := pattern.fullmatch(name)) is not None and _is_date(*map(int, match.groups()[1:])):
            return match[1], rule
    return "", ""


def _sold_by(model: Model, provider: str | None) -> bool:
    return provider is None or model.provider in ("", provider)


def _is_date(year: int, month: int, day: int) -> bool:
    from datetime import date

    try:
        date(year, month, day)
    except ValueError:
        return False
    return True


def _model(raw: Mapping[str, Any], provider: str) -> Model:
    return Model(
        id=raw["id"],
        provider=provider,
        rows=tuple(map(_row, raw["rows"])),
        aliases=tuple(raw.get("aliases", ())),
        snapshots=tuple(raw.get("snapshots", ())),
        context=raw.get("context"),
        max_output=raw.get("max_output"),
        tokenizer=raw.get("tokenizer"),
    )


def _row(raw: Mapping[str, Any]) -> Row:
    rates = Rates(
        cards=_cards(raw),
        modes=tuple((_tuples(mode["when"]), _cards(mode)) for mode in raw.get("modes", ())),
        factors=tuple((_tuples(factor["when"]), factor["ppm"]) for factor in raw.get("factors", ())),
        per_unit=raw.get("per_unit", {}),
    )
    facts = {name: raw[name] for name in ("status", "source", "retrieved", "review_by") if name in raw}
    return Row(from_us=raw["from"], rates=rates, **facts)


def _cards(raw: Mapping[str, Any]) -> tuple[Card, ...]:
    return tuple(Card(**card) for card in raw["cards"])


def _from_us(row: Row) -> int:
    return row.from_us


def _tuples(when: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in when.items()}
