"""Price sources: the TOML files of `prices/`, checked and compiled to the JSON that is shipped.

    python -m budget.pricefiles prices/ budget/data/prices.json [--check]

People edit the sources, programs read the compiled book. This module is only for the first: it needs pydantic, the run
time (`budget.prices`) does not. The schema is described in words in `prices/README.md`. All rules are checked here, so
that the run time can trust what it loads; prices become integer pico-dollars per token, days become microseconds since
the epoch, and a mode's `multiply` becomes the rates it means.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from budget.errors import BudgetError, ConfigError
from budget.overlay import TOKENIZERS, overlay_rows, parse_rate, parse_unit_price

__all__ = ["PriceFile", "compile_book", "load_source", "overlay_rows"]

_DAY_US = 86_400_000_000
_PPM = 10**6


def _rate(value: object) -> int:
    try:
        return parse_rate(value, "price")
    except BudgetError as error:  # pydantic lets a TypeError through
        raise ValueError(str(error)) from error


def _unit_price(value: object) -> int:
    try:
        return parse_unit_price(value, "price")
    except BudgetError as error:
        raise ValueError(str(error)) from error


def _values(value: object) -> object:
    return [value] if isinstance(value, str) else value


Rate = Annotated[int, BeforeValidator(_rate)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\s]{1,128}$")]
When = Annotated[
    dict[
        Literal["service_tier", "speed", "inference_geo"],
        Annotated[list[Name], BeforeValidator(_values), Field(min_length=1)],
    ],
    Field(min_length=1),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Strict):
    """Where a price was read, when, and through whom if not at the vendor itself."""

    url: Annotated[str, StringConstraints(pattern=r"^https://\S+$")]
    retrieved: date
    via: str | None = None


class Card(_Strict):
    """One full set of token rates, pico-dollars per token; in the file USD per million tokens as strings."""

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: dict[Name, Rate] = Field(default_factory=dict)
    unusual: bool = False

    @model_validator(mode="after")
    def _order(self) -> Card:
        if self.unusual:
            return self
        if self.cache_read is not None and self.cache_read > self.input:
            raise ValueError("cache_read is above input; if that is so, say unusual = true")
        if any(write < self.input for write in self.cache_write.values()):
            raise ValueError("a cache_write is below input; if that is so, say unusual = true")
        return self

    def compiled(self, over: int = 0) -> dict[str, Any]:
        """Return the card for the book; what is not priced is left out."""
        card = {"over": over, "input": self.input, "output": self.output}
        card |= {} if self.cache_read is None else {"cache_read": self.cache_read}
        return card | ({"cache_write": self.cache_write} if self.cache_write else {})


class Tier(Card):
    """Rates for the whole request once all its input tokens exceed `over_input_tokens`."""

    over_input_tokens: PositiveInt


class TieredCard(Card):
    """A base card and its tiers."""

    tiers: list[Tier] = Field(default_factory=list)

    @model_validator(mode="after")
    def _full(self) -> TieredCard:
        thresholds = [tier.over_input_tokens for tier in self.tiers]
        if thresholds != sorted(set(thresholds)):
            raise ValueError("tiers must stand in ascending order of over_input_tokens")
        for tier in self.tiers:
            if tier.compiled().keys() != self.compiled().keys() or tier.cache_write.keys() != self.cache_write.keys():
                raise ValueError(f"the tier over {tier.over_input_tokens} must repeat the full set of rates")
        return self

    def cards(self) -> list[dict[str, Any]]:
        """Return the base card and the tiers for the book."""
        return [self.compiled(), *(tier.compiled(tier.over_input_tokens) for tier in self.tiers)]


class RatesMode(TieredCard):
    """A mode with rates of its own."""

    when: When

    def compiled_cards(self, _base: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the mode's own cards."""
        return self.cards()


class MultiplyMode(_Strict):
    """A mode that multiplies every token rate of the row, tiers included."""

    when: When
    multiply: Rate  # parts per million: the same 6 decimals as a price

    def compiled_cards(self, base: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the multiplied cards.

        Raises:
            ValueError: A product is not a whole number of pico-dollars.
        """
        return [{key: value if key == "over" else self._times(value) for key, value in card.items()} for card in base]

    def _times(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {ttl: self._times(rate) for ttl, rate in value.items()}
        product, rest = divmod(value * self.multiply, _PPM)
        if rest:
            raise ValueError(f"multiply: {Decimal(value) / _PPM} times it has more than 6 decimals; give the rates")
        return product


class Factor(_Strict):
    """What multiplies every token bucket, on top of tier and mode."""

    when: When
    multiply: Rate


Mode = Annotated[
    Annotated[RatesMode, Tag("rates")] | Annotated[MultiplyMode, Tag("multiply")],
    Discriminator(lambda mode: "multiply" if isinstance(mode, dict) and "multiply" in mode else "rates"),
]


class PriceRow(TieredCard):
    """The prices of a model from one UTC day until another, which is not included."""

    from_: date = Field(alias="from")
    until: date | None = None
    status: Literal["confirmed", "announced", "promotional", "retired"]
    source: Source | None = None
    review_by: date | None = None
    note: str | None = None
    modes: list[Mode] = Field(default_factory=list)
    factors: list[Factor] = Field(default_factory=list)
    per_unit: dict[Name, Annotated[int, BeforeValidator(_unit_price)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _exact_modes(self) -> PriceRow:
        for mode in self.modes:
            mode.compiled_cards(self.cards())
        return self

    def compiled_row(self, source: Source) -> dict[str, Any]:
        """Return the row for the book."""
        modes = [{"when": mode.when, "cards": mode.compiled_cards(self.cards())} for mode in self.modes]
        factors = [{"when": factor.when, "ppm": factor.multiply} for factor in self.factors]
        row = {
            "from": (self.from_ - date(1970, 1, 1)).days * _DAY_US,
            "status": self.status,
            "source": source.url,
            "retrieved": source.retrieved.isoformat(),
            "review_by": self.review_by.isoformat() if self.review_by else None,
            "cards": self.cards(),
            "modes": modes,
            "factors": factors,
            "per_unit": self.per_unit,
        }
        return {key: value for key, value in row.items() if value or key == "from"}


class PriceModel(_Strict):
    """A model under all its names, with its dated rows."""

    id: Name
    aliases: list[Name] = Field(default_factory=list)
    snapshots: list[Literal["date8", "date10", "ft"]] = Field(default_factory=list)
    context: PositiveInt | None = None
    max_output: PositiveInt | None = None
    tokenizer: Literal[*TOKENIZERS]  # type: ignore[valid-type]
    prices: list[PriceRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _no_gap(self) -> PriceModel:
        for row, following in zip(self.prices, self.prices[1:], strict=False):
            if row.until != following.from_ or row.until <= row.from_:
                raise ValueError(
                    f"the row from {row.from_} must end at the next one's from, {following.from_}, and after its own: "
                    "rows neither overlap nor leave a gap"
                )
        if self.prices[-1].until is not None:
            raise ValueError(f"the last row, from {self.prices[-1].from_}, must not have an until")
        return self


class PriceFile(_Strict):
    """One provider's file."""

    schema_: Literal[1] = Field(alias="schema")
    provider: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    source: Source | None = None
    models: list[PriceModel]

    @model_validator(mode="after")
    def _whole(self) -> PriceFile:
        names: set[str] = set()
        for model in self.models:
            for name in (model.id, *model.aliases):
                if name in names:
                    raise ValueError(f"the name {name} stands twice")
                names.add(name)
            for row in model.prices:
                if row.source is None and self.source is None:
                    raise ValueError(f"{model.id}: the row from {row.from_} has no source, and the file has none")
        return self

    def compiled(self) -> list[dict[str, Any]]:
        """Return the provider's models for the book."""
        return [self._compiled(model) for model in self.models]

    def _compiled(self, model: PriceModel) -> dict[str, Any]:
        rows = [row.compiled_row(source) for row in model.prices if (source := row.source or self.source)]
        facts = model.model_dump(exclude={"prices"})
        return {**{name: value for name, value in facts.items() if value}, "rows": rows}


def load_source(path: str | Path) -> PriceFile:
    """Read and check one file of prices.

    Raises:
        ConfigError: Not TOML, or against the schema: names the file, the model or row, and the field.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        return PriceFile.model_validate(content)
    except ValidationError as error:
        faults = [f"{_place(content, fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise ConfigError(f"{path}: {'; '.join(faults)}") from None


def compile_book(paths: Iterable[str | Path]) -> dict[str, Any]:
    """Compile files of prices to the book that `PriceBook.from_dict` takes; the same sources give the same book.

    Raises:
        ConfigError: See `load_source`; or two files have the same provider.
    """
    providers: dict[str, Any] = {}
    for path in sorted(map(Path, paths)):
        source = load_source(path)
        if source.provider in providers:
            raise ConfigError(f"{path}: provider: {source.provider} has a file already")
        providers[source.provider] = source.compiled()
    content = {"schema": 1, "providers": dict(sorted(providers.items()))}
    return {**content, "hash": sha256(_canonical(content)).hexdigest()}


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _place(content: dict[str, Any], loc: tuple[int | str, ...]) -> str:
    """Write pydantic's path with the model's id and the row's day in place of their numbers."""
    words: list[str] = []
    here: Any = content
    for step in loc:
        if (isinstance(here, list) and isinstance(step, int)) or (isinstance(here, dict) and step in here):
            here = here[step]  # type: ignore[index]
        if isinstance(here, dict) and isinstance(step, int):
            words.append(str(here.get("id") or (f"row from {here['from']}" if "from" in here else f"[{step}]")))
        elif step not in ("models", "prices", "rates"):
            words.append(str(step))
    return ".".join(words) or "file"


def main(arguments: list[str]) -> int:
    """Compile `prices/` to the shipped file, or with `--check` say whether that is up to date.

    Returns:
        0, or 1 if the sources are faulty or the file differs under `--check`; 2 for wrong usage.
    """
    check = "--check" in arguments
    places = [Path(argument) for argument in arguments if argument != "--check"]
    if len(places) != 2:
        sys.stderr.write("usage: python -m budget.pricefiles SOURCES BOOK [--check]\n")
        return 2
    sources, book = places
    try:
        compiled = _canonical(compile_book(sources.glob("*.toml"))) + b"\n"
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if not check:
        book.write_bytes(compiled)
    elif not book.is_file() or book.read_bytes() != compiled:
        sys.stderr.write(f"{book} is not what {sources} compiles to; run without --check\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
