"""Estimates: what one request is expected to cost, and the most it can cost, made before it is sent.

    usd_max = input bound x dearest input bucket the request can touch + output bound x output rate

in the tier that the bound reaches. Tokens come from the estimator (or from the caller), prices from the price book; no
text of the request is kept, only counts, so that an estimate can be asked again for another model or output bound.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from budget.errors import ArgumentTypeError, ConfigError, UnknownModel
from budget.limits import check_attributes
from budget.money import MAX, format_usd, parse_usd, to_decimal
from budget.usage import Usage

if TYPE_CHECKING:
    from budget.commands import Amounts
    from budget.estimator import Measure
    from budget.prices import Model, PriceBook

__all__ = ["NO_CEILING", "Estimate", "estimate_body", "estimate_counts", "makes_embeddings", "model_name"]

_TOKENIZER = "other"  # of a model whose row names none: the one that bounds highest
_PROVIDER_OF = {"messages": "anthropic", "generateContent": "google", "converse": "aws-bedrock"}
"""Of a model that is of no provider, by endpoint; else "openai"."""
_MAX_TOKENS = 2**31
_NEVER_DEARER = frozenset(f"service_tier={tier}" for tier in ("batch", "flex", "scale", "reserved"))
"""Traits that need no price for a bound: who asks for them pays at most the standard price, or has paid beforehand."""
NO_CEILING = "no max_tokens, and the model has no known ceiling"
"""Why a request has no bound whose answer alone has none."""
_PRICE_IT = (
    'price it yourself, in [[prices]] or a price file: model = "{}", input = "0", output = "0", '
    'per_unit = {{{} = "0.04"}}, or set money aside for it: with budget.reservation("$1"): ...'
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one request is expected to cost, and the most it can cost.

    Attributes:
        model, provider: As the price book names them.
        input_tokens: Expected input tokens.
        input_tokens_max: The most input tokens it can have.
        output_tokens_max: The most output tokens it can have.
        nanos, nanos_max: Expected and largest cost in nano-dollars.
        closed: False if no upper bound exists; the figures then cover only what is visible.
        reasons: Why there is no bound.
        priced: False if the model has no price and the policy allows that.
        counted_by: Who counted the input: our "tokenizer", or the "provider".
        counted: Input tokens as counted, before what was learned of the model; None where nothing is.
        units: What else is billed, and how much of it there is: ("character", 11).
    """

    model: str
    provider: str
    input_tokens: int
    input_tokens_max: int
    output_tokens_max: int
    nanos: int
    nanos_max: int
    reasons: tuple[str, ...] = ()
    priced: bool = True
    thinking: bool = False
    cache_ttls: frozenset[str] = frozenset()
    traits: tuple[tuple[str, str], ...] = ()
    measure: Measure | None = None
    counted_by: str = "tokenizer"
    counted: int | None = None
    units: tuple[tuple[str, int], ...] = ()

    @property
    def closed(self) -> bool:
        """Whether an upper bound exists."""
        return not self.reasons

    @property
    def usd(self) -> Decimal:
        """The expected cost, learned from calls like it; before there are some, it expects the whole output bound."""
        return to_decimal(self.nanos)

    @property
    def usd_max(self) -> Decimal:
        """The most it can cost."""
        return to_decimal(self.nanos_max)

    def exceeds(self, cap: str | Decimal) -> bool:
        """Whether the most it can cost is above a cap, such as "$0.10", or has no bound at all.

        Raises:
            ArgumentTypeError, ConfigError: It is no amount.
        """
        most = parse_usd(cap, "cap")
        return not self.closed or self.nanos_max > most

    @property
    def amounts(self) -> Amounts:
        """The most that it can take, per unit; what a reservation sets aside unless it is soft.

        Raises:
            ConfigError: It is more than can be set aside.
        """
        tokens = self.input_tokens_max + self.output_tokens_max
        if self.nanos_max > MAX:
            most = f"${format_usd(MAX)}, the largest amount"
            raise ConfigError(f"estimate: the request can cost ${format_usd(self.nanos_max)}, above {most}")
        if tokens > MAX:
            raise ConfigError(f"estimate: the request can have {tokens} tokens, above 2^53 - 1")
        return self.nanos_max, tokens, self.input_tokens_max, self.output_tokens_max, 1

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "model": self.model,
            "provider": self.provider,
            "input_tokens": self.input_tokens,
            "input_tokens_max": self.input_tokens_max,
            "output_tokens_max": self.output_tokens_max,
            "usd": format_usd(self.nanos),
            "usd_max": format_usd(self.nanos_max),
            "closed": self.closed,
            "reasons": list(self.reasons),
            "counted_by": self.counted_by,
        }


def estimate_body(
    book: PriceBook, body: Mapping[str, Any], provider: str | None, endpoint: str, at_us: int, unpriced: bool
) -> Estimate:
    """Estimate a request body.

    Args:
        book: The price book.
        body: The request as it would be sent, as plain or SDK types.
        provider: Whose API it goes to; None looks the model up at every provider.
        endpoint: The API's endpoint, such as "messages".
        at_us: Which day's prices.
        unpriced: Take a model without a price for free (its tokens are counted).

    Raises:
        UnknownModel: The model has no price, and `unpriced` is False.
        ConfigError, ArgumentTypeError: The body has no model, or is not of the endpoint's shape.
    """
    from budget.estimator import PROVIDERS, measure

    name = model_name(body)
    model = _find(book, name, provider, unpriced)
    whose = provider or (model.provider if model else None)
    if whose not in PROVIDERS:
        whose = _PROVIDER_OF.get(endpoint, "openai")
    tokenizer = _tokenizer(model)
    found = measure(body, provider=whose, endpoint=endpoint, vocabulary=_vocabulary(tokenizer))
    name = model.id if model else name
    units, unsold = _units(found, model, name, at_us)
    output, why = _output(found, model, units)
    counts = found.expected(tokenizer, name), found.bound(tokenizer, name), output
    traits = tuple(sorted(found.traits.items()))
    reasons = (*found.open(tokenizer, name), *why, *unsold, *_unpriced(found, model, at_us))
    nanos = _cost(model, at_us, counts, found.cache_ttls, found.traits, found.parts_named, units)
    return Estimate(
        name, (model.provider if model else provider) or "", *counts, *nanos, reasons, model is not None,
        found.thinking, found.cache_ttls, traits, found, units=tuple(units.items()),
    )  # fmt: skip


def model_name(body: Mapping[str, Any]) -> str:
    """Return the name of the model that a body is for: `model`, or Bedrock's `modelId`.

    Raises:
        ArgumentTypeError: There is none, as in Gemini's bodies, where it stands in the URL; pass it as `model=`.
    """
    name = body.get("model", body.get("modelId"))
    if not isinstance(name, str):
        raise ArgumentTypeError(f"model: {type(name).__name__} is not the name of a model")
    return name


def estimate_counts(
    book: PriceBook, name: str, provider: str | None, input_tokens: int, output_tokens: int, at_us: int, unpriced: bool,
    cache_ttls: Collection[str] = (),
) -> Estimate:  # fmt: skip
    """Estimate a request of which only the counts are known; they are taken for bounds, and for tokens of text.

    Raises:
        UnknownModel: The model has no price, and `unpriced` is False.
        ConfigError, ArgumentTypeError: A count is not an int from 0 to 2^31, the caches are not named in a list, or no
            provider has that name.
    """
    book.check_provider(provider)
    named = isinstance(cache_ttls, Collection) and not isinstance(cache_ttls, str | bytes)
    if not named or not all(isinstance(ttl, str) for ttl in cache_ttls):
        raise ArgumentTypeError("cache_ttls: a list of names is needed, such as ['5m', '1h']")
    for argument, count in (("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        if type(count) is not int:
            raise ArgumentTypeError(f"{argument}: {type(count).__name__} is not an int")
        if not 0 <= count <= _MAX_TOKENS:
            raise ConfigError(f"{argument}: must be from 0 to 2^31")
    model = _find(book, name, provider, unpriced)
    names = (model.id, model.provider) if model else (name, provider or "")
    counted = Estimate(
        *names, input_tokens, input_tokens, output_tokens, 0, 0, priced=model is not None,
        cache_ttls=frozenset(cache_ttls),
    )  # fmt: skip
    return _price(counted, model, at_us)


def again(book: PriceBook, estimate: Estimate, model_name: str, at_us: int) -> Estimate:
    """Estimate the same request on another model, also of another provider.

    Raises:
        UnknownModel: The model has no price.
        ConfigError: One of the two makes embeddings and the other does not.
    """
    model = book.find(model_name)
    measure = estimate.measure
    same = replace(estimate, model=model.id, provider=model.provider, priced=True)
    if measure is None:
        return _price(same, model, at_us)
    if (measure.bare and not measure.units) != makes_embeddings(model):
        kinds = ("an embeddings request", "a model that does not make embeddings")
        request, other = kinds if measure.bare else ("a request for an answer", "a model that makes embeddings")
        raise ConfigError(f"model: {request} cannot go to {model.id}, {other}")
    units, unsold = _units(measure, model, model.id, at_us)
    tokenizer, (output, why) = _tokenizer(model), _output(measure, model, units)
    counted = replace(
        same, input_tokens=measure.expected(tokenizer, model.id), input_tokens_max=measure.bound(tokenizer, model.id),
        output_tokens_max=output, counted_by="tokenizer", units=tuple(units.items()),
        reasons=(*measure.open(tokenizer, model.id), *why, *unsold, *_unpriced(measure, model, at_us)),
    )  # fmt: skip
    return _price(counted, model, at_us)


def with_output(book: PriceBook, estimate: Estimate, output_tokens: int, at_us: int) -> Estimate:
    """Estimate the same request with another output bound, `output_tokens` for each answer that it asks for.

    Images have no such bound: what they cost follows from their size and quality.
    """
    if estimate.measure is not None and estimate.measure.drawing is not None:
        return estimate
    model = book.find(estimate.model, estimate.provider or None) if estimate.priced else None
    if estimate.measure is not None:
        output_tokens = estimate.measure.output(output_tokens, _tokenizer(model))
    return _price(replace(estimate, output_tokens_max=output_tokens), model, at_us)


def with_input(book: PriceBook, estimate: Estimate, tokens: int, most: int, at_us: int) -> Estimate:
    """Estimate the same request, whose input the provider has counted: so many tokens, and at most so many."""
    model = book.find(estimate.model, estimate.provider or None) if estimate.priced else None
    counted = replace(estimate, input_tokens=tokens, input_tokens_max=most, counted_by="provider")
    return _price(counted, model, at_us)


def with_traits(book: PriceBook, estimate: Estimate, traits: Mapping[str, str], at_us: int) -> Estimate:
    """Estimate the same request where more is known of what decides its price, such as the region that answers it.

    Traits that change nothing, because the prices say nothing of them, are left out.
    """
    model = book.find(estimate.model, estimate.provider or None) if estimate.priced else None
    own = {name: value for name, value in estimate.traits if traits.get(name) != value}
    bare = _price(replace(estimate, traits=tuple(sorted(own.items()))), model, at_us)
    there = _price(replace(estimate, traits=tuple(sorted({**traits, **own}.items()))), model, at_us)
    return bare if there.nanos_max == bare.nanos_max else there


def makes_embeddings(model: Model) -> bool:
    """Whether a model makes embeddings: its input has a price, and its output neither a price nor a ceiling."""
    return model.max_output is None and all(row.rates.input > row.rates.output == 0 for row in model.rows)


def _tokenizer(model: Model | None) -> str:
    return (model.tokenizer if model else None) or _TOKENIZER


def _vocabulary(tokenizer: str) -> str:
    from budget.estimator import VOCABULARIES

    return VOCABULARIES[tokenizer]


def _units(measure: Measure, model: Model | None, name: str, at_us: int) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return what is billed in other units than tokens, and why there is no bound if it has no price.

    Images are billed by tokens where they have no price by the piece.
    """
    if not measure.units or model is None:
        return {}, ()
    priced = model.rates(at_us).per_unit
    units = {unit: count for unit, count in measure.units.items() if unit in priced}
    lacking = [unit for unit in measure.units if unit not in units and measure.drawing is None]
    return units, tuple(f"{name} has no price per {unit}; {_PRICE_IT.format(name, unit)}" for unit in lacking)


def _unpriced(measure: Measure, model: Model | None, at_us: int) -> tuple[str, ...]:
    """Return why there is no bound if a tier, a speed or a region is asked for that has no price and may be dearer.

    The user's own price holds for all that it does not tell apart.
    """
    if model is None or not measure.traits or (row := model.row(at_us)).status == "own":
        return ()
    unpriced = row.rates.cost(Usage(traits=measure.traits)).unpriced
    return tuple(f"{model.id} has no price for {trait}" for trait in unpriced if trait not in _NEVER_DEARER)


def _output(measure: Measure, model: Model | None, units: Collection[str]) -> tuple[int, tuple[str, ...]]:
    """Bound the output by the request's own bound, else by the model's ceiling; without either, say that there is none.

    A model whose ceiling is not known cannot write more than its context window holds. An image has as many tokens as
    its size and quality say, or none that count where it is billed by the piece.

    Returns:
        The bound of all answers, and the reasons why there is none.
    """
    if measure.drawing is not None:
        name = model.id if model else ""
        drawn = measure.drawn(_tokenizer(model), name)
        by_piece = model is not None and "image" in units and not any(row.rates.output for row in model.rows)
        if drawn is None and not by_piece:
            why = f"how many tokens {name or 'the model'} bills for such an image is not known"
            return 0, (f"{why}; {_PRICE_IT.format(name, 'image')}",)
        return drawn or 0, ()
    ceiling = (model.max_output or model.context) if model else None
    most = ceiling if measure.output_max is None else measure.output_max
    if most is None:
        return 0, (NO_CEILING,)
    return measure.output(most, _tokenizer(model)), ()


def _price(estimate: Estimate, model: Model | None, at_us: int) -> Estimate:
    counts = estimate.input_tokens, estimate.input_tokens_max, estimate.output_tokens_max
    kinds = () if estimate.measure is None else estimate.measure.parts_named
    units = dict(estimate.units)
    nanos, most = _cost(model, at_us, counts, estimate.cache_ttls, dict(estimate.traits), kinds, units)
    return replace(estimate, nanos=nanos, nanos_max=most)


def _cost(
    model: Model | None, at_us: int, counts: tuple[int, int, int], ttls: Collection[str], traits: Mapping[str, str],
    kinds: Collection[str] | None, units: Mapping[str, int],
) -> tuple[int, int]:  # fmt: skip
    """Return what input and output of these counts (input expected, input at most, output) cost, and can cost at most.

    A request may be served, and billed, in the standard tier instead of a cheaper one that it asks for.
    """
    if model is None:
        return 0, 0
    tokens, most, output = counts
    asked = [traits]
    if "service_tier" in traits:
        asked.append({name: value for name, value in traits.items() if name != "service_tier"})
    bound = max(
        rates.bound(most, output, cache_ttls=ttls, kinds=kinds, traits=each, tool_calls=units)
        for each in asked
        for rates in model.bound_rates(at_us)
    )
    if units:
        return bound, bound
    return min(model.rates(at_us).plain_cost(tokens, output, traits), bound), bound


def _find(book: PriceBook, name: str, provider: str | None, unpriced: bool) -> Model | None:
    try:
        return book.find(name, provider)
    except UnknownModel:
        if not unpriced:
            raise
        check_attributes({"model": name})
        return None
