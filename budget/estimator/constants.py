"""What tokenizers, prompt frames, tools and media cost, in tokens: dated data, one file per tokenizer family.

`families/<family>.toml` is read when its family is first asked for. It has

* `vocabulary`: whose tokens its rates are for, cl100k or o200k;
* `[sources.<name>]`: where a figure is from: `what` it is, and `as_of` when that was so;
* `[figures]`: for every field of `Rates` a `{bound, expected, source}`. `bound` has room above what was seen,
  `expected` is the middle, hence never above it. `[figures.builtin]` has a client tool of Anthropic's each; what a
  family does not name there costs what it does on claude-2;
* `[[models]]`: what differs for some models of the family: `names` (patterns, "*opus-4-7*") and `[models.figures]`.
  The first entry that fits holds, also for a name of another provider ("us.anthropic.claude-opus-4-7-v1:0");
* `[[media]]`: what an image, a PDF page, a second of sound or film costs: `kind`, `models` (patterns), optionally
  `detail` (which of the API's words), `rule` with its figures (see `media`), `source`. The first that fits holds;
  a kind without one has no upper bound;
* `kinds`: tokens per 100 tokens of the vocabulary, for each kind of `kinds.toml`, instead of the one figure `text`.

A family without a file is an error, never another family's figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from budget.errors import ConfigError

__all__ = ["FAMILIES", "VOCABULARIES", "Family", "Rates", "family", "rates"]

FAMILIES = (
    "claude-1", "claude-2", "cl100k", "o200k", "gemini", "mistral", "llama", "cohere", "nova", "grok", "deepseek",
    "qwen", "other",
)  # fmt: skip


_WITH_TOOLS = "claude-2"


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens per thing found in a request; `text`, `json`, `schema_json` and `kinds` per 100 counted tokens."""

    text: int
    """Texts; and tokens of any kind, where `kinds` is empty or the kind of a token is not known."""
    json: int
    """Tools."""
    schema_json: int
    """An output schema."""
    foreign: int
    """All three, where the tokens are of the other vocabulary; beside `wide`."""
    wide: int
    """Tokens per 100 bytes of characters outside ASCII, where the tokens are of the other vocabulary."""
    sealed: int
    """Tokens per 100 characters of encrypted reasoning."""
    frame: int
    message: int
    part: int
    """A text, search result, document or media block: on texts below 30 tokens the ratio alone can be too low."""
    document: int
    """A search result or document, on top of its part: how it is wrapped and numbered."""
    tool_block: int
    """A call or its result."""
    thinking: int
    task_budget: int
    citations: int
    """Once, if any document or search result has citations on."""
    schema: int
    """An output schema where there are tools."""
    schema_alone: int
    """An output schema where there are none."""
    tool_prompt: int
    """Once, if there are tools: the system prompt that explains their use."""
    tool: int
    builtin: Mapping[str, int]
    """A client tool whose schema is Anthropic's, by `type` without its date."""
    shown_tools: int = 0
    """Tools, per 100 tokens of what `namespace` makes of them, instead of `json`; 0 where they are shown otherwise."""
    kinds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """One file.

    Attributes:
        name, vocabulary: See above.
        bound, expected: The figures of the family, without those of single models.
        models: Patterns, and what differs in bound and expected.
        media: The rules, as `media.tokens` takes them.
    """

    name: str
    vocabulary: str
    bound: Rates
    expected: Rates
    models: tuple[tuple[tuple[str, ...], Mapping[str, Any], Mapping[str, Any]], ...]
    media: tuple[Mapping[str, Any], ...]


class _Vocabularies(Mapping[str, str]):
    """Per tokenizer family, the vocabulary that its figures are for; read when asked for."""

    def __getitem__(self, name: str) -> str:
        return family(name).vocabulary

    def __iter__(self) -> Iterator[str]:
        return iter(FAMILIES)

    def __len__(self) -> int:
        return len(FAMILIES)


VOCABULARIES: Mapping[str, str] = _Vocabularies()


@cache
def family(name: str) -> Family:
    """Return a tokenizer family's figures.

    Raises:
        ConfigError: The family is unknown, or its file is missing or damaged.
    """
    import tomllib

    if name not in FAMILIES:
        raise ConfigError(f"tokenizer: {str(name)[:40]!r} is not one of {', '.join(FAMILIES)}")
    file = f"budget/estimator/families/{name}.toml"
    try:
        raw = tomllib.loads(_text(f"{name}.toml"))
        bound, expected = (_side(raw["figures"], side) for side in ("bound", "expected"))
        if name != _WITH_TOOLS:
            theirs = family(_WITH_TOOLS)
            bound["builtin"] = {**theirs.bound.builtin, **bound.get("builtin", {})}
            expected["builtin"] = {**theirs.expected.builtin, **expected.get("builtin", {})}
        kinds = {side: tuple(raw.get("kinds", {}).get(side, ())) for side in ("bound", "expected")}
        models = tuple(
            (tuple(model["names"]), _side(model["figures"], "bound"), _side(model["figures"], "expected"))
            for model in raw.get("models", ())
        )
        return Family(
            name, raw["vocabulary"], Rates(**bound, kinds=kinds["bound"]), Rates(**expected, kinds=kinds["expected"]),
            models, tuple(raw.get("media", ())),
        )  # fmt: skip
    except FileNotFoundError:
        raise ConfigError(f"tokenizer {name!r} has no figures: {file} is missing; reinstall the package") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{file} is damaged ({type(error).__name__}: {error}); reinstall the package") from error


@cache
def rates(name: str, model: str = "") -> tuple[Rates, Rates]:
    """Return the figures that bound and those that are expected, for a family and, where it differs, a model.

    Args:
        name: The family.
        model: The model's id; "" is a model of the family of which nothing more is known.

    Raises:
        ConfigError: See `family`.
    """
    from dataclasses import replace
    from fnmatch import fnmatchcase

    found = family(name)
    for patterns, bound, expected in found.models if model else ():
        if any(fnmatchcase(model, pattern) for pattern in patterns):
            return replace(found.bound, **bound), replace(found.expected, **expected)
    return found.bound, found.expected


def _side(figures: Mapping[str, Any], side: str) -> dict[str, Any]:
    return {
        name: {inner: each[side] for inner, each in figure.items()} if name == "builtin" else figure[side]
        for name, figure in figures.items()
    }


def _text(file: str) -> str:
    from importlib.resources import files

    return files("budget.estimator").joinpath("families", file).read_text("utf-8")
