"""Models: the dated rows of prices of one provider's model, made from the compiled form of the book."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from budget.prices.rates import Card, Mode, Rates

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Model", "Row", "read_model"]

_DAY_US = 86_400_000_000
_MINUTE_US = 60_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A dated row: these rates from `from_us` (microseconds since the Unix epoch, UTC) until the next row.

    Attributes:
        rates: At any time of day that `hours` does not name.
        hours: (from, until, rates): between these minutes of the day, UTC, the latter not included; `until` may be on
            the next day.
        origin: "" for a shipped row, else where the user's own row is from.
        status: confirmed, announced, promotional, retired; "own" for the user's own prices.
        source: Where the price was read, and `retrieved` when (ISO date); `review_by` when to look again.
    """

    from_us: int
    rates: Rates
    status: str = "own"
    source: str | None = None
    retrieved: str | None = None
    review_by: str | None = None
    hours: tuple[tuple[int, int, Rates], ...] = ()
    origin: str = ""

    def rates_at(self, at_us: int) -> Rates:
        """Return the rates at a time of day."""
        minute = at_us % _DAY_US // _MINUTE_US
        for start, end, rates in self.hours:
            if start <= minute < end or (end < start and (minute >= start or minute < end)):
                return rates
        return self.rates


@dataclass(frozen=True, slots=True)
class Model:
    """A model of one provider, under all its names.

    Attributes:
        provider: "anthropic", "openai" ...; "" for a model of the user's own that names no provider: it is found
            whichever provider is asked for.
        aliases: Further exact names.
        snapshots: Rules for names of snapshots, of `budget.prices.overlay.SNAPSHOTS`: date8 (id-YYYYMMDD), date10
            (id-YYYY-MM-DD), at8 (id@YYYYMMDD), version (id-v1:0), region (us.id), ft (id:anything, fine-tuned).
        context: Tokens of the context window, None if not known.
        max_output: Most output tokens of one request, None if not known.
        tokenizer: One of `budget.prices.overlay.TOKENIZERS`, None if not known.
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
        return self.row(at_us).rates_at(at_us)

    def bound_rates(self, at_us: int) -> tuple[Rates, ...]:
        """Return all rates that a request sent now may be billed at: those of every hour of the row."""
        row = self.row(at_us)
        return (row.rates, *(rates for _, _, rates in row.hours))

    def row(self, at_us: int) -> Row:
        """Return the row that holds at an instant."""
        for row in reversed(self.rows):  # there are few, and the last one holds most often
            if row.from_us <= at_us:
                return row
        return self.rows[0]


def read_model(raw: Mapping[str, Any], provider: str, usual: Mapping[str, Any], origin: str = "") -> Model:
    """Make a model of the compiled form, which is trusted; `usual` is what its rows do not say."""
    return Model(
        id=raw["id"],
        provider=provider,
        rows=tuple(_row({**usual, **row}, origin) for row in raw["rows"]),
        aliases=tuple(raw.get("aliases", ())),
        snapshots=tuple(raw.get("snapshots", ())),
        context=raw.get("context"),
        max_output=raw.get("max_output"),
        tokenizer=raw.get("tokenizer"),
    )


def _row(raw: Mapping[str, Any], origin: str) -> Row:
    hours = ((span["from"], span["until"], _rates({**raw, "modes": (), **span})) for span in raw.get("hours", ()))
    facts = {name: raw[name] for name in ("status", "source", "retrieved", "review_by") if name in raw}
    return Row(from_us=raw["from"], rates=_rates(raw), hours=tuple(hours), origin=origin, **facts)


def _rates(raw: Mapping[str, Any]) -> Rates:
    units, request = raw.get("per_unit", {}), raw.get("per_request", 0)
    modes = []
    for mode in raw.get("modes", ()):
        own_units = {**units, **mode.get("per_unit", {})}
        modes.append(Mode(_tuples(mode["when"]), _cards(mode), own_units, mode.get("per_request", request)))
    factors = ((_tuples(factor["when"]), factor["ppm"]) for factor in raw.get("factors", ()))
    return Rates(_cards(raw), tuple(modes), tuple(factors), units, request)


def _cards(raw: Mapping[str, Any]) -> tuple[Card, ...]:
    return tuple(Card(**card) for card in raw["cards"])


def _tuples(when: Mapping[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(values) for name, values in when.items()}
