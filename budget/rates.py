"""Rates: what the tokens of one price row cost, and the cost of a usage or the bound of a request that follow.

A row is full sets of token rates (`Card`): a base, dearer ones above a number of input tokens, and the same again for
each mode (batch, fast ...). Everything is an int: pico-dollars per token (10^-12 USD), which is USD per million tokens
times 10^6; factors are in parts per million. `Rates.cost` sums exactly and rounds up to nano-dollars once.
`Rates.bound` is at least the cost of any usage within its arguments. That law is what a reservation stands on, so
every choice in it takes the dearest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from math import prod
from typing import TYPE_CHECKING, Any

from budget.errors import ConfigError, Unbounded
from budget.money import to_decimal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from budget.usage import Usage

__all__ = ["Card", "Cost", "Rates"]

IMPLICIT_TTL = "default"
"""The cache-write key that a provider charges without being asked (OpenAI from GPT-5.6 on)."""


@dataclass(frozen=True, slots=True)
class Card:
    """One full set of token rates, pico-dollars per token, for requests of more than `over` input tokens."""

    over: int
    input: int
    output: int
    cache_read: int | None = None
    cache_write: Mapping[str, int] = field(default_factory=dict)

    def read_rate(self) -> int:
        """What a token read from a cache costs: without a price of its own, what plain input costs."""
        return self.input if self.cache_read is None else self.cache_read

    def write_rate(self, ttl: str) -> int:
        """What a token written to a cache costs: for an unpriced TTL the dearest known one, else plain input."""
        rate = self.cache_write.get(ttl)
        return max(self.cache_write.values(), default=self.input) if rate is None else rate

    def dearest_input(self, ttls: Iterable[str]) -> int:
        """The dearest rate an input token can meet when these cache TTLs are asked for."""
        implicit = self.cache_write.get(IMPLICIT_TTL, 0)
        return max(self.input, self.read_rate(), implicit, *map(self.write_rate, ttls))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, as in the compiled book."""
        rates = {"over": self.over, "input": self.input, "output": self.output}
        if self.cache_read is not None:
            rates["cache_read"] = self.cache_read
        return rates | ({"cache_write": dict(self.cache_write)} if self.cache_write else {})


@dataclass(frozen=True, slots=True)
class Cost:
    """What a usage cost.

    Attributes:
        nanos: The booked amount, nano-dollars, rounded up once from the exact sum.
        usage: What was priced.
        unpriced: What the usage holds that the row has no price for: server tools ("code_execution"), and traits that
            name no mode of the row ("service_tier=scale"; such tokens are priced as without the trait).
        rates: The integer rates that were applied: a `Card` as a dict, with `factors` (parts per million) and
            `per_unit` (pico-dollars) where they took part. With these the ledger can recompute the cost.
        exact: Exact amounts by bucket, in units of 10^-digits USD.
        digits: Of `exact`.
    """

    nanos: int
    usage: Usage
    unpriced: tuple[str, ...] = ()
    rates: Mapping[str, Any] = field(default_factory=dict)
    exact: Mapping[str, int] = field(default_factory=dict)
    digits: int = 12

    @property
    def usd(self) -> Decimal:
        """The booked amount in USD."""
        return to_decimal(self.nanos)

    @property
    def by_bucket(self) -> dict[str, Decimal]:
        """Exact USD by bucket: input, cache_read, cache_write_<ttl>, output and server tools by name; no empty ones."""
        return {name: _usd(amount, self.digits) for name, amount in self.exact.items() if amount}


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of one row.

    Attributes:
        cards: The base card, then the tiers in ascending order of `over`. A tier holds for the whole request once all
            its input tokens, cached ones too, exceed `over`.
        modes: (when, cards) pairs; the first whose every trait has one of the given values replaces `cards`.
        factors: (when, parts per million) pairs; all that match multiply every token bucket.
        per_unit: Pico-dollars per call of a server tool.
    """

    cards: tuple[Card, ...]
    modes: tuple[tuple[Mapping[str, tuple[str, ...]], tuple[Card, ...]], ...] = ()
    factors: tuple[tuple[Mapping[str, tuple[str, ...]], int], ...] = ()
    per_unit: Mapping[str, int] = field(default_factory=dict)

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
        cards, factors, unpriced = self._select(usage.traits)
        card = cards[0]
        for tier in cards[1:]:
            if usage.input_tokens > tier.over:
                card = tier
        factor, digits = prod(factors), 12 + 6 * len(factors)
        exact = {"input": usage.input * card.input * factor, "output": usage.output * card.output * factor}
        if usage.cache_read:
            exact["cache_read"] = usage.cache_read * card.read_rate() * factor
        for ttl, tokens in usage.cache_write.items():
            exact[f"cache_write_{ttl}"] = tokens * card.write_rate(ttl) * factor
        rates = card.to_dict() | ({"factors": factors} if factors else {})
        for tool, calls in usage.tools.items():
            if (rate := self.per_unit.get(tool)) is not None:
                exact[tool] = calls * rate * 10 ** (digits - 12)
                rates.setdefault("per_unit", {})[tool] = rate
            elif calls:
                unpriced.append(tool)
        nanos = -(-sum(exact.values()) // 10 ** (digits - 9))
        return Cost(nanos, usage, tuple(unpriced), rates, exact, digits)

    def bound(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        cache_ttls: Collection[str] = (),
        traits: Mapping[str, str] | None = None,
        tool_calls: Mapping[str, int] | None = None,
    ) -> int:
        """Return the most that a request can cost, nano-dollars.

        It is at least `cost(usage).nanos` for every usage with these traits, up to this many input and output tokens
        in all, cache writes only of these TTLs (and of the implicit one, where the row has it) and up to these calls.

        Args:
            input_tokens: Bound of all input tokens, cached ones too.
            output_tokens: Bound of all output tokens, reasoning too, over all choices.
            cache_ttls: The TTLs of the cache writes that the request asks for ("5m", "1h").
            traits: `service_tier`, `speed`, `inference_geo` as in `Usage.traits`.
            tool_calls: How often each server tool may be called.

        Raises:
            ConfigError: A negative count.
            Unbounded: A server tool without a price.
        """
        if min(input_tokens, output_tokens, *(tool_calls or {}).values()) < 0:
            raise ConfigError("bound: token and call counts must not be negative")
        cards, factors, _ = self._select(traits or {})
        picos = 0
        for i, card in enumerate(cards):
            if i and card.over >= input_tokens:
                break
            most = min(input_tokens, cards[i + 1].over) if i + 1 < len(cards) else input_tokens
            picos = max(picos, most * card.dearest_input(cache_ttls) + output_tokens * card.output)
        millionths: int = 10 ** (6 * len(factors))
        return -(-(picos * prod(factors) + self._tools(tool_calls or {}) * millionths) // (1000 * millionths))

    def to_dict(self) -> dict[str, Any]:
        """Return the whole row's rates as plain JSON types, as in the compiled book."""
        whole = {
            "cards": [card.to_dict() for card in self.cards],
            "modes": [{"when": _lists(when), "cards": [card.to_dict() for card in mode]} for when, mode in self.modes],
            "factors": [{"when": _lists(when), "ppm": ppm} for when, ppm in self.factors],
            "per_unit": dict(self.per_unit),
        }
        return {name: value for name, value in whole.items() if value}

    def _select(self, traits: Mapping[str, str]) -> tuple[tuple[Card, ...], list[int], list[str]]:
        """Return the cards and factors of these traits, and the traits that no mode or factor knows."""
        if not traits:
            return self.cards, [], []
        known: set[str] = set()
        cards = self.cards
        for when, mode in self.modes:
            if all(traits.get(name) in values for name, values in when.items()):
                cards = mode
                known.update(when)
                break
        factors = []
        for when, ppm in self.factors:
            if all(traits.get(name) in values for name, values in when.items()):
                factors.append(ppm)
                known.update(when)
        return cards, factors, [f"{name}={value}" for name, value in traits.items() if name not in known]

    def _tools(self, calls: Mapping[str, int]) -> int:
        unpriced = [tool for tool, count in calls.items() if count and tool not in self.per_unit]
        if unpriced:
            raise Unbounded([f"the server tool {tool} has no price per call" for tool in unpriced])
        return sum(count * self.per_unit[tool] for tool, count in calls.items() if count)


def _usd(amount: int, digits: int) -> Decimal:
    """Return amount x 10^-digits exactly, without trailing zeros, whatever the decimal context."""
    text = str(amount).rjust(digits + 1, "0")
    return Decimal(f"{text[:-digits]}.{text[-digits:]}".rstrip("0").rstrip("."))


def _lists(when: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {name: list(values) for name, values in when.items()}
