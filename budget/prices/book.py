"""The book: which model a name means.

A `PriceBook` maps names to `Model`s. A name is found by an exact id, an explicit alias, or a named rule (see `names`);
anything else is `UnknownModel`. Asked without a provider, a name is the user's own row first, then its maker's, then a
host's, if all hosts that sell it agree on the price. The shipped book is compiled from `prices/*.toml` (`files`) and
read from package data once; a `Model` is made when it is first found. The user's own rows lie on top (see `overlay`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from budget.errors import ArgumentTypeError, ConfigError, UnknownModel
from budget.prices.models import Model, read_model
from budget.prices.names import HOSTS, MAKERS, MARKETS, PATHS, likeliest, plain, readings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["PriceBook"]

_CACHED_NAMES = 4096
_NEAREST = 3
_HOST = 2


class _Entry:
    """A model that the book lists, made when it is asked for."""

    __slots__ = ("_made", "own", "provider", "raw", "usual")

    def __init__(
        self,
        provider: str,
        raw: Mapping[str, Any],
        usual: Mapping[str, Any],
        own: bool = False,
        made: Model | None = None,
    ):
        self.provider, self.raw, self.usual, self.own, self._made = provider, raw, usual, own, made

    @property
    def model(self) -> Model:
        if self._made is None:
            self._made = read_model(self.raw, self.provider, self.usual)
        return self._made

    def allows(self, base: str, rules: frozenset[str]) -> bool:
        """Whether these rules lead from a name to this model: dates and versions follow its id, regions any name."""
        return rules.issubset(self.raw.get("snapshots", ())) and (base == self.raw["id"] or rules <= {"region"})


class PriceBook:
    """Models by name. Immutable; `overlay` and `overlay_models` make a new one.

    Attributes:
        hash: SHA-256 of the content, own rows included; it stands in every ledger entry.
        retrieved: The newest day (ISO) on which a price of the shipped book was read; own prices do not change it.
    """

    def __init__(self, models: Iterable[Model], content_hash: str):
        """Args: models: where two share a name, the first is found; content_hash: becomes `hash`."""
        self._open([_Entry(model.provider, _names_of(model), {}, made=model) for model in models], content_hash, None)

    def _open(self, entries: Iterable[_Entry], content_hash: str, retrieved: str | None) -> PriceBook:
        self.hash, self.retrieved = content_hash, retrieved
        self._entries = tuple(entries)
        self._names: dict[str, list[_Entry]] = {}
        self._found: dict[tuple[str, str | None], Model | tuple[str, ...]] = {}
        for entry in self._entries:
            for name in (entry.raw["id"], *entry.raw.get("aliases", ())):
                self._names.setdefault(name, []).append(entry)
        return self

    @classmethod
    def shipped(cls) -> PriceBook:
        """Return the book that comes with the package; read once."""
        return _shipped()

    @classmethod
    def from_dict(cls, book: Mapping[str, Any]) -> PriceBook:
        """Make a book of the compiled form (`budget.prices.files.compile_book`), which is trusted."""
        providers = book["providers"].items()
        usual = book.get("usual", {})
        entries = [_Entry(name, raw, usual.get(name, {})) for name, models in providers for raw in models]
        return cls.__new__(cls)._open(entries, book["hash"], book.get("retrieved"))

    @classmethod
    def from_json(cls, content: bytes) -> PriceBook:
        """Make a book of the compiled form as it stands in its file."""
        import gc
        import json

        collecting = gc.isenabled()
        gc.disable()  # while it is parsed: a collection would walk all of it, find nothing, and double the time
        try:
            return cls.from_dict(json.loads(content))
        finally:
            if collecting:
                gc.enable()

    def overlay(self, prices: object) -> PriceBook:
        """Return a book with the user's own rows on top.

        A row whose name this book knows replaces that model's prices, all of them, under all its names; context,
        tokenizer and the like stay where the row does not say otherwise.

        Args:
            prices: `{"my-model": {"input": "0.10", "output": "0.40"}}` or a list of tables with a `model` key.

        Raises:
            ArgumentTypeError, ConfigError: See `budget.prices.overlay.overlay_rows`.
        """
        from budget.prices.overlay import overlay_rows

        rows = overlay_rows(prices)
        return self.overlay_models(rows, "prices=") if rows else self

    def overlay_models(self, models: list[dict[str, Any]], origin: str) -> PriceBook:
        """Return a book with models of the compiled form on top, as `overlay` does.

        Before the first day of such a model the rows of this book stay; a flat row is of 1970 and leaves none.

        Args:
            models: As `overlay_rows` and `overlayfiles` make them, each with its `provider`, if it names one.
            origin: Where they are from, for `Row.origin`; it does not change the hash.
        """
        from hashlib import sha256
        from json import dumps

        digest = sha256((self.hash + dumps(models, sort_keys=True)).encode()).hexdigest()
        own = [self._own(raw, origin) for raw in models]
        return PriceBook.__new__(PriceBook)._open([*own, *self._entries], digest, self.retrieved)

    def find(self, model: str, provider: str | None = None) -> Model:
        """Return the model that a name means.

        Args:
            model: An exact id or alias, or a name that the model's rules allow.
            provider: Look only there, and at the user's own rows that name no provider. None: the user's own rows
                first, then makers of models, then hosts; never a market, whose prices follow others'.

        Raises:
            ArgumentTypeError: `model` is not a string.
            UnknownModel: No price; carries the three nearest names.
            ConfigError: No provider is given, and the hosts that sell it differ in price.
        """
        if not isinstance(model, str):
            raise ArgumentTypeError(f"model: must be a string, not {type(model).__name__}")
        found = self._found.get((model, provider))
        if found is None:
            found = self._look_up(model, provider) or self._nearest(model, provider)
            if len(self._found) >= _CACHED_NAMES:
                self._found.clear()
            self._found[model, provider] = found
        if isinstance(found, tuple):
            raise UnknownModel(model, provider, found)
        return found

    def models(self) -> Iterator[Model]:
        """Iterate the models that can be found, own ones first."""
        seen: set[tuple[str, str]] = set()
        for entry in self._entries:
            if (key := (entry.provider, entry.raw["id"])) not in seen:
                seen.add(key)
                yield entry.model

    @cached_property
    def providers(self) -> frozenset[str]:
        """The names of all providers: those known here, and those of the user's own rows."""
        return frozenset((*MAKERS, *HOSTS, *MARKETS, *(entry.provider for entry in self._entries if entry.provider)))

    def check_provider(self, provider: object) -> str | None:
        """Return the name of a provider that a user gave, or None.

        Raises:
            ArgumentTypeError: It is not a string.
            ConfigError: No provider has that name.
        """
        if provider is None:
            return None
        if not isinstance(provider, str):
            raise ArgumentTypeError(f"provider: {type(provider).__name__} is not the name of a provider")
        if provider not in self.providers:
            raise ConfigError(f"provider: {provider[:40]!r} is not one of {', '.join(sorted(self.providers))}")
        return provider

    def _look_up(self, name: str, provider: str | None) -> Model | None:
        meant = list(self._meant(name, provider))
        if not meant:
            return None
        first = min(meant, key=_rank)
        if provider is None and _rank(first) == _HOST:
            hosts = {entry.provider: entry.model.rows[-1].rates for entry in reversed(meant)}
            if any(rates != hosts[first.provider] for rates in hosts.values()):
                sellers = ", ".join(sorted(hosts))
                raise ConfigError(f"model: {name[:80]!r} is sold at different prices by {sellers}; pass provider=")
        return first.model

    def _meant(self, name: str, provider: str | None) -> Iterator[_Entry]:
        """Yield what a name can mean: exact names first, then snapshots, by the fewest rules."""
        for whole in dict.fromkeys((name, *(plain(name, each) for each in PATHS))):
            for base, rules in ((whole, frozenset[str]()), *readings(whole)):
                for entry in self._names.get(base, ()):
                    sold = entry.provider not in MARKETS if provider is None else entry.provider in ("", provider)
                    if sold and plain(name, entry.provider) == whole and (not rules or entry.allows(base, rules)):
                        yield entry

    def _nearest(self, name: str, provider: str | None) -> tuple[str, ...]:
        asked = [known for known, sold in self._names.items() if any(e.provider in ("", provider) for e in sold)]
        if provider is None or len(asked) < _NEAREST:
            asked = [known for known, sold in self._names.items() if any(e.provider not in MARKETS for e in sold)]
        return likeliest(name, asked, _NEAREST)

    def _own(self, raw: dict[str, Any], origin: str) -> _Entry:
        """Lay a model over the one that it names: what it does not say is as it was."""
        known = None
        with suppress(ConfigError):  # several hosts sell it: the row then holds for all
            known = self._look_up(raw["id"], raw.get("provider"))
        model = read_model(raw, raw.get("provider", ""), {}, origin)
        if known is not None:
            earlier = tuple(row for row in known.rows if row.from_us < model.rows[0].from_us)
            model = replace(
                model,
                provider=known.provider,
                rows=(*earlier, *model.rows),
                context=model.context or known.context,
                max_output=model.max_output or known.max_output,
                tokenizer=model.tokenizer or known.tokenizer,
            )
            if raw["id"] in (known.id, *known.aliases):
                names = dict.fromkeys((*known.aliases, *model.aliases))
                model = replace(
                    model, id=known.id, aliases=tuple(names),
                    snapshots=tuple(dict.fromkeys((*known.snapshots, *model.snapshots))),
                )  # fmt: skip
        return _Entry(model.provider, _names_of(model), {}, own=True, made=model)


@cache
def _shipped() -> PriceBook:
    from importlib.resources import files

    return PriceBook.from_json(files("budget.prices").joinpath("prices.json").read_bytes())


def _rank(entry: _Entry) -> int:
    """Whose model comes first where no provider is named."""
    if entry.own:
        return 0
    return _HOST if entry.provider in HOSTS else 1


def _names_of(model: Model) -> dict[str, Any]:
    return {"id": model.id, "aliases": model.aliases, "snapshots": model.snapshots}
