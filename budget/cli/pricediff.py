"""Other catalogues of prices, read as they stand on this machine, and where the book differs from them.

Two are known: an installed `genai-prices`, of which only the data that came with it is read, and the JSON file of
LiteLLM (`model_prices_and_context_window.json`). Both become the same thing: rates by provider and name. What is
compared is what would be charged: where a catalogue has a rate that the book has no row for (a tier, a mode, a kind of
token), the book's side is what it charges there instead. Rates that only the book has are not looked at: catalogues
leave many out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from budget.errors import ConfigError, UnknownModel
from budget.prices import Model, PriceBook
from budget.prices.keys import RateKey, charged, named_rates

__all__ = ["Catalogue", "Comparison", "Difference", "compare", "read_genai_prices", "read_litellm"]

Offer = Mapping[RateKey, Decimal]
"""What a catalogue asks for a model: rates in pico-dollars per token."""

_SHORTEST = ("5m", "30m", "default")
_MTOK = 10**6  # USD per million tokens -> pico-dollars per token
_TOKEN = 10**12  # USD per token -> pico-dollars


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A catalogue: whose models it has, by what names, and what it asks for the model that a name means there."""

    name: str
    offers: Mapping[str, Mapping[str, Offer]]
    find: Callable[[str, str], Offer | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One rate that is not the same, in pico-dollars per token; `ours` is None where the book has no price for it."""

    provider: str
    model: str
    rate: RateKey
    ours: int | None
    theirs: Decimal


@dataclass(slots=True)
class Comparison:
    """One provider: how many models are equal, how many differ, and which names stand on one side only."""

    provider: str
    equal: int = 0
    different: int = 0
    only_here: list[str] = field(default_factory=list)
    only_there: list[str] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)


def compare(book: PriceBook, catalogue: Catalogue, at_us: int, provider: str | None = None) -> list[Comparison]:
    """Compare a book with a catalogue at an instant, provider by provider; providers of one side only are left out."""
    here: dict[str, list[Model]] = {}
    for model in book.models():
        here.setdefault(model.provider, []).append(model)
    return [
        _compare(book, catalogue, name, here[name], at_us)
        for name in sorted(here.keys() & catalogue.offers.keys())
        if provider in (None, name)
    ]


def _compare(book: PriceBook, catalogue: Catalogue, provider: str, models: list[Model], at_us: int) -> Comparison:
    found = Comparison(provider)
    asked: dict[str, list[Offer]] = {model.id: [] for model in models}
    for name, offer in catalogue.offers[provider].items():
        try:
            asked.setdefault(book.find(name, provider).id, []).append(offer)
        except UnknownModel:
            found.only_there.append(name)
    for model in models:
        named = (catalogue.find(provider, name) for name in (model.id, *model.aliases))
        offers = [*filter(None, named), *asked[model.id]]
        differences = list(_differences(model, offers, at_us))
        if not offers:
            found.only_here.append(model.id)
        elif differences:
            found.different += 1
        else:
            found.equal += 1
        found.differences += differences
    return found


def _differences(model: Model, offers: list[Offer], at_us: int) -> Iterator[Difference]:
    ours = named_rates(model.row(at_us))
    seen: set[tuple[RateKey, Decimal]] = set()
    for offer in offers:
        for key, theirs in offer.items():
            if (key, theirs) in seen:
                continue
            seen.add((key, theirs))
            if (mine := _charged(ours, key)) != theirs:
                yield Difference(model.provider, model.id, key, mine, theirs)


def _charged(ours: Mapping[RateKey, int], key: RateKey) -> int | None:
    """What the book charges; a catalogue's plain `cache_write` is the shortest that a provider sells."""
    writes = [key._replace(rate=f"cache_write_{ttl}") for ttl in _SHORTEST] if key.rate == "cache_write" else []
    return charged(ours, next((write for write in writes if write in ours), writes[0] if writes else key))


# ---- LiteLLM's JSON

_LITELLM = {
    "openai": "openai", "text-completion-openai": "openai", "anthropic": "anthropic", "gemini": "google",
    "vertex_ai": "google-vertex", "bedrock": "aws-bedrock", "bedrock_converse": "aws-bedrock", "azure": "azure",
    "azure_ai": "azure", "mistral": "mistral", "xai": "xai", "deepseek": "deepseek", "groq": "groq",
    "cohere": "cohere", "cohere_chat": "cohere", "together_ai": "together", "fireworks_ai": "fireworks",
    "perplexity": "perplexity", "openrouter": "openrouter",
}  # fmt: skip
_LITELLM_RATES = {
    "input_cost_per_token": "input", "output_cost_per_token": "output", "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write", "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "cache_creation_input_token_cost_above_12hr": "cache_write_12h", "output_cost_per_reasoning_token": "reasoning",
    "input_cost_per_audio_token": "input_audio", "input_cost_per_image_token": "input_image",
    "input_cost_per_video_token": "input_video", "output_cost_per_audio_token": "output_audio",
    "output_cost_per_image_token": "output_image", "cache_read_input_audio_token_cost": "cache_read_audio",
    "cache_read_input_image_token_cost": "cache_read_image",
}  # fmt: skip
_LITELLM_MODES = {"_batches": "batch", "_flex": "flex", "_priority": "priority"}
_LITELLM_KINDS = {"chat", "completion", "responses", "embedding"}
_ABOVE = re.compile(r"(.+)_above_(\d+)k_tokens", re.ASCII)


def read_litellm(path: Path) -> Catalogue:
    """Read LiteLLM's JSON file.

    Raises:
        ConfigError: It cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_bytes(), parse_float=Decimal)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise ConfigError(f"{path}: is not LiteLLM's JSON of model prices: an object of objects")
    offers: dict[str, dict[str, Offer]] = {}
    for key, entry in content.items():
        prefix, slash, rest = key.partition("/")
        provider = _LITELLM.get(str(entry.get("litellm_provider")).partition("-")[0])
        provider = provider or _LITELLM.get(str(entry.get("litellm_provider")))
        if provider and entry.get("mode") in _LITELLM_KINDS and (offer := dict(_litellm_offer(entry))):
            offers.setdefault(provider, {}).setdefault(rest if slash and prefix in _LITELLM else key, offer)
    if not offers:
        raise ConfigError(f"{path}: has no model with a price of a provider that is known here")
    return Catalogue(path.name, offers, lambda provider, name: offers[provider].get(name))


def _litellm_offer(entry: Mapping[str, Any]) -> Iterator[tuple[RateKey, Decimal]]:
    for name, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            continue
        mode = next((mode for mode in _LITELLM_MODES if name.endswith(mode)), "")
        plain, over = name.removesuffix(mode), 0
        if match := _ABOVE.fullmatch(plain):
            plain, over = match[1], int(match[2]) * 1000
        if (rate := _LITELLM_RATES.get(plain)) is not None:
            yield RateKey(rate, _LITELLM_MODES.get(mode, ""), over), value * Decimal(_TOKEN)


# ---- genai-prices

_GENAI = {
    "openai": "openai", "anthropic": "anthropic", "google": "google", "aws": "aws-bedrock", "azure": "azure",
    "mistral": "mistral", "x-ai": "xai", "deepseek": "deepseek", "groq": "groq", "cohere": "cohere",
    "together": "together", "fireworks": "fireworks", "perplexity": "perplexity", "openrouter": "openrouter",
}  # fmt: skip
_GENAI_RATES = {
    "input_mtok": "input", "output_mtok": "output", "cache_read_mtok": "cache_read", "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h", "output_reasoning_mtok": "reasoning", "input_audio_mtok": "input_audio",
    "input_image_mtok": "input_image", "input_video_mtok": "input_video", "output_audio_mtok": "output_audio",
    "output_image_mtok": "output_image", "cache_audio_read_mtok": "cache_read_audio",
    "cache_image_read_mtok": "cache_read_image",
}  # fmt: skip


def read_genai_prices(at: datetime) -> Catalogue:
    """Read the data of the installed `genai-prices`, as they hold at a moment; its updater is never started.

    Raises:
        ConfigError: It is not installed, or its data have changed their shape.
    """
    try:
        from genai_prices.data import providers
    except ImportError:
        raise ConfigError(
            "genai-prices is not installed here: pip install genai-prices, or give the path of LiteLLM's JSON file"
        ) from None
    try:
        entries = {_GENAI[provider.id]: provider.models for provider in providers if provider.id in _GENAI}
        offers = {
            provider: {entry.id: offer for entry in models if (offer := dict(_genai_offer(entry, at)))}
            for provider, models in entries.items()
        }
    except AttributeError as error:
        raise ConfigError(f"genai-prices: this version keeps its data in another shape ({error})") from None

    def find(provider: str, name: str) -> Offer | None:
        known = offers[provider]
        rules = (entry.id for entry in entries[provider] if entry.is_match(name))
        return known.get(name) or known.get(next(rules, name))

    return Catalogue("genai-prices", offers, find)


def _genai_offer(entry: Any, at: datetime) -> Iterator[tuple[RateKey, Decimal]]:
    yield from _genai_rates(entry.get_prices(at), "")
    for variant in entry.price_variants or ():
        if variant.constraint is None or variant.constraint.active(at):
            yield from _genai_rates(variant.prices, "+".join(variant.when.values()))


def _genai_rates(prices: Any, mode: str) -> Iterator[tuple[RateKey, Decimal]]:
    for name, price in vars(prices).items():
        if price is None or (rate := _GENAI_RATES.get(name)) is None:
            continue
        yield RateKey(rate, mode), Decimal(getattr(price, "base", price)) * _MTOK
        for tier in getattr(price, "tiers", ()):
            yield RateKey(rate, mode, tier.start), tier.price * _MTOK
