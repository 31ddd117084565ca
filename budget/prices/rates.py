"""Rates: what the tokens of one price row cost, and the cost of a usage or the bound of a request that follow.

A row is full sets of token rates (`Card`): a base, dearer ones above a number of input tokens, and the same again for
each mode (batch, fast ...). Everything is an int: pico-dollars per token (10^-12 USD), which is USD per million tokens
times 10^6, or per call and request; factors are in parts per million. `Rates.cost` sums exactly and rounds up to
nano-dollars once. `Rates.bound` is at least the cost of any usage within its arguments. That law is what a reservation
stands on, so every choice in it takes the dearest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from budget.errors import ConfigError, Unbounded
from budget.money import to_decimal
from budget.usage import PARTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from budget.usage import Usage

__all__ = ["Card", "Cost", "Mode", "Rates"]

IMPLICIT_TTL = "default"
"""The cache-write key that a provider charges without being asked (OpenAI from GPT-5.6 on)."""

_UNSAID = "search_context"
"""The trait that a provider may choose itself: a request that does not name it can be billed for any."""


@dataclass(frozen=True, slots=True)
class Card:
    """One full set of token rates, pico-dollars per token, for requests of more than `over` input tokens.

    `parts` are rates of kinds of tokens (`budget.usage.PARTS`); a kind without one costs as its bucket.
    """

    over: int
    input: int
    output: int
    cache_read: int | None = None
    cache_write: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, int] = field(default_factory=dict)

    def read_rate(self) -> int:
        """What a token read from a cache costs: without a price of its own, what plain input costs."""
        return self.input if self.cache_read is None else self.cache_read

    def write_rate(self, ttl: str) -> int:
        """What a token written to a cache costs: for an unpriced TTL the dearest known one, else plain input."""
        rate = self.cache_write.get(ttl)
        return max(self.cache_write.values(), default=self.input) if rate is None else rate

    def part_rate(self, part: str) -> int | None:
        """What a token of a kind costs, or None if as its bucket. Cached media cost as fresh ones if reads are free."""
        rate = self.parts.get(part)
        if rate is None and self.cache_read is None and part.startswith("cache_read_"):
            return self.parts.get(part.replace("cache_read", "input"))
        return rate

    def dearest_input(self, ttls: Iterable[str], kinds: Collection[str] | None = None) -> int:
        """The dearest rate an input token can meet when these cache TTLs are asked for and these kinds are sent."""
        implicit = self.cache_write.get(IMPLICIT_TTL, 0)
        dearer = self._dearer(kinds, False) if self.parts else ()
        return max(self.input, self.read_rate(), implicit, *map(self.write_rate, ttls), *dearer)

    def dearest_output(self, kinds: Collection[str] | None = None) -> int:
        """The dearest rate an output token can meet; any of them may turn out to be reasoning."""
        return max(self.output, *self._dearer(kinds, True)) if self.parts else self.output

    def _dearer(self, kinds: Collection[str] | None, output: bool) -> Iterator[int]:
        yield 0
        for part, rate in self.parts.items():
            touched = kinds is None or part == "reasoning" or part.replace("cache_read", "input") in kinds
            if touched and (PARTS[part] == "output") is output:
                yield rate

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as in the compiled book."""
        rates: dict[str, Any] = {"over": self.over, "input": self.input, "output": self.output}
        if self.cache_read is not None:
            rates["cache_read"] = self.cache_read
        if self.cache_write:
            rates["cache_write"] = dict(self.cache_write)
        if self.parts:
            rates["parts"] = dict(self.parts)
        return rates


@dataclass(frozen=True, slots=True)
class Mode:
    """What replaces the rates of a row where every trait in `when` has one of its values."""

    when: Mapping[str, tuple[str, ...]]
    cards: tuple[Card, ...]
    per_unit: Mapping[str, int] = field(default_factory=dict)
    per_request: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"when": _lists(self.when), **_said(self)}


class Cost(NamedTuple):
    """What a usage cost.

    Attributes:
        nanos: The booked amount, nano-dollars, rounded up once from the exact sum.
        usage: What was priced.
        unpriced: What the usage holds that the row has no price for: server tools ("code_execution"), and traits that
            name no mode of the row ("service_tier=scale"; such tokens are priced as without the trait).
        rates: The integer rates that were applied: a `Card` as a dict, with `factors` (parts per million), `per_unit`
            and `per_request` (pico-dollars) where they took part. With these the ledger can recompute the cost.
        exact: Exact amounts by bucket, in units of 10^-digits USD.
        digits: Of `exact`.
    """

    nanos: int
    usage: Usage
    unpriced: tuple[str, ...] = ()
    rates: Mapping[str, Any] = {}
    exact: Mapping[str, int] = {}
    digits: int = 12

    @property
    def usd(self) -> Decimal:
        """The booked amount in USD."""
        return to_decimal(self.nanos)

    @property
    def by_bucket(self) -> dict[str, Decimal]:
        """Exact USD by bucket; no empty ones.

        The names: input, cache_read, cache_write_<ttl>, output; kinds of tokens that have a rate of their own
        (`reasoning`, `input_audio` ...), which then are not in their bucket's amount; server tools; `request`.
        """
        return {name: _usd(amount, self.digits) for name, amount in self.exact.items() if amount}


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of one row.

    Attributes:
        cards: The base card, then the tiers in ascending order of `over`. A tier holds for the whole request once all
            its input tokens, cached ones too, exceed `over`.
        modes: The first that matches replaces `cards`, `per_unit` and `per_request`.
        factors: (when, parts per million) pairs; all that match multiply every token bucket.
        per_unit: Pico-dollars per call of a server tool.
        per_request: Pico-dollars per request.
        unsaid: The values of `search_context` that change the price; a request that names none may have any.
    """

    cards: tuple[Card, ...]
    modes: tuple[Mode, ...] = ()
    factors: tuple[tuple[Mapping[str, tuple[str, ...]], int], ...] = ()
    per_unit: Mapping[str, int] = field(default_factory=dict)
    per_request: int = 0
    unsaid: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        conditions = (*(mode.when for mode in self.modes), *(when for when, _ in self.factors))
        unsaid = frozenset(value for when in conditions for value in when.get(_UNSAID, ()))
        object.__setattr__(self, "unsaid", unsaid)

    @property
    def input(self) -> int:
        """Pico-dollars per uncached input token, lowest tier, standard mode; the same for the next three."""
        return self.cards[0].input

    @property
    def output(self) -> int:
        """Pico-dollars per output token."""
        return self.cards[0].output

    @property
    def cache_read(self) -> int | None:
        """Pico-dollars per token read from a cache; None: as plain input."""
        return self.cards[0].cache_read

    @property
    def cache_write(self) -> Mapping[str, int]:
        """Pico-dollars per token written to a cache, by TTL."""
        return self.cards[0].cache_write

    @property
    def tiers(self) -> tuple[Card, ...]:
        """The cards above the base, standard mode."""
        return self.cards[1:]

    def cost(self, usage: Usage) -> Cost:
        """Price a usage exactly, in the tier of its input tokens and the mode of its traits; round up once."""
        chosen, factors, unpriced = self._select(usage.traits)
        card = _card(chosen, usage.input_tokens)
        exact = {"input": usage.input * card.input, "output": usage.output * card.output}
        if usage.cache_read:
            exact["cache_read"] = usage.cache_read * card.read_rate()
        for ttl, tokens in usage.cache_write.items():
            exact[f"cache_write_{ttl}"] = tokens * card.write_rate(ttl)
        if card.parts:
            _part(exact, card, usage)
        scale, rates = 1, card.to_dict()
        if factors:
            scale, factor = 10 ** (6 * len(factors)), prod(factors)
            rates["factors"] = factors
            exact = {bucket: amount * factor for bucket, amount in exact.items()}
        if usage.tools or chosen.per_request:
            unpriced = (*unpriced, *_calls(exact, rates, chosen, usage, scale))
        return Cost(-(-sum(exact.values()) // (1000 * scale)), usage, unpriced, rates, exact, 12 + 6 * len(factors))

    def plain_cost(self, input_tokens: int, output_tokens: int, traits: Mapping[str, str]) -> int:
        """Return what uncached text costs, nano-dollars: `cost(...).nanos` of it, in half the time."""
        chosen, factors, _ = self._select(traits)
        card = _card(chosen, input_tokens)
        return _nanos(input_tokens * card.input + output_tokens * card.output, factors, chosen.per_request)

    def input_cost(self, fresh: int, read: int, ttl: str | None, traits: Mapping[str, str]) -> tuple[int, int]:
        """Return what input costs, `cost(...).nanos` of it, and what a million output tokens do beside it, in nanos.

        Args:
            fresh: Tokens that are not read from a cache.
            read: Tokens that are.
            ttl: Which cache the fresh ones are written to, or None.
            traits: As in `Usage.traits`.
        """
        chosen, factors, _ = self._select(traits)
        card = _card(chosen, fresh + read)
        rate = card.input if ttl is None else card.write_rate(ttl)
        picos = fresh * rate + read * card.read_rate()
        return _nanos(picos, factors, chosen.per_request), _nanos(card.output * 1_000_000, factors, 0)

    def bound(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        cache_ttls: Collection[str] = (),
        kinds: Collection[str] | None = None,
        traits: Mapping[str, str] | None = None,
        tool_calls: Mapping[str, int] | None = None,
    ) -> int:
        """Return the most that a request can cost, nano-dollars.

        It is at least `cost(usage).nanos` for every usage with these traits, up to this many input and output tokens
        in all, cache writes only of these TTLs (and of the implicit one, where the row has it), parts only of these
        kinds, and up to these calls. A `search_context` that the traits do not name may be any.

        Args:
            input_tokens: Bound of all input tokens, cached ones too.
            output_tokens: Bound of all output tokens, reasoning too, over all choices.
            cache_ttls: The TTLs of the cache writes that the request asks for ("5m", "1h").
            kinds: The kinds of media that the request sends or asks for: "input_audio", "input_image", "input_video",
                "output_audio", "output_image"; a kind of input covers its cached tokens. None: it may be any.
                Reasoning always is.
            traits: `service_tier`, `speed`, `inference_geo`, `search_context` as in `Usage.traits`.
            tool_calls: How often each server tool may be called.

        Raises:
            ConfigError: A negative count.
            Unbounded: A server tool without a price.
        """
        if min(input_tokens, output_tokens, *(tool_calls or {}).values()) < 0:
            raise ConfigError("bound: token and call counts must not be negative")
        given = input_tokens, output_tokens, cache_ttls, kinds, tool_calls or {}
        return max([self._bound(asked, *given) for asked in self._billed_as(traits or {})])

    def _bound(
        self, traits: Mapping[str, str], input_tokens: int, output_tokens: int, ttls: Collection[str],
        kinds: Collection[str] | None, calls: Mapping[str, int],
    ) -> int:  # fmt: skip
        chosen, factors, _ = self._select(traits)
        picos = 0
        for i, card in enumerate(chosen.cards):
            if i and card.over >= input_tokens:
                break
            most = min(input_tokens, chosen.cards[i + 1].over) if i + 1 < len(chosen.cards) else input_tokens
            picos = max(picos, most * card.dearest_input(ttls, kinds) + output_tokens * card.dearest_output(kinds))
        return _nanos(picos, factors, _tools(chosen, calls) + chosen.per_request)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole row's rates as plain JSON types, as in the compiled book."""
        modes = [mode.to_dict() for mode in self.modes]
        factors = [{"when": _lists(when), "ppm": ppm} for when, ppm in self.factors]
        return _said(self) | ({"modes": modes} if modes else {}) | ({"factors": factors} if factors else {})

    def _select(self, traits: Mapping[str, str]) -> tuple[Rates | Mode, tuple[int, ...], tuple[str, ...]]:
        """Return what has the cards for these traits, the factors, and the traits that no mode or factor knows."""
        if not traits:
            return self, (), ()
        known: set[str] = set()
        chosen: Rates | Mode = self
        for mode in self.modes:
            if _matches(mode.when, traits):
                chosen = mode
                known.update(mode.when)
                break
        factors = []
        for when, ppm in self.factors:
            if _matches(when, traits):
                factors.append(ppm)
                known.update(when)
        return chosen, tuple(factors), tuple(f"{name}={value}" for name, value in traits.items() if name not in known)

    def _billed_as(self, traits: Mapping[str, str]) -> list[Mapping[str, str]]:
        """Return all traits that a request with these may be billed with."""
        if _UNSAID in traits or not self.unsaid:
            return [traits]
        return [traits, *({**traits, _UNSAID: value} for value in self.unsaid)]


def _card(chosen: Rates | Mode, input_tokens: int) -> Card:
    """Return the card of the tier that a request of so many input tokens is in."""
    card = chosen.cards[0]
    for tier in chosen.cards[1:]:
        if input_tokens > tier.over:
            card = tier
    return card


def _nanos(picos: int, factors: Collection[int], flat: int) -> int:
    """Return picos times their factors (parts per million), and what is charged beside them, as nanos rounded up."""
    scale: int = 10 ** (6 * len(factors))
    return -(-(picos * prod(factors) + flat * scale) // (1000 * scale))


def _part(exact: dict[str, int], card: Card, usage: Usage) -> None:
    """Take the kinds of tokens that have a rate of their own out of their buckets' amounts."""
    counts = {**usage.parts, "reasoning": usage.reasoning} if usage.reasoning else usage.parts
    for part, tokens in counts.items():
        if (rate := card.part_rate(part)) is not None:
            bucket = PARTS[part]
            exact[bucket] -= tokens * (card.read_rate() if bucket == "cache_read" else getattr(card, bucket))
            exact[part] = tokens * rate


def _calls(
    exact: dict[str, int], rates: dict[str, Any], chosen: Rates | Mode, usage: Usage, scale: int
) -> Iterator[str]:
    """Add what is priced by call and by request; yield the tools that have no price."""
    if chosen.per_request:
        exact["request"] = chosen.per_request * scale
        rates["per_request"] = chosen.per_request
    for tool, calls in usage.tools.items():
        if (rate := chosen.per_unit.get(tool)) is not None:
            exact[tool] = exact.get(tool, 0) + calls * rate * scale
            rates.setdefault("per_unit", {})[tool] = rate
        elif calls:
            yield tool


def _tools(chosen: Rates | Mode, calls: Mapping[str, int]) -> int:
    if not calls:
        return 0
    unpriced = [tool for tool, count in calls.items() if count and tool not in chosen.per_unit]
    if unpriced:
        raise Unbounded([f"the server tool {tool} has no price per call" for tool in unpriced])
    return sum(count * chosen.per_unit[tool] for tool, count in calls.items() if count)


def _matches(when: Mapping[str, tuple[str, ...]], traits: Mapping[str, str]) -> bool:
    return all(traits.get(name) in values for name, values in when.items())


def _said(rates: Rates | Mode) -> dict[str, Any]:
    """Return cards and prices of calls as plain JSON types, without what is empty."""
    calls = {"per_unit": dict(rates.per_unit), "per_request": rates.per_request}
    said = {name: value for name, value in calls.items() if value}
    return {"cards": [card.to_dict() for card in rates.cards], **said}


def _usd(amount: int, digits: int) -> Decimal:
    """Return amount x 10^-digits exactly, without trailing zeros, whatever the decimal context."""
    text = str(amount).rjust(digits + 1, "0")
    return Decimal(f"{text[:-digits]}.{text[-digits:]}".rstrip("0").rstrip("."))


def _lists(when: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in when.items()}
