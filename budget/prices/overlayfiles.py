"""Prices of the operator's own in files: overlay files and the `[[prices]]` of budget.toml, checked and compiled.

An overlay file has the schema of `prices/*.toml`, with less that must be said: an operator needs no source, a model
that the book below knows keeps its context, tokenizer and the like, and the provider may stand with each model. A table
of `[[prices]]` is one row with its model in it; without a `from` it holds at all times. Needs pydantic, so this module
is imported only where such a file is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from budget.errors import ConfigError
from budget.prices.files import examined, read_toml
from budget.prices.overlay import TOKENIZERS
from budget.prices.rates import IMPLICIT_TTL
from budget.prices.schema import Name, PriceModel, PriceRow, Provider, Rate, Source, Strict

__all__ = ["examine_content", "examine_file", "examine_tables"]

Tokenizer = Literal[*TOKENIZERS]  # type: ignore[valid-type]


class OverlayRow(PriceRow):
    """A row of an operator's own; `lower` says that a price of half or less of what lies below is meant."""

    status: Literal["own", "confirmed", "announced", "promotional", "retired"] = "own"  # type: ignore[assignment]
    lower: bool = False

    def compiled_row(self, source: Source | None) -> dict[str, Any]:
        """Return the row for the book."""
        return super().compiled_row(source) | ({"lower": True} if self.lower else {})


class OverlayModel(PriceModel):
    """A model of an operator's own, or new prices of a known one."""

    provider: Provider | None = None
    tokenizer: Tokenizer | None = None
    prices: list[OverlayRow] = Field(min_length=1)  # type: ignore[assignment]

    def compiled(self, provider: str | None, source: Source | None) -> dict[str, Any]:
        """Return the model for the book."""
        facts = {"provider": provider, **self.model_dump(exclude={"prices"}, exclude_none=True)}
        rows = [row.compiled_row(row.source or source) for row in self.prices]
        return {**{name: value for name, value in facts.items() if value}, "rows": rows}


class OverlayFile(Strict):
    """One overlay file."""

    schema_: Literal[1] = Field(alias="schema")
    provider: Provider | None = None
    source: Source | None = None
    models: list[OverlayModel] = Field(default_factory=list)

    @model_validator(mode="after")
    def _once(self) -> OverlayFile:
        names: set[tuple[str | None, str]] = set()
        for model in self.models:
            for name in (model.id, *model.aliases):
                if (key := (model.provider or self.provider, name)) in names:
                    raise ValueError(f"the name {name} stands twice")
                names.add(key)
        return self

    def compiled(self) -> list[dict[str, Any]]:
        """Return the models for the book."""
        return [model.compiled(self.provider, self.source) for model in self.models]


def _writes(value: object) -> object:
    """A single price holds for every TTL, asked for or not."""
    return {IMPLICIT_TTL: value} if isinstance(value, str) else value


class OwnTable(OverlayRow):
    """A table of `[[prices]]`."""

    from_: date = Field(alias="from", default=date(1970, 1, 1))
    cache_write: Annotated[dict[Name, Rate], BeforeValidator(_writes)] = Field(default_factory=dict)
    model: Name
    provider: Provider | None = None
    context: PositiveInt | None = None
    max_output: PositiveInt | None = None
    tokenizer: Tokenizer | None = None

    @field_validator("until")
    @classmethod
    def _open(cls, value: date | None) -> date | None:
        if value is not None:
            raise ValueError("a table of [[prices]] has no until; write rows with an end into a file of price_files")
        return value

    def as_model(self) -> dict[str, Any]:
        """Return the model for the book."""
        facts = self.model_dump(include={"provider", "context", "max_output", "tokenizer"}, exclude_none=True)
        return {"id": self.model, **facts, "rows": [self.compiled_row(self.source)]}


class OwnTables(Strict):
    """All tables of `[[prices]]`."""

    prices: list[OwnTable]

    @model_validator(mode="after")
    def _once(self) -> OwnTables:
        names = [(table.provider, table.model) for table in self.prices]
        if twice := [model for i, (provider, model) in enumerate(names) if (provider, model) in names[:i]]:
            raise ValueError(f"the model {twice[0]} stands twice")
        return self


Examined = tuple[list[dict[str, Any]], list[str]]
"""Models in the compiled form, and faults; with faults there are no models."""


def examine_content(content: dict[str, Any]) -> Examined:
    """Check the content of an overlay file."""
    found = examined(OverlayFile, content)
    return ([], found) if isinstance(found, list) else (found.compiled(), [])


def examine_file(path: Path) -> Examined:
    """Read and check an overlay file."""
    try:
        return examine_content(read_toml(path))
    except ConfigError as error:
        return [], [str(error).removeprefix(f"{path}: ")]


def examine_tables(tables: Iterable[Mapping[str, Any]]) -> Examined:
    """Check the tables of `[[prices]]`."""
    found = examined(OwnTables, {"prices": list(tables)})
    return ([], found) if isinstance(found, list) else ([table.as_model() for table in found.prices], [])
