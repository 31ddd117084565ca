"""The schema of price sources: what may stand in a file of `prices/` or an overlay file, and what it compiles to.

`prices/README.md` says it in words. All rules are checked here, so that the run time (`budget.prices`) can trust what
it loads. Prices become integer pico-dollars per token, per call or per request; days become microseconds since the
epoch, times of day minutes; a mode's `multiply` becomes the rates it means. Needs pydantic; the run time does not.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
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
    model_validator,
)

from budget.errors import BudgetError
from budget.prices.overlay import SNAPSHOTS, TOKENIZERS, parse_rate, parse_unit_price
from budget.usage import PARTS, TRAITS

__all__ = ["PriceFile", "PriceModel", "PriceRow"]

_DAY_US = 86_400_000_000
_DAY_MINUTES = 24 * 60
_PPM = 10**6


def _rate(value: object) -> int:
    try:
        return parse_rate(value, "a price")
    except BudgetError as error:  # pydantic lets a TypeError through
        raise ValueError(str(error)) from error


def _unit_price(value: object) -> int:
    try:
        return parse_unit_price(value, "a price")
    except BudgetError as error:
        raise ValueError(str(error)) from error


def _values(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _minutes(value: object) -> int:
    hours, colon, minutes = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (colon and len(hours) == len(minutes) == 2 and (hours + minutes).isascii() and (hours + minutes).isdigit()):
        raise ValueError(f'{value!r} is not a time of day, UTC, such as "16:30"')
    if int(hours) > 23 or int(minutes) > 59:
        raise ValueError(f"{value!r} is not between 00:00 and 23:59")
    return int(hours) * 60 + int(minutes)


Rate = Annotated[int, BeforeValidator(_rate)]
UnitPrice = Annotated[int, BeforeValidator(_unit_price)]
Minute = Annotated[int, BeforeValidator(_minutes)]
Name = Annotated[str, StringConstraints(pattern=r"^[^\s]{1,128}$")]
Provider = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
When = Annotated[
    dict[
        Literal[*TRAITS],  # type: ignore[valid-type]
        Annotated[list[Name], BeforeValidator(_values), Field(min_length=1)],
    ],
    Field(min_length=1),
]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(Strict):
    """Where a price was read, when, and through whom if not at the vendor itself."""

    url: Annotated[str, StringConstraints(pattern=r"^https://\S+$")]
    retrieved: date
    via: str | None = None


class Card(Strict):
    """One full set of token rates, pico-dollars per token; in the file USD per million tokens as strings."""

    input: Rate
    output: Rate
    cache_read: Rate | None = None
    cache_write: dict[Name, Rate] = Field(default_factory=dict)
    reasoning: Rate | None = None
    input_audio: Rate | None = None
    input_image: Rate | None = None
    input_video: Rate | None = None
    cache_read_audio: Rate | None = None
    cache_read_image: Rate | None = None
    output_audio: Rate | None = None
    output_image: Rate | None = None
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

    @property
    def parts(self) -> dict[str, int]:
        """The rates of parts of a bucket, by name."""
        return {part: rate for part in PARTS if (rate := getattr(self, part)) is not None}

    def compiled(self, over: int = 0) -> dict[str, Any]:
        """Return the card for the book; what is not priced is left out."""
        rates = {"cache_read": self.cache_read, "cache_write": self.cache_write or None, "parts": self.parts or None}
        known = {name: rate for name, rate in rates.items() if rate is not None}
        return {"over": over, "input": self.input, "output": self.output, **known}

    def priced(self) -> set[str]:
        """Return the names of what has a rate."""
        return {*self.compiled(), *self.cache_write, *self.parts}


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
            if missing := tier.priced() ^ self.priced():
                raise ValueError(
                    f"the tier over {tier.over_input_tokens} must repeat the full set of rates: {', '.join(missing)}"
                )
        return self

    def cards(self) -> list[dict[str, Any]]:
        """Return the base card and the tiers for the book."""
        return [self.compiled(), *(tier.compiled(tier.over_input_tokens) for tier in self.tiers)]


class RatesMode(TieredCard):
    """A mode with rates of its own."""

    when: When
    per_unit: dict[Name, UnitPrice] = Field(default_factory=dict)
    per_request: UnitPrice | None = None

    def compiled_cards(self, _base: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the mode's own cards."""
        return self.cards()


class MultiplyMode(Strict):
    """A mode that multiplies every token rate of the row, tiers included, or leaves them and prices calls otherwise."""

    when: When
    multiply: Rate = _PPM  # parts per million: the same 6 decimals as a price
    per_unit: dict[Name, UnitPrice] = Field(default_factory=dict)
    per_request: UnitPrice | None = None

    def compiled_cards(self, base: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the multiplied cards.

        Raises:
            ValueError: A product is not a whole number of pico-dollars.
        """
        return [{key: value if key == "over" else self._times(value) for key, value in card.items()} for card in base]

    def _times(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._times(rate) for name, rate in value.items()}
        product, rest = divmod(value * self.multiply, _PPM)
        if rest:
            raise ValueError(f"multiply: {Decimal(value) / _PPM} times it has more than 6 decimals; give the rates")
        return product


class Factor(Strict):
    """What multiplies every token bucket, on top of tier and mode."""

    when: When
    multiply: Rate


def _kind_of_mode(mode: object) -> str:
    """A mode without rates of its own multiplies, or names the price of a call or request alone."""
    keys = set(mode) if isinstance(mode, dict) else set()
    only_calls = keys & {"per_unit", "per_request"} and keys.isdisjoint(TieredCard.model_fields)
    return "multiply" if "multiply" in keys or only_calls else "rates"


Mode = Annotated[
    Annotated[RatesMode, Tag("rates")] | Annotated[MultiplyMode, Tag("multiply")], Discriminator(_kind_of_mode)
]


class Hours(TieredCard):
    """Rates from one time of day until another, UTC; `until` may be on the next day."""

    from_: Minute = Field(alias="from")
    until: Minute

    def minutes(self) -> set[int]:
        """Return the minutes of the day that it holds in."""
        length = (self.until - self.from_) % _DAY_MINUTES
        return {(self.from_ + i) % _DAY_MINUTES for i in range(length)}


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
    hours: list[Hours] = Field(default_factory=list)
    per_unit: dict[Name, UnitPrice] = Field(default_factory=dict)
    per_request: UnitPrice = 0

    @model_validator(mode="after")
    def _exact_modes(self) -> PriceRow:
        for base in (self, *self.hours):
            self._modes(base)
        return self

    @model_validator(mode="after")
    def _one_hour_one_price(self) -> PriceRow:
        taken: set[int] = set()
        for span in self.hours:
            minutes = span.minutes()
            if not minutes or taken & minutes:
                raise ValueError("hours: each span has a length, and no two of them overlap")
            taken |= minutes
        return self

    def compiled_row(self, source: Source | None) -> dict[str, Any]:
        """Return the row for the book; an operator's own has no source."""
        hours = [
            {"from": span.from_, "until": span.until, "cards": span.cards(), "modes": self._modes(span)}
            for span in self.hours
        ]
        row = {
            "from": (self.from_ - date(1970, 1, 1)).days * _DAY_US,
            "status": self.status,
            "source": source.url if source else None,
            "retrieved": source.retrieved.isoformat() if source else None,
            "review_by": self.review_by.isoformat() if self.review_by else None,
            "cards": self.cards(),
            "modes": self._modes(self),
            "factors": [{"when": factor.when, "ppm": factor.multiply} for factor in self.factors],
            "hours": [{key: value for key, value in span.items() if value != []} for span in hours],
            "per_unit": self.per_unit,
            "per_request": self.per_request,
        }
        return {key: value for key, value in row.items() if value or key == "from"}

    def _modes(self, base: TieredCard) -> list[dict[str, Any]]:
        modes = []
        for mode in self.modes:
            calls = {"per_unit": mode.per_unit or None, "per_request": mode.per_request}
            said = {name: value for name, value in calls.items() if value is not None}
            modes.append({"when": mode.when, "cards": mode.compiled_cards(base.cards()), **said})
        return modes


class PriceModel(Strict):
    """A model under all its names, with its dated rows."""

    id: Name
    aliases: list[Name] = Field(default_factory=list)
    snapshots: list[Literal[*SNAPSHOTS]] = Field(default_factory=list)  # type: ignore[valid-type]
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


class PriceFile(Strict):
    """One provider's file."""

    schema_: Literal[1] = Field(alias="schema")
    provider: Provider
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

    def usual(self) -> dict[str, str]:
        """Return what a row of the book need not say."""
        origin = {"source": self.source.url, "retrieved": self.source.retrieved.isoformat()} if self.source else {}
        return {"status": "confirmed", **origin}

    def compiled(self) -> list[dict[str, Any]]:
        """Return the provider's models for the book."""
        return [self._compiled(model) for model in self.models]

    def _compiled(self, model: PriceModel) -> dict[str, Any]:
        usual = self.usual()
        whole = (row.compiled_row(row.source or self.source) for row in model.prices)
        rows = [{name: value for name, value in row.items() if value != usual.get(name)} for row in whole]
        facts = model.model_dump(exclude={"prices"})
        return {**{name: value for name, value in facts.items() if value}, "rows": rows}

    def newest(self) -> str:
        """Return the last day (ISO) on which a price in the file was read."""
        sources = [source for model in self.models for row in model.prices if (source := row.source or self.source)]
        return max((source.retrieved.isoformat() for source in sources), default="")
